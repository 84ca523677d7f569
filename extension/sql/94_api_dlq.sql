-- 94_api_dlq: dead letters over HTTP.

-- A dead letter that the caller may see, else the error that there is none: as for one that doesn't exist.
CREATE FUNCTION sentinai.api_dlq_tenant(id bigint, tenant_id text) RETURNS text
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	#variable_conflict use_column
DECLARE
	found_tenant	text;
BEGIN
	SELECT d.tenant_id INTO found_tenant FROM sentinai.dead_letter_queue d WHERE d.id = $1 AND ($2 IS NULL OR d.tenant_id = $2);
	IF NOT FOUND THEN
		RAISE EXCEPTION USING ERRCODE = 'SN011', MESSAGE = format('there is no dead letter %s', $1), HINT = 'GET /ops/dlq lists them.';
	END IF;
	RETURN found_tenant;
END
$$;
COMMENT ON FUNCTION sentinai.api_dlq_tenant(bigint, text) IS
	'The tenant of a dead letter that the caller may see, and that is this tenant''s, where one is given. Error: SN011.';

CREATE FUNCTION sentinai_api.dlq_list(tenant_id text DEFAULT NULL, status text DEFAULT NULL, event_type text DEFAULT NULL,
		worker_type text DEFAULT NULL, error_type text DEFAULT NULL, fingerprint text DEFAULT NULL, p_limit integer DEFAULT 100,
		p_offset integer DEFAULT 0, p_after text DEFAULT NULL, p_order text DEFAULT 'desc', p_count text DEFAULT NULL)
	RETURNS sentinai_api."application/json"
	LANGUAGE c STABLE
	AS 'MODULE_PATHNAME', 'sn_api_dlq_list';
COMMENT ON FUNCTION sentinai_api.dlq_list(text, text, text, text, text, text, integer, integer, text, text, text) IS
	E'Dead letters, the newest first\nOf a tenant, status (pending, retrying, succeeded, discarded), event type, worker type, error type and fingerprint. p_limit is 1 to 1000, p_offset leaves out so many; p_after, the next_after of the page before, goes on behind it and costs the same on every page; p_order is desc or asc, by created_at. Answers {items, total, total_relation, limit, offset, next_after}. total_relation is eq, or gte where there are more than 10000, of which no more are counted; p_count exact counts all. With p_after nothing is counted unless p_count says so. Payloads are null for who is not a member of sentinai_payload.';

CREATE FUNCTION sentinai_api.dlq_stats(tenant_id text DEFAULT NULL) RETURNS json
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
BEGIN
	RETURN (SELECT row_to_json(s) FROM sentinai.dlq_stats(sentinai.tenant_check($1)) s);
END
$$;
COMMENT ON FUNCTION sentinai_api.dlq_stats(text) IS
	E'How many dead letters a tenant has\nAnswers total_entries, pending_count, retrying_count, discarded_count, succeeded_count, by_event_type and by_worker_type.';

CREATE FUNCTION sentinai_api.dlq_get(id bigint DEFAULT NULL, tenant_id text DEFAULT NULL) RETURNS sentinai_api."application/json"
	LANGUAGE c STABLE
	AS 'MODULE_PATHNAME', 'sn_api_dlq_get';
COMMENT ON FUNCTION sentinai_api.dlq_get(bigint, text) IS
	E'One dead letter\nBy its id. 404 where there is none, or where it is another tenant''s.';

CREATE FUNCTION sentinai_api.dlq_history(id bigint, tenant_id text DEFAULT NULL) RETURNS json
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	#variable_conflict use_column
DECLARE
	tenant	text := sentinai.tenant_check($2);
	items	json;
BEGIN
	-- It outlives the dead letter.
	SELECT json_agg(h ORDER BY h.id) INTO items FROM sentinai.dlq_history($1) h WHERE tenant IS NULL OR h.tenant_id = tenant;
	IF items IS NULL THEN
		PERFORM sentinai.api_dlq_tenant($1, tenant);
	END IF;
	RETURN sentinai.api_list(items);
END
$$;
COMMENT ON FUNCTION sentinai_api.dlq_history(bigint, text) IS
	E'Everything that has happened to a dead letter\nThe oldest first, with who claimed to act (actor) and who was authenticated. Answers {items, total}.';

