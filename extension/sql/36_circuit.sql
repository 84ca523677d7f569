-- 36_circuit: a dependency that is down must not turn every event into a dead letter. While a circuit is open, the events
-- of its worker type and event type wait in event_pending, and no retry is used up.

CREATE TABLE sentinai.circuit (
	worker_type		text COLLATE "C" NOT NULL,
	event_type		text COLLATE "C" NOT NULL,
	tenant_id		text COLLATE "C" NOT NULL DEFAULT '',
	reason			text NOT NULL CHECK (reason IN ('failures', 'broken', 'forced')),
	error_type		text,
	error_message	text,
	first_event_id	text COLLATE "C",
	opened_at		timestamptz NOT NULL DEFAULT clock_timestamp(),
	probe_at		timestamptz NOT NULL DEFAULT 'infinity',
	probes			integer NOT NULL DEFAULT 0,
	actor			text,
	PRIMARY KEY (worker_type, event_type, tenant_id)
);
COMMENT ON TABLE sentinai.circuit IS
	'Open circuits: what a row covers waits in event_pending until a probe succeeds, or circuit_close() is called. A closed circuit has no row.';
COMMENT ON COLUMN sentinai.circuit.worker_type IS 'The worker type whose handler fails.';
COMMENT ON COLUMN sentinai.circuit.event_type IS 'The event type that it fails for.';
COMMENT ON COLUMN sentinai.circuit.tenant_id IS 'The tenant whose events wait; empty: all tenants''.';
COMMENT ON COLUMN sentinai.circuit.reason IS 'failures: most events failed alike; broken: the handler can''t run (SQLSTATE 42 or XX); forced: by circuit_open().';
COMMENT ON COLUMN sentinai.circuit.error_type IS 'Of the newest failure.';
COMMENT ON COLUMN sentinai.circuit.error_message IS 'Of the newest failure.';
COMMENT ON COLUMN sentinai.circuit.first_event_id IS 'The event that opened it: probed first, and in turn with another one.';
COMMENT ON COLUMN sentinai.circuit.opened_at IS 'Since when it is open.';
COMMENT ON COLUMN sentinai.circuit.probe_at IS 'When the next event is let through to see; infinity: never, it was forced.';
COMMENT ON COLUMN sentinai.circuit.probes IS 'How many probes have failed.';
COMMENT ON COLUMN sentinai.circuit.actor IS 'Who forced it.';
SELECT pg_catalog.pg_extension_config_dump('sentinai.circuit', '');

CREATE FUNCTION sentinai.circuit_list() RETURNS SETOF sentinai.circuit
	LANGUAGE sql STABLE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	SELECT c.worker_type, c.event_type, c.tenant_id, c.reason, c.error_type, CASE WHEN v.visible THEN c.error_message END,
		   CASE WHEN v.visible THEN c.first_event_id END, c.opened_at, c.probe_at, c.probes, CASE WHEN v.visible THEN c.actor END
	  FROM sentinai.circuit c CROSS JOIN LATERAL (SELECT sentinai.tenant_visible(c.tenant_id) AS visible OFFSET 0) v
	 WHERE v.visible OR c.tenant_id = ''
	 ORDER BY c.opened_at
	$$;
COMMENT ON FUNCTION sentinai.circuit_list() IS
	'The open circuits, oldest first: of the caller''s tenant, and those that stop all tenants'' events. Whose event failed there, with which message, and who forced it, only one who sees all is told.';

CREATE FUNCTION sentinai.circuit_open(worker_type text, event_type text, tenant_id text DEFAULT NULL, reason text DEFAULT NULL)
	RETURNS void
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
#variable_conflict use_column
DECLARE
	type	sentinai.worker_type_effective := sentinai.worker_type_get($1);
BEGIN
	$3 := sentinai.tenant_check($3);
	PERFORM sentinai.reason_check($4);
	IF NOT EXISTS (SELECT FROM sentinai.event_type e WHERE e.event_type = $2) THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN005',
			MESSAGE = format('event type %s is not known', coalesce('"' || $2 || '"', 'NULL')),
			HINT = 'SELECT event_type FROM sentinai.event_type lists them.';
	ELSIF $3 IS NOT NULL AND NOT EXISTS (SELECT FROM sentinai.tenant t WHERE t.tenant_id = $3) THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN004',
			MESSAGE = format('tenant "%s" is not known', $3),
			HINT = 'SELECT * FROM sentinai.tenant_list() shows all tenants.';
	END IF;
	INSERT INTO sentinai.circuit AS c (worker_type, event_type, tenant_id, reason, error_message, actor)
		VALUES (type.name, $2, coalesce($3, ''), 'forced', $4, sentinai.caller_identity())
		ON CONFLICT (worker_type, event_type, tenant_id) DO UPDATE
			SET reason = 'forced', error_message = excluded.error_message, actor = excluded.actor, probe_at = 'infinity';
END
$$;
COMMENT ON FUNCTION sentinai.circuit_open(text, text, text, text) IS
	'Forces a circuit open until circuit_close(): the events of the worker type and event type (of one tenant; tenant_id NULL: of the caller''s, or of all where it sees all) wait, and no probe is made. reason: shown in circuit_list(). Raises 42501, SN001 (the reason is too long), SN002, SN004, SN005.';

CREATE FUNCTION sentinai.circuit_close(worker_type text, event_type text, tenant_id text DEFAULT NULL) RETURNS bigint
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
#variable_conflict use_column
DECLARE
	closed	sentinai.circuit;
	n		bigint;
BEGIN
	$3 := sentinai.tenant_check($3);
	DELETE FROM sentinai.circuit c WHERE (c.worker_type, c.event_type, c.tenant_id) = ($1, $2, coalesce($3, '')) RETURNING * INTO closed;
	IF NOT FOUND THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN011',
			MESSAGE = format('there is no open circuit of worker type "%s" and event type "%s"', $1, $2),
			HINT = 'SELECT * FROM sentinai.circuit_list()';
	END IF;
	-- point: circuit.closing
	-- What opened a circuit as broken and still fails after it closed is an odd event, and uses its retries up.
	UPDATE sentinai.event_pending p SET retry_count = greatest(p.retry_count, 1)
	 WHERE closed.reason = 'broken' AND p.worker_type = $1 AND p.event_type = $2 AND p.event_id = closed.first_event_id
	   AND (closed.tenant_id = '' OR p.tenant_id = closed.tenant_id);
	UPDATE sentinai.event_pending p SET next_attempt_at = clock_timestamp()
	 WHERE p.worker_type = $1 AND p.event_type = $2 AND (closed.tenant_id = '' OR p.tenant_id = closed.tenant_id)
	   AND p.status = 'deferred' AND p.error_type = 'circuit_open' AND p.next_attempt_at = 'infinity';
	GET DIAGNOSTICS n = ROW_COUNT;
	RETURN n;
END
$$;
COMMENT ON FUNCTION sentinai.circuit_close(text, text, text) IS
	'Closes a circuit (tenant_id as in circuit_open()); what waits for it is due at once. A probe that succeeds does the same. Returns how many events waited. If the cause is still there it opens again. Raises 42501, SN011 (not_found).';
