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

CREATE FUNCTION sentinai.config_changed() RETURNS trigger
	LANGUAGE c
	AS 'MODULE_PATHNAME', 'sn_config_changed';
COMMENT ON FUNCTION sentinai.config_changed() IS
	'Statement trigger of the configuration tables: from COMMIT on every backend reads its cached configuration again.';
