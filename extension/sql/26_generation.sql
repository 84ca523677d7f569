-- 26_generation: how event_processing_log begins a new generation and forgets an old one.
--
-- A batch inserts its identities into the newest generation where no live one has them. Two batches that run at the same
-- time must share a unique index, so a change of generation has steps, each a change of dedupe_state with a number of its
-- own. A batch holds a shared lock (SN_LOCK_GENERATION) on the number it works under until its transaction ends (extension/generation.c):
--
--	 state s	newest n				batches insert into n
--	 state s+1	newest n+1, n open		batches insert into n+1, and into n too with shadow = true
--	 state s+2	newest n+1				batches insert into n+1; n is only looked up
--
-- s+1 -> s+2 when nobody holds a number below s+1: whoever inserted into n alone has ended, so looking n up is enough. Now
-- n is closed, and its time runs. When nobody holds a number below s+2 nothing more comes into n, and its shadow rows,
-- which are copies, are deleted. Nothing waits for anything; a step that can't be done yet is done in a later round.

CREATE FUNCTION sentinai.dedupe_held_below(number integer) RETURNS boolean
	LANGUAGE sql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	SELECT EXISTS (SELECT FROM sentinai.lock_list(1) l WHERE l.number < dedupe_held_below.number)
$$;
COMMENT ON FUNCTION sentinai.dedupe_held_below(integer) IS
	'Internal: a batch is still running that began under a dedupe_state with a state_number below number.';

CREATE FUNCTION sentinai.dedupe_generation_add(number integer) RETURNS void
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
BEGIN
	PERFORM sentinai.partition_make('event_processing_log', 'event_processing_log_g' || number,
		pg_catalog.format('FOR VALUES IN (%s)', number),
		ARRAY['CREATE UNIQUE INDEX ON sentinai.%1$I (event_id, tenant_id, worker_type)',
			  'CREATE INDEX ON sentinai.%1$I (shadow) WHERE shadow']);
	INSERT INTO sentinai.dedupe_generation (generation) VALUES (number) ON CONFLICT DO NOTHING;
END
$$;
COMMENT ON FUNCTION sentinai.dedupe_generation_add(integer) IS
	'Internal: makes the partition of event_processing_log for a generation, and its row.';

CREATE FUNCTION sentinai.dedupe_first_generation() RETURNS void
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
DECLARE
	number	integer;
BEGIN
	INSERT INTO sentinai.dedupe_state (newest, state_number) VALUES (1, 1) ON CONFLICT DO NOTHING;
	SELECT newest INTO number FROM sentinai.dedupe_state;
	PERFORM sentinai.dedupe_generation_add(number);
END
$$;
COMMENT ON FUNCTION sentinai.dedupe_first_generation() IS
	'Internal: makes sure that there is a newest generation with its partition.';

CREATE FUNCTION sentinai.dedupe_close(state sentinai.dedupe_state) RETURNS void
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
BEGIN
	IF sentinai.dedupe_held_below(state.state_number) THEN
		RETURN;
	END IF;
	UPDATE sentinai.dedupe_generation
	   SET closed_at = pg_catalog.clock_timestamp(), shadow_state = state.state_number
	 WHERE generation = state.previous_open;
	-- point: generation.closing
	UPDATE sentinai.dedupe_state SET previous_open = NULL, state_number = state.state_number + 1;
END
$$;
COMMENT ON FUNCTION sentinai.dedupe_close(sentinai.dedupe_state) IS
	'Internal: closes the previous generation if every batch that inserts into it alone has ended. The caller has locked dedupe_state.';

CREATE FUNCTION sentinai.dedupe_unshadow() RETURNS void
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
DECLARE
	closed	record;
BEGIN
	FOR closed IN SELECT g.generation, g.shadow_state FROM sentinai.dedupe_generation g WHERE g.shadow_state IS NOT NULL LOOP
		CONTINUE WHEN sentinai.dedupe_held_below(closed.shadow_state + 1);
		DELETE FROM sentinai.event_processing_log p WHERE p.generation = closed.generation AND p.shadow;
		-- point: generation.unshadowed
		UPDATE sentinai.dedupe_generation g SET shadow_state = NULL WHERE g.generation = closed.generation;
	END LOOP;
END
$$;
COMMENT ON FUNCTION sentinai.dedupe_unshadow() IS
	'Internal: deletes the copies from a closed generation once no batch can add one.';

