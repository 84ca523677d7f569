-- consume(): who may read what from where, and what becomes of records before a handler sees them.

SET search_path = sentinai, public;
SET timezone = 'UTC';
\set VERBOSITY terse
\pset format unaligned
\pset tuples_only on

CREATE FUNCTION pg_temp.ev(event_id text, event_type text, tenant_id text, exception_id text, payload jsonb DEFAULT '{}')
	RETURNS bytea LANGUAGE sql AS $$
	SELECT convert_to(jsonb_build_object('event_id', event_id, 'event_type', event_type, 'tenant_id', tenant_id,
		'exception_id', exception_id, 'timestamp', '2026-01-02T03:04:05Z', 'payload', payload)::text, 'UTF8') $$;

CREATE FUNCTION pg_temp.counts(r sentinai.consume_result) RETURNS text LANGUAGE sql AS $$
	SELECT format('handled %s, logged %s, duplicate %s, skipped %s, failed %s, parked %s, deferred %s, dead %s, emitted %s, due %s%s%s%s',
		r.handled, r.logged, r.duplicate, r.skipped, r.failed, r.parked, r.deferred, r.dead_lettered, r.emitted, r.due,
		CASE WHEN r.reload THEN ', reload' END, ', stop ' || r.stop, ', split ' || r.split) $$;

-- Sends values as the next records of partition 0 of the worker type's topic.
CREATE FUNCTION pg_temp.send(worker text, VARIADIC "values" bytea[]) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	w		sentinai.worker_type_effective := sentinai.worker_type_get(worker);
	k		sentinai.kafka_offset;
	records	sentinai.record[];
BEGIN
	SELECT * INTO k FROM sentinai.kafka_offset o WHERE o.group_id = w.group_id AND o.partition = 0;
	SELECT array_agg(ROW(w.topic, 0, k.next_offset + n - 1, k.epoch, '2026-01-01', 'key', NULL, v)::sentinai.record ORDER BY n)
	  INTO records FROM unnest("values") WITH ORDINALITY AS u(v, n);
	RETURN pg_temp.counts(sentinai.consume(worker, w.group_id, records));
END $$;

CREATE SCHEMA consume_test;
GRANT USAGE ON SCHEMA consume_test TO sentinai_handler;
CREATE TABLE consume_test.seen (n serial, worker text, tenant_id text, event_id text, exception_id text, at timestamptz);
GRANT INSERT ON consume_test.seen TO sentinai_handler;
GRANT USAGE ON consume_test.seen_n_seq TO sentinai_handler;
CREATE FUNCTION consume_test.first(e sentinai.event) RETURNS void LANGUAGE sql AS
	$$INSERT INTO consume_test.seen (worker, tenant_id, event_id, exception_id, at) VALUES ('first', e.tenant_id, e.event_id, e.exception_id, e."timestamp")$$;
CREATE FUNCTION consume_test.second(e sentinai.event[]) RETURNS void LANGUAGE sql AS
	$$INSERT INTO consume_test.seen (worker, tenant_id, event_id, exception_id, at) SELECT 'second', x.tenant_id, x.event_id, x.exception_id, x."timestamp" FROM unnest(e) x$$;
GRANT EXECUTE ON FUNCTION consume_test.first, consume_test.second TO sentinai_handler;

SELECT tenant_add('cons_a'), tenant_add('cons_b'), tenant_add('cons_old');
SELECT tenant_archive('cons_old');
SELECT event_type_add('ConsumeBoth'), event_type_add('ConsumeFirst'), event_type_add('ConsumeNobody');
SELECT worker_type_add('cons_first', 'cons'), worker_type_add('cons_second', 'cons');
SELECT name, owns_topic FROM worker_type_effective WHERE topic = 'cons' ORDER BY name;
SELECT handler_add('cons_first', 'ConsumeBoth', 'consume_test.first'), handler_add('cons_first', 'ConsumeFirst', 'consume_test.first');
SELECT handler_add('cons_second', 'ConsumeBoth', 'consume_test.second');

