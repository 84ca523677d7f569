-- 10_event: the event itself, its types, and the log of everything that arrived.

-- What a handler gets: the envelope's fields, parsed and checked.
CREATE TYPE sentinai.event AS (
	event_id		text,
	event_type		text,
	tenant_id		text,
	exception_id	text,
	"timestamp"		timestamptz,
	correlation_id	text,
	version			integer,
	payload			jsonb,
	metadata		jsonb
);
COMMENT ON TYPE sentinai.event IS
	'What a handler gets: the envelope''s fields, parsed and checked.';
COMMENT ON COLUMN sentinai.event.event_id IS 'Unique within the tenant.';
COMMENT ON COLUMN sentinai.event.event_type IS 'A row of event_type.';
COMMENT ON COLUMN sentinai.event.tenant_id IS 'A row of tenant.';
COMMENT ON COLUMN sentinai.event.exception_id IS 'What the event is about; events of one exception are handled in order.';
COMMENT ON COLUMN sentinai.event."timestamp" IS 'When it happened.';
COMMENT ON COLUMN sentinai.event.correlation_id IS 'What it belongs to, by default its exception.';
COMMENT ON COLUMN sentinai.event.version IS 'Of the envelope.';
COMMENT ON COLUMN sentinai.event.payload IS 'An object.';
COMMENT ON COLUMN sentinai.event.metadata IS 'An object or NULL.';

-- One Kafka header; an array of them keeps order and repeats.
CREATE TYPE sentinai.header AS (
	name	text,
	value	bytea
);
COMMENT ON TYPE sentinai.header IS
	'One header of a Kafka record; an array of them keeps order and repeats.';
COMMENT ON COLUMN sentinai.header.name IS 'The name.';
COMMENT ON COLUMN sentinai.header.value IS 'The bytes, or NULL.';

-- A Kafka record as consume() takes it.
CREATE TYPE sentinai.record AS (
	topic			text,
	partition		integer,
	kafka_offset	bigint,
	epoch			bigint,
	ts				timestamptz,
	key				bytea,
	headers			sentinai.header[],
	value			bytea
);
COMMENT ON TYPE sentinai.record IS
	'A Kafka record as consume() takes it. With value, key and ts all NULL it is no record but a position: kafka_offset is where the partition''s reader stands.';
COMMENT ON COLUMN sentinai.record.topic IS 'The topic.';
COMMENT ON COLUMN sentinai.record.partition IS 'The partition.';
COMMENT ON COLUMN sentinai.record.kafka_offset IS 'The offset.';
COMMENT ON COLUMN sentinai.record.epoch IS 'As assign() returned it.';
COMMENT ON COLUMN sentinai.record.ts IS 'The record''s time.';
COMMENT ON COLUMN sentinai.record.key IS 'The key.';
COMMENT ON COLUMN sentinai.record.headers IS 'The headers.';
COMMENT ON COLUMN sentinai.record.value IS 'The bytes; NULL: a tombstone.';

CREATE TABLE sentinai.event_type (
	event_type	text COLLATE "C" PRIMARY KEY
				CHECK (octet_length(event_type) BETWEEN 1 AND 255),
	description	text,
	builtin		boolean NOT NULL DEFAULT false
);
COMMENT ON TABLE sentinai.event_type IS
	'Event types that are known; events of others are dead letters. Written by event_type_add.';
COMMENT ON COLUMN sentinai.event_type.event_type IS 'As in the envelope.';
COMMENT ON COLUMN sentinai.event_type.description IS 'For people.';
COMMENT ON COLUMN sentinai.event_type.builtin IS 'Installed with the extension.';
SELECT pg_catalog.pg_extension_config_dump('sentinai.event_type', 'WHERE NOT builtin');

