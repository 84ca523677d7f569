-- 66_health: who is there, and what is wrong.

COMMENT ON TABLE sentinai.worker_instance IS
	'Processes of sentinai-worker, by their last heartbeat. Unlogged: after a crash they come back within seconds.';
COMMENT ON COLUMN sentinai.worker_instance.worker_type IS 'Its WORKER_TYPE.';
COMMENT ON COLUMN sentinai.worker_instance.instance_id IS 'Its name within the worker type.';
COMMENT ON COLUMN sentinai.worker_instance.host IS 'Where it runs.';
COMMENT ON COLUMN sentinai.worker_instance.pid IS 'Its process id there.';
COMMENT ON COLUMN sentinai.worker_instance.http_port IS 'Where its HTTP port is; NULL: it has none.';
COMMENT ON COLUMN sentinai.worker_instance.version IS 'Its version.';
COMMENT ON COLUMN sentinai.worker_instance.status IS 'What it said of itself: healthy, degraded, starting or stopping.';
COMMENT ON COLUMN sentinai.worker_instance.error_message IS 'Why it is not healthy.';
COMMENT ON COLUMN sentinai.worker_instance.details IS 'What else it said.';
COMMENT ON COLUMN sentinai.worker_instance.started_at IS 'Its first heartbeat.';
COMMENT ON COLUMN sentinai.worker_instance.last_check IS 'Its last heartbeat; it sends one every 5 s.';

CREATE FUNCTION sentinai.worker_heartbeat(worker_type text, instance_id text, host text, pid integer, http_port integer,
		version text, status text, error_message text, details jsonb) RETURNS void
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
BEGIN
	IF worker_heartbeat.status IS NULL OR worker_heartbeat.status NOT IN ('healthy', 'degraded', 'starting', 'stopping') THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN001',
			MESSAGE = format('"%s" is not a status of a worker', worker_heartbeat.status),
			HINT = 'It is healthy, degraded, starting or stopping.';
	END IF;
	INSERT INTO sentinai.worker_instance AS w (worker_type, instance_id, host, pid, http_port, version, status, error_message,
											   details, started_at, last_check)
	VALUES (worker_heartbeat.worker_type, worker_heartbeat.instance_id, worker_heartbeat.host, worker_heartbeat.pid,
			worker_heartbeat.http_port, worker_heartbeat.version, worker_heartbeat.status, worker_heartbeat.error_message,
			coalesce(worker_heartbeat.details, '{}'), clock_timestamp(), clock_timestamp())
	ON CONFLICT ON CONSTRAINT worker_instance_pkey DO UPDATE
	   SET host = excluded.host, pid = excluded.pid, http_port = excluded.http_port, version = excluded.version,
		   status = excluded.status, error_message = excluded.error_message, details = excluded.details,
		   started_at = CASE WHEN w.pid IS NOT DISTINCT FROM excluded.pid AND w.host IS NOT DISTINCT FROM excluded.host
							 THEN w.started_at ELSE excluded.started_at END,
		   last_check = excluded.last_check;
END
$$;
COMMENT ON FUNCTION sentinai.worker_heartbeat(text, text, text, integer, integer, text, text, text, jsonb) IS
	'A process of sentinai-worker says that it is there, every 5 s, and how it is: healthy, degraded, starting or stopping. Errors: SN001 (another status), 23502 (no worker_type or instance_id).';

CREATE FUNCTION sentinai.worker_list()
	RETURNS TABLE (worker_type text, instance_id text, status text, host text, pid integer, http_port integer, version text,
				   error_message text, started_at timestamptz, last_check timestamptz, details jsonb)
	LANGUAGE sql STABLE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	SELECT w.worker_type, w.instance_id,
		   CASE WHEN w.last_check > statement_timestamp() - interval '30 s' THEN w.status
				WHEN w.status = 'stopping' THEN 'stopped'
				ELSE 'unhealthy' END,
		   w.host, w.pid, w.http_port, w.version,
		   CASE WHEN w.last_check <= statement_timestamp() - interval '30 s' AND w.status <> 'stopping'
				THEN format('no heartbeat since %s', w.last_check)
				WHEN c.may_know THEN w.error_message END,
		   w.started_at, w.last_check, CASE WHEN c.may_know THEN w.details END
	  FROM sentinai.worker_instance w
	 CROSS JOIN (SELECT sentinai.caller_sees_all() OR pg_has_role(sentinai.caller_role(), 'sentinai_worker', 'USAGE') AS may_know) c
	 ORDER BY w.worker_type, w.instance_id
