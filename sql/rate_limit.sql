-- rate_limit: how limits decide, and how changes of them arrive. Time is sentinai.test_clock; nothing here waits.
SET search_path = sentinai, public;
\set VERBOSITY default
\set SHOW_CONTEXT never
\pset null ~

CREATE FUNCTION pg_temp.at(t text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM set_config('sentinai.test_clock', CASE WHEN t ~ '^\d\d:' THEN '2026-03-02 ' || t || '+00' ELSE t END, false);
END $$;
-- n questions of one cost: how many were granted, and the last answer
CREATE FUNCTION pg_temp.ask(tenant text, type text, n integer DEFAULT 1, cost bigint DEFAULT 1,
							OUT granted bigint, OUT current bigint, OUT remaining bigint, OUT retry_after integer, OUT reset_at text)
	LANGUAGE plpgsql AS $$
DECLARE
	r	record;
BEGIN
	granted := 0;
	FOR i IN 1 .. n LOOP
		SELECT * INTO r FROM sentinai.rate_limit_check(tenant, type, cost);
		granted := granted + r.allowed::integer;
	END LOOP;
	current := r.current; remaining := r.remaining; retry_after := r.retry_after;
	reset_at := to_char(r.reset_at AT TIME ZONE 'UTC', 'MM-DD HH24:MI:SS.MS');
END $$;
SET timezone = 'UTC';

SELECT tenant_add('rl_a'), tenant_add('rl_b'), tenant_add('rl_c');

--
-- The four types and their defaults; a question, and the body of an answer 429
--
SELECT limit_type, limit_value, window_seconds, enabled, source FROM rate_limit_list('rl_a');
SELECT pg_temp.at('10:30:15');
SELECT * FROM rate_limit_peek('rl_a', 'api_requests');
SELECT * FROM rate_limit_check('rl_a', 'api_requests');
SELECT * FROM rate_limit_check('rl_a', 'api_requests', 999);
SELECT * FROM rate_limit_check('rl_a', 'api_requests');
SELECT * FROM rate_limit_peek('rl_a', 'api_requests');
\echo -- the answer alone, charged and counted as the others are
SELECT rate_limit_allowed('rl_a', 'api_requests'), rate_limit_allowed('rl_b', 'api_requests', 2);
SELECT current, remaining FROM rate_limit_peek('rl_b', 'api_requests');
SELECT jsonb_pretty(rate_limit_body('rl_a', 'api_requests'));
SELECT rate_limit_enforce('rl_a', 'api_requests');
SELECT rate_limit_enforce('rl_b', 'api_requests');
SELECT limit_type, "limit", current, remaining, window_seconds, reset_at, enabled, granted, refused FROM rate_limit_usage('rl_a');

--
-- A sliding window: 10 in 60 s
--
SELECT limit_value, window_seconds, enabled FROM rate_limit_set('rl_a', 'tool_executions', 10, reason => 'for the test');
SELECT pg_temp.at('10:00:30');
SELECT * FROM pg_temp.ask('rl_a', 'tool_executions', 4);
SELECT pg_temp.at('10:00:59.999999');
SELECT * FROM pg_temp.ask('rl_a', 'tool_executions', 7);
\echo -- refused calls never feed the decision: after a minute of them it is as if they had not been
SELECT pg_temp.at('10:01:00');
SELECT * FROM pg_temp.ask('rl_a', 'tool_executions', 100);
\echo -- half of the window before still counts, and what retry_after promised holds to the microsecond
SELECT pg_temp.at('10:01:06.000000');
SELECT * FROM rate_limit_peek('rl_a', 'tool_executions');
SELECT pg_temp.at('10:01:05.999999');
SELECT * FROM rate_limit_peek('rl_a', 'tool_executions');
SELECT pg_temp.at('10:01:30');
SELECT * FROM pg_temp.ask('rl_a', 'tool_executions', 7);
\echo -- a larger cost waits longer: 10 of them until both windows are empty
SELECT * FROM rate_limit_check('rl_a', 'tool_executions', 4);
SELECT * FROM rate_limit_check('rl_a', 'tool_executions', 10);
SELECT pg_temp.at('10:02:59.999999');
SELECT allowed FROM rate_limit_peek('rl_a', 'tool_executions', 10);
SELECT pg_temp.at('10:03:00');
SELECT allowed FROM rate_limit_peek('rl_a', 'tool_executions', 10);
\echo -- the waiting time of every cost, at every second of two windows: refused before it, granted at it
SELECT pg_temp.at('11:00:00');
SELECT rate_limit_refund('rl_a', 'tool_executions', 100);
SELECT * FROM pg_temp.ask('rl_a', 'tool_executions', 7);
CREATE FUNCTION pg_temp.promise(second integer, cost bigint) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	start	timestamptz := '2026-03-02 11:00:00+00'::timestamptz + second * interval '1 s';
	r		record;
	before	boolean;
BEGIN
	PERFORM pg_temp.at(start::text);
	SELECT * INTO r FROM sentinai.rate_limit_peek('rl_a', 'tool_executions', cost);
	IF r.allowed THEN
		RETURN 'granted';
	ELSIF r.retry_after <> ceil(extract(epoch FROM r.reset_at - start)) OR r.retry_after < 1 THEN
		RETURN format('at %s cost %s: retry_after %s, reset_at %s', start, cost, r.retry_after, r.reset_at);
	END IF;
	PERFORM pg_temp.at((r.reset_at - interval '1 us')::text);
	before := (SELECT p.allowed FROM sentinai.rate_limit_peek('rl_a', 'tool_executions', cost) p);
	PERFORM pg_temp.at(r.reset_at::text);
	IF before OR NOT (SELECT p.allowed FROM sentinai.rate_limit_peek('rl_a', 'tool_executions', cost) p) THEN
		RETURN format('at %s cost %s: promised %s', start, cost, r.reset_at);
	END IF;
	PERFORM pg_temp.at(start::text);
	RETURN 'promise kept';
END $$;
SELECT pg_temp.promise(s, c), count(*) FROM generate_series(0, 119) s, generate_series(1, 10) c GROUP BY 1 ORDER BY 1;

--
-- Changes count inside the running window
--
SELECT pg_temp.at('12:00:10');
SELECT * FROM pg_temp.ask('rl_a', 'tool_executions', 12);
\echo -- raised
SELECT limit_value FROM rate_limit_set('rl_a', 'tool_executions', 15);
SELECT * FROM pg_temp.ask('rl_a', 'tool_executions', 12);
\echo -- lowered
SELECT limit_value FROM rate_limit_set('rl_a', 'tool_executions', 5);
SELECT * FROM pg_temp.ask('rl_a', 'tool_executions');
\echo -- disabled: nothing is limited or counted; enabled again: from zero
SELECT enabled FROM rate_limit_set('rl_a', 'tool_executions', 5, 60, false);
SELECT * FROM pg_temp.ask('rl_a', 'tool_executions', 100, 1000);
SELECT enabled FROM rate_limit_set('rl_a', 'tool_executions', 5, 60, true);
SELECT * FROM pg_temp.ask('rl_a', 'tool_executions', 6);
\echo -- the reset of the runbook, with no call in between
SELECT enabled FROM rate_limit_set('rl_a', 'tool_executions', 5, 60, false);
SELECT enabled FROM rate_limit_set('rl_a', 'tool_executions', 5, 60, true);
SELECT * FROM pg_temp.ask('rl_a', 'tool_executions', 6);
\echo -- and ours
SELECT rate_limit_reset('rl_a', 'tool_executions', 'after the incident', 'ann');
SELECT * FROM pg_temp.ask('rl_a', 'tool_executions', 6);
SELECT rate_limit_reset('rl_a', 'tool_executions', 'twice at once'), rate_limit_reset('rl_a', 'tool_executions', 'twice at once');
SELECT * FROM pg_temp.ask('rl_a', 'tool_executions', 6);
\echo -- by hand, as a statement, COPY and TRUNCATE
UPDATE rate_limit_config SET limit_value = 7 WHERE tenant_id = 'rl_a' AND limit_type = 'tool_executions';
SELECT * FROM pg_temp.ask('rl_a', 'tool_executions', 6);
COPY rate_limit_config (tenant_id, limit_type, limit_value) FROM stdin;
rl_b	tool_executions	2
\.
SELECT * FROM pg_temp.ask('rl_b', 'tool_executions', 3);
TRUNCATE rate_limit_config;
SELECT * FROM pg_temp.ask('rl_b', 'tool_executions', 3);
SELECT remaining FROM pg_temp.ask('rl_a', 'tool_executions');
SET session_replication_role = replica;
INSERT INTO rate_limit_config VALUES ('rl_b', 'tool_executions', 6);
RESET session_replication_role;
SELECT * FROM pg_temp.ask('rl_b', 'tool_executions', 3);
SELECT rate_limit_delete('rl_b', 'tool_executions', 'the default will do'), rate_limit_delete('rl_b', 'tool_executions');
SELECT remaining FROM pg_temp.ask('rl_b', 'tool_executions');
\echo -- another length: what counts at that moment is carried over
SELECT limit_value FROM rate_limit_set('rl_c', 'tool_executions', 10, 60);
SELECT pg_temp.at('12:10:30');
SELECT granted FROM pg_temp.ask('rl_c', 'tool_executions', 8);
SELECT pg_temp.at('12:11:30');
SELECT remaining FROM rate_limit_peek('rl_c', 'tool_executions');
SELECT limit_value FROM rate_limit_set('rl_c', 'tool_executions', 10, 3600);
SELECT * FROM pg_temp.ask('rl_c', 'tool_executions', 7);
SELECT limit_value FROM rate_limit_set('rl_c', 'tool_executions', 10, 1);
SELECT * FROM pg_temp.ask('rl_c', 'tool_executions');
SELECT pg_temp.at('12:11:32');
SELECT remaining FROM rate_limit_peek('rl_c', 'tool_executions');

--
-- Who changed what
--
SELECT tenant_id, limit_type, action, before, after, reason, actor, authenticated = session_user AS me FROM rate_limit_history
 WHERE tenant_id = 'rl_a' AND limit_type = 'tool_executions' ORDER BY id;
\echo -- by hand: why and who, if it is said; the reason that a function was told ends with it, also where it fails
SELECT limit_type FROM rate_limit_type_set('by_hand', 5, reason => 'of the function');
SELECT limit_value FROM rate_limit_set('rl_b', 'by_hand', 0, reason => 'of the function');
BEGIN;
SET LOCAL sentinai.change_reason = 'told by hand';
SET LOCAL sentinai.change_actor = 'ann';
INSERT INTO rate_limit_config (tenant_id, limit_type, limit_value) VALUES ('rl_b', 'by_hand', 6);
SELECT limit_value FROM rate_limit_set('rl_b', 'by_hand', 7, reason => 'of the function');
UPDATE rate_limit_config SET limit_value = 8, limit_type = 'by_hand' WHERE limit_type = 'by_hand';
COMMIT;
UPDATE rate_limit_type_override SET limit_value = 9, when_full = 'closed' WHERE limit_type = 'by_hand';
DELETE FROM rate_limit_config WHERE limit_type = 'by_hand';
INSERT INTO rate_limit_config (tenant_id, limit_type, limit_value, created_at) VALUES ('rl_b', 'by_hand', 10, now() - interval '1 day');
SELECT rate_limit_type_delete('by_hand', 'no more', 'bob');
SELECT coalesce(tenant_id, 'all') AS tenant_id, action, before ->> 'limit_value' AS before, after ->> 'limit_value' AS after, after ->> 'when_full' AS when_full, reason, actor
  FROM rate_limit_history WHERE limit_type = 'by_hand' ORDER BY id;

--
-- Types of one's own, and another default for an installed one
--
SELECT * FROM rate_limit_type_set('Exports', 5);
SELECT * FROM rate_limit_type_set('exports', 5, when_full => 'perhaps');
SELECT * FROM rate_limit_type_set('exports', 5, 3600, reason => 'the disk');
SELECT * FROM pg_temp.ask('rl_b', 'exports', 6);
SELECT * FROM rate_limit_type_set('exports', 8, 3600);
SELECT * FROM pg_temp.ask('rl_b', 'exports', 6);
SELECT * FROM rate_limit_type_set('exports', 8, 3600, false);
SELECT granted FROM pg_temp.ask('rl_b', 'exports', 100);
SELECT * FROM rate_limit_type_set('exports', 8, 3600);
SELECT * FROM pg_temp.ask('rl_b', 'exports', 10);
SELECT limit_value FROM rate_limit_set('rl_b', 'exports', 20, 3600);
\echo -- what was written down of a type that is gone is not inherited by another one of its name
DO $$ BEGIN WHILE sentinai.rate_limit_flush() IS NOT NULL LOOP END LOOP; END $$;
SELECT rate_limit_type_delete('exports', 'no more'), rate_limit_type_delete('exports');
SELECT * FROM pg_temp.ask('rl_b', 'exports');
SELECT count(*) FROM rate_limit_config WHERE limit_type = 'exports';
SELECT limit_type, limit_value FROM rate_limit_type_set('exports', 3);
SELECT * FROM pg_temp.ask('rl_b', 'exports', 4);
SELECT * FROM rate_limit_type_set('api_requests', 2);
SELECT * FROM pg_temp.ask('rl_c', 'api_requests', 3);
SELECT rate_limit_type_delete('api_requests');
SELECT * FROM pg_temp.ask('rl_c', 'api_requests');
SELECT limit_type, limit_value, builtin FROM rate_limit_type_effective ORDER BY 1;
SELECT rate_limit_type_delete('exports');
\echo -- a type that is disabled and enabled again: who has a limit of his own keeps his counts, it was always enabled
SELECT limit_type FROM rate_limit_type_set('downloads', 10, 3600);
SELECT limit_value FROM rate_limit_set('rl_c', 'downloads', 10, 3600);
SELECT granted FROM pg_temp.ask('rl_b', 'downloads', 6) UNION ALL SELECT granted FROM pg_temp.ask('rl_c', 'downloads', 6);
SELECT limit_type FROM rate_limit_type_set('downloads', 10, 3600, false) UNION ALL SELECT limit_type FROM rate_limit_type_set('downloads', 10, 3600);
SELECT * FROM pg_temp.ask('rl_b', 'downloads');
SELECT * FROM pg_temp.ask('rl_c', 'downloads');
SELECT rate_limit_type_delete('downloads');

\echo -- a limit that makes the difference begins at zero; a row that a restore brings does not
SELECT limit_type FROM rate_limit_type_set('uploads', 5, 60, false);
INSERT INTO rate_limit_config (tenant_id, limit_type, limit_value, created_at) VALUES ('rl_b', 'uploads', 5, now() - interval '1 day');
SELECT limit_value FROM rate_limit_set('rl_c', 'uploads', 5);
SELECT tenant_id FROM rate_limit_since WHERE limit_type = 'uploads';
SELECT rate_limit_type_delete('uploads');

--
-- The calendar day
--
SELECT limit_value FROM rate_limit_set('rl_a', 'report_generations', 3, 86400);
SELECT pg_temp.at('2026-03-02 23:59:58.5+00');
SELECT * FROM pg_temp.ask('rl_a', 'report_generations', 4);
SELECT pg_temp.at('2026-03-02 23:59:59.999999+00');
SELECT * FROM pg_temp.ask('rl_a', 'report_generations');
SELECT pg_temp.at('2026-03-03 00:00:00+00');
SELECT * FROM pg_temp.ask('rl_a', 'report_generations', 4);
SELECT pg_temp.at('2026-03-05 12:00:00+00');
SELECT * FROM pg_temp.ask('rl_a', 'report_generations', 4);

--
-- A clock that steps back: a little, far, and forth again
--
SELECT limit_value FROM rate_limit_set('rl_c', 'tool_executions', 10, 60);
SELECT pg_temp.at('13:00:05');
SELECT * FROM pg_temp.ask('rl_c', 'tool_executions', 6);
SELECT pg_temp.at('12:59:58');
SELECT * FROM pg_temp.ask('rl_c', 'tool_executions', 2);
SELECT pg_temp.at('13:00:06');
SELECT * FROM pg_temp.ask('rl_c', 'tool_executions', 1);
\echo -- three hours back: it has all that was granted, and is free again two minutes later
SELECT pg_temp.at('10:00:30');
SELECT * FROM pg_temp.ask('rl_c', 'tool_executions', 2);
SELECT pg_temp.at('10:02:30');
SELECT * FROM pg_temp.ask('rl_c', 'tool_executions');
SELECT pg_temp.at('1999-12-31 23:59:30+00');
SELECT * FROM pg_temp.ask('rl_c', 'tool_executions');

--
-- What is no question: an error, and nothing is changed
--
SELECT pg_temp.at('14:00:00');
SELECT rate_limit_check('rl_b', 'tool_executions', 0);
SELECT rate_limit_check('rl_b', 'tool_executions', -1);
SELECT rate_limit_check('rl_b', 'tool_executions', NULL);
SELECT rate_limit_check(NULL, 'tool_executions');
SELECT rate_limit_check('rl_b', NULL);
SELECT rate_limit_check('rl_b', 'tool_executions', 101);
SELECT rate_limit_peek('rl_b', 'tool_executions', 9223372036854775807);
SELECT rate_limit_enforce('rl_b', 'tool_executions', 101);
SELECT rate_limit_allowed('rl_b', 'tool_executions', 101);
SELECT rate_limit_allowed('rl_b', 'tool_executions', NULL);
SELECT rate_limit_check('rl_b', 'tool_execution');
SELECT rate_limit_check('rl_b', '');
SELECT rate_limit_check('', 'tool_executions');
SELECT rate_limit_check('rl_x', 'tool_executions');
SELECT rate_limit_check(repeat('x', 100000), 'tool_executions');
SELECT rate_limit_check('rl_b', repeat('x', 100000));
SELECT rate_limit_refund('rl_b', 'tool_executions', 0);
SELECT rate_limit_body('rl_x', 'tool_executions');
SELECT * FROM rate_limit_usage('rl_x');
SELECT rate_limit_set('rl_b', 'tool_executions', 0);
SELECT rate_limit_set('rl_b', 'tool_executions', 1000000000000001);
SELECT rate_limit_set('rl_b', 'tool_executions', 5, 0);
SELECT rate_limit_set('rl_b', 'tool_executions', 5, 86401);
SELECT rate_limit_set('rl_b', 'tool_executions', NULL);
SELECT rate_limit_set('rl_b', 'tool_executions', 5, NULL);
SELECT rate_limit_set('rl_b', 'tool_executions', 5, 60, NULL);
SELECT rate_limit_set('rl_b', 'nothing', 5);
SELECT rate_limit_set('rl_x', 'tool_executions', 5);
SELECT rate_limit_delete('rl_x', 'tool_executions');
SELECT rate_limit_reset('rl_x', 'tool_executions', 'none');
SELECT rate_limit_reset('rl_b', 'nothing', 'none');
SET sentinai.test_clock = 'soon';
SELECT granted, refused FROM rate_limit_state('rl_b', 'tool_executions');
SELECT count(*) FROM rate_limit_config WHERE tenant_id = 'rl_b';
\echo -- the largest there is
SELECT limit_value FROM rate_limit_set('rl_b', 'tool_executions', 1000000000000000);
SELECT * FROM pg_temp.ask('rl_b', 'tool_executions', 1, 1000000000000000);
SELECT * FROM pg_temp.ask('rl_b', 'tool_executions', 3, 1000000000000000);
SELECT pg_temp.at('14:01:20');
SELECT * FROM pg_temp.ask('rl_b', 'tool_executions', 1, 333333333333333);
SELECT rate_limit_delete('rl_b', 'tool_executions');

--
-- Giving back
--
SELECT pg_temp.at('15:00:00');
SELECT limit_value FROM rate_limit_set('rl_b', 'tool_executions', 5);
SELECT * FROM pg_temp.ask('rl_b', 'tool_executions', 6);
SELECT rate_limit_refund('rl_b', 'tool_executions', 2);
SELECT * FROM pg_temp.ask('rl_b', 'tool_executions', 3);
SELECT rate_limit_refund('rl_b', 'tool_executions', 1000000);
SELECT * FROM rate_limit_peek('rl_b', 'tool_executions', 5);

--
-- Several limits: all or nothing, and the tightest
--
SELECT pg_temp.at('16:00:00');
SELECT * FROM rate_limit_check_all('rl_b', ARRAY['api_requests', 'tool_executions', 'report_generations'], ARRAY[1, 2, 1]);
SELECT * FROM rate_limit_check_all('rl_b', ARRAY['api_requests', 'tool_executions'], ARRAY[1, 4]);
SELECT limit_type, granted, refused FROM rate_limit_usage('rl_b') ORDER BY 1;
\echo -- of two that refuse the one that does so longest
SELECT count(*) FROM rate_limit_check('rl_b', 'report_generations', 8);
SELECT * FROM rate_limit_check_all('rl_b', ARRAY['tool_executions', 'report_generations', 'api_requests'], ARRAY[4, 4, 4]);
SELECT * FROM rate_limit_check_all('rl_b', ARRAY['api_requests']);
SELECT rate_limit_check_all('rl_b', ARRAY['api_requests', 'tool_executions'], ARRAY[1, 6]);
SELECT rate_limit_check_all('rl_b', '{}');
SELECT rate_limit_check_all('rl_b', ARRAY['api_requests', NULL]);
SELECT rate_limit_check_all('rl_b', ARRAY['api_requests', 'api_requests']);
SELECT rate_limit_check_all('rl_b', ARRAY['api_requests', 'tool_executions'], ARRAY[1]);
SELECT rate_limit_check_all('rl_b', ARRAY['api_requests', 'tool_executions'], ARRAY[1, 0]);
SELECT rate_limit_check_all('rl_b', NULL);
SELECT rate_limit_check_all('rl_b', ARRAY['api_requests', 'nothing']);
SELECT rate_limit_check_all('rl_x', ARRAY['api_requests']);
SELECT rate_limit_check_all('rl_b', array_fill('api_requests'::text, ARRAY[33]));
SELECT limit_type, granted, refused FROM rate_limit_usage('rl_b') ORDER BY 1;
\echo -- one limit of many tenants
SELECT * FROM rate_limit_check_batch(ARRAY['rl_b', 'rl_c', 'rl_b'], 'api_requests', ARRAY[10, 20, 30]);
SELECT * FROM rate_limit_check_batch('{}', 'api_requests');
SELECT * FROM rate_limit_check_batch(ARRAY['rl_b', 'rl_x'], 'api_requests');
SELECT * FROM rate_limit_check_batch(ARRAY['rl_b', NULL], 'api_requests');

\echo -- who is close to a limit, or over it
SELECT pg_temp.at('16:30:00');
SELECT granted FROM pg_temp.ask('rl_b', 'tool_executions', 6);
SELECT granted FROM pg_temp.ask('rl_c', 'tool_executions', 9);
SELECT * FROM rate_limit_busy() WHERE limit_type = 'tool_executions' ORDER BY used;
SELECT tenant_id FROM rate_limit_busy(1) WHERE limit_type = 'tool_executions';
SELECT pg_temp.at('16:32:00');
SELECT * FROM rate_limit_busy() WHERE limit_type = 'tool_executions';
SELECT rate_limit_busy(0);
SELECT rate_limit_busy(NULL);
SELECT rate_limit_busy('NaN');
SELECT rate_limit_set(NULL, 'tool_executions', 5);
SELECT rate_limit_set('rl_b', NULL, 5);
SELECT rate_limit_list('rl_none');
SELECT rate_limit_list(NULL);

--
-- Transactions: counts are outside of them, changes inside
--
SELECT pg_temp.at('17:00:00');
BEGIN;
SELECT granted FROM pg_temp.ask('rl_b', 'tool_executions', 2);
ROLLBACK;
BEGIN READ ONLY ISOLATION LEVEL REPEATABLE READ;
SELECT granted FROM pg_temp.ask('rl_b', 'tool_executions', 1);
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT granted FROM pg_temp.ask('rl_b', 'tool_executions', 1);
SAVEPOINT s;
SELECT rate_limit_enforce('rl_b', 'tool_executions', 3);
ROLLBACK TO s;
COMMIT;
SELECT * FROM rate_limit_peek('rl_b', 'tool_executions');
\echo -- a new slot in a transaction that may not write
BEGIN READ ONLY;
SELECT granted FROM pg_temp.ask('rl_c', 'events_ingested', 2);
ROLLBACK;
SELECT granted FROM rate_limit_state('rl_c', 'events_ingested');
\echo -- what this transaction has changed counts in it at once, and with ROLLBACK it never was; the calls were
BEGIN;
SELECT limit_value FROM rate_limit_set('rl_b', 'tool_executions', 8);
SELECT * FROM pg_temp.ask('rl_b', 'tool_executions', 5);
SELECT tenant_add('rl_new');
SELECT limit_value FROM rate_limit_set('rl_new', 'tool_executions', 2);
SELECT * FROM pg_temp.ask('rl_new', 'tool_executions', 3);
SELECT rate_limit_reset('rl_c', 'events_ingested', 'not for long');
SELECT granted FROM rate_limit_state('rl_c', 'events_ingested');
SELECT limit_type FROM rate_limit_type_set('fleeting', 1);
SELECT granted FROM pg_temp.ask('rl_b', 'fleeting', 2);
ROLLBACK;
SELECT * FROM rate_limit_peek('rl_b', 'tool_executions');
SELECT * FROM rate_limit_peek('rl_new', 'tool_executions');
SELECT granted FROM rate_limit_state('rl_c', 'events_ingested');
SELECT rate_limit_check('rl_b', 'fleeting');
BEGIN;
SELECT limit_value FROM rate_limit_set('rl_b', 'tool_executions', 8);
PREPARE TRANSACTION 'no';
SELECT "limit" FROM rate_limit_peek('rl_b', 'tool_executions');

--
-- Tenants come and go; who is not known takes no slot
--
SELECT used AS used FROM rate_limit_slot_stats() \gset
SELECT rate_limit_check('rl_x' || n, 'tool_executions') FROM generate_series(1, 3) n;
SELECT (rate_limit_peek('rl_new2', 'tool_executions')).allowed;
SELECT used - :used AS more FROM rate_limit_slot_stats();
SELECT tenant_suspend('rl_c');
SELECT granted FROM pg_temp.ask('rl_c', 'tool_executions');
-- what maintenance has written down by then is known again afterwards: all of it
DO $$ BEGIN WHILE sentinai.rate_limit_flush() IS NOT NULL LOOP END LOOP; END $$;
SELECT tenant_archive('rl_c');
SELECT rate_limit_check('rl_c', 'tool_executions');
SELECT rate_limit_check('rl_c', 'events_ingested');
SELECT tenant_resume('rl_c');
SELECT granted FROM pg_temp.ask('rl_c', 'tool_executions');
\echo -- deleted and added again it is another one, of which nothing was counted yet
SELECT * FROM pg_temp.ask('rl_c', 'tool_executions', 5);
DO $$ BEGIN WHILE sentinai.rate_limit_flush() IS NOT NULL LOOP END LOOP; END $$;
DELETE FROM tenant WHERE tenant_id = 'rl_c';
SELECT tenant_add('rl_c');
SELECT * FROM pg_temp.ask('rl_c', 'tool_executions');
DELETE FROM tenant WHERE tenant_id = 'rl_c';
SELECT rate_limit_check('rl_c', 'tool_executions');
SELECT tenant_add('rl_c');
SELECT granted FROM pg_temp.ask('rl_c', 'tool_executions');
\echo -- its own limits have gone with it, and the trail says so
SELECT tenant_add('rl_gone');
SELECT limit_value FROM rate_limit_set('rl_c', 'tool_executions', 7) UNION ALL SELECT limit_value FROM rate_limit_set('rl_gone', 'tool_executions', 8);
DELETE FROM tenant WHERE tenant_id = 'rl_c';
SELECT tenant_add('rl_c');
SELECT limit_value, source FROM rate_limit_list('rl_c') WHERE limit_type = 'tool_executions';
SELECT "limit" FROM rate_limit_peek('rl_c', 'tool_executions');
SELECT action, before, after, reason FROM rate_limit_history WHERE tenant_id = 'rl_c' ORDER BY id DESC LIMIT 1;
BEGIN;
SET LOCAL sentinai.change_reason = 'bankrupt';
DELETE FROM tenant WHERE tenant_id = 'rl_gone';
SELECT action, before, reason, current_setting('sentinai.change_reason') FROM rate_limit_history WHERE tenant_id = 'rl_gone' ORDER BY id DESC LIMIT 1;
ROLLBACK;
BEGIN;
TRUNCATE tenant;
SELECT count(*) FROM rate_limit_config;
ROLLBACK;
\echo -- a row that goes to another tenant by hand
BEGIN;
UPDATE rate_limit_config SET tenant_id = 'rl_c', limit_value = 9 WHERE tenant_id = 'rl_gone';
SELECT tenant_id, action, before, after FROM rate_limit_history ORDER BY id DESC LIMIT 2;
ROLLBACK;
SELECT source FROM rate_limit_list('rl_gone') WHERE limit_type = 'tool_executions';
DELETE FROM tenant WHERE tenant_id = 'rl_gone';

--
-- Who is asked: an admin is not limited and charges nothing, a superuser who is none is
--
SELECT pg_temp.at('18:00:00');
SELECT limit_value FROM rate_limit_set('rl_c', 'tool_executions', 1);
CREATE ROLE regress_rl_admin IN ROLE sentinai_admin;
CREATE ROLE regress_rl_operator IN ROLE sentinai_operator;
CREATE ROLE regress_rl_viewer IN ROLE sentinai_viewer;
SELECT tenant_role_add('regress_rl_operator', 'rl_c'), tenant_role_add('regress_rl_viewer', 'rl_c');
SET ROLE regress_rl_admin;
SELECT * FROM rate_limit_check('rl_c', 'tool_executions', 1000000);
SELECT limit_type, allowed FROM rate_limit_check_all('rl_c', ARRAY['tool_executions', 'api_requests'], ARRAY[100, 1]);
RESET ROLE;
SELECT allowed FROM rate_limit_check('rl_c', 'tool_executions');
SELECT allowed FROM rate_limit_check('rl_c', 'tool_executions');
SET ROLE regress_rl_operator;
SELECT allowed FROM rate_limit_check('rl_c', 'tool_executions');
SELECT rate_limit_reset('rl_c', 'tool_executions', 'on call');
SELECT allowed FROM rate_limit_check('rl_c', 'tool_executions');
SELECT rate_limit_set('rl_c', 'tool_executions', 1000);
SET ROLE regress_rl_viewer;
SELECT allowed FROM rate_limit_peek('rl_c', 'tool_executions');
SELECT allowed FROM rate_limit_peek('rl_b', 'tool_executions');
SELECT count(*) FROM rate_limit_usage('rl_c');
SELECT count(*) FROM rate_limit_list('rl_c');
SELECT rate_limit_check('rl_c', 'tool_executions');
SELECT rate_limit_reset('rl_c', 'tool_executions', 'no');
RESET ROLE;
\echo -- a server that asks for all tenants is bound to every one and need not choose; who has a tenant asks for that one
CREATE ROLE regress_rl_gateway IN ROLE sentinai_operator;
SET ROLE regress_rl_gateway;
SELECT rate_limit_allowed('rl_b', 'api_requests');
RESET ROLE;
SELECT tenant_role_add('regress_rl_gateway', '*');
SET ROLE regress_rl_gateway;
SELECT rate_limit_allowed('rl_b', 'api_requests'), (SELECT count(*) FROM rate_limit_check_batch('{rl_b,rl_c}', 'api_requests'));
SELECT rate_limit_allowed('rl_none', 'api_requests');
RESET ROLE;
SELECT tenant_role_remove('regress_rl_gateway', '*');
SELECT tenant_role_add('regress_rl_gateway', 'rl_b');
SET ROLE regress_rl_gateway;
SELECT rate_limit_allowed('rl_b', 'api_requests');
SELECT rate_limit_allowed('rl_a', 'api_requests');
SELECT rate_limit_allowed('rl_none', 'api_requests');
SELECT rate_limit_check_batch('{rl_b,rl_a}', 'api_requests');
RESET ROLE;
SELECT tenant_role_remove('regress_rl_gateway', 'rl_b');
\echo -- membership that is taken away counts at once
GRANT sentinai_admin TO regress_rl_operator;
SET ROLE regress_rl_operator;
SELECT allowed FROM rate_limit_check('rl_c', 'tool_executions');
RESET ROLE;
REVOKE sentinai_admin FROM regress_rl_operator;
SET ROLE regress_rl_operator;
SELECT allowed FROM rate_limit_check('rl_c', 'tool_executions');
RESET ROLE;
DROP ROLE regress_rl_gateway, regress_rl_admin, regress_rl_operator, regress_rl_viewer;
DELETE FROM tenant_role WHERE role_name ~ '^regress_rl_';

--
-- A handler is limited, whoever runs it; what was granted to a slice that is undone is given back. A rehearsal only looks
--
SELECT pg_temp.at('19:00:00');
CREATE SCHEMA rl_test;
GRANT USAGE ON SCHEMA rl_test TO sentinai_handler;
CREATE FUNCTION rl_test.handle(e sentinai.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM sentinai.rate_limit_enforce(e.tenant_id, 'tool_executions');
	IF e.event_id = 'rl1' THEN
		PERFORM sentinai.fail(e, 'validation_error', 'it was allowed');
	END IF;
END $$;
SELECT limit_value FROM rate_limit_set('rl_b', 'tool_executions', 2);
SELECT event_type_add('RlTool'), worker_type_add('rl', 'rl'), handler_add('rl', 'RlTool', 'rl_test.handle');
SELECT epoch FROM assign('rl', 'rl', 'rl', 0) \gset
CREATE ROLE regress_rl_admin IN ROLE sentinai_admin;
SET ROLE regress_rl_admin;
SELECT handled, failed, dead_lettered FROM consume('rl', 'rl', (SELECT array_agg(ROW('rl', 0, n, :epoch, now(), NULL, NULL, convert_to(format(
	'{"event_id": "rl%s", "event_type": "RlTool", "tenant_id": "rl_b", "payload": {}}', n), 'UTF8'))::sentinai.record) FROM generate_series(0, 3) n));
RESET ROLE;
DROP ROLE regress_rl_admin;
SELECT event_id, error_type, error_message FROM dead_letter_queue WHERE worker_type = 'rl' ORDER BY 1;
SELECT event_id, error_type, error_message FROM event_pending WHERE worker_type = 'rl' ORDER BY 1;
SELECT granted, refused >= 1 AS refused FROM rate_limit_state('rl_b', 'tool_executions');
SELECT rate_limit_reset('rl_b', 'tool_executions', 'for the rehearsal');
SELECT would_succeed, error_type, error_message FROM dlq_rehearse('rl_b', worker_type => 'rl');
SELECT granted, refused FROM rate_limit_state('rl_b', 'tool_executions');

--
-- Written down. The maintenance worker does so too, and one waits for the other.
--
CREATE PROCEDURE pg_temp.write() LANGUAGE plpgsql AS $$
BEGIN
	WHILE sentinai.rate_limit_flush() IS NOT NULL LOOP
		PERFORM pg_sleep(0.01);
	END LOOP;
END $$;
CALL pg_temp.write();
SELECT limit_type, window_start, window_seconds, granted, previous_granted, refused FROM rate_limit_usage WHERE tenant_id = 'rl_a' ORDER BY 1;
\echo -- what was taken as written is marked again when the transaction aborts
BEGIN;
SELECT granted FROM pg_temp.ask('rl_a', 'events_ingested', 5);
CALL pg_temp.write();
ROLLBACK;
CALL pg_temp.write();
SELECT granted FROM rate_limit_usage WHERE tenant_id = 'rl_a' AND limit_type = 'events_ingested';
BEGIN;
SELECT granted FROM pg_temp.ask('rl_a', 'events_ingested', 5);
SAVEPOINT s;
CALL pg_temp.write();
ROLLBACK TO s;
COMMIT;
CALL pg_temp.write();
SELECT granted FROM rate_limit_usage WHERE tenant_id = 'rl_a' AND limit_type = 'events_ingested';
\echo -- nor can what was taken to be written be prepared
SELECT rate_limit_check('rl_a', 'events_ingested') IS NULL;
BEGIN;
CALL pg_temp.write();
PREPARE TRANSACTION 'no';
CALL pg_temp.write();
INSERT INTO rate_limit_usage VALUES ('rl_c', 'events_ingested', now() - interval '5 days', 60, 60, 1, 1, 1, 1, 'epoch', '-infinity', now() - interval '4 days')
	ON CONFLICT ON CONSTRAINT rate_limit_usage_pkey DO UPDATE SET updated_at = excluded.updated_at;
SELECT rate_limit_retain();
SELECT count(*) FROM rate_limit_usage WHERE updated_at < now() - interval '3 days';

DELETE FROM tenant WHERE tenant_id LIKE 'rl\_%';
DELETE FROM rate_limit_config;
DROP SCHEMA rl_test CASCADE;
