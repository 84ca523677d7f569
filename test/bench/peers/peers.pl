# peers: other ways to bring a topic into PostgreSQL, on the same cluster, topic and events as (a) of the bench, and (a)
# beside them in each round. `make bench-peers` fetches their programs (install) and calls this. docs/performance.md says
# what each of them writes, and what it doesn't do.
#
#   Debezium   its JDBC sink on Kafka Connect, as it comes (one task, batches of 500, Connect's own heap), and its fastest
#              configuration (two tasks, batches of 5,000, reWriteBatchedInserts, a heap and a collector that cost least): one
#              table, an event that comes again updates its row
#   Python     a consumer written by hand (consumer.py): one process with batches of 500, and its fastest configuration (two
#              processes, 5,000, COPY): two tables, an event that comes again is left alone
#
# Everybody has the topic's four partitions and synchronous_commit. Each is measured from the middle of the topic to its end:
# then Java has compiled what it will, and whoever starts slowly has started.
#
# BENCH_PEERS    which of them, by default all: python python-fast debezium-fast debezium
# BENCH_ROUNDS   rounds of all, 3
# BENCH_EVENTS   in the topic, 200000
# BENCH_BATCH    most events a transaction of (a), 5000: as many as the fastest of the others have
use Sentinai::Bench;
use Sentinai::Load;
use Sentinai::Test;
use Time::HiRes qw(time sleep);

