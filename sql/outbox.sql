-- The outbox: order, horizon, cursor, watermarks, rotation. What needs two sessions is in test/isolation.
-- Maintenance would rotate too: it is kept out of this database meanwhile.

CREATE DATABASE regress_outbox TEMPLATE template0 ENCODING 'UTF8';
ALTER SYSTEM SET sentinai.databases = 'none';
SELECT pg_reload_conf();
\set SHOW_CONTEXT never
\c regress_outbox
SET client_min_messages = warning;
CREATE EXTENSION sentinai;
SET search_path = sentinai, public;

-- Not before the database is active.
SELECT outbox_add('t', NULL, NULL, NULL, NULL);
SELECT activate();

-- In id order; values, keys, headers as they are.
SELECT outbox_add('t', 3, 'key', ARRAY[ROW('a', 'b'), ROW('', NULL), ROW('a', '')]::header[], '\x00ff', 'T', 'E1', 'X');
SELECT outbox_add('u', NULL, NULL, NULL, NULL, dlq_id => 7, dlq_token => '11111111-2222-3333-4444-555555555555');
SELECT outbox_add('t', NULL, '', '{}', repeat('x', 20)::bytea);
SELECT outbox_add(NULL, NULL, NULL, NULL, NULL);
\x on
SELECT * FROM outbox_read(100, 1000000);
SELECT id, topic, partition, tenant_id, event_id, event_type, dlq_id, created_at <= now() AS created FROM outbox ORDER BY id;
\x off

-- The cursor goes on, and back.
SELECT id FROM outbox_read(100, 1000000);
SELECT outbox_rewind();
SELECT id FROM outbox_read(2, 1000000);
SELECT id FROM outbox_read(2, 1000000);
SELECT id FROM outbox_read(2, 1000000);
-- At least one row, and no more than reach the bytes.
SELECT outbox_rewind();
SELECT id FROM outbox_read(100, 1);
SELECT id FROM outbox_read(100, 1);
SELECT id FROM outbox_read(100, 1);
SELECT id FROM outbox_read(0, 1);
-- More than a fetch at a time.
SELECT count(outbox_add('many', NULL, NULL, NULL, 'v')) FROM generate_series(1, 1000);
SELECT outbox_rewind();
SELECT count(*), min(id), max(id), bool_and(ordinality + 1 = id) AS in_order FROM outbox_read(5000, 1000000) WITH ORDINALITY WHERE topic = 'many';

-- Own open transaction: not below the horizon before it commits.
BEGIN;
SELECT outbox_add('t', NULL, NULL, NULL, 'open');
SELECT * FROM outbox_read(100, 1000000);
SELECT pid = pg_backend_pid() AS mine, state, first_id FROM outbox_holders();
SAVEPOINT s;
SELECT outbox_add('t', NULL, NULL, NULL, 'undone');
ROLLBACK TO s;
SELECT first_open FROM outbox_horizon();
COMMIT;
SELECT * FROM outbox_holders();
SELECT id, value FROM outbox_read(100, 1000000);
-- Rolled back: nobody waits for it.
BEGIN;
SELECT outbox_add('t', NULL, NULL, NULL, 'undone');
ROLLBACK;
SELECT first_open FROM outbox_horizon();
SELECT count(*) FROM outbox_read(100, 1000000);
-- Who has emitted can't be prepared.
BEGIN;
SELECT outbox_add('t', NULL, NULL, NULL, 'prepared');
PREPARE TRANSACTION 'regress';
SELECT count(*) FROM outbox_holders();

-- Only with a fresh snapshot.
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT outbox_read(1, 1);
ROLLBACK;

