# bench: figures of the whole way, on a cluster and a broker of its own, each beside a limit that was measured in the same
# round. All of it (PostgreSQL, the broker, the worker, the load) shares this machine's cores; fsync and synchronous_commit
# are on. `make bench` calls it. docs/performance.md tells what the figures mean.
#
#   load      (a) events a second from a filled topic to handled, with one and with two processors: log, claim and a handler
#             that does nothing. (d) the same while a snapshot is held open. Beside it: COPY of the same rows into the same
#             tables, by as many backends, as many rows a transaction; and reading the topic without a database
#   intake    (b) events a second through intake: exceptions, exception_event, the follow-on event, and that one back in Kafka
#   latency   from produce to committed effect, at a fixed rate
#   retry     how long after its due time a retry is handled
#   dlq       from dlq_retry() to succeeded
#
# BENCH_PARTS   which of them, by default all
# BENCH_ROUNDS  rounds of load and intake, 3
# BENCH_EVENTS, BENCH_INTAKE_EVENTS  events of a round, 100000 and 40000
# BENCH_BATCH   records of a call, and rows of COPY's transactions; by default the worker's own default
# BENCH_RATE, BENCH_SECONDS  of latency, 1000 events a second for 8 seconds
use Sentinai::Bench;
use Sentinai::Test;
use Digest::MD5 qw(md5_hex);
use POSIX ();
use Time::HiRes qw(time sleep);

my %part = map { $_ => 1 } split ' ', $ENV{BENCH_PARTS} // 'load intake latency retry dlq';
my $rounds = $ENV{BENCH_ROUNDS} // 3;
my $events = $ENV{BENCH_EVENTS} // 100_000;
my $intake_events = $ENV{BENCH_INTAKE_EVENTS} // 40_000;
my $rate = $ENV{BENCH_RATE} // 1000;
my $seconds = $ENV{BENCH_SECONDS} // 8;
my $t = Sentinai::Test->new(kafka => 1, settings => $ENV{BENCH_SETTINGS} // 'max_wal_size = 4GB');
my @batch = defined $ENV{BENCH_BATCH} ? (BATCH => $ENV{BENCH_BATCH}) : ();
my $batch = $ENV{BENCH_BATCH} // default_batch();
my $watch = $t->session;
my $watch_pid = $watch->sql('SELECT pg_backend_pid()');

# ---------------------------------------------------------------- processes

sub default_batch
{
	my ($default) = Sentinai::Test::slurp("$Sentinai::Test::top/worker/config.c") =~ /"BATCH",.*?OPTION_INTEGER, "(\d+)"/;
	return $default;
}

# CPU microseconds that each process has used, by its threads' accounts
sub cpu_of
{
	my (@pids) = @_;
	my %used;

	for my $pid (@pids)
	{
		for my $task (glob "/proc/$pid/task/*/schedstat")
		{
			open my $file, '<', $task or next;
			my ($ns) = split ' ', <$file> // '0';
			$used{$pid} += $ns / 1000;
		}
	}
	return \%used;
}

# CPU microseconds of the server's processes that have ended
sub cpu_of_ended
{
	my ($postmaster) = split /\n/, Sentinai::Test::slurp("$t->{cluster_dir}/data/postmaster.pid");
	my @field = split ' ', Sentinai::Test::slurp("/proc/$postmaster/stat") =~ s/^.*\) //sr;
	return ($field[13] + $field[14]) * 1e6 / POSIX::sysconf(POSIX::_SC_CLK_TCK());
}

# Until they have ended, and their parent has their account
sub wait_for_end_of
{
	my %pid = map { $_ => 1 } @_;
	my $end = time + 10;
	sleep 0.01 while time < $end && grep { $pid{$_} } server_pids();
	return;
}

