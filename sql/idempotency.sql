--
-- Idempotency keys: done once, answered as often as asked. What two sessions see of each other is in the isolation spec.

SET search_path = sentinai, public;
\set VERBOSITY terse
\pset format unaligned
\pset tuples_only on

SELECT tenant_add('idem_a'), tenant_add('idem_b'), tenant_add('idem_gone');
SELECT tenant_archive('idem_gone');
CREATE TABLE charge (n serial, amount int);

-- The caller of the examples: charges unless that was done, and answers.
CREATE FUNCTION pg_temp.charge(tenant text, key text, amount int) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
	b	record;
BEGIN
	SELECT * INTO b FROM idempotency_begin(tenant, 'charge', key, jsonb_build_object('amount', amount));
	IF b.state = 'done' THEN
		RETURN b.response;
	END IF;
	INSERT INTO charge (amount) VALUES (charge.amount);
	RETURN idempotency_complete(tenant, 'charge', key, jsonb_build_object('charged', amount, 'of', (SELECT count(*) FROM charge)));
END $$;

--
-- In one transaction
--
SELECT pg_temp.charge('idem_a', 'k1', 100);
SELECT pg_temp.charge('idem_a', 'k1', 100);
-- another tenant's key, another key, another scope
SELECT pg_temp.charge('idem_b', 'k1', 100);
SELECT pg_temp.charge('idem_a', 'k2', 100);
BEGIN;
SELECT state, response IS NULL, token IS NULL FROM idempotency_begin('idem_a', 'refund', 'k1', '{"amount": 7}');
SELECT idempotency_complete('idem_a', 'refund', 'k1', 'null');
COMMIT;
SELECT state, response FROM idempotency_begin('idem_a', 'refund', 'k1', '{"amount": 7}');
SELECT amount, count(*) FROM charge GROUP BY 1;
-- the request is the same whatever the order of its fields, and another one with another value
SELECT pg_temp.charge('idem_a', 'k1', 101);
BEGIN;
SELECT state FROM idempotency_begin('idem_a', 's', 'order', '{"a": 1, "b": [1, 2]}');
SELECT idempotency_complete('idem_a', 's', 'order', '1');
COMMIT;
SELECT state FROM idempotency_begin('idem_a', 's', 'order', '{"b":[1,2],   "a":1}');
SELECT state FROM idempotency_begin('idem_a', 's', 'order', '{"a": 1, "b": [2, 1]}');
-- the request itself is not kept
SELECT length(request_hash), status, attempts, token IS NULL, lease_until IS NULL FROM idempotency_key WHERE key = 'order';

-- a failed attempt leaves nothing, and the next one is the first
BEGIN;
SELECT state FROM idempotency_begin('idem_a', 'charge', 'k3', '{"amount": 100}');
INSERT INTO charge (amount) VALUES (100);
ROLLBACK;
SELECT count(*) FROM idempotency_key WHERE key = 'k3';
BEGIN;
SAVEPOINT s;
SELECT state FROM idempotency_begin('idem_a', 'charge', 'k3', '{"amount": 101}');
ROLLBACK TO s;
SELECT state FROM idempotency_begin('idem_a', 'charge', 'k3', '{"amount": 100}');
-- the same transaction can't be its own second caller
SAVEPOINT s;
SELECT state FROM idempotency_begin('idem_a', 'charge', 'k3', '{"amount": 100}');
ROLLBACK TO s;
SELECT idempotency_complete('idem_a', 'charge', 'k3', '{"charged": 100}');
SELECT state, response FROM idempotency_begin('idem_a', 'charge', 'k3', '{"amount": 100}');
COMMIT;
-- given up while the rest of the transaction stays
BEGIN;
SELECT state FROM idempotency_begin('idem_a', 'charge', 'k4', '{}');
SELECT idempotency_abandon('idem_a', 'charge', 'k4');
COMMIT;
SELECT count(*) FROM idempotency_key WHERE key = 'k4';

-- begun and not completed: there would be no answer for the next one
SELECT state FROM idempotency_begin('idem_a', 'charge', 'k5', '{}');
BEGIN;
SELECT state FROM idempotency_begin('idem_a', 'charge', 'k5', '{}');
COMMIT;
SELECT count(*) FROM idempotency_key WHERE key = 'k5';
-- not begun, done already
SELECT idempotency_complete('idem_a', 'charge', 'k5', '{}');
SELECT idempotency_abandon('idem_a', 'charge', 'k5');
SELECT idempotency_complete('idem_a', 'charge', 'k1', '{"charged": 0}');
SELECT idempotency_abandon('idem_a', 'charge', 'k1');
SELECT pg_temp.charge('idem_a', 'k1', 100);