INSERT INTO sentinai.event_type (event_type, description, builtin) VALUES
	('ExceptionIngested', 'an exception arrived from a source system', true),
	('ManualExceptionCreated', 'a person entered an exception', true),
	('ExceptionNormalized', 'intake stored the exception in its normal form', true),
	('TriageRequested', 'somebody asked for a triage', true),
	('TriageCompleted', 'triage has classified the exception', true),
	('PolicyEvaluationRequested', 'somebody asked for a policy evaluation', true),
	('PolicyEvaluationCompleted', 'the policies have been evaluated', true),
	('PlaybookMatched', 'a playbook fits the exception', true),
	('StepExecutionRequested', 'a playbook step is to run', true),
	('ToolExecutionRequested', 'a tool is to run', true),
	('ToolExecutionCompleted', 'a tool has run', true),
	('ToolExecutionFailed', 'a tool could not run', true),
	('PlaybookCompleted', 'all steps of a playbook have run', true),
	('ExceptionResolved', 'the exception is resolved', true),
	('FeedbackCaptured', 'feedback about a resolution is stored', true),
	('SLAImminent', 'an exception nears its deadline', true),
	('SLAExpired', 'an exception passed its deadline', true),
	('RetryScheduled', 'an event failed and will be tried again', true),
	('DeadLettered', 'an event went to the dead letter queue', true),
	('BackpressureApplied', 'a tenant is over its rate', true);

-- Everything that arrived from outside or was emitted by us, once. Partitions by day are made at run time, each with
-- its own indexes: an index on the parent would break the restore of a dump.
CREATE TABLE sentinai.event_log (
	tenant_id		text COLLATE "C" NOT NULL,
	event_id		text COLLATE "C" NOT NULL,
	event_type		text COLLATE "C" NOT NULL,
	exception_id	text COLLATE "C",
	"timestamp"		timestamptz NOT NULL,
	correlation_id	text,
	payload			jsonb NOT NULL,
	metadata		jsonb,
	version			integer NOT NULL,
	topic			text COLLATE "C",
	partition		integer,
	kafka_offset	bigint,
	created_at		timestamptz NOT NULL DEFAULT now()
) PARTITION BY RANGE (created_at);
COMMENT ON TABLE sentinai.event_log IS
	'Every event that came from outside or was emitted here, once, for sentinai.event_retention. Partitions by day.';
COMMENT ON COLUMN sentinai.event_log.tenant_id IS 'Whose event it is.';
COMMENT ON COLUMN sentinai.event_log.event_id IS 'The event; its identity together with the tenant.';
COMMENT ON COLUMN sentinai.event_log.event_type IS 'Its type.';
COMMENT ON COLUMN sentinai.event_log.exception_id IS 'Its exception.';
COMMENT ON COLUMN sentinai.event_log."timestamp" IS 'When it happened.';
COMMENT ON COLUMN sentinai.event_log.correlation_id IS 'What it belongs to, by default its exception.';
COMMENT ON COLUMN sentinai.event_log.payload IS 'The payload.';
COMMENT ON COLUMN sentinai.event_log.metadata IS 'The metadata.';
COMMENT ON COLUMN sentinai.event_log.version IS 'Of the envelope.';
COMMENT ON COLUMN sentinai.event_log.topic IS 'The topic that it was read from, or is published to.';
COMMENT ON COLUMN sentinai.event_log.partition IS 'Where it was read from; NULL: it was made here.';
COMMENT ON COLUMN sentinai.event_log.kafka_offset IS 'Where it was read from; NULL: it was made here.';
COMMENT ON COLUMN sentinai.event_log.created_at IS 'When it was logged.';
SELECT pg_catalog.pg_extension_config_dump('sentinai.event_log', '');

CREATE FUNCTION sentinai.event_parse(value bytea, ts timestamptz DEFAULT pg_catalog.now())
	RETURNS TABLE (
		ok				boolean,
		event_id		text,
		event_type		text,
		tenant_id		text,
		exception_id	text,
		correlation_id	text,
		"timestamp"		timestamptz,
		version			integer,
		payload			jsonb,
		metadata		jsonb,
		error_type		text,
		message			text,
		detail			text,
		hash			bigint
	)
	LANGUAGE c STABLE PARALLEL SAFE ROWS 1
	AS 'MODULE_PATHNAME', 'sn_event_parse_sql';
COMMENT ON FUNCTION sentinai.event_parse(bytea, timestamptz) IS
	'How a record''s value is read: one row, always. value: the bytes (NULL: a tombstone); ts: the record''s time, used where the event has none. Where ok is false error_type, message and detail say why, and the other columns have what is usable all the same. hash: of event type and payload, as kept with a claim to tell a duplicate from an id_conflict. Changes nothing, looks at no table, raises nothing.';

CREATE FUNCTION sentinai.event_id_from_place(cluster_id text, topic text, incarnation integer, partition integer, kafka_offset bigint)
	RETURNS text
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
	AS 'MODULE_PATHNAME', 'sn_event_id_from_place_sql';
