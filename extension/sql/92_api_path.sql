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
		('reason', '%', '{"type": "string"}', 'Why. It stands in the history.'),
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

CREATE FUNCTION sentinai.api_openapi_words(function oid, path text, words text[])
	RETURNS TABLE (n bigint, place text, name text, is_required boolean, schema json, about text)
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	WITH taken AS (
		SELECT w.n, btrim(w.word, '?!') AS name, CASE WHEN w.word ~ '^\?' THEN 'query' ELSE 'body' END AS place, w.word ~ '!$' AS is_required, NULL::oid AS type
		  FROM unnest($3) WITH ORDINALITY AS w (word, n)
		UNION ALL
		SELECT a.n, regexp_replace(a.name, '^p_', ''), 'query', a.n <= p.pronargs - p.pronargdefaults, a.type
		  FROM pg_proc p, unnest(p.proargnames, p.proargtypes::oid[]) WITH ORDINALITY AS a (name, type, n)
		 WHERE p.oid = $1 AND $3 IS NULL
	), placed AS (
		SELECT m.n - 100 AS n, m.name[1] AS name, 'path' AS place, true AS is_required, (SELECT t.type FROM taken t WHERE t.name = m.name[1]) AS type
		  FROM regexp_matches($2, '\{(\w+)\}', 'g') WITH ORDINALITY AS m (name, n)
		UNION ALL
		SELECT t.n, t.name, t.place, t.is_required, t.type FROM taken t WHERE strpos($2, '{' || t.name || '}') = 0
	)
	SELECT t.n, t.place, t.name, t.is_required, coalesce(l.schema, CASE t.type
				WHEN 'bigint'::regtype THEN '{"type": "integer", "format": "int64"}' WHEN 'integer'::regtype THEN '{"type": "integer", "format": "int32"}'
				WHEN 'boolean'::regtype THEN '{"type": "boolean"}' WHEN 'timestamptz'::regtype THEN '{"type": "string", "format": "date-time"}'
				ELSE CASE WHEN t.name = 'id' THEN '{"type": "integer", "format": "int64"}' ELSE '{"type": "string"}' END END::json), l.about
	  FROM placed t
	  LEFT JOIN LATERAL (SELECT w.schema, w.about FROM sentinai.api_word_list() w, pg_proc p
						  WHERE p.oid = $1 AND w.word = t.name AND p.proname LIKE w.function_name ORDER BY length(w.function_name) DESC LIMIT 1) l ON true
$$;
COMMENT ON FUNCTION sentinai.api_openapi_words(oid, text, text[]) IS
	'Internal: what a path takes, in its path, query and body, of a row of api_path_list().';

CREATE FUNCTION sentinai.api_openapi_operation(name text, function oid, path text, words text[], open boolean) RETURNS json
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	SELECT json_strip_nulls(json_build_object(
			'operationId', $1,
			'tags', json_build_array(split_part($3, '/', 2)),
			'summary', f.said[1], 'description', f.said[2],
			'parameters', (SELECT coalesce(json_agg(w.parameter ORDER BY w.n), '[]')
							 FROM (SELECT o.n, json_build_object('name', o.name, 'in', o.place, 'required', o.is_required, 'description', o.about, 'schema', o.schema) AS parameter
									 FROM sentinai.api_openapi_words($2, $3, $4) o WHERE o.place <> 'body'
								   UNION ALL
								   SELECT 1000, json_build_object('name', 'Idempotency-Key', 'in', 'header', 'required', false,
											'description', 'Sent again with it, the request gets the same answer and does nothing.',
											'schema', json_build_object('type', 'string', 'minLength', 1, 'maxLength', 255, 'pattern', '^[!-~]+$'))
									WHERE f.said[2] ~ 'Idempotency-Key is kept') w),
			'requestBody', (SELECT CASE WHEN count(*) > 0 THEN
								json_build_object('required', bool_or(b.is_required), 'content', json_build_object('application/json', json_build_object('schema',
									json_build_object('type', 'object', 'required', json_agg(b.name ORDER BY b.n) FILTER (WHERE b.is_required),
										'properties', json_object_agg(b.name, b.schema::jsonb || jsonb_build_object('description', b.about) ORDER BY b.n))))) END
							  FROM sentinai.api_openapi_words($2, $3, $4) b WHERE b.place = 'body'),
			'responses', json_build_object(
				CASE WHEN p.prorettype = 'void'::regtype THEN '204' ELSE coalesce(substring(f.said[2] FROM 'Answers (20\d)'), '200') END,
					json_build_object('description', f.said[1], 'content', CASE WHEN t.typname = 'void' THEN NULL
						WHEN t.typname IN ('json', 'application/json') THEN '{"application/json": {"schema": {"type": "object"}}}'
						ELSE json_build_object(t.typname, '{"schema": {"type": "string"}}'::json) END),
				'429', json_build_object('$ref', '#/components/responses/Limited'),
				'default', json_build_object('$ref', '#/components/responses/Error')),
			'security', CASE WHEN $5 THEN '[{}, {"bearer": []}]'::json END))
	  FROM pg_proc p JOIN pg_type t ON t.oid = p.prorettype, LATERAL (SELECT regexp_match(regexp_replace(obj_description(p.oid, 'pg_proc'), '\mp_(?=[a-z])', '', 'g'), '^([^\n]+)\n(.*)$') AS said) f
	 WHERE p.oid = $2