$$;
COMMENT ON FUNCTION sentinai.worker_list() IS
	'Processes of sentinai-worker. status: healthy, degraded, starting, stopping as it says itself; unhealthy when its heartbeat is older than 30 s, stopped if it had said that it stops. What it said of an error, and details, are for one who sees all and for workers; NULL for others.';

CREATE FUNCTION sentinai.worker_instance_clean() RETURNS text
	LANGUAGE sql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	DELETE FROM sentinai.worker_instance w
	 WHERE w.last_check < now() - CASE WHEN w.status = 'stopping' THEN interval '1 min' ELSE interval '1 h' END;
	SELECT NULL::text
$$;
COMMENT ON FUNCTION sentinai.worker_instance_clean() IS
	'Duty: forgets processes without a heartbeat for an hour, and those that have stopped in good order after a minute. Returns NULL.';

CREATE FUNCTION sentinai.health_workers() RETURNS jsonb
	LANGUAGE sql STABLE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	WITH workers AS (SELECT * FROM sentinai.worker_list())
	SELECT jsonb_build_object(
		'workers', coalesce((SELECT jsonb_agg(jsonb_build_object(
							'worker_type', w.worker_type, 'instance_id', w.instance_id, 'status', w.status,
							'healthz_ok', w.status NOT IN ('unhealthy', 'stopped'), 'readyz_ok', w.status = 'healthy',
							'last_check', w.last_check, 'error_message', w.error_message)
						ORDER BY w.worker_type, w.instance_id) FROM workers w), '[]'),
		'total_workers', (SELECT count(*) FROM workers),
		'status_counts', coalesce((SELECT jsonb_object_agg(c.status, c.n)
									 FROM (SELECT w.status, count(*) AS n FROM workers w GROUP BY 1) c), '{}'),
		'checked_at', statement_timestamp())
$$;
COMMENT ON FUNCTION sentinai.health_workers() IS
	'The processes of sentinai-worker as /health/workers shows them: workers, total_workers, status_counts, checked_at.';

CREATE FUNCTION sentinai.health_db() RETURNS jsonb
	LANGUAGE sql STABLE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	SELECT jsonb_build_object(
		'status', 'healthy',
		'database', current_database(),
		'server_version', current_setting('server_version'),
		'in_recovery', pg_is_in_recovery(),
		'active', sentinai.is_active(),
		'sessions', (SELECT count(*) FROM pg_stat_activity a WHERE a.datname = current_database()),
		'max_connections', current_setting('max_connections')::integer,
		'size_bytes', pg_database_size(current_database()),
		'checked_at', statement_timestamp())
$$;
COMMENT ON FUNCTION sentinai.health_db() IS
	'The database as /health/db shows it. Who gets an answer gets status healthy: a database that is away cannot answer.';

