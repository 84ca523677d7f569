-- 20_consume: the call that takes a batch through its steps, and what decides who may call it: assign().

CREATE TYPE sentinai.consume_result AS (
	handled			integer,
	logged			integer,
	duplicate		integer,
	skipped			integer,
	failed			integer,
	parked			integer,
	deferred		integer,
	dead_lettered	integer,
	emitted			integer,
	due				integer,
	next_due_ms		integer,
	reload			boolean,
	stop			text,
	split			integer,
	partitions		jsonb,
	stats			jsonb
);
COMMENT ON TYPE sentinai.consume_result IS
	'What consume() answers: how many events went which way, where each partition stands, and when to come back.';
COMMENT ON COLUMN sentinai.consume_result.handled IS 'Events whose handler has succeeded.';
COMMENT ON COLUMN sentinai.consume_result.logged IS 'Events of a known type without a handler: in event_log, done.';
COMMENT ON COLUMN sentinai.consume_result.duplicate IS 'Events that were handled before under the same identity.';
COMMENT ON COLUMN sentinai.consume_result.skipped IS 'Records that are another worker type''s, or behind the position.';
COMMENT ON COLUMN sentinai.consume_result.failed IS 'Events that failed and will be tried again.';
COMMENT ON COLUMN sentinai.consume_result.parked IS 'Events that wait behind an unfinished one of their exception.';
COMMENT ON COLUMN sentinai.consume_result.deferred IS 'Events that wait for their tenant.';
COMMENT ON COLUMN sentinai.consume_result.dead_lettered IS 'Events that went to the dead letter queue, or back to it.';
COMMENT ON COLUMN sentinai.consume_result.emitted IS 'Events that were emitted.';
COMMENT ON COLUMN sentinai.consume_result.due IS 'How many of all these came from event_pending.';
COMMENT ON COLUMN sentinai.consume_result.next_due_ms IS 'Call again after this many milliseconds at the latest.';
COMMENT ON COLUMN sentinai.consume_result.reload IS 'The list of handlers has changed: nothing was done; ask worker_config() and read again from next_offset.';
COMMENT ON COLUMN sentinai.consume_result.stop IS 'An error of the infrastructure: nothing was done; back off.';
COMMENT ON COLUMN sentinai.consume_result.split IS 'Nothing was done; send at most this many events a call.';
COMMENT ON COLUMN sentinai.consume_result.partitions IS 'One object for each partition of the batch: topic, partition, epoch, next_offset, fenced, pause.';
COMMENT ON COLUMN sentinai.consume_result.stats IS 'Counts by event_type, tenant_id, status and error_type, with the mean seconds of one event: for metrics.';

CREATE FUNCTION sentinai.consume(worker_type text, group_id text, batch bytea) RETURNS sentinai.consume_result
	LANGUAGE c VOLATILE STRICT SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	AS 'MODULE_PATHNAME', 'sn_consume';
COMMENT ON FUNCTION sentinai.consume(text, text, bytea) IS
	'Takes a batch of records through fence, screen, claim, order, handle and settle, in one transaction. batch: as sentinai-worker packs it (include/sentinai_wire.h). Raises SN002, SN003, SN007 (not a batch), SN013 (isolation level, or inside of a handler), SN014 (not active), and errors of the database. A repeated call with the same records handles nothing twice.';

CREATE FUNCTION sentinai.consume(worker_type text, group_id text, records sentinai.record[]) RETURNS sentinai.consume_result
	LANGUAGE c VOLATILE STRICT SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	AS 'MODULE_PATHNAME', 'sn_consume_records';
COMMENT ON FUNCTION sentinai.consume(text, text, sentinai.record[]) IS
	'The same by hand: rows of (topic, partition, kafka_offset, epoch, ts, key, headers, value), packed to the same bytes. The epoch is what assign() returned. A row with neither ts, key nor value only says where the reader stands, and takes due work along. Raises what the other form raises, and SN001 for rows that are not records.';

-- Notes a position that the log does not have, once until it is resolved.
CREATE FUNCTION sentinai.offset_gap_report(group_id text, topic text, partition integer, next_offset bigint,
										   log_start bigint, log_end bigint, reason text) RETURNS bigint
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
AS $$
#variable_conflict use_column
DECLARE
	gap_id	bigint;
