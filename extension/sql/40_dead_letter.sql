-- 40_dead_letter: what could not be handled, whole, until somebody decides.

CREATE TABLE sentinai.dead_letter_queue (
	id				bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	event_id		text COLLATE "C",
	event_type		text COLLATE "C",
	tenant_id		text COLLATE "C" NOT NULL,
	exception_id	text COLLATE "C",
	worker_type		text COLLATE "C" NOT NULL,
	step			text COLLATE "C" NOT NULL CHECK (step IN ('screen', 'handle')),
	status			text COLLATE "C" NOT NULL DEFAULT 'pending'
					CHECK (status IN ('pending', 'retrying', 'succeeded', 'discarded')),
	error_type		text COLLATE "C" NOT NULL,
	error_message	text NOT NULL,
	error_detail	text,
	sqlstate		text,
	fingerprint		text COLLATE "C" NOT NULL,
	retry_count		integer NOT NULL DEFAULT 0,
	original_topic	text COLLATE "C" NOT NULL,
	original_partition	integer,
	original_offset	bigint,
	payload			jsonb,
	event_metadata	jsonb,
	event_timestamp	timestamptz,
	record_ts		timestamptz,
	payload_raw		bytea,
	record_key		bytea,
	record_headers	sentinai.header[],
	retry_token		uuid,
	reassigned		boolean NOT NULL DEFAULT false,
	created_at		timestamptz NOT NULL DEFAULT now(),
	updated_at		timestamptz NOT NULL DEFAULT now(),
	retried_at		timestamptz,
	discarded_at	timestamptz,
	discarded_by	text
);
CREATE INDEX dead_letter_queue_tenant ON sentinai.dead_letter_queue (tenant_id, status, created_at, id);
CREATE INDEX dead_letter_queue_event ON sentinai.dead_letter_queue (tenant_id, event_id, worker_type);
CREATE INDEX dead_letter_queue_retrying ON sentinai.dead_letter_queue (id) WHERE status = 'retrying';
SELECT pg_catalog.pg_extension_config_dump('sentinai.dead_letter_queue', '');
SELECT pg_catalog.pg_extension_config_dump('sentinai.dead_letter_queue_id_seq', '');

-- Every step of a dead letter's life, kept after the dead letter is gone: no foreign key refers to it.
CREATE TABLE sentinai.dlq_history (
	id				bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	dlq_id			bigint NOT NULL,
	tenant_id		text COLLATE "C" NOT NULL,
	action			text NOT NULL,
	from_status		text,
	to_status		text,
	token			uuid,
	reason			text,
	actor			text,
	authenticated	text NOT NULL DEFAULT session_user,
	details			jsonb,
	created_at		timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX dlq_history_dlq ON sentinai.dlq_history (dlq_id, id);
CREATE INDEX dlq_history_token ON sentinai.dlq_history (token) WHERE token IS NOT NULL;
SELECT pg_catalog.pg_extension_config_dump('sentinai.dlq_history', '');
SELECT pg_catalog.pg_extension_config_dump('sentinai.dlq_history_id_seq', '');

-- Where a retry's record lies in Kafka: written by the publisher with its watermark.
CREATE TABLE sentinai.dlq_receipt (
	dlq_id			bigint NOT NULL,
	token			uuid PRIMARY KEY,
	topic			text COLLATE "C" NOT NULL,
	partition		integer NOT NULL,
	kafka_offset	bigint NOT NULL,
	created_at		timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX dlq_receipt_dlq ON sentinai.dlq_receipt (dlq_id);
SELECT pg_catalog.pg_extension_config_dump('sentinai.dlq_receipt', '');
