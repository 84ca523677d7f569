-- caller: who asks, for which tenant, and what a session can't talk itself into
SET search_path = sentinai, public;
\set SHOW_CONTEXT never

CREATE FUNCTION pg_temp.refused(statement text) RETURNS TABLE (code text, message text, hint text)
	LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE statement;
	RETURN QUERY SELECT 'none', 'it was not refused', NULL;
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT, hint = PG_EXCEPTION_HINT;
	RETURN NEXT;
END $$;
GRANT EXECUTE ON FUNCTION pg_temp.refused(text) TO PUBLIC;

SELECT tenant_add('CALL_A'), tenant_add('CALL_B'), tenant_add('CALL_C');
CREATE ROLE regress_call_a IN ROLE sentinai_operator;
CREATE ROLE regress_call_b IN ROLE sentinai_viewer;
CREATE ROLE regress_call_several IN ROLE sentinai_viewer;
CREATE ROLE regress_call_staff IN ROLE sentinai_viewer;
CREATE ROLE regress_call_none IN ROLE sentinai_viewer;
CREATE ROLE regress_call_admin IN ROLE sentinai_admin;
CREATE ROLE regress_call_later NOINHERIT IN ROLE sentinai_admin;
CREATE ROLE authenticator NOINHERIT IN ROLE sentinai_admin, sentinai_operator, sentinai_anon, regress_call_a, regress_call_several;

SELECT tenant_role_add('regress_call_a', 'CALL_A'), tenant_role_add('regress_call_b', 'CALL_B'),
	tenant_role_add('regress_call_several', 'CALL_A'), tenant_role_add('regress_call_several', 'CALL_B'),
	tenant_role_add('regress_call_staff', '*');
-- once more changes nothing
SELECT tenant_role_add('regress_call_a', 'CALL_A');
SELECT role_name, tenant_id, role_exists, created_by = session_user AS by_us FROM tenant_role_list();

\x
SELECT * FROM pg_temp.refused($$ SELECT tenant_role_add('regress_call_nobody', 'CALL_A') $$);
SELECT * FROM pg_temp.refused($$ SELECT tenant_role_add(NULL, 'CALL_A') $$);
SELECT * FROM pg_temp.refused($$ SELECT tenant_role_add('regress_call_a', 'CALL_NONE') $$);
SELECT * FROM pg_temp.refused($$ SELECT tenant_role_add('regress_call_a', NULL) $$);
SELECT * FROM pg_temp.refused($$ SELECT tenant_role_add('authenticator', 'CALL_A') $$);
SELECT * FROM pg_temp.refused($$ SET sentinai.tenant_id = 'not a tenant' $$);
\x

CREATE VIEW pg_temp.me AS
	SELECT caller_role(), caller_identity(), current_tenant(), caller_sees_all(),
		   tenant_visible('CALL_A') AS sees_a, tenant_visible('CALL_B') AS sees_b, tenant_visible('') AS sees_unowned, tenant_visible(NULL) AS sees_null;
GRANT SELECT ON pg_temp.me TO PUBLIC;
CREATE FUNCTION pg_temp.who_in_definer() RETURNS TABLE (who name, tenant text, sees_all boolean)
	LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS 'SELECT sentinai.caller_role(), sentinai.current_tenant(), sentinai.caller_sees_all()';
GRANT EXECUTE ON FUNCTION pg_temp.who_in_definer() TO PUBLIC;

-- whoever is admin sees all, and has a tenant only where one was chosen
SELECT caller_role() = session_user AS is_us, current_tenant(), caller_sees_all(), tenant_check('CALL_A'), tenant_check(NULL), tenant_check('CALL_NONE');
SET SESSION AUTHORIZATION regress_call_admin;
SELECT * FROM pg_temp.me;
SET sentinai.tenant_id = 'CALL_B';
SELECT current_tenant(), caller_sees_all(), tenant_check(NULL);
RESET sentinai.tenant_id;
-- one that has to SET ROLE first is none before
SET SESSION AUTHORIZATION regress_call_later;
SELECT * FROM pg_temp.who_in_definer();
SET ROLE sentinai_admin;
SELECT * FROM pg_temp.me;
RESET SESSION AUTHORIZATION;

