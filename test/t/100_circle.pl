# The circle with a real broker: Kafka -> handled -> Kafka -> a handler that fails -> retried -> dead letter -> dlq_retry
# -> Kafka -> pending again, with one more on its count -> dlq_retry -> succeeded. Bytes, key, headers and partition of
# the record survive all of it.
use Sentinai::Test;

my $t = Sentinai::Test->new(kafka => 1);
my $search = 'SET search_path = sentinai, public;';

sub ask { return $t->sql("$search $_[0]") }
sub wait_sql { return $t->wait_for_sql("$search $_[0]", $_[1], name => $_[2]) }

$t->topic(exceptions => 3);
$t->topic(invoices => 5);
ask(q{SELECT tenant_add('TENANT_001')});
$t->sql(<<'SQL');
SET search_path = sentinai, public;
CREATE SCHEMA app;
CREATE TABLE app.billing (open boolean NOT NULL);
INSERT INTO app.billing VALUES (false);
CREATE TABLE app.invoice (tenant_id text, event_id text, payload jsonb, PRIMARY KEY (tenant_id, event_id));
CREATE FUNCTION app.on_invoice(e sentinai.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO app.invoice VALUES (e.tenant_id, e.event_id, e.payload);
	IF NOT (SELECT open FROM app.billing) THEN
		RAISE EXCEPTION 'billing is closed';
	END IF;
END $$;
GRANT USAGE ON SCHEMA app TO sentinai_handler;
GRANT SELECT ON app.billing TO sentinai_handler;
GRANT INSERT ON app.invoice TO sentinai_handler;
SELECT event_type_add('InvoiceFailed');
SELECT worker_type_add('billing', 'invoices'), handler_add('billing', 'InvoiceFailed', 'app.on_invoice');
-- Retries come when the test says so
SELECT retry_policy_set(worker_type => 'billing', base_delay => '1 hour', max_delay => '1 hour');
SQL

# ---------------------------------------------------------------- in, and out again

my $intake = $t->worker(WORKER_TYPE => 'intake', CONCURRENCY => 2, GROUP_ID => 'intake-workers');
$intake->wait_log(
	qr/\QInitialized IntakeWorker worker: topics=['exceptions'], group_id=intake-workers, concurrency=2\E/);
pass('intake starts with the runbook\'s line');

my $exception = '{"event_id": "EVT_1", "event_type": "ExceptionIngested", "tenant_id": "TENANT_001", '
  . '"exception_id": "EXC_001", "payload": {"severity": "high", "amount": 12.50}}';
$t->produce(exceptions => ({ key => 'TENANT_001:EXC_001', value => $exception }) x 2);
wait_sql(q{SELECT exception_id || ' ' || severity || ' ' || amount FROM exceptions}, 'EXC_001 high 12.50',
	'an event from Kafka is a row');

my ($emitted) = $t->wait_for(
	'ExceptionNormalized on the topic',
	sub {
		my ($r) = grep { ($_->{value} // '') =~ /ExceptionNormalized/ } $t->records('exceptions');
		return $r;
	});
my %header = @{ $emitted->{headers} };
is($emitted->{key}, 'TENANT_001:EXC_001', 'what intake emits is keyed by tenant and exception');
is($header{'sentinai-event-type'}, 'ExceptionNormalized', 'it names its type in a header');
like($header{'sentinai-emitted'} // '', qr/^[0-9a-f]{64}$/, 'and carries the mark of this database');
is(ask(q{SELECT count(*) FROM event_processing_log WHERE worker_type = 'intake'}), '1',
	'what was sent twice was handled once');

# ---------------------------------------------------------------- fails, is retried, is a dead letter

my $billing = $t->worker(WORKER_TYPE => 'billing');
my $value = '{"event_id": "I1", "event_type": "InvoiceFailed", "tenant_id": "TENANT_001", "exception_id": "INV_1",'
  . '   "payload": {"text": "' . "\xc3\xa4" . '", "n": 12345678901234567890}}';
my %record = (
	partition => 4,
	key => "bin\0key",
	value => $value,
	headers => [ trace => "\x00\xff", empty => '', null => undef, trace => 'again' ]);

$t->produce(invoices => \%record);
for my $retry (1 .. 4)
{
	wait_sql(q{SELECT status || ' ' || retry_count FROM event_processing_log WHERE worker_type = 'billing'},
		"retrying $retry", "retry $retry is noted");
	# not waited for: moved
	ask(q{UPDATE event_pending SET next_attempt_at = now() WHERE status = 'retrying'});
}
wait_sql(q{SELECT status || ' ' || retry_count || ' ' || error_type FROM dead_letter_queue},
	'pending 4 raise_exception', 'after four retries it is a dead letter');
is(ask(q{SELECT status FROM event_processing_log WHERE worker_type = 'billing'}), 'failed', 'and the event is failed');
is(ask(q{SELECT count(*) FROM app.invoice}), '0', 'nothing that the failed handler wrote is there');
is(scalar(@{ [ $t->records('invoices') ] }), 1, 'retries went through the database: nothing was sent again');

# ---------------------------------------------------------------- retried, and fails again

my $id = ask('SELECT id FROM dead_letter_queue');

ask("SELECT dlq_retry($id, 'try once more')");
wait_sql("SELECT status || ' ' || retry_count FROM dead_letter_queue WHERE id = $id", 'pending 5',
	'a retry that fails brings it back to pending, with one more on its count');

# ---------------------------------------------------------------- retried, and succeeds

ask('UPDATE app.billing SET open = true');
ask("SELECT dlq_retry($id, 'billing is open again')");
wait_sql("SELECT status FROM dead_letter_queue WHERE id = $id", 'succeeded', 'with its cause mended it succeeds');
is(ask(q{SELECT event_id || ' ' || (payload->>'n') FROM app.invoice}), 'I1 12345678901234567890',
	'the handler did its work, once');
is(ask(q{SELECT status FROM event_processing_log WHERE worker_type = 'billing'}), 'succeeded',
	'the event itself has succeeded');

my @sent = $t->records('invoices');
is(scalar(@sent), 3, 'each retry of the dead letter was one record');
for my $again (@sent[ 1, 2 ])
{
	my @headers = @{ $again->{headers} };
	is($again->{partition}, 4, 'it went to its own partition');
	is($again->{key}, $record{key}, 'with its own key');
	is($again->{value}, $record{value}, 'and its own bytes');
	is_deeply([ @headers[ 0 .. 7 ] ], $record{headers}, 'and its own headers, in order');
	is({ @headers[ 8 .. $#headers ] }->{'sentinai-dlq-id'}, $id, 'plus the id of the dead letter');
}
is_deeply(
	[ map { $_->[0] } $t->rows("$search SELECT reason FROM dlq_history WHERE dlq_id = $id AND action = 'retry' ORDER BY id") ],
	[ 'try once more', 'billing is open again' ],
	'its history knows who retried and why');

# ---------------------------------------------------------------- and in order to the end

is($billing->stop, 0, 'SIGTERM ends billing with status 0');
$t->wait_for_sql('SELECT count(*) FROM sentinai.outbox o LEFT JOIN sentinai.outbox_watermark w USING (topic) WHERE o.id > coalesce(w.id, 0)', '0');
$t->wait_read('intake-workers', 'exceptions');
is($intake->stop, 0, 'SIGTERM ends intake with status 0');
$t->wait_left('intake-workers');
pass('intake has left its group');
unlike($t->kafka('describe', 'intake-workers'), qr/^exceptions\s+\d+\s+\d+\s+\d+\s+[1-9]/m, 'and has committed everything');

done_testing();
