-- 50_rate_limit: how many requests, events, tool calls and reports a tenant may have in a stretch of time. The counts are in
-- shared memory (extension/rate_limit*.c); here are the limits, and what the counts leave behind.

-- extension/rate_limit_config.c reads these tables by the numbers of their columns: new ones go to the end.

CREATE TABLE sentinai.rate_limit_type (
	limit_type		text COLLATE "C" PRIMARY KEY CHECK (limit_type ~ '^[a-z][a-z0-9_]{0,62}$'),
	id				integer NOT NULL UNIQUE,
	limit_value		bigint NOT NULL CHECK (limit_value BETWEEN 1 AND 1000000000000000),
	window_seconds	integer NOT NULL CHECK (window_seconds BETWEEN 1 AND 86400),
	enabled			boolean NOT NULL,
	when_full		text COLLATE "C" NOT NULL CHECK (when_full IN ('open', 'closed'))
);
INSERT INTO sentinai.rate_limit_type VALUES
	('api_requests', 1, 1000, 60, true, 'open'),
	('events_ingested', 2, 1000, 60, true, 'open'),
	('tool_executions', 3, 100, 60, true, 'open'),
	('report_generations', 4, 10, 86400, true, 'open');
-- No row of it is a user's: what is changed is in rate_limit_type_override.
SELECT pg_catalog.pg_extension_config_dump('sentinai.rate_limit_type', 'WHERE false');
COMMENT ON TABLE sentinai.rate_limit_type IS
	'The installed limit types with their defaults, never updated in place: a change is a row of rate_limit_type_override, made by rate_limit_type_set().';

CREATE TABLE sentinai.rate_limit_type_override (
	limit_type		text COLLATE "C" PRIMARY KEY CHECK (limit_type ~ '^[a-z][a-z0-9_]{0,62}$'),
	id				integer GENERATED ALWAYS AS IDENTITY (START WITH 1001) UNIQUE,
	limit_value		bigint NOT NULL CHECK (limit_value BETWEEN 1 AND 1000000000000000),
	window_seconds	integer NOT NULL CHECK (window_seconds BETWEEN 1 AND 86400),
	enabled			boolean NOT NULL DEFAULT true,
	when_full		text COLLATE "C" NOT NULL DEFAULT 'open' CHECK (when_full IN ('open', 'closed')),
	created_at		timestamptz NOT NULL DEFAULT now(),
	updated_at		timestamptz NOT NULL DEFAULT now()
);
SELECT pg_catalog.pg_extension_config_dump('sentinai.rate_limit_type_override', '');
SELECT pg_catalog.pg_extension_config_dump('sentinai.rate_limit_type_override_id_seq', '');
COMMENT ON TABLE sentinai.rate_limit_type_override IS
	'This site''s limit types, and its defaults for installed ones. Changed by rate_limit_type_set() and rate_limit_type_delete().';

CREATE TABLE sentinai.rate_limit_config (
	tenant_id		text COLLATE "C" NOT NULL,
	limit_type		text COLLATE "C" NOT NULL,
	limit_value		bigint NOT NULL CHECK (limit_value BETWEEN 1 AND 1000000000000000),
	window_seconds	integer NOT NULL DEFAULT 60 CHECK (window_seconds BETWEEN 1 AND 86400),
	enabled			boolean NOT NULL DEFAULT true,
	created_at		timestamptz NOT NULL DEFAULT now(),
	updated_at		timestamptz NOT NULL DEFAULT now(),
	PRIMARY KEY (tenant_id, limit_type)
);
SELECT pg_catalog.pg_extension_config_dump('sentinai.rate_limit_config', '');
COMMENT ON TABLE sentinai.rate_limit_config IS
	'Limits of single tenants; who has no row here has the type''s default. Changed by rate_limit_set() and rate_limit_delete(), or by hand.';
COMMENT ON COLUMN sentinai.rate_limit_config.tenant_id IS 'The tenant.';

CREATE TABLE sentinai.rate_limit_since (
	tenant_id	text COLLATE "C" NOT NULL,
	limit_type	text COLLATE "C" NOT NULL,
	since		timestamptz NOT NULL,
	own_until	timestamptz NOT NULL DEFAULT '-infinity',
	PRIMARY KEY (tenant_id, limit_type)
);
SELECT pg_catalog.pg_extension_config_dump('sentinai.rate_limit_since', '');
COMMENT ON TABLE sentinai.rate_limit_since IS
	'Since when calls count: a limit that was reset, or enabled again, begins at zero there. Rows of the past go with rate_limit_retain().';
COMMENT ON COLUMN sentinai.rate_limit_since.tenant_id IS 'The tenant; empty: all.';
COMMENT ON COLUMN sentinai.rate_limit_since.since IS 'What was counted before this counts no more.';
COMMENT ON COLUMN sentinai.rate_limit_since.own_until IS 'Until when the tenant had a limit of its own: what became of the type before is not about it.';

CREATE TABLE sentinai.rate_limit_usage (
	tenant_id			text COLLATE "C" NOT NULL,
	limit_type			text COLLATE "C" NOT NULL,
	window_start		timestamptz NOT NULL,
	window_seconds		integer NOT NULL,
	window_length		integer NOT NULL,
	granted				bigint NOT NULL,
	previous_granted	bigint NOT NULL,
	refused				bigint NOT NULL,
	previous_refused	bigint NOT NULL,
	appointment			timestamptz NOT NULL,
	since				timestamptz NOT NULL,
	updated_at			timestamptz NOT NULL DEFAULT clock_timestamp(),
	PRIMARY KEY (tenant_id, limit_type)
) WITH (fillfactor = 50);
SELECT pg_catalog.pg_extension_config_dump('sentinai.rate_limit_usage', '');
COMMENT ON TABLE sentinai.rate_limit_usage IS
	'The counts of shared memory as rate_limit_flush() has written them last: what a crash leaves of them. rate_limit_usage(tenant_id) tells how they are now.';
