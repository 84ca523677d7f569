-- 96_api_report: audit reports over HTTP.

CREATE FUNCTION sentinai.api_report(report jsonb) RETURNS json
	LANGUAGE sql IMMUTABLE
	SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT json_object_agg(c.key, r->c.key ORDER BY c.n)
	  FROM (SELECT $1 AS r) report,
		   unnest(ARRAY['id', 'tenant_id', 'report_type', 'title', 'status', 'format', 'parameters', 'file_size_bytes', 'row_count', 'download_url',
						'download_expires_at', 'error_message', 'requested_by', 'started_at', 'completed_at', 'created_at', 'rows_done', 'percent',
						'waits_for', 'tries', 'sha256', 'legal_hold']) WITH ORDINALITY AS c (key, n)
	 WHERE r ? c.key
$$;
COMMENT ON FUNCTION sentinai.api_report(jsonb) IS 'Internal: a row of report_list() or report_status() as HTTP shows it.';

CREATE FUNCTION sentinai_api.report_list(tenant_id text DEFAULT NULL, status text DEFAULT NULL, page integer DEFAULT 1, page_size integer DEFAULT 50,
		p_after text DEFAULT NULL) RETURNS json
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	#variable_conflict use_column
DECLARE
	tenant		text := sentinai.api_tenant($1);
	place		record := sentinai.api_after($5);
	items		json;
	last_item	text;
	total		bigint;
BEGIN
	SELECT coalesce(json_agg(sentinai.api_report(to_jsonb(l)) ORDER BY l.created_at DESC, l.id DESC), '[]'), max(l.total) INTO items, total
	  FROM sentinai.report_list(tenant, $2, $3, $4, place.at, place.id) l;
	IF total IS NULL THEN
		-- The page is behind the last one.
		SELECT max(l.total) INTO total FROM sentinai.report_list(tenant, $2, 1, 1) l;
	ELSIF json_array_length(items) = $4 THEN
		last_item := sentinai.api_cursor((items->-1->>'created_at')::timestamptz, items->-1->>'id');
	END IF;
	RETURN json_build_object('items', items, 'total', coalesce(total, 0), 'page', $3, 'page_size', $4,
							 'total_pages', ceil(coalesce(total, 0)::numeric / $4)::bigint, 'next_after', last_item);
END
$$;
COMMENT ON FUNCTION sentinai_api.report_list(text, text, integer, integer, text) IS
	E'The reports of a tenant, the newest first\nOf a status (pending, generating, completed, failed, expired) or all; page counts from 1, page_size is 1 to 1000; p_after, the next_after of the page before, goes on behind it and costs the same on every page. Answers {items, total, page, page_size, total_pages, next_after}.';

CREATE FUNCTION sentinai_api.report_stats(tenant_id text DEFAULT NULL) RETURNS json
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
BEGIN
	RETURN (SELECT row_to_json(s) FROM sentinai.report_stats(sentinai.api_tenant($1)) s);
END
$$;
COMMENT ON FUNCTION sentinai_api.report_stats(text) IS
	E'How many reports a tenant has\nAnswers {tenant_id, total_reports, pending_count, generating_count, completed_count, failed_count, expired_count, by_report_type}.';

CREATE FUNCTION sentinai_api.report_types() RETURNS json
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	SELECT json_build_object('items', coalesce(json_agg(t), '[]'), 'total', count(*)) FROM sentinai.report_type_list() t
$$;
COMMENT ON FUNCTION sentinai_api.report_types() IS
	E'The types of reports\nWith the parameters that each takes besides from_date and to_date. Answers {items, total}.';

CREATE FUNCTION sentinai_api.report_get(id text, tenant_id text DEFAULT NULL) RETURNS json
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
BEGIN
	RETURN (SELECT sentinai.api_report(to_jsonb(s)) FROM sentinai.report_status($1, sentinai.tenant_check($2)) s);
