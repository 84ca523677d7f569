-- 86_audit_report: the runbook's types of reports (config_changes stands with its table). Each says what was so at its bound:
-- a row that has changed since is brought back by undoing its later changes, of which the earliest has what a column was.
-- A query and what it reads by: $1 tenant, $2 and $3 period, $4 parameters, $5 bound, $6 key of the last row, $7 rows.

-- Inlined into the queries below, as a subquery of its own because of its order: so it looks for changes once an exception.
CREATE FUNCTION sentinai.audit_exceptions(tenant_id text, from_time timestamptz, to_time timestamptz, bound timestamptz,
										  exception_id text DEFAULT NULL)
	RETURNS TABLE (tenant_id text, exception_id text, domain text, type text, severity text, status text, created_at timestamptz,
				   resolved_at timestamptz, sla_deadline timestamptz)
	LANGUAGE sql STABLE PARALLEL SAFE
	AS $$
	SELECT x.tenant_id, x.exception_id,
		   CASE WHEN undo.fields ? 'domain' THEN undo.fields->>'domain' ELSE x.domain END,
		   CASE WHEN undo.fields ? 'type' THEN undo.fields->>'type' ELSE x.type END,
		   CASE WHEN undo.fields ? 'severity' THEN undo.fields->>'severity' ELSE x.severity END,
		   CASE WHEN undo.fields ? 'status' THEN undo.fields->>'status' ELSE x.status END,
		   x.created_at,
		   CASE WHEN CASE WHEN undo.fields ? 'status' THEN undo.fields->>'status' ELSE x.status END = 'resolved'
				THEN coalesce(CASE WHEN undo.fields ? 'resolved_at' THEN (undo.fields->>'resolved_at')::timestamptz ELSE x.resolved_at END,
							  (SELECT pg_catalog.max(e.created_at) FROM sentinai.exception_event e
								WHERE e.tenant_id = x.tenant_id AND e.exception_id = x.exception_id AND e.event_type = 'ExceptionChanged'
								  AND e.recorded_at < $4 AND e.payload #>> '{changed,status,1}' = 'resolved')) END,
		   CASE WHEN undo.fields ? 'sla_deadline' THEN (undo.fields->>'sla_deadline')::timestamptz ELSE x.sla_deadline END
	  FROM sentinai.exceptions x
	  LEFT JOIN LATERAL (
		SELECT pg_catalog.jsonb_object_agg(f.key, f.value->0 ORDER BY e.recorded_at DESC, e.event_id DESC) AS fields
		  FROM sentinai.exception_event e, pg_catalog.jsonb_each(e.payload->'changed') f
		 WHERE e.tenant_id = x.tenant_id AND e.exception_id = x.exception_id AND e.event_type = 'ExceptionChanged' AND e.recorded_at >= $4) undo ON true
	 WHERE x.tenant_id = $1 AND x.created_at >= $2 AND x.created_at < $3 AND x.recorded_at < $4 AND ($5 IS NULL OR x.exception_id = $5)
	 ORDER BY x.created_at
$$;
COMMENT ON FUNCTION sentinai.audit_exceptions(text, timestamptz, timestamptz, timestamptz, text) IS
	'The exceptions of a tenant that were created in a period (the end is exclusive), as they were at the bound, in the order of created_at; exception_id: only that one. resolved_at: of one that was resolved then; where nobody said when, when its status became so.';

CREATE FUNCTION sentinai.audit_sla(tenant_id text, from_time timestamptz, to_time timestamptz, bound timestamptz, period text)
	RETURNS TABLE (start timestamptz, exception_id text, severity text, created_at timestamptz, resolved_at timestamptz,
				   sla_deadline timestamptz, met boolean, breached boolean, elapsed_percent numeric)
	LANGUAGE sql STABLE PARALLEL SAFE
	AS $$
	SELECT pg_catalog.date_trunc($5, x.created_at, 'UTC'), x.exception_id, x.severity, x.created_at, x.resolved_at, x.sla_deadline,
		   coalesce(x.resolved_at <= x.sla_deadline, false),
		   coalesce(x.resolved_at, $4) > x.sla_deadline,
		   100 * extract(epoch FROM $4 - x.created_at) / nullif(extract(epoch FROM x.sla_deadline - x.created_at), 0)
	  FROM sentinai.audit_exceptions($1, $2, $3, $4) x
	 WHERE x.sla_deadline IS NOT NULL
$$;
COMMENT ON FUNCTION sentinai.audit_sla(text, timestamptz, timestamptz, timestamptz, text) IS
	'Of audit_exceptions() those with a deadline, by period (day, week or month, in UTC) of their creation. met: resolved in time; breached: resolved late, or late at the bound; neither: not due at the bound, of whose time elapsed_percent was over.';

SELECT sentinai.report_type_install('exception_activity', 'Exception activity', 5,
	'{"status": {"type": "text", "values": ["open", "analyzing", "resolved", "escalated"]},
	  "severity": {"type": "text", "values": ["low", "medium", "high", "critical"]},
	  "domain": {"type": "text"}, "exception_id": {"type": "text"}}',
	$report$
SELECT x.created_at, x.exception_id, coalesce(e.created_at, '-infinity'), coalesce(e.event_id, ''), coalesce(e.event_type, ''),
	   x.exception_id, x.tenant_id, x.status, x.severity, x.domain, x.type, x.created_at, x.resolved_at, x.sla_deadline,
	   e.created_at AS event_at, e.event_type, e.payload #>> '{changed,status,0}' AS from_status, e.payload #>> '{changed,status,1}' AS to_status,
	   coalesce(e.payload->>'playbook_id', e.payload #>> '{changed,current_playbook_id,1}') AS playbook_id,
	   e.actor_type, e.actor_id, e.event_id
  FROM sentinai.audit_exceptions($1, greatest($2, $6[1]::timestamptz), $3, $5, $4->>'exception_id') x
  LEFT JOIN sentinai.exception_event e ON e.tenant_id = x.tenant_id AND e.exception_id = x.exception_id AND e.recorded_at < $5
 WHERE ($6 IS NULL OR (x.created_at, x.exception_id, coalesce(e.created_at, '-infinity'), coalesce(e.event_id, ''), coalesce(e.event_type, ''))
					  > ((SELECT $6[1]::timestamptz), $6[2], (SELECT $6[3]::timestamptz), $6[4], $6[5]))
   AND ($4->>'status' IS NULL OR x.status = $4->>'status')
   AND ($4->>'severity' IS NULL OR x.severity = $4->>'severity')
   AND ($4->>'domain' IS NULL OR x.domain = $4->>'domain')
 ORDER BY 1, 2, 3, 4, 5 LIMIT $7$report$,
	count_query => $report$
SELECT count(*)
  FROM sentinai.audit_exceptions($1, $2, $3, $5, $4->>'exception_id') x
  LEFT JOIN sentinai.exception_event e ON e.tenant_id = $1 AND e.exception_id = x.exception_id AND e.recorded_at < $5
 WHERE ($4->>'status' IS NULL OR x.status = $4->>'status')
   AND ($4->>'severity' IS NULL OR x.severity = $4->>'severity')
   AND ($4->>'domain' IS NULL OR x.domain = $4->>'domain')$report$,
	summary_query => $report$
WITH x AS MATERIALIZED (SELECT * FROM sentinai.audit_exceptions($1, $2, $3, $5, $4->>'exception_id') x
						 WHERE ($4->>'status' IS NULL OR x.status = $4->>'status') AND ($4->>'severity' IS NULL OR x.severity = $4->>'severity')
						   AND ($4->>'domain' IS NULL OR x.domain = $4->>'domain')),
	 day AS (SELECT d::date AS d FROM generate_series(date_trunc('day', $2), $3 - interval '1 us', interval '1 day') d)
SELECT jsonb_build_object('summary', jsonb_build_array(
		jsonb_build_object('label', 'Exceptions', 'value', count(*)::text),
		jsonb_build_object('label', 'Open', 'value', count(*) FILTER (WHERE x.status = 'open')::text),
		jsonb_build_object('label', 'Analyzing', 'value', count(*) FILTER (WHERE x.status = 'analyzing')::text),
		jsonb_build_object('label', 'Escalated', 'value', count(*) FILTER (WHERE x.status = 'escalated')::text),
		jsonb_build_object('label', 'Resolved', 'value', count(*) FILTER (WHERE x.status = 'resolved')::text)))
  FROM x
UNION ALL
SELECT jsonb_build_object('chart', jsonb_build_object('kind', 'stacked', 'title', 'Exceptions by status, by the day they came',
		'x', (SELECT jsonb_agg(day.d::text ORDER BY day.d) FROM day), 'series', jsonb_agg(s.series ORDER BY s.place)))
  FROM (SELECT v.place, jsonb_build_object('name', v.name, 'values', jsonb_agg(coalesce(n.n, 0) ORDER BY day.d)) AS series
		  FROM (VALUES (1, 'open'), (2, 'analyzing'), (3, 'escalated'), (4, 'resolved')) v (place, name) CROSS JOIN day
		  LEFT JOIN (SELECT x.status, (x.created_at AT TIME ZONE 'UTC')::date AS d, count(*) AS n FROM x GROUP BY 1, 2) n ON n.status = v.name AND n.d = day.d
		 GROUP BY v.place, v.name) s
UNION ALL
SELECT jsonb_build_object('chart', jsonb_build_object('kind', 'stacked', 'title', 'Exceptions by severity, by the day they came',
		'x', (SELECT jsonb_agg(day.d::text ORDER BY day.d) FROM day), 'series', jsonb_agg(s.series ORDER BY s.place)))
  FROM (SELECT v.place, jsonb_build_object('name', v.name, 'values', jsonb_agg(coalesce(n.n, 0) ORDER BY day.d)) AS series
		  FROM (VALUES (1, 'low'), (2, 'medium'), (3, 'high'), (4, 'critical'), (5, 'none')) v (place, name) CROSS JOIN day
		  LEFT JOIN (SELECT coalesce(x.severity, 'none') AS severity, (x.created_at AT TIME ZONE 'UTC')::date AS d, count(*) AS n FROM x GROUP BY 1, 2) n
			ON n.severity = v.name AND n.d = day.d
		 GROUP BY v.place, v.name) s$report$);

SELECT sentinai.report_type_install('policy_decisions', 'Policy decisions', 4,
	'{"exception_id": {"type": "text"}, "decision": {"type": "text"}}',
	$report$
SELECT e.created_at, e.exception_id, e.event_id, e.event_type,
	   e.created_at AS decided_at, e.exception_id, e.tenant_id, e.event_type, coalesce(e.payload->>'policy_id', e.payload->>'policy') AS policy,
	   e.payload->>'decision' AS decision, e.payload->'actions' AS actions, e.payload->>'playbook_id' AS playbook_id, e.payload->>'reason' AS reason,
	   e.actor_type, e.actor_id, e.event_id
  FROM sentinai.exception_event e
 WHERE e.tenant_id = $1 AND e.created_at >= $2 AND e.created_at < $3 AND e.recorded_at < $5
   AND e.event_type IN ('PolicyEvaluationCompleted', 'PlaybookMatched')
   AND ($6 IS NULL OR (e.created_at, e.exception_id, e.event_id, e.event_type) > ($6[1]::timestamptz, $6[2], $6[3], $6[4]))
   AND ($4->>'exception_id' IS NULL OR e.exception_id = $4->>'exception_id')
   AND ($4->>'decision' IS NULL OR e.payload->>'decision' = $4->>'decision')
 ORDER BY 1, 2, 3, 4 LIMIT $7$report$);

SELECT sentinai.report_type_install('tool_execution', 'Tool executions', 2,
	'{"tool_id": {"type": "text"}, "status": {"type": "text", "values": ["requested", "running", "succeeded", "failed"]}, "exception_id": {"type": "text"}}',
	$report$
SELECT t.created_at, t.id,
	   t.id AS execution_id, t.tool_id, sentinai.tool_name(t.tenant_id, t.tool_id, $5) AS tool_name, t.tenant_id, t.exception_id, was.status,
	   t.created_at AS requested_at, done.at AS finished_at, extract(epoch FROM done.at - t.created_at) AS duration_seconds,
	   t.requested_by_actor_type AS actor_type, t.requested_by_actor_id AS actor_id,
	   sentinai.report_masked(t.input_payload, mask.pattern) AS input, sentinai.report_masked(was.output_payload, mask.pattern) AS output,
	   sentinai.report_masked_text(was.error_message) AS error_message
  FROM sentinai.tool_execution t
 CROSS JOIN (SELECT sentinai.report_mask_pattern() AS pattern) mask
  LEFT JOIN LATERAL (
	SELECT jsonb_object_agg(f.key, f.value->0 ORDER BY e.recorded_at DESC, e.event_id DESC) AS fields
	  FROM sentinai.tool_execution_event e, jsonb_each(e.payload->'changed') f
	 WHERE e.tenant_id = t.tenant_id AND e.execution_id = t.id AND e.recorded_at >= $5) undo ON true
 CROSS JOIN LATERAL jsonb_populate_record(t, coalesce(undo.fields, '{}')) was
  LEFT JOIN LATERAL (
	SELECT max(e.created_at) AS at FROM sentinai.tool_execution_event e
	 WHERE e.tenant_id = t.tenant_id AND e.execution_id = t.id AND e.recorded_at < $5
	   AND e.payload #>> '{changed,status,1}' IN ('succeeded', 'failed')) done ON was.status IN ('succeeded', 'failed')
 WHERE t.tenant_id = $1 AND t.created_at >= $2 AND t.created_at < $3 AND t.recorded_at < $5
   AND ($6 IS NULL OR (t.created_at, t.id) > ($6[1]::timestamptz, $6[2]::uuid))
   AND ($4->>'tool_id' IS NULL OR t.tool_id = $4->>'tool_id')
   AND ($4->>'exception_id' IS NULL OR t.exception_id = $4->>'exception_id')
   AND ($4->>'status' IS NULL OR was.status = $4->>'status')
 ORDER BY t.created_at, t.id LIMIT $7$report$,
	has_payload => true);

-- Sections one after the other: the rate by period, the time to resolve by severity, each breach, each exception at risk.
SELECT sentinai.report_type_install('sla_compliance', 'SLA compliance', 3,
	'{"period": {"type": "text", "values": ["day", "week", "month"], "default": "month"},
	  "severity": {"type": "text", "values": ["low", "medium", "high", "critical"]},
	  "threshold_percent": {"type": "integer", "default": 80}}',
	$report$
SELECT q.k1, q.k2, q.k3, q.section, q.period_start, q.severity, q.exception_id, q.exceptions, q.met, q.breached, q.open, q.compliance_rate,
	   q.average_resolution_seconds, q.created_at, q.sla_deadline, q.resolved_at, q.overdue_seconds, q.elapsed_percent
  FROM (
	SELECT 1 AS k1, sentinai.report_iso(p.start) AS k2, '' AS k3, 'compliance' AS section, (p.start AT TIME ZONE 'UTC')::date AS period_start,
		   NULL::text AS severity, NULL::text AS exception_id, count(*) AS exceptions, count(*) FILTER (WHERE p.met) AS met,
		   count(*) FILTER (WHERE p.breached) AS breached, count(*) FILTER (WHERE NOT p.met AND NOT p.breached) AS open,
		   round(100.0 * count(*) FILTER (WHERE p.met) / nullif(count(*) FILTER (WHERE p.met OR p.breached), 0), 2) AS compliance_rate,
		   round(avg(extract(epoch FROM p.resolved_at - p.created_at)), 3) AS average_resolution_seconds,
		   NULL::timestamptz AS created_at, NULL::timestamptz AS sla_deadline, NULL::timestamptz AS resolved_at, NULL::numeric AS overdue_seconds,
		   NULL::numeric AS elapsed_percent
	  FROM sentinai.audit_sla($1, $2, $3, $5, $4->>'period') p
	 WHERE ($6 IS NULL OR $6[1] = '1') AND ($4->>'severity' IS NULL OR p.severity = $4->>'severity')
	 GROUP BY p.start
	UNION ALL
	SELECT 2, coalesce(p.severity, ''), '', 'resolution_time', NULL, coalesce(p.severity, 'none'), NULL, count(*), count(*) FILTER (WHERE p.met),
		   count(*) FILTER (WHERE p.breached), count(*) FILTER (WHERE NOT p.met AND NOT p.breached),
		   round(100.0 * count(*) FILTER (WHERE p.met) / nullif(count(*) FILTER (WHERE p.met OR p.breached), 0), 2),
		   round(avg(extract(epoch FROM p.resolved_at - p.created_at)), 3), NULL, NULL, NULL, NULL, NULL
	  FROM sentinai.audit_sla($1, $2, $3, $5, $4->>'period') p
	 WHERE ($6 IS NULL OR $6[1] IN ('1', '2')) AND ($4->>'severity' IS NULL OR p.severity = $4->>'severity')
	 GROUP BY p.severity
	UNION ALL
	SELECT 3, sentinai.report_iso(p.created_at), p.exception_id, 'breach', (p.start AT TIME ZONE 'UTC')::date, p.severity, p.exception_id, NULL, NULL, NULL, NULL,
		   NULL, NULL, p.created_at, p.sla_deadline, p.resolved_at,
		   round(extract(epoch FROM coalesce(p.resolved_at, $5) - p.sla_deadline), 3), NULL
	  FROM sentinai.audit_sla($1, CASE WHEN $6[1] = '3' THEN greatest($2, $6[2]::timestamptz) ELSE $2 END, $3, $5, $4->>'period') p
	 WHERE ($6 IS NULL OR $6[1] IN ('1', '2', '3')) AND p.breached AND ($4->>'severity' IS NULL OR p.severity = $4->>'severity')
	UNION ALL
	SELECT 4, sentinai.report_iso(p.created_at), p.exception_id, 'at_risk', (p.start AT TIME ZONE 'UTC')::date, p.severity, p.exception_id, NULL, NULL, NULL, NULL,
		   NULL, NULL, p.created_at, p.sla_deadline, NULL, NULL, round(p.elapsed_percent, 2)
	  FROM sentinai.audit_sla($1, CASE WHEN $6[1] = '4' THEN greatest($2, $6[2]::timestamptz) ELSE $2 END, $3, $5, $4->>'period') p
	 WHERE NOT p.met AND NOT p.breached AND p.elapsed_percent >= ($4->>'threshold_percent')::numeric
	   AND ($4->>'severity' IS NULL OR p.severity = $4->>'severity')) q
 WHERE $6 IS NULL OR (q.k1, q.k2 COLLATE "C", q.k3 COLLATE "C") > ($6[1]::integer, $6[2] COLLATE "C", $6[3] COLLATE "C")
 ORDER BY q.k1, q.k2 COLLATE "C", q.k3 COLLATE "C" LIMIT $7$report$,
	summary_query => $report$
WITH p AS MATERIALIZED (SELECT * FROM sentinai.audit_sla($1, $2, $3, $5, $4->>'period') p
						 WHERE $4->>'severity' IS NULL OR p.severity = $4->>'severity'),
	 period AS (SELECT p.start, count(*) AS n, count(*) FILTER (WHERE p.met) AS met, count(*) FILTER (WHERE p.breached) AS breached FROM p GROUP BY 1)
SELECT jsonb_build_object('summary', jsonb_build_array(
		jsonb_build_object('label', 'Exceptions with a deadline', 'value', count(*)::text),
		jsonb_build_object('label', 'In time', 'value', count(*) FILTER (WHERE p.met)::text),
		jsonb_build_object('label', 'Breached', 'value', count(*) FILTER (WHERE p.breached)::text),
		jsonb_build_object('label', 'At risk', 'value', count(*) FILTER (WHERE NOT p.met AND NOT p.breached
				AND p.elapsed_percent >= ($4->>'threshold_percent')::numeric)::text),
		jsonb_build_object('label', 'Compliance', 'value',
			coalesce(round(100.0 * count(*) FILTER (WHERE p.met) / nullif(count(*) FILTER (WHERE p.met OR p.breached), 0), 2)::text || ' %', 'none due'))))
  FROM p
UNION ALL
SELECT jsonb_build_object('chart', jsonb_build_object('kind', 'line', 'title', 'Compliance by ' || ($4->>'period') || ', per cent',
		'x', jsonb_agg((period.start AT TIME ZONE 'UTC')::date::text ORDER BY period.start),
		'series', jsonb_build_array(jsonb_build_object('name', 'compliance',
			'values', jsonb_agg(coalesce(round(100.0 * period.met / nullif(period.met + period.breached, 0), 2), 0) ORDER BY period.start)))))
  FROM period HAVING count(*) > 0
UNION ALL
SELECT jsonb_build_object('chart', jsonb_build_object('kind', 'stacked', 'title', 'Exceptions by ' || ($4->>'period'),
		'x', jsonb_agg((period.start AT TIME ZONE 'UTC')::date::text ORDER BY period.start),
		'series', jsonb_build_array(
			jsonb_build_object('name', 'in time', 'values', jsonb_agg(period.met ORDER BY period.start)),
			jsonb_build_object('name', 'breached', 'values', jsonb_agg(period.breached ORDER BY period.start)),
			jsonb_build_object('name', 'not due', 'values', jsonb_agg(period.n - period.met - period.breached ORDER BY period.start)))))
  FROM period HAVING count(*) > 0$report$);
