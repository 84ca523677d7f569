-- 07_caller: who asks, and for which tenant. Row security and every function that runs as its owner go by these; caller.c
-- says how a tenant is found.

CREATE TABLE sentinai.tenant_role (
	role_name	name NOT NULL,
	tenant_id	text COLLATE "C" NOT NULL CHECK (tenant_id ~ '^([A-Za-z0-9_.-]{1,64}|\*)$'),
	created_at	timestamptz NOT NULL DEFAULT now(),
	created_by	text NOT NULL,
	PRIMARY KEY (role_name, tenant_id)
);
SELECT pg_catalog.pg_extension_config_dump('sentinai.tenant_role', '');
COMMENT ON TABLE sentinai.tenant_role IS
	'Which tenant a role is bound to. Written by tenant_role_add and tenant_role_remove; counts in every session from COMMIT on.';
COMMENT ON COLUMN sentinai.tenant_role.role_name IS
	'The role, by name: a role that is dropped, or renamed, leaves its row behind, and the next role of that name has it.';
COMMENT ON COLUMN sentinai.tenant_role.tenant_id IS 'The tenant; *: every one. A role with several rows chooses by the setting sentinai.tenant_id.';
COMMENT ON COLUMN sentinai.tenant_role.created_at IS 'When the role was bound.';
COMMENT ON COLUMN sentinai.tenant_role.created_by IS 'The role that was authenticated when the role was bound.';

CREATE TRIGGER config_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON sentinai.tenant_role
	FOR EACH STATEMENT EXECUTE FUNCTION sentinai.config_changed();

-- What is held in C isn't handed to parallel workers: these run in the leader.
CREATE FUNCTION sentinai.caller_role() RETURNS name
	LANGUAGE c STABLE PARALLEL RESTRICTED
	AS 'MODULE_PATHNAME', 'sn_caller_role_sql';
COMMENT ON FUNCTION sentinai.caller_role() IS
	'The role that asks: as SET ROLE says, or else who is logged in; inside of SECURITY DEFINER functions too.';

CREATE FUNCTION sentinai.caller_identity() RETURNS text
	LANGUAGE c STABLE PARALLEL RESTRICTED
	AS 'MODULE_PATHNAME', 'sn_caller_identity_sql';
COMMENT ON FUNCTION sentinai.caller_identity() IS
	'Who was authenticated, for histories: session_user; in sessions of the authenticator jwt: and the token''s sub, or, where it has none, role: and its role. Error: 42501, the sub is no text, or has more than 255 bytes.';

ALTER TABLE sentinai.tenant_role ALTER COLUMN created_by SET DEFAULT sentinai.caller_identity();
ALTER TABLE sentinai.tenant ALTER COLUMN created_by SET DEFAULT sentinai.caller_identity();
ALTER TABLE sentinai.tenant_history ALTER COLUMN authenticated SET DEFAULT sentinai.caller_identity();

CREATE FUNCTION sentinai.current_tenant() RETURNS text
	LANGUAGE c STABLE PARALLEL RESTRICTED
	AS 'MODULE_PATHNAME', 'sn_current_tenant_sql';
COMMENT ON FUNCTION sentinai.current_tenant() IS
	'The tenant that the caller is bound to (or has chosen, where it may choose); NULL: none.';

CREATE FUNCTION sentinai.caller_sees_all() RETURNS boolean
	LANGUAGE c STABLE PARALLEL RESTRICTED
	AS 'MODULE_PATHNAME', 'sn_caller_sees_all_sql';
COMMENT ON FUNCTION sentinai.caller_sees_all() IS
	'Whether the caller sees every tenant: a superuser, a role with the privileges of sentinai_admin, or a handler that is not bound to a tenant.';

CREATE FUNCTION sentinai.caller_names_tenants() RETURNS boolean
	LANGUAGE c STABLE PARALLEL RESTRICTED
	AS 'MODULE_PATHNAME', 'sn_caller_names_tenants_sql';
COMMENT ON FUNCTION sentinai.caller_names_tenants() IS
	'Whether figures may be shown to the caller by tenant: it sees all, or is bound to every tenant.';

CREATE FUNCTION sentinai.tenant_check(tenant_id text) RETURNS text
	LANGUAGE c STABLE PARALLEL RESTRICTED
	AS 'MODULE_PATHNAME', 'sn_tenant_check_sql';
COMMENT ON FUNCTION sentinai.tenant_check(text) IS
	'The tenant, if the caller may ask for it: its own, or any where it sees all or is bound to every tenant. NULL: the caller''s own; stays NULL for one who sees all and has chosen none. Errors: 42501, in the same words whether the tenant exists or not.';

CREATE FUNCTION sentinai.tenant_visible(tenant_id text) RETURNS boolean
	LANGUAGE c STABLE PARALLEL RESTRICTED
	AS 'MODULE_PATHNAME', 'sn_tenant_visible_sql';