--
-- Configuration that is refused
--
SELECT handler_add('nobody', 'ConsumeBoth', 'consume_test.first');
SELECT handler_add('cons_first', 'Unheard', 'consume_test.first');
\set VERBOSITY default
\set SHOW_CONTEXT never
SELECT handler_add('cons_first', 'ConsumeBoth', 'consume_test.none');
\set VERBOSITY terse
SELECT handler_add('cons_first', 'ConsumeBoth', 'first');
SELECT handler_add('cons_first', 'ConsumeBoth', 'consume_test.first', timeout_ms => 0);
CREATE FUNCTION consume_test.of_text(e text) RETURNS void LANGUAGE sql AS 'SELECT';
CREATE FUNCTION consume_test.says(e sentinai.event) RETURNS boolean LANGUAGE sql AS 'SELECT false';
CREATE SCHEMA consume_closed;
CREATE FUNCTION consume_closed.take(e sentinai.event) RETURNS void LANGUAGE sql AS 'SELECT';
\set VERBOSITY default
\set SHOW_CONTEXT never
SELECT handler_add('cons_first', 'ConsumeBoth', 'consume_test.of_text');
SELECT handler_add('cons_first', 'ConsumeBoth', 'consume_test.says');
SELECT handler_add('cons_first', 'ConsumeBoth', 'consume_closed.take');
\set VERBOSITY terse
DROP SCHEMA consume_closed CASCADE;
SELECT handler_add('cons_first', 'ConsumeBoth', 'consume_test.first', 'nobody_at_all');
SELECT handler_add('intake', 'ExceptionIngested', 'consume_test.first');
SELECT handler_remove('cons_second', 'ConsumeFirst');
SELECT worker_type_add('Cons', 'cons');
SELECT worker_type_add('cons_first', 'cons');
SELECT worker_type_add('cons_third', 'cons', 'cons_first');
SELECT worker_type_add('cons_third', 'a topic');
SELECT * FROM worker_config('cons_first', 'elsewhere');
SELECT topic, group_id, owns_topic, display_name, http_port, handler_version = handler_version('cons_first') AS same_version,
	   event_types, length(emit_secret) FROM worker_config('cons_first');
SELECT display_name FROM worker_config('sla_monitor') UNION ALL SELECT display_name FROM worker_config('intake');

--
-- assign(): epochs, first positions, gaps
--
SELECT * FROM assign('cons_first', 'elsewhere', 'cons', 0);
SELECT * FROM assign('cons_first', 'cons_first', 'other', 0);
SELECT * FROM assign('cons_first', 'cons_first', 'cons', -1);
SELECT * FROM assign('cons_first', 'cons_first', 'cons', 0, 2, 'cluster', 0, 100, NULL);
SELECT * FROM assign('cons_first', 'cons_first', 'cons', 0, 2, 'cluster', 0, 100, 50);
SELECT * FROM assign('cons_first', 'cons_first', 'cons', 1, 2, 'cluster', 10, 100, 50);
SELECT * FROM assign('cons_first', 'cons_first', 'cons', 1, 2, 'cluster', 60, 100);
SELECT * FROM assign('cons_first', 'cons_first', 'cons', 1, 2, 'cluster', 0, 40);
SELECT stop IS NOT NULL FROM assign('cons_first', 'cons_first', 'cons', 1, 2, 'other cluster', 0, 100);
SELECT partition, next_offset, log_start, log_end, reason, resolved_at IS NULL FROM offset_gap WHERE group_id = 'cons_first' ORDER BY id;
SELECT * FROM offset_reset('cons_first', 'cons');
SELECT * FROM offset_reset('cons_first', 'cons', dry_run => false, reason => 'test');
SELECT * FROM offset_reset('cons_first', 'cons', 0, -1);
-- A name that is not there is an error, and not a quiet "nothing to mend".
SELECT * FROM offset_reset('cons_frist', 'cons');
SELECT * FROM offset_reset('cons_first', 'kons');
SELECT * FROM offset_reset('cons_first', 'cons', 99, 0);
SELECT epoch, next_offset, stop FROM assign('cons_first', 'cons_first', 'cons', 1, 2, 'other cluster', 0, 100);
SELECT incarnation, cluster_id FROM kafka_topic WHERE topic = 'cons';
SELECT count(*) FILTER (WHERE resolved_at IS NULL), count(*) FROM offset_gap WHERE group_id = 'cons_first';
SELECT epoch, next_offset FROM assign('cons_second', 'cons_second', 'cons', 0);

