-- 92_api_path: the paths of docker/nginx.conf in words, for /openapi.json. nginx decides which path leads to which function;
-- test/t/400_http_paths.pl compares both. Summaries are the functions' comments, and what a GET takes their arguments.

CREATE FUNCTION sentinai.api_path_list() RETURNS TABLE (method text, path text, function_name text, words text[])
	LANGUAGE sql IMMUTABLE
	SET search_path = pg_catalog, pg_temp
	AS $$
	VALUES
		('GET', '/ops/dlq', 'dlq_list', NULL::text[]),
		('GET', '/ops/dlq/stats', 'dlq_stats', NULL),
		('GET', '/ops/dlq/groups', 'dlq_groups', NULL),
		('GET', '/ops/dlq/growth', 'dlq_growth', NULL),
		('GET', '/ops/dlq/{id}', 'dlq_get', NULL),
		('GET', '/ops/dlq/{id}/history', 'dlq_history', NULL),
		('POST', '/ops/dlq/{id}/retry', 'dlq_retry', '{?tenant_id,?actor,reason}'),
		('POST', '/ops/dlq/retry-batch', 'dlq_retry_batch', '{?tenant_id,?actor,dlq_ids!,reason}'),
		('POST', '/ops/dlq/{id}/discard', 'dlq_discard', '{?tenant_id,?actor,reason!}'),
		('POST', '/ops/dlq/{id}/reassign', 'dlq_reassign', '{?tenant_id!,?actor,reason}'),
		('POST', '/ops/dlq/rehearse', 'dlq_rehearse', '{?tenant_id,n,fingerprint,worker_type,event_type,error_type}'),
		('POST', '/ops/dlq/purge', 'dlq_purge', '{?tenant_id,older_than,statuses}'),
		('POST', '/api/admin/dlq/{id}/replay', 'dlq_retry', '{?tenant_id,?actor,reason}'),
		('POST', '/api/admin/dlq/replay', 'dlq_replay', '{?tenant_id,?actor,reason}'),
		('GET', '/ops/outbox/failed', 'outbox_failed_list', NULL),
		('POST', '/ops/outbox/failed/{id}/retry', 'outbox_failed_retry', '{?tenant_id}'),
		('POST', '/ops/outbox/failed/{id}/discard', 'outbox_failed_discard', '{?tenant_id,?actor,reason!}'),
		('GET', '/ops/circuits', 'circuit_list', NULL),
		('POST', '/ops/circuits/open', 'circuit_open', '{?tenant_id,worker_type!,event_type!,reason}'),
		('POST', '/ops/circuits/close', 'circuit_close', '{?tenant_id,worker_type!,event_type!}'),
		('GET', '/ops/retry-policies', 'retry_policy_list', NULL),
		('GET', '/ops/worker-types', 'worker_type_list', NULL),
		('GET', '/ops/suspects', 'suspect_list', NULL),
		('GET', '/ops/workers/health', 'workers_health', NULL),
		('GET', '/ops/events/{event_id}/why', 'event_why', NULL),

		('GET', '/admin/rate-limits/{tenant_id}', 'rate_limits_get', NULL),
		('PUT', '/admin/rate-limits/{tenant_id}', 'rate_limit_set', '{?actor,limit_type!,limit_value!,window_seconds,enabled,reason}'),
		('DELETE', '/admin/rate-limits/{tenant_id}', 'rate_limit_delete', '{?limit_type!,?reason,?actor}'),
		('POST', '/admin/rate-limits/{tenant_id}/reset', 'rate_limit_reset', '{?actor,limit_type!,reason}'),
		('GET', '/usage/rate-limits', 'rate_limits_usage', NULL),
		('GET', '/usage/rate-limits/forecast', 'rate_limit_forecast', NULL),
		('GET', '/usage/summary', 'usage_summary', NULL),
		('GET', '/usage/details', 'usage_details', NULL),
		('GET', '/usage/export', 'usage_export', NULL),
		('GET', '/usage/books', 'books_check', NULL),
		('POST', '/usage/corrections', 'usage_correct', '{?tenant_id,metric_type!,resource!,minute!,quantity!,reason!}'),

		('GET', '/audit/reports', 'report_list', NULL),
		('POST', '/audit/reports', 'report_request', '{?tenant_id,?requested_by,report_type!,title!,format!,parameters}'),
		('GET', '/audit/reports/stats', 'report_stats', NULL),
		('GET', '/audit/reports/types', 'report_types', NULL),
		('GET', '/audit/reports/chain', 'report_chain_check', NULL),
		('GET', '/audit/reports/{id}', 'report_get', NULL),
		('GET', '/audit/reports/{id}/download', 'report_download', '{?tenant_id,?actor,?token}'),
		('GET', '/audit/reports/{id}/manifest', 'report_manifest', NULL),
		('POST', '/audit/reports/{id}/cancel', 'report_cancel', '{?tenant_id,?actor,reason}'),
		('POST', '/audit/reports/{id}/retry', 'report_retry', '{?tenant_id,?actor,reason}'),
		('POST', '/audit/reports/{id}/hold', 'report_hold', '{?tenant_id,?actor,reason!}'),
		('POST', '/audit/reports/{id}/release', 'report_release', '{?tenant_id,?actor,reason!}'),
		('POST', '/audit/reports/{id}/link', 'report_link', '{?tenant_id,?actor,valid_for_seconds}'),
		('GET', '/audit/holds', 'legal_hold_list', NULL),
		('POST', '/audit/holds', 'legal_hold_add', '{?tenant_id,?actor,reason!,from_date,to_date}'),
		('POST', '/audit/holds/{id}/release', 'legal_hold_release', '{?tenant_id,?actor,reason!}'),

		('POST', '/api/exceptions/{tenant_id}', 'exception_create', '{exception_id,domain,type,severity,source_system,entity,amount,sla_deadline,owner,event_id,event_type,timestamp,payload}'),
		('GET', '/api/exceptions/{tenant_id}/{exception_id}/trace', 'exception_trace', NULL),
		('GET', '/api/exceptions/{tenant_id}/{exception_id}/history', 'exception_history', NULL),
		('GET', '/api/exceptions/{exception_id}/events', 'exception_events', NULL),
		('GET', '/admin/payload-masks', 'payload_mask_list', NULL),
		('PUT', '/admin/payload-masks', 'payload_mask_add', '{event_type!,path!}'),
		('DELETE', '/admin/payload-masks', 'payload_mask_remove', '{?event_type!,?path!}'),
		('GET', '/admin/tenants', 'tenant_list', NULL),
		('POST', '/admin/tenants', 'tenant_add', '{tenant_id!,name,industry,tags,metadata}'),
		('POST', '/admin/tenants/{tenant_id}/suspend', 'tenant_suspend', '{reason}'),
		('POST', '/admin/tenants/{tenant_id}/resume', 'tenant_resume', '{reason}'),
		('POST', '/admin/tenants/{tenant_id}/archive', 'tenant_archive', '{reason}'),
		('POST', '/admin/tenants/{tenant_id}/erase', 'subject_erase', '{?actor,key!,reason!}'),

		('GET', '/health', 'health', NULL),
		('GET', '/health/db', 'health_db', NULL),
		('GET', '/health/workers', 'health_workers', NULL),
		('GET', '/metrics', 'metrics', NULL),
		('GET', '/openapi.json', 'openapi', NULL)
