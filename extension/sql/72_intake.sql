-- 72_intake: an exception arrives: from a source system (ExceptionIngested) or from a person (ManualExceptionCreated).
-- Both have the exception's fields in the payload, under the names of the columns of exceptions.

CREATE FUNCTION sentinai.intake_deadline(value text)
	RETURNS timestamptz
	LANGUAGE plpgsql STABLE STRICT PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	part	text[] := regexp_match(value,
		'^(\d{4})-(\d\d)-(\d\d)[Tt ]((?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{1,9})?)([Zz]|[+-](?:0\d|1[0-5]):?[0-5]\d)?$');
	days	integer;
BEGIN
	IF part IS NULL OR part[1] = '0000' OR part[2] NOT BETWEEN '01' AND '12' THEN
		RETURN NULL;
	END IF;
	days := extract(day FROM make_date(part[1]::integer, part[2]::integer, 1) + interval '1 month - 1 day');
	IF part[3]::integer NOT BETWEEN 1 AND days THEN
		RETURN NULL;
	END IF;
	RETURN (part[1] || '-' || part[2] || '-' || part[3] || 'T' || part[4] || coalesce(part[5], 'Z'))::timestamptz;
END
$$;
COMMENT ON FUNCTION sentinai.intake_deadline(text) IS
	'A time of RFC 3339 (without an offset: UTC); NULL where the text is none. Raises nothing: a wrong deadline must fail its own event and no other.';

-- One statement does a batch. An exception that occurs more than once in it takes more rounds, since one INSERT can't
-- meet a row twice. Rows are written in the order of their key, so that batches that run at once can't deadlock.
CREATE FUNCTION sentinai.intake_handle(events sentinai.event[])
	RETURNS void
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	this_round	bigint := 0;
	last_round	bigint := 1;
	bad			bigint[];
	errors		text[];
	counted_tenants	text[];
	counted_domains	text[];
	counts		bigint[];
	emitted_events	bigint;		-- taken, so that every row of the CTE is computed
