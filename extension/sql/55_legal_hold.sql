-- 55_legal_hold: what a court, an auditor or a regulator wants kept. A hold names a tenant and a period; while it stands no
-- retention takes away what is in it: rows of event_log, what reports are made of, and reports. Whoever takes something
-- away locks the table first (legal_hold_lock), so that what was there when a hold was committed stays.

CREATE TABLE sentinai.legal_hold (
	id						bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	tenant_id				text COLLATE "C" NOT NULL,
	report_id				text COLLATE "C",
	period_from				timestamptz NOT NULL,
	period_to				timestamptz NOT NULL,
	reason					text NOT NULL,
	placed_by				text NOT NULL,
	placed_authenticated	text NOT NULL DEFAULT sentinai.caller_identity(),
	placed_at				timestamptz NOT NULL DEFAULT clock_timestamp(),
	release_reason			text,
	released_by				text,
	released_authenticated	text,
	released_at				timestamptz,
	CHECK (period_from < period_to)
);
CREATE INDEX legal_hold_active ON sentinai.legal_hold (tenant_id) WHERE released_at IS NULL;
CREATE UNIQUE INDEX legal_hold_report ON sentinai.legal_hold (report_id) WHERE released_at IS NULL AND report_id IS NOT NULL;
SELECT pg_catalog.pg_extension_config_dump('sentinai.legal_hold', '');
SELECT pg_catalog.pg_extension_config_dump('sentinai.legal_hold_id_seq', '');
COMMENT ON TABLE sentinai.legal_hold IS
	'Legal holds, those that were released too: what of a tenant''s is in the period is kept until the hold is released. Written by legal_hold_add() and legal_hold_release(), report_hold() and report_release().';
COMMENT ON COLUMN sentinai.legal_hold.id IS 'In the order in which they were placed.';
COMMENT ON COLUMN sentinai.legal_hold.tenant_id IS 'Whose data is held.';
COMMENT ON COLUMN sentinai.legal_hold.report_id IS 'The report that is held, with what it is made of; NULL: all reports about a part of the period.';
COMMENT ON COLUMN sentinai.legal_hold.period_from IS 'Begin of the period, inclusive.';
COMMENT ON COLUMN sentinai.legal_hold.period_to IS 'End of the period, exclusive.';
COMMENT ON COLUMN sentinai.legal_hold.reason IS 'Why.';
COMMENT ON COLUMN sentinai.legal_hold.placed_by IS 'Who placed it, as the caller said.';
COMMENT ON COLUMN sentinai.legal_hold.placed_authenticated IS 'Who, as the server knows.';
COMMENT ON COLUMN sentinai.legal_hold.placed_at IS 'When.';
COMMENT ON COLUMN sentinai.legal_hold.release_reason IS 'Why it was released.';
COMMENT ON COLUMN sentinai.legal_hold.released_by IS 'Who released it, as the caller said.';
COMMENT ON COLUMN sentinai.legal_hold.released_authenticated IS 'Who, as the server knows.';
COMMENT ON COLUMN sentinai.legal_hold.released_at IS 'When; NULL: it stands.';

CREATE FUNCTION sentinai.legal_hold_stands() RETURNS trigger
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
BEGIN
	RAISE EXCEPTION USING
		ERRCODE = 'SN077',
		MESSAGE = format('legal hold %s stands', OLD.id),
		HINT = format('SELECT sentinai.legal_hold_release(%s, ''why'')', OLD.id);
END
$$;
COMMENT ON FUNCTION sentinai.legal_hold_stands() IS 'Trigger BEFORE DELETE of a hold that is not released: it is to be released, with a reason. Errors: SN077.';
CREATE TRIGGER stands BEFORE DELETE ON sentinai.legal_hold FOR EACH ROW WHEN (OLD.released_at IS NULL) EXECUTE FUNCTION sentinai.legal_hold_stands();

-- ---- for who takes something away ----

CREATE FUNCTION sentinai.legal_hold_lock() RETURNS boolean
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
BEGIN
	LOCK TABLE sentinai.legal_hold IN SHARE MODE NOWAIT;
	RETURN true;
EXCEPTION WHEN lock_not_available THEN
	RETURN false;
END
$$;
COMMENT ON FUNCTION sentinai.legal_hold_lock() IS
	'Internal: no hold is placed until this transaction ends. False: one is being placed just now, try again later.';

CREATE FUNCTION sentinai.legal_hold_tenants(from_time timestamptz, to_time timestamptz) RETURNS text[]
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	SELECT coalesce(array_agg(DISTINCT h.tenant_id::text COLLATE "C"), '{}') FROM sentinai.legal_hold h
	 WHERE h.released_at IS NULL AND h.period_from < $2 AND h.period_to > $1