-- Waiting: not in a transaction; at once when there is something; until the time is up when not.
BEGIN;
CALL outbox_wait(10);
ROLLBACK;
SELECT outbox_rewind();
SELECT clock_timestamp() AS began \gset
CALL outbox_wait(60000);
SELECT clock_timestamp() - :'began' < interval '10 s' AS at_once;
SELECT count(*) > 0 AS some FROM outbox_read(100000, 100000000);
SELECT clock_timestamp() AS began \gset
CALL outbox_wait(50);
SELECT clock_timestamp() - :'began' >= interval '50 ms' AS waited;
CALL outbox_wait(NULL);
-- A session that has never read: it asks the tables.
\c
SET search_path = sentinai, public;
SELECT clock_timestamp() AS began \gset
CALL outbox_wait(60000);
SELECT clock_timestamp() - :'began' < interval '10 s' AS at_once;

-- The watermark: by the active publisher only, per topic, never back.
SELECT outbox_advance('{t}', '{1}', '{}', '{}', '{}', '{}', '{}');
SELECT outbox_lock(), outbox_lock(), outbox_locked();
SELECT outbox_advance('{t,many,t}', '{1,1003,3}', '{7}', '{11111111-2222-3333-4444-555555555555}', '{u}', '{4}', '{99}');
SELECT topic, id FROM outbox_watermark ORDER BY topic;
SELECT dlq_id, token, topic, partition, kafka_offset FROM dlq_receipt;
SELECT outbox_advance('{t}', '{1}', '{7}', '{11111111-2222-3333-4444-555555555555}', '{u}', '{4}', '{99}');
SELECT topic, id FROM outbox_watermark ORDER BY topic;
SELECT id, topic FROM outbox_read(100, 1000000);

-- Rotation: the first call notes where writers stand, the second gives the next table its turn.
CREATE VIEW public.tables AS
	SELECT current, drained_id IS NOT NULL AS drained, (SELECT count(*) FROM sentinai.outbox_0) AS rows_0,
		   (SELECT count(*) FROM sentinai.outbox_1) AS rows_1, (SELECT count(*) FROM sentinai.outbox_2) AS rows_2
	  FROM sentinai.outbox_state;
SELECT * FROM tables;
SELECT outbox_rotate();
SELECT * FROM tables;
SELECT outbox_rotate(force => true);
SELECT outbox_add('t', NULL, NULL, NULL, 'in table 1') > 0 AS added;
SELECT * FROM tables;
SELECT outbox_rotate();
-- Not truncated: topic u has a row that is not published.
SELECT outbox_rotate();
SELECT * FROM tables;
SELECT outbox_rotate(force => true);
SELECT outbox_add('t', NULL, NULL, NULL, 'in table 2') > 0 AS added;
SELECT outbox_rotate();
-- Nor has table 0 a turn before that.
SELECT outbox_rotate(force => true);
SELECT * FROM tables;
-- Published: the two tables whose turn is over are truncated.
SELECT outbox_advance(array_agg(topic), array_agg(max), '{}', '{}', '{}', '{}', '{}') FROM (SELECT topic, max(id) FROM outbox GROUP BY 1) t;
SELECT outbox_rotate();
SELECT * FROM tables;
-- An open transaction that may write to an old table keeps it: here our own, begun before the change.
BEGIN;
SELECT outbox_add('t', NULL, NULL, NULL, 'early') > 0 AS added;
SELECT outbox_rotate(force => true);
SELECT outbox_rotate();
SELECT outbox_rotate();
SELECT * FROM tables;
COMMIT;
SELECT outbox_rotate();
SELECT outbox_advance('{t}', ARRAY[(SELECT max(id) FROM outbox)], '{}', '{}', '{}', '{}', '{}');
SELECT outbox_rotate();
SELECT * FROM tables;

BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT outbox_rotate();
ROLLBACK;

-- Blocked: what topics that take nothing need of a table moves, so that its turn can come.
CREATE VIEW public.blocked AS
	SELECT topic, convert_from(value, 'UTF8') AS value, b.id > coalesce(w.id, 0) AS waits
	  FROM sentinai.outbox_blocked b LEFT JOIN sentinai.outbox_watermark w USING (topic) ORDER BY b.id;