--
-- The call itself
--
SELECT consume('nobody', 'cons_first', '\x'::bytea);
SELECT consume('cons_first', 'cons_second', '\x'::bytea);
SELECT consume('cons_first', 'cons_first', '\x'::bytea);
SELECT consume('cons_first', 'cons_first', 'SNB1 and more'::bytea);
SELECT consume('cons_first', 'cons_first', ARRAY[NULL]::sentinai.record[]);
SELECT consume('cons_first', 'cons_first', ARRAY[ROW('cons', 0, NULL, 2, now(), NULL, NULL, NULL)]::sentinai.record[]);
SELECT consume('cons_first', 'cons_first', NULL::bytea) IS NULL;
SELECT pg_temp.counts(consume('cons_first', 'cons_first', ARRAY[]::sentinai.record[]));
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT consume('cons_first', 'cons_first', ARRAY[]::sentinai.record[]);
ROLLBACK;

-- An old epoch takes part in nothing.
SELECT pg_temp.counts(c), jsonb_path_query_array(c.partitions, '$[*].fenced')
  FROM consume('cons_first', 'cons_first', ARRAY[ROW('cons', 0, 0, 1, now(), 'k', NULL, pg_temp.ev('old', 'ConsumeBoth', 'cons_a', 'X'))]::sentinai.record[]) c;
SELECT count(*) FROM event_processing_log WHERE event_id = 'old';

--
-- Identity
--
SELECT pg_temp.send('cons_first', pg_temp.ev('E1', 'ConsumeBoth', 'cons_a', 'X1'));
\echo -- the same record again: a batch that is repeated
SELECT pg_temp.counts(c) FROM kafka_offset k,
	consume('cons_first', 'cons_first', ARRAY[ROW('cons', 0, 0, k.epoch, now(), 'k', NULL, pg_temp.ev('E1', 'ConsumeBoth', 'cons_a', 'X1'))]::sentinai.record[]) c
 WHERE k.group_id = 'cons_first' AND k.partition = 0;
\echo -- sent twice by the producer, by another tenant, with another payload, with another type
SELECT pg_temp.send('cons_first', pg_temp.ev('E1', 'ConsumeBoth', 'cons_a', 'X1'));
SELECT pg_temp.send('cons_first', pg_temp.ev('E1', 'ConsumeBoth', 'cons_b', 'X1'));
SELECT pg_temp.send('cons_first', pg_temp.ev('E1', 'ConsumeBoth', 'cons_a', 'X1', '{"other": true}'));
SELECT pg_temp.send('cons_first', pg_temp.ev('E1', 'ConsumeFirst', 'cons_a', 'X1'));
\echo -- twice in one batch, and once with another payload
SELECT pg_temp.send('cons_first', pg_temp.ev('E2', 'ConsumeBoth', 'cons_a', 'X1'), pg_temp.ev('E2', 'ConsumeBoth', 'cons_a', 'X1'),
					pg_temp.ev('E2', 'ConsumeBoth', 'cons_a', 'X1', '{"other": true}'));
\echo -- by the other group
SELECT pg_temp.send('cons_second', pg_temp.ev('E1', 'ConsumeBoth', 'cons_a', 'X1'), pg_temp.ev('E1', 'ConsumeBoth', 'cons_b', 'X1'),
					pg_temp.ev('E3', 'ConsumeFirst', 'cons_b', 'X1'));