COMMENT ON FUNCTION sentinai.event_id_from_place(text, text, integer, integer, bigint) IS
	'The event id (UUIDv5) of a record that brings none, from its place: Kafka cluster id, topic, how many times the topic was recreated, partition, offset.';

CREATE FUNCTION sentinai.event_id_derived(tenant_id text, parent_event_id text, parent_ts timestamptz, worker_type text, ordinal integer)
	RETURNS text
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
	AS 'MODULE_PATHNAME', 'sn_event_id_derived_sql';
COMMENT ON FUNCTION sentinai.event_id_derived(text, text, timestamptz, text, integer) IS
	'The id (UUIDv8, the parent''s time in front) of an event that a handler emits: parent''s tenant, id and time, worker type, and the emit''s number among those of this parent. The same inputs give the same id, so that a replay emits no second event.';

CREATE FUNCTION sentinai.event_type_add(event_type text, description text DEFAULT NULL)
	RETURNS text
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF event_type_add.event_type IS NULL OR event_type_add.event_type !~ '^[A-Za-z][A-Za-z0-9_.:-]{0,254}$' THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN001',
			MESSAGE = format('event type %s is not valid', coalesce(quote_literal(left(event_type_add.event_type, 100)), 'NULL')),
			HINT = 'An event type begins with a letter and goes on with letters, digits, "_", ".", ":" or "-", at most 255 in all.';
	END IF;
	INSERT INTO sentinai.event_type (event_type, description)
	VALUES (event_type_add.event_type, event_type_add.description)
	ON CONFLICT DO NOTHING;
	IF NOT FOUND THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN012',
			MESSAGE = format('event type "%s" exists already', event_type_add.event_type),
			DETAIL = (SELECT CASE WHEN t.builtin THEN 'It is one of the types that sentinai installs.'
							 ELSE 'It was added before.' END
						FROM sentinai.event_type t WHERE t.event_type = event_type_add.event_type),
			HINT = 'It can be used as it is: SELECT * FROM sentinai.event_type.';
	END IF;
	RETURN event_type_add.event_type;
END
$$;
COMMENT ON FUNCTION sentinai.event_type_add(text, text) IS
	'Makes an event type known, and returns it; events of unknown types are dead letters. Errors: SN001 (name not valid), SN012 (exists already).';

CREATE FUNCTION sentinai.event_id_new() RETURNS text
	LANGUAGE sql VOLATILE PARALLEL SAFE
AS $$
	SELECT pg_catalog.substr(t, 1, 8) || '-' || pg_catalog.substr(t, 9, 4) || '-7' || pg_catalog.substr(r, 16, 21)
	  FROM pg_catalog.lpad(pg_catalog.to_hex(
				pg_catalog.floor(extract(epoch FROM pg_catalog.clock_timestamp()) * 1000)::bigint), 12, '0') t,
		   pg_catalog.text(pg_catalog.gen_random_uuid()) r
$$;
COMMENT ON FUNCTION sentinai.event_id_new() IS
	'A new event id: a UUID of version 7, with the milliseconds since 1970 in front, so that ids made together lie together in an index.';

CREATE FUNCTION sentinai.event_publish(topic text, event jsonb)
	RETURNS text
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	whole	jsonb := event_publish.event;
	parsed	record;
