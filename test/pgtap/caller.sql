-- caller: one tenant asks for another's. Every table, view and function that a tenant may reach is tried, by the catalogue, so
-- that none that is added later is forgotten: whoever adds one sees here that it needs a row, or an argument, to be tried with.
\set ON_ERROR_STOP on
\pset format unaligned
\pset tuples_only on
BEGIN;
SELECT no_plan();
GRANT USAGE ON SCHEMA tap TO PUBLIC;
SET LOCAL client_min_messages = warning;

-- SEC_A is asked about, SEC_B asks, SEC_X is nobody.
SELECT tenant_add('SEC_A'), tenant_add('SEC_B') AS ignored \gset
CREATE ROLE regress_sec_a IN ROLE sentinai_operator, sentinai_payload, sentinai_tenant_handler;
CREATE ROLE regress_sec_b IN ROLE sentinai_operator, sentinai_payload, sentinai_tenant_handler;
CREATE ROLE regress_sec_none IN ROLE sentinai_operator, sentinai_payload, sentinai_tenant_handler;
SELECT tenant_role_add('regress_sec_a', 'SEC_A'), tenant_role_add('regress_sec_b', 'SEC_B') AS ignored \gset

-- ---- a row of SEC_A and one of SEC_B in every table of tenants' rows. What is text says whose it is.

CREATE TEMP TABLE said (name text PRIMARY KEY, value text);
INSERT INTO said VALUES
	('step', 'handle'), ('event_pending.status', 'retrying'), ('event_processing_log.status', 'failed'), ('reason', 'failures'),
	('format', 'csv'), ('dlq_history.action', 'retry'), ('report_history.action', 'status'), ('rate_limit_history.action', 'set'),
	('change_type', 'tool'), ('actor_type', 'user'), ('requested_by_actor_type', 'user'), ('level', 'minute'),
	('worker_type', 'intake'), ('event_type', 'ExceptionIngested'), ('limit_type', 'api_requests'), ('metric_type', 'events'),
	('report_type', 'exception_activity'), ('audit_report.status', 'completed'), ('requested_role', 'sentinai_operator'),
	('after_dead_letter', 'continue'), ('topic', 'exceptions'), ('original_topic', 'exceptions'),
	('error', 'MSG_SIZE_TOO_LARGE'), ('legal_hold.period_from', '2025-01-01'), ('max_retries', '3'), ('factor', '2'), ('jitter', '0'), ('from_status', 'active'), ('to_status', 'active');
INSERT INTO said SELECT 'generation', newest::text FROM dedupe_state;

CREATE FUNCTION pg_temp.value_of(relation text, attribute text, type regtype, tenant text) RETURNS text LANGUAGE sql AS $$
	SELECT coalesce((SELECT s.value FROM said s WHERE s.name IN ($2, $1 || '.' || $2) ORDER BY length(s.name) DESC LIMIT 1),
		CASE WHEN $2 = 'tenant_id' THEN $4
			 WHEN $3 IN ('text'::regtype, 'name') THEN $4 || '-' || $2
			 WHEN $3 = 'jsonb'::regtype THEN format('{"whose": "%s-%s"}', $4, $2)
			 WHEN $3 = 'uuid'::regtype THEN overlay('00000000-0000-0000-0000-000000000000' PLACING CASE $4 WHEN 'SEC_A' THEN 'a' ELSE 'b' END FROM 36)
			 WHEN $3 = 'bytea'::regtype THEN '\x' || encode(convert_to($4 || '-' || $2, 'UTF8'), 'hex')
			 WHEN $3 = 'timestamptz'::regtype THEN now()::text
			 WHEN $3 = 'interval'::regtype THEN '1 min'
			 WHEN $3 = 'boolean'::regtype THEN 'false'
			 ELSE CASE $4 WHEN 'SEC_A' THEN '7001' ELSE '7002' END END)
$$;

-- Without triggers: a row is all that is wanted.
SET LOCAL session_replication_role = replica;
DO $$
DECLARE
	one		record;
	tenant	text;
