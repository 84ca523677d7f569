-- api_dlq: dead letters over HTTP are the rows that dlq_list() and dlq_get() show, page by page
SET search_path = sentinai, public;
\set SHOW_CONTEXT never

SELECT tenant_add('api_a'), tenant_add('api_b'), tenant_add('api_many');
CREATE ROLE regress_api_viewer IN ROLE sentinai_viewer;
CREATE ROLE regress_api_payload IN ROLE sentinai_viewer, sentinai_payload;
CREATE ROLE regress_api_nobody IN ROLE sentinai_viewer;
SELECT tenant_role_add('regress_api_viewer', 'api_a'), tenant_role_add('regress_api_payload', 'api_a');

-- Of all that JSON escapes, of times of all kinds, and several of one moment
INSERT INTO dead_letter_queue (event_id, event_type, tenant_id, exception_id, worker_type, step, status, error_type, error_message,
	error_detail, sqlstate, fingerprint, original_topic, original_partition, original_offset, payload, event_metadata, event_timestamp, created_at, retry_token)
SELECT 'EVT_' || n, (ARRAY['A', 'B', NULL])[n % 3 + 1], CASE WHEN n <= 20 THEN 'api_a' ELSE 'api_b' END, 'EXC_' || n, 'w' || n % 2, 'handle',
	   CASE WHEN n % 5 = 0 THEN 'discarded' WHEN n % 7 = 0 THEN 'retrying' ELSE 'pending' END, 'e' || n % 4,
	   E'a "quote", a \\ back\\slash, a \t tab\n \r \b \f \x01\x1f\x7f, an ä, a 字 and a 🙂 ' || n, CASE WHEN n % 2 = 0 THEN '' END, 'SN001', 'f' || n % 2, 'exceptions', n % 3, n * 1000000007::bigint,
	   CASE WHEN n % 6 > 0 THEN jsonb_build_object('n', n, 'secret', E'"\\\n') END, CASE WHEN n % 6 = 1 THEN '{}'::jsonb END,
	   (ARRAY['1999-12-31 23:59:59.5+00', '2026-02-28 23:59:59.000001+00', 'infinity', '0044-03-15 12:00:00+00 BC', '2026-07-01 00:00:00+00'])[n % 5 + 1]::timestamptz,
	   timestamptz '2026-03-01 12:00:00+00' + n / 4 * interval '0.1 s', CASE WHEN n % 7 = 0 AND n % 5 > 0 THEN gen_random_uuid() END
  FROM generate_series(1, 24) n;
INSERT INTO dead_letter_queue (tenant_id, worker_type, step, error_type, error_message, fingerprint, original_topic)
SELECT 'api_many', 'w0', 'screen', 'e', 'm', 'f', 't' FROM generate_series(1, 10001);
VACUUM ANALYZE dead_letter_queue;
SELECT payload_mask_add('*', '{secret}');

-- Both are the same for everybody, in every time zone
CREATE FUNCTION regress_same(tenant text) RETURNS TABLE (entries bigint, payloads bigint, same boolean, each boolean)
	LANGUAGE sql AS $$
	SELECT count(*), count(l.payload), jsonb_agg(to_jsonb(l)) = (sentinai_api.dlq_list(tenant)::jsonb)->'items',
		   bool_and(to_jsonb(l) = sentinai_api.dlq_get(l.id)::jsonb)
	  FROM dlq_list(tenant) l
$$;
GRANT EXECUTE ON FUNCTION regress_same(text) TO sentinai_viewer;
SET TimeZone = 'UTC';
SELECT * FROM regress_same('api_a');
SELECT * FROM regress_same('api_b');
SET TimeZone = 'Asia/Kathmandu';
SELECT * FROM regress_same('api_a');
SET TimeZone = 'UTC';
SET SESSION AUTHORIZATION regress_api_viewer;
SELECT * FROM regress_same('api_a');
SELECT * FROM regress_same(NULL);
SET SESSION AUTHORIZATION regress_api_payload;
SELECT * FROM regress_same('api_a');
SELECT sentinai_api.dlq_list(event_type => 'B', p_limit => 1)::jsonb #> '{items,0,payload}' AS masked;
RESET SESSION AUTHORIZATION;