END
$$;
COMMENT ON FUNCTION sentinai_api.report_get(text, text) IS
	E'One report\nIts status, how far it is, where it is downloaded from and until when. 404 where there is none, or where it is another tenant''s.';

CREATE FUNCTION sentinai_api.report_manifest(id text, tenant_id text DEFAULT NULL) RETURNS json
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
BEGIN
	RETURN sentinai.report_manifest_get($1, sentinai.tenant_check($2));
END
$$;
COMMENT ON FUNCTION sentinai_api.report_manifest(text, text) IS
	E'What proves a completed report\nThe manifest as the text that was signed, its signature and the key: keep it beside the file, sentinai-worker verify reads it.';

CREATE FUNCTION sentinai_api.report_request(jsonb) RETURNS json
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
DECLARE
	args	jsonb := sentinai.api_args($1);
	tenant	text := sentinai.api_tenant(args->>'tenant_id');
	answer	json;
BEGIN
	answer := sentinai.api_begin('report_request', tenant, args);
	IF answer IS NOT NULL THEN
		RETURN answer;
	END IF;
	SELECT row_to_json(r) INTO answer
	  FROM sentinai.report_request(tenant, sentinai.api_text(args, 'report_type'), sentinai.api_text(args, 'title'), sentinai.api_text(args, 'format'),
								   CASE WHEN args->'parameters' = 'null' THEN NULL ELSE args->'parameters' END, sentinai.api_text(args, 'requested_by')) r;
	RETURN sentinai.api_end(tenant, answer, 202,
		jsonb_build_object('Location', format('/audit/reports/%s?tenant_id=%s', answer->>'id', tenant)));
END
$$;
COMMENT ON FUNCTION sentinai_api.report_request(jsonb) IS
	E'Asks for a report\nTakes {tenant_id, requested_by, report_type, title, format: csv, json, jsonl or pdf, parameters: {from_date, to_date, ...}}. Answers 202 with {id, status, download_url, requested_at}: it is made after this. 429 where the tenant has had its report_generations. Idempotency-Key is kept.';

-- ---- downloads ----

CREATE FUNCTION sentinai.api_file(file_name text, content_type text, sha256 text) RETURNS void
	LANGUAGE sql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	SELECT sentinai.api_header('Content-Type', $2), sentinai.api_header('Content-Disposition', format('attachment; filename="%s"', $1)),
		   sentinai.api_header('Repr-Digest', format('sha-256=:%s:', encode(decode($3, 'hex'), 'base64'))), sentinai.api_header('Cache-Control', 'no-store')
$$;
COMMENT ON FUNCTION sentinai.api_file(text, text, text) IS 'The headers of a download.';

CREATE FUNCTION sentinai_api.report_download(jsonb) RETURNS sentinai_api."*/*"
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
DECLARE
	args	jsonb := sentinai.api_args($1);
	file	record;
BEGIN
	SELECT * INTO file
	  FROM sentinai.report_download(sentinai.api_text(args, 'id'), sentinai.tenant_check(args->>'tenant_id'), sentinai.api_text(args, 'actor'));
	PERFORM sentinai.api_file(file.file_name, file.content_type, file.sha256);
	RETURN file.content;
END
$$;
COMMENT ON FUNCTION sentinai_api.report_download(jsonb) IS
	E'Downloads a completed report\nTakes {id, tenant_id, actor}. The file, with its Content-Type, name and SHA-256. Each download is noted. 409 where it is not completed, 410 where it has expired.';

CREATE FUNCTION sentinai_api.report_download_head(id text, tenant_id text DEFAULT NULL) RETURNS sentinai_api."*/*"
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
BEGIN
	PERFORM sentinai.api_file(f.file_name, f.content_type, f.sha256) FROM sentinai.report_download_head($1, sentinai.tenant_check($2)) f;
	RETURN ''::bytea;
END
$$;
COMMENT ON FUNCTION sentinai_api.report_download_head(text, text) IS
	E'Whether a report can be downloaded\nThe headers of its download, and nothing is noted: what HEAD of a download answers.';

