-- Handlers: how they are called, and how the events that fail are found among those that don't.

SET search_path = sentinai, public;
\set VERBOSITY terse
\pset format unaligned
\pset tuples_only on

CREATE FUNCTION pg_temp.ev(event_id text, event_type text, exception_id text)
	RETURNS bytea LANGUAGE sql AS $$
	SELECT convert_to(jsonb_build_object('event_id', event_id, 'event_type', event_type, 'tenant_id', 'hand',
		'exception_id', exception_id, 'payload', '{}'::jsonb)::text, 'UTF8') $$;

CREATE FUNCTION pg_temp.counts(r sentinai.consume_result) RETURNS text LANGUAGE sql AS $$
	SELECT format('handled %s, failed %s, parked %s, dead %s, emitted %s%s%s',
		r.handled, r.failed, r.parked, r.dead_lettered, r.emitted, ', stop ' || r.stop, ', split ' || r.split) $$;

-- Sends events written as "id type exception" as the next records.
CREATE FUNCTION pg_temp.send(VARIADIC events text[]) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	k		sentinai.kafka_offset;
	records	sentinai.record[];
BEGIN
	SELECT * INTO k FROM sentinai.kafka_offset o WHERE o.group_id = 'hand';
	SELECT array_agg(ROW('hand', 0, k.next_offset + n - 1, k.epoch, '2026-01-01', 'key', NULL,
						 pg_temp.ev(split_part(e, ' ', 1), split_part(e, ' ', 2), nullif(split_part(e, ' ', 3), '')))::sentinai.record ORDER BY n)
	  INTO records FROM unnest(events) WITH ORDINALITY AS u(e, n);
	RETURN pg_temp.counts(sentinai.consume('hand', 'hand', records));
END $$;

CREATE SCHEMA hand_test;
GRANT USAGE ON SCHEMA hand_test TO sentinai_handler;
CREATE TABLE hand_test.done (n serial, event_id text, who text);
CREATE TABLE hand_test.odd (event_id text PRIMARY KEY, what text);
CREATE TABLE hand_test.parent (id text PRIMARY KEY);
CREATE TABLE hand_test.child (id text REFERENCES hand_test.parent DEFERRABLE INITIALLY DEFERRED);
GRANT ALL ON ALL TABLES IN SCHEMA hand_test TO sentinai_handler;
GRANT ALL ON ALL SEQUENCES IN SCHEMA hand_test TO sentinai_handler;
CREATE FUNCTION hand_test.plain(e sentinai.event) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	what	text := (SELECT o.what FROM hand_test.odd o WHERE o.event_id = e.event_id);
BEGIN
	INSERT INTO hand_test.done (event_id, who) VALUES (e.event_id, current_user || ' ' || current_setting('enable_seqscan'));
	CASE what
		WHEN 'raise' THEN RAISE EXCEPTION 'boom % at %', e.event_id, 42;
		WHEN 'divide' THEN PERFORM 1 / 0;
		WHEN 'missing' THEN PERFORM * FROM no_such_table;
		WHEN 'sleep' THEN PERFORM pg_sleep(60);
		WHEN 'swallow' THEN
			BEGIN
				PERFORM pg_sleep(60);
			EXCEPTION WHEN query_canceled THEN
				NULL;
			END;
		WHEN 'full' THEN RAISE EXCEPTION USING ERRCODE = 'disk_full', MESSAGE = 'no space';
		WHEN 'fail' THEN PERFORM sentinai.fail(e, 'not_today', 'come back');
		WHEN 'invalid' THEN PERFORM sentinai.fail(e, 'validation_error', 'never');
		WHEN 'role' THEN EXECUTE 'RESET ROLE';
		WHEN 'leave' THEN
			PERFORM set_config('work_mem', '99MB', false), pg_advisory_lock(4711);
			CREATE TEMP TABLE left_over ();
			LISTEN left_over;
		WHEN 'emit' THEN
			PERFORM sentinai.emit(e, 'ExceptionResolved', '{"n": 1}');
			BEGIN
				PERFORM sentinai.emit(e, 'ExceptionResolved', '{"n": 2}');
				RAISE EXCEPTION 'taken back';
			EXCEPTION WHEN raise_exception THEN
				PERFORM sentinai.emit(e, 'ExceptionResolved', '{"n": 3}', 'OTHER', 'elsewhere');
			END;
		WHEN 'emit nothing' THEN PERFORM sentinai.emit(e, 'HandUnheard', '{}');
		WHEN 'emit array' THEN PERFORM sentinai.emit(e, 'ExceptionResolved', '[]');
		WHEN 'emit stranger' THEN
			e.event_id := 'stranger';
			PERFORM sentinai.emit(e, 'ExceptionResolved', '{}');
		WHEN 'consume' THEN PERFORM sentinai.consume('hand', 'hand', ARRAY[]::sentinai.record[]);
		WHEN 'defer' THEN INSERT INTO hand_test.child VALUES (e.event_id); INSERT INTO hand_test.parent VALUES (e.event_id);
		WHEN 'orphan' THEN INSERT INTO hand_test.child VALUES (e.event_id);
		ELSE NULL;
	END CASE;
