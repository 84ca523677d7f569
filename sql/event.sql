-- The event: how its bytes are read. jsonb_in is the oracle for what is JSON and what it means; the rules of the fields
-- are listed one by one.

SET search_path = sentinai, public;
SET timezone = 'UTC';
SET datestyle = 'ISO';

--
-- Against jsonb_in
--

-- A number below n that seed and i decide.
CREATE FUNCTION pg_temp.pick(seed bigint, i bigint, n integer) RETURNS integer LANGUAGE sql IMMUTABLE AS
	$$SELECT ((hashint8extended(i, seed) & 2147483647) % n)::integer$$;

CREATE TEMP TABLE piece (id serial, bytes bytea);
INSERT INTO piece (bytes)
SELECT convert_to(t, 'UTF8') FROM unnest(ARRAY[
	'{', '}', '[', ']', ',', ':', '"', '\', ' ', E'\t', E'\n', E'\r', E'\f', E'\u00a0', E'\u2028', '/', '\\', '\"', '\/', '\b',
	'\u', '\u00', '\u0000', '\u0001', '\u0041', '\u00e9', '\uFFFF', '\ud800', '\uDC00', '\ud83d\ude00', '\udbff\udfff',
	'\ud83d\u0041', '\ud83d\n', '\x', '\U0041', '\ud83', 'null', 'true', 'false', 'nul', 'True', 'NaN', 'Infinity', '-',
	'+', '.', 'e', 'E', 'e+', 'E-', '0', '1', '9', '00', '-0', '0.0', '1.50', '-1e5', '1E+2', '1e-3', '1.0e10', '100e-2', '1e999',
	'12345678901234567890', '0.1e-20', '1e0000000000000005', '""', '"a"', '"a":1', '"a":{},', '"":[]', 'a', E'\u00e9', E'\u20ac',
	E'\U0001F600', E'\x7f', E'\x01', E'\x1f', '//', '/**/', '#', '''a''', '_', '[[[[', ']]]]', '{"a":{"a":', '}}', ',,']) t
UNION ALL
SELECT b FROM unnest(ARRAY['\x00', '\x80', '\xbf', '\xc0', '\xc080', '\xc1bf', '\xc2', '\xc280', '\xe0', '\xe09fbf', '\xe0a080', '\xe282',
	'\xeda080', '\xedbfbf', '\xed9fbf', '\xef', '\xefbbbf', '\xefbfbf', '\xf08fbfbf', '\xf0908080', '\xf48fbfbf', '\xf4908080',
	'\xf5808080', '\xf09f98', '\xfe', '\xff', '\xfffe', '\xfeff']::bytea[]) b;

CREATE TEMP TABLE seed (id serial, bytes bytea);
INSERT INTO seed (bytes)
SELECT convert_to(t, 'UTF8') FROM unnest(ARRAY[
	'null', '1', '"text"', '[]', '{}', '-12.50', '1e10', '[1,2.50,"three",null,true,false,{},[]]',
	'{"a":1,"b":{"c":[1,2,{"d":null}]},"a":2}', '{"b":1,"aa":2,"a":3,"":4}', '"\u00e9\ud83d\ude00\n\\\""',
	E'["\u00e9","\U0001F600","\u20ac"]', '[[[[[[[[1]]]]]]]]', '{"a":{"a":{"a":{"a":{}}}}}', '[0,-0,0.0,-0.00,1.10,1e2,1.5e3,100e-2,1e-7]',
	'{"x\u0061":1,"xa":2,"x\u0061":3}', ' [ 1 , 2 ] ', '[123456789012345678,1234567890123456789,-999999999999999999,99999999999999999999999]',
	'{"event_id":"E1","event_type":"ExceptionIngested","tenant_id":"T1","exception_id":"X1","timestamp":"2025-01-31T12:00:00.5Z","correlation_id":null,"version":1,"payload":{"amount":12.50,"lines":[1,2,3],"text":"a\u00e9b"},"metadata":{"k":"v"}}',
	'{"event_type":"t","tenant_id":"t","payload":{},"tenant\u005fid":"u","event_type":"\u0074\ud83d\ude00","exception_id":"","version":1.0}'
	]) t;

