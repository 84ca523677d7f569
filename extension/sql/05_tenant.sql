-- 05_tenant: who may own events.

CREATE TABLE sentinai.tenant (
	tenant_id	text COLLATE "C" PRIMARY KEY
				CHECK (tenant_id ~ '^[A-Za-z0-9_.-]{1,64}$'),
	name		text,
	status		text NOT NULL DEFAULT 'active'
				CHECK (status IN ('active', 'suspended', 'archived')),
	tags		text[] NOT NULL DEFAULT '{}',
	industry	text,
	metadata	jsonb NOT NULL DEFAULT '{}',
	created_at	timestamptz NOT NULL DEFAULT now(),
	created_by	text NOT NULL DEFAULT session_user,
	updated_at	timestamptz NOT NULL DEFAULT now()
);
SELECT pg_catalog.pg_extension_config_dump('sentinai.tenant', '');
