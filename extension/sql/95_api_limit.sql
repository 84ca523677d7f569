-- 95_api_limit: rate limits and usage over HTTP.

CREATE FUNCTION sentinai_api.rate_limits_get(tenant_id text DEFAULT NULL) RETURNS json
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
DECLARE
	tenant	text := sentinai.api_tenant($1);
BEGIN
	PERFORM sentinai.usage_check_tenant(tenant);
	RETURN json_build_object(
		'tenant_id', tenant,
		'configs', (SELECT coalesce(json_agg(json_build_object('tenant_id', l.tenant_id, 'limit_type', l.limit_type, 'limit_value', l.limit_value,
				'window_seconds', l.window_seconds, 'enabled', l.enabled, 'created_at', l.created_at, 'updated_at', l.updated_at)), '[]')
			FROM sentinai.rate_limit_list(tenant) l WHERE l.source = 'tenant'),
		'defaults', (SELECT coalesce(json_object_agg(e.limit_type, json_build_object('limit_value', e.limit_value, 'window_seconds', e.window_seconds,
				'enabled', e.enabled) ORDER BY e.limit_type), '{}')
			FROM sentinai.rate_limit_type_effective e));
END
$$;
COMMENT ON FUNCTION sentinai_api.rate_limits_get(text) IS
	E'The limits of a tenant\nAnswers {tenant_id, configs: [{tenant_id, limit_type, limit_value, window_seconds, enabled, created_at, updated_at}], defaults: {limit_type: {limit_value, window_seconds, enabled}}}.';

CREATE FUNCTION sentinai_api.rate_limits_usage(tenant_id text DEFAULT NULL) RETURNS json
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
DECLARE
	tenant	text := sentinai.api_tenant($1);
BEGIN
	RETURN json_build_object('tenant_id', tenant, 'statuses',
		(SELECT coalesce(json_agg(json_build_object('tenant_id', u.tenant_id, 'limit_type', u.limit_type, 'limit', u."limit", 'current', u.current,
				'remaining', u.remaining, 'window_seconds', u.window_seconds, 'reset_at', u.reset_at, 'enabled', u.enabled)), '[]')
		   FROM sentinai.rate_limit_usage(tenant) u));
END
$$;
COMMENT ON FUNCTION sentinai_api.rate_limits_usage(text) IS
	E'How the limits of a tenant stand now\nAnswers {tenant_id, statuses: [{tenant_id, limit_type, limit, current, remaining, window_seconds, reset_at, enabled}]}.';

CREATE FUNCTION sentinai_api.rate_limit_set(jsonb) RETURNS json
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
DECLARE
	args	jsonb := sentinai.api_args($1);
	tenant	text := sentinai.api_tenant(args->>'tenant_id');
	seconds	bigint := sentinai.api_bigint(args, 'window_seconds', 60);
	answer	json;
BEGIN
	IF seconds NOT BETWEEN 1 AND 86400 THEN
		PERFORM sentinai.api_wrong('window_seconds', args->'window_seconds', '1 to 86400');
	END IF;
	answer := sentinai.api_begin('rate_limit_set', tenant, args);
	IF answer IS NOT NULL THEN
		RETURN answer;
	END IF;
	SELECT row_to_json(c) INTO answer
	  FROM sentinai.rate_limit_set(tenant, sentinai.api_text(args, 'limit_type'), sentinai.api_bigint(args, 'limit_value'), seconds::integer,
			sentinai.api_boolean(args, 'enabled', true), sentinai.api_text(args, 'reason'), sentinai.api_text(args, 'actor')) c;
	RETURN sentinai.api_end(tenant, answer);
END
$$;
COMMENT ON FUNCTION sentinai_api.rate_limit_set(jsonb) IS
	E'Sets a limit of a tenant\nTakes {tenant_id, limit_type, limit_value, window_seconds: 60, enabled: true, reason, actor}. Counts at once, inside the running window. Answers the limit. For the admin. Idempotency-Key is kept.';

CREATE FUNCTION sentinai_api.rate_limit_delete(jsonb) RETURNS void
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
DECLARE
	args	jsonb := sentinai.api_args($1);
	tenant	text := sentinai.api_tenant(args->>'tenant_id');