-- Seed n, changed in one to three places.
CREATE FUNCTION pg_temp.mutant(n bigint) RETURNS bytea LANGUAGE plpgsql AS $$
DECLARE
	doc bytea := (SELECT bytes FROM seed WHERE id = 1 + pg_temp.pick(n, 0, (SELECT count(*)::integer FROM seed)));
	piece_count integer := (SELECT count(*) FROM piece);
	piece bytea;
	at integer;
	cut integer;
BEGIN
	FOR i IN 1 .. 1 + pg_temp.pick(n, 1, 3) LOOP
		at := pg_temp.pick(n, 10 * i, length(doc) + 1);
		cut := CASE pg_temp.pick(n, 10 * i + 1, 4) WHEN 0 THEN 1 WHEN 1 THEN pg_temp.pick(n, 10 * i + 2, 12) ELSE 0 END;
		SELECT bytes INTO piece FROM pg_temp.piece WHERE id = 1 + pg_temp.pick(n, 10 * i + 3, piece_count);
		IF pg_temp.pick(n, 10 * i + 4, 5) = 0 THEN
			-- a part of its own, once more
			piece := substr(doc, 1 + pg_temp.pick(n, 10 * i + 5, length(doc) + 1), pg_temp.pick(n, 10 * i + 6, 20));
		END IF;
		doc := substr(doc, 1, at) || piece || substr(doc, at + cut + 1);
	END LOOP;
	RETURN doc;
END $$;

CREATE FUNCTION pg_temp.oracle(doc bytea) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
	RETURN convert_from(doc, 'UTF8')::jsonb;
EXCEPTION WHEN data_exception OR character_not_in_repertoire OR untranslatable_character THEN
	RETURN NULL;
END $$;

-- How the two agree about one text.
CREATE FUNCTION pg_temp.verdict(doc bytea) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	theirs jsonb := pg_temp.oracle(doc);
	ours record;
BEGIN
	SELECT * INTO ours FROM event_parse(doc, '2000-01-01');
	IF ours.message IN ('event has a number out of range', 'event is nested too deeply', 'event is too large') THEN
		RETURN 'over a limit of ours';
	ELSIF ours.message IN ('event is not valid JSON', 'event is empty') THEN
		RETURN CASE WHEN theirs IS NULL THEN 'both refuse' ELSE 'WE REFUSE' END;
	ELSIF theirs IS NULL THEN
		RETURN 'WE ACCEPT';
	ELSIF jsonb_typeof(theirs) <> 'object' THEN
		RETURN CASE ours.message WHEN 'event is not a JSON object' THEN 'both accept, no object' ELSE 'WE TAKE IT FOR AN OBJECT' END;
	ELSIF jsonb_typeof(theirs -> 'payload') = 'object'
		AND (jsonb_send(ours.payload) = jsonb_send(theirs -> 'payload')) IS NOT TRUE THEN
		RETURN 'PAYLOAD DIFFERS';
	ELSIF ours.ok AND (ours.event_type, ours.tenant_id) IS DISTINCT FROM (theirs ->> 'event_type', theirs ->> 'tenant_id')
		OR ours.ok AND (ours.event_id, ours.exception_id) IS DISTINCT FROM (theirs ->> 'event_id', theirs ->> 'exception_id')
		OR ours.ok AND ours.correlation_id IS DISTINCT FROM coalesce(theirs ->> 'correlation_id', theirs ->> 'exception_id')
		OR ours.ok AND ours.version IS DISTINCT FROM coalesce((theirs ->> 'version')::integer, 1)
		OR ours.ok AND ours.metadata IS DISTINCT FROM nullif(theirs -> 'metadata', 'null') THEN
		RETURN 'FIELDS DIFFER';
	END IF;
	RETURN 'both accept' || CASE WHEN ours.ok THEN ', an event' ELSE '' END;