-- What is wrong, each with what to do about it.
CREATE FUNCTION sentinai.health_problems() RETURNS TABLE (name text, message text, hint text)
	LANGUAGE sql VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	SELECT 'version_mismatch', format('library %s, SQL objects %s', sentinai.version(), e.extversion),
		   'ALTER EXTENSION sentinai UPDATE, or restart the server after an upgrade of the package.'
	  FROM pg_extension e WHERE e.extname = 'sentinai' AND e.extversion <> sentinai.version()
	UNION ALL
	SELECT 'maintenance_missing', 'no maintenance worker runs in this database',
		   'See the server log; check sentinai.databases and max_worker_processes.'
	 WHERE sentinai.is_active() AND NOT pg_is_in_recovery()
	   AND NOT EXISTS (SELECT FROM sentinai.maintenance_status() s WHERE s.worker_pid IS NOT NULL)
	UNION ALL
	SELECT 'maintenance_failing', format('%s fails since %s', s.duty, s.failing_since)
		   || CASE WHEN sentinai.caller_sees_all() THEN ': ' || s.message ELSE '' END,
		   'Something holds a lock on our tables for long, or see the server log.'
	  FROM sentinai.maintenance_status() s WHERE s.failing_since < clock_timestamp() - interval '1 min'
	UNION ALL
	SELECT 'outbox_held', format('process %s%s has emitted in a transaction that is open since %s, %s', h.pid,
								 CASE WHEN sentinai.caller_sees_all() THEN ' (' || h.application || ')' END, h.since, h.state),
		   format('It holds up the outbox. SELECT pg_terminate_backend(%s) ends it.', h.pid)
	  FROM sentinai.outbox_holders() h
	 WHERE h.since < clock_timestamp() - interval '5 s'
	UNION ALL
	-- SN_LOCK_PUBLISHER. A publisher that was stopped, not ended, keeps the others out.
	SELECT 'outbox_waiting', format('%s records of topic %s wait to be published, the first since %s; %s', o.n, o.topic, o.since,
									coalesce('the active publisher is process ' || (SELECT l.pid FROM sentinai.lock_list(3) l WHERE l.granted),
											 'no worker is the active publisher')),
		   'Start a worker, or see the log of the active one; SELECT pg_terminate_backend(pid) lets another take over.'
	  FROM (SELECT x.topic, count(*) AS n, min(x.created_at) AS since
			  FROM sentinai.outbox x LEFT JOIN sentinai.outbox_watermark w USING (topic)
			 WHERE x.id > coalesce(w.id, 0) AND NOT EXISTS (SELECT FROM sentinai.outbox_blocked b WHERE b.id = x.id)
			 GROUP BY 1) o
	 WHERE o.since < clock_timestamp() - interval '1 min'
	UNION ALL
	SELECT 'outbox_blocked', format('topic %s takes no records: %s of them, the first emitted at %s, have been moved to outbox_blocked', b.topic,
									b.n, b.since),
		   'Make the topic take them (does it exist? may we write to it?): they are tried again all the time, in their order.'
	  FROM (SELECT o.topic, count(*) AS n, min(o.created_at) AS since
			  FROM sentinai.outbox_blocked o LEFT JOIN sentinai.outbox_watermark w USING (topic)
			 WHERE o.id > coalesce(w.id, 0) GROUP BY 1) b
	UNION ALL
	SELECT 'outbox_failed', format('topic %s has refused %s records for good since %s, first record %s: %s', f.topic, f.n, f.since,
								   f.first_id, (SELECT CASE WHEN sentinai.tenant_visible(e.tenant_id) THEN e.message ELSE e.error END
																	  FROM sentinai.outbox_failed e WHERE e.id = f.first_id)),
		   'outbox_failed_retry(id) sends it again, once the topic takes it; outbox_failed_discard(id, ''why'') closes it.'
	  FROM (SELECT o.topic, count(*) AS n, min(o.failed_at) AS since, min(o.id) AS first_id
			  FROM sentinai.outbox_failed o WHERE o.discarded_at IS NULL GROUP BY 1) f
	UNION ALL
	SELECT 'offset_gap', format('group %s, topic %s, partition %s stands at %s, which the log does not have: %s', g.group_id, g.topic,
								g.partition, g.next_offset, g.reason),
		   'offset_reset() shows what it would do, and mends it.'
	  FROM sentinai.offset_gap g WHERE g.resolved_at IS NULL
	UNION ALL
	SELECT 'circuit_open', format('circuit of worker type %s and event type %s%s is open since %s: %s', c.worker_type, c.event_type,
								  CASE WHEN c.tenant_id <> '' THEN ' for tenant ' || c.tenant_id ELSE '' END, c.opened_at,
								  coalesce(c.error_message, c.reason)),
		   'Its events wait. A probe that succeeds closes it, or circuit_close().'
	  FROM sentinai.circuit_list() c
	UNION ALL
	SELECT 'suspect_mode', format('process %s looks for a record that kills the server; the other sessions handle nothing', s.pid),
		   format('It ends by itself, with a dead letter handler_crashed where it finds one. SELECT pg_terminate_backend(%s) ends it now.', s.pid)
	  FROM sentinai.suspect_session() s (pid) WHERE s.pid IS NOT NULL
	UNION ALL
	SELECT 'suspect', format('the event at %s/%s/%s is suspected of killing the server by its handler of worker type %s: marked %s times, at %s',
							 s.topic, s.partition, s.kafka_offset, s.worker_type, s.marks, s.marked_at),
		   'See the server log for what crashed. A third mark makes it a dead letter handler_crashed.'
	  FROM sentinai.suspect s
	 WHERE s.marks > 1
	   AND CASE WHEN s.pending_id <> 0 THEN EXISTS (SELECT FROM sentinai.event_pending p WHERE p.id = s.pending_id)
				ELSE NOT EXISTS (SELECT FROM sentinai.kafka_offset k JOIN sentinai.worker_type_effective w ON w.group_id = k.group_id
								  WHERE w.name = s.worker_type AND k.topic = s.topic AND k.partition = s.partition
									AND k.next_offset > s.kafka_offset) END
	UNION ALL
	SELECT 'rate_limit_full', format('shared memory has no room for the counts of more than %s pairs of tenant and limit type: %s questions about limits found none, the last at %s',
									 s.slots, s."full", s.full_at),
		   'Raise sentinai.rate_limit_slots and restart the server. Until then rate_limit_type.when_full decides: open grants, closed refuses.'
	  FROM sentinai.rate_limit_slot_stats() s WHERE s.full_at > clock_timestamp() - interval '5 min'
	UNION ALL
	SELECT 'pending_full', format('%s events of worker type %s wait, sentinai.pending_max is %s', p.n, p.worker_type,
								  current_setting('sentinai.pending_max')),
		   'event_why() says what an event waits for.'
	  FROM (SELECT e.worker_type, count(*) AS n FROM sentinai.event_pending e GROUP BY 1) p
	 WHERE p.n > current_setting('sentinai.pending_max')::bigint
	UNION ALL
	SELECT 'deferred_max', format('%s events of tenant %s wait for their turn, the last one at %s; sentinai.deferred_max is %s', q.n,
								  q.tenant_id, q.last, current_setting('sentinai.deferred_max')),
		   format('SELECT * FROM sentinai.rate_limit_forecast(%L) says when that ends; rate_limit_set() changes the tenant''s rate.', q.tenant_id)
	  FROM (SELECT e.tenant_id, count(*) AS n, max(e.next_attempt_at) AS last FROM sentinai.event_pending e
			 WHERE e.rate_limit IS NOT NULL AND sentinai.tenant_visible(e.tenant_id) GROUP BY 1) q
	 WHERE q.n > current_setting('sentinai.deferred_max')::bigint
	UNION ALL
	SELECT 'worker_' || w.status, format('%s %s: %s', w.worker_type, w.instance_id, coalesce(w.error_message, w.status)),
		   'See its log.'
	  FROM sentinai.worker_list() w WHERE w.status IN ('unhealthy', 'degraded')