CREATE FUNCTION sentinai_api.dlq_groups(tenant_id text DEFAULT NULL) RETURNS json
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
BEGIN
	RETURN sentinai.api_list((SELECT json_agg(g) FROM sentinai.dlq_groups(sentinai.tenant_check($1)) g));
END
$$;
COMMENT ON FUNCTION sentinai_api.dlq_groups(text) IS
	E'Open dead letters by cause\nFailures with one fingerprint: how many, of how many tenants, since when, and the id of the newest. Answers {items, total}.';

CREATE FUNCTION sentinai_api.dlq_retry(jsonb) RETURNS sentinai_api."application/json"
	LANGUAGE c VOLATILE
	AS 'MODULE_PATHNAME', 'sn_api_dlq_retry';
COMMENT ON FUNCTION sentinai_api.dlq_retry(jsonb) IS
	E'Retries a dead letter\nTakes {id, tenant_id, reason, actor}; the last three may be missing. Its event goes to its topic once more. Answers {id, status, retried_at, retry_count, via}. 409 unless it is pending. Idempotency-Key is kept.';

CREATE FUNCTION sentinai_api.dlq_retry_batch(jsonb) RETURNS json
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	#variable_conflict use_column
DECLARE
	args	jsonb := sentinai.api_args($1);
	tenant	text := sentinai.tenant_check(args->>'tenant_id');
	ids		bigint[];
	mine	bigint[];
	results	json;
	answer	json;
BEGIN
	IF jsonb_typeof(args->'dlq_ids') IS DISTINCT FROM 'array' OR jsonb_array_length(args->'dlq_ids') NOT BETWEEN 1 AND 1000
	   OR EXISTS (SELECT FROM jsonb_array_elements(args->'dlq_ids') i WHERE jsonb_typeof(i) <> 'number' OR i::text !~ '^-?\d{1,18}$') THEN
		PERFORM sentinai.api_wrong('dlq_ids', args->'dlq_ids', 'an array of 1 to 1000 ids');
	END IF;
	answer := sentinai.api_begin('dlq_retry_batch', tenant, args);
	IF answer IS NOT NULL THEN
		RETURN answer;
	END IF;
	ids := ARRAY(SELECT i.id::bigint FROM jsonb_array_elements_text(args->'dlq_ids') WITH ORDINALITY AS i (id, n) ORDER BY i.n);
	mine := ARRAY(SELECT d.id FROM sentinai.dead_letter_queue d WHERE d.id = ANY (ids) AND (tenant IS NULL OR d.tenant_id = tenant));
	-- One result an id; those that are not the tenant's answer as those that are not there.
	SELECT json_agg(json_build_object('id', i.id, 'ok', coalesce(r.ok, false), 'status', r.status,
									  'code', CASE WHEN r.id IS NULL THEN 'SN011' ELSE r.sqlstate END,
									  'error', CASE WHEN r.id IS NULL THEN format('there is no dead letter %s', i.id) ELSE r.error END) ORDER BY i.n)
	  INTO results
	  FROM (SELECT u.id, u.n, CASE WHEN u.id = ANY (mine) THEN count(*) FILTER (WHERE u.id = ANY (mine)) OVER (ORDER BY u.n) END AS place
			  FROM unnest(ids) WITH ORDINALITY AS u (id, n)) i
	  LEFT JOIN sentinai.dlq_retry_batch(ARRAY(SELECT u.id FROM unnest(ids) WITH ORDINALITY AS u (id, n) WHERE u.id = ANY (mine) ORDER BY u.n),
										 sentinai.api_text(args, 'reason'), sentinai.api_text(args, 'actor'))
				WITH ORDINALITY AS r (id, ok, status, sqlstate, error, place) ON r.place = i.place;
	RETURN sentinai.api_end(tenant, json_build_object('updated_count', (SELECT count(*) FROM json_array_elements(results) r WHERE (r->>'ok')::boolean),
												   'requested_count', cardinality(ids), 'results', results));
END
$$;
COMMENT ON FUNCTION sentinai_api.dlq_retry_batch(jsonb) IS
	E'Retries several dead letters\nTakes {dlq_ids: [1 to 1000 ids], tenant_id, reason, actor}. Answers {updated_count, requested_count, results: [{id, ok, status, code, error}]}, one result an id: a bad one fails none of the others. Idempotency-Key is kept.';