CREATE PROCEDURE public.publish(VARIADIC topics text[]) LANGUAGE sql AS $$
	SELECT sentinai.outbox_advance(array_agg(topic), array_agg(max), '{}', '{}', '{}', '{}', '{}')
	  FROM (SELECT topic, max(id) FROM sentinai.outbox WHERE topic = ANY (topics) GROUP BY 1) t
$$;
UPDATE outbox_watermark SET updated_at = '2000-01-01';
SELECT count(outbox_add(topic, NULL, NULL, NULL, convert_to(topic || n, 'UTF8')))
  FROM generate_series(1, 2) n, unnest('{t,missing,u}'::text[]) topic;
SELECT outbox_rotate(force => true);
SELECT outbox_rotate();
SELECT count(outbox_add(topic, NULL, NULL, NULL, convert_to(topic || 3, 'UTF8'))) FROM unnest('{t,missing,u}'::text[]) topic;
SELECT outbox_rotate(force => true);
SELECT outbox_rotate();
SELECT count(outbox_add(topic, NULL, NULL, NULL, convert_to(topic || 4, 'UTF8'))) FROM unnest('{t,missing,u}'::text[]) topic;
SELECT rows_0 + rows_1 + rows_2 AS rows, (rows_0 > 0)::int + (rows_1 > 0)::int + (rows_2 > 0)::int AS tables FROM tables;
-- Nothing is published: it stays where it is.
SELECT outbox_rotate(force => true);
SELECT * FROM blocked;
-- Topic t goes on, but isn't through with that table: it stays.
SELECT outbox_advance('{t}', ARRAY[(SELECT min(id) FROM outbox WHERE topic = 't')], '{}', '{}', '{}', '{}', '{}');
SELECT outbox_rotate(force => true);
SELECT * FROM blocked;
-- It is through: the two others are in the way. A snapshot that is older than the move keeps the table.
CALL publish('t');
SELECT outbox_rotate(force => true);
SELECT * FROM blocked;
SELECT outbox_rewind();
SELECT convert_from(value, 'UTF8') AS value FROM outbox_read(100, 100000);
SELECT outbox_rotate(force => true);
SELECT aside_at BETWEEN now() - interval '1 min' AND clock_timestamp() AS noted FROM outbox_state;
UPDATE outbox_state SET aside_at = clock_timestamp() + interval '1 h';
SELECT outbox_rotate(force => true);
SELECT (rows_0 > 0)::int + (rows_1 > 0)::int + (rows_2 > 0)::int AS tables FROM tables;
UPDATE outbox_state SET aside_at = now();
SELECT current FROM outbox_state \gset
SELECT outbox_rotate(force => true);
SELECT current = (:current + 1) % 3 AS rotated, aside_at FROM outbox_state;
-- In the order of their ids, whatever table they are in; topics can be passed.
SELECT outbox_rewind();
SELECT convert_from(value, 'UTF8') AS value FROM outbox_read(100, 100000);
SELECT outbox_rewind();
SELECT convert_from(value, 'UTF8') AS value FROM outbox_read(100, 100000, '{missing}');
SELECT name, regexp_replace(message, 'at .*, have', 'at ..., have') AS message, hint FROM health_problems() WHERE name LIKE 'outbox%' ORDER BY 2;
SELECT * FROM regexp_split_to_table(metrics(), E'\n') line WHERE line ~ '^outbox_blocked';
-- They go when they are published.
CALL publish('u');
SELECT * FROM blocked;
SELECT outbox_rotate();
SELECT * FROM blocked;
CALL publish('missing');
SELECT outbox_rotate();
SELECT * FROM blocked;
SELECT count(*) FROM health_problems() WHERE name LIKE 'outbox%';

-- Failed: what Kafka refuses for good is passed.
SELECT outbox_add('small', 1, 'k', ARRAY[ROW('h', 'v')]::header[], 'large', 'T', 'E1', 'X') AS large \gset
SELECT outbox_add('small', NULL, NULL, NULL, 'next') AS next \gset
SELECT outbox_advance('{small}', ARRAY[:large], '{}', '{}', '{}', '{}', '{}', ARRAY[:large], '{MSG_SIZE_TOO_LARGE}', '{too large}');
SELECT outbox_advance('{small}', ARRAY[:large], '{}', '{}', '{}', '{}', '{}', ARRAY[:large], '{MSG_SIZE_TOO_LARGE}', '{too large}');
SELECT topic, partition, record_key, record_headers, record_value, tenant_id, event_id, event_type, error, message,
	   id = :large AS same_id, failed_at >= created_at AS later, discarded_at
  FROM outbox_failed;