END $$;

CREATE TEMP TABLE doc AS
WITH one AS (
	SELECT bytes FROM seed
	UNION ALL SELECT bytes FROM piece
	UNION ALL SELECT '"'::bytea || bytes || '"'::bytea FROM piece
	UNION ALL SELECT '[1'::bytea || bytes || ']'::bytea FROM piece
	UNION ALL SELECT pg_temp.mutant(n) FROM generate_series(1, 25000) n
)
SELECT bytes FROM one
UNION ALL
SELECT '{"event_type":"t","tenant_id":"t","payload":{"d":'::bytea || bytes || '}}'::bytea FROM one;

CREATE TEMP TABLE outcome AS SELECT bytes, pg_temp.verdict(bytes) AS verdict FROM doc;
SELECT count(*) FROM outcome;
SELECT verdict, count(*) > 100 AS many FROM outcome GROUP BY 1 ORDER BY 1;
SELECT verdict, encode(bytes, 'escape') FROM outcome WHERE verdict ~ '^[A-Z]' ORDER BY length(bytes) LIMIT 10;

-- Times: what we read is what timestamptz reads.
CREATE TEMP TABLE moment AS
SELECT format('%s-%s-%sT%s:%s:%s%s%s', to_char(pg_temp.pick(n, 1, 9999) + 1, 'FM0000'), to_char(pg_temp.pick(n, 2, 12) + 1, 'FM00'),
	to_char(pg_temp.pick(n, 3, 31) + 1, 'FM00'), to_char(pg_temp.pick(n, 4, 24), 'FM00'), to_char(pg_temp.pick(n, 5, 60), 'FM00'),
	to_char(pg_temp.pick(n, 6, 60), 'FM00'), (ARRAY['', '.5', '.123456', '.000001', '.999999'])[1 + pg_temp.pick(n, 7, 5)],
	(ARRAY['Z', 'z', '+00:00', '-00:00', '+05:30', '-11:59', '+14:00'])[1 + pg_temp.pick(n, 8, 7)]) AS t
FROM generate_series(1, 2000) n;
CREATE FUNCTION pg_temp.moment_oracle(t text) RETURNS timestamptz LANGUAGE plpgsql AS $$
BEGIN
	RETURN t::timestamptz;
EXCEPTION WHEN datetime_field_overflow THEN
	RETURN NULL;
END $$;
SELECT count(*) AS moments, count(*) FILTER (WHERE theirs IS NULL) BETWEEN 20 AND 100 AS some_bad_days,
	count(*) FILTER (WHERE ours IS DISTINCT FROM theirs) AS different
FROM (
	SELECT t, pg_temp.moment_oracle(t) AS theirs, CASE WHEN p.ok THEN p."timestamp" END AS ours
	FROM moment, event_parse(convert_to(format('{"event_type":"t","tenant_id":"t","payload":{},"timestamp":"%s"}', t), 'UTF8')) p
) m;

--
-- The rules of the fields
--

-- What becomes of a good event with some fields replaced; a value that is undefined takes its field away.
CREATE FUNCTION pg_temp.attempt(change text, drop_field text DEFAULT '') RETURNS text LANGUAGE sql AS $$
	SELECT CASE WHEN p.ok THEN 'ok' ELSE p.error_type || ': ' || p.message || coalesce(' | ' || p.detail, '') END
	FROM event_parse(convert_to((
		'{"event_id": "E1", "event_type": "T", "tenant_id": "acme", "exception_id": "X", "payload": {}}'::jsonb - drop_field || change::jsonb
	)::text, 'UTF8')) p
$$;

