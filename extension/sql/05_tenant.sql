-- 05_tenant: who may own events.

CREATE TABLE sentinai.tenant (
	tenant_id	text COLLATE "C" PRIMARY KEY
				CHECK (tenant_id ~ '^[A-Za-z0-9_.-]{1,64}$'),
	name		text,
	status		text NOT NULL DEFAULT 'active'
				CHECK (status IN ('active', 'suspended', 'archived')),
	tags		text[] NOT NULL DEFAULT '{}',
	industry	text,
	metadata	jsonb NOT NULL DEFAULT '{}',
	created_at	timestamptz NOT NULL DEFAULT now(),
	created_by	text NOT NULL,
	updated_at	timestamptz NOT NULL DEFAULT now()
);
SELECT pg_catalog.pg_extension_config_dump('sentinai.tenant', '');
COMMENT ON TABLE sentinai.tenant IS
	'Who may own events. Read by every batch; changed by tenant_add, tenant_suspend, tenant_resume and tenant_archive.';
COMMENT ON COLUMN sentinai.tenant.tenant_id IS 'Letters, digits, _ . and -, at most 64 of them. Never changes.';
COMMENT ON COLUMN sentinai.tenant.name IS 'What people call the tenant.';
COMMENT ON COLUMN sentinai.tenant.status IS
	'active: its events are handled; suspended: its events wait in event_pending; archived: its events become dead letters.';
COMMENT ON COLUMN sentinai.tenant.tags IS 'Free labels for lists and reports.';
COMMENT ON COLUMN sentinai.tenant.industry IS 'Free text for lists and reports.';
COMMENT ON COLUMN sentinai.tenant.metadata IS 'Whatever else the operator keeps about the tenant.';
COMMENT ON COLUMN sentinai.tenant.created_at IS 'When the tenant was added.';
COMMENT ON COLUMN sentinai.tenant.created_by IS 'The role that was authenticated when the tenant was added.';
COMMENT ON COLUMN sentinai.tenant.updated_at IS 'When the row was last changed by a function of ours.';

