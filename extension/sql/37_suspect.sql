-- 37_suspect: finding the record whose handler kills its backend. Such a crash breaks every connection of the server, and
-- whatever is sent again does it again; so one session of the database searches, one event a call, and the others wait.
-- extension/suspect.c says how they are kept out.

CREATE TABLE sentinai.suspect (
	worker_type		text COLLATE "C" NOT NULL,
	topic			text COLLATE "C" NOT NULL,
	partition		integer NOT NULL,
	pending_id		bigint NOT NULL DEFAULT 0,
	kafka_offset	bigint NOT NULL,
	marks			integer NOT NULL DEFAULT 1,
	marked_at		timestamptz NOT NULL DEFAULT clock_timestamp(),
	session			integer NOT NULL DEFAULT pg_catalog.pg_backend_pid(),
	PRIMARY KEY (worker_type, topic, partition, pending_id, kafka_offset)
);
COMMENT ON TABLE sentinai.suspect IS
	'Events that may kill the server: marked before the one call that handles each alone, and forgotten when that call has ended well. Not dumped: what crashed that server is found out anew on another one.';
COMMENT ON COLUMN sentinai.suspect.worker_type IS 'Whose handler it would be.';
COMMENT ON COLUMN sentinai.suspect.topic IS 'The topic whose reader searches.';
COMMENT ON COLUMN sentinai.suspect.partition IS 'The partition whose reader searches.';
COMMENT ON COLUMN sentinai.suspect.pending_id IS 'The event''s row in event_pending; 0: a new record.';
COMMENT ON COLUMN sentinai.suspect.kafka_offset IS 'Where the event''s record lies, or lay.';
COMMENT ON COLUMN sentinai.suspect.marks IS 'Calls for it that were begun: all but the last one broke the connection. A third one makes it a dead letter.';
COMMENT ON COLUMN sentinai.suspect.marked_at IS 'When the last of them was to begin.';
COMMENT ON COLUMN sentinai.suspect.session IS 'Process id of the session that marked it last.';

CREATE FUNCTION sentinai.suspect_lock() RETURNS void
	LANGUAGE c VOLATILE
	AS 'MODULE_PATHNAME', 'sn_suspect_lock';
COMMENT ON FUNCTION sentinai.suspect_lock() IS
	'Internal: waits until no other session handles events or searches, and keeps them out until suspect_unlock() or the end of the session.';

CREATE FUNCTION sentinai.suspect_unlock() RETURNS boolean
	LANGUAGE c VOLATILE
	AS 'MODULE_PATHNAME', 'sn_suspect_unlock';
COMMENT ON FUNCTION sentinai.suspect_unlock() IS 'Internal: ends suspect_lock(). Returns whether the session had it.';

CREATE FUNCTION sentinai.suspect_searching() RETURNS boolean
	LANGUAGE c VOLATILE
	AS 'MODULE_PATHNAME', 'sn_suspect_searching';
COMMENT ON FUNCTION sentinai.suspect_searching() IS 'Internal: whether this session is in suspect mode.';

CREATE FUNCTION sentinai.suspect_begin(worker_type text) RETURNS boolean
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	SET lock_timeout = '10s'
	AS $$
#variable_conflict use_column
BEGIN
	PERFORM sentinai.worker_type_get($1);
	BEGIN
		PERFORM sentinai.suspect_lock();
	EXCEPTION WHEN lock_not_available THEN
		RETURN false;
	END;
	-- What has been handled since, by whoever: nobody will ask for it again.
	DELETE FROM sentinai.suspect s
	 WHERE CASE WHEN s.pending_id <> 0 THEN NOT EXISTS (SELECT FROM sentinai.event_pending p WHERE p.id = s.pending_id)
				ELSE EXISTS (SELECT FROM sentinai.kafka_offset k JOIN sentinai.worker_type_effective w ON w.group_id = k.group_id
							  WHERE w.name = s.worker_type AND k.topic = s.topic AND k.partition = s.partition
								AND k.next_offset > s.kafka_offset) END;
	RETURN true;
END
$$;
COMMENT ON FUNCTION sentinai.suspect_begin(text) IS
	'Begins suspect mode: until suspect_end() or the end of the session its consume() handles one event a call, which suspect_next() has marked, and consume() of other sessions answers stop. Waits up to 10 s for calls that still run; false: another session is in suspect mode, or a call has not ended. Raises SN002.';

