-- 93_api_health: health and metrics over HTTP, all that works without a token. What is wrong names tenants and topics, so
-- only who sees all reads more than its name: these run as their owner, and ask who asks.

CREATE DOMAIN sentinai_api."text/plain" AS text;
COMMENT ON DOMAIN sentinai_api."text/plain" IS 'An answer in plain text.';
-- A json that PostgREST passes on as it is: it would put one without this name into an array, and take it out again.
CREATE DOMAIN sentinai_api."application/json" AS json;
COMMENT ON DOMAIN sentinai_api."application/json" IS 'An answer in JSON.';
CREATE DOMAIN sentinai_api."*/*" AS bytea;
COMMENT ON DOMAIN sentinai_api."*/*" IS 'An answer that says its own Content-Type.';

CREATE FUNCTION sentinai_api.health() RETURNS json
	LANGUAGE sql STABLE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	SELECT CASE WHEN sentinai.caller_sees_all() THEN h::json
				ELSE json_build_object('status', h->'status', 'version', h->'version', 'active', h->'active',
									   'problems', coalesce((SELECT jsonb_agg(DISTINCT jsonb_build_object('name', p->'name')) FROM jsonb_array_elements(h->'problems') p), '[]'),
									   'checked_at', h->'checked_at') END
	  FROM sentinai.health() h
$$;
COMMENT ON FUNCTION sentinai_api.health() IS
	E'How sentinai is\nStatus healthy, or degraded with the problems: their names, and for the admin what and where, what to do, and the duties of maintenance. Needs no token.';

CREATE FUNCTION sentinai_api.health_db() RETURNS json
	LANGUAGE sql STABLE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	SELECT CASE WHEN sentinai.caller_sees_all() THEN h::json
				ELSE json_build_object('status', h->'status', 'active', h->'active', 'in_recovery', h->'in_recovery', 'checked_at', h->'checked_at') END
	  FROM sentinai.health_db() h
$$;
COMMENT ON FUNCTION sentinai_api.health_db() IS
	E'How the database is\nStatus healthy: a database that is away can not answer, and PostgREST says 503. Versions, sessions and sizes are for the admin. Needs no token.';

CREATE FUNCTION sentinai_api.health_workers() RETURNS json
	LANGUAGE sql STABLE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	SELECT json_build_object(
		'workers', coalesce((SELECT json_agg(json_build_object('worker_type', w->'worker_type', 'instance_id', w->'instance_id', 'status', w->'status',
									'healthz_ok', w->'healthz_ok', 'readyz_ok', w->'readyz_ok', 'last_check', w->'last_check',
									'error_message', CASE WHEN sentinai.caller_sees_all() THEN w->'error_message' END) ORDER BY n)
							   FROM jsonb_array_elements(h->'workers') WITH ORDINALITY AS x (w, n)), '[]'),
		'total_workers', h->'total_workers', 'status_counts', h->'status_counts', 'checked_at', h->'checked_at')
	  FROM sentinai.health_workers() h
$$;
COMMENT ON FUNCTION sentinai_api.health_workers() IS
	E'How the workers are\nAnswers {workers: [{worker_type, instance_id, status, healthz_ok, readyz_ok, last_check, error_message}], total_workers, status_counts, checked_at}; error messages are for the admin. Needs no token.';

CREATE FUNCTION sentinai_api.workers_health() RETURNS json
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$ SELECT sentinai_api.health_workers() $$;
COMMENT ON FUNCTION sentinai_api.workers_health() IS
	E'How the workers are, for who works with them\nThe same as health_workers, and it needs a token.';

CREATE FUNCTION sentinai_api.metrics() RETURNS sentinai_api."text/plain"
	LANGUAGE plpgsql STABLE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
BEGIN
	PERFORM sentinai.api_header('Content-Type', 'text/plain; version=0.0.4; charset=utf-8');
	RETURN sentinai.metrics();
END
$$;
COMMENT ON FUNCTION sentinai_api.metrics() IS
	E'Metrics for Prometheus\nThe database''s totals in Prometheus'' text format. The label tenant_id is "all" unless sentinai.metrics_include_tenant_id is on. Needs no token: keep it inside where that matters.';

-- ---- what the platform is made of, and what stands still ----

CREATE FUNCTION sentinai_api.worker_type_list() RETURNS json
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	SELECT json_build_object('items', coalesce(json_agg(t.item ORDER BY t.name), '[]'), 'total', count(*))
	  FROM (SELECT w.name, json_build_object('worker_type', w.name, 'topic', w.topic, 'group_id', w.group_id, 'owns_topic', w.owns_topic,
					'handlers', (SELECT coalesce(json_agg(json_build_object('event_type', h.event_type, 'function', format('%I.%I', h.function_schema, h.function_name),
										'set_based', h.set_based, 'role_name', h.role_name, 'scope', h.scope, 'timeout_ms', h.timeout_ms) ORDER BY h.event_type), '[]')
								   FROM sentinai.handler h WHERE h.worker_type = w.name)) AS item
			  FROM sentinai.worker_type_effective w) t
$$;
COMMENT ON FUNCTION sentinai_api.worker_type_list() IS
	E'Worker types and their handlers\nWho reads which topic in which consumer group, and which function handles which event type. Answers {items: [{worker_type, topic, group_id, owns_topic, handlers: [{event_type, function, set_based, role_name, scope, timeout_ms}]}], total}.';

CREATE FUNCTION sentinai_api.suspect_list() RETURNS json
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	SELECT json_build_object('items', coalesce(json_agg(json_build_object('worker_type', s.worker_type, 'topic', s.topic, 'partition', s.partition,
				'kafka_offset', s.kafka_offset, 'marks', s.marks, 'marked_at', s.marked_at) ORDER BY s.marked_at, s.worker_type, s.topic, s.partition, s.kafka_offset), '[]'),
			'total', count(*))
	  FROM sentinai.suspect s
$$;
COMMENT ON FUNCTION sentinai_api.suspect_list() IS
	E'Records that may kill the server\nThose that a search has marked: a third mark makes one a dead letter (handler_crashed). Answers {items: [{worker_type, topic, partition, kafka_offset, marks, marked_at}], total}.';
