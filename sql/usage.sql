-- Usage: each unit in exactly one row, whatever happens to it; the shapes of the answers; corrections, closing, the books.
-- Maintenance would roll up and compact too: it is kept out of this database meanwhile.

CREATE DATABASE regress_usage TEMPLATE template0 ENCODING 'UTF8';
ALTER SYSTEM SET sentinai.databases = 'none';
SELECT pg_reload_conf();
\set SHOW_CONTEXT never
\c regress_usage
SET client_min_messages = warning;
CREATE EXTENSION sentinai;
SET search_path = sentinai, public;
SET TimeZone = 'UTC';
SET DateStyle = 'ISO';
\set VERBOSITY terse
\pset format unaligned
\pset tuples_only on

CREATE FUNCTION pg_temp.ev(event_id text, event_type text, tenant_id text) RETURNS bytea LANGUAGE sql AS $$
	SELECT convert_to(jsonb_build_object('event_id', event_id, 'event_type', event_type, 'tenant_id', tenant_id, 'payload', '{}'::jsonb)::text, 'UTF8') $$;

-- Sends events written as "id type tenant"; none: a tick.
CREATE FUNCTION pg_temp.send(VARIADIC events text[] DEFAULT '{}') RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	k		sentinai.kafka_offset;
	r		sentinai.consume_result;
BEGIN
	SELECT * INTO k FROM sentinai.kafka_offset o WHERE o.group_id = 'usg';
	SELECT * INTO r FROM sentinai.consume('usg', 'usg', coalesce((
		SELECT array_agg(ROW('usg', 0, k.next_offset + n - 1, k.epoch, '2020-01-01', 'key', NULL,
							 pg_temp.ev(split_part(e, ' ', 1), split_part(e, ' ', 2), split_part(e, ' ', 3)))::sentinai.record ORDER BY n)
		  FROM unnest(events) WITH ORDINALITY AS u(e, n)),
		ARRAY[ROW('usg', 0, k.next_offset, k.epoch, NULL, NULL, NULL, NULL)::sentinai.record]));
	RETURN format('handled %s, logged %s, duplicate %s, failed %s, dead %s', r.handled, r.logged, r.duplicate, r.failed, r.dead_lettered);
END $$;

CREATE FUNCTION pg_temp.books(OUT event_type text, OUT events bigint, OUT lost bigint, OUT effects bigint, OUT usage bigint, OUT balanced boolean)
	RETURNS SETOF record LANGUAGE sql AS $$
	SELECT b.event_type, b.events, b.lost, b.effects, b.usage, b.balanced
	  FROM sentinai.books_check('usg_a', now() - interval '1 hour', now() + interval '1 minute') b ORDER BY 1 $$;

