-- 97_api_exception: exceptions and their events over HTTP, and what can be read as a list with PostgREST's own filters.

-- The identity that handlers go by too: tenant and event_id, with the type and the payload.
CREATE FUNCTION sentinai.api_event_known(event jsonb, OUT known boolean, OUT exception_id text)
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
DECLARE
	id		text := $1->>'event_id';
	tenant	text := sentinai.tenant_check($1->>'tenant_id');
	parsed	record;
BEGIN
	-- Of two at once the second waits here, and then sees the first.
	PERFORM sentinai.lock_take(6, hashtext(tenant || ':' || id));
	SELECT p.* INTO STRICT parsed FROM sentinai.event_parse(convert_to($1::text, 'UTF8')) p;
	-- What is no event is event_publish()'s to refuse.
	IF NOT parsed.ok THEN
		known := false;
		RETURN;
	END IF;
	-- A claim keeps the hash of what was erased since. What no worker has met yet is in the log only.
	SELECT c.hash = parsed.hash, c.exception_id INTO known, exception_id
	  FROM sentinai.event_processing_log c
	 WHERE (c.event_id, c.tenant_id) = (id, tenant) AND c.hash IS NOT NULL
	 LIMIT 1;
	IF NOT FOUND THEN
		SELECT l.event_type = parsed.event_type AND (l.payload = parsed.payload OR l.payload->>'sentinai_erased' = sentinai.subject_hash(tenant, parsed.payload)),
			   l.exception_id INTO known, exception_id
		  FROM sentinai.event_log l
		 WHERE (l.event_id, l.tenant_id) = (id, tenant)
		 ORDER BY l.created_at LIMIT 1;
	END IF;
	IF FOUND AND known IS NOT TRUE THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN012',
			MESSAGE = format('event "%s" exists already, with another type or payload', left(id, 100)),
			HINT = 'A new event needs a new event_id; one that is sent again must have the same type and payload.';
	END IF;
	known := FOUND;
END
$$;
COMMENT ON FUNCTION sentinai.api_event_known(jsonb) IS
	'Whether an event with an id of the caller''s choice is known already, as long as it is in event_log or claimed, and then its exception. Holds the id until the transaction ends. Errors: 42501, SN012 (known with another type or payload).';

CREATE FUNCTION sentinai_api.exception_create(jsonb) RETURNS json
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
DECLARE
	args	jsonb := sentinai.api_args($1);
	tenant	text := sentinai.api_tenant(args->>'tenant_id');
	type	text;
	event	jsonb;
	known	boolean := false;
	its		text := sentinai.api_text($1, 'exception_id');
	answer	json;
BEGIN
	IF $1 ? 'tenant_id' AND $1->>'tenant_id' IS DISTINCT FROM tenant THEN
		PERFORM sentinai.api_wrong('tenant_id', $1->'tenant_id', 'that of the path');
	END IF;
	type := coalesce(sentinai.api_text($1, 'event_type'), 'ExceptionIngested');
	IF type NOT IN ('ExceptionIngested', 'ManualExceptionCreated') THEN
		PERFORM sentinai.api_wrong('event_type', to_jsonb(type), 'ExceptionIngested or ManualExceptionCreated');
	END IF;
	answer := sentinai.api_begin('exception_create', tenant, args);
	IF answer IS NOT NULL THEN
		RETURN answer;
	END IF;
	-- The event whole, or only its payload: the exception.
	event := CASE WHEN jsonb_typeof($1->'payload') = 'object' THEN $1
				  ELSE jsonb_build_object('payload', $1 - ARRAY['tenant_id', 'event_type', 'event_id', 'timestamp', 'exception_id'])
					   || (SELECT coalesce(jsonb_object_agg(f.key, f.value), '{}') FROM jsonb_each($1) f WHERE f.key IN ('event_id', 'timestamp', 'exception_id')) END
			 || jsonb_build_object('tenant_id', tenant, 'event_type', type);
	IF event->>'event_id' IS NULL THEN
		event := event || jsonb_build_object('event_id', sentinai.event_id_new());
	ELSE
		SELECT k.known, coalesce(k.exception_id, its) INTO known, its FROM sentinai.api_event_known(event) k;
	END IF;
	event := event || jsonb_build_object('exception_id', coalesce(its, event->>'event_id'));
	IF known THEN
		PERFORM sentinai.api_header('Idempotency-Replayed', 'true');
	ELSE
		PERFORM sentinai.event_publish('exceptions', event);
	END IF;
	RETURN sentinai.api_end(tenant,
		json_build_object('event_id', event->>'event_id', 'event_type', type, 'tenant_id', tenant, 'exception_id', event->>'exception_id', 'status', 'accepted'), 202,
		jsonb_build_object('Location', format('/api/exceptions/%s/%s/trace', tenant, sentinai.api_encode(event->>'exception_id'))));
