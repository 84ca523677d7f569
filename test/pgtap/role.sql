-- role: each role can do its work, and not the next one's. What is granted stands in the catalogue's test; here it is used.
\set ON_ERROR_STOP on
\pset format unaligned
\pset tuples_only on
BEGIN;
SELECT plan(150);
GRANT USAGE ON SCHEMA tap TO PUBLIC;

SELECT tenant_add('ROLE_T') AS ignored \gset
INSERT INTO dead_letter_queue (event_id, event_type, tenant_id, exception_id, worker_type, step, error_type, error_message,
							   fingerprint, original_topic, original_partition, original_offset, payload, payload_raw)
	VALUES ('role-1', 'ExceptionIngested', 'ROLE_T', 'E', 'intake', 'screen', 'validation_error', 'for the test',
			'f', 'exceptions', 0, 0, '{"secret": 1}', '\x7b7d');
SELECT id AS dlq FROM dead_letter_queue WHERE event_id = 'role-1' \gset
-- As who is logged in is an admin, it may be any tenant in any role.
SET LOCAL sentinai.tenant_id = 'ROLE_T';

-- A viewer reads all that is no payload.
SET ROLE sentinai_viewer;
SELECT lives_ok(q, 'viewer: ' || q) FROM unnest(ARRAY[
	'SELECT * FROM tenant_list()', 'SELECT * FROM dlq_list(''ROLE_T'')', 'SELECT * FROM dlq_stats(''ROLE_T'')',
	'SELECT * FROM dlq_groups(''ROLE_T'')', 'SELECT * FROM dlq_growth(''ROLE_T'')', 'SELECT * FROM dlq_history(1)',
	'SELECT * FROM dlq_size()', 'SELECT * FROM event_trace(''ROLE_T'', ''E'')', 'SELECT * FROM exception_events(''E'')',
	'SELECT * FROM event_why(''ROLE_T'', ''role-1'')', 'SELECT * FROM retry_policy_list()', 'SELECT * FROM error_class_list()',
	'SELECT * FROM dedupe_status()', 'SELECT * FROM worker_list()', 'SELECT health(), health_db(), health_workers()',
	'SELECT metrics()', 'SELECT * FROM exceptions', 'SELECT * FROM exception',
	'SELECT * FROM event_processing_log', 'SELECT id, event_id, error_message FROM dead_letter_queue',
	'SELECT event_id, event_type FROM event_log', 'SELECT * FROM kafka_offset', 'SELECT id, status FROM event_pending',
	'SELECT id, topic, error FROM outbox_failed', 'SELECT key, status, lease_until FROM idempotency_key', 'SELECT usage_summary(''ROLE_T'')',
	'SELECT * FROM usage_details(''ROLE_T'', ''events'', now() - interval ''1 day'', now())',
	'SELECT usage_export(''ROLE_T'', now() - interval ''1 day'', now())',
	'SELECT * FROM books_check(''ROLE_T'', now() - interval ''1 day'', now())', 'SELECT * FROM usage_metric',
	'SELECT * FROM rate_limit_list(''ROLE_T'')', 'SELECT * FROM rate_limit_usage(''ROLE_T'')', 'SELECT * FROM rate_limit_history',
	'SELECT rate_limit_peek(''ROLE_T'', ''api_requests''), rate_limit_body(''ROLE_T'', ''api_requests'')']) q;
SELECT is((SELECT payload FROM dlq_list('ROLE_T')), NULL, 'viewer: a dead letter has no payload');
SELECT throws_ok(q, '42501', NULL, 'viewer may not: ' || q) FROM unnest(ARRAY[
	'SELECT payload FROM dead_letter_queue', 'SELECT payload_raw FROM dead_letter_queue', 'SELECT payload FROM event_log',
	'SELECT record_value FROM event_pending', 'SELECT record_value FROM outbox_failed', 'SELECT * FROM outbox_blocked',
	'SELECT outbox_failed_retry(1)', 'SELECT * FROM outbox', 'SELECT * FROM emit_secret',
	'SELECT response FROM idempotency_key', 'SELECT idempotency_begin(''ROLE_T'', ''s'', ''k'', ''{}'', lease => ''1 min'')',
	'SELECT dlq_retry(1, ''no'')', 'DELETE FROM dead_letter_queue', 'SELECT tenant_add(''X'')', 'SELECT usage_record(''ROLE_T'', ''events'')', 'SELECT usage_close(now())',
	'SELECT usage_correct(''ROLE_T'', ''events'', '''', now(), 1, ''no'')', 'UPDATE exceptions SET owner = ''x''',
	'SELECT rate_limit_check(''ROLE_T'', ''api_requests'')', 'SELECT rate_limit_reset(''ROLE_T'', ''api_requests'', ''x'')',
	'SELECT * FROM rate_limit_since', 'SELECT * FROM maintenance_status()', 'SELECT * FROM kafka_topic', 'SELECT * FROM worker_instance']) q;