COMMENT ON FUNCTION sentinai.tenant_visible(text) IS
	'Whether the caller may see rows of that tenant: for filters inside of SECURITY DEFINER functions. NULL and the reserved tenant '''' only for one who sees all.';

CREATE FUNCTION sentinai.reason_check(reason text, call text DEFAULT NULL) RETURNS void
	LANGUAGE c IMMUTABLE PARALLEL SAFE
	AS 'MODULE_PATHNAME', 'sn_reason_check_sql';
COMMENT ON FUNCTION sentinai.reason_check(text, text) IS
	'Internal: raises SN001 for a reason of more than 1,000 characters, and, where call says how to give one, for none.';

-- One place for what a table of tenants' rows has. The function in a policy stands in a sub-select: it is called once a
-- statement, and its result can be looked up in an index.
CREATE FUNCTION sentinai.tenant_security(relation regclass, unowned boolean DEFAULT false) RETURNS void
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', relation);
	EXECUTE format('CREATE POLICY tenant ON %s USING (tenant_id = (SELECT sentinai.current_tenant()))', relation);
	EXECUTE format('CREATE POLICY every_tenant ON %s TO sentinai_admin, sentinai_platform, sentinai_handler USING (true)', relation);
	IF unowned THEN
		EXECUTE format('CREATE POLICY unowned ON %s FOR SELECT USING (tenant_id IS NULL)', relation);
	END IF;
END
$$;
COMMENT ON FUNCTION sentinai.tenant_security(regclass, boolean) IS
	'Internal: gives a table with tenant_id row security: a tenant has its own rows, sentinai_admin, and handlers that are bound to no tenant, have all. unowned: whoever may read the table sees rows whose tenant_id is NULL. Called for each table when the extension is made, and for each partition.';

-- The machinery, which runs as a superuser, takes the roles of some tables' rows. An admin, who may write these tables, is none.
CREATE FUNCTION sentinai.role_guard() RETURNS trigger
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
AS $$
DECLARE
	caller	name := sentinai.caller_role();
	role	text := to_jsonb(NEW)->>TG_ARGV[0];
BEGIN
	IF role IS NULL OR role = ANY (TG_ARGV) OR (SELECT r.rolsuper FROM pg_roles r WHERE r.rolname = caller)
	   OR EXISTS (SELECT FROM pg_roles r WHERE r.rolname = role AND pg_has_role(caller, r.oid, 'MEMBER')) THEN
		RETURN NEW;
	END IF;
	RAISE EXCEPTION USING
		ERRCODE = 'insufficient_privilege',
		MESSAGE = format('permission denied to use role "%s"', role),
		DETAIL = format('Role "%s" is no member of it.', caller);
END
$$;
COMMENT ON FUNCTION sentinai.role_guard() IS
	'Trigger: a row can''t name a role that the caller may not become. Arguments: the column, and roles that anybody may name who may write the table. Error: 42501.';

CREATE FUNCTION sentinai.tenant_role_add(role_name name, tenant_id text) RETURNS void
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF NOT EXISTS (SELECT FROM pg_roles r WHERE r.rolname = tenant_role_add.role_name) THEN
		RAISE EXCEPTION USING
			ERRCODE = 'undefined_object',
			MESSAGE = format('role %s does not exist', coalesce('"' || tenant_role_add.role_name || '"', 'NULL')),
			HINT = 'CREATE ROLE makes it.';
	ELSIF tenant_role_add.role_name = current_setting('sentinai.authenticator') THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN001',
			MESSAGE = format('role "%s" is the authenticator and can''t be bound to a tenant', tenant_role_add.role_name),
			DETAIL = 'Requests without a token would be that tenant''s.',
			HINT = 'In its sessions the claim tenant_id of the token says which tenant asks.';
	ELSIF tenant_role_add.tenant_id IS DISTINCT FROM '*'
		AND NOT EXISTS (SELECT FROM sentinai.tenant t WHERE t.tenant_id = tenant_role_add.tenant_id) THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN004',
			MESSAGE = format('tenant %s does not exist', coalesce(quote_ident(left(tenant_role_add.tenant_id, 100)), 'NULL')),
			HINT = 'SELECT * FROM sentinai.tenant_list() shows all tenants; * stands for every tenant.';
	END IF;
	INSERT INTO sentinai.tenant_role (role_name, tenant_id)
	VALUES (tenant_role_add.role_name, tenant_role_add.tenant_id)
	ON CONFLICT DO NOTHING;
END
$$;
COMMENT ON FUNCTION sentinai.tenant_role_add(name, text) IS
	'Binds a role to a tenant, from COMMIT on in every session; once more changes nothing. tenant_id *: to every tenant, of which it chooses one by the setting sentinai.tenant_id, as a role with several rows does. Errors: 42704 (no such role), SN001 (the authenticator), SN004 (no such tenant).';

CREATE FUNCTION sentinai.tenant_role_remove(role_name name, tenant_id text) RETURNS boolean
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	DELETE FROM sentinai.tenant_role t
	 WHERE t.role_name = tenant_role_remove.role_name AND t.tenant_id = tenant_role_remove.tenant_id;
	RETURN FOUND;
END
$$;
COMMENT ON FUNCTION sentinai.tenant_role_remove(name, text) IS
	'Takes a binding away, from COMMIT on in every session; false: there was none. Works for roles that are gone.';

CREATE FUNCTION sentinai.tenant_role_list() RETURNS TABLE (
		role_name	name,
		tenant_id	text,
		role_exists	boolean,
		created_at	timestamptz,
		created_by	text
	)
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT t.role_name, t.tenant_id::text, EXISTS (SELECT FROM pg_roles r WHERE r.rolname = t.role_name), t.created_at, t.created_by
	  FROM sentinai.tenant_role t
	 ORDER BY 1, 2
$$;
COMMENT ON FUNCTION sentinai.tenant_role_list() IS
	'Which role is bound to which tenant. role_exists false: the role was dropped or renamed, and the next one of that name would have the binding.';
