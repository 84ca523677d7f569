-- 15_worker_type: who reads which topic in which group, and which function handles which event type.

CREATE TABLE sentinai.worker_type (
	name		text COLLATE "C" PRIMARY KEY CHECK (name ~ '^[a-z][a-z0-9_]{0,62}$'),
	topic		text COLLATE "C" NOT NULL,
	group_id	text COLLATE "C" NOT NULL,
	owns_topic	boolean NOT NULL DEFAULT false,
	http_port	integer,
	builtin		boolean NOT NULL DEFAULT false
);
COMMENT ON TABLE sentinai.worker_type IS
	'Worker types: who reads which topic in which group. The installed ones are never updated: changes stand in worker_type_override.';
COMMENT ON COLUMN sentinai.worker_type.name IS 'WORKER_TYPE of the process.';
COMMENT ON COLUMN sentinai.worker_type.topic IS 'The topic of Kafka that it reads.';
COMMENT ON COLUMN sentinai.worker_type.group_id IS 'Its consumer group.';
COMMENT ON COLUMN sentinai.worker_type.owns_topic IS 'One worker type of each topic owns it: it logs every record and refuses what can''t be read.';
COMMENT ON COLUMN sentinai.worker_type.http_port IS 'Where its HTTP port is looked for first; NULL: from 9000 on.';
COMMENT ON COLUMN sentinai.worker_type.builtin IS 'Installed with the extension.';
SELECT pg_catalog.pg_extension_config_dump('sentinai.worker_type', 'WHERE NOT builtin');

INSERT INTO sentinai.worker_type (name, topic, group_id, owns_topic, http_port, builtin) VALUES
	('intake', 'exceptions', 'intake-workers', true, 9001, true),
	('triage', 'exceptions', 'triage-workers', false, 9002, true),
	('policy', 'exceptions', 'policy-workers', false, 9003, true),
	('playbook', 'exceptions', 'playbook-workers', false, 9004, true),
	('tool', 'exceptions', 'tool-workers', false, 9005, true),
	('feedback', 'exceptions', 'feedback-workers', false, 9006, true),
	('sla_monitor', 'sla', 'sla-monitors', true, 9007, true);

-- A change of an installed row is a row here: what the script inserted is never updated, since a dump would lose that.
CREATE TABLE sentinai.worker_type_override (
	name		text COLLATE "C" PRIMARY KEY,
	group_id	text COLLATE "C",
	owns_topic	boolean
);
COMMENT ON TABLE sentinai.worker_type_override IS
	'What was changed of a worker type; NULL leaves the installed value. Written by worker_type_group and worker_type_own.';
COMMENT ON COLUMN sentinai.worker_type_override.name IS 'The worker type.';
COMMENT ON COLUMN sentinai.worker_type_override.group_id IS 'Its consumer group now.';
COMMENT ON COLUMN sentinai.worker_type_override.owns_topic IS 'Whether it owns its topic now.';
SELECT pg_catalog.pg_extension_config_dump('sentinai.worker_type_override', '');

CREATE VIEW sentinai.worker_type_effective WITH (security_invoker = true) AS
	SELECT w.name, w.topic, coalesce(o.group_id, w.group_id) AS group_id,
		   coalesce(o.owns_topic, w.owns_topic) AS owns_topic, w.http_port, w.builtin
	  FROM sentinai.worker_type w LEFT JOIN sentinai.worker_type_override o USING (name);
COMMENT ON VIEW sentinai.worker_type_effective IS
	'Worker types as they count: installed or added rows with their changes.';
COMMENT ON COLUMN sentinai.worker_type_effective.name IS 'WORKER_TYPE of the process.';
COMMENT ON COLUMN sentinai.worker_type_effective.topic IS 'The topic of Kafka that it reads.';
COMMENT ON COLUMN sentinai.worker_type_effective.group_id IS 'Its consumer group.';
COMMENT ON COLUMN sentinai.worker_type_effective.owns_topic IS 'Whether it owns its topic.';
COMMENT ON COLUMN sentinai.worker_type_effective.http_port IS 'Where its HTTP port is looked for first.';
COMMENT ON COLUMN sentinai.worker_type_effective.builtin IS 'Installed with the extension.';

