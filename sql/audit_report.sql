-- The runbook's types of reports: what each says, by its parameters, as of its bound.

SET search_path = sentinai, public;
\set VERBOSITY terse
\pset format unaligned
\pset tuples_only on

CREATE PROCEDURE pg_temp.made() LANGUAGE plpgsql AS $$
DECLARE
	ends	timestamptz := clock_timestamp() + interval '2 min';
BEGIN
	WHILE EXISTS (SELECT FROM sentinai.audit_report WHERE status IN ('pending', 'generating')) LOOP
		IF clock_timestamp() > ends THEN
			RAISE 'waited in vain for %', (SELECT array_agg(r) FROM sentinai.audit_report r WHERE status IN ('pending', 'generating'));
		END IF;
		PERFORM pg_sleep(0.02);
	END LOOP;
END $$;
CREATE FUNCTION pg_temp.ask(title text, type text, parameters jsonb DEFAULT '{}', format text DEFAULT 'csv') RETURNS boolean LANGUAGE sql AS $$
	SELECT id IS NULL FROM sentinai.report_request('AUDIT_T', type, title, format, '{"from_date": "2025-01-01", "to_date": "2025-01-31"}'::jsonb || parameters) $$;
-- Times that the server's clock gave are not the same tomorrow.
CREATE FUNCTION pg_temp.content(title text) RETURNS SETOF text LANGUAGE sql AS $$
	SELECT coalesce(r.error_message, (SELECT regexp_replace(regexp_replace(convert_from(d.content, 'UTF8'), '\r', '', 'g'),
		'20(2[6-9]|[3-9]\d)-\d\d-\d\dT[0-9:.]+\+00:00|,\d{7,}\.\d+|[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f-]{21}', '<now>', 'g') FROM sentinai.report_download(r.id) d))
	  FROM sentinai.audit_report r WHERE r.tenant_id = 'AUDIT_T' AND r.title = $1 $$;

SELECT tenant_add('AUDIT_T');
SELECT rate_limit_set('AUDIT_T', 'report_generations', 1000) IS NULL;
SELECT report_type, title, parameters, reproducible, has_payload FROM report_type_list() WHERE builtin;

-- ---- exceptions

INSERT INTO exceptions (tenant_id, exception_id, domain, type, severity, status, sla_deadline, created_at, resolved_at) VALUES
	('AUDIT_T', 'E1', 'billing', 'mismatch', 'high', 'resolved', '2025-01-03 12:00+00', '2025-01-02 12:00+00', '2025-01-03 09:00+00'),
	('AUDIT_T', 'E2', 'billing', 'mismatch', 'low', 'resolved', '2025-01-05 00:00+00', '2025-01-04 00:00+00', '2025-01-06 00:00+00'),
	('AUDIT_T', 'E3', 'trade', 'late', 'critical', 'open', '2025-01-20 00:00+00', '2025-01-15 00:00+00', NULL),
	('AUDIT_T', 'E4', 'trade', 'late', NULL, 'open', now() + interval '20 years', '2025-01-31 23:59:59.999999+00', NULL),
	('AUDIT_T', 'E5', 'trade', 'none', 'medium', 'open', NULL, '2025-01-10 00:00+00', NULL),
	('AUDIT_T', 'E6', 'trade', 'after', 'low', 'open', NULL, '2025-02-01 00:00+00', NULL),
	('AUDIT_T', 'E7', 'trade', 'risky', 'low', 'analyzing', now() + (now() - '2025-01-20 00:00+00') / 10, '2025-01-20 00:00+00', NULL),
	('AUDIT_X', 'E1', 'another tenant''s', 'x', 'low', 'open', NULL, '2025-01-10 00:00+00', NULL);
