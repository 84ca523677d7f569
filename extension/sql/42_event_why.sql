-- 42_event_why: one row says why an event isn't handled.

CREATE TYPE sentinai.event_answer AS (
	state	text,
	reason	text,
	details	jsonb
);
COMMENT ON TYPE sentinai.event_answer IS 'An answer of event_why(), without the worker type that it is about.';
COMMENT ON COLUMN sentinai.event_answer.state IS
	'succeeded, logged, retrying, parked, released, deferred, dead_letter, replaying, discarded, deleted, not_read, in_outbox, refused, published, not_handled, forgotten, lost or unknown.';
COMMENT ON COLUMN sentinai.event_answer.reason IS 'The answer as a sentence.';
COMMENT ON COLUMN sentinai.event_answer.details IS 'What the sentence was made of.';

CREATE FUNCTION sentinai.event_why_position(group_id text, topic text, partition integer, kafka_offset bigint)
	RETURNS TABLE (next_offset bigint, lag bigint, words text)
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	SELECT k.next_offset, $4 - k.next_offset,
		   CASE WHEN k.next_offset IS NULL THEN format('group %s has never read that partition', $1)
				WHEN k.next_offset > $4 THEN format('group %s is at %s, past it', $1, k.next_offset)
				ELSE format('group %s is at %s: lag %s', $1, k.next_offset, $4 - k.next_offset) END
	  FROM (VALUES (1)) one LEFT JOIN sentinai.kafka_offset k
		ON k.group_id = $1 AND k.topic = $2 AND k.partition = $3
	$$;
COMMENT ON FUNCTION sentinai.event_why_position(text, text, integer, bigint) IS
	'Internal: where a group stands, compared with a record; next_offset is NULL where it never stood. lag: records before that one.';

CREATE FUNCTION sentinai.event_why_outbox(dlq_id bigint, token uuid, tenant_id text, event_id text)
	RETURNS TABLE (id bigint, topic text, event_type text, published boolean, before bigint)
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	#variable_conflict use_column
	BEGIN
	-- PL/pgSQL, since the outbox comes later in the script.
	RETURN QUERY
	SELECT o.id, o.topic::text, o.event_type::text, o.id <= coalesce(w.id, 0),
		   (SELECT count(*) FROM sentinai.outbox b WHERE b.topic = o.topic AND b.id > coalesce(w.id, 0) AND b.id < o.id)
	  FROM sentinai.outbox o LEFT JOIN sentinai.outbox_watermark w USING (topic)
	 WHERE CASE WHEN $1 IS NULL THEN o.dlq_id IS NULL AND o.tenant_id = $3 AND o.event_id = $4
				ELSE o.dlq_id = $1 AND o.dlq_token = $2 END
	 ORDER BY o.id DESC LIMIT 1;
	END
	$$;
COMMENT ON FUNCTION sentinai.event_why_outbox(bigint, uuid, text, text) IS
	'Internal: the outbox''s row of a dead letter''s retry, or with dlq_id NULL of an event of ours. before: rows of its topic that are to be published before it.';

CREATE FUNCTION sentinai.event_why_place(waiting sentinai.event_pending) RETURNS bigint
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	SELECT count(*) FROM sentinai.event_pending p
	 WHERE p.tenant_id = waiting.tenant_id AND p.rate_limit IS NOT NULL
	   AND (p.next_attempt_at, p.id) <= (waiting.next_attempt_at, waiting.id)
	$$;
COMMENT ON FUNCTION sentinai.event_why_place(sentinai.event_pending) IS
	'Internal: the place of an event in its tenant''s queue; 1: the next one.';

CREATE FUNCTION sentinai.event_why_queue(waiting sentinai.event_pending) RETURNS text
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	DECLARE
		-- PL/pgSQL, since the limits come later in the script.
		rate record;
	BEGIN
		SELECT * INTO rate FROM sentinai.backpressure_limit(waiting.tenant_id);
		RETURN format('deferred: tenant %s %s; appointment at %s, place %s of %s in its queue', waiting.tenant_id,
			CASE WHEN rate.limit_value IS NULL THEN 'was over its rate, and is not limited any more'
				 WHEN waiting.rate_limit = 'resumed' THEN 'was suspended, and its events are taken at its rate'
				 ELSE format('is over its rate: events_ingested (%s)', waiting.rate_limit) END,
			waiting.next_attempt_at, sentinai.event_why_place(waiting),
			(SELECT count(*) FROM sentinai.event_pending p WHERE p.tenant_id = waiting.tenant_id AND p.rate_limit IS NOT NULL));
	END
	$$;