BEGIN
	FOR one IN
		SELECT c.relname, array_agg(a.attname ORDER BY a.attnum) AS names, array_agg(a.atttypid::regtype ORDER BY a.attnum) AS types
		  FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attidentity = ''
		 WHERE c.relnamespace = 'sentinai'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
		   AND EXISTS (SELECT FROM pg_attribute t WHERE t.attrelid = c.oid AND t.attname = 'tenant_id')
		   AND c.relname NOT IN ('tenant', 'tenant_role')
		   -- What must be there, what says whose a row is, and what a payload's right adds.
		   AND (a.attname IN ('tenant_id', 'exception_id', 'event_id', 'error_message', 'error_detail', 'exception_id', 'payload', 'payload_raw', 'record_key', 'record_value', 'download_expires_at', 'file_size_bytes', 'sha256', 'row_count')
				OR (a.attnotnull AND NOT a.atthasdef) OR (c.relname, a.attname) = ('audit_report', 'status'))
		 GROUP BY 1
	LOOP
		FOREACH tenant IN ARRAY ARRAY['SEC_A', 'SEC_B'] LOOP
			EXECUTE format('INSERT INTO sentinai.%I (%s) VALUES (%s)', one.relname,
				(SELECT string_agg(quote_ident(n), ', ') FROM unnest(one.names) n),
				(SELECT string_agg(quote_literal(pg_temp.value_of(one.relname, n, t, tenant)), ', ') FROM unnest(one.names, one.types) AS u (n, t)));
		END LOOP;
	END LOOP;
END
$$;
INSERT INTO report_chunk SELECT id, 0, convert_to(tenant_id || '-data', 'UTF8') FROM audit_report WHERE tenant_id ~ '^SEC_';
UPDATE audit_report SET download_expires_at = now() + interval '1 day', period_from = now() - interval '1 day', file_size_bytes = 10 WHERE tenant_id ~ '^SEC_';
UPDATE dlq_history h SET dlq_id = d.id FROM dead_letter_queue d WHERE d.tenant_id = h.tenant_id AND d.tenant_id ~ '^SEC_';
UPDATE event_pending SET next_attempt_at = 'infinity' WHERE tenant_id ~ '^SEC_';
UPDATE report_history SET report_id = 'SEC_A-id' WHERE tenant_id = 'SEC_A';
UPDATE report_manifest SET report_id = 'SEC_A-id' WHERE tenant_id = 'SEC_A';
SET LOCAL session_replication_role = origin;
ANALYZE dead_letter_queue, event_log, exceptions;

-- ---- tables and views

-- What a role sees of a relation, in the columns that it may read.
CREATE FUNCTION pg_temp.seen(role_name text, relation regclass, pattern text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	names	text := (SELECT string_agg(quote_ident(a.attname), ', ') FROM pg_attribute a
					  WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped AND has_column_privilege(role_name, relation, a.attnum, 'SELECT'));
	n		bigint;
BEGIN
	IF names IS NULL THEN
		RETURN NULL;
	END IF;
	PERFORM set_config('role', role_name, true);
	EXECUTE format('SELECT count(*) FROM (SELECT %s FROM %s) AS t WHERE t::text ~ $1', names, relation) INTO n USING pattern;
	PERFORM set_config('role', 'none', true);
	RETURN n;
END
$$;

CREATE TEMP TABLE reached AS
	SELECT c.oid::regclass AS relation, c.relkind, EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'tenant_id') AS of_tenants,
		   pg_temp.seen('postgres', c.oid, 'SEC_A') AS there, pg_temp.seen('regress_sec_a', c.oid, 'SEC_A') AS own,
		   pg_temp.seen('regress_sec_b', c.oid, 'SEC_A') AS others, pg_temp.seen('regress_sec_none', c.oid, 'SEC_') AS nobodys,
		   pg_temp.seen('sentinai_admin', c.oid, 'SEC_A') AS admins
	  FROM pg_class c WHERE c.relnamespace IN ('sentinai'::regnamespace, 'sentinai_api'::regnamespace) AND c.relkind IN ('r', 'p', 'v', 'm');