-- Functions are stored by schema and name: a regprocedure column would block pg_upgrade.
CREATE TABLE sentinai.handler (
	worker_type		text COLLATE "C" NOT NULL,
	event_type		text COLLATE "C" NOT NULL,
	function_schema	text NOT NULL,
	function_name	text NOT NULL,
	set_based		boolean NOT NULL,
	role_name		text NOT NULL DEFAULT 'sentinai_handler',
	scope			text NOT NULL DEFAULT 'all' CHECK (scope IN ('all', 'tenant')),
	timeout_ms		integer CHECK (timeout_ms BETWEEN 1 AND 3600000),
	builtin			boolean NOT NULL DEFAULT false,
	created_at		timestamptz NOT NULL DEFAULT now(),
	PRIMARY KEY (worker_type, event_type)
);
COMMENT ON TABLE sentinai.handler IS
	'Which function handles which event type for which worker type. Written by handler_add and handler_remove.';
COMMENT ON COLUMN sentinai.handler.worker_type IS 'The worker type.';
COMMENT ON COLUMN sentinai.handler.event_type IS 'The event type.';
COMMENT ON COLUMN sentinai.handler.function_schema IS 'The function''s schema, by name, since an oid would block pg_upgrade.';
COMMENT ON COLUMN sentinai.handler.function_name IS 'The function: f(sentinai.event) or f(sentinai.event[]), returning void.';
COMMENT ON COLUMN sentinai.handler.set_based IS 'It takes the array: one call a batch.';
COMMENT ON COLUMN sentinai.handler.role_name IS 'The role that it runs as.';
COMMENT ON COLUMN sentinai.handler.scope IS 'tenant: one call has the events of one tenant, and runs under row security as that tenant. all: a call has what there is.';
COMMENT ON COLUMN sentinai.handler.timeout_ms IS 'How long one call may take, in milliseconds; NULL: sentinai.handler_timeout.';
COMMENT ON COLUMN sentinai.handler.builtin IS 'Installed with the extension.';
COMMENT ON COLUMN sentinai.handler.created_at IS 'When it was registered.';
SELECT pg_catalog.pg_extension_config_dump('sentinai.handler', 'WHERE NOT builtin');

-- What we know of a topic: whose log it is, where its tenant comes from.
CREATE TABLE sentinai.kafka_topic (
	topic			text COLLATE "C" PRIMARY KEY,
	cluster_id		text,
	incarnation		integer NOT NULL DEFAULT 1,
	partition_count	integer,
	tenant_source	text NOT NULL DEFAULT 'payload'
					CHECK (tenant_source IN ('payload', 'header', 'key', 'fixed')),
	tenant_value	text,
	updated_at		timestamptz NOT NULL DEFAULT now(),
	CHECK (CASE tenant_source WHEN 'payload' THEN tenant_value IS NULL
							  WHEN 'key' THEN tenant_value IS NULL
							  WHEN 'fixed' THEN coalesce(tenant_value ~ '^[A-Za-z0-9_.-]{1,64}$', false)
							  ELSE tenant_value <> '' OR tenant_value IS NULL END)
);
COMMENT ON TABLE sentinai.kafka_topic IS
	'What is known of a topic: whose log it is and where its tenant comes from.';
COMMENT ON COLUMN sentinai.kafka_topic.topic IS 'The topic of Kafka.';
COMMENT ON COLUMN sentinai.kafka_topic.cluster_id IS 'The Kafka cluster that it was read from last.';
COMMENT ON COLUMN sentinai.kafka_topic.incarnation IS 'Raised when the topic was made anew, so that old offsets are told from new ones.';
COMMENT ON COLUMN sentinai.kafka_topic.partition_count IS 'As the worker saw it last.';
COMMENT ON COLUMN sentinai.kafka_topic.tenant_source IS 'payload: the envelope says it; header, key (up to its first colon) or fixed: the record or the row says it, and an envelope that names one must agree. Set by topic_tenant_source_set.';
COMMENT ON COLUMN sentinai.kafka_topic.tenant_value IS 'The header''s name (NULL: tenant_id), or the fixed tenant.';
COMMENT ON COLUMN sentinai.kafka_topic.updated_at IS 'When the row was last changed.';
SELECT pg_catalog.pg_extension_config_dump('sentinai.kafka_topic', '');

