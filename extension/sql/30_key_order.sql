-- 30_key_order: the events of one exception are handled in order, by parking what comes behind an unfinished one.

-- A row means: this key has an unfinished event. Locked by whoever handles the key.
CREATE TABLE sentinai.key_state (
	tenant_id		text COLLATE "C" NOT NULL,
	exception_id	text COLLATE "C" NOT NULL,
	worker_type		text COLLATE "C" NOT NULL,
	topic			text COLLATE "C" NOT NULL,
	partition		integer NOT NULL,
	event_id		text COLLATE "C" NOT NULL,
	dlq_id			bigint,
	blocked_at		timestamptz NOT NULL DEFAULT now(),
	PRIMARY KEY (tenant_id, exception_id, worker_type)
) WITH (fillfactor = 50);
COMMENT ON TABLE sentinai.key_state IS
	'An exception with an unfinished event: later events of the same key are parked behind it. Locked by whoever handles the key.';
COMMENT ON COLUMN sentinai.key_state.tenant_id IS 'First part of the key.';
COMMENT ON COLUMN sentinai.key_state.exception_id IS 'Second part of the key.';
COMMENT ON COLUMN sentinai.key_state.worker_type IS 'Third part: each worker type has an order of its own.';
COMMENT ON COLUMN sentinai.key_state.topic IS 'The topic of the event that blocked the key.';
COMMENT ON COLUMN sentinai.key_state.partition IS 'Its partition, whose processor drains the queue.';
COMMENT ON COLUMN sentinai.key_state.event_id IS 'The event that blocked the key.';
COMMENT ON COLUMN sentinai.key_state.dlq_id IS 'The dead letter that holds the key, where the policy is to park behind dead letters.';
COMMENT ON COLUMN sentinai.key_state.blocked_at IS 'Since when.';
SELECT pg_catalog.pg_extension_config_dump('sentinai.key_state', '');