END $$;
CREATE FUNCTION hand_test.batch(es sentinai.event[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO hand_test.done (event_id, who) SELECT e.event_id, cardinality(es) FROM unnest(es) e;
	IF EXISTS (SELECT FROM unnest(es) e JOIN hand_test.odd o USING (event_id) WHERE o.what = 'raise') THEN
		RAISE EXCEPTION USING ERRCODE = 'serialization_failure', MESSAGE = 'somebody of us fails';
	END IF;
	PERFORM sentinai.fail(e, 'not_today', 'come back') FROM unnest(es) e JOIN hand_test.odd o USING (event_id) WHERE o.what = 'fail';
	PERFORM sentinai.emit(e, 'ExceptionResolved', '{}') FROM unnest(es) e JOIN hand_test.odd o USING (event_id);
END $$;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA hand_test TO sentinai_handler;

SELECT tenant_add('hand');
SELECT event_type_add('HandPlain'), event_type_add('HandBatch');
SELECT worker_type_add('hand', 'hand');
-- Retries come when the test says so, however slow the machine is.
SELECT base_delay FROM retry_policy_set(worker_type => 'hand', base_delay => '1 hour', max_delay => '1 hour');
SELECT handler_add('hand', 'HandPlain', 'hand_test.plain'), handler_add('hand', 'HandBatch', 'hand_test.batch');
SELECT epoch, next_offset FROM assign('hand', 'hand', 'hand', 0);
CREATE FUNCTION hand_test.definer(e sentinai.event) RETURNS void LANGUAGE sql SECURITY DEFINER AS 'SELECT';
SELECT handler_add('hand', 'HandPlain', 'hand_test.definer');
CREATE ROLE regress_hand_super SUPERUSER;
SELECT handler_add('hand', 'HandPlain', 'hand_test.plain', 'regress_hand_super');
DROP ROLE regress_hand_super;

--
-- Outside of a handler
--
SELECT emit(ROW('a', 'b', 'c', 'd', now(), 'e', 1, '{}', '{}')::sentinai.event, 'ExceptionResolved', '{}');
SELECT fail(ROW('a', 'b', 'c', 'd', now(), 'e', 1, '{}', '{}')::sentinai.event, 'x', 'y');

--
-- Each way to fail alone, in the middle of good ones
--
INSERT INTO hand_test.odd VALUES ('raise', 'raise'), ('divide', 'divide'), ('fail', 'fail'), ('invalid', 'invalid'),
	('emit_nothing', 'emit nothing'), ('emit_array', 'emit array'), ('emit_stranger', 'emit stranger'),
	('orphan', 'orphan'), ('defer', 'defer'), ('emit', 'emit'), ('sleep', 'sleep'), ('swallow', 'swallow');
SET sentinai.handler_timeout = '300ms';
SELECT pg_temp.send(VARIADIC (SELECT array_agg(format('%s HandPlain %s', event_id, event_id)) || '{good1 HandPlain,good2 HandPlain}' FROM hand_test.odd WHERE event_id <> 'none'));
RESET sentinai.handler_timeout;
SELECT event_id, status, error_type, error_message, sqlstate, retry_count FROM event_pending WHERE worker_type = 'hand' ORDER BY event_id COLLATE "C";
SELECT event_id, error_type, error_message, sqlstate, step FROM dead_letter_queue WHERE worker_type = 'hand' ORDER BY event_id COLLATE "C";
SELECT event_id, who FROM hand_test.done ORDER BY event_id COLLATE "C";
SELECT * FROM hand_test.child ORDER BY 1;
\echo -- a constraint gets another name between two batches
ALTER TABLE hand_test.child RENAME CONSTRAINT child_id_fkey TO child_has_parent;
INSERT INTO hand_test.odd VALUES ('renamed', 'defer');
SELECT pg_temp.send('renamed HandPlain renamed');
\echo -- what "emit" emitted: 2 was taken back
SELECT event_type, exception_id, topic, payload, correlation_id, metadata FROM event_log WHERE metadata ->> 'parent_event_id' = 'emit' ORDER BY topic;
SELECT topic, convert_from(key, 'UTF8') AS key, (headers[1]).name, convert_from((headers[1]).value, 'UTF8'), event_type FROM outbox
 WHERE event_id IN (SELECT event_id FROM event_log WHERE metadata ->> 'parent_event_id' = 'emit') ORDER BY id;
SELECT event_type, count(*) FROM event_log WHERE metadata ->> 'emitted_by' = 'hand' GROUP BY 1 ORDER BY 1;

--
-- What a handler may not do is a handler that can't run: its circuit opens at once, and its events wait
--
INSERT INTO hand_test.odd VALUES ('missing', 'missing'), ('role', 'role'), ('consume', 'consume');
SELECT pg_temp.send('missing HandPlain M');
SELECT error_type, error_message FROM circuit WHERE worker_type = 'hand';
SELECT circuit_close('hand', 'HandPlain');
SELECT pg_temp.send('role HandPlain R');
SELECT error_type, error_message FROM circuit WHERE worker_type = 'hand';
SELECT circuit_close('hand', 'HandPlain');
SELECT pg_temp.send('consume HandPlain C');
SELECT error_type, error_message FROM circuit WHERE worker_type = 'hand';
DELETE FROM hand_test.odd WHERE what IN ('missing', 'role', 'consume');
SELECT circuit_close('hand', 'HandPlain');

--
-- What is left in the session is undone
--
SHOW work_mem;
INSERT INTO hand_test.odd VALUES ('leave', 'leave');
SELECT pg_temp.send('leave HandPlain L');
SHOW work_mem;
SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 4711;
SELECT to_regclass('pg_temp.left_over'), (SELECT count(*) FROM pg_listening_channels());
SELECT status FROM event_processing_log WHERE event_id = 'leave';

--
-- An error of the infrastructure: nothing moves, no retry is used up
--
INSERT INTO hand_test.odd VALUES ('full', 'full');
SELECT next_offset AS before FROM kafka_offset WHERE group_id = 'hand' \gset
SELECT pg_temp.send('fine3 HandPlain', 'full HandPlain F');
SELECT next_offset = :before FROM kafka_offset WHERE group_id = 'hand';
SELECT count(*) FROM event_processing_log WHERE event_id IN ('fine3', 'full');
DELETE FROM hand_test.odd WHERE event_id = 'full';
SELECT pg_temp.send('fine3 HandPlain', 'full HandPlain F');

--
-- Set-based: one call for all, halves until the culprit is alone, fail() names it at once
--
TRUNCATE hand_test.done;
SELECT pg_temp.send(VARIADIC (SELECT array_agg(format('s%s HandBatch K%s', i, i % 10)) FROM generate_series(1, 40) i));
SELECT who, count(*) FROM hand_test.done GROUP BY 1;
INSERT INTO hand_test.odd VALUES ('t7', 'raise'), ('t20', 'fail');
SELECT pg_temp.send(VARIADIC (SELECT array_agg(format('t%s HandBatch L%s', i, i % 10)) FROM generate_series(1, 40) i));
SELECT event_id, status, error_type FROM event_pending WHERE event_id LIKE 't%' ORDER BY id;
SELECT count(*), count(DISTINCT event_id) FROM hand_test.done WHERE event_id LIKE 't%';

--
-- More failures than a transaction has subtransactions for: smaller calls are asked for, and do it
--
INSERT INTO hand_test.odd SELECT 'u' || i, 'raise' FROM generate_series(1, 300) i WHERE i % 4 = 0;
SELECT pg_temp.send(VARIADIC (SELECT array_agg(format('u%s HandBatch', i)) FROM generate_series(1, 300) i));
SELECT pg_temp.send(VARIADIC (SELECT array_agg(format('u%s HandBatch', i)) FROM generate_series(1, 50) i));
SELECT count(*) FROM hand_test.done WHERE event_id LIKE 'u%';

--
-- More events that run out of time than one transaction may wait for: the same, and a call of one always gets on
--
UPDATE event_pending SET next_attempt_at = 'infinity' WHERE worker_type = 'hand' AND status = 'retrying';
INSERT INTO hand_test.odd SELECT 'v' || i, 'sleep' FROM generate_series(1, 99, 2) i;
SET sentinai.handler_timeout = '100ms';
SELECT regexp_replace(pg_temp.send(VARIADIC (SELECT array_agg(format('v%s HandPlain', i)) FROM generate_series(1, 100) i)),
	'split ([1-4]?[0-9])$', 'split to less than 50');
SELECT count(*) FROM event_processing_log WHERE event_id LIKE 'v%' AND worker_type = 'hand';
SELECT pg_temp.send('v1 HandPlain') LIKE '%split%';
SELECT status FROM event_processing_log WHERE event_id = 'v1' AND worker_type = 'hand';
UPDATE event_pending SET next_attempt_at = 'infinity' WHERE worker_type = 'hand' AND status = 'retrying';
RESET sentinai.handler_timeout;

--
-- Two handlers, one key: waves keep the order
--
TRUNCATE hand_test.done;
SELECT pg_temp.send('w1 HandPlain W', 'w2 HandBatch W', 'w3 HandBatch W', 'w4 HandPlain W', 'w5 HandBatch V', 'w6 HandPlain');
SELECT string_agg(event_id, ' ' ORDER BY n) FILTER (WHERE event_id IN ('w1', 'w2', 'w3', 'w4')) FROM hand_test.done;

--
-- A function that is gone, and one that comes back
--
ALTER FUNCTION hand_test.plain RENAME TO other;
SELECT pg_temp.send('gone HandPlain');
SELECT event_id, error_type, sqlstate FROM event_pending WHERE event_id = 'gone';
ALTER FUNCTION hand_test.other RENAME TO plain;
SELECT circuit_close('hand', 'HandPlain');
SELECT pg_temp.send('back HandPlain');

DROP SCHEMA hand_test CASCADE;