-- Where a group stands. The database, not the broker, owns the position.
CREATE TABLE sentinai.kafka_offset (
	group_id	text COLLATE "C" NOT NULL,
	topic		text COLLATE "C" NOT NULL,
	partition	integer NOT NULL CHECK (partition >= 0),
	next_offset	bigint NOT NULL CHECK (next_offset >= 0),
	epoch		bigint NOT NULL DEFAULT 0,
	updated_at	timestamptz NOT NULL DEFAULT now(),
	PRIMARY KEY (group_id, topic, partition)
) WITH (fillfactor = 20);
COMMENT ON TABLE sentinai.kafka_offset IS
	'Where each group stands in each partition. The database, not the broker, owns the position.';
COMMENT ON COLUMN sentinai.kafka_offset.group_id IS 'The consumer group.';
COMMENT ON COLUMN sentinai.kafka_offset.topic IS 'The topic.';
COMMENT ON COLUMN sentinai.kafka_offset.partition IS 'The partition, from 0.';
COMMENT ON COLUMN sentinai.kafka_offset.next_offset IS 'The first offset that is not done yet.';
COMMENT ON COLUMN sentinai.kafka_offset.epoch IS 'Raised by each assignment; a batch with an older one is fenced off.';
COMMENT ON COLUMN sentinai.kafka_offset.updated_at IS 'When a batch last moved it.';
SELECT pg_catalog.pg_extension_config_dump('sentinai.kafka_offset', '');

-- A position that the log doesn't have: loud, and mended by offset_reset().
CREATE TABLE sentinai.offset_gap (
	id			bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	group_id	text COLLATE "C" NOT NULL,
	topic		text COLLATE "C" NOT NULL,
	partition	integer NOT NULL,
	next_offset	bigint NOT NULL,
	log_start	bigint,
	log_end		bigint,
	reason		text NOT NULL CHECK (reason IN ('position_too_old', 'topic_recreated', 'other_cluster', 'position_invalid')),
	detected_at	timestamptz NOT NULL DEFAULT now(),
	resolved_at	timestamptz,
	resolution	text
);
COMMENT ON TABLE sentinai.offset_gap IS
	'A position that the log does not have (any more): the partition stands still until offset_reset() mends it.';
COMMENT ON COLUMN sentinai.offset_gap.id IS 'In the order of detection.';
COMMENT ON COLUMN sentinai.offset_gap.group_id IS 'The consumer group.';
COMMENT ON COLUMN sentinai.offset_gap.topic IS 'The topic.';
COMMENT ON COLUMN sentinai.offset_gap.partition IS 'The partition.';
COMMENT ON COLUMN sentinai.offset_gap.next_offset IS 'Where the group wanted to read on.';
COMMENT ON COLUMN sentinai.offset_gap.log_start IS 'The first offset that the broker has.';
COMMENT ON COLUMN sentinai.offset_gap.log_end IS 'The offset behind the broker''s last record.';
COMMENT ON COLUMN sentinai.offset_gap.reason IS 'position_too_old: retention was faster; topic_recreated: the log ends before the position; other_cluster: the cluster id differs; position_invalid: the broker refused it.';
COMMENT ON COLUMN sentinai.offset_gap.detected_at IS 'When it was seen.';
COMMENT ON COLUMN sentinai.offset_gap.resolved_at IS 'When it was mended; NULL: the partition stands still.';
COMMENT ON COLUMN sentinai.offset_gap.resolution IS 'How it was mended.';
SELECT pg_catalog.pg_extension_config_dump('sentinai.offset_gap', '');
SELECT pg_catalog.pg_extension_config_dump('sentinai.offset_gap_id_seq', '');

-- Heartbeats of the processes; a crash empties it and they come back within seconds.
CREATE UNLOGGED TABLE sentinai.worker_instance (
	worker_type		text COLLATE "C" NOT NULL,
	instance_id		text COLLATE "C" NOT NULL,
	host			text,
	pid				integer,
	http_port		integer,
	version			text,
	status			text NOT NULL,
	error_message	text,
	details			jsonb NOT NULL DEFAULT '{}',
	started_at		timestamptz NOT NULL DEFAULT now(),
	last_check		timestamptz NOT NULL DEFAULT now(),
	PRIMARY KEY (worker_type, instance_id)
);