BEGIN
	IF sentinai.api_begin('rate_limit_delete', tenant, args) IS NULL THEN
		PERFORM sentinai.rate_limit_delete(tenant, sentinai.api_text(args, 'limit_type'), sentinai.api_text(args, 'reason'), sentinai.api_text(args, 'actor'));
		PERFORM sentinai.api_end(tenant, 'null', 204);
	END IF;
END
$$;
COMMENT ON FUNCTION sentinai_api.rate_limit_delete(jsonb) IS
	E'Gives a tenant the default limit again\nTakes {tenant_id, limit_type, reason, actor}. Answers 204, also where there was nothing to delete. For the admin. Idempotency-Key is kept.';

CREATE FUNCTION sentinai_api.rate_limit_reset(jsonb) RETURNS void
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
DECLARE
	args	jsonb := sentinai.api_args($1);
	tenant	text := sentinai.api_tenant(args->>'tenant_id');
BEGIN
	IF sentinai.api_begin('rate_limit_reset', tenant, args) IS NULL THEN
		PERFORM sentinai.rate_limit_reset(tenant, sentinai.api_text(args, 'limit_type'), sentinai.api_text(args, 'reason'), sentinai.api_text(args, 'actor'));
		PERFORM sentinai.api_end(tenant, 'null', 204);
	END IF;
END
$$;
COMMENT ON FUNCTION sentinai_api.rate_limit_reset(jsonb) IS
	E'Lets a limit count from zero\nTakes {tenant_id, limit_type, reason, actor}. The limit itself stays. Answers 204. Idempotency-Key is kept.';

CREATE FUNCTION sentinai_api.rate_limit_forecast(tenant_id text DEFAULT NULL) RETURNS json
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
DECLARE
	tenant	text := sentinai.api_tenant($1);
BEGIN
	RETURN sentinai.api_list((SELECT json_agg(f) FROM sentinai.rate_limit_forecast(tenant) f));
END
$$;
COMMENT ON FUNCTION sentinai_api.rate_limit_forecast(text) IS
	E'When events that wait for their turn will be taken\nOf a tenant whose events come faster than its rate: how many wait, and until when; ends_at is infinity while the tenant is suspended. Answers {items, total}.';

-- ---- usage ----

CREATE FUNCTION sentinai_api.usage_summary(tenant_id text DEFAULT NULL, period text DEFAULT 'day', at timestamptz DEFAULT now()) RETURNS json
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
BEGIN
	RETURN (SELECT json_build_object('tenant_id', u->'tenant_id', 'period', u->'period', 'period_start', (u->>'period_start')::timestamptz,
									 'period_end', (u->>'period_end')::timestamptz,
									 'totals', u->'totals', 'by_resource', u->'by_resource')
			  FROM sentinai.usage_summary(sentinai.api_tenant($1), $2, $3) u);
END
$$;
COMMENT ON FUNCTION sentinai_api.usage_summary(text, text, timestamptz) IS
	E'What a tenant has used in a day, week or month\nIn UTC, up to now; at is a time in it. Answers {tenant_id, period, period_start, period_end, totals, by_resource}.';

CREATE FUNCTION sentinai_api.usage_details(tenant_id text DEFAULT NULL, metric_type text DEFAULT NULL, from_date timestamptz DEFAULT NULL,
		to_date timestamptz DEFAULT NULL, granularity text DEFAULT 'hour', p_limit integer DEFAULT 100, p_offset integer DEFAULT 0,
		p_after text DEFAULT NULL) RETURNS json
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
DECLARE
	tenant	text := sentinai.api_tenant($1);
	ends	timestamptz := coalesce($4, now());
	items	json[];
	keys	text[];
BEGIN
	SELECT array_agg(json_build_object('metric_type', d.metric, 'resource', d.resource, 'period_start', d.period_start, 'level', d.level, 'quantity', d.quantity)),
		   array_agg(sentinai.api_cursor(d.period_start, concat_ws('_', d.metric, d.resource, d.level)))
	  INTO items, keys
	  FROM sentinai.usage_details(tenant, $2, coalesce($3, ends - interval '1 day'), ends, $5) d;
	RETURN (SELECT json_build_object('tenant_id', tenant, 'items', s.page, 'total', s.total, 'limit', $6, 'offset', $7, 'next_after', s.next_after)
			  FROM sentinai.api_slice(items, keys, $6, $7, $8) s);