COMMENT ON FUNCTION sentinai.event_why_queue(sentinai.event_pending) IS
	'Internal: what event_why() says of an event in its tenant''s queue.';

-- Work that waits in the database.
CREATE FUNCTION sentinai.event_why_pending(tenant_id text, event_id text, worker_type text) RETURNS sentinai.event_answer
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	#variable_conflict use_column
	DECLARE
		p sentinai.event_pending;
		k sentinai.key_state;
		v_tenant_status text;
		answer sentinai.event_answer;
	BEGIN
		SELECT * INTO p FROM sentinai.event_pending e
		 WHERE e.tenant_id = $1 AND e.event_id = $2 AND e.worker_type = $3;
		IF NOT FOUND THEN
			RETURN NULL;
		END IF;
		SELECT t.status INTO v_tenant_status FROM sentinai.tenant t WHERE t.tenant_id = $1;
		SELECT * INTO k FROM sentinai.key_state s
		 WHERE s.tenant_id = $1 AND s.exception_id = p.exception_id AND s.worker_type = $3;
		answer.state := p.status;
		answer.reason := CASE
			WHEN p.status = 'parked' AND k.dlq_id IS NOT NULL THEN
				format('parked behind dead letter %s (event %s) of exception %s', k.dlq_id, k.event_id, p.exception_id)
			WHEN p.status = 'parked' AND k.event_id IS NOT NULL THEN
				format('parked behind event %s of exception %s', k.event_id, p.exception_id)
			WHEN p.status = 'parked' THEN
				format('parked, but nothing holds exception %s: SELECT sentinai.key_release(%L, %L, %L) lets it go on',
					   p.exception_id, $1, p.exception_id, $3)
			WHEN v_tenant_status = 'suspended' THEN
				format('%s until tenant %s, which is suspended, is resumed', CASE p.status WHEN 'deferred' THEN 'deferred' ELSE 'waits' END, $1)
			WHEN p.status = 'deferred' AND p.error_type = 'circuit_open' THEN
				format('deferred: %s', coalesce((SELECT format('circuit of %s and %s is open since %s (%s: %s), next probe at %s',
															   c.worker_type, c.event_type, c.opened_at, c.reason,
															   CASE WHEN sentinai.tenant_visible(c.tenant_id) THEN c.error_message
																	ELSE 'the admin sees why' END, c.probe_at)
												   FROM sentinai.circuit c
												  WHERE c.worker_type = p.worker_type AND c.event_type = p.event_type AND c.tenant_id IN ('', p.tenant_id)
												  ORDER BY c.opened_at LIMIT 1),
												format('its circuit has closed, and it waits for the reader of %s/%s', p.topic, p.partition)))
			WHEN p.rate_limit IS NOT NULL THEN sentinai.event_why_queue(p)
			WHEN p.status = 'deferred' AND p.next_attempt_at = 'infinity' THEN
				format('deferred until tenant %s, which is %s, is resumed', $1, coalesce(v_tenant_status, 'gone'))
			WHEN p.status = 'retrying' AND p.next_attempt_at > now() THEN
				format('retry %s is due at %s, after %s: %s', p.retry_count, p.next_attempt_at, p.error_type, p.error_message)
			WHEN p.status = 'retrying' THEN
				format('retry %s is due since %s, and waits for the reader of %s/%s', p.retry_count, p.next_attempt_at,
					   p.topic, p.partition)
			WHEN p.next_attempt_at > now() THEN format('%s, due at %s', p.status, p.next_attempt_at)
			ELSE format('due since %s, and waits for the reader of %s/%s', p.next_attempt_at, p.topic, p.partition) END
			|| coalesce(sentinai.suspect_words($3, p.topic, p.partition, p.id, p.origin_offset), '');
		IF p.dlq_id IS NOT NULL THEN
			answer.reason := format('retry of dead letter %s: %s', p.dlq_id, answer.reason);
		END IF;
		answer.details := jsonb_strip_nulls(jsonb_build_object('next_attempt_at', p.next_attempt_at, 'retry_count', p.retry_count,
			'since', p.created_at, 'topic', p.topic, 'partition', p.partition, 'error_type', p.error_type, 'sqlstate', p.sqlstate,
			'error_message', p.error_message, 'dlq_id', p.dlq_id, 'behind_event_id', CASE WHEN p.status = 'parked' THEN k.event_id END,
			'behind_dlq_id', CASE WHEN p.status = 'parked' THEN k.dlq_id END, 'tenant_status', v_tenant_status,
			'rate_limit', p.rate_limit, 'place', CASE WHEN p.rate_limit IS NOT NULL THEN sentinai.event_why_place(p) END));
		RETURN answer;
	END
	$$;
