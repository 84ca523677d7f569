-- 68_personal_data: what of a payload is shown to whom, and erasing what is known of one subject. A subject is an exception of
-- a tenant: what belongs to it can be told exactly. Subjects of the platform, and tables of yours, add a function each.

-- ---- masks ----

CREATE TABLE sentinai.payload_mask (
	event_type	text COLLATE "C" NOT NULL,
	path		text[] NOT NULL CHECK (cardinality(path) > 0 AND array_position(path, NULL) IS NULL),
	created_at	timestamptz NOT NULL DEFAULT now(),
	created_by	text NOT NULL DEFAULT session_user,
	PRIMARY KEY (event_type, path)
);
COMMENT ON TABLE sentinai.payload_mask IS
	'Which values of a payload are *** for all but an admin. Written by payload_mask_add and payload_mask_remove.';
COMMENT ON COLUMN sentinai.payload_mask.event_type IS 'The event type; *: all.';
COMMENT ON COLUMN sentinai.payload_mask.path IS 'Keys from the payload down, as of the operator #>: a number is an element of an array, * any key or element.';
COMMENT ON COLUMN sentinai.payload_mask.created_at IS 'When it was added.';
COMMENT ON COLUMN sentinai.payload_mask.created_by IS 'The role that was authenticated when it was added.';
SELECT pg_catalog.pg_extension_config_dump('sentinai.payload_mask', '');

CREATE FUNCTION sentinai.payload_mask_add(event_type text, path text[]) RETURNS void
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	#variable_conflict use_column
BEGIN
	IF $1 IS NULL OR ($1 <> '*' AND NOT EXISTS (SELECT FROM sentinai.event_type e WHERE e.event_type = $1)) THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN005',
			MESSAGE = format('event type %s is not known', coalesce('"' || $1 || '"', 'NULL')),
			HINT = 'event_type_add(event_type) makes one; * stands for all.';
	ELSIF $2 IS NULL OR cardinality($2) = 0 OR array_position($2, NULL) IS NOT NULL OR array_ndims($2) > 1 THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN001',
			MESSAGE = format('%s is not the path of a value', quote_nullable($2)),
			HINT = 'Write it as ''{customer,email}''; a number is an element of an array, * any key or element.';
	END IF;
	INSERT INTO sentinai.payload_mask (event_type, path) VALUES ($1, $2) ON CONFLICT DO NOTHING;
END
$$;
COMMENT ON FUNCTION sentinai.payload_mask_add(text, text[]) IS
	'Masks a value in payloads of an event type (*: of all): who is not an admin sees *** there, in every function that shows payloads. Handlers, Kafka and the tables themselves keep it. Once more changes nothing. Errors: SN001 (path), SN005 (event type).';

CREATE FUNCTION sentinai.payload_mask_remove(event_type text, path text[]) RETURNS boolean
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	#variable_conflict use_column
BEGIN
	DELETE FROM sentinai.payload_mask m WHERE m.event_type = $1 AND m.path = $2;
	RETURN FOUND;
END
$$;
COMMENT ON FUNCTION sentinai.payload_mask_remove(text, text[]) IS 'Takes a mask away; false: there was none.';

CREATE FUNCTION sentinai.payload_mask_list() RETURNS TABLE (event_type text, path text[], created_at timestamptz, created_by text)
	LANGUAGE sql STABLE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	SELECT m.event_type::text, m.path, m.created_at, m.created_by FROM sentinai.payload_mask m ORDER BY 1, 2
$$;
COMMENT ON FUNCTION sentinai.payload_mask_list() IS 'All masks: which values are *** for all but an admin.';

CREATE FUNCTION sentinai.payload_mask_value(value jsonb, path text[]) RETURNS jsonb
	LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
DECLARE
	rest	text[] := path[2:];
BEGIN
	CASE
		WHEN cardinality(path) = 0 THEN
			RETURN '"***"';
		WHEN jsonb_typeof(value) = 'object' THEN
			RETURN (SELECT coalesce(jsonb_object_agg(o.key, CASE WHEN path[1] IN (o.key, '*') THEN sentinai.payload_mask_value(o.value, rest)
																 ELSE o.value END), '{}')
					  FROM jsonb_each(value) o);
		WHEN jsonb_typeof(value) = 'array' THEN
			RETURN (SELECT coalesce(jsonb_agg(CASE WHEN path[1] IN ((a.n - 1)::text, '*') THEN sentinai.payload_mask_value(a.value, rest)
												   ELSE a.value END ORDER BY a.n), '[]')
					  FROM jsonb_array_elements(value) WITH ORDINALITY AS a (value, n));
		ELSE
			RETURN value;
	END CASE;