END
$$;
COMMENT ON FUNCTION sentinai_api.exception_create(jsonb) IS
	E'An exception arrives\nTakes the exception ({exception_id, domain, type, severity, source_system, entity, amount, sla_deadline, owner, ...}), or its event whole, with a payload and the event_type ExceptionIngested or ManualExceptionCreated. Answers 202 once the event is stored, with {event_id, event_type, tenant_id, exception_id, status}; once more, with Idempotency-Replayed, where the event is known by its event_id, and 409 where that one had another type or payload. Idempotency-Key is kept.';

CREATE FUNCTION sentinai_api.exception_trace(tenant_id text, exception_id text) RETURNS json
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
DECLARE
	tenant	text := sentinai.api_tenant($1);
	id		text := sentinai.api_path_id($2);
	items	json;
BEGIN
	SELECT json_agg(t) INTO items FROM sentinai.event_trace(tenant, id) t;
	IF items IS NULL THEN
		RAISE EXCEPTION USING ERRCODE = 'SN011', MESSAGE = format('there is no exception "%s"', left(id, 100)), DETAIL = 'No event of it has been seen.';
	END IF;
	RETURN json_build_object('tenant_id', tenant, 'exception_id', id, 'items', items, 'total', json_array_length(items));
END
$$;
COMMENT ON FUNCTION sentinai_api.exception_trace(text, text) IS
	E'What happened to the events of an exception\nIn time order: arrived, handled, waits, dead letters and each step of their lives. Answers {tenant_id, exception_id, items, total}.';

CREATE FUNCTION sentinai_api.exception_events(exception_id text, tenant_id text DEFAULT NULL, p_limit integer DEFAULT 100, p_offset integer DEFAULT 0,
		p_after text DEFAULT NULL) RETURNS json
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
DECLARE
	id		text := sentinai.api_path_id($1);
	items	json[];
	keys	text[];
BEGIN
	SELECT array_agg(row_to_json(e)),
		   -- Those of one moment, of one batch too, as they lie in Kafka.
		   array_agg(sentinai.api_cursor(e."timestamp", concat_ws('_', sentinai.api_cursor(e.created_at, coalesce(lpad(e.kafka_offset::text, 19, '0'), '~')), e.event_id, e.tenant_id)))
	  INTO items, keys
	  FROM sentinai.exception_events(id, sentinai.tenant_check($2)) e;
	IF items IS NULL THEN
		RAISE EXCEPTION USING ERRCODE = 'SN011', MESSAGE = format('there is no exception "%s"', left(id, 100)), DETAIL = 'No event of it has been seen.';
	END IF;
	RETURN (SELECT json_build_object('exception_id', id, 'items', s.page, 'total', s.total, 'limit', $3, 'offset', $4, 'next_after', s.next_after)
			  FROM sentinai.api_slice(items, keys, $3, $4, $5) s);
END
$$;
COMMENT ON FUNCTION sentinai_api.exception_events(text, text, integer, integer, text) IS
	E'The events of an exception\nBy the time they happened. payload and metadata are null for who is not a member of sentinai_payload. p_after, the next_after of the page before, goes on behind it. Answers {exception_id, items, total, limit, offset, next_after}.';

