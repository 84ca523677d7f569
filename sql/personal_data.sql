-- Personal data: masks on what shows payloads, and erasing what is known of one exception.

SET search_path = sentinai, public;
\set VERBOSITY terse
\pset format unaligned
\pset tuples_only on

CREATE FUNCTION pg_temp.send(VARIADIC events jsonb[]) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	k		sentinai.kafka_offset;
	records	sentinai.record[];
	r		sentinai.consume_result;
BEGIN
	SELECT * INTO k FROM sentinai.kafka_offset o WHERE o.group_id = 'intake-workers' AND o.partition = 7;
	SELECT array_agg(ROW('exceptions', 7, k.next_offset + n - 1, k.epoch, now(), convert_to(e->>'tenant_id' || ':' || (e->>'exception_id'), 'UTF8'),
						 ARRAY[ROW('x-user', 'Ann Lee')::sentinai.header], convert_to(e::text, 'UTF8'))::sentinai.record ORDER BY n)
	  INTO records FROM unnest(events) WITH ORDINALITY AS u(e, n);
	SELECT * INTO r FROM sentinai.consume('intake', 'intake-workers', records);
	RETURN format('handled %s, failed %s, dead %s, duplicate %s', r.handled, r.failed, r.dead_lettered, r.duplicate);
END $$;
-- As the publisher does: all that is there is in Kafka.
CREATE FUNCTION pg_temp.publish() RETURNS void LANGUAGE sql AS $$
	INSERT INTO sentinai.outbox_watermark AS w (topic, id) SELECT topic, max(id) FROM sentinai.outbox GROUP BY topic
		ON CONFLICT (topic) DO UPDATE SET id = greatest(w.id, excluded.id) $$;
