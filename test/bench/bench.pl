# bench: figures of the whole way, on a cluster and a broker of its own. All of it (PostgreSQL, the broker, the worker)
# runs on this machine and shares its cores, fsync is on. `make bench` calls it; BENCH_EVENTS (100000) says how many.
#
#   punctual    how long after its due time a retry is handled, on an idle system
#   throughput  events a second from Kafka through intake into exceptions, exception_event, event_log and the outbox, and
#               what was emitted on to Kafka again
use Sentinai::Test;
use Time::HiRes qw(time sleep);

my $events = $ENV{BENCH_EVENTS} // 100_000;
my $t = Sentinai::Test->new(kafka => 1);
my $search = 'SET search_path = sentinai, public;';

sub machine
{
	my $cores = () = Sentinai::Test::slurp('/proc/cpuinfo') =~ /^processor/mg;
	my ($model) = Sentinai::Test::slurp('/proc/cpuinfo') =~ /^model name\s*:\s*(.*)$/m;
	printf "machine: %d cores, %s; %s\n", $cores, $model // 'unknown', $t->sql('SELECT version()') =~ s/ on .*//r;
	return;
}

sub figure
{
	my ($name, $format, @values) = @_;
	printf "%-12s $format\n", $name, @values;
	return;
}

# ---------------------------------------------------------------- punctual

sub prepare_punctual
{
	$t->topic(work => 4);
	$t->sql(<<'SQL');
SET search_path = sentinai, public;
SELECT tenant_add('TENANT_001');
CREATE SCHEMA app;
CREATE TABLE app.switch (open boolean);
INSERT INTO app.switch VALUES (false);
CREATE TABLE app.done (event_id text PRIMARY KEY, at timestamptz DEFAULT clock_timestamp());
CREATE TABLE app.due (event_id text PRIMARY KEY, at timestamptz);
CREATE FUNCTION app.work(e sentinai.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF NOT (SELECT open FROM app.switch) THEN
		RAISE EXCEPTION 'closed';
	END IF;
	INSERT INTO app.done (event_id) VALUES (e.event_id);
END $$;
GRANT USAGE ON SCHEMA app TO sentinai_handler;
GRANT SELECT ON app.switch TO sentinai_handler;
GRANT INSERT ON app.done TO sentinai_handler;
SELECT event_type_add('WorkToDo'), worker_type_add('billing', 'work'), handler_add('billing', 'WorkToDo', 'app.work');
SQL
	return;
}

# A few events fail; their due times are noted and the cause is gone before the first is due.
sub punctual_round
{
	my ($round) = @_;
	my $each = 5;

	$t->sql('UPDATE app.switch SET open = false');
	$t->produce(
		work => map {
			{ key => "TENANT_001:X_${round}_$_",
				value => qq({"event_id": "W_${round}_$_", "event_type": "WorkToDo", "tenant_id": "TENANT_001", "exception_id": "X_${round}_$_", "payload": {}}) }
		} 1 .. $each);
	$t->wait_for_sql(q{SELECT count(*) FROM sentinai.event_pending WHERE status = 'retrying' AND worker_type = 'billing'}, $each);
	$t->sql(q{INSERT INTO app.due SELECT event_id, next_attempt_at FROM sentinai.event_pending WHERE worker_type = 'billing'; UPDATE app.switch SET open = true});
	$t->wait_for_sql('SELECT count(*) FROM app.done', $each * $round);
	return;
}

sub punctual
{
	my $worker;

	prepare_punctual();
	$worker = $t->worker(WORKER_TYPE => 'billing');
	punctual_round($_) for 1 .. 20;
	my ($row) = $t->rows(
		q{SELECT count(*), round(extract(epoch FROM percentile_cont(0.5) WITHIN GROUP (ORDER BY done.at - due.at)) * 1000, 1),
			round(extract(epoch FROM percentile_cont(0.95) WITHIN GROUP (ORDER BY done.at - due.at)) * 1000, 1),
			round(extract(epoch FROM max(done.at - due.at)) * 1000, 1), round(extract(epoch FROM min(done.at - due.at)) * 1000, 1)
		  FROM app.done JOIN app.due USING (event_id)});
	figure('punctual', '%d retries handled after their due time: median %s ms, 95%% %s ms, latest %s ms, earliest %s ms', @$row);
	$worker->stop;
	return;
}

# ---------------------------------------------------------------- throughput

sub fill_topic
{
	my $filler = 'x' x 300;
	my ($from, $step) = (1, 20_000);

	$t->topic(exceptions => 6);
	for (; $from <= $events; $from += $step)
	{
		my $to = $from + $step - 1 < $events ? $from + $step - 1 : $events;
		$t->produce(
			exceptions => map {
				{ key => "TENANT_001:EXC_$_",
					value => qq({"event_id": "EVT_$_", "event_type": "ExceptionIngested", "tenant_id": "TENANT_001", "exception_id": "EXC_$_", )
					  . qq("timestamp": "2025-01-15T10:00:00Z", "payload": {"type": "price_mismatch", "severity": "low", "amount": $_, "note": "$filler"}}) }
			} $from .. $to);
	}
	return;
}

sub throughput
{
	my ($wal, $started, $handled, $published, $worker);
	my $count = q{SELECT count(*) FROM sentinai.exceptions};

	fill_topic();
	$t->sql('CHECKPOINT');
	$wal = $t->sql('SELECT pg_current_wal_lsn()');
	$worker = $t->worker(WORKER_TYPE => 'intake', CONCURRENCY => 2, GROUP_ID => 'intake-workers');
	$t->wait_for('the first events', sub { $t->sql($count) > 0 });
	$started = time;
	my $first = $t->sql($count);
	$t->wait_for('all events to be handled', sub { sleep 0.2; $t->sql($count) == $events });
	$handled = time;
	$t->wait_for(
		'all to be published',
		sub {
			my $records = 0;
			$records += (split)[2] for split /\n/, $t->kafka('offsets', 'exceptions');
			return $records >= 2 * $events;
		});
	$published = time;
	my $wal_bytes = $t->sql("SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '$wal')");
	figure('throughput', '%d events: %.0f a second handled, %.0f a second handled and their events published; %.0f bytes of WAL an event',
		$events, ($events - $first) / ($handled - $started), ($events - $first) / ($published - $started), $wal_bytes / $events);
	$worker->stop;
	return;
}

machine();
punctual();
throughput();
pass('bench');
done_testing();
