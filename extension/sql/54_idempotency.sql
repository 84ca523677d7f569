-- 54_idempotency: what must not happen twice, though its caller asks twice.
--
-- A key is a row. In one transaction, the row that idempotency_begin() inserts is the lock: whoever comes with the same
-- key waits for it in the unique index, and then finds the answer, or nothing and goes on as the first. Such a row is
-- never seen by others before it is done: a constraint trigger refuses to commit it earlier.
--
-- With a lease the row is committed while its work goes on elsewhere. Then lease_until and token stand for the lock.

CREATE TABLE sentinai.idempotency_key (
	tenant_id		text COLLATE "C" NOT NULL,
	scope			text COLLATE "C" NOT NULL,
	key				text COLLATE "C" NOT NULL,
	request_hash	bytea NOT NULL,
	status			text NOT NULL DEFAULT 'running' CHECK (status IN ('running', 'done')),
	attempts		integer NOT NULL DEFAULT 1,
	token			uuid,
	lease_until		timestamptz,
	response		jsonb,
	created_at		timestamptz NOT NULL DEFAULT clock_timestamp(),
	updated_at		timestamptz NOT NULL DEFAULT clock_timestamp(),
	PRIMARY KEY (tenant_id, scope, key),
	CHECK ((status = 'done') = (response IS NOT NULL)),
	CHECK ((token IS NULL) = (lease_until IS NULL))
) WITH (fillfactor = 70);
CREATE INDEX idempotency_key_updated ON sentinai.idempotency_key (updated_at);
COMMENT ON TABLE sentinai.idempotency_key IS
	'What was asked for under a key, and its answer. Deleted by the maintenance worker sentinai.idempotency_retention after updated_at, unless a lease runs.';
COMMENT ON COLUMN sentinai.idempotency_key.tenant_id IS 'Whose key it is; another tenant''s key of the same name is another one.';
COMMENT ON COLUMN sentinai.idempotency_key.scope IS 'What the key is for, such as payment_create; keys of two scopes never meet.';
COMMENT ON COLUMN sentinai.idempotency_key.key IS 'As the caller chose it, 1 to 255 bytes.';
COMMENT ON COLUMN sentinai.idempotency_key.request_hash IS 'SHA-256 of the request''s jsonb as text: the same key with another request is an error.';
COMMENT ON COLUMN sentinai.idempotency_key.status IS 'running: begun, under a lease; done: response has the answer.';
COMMENT ON COLUMN sentinai.idempotency_key.attempts IS 'How often the work was begun: 1, and 1 more for each lease that was taken over.';
COMMENT ON COLUMN sentinai.idempotency_key.token IS 'Of the lease that the work was last begun with; only who has it completes. NULL: begun and done in one transaction.';
COMMENT ON COLUMN sentinai.idempotency_key.lease_until IS 'From then on another caller may take the work over.';
COMMENT ON COLUMN sentinai.idempotency_key.response IS 'The answer, given to whoever asks again.';
COMMENT ON COLUMN sentinai.idempotency_key.created_at IS 'When the key was first used.';
COMMENT ON COLUMN sentinai.idempotency_key.updated_at IS 'When the work was last begun, renewed or, under a lease, completed.';
SELECT pg_catalog.pg_extension_config_dump('sentinai.idempotency_key', '');

CREATE FUNCTION sentinai.idempotency_check_completed() RETURNS trigger
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
BEGIN
	IF EXISTS (SELECT FROM sentinai.idempotency_key k
				WHERE (k.tenant_id, k.scope, k.key) = (NEW.tenant_id, NEW.scope, NEW.key)
				  AND k.status = 'running' AND k.lease_until IS NULL) THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN063',
			MESSAGE = format('idempotency key "%s" was begun and not completed', NEW.key),
			DETAIL = format('The tenant is %s, the scope %s.', NEW.tenant_id, NEW.scope),
			HINT = 'Call idempotency_complete() or idempotency_abandon() in the transaction that began, or begin with a lease.';
	END IF;
	RETURN NULL;
END
$$;
COMMENT ON FUNCTION sentinai.idempotency_check_completed() IS
	'Internal: a transaction that has begun a key without a lease can''t commit before it is completed. Raises SN063.';

