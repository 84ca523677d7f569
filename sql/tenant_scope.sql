-- Handlers with scope = tenant: called for one tenant at a time, and what a malicious one gets of its neighbours'.

SET search_path = sentinai, public;
\set VERBOSITY terse
\pset format unaligned
\pset tuples_only on

CREATE FUNCTION pg_temp.counts(r sentinai.consume_result) RETURNS text LANGUAGE sql AS $$
	SELECT format('handled %s, failed %s, parked %s, dead %s, emitted %s%s%s',
		r.handled, r.failed, r.parked, r.dead_lettered, r.emitted, ', stop ' || r.stop, ', split ' || r.split) $$;

-- Sends events written as "tenant id type exception" as the next records.
CREATE FUNCTION pg_temp.send(VARIADIC events text[]) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	k		sentinai.kafka_offset;
	records	sentinai.record[];
BEGIN
	SELECT * INTO k FROM sentinai.kafka_offset o WHERE o.group_id = 'scope';
	SELECT array_agg(ROW('scope', 0, k.next_offset + n - 1, k.epoch, '2026-01-01', 'key', NULL,
						 convert_to(jsonb_build_object('event_id', w[2], 'event_type', w[3], 'tenant_id', w[1],
							'exception_id', w[4], 'payload', '{}'::jsonb)::text, 'UTF8'))::sentinai.record ORDER BY n)
	  INTO records FROM (SELECT n, string_to_array(e, ' ') AS w FROM unnest(events) WITH ORDINALITY AS u(e, n)) w;
	RETURN pg_temp.counts(sentinai.consume('scope', 'scope', records));
END $$;

-- The application, of an owner whom row security holds, too.
CREATE ROLE regress_scope_owner;
CREATE SCHEMA scope_test AUTHORIZATION regress_scope_owner;
GRANT USAGE ON SCHEMA sentinai TO regress_scope_owner;
GRANT USAGE ON TYPE sentinai.event TO regress_scope_owner;
GRANT EXECUTE ON FUNCTION sentinai.current_tenant TO regress_scope_owner, sentinai_tenant_handler;
CREATE TABLE scope_test.account (tenant_id text DEFAULT sentinai.current_tenant(), id text, secret text, PRIMARY KEY (tenant_id, id));
CREATE TABLE scope_test.log (n bigserial, tenant_id text DEFAULT sentinai.current_tenant(), trick text, outcome text);
INSERT INTO scope_test.account VALUES ('scope_a', '1', 'secret of a'), ('scope_b', '1', 'secret of b'), ('scope_c', '1', 'secret of c');
ALTER TABLE scope_test.account OWNER TO regress_scope_owner;
ALTER TABLE scope_test.log OWNER TO regress_scope_owner;
ALTER TABLE scope_test.account ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
ALTER TABLE scope_test.log ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON scope_test.account USING (tenant_id = (SELECT sentinai.current_tenant()));
CREATE POLICY tenant ON scope_test.log USING (tenant_id = (SELECT sentinai.current_tenant()));
GRANT USAGE ON SCHEMA scope_test TO sentinai_tenant_handler;
GRANT SELECT, INSERT, UPDATE, DELETE ON scope_test.account, scope_test.log TO sentinai_tenant_handler;
GRANT USAGE ON SEQUENCE scope_test.log_n_seq TO sentinai_tenant_handler;

SELECT tenant_add('scope_a'), tenant_add('scope_b'), tenant_add('scope_c');
SELECT event_type_add('ScopeTry'), event_type_add('ScopePlain'), event_type_add('ScopeSet'), event_type_add('ScopeAll');
SELECT worker_type_add('scope', 'scope');
SELECT count(*) FROM assign('scope', 'scope', 'scope', 0);

