-- Error classes, condition names, retry policies and delays.

SET search_path = sentinai, public;
\set VERBOSITY terse
\pset format unaligned
\pset tuples_only on

--
-- Classes: the installed table, then what a site changes
--
SELECT sqlstate_prefix, constraint_needed, class FROM error_class_list() WHERE builtin ORDER BY sqlstate_prefix COLLATE "C";
SELECT s, error_class(s), error_class(s, 'a_constraint') FROM unnest('{22003,22P02,23502,23503,23505,23514,23P01,25006,40001,40P01,
	42P01,55P03,08006,53100,57P01,58030,P0001,P0002,SN006,SN001,XX001,0A000,99999}'::text[]) s;
SELECT error_class_set('23505', 'permanent'), error_class_set('42', 'retry'), error_class_set('0A', 'permanent'), error_class_set('54000', 'stop');
SELECT s, error_class(s) FROM unnest('{23505,23503,42P01,0A000,54000,54001}'::text[]) s;
SELECT sqlstate_prefix, class FROM error_class_list() WHERE NOT builtin ORDER BY 1;
-- An override of a whole class gives way to the installed row of one error.
SELECT error_class_set('23', 'stop');
SELECT s, error_class(s) FROM unnest('{23503,23001}'::text[]) s;
-- A change that is rolled back counts for nobody.
BEGIN;
SELECT error_class_set('40', 'permanent');
SELECT error_class('40001');
ROLLBACK;
SELECT error_class('40001');
SELECT error_class_set('4', 'retry');
SELECT error_class_set('40', 'sometimes');
SELECT error_class_set(NULL, 'retry');
SELECT error_class('abc');
SELECT error_class(NULL) IS NULL;
SELECT error_class_delete('23'), error_class_delete('23');
DELETE FROM error_class_override;
SELECT error_class('23505');

--
-- Names
--
SELECT s, condition_name(s) FROM unnest('{23503,40P01,57014,SN006,P0001,XX000,22012,ZZ123}'::text[]) s;
SELECT condition_name('SN0067');

--
-- Delays of the installed policy, and where they end
--
SELECT n, retry_delay(n) FROM generate_series(1, 5) n;
SELECT retry_delay(0);
SELECT retry_delay(NULL) IS NULL;

--
-- The most specific policy decides
--
SELECT tenant_add('retry_a');
SELECT max_retries, base_delay, factor, max_delay, jitter, deadline, after_dead_letter, builtin FROM retry_policy_set('retry_a', max_retries => 6);
SELECT max_retries FROM retry_policy_set(worker_type => 'intake', max_retries => 7);
SELECT max_retries FROM retry_policy_set(event_type => 'ExceptionIngested', max_retries => 8);
SELECT max_retries FROM retry_policy_set(error_type => 'timeout', max_retries => 9);
SELECT max_retries FROM retry_policy_set(event_type => 'ExceptionIngested', error_type => 'timeout', max_retries => 10, base_delay => '100 ms', factor => 10, max_delay => '5 s');
SELECT max_retries FROM retry_policy_set('retry_a', 'intake', max_retries => 11, deadline => '1 min', after_dead_letter => 'park');
SELECT t, w, e, x, (retry_policy_for(t, w, e, x)).max_retries
  FROM unnest('{retry_a,retry_b}'::text[]) t, unnest('{intake,triage}'::text[]) w, unnest('{ExceptionIngested,TriageRequested}'::text[]) e,
	   unnest('{timeout,deadlock_detected}'::text[]) x;
SELECT tenant_id, worker_type, event_type, error_type, max_retries, builtin FROM retry_policy_list();
SELECT n, retry_delay(n, 'triage', NULL, 'ExceptionIngested', 'timeout') FROM generate_series(1, 4) n;
-- Setting again replaces; deleting brings the next one back.
SELECT max_retries, deadline, after_dead_letter FROM retry_policy_set('retry_a', 'intake', max_retries => 2);
SELECT count(*) FROM retry_policy_override;
SELECT retry_delay(3, 'intake', 'retry_a') IS NULL, retry_delay(3, 'intake', 'retry_b');
SELECT retry_policy_delete('retry_a', 'intake'), retry_policy_delete('retry_a', 'intake');
SELECT retry_delay(3, 'intake', 'retry_a');
-- A change that is rolled back counts for nobody.
BEGIN;
SELECT base_delay FROM retry_policy_set(base_delay => '1 min');
SELECT retry_delay(1);
SELECT count(*) FROM retry_policy_list() WHERE builtin;
ROLLBACK;
SELECT retry_delay(1);
DELETE FROM retry_policy_override;
SELECT retry_delay(1), count(*) FROM retry_policy_list() WHERE builtin GROUP BY 1;

SELECT retry_policy_set('nobody');
SELECT retry_policy_set(worker_type => 'nobody');
SELECT retry_policy_set(event_type => 'Nothing');
\set VERBOSITY default
SELECT retry_policy_set(factor => 0.5);
SELECT retry_policy_set(after_dead_letter => 'stop');
\set VERBOSITY terse