-- a role that is bound to one tenant has that one, whatever it sets
SET SESSION AUTHORIZATION regress_call_a;
SELECT * FROM pg_temp.me;
SELECT * FROM pg_temp.who_in_definer();
SELECT tenant_check('CALL_A'), tenant_check(NULL);
SET sentinai.tenant_id = 'CALL_B';
SET request.jwt.claims = '{"tenant_id": "CALL_B", "role": "sentinai_admin", "sub": "eve"}';
SET request.jwt.claim.tenant_id = 'CALL_B';
SELECT * FROM pg_temp.me;
-- the same answer for a tenant that is there and for one that isn't
\x
SELECT * FROM pg_temp.refused($$ SELECT tenant_check('CALL_B') $$);
SELECT * FROM pg_temp.refused($$ SELECT tenant_check('CALL_NONE') $$);
SELECT * FROM pg_temp.refused($$ SELECT tenant_check('') $$);
\x
SELECT length(message) FROM pg_temp.refused(format($$ SELECT tenant_check(%L) $$, repeat('ü', 5000)));
-- SET ROLE to a role that it is a member of doesn't lead out of it
SET ROLE sentinai_viewer;
SELECT * FROM pg_temp.me;
SET ROLE regress_call_b;
RESET SESSION AUTHORIZATION;
RESET ALL;
SET search_path = sentinai, public;

-- one without a tenant sees none
SET SESSION AUTHORIZATION regress_call_none;
SET sentinai.tenant_id = 'CALL_B';
SET request.jwt.claims = '{"tenant_id": "CALL_B"}';
SELECT * FROM pg_temp.me;
\x
SELECT * FROM pg_temp.refused($$ SELECT tenant_check(NULL) $$);
\x
RESET SESSION AUTHORIZATION;
RESET ALL;
SET search_path = sentinai, public;

-- one that is bound to several has none until it chooses one of them, and one that is bound to all chooses any
SET SESSION AUTHORIZATION regress_call_several;
SELECT current_tenant();
SET sentinai.tenant_id = 'CALL_B';
SELECT current_tenant();
SET sentinai.tenant_id = 'CALL_C';
SELECT current_tenant();
RESET SESSION AUTHORIZATION;
SET SESSION AUTHORIZATION regress_call_staff;
SELECT current_tenant();
RESET sentinai.tenant_id;
SELECT current_tenant(), caller_sees_all();
-- by name, that is; rows are those of the one that is chosen
SELECT tenant_check('CALL_A'), tenant_visible('CALL_A');
RESET SESSION AUTHORIZATION;

-- an admin looks at what a viewer of a tenant sees
SET ROLE sentinai_viewer;
SELECT current_tenant(), caller_sees_all();
SET sentinai.tenant_id = 'CALL_C';
SELECT current_tenant(), caller_sees_all();
RESET ROLE;
RESET sentinai.tenant_id;

-- the authenticator's requests: the claim says which, but a role's binding comes first
SET SESSION AUTHORIZATION authenticator;
SELECT * FROM pg_temp.who_in_definer();
BEGIN;
SET LOCAL ROLE sentinai_operator;
SET LOCAL request.jwt.claims = '{"role": "sentinai_operator", "tenant_id": "CALL_A", "sub": "alice"}';
SELECT * FROM pg_temp.me;
SELECT * FROM pg_temp.who_in_definer();
SET LOCAL request.jwt.claims = '{"role": "sentinai_operator", "tenant_id": "CALL_B"}';
SELECT * FROM pg_temp.me;
-- a sub that could not be written down is nobody's, not the role's
\x
SELECT r.* FROM unnest(ARRAY[format('"%s"', repeat('x', 256)), '"x", "deep": ' || repeat('[', 128) || repeat(']', 128),
														'7', '{"sub": "x"}', '[]']) s,
	LATERAL (SELECT set_config('request.jwt.claims', format('{"role": "sentinai_operator", "tenant_id": "CALL_B", "sub": %s}', s), true)) c (set),
	LATERAL pg_temp.refused(format('SELECT caller_identity() /* %s */', left(set, 0))) r;