CREATE FUNCTION sentinai_api.exception_history(tenant_id text, exception_id text, p_limit integer DEFAULT 100, p_offset integer DEFAULT 0,
		p_after text DEFAULT NULL) RETURNS json
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
DECLARE
	tenant	text := sentinai.api_tenant($1);
	id		text := sentinai.api_path_id($2);
	items	json[];
	keys	text[];
BEGIN
	SELECT array_agg(row_to_json(e)), array_agg(sentinai.api_cursor(e.created_at, sentinai.api_cursor(e.recorded_at, concat_ws('_', e.event_id, e.event_type))))
	  INTO items, keys
	  FROM sentinai.exception_history(tenant, id) e;
	IF items IS NULL THEN
		RAISE EXCEPTION USING ERRCODE = 'SN011', MESSAGE = format('there is no exception "%s"', left(id, 100)), DETAIL = 'No worker has taken it in.';
	END IF;
	RETURN (SELECT json_build_object('tenant_id', tenant, 'exception_id', id, 'items', s.page, 'total', s.total, 'limit', $3, 'offset', $4, 'next_after', s.next_after)
			  FROM sentinai.api_slice(items, keys, $3, $4, $5) s);
END
$$;
COMMENT ON FUNCTION sentinai_api.exception_history(text, text, integer, integer, text) IS
	E'What happened to an exception\nWho did what, and each change, for as long as the exception is kept; exception_events has the events themselves, for sentinai.event_retention. payload is null for who is not a member of sentinai_payload, and masked. p_after, the next_after of the page before, goes on behind it. Answers {tenant_id, exception_id, items: [{event_id, event_type, actor_type, actor_id, payload, created_at, recorded_at}], total, limit, offset, next_after}.';

CREATE FUNCTION sentinai_api.event_why(event_id text, tenant_id text DEFAULT NULL, worker_type text DEFAULT NULL) RETURNS json
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
DECLARE
	tenant	text := sentinai.api_tenant($2);
	id		text := sentinai.api_path_id($1);
	items	json;
BEGIN
	SELECT coalesce(json_agg(w), '[]') INTO items FROM sentinai.event_why(tenant, id, $3) w;
	RETURN json_build_object('tenant_id', tenant, 'event_id', id, 'items', items, 'total', json_array_length(items));
END
$$;
COMMENT ON FUNCTION sentinai_api.event_why(text, text, text) IS
	E'Why an event is where it is\nOne item for each worker type that it concerns: state, reason, details. Answers {tenant_id, event_id, items, total}.';

CREATE FUNCTION sentinai_api.tenant_list(status text DEFAULT NULL) RETURNS json
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
BEGIN
	RETURN sentinai.api_list((SELECT json_agg(t) FROM sentinai.tenant_list($1) t));
END
$$;
COMMENT ON FUNCTION sentinai_api.tenant_list(text) IS
	E'Tenants\nOf a status (active, suspended, archived) or all: the caller''s own, and for the admin every one. Answers {items, total}.';

CREATE FUNCTION sentinai_api.tenant_add(jsonb) RETURNS json
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
DECLARE
	args	jsonb := sentinai.api_args($1);
	tenant	text;
BEGIN
	PERFORM sentinai.api_no_key('A key is a tenant''s, which there is only after this. 409 says that there is one already.');
	IF jsonb_typeof(args->'metadata') NOT IN ('object', 'null') THEN
		PERFORM sentinai.api_wrong('metadata', args->'metadata', 'an object');
	ELSIF jsonb_typeof(args->'tags') NOT IN ('array', 'null') THEN
		PERFORM sentinai.api_wrong('tags', args->'tags', 'an array of texts');
	END IF;
	tenant := sentinai.tenant_add(sentinai.api_text(args, 'tenant_id'), sentinai.api_text(args, 'name'), sentinai.api_text(args, 'industry'),
		CASE jsonb_typeof(args->'tags') WHEN 'array' THEN ARRAY(SELECT jsonb_array_elements_text(args->'tags')) END, nullif(args->'metadata', 'null'));
	PERFORM sentinai.api_answer(201);
	RETURN json_build_object('tenant_id', tenant, 'status', 'active');