COMMENT ON COLUMN sentinai.rate_limit_usage.tenant_id IS 'The tenant.';
COMMENT ON COLUMN sentinai.rate_limit_usage.window_start IS 'When the window began that was the running one.';
COMMENT ON COLUMN sentinai.rate_limit_usage.window_length IS 'Its length in seconds: that of window_seconds, but for days, some of which have 23 or 25 hours.';
COMMENT ON COLUMN sentinai.rate_limit_usage.granted IS 'Units granted in it.';
COMMENT ON COLUMN sentinai.rate_limit_usage.previous_granted IS 'Units granted in the window before.';
COMMENT ON COLUMN sentinai.rate_limit_usage.refused IS 'Units refused in it.';
COMMENT ON COLUMN sentinai.rate_limit_usage.previous_refused IS 'Units refused in the window before.';
COMMENT ON COLUMN sentinai.rate_limit_usage.appointment IS 'The last place that was handed out in the queue of what is deferred.';
COMMENT ON COLUMN sentinai.rate_limit_usage.since IS 'What was counted before this is not in it.';
COMMENT ON COLUMN sentinai.rate_limit_usage.updated_at IS 'When it was written.';

CREATE TABLE sentinai.rate_limit_history (
	id				bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	tenant_id		text COLLATE "C",
	limit_type		text COLLATE "C" NOT NULL,
	action			text COLLATE "C" NOT NULL CHECK (action IN ('set', 'delete', 'reset', 'type_set', 'type_delete')),
	before			jsonb,
	after			jsonb,
	reason			text,
	actor			text,
	authenticated	text NOT NULL DEFAULT sentinai.caller_identity(),
	created_at		timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX rate_limit_history_tenant ON sentinai.rate_limit_history (tenant_id, limit_type, id);
SELECT pg_catalog.pg_extension_config_dump('sentinai.rate_limit_history', '');
SELECT pg_catalog.pg_extension_config_dump('sentinai.rate_limit_history_id_seq', '');
COMMENT ON TABLE sentinai.rate_limit_history IS 'Every change of a limit, by a function of ours or by hand: who, when, why.';
COMMENT ON COLUMN sentinai.rate_limit_history.id IS 'In the order of the changes.';
COMMENT ON COLUMN sentinai.rate_limit_history.tenant_id IS 'The tenant; NULL: the type''s default, for all.';
COMMENT ON COLUMN sentinai.rate_limit_history.action IS 'What was done: that of rate_limit_set(), _delete(), _reset(), _type_set() or _type_delete(), by it or by hand.';
COMMENT ON COLUMN sentinai.rate_limit_history.before IS 'limit_value, window_seconds, enabled (of types when_full) before; NULL: there was no row. Of a reset: the counts that were given up.';
COMMENT ON COLUMN sentinai.rate_limit_history.after IS 'The same after; NULL: the row is gone.';
COMMENT ON COLUMN sentinai.rate_limit_history.reason IS 'Why, as the caller said; by hand: sentinai.change_reason.';
COMMENT ON COLUMN sentinai.rate_limit_history.actor IS 'Who, as the caller said; by hand: sentinai.change_actor.';
COMMENT ON COLUMN sentinai.rate_limit_history.authenticated IS 'Who, as the server knows: the login.';
COMMENT ON COLUMN sentinai.rate_limit_history.created_at IS 'When.';

DO $$
DECLARE
	t text;
BEGIN
	FOREACH t IN ARRAY ARRAY['rate_limit_type', 'rate_limit_type_override', 'rate_limit_config', 'rate_limit_since', 'rate_limit_usage',
							 'rate_limit_history'] LOOP
		EXECUTE pg_catalog.format('COMMENT ON COLUMN sentinai.%1$I.limit_type IS ''What is limited.''', t);
	END LOOP;
	FOREACH t IN ARRAY ARRAY['rate_limit_type', 'rate_limit_type_override', 'rate_limit_config'] LOOP
		EXECUTE pg_catalog.format($f$
			COMMENT ON COLUMN sentinai.%1$I.limit_value IS 'Units that are granted in a window.';
			COMMENT ON COLUMN sentinai.%1$I.enabled IS 'false: nothing is limited or counted.';
			$f$, t);
	END LOOP;
	FOREACH t IN ARRAY ARRAY['rate_limit_type', 'rate_limit_type_override', 'rate_limit_config', 'rate_limit_usage'] LOOP
		EXECUTE pg_catalog.format('COMMENT ON COLUMN sentinai.%1$I.window_seconds IS ''Length of the window; 86400: the calendar day of sentinai.rate_limit_time_zone.''', t);
	END LOOP;
	FOREACH t IN ARRAY ARRAY['rate_limit_type', 'rate_limit_type_override'] LOOP
		EXECUTE pg_catalog.format($f$
			COMMENT ON COLUMN sentinai.%1$I.id IS 'What shared memory calls it. Of an override for an installed type it means nothing.';
			COMMENT ON COLUMN sentinai.%1$I.when_full IS 'What becomes of a call for which shared memory has no room. open: it is granted uncounted; closed: it is refused.';
			$f$, t);
	END LOOP;
	FOREACH t IN ARRAY ARRAY['rate_limit_type_override', 'rate_limit_config'] LOOP
		EXECUTE pg_catalog.format($f$
			COMMENT ON COLUMN sentinai.%1$I.created_at IS 'When the row was made.';
			COMMENT ON COLUMN sentinai.%1$I.updated_at IS 'When a function of ours last changed it.';
			$f$, t);
	END LOOP;
END
$$;

-- ---- how shared memory learns of changes ----

CREATE FUNCTION sentinai.rate_limit_changed() RETURNS trigger
	LANGUAGE c
	AS 'MODULE_PATHNAME', 'sn_rate_limit_changed';
COMMENT ON FUNCTION sentinai.rate_limit_changed() IS
	'Trigger of the tables that limits go by: from COMMIT on every session goes by the row. Argument: whose row it is, tenant, database or new.';

-- ENABLE ALWAYS: rows that come by replication, or with session_replication_role = replica, count as well.
DO $$
DECLARE
	t	record;
BEGIN
	FOR t IN
		SELECT * FROM (VALUES
			('rate_limit_config', 'changed', 'INSERT OR UPDATE OR DELETE', 'ROW', 'tenant'),
			('rate_limit_config', 'truncated', 'TRUNCATE', 'STATEMENT', 'database'),
			('rate_limit_since', 'changed', 'INSERT OR UPDATE OR DELETE', 'ROW', 'tenant'),
			('rate_limit_since', 'truncated', 'TRUNCATE', 'STATEMENT', 'database'),
			('rate_limit_type', 'changed', 'INSERT OR UPDATE OR DELETE OR TRUNCATE', 'STATEMENT', 'database'),
			('rate_limit_type_override', 'changed', 'INSERT OR UPDATE OR DELETE OR TRUNCATE', 'STATEMENT', 'database'),
			('tenant', 'rate_limit_added', 'INSERT', 'STATEMENT', 'new'),
			('tenant', 'rate_limit_changed', 'DELETE OR UPDATE OF tenant_id, status', 'ROW', 'tenant'),
			('tenant', 'rate_limit_truncated', 'TRUNCATE', 'STATEMENT', 'database')) AS v (relation, name, events, level, what)
	LOOP
		EXECUTE pg_catalog.format('CREATE TRIGGER %I AFTER %s ON sentinai.%I FOR EACH %s EXECUTE FUNCTION sentinai.rate_limit_changed(%L)',
								  t.name, t.events, t.relation, t.level, t.what);
		EXECUTE pg_catalog.format('ALTER TABLE sentinai.%I ENABLE ALWAYS TRIGGER %I', t.relation, t.name);
	END LOOP;
END
$$;

CREATE FUNCTION sentinai.rate_limit_restart(tenant_id text, limit_type text) RETURNS void
	LANGUAGE sql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	INSERT INTO sentinai.rate_limit_since AS s (tenant_id, limit_type, since) VALUES ($1, $2, clock_timestamp())
	ON CONFLICT ON CONSTRAINT rate_limit_since_pkey DO UPDATE SET since = greatest(excluded.since, s.since + interval '1 us')
$$;
COMMENT ON FUNCTION sentinai.rate_limit_restart(text, text) IS
	'Internal: from COMMIT on the limit of a tenant (empty: of all) counts from zero.';

-- The runbook resets a limit by disabling and enabling it again: whoever does that, by a function or by hand, and also where a
-- row that comes or goes makes the difference to what counts without it.
CREATE FUNCTION sentinai.rate_limit_enabled() RETURNS trigger
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
DECLARE
	changed	record := coalesce(NEW, OLD);
	without	boolean;
BEGIN
	-- A row of a restore, whose rows of rate_limit_since come by themselves, perhaps later.
	IF TG_OP = 'INSERT' AND changed.created_at <> now() THEN
		RETURN NULL;
	END IF;
	IF TG_TABLE_NAME = 'rate_limit_config' THEN
		SELECT e.enabled INTO without FROM sentinai.rate_limit_type_effective e WHERE e.limit_type = changed.limit_type;
	ELSE
		SELECT t.enabled INTO without FROM sentinai.rate_limit_type t WHERE t.limit_type = changed.limit_type;
	END IF;
	IF coalesce(NEW.enabled, without) AND NOT coalesce(OLD.enabled, without) THEN
		PERFORM sentinai.rate_limit_restart(coalesce(to_jsonb(changed) ->> 'tenant_id', ''), changed.limit_type);
	ELSIF TG_TABLE_NAME = 'rate_limit_config' AND TG_OP = 'DELETE' THEN
		INSERT INTO sentinai.rate_limit_since AS s (tenant_id, limit_type, since, own_until)
		VALUES (OLD.tenant_id, OLD.limit_type, '-infinity', clock_timestamp())
		ON CONFLICT ON CONSTRAINT rate_limit_since_pkey DO UPDATE SET own_until = excluded.own_until;
	END IF;
	RETURN NULL;
END
$$;
COMMENT ON FUNCTION sentinai.rate_limit_enabled() IS
	'Trigger: a limit that is enabled again begins at zero.';
CREATE TRIGGER enabled AFTER INSERT OR UPDATE OR DELETE ON sentinai.rate_limit_config FOR EACH ROW
	EXECUTE FUNCTION sentinai.rate_limit_enabled();
CREATE TRIGGER enabled AFTER INSERT OR UPDATE OR DELETE ON sentinai.rate_limit_type_override FOR EACH ROW
	EXECUTE FUNCTION sentinai.rate_limit_enabled();

-- ---- the trail ----

-- Functions say in these two settings, for as long as they run, what they were told; so may who changes a row by hand.
CREATE FUNCTION sentinai.rate_limit_explain(reason text, actor text) RETURNS void
	LANGUAGE sql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	SELECT sentinai.reason_check(reason), set_config('sentinai.change_reason', coalesce(reason, ''), true), set_config('sentinai.change_actor', coalesce(actor, ''), true)
$$;
COMMENT ON FUNCTION sentinai.rate_limit_explain(text, text) IS
	'Internal: what the rows of rate_limit_history say that follow, until the calling function, which has SET both settings, returns.';

CREATE FUNCTION sentinai.rate_limit_record(tenant_id text, limit_type text, action text, before jsonb, after jsonb) RETURNS void
	LANGUAGE sql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	INSERT INTO sentinai.rate_limit_history (tenant_id, limit_type, action, before, after, reason, actor)
	VALUES ($1, $2, $3, $4, $5, nullif(current_setting('sentinai.change_reason'), ''), nullif(current_setting('sentinai.change_actor'), ''))
$$;
COMMENT ON FUNCTION sentinai.rate_limit_record(text, text, text, jsonb, jsonb) IS 'Internal: a row of rate_limit_history.';

CREATE FUNCTION sentinai.rate_limit_shown("row" jsonb) RETURNS jsonb
	LANGUAGE sql IMMUTABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	SELECT jsonb_object_agg(key, value) FROM jsonb_each("row") WHERE key IN ('limit_value', 'window_seconds', 'enabled', 'when_full')
$$;
COMMENT ON FUNCTION sentinai.rate_limit_shown(jsonb) IS 'Internal: a limit as rate_limit_history shows it.';

CREATE FUNCTION sentinai.rate_limit_recorded() RETURNS trigger
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
DECLARE
	changed	jsonb := to_jsonb(coalesce(NEW, OLD));
	before	jsonb := to_jsonb(OLD);
	of_type	boolean := TG_TABLE_NAME = 'rate_limit_type_override';
	kind	text := CASE WHEN of_type THEN 'type_' ELSE '' END;
BEGIN
	-- A row of a restore, whose history comes by itself.
	IF TG_OP = 'INSERT' AND NEW.created_at <> now() THEN
		RETURN NULL;
	END IF;
	IF of_type AND TG_OP = 'INSERT' THEN
		SELECT to_jsonb(t) INTO before FROM sentinai.rate_limit_type t WHERE t.limit_type = NEW.limit_type;
	END IF;
	-- Another tenant's, or another type's, from now on: it has gone there, and come here.
	IF TG_OP = 'UPDATE' AND (before ->> 'tenant_id', before ->> 'limit_type') IS DISTINCT FROM (changed ->> 'tenant_id', changed ->> 'limit_type') THEN
		PERFORM sentinai.rate_limit_record(before ->> 'tenant_id', before ->> 'limit_type', kind || 'delete', sentinai.rate_limit_shown(before), NULL);
		before := NULL;
	END IF;
	PERFORM sentinai.rate_limit_record(changed ->> 'tenant_id', changed ->> 'limit_type', kind || CASE TG_OP WHEN 'DELETE' THEN 'delete' ELSE 'set' END,
		sentinai.rate_limit_shown(before), sentinai.rate_limit_shown(to_jsonb(NEW)));
	RETURN NULL;
END
$$;
COMMENT ON FUNCTION sentinai.rate_limit_recorded() IS 'Trigger: each change of a limit is a row of rate_limit_history, whoever makes it.';

CREATE FUNCTION sentinai.rate_limit_truncated() RETURNS trigger
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
BEGIN
	EXECUTE format($query$
		SELECT count(sentinai.rate_limit_record(to_jsonb(c) ->> 'tenant_id', c.limit_type, %L, sentinai.rate_limit_shown(to_jsonb(c)), NULL)) FROM %s c
		$query$, CASE TG_TABLE_NAME WHEN 'rate_limit_type_override' THEN 'type_delete' ELSE 'delete' END, TG_RELID::regclass);
	RETURN NULL;
END
$$;
COMMENT ON FUNCTION sentinai.rate_limit_truncated() IS 'Trigger: what a TRUNCATE takes away is in rate_limit_history.';

DO $$
DECLARE
	t	text;
BEGIN
	FOREACH t IN ARRAY ARRAY['rate_limit_config', 'rate_limit_type_override'] LOOP
		EXECUTE pg_catalog.format($f$
			CREATE TRIGGER recorded AFTER INSERT OR UPDATE OR DELETE ON sentinai.%1$I FOR EACH ROW EXECUTE FUNCTION sentinai.rate_limit_recorded();
			CREATE TRIGGER recorded_truncate BEFORE TRUNCATE ON sentinai.%1$I FOR EACH STATEMENT EXECUTE FUNCTION sentinai.rate_limit_truncated()
			$f$, t);
	END LOOP;
END
$$;

-- As a foreign key with ON DELETE CASCADE would, which tables that a dump fills in any order can't have: a tenant of the same name that is
-- added later has the defaults.
CREATE FUNCTION sentinai.rate_limit_tenant_deleted() RETURNS trigger
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
#variable_conflict use_column
DECLARE
	reason	text := current_setting('sentinai.change_reason');
BEGIN
	IF reason = '' THEN
		PERFORM set_config('sentinai.change_reason', 'the tenant was deleted', true);
	END IF;
	IF TG_OP = 'TRUNCATE' THEN
		DELETE FROM sentinai.rate_limit_config c WHERE NOT EXISTS (SELECT FROM sentinai.tenant t WHERE t.tenant_id = c.tenant_id);
	ELSE
		DELETE FROM sentinai.rate_limit_config c USING gone g
		 WHERE c.tenant_id = g.tenant_id AND NOT EXISTS (SELECT FROM sentinai.tenant t WHERE t.tenant_id = c.tenant_id);
	END IF;
	PERFORM set_config('sentinai.change_reason', reason, true);
	RETURN NULL;
END
$$;
COMMENT ON FUNCTION sentinai.rate_limit_tenant_deleted() IS
	'Trigger: the limits of a tenant that is deleted go with it, and rate_limit_history says so.';
CREATE TRIGGER rate_limit_deleted AFTER DELETE ON sentinai.tenant REFERENCING OLD TABLE AS gone FOR EACH STATEMENT
	EXECUTE FUNCTION sentinai.rate_limit_tenant_deleted();
CREATE TRIGGER rate_limit_emptied AFTER TRUNCATE ON sentinai.tenant FOR EACH STATEMENT
	EXECUTE FUNCTION sentinai.rate_limit_tenant_deleted();

-- ---- deciding ----

-- A type with a name, where OUT parameters would do: FROM needn't put one together at every call.
CREATE TYPE sentinai.rate_limit_answer AS (
	allowed		boolean,
	"limit"		bigint,
	current		bigint,
	remaining	bigint,
	retry_after	integer,
	reset_at	timestamptz
);
COMMENT ON TYPE sentinai.rate_limit_answer IS 'What rate_limit_check() and rate_limit_peek() return.';
COMMENT ON COLUMN sentinai.rate_limit_answer.allowed IS 'The cost was charged; of a peek: it would be.';
COMMENT ON COLUMN sentinai.rate_limit_answer."limit" IS 'Units that are granted in a window.';
COMMENT ON COLUMN sentinai.rate_limit_answer.current IS 'Units granted and refused in the window that ends now.';
COMMENT ON COLUMN sentinai.rate_limit_answer.remaining IS 'Units that would be granted now.';
COMMENT ON COLUMN sentinai.rate_limit_answer.retry_after IS 'Seconds until this cost fits, 0 if it was granted.';
COMMENT ON COLUMN sentinai.rate_limit_answer.reset_at IS 'When it fits; if it was granted, the end of the running window.';

CREATE FUNCTION sentinai.rate_limit_check(tenant_id text, limit_type text, cost bigint DEFAULT 1) RETURNS sentinai.rate_limit_answer
	LANGUAGE c VOLATILE
	AS 'MODULE_PATHNAME', 'sn_rate_limit_check';
COMMENT ON FUNCTION sentinai.rate_limit_check(text, text, bigint) IS
	'Asks for cost units of a tenant''s limit, and charges them if there are as many. Returns allowed; limit: units in a window; current: units granted and refused in the window that ends now; remaining: units that would be granted now; retry_after: seconds until this cost fits, 0 if it was granted; reset_at: that time, or if it was granted the end of the running window. Counts stay when the transaction is rolled back. Errors: SN001 (NULL, cost below 1), SN004 (unknown tenant), SN041 (unknown limit type), SN042 (cost above the limit).';

CREATE FUNCTION sentinai.rate_limit_allowed(tenant_id text, limit_type text, cost bigint DEFAULT 1) RETURNS boolean
	LANGUAGE c VOLATILE
	AS 'MODULE_PATHNAME', 'sn_rate_limit_allowed';
COMMENT ON FUNCTION sentinai.rate_limit_allowed(text, text, bigint) IS
	'rate_limit_check() that answers allowed alone, the fastest way to ask. Errors: as there.';

CREATE FUNCTION sentinai.rate_limit_peek(tenant_id text, limit_type text, cost bigint DEFAULT 1) RETURNS sentinai.rate_limit_answer
	LANGUAGE c VOLATILE
	AS 'MODULE_PATHNAME', 'sn_rate_limit_peek';
COMMENT ON FUNCTION sentinai.rate_limit_peek(text, text, bigint) IS
	'What rate_limit_check() would answer now. Charges nothing. Errors: as there.';

CREATE FUNCTION sentinai.rate_limit_check_all(tenant_id text, limit_types text[], costs bigint[] DEFAULT NULL,
		OUT limit_type text, OUT allowed boolean, OUT "limit" bigint, OUT current bigint, OUT remaining bigint, OUT retry_after integer,
		OUT reset_at timestamptz)
	LANGUAGE c VOLATILE
	AS 'MODULE_PATHNAME', 'sn_rate_limit_check_all';
COMMENT ON FUNCTION sentinai.rate_limit_check_all(text, text[], bigint[]) IS
	'Asks for units of several limits of a tenant: all are charged or none. costs: units of each, in the same order; NULL: 1 of each. Returns the tightest limit: of those that refuse the one that does so longest, else the one with the least remaining. Only limits that refuse count a refusal. Errors: as rate_limit_check(), and SN001 for a type named twice, no type or more than 32.';

CREATE FUNCTION sentinai.rate_limit_check_batch(tenant_ids text[], limit_type text, costs bigint[] DEFAULT NULL,
		OUT n bigint, OUT allowed boolean, OUT "limit" bigint, OUT current bigint, OUT remaining bigint, OUT retry_after integer,
		OUT reset_at timestamptz)
	RETURNS SETOF record
	LANGUAGE c VOLATILE
	AS 'MODULE_PATHNAME', 'sn_rate_limit_check_batch';
COMMENT ON FUNCTION sentinai.rate_limit_check_batch(text[], text, bigint[]) IS
	'rate_limit_check() for each tenant of an array, in that order; n: its place, from 1. costs: units of each; NULL: 1 of each. Errors: as rate_limit_check(); what stands before the one that raised is charged.';

CREATE FUNCTION sentinai.rate_limit_enforce(tenant_id text, limit_type text, cost bigint DEFAULT 1) RETURNS void
	LANGUAGE c VOLATILE
	AS 'MODULE_PATHNAME', 'sn_rate_limit_enforce';
COMMENT ON FUNCTION sentinai.rate_limit_enforce(text, text, bigint) IS
	'rate_limit_check() that raises SN040 where it is refused: the message is the runbook''s, the detail the body of an answer 429 as JSON, the hint says when to come back. Other errors: as rate_limit_check().';

CREATE FUNCTION sentinai.rate_limit_body(tenant_id text, limit_type text) RETURNS jsonb
	LANGUAGE c VOLATILE
	AS 'MODULE_PATHNAME', 'sn_rate_limit_body';
COMMENT ON FUNCTION sentinai.rate_limit_body(text, text) IS
	'The runbook''s body of an answer 429 (detail, limit_type, limit, current, reset_at), as the limit stands now. Charges nothing. Errors: SN001, SN004, SN041.';

CREATE FUNCTION sentinai.rate_limit_refund(tenant_id text, limit_type text, cost bigint DEFAULT 1) RETURNS void
	LANGUAGE c VOLATILE
	AS 'MODULE_PATHNAME', 'sn_rate_limit_refund';
COMMENT ON FUNCTION sentinai.rate_limit_refund(text, text, bigint) IS
	'Gives back units that rate_limit_check() granted, the newest first; never more than were granted. Errors: SN001, SN004, SN041.';

CREATE FUNCTION sentinai.rate_limit_state(tenant_id text, limit_type text,
		OUT "limit" bigint, OUT granted bigint, OUT refused bigint, OUT remaining bigint, OUT window_seconds integer, OUT reset_at timestamptz,
		OUT enabled boolean)
	LANGUAGE c VOLATILE
	AS 'MODULE_PATHNAME', 'sn_rate_limit_state';
COMMENT ON FUNCTION sentinai.rate_limit_state(text, text) IS
	'Internal: how a limit stands, for lists: what was granted and refused in the window that ends now, what remains, when the running window ends. Errors: SN001, SN004, SN041.';

CREATE FUNCTION sentinai.rate_limit_slot_stats(OUT slots bigint, OUT used bigint, OUT evicted bigint, OUT "full" bigint,
		OUT full_at timestamptz)
	LANGUAGE c VOLATILE
	AS 'MODULE_PATHNAME', 'sn_rate_limit_slot_stats';
COMMENT ON FUNCTION sentinai.rate_limit_slot_stats() IS
	'The table in shared memory, of all databases: slots there are, slots in use, idle ones that were evicted for others, calls that found no room, and when the last of them did.';

CREATE FUNCTION sentinai.rate_limit_busy(share double precision DEFAULT 0.8,
		OUT tenant_id text, OUT limit_type text, OUT used double precision, OUT "limit" bigint, OUT granted bigint, OUT refused bigint,
		OUT window_seconds integer)
	RETURNS SETOF record
	LANGUAGE c VOLATILE
	AS 'MODULE_PATHNAME', 'sn_rate_limit_busy';
COMMENT ON FUNCTION sentinai.rate_limit_busy(double precision) IS
	'Tenants that have used at least that share of a limit (above 0; 1: all of it) in the window that ends now, and what they were refused. Looks at the slots of all tenants. Error: SN001.';

CREATE FUNCTION sentinai.rate_limit_counts(OUT limit_type text, OUT allowed bigint, OUT refused bigint, OUT bypassed bigint)
	RETURNS SETOF record
	LANGUAGE c VOLATILE
	AS 'MODULE_PATHNAME', 'sn_rate_limit_counts';
COMMENT ON FUNCTION sentinai.rate_limit_counts() IS
	'Calls of rate_limit_check() and its like in this database since the server started: allowed, refused, and of admins, whom nothing limits.';

-- ---- what a crash leaves ----

CREATE FUNCTION sentinai.rate_limit_write() RETURNS text
	LANGUAGE c VOLATILE
	AS 'MODULE_PATHNAME', 'sn_rate_limit_write';
COMMENT ON FUNCTION sentinai.rate_limit_write() IS
	'Internal: writes counts that have changed to rate_limit_usage, about 100,000 a call. Returns NULL, or why not all were written.';

CREATE FUNCTION sentinai.rate_limit_flush() RETURNS text
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
BEGIN
	RETURN sentinai.rate_limit_write();
EXCEPTION WHEN lock_not_available THEN
	RETURN 'the counts of rate limits could not be written: rows of rate_limit_usage are locked';
END
$$;
COMMENT ON FUNCTION sentinai.rate_limit_flush() IS
	'Duty: writes the counts that have changed to rate_limit_usage, every sentinai.flush_interval. Returns NULL, or why it could not.';

-- No window is longer than a day, and no count matters for longer than two.
CREATE FUNCTION sentinai.rate_limit_retain() RETURNS text
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
BEGIN
	DELETE FROM sentinai.rate_limit_usage u WHERE u.updated_at < now() - interval '3 days' AND u.appointment < now();
	DELETE FROM sentinai.rate_limit_since s WHERE greatest(s.since, s.own_until) < now() - interval '4 days';
	RETURN NULL;
EXCEPTION WHEN lock_not_available THEN
	RETURN 'counts of the past could not be deleted: their rows are locked';
END
$$;
COMMENT ON FUNCTION sentinai.rate_limit_retain() IS
	'Duty: deletes counts of the past that decide nothing any more. Returns NULL, or why it could not.';

-- ---- limits ----

CREATE VIEW sentinai.rate_limit_type_effective WITH (security_invoker = true) AS
	SELECT coalesce(o.limit_type, t.limit_type) AS limit_type, coalesce(o.limit_value, t.limit_value) AS limit_value,
		   coalesce(o.window_seconds, t.window_seconds) AS window_seconds, coalesce(o.enabled, t.enabled) AS enabled,
		   coalesce(o.when_full, t.when_full) AS when_full, o.limit_type IS NULL AS builtin
	  FROM sentinai.rate_limit_type t FULL JOIN sentinai.rate_limit_type_override o ON o.limit_type = t.limit_type;
COMMENT ON VIEW sentinai.rate_limit_type_effective IS 'The limit types and defaults that count.';
COMMENT ON COLUMN sentinai.rate_limit_type_effective.limit_type IS 'What is limited.';
COMMENT ON COLUMN sentinai.rate_limit_type_effective.limit_value IS 'Units that are granted in a window.';
COMMENT ON COLUMN sentinai.rate_limit_type_effective.window_seconds IS 'Length of the window; 86400: the calendar day of sentinai.rate_limit_time_zone.';
COMMENT ON COLUMN sentinai.rate_limit_type_effective.enabled IS 'false: nothing is limited or counted.';
COMMENT ON COLUMN sentinai.rate_limit_type_effective.when_full IS 'What becomes of a call for which shared memory has no room. open: it is granted uncounted; closed: it is refused.';
COMMENT ON COLUMN sentinai.rate_limit_type_effective.builtin IS 'Installed, and not changed by this site.';

CREATE FUNCTION sentinai.rate_limit_validate(limit_value bigint, window_seconds integer, enabled boolean) RETURNS void
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
BEGIN
	IF $1 IS NULL OR $1 NOT BETWEEN 1 AND 1000000000000000 THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN001',
			MESSAGE = format('limit_value %s is not valid', coalesce($1::text, 'NULL')),
			HINT = 'It is 1 to 1000000000000000. To limit nothing, set enabled to false.';
	ELSIF $2 IS NULL OR $2 NOT BETWEEN 1 AND 86400 THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN001',
			MESSAGE = format('window_seconds %s is not valid', coalesce($2::text, 'NULL')),
			HINT = 'It is 1 to 86400; 86400 is the calendar day.';
	ELSIF $3 IS NULL THEN
		RAISE EXCEPTION USING ERRCODE = 'SN001', MESSAGE = 'enabled must not be NULL';
	END IF;
END
$$;
COMMENT ON FUNCTION sentinai.rate_limit_validate(bigint, integer, boolean) IS
	'Internal: raises SN001 for what can''t be a limit.';

CREATE FUNCTION sentinai.rate_limit_tenant(tenant_id text) RETURNS text
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
DECLARE
	tenant	text := sentinai.tenant_check($1);
BEGIN
	IF tenant IS NULL THEN
		RAISE EXCEPTION USING ERRCODE = 'SN001', MESSAGE = 'tenant_id must not be NULL';
	ELSIF NOT EXISTS (SELECT FROM sentinai.tenant t WHERE t.tenant_id = tenant) THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN004',
			MESSAGE = format('tenant "%s" is not known', left(tenant, 100)),
			HINT = 'SELECT * FROM sentinai.tenant_list() shows all tenants.';
	END IF;
	RETURN tenant;
END
$$;
COMMENT ON FUNCTION sentinai.rate_limit_tenant(text) IS
	'Internal: the tenant, the caller''s own for NULL; raises 42501 for another than the caller''s, SN004 for an unknown one, SN001 for none.';

CREATE FUNCTION sentinai.rate_limit_require(tenant_id text, limit_type text) RETURNS text
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
DECLARE
	tenant	text := sentinai.rate_limit_tenant($1);
BEGIN
	IF limit_type IS NULL THEN
		RAISE EXCEPTION USING ERRCODE = 'SN001', MESSAGE = 'limit_type must not be NULL';
	ELSIF NOT EXISTS (SELECT FROM sentinai.rate_limit_type_effective e WHERE e.limit_type = $2) THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN041',
			MESSAGE = format('limit type "%s" is not known', left($2, 100)),
			HINT = format('There are %s. sentinai.rate_limit_type_set() makes another one.',
						  (SELECT string_agg(e.limit_type, ', ' ORDER BY e.limit_type) FROM sentinai.rate_limit_type_effective e));
	END IF;
	RETURN tenant;
END
$$;
COMMENT ON FUNCTION sentinai.rate_limit_require(text, text) IS
	'Internal: rate_limit_tenant(), and raises SN041 for an unknown limit type.';

CREATE FUNCTION sentinai.rate_limit_set(tenant_id text, limit_type text, limit_value bigint, window_seconds integer DEFAULT 60,
		enabled boolean DEFAULT true, reason text DEFAULT NULL, actor text DEFAULT NULL)
	RETURNS sentinai.rate_limit_config
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	SET sentinai.change_reason = '' SET sentinai.change_actor = ''
	AS $$
#variable_conflict use_column
DECLARE
	is_now	sentinai.rate_limit_config;
BEGIN
	PERFORM sentinai.rate_limit_validate($3, $4, $5), sentinai.rate_limit_explain($6, $7);
	$1 := sentinai.rate_limit_require($1, $2);
	-- As a foreign key does: rate_limit_tenant_deleted() finds what is set before the tenant goes.
	PERFORM FROM sentinai.tenant t WHERE t.tenant_id = $1 FOR KEY SHARE;
	IF NOT FOUND THEN
		PERFORM sentinai.rate_limit_tenant($1);
	END IF;
	INSERT INTO sentinai.rate_limit_config AS c (tenant_id, limit_type, limit_value, window_seconds, enabled)
	VALUES ($1, $2, $3, $4, $5)
	ON CONFLICT ON CONSTRAINT rate_limit_config_pkey DO UPDATE
	   SET limit_value = excluded.limit_value, window_seconds = excluded.window_seconds, enabled = excluded.enabled, updated_at = now()
	RETURNING * INTO is_now;
	RETURN is_now;
END
$$;
COMMENT ON FUNCTION sentinai.rate_limit_set(text, text, bigint, integer, boolean, text, text) IS
	'Sets a limit of one tenant: limit_value units in window_seconds (86400: the calendar day). Counts from COMMIT on in every session, inside the running window; enabled again it begins at zero. reason and actor (who, as the caller says) go to rate_limit_history. Returns the row. Errors: SN001 (a value out of its range), SN004, SN041.';

CREATE FUNCTION sentinai.rate_limit_delete(tenant_id text, limit_type text, reason text DEFAULT NULL, actor text DEFAULT NULL) RETURNS boolean
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	SET sentinai.change_reason = '' SET sentinai.change_actor = ''
	AS $$
#variable_conflict use_column
BEGIN
	PERFORM sentinai.rate_limit_explain($3, $4);
	$1 := sentinai.rate_limit_require($1, $2);
	DELETE FROM sentinai.rate_limit_config c WHERE c.tenant_id = $1 AND c.limit_type = $2;
	RETURN FOUND;
END
$$;
COMMENT ON FUNCTION sentinai.rate_limit_delete(text, text, text, text) IS
	'Deletes what rate_limit_set() set: the default counts again. Returns false where there was nothing. reason and actor go to rate_limit_history. Errors: SN004, SN041.';

CREATE FUNCTION sentinai.rate_limit_reset(tenant_id text, limit_type text, reason text, actor text DEFAULT NULL) RETURNS void
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	SET sentinai.change_reason = '' SET sentinai.change_actor = ''
	AS $$
DECLARE
	was		record;
BEGIN
	PERFORM sentinai.rate_limit_explain($3, $4);
	$1 := sentinai.rate_limit_require($1, $2);
	SELECT s.granted, s.refused INTO was FROM sentinai.rate_limit_state($1, $2) s;
	PERFORM sentinai.rate_limit_restart($1, $2);
	PERFORM sentinai.rate_limit_record($1, $2, 'reset', to_jsonb(was), '{"granted": 0, "refused": 0}');
END
$$;
COMMENT ON FUNCTION sentinai.rate_limit_reset(text, text, text, text) IS
	'From COMMIT on the limit counts from zero; the limit itself stays. reason and actor go to rate_limit_history. Errors: SN004, SN041.';

CREATE FUNCTION sentinai.rate_limit_type_set(limit_type text, limit_value bigint, window_seconds integer DEFAULT 60,
		enabled boolean DEFAULT true, when_full text DEFAULT 'open', reason text DEFAULT NULL, actor text DEFAULT NULL)
	RETURNS sentinai.rate_limit_type_effective
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	SET sentinai.change_reason = '' SET sentinai.change_actor = ''
	AS $$
#variable_conflict use_column
DECLARE
	is_now	sentinai.rate_limit_type_effective;
BEGIN
	IF $1 IS NULL OR $1 !~ '^[a-z][a-z0-9_]{0,62}$' THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN001',
			MESSAGE = format('limit_type %s is not valid', coalesce(quote_literal(left($1, 100)), 'NULL')),
			HINT = 'It has 1 to 63 characters, small letters, digits and "_", and begins with a letter.';
	ELSIF $5 IS NULL OR $5 NOT IN ('open', 'closed') THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN001',
			MESSAGE = format('when_full %s is not valid', coalesce(quote_literal($5), 'NULL')),
			HINT = 'It is open or closed.';
	END IF;
	PERFORM sentinai.rate_limit_validate($2, $3, $4), sentinai.rate_limit_explain($6, $7);
	INSERT INTO sentinai.rate_limit_type_override AS o (limit_type, limit_value, window_seconds, enabled, when_full)
	VALUES ($1, $2, $3, $4, $5)
	ON CONFLICT ON CONSTRAINT rate_limit_type_override_pkey DO UPDATE
	   SET limit_value = excluded.limit_value, window_seconds = excluded.window_seconds, enabled = excluded.enabled,
		   when_full = excluded.when_full, updated_at = now();
	SELECT * INTO is_now FROM sentinai.rate_limit_type_effective e WHERE e.limit_type = $1;
	RETURN is_now;
END
$$;
COMMENT ON FUNCTION sentinai.rate_limit_type_set(text, bigint, integer, boolean, text, text, text) IS
	'Makes a limit type of this site''s, or gives an installed one another default, for all tenants without a limit of their own. when_full: what becomes of calls for which shared memory has no room, open or closed. Counts from COMMIT on. reason and actor go to rate_limit_history. Returns the type. Errors: SN001.';

CREATE FUNCTION sentinai.rate_limit_type_delete(limit_type text, reason text DEFAULT NULL, actor text DEFAULT NULL) RETURNS boolean
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	SET sentinai.change_reason = '' SET sentinai.change_actor = ''
	AS $$
#variable_conflict use_column
BEGIN
	PERFORM sentinai.rate_limit_explain($2, $3);
	DELETE FROM sentinai.rate_limit_type_override o WHERE o.limit_type = $1;
	IF NOT FOUND THEN
		RETURN false;
	END IF;
	IF NOT EXISTS (SELECT FROM sentinai.rate_limit_type t WHERE t.limit_type = $1) THEN
		DELETE FROM sentinai.rate_limit_config c WHERE c.limit_type = $1;
		-- Another type of that name begins at zero, whether or not maintenance had written these down.
		DELETE FROM sentinai.rate_limit_usage u WHERE u.limit_type = $1;
	END IF;
	RETURN true;
END
$$;
COMMENT ON FUNCTION sentinai.rate_limit_type_delete(text, text, text) IS
	'Takes back rate_limit_type_set(): an installed type has its installed default again, another one is gone, with the tenants'' limits of that type. Returns false where there was nothing to take back.';

-- ---- looking ----

CREATE FUNCTION sentinai.rate_limit_list(tenant_id text)
	RETURNS TABLE (tenant_id text, limit_type text, limit_value bigint, window_seconds integer, enabled boolean, source text,
				   created_at timestamptz, updated_at timestamptz)
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	SELECT t.id, e.limit_type, coalesce(c.limit_value, e.limit_value), coalesce(c.window_seconds, e.window_seconds),
		   coalesce(c.enabled, e.enabled), CASE WHEN c.tenant_id IS NULL THEN 'default' ELSE 'tenant' END, c.created_at, c.updated_at
	  FROM (SELECT sentinai.rate_limit_tenant($1) AS id) t CROSS JOIN sentinai.rate_limit_type_effective e
	  LEFT JOIN sentinai.rate_limit_config c ON c.tenant_id = t.id AND c.limit_type = e.limit_type
	 ORDER BY e.limit_type
$$;
COMMENT ON FUNCTION sentinai.rate_limit_list(text) IS
	'The limits of a tenant, each type once. source: tenant, by rate_limit_set(); default, of the type. NULL: the caller''s own tenant. Errors: 42501, SN001, SN004.';

CREATE FUNCTION sentinai.rate_limit_usage(tenant_id text)
	RETURNS TABLE (tenant_id text, limit_type text, "limit" bigint, current bigint, remaining bigint, window_seconds integer,
				   reset_at timestamptz, enabled boolean, granted bigint, refused bigint)
	LANGUAGE sql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	SELECT $1, e.limit_type, s."limit", s.granted + s.refused, s.remaining, s.window_seconds, s.reset_at, s.enabled, s.granted, s.refused
	  FROM sentinai.rate_limit_type_effective e, sentinai.rate_limit_state($1, e.limit_type) s
	 ORDER BY e.limit_type
$$;
COMMENT ON FUNCTION sentinai.rate_limit_usage(text) IS
	'How the limits of a tenant stand: current is granted and refused in the window that ends now, remaining what would be granted now, reset_at the end of the running window. Errors: SN004.';
