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

\c postgres
DROP DATABASE regress_outbox;
ALTER SYSTEM RESET sentinai.databases;
SELECT pg_reload_conf();
