-- Backpressure: a tenant's events over its rate wait in a queue of its own, and are taken at the rate. Time is moved by
-- sentinai.test_clock; what is due is shown as seconds of that clock.

SET search_path = sentinai, public;
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
	SELECT format('handled %s, failed %s, parked %s, deferred %s, dead %s, due %s, emitted %s, next in %s ms%s', r.handled, r.failed, r.parked,
				  r.deferred, r.dead_lettered, r.due, r.emitted, r.next_due_ms, ', stop: ' || r.stop) $$;

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
	SELECT tenant_id, event_id, status, charged, rate_limit, pg_temp.sec(next_attempt_at) AS due FROM sentinai.event_pending
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
-- the rate is kept: half a window later there is room for one or two
SELECT pg_temp.at(2.5);
SELECT pg_temp.send();
SELECT pg_temp.done();
SELECT pg_temp.at(4);
SELECT pg_temp.send(), pg_temp.send_to(1);
SELECT pg_temp.done();
SELECT * FROM pg_temp.queue;
