-- 56_report: reports, made by background workers (report.c) while whoever asked waits for nothing. A type of report is a
-- query; what it reads is bounded by the moment of the request, so that the same request gives the same bytes again.

-- ---- types ----

CREATE TABLE sentinai.report_type (
	report_type		text COLLATE "C" PRIMARY KEY CHECK (report_type ~ '^[a-z][a-z0-9_]{0,62}$'),
	title			text NOT NULL,
	query			text NOT NULL,
	count_query		text,
	summary_query	text,
	parameters		jsonb NOT NULL DEFAULT '{}',
	key_columns		integer NOT NULL DEFAULT 0 CHECK (key_columns BETWEEN 0 AND 16),
	snapshot		boolean NOT NULL DEFAULT false,
	row_limit		bigint CHECK (row_limit > 0),
	role_name		name,
	search_path		text NOT NULL,
	has_payload		boolean NOT NULL DEFAULT false,
	builtin			boolean NOT NULL DEFAULT false,
	created_by		text NOT NULL DEFAULT sentinai.caller_identity(),
	created_at		timestamptz NOT NULL DEFAULT now(),
	CHECK (snapshot = (key_columns = 0)),
	CHECK (snapshot = (row_limit IS NOT NULL))
);
SELECT pg_catalog.pg_extension_config_dump('sentinai.report_type', 'WHERE NOT builtin');
COMMENT ON TABLE sentinai.report_type IS
	'The types of reports: the installed ones (builtin) and those of report_type_add(). A type is a query with $1 tenant_id, $2 and $3 the period (the end is exclusive), $4 the parameters, $5 the bound, $6 the key of the last row read (text[], NULL at first), $7 how many rows to read.';
COMMENT ON COLUMN sentinai.report_type.report_type IS 'Its name: a small letter, then small letters, digits and _.';
COMMENT ON COLUMN sentinai.report_type.title IS 'What people call it.';
COMMENT ON COLUMN sentinai.report_type.query IS 'The query of its rows.';
COMMENT ON COLUMN sentinai.report_type.count_query IS 'A query of $1 to $5 that gives the number of its rows, where that is quicker than counting those of query; NULL: those are counted.';
COMMENT ON COLUMN sentinai.report_type.summary_query IS 'A query of $1 to $5 that gives what a PDF shows before the rows, an object (jsonb) a row: {"summary": [...]} or {"chart": {...}}; NULL: nothing.';
COMMENT ON COLUMN sentinai.report_type.parameters IS 'The parameters that a request may have besides from_date and to_date: name to {"type", "values", "default", "required"}.';
COMMENT ON COLUMN sentinai.report_type.key_columns IS 'The first so many columns of the query are the key that it is read by in chunks; they are no part of the report. 0: it is read at once, see snapshot.';
COMMENT ON COLUMN sentinai.report_type.snapshot IS 'The query is over tables that change: it is read in one snapshot, and can''t be had again.';
COMMENT ON COLUMN sentinai.report_type.row_limit IS 'With snapshot: a report with more rows fails.';
COMMENT ON COLUMN sentinai.report_type.role_name IS 'The role that the query runs as; NULL: the one that requests the report.';
COMMENT ON COLUMN sentinai.report_type.search_path IS 'The search_path that the query runs with.';
COMMENT ON COLUMN sentinai.report_type.has_payload IS 'Its reports hold payloads: only sentinai_payload may download them.';
COMMENT ON COLUMN sentinai.report_type.builtin IS 'Installed with the extension.';
COMMENT ON COLUMN sentinai.report_type.created_by IS 'Who was authenticated when it was added, or changed last by one who is no superuser.';
COMMENT ON COLUMN sentinai.report_type.created_at IS 'When it was added.';

-- ---- reports ----

CREATE TABLE sentinai.audit_report (
	id					text COLLATE "C" PRIMARY KEY,
	seq					bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
	tenant_id			text COLLATE "C" NOT NULL,
	report_type			text COLLATE "C" NOT NULL,
	title				text NOT NULL,
	status				text COLLATE "C" NOT NULL DEFAULT 'pending'
						CHECK (status IN ('pending', 'generating', 'completed', 'failed', 'expired')),
	format				text COLLATE "C" NOT NULL CHECK (format IN ('csv', 'json', 'jsonl', 'pdf')),
	parameters			jsonb NOT NULL,
	period_from			timestamptz NOT NULL,
	period_to			timestamptz NOT NULL,
	bound_at			timestamptz NOT NULL,
	requested_by		text NOT NULL,
	requested_role		name NOT NULL,
	rows_total			bigint,
	rows_done			bigint NOT NULL DEFAULT 0,
	row_count			bigint,
	file_size_bytes		bigint,
	sha256				bytea,
	error_message		text,
	tries				integer NOT NULL DEFAULT 0,
	created_at			timestamptz NOT NULL DEFAULT now(),
	started_at			timestamptz,
	completed_at		timestamptz,
	download_expires_at	timestamptz
);
CREATE INDEX audit_report_tenant ON sentinai.audit_report (tenant_id, created_at, id);
CREATE INDEX audit_report_open ON sentinai.audit_report (tenant_id, seq) WHERE status IN ('pending', 'generating');
CREATE INDEX audit_report_started ON sentinai.audit_report (tenant_id, started_at);
CREATE INDEX audit_report_expires ON sentinai.audit_report (download_expires_at) WHERE status = 'completed';
SELECT pg_catalog.pg_extension_config_dump('sentinai.audit_report', '');
SELECT pg_catalog.pg_extension_config_dump('sentinai.audit_report_seq_seq', '');
COMMENT ON TABLE sentinai.audit_report IS
	'Reports that were asked for, and what became of each. The row stays when its bytes are gone. An UPDATE of the status meets the rules of report_transitions().';
COMMENT ON COLUMN sentinai.audit_report.id IS 'A UUID of version 7.';
COMMENT ON COLUMN sentinai.audit_report.seq IS 'In the order of the requests.';
COMMENT ON COLUMN sentinai.audit_report.tenant_id IS 'Whose data it is about.';
COMMENT ON COLUMN sentinai.audit_report.report_type IS 'The type, a row of report_type.';
COMMENT ON COLUMN sentinai.audit_report.title IS 'As asked for.';
COMMENT ON COLUMN sentinai.audit_report.status IS
	'pending: waits for a worker, or for older transactions to end. generating: a worker makes it. completed: ready for download. failed: error_message says why. expired: the bytes are gone.';
COMMENT ON COLUMN sentinai.audit_report.format IS 'csv, json, jsonl (JSON Lines) or pdf.';
COMMENT ON COLUMN sentinai.audit_report.parameters IS 'As asked for, with from_date and to_date and the type''s defaults.';
COMMENT ON COLUMN sentinai.audit_report.period_from IS 'Begin of the period, inclusive.';
COMMENT ON COLUMN sentinai.audit_report.period_to IS 'End of the period, exclusive.';
COMMENT ON COLUMN sentinai.audit_report.bound_at IS 'It says what was recorded before this moment, and nothing later.';
COMMENT ON COLUMN sentinai.audit_report.requested_by IS 'Who asked, as they said; else their role.';
COMMENT ON COLUMN sentinai.audit_report.requested_role IS 'Who asked, as the server knows. The query of a type without role_name runs as this role.';
COMMENT ON COLUMN sentinai.audit_report.rows_total IS 'Rows below the bound, counted before the first is read; NULL: not yet, or a snapshot.';
COMMENT ON COLUMN sentinai.audit_report.rows_done IS 'Rows read so far, about once a second.';
COMMENT ON COLUMN sentinai.audit_report.row_count IS 'Rows of the completed report.';
COMMENT ON COLUMN sentinai.audit_report.file_size_bytes IS 'Its size.';
COMMENT ON COLUMN sentinai.audit_report.sha256 IS 'SHA-256 of its bytes.';
COMMENT ON COLUMN sentinai.audit_report.error_message IS 'Why it failed, or why it is tried again; NULL: it has not failed.';
COMMENT ON COLUMN sentinai.audit_report.tries IS 'How often a worker has begun it; after three it is not begun again by itself.';
COMMENT ON COLUMN sentinai.audit_report.created_at IS 'When it was asked for.';
COMMENT ON COLUMN sentinai.audit_report.started_at IS 'When a worker began it last.';
COMMENT ON COLUMN sentinai.audit_report.completed_at IS 'When it was completed.';
COMMENT ON COLUMN sentinai.audit_report.download_expires_at IS 'When its bytes go, sentinai.report_retention after completed_at; a later time keeps them longer.';

CREATE TABLE sentinai.report_chunk (
	report_id	text COLLATE "C" NOT NULL REFERENCES sentinai.audit_report (id) ON DELETE CASCADE,
	n			integer NOT NULL,
	data		bytea NOT NULL,
	PRIMARY KEY (report_id, n)
);
-- They come compressed already (report.c); the server's own way would cost more time than all the rest.
ALTER TABLE sentinai.report_chunk ALTER COLUMN data SET STORAGE EXTERNAL;
SELECT pg_catalog.pg_extension_config_dump('sentinai.report_chunk', '');
COMMENT ON TABLE sentinai.report_chunk IS 'The bytes of completed reports, in pieces. They are read by report_download() and report_download_chunks() only.';
COMMENT ON COLUMN sentinai.report_chunk.report_id IS 'The report.';
COMMENT ON COLUMN sentinai.report_chunk.n IS 'From 0, in order.';
COMMENT ON COLUMN sentinai.report_chunk.data IS 'The bytes.';

-- ---- what proves it ----