BEGIN
	IF event_publish.topic IS NULL OR event_publish.topic !~ '^[A-Za-z0-9._-]{1,249}$' OR event_publish.topic IN ('.', '..') THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN001',
			MESSAGE = format('topic %s is not valid', coalesce(quote_literal(left(event_publish.topic, 100)), 'NULL')),
			HINT = 'A topic of Kafka has 1 to 249 characters, each one a letter, a digit, ".", "_" or "-".';
	ELSIF jsonb_typeof(whole) IS DISTINCT FROM 'object' THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN006',
			MESSAGE = format('event is not an object but %s', coalesce(jsonb_typeof(whole), 'NULL')),
			HINT = 'An event has at least event_type, tenant_id and payload.';
	END IF;
	PERFORM sentinai.activate();

	IF whole->>'event_id' IS NULL THEN
		whole := whole || jsonb_build_object('event_id', sentinai.event_id_new());
	END IF;
	IF whole->>'timestamp' IS NULL THEN
		whole := whole || jsonb_build_object('timestamp',
			to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'));
	END IF;
	IF whole->>'version' IS NULL THEN
		whole := whole || '{"version": 1}';
	END IF;

	SELECT * INTO STRICT parsed FROM sentinai.event_parse(convert_to(whole::text, 'UTF8'));
	IF NOT parsed.ok THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN006',
			MESSAGE = parsed.message,
			DETAIL = coalesce(parsed.detail, format('The event is %s%s.', parsed.event_id, ' of tenant ' || parsed.tenant_id)),
			HINT = 'Nothing was published. docs/events.md describes the fields of an event.';
	END IF;
	PERFORM sentinai.tenant_check(parsed.tenant_id);
	-- Any other topic of the broker may be somebody else's: the worker that publishes has rights of its own there.
	IF NOT sentinai.caller_sees_all() AND NOT EXISTS (SELECT FROM sentinai.worker_type_effective w WHERE w.topic = event_publish.topic) THEN
		RAISE EXCEPTION USING
			ERRCODE = 'insufficient_privilege',
			MESSAGE = format('permission denied for topic "%s"', event_publish.topic),
			HINT = 'A tenant publishes to topics that a worker type reads.';
	ELSIF NOT EXISTS (SELECT FROM sentinai.event_type t WHERE t.event_type = parsed.event_type) THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN005',
			MESSAGE = format('event type "%s" is not known', left(parsed.event_type, 100)),
			HINT = format('SELECT sentinai.event_type_add(%L) makes it known.', parsed.event_type);
	ELSIF NOT EXISTS (SELECT FROM sentinai.tenant t
					   WHERE t.tenant_id = parsed.tenant_id AND t.status IN ('active', 'suspended')) THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN004',
			MESSAGE = format('tenant "%s" does not exist or is archived', parsed.tenant_id),
			HINT = format('SELECT sentinai.tenant_add(%1$L) adds it; sentinai.tenant_resume(%1$L) takes it back from the archive.',
						  parsed.tenant_id);
	END IF;

	IF current_setting('sentinai.event_log_mode', true) IS DISTINCT FROM 'failures' THEN
		INSERT INTO sentinai.event_log (tenant_id, event_id, event_type, exception_id, "timestamp", correlation_id,
										payload, metadata, version, topic)
		VALUES (parsed.tenant_id, parsed.event_id, parsed.event_type, parsed.exception_id, parsed."timestamp",
				parsed.correlation_id, parsed.payload, parsed.metadata, parsed.version, event_publish.topic)
		ON CONFLICT DO NOTHING;
	END IF;
	PERFORM sentinai.outbox_add(
		event_publish.topic, NULL,
		convert_to(parsed.tenant_id || ':' || coalesce(parsed.exception_id, parsed.event_id), 'UTF8'),
		ARRAY[ROW('sentinai-event-type', convert_to(parsed.event_type, 'UTF8'))]::sentinai.header[],
		convert_to(whole::text, 'UTF8'),
		parsed.tenant_id, parsed.event_id, parsed.event_type);
	RETURN parsed.event_id;
END
$$;
COMMENT ON FUNCTION sentinai.event_publish(text, jsonb) IS
	'Publishes an event of ours to a topic of Kafka, when the transaction commits, and returns its id. event: the envelope; a missing event_id, timestamp or version is filled in. The record''s key is tenant_id:exception_id, or tenant_id:event_id without an exception. It is in event_log at once. To keep the order of one exception''s events, lock a row of that exception before the call. Errors: 42501 (another tenant than the caller''s, or a topic that no worker type reads and the caller does not see all), SN001 (topic), SN004 (tenant), SN005 (event type), SN006 (a field is missing or wrong).';

CREATE FUNCTION sentinai.exception_events(exception text, tenant text DEFAULT NULL)
	RETURNS TABLE (
		tenant_id		text,
		event_id		text,
		event_type		text,
		"timestamp"		timestamptz,
		correlation_id	text,
		payload			jsonb,
		metadata		jsonb,
		version			integer,
		topic			text,
		partition		integer,
		kafka_offset	bigint,
		created_at		timestamptz
	)
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	-- By name, so that the indexes, which begin with the tenant, are used.
	of_tenants	text[] := CASE WHEN $2 IS NULL THEN ARRAY(SELECT t.tenant_id FROM sentinai.tenant t) ELSE ARRAY[$2] END;
BEGIN
	-- The payloads by a function of their own, which masks them: the columns themselves are the admin's.
	RETURN QUERY
		SELECT l.tenant_id::text, l.event_id::text, l.event_type::text, l."timestamp", l.correlation_id,
			   p.payload, p.metadata, l.version, l.topic::text, l.partition, l.kafka_offset, l.created_at
		  FROM sentinai.event_log l
		  LEFT JOIN sentinai.exception_payloads($1, of_tenants) p
				 ON (p.tenant_id, p.event_id, p.created_at) = (l.tenant_id, l.event_id, l.created_at)
				AND (p.topic, p.partition, p.kafka_offset) IS NOT DISTINCT FROM (l.topic, l.partition, l.kafka_offset)
		 WHERE l.tenant_id = ANY (of_tenants) AND l.exception_id = $1
		 ORDER BY l."timestamp", l.created_at, l.kafka_offset;
END
$$;
COMMENT ON FUNCTION sentinai.exception_events(text, text) IS
	'The events of an exception in event_log, by the time they happened. exception: its id; tenant: NULL looks at all tenants. payload and metadata are NULL for who is not a member of sentinai_payload; what payload_mask_list() names is *** for all but an admin.';

CREATE FUNCTION sentinai.event_trace(tenant text, exception text)
	RETURNS TABLE (
		at				timestamptz,
		what			text,
		event_id		text,
		event_type		text,
		worker_type		text,
		status			text,
		retry_count		integer,
		next_attempt_at	timestamptz,
		dlq_id			bigint,
		message			text
	)
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	WITH logged AS (
		SELECT l.event_id, l.event_type, l.created_at, l.topic, l.partition, l.kafka_offset
		  FROM sentinai.event_log l
		 WHERE l.tenant_id = $1 AND l.exception_id = $2
	), dead AS (
		SELECT d.id, d.event_id, d.event_type, d.worker_type, d.status, d.retry_count, d.error_type, d.error_message, d.created_at
		  FROM sentinai.dead_letter_queue d
		 WHERE d.tenant_id = $1 AND d.exception_id = $2
	), waiting AS (
		SELECT p.event_id, p.event_type, p.worker_type, p.status, p.retry_count, p.next_attempt_at, p.error_type, p.error_message,
			   p.created_at
		  FROM sentinai.event_pending p
		 WHERE p.tenant_id = $1 AND p.exception_id = $2
	), known AS (
		SELECT event_id FROM logged
		UNION SELECT event_id FROM dead WHERE event_id IS NOT NULL
		UNION SELECT event_id FROM waiting
	)
	SELECT l.created_at, 'arrived', l.event_id, l.event_type, NULL, NULL, NULL::integer, NULL::timestamptz, NULL::bigint,
		   CASE WHEN l.kafka_offset IS NULL THEN 'made here, for topic ' || l.topic
				ELSE format('topic %s, partition %s, offset %s', l.topic, l.partition, l.kafka_offset) END
	  FROM logged l
	UNION ALL
	SELECT coalesce(p.last_attempt_at, p.processed_at), 'handled', p.event_id, p.event_type, p.worker_type, p.status,
		   p.retry_count, NULL, NULL, concat_ws(': ', p.error_type, p.error_message)
	  FROM known k JOIN sentinai.event_processing_log p USING (event_id)
	 WHERE p.tenant_id = $1 AND NOT p.shadow
	UNION ALL
	SELECT w.created_at, 'waits', w.event_id, w.event_type, w.worker_type, w.status,
		   w.retry_count, w.next_attempt_at, NULL, concat_ws(': ', w.error_type, w.error_message)
	  FROM waiting w
	UNION ALL
	SELECT d.created_at, 'dead letter', d.event_id, d.event_type, d.worker_type, d.status,
		   d.retry_count, NULL, d.id, concat_ws(': ', d.error_type, d.error_message)
	  FROM dead d
	UNION ALL
	SELECT h.created_at, 'dead letter ' || h.action, d.event_id, d.event_type, d.worker_type, h.to_status,
		   NULL, NULL, d.id, concat_ws(', ', h.reason, 'by ' || coalesce(h.actor, h.authenticated))
	  FROM dead d JOIN sentinai.dlq_history h ON h.dlq_id = d.id
	 WHERE h.action <> 'dead_lettered'
	 ORDER BY 1
$$;
COMMENT ON FUNCTION sentinai.event_trace(text, text) IS
	'What happened to the events of an exception, in time order. what: arrived (event_log), handled (event_processing_log; status says how it ended), waits (event_pending), dead letter, and each step of a dead letter''s life. With event_log_mode = failures only events that failed or wait are found.';