$$;
COMMENT ON FUNCTION sentinai.api_path_list() IS
	'The paths of HTTP, with the function of sentinai_api behind each. words: what it takes besides what stands in the path, ? behind the question mark and not in the body, ! required; NULL: the function''s arguments.';

CREATE FUNCTION sentinai.api_word_list() RETURNS TABLE (word text, function_name text, schema json, about text)
	LANGUAGE sql IMMUTABLE
	SET search_path = pg_catalog, pg_temp
	AS $$
	VALUES
		('actor', '%', '{"type": "string", "maxLength": 255}'::json, 'Who acts, as the caller claims; the history has who was authenticated beside it.'),
		('after', '%', NULL, 'The next_after of the page before, in place of offset.'),
		('amount', '%', '{"type": "number"}', 'The exception''s amount.'),
		('at', '%', NULL, 'A time in the period.'),
		('bucket', '%', NULL, 'How long each item''s time is: "1 hour".'),
		('count', 'dlq%', '{"type": "string", "enum": ["exact"]}', 'exact: total counts all, however many there are.'),
		('dlq_ids', '%', '{"type": "array", "items": {"type": "integer", "format": "int64"}, "minItems": 1, "maxItems": 1000}', 'Ids of dead letters.'),
		('domain', '%', '{"type": "string"}', 'The exception''s domain.'),
		('enabled', '%', '{"type": "boolean", "default": true}', 'Whether the limit counts.'),
		('entity', '%', '{"type": "string"}', 'What the exception is about.'),
		('error_type', '%', '{"type": "string"}', 'Only those with this error type.'),
		('event_id', '%', '{"type": "string"}', 'The event''s id.'),
		('event_type', '%', '{"type": "string"}', 'Only those of this event type.'),
		('event_type', 'circuit%', '{"type": "string"}', 'The event type whose events wait.'),
		('event_type', 'exception_create', '{"type": "string", "enum": ["ExceptionIngested", "ManualExceptionCreated"]}', 'Of an event that comes whole, with its payload.'),
		('exception_id', '%', '{"type": "string"}', 'The exception''s id.'),
		('fingerprint', '%', '{"type": "string"}', 'Only those with this cause.'),
		('format', 'report%', '{"type": "string", "enum": ["csv", "json", "jsonl", "pdf"]}', 'What the file is.'),
		('format', 'usage%', '{"type": "string", "enum": ["csv", "json"], "default": "csv"}', 'What the file is.'),
		('from_date', '%', '{"type": "string"}', 'From then on: a date, or a time in ISO 8601.'),
		('granularity', '%', '{"type": "string", "enum": ["minute", "hour", "day"], "default": "hour"}', 'How long each item''s time is.'),
		('id', 'dlq%', NULL, 'The dead letter''s id.'),
		('id', 'legal_hold%', NULL, 'The legal hold''s id.'),
		('id', 'outbox_failed%', NULL, 'The id that the record had in the outbox.'),
		('id', 'report%', '{"type": "string"}', 'The report''s id.'),
		('industry', '%', '{"type": "string"}', 'Free text for lists and reports.'),
		('key', '%', '{"type": "string"}', 'What the person''s rows are found by.'),
		('limit', '%', '{"type": "integer", "minimum": 1, "maximum": 1000, "default": 100}', 'How many items a page has.'),
		('limit_type', '%', '{"type": "string"}', 'Which limit: api_requests, events_ingested, tool_executions, report_generations, or one of your own.'),
		('limit_value', '%', '{"type": "integer", "format": "int64", "minimum": 1}', 'How many are allowed in a window.'),
		('metadata', '%', '{"type": "object"}', 'Whatever else is to be kept about the tenant.'),
		('metric_type', '%', '{"type": "string"}', 'api_calls, events, exceptions, reports, storage or tool_executions; none: all.'),
		('minute', '%', '{"type": "string", "format": "date-time"}', 'In which minute it counts.'),
		('n', '%', '{"type": "integer", "default": 10}', 'How many at most.'),
		('name', '%', '{"type": "string"}', 'What people call the tenant.'),
		('offset', '%', '{"type": "integer", "minimum": 0, "default": 0}', 'How many items come before the page.'),
		('older_than', '%', '{"type": "string", "default": "30 days"}', 'For how long their rows have not changed.'),
		('order', '%', '{"type": "string", "enum": ["desc", "asc"], "default": "desc"}', 'desc: the newest first.'),
		('owner', '%', '{"type": "string"}', 'Who looks after the exception.'),
		('page', '%', '{"type": "integer", "minimum": 1, "default": 1}', 'Which page.'),
		('page_size', '%', '{"type": "integer", "minimum": 1, "maximum": 1000, "default": 50}', 'How many items a page has.'),
		('parameters', '%', '{"type": "object", "properties": {"from_date": {"type": "string"}, "to_date": {"type": "string"}}}', 'from_date, to_date, and what GET /audit/reports/types says of the type.'),
		('payload', '%', '{"type": "object"}', 'The exception, where the event comes whole.'),
		('period', '%', '{"type": "string", "enum": ["day", "week", "month"], "default": "day"}', 'How long the period is, in UTC.'),
		('quantity', '%', '{"type": "integer", "format": "int64"}', 'How much is added; below 0: taken away.'),
		('path', 'payload_mask_add', '{"type": "array", "items": {"type": "string"}, "minItems": 1}', 'Keys from the payload down; a number is an element of an array, * any.'),
		('path', 'payload_mask_remove', '{"type": "string"}', 'The keys in braces: {customer,email}.'),
		('reason', '%', '{"type": "string", "maxLength": 1000}', 'Why. It stands in the history.'),
		('released', '%', NULL, 'Those that were released too.'),
		('report_type', '%', '{"type": "string"}', 'Which of GET /audit/reports/types.'),
		('requested_by', '%', '{"type": "string", "maxLength": 255}', 'Who asks, as the caller claims.'),
		('resource', '%', '{"type": "string"}', 'Which resource of the metric.'),
		('severity', '%', '{"type": "string", "enum": ["low", "medium", "high", "critical"]}', 'The exception''s severity.'),
		('since', '%', NULL, 'How long ago it begins: "24 hours".'),
		('sla_deadline', '%', '{"type": "string", "format": "date-time"}', 'Until when the exception is to be resolved.'),
		('source_system', '%', '{"type": "string"}', 'Where the exception comes from.'),
		('status', 'dlq%', '{"type": "string", "enum": ["pending", "retrying", "succeeded", "discarded"]}', 'Only those of this status.'),
		('status', 'outbox_failed%', '{"type": "string", "enum": ["pending", "discarded"], "default": "pending"}', 'Those of this status.'),
		('status', 'report%', '{"type": "string", "enum": ["pending", "generating", "completed", "failed", "expired"]}', 'Only those of this status.'),
		('status', 'tenant%', '{"type": "string", "enum": ["active", "suspended", "archived"]}', 'Only those of this status.'),
		('statuses', '%', '{"type": "array", "items": {"type": "string", "enum": ["pending", "succeeded", "discarded"]}, "default": ["succeeded", "discarded"]}', 'Those of these statuses.'),
		('tags', '%', '{"type": "array", "items": {"type": "string"}}', 'Free labels for lists and reports.'),
		('tenant_id', '%', NULL, 'Whose; who has a tenant may leave it out.'),
		('tenant_id', 'tenant%', '{"type": "string", "pattern": "^[A-Za-z0-9_.-]{1,64}$"}', 'The tenant.'),
		('timestamp', '%', '{"type": "string", "format": "date-time"}', 'When the event happened.'),
		('title', '%', '{"type": "string"}', 'The report''s title.'),
		('to_date', '%', '{"type": "string"}', 'Until then: a date, or a time in ISO 8601.'),
		('token', '%', '{"type": "string"}', 'Of a link: no login is needed then.'),
		('topic', '%', NULL, 'Only those of this topic.'),
		('type', '%', '{"type": "string"}', 'The exception''s type.'),
		('valid_for_seconds', '%', '{"type": "integer", "minimum": 1, "default": 86400}', 'How long the link works.'),
		('window_seconds', '%', '{"type": "integer", "minimum": 1, "maximum": 86400, "default": 60}', 'How long a window is.'),
		('worker_type', '%', '{"type": "string"}', 'Only those of this worker type.'),
		('worker_type', 'circuit%', '{"type": "string"}', 'The worker type that lets events wait.')
