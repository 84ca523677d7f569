-- catalog: what must hold for every object of the extension, whoever adds one. Each test lists the offenders.
\set ON_ERROR_STOP on
\pset format unaligned
\pset tuples_only on
BEGIN;
SELECT plan(45);

-- With partitions, which are made at run time and are no members of the extension.
SELECT tenant_add('CATALOG') AS ignored \gset

CREATE TEMP VIEW member AS
	SELECT d.classid, d.objid FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
	 WHERE d.refclassid = 'pg_extension'::regclass AND e.extname = 'sentinai' AND d.deptype = 'e';
CREATE TEMP VIEW relation AS
	SELECT c.* FROM pg_class c
	 WHERE c.relnamespace IN ('sentinai'::regnamespace, 'sentinai_api'::regnamespace) AND c.relkind IN ('r', 'p', 'v', 'm', 'S');
CREATE TEMP VIEW routine AS
	SELECT p.*, p.oid::regprocedure AS signature, l.lanname
	  FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
	  JOIN member m ON m.objid = p.oid AND m.classid = 'pg_proc'::regclass;

-- Comments: what it is, parameters with units, what it returns, its errors.

SELECT is_empty($$
	SELECT c.oid::regclass FROM relation c JOIN member m ON m.objid = c.oid AND m.classid = 'pg_class'::regclass
	 WHERE obj_description(c.oid, 'pg_class') IS NULL
	   AND NOT EXISTS (SELECT FROM pg_depend i WHERE i.classid = 'pg_class'::regclass AND i.objid = c.oid AND i.deptype = 'i'
					   AND i.refclassid = 'pg_class'::regclass)
$$, 'every table, view and sequence (that is no identity column''s) has a comment');

SELECT is_empty($$
	SELECT c.oid::regclass || '.' || a.attname
	  FROM relation c JOIN member m ON m.objid = c.oid AND m.classid = 'pg_class'::regclass
	  JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
	 WHERE c.relkind <> 'S' AND col_description(c.oid, a.attnum) IS NULL
$$, 'every column has a comment');

SELECT is_empty($$ SELECT signature FROM routine WHERE obj_description(oid, 'pg_proc') IS NULL $$, 'every function has a comment');

SELECT is_empty($$
	SELECT t.oid::regtype FROM pg_type t JOIN member m ON m.objid = t.oid AND m.classid = 'pg_type'::regclass
	 WHERE t.typcategory <> 'A' AND obj_description(t.oid, 'pg_type') IS NULL
$$, 'every type has a comment');

SELECT is_empty($$
	SELECT t.oid::regtype || '.' || a.attname
	  FROM pg_type t JOIN member m ON m.objid = t.oid AND m.classid = 'pg_type'::regclass
	  JOIN pg_attribute a ON a.attrelid = t.typrelid AND a.attnum > 0
	 WHERE t.typtype = 'c' AND col_description(t.typrelid, a.attnum) IS NULL
$$, 'every field of a composite type has a comment');

SELECT is_empty($$
	SELECT rolname FROM pg_roles WHERE rolname ~ '^sentinai_' AND shobj_description(oid, 'pg_authid') IS NULL
$$, 'every role has a comment');

-- Rights.

SELECT is_empty($$
	SELECT what, privilege_type FROM (
		SELECT c.oid::regclass::text AS what, (aclexplode(coalesce(c.relacl,
				acldefault(CASE c.relkind WHEN 'S' THEN 's'::"char" ELSE 'r' END, c.relowner)))).* FROM relation c
		UNION ALL
		SELECT c.oid::regclass || '.' || a.attname, (aclexplode(a.attacl)).*
		  FROM relation c JOIN pg_attribute a ON a.attrelid = c.oid
		UNION ALL
		SELECT p.oid::regprocedure::text, (aclexplode(coalesce(proacl, acldefault('f', proowner)))).*
		  FROM pg_proc p WHERE p.pronamespace IN ('sentinai'::regnamespace, 'sentinai_api'::regnamespace)
		UNION ALL
		SELECT t.oid::regtype::text, (aclexplode(coalesce(t.typacl, acldefault('T', t.typowner)))).*
		  FROM pg_type t JOIN member m ON m.objid = t.oid AND m.classid = 'pg_type'::regclass
		 WHERE t.typcategory <> 'A'
		UNION ALL
		SELECT nspname::text, (aclexplode(coalesce(nspacl, acldefault('n', nspowner)))).*
		  FROM pg_namespace WHERE nspname IN ('sentinai', 'sentinai_api')
	) acl WHERE grantee = 0
$$, 'nothing is granted to PUBLIC');