INSERT INTO exception_event (tenant_id, exception_id, event_id, event_type, actor_type, actor_id, payload, created_at) VALUES
	('AUDIT_T', 'E1', 'EV1', 'ExceptionIngested', 'system', 'ERP', '{}', '2025-01-02 12:00+00'),
	('AUDIT_T', 'E1', 'EV2', 'PolicyEvaluationCompleted', 'agent', 'policy', '{"decision": "approve", "policy": "P-1", "actions": ["notify", "assign"], "reason": "small"}', '2025-01-02 12:01+00'),
	('AUDIT_T', 'E1', 'EV2', 'PlaybookMatched', 'agent', 'policy', '{"playbook_id": "PB-7"}', '2025-01-02 12:01+00'),
	('AUDIT_T', 'E1', 'EV3', 'ExceptionChanged', 'user', 'ann', '{"changed": {"status": ["open", "resolved"]}}', '2025-01-03 09:00+00'),
	('AUDIT_T', 'E1', 'EV4', 'PlaybookCompleted', 'agent', 'playbook', '{"playbook_id": "PB-7"}', '2025-01-03 09:00+00'),
	('AUDIT_T', 'E2', 'EV1', 'ExceptionIngested', 'system', '=evil()', '{}', '2025-01-04 00:00+00'),
	('AUDIT_T', 'E3', 'EV1', 'PolicyEvaluationCompleted', 'agent', 'policy', '{"decision": "escalate"}', '2025-02-03 00:00+00'),
	('AUDIT_X', 'E1', 'EV1', 'PolicyEvaluationCompleted', 'agent', 'policy', '{"decision": "not ours"}', '2025-01-10 00:00+00');

SELECT pg_temp.ask('activity', 'exception_activity'), pg_temp.ask('activity json', 'exception_activity', '{"exception_id": "E1"}', 'json'),
	   pg_temp.ask('resolved', 'exception_activity', '{"status": "resolved"}'), pg_temp.ask('high', 'exception_activity', '{"severity": "high", "domain": "billing"}'),
	   pg_temp.ask('policy', 'policy_decisions'), pg_temp.ask('policy approve', 'policy_decisions', '{"decision": "approve"}'),
	   pg_temp.ask('sla', 'sla_compliance'), pg_temp.ask('sla week', 'sla_compliance', '{"period": "week", "severity": "low"}'),
	   pg_temp.ask('sla day', 'sla_compliance', '{"period": "day", "threshold_percent": 100}');
CALL pg_temp.made();
SELECT pg_temp.content('activity');
SELECT regexp_replace(pg_temp.content('activity json'), '"(id|requested_at|generated_at)" : "[^"]*"', '"\1" : "..."', 'g');
SELECT pg_temp.content('resolved');
SELECT pg_temp.content('high');
SELECT pg_temp.content('policy');
SELECT pg_temp.content('policy approve');
SELECT pg_temp.content('sla');
SELECT pg_temp.content('sla week');
SELECT pg_temp.content('sla day');
SELECT title, row_count, error_message FROM report_list('AUDIT_T') ORDER BY title;

-- ---- as of the bound: what changes after the request is not in it, and what came before stays

BEGIN;
SELECT pg_temp.ask('as of', 'exception_activity', '{"from_date": "2025-01-15", "to_date": "2025-01-15"}');
UPDATE exceptions SET status = 'analyzing', severity = 'low', owner = 'bob' WHERE (tenant_id, exception_id) = ('AUDIT_T', 'E3');
UPDATE exceptions SET status = 'resolved', sla_deadline = NULL WHERE (tenant_id, exception_id) = ('AUDIT_T', 'E3');
INSERT INTO exceptions (tenant_id, exception_id, created_at) VALUES ('AUDIT_T', 'LATE', '2025-01-15 00:00+00');
INSERT INTO exception_event (tenant_id, exception_id, event_id, event_type, actor_type, created_at) VALUES ('AUDIT_T', 'E3', 'LATE', 'Note', 'user', '2025-01-15 01:00+00');
SELECT pg_temp.ask('as of later', 'exception_activity', '{"from_date": "2025-01-15", "to_date": "2025-01-15"}');
COMMIT;
SELECT event_type, actor_type, actor_id = current_user, payload FROM exception_event WHERE exception_id = 'E3' AND event_type = 'ExceptionChanged' ORDER BY recorded_at;
UPDATE exceptions SET status = status, updated_at = now() WHERE (tenant_id, exception_id) = ('AUDIT_T', 'E3');
SELECT count(*) FROM exception_event WHERE exception_id = 'E3' AND event_type = 'ExceptionChanged';
CALL pg_temp.made();
SELECT pg_temp.content('as of');
SELECT pg_temp.content('as of later');
UPDATE exception_event SET payload = '{}' WHERE tenant_id = 'AUDIT_T';

