-- The circuit breaker: when most events of a kind fail alike they wait, and single ones are let through to see.

SET search_path = sentinai, public;
\set VERBOSITY terse
\pset format unaligned
\pset tuples_only on

CREATE FUNCTION pg_temp.ev(event_id text, event_type text, tenant_id text, exception_id text)
	RETURNS bytea LANGUAGE sql AS $$
	SELECT convert_to(jsonb_build_object('event_id', event_id, 'event_type', event_type, 'tenant_id', tenant_id,
		'exception_id', exception_id, 'payload', '{}'::jsonb)::text, 'UTF8') $$;

CREATE FUNCTION pg_temp.counts(r sentinai.consume_result) RETURNS text LANGUAGE sql AS $$
	SELECT format('handled %s, failed %s, parked %s, deferred %s, dead %s, due %s%s', r.handled, r.failed, r.parked, r.deferred,
				  r.dead_lettered, r.due, ', pause: ' || (r.partitions -> 0 ->> 'pause')) $$;

-- Sends events written as "id type tenant exception"; none: a tick.
CREATE FUNCTION pg_temp.send(VARIADIC events text[] DEFAULT '{}') RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	k		sentinai.kafka_offset;
	records	sentinai.record[];
BEGIN
	SELECT * INTO k FROM sentinai.kafka_offset o WHERE o.group_id = 'circ';
	SELECT array_agg(ROW('circ', 0, k.next_offset + n - 1, k.epoch, '2026-01-01', 'key', NULL,
						 pg_temp.ev(split_part(e, ' ', 1), split_part(e, ' ', 2), split_part(e, ' ', 3), nullif(split_part(e, ' ', 4), '')))::sentinai.record ORDER BY n)
	  INTO records FROM unnest(events) WITH ORDINALITY AS u(e, n);
	RETURN pg_temp.counts(sentinai.consume('circ', 'circ', coalesce(records,
		ARRAY[ROW('circ', 0, k.next_offset, k.epoch, NULL, NULL, NULL, NULL)::sentinai.record])));
END $$;

CREATE PROCEDURE pg_temp.probe_now() LANGUAGE sql AS
	$$UPDATE sentinai.circuit SET probe_at = now() WHERE worker_type = 'circ' AND reason <> 'forced'$$;
CREATE VIEW waiting AS SELECT status, error_type, retry_count, count(*) FROM sentinai.event_pending WHERE worker_type = 'circ' GROUP BY 1, 2, 3 ORDER BY 1, 2, 3;
CREATE VIEW open_circuits AS SELECT event_type, tenant_id, reason, error_type, error_message, first_event_id, probes FROM sentinai.circuit_list() WHERE worker_type = 'circ';

CREATE SCHEMA circ_test;
GRANT USAGE ON SCHEMA circ_test TO sentinai_handler;
CREATE TABLE circ_test.done (n serial, event_id text);
CREATE TABLE circ_test.bad (pattern text, what text);
GRANT ALL ON ALL TABLES IN SCHEMA circ_test TO sentinai_handler;
GRANT ALL ON ALL SEQUENCES IN SCHEMA circ_test TO sentinai_handler;
CREATE FUNCTION circ_test.handle(e sentinai.event) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	w	text := (SELECT b.what FROM circ_test.bad b WHERE e.event_id LIKE b.pattern OR e.tenant_id LIKE b.pattern LIMIT 1);
BEGIN
	IF w = 'broken' THEN
		PERFORM * FROM nowhere;
	ELSIF w IS NOT NULL THEN
		PERFORM sentinai.fail(e, w, 'service 7 is away for ' || e.event_id);
	END IF;
	INSERT INTO circ_test.done (event_id) VALUES (e.event_id);
END $$;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA circ_test TO sentinai_handler;
SELECT tenant_add('circ_a'), tenant_add('circ_b');
SELECT event_type_add('CircOne'), event_type_add('CircTwo');
SELECT worker_type_add('circ', 'circ');
-- Retries come when the test says so, however slow the machine is.
SELECT base_delay FROM retry_policy_set(worker_type => 'circ', base_delay => '1 hour', max_delay => '1 hour');
SELECT handler_add('circ', 'CircOne', 'circ_test.handle'), handler_add('circ', 'CircTwo', 'circ_test.handle');
SELECT epoch FROM assign('circ', 'circ', 'circ', 0);