\x
SET LOCAL ROLE regress_call_a;
SELECT caller_role(), current_tenant();
SET LOCAL ROLE regress_call_several;
SELECT caller_role(), current_tenant();
SET LOCAL request.jwt.claims = '{"tenant_id": "CALL_C"}';
SELECT caller_role(), current_tenant();
SET LOCAL ROLE sentinai_admin;
SELECT caller_role(), current_tenant(), caller_sees_all();
COMMIT;
SELECT * FROM pg_temp.who_in_definer();
-- what is no claim of a tenant is none
SET ROLE sentinai_operator;
CREATE FUNCTION pg_temp.tenant_of(claims text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	PERFORM set_config('request.jwt.claims', $1, false);
	RETURN sentinai.current_tenant();
END $$;
SELECT claims, pg_temp.tenant_of(claims) FROM unnest(ARRAY[
	'', '{}', '{"tenant_id": "CALL_A"}', '{"tenant_id": null}', '{"tenant_id": ["CALL_A"]}', '{"tenant_id": {"tenant_id": "CALL_A"}}',
	'{"x": {"tenant_id": "CALL_A"}}', '[{"tenant_id": "CALL_A"}]', '{"tenant_id": 1}', '{"tenant_id": "CALL_A"', 'CALL_A', '"CALL_A"',
	'{"tenant_id": ""}', '{"tenant_id": "*"}', '{"tenant_id": "CALL A"}', '{"tenant_id": "CALL_\u0041"}', '{"tenant_id": "CALL_A\u0000"}',
	'{"tenant_id": "CALL_A", "tenant_id": "CALL_B"}', '{"tenant_id": "CALL_A", "tenant_id": null}', '{"TENANT_ID": "CALL_A"}',
	format('{"tenant_id": "%s"}', repeat('x', 65)), '{"sub": "x", "tenant_id": "CALL_B", "y": [{"sub": 1}]}']) AS claims;
RESET SESSION AUTHORIZATION;
RESET ALL;
SET search_path = sentinai, public;

-- a binding counts from the next statement on, prepared plans included, and is gone with a rollback
PREPARE mine AS SELECT current_tenant(), tenant_visible('CALL_A') AS sees_a;
SET ROLE regress_call_none;
EXECUTE mine;
RESET ROLE;
BEGIN;
SELECT tenant_role_add('regress_call_none', 'CALL_A');
SET LOCAL ROLE regress_call_none;
EXECUTE mine;
ROLLBACK;
SET ROLE regress_call_none;
EXECUTE mine;
RESET ROLE;
SELECT tenant_role_add('regress_call_none', 'CALL_A');
SET ROLE regress_call_none;
EXECUTE mine;
RESET ROLE;
-- made an admin, and no more
GRANT sentinai_admin TO regress_call_none;
SET ROLE regress_call_none;
SELECT caller_sees_all();
RESET ROLE;
REVOKE sentinai_admin FROM regress_call_none;
SET ROLE regress_call_none;
SELECT caller_sees_all();
RESET ROLE;
SELECT tenant_role_remove('regress_call_none', 'CALL_A'), tenant_role_remove('regress_call_none', 'CALL_A');
SET ROLE regress_call_none;
EXECUTE mine;
RESET ROLE;
-- by hand as well
UPDATE tenant_role SET tenant_id = 'CALL_C' WHERE role_name = 'regress_call_a';
SET ROLE regress_call_a;
EXECUTE mine;
RESET ROLE;

-- code of a table's owner that runs in the session of whoever maintains the table has no tenant and sees nothing
CREATE SCHEMA regress_call AUTHORIZATION regress_call_b;
SET ROLE regress_call_b;
CREATE TABLE regress_call.seen (who name, tenant text, sees_all boolean);
CREATE TABLE regress_call.trap (n integer);
CREATE FUNCTION regress_call.note() RETURNS void LANGUAGE sql
	AS 'INSERT INTO regress_call.seen SELECT sentinai.caller_role(), sentinai.current_tenant(), sentinai.caller_sees_all()';
CREATE FUNCTION regress_call.look(n integer) RETURNS integer LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	PERFORM regress_call.note();
	RETURN n;
END $$;
INSERT INTO regress_call.trap VALUES (1);
CREATE INDEX ON regress_call.trap (regress_call.look(n));
DELETE FROM regress_call.seen;
RESET ROLE;
ANALYZE regress_call.trap;
SELECT DISTINCT who = session_user AS as_us, tenant, sees_all FROM regress_call.seen;

-- COPY obeys row security as SELECT does, and doesn't write past it
INSERT INTO exceptions (tenant_id, exception_id) VALUES ('CALL_B', 'CALL_EXC_B'), ('CALL_C', 'CALL_EXC_C');
SET ROLE regress_call_b;
COPY exceptions (tenant_id, exception_id) TO STDOUT;
COPY (SELECT tenant_id, exception_id FROM exception) TO STDOUT;
\copy exceptions (tenant_id, exception_id) FROM PROGRAM 'true'
RESET ROLE;
DELETE FROM exceptions WHERE exception_id ~ '^CALL_';

-- a reason has at most 1,000 characters, wherever one is given
SELECT reason_check(repeat('ü', 1000)), reason_check(NULL), reason_check('');
SELECT c AS call, r.code, r.message
  FROM unnest(ARRAY['dlq_retry(1, %L)', 'dlq_retry_batch(ARRAY[1], %L)', 'dlq_replay(''CALL_A'', %L)', 'dlq_discard(1, %L)', 'dlq_reassign(1, ''CALL_A'', %L)',
	'tenant_suspend(''CALL_A'', %L)', 'tenant_resume(''CALL_A'', %L)', 'tenant_archive(''CALL_A'', %L)',
	'circuit_open(''intake'', ''ExceptionIngested'', NULL, %L)', 'offset_reset(''g'', ''t'', NULL, NULL, true, %L)', 'outbox_failed_discard(1, %L)',
	'rate_limit_set(''CALL_A'', ''api_requests'', 1, 60, true, %L)', 'rate_limit_delete(''CALL_A'', ''api_requests'', %L)',
	'rate_limit_reset(''CALL_A'', ''api_requests'', %L)', 'rate_limit_type_set(''api_requests'', 1, 60, true, ''open'', %L)',
	'usage_correct(''CALL_A'', ''events'', ''r'', now() - interval ''1 hour'', 1, %L)', 'usage_close(date_trunc(''day'', now(), ''UTC''), %L)',
	'legal_hold_add(''CALL_A'', %L)', 'legal_hold_release(1, %L)', 'report_note(NULL, ''cancel'', %L, NULL)', 'subject_erase(''CALL_A'', ''EXC_1'', %L)']) c,
	LATERAL pg_temp.refused(format('SELECT sentinai.' || c, repeat('ü', 1001))) r;
\x
SELECT * FROM pg_temp.refused($$ SELECT legal_hold_add('CALL_A', E' \t\n') $$);
\x

DROP SCHEMA regress_call CASCADE;
-- the roles go, the bindings stay until they are taken away
DROP OWNED BY regress_call_a, regress_call_b, regress_call_several, regress_call_staff, regress_call_none, regress_call_admin, regress_call_later, authenticator;
DROP ROLE regress_call_a, regress_call_b, regress_call_several, regress_call_staff, regress_call_none, regress_call_admin, regress_call_later, authenticator;
SELECT role_name, tenant_id, role_exists FROM tenant_role_list();
SELECT bool_and(tenant_role_remove(role_name, tenant_id)) FROM tenant_role_list();
SELECT count(*) FROM tenant_role;