-- ---- tools, without their secrets

INSERT INTO tool_definition (tenant_id, tool_id, name) VALUES ('', 'mail', 'Mail'), ('AUDIT_T', 'bank', 'The bank'), ('', 'bank', 'Not this one');
INSERT INTO tool_execution (tenant_id, id, tool_id, exception_id, requested_by_actor_type, requested_by_actor_id, input_payload, created_at) VALUES
	('AUDIT_T', '00000000-0000-0000-0000-000000000001', 'bank', 'E1', 'agent', 'playbook',
	 '{"amount": 12, "api_key": "k", "nested": [{"Password": "p", "user": "ann"}, {"x-auth-TOKEN": {"a": 1}}], "url": "https://bank/?token=abc&a=b", "header": "Bearer eyJ.x", "apikey": null}', '2025-01-02 12:02+00'),
	('AUDIT_T', '00000000-0000-0000-0000-000000000002', 'mail', NULL, 'user', 'ann', '{"to": "bob"}', '2025-01-05 00:00+00'),
	('AUDIT_T', '00000000-0000-0000-0000-000000000003', 'gone', 'E2', 'system', NULL, '"text with password: hidden"', '2025-01-06 00:00+00');
UPDATE tool_execution SET status = 'running' WHERE tenant_id = 'AUDIT_T';
UPDATE tool_execution SET status = 'failed', output_payload = '{"session_id": "s", "code": 5}', error_message = 'refused, password=hunter2' WHERE id = '00000000-0000-0000-0000-000000000001';
SELECT pg_temp.ask('tools', 'tool_execution'), pg_temp.ask('tools bank', 'tool_execution', '{"tool_id": "bank"}', 'json'), pg_temp.ask('tools running', 'tool_execution', '{"status": "running"}');
BEGIN;
SELECT pg_temp.ask('tools as of', 'tool_execution', '{"tool_id": "mail"}');
UPDATE tool_execution SET status = 'succeeded', output_payload = '{"sent": true}' WHERE id = '00000000-0000-0000-0000-000000000002';
UPDATE tool_definition SET name = 'Renamed' WHERE tool_id = 'mail';
SELECT pg_temp.ask('tools renamed', 'tool_execution', '{"tool_id": "mail"}');
DELETE FROM tool_definition WHERE tool_id = 'mail';
INSERT INTO tool_definition (tenant_id, tool_id, name) VALUES ('AUDIT_T', 'mail', 'Another one'), ('AUDIT_T', 'gone', 'Back again');
COMMIT;
CALL pg_temp.made();
SELECT pg_temp.content('tools');
SELECT (r->'input')::text, (r->'output')::text FROM pg_temp.content('tools bank') c, jsonb_array_elements(c::jsonb->'rows') r;
SELECT pg_temp.content('tools running');
SELECT pg_temp.content('tools as of');
SELECT pg_temp.content('tools renamed');
SELECT tenant_id, tool_id, payload FROM tool_definition_event ORDER BY recorded_at;
UPDATE tool_definition_event SET payload = '{}';
INSERT INTO report_mask VALUES ('^amount$');
SELECT report_masked('{"amount": 12, "AMOUNT_MAX": 1}', report_mask_pattern());
DELETE FROM report_mask WHERE NOT builtin;
CREATE ROLE regress_audit_op IN ROLE sentinai_operator;
SELECT tenant_role_add('regress_audit_op', 'AUDIT_T');
SET ROLE regress_audit_op;
DO $$ BEGIN PERFORM report_download(id) FROM sentinai.report_list('AUDIT_T') WHERE title = 'activity'; END $$;
DO $$ BEGIN PERFORM report_download(id) FROM sentinai.report_list('AUDIT_T') WHERE title = 'tools';
EXCEPTION WHEN insufficient_privilege THEN RAISE NOTICE 'not without sentinai_payload'; END $$;
RESET ROLE;
GRANT sentinai_payload TO regress_audit_op;
SET ROLE regress_audit_op;
DO $$ BEGIN PERFORM report_download(id) FROM sentinai.report_list('AUDIT_T') WHERE title = 'tools'; END $$;
RESET ROLE;
DROP ROLE regress_audit_op;
SELECT tenant_role_remove('regress_audit_op', 'AUDIT_T');