$$;
COMMENT ON FUNCTION sentinai.api_openapi_operation(text, oid, text, text[], boolean) IS
	'Internal: one operation of /openapi.json. open: it needs no token.';

CREATE FUNCTION sentinai.api_openapi_list(relation oid) RETURNS json
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	SELECT json_strip_nulls(json_build_object(
			'operationId', 'rest_' || c.relname,
			'tags', json_build_array('rest'),
			'summary', f.said[1],
			'description', f.said[2] || ' Filters are PostgREST''s: status=eq.pending, created_at=gte.2026-01-01, or=(...).',
			'parameters', (SELECT json_agg(json_build_object('name', w.name, 'in', 'query', 'required', false, 'description', w.about, 'schema', w.schema) ORDER BY w.n)
							 FROM (SELECT a.attnum AS n, a.attname AS name, col_description(a.attrelid, a.attnum) AS about,
										  '{"type": "string", "pattern": "^(not[.])?(eq|neq|gte?|lte?|i?like|is|in)[.]"}'::json AS schema
									 FROM pg_attribute a WHERE a.attrelid = $1 AND a.attnum > 0
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
	 WHERE c.oid = $1
$$;
COMMENT ON FUNCTION sentinai.api_openapi_list(oid) IS 'Internal: one list of /openapi.json, by its view.';

CREATE FUNCTION sentinai_api.openapi() RETURNS json
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	WITH operation AS (
		SELECT l.path, lower(l.method) AS method, sentinai.api_openapi_operation(
					-- One function may be behind two paths.
					p.proname || CASE WHEN row_number() OVER (PARTITION BY p.oid ORDER BY l.n) > 1 THEN regexp_replace(l.path, '^.*/', '_') ELSE '' END,
					p.oid, l.path, l.words, has_function_privilege('sentinai_anon', p.oid, 'EXECUTE') OR l.by_link) AS described
		  FROM (SELECT *, coalesce('?token' = ANY (w.words), false) AS by_link FROM sentinai.api_path_list() WITH ORDINALITY AS w (method, path, function_name, words, n)) l
		  JOIN pg_proc p ON p.pronamespace = 'sentinai_api'::regnamespace AND p.proname = l.function_name
		 WHERE has_function_privilege(p.oid, 'EXECUTE') OR l.by_link
		UNION ALL
		SELECT '/rest/' || c.relname, 'get', sentinai.api_openapi_list(c.oid)
		  FROM pg_class c WHERE c.relnamespace = 'sentinai_api'::regnamespace AND c.relkind = 'v' AND has_table_privilege(c.oid, 'SELECT')
	)
	SELECT json_build_object(
		'openapi', '3.0.3',
		'info', json_build_object('title', f.said[1], 'description', f.said[2], 'version', sentinai.version()),
		'servers', '[{"url": "/"}]'::json,
		'security', '[{"bearer": []}]'::json,
		'paths', (SELECT json_object_agg(x.path, x.operations ORDER BY x.path)
					FROM (SELECT o.path, json_object_agg(o.method, o.described ORDER BY o.method) AS operations FROM operation o GROUP BY o.path) x),
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