-- Nobody sees another's
CREATE FUNCTION regress_missing(id bigint, tenant text DEFAULT NULL) RETURNS text
	LANGUAGE plpgsql AS $$
BEGIN
	RETURN sentinai_api.dlq_get(id, tenant)::jsonb->>'event_id';
EXCEPTION WHEN SQLSTATE 'SN011' THEN
	RETURN replace(SQLERRM, id::text, 'N');
END $$;
GRANT EXECUTE ON FUNCTION regress_missing(bigint, text) TO sentinai_viewer;
SELECT min(id) AS other FROM dead_letter_queue WHERE tenant_id = 'api_b' \gset
SET SESSION AUTHORIZATION regress_api_viewer;
SELECT sentinai_api.dlq_list('api_b');
SELECT regress_missing(:other), regress_missing(:other, 'api_a'), regress_missing(1000000000);
SELECT sentinai_api.dlq_get();
SET SESSION AUTHORIZATION regress_api_nobody;
SELECT sentinai_api.dlq_list();
RESET SESSION AUTHORIZATION;
SELECT regress_missing(:other), regress_missing(:other, 'api_a');

-- Every set of filters, by both orders: the rows of the table
CREATE FUNCTION regress_ids(answer jsonb) RETURNS text
	LANGUAGE sql AS $$ SELECT string_agg(i->>'event_id', ' ' ORDER BY n) FROM jsonb_array_elements($1->'items') WITH ORDINALITY AS i (i, n) $$;
WITH f AS (
	SELECT t.t, s.s, e.e, w.w, y.y, p.p
	  FROM unnest(ARRAY[NULL, 'api_a']) t(t), unnest(ARRAY[NULL, 'pending']) s(s), unnest(ARRAY[NULL, 'B']) e(e), unnest(ARRAY[NULL, 'w1']) w(w),
		   unnest(ARRAY[NULL, 'e1']) y(y), unnest(ARRAY[NULL, 'f1']) p(p)),
found AS (
	SELECT f.*, a.desc, a.asc,
		   (SELECT string_agg(d.event_id, ' ' ORDER BY d.created_at DESC, d.id DESC) FROM dead_letter_queue d
			 WHERE d.event_id IS NOT NULL AND (t IS NULL OR d.tenant_id = t) AND (s IS NULL OR d.status = s) AND (e IS NULL OR d.event_type = e)
			   AND (w IS NULL OR d.worker_type = w) AND (y IS NULL OR d.error_type = y) AND (p IS NULL OR d.fingerprint = p)) AS right_ones
	  FROM f, LATERAL (SELECT sentinai_api.dlq_list(t, s, e, w, y, p, 1000)::jsonb AS desc, sentinai_api.dlq_list(t, s, e, w, y, p, 1000, p_order => 'asc')::jsonb AS asc) a
	 WHERE t IS NOT NULL OR e IS NOT NULL OR y IS NOT NULL OR p IS NOT NULL)
SELECT count(*) AS sets, count(*) FILTER (WHERE regress_ids("desc") IS DISTINCT FROM right_ones) AS wrong,
	   count(*) FILTER (WHERE regress_ids("asc") IS DISTINCT FROM (SELECT string_agg(x, ' ' ORDER BY n DESC) FROM string_to_table(right_ones, ' ') WITH ORDINALITY AS x (x, n))) AS wrong_asc,
	   count(*) FILTER (WHERE ("desc"->'total')::integer IS DISTINCT FROM coalesce(cardinality(string_to_array(right_ones, ' ')), 0) OR "desc"->>'total_relation' <> 'eq') AS wrong_total
  FROM found;

-- From page to page
CREATE FUNCTION regress_walk(tenant text, p_limit integer, p_order text) RETURNS text
	LANGUAGE plpgsql AS $$
DECLARE
	answer	jsonb := sentinai_api.dlq_list(tenant, p_limit => p_limit, p_order => p_order);
	ids		text := regress_ids(answer);
BEGIN
	WHILE answer->>'next_after' IS NOT NULL LOOP
		answer := sentinai_api.dlq_list(tenant, p_limit => p_limit, p_order => p_order, p_after => answer->>'next_after');
		ids := concat_ws(' ', ids, regress_ids(answer));
		IF answer->>'total' IS NOT NULL OR answer->>'total_relation' IS NOT NULL THEN
			RETURN 'a page in the middle was counted';
		END IF;
	END LOOP;
	RETURN ids;