$$;
COMMENT ON FUNCTION sentinai.api_word_list() IS
	'What words in a query or a body mean, for functions whose name is LIKE this. schema NULL: that of the function''s argument.';

-- Each of these is asked once a document: whoever has no token may ask for one.
CREATE FUNCTION sentinai.api_openapi_words()
	RETURNS TABLE (path_n bigint, n bigint, place text, name text, is_required boolean, schema json, about text)
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	WITH listed AS (
		SELECT l.n AS path_n, l.path, l.words, p.proname, p.pronargs, p.pronargdefaults, p.proargnames, p.proargtypes
		  FROM sentinai.api_path_list() WITH ORDINALITY AS l (method, path, function_name, words, n)
		  JOIN pg_proc p ON p.pronamespace = 'sentinai_api'::regnamespace AND p.proname = l.function_name
	), taken AS (
		SELECT l.path_n, w.n, btrim(w.word, '?!') AS name, CASE WHEN w.word ~ '^\?' THEN 'query' ELSE 'body' END AS place, w.word ~ '!$' AS is_required, NULL::oid AS type
		  FROM listed l, unnest(l.words) WITH ORDINALITY AS w (word, n)
		UNION ALL
		SELECT l.path_n, a.n, regexp_replace(a.name, '^p_', ''), 'query', a.n <= l.pronargs - l.pronargdefaults, a.type
		  FROM listed l, unnest(l.proargnames, l.proargtypes::oid[]) WITH ORDINALITY AS a (name, type, n)
		 WHERE l.words IS NULL
	), in_path AS (
		SELECT l.path_n, m.n - 100 AS n, m.name[1] AS name FROM listed l, regexp_matches(l.path, '\{(\w+)\}', 'g') WITH ORDINALITY AS m (name, n)
	), placed AS (
		SELECT i.path_n, i.n, 'path' AS place, i.name, true AS is_required, t.type FROM in_path i LEFT JOIN taken t USING (path_n, name)
		UNION ALL
		SELECT t.path_n, t.n, t.place, t.name, t.is_required, t.type FROM taken t
		 WHERE NOT EXISTS (SELECT FROM in_path i WHERE i.path_n = t.path_n AND i.name = t.name)
	)
	SELECT DISTINCT ON (t.path_n, t.n) t.path_n, t.n, t.place, t.name, t.is_required, coalesce(w.schema, CASE t.type
				WHEN 'bigint'::regtype THEN '{"type": "integer", "format": "int64"}' WHEN 'integer'::regtype THEN '{"type": "integer", "format": "int32"}'
				WHEN 'boolean'::regtype THEN '{"type": "boolean"}' WHEN 'timestamptz'::regtype THEN '{"type": "string", "format": "date-time"}'
				ELSE CASE WHEN t.name = 'id' THEN '{"type": "integer", "format": "int64"}' ELSE '{"type": "string"}' END END::json), w.about
	  FROM placed t JOIN listed l USING (path_n)
	  LEFT JOIN sentinai.api_word_list() w ON w.word = t.name AND l.proname LIKE w.function_name
	 ORDER BY t.path_n, t.n, length(w.function_name) DESC