RESET ROLE;

-- With sentinai_payload it sees them.
CREATE ROLE regress_sees IN ROLE sentinai_viewer, sentinai_payload;
SET ROLE regress_sees;
SELECT is((SELECT payload FROM dlq_list('ROLE_T')), '{"secret": 1}', 'viewer with payload: a dead letter has its payload');
SELECT throws_ok('SELECT * FROM dead_letter_queue', '42501', NULL, 'viewer with payload: the raw columns are the admin''s');
SELECT throws_ok('SELECT payload FROM event_log', '42501', NULL, 'viewer with payload: the same of event_log');
RESET ROLE;
SELECT payload_mask_add('ExceptionIngested', '{secret}');
SET ROLE regress_sees;
SELECT is((SELECT payload FROM dlq_list('ROLE_T')), '{"secret": "***"}', 'viewer with payload: a masked value');
SET ROLE sentinai_viewer;
SELECT is((SELECT payload FROM dlq_list('ROLE_T')), NULL, 'viewer: no payload, masked or not');
SET ROLE sentinai_admin;
SELECT is((SELECT payload FROM dlq_list('ROLE_T')), '{"secret": 1}', 'admin: the value itself');
SELECT lives_ok('SELECT * FROM dead_letter_queue', 'admin: the runbook''s SELECT *');
SELECT lives_ok('SELECT * FROM event_log', 'admin: the same of event_log');
RESET ROLE;

-- An operator works on dead letters.
SET ROLE sentinai_operator;
SELECT lives_ok(format('SELECT dlq_retry(%s, ''fixed'')', :dlq), 'operator: retries a dead letter');
SELECT lives_ok('SELECT event_publish(''exceptions'', ''{"event_type": "ExceptionIngested", "tenant_id": "ROLE_T", "payload": {}}'')',
	'operator: publishes an event');
SELECT lives_ok('SELECT idempotency_begin(''ROLE_T'', ''s'', ''operator'', ''{}'', lease => ''1 min'')', 'operator: begins with an idempotency key');
SELECT throws_ok('SELECT outbox_failed_retry(0)', 'SN011', NULL, 'operator: sends refused records again');
SELECT throws_ok('SELECT outbox_failed_discard(0, ''why'')', 'SN011', NULL, 'operator: discards them');
SELECT lives_ok('DELETE FROM dead_letter_queue WHERE tenant_id = ''ROLE_T''', 'operator: clears dead letters');
SELECT throws_ok('TRUNCATE dead_letter_queue', '42501', NULL, 'operator may not truncate them');
SELECT lives_ok('SELECT rate_limit_reset(''ROLE_T'', ''api_requests'', ''incident'')', 'operator: resets a limit');
SELECT throws_ok('SELECT rate_limit_set(''ROLE_T'', ''api_requests'', 5)', '42501', NULL, 'operator may not set limits');
SELECT throws_ok('SELECT handler_add(''intake'', ''ExceptionIngested'', ''app.f'')', '42501', NULL, 'operator may not register handlers');
RESET ROLE;