SELECT is_empty('SELECT relation FROM reached WHERE of_tenants AND there = 0 AND relation::text !~ ''^(outbox$|event_.*_[pg]\d+$)''',
	'there is a row of SEC_A to look for in every table and view with a tenant');
SELECT is_empty('SELECT relation, others FROM reached WHERE others > 0', 'another tenant sees nothing of it, anywhere');
SELECT is_empty('SELECT relation, nobodys FROM reached WHERE nobodys > 0', 'one without a tenant sees nothing of any');
SELECT is_empty('SELECT relation FROM reached WHERE of_tenants AND own = 0 AND there > 0', 'SEC_A sees its own, wherever it may look');
SELECT is_empty('SELECT relation FROM reached WHERE admins <> there', 'the admin sees all');
SELECT ok(count(*) > 20, 'there is something to see') FROM reached WHERE own > 0;

-- Writing: what an operator may write, it writes for its own tenant.
SELECT set_eq($$
	SELECT c.oid::regclass::text, g.privilege_type FROM pg_class c, aclexplode(c.relacl) g
	 WHERE c.relnamespace IN ('sentinai'::regnamespace, 'sentinai_api'::regnamespace) AND c.relkind IN ('r', 'p', 'v')
	   AND g.grantee IN ('sentinai_operator'::regrole, 'sentinai_viewer'::regrole, 'sentinai_payload'::regrole, 'sentinai_tenant_handler'::regrole, 'sentinai_anon'::regrole)
	   AND g.privilege_type <> 'SELECT'
$$, $$ VALUES ('dead_letter_queue', 'DELETE'), ('exceptions', 'UPDATE'), ('exception', 'UPDATE') $$, 'what a tenant''s roles may write by hand');
SET ROLE regress_sec_b;
SELECT is_empty($$ DELETE FROM dead_letter_queue WHERE tenant_id = 'SEC_A' RETURNING id $$, 'no dead letter of another tenant is deleted');
SELECT is_empty($$ UPDATE exceptions SET owner = 'SEC_B' WHERE tenant_id = 'SEC_A' RETURNING exception_id $$, 'no exception of another tenant is changed');
SELECT is_empty($$ UPDATE exception SET owner = 'SEC_B' WHERE exception_id ~ 'SEC_A' RETURNING exception_id $$, 'nor by the view');
SELECT throws_ok($$ UPDATE exceptions SET tenant_id = 'SEC_A' $$, '42501', 'new row violates row-level security policy for table "exceptions"', 'none is given to another tenant');
-- By a key that the other tenant has: the refusal comes before the index is asked, and says nothing of it.
SELECT throws_ok($$ UPDATE exceptions SET tenant_id = 'SEC_A', exception_id = 'SEC_A-exception_id' $$, '42501', 'new row violates row-level security policy for table "exceptions"', 'a key that another tenant has is not said to be there');
SELECT throws_ok($$ INSERT INTO exceptions (tenant_id, exception_id) VALUES ('SEC_A', 'SEC_A-exception_id') $$, '42501', NULL, 'nothing is inserted');
SELECT throws_ok($$ TRUNCATE exceptions $$, '42501', NULL, 'nor truncated');
RESET ROLE;

-- ---- ways around

SET ROLE regress_sec_b;
-- A function of one's own in WHERE sees a row only after the policy has let it through, however cheap it says it is.
CREATE FUNCTION pg_temp.look(value text) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS $$
BEGIN
	PERFORM set_config('regress.seen', current_setting('regress.seen', true) || ' ' || coalesce(value, ''), false);
	RETURN true;
