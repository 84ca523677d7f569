-- 35_retry: what an error means, and when an event that failed is tried again.

-- Error classes stand in the source (retry.c); a site's changes are rows here.
CREATE TABLE sentinai.error_class_override (
	sqlstate_prefix	text COLLATE "C" PRIMARY KEY CHECK (sqlstate_prefix ~ '^[0-9A-Z]{2,5}$'),
	class			text COLLATE "C" NOT NULL CHECK (class IN ('permanent', 'retry', 'stop', 'broken'))
);
SELECT pg_catalog.pg_extension_config_dump('sentinai.error_class_override', '');

COMMENT ON TABLE sentinai.error_class_override IS
	'A site''s own error classes. The longest prefix of an error''s SQLSTATE decides; of two of one length the one here.';
COMMENT ON COLUMN sentinai.error_class_override.sqlstate_prefix IS
	'two to five characters of a SQLSTATE: 23 is the whole class, 23505 one error';
COMMENT ON COLUMN sentinai.error_class_override.class IS
	'permanent: dead letter at once. retry: by the retry policy. stop: the infrastructure is away, nothing moves and no retry is used up. broken: a bad deployment.';

CREATE TABLE sentinai.retry_policy (
	tenant_id		text COLLATE "C",
	worker_type		text COLLATE "C",
	event_type		text COLLATE "C",
	error_type		text COLLATE "C",
	max_retries		integer NOT NULL CHECK (max_retries BETWEEN 0 AND 1000),
	base_delay		interval NOT NULL CHECK (base_delay >= '0'),
	factor			double precision NOT NULL CHECK (factor >= 1 AND factor <= 100),
	max_delay		interval NOT NULL CHECK (max_delay >= '0'),
	jitter			double precision NOT NULL CHECK (jitter >= 0 AND jitter <= 1),
	deadline		interval CHECK (deadline >= '0'),
	after_dead_letter	text COLLATE "C" NOT NULL CHECK (after_dead_letter IN ('continue', 'park'))
);

INSERT INTO sentinai.retry_policy VALUES
	(NULL, NULL, NULL, NULL, 4, '1 s', 2, '5 min', 0.10, NULL, 'continue');

-- No row of it is a user's: what is changed is in retry_policy_override.
SELECT pg_catalog.pg_extension_config_dump('sentinai.retry_policy', 'WHERE false');

COMMENT ON TABLE sentinai.retry_policy IS
	'The installed retry policy, never updated in place: a change is a row of retry_policy_override, made by retry_policy_set().';

-- Same columns: a row here decides alone, nothing is mixed with less specific rows.
CREATE TABLE sentinai.retry_policy_override (LIKE sentinai.retry_policy INCLUDING CONSTRAINTS);
ALTER TABLE sentinai.retry_policy_override
	ADD COLUMN updated_at timestamptz NOT NULL DEFAULT now(),
	ADD COLUMN updated_by text NOT NULL DEFAULT sentinai.caller_identity();
CREATE UNIQUE INDEX retry_policy_override_key ON sentinai.retry_policy_override
	(tenant_id, worker_type, event_type, error_type) NULLS NOT DISTINCT;
SELECT pg_catalog.pg_extension_config_dump('sentinai.retry_policy_override', '');

COMMENT ON TABLE sentinai.retry_policy_override IS 'Retry policies of this site. Changed by retry_policy_set() and retry_policy_delete().';

COMMENT ON COLUMN sentinai.retry_policy_override.updated_at IS 'when the policy was last set';
COMMENT ON COLUMN sentinai.retry_policy_override.updated_by IS 'the login that last set it';

-- Specificity: the number of columns that a policy names, then which ones, the tenant first.
CREATE VIEW sentinai.retry_policy_effective WITH (security_invoker = true) AS
	SELECT p.*,
		   pg_catalog.num_nonnulls(p.tenant_id, p.worker_type, p.event_type, p.error_type) * 16
		   + (p.tenant_id IS NOT NULL)::integer * 8 + (p.worker_type IS NOT NULL)::integer * 4
		   + (p.event_type IS NOT NULL)::integer * 2 + (p.error_type IS NOT NULL)::integer AS specificity
	  FROM (SELECT tenant_id, worker_type, event_type, error_type, max_retries, base_delay, factor, max_delay, jitter,
				   deadline, after_dead_letter, true AS builtin
			  FROM sentinai.retry_policy i
			 WHERE NOT EXISTS (
				SELECT FROM sentinai.retry_policy_override o
				 WHERE (o.tenant_id, o.worker_type, o.event_type, o.error_type)
					   IS NOT DISTINCT FROM (i.tenant_id, i.worker_type, i.event_type, i.error_type))
			UNION ALL
			SELECT tenant_id, worker_type, event_type, error_type, max_retries, base_delay, factor, max_delay, jitter,
				   deadline, after_dead_letter, false
			  FROM sentinai.retry_policy_override) p;