-- An admin is no superuser, and has nobody's rights that it isn't a member of: not by what the machinery runs as somebody.
CREATE ROLE regress_admin IN ROLE sentinai_admin;
SET ROLE regress_admin;
SELECT lives_ok('SELECT report_type_add(''role_test'', ''SELECT 1 AS a'', snapshot => true)', 'admin: adds a type of report');
SELECT throws_ok(q, '42501', 'permission denied to use role "postgres"', 'admin may not: ' || q) FROM unnest(ARRAY[
	'UPDATE report_type SET role_name = ''postgres'' WHERE report_type = ''role_test''',
	'INSERT INTO audit_report (id, tenant_id, report_type, title, format, parameters, period_from, period_to, bound_at, requested_by, requested_role) VALUES (''x'', ''ROLE_T'', ''role_test'', ''t'', ''csv'', ''{}'', now(), now(), now(), ''x'', ''postgres'')',
	'INSERT INTO handler (worker_type, event_type, function_schema, function_name, set_based, role_name) VALUES (''intake'', ''TriageRequested'', ''x'', ''y'', false, ''postgres'')']) q;
SELECT throws_ok('UPDATE handler SET role_name = ''pg_execute_server_program''', '42501', NULL, 'admin: nor a role of the server''s');
SELECT throws_ok('CREATE TRIGGER t BEFORE INSERT ON tenant FOR EACH ROW EXECUTE FUNCTION tap.pass()', '42501', NULL, 'admin hangs no code on our tables');
-- Nor ours on its own: a type of its own has a cast that would run as the tables' owner.
RESET ROLE;
CREATE SCHEMA regress_role AUTHORIZATION regress_admin;
SET ROLE regress_admin;
CREATE TYPE regress_role.own AS (value text);
CREATE FUNCTION regress_role.own_text(regress_role.own) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	RAISE EXCEPTION 'this runs as %', current_user;
END $$;
CREATE CAST (regress_role.own AS text) WITH FUNCTION regress_role.own_text(regress_role.own) AS IMPLICIT;
CREATE DOMAIN regress_role.own_domain AS regress_role.own;
CREATE DOMAIN regress_role.own_domains AS regress_role.own_domain;
CREATE TABLE regress_role.held (tenant_id text, at timestamptz);
CREATE TABLE regress_role.kept (tenant_id regress_role.own, at timestamptz);
SELECT lives_ok('SELECT legal_hold_protect(''regress_role.held'', ''at'')', 'admin: protects a table of its own');
SELECT throws_ok(format('SELECT legal_hold_protect(''regress_role.kept'', %L)', q), '42804', NULL, 'admin may not protect by a column of a type of its own: ' || q) FROM unnest(ARRAY['at', 'tenant_id']) q;
ALTER TABLE regress_role.kept ALTER tenant_id TYPE regress_role.own_domains;
SELECT throws_ok('SELECT legal_hold_protect(''regress_role.kept'', ''at'')', '42804', NULL, 'nor of a domain over it');
SELECT ok(legal_hold_add('ROLE_T', 'why') > 0, 'while a hold stands');
CREATE TRIGGER held AFTER DELETE ON regress_role.kept REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION legal_hold_guard('at');
CREATE TRIGGER held_truncate BEFORE TRUNCATE ON regress_role.kept FOR EACH STATEMENT EXECUTE FUNCTION legal_hold_guard('at');
INSERT INTO regress_role.kept VALUES (ROW('ROLE_T'), now());
SELECT throws_ok(q, '42804', NULL, 'nor does its code run there: ' || q) FROM unnest(ARRAY['DELETE FROM regress_role.kept', 'TRUNCATE regress_role.kept']) q;
SELECT throws_ok(format('CREATE TRIGGER t AFTER UPDATE ON regress_role.kept FOR EACH ROW EXECUTE FUNCTION %s()', q), '42501', NULL, 'admin hangs no trigger of ours on its own table: ' || q)
  FROM unnest(ARRAY['report_source_changed', 'rate_limit_changed']) q;
RESET ROLE;
-- What runs as a role that an admin may not become, it doesn't write.
CREATE ROLE regress_app;
INSERT INTO handler (worker_type, event_type, function_schema, function_name, set_based, role_name) VALUES ('intake', 'TriageRequested', 'x', 'y', false, 'regress_app');
SELECT report_type_add('role_app', 'SELECT 1 AS a', snapshot => true);
UPDATE report_type SET role_name = 'regress_app' WHERE report_type = 'role_app';
SET ROLE regress_admin;
SELECT throws_ok(q, '42501', 'permission denied to use role "regress_app"', 'admin may not: ' || q) FROM unnest(ARRAY[
	'UPDATE handler SET function_name = ''z'' WHERE role_name = ''regress_app''', 'UPDATE report_type SET query = ''SELECT 2 AS a'' WHERE report_type = ''role_app''',
	'UPDATE report_type SET search_path = ''regress_role'' WHERE report_type = ''role_app''']) q;