--
-- What is refused when a handler is added
--
CREATE FUNCTION scope_test.nothing(e sentinai.event) RETURNS void LANGUAGE sql AS 'SELECT';
SELECT handler_add('scope', 'ScopeTry', 'scope_test.nothing', scope => 'world');
SELECT handler_add('scope', 'ScopeTry', 'scope_test.nothing', scope => NULL);
GRANT USAGE ON SCHEMA scope_test TO sentinai_admin, sentinai_handler;
SELECT handler_add('scope', 'ScopeTry', 'scope_test.nothing', scope => 'tenant', role_name => 'sentinai_handler');
SELECT handler_add('scope', 'ScopeTry', 'scope_test.nothing', scope => 'tenant', role_name => 'sentinai_admin');
CREATE ROLE regress_scope_bypass BYPASSRLS;
GRANT USAGE ON SCHEMA scope_test TO regress_scope_bypass;
SELECT handler_add('scope', 'ScopeTry', 'scope_test.nothing', scope => 'tenant', role_name => 'regress_scope_bypass');
SELECT handler_add('scope', 'ScopeTry', 'scope_test.nothing', scope => 'tenant');
SELECT role_name, scope FROM handler WHERE event_type = 'ScopeTry';
-- The role may have changed since.
ALTER ROLE sentinai_tenant_handler BYPASSRLS;
SELECT pg_temp.send('scope_a bypass ScopeTry');
ALTER ROLE sentinai_tenant_handler NOBYPASSRLS;
SELECT error_type, error_message FROM event_pending WHERE tenant_id = 'scope_a';
DELETE FROM event_pending WHERE tenant_id = 'scope_a';

--
-- A handler that tries what it can. A trick's command says with $1 what it has seen or changed of others (the held tenant).
--
CREATE FUNCTION scope_test.helper() RETURNS bigint LANGUAGE sql SECURITY DEFINER AS
	$$SELECT count(*) FROM scope_test.account$$;
ALTER FUNCTION scope_test.helper OWNER TO regress_scope_owner;
CREATE FUNCTION scope_test.super() RETURNS bigint LANGUAGE sql SECURITY DEFINER AS
	$$SELECT count(*) FROM scope_test.account$$;
CREATE FUNCTION scope_test.fence() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
	INSERT INTO scope_test.account SELECT tenant_id, 'stolen', secret FROM scope_test.account WHERE tenant_id <> NEW.tenant_id;
	RETURN NEW;