COMMENT ON VIEW sentinai.retry_policy_effective IS
	'The policies that count. Of those that fit a failure the one of the highest specificity decides: the more columns it names the higher, and with equal numbers tenant_id counts more than worker_type, that more than event_type, that more than error_type.';
COMMENT ON COLUMN sentinai.retry_policy_effective.builtin IS 'installed with the extension, and not overridden';
COMMENT ON COLUMN sentinai.retry_policy_effective.specificity IS 'of those that fit, the highest decides';
DO $$
DECLARE
	said	record;
BEGIN
	FOR said IN
		SELECT a.attname, pg_catalog.col_description(a.attrelid, a.attnum) AS text
		  FROM pg_catalog.pg_attribute a
		 WHERE a.attrelid = 'sentinai.retry_policy'::pg_catalog.regclass AND a.attnum > 0
	LOOP
		EXECUTE pg_catalog.format('COMMENT ON COLUMN sentinai.retry_policy_effective.%I IS %L', said.attname, said.text);
	END LOOP;
END
$$;

DO $$
DECLARE
	t text;
BEGIN
	FOREACH t IN ARRAY ARRAY['retry_policy', 'retry_policy_override', 'retry_policy_effective'] LOOP
		EXECUTE pg_catalog.format($f$
			COMMENT ON COLUMN sentinai.%1$I.tenant_id IS 'of this tenant only; NULL: of all';
			COMMENT ON COLUMN sentinai.%1$I.worker_type IS 'of this worker type only; NULL: of all';
			COMMENT ON COLUMN sentinai.%1$I.event_type IS 'of this event type only; NULL: of all';
			COMMENT ON COLUMN sentinai.%1$I.error_type IS 'of this error type only (a condition name, or what fail() was given); NULL: of all';
			COMMENT ON COLUMN sentinai.%1$I.max_retries IS 'how often an event is tried again before it is a dead letter';
			COMMENT ON COLUMN sentinai.%1$I.base_delay IS 'delay before the first retry';
			COMMENT ON COLUMN sentinai.%1$I.factor IS 'what each further retry''s delay is multiplied by';
			COMMENT ON COLUMN sentinai.%1$I.max_delay IS 'longest delay, jitter aside';
			COMMENT ON COLUMN sentinai.%1$I.jitter IS 'share of a delay that chance adds or takes away: 0.10 is 10 %% either way';
			COMMENT ON COLUMN sentinai.%1$I.deadline IS 'no retry later than this after the first failure; NULL: no such bound';
			COMMENT ON COLUMN sentinai.%1$I.after_dead_letter IS
				'continue: later events of the same exception are handled. park: they wait until the dead letter is succeeded, discarded or deleted';
			$f$, t);
	END LOOP;
END
$$;
COMMENT ON COLUMN sentinai.retry_policy_effective.builtin IS 'installed with the extension; false: this site''s';
COMMENT ON COLUMN sentinai.retry_policy_effective.specificity IS 'the highest of those that fit decides';

CREATE FUNCTION sentinai.retry_policy_for(
	tenant_id text, worker_type text DEFAULT NULL, event_type text DEFAULT NULL, error_type text DEFAULT NULL)
	RETURNS sentinai.retry_policy_effective
	LANGUAGE sql STABLE PARALLEL SAFE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	SELECT p.* FROM sentinai.retry_policy_effective p
	 WHERE (p.tenant_id IS NULL OR p.tenant_id = $1) AND (p.worker_type IS NULL OR p.worker_type = $2)
	   AND (p.event_type IS NULL OR p.event_type = $3) AND (p.error_type IS NULL OR p.error_type = $4)
	 ORDER BY p.specificity DESC LIMIT 1
	$$;
COMMENT ON FUNCTION sentinai.retry_policy_for(text, text, text, text) IS
	'The policy that decides about a failure of that tenant, worker type, event type and error type. NULL for one of them: only policies that don''t name it.';

CREATE FUNCTION sentinai.retry_policy_list() RETURNS SETOF sentinai.retry_policy_effective
	LANGUAGE sql STABLE PARALLEL SAFE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$ SELECT * FROM sentinai.retry_policy_effective
		   ORDER BY specificity DESC, tenant_id, worker_type, event_type, error_type $$;
