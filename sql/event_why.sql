-- event_why(): each of its answers.

SET search_path = sentinai, public;
SET timezone = 'UTC';
\set VERBOSITY terse
\pset format unaligned
\pset tuples_only on

-- Events fail while their id is in why_test.broken.
CREATE SCHEMA why_test;
GRANT USAGE ON SCHEMA why_test TO sentinai_handler;
CREATE TABLE why_test.broken (event_id text PRIMARY KEY, sqlstate text NOT NULL DEFAULT '22000');
GRANT ALL ON ALL TABLES IN SCHEMA why_test TO sentinai_handler;
CREATE FUNCTION why_test.handle(e sentinai.event) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	b why_test.broken;
BEGIN
	SELECT * INTO b FROM why_test.broken x WHERE x.event_id = e.event_id;
	IF FOUND THEN
		RAISE EXCEPTION USING ERRCODE = b.sqlstate, MESSAGE = 'broken';
	END IF;
END $$;
GRANT EXECUTE ON FUNCTION why_test.handle TO sentinai_handler;
SELECT tenant_add('why_a'), event_type_add('WhyTest'), event_type_add('WhyNobody'), event_type_add('WhyLater');
SELECT worker_type_add('why_test', 'why_test'), worker_type_add('why_other', 'why_test');
SELECT handler_add('why_test', 'WhyTest', 'why_test.handle'), handler_add('why_other', 'WhyTest', 'why_test.handle');
SELECT name, owns_topic FROM worker_type_effective WHERE topic = 'why_test' ORDER BY 1;
SELECT epoch FROM assign('why_test', 'why_test', 'why_test', 0);

CREATE FUNCTION pg_temp.feed(worker text, records sentinai.record[]) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	k		sentinai.kafka_offset;
	r		sentinai.consume_result;
BEGIN
	SELECT * INTO k FROM sentinai.kafka_offset o WHERE o.group_id = worker;
	SELECT * INTO r FROM sentinai.consume(worker, worker,
		ARRAY(SELECT ROW('why_test', 0, k.next_offset + n - 1, k.epoch, u.ts, u.key, u.headers, u.value)::sentinai.record
				FROM unnest(records) WITH ORDINALITY AS u(topic, partition, kafka_offset, epoch, ts, key, headers, value, n))
		|| ROW('why_test', 0, k.next_offset + cardinality(records), k.epoch, NULL, NULL, NULL, NULL)::sentinai.record);
	RETURN format('handled %s, logged %s, failed %s, parked %s, deferred %s, dead %s, duplicate %s, due %s', r.handled, r.logged, r.failed,
				  r.parked, r.deferred, r.dead_lettered, r.duplicate, r.due);
END $$;
-- New events "id type exception", and due work with them.
CREATE FUNCTION pg_temp.send(worker text, VARIADIC events text[] DEFAULT '{}') RETURNS text LANGUAGE sql AS $$
	SELECT pg_temp.feed(worker, ARRAY(
		SELECT ROW(NULL, NULL, NULL, NULL, '2026-02-01', 'key', NULL,
			convert_to(jsonb_build_object('event_id', split_part(e, ' ', 1), 'event_type', split_part(e, ' ', 2), 'tenant_id', 'why_a',
				'exception_id', nullif(split_part(e, ' ', 3), ''), 'timestamp', '2026-01-02T03:04:05Z',
				'payload', jsonb_build_object('n', n))::text, 'UTF8'))::sentinai.record
		  FROM unnest(events) WITH ORDINALITY AS u(e, n) ORDER BY n)) $$;
-- What is published may be truncated at any time.
CREATE TEMP TABLE sent AS SELECT * FROM outbox WHERE false;
CREATE FUNCTION pg_temp.deliver(worker text, dlq_id bigint) RETURNS text LANGUAGE sql AS $$
	SELECT pg_temp.feed(worker, ARRAY(
		SELECT ROW(NULL, NULL, NULL, NULL, '2026-03-01', o.key, o.headers, o.value)::sentinai.record
		  FROM (SELECT * FROM pg_temp.sent o WHERE o.dlq_id = $2) o)) $$;