--
-- What consume() makes of them. The handler fails as the event says.
--
CREATE SCHEMA retry_test;
GRANT USAGE ON SCHEMA retry_test TO sentinai_handler;
CREATE FUNCTION retry_test.handle(e sentinai.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	RAISE EXCEPTION USING ERRCODE = e.payload->>'sqlstate', MESSAGE = 'as told', CONSTRAINT = coalesce(e.payload->>'constraint', '');
END $$;
GRANT EXECUTE ON FUNCTION retry_test.handle TO sentinai_handler;
SELECT event_type_add('RetryTest'), worker_type_add('retry_test', 'retry_test'), handler_add('retry_test', 'RetryTest', 'retry_test.handle');
SELECT epoch FROM assign('retry_test', 'retry_test', 'retry_test', 0);
CREATE FUNCTION pg_temp.send(VARIADIC payloads jsonb[] DEFAULT '{}') RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	k		sentinai.kafka_offset;
	r		sentinai.consume_result;
BEGIN
	SELECT * INTO k FROM sentinai.kafka_offset o WHERE o.group_id = 'retry_test';
	SELECT * INTO r FROM sentinai.consume('retry_test', 'retry_test',
		ARRAY(SELECT ROW('retry_test', 0, k.next_offset + n - 1, k.epoch, '2026-01-01', 'key', NULL,
				convert_to(jsonb_build_object('event_id', p->>'id', 'event_type', 'RetryTest', 'tenant_id', 'retry_a', 'payload', p)::text, 'UTF8'))::sentinai.record
				FROM unnest(payloads) WITH ORDINALITY u(p, n)) || ROW('retry_test', 0, k.next_offset + cardinality(payloads), k.epoch, NULL, NULL, NULL, NULL)::sentinai.record);
	RETURN format('failed %s, dead %s, due %s%s', r.failed, r.dead_lettered, r.due, ', stop ' || r.stop);
END $$;
CREATE FUNCTION pg_temp.make_due() RETURNS bigint LANGUAGE sql AS $$
	WITH u AS (UPDATE sentinai.event_pending SET next_attempt_at = now() WHERE worker_type = 'retry_test' RETURNING 1) SELECT count(*) FROM u $$;
SELECT pg_temp.send('{"id": "p22", "sqlstate": "22012"}', '{"id": "p23514", "sqlstate": "23514", "constraint": "amount_positive"}',
	'{"id": "r23514", "sqlstate": "23514"}', '{"id": "r40", "sqlstate": "40001"}', '{"id": "rP0001", "sqlstate": "P0001"}', '{"id": "r99", "sqlstate": "99999"}');
SELECT event_id, retry_count, error_type, sqlstate FROM dead_letter_queue WHERE worker_type = 'retry_test' ORDER BY event_id COLLATE "C";
SELECT event_id, retry_count, error_type FROM event_pending WHERE worker_type = 'retry_test' ORDER BY event_id COLLATE "C";
SELECT pg_temp.send('{"id": "s53", "sqlstate": "53100"}');
-- 1, 2, 4, 8 s, ten per cent either way; then dead.
CREATE VIEW retry_test.delays AS
	SELECT p.retry_count, count(*),
		   bool_and(p.next_attempt_at - l.last_attempt_at >= interval '0.9 s' * 2 ^ (p.retry_count - 1)
					AND p.next_attempt_at - l.last_attempt_at < interval '1.8 s' * 2 ^ (p.retry_count - 1)) AS in_time
	  FROM sentinai.event_pending p JOIN sentinai.event_processing_log l USING (tenant_id, event_id, worker_type)
	 WHERE p.worker_type = 'retry_test' GROUP BY 1;
SELECT * FROM retry_test.delays;
SELECT pg_temp.make_due(), pg_temp.send();
SELECT * FROM retry_test.delays;
SELECT pg_temp.make_due(), pg_temp.send();
SELECT * FROM retry_test.delays;
SELECT pg_temp.make_due(), pg_temp.send();
SELECT * FROM retry_test.delays;
SELECT pg_temp.make_due(), pg_temp.send();
SELECT * FROM retry_test.delays;
SELECT event_id, status, retry_count, error_type FROM dead_letter_queue WHERE worker_type = 'retry_test' ORDER BY event_id COLLATE "C";
SELECT event_id, status, retry_count FROM event_processing_log WHERE worker_type = 'retry_test' ORDER BY event_id COLLATE "C";
-- A deadline: the second retry would come too late.
SELECT deadline FROM retry_policy_set(worker_type => 'retry_test', base_delay => '10 s', jitter => 0, deadline => '15 s');
SELECT pg_temp.send('{"id": "late", "sqlstate": "P0001"}');
UPDATE event_pending SET first_failed_at = first_failed_at - interval '10 s' WHERE worker_type = 'retry_test';
SELECT pg_temp.make_due(), pg_temp.send();
SELECT event_id, retry_count FROM dead_letter_queue WHERE event_id = 'late';
-- No retries at all for one error type.
SELECT max_retries FROM retry_policy_set(worker_type => 'retry_test', error_type => 'deadlock_detected', max_retries => 0);
SELECT pg_temp.send('{"id": "never", "sqlstate": "40P01"}');
SELECT event_id, retry_count FROM dead_letter_queue WHERE event_id = 'never';

DROP VIEW retry_test.delays;
DELETE FROM retry_policy_override;
DELETE FROM dead_letter_queue WHERE worker_type = 'retry_test';