# The server's processes but the one that watches
sub server_pids
{
	my ($postmaster) = split /\n/, Sentinai::Test::slurp("$t->{cluster_dir}/data/postmaster.pid");
	return grep { $_ != $watch_pid } split ' ', `ps -o pid= --ppid $postmaster`;
}

sub resident_mib
{
	my ($pid) = @_;
	my ($kib) = Sentinai::Test::slurp("/proc/$pid/status") =~ /^VmRSS:\s*(\d+)/m;
	return $kib / 1024;
}

sub account
{
	my ($worker) = @_;
	return {
		server => cpu_of(server_pids()),
		worker => cpu_of($worker->pid),
		memory => resident_mib($worker->pid),
		wal => $watch->sql('SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), \'0/0\')'),
	};
}

sub spent
{
	my ($before, $after, $who) = @_;
	my $sum = 0;

	$sum += $after->{$who}{$_} - ($before->{$who}{$_} // 0) for keys %{ $after->{$who} };
	return $sum;
}

# From the first transaction on until the counter (a query) is at its end. What was before the first is the start's.
sub measure
{
	my ($worker, $counter, $n) = @_;
	my $end = time + $Sentinai::Test::wait_seconds;
	my ($first, $now, $since, $before, $after, $run);

	sleep 0.005 until ($first = $watch->sql($counter)) > 0 || time > $end;
	$since = time;
	$before = account($worker);
	sleep 0.005 until ($now = $watch->sql($counter)) >= $n || time > $end;
	$run = { seconds => time - $since };
	die "only $now of $n were handled in time" if $now < $n;
	$after = account($worker);
	$run->{events} = $n - $first;
	$run->{per_second} = $run->{events} / $run->{seconds};
	$run->{worker_us} = spent($before, $after, 'worker') / $run->{events};
	$run->{server_us} = spent($before, $after, 'server') / $run->{events};
	$run->{wal} = ($after->{wal} - $before->{wal}) / $run->{events};
	$run->{memory} = [ $before->{memory}, $after->{memory} ];
	return $run;
}

# ---------------------------------------------------------------- load

# An id that says nothing of the order, as a producer's uuid
sub id_of { return substr md5_hex(join ':', @_), 0, 24 }

sub fill
{
	my ($topic, $round, $n, $type, $payload) = @_;
	my $file = "$t->{dir}/$topic.records";

	open my $out, '>', $file or die "$file: $!";
	for my $i (1 .. $n)
	{
		my $tenant = sprintf 'TENANT_%03d', 1 + $i % 8;
		my $exception = 'EXC_' . id_of('x', $round, $i);
		my $event = 'EVT_' . id_of('e', $round, $i);

		print {$out} qq($tenant:$exception\t{"event_id": "$event", "event_type": "$type", "tenant_id": "$tenant", )
		  . qq("exception_id": "$exception", "timestamp": "2025-01-15T10:00:00Z", "payload": $payload}\n);
	}
	close $out;
	$t->kcat('', '-P', '-t', $topic, '-K', "\t", '-X', 'topic.partitioner=murmur2_random', '-X', 'linger.ms=20', '-l', $file);
	unlink $file;
	return;
}

sub payload
{
	my $note = 'x' x 250;
	return qq({"type": "price_mismatch", "severity": "low", "amount": 1200.50, "source_system": "trading", "note": "$note"});
}

sub prepare
{
	my $tenants = join ', ', map { sprintf q{tenant_add('TENANT_%03d')}, $_ } 1 .. 8;

	$t->topic(load => 4);
	$t->topic(paced => 4);
	$t->topic(work => 4);
	$t->topic(exceptions => 4);
	$t->sql(<<"SQL");
SET search_path = sentinai, public;
SELECT $tenants;
CREATE SCHEMA app;
GRANT USAGE ON SCHEMA app TO sentinai_handler;
CREATE FUNCTION app.nothing(e sentinai.event[]) RETURNS void LANGUAGE plpgsql AS 'BEGIN END';
CREATE TABLE app.switch (open boolean);
INSERT INTO app.switch VALUES (false);
CREATE TABLE app.done (event_id text PRIMARY KEY, at timestamptz DEFAULT clock_timestamp());
CREATE TABLE app.due (event_id text PRIMARY KEY, at timestamptz);
GRANT SELECT ON app.switch TO sentinai_handler;
GRANT INSERT ON app.done TO sentinai_handler;
CREATE FUNCTION app.work(e sentinai.event) RETURNS void LANGUAGE plpgsql AS \$\$
BEGIN
	IF e.event_id LIKE 'GOOD%' THEN
		RETURN;
	ELSIF (SELECT open FROM app.switch) THEN
		INSERT INTO app.done (event_id) VALUES (e.event_id);
	ELSIF e.event_type = 'WorkFails' THEN
		PERFORM sentinai.fail(e, 'validation_error', 'closed');
	ELSE
		RAISE EXCEPTION 'closed';
	END IF;
END \$\$;
SELECT event_type_add('LoadArrived'), event_type_add('WorkToDo'), event_type_add('WorkFails');
SELECT worker_type_add('load', 'load'), worker_type_add('paced', 'paced'), worker_type_add('work', 'work');
SELECT handler_add('load', 'LoadArrived', 'app.nothing'), handler_add('paced', 'LoadArrived', 'app.nothing'),
	handler_add('work', 'WorkToDo', 'app.work'), handler_add('work', 'WorkFails', 'app.work');
SELECT retry_policy_set(worker_type => 'work', base_delay => '1 s', max_delay => '1 s', jitter => 0);
SQL
	return;
}

sub empty_tables
{
	$t->sql('TRUNCATE sentinai.event_log, sentinai.event_processing_log');
	return;
}

sub run_load
{
	my ($processors, $held) = @_;
	my $position = q{SELECT coalesce(sum(next_offset), 0) FROM sentinai.kafka_offset WHERE topic = 'load'};
	my $snapshot;

	empty_tables();
	$t->sql(q{SELECT sentinai.offset_reset('load', 'load', NULL, 0, false)}) if $t->sql($position) > 0;
	if ($held)
	{
		$snapshot = $t->session;
		$snapshot->sql('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT txid_current()');
	}
	my $worker = $t->worker(WORKER_TYPE => 'load', CONCURRENCY => $processors, name => 'load', @batch);
	my $run = measure($worker, $position, $events);
	$worker->stop;
	$snapshot->close if $held;
	is($t->sql('SELECT (SELECT count(*) FROM sentinai.event_log), (SELECT count(*) FROM sentinai.event_processing_log)'),
		"$events|$events", 'every event is logged and claimed once');
	return $run;
}

# The rows of the last run as files of one transaction each
sub write_copy_files
{
	my $columns = join ', ', map { "'sentinai.$_'::regclass" } 'event_log', 'event_processing_log';
	my %of = map { $_->[0] => $_->[1] } $t->rows(
		"SELECT attrelid::regclass, string_agg('r.' || quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute
		  WHERE attrelid IN ($columns) AND attnum > 0 GROUP BY 1");

	$t->sql(<<"SQL");
COPY (SELECT 1) TO PROGRAM 'mkdir -p copy';
CREATE TABLE app.place AS SELECT tenant_id, event_id, (row_number() OVER () - 1) / $batch AS n FROM sentinai.event_log;
CREATE TABLE app.log AS SELECT p.n, r.* FROM sentinai.event_log r JOIN app.place p USING (tenant_id, event_id);
CREATE TABLE app.claim AS SELECT p.n, r.* FROM sentinai.event_processing_log r JOIN app.place p USING (tenant_id, event_id)
	ORDER BY p.n, r.tenant_id, r.event_id;
CREATE INDEX ON app.log (n);
CREATE INDEX ON app.claim (n);
ANALYZE app.log, app.claim;
DO \$\$
BEGIN
	FOR i IN 0 .. (SELECT max(n) FROM app.place) LOOP
		EXECUTE format('COPY (SELECT $of{'sentinai.event_log'} FROM app.log r WHERE n = %s) TO %L', i,
			current_setting('data_directory') || '/copy/log.' || i);
		EXECUTE format('COPY (SELECT $of{'sentinai.event_processing_log'} FROM app.claim r WHERE n = %s ORDER BY tenant_id, event_id) TO %L', i,
			current_setting('data_directory') || '/copy/claim.' || i);
	END LOOP;
END \$\$;
DROP TABLE app.place, app.log, app.claim;
SQL
	return;
}

# psql's share is a line a transaction: the server reads the files
sub run_copy
{
	my ($backends) = @_;
	my $folder = $t->sql('SHOW data_directory') . '/copy';
	my $last = int(($events - 1) / $batch);
	my (@children, @scripts);

	empty_tables();
	for my $b (0 .. $backends - 1)
	{
		$scripts[$b] = join '', map {
			"BEGIN; COPY sentinai.event_log FROM '$folder/log.$_'; COPY sentinai.event_processing_log FROM '$folder/claim.$_'; COMMIT;\n"
		} grep { $_ % $backends == $b } 0 .. $last;
	}
	my $wal = $watch->sql(q{SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')});
	my $before = { server => cpu_of(server_pids()), ended => cpu_of_ended() };
	my $since = time;
	for my $script (@scripts)
	{
		push @children, in_background(sub { $t->sql($script) });
	}
	for my $pid (@children)
	{
		waitpid $pid, 0;
		die 'COPY failed' if $?;
	}
	my $run = { seconds => time - $since };
	wait_for_end_of(grep { !$before->{server}{$_} } server_pids());
	$run->{per_second} = $events / $run->{seconds};
	$run->{server_us} = (cpu_of_ended() - $before->{ended} + spent($before, { server => cpu_of(server_pids()) }, 'server')) / $events;
	$run->{wal} = ($watch->sql(q{SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')}) - $wal) / $events;
	is($t->sql('SELECT (SELECT count(*) FROM sentinai.event_log), (SELECT count(*) FROM sentinai.event_processing_log)'),
		"$events|$events", 'COPY wrote the same rows');
	return $run;
}

sub run_reading
{
	my $since = time;
	my $bytes = length $t->kcat('', '-C', '-t', 'load', '-o', 'beginning', '-e', '-q', '-f', '.');

	is($bytes, $events, 'kcat has read the topic');
	return { per_second => $events / (time - $since) };
}

sub note_sizes
{
	my ($row) = $t->rows(
		q{SELECT sum(pg_table_size(i.inhrelid)) FILTER (WHERE i.inhparent = 'sentinai.event_log'::regclass),
			sum(pg_indexes_size(i.inhrelid)) FILTER (WHERE i.inhparent = 'sentinai.event_log'::regclass),
			sum(pg_table_size(i.inhrelid)) FILTER (WHERE i.inhparent = 'sentinai.event_processing_log'::regclass),
			sum(pg_indexes_size(i.inhrelid)) FILTER (WHERE i.inhparent = 'sentinai.event_processing_log'::regclass)
		  FROM pg_inherits i WHERE i.inhparent IN ('sentinai.event_log'::regclass, 'sentinai.event_processing_log'::regclass)});
	my @names = ('event_log', 'event_log, its indexes', 'event_processing_log', 'event_processing_log, its index');

	note_figure("size: $names[$_]", 'bytes/event', $row->[$_] / $events) for 0 .. 3;
	return;
}

sub load_round
{
	my ($round) = @_;
	my $one = run_load(1);
	my $two = run_load(2);

	note_sizes();
	write_copy_files() if $round == 1;
	my $copy_one = run_copy(1);
	my $copy_two = run_copy(2);
	my $held = run_load(2, 1);
	my $reading = run_reading();

	note_figure('(a) load, 1 processor', 'events/s', $one->{per_second});
	note_figure('    COPY, 1 backend', 'events/s', $copy_one->{per_second});
	note_figure('    ratio', '', $one->{per_second} / $copy_one->{per_second});
	note_figure('(a) load, 2 processors', 'events/s', $two->{per_second});
	note_figure('    COPY, 2 backends', 'events/s', $copy_two->{per_second});
	note_figure('    ratio, 2', '', $two->{per_second} / $copy_two->{per_second});
	note_figure('(d) load, 2 processors, snapshot held', 'events/s', $held->{per_second});
	note_figure('    ratio to (a)', '', $held->{per_second} / $two->{per_second});
	note_figure('reading the topic only (kcat)', 'events/s', $reading->{per_second});
	note_figure('CPU of the worker, 1 processor', 'us/event', $one->{worker_us});
	note_figure('CPU of the server, 1 processor', 'us/event', $one->{server_us});
	note_figure('CPU of the worker, 2 processors', 'us/event', $two->{worker_us});
	note_figure('CPU of the server, 2 processors', 'us/event', $two->{server_us});
	note_figure('    ratio of both, 2 to 1', '',
		($two->{worker_us} + $two->{server_us}) / ($one->{worker_us} + $one->{server_us}));
	note_figure('CPU of COPY, 2 backends', 'us/event', $copy_two->{server_us});
	note_figure('    ratio of COPY to the server, 2 processors', '', $copy_two->{server_us} / $two->{server_us});
	note_figure('WAL of load', 'bytes/event', $two->{wal});
	note_figure('WAL of COPY', 'bytes/event', $copy_two->{wal});
	note_figure('    ratio of WAL', '', $two->{wal} / $copy_two->{wal});
	note_figure('memory of the worker, at the first event', 'MiB', $two->{memory}[0]);
	note_figure('memory of the worker, at the last event', 'MiB', $two->{memory}[1]);
	return;
}

# ---------------------------------------------------------------- intake

sub intake_round
{
	my ($round) = @_;
	my $watermark = q{SELECT coalesce((SELECT id FROM sentinai.outbox_watermark WHERE topic = 'exceptions'), 0)};
	my $given = 'SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM sentinai.outbox_id_seq';
	my $start = $t->sql($given);
	my $published;

	empty_tables();
	$t->sql('TRUNCATE sentinai.exceptions, sentinai.exception_event');
	fill('exceptions', "intake $round", $intake_events, 'ExceptionIngested', payload());
	my $worker = $t->worker(WORKER_TYPE => 'intake', CONCURRENCY => 2, name => 'intake', @batch);
	my $since;
	$t->wait_for('the first event', sub { $watch->sql($given) > $start });
	$since = time;
	my $run = measure($worker, "SELECT n - $start FROM ($given) AS g(n)", $intake_events);
	$t->wait_for('all to be published', sub { $watch->sql($watermark) >= $start + $intake_events });
	$published = $run->{events} / (time - $since);
	$worker->stop;
	is($t->sql('SELECT (SELECT count(*) FROM sentinai.exceptions), (SELECT count(*) FROM sentinai.exception_event)'),
		"$intake_events|$intake_events", 'every event made its exception');

	note_figure('(b) intake, 2 processors, handled', 'events/s', $run->{per_second});
	note_figure('(b) intake, 2 processors, and published back', 'events/s', $published);
	note_figure('CPU of the worker, intake', 'us/event', $run->{worker_us});
	note_figure('CPU of the server, intake', 'us/event', $run->{server_us});
	note_figure('WAL of intake', 'bytes/event', $run->{wal});
	return;
}

# ---------------------------------------------------------------- latency

# Every 5 ms what is due by then, each with the time at which it was written
sub produce_paced
{
	my ($n) = @_;
	my $since = time;
	my $sent = 0;
	my $note = 'x' x 250;

	open my $kcat, '|-', 'kcat', '-b', $t->bootstrap, '-P', '-t', 'paced', '-K', "\t", '-X', 'linger.ms=5',
	  '-X', 'topic.partitioner=murmur2_random'
	  or die "kcat: $!";
	$kcat->autoflush(0);
	while ($sent < $n)
	{
		my $due = int((time - $since) * $rate);
		for (; $sent < $due && $sent < $n; $sent++)
		{
			my $now = sprintf '%.6f', time;
			my $exception = 'EXC_' . id_of('p', $sent);
			print {$kcat} qq(TENANT_001:$exception\t{"event_id": "P_$sent", "event_type": "LoadArrived", "tenant_id": "TENANT_001", )
			  . qq("exception_id": "$exception", "payload": {"sent": $now, "note": "$note"}}\n);
		}
		$kcat->flush;
		sleep 0.005;
	}
	close $kcat;
	return;
}

# When a consumer without a database has each record: lines of time, partition and offset
sub read_paced
{
	my ($n, $file) = @_;

	open my $kcat, '-|', 'kcat', '-b', $t->bootstrap, '-C', '-u', '-q', '-t', 'paced', '-c', $n, '-f', '%p %o\n'
	  or die "kcat: $!";
	open my $out, '>', $file or die "$file: $!";
	while (my $line = <$kcat>)
	{
		print {$out} time, " $line";
	}
	close $out;
	return;
}

sub in_background
{
	my ($work) = @_;
	my $pid = fork() // die "fork: $!";
	return $pid if $pid;
	my $ok = eval { $work->(); 1 };
	print STDERR $@ if !$ok;
	POSIX::_exit($ok ? 0 : 1);
}

# An event is done when a session sees its partition's position behind it: that is committed.
sub latency
{
	my $n = $rate * $seconds;
	my $warm = $rate;     # the first second is the start's
	my $positions = q{SELECT coalesce(string_agg(partition || ':' || next_offset, ' '), '') FROM sentinai.kafka_offset WHERE topic = 'paced'};
	my $worker = $t->worker(WORKER_TYPE => 'paced', CONCURRENCY => 2, name => 'paced', @batch);
	my $file = "$t->{dir}/paced.read";
	my (%seen, %read, @samples, @limit, $sum);

	$t->wait_for('the partitions', sub { $watch->sql($positions) =~ /3:/ });
	my @children = (in_background(sub { read_paced($n, $file) }), in_background(sub { produce_paced($n) }));
	do
	{
		my %now = $watch->sql($positions) =~ /(\d+):(\d+)/g;
		my $at = time;
		$sum = 0;
		for my $p (keys %now)
		{
			$sum += $now{$p};
			push @{ $seen{$p} }, [ $now{$p}, $at ] if !$seen{$p} || $seen{$p}[-1][0] != $now{$p};
		}
		sleep 0.001;
	} until $sum >= $n;
	waitpid $_, 0 for @children;
	$worker->stop;
	for my $line (split /\n/, Sentinai::Test::slurp($file))
	{
		my ($at, $p, $offset) = split ' ', $line;
		$read{"$p $offset"} = $at;
	}
	for my $row ($t->rows(
		"SELECT partition, kafka_offset, payload->>'sent' FROM sentinai.event_log WHERE topic = 'paced' AND substr(event_id, 3)::int >= $warm ORDER BY 1, 2"))
	{
		my ($p, $offset, $sent) = @$row;
		shift @{ $seen{$p} } while $seen{$p}[0][0] <= $offset;
		push @samples, ($seen{$p}[0][1] - $sent) * 1000;
		push @limit, ($read{"$p $offset"} - $sent) * 1000;
	}
	note_figure("    produce to read, without a database, p$_", 'ms', percentile($_, @limit)) for 50, 99;
	note_figure("latency at $rate/s, produce to committed, p$_", 'ms', percentile($_, @samples)) for 50, 99;
	return;
}

# ---------------------------------------------------------------- retry, dlq

# With more good ones, so that failing stays the exception and no circuit opens
sub produce_work
{
	my ($type, @names) = @_;

	unshift @names, map { ("GOOD_$_", "GOOD_TOO_$_") } @names;
	$t->produce(
		work => map {
			{ key => "TENANT_001:X_$_",
				value => qq({"event_id": "$_", "event_type": "$type", "tenant_id": "TENANT_001", "exception_id": "X_$_", "payload": {}}) }
		} @names);
	return;
}

# A few events fail; their due times are noted and the cause is gone before the first is due.
sub retry_round
{
	my ($round) = @_;
	my $each = 5;

	$watch->sql('UPDATE app.switch SET open = false');
	produce_work('WorkToDo', map { "W_${round}_$_" } 1 .. $each);
	$t->wait_for('the failures',
		sub { $watch->sql(q{SELECT count(*) FROM sentinai.event_pending WHERE status = 'retrying' AND worker_type = 'work'}) == $each });
	$watch->sql(q{INSERT INTO app.due SELECT event_id, next_attempt_at FROM sentinai.event_pending WHERE worker_type = 'work' AND next_attempt_at > clock_timestamp() + interval '20 ms'});
	$watch->sql('UPDATE app.switch SET open = true');
	$t->wait_for('the retries', sub { $watch->sql('SELECT count(*) FROM app.done') == $each * $round });
	return;
}

sub retry
{
	my $worker = $t->worker(WORKER_TYPE => 'work', name => 'work');

	retry_round($_) for 1 .. 20;
	$worker->stop;
	my @late = map { $_->[0] } $t->rows('SELECT extract(epoch FROM done.at - due.at) * 1000 FROM app.done JOIN app.due USING (event_id)');
	cmp_ok(scalar @late, '>=', 80, 'enough retries were noted before their time');
	cmp_ok(percentile(0, @late), '>=', 0, 'none came early');
	note_figure("retry due to handled, p$_", 'ms', percentile($_, @late)) for 50, 99;
	return;
}

sub dlq
{
	my $worker = $t->worker(WORKER_TYPE => 'work', name => 'work-dlq');
	my $letters = q{SELECT count(*) FROM sentinai.dead_letter_queue WHERE status = 'pending' AND worker_type = 'work'};
	my @trips;

	$watch->sql('UPDATE app.switch SET open = false');
	for my $round (1 .. 6)
	{
		produce_work('WorkFails', map { "D_${round}_$_" } 1 .. 5);
		$t->wait_for('the dead letters', sub { $watch->sql($letters) == 5 * $round });
	}
	$watch->sql('UPDATE app.switch SET open = true');
	for my $id (map { $_->[0] } $t->rows(q{SELECT id FROM sentinai.dead_letter_queue WHERE worker_type = 'work' ORDER BY id}))
	{
		my $since = time;
		$watch->sql("SELECT sentinai.dlq_retry($id)");
		sleep 0.001 until $watch->sql("SELECT status FROM sentinai.dead_letter_queue WHERE id = $id") eq 'succeeded' || time - $since > 60;
		push @trips, (time - $since) * 1000;
	}
	$worker->stop;
	note_figure("DLQ retry to succeeded, p$_", 'ms', percentile($_, @trips)) for 50, 99;
	return;
}

prepare();
fill('load', 'load', $events, 'LoadArrived', payload()) if $part{load};
for my $round (1 .. $rounds)
{
	load_round($round) if $part{load};
	intake_round($round) if $part{intake};
}
latency() if $part{latency};
retry() if $part{retry};
dlq() if $part{dlq};
report(
	$t, 'bench',
	"$rounds rounds; $events events of load, $intake_events of intake; at most $batch records a transaction",
	rounds => $rounds, events => $events, intake_events => $intake_events, batch => $batch, rate => $rate);
done_testing();
