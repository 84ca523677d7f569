-- The order of an exception's events: what comes behind an unfinished one is parked, and goes on in the order it came.

SET search_path = sentinai, public;
\set VERBOSITY terse
\pset format unaligned
\pset tuples_only on

CREATE FUNCTION pg_temp.ev(event_id text, exception_id text)
	RETURNS bytea LANGUAGE sql AS $$
	SELECT convert_to(jsonb_build_object('event_id', event_id, 'event_type', 'KeyEvent', 'tenant_id', 'keys',
		'exception_id', exception_id, 'payload', '{}'::jsonb)::text, 'UTF8') $$;

CREATE FUNCTION pg_temp.counts(r sentinai.consume_result) RETURNS text LANGUAGE sql AS $$
	SELECT format('handled %s, failed %s, parked %s, dead %s, due %s', r.handled, r.failed, r.parked, r.dead_lettered, r.due) $$;

-- Sends events written as "id exception" to a partition; none: a tick.
CREATE FUNCTION pg_temp.send(to_partition integer, VARIADIC events text[] DEFAULT '{}') RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	k		sentinai.kafka_offset;
	records	sentinai.record[];
BEGIN
	SELECT * INTO k FROM sentinai.kafka_offset o WHERE o.group_id = 'keys' AND o.partition = to_partition;
	SELECT array_agg(ROW('keys', to_partition, k.next_offset + n - 1, k.epoch, '2026-01-01', 'key', NULL,
						 pg_temp.ev(split_part(e, ' ', 1), nullif(split_part(e, ' ', 2), '')))::sentinai.record ORDER BY n)
	  INTO records FROM unnest(events) WITH ORDINALITY AS u(e, n);
	RETURN pg_temp.counts(sentinai.consume('keys', 'keys', coalesce(records,
		ARRAY[ROW('keys', to_partition, k.next_offset, k.epoch, NULL, NULL, NULL, NULL)::sentinai.record])));
END $$;

-- Moves what is to be retried to now.
CREATE PROCEDURE pg_temp.hurry() LANGUAGE sql AS
	$$UPDATE sentinai.event_pending SET next_attempt_at = now() WHERE worker_type = 'keys' AND status = 'retrying'$$;
CREATE VIEW pending AS SELECT event_id, status, partition, retry_count FROM sentinai.event_pending WHERE worker_type = 'keys' ORDER BY id;