END
$$;
COMMENT ON FUNCTION sentinai_api.usage_details(text, text, timestamptz, timestamptz, text, integer, integer, text) IS
	E'Usage by resource and time\nmetric_type: api_calls, exceptions, tool_executions, events or storage, all where it is missing. From from_date (a day before to_date) until before to_date (now), by minute, hour or day; in order of time. p_after, the next_after of the page before, goes on behind it. Answers {tenant_id, items: [{metric_type, resource, period_start, level, quantity}], total, limit, offset, next_after}.';

CREATE FUNCTION sentinai_api.usage_export(tenant_id text DEFAULT NULL, from_date timestamptz DEFAULT NULL, to_date timestamptz DEFAULT NULL,
		format text DEFAULT 'csv', granularity text DEFAULT 'hour') RETURNS sentinai_api."*/*"
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
DECLARE
	tenant	text := sentinai.api_tenant($1);
	ends	timestamptz := coalesce($3, now());
	content	text;
BEGIN
	content := sentinai.usage_export(tenant, coalesce($2, ends - interval '1 day'), ends, $4, $5);
	PERFORM sentinai.api_header('Content-Type', CASE $4 WHEN 'csv' THEN 'text/csv; charset=utf-8; header=present' ELSE 'application/json' END),
			sentinai.api_header('Content-Disposition', pg_catalog.format('attachment; filename="usage-%s.%s"', tenant, $4));
	RETURN convert_to(content, 'UTF8');
END
$$;
COMMENT ON FUNCTION sentinai_api.usage_export(text, timestamptz, timestamptz, text, text) IS
	E'Usage as a file\ncsv (RFC 4180) or json; the other arguments are those of usage_details. Corrections are lines of their own.';

CREATE FUNCTION sentinai_api.books_check(tenant_id text DEFAULT NULL, from_date timestamptz DEFAULT NULL, to_date timestamptz DEFAULT NULL) RETURNS json
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
DECLARE
	ends	timestamptz := coalesce($3, now());
	begins	timestamptz := coalesce($2, ends - interval '1 day');
BEGIN
	RETURN sentinai.api_list((SELECT json_agg(json_build_object('tenant_id', b.tenant, 'worker_type', b.worker_type, 'event_type', b.event_type,
				'events', b.events, 'lost', b.lost, 'effects', b.effects, 'usage', b.usage, 'balanced', b.balanced))
		FROM sentinai.books_check(sentinai.tenant_check($1), begins, ends) b));
END
$$;
COMMENT ON FUNCTION sentinai_api.books_check(text, timestamptz, timestamptz) IS
	E'Whether events, effects and usage agree\nFrom from_date (a day before to_date) until before to_date (now), by whole minutes, in one snapshot. Answers {items: [{tenant_id, worker_type, event_type, events, lost, effects, usage, balanced}], total}: see docs/usage.md.';

CREATE FUNCTION sentinai_api.usage_correct(jsonb) RETURNS json
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
DECLARE
	args		jsonb := sentinai.api_args($1);
	tenant		text := sentinai.api_tenant(args->>'tenant_id');
	correction	bigint;
	answer		json;
BEGIN
	answer := sentinai.api_begin('usage_correct', tenant, args);
	IF answer IS NOT NULL THEN
		RETURN answer;
	END IF;
	correction := sentinai.usage_correct(tenant, sentinai.api_text(args, 'metric_type'), sentinai.api_text(args, 'resource'),
		sentinai.api_text(args, 'minute')::timestamptz, sentinai.api_bigint(args, 'quantity'), sentinai.api_text(args, 'reason'));
	SELECT json_build_object('id', c.id, 'tenant_id', c.tenant_id, 'metric_type', c.metric_type, 'resource', c.resource, 'minute', c.minute,
							 'quantity', c.quantity, 'reason', c.reason, 'authenticated', c.authenticated, 'created_at', c.created_at) INTO answer
	  FROM sentinai.usage_correction c WHERE c.id = correction;
	RETURN sentinai.api_end(tenant, answer, 201);
END
$$;
COMMENT ON FUNCTION sentinai_api.usage_correct(jsonb) IS
	E'Corrects the usage of a tenant\nTakes {tenant_id, metric_type, resource, minute, quantity, reason}, all of them required: adds the quantity (below 0: takes it away) in that minute. Answers 201 with the correction. 409 where the period is closed. For the admin. Idempotency-Key is kept.';