COMMENT ON FUNCTION sentinai.event_why_pending(text, text, text) IS 'Internal: what event_pending says of an event; NULL: nothing.';

-- A retry that is under way.
CREATE FUNCTION sentinai.event_why_replay(dlq_id bigint) RETURNS sentinai.event_answer
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	#variable_conflict use_column
	DECLARE
		d sentinai.dead_letter_queue;
		r sentinai.dlq_receipt;
		o record;
		v_place record;
		v_lost text := sentinai.dlq_lost_reason($1);
		answer sentinai.event_answer;
	BEGIN
		SELECT * INTO STRICT d FROM sentinai.dead_letter_queue q WHERE q.id = $1;
		answer.state := CASE WHEN v_lost IS NULL THEN 'replaying' ELSE 'lost' END;
		answer.details := jsonb_build_object('dlq_id', d.id, 'token', d.retry_token, 'retried_at', d.retried_at);
		SELECT * INTO r FROM sentinai.dlq_receipt c WHERE c.token = d.retry_token;
		IF r.token IS NOT NULL THEN
			SELECT w.* INTO v_place FROM sentinai.worker_type_effective t,
				   sentinai.event_why_position(t.group_id, r.topic, r.partition, r.kafka_offset) w
			 WHERE t.name = d.worker_type;
			answer.reason := format('dead letter %s is being retried: its record is in Kafka at %s/%s/%s, %s', d.id, r.topic,
									r.partition, r.kafka_offset, v_place.words);
			answer.details := answer.details || jsonb_build_object('topic', r.topic, 'partition', r.partition,
				'offset', r.kafka_offset, 'next_offset', v_place.next_offset, 'lag', v_place.lag);
		ELSE
			SELECT * INTO o FROM sentinai.event_why_outbox(d.id, d.retry_token, NULL, NULL);
			answer.reason := format('dead letter %s is being retried: %s', d.id, CASE
				WHEN o.id IS NULL THEN 'its record is no longer in the outbox, and no receipt of it has come'
				WHEN o.published THEN 'the publisher has passed its record without a receipt'
				ELSE format('its record waits in the outbox behind %s others', o.before) END);
			answer.details := answer.details || jsonb_build_object('outbox_id', o.id, 'before', o.before);
		END IF;
		IF v_lost IS NOT NULL THEN
			answer.reason := format('the retry of dead letter %s is lost: %s; dlq_lost_check() puts it back to pending', d.id, v_lost);
		END IF;
		answer.details := jsonb_strip_nulls(answer.details);
		RETURN answer;
	END
	$$;
COMMENT ON FUNCTION sentinai.event_why_replay(bigint) IS 'Internal: where the retry of a retrying dead letter is.';

CREATE FUNCTION sentinai.event_why_dead_letter(tenant_id text, event_id text, worker_type text)
	RETURNS sentinai.event_answer
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	#variable_conflict use_column
	DECLARE
		d record;
		h record;
	BEGIN
		SELECT q.id, q.status, q.error_type, q.error_message, q.sqlstate, q.retry_count, q.created_at, q.updated_at,
			   q.discarded_at, q.discarded_by
		  INTO d FROM sentinai.dead_letter_queue q
		 WHERE q.tenant_id = $1 AND q.event_id = $2 AND q.worker_type = $3
		 ORDER BY (q.status IN ('pending', 'retrying')) DESC, q.id DESC LIMIT 1;
		IF NOT FOUND THEN
			SELECT y.dlq_id, y.action, y.created_at, coalesce(y.actor, y.authenticated) AS who INTO h
			  FROM sentinai.dlq_history y
			 WHERE y.tenant_id = $1 AND y.details->>'event_id' = $2 AND y.action IN ('deleted', 'truncated')
			   AND y.details->>'worker_type' = $3
			 ORDER BY y.id DESC LIMIT 1;
			IF NOT FOUND THEN
				RETURN NULL;
			END IF;
			RETURN ROW('deleted'::text, format('dead letter %s was %s by %s at %s', h.dlq_id, h.action, h.who, h.created_at),
					   jsonb_build_object('dlq_id', h.dlq_id, 'action', h.action, 'at', h.created_at, 'by', h.who));
		ELSIF d.status = 'retrying' THEN
			RETURN sentinai.event_why_replay(d.id);
		END IF;
		RETURN ROW(CASE d.status WHEN 'pending' THEN 'dead_letter' ELSE d.status END,
			CASE d.status
				WHEN 'pending' THEN format('dead letter %s (pending) after %s retries: %s: %s', d.id, d.retry_count, d.error_type, d.error_message)
				WHEN 'discarded' THEN format('dead letter %s was discarded by %s at %s', d.id, d.discarded_by, d.discarded_at)
				ELSE format('succeeded by the retry of dead letter %s at %s', d.id, d.updated_at) END,
			jsonb_strip_nulls(jsonb_build_object('dlq_id', d.id, 'status', d.status, 'error_type', d.error_type, 'sqlstate', d.sqlstate,
				'error_message', d.error_message, 'retry_count', d.retry_count, 'since', d.created_at, 'at', d.updated_at)));
	END
	$$;