-- The key under the header that marks what this database published itself (include/sentinai_wire.h). Made at the first
-- worker_config(); dumped, since records that carry the mark outlive a restore.
CREATE TABLE sentinai.emit_secret (
	only_row	boolean PRIMARY KEY DEFAULT true CHECK (only_row),
	secret		bytea NOT NULL
);
COMMENT ON TABLE sentinai.emit_secret IS
	'The key of the HMAC in the header sentinai-emitted. One row, made when the first worker asks for its configuration.';
COMMENT ON COLUMN sentinai.emit_secret.only_row IS 'Always true: there is one row.';
COMMENT ON COLUMN sentinai.emit_secret.secret IS '32 random bytes.';
SELECT pg_catalog.pg_extension_config_dump('sentinai.emit_secret', '');

CREATE TRIGGER config_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON sentinai.worker_type
	FOR EACH STATEMENT EXECUTE FUNCTION sentinai.config_changed();
CREATE TRIGGER config_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON sentinai.worker_type_override
	FOR EACH STATEMENT EXECUTE FUNCTION sentinai.config_changed();
CREATE TRIGGER config_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON sentinai.handler
	FOR EACH STATEMENT EXECUTE FUNCTION sentinai.config_changed();
CREATE TRIGGER role_guard BEFORE INSERT OR UPDATE OF role_name, function_schema, function_name, scope ON sentinai.handler
	FOR EACH ROW EXECUTE FUNCTION sentinai.role_guard('role_name', 'sentinai_handler', 'sentinai_tenant_handler', 'sentinai_platform');
CREATE TRIGGER config_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON sentinai.event_type
	FOR EACH STATEMENT EXECUTE FUNCTION sentinai.config_changed();

CREATE FUNCTION sentinai.handler_version(worker_type text) RETURNS bigint
	LANGUAGE c VOLATILE STRICT
	AS 'MODULE_PATHNAME', 'sn_handler_version';
COMMENT ON FUNCTION sentinai.handler_version(text) IS
	'The version of a worker type''s list of handlers, a hash over it: what a worker''s batch must carry. NULL for an unknown worker type.';

-- The effective row of a worker type; raises SN002 where there is none.
CREATE FUNCTION sentinai.worker_type_get(worker_type text) RETURNS sentinai.worker_type_effective
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
AS $$
DECLARE
	result	sentinai.worker_type_effective;
BEGIN
	SELECT * INTO result FROM sentinai.worker_type_effective w WHERE w.name = worker_type_get.worker_type;
	IF NOT FOUND THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN002',
			MESSAGE = format('worker type "%s" is not known', worker_type),
			DETAIL = format('Known are: %s.', (SELECT string_agg(w.name, ', ' ORDER BY w.name) FROM sentinai.worker_type w)),
			HINT = 'worker_type_add(name, topic) makes one.';
	END IF;
	RETURN result;
END
$$;
COMMENT ON FUNCTION sentinai.worker_type_get(text) IS
	'The worker type of that name with its overrides. Raises SN002 (unknown_worker_type).';

