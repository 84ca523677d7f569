# The outbox under load, and a transaction that has emitted and then idles.
use Sentinai::Test;

my $t = Sentinai::Test->new(
	settings => 'sentinai.outbox_rotation_period = 100ms; sentinai.maintenance_interval = 50ms; max_connections = 60');
$t->sql('SELECT sentinai.activate()');

# ---------------------------------------------------------------- every committed row once, in order, while tables rotate

# Writers emit one to five rows, into the outbox and into a ledger; some roll back, some undo a savepoint.
$t->sql(<<'SQL');
CREATE TABLE ledger (id bigint);
CREATE TABLE seen (n bigint GENERATED ALWAYS AS IDENTITY, id bigint);
CREATE FUNCTION emit_some(n integer) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1 .. n LOOP
		INSERT INTO ledger VALUES (sentinai.outbox_add('t' || i % 2, NULL, NULL, NULL, 'v'));
	END LOOP;
	BEGIN
		INSERT INTO ledger VALUES (sentinai.outbox_add('t0', NULL, NULL, NULL, 'undone'));
		RAISE EXCEPTION USING ERRCODE = 'P0099', MESSAGE = 'undone';
	EXCEPTION WHEN SQLSTATE 'P0099' THEN
		NULL;
	END;
END
$$;
-- A publisher: reads, notes the order, advances, until it is told that the writers have ended.
CREATE TABLE finished (yes boolean);
CREATE PROCEDURE publish() LANGUAGE plpgsql AS $$
DECLARE
	ended	boolean := false;
	read	bigint[];
	topics	text[];
BEGIN
	PERFORM sentinai.outbox_lock();
	LOOP
		SELECT array_agg(r.id ORDER BY ordinality), array_agg(r.topic ORDER BY ordinality) INTO read, topics
		  FROM sentinai.outbox_read(200, 1000000) WITH ORDINALITY AS r;
		INSERT INTO seen (id) SELECT u FROM unnest(read) u;
		PERFORM sentinai.outbox_advance(topics, read, NULL, NULL, NULL, NULL, NULL);
		COMMIT;
		EXIT WHEN ended AND read IS NULL;
		ended := EXISTS (SELECT FROM finished);
		COMMIT;
	END LOOP;
END
$$;
SQL

my $dir = $t->dir;
my %script = (
	commit => "BEGIN;\nSELECT emit_some(:n);\nCOMMIT;\n",
	abort => "BEGIN;\nSELECT emit_some(:n);\nROLLBACK;\n",
	repeatable => "BEGIN ISOLATION LEVEL REPEATABLE READ;\nSELECT count(*) FROM finished;\n\\sleep 5 ms\nSELECT emit_some(:n);\nCOMMIT;\n",
);
for my $name (keys %script)
{
	open my $file, '>', "$dir/$name.sql" or die $!;
	print {$file} "\\set n random(1, 5)\n$script{$name}";
	close $file;
}
my $publisher = $t->session;
$publisher->send('CALL publish()');
$t->program('pgbench', '-n', '-c', '8', '-j', '2', '-t', '400', '-f', "$dir/commit.sql\@5", '-f', "$dir/abort.sql\@2",
	'-f', "$dir/repeatable.sql\@2", 'sentinai');
$t->sql('INSERT INTO finished VALUES (true)');
is($publisher->answer, q{}, "the publisher ended well");

is($t->sql('SELECT count(*) > 1000 FROM ledger'), 't', 'the writers have written');
is($t->sql('SELECT count(*) FROM (SELECT id FROM ledger EXCEPT ALL SELECT id FROM seen) x'), '0', 'every committed row was read');
is($t->sql('SELECT count(*) FROM (SELECT id FROM seen EXCEPT ALL SELECT id FROM ledger) x'), '0', 'once, and nothing else was');
is($t->sql('SELECT count(*) FROM (SELECT id, lag(id) OVER (ORDER BY n) AS before FROM seen) x WHERE id <= before'), '0',
	'in the order of their ids');
$t->wait_for_sql(q{SELECT count(*) FROM sentinai.outbox}, '0', name => 'and the tables were truncated');
is($t->sql('SELECT count(*) FROM sentinai.outbox_slots()'), '0', 'no slot is left');
$publisher->close;

# ---------------------------------------------------------------- a transaction that has emitted, and idles

my $idle = $t->session;
$idle->sql(q{SET application_name = 'forgetful'});
$idle->sql('BEGIN');
$idle->sql(q{SELECT sentinai.outbox_add('t0', NULL, NULL, NULL, 'never')});
my $harmless = $t->session;
$harmless->sql('BEGIN');
$harmless->sql('INSERT INTO ledger VALUES (0)');
$t->sql(q{SELECT sentinai.outbox_add('t0', NULL, NULL, NULL, 'held')});

my $problem = q{SELECT p->>'message' FROM jsonb_array_elements(sentinai.health()->'problems') p WHERE p->>'name' = 'outbox_held'};
$t->wait_for_sql("SELECT count(*) FROM ($problem) p", '1', name => 'health names it');
like($t->sql($problem), qr/^process \d+ \(forgetful\) has emitted in a transaction that is open since .*, idle in transaction$/,
	'by pid and application');
like($t->sql('SELECT sentinai.metrics()'), qr/^outbox_holder_seconds\{pid="\d+",state="idle in transaction"\} \d+\.\d+$/m, 'so does a metric');
is($t->sql('SELECT count(*) FROM sentinai.outbox_read(10, 1000)'), '0', 'what came after it waits');

$t->sql(q{ALTER SYSTEM SET sentinai.emit_idle_timeout = '10ms'});
$t->sql('SELECT pg_reload_conf()');
$t->wait_for_sql('SELECT count(*) FROM sentinai.outbox_holders()', '0', name => 'maintenance ends it after sentinai.emit_idle_timeout');
is($t->sql(q{SELECT convert_from(value, 'UTF8') FROM sentinai.outbox_read(10, 1000)}), 'held', 'and the outbox goes on');
is($t->sql(q{SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction'}), '1', 'who has not emitted is left alone');
$harmless->sql('COMMIT');

# ---------------------------------------------------------------- a publisher that waits

# It holds back no vacuum, and the end of a transaction that has emitted wakes it.
my $waiting = $t->session;
$waiting->sql('SELECT count(*) FROM sentinai.outbox_read(1000, 1000000)');
$waiting->send('CALL sentinai.outbox_wait(600000)');
my $wait = q{SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'CALL sentinai.outbox_wait%' AND wait_event_type = 'Extension'};
$t->wait_for_sql("$wait AND backend_xmin IS NULL AND backend_xid IS NULL", '1', name => 'a waiting publisher holds no snapshot');
$t->sql(q{SELECT sentinai.outbox_add('t1', NULL, NULL, NULL, 'wake up')});
is($waiting->answer, '', 'it is woken');
is($waiting->sql(q{SELECT convert_from(value, 'UTF8') FROM sentinai.outbox_read(10, 1000)}), 'wake up', 'and finds what woke it');
$waiting->close;

# ---------------------------------------------------------------- a restart

# Ids go on behind those that were given, whatever was lost.
my $last = $t->sql('SELECT max(id) FROM sentinai.outbox');
$t->cluster('immediate');
$t->cluster('start');
is($t->sql(q{SELECT string_agg(convert_from(value, 'UTF8'), ', ' ORDER BY id) FROM sentinai.outbox_read(10, 1000)}), 'held, wake up',
	'after a crash nothing is missing');
is($t->sql(qq{SELECT sentinai.outbox_add('t0', NULL, NULL, NULL, 'next') > $last}), 't', 'and ids go on');

done_testing();