END $$;
SELECT set_config('regress.seen', '', false) AS ignored \gset
SELECT count(*) AS ignored FROM dead_letter_queue WHERE pg_temp.look(error_message) \gset
SELECT count(*) AS ignored FROM exception WHERE pg_temp.look(exception_id) \gset
SELECT count(*) AS ignored FROM event_log WHERE pg_temp.look(event_id) \gset
SELECT is(current_setting('regress.seen') ~ 'SEC_B', true, 'a function in WHERE sees the own rows');
SELECT is(current_setting('regress.seen') ~ 'SEC_A', false, 'and no others');
SELECT lives_ok($$ SELECT count(*) FROM dead_letter_queue WHERE 1 / (CASE WHEN tenant_id = 'SEC_A' THEN 0 ELSE 1 END) = 1 $$, 'nor does an error tell of them');
-- Statistics
SELECT is_empty($$ SELECT tablename FROM pg_stats WHERE schemaname = 'sentinai' AND tablename IN ('dead_letter_queue', 'exceptions') $$, 'statistics of columns are not shown');
SELECT throws_ok('SELECT * FROM pg_statistic', '42501', NULL, 'nor by their table');
SELECT throws_ok('SELECT last_value FROM dead_letter_queue_id_seq', '42501', NULL, 'sequences are not read');
-- What it sets
SET sentinai.tenant_id = 'SEC_A';
SET request.jwt.claims = '{"tenant_id": "SEC_A", "role": "sentinai_admin"}';
SET row_security = off;
SELECT throws_ok('SELECT count(*) FROM dead_letter_queue', '42501', NULL, 'row_security = off is an error, not a way');
SET row_security = on;
SELECT is((SELECT string_agg(DISTINCT tenant_id, ',') FROM dead_letter_queue), 'SEC_B', 'settings and claims change nothing');
RESET request.jwt.claims;
RESET sentinai.tenant_id;
RESET ROLE;

-- A plan that was made for one role is not used for another.
PREPARE mine AS SELECT string_agg(DISTINCT tenant_id, ',' ORDER BY tenant_id) COLLATE "default" FROM dead_letter_queue WHERE tenant_id ~ '^SEC_';
SET LOCAL plan_cache_mode = force_generic_plan;
CREATE FUNCTION pg_temp.mine() RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	RETURN (SELECT string_agg(DISTINCT tenant_id, ',' ORDER BY tenant_id) FROM sentinai.dead_letter_queue WHERE tenant_id ~ '^SEC_');
END $$;
SELECT results_eq('EXECUTE mine', $$ VALUES ('SEC_A,SEC_B') $$, 'prepared: a superuser''s');
SELECT is(pg_temp.mine(), 'SEC_A,SEC_B', 'in PL/pgSQL: a superuser''s');
SET ROLE regress_sec_a;
SELECT results_eq('EXECUTE mine', $$ VALUES ('SEC_A') $$, 'prepared: SEC_A''s');
SELECT is(pg_temp.mine(), 'SEC_A', 'in PL/pgSQL: SEC_A''s');
SET ROLE regress_sec_b;
SELECT results_eq('EXECUTE mine', $$ VALUES ('SEC_B') $$, 'prepared: SEC_B''s');
SELECT is(pg_temp.mine(), 'SEC_B', 'in PL/pgSQL: SEC_B''s');
SET ROLE regress_sec_none;
SELECT results_eq('EXECUTE mine', $$ VALUES (NULL::text) $$, 'prepared: nobody''s');
RESET ROLE;
-- What is held changes within one statement's plan, too.
SELECT tenant_role_add('regress_sec_none', 'SEC_B') AS ignored \gset
SET ROLE regress_sec_none;
SELECT results_eq('EXECUTE mine', $$ VALUES ('SEC_B') $$, 'prepared: bound meanwhile');
RESET ROLE;
SELECT tenant_role_remove('regress_sec_none', 'SEC_B') AS ignored \gset
RESET plan_cache_mode;