CREATE FUNCTION sentinai.worker_type_add(name text, topic text, group_id text DEFAULT NULL) RETURNS void
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
AS $$
BEGIN
	IF name IS NULL OR name !~ '^[a-z][a-z0-9_]{0,62}$' THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN001',
			MESSAGE = 'name of a worker type is not valid',
			DETAIL = format('The name is %s.', quote_nullable(name)),
			HINT = 'A name is a lower-case letter, followed by at most 62 lower-case letters, digits and underscores.';
	ELSIF topic IS NULL OR topic !~ '^[A-Za-z0-9._-]{1,249}$' THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN001',
			MESSAGE = 'topic name is not valid',
			DETAIL = format('The topic is %s.', quote_nullable(topic)),
			HINT = 'Kafka allows letters, digits, dot, underscore and dash, at most 249 of them.';
	ELSIF group_id = '' OR octet_length(group_id) > 255 THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN001',
			MESSAGE = 'group_id is not valid',
			DETAIL = format('The group is %s.', quote_nullable(group_id)),
			HINT = 'A group_id has 1 to 255 bytes.';
	ELSIF EXISTS (SELECT FROM sentinai.worker_type w WHERE w.name = worker_type_add.name) THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN012',
			MESSAGE = format('worker type "%s" exists already', name),
			DETAIL = (SELECT format('It reads topic "%s" in group "%s".', w.topic, w.group_id) FROM sentinai.worker_type_effective w
					   WHERE w.name = worker_type_add.name);
	ELSIF EXISTS (SELECT FROM sentinai.worker_type_effective w
				   WHERE w.group_id = coalesce(worker_type_add.group_id, worker_type_add.name)) THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN012',
			MESSAGE = format('group "%s" belongs to another worker type', coalesce(group_id, name)),
			DETAIL = (SELECT format('It is the group of worker type "%s".', w.name) FROM sentinai.worker_type_effective w
					   WHERE w.group_id = coalesce(worker_type_add.group_id, worker_type_add.name)),
			HINT = 'Each worker type reads in a group of its own.';
	END IF;
	-- The first worker type of a topic owns it: somebody must refuse what can't be read.
	INSERT INTO sentinai.worker_type (name, topic, group_id, owns_topic)
		VALUES (name, topic, coalesce(group_id, name),
				NOT EXISTS (SELECT FROM sentinai.worker_type_effective w
							 WHERE w.topic = worker_type_add.topic AND w.owns_topic));
END
$$;
COMMENT ON FUNCTION sentinai.worker_type_add(text, text, text) IS
	'Adds a worker type that reads a topic of its own or an existing one. group_id: the consumer group, default the name. The first worker type of a topic owns it: it logs what arrives and refuses what can''t be read. Raises SN001 (bad name or topic), SN012 (exists already).';

CREATE FUNCTION sentinai.worker_type_group(worker_type text, group_id text) RETURNS void
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
AS $$
#variable_conflict use_column
DECLARE
	type	sentinai.worker_type_effective := sentinai.worker_type_get(worker_type_group.worker_type);
BEGIN
	IF coalesce(worker_type_group.group_id, '') = '' OR octet_length(worker_type_group.group_id) > 255 THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN001',
			MESSAGE = 'group_id is not valid',
			DETAIL = format('The group is %s.', quote_nullable(worker_type_group.group_id)),
			HINT = 'A group_id has 1 to 255 bytes.';
	ELSIF EXISTS (SELECT FROM sentinai.worker_type_effective w
				   WHERE w.group_id = worker_type_group.group_id AND w.name <> type.name) THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN012',
			MESSAGE = format('group "%s" belongs to another worker type', worker_type_group.group_id),
			DETAIL = (SELECT format('It is the group of worker type "%s".', w.name) FROM sentinai.worker_type_effective w
					   WHERE w.group_id = worker_type_group.group_id),
			HINT = 'Each worker type reads in a group of its own.';
	END IF;
	INSERT INTO sentinai.worker_type_override AS o (name, group_id) VALUES (type.name, worker_type_group.group_id)
		ON CONFLICT (name) DO UPDATE SET group_id = excluded.group_id;
END
$$;
COMMENT ON FUNCTION sentinai.worker_type_group(text, text) IS
	'Changes the consumer group of a worker type. Positions belong to a group: the new one begins at the broker''s commit, or at the start of the log. Stop its workers first. Raises SN001, SN002, SN012.';

CREATE FUNCTION sentinai.worker_type_own(worker_type text) RETURNS void
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
AS $$
#variable_conflict use_column
DECLARE
	type	sentinai.worker_type_effective := sentinai.worker_type_get(worker_type_own.worker_type);
BEGIN
	INSERT INTO sentinai.worker_type_override AS o (name, owns_topic)
		SELECT w.name, w.name = type.name FROM sentinai.worker_type w WHERE w.topic = type.topic
		ON CONFLICT (name) DO UPDATE SET owns_topic = excluded.owns_topic;