CREATE CONSTRAINT TRIGGER idempotency_completed AFTER INSERT OR UPDATE ON sentinai.idempotency_key
	DEFERRABLE INITIALLY DEFERRED
	FOR EACH ROW WHEN (NEW.status = 'running' AND NEW.lease_until IS NULL)
	EXECUTE FUNCTION sentinai.idempotency_check_completed();

-- ---- what all calls refuse ----

CREATE FUNCTION sentinai.idempotency_check_key(scope text, key text) RETURNS void
	LANGUAGE plpgsql IMMUTABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
BEGIN
	IF scope IS NULL OR scope !~ '^[A-Za-z0-9_.-]{1,64}$' THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN001',
			MESSAGE = format('scope %s is not valid', coalesce(quote_literal(left(scope, 100)), 'NULL')),
			HINT = 'A scope has 1 to 64 characters, each one a letter, a digit, "_", "." or "-".';
	ELSIF key IS NULL OR octet_length(key) NOT BETWEEN 1 AND 255 THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN001',
			MESSAGE = 'idempotency key is not valid',
			DETAIL = coalesce(format('It has %s bytes.', octet_length(key)), 'It is NULL.'),
			HINT = 'A key has 1 to 255 bytes; a UUID is a good one.';
	END IF;
END
$$;
COMMENT ON FUNCTION sentinai.idempotency_check_key(text, text) IS 'Internal: raises SN001 where scope or key can''t be one.';

CREATE FUNCTION sentinai.idempotency_check_lease(lease interval) RETURNS void
	LANGUAGE plpgsql IMMUTABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
BEGIN
	IF lease IS NULL OR lease NOT BETWEEN '1 ms' AND '7 days' THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN001',
			MESSAGE = format('lease %s is not valid', coalesce(lease::text, 'NULL')),
			HINT = 'A lease lasts from 1 ms to 7 days: longer than the work takes at worst, or renewed by idempotency_renew().';
	END IF;
END
$$;
COMMENT ON FUNCTION sentinai.idempotency_check_lease(interval) IS 'Internal: raises SN001 where a lease can''t be that long.';

CREATE FUNCTION sentinai.idempotency_check_begin(tenant_id text, scope text, key text, request jsonb, wait boolean, lease interval)
	RETURNS void
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
BEGIN
	PERFORM sentinai.tenant_check($1), sentinai.idempotency_check_key($2, $3);
	IF lease IS NOT NULL THEN
		PERFORM sentinai.idempotency_check_lease(lease);
	END IF;
	IF request IS NULL OR wait IS NULL THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN001',
			MESSAGE = format('%s of idempotency_begin() is NULL', CASE WHEN request IS NULL THEN 'request' ELSE 'wait' END),
			HINT = 'Where a request has no arguments it is ''{}''.';
	ELSIF NOT EXISTS (SELECT FROM sentinai.tenant t WHERE t.tenant_id = $1 AND t.status <> 'archived') THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN004',
			MESSAGE = format('tenant %s does not exist, or is archived', coalesce(quote_ident(left($1, 100)), 'NULL')),
			HINT = 'SELECT * FROM sentinai.tenant_list() shows all tenants; sentinai.tenant_add() adds one.';
	END IF;
END
$$;
COMMENT ON FUNCTION sentinai.idempotency_check_begin(text, text, text, jsonb, boolean, interval) IS
	'Internal: raises 42501, SN001 or SN004 where idempotency_begin() can''t take its arguments.';

-- ---- begin ----

-- One look at a key. The insert waits for a transaction that has the same key and hasn't ended. Round again where the row
-- that it met has changed or gone since.
CREATE FUNCTION sentinai.idempotency_take(
	tenant_id text, scope text, key text, request_hash bytea, lease interval,
	OUT state text, OUT response jsonb, OUT token uuid)
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
#variable_conflict use_column
DECLARE
	k			sentinai.idempotency_key;
	new_token	uuid := CASE WHEN lease IS NOT NULL THEN gen_random_uuid() END;
	clock		timestamptz;
