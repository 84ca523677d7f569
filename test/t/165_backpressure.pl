# Backpressure with real Kafka and real workers: two tenants over their rates, a worker killed in the middle, the database
# too. Every event is handled once, in order per exception, and never faster than the limit's definition allows.

use Sentinai::Test;
use Time::HiRes qw(time);

my ($limit, $window) = (50, 1);
my $slow = 10;		# of LOUD, until all has been seen that is to be seen while it waits
my $t = Sentinai::Test->new(kafka => 1);
my %sent;

$t->topic(press => 3);
$t->sql(<<"SQL");
SET search_path = sentinai, public;
SELECT tenant_add('LOUD'), tenant_add('QUIET'), tenant_add('FREE');
SELECT event_type_add('Pressed'), event_type_add('Echoed');
CREATE SCHEMA app;
GRANT USAGE ON SCHEMA app TO sentinai_handler;
CREATE TABLE app.done (n bigserial, tenant_id text, event_id text, exception_id text, number integer,
					   at timestamptz NOT NULL DEFAULT statement_timestamp());
CREATE TABLE app.echoed (event_id text);
GRANT INSERT ON ALL TABLES IN SCHEMA app TO sentinai_handler;
GRANT USAGE ON ALL SEQUENCES IN SCHEMA app TO sentinai_handler;
-- Every tenth event of QUIET has an echo in the same topic: ours, and free.
CREATE FUNCTION app.on_pressed(e sentinai.event[]) RETURNS void LANGUAGE sql AS \$\$
	INSERT INTO app.done (tenant_id, event_id, exception_id, number)
		SELECT x.tenant_id, x.event_id, x.exception_id, (x.payload ->> 'number')::integer FROM unnest(e) x;
	SELECT sentinai.emit(x, 'Echoed', '{}', x.exception_id, 'press') FROM unnest(e) x
	 WHERE x.tenant_id = 'QUIET' AND (x.payload ->> 'number')::integer % 10 = 0;
\$\$;
CREATE FUNCTION app.on_echoed(e sentinai.event[]) RETURNS void LANGUAGE sql AS
	'INSERT INTO app.echoed SELECT x.event_id FROM unnest(e) x';
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA app TO sentinai_handler;
SELECT worker_type_add('press', 'press'), worker_type_own('press');
SELECT handler_add('press', 'Pressed', 'app.on_pressed'), handler_add('press', 'Echoed', 'app.on_echoed');
SELECT rate_limit_set('LOUD', 'events_ingested', $slow, $window), rate_limit_set('QUIET', 'events_ingested', $limit, $window);
SQL

# Sends so many events of a tenant, over ten exceptions, a fifth of them without one.
sub send_events
{
	my ($tenant, $n) = @_;
	my @records;

	for my $number (map { $sent{$tenant}++ } 1 .. $n)
	{
		my $exception = $number % 5 == 4 ? undef : "E" . $number % 11;
		my $id = "$tenant-$number";
		my $json = $exception ? qq("$exception") : 'null';

		push @records,
		  { key => "$tenant:" . ($exception // $id),
			value => qq({"event_id": "$id", "event_type": "Pressed", "tenant_id": "$tenant", "exception_id": $json,)
			  . qq( "payload": {"number": $number}}) };
	}
	$t->produce(press => @records);
	return;
}

sub done { return $t->sql("SELECT count(*) FROM app.done WHERE tenant_id = '$_[0]'") }

# The most that were charged in any stretch of so many windows, before the server crashed or after. (A crash may forget
# what was charged in the last second.)
sub most
{
	my ($tenant, $windows, $crashed) = @_;
	my $seconds = $windows * $window;

	return $t->sql("SELECT max(n) FROM (SELECT count(*) OVER (PARTITION BY at < '$crashed' ORDER BY at
								   RANGE BETWEEN CURRENT ROW AND '$seconds s' FOLLOWING) AS n
					  FROM app.done WHERE tenant_id = '$tenant') w");
}

my $w = $t->worker(WORKER_TYPE => 'press', CONCURRENCY => 2, GROUP_ID => 'press', KAFKA_CONF_SESSION_TIMEOUT_MS => 3000);

my $began = time;
send_events(LOUD => 800);
$t->wait_for_sql("SELECT count(*) > 0 FROM sentinai.event_pending WHERE tenant_id = 'LOUD' AND rate_limit IS NOT NULL", 't',
	name => 'events over the rate wait');

# Another tenant's few, behind them in the same partitions
send_events(FREE => 20);
$t->wait_for_sql("SELECT count(*) FROM app.done WHERE tenant_id = 'FREE'", '20', name => 'another tenant is not held up');
cmp_ok(done('LOUD'), '<', 800, '... while the loud one still waits');
send_events(QUIET => 120);
$t->wait_for_sql("SELECT count(*) FROM app.done WHERE tenant_id = 'QUIET'", '120', name => 'nor is one with a little over its own rate');
cmp_ok(done('LOUD'), '<', 800, '... while the loud one still waits');

# The worker is killed, then the server
$w->kill;
send_events(LOUD => 100);
$w->start;
my $before = done('LOUD');
$t->wait_for('the queue to go on', sub { done('LOUD') > $before });
$t->cluster('kill');
$t->cluster('start');
my $crashed = $t->sql('SELECT clock_timestamp()');
$before = done('LOUD');
$t->wait_for('the queue to go on', sub { done('LOUD') > $before });
is($t->sql("SELECT backlog > 0 AND ends_at > now() FROM sentinai.rate_limit_forecast('LOUD')"), 't', 'the queue is still there');
$t->sql("SELECT sentinai.rate_limit_set('LOUD', 'events_ingested', $limit, $window)");

$t->wait_for_sql("SELECT count(*), count(DISTINCT event_id) FROM app.done WHERE tenant_id = 'LOUD'", '900|900',
	name => 'every event is handled once');
cmp_ok(time - $began, '>', (900 - 3 * $limit) / $limit * $window * 0.9, 'it took the time that the rate says');
$t->wait_for_sql('SELECT count(*) FROM sentinai.event_pending', '0', name => 'nothing waits any more');
is($t->sql('SELECT count(*) FROM sentinai.key_state'), '0', 'no exception is blocked');
is($t->sql('SELECT count(*) FROM sentinai.dead_letter_queue'), '0', 'nothing is a dead letter');
is($t->sql(<<'SQL'), '0', 'in order per exception');
SELECT count(*) FROM (SELECT number < lag(number) OVER (PARTITION BY tenant_id, exception_id ORDER BY n) AS late
						FROM app.done WHERE exception_id IS NOT NULL) o WHERE late
SQL
for my $tenant (qw(LOUD QUIET))
{
	cmp_ok(most($tenant, 1, $crashed), '<', 2 * $limit, "$tenant is never faster than the window's definition");
	cmp_ok(most($tenant, 5, $crashed), '<', 6 * $limit, '... nor over five windows');
}
$t->wait_for_sql('SELECT count(DISTINCT event_id), count(*) FROM app.echoed', '12|12', name => 'what is ours has come back');
is($t->sql("SELECT count(*) FROM sentinai.event_log WHERE event_type = 'BackpressureApplied' AND tenant_id = 'FREE'"), '0',
	'no BackpressureApplied for who was not over');
is($t->sql(<<'SQL'), 't', 'BackpressureApplied once a window at most');
SELECT count(*) > 0 AND count(*) = count(DISTINCT event_id)
  FROM sentinai.event_log WHERE event_type = 'BackpressureApplied' AND tenant_id = 'LOUD'
SQL
is($w->stop, 0, 'the worker stops in good order');
done_testing();