COMMENT ON FUNCTION sentinai.event_why_dead_letter(text, text, text) IS
	'Internal: what the dead letter queue, or its history, says of an event; NULL: nothing.';

-- An identity that has been claimed, and does not wait anywhere.
CREATE FUNCTION sentinai.event_why_claim(tenant_id text, event_id text, worker_type text) RETURNS sentinai.event_answer
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	#variable_conflict use_column
	DECLARE
		c record;
		answer sentinai.event_answer;
	BEGIN
		SELECT l.status, l.processed_at, l.retry_count, l.error_type, l.error_message, l.event_type, h.created_at AS handler_since INTO c
		  FROM sentinai.event_processing_log l
		  LEFT JOIN sentinai.handler h ON h.worker_type = l.worker_type AND h.event_type = l.event_type
		 WHERE l.tenant_id = $1 AND l.event_id = $2 AND l.worker_type = $3 AND NOT l.shadow
		 ORDER BY l.generation DESC LIMIT 1;
		IF NOT FOUND THEN
			RETURN NULL;
		END IF;
		answer.details := jsonb_strip_nulls(jsonb_build_object('status', c.status, 'at', c.processed_at,
			'retry_count', c.retry_count, 'error_type', c.error_type, 'error_message', c.error_message));
		IF c.status <> 'succeeded' THEN
			answer.state := 'lost';
			answer.reason := format('lost: event_processing_log says %s since %s, but no row of event_pending or dead_letter_queue has it',
									c.status, c.processed_at);
		ELSIF c.handler_since IS NULL THEN
			answer.state := 'logged';
			answer.reason := format('logged at %s: worker type %s has no handler for %s', c.processed_at, $3, c.event_type);
		ELSE
			answer.state := 'succeeded';
			answer.reason := format('succeeded at %s', c.processed_at);
			IF c.handler_since > c.processed_at THEN
				answer.reason := format('%s, before the present handler was added at %s', answer.reason, c.handler_since);
			END IF;
		END IF;
		RETURN answer;
	END
	$$;
COMMENT ON FUNCTION sentinai.event_why_claim(text, text, text) IS
	'Internal: what event_processing_log says of an event that waits nowhere; NULL: nothing.';