-- ---- changes of configuration

INSERT INTO config_change_request (tenant_id, id, change_type, resource_id, resource_name, current_config, proposed_config, change_reason, requested_by, created_at) VALUES
	('AUDIT_T', 'C1', 'tool', 'bank', 'The bank', '{"url": "a", "secret": "old"}', '{"url": "b", "secret": "new"}', 'moved', 'ann', '2025-01-07 00:00+00'),
	('AUDIT_T', 'C2', 'playbook', 'PB-7', NULL, NULL, '{"steps": []}', NULL, 'bob', '2025-01-08 00:00+00');
UPDATE config_change_request SET status = 'approved', reviewed_by = 'eve', reviewed_at = '2025-01-07 10:00+00', review_comment = 'fine' WHERE id = 'C1';
BEGIN;
SELECT pg_temp.ask('config', 'config_changes'), pg_temp.ask('config approved', 'config_changes', '{"status": "approved", "change_type": "tool"}', 'jsonl');
UPDATE config_change_request SET status = 'applied', applied_by = 'eve', applied_at = '2025-01-07 11:00+00' WHERE id = 'C1';
COMMIT;
SELECT pg_temp.ask('config later', 'config_changes');
CALL pg_temp.made();
SELECT pg_temp.content('config');
SELECT regexp_replace(pg_temp.content('config approved'), '"(id|requested_at|generated_at)" : "[^"]*"', '"\1" : "..."', 'g');
SELECT pg_temp.content('config later');

-- ---- many rows: every chunk begins where the last one ended

INSERT INTO exceptions (tenant_id, exception_id, severity, status, sla_deadline, created_at)
	SELECT 'AUDIT_T', 'M' || n, 'low', 'open', '2025-03-02', '2025-03-01'::timestamptz + n / 100 * interval '1 s' FROM generate_series(1, 7000) n;
INSERT INTO exception_event (tenant_id, exception_id, event_id, event_type, actor_type, created_at)
	SELECT 'AUDIT_T', 'M' || n, 'V' || v, CASE v WHEN 1 THEN 'PolicyEvaluationCompleted' ELSE 'Note' END, 'agent', '2025-03-01'::timestamptz + n / 100 * interval '1 s' FROM generate_series(1, 7000) n, generate_series(1, 2) v;
SELECT pg_temp.ask('many', t, '{"from_date": "2025-03-01", "to_date": "2025-03-31"}') FROM unnest(ARRAY['exception_activity', 'policy_decisions', 'sla_compliance']) t;
CALL pg_temp.made();
SELECT report_type, row_count, error_message FROM report_list('AUDIT_T') WHERE title = 'many' ORDER BY 1;

DELETE FROM audit_report WHERE tenant_id = 'AUDIT_T';
DELETE FROM exceptions WHERE tenant_id LIKE 'AUDIT_%';
DELETE FROM exception_event WHERE tenant_id LIKE 'AUDIT_%';
DELETE FROM tool_execution;
DELETE FROM tool_execution_event;
DELETE FROM tool_definition;
DELETE FROM tool_definition_event;
DELETE FROM config_change_request;
DELETE FROM config_change_event;
