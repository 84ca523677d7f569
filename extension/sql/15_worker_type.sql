-- 15_worker_type: who reads which topic in which group, and which function handles which event type.

CREATE TABLE sentinai.worker_type (
	name		text COLLATE "C" PRIMARY KEY CHECK (name ~ '^[a-z][a-z0-9_]{0,62}$'),
	topic		text COLLATE "C" NOT NULL,
	group_id	text COLLATE "C" NOT NULL,
	owns_topic	boolean NOT NULL DEFAULT false,
	http_port	integer,
	builtin		boolean NOT NULL DEFAULT false
);
SELECT pg_catalog.pg_extension_config_dump('sentinai.worker_type', 'WHERE NOT builtin');

INSERT INTO sentinai.worker_type (name, topic, group_id, owns_topic, http_port, builtin) VALUES
	('intake', 'exceptions', 'intake-workers', true, 9001, true),
	('triage', 'exceptions', 'triage-workers', false, 9002, true),
	('policy', 'exceptions', 'policy-workers', false, 9003, true),
	('playbook', 'exceptions', 'playbook-workers', false, 9004, true),
	('tool', 'exceptions', 'tool-workers', false, 9005, true),
	('feedback', 'exceptions', 'feedback-workers', false, 9006, true),
	('sla_monitor', 'sla', 'sla-monitors', true, 9007, true);

-- A change of an installed row is a row here: what the script inserted is never updated, since a dump would lose that.
CREATE TABLE sentinai.worker_type_override (
	name		text COLLATE "C" PRIMARY KEY,
	group_id	text COLLATE "C",
	owns_topic	boolean
);
SELECT pg_catalog.pg_extension_config_dump('sentinai.worker_type_override', '');

CREATE VIEW sentinai.worker_type_effective AS
	SELECT w.name, w.topic, coalesce(o.group_id, w.group_id) AS group_id,
		   coalesce(o.owns_topic, w.owns_topic) AS owns_topic, w.http_port, w.builtin
	  FROM sentinai.worker_type w LEFT JOIN sentinai.worker_type_override o USING (name);

-- Functions are stored by schema and name: a regprocedure column would block pg_upgrade.
CREATE TABLE sentinai.handler (
	worker_type		text COLLATE "C" NOT NULL,
	event_type		text COLLATE "C" NOT NULL,
	function_schema	text NOT NULL,
	function_name	text NOT NULL,
	set_based		boolean NOT NULL,
	role_name		text NOT NULL DEFAULT 'sentinai_handler',
	timeout_ms		integer CHECK (timeout_ms BETWEEN 1 AND 3600000),
	builtin			boolean NOT NULL DEFAULT false,
	created_at		timestamptz NOT NULL DEFAULT now(),
	PRIMARY KEY (worker_type, event_type)
);
SELECT pg_catalog.pg_extension_config_dump('sentinai.handler', 'WHERE NOT builtin');

-- What we know of a topic: whose log it is, where its tenant comes from.
CREATE TABLE sentinai.kafka_topic (
	topic			text COLLATE "C" PRIMARY KEY,
	cluster_id		text,
	incarnation		integer NOT NULL DEFAULT 1,
	partition_count	integer,
	tenant_source	text NOT NULL DEFAULT 'payload'
					CHECK (tenant_source IN ('payload', 'header', 'key', 'fixed')),
	tenant_value	text,
	updated_at		timestamptz NOT NULL DEFAULT now()
);
SELECT pg_catalog.pg_extension_config_dump('sentinai.kafka_topic', '');

-- Where a group stands. The database, not the broker, owns the position.
CREATE TABLE sentinai.kafka_offset (
	group_id	text COLLATE "C" NOT NULL,
	topic		text COLLATE "C" NOT NULL,
	partition	integer NOT NULL CHECK (partition >= 0),
	next_offset	bigint NOT NULL CHECK (next_offset >= 0),
	epoch		bigint NOT NULL DEFAULT 0,
	updated_at	timestamptz NOT NULL DEFAULT now(),
	PRIMARY KEY (group_id, topic, partition)
) WITH (fillfactor = 20);
SELECT pg_catalog.pg_extension_config_dump('sentinai.kafka_offset', '');

-- A position that the log doesn't have: loud, and mended by offset_reset().
CREATE TABLE sentinai.offset_gap (
	id			bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	group_id	text COLLATE "C" NOT NULL,
	topic		text COLLATE "C" NOT NULL,
	partition	integer NOT NULL,
	next_offset	bigint NOT NULL,
	log_start	bigint,
	log_end		bigint,
	reason		text NOT NULL CHECK (reason IN ('position_too_old', 'topic_recreated', 'other_cluster', 'position_invalid')),
	detected_at	timestamptz NOT NULL DEFAULT now(),
	resolved_at	timestamptz,
	resolution	text
);
SELECT pg_catalog.pg_extension_config_dump('sentinai.offset_gap', '');
SELECT pg_catalog.pg_extension_config_dump('sentinai.offset_gap_id_seq', '');

-- Heartbeats of the processes; a crash empties it and they come back within seconds.
CREATE UNLOGGED TABLE sentinai.worker_instance (
	worker_type		text COLLATE "C" NOT NULL,
	instance_id		text COLLATE "C" NOT NULL,
	host			text,
	pid				integer,
	http_port		integer,
	version			text,
	status			text NOT NULL,
	error_message	text,
	details			jsonb NOT NULL DEFAULT '{}',
	started_at		timestamptz NOT NULL DEFAULT now(),
	last_check		timestamptz NOT NULL DEFAULT now(),
	PRIMARY KEY (worker_type, instance_id)
);