BEGIN
	LOOP
		clock := sentinai.usage_clock();
		INSERT INTO sentinai.idempotency_key (tenant_id, scope, key, request_hash, token, lease_until, created_at, updated_at)
		VALUES ($1, $2, $3, $4, new_token, clock + lease, clock, clock)
		ON CONFLICT DO NOTHING;
		IF FOUND THEN
			state := 'new';
			token := new_token;
			RETURN;
		END IF;

		SELECT * INTO k FROM sentinai.idempotency_key i WHERE (i.tenant_id, i.scope, i.key) = ($1, $2, $3);
		CONTINUE WHEN NOT FOUND;
		IF k.request_hash <> $4 THEN
			RAISE EXCEPTION USING
				ERRCODE = 'SN061',
				MESSAGE = format('idempotency key "%s" was used for another request', $3),
				DETAIL = format('The tenant is %s, the scope %s; it was first used at %s.', $1, $2, k.created_at),
				HINT = 'A new request needs a new key; a repeated one must be the same in every field.';
		ELSIF k.status = 'done' THEN
			state := 'done';
			response := k.response;
			RETURN;
		ELSIF k.lease_until IS NULL THEN
			RAISE EXCEPTION USING
				ERRCODE = 'SN060',
				MESSAGE = format('idempotency key "%s" is in flight', $3),
				DETAIL = 'It was begun by this very transaction.',
				HINT = 'Call idempotency_complete() before you begin with the same key again.';
		ELSIF k.lease_until > sentinai.usage_clock() THEN
			RAISE EXCEPTION USING
				ERRCODE = 'SN060',
				MESSAGE = format('idempotency key "%s" is in flight', $3),
				DETAIL = format('Attempt %s has a lease until %s.', k.attempts, k.lease_until),
				HINT = 'Ask again with the same key and request: after the work is done you get its answer, after the lease you may take it over.';
		END IF;

		UPDATE sentinai.idempotency_key i
		   SET token = new_token, lease_until = sentinai.usage_clock() + lease, attempts = i.attempts + 1, updated_at = sentinai.usage_clock()
		 WHERE (i.tenant_id, i.scope, i.key) = ($1, $2, $3) AND i.status = 'running' AND i.token = k.token
		   AND i.lease_until <= sentinai.usage_clock();
		IF FOUND THEN
			state := 'taken_over';
			token := new_token;
			RETURN;
		END IF;
	END LOOP;
END
$$;
COMMENT ON FUNCTION sentinai.idempotency_take(text, text, text, bytea, interval) IS
	'Internal: idempotency_begin() with arguments that were checked; waits for whoever holds the key.';

CREATE FUNCTION sentinai.idempotency_take_nowait(
	tenant_id text, scope text, key text, request_hash bytea, lease interval,
	OUT state text, OUT response jsonb, OUT token uuid)
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	SET lock_timeout = '10ms'
	AS $$
BEGIN
	SELECT t.* INTO state, response, token FROM sentinai.idempotency_take($1, $2, $3, $4, $5) t;
EXCEPTION WHEN lock_not_available THEN
	RAISE EXCEPTION USING
		ERRCODE = 'SN060',
		MESSAGE = format('idempotency key "%s" is in flight', $3),
		DETAIL = 'Another transaction has begun it and is not over.',
		HINT = 'Ask again with the same key and request: after the work is done you get its answer.';
END
$$;
COMMENT ON FUNCTION sentinai.idempotency_take_nowait(text, text, text, bytea, interval) IS
	'Internal: idempotency_take() that raises SN060 where it would wait. Takes a subtransaction.';

CREATE FUNCTION sentinai.idempotency_begin(
	tenant_id text, scope text, key text, request jsonb, wait boolean DEFAULT true, lease interval DEFAULT NULL,
	OUT state text, OUT response jsonb, OUT token uuid)
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
DECLARE
	request_hash	bytea := sha256(convert_to(request::text, 'UTF8'));
BEGIN
	PERFORM sentinai.idempotency_check_begin($1, $2, $3, $4, $5, $6);
	IF wait THEN
		SELECT t.* INTO state, response, token FROM sentinai.idempotency_take($1, $2, $3, request_hash, $6) t;
	ELSE
		SELECT t.* INTO state, response, token FROM sentinai.idempotency_take_nowait($1, $2, $3, request_hash, $6) t;
	END IF;