SELECT worker, tenant_id, event_id, at FROM consume_test.seen ORDER BY n;
SELECT tenant_id, event_id, worker_type, status FROM event_processing_log WHERE worker_type LIKE 'cons%' ORDER BY 1, 2, 3;
\echo -- the owner logs what arrived, once
SELECT tenant_id, event_id, topic, partition, kafka_offset FROM event_log WHERE topic = 'cons' ORDER BY kafka_offset;
SELECT error_type, step, event_id, worker_type, retry_count FROM dead_letter_queue WHERE original_topic = 'cons' ORDER BY id;

\echo -- no event_id: derived from the place, the same every time
SELECT pg_temp.send('cons_first', convert_to('{"event_type":"ConsumeBoth","tenant_id":"cons_a","payload":{}}', 'UTF8'));
SELECT event_id = event_id_from_place('', 'cons', 2, 0, 8) OR event_id = event_id_from_place('other cluster', 'cons', 2, 0, 8), at
  FROM consume_test.seen ORDER BY n DESC LIMIT 1;

--
-- Poison: exactly one dead letter each, by the owner, with its bytes; the good ones arrive
--
CREATE TEMP TABLE poison (n serial, name text, value bytea);
INSERT INTO poison (name, value) VALUES
	('not JSON', 'hello'), ('half', '{"event_id":"P1"'), ('trailing', '{} {}'), ('array', '[]'), ('empty', ''),
	('NUL', '{"event_id":"a\000b"}'), ('escaped NUL', '{"event_id":"a\\u0000b","event_type":"ConsumeBoth","tenant_id":"cons_a","payload":{}}'),
	('lone surrogate', '{"event_id":"\\ud800","event_type":"ConsumeBoth","tenant_id":"cons_a","payload":{}}'),
	('bad UTF-8', '{"event_id":"\377","event_type":"ConsumeBoth","tenant_id":"cons_a","payload":{}}'),
	('UTF-16', '\377\376{\000}\000'),
	('deep', convert_to('{"event_type":"ConsumeBoth","tenant_id":"cons_a","payload":' || repeat('{"a":', 10000) || '1' || repeat('}', 10001), 'UTF8')),
	('big number', convert_to('{"event_type":"ConsumeBoth","tenant_id":"cons_a","payload":{"n":1e400000}}', 'UTF8')),
	('5 MiB', convert_to('{"event_type":"ConsumeBoth","tenant_id":"cons_a","payload":{"t":"' || repeat('x', 5 * 1024 * 1024) || '"}}', 'UTF8')),
	('no tenant', pg_temp.ev('P2', 'ConsumeBoth', NULL, 'X')), ('odd tenant', pg_temp.ev('P3', 'ConsumeBoth', 'a/b', 'X')),
	('unknown tenant', pg_temp.ev('P4', 'ConsumeBoth', 'cons_nobody', 'X')), ('archived tenant', pg_temp.ev('P5', 'ConsumeBoth', 'cons_old', 'X')),
	('no type', pg_temp.ev('P6', NULL, 'cons_a', 'X')), ('unknown type', pg_temp.ev('P7', 'ConsumeUnheard', 'cons_a', 'X')),
	('long id', pg_temp.ev(repeat('i', 300), 'ConsumeBoth', 'cons_a', 'X')), ('number as id', '{"event_id":1,"event_type":"ConsumeBoth","tenant_id":"cons_a","payload":{}}'),
	('no payload', '{"event_id":"P8","event_type":"ConsumeBoth","tenant_id":"cons_a"}'),
	('payload is text', '{"event_id":"P9","event_type":"ConsumeBoth","tenant_id":"cons_a","payload":"x"}'),
	('bad time', '{"event_id":"P10","event_type":"ConsumeBoth","tenant_id":"cons_a","payload":{},"timestamp":"yesterday"}'),
	('future version', '{"event_id":"P11","event_type":"ConsumeBoth","tenant_id":"cons_a","payload":{},"version":2}'),
	('tombstone', NULL);