CREATE TABLE sentinai.report_key (
	only_row	boolean PRIMARY KEY DEFAULT true CHECK (only_row),
	sign_secret	bytea NOT NULL,
	link_secret	bytea NOT NULL,
	created_at	timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE sentinai.report_key IS
	'The secrets of this database: one signs manifests, the other download links. Made at first use, and in no dump: a restored database signs with a key of its own, and older links end.';
COMMENT ON COLUMN sentinai.report_key.only_row IS 'Always true: there is one row.';
COMMENT ON COLUMN sentinai.report_key.sign_secret IS 'An Ed25519 key, 32 random bytes; report_public_key() is its other half.';
COMMENT ON COLUMN sentinai.report_key.link_secret IS '32 random bytes.';
COMMENT ON COLUMN sentinai.report_key.created_at IS 'When it was made.';

CREATE TABLE sentinai.report_manifest (
	report_id	text COLLATE "C" PRIMARY KEY,
	tenant_id	text COLLATE "C" NOT NULL,
	n			bigint NOT NULL,
	manifest	text NOT NULL,
	hash		bytea NOT NULL,
	signature	bytea NOT NULL,
	public_key	bytea NOT NULL,
	UNIQUE (tenant_id, n)
);
SELECT pg_catalog.pg_extension_config_dump('sentinai.report_manifest', '');
COMMENT ON TABLE sentinai.report_manifest IS
	'What each completed report is: query, bound, rows, SHA-256, and the hash of the tenant''s manifest before, signed. Rows stay when the report''s bytes are gone.';
COMMENT ON COLUMN sentinai.report_manifest.report_id IS 'The report.';
COMMENT ON COLUMN sentinai.report_manifest.tenant_id IS 'Its tenant, each of which has a chain of its own.';
COMMENT ON COLUMN sentinai.report_manifest.n IS 'Its number in the chain, from 1, without gaps.';
COMMENT ON COLUMN sentinai.report_manifest.manifest IS 'The manifest, as it was signed, byte by byte: a JSON object.';
COMMENT ON COLUMN sentinai.report_manifest.hash IS 'SHA-256 of the manifest; the next one has it as previous.';
COMMENT ON COLUMN sentinai.report_manifest.signature IS 'The Ed25519 signature of the manifest.';
COMMENT ON COLUMN sentinai.report_manifest.public_key IS 'The key that the signature is checked by.';

CREATE TABLE sentinai.report_history (
	id				bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	report_id		text COLLATE "C" NOT NULL,
	tenant_id		text COLLATE "C" NOT NULL,
	action			text COLLATE "C" NOT NULL
					CHECK (action IN ('status', 'cancel', 'retry', 'download', 'link', 'hold', 'release')),
	from_status		text COLLATE "C",
	to_status		text COLLATE "C",
	reason			text,
	actor			text,
	authenticated	text NOT NULL DEFAULT sentinai.caller_identity(),
	created_at		timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX report_history_report ON sentinai.report_history (report_id, id);
SELECT pg_catalog.pg_extension_config_dump('sentinai.report_history', '');
SELECT pg_catalog.pg_extension_config_dump('sentinai.report_history_id_seq', '');
COMMENT ON TABLE sentinai.report_history IS 'Every change of a report''s status, and everything that people did with it: each download is a row.';
COMMENT ON COLUMN sentinai.report_history.id IS 'In the order in which it was written.';
COMMENT ON COLUMN sentinai.report_history.report_id IS 'The report.';
COMMENT ON COLUMN sentinai.report_history.tenant_id IS 'Its tenant.';
COMMENT ON COLUMN sentinai.report_history.action IS 'status: its status changed, by whomever. Others: the function of that name was called.';
COMMENT ON COLUMN sentinai.report_history.from_status IS 'Status before; NULL: no change of status, or the request.';
COMMENT ON COLUMN sentinai.report_history.to_status IS 'Status after; NULL: no change of status.';
COMMENT ON COLUMN sentinai.report_history.reason IS 'Why, as the caller said, or the error.';
COMMENT ON COLUMN sentinai.report_history.actor IS 'Who, as the caller said.';
COMMENT ON COLUMN sentinai.report_history.authenticated IS 'Who, as the server knows: the login.';
COMMENT ON COLUMN sentinai.report_history.created_at IS 'When.';

-- ---- the states ----

CREATE FUNCTION sentinai.report_transitions() RETURNS TABLE (from_status text, to_status text, done_by text)
	LANGUAGE sql IMMUTABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $$
	VALUES ('pending', 'generating', 'a worker takes it'),
		   ('pending', 'failed', 'report_cancel(), or its type is gone'),
		   ('generating', 'completed', 'its worker, with the last byte'),
		   ('generating', 'failed', 'its worker, report_cancel(), or maintenance after three tries'),
		   ('generating', 'pending', 'maintenance: its worker is gone'),
		   ('failed', 'pending', 'report_retry()'),
		   ('completed', 'expired', 'maintenance: download_expires_at has come')
$$;
COMMENT ON FUNCTION sentinai.report_transitions() IS 'All changes of status that there are, and who makes them. Any other is refused with SN010.';

CREATE FUNCTION sentinai.report_guard() RETURNS trigger
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
BEGIN
	IF NEW.id <> OLD.id OR NEW.tenant_id <> OLD.tenant_id OR NEW.report_type <> OLD.report_type OR NEW.bound_at <> OLD.bound_at
	   OR NOT EXISTS (SELECT FROM sentinai.report_transitions() t
					   WHERE NEW.status = OLD.status OR (t.from_status, t.to_status) = (OLD.status, NEW.status)) THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN010',
			MESSAGE = format('report %s is %s and can''t become %s', OLD.id, OLD.status, NEW.status),
			HINT = 'SELECT * FROM sentinai.report_transitions() lists the changes of status that there are; what a report is about never changes.';
	END IF;
	RETURN NEW;
END
$$;
COMMENT ON FUNCTION sentinai.report_guard() IS 'Trigger: refuses changes of status that report_transitions() doesn''t have.';
CREATE TRIGGER guard BEFORE UPDATE ON sentinai.audit_report FOR EACH ROW EXECUTE FUNCTION sentinai.report_guard();
CREATE TRIGGER role_guard BEFORE INSERT OR UPDATE OF requested_role ON sentinai.audit_report
	FOR EACH ROW EXECUTE FUNCTION sentinai.role_guard('requested_role');
CREATE TRIGGER role_guard BEFORE INSERT OR UPDATE OF role_name, query, count_query, summary_query, search_path ON sentinai.report_type
	FOR EACH ROW EXECUTE FUNCTION sentinai.role_guard('role_name', 'sentinai_platform');

CREATE FUNCTION sentinai.report_type_author() RETURNS trigger
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
BEGIN
	IF NOT (SELECT r.rolsuper FROM pg_roles r WHERE r.rolname = sentinai.caller_role()) THEN
		NEW.created_by := sentinai.caller_identity();
	END IF;
	RETURN NEW;
END
$$;
COMMENT ON FUNCTION sentinai.report_type_author() IS 'Trigger: who is no superuser writes a type of report under its own name.';
CREATE TRIGGER author BEFORE INSERT OR UPDATE ON sentinai.report_type FOR EACH ROW EXECUTE FUNCTION sentinai.report_type_author();

-- A query calls functions of whoever wrote it. By a superuser's request that is no superuser's way to become one.
CREATE FUNCTION sentinai.report_type_refused(type sentinai.report_type, role name) RETURNS text
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	SELECT format('report type "%s" was written by "%s" and can''t run as superuser "%s"', type.report_type, type.created_by, role)
	 WHERE NOT type.builtin AND (SELECT r.rolsuper FROM pg_roles r WHERE r.rolname = role)
	   AND NOT EXISTS (SELECT FROM pg_roles r WHERE r.rolname = type.created_by AND r.rolsuper)
$$;
COMMENT ON FUNCTION sentinai.report_type_refused(sentinai.report_type, name) IS
	'Internal: why a type''s query can''t run as a role; NULL: it can.';

CREATE FUNCTION sentinai.report_changed() RETURNS trigger
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
BEGIN
	INSERT INTO sentinai.report_history (report_id, tenant_id, action, from_status, to_status, reason)
	VALUES (NEW.id, NEW.tenant_id, 'status', OLD.status, NEW.status, NEW.error_message);
	IF NEW.status IN ('pending', 'failed', 'expired') THEN
		DELETE FROM sentinai.report_chunk c WHERE c.report_id = NEW.id;
	END IF;
	RETURN NULL;
END
$$;
COMMENT ON FUNCTION sentinai.report_changed() IS 'Trigger: writes a change of status to report_history, and takes the bytes away that nobody may have any more.';
CREATE TRIGGER changed AFTER UPDATE ON sentinai.audit_report
	FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status) EXECUTE FUNCTION sentinai.report_changed();

-- The one setter. tries: the attempt that it speaks of; a worker whose report was taken from it changes nothing.
CREATE FUNCTION sentinai.report_set_status(id text, to_status text, message text DEFAULT NULL, tries integer DEFAULT NULL) RETURNS boolean
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	#variable_conflict use_column
BEGIN
	UPDATE sentinai.audit_report r
	   SET status = $2, error_message = $3,
		   rows_done = CASE WHEN $2 = 'completed' THEN r.rows_done ELSE 0 END,
		   started_at = CASE WHEN $2 = 'generating' THEN clock_timestamp() ELSE r.started_at END,
		   tries = r.tries + ($2 = 'generating')::integer,
		   completed_at = CASE WHEN $2 = 'completed' THEN clock_timestamp() ELSE r.completed_at END,
		   download_expires_at = CASE WHEN $2 = 'completed'
									  THEN sentinai.usage_clock() + current_setting('sentinai.report_retention')::interval
									  ELSE r.download_expires_at END
	 WHERE r.id = $1 AND ($4 IS NULL OR (r.status = 'generating' AND r.tries = $4));
	RETURN FOUND;
END
$$;
COMMENT ON FUNCTION sentinai.report_set_status(text, text, text, integer) IS
	'Internal: sets a report''s status and what goes with it, the error message among it. tries: only if it is being generated in this attempt. Returns whether it did. Errors: SN010.';

-- ---- asking ----

CREATE FUNCTION sentinai.report_time(value jsonb, name text, is_end boolean) RETURNS timestamptz
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	said	text := value #>> '{}';
	part	text[] := regexp_match(said, '^(\d{4}-\d\d-\d\d)(?:[Tt ](\d\d:\d\d(?::\d\d(?:\.\d{1,6})?)?)([Zz]|[+-]\d\d(?::?\d\d)?)?)?$');
BEGIN
	IF jsonb_typeof(value) = 'string' AND part IS NOT NULL AND part[2] IS NULL THEN
		RETURN (part[1]::date + is_end::integer)::timestamp AT TIME ZONE 'UTC';
	ELSIF jsonb_typeof(value) = 'string' AND part IS NOT NULL THEN
		RETURN (part[1] || ' ' || part[2] || coalesce(part[3], 'Z'))::timestamptz + interval '1 us' * is_end::integer;
	END IF;
	RAISE invalid_datetime_format;
EXCEPTION WHEN invalid_datetime_format OR datetime_field_overflow OR invalid_time_zone_displacement_value THEN
	RAISE EXCEPTION USING
		ERRCODE = 'SN001',
		MESSAGE = format('%s %s is no date', name, coalesce(left(value::text, 100), 'NULL')),
		HINT = 'Dates are written as "2025-01-31" or "2025-01-31T23:59:59Z"; without an offset they are in UTC.';
END
$$;
COMMENT ON FUNCTION sentinai.report_time(jsonb, text, boolean) IS
	'Internal: a date or time of ISO 8601 (without an offset: UTC). is_end: as the exclusive end of a period; a date then means to its end, a time includes itself. Errors: SN001.';

CREATE FUNCTION sentinai.report_parameters(declared jsonb, given jsonb) RETURNS jsonb
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
DECLARE
	result	jsonb := '{}';
	name	text;
	spec	jsonb;
	value	jsonb;
	wrong	text;
BEGIN
	SELECT k INTO name FROM jsonb_object_keys(given) k WHERE k NOT IN ('from_date', 'to_date') AND NOT declared ? k ORDER BY k LIMIT 1;
	IF FOUND THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN001',
			MESSAGE = format('parameter "%s" is not known', left(name, 100)),
			DETAIL = 'This type of report takes from_date, to_date'
					 || coalesce((SELECT string_agg(', ' || k, '' ORDER BY k) FROM jsonb_object_keys(declared) k), '') || '.';
	END IF;
	FOR name, spec IN SELECT * FROM jsonb_each(declared) LOOP
		value := coalesce(nullif(given->name, 'null'), spec->'default');
		wrong := CASE
			WHEN value IS NULL AND coalesce((spec->>'required')::boolean, false) THEN 'is missing'
			WHEN value IS NULL THEN NULL
			WHEN spec->>'type' = 'integer' AND (jsonb_typeof(value) <> 'number' OR value::text !~ '^-?\d{1,18}$') THEN 'must be an integer'
			WHEN spec->>'type' = 'number' AND jsonb_typeof(value) <> 'number' THEN 'must be a number'
			WHEN spec->>'type' = 'boolean' AND jsonb_typeof(value) <> 'boolean' THEN 'must be true or false'
			WHEN spec->>'type' IN ('text', 'time') AND jsonb_typeof(value) <> 'string' THEN 'must be a text'
			WHEN spec ? 'values' AND NOT spec->'values' @> value
				THEN 'must be one of ' || (SELECT string_agg(v, ', ') FROM jsonb_array_elements_text(spec->'values') v)
			END;
		IF wrong IS NOT NULL THEN
			RAISE EXCEPTION USING
				ERRCODE = 'SN001',
				MESSAGE = format('parameter "%s" %s', name, wrong),
				DETAIL = format('It is %s.', coalesce(left(value::text, 100), 'not given, and has no default'));
		END IF;
		IF spec->>'type' = 'time' AND value IS NOT NULL THEN
			PERFORM sentinai.report_time(value, name, false);
		END IF;
		result := result || CASE WHEN value IS NULL THEN '{}' ELSE jsonb_build_object(name, value) END;
	END LOOP;
	RETURN result;
END
$$;
COMMENT ON FUNCTION sentinai.report_parameters(jsonb, jsonb) IS
	'Internal: the parameters given, checked against those declared, with the defaults. Errors: SN001.';

CREATE FUNCTION sentinai.report_id_new() RETURNS text
	LANGUAGE sql VOLATILE
	SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT encode(set_bit(set_bit(overlay(uuid_send(gen_random_uuid())
		PLACING substring(int8send((extract(epoch FROM clock_timestamp()) * 1000)::bigint) FROM 3) FROM 1 FOR 6), 52, 1), 53, 1), 'hex')::uuid::text
$$;
COMMENT ON FUNCTION sentinai.report_id_new() IS 'Internal: a UUID of version 7 (48 bits of milliseconds, 74 random bits), as text.';

CREATE FUNCTION sentinai.report_iso(value timestamptz) RETURNS text
	LANGUAGE sql IMMUTABLE
	SET search_path = pg_catalog, pg_temp
	AS $$ SELECT to_char($1 AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') $$;
COMMENT ON FUNCTION sentinai.report_iso(timestamptz) IS 'Internal: a time as ISO 8601, in UTC.';

CREATE FUNCTION sentinai.report_type_get(report_type text) RETURNS sentinai.report_type
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	#variable_conflict use_column
DECLARE
	type	sentinai.report_type;
BEGIN
	SELECT * INTO type FROM sentinai.report_type t WHERE t.report_type = $1;
	IF NOT FOUND THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN070',
			MESSAGE = format('report type %s is not known', coalesce('"' || left($1, 100) || '"', 'NULL')),
			DETAIL = (SELECT format('The types are %s.', string_agg(t.report_type, ', ' ORDER BY t.report_type)) FROM sentinai.report_type t),
			HINT = 'SELECT sentinai.report_type_add() makes one.';
	END IF;
	RETURN type;
END
$$;
COMMENT ON FUNCTION sentinai.report_type_get(text) IS 'Internal: a type of report. Errors: SN070.';

CREATE FUNCTION sentinai.report_request(
	tenant_id		text,
	report_type		text,
	title			text,
	format			text,
	parameters		jsonb DEFAULT '{}',
	requested_by	text DEFAULT NULL)
	RETURNS TABLE (id text, status text, download_url text, requested_at timestamptz)
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	#variable_conflict use_column
DECLARE
	type		sentinai.report_type;
	refused		text;
	max_range	interval := current_setting('sentinai.report_max_range')::interval;
	given		jsonb := coalesce($5, '{}');
	checked		jsonb;
	from_time	timestamptz;
	to_time		timestamptz;
BEGIN
	PERFORM sentinai.tenant_check($1);
	IF NOT EXISTS (SELECT FROM sentinai.tenant t WHERE t.tenant_id = $1) THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN004',
			MESSAGE = format('tenant %s does not exist', coalesce(quote_ident(left($1, 100)), 'NULL')),
			HINT = 'SELECT * FROM sentinai.tenant_list() shows all tenants.';
	END IF;
	type := sentinai.report_type_get($2);
	refused := sentinai.report_type_refused(type, coalesce(type.role_name, sentinai.caller_role()));
	IF refused IS NOT NULL THEN
		RAISE EXCEPTION USING
			ERRCODE = 'insufficient_privilege',
			MESSAGE = refused,
			HINT = 'Ask as a role with fewer rights, or add the type yourself.';
	END IF;
	IF coalesce(btrim($3), '') = '' OR length($3) > 300 OR $3 ~ '[[:cntrl:]]' THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN001',
			MESSAGE = 'title is not valid',
			HINT = 'A title has 1 to 300 characters on one line.';
	ELSIF $4 IS NULL OR $4 NOT IN ('csv', 'json', 'jsonl', 'pdf') THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN001',
			MESSAGE = format('format %s is not known', coalesce('"' || left($4, 100) || '"', 'NULL')),
			HINT = 'The formats are csv, json, jsonl and pdf.';
	ELSIF jsonb_typeof(given) <> 'object' THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN001',
			MESSAGE = 'parameters must be an object',
			DETAIL = format('They are %s.', left(given::text, 100));
	ELSIF length(given::text) > 10000 THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN001',
			MESSAGE = 'parameters are too long',
			DETAIL = format('They have %s characters, and may have 10000.', length(given::text));
	ELSIF length($6) > 300 OR btrim($6) = '' OR $6 ~ '[[:cntrl:]]' THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN001',
			MESSAGE = 'requested_by is not valid',
			HINT = 'It has 1 to 300 characters on one line; NULL: the role that calls.';
	END IF;
	checked := sentinai.report_parameters(type.parameters, given);
	IF coalesce(given->'from_date', 'null') = 'null' OR coalesce(given->'to_date', 'null') = 'null' THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN001',
			MESSAGE = format('parameter "%s" is missing', (CASE WHEN coalesce(given->'from_date', 'null') = 'null' THEN 'from_date' ELSE 'to_date' END)),
			HINT = 'A report is about a period: {"from_date": "2025-01-01", "to_date": "2025-01-31"}.';
	END IF;
	from_time := sentinai.report_time(given->'from_date', 'from_date', false);
	to_time := sentinai.report_time(given->'to_date', 'to_date', true);
	IF from_time >= to_time THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN001',
			MESSAGE = 'from_date is after to_date',
			DETAIL = format('from_date is %s, to_date is %s.', given->>'from_date', given->>'to_date');
	ELSIF to_time - from_time > max_range THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN001',
			MESSAGE = 'the period is too long',
			DETAIL = format('from_date is %s, to_date is %s; sentinai.report_max_range is %s.', given->>'from_date', given->>'to_date', max_range),
			HINT = 'Ask for several reports.';
	END IF;
	PERFORM sentinai.activate();
	PERFORM sentinai.rate_limit_enforce($1, 'report_generations');
	-- Not by a trigger, which would fire in a restore, too.
	RETURN QUERY
		WITH new AS (
			INSERT INTO sentinai.audit_report AS r (id, tenant_id, report_type, title, format, parameters, period_from, period_to,
													bound_at, requested_by, requested_role)
			VALUES (sentinai.report_id_new(), $1, type.report_type, $3, $4,
					jsonb_build_object('from_date', given->'from_date', 'to_date', given->'to_date') || checked,
					from_time, to_time, clock_timestamp(), coalesce($6, sentinai.caller_role()), sentinai.caller_role())
			RETURNING r.*
		), noted AS (
			INSERT INTO sentinai.report_history (report_id, tenant_id, action, to_status)
			SELECT n.id, n.tenant_id, 'status', n.status FROM new n
		)
		SELECT n.id, n.status, NULL::text, n.created_at FROM new n;
END
$$;
COMMENT ON FUNCTION sentinai.report_request(text, text, text, text, jsonb, text) IS
	'Asks for a report and returns at once: its id (a UUID of version 7), status (pending), download_url (NULL until it is completed) and when. format: csv, json, jsonl or pdf. parameters: from_date and to_date (ISO 8601; a date as to_date means to its end), and what the type declares. requested_by: who asks; NULL: the role that calls. A background worker makes it after COMMIT; report_status() says how far it is. Errors: 42501 (another tenant than the caller''s, or a superuser asks for what another wrote), SN001 (an argument is not valid), SN004 (no such tenant), SN040 (the tenant has had its report_generations), SN070 (no such type).';

CREATE FUNCTION sentinai.report_last(unit text) RETURNS jsonb
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
DECLARE
	ends	timestamp;
BEGIN
	IF unit IS NULL OR unit NOT IN ('day', 'week', 'month', 'quarter', 'year') THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN001',
			MESSAGE = format('period %s is not known', coalesce('"' || left(unit, 100) || '"', 'NULL')),
			HINT = 'The periods are day, week, month, quarter and year.';
	END IF;
	ends := date_trunc(unit, sentinai.usage_clock() AT TIME ZONE 'UTC');
	RETURN jsonb_build_object('from_date', (ends - CASE unit WHEN 'quarter' THEN interval '3 months' ELSE ('1 ' || unit)::interval END)::date,
							  'to_date', ends::date - 1);
END
$$;
COMMENT ON FUNCTION sentinai.report_last(text) IS
	'The last whole day, week (from Monday), month, quarter or year, in UTC, as from_date and to_date of a report''s parameters: for reports that are asked for on a schedule. Errors: SN001.';

-- ---- looking ----

-- A row that says it was recorded before the bound may be of a transaction that is still open. It is, or will be, seen by
-- pg_stat_activity: either its transaction has an id, or its statement has run since before the bound. One without
-- track_activities doesn't tell since when.
CREATE FUNCTION sentinai.report_blocker(bound timestamptz) RETURNS text
	LANGUAGE sql VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	SELECT b.what FROM (
		SELECT a.xact_start AS since, format('process %s (%s), whose transaction is open since %s', a.pid, a.application_name,
											 coalesce(a.xact_start::text, 'nobody knows when: track_activities is off')) AS what
		  FROM pg_stat_activity a
		 WHERE a.datname = current_database() AND coalesce(a.xact_start, '-infinity') <= $1 AND a.pid <> pg_backend_pid()
		   AND a.backend_type <> 'autovacuum worker'
		   AND (a.backend_xid IS NOT NULL
				OR (a.state IS DISTINCT FROM 'idle in transaction' AND a.backend_xmin IS NOT NULL
					AND coalesce(a.query_start, a.xact_start, '-infinity') <= $1))
		UNION ALL
		SELECT p.prepared, format('prepared transaction "%s" of %s', p.gid, p.prepared)
		  FROM pg_prepared_xacts p WHERE p.database = current_database()) b
	 ORDER BY b.since LIMIT 1
$$;
COMMENT ON FUNCTION sentinai.report_blocker(timestamptz) IS
	'Internal: the oldest transaction that may still bring a row that was recorded before this moment; NULL: there is none, and what was recorded before it is final.';

-- One of another tenant is answered as one that isn't there.
CREATE FUNCTION sentinai.report_find(id text, tenant_id text DEFAULT NULL, by_token boolean DEFAULT false) RETURNS sentinai.audit_report
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	#variable_conflict use_column
DECLARE
	report	sentinai.audit_report;
BEGIN
	SELECT * INTO report FROM sentinai.audit_report r WHERE r.id = $1 AND ($2 IS NULL OR r.tenant_id = $2) AND ($3 OR sentinai.tenant_visible(r.tenant_id));
	IF NOT FOUND THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN011',
			MESSAGE = format('there is no report %s', coalesce(quote_literal(left($1, 100)), 'NULL')) || coalesce(' of tenant "' || left($2, 100) || '"', ''),
			HINT = 'SELECT * FROM sentinai.report_list(tenant_id) lists them.';
	END IF;
	RETURN report;
END
$$;
COMMENT ON FUNCTION sentinai.report_find(text, text, boolean) IS
	'Internal: a report by its id, and its tenant if one is given; by_token: whoever calls. Errors: SN011.';

CREATE FUNCTION sentinai.report_lock(id text) RETURNS sentinai.audit_report
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	#variable_conflict use_column
BEGIN
	PERFORM sentinai.report_find($1);
	PERFORM FROM sentinai.audit_report r WHERE r.id = $1 FOR NO KEY UPDATE;
	RETURN sentinai.report_find($1);
END
$$;
COMMENT ON FUNCTION sentinai.report_lock(text) IS 'Internal: a report by its id, locked. Errors: SN011.';

CREATE FUNCTION sentinai.report_list_check(tenant_id text, status text, page integer, page_size integer) RETURNS boolean
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
BEGIN
	PERFORM sentinai.tenant_check($1);
	IF $1 IS NULL OR $3 IS NULL OR $3 < 1 OR $4 IS NULL OR $4 NOT BETWEEN 1 AND 1000
	   OR $2 NOT IN ('pending', 'generating', 'completed', 'failed', 'expired') THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN001',
			MESSAGE = 'an argument of report_list is not valid',
			DETAIL = format('tenant_id is %L, status is %L, page is %L, page_size is %L.', left($1, 100), left($2, 100), $3, $4),
			HINT = 'status is pending, generating, completed, failed, expired or NULL; page counts from 1; page_size is 1 to 1000.';
	END IF;
	RETURN true;
END
$$;
COMMENT ON FUNCTION sentinai.report_list_check(text, text, integer, integer) IS 'Internal: true, or 42501 and SN001 for arguments that report_list() doesn''t take.';

CREATE FUNCTION sentinai.report_held(report sentinai.audit_report) RETURNS boolean
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	SELECT EXISTS (SELECT FROM sentinai.legal_hold h
					WHERE h.tenant_id = ($1).tenant_id AND h.released_at IS NULL
					  AND (h.report_id = ($1).id OR (h.report_id IS NULL AND h.period_from < ($1).period_to AND h.period_to > ($1).period_from)))
$$;
COMMENT ON FUNCTION sentinai.report_held(sentinai.audit_report) IS 'Internal: whether a legal hold is on a report, or on a part of its period.';

CREATE FUNCTION sentinai.report_held_guard() RETURNS trigger
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
BEGIN
	LOCK TABLE sentinai.legal_hold IN SHARE MODE;
	IF sentinai.report_held(OLD) THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN077',
			MESSAGE = format('report %s is under a legal hold', OLD.id),
			HINT = format('SELECT * FROM sentinai.legal_hold_list(%L) shows the holds that stand.', OLD.tenant_id);
	END IF;
	RETURN OLD;
END
$$;
COMMENT ON FUNCTION sentinai.report_held_guard() IS 'Trigger BEFORE DELETE of a report. Errors: SN077.';
CREATE TRIGGER held BEFORE DELETE ON sentinai.audit_report FOR EACH ROW EXECUTE FUNCTION sentinai.report_held_guard();

CREATE FUNCTION sentinai.report_url(report sentinai.audit_report) RETURNS text
	LANGUAGE sql IMMUTABLE
	SET search_path = pg_catalog, pg_temp
	AS $$ SELECT CASE WHEN ($1).status = 'completed' THEN format('/audit/reports/%s/download?tenant_id=%s', ($1).id, ($1).tenant_id) END $$;
COMMENT ON FUNCTION sentinai.report_url(sentinai.audit_report) IS 'Internal: where a completed report is downloaded from; NULL: it is not completed.';

CREATE FUNCTION sentinai.report_list(tenant_id text, status text DEFAULT NULL, page integer DEFAULT 1, page_size integer DEFAULT 50,
		after_created_at timestamptz DEFAULT NULL, after_id text DEFAULT NULL)
	RETURNS TABLE (id text, tenant_id text, report_type text, title text, status text, format text, parameters jsonb,
				   file_size_bytes bigint, row_count bigint, download_url text, download_expires_at timestamptz,
				   error_message text, requested_by text, started_at timestamptz, completed_at timestamptz,
				   created_at timestamptz, total bigint)
	LANGUAGE sql STABLE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	SELECT r.id, r.tenant_id, r.report_type, r.title, r.status, r.format, r.parameters, r.file_size_bytes, r.row_count,
		   sentinai.report_url(r), r.download_expires_at, r.error_message, r.requested_by, r.started_at, r.completed_at,
		   r.created_at, (SELECT count(*) FROM sentinai.audit_report c WHERE c.tenant_id = $1 AND ($2 IS NULL OR c.status = $2))
	  FROM sentinai.audit_report r
	 WHERE r.tenant_id = $1 AND ($2 IS NULL OR r.status = $2)
	   AND ($5 IS NULL OR (r.created_at, r.id) < ($5, coalesce($6, '')))
	 ORDER BY r.created_at DESC, r.id DESC
	OFFSET CASE WHEN sentinai.report_list_check($1, $2, $3, $4) THEN ($3 - 1)::bigint * $4 END LIMIT $4
$$;
COMMENT ON FUNCTION sentinai.report_list(text, text, integer, integer, timestamptz, text) IS
	'The reports of a tenant, newest first, a page of page_size (1 to 1000); status: only those. after_created_at, after_id: of the last report that was seen, behind which page 1 begins. total: how many there are on all pages. Errors: 42501, SN001.';

CREATE FUNCTION sentinai.report_status(id text, tenant_id text DEFAULT NULL)
	RETURNS TABLE (id text, tenant_id text, report_type text, title text, status text, format text, parameters jsonb,
				   file_size_bytes bigint, row_count bigint, download_url text, download_expires_at timestamptz,
				   error_message text, requested_by text, started_at timestamptz, completed_at timestamptz,
				   created_at timestamptz, rows_done bigint, percent numeric, waits_for text, tries integer, sha256 text, legal_hold boolean)
	LANGUAGE sql STABLE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	SELECT r.id, r.tenant_id, r.report_type, r.title, r.status, r.format, r.parameters, r.file_size_bytes, r.row_count,
		   sentinai.report_url(r), r.download_expires_at, r.error_message, r.requested_by, r.started_at, r.completed_at,
		   r.created_at, r.rows_done,
		   CASE WHEN r.status IN ('completed', 'expired') THEN 100.0
				WHEN r.rows_total > 0 THEN round(100.0 * least(r.rows_done, r.rows_total) / r.rows_total, 1) END,
		   CASE WHEN r.status = 'pending' THEN
				coalesce((SELECT CASE WHEN sentinai.caller_sees_all() THEN b ELSE 'a transaction that is open' END
							FROM sentinai.report_blocker(r.bound_at) AS b WHERE b IS NOT NULL), 'a background worker') END,
		   r.tries, encode(r.sha256, 'hex'), sentinai.report_held(r)
	  FROM sentinai.report_find($1, $2) r
$$;
COMMENT ON FUNCTION sentinai.report_status(text, text) IS
	'A report by its id (and only if it is this tenant''s, where one is given): status, and while it is generated rows_done and per cent; waits_for: what a pending one waits for (whose transaction it is only who sees all is told); tries: how often a worker has begun it; sha256 of its bytes; legal_hold: it doesn''t expire. Errors: SN011.';

CREATE FUNCTION sentinai.report_stats(tenant_id text)
	RETURNS TABLE (tenant_id text, total_reports bigint, pending_count bigint, generating_count bigint, completed_count bigint,
				   failed_count bigint, expired_count bigint, by_report_type jsonb)
	LANGUAGE sql STABLE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	SELECT sentinai.tenant_check($1), count(*), count(*) FILTER (WHERE r.status = 'pending'), count(*) FILTER (WHERE r.status = 'generating'),
		   count(*) FILTER (WHERE r.status = 'completed'), count(*) FILTER (WHERE r.status = 'failed'),
		   count(*) FILTER (WHERE r.status = 'expired'),
		   coalesce((SELECT jsonb_object_agg(t.report_type, t.n)
					   FROM (SELECT b.report_type, count(*) AS n FROM sentinai.audit_report b WHERE b.tenant_id = $1 GROUP BY 1) t), '{}')
	  FROM sentinai.audit_report r WHERE r.tenant_id = $1
$$;
COMMENT ON FUNCTION sentinai.report_stats(text) IS 'How many reports a tenant has, by status and by type. Errors: 42501.';

-- ---- downloading ----

-- A type of ours may be downloaded by whoever may see what is in it; a user's own type shows what the role that asked could see.
CREATE FUNCTION sentinai.report_check(id text, tenant_id text, by_token boolean DEFAULT false) RETURNS sentinai.audit_report
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	#variable_conflict use_column
DECLARE
	report	sentinai.audit_report := sentinai.report_find($1, $2, $3);
	caller	name := sentinai.caller_role();
	type	sentinai.report_type;
BEGIN
	SELECT * INTO type FROM sentinai.report_type t WHERE t.report_type = report.report_type;
	IF NOT $3 AND NOT pg_has_role(caller, 'sentinai_admin', 'MEMBER')
	   AND (CASE WHEN type.builtin THEN type.has_payload AND NOT pg_has_role(caller, 'sentinai_payload', 'MEMBER')
				 ELSE NOT EXISTS (SELECT FROM pg_roles o WHERE o.rolname = report.requested_role AND pg_has_role(caller, o.oid, 'MEMBER')) END)
	THEN
		RAISE EXCEPTION USING
			ERRCODE = 'insufficient_privilege',
			MESSAGE = format('report %s is not for role "%s"', $1, caller),
			DETAIL = (CASE WHEN type.builtin THEN 'It holds payloads.' ELSE format('It was made with the rights of "%s".', report.requested_role) END);
	ELSIF report.status = 'expired' OR (report.status = 'completed' AND report.download_expires_at <= sentinai.usage_clock() AND NOT sentinai.report_held(report)) THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN072',
			MESSAGE = format('report %s has expired', $1),
			DETAIL = format('Its bytes are gone since %s.', report.download_expires_at),
			HINT = 'Generate a new report with the same parameters.';
	ELSIF report.status <> 'completed' THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN071',
			MESSAGE = format('report %s is not completed', $1),
			DETAIL = format('It is %s', report.status) || coalesce(': ' || report.error_message, '') || '.',
			HINT = format('SELECT * FROM sentinai.report_status(%L)', $1);
	END IF;
	RETURN report;
END
$$;
COMMENT ON FUNCTION sentinai.report_check(text, text, boolean) IS
	'Internal: a completed report that the caller may have (by_token: whose link says so). Errors: 42501, SN011, SN071 (not completed), SN072 (expired).';

CREATE FUNCTION sentinai.report_ready(id text, tenant_id text, how text, actor text, by_token boolean DEFAULT false) RETURNS sentinai.audit_report
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	#variable_conflict use_column
DECLARE
	report	sentinai.audit_report := sentinai.report_check($1, $2, $5);
BEGIN
	INSERT INTO sentinai.report_history (report_id, tenant_id, action, actor) VALUES (report.id, report.tenant_id, $3, $4);
	RETURN report;
END
$$;
COMMENT ON FUNCTION sentinai.report_ready(text, text, text, text, boolean) IS
	'Internal: what report_check() gives, noted in report_history.';

CREATE FUNCTION sentinai.report_file_name(report sentinai.audit_report) RETURNS text
	LANGUAGE sql IMMUTABLE
	SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT format('%s-%s-%s-%s.%s', ($1).report_type, ($1).tenant_id, ($1).parameters->>'from_date', ($1).id, ($1).format)
$$;
COMMENT ON FUNCTION sentinai.report_file_name(sentinai.audit_report) IS 'Internal: what a browser should call the file.';

CREATE FUNCTION sentinai.report_content_type(format text) RETURNS text
	LANGUAGE sql IMMUTABLE
	SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT CASE $1 WHEN 'csv' THEN 'text/csv; charset=utf-8; header=present' WHEN 'json' THEN 'application/json'
				   WHEN 'jsonl' THEN 'application/jsonl' WHEN 'pdf' THEN 'application/pdf' END
$$;
COMMENT ON FUNCTION sentinai.report_content_type(text) IS 'Internal: the media type of a format.';

CREATE FUNCTION sentinai.report_file(report sentinai.audit_report)
	RETURNS TABLE (file_name text, content_type text, file_size_bytes bigint, sha256 text)
	LANGUAGE sql IMMUTABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	SELECT replace(sentinai.report_file_name($1), ':', ''), sentinai.report_content_type(($1).format), ($1).file_size_bytes, encode(($1).sha256, 'hex')
$$;
COMMENT ON FUNCTION sentinai.report_file(sentinai.audit_report) IS 'Internal: what a completed report is as a file.';

CREATE FUNCTION sentinai.report_content(report sentinai.audit_report)
	RETURNS TABLE (file_name text, content_type text, file_size_bytes bigint, sha256 text, content bytea)
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	#variable_conflict use_column
BEGIN
	IF $1.file_size_bytes > 500 * 1024 * 1024 THEN
		RAISE EXCEPTION USING
			ERRCODE = 'program_limit_exceeded',
			MESSAGE = format('report %s is too large for one value', $1.id),
			DETAIL = format('It has %s bytes.', $1.file_size_bytes),
			HINT = format('SELECT data FROM sentinai.report_download_chunks(%L) gives it in pieces.', $1.id);
	END IF;
	RETURN QUERY SELECT f.*, coalesce((SELECT string_agg(c.data, '' ORDER BY c.n) FROM sentinai.report_chunk c WHERE c.report_id = $1.id), '')
		FROM sentinai.report_file($1) f;
END
$$;
COMMENT ON FUNCTION sentinai.report_content(sentinai.audit_report) IS 'Internal: a completed report as one value. Errors: 54000.';

CREATE FUNCTION sentinai.report_download(id text, tenant_id text DEFAULT NULL, actor text DEFAULT NULL)
	RETURNS TABLE (file_name text, content_type text, file_size_bytes bigint, sha256 text, content bytea)
	LANGUAGE sql VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$ SELECT * FROM sentinai.report_content(sentinai.report_ready($1, $2, 'download', $3)) $$;
COMMENT ON FUNCTION sentinai.report_download(text, text, text) IS
	'A completed report whole (up to 500 MB), with a file name and its media type; actor: who downloads it, noted in report_history with the login. Errors: 42501 (not for this role), 54000 (too large), SN011, SN071 (not completed), SN072 (expired).';

CREATE FUNCTION sentinai.report_download_head(id text, tenant_id text DEFAULT NULL)
	RETURNS TABLE (file_name text, content_type text, file_size_bytes bigint, sha256 text)
	LANGUAGE sql STABLE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$ SELECT * FROM sentinai.report_file(sentinai.report_check($1, $2)) $$;
COMMENT ON FUNCTION sentinai.report_download_head(text, text) IS
	'What report_download() would give, without the bytes; nothing is noted. Errors: those of report_download().';

CREATE FUNCTION sentinai.report_download_chunks(id text, tenant_id text DEFAULT NULL, actor text DEFAULT NULL)
	RETURNS TABLE (n integer, data bytea)
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	#variable_conflict use_column
BEGIN
	PERFORM sentinai.report_ready($1, $2, 'download', $3);
	RETURN QUERY SELECT c.n, c.data FROM sentinai.report_chunk c WHERE c.report_id = $1 ORDER BY c.n;
END
$$;
COMMENT ON FUNCTION sentinai.report_download_chunks(text, text, text) IS
	'A completed report in pieces of up to 256 kB, in order, for reports of any size. Notes and raises what report_download() does.';

-- ---- manifests ----

CREATE FUNCTION sentinai.report_public_key_of(secret bytea) RETURNS bytea
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
	AS 'MODULE_PATHNAME', 'sn_report_public_key';
COMMENT ON FUNCTION sentinai.report_public_key_of(bytea) IS 'Internal: the public half of an Ed25519 key.';

CREATE FUNCTION sentinai.report_sign(message text, secret bytea) RETURNS bytea
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
	AS 'MODULE_PATHNAME', 'sn_report_sign';
COMMENT ON FUNCTION sentinai.report_sign(text, bytea) IS 'Internal: the Ed25519 signature of a text.';

CREATE FUNCTION sentinai.report_signature_ok(message text, signature bytea, public_key bytea) RETURNS boolean
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
	AS 'MODULE_PATHNAME', 'sn_report_signature_ok';
COMMENT ON FUNCTION sentinai.report_signature_ok(text, bytea, bytea) IS 'Whether this is the Ed25519 signature of a text by that key.';

CREATE FUNCTION sentinai.report_mac(message text, secret bytea) RETURNS bytea
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
	AS 'MODULE_PATHNAME', 'sn_report_mac';
COMMENT ON FUNCTION sentinai.report_mac(text, bytea) IS 'Internal: HMAC-SHA256 of a text.';

CREATE FUNCTION sentinai.report_key_get() RETURNS sentinai.report_key
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
DECLARE
	key	sentinai.report_key;
BEGIN
	SELECT * INTO key FROM sentinai.report_key;
	IF NOT FOUND THEN
		INSERT INTO sentinai.report_key (sign_secret, link_secret)
		SELECT sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())),
			   sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()))
		ON CONFLICT DO NOTHING;
		SELECT * INTO key FROM sentinai.report_key;
	END IF;
	RETURN key;
