-- 65_metrics: what has been handled in this database, as Prometheus reads it. Counting is in extension/metrics.c.

CREATE FUNCTION sentinai.metric_series()
	RETURNS TABLE (worker_type text, event_type text, tenant_id text, status text, error_type text, count bigint,
				   seconds double precision, buckets bigint[])
	LANGUAGE c VOLATILE
	AS 'MODULE_PATHNAME', 'sn_metric_series';
COMMENT ON FUNCTION sentinai.metric_series() IS
	'Counts of events since the server started, of this database: a row for each outcome. tenant_id is "all" unless sentinai.metrics_include_tenant_id is on and the caller may know tenants (caller_names_tenants()). seconds: sum of the handling times; buckets: events by handling time, one for each bound of metric_bounds() and one above.';

CREATE FUNCTION sentinai.metric_bounds() RETURNS double precision[]
	LANGUAGE c IMMUTABLE PARALLEL SAFE
	AS 'MODULE_PATHNAME', 'sn_metric_bounds';
COMMENT ON FUNCTION sentinai.metric_bounds() IS 'Upper bounds of the buckets of processing_latency_seconds, in seconds.';

CREATE FUNCTION sentinai.metric_processing() RETURNS bigint
	LANGUAGE c VOLATILE
	AS 'MODULE_PATHNAME', 'sn_metric_processing_now';
COMMENT ON FUNCTION sentinai.metric_processing() IS 'Number of events that this database is handling now.';

CREATE FUNCTION sentinai.metric_dropped() RETURNS bigint
	LANGUAGE c VOLATILE
	AS 'MODULE_PATHNAME', 'sn_metric_dropped';
COMMENT ON FUNCTION sentinai.metric_dropped() IS
	'Number of events that were not counted, in all databases, because shared memory had no room for their series: raise sentinai.metric_series_max.';

