-- Generations of event_processing_log: the steps of a rotation, and what is remembered when one goes.
-- Maintenance would take the steps too: it is kept out of this database meanwhile.

CREATE DATABASE regress_generation TEMPLATE template0 ENCODING 'UTF8';
ALTER SYSTEM SET sentinai.databases = 'none';
SELECT pg_reload_conf();
\set SHOW_CONTEXT never
\c regress_generation
SET client_min_messages = warning;
CREATE EXTENSION sentinai;
SET search_path = sentinai, public;
SELECT activate();

CREATE VIEW public.state AS
	SELECT s.newest, s.previous_open, s.state_number,
		   (SELECT string_agg(format('%s %s%s', d.generation, d.role, CASE WHEN d.closed_at IS NOT NULL THEN ' closed' END),
							  ', ' ORDER BY d.generation) FROM sentinai.dedupe_status() d) AS generations,
		   (SELECT string_agg(c.relname, ' ' ORDER BY c.relname) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
			 WHERE i.inhparent = 'sentinai.event_processing_log'::regclass) AS partitions
	  FROM sentinai.dedupe_state s;
SELECT * FROM state;

-- Nothing to do yet.
SELECT dedupe_rotate();
SELECT * FROM state;

-- A batch of state 1 runs, inserts into 1 alone: the rotation begins without it ...
SELECT lock_take(1, 1, shared => true, session => true);
INSERT INTO event_processing_log (generation, tenant_id, event_id, worker_type, status)
SELECT 1, 'T', 'E' || n, 'intake', 'succeeded' FROM generate_series(1, 3) n;
SELECT dedupe_rotate(force => true);
SELECT * FROM state;
-- ... but generation 1 isn't closed while it runs. A batch of state 2 inserts into both.
SELECT dedupe_rotate();
SELECT * FROM state;
SELECT lock_take(1, 2, shared => true, session => true);
INSERT INTO event_processing_log (generation, tenant_id, event_id, worker_type, status, shadow)
VALUES (2, 'T', 'E4', 'intake', 'succeeded', false), (1, 'T', 'E4', 'intake', 'succeeded', true);
-- Both know the other's identity.
INSERT INTO event_processing_log (generation, tenant_id, event_id, worker_type, status)
VALUES (1, 'T', 'E4', 'intake', 'succeeded') ON CONFLICT DO NOTHING;
SELECT pg_advisory_unlock_all(), lock_take(1, 2, shared => true, session => true);
SELECT dedupe_rotate();
SELECT * FROM state;
-- Copies go once nobody can add one.
SELECT dedupe_rotate();
SELECT generation, event_id, shadow FROM event_processing_log ORDER BY 1, 2;
SELECT pg_advisory_unlock_all();
SELECT dedupe_rotate();
SELECT generation, event_id, shadow FROM event_processing_log ORDER BY 1, 2;
SELECT generation, shadow_state FROM dedupe_generation ORDER BY 1;

-- The window of generation 1 is over. What is open stays known: E1 is a dead letter, E2 waits, E3 goes.
INSERT INTO dead_letter_queue (tenant_id, event_id, worker_type, step, status, error_type, error_message, fingerprint, original_topic)
VALUES ('T', 'E1', 'intake', 'handle', 'pending', 'x', 'x', 'x', 'exceptions'),
	   ('T', 'E3', 'intake', 'handle', 'discarded', 'x', 'x', 'x', 'exceptions'),
	   ('T', NULL, 'intake', 'screen', 'pending', 'x', 'x', 'x', 'exceptions');
INSERT INTO event_pending (tenant_id, event_id, worker_type, event_type, status, topic, partition, next_attempt_at, record_value)
VALUES ('T', 'E2', 'intake', 'X', 'retrying', 'exceptions', 0, now(), '{}');
UPDATE event_processing_log SET status = 'failed' WHERE event_id = 'E1';
UPDATE event_processing_log SET status = 'retrying', retry_count = 2 WHERE event_id = 'E2';
SELECT dedupe_rotate();
SELECT * FROM state;
UPDATE dedupe_generation SET closed_at = closed_at - interval '8 days' WHERE generation = 1;

-- A batch that looks generation 1 up is running.
SELECT lock_take(1, 3, shared => true, session => true);
SELECT dedupe_rotate();
SELECT * FROM state;
SELECT generation, event_id, status, retry_count FROM event_processing_log ORDER BY 1, 2;
-- The empty table is dropped when the batch that may look it up has ended.
SELECT dedupe_rotate();
SELECT partitions FROM state;
SELECT pg_advisory_unlock_all();
SELECT dedupe_rotate();
SELECT * FROM state;

-- By time, and by number.
UPDATE dedupe_state SET rotated_at = now() - interval '4 days';
SELECT dedupe_rotate();
SELECT * FROM state;
SELECT dedupe_rotate();
SELECT dedupe_rotate();
SELECT * FROM state;

-- Old snapshots decide nothing.
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT dedupe_rotate();
ROLLBACK;

\c postgres
DROP DATABASE regress_generation;
ALTER SYSTEM RESET sentinai.databases;
SELECT pg_reload_conf();