CREATE FUNCTION sentinai.dedupe_begin(state sentinai.dedupe_state) RETURNS text
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	SET lock_timeout = '100ms'
	AS $$
BEGIN
	PERFORM sentinai.dedupe_generation_add(state.newest + 1);
	-- point: generation.added
	UPDATE sentinai.dedupe_state
	   SET newest = state.newest + 1, previous_open = state.newest, state_number = state.state_number + 1, rotated_at = now();
	RETURN NULL;
EXCEPTION WHEN lock_not_available THEN
	RETURN 'the next generation of event_processing_log could not be made: the table is locked';
END
$$;
COMMENT ON FUNCTION sentinai.dedupe_begin(sentinai.dedupe_state) IS
	'Internal: begins the next generation. The caller has locked dedupe_state. Returns NULL, or why it could not.';

-- A generation may go when its window is over. What is still open (a dead letter that may be retried, an event that waits)
-- must stay known: its identity moves to the newest generation, under the lock of the row that it is open for, so that
-- nobody changes the identity's status meanwhile. The state gets a new number, so that batches stop to look the generation
-- up; its table is dropped when those that may still do so have ended.
CREATE FUNCTION sentinai.dedupe_forget(old integer, newest integer) RETURNS text
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	SET lock_timeout = '100ms'
	AS $$
BEGIN
	PERFORM FROM sentinai.event_pending e
	  WHERE EXISTS (SELECT FROM sentinai.event_processing_log p
					 WHERE p.generation = old AND p.tenant_id = e.tenant_id AND p.event_id = e.event_id
					   AND p.worker_type = e.worker_type)
	  ORDER BY e.id FOR UPDATE OF e;
	PERFORM FROM sentinai.dead_letter_queue d
	  WHERE d.status IN ('pending', 'retrying')
		AND EXISTS (SELECT FROM sentinai.event_processing_log p
					 WHERE p.generation = old AND p.tenant_id = d.tenant_id AND p.event_id = d.event_id
					   AND p.worker_type = d.worker_type)
	  ORDER BY d.id FOR UPDATE OF d;

	INSERT INTO sentinai.event_processing_log (generation, tenant_id, event_id, worker_type, exception_id, event_type, status,
		retry_count, hash, shadow, processed_at, last_attempt_at, error_type, error_message)
	SELECT dedupe_forget.newest, p.tenant_id, p.event_id, p.worker_type, p.exception_id, p.event_type, p.status,
		   p.retry_count, p.hash, false, p.processed_at, p.last_attempt_at, p.error_type, p.error_message
	  FROM (SELECT e.tenant_id, e.event_id, e.worker_type FROM sentinai.event_pending e
			UNION
			SELECT d.tenant_id, d.event_id, d.worker_type FROM sentinai.dead_letter_queue d
			 WHERE d.status IN ('pending', 'retrying')) AS o
	  JOIN sentinai.event_processing_log p USING (tenant_id, event_id, worker_type)
	 WHERE p.generation = old
	 ORDER BY p.event_id, p.tenant_id, p.worker_type
	ON CONFLICT DO NOTHING;
	-- point: generation.carried

	EXECUTE pg_catalog.format('TRUNCATE sentinai.%I', 'event_processing_log_g' || old);
	-- point: generation.emptied
	DELETE FROM sentinai.dedupe_generation g WHERE g.generation = old;
	UPDATE sentinai.dedupe_state SET state_number = state_number + 1, forgotten_at = pg_catalog.clock_timestamp();
	RETURN NULL;
EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
	RETURN pg_catalog.format('generation %s of event_processing_log could not be emptied: it, or a row that it is needed for, is locked', old);
END
$$;
COMMENT ON FUNCTION sentinai.dedupe_forget(integer, integer) IS
	'Internal: empties a generation after moving the identities of open dead letters and waiting events to the newest. The caller has locked dedupe_state. Returns NULL, or why it could not.';

CREATE FUNCTION sentinai.dedupe_drop(state sentinai.dedupe_state) RETURNS text
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	SET lock_timeout = '100ms'
	AS $$
DECLARE
	old	text;