-- Work that waits in the database: the record as it came, and when to try it. Ids give the order of a key.
CREATE TABLE sentinai.event_pending (
	id				bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	tenant_id		text COLLATE "C" NOT NULL,
	event_id		text COLLATE "C" NOT NULL,
	worker_type		text COLLATE "C" NOT NULL,
	event_type		text COLLATE "C" NOT NULL,
	exception_id	text COLLATE "C",
	status			text COLLATE "C" NOT NULL
					CHECK (status IN ('retrying', 'parked', 'released', 'deferred')),
	topic			text COLLATE "C" NOT NULL,
	partition		integer NOT NULL,
	next_attempt_at	timestamptz NOT NULL,
	retry_count		integer NOT NULL DEFAULT 0,
	first_failed_at	timestamptz,
	error_type		text,
	error_message	text,
	sqlstate		text,
	origin_partition	integer,
	origin_offset	bigint,
	record_ts		timestamptz,
	record_key		bytea,
	record_headers	sentinai.header[],
	record_value	bytea,
	claimed			boolean NOT NULL DEFAULT true,
	dlq_id			bigint,
	charged			boolean NOT NULL DEFAULT true,
	rate_limit		text,
	created_at		timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE sentinai.event_pending IS
	'Work that waits in the database: the record as it came, and when it is due. Ids give the order of a key.';
COMMENT ON COLUMN sentinai.event_pending.id IS 'In the order of arrival.';
COMMENT ON COLUMN sentinai.event_pending.tenant_id IS 'Whose event it is.';
COMMENT ON COLUMN sentinai.event_pending.event_id IS 'The event.';
COMMENT ON COLUMN sentinai.event_pending.worker_type IS 'Who is to handle it.';
COMMENT ON COLUMN sentinai.event_pending.event_type IS 'Its type.';
COMMENT ON COLUMN sentinai.event_pending.exception_id IS 'Its exception.';
COMMENT ON COLUMN sentinai.event_pending.status IS 'retrying: failed, due at next_attempt_at; parked: behind an unfinished event of its key; released: that one is done; deferred: waits for its tenant, for a circuit, or for its place in its tenant''s queue.';
COMMENT ON COLUMN sentinai.event_pending.topic IS 'The queue that it is in: topic.';
COMMENT ON COLUMN sentinai.event_pending.partition IS 'The queue that it is in: partition.';
COMMENT ON COLUMN sentinai.event_pending.next_attempt_at IS 'When it is due; infinity: when the tenant is resumed or the circuit closes. In a queue (rate_limit): its appointment. May be moved by hand.';
COMMENT ON COLUMN sentinai.event_pending.retry_count IS 'Automatic retries so far.';
COMMENT ON COLUMN sentinai.event_pending.first_failed_at IS 'When it failed first.';
COMMENT ON COLUMN sentinai.event_pending.error_type IS 'Of the last failure.';
COMMENT ON COLUMN sentinai.event_pending.error_message IS 'Of the last failure.';
COMMENT ON COLUMN sentinai.event_pending.sqlstate IS 'Of the last failure.';
COMMENT ON COLUMN sentinai.event_pending.origin_partition IS 'Where the record came from.';
COMMENT ON COLUMN sentinai.event_pending.origin_offset IS 'Where the record came from.';
COMMENT ON COLUMN sentinai.event_pending.record_ts IS 'The record''s time.';
COMMENT ON COLUMN sentinai.event_pending.record_key IS 'The record''s key.';
COMMENT ON COLUMN sentinai.event_pending.record_headers IS 'The record''s headers.';
COMMENT ON COLUMN sentinai.event_pending.record_value IS 'The record''s bytes.';
COMMENT ON COLUMN sentinai.event_pending.claimed IS 'Whether the identity has its row in event_processing_log: not yet for a reassigned dead letter that is retried.';
COMMENT ON COLUMN sentinai.event_pending.dlq_id IS 'The dead letter that this is a replay of.';
COMMENT ON COLUMN sentinai.event_pending.charged IS 'Whether its tenant has paid for it (events_ingested), or need not.';
COMMENT ON COLUMN sentinai.event_pending.rate_limit IS 'Set while it is in its tenant''s queue: the limit that next_attempt_at was made for, such as 1000/60s; resumed: none yet, the tenant was suspended.';
COMMENT ON COLUMN sentinai.event_pending.created_at IS 'Since when it waits.';
CREATE UNIQUE INDEX event_pending_identity ON sentinai.event_pending (tenant_id, event_id, worker_type);
CREATE INDEX event_pending_due ON sentinai.event_pending (worker_type, topic, partition, next_attempt_at, id)
	WHERE status <> 'parked' AND rate_limit IS NULL;
-- The queues. The tenant comes first: whose queues there are is found by a step for each.
CREATE INDEX event_pending_queue ON sentinai.event_pending (tenant_id, worker_type, topic, partition, next_attempt_at, id)
	WHERE rate_limit IS NOT NULL;
CREATE INDEX event_pending_parked ON sentinai.event_pending (tenant_id, exception_id, worker_type, id)
	WHERE exception_id IS NOT NULL;
CREATE INDEX event_pending_dlq ON sentinai.event_pending (dlq_id) WHERE dlq_id IS NOT NULL;
SELECT pg_catalog.pg_extension_config_dump('sentinai.event_pending', '');
SELECT pg_catalog.pg_extension_config_dump('sentinai.event_pending_id_seq', '');

CREATE FUNCTION sentinai.key_release(tenant_id text, exception_id text, worker_type text) RETURNS void
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
AS $$
#variable_conflict use_column
DECLARE
	first_event		text;
	-- One time for all: they are due in the order of their ids, in whatever order this statement comes to them.
	released_at		timestamptz := clock_timestamp();
BEGIN
	PERFORM FROM sentinai.key_state k WHERE (k.tenant_id, k.exception_id, k.worker_type) = ($1, $2, $3) FOR UPDATE;
	IF NOT FOUND THEN
		RETURN;
	END IF;
	SELECT p.event_id INTO first_event FROM sentinai.event_pending p
	 WHERE (p.tenant_id, p.exception_id, p.worker_type) = ($1, $2, $3) AND p.status <> 'parked'
	 ORDER BY p.id LIMIT 1;
	IF first_event IS NULL THEN
		-- A part of the queue at a time: if one of it fails again, no more than that has to be parked again.
		WITH next AS (
			SELECT p.id FROM sentinai.event_pending p
			 WHERE (p.tenant_id, p.exception_id, p.worker_type) = ($1, $2, $3) AND p.status = 'parked'
			 ORDER BY p.id LIMIT 100
		), released AS (
			UPDATE sentinai.event_pending p SET status = 'released', next_attempt_at = released_at
			  FROM next WHERE p.id = next.id RETURNING p.id, p.event_id
		)
		SELECT r.event_id INTO first_event FROM released r ORDER BY r.id LIMIT 1;
	END IF;
	IF first_event IS NULL THEN
		DELETE FROM sentinai.key_state k WHERE (k.tenant_id, k.exception_id, k.worker_type) = ($1, $2, $3);
	ELSE
		UPDATE sentinai.key_state k SET event_id = first_event, dlq_id = NULL
		 WHERE (k.tenant_id, k.exception_id, k.worker_type) = ($1, $2, $3);
	END IF;
END
$$;
COMMENT ON FUNCTION sentinai.key_release(text, text, text) IS
	'Lets the events of an exception go on for a worker type: what is parked is released in its order, at most 100 at a time; an empty queue ends the key''s row. Does nothing while another event of the key is unfinished. Called when a batch or an operator has settled the event that the others waited for.';

-- A key without anybody that it waits for: somebody deleted the event from event_pending by hand.
CREATE FUNCTION sentinai.key_is_stuck(tenant_id text, exception_id text, worker_type text) RETURNS boolean
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
AS $$
	SELECT EXISTS (SELECT FROM sentinai.key_state k
					WHERE (k.tenant_id, k.exception_id, k.worker_type) = ($1, $2, $3)
					  AND NOT EXISTS (SELECT FROM sentinai.dead_letter_queue d
									   WHERE d.id = k.dlq_id AND d.status IN ('pending', 'retrying')))
	   AND NOT EXISTS (SELECT FROM sentinai.event_pending p
						WHERE (p.tenant_id, p.exception_id, p.worker_type) = ($1, $2, $3) AND p.status <> 'parked')
$$;
COMMENT ON FUNCTION sentinai.key_is_stuck(text, text, text) IS
	'Internal: the key is blocked, and neither an event that waits to be handled nor an open dead letter blocks it.';

CREATE FUNCTION sentinai.key_check() RETURNS bigint
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
AS $$
DECLARE
	stuck		record;
	released	bigint := 0;
BEGIN
	FOR stuck IN
		SELECT k.tenant_id, k.exception_id, k.worker_type, k.event_id FROM sentinai.key_state k
		 WHERE sentinai.key_is_stuck(k.tenant_id, k.exception_id, k.worker_type)
		 ORDER BY k.tenant_id, k.exception_id, k.worker_type
	LOOP
		-- Once more under the lock of whoever handles the key.
		PERFORM FROM sentinai.key_state k
		  WHERE (k.tenant_id, k.exception_id, k.worker_type) = (stuck.tenant_id, stuck.exception_id, stuck.worker_type)
			FOR UPDATE SKIP LOCKED;
		CONTINUE WHEN NOT FOUND OR NOT sentinai.key_is_stuck(stuck.tenant_id, stuck.exception_id, stuck.worker_type);
		RAISE LOG USING
			MESSAGE = format('exception "%s" of tenant "%s" goes on for worker type "%s"', stuck.exception_id, stuck.tenant_id, stuck.worker_type),
			DETAIL = format('It was blocked by event "%s", which is neither in event_pending nor an open dead letter.', stuck.event_id);
		PERFORM sentinai.key_release(stuck.tenant_id, stuck.exception_id, stuck.worker_type);
		released := released + 1;
	END LOOP;
	RETURN released;
END
$$;
COMMENT ON FUNCTION sentinai.key_check() IS
	'Duty: lets exceptions go on whose blocking event somebody has deleted from event_pending by hand, and says so in the server''s log. Returns how many.';
