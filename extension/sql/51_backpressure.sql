-- 51_backpressure: a tenant's events over its rate (events_ingested) wait in a queue of its own, each with an appointment.
-- The queues are rows of event_pending with a rate_limit; who is charged and whose turn it is: extension/backpressure.c.

CREATE TABLE sentinai.backpressure (
	tenant_id			text COLLATE "C" NOT NULL,
	limit_type			text COLLATE "C" NOT NULL,
	window_started_at	timestamptz NOT NULL,
	window_seconds		integer NOT NULL,
	PRIMARY KEY (tenant_id, limit_type)
) WITH (fillfactor = 50);
COMMENT ON TABLE sentinai.backpressure IS
	'The last window in which events of a tenant were deferred, and BackpressureApplied was emitted: once a window.';
COMMENT ON COLUMN sentinai.backpressure.tenant_id IS 'Whose events.';
COMMENT ON COLUMN sentinai.backpressure.limit_type IS 'The limit that they were over.';
COMMENT ON COLUMN sentinai.backpressure.window_started_at IS 'When that window began.';
COMMENT ON COLUMN sentinai.backpressure.window_seconds IS 'How long it was, in seconds.';
SELECT pg_catalog.pg_extension_config_dump('sentinai.backpressure', '');

CREATE FUNCTION sentinai.backpressure_move(tenant_id text, rate_limit text, room bigint, due_at timestamptz,
										   next_slot timestamptz, spacing double precision) RETURNS bigint
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
#variable_conflict use_column
DECLARE
	moved	bigint;
BEGIN
	-- What another processor holds is being handled, and needs no other appointment.
	UPDATE sentinai.event_pending p
	   SET rate_limit = $2,
		   next_attempt_at = CASE WHEN q.place <= $3 THEN $4 - ($3 - q.place) * interval '1 microsecond'
								  ELSE least($5 + make_interval(secs => least((q.place - $3 - 1) * $6, 2e11)), '9999-01-01 00:00:00+00') END
	  FROM (SELECT e.id, row_number() OVER (ORDER BY e.next_attempt_at, e.id) AS place
			  FROM (SELECT w.id, w.next_attempt_at FROM sentinai.event_pending w
					 WHERE w.tenant_id = $1 AND w.rate_limit IS NOT NULL AND NOT w.charged
					   FOR UPDATE SKIP LOCKED) e) q
	 WHERE p.id = q.id;
	GET DIAGNOSTICS moved = ROW_COUNT;
	RETURN moved;
END
$$;
COMMENT ON FUNCTION sentinai.backpressure_move(text, text, bigint, timestamptz, timestamptz, double precision) IS
	'Internal: gives the events in a tenant''s queue new appointments in their order, for the limit rate_limit: the first room of them at due_at, the others from next_slot on, spacing seconds apart. Returns how many they are.';

CREATE FUNCTION sentinai.backpressure_limit(tenant_id text, OUT limit_value bigint, OUT window_seconds integer, OUT available bigint,
											OUT next_slot timestamptz, OUT seen_at timestamptz)
	LANGUAGE c VOLATILE STRICT
	AS 'MODULE_PATHNAME', 'sn_backpressure_limit';
COMMENT ON FUNCTION sentinai.backpressure_limit(text) IS
	'Internal: a tenant''s events_ingested as the intake goes by it. limit_value and window_seconds: NULL where nothing limits it; available: events that would be handled at once; next_slot: when the first one after those would be; seen_at: the clock of limits.';

CREATE FUNCTION sentinai.rate_limit_forecast(tenant_id text)
	RETURNS TABLE (limit_type text, limit_value bigint, window_seconds integer, backlog bigint, first_appointment timestamptz,
				   last_appointment timestamptz, ends_at timestamptz)
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
#variable_conflict use_column
DECLARE
	rate	record;
	status	text;
BEGIN
	PERFORM sentinai.tenant_check($1);
	SELECT t.status INTO status FROM sentinai.tenant t WHERE t.tenant_id = $1;
	IF status IS NULL THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN004',
			MESSAGE = format('tenant %s is not known', coalesce(quote_literal(left($1, 100)), 'NULL')),
			HINT = 'SELECT * FROM sentinai.tenant_list() shows all tenants.';
	END IF;
	SELECT * INTO rate FROM sentinai.backpressure_limit($1);
	SELECT count(*), min(p.next_attempt_at), max(p.next_attempt_at) INTO backlog, first_appointment, last_appointment
	  FROM sentinai.event_pending p WHERE p.tenant_id = $1 AND p.rate_limit IS NOT NULL;
	limit_type := 'events_ingested';
	limit_value := rate.limit_value;
	window_seconds := rate.window_seconds;
	-- Appointments that have passed are due as the limiter has room: the rate is kept whatever they say.
	ends_at := CASE WHEN status = 'suspended' THEN 'infinity'
					WHEN backlog = 0 THEN NULL
					WHEN limit_value IS NULL THEN rate.seen_at
					WHEN backlog <= rate.available THEN greatest(last_appointment, rate.seen_at)
					ELSE greatest(last_appointment, least('9999-01-01 00:00:00+00', rate.next_slot
						 + make_interval(secs => least((backlog - rate.available - 1) * window_seconds::double precision / limit_value, 2e11)))) END;
	RETURN NEXT;
END
$$;
COMMENT ON FUNCTION sentinai.rate_limit_forecast(text) IS
	'When the queue of a tenant''s events over its rate will be empty, if no more come: backlog (events that wait), their first and last appointment, and ends_at (NULL: nothing waits; infinity: the tenant is suspended, and nothing of it moves until it is resumed; now, where nothing limits the tenant any more). limit_value events in window_seconds; NULL: no limit. Events parked behind waiting ones of their exception are not in the queue yet. Raises 42501, SN004.';