END
$$;
COMMENT ON FUNCTION sentinai.report_key_get() IS 'Internal: the secrets, made if there are none yet.';

CREATE FUNCTION sentinai.report_public_key() RETURNS text
	LANGUAGE sql VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$ SELECT encode(sentinai.report_public_key_of((sentinai.report_key_get()).sign_secret), 'hex') $$;
COMMENT ON FUNCTION sentinai.report_public_key() IS
	'The Ed25519 key (64 hexadecimal digits) by which this database''s manifests are checked. Publish it where an auditor finds it without asking you.';

-- The tenant's row is locked, so that two reports don't follow the same manifest.
CREATE FUNCTION sentinai.report_manifest_add(id text, query text) RETURNS void
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	#variable_conflict use_column
DECLARE
	r		sentinai.audit_report := sentinai.report_find($1);
	type	sentinai.report_type;
	before	sentinai.report_manifest;
	key		sentinai.report_key := sentinai.report_key_get();
	said	text;
BEGIN
	PERFORM FROM sentinai.tenant t WHERE t.tenant_id = r.tenant_id FOR NO KEY UPDATE;
	SELECT * INTO before FROM sentinai.report_manifest m WHERE m.tenant_id = r.tenant_id ORDER BY m.n DESC LIMIT 1;
	SELECT * INTO type FROM sentinai.report_type t WHERE t.report_type = r.report_type;
	said := json_build_object(
		'version', 1, 'report_id', r.id, 'tenant_id', r.tenant_id, 'report_type', r.report_type, 'title', r.title, 'format', r.format,
		'parameters', r.parameters, 'period_from', sentinai.report_iso(r.period_from), 'period_to', sentinai.report_iso(r.period_to),
		'requested_by', r.requested_by, 'requested_at', sentinai.report_iso(r.created_at), 'bound', sentinai.report_iso(r.bound_at),
		'reproducible', coalesce(NOT type.snapshot, false), 'query', $2, 'rows', r.row_count, 'bytes', r.file_size_bytes,
		'sha256', encode(r.sha256, 'hex'), 'number', coalesce(before.n, 0) + 1, 'previous', encode(before.hash, 'hex'));
	INSERT INTO sentinai.report_manifest (report_id, tenant_id, n, manifest, hash, signature, public_key)
	VALUES (r.id, r.tenant_id, coalesce(before.n, 0) + 1, said, sha256(convert_to(said, 'UTF8')),
			sentinai.report_sign(said, key.sign_secret), sentinai.report_public_key_of(key.sign_secret));