SELECT c, pg_temp.attempt(c) FROM unnest(ARRAY[
	'{}',
	'{"tenant_id": null}', '{"tenant_id": 1}', '{"tenant_id": ""}', '{"tenant_id": "a b"}', '{"tenant_id": "a\nb"}',
	'{"tenant_id": "é"}', '{"tenant_id": "A-z_0.9"}',
	'{"event_type": null}', '{"event_type": []}', '{"event_type": ""}',
	'{"event_id": null}', '{"event_id": 17}', '{"event_id": ""}', '{"event_id": {}}', '{"event_id": true}',
	'{"exception_id": null}', '{"exception_id": 1.5}', '{"exception_id": ""}',
	'{"correlation_id": null}', '{"correlation_id": false}',
	'{"version": null}', '{"version": 1}', '{"version": 0}', '{"version": -1}', '{"version": 1.5}', '{"version": "1"}',
	'{"version": 2}', '{"version": 2147483648}', '{"version": 99999999999999999999}',
	'{"payload": null}', '{"payload": []}', '{"payload": "{}"}',
	'{"metadata": null}', '{"metadata": {}}', '{"metadata": []}', '{"metadata": 1}',
	'{"timestamp": null}', '{"timestamp": 1738324800}', '{"timestamp": ""}', '{"timestamp": "2025-01-31T12:00:00Z"}',
	'{"unknown": 1}'
	]) WITH ORDINALITY AS u (c, n) ORDER BY n;

SELECT f, pg_temp.attempt('{}', f) FROM unnest(ARRAY['event_id', 'event_type', 'tenant_id', 'exception_id', 'payload']) WITH ORDINALITY AS u (f, n)
ORDER BY n;

-- Lengths count bytes, not characters.
SELECT f, c, n, pg_temp.attempt(jsonb_build_object(f, repeat(c, n))::text)
FROM (VALUES ('event_id', 'x', 255), ('event_id', 'x', 256), ('event_id', 'é', 127), ('event_id', 'é', 128), ('event_type', 'x', 255),
	('event_type', 'x', 300), ('exception_id', 'x', 255), ('exception_id', 'x', 256), ('correlation_id', 'x', 256),
	('tenant_id', 'x', 64), ('tenant_id', 'x', 65), ('tenant_id', 'x', 5000)) AS v (f, c, n);

SELECT t, pg_temp.attempt(jsonb_build_object('timestamp', t)::text)
FROM unnest(ARRAY['2025-01-31', '2025-01-31T12:00:00', '2025-01-31 12:00:00Z', '2025-01-31T12:00Z', '2025-01-31T24:00:00Z',
	'2025-02-29T12:00:00Z', '2024-02-29T12:00:00Z', '2025-13-01T12:00:00Z', '2025-00-01T12:00:00Z', '2025-01-31T12:00:60Z', '2025-01-31T12:00:61Z',
	'2025-01-31T12:00:00.Z', '2025-01-31T12:00:00+1:00', '2025-01-31T12:00:00+0100', '2025-01-31T12:00:00+24:00', '2025-01-31T12:00:00Z ',
	'25-01-31T12:00:00Z', '+2025-01-31T12:00:00Z', 'now', 'infinity', 'epoch', '2025-01-31T12:00:00 Europe/Rome', '0000-01-01T00:00:00Z',
	'9999-12-31T23:59:59.9999999Z']) WITH ORDINALITY AS u (t, n) ORDER BY n;

-- The record's time where the event has none; digits beyond microseconds are rounded; a leap second is the next second.
SELECT t, "timestamp" FROM unnest(ARRAY['null', '"2025-01-31T12:00:00.1234565Z"', '"2025-01-31T12:00:00.1234564999+02:00"', '"2016-12-31T23:59:60Z"'])
	WITH ORDINALITY AS u (t, n), event_parse(convert_to('{"event_type":"T","tenant_id":"t","payload":{},"timestamp":' || t || '}', 'UTF8'), '2001-02-03 04:05:06') p
ORDER BY n;

-- A later version is refused by a setting, and what it holds can be seen.
SELECT ok, event_id, version, payload, message, detail
FROM event_parse('{"event_id":"E","event_type":"T","tenant_id":"t","version":2,"payload":{"a":1}}');
SET sentinai.allow_future_schema = on;
SELECT ok, event_id, version, payload FROM event_parse('{"event_id":"E","event_type":"T","tenant_id":"t","version":2,"payload":{"a":1}}');
RESET sentinai.allow_future_schema;

