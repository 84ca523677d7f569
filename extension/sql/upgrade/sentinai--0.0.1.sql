\echo Use "CREATE EXTENSION sentinai VERSION '0.0.1'" to load this file. \quit

CREATE FUNCTION sentinai.version() RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$ SELECT '0.0.1' $$;

CREATE TABLE sentinai.tenant (
	tenant_id text COLLATE "C" PRIMARY KEY CHECK (tenant_id ~ '^[A-Za-z0-9_.-]{1,64}$'),
	name text,
	created_at timestamptz NOT NULL DEFAULT now()
);

SELECT pg_catalog.pg_extension_config_dump('sentinai.tenant', '');

CREATE FUNCTION sentinai.tenant_add(tenant_id text, name text DEFAULT NULL) RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, sentinai, pg_temp
AS $$ INSERT INTO sentinai.tenant (tenant_id, name) VALUES ($1, $2) $$;

REVOKE ALL ON FUNCTION sentinai.version(), sentinai.tenant_add(text, text) FROM PUBLIC;
