# The worker's HTTP port: pages, their status codes in good and bad times, and metrics that Prometheus can read and that
# docs/metrics.md knows.
use lib 'test/perl';
use Sentinai::Test;
use JSON::PP qw(decode_json);

my $t = Sentinai::Test->new(kafka => 1);

$t->topic(exceptions => 2);
$t->sql(q{SELECT sentinai.tenant_add('T1')});

my $worker = $t->worker(WORKER_TYPE => 'intake', LOG_FORMAT => 'logfmt', HTTP_PORT => 0);

# ---------------------------------------------------------------- in good times

$t->wait_for('the worker to be ready', sub { ($worker->http('/readyz'))[0] == 200 });
is(page('/readyz')->{status}, 'ready', '/readyz');
is(page('/healthz')->{status}, 'ok', '/healthz');
$t->wait_for('the worker to be well', sub { page('/health')->{status} eq 'healthy' });
is(page('/health')->{worker_type}, 'intake', '/health says who it is');
ok(defined page('/health/db')->{status}, '/health/db');
$t->wait_for('its heartbeat', sub { page('/health/workers')->{total_workers} == 1 });
is(page('/health/workers')->{workers}[0]{worker_type}, 'intake', '/health/workers');

# ---------------------------------------------------------------- what is no page

my ($status, $head, $body) = curl('/nothing');
is($status, 404, 'an unknown path: 404');
ok(decode_json($body)->{error}, 'with a JSON body');
for my $method (qw(POST PUT DELETE))
{
	($status, $head, $body) = curl('/health', '-X', $method, '-d', 'x' x 100_000);
	is($status, 405, "$method: 405");
	like($head, qr/^Allow: GET, HEAD\r$/m, 'that names what is allowed');
	ok(decode_json($body)->{error}, 'with a JSON body');
}
($status, $head, $body) = curl('/health', '-I');
is($status, 200, 'HEAD');
like($head, qr{^Content-Type: application/json\r$}m, 'has the headers');
is($body, '', 'and no body');

# ---------------------------------------------------------------- metrics

($status, $head, $body) = curl('/metrics');
is($status, 200, '/metrics');
like($head, qr{^Content-Type: text/plain; version=0\.0\.4}m, 'is what Prometheus wants');

my %families = parse_metrics($body);
my %documented = documented('docs/metrics.md');
for my $name (qw(events_processed_total processing_latency_seconds failures_total retries_total dlq_size
	events_in_processing kafka_consumer_lag))
{
	ok($families{$name}, "there is $name");
}
is_deeply({ map { $_ => $families{$_}{type} } keys %families }, $documented{worker},
	'docs/metrics.md has the worker\'s metrics, and no other');
my %total = parse_metrics($t->sql('SELECT sentinai.metrics()'));
is_deeply({ map { $_ => $total{$_}{type} } keys %total }, $documented{database},
	'docs/metrics.md has the database\'s metrics, and no other');
is($families{dlq_size}{samples}{'tenant_id="all"'}, 0, 'no dead letters yet');

# ---------------------------------------------------------------- events come through

$t->produce(exceptions => map { { key => "T1:X$_", value => event("E$_") } } 1 .. 50);
$t->produce(exceptions => { key => 'T1:bad', value => 'no JSON' });
$t->wait_for('the events to be counted', sub { sample('events_processed_total',
	'worker_type="intake",event_type="ExceptionIngested",tenant_id="all",status="succeeded"') == 50 });
%families = parse_metrics((curl('/metrics'))[2]);
is($families{processing_latency_seconds}{count}{'worker_type="intake",event_type="ExceptionIngested",tenant_id="all"'}, 50,
	'each has a latency');
$t->wait_for('the dead letter to be counted', sub { sample('dlq_size', 'tenant_id="all"') == 1 });
$t->wait_for('the lag to be none', sub {
	sample('kafka_consumer_lag', 'topic="exceptions",group_id="intake-workers"') == 0 });
$t->wait_for('what they emitted to be published', sub {
	sample('sentinai_outbox_published_total', 'worker_type="intake"') >= 50 });
$t->wait_for('nothing to be in processing', sub { sample('events_in_processing', 'worker_type="intake"') == 0 });

# ---------------------------------------------------------------- a taken port

my $second = $t->worker(WORKER_TYPE => 'intake', METRICS_INCLUDE_TENANT_ID => 'true', HTTP_PORT => 0, name => 'second');
my $port = port($worker);
$second->wait_log(qr/http_port=(\d+)/);
isnt(port($second), $port, 'a second worker of the type finds a port of its own');
is((port($second) - $port) % 10, 0, 'ten or twenty ... above');
$t->wait_for('the second to be ready', sub { ($second->http('/readyz'))[0] == 200 });
$t->wait_for_sql(q{SELECT count(DISTINCT http_port) FROM sentinai.worker_list()}, '2', name => 'the heartbeats name both');
is($second->stop, 0, 'it ends');

# ---------------------------------------------------------------- in bad times

