# A handler that kills its backend restarts the server, and what is sent again does it again. The one event that does it
# ends as a dead letter; the good ones around it, and those in flight in other sessions, are handled once; and kills from
# outside convict nobody.
use Sentinai::Test;

my $t = Sentinai::Test->new(kafka => 1);
my $search = 'SET search_path = sentinai, public;';

# ---------------------------------------------------------------- a house that can burn

Sentinai::Test::run('make', '-s', '-C', "$Sentinai::Test::top/test/modules/crash", 'install', "PG_CONFIG=$t->{bin}/pg_config");
$t->topic(burning => 2);
$t->sql(<<'SQL');
SET search_path = sentinai, public;
CREATE SCHEMA app;
CREATE TABLE app.done (event_id text);
CREATE TABLE app.gate (closed boolean);
CREATE FUNCTION app.crash() RETURNS void LANGUAGE c AS '$libdir/crash';
CREATE FUNCTION app.work(e sentinai.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO app.done VALUES (e.event_id);
	PERFORM pg_sleep((e.payload->>'seconds')::float8);
	IF e.payload ? 'crash' THEN
		PERFORM app.crash();
	END IF;
	WHILE e.payload ? 'gate' AND EXISTS (SELECT FROM app.gate) LOOP
		PERFORM pg_sleep(0.01);
	END LOOP;
END $$;
GRANT USAGE ON SCHEMA app TO sentinai_handler;
GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA app TO sentinai_handler;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA app TO sentinai_handler;
SELECT tenant_add('TENANT_001');
SELECT event_type_add('Burning');
SELECT worker_type_add('fire', 'burning');
SELECT handler_add('fire', 'Burning', 'app.work');
SQL

my %handled;    # good events that were sent

sub record
{
	my ($partition, $id, $payload) = @_;
	$handled{$id} = 1 if $payload !~ /crash/;
	return {
		partition => $partition, key => "TENANT_001:$id",
		value => qq({"event_id": "$id", "event_type": "Burning", "tenant_id": "TENANT_001", "exception_id": "$id", "payload": $payload})
	};
}

my @workers = map {
	$t->worker(WORKER_TYPE => 'fire', BATCH => 20, name => "fire-$_", KAFKA_CONF_SESSION_TIMEOUT_MS => 6000)
} 1 .. 2;

sub lines
{
	my ($pattern) = @_;
	return scalar(() = join('', map { $_->log } @workers) =~ /$pattern/g);
}

sub crashes { return scalar(() = Sentinai::Test::slurp("$t->{cluster_dir}/log") =~ /was terminated by signal 9/g) }

sub all_handled
{
	my ($what) = @_;
	$t->wait_for_sql('SELECT count(DISTINCT event_id) FROM app.done', scalar(keys %handled), name => "$what: every good event is handled");
	is($t->sql('SELECT count(*) FROM app.done'), scalar(keys %handled), "$what: and once");
	return;
}

# ---------------------------------------------------------------- one event that kills, among good ones

# A partition that changes hands begins to count anew
sub active
{
	my ($worker) = @_;
	my $log = $worker->log;
	my %state;

	$state{$1} = $2 while $log =~ /msg=partition .* partition=(\d+) from=\w+ to=(\w+)/g;
	return grep { $_ eq 'active' } values %state;
}
$t->wait_for('each worker to have a partition', sub { active($workers[0]) == 1 && active($workers[1]) == 1 });
$t->produce('burning', map { record($_ % 2, "FIRST_$_", '{}') } 1 .. 40);
all_handled('before');
$t->produce('burning',
	(map { record(0, "BEFORE_$_", '{}') } 1 .. 5),
	record(0, 'KILLER', '{"crash": true}'),
	(map { record(0, "AFTER_$_", '{}') } 1 .. 25),
	(map { record(1, "BESIDE_$_", '{"seconds": 0.05}') } 1 .. 300));
all_handled('with a killer');
$t->wait_for_sql(
	"$search SELECT string_agg(concat_ws(' ', event_id, step, error_type, sqlstate, status, retry_count, original_partition), ',') FROM dead_letter_queue",
	'KILLER handle handler_crashed SN032 pending 0 0', name => 'it alone is a dead letter');
is(crashes(), 4, 'it killed the server twice before it was looked for, and twice alone');
is($t->sql("$search SELECT count(*) FROM suspect"), 0, 'no mark is left');
is($t->sql("$search SELECT status FROM event_processing_log WHERE event_id = 'KILLER'"), 'failed', 'it is failed');
like($t->sql("$search SELECT reason FROM event_why('TENANT_001', 'KILLER', 'fire')"), qr/handler_crashed: handler has crashed the server/,
	'and event_why says so');
ok($_->running, 'the worker has outlived it') for @workers;

# ---------------------------------------------------------------- killed from outside, twice at the same place

# The session that stands at the gate
sub victim
{
	my ($other_than) = @_;
	my $pid;

	$t->wait_for('the gated event to be in work', sub {
		my ($status, $out) = $t->sql_status(
			q{SELECT pid FROM pg_stat_activity WHERE application_name = 'sentinai-worker fire consume 0' AND wait_event = 'PgSleep'});
		$pid = $out if !$status && $out =~ /^\d+$/ && $out != $other_than;
		return $pid;
	});
	return $pid;
}

my $searches = lines(qr/suspect mode: /);
my $letters = $t->sql("$search SELECT count(*) FROM dead_letter_queue");
$t->sql('INSERT INTO app.gate VALUES (true)');
$t->produce('burning', record(0, 'GATED', '{"gate": true}'));
my $first = victim(0);
kill KILL => $first;
my $second = victim($first);
kill KILL => $second;
$t->wait_for('the server to be back', sub { !($t->sql_status('DELETE FROM app.gate'))[0] });
all_handled('two kills from outside');
$t->wait_for('the suspicion', sub { lines(qr/suspect mode: /) > $searches });
is($t->sql("$search SELECT count(*) FROM dead_letter_queue"), $letters, 'they convict nobody');

# ---------------------------------------------------------------- ended in order: that counts for nothing

$searches = lines(qr/suspect mode: /);
$t->sql('INSERT INTO app.gate VALUES (true)');
$t->produce('burning', record(0, 'ENDED', '{"gate": true}'));
my $last = 0;
for (1 .. 2)
{
	$last = victim($last);
	$t->sql("SELECT pg_terminate_backend($last)");
}
$last = victim($last);
$t->cluster('restart');
$t->sql('DELETE FROM app.gate');
all_handled('sessions that are ended');
is(lines(qr/suspect mode: /), $searches, 'raise no suspicion');
is($t->sql("$search SELECT count(*) FROM dead_letter_queue"), $letters, 'and convict nobody');
is($t->sql("$search SELECT count(*) FROM suspect"), 0, 'no mark is left');

is($_->stop, 0, 'the workers end in order') for @workers;
done_testing();
