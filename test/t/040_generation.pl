# Every identity is handled once, however generations rotate meanwhile: batches of many partitions carry the same events.
use Sentinai::Test;

my $t = Sentinai::Test->new(settings => 'max_connections = 60');
my $clients = 6;

$t->sql(<<'SQL');
SET search_path = sentinai, public;
SELECT tenant_add('T');
SELECT event_type_add('Once');
CREATE SCHEMA app;
CREATE TABLE app.done (event_id text);
CREATE FUNCTION app.once(e sentinai.event) RETURNS void LANGUAGE sql AS 'INSERT INTO app.done (event_id) VALUES ((e).event_id)';
GRANT USAGE ON SCHEMA app TO sentinai_handler;
GRANT INSERT ON app.done TO sentinai_handler;
SELECT worker_type_add('once', 'once', 'once');
SELECT handler_add('once', 'Once', 'app.once');
-- Twenty events, most of them known already, at the partition's next offsets.
CREATE FUNCTION app.send(part integer) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	at		sentinai.kafka_offset;
	answer	sentinai.consume_result;
BEGIN
	SELECT * INTO at FROM sentinai.kafka_offset WHERE group_id = 'once' AND partition = part;
	SELECT * INTO answer FROM sentinai.consume('once', 'once', ARRAY(
		SELECT ROW('once', part, at.next_offset + n, at.epoch, now(), NULL, NULL,
				   convert_to(format('{"event_id": "e%s", "event_type": "Once", "tenant_id": "T", "timestamp": "2025-01-01T00:00:00Z",'
					   ' "payload": {}}', (random() * 4000)::int), 'UTF8'))::sentinai.record
		  FROM generate_series(0, 19) n));
	IF answer.stop IS NOT NULL OR answer.handled + answer.duplicate <> 20 THEN
		RAISE EXCEPTION 'unexpected answer: %', answer;
	END IF;
END
$$;
-- Rotates as fast as the batches let it.
CREATE TABLE app.finished (yes boolean);
CREATE PROCEDURE app.rotate() LANGUAGE plpgsql AS $$
BEGIN
	WHILE NOT EXISTS (SELECT FROM app.finished) LOOP
		PERFORM sentinai.dedupe_rotate(force => (SELECT newest FROM sentinai.dedupe_state) < 60);
		COMMIT;
		PERFORM pg_sleep(0.005);
		COMMIT;
	END LOOP;
END
$$;
SQL
$t->sql("SELECT count(epoch) FROM generate_series(0, $clients - 1) n, sentinai.assign('once', 'once', 'once', n)");

my $dir = $t->dir;
open my $file, '>', "$dir/send.sql" or die $!;
print {$file} "SELECT app.send(:client_id);\n";
close $file;

my $rotator = $t->session;
$rotator->send('CALL app.rotate()');
$t->program('pgbench', '-n', '-c', $clients, '-j', '2', '-t', '200', '-f', "$dir/send.sql", 'sentinai');
$t->sql('INSERT INTO app.finished VALUES (true)');
is($rotator->answer, '', 'the rotation ended well');
$rotator->close;

is($t->sql('SELECT newest > 5 FROM sentinai.dedupe_state'), 't', 'generations have rotated');
is($t->sql('SELECT count(*) > 3000 FROM app.done'), 't', 'events were handled');
is($t->sql('SELECT count(*) FROM (SELECT FROM app.done GROUP BY event_id HAVING count(*) > 1) x'), '0', 'each once');
$t->wait_for_sql('SELECT count(*) FROM sentinai.event_processing_log WHERE shadow', '0', name => 'no copy is left');
is($t->sql('SELECT count(*) - count(DISTINCT event_id) FROM sentinai.event_processing_log'), '0', 'each is known once');
is($t->sql('SELECT count(*) FROM sentinai.event_processing_log'), $t->sql('SELECT count(*) FROM app.done'), 'all are known');

done_testing();