$t->cluster('immediate');
$t->wait_for('/readyz to see that the database is away', sub { ($worker->http('/readyz'))[0] == 503 });
ok(page('/readyz')->{missing}{database}, 'and to name it');
is_deeply([ ($worker->http('/health'))[0], page('/health')->{status} ], [ 200, 'degraded' ], '/health: 200, degraded');
is(($worker->http('/healthz'))[0], 200, '/healthz: a restart would not help');
is(($worker->http('/health/db'))[0], 503, '/health/db: 503');
ok(page('/health/db')->{error}, 'that says why');
is(($worker->http('/health/workers'))[0], 503, '/health/workers: 503');
is(($worker->http('/metrics'))[0], 200, '/metrics still answers');
is(sample('sentinai_connection_up', 'worker_type="intake",to="database"'), 0, 'and shows it');
$t->wait_for('no figure rather than an old one', sub { !defined sample('dlq_size', 'tenant_id="all"') });
$t->cluster('start');
$t->wait_for('the worker to be ready again', sub { ($worker->http('/readyz'))[0] == 200 });
$t->wait_for('the figure to be back', sub { (sample('dlq_size', 'tenant_id="all"') // -1) == 1 });

# Which of librdkafka's connections goes last is chance.
for my $round (1 .. 3)
{
	$t->kafka('kill');
	$t->wait_for('/readyz to see that the broker is away', sub { ($worker->http('/readyz'))[0] == 503 });
	ok(page('/readyz')->{missing}{broker}, 'and to name it');
	is_deeply([ ($worker->http('/health'))[0], page('/health')->{status} ], [ 200, 'degraded' ], '/health: 200, degraded');
	is(($worker->http('/healthz'))[0], 200, '/healthz: a restart would not help');
	is(($worker->http('/health/db'))[0], 200, '/health/db: the database is well');
	$t->kafka('start');
	$t->wait_for('the worker to be ready once more', sub { ($worker->http('/readyz'))[0] == 200 });
}

is($worker->stop, 0, 'and it ends in order');

done_testing();

# ================================================================

sub page
{
	my ($path) = @_;
	return decode_json(($worker->http($path))[1]);
}

sub port
{
	my ($process) = @_;
	my ($port) = $process->log =~ /http_port=(\d+)/;
	return $port;
}

# (status, head, body)
sub curl
{
	my ($path, @arguments) = @_;
	my $url = 'http://127.0.0.1:' . port($worker) . $path;
	my (undef, $out) = Sentinai::Test::capture({}, 'curl', '-sS', '-i', '-m', 30, '-H', 'Expect:', @arguments, $url);
	my ($head, $body) = split /\r\n\r\n/, $out, 2;
	my ($code) = $head =~ m{^HTTP/\S+ (\d+)};
	return ($code, "$head\r\n", $body // '');
}

sub event
{
	my ($id) = @_;
	return qq({"event_id": "$id", "event_type": "ExceptionIngested", "tenant_id": "T1", "exception_id": "$id",
		"timestamp": "2025-01-15T10:00:00Z", "payload": {"type": "x", "severity": "high"}});
}

sub sample
{
	my ($name, $labels) = @_;
	my %now = parse_metrics((curl('/metrics'))[2]);
	return $now{$name}{samples}{$labels};
}

# Exposition format 0.0.4, strictly: HELP and TYPE before samples, families in one piece, no series twice, buckets that
# rise up to +Inf, which is the count.
sub parse_metrics
{
	my ($text) = @_;
	my %family;
	my $name;
	my @wrong;

	for my $line (split /\n/, $text)
	{
		if ($line =~ /^# HELP ([a-zA-Z_:][\w:]*) .+$/)
		{
			$name = $1;
			push @wrong, "family twice: $name" if $family{$name};
			$family{$name} = { samples => {} };
		}
		elsif ($line =~ /^# TYPE ([a-zA-Z_:][\w:]*) (counter|gauge|histogram)$/)
		{
			push @wrong, "TYPE of another family: $line" if $1 ne $name;
			$family{$name}{type} = $2;
			push @wrong, "counter without _total: $name" if $2 eq 'counter' && $name !~ /_total$/;
		}
		elsif ($line =~ /^([a-zA-Z_:][\w:]*?)(_bucket|_sum|_count)?(?:\{((?:\w+="(?:[^"\\\n]|\\[\\"n])*",?)*)\})? (\S+)$/)
		{
			my ($base, $suffix, $labels, $value) = ($1, $2 // '', $3 // '', $4);
			if ("$base$suffix" eq $name) { ($base, $suffix) = ($name, '') }
			push @wrong, "sample of another family: $line" if $base ne $name;
			push @wrong, "no number: $line" if $value !~ /^-?(?:\d+(?:\.\d+)?(?:e[+-]?\d+)?|NaN|[+-]Inf)$/;
			if ($suffix eq '_bucket')
			{
				my ($le) = $labels =~ s/,?le="([^"]*)"// ? $1 : push @wrong, "no le: $line";
				push @wrong, "falling buckets: $line" if $value < ($family{$name}{bucket}{$labels}{last} // 0);
				@{ $family{$name}{bucket}{$labels} }{ 'last', $le } = ($value, $value);
			}
			elsif ($suffix) { $family{$name}{ $suffix =~ s/^_//r }{$labels} = $value }
			else
			{
				push @wrong, "series twice: $line" if exists $family{$name}{samples}{$labels};
				$family{$name}{samples}{$labels} = $value;
			}
		}
		else { push @wrong, "no line of the format: $line" }
	}
	for my $f (grep { $_->{type} eq 'histogram' } values %family)
	{
		for my $labels (keys %{ $f->{count} })
		{
			push @wrong, "+Inf is not the count: $labels"
			  if ($f->{bucket}{$labels}{'+Inf'} // -1) != $f->{count}{$labels};
		}
	}
	if (@wrong)
	{
		fail('metrics are well formed');
		diag($_) for @wrong;
	}
	return %family;
}

# The tables under "Of a worker" and "Of the database": name -> type
sub documented
{
	my ($file) = @_;
	my %names = (worker => {}, database => {});
	my $of;

	for my $line (split /\n/, Sentinai::Test::slurp($file))
	{
		$of = { 'Of a worker' => 'worker', 'Of the database' => 'database' }->{$1} if $line =~ /^## (.*)/;
		$names{$of}{$1} = $2 if $of && $line =~ /^\| `(\w+)` \| (counter|gauge|histogram) \|/;
	}
	return %names;
}