END $$;
CREATE TABLE scope_test.bait (tenant_id text);
CREATE TRIGGER bait BEFORE INSERT ON scope_test.bait FOR EACH ROW EXECUTE FUNCTION scope_test.fence();
GRANT INSERT ON scope_test.bait TO sentinai_tenant_handler;
CREATE TABLE scope_test.trick (n serial PRIMARY KEY, name text, before text, command text);
GRANT SELECT ON scope_test.trick TO sentinai_tenant_handler;
INSERT INTO scope_test.trick (name, before, command) VALUES
	('reads', NULL, 'SELECT count(*) FROM scope_test.account WHERE tenant_id <> $1'),
	('reads its own', NULL, 'SELECT count(*) FROM scope_test.account WHERE tenant_id = $1'),
	('sentinai.tenant_id', $$SELECT set_config('sentinai.tenant_id', 'scope_c', false)$$, 'SELECT count(*) FROM scope_test.account WHERE tenant_id <> $1'),
	('SET LOCAL', 'SET LOCAL sentinai.tenant_id = scope_c', 'SELECT count(*) FROM scope_test.account WHERE tenant_id <> $1'),
	('claims', $$SELECT set_config('request.jwt.claims', '{"tenant_id": "scope_c", "role": "sentinai_admin"}', true)$$,
		'SELECT count(*) FROM scope_test.account WHERE tenant_id <> $1'),
	('SET ROLE', 'SET ROLE sentinai_admin', 'SELECT count(*) FROM scope_test.account WHERE tenant_id <> $1'),
	('SET LOCAL ROLE', 'SET LOCAL ROLE sentinai_handler', 'SELECT count(*) FROM scope_test.account WHERE tenant_id <> $1'),
	('RESET ROLE', 'RESET ROLE', 'SELECT count(*) FROM scope_test.account WHERE tenant_id <> $1'),
	('set_config(role)', $$SELECT set_config('role', 'none', true)$$, 'SELECT count(*) FROM scope_test.account WHERE tenant_id <> $1'),
	('SESSION AUTHORIZATION', 'SET SESSION AUTHORIZATION DEFAULT', 'SELECT count(*) FROM scope_test.account WHERE tenant_id <> $1'),
	('RESET ALL', 'RESET ALL', 'SELECT count(*) FROM scope_test.account WHERE tenant_id <> $1'),
	('row_security', 'SET row_security = off', 'SELECT count(*) FROM scope_test.account WHERE tenant_id <> $1'),
	('no row security', 'ALTER TABLE scope_test.account DISABLE ROW LEVEL SECURITY', 'SELECT count(*) FROM scope_test.account WHERE tenant_id <> $1'),
	('policy', 'CREATE POLICY mine ON scope_test.account USING (true)', 'SELECT count(*) FROM scope_test.account WHERE tenant_id <> $1'),
	('grant', 'GRANT sentinai_admin TO sentinai_tenant_handler', 'SELECT count(*) FROM scope_test.account WHERE tenant_id <> $1'),
	('helper', NULL, 'SELECT scope_test.helper() WHERE $1 IS NOT NULL'),
	('superuser''s helper', NULL, 'SELECT scope_test.super() WHERE $1 IS NOT NULL'),
	('trigger', NULL, 'INSERT INTO scope_test.bait VALUES ($1) RETURNING 1'),
	('helper of its own', $$CREATE FUNCTION pg_temp.mine() RETURNS bigint LANGUAGE sql SECURITY DEFINER AS 'SELECT count(*) FROM scope_test.account'$$,
		'SELECT pg_temp.mine() WHERE $1 IS NOT NULL'),
	('inserts', NULL, $$INSERT INTO scope_test.account SELECT 'scope_c', 'planted', $1 RETURNING 1$$),
	('gives away', NULL, $$UPDATE scope_test.account SET tenant_id = 'scope_c', id = 'given' WHERE tenant_id = $1 RETURNING 1$$),
	('updates', NULL, $$WITH u AS (UPDATE scope_test.account SET secret = 'mine' WHERE tenant_id <> $1 RETURNING 1) SELECT count(*) FROM u$$),
	('deletes', NULL, 'WITH d AS (DELETE FROM scope_test.account WHERE tenant_id <> $1 RETURNING 1) SELECT count(*) FROM d'),
	('merges', $$MERGE INTO scope_test.account a USING (VALUES ('scope_c', '1')) v (tenant_id, id) ON a.tenant_id = v.tenant_id AND a.id = v.id
		WHEN MATCHED THEN UPDATE SET secret = 'mine' WHEN NOT MATCHED THEN DO NOTHING$$, 'SELECT count(*) FROM scope_test.account WHERE tenant_id <> $1'),
	('truncates', 'TRUNCATE scope_test.account', 'SELECT 0 WHERE $1 IS NOT NULL'),
	('locks', 'LOCK scope_test.account IN ACCESS EXCLUSIVE MODE', 'SELECT count(*) FROM scope_test.account WHERE tenant_id <> $1'),
	('holds a cursor', 'DECLARE held CURSOR WITH HOLD FOR SELECT 1', 'SELECT 0 WHERE $1 IS NOT NULL'),
	('prepares', 'PREPARE mine AS SELECT 1', 'SELECT 0 WHERE $1 IS NOT NULL'),
	('discards', 'DISCARD TEMP', 'SELECT 0 WHERE $1 IS NOT NULL'),
	('leaky operator', $$CREATE FUNCTION pg_temp.peek(t text) RETURNS boolean LANGUAGE plpgsql COST 0.0001 AS 'BEGIN RAISE NOTICE ''peeked at %'', t; RETURN true; END'$$,
		'SELECT count(*) FROM scope_test.account WHERE pg_temp.peek(secret) AND tenant_id <> $1'),
	('emits for another', NULL, $$SELECT length(sentinai.emit(ROW('c1', 'ScopeTry', 'scope_c', NULL, now(), NULL, 1, '{}', NULL)::sentinai.event, 'ScopeAll', '{}')) WHERE $1 IS NOT NULL$$),
	('fails another', NULL, $$SELECT length(sentinai.fail(ROW('c1', 'ScopeTry', 'scope_c', NULL, now(), NULL, 1, '{}', NULL)::sentinai.event, 'x', 'y')::text) WHERE $1 IS NOT NULL$$),
	('log', NULL, 'SELECT count(*) FROM sentinai.event_log WHERE tenant_id <> $1'),
	('dead letters', NULL, 'SELECT count(*) FROM sentinai.dlq_list() WHERE tenant_id <> $1'),
	('consumes', $$SELECT sentinai.consume('scope', 'scope', '{}'::sentinai.record[])$$, 'SELECT 0 WHERE $1 IS NOT NULL'),
	('binds its role', $$SELECT sentinai.tenant_role_add('sentinai_tenant_handler', '*')$$, 'SELECT 0 WHERE $1 IS NOT NULL'),
	('own limit', NULL, 'SELECT sentinai.rate_limit_allowed($1, ''api_requests'')'),
	('limit of another', NULL, 'SELECT sentinai.rate_limit_allowed(''scope_c'', ''api_requests'') WHERE $1 IS NOT NULL'),
	('limits of another', NULL, 'SELECT allowed FROM sentinai.rate_limit_check_all(''scope_c'', ''{api_requests}'') WHERE $1 IS NOT NULL'),
	('limits of several', NULL, 'SELECT count(*) FROM sentinai.rate_limit_check_batch(ARRAY[$1, ''scope_c''], ''api_requests'')'),
	('looks at another''s', NULL, 'SELECT allowed FROM sentinai.rate_limit_peek(''scope_c'', ''api_requests'') WHERE $1 IS NOT NULL'),
	('gives back for another', NULL, 'SELECT length(sentinai.rate_limit_refund(''scope_c'', ''api_requests'')::text) WHERE $1 IS NOT NULL'),
	('no such tenant', NULL, 'SELECT sentinai.rate_limit_allowed(''scope_none'', ''api_requests'') WHERE $1 IS NOT NULL'),
	('own usage', NULL, 'SELECT length(sentinai.usage_record($1, ''tool_executions'')::text)'),
	('usage of another', NULL, 'SELECT length(sentinai.usage_record(''scope_c'', ''tool_executions'')::text) WHERE $1 IS NOT NULL'),
	('usage of several', NULL, $$SELECT length(sentinai.usage_record_batch(ARRAY[$1, 'scope_c'], 'tool_executions', ARRAY['', ''], ARRAY[1, 1])::text)$$),
	('key of another', NULL, 'SELECT state FROM sentinai.idempotency_begin(''scope_c'', ''s'', ''k'', ''{}'', lease => ''1 min'') WHERE $1 IS NOT NULL'),
	('answers another''s', NULL, 'SELECT sentinai.idempotency_complete(''scope_c'', ''s'', ''k'', ''{}'') WHERE $1 IS NOT NULL'),
	('exceptions', NULL, 'SELECT count(*) FROM sentinai.exceptions WHERE tenant_id <> $1'),
	('own exceptions', NULL, 'SELECT count(*) FROM sentinai.exceptions WHERE tenant_id = $1'),
	('payload of another', NULL, 'SELECT count(*) FROM sentinai.dlq_payloads(''{1,2,3}'') WHERE $1 IS NOT NULL'),
	('tells who it is', NULL, 'SELECT sentinai.caller_sees_all() OR sentinai.current_tenant() IS DISTINCT FROM $1'),
	('statistics', NULL, $$SELECT count(*) FROM pg_stats WHERE schemaname = 'scope_test' AND tablename = 'account' AND $1 IS NOT NULL$$),
	('other sessions', NULL, 'SELECT count(*) FROM pg_stat_activity WHERE query LIKE ''%scope%'' AND $1 IS NOT NULL'),
	-- What one tenant's call leaves, the next one's finds: nothing.
	('left: cursor', NULL, 'SELECT count(*) FROM pg_cursors WHERE name = ''left_cursor'' AND $1 IS NOT NULL'),
	('left: table', NULL, 'SELECT count(*) FROM pg_class WHERE relname = ''left_table'' AND $1 IS NOT NULL'),
	('left: view', NULL, 'SELECT count(*) FROM pg_class WHERE relname = ''left_view'' AND $1 IS NOT NULL'),
	('left: sequence', NULL, 'SELECT count(*) FROM pg_class WHERE relname = ''left_sequence'' AND $1 IS NOT NULL'),
	('left: function', NULL, 'SELECT count(*) FROM pg_proc WHERE proname = ''left_function'' AND $1 IS NOT NULL'),
	('left: type', NULL, 'SELECT count(*) FROM pg_type WHERE typname = ''left_type'' AND $1 IS NOT NULL'),
	('left: setting', NULL, 'SELECT count(*) WHERE current_setting(''scope.left'', true) <> '''' AND $1 IS NOT NULL');
ANALYZE scope_test.account;

CREATE FUNCTION scope_test.try(events sentinai.event[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	me		text := sentinai.current_tenant();
	trick	record;
	outcome	text;
	c		refcursor := 'left_cursor';
BEGIN
	INSERT INTO scope_test.log (trick, outcome) VALUES ('call', (SELECT string_agg(e.tenant_id || '/' || e.event_id, ' ') FROM unnest(events) e)
		|| ' as ' || current_user);
	FOR trick IN SELECT * FROM scope_test.trick ORDER BY n LOOP
		BEGIN
			IF trick.before IS NOT NULL THEN
				EXECUTE trick.before;
			END IF;
			EXECUTE trick.command INTO outcome USING me;
			RAISE EXCEPTION USING ERRCODE = 'SN999', MESSAGE = coalesce(outcome, 'nothing');
		EXCEPTION WHEN OTHERS THEN
			-- What was tried is undone: the next trick begins anew. What it got is in the message.
			-- (GRANT has said it in other words since 16.)
			outcome := CASE WHEN SQLSTATE = 'SN999' THEN SQLERRM WHEN trick.name = 'grant' THEN SQLSTATE ELSE SQLSTATE || ' ' || SQLERRM END;
		END;
		INSERT INTO scope_test.log (trick, outcome) VALUES (trick.name, outcome);
	END LOOP;
	OPEN c FOR SELECT secret FROM scope_test.account;
	CREATE TEMP TABLE left_table AS SELECT secret FROM scope_test.account;
	CREATE TEMP VIEW left_view AS SELECT secret FROM left_table;
	CREATE TEMP SEQUENCE left_sequence;
	EXECUTE format('CREATE FUNCTION pg_temp.left_function() RETURNS text LANGUAGE sql AS %L', format('SELECT %L', (SELECT secret FROM left_table)));
	CREATE DOMAIN pg_temp.left_type AS text;
	PERFORM set_config('scope.left', (SELECT secret FROM left_table), false);
	PERFORM set_config('sentinai.tenant_id', 'scope_c', false);
END $$;
-- Triggers that are deferred to the end of the slice fire for the tenant that has deferred them; they try, too.
CREATE FUNCTION scope_test.late() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
	role text := 'not tried';
BEGIN
	BEGIN
		RESET ROLE;
	EXCEPTION WHEN OTHERS THEN
		role := SQLSTATE;
	END;
	PERFORM set_config('sentinai.tenant_id', 'scope_c', false), set_config('scope.late', NEW.tenant_id, false);
	INSERT INTO scope_test.log (trick, outcome) SELECT 'deferred trigger', format('row of %s, sees %s, %s', NEW.tenant_id, count(*), role)
	  FROM scope_test.account;
	RETURN NULL;
END $$;
GRANT EXECUTE ON FUNCTION scope_test.late, scope_test.try TO sentinai_tenant_handler;
CREATE CONSTRAINT TRIGGER late AFTER INSERT ON scope_test.log DEFERRABLE INITIALLY DEFERRED
	FOR EACH ROW WHEN (NEW.trick = 'call') EXECUTE FUNCTION scope_test.late();

SELECT handler_add('scope', 'ScopeTry', 'scope_test.try', scope => 'tenant');
-- Where an admin grants tables of ours, their own row security does the same.
GRANT SELECT ON exceptions TO sentinai_tenant_handler;
INSERT INTO exceptions (tenant_id, exception_id) VALUES ('scope_a', 'X'), ('scope_b', 'X'), ('scope_c', 'X');
CREATE TABLE before AS SELECT * FROM scope_test.account;
-- In the same batch, even with the keys of one tenant in the other's.
SELECT pg_temp.send('scope_a a1 ScopeTry E', 'scope_b b1 ScopeTry E', 'scope_a a2 ScopeTry F', 'scope_b b2 ScopeTry E');
SELECT tenant_id, trick, outcome FROM scope_test.log WHERE tenant_id = 'scope_a' AND trick NOT LIKE 'left:%' ORDER BY n;
-- The second tenant's call got the same, and nothing that the first one's has left.
SELECT trick, outcome FROM scope_test.log WHERE tenant_id = 'scope_b' EXCEPT SELECT trick, replace(outcome, 'scope_a', 'scope_b') FROM scope_test.log
 WHERE tenant_id = 'scope_a' ORDER BY 1;
SELECT DISTINCT outcome FROM scope_test.log WHERE trick LIKE 'left:%';
SELECT * FROM scope_test.account EXCEPT SELECT * FROM before;
SELECT count(*) FROM scope_test.account;
-- Nor does the session keep any of it.
SELECT count(*) FROM pg_cursors WHERE name = 'left_cursor';
SELECT count(*) FROM pg_class WHERE relname LIKE 'left\_%';
SELECT current_setting('scope.left', true), current_setting('scope.late', true), current_setting('sentinai.tenant_id'), current_tenant();
SELECT count(*) FROM pg_proc WHERE proname = 'left_function';

--
-- One tenant's failure is its own
--
CREATE FUNCTION scope_test.set(events sentinai.event[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO scope_test.log (trick, outcome) SELECT 'set', string_agg(e.event_id, ' ' ORDER BY place)
	  FROM unnest(events) WITH ORDINALITY e (event_id, event_type, tenant_id, exception_id, "timestamp", correlation_id, version, payload, metadata, place);
	IF EXISTS (SELECT FROM unnest(events) e WHERE e.event_id LIKE 'bad%') THEN
		RAISE EXCEPTION 'bad one of %', sentinai.current_tenant();
	END IF;
	PERFORM sentinai.fail(e, 'not_today', 'later') FROM unnest(events) e WHERE e.event_id LIKE 'named%';
	PERFORM sentinai.emit(e, 'ScopePlain', '{}', topic => 'elsewhere') FROM unnest(events) e;
END $$;
CREATE FUNCTION scope_test.plain(e sentinai.event) RETURNS void LANGUAGE sql AS
	$$INSERT INTO scope_test.log (trick, outcome) VALUES ('plain', e.event_id)$$;
CREATE TABLE scope_test.all_of_them (events text, tenant text);
CREATE FUNCTION scope_test.everybody(events sentinai.event[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF EXISTS (SELECT FROM unnest(events) e WHERE e.event_id LIKE 'bad%') THEN
		RAISE EXCEPTION 'bad one of everybody''s';
	END IF;
	INSERT INTO scope_test.all_of_them SELECT string_agg(e.tenant_id || '/' || e.event_id, ' '), coalesce(sentinai.current_tenant(), 'none') FROM unnest(events) e;
END $$;
GRANT INSERT ON scope_test.all_of_them TO sentinai_handler;
GRANT EXECUTE ON FUNCTION sentinai.current_tenant TO sentinai_handler;
SELECT handler_add('scope', 'ScopeSet', 'scope_test.set', scope => 'tenant'), handler_add('scope', 'ScopePlain', 'scope_test.plain', scope => 'tenant'),
	handler_add('scope', 'ScopeAll', 'scope_test.everybody');
TRUNCATE scope_test.log;
SELECT pg_temp.send('scope_a s1 ScopeSet', 'scope_b s2 ScopeSet', 'scope_a s3 ScopeSet', 'scope_b bad4 ScopeSet', 'scope_c s5 ScopeSet', 'scope_b s6 ScopeSet');
SELECT tenant_id, outcome FROM scope_test.log WHERE trick = 'set' ORDER BY n;
SELECT tenant_id, event_id, status, error_message FROM event_pending WHERE worker_type = 'scope' ORDER BY 1, 2;
TRUNCATE scope_test.log;
-- Named by fail(): the others run again without it.
SELECT pg_temp.send('scope_a t1 ScopeSet', 'scope_b named2 ScopeSet K', 'scope_b t3 ScopeSet K', 'scope_a t4 ScopeSet');
SELECT tenant_id, outcome FROM scope_test.log WHERE trick = 'set' ORDER BY n;
DELETE FROM event_pending WHERE worker_type = 'scope';
DELETE FROM key_state WHERE worker_type = 'scope';
TRUNCATE scope_test.log;

-- What one slice has left is gone when the next one begins: here the batch is cut behind w2.
SELECT pg_temp.send('scope_c w1 ScopeAll', 'scope_a w2 ScopeTry', 'scope_b w3 ScopeTry', 'scope_c bad5 ScopeAll');
SELECT tenant_id, outcome FROM scope_test.log WHERE trick = 'call' ORDER BY n;
SELECT DISTINCT outcome FROM scope_test.log WHERE trick LIKE 'left:%';
SELECT * FROM scope_test.all_of_them;
DELETE FROM event_pending WHERE worker_type = 'scope';
DELETE FROM scope_test.all_of_them;
TRUNCATE scope_test.log;

--
-- In order per exception, with other handlers' events in between
--
SELECT pg_temp.send('scope_a u1 ScopePlain K', 'scope_b u2 ScopePlain K', 'scope_a u3 ScopeAll K', 'scope_b u4 ScopeAll K', 'scope_a u5 ScopeSet K',
	'scope_b u6 ScopePlain L', 'scope_a u7 ScopePlain K', 'scope_c u8 ScopeAll');
SELECT tenant_id, trick, outcome FROM scope_test.log ORDER BY n;
SELECT * FROM scope_test.all_of_them;

--
-- A rehearsal holds the tenant, too
--
TRUNCATE scope_test.log;
CREATE OR REPLACE FUNCTION scope_test.plain(e sentinai.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	RAISE EXCEPTION '% sees %', sentinai.current_tenant(), (SELECT string_agg(tenant_id, ' ') FROM scope_test.account);
END $$;
SELECT retry_policy_set(worker_type => 'scope', max_retries => 0) IS NOT NULL;
SELECT pg_temp.send('scope_a v1 ScopePlain', 'scope_b v2 ScopePlain');
SELECT tenant_id, error_message FROM dead_letter_queue WHERE worker_type = 'scope' ORDER BY 1;
SELECT would_succeed, error_message FROM dlq_rehearse('scope_a');

--
-- What an admin has left open
--
SELECT object, problem FROM tenant_scope_holes() WHERE object LIKE 'scope_test.%' ORDER BY 1, 2;
ALTER TABLE scope_test.account NO FORCE ROW LEVEL SECURITY;
CREATE POLICY open ON scope_test.account FOR SELECT USING (id <> '');
CREATE VIEW scope_test.seen AS SELECT * FROM scope_test.account;
CREATE MATERIALIZED VIEW scope_test.kept AS SELECT * FROM scope_test.account;
GRANT SELECT ON scope_test.seen, scope_test.kept TO sentinai_tenant_handler;
GRANT TRUNCATE ON scope_test.account TO sentinai_tenant_handler;
SELECT object, problem, mend FROM tenant_scope_holes() WHERE object LIKE 'scope_test.%' ORDER BY 1, 2;

SELECT handler_remove('scope', t) FROM unnest(ARRAY['ScopeTry', 'ScopePlain', 'ScopeSet', 'ScopeAll']) t;
REVOKE SELECT ON exceptions FROM sentinai_tenant_handler;
DELETE FROM exceptions WHERE tenant_id LIKE 'scope\__';
SET client_min_messages = warning;
DROP SCHEMA scope_test CASCADE;
DROP TABLE before;
DELETE FROM dead_letter_queue WHERE worker_type = 'scope';
DELETE FROM retry_policy_override WHERE worker_type = 'scope';
REVOKE ALL ON FUNCTION sentinai.current_tenant FROM regress_scope_owner;
REVOKE ALL ON SCHEMA sentinai FROM regress_scope_owner;
REVOKE ALL ON TYPE sentinai.event FROM regress_scope_owner;
DROP ROLE regress_scope_owner, regress_scope_bypass;