SELECT is_empty($$
	SELECT signature, proconfig FROM routine
	 WHERE prosecdef
	   AND NOT EXISTS (SELECT FROM unnest(proconfig) s WHERE s ~ '^search_path=pg_catalog,( "?sentinai"?,)? "?pg_temp"?$')
$$, 'SECURITY DEFINER functions have search_path = pg_catalog, sentinai, pg_temp');

-- What runs as its caller is inlined, or keeps the caller's path on purpose; it names the schema of all that it calls.
SELECT set_eq($$
	SELECT proname::text FROM routine WHERE lanname IN ('sql', 'plpgsql') AND NOT EXISTS (SELECT FROM unnest(proconfig) s WHERE s LIKE 'search_path=%')
$$, ARRAY['audit_exceptions', 'audit_sla', 'event_id_new', 'report_type_add', 'usage_bucket', 'usage_csv_field'],
	'other functions in SQL and PL/pgSQL have a search_path of their own, but for these');

SELECT is_empty($$
	SELECT signature FROM routine WHERE prosecdef AND (prosrc ~* '\m(current_user|current_role)\M' OR prosrc ~* '[^''"._[:alnum:]]user\M[^''"]')
$$, 'SECURITY DEFINER functions do not ask current_user, which is their owner');

SELECT is_empty($$
	SELECT signature FROM routine WHERE prosecdef AND prosrc ~* 'pg_has_role\s*\(\s*''|has_\w+_privilege\s*\(\s*''sentinai'
$$, 'nor what their owner is a member of, or may do');

SELECT is_empty($$
	SELECT signature FROM routine WHERE prosrc ~ 'request\.jwt'
$$, 'nothing but caller.c reads a token''s claims, which anybody may set');

SELECT set_eq($$ SELECT signature::text FROM routine WHERE prosecdef AND pronamespace = 'sentinai_api'::regnamespace $$,
	ARRAY['sentinai_api.health()', 'sentinai_api.health_db()', 'sentinai_api.health_workers()', 'sentinai_api.metrics()', 'sentinai_api.report_download_by_token(jsonb)',
		  'sentinai_api.report_download_head_by_token(text,text)'],
	'HTTP: who calls has its own rights, but for what needs none');

SELECT set_eq($$ SELECT signature::text FROM routine, aclexplode(proacl) g WHERE g.grantee = 'sentinai_anon'::regrole $$,
	ARRAY['sentinai_api.health()', 'sentinai_api.health_db()', 'sentinai_api.health_workers()', 'sentinai_api.metrics()', 'sentinai_api.report_download_by_token(jsonb)',
		  'sentinai_api.report_download_head_by_token(text,text)', 'sentinai_api.openapi()', 'api_path_list()', 'api_word_list()', 'api_openapi_words()', 'api_openapi_requests()',
		  'api_openapi_answer(text)', 'api_openapi_operations()', 'api_openapi_lists()', 'health()', 'health_db()', 'health_workers()', 'metrics()', 'sentinai.version()', 'api_pre_request()', 'caller_role()', 'caller_identity()',
		  'current_tenant()', 'caller_sees_all()', 'caller_names_tenants()', 'tenant_check(text)', 'tenant_visible(text)'],
	'without a token one learns how it is, and no more');

SELECT is_empty($$
	SELECT p.oid::regprocedure FROM pg_proc p
	 WHERE p.pronamespace IN ('sentinai'::regnamespace, 'sentinai_api'::regnamespace) AND p.oid NOT IN (SELECT oid FROM routine)
$$, 'every function in our schemas belongs to the extension');