SELECT setval('dead_letter_queue_id_seq', 1000);
SELECT pg_temp.send('cons_first', VARIADIC array_agg(v ORDER BY n, good)) FROM (
	SELECT n, 0 AS good, value AS v FROM poison
	UNION ALL SELECT n, 1, pg_temp.ev('good' || n, 'ConsumeBoth', 'cons_b', 'G' || n) FROM poison) x;
SELECT count(*) FROM consume_test.seen WHERE event_id LIKE 'good%' AND worker = 'first';
SELECT p.name, q.tenant_id, q.error_type, q.error_message, q.payload_raw IS NOT DISTINCT FROM p.value AS whole, q.status
  FROM poison p LEFT JOIN dead_letter_queue q ON q.id = 1000 + p.n ORDER BY p.n;
SELECT count(*) FROM dead_letter_queue WHERE id > 1000;
\echo -- what the bytes alone decide the second group skips, what the database decides is refused by whoever has a handler
SELECT pg_temp.send('cons_second', VARIADIC array_agg(value ORDER BY n)) FROM poison;
SELECT event_id, error_type, worker_type FROM dead_letter_queue WHERE id > 1026 ORDER BY id;
\echo -- a newer version, allowed
SET sentinai.allow_future_schema = on;
SELECT pg_temp.send('cons_first', '{"event_id":"P12","event_type":"ConsumeBoth","tenant_id":"cons_a","payload":{},"version":2}');
RESET sentinai.allow_future_schema;
\echo -- a known type without a handler is logged by the owner, and by nobody otherwise
SELECT pg_temp.send('cons_first', pg_temp.ev('N1', 'ConsumeNobody', 'cons_a', 'X'));
SELECT pg_temp.send('cons_first', pg_temp.ev('N1', 'ConsumeNobody', 'cons_a', 'X'));
SELECT pg_temp.send('cons_second', pg_temp.ev('N1', 'ConsumeNobody', 'cons_a', 'X'));
SELECT count(*) FROM event_log WHERE event_id = 'N1';

--
-- Headers that anybody can write
--
SELECT pg_temp.counts(c) FROM kafka_offset k, consume('cons_first', 'cons_first', ARRAY[
	ROW('cons', 0, k.next_offset, k.epoch, now(), 'k', ARRAY[ROW('sentinai-event-type', 'ConsumeNobody')::sentinai.header], pg_temp.ev('H1', 'ConsumeBoth', 'cons_a', 'H')),
	ROW('cons', 0, k.next_offset + 1, k.epoch, now(), 'k', ARRAY[ROW('sentinai-event-type', 'ConsumeBoth')::sentinai.header], pg_temp.ev('H2', 'ConsumeBoth', 'cons_a', 'H')),
	ROW('cons', 0, k.next_offset + 2, k.epoch, now(), 'k', ARRAY[ROW('sentinai-emitted', repeat('0', 64)::bytea)::sentinai.header], pg_temp.ev('H3', 'ConsumeBoth', 'cons_a', 'H')),
	ROW('cons', 0, k.next_offset + 3, k.epoch, now(), '\x00ff', ARRAY[ROW('sentinai-dlq-id', '1')::sentinai.header, ROW('sentinai-dlq-token', repeat('0', 36)::bytea)::sentinai.header], pg_temp.ev('H4', 'ConsumeBoth', 'cons_a', 'H')),
	ROW('cons', 0, k.next_offset + 4, k.epoch, now(), NULL, (SELECT array_agg(ROW('h', NULL)::sentinai.header) FROM generate_series(1, 100)), pg_temp.ev('H5', 'ConsumeBoth', 'cons_a', 'H'))
	]::sentinai.record[]) c WHERE k.group_id = 'cons_first' AND k.partition = 0;