$$;
COMMENT ON FUNCTION sentinai.api_openapi_words() IS
	'Internal: what each path of api_path_list() takes, by its number there: in the path, the query and the body.';

CREATE FUNCTION sentinai.api_openapi_requests() RETURNS TABLE (path_n bigint, parameters json, body json)
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	SELECT w.path_n,
		   json_agg(json_build_object('name', w.name, 'in', w.place, 'required', w.is_required, 'description', w.about, 'schema', w.schema) ORDER BY w.n)
				FILTER (WHERE w.place <> 'body'),
		   CASE WHEN bool_or(w.place = 'body') THEN
				json_build_object('required', coalesce(bool_or(w.is_required) FILTER (WHERE w.place = 'body'), false),
					'content', json_build_object('application/json', json_build_object('schema', json_build_object('type', 'object',
						'required', json_agg(w.name ORDER BY w.n) FILTER (WHERE w.place = 'body' AND w.is_required),
						'properties', json_object_agg(w.name, w.schema::jsonb || jsonb_build_object('description', w.about) ORDER BY w.n) FILTER (WHERE w.place = 'body'))))) END
	  FROM sentinai.api_openapi_words() w
	 GROUP BY w.path_n
$$;
COMMENT ON FUNCTION sentinai.api_openapi_requests() IS 'Internal: api_openapi_words() as parameters and requestBody of OpenAPI.';

