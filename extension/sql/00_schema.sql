-- 00_schema: what must hold before anything is created, and the library's version.

DO $$
BEGIN
	IF pg_catalog.getdatabaseencoding() <> 'UTF8' THEN
		RAISE EXCEPTION USING
			ERRCODE = 'feature_not_supported',
			MESSAGE = 'sentinai needs a database with encoding UTF8',
			DETAIL = pg_catalog.format('The encoding of database "%s" is %s.', pg_catalog.current_database(), pg_catalog.getdatabaseencoding()),
			HINT = 'Create one: CREATE DATABASE name TEMPLATE template0 ENCODING ''UTF8''.';
	END IF;
END
$$;

COMMENT ON SCHEMA sentinai IS 'The reliability layer between Kafka and PostgreSQL: events, retries, dead letters, outbox.';

CREATE FUNCTION sentinai.version() RETURNS text
	LANGUAGE c STABLE STRICT PARALLEL SAFE
	AS 'MODULE_PATHNAME', 'sn_version';
COMMENT ON FUNCTION sentinai.version() IS
	'The version of the loaded library. Compare with extversion in pg_extension: health() does.';

-- ---- our own locks: extension/lock.h has their keys ----

CREATE FUNCTION sentinai.lock_take(key integer, number integer DEFAULT 0, shared boolean DEFAULT false, session boolean DEFAULT false) RETURNS void
	LANGUAGE c VOLATILE STRICT
	AS 'MODULE_PATHNAME', 'sn_lock_take';
COMMENT ON FUNCTION sentinai.lock_take(integer, integer, boolean, boolean) IS
	'Internal: waits for a lock of ours and takes it, until the transaction ends (session: until pg_advisory_unlock_all() or the session''s end). No pg_advisory_lock() meets it.';

CREATE FUNCTION sentinai.lock_list(key integer) RETURNS TABLE (number bigint, pid integer, mode text, granted boolean)
	LANGUAGE sql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	SELECT l.objid::bigint, l.pid, l.mode, l.granted
	  FROM pg_locks l
	 WHERE l.locktype = 'advisory' AND l.classid::bigint = x'534E4700'::bigint + key AND l.objsubid = 3
	   AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
$$;
COMMENT ON FUNCTION sentinai.lock_list(integer) IS 'Internal: who has, or waits for, a lock of ours in this database.';

CREATE FUNCTION sentinai.config_changed() RETURNS trigger
	LANGUAGE c
	AS 'MODULE_PATHNAME', 'sn_config_changed';
COMMENT ON FUNCTION sentinai.config_changed() IS
	'Statement trigger of the configuration tables: from COMMIT on every backend reads its cached configuration again.';