END
$$;
COMMENT ON FUNCTION sentinai.report_manifest_add(text, text) IS 'Internal: signs the manifest of a report whose bytes are stored, behind the tenant''s last one.';

CREATE FUNCTION sentinai.report_manifest_get(id text, tenant_id text DEFAULT NULL) RETURNS json
	LANGUAGE plpgsql STABLE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	#variable_conflict use_column
DECLARE
	report	sentinai.audit_report := sentinai.report_find($1, $2);
	m		sentinai.report_manifest;
BEGIN
	SELECT * INTO m FROM sentinai.report_manifest r WHERE r.report_id = report.id;
	IF NOT FOUND THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN071',
			MESSAGE = format('report %s is not completed', $1),
			DETAIL = format('It is %s.', report.status);
	END IF;
	RETURN json_build_object('algorithm', 'Ed25519', 'manifest', m.manifest, 'signature', encode(m.signature, 'hex'),
							 'public_key', encode(m.public_key, 'hex'));
END
$$;
COMMENT ON FUNCTION sentinai.report_manifest_get(text, text) IS
	'What proves a completed report, to be kept beside its file: the manifest as the text that was signed, its signature and the key, as JSON. sentinai-worker verify reads it. Errors: SN011, SN071 (not completed).';

CREATE FUNCTION sentinai.report_chain_check(tenant_id text) RETURNS TABLE (n bigint, report_id text, problem text)
	LANGUAGE sql STABLE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	SELECT c.n, c.report_id, c.problem
	  FROM (SELECT m.n, m.report_id,
				   CASE WHEN sha256(convert_to(m.manifest, 'UTF8')) <> m.hash THEN 'the manifest was changed'
						WHEN NOT sentinai.report_signature_ok(m.manifest, m.signature, m.public_key) THEN 'the signature is not the manifest''s'
						WHEN m.n <> row_number() OVER w THEN 'the manifest before is missing'
						WHEN m.manifest::json->>'previous' IS DISTINCT FROM encode(lag(m.hash) OVER w, 'hex')
							THEN 'the manifest before was changed'
						WHEN r.sha256 IS DISTINCT FROM decode(m.manifest::json->>'sha256', 'hex') THEN 'the report is another one'
				   END AS problem
			  FROM sentinai.report_manifest m LEFT JOIN sentinai.audit_report r ON r.id = m.report_id
			 WHERE m.tenant_id = sentinai.tenant_check($1) WINDOW w AS (ORDER BY m.n)) c
	 WHERE c.problem IS NOT NULL ORDER BY c.n