CREATE FUNCTION sentinai.api_openapi_answer(said text) RETURNS json
	LANGUAGE sql IMMUTABLE
	SET search_path = pg_catalog, pg_temp
	AS $$
	-- What is in brackets, and then in braces, is the fields': they are taken out from the inside.
	SELECT json_strip_nulls(json_build_object('type', 'object', 'required', json_agg(f.name ORDER BY f.n),
				'properties', json_object_agg(f.name, CASE WHEN f.field ~ '\[\]$' THEN '{"type": "array"}' ELSE '{}' END::json ORDER BY f.n) FILTER (WHERE f.name IS NOT NULL)))
	  FROM (SELECT t.n, btrim(t.field) AS field, btrim(split_part(t.field, ':', 1)) AS name
			  FROM string_to_table(split_part(regexp_replace(regexp_replace(regexp_replace(regexp_replace(
						substring($1 FROM 'Answers (?:20\d [^.{]*)?\{(.*)$'), '\[[^][]*\]', '[]', 'g'), '\[[^][]*\]', '[]', 'g'), '\{[^{}]*\}', '~', 'g'), '\{[^{}]*\}', '~', 'g'),
					'}', 1), ',') WITH ORDINALITY AS t (field, n)) f
$$;
COMMENT ON FUNCTION sentinai.api_openapi_answer(text) IS
	'Internal: the schema of an answer, by a comment''s "Answers {field, field: [...], ...}": all of them are there.';