$$;
COMMENT ON FUNCTION sentinai.health_problems() IS 'What is wrong now: a short name, what and where, what to do. Only one who sees all is told of other tenants, and what errors said.';

CREATE FUNCTION sentinai.health() RETURNS jsonb
	LANGUAGE sql VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	WITH problems AS MATERIALIZED (SELECT * FROM sentinai.health_problems())
	SELECT jsonb_build_object(
		'status', CASE WHEN EXISTS (SELECT FROM problems) THEN 'degraded' ELSE 'healthy' END,
		'version', sentinai.version(),
		'active', sentinai.is_active(),
		'problems', coalesce((SELECT jsonb_agg(jsonb_build_object('name', p.name, 'message', p.message, 'hint', p.hint)
											   ORDER BY p.name, p.message) FROM problems p), '[]'),
		'maintenance', (SELECT coalesce(jsonb_object_agg(s.duty, jsonb_build_object('last_run_at', s.last_run_at,
								'failing_since', s.failing_since,
								'message', CASE WHEN sentinai.caller_sees_all() THEN s.message END)), '{}') FROM sentinai.maintenance_status() s),
		'checked_at', statement_timestamp())
$$;
COMMENT ON FUNCTION sentinai.health() IS
	'How this database''s sentinai is: status healthy, or degraded with the problems (name, message, hint); the duties of maintenance.';