END
$$;
COMMENT ON FUNCTION sentinai.worker_type_own(text) IS
	'Makes a worker type the owner of its topic: it logs what arrives and refuses what can''t be read; whoever owned the topic does so no longer. Raises SN002.';

-- Finds f(sentinai.event[]) or f(sentinai.event) by its name.
CREATE FUNCTION sentinai.handler_function(function text) RETURNS TABLE (oid oid, function_schema text, function_name text, set_based boolean)
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
AS $$
#variable_conflict use_column
DECLARE
	parts	text[];
BEGIN
	BEGIN
		parts := parse_ident(handler_function.function);
	EXCEPTION WHEN OTHERS THEN
		parts := NULL;
	END;
	IF parts IS NULL OR cardinality(parts) <> 2 THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN009',
			MESSAGE = 'handler is not named by schema and name',
			DETAIL = format('The function is %s.', quote_nullable(handler_function.function)),
			HINT = 'Write it as ''schema.name'', without arguments.';
	END IF;
	RETURN QUERY
		SELECT p.oid, n.nspname::text, p.proname::text, p.proargtypes[0] = 'sentinai.event[]'::regtype
		  FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
		 WHERE n.nspname = parts[1] AND p.proname = parts[2] AND p.prokind = 'f' AND p.pronargs = 1
		   AND p.proargtypes[0] IN ('sentinai.event'::regtype, 'sentinai.event[]'::regtype)
		 ORDER BY 4 DESC LIMIT 1;
	IF NOT FOUND THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN009',
			MESSAGE = format('there is no handler function %s', handler_function.function),
			DETAIL = coalesce((SELECT 'There is ' || string_agg(p.oid::regprocedure::text, ', ' ORDER BY p.oid::regprocedure::text) || '.'
								 FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
								WHERE n.nspname = parts[1] AND p.proname = parts[2]),
							  'There is nothing of that name.'),
			HINT = format('CREATE FUNCTION %s(sentinai.event) RETURNS void, or (sentinai.event[]) to take a batch at once.', handler_function.function);
	END IF;
END
$$;
COMMENT ON FUNCTION sentinai.handler_function(text) IS
	'Finds a handler by schema and name: f(sentinai.event[]) where there is one, else f(sentinai.event). Raises SN009 (invalid_handler).';

CREATE FUNCTION sentinai.handler_add(worker_type text, event_type text, function text,
									 role_name text DEFAULT NULL, timeout_ms integer DEFAULT NULL, scope text DEFAULT 'all')
	RETURNS void
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
AS $$
#variable_conflict use_column
DECLARE
	type	sentinai.worker_type_effective := sentinai.worker_type_get(handler_add.worker_type);
	found	record;
	-- What runs it: the role of the scope, unless another is named.
	role	text := coalesce(handler_add.role_name, CASE handler_add.scope WHEN 'tenant' THEN 'sentinai_tenant_handler' ELSE 'sentinai_handler' END);