$$;
COMMENT ON FUNCTION sentinai.report_chain_check(text) IS
	'The manifests of a tenant that don''t fit: changed, badly signed, or with one missing before. No row: the chain is whole. Errors: 42501.';

-- ---- links ----

CREATE FUNCTION sentinai.report_link(id text, valid_for interval DEFAULT NULL, actor text DEFAULT NULL)
	RETURNS TABLE (url text, token text, expires_at timestamptz)
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	#variable_conflict use_column
DECLARE
	report	sentinai.audit_report := sentinai.report_ready($1, NULL, 'link', $3);
	ends	timestamptz := report.download_expires_at;
	said	text;
BEGIN
	IF $2 <= interval '0' THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN001',
			MESSAGE = format('valid_for is %s and must be more than nothing', $2);
	END IF;
	-- A report that is held has no end of its own.
	IF sentinai.report_held(report) THEN
		ends := sentinai.usage_clock() + coalesce($2, current_setting('sentinai.report_retention')::interval);
	ELSIF $2 < report.download_expires_at - sentinai.usage_clock() THEN
		ends := sentinai.usage_clock() + $2;
	END IF;
	said := report.id || '.' || floor(extract(epoch FROM ends))::bigint;
	token := said || '.' || encode(sentinai.report_mac(said, (sentinai.report_key_get()).link_secret), 'hex');
	RETURN QUERY SELECT format('/audit/reports/%s/download?token=%s', report.id, token), token, to_timestamp(floor(extract(epoch FROM ends)));
