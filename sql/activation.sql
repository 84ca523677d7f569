-- Activation: what makes a database active, what is made then, and who finds it so afterwards. In a database of its own.

CREATE DATABASE regress_activation TEMPLATE template0 ENCODING 'UTF8';
\set SHOW_CONTEXT never
\c regress_activation
SET client_min_messages = warning;
CREATE EXTENSION sentinai;
SET search_path = sentinai, public;

CREATE FUNCTION pg_temp.partitions(parent regclass) RETURNS SETOF text LANGUAGE sql AS $$
	SELECT regexp_replace(c.relname, 'p\d{8}$', 'p' ||
			CASE right(c.relname, 8)
				WHEN to_char(now() AT TIME ZONE 'UTC', 'YYYYMMDD') THEN 'TODAY'
				WHEN to_char(now() AT TIME ZONE 'UTC' + interval '1 day', 'YYYYMMDD') THEN 'TOMORROW'
				ELSE 'LATER' END)
	  FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = parent ORDER BY c.relname
$$;

-- The script makes nothing of it, and looking does not activate.
SELECT is_active();
SELECT count(*) FROM pg_temp.partitions('event_log');
SELECT count(*) FROM pg_temp.partitions('event_processing_log');
SELECT count(*) FROM dedupe_status();
SELECT health()->'active' AS active, health()->'status' AS status;

-- Nothing is left of an activation that is rolled back, with its transaction or its savepoint.
BEGIN;
SELECT activate();
SELECT is_active();
ROLLBACK;
SELECT is_active();
BEGIN;
SAVEPOINT s;
SELECT activate();
ROLLBACK TO s;
COMMIT;
SELECT is_active();
SELECT count(*) FROM pg_temp.partitions('event_log');

-- Kept savepoints keep it.
BEGIN;
SAVEPOINT s;
SELECT activate();
RELEASE s;
COMMIT;
SELECT is_active();

-- Today and tomorrow, and the first generation. (Maintenance makes a later day when it comes to it.)
SELECT * FROM pg_temp.partitions('event_log') AS p WHERE p NOT LIKE '%LATER';
SELECT * FROM pg_temp.partitions('event_processing_log');
SELECT generation, role, closed_at FROM dedupe_status();
SELECT newest, previous_open, state_number FROM dedupe_state;
SELECT current FROM outbox_state;

-- Partitions have indexes of their own, parents have none.
SELECT indexdef ~ 'UNIQUE' AS is_unique, regexp_replace(indexdef, '.*USING ', '') AS index
  FROM pg_indexes WHERE schemaname = 'sentinai' AND tablename = 'event_processing_log_g1' ORDER BY 2;
SELECT regexp_replace(indexdef, '.*USING ', '') AS index
  FROM pg_indexes
 WHERE schemaname = 'sentinai' AND tablename = 'event_log_p' || to_char(now() AT TIME ZONE 'UTC', 'YYYYMMDD') ORDER BY 1;
SELECT count(*) FROM pg_indexes WHERE schemaname = 'sentinai' AND tablename IN ('event_log', 'event_processing_log');

-- Again: nothing changes.
SELECT activated_at FROM activation \gset
SELECT activate();
SELECT count(*), bool_and(activated_at = :'activated_at') AS same FROM activation;

-- The launcher has heard of it: its worker comes.
CREATE FUNCTION pg_temp.wait_for(query text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
	done	boolean;
BEGIN
	FOR i IN 1 .. 6000 LOOP
		EXECUTE query INTO done;
		EXIT WHEN done;
		PERFORM pg_sleep(0.01);
	END LOOP;
	RETURN done;
END
$$;
SELECT pg_temp.wait_for('SELECT bool_and(worker_pid IS NOT NULL AND last_run_at IS NOT NULL) FROM sentinai.maintenance_status()');
SELECT duty, message FROM maintenance_status() WHERE failing_since IS NOT NULL;
SELECT health()->'problems' AS problems;
SELECT * FROM pg_temp.partitions('event_log');

-- A missing partition of today is mended by a new session's first call (here: \c).
DO $$ BEGIN EXECUTE format('DROP TABLE sentinai.event_log_p%s', to_char(now() AT TIME ZONE 'UTC', 'YYYYMMDD')); END $$;
\c
SET search_path = sentinai, public;
SELECT activate();
SELECT count(*) FROM pg_class WHERE relname = 'event_log_p' || to_char(now() AT TIME ZONE 'UTC', 'YYYYMMDD');

-- A copy is quiet: the row that came along has the other database's oid.
\c postgres
CREATE DATABASE regress_activation_copy TEMPLATE regress_activation;
\c regress_activation_copy
SELECT sentinai.is_active(), count(*) FROM sentinai.activation;

-- Retention: what is older than sentinai.event_retention is emptied, then dropped, one a call.
-- (No maintenance here yet to do the same.)
SET timezone = 'UTC';
SELECT sentinai.event_log_partition('2020-01-01'), sentinai.event_log_partition('2020-01-02');
INSERT INTO sentinai.event_log (tenant_id, event_id, event_type, "timestamp", payload, version, created_at)
SELECT 'T', 'E' || n, 'X', now(), '{}', 1, '2020-01-01 12:00:00+00'::timestamptz + n * interval '1 day' FROM generate_series(0, 1) n;
SELECT count(*) FROM sentinai.event_log;
SELECT sentinai.event_log_retain();
SELECT count(*) FROM sentinai.event_log;
SELECT count(*) FROM pg_class WHERE relname ~ '^event_log_p2020\d{4}$';
SELECT sentinai.event_log_retain();
SELECT count(*) FROM pg_class WHERE relname ~ '^event_log_p2020\d{4}$';
SELECT sentinai.event_log_retain();
SELECT count(*) FROM pg_class WHERE relname ~ '^event_log_p2020\d{4}$';

-- It can be activated on its own.
SELECT sentinai.activate();
SELECT sentinai.is_active(), count(*) FROM sentinai.activation;

-- Where the extension is created anew, nothing is remembered of the old one.
SET client_min_messages = warning;
DROP EXTENSION sentinai CASCADE;
SELECT count(*) FROM pg_class c WHERE c.relnamespace = 'sentinai'::regnamespace;
CREATE EXTENSION sentinai;
SELECT sentinai.is_active();
SELECT sentinai.activate();
SELECT sentinai.is_active();

-- Neither name nor existence is held back by the worker.
\c postgres
ALTER DATABASE regress_activation_copy RENAME TO regress_activation_renamed;
DROP DATABASE regress_activation_renamed;
DROP DATABASE regress_activation;