BEGIN
	SELECT * INTO found FROM sentinai.handler_function(handler_add.function);
	IF handler_add.scope IS NULL OR handler_add.scope NOT IN ('all', 'tenant') THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN001',
			MESSAGE = format('%s is not a scope of a handler', quote_nullable(handler_add.scope)),
			HINT = 'The scopes are all and tenant.';
	ELSIF NOT EXISTS (SELECT FROM sentinai.event_type e WHERE e.event_type = handler_add.event_type) THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN005',
			MESSAGE = format('event type %s is not known', coalesce('"' || handler_add.event_type || '"', 'NULL')),
			HINT = 'event_type_add(event_type) makes one.';
	ELSIF EXISTS (SELECT FROM sentinai.handler h WHERE h.worker_type = type.name AND h.event_type = handler_add.event_type AND h.builtin) THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN012',
			MESSAGE = format('worker type "%s" handles "%s" itself', type.name, handler_add.event_type),
			HINT = 'Add a worker type of your own for the topic: worker_type_add(name, topic).';
	ELSIF (SELECT p.prosecdef FROM pg_proc p WHERE p.oid = found.oid) THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN009',
			MESSAGE = format('handler %s is SECURITY DEFINER', handler_add.function),
			HINT = 'A handler runs as its own role: give that role the rights it needs, and make the function SECURITY INVOKER.';
	ELSIF (SELECT p.prorettype <> 'void'::regtype FROM pg_proc p WHERE p.oid = found.oid) THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN009',
			MESSAGE = format('handler %s does not return void', handler_add.function),
			DETAIL = format('It returns %s, which nobody would look at.', (SELECT format_type(p.prorettype, NULL) FROM pg_proc p WHERE p.oid = found.oid)),
			HINT = 'A handler fails by raising an error, or by sentinai.fail(); an event whose handler returns has succeeded.';
	ELSIF handler_add.timeout_ms NOT BETWEEN 1 AND 3600000 THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN001',
			MESSAGE = format('a handler can''t have %s milliseconds', handler_add.timeout_ms),
			HINT = 'timeout_ms is 1 to 3600000, or NULL for sentinai.handler_timeout.';
	ELSIF NOT EXISTS (SELECT FROM pg_roles r WHERE r.rolname = role AND NOT r.rolsuper) THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN009',
			MESSAGE = format('role "%s" can''t run a handler', role),
			DETAIL = 'It does not exist, or it is a superuser.';
	ELSIF NOT has_schema_privilege(role, found.function_schema, 'USAGE')
	   OR NOT has_function_privilege(role, found.oid, 'EXECUTE') THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN009',
			MESSAGE = format('role "%s" may not call %s', role, handler_add.function),
			HINT = format('GRANT USAGE ON SCHEMA %1$I TO %2$I; GRANT EXECUTE ON FUNCTION %1$I.%3$I(sentinai.event%4$s) TO %2$I;',
						  found.function_schema, role, found.function_name, CASE WHEN found.set_based THEN '[]' END);
	END IF;
	IF handler_add.scope = 'tenant' THEN
		PERFORM sentinai.tenant_scope_check_role(role);
	END IF;
	INSERT INTO sentinai.handler AS h (worker_type, event_type, function_schema, function_name, set_based, role_name, scope, timeout_ms)
		VALUES (type.name, handler_add.event_type, found.function_schema, found.function_name, found.set_based,
				role, handler_add.scope, handler_add.timeout_ms)
		ON CONFLICT (worker_type, event_type) DO UPDATE
			SET function_schema = excluded.function_schema, function_name = excluded.function_name,
				set_based = excluded.set_based, role_name = excluded.role_name, scope = excluded.scope, timeout_ms = excluded.timeout_ms;
END
$$;
COMMENT ON FUNCTION sentinai.handler_add(text, text, text, text, integer, text) IS
	'Registers the function (''schema.name'') that handles an event type for a worker type, or replaces it. The function takes sentinai.event, or sentinai.event[] for a batch at once, and returns void; it runs as role_name (NULL: sentinai_handler, or sentinai_tenant_handler) under a timer of timeout_ms milliseconds (NULL: sentinai.handler_timeout). scope tenant: one call has one tenant''s events, and row security shows it that tenant''s rows only. Running batches finish with the old list. Raises SN001 (timeout_ms, scope), SN002, SN005, SN009 (invalid_handler), SN012 (built in).';

CREATE FUNCTION sentinai.handler_remove(worker_type text, event_type text) RETURNS void
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
AS $$
#variable_conflict use_column
BEGIN
	DELETE FROM sentinai.handler h
		WHERE h.worker_type = handler_remove.worker_type AND h.event_type = handler_remove.event_type AND NOT h.builtin;
	IF NOT FOUND THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN011',
			MESSAGE = format('worker type "%s" has no handler of yours for "%s"', handler_remove.worker_type, handler_remove.event_type),
			HINT = 'SELECT worker_type, event_type FROM sentinai.handler WHERE NOT builtin lists yours.';
	END IF;
END
$$;
COMMENT ON FUNCTION sentinai.handler_remove(text, text) IS
	'Removes a handler that handler_add() registered. Events of that type that wait in event_pending become dead letters of error_type handler_missing when they are due. Raises SN011 (not_found).';

