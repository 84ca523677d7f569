-- 91_api: sentinai over HTTP, by PostgREST over the schema sentinai_api and docker/nginx.conf in front of it. Here is what
-- all of it shares: errors, headers, arguments, Idempotency-Key, and what runs before each request. The functions of the
-- subjects are in 93_api_*.sql and behind, what paths take in 92_api_path.sql, what each role may call in 98_api_role.sql.
--
-- A function of sentinai_api reads its arguments, calls sentinai.*, and shapes the answer. GET functions are STABLE: their
-- transaction is read only. A POST function takes the whole body as its one unnamed argument, since a body may lack any field
-- and have others; what stands in the path and behind the "?" comes in the header X-Sentinai-Args, percent-encoded as it
-- was, and counts more than the body.

CREATE SCHEMA sentinai_api;
COMMENT ON SCHEMA sentinai_api IS
	E'sentinai\nDead letters, limits, usage, reports, exceptions and health of an event platform. The runbook''s paths are in front of these functions.';

-- ---- errors ----

-- api_error.c makes answers of errors, in the authenticator's sessions only: functions raise what they raise anywhere.
CREATE FUNCTION sentinai.api_status_list() RETURNS TABLE (sqlstate text, status integer, meaning text)
	LANGUAGE c IMMUTABLE PARALLEL SAFE
	AS 'MODULE_PATHNAME', 'sn_api_status_list';
COMMENT ON FUNCTION sentinai.api_status_list() IS
	'The status of an HTTP answer for each SQLSTATE, or class of them, that ends a query of PostgREST''s. For others PostgREST decides: 401 or 403 for 42501, 405 for 25006, 500 for what should not happen.';

CREATE FUNCTION sentinai.api_way_list() RETURNS TABLE (function_name text, path text)
	LANGUAGE c IMMUTABLE PARALLEL SAFE
	AS 'MODULE_PATHNAME', 'sn_api_way_list';
COMMENT ON FUNCTION sentinai.api_way_list() IS 'Functions that hints name, with the path that an answer over HTTP adds.';

-- ---- headers ----

CREATE FUNCTION sentinai.api_request_header(name text) RETURNS text
	LANGUAGE c STABLE STRICT
	AS 'MODULE_PATHNAME', 'sn_api_request_header_sql';
COMMENT ON FUNCTION sentinai.api_request_header(text) IS 'A header of this request, by its name in small letters; NULL: there is none.';

CREATE FUNCTION sentinai.api_header(name text, value text) RETURNS void
	LANGUAGE sql VOLATILE
	SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT set_config('response.headers', (coalesce(nullif(current_setting('response.headers', true), '')::jsonb, '[]') || jsonb_build_object($1, $2))::text, true)
$$;
COMMENT ON FUNCTION sentinai.api_header(text, text) IS 'Adds a header to the answer.';

CREATE FUNCTION sentinai.api_answer(status integer) RETURNS void
	LANGUAGE sql VOLATILE
	SET search_path = pg_catalog, pg_temp
	AS $$ SELECT set_config('response.status', $1::text, true) $$;
COMMENT ON FUNCTION sentinai.api_answer(integer) IS 'Sets the status of the answer.';

-- ---- arguments ----

CREATE FUNCTION sentinai.api_decode(value text) RETURNS text
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
	AS 'MODULE_PATHNAME', 'sn_api_decode';
COMMENT ON FUNCTION sentinai.api_decode(text) IS 'A text without its percent-encoding (RFC 3986). Error: 22021, it is no UTF-8.';

CREATE FUNCTION sentinai.api_args(body jsonb) RETURNS jsonb
	LANGUAGE c STABLE
	AS 'MODULE_PATHNAME', 'sn_api_args_sql';
COMMENT ON FUNCTION sentinai.api_args(jsonb) IS
	'The arguments of a POST: the body, and over it those of the path and behind the "?" (X-Sentinai-Args: id and tenant_id of the path, then the others). Errors: 22021, SN079 (the body is no object).';

CREATE FUNCTION sentinai.api_path_id(given text) RETURNS text
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	SELECT coalesce(sentinai.api_decode(substring(sentinai.api_request_header('x-sentinai-args') FROM '^id=([^&]+)')), $1)
$$;
COMMENT ON FUNCTION sentinai.api_path_id(text) IS
	'The id in the path of a GET, where nginx has found one (in a query a "+" would be a blank), else what was given. Error: 22021.';

CREATE FUNCTION sentinai.api_encode(value text) RETURNS text
	LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT string_agg(CASE WHEN c ~ '^[A-Za-z0-9_.~-]$' THEN c
						   ELSE regexp_replace(upper(encode(convert_to(c, 'UTF8'), 'hex')), '(..)', '%\1', 'g') END, '' ORDER BY n)
	  FROM string_to_table($1, NULL) WITH ORDINALITY AS t (c, n)