END
$$;
COMMENT ON FUNCTION sentinai_api.tenant_add(jsonb) IS
	E'Adds a tenant\nTakes {tenant_id, name, industry, tags, metadata}. Answers 201 with {tenant_id, status}. 409 where it exists already. For the admin.';

CREATE FUNCTION sentinai_api.tenant_suspend(jsonb) RETURNS json
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
DECLARE
	args	jsonb := sentinai.api_args($1);
	tenant	text := sentinai.api_tenant(args->>'tenant_id');
	answer	json;
BEGIN
	answer := sentinai.api_begin('tenant_suspend', tenant, args);
	IF answer IS NOT NULL THEN
		RETURN answer;
	END IF;
	PERFORM sentinai.tenant_suspend(tenant, sentinai.api_text(args, 'reason'));
	RETURN sentinai.api_end(tenant, json_build_object('tenant_id', tenant, 'status', 'suspended'));
END
$$;
COMMENT ON FUNCTION sentinai_api.tenant_suspend(jsonb) IS
	E'Lets a tenant''s events wait\nTakes {tenant_id, reason}. Answers {tenant_id, status}. For the admin. Idempotency-Key is kept.';

CREATE FUNCTION sentinai_api.tenant_resume(jsonb) RETURNS json
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
DECLARE
	args	jsonb := sentinai.api_args($1);
	tenant	text := sentinai.api_tenant(args->>'tenant_id');
	answer	json;
BEGIN
	answer := sentinai.api_begin('tenant_resume', tenant, args);
	IF answer IS NOT NULL THEN
		RETURN answer;
	END IF;
	RETURN sentinai.api_end(tenant, json_build_object('tenant_id', tenant, 'status', 'active',
													  'released', sentinai.tenant_resume(tenant, sentinai.api_text(args, 'reason'))));
END
$$;
COMMENT ON FUNCTION sentinai_api.tenant_resume(jsonb) IS
	E'Takes a tenant back\nTakes {tenant_id, reason}. Answers {tenant_id, status, released}: how many events waited. For the admin. Idempotency-Key is kept.';

CREATE FUNCTION sentinai_api.tenant_archive(jsonb) RETURNS json
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
DECLARE
	args	jsonb := sentinai.api_args($1);
	tenant	text := sentinai.api_tenant(args->>'tenant_id');
BEGIN
	PERFORM sentinai.api_no_key('A tenant that is archived has no keys; archived twice, it stays as it is.');
	RETURN json_build_object('tenant_id', tenant, 'status', 'archived', 'released', sentinai.tenant_archive(tenant, sentinai.api_text(args, 'reason')));
END
$$;
COMMENT ON FUNCTION sentinai_api.tenant_archive(jsonb) IS
	E'Gives a tenant up\nTakes {tenant_id, reason}: its events become dead letters, those that waited too; nothing is deleted. Answers {tenant_id, status, released}: how many events waited. For the admin.';

CREATE FUNCTION sentinai_api.subject_erase(jsonb) RETURNS json
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
DECLARE
	args	jsonb := sentinai.api_args($1);
	tenant	text := sentinai.api_tenant(args->>'tenant_id');
	answer	json;
BEGIN
	answer := sentinai.api_begin('subject_erase', tenant, args);
	IF answer IS NOT NULL THEN
		RETURN answer;
	END IF;
	SELECT json_build_object('tenant_id', tenant, 'items', coalesce(json_agg(e), '[]'), 'total', count(*)) INTO answer
	  FROM sentinai.subject_erase(tenant, sentinai.api_text(args, 'key'), sentinai.api_text(args, 'reason'), sentinai.api_text(args, 'actor')) e;
	RETURN sentinai.api_end(tenant, answer);
END
$$;
COMMENT ON FUNCTION sentinai_api.subject_erase(jsonb) IS
	E'Erases a person''s data\nTakes {tenant_id, key, reason, actor}: see docs/personal-data.md. Answers {tenant_id, items: [{relation, rows}], total}. For the admin. Idempotency-Key is kept.';

CREATE FUNCTION sentinai_api.payload_mask_list() RETURNS json
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
BEGIN
	RETURN sentinai.api_list((SELECT json_agg(m) FROM sentinai.payload_mask_list() m));
