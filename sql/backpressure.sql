-- Backpressure: a tenant's events over its rate wait in a queue of its own, and are taken at the rate. Time is moved by
-- sentinai.test_clock; what is due is shown as seconds of that clock.

SET search_path = sentinai, public;
SET statement_timeout = '60s';
\set VERBOSITY terse
\pset format unaligned
\pset tuples_only on

CREATE FUNCTION pg_temp.at(seconds numeric) RETURNS text LANGUAGE sql AS $$
	SELECT seconds || ' s' FROM set_config('sentinai.test_clock', (timestamptz '2026-03-01 12:00:00Z' + seconds * interval '1 s')::text, false) $$;
CREATE FUNCTION pg_temp.sec(t timestamptz) RETURNS text LANGUAGE sql AS $$
	SELECT CASE WHEN t IN ('infinity', '-infinity') THEN t::text
				ELSE round(extract(epoch FROM t - timestamptz '2026-03-01 12:00:00Z'), 2)::text END $$;

CREATE FUNCTION pg_temp.ev(event_id text, event_type text, tenant_id text, exception_id text)
	RETURNS bytea LANGUAGE sql AS $$
	SELECT convert_to(jsonb_build_object('event_id', event_id, 'event_type', event_type, 'tenant_id', tenant_id,
		'exception_id', exception_id, 'payload', '{}'::jsonb)::text, 'UTF8') $$;
CREATE FUNCTION pg_temp.counts(r sentinai.consume_result) RETURNS text LANGUAGE sql AS $$
	SELECT format('handled %s, failed %s, parked %s, deferred %s, dead %s, due %s, emitted %s%s', r.handled, r.failed, r.parked,
				  r.deferred, r.dead_lettered, r.due, r.emitted, ', stop: ' || r.stop) $$;

-- Sends events written as "id tenant exception [type]" to partition 0 or 1; none: a tick.
CREATE FUNCTION pg_temp.send_to(partition integer, VARIADIC events text[] DEFAULT '{}') RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	k		sentinai.kafka_offset;
	records	sentinai.record[];
BEGIN
	SELECT * INTO k FROM sentinai.kafka_offset o WHERE o.group_id = 'press' AND o.partition = send_to.partition;
	SELECT array_agg(ROW('press', k.partition, k.next_offset + n - 1, k.epoch, '2026-01-01', 'key', NULL,
						 pg_temp.ev(split_part(e, ' ', 1), coalesce(nullif(split_part(e, ' ', 4), ''), 'Pressed'), split_part(e, ' ', 2),
									nullif(split_part(e, ' ', 3), '')))::sentinai.record ORDER BY n)
	  INTO records FROM unnest(events) WITH ORDINALITY AS u(e, n);
	RETURN pg_temp.counts(sentinai.consume('press', 'press', coalesce(records,
		ARRAY[ROW('press', k.partition, k.next_offset, k.epoch, NULL, NULL, NULL, NULL)::sentinai.record])));
END $$;
CREATE FUNCTION pg_temp.send(VARIADIC events text[] DEFAULT '{}') RETURNS text LANGUAGE sql AS $$
	SELECT pg_temp.send_to(0, VARIADIC events) $$;
CREATE FUNCTION pg_temp.events(prefix text, tenant_id text, first integer, last integer, exception_id text DEFAULT '') RETURNS text[]
	LANGUAGE sql AS $$
	SELECT array_agg(format('%s%s %s %s', prefix, i, tenant_id, exception_id) ORDER BY i) FROM generate_series(first, last) i $$;

CREATE VIEW pg_temp.queue AS
	SELECT tenant_id, event_id, status, charged, rate_limit,
		   CASE WHEN rate_limit IS NOT NULL OR next_attempt_at = 'infinity' THEN pg_temp.sec(next_attempt_at) END AS due FROM sentinai.event_pending
	 WHERE worker_type = 'press' ORDER BY tenant_id, event_pending.next_attempt_at, id;

