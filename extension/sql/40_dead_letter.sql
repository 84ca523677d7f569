-- 40_dead_letter: what could not be handled, whole, until somebody decides.

CREATE TABLE sentinai.dead_letter_queue (
	id				bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	event_id		text COLLATE "C",
	event_type		text COLLATE "C",
	tenant_id		text COLLATE "C" NOT NULL,
	exception_id	text COLLATE "C",
	worker_type		text COLLATE "C" NOT NULL,
	step			text COLLATE "C" NOT NULL CHECK (step IN ('screen', 'handle')),
	status			text COLLATE "C" NOT NULL DEFAULT 'pending'
					CHECK (status IN ('pending', 'retrying', 'succeeded', 'discarded')),
	error_type		text COLLATE "C" NOT NULL,
	error_message	text NOT NULL,
	error_detail	text,
	sqlstate		text,
	fingerprint		text COLLATE "C" NOT NULL,
	retry_count		integer NOT NULL DEFAULT 0,
	original_topic	text COLLATE "C" NOT NULL,
	original_partition	integer,
	original_offset	bigint,
	payload			jsonb,
	event_metadata	jsonb,
	event_timestamp	timestamptz,
	record_ts		timestamptz,
	payload_raw		bytea,
	record_key		bytea,
	record_headers	sentinai.header[],
	retry_token		uuid,
	reassigned		boolean NOT NULL DEFAULT false,
	created_at		timestamptz NOT NULL DEFAULT now(),
	updated_at		timestamptz NOT NULL DEFAULT now(),
	retried_at		timestamptz,
	discarded_at	timestamptz,
	discarded_by	text,
	CONSTRAINT dead_letter_queue_attempt CHECK ((status = 'retrying') = (retry_token IS NOT NULL))
);
CREATE INDEX dead_letter_queue_tenant ON sentinai.dead_letter_queue (tenant_id, status, created_at, id);
CREATE INDEX dead_letter_queue_created ON sentinai.dead_letter_queue (tenant_id, created_at, id);
CREATE INDEX dead_letter_queue_event ON sentinai.dead_letter_queue (tenant_id, event_id, worker_type);
CREATE INDEX dead_letter_queue_retrying ON sentinai.dead_letter_queue (id) WHERE status = 'retrying';
SELECT pg_catalog.pg_extension_config_dump('sentinai.dead_letter_queue', '');
SELECT pg_catalog.pg_extension_config_dump('sentinai.dead_letter_queue_id_seq', '');

COMMENT ON TABLE sentinai.dead_letter_queue IS
	'Events that could not be handled, with their records as they came. dlq_retry(), dlq_discard() and their like change the status; an UPDATE of it meets the same rules. DELETE and TRUNCATE are allowed at any time, in the middle of a retry too. Columns with payloads, records, keys and headers are the admin''s: for others SELECT * is 42501, and dlq_list(), dlq_get() and dlq_record() show what they may see.';
COMMENT ON COLUMN sentinai.dead_letter_queue.id IS 'What the dlq_ functions call a dead letter by.';
COMMENT ON COLUMN sentinai.dead_letter_queue.event_id IS 'The event; NULL: the record has none that could be read.';
COMMENT ON COLUMN sentinai.dead_letter_queue.event_type IS 'Its type; NULL: none that could be read.';
COMMENT ON COLUMN sentinai.dead_letter_queue.tenant_id IS 'Whose it is; empty: no usable tenant, see dlq_reassign().';
COMMENT ON COLUMN sentinai.dead_letter_queue.exception_id IS 'Its exception; NULL: none.';
COMMENT ON COLUMN sentinai.dead_letter_queue.worker_type IS 'The worker type that could not handle it.';
COMMENT ON COLUMN sentinai.dead_letter_queue.step IS
	'screen: refused before any handler saw it, a retry goes to all worker types. handle: the handler failed, a retry is this worker type''s alone.';
COMMENT ON COLUMN sentinai.dead_letter_queue.status IS
	'pending: waits for a decision. retrying: a retry is under way. succeeded, discarded: closed. dlq_transitions() lists what may follow what.';
COMMENT ON COLUMN sentinai.dead_letter_queue.error_type IS 'Of the newest failure: the condition name of its SQLSTATE, what fail() was given, or one of ours.';
COMMENT ON COLUMN sentinai.dead_letter_queue.error_message IS 'Of the newest failure.';
COMMENT ON COLUMN sentinai.dead_letter_queue.error_detail IS 'Of the newest failure; NULL: none.';
COMMENT ON COLUMN sentinai.dead_letter_queue.sqlstate IS 'Of the newest failure; NULL: it has none.';
COMMENT ON COLUMN sentinai.dead_letter_queue.fingerprint IS 'Equal for failures of one cause, see dlq_fingerprint() and dlq_groups().';
COMMENT ON COLUMN sentinai.dead_letter_queue.retry_count IS 'Automatic retries before it came here, and failed retries since.';
COMMENT ON COLUMN sentinai.dead_letter_queue.original_topic IS 'The topic it came from, and a retry goes to.';
COMMENT ON COLUMN sentinai.dead_letter_queue.original_partition IS 'The partition it came from, and a retry goes to; NULL: by key.';
COMMENT ON COLUMN sentinai.dead_letter_queue.original_offset IS 'The offset it came from.';
COMMENT ON COLUMN sentinai.dead_letter_queue.payload IS 'The event''s payload; NULL: could not be read.';
COMMENT ON COLUMN sentinai.dead_letter_queue.event_metadata IS 'The event''s metadata; NULL: none.';
COMMENT ON COLUMN sentinai.dead_letter_queue.event_timestamp IS 'When it happened, as the event says; NULL: could not be read.';
COMMENT ON COLUMN sentinai.dead_letter_queue.record_ts IS 'The record''s time, from the broker.';
COMMENT ON COLUMN sentinai.dead_letter_queue.payload_raw IS 'The record''s value, byte by byte; NULL: a tombstone.';
COMMENT ON COLUMN sentinai.dead_letter_queue.record_key IS 'The record''s key; NULL: none.';
COMMENT ON COLUMN sentinai.dead_letter_queue.record_headers IS 'The record''s headers, in order.';
COMMENT ON COLUMN sentinai.dead_letter_queue.retry_token IS 'Token of the retry under way, as in the retry''s record; NULL: none is.';
COMMENT ON COLUMN sentinai.dead_letter_queue.reassigned IS 'It got another tenant by dlq_reassign(): retries stay in the database, since the record names the old one.';
COMMENT ON COLUMN sentinai.dead_letter_queue.created_at IS 'When it came here.';
COMMENT ON COLUMN sentinai.dead_letter_queue.updated_at IS 'When the row changed last.';
COMMENT ON COLUMN sentinai.dead_letter_queue.retried_at IS 'When the newest retry began; NULL: never.';
COMMENT ON COLUMN sentinai.dead_letter_queue.discarded_at IS 'When it was discarded; NULL: it was not.';
COMMENT ON COLUMN sentinai.dead_letter_queue.discarded_by IS 'Who discarded it, as they said; else their login.';