END
$$;
COMMENT ON FUNCTION sentinai.idempotency_begin(text, text, text, jsonb, boolean, interval) IS
	'Asks for the right to do what a key stands for. state: new (do it, then idempotency_complete), done (don''t: response is the answer of who did), taken_over (do it, and look what an earlier attempt whose lease ran out may have left). scope: 1 to 64 letters, digits, _ . -; key: 1 to 255 bytes; request: what was asked for, of which a hash is kept; wait: whether to wait for another transaction that has begun the key. lease NULL: begin, work and complete are one transaction, and a rollback leaves nothing. lease 1 ms to 7 days: commit after begin, work outside of the database, complete with the token. Errors: 42501, SN001, SN004, SN060 (in flight: under another''s lease, or wait is false), SN061 (another request under this key), 40001 (REPEATABLE READ, and the key is newer than the snapshot).';

-- ---- what ends it ----

-- Says why a key is not the caller's to end.
CREATE FUNCTION sentinai.idempotency_refuse(tenant_id text, scope text, key text, token uuid) RETURNS void
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
DECLARE
	k	sentinai.idempotency_key;
BEGIN
	SELECT * INTO k FROM sentinai.idempotency_key i WHERE (i.tenant_id, i.scope, i.key) = ($1, $2, $3);
	IF token IS NOT NULL AND token IS DISTINCT FROM k.token THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN062',
			MESSAGE = format('the lease on idempotency key "%s" is lost', $3),
			DETAIL = CASE WHEN k.key IS NULL THEN 'There is no such key any more.'
						  ELSE format('Attempt %s is %s under another token.', k.attempts, k.status) END,
			HINT = 'Another caller has taken the work over: undo what this one did, or leave it to idempotency keys of the service that was called.';
	ELSIF k.key IS NULL THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN011',
			MESSAGE = format('idempotency key "%s" was not begun', $3),
			DETAIL = format('The tenant is %s, the scope %s.', $1, $2),
			HINT = 'Call idempotency_begin() first, in the same transaction.';
	ELSE
		RAISE EXCEPTION USING
			ERRCODE = 'SN010',
			MESSAGE = format(CASE k.status WHEN 'done' THEN 'idempotency key "%s" is done already'
										   ELSE 'token of idempotency key "%s" is missing' END, $3),
			HINT = CASE k.status WHEN 'done' THEN 'When idempotency_begin() answers done, nothing is left to do.'
								 ELSE 'Give the token that idempotency_begin() returned.' END;
	END IF;
END
$$;
COMMENT ON FUNCTION sentinai.idempotency_refuse(text, text, text, uuid) IS
	'Internal: raises SN010, SN011 or SN062, whichever says why the caller can''t end the key.';

CREATE FUNCTION sentinai.idempotency_complete(tenant_id text, scope text, key text, response jsonb, token uuid DEFAULT NULL)
	RETURNS jsonb
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
#variable_conflict use_column
DECLARE
	stored	jsonb;
BEGIN
	PERFORM sentinai.tenant_check($1), sentinai.idempotency_check_key($2, $3);
	IF $4 IS NULL OR octet_length($4::text) > 1024 * 1024 THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN001',
			MESSAGE = CASE WHEN $4 IS NULL THEN 'response of idempotency_complete() is NULL'
										   ELSE 'response of idempotency_complete() is too large' END,
			DETAIL = format('It has %s bytes as text.', coalesce(octet_length($4::text), 0)),
			HINT = 'It is at most 1 MiB of JSON, which may be ''null''; what is larger belongs into a table, and its id into the response.';
	END IF;
	UPDATE sentinai.idempotency_key i
	   SET status = 'done', response = $4, updated_at = CASE WHEN i.token IS NULL THEN i.updated_at ELSE sentinai.usage_clock() END
	 WHERE (i.tenant_id, i.scope, i.key) = ($1, $2, $3) AND i.status = 'running' AND i.token IS NOT DISTINCT FROM $5;
	IF FOUND THEN
		RETURN $4;
	END IF;
	-- Who doesn't know whether an earlier call came through may repeat it.
	SELECT i.response INTO stored FROM sentinai.idempotency_key i
	 WHERE (i.tenant_id, i.scope, i.key) = ($1, $2, $3) AND i.status = 'done' AND i.token = $5;
	IF NOT FOUND THEN
		PERFORM sentinai.idempotency_refuse($1, $2, $3, $5);
	END IF;
	RETURN stored;