BEGIN
	WHILE this_round < last_round LOOP
		this_round := this_round + 1;
		WITH given AS MATERIALIZED (
			SELECT u.*, coalesce(u.exception_id, u.event_id) COLLATE "C" AS id,
				   row_number() OVER (PARTITION BY u.tenant_id COLLATE "C", coalesce(u.exception_id, u.event_id) COLLATE "C"
									  ORDER BY u.place) AS round
			  FROM unnest(events) WITH ORDINALITY AS u (event_id, event_type, tenant_id, exception_id, "timestamp",
														correlation_id, version, payload, metadata, place)
		), fields AS MATERIALIZED (
			SELECT g.*,
				   p.domain, p.type, lower(p.severity) AS severity, p.source_system, p.entity, p.owner,
				   CASE jsonb_typeof(p.amount)
						WHEN 'number' THEN p.amount::numeric
						WHEN 'string' THEN
							CASE WHEN p.amount #>> '{}' ~ '^[+-]?[0-9]+(\.[0-9]+)?$' AND length(p.amount #>> '{}') <= 1000
								 THEN (p.amount #>> '{}')::numeric END
				   END AS amount,
				   p.amount IS NOT NULL AND jsonb_typeof(p.amount) <> 'null' AS has_amount,
				   sentinai.intake_deadline(p.sla_deadline) AS sla_deadline,
				   p.sla_deadline IS NOT NULL AS has_deadline
			  FROM given g
			 CROSS JOIN LATERAL (
				SELECT g.payload->>'domain' AS domain,
					   coalesce(g.payload->>'type', g.payload->>'exception_type') AS type,
					   g.payload->>'severity' AS severity,
					   g.payload->>'source_system' AS source_system,
					   g.payload->>'entity' AS entity,
					   g.payload->>'owner' AS owner,
					   g.payload->'amount' AS amount,
					   g.payload->>'sla_deadline' AS sla_deadline
				OFFSET 0) p
			 WHERE g.round = this_round
		), checked AS MATERIALIZED (
			SELECT f.*,
				   CASE
						WHEN f.severity NOT IN ('low', 'medium', 'high', 'critical')
							THEN format('severity is %s and must be low, medium, high or critical', left(f.payload->>'severity', 100))
						WHEN f.has_amount AND f.amount IS NULL
							THEN format('amount is %s and must be a number', left(f.payload->>'amount', 100))
						WHEN f.has_deadline AND f.sla_deadline IS NULL
							THEN format('sla_deadline is %s and must be a time of RFC 3339', left(f.payload->>'sla_deadline', 100))
						WHEN jsonb_typeof(f.payload->'domain') IN ('object', 'array') THEN 'domain must be text'
						WHEN jsonb_typeof(f.payload->'type') IN ('object', 'array')
						  OR jsonb_typeof(f.payload->'exception_type') IN ('object', 'array') THEN 'type must be text'
						WHEN jsonb_typeof(f.payload->'source_system') IN ('object', 'array') THEN 'source_system must be text'
						WHEN jsonb_typeof(f.payload->'entity') IN ('object', 'array') THEN 'entity must be text'
						WHEN jsonb_typeof(f.payload->'owner') IN ('object', 'array') THEN 'owner must be text'
				   END AS error
			  FROM fields f
		), stored AS (
			INSERT INTO sentinai.exceptions AS x
				(tenant_id, exception_id, domain, type, severity, source_system, entity, amount, sla_deadline, owner, created_at)
			SELECT c.tenant_id, c.id, c.domain, c.type, c.severity, c.source_system, c.entity, c.amount, c.sla_deadline, c.owner,
				   c."timestamp"
			  FROM checked c
			 WHERE c.error IS NULL
			 ORDER BY c.tenant_id COLLATE "C", c.id
			-- The source knows better what it said last; what it leaves out stays, and so does what the platform decided.
			ON CONFLICT (tenant_id, exception_id) DO UPDATE
			   SET domain = coalesce(excluded.domain, x.domain),
				   type = coalesce(excluded.type, x.type),
				   severity = coalesce(excluded.severity, x.severity),
				   source_system = coalesce(excluded.source_system, x.source_system),
				   entity = coalesce(excluded.entity, x.entity),
				   amount = coalesce(excluded.amount, x.amount),
				   sla_deadline = coalesce(excluded.sla_deadline, x.sla_deadline),
				   owner = coalesce(excluded.owner, x.owner),
				   updated_at = now()
			RETURNING x.tenant_id, x.domain, x.xmax = 0 AS is_new
		), counted AS (
			SELECT n.tenant_id, n.domain, count(*) AS n
			  FROM (SELECT s.tenant_id, coalesce(left(s.domain, 60), '') AS domain FROM stored s WHERE s.is_new) n
			 GROUP BY 1, 2
		), noted AS (
			INSERT INTO sentinai.exception_event
				(tenant_id, exception_id, event_id, event_type, actor_type, actor_id, payload, created_at)
			SELECT c.tenant_id, c.id, c.event_id, c.event_type,
				   CASE c.event_type WHEN 'ManualExceptionCreated' THEN 'user' ELSE 'system' END,
				   CASE c.event_type WHEN 'ManualExceptionCreated' THEN c.payload->>'created_by' ELSE c.source_system END,
				   c.payload, c."timestamp"
			  FROM checked c
			 WHERE c.error IS NULL
			 ORDER BY c.tenant_id COLLATE "C", c.id, c.event_id COLLATE "C"
			ON CONFLICT DO NOTHING
		), emitted AS (
			SELECT sentinai.emit(
					   ROW(c.event_id, c.event_type, c.tenant_id, c.exception_id, c."timestamp", c.correlation_id, c.version,
						   c.payload, c.metadata)::sentinai.event,
					   'ExceptionNormalized',
					   jsonb_strip_nulls(jsonb_build_object(
						   'domain', c.domain, 'type', c.type, 'severity', c.severity, 'source_system', c.source_system,
						   'entity', c.entity, 'amount', c.amount, 'owner', c.owner,
						   'sla_deadline', to_char(c.sla_deadline AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'))),
					   c.id) AS event_id
			  FROM (SELECT * FROM checked WHERE checked.error IS NULL ORDER BY place) c
		)
		SELECT (SELECT max(g.round) FROM given g),
			   (SELECT array_agg(c.place) FROM checked c WHERE c.error IS NOT NULL),
			   (SELECT array_agg(c.error) FROM checked c WHERE c.error IS NOT NULL),
			   (SELECT count(e.event_id) FROM emitted e),
			   (SELECT array_agg(c.tenant_id) FROM counted c),
			   (SELECT array_agg(c.domain) FROM counted c),
			   (SELECT array_agg(c.n) FROM counted c)
		  INTO last_round, bad, errors, emitted_events, counted_tenants, counted_domains, counts;
		PERFORM sentinai.usage_record_batch(counted_tenants, 'exceptions', counted_domains, counts);

		FOR i IN 1 .. coalesce(array_length(bad, 1), 0) LOOP
			PERFORM sentinai.fail(events[bad[i]], 'validation_error', errors[i]);
		END LOOP;
	END LOOP;
END
$$;
COMMENT ON FUNCTION sentinai.intake_handle(sentinai.event[]) IS
	'The handler of ExceptionIngested and ManualExceptionCreated: a row of exceptions (an exception that is there already takes over the fields that the event has), a row of exception_event and an event ExceptionNormalized for each. An event without an exception_id makes an exception with the event''s own id. A severity, amount, deadline or text field that is none fails that event alone with validation_error.';

INSERT INTO sentinai.handler (worker_type, event_type, function_schema, function_name, set_based, role_name, builtin) VALUES
	('intake', 'ExceptionIngested', 'sentinai', 'intake_handle', true, 'sentinai_platform', true),
	('intake', 'ManualExceptionCreated', 'sentinai', 'intake_handle', true, 'sentinai_platform', true);