--
-- With a lease
--
SELECT state, token AS token1 FROM idempotency_begin('idem_a', 'ship', 'l1', '{"to": "x"}', lease => '1 min') \gset
SELECT :'state';
SELECT status, attempts, lease_until - updated_at BETWEEN '59 s' AND '61 s' FROM idempotency_key WHERE key = 'l1';
SELECT state FROM idempotency_begin('idem_a', 'ship', 'l1', '{"to": "x"}', lease => '1 min');
SELECT state FROM idempotency_begin('idem_a', 'ship', 'l1', '{"to": "x"}');
SELECT state FROM idempotency_begin('idem_a', 'ship', 'l1', '{"to": "x"}', wait => false);
SELECT state FROM idempotency_begin('idem_a', 'ship', 'l1', '{"to": "y"}', lease => '1 min');
SELECT idempotency_complete('idem_a', 'ship', 'l1', '{}');
SELECT idempotency_complete('idem_a', 'ship', 'l1', '{}', gen_random_uuid());
SELECT idempotency_renew('idem_a', 'ship', 'l1', gen_random_uuid(), '1 min');
SELECT idempotency_renew('idem_a', 'ship', 'l1', NULL, '1 min');
SELECT idempotency_renew('idem_a', 'ship', 'l1', :'token1', '1 hour') BETWEEN now() + '59 min' AND now() + '61 min';
SELECT idempotency_complete('idem_a', 'ship', 'l1', '{"parcel": 1}', :'token1');
-- a repeated completion gets the answer that is kept
SELECT idempotency_complete('idem_a', 'ship', 'l1', '{"parcel": 2}', :'token1');
SELECT idempotency_abandon('idem_a', 'ship', 'l1', :'token1');
SELECT idempotency_renew('idem_a', 'ship', 'l1', :'token1', '1 min');
SELECT state, response, token FROM idempotency_begin('idem_a', 'ship', 'l1', '{"to": "x"}', lease => '1 min');

-- a lease that has run out is taken over once, and its first holder is refused
SELECT token AS token1 FROM idempotency_begin('idem_a', 'ship', 'l2', '{}', lease => '1 min') \gset
UPDATE idempotency_key SET lease_until = now() - interval '1 s' WHERE key = 'l2';
SELECT state FROM idempotency_begin('idem_a', 'ship', 'l2', '{"other": 1}', lease => '1 min');
SELECT state, token AS token2 FROM idempotency_begin('idem_a', 'ship', 'l2', '{}', lease => '1 min') \gset
SELECT :'state', :'token1' <> :'token2';
SELECT state FROM idempotency_begin('idem_a', 'ship', 'l2', '{}', lease => '1 min');
SELECT idempotency_complete('idem_a', 'ship', 'l2', '{"by": 1}', :'token1');
SELECT idempotency_abandon('idem_a', 'ship', 'l2', :'token1');
SELECT idempotency_renew('idem_a', 'ship', 'l2', :'token1', '1 min');
SELECT idempotency_complete('idem_a', 'ship', 'l2', '{"by": 2}', :'token2');
SELECT idempotency_complete('idem_a', 'ship', 'l2', '{"by": 1}', :'token1');
SELECT attempts, response FROM idempotency_key WHERE key = 'l2';

-- by the clock that tests set: nobody waits, and nothing is touched by hand
SET sentinai.test_clock = '2026-03-01 12:00:00+00';
SELECT state, token AS token1 FROM idempotency_begin('idem_a', 'ship', 'clock', '{}', lease => '1 min') \gset
SELECT created_at = '2026-03-01 12:00:00+00', updated_at = '2026-03-01 12:00:00+00', lease_until = '2026-03-01 12:01:00+00' FROM idempotency_key WHERE key = 'clock';
SET sentinai.test_clock = '2026-03-01 12:00:59.999999+00';
SELECT state FROM idempotency_begin('idem_a', 'ship', 'clock', '{}', lease => '1 min');
SET sentinai.test_clock = '2026-03-01 12:01:00+00';
SELECT state FROM idempotency_begin('idem_a', 'ship', 'clock', '{}', lease => '1 min');
SELECT idempotency_complete('idem_a', 'ship', 'clock', '{}', :'token1');
RESET sentinai.test_clock;
DELETE FROM idempotency_key WHERE key = 'clock';

