# limits: how fast rate limits are, each figure beside what it is compared with, in one round on one machine: SELECT 1, a limiter
# of rows in plain SQL, and Redis. Server and clients share this machine's cores. Clients come over Unix sockets, and where it says so over loopback.
# `make bench-limits` calls it. docs/rate-limits.md tells what the figures mean.
#
#   process   a loop inside one backend: ns of CPU a call; the batch form
#   wire      pgbench with prepared statements, and Redis by EVALSHA and redis-benchmark, 1, 2 and 8 clients: one hot key, 100,000 keys,
#             pipelined by 16; both servers by one client (knock.c), Redis also with a log as durable as our flush; and the CPU of a
#             call, of server and client together, which depends less on what else the machine does
#   memory    a million tenants with four limits each
#
# BENCH_PARTS    which of them, by default all
# BENCH_GROUPS   of wire, by default all: pair (in turns on one connection) one (hot key) keys rows pipelined loopback client (the same for both)
# BENCH_CLIENTS  "1 1/1 2 8": 1/1 is one client, and all of it on one processor
# BENCH_ROUNDS   rounds of process and wire, 3
# BENCH_SECONDS  of each measurement over the wire, one at a time, of which the best counts, 3
# BENCH_CALLS    of one measurement in process, 2,000,000
use Sentinai::Bench;
use Sentinai::Test;
use List::Util qw(max min);
use POSIX ();

my %part = map { $_ => 1 } split ' ', $ENV{BENCH_PARTS} // 'process wire memory';
my $rounds = $ENV{BENCH_ROUNDS} // 3;
my $seconds = $ENV{BENCH_SECONDS} // 3;
my $calls = $ENV{BENCH_CALLS} // 2_000_000;
my $tenants = 1_000_000;
my $keys = 100_000;
my $pipeline = 16;
my @types = qw(api_requests events_ingested tool_executions report_generations);
my $t = Sentinai::Test->new(
	settings => "sentinai.rate_limit_slots = @{[ $tenants * @types * 1.1 ]}; max_connections = 30; max_wal_size = 4GB");
my $session = $t->session;
my %group = map { $_ => 1 } split ' ', $ENV{BENCH_GROUPS} // 'pair one keys rows pipelined loopback client';
my ($redis, $redis_log);    # the second one appends to a log that is synced every second: it loses as little as we do
my @redis_pids;
my @processors = processors();

# That this process may run on
sub processors
{
	my ($list) = Sentinai::Test::run('taskset', '-cp', $$) =~ /: (\S+)$/m or die 'taskset';
	return map { /^(\d+)-(\d+)$/ ? $1 .. $2 : $_ } split /,/, $list;
}

# Seconds that a statement takes in the one session: of CPU, so that others on the machine don't matter
sub seconds_of
{
	my ($sql) = @_;
	my $schedstat = '/proc/' . $session->sql('SELECT pg_backend_pid()') . '/schedstat';
	my ($since) = split ' ', Sentinai::Test::slurp($schedstat);
	my $answer = $session->sql($sql);
	my ($until) = split ' ', Sentinai::Test::slurp($schedstat);

	die "$sql\n$answer" if $answer =~ /ERROR:/;
	return ($until - $since) / 1e9;
}

# ---------------------------------------------------------------- in one backend

# ns a call, without what the loop takes by itself
sub loop_ns
{
	my ($expression) = @_;
	my $loop = "FROM generate_series(1, $calls)";
	my $empty = seconds_of("SELECT count(1) $loop");

	return (seconds_of("SELECT count($expression) $loop") - $empty) * 1e9 / $calls;
}

