-- intake: ExceptionIngested and ManualExceptionCreated become rows of exceptions
SET search_path = sentinai, public;
SET TimeZone = 'UTC';
SELECT tenant_add('INT_A'), tenant_add('INT_B');
-- partitions far from those of other tests
SELECT epoch FROM assign('intake', 'intake-workers', 'exceptions', 72) \gset

CREATE TEMP TABLE arrival (place serial, event_type text, tenant_id text, event_id text, exception_id text, payload jsonb);
CREATE FUNCTION pg_temp.batch(epoch bigint, first bigint) RETURNS sentinai.record[] LANGUAGE sql AS $$
	SELECT array_agg(ROW('exceptions', 72, first + place - 1, epoch, now(), NULL, NULL,
		convert_to(json_strip_nulls(json_build_object('event_id', event_id, 'event_type', event_type, 'tenant_id', tenant_id,
			'exception_id', exception_id, 'timestamp', '2025-01-15T10:00:00Z', 'payload', payload))::text, 'UTF8'))::sentinai.record
		ORDER BY place)
	  FROM arrival
$$;

INSERT INTO arrival (event_type, tenant_id, event_id, exception_id, payload) VALUES
	('ExceptionIngested', 'INT_A', 'i1', 'EXC_1', '{"domain": "finance", "type": "SETTLEMENT_FAIL", "severity": "HIGH", "source_system": "erp",
		"entity": 42, "amount": "12.50", "sla_deadline": "2025-02-28T10:00:00+02:00", "owner": "desk 3", "more": [1, 2]}'),
	('ExceptionIngested', 'INT_B', 'i1', 'EXC_1', '{"exception_type": "OTHER", "amount": 1e3}'),
	('ManualExceptionCreated', 'INT_A', 'i2', 'EXC_2', '{"severity": "low", "created_by": "ann@example.com"}'),
	-- no exception: the event's own id is one
	('ExceptionIngested', 'INT_A', 'i3', NULL, '{}'),
	-- the same exception again, in the same batch: what is left out stays
	('ExceptionIngested', 'INT_A', 'i4', 'EXC_1', '{"severity": "critical", "amount": null}'),
	('ManualExceptionCreated', 'INT_A', 'i5', 'EXC_1', '{"owner": "desk 4", "created_by": "ben@example.com"}');
SELECT handled, failed, dead_lettered, emitted, stop FROM consume('intake', 'intake-workers', pg_temp.batch(:epoch, 0));
SELECT tenant_id, exception_id, domain, type, severity, status, source_system, entity, amount, sla_deadline, owner, created_at
  FROM exceptions WHERE tenant_id ~ '^INT_' ORDER BY 1, 2;
SELECT tenant_id, exception_id, event_id, event_type, actor_type, actor_id, payload, created_at
  FROM exception_event WHERE tenant_id ~ '^INT_' AND event_type <> 'ExceptionChanged' ORDER BY 1, 2, 3;

-- and each change of an exception that was there
SELECT tenant_id, exception_id, actor_type, payload
  FROM exception_event WHERE tenant_id ~ '^INT_' AND event_type = 'ExceptionChanged' ORDER BY recorded_at;
-- one ExceptionNormalized for each, in the log and in the outbox
SELECT tenant_id, exception_id, event_type, correlation_id, payload, topic, partition, kafka_offset
  FROM event_log WHERE tenant_id ~ '^INT_' AND event_type = 'ExceptionNormalized' ORDER BY 1, 2, payload::text;
SELECT tenant_id, event_type, convert_from(key, 'UTF8') AS key, count(*) FROM outbox WHERE tenant_id ~ '^INT_' GROUP BY 1, 2, 3 ORDER BY 3;

-- the same batch once more, as after a rewind: all of it is skipped; under new offsets: all duplicates
SELECT handled, duplicate, skipped, emitted FROM consume('intake', 'intake-workers', pg_temp.batch(:epoch, 0));
SELECT handled, duplicate, skipped, emitted FROM consume('intake', 'intake-workers', pg_temp.batch(:epoch, 6));

-- wrong fields: each is its own dead letter at once, and the good one in their middle arrives
TRUNCATE arrival RESTART IDENTITY;
INSERT INTO arrival (event_type, tenant_id, event_id, exception_id, payload) VALUES
	('ExceptionIngested', 'INT_A', 'w1', 'EXC_W1', '{"severity": "urgent"}'),
	('ExceptionIngested', 'INT_A', 'w2', 'EXC_W2', '{"severity": 1}'),
	('ExceptionIngested', 'INT_A', 'w3', 'EXC_W3', '{"amount": "12,50"}'),
	('ExceptionIngested', 'INT_A', 'good', 'EXC_GOOD', '{"severity": "medium", "sla_deadline": "2024-02-29T23:59:59"}'),
	('ExceptionIngested', 'INT_A', 'w4', 'EXC_W4', '{"amount": {"value": 12}}'),
	('ExceptionIngested', 'INT_A', 'w5', 'EXC_W5', '{"sla_deadline": "2025-02-29T10:00:00Z"}'),
	('ManualExceptionCreated', 'INT_A', 'w6', 'EXC_W6', '{"sla_deadline": 5}'),
	('ManualExceptionCreated', 'INT_A', 'w7', 'EXC_W7', '{"owner": ["ann", "ben"]}'),
	-- behind a failed event of its own exception
	('ExceptionIngested', 'INT_A', 'behind', 'EXC_W1', '{"severity": "low"}');
SELECT handled + parked AS handled_or_parked, failed, dead_lettered, stop FROM consume('intake', 'intake-workers', pg_temp.batch(:epoch, 12));
SELECT event_id, error_type, retry_count, error_message FROM dead_letter_queue WHERE tenant_id = 'INT_A' ORDER BY event_id;
SELECT exception_id, severity, sla_deadline FROM exceptions WHERE tenant_id = 'INT_A' AND exception_id ~ 'GOOD|_W' ORDER BY 1;
-- what was parked comes when it is due
SELECT count(*) > 0 AS called FROM consume('intake', 'intake-workers', ARRAY[ROW('exceptions', 72, 21, :epoch, NULL, NULL, NULL, NULL)]::sentinai.record[]);
SELECT exception_id, severity FROM exceptions WHERE tenant_id = 'INT_A' AND exception_id ~ '_W' ORDER BY 1;

-- deadlines
SELECT value, intake_deadline(value) FROM unnest(ARRAY[
	'2025-01-15T10:00:00Z', '2025-01-15 10:00:00.123456+05:30', '2025-01-15T10:00:00', '2025-01-15t10:00:00z', '9999-12-31T23:59:59Z',
	'2025-13-01T00:00:00Z', '2025-00-01T00:00:00Z', '2025-04-31T00:00:00Z', '1900-02-29T00:00:00Z', '2000-02-29T00:00:00Z', '0000-01-01T00:00:00Z',
	'2025-01-15T24:00:00Z', '2025-01-15T10:60:00Z', '2025-01-15T10:00:00+99:00', '2025-01-15', 'infinity', 'now', '']) value;
