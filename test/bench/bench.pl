# bench: figures of the whole way, on a cluster and a broker of its own, each beside a limit that was measured in the same
# round. All of it (PostgreSQL, the broker, the worker, the load) shares this machine's cores; fsync and synchronous_commit
# are on. `make bench` calls it. docs/performance.md tells what the figures mean. Other ways to do the same work are
# measured by peers/peers.pl.
#
#   load      (a) events a second from a filled topic to handled, with one and with two processors: log, claim and a handler
#             that does nothing. (c) the same with four. (d) the same while a snapshot is held open. Beside it: COPY of the
#             same rows into the same tables, by as many backends, as many rows a transaction; and reading the topic without
#             a database
#   intake    (b) events a second through intake: exceptions, exception_event, the follow-on event, and that one back in Kafka
#   latency   from produce to committed effect, at a fixed rate
#   retry     how long after its due time a retry is handled
#   dlq       from dlq_retry() to succeeded
#   memory    of the worker, over many events: only where BENCH_PARTS names it; takes 13 GB of disk for a few minutes
#
# BENCH_PARTS   which of them, by default all but memory; their report is named by them, build/bench/memory.txt
# BENCH_ROUNDS  rounds of load and intake, 5
# BENCH_EVENTS, BENCH_INTAKE_EVENTS  events of a round, 100000 and 40000
# BENCH_BATCH   records of a call, and rows of COPY's transactions; by default the worker's own default
# BENCH_RATE, BENCH_SECONDS  of latency, 1000 events a second for 10 seconds
# BENCH_MEMORY_EVENTS  of memory, 5000000
use Sentinai::Bench;
use Sentinai::Capacity;
use Sentinai::Load;
use Sentinai::Test;
use POSIX ();
use Time::HiRes qw(time sleep);

my @parts = split ' ', $ENV{BENCH_PARTS} // 'load intake latency retry dlq';
my %part = map { $_ => 1 } @parts;
my $rounds = $ENV{BENCH_ROUNDS} // 5;
my $events = $ENV{BENCH_EVENTS} // 100_000;
my $intake_events = $ENV{BENCH_INTAKE_EVENTS} // 40_000;
my $memory_events = $ENV{BENCH_MEMORY_EVENTS} // 5_000_000;
my $rate = $ENV{BENCH_RATE} // 1000;
my $seconds = $ENV{BENCH_SECONDS} // 10;
my $t = Sentinai::Test->new(kafka => 1, settings => $ENV{BENCH_SETTINGS} // $Sentinai::Load::settings);
my $load = Sentinai::Load->new($t, events => $events, batch => $ENV{BENCH_BATCH});
my $batch = $load->batch;
my $watch = $load->watch;

# ---------------------------------------------------------------- what the parts need beside the load's

sub prepare
{
	$load->prepare;
	$t->topic(paced => 4);
	$t->topic(work => 4);
	$t->topic(exceptions => 4);
	$t->sql(<<"SQL");
SET search_path = sentinai, public;
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
SELECT event_type_add('WorkToDo'), event_type_add('WorkFails');
SELECT worker_type_add('paced', 'paced'), worker_type_add('work', 'work');
SELECT handler_add('paced', 'LoadArrived', 'app.nothing'),
	handler_add('work', 'WorkToDo', 'app.work'), handler_add('work', 'WorkFails', 'app.work');
SELECT retry_policy_set(worker_type => 'work', base_delay => '1 s', max_delay => '1 s', jitter => 0);
SQL
	return;
}

# ---------------------------------------------------------------- load

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

	$load->empty_tables;
	for my $b (0 .. $backends - 1)
	{
		$scripts[$b] = join '', map {
			"BEGIN; COPY sentinai.event_log FROM '$folder/log.$_'; COPY sentinai.event_processing_log FROM '$folder/claim.$_'; COMMIT;\n"
		} grep { $_ % $backends == $b } 0 .. $last;
	}
	my $before = { %{ $load->account }, ended => $load->cpu_of_ended };
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
	$load->wait_for_end_of(grep { !$before->{server}{$_} } $load->server_pids);
	my $after = $load->account;
	$run->{per_second} = $events / $run->{seconds};
	$run->{server_us} =
	  ($load->cpu_of_ended - $before->{ended} + Sentinai::Load::spent($before, $after, 'server')) / $events;
	$run->{wal} = ($after->{wal} - $before->{wal}) / $events;
	$load->logged_and_claimed('COPY wrote the same rows');
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
	my $said = calculator($t, emitted => 0, intake => 0, type_bytes => length 'LoadArrived');
	my @figures = (
		[ 'event_log', $said->{event_log}{row_bytes} ],
		[ 'event_log, its indexes', $said->{event_log}{index_bytes} ],
		[ 'event_processing_log', $said->{event_processing_log}{row_bytes} ],
		[ 'event_processing_log, its index', $said->{event_processing_log}{index_bytes} ]);

	for my $i (0 .. 3)
	{
		note_figure("size: $figures[$i][0]", 'bytes/event', $row->[$i] / $events);
		note_figure('    calculated', 'bytes/event', $figures[$i][1], undef, $figures[$i][0]);
	}
	return;
}

