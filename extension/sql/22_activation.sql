-- 22_activation: a database is quiet until something of ours is used in it. What is made then, and how partitions are made.

-- Not dumped: the oid counts only in its own database, so that a copy by TEMPLATE or from a dump stays quiet.
CREATE TABLE sentinai.activation (
	database_oid	oid PRIMARY KEY,
	activated_at	timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE sentinai.activation IS
	'A row with this database''s oid makes it active: maintenance runs, pumps may start. Not dumped; a row that was copied from another database does not count.';
COMMENT ON COLUMN sentinai.activation.database_oid IS 'pg_database.oid of the database that was activated.';
COMMENT ON COLUMN sentinai.activation.activated_at IS 'When.';

CREATE FUNCTION sentinai.is_active() RETURNS boolean
	LANGUAGE sql STABLE PARALLEL SAFE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	SELECT EXISTS (
		SELECT FROM sentinai.activation a
		  JOIN pg_catalog.pg_database d ON d.oid = a.database_oid
		 WHERE d.datname = pg_catalog.current_database())
$$;
COMMENT ON FUNCTION sentinai.is_active() IS
	'True once this database has been activated: by activate(), or by the first tenant_add(), assign(), consume() or event_publish().';

-- The one place where a partition is made. By LIKE and ATTACH, which lock the parent so that readers and writers go on;
-- with indexes of its own, since an index on the parent would break the restore of a dump.
CREATE FUNCTION sentinai.partition_make(parent text, name text, bound text, indexes text[]) RETURNS boolean
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
DECLARE
	index_definition	text;
BEGIN
	-- One at a time: SN_LOCK_ACTIVATION.
	PERFORM sentinai.lock_take(2);
	IF pg_catalog.to_regclass(pg_catalog.format('sentinai.%I', name)) IS NOT NULL THEN
		RETURN false;
	END IF;
	EXECUTE pg_catalog.format('CREATE TABLE sentinai.%I (LIKE sentinai.%I INCLUDING ALL EXCLUDING INDEXES)', name, parent);
	FOREACH index_definition IN ARRAY indexes LOOP
		EXECUTE pg_catalog.format(index_definition, name);
	END LOOP;
	EXECUTE pg_catalog.format('COMMENT ON TABLE sentinai.%I IS %L', name, pg_catalog.format('Partition of %s %s.', parent, bound));
	PERFORM sentinai.tenant_security(pg_catalog.format('sentinai.%I', name)::regclass);
	EXECUTE pg_catalog.format('ALTER TABLE sentinai.%I ATTACH PARTITION sentinai.%I %s', parent, name, bound);
	RETURN true;
END
$$;
COMMENT ON FUNCTION sentinai.partition_make(text, text, text, text[]) IS
	'Internal: makes the partition name of sentinai.parent for bound (FOR VALUES ...). indexes: CREATE INDEX statements for format(), %1$I is the partition. Returns whether it was missing. Raises 55P03 within lock_timeout when the parent is locked.';

-- People ask for an event by its id alone, and one column that tells most rows apart is half the comparisons of two.
CREATE FUNCTION sentinai.event_log_partition(day date) RETURNS boolean
	LANGUAGE sql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	SELECT sentinai.partition_make('event_log', 'event_log_p' || pg_catalog.to_char(day, 'YYYYMMDD'),
		pg_catalog.format('FOR VALUES FROM (%L) TO (%L)', day || ' 00:00:00+00', day + 1 || ' 00:00:00+00'),
		ARRAY['CREATE INDEX ON sentinai.%1$I (event_id, tenant_id)',
			  'CREATE INDEX ON sentinai.%1$I (tenant_id, exception_id, "timestamp")'])
$$;
COMMENT ON FUNCTION sentinai.event_log_partition(date) IS
	'Internal: makes the partition of event_log for a day (UTC). Returns whether it was missing.';

CREATE FUNCTION sentinai.activation_complete() RETURNS boolean
	LANGUAGE sql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	SELECT sentinai.is_active()
	   AND EXISTS (SELECT FROM sentinai.dedupe_state s
					WHERE pg_catalog.to_regclass('sentinai.event_processing_log_g' || s.newest) IS NOT NULL)
	   AND EXISTS (SELECT FROM sentinai.outbox_state)
	   AND (SELECT bool_and(pg_catalog.to_regclass('sentinai.event_log_p' || pg_catalog.to_char(day, 'YYYYMMDD')) IS NOT NULL)
			  FROM pg_catalog.generate_series(0, 1) AS n, LATERAL (SELECT (now() AT TIME ZONE 'UTC')::date + n) AS d (day))
$$;
COMMENT ON FUNCTION sentinai.activation_complete() IS
	'Internal: nothing that activation makes is missing.';

CREATE FUNCTION sentinai.activation_make() RETURNS timestamptz
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
DECLARE
	today	date := (now() AT TIME ZONE 'UTC')::date;
BEGIN
	IF NOT sentinai.activation_complete() THEN
		PERFORM sentinai.event_log_partition(today);
		PERFORM sentinai.event_log_partition(today + 1);
		PERFORM sentinai.dedupe_first_generation();
		INSERT INTO sentinai.outbox_state DEFAULT VALUES ON CONFLICT DO NOTHING;
		INSERT INTO sentinai.activation (database_oid)
		SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()
		ON CONFLICT DO NOTHING;
	END IF;
	RETURN (today + 1)::timestamp AT TIME ZONE 'UTC';
END
$$;
COMMENT ON FUNCTION sentinai.activation_make() IS
	'Internal: makes what an active database needs and has not: its row in activation, the partitions of today and tomorrow, the first generation, the row of the outbox. Returns until when that is enough.';

CREATE FUNCTION sentinai.activate() RETURNS void
	LANGUAGE c VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	AS 'MODULE_PATHNAME', 'sn_activate_sql';
COMMENT ON FUNCTION sentinai.activate() IS
	'Makes this database active: maintenance begins after the commit, and sentinai-worker may start. Done by the first tenant_add(), assign(), consume() and event_publish() too; needed by hand after a restore. Does nothing where that is done. Raises 25006 on a standby.';

-- ---- duties of the maintenance worker ----

CREATE FUNCTION sentinai.check_read_committed(function_name text) RETURNS void
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
BEGIN
	IF current_setting('transaction_isolation') <> 'read committed' THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN013',
			MESSAGE = format('%s() needs isolation level READ COMMITTED', function_name),
			DETAIL = 'It decides what may be deleted by what others have committed up to now.';
	END IF;
END
$$;
COMMENT ON FUNCTION sentinai.check_read_committed(text) IS
	'Internal: raises SN013 unless the transaction is READ COMMITTED.';

CREATE FUNCTION sentinai.event_log_partitions() RETURNS text
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	SET lock_timeout = '100ms'
	AS $$
DECLARE
	today	date := (now() AT TIME ZONE 'UTC')::date;
BEGIN
	FOR n IN 0 .. 2 LOOP
		PERFORM sentinai.event_log_partition(today + n);
	END LOOP;
	RETURN NULL;
EXCEPTION WHEN lock_not_available THEN
	RETURN 'a partition of event_log could not be made: the table is locked';
END
$$;
COMMENT ON FUNCTION sentinai.event_log_partitions() IS
	'Duty: makes the partitions of event_log for today and the next two days. Returns NULL, or why it could not.';

CREATE FUNCTION sentinai.event_log_held(name text, from_time timestamptz, to_time timestamptz) RETURNS text[]
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
DECLARE
	held	text[];
BEGIN
	EXECUTE format('SELECT coalesce(array_agg(t ORDER BY t COLLATE "C"), ''{}'') FROM unnest($1) t'
				   ' WHERE EXISTS (SELECT FROM sentinai.%I e WHERE e.tenant_id = t)', name)
	   INTO held USING sentinai.legal_hold_tenants(from_time, to_time);
	RETURN held;
END
$$;
COMMENT ON FUNCTION sentinai.event_log_held(text, timestamptz, timestamptz) IS
	'Internal: the tenants with a legal hold on that time that have rows in a partition of event_log, in order.';

-- Between the tenants that are held the index shows what there is without a look at their rows.
CREATE FUNCTION sentinai.event_log_thin(name text, held text[]) RETURNS bigint
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
DECLARE
	deleted	bigint;
BEGIN
	EXECUTE format('DELETE FROM sentinai.%1$I WHERE ctid = ANY (ARRAY('
				   'SELECT e.ctid FROM unnest(ARRAY['''']::text[] || $1, $1 || ARRAY[''~'']) AS gap (lower, upper),'
				   ' LATERAL (SELECT p.ctid FROM sentinai.%1$I p WHERE p.tenant_id > gap.lower COLLATE "C" AND p.tenant_id < gap.upper COLLATE "C" LIMIT 100000) e'
				   ' LIMIT 100000))', name) USING held;
	GET DIAGNOSTICS deleted = ROW_COUNT;
	RETURN deleted;
END
$$;
COMMENT ON FUNCTION sentinai.event_log_thin(text, text[]) IS
	'Internal: deletes up to 100000 rows of a partition of event_log that are of other tenants than these, which are in order. Returns how many.';

-- Emptying locks the partition alone, dropping locks the parent too: at most one drop a call, and it comes last.
CREATE FUNCTION sentinai.event_log_retain() RETURNS text
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	SET lock_timeout = '100ms'
	AS $$
DECLARE
	keep_from	timestamptz := now() - pg_catalog.current_setting('sentinai.event_retention')::interval;
	old			record;
	to_drop		text;
	filled		boolean;
	held		text[];
	failed		text;
BEGIN
	FOR old IN
		SELECT c.relname, d.day::timestamp AT TIME ZONE 'UTC' AS begins, (d.day + 1)::timestamp AT TIME ZONE 'UTC' AS ends
		  FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid,
			   LATERAL (SELECT pg_catalog.to_date(pg_catalog.right(c.relname, 8), 'YYYYMMDD')) AS d (day)
		 WHERE i.inhparent = 'sentinai.event_log'::pg_catalog.regclass
		   AND c.relname ~ '^event_log_p\d{8}$'
		   AND (d.day + 1)::timestamp AT TIME ZONE 'UTC' <= keep_from
		 ORDER BY c.relname
	LOOP
		EXECUTE pg_catalog.format('SELECT EXISTS (SELECT FROM sentinai.%I)', old.relname) INTO filled;
		IF NOT filled THEN
			to_drop := coalesce(to_drop, old.relname);
			CONTINUE;
		ELSIF NOT sentinai.legal_hold_lock() THEN
			failed := 'a legal hold is being placed: what is old waits for it';
			EXIT;
		END IF;
		held := sentinai.event_log_held(old.relname, old.begins, old.ends);
		IF held <> '{}' THEN
			PERFORM sentinai.event_log_thin(old.relname, held);
			CONTINUE;
		END IF;
		BEGIN
			EXECUTE pg_catalog.format('TRUNCATE sentinai.%I', old.relname);
		EXCEPTION WHEN lock_not_available THEN
			failed := pg_catalog.format('partition %s could not be emptied: it is locked', old.relname);
		END;
	END LOOP;
	IF to_drop IS NOT NULL THEN
		BEGIN
			EXECUTE pg_catalog.format('DROP TABLE sentinai.%I', to_drop);
		EXCEPTION WHEN lock_not_available THEN
			failed := pg_catalog.format('partition %s could not be dropped: event_log is locked', to_drop);
		END;
	END IF;
	RETURN failed;
END
$$;
COMMENT ON FUNCTION sentinai.event_log_retain() IS
	'Duty: empties the partitions of event_log that are older than sentinai.event_retention, and drops one empty one a call. Of one that a legal hold touches it keeps that tenant''s rows. Returns NULL, or why it could not.';

CREATE FUNCTION sentinai.maintenance_status()
	RETURNS TABLE (duty text, worker_pid integer, last_run_at timestamptz, failing_since timestamptz, message text)
	LANGUAGE c VOLATILE
	AS 'MODULE_PATHNAME', 'sn_maintenance_status';
COMMENT ON FUNCTION sentinai.maintenance_status() IS
	'The duties of this database''s maintenance worker: when each ran last, since when it cannot do its work and why. worker_pid NULL: no worker runs now.';