CREATE TABLE sentinai.tenant_history (
	id				bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	tenant_id		text COLLATE "C" NOT NULL,
	from_status		text,
	to_status		text NOT NULL,
	reason			text,
	authenticated	text NOT NULL,
	created_at		timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX tenant_history_tenant ON sentinai.tenant_history (tenant_id, id);
SELECT pg_catalog.pg_extension_config_dump('sentinai.tenant_history', '');
SELECT pg_catalog.pg_extension_config_dump('sentinai.tenant_history_id_seq', '');
COMMENT ON TABLE sentinai.tenant_history IS 'Every change of a tenant''s status: who, when, why.';
COMMENT ON COLUMN sentinai.tenant_history.id IS 'In the order of the changes.';
COMMENT ON COLUMN sentinai.tenant_history.tenant_id IS 'The tenant.';
COMMENT ON COLUMN sentinai.tenant_history.from_status IS 'The status before; NULL: the tenant was added.';
COMMENT ON COLUMN sentinai.tenant_history.to_status IS 'The status after.';
COMMENT ON COLUMN sentinai.tenant_history.reason IS 'As given by whoever made the change.';
COMMENT ON COLUMN sentinai.tenant_history.authenticated IS 'Who was authenticated: caller_identity().';
COMMENT ON COLUMN sentinai.tenant_history.created_at IS 'When.';

CREATE FUNCTION sentinai.tenant_add(
	tenant_id	text,
	name		text DEFAULT NULL,
	industry	text DEFAULT NULL,
	tags		text[] DEFAULT '{}',
	metadata	jsonb DEFAULT '{}')
	RETURNS text
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF tenant_add.tenant_id IS NULL OR tenant_add.tenant_id !~ '^[A-Za-z0-9_.-]{1,64}$' THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN001',
			MESSAGE = format('tenant_id %s is not valid', coalesce(quote_literal(left(tenant_add.tenant_id, 100)), 'NULL')),
			HINT = 'A tenant_id has 1 to 64 characters, each one a letter, a digit, "_", "." or "-".';
	END IF;
	PERFORM sentinai.activate();
	INSERT INTO sentinai.tenant (tenant_id, name, industry, tags, metadata)
	VALUES (tenant_add.tenant_id, tenant_add.name, tenant_add.industry, coalesce(tenant_add.tags, '{}'),
			coalesce(tenant_add.metadata, '{}'))
	ON CONFLICT DO NOTHING;
	IF NOT FOUND THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN012',
			MESSAGE = format('tenant "%s" exists already', tenant_add.tenant_id),
			DETAIL = (SELECT format('It was added at %s, and its status is %s.', t.created_at, t.status)
						FROM sentinai.tenant t WHERE t.tenant_id = tenant_add.tenant_id),
			HINT = format('A suspended or archived tenant is taken back by SELECT sentinai.tenant_resume(%L).',
						  tenant_add.tenant_id);
	END IF;
	INSERT INTO sentinai.tenant_history (tenant_id, to_status) VALUES (tenant_add.tenant_id, 'active');
	RETURN tenant_add.tenant_id;
END
$$;
COMMENT ON FUNCTION sentinai.tenant_add(text, text, text, text[], jsonb) IS
	'Adds an active tenant and returns its id; its events are handled from now on. The first call in a database activates sentinai there. Errors: SN001 (tenant_id not valid), SN012 (exists already).';

-- The one setter of a tenant's status. Any status may follow any other, except that an archived tenant is not suspended.
CREATE FUNCTION sentinai.tenant_set_status(tenant_id text, to_status text, reason text)
	RETURNS text
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	from_status text;
BEGIN
	PERFORM sentinai.reason_check(tenant_set_status.reason);
	SELECT t.status INTO from_status
	  FROM sentinai.tenant t WHERE t.tenant_id = tenant_set_status.tenant_id
	   FOR NO KEY UPDATE;
	IF NOT FOUND THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN004',
			MESSAGE = format('tenant %s does not exist', coalesce(quote_ident(left(tenant_set_status.tenant_id, 100)), 'NULL')),
			HINT = 'SELECT * FROM sentinai.tenant_list() shows all tenants; sentinai.tenant_add() adds one.';
	ELSIF from_status = 'archived' AND to_status = 'suspended' THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN010',
			MESSAGE = format('tenant "%s" is archived and can''t be suspended', tenant_set_status.tenant_id),
			DETAIL = 'Events of an archived tenant become dead letters; they don''t wait.',
			HINT = format('Take it back first: SELECT sentinai.tenant_resume(%L).', tenant_set_status.tenant_id);
	ELSIF from_status <> to_status THEN
		UPDATE sentinai.tenant t
		   SET status = to_status, updated_at = now()
		 WHERE t.tenant_id = tenant_set_status.tenant_id;
		INSERT INTO sentinai.tenant_history (tenant_id, from_status, to_status, reason)
		VALUES (tenant_set_status.tenant_id, from_status, tenant_set_status.to_status, tenant_set_status.reason);
		-- point: tenant.changed
	END IF;
	RETURN from_status;
END
$$;
COMMENT ON FUNCTION sentinai.tenant_set_status(text, text, text) IS
	'Sets a tenant''s status, writes tenant_history, and returns the status before (the same status again changes nothing). Called by tenant_suspend, tenant_resume and tenant_archive. Errors: SN001 (the reason is too long), SN004 (no such tenant), SN010 (archived to suspended).';

-- Events that wait for their tenant have no due time: whoever takes the tenant back, or gives it up, makes them due.
CREATE FUNCTION sentinai.tenant_release(tenant_id text)
	RETURNS bigint
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	released bigint;
BEGIN
	UPDATE sentinai.event_pending p
	   SET next_attempt_at = now(), rate_limit = CASE WHEN p.error_type IS DISTINCT FROM 'circuit_open' THEN 'resumed' END
	 WHERE p.tenant_id = tenant_release.tenant_id
	   AND p.status = 'deferred' AND p.next_attempt_at = 'infinity';
	GET DIAGNOSTICS released = ROW_COUNT;
	RETURN released;
END
$$;
COMMENT ON FUNCTION sentinai.tenant_release(text) IS
	'Makes a tenant''s events that wait without a due time due now, in its queue (so that they hold up nobody else''s), and returns how many they were. Called by tenant_resume and tenant_archive.';

CREATE FUNCTION sentinai.tenant_suspend(tenant_id text, reason text DEFAULT NULL)
	RETURNS void
	LANGUAGE sql VOLATILE
	SET search_path = pg_catalog, pg_temp
AS $$ SELECT sentinai.tenant_set_status($1, 'suspended', $2) $$;
COMMENT ON FUNCTION sentinai.tenant_suspend(text, text) IS
	'From the next batch on the tenant''s events wait in event_pending, until tenant_resume. Errors: SN004, SN010 (is archived).';

CREATE FUNCTION sentinai.tenant_resume(tenant_id text, reason text DEFAULT NULL)
	RETURNS bigint
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	PERFORM sentinai.tenant_set_status(tenant_resume.tenant_id, 'active', tenant_resume.reason);
	RETURN sentinai.tenant_release(tenant_resume.tenant_id);
END
$$;
COMMENT ON FUNCTION sentinai.tenant_resume(text, text) IS
	'Takes a suspended or archived tenant back. Its events that waited are due now, at its rate (events_ingested); returns how many they are. Errors: SN004.';

CREATE FUNCTION sentinai.tenant_archive(tenant_id text, reason text DEFAULT NULL)
	RETURNS bigint
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	PERFORM sentinai.tenant_set_status(tenant_archive.tenant_id, 'archived', tenant_archive.reason);
	RETURN sentinai.tenant_release(tenant_archive.tenant_id);
END
$$;
COMMENT ON FUNCTION sentinai.tenant_archive(text, text) IS
	'Gives a tenant up: from the next batch on its events become dead letters, those that waited too (returns how many waited). Nothing is deleted. Errors: SN004.';

CREATE FUNCTION sentinai.tenant_list(with_status text DEFAULT NULL)
	RETURNS TABLE (
		tenant_id	text,
		name		text,
		status		text,
		industry	text,
		tags		text[],
		waiting		bigint,
		reason		text,
		created_at	timestamptz,
		updated_at	timestamptz
	)
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF with_status NOT IN ('active', 'suspended', 'archived') THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN001',
			MESSAGE = format('%s is not a status of a tenant', quote_literal(left(with_status, 100))),
			HINT = 'The statuses are active, suspended and archived; NULL lists all tenants.';
	END IF;
	RETURN QUERY
		SELECT t.tenant_id::text, t.name, t.status, t.industry, t.tags,
			   (SELECT count(*) FROM sentinai.event_pending p WHERE p.tenant_id = t.tenant_id),
			   (SELECT h.reason FROM sentinai.tenant_history h
				 WHERE h.tenant_id = t.tenant_id ORDER BY h.id DESC LIMIT 1),
			   t.created_at, t.updated_at
		  FROM sentinai.tenant t
		 WHERE with_status IS NULL OR t.status = with_status
		 ORDER BY t.tenant_id;
END
$$;
COMMENT ON FUNCTION sentinai.tenant_list(text) IS
	'The tenants of a status (NULL: all), by id. waiting: its events in event_pending, retries included; reason: of the last change of its status. Errors: SN001 (no such status).';
