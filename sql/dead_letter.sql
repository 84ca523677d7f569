-- Dead letters: the states, retries by Kafka and in the database, what DELETE and TRUNCATE do, and looking at them.

SET search_path = sentinai, public;
SET timezone = 'UTC';
\set VERBOSITY terse
\pset format unaligned
\pset tuples_only on

-- Events fail while their id is in dlq_test.broken; what is handled is in dlq_test.done.
CREATE SCHEMA dlq_test;
GRANT USAGE ON SCHEMA dlq_test TO sentinai_handler;
CREATE TABLE dlq_test.broken (event_id text PRIMARY KEY, sqlstate text NOT NULL DEFAULT '22000', message text NOT NULL DEFAULT 'broken');
CREATE TABLE dlq_test.done (n serial, event_id text, exception_id text, tenant_id text, at timestamptz);
GRANT ALL ON ALL TABLES IN SCHEMA dlq_test TO sentinai_handler;
GRANT ALL ON ALL SEQUENCES IN SCHEMA dlq_test TO sentinai_handler;
CREATE FUNCTION dlq_test.handle(e sentinai.event) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	b dlq_test.broken;
BEGIN
	INSERT INTO dlq_test.done (event_id, exception_id, tenant_id, at) VALUES (e.event_id, e.exception_id, e.tenant_id, e."timestamp");
	PERFORM sentinai.emit(e, 'ExceptionResolved', '{}');
	SELECT * INTO b FROM dlq_test.broken x WHERE x.event_id = e.event_id;
	IF FOUND THEN
		RAISE EXCEPTION USING ERRCODE = b.sqlstate, MESSAGE = b.message;
	END IF;
END $$;
GRANT EXECUTE ON FUNCTION dlq_test.handle TO sentinai_handler;
SELECT tenant_add('dlq_a'), tenant_add('dlq_b'), event_type_add('DlqTest');
SELECT worker_type_add('dlq_test', 'dlq_test'), worker_type_add('dlq_other', 'dlq_test');
SELECT handler_add('dlq_test', 'DlqTest', 'dlq_test.handle'), handler_add('dlq_other', 'DlqTest', 'dlq_test.handle');
SELECT epoch FROM assign('dlq_test', 'dlq_test', 'dlq_test', 0);
SELECT epoch FROM assign('dlq_other', 'dlq_other', 'dlq_test', 0);

-- Feeds records to a worker type as the next ones of its partition.
CREATE FUNCTION pg_temp.feed(worker text, records sentinai.record[]) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	k		sentinai.kafka_offset;
	r		sentinai.consume_result;
BEGIN
	SELECT * INTO k FROM sentinai.kafka_offset o WHERE o.group_id = worker;
	SELECT * INTO r FROM sentinai.consume(worker, worker,
		ARRAY(SELECT ROW('dlq_test', 0, k.next_offset + n - 1, k.epoch, u.ts, u.key, u.headers, u.value)::sentinai.record
				FROM unnest(records) WITH ORDINALITY AS u(topic, partition, kafka_offset, epoch, ts, key, headers, value, n))
		|| ROW('dlq_test', 0, k.next_offset + cardinality(records), k.epoch, NULL, NULL, NULL, NULL)::sentinai.record);
	RETURN format('handled %s, failed %s, parked %s, dead %s, duplicate %s, skipped %s, due %s', r.handled, r.failed, r.parked,
				  r.dead_lettered, r.duplicate, r.skipped, r.due);
END $$;
-- New events "id exception", and due work with them.
CREATE FUNCTION pg_temp.send(worker text, VARIADIC events text[] DEFAULT '{}') RETURNS text LANGUAGE sql AS $$
	SELECT pg_temp.feed(worker, ARRAY(
		SELECT ROW(NULL, NULL, NULL, NULL, '2026-02-01', 'key', ARRAY[ROW('x', '\x01')]::sentinai.header[],
			convert_to(jsonb_build_object('event_id', split_part(e, ' ', 1), 'event_type', 'DlqTest', 'tenant_id', 'dlq_a',
				'exception_id', nullif(split_part(e, ' ', 2), ''), 'timestamp', '2026-01-02T03:04:05Z',
				'payload', jsonb_build_object('n', n))::text, 'UTF8'))::sentinai.record
		  FROM unnest(events) WITH ORDINALITY AS u(e, n) ORDER BY n)) $$;