SELECT outbox_rewind();
SELECT convert_from(value, 'UTF8') AS value FROM outbox_read(100, 100000);
SELECT name, replace(regexp_replace(message, 'since .*, first', 'since ..., first'), :'large', 'N') AS message,
	   replace(hint, :'large', 'N') AS hint
  FROM health_problems() WHERE name LIKE 'outbox%';
SELECT * FROM regexp_split_to_table(metrics(), E'\n') line WHERE line ~ '^outbox_failed';
SELECT state, replace(reason, :'large', 'N') AS reason, details - 'outbox_id' AS details FROM event_why_unclaimed('T', 'E1', 'intake');
-- Once more, behind the others.
SELECT outbox_failed_retry(:large) AS again \gset
SELECT :again > :next AS later;
SELECT count(*) FROM outbox_failed;
SELECT id = :again AS again, partition, key, value FROM outbox_read(100, 100000);
SELECT outbox_failed_retry(0);
-- Refused again, and discarded.
SELECT outbox_advance('{small}', ARRAY[:again], '{}', '{}', '{}', '{}', '{}', ARRAY[:again], '{MSG_SIZE_TOO_LARGE}', '{too large}');
SELECT outbox_failed_discard(0, 'why');
SELECT outbox_failed_discard(0, ' ');
SELECT outbox_failed_discard(:again, 'of no use', 'me');
SELECT discarded_at IS NOT NULL AS discarded, discarded_by, discard_reason FROM outbox_failed;
\set VERBOSITY sqlstate
SELECT outbox_failed_retry(:again);
SELECT outbox_failed_discard(:again, 'again');
\set VERBOSITY default
SELECT count(*) FROM health_problems() WHERE name LIKE 'outbox%';
SELECT state, details ? 'discarded_at' AS discarded FROM event_why_unclaimed('T', 'E1', 'intake');

-- A dead letter's retry that is refused: it is pending again, and nothing is in outbox_failed.
SELECT tenant_add('T');
INSERT INTO dead_letter_queue (event_id, tenant_id, worker_type, step, error_type, error_message, fingerprint, original_topic, payload_raw)
VALUES ('E2', 'T', 'intake', 'handle', 'x', 'x', 'x', 'small', 'large') RETURNING id AS dlq \gset
SELECT status FROM dlq_retry(:dlq, 'try');
SELECT max(id) AS retry FROM outbox WHERE dlq_id = :dlq \gset
SELECT outbox_advance('{small}', ARRAY[:retry], '{}', '{}', '{}', '{}', '{}', ARRAY[:retry], '{MSG_SIZE_TOO_LARGE}', '{too large}');
SELECT status, error_type, error_message, retry_count FROM dlq_get(:dlq);
SELECT action, to_status FROM dlq_history(:dlq);
SELECT count(*) FROM outbox_failed WHERE event_id = 'E2';
-- One that is no longer under way changes nothing.
SELECT outbox_add('small', NULL, NULL, NULL, 'old', dlq_id => :dlq, dlq_token => '11111111-2222-3333-4444-555555555555') AS old \gset
SELECT outbox_advance('{small}', ARRAY[:old], '{}', '{}', '{}', '{}', '{}', ARRAY[:old], '{MSG_SIZE_TOO_LARGE}', '{too large}');
SELECT status, retry_count FROM dlq_get(:dlq);
SELECT count(*) FROM outbox_failed WHERE id = :old;

\c postgres
DROP DATABASE regress_outbox;
ALTER SYSTEM RESET sentinai.databases;
SELECT pg_reload_conf();
