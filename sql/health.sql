-- Health: heartbeats, and what is wrong. In a database of its own, where maintenance runs.

CREATE DATABASE regress_health TEMPLATE template0 ENCODING 'UTF8';
\set SHOW_CONTEXT never
\c regress_health
SET client_min_messages = warning;
CREATE EXTENSION sentinai;
SET search_path = sentinai, public;
SELECT health_workers() - 'checked_at' AS workers;
SELECT health_db()->'status' AS status, health_db()->'active' AS active, health_db()->'database' AS database;
SELECT health()->'status' AS status, health()->'version' = to_jsonb(sentinai.version()) AS version, health()->'active' AS active;

SELECT worker_heartbeat('intake', 'a', 'host', 1, 9001, '0.1.0', 'starting', NULL, NULL);
SELECT worker_heartbeat('intake', 'a', 'host', 1, 9001, '0.1.0', 'healthy', NULL, '{"lag": 3}');
SELECT worker_heartbeat('intake', 'b', 'host', 2, 9011, '0.1.0', 'degraded', 'the broker is away', '{}');
SELECT worker_heartbeat('triage', 'c', 'host', 3, NULL, '0.1.0', 'healthy', NULL, '{}');
SELECT worker_heartbeat('triage', 'd', 'host', 4, NULL, '0.1.0', 'stopping', NULL, '{}');
SELECT worker_heartbeat('triage', 'e', 'host', 4, NULL, '0.1.0', 'fine', NULL, '{}');
\set VERBOSITY terse
SELECT worker_heartbeat('triage', NULL, 'host', 4, NULL, '0.1.0', 'healthy', NULL, '{}');
\set VERBOSITY default
UPDATE worker_instance SET last_check = '2020-01-01 00:00:00+00' WHERE instance_id IN ('c', 'd');
SET timezone = 'UTC';
SET datestyle = 'ISO';
SELECT worker_type, instance_id, status, http_port, error_message, details FROM worker_list();
SELECT w->'instance_id' AS instance_id, w->'status' AS status, w->'healthz_ok' AS healthz_ok, w->'readyz_ok' AS readyz_ok,
	   w ? 'last_check' AS last_check, w->'error_message' AS error_message
  FROM jsonb_array_elements(health_workers()->'workers') w;
SELECT health_workers()->'total_workers' AS total, health_workers()->'status_counts' AS counts;
SELECT name, message, hint FROM health_problems() ORDER BY 1, 2;
SELECT health()->'status' AS status;
-- A process that was restarted has a new beginning.
SELECT started_at FROM worker_instance WHERE instance_id = 'b' \gset
SELECT worker_heartbeat('intake', 'b', 'host', 2, 9011, '0.1.0', 'healthy', NULL, '{}');
SELECT started_at = :'started_at' AS same FROM worker_list() WHERE instance_id = 'b';
SELECT worker_heartbeat('intake', 'b', 'host', 3, 9011, '0.1.0', 'healthy', NULL, '{}');
SELECT started_at > :'started_at' AS later FROM worker_list() WHERE instance_id = 'b';
SELECT worker_instance_clean();
SELECT instance_id FROM worker_list();
SELECT worker_instance_clean() IS NULL AS again;

-- Each thing that can be wrong is named.
SELECT activate();
INSERT INTO offset_gap (group_id, topic, partition, next_offset, log_start, log_end, reason)
VALUES ('intake-workers', 'exceptions', 2, 10, 20, 30, 'position_too_old');
BEGIN;
SELECT outbox_add('t', NULL, NULL, NULL, 'v') > 0 AS added;
SELECT name FROM health_problems() WHERE name <> 'maintenance_missing';
COMMIT;
SELECT name, message, hint FROM health_problems() WHERE name = 'offset_gap';
UPDATE outbox_0 SET created_at = '2026-01-01 00:00:00+00';
UPDATE outbox_1 SET created_at = '2026-01-01 00:00:00+00';
UPDATE outbox_2 SET created_at = '2026-01-01 00:00:00+00';
SET timezone = 'UTC';
SELECT message, hint FROM health_problems() WHERE name = 'outbox_waiting';
SELECT outbox_lock();
SELECT replace(message, pg_backend_pid()::text, 'PID') FROM health_problems() WHERE name = 'outbox_waiting';

\c postgres
DROP DATABASE regress_health;