-- The record that the retry of a dead letter has put into the outbox, as often as it is sent.
CREATE FUNCTION pg_temp.deliver(worker text, dlq_id bigint, times integer DEFAULT 1) RETURNS text LANGUAGE sql AS $$
	SELECT pg_temp.feed(worker, ARRAY(
		SELECT ROW(NULL, NULL, NULL, NULL, '2026-03-01', o.key, o.headers, o.value)::sentinai.record
		  FROM (SELECT * FROM sentinai.outbox o WHERE o.dlq_id = $2 ORDER BY id DESC LIMIT 1) o, generate_series(1, times))) $$;
CREATE FUNCTION pg_temp.letter(event_id text) RETURNS bigint LANGUAGE sql AS
	$$ SELECT max(id) FROM sentinai.dead_letter_queue d WHERE d.event_id = $1 AND worker_type LIKE 'dlq\_%' $$;
CREATE VIEW dlq_test.letters AS
	SELECT event_id, worker_type, status, retry_count, error_type, retry_token IS NOT NULL AS token
	  FROM sentinai.dead_letter_queue WHERE worker_type LIKE 'dlq\_%';
-- History of a dead letter; tokens are numbered as they appear.
CREATE FUNCTION pg_temp.history(id bigint) RETURNS SETOF text LANGUAGE sql AS $$
	SELECT concat_ws(' ', h.action, coalesce(h.from_status, '-') || '>' || coalesce(h.to_status, '-'),
		'token' || CASE WHEN h.token IS NOT NULL THEN dense_rank() OVER (ORDER BY first) END, h.reason, h.actor, h.details::text)
	  FROM (SELECT *, CASE WHEN token IS NULL THEN 9223372036854775807 ELSE min(y.id) OVER (PARTITION BY token) END AS first
			  FROM sentinai.dlq_history(id) y) h ORDER BY h.id $$;

--
-- The matrix: all changes of status, by UPDATE and by our functions
--
SELECT * FROM dlq_transitions();
CREATE FUNCTION pg_temp.make(id bigint, status text) RETURNS void LANGUAGE sql AS $$
	INSERT INTO sentinai.dead_letter_queue (id, tenant_id, event_id, event_type, worker_type, step, status, retry_token, error_type,
		error_message, fingerprint, original_topic, original_partition, payload_raw)
	OVERRIDING SYSTEM VALUE
	VALUES (id, 'dlq_a', 'made' || id, 'DlqTest', 'dlq_test', 'handle', status,
		CASE WHEN status = 'retrying' THEN gen_random_uuid() END, 'made', 'made', 'made', 'dlq_test', 0, '{}') $$;
