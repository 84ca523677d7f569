# http: how many requests a second the HTTP surface answers, by wrk, and how long the slowest of a hundred takes. `make
# bench-http` calls it; docs/performance.md tells what the figures mean.
#
# The measure is PostgREST's own `SELECT 1`: a function of the same schema by a PostgREST of its own on the same database,
# without nginx, without our db-pre-request. Each round measures everything once, one after the other, and a ratio is of
# two figures of one round; what is shown is the median of the rounds. Beside them stands the CPU of a request, in
# microseconds, by who spent it: of two that share a machine it is what says whose work grew.
#
# What is not ours is measured too: `SELECT 1` behind nginx alone, behind the pre-request alone, and behind both; a function
# that answers the bytes of a list of 100 as they are; and one in plain SQL that writes what a retry writes, three rows into
# tables with the same columns, checks and indexes.
#
# BENCH_SECONDS      of each measurement, 4
# BENCH_ROUNDS       3
# BENCH_CONNECTIONS  8
use Sentinai::Bench;
use Sentinai::Test;
use POSIX ();

my $seconds = $ENV{BENCH_SECONDS} // 4;
my $rounds = $ENV{BENCH_ROUNDS} // 3;
my $connections = $ENV{BENCH_CONNECTIONS} // 8;
my $dead_letters = 200_000;
my $t = Sentinai::Test->new(settings => 'max_wal_size = 8GB; checkpoint_timeout = 1h');

$t->sql(<<"SQL");
SELECT sentinai.tenant_add(t) FROM unnest(ARRAY['TENANT_001', 'TENANT_002', 'TENANT_003']) t;
SELECT sentinai.rate_limit_set(t, 'api_requests', 1000000000) FROM unnest(ARRAY['TENANT_001', 'TENANT_003']) t;
SELECT sentinai.rate_limit_set('TENANT_002', 'api_requests', 1, 86400);
INSERT INTO sentinai.dead_letter_queue (event_id, event_type, tenant_id, exception_id, worker_type, step, error_type, error_message,
	fingerprint, original_topic, original_partition, original_offset, payload, payload_raw)
SELECT 'EVT_' || n, 'ExceptionIngested', CASE WHEN n > $dead_letters THEN 'TENANT_003' ELSE 'TENANT_001' END, 'EXC_' || n, 'intake', 'handle', 'timeout', 'it took too long', 'f', 'exceptions', 0, n,
	'{"amount": 1}', '\\x7b7d' FROM generate_series(1, $dead_letters + 100) n;
CREATE FUNCTION sentinai_api.bench_one() RETURNS integer LANGUAGE sql STABLE AS 'SELECT 1';
CREATE TABLE bench_list (body json);
CREATE FUNCTION sentinai_api.bench_list() RETURNS json LANGUAGE sql STABLE AS 'SELECT body FROM public.bench_list';
CREATE TABLE bench_dlq (LIKE sentinai.dead_letter_queue INCLUDING ALL);
INSERT INTO bench_dlq OVERRIDING SYSTEM VALUE SELECT * FROM sentinai.dead_letter_queue;
CREATE TABLE bench_history (LIKE sentinai.dlq_history INCLUDING ALL);
CREATE TABLE bench_outbox (LIKE sentinai.outbox_0 INCLUDING ALL);
CREATE FUNCTION sentinai_api.bench_write(jsonb) RETURNS json LANGUAGE sql VOLATILE AS \$\$
	INSERT INTO public.bench_outbox (id, topic, partition, key, headers, value, tenant_id, event_id, event_type, dlq_id, dlq_token)
	SELECT d.id, d.original_topic, d.original_partition, d.record_key, d.record_headers, d.payload_raw, d.tenant_id, d.event_id, d.event_type, d.id, gen_random_uuid()
	  FROM public.bench_dlq d WHERE d.id = (\$1->>'id')::bigint;
	INSERT INTO public.bench_history (dlq_id, tenant_id, action, from_status, to_status, token, reason)
	SELECT d.id, d.tenant_id, 'retry', d.status, 'retrying', gen_random_uuid(), \$1->>'reason' FROM public.bench_dlq d WHERE d.id = (\$1->>'id')::bigint;
	UPDATE public.bench_dlq d SET status = 'retrying', retry_token = gen_random_uuid(), retried_at = now(), updated_at = now()
	 WHERE d.id = (\$1->>'id')::bigint
	RETURNING json_build_object('id', d.id, 'status', d.status, 'retried_at', d.retried_at, 'retry_count', d.retry_count, 'via', 'kafka');