sub process
{
	my $round = shift;
	my $batches = int($calls / 1000);
	my $many = "ARRAY(SELECT 'T' || n FROM generate_series(1, 1000) n)";

	note_figure('in process: rate_limit_check, granted', 'ns', loop_ns("rate_limit_check('T1', 'api_requests')"), '< 500');
	note_figure('in process: rate_limit_allowed', 'ns', loop_ns("rate_limit_allowed('T1', 'api_requests')"), '< 500');
	note_figure('in process: rate_limit_check, refused', 'ns', loop_ns("rate_limit_check('T1', 'full')"));
	note_figure('in process: 100,000 tenants in turn', 'ns',
		loop_ns("rate_limit_check((1 + generate_series % $keys)::text, 'api_requests')"));
	note_figure('in process: now(), to compare', 'ns', loop_ns('now()'));
	for my $of ([ 'one tenant', "array_fill('T1'::text, ARRAY[1000])" ], [ '1,000 tenants', $many ])
	{
		my $took = seconds_of("DO \$\$ DECLARE a text[] := $of->[1]; BEGIN FOR n IN 1 .. $batches LOOP "
			  . "PERFORM count(allowed) FROM sentinai.rate_limit_check_batch(a, 'api_requests'); END LOOP; END \$\$");
		note_figure("in process: batches of 1,000, $of->[0]", 'checks/s', $batches * 1000 / $took, '>= 2000000');
	}
	return;
}

# ---------------------------------------------------------------- over the wire

my %statement = (
	select => 'SELECT 1',
	allowed => q{SELECT sentinai.rate_limit_allowed('T1', 'api_requests')},
	check => q{SELECT (sentinai.rate_limit_check('T1', 'api_requests')).allowed},
	check_row => q{SELECT * FROM sentinai.rate_limit_check('T1', 'api_requests')},
	allowed_key => q{SELECT sentinai.rate_limit_allowed(:key, 'api_requests')},
	row_key => 'SELECT row_check(:key)',
);

sub write_script
{
	my ($name, $text) = @_;
	my $file = "$t->{dir}/$name.pgbench";

	open my $out, '>', $file or die "$file: $!";
	print {$out} $text;
	close $out or die "$file: $!";
	return $file;
}

# pgbench prepares the statements of a script at its first one, which it can't do inside a pipeline
sub pipelined
{
	my ($statement) = @_;
	return "\\if :first\nSELECT;\n\\set first 0\n\\endif\n\\startpipeline\n" . "$statement;\n" x $pipeline . "\\endpipeline\n";
}

# CPU seconds of the clients and servers that have ended, and of Redis
sub cpu_used
{
	my ($postmaster) = split /\n/, Sentinai::Test::slurp("$t->{cluster_dir}/data/postmaster.pid");
	my @server = split ' ', Sentinai::Test::slurp("/proc/$postmaster/stat") =~ s/^.*\) //sr;
	my @redis = split ' ', Sentinai::Test::slurp("/proc/$redis->{pid}/stat") =~ s/^.*\) //sr;
	my @own = POSIX::times();

	return ($server[13] + $server[14] + $redis[11] + $redis[12] + $own[3] + $own[4]) / POSIX::sysconf(POSIX::_SC_CLK_TCK());
}