END $$;
SELECT o, n, regress_walk('api_a', n, o) = regress_ids(sentinai_api.dlq_list('api_a', p_order => o)::jsonb) AS same
  FROM unnest(ARRAY['asc', 'desc']) o, unnest(ARRAY[1, 3, 4, 20, 21]) n ORDER BY 1, 2;
SELECT p_offset, a->'total' AS total, a->>'total_relation' AS relation, jsonb_array_length(a->'items') AS items, regexp_replace(a->>'next_after', '_\d+$', '_N') AS next_after
  FROM unnest(ARRAY[0, 18, 19, 20, 30]) p_offset, LATERAL (SELECT sentinai_api.dlq_list('api_a', p_limit => 2, p_offset => p_offset)::jsonb - 'limit' AS a) x;

-- More than ten thousand are counted on demand only, and that there are so many is known for a moment
SELECT a->'total' AS total, a->>'total_relation' AS relation
  FROM unnest(ARRAY[NULL, 'exact', NULL]) c, LATERAL (SELECT sentinai_api.dlq_list('api_many', p_limit => 1, p_count => c)::jsonb AS a) x;
SELECT a->'total' AS total, a->>'total_relation' AS relation
  FROM (SELECT sentinai_api.dlq_list('api_many', p_limit => 1, p_after => '2026-01-01T00:00:00.000000Z_1', p_order => 'asc', p_count => 'exact')::jsonb AS a) x;
DELETE FROM dead_letter_queue WHERE id = (SELECT min(id) FROM dead_letter_queue WHERE tenant_id = 'api_many');
SELECT a->'total' AS total, a->>'total_relation' AS relation FROM (SELECT sentinai_api.dlq_list('api_many', 'pending', p_limit => 1)::jsonb AS a) x;

-- By an index, whatever there is to filter by
BEGIN;
SELECT pg_stat_get_xact_numscans('dead_letter_queue'::regclass) AS before \gset
SELECT count(sentinai_api.dlq_list(t, s, e, p_limit => 1, p_offset => 0, p_order => o, p_after => a))
  FROM unnest(ARRAY['api_many']) t, unnest(ARRAY[NULL, 'pending']) s, unnest(ARRAY[NULL, 'A']) e, unnest(ARRAY['asc', 'desc']) o, unnest(ARRAY[NULL, '2026-01-01T00:00:00.000000Z_1']) a;
SELECT pg_stat_get_xact_numscans('dead_letter_queue'::regclass) - :before AS by_the_whole_table;
COMMIT;

-- What nginx found comes first, as of a POST
SET request.headers = '{"x-sentinai-args": "id=&tenant_id=&tenant_id=api_a&status=pending&limit=1&order=asc&offset=1&limit=2&count=exact&event_type=&error_type=e%31&unknown=1"}';
SELECT a->'items'->0->>'event_id' AS event_id, a->'total' AS total, a->'limit' AS "limit", a->'offset' AS "offset" FROM (SELECT sentinai_api.dlq_list('api_b', 'none', p_limit => 7)::jsonb AS a) x;
SELECT set_config('request.headers', format('{"x-sentinai-args": "id=%s&tenant_id=&"}', :other), false) IS NOT NULL AS set;
SELECT sentinai_api.dlq_get()::jsonb->>'event_id' AS event_id, sentinai_api.dlq_get(1)::jsonb->>'event_id' AS the_same;
CREATE FUNCTION regress_header(args text) RETURNS text
	LANGUAGE plpgsql AS $$
DECLARE
	detail	text;
BEGIN
	PERFORM set_config('request.headers', jsonb_build_object('x-sentinai-args', args)::text, false);
	RETURN coalesce((CASE WHEN args ~ '^id=[^&]' THEN sentinai_api.dlq_get() ELSE sentinai_api.dlq_list() END)::jsonb->>'total', 'found');
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
	RETURN concat_ws(' ', SQLSTATE, SQLERRM, detail);