--
-- Whole records
--

SELECT what, ok, event_id, event_type, tenant_id, message, detail
FROM (VALUES
	(1, 'tombstone', NULL::bytea),
	(2, 'empty', ''),
	(3, 'white space', '  '),
	(4, 'no object', '[1]'),
	(5, 'cut off', '{"event_id":"E","event_type":"T","tenant_id":"t","payload":{"a":'),
	(6, 'text behind', '{"event_id":"E","event_type":"T","tenant_id":"t","payload":{}} x'),
	(7, 'UTF-16', '\xfffe7b007d00'),
	(8, 'UTF-16 without a mark', '\x7b007d00'),
	(9, 'UTF-8 with a mark', '\xefbbbf7b7d'),
	(10, 'NUL', '{"event_id":"E","payload":{"a":"'::bytea || '\x00'::bytea || '"}}'),
	(11, 'escaped NUL', '{"event_id":"E","tenant_id":"t","event_type":"\\u0000"}'),
	(12, 'lone surrogate', '{"event_id":"E","tenant_id":"\\ud800"}'),
	(13, 'bytes that are no text in an id', '{"event_type":"T","event_id":"'::bytea || '\xff'::bytea || '","tenant_id":"t"}'),
	(14, '10,000 levels', convert_to('{"event_id":"E","payload":' || repeat('[', 10000) || repeat(']', 10000) || '}', 'UTF8')),
	(15, '1e400000', '{"event_id":"E","payload":{"a":1e400000}}'),
	(16, '1,001 digits', convert_to('{"event_id":"E","payload":{"a":' || repeat('7', 1001) || '}}', 'UTF8')),
	(17, '5 MiB', convert_to('{"event_id":"E","event_type":"T","tenant_id":"t","payload":{"a":"' || repeat('x', 5 * 1024 * 1024) || '"}}', 'UTF8')),
	(18, '300 bytes of id', convert_to('{"event_id":"' || repeat('x', 300) || '","event_type":"T","tenant_id":"t","payload":{}}', 'UTF8')),
	(19, 'fields twice', '{"tenant_id":"a","event_id":"E","event_type":"T","tenant_id":"b","payload":[],"payload":{}}')
) AS v (n, what, value), event_parse(value) ORDER BY n;

-- The largest that is taken: 1 MiB, 128 levels, 1,000 digits, exponent 1,000.
SELECT ok, length(payload ->> 'a') FROM event_parse(convert_to(
	'{"event_type":"T","tenant_id":"t","payload":{"a":"' || repeat('x', 1024 * 1024 - 53) || '"}}', 'UTF8'));
SELECT ok, message FROM event_parse(convert_to(
	'{"event_type":"T","tenant_id":"t","payload":{"a":"' || repeat('x', 1024 * 1024 - 52) || '"}}', 'UTF8'));
SELECT ok, message FROM generate_series(126, 127) n, event_parse(convert_to(
	'{"event_type":"T","tenant_id":"t","payload":{"a":' || repeat('[', n) || repeat(']', n) || '}}', 'UTF8'));
SELECT ok, length(payload ->> 'a') AS a, payload -> 'b' = to_jsonb(1e1000) AS b FROM event_parse(convert_to(
	'{"event_type":"T","tenant_id":"t","payload":{"a":' || repeat('7', 1000) || ',"b":1e1000}}', 'UTF8'));
-- A MiB of small values.
SELECT ok, jsonb_array_length(payload -> 'a') FROM event_parse(convert_to(
	'{"event_type":"T","tenant_id":"t","payload":{"a":[' || repeat('1,', 500000) || '1]}}', 'UTF8'));

--
-- The hash: the type and what the payload means, not how it is written
--