-- one that has run out and wasn't taken over still completes, and can be renewed
SELECT token AS token1 FROM idempotency_begin('idem_a', 'ship', 'l3', '{}', lease => '1 min') \gset
UPDATE idempotency_key SET lease_until = now() - interval '1 s' WHERE key = 'l3';
SELECT idempotency_renew('idem_a', 'ship', 'l3', :'token1', '1 min') > now();
UPDATE idempotency_key SET lease_until = now() - interval '1 s' WHERE key = 'l3';
SELECT idempotency_complete('idem_a', 'ship', 'l3', '{"late": true}', :'token1');
-- taken over in one transaction, which fails: the lease is as it was
SELECT token AS token1 FROM idempotency_begin('idem_a', 'ship', 'l4', '{}', lease => '1 min') \gset
UPDATE idempotency_key SET lease_until = now() - interval '1 s' WHERE key = 'l4';
BEGIN;
SELECT state, token FROM idempotency_begin('idem_a', 'ship', 'l4', '{}');
COMMIT;
BEGIN;
SELECT state, token FROM idempotency_begin('idem_a', 'ship', 'l4', '{}', wait => false);
SELECT idempotency_complete('idem_a', 'ship', 'l4', '{"by": 2}');
COMMIT;
SELECT idempotency_complete('idem_a', 'ship', 'l4', '{"by": 1}', :'token1');
-- abandoned: the next one begins as new
SELECT token AS token1 FROM idempotency_begin('idem_a', 'ship', 'l5', '{}', lease => '1 min') \gset
SELECT idempotency_abandon('idem_a', 'ship', 'l5', :'token1');
SELECT idempotency_abandon('idem_a', 'ship', 'l5', :'token1');
SELECT state FROM idempotency_begin('idem_a', 'ship', 'l5', '{"may": "differ"}', lease => '1 min');

--
-- What is refused, and changes nothing
--
SELECT state FROM idempotency_begin('idem_nobody', 's', 'k', '{}');
SELECT state FROM idempotency_begin('idem_gone', 's', 'k', '{}');
SELECT state FROM idempotency_begin(NULL, 's', 'k', '{}');
SELECT state FROM idempotency_begin('idem_a', NULL, 'k', '{}');
SELECT state FROM idempotency_begin('idem_a', '', 'k', '{}');
SELECT state FROM idempotency_begin('idem_a', 'a b', 'k', '{}');
SELECT state FROM idempotency_begin('idem_a', repeat('s', 65), 'k', '{}');
SELECT state FROM idempotency_begin('idem_a', 's', NULL, '{}');
SELECT state FROM idempotency_begin('idem_a', 's', '', '{}');
\set VERBOSITY default
SELECT state FROM idempotency_begin('idem_a', 's', repeat('ä', 128), '{}');
\set VERBOSITY terse
SELECT state FROM idempotency_begin('idem_a', 's', 'k', NULL);
SELECT state FROM idempotency_begin('idem_a', 's', 'k', '{}', NULL);
SELECT state FROM idempotency_begin('idem_a', 's', 'k', '{}', lease => '0');
SELECT state FROM idempotency_begin('idem_a', 's', 'k', '{}', lease => '-1 min');
SELECT state FROM idempotency_begin('idem_a', 's', 'k', '{}', lease => '178000000 years');
SELECT idempotency_renew('idem_a', 's', 'k', gen_random_uuid(), NULL);
SELECT idempotency_renew('idem_a', 's', 'k', gen_random_uuid(), '1 month');
BEGIN;
SELECT state FROM idempotency_begin('idem_a', 's', rpad('k', 255, 'x'), '{}');
SAVEPOINT s;
SELECT idempotency_complete('idem_a', 's', rpad('k', 255, 'x'), NULL);
ROLLBACK TO s;
SELECT idempotency_complete('idem_a', 's', rpad('k', 255, 'x'), to_jsonb(repeat('x', 1024 * 1024 - 1)));
ROLLBACK TO s;
SELECT length(idempotency_complete('idem_a', 's', rpad('k', 255, 'x'), to_jsonb(repeat('x', 1024 * 1024 - 2)))::text);
ROLLBACK;
SELECT count(*) FROM idempotency_key WHERE scope = 's' AND key <> 'order';

