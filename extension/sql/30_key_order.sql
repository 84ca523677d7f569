-- 30_key_order: the events of one exception are handled in order, by parking what comes behind an unfinished one.

-- A row means: this key has an unfinished event. Locked by whoever handles the key.
CREATE TABLE sentinai.key_state (
	tenant_id		text COLLATE "C" NOT NULL,
	exception_id	text COLLATE "C" NOT NULL,
	worker_type		text COLLATE "C" NOT NULL,
	topic			text COLLATE "C" NOT NULL,
	partition		integer NOT NULL,
	event_id		text COLLATE "C" NOT NULL,
	dlq_id			bigint,
	blocked_at		timestamptz NOT NULL DEFAULT now(),
	PRIMARY KEY (tenant_id, exception_id, worker_type)
) WITH (fillfactor = 50);
SELECT pg_catalog.pg_extension_config_dump('sentinai.key_state', '');

-- Work that waits in the database: the record as it came, and when to try it. Ids give the order of a key.
CREATE TABLE sentinai.event_pending (
	id				bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	tenant_id		text COLLATE "C" NOT NULL,
	event_id		text COLLATE "C" NOT NULL,
	worker_type		text COLLATE "C" NOT NULL,
	event_type		text COLLATE "C" NOT NULL,
	exception_id	text COLLATE "C",
	status			text COLLATE "C" NOT NULL
					CHECK (status IN ('retrying', 'parked', 'released', 'deferred')),
	topic			text COLLATE "C" NOT NULL,
	partition		integer NOT NULL,
	next_attempt_at	timestamptz NOT NULL,
	retry_count		integer NOT NULL DEFAULT 0,
	first_failed_at	timestamptz,
	error_type		text,
	error_message	text,
	sqlstate		text,
	origin_partition	integer,
	origin_offset	bigint,
	record_ts		timestamptz,
	record_key		bytea,
	record_headers	sentinai.header[],
	record_value	bytea NOT NULL,
	dlq_id			bigint,
	created_at		timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX event_pending_identity ON sentinai.event_pending (tenant_id, event_id, worker_type);
CREATE INDEX event_pending_due ON sentinai.event_pending (worker_type, topic, partition, next_attempt_at, id)
	WHERE status <> 'parked';
CREATE INDEX event_pending_parked ON sentinai.event_pending (tenant_id, exception_id, worker_type, id)
	WHERE exception_id IS NOT NULL;
SELECT pg_catalog.pg_extension_config_dump('sentinai.event_pending', '');
SELECT pg_catalog.pg_extension_config_dump('sentinai.event_pending_id_seq', '');