CREATE FUNCTION pg_temp.hash(payload text, event_type text DEFAULT 'T', rest text DEFAULT '') RETURNS bigint LANGUAGE sql AS $$
	SELECT hash FROM event_parse(convert_to(format('{"event_type":"%s","tenant_id":"t","payload":%s%s}', event_type, payload, rest), 'UTF8'))
$$;
SELECT a, b, pg_temp.hash(a) = pg_temp.hash(b) AS same
FROM (VALUES
	(1, '{"a":1,"b":2}', '{ "b":2 , "a":1 }'),
	(2, '{"a":1}', '{"a":2}'),
	(3, '{"a":1}', '{"a":"1"}'),
	(4, '{"a":1.50}', '{"a":1.5}'),
	(5, '{"a":100}', '{"a":1e2}'),
	(6, '{"a":1.00}', '{"a":100e-2}'),
	(7, '{"a":-0.0}', '{"a":0}'),
	(8, '{"a":10000}', '{"a":1000}'),
	(9, '{"a":2,"a":1}', '{"a":1}'),
	(10, '{"a":"\u00e9"}', '{"a":"é"}'),
	(11, '{"a":null}', '{}'),
	(12, '{"a":[1,2]}', '{"a":[2,1]}')
) AS v (n, a, b) ORDER BY n;
SELECT pg_temp.hash('{}', 'T') = pg_temp.hash('{}', 'U') AS same_for_other_type,
	pg_temp.hash('{}') = pg_temp.hash('{}', 'T', ',"metadata":{"a":1},"timestamp":"2025-01-31T12:00:00Z","event_id":"x"') AS same_for_other_rest;
SELECT count(DISTINCT pg_temp.hash(format('{"n":%s}', n))) FROM generate_series(1, 1000) n;

--
-- Objects of 1 to 60 members, keys of all orders, many of them more than once: as jsonb_in makes them
--

WITH made AS (
	SELECT n, '{' || string_agg(format('"%s":%s', repeat(chr(97 + i * 7 % 5), i * n % 4),
		(ARRAY[i::text, '"x"', '{"b":1,"a":[1,{"zz":null,"y":2}],"b":3}', '[]'])[1 + i % 4]), ',') || '}' AS payload
	FROM generate_series(1, 60) n, generate_series(1, n) i GROUP BY n
)
SELECT count(*), count(*) FILTER (WHERE p.payload::text = m.payload::jsonb::text) AS same, max(n) FILTER (WHERE NOT p.ok) AS refused
FROM made m, event_parse(convert_to(format('{"event_id":"e","event_type":"t","tenant_id":"a","payload":%s}', m.payload), 'UTF8')) p;

--
-- Ids of events that bring none
--

SELECT event_id_from_place('cluster', 'exceptions', 0, 3, 42);
SELECT count(DISTINCT event_id_from_place(c, t, i, p, o)) AS different,
	bool_and(event_id_from_place(c, t, i, p, o) ~ '^[0-9a-f]{8}-[0-9a-f]{4}-5[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$') AS version_5
FROM unnest(ARRAY['a', 'ab']) c, unnest(ARRAY['b', 'bb']) t, generate_series(0, 4) i, generate_series(0, 4) p, generate_series(0, 9) o;

SELECT event_id_derived('acme', 'E1', '2025-01-31 12:00:00.123456+00', 'intake', 1);
SELECT count(DISTINCT event_id_derived(t, e, s, w, o)) AS different,
	bool_and(event_id_derived(t, e, s, w, o) ~ '^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$') AS version_8
FROM unnest(ARRAY['a', 'ab']) t, unnest(ARRAY['b', 'bb']) e, unnest(ARRAY['x', 'y']) w,
	unnest(ARRAY['2025-01-31', '2025-02-01']::timestamptz[]) s, generate_series(1, 10) o;
-- They sort by the parent's time, whatever that is.
SELECT s, left(event_id_derived('t', 'e', s, 'w', 1), 13)
FROM unnest(ARRAY['-infinity', '1969-12-31', '1970-01-01 00:00:00.001', '2025-01-31', '9999-12-31', '294276-12-31', 'infinity']::timestamptz[]) s;
