-- 16_tenant_scope: handlers that are held to one tenant (scope = tenant), and what row security would not keep from them.

CREATE FUNCTION sentinai.tenant_scope_check_role(role_name text) RETURNS void
	LANGUAGE c STABLE STRICT
	AS 'MODULE_PATHNAME', 'sn_tenant_scope_check_role_sql';
COMMENT ON FUNCTION sentinai.tenant_scope_check_role(text) IS
	'Refuses a role that row security doesn''t hold to a tenant: with BYPASSRLS, or with the privileges of sentinai_admin, sentinai_platform or sentinai_handler. Asked at handler_add() and again at each call. Raises SN009, 42704 (no such role).';

-- What a role may reach of the user's, and row security doesn't keep from it. Our own tables are the catalogue's test's.
CREATE FUNCTION sentinai.tenant_scope_holes(role_name name DEFAULT 'sentinai_tenant_handler')
	RETURNS TABLE (object text, problem text, mend text)
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	WITH class AS (
		SELECT c.oid, c.relkind, c.relowner, c.relrowsecurity, c.relforcerowsecurity, c.oid::regclass::text AS name,
			   EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'tenant_id' AND NOT a.attisdropped) AS of_tenants,
			   coalesce(c.reloptions::text ~ 'security_invoker=(true|on|1|yes)', false) AS invoker,
			   has_any_column_privilege($1, c.oid, 'SELECT, INSERT, UPDATE') OR has_table_privilege($1, c.oid, 'DELETE') AS reads_or_writes,
			   has_table_privilege($1, c.oid, 'TRUNCATE') AS truncates
		  FROM pg_class c
		 WHERE c.relkind IN ('r', 'p', 'f', 'm', 'v') AND c.relnamespace NOT IN ('sentinai'::regnamespace, 'pg_catalog'::regnamespace)
		   AND c.relnamespace::regnamespace::text NOT IN ('information_schema', 'sentinai_api') AND c.relpersistence <> 't'
		   AND has_schema_privilege($1, c.relnamespace, 'USAGE'))
	SELECT c.name, 'the role owns it, and its owner switches row security off', format('ALTER TABLE %s OWNER TO somebody else', c.name)
	  FROM class c WHERE pg_has_role($1, c.relowner, 'MEMBER')
	UNION ALL
	SELECT c.name, 'TRUNCATE ignores row security', format('REVOKE TRUNCATE ON %s FROM %I', c.name, $1)
	  FROM class c WHERE c.truncates
	UNION ALL
	SELECT c.name, 'rows of tenants without row security', format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', c.name)
	  FROM class c WHERE c.reads_or_writes AND c.relkind IN ('r', 'p') AND c.of_tenants AND NOT c.relrowsecurity
	UNION ALL
	SELECT c.name, 'row security does not hold its owner, whose triggers and foreign keys see all rows', format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', c.name)
	  FROM class c WHERE c.reads_or_writes AND c.relkind IN ('r', 'p') AND c.relrowsecurity AND NOT c.relforcerowsecurity
	UNION ALL
	SELECT c.name, 'a policy that does not ask for the tenant: ' || p.polname,
		   format('ALTER POLICY %I ON %s USING (tenant_id = (SELECT sentinai.current_tenant()))', p.polname, c.name)
	  FROM class c JOIN pg_policy p ON p.polrelid = c.oid
	 WHERE c.reads_or_writes AND c.relrowsecurity AND p.polpermissive
	   AND (0 = ANY (p.polroles) OR EXISTS (SELECT FROM unnest(p.polroles) r WHERE pg_has_role($1, r, 'USAGE')))
	   AND (pg_get_expr(p.polqual, p.polrelid) !~ 'current_tenant\(\)' OR pg_get_expr(p.polwithcheck, p.polrelid) !~ 'current_tenant\(\)')
	UNION ALL
	SELECT c.name, 'a view reads with its owner''s rights', format('ALTER VIEW %s SET (security_invoker = true)', c.name)
	  FROM class c WHERE c.reads_or_writes AND c.relkind = 'v' AND NOT c.invoker
	UNION ALL
	SELECT c.name, 'row security does not apply to a ' || CASE c.relkind WHEN 'm' THEN 'materialized view' ELSE 'foreign table' END,
		   format('REVOKE ALL ON %s FROM %I', c.name, $1)
	  FROM class c WHERE c.reads_or_writes AND c.relkind IN ('m', 'f')
	 ORDER BY 1, 2
$$;
COMMENT ON FUNCTION sentinai.tenant_scope_holes(name) IS
	'What the role may reach in your schemas that row security doesn''t hold to one tenant, with the command that mends it: tables with a tenant_id but without row security, policies that don''t ask current_tenant(), views with their owner''s rights, TRUNCATE. No row: nothing is known to be wrong. A table without tenant_id is taken for one that all tenants share.';
