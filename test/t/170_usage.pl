# The books balance: while batches run, fail, are retried and rolled back and usage is rolled up beside them, and after
# the server was killed in the middle of that.
use Sentinai::Test;

my $t = Sentinai::Test->new(settings => 'sentinai.flush_interval = 50ms');
my $partitions = 3;

$t->sql(<<'SQL');
SET search_path = sentinai, public;
SELECT tenant_add('T' || n) FROM generate_series(1, 5) n;
SELECT event_type_add('MeterOne'), event_type_add('MeterTwo');
CREATE SCHEMA app;
CREATE TABLE app.done (tenant_id text, event_id text, event_type text);
-- One in twenty fails at its first attempt; one in a hundred never gets better.
CREATE FUNCTION app.meter(e sentinai.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF e.payload ->> 'fate' = 'dead' OR (e.payload ->> 'fate' = 'ill' AND random() < 0.5) THEN
		RAISE EXCEPTION 'as the event says';
	END IF;
	INSERT INTO app.done VALUES (e.tenant_id, e.event_id, e.event_type);
	PERFORM sentinai.usage_record(e.tenant_id, 'tool_executions', 'meter');
END
$$;
GRANT USAGE ON SCHEMA app TO sentinai_handler;
GRANT INSERT ON app.done TO sentinai_handler;
SELECT worker_type_add('meter', 'meter');
SELECT handler_add('meter', 'MeterOne', 'app.meter'), handler_add('meter', 'MeterTwo', 'app.meter');
SELECT retry_policy_set(worker_type => 'meter', base_delay => '20 ms', max_retries => 2);
CREATE SEQUENCE app.ids;
CREATE SEQUENCE app.calls;
CREATE TABLE app.stop (yes boolean);
-- Batches of thirty events, one in ten of them rolled back, until told to stop; each also is a call.
CREATE PROCEDURE app.traffic(part integer) LANGUAGE plpgsql AS $$
DECLARE
	at		sentinai.kafka_offset;
	answer	sentinai.consume_result;
BEGIN
	WHILE NOT EXISTS (SELECT FROM app.stop) LOOP
		PERFORM nextval('app.calls'), sentinai.usage_count('T1', 'api_calls', 'traffic');
		SELECT * INTO at FROM sentinai.kafka_offset WHERE group_id = 'meter' AND partition = part;
		SELECT * INTO answer FROM sentinai.consume('meter', 'meter', ARRAY(
			SELECT ROW('meter', part, at.next_offset + n, at.epoch, now(), NULL, NULL,
					   convert_to(format('{"event_id": "e%s", "event_type": "%s", "tenant_id": "T%s", "payload": {"fate": "%s"}}',
										 nextval('app.ids') - (random() < 0.1)::integer, CASE WHEN random() < 0.5 THEN 'MeterOne' ELSE 'MeterTwo' END,
										 n % 5 + 1, CASE WHEN random() < 0.01 THEN 'dead' WHEN random() < 0.05 THEN 'ill' END), 'UTF8'))::sentinai.record
			  FROM generate_series(0, 29) n));
		IF answer.stop IS NOT NULL THEN
			RAISE EXCEPTION 'unexpected answer: %', answer;
		ELSIF random() < 0.1 THEN
			ROLLBACK;
		ELSE
			COMMIT;
		END IF;
	END LOOP;
END
$$;
-- Rolls up as fast as it can, makes hours and days of what has just been rolled up, and truncates.
CREATE PROCEDURE app.roll() LANGUAGE plpgsql AS $$
BEGIN
	WHILE NOT EXISTS (SELECT FROM app.stop) LOOP
		PERFORM sentinai.usage_roll('infinity');
		COMMIT;
		IF random() < 0.3 THEN
			PERFORM sentinai.usage_compact(now() + CASE WHEN random() < 0.5 THEN interval '3 days' ELSE interval '100 days' END);
			COMMIT;
		END IF;
		UPDATE sentinai.usage_delta_state SET rolled_at = '-infinity';
		COMMIT;
	END LOOP;
END
$$;
-- What is wrong in the books of these days, and how much is in them.
CREATE FUNCTION app.books() RETURNS text LANGUAGE sql AS $$
	SELECT format('%s of %s pages balance', count(*) FILTER (WHERE balanced), count(*))
	  FROM sentinai.books_check(NULL, date_trunc('day', now(), 'UTC') - interval '2 days', date_trunc('day', now(), 'UTC') + interval '2 days')
$$;
SQL

sub assign
{
	$t->sql("SELECT count(epoch) FROM generate_series(0, $partitions - 1) n, sentinai.assign('meter', 'meter', 'meter', n)");
	return;
}

sub begin
{
	assign();
	my @sessions = map { $t->session } 0 .. $partitions;

	$sessions[$_]->send($_ < $partitions ? "CALL app.traffic($_)" : 'CALL app.roll()') for 0 .. $partitions;
	return @sessions;
}

sub handled { return $t->sql('SELECT count(*) FROM app.done') }

for my $round (1 .. 3)
{
	my $before = handled();
	my @sessions = begin();

	# Both halves of a step are seen, or none: in a snapshot taken at any moment
	my @answers;
	$t->wait_for("round $round to handle some events", sub {
		push @answers, $t->sql('SELECT app.books()');
		return handled() > $before + 1500 && @answers >= 10;
	});
	is(scalar(grep { !/^(\d+) of \1 pages balance$/ } @answers), 0, "round $round: the books balance at any moment") or diag("@answers");
	$t->cluster('kill');
	$t->cluster('start');
	$_->close for @sessions;
	is($t->sql('SELECT app.books()'), '10 of 10 pages balance', "round $round: the books balance after the crash");
	is($t->sql(q{SELECT sum(quantity) FROM sentinai.usage_entry WHERE metric_type = 'tool_executions'}), handled(),
		"round $round: so does what the handler has counted");
	is($t->sql(q{SELECT coalesce(sum(quantity), 0) <= (SELECT last_value FROM app.calls) FROM sentinai.usage_entry WHERE metric_type = 'api_calls'}), 't',
		"round $round: no call is counted twice");
}

# To the end: what waits for its retry has its time
my @sessions = begin();
$t->wait_for('events to be handled once more', sub { $t->sql('SELECT count(*) > 100 FROM app.done') eq 't' });
$t->sql('INSERT INTO app.stop VALUES (true)');
is($_->answer, '', 'a session ended well') for @sessions;
$_->close for @sessions;
assign();
$t->wait_for('no event waits any more', sub {
	$t->sql(q{
		SELECT sentinai.consume('meter', 'meter', ARRAY[ROW('meter', k.partition, k.next_offset, k.epoch, NULL, NULL, NULL, NULL)::sentinai.record])
		  FROM sentinai.kafka_offset k WHERE k.group_id = 'meter'});
	return $t->sql(q{SELECT count(*) FROM sentinai.event_pending}) eq '0';
});

is($t->sql('SELECT app.books()'), '10 of 10 pages balance', 'the books balance at the end');
is(
	$t->sql(q{SELECT sum(usage) || ' ' || sum(effects) FROM sentinai.books_check(NULL, '2000-01-01', '2100-01-01')}),
	join(' ', (handled()) x 2), 'usage, effects and what the handler has done are the same number');
is($t->sql('SELECT count(*) - count(DISTINCT (tenant_id, event_id)) FROM app.done'), '0', 'each event is done once');
cmp_ok($t->sql('SELECT count(*) FROM sentinai.dead_letter_queue'), '>', 0, 'some have failed for good');
cmp_ok($t->sql(q{SELECT count(*) FROM sentinai.usage_metric WHERE level = 'day'}), '>', 0, 'days were made of hours');
$t->wait_for_sql(q{SELECT sum(quantity) > 100 FROM sentinai.usage_entry WHERE metric_type = 'api_calls'}, 't', name => 'calls are counted');

# A transaction that keeps every deleted row alive doesn't make the tables grow
my $holder = $t->session;
$holder->sql('BEGIN ISOLATION LEVEL REPEATABLE READ');
$holder->sql('SELECT count(*) FROM app.done');
my $bytes = q{SELECT pg_relation_size('sentinai.usage_delta_0') + pg_relation_size('sentinai.usage_delta_1')};
for my $turn (1 .. 3)
{
	$t->sql(q{
		INSERT INTO sentinai.usage_delta_0 SELECT now(), 1, 'T1', 'reports', '' FROM generate_series(1, 20000);
		INSERT INTO sentinai.usage_delta_1 SELECT * FROM sentinai.usage_delta_0});
	cmp_ok($t->sql($bytes), '>', 1_000_000, "turn $turn: the tables are filled");
	$t->sql(q{SELECT sentinai.usage_roll('infinity')});
	$t->wait_for('the tables to be truncated', sub {
		$t->sql(q{UPDATE sentinai.usage_delta_state SET rolled_at = '-infinity'; SELECT sentinai.usage_roll('-infinity')});
		return $t->sql($bytes) eq '0';
	});
	pass("turn $turn: they are empty, whoever holds a snapshot");
}
is($holder->sql('SELECT count(*) FROM sentinai.dead_letter_queue') > 0, 1, 'which is held to the end');
$holder->close;
is($t->sql(q{SELECT sum(quantity) FROM sentinai.usage_entry WHERE metric_type = 'reports'}), 3 * 40000, 'and nothing is lost');

done_testing();