END
$$;
COMMENT ON FUNCTION sentinai.payload_mask_value(jsonb, text[]) IS 'A value with *** wherever the path leads to; what the path doesn''t lead to is as it was.';

-- A sender's mistake in the type takes no mask off.
CREATE FUNCTION sentinai.payload_mask_paths(event_type text) RETURNS SETOF text[]
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	SELECT m.path FROM sentinai.payload_mask m
	 WHERE m.event_type IN ($1, '*') OR NOT EXISTS (SELECT FROM sentinai.event_type e WHERE e.event_type = $1)
$$;
COMMENT ON FUNCTION sentinai.payload_mask_paths(text) IS
	'Internal: the masks of an event type; of one that is not known, or could not be read, all there are.';

CREATE FUNCTION sentinai.payload_masked(event_type text, payload jsonb) RETURNS jsonb
	LANGUAGE plpgsql STABLE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
DECLARE
	path	text[];
	shown	jsonb := payload;
BEGIN
	IF shown IS NULL OR sentinai.caller_sees_all() THEN
		RETURN shown;
	END IF;
	FOR path IN SELECT p FROM sentinai.payload_mask_paths(event_type) p LOOP
		shown := sentinai.payload_mask_value(shown, path);
	END LOOP;
	RETURN shown;
END
$$;
COMMENT ON FUNCTION sentinai.payload_masked(text, jsonb) IS
	'A payload as the caller may see it: with the masks of its event type (of one that is not known: with all), as it is for who sees all. Who may see payloads at all (sentinai_payload) is asked by the functions that read them.';

-- The two readers of payloads: what dlq_entries() and exception_events() add to what the caller reads itself.
CREATE FUNCTION sentinai.dlq_payloads(ids bigint[]) RETURNS TABLE (id bigint, payload jsonb, event_metadata jsonb)
	LANGUAGE plpgsql STABLE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	SET plan_cache_mode = force_generic_plan
	AS $$
DECLARE
	masks	boolean := EXISTS (SELECT FROM sentinai.payload_mask);
BEGIN
	IF pg_has_role(sentinai.caller_role(), 'sentinai_payload', 'USAGE') THEN
		RETURN QUERY
			SELECT d.id, CASE WHEN masks THEN sentinai.payload_masked(d.event_type, d.payload) ELSE d.payload END, d.event_metadata
			  FROM sentinai.dead_letter_queue d
			 WHERE d.id = ANY ($1) AND sentinai.tenant_visible(d.tenant_id);
	END IF;
END
$$;
COMMENT ON FUNCTION sentinai.dlq_payloads(bigint[]) IS
	'Payloads and metadata of dead letters, masked; no row for who is not a member of sentinai_payload, or for another tenant''s.';

CREATE FUNCTION sentinai.exception_payloads(exception text, tenants text[])
	RETURNS TABLE (tenant_id text, event_id text, created_at timestamptz, topic text, partition integer, kafka_offset bigint, payload jsonb, metadata jsonb)
	LANGUAGE plpgsql STABLE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
DECLARE
	masks	boolean := EXISTS (SELECT FROM sentinai.payload_mask);
BEGIN
	IF pg_has_role(sentinai.caller_role(), 'sentinai_payload', 'USAGE') THEN
		RETURN QUERY
			SELECT l.tenant_id::text, l.event_id::text, l.created_at, l.topic::text, l.partition, l.kafka_offset,
				   CASE WHEN masks THEN sentinai.payload_masked(l.event_type, l.payload) ELSE l.payload END, l.metadata
			  FROM sentinai.event_log l
			 WHERE l.tenant_id = ANY ($2) AND l.exception_id = $1 AND sentinai.tenant_visible(l.tenant_id);
	END IF;
END
$$;
COMMENT ON FUNCTION sentinai.exception_payloads(text, text[]) IS
	'Payloads and metadata of an exception''s events in event_log, masked; no row for who is not a member of sentinai_payload, or for another tenant''s.';

-- A record's bytes can't be masked: they are shown where no mask is about them.
CREATE FUNCTION sentinai.dlq_record(id bigint)
	RETURNS TABLE (topic text, partition integer, kafka_offset bigint, record_ts timestamptz, key bytea, headers sentinai.header[], value bytea)
	LANGUAGE plpgsql STABLE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	#variable_conflict use_column
DECLARE
	dead	sentinai.dead_letter_queue;