-- Everything in the database that has a text, by table: where the subject is still to be found.
CREATE FUNCTION pg_temp.found(what text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
	t	record;
	n	bigint;
BEGIN
	FOR t IN SELECT c.oid::regclass AS rel, c.relname FROM pg_class c
			  WHERE c.relnamespace = 'sentinai'::regnamespace AND c.relkind = 'r' ORDER BY c.relname LOOP
		EXECUTE format('SELECT count(*) FROM %s t WHERE t::text LIKE $1 OR t::text LIKE $2', t.rel) INTO n
		  USING '%' || what || '%', '%' || encode(convert_to(what, 'UTF8'), 'hex') || '%';
		IF n > 0 THEN
			RETURN NEXT regexp_replace(t.relname, '_(p\d+|g\d+|[012])$', '') || ' ' || n;
		END IF;
	END LOOP;
END $$;

-- What is in Kafka stays in the outbox meanwhile: it is erased there, too.
ALTER SYSTEM SET sentinai.outbox_rotation_period = '1h';
SELECT pg_reload_conf();
SELECT tenant_add('pd_a'), tenant_add('pd_b');
SELECT count(*) FROM assign('intake', 'intake-workers', 'exceptions', 7);

--
-- Masks
--
SELECT payload_mask_add('Unheard', '{a}');
SELECT payload_mask_add('ExceptionIngested', '{}');
SELECT payload_mask_add('ExceptionIngested', NULL);
SELECT payload_mask_add('ExceptionIngested', '{a,NULL}');
SELECT payload_mask_value(v::jsonb, p::text[]) FROM (VALUES
	('{"a": {"b": 1, "c": 2}}', '{a,b}'), ('{"a": {"b": 1}}', '{a}'), ('{"a": 1}', '{a,b}'), ('{"a": 1}', '{b}'), ('{"a": null}', '{a}'),
	('{"a": [{"b": 1}, {"b": 2, "c": 3}]}', '{a,*,b}'), ('{"a": [1, 2, 3]}', '{a,1}'), ('{"a": {"x": {"b": 1}, "y": {"b": 2}}}', '{a,*,b}'),
	('{"a": []}', '{a,*}'), ('{}', '{*}'), ('[1]', '{0}'), ('{"a.b": 1, "a": {"b": 1}}', '{a.b}'), ('{"*": 1, "b": 2}', '{*}')) t (v, p);
SELECT payload_mask_add('ExceptionIngested', '{customer,email}'), payload_mask_add('ExceptionIngested', '{customer,email}');
SELECT payload_mask_add('*', '{phones,*}');
SELECT event_type, path FROM payload_mask_list();

SELECT pg_temp.send('{"event_id": "m1", "event_type": "ExceptionIngested", "tenant_id": "pd_a", "exception_id": "MASKED", "payload": {"severity": "high", "customer": {"email": "ann@example.com", "id": 7}, "phones": ["1", "2"]}}',
					'{"event_id": "m2", "event_type": "ExceptionIngested", "tenant_id": "pd_a", "exception_id": "MASKED-2", "payload": {"severity": "loud", "customer": {"email": "ann@example.com"}}}');
-- Of a type that can't be read, or that is none, all masks count.
SELECT pg_temp.send('{"event_id": "m3", "tenant_id": "pd_a", "exception_id": "MASKED-3", "payload": {"customer": {"email": "ann@example.com", "id": 7}}}',
					'{"event_id": "m4", "event_type": "exceptioningested", "tenant_id": "pd_a", "exception_id": "MASKED-3", "payload": {"customer": {"email": "ann@example.com"}}}');
CREATE ROLE regress_pd_sees IN ROLE sentinai_operator, sentinai_payload;
CREATE ROLE regress_pd_other IN ROLE sentinai_operator, sentinai_payload;
SELECT tenant_role_add('regress_pd_sees', 'pd_a'), tenant_role_add('regress_pd_other', 'pd_b');
SET ROLE regress_pd_sees;
SELECT event_type, payload FROM exception_events('MASKED', 'pd_a');
SELECT event_type, actor_type, actor_id, payload FROM exception_history('pd_a', 'MASKED');
SELECT event_id, payload FROM dlq_list('pd_a') ORDER BY 1;
SELECT (dlq_get(id)).payload FROM dlq_list('pd_a') WHERE event_id = 'm2';
\set VERBOSITY sqlstate
SELECT dlq_record(id) FROM dlq_list('pd_a') WHERE event_id = 'm2';
SELECT dlq_record(id) FROM dlq_list('pd_a') WHERE event_id = 'm4';
\set VERBOSITY terse
SELECT payload FROM event_log;
SELECT payload_raw FROM dead_letter_queue;
SELECT record_value FROM event_pending;
SELECT payload FROM exception_event;
SELECT payload_mask_remove('*', '{phones,*}');
SET ROLE regress_pd_other;
SELECT count(*) FROM exception_payloads('MASKED', '{pd_a}');
SELECT count(*) FROM dlq_payloads(ARRAY(SELECT generate_series(1, 100000)));
SELECT count(*) FROM exception_history('pd_a', 'MASKED');
SELECT count(*) FROM exception_history('pd_b', 'MASKED');
RESET ROLE;
-- A record's bytes can't be masked: an admin sees them, others where there is no mask. Another tenant's isn't there, for either.
SELECT id AS masked FROM dead_letter_queue WHERE tenant_id = 'pd_a' AND event_id = 'm2' \gset
DELETE FROM dead_letter_queue WHERE event_id IN ('m3', 'm4');
SELECT topic, partition, convert_from(key, 'UTF8'), convert_from(value, 'UTF8')::jsonb->>'event_id' FROM dlq_record(:masked);
SET ROLE regress_pd_other;
\set VERBOSITY sqlstate
SELECT count(*) FROM dlq_record(:masked);
\set VERBOSITY terse
RESET ROLE;
-- An admin sees the values, and so does a handler.
SELECT event_type, payload FROM exception_events('MASKED', 'pd_a');
SELECT event_type, actor_type, actor_id, payload FROM exception_history('pd_a', 'MASKED');
SELECT payload->'phones' FROM exception_event WHERE exception_id = 'MASKED' AND event_type = 'ExceptionIngested';
SELECT payload_mask_remove('*', '{phones,*}'), payload_mask_remove('*', '{phones,*}');
SELECT payload_mask_remove(event_type, path) FROM payload_mask_list();
SET ROLE regress_pd_sees;
SELECT convert_from(value, 'UTF8')::jsonb->'payload'->'customer' FROM dlq_record(:masked);
\set VERBOSITY sqlstate
SET ROLE regress_pd_other;
SELECT * FROM dlq_record(:masked);
SET sentinai.tenant_id = 'pd_a';
SET ROLE sentinai_operator;
SELECT event_type, payload FROM exception_history('pd_a', 'MASKED');
SELECT * FROM dlq_record(:masked);
RESET ROLE;
RESET sentinai.tenant_id;
\set VERBOSITY terse

--
-- What can't be erased yet
--
SELECT * FROM subject_erase('pd_a', 'MASKED', '');
SELECT * FROM subject_erase('pd_a', NULL, 'asked for');
SELECT * FROM subject_erase('nobody', 'MASKED', 'asked for');
SET ROLE regress_pd_sees;
SELECT * FROM subject_erase('pd_a', 'MASKED', 'asked for');
RESET ROLE;
\set VERBOSITY default
\set SHOW_CONTEXT never
SELECT * FROM subject_erase('pd_a', 'MASKED-2', 'asked for');
\set VERBOSITY terse

--
-- A subject in every table
--
SELECT pg_temp.send('{"event_id": "e1", "event_type": "ExceptionIngested", "tenant_id": "pd_a", "exception_id": "S-1", "metadata": {"by": "Ann Lee"},
		"payload": {"severity": "high", "entity": "Ann Lee", "owner": "Ann Lee", "amount": 12.50, "note": "Ann Lee called"}}',
	'{"event_id": "e1", "event_type": "ExceptionIngested", "tenant_id": "pd_b", "exception_id": "S-1", "payload": {"severity": "high", "entity": "Ann Lee"}}',
	'{"event_id": "e2", "event_type": "ExceptionIngested", "tenant_id": "pd_a", "exception_id": "S-1", "payload": {"severity": "Ann Lee"}}',
	'{"event_id": "e3", "event_type": "ExceptionIngested", "tenant_id": "pd_a", "exception_id": "S-1", "payload": {"severity": "Ann Lee"}}');