END
$$;
COMMENT ON FUNCTION sentinai.idempotency_complete(text, text, text, jsonb, uuid) IS
	'Keeps the answer of the work that idempotency_begin() gave to the caller, and returns what is kept. response: up to 1 MiB. token: of the lease; with NULL, in the transaction that began. A lease that has run out still completes as long as nobody took it over, and a repeated call with the same token returns the first answer. Errors: 42501, SN001, SN010 (done already), SN011 (not begun), SN062 (lease lost).';

CREATE FUNCTION sentinai.idempotency_renew(tenant_id text, scope text, key text, token uuid, lease interval) RETURNS timestamptz
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
#variable_conflict use_column
DECLARE
	ends	timestamptz;
BEGIN
	PERFORM sentinai.tenant_check($1), sentinai.idempotency_check_key($2, $3), sentinai.idempotency_check_lease($5);
	UPDATE sentinai.idempotency_key i SET lease_until = sentinai.usage_clock() + $5, updated_at = sentinai.usage_clock()
	 WHERE (i.tenant_id, i.scope, i.key) = ($1, $2, $3) AND i.status = 'running' AND i.token = $4
	RETURNING i.lease_until INTO ends;
	IF NOT FOUND THEN
		PERFORM sentinai.idempotency_refuse($1, $2, $3, $4);
	END IF;
	RETURN ends;
END
$$;
COMMENT ON FUNCTION sentinai.idempotency_renew(text, text, text, uuid, interval) IS
	'Lets a lease last for another while from now on, and returns its end; one that has run out too, unless somebody took it over. Errors: 42501, SN001, SN010, SN011 (no token), SN062 (lease lost).';

CREATE FUNCTION sentinai.idempotency_abandon(tenant_id text, scope text, key text, token uuid DEFAULT NULL) RETURNS void
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
#variable_conflict use_column
BEGIN
	PERFORM sentinai.tenant_check($1), sentinai.idempotency_check_key($2, $3);
	DELETE FROM sentinai.idempotency_key i
	 WHERE (i.tenant_id, i.scope, i.key) = ($1, $2, $3) AND i.status = 'running' AND i.token IS NOT DISTINCT FROM $4;
	IF NOT FOUND THEN
		PERFORM sentinai.idempotency_refuse($1, $2, $3, $4);
	END IF;
END
$$;
COMMENT ON FUNCTION sentinai.idempotency_abandon(text, text, text, uuid) IS
	'Gives back what idempotency_begin() gave: the work was not done and has left nothing, and the next caller begins as new. token: of the lease; with NULL, in the transaction that began. Errors: 42501, SN001, SN010, SN011, SN062 (lease lost).';

-- ---- a duty of the maintenance worker ----

CREATE FUNCTION sentinai.idempotency_retain(most integer DEFAULT 10000) RETURNS text
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
DECLARE
	deleted	bigint;
BEGIN
	DELETE FROM sentinai.idempotency_key d USING (
		SELECT k.tenant_id, k.scope, k.key FROM sentinai.idempotency_key k
		 WHERE k.updated_at < sentinai.usage_clock() - current_setting('sentinai.idempotency_retention')::interval
		   AND (k.status = 'done' OR k.lease_until < sentinai.usage_clock())
		 ORDER BY k.updated_at LIMIT most
		   FOR UPDATE SKIP LOCKED) AS old
	 WHERE (d.tenant_id, d.scope, d.key) = (old.tenant_id, old.scope, old.key);
	GET DIAGNOSTICS deleted = ROW_COUNT;
	RETURN CASE WHEN deleted = most THEN format('more than %s idempotency keys are past their retention', deleted) END;
END
$$;
COMMENT ON FUNCTION sentinai.idempotency_retain(integer) IS
	'Duty: deletes the keys that are older than sentinai.idempotency_retention, leases that run excepted; at most so many a call. Returns NULL, or that there are more.';
