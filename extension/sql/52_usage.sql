-- 52_usage: what each tenant uses. Each unit stands in exactly one row: first in usage_delta, written in the transaction
-- that uses it; then in usage_metric by the minute; when minutes grow old, by the hour; then by the day. A step deletes
-- there and adds here in one transaction, so a crash neither loses nor doubles anything, and the sum of all rows is the
-- usage. What was wrong is mended by rows of usage_correction; a period that is closed never changes.

CREATE TABLE sentinai.usage_type (
	metric_type	text COLLATE "C" PRIMARY KEY,
	unit		text NOT NULL,
	snapshot	boolean NOT NULL,
	description	text NOT NULL,
	builtin		boolean NOT NULL DEFAULT false
);
COMMENT ON TABLE sentinai.usage_type IS 'What is counted.';
COMMENT ON COLUMN sentinai.usage_type.metric_type IS 'Its name.';
COMMENT ON COLUMN sentinai.usage_type.unit IS 'What a quantity of 1 is.';
COMMENT ON COLUMN sentinai.usage_type.snapshot IS 'Measured once a day: a period has what its last day had, not the sum of its days.';
COMMENT ON COLUMN sentinai.usage_type.description IS 'When it is counted.';
COMMENT ON COLUMN sentinai.usage_type.builtin IS 'Installed with the extension.';
SELECT pg_catalog.pg_extension_config_dump('sentinai.usage_type', 'WHERE NOT builtin');

INSERT INTO sentinai.usage_type (metric_type, unit, snapshot, description, builtin) VALUES
	('api_calls', 'call', false, 'A call of the HTTP interface, refused ones too. The resource is its method and path.', true),
	('events', 'event', false, 'A worker type has finished an event: handled it, or logged it as the topic''s owner where it has no handler. The resource is worker type/event type.', true),
	('exceptions', 'exception', false, 'A new exception. The resource is its domain.', true),
	('reports', 'report', false, 'A report that was made. The resource is its type.', true),
	('storage', 'byte', true, 'Bytes on disk, estimated once a day. The resource is the table.', true),
	('tool_executions', 'execution', false, 'A tool was called. The resource is the tool.', true);

-- Columns of a fixed width first. In the order that extension/usage.c fills them.
CREATE TABLE sentinai.usage_delta_0 (
	minute		timestamptz NOT NULL,
	quantity	bigint NOT NULL,
	tenant_id	text COLLATE "C" NOT NULL,
	metric_type	text COLLATE "C" NOT NULL,
	resource	text COLLATE "C" NOT NULL
) WITH (autovacuum_enabled = false);
COMMENT ON TABLE sentinai.usage_delta_0 IS
	'One of the two tables of usage_delta. Rows are appended by transactions that use something, moved to usage_metric, and the table is truncated when its turn is over.';
COMMENT ON COLUMN sentinai.usage_delta_0.minute IS 'In which minute it was used.';
COMMENT ON COLUMN sentinai.usage_delta_0.quantity IS 'How much, in the units of usage_type.';
COMMENT ON COLUMN sentinai.usage_delta_0.tenant_id IS 'Who used it.';
COMMENT ON COLUMN sentinai.usage_delta_0.metric_type IS 'What kind of thing was used.';
COMMENT ON COLUMN sentinai.usage_delta_0.resource IS 'Which one.';
CREATE TABLE sentinai.usage_delta_1 (LIKE sentinai.usage_delta_0 INCLUDING ALL) WITH (autovacuum_enabled = false);
COMMENT ON TABLE sentinai.usage_delta_1 IS 'One of the two tables of usage_delta; see usage_delta_0.';
SELECT pg_catalog.pg_extension_config_dump('sentinai.usage_delta_0', '');
SELECT pg_catalog.pg_extension_config_dump('sentinai.usage_delta_1', '');

CREATE VIEW sentinai.usage_delta WITH (security_invoker = true) AS
	SELECT tenant_id, metric_type, resource, minute, quantity FROM sentinai.usage_delta_0
	UNION ALL
	SELECT tenant_id, metric_type, resource, minute, quantity FROM sentinai.usage_delta_1;
COMMENT ON VIEW sentinai.usage_delta IS 'Usage that is not in usage_metric yet.';
COMMENT ON COLUMN sentinai.usage_delta.tenant_id IS 'Who used it.';
COMMENT ON COLUMN sentinai.usage_delta.metric_type IS 'What kind of thing was used.';
COMMENT ON COLUMN sentinai.usage_delta.resource IS 'Which one.';
COMMENT ON COLUMN sentinai.usage_delta.minute IS 'In which minute it was used.';
COMMENT ON COLUMN sentinai.usage_delta.quantity IS 'How much.';

CREATE TABLE sentinai.usage_delta_state (
	number		integer PRIMARY KEY,
	rolled_at	timestamptz NOT NULL
);
COMMENT ON TABLE sentinai.usage_delta_state IS 'When rows were last taken from a table of usage_delta.';
COMMENT ON COLUMN sentinai.usage_delta_state.number IS 'Which one: 0 or 1.';
COMMENT ON COLUMN sentinai.usage_delta_state.rolled_at IS 'When. It is truncated a minute later at the earliest, so that who began to read before still finds the rows.';
SELECT pg_catalog.pg_extension_config_dump('sentinai.usage_delta_state', '');

CREATE TABLE sentinai.usage_metric (
	tenant_id		text COLLATE "C" NOT NULL,
	metric_type		text COLLATE "C" NOT NULL,
	period_start	timestamptz NOT NULL,
	resource		text COLLATE "C" NOT NULL,
	level			text COLLATE "C" NOT NULL CHECK (level IN ('minute', 'hour', 'day')),
	quantity		bigint NOT NULL,
	PRIMARY KEY (tenant_id, metric_type, period_start, resource, level)
);
CREATE INDEX usage_metric_age ON sentinai.usage_metric (level, period_start);
COMMENT ON TABLE sentinai.usage_metric IS
	'What was used, by minutes; minutes older than sentinai.usage_minute_retention have become hours, hours older than sentinai.usage_hour_retention days. No unit is in two rows: the sum of all rows is right, whatever their levels.';