COMMENT ON FUNCTION sentinai.retry_policy_list() IS 'All retry policies that count, the most specific first.';

CREATE FUNCTION sentinai.retry_policy_set(
	tenant_id text DEFAULT NULL, worker_type text DEFAULT NULL, event_type text DEFAULT NULL,
	error_type text DEFAULT NULL, max_retries integer DEFAULT NULL, base_delay interval DEFAULT NULL,
	factor double precision DEFAULT NULL, max_delay interval DEFAULT NULL, jitter double precision DEFAULT NULL,
	deadline interval DEFAULT NULL, after_dead_letter text DEFAULT NULL)
	RETURNS sentinai.retry_policy_effective
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	#variable_conflict use_column
	DECLARE
		v_installed sentinai.retry_policy;
		v_set sentinai.retry_policy_effective;
	BEGIN
		IF $1 IS NOT NULL AND NOT EXISTS (SELECT FROM sentinai.tenant t WHERE t.tenant_id = $1) THEN
			RAISE EXCEPTION USING ERRCODE = 'SN004', MESSAGE = format('tenant "%s" does not exist', $1),
				HINT = 'SELECT * FROM sentinai.tenant_list() shows all tenants.';
		END IF;
		IF $2 IS NOT NULL AND NOT EXISTS (SELECT FROM sentinai.worker_type w WHERE w.name = $2) THEN
			RAISE EXCEPTION USING ERRCODE = 'SN002', MESSAGE = format('worker type "%s" is not known', $2),
				HINT = 'SELECT name FROM sentinai.worker_type lists them.';
		END IF;
		IF $3 IS NOT NULL AND NOT EXISTS (SELECT FROM sentinai.event_type e WHERE e.event_type = $3) THEN
			RAISE EXCEPTION USING ERRCODE = 'SN005', MESSAGE = format('event type "%s" is not known', $3),
				HINT = 'SELECT event_type FROM sentinai.event_type lists them.';
		END IF;
		SELECT * INTO STRICT v_installed FROM sentinai.retry_policy p
		 WHERE (p.tenant_id, p.worker_type, p.event_type, p.error_type) IS NOT DISTINCT FROM (NULL, NULL, NULL, NULL);
		BEGIN
			INSERT INTO sentinai.retry_policy_override AS o (tenant_id, worker_type, event_type, error_type, max_retries,
					base_delay, factor, max_delay, jitter, deadline, after_dead_letter)
			VALUES ($1, $2, $3, $4, coalesce($5, v_installed.max_retries), coalesce($6, v_installed.base_delay),
					coalesce($7, v_installed.factor), coalesce($8, v_installed.max_delay),
					coalesce($9, v_installed.jitter), coalesce($10, v_installed.deadline),
					coalesce($11, v_installed.after_dead_letter))
			ON CONFLICT (tenant_id, worker_type, event_type, error_type) DO UPDATE
			   SET max_retries = EXCLUDED.max_retries, base_delay = EXCLUDED.base_delay, factor = EXCLUDED.factor,
				   max_delay = EXCLUDED.max_delay, jitter = EXCLUDED.jitter, deadline = EXCLUDED.deadline,
				   after_dead_letter = EXCLUDED.after_dead_letter, updated_at = now(), updated_by = sentinai.caller_identity();
		EXCEPTION WHEN check_violation THEN
			RAISE EXCEPTION USING ERRCODE = 'SN001', MESSAGE = 'invalid retry policy', DETAIL = SQLERRM,
				HINT = 'max_retries is 0 to 1000, factor 1 to 100, jitter 0 to 1, delays and deadline are not negative, after_dead_letter is continue or park.';
		END;
		SELECT p.* INTO v_set FROM sentinai.retry_policy_effective p
		 WHERE (p.tenant_id, p.worker_type, p.event_type, p.error_type) IS NOT DISTINCT FROM ($1, $2, $3, $4);
		RETURN v_set;
	END
	$$;
COMMENT ON FUNCTION sentinai.retry_policy_set(text, text, text, text, integer, interval, double precision, interval, double precision, interval, text) IS
	'Sets the retry policy of a tenant, worker type, event type and error type, each NULL for all; what is not given is as in the installed policy. Counts from COMMIT on, for failures after it. Returns the policy. Errors: SN001 a value out of its range, SN002, SN004, SN005 an unknown worker type, tenant, event type.';