CREATE FUNCTION sentinai.metric_label(value text) RETURNS text
	LANGUAGE sql IMMUTABLE PARALLEL SAFE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	SELECT replace(replace(replace(coalesce(value, ''), '\', '\\'), '"', '\"'), E'\n', '\n')
$$;
COMMENT ON FUNCTION sentinai.metric_label(text) IS 'Internal: the value of a label as the exposition format wants it inside quotes.';

CREATE FUNCTION sentinai.metric_head(name text, kind text, help text) RETURNS text
	LANGUAGE sql IMMUTABLE PARALLEL SAFE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	SELECT format(E'# HELP %s %s\n# TYPE %s %s\n', name, help, name, kind)
$$;
COMMENT ON FUNCTION sentinai.metric_head(text, text, text) IS 'Internal: the two lines above a metric.';

CREATE FUNCTION sentinai.metric_counters() RETURNS text
	LANGUAGE sql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	WITH series AS MATERIALIZED (
		SELECT format('worker_type="%s",event_type="%s",tenant_id="%s"', sentinai.metric_label(m.worker_type),
					  sentinai.metric_label(m.event_type), sentinai.metric_label(m.tenant_id)) AS labels, m.*
		  FROM sentinai.metric_series() m
	), processed AS (
		SELECT labels, status, sum(count) AS n FROM series GROUP BY 1, 2
	), failed AS (
		SELECT labels, error_type, sum(count) AS n FROM series WHERE error_type <> '' AND status <> 'deferred' GROUP BY 1, 2
	), deferred AS (
		SELECT labels, CASE error_type WHEN '' THEN 'tenant_suspended' ELSE error_type END AS reason, sum(count) AS n
		  FROM series WHERE status = 'deferred' GROUP BY 1, 2
	), retried AS (
		SELECT labels, sum(count) AS n FROM series WHERE status = 'retrying' GROUP BY 1
	)
	SELECT sentinai.metric_head('events_processed_total', 'counter', 'Events by outcome.')
		|| coalesce((SELECT string_agg(format(E'events_processed_total{%s,status="%s"} %s\n', labels, sentinai.metric_label(status), n),
									   '' ORDER BY labels, status) FROM processed), '')
		|| sentinai.metric_head('failures_total', 'counter', 'Failed attempts by error type.')
		|| coalesce((SELECT string_agg(format(E'failures_total{%s,error_type="%s"} %s\n', labels, sentinai.metric_label(error_type), n),
									   '' ORDER BY labels, error_type) FROM failed), '')
		|| sentinai.metric_head('retries_total', 'counter', 'Retries that were scheduled.')
		|| coalesce((SELECT string_agg(format(E'retries_total{%s} %s\n', labels, n), '' ORDER BY labels) FROM retried), '')
		|| sentinai.metric_head('events_deferred_total', 'counter', 'Times that an event was put away to wait, by why.')
		|| coalesce((SELECT string_agg(format(E'events_deferred_total{%s,reason="%s"} %s\n', labels, sentinai.metric_label(reason), n),
									   '' ORDER BY labels, reason) FROM deferred), '')
$$;
COMMENT ON FUNCTION sentinai.metric_counters() IS 'Internal: the counters of metrics().';

CREATE FUNCTION sentinai.metric_histogram() RETURNS text
	LANGUAGE sql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	WITH observed AS MATERIALIZED (
		SELECT format('worker_type="%s",event_type="%s",tenant_id="%s"', sentinai.metric_label(m.worker_type),
					  sentinai.metric_label(m.event_type), sentinai.metric_label(m.tenant_id)) AS labels, b.n, sum(b.events) AS events
		  FROM sentinai.metric_series() m, unnest(m.buckets) WITH ORDINALITY AS b (events, n)
		 GROUP BY 1, 2
	), summed AS (
		SELECT o.labels, o.n, sum(o.events) OVER (PARTITION BY o.labels ORDER BY o.n) AS upto,
			   coalesce((sentinai.metric_bounds())[o.n]::text, '+Inf') AS bound
		  FROM observed o
	), totals AS (
		SELECT format('worker_type="%s",event_type="%s",tenant_id="%s"', sentinai.metric_label(m.worker_type),
					  sentinai.metric_label(m.event_type), sentinai.metric_label(m.tenant_id)) AS labels, sum(m.seconds) AS seconds
		  FROM sentinai.metric_series() m
		 GROUP BY 1
	), lines AS (
		SELECT s.labels, s.n, format(E'processing_latency_seconds_bucket{%s,le="%s"} %s\n', s.labels, s.bound, s.upto) AS line
		  FROM summed s
		UNION ALL
		SELECT s.labels, s.n + 1, format(E'processing_latency_seconds_sum{%s} %s\nprocessing_latency_seconds_count{%s} %s\n',
										 s.labels, t.seconds, s.labels, s.upto)
		  FROM summed s JOIN totals t USING (labels)
		 WHERE s.bound = '+Inf'
	)
	SELECT sentinai.metric_head('processing_latency_seconds', 'histogram', 'Time of handling one event.')
		|| coalesce((SELECT string_agg(line, '' ORDER BY labels, n) FROM lines), '')
$$;
COMMENT ON FUNCTION sentinai.metric_histogram() IS 'Internal: processing_latency_seconds of metrics().';

CREATE FUNCTION sentinai.metric_gauges() RETURNS text
	LANGUAGE sql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	WITH dead AS (
		SELECT CASE WHEN current_setting('sentinai.metrics_include_tenant_id')::boolean AND sentinai.caller_names_tenants() THEN d.tenant_id ELSE 'all' END AS tenant_id,
			   count(*) AS n
		  FROM sentinai.dead_letter_queue d
		 WHERE d.status IN ('pending', 'retrying')
		 GROUP BY 1
		UNION ALL
		SELECT 'all', 0
		 WHERE NOT EXISTS (SELECT FROM sentinai.dead_letter_queue d WHERE d.status IN ('pending', 'retrying'))
	), waiting AS (
		SELECT e.worker_type, e.status, count(*) AS n FROM sentinai.event_pending e GROUP BY 1, 2
	), queued AS (
		SELECT CASE WHEN current_setting('sentinai.metrics_include_tenant_id')::boolean AND sentinai.caller_names_tenants() THEN e.tenant_id ELSE 'all' END AS tenant_id,
			   count(*) AS n
		  FROM sentinai.event_pending e
		 WHERE e.rate_limit IS NOT NULL
		 GROUP BY 1
		UNION ALL
		SELECT 'all', 0
		 WHERE NOT EXISTS (SELECT FROM sentinai.event_pending e WHERE e.rate_limit IS NOT NULL)
	), unpublished AS (
		SELECT o.topic, count(*) AS n, min(o.created_at) AS oldest
		  FROM sentinai.outbox o LEFT JOIN sentinai.outbox_watermark w USING (topic)
		 WHERE o.id > coalesce(w.id, 0)
		 GROUP BY 1
	), aside AS (
		SELECT o.topic, count(*) AS n
		  FROM sentinai.outbox_blocked o LEFT JOIN sentinai.outbox_watermark w USING (topic)
		 WHERE o.id > coalesce(w.id, 0)
		 GROUP BY 1
	), refused AS (
		SELECT f.topic, f.error, count(*) AS n FROM sentinai.outbox_failed f WHERE f.discarded_at IS NULL GROUP BY 1, 2
	)
	SELECT sentinai.metric_head('dlq_size', 'gauge', 'Dead letters that are open: pending or being retried.')
		|| (SELECT string_agg(format(E'dlq_size{tenant_id="%s"} %s\n', sentinai.metric_label(tenant_id), n), '' ORDER BY tenant_id) FROM dead)
		|| sentinai.metric_head('events_in_processing', 'gauge', 'Events that are being handled now.')
		|| format(E'events_in_processing %s\n', sentinai.metric_processing())
		|| sentinai.metric_head('events_pending', 'gauge', 'Events that wait in the database, by why.')
		|| coalesce((SELECT string_agg(format(E'events_pending{worker_type="%s",status="%s"} %s\n', worker_type, status, n), ''
									   ORDER BY worker_type, status) FROM waiting), '')
		|| sentinai.metric_head('events_queued', 'gauge', 'Events that wait for their turn at their tenants'' rate.')
		|| (SELECT string_agg(format(E'events_queued{tenant_id="%s"} %s\n', sentinai.metric_label(tenant_id), n), '' ORDER BY tenant_id)
			  FROM queued)
		|| sentinai.metric_head('outbox_backlog', 'gauge', 'Rows of the outbox that are not published.')
		|| coalesce((SELECT string_agg(format(E'outbox_backlog{topic="%s"} %s\n', sentinai.metric_label(topic), n), '' ORDER BY topic)
					   FROM unpublished), '')
		|| sentinai.metric_head('outbox_oldest_seconds', 'gauge', 'Age of the oldest row of the outbox that is not published.')
		|| coalesce((SELECT string_agg(format(E'outbox_oldest_seconds{topic="%s"} %s\n', sentinai.metric_label(topic),
											  round(extract(epoch FROM greatest(clock_timestamp() - oldest, interval '0')), 3)), ''
									   ORDER BY topic) FROM unpublished), '')
		|| sentinai.metric_head('outbox_blocked', 'gauge', 'Rows of topics that take none, out of the way of the outbox.')
		|| coalesce((SELECT string_agg(format(E'outbox_blocked{topic="%s"} %s\n', sentinai.metric_label(topic), n), '' ORDER BY topic)
					   FROM aside), '')
		|| sentinai.metric_head('outbox_failed', 'gauge', 'Records that Kafka refused for good, without a decision.')
		|| coalesce((SELECT string_agg(format(E'outbox_failed{topic="%s",error="%s"} %s\n', sentinai.metric_label(topic),
											  sentinai.metric_label(error), n), '' ORDER BY topic, error) FROM refused), '')
		|| sentinai.metric_head('outbox_holder_seconds', 'gauge', 'How long an open transaction that has emitted holds the outbox.')
		|| coalesce((SELECT string_agg(format(E'outbox_holder_seconds{pid="%s",state="%s"} %s\n', pid, state,
											  round(extract(epoch FROM clock_timestamp() - since), 3)), '' ORDER BY pid)
					   FROM sentinai.outbox_holders()), '')
		|| sentinai.metric_head('kafka_consumer_position', 'gauge', 'Next offset of a group, as the database has it.')
		|| coalesce((SELECT string_agg(format(E'kafka_consumer_position{group_id="%s",topic="%s",partition="%s"} %s\n',
											  sentinai.metric_label(group_id), sentinai.metric_label(topic), partition, next_offset), ''
									   ORDER BY group_id, topic, partition) FROM sentinai.kafka_offset), '')
		|| sentinai.metric_head('health_problems', 'gauge', 'Problems that health() names now, by name.')
		|| coalesce((SELECT string_agg(format(E'health_problems{problem="%s"} %s\n', h.name, h.n), '' ORDER BY h.name)
					   FROM (SELECT p.name, count(*) AS n FROM sentinai.health_problems() p GROUP BY 1) h), '')
		|| sentinai.metric_head('rate_limit_checks_total', 'counter', 'Questions about limits, by answer.')
		|| (SELECT string_agg(format(E'rate_limit_checks_total{limit_type="%s",result="%s"} %s\n', c.limit_type, r.result, r.n), ''
							  ORDER BY c.limit_type, r.result)
			  FROM sentinai.rate_limit_counts() c,
				   LATERAL (VALUES ('allowed', c.allowed), ('refused', c.refused), ('bypassed', c.bypassed)) AS r (result, n))
		|| (SELECT sentinai.metric_head('rate_limit_slots', 'gauge', 'Pairs of tenant and limit type that shared memory has room for.')
				   || format(E'rate_limit_slots %s\n', s.slots)
				   || sentinai.metric_head('rate_limit_slots_used', 'gauge', 'Pairs of tenant and limit type that shared memory counts.')
				   || format(E'rate_limit_slots_used %s\n', s.used)
				   || sentinai.metric_head('rate_limit_evicted_total', 'counter', 'Idle pairs that made room for others.')
				   || format(E'rate_limit_evicted_total %s\n', s.evicted)
				   || sentinai.metric_head('rate_limit_full_total', 'counter', 'Questions about limits for which shared memory had no room.')
				   || format(E'rate_limit_full_total %s\n', s."full")
			  FROM sentinai.rate_limit_slot_stats() s)
		|| sentinai.metric_head('metrics_dropped_total', 'counter', 'Events that were not counted for want of room in shared memory.')
		|| format(E'metrics_dropped_total %s\n', sentinai.metric_dropped())
$$;
COMMENT ON FUNCTION sentinai.metric_gauges() IS 'Internal: what metrics() reads from tables.';

CREATE FUNCTION sentinai.metrics() RETURNS text
	LANGUAGE sql VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	SELECT sentinai.metric_counters() || sentinai.metric_histogram() || sentinai.metric_gauges()
$$;
COMMENT ON FUNCTION sentinai.metrics() IS
	'The database''s totals in Prometheus'' text format. Counters begin at 0 when the server starts. Workers export what they handled themselves: never add the two up. The label tenant_id is "all" unless sentinai.metrics_include_tenant_id is on and the caller sees all tenants, or is bound to every one.';