END
$$;
COMMENT ON FUNCTION sentinai.report_link(text, interval, text) IS
	'A link by which a completed report can be downloaded without a login, until expires_at: valid_for from now, at most as long as the report is there. Noted in report_history. Errors: SN001, and those of report_download().';

-- Writes nothing: a database without a secret has made no link.
CREATE FUNCTION sentinai.report_link_check(token text) RETURNS text
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
DECLARE
	part	text[] := regexp_match(token, '^(([0-9a-f-]{36})\.(\d{1,12}))\.([0-9a-f]{64})$');
	secret	bytea := (SELECT k.link_secret FROM sentinai.report_key k);
BEGIN
	-- Hashed once more, so that the time of the comparison tells nothing about the code.
	IF part IS NULL OR secret IS NULL
	   OR sentinai.report_mac(part[4], secret) <> sentinai.report_mac(encode(sentinai.report_mac(part[1], secret), 'hex'), secret) THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN073',
			MESSAGE = 'link is not valid',
			DETAIL = 'It was not made by this database, or was changed.';
	ELSIF to_timestamp(part[3]::bigint) <= sentinai.usage_clock() THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN073',
			MESSAGE = 'link has expired',
			DETAIL = format('It was good until %s.', to_timestamp(part[3]::bigint)),
			HINT = format('SELECT * FROM sentinai.report_link(%L) makes a new one.', part[2]);
	END IF;
	RETURN part[2];
END
$$;
COMMENT ON FUNCTION sentinai.report_link_check(text) IS
	'Internal: the id of the report that a link of report_link() is for. Errors: SN073 (not a link of ours, or it has expired).';

CREATE FUNCTION sentinai.report_download_by_token(token text)
	RETURNS TABLE (file_name text, content_type text, file_size_bytes bigint, sha256 text, content bytea)
	LANGUAGE sql VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$ SELECT * FROM sentinai.report_content(sentinai.report_ready(sentinai.report_link_check($1), NULL, 'download', 'link', true)) $$;
COMMENT ON FUNCTION sentinai.report_download_by_token(text) IS
	'The report of a link of report_link(), and no other. Errors: SN072 (the report has expired), SN073 (not a link of ours, or it has expired), 54000 (too large).';

CREATE FUNCTION sentinai.report_download_head_by_token(token text)
	RETURNS TABLE (file_name text, content_type text, file_size_bytes bigint, sha256 text)
	LANGUAGE sql STABLE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$ SELECT * FROM sentinai.report_file(sentinai.report_check(sentinai.report_link_check($1), NULL, true)) $$;
COMMENT ON FUNCTION sentinai.report_download_head_by_token(text) IS
	'What report_download_by_token() would give, without the bytes; nothing is noted. Errors: those of report_download_by_token().';

-- ---- people ----

CREATE FUNCTION sentinai.report_note(report sentinai.audit_report, action text, reason text, actor text) RETURNS void
	LANGUAGE sql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	SELECT sentinai.reason_check($3);
	INSERT INTO sentinai.report_history (report_id, tenant_id, action, reason, actor)
	VALUES (($1).id, ($1).tenant_id, $2, $3, coalesce($4, sentinai.caller_role()))
$$;
COMMENT ON FUNCTION sentinai.report_note(sentinai.audit_report, text, text, text) IS 'Internal: a row of report_history. Error: SN001 (the reason is too long).';

CREATE FUNCTION sentinai.report_cancel(id text, reason text DEFAULT NULL, actor text DEFAULT NULL) RETURNS void
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	#variable_conflict use_column
DECLARE
	report	sentinai.audit_report := sentinai.report_lock($1);
BEGIN
	IF report.status NOT IN ('pending', 'generating') THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN010',
			MESSAGE = format('report %s is %s and can''t be cancelled', $1, report.status);
	END IF;
	PERFORM sentinai.report_note(report, 'cancel', $2, $3);
	PERFORM sentinai.report_set_status($1, 'failed', format('cancelled by %s', coalesce($3, sentinai.caller_role())) || coalesce(': ' || $2, ''));
	PERFORM pg_cancel_backend(w.pid) FROM sentinai.report_workers() w WHERE w.seq = report.seq;
END
$$;
COMMENT ON FUNCTION sentinai.report_cancel(text, text, text) IS
	'Ends a report that is pending or being generated: it is failed, with who cancelled it and why as its error. Errors: SN010 (it has ended already), SN011.';

CREATE FUNCTION sentinai.report_retry(id text, reason text DEFAULT NULL, actor text DEFAULT NULL) RETURNS void
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	#variable_conflict use_column
DECLARE
	report	sentinai.audit_report := sentinai.report_lock($1);
BEGIN
	IF report.status <> 'failed' THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN010',
			MESSAGE = format('report %s is %s and can''t be retried', $1, report.status),
			HINT = 'A failed report is retried; for another one with the same parameters call report_request().';
	END IF;
	PERFORM sentinai.report_note(report, 'retry', $2, $3);
	PERFORM sentinai.report_set_status($1, 'pending');
	UPDATE sentinai.audit_report r SET tries = 0 WHERE r.id = $1;
END
$$;
COMMENT ON FUNCTION sentinai.report_retry(text, text, text) IS
	'Makes a failed report pending again, with its parameters and its bound. Errors: SN010 (it has not failed), SN011.';

CREATE FUNCTION sentinai.report_hold(id text, reason text, actor text DEFAULT NULL) RETURNS void
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	#variable_conflict use_column
DECLARE
	report	sentinai.audit_report := sentinai.report_lock($1);
BEGIN
	PERFORM sentinai.reason_check($2, format('report_hold(%L, ''why'')', $1));
	IF report.status = 'expired' THEN
		RAISE EXCEPTION USING ERRCODE = 'SN072', MESSAGE = format('report %s has expired', $1), DETAIL = 'There is nothing left to hold.';
	END IF;
	PERFORM sentinai.report_note(report, 'hold', $2, $3);
	-- What it is made of was recorded until its bound.
	INSERT INTO sentinai.legal_hold (tenant_id, report_id, period_from, period_to, reason, placed_by)
	VALUES (report.tenant_id, report.id, report.period_from, greatest(report.period_to, report.bound_at), $2, coalesce($3, sentinai.caller_role()))
	ON CONFLICT DO NOTHING;
END
$$;
COMMENT ON FUNCTION sentinai.report_hold(text, text, text) IS
	'Puts a legal hold on a report and on what it is made of: it does not expire until report_release(). Once more changes nothing. reason is required. Errors: SN001 (no reason), SN011, SN072 (it has expired).';

CREATE FUNCTION sentinai.report_release(id text, reason text, actor text DEFAULT NULL) RETURNS void
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	#variable_conflict use_column
DECLARE
	hold	bigint;
	report	sentinai.audit_report := sentinai.report_lock($1);
BEGIN
	PERFORM sentinai.reason_check($2, format('report_release(%L, ''why'')', $1));
	SELECT h.id INTO hold FROM sentinai.legal_hold h WHERE h.report_id = report.id AND h.released_at IS NULL;
	IF NOT FOUND THEN
		RAISE EXCEPTION USING ERRCODE = 'SN010', MESSAGE = format('report %s is under no legal hold of its own', $1),
			HINT = format('SELECT * FROM sentinai.legal_hold_list(%L) shows those of its tenant.', report.tenant_id);
	END IF;
	PERFORM sentinai.report_note(report, 'release', $2, $3);
	PERFORM sentinai.legal_hold_release(hold, $2, $3);