CREATE FUNCTION sentinai.api_link_of(id text, token text) RETURNS void
	LANGUAGE plpgsql IMMUTABLE
	SET search_path = pg_catalog, pg_temp
	AS $$
BEGIN
	IF $1 IS NOT NULL AND NOT coalesce(starts_with($2, $1 || '.'), false) THEN
		RAISE EXCEPTION USING ERRCODE = 'SN073', MESSAGE = 'link is not valid', DETAIL = 'It is of another report.';
	END IF;
END
$$;
COMMENT ON FUNCTION sentinai.api_link_of(text, text) IS 'Raises SN073 unless the token is a link''s to the report that stands in the path.';

-- For who has a link, with a token of ours or without: it runs as its owner, since it is the link that decides.
CREATE FUNCTION sentinai_api.report_download_by_token(jsonb) RETURNS sentinai_api."*/*"
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
DECLARE
	args	jsonb := sentinai.api_args($1);
	file	record;
BEGIN
	PERFORM sentinai.api_link_of(args->>'id', args->>'token');
	SELECT * INTO file FROM sentinai.report_download_by_token(sentinai.api_text(args, 'token'));
	PERFORM sentinai.api_file(file.file_name, file.content_type, file.sha256);
	RETURN file.content;
END
$$;
COMMENT ON FUNCTION sentinai_api.report_download_by_token(jsonb) IS
	E'Downloads the report of a link\nTakes {token}, of report_link. Needs no login. 403 where the link is not ours or is over, 410 where the report has expired.';

CREATE FUNCTION sentinai_api.report_download_head_by_token(id text DEFAULT NULL, token text DEFAULT NULL) RETURNS sentinai_api."*/*"
	LANGUAGE plpgsql STABLE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
BEGIN
	PERFORM sentinai.api_link_of($1, $2);
	PERFORM sentinai.api_file(f.file_name, f.content_type, f.sha256) FROM sentinai.report_download_head_by_token($2) f;
	RETURN ''::bytea;
END
$$;
COMMENT ON FUNCTION sentinai_api.report_download_head_by_token(text, text) IS
	E'Whether the report of a link can be downloaded\nThe headers of its download, and nothing is noted: what HEAD of a link answers. Needs no login.';

-- What people do with a report: one function each, for their history's sake; the shape is the same.
CREATE FUNCTION sentinai.api_report_act(body jsonb, act text) RETURNS json
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
DECLARE
	args	jsonb := sentinai.api_args($1);
	id		text := sentinai.api_text(args, 'id');
	tenant	text;
	answer	json;
BEGIN
	SELECT s.tenant_id INTO tenant FROM sentinai.report_status(id, sentinai.tenant_check(args->>'tenant_id')) s;
	answer := sentinai.api_begin('report_' || $2, tenant, args);
	IF answer IS NOT NULL THEN
		RETURN answer;
	END IF;
	CASE $2
		WHEN 'cancel' THEN PERFORM sentinai.report_cancel(id, sentinai.api_text(args, 'reason'), sentinai.api_text(args, 'actor'));
		WHEN 'retry' THEN PERFORM sentinai.report_retry(id, sentinai.api_text(args, 'reason'), sentinai.api_text(args, 'actor'));
		WHEN 'hold' THEN PERFORM sentinai.report_hold(id, sentinai.api_text(args, 'reason'), sentinai.api_text(args, 'actor'));
		WHEN 'release' THEN PERFORM sentinai.report_release(id, sentinai.api_text(args, 'reason'), sentinai.api_text(args, 'actor'));
	END CASE;
	SELECT sentinai.api_report(to_jsonb(s)) INTO answer FROM sentinai.report_status(id, tenant) s;
	RETURN sentinai.api_end(tenant, answer);
END
$$;
COMMENT ON FUNCTION sentinai.api_report_act(jsonb, text) IS 'What report_cancel, report_retry, report_hold and report_release of sentinai_api share.';