my $rounds = $ENV{BENCH_ROUNDS} // 3;
my $events = $ENV{BENCH_EVENTS} // 200_000;
my $here = "$Sentinai::Test::top/test/bench/peers";
my $t = Sentinai::Test->new(kafka => 1, settings => $Sentinai::Load::settings);
my $load = Sentinai::Load->new($t, events => $events, batch => $ENV{BENCH_BATCH} // 5_000);
my $programs = "$t->{build}/peers";
my @running;    # processes of a peer

my %peer = (
	'python' => { name => 'Python consumer, 1 process x 500', table => 'processed', at => 'processed_at', before => 1,
		start => sub { start_python(1, 500, 'insert') } },
	'python-fast' => { name => 'Python consumer, 2 processes x 5000', table => 'processed', at => 'processed_at', before => 1,
		start => sub { start_python(2, 5000, 'copy') } },
	'debezium-fast' => { name => 'Debezium JDBC sink, 2 tasks x 5000', table => 'sink', at => 'written_at',
		start => sub { start_connect(2, 5000, '?reWriteBatchedInserts=true', '-Xms2G', '-Xmx2G', '-XX:+UseParallelGC') } },
	'debezium' => { name => 'Debezium JDBC sink, 1 task x 500', table => 'sink', at => 'written_at',
		start => sub { start_connect(1, 500, '', '-Xms256M', '-Xmx2G') } },
);
my @chosen = split ' ', $ENV{BENCH_PEERS} // 'python python-fast debezium-fast debezium';
for my $key (@chosen)
{
	die "BENCH_PEERS: there is no \"$key\"\n" if !$peer{$key};
}

# In a peer's place an engineer would index more; these keys are what deduplication needs, and no more.
sub make_tables
{
	$t->sql(<<'SQL');
DROP SCHEMA IF EXISTS peer CASCADE;
CREATE SCHEMA peer;
CREATE TABLE peer.sink (
	tenant_id				text,
	event_id				text,
	event_type				text,
	exception_id			text,
	"timestamp"				timestamptz,
	payload_type			text,
	payload_severity		text,
	payload_amount			double precision,
	payload_source_system	text,
	payload_note			text,
	written_at				timestamptz NOT NULL DEFAULT now(),
	PRIMARY KEY (tenant_id, event_id)
);
CREATE TABLE peer.event (
	tenant_id		text,
	event_id		text,
	event_type		text NOT NULL,
	exception_id	text,
	happened_at		timestamptz NOT NULL,
	payload			jsonb NOT NULL,
	PRIMARY KEY (tenant_id, event_id)
);
CREATE TABLE peer.processed (
	tenant_id		text,
	event_id		text,
	processed_at	timestamptz NOT NULL DEFAULT now(),
	PRIMARY KEY (tenant_id, event_id)
);
CHECKPOINT;
SQL
	return;
}

# ---------------------------------------------------------------- processes

sub start_process
{
	my ($log, $environment, @command) = @_;
	my $pid = fork() // die "fork: $!";

	if (!$pid)
	{
		%ENV = (%ENV, %$environment);
		open STDIN, '<', '/dev/null' or POSIX::_exit(126);
		open STDOUT, '>>', "$t->{dir}/$log.log" or POSIX::_exit(126);
		open STDERR, '>&', \*STDOUT or POSIX::_exit(126);
		exec { $command[0] } @command or POSIX::_exit(127);
	}
	push @running, $pid;
	return;
}

sub stop_processes
{
	my ($signal) = @_;
	kill $signal => @running;
	waitpid $_, 0 for splice @running;
	return;
}

END { local $?; stop_processes('KILL') if @running; }

# Groups begin anew in each run, and so at the beginning of the topic
my $groups = 0;
sub next_group { return 'peer-' . ++$groups }

sub start_connect
{
	my ($tasks, $batch, $url_suffix, @java) = @_;
	my ($user, $password, $place) = $t->url =~ m{//([^:]+):([^@]+)@(.*)};
	my $group = next_group();
	my $folder = "$t->{dir}/$group";

	mkdir $folder or die "$folder: $!";
	start_process(
		'connect',
		{
			PEER_BOOTSTRAP => $t->bootstrap, PEER_FOLDER => $folder, PEER_GROUP => $group,
			PEER_TASKS => $tasks, PEER_BATCH => $batch,
			PEER_JDBC_URL => "jdbc:postgresql://$place$url_suffix", PEER_USER => $user, PEER_PASSWORD => $password,
		},
		'java', @java, '-XX:-UsePerfData', "-Djava.io.tmpdir=$folder",
		"-Dlog4j2.configurationFile=file:$Sentinai::Test::top/test/kafka/log4j2.properties",
		'-cp', "$programs/connect/libs/*", 'org.apache.kafka.connect.cli.ConnectStandalone',
		"$here/connect.properties", "$here/sink.properties");
	return;
}

sub start_python
{
	my ($processes, $batch, $method) = @_;
	my $group = next_group();

	start_process('python', {}, "$programs/python/bin/python", "$here/consumer.py",
		$t->bootstrap, 'load', $group, $t->url, $batch, $method)
	  for 1 .. $processes;
	return;
}

# ---------------------------------------------------------------- a run

# Asks for nothing but a size, so that the rows aren't counted again and again while they are written
sub until_quiet
{
	my ($table) = @_;
	my ($size, $since) = (-1, time);

	while (time - $since < 0.5)
	{
		my $now = $load->watch->sql("SELECT pg_relation_size('peer.$table')");
		($size, $since) = ($now, time) if $now != $size;
		sleep 0.05;
	}
	return;
}

# By the rows' own times, which are those at which their transactions began: without the last ones
sub rate_of
{
	my ($peer) = @_;
	return $t->sql(<<"SQL");
WITH run AS (SELECT percentile_disc(0.5) WITHIN GROUP (ORDER BY $peer->{at}) AS half, max($peer->{at}) AS last FROM peer.$peer->{table})
SELECT count(*) / extract(epoch FROM last - half) FROM peer.$peer->{table}, run WHERE $peer->{at} >= half AND $peer->{at} < last
 GROUP BY half, last
SQL
}

sub run_peer
{
	my ($peer) = @_;
	my $count = "SELECT count(*) FROM peer.$peer->{table}";

	make_tables();
	$peer->{start}->();
	my $run = eval {
		$load->measure(
			clients => [@running],
			counter => $load->counter($count),
			pause => 0.1,
			from => $events / 2,
			nearly => sub { until_quiet($peer->{table}) },
			n => $events);
	} // die "$peer->{name}: $@" . join('', map { `tail -n 20 '$_'` } glob "$t->{dir}/{connect,python}.log");
	stop_processes('TERM');
	is($t->sql($count), $events, "$peer->{name}: every event is there once");
	$run->{per_second} = rate_of($peer);
	return $run;
}

sub note_run
{
	my ($name, $run) = @_;

	note_figure($name, 'events/s', $run->{per_second});
	note_figure('    CPU of the client', 'us/event', $run->{client_us}, undef, $name);
	note_figure('    CPU of the server', 'us/event', $run->{server_us}, undef, $name);
	return;
}

# Ours stands between those that are measured right before and right after it: the fastest of each.
sub round
{
	my %run = map { $_ => run_peer($peer{$_}) } grep { $peer{$_}{before} } @chosen;
	my $ours = $load->run(processors => 2, from => $events / 2);

	%run = (%run, map { $_ => run_peer($peer{$_}) } grep { !$peer{$_}{before} } @chosen);
	note_run('(a) sentinai, 2 processors', $ours);
	for my $key (@chosen)
	{
		note_run($peer{$key}{name}, $run{$key});
		note_figure('    (a) is so many times as fast', '', $ours->{per_second} / $run{$key}{per_second}, '>= 1.3', $peer{$key}{name});
	}
	return;
}

$load->prepare;
$load->fill('load', 'load', 1, $events, 'LoadArrived');
round() for 1 .. $rounds;
report($t, 'peers', "$rounds rounds; $events events, measured from the middle to the end", rounds => $rounds, events => $events);
done_testing();