CREATE SCHEMA key_test;
GRANT USAGE ON SCHEMA key_test TO sentinai_handler;
CREATE TABLE key_test.done (n serial, event_id text);
CREATE TABLE key_test.bad (event_id text PRIMARY KEY, error text);
GRANT ALL ON ALL TABLES IN SCHEMA key_test TO sentinai_handler;
GRANT ALL ON ALL SEQUENCES IN SCHEMA key_test TO sentinai_handler;
CREATE FUNCTION key_test.handle(e sentinai.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO key_test.done (event_id) VALUES (e.event_id);
	PERFORM sentinai.fail(e, b.error, 'bad') FROM key_test.bad b WHERE b.event_id = e.event_id;
END $$;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA key_test TO sentinai_handler;

SELECT tenant_add('keys');
SELECT event_type_add('KeyEvent');
SELECT worker_type_add('keys', 'keys');
SELECT handler_add('keys', 'KeyEvent', 'key_test.handle');
SELECT epoch, next_offset FROM assign('keys', 'keys', 'keys', 0, 2);
SELECT epoch, next_offset FROM assign('keys', 'keys', 'keys', 1, 2);

--
-- Parked behind a failure, in the same batch and in later ones; others go on
--
INSERT INTO key_test.bad VALUES ('a2', 'transient');
SELECT pg_temp.send(0, 'a1 A', 'a2 A', 'a3 A', 'b1 B', 'n1');
SELECT pg_temp.send(0, 'a4 A', 'b2 B');
\echo -- from another partition: into the queue of the one that blocked the key
SELECT pg_temp.send(1, 'a5 A', 'c1 C');
SELECT * FROM pending;
SELECT exception_id, partition, event_id FROM key_state WHERE worker_type = 'keys';
\echo -- the processor of the other partition does not drain it
CALL pg_temp.hurry();
SELECT pg_temp.send(1);
\echo -- again a failure, then success: the queue goes on in its order, what comes meanwhile stays behind
SELECT pg_temp.send(0);
DELETE FROM key_test.bad;
CALL pg_temp.hurry();
SELECT pg_temp.send(0, 'a6 A');
SELECT * FROM pending;
SELECT pg_temp.send(0, 'a7 A');
SELECT pg_temp.send(0);
SELECT string_agg(event_id, ' ' ORDER BY n) FROM key_test.done WHERE event_id LIKE 'a%';
SELECT count(*) FROM key_state WHERE worker_type = 'keys';
SELECT string_agg(event_id || ' ' || status || ' ' || retry_count, ', ' ORDER BY event_id) FROM event_processing_log WHERE worker_type = 'keys';

--
-- One of the released ones fails: those behind it are parked again
--
INSERT INTO key_test.bad VALUES ('d1', 'transient'), ('d3', 'transient');
SELECT pg_temp.send(0, 'd1 D', 'd2 D', 'd3 D', 'd4 D');
DELETE FROM key_test.bad WHERE event_id = 'd1';
CALL pg_temp.hurry();
SELECT pg_temp.send(0);
SELECT pg_temp.send(0);
SELECT * FROM pending;
DELETE FROM key_test.bad;
CALL pg_temp.hurry();
SELECT pg_temp.send(0);
SELECT pg_temp.send(0);
SELECT string_agg(event_id, ' ' ORDER BY n) FROM key_test.done WHERE event_id LIKE 'd%';

--
-- A dead letter lets the others go on
--
INSERT INTO key_test.bad VALUES ('e1', 'validation_error');
SELECT pg_temp.send(0, 'e1 E', 'e2 E');
SELECT * FROM pending;

--
-- Retries used up: 4 of them, then the dead letter, then the queue
--
INSERT INTO key_test.bad VALUES ('f1', 'transient');
SELECT pg_temp.send(0, 'f1 F', 'f2 F');
SELECT extract(epoch FROM next_attempt_at - first_failed_at) BETWEEN 0.9 AND 1.2 FROM event_pending WHERE event_id = 'f1';
CALL pg_temp.hurry();
SELECT pg_temp.send(0);
SELECT retry_count, extract(epoch FROM next_attempt_at - clock_timestamp()) BETWEEN 1.5 AND 2.2 FROM event_pending WHERE event_id = 'f1';
CALL pg_temp.hurry();
SELECT pg_temp.send(0);
CALL pg_temp.hurry();
SELECT pg_temp.send(0);
SELECT retry_count, extract(epoch FROM next_attempt_at - clock_timestamp()) BETWEEN 7 AND 8.8 FROM event_pending WHERE event_id = 'f1';
CALL pg_temp.hurry();
SELECT pg_temp.send(0);
SELECT event_id, error_type, retry_count, original_partition, step, status FROM dead_letter_queue WHERE worker_type = 'keys' ORDER BY id;
SELECT pg_temp.send(0);
SELECT * FROM pending;
SELECT string_agg(event_id, ' ' ORDER BY n) FROM key_test.done WHERE event_id LIKE 'f%';
SELECT event_type, payload ->> 'retry_count' FROM event_log WHERE event_type IN ('RetryScheduled', 'DeadLettered') AND payload ->> 'event_id' = 'f1' ORDER BY created_at;

--
-- A long queue is released a part at a time
--
INSERT INTO key_test.bad VALUES ('g0', 'transient');
SELECT pg_temp.send(0, VARIADIC (SELECT array_agg(format('g%s G', i)) FROM generate_series(0, 250) i));
DELETE FROM key_test.bad;
CALL pg_temp.hurry();
SELECT pg_temp.send(0);
SELECT status, count(*) FROM pending GROUP BY 1 ORDER BY 1;
SELECT pg_temp.send(0);
SELECT pg_temp.send(0);
SELECT pg_temp.send(0);
SELECT string_agg(event_id, ' ' ORDER BY n) = (SELECT string_agg('g' || i, ' ' ORDER BY i) FROM generate_series(1, 250) i)
  FROM key_test.done WHERE event_id LIKE 'g%' AND event_id <> 'g0';

--
-- A dead letter that holds its key is discarded by hand: the queue goes on in its order, whatever plan
-- releases it and wherever its rows lie
--
SELECT after_dead_letter FROM retry_policy_set(worker_type => 'keys', max_retries => 0, after_dead_letter => 'park');
INSERT INTO key_test.bad VALUES ('i0', 'transient');
SELECT pg_temp.send(0, VARIADIC (SELECT array_agg(format('i%s I', i) ORDER BY i) FROM generate_series(0, 40) i));
DO $$
BEGIN
	FOR i IN REVERSE 40 .. 1 LOOP
		UPDATE sentinai.event_pending SET record_value = record_value WHERE worker_type = 'keys' AND event_id = 'i' || i;
	END LOOP;
END $$;
SET enable_nestloop = off;
SELECT status FROM dlq_discard((SELECT id FROM dead_letter_queue WHERE worker_type = 'keys' AND event_id = 'i0'), 'test');
RESET enable_nestloop;
SELECT count(*), count(DISTINCT next_attempt_at) FROM event_pending WHERE worker_type = 'keys' AND status = 'released';
SELECT pg_temp.send(0);
SELECT string_agg(event_id, ' ' ORDER BY n) = (SELECT string_agg('i' || i, ' ' ORDER BY i) FROM generate_series(1, 40) i)
  FROM key_test.done WHERE event_id LIKE 'i%' AND event_id <> 'i0';
SELECT retry_policy_delete(worker_type => 'keys');

--
-- Fewer partitions than before: their work is partition 0's
--
INSERT INTO key_test.bad VALUES ('h1', 'transient');
SELECT pg_temp.send(1, 'h1 H', 'h2 H');
DELETE FROM key_test.bad;
SELECT next_offset > 0 FROM assign('keys', 'keys', 'keys', 0, 1);
CALL pg_temp.hurry();
SELECT pg_temp.send(0);
SELECT pg_temp.send(0);
SELECT count(*) FROM pending;
SELECT count(*) FROM key_state WHERE worker_type = 'keys';

DROP VIEW pending;
DROP SCHEMA key_test CASCADE;