CREATE FUNCTION pg_temp.letter(event_id text) RETURNS bigint LANGUAGE sql AS
	$$ SELECT max(id) FROM sentinai.dead_letter_queue d WHERE d.event_id = $1 AND tenant_id = 'why_a' $$;
-- What varies is replaced: times, ids of dead letters and of the outbox.
CREATE FUNCTION pg_temp.why(event_id text, worker text DEFAULT 'why_test') RETURNS SETOF text LANGUAGE sql AS $$
	SELECT concat_ws('|', worker_type, state, regexp_replace(regexp_replace(regexp_replace(reason,
		'\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)?\+00', 'TIME', 'g'), 'dead letter \d+', 'dead letter N', 'g'), ' by ' || session_user, ' by USER'),
		(SELECT string_agg(k, ' ' ORDER BY k) FROM jsonb_object_keys(details) k))
	  FROM sentinai.event_why('why_a', event_id, worker) $$;

--
-- Handled, or not yet: two worker types concerned by one event
--
SELECT pg_temp.send('why_test', 'a1 WhyTest', 'a2 WhyNobody');
SELECT pg_temp.why('a1', NULL);
SELECT epoch FROM assign('why_other', 'why_other', 'why_test', 0);
SELECT pg_temp.why('a1', NULL);
SELECT pg_temp.send('why_test', 'a3 WhyTest');
SELECT pg_temp.why('a3', 'why_other');
SELECT details->'lag', details->'offset', details->'next_offset' FROM event_why('why_a', 'a3', 'why_other');
SELECT pg_temp.why('nothing', NULL);
SELECT pg_temp.why('a2', NULL);
SELECT pg_temp.why('a2', 'why_other');
SELECT pg_temp.why('a1', 'nobody');
-- A handler that came after the event was passed, and a group that has passed an event that nothing claims.
SELECT pg_temp.send('why_test', 'a4 WhyLater', 'a5 WhyTest');
SELECT handler_add('why_test', 'WhyLater', 'why_test.handle');
SELECT pg_temp.why('a4');
DELETE FROM event_processing_log WHERE tenant_id = 'why_a' AND event_id IN ('a4', 'a5');
SELECT pg_temp.why('a4');
SELECT pg_temp.why('a5');
-- Claims are not kept for ever.
UPDATE event_log SET created_at = (SELECT min(opened_at) FROM dedupe_generation) - interval '1 us' WHERE tenant_id = 'why_a' AND event_id = 'a5';
SELECT pg_temp.why('a5');

--
-- Waiting in the database
--
INSERT INTO why_test.broken VALUES ('b1', 'P0001');
SELECT pg_temp.send('why_test', 'b1 WhyTest B', 'b2 WhyTest B', 'b3 WhyTest B');
SELECT pg_temp.why('b1');
SELECT pg_temp.why('b2');
UPDATE event_pending SET next_attempt_at = now() - interval '1 s' WHERE event_id = 'b1';
SELECT pg_temp.why('b1');
DELETE FROM why_test.broken;
SELECT pg_temp.send('why_test');
SELECT pg_temp.why('b1');
SELECT pg_temp.why('b2');
UPDATE event_pending SET next_attempt_at = now() + interval '1 hour' WHERE event_id = 'b2';
SELECT pg_temp.why('b2');
-- Whatever it waits for besides, a suspended tenant comes first.
SELECT tenant_suspend('why_a');
SELECT pg_temp.why('b2');
SELECT tenant_resume('why_a');
DELETE FROM event_pending WHERE event_id = 'b3';
SELECT pg_temp.why('b3');
DELETE FROM event_pending WHERE tenant_id = 'why_a';
DELETE FROM key_state WHERE tenant_id = 'why_a';
SELECT tenant_suspend('why_a');
SELECT pg_temp.send('why_test', 'c1 WhyTest C', 'c2 WhyTest C');
SELECT pg_temp.why('c1');
SELECT pg_temp.why('c2');
DELETE FROM key_state WHERE tenant_id = 'why_a';
SELECT pg_temp.why('c2');
DELETE FROM event_pending WHERE tenant_id = 'why_a';
SELECT tenant_resume('why_a');