SELECT is_empty($$
	SELECT oid::regclass::text FROM relation WHERE relowner <> (SELECT extowner FROM pg_extension WHERE extname = 'sentinai')
	UNION ALL SELECT signature::text FROM routine WHERE proowner <> (SELECT extowner FROM pg_extension WHERE extname = 'sentinai')
$$, 'all is the extension''s owner''s, whom no table is kept from and every function runs as');

SELECT is_empty($$ SELECT signature FROM routine WHERE proleakproof $$, 'no function comes before a policy');

SELECT is_empty($$
	SELECT signature FROM routine WHERE lanname = 'c' AND proparallel = 's' AND proname ~ '^(caller|current|tenant)_'
$$, 'who asks is not asked in a parallel worker, which doesn''t know what is held in C');

SELECT set_eq($$
	SELECT signature::text, g.grantee::regrole::text FROM routine, aclexplode(proacl) g WHERE prorettype = 'trigger'::regtype AND g.grantee <> proowner
$$, $$ VALUES ('legal_hold_guard()', 'sentinai_admin') $$, 'nobody hangs our triggers on tables of his own, but the one that looks at them first');

-- Tenants' rows.

SELECT is_empty($$
	SELECT c.oid::regclass FROM relation c
	 WHERE c.relkind IN ('r', 'p') AND EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'tenant_id') AND NOT c.relrowsecurity
$$, 'every table with a tenant, and every partition, has row security');

SELECT is_empty($$
	SELECT c.oid::regclass, (SELECT array_agg(p.polname) FROM pg_policy p WHERE p.polrelid = c.oid) FROM relation c
	 WHERE c.relrowsecurity
	   AND NOT (EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid AND p.polname = 'tenant' AND p.polpermissive AND p.polcmd = '*' AND p.polroles = '{0}'
							AND pg_get_expr(p.polqual, p.polrelid) ~ '^\(tenant_id = \( SELECT (sentinai\.)?current_tenant\(\) AS current_tenant\)\)$'
							AND p.polwithcheck IS NULL)
				AND EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid AND p.polname = 'every_tenant' AND p.polpermissive AND p.polcmd = '*'
							AND (SELECT array_agg(r::regrole::text ORDER BY r::regrole::text) FROM unnest(p.polroles) r) = '{sentinai_admin,sentinai_handler,sentinai_platform}'))
$$, 'a tenant has its own rows, asked for once a statement; the admin and handlers of all tenants have all');

SELECT set_eq($$
	SELECT c.relname::text || ': ' || p.polname || ' ' || pg_get_expr(p.polqual, p.polrelid) FROM relation c JOIN pg_policy p ON p.polrelid = c.oid
	 WHERE p.polname NOT IN ('tenant', 'every_tenant')
$$, ARRAY['retry_policy: unowned (tenant_id IS NULL)', 'retry_policy_override: unowned (tenant_id IS NULL)'],
	'other rows are for everybody where they are nobody''s, and here only');

-- A table that has no tenant is the admin's, or stands here and in docs/security.md, since nothing in it is of one.
SELECT set_eq($$
	SELECT DISTINCT c.relname::text
	  FROM (SELECT oid, relname, relkind, relacl AS acl FROM relation UNION ALL
			SELECT r.oid, r.relname, r.relkind, a.attacl FROM relation r JOIN pg_attribute a ON a.attrelid = r.oid) c, aclexplode(c.acl) g
	 WHERE c.relkind <> 'S' AND NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'tenant_id')
	   AND g.grantee NOT IN ((SELECT relowner FROM pg_class WHERE oid = c.oid), 'sentinai_admin'::regrole)
$$, ARRAY['dedupe_generation', 'dedupe_state', 'error_class_override', 'event_type', 'handler', 'kafka_offset', 'offset_gap', 'rate_limit_type',
		  'rate_limit_type_effective', 'rate_limit_type_override', 'report_mask', 'suspect', 'usage_closed', 'usage_type', 'worker_type',
		  'worker_type_effective', 'worker_type_override'],
	'of what has no tenant these are for others than the admin, and nothing in them is a tenant''s');