CREATE FUNCTION sentinai.retry_policy_delete(
	tenant_id text DEFAULT NULL, worker_type text DEFAULT NULL, event_type text DEFAULT NULL, error_type text DEFAULT NULL)
	RETURNS boolean
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	BEGIN
		DELETE FROM sentinai.retry_policy_override o
		 WHERE (o.tenant_id, o.worker_type, o.event_type, o.error_type) IS NOT DISTINCT FROM ($1, $2, $3, $4);
		RETURN FOUND;
	END
	$$;
COMMENT ON FUNCTION sentinai.retry_policy_delete(text, text, text, text) IS
	'Deletes the policy that retry_policy_set() made for exactly these; less specific ones decide again. Returns false where there was none.';

CREATE FUNCTION sentinai.retry_delay(
	retry_count integer, worker_type text DEFAULT NULL, tenant_id text DEFAULT NULL, event_type text DEFAULT NULL,
	error_type text DEFAULT NULL) RETURNS interval
	LANGUAGE c STABLE SECURITY DEFINER PARALLEL RESTRICTED
	SET search_path = pg_catalog, sentinai, pg_temp
	AS 'MODULE_PATHNAME', 'sn_retry_delay';
COMMENT ON FUNCTION sentinai.retry_delay(integer, text, text, text, text) IS
	'Delay before the retry of that number (1: the first), jitter aside, by the policy that fits. NULL where the policy has no such retry: then it is a dead letter. Error: 42501.';

CREATE FUNCTION sentinai.condition_name(sqlstate text) RETURNS text
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
	AS 'MODULE_PATHNAME', 'sn_condition_name_sql';
COMMENT ON FUNCTION sentinai.condition_name(text) IS
	'The error_type of a SQLSTATE: its condition name, or the code itself where it has none. Error: SN001 not five characters.';

CREATE FUNCTION sentinai.error_class(sqlstate text, constraint_name text DEFAULT NULL) RETURNS text
	LANGUAGE c STABLE PARALLEL SAFE
	AS 'MODULE_PATHNAME', 'sn_error_class_sql';
COMMENT ON FUNCTION sentinai.error_class(text, text) IS
	'The class of an error: permanent, retry, stop or broken. constraint_name: the constraint that it names, NULL for none (it matters for 23514). Error: SN001 not five characters.';

CREATE FUNCTION sentinai.error_class_list(
	OUT sqlstate_prefix text, OUT constraint_needed boolean, OUT class text, OUT builtin boolean)
	RETURNS SETOF record
	LANGUAGE c STABLE PARALLEL SAFE
	AS 'MODULE_PATHNAME', 'sn_error_class_list';
COMMENT ON FUNCTION sentinai.error_class_list() IS
	'All error classes by prefix of the SQLSTATE, overrides included. The longest prefix decides, an override before an installed one of the same length; what none fits is retry.';

CREATE FUNCTION sentinai.error_class_set(sqlstate_prefix text, class text) RETURNS void
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	BEGIN
		INSERT INTO sentinai.error_class_override AS o VALUES ($1, $2)
		ON CONFLICT ON CONSTRAINT error_class_override_pkey DO UPDATE SET class = EXCLUDED.class;
	EXCEPTION WHEN check_violation OR not_null_violation THEN
		RAISE EXCEPTION USING ERRCODE = 'SN001', MESSAGE = format('invalid error class "%s" for "%s"', $2, $1),
			DETAIL = SQLERRM,
			HINT = 'A prefix has two to five digits and capital letters; a class is permanent, retry, stop or broken.';
	END
	$$;
COMMENT ON FUNCTION sentinai.error_class_set(text, text) IS
	'Gives errors whose SQLSTATE begins like this another class, from COMMIT on. Error: SN001 no such class, or no prefix of a SQLSTATE.';

CREATE FUNCTION sentinai.error_class_delete(sqlstate_prefix text) RETURNS boolean
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	BEGIN
		DELETE FROM sentinai.error_class_override o WHERE o.sqlstate_prefix = $1;
		RETURN FOUND;
	END
	$$;
COMMENT ON FUNCTION sentinai.error_class_delete(text) IS
	'Takes back error_class_set(). Returns false where there was nothing to take back.';

CREATE TRIGGER config_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON sentinai.retry_policy
	FOR EACH STATEMENT EXECUTE FUNCTION sentinai.config_changed();
CREATE TRIGGER config_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON sentinai.retry_policy_override
	FOR EACH STATEMENT EXECUTE FUNCTION sentinai.config_changed();
CREATE TRIGGER config_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON sentinai.error_class_override
	FOR EACH STATEMENT EXECUTE FUNCTION sentinai.config_changed();
