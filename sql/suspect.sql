-- Suspect mode: one event a call, marked before it; two marks whose calls broke convict. A call that breaks is one that
-- isn't made here: test/t/150_suspect.pl kills real backends.

SET search_path = sentinai, public;
\set VERBOSITY terse
\pset format unaligned
\pset tuples_only on

CREATE FUNCTION pg_temp.ev(event_id text, exception_id text)
	RETURNS bytea LANGUAGE sql AS $$
	SELECT convert_to(jsonb_build_object('event_id', event_id, 'event_type', 'SuspectEvent', 'tenant_id', 'suspects',
		'exception_id', exception_id, 'payload', '{}'::jsonb)::text, 'UTF8') $$;

-- Sends events written as "id exception" from where the group stands; none: a tick.
CREATE FUNCTION pg_temp.send(VARIADIC events text[] DEFAULT '{}') RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	k		sentinai.kafka_offset;
	records	sentinai.record[];
	r		sentinai.consume_result;
BEGIN
	SELECT * INTO k FROM sentinai.kafka_offset o WHERE o.group_id = 'suspects' AND o.partition = 0;
	SELECT array_agg(ROW('suspects', 0, k.next_offset + n - 1, k.epoch, '2026-01-01', 'key', NULL,
						 pg_temp.ev(split_part(e, ' ', 1), nullif(split_part(e, ' ', 2), '')))::sentinai.record ORDER BY n)
	  INTO records FROM unnest(events) WITH ORDINALITY AS u(e, n);
	r := sentinai.consume('suspects', 'suspects', coalesce(records,
		ARRAY[ROW('suspects', 0, k.next_offset, k.epoch, NULL, NULL, NULL, NULL)::sentinai.record]));
	RETURN format('handled %s, failed %s, parked %s, dead %s, due %s, next_offset %s, stop %s', r.handled, r.failed, r.parked,
				  r.dead_lettered, r.due, r.partitions -> 0 -> 'next_offset', coalesce(r.stop, '-'));
END $$;
CREATE VIEW pg_temp.marks AS SELECT pending_id > 0 AS due, kafka_offset, marks FROM sentinai.suspect WHERE worker_type = 'suspects';

CREATE SCHEMA suspect_test;
GRANT USAGE ON SCHEMA suspect_test TO sentinai_handler;
CREATE TABLE suspect_test.done (n serial, event_id text);
CREATE TABLE suspect_test.bad (event_id text PRIMARY KEY);
GRANT ALL ON ALL TABLES IN SCHEMA suspect_test TO sentinai_handler;
GRANT ALL ON ALL SEQUENCES IN SCHEMA suspect_test TO sentinai_handler;
CREATE FUNCTION suspect_test.handle(e sentinai.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO suspect_test.done (event_id) VALUES (e.event_id);
	PERFORM sentinai.fail(e, 'transient', 'bad') FROM suspect_test.bad b WHERE b.event_id = e.event_id;
	PERFORM pg_advisory_unlock_all();
END $$;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA suspect_test TO sentinai_handler;

SELECT tenant_add('suspects');
SELECT event_type_add('SuspectEvent');
SELECT worker_type_add('suspects', 'suspects');
SELECT handler_add('suspects', 'SuspectEvent', 'suspect_test.handle');
SELECT epoch, next_offset FROM assign('suspects', 'suspects', 'suspects', 0, 1);

\echo -- not without suspect_begin()
SELECT suspect_next('suspects', 'suspects', 0, 0);
SELECT suspect_begin('nobody');
SELECT suspect_end();
SELECT suspect_searching();

\echo -- begun twice is begun once
SELECT suspect_begin('suspects'), suspect_begin('suspects'), suspect_searching(), suspect_session() = pg_backend_pid();
SELECT name FROM health_problems() WHERE name LIKE 'suspect%';

\echo -- what is not marked is not handled; of what is, one a call
SELECT pg_temp.send('a1 A', 'a2 A');
SELECT suspect_next('suspects', 'suspects', 0, 0);
TABLE pg_temp.marks;
SELECT pg_temp.send('a1 A', 'a2 A');
TABLE pg_temp.marks;
\echo -- although the handler gave back all locks of the session
SELECT suspect_session() = pg_backend_pid();

\echo -- a mark counts again only where the connection broke
SELECT suspect_next('suspects', 'suspects', 0, 1);
SELECT suspect_next('suspects', 'suspects', 0, 1);
SELECT suspect_next('suspects', 'suspects', 0, 1, broken => true);
SELECT message ~ 'suspects/0/1 is suspected .* marked 2 times' FROM health_problems() WHERE name = 'suspect';
SELECT pg_temp.send('a2 A');
TABLE pg_temp.marks;

\echo -- the third one convicts; the key goes on by its policy
SELECT after_dead_letter FROM retry_policy_set(worker_type => 'suspects', base_delay => '5 min', after_dead_letter => 'park');
SELECT suspect_next('suspects', 'suspects', 0, 2), suspect_next('suspects', 'suspects', 0, 2, true), suspect_next('suspects', 'suspects', 0, 2, true);
SELECT pg_temp.send('killer A', 'a3 A');
SELECT event_id, step, error_type, sqlstate, error_message, error_detail, status, retry_count FROM dead_letter_queue WHERE tenant_id = 'suspects';
SELECT suspect_next('suspects', 'suspects', 0, 3);
SELECT pg_temp.send('a3 A');
SELECT event_id, status FROM event_pending WHERE worker_type = 'suspects';
TABLE pg_temp.marks;

\echo -- due work comes before records
INSERT INTO suspect_test.bad VALUES ('b1'), ('b2');
SELECT suspect_next('suspects', 'suspects', 0, 4);
SELECT pg_temp.send('b1 B');
SELECT suspect_next('suspects', 'suspects', 0);
UPDATE event_pending SET next_attempt_at = now() WHERE event_id = 'b1';
SELECT suspect_next('suspects', 'suspects', 0, 5);
TABLE pg_temp.marks;
SELECT split_part(reason, ': marked', 1) ~ 'suspected of killing the server$' FROM event_why('suspects', 'b1', 'suspects');
DELETE FROM suspect_test.bad WHERE event_id = 'b1';
SELECT pg_temp.send('b2 C');
TABLE pg_temp.marks;
\echo -- and what became due after the mark waits for its own
SELECT suspect_next('suspects', 'suspects', 0, 5);
SELECT pg_temp.send('b2 C');
SELECT suspect_next('suspects', 'suspects', 0, 6);
UPDATE event_pending SET next_attempt_at = now() WHERE event_id = 'b2';
SELECT pg_temp.send('c1');
SELECT suspect_next('suspects', 'suspects', 0, 6), suspect_next('suspects', 'suspects', 0, 6, true), suspect_next('suspects', 'suspects', 0, 6, true);
SELECT pg_temp.send('c1');
SELECT event_id, error_type, retry_count FROM dead_letter_queue WHERE tenant_id = 'suspects' ORDER BY id;
SELECT pg_temp.send('c1');

\echo -- the end: many a call again, and the next search forgets what is behind the position
SELECT suspect_next('suspects', 'suspects', 0, 7);
SELECT suspect_end(), suspect_end(), suspect_session();
SELECT pg_temp.send('d1', 'd2', 'd3');
TABLE pg_temp.marks;
SELECT name FROM health_problems() WHERE name LIKE 'suspect%';
SELECT suspect_begin('suspects');
TABLE pg_temp.marks;
SELECT suspect_end();
SELECT string_agg(event_id, ' ' ORDER BY n) FROM suspect_test.done;

DROP SCHEMA suspect_test CASCADE;