BEGIN
	SELECT c.relname INTO old
	  FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
	 WHERE i.inhparent = 'sentinai.event_processing_log'::pg_catalog.regclass
	   AND c.relname ~ '^event_processing_log_g\d+$'
	   AND NOT EXISTS (SELECT FROM sentinai.dedupe_generation g WHERE c.relname = 'event_processing_log_g' || g.generation)
	 ORDER BY c.oid LIMIT 1;
	IF old IS NOT NULL AND NOT sentinai.dedupe_held_below(state.state_number) THEN
		EXECUTE pg_catalog.format('DROP TABLE sentinai.%I', old);
		-- point: generation.dropped
	END IF;
	RETURN NULL;
EXCEPTION WHEN lock_not_available THEN
	RETURN pg_catalog.format('partition %s could not be dropped: event_processing_log is locked', old);
END
$$;
COMMENT ON FUNCTION sentinai.dedupe_drop(sentinai.dedupe_state) IS
	'Internal: drops one partition of event_processing_log whose generation has been emptied and that no batch looks up. Returns NULL, or why it could not.';

CREATE FUNCTION sentinai.dedupe_rotate(force boolean DEFAULT false) RETURNS text
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
DECLARE
	time_window	interval := pg_catalog.current_setting('sentinai.dedupe_window')::interval;
	state		sentinai.dedupe_state;
	old			integer;
	failed		text;
BEGIN
	PERFORM sentinai.check_read_committed('dedupe_rotate');
	SELECT * INTO state FROM sentinai.dedupe_state FOR UPDATE;
	IF NOT FOUND THEN
		RETURN NULL;
	END IF;
	IF state.previous_open IS NOT NULL THEN
		PERFORM sentinai.dedupe_close(state);
		RETURN NULL;
	END IF;
	PERFORM sentinai.dedupe_unshadow();

	SELECT g.generation INTO old
	  FROM sentinai.dedupe_generation g
	 WHERE g.closed_at < pg_catalog.clock_timestamp() - time_window AND g.shadow_state IS NULL
	 ORDER BY g.generation LIMIT 1;
	IF old IS NOT NULL THEN
		failed := sentinai.dedupe_forget(old, state.newest);
		SELECT * INTO state FROM sentinai.dedupe_state;
	ELSE
		failed := sentinai.dedupe_drop(state);
	END IF;

	IF force OR state.rotated_at < pg_catalog.clock_timestamp() - time_window / 2
	   OR pg_catalog.pg_stat_get_live_tuples(pg_catalog.to_regclass('sentinai.event_processing_log_g' || state.newest))
		  > pg_catalog.current_setting('sentinai.dedupe_generation_rows')::bigint
	THEN
		failed := coalesce(sentinai.dedupe_begin(state), failed);
	END IF;
	RETURN failed;
END
$$;
COMMENT ON FUNCTION sentinai.dedupe_rotate(boolean) IS
	'Duty: takes the next step of the generations of event_processing_log: closes the previous one, empties or drops one whose window is over, begins the next after half of sentinai.dedupe_window or sentinai.dedupe_generation_rows identities, or at once with force. Never waits longer than 100 ms. Returns NULL, or why a step could not be taken.';

CREATE FUNCTION sentinai.dedupe_status()
	RETURNS TABLE (generation integer, role text, opened_at timestamptz, closed_at timestamptz, forgotten_from timestamptz,
				   identities bigint, bytes bigint)
	LANGUAGE sql STABLE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	SELECT g.generation,
		   CASE WHEN g.generation = s.newest THEN 'newest' WHEN g.generation = s.previous_open THEN 'closing' ELSE 'looked up' END,
		   g.opened_at, g.closed_at, g.closed_at + pg_catalog.current_setting('sentinai.dedupe_window')::interval,
		   pg_catalog.pg_stat_get_live_tuples(t.oid), pg_catalog.pg_total_relation_size(t.oid)
	  FROM sentinai.dedupe_generation g
	  CROSS JOIN sentinai.dedupe_state s
	  CROSS JOIN LATERAL (SELECT pg_catalog.to_regclass('sentinai.event_processing_log_g' || g.generation)) AS t (oid)
	 ORDER BY g.generation DESC
$$;
COMMENT ON FUNCTION sentinai.dedupe_status() IS
	'The live generations of event_processing_log, newest first: identities (an estimate) and bytes, and from when on each may be forgotten. An event is recognised as a duplicate as long as its generation is live, at least sentinai.dedupe_window.';
