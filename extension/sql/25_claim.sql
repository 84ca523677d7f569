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
COMMENT ON TABLE sentinai.event_processing_log IS
	'Each event that a worker type has taken on, and how it went: the claims. A row makes a later event of the same identity a duplicate. Partitions are generations, made and dropped by maintenance.';
COMMENT ON COLUMN sentinai.event_processing_log.generation IS 'The partition.';
COMMENT ON COLUMN sentinai.event_processing_log.tenant_id IS 'First part of the identity.';
COMMENT ON COLUMN sentinai.event_processing_log.event_id IS 'Second part of the identity.';
COMMENT ON COLUMN sentinai.event_processing_log.worker_type IS 'Third part of the identity.';
COMMENT ON COLUMN sentinai.event_processing_log.exception_id IS 'The exception that the event belongs to.';
COMMENT ON COLUMN sentinai.event_processing_log.event_type IS 'The event type.';
COMMENT ON COLUMN sentinai.event_processing_log.status IS 'succeeded; retrying: will be tried again; parked: waits behind an unfinished event of its exception; deferred: waits for its tenant, for a circuit, or for its place in its tenant''s queue; failed: is a dead letter.';
COMMENT ON COLUMN sentinai.event_processing_log.retry_count IS 'Automatic retries so far.';
COMMENT ON COLUMN sentinai.event_processing_log.hash IS 'Of the type and the payload: another event under the same identity is told from a duplicate.';
COMMENT ON COLUMN sentinai.event_processing_log.shadow IS 'A second row of the same claim, for batches that look at another generation only.';
COMMENT ON COLUMN sentinai.event_processing_log.processed_at IS 'When its status was written: claimed, or ended since.';
COMMENT ON COLUMN sentinai.event_processing_log.last_attempt_at IS 'When it was handled last; NULL: at processed_at.';
COMMENT ON COLUMN sentinai.event_processing_log.error_type IS 'Of the last failure.';
COMMENT ON COLUMN sentinai.event_processing_log.error_message IS 'Of the last failure.';
SELECT pg_catalog.pg_extension_config_dump('sentinai.event_processing_log', '');

-- One row. previous_open is the generation that batches must insert into as well while older batches may still run.
CREATE TABLE sentinai.dedupe_state (
	only_row		boolean PRIMARY KEY DEFAULT true CHECK (only_row),
	newest			integer NOT NULL,
	previous_open	integer,
	state_number	integer NOT NULL,
	rotated_at		timestamptz NOT NULL DEFAULT now(),
	forgotten_at	timestamptz
);
COMMENT ON TABLE sentinai.dedupe_state IS
	'One row: which generations of event_processing_log take new claims.';
COMMENT ON COLUMN sentinai.dedupe_state.only_row IS 'Keeps the table at one row.';
COMMENT ON COLUMN sentinai.dedupe_state.newest IS 'Claims go into this generation.';
COMMENT ON COLUMN sentinai.dedupe_state.previous_open IS 'And into this one, while batches that began before the rotation may still run.';
COMMENT ON COLUMN sentinai.dedupe_state.state_number IS 'Raised with each change; running batches hold a lock with it.';
COMMENT ON COLUMN sentinai.dedupe_state.rotated_at IS 'When newest was opened.';
COMMENT ON COLUMN sentinai.dedupe_state.forgotten_at IS 'When a generation was forgotten last: claims that were settled before may be gone.';
SELECT pg_catalog.pg_extension_config_dump('sentinai.dedupe_state', '');

-- Live generations with the time from which on nothing is added: the window counts from there.
CREATE TABLE sentinai.dedupe_generation (
	generation	integer PRIMARY KEY,
	opened_at	timestamptz NOT NULL DEFAULT now(),
	closed_at	timestamptz,
	shadow_state	integer		-- batches up to this state_number may still add copies; 26_generation deletes those later
);
COMMENT ON COLUMN sentinai.dedupe_generation.shadow_state IS
	'Batches up to this state_number may still add copies of claims; NULL: the copies are gone.';
COMMENT ON TABLE sentinai.dedupe_generation IS
	'The generations of event_processing_log that exist.';
COMMENT ON COLUMN sentinai.dedupe_generation.generation IS 'Its number.';
COMMENT ON COLUMN sentinai.dedupe_generation.opened_at IS 'From when on claims went into it.';
COMMENT ON COLUMN sentinai.dedupe_generation.closed_at IS 'From when on none did: the dedupe window counts from here.';
SELECT pg_catalog.pg_extension_config_dump('sentinai.dedupe_generation', '');