BEGIN
	SELECT g.id INTO gap_id FROM sentinai.offset_gap g
	 WHERE (g.group_id, g.topic, g.partition, g.reason) = ($1, $2, $3, $7) AND g.resolved_at IS NULL
	 ORDER BY g.id DESC LIMIT 1;
	IF gap_id IS NULL THEN
		INSERT INTO sentinai.offset_gap (group_id, topic, partition, next_offset, log_start, log_end, reason)
			VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING id INTO gap_id;
	END IF;
	RETURN gap_id;
END
$$;
COMMENT ON FUNCTION sentinai.offset_gap_report(text, text, integer, bigint, bigint, bigint, text) IS
	'Notes that the log does not have the position of a group. reason: position_too_old, topic_recreated, other_cluster, position_invalid. Returns the id of the row in offset_gap, the same one until offset_reset() resolves it.';

-- Ends the session that holds the row of a partition: a zombie's batch that still runs.
CREATE FUNCTION sentinai.assign_end_holder(group_id text, topic text, partition integer) RETURNS integer
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
AS $$
#variable_conflict use_column
DECLARE
	locker	xid;
	holder	integer;
BEGIN
	SELECT k.xmax INTO locker FROM sentinai.kafka_offset k WHERE (k.group_id, k.topic, k.partition) = ($1, $2, $3);
	-- The row's lock is a transaction's, or a multixact of one transaction and its subtransaction.
	SELECT l.pid INTO holder
	  FROM pg_locks l
	 WHERE l.locktype = 'transactionid' AND l.granted AND l.pid <> pg_backend_pid()
	   AND l.transactionid IN (SELECT locker UNION ALL SELECT m.xid FROM sentinai.multixact_members(locker) m)
	 LIMIT 1;
	IF holder IS NOT NULL THEN
		PERFORM pg_terminate_backend(holder, 5000);
	END IF;
	RETURN holder;
END
$$;
COMMENT ON FUNCTION sentinai.assign_end_holder(text, text, integer) IS
	'Ends the session whose transaction holds the position of a partition, and returns its pid; NULL where none is found. Called by assign().';

CREATE FUNCTION sentinai.multixact_members(multixact xid) RETURNS TABLE (xid xid)
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
AS $$
BEGIN
	RETURN QUERY SELECT m.xid FROM pg_get_multixact_members(multixact) m;
EXCEPTION WHEN OTHERS THEN
	-- It was an ordinary transaction id.
	RETURN;
END
$$;
COMMENT ON FUNCTION sentinai.multixact_members(xid) IS
	'The transactions of a multixact; none where the number is not one.';

-- Locks the row of a partition, whoever holds it.
CREATE FUNCTION sentinai.assign_lock(group_id text, topic text, partition integer) RETURNS sentinai.kafka_offset
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	SET lock_timeout = '500ms'
AS $$
#variable_conflict use_column
DECLARE
	result	sentinai.kafka_offset;
	holder	integer;
BEGIN
	FOR attempt IN 1 .. 20 LOOP
		BEGIN
			SELECT * INTO result FROM sentinai.kafka_offset k
			 WHERE (k.group_id, k.topic, k.partition) = ($1, $2, $3) FOR UPDATE;
			RETURN result;
		EXCEPTION WHEN lock_not_available THEN
			holder := sentinai.assign_end_holder($1, $2, $3);
		END;
	END LOOP;
	RAISE EXCEPTION USING
		ERRCODE = 'SN019',
		MESSAGE = format('position of partition %s of topic "%s" is held by another session', $3, $2),
		DETAIL = format('The session''s process is %s.', coalesce(holder::text, 'not known')),
		HINT = 'End that session: SELECT pg_terminate_backend(pid).';
END
$$;
COMMENT ON FUNCTION sentinai.assign_lock(text, text, integer) IS
	'Locks the position of a partition; a session that holds it is ended. Raises SN019 (in_use) when that does not help.';