END
$$;
COMMENT ON FUNCTION sentinai_api.payload_mask_list() IS
	E'What is masked in payloads\nAll masks. Answers {items: [{event_type, path, created_at, created_by}], total}.';

-- An array in a body, and {customer,email} behind the "?".
CREATE FUNCTION sentinai.api_mask_path(args jsonb) RETURNS text[]
	LANGUAGE plpgsql IMMUTABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
BEGIN
	IF jsonb_typeof($1->'path') = 'array' THEN
		RETURN ARRAY(SELECT e.value FROM jsonb_array_elements_text($1->'path') WITH ORDINALITY AS e (value, n) ORDER BY e.n);
	END IF;
	RETURN sentinai.api_text($1, 'path')::text[];
END
$$;
COMMENT ON FUNCTION sentinai.api_mask_path(jsonb) IS 'The argument path of a mask. Errors: SN001, 22P02.';

CREATE FUNCTION sentinai_api.payload_mask_add(jsonb) RETURNS void
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
DECLARE
	args	jsonb := sentinai.api_args($1);
BEGIN
	PERFORM sentinai.api_no_key('A mask is no tenant''s, and can be set once more.');
	PERFORM sentinai.payload_mask_add(sentinai.api_text(args, 'event_type'), sentinai.api_mask_path(args));
END
$$;
COMMENT ON FUNCTION sentinai_api.payload_mask_add(jsonb) IS
	E'Masks a value in payloads\nTakes {event_type, path: [keys from the payload down; * is any]}: whoever is no admin sees *** there. event_type * stands for all. Answers 204, also where it is masked already. For the admin.';

CREATE FUNCTION sentinai_api.payload_mask_remove(jsonb) RETURNS void
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
DECLARE
	args	jsonb := sentinai.api_args($1);
BEGIN
	PERFORM sentinai.api_no_key('A mask is no tenant''s, and can be taken away once more.');
	PERFORM sentinai.payload_mask_remove(sentinai.api_text(args, 'event_type'), sentinai.api_mask_path(args));
END
$$;
COMMENT ON FUNCTION sentinai_api.payload_mask_remove(jsonb) IS
	E'Takes a mask away\nTakes {event_type, path}. Answers 204, also where there was none. For the admin.';

CREATE FUNCTION sentinai_api.circuit_list() RETURNS json
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
BEGIN
	RETURN sentinai.api_list((SELECT json_agg(c) FROM sentinai.circuit_list() c));
END
$$;
COMMENT ON FUNCTION sentinai_api.circuit_list() IS
	E'Circuit breakers that are open\nWhich worker type and event type, since when and why. Answers {items, total}.';

CREATE FUNCTION sentinai_api.circuit_open(jsonb) RETURNS void
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
DECLARE
	args	jsonb := sentinai.api_args($1);
	tenant	text := sentinai.tenant_check(args->>'tenant_id');
BEGIN
	IF sentinai.api_begin('circuit_open', tenant, args) IS NULL THEN
		PERFORM sentinai.circuit_open(sentinai.api_text(args, 'worker_type'), sentinai.api_text(args, 'event_type'), tenant, sentinai.api_text(args, 'reason'));
		PERFORM sentinai.api_end(tenant, 'null', 204);
	END IF;
END
$$;
COMMENT ON FUNCTION sentinai_api.circuit_open(jsonb) IS
	E'Opens a circuit by hand\nTakes {worker_type, event_type, tenant_id, reason}: its events wait. Answers 204. Idempotency-Key is kept.';

CREATE FUNCTION sentinai_api.circuit_close(jsonb) RETURNS json
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
DECLARE
	args	jsonb := sentinai.api_args($1);
	tenant	text := sentinai.tenant_check(args->>'tenant_id');
	answer	json;
BEGIN
	answer := sentinai.api_begin('circuit_close', tenant, args);
	IF answer IS NOT NULL THEN
		RETURN answer;
	END IF;
	RETURN sentinai.api_end(tenant, json_build_object('released',
		sentinai.circuit_close(sentinai.api_text(args, 'worker_type'), sentinai.api_text(args, 'event_type'), tenant)));