CREATE FUNCTION sentinai.api_openapi_operations() RETURNS TABLE (path text, method text, described json)
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	SELECT l.path, lower(l.method), json_strip_nulls(json_build_object(
			-- One function may be behind two paths.
			'operationId', p.proname || CASE WHEN row_number() OVER (PARTITION BY p.oid ORDER BY l.n) > 1 THEN regexp_replace(l.path, '^.*/', '_') ELSE '' END,
			'tags', json_build_array(split_part(l.path, '/', 2)),
			'summary', f.said[1], 'description', f.said[2],
			'parameters', coalesce(r.parameters::jsonb, '[]') || CASE WHEN f.said[2] ~ 'Idempotency-Key is kept' THEN '[{"name": "Idempotency-Key", "in": "header", "required": false,
					"description": "Sent again with it, the request gets the same answer and does nothing.", "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"}}]'
				ELSE '[]' END::jsonb,
			'requestBody', r.body,
			'responses', json_build_object(
				CASE WHEN t.typname = 'void' THEN '204' ELSE coalesce(substring(f.said[2] FROM 'Answers (20\d)'), '200') END,
					json_build_object('description', f.said[1], 'content', CASE WHEN t.typname = 'void' THEN NULL
						WHEN t.typname IN ('json', 'application/json') THEN json_build_object('application/json', json_build_object('schema', sentinai.api_openapi_answer(f.said[2])))
						ELSE json_build_object(t.typname, '{"schema": {"type": "string"}}'::json) END),
				'429', json_build_object('$ref', '#/components/responses/Limited'),
				'default', json_build_object('$ref', '#/components/responses/Error')),
			'security', CASE WHEN has_function_privilege('sentinai_anon', p.oid, 'EXECUTE') OR l.by_link THEN '[{}, {"bearer": []}]'::json END))
	  FROM (SELECT *, coalesce('?token' = ANY (w.words), false) AS by_link FROM sentinai.api_path_list() WITH ORDINALITY AS w (method, path, function_name, words, n)) l
	  JOIN pg_proc p ON p.pronamespace = 'sentinai_api'::regnamespace AND p.proname = l.function_name
	  JOIN pg_type t ON t.oid = p.prorettype
	  LEFT JOIN sentinai.api_openapi_requests() r ON r.path_n = l.n,
		   LATERAL (SELECT regexp_match(regexp_replace(obj_description(p.oid, 'pg_proc'), '\mp_(?=[a-z])', '', 'g'), '^([^\n]+)\n(.*)$') AS said) f
	 WHERE has_function_privilege(p.oid, 'EXECUTE') OR l.by_link
$$;
COMMENT ON FUNCTION sentinai.api_openapi_operations() IS 'Internal: the paths of functions, as far as the caller''s role may ask for them.';