-- A dead letter that is gone, and one that could not be read, of which only the record's key says what it is about.
DELETE FROM dead_letter_queue WHERE tenant_id = 'pd_a' AND event_id = 'e3';
INSERT INTO dead_letter_queue (tenant_id, worker_type, step, error_type, error_message, fingerprint, original_topic, record_key, payload_raw)
	VALUES ('pd_a', 'intake', 'screen', 'validation_error', 'no JSON', 'f', 'exceptions', 'pd_a:S-1', '{"entity": "Ann Lee');
-- What has opened a circuit, and what waited in a topic's way.
INSERT INTO circuit (worker_type, event_type, tenant_id, reason, error_message, first_event_id) VALUES
	('intake', 'ExceptionIngested', 'pd_a', 'failures', 'for Ann Lee', 'e2'), ('intake', 'TriageRequested', 'pd_a', 'forced', 'by hand', NULL);
INSERT INTO outbox_blocked (id, topic, key, value, tenant_id, event_id, created_at) VALUES (-2, 'pd', 'pd_a:S-1', '{"to": "Ann Lee"}', 'pd_a', 'e1', now());
UPDATE exceptions SET owner = 'Ann Lee, again', status = 'resolved' WHERE tenant_id = 'pd_a' AND exception_id = 'S-1';
SELECT id AS dead FROM dead_letter_queue WHERE tenant_id = 'pd_a' AND event_id = 'e2' \gset
INSERT INTO tool_execution (tenant_id, tool_id, exception_id, status, requested_by_actor_type, input_payload)
	VALUES ('pd_a', 'mail', 'S-1', 'running', 'agent', '{"to": "Ann Lee"}');
INSERT INTO idempotency_key (tenant_id, scope, key, request_hash, status, response) VALUES
	('pd_a', 'mail', 'S-1', '\x00', 'done', '{"to": "Ann Lee"}'), ('pd_a', 'mail', 'other', '\x00', 'done', '{"about": ["S-1"], "to": "Ann Lee"}'),
	('pd_a', 'mail', 'another', '\x00', 'done', '{"about": "S-12", "to": "Bob"}');
INSERT INTO outbox_failed (id, topic, record_key, record_value, tenant_id, event_id, error, message, created_at)
	VALUES (-1, 'pd', 'pd_a:S-1', '{"to": "Ann Lee"}', 'pd_a', 'x', 'invalid_record', 'for Ann Lee', now());
SELECT DISTINCT f FROM pg_temp.found('Ann Lee') f ORDER BY 1;
SELECT * FROM subject_unfinished('pd_a', 'S-1');
SELECT count(dlq_discard(id, 'not to be mended')) FROM dead_letter_queue WHERE tenant_id = 'pd_a' AND status = 'pending'
	AND (exception_id = 'S-1' OR record_key = 'pd_a:S-1');