CREATE FUNCTION pg_temp.try(sql text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE sql;
	RETURN 'yes';
EXCEPTION WHEN OTHERS THEN
	RETURN SQLSTATE;
END $$;
SELECT count(pg_temp.make(1000000 + i * 10 + j, s)) FROM unnest('{pending,retrying,succeeded,discarded}'::text[]) WITH ORDINALITY f(s, i), generate_series(1, 6) j;
\pset tuples_only off
WITH tried AS (
	SELECT f.s AS from_status, t.s AS to_status, pg_temp.try(format('UPDATE sentinai.dead_letter_queue SET status = %L WHERE id = %s', t.s, 1000000 + i * 10 + j)) AS answer
	  FROM unnest('{pending,retrying,succeeded,discarded}'::text[]) WITH ORDINALITY f(s, i),
		   unnest('{pending,retrying,succeeded,discarded}'::text[]) WITH ORDINALITY t(s, j)
	 WHERE f.s <> t.s)
SELECT from_status AS "UPDATE: from, to", max(answer) FILTER (WHERE to_status = 'pending') AS pending, max(answer) FILTER (WHERE to_status = 'retrying') AS retrying,
	   max(answer) FILTER (WHERE to_status = 'succeeded') AS succeeded, max(answer) FILTER (WHERE to_status = 'discarded') AS discarded
  FROM tried GROUP BY 1 ORDER BY min(array_position('{pending,retrying,succeeded,discarded}'::text[], from_status));
SELECT f.s AS status, pg_temp.try(format('SELECT sentinai.dlq_retry(%s)', 1000000 + i * 10 + 5)) AS dlq_retry,
	   pg_temp.try(format('SELECT sentinai.dlq_discard(%s, ''test'')', 1000000 + i * 10 + 6)) AS dlq_discard
  FROM unnest('{pending,retrying,succeeded,discarded}'::text[]) WITH ORDINALITY f(s, i);
SELECT status, count(*), bool_and((retry_token IS NOT NULL) = (status = 'retrying')) AS tokens, count(discarded_at) AS discarded_at, count(discarded_by) AS discarded_by
  FROM dead_letter_queue WHERE id > 1000000 GROUP BY 1 ORDER BY 1;
\pset tuples_only on
SELECT action, from_status, to_status, token IS NOT NULL, count(*) FROM dlq_history WHERE dlq_id > 1000000 GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3;
\set VERBOSITY default
UPDATE dead_letter_queue SET status = 'succeeded' WHERE id = 1000013;
UPDATE dead_letter_queue SET status = 'retrying' WHERE id = 1000013;
SELECT dlq_retry(1000025);
SELECT dlq_discard(1000036, 'test');
SELECT dlq_retry(999);
SELECT dlq_discard(1000013, ' ');
\set VERBOSITY terse
UPDATE dead_letter_queue SET status = 'lost' WHERE id = 1000013;
SELECT dlq_retry(NULL);
DELETE FROM dead_letter_queue WHERE id > 1000000;
TRUNCATE dlq_history;

--
-- The circle: fails, is retried, fails again, is retried, succeeds
--
INSERT INTO dlq_test.broken VALUES ('e1');
SELECT pg_temp.send('dlq_test', 'e1 X1', 'e2 X2');
SELECT * FROM dlq_test.letters;
SELECT id = pg_temp.letter('e1'), status, retry_count, via FROM dlq_retry(pg_temp.letter('e1'), 'fixed', 'ops');
SELECT topic, partition, key, convert_from(value, 'UTF8')::jsonb - 'timestamp' FROM outbox WHERE dlq_id = pg_temp.letter('e1');
SELECT h.name, CASE WHEN h.name LIKE 'sentinai%' THEN h.value = convert_to(CASE h.name WHEN 'sentinai-dlq-id' THEN d.id::text ELSE d.retry_token::text END, 'UTF8') ELSE h.value = '\x01' END
  FROM dead_letter_queue d JOIN outbox o ON o.dlq_id = d.id, unnest(o.headers) h WHERE d.id = pg_temp.letter('e1');
-- It is a retry of one worker type; another skips it.
SELECT pg_temp.deliver('dlq_other', pg_temp.letter('e1'));
SELECT pg_temp.deliver('dlq_test', pg_temp.letter('e1'));
SELECT * FROM dlq_test.letters;
SELECT error_type, error_message, sqlstate, status, retry_count FROM dlq_get(pg_temp.letter('e1'));
-- The same record once more is a duplicate, after the next retry as well.
SELECT pg_temp.deliver('dlq_test', pg_temp.letter('e1'));
DELETE FROM dlq_test.broken;
SELECT status FROM dlq_retry(pg_temp.letter('e1'), 'fixed now');
SELECT pg_temp.deliver('dlq_test', pg_temp.letter('e1'), 2);
SELECT * FROM dlq_test.letters;
SELECT pg_temp.deliver('dlq_test', pg_temp.letter('e1'));
SELECT pg_temp.history(pg_temp.letter('e1'));
SELECT event_id, exception_id, tenant_id, at FROM dlq_test.done WHERE event_id = 'e1';
SELECT status, retry_count FROM event_processing_log WHERE event_id = 'e1' AND worker_type = 'dlq_test';
SELECT pg_temp.try('SELECT sentinai.dlq_retry(pg_temp.letter(''e1''))');
-- A token that nobody gave out counts for nothing: the record is an event like others, here a duplicate of e1 and a new one.
SELECT pg_temp.feed('dlq_test', ARRAY(
	SELECT ROW(NULL, NULL, NULL, NULL, '2026-02-01', 'key', ARRAY[ROW('sentinai-dlq-id', convert_to(pg_temp.letter('e1')::text, 'UTF8')),
			ROW('sentinai-dlq-token', convert_to('00000000-0000-4000-8000-000000000000', 'UTF8'))]::sentinai.header[],
		convert_to(format('{"event_id": "%s", "event_type": "DlqTest", "tenant_id": "dlq_a", "exception_id": "X1", "timestamp": "2026-01-02T03:04:05Z", "payload": {"n": 1}}', e), 'UTF8'))::sentinai.record
	  FROM unnest('{e1,e3}'::text[]) e));

--
-- Batches: an answer for each id, in their order
--
INSERT INTO dlq_test.broken SELECT 'b' || n FROM generate_series(1, 5) n;
SELECT pg_temp.send('dlq_test', 'b1', 'b2', 'b3', 'b4', 'b5');
SELECT dlq_discard(pg_temp.letter('b4'), 'a test') IS NOT NULL;
SELECT CASE WHEN id > 0 THEN id - pg_temp.letter('b1') + 1 ELSE id END, ok, status, sqlstate, replace(error, id::text, 'ID')
  FROM dlq_retry_batch(ARRAY[pg_temp.letter('b3'), -1, pg_temp.letter('b4'), NULL, pg_temp.letter('b1'), pg_temp.letter('b3')], 'all at once');
SELECT * FROM dlq_retry_batch('{}');
SELECT * FROM dlq_retry_batch(NULL);
SELECT * FROM dlq_test.letters WHERE event_id LIKE 'b%' ORDER BY event_id;
SELECT * FROM dlq_replay('dlq_a', 'and the rest');
SELECT * FROM dlq_replay('dlq_a');
DELETE FROM dlq_test.broken WHERE event_id <> 'b2';
SELECT e, pg_temp.deliver('dlq_test', pg_temp.letter(e)) FROM unnest('{b1,b2,b3,b5}'::text[]) e;
SELECT * FROM dlq_test.letters WHERE event_id LIKE 'b%' ORDER BY event_id;

--
-- DELETE and TRUNCATE in the middle of a retry: its record comes late and is a duplicate
--
INSERT INTO dlq_test.broken VALUES ('d1'), ('d2'), ('d3');
SELECT pg_temp.send('dlq_test', 'd1 D1', 'd2 D2', 'd3 D3');
SELECT ok FROM dlq_retry_batch(ARRAY[pg_temp.letter('d1'), pg_temp.letter('d2')]);
SELECT pg_temp.letter('d1') AS d1, pg_temp.letter('d2') AS d2 \gset
INSERT INTO dlq_receipt VALUES (:d1, (SELECT retry_token FROM dead_letter_queue WHERE id = :d1), 'dlq_test', 0, 1000);
DELETE FROM dead_letter_queue WHERE id = :d1;
SELECT count(*) FROM dlq_receipt WHERE dlq_id = :d1;
TRUNCATE dead_letter_queue;
DELETE FROM dlq_test.broken;
SELECT pg_temp.deliver('dlq_test', :d1), pg_temp.deliver('dlq_test', :d2);
SELECT pg_temp.history(:d1);
SELECT pg_temp.history(:d2);
SELECT event_id FROM dlq_test.done WHERE event_id LIKE 'd%';

--
-- Parking behind a dead letter, and what lets the others go on
--
SELECT after_dead_letter FROM retry_policy_set(worker_type => 'dlq_test', max_retries => 0, after_dead_letter => 'park');
INSERT INTO dlq_test.broken VALUES ('p1'), ('q1'), ('r1'), ('s1'), ('t1');
SELECT pg_temp.send('dlq_test', 'p1 P', 'q1 Q', 'r1 R', 's1 S', 't1 T', 'p2 P', 'q2 Q', 'r2 R', 's2 S', 't2 T');
SELECT exception_id, event_id, dlq_id = pg_temp.letter(event_id) FROM key_state WHERE worker_type = 'dlq_test' ORDER BY 1;
DELETE FROM dlq_test.broken;
-- P by a retry, which is not parked behind itself
SELECT status FROM dlq_retry(pg_temp.letter('p1'));
SELECT pg_temp.deliver('dlq_test', pg_temp.letter('p1'));
SELECT pg_temp.send('dlq_test');
-- Q by a retry that fails first
INSERT INTO dlq_test.broken VALUES ('q1');
SELECT status FROM dlq_retry(pg_temp.letter('q1'));
SELECT pg_temp.deliver('dlq_test', pg_temp.letter('q1'));
SELECT exception_id, event_id, dlq_id = pg_temp.letter(event_id) FROM key_state WHERE worker_type = 'dlq_test' ORDER BY 1;
-- Q by an UPDATE of the status, R by dlq_discard(), S by DELETE, T by TRUNCATE
UPDATE dead_letter_queue SET status = 'discarded' WHERE id = pg_temp.letter('q1');
SELECT status FROM dlq_discard(pg_temp.letter('r1'), 'not needed');
DELETE FROM dead_letter_queue WHERE id = pg_temp.letter('s1');
SELECT event_id, status FROM event_pending WHERE worker_type = 'dlq_test' ORDER BY 1;
TRUNCATE dead_letter_queue;
SELECT event_id, status FROM event_pending WHERE worker_type = 'dlq_test' ORDER BY 1;
SELECT pg_temp.send('dlq_test');
SELECT string_agg(event_id, ' ' ORDER BY n) FROM dlq_test.done WHERE exception_id IN ('P', 'Q', 'R', 'S', 'T');
SELECT count(*) FROM key_state WHERE worker_type = 'dlq_test';
-- One dead letter holds the key, another of the same key (from before the policy) does not let go.
SELECT after_dead_letter FROM retry_policy_set(worker_type => 'dlq_test', max_retries => 0);
INSERT INTO dlq_test.broken VALUES ('u1'), ('u2');
SELECT pg_temp.send('dlq_test', 'u1 U');
SELECT after_dead_letter FROM retry_policy_set(worker_type => 'dlq_test', max_retries => 0, after_dead_letter => 'park');
SELECT pg_temp.send('dlq_test', 'u2 U', 'u3 U');
SELECT status FROM dlq_discard(pg_temp.letter('u1'), 'the older one');
SELECT event_id, status FROM event_pending WHERE worker_type = 'dlq_test';
SELECT status FROM dlq_discard(pg_temp.letter('u2'), 'the one that holds');
SELECT event_id, status FROM event_pending WHERE worker_type = 'dlq_test';
SELECT pg_temp.send('dlq_test');
DELETE FROM retry_policy_override;
DELETE FROM dlq_test.broken;

--
-- A retry that has to wait in the database, and is taken back by hand
--
SELECT max_retries FROM retry_policy_set(worker_type => 'dlq_test', error_type => 'data_exception', max_retries => 0);
INSERT INTO dlq_test.broken VALUES ('w1', '22000'), ('w2', 'P0001');
SELECT pg_temp.send('dlq_test', 'w1 W');
SELECT pg_temp.send('dlq_test', 'w2 W', 'w3 W');
SELECT status FROM dlq_retry(pg_temp.letter('w1'));
SELECT pg_temp.deliver('dlq_test', pg_temp.letter('w1'));
SELECT event_id, status, dlq_id IS NOT NULL FROM event_pending WHERE worker_type = 'dlq_test' ORDER BY id;
SELECT * FROM dlq_lost_check();
UPDATE dead_letter_queue SET status = 'pending' WHERE id = pg_temp.letter('w1');
SELECT event_id, status, dlq_id IS NOT NULL FROM event_pending WHERE worker_type = 'dlq_test' ORDER BY id;
DELETE FROM dlq_test.broken;
UPDATE event_pending SET next_attempt_at = now() WHERE worker_type = 'dlq_test';
SELECT pg_temp.send('dlq_test'), pg_temp.send('dlq_test');
SELECT status FROM dlq_retry(pg_temp.letter('w1'));
SELECT pg_temp.deliver('dlq_test', pg_temp.letter('w1'));
SELECT string_agg(event_id, ' ' ORDER BY n) FROM dlq_test.done WHERE exception_id = 'W';
DELETE FROM retry_policy_override;
TRUNCATE dead_letter_queue, dlq_history;

--
-- The screen's dead letters: nobody's tenant, reassigned and retried in the database; and a header that lied
--
SELECT pg_temp.feed('dlq_test', ARRAY[ROW(NULL, NULL, NULL, NULL, '2026-02-01', 'key', NULL,
	convert_to('{"event_id": "n1", "event_type": "DlqTest", "tenant_id": "dlq_none", "exception_id": "N", "timestamp": "2026-01-02T03:04:05Z", "payload": {}}', 'UTF8'))]::sentinai.record[]);
SELECT tenant_id, event_id, step, error_type, retry_count FROM dead_letter_queue WHERE event_id = 'n1';
SELECT dlq_reassign(pg_temp.letter('n1'), 'nobody');
SELECT tenant_id, status FROM dlq_reassign(pg_temp.letter('n1'), 'dlq_b', 'a typing error', 'ops');
SELECT status, via FROM dlq_retry(pg_temp.letter('n1'), 'now it is known');
SELECT tenant_id, event_id, status, next_attempt_at <= now(), dlq_id = pg_temp.letter('n1') FROM event_pending WHERE worker_type = 'dlq_test';
SELECT pg_temp.try('SELECT sentinai.dlq_reassign(pg_temp.letter(''n1''), ''dlq_a'')');
SELECT pg_temp.send('dlq_test');
SELECT * FROM dlq_test.letters WHERE event_id = 'n1';
SELECT event_id, tenant_id, at FROM dlq_test.done WHERE event_id = 'n1';
SELECT pg_temp.history(pg_temp.letter('n1'));
SELECT dlq_reassign(-1, 'dlq_a');

SELECT pg_temp.feed('dlq_test', ARRAY[ROW(NULL, NULL, NULL, NULL, '2026-02-01', 'key', ARRAY[ROW('a', '\x61'), ROW('sentinai-event-type', 'SLAExpired')]::sentinai.header[],
	convert_to('{"event_id": "h1", "event_type": "DlqTest", "tenant_id": "dlq_a", "timestamp": "2026-01-02T03:04:05Z", "payload": {}}', 'UTF8'))]::sentinai.record[]);
SELECT step, error_type FROM dead_letter_queue WHERE event_id = 'h1';
SELECT status FROM dlq_retry(pg_temp.letter('h1'));
SELECT h.name FROM outbox o, unnest(o.headers) h WHERE o.dlq_id = pg_temp.letter('h1');
SELECT pg_temp.deliver('dlq_other', pg_temp.letter('h1')), pg_temp.deliver('dlq_test', pg_temp.letter('h1'));
SELECT * FROM dlq_test.letters WHERE event_id = 'h1';

--
-- Lost retries
--
INSERT INTO dlq_test.broken VALUES ('l1'), ('l2'), ('l3');
SELECT pg_temp.send('dlq_test', 'l1', 'l2', 'l3');
SELECT ok FROM dlq_retry_batch(ARRAY[pg_temp.letter('l1'), pg_temp.letter('l2'), pg_temp.letter('l3')]);
SELECT * FROM dlq_lost_check();
-- In one transaction, since the maintenance worker calls dlq_lost_check(), too.
BEGIN;
-- l1 is in Kafka where the group has yet to come; l2 where it has been without reading it; l3 waits in the outbox.
INSERT INTO dlq_receipt SELECT d.id, d.retry_token, 'dlq_test', 0, k.next_offset + CASE d.event_id WHEN 'l1' THEN 1000 ELSE -1 END
  FROM dead_letter_queue d, kafka_offset k WHERE d.event_id IN ('l1', 'l2') AND k.group_id = 'dlq_test';
UPDATE dead_letter_queue SET retried_at = retried_at - interval '1 hour' WHERE event_id LIKE 'l_';
SELECT regexp_replace(message, '\d+', 'N', 'g') FROM dlq_lost_check();
SELECT event_id, status, retry_count, error_type, regexp_replace(error_message, '\d+', 'N', 'g') FROM dead_letter_queue WHERE event_id LIKE 'l_' ORDER BY 1;
-- Now the outbox is empty, and no receipt has come.
DELETE FROM outbox_0; DELETE FROM outbox_1; DELETE FROM outbox_2;
SELECT message FROM dlq_lost_check();
UPDATE dlq_receipt SET created_at = created_at - interval '1 hour';
SELECT count(*) FROM dlq_lost_check();
SELECT count(*) FROM dlq_receipt;
COMMIT;
SELECT * FROM dlq_test.letters WHERE event_id LIKE 'l_' ORDER BY 1;
DELETE FROM dlq_test.broken;

--
-- Rehearsal: nothing of it stays
--
INSERT INTO dlq_test.broken VALUES ('y1'), ('y2'), ('y3');
SELECT pg_temp.send('dlq_test', 'y1', 'y2', 'y3');
DELETE FROM dlq_test.broken WHERE event_id = 'y2';
UPDATE dlq_test.broken SET sqlstate = 'P0001', message = 'still broken' WHERE event_id = 'y3';
SELECT count(*) AS done FROM dlq_test.done \gset
SELECT count(*) AS outbox FROM outbox \gset
SELECT d.event_id, r.would_succeed, r.error_type, r.sqlstate, r.error_message, r.error_detail = d.error_detail AS same_detail, r.emitted
  FROM dlq_rehearse('dlq_a', 10, with_error_type => 'data_exception') r JOIN dead_letter_queue d USING (id) ORDER BY 1;
SELECT count(*) FROM dlq_rehearse('dlq_a', 1, with_error_type => 'data_exception');
SELECT (SELECT count(*) FROM dlq_test.done) - :done, (SELECT count(*) FROM outbox) - :outbox, (SELECT string_agg(DISTINCT status, ' ') FROM dead_letter_queue WHERE event_id LIKE 'y_');
SELECT would_succeed, error_type, sqlstate, error_message FROM dlq_rehearse_ids('{-1}');
SELECT * FROM dlq_rehearse(n => 0);
DELETE FROM dlq_test.broken;
TRUNCATE dead_letter_queue, dlq_history;

--
-- Causes
--
SELECT dlq_message_pattern(m) FROM unnest(ARRAY[
	'order 17 of "ACME" is closed', 'order 4711 of  "Müller" is closed', 'can''t read ''x'' at 12.5%', 'it''s 5',
	'insert or update on table "child" violates foreign key constraint "child_id_fkey"',
	'row 3f2504e0-4f89-41d3-9a0c-0305e82c3301 at 0xDEADBEEF, hash 5d41402abc4b2a76', 'invalid input syntax for type integer: "12x"',
	'EXC_123 and EXC_124', '2026-01-02 03:04:05.678+00', '"open', '', 'deadbeef decade facade']) m;
SELECT length(dlq_message_pattern(repeat('ä ', 1000))), octet_length(dlq_message_pattern(repeat('ä', 1000))) <= 500;
SELECT dlq_fingerprint('a', 'b', 'no 1', 'c', 'd') = dlq_fingerprint('a', 'b', 'no 22', 'c', 'd'), dlq_fingerprint('a', 'b', 'no 1', 'c', 'd'),
	   dlq_fingerprint('a', 'b', 'no 1', 'c', 'e') = dlq_fingerprint('a', 'b', 'no 1', 'c', 'd'),
	   dlq_fingerprint('ab', '', '', NULL, NULL) = dlq_fingerprint('a', 'b', '', NULL, NULL);
INSERT INTO dlq_test.broken SELECT 'g' || n, '22000', CASE n % 3 WHEN 0 THEN format('amount %s of "%s"', n, n) ELSE 'no ' || n END FROM generate_series(1, 9) n;
SELECT pg_temp.send('dlq_test', VARIADIC ARRAY(SELECT 'g' || n FROM generate_series(1, 9) n));
SELECT error_type, sqlstate, message_pattern, event_type, worker_type, entries, tenants, first_seen <= last_seen, sample_id = pg_temp.letter(CASE entries WHEN 3 THEN 'g9' ELSE 'g8' END)
  FROM dlq_groups('dlq_a');
SELECT count(*) FROM dlq_groups('dlq_b');
SELECT sum(entries) FROM dlq_groups(NULL, '{discarded}');
SELECT dlq_groups(NULL, '{open}');
-- The newest failure decides the cause.
SELECT status FROM dlq_retry(pg_temp.letter('g3'));
UPDATE dlq_test.broken SET message = 'no 3' WHERE event_id = 'g3';
SELECT pg_temp.deliver('dlq_test', pg_temp.letter('g3'));
SELECT message_pattern, entries FROM dlq_groups('dlq_a');

--
-- Lists and counts
--
SELECT status FROM dlq_retry(pg_temp.letter('g1'));
SELECT status, discarded_by FROM dlq_discard(pg_temp.letter('g2'), 'too old', 'ops@example.com');
SELECT total_entries, pending_count, retrying_count, discarded_count, succeeded_count, by_event_type, by_worker_type FROM dlq_stats('dlq_a');
SELECT * FROM dlq_stats('dlq_b');
SELECT * FROM dlq_size() WHERE tenant_id LIKE 'dlq%';
SELECT event_id, status, payload FROM dlq_list('dlq_a', max_rows => 3, skip_rows => 1);
SELECT event_id FROM dlq_list('dlq_a', 'discarded', 'DlqTest', 'dlq_test');
SELECT count(*) FROM dlq_list('dlq_a', worker_type => 'dlq_other');
SELECT dlq_list('dlq_a', 'gone');
SELECT dlq_list('dlq_a', max_rows => 1001);
SELECT event_id, discarded_by, original_topic, payload, event_timestamp FROM dlq_get(pg_temp.letter('g2'));
SELECT dlq_get(-1);
SELECT sum(added), sum(retried), sum(failed_again), sum(discarded), sum(succeeded), sum(removed), sum(growth), count(*) BETWEEN 24 AND 26 FROM dlq_growth('dlq_a');
SELECT dlq_growth('dlq_a', '1 month');
SELECT dlq_purge('dlq_a', '0', '{retrying}');
SELECT dlq_purge('dlq_a', NULL);
SELECT dlq_purge('dlq_a'), dlq_purge('dlq_a', '0');
SELECT dlq_purge('dlq_a', '0', '{pending}');
SELECT * FROM dlq_test.letters;
SELECT sum(removed), sum(growth) FROM dlq_growth('dlq_a');

--
-- Who sees what; of a dead letter that changes its tenant, neither learns who the other is
--
CREATE ROLE regress_dlq_viewer IN ROLE sentinai_viewer;
CREATE ROLE regress_dlq_operator IN ROLE sentinai_operator;
SELECT tenant_role_add('regress_dlq_viewer', 'dlq_a'), tenant_role_add('regress_dlq_operator', 'dlq_a');
SET ROLE regress_dlq_viewer;
SELECT event_id, payload IS NULL FROM dlq_list('dlq_a');
SELECT total_entries FROM dlq_stats('dlq_a');
SELECT dlq_retry(1);
UPDATE dead_letter_queue SET status = 'pending';
RESET ROLE;
SET ROLE regress_dlq_operator;
SELECT count(*) FROM dlq_groups('dlq_a');
SELECT ok, sqlstate FROM dlq_retry_batch('{-1}');
DELETE FROM dead_letter_queue WHERE tenant_id = 'dlq_a';
RESET ROLE;
SELECT action, from_status, authenticated = session_user FROM dlq_history ORDER BY id DESC LIMIT 1;
INSERT INTO dead_letter_queue (event_id, event_type, tenant_id, worker_type, step, error_type, error_message, fingerprint, original_topic,
							   original_partition, original_offset, payload_raw)
VALUES ('moves', 'DlqTest', 'dlq_b', 'dlq_test', 'handle', 'timeout', 'late', 'f', 'dlq_test', 0, 1000000, '\x7b7d');
SELECT status FROM dlq_reassign(pg_temp.letter('moves'), 'dlq_a', 'it is theirs', 'ops');
SELECT status FROM dlq_reassign(pg_temp.letter('moves'), 'dlq_a', 'again', 'ops');
SELECT tenant_id, action, from_status, to_status, reason, actor, details FROM dlq_history(pg_temp.letter('moves'));
SELECT pg_temp.letter('moves') AS moved \gset
SET ROLE regress_dlq_viewer;
SELECT count(*), bool_or(h::text LIKE '%dlq_b%') AS knows_the_other FROM dlq_history(:moved) h;
RESET ROLE;
DELETE FROM dead_letter_queue WHERE event_id = 'moves';
DROP ROLE regress_dlq_viewer, regress_dlq_operator;
DELETE FROM tenant_role WHERE role_name ~ '^regress_dlq_';
DROP VIEW dlq_test.letters;
DELETE FROM dlq_test.broken;