-- An event that this worker type has not claimed.
CREATE FUNCTION sentinai.event_why_unclaimed(tenant_id text, event_id text, worker_type text) RETURNS sentinai.event_answer
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	#variable_conflict use_column
	DECLARE
		l record;
		o record;
		f record;
		v_place record;
		v_group text := (SELECT w.group_id FROM sentinai.worker_type_effective w WHERE w.name = $3);
		v_since timestamptz;
		v_known_since timestamptz := (SELECT min(g.opened_at) FROM sentinai.dedupe_generation g);
	BEGIN
		SELECT e.event_type, e.topic, e.partition, e.kafka_offset, e.created_at INTO l
		  FROM sentinai.event_log e WHERE e.tenant_id = $1 AND e.event_id = $2 ORDER BY e.created_at LIMIT 1;
		SELECT * INTO o FROM sentinai.event_why_outbox(NULL, NULL, $1, $2);
		IF o.id IS NOT NULL AND NOT o.published THEN
			RETURN ROW('in_outbox'::text, format('not yet published: in the outbox behind %s others of topic %s', o.before, o.topic),
					   jsonb_build_object('outbox_id', o.id, 'before', o.before, 'topic', o.topic));
		END IF;
		SELECT f.id, f.topic, f.error, f.message, f.discarded_at INTO f
		  FROM sentinai.outbox_failed f WHERE f.tenant_id = $1 AND f.event_id = $2 ORDER BY f.id DESC LIMIT 1;
		IF FOUND AND l.kafka_offset IS NULL THEN
			RETURN ROW('refused'::text, format('topic %s refused it: %s; %s', f.topic, f.message,
											   CASE WHEN f.discarded_at IS NULL THEN format('it waits as record %s in outbox_failed', f.id)
													ELSE format('discarded at %s', f.discarded_at) END),
					   jsonb_strip_nulls(jsonb_build_object('outbox_id', f.id, 'topic', f.topic, 'error', f.error,
															'discarded_at', f.discarded_at)));
		ELSIF o.id IS NULL AND l.event_type IS NULL THEN
			RETURN ROW('unknown'::text, format('no event "%s" of tenant "%s" has been seen', $2, $1), '{}'::jsonb);
		END IF;
		SELECT h.created_at INTO v_since FROM sentinai.handler h
		 WHERE h.worker_type = $3 AND h.event_type = coalesce(l.event_type, o.event_type);
		IF NOT FOUND THEN
			RETURN ROW('not_handled'::text, format('worker type %s has no handler for %s', $3, coalesce(l.event_type, o.event_type)),
					   jsonb_build_object('event_type', coalesce(l.event_type, o.event_type)));
		ELSIF l.created_at < v_known_since THEN
			RETURN ROW('forgotten'::text, format('in event_log since %s, and claims are known since %s only', l.created_at, v_known_since),
					   jsonb_build_object('logged_at', l.created_at, 'known_since', v_known_since));
		ELSIF l.kafka_offset IS NULL THEN
			RETURN ROW('published'::text, format('published to topic %s; group %s has not claimed it yet', coalesce(l.topic, o.topic), v_group),
					   jsonb_strip_nulls(jsonb_build_object('topic', coalesce(l.topic, o.topic), 'group_id', v_group,
															'logged_at', l.created_at)));
		END IF;
		SELECT * INTO v_place FROM sentinai.event_why_position(v_group, l.topic, l.partition, l.kafka_offset);
		RETURN ROW(
			CASE WHEN coalesce(v_place.next_offset, 0) <= l.kafka_offset THEN 'not_read'
				 WHEN v_since > l.created_at THEN 'not_handled' ELSE 'lost' END,
			CASE WHEN coalesce(v_place.next_offset, 0) <= l.kafka_offset THEN
					format('not yet read: it is at %s/%s/%s, %s', l.topic, l.partition, l.kafka_offset, v_place.words)
					|| coalesce(sentinai.suspect_words($3, l.topic, l.partition, 0, l.kafka_offset), '')
				 WHEN v_since > l.created_at THEN
					format('it came at %s, before worker type %s got its handler at %s', l.created_at, $3, v_since)
				 ELSE format('lost: it is at %s/%s/%s, %s, and nothing claims it', l.topic, l.partition, l.kafka_offset, v_place.words) END,
			jsonb_strip_nulls(jsonb_build_object('topic', l.topic, 'partition', l.partition, 'offset', l.kafka_offset,
				'group_id', v_group, 'next_offset', v_place.next_offset, 'lag', v_place.lag, 'logged_at', l.created_at)));
	END
	$$;
COMMENT ON FUNCTION sentinai.event_why_unclaimed(text, text, text) IS
	'Internal: why a worker type has not claimed an event, from event_log, the outbox and the group''s position.';