--
-- Retention: what is done goes, a lease that runs stays
--
CREATE TABLE kept AS SELECT tenant_id, scope, key FROM idempotency_key;
UPDATE idempotency_key SET updated_at = now() - interval '24 h 1 s', lease_until = CASE WHEN key = 'l1' THEN now() + interval '1 min' ELSE lease_until END
 WHERE key IN ('l1', 'l2', 'k1');
INSERT INTO idempotency_key (tenant_id, scope, key, request_hash, token, lease_until, updated_at)
VALUES ('idem_a', 'retain', 'runs', '', gen_random_uuid(), now() + interval '1 min', now() - interval '2 days'),
	   ('idem_a', 'retain', 'ran out', '', gen_random_uuid(), now() - interval '1 min', now() - interval '2 days'),
	   ('idem_a', 'retain', 'ran out lately', '', gen_random_uuid(), now() - interval '1 min', now() - interval '23 h');
-- the maintenance worker does the same
SELECT idempotency_retain() IS NULL;
SELECT scope, key FROM idempotency_key WHERE scope = 'retain' ORDER BY key;
SELECT k.tenant_id, k.scope, k.key FROM kept k LEFT JOIN idempotency_key USING (tenant_id, scope, key) WHERE status IS NULL ORDER BY 1, 2, 3;
-- what is forgotten is new
SELECT pg_temp.charge('idem_a', 'k1', 250);

--
-- From a handler, which runs as a role without rights on tables
--
SET ROLE sentinai_handler;
SET sentinai.tenant_id = 'idem_a';
BEGIN;
SELECT state FROM idempotency_begin('idem_a', 'handler', 'h1', '{}');
SELECT idempotency_complete('idem_a', 'handler', 'h1', '{}');
SET CONSTRAINTS ALL IMMEDIATE;
COMMIT;
SELECT * FROM idempotency_key;
RESET ROLE;
RESET sentinai.tenant_id;
-- in consume: what is not completed, or was another request, fails its event
SELECT event_type_add('IdemEvent');
SELECT worker_type_add('idem', 'idem');
CREATE SCHEMA idem_test;
GRANT USAGE ON SCHEMA idem_test TO sentinai_handler;
CREATE FUNCTION idem_test.handle(e sentinai.event) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	state	text := (sentinai.idempotency_begin(e.tenant_id, 'event', e.payload ->> 'key', e.payload -> 'request')).state;
BEGIN
	IF state = 'new' AND NOT e.payload ? 'incomplete' THEN
		PERFORM sentinai.idempotency_complete(e.tenant_id, 'event', e.payload ->> 'key', to_jsonb(e.event_id));
	END IF;
END $$;
SELECT handler_add('idem', 'IdemEvent', 'idem_test.handle');
SELECT epoch FROM assign('idem', 'idem', 'idem', 0);
SELECT handled, failed, dead_lettered FROM consume('idem', 'idem', (
	SELECT array_agg(ROW('idem', 0, n, 1, now(), 'k', NULL, convert_to(jsonb_build_object('event_id', 'e' || n, 'event_type', 'IdemEvent',
		'tenant_id', 'idem_a', 'payload', p)::text, 'UTF8'))::sentinai.record ORDER BY n)
	  FROM unnest('{"{\"key\": \"a\", \"request\": 1}","{\"key\": \"a\", \"request\": 1}","{\"key\": \"a\", \"request\": 2}",
					"{\"key\": \"b\", \"request\": 1, \"incomplete\": 1}"}'::jsonb[]) WITH ORDINALITY AS u(p, n)));
SELECT event_id, status, error_type FROM event_processing_log WHERE worker_type = 'idem' ORDER BY event_id;
SELECT key, response FROM idempotency_key WHERE scope = 'event';
SELECT handler_remove('idem', 'IdemEvent');
DELETE FROM dead_letter_queue WHERE worker_type = 'idem';
DELETE FROM event_pending WHERE worker_type = 'idem';
DROP FUNCTION idem_test.handle;
DROP SCHEMA idem_test;
SELECT error_class('SN060'), error_class('SN061'), error_class('SN062');

DELETE FROM idempotency_key;
DROP TABLE charge, kept;