SELECT is_empty($$
	SELECT g.grantee::regrole, g.privilege_type FROM (SELECT relacl AS acl, relowner AS owner FROM relation UNION ALL SELECT proacl, proowner FROM routine
		UNION ALL SELECT a.attacl, r.relowner FROM relation r JOIN pg_attribute a ON a.attrelid = r.oid) o, aclexplode(o.acl) g
	 WHERE g.grantee <> o.owner AND g.is_grantable
$$, 'nobody passes rights on');

SELECT is_empty($$
	SELECT c.oid::regclass, g.grantee::regrole, g.privilege_type FROM relation c, aclexplode(c.relacl) g
	 WHERE g.grantee <> c.relowner AND (g.privilege_type IN ('TRIGGER', 'REFERENCES')
			OR (g.privilege_type = 'TRUNCATE' AND g.grantee <> 'sentinai_admin'::regrole))
$$, 'TRUNCATE, which row security doesn''t hold back, is the admin''s; nobody but the owner hangs code on our tables');

SELECT is_empty($$
	SELECT c.oid::regclass FROM relation c
	 WHERE c.relkind = 'v' AND NOT coalesce(c.reloptions && ARRAY['security_invoker=true', 'security_invoker=on', 'security_invoker=1'], false)
$$, 'views run with the rights of who reads them');

SELECT is_empty($$
	SELECT c.oid::regclass FROM pg_class c WHERE c.relnamespace IN ('sentinai'::regnamespace, 'sentinai_api'::regnamespace) AND c.relkind IN ('m', 'f')
$$, 'there is nothing that row security doesn''t apply to');

-- An error about a key, or a foreign key, tells whether it is there. Ids are given by the database; a report can be held by who sees it.
SELECT set_eq($$
	SELECT i.indexrelid::regclass::text FROM pg_index i
	 WHERE i.indisunique AND i.indrelid IN (SELECT oid FROM relation)
	   AND EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = i.indrelid AND a.attname = 'tenant_id')
	   AND NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = i.indrelid AND a.attname = 'tenant_id' AND a.attnum = ANY (i.indkey))
	   AND pg_get_indexdef(i.indexrelid) !~ '\((id|seq|report_id)\)$'
	UNION ALL SELECT conname::text FROM pg_constraint WHERE contype = 'f' AND connamespace = 'sentinai'::regnamespace
$$, ARRAY['legal_hold_report', 'report_chunk_report_id_fkey'], 'what tenants choose is unique for a tenant, and refers to nobody else''s');

SELECT is(
	(SELECT string_agg(rolname, ' ' ORDER BY rolname COLLATE "C") FROM pg_roles
	  WHERE rolname ~ '^sentinai_' AND NOT (rolcanlogin OR rolsuper OR rolbypassrls OR rolcreaterole OR rolcreatedb)),
	'sentinai_admin sentinai_anon sentinai_handler sentinai_operator sentinai_payload sentinai_platform sentinai_tenant_handler sentinai_viewer sentinai_worker',
	'the roles are there, and none of them is more than a role');

SELECT set_eq($$
	SELECT m.member::regrole::text || ' is a ' || m.roleid::regrole FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.member WHERE r.rolname ~ '^sentinai_'
$$, ARRAY['sentinai_operator is a sentinai_viewer', 'sentinai_admin is a sentinai_operator', 'sentinai_admin is a sentinai_payload'],
	'and what one is besides');

SELECT is_empty($$
	SELECT c.oid::regclass, g.grantee::regrole, g.privilege_type
	  FROM (SELECT oid, relacl AS acl FROM relation UNION ALL
			SELECT attrelid, attacl FROM pg_attribute WHERE attrelid IN (SELECT oid FROM relation)) c, aclexplode(c.acl) g
	 WHERE g.grantee IN ('sentinai_worker'::regrole, 'sentinai_handler'::regrole, 'sentinai_tenant_handler'::regrole)
$$, 'workers and handlers have no right on any table of ours');

SELECT set_eq($$
	SELECT DISTINCT c.relname::text || ' ' || g.privilege_type FROM relation c, aclexplode(c.relacl) g
	 WHERE g.grantee = 'sentinai_platform'::regrole
$$, ARRAY['exceptions SELECT', 'exceptions INSERT', 'exceptions UPDATE',
		  'exception_event SELECT', 'exception_event INSERT',
		  'tool_execution SELECT', 'tool_execution INSERT', 'tool_execution UPDATE', 'tool_definition SELECT', 'tool_definition_event SELECT', 'tool_execution_event SELECT',
		  'config_change_request SELECT', 'config_change_event SELECT'],
	'the platform''s handlers reach the platform''s tables only');

