-- 45_outbox: what is to be published, in id order. Three tables take turns and are truncated, never vacuumed.
-- The order, and why it holds, is told in extension/outbox.c.

CREATE SEQUENCE sentinai.outbox_id_seq AS bigint CACHE 1;
COMMENT ON SEQUENCE sentinai.outbox_id_seq IS 'Ids of the outbox. CACHE 1: ids are given in the order in which they are asked for.';
SELECT pg_catalog.pg_extension_config_dump('sentinai.outbox_id_seq', '');

CREATE TABLE sentinai.outbox_0 (
	id			bigint NOT NULL,
	topic		text COLLATE "C" NOT NULL,
	partition	integer,
	key			bytea,
	headers		sentinai.header[],
	value		bytea,
	tenant_id	text COLLATE "C",
	event_id	text COLLATE "C",
	event_type	text COLLATE "C",
	dlq_id		bigint,
	dlq_token	uuid,
	created_at	timestamptz NOT NULL DEFAULT now()
) WITH (autovacuum_enabled = false);
COMMENT ON TABLE sentinai.outbox_0 IS
	'One of the three tables of the outbox. Rows are appended in transactions that emit, published in id order, and go when the table is truncated.';
COMMENT ON COLUMN sentinai.outbox_0.id IS 'Order of publication.';
COMMENT ON COLUMN sentinai.outbox_0.topic IS 'Kafka topic to publish to.';
COMMENT ON COLUMN sentinai.outbox_0.partition IS 'Kafka partition; NULL: the partitioner decides by key.';
COMMENT ON COLUMN sentinai.outbox_0.key IS 'The record''s key; NULL: none.';
COMMENT ON COLUMN sentinai.outbox_0.headers IS 'The record''s headers, in order.';
COMMENT ON COLUMN sentinai.outbox_0.value IS 'The record''s value; NULL: a tombstone.';
COMMENT ON COLUMN sentinai.outbox_0.tenant_id IS 'Tenant of the event; NULL where there is none.';
COMMENT ON COLUMN sentinai.outbox_0.event_id IS 'Id of the event.';
COMMENT ON COLUMN sentinai.outbox_0.event_type IS 'Type of the event.';
COMMENT ON COLUMN sentinai.outbox_0.dlq_id IS 'The dead letter that this record is a retry of; NULL: an event of ours.';
COMMENT ON COLUMN sentinai.outbox_0.dlq_token IS 'Token of that retry; it comes back in dlq_receipt.';
COMMENT ON COLUMN sentinai.outbox_0.created_at IS 'Start of the transaction that emitted it.';
CREATE TABLE sentinai.outbox_1 (LIKE sentinai.outbox_0 INCLUDING ALL) WITH (autovacuum_enabled = false);
COMMENT ON TABLE sentinai.outbox_1 IS 'One of the three tables of the outbox; see outbox_0.';
CREATE TABLE sentinai.outbox_2 (LIKE sentinai.outbox_0 INCLUDING ALL) WITH (autovacuum_enabled = false);
COMMENT ON TABLE sentinai.outbox_2 IS 'One of the three tables of the outbox; see outbox_0.';
CREATE INDEX outbox_0_id ON sentinai.outbox_0 (id);
CREATE INDEX outbox_1_id ON sentinai.outbox_1 (id);
CREATE INDEX outbox_2_id ON sentinai.outbox_2 (id);
SELECT pg_catalog.pg_extension_config_dump('sentinai.outbox_0', '');
SELECT pg_catalog.pg_extension_config_dump('sentinai.outbox_1', '');
SELECT pg_catalog.pg_extension_config_dump('sentinai.outbox_2', '');