CREATE FUNCTION sentinai_api.dlq_replay(jsonb) RETURNS json
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
DECLARE
	args	jsonb := sentinai.api_args($1);
	tenant	text := sentinai.api_tenant(args->>'tenant_id');
	answer	json;
BEGIN
	answer := sentinai.api_begin('dlq_replay', tenant, args);
	IF answer IS NOT NULL THEN
		RETURN answer;
	END IF;
	PERFORM sentinai.usage_check_tenant(tenant);
	SELECT json_build_object('tenant_id', tenant, 'updated_count', r.updated_count, 'requested_count', r.requested_count) INTO answer
	  FROM sentinai.dlq_replay(tenant, sentinai.api_text(args, 'reason'), sentinai.api_text(args, 'actor')) r;
	RETURN sentinai.api_end(tenant, answer);
END
$$;
COMMENT ON FUNCTION sentinai_api.dlq_replay(jsonb) IS
	E'Retries all pending dead letters of a tenant\nTakes {tenant_id, reason, actor}. Answers {tenant_id, updated_count, requested_count}. Idempotency-Key is kept.';

CREATE FUNCTION sentinai_api.dlq_discard(jsonb) RETURNS json
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
DECLARE
	args	jsonb := sentinai.api_args($1);
	id		bigint := sentinai.api_bigint(args, 'id');
	tenant	text := coalesce(sentinai.tenant_check(args->>'tenant_id'), sentinai.api_dlq_tenant(id, NULL));
	answer	json;
BEGIN
	answer := sentinai.api_begin('dlq_discard', tenant, args);
	IF answer IS NOT NULL THEN
		RETURN answer;
	END IF;
	PERFORM sentinai.api_dlq_tenant(id, tenant);
	SELECT row_to_json(r) INTO answer
	  FROM sentinai.dlq_discard(id, sentinai.api_text(args, 'reason'), sentinai.api_text(args, 'actor')) r;
	RETURN sentinai.api_end(tenant, answer);
END
$$;
COMMENT ON FUNCTION sentinai_api.dlq_discard(jsonb) IS
	E'Discards a dead letter\nTakes {id, tenant_id, reason, actor}; reason is required. Answers {id, status, discarded_at, discarded_by}. 409 unless it is pending. Idempotency-Key is kept.';

CREATE FUNCTION sentinai_api.dlq_growth(tenant_id text DEFAULT NULL, bucket interval DEFAULT '1 hour', since interval DEFAULT '24 hours') RETURNS json
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
BEGIN
	RETURN sentinai.api_list((SELECT json_agg(g) FROM sentinai.dlq_growth(sentinai.tenant_check($1), $2, $3) g));
END
$$;
COMMENT ON FUNCTION sentinai_api.dlq_growth(text, interval, interval) IS
	E'How dead letters have grown\nWhat was added, retried, closed and removed in each bucket (1 hour) since that long ago (24 hours). Answers {items, total}.';

CREATE FUNCTION sentinai_api.dlq_rehearse(jsonb) RETURNS json
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
DECLARE
	args	jsonb := sentinai.api_args($1);
BEGIN
	PERFORM sentinai.api_no_key('A rehearsal changes nothing, and can be asked for again.');
	RETURN sentinai.api_list((SELECT json_agg(r)
		FROM sentinai.dlq_rehearse(sentinai.tenant_check(args->>'tenant_id'), least(sentinai.api_bigint(args, 'n', 10), 100000)::integer,
			sentinai.api_text(args, 'fingerprint'), sentinai.api_text(args, 'worker_type'), sentinai.api_text(args, 'event_type'),
			sentinai.api_text(args, 'error_type')) r));
END
$$;
COMMENT ON FUNCTION sentinai_api.dlq_rehearse(jsonb) IS
	E'Which dead letters a retry would mend\nTakes {tenant_id, n: 10, fingerprint, worker_type, event_type, error_type}. Runs the real handlers on at most n of the oldest pending ones, and rolls all of it back. Answers {items: [{id, would_succeed, error_type, sqlstate, error_message, error_detail, emitted}], total}.';

CREATE FUNCTION sentinai_api.dlq_reassign(jsonb) RETURNS json
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
DECLARE
	args	jsonb := sentinai.api_args($1);
	tenant	text := sentinai.api_tenant(args->>'tenant_id');
	answer	json;