CREATE FUNCTION sentinai_api.report_cancel(jsonb) RETURNS json
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
BEGIN
	RETURN sentinai.api_report_act($1, 'cancel');
END
$$;
COMMENT ON FUNCTION sentinai_api.report_cancel(jsonb) IS
	E'Ends a report that is not completed\nTakes {id, tenant_id, reason, actor}. Answers the report. 409 where it has ended already. Idempotency-Key is kept.';

CREATE FUNCTION sentinai_api.report_retry(jsonb) RETURNS json
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
BEGIN
	RETURN sentinai.api_report_act($1, 'retry');
END
$$;
COMMENT ON FUNCTION sentinai_api.report_retry(jsonb) IS
	E'Makes a failed report once more\nTakes {id, tenant_id, reason, actor}. Answers the report. 409 unless it has failed. Idempotency-Key is kept.';

CREATE FUNCTION sentinai_api.report_hold(jsonb) RETURNS json
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
BEGIN
	RETURN sentinai.api_report_act($1, 'hold');
END
$$;
COMMENT ON FUNCTION sentinai_api.report_hold(jsonb) IS
	E'Keeps a report from expiring\nTakes {id, tenant_id, reason, actor}; reason is required. Answers the report. Idempotency-Key is kept.';

CREATE FUNCTION sentinai_api.report_release(jsonb) RETURNS json
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
BEGIN
	RETURN sentinai.api_report_act($1, 'release');
END
$$;
COMMENT ON FUNCTION sentinai_api.report_release(jsonb) IS
	E'Lets a report expire again\nTakes {id, tenant_id, reason, actor}; reason is required. Answers the report. Idempotency-Key is kept.';

CREATE FUNCTION sentinai_api.report_link(jsonb) RETURNS json
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
DECLARE
	args	jsonb := sentinai.api_args($1);
	id		text := sentinai.api_text(args, 'id');
	seconds	bigint := sentinai.api_bigint(args, 'valid_for_seconds', 86400);
BEGIN
	PERFORM sentinai.api_no_key('A link is a secret: it is stored nowhere, and made once more for who asks again.');
	IF seconds NOT BETWEEN 1 AND 31536000 THEN
		PERFORM sentinai.api_wrong('valid_for_seconds', args->'valid_for_seconds', '1 to 31536000');
	END IF;
	PERFORM FROM sentinai.report_status(id, sentinai.tenant_check(args->>'tenant_id'));
	RETURN (SELECT row_to_json(l) FROM sentinai.report_link(id, make_interval(secs => seconds), sentinai.api_text(args, 'actor')) l);
END
$$;
COMMENT ON FUNCTION sentinai_api.report_link(jsonb) IS
	E'A link that downloads a report without a login\nTakes {id, tenant_id, actor, valid_for_seconds: 86400}; 1 second to a year. Answers {url, token, expires_at}; it ends with the report at the latest.';

CREATE FUNCTION sentinai_api.report_chain_check(tenant_id text DEFAULT NULL) RETURNS json
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
BEGIN
	RETURN sentinai.api_list((SELECT json_agg(c) FROM sentinai.report_chain_check(sentinai.api_tenant($1)) c));
END
$$;
COMMENT ON FUNCTION sentinai_api.report_chain_check(text) IS
	E'Whether the manifests of a tenant''s reports are whole\nThose that don''t fit: changed, badly signed, or with one missing before. None: all is well. Answers {items: [{n, report_id, problem}], total}.';

-- ---- legal holds ----

CREATE FUNCTION sentinai_api.legal_hold_list(tenant_id text DEFAULT NULL, released boolean DEFAULT false, p_limit integer DEFAULT 100,
		p_offset integer DEFAULT 0, p_after text DEFAULT NULL) RETURNS json
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
DECLARE
	items	json[];
	keys	text[];