--
-- Too few failures, and too many good ones beside them
--
INSERT INTO circ_test.bad VALUES ('f%', 'away');
SELECT pg_temp.send(VARIADIC (SELECT array_agg(format('f%s CircOne circ_%s F%s', i, CASE WHEN i % 2 = 0 THEN 'a' ELSE 'b' END, i)) FROM generate_series(1, 15) i));
SELECT pg_temp.send(VARIADIC (SELECT array_agg(format('g%s CircOne circ_a G%s', i, i)) FROM generate_series(1, 60) i));
SELECT pg_temp.send(VARIADIC (SELECT array_agg(format('f%s CircOne circ_a F%s', i, i)) FROM generate_series(21, 30) i));
SELECT * FROM open_circuits;

--
-- The failures have become the rule: nobody uses up a retry, the other type goes on
--
SELECT pg_temp.send(VARIADIC (SELECT array_agg(format('fx%s CircOne circ_%s FX%s', i, CASE WHEN i % 2 = 0 THEN 'a' ELSE 'b' END, i)) FROM generate_series(1, 100) i));
SELECT * FROM open_circuits;
SELECT pg_temp.send('fy1 CircOne circ_a FY', 'h1 CircOne circ_b H', 'h2 CircTwo circ_b H2', 'h3 CircTwo circ_b H');
SELECT event_id, status FROM event_pending WHERE worker_type = 'circ' AND event_id IN ('fy1', 'h1', 'h3') ORDER BY id;
SELECT state, substr(reason, 1, 53) FROM event_why('circ_b', 'h1');
SELECT p ->> 'name' FROM jsonb_array_elements(health() -> 'problems') p WHERE p ->> 'name' = 'circuit_open';
\echo -- probes that fail put the next one off
CALL pg_temp.probe_now();
SELECT pg_temp.send();
SELECT probes, probe_at > now() + interval '1.5 s' FROM circuit WHERE worker_type = 'circ';
CALL pg_temp.probe_now();
SELECT pg_temp.send('fz CircOne circ_a FZ');
SELECT probes, probe_at > now() + interval '3 s' FROM circuit WHERE worker_type = 'circ';
\echo -- the cause is gone: the next probe closes it, and all that waits is due
DELETE FROM circ_test.bad;
CALL pg_temp.probe_now();
SELECT pg_temp.send();
SELECT * FROM open_circuits;
UPDATE event_pending SET next_attempt_at = now() WHERE worker_type = 'circ' AND status = 'retrying';
SELECT pg_temp.send();
SELECT pg_temp.send();
SELECT * FROM waiting;
SELECT count(*), count(DISTINCT event_id) FROM circ_test.done WHERE event_id LIKE 'f%' OR event_id LIKE 'h%';
SELECT count(*) FROM dead_letter_queue WHERE worker_type = 'circ';

--
-- One tenant's failures are that tenant's alone
--
INSERT INTO circ_test.bad VALUES ('circ_b', 'denied');
SELECT pg_temp.send(VARIADIC (SELECT array_agg(format('b%s CircTwo circ_b B%s', i, i)) FROM generate_series(1, 40) i));
SELECT * FROM open_circuits;
SELECT pg_temp.send('b99 CircTwo circ_b B99', 'a99 CircTwo circ_a A99');
DELETE FROM circ_test.bad;
SELECT circuit_close('circ', 'CircTwo');
SELECT circuit_close('circ', 'CircTwo', 'circ_b');
SELECT pg_temp.send();
SELECT * FROM waiting;