BEGIN
	answer := sentinai.api_begin('dlq_reassign', tenant, args);
	IF answer IS NOT NULL THEN
		RETURN answer;
	END IF;
	SELECT row_to_json(r) INTO answer
	  FROM sentinai.dlq_reassign(sentinai.api_bigint(args, 'id'), tenant, sentinai.api_text(args, 'reason'), sentinai.api_text(args, 'actor')) r;
	RETURN sentinai.api_end(tenant, answer);
END
$$;
COMMENT ON FUNCTION sentinai_api.dlq_reassign(jsonb) IS
	E'Gives a dead letter a tenant\nTakes {id, tenant_id, reason, actor}: the tenant that it gets. Answers {id, tenant_id, status}. 409 unless it is pending. For the admin. Idempotency-Key is kept.';

CREATE FUNCTION sentinai_api.dlq_purge(jsonb) RETURNS json
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
DECLARE
	args		jsonb := sentinai.api_args($1);
	tenant		text := sentinai.api_tenant(args->>'tenant_id');
	statuses	text[] := '{succeeded,discarded}';
	answer		json;
BEGIN
	answer := sentinai.api_begin('dlq_purge', tenant, args);
	IF answer IS NOT NULL THEN
		RETURN answer;
	END IF;
	IF jsonb_typeof(args->'statuses') NOT IN ('array', 'null') THEN
		PERFORM sentinai.api_wrong('statuses', args->'statuses', 'an array of texts');
	ELSIF jsonb_typeof(args->'statuses') = 'array' THEN
		statuses := ARRAY(SELECT jsonb_array_elements_text(args->'statuses'));
	END IF;
	PERFORM sentinai.usage_check_tenant(tenant);
	RETURN sentinai.api_end(tenant, json_build_object('tenant_id', tenant, 'deleted_count',
		sentinai.dlq_purge(tenant, coalesce(sentinai.api_text(args, 'older_than'), '30 days')::interval, statuses)));
END
$$;
COMMENT ON FUNCTION sentinai_api.dlq_purge(jsonb) IS
	E'Deletes old dead letters of a tenant\nTakes {tenant_id, older_than: "30 days", statuses: [succeeded, discarded]}: those whose rows have not changed for that long; statuses may name pending too. Their history stays. Answers {tenant_id, deleted_count}. For the admin. Idempotency-Key is kept.';

-- ---- what Kafka refused ----

CREATE FUNCTION sentinai_api.outbox_failed_list(tenant_id text DEFAULT NULL, status text DEFAULT 'pending', topic text DEFAULT NULL,
		event_type text DEFAULT NULL, p_limit integer DEFAULT 100, p_offset integer DEFAULT 0, p_after bigint DEFAULT NULL) RETURNS json
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	#variable_conflict use_column
DECLARE
	tenant	text := sentinai.tenant_check($1);
	items	json;
	total	bigint;
	next_after	bigint;
BEGIN
	PERFORM sentinai.api_page($5, $6);
	IF $2 IS NULL OR $2 NOT IN ('pending', 'discarded') THEN
		PERFORM sentinai.api_wrong('status', to_jsonb($2), 'pending or discarded');
	END IF;
	SELECT count(*) INTO total FROM sentinai.outbox_failed f
	 WHERE (tenant IS NULL OR f.tenant_id = tenant) AND (f.discarded_at IS NOT NULL) = ($2 = 'discarded')
	   AND ($3 IS NULL OR f.topic = $3) AND ($4 IS NULL OR f.event_type = $4);
	SELECT coalesce(json_agg(i.item ORDER BY i.id) FILTER (WHERE i.n <= $5), '[]'), CASE WHEN count(*) > $5 THEN max(i.id) FILTER (WHERE i.n = $5) END
	  INTO items, next_after
	  FROM (SELECT f.id, row_number() OVER (ORDER BY f.id) - $6 AS n, json_build_object('id', f.id, 'status', $2, 'topic', f.topic, 'partition', f.partition, 'tenant_id', f.tenant_id, 'event_id', f.event_id,
					'event_type', f.event_type, 'error', f.error, 'message', f.message, 'created_at', f.created_at, 'failed_at', f.failed_at,
					'discarded_at', f.discarded_at, 'discarded_by', f.discarded_by, 'discard_reason', f.discard_reason) AS item
			  FROM sentinai.outbox_failed f
			 WHERE (tenant IS NULL OR f.tenant_id = tenant) AND (f.discarded_at IS NOT NULL) = ($2 = 'discarded')
			   AND ($3 IS NULL OR f.topic = $3) AND ($4 IS NULL OR f.event_type = $4) AND ($7 IS NULL OR f.id > $7)
			 ORDER BY f.id LIMIT $5 + 1 OFFSET $6) i;
	RETURN json_build_object('items', items, 'total', total, 'limit', $5, 'offset', $6, 'next_after', next_after);