-- What is due, one of a tenant's queue as well: whoever searches takes it whatever the tenant's rate.
CREATE FUNCTION sentinai.suspect_due(worker_type text, topic text, partition integer, due_at timestamptz) RETURNS bigint
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	SELECT d.id
	  FROM ((SELECT p.id, p.next_attempt_at FROM sentinai.event_pending p
			  WHERE p.worker_type = $1 AND p.topic = $2 AND p.partition = $3 AND p.status <> 'parked' AND p.rate_limit IS NULL
				AND p.next_attempt_at <= $4
			  ORDER BY p.next_attempt_at, p.id LIMIT 1)
			UNION ALL
			(SELECT p.id, p.next_attempt_at FROM sentinai.event_pending p
			  WHERE p.worker_type = $1 AND p.topic = $2 AND p.partition = $3 AND p.rate_limit IS NOT NULL AND p.next_attempt_at <= $4
			  ORDER BY p.next_attempt_at, p.id LIMIT 1)) d
	 ORDER BY d.next_attempt_at, d.id LIMIT 1
$$;
COMMENT ON FUNCTION sentinai.suspect_due(text, text, integer, timestamptz) IS
	'Internal: the waiting event that a session in suspect mode handles next for a partition; NULL: none is due.';

CREATE FUNCTION sentinai.suspect_next(worker_type text, topic text, partition integer, kafka_offset bigint DEFAULT NULL,
									  broken boolean DEFAULT false) RETURNS integer
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
#variable_conflict use_column
DECLARE
	due		record;
	result	integer;
BEGIN
	IF NOT sentinai.suspect_searching() THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN013',
			MESSAGE = 'the session is not in suspect mode',
			HINT = 'suspect_begin() begins it.';
	END IF;
	-- As consume() takes it: what is due comes first.
	SELECT p.id, p.origin_offset INTO due FROM sentinai.event_pending p
	 WHERE p.id = sentinai.suspect_due($1, $2, $3, clock_timestamp());
	IF due.id IS NULL AND $4 IS NULL THEN
		RETURN NULL;
	END IF;
	-- A crash must not take the mark back.
	IF current_setting('synchronous_commit') = 'off' THEN
		PERFORM set_config('synchronous_commit', 'local', true);
	END IF;
	INSERT INTO sentinai.suspect AS s (worker_type, topic, partition, pending_id, kafka_offset)
		VALUES ($1, $2, $3, coalesce(due.id, 0), coalesce(due.origin_offset, $4))
		ON CONFLICT ON CONSTRAINT suspect_pkey DO UPDATE
			SET marks = s.marks + $5::integer, marked_at = excluded.marked_at, session = excluded.session
		RETURNING s.marks INTO result;
	RETURN result;
END
$$;
COMMENT ON FUNCTION sentinai.suspect_next(text, text, integer, bigint, boolean) IS
	'Marks the one event that the next consume() of this session handles for the partition: what is due, else the record at kafka_offset (NULL: there is none). To be committed before that call. broken: the last call broke the connection, and not because the server shut down; only then an old mark counts. Returns how many marks the event has now, of which a third one convicts it (dead letter handler_crashed); NULL: there is nothing to do. Raises SN013 (not in suspect mode).';

CREATE FUNCTION sentinai.suspect_end() RETURNS boolean
	LANGUAGE sql VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$SELECT sentinai.suspect_unlock()$$;
COMMENT ON FUNCTION sentinai.suspect_end() IS 'Ends suspect mode; the other sessions go on. Returns whether the session was in it.';

CREATE FUNCTION sentinai.suspect_session() RETURNS integer
	LANGUAGE sql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	-- SN_LOCK_SUSPECT.
	SELECT l.pid FROM sentinai.lock_list(4) l WHERE l.granted AND l.mode = 'ExclusiveLock' LIMIT 1
$$;
COMMENT ON FUNCTION sentinai.suspect_session() IS 'Internal: process id of the session in suspect mode; NULL: none is.';

CREATE FUNCTION sentinai.suspect_words(worker_type text, topic text, partition integer, pending_id bigint, kafka_offset bigint)
	RETURNS text
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	SELECT format('; suspected of killing the server: marked %s times, at %s', s.marks, s.marked_at)
	  FROM sentinai.suspect s
	 WHERE (s.worker_type, s.topic, s.partition, s.pending_id, s.kafka_offset) = ($1, $2, $3, $4, $5)
$$;
COMMENT ON FUNCTION sentinai.suspect_words(text, text, integer, bigint, bigint) IS
	'Internal: what event_why() adds for an event that is marked; NULL: it is not.';
