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
	last_round	integer;
	rounds		integer[];		-- of each event; NULL: all are of the first
	bad			bigint[];
	errors		text[];
	counted_tenants	text[];
	counted_domains	text[];
	counts		bigint[];
	n_emitted	bigint;			-- taken, so that emit() is called
BEGIN
	SELECT max(x.n) INTO last_round
	  FROM (SELECT count(*) AS n FROM unnest(events) u GROUP BY u.tenant_id, coalesce(u.exception_id, u.event_id)) x;
	IF last_round > 1 THEN
		SELECT array_agg(x.round ORDER BY x.place) INTO rounds
		  FROM (SELECT u.place, row_number() OVER (PARTITION BY u.tenant_id, coalesce(u.exception_id, u.event_id) ORDER BY u.place) AS round
				  FROM unnest(events) WITH ORDINALITY AS u (event_id, event_type, tenant_id, exception_id, "timestamp",
															correlation_id, version, payload, metadata, place)) x;
	END IF;
	FOR this_round IN 1 .. last_round LOOP
		-- The inner queries compute what the outer ones use more than once; OFFSET 0 keeps them apart.
		WITH checked AS MATERIALIZED (
			SELECT f.*,
				   CASE
						WHEN f.severity NOT IN ('low', 'medium', 'high', 'critical')
							THEN format('severity is %s and must be low, medium, high or critical', left(f.payload->>'severity', 100))
						WHEN f.amount IS NULL AND jsonb_typeof(f.given_amount) <> 'null'
							THEN format('amount is %s and must be a number', left(f.payload->>'amount', 100))
						WHEN f.sla_deadline IS NULL AND f.given_deadline IS NOT NULL
							THEN format('sla_deadline is %s and must be a time of RFC 3339', left(f.given_deadline, 100))
						WHEN jsonb_typeof(f.payload->'domain') IN ('object', 'array') THEN 'domain must be text'
						WHEN jsonb_typeof(f.payload->'type') IN ('object', 'array')
						  OR jsonb_typeof(f.payload->'exception_type') IN ('object', 'array') THEN 'type must be text'
						WHEN jsonb_typeof(f.payload->'source_system') IN ('object', 'array') THEN 'source_system must be text'
						WHEN jsonb_typeof(f.payload->'entity') IN ('object', 'array') THEN 'entity must be text'
						WHEN jsonb_typeof(f.payload->'owner') IN ('object', 'array') THEN 'owner must be text'
				   END AS error
			  FROM (
				SELECT p.*,
					   CASE jsonb_typeof(p.given_amount)
							WHEN 'number' THEN p.given_amount::numeric
							WHEN 'string' THEN
								CASE WHEN p.given_amount #>> '{}' ~ '^[+-]?[0-9]+(\.[0-9]+)?$' AND length(p.given_amount #>> '{}') <= 1000
									 THEN (p.given_amount #>> '{}')::numeric END
					   END AS amount,
					   sentinai.intake_deadline(p.given_deadline) AS sla_deadline
				  FROM (
					SELECT u.*, coalesce(u.exception_id, u.event_id) COLLATE "C" AS id,
						   u.payload->>'domain' AS domain,
						   coalesce(u.payload->>'type', u.payload->>'exception_type') AS type,
						   lower(u.payload->>'severity') AS severity,
						   u.payload->>'source_system' AS source_system,
						   u.payload->>'entity' AS entity,
						   u.payload->>'owner' AS owner,
						   u.payload->'amount' AS given_amount,
						   u.payload->>'sla_deadline' AS given_deadline
					  FROM ROWS FROM (unnest(events), unnest(rounds)) WITH ORDINALITY AS u (event_id, event_type, tenant_id, exception_id,
							"timestamp", correlation_id, version, payload, metadata, round, place)
					 WHERE coalesce(u.round, 1) = this_round
					OFFSET 0) p
				OFFSET 0) f
			 ORDER BY f.id, f.tenant_id COLLATE "C"
		), stored AS (
			INSERT INTO sentinai.exceptions AS x
				(tenant_id, exception_id, domain, type, severity, source_system, entity, amount, sla_deadline, owner, created_at)
			SELECT c.tenant_id, c.id, c.domain, c.type, c.severity, c.source_system, c.entity, c.amount, c.sla_deadline, c.owner,
				   c."timestamp"
			  FROM checked c
			 WHERE c.error IS NULL
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
			ON CONFLICT DO NOTHING
		)
		SELECT array_agg(c.place) FILTER (WHERE c.error IS NOT NULL), array_agg(c.error) FILTER (WHERE c.error IS NOT NULL),
			   count(CASE WHEN c.error IS NULL THEN
				   sentinai.emit(
					   ROW(c.event_id, c.event_type, c.tenant_id, c.exception_id, c."timestamp", c.correlation_id, c.version,
						   c.payload, c.metadata)::sentinai.event,
					   'ExceptionNormalized', jsonb_strip_nulls(to_jsonb(n)), c.id) END),
			   (SELECT array_agg(t.tenant_id) FROM counted t),
			   (SELECT array_agg(t.domain) FROM counted t),
			   (SELECT array_agg(t.n) FROM counted t)
		  INTO bad, errors, n_emitted, counted_tenants, counted_domains, counts
		  FROM checked c
		 CROSS JOIN LATERAL (
			SELECT c.domain, c.type, c.severity, c.source_system, c.entity, c.amount, c.owner,
				   to_char(c.sla_deadline AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS sla_deadline) n;
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