$$;
COMMENT ON FUNCTION sentinai.api_encode(text) IS 'A text in percent-encoding, as a segment of a path.';

CREATE FUNCTION sentinai.api_wrong(name text, value jsonb, must text) RETURNS void
	LANGUAGE plpgsql IMMUTABLE
	SET search_path = pg_catalog, pg_temp
	AS $$
BEGIN
	RAISE EXCEPTION USING
		ERRCODE = 'SN001',
		MESSAGE = format('%s must be %s', $1, $3),
		DETAIL = CASE WHEN $2 IS NULL THEN 'It is missing.' ELSE format('It is %s.', left($2::text, 100)) END;
END
$$;
COMMENT ON FUNCTION sentinai.api_wrong(text, jsonb, text) IS 'Internal: raises SN001 for an argument.';

CREATE FUNCTION sentinai.api_tenant(tenant_id text) RETURNS text
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
DECLARE
	tenant	text := sentinai.tenant_check($1);
BEGIN
	IF tenant IS NULL THEN
		PERFORM sentinai.api_wrong('tenant_id', NULL, 'given');
	END IF;
	RETURN tenant;
END
$$;
COMMENT ON FUNCTION sentinai.api_tenant(text) IS
	'The tenant that is asked for, the caller''s own where none is given: by who sees all it must be. Errors: 42501, SN001.';

CREATE FUNCTION sentinai.api_text(args jsonb, name text) RETURNS text
	LANGUAGE c IMMUTABLE STRICT
	AS 'MODULE_PATHNAME', 'sn_api_text_sql';
COMMENT ON FUNCTION sentinai.api_text(jsonb, text) IS 'An argument that is a text; NULL: not given. Error: SN001.';

CREATE FUNCTION sentinai.api_bigint(args jsonb, name text, fallback bigint DEFAULT NULL) RETURNS bigint
	LANGUAGE c IMMUTABLE
	AS 'MODULE_PATHNAME', 'sn_api_bigint_sql';
COMMENT ON FUNCTION sentinai.api_bigint(jsonb, text, bigint) IS 'An argument that is an integer; without a fallback it is required. Error: SN001.';

CREATE FUNCTION sentinai.api_boolean(args jsonb, name text, fallback boolean) RETURNS boolean
	LANGUAGE c IMMUTABLE
	AS 'MODULE_PATHNAME', 'sn_api_boolean';
COMMENT ON FUNCTION sentinai.api_boolean(jsonb, text, boolean) IS 'An argument that is true or false. Error: SN001.';

CREATE FUNCTION sentinai.api_page(p_limit integer, p_offset integer) RETURNS void
	LANGUAGE plpgsql IMMUTABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
BEGIN
	IF $1 IS NULL OR $1 NOT BETWEEN 1 AND 1000 THEN
		PERFORM sentinai.api_wrong('limit', to_jsonb($1), '1 to 1000');
	ELSIF $2 IS NULL OR $2 < 0 THEN
		PERFORM sentinai.api_wrong('offset', to_jsonb($2), '0 or more');
	END IF;
END
$$;
COMMENT ON FUNCTION sentinai.api_page(integer, integer) IS 'Raises SN001 unless a page may be so long and begin there.';

CREATE FUNCTION sentinai.api_after(p_after text, OUT at timestamptz, OUT id text)
	LANGUAGE c IMMUTABLE PARALLEL SAFE
	AS 'MODULE_PATHNAME', 'sn_api_after_sql';
COMMENT ON FUNCTION sentinai.api_after(text) IS 'Where a page begins: behind the row of that time and id. Error: SN001.';

CREATE FUNCTION sentinai.api_cursor(at timestamptz, id text) RETURNS text
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
	AS 'MODULE_PATHNAME', 'sn_api_cursor_sql';
COMMENT ON FUNCTION sentinai.api_cursor(timestamptz, text) IS 'What api_after() reads: next_after of a page whose last row this is.';

CREATE FUNCTION sentinai.api_slice(items json[], keys text[], p_limit integer, p_offset integer, p_after text, OUT page json, OUT total bigint, OUT next_after text)
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
BEGIN
	PERFORM sentinai.api_page($3, $4), sentinai.api_after($5);
	SELECT coalesce(json_agg(i.item ORDER BY i.n) FILTER (WHERE i.n <= $3), '[]'), CASE WHEN count(*) > $3 THEN max(i.key) FILTER (WHERE i.n = $3) END
	  INTO page, next_after
	  FROM (SELECT u.item, u.key, row_number() OVER (ORDER BY u.key COLLATE "C") - $4 AS n
			  FROM unnest($1, $2) AS u (item, key)
			 WHERE $5 IS NULL OR u.key COLLATE "C" > $5) i
	 WHERE i.n > 0;
	total := coalesce(cardinality($1), 0);
