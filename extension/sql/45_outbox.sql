-- 45_outbox: what is to be published, in id order. Three tables take turns and are truncated, never vacuumed.

CREATE SEQUENCE sentinai.outbox_id_seq AS bigint CACHE 1;
SELECT pg_catalog.pg_extension_config_dump('sentinai.outbox_id_seq', '');

CREATE TABLE sentinai.outbox_0 (
	id			bigint NOT NULL,
	topic		text COLLATE "C" NOT NULL,
	partition	integer,
	key			bytea,
	headers		sentinai.header[],
	value		bytea,
	tenant_id	text COLLATE "C",
	event_id	text COLLATE "C",
	event_type	text COLLATE "C",
	dlq_id		bigint,
	dlq_token	uuid,
	created_at	timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE sentinai.outbox_1 (LIKE sentinai.outbox_0 INCLUDING ALL);
CREATE TABLE sentinai.outbox_2 (LIKE sentinai.outbox_0 INCLUDING ALL);
CREATE INDEX outbox_0_id ON sentinai.outbox_0 (id);
CREATE INDEX outbox_1_id ON sentinai.outbox_1 (id);
CREATE INDEX outbox_2_id ON sentinai.outbox_2 (id);
SELECT pg_catalog.pg_extension_config_dump('sentinai.outbox_0', '');
SELECT pg_catalog.pg_extension_config_dump('sentinai.outbox_1', '');
SELECT pg_catalog.pg_extension_config_dump('sentinai.outbox_2', '');

CREATE VIEW sentinai.outbox AS
	SELECT * FROM sentinai.outbox_0
	UNION ALL SELECT * FROM sentinai.outbox_1
	UNION ALL SELECT * FROM sentinai.outbox_2;