END
$$;
COMMENT ON FUNCTION sentinai.report_release(text, text, text) IS
	'Takes back the legal hold of report_hold(): the report expires when its time has come, unless a hold of legal_hold_add() stands. reason is required. Errors: SN001 (no reason), SN010 (it has none), SN011.';

-- ---- types of one's own ----

CREATE FUNCTION sentinai.report_query_columns(query text, key_columns integer) RETURNS text[]
	LANGUAGE c VOLATILE
	AS 'MODULE_PATHNAME', 'sn_report_query_columns';
COMMENT ON FUNCTION sentinai.report_query_columns(text, integer) IS
	'Internal: the columns that a query of a report type shows, in order; parses it as the caller. Errors: SN001 (no query, no columns, two of one name), and what the query itself is wrong about.';

CREATE FUNCTION sentinai.report_type_add(
	report_type		text,
	query			text,
	title			text DEFAULT NULL,
	parameters		jsonb DEFAULT '{}',
	key_columns		integer DEFAULT 0,
	snapshot		boolean DEFAULT false,
	row_limit		bigint DEFAULT NULL)
	RETURNS text[]
	LANGUAGE plpgsql VOLATILE
	AS $$
	#variable_conflict use_column
DECLARE
	columns	text[];
	wrong	text;
BEGIN
	SELECT p.key INTO wrong FROM pg_catalog.jsonb_each(CASE WHEN pg_catalog.jsonb_typeof($4) = 'object' THEN $4 ELSE '{"": 0}' END) p
	 WHERE p.key !~ '^[a-z][a-z0-9_]{0,62}$' OR p.key IN ('from_date', 'to_date') OR pg_catalog.jsonb_typeof(p.value) <> 'object'
		OR (p.value->>'type') IS NULL OR p.value->>'type' NOT IN ('text', 'integer', 'number', 'boolean', 'time')
		OR pg_catalog.jsonb_typeof(coalesce(p.value->'values', '[]')) <> 'array'
		OR pg_catalog.jsonb_typeof(coalesce(p.value->'required', 'true')) <> 'boolean' LIMIT 1;
	IF FOUND THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN001',
			MESSAGE = 'the declaration of parameters is not valid',
			DETAIL = pg_catalog.format('The parameter is %L.', wrong),
			HINT = 'Declare them as {"name": {"type": "text", "values": [...], "default": ..., "required": true}}; a type is text, integer, number, boolean or time.';
	ELSIF $1 IS NULL OR $1 !~ '^[a-z][a-z0-9_]{0,62}$' THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN001',
			MESSAGE = pg_catalog.format('report_type %s is not valid', coalesce(pg_catalog.quote_literal(pg_catalog.left($1, 100)), 'NULL')),
			HINT = 'It has 1 to 63 characters: a small letter, then small letters, digits and "_".';
	ELSIF EXISTS (SELECT FROM sentinai.report_type t WHERE t.report_type = $1 AND t.builtin) THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN012',
			MESSAGE = pg_catalog.format('report type "%s" is built in', $1),
			HINT = 'Choose another name.';
	ELSIF coalesce($5, 0) NOT BETWEEN 0 AND 16 OR coalesce($6, false) <> (coalesce($5, 0) = 0) THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN001',
			MESSAGE = 'a report type is read by its key or in one snapshot',
			HINT = 'Say key_columns => n where the first n columns are a key of rows that never change, else snapshot => true.';
	ELSIF coalesce($7, 1) NOT BETWEEN 1 AND 10000000 OR ($7 IS NOT NULL AND NOT coalesce($6, false)) THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN001',
			MESSAGE = 'row_limit is not valid',
			HINT = 'It goes with snapshot => true, and is 1 to 10000000; 100000 where it is NULL.';
	END IF;
	columns := sentinai.report_query_columns($2, coalesce($5, 0));
	INSERT INTO sentinai.report_type AS t (report_type, title, query, parameters, key_columns, snapshot, row_limit, search_path)
	VALUES ($1, coalesce(nullif(pg_catalog.btrim($3), ''), $1), $2, $4, coalesce($5, 0), $6, CASE WHEN $6 THEN coalesce($7, 100000) END,
			pg_catalog.current_setting('search_path'))
	ON CONFLICT ON CONSTRAINT report_type_pkey DO UPDATE
		SET title = excluded.title, query = excluded.query, parameters = excluded.parameters, key_columns = excluded.key_columns,
			snapshot = excluded.snapshot, row_limit = excluded.row_limit, search_path = excluded.search_path, created_by = excluded.created_by;
	RETURN columns;
END
$$;
COMMENT ON FUNCTION sentinai.report_type_add(text, text, text, jsonb, integer, boolean, bigint) IS
	'Adds a type of report of your own, or replaces it; returns the columns that it shows. query: a SELECT of $1 tenant_id text, $2 and $3 the period (timestamptz, the end is exclusive), $4 the parameters (jsonb), $5 the bound (timestamptz), $6 the key of the last row read (text[], NULL at first), $7 how many rows to read (bigint, NULL: all). key_columns: its first so many columns are a key, in whose order it is read in chunks. snapshot: it is read at once, in one snapshot, up to row_limit rows (100000 where NULL). It runs read only, with the rights of whoever requests the report, and with the search_path of now. Errors: SN001, SN012 (is built in), and what the query is wrong about.';

CREATE FUNCTION sentinai.report_type_install(report_type text, title text, key_columns integer, parameters jsonb, query text,
		count_query text DEFAULT NULL, summary_query text DEFAULT NULL, has_payload boolean DEFAULT false) RETURNS void
	LANGUAGE sql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	INSERT INTO sentinai.report_type (report_type, title, key_columns, parameters, query, count_query, summary_query, has_payload, role_name, search_path, builtin)
	VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 'sentinai_platform', 'pg_catalog, pg_temp', true)
$$;
COMMENT ON FUNCTION sentinai.report_type_install(text, text, integer, jsonb, text, text, text, boolean) IS
	'Internal: a type that is installed with the extension, whose query runs as sentinai_platform. Called by the installation script only.';

CREATE FUNCTION sentinai.report_type_remove(report_type text) RETURNS void
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	#variable_conflict use_column
BEGIN
	DELETE FROM sentinai.report_type t WHERE t.report_type = $1 AND NOT t.builtin;
	IF NOT FOUND THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN011',
			MESSAGE = format('there is no report type %s of yours', coalesce(quote_literal(left($1, 100)), 'NULL'));
	END IF;
END
$$;
COMMENT ON FUNCTION sentinai.report_type_remove(text) IS
	'Removes a type that report_type_add() made. Its completed reports stay; pending ones fail. Errors: SN011.';

CREATE FUNCTION sentinai.report_type_list()
	RETURNS TABLE (report_type text, title text, parameters jsonb, reproducible boolean, has_payload boolean, builtin boolean)
	LANGUAGE sql STABLE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	SELECT t.report_type, t.title, t.parameters, NOT t.snapshot, t.has_payload, t.builtin FROM sentinai.report_type t ORDER BY 1
$$;
COMMENT ON FUNCTION sentinai.report_type_list() IS 'The types of reports, with the parameters that each takes besides from_date and to_date.';

-- ---- sources ----

-- A report says what was so at its bound. So what it reads is only added to, and a table whose rows change has one beside it
-- that keeps each change: whoever undoes those that came after the bound has the row as it was then.

CREATE FUNCTION sentinai.report_source_guard() RETURNS trigger
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
BEGIN
	RAISE EXCEPTION USING
		ERRCODE = 'SN010',
		MESSAGE = format('rows of %s are never changed', TG_TABLE_NAME),
		DETAIL = 'Reports are made of them.',
		HINT = 'Add a row that says what is different.';
END
$$;
COMMENT ON FUNCTION sentinai.report_source_guard() IS 'Trigger BEFORE UPDATE of a table that is only added to. Errors: SN010.';

-- A row that moves while a report is read would be in it twice, or not at all, and another could make up for it in the count.
CREATE FUNCTION sentinai.report_source_fixed() RETURNS trigger
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
BEGIN
	RAISE EXCEPTION USING
		ERRCODE = 'SN010',
		MESSAGE = format('what a row of %s is found by never changes', TG_TABLE_NAME),
		HINT = 'Reports find it by its tenant, its id, created_at and recorded_at.';
END
$$;
COMMENT ON FUNCTION sentinai.report_source_fixed() IS
	'Trigger AFTER UPDATE of a row of a table that reports are made of (row security speaks first), where the columns change by which they find it. Errors: SN010.';

CREATE FUNCTION sentinai.report_source_changed() RETURNS trigger
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
BEGIN
	IF NOT EXISTS (SELECT FROM new_rows) THEN
		RETURN NULL;
	END IF;
	EXECUTE format(
		'INSERT INTO sentinai.%1$I (tenant_id, %2$I, event_id, event_type, actor_type, actor_id, payload, created_at)'
		' SELECT n.tenant_id, n.%3$I, gen_random_uuid()::text, %4$L, $1, $2, jsonb_build_object(''changed'', d.changed), clock_timestamp()'
		'   FROM new_rows n JOIN old_rows o ON o.tenant_id = n.tenant_id AND o.%3$I = n.%3$I'
		'  CROSS JOIN LATERAL (SELECT jsonb_object_agg(key, jsonb_build_array(was.value, becomes.value)) AS changed'
		'                        FROM jsonb_each(to_jsonb(o) - ''updated_at'') was JOIN jsonb_each(to_jsonb(n)) becomes USING (key)'
		'                       WHERE was.value IS DISTINCT FROM becomes.value) d'
		'  WHERE d.changed IS NOT NULL ORDER BY 1, 2', TG_ARGV[0], TG_ARGV[1], TG_ARGV[2], TG_ARGV[3])
	USING CASE WHEN (SELECT NOT r.rolsuper AND pg_has_role(session_user, 'sentinai_worker', 'MEMBER') FROM pg_roles r WHERE r.rolname = session_user)
			   THEN 'agent' ELSE 'user' END,
		  sentinai.caller_role();
	RETURN NULL;
END
$$;
COMMENT ON FUNCTION sentinai.report_source_changed() IS
	'Trigger AFTER UPDATE, for each statement, with old_rows and new_rows: notes each changed row in a table beside it as {"changed": {column: [before, after]}}. Arguments: that table, its column of the key, the column of the key here, and the event_type to write.';