# Runs a measurement, which returns calls a second and how many they were. Returns calls a second and CPU microseconds a call.
sub with_cpu
{
	my ($measure) = @_;
	my $before = cpu_used();
	my ($rate, $calls) = $measure->();

	$t->wait_for_sql(q{SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgbench'}, 0);
	return ($rate, (cpu_used() - $before) / $calls * 1e6);
}

# Statements a second, and how many; statements: in a run of the script. where: a database, or a URI
sub pgbench
{
	my ($script, $clients, $statements, $where) = @_;
	my $threads = $clients > 2 ? 2 : $clients;
	my $out = $t->program('pgbench', '-n', '-M', 'prepared', '-c', $clients, '-j', $threads, '-T', 1, '-D', 'first=1',
		'-f', $script, $where // 'sentinai');
	my ($tps) = $out =~ /^tps = ([\d.]+)/m;
	my ($done) = $out =~ /^number of transactions actually processed: (\d+)/m;

	$statements //= 1;
	die "pgbench: $out" if !$tps || $out !~ /failed transactions: 0 /;
	return ($tps * $statements, $done * $statements);
}

# One statement with 1 key or many, so that both have the same script
sub keyed
{
	my ($name, $of) = @_;
	return write_script("$name-$of", "\\set key random(1, $of)\n$statement{$name};\n");
}

# A limiter as it is usually written: a row for each key and window
sub make_row_limiter
{
	$t->sql(<<"SQL");
CREATE TABLE row_limit (key text, window_start timestamptz, count bigint NOT NULL, PRIMARY KEY (key, window_start)) WITH (fillfactor = 50);
CREATE FUNCTION row_check(key text) RETURNS boolean LANGUAGE sql VOLATILE AS \$\$
	INSERT INTO row_limit AS r VALUES (\$1, date_trunc('minute', now()), 1)
	ON CONFLICT (key, window_start) DO UPDATE SET count = r.count + 1 RETURNING count <= 1000 \$\$;
SQL
	return;
}

# ---------------------------------------------------------------- Redis

# Debian's package redis-tools has the server too, under the name of a tool that it also is; so no service is installed.
sub start_redis
{
	my ($name, @settings) = @_;
	my $server = "$t->{dir}/redis-server";
	my $dir = "$t->{dir}/$name";
	my $port = Sentinai::Test::run('bash', '-c', 'source test/lib.sh; free_port') =~ s/\s//gr;
	my $script = "local n = redis.call('INCR', KEYS[1]) if n == 1 then redis.call('EXPIRE', KEYS[1], ARGV[1]) end return n <= tonumber(ARGV[2])";

	-x '/usr/bin/redis-check-rdb' or die "there is no Redis: scripts/deps bench\n";
	-l $server or symlink '/usr/bin/redis-check-rdb', $server or die "$server: $!";
	mkdir $dir or die "$dir: $!";
	my $pid = fork() // die "fork: $!";
	if (!$pid)
	{
		open STDOUT, '>', "$dir/log" or POSIX::_exit(126);
		exec $server, '--bind', '127.0.0.1', '--port', $port, '--unixsocket', "$dir/socket", '--save', '', '--dir', $dir, @settings
		  or POSIX::_exit(127);
	}
	push @redis_pids, $pid;
	$t->wait_for('Redis', sub { -S "$dir/socket" && Sentinai::Test::run('redis-cli', '-s', "$dir/socket", 'PING') =~ /PONG/ });
	chomp(my $sha = Sentinai::Test::run('redis-cli', '-s', "$dir/socket", 'SCRIPT', 'LOAD', $script));
	return { pid => $pid, socket => [ '-s', "$dir/socket" ], loopback => [ '-p', $port ], sha => $sha,
		address => { socket => "$dir/socket", loopback => "127.0.0.1:$port" },
		version => Sentinai::Test::run($server, '--version') =~ /v=(\S+)/ ? $1 : 'unknown' };
}

END
{
	for my $pid (@redis_pids)
	{
		local $?;
		kill TERM => $pid;
		waitpid $pid, 0;
	}
}

# Calls a second, and how many. A short run says how many calls a second has, since redis-benchmark counts calls.
sub redis_benchmark
{
	my ($where, $of, $depth, $clients) = @_;
	my ($rate, $calls, $all) = (20_000, 0, 0);

	for my $wanted (0.2, 1)
	{
		$calls = int($rate * $wanted) || 1;
		$all += $calls;
		my $out = Sentinai::Test::run('redis-benchmark', @{ $redis->{$where} }, '-c', $clients, '-n', $calls, '-P', $depth, '-r', $of, '--csv', 'EVALSHA', $redis->{sha}, 1, 'key:__rand_int__', 60, 1000);
		($rate) = $out =~ /^"EVALSHA[^"]*","([\d.]+)"/m or die "redis-benchmark: $out";
	}
	return ($rate, $all);
}

# ---------------------------------------------------------------- one client for both

sub build_knock
{
	my ($include, $lib) = map { Sentinai::Test::run('pg_config', "--$_") =~ s/\s+\z//r } qw(includedir libdir);

	Sentinai::Test::run('cc', '-O2', '-Wall', '-Wextra', '-Werror', "-I$include", '-o', "$t->{dir}/knock", 'test/bench/knock.c', "-L$lib", '-lpq', '-lpthread');
	return;
}

sub conninfo
{
	my ($where) = @_;
	return $where eq 'loopback' ? $t->url : "host=$t->{socket} port=$t->{port} user=postgres dbname=sentinai";
}

# Of two statements in turns on the same connections: the first one's calls a second, to the other's
sub knock_pair
{
	my ($ours, $theirs, $where, $clients) = @_;
	my @rate = map { (split)[0] } split /\n/, Sentinai::Test::run("$t->{dir}/knock", 'pair', conninfo($where), $clients, min($clients, 2),
		2 * $seconds, 1, @statement{ $ours, $theirs });
	return $rate[0] / $rate[1];
}

# Calls a second, and how many. what: a key of %statement, "call" for the protocol's message of that name, or a Redis
sub knock
{
	my ($what, $where, $clients) = @_;
	my @server = ref $what ? ('redis', $what->{address}{$where}) : ($what eq 'call' ? 'call' : 'pg', conninfo($where));

	return split ' ', Sentinai::Test::run("$t->{dir}/knock", @server, $clients, min($clients, 2), 1, 1,
		ref $what ? $what->{sha} : $statement{$what} // ());
}

# ---------------------------------------------------------------- the comparison

my %script;

sub write_scripts
{
	%script = (
		select => write_script('select', "$statement{select};\n"),
		check => write_script('check', "$statement{check};\n"),
		check_row => write_script('check_row', "$statement{check_row};\n"),
		allowed => write_script('allowed', "$statement{allowed};\n"),
		hot => keyed('allowed_key', 1),
		many => keyed('allowed_key', $keys),
		row_hot => keyed('row_key', 1),
		row_many => keyed('row_key', $keys),
		select_pipelined => write_script('select_pipelined', pipelined($statement{select})),
		allowed_pipelined => write_script('allowed_pipelined', pipelined($statement{allowed})),
	);
	return;
}

# Groups, and in them key, title, and what measures it with so many clients. What is divided by each other stands in one group, whose members take
# turns, a second each: what else the machine does meets them all.
my @groups = (
	[ one =>
		[ select => 'SELECT 1', sub { pgbench($script{select}, @_) } ],
		[ allowed => 'rate_limit_allowed', sub { pgbench($script{allowed}, @_) } ],
		[ check => 'rate_limit_check, one column', sub { pgbench($script{check}, @_) } ],
		[ check_row => 'SELECT * FROM rate_limit_check', sub { pgbench($script{check_row}, @_) } ],
		[ redis => 'Redis EVALSHA', sub { redis_benchmark('socket', 1, 1, @_) } ],
	],
	[ keys =>
		[ hot => 'rate_limit_allowed, key 1 of 1', sub { pgbench($script{hot}, @_) } ],
		[ many => 'rate_limit_allowed, 100,000 keys', sub { pgbench($script{many}, @_) } ],
		[ redis_many => 'Redis EVALSHA, 100,000 keys', sub { redis_benchmark('socket', $keys, 1, @_) } ],
	],
	[ rows =>
		[ row_hot => 'rows, key 1 of 1', sub { pgbench($script{row_hot}, @_) } ],
		[ row_many => 'rows, 100,000 keys', sub { pgbench($script{row_many}, @_) } ],
	],
	[ pipelined =>
		[ select_pipelined => 'SELECT 1, pipelined', sub { pgbench($script{select_pipelined}, @_, $pipeline) } ],
		[ allowed_pipelined => 'rate_limit_allowed, pipelined', sub { pgbench($script{allowed_pipelined}, @_, $pipeline) } ],
		[ redis_pipelined => 'Redis EVALSHA, pipelined', sub { redis_benchmark('socket', 1, $pipeline, @_) } ],
	],
	[ loopback =>
		[ allowed_loopback => 'rate_limit_allowed, loopback', sub { pgbench($script{allowed}, @_, 1, $t->url) } ],
		[ redis_loopback => 'Redis EVALSHA, loopback', sub { redis_benchmark('loopback', 1, 1, @_) } ],
	],
	map {
		my $where = $_;
		[ client =>
			[ "select_knock_$where" => "one client, $where: SELECT 1", sub { knock('select', $where, @_) } ],
			[ "allowed_knock_$where" => "one client, $where: rate_limit_allowed", sub { knock('allowed', $where, @_) } ],
			[ "call_knock_$where" => "one client, $where: rate_limit_allowed, Function Call", sub { knock('call', $where, @_) } ],
			[ "redis_knock_$where" => "one client, $where: Redis EVALSHA", sub { knock($redis, $where, @_) } ],
			[ "redis_log_$where" => "one client, $where: Redis EVALSHA, with a log", sub { knock($redis_log, $where, @_) } ],
		]
	} qw(socket loopback));
my @with_cpu = qw(select allowed check check_row redis row_hot);

# Title, ours, theirs, goal, and with how many clients the goal is meant
my @ratios = (
	[ 'of SELECT 1', 'allowed', 'select', '>= 0.95' ],
	[ 'of SELECT 1, one column of rate_limit_check', 'check', 'select' ],
	[ 'of SELECT 1, all columns', 'check_row', 'select' ],
	[ 'one hot key, of 100,000 keys', 'hot', 'many', '>= 0.9', 8 ],
	[ 'of Redis, one hot key', 'allowed', 'redis', '>= 1' ],
	[ 'of Redis, 100,000 keys', 'many', 'redis_many', '>= 1' ],
	[ 'of Redis, loopback', 'allowed_loopback', 'redis_loopback', '>= 1' ],
	[ 'of Redis, pipelined', 'allowed_pipelined', 'redis_pipelined' ],
	[ 'of SELECT 1, pipelined', 'allowed_pipelined', 'select_pipelined' ],
	[ 'of rows, one hot key', 'hot', 'row_hot', '>= 20', 8 ],
	[ 'of rows, 100,000 keys', 'many', 'row_many' ],
	(map {
		([ "of SELECT 1, one client, $_", "allowed_knock_$_", "select_knock_$_", '>= 0.95' ],
		[ "of Redis, one client, $_", "allowed_knock_$_", "redis_knock_$_", '>= 1' ],
		[ "of Redis, one client, $_, Function Call", "call_knock_$_", "redis_knock_$_", '>= 1' ],
		[ "of Redis with a log, one client, $_", "allowed_knock_$_", "redis_log_$_" ])
	} qw(socket loopback)),
);

# The best of each, and least CPU a call
sub take_turns
{
	my ($group, $clients, $rate, $cpu) = @_;

	for my $turn (1 .. $seconds)
	{
		for my $contender (@$group)
		{
			my ($key, undef, $measure) = @$contender;
			my ($calls_a_second, $us_a_call) = with_cpu(sub { $measure->($clients) });
			$rate->{$key} = max($rate->{$key} // 0, $calls_a_second);
			$cpu->{$key} = min($cpu->{$key} // $us_a_call, $us_a_call);
		}
	}
	return;
}

# Clients and servers, what is started from now on too, on so many processors. With one client either side waits for the other: on two
# processors what is measured is how long the machine takes to wake an idle one.
sub place
{
	my ($n) = @_;
	my ($postmaster) = split /\n/, Sentinai::Test::slurp("$t->{cluster_dir}/data/postmaster.pid");

	Sentinai::Test::run('taskset', '-acp', join(',', @processors[ 0 .. $n - 1 ]), $_) for $$, $postmaster, @redis_pids;
	return;
}

# of: 8, clients on all processors, or 1/1, clients and how many processors
sub wire
{
	my ($of) = @_;
	my ($clients, $on) = split m{/}, $of;
	my @chosen = map { my ($name, @members) = @$_; $group{$name} ? \@members : () } @groups;
	my %title = map { $_->[0] => $_->[1] } map { @$_ } @chosen;
	my (%rate, %cpu);

	place($on // scalar @processors);
	if ($group{pair})
	{
		note_figure("    $of: ratio of SELECT 1, in turns on the same connections, $_", '', knock_pair('allowed', 'select', $_, $clients), '>= 0.95')
		  for qw(socket loopback);
	}
	take_turns($_, $clients, \%rate, \%cpu) for @chosen;
	note_figure("$of: $_->[1]", 'calls/s', $rate{ $_->[0] }) for map { @$_ } @chosen;
	for my $ratio (@ratios)
	{
		my ($what, $ours, $theirs, $goal, $when) = @$ratio;
		next if !$rate{$ours} || !$rate{$theirs};
		note_figure("    $of: ratio $what", '', $rate{$ours} / $rate{$theirs}, !$when || $when == $clients ? $goal : undef);
	}
	note_figure("    $of: CPU of $title{$_}", 'us/call', $cpu{$_}) for grep { $cpu{$_} } @with_cpu;
	place(scalar @processors);
	return;
}

# ---------------------------------------------------------------- memory

sub kib
{
	my ($pid, $field) = @_;
	my ($kib) = Sentinai::Test::slurp("/proc/$pid/status") =~ /^$field:\s*(\d+)/m;
	return $kib;
}

# Of a backend of its own: what it touches of shared memory, and what it has for itself
sub memory
{
	$session = $t->session;
	my $pid = $session->sql('SELECT pg_backend_pid()');
	my ($shared, $private) = map { kib($pid, $_) } qw(RssShmem RssAnon);
	my $segment = $t->sql(q{SELECT sum(allocated_size) FROM pg_shmem_allocations WHERE name LIKE 'sentinai rate limit%'});
	my $took = 0;

	for my $type (@types)
	{
		$took += seconds_of("SELECT count(allowed) FROM sentinai.rate_limit_check_batch("
			  . "ARRAY(SELECT tenant_id FROM sentinai.tenant WHERE tenant_id ~ '^T'), '$type')");
	}
	note_figure('memory: shared, reserved for 4.4 million slots', 'MiB', $segment / 1024**2);
	note_figure('memory: shared, touched by 1 million tenants x 4', 'MiB', (kib($pid, 'RssShmem') - $shared) / 1024);
	note_figure('memory: of that, a slot', 'bytes', (kib($pid, 'RssShmem') - $shared) * 1024 / $tenants / @types);
	note_figure('memory: private, of the backend that called', 'MiB', (kib($pid, 'RssAnon') - $private) / 1024);
	note_figure('memory: first check of each of them', 'checks/s', $tenants * @types / $took);
	return;
}

# ---------------------------------------------------------------- the run

sub prepare
{
	my $limits = join ', ', map { "rate_limit_type_set('$_', 1000000000000, 60)" } @types;

	$session->sql('SET search_path = sentinai, public');
	$t->sql(<<"SQL");
SET search_path = sentinai, public;
SELECT activate(), $limits, rate_limit_type_set('full', 1, 60);
INSERT INTO tenant (tenant_id) SELECT 'T' || n FROM generate_series(1, $tenants) n UNION ALL SELECT n::text FROM generate_series(1, $keys) n;
ANALYZE tenant;
SELECT count(*) FROM rate_limit_check_batch(ARRAY(SELECT n::text FROM generate_series(1, $keys) n), 'api_requests');
SQL
	make_row_limiter();
	build_knock();
	$redis = start_redis('redis');
	$redis_log = start_redis('redis-log', '--appendonly', 'yes', '--appendfsync', 'everysec');
	write_scripts();
	return;
}

prepare();
for my $round (1 .. $rounds)
{
	process() if $part{process};
	$part{wire} and wire($_) for split ' ', $ENV{BENCH_CLIENTS} // '1 1/1 2 8';
}
memory() if $part{memory};
report(
	$t, 'limits', "$rounds rounds; over the wire with 1, 2 and 8 clients the best of $seconds s, pipelined by $pipeline; $calls calls in process; Redis $redis->{version}",
	rounds => $rounds, seconds => $seconds, calls => $calls, redis => $redis->{version});
pass('the figures are above');
done_testing();