CREATE FUNCTION sentinai.assign(worker_type text, group_id text, topic text, partition integer,
								partition_count integer DEFAULT NULL, cluster_id text DEFAULT NULL,
								log_start bigint DEFAULT NULL, log_end bigint DEFAULT NULL, committed bigint DEFAULT NULL)
	RETURNS TABLE (epoch bigint, next_offset bigint, stop text)
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
AS $$
#variable_conflict use_column
DECLARE
	type		sentinai.worker_type_effective := sentinai.worker_type_get($1);
	place		sentinai.kafka_offset;
	known		sentinai.kafka_topic;
	gap			text;
BEGIN
	IF $2 IS DISTINCT FROM type.group_id THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN003',
			MESSAGE = format('group "%s" is not the group of worker type "%s"', $2, type.name),
			DETAIL = format('Its group is "%s".', type.group_id),
			HINT = format('SELECT sentinai.worker_type_group(%L, %L) changes it.', type.name, $2);
	ELSIF $3 IS DISTINCT FROM type.topic OR $4 IS NULL OR $4 < 0 THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN001',
			MESSAGE = format('partition %s of topic "%s" is not one of worker type "%s"', $4, $3, type.name),
			DETAIL = format('Its topic is "%s".', type.topic);
	END IF;
	PERFORM sentinai.activate();

	IF NOT EXISTS (SELECT FROM sentinai.kafka_topic t WHERE t.topic = $3) THEN
		INSERT INTO sentinai.kafka_topic (topic) VALUES ($3) ON CONFLICT DO NOTHING;
	END IF;
	UPDATE sentinai.kafka_topic t
	   SET cluster_id = coalesce(t.cluster_id, $6), partition_count = coalesce($5, t.partition_count), updated_at = now()
	 WHERE t.topic = $3 AND ((t.cluster_id IS NULL AND $6 IS NOT NULL) OR t.partition_count IS DISTINCT FROM coalesce($5, t.partition_count));
	SELECT * INTO known FROM sentinai.kafka_topic t WHERE t.topic = $3;
	-- A group that is new to us adopts the broker's commit: an existing consumer goes on where it stood.
	-- Looked for first: ON CONFLICT would wait for a zombie's batch that has moved the row.
	IF NOT EXISTS (SELECT FROM sentinai.kafka_offset k WHERE (k.group_id, k.topic, k.partition) = ($2, $3, $4)) THEN
		INSERT INTO sentinai.kafka_offset (group_id, topic, partition, next_offset)
			VALUES ($2, $3, $4, CASE WHEN $9 >= 0 THEN $9 ELSE greatest(coalesce($7, 0), 0) END)
			ON CONFLICT DO NOTHING;
	END IF;
	-- point: assign.noted
	place := sentinai.assign_lock($2, $3, $4);
	-- point: assign.locked
	UPDATE sentinai.kafka_offset k SET epoch = k.epoch + 1, updated_at = now()
	 WHERE (k.group_id, k.topic, k.partition) = ($2, $3, $4) RETURNING k.* INTO place;

	-- Work of partitions that no longer exist is partition 0's.
	IF $4 = 0 AND $5 > 0 THEN
		UPDATE sentinai.key_state k SET partition = 0 WHERE k.worker_type = type.name AND k.topic = $3 AND k.partition >= $5;
		-- point: assign.moving
		UPDATE sentinai.event_pending p SET partition = 0 WHERE p.worker_type = type.name AND p.topic = $3 AND p.partition >= $5;
	END IF;

	gap := CASE WHEN known.cluster_id <> $6 THEN 'other_cluster'
				WHEN $8 < place.next_offset THEN 'topic_recreated'
				WHEN $7 > place.next_offset THEN 'position_too_old' END;
	epoch := place.epoch;
	next_offset := place.next_offset;
	-- point: assign.raised
	IF gap IS NOT NULL THEN
		PERFORM sentinai.offset_gap_report($2, $3, $4, place.next_offset, $7, $8, gap);
		stop := format('%s: group %s stands at %s of %s/%s, the log has %s to %s; SELECT * FROM sentinai.offset_reset(%L, %L, %s) shows what would mend it',
					   gap, $2, place.next_offset, $3, $4, $7, $8, $2, $3, $4);
	END IF;
	RETURN NEXT;