COMMENT ON COLUMN sentinai.usage_metric.tenant_id IS 'Who used it.';
COMMENT ON COLUMN sentinai.usage_metric.metric_type IS 'What kind of thing was used.';
COMMENT ON COLUMN sentinai.usage_metric.period_start IS 'Beginning of the minute, hour or day (UTC).';
COMMENT ON COLUMN sentinai.usage_metric.resource IS 'Which one.';
COMMENT ON COLUMN sentinai.usage_metric.level IS 'How long the row''s time is: minute, hour or day.';
COMMENT ON COLUMN sentinai.usage_metric.quantity IS 'How much.';
SELECT pg_catalog.pg_extension_config_dump('sentinai.usage_metric', '');

CREATE TABLE sentinai.usage_correction (
	id				bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	tenant_id		text COLLATE "C" NOT NULL,
	metric_type		text COLLATE "C" NOT NULL,
	resource		text COLLATE "C" NOT NULL,
	minute			timestamptz NOT NULL,
	quantity		bigint NOT NULL,
	reason			text NOT NULL,
	authenticated	text NOT NULL DEFAULT sentinai.caller_identity(),
	created_at		timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX usage_correction_tenant ON sentinai.usage_correction (tenant_id, minute);
COMMENT ON TABLE sentinai.usage_correction IS 'What was added to usage, or taken from it, by hand. Counted in every sum; what was measured stays as it is.';
COMMENT ON COLUMN sentinai.usage_correction.id IS 'In the order in which they were made.';
COMMENT ON COLUMN sentinai.usage_correction.tenant_id IS 'Whose usage.';
COMMENT ON COLUMN sentinai.usage_correction.metric_type IS 'Which metric.';
COMMENT ON COLUMN sentinai.usage_correction.resource IS 'Which resource.';
COMMENT ON COLUMN sentinai.usage_correction.minute IS 'In which minute it counts.';
COMMENT ON COLUMN sentinai.usage_correction.quantity IS 'How much is added; negative: taken away.';
COMMENT ON COLUMN sentinai.usage_correction.reason IS 'Why.';
COMMENT ON COLUMN sentinai.usage_correction.authenticated IS 'Who was authenticated: caller_identity().';
COMMENT ON COLUMN sentinai.usage_correction.created_at IS 'When.';
SELECT pg_catalog.pg_extension_config_dump('sentinai.usage_correction', '');
SELECT pg_catalog.pg_extension_config_dump('sentinai.usage_correction_id_seq', '');

CREATE TABLE sentinai.usage_closed (
	until			timestamptz PRIMARY KEY,
	reason			text,
	authenticated	text NOT NULL DEFAULT sentinai.caller_identity(),
	created_at		timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE sentinai.usage_closed IS 'Up to when usage is closed: the latest row counts. Written by usage_close().';
COMMENT ON COLUMN sentinai.usage_closed.until IS 'Usage before this time does not change any more.';
COMMENT ON COLUMN sentinai.usage_closed.reason IS 'As given by whoever closed it.';
COMMENT ON COLUMN sentinai.usage_closed.authenticated IS 'Who was authenticated: caller_identity().';
COMMENT ON COLUMN sentinai.usage_closed.created_at IS 'When.';
SELECT pg_catalog.pg_extension_config_dump('sentinai.usage_closed', '');

CREATE TABLE sentinai.usage_late (
	tenant_id	text COLLATE "C" NOT NULL,
	metric_type	text COLLATE "C" NOT NULL,
	minute		timestamptz NOT NULL,
	resource	text COLLATE "C" NOT NULL,
	moved_to	timestamptz NOT NULL,
	quantity	bigint NOT NULL,
	PRIMARY KEY (tenant_id, metric_type, minute, resource, moved_to)
);
COMMENT ON TABLE sentinai.usage_late IS
	'Usage that was committed after its period had been closed: it counts in the first minute that was open.';
COMMENT ON COLUMN sentinai.usage_late.tenant_id IS 'Who used it.';
COMMENT ON COLUMN sentinai.usage_late.metric_type IS 'What kind of thing was used.';
COMMENT ON COLUMN sentinai.usage_late.minute IS 'In which minute it was used.';
COMMENT ON COLUMN sentinai.usage_late.resource IS 'Which one.';
COMMENT ON COLUMN sentinai.usage_late.moved_to IS 'In which minute it counts.';
COMMENT ON COLUMN sentinai.usage_late.quantity IS 'How much.';
SELECT pg_catalog.pg_extension_config_dump('sentinai.usage_late', '');

CREATE VIEW sentinai.usage_entry WITH (security_invoker = true) AS
	SELECT tenant_id, metric_type, resource, level, period_start, quantity, NULL::text AS reason FROM sentinai.usage_metric
	UNION ALL
	SELECT tenant_id, metric_type, resource, 'minute', greatest(minute, (SELECT max(c.until) FROM sentinai.usage_closed c)),
		   quantity, NULL
	  FROM sentinai.usage_delta
	UNION ALL
	SELECT tenant_id, metric_type, resource, 'minute', minute, quantity, reason FROM sentinai.usage_correction;
COMMENT ON VIEW sentinai.usage_entry IS 'All usage: what was measured, rolled up or not, and the corrections.';
COMMENT ON COLUMN sentinai.usage_entry.tenant_id IS 'Who used it.';
COMMENT ON COLUMN sentinai.usage_entry.metric_type IS 'What kind of thing was used.';
COMMENT ON COLUMN sentinai.usage_entry.resource IS 'Which one.';
COMMENT ON COLUMN sentinai.usage_entry.level IS 'How long the entry''s time is: minute, hour or day.';
COMMENT ON COLUMN sentinai.usage_entry.period_start IS 'When that time begins.';
COMMENT ON COLUMN sentinai.usage_entry.quantity IS 'How much.';
COMMENT ON COLUMN sentinai.usage_entry.reason IS 'Of a correction; NULL: it was measured.';

-- ---- counting ----

CREATE FUNCTION sentinai.usage_add(tenant_ids text[], metric_type text, resources text[], quantities bigint[]) RETURNS void
	LANGUAGE c VOLATILE STRICT
	AS 'MODULE_PATHNAME', 'sn_usage_add_sql';
COMMENT ON FUNCTION sentinai.usage_add(text[], text, text[], bigint[]) IS
	'Internal: what usage_record() does once it has looked at its arguments.';

CREATE FUNCTION sentinai.usage_record_batch(tenant_ids text[], metric_type text, resources text[], quantities bigint[]) RETURNS void
	LANGUAGE c VOLATILE
	AS 'MODULE_PATHNAME', 'sn_usage_record_batch';
COMMENT ON FUNCTION sentinai.usage_record_batch(text[], text, text[], bigint[]) IS
	'usage_record() for many at once: element i of the arrays is a call of it. Raises 42501, SN001, SN004.';

CREATE FUNCTION sentinai.usage_record(tenant_id text, metric_type text, resource text DEFAULT '', quantity bigint DEFAULT 1) RETURNS void
	LANGUAGE c VOLATILE
	AS 'MODULE_PATHNAME', 'sn_usage_record';
COMMENT ON FUNCTION sentinai.usage_record(text, text, text, bigint) IS
	'Counts usage of a tenant in this minute, if the transaction commits. metric_type: a row of usage_type; resource: what was used, at most 255 bytes; quantity: 0 to 10^12. Waits for nobody. Raises SN001, SN004.';

CREATE FUNCTION sentinai.usage_count_add(tenant_id text, metric_type text, resource text, quantity bigint) RETURNS void
	LANGUAGE c VOLATILE STRICT
	AS 'MODULE_PATHNAME', 'sn_usage_count_add';
COMMENT ON FUNCTION sentinai.usage_count_add(text, text, text, bigint) IS
	'Internal: what usage_count() does once it has looked at its arguments.';

CREATE FUNCTION sentinai.usage_count(tenant_id text, metric_type text, resource text DEFAULT '', quantity bigint DEFAULT 1) RETURNS void
	LANGUAGE c VOLATILE
	AS 'MODULE_PATHNAME', 'sn_usage_count_sql';
COMMENT ON FUNCTION sentinai.usage_count(text, text, text, bigint) IS
	'Counts usage of a tenant at once, in shared memory: in READ ONLY transactions too, and whether the transaction commits or not. Written down every sentinai.flush_interval, in the minute of that; a crash or a restart loses what was counted since. resource: clipped at 127 bytes; the rest as usage_record(). Does nothing on a standby. Raises SN001, SN004.';

CREATE FUNCTION sentinai.usage_take() RETURNS TABLE (tenant_id text, metric_type text, resource text, quantity bigint)
	LANGUAGE c VOLATILE
	AS 'MODULE_PATHNAME', 'sn_usage_take';
COMMENT ON FUNCTION sentinai.usage_take() IS
	'Internal: takes what usage_count() has counted in this database out of shared memory. It is given back if the transaction aborts.';

CREATE FUNCTION sentinai.usage_lost() RETURNS bigint
	LANGUAGE c VOLATILE
	AS 'MODULE_PATHNAME', 'sn_usage_lost';
COMMENT ON FUNCTION sentinai.usage_lost() IS
	'Internal: units that usage_count() could not count, in all databases, since this was asked last: there was no room for so many tenants and resources at once.';

-- ---- what the functions below check ----

CREATE FUNCTION sentinai.usage_clock() RETURNS timestamptz
	LANGUAGE c VOLATILE
	AS 'MODULE_PATHNAME', 'sn_clock';
COMMENT ON FUNCTION sentinai.usage_clock() IS 'Internal: now, or sentinai.test_clock.';

CREATE FUNCTION sentinai.usage_check_type(metric_type text) RETURNS void
	LANGUAGE c STABLE
	AS 'MODULE_PATHNAME', 'sn_usage_check_type';
COMMENT ON FUNCTION sentinai.usage_check_type(text) IS 'Internal: raises SN001 unless it is a metric type.';

CREATE FUNCTION sentinai.usage_check_tenant(tenant_id text, gone boolean DEFAULT false) RETURNS void
	LANGUAGE c STABLE
	AS 'MODULE_PATHNAME', 'sn_usage_check_tenant';
COMMENT ON FUNCTION sentinai.usage_check_tenant(text, boolean) IS
	'Internal: raises 42501 for another tenant than the caller''s, SN004 unless there is such a tenant; gone: or there is usage of it in usage_metric.';

-- A minute: usage_truncate() waits that long before it takes rows away that an older snapshot may look for.
CREATE FUNCTION sentinai.usage_check_read("from" timestamptz, "to" timestamptz) RETURNS void
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
BEGIN
	IF $1 IS NULL OR $2 IS NULL OR $1 >= $2 THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN001',
			MESSAGE = 'a period of usage begins before it ends',
			DETAIL = format('It is from %s to %s.', coalesce($1::text, 'NULL'), coalesce($2::text, 'NULL'));
	ELSIF current_setting('transaction_isolation') <> 'read committed'
		  AND transaction_timestamp() < sentinai.usage_clock() - interval '1 minute' THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN051',
			MESSAGE = 'usage can''t be read in a transaction whose snapshot is older than a minute',
			DETAIL = 'What it would have to see may have been moved and taken away.',
			HINT = 'Begin a new transaction, or use READ COMMITTED.';
	END IF;
END
$$;
COMMENT ON FUNCTION sentinai.usage_check_read(timestamptz, timestamptz) IS
	'Internal: raises SN001 unless that is a period, and SN051 where usage can''t be read exactly.';

-- Without a path of its own, so that it is inlined; so is usage_csv_field().
CREATE FUNCTION sentinai.usage_bucket(level text, granularity text) RETURNS text
	LANGUAGE sql IMMUTABLE PARALLEL SAFE
	AS $$
	SELECT CASE WHEN 'day' IN (level, granularity) THEN 'day' WHEN 'hour' IN (level, granularity) THEN 'hour' ELSE 'minute' END
$$;
COMMENT ON FUNCTION sentinai.usage_bucket(text, text) IS 'Internal: the coarser one of minute, hour and day.';

CREATE FUNCTION sentinai.usage_check_granularity(granularity text) RETURNS void
	LANGUAGE plpgsql IMMUTABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
BEGIN
	IF $1 IS NULL OR $1 NOT IN ('minute', 'hour', 'day') THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN001',
			MESSAGE = format('%s is not a granularity of usage', quote_nullable(left($1, 100))),
			HINT = 'It is minute, hour or day.';
	END IF;
END
$$;
COMMENT ON FUNCTION sentinai.usage_check_granularity(text) IS 'Internal: raises SN001 unless it is minute, hour or day.';

-- ---- reading ----

CREATE FUNCTION sentinai.usage_summary(tenant_id text, period text DEFAULT 'day', at timestamptz DEFAULT now()) RETURNS jsonb
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
#variable_conflict use_column
DECLARE
	begins	timestamptz;
	ends	timestamptz;
	result	jsonb;
BEGIN
	IF $2 IS NULL OR $2 NOT IN ('day', 'week', 'month') THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN001',
			MESSAGE = format('%s is not a period of usage', quote_nullable(left($2, 100))),
			HINT = 'It is day, week or month.';
	END IF;
	PERFORM sentinai.usage_check_tenant($1, true);
	begins := date_trunc($2, $3, 'UTC');
	ends := (begins AT TIME ZONE 'UTC' + ('1 ' || $2)::interval) AT TIME ZONE 'UTC';
	PERFORM sentinai.usage_check_read(begins, ends);

	WITH entry AS (
		SELECT e.metric_type, e.resource, e.quantity, t.snapshot, date_trunc('day', e.period_start, 'UTC') AS day,
			   max(date_trunc('day', e.period_start, 'UTC')) FILTER (WHERE e.reason IS NULL) OVER (PARTITION BY e.metric_type) AS last_day
		  FROM sentinai.usage_entry e JOIN sentinai.usage_type t USING (metric_type)
		 WHERE e.tenant_id = $1 AND e.period_start >= begins AND e.period_start < ends
	), resource AS (
		SELECT e.metric_type, e.resource, sum(e.quantity) AS quantity
		  FROM entry e
		 WHERE NOT e.snapshot OR e.day = e.last_day
		 GROUP BY 1, 2
	), metric AS (
		SELECT t.metric_type, coalesce(sum(r.quantity), 0) AS quantity,
			   coalesce(jsonb_object_agg(r.resource, r.quantity) FILTER (WHERE r.resource IS NOT NULL), '{}') AS by_resource
		  FROM sentinai.usage_type t LEFT JOIN resource r USING (metric_type)
		 GROUP BY 1
	)
	SELECT jsonb_build_object('tenant_id', $1, 'period', $2, 'period_start', to_char(begins AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
							  'period_end', to_char(ends AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
							  'totals', jsonb_object_agg(m.metric_type, m.quantity),
							  'by_resource', jsonb_object_agg(m.metric_type, m.by_resource))
	  INTO result FROM metric m;
	RETURN result;
END
$$;
COMMENT ON FUNCTION sentinai.usage_summary(text, text, timestamptz) IS
	'What a tenant has used in a day, a week (from Monday) or a month, in UTC, up to now, corrections included. at: a time in it. Returns {tenant_id, period, period_start, period_end, totals: {metric: n}, by_resource: {metric: {resource: n}}}; storage is that of the last day that has been measured. Raises SN001, SN004, SN051.';

CREATE FUNCTION sentinai.usage_details(tenant_id text, metric_type text, "from" timestamptz, "to" timestamptz, granularity text DEFAULT 'hour')
	RETURNS TABLE (metric text, resource text, period_start timestamptz, level text, quantity bigint)
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
#variable_conflict use_column
BEGIN
	PERFORM sentinai.usage_check_tenant($1, true);
	PERFORM sentinai.usage_check_granularity($5);
	PERFORM sentinai.usage_check_read($3, $4);
	IF $2 IS NOT NULL THEN
		PERFORM sentinai.usage_check_type($2);
	END IF;
	RETURN QUERY
		SELECT b.metric_type::text, b.resource::text, date_trunc(b.bucket, b.period_start, 'UTC'), b.bucket, sum(b.quantity)::bigint
		  FROM (SELECT e.*, sentinai.usage_bucket(e.level, $5) AS bucket
				  FROM sentinai.usage_entry e
				 WHERE e.tenant_id = $1 AND ($2 IS NULL OR e.metric_type = $2) AND e.period_start >= $3 AND e.period_start < $4) b
		 GROUP BY 1, 2, 3, 4
		 ORDER BY 1, 3, 2, 4;
END
$$;
COMMENT ON FUNCTION sentinai.usage_details(text, text, timestamptz, timestamptz, text) IS
	'Usage of a tenant by resource and time, corrections included. metric_type NULL: all; from, to: what begins then or later, and before that; granularity: minute, hour or day. level says how long a row''s time is: what is kept by the hour or day is not cut up again. Raises SN001, SN004, SN051.';

CREATE FUNCTION sentinai.usage_csv_field(value text) RETURNS text
	LANGUAGE sql IMMUTABLE PARALLEL SAFE
	AS $$
	SELECT CASE WHEN value ~ '[",\r\n]' THEN '"' || pg_catalog.replace(value, '"', '""') || '"' ELSE coalesce(value, '') END
$$;
COMMENT ON FUNCTION sentinai.usage_csv_field(text) IS 'Internal: a field of RFC 4180.';

CREATE FUNCTION sentinai.usage_export(tenant_id text, "from" timestamptz, "to" timestamptz, format text DEFAULT 'csv', granularity text DEFAULT 'hour')
	RETURNS text
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
#variable_conflict use_column
DECLARE
	result	text;
BEGIN
	IF $4 IS NULL OR $4 NOT IN ('csv', 'json') THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN001',
			MESSAGE = pg_catalog.format('%s is not a format of an export', quote_nullable(left($4, 100))),
			HINT = 'It is csv or json.';
	END IF;
	PERFORM sentinai.usage_check_tenant($1, true);
	PERFORM sentinai.usage_check_granularity($5);
	PERFORM sentinai.usage_check_read($2, $3);
	WITH entry AS (
		SELECT e.*, CASE WHEN e.reason IS NULL THEN sentinai.usage_bucket(e.level, $5) ELSE 'minute' END AS bucket
		  FROM sentinai.usage_entry e
		 WHERE e.tenant_id = $1 AND e.period_start >= $2 AND e.period_start < $3
	), line AS (
		SELECT e.metric_type, e.resource, to_char(date_trunc(e.bucket, e.period_start, 'UTC') AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') AS period_start,
			   e.bucket, sum(e.quantity) AS quantity, e.reason
		  FROM entry e
		 GROUP BY 1, 2, 3, 4, e.reason
	)
	SELECT CASE $4
		WHEN 'csv' THEN
			E'tenant_id,metric_type,resource,period_start,level,quantity,correction\r\n'
			|| coalesce(string_agg(concat_ws(',', $1, l.metric_type, sentinai.usage_csv_field(l.resource), l.period_start, l.bucket, l.quantity,
											 sentinai.usage_csv_field(l.reason)) || E'\r\n', ''
								   ORDER BY l.metric_type, l.period_start, l.resource, l.bucket, l.reason NULLS FIRST), '')
		ELSE
			coalesce(json_agg(json_build_object('tenant_id', $1, 'metric_type', l.metric_type, 'resource', l.resource, 'period_start', l.period_start,
												'level', l.bucket, 'quantity', l.quantity, 'correction', l.reason)
							  ORDER BY l.metric_type, l.period_start, l.resource, l.bucket, l.reason NULLS FIRST), '[]')::text
		END
	  INTO result FROM line l;
	RETURN result;
END
$$;
COMMENT ON FUNCTION sentinai.usage_export(text, timestamptz, timestamptz, text, text) IS
	'The usage of a tenant as text: csv (RFC 4180, with a header) or json (an array of objects). from, to, granularity: as in usage_details(). Corrections are lines of their own, with their reason. Raises SN001, SN004, SN051.';

-- ---- correcting and closing ----

CREATE FUNCTION sentinai.usage_closed_until() RETURNS timestamptz
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	SELECT coalesce(max(c.until), '-infinity') FROM sentinai.usage_closed c
$$;
COMMENT ON FUNCTION sentinai.usage_closed_until() IS 'Usage before this time is closed; -infinity: nothing is.';

CREATE FUNCTION sentinai.usage_correct(tenant_id text, metric_type text, resource text, minute timestamptz, quantity bigint, reason text)
	RETURNS bigint
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
#variable_conflict use_column
DECLARE
	correction	bigint;
BEGIN
	PERFORM sentinai.check_read_committed('usage_correct');
	PERFORM sentinai.usage_check_tenant($1);
	PERFORM sentinai.usage_check_type($2);
	IF $3 IS NULL OR octet_length($3) > 255 OR coalesce($5, 0) = 0 OR abs($5::numeric) > 1000000000000000 THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN001',
			MESSAGE = 'correction is not valid',
			DETAIL = format('The resource is %s, the quantity %s.', quote_nullable(left($3, 100)), coalesce($5::text, 'NULL')),
			HINT = 'A resource has at most 255 bytes; a quantity is from -10^15 to 10^15, and not 0.';
	ELSIF $4 IS NULL OR NOT isfinite($4) OR $4 > sentinai.usage_clock() THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN001',
			MESSAGE = 'correction is for a time that has not come yet',
			DETAIL = format('The minute is %s.', coalesce($4::text, 'NULL'));
	ELSIF coalesce(btrim($6), '') = '' THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN001',
			MESSAGE = 'a correction needs a reason';
	END IF;
	PERFORM sentinai.reason_check($6);
	-- usage_close() waits for those that are under way, and those that come wait for it.
	LOCK TABLE sentinai.usage_closed IN ROW EXCLUSIVE MODE;
	IF $4 < sentinai.usage_closed_until() THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN050',
			MESSAGE = format('usage before %s is closed', sentinai.usage_closed_until()),
			DETAIL = format('The correction is for %s.', $4),
			HINT = 'Make it in a period that is open, and say in the reason what it is for.';
	END IF;
	INSERT INTO sentinai.usage_correction (tenant_id, metric_type, resource, minute, quantity, reason)
	VALUES ($1, $2, $3, date_trunc('minute', $4), $5, $6)
	RETURNING id INTO correction;
	RETURN correction;
END
$$;
COMMENT ON FUNCTION sentinai.usage_correct(text, text, text, timestamptz, bigint, text) IS
	'Adds to a tenant''s usage, or takes away (a negative quantity), by a row of usage_correction, and returns its id. minute: when it counts; reason: required. Raises SN001, SN004, SN013 (isolation level), SN050 (the period is closed).';

CREATE FUNCTION sentinai.usage_close(until timestamptz, reason text DEFAULT NULL) RETURNS timestamptz
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
#variable_conflict use_column
DECLARE
	closed	timestamptz;
BEGIN
	PERFORM sentinai.check_read_committed('usage_close'), sentinai.reason_check($2);
	IF $1 IS NULL OR NOT isfinite($1) OR $1 <> date_trunc('day', $1, 'UTC') OR $1 > sentinai.usage_clock() THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN001',
			MESSAGE = format('usage can''t be closed until %s', coalesce($1::text, 'NULL')),
			HINT = 'It is closed by whole days of UTC that are over: usage_close(date_trunc(''month'', now(), ''UTC'')).';
	END IF;
	LOCK TABLE sentinai.usage_closed IN SHARE ROW EXCLUSIVE MODE;
	closed := sentinai.usage_closed_until();
	IF $1 <= closed THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN050',
			MESSAGE = format('usage before %s is closed', closed),
			HINT = 'What is closed stays closed.';
	END IF;
	-- What is committed by now belongs to the period.
	PERFORM sentinai.usage_roll_table(number, $1, closed) FROM generate_series(0, 1) AS number;
	INSERT INTO sentinai.usage_closed (until, reason) VALUES ($1, $2);
	RETURN $1;
END
$$;
COMMENT ON FUNCTION sentinai.usage_close(timestamptz, text) IS
	'Closes usage before a time: its totals don''t change any more, by corrections neither. until: the beginning of a day of UTC, not in the future. What was used before and is committed later counts in the first minute that is open, and usage_late says so. There is no way back. Returns until. Raises SN001, SN013 (isolation level), SN050 (it is closed already).';

-- ---- duties of the maintenance worker ----

CREATE FUNCTION sentinai.usage_flush() RETURNS text
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
#variable_conflict use_column
DECLARE
	lost	bigint;
BEGIN
	PERFORM sentinai.usage_add(array_agg(c.tenant_id), c.metric_type, array_agg(c.resource), array_agg(c.quantity))
	   FROM sentinai.usage_take() c GROUP BY c.metric_type;
	lost := sentinai.usage_lost();
	IF lost > 0 THEN
		RETURN format('%s units of usage could not be counted: shared memory had no room for them', lost);
	END IF;
	RETURN NULL;
END
$$;
COMMENT ON FUNCTION sentinai.usage_flush() IS
	'Duty: writes what usage_count() has counted to usage_delta, every sentinai.flush_interval. Returns NULL, or what was lost.';

CREATE FUNCTION sentinai.usage_roll_table(number integer, upto timestamptz, closed timestamptz) RETURNS bigint
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
DECLARE
	moved	bigint;
BEGIN
	EXECUTE format($query$
		WITH taken AS (
			DELETE FROM sentinai.usage_delta_%s WHERE minute < $1 RETURNING *
		), late AS (
			INSERT INTO sentinai.usage_late AS l (tenant_id, metric_type, minute, resource, moved_to, quantity)
			SELECT tenant_id, metric_type, minute, resource, $2, sum(quantity) FROM taken WHERE minute < $2 GROUP BY 1, 2, 3, 4
			ON CONFLICT (tenant_id, metric_type, minute, resource, moved_to) DO UPDATE SET quantity = l.quantity + excluded.quantity
		), rolled AS (
			INSERT INTO sentinai.usage_metric AS m (tenant_id, metric_type, period_start, resource, level, quantity)
			SELECT tenant_id, metric_type, greatest(minute, $2), resource, 'minute', sum(quantity) FROM taken GROUP BY 1, 2, 3, 4
			ON CONFLICT (tenant_id, metric_type, period_start, resource, level) DO UPDATE SET quantity = m.quantity + excluded.quantity
		)
		SELECT count(*) FROM taken $query$, number) INTO moved USING upto, closed;
	IF moved > 0 THEN
		INSERT INTO sentinai.usage_delta_state AS s (number, rolled_at) VALUES ($1, clock_timestamp())
		ON CONFLICT ON CONSTRAINT usage_delta_state_pkey DO UPDATE SET rolled_at = excluded.rolled_at;
	END IF;
	RETURN moved;
END
$$;
COMMENT ON FUNCTION sentinai.usage_roll_table(integer, timestamptz, timestamptz) IS
	'Internal: moves the rows of a table of usage_delta before upto to usage_metric; what was used before closed goes into the minute of closed. Returns how many rows it were. The caller has locked usage_closed.';

CREATE FUNCTION sentinai.usage_truncate(number integer) RETURNS boolean
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
DECLARE
	name	text := format('sentinai.usage_delta_%s', number);
	filled	boolean;
BEGIN
	IF pg_relation_size(name::regclass) = 0
	   OR EXISTS (SELECT FROM sentinai.usage_delta_state s WHERE s.number = $1 AND s.rolled_at > clock_timestamp() - interval '1 minute') THEN
		RETURN false;
	END IF;
	EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE NOWAIT', name);
	EXECUTE format('SELECT EXISTS (SELECT FROM %s)', name) INTO filled;
	IF NOT filled THEN
		EXECUTE format('TRUNCATE %s', name);
	END IF;
	RETURN NOT filled;
EXCEPTION WHEN lock_not_available THEN
	RETURN false;
END
$$;
COMMENT ON FUNCTION sentinai.usage_truncate(integer) IS
	'Internal: truncates a table of usage_delta that is empty, that nobody reads or writes, and from which nothing was taken for a minute: whoever has a younger snapshot sees the rows where they have gone. Returns whether it did.';

CREATE FUNCTION sentinai.usage_roll(upto timestamptz DEFAULT NULL) RETURNS text
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
DECLARE
	closed	timestamptz;
BEGIN
	PERFORM sentinai.check_read_committed('usage_roll');
	-- One at a time, and nothing is closed meanwhile.
	LOCK TABLE sentinai.usage_closed IN SHARE ROW EXCLUSIVE MODE;
	closed := sentinai.usage_closed_until();
	PERFORM sentinai.usage_roll_table(number, coalesce(upto, date_trunc('minute', sentinai.usage_clock())), closed) FROM generate_series(0, 1) AS number;
	PERFORM sentinai.usage_truncate(number) FROM generate_series(0, 1) AS number;
	RETURN NULL;
EXCEPTION WHEN lock_not_available THEN
	RETURN 'usage could not be rolled up: usage_closed is locked';
END
$$;
COMMENT ON FUNCTION sentinai.usage_roll(timestamptz) IS
	'Duty: moves usage_delta to usage_metric, minutes that are over (or before upto), in one transaction. Returns NULL, or why it could not.';

CREATE FUNCTION sentinai.usage_compact_level(from_level text, to_level text, older_than timestamptz) RETURNS bigint
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
DECLARE
	moved	bigint;
BEGIN
	WITH old AS (
		SELECT m.ctid FROM sentinai.usage_metric m
		 WHERE m.level = from_level AND m.period_start < date_trunc(to_level, older_than, 'UTC')
		 ORDER BY m.period_start LIMIT 100000
	), taken AS (
		DELETE FROM sentinai.usage_metric m USING old WHERE m.ctid = old.ctid RETURNING m.*
	), added AS (
		INSERT INTO sentinai.usage_metric AS m (tenant_id, metric_type, period_start, resource, level, quantity)
		SELECT t.tenant_id, t.metric_type, date_trunc(to_level, t.period_start, 'UTC'), t.resource, to_level, sum(t.quantity)
		  FROM taken t GROUP BY 1, 2, 3, 4
		ON CONFLICT (tenant_id, metric_type, period_start, resource, level) DO UPDATE SET quantity = m.quantity + excluded.quantity
	)
	SELECT count(*) INTO moved FROM taken;
	RETURN moved;
END
$$;
COMMENT ON FUNCTION sentinai.usage_compact_level(text, text, timestamptz) IS
	'Internal: up to 100000 rows of usage_metric that are older become rows of the coarser level. Returns how many.';

CREATE FUNCTION sentinai.usage_compact(at timestamptz DEFAULT sentinai.usage_clock()) RETURNS text
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
DECLARE
	keep_from	timestamptz := date_trunc('day', at - current_setting('sentinai.usage_day_retention')::interval, 'UTC');
BEGIN
	PERFORM sentinai.check_read_committed('usage_compact');
	LOCK TABLE sentinai.usage_closed IN SHARE ROW EXCLUSIVE MODE;
	PERFORM sentinai.usage_compact_level('minute', 'hour', at - current_setting('sentinai.usage_minute_retention')::interval);
	PERFORM sentinai.usage_compact_level('hour', 'day', at - current_setting('sentinai.usage_hour_retention')::interval);
	DELETE FROM sentinai.usage_metric m WHERE m.level = 'day' AND m.period_start < keep_from;
	DELETE FROM sentinai.usage_correction c WHERE c.minute < keep_from;
	DELETE FROM sentinai.usage_late l WHERE l.moved_to < keep_from;
	RETURN NULL;
EXCEPTION WHEN lock_not_available THEN
	RETURN 'usage could not be compacted: usage_closed is locked';
END
$$;
COMMENT ON FUNCTION sentinai.usage_compact(timestamptz) IS
	'Duty: minutes older than sentinai.usage_minute_retention become hours, hours older than sentinai.usage_hour_retention days, days older than sentinai.usage_day_retention go. at: what counts as now. Returns NULL, or why it could not.';

-- A table's size on disk, with indexes and TOAST, is shared among the tenants by the bytes of their rows on at most 500 of
-- its pages, taken by chance. payload: what may lie in TOAST; pg_column_size() doesn't fetch it.
CREATE FUNCTION sentinai.usage_storage_of(tables regclass[], payload text) RETURNS TABLE (tenant_id text, bytes bigint)
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
#variable_conflict use_column
DECLARE
	one		regclass;
	pages	bigint;
BEGIN
	FOREACH one IN ARRAY tables LOOP
		pages := pg_relation_size(one) / current_setting('block_size')::integer;
		CONTINUE WHEN pages = 0;
		RETURN QUERY EXECUTE format($query$
			WITH sample AS (
				SELECT s.tenant_id, sum(100 + coalesce(%s, 0)) AS bytes FROM %s AS s TABLESAMPLE SYSTEM (%s) GROUP BY 1
			)
			SELECT s.tenant_id::text, floor(s.bytes / sum(s.bytes) OVER () * pg_total_relation_size(%L))::bigint FROM sample s
			$query$, payload, one, least(100, 50000.0 / pages), one);
	END LOOP;
END
$$;
COMMENT ON FUNCTION sentinai.usage_storage_of(regclass[], text) IS
	'Internal: the bytes of each tenant in these tables, estimated.';

CREATE FUNCTION sentinai.usage_storage(at timestamptz DEFAULT sentinai.usage_clock()) RETURNS text
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
#variable_conflict use_column
DECLARE
	today	timestamptz := date_trunc('day', at, 'UTC');
BEGIN
	IF today < sentinai.usage_closed_until()
	   OR EXISTS (SELECT FROM sentinai.usage_metric m WHERE m.level = 'day' AND m.period_start = today AND m.metric_type = 'storage') THEN
		RETURN NULL;
	END IF;
	INSERT INTO sentinai.usage_metric (tenant_id, metric_type, period_start, resource, level, quantity)
	SELECT o.tenant_id, 'storage', today, k.name, 'day', sum(o.bytes)
	  FROM (VALUES ('event_log', 'pg_column_size(s.payload)'),
				   ('event_processing_log', '0'),
				   ('event_pending', 'pg_column_size(s.record_value)'),
				   ('dead_letter_queue', 'pg_column_size(s.payload) + pg_column_size(s.payload_raw)'),
				   ('outbox', 'pg_column_size(s.value)')) AS k (name, payload)
	 CROSS JOIN LATERAL (
		SELECT coalesce(array_agg(c.oid::regclass), '{}') AS tables FROM pg_class c
		 WHERE c.relnamespace = 'sentinai'::regnamespace AND c.relkind = 'r'
		   AND (c.relname = k.name OR c.relname ~ ('^' || k.name || '_[pg]?\d+$'))) AS c
	 CROSS JOIN LATERAL sentinai.usage_storage_of(c.tables, k.payload) AS o
	  JOIN sentinai.tenant t ON t.tenant_id = o.tenant_id
	 GROUP BY 1, 4 HAVING sum(o.bytes) > 0
	ON CONFLICT DO NOTHING;
	RETURN NULL;
EXCEPTION WHEN lock_not_available THEN
	RETURN 'storage could not be measured: a table is locked';
END
$$;
COMMENT ON FUNCTION sentinai.usage_storage(timestamptz) IS
	'Duty: estimates once a day (UTC) what the rows of each tenant take on disk, in bytes, by table. at: what counts as now. Returns NULL, or why it could not.';

-- ---- the books ----

-- VOLATILE, so that its statement takes its snapshot after it has its locks: nothing that it looks at is truncated then.
CREATE FUNCTION sentinai.books_check(tenant_id text, "from" timestamptz, "to" timestamptz)
	RETURNS TABLE (tenant text, worker_type text, event_type text, events bigint, lost bigint, effects bigint, usage bigint, balanced boolean)
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
#variable_conflict use_column
DECLARE
	begins	timestamptz := date_trunc('minute', $2);
	ends	timestamptz := date_trunc('minute', $3);
BEGIN
	PERFORM sentinai.usage_check_read(begins, ends);
	$1 := sentinai.tenant_check($1);
	IF $1 IS NOT NULL THEN
		PERFORM sentinai.usage_check_tenant($1, true);
	END IF;
	RETURN QUERY
		WITH arrived AS (
			SELECT l.tenant_id, w.name AS worker_type, l.event_type, count(*) AS n, count(*) FILTER (WHERE p.tenant_id IS NULL) AS lost
			  FROM sentinai.event_log l
			  JOIN sentinai.worker_type_effective w ON w.owns_topic AND w.topic = l.topic
			  LEFT JOIN sentinai.event_processing_log p
				ON p.tenant_id = l.tenant_id AND p.event_id = l.event_id AND p.worker_type = w.name AND NOT p.shadow
			 WHERE ($1 IS NULL OR l.tenant_id = $1) AND l.created_at >= begins AND l.created_at < ends AND l.partition IS NOT NULL
			 GROUP BY 1, 2, 3
		), effect AS (
			SELECT p.tenant_id, p.worker_type, p.event_type, count(*) AS n
			  FROM sentinai.event_processing_log p
			 WHERE ($1 IS NULL OR p.tenant_id = $1) AND p.processed_at >= begins AND p.processed_at < ends
			   AND p.status = 'succeeded' AND NOT p.shadow
			 GROUP BY 1, 2, 3
		), counted AS (
			SELECT m.tenant_id, m.resource, m.quantity FROM sentinai.usage_metric m
			 WHERE ($1 IS NULL OR m.tenant_id = $1) AND m.metric_type = 'events' AND m.period_start >= begins AND m.period_start < ends
			UNION ALL
			SELECT d.tenant_id, d.resource, d.quantity FROM sentinai.usage_delta d
			 WHERE ($1 IS NULL OR d.tenant_id = $1) AND d.metric_type = 'events' AND d.minute >= begins AND d.minute < ends
			-- What was late is looked for where it was used, not where it counts.
			UNION ALL
			SELECT l.tenant_id, l.resource, l.quantity FROM sentinai.usage_late l
			 WHERE ($1 IS NULL OR l.tenant_id = $1) AND l.metric_type = 'events' AND l.minute >= begins AND l.minute < ends
			UNION ALL
			SELECT l.tenant_id, l.resource, -l.quantity FROM sentinai.usage_late l
			 WHERE ($1 IS NULL OR l.tenant_id = $1) AND l.metric_type = 'events' AND l.moved_to >= begins AND l.moved_to < ends
		), book AS (
			SELECT e.tenant_id, e.worker_type, e.event_type, e.n AS effects, 0 AS usage, NULL::bigint AS events, 0 AS lost FROM effect e
			UNION ALL
			SELECT c.tenant_id, split_part(c.resource, '/', 1), substr(c.resource, strpos(c.resource, '/') + 1), 0, c.quantity, NULL, 0
			  FROM counted c
			UNION ALL
			SELECT a.tenant_id, a.worker_type, a.event_type, 0, 0, a.n, a.lost FROM arrived a
		), page AS (
			SELECT b.tenant_id::text AS tenant, b.worker_type::text, b.event_type::text, sum(b.events)::bigint AS events, sum(b.lost)::bigint AS lost,
				   sum(b.effects)::bigint AS effects, sum(b.usage)::bigint AS usage
			  FROM book b GROUP BY 1, 2, 3
		)
		SELECT p.*,
			   CASE WHEN p.effects = p.usage AND p.lost = 0 THEN true
					WHEN p.effects > p.usage OR begins >= s.forgotten_at THEN false END
		  FROM page p CROSS JOIN (SELECT coalesce(max(d.forgotten_at), '-infinity') AS forgotten_at FROM sentinai.dedupe_state d) s
		 WHERE (p.effects, p.usage, coalesce(p.events, 0)) <> (0, 0, 0)
		 ORDER BY 1, 2, 3;
	-- After it: what was compacted before could be seen.
	IF EXISTS (SELECT FROM sentinai.usage_metric m CROSS JOIN (VALUES (begins), (ends)) AS edge (at)
				WHERE m.level = 'hour' AND ($1 IS NULL OR m.tenant_id = $1) AND m.metric_type = 'events'
				  AND m.period_start = date_trunc('hour', edge.at, 'UTC') AND edge.at <> m.period_start
			   UNION ALL
			   SELECT FROM sentinai.usage_metric m CROSS JOIN (VALUES (begins), (ends)) AS edge (at)
				WHERE m.level = 'day' AND ($1 IS NULL OR m.tenant_id = $1) AND m.metric_type = 'events'
				  AND m.period_start = date_trunc('day', edge.at, 'UTC') AND edge.at <> m.period_start) THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN001',
			MESSAGE = 'the period begins or ends in the middle of an hour or a day that is kept as a whole',
			DETAIL = format('It is from %s to %s.', begins, ends),
			HINT = 'Take whole hours, or for what is older than sentinai.usage_hour_retention whole days of UTC.';
	END IF;
END
$$;
COMMENT ON FUNCTION sentinai.books_check(text, timestamptz, timestamptz) IS
	'Compares events, effects and usage of a tenant (NULL: of the caller''s, or of all where it sees all), from one minute to another, in one snapshot: exact while events are handled. A row for each worker type and event type. events: came from outside, by event_log (the topic''s owner only); lost: those of them without a claim; effects: succeeded claims of event_processing_log; usage: units of the metric events, without corrections. balanced: effects = usage and nothing is lost; NULL: claims of that time have been forgotten (sentinai.dedupe_window), so a surplus of usage proves nothing. Raises SN001, SN004, SN051.';