CREATE FUNCTION sentinai.api_openapi_lists() RETURNS TABLE (path text, method text, described json)
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	SELECT '/rest/' || c.relname, 'get', json_strip_nulls(json_build_object(
			'operationId', 'rest_' || c.relname,
			'tags', json_build_array('rest'),
			'summary', f.said[1],
			'description', f.said[2] || ' Filters are PostgREST''s: status=eq.pending, created_at=gte.2026-01-01, or=(...).',
			'parameters', (SELECT json_agg(json_build_object('name', w.name, 'in', 'query', 'required', false, 'description', w.about, 'schema', w.schema) ORDER BY w.n)
							 FROM (SELECT a.attnum AS n, a.attname AS name, col_description(a.attrelid, a.attnum) AS about,
										  '{"type": "string", "pattern": "^(not[.])?(eq|neq|gte?|lte?|i?like|is|in)[.]"}'::json AS schema
									 FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0
								   UNION ALL
								   SELECT -w.n, w.name, w.about, w.schema
									 FROM (VALUES (1, 'offset', 'How many rows come before.', '{"type": "integer", "minimum": 0}'::json),
												  (2, 'limit', 'How many rows.', '{"type": "integer", "minimum": 0}'),
												  (3, 'order', 'By what: created_at.desc,id.', '{"type": "string"}'),
												  (4, 'select', 'Which columns: id,status.', '{"type": "string"}')) w (n, name, about, schema)) w),
			'responses', json_build_object(
				'200', json_build_object('description', f.said[1],
					'content', '{"application/json": {"schema": {"type": "array", "items": {"type": "object"}}}}'::json),
				'429', json_build_object('$ref', '#/components/responses/Limited'),
				'default', json_build_object('$ref', '#/components/responses/Error'))))
	  FROM pg_class c, LATERAL (SELECT regexp_match(obj_description(c.oid, 'pg_class'), '^([^\n]+)\n(.*)$') AS said) f
	 WHERE c.relnamespace = 'sentinai_api'::regnamespace AND c.relkind = 'v' AND has_table_privilege(c.oid, 'SELECT')
$$;
COMMENT ON FUNCTION sentinai.api_openapi_lists() IS 'Internal: the lists to filter, as far as the caller''s role may read them.';

CREATE FUNCTION sentinai_api.openapi() RETURNS json
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	SELECT json_build_object(
		'openapi', '3.0.3',
		'info', json_build_object('title', f.said[1], 'description', f.said[2], 'version', sentinai.version()),
		'servers', '[{"url": "/"}]'::json,
		'security', '[{"bearer": []}]'::json,
		'paths', (SELECT json_object_agg(x.path, x.operations ORDER BY x.path)
					FROM (SELECT o.path, json_object_agg(o.method, o.described ORDER BY o.method) AS operations
							FROM (SELECT * FROM sentinai.api_openapi_operations() UNION ALL SELECT * FROM sentinai.api_openapi_lists()) o
						   GROUP BY o.path) x),
		'components', '{
			"securitySchemes": {"bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
			"schemas": {
				"Error": {"type": "object", "required": ["code", "message"], "properties": {
					"code": {"type": "string"}, "message": {"type": "string"}, "details": {"type": "string", "nullable": true}, "hint": {"type": "string", "nullable": true}}},
				"Limited": {"type": "object", "required": ["detail", "limit_type", "limit", "current", "reset_at"], "properties": {
					"detail": {"type": "string"}, "limit_type": {"type": "string"}, "limit": {"type": "integer"}, "current": {"type": "integer"},
					"reset_at": {"type": "string", "format": "date-time"}}}},
			"responses": {
				"Error": {"description": "What went wrong: the SQLSTATE, what happened, where, and what to do.",
					"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}},
				"Limited": {"description": "The limit is reached; Retry-After says for how many seconds.",
					"headers": {"Retry-After": {"schema": {"type": "integer"}}},
					"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Limited"}}}}}}'::json)
	  FROM (SELECT regexp_match(obj_description('sentinai_api'::regnamespace, 'pg_namespace'), '^([^\n]+)\n(.*)$') AS said) f
$$;
COMMENT ON FUNCTION sentinai_api.openapi() IS
	E'This description\nOpenAPI 3.0 of the paths that the caller''s role may ask for. Needs no token.';
