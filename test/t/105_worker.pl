# The worker's circle and its accidents: every component is killed once while events come in, and each event is handled
# once. What consume() decides is tested in SQL; here it is about the way there and back.

use strict;
use warnings;
use lib 'test/perl';
use Sentinai::Test;
use JSON::PP;

my $t = Sentinai::Test->new(kafka => 1);
my $top = $Sentinai::Test::top;
my $program = "$top/worker/sentinai-worker";
my $sent = 0;

sub event
{
	my (%field) = @_;
	my $number = ++$sent;
	my $event = {
		event_id => "EVT_$number",
		event_type => 'ExceptionIngested',
		tenant_id => 'TENANT_001',
		exception_id => sprintf('EXC_%d', $number % 50),
		timestamp => '2026-01-01T00:00:00Z',
		version => 1,
		payload => { type => 'Mismatch', severity => 'high', number => $number },
		%field
	};
	return {
		key => "$event->{tenant_id}:" . ($event->{exception_id} // ''),
		value => JSON::PP->new->canonical->encode($event)
	};
}

sub send_events
{
	my ($n, %field) = @_;
	$t->produce('exceptions', map { event(%field) } 1 .. $n);
	return;
}

# Each event that was sent to `exceptions` has one successful row, and what it emitted is in the topic.
sub all_handled
{
	my ($what) = @_;
	$t->wait_for_sql(
		"SELECT count(*), count(DISTINCT event_id) FROM sentinai.event_processing_log
		  WHERE worker_type = 'intake' AND status = 'succeeded' AND event_type = 'ExceptionIngested'",
		"$sent|$sent",
		name => "$what: each of $sent events is handled once");
	return;
}

sub refused
{
	my ($expected, $name, %environment) = @_;
	local %ENV = (%ENV, %environment);
	my ($status, $out, $err) = Sentinai::Test::capture({}, $program);
	is($status >> 8, 1, "$name: exit status");
	like($out . $err, $expected, "$name: message");
	return;
}

sub check
{
	my (%environment) = @_;
	local %ENV = (%ENV, DATABASE_URL => $t->{worker_url}, KAFKA_BOOTSTRAP_SERVERS => $t->bootstrap, %environment);
	my ($status, $out) = Sentinai::Test::capture({}, $program, '--check');
	return ($status >> 8, $out);
}

# ---------------------------------------------------------------- settings

is(Sentinai::Test::run($program, '--help-markdown'),
	Sentinai::Test::slurp("$top/docs/worker-settings.md"),
	'docs/worker-settings.md is what --help-markdown prints');
like(Sentinai::Test::run($program, '--version'), qr/^sentinai-worker \d+\.\d+/, '--version');

my %both = (DATABASE_URL => $t->{worker_url}, KAFKA_BOOTSTRAP_SERVERS => $t->bootstrap);
refused(qr/WORKER_TYPE is not set: write WORKER_TYPE=/, 'no worker type', %both);
refused(
	qr/worker type \\"nonsense\\" is not known\. Known are: .*\bintake\b/,
	'unknown worker type', %both, WORKER_TYPE => 'nonsense');
refused(
	qr/SELECT sentinai\.worker_type_group\('intake', 'other'\) changes it/,
	'another group', %both, WORKER_TYPE => 'intake', GROUP_ID => 'other');

my ($status, $out) = check(WORKER_TYPE => 'intake');
is($status, 1, '--check without a topic fails');
like($out, qr/^MISSING topic\s+exceptions: is not there/m, 'and names the topic');
($status, $out) = check(WORKER_TYPE => 'intake', KAFKA_BOOTSTRAP_SERVERS => '127.0.0.1:1');
like($out, qr/^MISSING kafka/m, '--check without a broker');
($status, $out) = check(WORKER_TYPE => 'intake', DATABASE_URL => 'postgresql://u:hush@127.0.0.1:1/x');
like($out, qr/^MISSING database\s+u\@127\.0\.0\.1:1\/x: .*refused/m, '--check without a database');
unlike($out, qr/hush/, 'shows no password');
$t->sql("CREATE ROLE not_ours LOGIN PASSWORD 'x'");
($status, $out) = check(WORKER_TYPE => 'intake', DATABASE_URL => $t->{worker_url} =~ s{//[^@]*@}{//not_ours:x@}r);
like($out, qr/^MISSING database.*\n\s+hint\s+GRANT sentinai_worker TO "not_ours"/m, '--check of a login without the role');

# ---------------------------------------------------------------- both sides are down, then come

$t->sql("SELECT sentinai.tenant_add('TENANT_001')");
$t->cluster('stop');
$t->kafka('stop');
# a member that was killed is missed soon
my %intake = (WORKER_TYPE => 'intake', CONCURRENCY => 2, GROUP_ID => 'intake-workers', KAFKA_CONF_SESSION_TIMEOUT_MS => 3000);
my $w = $t->worker(%intake, DATABASE_URL => $t->{worker_url} =~ s/^postgresql:/postgresql+asyncpg:/r);
$w->wait_log(qr/msg=degraded .*subject=database/);
$t->cluster('start');
$w->wait_log(qr/msg=degraded .*subject=broker/);
$t->kafka('start');
$w->wait_log(qr/msg=degraded .*subject=topic/);
$t->topic(exceptions => 6);
like($w->log, qr/Initialized IntakeWorker worker: topics=\['exceptions'\], group_id=intake-workers, concurrency=2/,
	"the runbook's start line stands in the log");
is(() = $w->log =~ /msg=degraded .*subject=database/g, 1, 'one line for the database going away');

send_events(200);
all_handled('after both sides were down');
$t->wait_for_sql("SELECT count(*) FROM sentinai.exceptions", '50', name => 'the exceptions are there');
ok($w->wait_log(qr/tenant_id=TENANT_001 exception_id=EXC_1 event_id=EVT_1\b/), 'an event is found in the log by its ids');
unlike($w->log, qr/Mismatch|hush/, 'no payload in the log');
$t->wait_for_sql("SELECT status FROM sentinai.worker_instance WHERE worker_type = 'intake'", 'healthy', name => 'heartbeat');

($status, $out) = check(WORKER_TYPE => 'intake');
is($status, 0, '--check finds all');
like($out, qr/^ok\s+topic\s+exceptions: 6 partitions/m, 'and says what');

# ---------------------------------------------------------------- SIGTERM

sub committed
{
	my ($group) = @_;
	my %at = $t->kafka('describe', $group) =~ /^exceptions\s+(\d+)\s+(\d+)/mg;
	return join ',', map { "$_:$at{$_}" } sort keys %at;
}

$t->wait_for_sql(
	"SELECT count(*) FROM sentinai.event_log WHERE event_type = 'ExceptionNormalized'",
	'200', name => 'what intake emitted is logged');
is($w->stop, 0, 'SIGTERM: exit status 0, and so within SHUTDOWN_TIMEOUT');
is(committed('intake-workers'),
	$t->sql("SELECT string_agg(partition || ':' || next_offset, ',' ORDER BY partition)
			   FROM sentinai.kafka_offset WHERE group_id = 'intake-workers'"),
	'the broker has the positions that the database has');
$t->wait_left('intake-workers');

# ---------------------------------------------------------------- SIGKILL in the middle, several times

$w->start;
for my $round (1 .. 5)
{
	send_events(400);
	$t->wait_for_sql(
		"SELECT count(*) > " . ($sent - 400) . " FROM sentinai.event_processing_log WHERE event_type = 'ExceptionIngested'", 't');
	$w->kill;
	$w->start;
}
all_handled('SIGKILL of the worker');

# ---------------------------------------------------------------- the database goes, at once

send_events(400);
$t->cluster('immediate');
send_events(400);
$w->wait_log(qr/msg=degraded [^\n]*subject=database/);
my ($code) = $w->http('/healthz');
is($code, 200, '/healthz is 200 while the database is down: a restart would not help');
($code) = $w->http('/readyz');
is($code, 503, '/readyz is 503');
$t->cluster('start');
all_handled('immediate shutdown of the database');
ok($w->running, 'it is still the same process');

# ---------------------------------------------------------------- the broker goes, at once

send_events(400);
$t->kafka('kill');
$t->kafka('start');
send_events(400);
all_handled('SIGKILL of the broker');
ok($w->running, 'it is still the same process');

# ---------------------------------------------------------------- two workers, and one of them dies

my $second = $t->worker(%intake, name => 'second');
$t->wait_for('both have partitions',
	sub { my $d = $t->kafka('describe', 'intake-workers'); (() = $d =~ /^member \S+ on \S+: exceptions/mg) == 2 });
send_events(400);
all_handled('two workers');
send_events(200);
$second->kill;
send_events(200);
all_handled('one of two is killed');
$second->start;
$t->wait_for('both have partitions again',
	sub { my $d = $t->kafka('describe', 'intake-workers'); (() = $d =~ /^member \S+ on \S+: exceptions/mg) == 2 });
send_events(200);
is($second->stop, 0, 'one of two is stopped');
all_handled('one of two is stopped');

# ---------------------------------------------------------------- what comes out, and who skips what

my %emitted;
$t->wait_for('every event is published',
	sub {
		%emitted = ();
		for my $record (grep { $_->{value} =~ /ExceptionNormalized/ } $t->records('exceptions'))
		{
			my $event = decode_json($record->{value});
			$emitted{ $event->{event_id} }++;
		}
		return keys %emitted == $sent;
	});
is(scalar keys %emitted, $sent, 'as many different ids as events');
is($t->sql('SELECT count(*) FROM sentinai.dead_letter_queue'), '0', 'no dead letter');

my $triage = $t->worker(WORKER_TYPE => 'triage', CONCURRENCY => 4, GROUP_ID => 'triage-workers');
$triage->wait_log(qr/Initialized TriageWorker worker: topics=\['exceptions'\], group_id=triage-workers, concurrency=4/);
$t->wait_for_sql(
	"SELECT a.p = b.p FROM (SELECT sum(next_offset) p FROM sentinai.kafka_offset WHERE group_id = 'intake-workers') a,
							(SELECT sum(next_offset) p FROM sentinai.kafka_offset WHERE group_id = 'triage-workers') b",
	't', name => 'triage, which handles nothing yet, comes to the end all the same');
$triage->stop;

# ---------------------------------------------------------------- a position that the log doesn't have

$t->wait_read('intake-workers', 'exceptions');
is($w->stop, 0, 'intake stops');
send_events(60);
my ($partition, $position) = split /\|/,
  $t->sql("SELECT partition, next_offset FROM sentinai.kafka_offset WHERE group_id = 'intake-workers' ORDER BY 2 DESC LIMIT 1");
my ($end) = $t->kafka('offsets', 'exceptions') =~ /^\s*$partition\s+\d+\s+(\d+)/m;
$t->kafka('delete-records', 'exceptions', $partition, $end);
my $lost = $end - $position;
cmp_ok($lost, '>', 0, "$lost records of partition $partition are deleted before they were read");
$w->start;
$t->wait_for_sql(
	"SELECT partition, reason FROM sentinai.offset_gap WHERE resolved_at IS NULL",
	"$partition|position_too_old", name => 'the gap is a row');
$w->wait_log(qr/to=gapped reason="position_too_old: .*offset_reset/);
my ($gap_code, $gap_body) = $w->http('/health');
like($gap_body, qr/position_too_old/, '/health says so');
$sent -= $lost;
all_handled('the other partitions go on');
$sent += $lost;
$t->sql("SELECT sentinai.offset_reset('intake-workers', 'exceptions', dry_run => false)");
$t->wait_for_sql("SELECT count(*) FROM sentinai.offset_gap WHERE resolved_at IS NULL", '0', name => 'the gap is mended');
$t->produce('exceptions', { %{ event() }, partition => $partition });
$sent -= $lost;
all_handled('after offset_reset()');
$sent += $lost;

# ---------------------------------------------------------------- a worker type of one's own, and a changed list of handlers

$t->sql(<<'END');
CREATE SCHEMA app;
CREATE TABLE app.invoice (event_id text PRIMARY KEY, worker_type text);
CREATE FUNCTION app.on_invoice(sentinai.event) RETURNS void LANGUAGE sql
	AS $$ INSERT INTO app.invoice VALUES ($1.event_id) $$;
CREATE FUNCTION app.audit(sentinai.event) RETURNS void LANGUAGE sql
	AS $$ UPDATE app.invoice SET worker_type = 'audit' WHERE event_id = $1.event_id $$;
GRANT USAGE ON SCHEMA app TO sentinai_handler;
GRANT SELECT, INSERT, UPDATE ON app.invoice TO sentinai_handler;
SELECT sentinai.event_type_add('InvoiceFailed');
SELECT sentinai.worker_type_add('billing', 'invoices');
SELECT sentinai.worker_type_add('audit', 'invoices');
SELECT sentinai.handler_add('billing', 'InvoiceFailed', 'app.on_invoice');
END
$t->topic(invoices => 2);
my $billing = $t->worker(WORKER_TYPE => 'billing', KAFKA_CONF_SESSION_TIMEOUT_MS => 3000);
my $audit = $t->worker(WORKER_TYPE => 'audit');
my $before = $sent;
$t->produce('invoices', map { event(event_type => 'InvoiceFailed', event_id => "INV_$_") } 1 .. 20);
$t->wait_for_sql('SELECT count(*) FROM app.invoice', '20', name => "the user's handler has run");
$t->wait_for_sql("SELECT sum(next_offset) FROM sentinai.kafka_offset WHERE group_id = 'audit'", '20',
	name => 'the second worker type of the topic skips what it has no handler for');
$t->sql("SELECT sentinai.handler_add('audit', 'InvoiceFailed', 'app.audit')");
$t->wait_for_sql("SELECT 1 FROM app.invoice LIMIT 1", '1');
$t->produce('invoices', map { event(event_type => 'InvoiceFailed', event_id => "INV_$_") } 21 .. 40);
$t->wait_for_sql("SELECT count(*) FROM sentinai.event_processing_log WHERE worker_type = 'audit'", '20',
	name => 'a handler that is added counts from then on');
is($audit->stop, 0, 'audit stops');

# ---------------------------------------------------------------- the log loses records that a running worker is about to fetch

my $lock = $t->session;
is($billing->stop, 0, 'billing stops');
$billing->{environment} = { %{ $billing->{environment} }, BATCH => 1, KAFKA_CONF_QUEUED_MAX_MESSAGES_KBYTES => 1,
	KAFKA_CONF_FETCH_MESSAGE_MAX_BYTES => 1000 };
$lock->sql('BEGIN; LOCK TABLE app.invoice');
$billing->start;
# one batch of the producer's each: what is fetched at once is at least one of them
for (1 .. 10)
{
	$t->produce('invoices',
		{ %{ event(event_type => 'InvoiceFailed', event_id => "LOST_$_", payload => { filler => 'x' x 2000 }) }, partition => 0 });
}
$t->wait_for_sql("SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'sentinai-worker billing consume%' AND wait_event_type = 'Lock'",
	'1', name => 'a handler hangs on a lock, and with it the reading');
($end) = $t->kafka('offsets', 'invoices') =~ /^\s*0\s+\d+\s+(\d+)/m;
$t->kafka('delete-records', 'invoices', 0, $end);
$lock->sql('COMMIT');
$billing->wait_log(qr/the broker doesn't have the position/);
$billing->wait_log(qr/partition=0 .*to=gapped reason="position_too_old/);
is($t->sql("SELECT count(*) FROM sentinai.offset_gap WHERE group_id = 'billing' AND reason = 'position_too_old' AND resolved_at IS NULL"),
	'1', 'a position that is lost while it is read is a row, too');
$t->sql("SELECT sentinai.offset_reset('billing', 'invoices', dry_run => false)");
$billing->wait_log(qr/partition=0 .*to=gapped.*partition=0 [^\n]*to=active/s);
is($billing->stop, 0, 'billing stops');
delete $billing->{environment}{$_} for qw(BATCH KAFKA_CONF_QUEUED_MAX_MESSAGES_KBYTES KAFKA_CONF_FETCH_MESSAGE_MAX_BYTES);
$billing->start;
$billing->wait_log(qr/to=active/);

# ---------------------------------------------------------------- a shutdown that can't wait

$lock->sql('BEGIN');
$lock->sql("LOCK TABLE app.invoice");
$t->produce('invoices', event(event_type => 'InvoiceFailed', event_id => 'INV_41'));
$t->wait_for_sql("SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'sentinai-worker billing consume%' AND wait_event_type = 'Lock'",
	'1', name => 'a handler hangs on a lock');
$billing->signal('TERM');
$billing->wait_log(qr/phase=stopping/);
$billing->signal('TERM');
is($billing->wait >> 8, 1, 'a second SIGTERM ends it at once, with 1');
like($billing->log, qr/level=error msg="ended before everything was finished/, 'and a line');

my $hanging = $t->sql("SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'sentinai-worker billing consume%'");
my $hasty = $t->worker(WORKER_TYPE => 'billing', SHUTDOWN_TIMEOUT => 10, name => 'hasty');
$t->wait_for_sql("SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'sentinai-worker billing consume%' AND wait_event_type = 'Lock' AND pid <> $hanging",
	'1', name => 'the next one hangs as well');
$t->wait_for_sql("SELECT count(*) FROM pg_stat_activity WHERE pid = $hanging", '0', name => 'and the session of the first is ended');
is($hasty->stop, 0, 'when half of SHUTDOWN_TIMEOUT is over the call is cancelled');
$lock->sql('COMMIT');
$lock->close;
is($t->sql("SELECT count(*) FROM app.invoice WHERE event_id = 'INV_41'"), '0', 'nothing of it has happened');
$hasty->start;
$t->wait_for_sql("SELECT count(*) FROM app.invoice WHERE event_id = 'INV_41'", '1', name => 'and it is handled after the next start');
$sent = $before;

is($_->stop, 0, 'the last ones stop') for $w, $hasty;
is($t->sql("SELECT count(*) FROM sentinai.dead_letter_queue"), '0', 'no dead letter in all of this');
done_testing();