-- An index that begins with the tenant is used under the policy: its function is called once.
CREATE FUNCTION pg_temp.plan_of(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	line	text;
	result	text := '';
BEGIN
	FOR line IN EXECUTE 'EXPLAIN (COSTS OFF) ' || query LOOP
		result := result || line || E'\n';
	END LOOP;
	RETURN result;
END $$;
SET LOCAL enable_seqscan = off;
SET ROLE regress_sec_b;
SELECT matches(pg_temp.plan_of(q.query), '(Index|Bitmap Index|Index Only) Scan[^\n]*\n(?:[^\n]*\n)*?[^\n]*Index Cond: [^\n]*tenant_id = \$\d', 'the tenant''s index: ' || q.query)
  FROM (VALUES ('SELECT error_message FROM dead_letter_queue WHERE status = ''pending'''),
			   ('SELECT event_id FROM event_log WHERE exception_id = ''E'''),
			   ('SELECT id FROM audit_report')) AS q (query);
SELECT doesnt_match(pg_temp.plan_of('SELECT error_message FROM dead_letter_queue'), 'Filter: [^\n]*current_tenant', 'current_tenant() is called once a statement');
RESET ROLE;
SET ROLE sentinai_platform;
SELECT doesnt_match(pg_temp.plan_of('SELECT exception_id FROM exceptions'), 'Filter|InitPlan|SubPlan', 'handlers of ours don''t pay for policies');
RESET ROLE;
SET LOCAL enable_seqscan = on;

-- ---- functions

-- Who may be asked: what a tenant's roles may call.
CREATE TEMP TABLE called AS
	SELECT p.oid, p.oid::regprocedure AS signature, p.proname::text AS name, p.pronamespace::regnamespace AS schema,
		   coalesce(p.proargnames[1:p.pronargs], '{}') AS names, p.proargtypes::regtype[] AS types, p.proretset
	  FROM pg_proc p
	 WHERE p.pronamespace IN ('sentinai'::regnamespace, 'sentinai_api'::regnamespace) AND p.prokind = 'f'
	   AND p.prorettype <> 'trigger'::regtype AND has_function_privilege('regress_sec_b', p.oid, 'EXECUTE');

-- An argument, for a tenant that is there or not, as SQL.
CREATE FUNCTION pg_temp.argument(fn text, name text, type regtype, tenant text) RETURNS text LANGUAGE sql AS $$
	SELECT CASE
		WHEN $2 IN ('tenant_id', 'tenant', 'p_tenant_id', 'p_tenant') THEN quote_literal($4)
		WHEN $2 IN ('tenant_ids', 'tenants') THEN format('ARRAY[%L]', $4)
		WHEN $2 IN ('id', 'dlq_id', 'ids', 'p_id') AND $3 IN ('bigint'::regtype, 'bigint[]') THEN
			format(CASE WHEN $3 = 'bigint'::regtype THEN '%s' ELSE 'ARRAY[%s]' END, coalesce(
				CASE WHEN $1 ~ 'outbox_failed' THEN (SELECT o.id FROM sentinai.outbox_failed o WHERE o.tenant_id = $4)
					 WHEN $1 ~ 'legal_hold' THEN (SELECT h.id FROM sentinai.legal_hold h WHERE h.tenant_id = $4)
					 ELSE (SELECT d.id FROM sentinai.dead_letter_queue d WHERE d.tenant_id = $4) END, 987654321))
		WHEN $2 IN ('id', 'p_id') THEN quote_literal($4 || '-id')
		WHEN $2 IN ('exception', 'exception_id', 'p_exception_id', 'p_exception') THEN quote_literal($4 || '-exception_id')
		WHEN $2 IN ('event_id', 'p_event_id') THEN quote_literal($4 || '-event_id')
		WHEN $2 IN ('limit_type') THEN '''api_requests'''
		WHEN $2 = 'limit_types' THEN '''{api_requests}'''
		WHEN $2 = 'costs' OR $2 = 'quantities' THEN '''{1}'''
		WHEN $2 = 'resources' THEN '''{x}'''
		WHEN $2 = 'metric_type' THEN '''events'''
		WHEN $2 = 'key' THEN quote_literal($4 || '-key')
		WHEN $2 = 'scope' THEN quote_literal($4 || '-scope')
		WHEN $2 = 'token' AND $1 ~ 'idempotency' THEN 'NULL'
		WHEN $2 = 'worker_type' OR $2 = 'only_worker_type' THEN CASE WHEN $1 ~ 'circuit|retry' THEN '''intake''' ELSE 'NULL' END
		WHEN $2 = 'event_type' THEN CASE WHEN $1 ~ 'dlq' THEN 'NULL' ELSE '''ExceptionIngested''' END
		WHEN $2 = 'topic' THEN '''exceptions'''
		WHEN $2 = 'report_type' THEN '''exception_activity'''
		WHEN $2 = 'title' THEN '''a title'''
		WHEN $2 = 'format' THEN '''csv'''
		WHEN $2 = 'parameters' THEN '''{"from_date": "2025-01-01", "to_date": "2025-01-31"}'''
		WHEN $2 IN ('from', 'from_time') THEN 'date_trunc(''day'', now()) - interval ''7 days'''
		WHEN $2 IN ('to', 'to_time', 'at') THEN 'date_trunc(''day'', now()) + interval ''1 day'''
		WHEN $2 IN ('from_date', 'to_date', 'fingerprint', 'status', 'with_status', 'with_error_type', 'error_type', 'statuses', 'p_status',
					'p_fingerprint', 'p_event_type', 'p_worker_type', 'p_after', 'p_order') THEN 'DEFAULT'
		WHEN $2 IN ('skip_rows', 'p_offset') THEN '0'
		WHEN $2 = 'period' THEN '''day'''
		WHEN $2 = 'granularity' THEN '''day'''
		WHEN $2 = 'event' AND $3 = 'jsonb'::regtype THEN
			quote_literal(jsonb_build_object('event_type', 'ExceptionIngested', 'tenant_id', $4, 'exception_id', 'E', 'payload', '{}'::jsonb))
		WHEN $2 IN ('reason', 'actor', 'requested_by') THEN '''who and why'''
		WHEN $3 IN ('json'::regtype, 'jsonb'::regtype) AND $2 = '' THEN quote_literal(jsonb_build_object('tenant_id', $4,
			'id', CASE WHEN $1 ~ 'report' THEN to_jsonb($4 || '-id')
					   ELSE to_jsonb(coalesce((SELECT d.id FROM sentinai.dead_letter_queue d WHERE d.tenant_id = $4), 987654321)) END,
			'dlq_ids', jsonb_build_array(coalesce((SELECT d.id FROM sentinai.dead_letter_queue d WHERE d.tenant_id = $4), 987654321)),
			'limit_type', 'api_requests', 'worker_type', 'intake', 'event_type', 'ExceptionIngested', 'reason', 'why', 'actor', 'who'))
		WHEN $3 = 'text'::regtype THEN '''x'''
		WHEN $3 IN ('integer'::regtype, 'bigint', 'double precision', 'numeric') THEN '1'
		WHEN $3 = 'boolean'::regtype THEN 'true'
		WHEN $3 = 'interval'::regtype THEN '''1 hour'''
		WHEN $3 = 'timestamptz'::regtype THEN 'now()'
		WHEN $3 IN ('json'::regtype, 'jsonb') THEN '''{}'''
		WHEN $3 = 'bytea'::regtype THEN '''\x00'''
		WHEN $3 = 'uuid'::regtype THEN '''00000000-0000-0000-0000-000000000000'''
		WHEN $3 = 'bigint[]'::regtype THEN '''{1}'''
		WHEN $3 = 'text[]'::regtype THEN '''{x}'''
		ELSE format('NULL::%s', $3) END
$$;

-- Calls it as a role and takes back what it did. What it said: rows, or the error with all its parts.
CREATE FUNCTION pg_temp.answer(fn oid, role_name text, tenant text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	f		called;
	call	text;
	result	text;
	code	text;
	message	text;
	detail	text;
	hint	text;
BEGIN
	SELECT * INTO f FROM called c WHERE c.oid = fn;
	call := format('SELECT string_agg(r::text, E''\n'' ORDER BY r::text) FROM %s.%I(%s) AS r', f.schema, f.name, (
		SELECT string_agg(CASE WHEN a.name = '' THEN pg_temp.argument(f.name, '', a.type, tenant)
							   ELSE format('%I => %s', a.name, pg_temp.argument(f.name, a.name, a.type, tenant)) END, ', ')
		  FROM (SELECT coalesce(f.names[n], '') AS name, t AS type FROM unnest(f.types) WITH ORDINALITY AS u (t, n)) a
		 WHERE pg_temp.argument(f.name, a.name, a.type, tenant) <> 'DEFAULT'));
	PERFORM set_config('role', role_name, true);
	EXECUTE call INTO result;
	RAISE EXCEPTION USING ERRCODE = 'ZZ000', MESSAGE = coalesce('rows: ' || result, 'no rows');
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RETURN CASE WHEN code = 'ZZ000' THEN message ELSE concat_ws(' / ', code, message, detail, hint) END;
END
$$;

-- An answer without whom it was about, and without when.
CREATE FUNCTION pg_temp.plain(answer text) RETURNS text LANGUAGE sql AS $$
	SELECT regexp_replace(regexp_replace(regexp_replace($1, 'SEC_[AX]', 'SEC', 'g'),
			'\m(' || string_agg(id::text, '|') || '|987654321)\M', 'ID', 'g'),
		'\d{4}-\d\d-\d\d[ T][0-9:.]+(\+00|Z)?|[0-9a-f]{8}-[0-9a-f-]{27}', 'WHEN', 'g')
	  FROM (SELECT id FROM sentinai.dead_letter_queue WHERE tenant_id = 'SEC_A' UNION SELECT id FROM sentinai.outbox_failed WHERE tenant_id = 'SEC_A'
			UNION SELECT id FROM sentinai.legal_hold WHERE tenant_id = 'SEC_A') i
$$;

CREATE TEMP TABLE asked AS
	SELECT c.oid, c.signature, c.name, c.schema,
		   pg_temp.answer(c.oid, 'regress_sec_a', 'SEC_A') AS own,
		   pg_temp.answer(c.oid, 'regress_sec_b', 'SEC_A') AS others,
		   pg_temp.answer(c.oid, 'regress_sec_b', 'SEC_X') AS missing,
		   pg_temp.answer(c.oid, 'regress_sec_none', 'SEC_A') AS nobodys,
		   pg_temp.answer(c.oid, 'regress_sec_none', 'SEC_X') AS nobodys_missing,
		   EXISTS (SELECT FROM unnest(c.names) n WHERE n ~ '^(p_)?(tenant|tenant_id|tenant_ids|id|ids|dlq_id|exception|exception_id|event)$')
		   OR (cardinality(c.types) = 1 AND cardinality(c.names) = 0 AND 'jsonb'::regtype = ANY (c.types)) AS about_one
	  FROM called c
	 -- emit() and fail() are a handler's; a report's link is for whoever has it; api_* shape what the caller has said or seen.
	 WHERE c.name NOT IN ('emit', 'fail', 'report_download_by_token', 'report_download_head_by_token') AND NOT (c.name ~ '^api_' AND NOT (SELECT p.prosecdef FROM pg_proc p WHERE p.oid = c.oid));

SELECT is_empty($$ SELECT signature, own, others FROM asked WHERE about_one AND pg_temp.plain(own) = pg_temp.plain(missing) $$,
	'every function about a tenant, or something of one, answers SEC_A (else it is asked with arguments that try nothing)');
SELECT is_empty($$ SELECT signature, others, missing FROM asked WHERE about_one AND pg_temp.plain(others) IS DISTINCT FROM pg_temp.plain(missing) $$,
	'asked for another tenant''s, it answers as if there were none');
SELECT is_empty($$ SELECT signature, nobodys, nobodys_missing FROM asked WHERE about_one AND pg_temp.plain(nobodys) IS DISTINCT FROM pg_temp.plain(nobodys_missing) $$,
	'so it does to one without a tenant');
SELECT is_empty($$ SELECT signature, others FROM asked WHERE NOT about_one AND others ~ 'SEC_A' $$, 'lists and figures don''t name another tenant');
SELECT is_empty($$ SELECT signature, nobodys FROM asked WHERE NOT about_one AND nobodys ~ 'SEC_' $$, 'nor any to one without a tenant');
SELECT ok(count(*) > 40, 'there are functions to ask') FROM asked WHERE about_one;

SELECT * FROM finish();
ROLLBACK;