# A run of ours and what limits it stand side by side in time too.
sub load_round
{
	my ($round) = @_;
	my $one = $load->run(processors => 1);
	write_copy_files() if $round == 1;
	my $copy_one = run_copy(1);
	my $copy_two = run_copy(2);
	my $two = $load->run(processors => 2);
	note_sizes();
	my $held = $load->run(processors => 2, held => 1);
	my $four = $load->run(processors => 4);
	my $reading = run_reading();

	note_figure('(a) load, 1 processor', 'events/s', $one->{per_second});
	note_figure('    COPY, 1 backend', 'events/s', $copy_one->{per_second});
	note_figure('    ratio', '', $one->{per_second} / $copy_one->{per_second}, '>= 0.6');
	note_figure('(a) load, 2 processors', 'events/s', $two->{per_second});
	note_figure('    COPY, 2 backends', 'events/s', $copy_two->{per_second});
	note_figure('    ratio, 2', '', $two->{per_second} / $copy_two->{per_second}, '>= 0.6');
	note_figure('(c) load, 4 processors', 'events/s', $four->{per_second});
	note_figure('(d) load, 2 processors, snapshot held', 'events/s', $held->{per_second});
	note_figure('    ratio to (a)', '', $held->{per_second} / $two->{per_second}, '>= 0.9');
	note_figure('reading the topic only (kcat)', 'events/s', $reading->{per_second});
	note_cpu('1 processor', $one);
	note_cpu('2 processors', $two);
	note_cpu('4 processors', $four);
	note_figure('    ratio of both, 2 to 1', '', cpu($two) / cpu($one), '<= 1.15');
	note_figure('    ratio of both, 4 to 1', '', cpu($four) / cpu($one));
	note_figure('CPU of COPY, 2 backends', 'us/event', $copy_two->{server_us});
	note_figure('    ratio of COPY to the server, 2 processors', '', $copy_two->{server_us} / $two->{server_us});
	note_figure('WAL of load', 'bytes/event', $two->{wal});
	note_figure('    calculated', 'bytes/event',
		calculator($t, emitted => 0, intake => 0, type_bytes => length 'LoadArrived')->{all}{wal_bytes}, undef, 'WAL of load');
	note_figure('WAL of COPY', 'bytes/event', $copy_two->{wal});
	note_figure('    ratio of WAL', '', $two->{wal} / $copy_two->{wal}, '<= 1.3');
	note_figure('index entries of load', 'entries/event', $two->{entries});
	return;
}

sub note_cpu
{
	my ($whose, $run) = @_;

	note_figure("CPU of the worker, $whose", 'us/event', $run->{client_us});
	note_figure("CPU of the server, $whose", 'us/event', $run->{server_us});
	return;
}

sub cpu { return $_[0]{client_us} + $_[0]{server_us} }

# ---------------------------------------------------------------- intake

sub intake_round
{
	my ($round) = @_;
	my $watermark = q{SELECT coalesce((SELECT id FROM sentinai.outbox_watermark WHERE topic = 'exceptions'), 0)};
	my $given = 'SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM sentinai.outbox_id_seq';
	my $start = $t->sql($given);
	my $published;

	$load->empty_tables;
	$t->sql('TRUNCATE sentinai.exceptions, sentinai.exception_event; SELECT pg_stat_reset()');
	$load->fill('exceptions', "intake $round", 1, $intake_events, 'ExceptionIngested');
	my $worker = $t->worker(WORKER_TYPE => 'intake', CONCURRENCY => 2, name => 'intake', %{ $load->{environment} });
	my $since;
	$t->wait_for('the first event', sub { $watch->sql($given) > $start });
	$since = time;
	my $run = $load->measure(
		clients => [ $worker->pid ],
		counter => $load->counter("SELECT n - $start FROM ($given) AS g(n)"),
		n => $intake_events);
	$t->wait_for('all to be published', sub { $watch->sql($watermark) >= $start + $intake_events });
	$published = $run->{events} / (time - $since);
	$worker->stop;
	is($t->sql('SELECT (SELECT count(*) FROM sentinai.exceptions), (SELECT count(*) FROM sentinai.exception_event)'),
		"$intake_events|$intake_events", 'every event made its exception');

	note_figure('(b) intake, 2 processors, handled', 'events/s', $run->{per_second}, '>= 16700');
	note_figure('(b) intake, 2 processors, and published back', 'events/s', $published, '>= 16700');
	note_cpu('intake', $run);
	note_figure('WAL of intake', 'bytes/event', $run->{wal});
	note_figure('    calculated', 'bytes/event', calculator($t)->{all}{wal_bytes}, undef, 'WAL of intake');
	note_figure('index entries of intake', 'entries/event', $load->index_entries($intake_events));
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
			my $exception = 'EXC_' . Sentinai::Load::id_of('p', $sent);
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
	my $worker = $t->worker(WORKER_TYPE => 'paced', CONCURRENCY => 2, name => 'paced', %{ $load->{environment} });
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
	my %goal = (50 => '<= 10', 99 => '<= 30');
	note_figure("    produce to read, without a database, p$_", 'ms', percentile($_, @limit)) for 50, 99, 99.9;
	note_figure("latency at $rate/s, produce to committed, p$_", 'ms', percentile($_, @samples), $goal{$_}) for 50, 99, 99.9;
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
	note_figure('retry due to handled, p50', 'ms', percentile(50, @late));
	note_figure('retry due to handled, p99', 'ms', percentile(99, @late), '<= 50');
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
	is($t->sql('SELECT count(*) FROM app.done WHERE event_id LIKE \'D%\''), scalar @trips, 'each retry of a dead letter is handled');
	note_figure('DLQ retry to succeeded, p50', 'ms', percentile(50, @trips), '<= 100');
	note_figure('DLQ retry to succeeded, p99', 'ms', percentile(99, @trips));
	return;
}