BEGIN
	SELECT * INTO dead FROM sentinai.dead_letter_queue d WHERE d.id = $1 AND sentinai.tenant_visible(d.tenant_id);
	IF NOT FOUND THEN
		RAISE EXCEPTION USING ERRCODE = 'SN011', MESSAGE = format('there is no dead letter %s', $1),
			HINT = 'sentinai.dlq_list() lists them.';
	ELSIF NOT pg_has_role(sentinai.caller_role(), 'sentinai_payload', 'USAGE')
	   OR NOT sentinai.caller_sees_all() AND EXISTS (SELECT FROM sentinai.payload_mask_paths(dead.event_type)) THEN
		RAISE EXCEPTION USING
			ERRCODE = 'insufficient_privilege',
			MESSAGE = format('permission denied for the record of dead letter %s', $1),
			DETAIL = 'Records are shown to members of sentinai_payload, and only to an admin where values of the event type are masked.';
	END IF;
	RETURN QUERY SELECT dead.original_topic::text, dead.original_partition, dead.original_offset, dead.record_ts, dead.record_key, dead.record_headers, dead.payload_raw;
END
$$;
COMMENT ON FUNCTION sentinai.dlq_record(bigint) IS
	'The record of a dead letter as it came: key, headers, bytes, and where it lay in Kafka. For members of sentinai_payload; where a mask is about its event type (or, if that is not known or can''t be read, where there is any mask) for an admin only. Errors: SN011, 42501.';

-- ---- erasing ----