SELECT event_id, error_type FROM dead_letter_queue WHERE event_id LIKE 'H_' ORDER BY 1;
SELECT event_id FROM event_log WHERE event_id LIKE 'H_' ORDER BY 1;

--
-- Where a topic's tenant comes from
--
SELECT topic_tenant_source_set('cons', 'elsewhere');
SELECT topic_tenant_source_set('cons', NULL);
SELECT topic_tenant_source_set('no topic', 'payload');
SELECT topic_tenant_source_set('cons', 'fixed');
SELECT topic_tenant_source_set('cons', 'fixed', 'cons_none');
SELECT topic_tenant_source_set('cons', 'key', ':');
SELECT topic_tenant_source_set('cons', 'header', '');
-- Sends records with a key and a header each.
CREATE FUNCTION pg_temp.send_as(worker text, key bytea, header text, header_value bytea, value bytea) RETURNS text LANGUAGE sql AS $$
	SELECT pg_temp.counts(c) FROM sentinai.kafka_offset k, sentinai.consume(worker, worker, ARRAY[
		ROW('cons', 0, k.next_offset, k.epoch, now(), key, ARRAY[ROW(header, header_value)::sentinai.header], value)]::sentinai.record[]) c
	 WHERE k.group_id = worker AND k.partition = 0 $$;
-- The mark of our publisher: HMAC-SHA256 under the secret over topic, key and value, each behind its length.
CREATE FUNCTION pg_temp.mark(topic text, key bytea, value bytea) RETURNS bytea LANGUAGE plpgsql AS $$
DECLARE
	secret	bytea := (SELECT s.secret FROM sentinai.emit_secret s) || decode(repeat('00', 32), 'hex');
	inner_	bytea := '';
	outer_	bytea := '';
