-- 15_worker_type: who reads which topic in which group, and which function handles which event type.

CREATE TABLE sentinai.worker_type (
	name		text COLLATE "C" PRIMARY KEY CHECK (name ~ '^[a-z][a-z0-9_]{0,62}$'),
	topic		text COLLATE "C" NOT NULL,
	group_id	text COLLATE "C" NOT NULL,
	owns_topic	boolean NOT NULL DEFAULT false,
	http_port	integer,
	builtin		boolean NOT NULL DEFAULT false
);
COMMENT ON TABLE sentinai.worker_type IS
	'Worker types: who reads which topic in which group. The installed ones are never updated: changes stand in worker_type_override.';
COMMENT ON COLUMN sentinai.worker_type.name IS 'WORKER_TYPE of the process.';
COMMENT ON COLUMN sentinai.worker_type.topic IS 'The topic of Kafka that it reads.';
COMMENT ON COLUMN sentinai.worker_type.group_id IS 'Its consumer group.';
COMMENT ON COLUMN sentinai.worker_type.owns_topic IS 'One worker type of each topic owns it: it logs every record and refuses what can''t be read.';
COMMENT ON COLUMN sentinai.worker_type.http_port IS 'Where its HTTP port is looked for first; NULL: 9010.';
COMMENT ON COLUMN sentinai.worker_type.builtin IS 'Installed with the extension.';
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
COMMENT ON TABLE sentinai.worker_type_override IS
	'What was changed of a worker type; NULL leaves the installed value. Written by worker_type_group and worker_type_own.';
COMMENT ON COLUMN sentinai.worker_type_override.name IS 'The worker type.';
COMMENT ON COLUMN sentinai.worker_type_override.group_id IS 'Its consumer group now.';
COMMENT ON COLUMN sentinai.worker_type_override.owns_topic IS 'Whether it owns its topic now.';
SELECT pg_catalog.pg_extension_config_dump('sentinai.worker_type_override', '');

CREATE VIEW sentinai.worker_type_effective AS
	SELECT w.name, w.topic, coalesce(o.group_id, w.group_id) AS group_id,
		   coalesce(o.owns_topic, w.owns_topic) AS owns_topic, w.http_port, w.builtin
	  FROM sentinai.worker_type w LEFT JOIN sentinai.worker_type_override o USING (name);
COMMENT ON VIEW sentinai.worker_type_effective IS
	'Worker types as they count: installed or added rows with their changes.';
COMMENT ON COLUMN sentinai.worker_type_effective.name IS 'WORKER_TYPE of the process.';
COMMENT ON COLUMN sentinai.worker_type_effective.topic IS 'The topic of Kafka that it reads.';
COMMENT ON COLUMN sentinai.worker_type_effective.group_id IS 'Its consumer group.';
COMMENT ON COLUMN sentinai.worker_type_effective.owns_topic IS 'Whether it owns its topic.';
COMMENT ON COLUMN sentinai.worker_type_effective.http_port IS 'Where its HTTP port is looked for first.';
COMMENT ON COLUMN sentinai.worker_type_effective.builtin IS 'Installed with the extension.';

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
COMMENT ON TABLE sentinai.handler IS
	'Which function handles which event type for which worker type. Written by handler_add and handler_remove.';
COMMENT ON COLUMN sentinai.handler.worker_type IS 'The worker type.';
COMMENT ON COLUMN sentinai.handler.event_type IS 'The event type.';
COMMENT ON COLUMN sentinai.handler.function_schema IS 'The function''s schema, by name, since an oid would block pg_upgrade.';
COMMENT ON COLUMN sentinai.handler.function_name IS 'The function: f(sentinai.event) or f(sentinai.event[]), returning void.';
COMMENT ON COLUMN sentinai.handler.set_based IS 'It takes the array: one call a batch.';
COMMENT ON COLUMN sentinai.handler.role_name IS 'The role that it runs as.';
COMMENT ON COLUMN sentinai.handler.timeout_ms IS 'How long one call may take, in milliseconds; NULL: sentinai.handler_timeout.';
COMMENT ON COLUMN sentinai.handler.builtin IS 'Installed with the extension.';
COMMENT ON COLUMN sentinai.handler.created_at IS 'When it was registered.';
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
COMMENT ON TABLE sentinai.kafka_topic IS
	'What is known of a topic: whose log it is and where its tenant comes from.';
COMMENT ON COLUMN sentinai.kafka_topic.topic IS 'The topic of Kafka.';
COMMENT ON COLUMN sentinai.kafka_topic.cluster_id IS 'The Kafka cluster that it was read from last.';
COMMENT ON COLUMN sentinai.kafka_topic.incarnation IS 'Raised when the topic was made anew, so that old offsets are told from new ones.';
COMMENT ON COLUMN sentinai.kafka_topic.partition_count IS 'As the worker saw it last.';
COMMENT ON COLUMN sentinai.kafka_topic.tenant_source IS 'payload: the envelope says it; header, key or fixed: tenant_value says which one, and the envelope must agree.';
COMMENT ON COLUMN sentinai.kafka_topic.tenant_value IS 'The header''s name, or the fixed tenant.';
COMMENT ON COLUMN sentinai.kafka_topic.updated_at IS 'When the row was last changed.';
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
COMMENT ON TABLE sentinai.kafka_offset IS
	'Where each group stands in each partition. The database, not the broker, owns the position.';
COMMENT ON COLUMN sentinai.kafka_offset.group_id IS 'The consumer group.';
COMMENT ON COLUMN sentinai.kafka_offset.topic IS 'The topic.';
COMMENT ON COLUMN sentinai.kafka_offset.partition IS 'The partition, from 0.';
COMMENT ON COLUMN sentinai.kafka_offset.next_offset IS 'The first offset that is not done yet.';
COMMENT ON COLUMN sentinai.kafka_offset.epoch IS 'Raised by each assignment; a batch with an older one is fenced off.';
COMMENT ON COLUMN sentinai.kafka_offset.updated_at IS 'When a batch last moved it.';
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
COMMENT ON TABLE sentinai.offset_gap IS
	'A position that the log does not have (any more): the partition stands still until offset_reset() mends it.';
COMMENT ON COLUMN sentinai.offset_gap.id IS 'In the order of detection.';
COMMENT ON COLUMN sentinai.offset_gap.group_id IS 'The consumer group.';
COMMENT ON COLUMN sentinai.offset_gap.topic IS 'The topic.';
COMMENT ON COLUMN sentinai.offset_gap.partition IS 'The partition.';
COMMENT ON COLUMN sentinai.offset_gap.next_offset IS 'Where the group wanted to read on.';
COMMENT ON COLUMN sentinai.offset_gap.log_start IS 'The first offset that the broker has.';
COMMENT ON COLUMN sentinai.offset_gap.log_end IS 'The offset behind the broker''s last record.';
COMMENT ON COLUMN sentinai.offset_gap.reason IS 'position_too_old: retention was faster; topic_recreated: the log ends before the position; other_cluster: the cluster id differs; position_invalid: the broker refused it.';
COMMENT ON COLUMN sentinai.offset_gap.detected_at IS 'When it was seen.';
COMMENT ON COLUMN sentinai.offset_gap.resolved_at IS 'When it was mended; NULL: the partition stands still.';
COMMENT ON COLUMN sentinai.offset_gap.resolution IS 'How it was mended.';
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