END $$;
SELECT a, regress_header(a) FROM unnest(ARRAY['id=x&', 'id=99999999999999999999&', 'id=&tenant_id=&limit=x', 'id=&tenant_id=&limit=99999999999', 'id=&tenant_id=&offset=-1', 'id=&tenant_id=&tenant_id=api_a&status=%ff',
	'id=&tenant_id=&tenant_id=api+a', 'id=&tenant_id=api_b&tenant_id=api_a', 'id=&tenant_id=&tenant_id=api_a&order=up', 'id=&tenant_id=&tenant_id=api_a&after=1']) a;
SET request.headers = '';

-- What is refused
CREATE FUNCTION regress_refused(VARIADIC args text[]) RETURNS text
	LANGUAGE plpgsql AS $$
DECLARE
	detail	text;
BEGIN
	RETURN sentinai_api.dlq_list('api_a', args[1], NULL, NULL, NULL, NULL, args[2]::integer, args[3]::integer, args[4], args[5], args[6])::text;
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
	RETURN concat_ws(' ', SQLSTATE, SQLERRM, detail);
END $$;
SELECT regress_refused(a, b, c, d, e, f)
  FROM (VALUES ('none', '1', '0', NULL, 'desc', NULL), (E'a"\n', '1', '0', NULL, 'desc', NULL), (repeat('ä', 200), '1', '0', NULL, 'desc', NULL),
			   (NULL, '0', '0', NULL, 'desc', NULL), (NULL, '1001', '0', NULL, 'desc', NULL), (NULL, NULL, '0', NULL, 'desc', NULL),
			   (NULL, '1', '-1', NULL, 'desc', NULL), (NULL, '1', NULL, NULL, 'desc', NULL),
			   (NULL, '1', '0', NULL, 'DESC', NULL), (NULL, '1', '0', NULL, NULL, NULL), (NULL, '1', '0', NULL, 'asc', 'all')) v (a, b, c, d, e, f);
SELECT regress_refused(NULL, '1', '0', a, 'desc', NULL)
  FROM unnest(ARRAY['', '1', '2026-01-01', '2026-13-01T00:00:00.000000Z_1', '2026-02-29T00:00:00.000000Z_1', '2026-01-01T24:00:00.000000Z_1', '2026-01-01T00:60:00.000000Z_1',
	'2026-01-01T00:00:60.000000Z_1', '2026-01-01T00:00:00.00000Z_1', '2026-01-01T00:00:00.000000Z', '2026-01-01T00:00:00.000000Z_', '2026-01-01T00:00:00.000000Z_x', '2026-01-01T00:00:00.000000Z_1x',
	'2026-01-01T00:00:00.000000Z_ 1', '2026-01-01T00:00:00.000000Z_9223372036854775808', '999999-01-01T00:00:00.000000Z_1', '-2026-01-01T00:00:00.000000Z_1', '+026-01-01T00:00:00.000000Z_1']) a;

-- A path that is longer than a relation's name leaves nothing in the backend
SELECT set_config('request.path', '/' || repeat('a', 80), false) IS NOT NULL AS set, set_config('request.method', 'GET', false);
CREATE FUNCTION regress_cached() RETURNS bigint
	LANGUAGE sql SECURITY DEFINER AS $$ SELECT used_bytes FROM pg_backend_memory_contexts WHERE name = 'CacheMemoryContext' $$;
SET SESSION AUTHORIZATION regress_api_viewer;
SELECT count(api_pre_request()), regress_cached() > 0 AS warm FROM generate_series(1, 10);
SELECT regress_cached() AS before \gset
SELECT count(api_pre_request()) FROM generate_series(1, 500);
SELECT regress_cached() - :before < 20000 AS no_more_than_before;
RESET SESSION AUTHORIZATION;

DROP FUNCTION regress_cached();
DROP FUNCTION regress_same(text), regress_missing(bigint, text), regress_header(text), regress_ids(jsonb), regress_walk(text, integer, text), regress_refused(text[]);
TRUNCATE dead_letter_queue;
SELECT payload_mask_remove('*', '{secret}'), tenant_role_remove('regress_api_viewer', 'api_a'), tenant_role_remove('regress_api_payload', 'api_a');
DROP ROLE regress_api_viewer, regress_api_payload, regress_api_nobody;