# ---------------------------------------------------------------- memory

# Resident memory of a process, now and at its highest, in MiB
sub resident
{
	my ($pid) = @_;
	my $status = Sentinai::Test::slurp("/proc/$pid/status");
	return map { $status =~ /^$_:\s*(\d+)/m; $1 / 1024 } 'VmRSS', 'VmHWM';
}

# Always more in the topic than the worker's queues hold, until all is there
sub fill_flow
{
	my $size = 200_000;

	for (my $from = 1; $from <= $memory_events; $from += $size)
	{
		my $to = $from + $size - 1;
		$load->fill('flow', 'flow', $from, $to < $memory_events ? $to : $memory_events, 'LoadArrived');
	}
	return;
}

# At a fifth and at the end: what a leak an event, or a buffer that grows, would move
sub memory
{
	my $position = q{SELECT coalesce(sum(next_offset), 0) FROM sentinai.kafka_offset WHERE topic = 'flow'};
	my @marks = ($memory_events / 5, $memory_events);
	my (@highest, $free);

	($free) = `df -Pk '$t->{dir}'` =~ /(\d+)\s+\d+%/;
	die "memory needs 2.6 kB of disk an event: $t->{dir} has $free kB\n" if $free < 2.6 * $memory_events;
	$load->empty_tables;
	$t->topic(flow => 4);
	$t->sql(q{SELECT sentinai.worker_type_add('flow', 'flow'), sentinai.handler_add('flow', 'LoadArrived', 'app.nothing')});
	my $filler = in_background(\&fill_flow);
	my $worker = $t->worker(WORKER_TYPE => 'flow', CONCURRENCY => 2, name => 'flow', LOG_EVENTS => 'off');
	for my $mark (@marks)
	{
		my $last = -1;
		# no limit of time to the whole, but each part of it must move
		while ($last < $mark)
		{
			my $wanted = $last + 1;
			$last = Sentinai::Load::reach('were handled', $wanted, 0.02, $load->counter($position));
		}
		my ($now, $highest) = resident($worker->pid);
		push @highest, $highest;
		note_figure(sprintf('memory of the worker after %.1f million events', $mark / 1e6), 'MiB', $now);
		note_figure(sprintf('    its highest until then, %.1f million', $mark / 1e6), 'MiB', $highest);
	}
	note_figure('    growth of the highest', 'MiB', $highest[1] - $highest[0], '<= 16');
	waitpid $filler, 0;
	is($?, 0, 'the topic was filled');
	$worker->stop;
	is($t->sql('SELECT count(*) FROM sentinai.event_processing_log'), $memory_events, 'every event is claimed once');
	$t->kafka('delete-topic', 'flow');
	$load->empty_tables;
	return;
}

prepare();
$load->fill('load', 'load', 1, $events, 'LoadArrived') if $part{load};
for my $round (1 .. $rounds)
{
	load_round($round) if $part{load};
	intake_round($round) if $part{intake};
}
latency() if $part{latency};
retry() if $part{retry};
dlq() if $part{dlq};
memory() if $part{memory};
my @said;
push @said, "$rounds rounds" if $part{load} || $part{intake};
push @said, "$events events of load" if $part{load};
push @said, "$intake_events of intake" if $part{intake};
push @said, "$memory_events events of memory" if $part{memory};
report(
	$t,
	defined $ENV{BENCH_PARTS} ? join('-', @parts) : 'bench',
	join(', ', @said, "at most $batch records a transaction"),
	rounds => $rounds, events => $events, intake_events => $intake_events, batch => $batch, rate => $rate);
done_testing();