CREATE TABLE sentinai.report_mask (
	pattern	text PRIMARY KEY,
	builtin	boolean NOT NULL DEFAULT false
);
SELECT pg_catalog.pg_extension_config_dump('sentinai.report_mask', 'WHERE NOT builtin');
COMMENT ON TABLE sentinai.report_mask IS 'What secrets are called: the value of a key that matches one of these is *** in reports. Rows of your own are added by INSERT.';
COMMENT ON COLUMN sentinai.report_mask.pattern IS 'A regular expression, found anywhere in a key, in any case.';
COMMENT ON COLUMN sentinai.report_mask.builtin IS 'Installed with the extension.';
INSERT INTO sentinai.report_mask (pattern, builtin) VALUES
	('passw(or)?d', true), ('passphrase', true), ('secret', true), ('token', true), ('api[_-]?key', true), ('private[_-]?key', true),
	('access[_-]?key', true), ('authorization', true), ('credential', true), ('cookie', true), ('session[_-]?id', true), ('card[_-]?number', true),
	('^cvv', true), ('^iban$', true), ('^ssn$', true);

CREATE FUNCTION sentinai.report_mask_pattern() RETURNS text
	LANGUAGE sql STABLE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$ SELECT coalesce(string_agg('(?:' || m.pattern || ')', '|' ORDER BY m.pattern COLLATE "C"), '(?!)') FROM sentinai.report_mask m $$;
COMMENT ON FUNCTION sentinai.report_mask_pattern() IS 'The patterns of report_mask as one, for report_masked().';

CREATE FUNCTION sentinai.report_masked(value jsonb, pattern text) RETURNS jsonb
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
	AS 'MODULE_PATHNAME', 'sn_report_masked';
COMMENT ON FUNCTION sentinai.report_masked(jsonb, text) IS
	'A value without its secrets: *** where a key matches the pattern (report_mask_pattern()), at any depth, and in texts what report_masked_text() finds.';

CREATE FUNCTION sentinai.report_masked_text(value text) RETURNS text
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
	AS 'MODULE_PATHNAME', 'sn_report_masked_text';
COMMENT ON FUNCTION sentinai.report_masked_text(text) IS
	'A text without what looks like a secret: what follows Bearer and Basic, and password=, token=, api_key= and their like.';

-- ---- the workers ----

CREATE FUNCTION sentinai.report_workers() RETURNS TABLE (pid integer, seq bigint)
	LANGUAGE c VOLATILE
	AS 'MODULE_PATHNAME', 'sn_report_worker_list';
COMMENT ON FUNCTION sentinai.report_workers() IS
	'Internal: the background workers that make reports in this database, and which (audit_report.seq; 0: is looking for one).';

CREATE FUNCTION sentinai.report_workers_start(n integer) RETURNS text
	LANGUAGE c VOLATILE
	AS 'MODULE_PATHNAME', 'sn_report_workers_start';
COMMENT ON FUNCTION sentinai.report_workers_start(integer) IS
	'Internal: starts up to n background workers. Returns NULL, or why there could not be as many.';

CREATE FUNCTION sentinai.report_header(report sentinai.audit_report) RETURNS text
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	SELECT json_build_object('id', r.id, 'tenant_id', r.tenant_id, 'report_type', r.report_type, 'title', r.title, 'parameters', r.parameters,
		'period_from', CASE WHEN pdf THEN r.parameters->>'from_date' ELSE sentinai.report_iso(r.period_from) END,
		'period_to', CASE WHEN pdf THEN r.parameters->>'to_date' ELSE sentinai.report_iso(r.period_to) END,
		'requested_by', r.requested_by,
		'requested_at', CASE WHEN pdf THEN to_char(r.created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS "UTC"') ELSE sentinai.report_iso(r.created_at) END,
		'generated_at', CASE WHEN pdf THEN to_char(r.bound_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS "UTC"') ELSE sentinai.report_iso(r.bound_at) END)::text
	  FROM (SELECT ($1).*) r, CAST(r.format = 'pdf' AS boolean) pdf
$$;
COMMENT ON FUNCTION sentinai.report_header(sentinai.audit_report) IS
	'Internal: what a report says of itself, as JSON; in a PDF for people to read. generated_at is its bound: what a report says must not depend on when its worker came.';

-- Fair: the tenant with the fewest reports in work, then the one that has waited longest since its last one began. Of each the
-- oldest are looked at, more than there can be workers: however many wait.
CREATE FUNCTION sentinai.report_take()
	RETURNS TABLE (seq bigint, tries integer, id text, tenant_id text, format text, period_from timestamptz, period_to timestamptz,
				   parameters jsonb, bound_at timestamptz, query text, count_query text, summary_query text, key_columns integer, row_limit bigint,
				   role_name name, search_path text, builtin boolean, header text)
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	#variable_conflict use_column
DECLARE
	report	sentinai.audit_report;
	type	sentinai.report_type;
	refused	text;
BEGIN
	LOOP
		-- Who is active is read once a transaction; a report that was asked for since may be waiting for others.
		PERFORM pg_stat_clear_snapshot();
		SELECT r.* INTO report
		  FROM (SELECT DISTINCT p.tenant_id FROM sentinai.audit_report p WHERE p.status = 'pending') t
		 CROSS JOIN LATERAL (SELECT (SELECT count(*) FROM sentinai.audit_report g WHERE g.tenant_id = t.tenant_id AND g.status = 'generating') AS in_work,
									(SELECT max(g.started_at) FROM sentinai.audit_report g WHERE g.tenant_id = t.tenant_id) AS last) load
		 CROSS JOIN LATERAL (SELECT p.id FROM sentinai.audit_report p WHERE p.tenant_id = t.tenant_id AND p.status = 'pending'
							  ORDER BY p.seq LIMIT 32) first
		  JOIN sentinai.audit_report r ON r.id = first.id
		 WHERE r.status = 'pending' AND sentinai.report_blocker(r.bound_at) IS NULL
		 ORDER BY load.in_work, load.last NULLS FIRST, r.seq
		 LIMIT 1 FOR NO KEY UPDATE OF r SKIP LOCKED;
		IF NOT FOUND THEN
			RETURN;
		END IF;
		SELECT * INTO type FROM sentinai.report_type t WHERE t.report_type = report.report_type;
		IF FOUND THEN
			-- It may have been replaced since it was asked for.
			refused := sentinai.report_type_refused(type, coalesce(type.role_name, report.requested_role));
			EXIT WHEN refused IS NULL;
			PERFORM sentinai.report_set_status(report.id, 'failed', refused);
			CONTINUE;
		END IF;
		PERFORM sentinai.report_set_status(p.id, 'failed', format('report type "%s" is gone', report.report_type))
		   FROM (SELECT o.id FROM sentinai.audit_report o WHERE o.status = 'pending' AND o.report_type = report.report_type
				  ORDER BY o.seq FOR NO KEY UPDATE SKIP LOCKED) p;
	END LOOP;
	PERFORM sentinai.report_set_status(report.id, 'generating');
	RETURN QUERY SELECT
		report.seq, report.tries + 1, report.id, report.tenant_id, report.format, report.period_from, report.period_to, report.parameters, report.bound_at,
		type.query, type.count_query, type.summary_query, type.key_columns, type.row_limit, coalesce(type.role_name, report.requested_role), type.search_path, type.builtin,
		sentinai.report_header(report);
END
$$;
COMMENT ON FUNCTION sentinai.report_take() IS
	'Internal: the next report that is to be made, now generating, with all that its worker has to know; no row: there is none. Reports whose bound is not final yet are left.';

CREATE FUNCTION sentinai.report_progress(id text, tries integer, rows_total bigint, rows_done bigint) RETURNS boolean
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	#variable_conflict use_column
BEGIN
	UPDATE sentinai.audit_report r SET rows_total = $3, rows_done = $4 WHERE r.id = $1 AND r.tries = $2 AND r.status = 'generating';
	RETURN FOUND;
END
$$;
COMMENT ON FUNCTION sentinai.report_progress(text, integer, bigint, bigint) IS
	'Internal: notes how far a worker is. False: the report is not its any more, it was cancelled.';

CREATE FUNCTION sentinai.report_complete(id text, tries integer, row_count bigint, file_size_bytes bigint, sha256 bytea, query text) RETURNS boolean
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	#variable_conflict use_column
BEGIN
	UPDATE sentinai.audit_report r SET row_count = $3, rows_done = $3, file_size_bytes = $4, sha256 = $5
	 WHERE r.id = $1 AND r.tries = $2 AND r.status = 'generating';
	IF NOT FOUND THEN
		RETURN false;
	END IF;
	PERFORM sentinai.report_manifest_add($1, $6);
	PERFORM sentinai.usage_record(r.tenant_id, 'reports', r.report_type) FROM sentinai.audit_report r WHERE r.id = $1;
	RETURN sentinai.report_set_status($1, 'completed', NULL, $2);
END
$$;
COMMENT ON FUNCTION sentinai.report_complete(text, integer, bigint, bigint, bytea, text) IS
	'Internal: completes a report whose bytes are stored, and signs its manifest. False: the report is not this worker''s any more.';

CREATE FUNCTION sentinai.report_expire() RETURNS void
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
DECLARE
	report	record;
BEGIN
	IF NOT EXISTS (SELECT FROM sentinai.audit_report r WHERE r.status = 'completed' AND r.download_expires_at <= sentinai.usage_clock())
	   OR NOT sentinai.legal_hold_lock() THEN
		RETURN;
	END IF;
	FOR report IN
		SELECT r.id FROM sentinai.audit_report r
		 WHERE r.status = 'completed' AND r.download_expires_at <= sentinai.usage_clock() AND NOT sentinai.report_held(r)
		   FOR NO KEY UPDATE SKIP LOCKED
	LOOP
		PERFORM sentinai.report_set_status(report.id, 'expired');
	END LOOP;
END
$$;
COMMENT ON FUNCTION sentinai.report_expire() IS 'Internal: takes the bytes of reports whose time has come, unless they are held.';

-- The list of workers is read after the reports: one that began in between has had another attempt counted.
CREATE FUNCTION sentinai.report_tend() RETURNS text
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
DECLARE
	report	record;
	alive	integer := (SELECT count(*) FROM sentinai.report_workers());
	waiting	integer;
BEGIN
	FOR report IN
		SELECT r.id, r.seq, r.tries FROM sentinai.audit_report r WHERE r.status = 'generating' ORDER BY r.seq
		   FOR NO KEY UPDATE SKIP LOCKED
	LOOP
		CONTINUE WHEN EXISTS (SELECT FROM sentinai.report_workers() w WHERE w.seq = report.seq);
		PERFORM sentinai.report_set_status(report.id, CASE WHEN report.tries < 3 THEN 'pending' ELSE 'failed' END,
										   format('its worker has ended without a word, try %s of 3', report.tries), report.tries);
	END LOOP;
	PERFORM sentinai.report_expire();
	waiting := (SELECT count(*) FROM (SELECT FROM sentinai.audit_report r WHERE r.status = 'pending'
										 AND sentinai.report_blocker(r.bound_at) IS NULL LIMIT 100) w);
	RETURN sentinai.report_workers_start(least(waiting, current_setting('sentinai.report_workers')::integer - alive));
END
$$;
COMMENT ON FUNCTION sentinai.report_tend() IS
	'Duty: reports whose worker is gone are pending again, or failed after three tries; bytes whose time has come go; background workers are started for what waits. Returns NULL, or why there are fewer than there should be.';