SELECT lives_ok('UPDATE handler SET timeout_ms = 1 WHERE role_name = ''regress_app''', 'admin: gives it less time');
RESET ROLE;
-- Nor does what it writes run as a superuser who asks for it.
SET SESSION AUTHORIZATION regress_admin;
SELECT report_type_add('role_test', 'SELECT current_user AS a', snapshot => true);
UPDATE report_type SET created_by = 'postgres' WHERE report_type = 'role_test';
CREATE FUNCTION regress_role.forget(text, text, bytea) RETURNS TABLE (relation text, rows bigint) LANGUAGE sql AS $$ SELECT current_user, 1 $$;
SELECT subject_source_add('role_test', 'regress_role.forget');
SELECT is((SELECT rows FROM subject_erase('ROLE_T', 'E', 'why') WHERE relation = 'regress_admin'), 1::bigint, 'admin: erases in its tables');
RESET SESSION AUTHORIZATION;
SELECT throws_ok('SELECT * FROM subject_erase(''ROLE_T'', ''E'', ''why'')', '42501', NULL, 'a superuser does not erase by its function');
SET ROLE sentinai_admin;
SELECT throws_ok('SELECT * FROM subject_erase(''ROLE_T'', ''E'', ''why'')', '42501', NULL, 'nor as somebody else, which RESET ROLE undoes');
RESET ROLE;
SELECT subject_source_remove('role_test') AS ignored \gset
SELECT throws_ok('SELECT * FROM report_request(''ROLE_T'', ''role_test'', ''Not own'', ''csv'', ''{"from_date": "2025-01-01", "to_date": "2025-01-31"}'')', '42501', NULL, 'a superuser does not ask for its report');
SET SESSION AUTHORIZATION regress_admin;
SELECT lives_ok('SELECT * FROM report_request(''ROLE_T'', ''role_test'', ''Own'', ''csv'', ''{"from_date": "2025-01-01", "to_date": "2025-01-31"}'')', 'admin: asks for its report');
RESET SESSION AUTHORIZATION;

-- Reports: an operator asks for them and has them, unless payloads are in them; what signs them nobody sees.
SET ROLE sentinai_operator;
SELECT id AS plain FROM report_request('ROLE_T', 'exception_activity', 'Plain', 'csv', '{"from_date": "2025-01-01", "to_date": "2025-01-31"}') \gset
SELECT id AS tools FROM report_request('ROLE_T', 'tool_execution', 'Tools', 'csv', '{"from_date": "2025-01-01", "to_date": "2025-01-31"}') \gset
RESET ROLE;
UPDATE audit_report SET status = 'generating' WHERE id IN (:'plain', :'tools');
UPDATE audit_report SET status = 'completed', file_size_bytes = 1, sha256 = sha256('x'), download_expires_at = now() + interval '1 h' WHERE id IN (:'plain', :'tools');
INSERT INTO report_chunk VALUES (:'plain', 0, 'x'), (:'tools', 0, 'x');
SET ROLE sentinai_operator;
SELECT lives_ok(format(q, :'plain'), 'operator: ' || q) FROM unnest(ARRAY['SELECT * FROM report_status(%L)', 'SELECT * FROM report_download(%L)',
	'SELECT * FROM report_download_chunks(%L)', 'SELECT * FROM report_link(%L)', 'SELECT report_hold(%L, ''why'')', 'SELECT report_release(%L, ''why'')',
	'SELECT legal_hold_add(''ROLE_T'', ''why'')', 'SELECT * FROM legal_hold_list(''ROLE_T'')']) q;
SELECT throws_ok(format(q, :'tools'), '42501', NULL, 'operator may not, for its payloads: ' || q) FROM unnest(ARRAY['SELECT * FROM report_download(%L)',
	'SELECT * FROM report_download_chunks(%L)', 'SELECT * FROM report_link(%L)']) q;