-- Of columns and order like the three. What waits here is a topic's oldest; vacuum looks after it.
CREATE TABLE sentinai.outbox_blocked (
	id			bigint PRIMARY KEY,
	topic		text COLLATE "C" NOT NULL,
	partition	integer,
	key			bytea,
	headers		sentinai.header[],
	value		bytea,
	tenant_id	text COLLATE "C",
	event_id	text COLLATE "C",
	event_type	text COLLATE "C",
	dlq_id		bigint,
	dlq_token	uuid,
	created_at	timestamptz NOT NULL,
	moved_at	timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX outbox_blocked_topic ON sentinai.outbox_blocked (topic, id);
COMMENT ON TABLE sentinai.outbox_blocked IS
	'Rows of topics that take none while others do, moved here from a table of the outbox whose turn had come again. Part of the outbox, published in its order; they go when they are published.';
COMMENT ON COLUMN sentinai.outbox_blocked.moved_at IS 'When it was moved here.';
SELECT pg_catalog.pg_extension_config_dump('sentinai.outbox_blocked', '');

CREATE VIEW sentinai.outbox WITH (security_invoker = true) AS
	SELECT * FROM sentinai.outbox_0
	UNION ALL SELECT * FROM sentinai.outbox_1
	UNION ALL SELECT * FROM sentinai.outbox_2
	UNION ALL SELECT id, topic, partition, key, headers, value, tenant_id, event_id, event_type, dlq_id, dlq_token, created_at
				FROM sentinai.outbox_blocked;
COMMENT ON VIEW sentinai.outbox IS
	'All that has been emitted and not yet truncated, published or not: compare id with outbox_watermark.';
DO $$
DECLARE
	said	record;
BEGIN
	FOR said IN
		SELECT a.attname, pg_catalog.col_description(a.attrelid, a.attnum) AS text
		  FROM pg_catalog.pg_attribute a WHERE a.attrelid = 'sentinai.outbox_0'::pg_catalog.regclass AND a.attnum > 0
	LOOP
		EXECUTE pg_catalog.format('COMMENT ON COLUMN sentinai.outbox.%I IS %L', said.attname, said.text);
		EXECUTE pg_catalog.format('COMMENT ON COLUMN sentinai.outbox_blocked.%I IS %L', said.attname, said.text);
	END LOOP;
END
$$;

-- Made at activation, not by this script: a row of the script's would collide with the dumped one at a restore.
CREATE TABLE sentinai.outbox_state (
	only_row	boolean PRIMARY KEY DEFAULT true CHECK (only_row),
	current		smallint NOT NULL DEFAULT 0 CHECK (current BETWEEN 0 AND 2),
	drained_id	bigint,
	rotated_at	timestamptz NOT NULL DEFAULT now(),
	aside_at	timestamptz
) WITH (fillfactor = 50);
COMMENT ON TABLE sentinai.outbox_state IS 'One row: which of the three tables of the outbox is written to.';
COMMENT ON COLUMN sentinai.outbox_state.only_row IS 'Always true.';
COMMENT ON COLUMN sentinai.outbox_state.current IS 'Number of the table that is written to.';
COMMENT ON COLUMN sentinai.outbox_state.drained_id IS
	'Last id given when the present table had become visible as current: a transaction whose first id is above it does not write to another table. NULL: not read yet.';
COMMENT ON COLUMN sentinai.outbox_state.rotated_at IS 'When current changed last.';
COMMENT ON COLUMN sentinai.outbox_state.aside_at IS
	'Rows have been moved to outbox_blocked before this: no table is truncated before every older snapshot is gone, which would find them nowhere. infinity: when is still to be noted; NULL: no such snapshot is left.';
SELECT pg_catalog.pg_extension_config_dump('sentinai.outbox_state', '');

CREATE TABLE sentinai.outbox_watermark (
	topic		text COLLATE "C" PRIMARY KEY,
	id			bigint NOT NULL,
	updated_at	timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 20);
COMMENT ON TABLE sentinai.outbox_watermark IS 'Up to where each topic has been published: every row of the topic up to this id is in Kafka.';
COMMENT ON COLUMN sentinai.outbox_watermark.topic IS 'Kafka topic.';
COMMENT ON COLUMN sentinai.outbox_watermark.id IS 'Id of the last published row of the topic.';
COMMENT ON COLUMN sentinai.outbox_watermark.updated_at IS 'When the publisher advanced it last.';
SELECT pg_catalog.pg_extension_config_dump('sentinai.outbox_watermark', '');

-- What was refused for good. Ids are those that the rows had in the outbox.
CREATE TABLE sentinai.outbox_failed (
	id				bigint PRIMARY KEY,
	topic			text COLLATE "C" NOT NULL,
	partition		integer,
	record_key		bytea,
	record_headers	sentinai.header[],
	record_value	bytea,
	tenant_id		text COLLATE "C",
	event_id		text COLLATE "C",
	event_type		text COLLATE "C",
	error			text COLLATE "C" NOT NULL,
	message			text NOT NULL,
	created_at		timestamptz NOT NULL,
	failed_at		timestamptz NOT NULL DEFAULT now(),
	discarded_at	timestamptz,
	discarded_by	text,
	discarded_authenticated	text,
	discard_reason	text,
	CONSTRAINT outbox_failed_discard CHECK ((discarded_at IS NULL) = (discarded_by IS NULL))
);
CREATE INDEX outbox_failed_open ON sentinai.outbox_failed (topic, id) WHERE discarded_at IS NULL;
CREATE INDEX outbox_failed_event ON sentinai.outbox_failed (tenant_id, event_id);
COMMENT ON TABLE sentinai.outbox_failed IS
	'Records that Kafka refused for good, whole, so that those behind them could go on. outbox_failed_retry() puts one back at the end of the outbox, outbox_failed_discard() closes it. A dead letter''s retry does not come here: it goes back to pending.';
COMMENT ON COLUMN sentinai.outbox_failed.id IS 'Id that it had in the outbox.';
COMMENT ON COLUMN sentinai.outbox_failed.topic IS 'Topic that refused it.';
COMMENT ON COLUMN sentinai.outbox_failed.partition IS 'Kafka partition; NULL: the partitioner decides by key.';
COMMENT ON COLUMN sentinai.outbox_failed.record_key IS 'The record''s key; NULL: none.';
COMMENT ON COLUMN sentinai.outbox_failed.record_headers IS 'The record''s headers, in order.';
COMMENT ON COLUMN sentinai.outbox_failed.record_value IS 'The record''s value; NULL: a tombstone.';
COMMENT ON COLUMN sentinai.outbox_failed.tenant_id IS 'Tenant of the event; NULL where there is none.';
COMMENT ON COLUMN sentinai.outbox_failed.event_id IS 'Id of the event.';
COMMENT ON COLUMN sentinai.outbox_failed.event_type IS 'Type of the event.';
COMMENT ON COLUMN sentinai.outbox_failed.error IS 'Kafka''s name of the error, such as MSG_SIZE_TOO_LARGE.';
COMMENT ON COLUMN sentinai.outbox_failed.message IS 'The error in words.';
COMMENT ON COLUMN sentinai.outbox_failed.created_at IS 'Start of the transaction that emitted it.';
COMMENT ON COLUMN sentinai.outbox_failed.failed_at IS 'When it was refused.';
COMMENT ON COLUMN sentinai.outbox_failed.discarded_at IS 'When it was discarded; NULL: it waits for a decision.';
COMMENT ON COLUMN sentinai.outbox_failed.discarded_by IS 'Who discarded it, as they said; else their login.';
COMMENT ON COLUMN sentinai.outbox_failed.discarded_authenticated IS 'Who was authenticated then: caller_identity().';
COMMENT ON COLUMN sentinai.outbox_failed.discard_reason IS 'Why.';
SELECT pg_catalog.pg_extension_config_dump('sentinai.outbox_failed', '');

-- ---- writing ----

CREATE FUNCTION sentinai.outbox_add(topic text, partition integer, key bytea, headers sentinai.header[], value bytea,
		tenant_id text DEFAULT NULL, event_id text DEFAULT NULL, event_type text DEFAULT NULL,
		dlq_id bigint DEFAULT NULL, dlq_token uuid DEFAULT NULL) RETURNS bigint
	LANGUAGE c VOLATILE
	AS 'MODULE_PATHNAME', 'sn_outbox_add';
COMMENT ON FUNCTION sentinai.outbox_add(text, integer, bytea, sentinai.header[], bytea, text, text, text, bigint, uuid) IS
	'Internal: appends a record to the outbox, published after commit as it stands; partition NULL: by key. Returns its id. From then on the transaction holds the outbox until it ends, and cannot be prepared. Raises SN014 where the database is not active.';

-- ---- reading ----

CREATE FUNCTION sentinai.outbox_lock() RETURNS boolean
	LANGUAGE c VOLATILE
	AS 'MODULE_PATHNAME', 'sn_outbox_lock';
COMMENT ON FUNCTION sentinai.outbox_lock() IS
	'Tries to make this session the active publisher of the database, until the session ends; sets its cursor back to the watermarks. False: another session is.';

CREATE FUNCTION sentinai.outbox_locked() RETURNS boolean
	LANGUAGE c VOLATILE
	AS 'MODULE_PATHNAME', 'sn_outbox_locked';
COMMENT ON FUNCTION sentinai.outbox_locked() IS 'True in the session that is the active publisher.';

CREATE FUNCTION sentinai.outbox_rewind() RETURNS void
	LANGUAGE c VOLATILE
	AS 'MODULE_PATHNAME', 'sn_outbox_rewind';
COMMENT ON FUNCTION sentinai.outbox_rewind() IS
	'The next outbox_read() of this session begins at the watermarks again. Call it after an error, and when what was read will not be acknowledged.';

-- The planner knows nothing of tables that are empty one minute and full the next: the order comes from the indexes.
CREATE FUNCTION sentinai.outbox_read(max_rows integer, max_bytes integer, skip_topics text[] DEFAULT '{}')
	RETURNS TABLE (id bigint, topic text, partition integer, key bytea, headers bytea, value bytea, dlq_id bigint, dlq_token uuid)
	LANGUAGE c VOLATILE STRICT SECURITY DEFINER ROWS 1000
	SET search_path = pg_catalog, sentinai, pg_temp
	SET enable_seqscan = off
	SET enable_bitmapscan = off
	SET enable_sort = off
	AS 'MODULE_PATHNAME', 'sn_outbox_read';
COMMENT ON FUNCTION sentinai.outbox_read(integer, integer, text[]) IS
	'The next rows to publish, in id order: below every id that an open transaction may still add, above each topic''s watermark, on from where this session''s last read ended. Rows of skip_topics are passed: outbox_rewind() comes back to them. At most max_rows rows; ends after the row that reaches max_bytes (values and headers). headers are packed as in include/sentinai_wire.h, NULL: none. Needs READ COMMITTED (SN013).';

CREATE FUNCTION sentinai.outbox_unpublished(upto bigint) RETURNS boolean
	LANGUAGE sql VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	SELECT EXISTS (
		SELECT FROM sentinai.outbox o
		 WHERE o.id <= upto
		   AND o.id > coalesce((SELECT w.id FROM sentinai.outbox_watermark w WHERE w.topic = o.topic), 0))
$$;
COMMENT ON FUNCTION sentinai.outbox_unpublished(bigint) IS
	'Internal: there are rows with ids up to upto above their topic''s watermark.';

CREATE PROCEDURE sentinai.outbox_wait(timeout_ms integer)
	LANGUAGE c
	AS 'MODULE_PATHNAME', 'sn_outbox_wait';
COMMENT ON PROCEDURE sentinai.outbox_wait(integer) IS
	'Returns as soon as there may be something for outbox_read(), or after timeout_ms milliseconds. Holds no snapshot while it waits; not inside a transaction block (SN013).';

CREATE FUNCTION sentinai.outbox_refuse(ids bigint[], errors text[], messages text[]) RETURNS void
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
DECLARE
	refused	record;
BEGIN
	FOR refused IN
		SELECT o.dlq_id, o.dlq_token, format('%s (%s, topic %s)', r.message, r.error, o.topic) AS text
		  FROM unnest(ids, errors, messages) AS r (id, error, message) JOIN sentinai.outbox o USING (id)
		 WHERE o.dlq_id IS NOT NULL ORDER BY o.dlq_id
	LOOP
		PERFORM FROM sentinai.dead_letter_queue d WHERE d.id = refused.dlq_id AND d.retry_token = refused.dlq_token FOR UPDATE;
		IF FOUND THEN
			PERFORM sentinai.dlq_retry_refused(refused.dlq_id, refused.text);
		END IF;
	END LOOP;
	INSERT INTO sentinai.outbox_failed (id, topic, partition, record_key, record_headers, record_value, tenant_id, event_id, event_type,
										error, message, created_at)
	SELECT o.id, o.topic, o.partition, o.key, o.headers, o.value, o.tenant_id, o.event_id, o.event_type, r.error, r.message, o.created_at
	  FROM unnest(ids, errors, messages) AS r (id, error, message) JOIN sentinai.outbox o USING (id)
	 WHERE o.dlq_id IS NULL AND o.id > coalesce((SELECT w.id FROM sentinai.outbox_watermark w WHERE w.topic = o.topic), 0)
	ON CONFLICT DO NOTHING;
END
$$;
COMMENT ON FUNCTION sentinai.outbox_refuse(bigint[], text[], text[]) IS
	'Internal, of outbox_advance(): rows that Kafka refused for good go to outbox_failed; retries of dead letters fail, and those are pending again. Before the watermarks move.';

CREATE FUNCTION sentinai.outbox_advance(topics text[], ids bigint[], dlq_ids bigint[], tokens uuid[], receipt_topics text[],
		receipt_partitions integer[], receipt_offsets bigint[], refused_ids bigint[] DEFAULT '{}',
		refused_errors text[] DEFAULT '{}', refused_messages text[] DEFAULT '{}') RETURNS void
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
BEGIN
	IF NOT sentinai.outbox_locked() THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN018',
			MESSAGE = 'this session is not the active publisher',
			DETAIL = 'Only the session that holds the lock of outbox_lock() may say what has been published.',
			HINT = 'SELECT sentinai.outbox_lock() and read again from the watermarks.';
	END IF;
	INSERT INTO sentinai.dlq_receipt (dlq_id, token, topic, partition, kafka_offset)
	SELECT r.dlq_id, r.token, r.topic, r.partition, r.kafka_offset
	  FROM unnest(dlq_ids, tokens, receipt_topics, receipt_partitions, receipt_offsets)
		   AS r (dlq_id, token, topic, partition, kafka_offset)
	 ORDER BY r.token
	ON CONFLICT DO NOTHING;
	-- point: advance.receipts
	IF cardinality(refused_ids) > 0 THEN
		PERFORM sentinai.outbox_refuse(refused_ids, refused_errors, refused_messages);
		-- point: advance.refused
	END IF;
	INSERT INTO sentinai.outbox_watermark AS w (topic, id)
	SELECT n.topic, max(n.id) FROM unnest(topics, ids) AS n (topic, id) GROUP BY n.topic ORDER BY n.topic
	ON CONFLICT ON CONSTRAINT outbox_watermark_pkey DO UPDATE SET id = excluded.id, updated_at = excluded.updated_at
	 WHERE w.id < excluded.id;
	-- point: advance.moved
END
$$;
COMMENT ON FUNCTION sentinai.outbox_advance(text[], bigint[], bigint[], uuid[], text[], integer[], bigint[], bigint[], text[], text[]) IS
	'Notes what is in Kafka: for each topic the id up to which every row is delivered or refused for good, for retries of dead letters where their records lie, and the rows that were refused with name and text of Kafka''s error (arrays of equal length): these go to outbox_failed, or as a failed retry back to their dead letter. A watermark never goes back. Raises SN018 in a session that is not the active publisher.';

-- ---- what was refused ----

CREATE FUNCTION sentinai.outbox_failed_lock(id bigint) RETURNS sentinai.outbox_failed
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	#variable_conflict use_column
DECLARE
	failed	sentinai.outbox_failed;
BEGIN
	SELECT * INTO failed FROM sentinai.outbox_failed f WHERE f.id = $1 AND sentinai.tenant_visible(f.tenant_id) FOR UPDATE;
	IF NOT FOUND THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN011',
			MESSAGE = format('there is no failed record %s', $1),
			HINT = 'Table sentinai.outbox_failed lists them.';
	ELSIF failed.discarded_at IS NOT NULL THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN010',
			MESSAGE = format('failed record %s is closed', $1),
			DETAIL = format('%s discarded it at %s: %s', failed.discarded_by, failed.discarded_at, failed.discard_reason);
	END IF;
	RETURN failed;
END
$$;
COMMENT ON FUNCTION sentinai.outbox_failed_lock(bigint) IS
	'Internal: a failed record that waits for a decision, locked. Errors: SN010 it was discarded, SN011 there is none.';

CREATE FUNCTION sentinai.outbox_failed_retry(id bigint) RETURNS bigint
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	#variable_conflict use_column
DECLARE
	failed	sentinai.outbox_failed := sentinai.outbox_failed_lock($1);
BEGIN
	DELETE FROM sentinai.outbox_failed f WHERE f.id = $1;
	-- point: outbox_failed.taken
	RETURN sentinai.outbox_add(failed.topic, failed.partition, failed.record_key, failed.record_headers, failed.record_value,
							   failed.tenant_id, failed.event_id, failed.event_type);
END
$$;
COMMENT ON FUNCTION sentinai.outbox_failed_retry(bigint) IS
	'Puts a record that Kafka refused back at the end of the outbox, as it was, and returns its new id: what came after it has overtaken it. Errors: SN010 it was discarded, SN011 there is none, SN014 the database is not active.';

CREATE FUNCTION sentinai.outbox_failed_discard(id bigint, reason text, actor text DEFAULT NULL) RETURNS void
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	#variable_conflict use_column
BEGIN
	PERFORM sentinai.reason_check($2, format('outbox_failed_discard(%s, ''why'')', $1));
	PERFORM sentinai.outbox_failed_lock($1);
	UPDATE sentinai.outbox_failed f
	   SET discarded_at = now(), discarded_by = coalesce($3, sentinai.caller_identity()), discarded_authenticated = sentinai.caller_identity(), discard_reason = $2 WHERE f.id = $1;
END
$$;
COMMENT ON FUNCTION sentinai.outbox_failed_discard(bigint, text, text) IS
	'Closes a record that Kafka refused: it will not be sent, and the row stays as evidence. reason is required, actor is the login where NULL. Errors: SN001 no reason, SN010 it was discarded, SN011 there is none.';

-- ---- who holds it up ----

CREATE FUNCTION sentinai.outbox_horizon(OUT last_id bigint, OUT first_open bigint)
	LANGUAGE c VOLATILE
	AS 'MODULE_PATHNAME', 'sn_outbox_horizon';
COMMENT ON FUNCTION sentinai.outbox_horizon() IS
	'Internal: the last id given, and the smallest first id of an open transaction that has emitted: NULL if there is none, 0 if one is about to take its first.';

CREATE FUNCTION sentinai.outbox_slots() RETURNS TABLE (pid integer, first_id bigint, since timestamptz)
	LANGUAGE c VOLATILE
	AS 'MODULE_PATHNAME', 'sn_outbox_slots';
COMMENT ON FUNCTION sentinai.outbox_slots() IS 'Internal: the open transactions of this database that have emitted.';

CREATE FUNCTION sentinai.outbox_holders()
	RETURNS TABLE (pid integer, since timestamptz, application text, user_name text, state text, idle_since timestamptz,
				   first_id bigint)
	LANGUAGE sql VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	SELECT s.pid, s.since, a.application_name, a.usename::text, a.state,
		   CASE WHEN a.state LIKE 'idle in transaction%' THEN a.state_change END, s.first_id
	  FROM sentinai.outbox_slots() s
	  JOIN pg_catalog.pg_stat_activity a ON a.pid = s.pid
	 ORDER BY s.since
$$;
COMMENT ON FUNCTION sentinai.outbox_holders() IS
	'Open transactions that have emitted, oldest first: rows from first_id on wait for them. since: their first emission. One that is idle longer than sentinai.emit_idle_timeout is ended by maintenance.';

-- ---- duties of the maintenance worker ----

CREATE FUNCTION sentinai.outbox_idle_end() RETURNS text
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
DECLARE
	idle_timeout	interval := current_setting('sentinai.emit_idle_timeout')::interval;
	holder			record;
BEGIN
	IF idle_timeout = interval '0' THEN
		RETURN NULL;
	END IF;
	FOR holder IN
		SELECT h.pid, h.application, h.idle_since FROM sentinai.outbox_holders() h
		 WHERE h.idle_since < clock_timestamp() - idle_timeout
	LOOP
		RAISE LOG USING
			MESSAGE = format('ending session %s: its transaction has emitted events and is idle since %s', holder.pid, holder.idle_since),
			DETAIL = format('It holds up the outbox. Its application_name is "%s".', holder.application),
			HINT = 'sentinai.emit_idle_timeout sets how long that may last.';
		PERFORM pg_terminate_backend(holder.pid);
	END LOOP;
	RETURN NULL;
END
$$;
COMMENT ON FUNCTION sentinai.outbox_idle_end() IS
	'Duty: ends sessions whose transaction has emitted and has been idle for longer than sentinai.emit_idle_timeout. Returns NULL.';

CREATE FUNCTION sentinai.outbox_table_empty(number integer) RETURNS boolean
	LANGUAGE sql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	SELECT pg_relation_size(format('sentinai.outbox_%s', number)::regclass) = 0
$$;
COMMENT ON FUNCTION sentinai.outbox_table_empty(integer) IS
	'Internal: nothing has been written to this table of the outbox since it was truncated, aborted rows included.';

CREATE FUNCTION sentinai.outbox_table_published(number integer) RETURNS boolean
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
DECLARE
	waiting	boolean;
BEGIN
	EXECUTE format(
		'SELECT EXISTS (SELECT FROM sentinai.outbox_%s o LEFT JOIN sentinai.outbox_watermark w USING (topic)'
		' WHERE o.id > coalesce(w.id, 0))', number) INTO waiting;
	RETURN NOT waiting;
END
$$;
COMMENT ON FUNCTION sentinai.outbox_table_published(integer) IS
	'Internal: every row of this table of the outbox that can be seen is published.';

-- A writer fills its slot, then reads outbox_state.current by the newest snapshot. drained_id is read after the change of
-- current was committed, so whoever wrote to an older table has a first id up to it, or has ended and is visible.
CREATE FUNCTION sentinai.outbox_truncate(number integer) RETURNS text
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
BEGIN
	IF sentinai.outbox_table_published(number) THEN
		EXECUTE format('LOCK TABLE sentinai.outbox_%s IN ACCESS EXCLUSIVE MODE NOWAIT', number);
		EXECUTE format('TRUNCATE sentinai.outbox_%s', number);
		-- point: outbox.truncated
	END IF;
	RETURN NULL;
EXCEPTION WHEN lock_not_available THEN
	RETURN format('table outbox_%s could not be truncated: somebody reads it', number);
END
$$;
COMMENT ON FUNCTION sentinai.outbox_truncate(integer) IS
	'Internal: truncates a table of the outbox that nobody writes to any more, if all of it is published and nobody reads it. Returns NULL, or why it could not.';

-- What is moved can be found by every later snapshot in its new place. An older one finds it in the old place, until that
-- is truncated: see outbox_aside_seen().
CREATE FUNCTION sentinai.outbox_set_aside(number integer, since timestamptz) RETURNS void
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
DECLARE
	going_on	boolean;
BEGIN
	EXECUTE format(
		'SELECT EXISTS (SELECT FROM sentinai.outbox_%s o JOIN sentinai.outbox_watermark w USING (topic)'
		' WHERE o.id > w.id AND w.updated_at >= $1)', number) INTO going_on USING since;
	-- No topic that goes on elsewhere: nobody publishes, or Kafka is away. The backlog lies as well where it is.
	IF going_on OR NOT EXISTS (SELECT FROM sentinai.outbox_watermark w WHERE w.updated_at >= since) THEN
		RETURN;
	END IF;
	EXECUTE format(
		'WITH moved AS ('
		' DELETE FROM sentinai.outbox_%s o'
		'  WHERE o.id > coalesce((SELECT w.id FROM sentinai.outbox_watermark w WHERE w.topic = o.topic), 0) RETURNING o.*)'
		' INSERT INTO sentinai.outbox_blocked SELECT m.* FROM moved m ORDER BY m.id', number);
	-- point: outbox.set_aside
	UPDATE sentinai.outbox_state SET aside_at = 'infinity';
END
$$;
COMMENT ON FUNCTION sentinai.outbox_set_aside(integer, timestamptz) IS
	'Internal: what is unpublished of this table of the outbox moves to outbox_blocked, if all of it is of topics that have taken nothing since then, and others have.';

CREATE FUNCTION sentinai.outbox_aside_seen() RETURNS boolean
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
DECLARE
	aside	timestamptz := (SELECT s.aside_at FROM sentinai.outbox_state s);
BEGIN
	IF aside IS NULL THEN
		RETURN true;
	ELSIF aside = 'infinity' THEN
		UPDATE sentinai.outbox_state SET aside_at = clock_timestamp();
		RETURN false;
	ELSIF EXISTS (SELECT FROM pg_stat_activity a
				   WHERE a.datname = current_database() AND a.backend_xmin IS NOT NULL AND a.xact_start <= aside) THEN
		RETURN false;
	END IF;
	UPDATE sentinai.outbox_state SET aside_at = NULL;
	RETURN true;
END
$$;
COMMENT ON FUNCTION sentinai.outbox_aside_seen() IS
	'Internal: no snapshot, such as a dump''s, is left that is older than the move of rows to outbox_blocked.';

CREATE FUNCTION sentinai.outbox_rotate(force boolean DEFAULT false) RETURNS text
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
DECLARE
	rotation_period	interval := current_setting('sentinai.outbox_rotation_period')::interval;
	state			sentinai.outbox_state;
	horizon			record;
	drained			boolean;
	following		integer;
	failed			text;
BEGIN
	PERFORM sentinai.check_read_committed('outbox_rotate');
	SELECT * INTO state FROM sentinai.outbox_state FOR UPDATE;
	IF NOT FOUND THEN
		RETURN NULL;
	END IF;
	DELETE FROM sentinai.outbox_blocked b USING sentinai.outbox_watermark w WHERE w.topic = b.topic AND b.id <= w.id;
	SELECT * INTO horizon FROM sentinai.outbox_horizon();
	IF state.drained_id IS NULL THEN
		UPDATE sentinai.outbox_state SET drained_id = horizon.last_id;
		RETURN NULL;
	END IF;

	drained := horizon.first_open IS NULL OR horizon.first_open > state.drained_id;
	IF drained AND sentinai.outbox_aside_seen() THEN
		FOR number IN 0 .. 2 LOOP
			IF number <> state.current AND NOT sentinai.outbox_table_empty(number) THEN
				failed := coalesce(failed, sentinai.outbox_truncate(number));
			END IF;
		END LOOP;
	END IF;

	following := (state.current + 1) % 3;
	IF (force OR state.rotated_at < clock_timestamp() - rotation_period)
	   AND NOT sentinai.outbox_table_empty(state.current)
	THEN
		IF sentinai.outbox_table_empty(following) THEN
			UPDATE sentinai.outbox_state SET current = following, drained_id = NULL, rotated_at = clock_timestamp();
			-- point: outbox.rotated
		ELSIF drained AND NOT sentinai.outbox_table_published(following) THEN
			PERFORM sentinai.outbox_set_aside(following, state.rotated_at);
		END IF;
	END IF;
	RETURN failed;
END
$$;
COMMENT ON FUNCTION sentinai.outbox_rotate(boolean) IS
	'Duty: truncates tables of the outbox whose turn is over and that are published, and gives the next table its turn after sentinai.outbox_rotation_period, or at once with force. Where that table is kept by topics that take nothing while others do, their rows move to outbox_blocked; what is published there goes. Waits for nobody. Returns NULL, or why something was left.';