-- Every step of a dead letter's life, kept after the dead letter is gone: no foreign key refers to it.
CREATE TABLE sentinai.dlq_history (
	id				bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	dlq_id			bigint NOT NULL,
	tenant_id		text COLLATE "C" NOT NULL,
	action			text COLLATE "C" NOT NULL
					CHECK (action IN ('dead_lettered', 'retry', 'replay_succeeded', 'replay_failed', 'retry_lost', 'discard',
									  'reassign', 'by_hand', 'deleted', 'truncated')),
	from_status		text COLLATE "C",
	to_status		text COLLATE "C",
	token			uuid,
	reason			text,
	actor			text,
	authenticated	text NOT NULL DEFAULT sentinai.caller_identity(),
	details			jsonb,
	created_at		timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX dlq_history_dlq ON sentinai.dlq_history (dlq_id, id);
CREATE INDEX dlq_history_time ON sentinai.dlq_history (created_at);
CREATE INDEX dlq_history_gone ON sentinai.dlq_history (tenant_id, (details->>'event_id'))
	WHERE action IN ('deleted', 'truncated');
SELECT pg_catalog.pg_extension_config_dump('sentinai.dlq_history', '');
SELECT pg_catalog.pg_extension_config_dump('sentinai.dlq_history_id_seq', '');

COMMENT ON TABLE sentinai.dlq_history IS
	'Every step of every dead letter''s life, written by triggers. It stays when the dead letter is deleted: that is how the record of an old retry is still known as one.';
COMMENT ON COLUMN sentinai.dlq_history.id IS 'In the order in which it was written.';
COMMENT ON COLUMN sentinai.dlq_history.dlq_id IS 'The dead letter, gone or not.';
COMMENT ON COLUMN sentinai.dlq_history.tenant_id IS 'Its tenant at that time; of a reassign there are two rows: the one that it leaves, and the one that gets it.';
COMMENT ON COLUMN sentinai.dlq_history.action IS
	'dead_lettered: it came here. retry: a retry began. replay_succeeded, replay_failed: it ended. retry_lost: it can''t end any more. discard, reassign: by those functions. by_hand: an UPDATE of the status. deleted, truncated: the row is gone.';
COMMENT ON COLUMN sentinai.dlq_history.from_status IS 'Status before; NULL: there was none.';
COMMENT ON COLUMN sentinai.dlq_history.to_status IS 'Status after; NULL: the row is gone.';
COMMENT ON COLUMN sentinai.dlq_history.token IS 'The retry that this is about; NULL: about none.';
COMMENT ON COLUMN sentinai.dlq_history.reason IS 'Why, as the caller said.';
COMMENT ON COLUMN sentinai.dlq_history.actor IS 'Who, as the caller said.';
COMMENT ON COLUMN sentinai.dlq_history.authenticated IS 'Who, as the server knows: the login.';
COMMENT ON COLUMN sentinai.dlq_history.details IS 'The failure (error_type, sqlstate, error_message), whose retry it is (worker_type, step), or what is gone (event_id, event_type, worker_type, error_type).';
COMMENT ON COLUMN sentinai.dlq_history.created_at IS 'When.';

-- Where a retry's record lies in Kafka: written by the publisher with its watermark.
CREATE TABLE sentinai.dlq_receipt (
	dlq_id			bigint NOT NULL,
	token			uuid PRIMARY KEY,
	topic			text COLLATE "C" NOT NULL,
	partition		integer NOT NULL,
	kafka_offset	bigint NOT NULL,
	created_at		timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX dlq_receipt_dlq ON sentinai.dlq_receipt (dlq_id);
SELECT pg_catalog.pg_extension_config_dump('sentinai.dlq_receipt', '');

COMMENT ON TABLE sentinai.dlq_receipt IS
	'Where the records of retries lie in Kafka. Written by outbox_advance(); what is no longer under way goes with dlq_lost_check().';
COMMENT ON COLUMN sentinai.dlq_receipt.dlq_id IS 'The dead letter.';
COMMENT ON COLUMN sentinai.dlq_receipt.token IS 'The retry.';
COMMENT ON COLUMN sentinai.dlq_receipt.topic IS 'Topic of its record.';
COMMENT ON COLUMN sentinai.dlq_receipt.partition IS 'Partition of its record.';
COMMENT ON COLUMN sentinai.dlq_receipt.kafka_offset IS 'Offset of its record.';
COMMENT ON COLUMN sentinai.dlq_receipt.created_at IS 'When the publisher learned it.';

-- ---- failures of one cause ----

CREATE FUNCTION sentinai.dlq_message_pattern(message text) RETURNS text
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
	AS 'MODULE_PATHNAME', 'sn_dlq_message_pattern';
COMMENT ON FUNCTION sentinai.dlq_message_pattern(text) IS
	'An error message without its literals: numbers, quoted texts, UUIDs and hexadecimal words are ?. A quoted name behind a word such as relation or constraint stays. At most 500 bytes.';

CREATE FUNCTION sentinai.dlq_fingerprint(error_type text, sqlstate text, error_message text, event_type text, worker_type text)
	RETURNS text
	LANGUAGE c IMMUTABLE PARALLEL SAFE
	AS 'MODULE_PATHNAME', 'sn_dlq_fingerprint';
COMMENT ON FUNCTION sentinai.dlq_fingerprint(text, text, text, text, text) IS
	'Sixteen hexadecimal digits over the error type, SQLSTATE, dlq_message_pattern() of the message, event type and worker type: equal for failures of one cause. NULL counts as empty.';

-- ---- the states ----

CREATE FUNCTION sentinai.dlq_transitions(OUT from_status text, OUT to_status text, OUT by_hand boolean)
	RETURNS SETOF record
	LANGUAGE c IMMUTABLE PARALLEL SAFE
	AS 'MODULE_PATHNAME', 'sn_dlq_transitions';
COMMENT ON FUNCTION sentinai.dlq_transitions() IS
	'All changes of status that there are. by_hand: an UPDATE of dead_letter_queue.status may do it, too. Any other is refused with SN010.';

-- What waits in the database as a retry of a dead letter goes with it; its key goes on, unless something else holds it.
CREATE FUNCTION sentinai.dlq_let_go(dlq_id bigint, tenant_id text, exception_id text, worker_type text, closed boolean)
	RETURNS void
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	#variable_conflict use_column
	DECLARE
		v_waited boolean;
		v_holder bigint;
	BEGIN
		DELETE FROM sentinai.event_pending p WHERE p.dlq_id = $1;
		v_waited := FOUND;
		SELECT k.dlq_id INTO v_holder FROM sentinai.key_state k
		 WHERE k.tenant_id = $2 AND k.exception_id = $3 AND k.worker_type = $4 FOR UPDATE;
		IF FOUND AND ((v_holder = $1 AND $5) OR (v_holder IS NULL AND v_waited)) THEN
			PERFORM sentinai.key_release($2, $3, $4);
		END IF;
	END
	$$;
COMMENT ON FUNCTION sentinai.dlq_let_go(bigint, text, text, text, boolean) IS
	'Called by the triggers of dead_letter_queue: takes a retry that waits in event_pending away, and lets the events parked behind a dead letter go on. closed: the dead letter is closed or gone.';

CREATE FUNCTION sentinai.dead_letter_guard() RETURNS trigger
	LANGUAGE c VOLATILE
	AS 'MODULE_PATHNAME', 'sn_dead_letter_guard';
COMMENT ON FUNCTION sentinai.dead_letter_guard() IS
	'Trigger: refuses changes of status that dlq_transitions() doesn''t have, and fills in what the new status demands.';

CREATE FUNCTION sentinai.dead_letter_changed() RETURNS trigger
	LANGUAGE c VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	AS 'MODULE_PATHNAME', 'sn_dead_letter_changed';
COMMENT ON FUNCTION sentinai.dead_letter_changed() IS 'Trigger: writes a change of status to dlq_history, and lets the key of a closed dead letter go on.';

CREATE TRIGGER guard BEFORE UPDATE ON sentinai.dead_letter_queue
	FOR EACH ROW EXECUTE FUNCTION sentinai.dead_letter_guard();
CREATE TRIGGER changed AFTER UPDATE ON sentinai.dead_letter_queue
	FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status) EXECUTE FUNCTION sentinai.dead_letter_changed();

CREATE FUNCTION sentinai.dead_letter_deleted() RETURNS trigger
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	BEGIN
		INSERT INTO sentinai.dlq_history (dlq_id, tenant_id, action, from_status, token, details)
		SELECT g.id, g.tenant_id, 'deleted', g.status, g.retry_token,
			   jsonb_strip_nulls(jsonb_build_object('event_id', g.event_id, 'event_type', g.event_type,
													'worker_type', g.worker_type, 'error_type', g.error_type))
		  FROM gone g ORDER BY g.id;
		PERFORM sentinai.dlq_let_go(g.id, g.tenant_id, g.exception_id, g.worker_type, true)
		   FROM (SELECT * FROM gone ORDER BY id) g WHERE g.exception_id IS NOT NULL OR g.status = 'retrying';
		DELETE FROM sentinai.dlq_receipt r USING gone g WHERE r.dlq_id = g.id;
		RETURN NULL;
	END
	$$;
COMMENT ON FUNCTION sentinai.dead_letter_deleted() IS
	'Trigger: writes deleted dead letters to dlq_history, and lets their keys go on. A retry that is under way will be a duplicate.';

CREATE TRIGGER deleted AFTER DELETE ON sentinai.dead_letter_queue REFERENCING OLD TABLE AS gone
	FOR EACH STATEMENT EXECUTE FUNCTION sentinai.dead_letter_deleted();

CREATE FUNCTION sentinai.dead_letter_truncated() RETURNS trigger
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	BEGIN
		INSERT INTO sentinai.dlq_history (dlq_id, tenant_id, action, from_status, token, details)
		SELECT g.id, g.tenant_id, 'truncated', g.status, g.retry_token,
			   jsonb_strip_nulls(jsonb_build_object('event_id', g.event_id, 'event_type', g.event_type,
													'worker_type', g.worker_type, 'error_type', g.error_type))
		  FROM sentinai.dead_letter_queue g ORDER BY g.id;
		-- Of the many that go only those have something to let go.
		PERFORM sentinai.dlq_let_go(g.dlq_id, g.tenant_id, g.exception_id, g.worker_type, true)
		   FROM (SELECT k.dlq_id, k.tenant_id, k.exception_id, k.worker_type FROM sentinai.key_state k WHERE k.dlq_id IS NOT NULL
				 UNION
				 SELECT p.dlq_id, p.tenant_id, p.exception_id, p.worker_type FROM sentinai.event_pending p WHERE p.dlq_id IS NOT NULL
				 ORDER BY 2, 3, 4) g;
		DELETE FROM sentinai.dlq_receipt;
		RETURN NULL;
	END
	$$;
COMMENT ON FUNCTION sentinai.dead_letter_truncated() IS
	'Trigger: writes dead letters that TRUNCATE takes to dlq_history, and lets their keys go on. Retries that are under way will be duplicates.';

CREATE TRIGGER truncated BEFORE TRUNCATE ON sentinai.dead_letter_queue
	FOR EACH STATEMENT EXECUTE FUNCTION sentinai.dead_letter_truncated();

-- ---- decisions ----

CREATE FUNCTION sentinai.dlq_retry(INOUT id bigint, reason text DEFAULT NULL, actor text DEFAULT NULL,
	OUT status text, OUT retry_token uuid, OUT retried_at timestamptz, OUT retry_count integer, OUT via text)
	LANGUAGE c VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	AS 'MODULE_PATHNAME', 'sn_dlq_retry';
COMMENT ON FUNCTION sentinai.dlq_retry(bigint, text, text) IS
	'Retries a pending dead letter once: its record goes to its original topic and partition as it came (via kafka), or, where it was reassigned, to event_pending (via database). reason, actor: for dlq_history. Returns the dead letter with the token of this retry. Errors: SN001 the reason is too long, SN010 it is not pending, SN011 there is none, SN012 an event of its identity waits already.';

CREATE FUNCTION sentinai.dlq_retry_batch(ids bigint[], reason text DEFAULT NULL, actor text DEFAULT NULL)
	RETURNS TABLE (id bigint, ok boolean, status text, sqlstate text, error text)
	LANGUAGE c VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	AS 'MODULE_PATHNAME', 'sn_dlq_retry_batch';
COMMENT ON FUNCTION sentinai.dlq_retry_batch(bigint[], text, text) IS
	'dlq_retry() of each id. One row an id, in the order of ids: ok, or the SQLSTATE and message of what would have been the error; a bad id fails none of the others.';

CREATE FUNCTION sentinai.dlq_replay(tenant_id text, reason text DEFAULT NULL, actor text DEFAULT NULL,
	OUT requested_count bigint, OUT updated_count bigint)
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	BEGIN
		SELECT count(*), count(*) FILTER (WHERE b.ok) INTO requested_count, updated_count
		  FROM sentinai.dlq_retry_batch(
				ARRAY(SELECT d.id FROM sentinai.dead_letter_queue d
					   WHERE d.tenant_id = sentinai.tenant_check($1) AND d.status = 'pending' ORDER BY d.id), $2, $3) b;
	END
	$$;
COMMENT ON FUNCTION sentinai.dlq_replay(text, text, text) IS
	'dlq_retry() of all pending dead letters of a tenant, in the order in which they came. Returns how many there were, and for how many a retry has begun. Error: 42501.';

CREATE FUNCTION sentinai.dlq_discard(INOUT id bigint, reason text, actor text DEFAULT NULL,
	OUT status text, OUT discarded_at timestamptz, OUT discarded_by text)
	LANGUAGE c VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	AS 'MODULE_PATHNAME', 'sn_dlq_discard';
COMMENT ON FUNCTION sentinai.dlq_discard(bigint, text, text) IS
	'Closes a pending dead letter without a retry; events parked behind it go on. reason is required, actor is the login where NULL; both go to dlq_history. Errors: SN001 no reason, or too long, SN010 it is not pending, SN011 there is none.';

CREATE FUNCTION sentinai.dlq_reassign(INOUT id bigint, INOUT tenant_id text, reason text DEFAULT NULL, actor text DEFAULT NULL,
	OUT status text)
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	#variable_conflict use_column
	DECLARE
		v_old sentinai.dead_letter_queue;
		v_tenant_status text;
	BEGIN
		PERFORM sentinai.reason_check($3);
		SELECT t.status INTO v_tenant_status FROM sentinai.tenant t WHERE t.tenant_id = $2;
		IF v_tenant_status IS NULL OR v_tenant_status = 'archived' THEN
			RAISE EXCEPTION USING ERRCODE = 'SN004',
				MESSAGE = format('tenant %L %s', $2, CASE WHEN v_tenant_status IS NULL THEN 'does not exist' ELSE 'is archived' END),
				HINT = 'SELECT * FROM sentinai.tenant_list() shows all tenants.';
		END IF;
		SELECT * INTO v_old FROM sentinai.dead_letter_queue d WHERE d.id = $1 FOR UPDATE;
		IF NOT FOUND THEN
			RAISE EXCEPTION USING ERRCODE = 'SN011', MESSAGE = format('there is no dead letter %s', $1),
				HINT = 'sentinai.dlq_list() lists them.';
		ELSIF v_old.status <> 'pending' THEN
			RAISE EXCEPTION USING ERRCODE = 'SN010', MESSAGE = format('dead letter %s can''t get another tenant', $1),
				DETAIL = format('Its status is %s; only a pending one can.', v_old.status),
				HINT = format('sentinai.dlq_history(%s) says since when.', $1);
		END IF;
		-- Nothing can be parked behind the dead letter of another tenant.
		PERFORM sentinai.dlq_let_go(v_old.id, v_old.tenant_id, v_old.exception_id, v_old.worker_type, true);
		UPDATE sentinai.dead_letter_queue d SET tenant_id = $2, reassigned = true WHERE d.id = $1;
		-- A row for the one that it leaves and one for the other: neither learns from its history who the other is.
		INSERT INTO sentinai.dlq_history (dlq_id, tenant_id, action, from_status, to_status, reason, actor)
		SELECT $1, t.tenant_id, 'reassign', v_old.status, v_old.status, $3, $4
		  FROM unnest(ARRAY[nullif(v_old.tenant_id, $2), $2]) WITH ORDINALITY AS t (tenant_id, n)
		 WHERE t.tenant_id IS NOT NULL ORDER BY t.n;
		status := v_old.status;
	END
	$$;
COMMENT ON FUNCTION sentinai.dlq_reassign(bigint, text, text, text) IS
	'Gives a pending dead letter a tenant, or another one; what the record says no longer counts, and its retries are handled in the database, by its own worker type. Errors: SN001 the reason is too long, SN004 there is no such tenant or it is archived, SN010 it is not pending, SN011 there is none.';

CREATE FUNCTION sentinai.dlq_purge(tenant_id text, older_than interval DEFAULT '30 days',
	statuses text[] DEFAULT '{succeeded,discarded}') RETURNS bigint
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	#variable_conflict use_column
	DECLARE
		v_deleted bigint;
	BEGIN
		IF NOT coalesce($3 <@ '{pending,succeeded,discarded}' AND array_length($3, 1) > 0 AND $2 >= '0', false) THEN
			RAISE EXCEPTION USING ERRCODE = 'SN001',
				MESSAGE = format('can''t purge dead letters of status %s older than %s', coalesce($3::text, 'NULL'), coalesce($2::text, 'NULL')),
				HINT = 'statuses may name pending, succeeded and discarded; older_than is not negative.';
		END IF;
		DELETE FROM sentinai.dead_letter_queue d
		 WHERE ($1 IS NULL OR d.tenant_id = $1) AND d.status = ANY ($3) AND d.updated_at <= now() - $2;
		GET DIAGNOSTICS v_deleted = ROW_COUNT;
		RETURN v_deleted;
	END
	$$;
COMMENT ON FUNCTION sentinai.dlq_purge(text, interval, text[]) IS
	'Deletes dead letters of a tenant (NULL: of all) whose rows have not changed for that long: closed ones, unless statuses says otherwise. Their history stays. Returns how many. Error: SN001 another status (retrying ones are never purged).';

-- ---- looking ----

CREATE TYPE sentinai.dlq_entry AS (
	id				bigint,
	event_id		text,
	event_type		text,
	tenant_id		text,
	exception_id	text,
	worker_type		text,
	step			text,
	status			text,
	error_type		text,
	error_message	text,
	error_detail	text,
	sqlstate		text,
	fingerprint		text,
	retry_count		integer,
	original_topic	text,
	original_partition	integer,
	original_offset	bigint,
	payload			jsonb,
	event_metadata	jsonb,
	event_timestamp	timestamptz,
	created_at		timestamptz,
	updated_at		timestamptz,
	retried_at		timestamptz,
	discarded_at	timestamptz,
	discarded_by	text
);
COMMENT ON TYPE sentinai.dlq_entry IS 'A dead letter as dlq_list() and dlq_get() show it: the columns of dead_letter_queue without the record''s bytes.';
DO $$
DECLARE
	c record;
BEGIN
	FOR c IN
		SELECT t.attname, pg_catalog.col_description(t.attrelid, t.attnum) AS text
		  FROM pg_catalog.pg_attribute e JOIN pg_catalog.pg_attribute t USING (attname)
		 WHERE e.attrelid = 'sentinai.dlq_entry'::pg_catalog.regclass
		   AND t.attrelid = 'sentinai.dead_letter_queue'::pg_catalog.regclass
	LOOP
		EXECUTE pg_catalog.format('COMMENT ON COLUMN sentinai.dlq_entry.%I IS %L', c.attname, c.text);
	END LOOP;
END
$$;
COMMENT ON COLUMN sentinai.dlq_entry.payload IS 'The event''s payload, masked (payload_mask_list()) for all but an admin; NULL for who is not a member of sentinai_payload.';
COMMENT ON COLUMN sentinai.dlq_entry.event_metadata IS 'The event''s metadata; NULL for who is not a member of sentinai_payload.';

-- One plan does for every array of ids; planning takes longer than the rest.
CREATE FUNCTION sentinai.dlq_entries(ids bigint[]) RETURNS SETOF sentinai.dlq_entry
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	SET plan_cache_mode = force_generic_plan
	AS $$
	BEGIN
		-- The payloads by a function of their own, which masks them: the columns themselves are the admin's.
		RETURN QUERY
			SELECT d.id, d.event_id::text, d.event_type::text, d.tenant_id::text, d.exception_id::text, d.worker_type::text,
				   d.step::text, d.status::text, d.error_type::text, d.error_message, d.error_detail, d.sqlstate,
				   d.fingerprint::text, d.retry_count, d.original_topic::text, d.original_partition, d.original_offset,
				   p.payload, p.event_metadata, d.event_timestamp, d.created_at, d.updated_at, d.retried_at,
				   d.discarded_at, d.discarded_by
			  FROM unnest($1) WITH ORDINALITY AS i(id, place) JOIN sentinai.dead_letter_queue d ON d.id = i.id
			  LEFT JOIN sentinai.dlq_payloads($1) p ON p.id = d.id
			 ORDER BY i.place;
	END
	$$;
COMMENT ON FUNCTION sentinai.dlq_entries(bigint[]) IS
	'Dead letters by id, in the order of the array; an id that is not there has no row. What dlq_list() and dlq_get() are made of.';

CREATE FUNCTION sentinai.dlq_list(tenant_id text DEFAULT NULL, status text DEFAULT NULL, event_type text DEFAULT NULL,
	worker_type text DEFAULT NULL, max_rows integer DEFAULT 100, skip_rows integer DEFAULT 0)
	RETURNS SETOF sentinai.dlq_entry
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	#variable_conflict use_column
	BEGIN
		IF $2 NOT IN ('pending', 'retrying', 'succeeded', 'discarded') THEN
			RAISE EXCEPTION USING ERRCODE = 'SN001', MESSAGE = format('%L is not a status of a dead letter', $2),
				HINT = 'A status is pending, retrying, succeeded or discarded; NULL lists all.';
		ELSIF $5 NOT BETWEEN 1 AND 1000 OR $6 < 0 THEN
			RAISE EXCEPTION USING ERRCODE = 'SN001', MESSAGE = format('can''t list %s dead letters behind %s', $5, $6),
				HINT = 'max_rows is 1 to 1000, skip_rows is not negative.';
		END IF;
		RETURN QUERY SELECT * FROM sentinai.dlq_entries(ARRAY(
			SELECT d.id FROM sentinai.dead_letter_queue d
			 WHERE ($1 IS NULL OR d.tenant_id = $1) AND ($2 IS NULL OR d.status = $2)
			   AND ($3 IS NULL OR d.event_type = $3) AND ($4 IS NULL OR d.worker_type = $4)
			 ORDER BY d.created_at DESC, d.id DESC LIMIT coalesce($5, 100) OFFSET coalesce($6, 0)));
	END
	$$;
COMMENT ON FUNCTION sentinai.dlq_list(text, text, text, text, integer, integer) IS
	'Dead letters, the newest first, of a tenant, status, event type and worker type, NULL for all. max_rows: 1 to 1000; skip_rows: how many of the newest to leave out. Error: SN001 a value out of its range.';

CREATE FUNCTION sentinai.dlq_get(id bigint) RETURNS sentinai.dlq_entry
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	#variable_conflict use_column
	DECLARE
		v_entry sentinai.dlq_entry;
	BEGIN
		SELECT * INTO v_entry FROM sentinai.dlq_entries(ARRAY[$1]);
		IF NOT FOUND THEN
			RAISE EXCEPTION USING ERRCODE = 'SN011', MESSAGE = format('there is no dead letter %s', $1),
				HINT = format('sentinai.dlq_list() lists them; sentinai.dlq_history(%s) says what became of it.', $1);
		END IF;
		RETURN v_entry;
	END
	$$;
COMMENT ON FUNCTION sentinai.dlq_get(bigint) IS 'One dead letter. Error: SN011 there is none of that id.';

CREATE FUNCTION sentinai.dlq_history(dlq_id bigint) RETURNS SETOF sentinai.dlq_history
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$ SELECT h.* FROM sentinai.dlq_history h WHERE h.dlq_id = $1 ORDER BY h.id $$;
COMMENT ON FUNCTION sentinai.dlq_history(bigint) IS 'Everything that has happened to a dead letter, gone or not, the oldest first.';

CREATE FUNCTION sentinai.dlq_stats(tenant_id text DEFAULT NULL, OUT total_entries bigint, OUT pending_count bigint,
	OUT retrying_count bigint, OUT discarded_count bigint, OUT succeeded_count bigint, OUT by_event_type jsonb,
	OUT by_worker_type jsonb)
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	WITH d AS (
		SELECT d.status, d.worker_type, coalesce(d.event_type, '') AS event_type, count(*) AS n
		  FROM sentinai.dead_letter_queue d WHERE $1 IS NULL OR d.tenant_id = $1 GROUP BY 1, 2, 3)
	SELECT coalesce(sum(n), 0)::bigint, coalesce(sum(n) FILTER (WHERE status = 'pending'), 0)::bigint,
		   coalesce(sum(n) FILTER (WHERE status = 'retrying'), 0)::bigint,
		   coalesce(sum(n) FILTER (WHERE status = 'discarded'), 0)::bigint,
		   coalesce(sum(n) FILTER (WHERE status = 'succeeded'), 0)::bigint,
		   (SELECT coalesce(jsonb_object_agg(e.event_type, e.n), '{}')
			  FROM (SELECT event_type, sum(n) AS n FROM d GROUP BY 1) e),
		   (SELECT coalesce(jsonb_object_agg(w.worker_type, w.n), '{}')
			  FROM (SELECT worker_type, sum(n) AS n FROM d GROUP BY 1) w)
	  FROM d
	$$;
COMMENT ON FUNCTION sentinai.dlq_stats(text) IS
	'Counts of a tenant''s dead letters (NULL: of all), by status, and objects with the counts by event type (empty: could not be read) and by worker type, all statuses together.';

CREATE FUNCTION sentinai.dlq_size() RETURNS TABLE (tenant_id text, size bigint)
	LANGUAGE sql STABLE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	SELECT CASE WHEN c.names THEN d.tenant_id ELSE coalesce(c.own, 'all') END, count(*)
	  FROM sentinai.dead_letter_queue d
	 CROSS JOIN (SELECT sentinai.caller_names_tenants() AS names, sentinai.current_tenant() AS own) c
	 WHERE d.status IN ('pending', 'retrying') AND (c.names OR c.own IS NULL OR d.tenant_id = c.own)
	 GROUP BY 1 ORDER BY 1
	$$;
COMMENT ON FUNCTION sentinai.dlq_size() IS
	'How many dead letters are open (pending or retrying), by tenant; tenants without any have no row. One who has a tenant sees its own, one who has none the sum, as all.';

CREATE FUNCTION sentinai.dlq_groups(tenant_id text DEFAULT NULL, statuses text[] DEFAULT '{pending,retrying}')
	RETURNS TABLE (fingerprint text, error_type text, sqlstate text, message_pattern text, event_type text, worker_type text,
		entries bigint, tenants bigint, first_seen timestamptz, last_seen timestamptz, sample_id bigint)
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	#variable_conflict use_column
	BEGIN
		IF NOT $2 <@ '{pending,retrying,succeeded,discarded}' THEN
			RAISE EXCEPTION USING ERRCODE = 'SN001', MESSAGE = format('%s are not statuses of a dead letter', $2),
				HINT = 'A status is pending, retrying, succeeded or discarded.';
		END IF;
		RETURN QUERY
			SELECT g.fingerprint::text, s.error_type::text, s.sqlstate, sentinai.dlq_message_pattern(s.error_message),
				   s.event_type::text, s.worker_type::text, g.entries, g.tenants, g.first_seen, g.last_seen, g.sample_id
			  FROM (SELECT d.fingerprint, count(*) AS entries, count(DISTINCT d.tenant_id) AS tenants, min(d.created_at) AS first_seen,
						   max(d.created_at) AS last_seen, max(d.id) AS sample_id
					  FROM sentinai.dead_letter_queue d
					 WHERE ($1 IS NULL OR d.tenant_id = $1) AND d.status = ANY ($2)
					 GROUP BY d.fingerprint) g
			  JOIN sentinai.dead_letter_queue s ON s.id = g.sample_id
			 ORDER BY g.entries DESC, g.last_seen DESC, g.fingerprint;
	END
	$$;
COMMENT ON FUNCTION sentinai.dlq_groups(text, text[]) IS
	'Dead letters of a tenant (NULL: of all) by cause, the most frequent first: failures with one fingerprint, how many, of how many tenants, since when, and the id of the newest as a sample. statuses: which ones count. Error: SN001 another status.';

CREATE FUNCTION sentinai.dlq_growth(tenant_id text DEFAULT NULL, bucket interval DEFAULT '1 hour',
	since interval DEFAULT '24 hours')
	RETURNS TABLE (bucket_start timestamptz, added bigint, retried bigint, failed_again bigint, succeeded bigint,
		discarded bigint, removed bigint, growth bigint)
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	#variable_conflict use_column
	DECLARE
		v_origin CONSTANT timestamptz := '2000-01-01 00:00:00+00';
		v_first timestamptz;
	BEGIN
		IF NOT coalesce($2 > '0' AND $3 > '0' AND extract(year FROM $2) = 0 AND extract(month FROM $2) = 0
						AND $3 <= $2 * 10000, false) THEN
			RAISE EXCEPTION USING ERRCODE = 'SN001', MESSAGE = format('can''t count %s in buckets of %s', $3, $2),
				HINT = 'Both are positive, a bucket has no months, and there are at most 10000 of them.';
		END IF;
		v_first := date_bin($2, now() - $3, v_origin);
		RETURN QUERY
			SELECT b.at, coalesce(h.added, 0), coalesce(h.retried, 0), coalesce(h.failed_again, 0), coalesce(h.succeeded, 0),
				   coalesce(h.discarded, 0), coalesce(h.removed, 0), coalesce(h.growth, 0)
			  FROM generate_series(v_first, now(), $2) AS b(at)
			  LEFT JOIN (
				SELECT date_bin($2, y.created_at, v_origin) AS at,
					   count(*) FILTER (WHERE y.action = 'dead_lettered') AS added,
					   count(*) FILTER (WHERE y.action = 'retry') AS retried,
					   count(*) FILTER (WHERE y.action IN ('replay_failed', 'retry_lost')) AS failed_again,
					   count(*) FILTER (WHERE y.to_status = 'succeeded') AS succeeded,
					   count(*) FILTER (WHERE y.to_status = 'discarded') AS discarded,
					   count(*) FILTER (WHERE y.action IN ('deleted', 'truncated')) AS removed,
					   count(*) FILTER (WHERE y.action = 'dead_lettered')
					   - count(*) FILTER (WHERE y.to_status IN ('succeeded', 'discarded'))
					   - count(*) FILTER (WHERE y.to_status IS NULL AND y.from_status IN ('pending', 'retrying')) AS growth
				  FROM sentinai.dlq_history y
				 WHERE y.created_at >= v_first AND ($1 IS NULL OR y.tenant_id = $1)
				 GROUP BY 1) h ON h.at = b.at
			 ORDER BY b.at;
	END
	$$;
COMMENT ON FUNCTION sentinai.dlq_growth(text, interval, interval) IS
	'What has happened to a tenant''s dead letters (NULL: to all) in each bucket of that length since that long ago, empty buckets included; from the history, so deleted ones count. growth: by how many the open ones have become more. Error: SN001 no such buckets.';

-- ---- retries that will never end ----

CREATE FUNCTION sentinai.dlq_lost_reason(id bigint) RETURNS text
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	#variable_conflict use_column
	DECLARE
		v_token uuid;
		v_retried_at timestamptz;
		v_receipt sentinai.dlq_receipt;
		v_position bigint;
	BEGIN
		SELECT d.retry_token, d.retried_at INTO v_token, v_retried_at
		  FROM sentinai.dead_letter_queue d WHERE d.id = $1 AND d.status = 'retrying';
		IF NOT FOUND OR EXISTS (SELECT FROM sentinai.event_pending p WHERE p.dlq_id = $1) THEN
			RETURN NULL;
		END IF;
		SELECT * INTO v_receipt FROM sentinai.dlq_receipt r WHERE r.token = v_token;
		IF FOUND THEN
			SELECT k.next_offset INTO v_position
			  FROM sentinai.dead_letter_queue d JOIN sentinai.worker_type_effective w ON w.name = d.worker_type
			  JOIN sentinai.kafka_offset k ON k.group_id = w.group_id
			 WHERE d.id = $1 AND k.topic = v_receipt.topic AND k.partition = v_receipt.partition;
			IF v_position > v_receipt.kafka_offset THEN
				RETURN format('the record of the retry at %s/%s/%s was passed (the group is at %s) without being read',
							  v_receipt.topic, v_receipt.partition, v_receipt.kafka_offset, v_position);
			END IF;
		ELSIF v_retried_at < now() - interval '1 minute'
			  AND NOT EXISTS (SELECT FROM sentinai.outbox o WHERE o.dlq_id = $1 AND o.dlq_token = v_token) THEN
			RETURN 'the record of the retry is neither in the outbox nor known to be in Kafka';
		END IF;
		RETURN NULL;
	END
	$$;
COMMENT ON FUNCTION sentinai.dlq_lost_reason(bigint) IS
	'Why the retry of a dead letter will never end; NULL: it may, or none is under way. Position and token change in one transaction, so a position behind the record with the token unused is a proof.';

CREATE FUNCTION sentinai.dlq_retry_lost(id bigint, message text) RETURNS void
	LANGUAGE c VOLATILE STRICT
	AS 'MODULE_PATHNAME', 'sn_dlq_retry_lost';
COMMENT ON FUNCTION sentinai.dlq_retry_lost(bigint, text) IS
	'Puts a retrying dead letter back to pending with error type retry_lost; retry_count stays. Called by dlq_lost_check(), which knows that it is lost. Errors: SN010 it is not retrying, SN011 there is none.';

CREATE FUNCTION sentinai.dlq_retry_refused(id bigint, message text) RETURNS void
	LANGUAGE c VOLATILE STRICT
	AS 'MODULE_PATHNAME', 'sn_dlq_retry_refused';
COMMENT ON FUNCTION sentinai.dlq_retry_refused(bigint, text) IS
	'Internal, of outbox_advance(): Kafka refused the record of the retry under way for good, and the dead letter is pending again with error type publish_refused; retry_count grows. Errors: SN010 it is not retrying, SN011 there is none.';

CREATE FUNCTION sentinai.dlq_lost_check() RETURNS TABLE (id bigint, message text)
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	#variable_conflict use_column
	BEGIN
		FOR id IN SELECT d.id FROM sentinai.dead_letter_queue d WHERE d.status = 'retrying' ORDER BY d.id LOOP
			message := sentinai.dlq_lost_reason(id);
			CONTINUE WHEN message IS NULL;
			-- Once more under the lock: what is being handled now is locked by whoever handles it, and no longer lost then.
			PERFORM FROM sentinai.dead_letter_queue d WHERE d.id = dlq_lost_check.id AND d.status = 'retrying' FOR UPDATE SKIP LOCKED;
			CONTINUE WHEN NOT FOUND;
			message := sentinai.dlq_lost_reason(id);
			CONTINUE WHEN message IS NULL;
			PERFORM sentinai.dlq_retry_lost(id, message);
			RETURN NEXT;
		END LOOP;
		DELETE FROM sentinai.dlq_receipt r
		 WHERE r.created_at < now() - interval '1 minute'
		   AND NOT EXISTS (SELECT FROM sentinai.dead_letter_queue d WHERE d.id = r.dlq_id AND d.retry_token = r.token);
	END
	$$;
COMMENT ON FUNCTION sentinai.dlq_lost_check() IS
	'Duty of the maintenance worker: finds retries that will never end (their records were deleted from the topic, or never got there) and puts their dead letters back to pending, error type retry_lost. Returns those with the reason. Receipts of ended retries go, too.';

-- ---- rehearsal ----

CREATE FUNCTION sentinai.dlq_rehearse_ids(ids bigint[])
	RETURNS TABLE (id bigint, would_succeed boolean, error_type text, sqlstate text, error_message text, error_detail text,
		emitted integer)
	LANGUAGE c VOLATILE STRICT
	AS 'MODULE_PATHNAME', 'sn_dlq_rehearse_ids';
COMMENT ON FUNCTION sentinai.dlq_rehearse_ids(bigint[]) IS 'Internal: dlq_rehearse() of these, whatever their status.';

CREATE FUNCTION sentinai.dlq_rehearse(tenant_id text DEFAULT NULL, n integer DEFAULT 10, fingerprint text DEFAULT NULL,
	worker_type text DEFAULT NULL, event_type text DEFAULT NULL, with_error_type text DEFAULT NULL)
	RETURNS TABLE (id bigint, would_succeed boolean, error_type text, sqlstate text, error_message text, error_detail text,
		emitted integer)
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	#variable_conflict use_column
	BEGIN
		IF NOT coalesce($2 BETWEEN 1 AND 1000, false) THEN
			RAISE EXCEPTION USING ERRCODE = 'SN001', MESSAGE = format('can''t rehearse %s dead letters', $2),
				HINT = 'n is 1 to 1000.';
		END IF;
		$1 := sentinai.tenant_check($1);
		RETURN QUERY SELECT r.* FROM sentinai.dlq_rehearse_ids(ARRAY(
			SELECT d.id FROM sentinai.dead_letter_queue d
			 WHERE d.status = 'pending' AND ($1 IS NULL OR d.tenant_id = $1) AND ($3 IS NULL OR d.fingerprint = $3)
			   AND ($4 IS NULL OR d.worker_type = $4) AND ($5 IS NULL OR d.event_type = $5)
			   AND ($6 IS NULL OR d.error_type = $6)
			 ORDER BY d.id LIMIT $2)) r;
	END
	$$;
COMMENT ON FUNCTION sentinai.dlq_rehearse(text, integer, text, text, text, text) IS
	'Runs the real handlers on the records of pending dead letters and rolls all of it back: at most n (1 to 1000) of the oldest, of a tenant, fingerprint, worker type, event type and error type (of the failure that they are there for), NULL for all (as tenant_id: the caller''s, or all where it sees all). One row each: whether a retry would succeed, how many events it would emit, and else why not. The order of an exception''s events is not looked at. Errors: 42501 (another tenant; or a handler of yours that sees all tenants, in a session of who is no admin and writes SQL), SN001 another n, SN013 the session has temporary objects, and what stops consume() (class stop).';