--
-- A handler that can't run opens it at once; an odd event doesn't keep it open
--
INSERT INTO circ_test.bad VALUES ('odd', 'broken');
SELECT pg_temp.send('o1 CircOne circ_a O', 'odd CircOne circ_a O', 'o2 CircOne circ_a O', 'o3 CircOne circ_b O3', 'o4 CircTwo circ_a O4');
SELECT * FROM open_circuits;
CALL pg_temp.probe_now();
SELECT pg_temp.send();
CALL pg_temp.probe_now();
SELECT pg_temp.send();
SELECT * FROM open_circuits;
SELECT pg_temp.send();
SELECT event_id, status, retry_count, error_type FROM event_pending WHERE worker_type = 'circ' ORDER BY id;
UPDATE circ_test.bad SET what = 'validation_error';
UPDATE event_pending SET next_attempt_at = now() WHERE worker_type = 'circ' AND status = 'retrying';
SELECT pg_temp.send();
SELECT pg_temp.send();
SELECT string_agg(event_id, ' ' ORDER BY n) FROM circ_test.done WHERE event_id LIKE 'o%' AND event_id NOT IN ('o3', 'o4');
DELETE FROM circ_test.bad;

--
-- Forced by an operator: no probe
--
SELECT circuit_open('circ', 'CircNone');
SELECT circuit_open('circ', 'CircOne', 'circ_none');
SELECT circuit_open('nobody', 'CircOne');
CREATE ROLE regress_circ_operator IN ROLE sentinai_operator;
CREATE ROLE regress_circ_viewer IN ROLE sentinai_viewer;
SELECT tenant_role_add('regress_circ_operator', 'circ_a');
SET ROLE regress_circ_viewer;
SELECT circuit_open('circ', 'CircOne', NULL, 'may not');
\echo -- an operator opens and closes circuits of its own tenant only
SET ROLE regress_circ_operator;
SELECT circuit_open('circ', 'CircOne', 'circ_none');
SELECT circuit_open('circ', 'CircOne', NULL, 'of ours');
SELECT event_type, tenant_id, error_message FROM circuit_list() WHERE worker_type = 'circ';
SELECT circuit_close('circ', 'CircOne');
RESET ROLE;
GRANT sentinai_admin TO regress_circ_operator;
\echo -- an event of another tenant with the same id is left alone
INSERT INTO circuit (worker_type, event_type, tenant_id, reason, first_event_id) VALUES ('circ', 'CircOne', 'circ_a', 'broken', 'same');
INSERT INTO event_pending (tenant_id, event_id, worker_type, event_type, status, topic, partition, next_attempt_at, record_value)
	SELECT t, 'same', 'circ', 'CircOne', 'deferred', 'circ', 0, 'infinity', '{}' FROM unnest(ARRAY['circ_a', 'circ_b']) t;
REVOKE sentinai_admin FROM regress_circ_operator;
SET ROLE regress_circ_operator;
SELECT circuit_close('circ', 'CircOne');
RESET ROLE;
SELECT tenant_id, retry_count FROM event_pending WHERE event_id = 'same' ORDER BY 1;
DELETE FROM event_pending WHERE event_id = 'same';
GRANT sentinai_admin TO regress_circ_operator;
SELECT tenant_role_remove('regress_circ_operator', 'circ_a');
SET ROLE regress_circ_operator;
SELECT circuit_open('circ', 'CircOne', NULL, 'maintenance of the ledger');
SELECT event_type, reason, actor = session_user FROM circuit_list() WHERE worker_type = 'circ';
RESET ROLE;
SELECT pg_temp.send('m1 CircOne circ_a M');
SELECT event_type, reason, error_message, probe_at FROM circuit_list() WHERE worker_type = 'circ';
\echo -- too much waits: nothing new is read, due work goes on
SET sentinai.pending_max = 1;
SELECT next_offset AS before FROM kafka_offset WHERE group_id = 'circ' \gset
SELECT pg_temp.send('m2 CircTwo circ_a M2');
SELECT next_offset = :before FROM kafka_offset WHERE group_id = 'circ';
RESET sentinai.pending_max;
SET ROLE regress_circ_operator;
SELECT circuit_close('circ', 'CircOne');
RESET ROLE;
DROP ROLE regress_circ_operator, regress_circ_viewer;
SELECT pg_temp.send('m2 CircTwo circ_a M2');
SELECT count(*) FROM event_pending WHERE worker_type = 'circ';
SELECT count(*) FROM key_state WHERE worker_type = 'circ';

DROP VIEW waiting, open_circuits;
DROP SCHEMA circ_test CASCADE;