SELECT count(*) FROM outbox_failed_discard(-1, 'not to be mended');
SELECT pg_temp.publish();
SELECT * FROM subject_erase('pd_a', 'S-1', 'asked for');
UPDATE tool_execution SET status = 'succeeded', output_payload = '{"sent_to": "Ann Lee"}' WHERE tenant_id = 'pd_a';
SELECT legal_hold_add('pd_a', 'a court wants it') AS hold \gset
SELECT * FROM subject_erase('pd_a', 'S-1', 'asked for');
SELECT legal_hold_release(:hold, 'it does no longer');
-- A hold on a time in which nothing of it happened.
SELECT legal_hold_add('pd_a', 'another matter', '2020-01-01', '2020-12-31') IS NOT NULL;
SELECT payload AS was FROM event_log WHERE tenant_id = 'pd_a' AND event_id = 'e1' \gset
CREATE ROLE regress_pd_admin IN ROLE sentinai_admin;
SET ROLE regress_pd_admin;
SELECT * FROM subject_erase('pd_a', 'S-1', 'asked for by letter', actor => 'data protection');
RESET ROLE;
-- What is left is the other tenant's, and the other exception's.
SELECT DISTINCT f FROM pg_temp.found('Ann Lee') f ORDER BY 1;
SELECT tenant_id, payload->>'entity' FROM event_log WHERE exception_id = 'S-1' AND payload ? 'entity';
SELECT payload = jsonb_build_object('sentinai_erased', subject_hash('pd_a', :'was')), metadata FROM event_log WHERE tenant_id = 'pd_a' AND event_id = 'e1';
SELECT subject_hash('pd_a', '{}') = subject_hash('pd_a', '{}'), subject_hash('pd_a', '{}') = encode(sha256('{}'), 'hex'), subject_hash('pd_b', '{}');
SELECT status, severity, source_system, entity, amount, owner FROM exceptions WHERE tenant_id = 'pd_a' AND exception_id = 'S-1';
SELECT event_type, subject_is_erased(payload), payload->'changed'->'status', payload->'changed' ? 'owner'
  FROM exception_event WHERE tenant_id = 'pd_a' AND exception_id = 'S-1' ORDER BY recorded_at;
SELECT status, subject_is_erased(input_payload), subject_is_erased(output_payload), error_message FROM tool_execution WHERE tenant_id = 'pd_a';
SELECT event_id, status, error_type, error_message, error_detail, subject_is_erased(payload), convert_from(payload_raw, 'UTF8') LIKE '{"sentinai_erased": "%"}', record_key, record_headers
  FROM dead_letter_queue WHERE tenant_id = 'pd_a' AND status = 'discarded' ORDER BY id;
SELECT action, details FROM dlq_history WHERE dlq_id = :dead ORDER BY id;
SELECT event_type, error_message FROM circuit WHERE tenant_id = 'pd_a' ORDER BY 1;
DELETE FROM circuit WHERE tenant_id = 'pd_a';
SELECT key, subject_is_erased(response), response->>'about' FROM idempotency_key WHERE tenant_id = 'pd_a' ORDER BY key;
SELECT tenant_id, key, reason, actor, authenticated = caller_identity() FROM subject_erasure;
SELECT count(*) FROM outbox WHERE tenant_id = 'pd_a' AND event_id IN (SELECT event_id FROM event_log WHERE tenant_id = 'pd_a' AND exception_id = 'S-1');
-- Once more changes nothing, and says nothing new.
SELECT sum(rows) FROM subject_erase('pd_a', 'S-1', 'asked for once more');
SELECT count(*) FROM subject_erasure;
SELECT payload = jsonb_build_object('sentinai_erased', subject_hash('pd_a', :'was')) FROM event_log WHERE tenant_id = 'pd_a' AND event_id = 'e1';

--
-- What has been erased is still known: a second e1 is a duplicate, one with another content a conflict
--
SELECT pg_temp.send('{"event_id": "e1", "event_type": "ExceptionIngested", "tenant_id": "pd_a", "exception_id": "S-1", "metadata": {"by": "Ann Lee"},
		"payload": {"severity": "high", "entity": "Ann Lee", "owner": "Ann Lee", "amount": 12.50, "note": "Ann Lee called"}}',
	'{"event_id": "e1", "event_type": "ExceptionIngested", "tenant_id": "pd_a", "exception_id": "S-1", "payload": {"severity": "low"}}');