SELECT set_eq($$
	SELECT DISTINCT proname::text FROM routine r, aclexplode(r.proacl) g WHERE g.grantee = 'sentinai_worker'::regrole
$$, ARRAY['worker_config', 'assign', 'offset_gap_report', 'consume', 'outbox_wait', 'outbox_lock', 'outbox_read',
		  'outbox_rewind', 'outbox_unpublished', 'outbox_advance', 'worker_heartbeat', 'worker_list', 'health', 'health_db', 'health_workers',
		  'metrics', 'dlq_size', 'is_active', 'version', 'suspect_begin', 'suspect_next', 'suspect_end',
		  'caller_role', 'caller_identity', 'current_tenant', 'caller_sees_all', 'caller_names_tenants', 'tenant_check', 'tenant_visible'],
	'a worker may call what its pumps need and nothing else');

SELECT set_eq($$
	SELECT DISTINCT proname::text FROM routine r, aclexplode(r.proacl) g
	 WHERE g.grantee IN ('sentinai_handler'::regrole, 'sentinai_tenant_handler'::regrole)
$$, ARRAY['emit', 'fail', 'version', 'idempotency_begin', 'idempotency_complete', 'idempotency_renew', 'idempotency_abandon',
		  'rate_limit_check', 'rate_limit_allowed', 'rate_limit_peek', 'rate_limit_check_all', 'rate_limit_check_batch',
		  'rate_limit_enforce', 'rate_limit_body', 'rate_limit_refund', 'usage_record', 'usage_record_batch',
		  'caller_role', 'caller_identity', 'current_tenant', 'caller_sees_all', 'caller_names_tenants', 'tenant_check', 'tenant_visible'],
	'a handler may call emit, fail and what keeps its work from happening twice, ask about limits, and count usage');

SELECT is_empty($$
	SELECT c.oid::regclass || '.' || a.attname, g.grantee::regrole
	  FROM relation c JOIN pg_attribute a ON a.attrelid = c.oid, aclexplode(a.attacl) g
	 WHERE a.attname = 'metadata' AND c.relname <> 'tenant'
	UNION ALL
	SELECT c.oid::regclass || '.' || a.attname, g.grantee::regrole
	  FROM relation c JOIN pg_attribute a ON a.attrelid = c.oid, aclexplode(a.attacl) g
	 WHERE a.attname IN ('payload', 'payload_raw', 'event_metadata', 'record_key', 'record_headers', 'record_value', 'response',
						 'input_payload', 'output_payload', 'current_config', 'proposed_config', 'config')
	   AND g.grantee <> 'sentinai_payload'::regrole
	UNION ALL
	SELECT c.oid::regclass::text, g.grantee::regrole
	  FROM relation c JOIN pg_attribute a ON a.attrelid = c.oid, aclexplode(c.relacl) g
	 WHERE a.attname IN ('payload', 'payload_raw', 'event_metadata', 'record_key', 'record_headers', 'record_value', 'response',
						 'input_payload', 'output_payload', 'current_config', 'proposed_config', 'config')
	   AND g.privilege_type = 'SELECT' AND g.grantee NOT IN (c.relowner, 'sentinai_admin'::regrole, 'sentinai_platform'::regrole)
$$, 'payloads are read by sentinai_payload, the admin and the platform''s handlers');

-- Dumps.

SELECT is_empty($$
	SELECT c.oid::regclass
	  FROM relation c JOIN member m ON m.objid = c.oid AND m.classid = 'pg_class'::regclass, pg_extension e
	 WHERE e.extname = 'sentinai' AND c.relkind IN ('r', 'p') AND NOT c.oid = ANY (e.extconfig)
	   AND c.relname NOT IN (
			'activation',			-- names this database; a copy of the database must not be active
			'rate_limit_type',		-- what the script installed; changes stand in rate_limit_type_override
			'report_key',			-- a secret: a copy of the database must not sign as this one
			'retry_policy',			-- what the script installed; changes stand in retry_policy_override
			'suspect',				-- what crashed that server is found out anew on another one
			'worker_instance')		-- heartbeats, which come back within seconds
$$, 'every table is dumped with its rows, or stands here with the reason why not');