-- Hashes of erased payloads are salted, so that nobody can guess a payload and see whether it was it.
CREATE TABLE sentinai.subject_salt (
	tenant_id	text COLLATE "C" PRIMARY KEY,
	salt		bytea NOT NULL,
	created_at	timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE sentinai.subject_salt IS 'The salt of each tenant''s hashes of erased payloads. Without its row nobody can tell any more what was erased.';
COMMENT ON COLUMN sentinai.subject_salt.tenant_id IS 'The tenant.';
COMMENT ON COLUMN sentinai.subject_salt.salt IS '32 random bytes, made at the first erasure.';
COMMENT ON COLUMN sentinai.subject_salt.created_at IS 'When it was made.';
SELECT pg_catalog.pg_extension_config_dump('sentinai.subject_salt', '');

CREATE TABLE sentinai.subject_erasure (
	id				bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	tenant_id		text COLLATE "C" NOT NULL,
	key				text COLLATE "C" NOT NULL,
	reason			text NOT NULL,
	actor			text,
	authenticated	text NOT NULL DEFAULT sentinai.caller_identity(),
	changed			jsonb NOT NULL,
	created_at		timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX subject_erasure_key ON sentinai.subject_erasure (tenant_id, key, id);
COMMENT ON TABLE sentinai.subject_erasure IS 'Every erasure that changed something, and the first of each subject: who, when, why, and how many rows of which table.';
COMMENT ON COLUMN sentinai.subject_erasure.id IS 'In the order in which it was written.';
COMMENT ON COLUMN sentinai.subject_erasure.tenant_id IS 'The tenant.';
COMMENT ON COLUMN sentinai.subject_erasure.key IS 'The exception whose data was erased.';
COMMENT ON COLUMN sentinai.subject_erasure.reason IS 'Why, as the caller said.';
COMMENT ON COLUMN sentinai.subject_erasure.actor IS 'Who, as the caller said.';
COMMENT ON COLUMN sentinai.subject_erasure.authenticated IS 'Who, as the server knows: the login.';
COMMENT ON COLUMN sentinai.subject_erasure.changed IS 'Rows changed, by table.';
COMMENT ON COLUMN sentinai.subject_erasure.created_at IS 'When.';
SELECT pg_catalog.pg_extension_config_dump('sentinai.subject_erasure', '');
SELECT pg_catalog.pg_extension_config_dump('sentinai.subject_erasure_id_seq', '');

CREATE TABLE sentinai.subject_source (
	name			text COLLATE "C" PRIMARY KEY,
	function_schema	text NOT NULL,
	function_name	text NOT NULL,
	builtin			boolean NOT NULL DEFAULT false
);
COMMENT ON TABLE sentinai.subject_source IS 'What subject_erase() calls: a function for each subject that keeps data of exceptions. Written by subject_source_add and subject_source_remove.';
COMMENT ON COLUMN sentinai.subject_source.name IS 'Its name; they are called in the order of the names.';
COMMENT ON COLUMN sentinai.subject_source.function_schema IS 'The function''s schema, by name, since an oid would block pg_upgrade.';
COMMENT ON COLUMN sentinai.subject_source.function_name IS 'f(tenant_id text, key text, salt bytea) returning TABLE (relation text, rows bigint).';
COMMENT ON COLUMN sentinai.subject_source.builtin IS 'Installed with the extension.';
SELECT pg_catalog.pg_extension_config_dump('sentinai.subject_source', 'WHERE NOT builtin');

CREATE FUNCTION sentinai.subject_source_install(name text, function_name text) RETURNS void
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
BEGIN
	INSERT INTO sentinai.subject_source VALUES ($1, 'sentinai', $2, true);
END
$$;
COMMENT ON FUNCTION sentinai.subject_source_install(text, text) IS 'Internal: for the installation script.';

CREATE FUNCTION sentinai.subject_source_add(name text, function text) RETURNS void
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	#variable_conflict use_column
DECLARE
	eraser	record;
BEGIN
	SELECT n.nspname, p.proname INTO eraser
	  FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
	 WHERE p.oid = to_regprocedure($2 || '(text, text, bytea)') AND p.proretset
	   AND p.proallargtypes[4:5] = ARRAY['text'::regtype, 'bigint'::regtype]::oid[];
	IF NOT FOUND OR coalesce($1, '') = '' THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN001',
			MESSAGE = format('%s can''t erase a subject', coalesce($2, 'NULL')),
			HINT = 'It must be a function ''schema.name'' of (text, text, bytea) that returns TABLE (relation text, rows bigint).';
	ELSIF EXISTS (SELECT FROM sentinai.subject_source s WHERE s.name = $1 AND s.builtin) THEN
		RAISE EXCEPTION USING ERRCODE = 'SN012', MESSAGE = format('subject source "%s" is built in', $1);
	END IF;
	INSERT INTO sentinai.subject_source (name, function_schema, function_name) VALUES ($1, eraser.nspname, eraser.proname)
		ON CONFLICT (name) DO UPDATE SET function_schema = excluded.function_schema, function_name = excluded.function_name;
END
$$;
COMMENT ON FUNCTION sentinai.subject_source_add(text, text) IS
	'Registers the function that erases a subject from tables of yours, or replaces it: f(tenant_id text, key text, salt bytea) returning TABLE (relation text, rows bigint). It runs within subject_erase(), as its caller, which is no superuser unless the function is one''s; raising refuses the erasure. Errors: SN001 (no such function), SN012 (built in).';

CREATE FUNCTION sentinai.subject_source_remove(name text) RETURNS boolean
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	#variable_conflict use_column
BEGIN
	DELETE FROM sentinai.subject_source s WHERE s.name = $1 AND NOT s.builtin;
	RETURN FOUND;
END
$$;
COMMENT ON FUNCTION sentinai.subject_source_remove(text) IS 'Takes what subject_source_add() registered away; false: there was none of yours.';

-- What stands in the place of a payload: an object with nothing but the hash.
CREATE FUNCTION sentinai.subject_is_erased(payload jsonb) RETURNS boolean
	LANGUAGE sql IMMUTABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT $1 IS NULL OR (pg_catalog.jsonb_typeof($1) = 'object' AND $1 - 'sentinai_erased' = '{}'
						  AND coalesce($1->>'sentinai_erased' ~ '^[0-9a-f]{64}$', false))
$$;
COMMENT ON FUNCTION sentinai.subject_is_erased(jsonb) IS 'Whether nothing is left to erase: NULL, or what subject_tombstone() made.';

CREATE FUNCTION sentinai.subject_tombstone(salt bytea, payload jsonb) RETURNS jsonb
	LANGUAGE sql IMMUTABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT CASE WHEN sentinai.subject_is_erased($2) THEN $2
				ELSE pg_catalog.jsonb_build_object('sentinai_erased',
					pg_catalog.encode(pg_catalog.sha256($1 || pg_catalog.convert_to($2::text, 'UTF8')), 'hex')) END
$$;
COMMENT ON FUNCTION sentinai.subject_tombstone(bytea, jsonb) IS
	'What stands in the place of an erased payload: {"sentinai_erased": SHA-256 of the tenant''s salt and the payload''s jsonb as text}.';

CREATE FUNCTION sentinai.subject_tombstone(salt bytea, bytes bytea) RETURNS bytea
	LANGUAGE sql IMMUTABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT CASE WHEN $2 IS NULL OR $2 ~~ '{"sentinai\\_erased": "%"}'::bytea AND pg_catalog.length($2) = 87 THEN $2
				ELSE pg_catalog.convert_to(pg_catalog.jsonb_build_object('sentinai_erased',
					pg_catalog.encode(pg_catalog.sha256($1 || $2), 'hex'))::text, 'UTF8') END
$$;
COMMENT ON FUNCTION sentinai.subject_tombstone(bytea, bytea) IS 'The same for a record''s bytes.';

CREATE FUNCTION sentinai.subject_hash(tenant_id text, payload jsonb) RETURNS text
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	SELECT sentinai.subject_tombstone(s.salt, $2)->>'sentinai_erased' FROM sentinai.subject_salt s WHERE s.tenant_id = $1
$$;
COMMENT ON FUNCTION sentinai.subject_hash(text, jsonb) IS
	'The hash that an erased payload of the tenant would have: whoever still has the payload can prove that it was this one. NULL: nothing of the tenant''s was ever erased.';

-- Of a record that could not be read the key may say what it is about.
CREATE FUNCTION sentinai.subject_dead_letters(tenant_id text, key text) RETURNS TABLE (id bigint, is_open boolean)
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	SELECT d.id, d.status IN ('pending', 'retrying') FROM sentinai.dead_letter_queue d
	 WHERE d.tenant_id = $1 AND (d.exception_id = $2 OR (d.exception_id IS NULL AND d.record_key = convert_to($1 || ':' || $2, 'UTF8')))
$$;
COMMENT ON FUNCTION sentinai.subject_dead_letters(text, text) IS 'Internal: the dead letters of an exception.';

-- Why a subject can't be erased yet; no row: it can.
CREATE FUNCTION sentinai.subject_unfinished(tenant_id text, key text) RETURNS TABLE (what text, n bigint)
	LANGUAGE sql STABLE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	SELECT u.what, u.n FROM (
		SELECT 'events that wait in event_pending' AS what, count(*) AS n FROM sentinai.event_pending p
		 WHERE p.tenant_id = $1 AND p.exception_id = $2
		UNION ALL
		SELECT 'open dead letters', count(*) FROM sentinai.subject_dead_letters($1, $2) d WHERE d.is_open
		UNION ALL
		SELECT 'events that are not published yet', count(*) FROM sentinai.outbox o
		 WHERE o.tenant_id = $1 AND o.id > coalesce((SELECT w.id FROM sentinai.outbox_watermark w WHERE w.topic = o.topic), 0)
		   AND (o.key = convert_to($1 || ':' || $2, 'UTF8')
				OR o.event_id IN (SELECT l.event_id FROM sentinai.event_log l WHERE l.tenant_id = $1 AND l.exception_id = $2))
		UNION ALL
		SELECT 'records that Kafka has refused', count(*) FROM sentinai.outbox_failed f
		 WHERE f.tenant_id = $1 AND f.record_key = convert_to($1 || ':' || $2, 'UTF8') AND f.discarded_at IS NULL
		UNION ALL
		SELECT 'idempotency keys whose work goes on', count(*) FROM sentinai.idempotency_key k
		 WHERE k.tenant_id = $1 AND k.key = $2 AND k.status = 'running'
		UNION ALL
		SELECT 'reports that are being made', count(*) FROM sentinai.audit_report r
		 WHERE r.tenant_id = $1 AND r.status IN ('pending', 'generating')) u
	 WHERE u.n > 0
$$;
COMMENT ON FUNCTION sentinai.subject_unfinished(text, text) IS 'What still works with the data of an exception, so that it can''t be erased yet. No row: nothing does.';

-- Reports that have the key among their bytes, in the forms that each format writes it. A PDF's are compressed: all of the
-- tenant's are taken to have it, but those under a hold, which is about a period: subject_check_hold() asks for that.
CREATE FUNCTION sentinai.subject_reports(tenant_id text, key text) RETURNS TABLE (report_id text, held boolean)
	LANGUAGE sql STABLE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	SELECT r.id::text, h.held
	  FROM sentinai.audit_report r
	 CROSS JOIN LATERAL sentinai.report_held(r) AS h (held)
	 CROSS JOIN LATERAL (SELECT convert_to(CASE r.format WHEN 'csv' THEN replace($2, '"', '""') ELSE trim(BOTH '"' FROM to_json($2)::text) END, 'UTF8') AS bytes) wanted
	 WHERE r.tenant_id = $1 AND r.status = 'completed'
	   AND CASE r.format WHEN 'pdf' THEN NOT h.held
				ELSE EXISTS (SELECT FROM (SELECT c.data, lead(c.data) OVER (ORDER BY c.n) AS next FROM sentinai.report_chunk c WHERE c.report_id = r.id) p
							  WHERE position(wanted.bytes IN p.data || coalesce(substring(p.next FROM 1 FOR length(wanted.bytes)), '')) > 0) END
	 ORDER BY r.seq
$$;
COMMENT ON FUNCTION sentinai.subject_reports(text, text) IS
	'Completed reports of a tenant that name an exception. PDFs can''t be searched, and all that are not under a hold are listed.';

CREATE FUNCTION sentinai.subject_check_hold(tenant_id text, key text, from_time timestamptz, to_time timestamptz) RETURNS void
	LANGUAGE plpgsql STABLE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	#variable_conflict use_column
DECLARE
	hold	sentinai.legal_hold;
BEGIN
	SELECT h.* INTO hold FROM sentinai.legal_hold h
	 WHERE h.tenant_id = $1 AND h.released_at IS NULL AND h.period_from <= $4 AND h.period_to > $3 ORDER BY h.id LIMIT 1;
	IF FOUND THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN077',
			MESSAGE = format('exception %s is under a legal hold', $2),
			DETAIL = format('Hold %s of tenant "%s" is about %s to %s: %s', hold.id, hold.tenant_id, hold.period_from, hold.period_to, hold.reason),
			HINT = 'SELECT * FROM sentinai.legal_hold_list() shows the holds that stand.';
	END IF;
END
$$;
COMMENT ON FUNCTION sentinai.subject_check_hold(text, text, timestamptz, timestamptz) IS
	'For sources of subjects: refuses to erase what has times in the period of a legal hold, from from_time to to_time (NULL: nothing has). Errors: SN077.';

-- What the core keeps of an exception. Runs without triggers: they would write down what is erased.
CREATE FUNCTION sentinai.subject_erase_core(tenant_id text, key text, salt bytea) RETURNS TABLE (relation text, rows bigint)
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	#variable_conflict use_column
DECLARE
	record_key	bytea := convert_to($1 || ':' || $2, 'UTF8');
	erased		CONSTANT text := '[erased]';
	events		text[];
	dlq_ids		bigint[];
BEGIN
	-- By the log, and by the claims where the log is shorter.
	events := ARRAY(SELECT l.event_id FROM sentinai.event_log l WHERE l.tenant_id = $1 AND l.exception_id = $2
					UNION SELECT p.event_id FROM sentinai.event_processing_log p WHERE p.tenant_id = $1 AND p.exception_id = $2);
	dlq_ids := ARRAY(SELECT d.id FROM sentinai.subject_dead_letters($1, $2) d
					 UNION SELECT h.dlq_id FROM sentinai.dlq_history h
							WHERE h.tenant_id = $1 AND h.details->>'event_id' = ANY (events) AND h.action IN ('deleted', 'truncated'));
	PERFORM sentinai.subject_check_hold($1, $2, min(t.at), max(t.at))
	   FROM (SELECT l.created_at AS at FROM sentinai.event_log l WHERE l.tenant_id = $1 AND l.exception_id = $2
			 UNION ALL SELECT d.created_at FROM sentinai.dead_letter_queue d WHERE d.id = ANY (dlq_ids)) t;

	UPDATE sentinai.event_log l SET payload = sentinai.subject_tombstone($3, l.payload), metadata = NULL
	 WHERE l.tenant_id = $1 AND l.exception_id = $2 AND NOT (sentinai.subject_is_erased(l.payload) AND l.metadata IS NULL);
	relation := 'event_log'; GET DIAGNOSTICS rows = ROW_COUNT; RETURN NEXT;

	UPDATE sentinai.event_processing_log p SET error_message = erased
	 WHERE p.tenant_id = $1 AND p.exception_id = $2 AND p.error_message <> erased;
	relation := 'event_processing_log'; GET DIAGNOSTICS rows = ROW_COUNT; RETURN NEXT;

	UPDATE sentinai.dead_letter_queue d
	   SET payload = sentinai.subject_tombstone($3, d.payload), event_metadata = NULL,
		   payload_raw = sentinai.subject_tombstone($3, d.payload_raw), record_key = NULL, record_headers = NULL,
		   error_message = erased, error_detail = NULL
	 WHERE d.id = ANY (dlq_ids)
	   AND NOT (sentinai.subject_is_erased(d.payload) AND d.event_metadata IS NULL AND d.record_key IS NULL AND d.record_headers IS NULL
				AND d.error_message = erased AND d.error_detail IS NULL);
	relation := 'dead_letter_queue'; GET DIAGNOSTICS rows = ROW_COUNT; RETURN NEXT;

	UPDATE sentinai.dlq_history h SET details = h.details - 'error_message'
	 WHERE h.dlq_id = ANY (dlq_ids) AND h.details ? 'error_message';
	relation := 'dlq_history'; GET DIAGNOSTICS rows = ROW_COUNT; RETURN NEXT;

	-- What is published, and not needed any more but for a publication from the start: not of this.
	rows := 0;
	FOREACH relation IN ARRAY ARRAY['outbox_0', 'outbox_1', 'outbox_2', 'outbox_blocked'] LOOP
		EXECUTE format('WITH gone AS (DELETE FROM sentinai.%I o WHERE o.tenant_id = $1 AND (o.key = $2 OR o.event_id = ANY ($3) OR o.dlq_id = ANY ($4))'
					   ' RETURNING 1) SELECT $5 + count(*) FROM gone', relation)
		   INTO rows USING $1, record_key, events, dlq_ids, rows;
	END LOOP;
	relation := 'outbox'; RETURN NEXT;

	UPDATE sentinai.outbox_failed f
	   SET record_key = NULL, record_headers = NULL, record_value = sentinai.subject_tombstone($3, f.record_value), message = erased
	 WHERE f.tenant_id = $1 AND (f.record_key = record_key OR f.event_id = ANY (events))
	   AND NOT (f.record_key IS NULL AND f.record_headers IS NULL AND f.message = erased);
	relation := 'outbox_failed'; GET DIAGNOSTICS rows = ROW_COUNT; RETURN NEXT;

	UPDATE sentinai.circuit c SET error_message = erased
	 WHERE c.tenant_id IN ($1, '') AND c.first_event_id = ANY (events) AND c.error_message <> erased;
	relation := 'circuit'; GET DIAGNOSTICS rows = ROW_COUNT; RETURN NEXT;

	UPDATE sentinai.idempotency_key k SET response = sentinai.subject_tombstone($3, k.response)
	 WHERE k.tenant_id = $1 AND k.status = 'done' AND NOT sentinai.subject_is_erased(k.response)
	   AND (k.key = $2 OR jsonb_path_exists(k.response, 'strict $.** ? (@ == $key)', jsonb_build_object('key', $2), true));
	relation := 'idempotency_key'; GET DIAGNOSTICS rows = ROW_COUNT; RETURN NEXT;
END
$$;
COMMENT ON FUNCTION sentinai.subject_erase_core(text, text, bytea) IS 'Internal: what subject_erase() changes in the core''s tables.';
SELECT sentinai.subject_source_install('core', 'subject_erase_core');

-- Of the extension's own functions only: it runs with its owner's rights, and an admin could add a row.
CREATE FUNCTION sentinai.subject_erase_sources(tenant_id text, key text, salt bytea) RETURNS TABLE (relation text, rows bigint)
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	SET session_replication_role = replica
	AS $$
	#variable_conflict use_column
DECLARE
	source	record;
BEGIN
	FOR source IN
		SELECT p.oid::regproc AS function
		  FROM sentinai.subject_source s
		  JOIN pg_proc p ON p.pronamespace = 'sentinai'::regnamespace AND p.proname = s.function_name
		  JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e' AND d.refclassid = 'pg_extension'::regclass
		  JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'sentinai'
		 WHERE s.builtin AND s.function_schema = 'sentinai' AND s.function_name LIKE 'subject\_erase\_%'
		 ORDER BY s.name
	LOOP
		RETURN QUERY EXECUTE format('SELECT * FROM %s($1, $2, $3)', source.function) USING $1, $2, $3;
	END LOOP;
END
$$;
COMMENT ON FUNCTION sentinai.subject_erase_sources(text, text, bytea) IS 'Internal: erases in the extension''s tables, without their triggers, which would write down what is erased.';

-- An admin registers functions. A superuser's erasure is no way to become one, not even under SET ROLE, which RESET ROLE undoes.
CREATE FUNCTION sentinai.subject_check_source(source sentinai.subject_source) RETURNS void
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
DECLARE
	function	text := format('%I.%I', source.function_schema, source.function_name);
	owner		text := (SELECT pg_get_userbyid(p.proowner) FROM pg_proc p WHERE p.oid = to_regprocedure(function || '(text, text, bytea)'));
BEGIN
	IF EXISTS (SELECT FROM pg_roles r WHERE r.rolname IN (session_user, current_user) AND r.rolsuper)
	   AND NOT EXISTS (SELECT FROM pg_roles r WHERE r.rolname = owner AND r.rolsuper) THEN
		RAISE EXCEPTION USING
			ERRCODE = 'insufficient_privilege',
			MESSAGE = format('subject source "%s" can''t run in a superuser''s session', source.name),
			DETAIL = format('Function %s %s.', function, CASE WHEN owner IS NULL THEN 'does not exist' ELSE format('is owned by "%s", who is none', owner) END),
			HINT = 'Log in as an admin, or give the function to a superuser.';
	END IF;
END
$$;
COMMENT ON FUNCTION sentinai.subject_check_source(sentinai.subject_source) IS
	'Internal: refuses a source whose function is not a superuser''s in the session of one. Errors: 42501.';

CREATE FUNCTION sentinai.subject_erase_check(tenant_id text, key text, reason text) RETURNS void
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	#variable_conflict use_column
DECLARE
	why	text;
BEGIN
	PERFORM sentinai.reason_check($3);
	IF coalesce($2, '') = '' OR coalesce($3, '') = '' THEN
		RAISE EXCEPTION USING ERRCODE = 'SN001', MESSAGE = 'an erasure needs a key and a reason',
			HINT = 'SELECT * FROM sentinai.subject_erase(''TENANT_001'', ''EXC_001'', ''asked for by letter of ...'')';
	ELSIF NOT EXISTS (SELECT FROM sentinai.tenant t WHERE t.tenant_id = $1) THEN
		RAISE EXCEPTION USING ERRCODE = 'SN004', MESSAGE = format('tenant %s does not exist', coalesce('"' || left($1, 100) || '"', 'NULL')),
			HINT = 'SELECT * FROM sentinai.tenant_list() shows all tenants.';
	END IF;
	why := (SELECT string_agg(u.n || ' ' || u.what, ', ') FROM sentinai.subject_unfinished($1, $2) u);
	IF why IS NOT NULL THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN010',
			MESSAGE = format('exception %s is not finished and can''t be erased', $2),
			DETAIL = format('There are %s.', why),
			HINT = 'Let them end: discard its dead letters, wait for the others. sentinai.event_trace() shows its events.';
	END IF;
	why := (SELECT string_agg(r.report_id, ', ') FROM sentinai.subject_reports($1, $2) r WHERE r.held);
	IF why IS NOT NULL THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN077',
			MESSAGE = format('exception %s is under a legal hold', $2),
			DETAIL = format('It is in a report that is held: %s.', why),
			HINT = 'SELECT * FROM sentinai.legal_hold_list() shows the holds that stand.';
	END IF;
END
$$;
COMMENT ON FUNCTION sentinai.subject_erase_check(text, text, text) IS 'Internal: what subject_erase() refuses. Raises SN001, SN004, SN010, SN077.';

CREATE FUNCTION sentinai.subject_erase(tenant_id text, key text, reason text, actor text DEFAULT NULL)
	RETURNS TABLE (relation text, rows bigint)
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	#variable_conflict use_column
DECLARE
	salt	bytea;
	changed	jsonb;
	source	sentinai.subject_source;
BEGIN
	PERFORM sentinai.check_read_committed('subject_erase');
	-- Until the end no hold is placed, and no report begins with what is about to go. One erasure at a time.
	LOCK TABLE sentinai.legal_hold IN SHARE MODE;
	LOCK TABLE sentinai.audit_report IN SHARE ROW EXCLUSIVE MODE;
	PERFORM sentinai.subject_erase_check($1, $2, $3);
	INSERT INTO sentinai.subject_salt (tenant_id, salt)
		VALUES ($1, sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())))
		ON CONFLICT DO NOTHING;
	salt := (SELECT s.salt FROM sentinai.subject_salt s WHERE s.tenant_id = $1);

	changed := (SELECT jsonb_object_agg(e.relation, e.rows) FROM sentinai.subject_erase_sources($1, $2, salt) e);
	WITH named AS (SELECT r.report_id FROM sentinai.subject_reports($1, $2) r),
		 ended AS (SELECT sentinai.report_set_status(n.report_id, 'expired', 'erased: ' || $3) AS done FROM named n)
	SELECT changed || jsonb_build_object('audit_report', count(*) FILTER (WHERE e.done)) INTO changed FROM ended e;
	FOR source IN SELECT s.* FROM sentinai.subject_source s WHERE NOT s.builtin ORDER BY s.name LOOP
		PERFORM sentinai.subject_check_source(source);
		EXECUTE format('SELECT $4 || coalesce(jsonb_object_agg(e.relation, e.rows), ''{}'') FROM %I.%I($1, $2, $3) e',
					   source.function_schema, source.function_name) INTO changed USING $1, $2, salt, changed;
	END LOOP;

	IF EXISTS (SELECT FROM jsonb_each_text(changed) c WHERE c.value::bigint > 0)
	   OR NOT EXISTS (SELECT FROM sentinai.subject_erasure e WHERE e.tenant_id = $1 AND e.key = $2) THEN
		INSERT INTO sentinai.subject_erasure (tenant_id, key, reason, actor, changed) VALUES ($1, $2, $3, $4, changed);
	END IF;
	RETURN QUERY SELECT c.key, c.value::bigint FROM jsonb_each_text(changed) c ORDER BY c.key;
END
$$;
COMMENT ON FUNCTION sentinai.subject_erase(text, text, text, text) IS
	'Erases the personal data of one subject: what was in payloads, raw records, headers and keys of an exception of a tenant, in every table of sentinai and those of subject_source_add(). A salted hash stays in its place. Returns a row for each table: how many rows were changed; once more changes nothing. Reports that name it expire. reason: required. actor: who asks, as you say. Kafka''s copy is out of reach. Errors: 42501 (a superuser, and a function that is not), SN001 (no key or reason), SN004 (no such tenant), SN010 (something of it is not finished), SN013 (another isolation level than READ COMMITTED), SN077 (a legal hold).';