BEGIN
	FOR i IN 0 .. 63 LOOP
		inner_ := inner_ || set_byte('\x00', 0, get_byte(secret, i) # 54);
		outer_ := outer_ || set_byte('\x00', 0, get_byte(secret, i) # 92);
	END LOOP;
	RETURN convert_to(encode(sha256(outer_ || sha256(inner_ || int2send(length(topic)::int2) || convert_to(topic, 'UTF8')
		|| int4send(length(key)) || key || int4send(length(value)) || value)), 'hex'), 'UTF8');
END $$;
SELECT topic_tenant_source_set('cons', 'fixed', 'cons_b');
SELECT pg_temp.send('cons_first', pg_temp.ev('T1', 'ConsumeBoth', NULL, 'T'), pg_temp.ev('T2', 'ConsumeBoth', 'cons_b', 'T'), pg_temp.ev('T3', 'ConsumeBoth', 'cons_a', 'T'));
SELECT topic_tenant_source_set('cons', 'key');
SELECT pg_temp.send('cons_first', pg_temp.ev('T4', 'ConsumeBoth', 'cons_b', 'T'));
SELECT pg_temp.send_as('cons_first', 'cons_a:E:1', 'h', NULL, pg_temp.ev('T6', 'ConsumeBoth', NULL, 'T'));
SELECT pg_temp.send_as('cons_first', 'cons_a:E:1', 'h', NULL, pg_temp.ev('T7', 'ConsumeBoth', 'cons_b', 'T'));
SELECT pg_temp.send_as('cons_first', '\x636f6e735f6100', 'h', NULL, pg_temp.ev('T8', 'ConsumeBoth', 'cons_a', 'T'));
SELECT topic_tenant_source_set('cons', 'header', 'x-tenant');
SELECT pg_temp.send_as('cons_first', 'k', 'x-tenant', 'cons_a', convert_to('{"event_id":"T5","event_type":"ConsumeBoth","payload":{}}', 'UTF8'));
SELECT pg_temp.send_as('cons_first', 'k', 'x-tenant', '\x636f6e735f610061', pg_temp.ev('T9', 'ConsumeBoth', 'cons_a', 'T'));
-- No header, and a tenant that the rule doesn't know: the same dead letter. What we have published ourselves needs no header.
SELECT pg_temp.send_as('cons_first', 'k', 'h', NULL, pg_temp.ev('TA', 'ConsumeBoth', 'cons_a', 'T'));
SELECT count(*) FROM worker_config('cons_first');
SELECT pg_temp.send_as('cons_first', 'k', 'sentinai-emitted', pg_temp.mark('cons', 'k', v), v) FROM pg_temp.ev('TB', 'ConsumeBoth', 'cons_a', 'T') v;
-- Both groups handle the type, so both refuse: the rule may be newer than what the owner took.
SELECT pg_temp.send_as('cons_second', 'k', 'x-tenant', 'cons_a', pg_temp.ev('TC', 'ConsumeBoth', 'cons_b', 'T'));
-- The retry of a dead letter has its tenant: the one that an admin has given it, whatever the rule says by then.
SELECT id AS mismatched FROM dead_letter_queue WHERE event_id = 'T9' \gset
SELECT status FROM dlq_reassign(:mismatched, 'cons_b');
SELECT via FROM dlq_retry(:mismatched, 'is theirs');
SELECT pg_temp.send_as('cons_first', 'k', 'x-tenant', 'cons_a', pg_temp.ev('TD', 'ConsumeBoth', 'cons_a', 'T'));
SELECT tenant_id, status FROM dead_letter_queue WHERE id = :mismatched;
SELECT topic_tenant_source_set('cons', 'payload');
SELECT tenant_source, tenant_value FROM kafka_topic WHERE topic = 'cons';
SELECT worker_type, tenant_id, event_id, error_type, error_detail FROM dead_letter_queue WHERE event_id LIKE 'T_' ORDER BY 3, 1;
SELECT tenant_id, event_id FROM consume_test.seen WHERE event_id LIKE 'T_' ORDER BY 2;

--
-- A suspended tenant's events wait
--
SELECT tenant_suspend('cons_b');
SELECT pg_temp.send('cons_first', pg_temp.ev('S1', 'ConsumeBoth', 'cons_b', 'S'), pg_temp.ev('S2', 'ConsumeBoth', 'cons_b', 'S'), pg_temp.ev('S3', 'ConsumeBoth', 'cons_a', 'S'));
SELECT event_id, status, next_attempt_at FROM event_pending WHERE worker_type = 'cons_first' AND status <> 'parked' ORDER BY id;
SELECT tenant_resume('cons_b');
SELECT pg_temp.send('cons_first', pg_temp.ev('S4', 'ConsumeBoth', 'cons_b', 'S'));
SELECT pg_temp.send('cons_first', pg_temp.ev('S5', 'ConsumeBoth', 'cons_b', 'S'));
SELECT pg_temp.send('cons_first', pg_temp.ev('S6', 'ConsumeBoth', 'cons_b', 'S'));
SELECT pg_temp.send('cons_first', pg_temp.ev('S7', 'ConsumeBoth', 'cons_b', 'S'));
SELECT string_agg(event_id, ' ' ORDER BY n) FROM consume_test.seen WHERE event_id LIKE 'S_' AND tenant_id = 'cons_b';
SELECT count(*) FROM key_state WHERE worker_type = 'cons_first';

--
-- A dead letter of no tenant, given to one: handled in the database, and its identity is taken from then on
--
SELECT id AS lost FROM dead_letter_queue WHERE event_id = 'P4' AND worker_type = 'cons_first' \gset
SELECT status FROM dlq_reassign(:lost, 'cons_a');
SELECT via FROM dlq_retry(:lost, 'is ours');
SELECT pg_temp.send('cons_first', pg_temp.ev('after', 'ConsumeBoth', 'cons_a', 'A'));
SELECT tenant_id, status FROM dead_letter_queue WHERE id = :lost;
SELECT tenant_id, event_id, status FROM event_processing_log WHERE event_id = 'P4' AND worker_type = 'cons_first';
SELECT pg_temp.send('cons_first', pg_temp.ev('P4', 'ConsumeBoth', 'cons_a', 'X'));
SELECT count(*) FROM consume_test.seen WHERE event_id = 'P4';

--
-- A dead letter of an event that nothing else knows any more (its log and its claim are past their retention) can be replayed
--
CREATE FUNCTION consume_test.shut(e sentinai.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM sentinai.fail(e, 'validation_error', 'shut');
END $$;
GRANT EXECUTE ON FUNCTION consume_test.shut TO sentinai_handler;
SELECT handler_add('cons_first', 'ConsumeFirst', 'consume_test.shut');
SELECT pg_temp.send('cons_first', pg_temp.ev('gone', 'ConsumeFirst', 'cons_a', 'GONE'));
SELECT handler_add('cons_first', 'ConsumeFirst', 'consume_test.first');
DELETE FROM event_log WHERE event_id = 'gone';
DELETE FROM event_processing_log WHERE event_id = 'gone';
SELECT id AS gone FROM dead_letter_queue WHERE event_id = 'gone' \gset
SELECT via FROM dlq_retry(:gone);
SELECT pg_temp.counts(c) FROM kafka_offset k, outbox o, consume('cons_first', 'cons_first', ARRAY[
	ROW('cons', 0, k.next_offset, k.epoch, now(), o.key, o.headers, o.value)]::sentinai.record[]) c
 WHERE k.group_id = 'cons_first' AND k.partition = 0 AND o.dlq_id = :gone;
SELECT status FROM dead_letter_queue WHERE id = :gone;
SELECT count(*) FROM consume_test.seen WHERE event_id = 'gone';

--
-- The topic gets another owner: that one refuses and logs from then on, and the old one no longer
--
SELECT worker_type_own('nobody');
SELECT handler_version('cons_first') AS first, handler_version('cons_second') AS second \gset
SELECT worker_type_own('cons_second');
\echo -- running workers of both are to read the topic with other eyes
SELECT handler_version('cons_first') <> :first, handler_version('cons_second') <> :second;
SELECT name, owns_topic FROM worker_type_effective WHERE topic = 'cons' ORDER BY name;
SELECT pg_temp.send('cons_first', 'neither', pg_temp.ev('O1', 'ConsumeNobody', 'cons_a', 'O'), pg_temp.ev('O2', 'ConsumeUnheard', 'cons_a', 'O'));
SELECT pg_temp.send('cons_second', 'neither', pg_temp.ev('O1', 'ConsumeNobody', 'cons_a', 'O'), pg_temp.ev('O2', 'ConsumeUnheard', 'cons_a', 'O'));
SELECT worker_type, error_type, event_id, convert_from(payload_raw, 'UTF8') = 'neither' AS raw FROM dead_letter_queue
 WHERE event_id = 'O2' OR payload_raw = 'neither' ORDER BY id;
SELECT count(*) FROM event_log WHERE event_id = 'O1';
SELECT worker_type_own('cons_first');
SELECT name, owns_topic FROM worker_type_effective WHERE topic = 'cons' ORDER BY name;

--
-- A list of handlers that changed
--
SELECT handler_version('cons_second') AS before \gset
SELECT handler_remove('cons_second', 'ConsumeBoth');
SELECT handler_version('cons_second') <> :before;
SELECT pg_temp.counts(consume('cons_second', 'cons_second', 'SNB1'::bytea || int8send(:before) || int4send(10) || int4send(0) || int4send(0)));
SELECT pg_temp.counts(consume('cons_second', 'cons_second', 'SNB1'::bytea || int8send(handler_version('cons_second')) || int4send(10) || int4send(0) || int4send(0)));
SELECT pg_temp.send('cons_second', pg_temp.ev('R1', 'ConsumeBoth', 'cons_a', 'R'));

DROP SCHEMA consume_test CASCADE;