BEGIN
	SELECT array_agg(row_to_json(h)), array_agg(sentinai.api_cursor(h.placed_at, lpad(h.id::text, 19, '0'))) INTO items, keys
	  FROM sentinai.legal_hold_list(sentinai.tenant_check($1), coalesce($2, false)) h;
	RETURN (SELECT json_build_object('items', s.page, 'total', s.total, 'limit', $3, 'offset', $4, 'next_after', s.next_after)
			  FROM sentinai.api_slice(items, keys, $3, $4, $5) s);
END
$$;
COMMENT ON FUNCTION sentinai_api.legal_hold_list(text, boolean, integer, integer, text) IS
	E'Legal holds, the oldest first\nThose that stand; released: those that were released too. p_after, the next_after of the page before, goes on behind it. Answers {items: [{id, tenant_id, report_id, period_from, period_to, reason, placed_by, placed_at, release_reason, released_by, released_at}], total, limit, offset, next_after}.';

CREATE FUNCTION sentinai.api_hold(hold_id bigint, tenant_id text DEFAULT NULL) RETURNS json
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
DECLARE
	hold	json;
BEGIN
	SELECT row_to_json(h) INTO hold FROM sentinai.legal_hold_list($2, true) h WHERE h.id = $1;
	IF hold IS NULL THEN
		RAISE EXCEPTION USING ERRCODE = 'SN011', MESSAGE = format('there is no legal hold %s', $1), HINT = 'GET /audit/holds lists them.';
	END IF;
	RETURN hold;
END
$$;
COMMENT ON FUNCTION sentinai.api_hold(bigint, text) IS
	'A legal hold as HTTP shows it. Error: SN011, also where it is not that tenant''s.';

CREATE FUNCTION sentinai_api.legal_hold_add(jsonb) RETURNS json
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
DECLARE
	args	jsonb := sentinai.api_args($1);
	tenant	text := sentinai.api_tenant(args->>'tenant_id');
	hold_id	bigint;
	answer	json;
BEGIN
	answer := sentinai.api_begin('legal_hold_add', tenant, args);
	IF answer IS NOT NULL THEN
		RETURN answer;
	END IF;
	hold_id := sentinai.legal_hold_add(tenant, sentinai.api_text(args, 'reason'), sentinai.api_text(args, 'from_date'),
		sentinai.api_text(args, 'to_date'), sentinai.api_text(args, 'actor'));
	RETURN sentinai.api_end(tenant, sentinai.api_hold(hold_id), 201);
END
$$;
COMMENT ON FUNCTION sentinai_api.legal_hold_add(jsonb) IS
	E'Places a legal hold\nTakes {tenant_id, reason, from_date, to_date, actor}; reason is required, a date that is missing is no bound. What the tenant has in the period is kept until the hold is released. Answers 201 with the hold. Idempotency-Key is kept.';

CREATE FUNCTION sentinai_api.legal_hold_release(jsonb) RETURNS json
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
DECLARE
	args	jsonb := sentinai.api_args($1);
	hold_id	bigint := sentinai.api_bigint(args, 'id');
	tenant	text := sentinai.api_hold(hold_id, sentinai.tenant_check(args->>'tenant_id'))->>'tenant_id';
	answer	json;
BEGIN
	answer := sentinai.api_begin('legal_hold_release', tenant, args);
	IF answer IS NOT NULL THEN
		RETURN answer;
	END IF;
	PERFORM sentinai.legal_hold_release(hold_id, sentinai.api_text(args, 'reason'), sentinai.api_text(args, 'actor'));
	RETURN sentinai.api_end(tenant, sentinai.api_hold(hold_id));
END
$$;
COMMENT ON FUNCTION sentinai_api.legal_hold_release(jsonb) IS
	E'Releases a legal hold\nTakes {id, tenant_id, reason, actor}; reason is required. What it kept goes when its time has come. Answers the hold. 409 where it was released before. For the admin. Idempotency-Key is kept.';
