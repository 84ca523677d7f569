-- Ways in which an event could be lost, be handled twice, lose its place or be touched by a stranger, each of them closed.

SET search_path = sentinai, public;
\set VERBOSITY terse
\pset format unaligned
\pset tuples_only on

CREATE SCHEMA hostile;
GRANT USAGE ON SCHEMA hostile TO sentinai_handler;
CREATE TABLE hostile.done (n serial, tenant_id text, event_id text);
CREATE TABLE hostile.bad (event_id text PRIMARY KEY, error text);
GRANT ALL ON ALL TABLES IN SCHEMA hostile TO sentinai_handler;
GRANT ALL ON ALL SEQUENCES IN SCHEMA hostile TO sentinai_handler;
CREATE FUNCTION hostile.handle(e sentinai.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO hostile.done (tenant_id, event_id) VALUES (e.tenant_id, e.event_id);
	PERFORM sentinai.fail(e, b.error, 'bad') FROM hostile.bad b WHERE b.event_id = e.event_id;
END $$;
-- Each tries one thing and goes on, as the event's payload says.
CREATE FUNCTION hostile.try(e sentinai.event) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	other	sentinai.event := e;
BEGIN
	IF e.payload ? 'command' THEN
		EXECUTE e.payload->>'command';
	ELSIF e.payload ? 'victim' THEN
		other.tenant_id := 'hostile_b';
		other.event_id := e.payload->>'victim';
		PERFORM sentinai.fail(other, 'validation_error', 'because a stranger says so');
	END IF;
EXCEPTION WHEN OTHERS THEN
	RAISE NOTICE '%', SQLERRM;
END $$;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA hostile TO sentinai_handler;

CREATE FUNCTION pg_temp.counts(r sentinai.consume_result) RETURNS text LANGUAGE sql AS $$
	SELECT format('handled %s, duplicate %s, failed %s, parked %s, dead %s, due %s', r.handled, r.duplicate, r.failed, r.parked,
				  r.dead_lettered, r.due) $$;
CREATE FUNCTION pg_temp.value(event_id text, exception_id text, payload jsonb, tenant text, type text DEFAULT 'HostileEvent')
	RETURNS bytea LANGUAGE sql AS $$
	SELECT convert_to(jsonb_build_object('event_id', event_id, 'event_type', type, 'tenant_id', tenant,
		'exception_id', exception_id, 'payload', payload)::text, 'UTF8') $$;
-- Sends records; only value and headers count.
CREATE FUNCTION pg_temp.send(VARIADIC records sentinai.record[]) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	k	sentinai.kafka_offset;
BEGIN
	SELECT * INTO k FROM sentinai.kafka_offset o WHERE o.group_id = 'hostile' AND o.partition = 0;
	RETURN pg_temp.counts(sentinai.consume('hostile', 'hostile', ARRAY(
		SELECT ROW('hostile', 0, k.next_offset + n - 1, k.epoch, r.ts, r.key, r.headers, r.value)::sentinai.record
		  FROM unnest(records) WITH ORDINALITY AS r(topic, partition, kafka_offset, epoch, ts, key, headers, value, n) ORDER BY n)));
END $$;
CREATE FUNCTION pg_temp.event(event_id text, exception_id text DEFAULT NULL, payload jsonb DEFAULT '{}', tenant text DEFAULT 'hostile_a',
							  type text DEFAULT 'HostileEvent') RETURNS sentinai.record LANGUAGE sql AS $$
	SELECT ROW('', 0, 0, 0, '2026-01-01', 'key', NULL, pg_temp.value(event_id, exception_id, payload, tenant, type))::sentinai.record $$;
CREATE FUNCTION pg_temp.tick() RETURNS text LANGUAGE sql AS $$
	SELECT pg_temp.send(ROW('', 0, 0, 0, NULL, NULL, NULL, NULL)::sentinai.record) $$;
-- The record of the retry that is under way.
CREATE FUNCTION pg_temp.retry(event text) RETURNS sentinai.record LANGUAGE sql AS $$
	SELECT ROW('', 0, 0, 0, '2026-01-01', d.record_key,
			   ARRAY[ROW('sentinai-dlq-id', d.id::text::bytea)::sentinai.header,
					 ROW('sentinai-dlq-token', d.retry_token::text::bytea)::sentinai.header], d.payload_raw)::sentinai.record
	  FROM sentinai.dead_letter_queue d WHERE d.event_id = event AND d.worker_type = 'hostile' $$;
CREATE FUNCTION pg_temp.dead(event text) RETURNS bigint LANGUAGE sql AS $$
	SELECT id FROM sentinai.dead_letter_queue d WHERE d.event_id = event AND d.worker_type = 'hostile' $$;
CREATE VIEW pending AS SELECT event_id, status, dlq_id IS NOT NULL AS of_dead_letter FROM sentinai.event_pending WHERE worker_type = 'hostile' ORDER BY id;
CREATE VIEW keys AS SELECT event_id, dlq_id IS NOT NULL AS held_by_dead_letter FROM sentinai.key_state WHERE worker_type = 'hostile' ORDER BY exception_id;

SELECT tenant_add('hostile_a'), tenant_add('hostile_b');
SELECT event_type_add('HostileEvent'), event_type_add('HostileTry');
SELECT worker_type_add('hostile', 'hostile');
SELECT handler_add('hostile', 'HostileEvent', 'hostile.handle'), handler_add('hostile', 'HostileTry', 'hostile.try');
SELECT epoch FROM assign('hostile', 'hostile', 'hostile', 0, 1);

--
-- A batch with two entries for one partition would take due work twice, and the second would end the first
--
INSERT INTO hostile.bad VALUES ('twice', 'transient');
SELECT pg_temp.send(pg_temp.event('twice'));
UPDATE event_pending SET next_attempt_at = now() WHERE worker_type = 'hostile';
SELECT consume('hostile', 'hostile', convert_to('SNB1', 'UTF8') || int8send(0) || int4send(100) || int4send(2) || e.entry || e.entry || int4send(0))
  FROM kafka_offset o, LATERAL (SELECT int2send(7::int2) || 'hostile'::bytea || int4send(0) || int8send(o.epoch) || int8send(o.next_offset)) AS e(entry)
 WHERE o.group_id = 'hostile';
TABLE pending;
DELETE FROM hostile.bad;
SELECT pg_temp.tick();
SELECT event_id FROM hostile.done;

--
-- A key that a dead letter holds is not freed by a second record of another dead letter's retry, which only waits for it
--
SELECT after_dead_letter FROM retry_policy_set(worker_type => 'hostile', after_dead_letter => 'continue');
INSERT INTO hostile.bad VALUES ('before', 'validation_error'), ('holder', 'validation_error');
SELECT pg_temp.send(pg_temp.event('before', 'K'));
SELECT after_dead_letter FROM retry_policy_set(worker_type => 'hostile', after_dead_letter => 'park');
SELECT pg_temp.send(pg_temp.event('holder', 'K'), pg_temp.event('behind', 'K'));
SELECT status FROM dlq_retry(pg_temp.dead('before'));
SELECT pg_temp.send(pg_temp.retry('before'));
SELECT pg_temp.send(pg_temp.retry('before'));
TABLE keys;
TABLE pending;
-- Nor by its own retry when that is refused before any handler sees it
SELECT status FROM dlq_retry(pg_temp.dead('holder'));
SELECT tenant_archive('hostile_a');
SELECT pg_temp.send(pg_temp.retry('holder'));
TABLE keys;
SELECT tenant_resume('hostile_a');
DELETE FROM hostile.bad;
SELECT status FROM dlq_retry(pg_temp.dead('holder'));
SELECT pg_temp.send(pg_temp.retry('holder'));
SELECT pg_temp.tick();
SELECT event_id FROM hostile.done WHERE event_id IN ('before', 'holder', 'behind') ORDER BY n;
TABLE keys;
TABLE pending;
SELECT status FROM dead_letter_queue WHERE worker_type = 'hostile' ORDER BY id;

--
-- A plain copy of the event in front of its retry, in one batch, doesn't take the retry away
--
INSERT INTO hostile.bad VALUES ('copied', 'validation_error');
SELECT pg_temp.send(pg_temp.event('copied'));
DELETE FROM hostile.bad;
SELECT status FROM dlq_retry(pg_temp.dead('copied'));
SELECT pg_temp.send(pg_temp.event('copied'), pg_temp.retry('copied'), pg_temp.retry('copied'));
SELECT status FROM dead_letter_queue WHERE event_id = 'copied';
SELECT count(*) FROM hostile.done WHERE event_id = 'copied';

--
-- A reassigned dead letter is one of the new tenant's identities: claimed by its retry, and known when it was there before
--
INSERT INTO hostile.bad VALUES ('moved', 'validation_error'), ('known', 'validation_error');
SELECT pg_temp.send(pg_temp.event('moved'), pg_temp.event('known'));
DELETE FROM hostile.bad WHERE event_id = 'known';
SELECT pg_temp.send(pg_temp.event('known', tenant => 'hostile_b'));
SELECT status FROM dlq_reassign(pg_temp.dead('moved'), 'hostile_b');
SELECT status FROM dlq_reassign(pg_temp.dead('known'), 'hostile_b');
SELECT via FROM dlq_retry(pg_temp.dead('moved'));
SELECT via FROM dlq_retry(pg_temp.dead('known'));
SELECT pg_temp.tick();
SELECT event_id, status FROM dead_letter_queue WHERE event_id IN ('moved', 'known') ORDER BY id;
-- a retry that failed has its claim; the next one goes on with it
DELETE FROM hostile.bad;
SELECT via FROM dlq_retry(pg_temp.dead('moved'));
SELECT pg_temp.tick();
SELECT event_id, status FROM dead_letter_queue WHERE event_id IN ('moved', 'known') ORDER BY id;
SELECT pg_temp.send(pg_temp.event('moved', tenant => 'hostile_b'));
SELECT tenant_id, event_id FROM hostile.done WHERE event_id IN ('moved', 'known') ORDER BY n;

-- While such a retry waits, the very event comes, and has to wait for its key, or for its own retry: it is done once, by whoever comes first
INSERT INTO hostile.bad VALUES ('met', 'validation_error'), ('met again', 'validation_error'), ('in front', 'transient');
SELECT pg_temp.send(pg_temp.event('met', 'M'), pg_temp.event('met again', 'N'));
SELECT status FROM dlq_reassign(pg_temp.dead('met'), 'hostile_b');
SELECT status FROM dlq_reassign(pg_temp.dead('met again'), 'hostile_b');
UPDATE hostile.bad SET error = 'transient' WHERE event_id = 'met again';
SELECT via FROM dlq_retry(pg_temp.dead('met'));
SELECT via FROM dlq_retry(pg_temp.dead('met again'));
-- as if it lay in another processor's partition
UPDATE event_pending SET next_attempt_at = now() + interval '1 hour' WHERE worker_type = 'hostile';
SELECT pg_temp.send(pg_temp.event('in front', 'M', tenant => 'hostile_b'), pg_temp.event('met', 'M', tenant => 'hostile_b'),
	pg_temp.event('met again', 'N', tenant => 'hostile_b'));
SELECT event_id, status FROM event_processing_log WHERE tenant_id = 'hostile_b' AND event_id IN ('met', 'met again', 'in front') ORDER BY 1;
TABLE pending;
DELETE FROM hostile.bad;
UPDATE event_pending SET next_attempt_at = now() WHERE worker_type = 'hostile' AND event_id <> 'in front';
SELECT pg_temp.tick();
UPDATE event_pending SET next_attempt_at = now() WHERE worker_type = 'hostile';
SELECT pg_temp.tick(), pg_temp.tick();
SELECT event_id, count(*) FROM hostile.done WHERE event_id IN ('met', 'met again', 'in front') GROUP BY 1 ORDER BY 1;
SELECT string_agg(event_id, ', ' ORDER BY n) FROM hostile.done WHERE event_id IN ('met', 'in front');
SELECT event_id, status FROM event_processing_log WHERE tenant_id = 'hostile_b' AND event_id IN ('met', 'met again', 'in front') ORDER BY 1;
SELECT event_id, status FROM dead_letter_queue WHERE event_id IN ('met', 'met again') ORDER BY id;
TABLE keys;
TABLE pending;
SELECT tenant, event_type FROM books_check(NULL, '2000-01-01', '2100-01-01') WHERE worker_type = 'hostile' AND NOT balanced;

--
-- Who has seen a token can't close the dead letter with bytes of his own: they are an event like any other
--
INSERT INTO hostile.bad VALUES ('token', 'validation_error');
SELECT pg_temp.send(pg_temp.event('token'));
DELETE FROM hostile.bad;
SELECT status FROM dlq_retry(pg_temp.dead('token'));
SELECT pg_temp.send(ROW('', 0, 0, 0, '2026-01-01', 'key', (pg_temp.retry('token')).headers, pg_temp.value('forged', NULL, '{}', 'hostile_b'))::sentinai.record);
SELECT status FROM dead_letter_queue WHERE event_id = 'token';
SELECT pg_temp.send(pg_temp.retry('token'));
SELECT status FROM dead_letter_queue WHERE event_id = 'token';
SELECT tenant_id, event_id FROM hostile.done WHERE event_id IN ('token', 'forged') ORDER BY n;

--
-- A key whose blocking event was deleted by hand goes on (in one transaction, since maintenance does the same)
--
INSERT INTO hostile.bad VALUES ('gone', 'transient');
SELECT pg_temp.send(pg_temp.event('gone', 'G'), pg_temp.event('left', 'G'));
BEGIN;
SELECT key_check();
DELETE FROM event_pending WHERE event_id = 'gone';
SELECT key_check();
COMMIT;
SELECT pg_temp.tick();
SELECT event_id FROM hostile.done WHERE event_id = 'left';
TABLE keys;

--
-- A handler speaks for the events that it was given, and for no others of the batch
--
SELECT pg_temp.send(pg_temp.event('stranger', payload => '{"victim": "victim"}', type => 'HostileTry'),
					pg_temp.event('victim', tenant => 'hostile_b'));
SELECT event_id FROM hostile.done WHERE event_id = 'victim';

--
-- What a handler could leave behind to run later, as somebody else
--
CREATE FUNCTION hostile.who() RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE 'running as %', current_user; RETURN ''; END $$;
GRANT EXECUTE ON FUNCTION hostile.who() TO sentinai_handler;
CREATE FUNCTION pg_temp.command(id text, command text) RETURNS text LANGUAGE sql AS $$
	SELECT pg_temp.send(pg_temp.event(id, payload => jsonb_build_object('command', command), type => 'HostileTry')) $$;
PREPARE of_the_session AS SELECT 1;
SELECT pg_temp.command('hold', 'DECLARE held CURSOR WITH HOLD FOR SELECT hostile.who()');
SELECT pg_temp.command('prepare', 'PREPARE consume AS SELECT hostile.who()');
SELECT pg_temp.command('deallocate', 'DEALLOCATE ALL');
SELECT pg_temp.command('discard', 'DISCARD TEMP');
SELECT pg_temp.command('plain', 'DECLARE plain CURSOR FOR SELECT 1');
SELECT name FROM pg_prepared_statements;
SELECT count(*) FROM pg_cursors WHERE is_holdable;
-- a trigger that fires when deferred ones do, and defers once more
CREATE FUNCTION hostile.again() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	BEGIN
		SET CONSTRAINTS ALL DEFERRED;
	EXCEPTION WHEN OTHERS THEN
		RAISE NOTICE '%', SQLERRM;
	END;
	RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER again AFTER INSERT ON hostile.done DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION hostile.again();
SELECT pg_temp.send(pg_temp.event('deferred'));

--
-- Events that a call puts away for a circuit which closes, or doesn't cover them, are not left behind
--
DROP TRIGGER again ON hostile.done;
SELECT circuit_open('hostile', 'HostileEvent');
UPDATE circuit SET reason = 'failures', probe_at = now() WHERE worker_type = 'hostile';
SELECT pg_temp.send(pg_temp.event('probe'), pg_temp.event('with1'), pg_temp.event('with2'));
SELECT pg_temp.tick();
TABLE pending;
CREATE OR REPLACE FUNCTION hostile.try(e sentinai.event) RETURNS void LANGUAGE plpgsql AS $$ BEGIN PERFORM * FROM hostile.nowhere; END $$;
SELECT circuit_open('hostile', 'HostileTry', 'hostile_a');
UPDATE circuit SET reason = 'failures', probe_at = now() WHERE worker_type = 'hostile';
SELECT pg_temp.send(pg_temp.event('broken_a', type => 'HostileTry'), pg_temp.event('broken_b', type => 'HostileTry', tenant => 'hostile_b'));
SELECT event_type, tenant_id, reason FROM circuit WHERE worker_type = 'hostile' ORDER BY 2;
SELECT circuit_close('hostile', 'HostileTry'), circuit_close('hostile', 'HostileTry', 'hostile_a');
SELECT event_id, next_attempt_at = 'infinity' AS for_ever FROM event_pending WHERE worker_type = 'hostile' ORDER BY id;

--
-- A handler may raise any code, also one of ours, without being taken for us
--
DELETE FROM event_pending WHERE worker_type = 'hostile';
CREATE OR REPLACE FUNCTION hostile.handle(e sentinai.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	RAISE EXCEPTION USING ERRCODE = e.payload->>'code', MESSAGE = 'not me';
END $$;
SELECT code, pg_temp.send(pg_temp.event('code_' || code, payload => jsonb_build_object('code', code)))
  FROM unnest('{SN030,SN007,SN013,SN018}'::text[]) AS u(code);

DROP VIEW pending, keys;

--
-- Who rehearses, in a session of his own, puts nothing of his in the place of what a handler names
--
CREATE TABLE public.hostile_wanted (event_id text, note text);
INSERT INTO public.hostile_wanted VALUES ('b', 'of a neighbour');
GRANT ALL ON public.hostile_wanted TO sentinai_handler, sentinai_tenant_handler;
GRANT USAGE ON SCHEMA hostile TO PUBLIC;
CREATE FUNCTION public.hostile_note(text) RETURNS text LANGUAGE sql AS $$SELECT 'noted ' || $1$$;
CREATE OR REPLACE FUNCTION hostile.handle(e sentinai.event) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	wanted	hostile_wanted;
BEGIN
	wanted.event_id := e.event_id;
	INSERT INTO hostile_wanted VALUES (wanted.event_id, hostile_note(e.event_id));
END $$;
INSERT INTO dead_letter_queue (event_id, event_type, tenant_id, worker_type, step, error_type, error_message, fingerprint, original_topic, payload_raw)
	VALUES ('rehearsed', 'HostileEvent', 'hostile_a', 'hostile', 'handle', 'x', 'x', 'f', 'hostile', pg_temp.value('rehearsed', NULL, '{}', 'hostile_a'));
CREATE ROLE regress_hostile LOGIN IN ROLE sentinai_operator;
SELECT tenant_role_add('regress_hostile', 'hostile_a');
CREATE SCHEMA regress_hostile AUTHORIZATION regress_hostile;
SET ROLE regress_hostile;
GRANT USAGE ON SCHEMA regress_hostile TO PUBLIC;
CREATE FUNCTION regress_hostile.hostile_note(text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	RAISE EXCEPTION 'as %, % sees a note %', session_user, current_user, (SELECT note FROM public.hostile_wanted);
END $$;
RESET ROLE;
SELECT current_user AS me \gset
-- What a function of PL/pgSQL has met at its first call it keeps.
\c - regress_hostile
CREATE FUNCTION regress_hostile.peek(text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
	IF current_user <> session_user THEN
		RAISE EXCEPTION '% sees a note %', current_user, (SELECT note FROM public.hostile_wanted);
	END IF;
	RETURN true;
END $$;
CREATE DOMAIN regress_hostile.peeked AS text CHECK (regress_hostile.peek(VALUE));
CREATE TABLE regress_hostile.hostile_wanted (event_id regress_hostile.peeked);
SET search_path = regress_hostile;
DO $$
BEGIN
	PERFORM hostile.handle(ROW('x', 'HostileEvent', 'hostile_a', NULL, now(), NULL, 1, '{}', '{}')::sentinai.event);
EXCEPTION WHEN OTHERS THEN
	NULL;
END $$;
SELECT id > 0, would_succeed, error_message FROM sentinai.dlq_rehearse(fingerprint => 'f');
DROP TABLE regress_hostile.hostile_wanted;
\c - :me
SELECT sentinai.handler_add('hostile', 'HostileEvent', 'hostile.handle', scope => 'tenant');
-- A setting that RESET goes back to.
ALTER ROLE regress_hostile SET search_path = regress_hostile, public;
\c - regress_hostile
SELECT id > 0, would_succeed, error_message FROM sentinai.dlq_rehearse(fingerprint => 'f');
\c - :me
ALTER ROLE regress_hostile RESET search_path;
\c - regress_hostile
SELECT id > 0, would_succeed, error_message FROM sentinai.dlq_rehearse(fingerprint => 'f');
CREATE TEMP TABLE hostile_wanted (event_id text, note text);
GRANT ALL ON pg_temp.hostile_wanted TO sentinai_tenant_handler;
CREATE FUNCTION pg_temp.hostile_note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	RAISE EXCEPTION '% sees a note %', current_user, (SELECT note FROM public.hostile_wanted);
END $$;
CREATE TRIGGER note BEFORE INSERT ON pg_temp.hostile_wanted FOR EACH ROW EXECUTE FUNCTION pg_temp.hostile_note();
SELECT id > 0, would_succeed, error_message FROM sentinai.dlq_rehearse(fingerprint => 'f');
DISCARD TEMP;
CREATE DOMAIN pg_temp.text AS pg_catalog.text;
SELECT id > 0, would_succeed, error_message FROM sentinai.dlq_rehearse(fingerprint => 'f');
DISCARD TEMP;
SELECT id > 0, would_succeed, error_message FROM sentinai.dlq_rehearse(fingerprint => 'f');
\c - :me
SET search_path = sentinai, public;
SET client_min_messages = warning;
DELETE FROM tenant_role WHERE role_name = 'regress_hostile';
DROP SCHEMA regress_hostile CASCADE;
DROP ROLE regress_hostile;
DROP TABLE public.hostile_wanted;
DROP FUNCTION public.hostile_note;
DELETE FROM dead_letter_queue WHERE event_id = 'rehearsed';
RESET client_min_messages;
DROP SCHEMA hostile CASCADE;
SELECT retry_policy_delete(worker_type => 'hostile');