$$;
COMMENT ON FUNCTION sentinai.legal_hold_tenants(timestamptz, timestamptz) IS
	'Internal: the tenants of which something in a time (the end is exclusive) is held, in order.';

-- A column's type may bring casts and operators of its owner's, which would run here as ours.
CREATE FUNCTION sentinai.legal_hold_check_types(relation regclass, columns text[]) RETURNS void
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
DECLARE
	wrong	record;
BEGIN
	SELECT a.attname, format_type(a.atttypid, a.atttypmod) AS type INTO wrong
	  FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
	 WHERE a.attrelid = $1 AND a.attname = ANY (ARRAY['tenant_id'] || $2)
	   AND NOT EXISTS (SELECT FROM pg_type b WHERE b.oid = CASE t.typtype WHEN 'd' THEN t.typbasetype ELSE t.oid END
												AND b.typtype <> 'd' AND b.typnamespace = 'pg_catalog'::regnamespace)
	 LIMIT 1;
	IF FOUND THEN
		RAISE EXCEPTION USING
			ERRCODE = 'datatype_mismatch',
			MESSAGE = format('a legal hold can''t go by column "%s" of %s', wrong.attname, $1),
			DETAIL = format('It is of type %s.', wrong.type),
			HINT = 'tenant_id is a text, and a time is a timestamptz.';
	END IF;
END
$$;
COMMENT ON FUNCTION sentinai.legal_hold_check_types(regclass, text[]) IS
	'Internal: refuses a table whose tenant_id, or times, are of types that somebody made. Errors: 42804.';

CREATE FUNCTION sentinai.legal_hold_guard() RETURNS trigger
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
DECLARE
	gone	text := CASE TG_OP WHEN 'TRUNCATE' THEN format('%I.%I', TG_TABLE_SCHEMA, TG_TABLE_NAME) ELSE 'gone' END;
	hold	sentinai.legal_hold;
BEGIN
	LOCK TABLE sentinai.legal_hold IN SHARE MODE;
	IF EXISTS (SELECT FROM sentinai.legal_hold h WHERE h.released_at IS NULL) THEN
		PERFORM sentinai.legal_hold_check_types(TG_RELID, TG_ARGV);
		EXECUTE format('SELECT h.* FROM sentinai.legal_hold h WHERE h.released_at IS NULL AND EXISTS (SELECT FROM %s g WHERE g.tenant_id = h.tenant_id AND (%s)) ORDER BY h.id LIMIT 1',
			gone, (SELECT string_agg(format('g.%1$I >= h.period_from AND g.%1$I < h.period_to', a), ' OR ') FROM unnest(TG_ARGV) a)) INTO hold;
		IF hold.id IS NOT NULL THEN
			RAISE EXCEPTION USING
				ERRCODE = 'SN077',
				MESSAGE = format('rows of %s are under a legal hold', TG_TABLE_NAME),
				DETAIL = format('Hold %s of tenant "%s" is about %s to %s: %s', hold.id, hold.tenant_id, hold.period_from, hold.period_to, hold.reason),
				HINT = 'SELECT * FROM sentinai.legal_hold_list() shows the holds that stand.';
		END IF;
	END IF;
	RETURN NULL;
END
$$;
COMMENT ON FUNCTION sentinai.legal_hold_guard() IS
	'Trigger AFTER DELETE, for each statement, with the transition table gone, and BEFORE TRUNCATE: refuses to take away rows that are held. Arguments: the columns of a row''s times, of which one in the period is enough. Errors: SN077, 42804 (legal_hold_check_types()).';

CREATE FUNCTION sentinai.legal_hold_protect(relation regclass, VARIADIC columns text[]) RETURNS void
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
DECLARE
	arguments	text := (SELECT string_agg(quote_literal(c), ', ') FROM unnest(columns) c);
BEGIN
	PERFORM sentinai.legal_hold_check_types(relation, columns);
	EXECUTE format('CREATE TRIGGER held AFTER DELETE ON %s REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION sentinai.legal_hold_guard(%s)',
				   relation, arguments);
	EXECUTE format('CREATE TRIGGER held_truncate BEFORE TRUNCATE ON %s FOR EACH STATEMENT EXECUTE FUNCTION sentinai.legal_hold_guard(%s)',
				   relation, arguments);
END
$$;
COMMENT ON FUNCTION sentinai.legal_hold_protect(regclass, text[]) IS
	'From now on rows of a table that are under a legal hold can''t be deleted: by their tenant_id and the columns of times, of which one in the hold''s period is enough. For tables of your own too. Errors: 42804 (one of them is of a type that you have made).';

SELECT sentinai.legal_hold_protect('sentinai.event_log', 'created_at');

-- ---- people ----