CREATE SCHEMA press;
GRANT USAGE ON SCHEMA press TO sentinai_handler;
CREATE TABLE press.done (n serial, tenant_id text, event_id text);
CREATE TABLE press.bad (event_id text);
GRANT ALL ON ALL TABLES IN SCHEMA press TO sentinai_handler;
GRANT ALL ON ALL SEQUENCES IN SCHEMA press TO sentinai_handler;
CREATE FUNCTION press.handle(e sentinai.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF EXISTS (SELECT FROM press.bad b WHERE b.event_id = e.event_id) THEN
		PERFORM sentinai.fail(e, 'away', 'it is');
	END IF;
	INSERT INTO press.done (tenant_id, event_id) VALUES (e.tenant_id, e.event_id);
END $$;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA press TO sentinai_handler;
-- What has been handled since the last look.
CREATE FUNCTION pg_temp.done() RETURNS text LANGUAGE sql AS $$
	WITH gone AS (DELETE FROM press.done RETURNING *) SELECT string_agg(event_id, ' ' ORDER BY n) FROM gone $$;

SELECT tenant_add('PR_A'), tenant_add('PR_B'), tenant_add('PR_C');
SELECT event_type_add('Pressed'), event_type_add('Unhandled');
SELECT worker_type_add('press', 'press');
SELECT worker_type_own('press');
SELECT handler_add('press', 'Pressed', 'press.handle');
SELECT epoch FROM assign('press', 'press', 'press', 0, 2) UNION ALL SELECT epoch FROM assign('press', 'press', 'press', 1, 2);

-- 4 in 2 s: one every half second
SELECT count(rate_limit_set(t, 'events_ingested', 4, 2)) FROM unnest(ARRAY['PR_A', 'PR_B']) t;

--
-- A batch that is rolled back gives back what it was charged; after PREPARE nobody could
--
SELECT pg_temp.at(-100);
BEGIN;
SELECT pg_temp.send('prepared PR_A');
SELECT granted FROM rate_limit_state('PR_A', 'events_ingested');
PREPARE TRANSACTION 'no';
SELECT granted FROM rate_limit_state('PR_A', 'events_ingested');

--
-- What doesn't fit waits, each with its place; what costs nothing passes; the other tenant doesn't notice
--
SELECT pg_temp.at(0);
SELECT pg_temp.send(VARIADIC pg_temp.events('a', 'PR_A', 1, 7) || ARRAY['u1 PR_A  Unhandled', 'b1 PR_B']);
SELECT * FROM pg_temp.queue;
SELECT pg_temp.done();
SELECT event_id, status, retry_count, error_type, error_message FROM event_processing_log WHERE worker_type = 'press' AND event_id IN ('a4', 'a5');
SELECT payload || '{"next_attempt_at": null}' FROM event_log WHERE event_type = 'BackpressureApplied' AND tenant_id ~ '^PR_';
SELECT backlog, pg_temp.sec(first_appointment), pg_temp.sec(last_appointment), pg_temp.sec(ends_at), limit_value, window_seconds FROM rate_limit_forecast('PR_A');
SELECT state, regexp_replace(reason, 'appointment at \S+ \S+', 'appointment at T'), details ->> 'place' FROM event_why('PR_A', 'a6');
-- nothing is due: nothing is touched
SELECT pg_temp.send();
-- new events queue up behind, in the other partition as well
SELECT pg_temp.at(1);
SELECT pg_temp.send('a8 PR_A');
SELECT pg_temp.send_to(1, 'o1 PR_A', 'o2 PR_A');
SELECT * FROM pg_temp.queue;
SELECT next_due_ms FROM consume('press', 'press', ARRAY[ROW('press', 0, 9, (SELECT epoch FROM kafka_offset WHERE group_id = 'press' AND partition = 0), NULL, NULL, NULL, NULL)::sentinai.record]);
-- the rate is kept: half a window later there is room for one or two
SELECT pg_temp.at(2.5);
SELECT pg_temp.send();
SELECT pg_temp.done();
SELECT pg_temp.at(4);
SELECT pg_temp.send(), pg_temp.send_to(1);
SELECT pg_temp.done();
SELECT * FROM pg_temp.queue;
SELECT pg_temp.at(6);
SELECT pg_temp.send_to(1);
SELECT pg_temp.at(8);
SELECT pg_temp.send_to(1);
SELECT count(*) FROM pg_temp.queue;
-- BackpressureApplied came once a window (at 0 and at 1 s is one)
SELECT count(*), count(DISTINCT event_id) FROM event_log WHERE event_type = 'BackpressureApplied' AND tenant_id ~ '^PR_';

--
-- A deferred event blocks its key; who was parked behind it is charged when it is released; a row is touched a few times
--
CREATE TABLE press.touched (op text);
CREATE FUNCTION press.touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO press.touched VALUES (TG_OP); RETURN NULL; END $$;
CREATE TRIGGER touched AFTER INSERT OR UPDATE OR DELETE ON event_pending FOR EACH ROW EXECUTE FUNCTION press.touch();
CREATE FUNCTION pg_temp.touched() RETURNS text LANGUAGE sql AS $$
	WITH gone AS (DELETE FROM press.touched RETURNING op), n AS (SELECT op, count(*) FROM gone GROUP BY 1)
	SELECT string_agg(op || ' ' || count, ', ' ORDER BY op) FROM n $$;
SELECT count(pg_temp.done());
SELECT limit_value FROM rate_limit_set('PR_C', 'events_ingested', 4, 2);
SELECT pg_temp.at(100);
SELECT pg_temp.send(VARIADIC pg_temp.events('k', 'PR_C', 1, 9, 'K') || pg_temp.events('m', 'PR_C', 1, 3, 'M') || ARRAY['n1 PR_C']);
SELECT * FROM pg_temp.queue;
SELECT exception_id, event_id, dlq_id FROM key_state WHERE worker_type = 'press' ORDER BY 1;
SELECT reason FROM event_why('PR_C', 'k7');
-- Time goes on, with a tick every so many seconds.
CREATE PROCEDURE pg_temp.run(until numeric, step numeric, OUT n integer) LANGUAGE plpgsql AS $$
DECLARE
	began	numeric := extract(epoch FROM current_setting('sentinai.test_clock')::timestamptz - '2026-03-01 12:00:00Z');
BEGIN
	n := 0;
	WHILE began + step <= until LOOP
		began := began + step;
		PERFORM pg_temp.at(began);
		PERFORM pg_temp.send();
		n := n + 1;
	END LOOP;
END $$;
CALL pg_temp.run(103, 0.5, NULL);
SELECT * FROM pg_temp.queue;
CALL pg_temp.run(109, 0.5, NULL);
SELECT pg_temp.done();
SELECT count(*) FROM pg_temp.queue;
SELECT count(*) FROM key_state WHERE worker_type = 'press';
SELECT pg_temp.touched();

-- a place that was moved by hand does not overtake within its exception, and is not asked for all the time
SELECT pg_temp.at(150);
SELECT pg_temp.send(VARIADIC pg_temp.events('l', 'PR_C', 1, 6, 'L'));
CALL pg_temp.run(152.5, 0.5, NULL);
SELECT pg_temp.send(VARIADIC pg_temp.events('j', 'PR_C', 1, 4, 'L') || pg_temp.events('h', 'PR_C', 1, 2));
CALL pg_temp.run(153, 0.5, NULL);
SELECT pg_temp.send();
SELECT * FROM pg_temp.queue;
UPDATE event_pending SET next_attempt_at = '2026-03-01 12:00:00Z' WHERE event_id = 'j3';
SELECT pg_temp.send();
SELECT * FROM pg_temp.queue;
SELECT next_due_ms FROM consume('press', 'press', ARRAY[ROW('press', 0, 9, (SELECT epoch FROM kafka_offset WHERE group_id = 'press' AND partition = 0), NULL, NULL, NULL, NULL)::sentinai.record]);
CALL pg_temp.run(160, 0.5, NULL);
SELECT pg_temp.done();
SELECT count(*) FROM pg_temp.queue;
SELECT count(pg_temp.touched());
-- whom an exception waits for may have come behind more than a turn takes: the others of it go behind that one
SELECT pg_temp.at(165);
SELECT pg_temp.send(VARIADIC pg_temp.events('o', 'PR_C', 1, 5, 'L'));
SELECT pg_temp.send(VARIADIC pg_temp.events('p', 'PR_C', 1, 8, 'L'));
CALL pg_temp.run(167, 0.5, NULL);
SELECT pg_temp.send();
SELECT count(*) AS waiting FROM pg_temp.queue \gset
UPDATE event_pending SET next_attempt_at = (SELECT max(next_attempt_at) + interval '10 s' FROM event_pending WHERE worker_type = 'press')
 WHERE worker_type = 'press' AND event_id = (SELECT k.event_id FROM key_state k WHERE k.worker_type = 'press');
CALL pg_temp.run(198, 0.5, NULL);
SELECT pg_temp.done();
SELECT :waiting > 4, count(*) FROM pg_temp.queue;
SELECT count(*) FROM key_state WHERE worker_type = 'press';
SELECT count(pg_temp.touched());

--
-- What rolls back charges nothing: the caller's ROLLBACK, an error of the infrastructure, a batch that is too hard
--
SELECT pg_temp.at(200);
BEGIN;
SELECT pg_temp.send(VARIADIC pg_temp.events('r', 'PR_A', 1, 6));
ROLLBACK;
SELECT available FROM backpressure_limit('PR_A');
CREATE OR REPLACE FUNCTION press.handle(e sentinai.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF e.event_id LIKE 'full%' AND EXISTS (SELECT FROM press.bad b WHERE b.event_id = 'disk') THEN
		RAISE disk_full;
	ELSIF EXISTS (SELECT FROM press.bad b WHERE b.event_id = e.event_id) THEN
		PERFORM sentinai.fail(e, 'away', 'it is');
	END IF;
	INSERT INTO press.done (tenant_id, event_id) VALUES (e.tenant_id, e.event_id);
END $$;
INSERT INTO press.bad VALUES ('disk');
SELECT pg_temp.send(VARIADIC ARRAY['r1 PR_A', 'full1 PR_A']);
SELECT available FROM backpressure_limit('PR_A');
DELETE FROM press.bad;
SELECT pg_temp.send(VARIADIC ARRAY['r1 PR_A', 'full1 PR_A']);
SELECT available FROM backpressure_limit('PR_A');

--
-- A retry is not charged again, nor is one of a dead letter, nor a duplicate
--
INSERT INTO press.bad VALUES ('f1');
SELECT pg_temp.send('f1 PR_A F', 'f2 PR_A F', 'r1 PR_A');
SELECT * FROM pg_temp.queue;
SELECT available FROM backpressure_limit('PR_A');
SELECT pg_temp.send('r2 PR_A');
DELETE FROM press.bad;
UPDATE event_pending SET next_attempt_at = now() WHERE event_id = 'f1';
SELECT pg_temp.send();
SELECT pg_temp.send();
SELECT pg_temp.done();
SELECT * FROM pg_temp.queue;

INSERT INTO press.bad VALUES ('g1');
SELECT count(retry_policy_set(worker_type => 'press', tenant_id => 'PR_B', max_retries => 0));
SELECT pg_temp.send(VARIADIC pg_temp.events('g', 'PR_B', 1, 5));
SELECT event_id, status FROM dead_letter_queue WHERE tenant_id = 'PR_B';
DELETE FROM press.bad;
SELECT count(dlq_retry(id, 'again')) FROM dead_letter_queue WHERE tenant_id = 'PR_B';
-- its record as it comes back, beside a copy of the first event
SELECT pg_temp.counts(consume('press', 'press', ARRAY[
		ROW('press', 0, k.next_offset, k.epoch, now(), d.key, ARRAY[ROW('sentinai-dlq-id', convert_to(d.id::text, 'UTF8')),
			ROW('sentinai-dlq-token', convert_to(d.retry_token::text, 'UTF8'))]::sentinai.header[], d.payload_raw)::sentinai.record,
		ROW('press', 0, k.next_offset + 1, k.epoch, now(), d.key, NULL, pg_temp.ev('g2', 'Pressed', 'PR_B', NULL))::sentinai.record]))
  FROM kafka_offset k, (SELECT id, retry_token, payload_raw, NULL::bytea AS key FROM dead_letter_queue WHERE tenant_id = 'PR_B') d
 WHERE k.group_id = 'press' AND k.partition = 0;
SELECT event_id, status FROM dead_letter_queue WHERE tenant_id = 'PR_B';
-- who looks for a record that kills the server takes what is due whatever the rate, one event a call
SELECT pg_temp.at(203);
SELECT suspect_begin('press'), suspect_next('press', 'press', 0);
SELECT pg_temp.send(), suspect_next('press', 'press', 0), suspect_end();
SELECT pg_temp.done();

--
-- The limit changes: the appointments are made anew, once
--
SELECT pg_temp.at(300), count(rate_limit_set('PR_A', 'events_ingested', 10, 60));
SELECT pg_temp.send(VARIADIC pg_temp.events('x', 'PR_A', 1, 16));
SELECT * FROM pg_temp.queue;
SELECT pg_temp.touched() IS NOT NULL;
-- lowered
SELECT limit_value FROM rate_limit_set('PR_A', 'events_ingested', 6, 60);
SELECT pg_temp.send();
SELECT * FROM pg_temp.queue;
SELECT pg_temp.touched();
SELECT pg_temp.send();
SELECT pg_temp.touched();
-- raised, by hand
UPDATE rate_limit_config SET limit_value = 12 WHERE tenant_id = 'PR_A' AND limit_type = 'events_ingested';
SELECT pg_temp.send();
SELECT pg_temp.done();
SELECT * FROM pg_temp.queue;
SELECT pg_temp.touched();
-- reset
SELECT rate_limit_set('PR_A', 'events_ingested', 2, 60) IS NOT NULL;
SELECT pg_temp.send();
SELECT rate_limit_reset('PR_A', 'events_ingested', 'a test');
SELECT pg_temp.send();
SELECT pg_temp.done();
SELECT event_id, split_part(rate_limit, ' ', 1), split_part(rate_limit, ' ', 2), due FROM pg_temp.queue;
SELECT pg_temp.touched();
SELECT pg_temp.send();
SELECT pg_temp.touched();
-- disabled: everything is due, and nothing else is moved
SELECT limit_value FROM rate_limit_set('PR_A', 'events_ingested', 2, 60, false);
SELECT ends_at = seen_at AS now FROM rate_limit_forecast('PR_A'), backpressure_limit('PR_A');
SELECT reason ~ 'is not limited any more' FROM event_why('PR_A', 'x16');
SELECT pg_temp.send('x17 PR_A');
SELECT pg_temp.send();
SELECT pg_temp.done();
SELECT pg_temp.touched();
SELECT rate_limit_delete('PR_A', 'events_ingested');
SELECT limit_value, window_seconds, backlog, ends_at FROM rate_limit_forecast('PR_A');

--
-- Fair between tenants; after an hour's absence, too, and then the rate is kept
--
SELECT pg_temp.at(1000), count(rate_limit_set(t, 'events_ingested', 60, 60)) FROM unnest(ARRAY['PR_A', 'PR_B', 'PR_C']) t;
SELECT pg_temp.send(VARIADIC pg_temp.events('a', 'PR_A', 1001, 1560));
SELECT pg_temp.send(VARIADIC pg_temp.events('b', 'PR_B', 1001, 1061));
SELECT tenant_id, count(*), min(due::numeric), max(due::numeric) FROM pg_temp.queue GROUP BY 1 ORDER BY 1;
SELECT pg_temp.touched();
SELECT count(pg_temp.done());
SELECT pg_temp.at(1000 + 3600);
-- at most what the limiter has, whatever is overdue
SELECT pg_temp.send('c1 PR_C');
SELECT tenant_id, count(*) FROM press.done GROUP BY 1 ORDER BY 1;
SELECT pg_temp.send();
CALL pg_temp.run(1000 + 3660, 5, NULL);
SELECT tenant_id, count(*) FROM press.done GROUP BY 1 ORDER BY 1;
SELECT pg_temp.touched();
-- the answer to when it ends counts what waits
SELECT backlog, pg_temp.sec(last_appointment), pg_temp.sec(ends_at) FROM rate_limit_forecast('PR_A');
SET sentinai.deferred_max = 300;
SELECT name, regexp_replace(message, 'the last one at .*;', 'the last one at T;'), hint FROM health_problems() WHERE name = 'deferred_max';
RESET sentinai.deferred_max;
-- a call has room for few: the turns go round
SELECT limit_value FROM rate_limit_set('PR_A', 'events_ingested', 60, 60, false);
SELECT count(pg_temp.done());
SELECT pg_temp.send(VARIADIC pg_temp.events('b', 'PR_B', 2001, 2070));
SELECT count(pg_temp.done());
SELECT count(pg_temp.send()) FROM generate_series(1, 3);
SELECT tenant_id, count(*) > 100 AS many FROM press.done GROUP BY 1 ORDER BY 1;
SELECT count(pg_temp.send()) FROM generate_series(1, 20);
SELECT array_agg(substr(event_id, 2)::integer ORDER BY n) = array_agg(substr(event_id, 2)::integer ORDER BY substr(event_id, 2)::integer) AS in_order
  FROM press.done WHERE tenant_id = 'PR_A';
SELECT limit_value FROM rate_limit_set('PR_B', 'events_ingested', 60, 60, false);
SELECT count(pg_temp.send()) FROM generate_series(1, 3);
SELECT count(*) FROM pg_temp.queue;
SELECT count(pg_temp.done());

--
-- A suspended tenant's events: once it is resumed they are taken at its rate, and charged
--
SELECT pg_temp.at(5000), count(rate_limit_set('PR_A', 'events_ingested', 4, 2));
SELECT tenant_suspend('PR_A');
SELECT pg_temp.send(VARIADIC pg_temp.events('s', 'PR_A', 1, 6) || ARRAY['t1 PR_A T', 't2 PR_A T']);
SELECT * FROM pg_temp.queue;
SELECT tenant_resume('PR_A');
SELECT pg_temp.send('s7 PR_A');
SELECT pg_temp.done();
SELECT event_id, status, charged, split_part(rate_limit, ' ', 1) AS rate_limit, due FROM pg_temp.queue;
CALL pg_temp.run(5006, 0.5, NULL);
SELECT pg_temp.done();
-- one that waits for its turn, and whose tenant is suspended, waits for that
SELECT pg_temp.send(VARIADIC pg_temp.events('v', 'PR_A', 1, 6));
SELECT tenant_suspend('PR_A');
SELECT reason FROM event_why('PR_A', 'v6');
SELECT backlog, ends_at FROM rate_limit_forecast('PR_A');
SELECT pg_temp.at(5020);
SELECT pg_temp.send();
SELECT event_id, status, charged, rate_limit, due FROM pg_temp.queue;
SELECT reason FROM event_why('PR_A', 'v6');
SELECT backlog, ends_at FROM rate_limit_forecast('PR_A');
SELECT tenant_archive('PR_A');
SELECT pg_temp.send(), pg_temp.send();
SELECT count(*), min(error_message) FROM dead_letter_queue WHERE tenant_id = 'PR_A';
SELECT count(*) FROM pg_temp.queue;

--
-- A call that began in the window before, and is late, does not say it again
--
SELECT tenant_add('PR_L');
SELECT limit_value FROM rate_limit_set('PR_L', 'events_ingested', 1, 2);
SELECT pg_temp.at(6000), pg_temp.send('x1 PR_L', 'x2 PR_L');
SELECT pg_temp.at(6002), pg_temp.send('x3 PR_L', 'x4 PR_L');
SELECT pg_temp.at(6001.9), pg_temp.send('x5 PR_L');
SELECT pg_temp.at(6003.9), pg_temp.send('x6 PR_L');
SELECT count(*), count(DISTINCT event_id) FROM event_log WHERE event_type = 'BackpressureApplied' AND tenant_id = 'PR_L';

SELECT rate_limit_forecast('nobody');
SELECT rate_limit_forecast(NULL);
RESET sentinai.test_clock;
DROP TRIGGER touched ON event_pending;