--
-- Dead letters
--
SELECT after_dead_letter FROM retry_policy_set(worker_type => 'why_test', after_dead_letter => 'park');
INSERT INTO why_test.broken VALUES ('d1'), ('d2'), ('d3'), ('d4');
SELECT pg_temp.send('why_test', 'd1 WhyTest D', 'dx WhyTest D', 'd2 WhyTest', 'd3 WhyTest', 'd4 WhyTest');
SELECT pg_temp.why('d1');
SELECT pg_temp.why('dx');
SELECT status FROM dlq_discard(pg_temp.letter('d2'), 'a test');
SELECT pg_temp.why('d2');
DELETE FROM dead_letter_queue WHERE id = pg_temp.letter('d3');
SELECT pg_temp.why('d3');
SELECT pg_temp.why('d3', NULL);
-- Another event of the id of one that was handled
SELECT pg_temp.feed('why_test', ARRAY[ROW(NULL, NULL, NULL, NULL, '2026-02-01', 'key', NULL,
	convert_to('{"event_id": "a1", "event_type": "WhyTest", "tenant_id": "why_a", "timestamp": "2026-01-02T03:04:05Z", "payload": {"other": true}}', 'UTF8'))]::sentinai.record[]);
SELECT pg_temp.why('a1');

--
-- Retries of dead letters, from the outbox to their end
--
SELECT status FROM dlq_retry(pg_temp.letter('d4'));
SELECT status FROM dlq_retry(pg_temp.letter('d1'));
INSERT INTO sent SELECT * FROM outbox WHERE dlq_id IN (pg_temp.letter('d1'), pg_temp.letter('d4'));
SELECT pg_temp.why('d4');
SELECT details->'before' FROM event_why('why_a', 'd1', 'why_test');
BEGIN;
INSERT INTO outbox_watermark SELECT 'why_test', max(id) FROM outbox WHERE topic = 'why_test';
SELECT pg_temp.why('d4');
COMMIT;
INSERT INTO dlq_receipt SELECT d.id, d.retry_token, 'why_test', 0, k.next_offset + 3
  FROM dead_letter_queue d, kafka_offset k WHERE d.id = pg_temp.letter('d4') AND k.group_id = 'why_test';
SELECT regexp_replace(pg_temp.why('d4'), '/0/\d+, group why_test is at \d+', '/0/N, group why_test is at N');
SELECT details->'lag' FROM event_why('why_a', 'd4', 'why_test');
-- In transactions that are rolled back, since the maintenance worker would put what is lost back to pending.
BEGIN;
UPDATE dlq_receipt SET kafka_offset = 0 WHERE dlq_id = pg_temp.letter('d4');
SELECT regexp_replace(pg_temp.why('d4'), 'is at \d+', 'is at N');
DELETE FROM dlq_receipt WHERE dlq_id = pg_temp.letter('d4');
DELETE FROM outbox_0; DELETE FROM outbox_1; DELETE FROM outbox_2;
SELECT pg_temp.why('d4');
UPDATE dead_letter_queue SET retried_at = now() - interval '1 hour' WHERE id = pg_temp.letter('d4');
SELECT pg_temp.why('d4');
ROLLBACK;
-- It has come, and waits for its tenant; then it is done.
SELECT tenant_suspend('why_a');
SELECT pg_temp.deliver('why_test', pg_temp.letter('d4'));
SELECT pg_temp.why('d4');
SELECT tenant_resume('why_a');
DELETE FROM why_test.broken;
SELECT pg_temp.send('why_test');
SELECT pg_temp.why('d4');
SELECT pg_temp.deliver('why_test', pg_temp.letter('d1'));
SELECT pg_temp.why('d1');
SELECT pg_temp.send('why_test');
SELECT pg_temp.why('dx');

--
-- Events of ours, on their way out
--
SELECT event_publish('why_test', '{"event_id": "e1", "event_type": "WhyTest", "tenant_id": "why_a", "payload": {}}') IS NOT NULL;
SELECT pg_temp.why('e1', NULL);
BEGIN;
UPDATE outbox_watermark SET id = (SELECT max(id) FROM outbox WHERE topic = 'why_test') WHERE topic = 'why_test';
SELECT pg_temp.why('e1');
COMMIT;

DELETE FROM retry_policy_override;
DELETE FROM dead_letter_queue WHERE tenant_id = 'why_a';