END
$$;
COMMENT ON FUNCTION sentinai.api_slice(json[], text[], integer, integer, text) IS
	'A page of a list that was read whole, in the order of keys, each made by api_cursor(). next_after: of the page''s last item, where more follow. Error: SN001.';

CREATE FUNCTION sentinai.api_list(items json) RETURNS json
	LANGUAGE sql IMMUTABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $$ SELECT json_build_object('items', coalesce($1, '[]'), 'total', coalesce(json_array_length($1), 0)) $$;
COMMENT ON FUNCTION sentinai.api_list(json) IS 'A list that has no pages: {items, total}; NULL: an empty one.';

-- ---- Idempotency-Key ----

CREATE FUNCTION sentinai.api_key() RETURNS text
	LANGUAGE c STABLE
	AS 'MODULE_PATHNAME', 'sn_api_key_sql';
COMMENT ON FUNCTION sentinai.api_key() IS 'The Idempotency-Key of this request; NULL: it has none.';

CREATE FUNCTION sentinai.api_begin(operation text, tenant_id text, args jsonb) RETURNS json
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
DECLARE
	key		text := sentinai.api_key();
	begun	record;
BEGIN
	IF key IS NULL THEN
		RETURN NULL;
	ELSIF $2 IS NULL THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN001',
			MESSAGE = 'an Idempotency-Key is a tenant''s',
			HINT = 'Say whose by ?tenant_id=, or send no key for what is everybody''s.';
	ELSIF EXISTS (SELECT FROM sentinai.tenant t WHERE t.tenant_id = $2 AND t.status = 'archived') THEN
		PERFORM sentinai.api_no_key('The tenant is archived.');
	END IF;
	SELECT * INTO begun FROM sentinai.idempotency_begin($2, 'http', key, jsonb_build_object('operation', $1, 'args', $3), wait => false);
	IF begun.state <> 'done' THEN
		RETURN NULL;
	END IF;
	PERFORM sentinai.api_header(h.key, h.value) FROM jsonb_each_text(begun.response->'headers') h;
	PERFORM sentinai.api_header('Idempotency-Replayed', 'true'), sentinai.api_answer((begun.response->>'status')::integer);
	RETURN begun.response->>'body';
END
$$;
COMMENT ON FUNCTION sentinai.api_begin(text, text, jsonb) IS
	'Begins an operation for which the request may have an Idempotency-Key. NULL: do it, and call api_end(); else it was done before, and this is the answer again. Keys are the tenant''s, whichever the path. Errors: SN001, SN004, SN060 (in flight), SN061 (used for another request), SN064 (the tenant is archived).';

CREATE FUNCTION sentinai.api_end(tenant_id text, body json, status integer DEFAULT 200, headers jsonb DEFAULT '{}') RETURNS json
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
BEGIN
	IF sentinai.api_key() IS NOT NULL THEN
		PERFORM sentinai.idempotency_complete($1, 'http', sentinai.api_key(),
			jsonb_build_object('status', $3, 'headers', $4, 'body', $2::text));
	END IF;
	PERFORM sentinai.api_header(h.key, h.value) FROM jsonb_each_text($4) h;
	PERFORM sentinai.api_answer($3);
	RETURN $2;
END
$$;
COMMENT ON FUNCTION sentinai.api_end(text, json, integer, jsonb) IS
	'Ends what api_begin() began: the answer is sent, and kept for who asks again with the same key.';

CREATE FUNCTION sentinai.api_no_key(why text) RETURNS void
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
BEGIN
	IF sentinai.api_key() IS NOT NULL THEN
		RAISE EXCEPTION USING ERRCODE = 'SN064', MESSAGE = 'no Idempotency-Key is kept here', DETAIL = $1, HINT = 'Send the request without one.';
	END IF;
END
$$;
COMMENT ON FUNCTION sentinai.api_no_key(text) IS
	'Refuses a request that has an Idempotency-Key, where none is kept: whoever sends one counts on it. Error: SN064.';

-- ---- before each request ----

CREATE FUNCTION sentinai.api_pre_request() RETURNS void
	LANGUAGE c VOLATILE
	AS 'MODULE_PATHNAME', 'sn_api_pre_request';
COMMENT ON FUNCTION sentinai.api_pre_request() IS
	'PostgREST''s db-pre-request: charges the caller''s tenant one of its api_requests and counts the call (usage api_calls); an answer 429 where it has none left, else the headers RateLimit and RateLimit-Policy. Sets the time zone to UTC. Refuses a GET with a query parameter that its function doesn''t take, where that takes any and the caller may execute it (SN001). Works in a read only transaction. A 429 is no line in the server''s log.';
