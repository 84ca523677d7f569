# The runbook's SQL works word for word (blanks at line ends aside): its eleven statements, with search_path = sentinai, public, on a database in
# which events were handled, failed, wait for a retry and are dead letters. The destructive ones come last.
use lib 'test/perl';
use Sentinai::Test;

my $t = Sentinai::Test->new;
my $path = "SET search_path = sentinai, public;\n";

$t->sql(<<'SQL');
SET search_path = sentinai, public;
SELECT tenant_add('TENANT_001'), tenant_add('TENANT_002');
CREATE SCHEMA app;
CREATE FUNCTION app.never(event sentinai.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	RAISE EXCEPTION 'no connection to billing';
END $$;
GRANT USAGE ON SCHEMA app TO sentinai_handler;
SELECT event_type_add('InvoiceFailed');
SELECT worker_type_add('billing', 'invoices'), handler_add('billing', 'InvoiceFailed', 'app.never');
SQL

# A record as a worker would bring it: intake's topic unless the type is another's.
my %next_offset;
sub arrives
{
	my ($tenant, $type, $event, $exception, $payload) = @_;
	my ($worker, $group, $topic) = $type eq 'InvoiceFailed' ? qw(billing billing invoices) : qw(intake intake-workers exceptions);
	my $offset = $next_offset{$topic}++;
	my $value = qq({"event_id": "$event", "event_type": "$type", "tenant_id": "$tenant", "exception_id": "$exception", )
	  . qq("timestamp": "2025-01-15T10:00:00Z", "payload": $payload});

	$t->sql("SELECT sentinai.assign('$worker', '$group', '$topic', 0)") if !$offset;
	return $t->sql(<<SQL);
SELECT handled, failed, dead_lettered, coalesce(stop, 'ok') FROM sentinai.consume('$worker', '$group', (
	SELECT ARRAY[ROW(topic, partition, $offset, epoch, now(), NULL, NULL, convert_to('$value', 'UTF8'))]::sentinai.record[]
	  FROM sentinai.kafka_offset WHERE group_id = '$group' AND topic = '$topic'))
SQL
}

arrives('TENANT_001', 'ExceptionIngested', 'EVT_123', 'EXC_123', '{"severity": "high", "source_system": "erp"}');
arrives('TENANT_001', 'ExceptionIngested', 'EVT_124', 'EXC_124', '{"severity": "urgent"}');
arrives('TENANT_002', 'ExceptionIngested', 'EVT_125', 'EXC_125', '{"amount": "much"}');
arrives('TENANT_001', 'NoSuchThing', 'EVT_126', 'EXC_126', '{}');
arrives('TENANT_001', 'InvoiceFailed', 'EVT_127', 'EXC_127', '{}');

sub runbook
{
	my ($sql) = @_;
	return map { join '|', map { $_ // 'NULL' } @$_ } $t->rows($path . $sql);
}

# With which columns the lists come is part of it: clients read them by name.
sub columns
{
	my ($sql) = @_;
	my ($status, $out) = Sentinai::Test::capture({ input => $path . $sql }, $t->psql_command, '-A');
	return (split /\n/, $out)[0];
}

my $retrying = "SELECT * FROM event_processing_log \nWHERE status = 'retrying' \nORDER BY retry_count DESC;";
is(scalar(runbook($retrying)), 1, 'events in retry state');
like((runbook($retrying))[0], qr/EVT_127/, '... the one that failed');
like(columns($retrying), qr/\b$_\b/, "... with $_")
  for qw(event_id worker_type tenant_id exception_id status processed_at error_message retry_count last_attempt_at);

my $failed = "SELECT * FROM event_processing_log \nWHERE status = 'failed' \nORDER BY last_attempt_at DESC;";
is_deeply([ sort map { /(EVT_\d+)/ } runbook($failed) ], [ 'EVT_124', 'EVT_125' ], 'events that failed');

my $entries = "SELECT * FROM dead_letter_queue \nORDER BY created_at DESC \nLIMIT 100;";
is(scalar(runbook($entries)), 3, 'dead letters');
like(columns($entries), qr/\b$_\b/, "... with $_")
  for qw(id event_id event_type tenant_id exception_id original_topic error_type error_message retry_count worker_type
  payload event_metadata status created_at updated_at retried_at discarded_at discarded_by);

is((runbook('SELECT COUNT(*) FROM dead_letter_queue;'))[0], 3, 'size of the queue');

my @recent = runbook(<<'SQL');
SELECT
  event_id,
  event_type,
  tenant_id,
  exception_id,
  error_message,
  retry_count,
  created_at
FROM dead_letter_queue
ORDER BY created_at DESC
LIMIT 20;
SQL
is(scalar @recent, 3, 'recent failures');
like($recent[2], qr/^EVT_124\|ExceptionIngested\|TENANT_001\|EXC_124\|severity is urgent/, '... the oldest last');

is_deeply([ runbook(<<'SQL') ], [ 'validation_error|2', 'unknown_event_type|1' ], 'failures by error type');
SELECT
  error_type,
  COUNT(*) as count
FROM dead_letter_queue
GROUP BY error_type
ORDER BY count DESC;
SQL

is_deeply([ runbook(<<'SQL') ], [ 'TENANT_001|2', 'TENANT_002|1' ], 'failures by tenant');
SELECT
  tenant_id,
  COUNT(*) as count
FROM dead_letter_queue
GROUP BY tenant_id
ORDER BY count DESC;
SQL

my $event = "SELECT * FROM event_log WHERE event_id = 'EVT_123';";
is(scalar(runbook($event)), 1, 'the event store has the event, once');
like(columns($event), qr/\b$_\b/, "... with $_")
  for qw(event_id event_type tenant_id exception_id timestamp correlation_id payload metadata version created_at);

my $exception = "SELECT * FROM exceptions WHERE exception_id = 'EXC_123';";
is(scalar(runbook($exception)), 1, 'the exception');
like(columns($exception), qr/\b$_\b/, "... with $_")
  for qw(exception_id tenant_id domain type severity status source_system entity amount sla_deadline owner
  current_playbook_id current_step created_at updated_at resolved_at);
is($t->sql($path . q{SELECT status, severity FROM exception WHERE exception_id = 'EXC_123'}), 'open|high', '... by its other name');

# Now the queue is cleared, one entry in the middle of a retry.
$t->sql($path . q{SELECT dlq_retry(id, 'clearing while it is retried') FROM dead_letter_queue WHERE event_id = 'EVT_124'});
runbook(q{DELETE FROM dead_letter_queue WHERE tenant_id = 'TENANT_001';});
is($t->sql('SELECT tenant_id, event_id FROM sentinai.dead_letter_queue'), 'TENANT_002|EVT_125', 'one tenant cleared');
runbook('TRUNCATE TABLE dead_letter_queue;');
is($t->sql('SELECT count(*) FROM sentinai.dead_letter_queue'), '0', 'all cleared');
is($t->sql(q{SELECT count(DISTINCT dlq_id) FROM sentinai.dlq_history}), '3', 'the history is still there');
like(arrives('TENANT_001', 'ExceptionIngested', 'EVT_200', 'EXC_124', '{}'), qr/^1\|0\|0\|ok/, 'and work goes on');

done_testing();