SELECT error_type FROM dead_letter_queue WHERE tenant_id = 'pd_a' AND event_id = 'e1';
SELECT count(*) FROM dlq_discard((SELECT id FROM dead_letter_queue WHERE tenant_id = 'pd_a' AND event_id = 'e1'), 'not to be mended');
SELECT pg_temp.publish();
-- They came after it was erased: erased again, only they change.
SELECT * FROM subject_erase('pd_a', 'S-1', 'the sender has sent it again') WHERE rows > 0;
SELECT count(*) FROM subject_erasure;
-- A payload that only looks like a tombstone is erased, too.
SELECT subject_is_erased(p::jsonb) FROM (VALUES ('{"sentinai_erased": "Ann Lee"}'), ('{"sentinai_erased": "' || repeat('a', 64) || '", "name": "Ann Lee"}'), ('"Ann Lee"')) t (p);

--
-- Reports that name it expire; the proof of what they were stays
--
SELECT count(*) FROM report_key_get();
INSERT INTO audit_report (id, tenant_id, report_type, title, status, format, parameters, period_from, period_to, bound_at, requested_by, requested_role, completed_at, download_expires_at)
	SELECT 'pd-' || n, 'pd_a', 'exception_activity', 'for the test', 'completed', f, '{}', '2026-01-01', '2026-02-01', '2026-02-01', 'me', session_user, now(), 'infinity'
	  FROM (VALUES (1, 'csv'), (2, 'json'), (3, 'csv'), (4, 'pdf'), (5, 'jsonl')) v (n, f);
INSERT INTO report_chunk (report_id, n, data) VALUES ('pd-1', 0, 'a,b,S'), ('pd-1', 1, '-1,c'), ('pd-2', 0, '{"id": "S-2"}'), ('pd-3', 0, 'S,-1'), ('pd-4', 0, '%PDF'),
	('pd-5', 0, '{"id": "S-1"}');
SELECT * FROM subject_reports('pd_a', 'S-1');
SELECT report_hold('pd-5', 'kept');
SELECT * FROM subject_erase('pd_a', 'S-1', 'asked for');
SELECT report_release('pd-5', 'no longer');
SELECT * FROM subject_erase('pd_a', 'S-1', 'asked for by letter') WHERE rows > 0;
SELECT id, status, error_message FROM audit_report WHERE id LIKE 'pd-%' ORDER BY 1;
SELECT report_id, count(*) FROM report_chunk WHERE report_id LIKE 'pd-%' GROUP BY 1 ORDER BY 1;
SELECT report_id, to_status, reason FROM report_history WHERE report_id LIKE 'pd-%' AND action = 'status' AND to_status = 'expired' ORDER BY 1;

--
-- Tables of yours
--
CREATE TABLE public.pd_note (tenant_id text, exception_id text, note text);
CREATE FUNCTION public.pd_forget(tenant_id text, key text, salt bytea) RETURNS TABLE (relation text, rows bigint) LANGUAGE sql AS $$
	WITH gone AS (DELETE FROM public.pd_note n WHERE n.tenant_id = $1 AND n.exception_id = $2 RETURNING 1) SELECT 'pd_note', count(*) FROM gone $$;
INSERT INTO public.pd_note VALUES ('pd_a', 'S-1', 'Ann Lee'), ('pd_b', 'S-1', 'Ann Lee');
SELECT subject_source_add('notes', 'public.nothing');
SELECT subject_source_add('core', 'public.pd_forget');
SELECT subject_source_add('notes', 'public.pd_forget');
SELECT * FROM subject_erase('pd_a', 'S-1', 'asked for') WHERE rows > 0;
SELECT * FROM public.pd_note;
-- A row that an admin adds as if it were ours is not run with the owner's rights.
INSERT INTO subject_source VALUES ('trap', 'sentinai', 'subject_erase_trap', true);
CREATE FUNCTION sentinai.subject_erase_trap(text, text, bytea) RETURNS TABLE (relation text, rows bigint) LANGUAGE sql AS $$SELECT 'trap ' || current_user, 1::bigint$$;
SELECT * FROM subject_erase('pd_a', 'S-1', 'asked for') WHERE relation LIKE 'trap%';
DROP FUNCTION sentinai.subject_erase_trap;
DELETE FROM subject_source WHERE name = 'trap';
SELECT subject_source_remove('notes'), subject_source_remove('core');
DROP FUNCTION public.pd_forget;
DROP TABLE public.pd_note;

SELECT legal_hold_release(id, 'the test is over') FROM legal_hold_list('pd_a');
DELETE FROM outbox_failed WHERE id = -1;
DELETE FROM tenant_role WHERE role_name LIKE 'regress_pd%';
DROP ROLE regress_pd_sees, regress_pd_other, regress_pd_admin;
ALTER SYSTEM RESET sentinai.outbox_rotation_period;
SELECT pg_reload_conf();