CREATE SCHEMA usg_test;
GRANT USAGE ON SCHEMA usg_test TO sentinai_handler;
CREATE TABLE usg_test.bad (event_id text);
GRANT ALL ON usg_test.bad TO sentinai_handler;
CREATE FUNCTION usg_test.handle(e sentinai.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM sentinai.usage_record(e.tenant_id, 'tool_executions', 'tool "a", b', 2);
	IF EXISTS (SELECT FROM usg_test.bad b WHERE b.event_id = e.event_id) THEN
		PERFORM sentinai.fail(e, 'away', 'not now');
	END IF;
END $$;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA usg_test TO sentinai_handler;
SELECT tenant_add('usg_a'), tenant_add('usg_b');
SELECT event_type_add('UsgOne'), event_type_add('UsgTwo'), event_type_add('UsgNobody');
SELECT worker_type_add('usg', 'usg');
SELECT handler_add('usg', 'UsgOne', 'usg_test.handle'), handler_add('usg', 'UsgTwo', 'usg_test.handle');
SELECT epoch FROM assign('usg', 'usg', 'usg', 0);

--
-- A row for each tenant and event type of a batch; what failed is not counted, nor what its handler has counted
--
INSERT INTO usg_test.bad VALUES ('a2');
SELECT pg_temp.send('a1 UsgOne usg_a', 'b1 UsgOne usg_b', 'a2 UsgOne usg_a', 'a3 UsgTwo usg_a', 'a4 UsgOne usg_a', 'a5 UsgNobody usg_a');
SELECT tenant_id, metric_type, resource, quantity FROM usage_entry WHERE metric_type = 'events' ORDER BY 1, 2, 3;
SELECT tenant_id, metric_type, resource, sum(quantity) FROM usage_entry WHERE metric_type <> 'events' GROUP BY 1, 2, 3 ORDER BY 1, 2, 3;
SELECT * FROM pg_temp.books();
\echo -- the retry counts when it succeeds, a duplicate never
DELETE FROM usg_test.bad;
UPDATE event_pending SET next_attempt_at = now() WHERE worker_type = 'usg';
SELECT pg_temp.send('a1 UsgOne usg_a');
SELECT * FROM pg_temp.books();
\echo -- a dead letter counts when its replay succeeds
INSERT INTO usg_test.bad VALUES ('a6');
SELECT retry_policy_set('usg_a', max_retries => 0);
SELECT pg_temp.send('a6 UsgTwo usg_a');
SELECT * FROM pg_temp.books();
DELETE FROM usg_test.bad;
UPDATE event_pending SET next_attempt_at = now() WHERE worker_type = 'usg';
SELECT count(*) FROM dead_letter_queue d, dlq_retry(d.id, 'again') WHERE d.tenant_id = 'usg_a';
SELECT (r).handled FROM (
	SELECT consume('usg', 'usg', ARRAY[ROW('usg', 0, k.next_offset, k.epoch, '2020-01-01', o.key, o.headers || ARRAY[
			ROW('sentinai-dlq-id', convert_to(o.dlq_id::text, 'UTF8'))::header, ROW('sentinai-dlq-token', convert_to(o.dlq_token::text, 'UTF8'))::header],
			o.value)::sentinai.record]) AS r
	  FROM kafka_offset k, outbox o WHERE k.group_id = 'usg' AND o.topic = 'usg' AND o.dlq_id IS NOT NULL) x;
SELECT * FROM pg_temp.books();
\echo -- a batch that is rolled back counts nothing
BEGIN;
SELECT pg_temp.send('a7 UsgOne usg_a');
SELECT usage FROM pg_temp.books() WHERE event_type = 'UsgOne';
ROLLBACK;
SELECT usage FROM pg_temp.books() WHERE event_type = 'UsgOne';

--
-- Rolling up changes the place, not the sum
--
CREATE TEMP TABLE before AS SELECT metric_type, resource, sum(quantity) AS quantity FROM usage_entry GROUP BY 1, 2;
SELECT usage_roll('infinity');
SELECT count(*) FROM usage_delta;
SELECT tenant_id, metric_type, resource, level, period_start > now() - interval '10 minutes' AND period_start = date_trunc('minute', period_start) AS minute_ok, sum(quantity)
  FROM usage_metric GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3;
SELECT usage_roll('infinity');
SELECT * FROM before EXCEPT SELECT metric_type, resource, sum(quantity) FROM usage_entry GROUP BY 1, 2;
SELECT * FROM pg_temp.books();
\echo -- more of the same minute is added to its row
SELECT pg_temp.send('a8 UsgOne usg_a');
SELECT usage_roll('infinity');
SELECT sum(quantity) FROM usage_metric WHERE tenant_id = 'usg_a' AND resource = 'usg/UsgOne';
\echo -- the books find a row that somebody has changed, and one that is missing
BEGIN;
UPDATE usage_metric SET quantity = quantity + 1 WHERE ctid = (SELECT ctid FROM usage_metric WHERE tenant_id = 'usg_a' AND resource = 'usg/UsgOne' LIMIT 1);
DELETE FROM usage_metric WHERE tenant_id = 'usg_a' AND resource = 'usg/UsgTwo';
DELETE FROM event_processing_log WHERE event_id = 'a5' AND tenant_id = 'usg_a';
SELECT * FROM pg_temp.books();
ROLLBACK;
BEGIN;
SELECT usage_record('usg_a', 'events', 'usg/UsgGhost');
SELECT * FROM pg_temp.books() WHERE NOT balanced;
\echo -- unless the claims of that time may have been forgotten
UPDATE dedupe_state SET forgotten_at = now();
SELECT * FROM pg_temp.books() WHERE balanced IS NOT TRUE;
ROLLBACK;

--
-- Minutes become hours, hours days; the times are moved, not waited for
--
CREATE TABLE usg_test.at AS SELECT date_trunc('day', now(), 'UTC') - interval '100 days' + interval '10 hours' AS old;
INSERT INTO usage_metric (tenant_id, metric_type, period_start, resource, level, quantity)
	SELECT 'usg_b', 'api_calls', old + n * interval '1 minute', '', 'minute', 1 FROM usg_test.at, generate_series(0, 149) n;
CREATE TEMP VIEW levels AS SELECT level, count(*), sum(quantity), min(period_start) = (SELECT old FROM usg_test.at) AS at_old,
	min(period_start) = (SELECT date_trunc('day', old, 'UTC') FROM usg_test.at) AS at_day
	FROM usage_metric WHERE tenant_id = 'usg_b' AND metric_type = 'api_calls' GROUP BY 1;
SELECT usage_compact((SELECT old + interval '3 hours' FROM usg_test.at));
SELECT * FROM levels;
SELECT usage_compact((SELECT old + interval '2 days 1 hour 30 minutes' FROM usg_test.at));
SELECT * FROM levels ORDER BY 1;
SELECT usage_compact((SELECT old + interval '2 days 3 hours' FROM usg_test.at));
SELECT * FROM levels;
\echo -- what comes late into an hour that is one row already
INSERT INTO usage_delta_0 SELECT old + interval '5 minutes', 3, 'usg_b', 'api_calls', '' FROM usg_test.at;
SELECT usage_roll('infinity');
SELECT * FROM levels ORDER BY 1;
SELECT sum(quantity) FROM usage_details('usg_b', 'api_calls', (SELECT old FROM usg_test.at), (SELECT old + interval '1 hour' FROM usg_test.at));
SELECT usage_compact((SELECT old + interval '2 days 3 hours' FROM usg_test.at));
SELECT * FROM levels;
SELECT usage_compact((SELECT old + interval '91 days' FROM usg_test.at));
SELECT * FROM levels;
SELECT quantity, level FROM usage_details('usg_b', NULL, (SELECT date_trunc('day', old, 'UTC') FROM usg_test.at), (SELECT old FROM usg_test.at), 'minute');
SELECT * FROM books_check('usg_b', (SELECT old FROM usg_test.at), (SELECT old + interval '1 hour' FROM usg_test.at));
\echo -- the books take no period that cuts such a row
INSERT INTO usage_metric (tenant_id, metric_type, period_start, resource, level, quantity) SELECT 'usg_b', 'events', old, 'usg/UsgOne', 'hour', 1 FROM usg_test.at;
SELECT * FROM books_check('usg_b', (SELECT old + interval '10 minutes' FROM usg_test.at), (SELECT old + interval '1 hour' FROM usg_test.at));
SELECT usage, balanced FROM books_check('usg_b', (SELECT old FROM usg_test.at), (SELECT old + interval '1 hour' FROM usg_test.at));
DELETE FROM usage_metric WHERE tenant_id = 'usg_b' AND metric_type = 'events' AND level = 'hour';
\echo -- days go at last
BEGIN;
SELECT usage_compact((SELECT old + interval '3653 days' FROM usg_test.at));
SELECT count(*) FROM levels;
SELECT usage_compact((SELECT old + interval '3654 days' FROM usg_test.at));
SELECT count(*) FROM levels;
ROLLBACK;

--
-- An empty table is truncated a minute after the last row was taken, and one with rows is not
--
SELECT usage_record('usg_a', 'reports', 'daily', 5);
SELECT usage_roll('infinity');
SELECT max(pg_relation_size('sentinai.usage_delta_' || n)) > 0 AS kept FROM generate_series(0, 1) n;
UPDATE usage_delta_state SET rolled_at = rolled_at - interval '61 seconds';
SELECT usage_roll('-infinity');
SELECT max(pg_relation_size('sentinai.usage_delta_' || n)) FROM generate_series(0, 1) n;
SELECT usage_record('usg_a', 'reports', 'daily', 2);
UPDATE usage_delta_state SET rolled_at = rolled_at - interval '61 seconds';
SELECT usage_roll('-infinity');
SELECT sum(quantity) FROM usage_entry WHERE tenant_id = 'usg_a' AND metric_type = 'reports';

--
-- Counted outside of transactions: at once, in READ ONLY ones too, given back by a flush that aborts, and once
--
BEGIN READ ONLY;
SELECT usage_count('usg_b', 'api_calls', 'GET /ops/dlq'), usage_count('usg_b', 'api_calls', 'GET /ops/dlq', 2);
ROLLBACK;
BEGIN;
SELECT usage_count('usg_b', 'tool_executions', repeat('€', 80));
ROLLBACK;
CREATE TEMP VIEW counted AS SELECT metric_type, length(resource), quantity FROM usage_entry WHERE tenant_id = 'usg_b' AND (resource LIKE 'GET%' OR resource LIKE '€%') ORDER BY 1;
SELECT * FROM counted;
BEGIN;
SELECT usage_flush();
SELECT * FROM counted;
ROLLBACK;
BEGIN;
SELECT usage_flush();
PREPARE TRANSACTION 'no';
SELECT * FROM counted;
BEGIN;
SAVEPOINT one;
SELECT usage_flush();
SELECT usage_count('usg_b', 'api_calls', 'GET /ops/dlq');
ROLLBACK TO one;
SELECT * FROM counted;
SAVEPOINT two;
SELECT usage_flush();
RELEASE two;
SAVEPOINT three;
ROLLBACK TO three;
COMMIT;
SELECT * FROM counted;
SELECT usage_flush();
SELECT * FROM counted;
\echo -- more than there is room for
SELECT count(usage_count('usg_b', 'reports', 'r' || n)) FROM generate_series(1, 9000) n;
SELECT usage_flush();
SELECT count(*), sum(quantity) FROM usage_entry WHERE resource ~ '^r\d+$';
SELECT usage_flush();

--
-- Summary, details, export
--
CREATE FUNCTION usg_test.fill(tenant text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM sentinai.tenant_add(tenant);
	INSERT INTO sentinai.usage_metric (tenant_id, metric_type, period_start, resource, level, quantity) VALUES
		(tenant, 'events', '2020-03-02 10:00Z', 'intake/ExceptionIngested', 'minute', 7),
		(tenant, 'events', '2020-03-02 10:01Z', 'intake/ExceptionIngested', 'minute', 3),
		(tenant, 'events', '2020-03-02 11:00Z', 'triage/ExceptionNormalized', 'hour', 4),
		(tenant, 'events', '2020-03-08 23:59Z', 'intake/ExceptionIngested', 'minute', 20),
		(tenant, 'events', '2020-03-09 00:00Z', 'intake/ExceptionIngested', 'minute', 100),
		(tenant, 'events', '2020-03-31 23:59Z', 'intake/ExceptionIngested', 'minute', 200),
		(tenant, 'events', '2020-04-01 00:00Z', 'intake/ExceptionIngested', 'minute', 1000),
		(tenant, 'tool_executions', '2020-03-02 10:00Z', 'say "hi", twice' || chr(10) || 'or so', 'minute', 1),
		(tenant, 'storage', '2020-03-02 00:00Z', 'event_log', 'day', 5000),
		(tenant, 'storage', '2020-03-03 00:00Z', 'event_log', 'day', 6000),
		(tenant, 'storage', '2020-03-03 00:00Z', 'outbox', 'day', 10);
END $$;
SELECT usg_test.fill('usg_c');
SELECT usage_correct('usg_c', 'events', 'intake/ExceptionIngested', '2020-03-02 10:00:59Z', -2, 'counted twice, they say');
SELECT jsonb_pretty(usage_summary('usg_c', 'day', '2020-03-02 15:00Z'));
SELECT usage_summary('usg_c', 'week', '2020-03-08 23:00Z') - 'by_resource';
SELECT usage_summary('usg_c', 'month', '2020-03-31 23:59Z') - 'by_resource';
SELECT usage_summary('usg_c', 'month', '2020-05-01') -> 'totals';
SET TimeZone = 'Asia/Kolkata';
SELECT usage_summary('usg_c', 'day', '2020-03-09 01:00Z') - 'by_resource';
SET TimeZone = 'UTC';
SELECT * FROM usage_details('usg_c', 'events', '2020-03-02', '2020-03-03');
SELECT * FROM usage_details('usg_c', 'events', '2020-03-02', '2020-03-03', 'minute');
SELECT * FROM usage_details('usg_c', NULL, '2020-03-02', '2020-03-03', 'day');
SELECT usage_export('usg_c', '2020-03-02', '2020-03-03');
SELECT usage_export('usg_c', '2020-03-02', '2020-03-03', 'json', 'day');
SELECT octet_length(usage_export('usg_c', '2021-01-01', '2021-02-01')), usage_export('usg_c', '2021-01-01', '2021-02-01', 'json');
--
-- Corrections and closing
--
SELECT usage_correct('usg_c', 'events', 'x', '2020-03-02', 0, 'why');
SELECT usage_correct('usg_c', 'events', 'x', '2020-03-02', 1, '  ');
SELECT usage_correct('usg_c', 'events', 'x', now() + interval '1 hour', 1, 'why');
SELECT usage_correct('usg_c', 'events', 'x', NULL, 1, 'why');
SELECT usage_correct('usg_c', 'events', NULL, '2020-03-02', 1, 'why');
SELECT usage_correct('usg_c', 'nothing', 'x', '2020-03-02', 1, 'why');
SELECT usage_correct('usg_none', 'events', 'x', '2020-03-02', 1, 'why');
SELECT tenant_id, metric_type, resource, minute, quantity, reason, authenticated = session_user AS who_ok, created_at > now() - interval '1 hour' AS when_ok FROM usage_correction WHERE tenant_id = 'usg_c';
SELECT usage_close('2020-04-01 00:01Z');
SELECT usage_close('2999-01-01');
SELECT usage_close(NULL), usage_close('infinity');
SELECT usage_close('2020-04-01', 'March is paid');
SELECT usage_closed_until();
SELECT usage_close('2020-03-01');
SELECT usage_close('2020-04-01');
SELECT usage_correct('usg_c', 'events', 'x', '2020-03-31 23:59:59Z', 1, 'too late');
SELECT usage_correct('usg_c', 'events', 'x', '2020-04-01', 1, 'for March') > 0;
\echo -- what is committed late counts in the first open minute, whether it is rolled up or not
CREATE TEMP TABLE march AS SELECT usage_summary('usg_c', 'month', '2020-03-15') AS summary;
INSERT INTO usage_delta_1 VALUES ('2020-03-31 23:58Z', 5, 'usg_c', 'events', 'usg/UsgOne'), ('2020-04-02', 6, 'usg_c', 'events', 'usg/UsgOne');
SELECT period_start, level, quantity FROM usage_details('usg_c', 'events', '2020-03-01', '2020-05-01', 'minute') WHERE resource = 'usg/UsgOne';
SELECT usage FROM books_check('usg_c', '2020-03-31 23:58Z', '2020-03-31 23:59Z');
SELECT usage_roll('infinity');
SELECT period_start, level, quantity FROM usage_details('usg_c', 'events', '2020-03-01', '2020-05-01', 'minute') WHERE resource = 'usg/UsgOne';
SELECT * FROM usage_late WHERE tenant_id = 'usg_c';
\echo -- and the books look for it where it was used
SELECT event_type, usage FROM books_check('usg_c', '2020-03-31 23:58Z', '2020-03-31 23:59Z');
SELECT event_type, usage FROM books_check('usg_c', '2020-04-01', '2020-04-03') WHERE event_type = 'UsgOne';
SELECT usage_compact('2020-06-01');
SELECT usage_summary('usg_c', 'month', '2020-03-15') = summary AS unchanged FROM march;

--
-- Refusals
--
SELECT usage_record('usg_a', 'nothing');
SELECT usage_record(NULL, 'events');
SELECT usage_record('usg_none', 'events');
SELECT usage_record('usg_a', NULL);
SELECT usage_record('usg_a', 'events', NULL);
SELECT usage_record('usg_a', 'events', repeat('x', 256));
SELECT usage_record('usg_a', 'events', '', -1);
SELECT usage_record('usg_a', 'events', '', 1000000000001);
SELECT usage_record('usg_a', 'events', '', NULL);
SELECT usage_record_batch(ARRAY['usg_a', 'usg_b'], 'events', ARRAY['x'], ARRAY[1, 2]);
SELECT usage_record('usg_a', 'events', 'nothing', 0);
SELECT usage_record_batch(ARRAY['usg_a', NULL], 'events', ARRAY['x', 'x'], ARRAY[1, 1]);
SELECT usage_record_batch(ARRAY['usg_a', 'usg_b'], 'events', ARRAY['x', 'x'], ARRAY[1, NULL]);
SELECT usage_record_batch(NULL, 'events', NULL, NULL), usage_record_batch('{}', 'events', '{}', '{}');
-- What is counted already is not looked at again, but never without a tenant or a resource
SELECT usage_add('{}', 'events', '{x}', '{1}');
SELECT usage_add('{usg_a,usg_a}', 'events', '{x}', '{1,2}');
SELECT usage_add('{usg_a,NULL}', 'events', '{x,x}', '{0,0}');
SELECT usage_add('{usg_a}', 'events', '{x}', '{NULL}');
BEGIN READ ONLY;
SELECT usage_add('{usg_a}', 'events', '{x}', '{1}');
ROLLBACK;
BEGIN READ ONLY;
SELECT usage_record('usg_a', 'events', 'nothing');
ROLLBACK;
BEGIN READ ONLY;
SELECT usage_record_batch(ARRAY['usg_a'], 'events', ARRAY['nothing'], ARRAY[1]);
ROLLBACK;
SELECT usage_count('usg_none', 'api_calls');
SELECT usage_count('usg_a', 'nothing');
SELECT usage_count('usg_a', 'api_calls', '', -1);
SELECT usage_count('usg_a', 'api_calls', NULL);
SELECT count(*) FROM usage_entry WHERE resource IN ('nothing', 'x') AND tenant_id IN ('usg_a', 'usg_b');
\echo -- of a tenant that is suspended, archived or deleted usage is still read, and of the last one none is added
SELECT tenant_suspend('usg_c'), tenant_archive('usg_c');
SELECT usage_summary('usg_c', 'day', '2020-03-02') #> '{totals,events}';
BEGIN;
DELETE FROM tenant WHERE tenant_id = 'usg_c';
SELECT usage_summary('usg_c', 'day', '2020-03-02') #> '{totals,events}';
SELECT count(*) FROM usage_details('usg_c', 'events', '2020-03-02', '2020-03-03');
SELECT length(usage_export('usg_c', '2020-03-02', '2020-03-03')) > 100;
SELECT count(*) FROM books_check('usg_c', '2020-04-01', '2020-04-03');
SELECT usage_record('usg_c', 'events');
ROLLBACK;
SELECT tenant_resume('usg_c');
SELECT usage_summary('usg_none');
SELECT usage_summary(NULL);
SELECT usage_summary('usg_a', 'year');
SELECT usage_summary('usg_a', 'day', NULL);
SELECT usage_summary('usg_a', 'day', 'infinity');
SELECT * FROM usage_details('usg_a', 'nothing', '2020-01-01', '2020-01-02');
SELECT * FROM usage_details('usg_a', 'events', '2020-01-02', '2020-01-02');
SELECT * FROM usage_details('usg_a', 'events', NULL, '2020-01-02');
SELECT * FROM usage_details('usg_a', 'events', '2020-01-01', '2020-01-02', 'week');
SELECT usage_export('usg_a', '2020-01-01', '2020-01-02', 'xml');
SELECT * FROM books_check('usg_none', '2020-01-01', '2020-01-02');
SELECT * FROM books_check(NULL, NULL, '2020-01-02');
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT usage_correct('usg_c', 'events', 'x', '2020-04-02', 1, 'why');
ROLLBACK;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT usage_roll();
ROLLBACK;
BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
SELECT usage_summary('usg_c', 'day', '2020-03-02') -> 'totals';
SELECT set_config('sentinai.test_clock', (now() + interval '61 seconds')::text, false) IS NOT NULL;
SELECT usage_summary('usg_c', 'day', '2020-03-02') -> 'totals';
ROLLBACK;
RESET sentinai.test_clock;

--
-- Storage: once a day, an estimate
--
SELECT usage_storage('2020-03-05 12:00Z');
SELECT count(*) FROM usage_metric WHERE metric_type = 'storage' AND period_start = '2020-03-05';
SELECT usage_storage('2020-04-05 12:00Z');
SELECT usage_storage('2020-04-05 13:00Z');
SELECT resource, level, quantity > 0 AS some FROM usage_metric WHERE tenant_id = 'usg_a' AND metric_type = 'storage' AND period_start = '2020-04-05' ORDER BY 1;
SELECT sum(m.quantity) <= (SELECT sum(pg_total_relation_size(c.oid)) FROM pg_class c WHERE c.relname LIKE 'event\_log\_p%' AND c.relkind = 'r') AS within
  FROM usage_metric m WHERE m.metric_type = 'storage' AND m.resource = 'event_log' AND m.period_start = '2020-04-05';
SELECT (usage_summary('usg_a', 'day', '2020-04-05') #>> '{totals,storage}')::bigint > 0 AS summed;

--
-- New exceptions, once each, by their domain
--
SELECT tenant_add('usg_d');
SELECT epoch AS intake_epoch, next_offset AS intake_at FROM assign('intake', 'intake-workers', 'exceptions', 77) \gset
SELECT (r).handled, (r).failed, (r).dead_lettered FROM (
	SELECT consume('intake', 'intake-workers', array_agg(ROW('exceptions', 77, :intake_at + n, :intake_epoch, now(), NULL, NULL,
			convert_to(jsonb_build_object('event_id', 'usg' || n, 'event_type', 'ExceptionIngested', 'tenant_id', 'usg_d', 'exception_id', x.id,
										  'payload', jsonb_build_object('domain', x.domain, 'severity', x.severity))::text, 'UTF8'))::sentinai.record)) AS r
	  FROM (VALUES (0, 'E1', 'finance', 'low'), (1, 'E2', 'finance', 'low'), (2, 'E1', 'finance', 'high'), (3, 'E3', NULL, 'low'),
				   (4, 'E4', 'finance', 'none such')) x (n, id, domain, severity)) y;
SELECT usage_summary('usg_d') #> '{by_resource,exceptions}';
SELECT event_type, events, effects, usage, balanced FROM books_check('usg_d', now() - interval '1 hour', now() + interval '1 minute');

--
-- Tools that were called: when an execution is requested no more, once each; not those that a restore brings
--
INSERT INTO tool_execution (tenant_id, tool_id, requested_by_actor_type, status) VALUES
	('usg_d', 'mail', 'user', 'requested'), ('usg_d', 'mail', 'user', 'running'), ('usg_d', repeat('x', 300), 'user', 'failed');
INSERT INTO tool_execution (tenant_id, tool_id, requested_by_actor_type, status, created_at) VALUES ('usg_d', 'mail', 'user', 'failed', now() - interval '1 day');
UPDATE tool_execution SET status = 'running' WHERE tenant_id = 'usg_d' AND tool_id = 'mail';
UPDATE tool_execution SET status = 'succeeded' WHERE tenant_id = 'usg_d';
BEGIN;
INSERT INTO tool_execution (tenant_id, tool_id, requested_by_actor_type, status) VALUES ('usg_d', 'mail', 'user', 'running');
ROLLBACK;
SELECT left(r.resource, 10) AS resource, length(r.resource), r.quantity FROM usage_details('usg_d', 'tool_executions', now() - interval '1 hour', now() + interval '1 minute', 'day') r;

\c postgres
DROP DATABASE regress_usage;
ALTER SYSTEM RESET sentinai.databases;
SELECT pg_reload_conf();