END
$$;
COMMENT ON FUNCTION sentinai_api.outbox_failed_list(text, text, text, text, integer, integer, bigint) IS
	E'Records that Kafka refused for good\nThe oldest first, without what they are made of; those that wait for a decision (pending), or were discarded. p_after, the next_after of the page before, goes on behind it. Answers {items: [{id, status, topic, partition, tenant_id, event_id, event_type, error, message, created_at, failed_at, discarded_at, discarded_by, discard_reason}], total, limit, offset, next_after}.';

CREATE FUNCTION sentinai.api_outbox_failed_tenant(id bigint, tenant_id text) RETURNS text
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
DECLARE
	found_id	bigint;
	tenant		text;
BEGIN
	SELECT f.id, f.tenant_id INTO found_id, tenant FROM sentinai.outbox_failed f WHERE f.id = $1 AND ($2 IS NULL OR f.tenant_id = $2);
	IF found_id IS NULL THEN
		RAISE EXCEPTION USING ERRCODE = 'SN011', MESSAGE = format('there is no failed record %s', $1), HINT = 'GET /ops/outbox/failed lists them.';
	END IF;
	RETURN tenant;
END
$$;
COMMENT ON FUNCTION sentinai.api_outbox_failed_tenant(bigint, text) IS
	'The tenant of a record that Kafka refused; NULL: it has none. Error: SN011, also where it is not that tenant''s.';

CREATE FUNCTION sentinai_api.outbox_failed_retry(jsonb) RETURNS json
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
DECLARE
	args	jsonb := sentinai.api_args($1);
	failed	bigint := sentinai.api_bigint(args, 'id');
	tenant	text := coalesce(sentinai.tenant_check(args->>'tenant_id'), sentinai.api_outbox_failed_tenant(failed, NULL));
	answer	json;
BEGIN
	answer := sentinai.api_begin('outbox_failed_retry', tenant, args);
	IF answer IS NOT NULL THEN
		RETURN answer;
	END IF;
	PERFORM sentinai.api_outbox_failed_tenant(failed, tenant);
	RETURN sentinai.api_end(tenant, json_build_object('id', failed, 'new_id', sentinai.outbox_failed_retry(failed), 'status', 'queued'));
END
$$;
COMMENT ON FUNCTION sentinai_api.outbox_failed_retry(jsonb) IS
	E'Publishes a record that Kafka refused once more\nTakes {id, tenant_id}. It goes to the end of the outbox as it was; what came after it has overtaken it. Answers {id, new_id, status}. 409 where it was discarded. Idempotency-Key is kept.';

CREATE FUNCTION sentinai_api.outbox_failed_discard(jsonb) RETURNS json
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
DECLARE
	args	jsonb := sentinai.api_args($1);
	failed	bigint := sentinai.api_bigint(args, 'id');
	tenant	text := coalesce(sentinai.tenant_check(args->>'tenant_id'), sentinai.api_outbox_failed_tenant(failed, NULL));
	answer	json;
BEGIN
	answer := sentinai.api_begin('outbox_failed_discard', tenant, args);
	IF answer IS NOT NULL THEN
		RETURN answer;
	END IF;
	PERFORM sentinai.api_outbox_failed_tenant(failed, tenant);
	PERFORM sentinai.outbox_failed_discard(failed, sentinai.api_text(args, 'reason'), sentinai.api_text(args, 'actor'));
	SELECT json_build_object('id', f.id, 'status', 'discarded', 'discarded_at', f.discarded_at, 'discarded_by', f.discarded_by) INTO answer
	  FROM sentinai.outbox_failed f WHERE f.id = failed;
	RETURN sentinai.api_end(tenant, answer);
END
$$;
COMMENT ON FUNCTION sentinai_api.outbox_failed_discard(jsonb) IS
	E'Gives a record up that Kafka refused\nTakes {id, tenant_id, reason, actor}; reason is required. It stays as evidence. Answers {id, status, discarded_at, discarded_by}. 409 where it was discarded before. Idempotency-Key is kept.';