\$\$;
GRANT EXECUTE ON FUNCTION sentinai_api.bench_one(), sentinai_api.bench_list(), sentinai_api.bench_write(jsonb) TO sentinai_operator;
GRANT SELECT ON bench_list TO sentinai_operator;
GRANT SELECT, INSERT, UPDATE ON bench_dlq, bench_history, bench_outbox TO sentinai_operator;
VACUUM ANALYZE sentinai.dead_letter_queue, bench_dlq
SQL
my $h = $t->http;
my $bare = do { local $ENV{PGRST_DB_PRE_REQUEST} = ''; Sentinai::Http->new($t, dir => "$t->{dir}/http-bare") };
my $token = $h->token('sentinai_operator', 'TENANT_001', 'ann');
my $limited = $h->token('sentinai_operator', 'TENANT_002', 'bob');
my $next_id = 1;

my $few = $h->token('sentinai_operator', 'TENANT_003', 'ann');
my $of_few = 'tenant_id=TENANT_003';

# What a POST sends; each is another dead letter's
my %post = (
	retry => q{'/ops/dlq/' .. id .. '/retry?tenant_id=TENANT_001', nil, '{"reason": "bench"}'},
	write => q{'/rpc/bench_write', nil, '{"id": ' .. id .. ', "reason": "bench"}'},
);

# name, PostgREST's or nginx's address, what to ask, with which token, the status that is right
my @what = (
	[ '`SELECT 1`, PostgREST alone', $bare->postgrest, 'GET /rpc/bench_one', $few, 200 ],
	[ '`SELECT 1`, through nginx', $bare->url, 'GET /bench_one', $few, 200 ],
	[ '`SELECT 1`, with the pre-request', $h->postgrest, 'GET /rpc/bench_one', $few, 200 ],
	[ '`SELECT 1`, through nginx, with the pre-request', $h->url, 'GET /bench_one', $few, 200 ],
	[ '`GET /ops/dlq`, 1 row of 100', $h->url, "GET /ops/dlq?$of_few&limit=1", $few, 200 ],
	[ '`GET /ops/dlq`, 100 rows of 100', $h->url, "GET /ops/dlq?$of_few&limit=100&offset=0", $few, 200 ],
	[ 'the bytes of those 100, PostgREST alone', $bare->postgrest, 'GET /rpc/bench_list', $few, 200 ],
	[ '`GET /ops/dlq`, 100 rows of 200,000', $h->url, 'GET /ops/dlq?tenant_id=TENANT_001&limit=100&offset=0', $token, 200 ],
	[ '`GET /ops/dlq/{id}`', $h->url, 'GET /ops/dlq/' . ($dead_letters + 7) . "?$of_few", $few, 200 ],
	[ '`POST /ops/dlq/{id}/retry`', $h->url, 'POST retry', $token, 200 ],
	[ 'what a retry writes, PostgREST alone', $bare->postgrest, 'POST write', $token, 200 ],
	[ '`GET /ops/dlq` at its limit: 429', $h->url, 'GET /ops/dlq?tenant_id=TENANT_002', $limited, 429 ],
);
# the keys of both are those of the first
Sentinai::Test::run('cp', '-p', "$h->{dir}/jwks.json", "$bare->{dir}/jwks.json");
$bare->http('reload');
$t->wait_for('the keys', sub { $bare->get('/rpc/bench_one', token => $few, direct => 1)->{status} == 200 });
$h->get('/ops/dlq?tenant_id=TENANT_002', token => $limited);
add_path($_, '/bench_one', '/rpc/bench_one') for $bare, $h;
$t->sql(sprintf q{INSERT INTO bench_list VALUES ($body$%s$body$)}, $h->get("/ops/dlq?$of_few&limit=100&offset=0", token => $few)->{body});
my %figures;

for my $round (1 .. $rounds)
{
	for my $what (@what)
	{
		my $figure = measure(@$what);
		push @{ $figures{ $what->[0] } }, { %$figure, round => $round };
		note(sprintf '%d  %-40s %8.0f/s  p99 %7.2f ms  CPU %5.0f us: nginx %.0f, PostgREST %.0f, PostgreSQL %.0f', $round, $what->[0],
			@$figure{qw(per_second p99 cpu nginx postgrest postgres)});
	}
}
print table();
ok(1, 'measured');
done_testing();