CREATE FUNCTION sentinai.topic_tenant_source_set(topic text, source text, value text DEFAULT NULL) RETURNS void
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
AS $$
BEGIN
	IF topic IS NULL OR topic !~ '^[A-Za-z0-9._-]{1,249}$' THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN001',
			MESSAGE = 'topic name is not valid',
			DETAIL = format('The topic is %s.', quote_nullable(topic)),
			HINT = 'Kafka allows letters, digits, dot, underscore and dash, at most 249 of them.';
	ELSIF source IS NULL OR source NOT IN ('payload', 'header', 'key', 'fixed') THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN001',
			MESSAGE = format('a topic''s tenant can''t come from %s', quote_nullable(source)),
			HINT = 'The sources are payload, header (value: its name, default tenant_id), key (up to its first colon) and fixed (value: the tenant).';
	ELSIF source IN ('payload', 'key') AND value IS NOT NULL OR source = 'header' AND (value = '' OR octet_length(value) > 255) THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN001',
			MESSAGE = format('tenant source %s can''t have the value %s', source, quote_nullable(value)),
			HINT = 'header takes a header''s name of 1 to 255 bytes, fixed takes a tenant, the others take no value.';
	ELSIF source = 'fixed' AND NOT EXISTS (SELECT FROM sentinai.tenant t WHERE t.tenant_id = value) THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN004',
			MESSAGE = format('tenant %s does not exist', coalesce(quote_ident(left(value, 100)), 'NULL')),
			HINT = 'SELECT * FROM sentinai.tenant_list() shows all tenants; sentinai.tenant_add() adds one.';
	END IF;
	INSERT INTO sentinai.kafka_topic AS t (topic, tenant_source, tenant_value) VALUES (topic, source, value)
		ON CONFLICT ON CONSTRAINT kafka_topic_pkey DO UPDATE
			SET tenant_source = excluded.tenant_source, tenant_value = excluded.tenant_value, updated_at = now();
END
$$;
COMMENT ON FUNCTION sentinai.topic_tenant_source_set(text, text, text) IS
	'Says where the tenant of a topic''s records comes from: payload (the envelope alone, the default), header (value: its name, NULL: tenant_id), key (up to its first colon) or fixed (value: the tenant). An envelope without tenant_id takes that tenant; one that names another is a dead letter tenant_mismatch. Counts from the next batch on. Raises SN001, SN004.';

CREATE FUNCTION sentinai.worker_config(worker_type text, expected_group_id text DEFAULT NULL)
	RETURNS TABLE (topic text, group_id text, owns_topic boolean, display_name text, http_port integer,
				   handler_version bigint, event_types text[], emit_secret bytea)
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
AS $$
#variable_conflict use_column
DECLARE
	type	sentinai.worker_type_effective := sentinai.worker_type_get($1);
BEGIN
	IF $2 <> type.group_id THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN003',
			MESSAGE = format('group "%s" is not the group of worker type "%s"', $2, type.name),
			DETAIL = format('Its group is "%s".', type.group_id),
			HINT = format('SELECT sentinai.worker_type_group(%L, %L) changes it.', type.name, $2);
	END IF;
	INSERT INTO sentinai.emit_secret (secret)
		SELECT sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()))
		 WHERE NOT EXISTS (SELECT FROM sentinai.emit_secret)
		ON CONFLICT DO NOTHING;
	RETURN QUERY
		SELECT type.topic, type.group_id, type.owns_topic,
			   -- The runbook's class names; SLA keeps its capitals.
			   replace(replace(initcap(replace(type.name, '_', ' ')), ' ', ''), 'Sla', 'SLA') || 'Worker',
			   type.http_port, sentinai.handler_version(type.name),
			   coalesce((SELECT array_agg(h.event_type::text ORDER BY h.event_type)
						   FROM sentinai.handler h WHERE h.worker_type = type.name), '{}'),
			   (SELECT s.secret FROM sentinai.emit_secret s);
END
$$;
COMMENT ON FUNCTION sentinai.worker_config(text, text) IS
	'What a worker process of that type needs to know: topic, group, whether it owns the topic, its name in the log, its HTTP port, the event types that it handles with the version of that list, and the key of the header sentinai-emitted. expected_group_id: what the process was started with, checked against the row. Raises SN002 (unknown_worker_type), SN003 (group_mismatch).';