CREATE FUNCTION sentinai.legal_hold_add(tenant_id text, reason text, from_date text DEFAULT NULL, to_date text DEFAULT NULL, actor text DEFAULT NULL)
	RETURNS bigint
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	#variable_conflict use_column
DECLARE
	tenant		text := sentinai.tenant_check($1);
	from_time	timestamptz := '-infinity';
	to_time		timestamptz := 'infinity';
	new_id		bigint;
BEGIN
	IF NOT EXISTS (SELECT FROM sentinai.tenant t WHERE t.tenant_id = tenant) THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN004',
			MESSAGE = format('tenant %s does not exist', coalesce(quote_ident(left(tenant, 100)), 'NULL')),
			HINT = 'SELECT * FROM sentinai.tenant_list() shows all tenants.';
	END IF;
	PERFORM sentinai.reason_check($2, format('legal_hold_add(%L, ''why'')', tenant));
	IF $3 IS NOT NULL THEN
		from_time := sentinai.report_time(to_jsonb($3), 'from_date', false);
	END IF;
	IF $4 IS NOT NULL THEN
		to_time := sentinai.report_time(to_jsonb($4), 'to_date', true);
	END IF;
	IF from_time >= to_time THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN001',
			MESSAGE = 'from_date is after to_date',
			DETAIL = format('from_date is %s, to_date is %s.', $3, $4);
	END IF;
	INSERT INTO sentinai.legal_hold (tenant_id, period_from, period_to, reason, placed_by)
	VALUES (tenant, from_time, to_time, $2, coalesce($5, sentinai.caller_role())) RETURNING id INTO new_id;
	RETURN new_id;
END
$$;
COMMENT ON FUNCTION sentinai.legal_hold_add(text, text, text, text, text) IS
	'Places a legal hold on what a tenant has in a period, and returns its number: from COMMIT on no retention takes away its rows of event_log and what reports are made of, nor reports about a part of the period, and nobody deletes them (SN077). from_date and to_date as in report_request(); NULL: from the beginning, and from now on for ever. reason is required. Errors: SN001, SN004 (no such tenant).';

CREATE FUNCTION sentinai.legal_hold_release(id bigint, reason text, actor text DEFAULT NULL) RETURNS void
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	#variable_conflict use_column
DECLARE
	hold	sentinai.legal_hold;
BEGIN
	PERFORM sentinai.reason_check($2, format('legal_hold_release(%s, ''why'')', coalesce($1::text, 'NULL')));
	SELECT * INTO hold FROM sentinai.legal_hold h WHERE h.id = $1 AND sentinai.tenant_visible(h.tenant_id) FOR UPDATE;
	IF NOT FOUND THEN
		RAISE EXCEPTION USING ERRCODE = 'SN011', MESSAGE = format('there is no legal hold %s', coalesce($1::text, 'NULL')),
			HINT = 'SELECT * FROM sentinai.legal_hold_list() lists them.';
	ELSIF hold.released_at IS NOT NULL THEN
		RAISE EXCEPTION USING ERRCODE = 'SN010', MESSAGE = format('legal hold %s is released and can''t be released once more', $1),
			DETAIL = format('%s released it at %s: %s', hold.released_by, hold.released_at, hold.release_reason);
	END IF;
	UPDATE sentinai.legal_hold h
	   SET release_reason = $2, released_by = coalesce($3, sentinai.caller_role()), released_authenticated = sentinai.caller_identity(),
		   released_at = clock_timestamp()
	 WHERE h.id = $1;
END
$$;
COMMENT ON FUNCTION sentinai.legal_hold_release(bigint, text, text) IS
	'Releases a legal hold: what it kept goes when its time has come, or has come already. The row stays. reason is required. Errors: SN001 (no reason), SN010 (it is released), SN011.';

CREATE FUNCTION sentinai.legal_hold_list(tenant_id text DEFAULT NULL, released boolean DEFAULT false)
	RETURNS TABLE (id bigint, tenant_id text, report_id text, period_from timestamptz, period_to timestamptz, reason text, placed_by text,
				   placed_at timestamptz, release_reason text, released_by text, released_at timestamptz)
	LANGUAGE sql STABLE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	SELECT h.id, h.tenant_id, h.report_id, h.period_from, h.period_to, h.reason, h.placed_by, h.placed_at, h.release_reason, h.released_by, h.released_at
	  FROM sentinai.legal_hold h, sentinai.tenant_check($1) t
	 WHERE (t IS NULL OR h.tenant_id = t) AND ($2 OR h.released_at IS NULL)
	 ORDER BY h.id
$$;
COMMENT ON FUNCTION sentinai.legal_hold_list(text, boolean) IS
	'The legal holds that stand, of one tenant or (NULL, for who may see all) of every one; released: those that were released too.';
