-- Metrics: what consume() counts, and the text that Prometheus reads. In a database of its own: series are per database.

CREATE DATABASE regress_metrics TEMPLATE template0 ENCODING 'UTF8';
\set SHOW_CONTEXT never
\c regress_metrics
SET client_min_messages = warning;
CREATE EXTENSION sentinai;
SET search_path = sentinai, public;

-- Every metric has a HELP and a TYPE, nothing is counted yet. Some are of the whole server.
SELECT * FROM regexp_split_to_table(metrics(), E'\n') AS line WHERE line !~ '^(metrics_dropped|rate_limit_(slots|evicted|full))[a-z_]* \d';
SELECT metric_bounds();
SELECT metric_label(E'a"b\\c\nd');

-- A worker type whose handler does as the payload says.
SELECT tenant_add('M1'), tenant_add('M2');
SELECT event_type_add('Told'), event_type_add('Other');
CREATE SCHEMA app;
CREATE FUNCTION app.on_told(e sentinai.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM pg_sleep(0.012) WHERE e.payload->>'do' = 'take time';
	IF e.payload->>'do' = 'retry' THEN
		RAISE EXCEPTION 'not now';
	ELSIF e.payload->>'do' = 'fail' THEN
		RAISE EXCEPTION USING ERRCODE = '22012', MESSAGE = 'never';
	END IF;
END
$$;
GRANT USAGE ON SCHEMA app TO sentinai_handler;
SELECT worker_type_add('counted', 'counted-topic', 'counted');
-- Retries come when the test says so, however slow the machine is.
SELECT base_delay FROM retry_policy_set(worker_type => 'counted', base_delay => '1 hour', max_delay => '1 hour');
SELECT handler_add('counted', 'Told', 'app.on_told'), handler_add('counted', 'Other', 'app.on_told');
SELECT epoch FROM assign('counted', 'counted', 'counted-topic', 0) \gset

CREATE FUNCTION pg_temp.send(epoch bigint, first bigint, types text[], dos text[]) RETURNS sentinai.consume_result LANGUAGE sql AS $$
	SELECT consume('counted', 'counted', array_agg(ROW('counted-topic', 0, first + n - 1, epoch, now(), NULL, NULL,
		convert_to(jsonb_build_object('event_id', 'e' || first + n, 'event_type', t, 'tenant_id', 'M' || 1 + n % 2,
			'timestamp', now(), 'payload', jsonb_build_object('do', d))::text, 'UTF8'))::sentinai.record ORDER BY n))
	  FROM unnest(types, dos) WITH ORDINALITY AS u (t, d, n)
$$;
SELECT handled, duplicate, failed, dead_lettered FROM pg_temp.send(:epoch, 0, array_fill('Told'::text, '{5}'), '{ok,take time,retry,fail,ok}');
SELECT handled, duplicate, failed, dead_lettered FROM pg_temp.send(:epoch, 5, '{Other}', '{ok}');
-- The label of what we don't know is one: nobody can fill the table.
SELECT handled, duplicate, failed, dead_lettered FROM pg_temp.send(:epoch, 6, '{Made,Up}', '{ok,ok}');
-- What is rolled back is not counted.
BEGIN;
SELECT handled, duplicate, failed, dead_lettered FROM pg_temp.send(:epoch, 8, '{Told}', '{ok}');
ROLLBACK;
-- Behind its epoch nothing is handled.
SELECT handled, duplicate, failed, dead_lettered FROM pg_temp.send(:epoch - 1, 8, '{Told}', '{ok}');

SELECT worker_type, event_type, tenant_id, status, error_type, count, seconds > 0 AS timed FROM metric_series() ORDER BY 1, 2, 3, 4, 5;
CREATE FUNCTION pg_temp.lines(pattern text) RETURNS SETOF text LANGUAGE sql AS $$
	SELECT line FROM regexp_split_to_table(metrics(), E'\n') WITH ORDINALITY AS l (line, n) WHERE line ~ pattern ORDER BY n
$$;
SELECT * FROM pg_temp.lines('^(events_processed|failures|retries)_total');
SELECT * FROM pg_temp.lines('^(dlq_size|events_in_processing|events_pending|kafka_consumer_position)');
-- What health() names
SELECT circuit_open('intake', 'ExceptionIngested');
SELECT * FROM pg_temp.lines('^health_problems.*circuit_open');
SELECT circuit_close('intake', 'ExceptionIngested');
SELECT * FROM pg_temp.lines('^health_problems.*circuit_open');
SELECT * FROM pg_temp.lines('^processing_latency_seconds_(count|bucket\{.*\+Inf)');
-- Buckets are cumulative; what took 12 ms is in none below 50.
SELECT bool_and(value >= before) AS cumulative
  FROM (SELECT substring(line FROM ' (\d+)$')::int AS value,
			   lag(substring(line FROM ' (\d+)$')::int) OVER (PARTITION BY substring(line FROM 'event_type="[^,]*')) AS before
		  FROM pg_temp.lines('^processing_latency_seconds_bucket') AS line) b;
SELECT max(substring(line FROM ' (\d+)$')::int) FILTER (WHERE line ~ 'le="0.01"') <
	   max(substring(line FROM ' (\d+)$')::int) FILTER (WHERE line ~ 'le="60"') AS slow_one
  FROM pg_temp.lines('^processing_latency_seconds_bucket.*"Told"') AS line;
-- Every line is a comment or a sample.
SELECT line FROM regexp_split_to_table(rtrim(metrics(), E'\n'), E'\n') AS line
 WHERE line !~ '^# (HELP|TYPE) [a-z_]+ .+$'
   AND line !~ '^[a-z_]+(\{([a-z_]+="([^"\\]|\\[\\"n])*")(,[a-z_]+="([^"\\]|\\[\\"n])*")*\})? [-+0-9.e]+$';

-- By tenant where that is wanted.
ALTER DATABASE regress_metrics SET sentinai.metrics_include_tenant_id = on;
\c
SET search_path = sentinai, public;
SELECT current_setting('sentinai.metrics_include_tenant_id');
CREATE FUNCTION pg_temp.lines(pattern text) RETURNS SETOF text LANGUAGE sql AS $$
	SELECT line FROM regexp_split_to_table(metrics(), E'\n') WITH ORDINALITY AS l (line, n) WHERE line ~ pattern ORDER BY n
$$;
SELECT epoch FROM assign('counted', 'counted', 'counted-topic', 0) \gset
SELECT handled, failed FROM consume('counted', 'counted', ARRAY[ROW('counted-topic', 0, 8, :epoch, now(), NULL, NULL,
	convert_to('{"event_id": "t", "event_type": "Told", "tenant_id": "M2", "payload": {}}', 'UTF8'))]::sentinai.record[]);
SELECT * FROM pg_temp.lines('^events_processed_total.*"M2"');
SELECT * FROM pg_temp.lines('^dlq_size');

\c postgres
DROP DATABASE regress_metrics;
