-- 25_claim: an identity is handled once. Identity is (tenant_id, event_id, worker_type).

-- Partitions are generations by number, made at run time (the clock decides nothing), each with a unique index on the
-- identity; none on the parent, which would break the restore of a dump.
CREATE TABLE sentinai.event_processing_log (
	generation		integer NOT NULL,
	tenant_id		text COLLATE "C" NOT NULL,
	event_id		text COLLATE "C" NOT NULL,
	worker_type		text COLLATE "C" NOT NULL,
	exception_id	text COLLATE "C",
	event_type		text COLLATE "C",
	status			text COLLATE "C" NOT NULL
					CHECK (status IN ('succeeded', 'retrying', 'parked', 'deferred', 'failed')),
	retry_count		integer NOT NULL DEFAULT 0,
	hash			bigint,
	shadow			boolean NOT NULL DEFAULT false,
	processed_at	timestamptz NOT NULL DEFAULT now(),
	last_attempt_at	timestamptz,
	error_type		text,
	error_message	text
) PARTITION BY LIST (generation);
SELECT pg_catalog.pg_extension_config_dump('sentinai.event_processing_log', '');

-- One row. previous_open is the generation that batches must insert into as well while older batches may still run.
CREATE TABLE sentinai.dedupe_state (
	only_row		boolean PRIMARY KEY DEFAULT true CHECK (only_row),
	newest			integer NOT NULL,
	previous_open	integer,
	state_number	integer NOT NULL,
	rotated_at		timestamptz NOT NULL DEFAULT now()
);
SELECT pg_catalog.pg_extension_config_dump('sentinai.dedupe_state', '');

-- Live generations with the time from which on nothing is added: the window counts from there.
CREATE TABLE sentinai.dedupe_generation (
	generation	integer PRIMARY KEY,
	opened_at	timestamptz NOT NULL DEFAULT now(),
	closed_at	timestamptz
);
SELECT pg_catalog.pg_extension_config_dump('sentinai.dedupe_generation', '');