CREATE FUNCTION sentinai.event_why_one(tenant_id text, event_id text, worker_type text) RETURNS sentinai.event_answer
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	DECLARE
		waiting sentinai.event_answer := sentinai.event_why_pending($1, $2, $3);
		letter sentinai.event_answer;
		claim sentinai.event_answer;
	BEGIN
		IF waiting.state IS NOT NULL THEN
			RETURN waiting;
		END IF;
		letter := sentinai.event_why_dead_letter($1, $2, $3);
		claim := sentinai.event_why_claim($1, $2, $3);
		-- A dead letter beside a success is another event of the same id, or what was deleted after a redelivery.
		IF claim.state IN ('succeeded', 'logged') AND letter.state IN ('dead_letter', 'replaying') THEN
			claim.reason := format('%s; another event of the same event_id: %s', claim.reason, letter.reason);
			claim.details := claim.details || jsonb_build_object('other', letter.details);
			RETURN claim;
		ELSIF claim.state IN ('succeeded', 'logged') THEN
			RETURN CASE WHEN letter.state = 'succeeded' THEN letter ELSE claim END;
		ELSIF letter.state IS NOT NULL THEN
			RETURN letter;
		ELSIF claim.state IS NOT NULL THEN
			RETURN claim;
		END IF;
		RETURN sentinai.event_why_unclaimed($1, $2, $3);
	END
	$$;
COMMENT ON FUNCTION sentinai.event_why_one(text, text, text) IS 'Internal: the answer of event_why() for one worker type.';

CREATE FUNCTION sentinai.event_why(tenant_id text, event_id text, only_worker_type text DEFAULT NULL)
	RETURNS TABLE (worker_type text, state text, reason text, details jsonb)
	LANGUAGE plpgsql STABLE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	SET datestyle = 'ISO'
	AS $$
	#variable_conflict use_column
	DECLARE
		answer sentinai.event_answer;
		v_type text;
	BEGIN
		PERFORM sentinai.tenant_check($1);
		IF $3 IS NOT NULL AND NOT EXISTS (SELECT FROM sentinai.worker_type_effective w WHERE w.name = $3) THEN
			RAISE EXCEPTION USING ERRCODE = 'SN002', MESSAGE = format('worker type "%s" is not known', $3),
				HINT = 'SELECT name FROM sentinai.worker_type lists them.';
		END IF;
		SELECT e.event_type INTO v_type FROM sentinai.event_log e WHERE e.tenant_id = $1 AND e.event_id = $2 LIMIT 1;
		IF v_type IS NULL THEN
			SELECT o.event_type INTO v_type FROM sentinai.event_why_outbox(NULL, NULL, $1, $2) o;
		END IF;
		FOR worker_type IN
			SELECT w.name::text FROM sentinai.worker_type_effective w
			 WHERE CASE WHEN $3 IS NOT NULL THEN w.name = $3 ELSE
					w.name IN (
					SELECT h.worker_type FROM sentinai.handler h WHERE h.event_type = v_type
					UNION ALL SELECT p.worker_type FROM sentinai.event_pending p WHERE p.tenant_id = $1 AND p.event_id = $2
					UNION ALL SELECT q.worker_type FROM sentinai.dead_letter_queue q WHERE q.tenant_id = $1 AND q.event_id = $2
					UNION ALL SELECT y.details->>'worker_type' FROM sentinai.dlq_history y
							   WHERE y.tenant_id = $1 AND y.details->>'event_id' = $2 AND y.action IN ('deleted', 'truncated')
					UNION ALL SELECT l.worker_type FROM sentinai.event_processing_log l WHERE l.tenant_id = $1 AND l.event_id = $2) END
			 ORDER BY 1
		LOOP
			answer := sentinai.event_why_one($1, $2, event_why.worker_type);
			state := answer.state;
			reason := answer.reason;
			details := answer.details;
			RETURN NEXT;
		END LOOP;
		IF NOT FOUND THEN
			worker_type := NULL;
			state := CASE WHEN v_type IS NULL THEN 'unknown' ELSE 'not_handled' END;
			reason := CASE WHEN v_type IS NULL THEN format('no event "%s" of tenant "%s" has been seen', $2, $1)
						   ELSE format('no worker type has a handler for %s', v_type) END;
			details := CASE WHEN v_type IS NULL THEN '{}' ELSE jsonb_build_object('event_type', v_type) END;
			RETURN NEXT;
		END IF;
	END
	$$;
COMMENT ON FUNCTION sentinai.event_why(text, text, text) IS
	'Why an event is where it is: one row for each worker type that it concerns (or for the one named), with a state, a sentence and what it was made of. States: succeeded; logged (no handler, and in the log); retrying, parked, released, deferred (it waits in event_pending); dead_letter, discarded, deleted; replaying (a dead letter''s retry is under way, the reason says where); in_outbox, published, not_read (on its way to the worker type); not_handled (no handler, or it came later); forgotten (claims are not kept that long); lost; unknown. worker_type is NULL where no worker type is concerned. Errors: 42501; SN002 there is no such worker type.';