sub measure
{
	my ($name, $url, $ask, $token, $status) = @_;
	my ($method, $path) = split / /, $ask, 2;
	my $script = "$t->{dir}/wrk.lua";

	open my $handle, '>', $script or die "$script: $!";
	print {$handle} lua($method, $path, $token, $status);
	close $handle;
	my %before = cpu();
	my ($failed, $out, $err) = Sentinai::Test::capture({}, 'wrk', '-t', 1, '-c', $connections, '-d', "${seconds}s", '--latency', '--timeout', '30s', '-s', $script, $url);
	die "wrk: $out$err" if $failed;
	my %after = cpu();
	my ($requests, $per_second, $p99, $wrong, $last) = $out =~ /^figures (\d+) ([\d.]+) ([\d.]+) (\d+) (\d+)/m or die "wrk said: $out$err";
	my %cpu = map { $_ => ($after{$_} - $before{$_}) / $requests } keys %after;
	die "$name: $wrong answers were not $status\n$out" if $wrong;
	$next_id = $last;
	return { %cpu, cpu => $cpu{nginx} + $cpu{postgrest} + $cpu{postgres}, per_second => $per_second, p99 => $p99 };
}

# Microseconds that each has spent so far
sub cpu
{
	my ($postmaster) = split /\n/, Sentinai::Test::slurp("$t->{cluster_dir}/data/postmaster.pid");
	my %pids = (postgres => [$postmaster], map { my $who = $_; $who => [ map { Sentinai::Test::slurp("$_->{dir}/$who.pid") + 0 } $h, $bare ] } qw(nginx postgrest));
	my %spent = map { $_ => 0 } keys %pids;
	my %whose = map { my $who = $_; map { $_ => $who } @{ $pids{$who} } } keys %pids;

	for my $file (glob '/proc/[0-9]*/stat')
	{
		open my $handle, '<', $file or next;
		my ($pid, @field) = split ' ', scalar(<$handle>) =~ s/ \(.*\)//r;
		my $who = $whose{$pid} // $whose{ $field[1] } or next;
		$spent{$who} += ($field[11] + $field[12]) * 1e6 / POSIX::sysconf(POSIX::_SC_CLK_TCK());
	}
	return %spent;
}

# A path of nginx's that the shipped configuration doesn't have
sub add_path
{
	my ($http, $path, $call) = @_;
	my $file = "$http->{dir}/sentinai.conf";
	my $text = Sentinai::Test::slurp($file);

	$text =~ s{^map \$sn_path \$sn_name \{\n}{$&\t"~^$path\$" bench;\n}m or die "$file has no paths";
	$text =~ s{^map "\$sn_method \$sn_name" \$sn_call \{\n}{$&\t"GET bench" $call;\n}m or die "$file has no calls";
	open my $handle, '>', $file or die "$file: $!";
	print {$handle} $text;
	close $handle or die "$file: $!";
	kill HUP => Sentinai::Test::slurp("$http->{dir}/nginx.pid") + 0;
	$t->wait_for($path, sub { $http->get($path, token => $few)->{status} == 200 });
	return;
}

sub lua
{
	my ($method, $path, $token, $status) = @_;
	my $request = $method eq 'POST' ? "id = id + 1; return wrk.format('POST', $post{$path})" : "return wrk.format('$method', '$path')";

	return <<"LUA";
local threads = {}
id = $next_id
wrong = 0
function setup(thread) table.insert(threads, thread) end
wrk.headers['Authorization'] = 'Bearer $token'
wrk.headers['Content-Type'] = 'application/json'
function request() $request end
function response(status) if status ~= $status then wrong = wrong + 1 end end
function done(summary, latency)
	local all, last = 0, 0
	for _, thread in ipairs(threads) do all = all + thread:get('wrong'); last = math.max(last, thread:get('id')) end
	print(string.format('figures %d %.1f %.3f %d %d', summary.requests, summary.requests / summary.duration * 1e6, latency:percentile(99) / 1e3, all, last))
end
LUA
}

sub median { my @sorted = sort { $a <=> $b } @_; return $sorted[ @sorted / 2 ] }

sub table
{
	my @base = @figures{ '`SELECT 1`, PostgREST alone', '`SELECT 1`, through nginx, with the pre-request' };
	my $text = "| | requests/s | p99, ms | beside `SELECT 1` | beside it behind both | CPU, us: nginx | PostgREST | PostgreSQL |\n"
	  . "| --- | --- | --- | --- | --- | --- | --- | --- |\n";

	for my $name (map { $_->[0] } @what)
	{
		my @of = @{ $figures{$name} };
		$text .= sprintf "| %s | %.0f | %.1f | %.2f | %.2f | %.0f | %.0f | %.0f |\n", $name, median(map { $_->{per_second} } @of), median(map { $_->{p99} } @of),
		  (map { my $base = $_; median(map { $of[$_]{per_second} / $base->[$_]{per_second} } 0 .. $#of) } @base),
		  map { my $who = $_; median(map { $_->{$who} } @of) } qw(nginx postgrest postgres);
	}
	return $text;
}