END
$$;
COMMENT ON FUNCTION sentinai.assign(text, text, text, integer, integer, text, bigint, bigint, bigint) IS
	'Makes the caller the reader of a partition: raises its epoch, so that batches of earlier readers are fenced off, ends a session that still holds it, and returns where to read from. partition_count, cluster_id, log_start, log_end: as the broker says; committed: the broker''s commit of the group, adopted at the first start only. stop: the position can''t be used, see offset_gap. Raises SN001, SN002, SN003, SN019 (in_use).';

CREATE FUNCTION sentinai.offset_reset(group_id text, topic text, partition integer DEFAULT NULL, to_offset bigint DEFAULT NULL,
									  dry_run boolean DEFAULT true, reason text DEFAULT NULL)
	RETURNS TABLE (at_partition integer, old_offset bigint, new_offset bigint, gap text, done boolean)
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
AS $$
#variable_conflict use_column
DECLARE
	place	record;
	recreated	boolean := false;
BEGIN
	PERFORM sentinai.reason_check($6);
	IF to_offset < 0 THEN
		RAISE EXCEPTION USING ERRCODE = 'SN001', MESSAGE = 'an offset is not negative';
	ELSIF NOT EXISTS (SELECT FROM sentinai.kafka_offset k
					   WHERE k.group_id = $1 AND k.topic = $2 AND ($3 IS NULL OR k.partition = $3)) THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN011',
			MESSAGE = format('group "%s" has no position in %stopic "%s"', $1, 'partition ' || $3 || ' of ', $2),
			DETAIL = format('Positions there are in: %s.',
							coalesce((SELECT string_agg(DISTINCT format('topic "%s" for group "%s"', k.topic, k.group_id), ', ')
										FROM sentinai.kafka_offset k), 'none')),
			HINT = 'SELECT * FROM sentinai.kafka_offset shows all of them; a group has one once a worker was assigned the partition.';
	END IF;
	FOR place IN
		SELECT k.partition, k.next_offset, g.reason, g.log_start
		  FROM sentinai.kafka_offset k
		  LEFT JOIN LATERAL (SELECT o.reason, o.log_start FROM sentinai.offset_gap o
							  WHERE (o.group_id, o.topic, o.partition) = (k.group_id, k.topic, k.partition)
								AND o.resolved_at IS NULL
							  ORDER BY o.id DESC LIMIT 1) g ON true
		 WHERE k.group_id = $1 AND k.topic = $2 AND ($3 IS NULL OR k.partition = $3)
		 ORDER BY k.partition
	LOOP
		CONTINUE WHEN $4 IS NULL AND place.reason IS NULL;
		at_partition := place.partition;
		old_offset := place.next_offset;
		new_offset := coalesce($4, place.log_start, 0);
		gap := place.reason;
		done := NOT $5;
		IF done THEN
			PERFORM sentinai.assign_lock($1, $2, place.partition);
			UPDATE sentinai.kafka_offset k SET next_offset = new_offset, epoch = k.epoch + 1, updated_at = now()
			 WHERE (k.group_id, k.topic, k.partition) = ($1, $2, place.partition);
			-- point: offset_reset.moved
			UPDATE sentinai.offset_gap g
			   SET resolved_at = now(), resolution = format('offset_reset from %s to %s by %s%s', old_offset, new_offset, sentinai.caller_identity(), coalesce(': ' || $6, ''))
			 WHERE (g.group_id, g.topic, g.partition) = ($1, $2, place.partition) AND g.resolved_at IS NULL;
			recreated := recreated OR coalesce(gap IN ('topic_recreated', 'other_cluster'), false);
		END IF;
		RETURN NEXT;
	END LOOP;
	-- Ids that are made from a record's place must not meet those of the old log; the cluster is learnt again.
	IF recreated THEN
		UPDATE sentinai.kafka_topic t SET incarnation = t.incarnation + 1, cluster_id = NULL, updated_at = now() WHERE t.topic = $2;
	END IF;
END
$$;
COMMENT ON FUNCTION sentinai.offset_reset(text, text, integer, bigint, boolean, text) IS
	'Moves the position of a group. partition NULL: all of the topic''s; to_offset NULL: where the log begins, for partitions with an open offset_gap only. dry_run (the default) only shows what would be done. Running workers are fenced off and begin at the new position; for a topic that was made anew its incarnation is raised. reason: kept with the gap. Raises SN001, SN011 (the group has no position there), SN019.';