END
$$;
COMMENT ON FUNCTION sentinai_api.circuit_close(jsonb) IS
	E'Closes a circuit\nTakes {worker_type, event_type, tenant_id}. Answers {released}: how many events waited. Idempotency-Key is kept.';

CREATE FUNCTION sentinai_api.retry_policy_list() RETURNS json
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
BEGIN
	RETURN sentinai.api_list((SELECT json_agg(p) FROM sentinai.retry_policy_list() p));
END
$$;
COMMENT ON FUNCTION sentinai_api.retry_policy_list() IS
	E'Retry policies\nThose that count. Answers {items, total}.';


-- ---- lists ----

-- Each column that a viewer may read of a table, under row security: with PostgREST's filters, ordering and columns, at /rest/NAME.
DO $$
DECLARE
	shown	record;
	said	record;
BEGIN
	FOR shown IN
		SELECT v.name, v.about, pg_catalog.string_agg(pg_catalog.quote_ident(a.attname), ', ' ORDER BY a.attnum) AS columns
		  FROM (VALUES
			('dead_letter_queue', E'Dead letters, as a list to filter\nWithout payloads, which dlq_list and dlq_get have.'),
			('dlq_history', E'What has happened to dead letters, as a list to filter\nDead letters that are gone, too.'),
			('exceptions', E'Exceptions, as a list to filter\nWhat intake and the other workers know of each.'),
			('exception_event', E'What happened to exceptions, as a list to filter\nWithout payloads.'),
			('event_log', E'Events, as a list to filter\nWithout payloads, which exception_events has.'),
			('event_pending', E'Events that wait, as a list to filter\nFor a retry, their turn, or their tenant. Without payloads.'),
			('event_processing_log', E'How events were handled, as a list to filter\nA row for each event and worker type.'),
			('audit_report', E'Reports, as a list to filter\nEach with its status.'),
			('report_history', E'What was done with reports, as a list to filter\nEach download is a row.'),
			('rate_limit_history', E'Changes of limits, as a list to filter\nWho, when, why.'),
			('tenant_history', E'Changes of tenants'' status, as a list to filter\nWho, when, why.'),
			('usage_correction', E'Corrections of usage, as a list to filter\nWho, when, why.')
			) v (name, about)
		  JOIN pg_catalog.pg_attribute a ON a.attrelid = ('sentinai.' || v.name)::pg_catalog.regclass AND a.attnum > 0 AND NOT a.attisdropped
		 -- Other names of a payload are in 90_role.sql.
		 WHERE pg_catalog.has_column_privilege('sentinai_viewer', a.attrelid, a.attnum, 'SELECT')
		 GROUP BY 1, 2
	LOOP
		EXECUTE pg_catalog.format('CREATE VIEW sentinai_api.%I WITH (security_invoker = true) AS SELECT %s FROM sentinai.%1$I', shown.name, shown.columns);
		EXECUTE pg_catalog.format('COMMENT ON VIEW sentinai_api.%I IS %L', shown.name, shown.about);
		EXECUTE pg_catalog.format('REVOKE ALL ON sentinai_api.%I FROM PUBLIC', shown.name);
		EXECUTE pg_catalog.format('GRANT SELECT ON sentinai_api.%I TO sentinai_viewer, sentinai_admin', shown.name);
		FOR said IN
			SELECT c.attname, pg_catalog.col_description(t.attrelid, t.attnum) AS text
			  FROM pg_catalog.pg_attribute c JOIN pg_catalog.pg_attribute t USING (attname)
			 WHERE c.attrelid = ('sentinai_api.' || shown.name)::pg_catalog.regclass AND c.attnum > 0
			   AND t.attrelid = ('sentinai.' || shown.name)::pg_catalog.regclass
		LOOP
			EXECUTE pg_catalog.format('COMMENT ON COLUMN sentinai_api.%I.%I IS %L', shown.name, said.attname, said.text);
		END LOOP;
	END LOOP;
END
$$;