SELECT is_empty($$
	SELECT d.objid::regclass FROM pg_depend d, pg_extension e
	 WHERE e.extname = 'sentinai' AND d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass
	   AND d.deptype IN ('i', 'a') AND d.refobjid = ANY (e.extconfig)
	   AND (SELECT relkind FROM pg_class WHERE oid = d.objid) = 'S'
	   AND NOT d.objid = ANY (e.extconfig)
	UNION ALL
	SELECT c.oid::regclass FROM relation c JOIN member m ON m.objid = c.oid AND m.classid = 'pg_class'::regclass, pg_extension e
	 WHERE e.extname = 'sentinai' AND c.relkind = 'S' AND NOT c.oid = ANY (e.extconfig)
$$, 'every sequence of a dumped table, and every sequence of its own, is dumped');

SELECT is_empty($$
	SELECT c.oid::regclass, k.condition
	  FROM pg_extension e, unnest(e.extconfig, e.extcondition) AS k (oid, condition), relation c
	 WHERE e.extname = 'sentinai' AND c.oid = k.oid
	   AND EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'builtin')
	   AND k.condition IS DISTINCT FROM 'WHERE NOT builtin'
$$, 'rows that the script inserted are not dumped: they would be there twice');

SELECT is_empty($$
	SELECT i.indexrelid::regclass FROM pg_index i JOIN relation c ON c.oid = i.indrelid WHERE c.relkind = 'p'
$$, 'a partitioned table has no index of its own, which a dump could not restore');

SELECT is_empty($$
	SELECT c.oid::regclass FROM relation c
	 WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition
	   AND NOT EXISTS (SELECT FROM member m WHERE m.objid = c.oid AND m.classid = 'pg_class'::regclass)
$$, 'every table that is no partition belongs to the extension');

-- Functions.

SELECT is_empty($$
	SELECT signature FROM routine
	 WHERE provolatile <> 'v' AND lanname IN ('sql', 'plpgsql')
	   AND prosrc ~* '\m(insert into|update sentinai|delete from|nextval|clock_timestamp|gen_random_uuid|random|for update|for share|for no key update)\M|\mtruncate (sentinai|%)'
$$, 'what writes, locks or changes within a statement is VOLATILE');

SELECT is_empty($$
	SELECT signature FROM routine
	 WHERE provolatile = 'i' AND lanname IN ('sql', 'plpgsql')
	   AND prosrc ~* '\m(now|current_timestamp|current_setting|session_user|current_user|timezone)\M|\mfrom sentinai\.'
$$, 'what reads a table, a setting or the clock is not IMMUTABLE');

SELECT is_empty($$
	SELECT signature FROM routine
	 WHERE pronamespace = 'sentinai_api'::regnamespace
	   AND (provolatile = 'v') IS DISTINCT FROM (pronargs = 1 AND proargnames IS NULL)
$$, 'HTTP: what takes a body may write, and what GET calls is STABLE');

SELECT is_empty($$
	SELECT signature FROM routine
	 WHERE pronamespace = 'sentinai_api'::regnamespace AND provolatile = 'v'
	   AND prosrc !~ '\mapi_(begin|no_key|report_act)\M'
	   -- a GET that writes its row of history, and one in C that keeps its key
	   AND proname NOT IN ('report_download', 'report_download_by_token', 'dlq_retry')
$$, 'HTTP: an Idempotency-Key is kept or refused, never left out in silence');

SELECT is_empty($$
	SELECT signature FROM routine WHERE proretset AND lanname = 'plpgsql' AND provolatile = 'v'
	   AND prosrc !~* '\m(insert|update|delete|perform|execute|sentinai\.[a-z_]+\()'
$$, 'a list that changes nothing is STABLE');

SELECT * FROM finish();
ROLLBACK;