SELECT throws_ok(q, '42501', NULL, 'operator may not: ' || q) FROM unnest(ARRAY['SELECT * FROM report_chunk', 'SELECT * FROM report_key', 'SELECT report_key_get()',
	'SELECT report_mac(''x'', ''x'')', 'SELECT report_take()', 'UPDATE audit_report SET status = ''expired''', 'DELETE FROM legal_hold', 'SELECT legal_hold_release(1, ''why'')',
	'SELECT legal_hold_protect(''exceptions'', ''created_at'')', 'INSERT INTO report_mask VALUES (''x'')', 'SELECT report_type_add(''x'', ''SELECT 1 AS a'', snapshot => true)']) q;
SET ROLE regress_sees;
SELECT throws_ok(format('SELECT * FROM report_download(%L)', :'plain'), '42501', NULL, 'viewer with payload may not download reports');
RESET ROLE;
GRANT sentinai_operator TO regress_sees;
SET ROLE regress_sees;
SELECT lives_ok(format('SELECT * FROM report_download(%L)', :'tools'), 'operator with payload: a report with payloads');
SET ROLE sentinai_viewer;
SELECT lives_ok(format(q, :'plain'), 'viewer: ' || q) FROM unnest(ARRAY['SELECT * FROM report_status(%L)', 'SELECT * FROM report_list(''ROLE_T'')',
	'SELECT * FROM report_stats(''ROLE_T'')', 'SELECT * FROM report_type_list()', 'SELECT * FROM report_chain_check(''ROLE_T'')', 'SELECT report_public_key()', 'SELECT * FROM report_history']) q;
SELECT throws_ok(format(q, :'plain'), '42501', NULL, 'viewer may not: ' || q) FROM unnest(ARRAY['SELECT report_cancel(%L)', 'SELECT report_retry(%L)', 'SELECT report_hold(%L, ''why'')',
	'SELECT * FROM report_link(%L)', 'SELECT * FROM report_request(''ROLE_T'', ''sla_compliance'', ''t'', ''csv'')', 'SELECT query FROM report_type, report_key']) q;
RESET ROLE;

-- A worker calls its functions and sees no table.
SET ROLE sentinai_worker;
SELECT lives_ok('SELECT * FROM worker_config(''intake'')', 'worker: asks for its configuration');
SELECT lives_ok('SELECT * FROM assign(''intake'', ''intake-workers'', ''exceptions'', 0)', 'worker: takes a partition');
SELECT lives_ok('SELECT set_config(''sentinai.allow_future_schema'', ''on'', false)', 'worker: takes newer envelopes');
SELECT throws_ok('SELECT set_config(''sentinai.handler_timeout'', ''1h'', false)', '42501', NULL, 'worker may not change other settings');
SELECT throws_ok('SELECT * FROM tenant', '42501', NULL, 'worker may not look at tenants');
SELECT throws_ok('SELECT activate()', '42501', NULL, 'worker may not activate by itself');
RESET ROLE;

-- Outside of a handler emit and fail are refused, whoever calls.
SET ROLE sentinai_handler;
SELECT throws_ok('SELECT emit(NULL::sentinai.event, ''ExceptionNormalized'', ''{}'')', 'SN008', NULL, 'handler: emit only inside');
SELECT lives_ok('SELECT rate_limit_enforce(''ROLE_T'', ''api_requests''), rate_limit_refund(''ROLE_T'', ''api_requests'')', 'handler: asks about limits');
SELECT throws_ok('SELECT rate_limit_set(''ROLE_T'', ''api_requests'', 5)', '42501', NULL, 'handler may not set them');
SELECT throws_ok('SELECT fail(NULL::sentinai.event, ''x'', ''y'')', 'SN008', NULL, 'handler: fail only inside');
SELECT lives_ok('SELECT idempotency_begin(''ROLE_T'', ''s'', ''handler'', ''{}'', lease => ''1 min'')', 'handler: begins with an idempotency key');
SELECT throws_ok('SELECT * FROM idempotency_key', '42501', NULL, 'handler may not read others'' answers');
RESET ROLE;

SELECT * FROM finish();
ROLLBACK;
