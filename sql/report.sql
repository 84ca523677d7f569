-- Reports: asked for, made by background workers, downloaded, proved, expired.

SET search_path = sentinai, public;
\set VERBOSITY terse
\pset format unaligned
\pset tuples_only on

-- Waits until nothing is left to make, and says how each report of the tenant ended.
CREATE PROCEDURE pg_temp.made() LANGUAGE plpgsql AS $$
DECLARE
	ends	timestamptz := clock_timestamp() + interval '2 min';
BEGIN
	WHILE EXISTS (SELECT FROM sentinai.audit_report WHERE status IN ('pending', 'generating')) LOOP
		IF clock_timestamp() > ends THEN
			RAISE 'waited in vain for %', (SELECT array_agg(r) FROM sentinai.audit_report r WHERE status IN ('pending', 'generating'));
		END IF;
		PERFORM pg_sleep(0.02);
	END LOOP;
END $$;
CREATE FUNCTION pg_temp.ask(type text, format text DEFAULT 'csv', parameters jsonb DEFAULT '{}', title text DEFAULT NULL) RETURNS text LANGUAGE sql AS $$
	SELECT id FROM sentinai.report_request('REPORT_T', type, coalesce(title, type), format,
		'{"from_date": "2025-01-01", "to_date": "2025-01-31"}'::jsonb || parameters, 'ann@example.com') $$;
CREATE FUNCTION pg_temp.report(title text) RETURNS text LANGUAGE sql AS $$
	SELECT id FROM sentinai.audit_report WHERE tenant_id = 'REPORT_T' AND title = $1 ORDER BY seq DESC LIMIT 1 $$;
CREATE FUNCTION pg_temp.content(title text) RETURNS text LANGUAGE sql AS $$
	SELECT replace(convert_from(content, 'UTF8'), E'\r\n', E'<CR LF>\n') FROM sentinai.report_download(pg_temp.report(title)) $$;
CREATE FUNCTION pg_temp.sqlstate(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	detail	text;
BEGIN
	EXECUTE statement;
	RETURN 'no error';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
	RETURN SQLSTATE || ' ' || SQLERRM || coalesce(nullif(' / ' || detail, ' / '), '');
END $$;

SELECT tenant_add('REPORT_T');
SELECT rate_limit_set('REPORT_T', 'report_generations', 1000) IS NULL;
CREATE SCHEMA report_test;
CREATE TABLE report_test.thing (tenant_id text, id integer, name text, amount numeric, ratio float8, at timestamptz, ok boolean, more jsonb,
	PRIMARY KEY (tenant_id, id));

-- ---- types of one's own

SELECT report_type_add('things',
	'SELECT id, id, name, amount, ratio, at, ok, more FROM report_test.thing
	  WHERE tenant_id = $1 AND at >= $2 AND at < $3 AND id > coalesce($6[1]::integer, -1) AND ($4->>''but'' IS NULL OR name <> $4->>''but'')
	  ORDER BY id LIMIT $7', 'Things', '{"but": {"type": "text"}}', key_columns => 1);
SELECT report_type_add('things_now', 'SELECT name, more FROM report_test.thing WHERE tenant_id = $1 ORDER BY id -- all', snapshot => true, row_limit => 100);
SELECT report_type, title, parameters, reproducible, builtin FROM report_type_list() WHERE NOT builtin;
SELECT q, pg_temp.sqlstate(q) FROM unnest(ARRAY[
	$$SELECT report_type_add('Bad name', 'SELECT 1 AS a', snapshot => true)$$,
	$$SELECT report_type_add(NULL, 'SELECT 1 AS a', snapshot => true)$$,
	$$SELECT report_type_add('bad', NULL, snapshot => true)$$,
	$$SELECT report_type_add('bad', '', snapshot => true)$$,
	$$SELECT report_type_add('bad', 'SELECT 1 AS a')$$,
	$$SELECT report_type_add('bad', 'SELECT 1 AS a', key_columns => 1, snapshot => true)$$,
	$$SELECT report_type_add('bad', 'SELECT 1 AS a', key_columns => 1)$$,
	$$SELECT report_type_add('bad', 'SELECT 1 AS a, 2 AS a', snapshot => true)$$,
	$$SELECT report_type_add('bad', 'SELECT 1 AS a; SELECT 2', snapshot => true)$$,
	$$SELECT report_type_add('bad', 'SELECT 1 AS a;', snapshot => true)$$,
	$$SELECT report_type_add('bad', 'DELETE FROM report_test.thing', snapshot => true)$$,
	$$SELECT report_type_add('bad', 'DELETE FROM report_test.thing RETURNING id', snapshot => true)$$,
	$$SELECT report_type_add('bad', 'SELECT * FROM nowhere', snapshot => true)$$,
	$$SELECT report_type_add('bad', 'SELECT 1 AS a', parameters => '[]', snapshot => true)$$,
	$$SELECT report_type_add('bad', 'SELECT 1 AS a', parameters => '{"x": {"type": "uuid"}}', snapshot => true)$$,
	$$SELECT report_type_add('bad', 'SELECT 1 AS a', parameters => '{"from_date": {"type": "text"}}', snapshot => true)$$,
	$$SELECT report_type_add('bad', 'SELECT 1 AS a', snapshot => true, row_limit => 0)$$,
	$$SELECT report_type_add('bad', 'SELECT 1 AS k, 1 AS a', key_columns => 1, row_limit => 10)$$,
	$$SELECT report_type_remove('bad')$$]) q;

-- ---- what is refused before anything is queued

SELECT report_type_add('picky', 'SELECT 1 AS a', parameters => '{"n": {"type": "integer", "required": true}, "color": {"type": "text", "values": ["red", "blue"], "default": "red"},
	"since": {"type": "time"}, "yes": {"type": "boolean"}}', snapshot => true);
SELECT p, pg_temp.sqlstate(format('SELECT * FROM sentinai.report_request(%s)', p)) FROM unnest(ARRAY[
	$$NULL, 'things', 't', 'csv', '{}'$$,
	$$'NOBODY', 'things', 't', 'csv', '{}'$$,
	$$'REPORT_T', NULL, 't', 'csv', '{}'$$,
	$$'REPORT_T', 'nothing', 't', 'csv', '{}'$$,
	$$'REPORT_T', 'things', NULL, 'csv', '{}'$$,
	$$'REPORT_T', 'things', ' ', 'csv', '{}'$$,
	$$'REPORT_T', 'things', E'a\nb', 'csv', '{}'$$,
	$$'REPORT_T', 'things', repeat('x', 301), 'csv', '{}'$$,
	$$'REPORT_T', 'things', 't', NULL, '{}'$$,
	$$'REPORT_T', 'things', 't', 'xlsx', '{}'$$,
	$$'REPORT_T', 'things', 't', 'csv', '[]'$$,
	$$'REPORT_T', 'things', 't', 'csv', NULL$$,
	$$'REPORT_T', 'things', 't', 'csv', '{"from_date": "2025-01-01"}'$$,
	$$'REPORT_T', 'things', 't', 'csv', '{"from_date": null, "to_date": "2025-01-01"}'$$,
	$$'REPORT_T', 'things', 't', 'csv', '{"from_date": "yesterday", "to_date": "2025-01-01"}'$$,
	$$'REPORT_T', 'things', 't', 'csv', '{"from_date": "2025-02-30", "to_date": "2025-03-01"}'$$,
	$$'REPORT_T', 'things', 't', 'csv', '{"from_date": "2025-01-01T25:00:00Z", "to_date": "2025-03-01"}'$$,
	$$'REPORT_T', 'things', 't', 'csv', '{"from_date": 20250101, "to_date": "2025-01-01"}'$$,
	$$'REPORT_T', 'things', 't', 'csv', '{"from_date": "2025-01-02", "to_date": "2025-01-01"}'$$,
	$$'REPORT_T', 'things', 't', 'csv', '{"from_date": "2023-01-01", "to_date": "2025-01-01"}'$$,
	$$'REPORT_T', 'things', 't', 'csv', '{"from_date": "2025-01-01", "to_date": "2025-01-01", "color": "red"}'$$,
	$$'REPORT_T', 'things', 't', 'csv', '{"from_date": "2025-01-01", "to_date": "2025-01-01", "but": 1}'$$,
	$$'REPORT_T', 'picky', 't', 'csv', '{"from_date": "2025-01-01", "to_date": "2025-01-01"}'$$,
	$$'REPORT_T', 'picky', 't', 'csv', '{"from_date": "2025-01-01", "to_date": "2025-01-01", "n": 1.5}'$$,
	$$'REPORT_T', 'picky', 't', 'csv', '{"from_date": "2025-01-01", "to_date": "2025-01-01", "n": 1, "color": "green"}'$$,
	$$'REPORT_T', 'picky', 't', 'csv', '{"from_date": "2025-01-01", "to_date": "2025-01-01", "n": 1, "since": "soon"}'$$,
	$$'REPORT_T', 'picky', 't', 'csv', '{"from_date": "2025-01-01", "to_date": "2025-01-01", "n": 1, "yes": "yes"}'$$,
	$$'REPORT_T', 'things', 't', 'csv', '{"from_date": "2025-01-01", "to_date": "2025-01-01"}', ''$$,
	$$'REPORT_T', 'things', 't', 'csv', jsonb_build_object('from_date', '2025-01-01', 'to_date', '2025-01-01', 'but', repeat('x', 10000))$$]) p;
SELECT count(*) FROM audit_report WHERE tenant_id = 'REPORT_T';

-- A period: dates to their ends, times with themselves, UTC where nothing else is said.
SELECT f, t, report_time(to_jsonb(f), 'from_date', false) AT TIME ZONE 'UTC', report_time(to_jsonb(t), 'to_date', true) AT TIME ZONE 'UTC'
  FROM (VALUES ('2025-01-01', '2025-01-31'), ('2025-01-01T00:00:00Z', '2025-01-31T23:59:59Z'), ('2025-01-01T02:00:00+02:00', '2025-01-31 23:59'),
			   ('2024-02-29', '2024-02-29'), ('2025-01-01T00:00:00.5', '2025-01-01T01:00:00.123456-01')) v (f, t);

-- ---- what becomes of a cell

INSERT INTO report_test.thing VALUES
	('REPORT_T', 1, 'plain', 1.50, 0.1, '2025-01-01 00:00+00', true, '{"a": [1, "x"]}'),
	('REPORT_T', 2, 'comma, "quote"', -3, 'NaN', '2025-01-02 12:00:00.000001+00', false, NULL),
	('REPORT_T', 3, E'two\nlines\r\nand\ta tab', 12345678901234567890.5, 'Infinity', '2025-01-31 23:59:59.999999+00', NULL, '"text"'),
	('REPORT_T', 4, '=HYPERLINK("http://evil","x")', 0, -0.5, '2025-01-03 00:00+00', true, 'null'),
	('REPORT_T', 5, '+1-2', 0, 0, '2025-01-03 00:00+00', true, '1'),
	('REPORT_T', 6, '-12.5', 0, 0, '2025-01-03 00:00+00', true, '{}'),
	('REPORT_T', 7, '@SUM(A1)', 0, 0, '2025-01-03 00:00+00', true, '[]'),
	('REPORT_T', 8, E'\t=1', 0, 0, '2025-01-03 00:00+00', true, NULL),
	('REPORT_T', 9, '＝1+1', 0, 0, '2025-01-03 00:00+00', true, NULL),
	('REPORT_T', 10, '', NULL, NULL, '2025-01-03 00:00+00', NULL, NULL),
	('REPORT_T', 11, NULL, NULL, 1e300, '2025-01-03 00:00+00', NULL, NULL),
	('REPORT_T', 12, 'Grüße, 世界 שלום 👋', NULL, NULL, '2025-01-03 00:00+00', NULL, '{"k": "\u0001\"\\ü"}'),
	('REPORT_T', 13, E' space, \\ backslash, \x01 and \x7f ', NULL, NULL, '2025-01-03 00:00+00', NULL, NULL),
	('REPORT_T', 14, 'before the period', NULL, NULL, '2024-12-31 23:59:59.999999+00', NULL, NULL),
	('REPORT_T', 15, 'after the period', NULL, NULL, '2025-02-01 00:00+00', NULL, NULL),
	('OTHER', 1, 'another tenant''s', 0, 0, '2025-01-03 00:00+00', true, NULL);
SELECT pg_temp.ask('things', 'csv', title => 'csv') IS NULL, pg_temp.ask('things', 'json', title => 'json') IS NULL,
	   pg_temp.ask('things', 'jsonl', title => 'jsonl') IS NULL, pg_temp.ask('things', 'json', '{"from_date": "2025-01-10", "to_date": "2025-01-10"}', 'empty json') IS NULL,
	   pg_temp.ask('things', 'csv', '{"from_date": "2025-01-10", "to_date": "2025-01-10"}', 'empty csv') IS NULL,
	   pg_temp.ask('things_now', title => 'now') IS NULL, pg_temp.ask('things', 'csv', '{"but": "plain"}', 'but') IS NULL;
CALL pg_temp.made();
SELECT title, status, row_count, file_size_bytes > 0, error_message, requested_by, parameters FROM report_list('REPORT_T') ORDER BY title;
SELECT pg_temp.content('csv');
SELECT regexp_replace(pg_temp.content('json'), '"(id|requested_at|generated_at)" : "[^"]*"', '"\1" : "..."', 'g');
SELECT regexp_replace(pg_temp.content('jsonl'), '"(id|requested_at|generated_at)" : "[^"]*"', '"\1" : "..."', 'g');
SELECT regexp_replace(pg_temp.content('empty json'), '"(id|requested_at|generated_at)" : "[^"]*"', '"\1" : "..."', 'g');
SELECT pg_temp.content('empty csv');
SELECT pg_temp.content('now');
SELECT count(*) - 2 FROM regexp_split_to_table(pg_temp.content('but'), '<CR LF>\n');
-- The server's own reader takes the JSON for what the table has.
SELECT count(*), count(*) FILTER (WHERE (j->>'name', nullif(j->'more', 'null')) IS NOT DISTINCT FROM (t.name, nullif(t.more, 'null')))
  FROM jsonb_array_elements(pg_temp.content('json')::jsonb->'rows') j JOIN report_test.thing t ON t.tenant_id = 'REPORT_T' AND t.id::text = j->>'id';
-- Whole and in pieces are the same bytes, and SHA-256 says so.
SELECT d.sha256 = s.sha256, encode(sha256(d.content), 'hex') = s.sha256, d.content = (SELECT string_agg(c.data, '' ORDER BY c.n) FROM report_download_chunks(s.id) c),
	   d.content_type, replace(d.file_name, s.id, 'ID'), s.percent, s.rows_done, replace(s.download_url, s.id, 'ID')
  FROM report_status(pg_temp.report('csv')) s, report_download(s.id) d;

-- ---- many rows, in chunks; a key that isn't one

INSERT INTO report_test.thing SELECT 'REPORT_T', n, 'thing ' || n, n, NULL, '2025-01-15', true, NULL FROM generate_series(100, 20099) n;
SELECT report_type_add('no_key', 'SELECT id / 1000 AS k, name FROM report_test.thing WHERE tenant_id = $1 AND id / 1000 > coalesce($6[1]::integer, -1) ORDER BY id LIMIT $7', key_columns => 1);
SELECT report_type_add('null_key', 'SELECT NULL::integer AS k, name FROM report_test.thing LIMIT $7', key_columns => 1);
SELECT pg_temp.ask('things', title => 'many') IS NULL, pg_temp.ask('things', title => 'many again') IS NULL, pg_temp.ask('no_key') IS NULL,
	   pg_temp.ask('null_key') IS NULL, pg_temp.ask('things_now', title => 'too many') IS NULL;
CALL pg_temp.made();
SELECT title, status, row_count, error_message FROM report_list('REPORT_T', page_size => 5) ORDER BY title;
SELECT count(*) - 2, count(DISTINCT line) - 2 FROM regexp_split_to_table(pg_temp.content('many'), '<CR LF>\n') line;
SELECT a.sha256 = b.sha256 AS same_bytes_again FROM report_status(pg_temp.report('many')) a, report_status(pg_temp.report('many again')) b;
SELECT count(*) > 1, max(length(data)) <= 256 * 1024 FROM report_chunk WHERE report_id = pg_temp.report('many');

-- ---- with the requester's rights, read only

CREATE ROLE regress_report_op IN ROLE sentinai_operator;
CREATE ROLE regress_report_other IN ROLE sentinai_operator;
SELECT tenant_role_add('regress_report_op', 'REPORT_T'), tenant_role_add('regress_report_other', 'REPORT_T');
CREATE FUNCTION report_test.write() RETURNS integer LANGUAGE plpgsql AS $$ BEGIN INSERT INTO report_test.thing VALUES ('X', 1); RETURN 1; END $$;
CREATE FUNCTION report_test.settings() RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	PERFORM set_config('work_mem', '1MB', false), set_config('search_path', 'nowhere', false), pg_advisory_lock(4711);
	RETURN current_user || ' ' || current_setting('transaction_read_only');
END $$;
GRANT USAGE ON SCHEMA report_test TO regress_report_op;
SELECT report_type_add('writes', 'SELECT report_test.write() AS n', snapshot => true);
SELECT report_type_add('writes_more', 'SELECT set_config(''transaction_read_only'', ''off'', false) AS a, report_test.write() AS n', snapshot => true);
SELECT report_type_add('becomes', 'SELECT set_config(''role'', ''postgres'', false) AS a', snapshot => true);
SELECT report_type_add('settings', 'SELECT report_test.settings() AS s', snapshot => true);
SELECT report_type_add('tenants', 'SELECT string_agg(tenant_id, '','') AS seen, sentinai.current_tenant() AS own, sentinai.caller_sees_all() AS sees_all FROM sentinai.tenant', snapshot => true);
SELECT report_type_add('divides', 'SELECT 1 / (length($1) - 8) AS n', snapshot => true);
SET ROLE regress_report_op;
SELECT count(*) FROM (SELECT pg_temp.ask(t) FROM unnest(ARRAY['things', 'writes', 'writes_more', 'becomes', 'settings', 'divides', 'tenants']) t OFFSET 0) a;
SELECT pg_temp.sqlstate($$SELECT sentinai.report_type_add('bad', 'SELECT 1 AS a', snapshot => true)$$);
RESET ROLE;
CALL pg_temp.made();
SELECT title, status, row_count, error_message FROM report_list('REPORT_T', page_size => 7) ORDER BY title;
SELECT pg_temp.content('settings');
SELECT pg_temp.content('tenants');
SELECT count(*) FROM report_test.thing WHERE tenant_id = 'X';
SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 4711;
-- Who may have it: the role that asked, and the admin.
SET ROLE regress_report_other;
SELECT regexp_replace(pg_temp.sqlstate(format('SELECT * FROM sentinai.report_download(%L)', id)), 'report \S+', 'report ID')
  FROM report_list('REPORT_T') WHERE title = 'settings';
SET ROLE regress_report_op;
SELECT regexp_replace(pg_temp.sqlstate(format('SELECT * FROM sentinai.report_download(%L)', id)), 'report \S+', 'report ID')
  FROM report_list('REPORT_T') WHERE title = 'settings';
RESET ROLE;

-- ---- cancelled, retried, held, expired

BEGIN;
SELECT id AS r FROM report_request('REPORT_T', 'things', 'cancelled', 'csv', '{"from_date": "2025-01-01", "to_date": "2025-01-02"}') \gset
SELECT status, download_url FROM report_status(:'r');
SELECT report_cancel(:'r', 'not needed', 'bob');
COMMIT;
SELECT status, error_message, waits_for FROM report_status(:'r');
SELECT regexp_replace(pg_temp.sqlstate(format(q, :'r')), '[0-9a-f-]{36}', 'ID') FROM unnest(ARRAY['SELECT * FROM sentinai.report_download(%L)', 'SELECT sentinai.report_cancel(%L)',
	'SELECT sentinai.report_link(%L)', 'SELECT sentinai.report_manifest_get(%L)', 'SELECT sentinai.report_hold(%L, '' '')', 'SELECT sentinai.report_release(%L, NULL)',
	'SELECT * FROM sentinai.report_status(%L, ''OTHER'')', 'SELECT sentinai.report_cancel(NULL)', 'SELECT sentinai.report_retry(''nothing'')',
	'SELECT * FROM sentinai.report_status(NULL)']) q;
SELECT report_retry(:'r', 'needed after all');
CALL pg_temp.made();
SELECT status, row_count, error_message, tries FROM report_status(:'r');
SELECT regexp_replace(pg_temp.sqlstate(format('SELECT sentinai.report_retry(%L)', :'r')), '[0-9a-f-]{36}', 'ID');

SELECT report_hold(:'r', 'case 12', 'counsel');
UPDATE audit_report SET download_expires_at = now() - interval '1 s' WHERE id = :'r';
SELECT report_tend() IS NULL;
SELECT status, legal_hold FROM report_status(:'r');
SELECT count(*) FROM report_download(:'r');
SELECT report_release(:'r', 'case closed', 'counsel');
SELECT regexp_replace(pg_temp.sqlstate(format('SELECT * FROM sentinai.report_download(%L)', :'r')), '[0-9a-f-]{36}| since .*', ' ...', 'g');
SELECT report_tend() IS NULL;
SELECT status, row_count, download_url FROM report_status(:'r');
SELECT count(*) FROM report_chunk WHERE report_id = :'r';
SELECT regexp_replace(pg_temp.sqlstate(format('SELECT sentinai.report_hold(%L, ''late'')', :'r')), '[0-9a-f-]{36}', 'ID');
SELECT action, from_status, to_status, reason, actor FROM report_history WHERE report_id = :'r' ORDER BY id;

-- ---- links

SELECT token, url = format('/audit/reports/%s/download?token=%s', pg_temp.report('csv'), token) AS url_ok, expires_at < now() + interval '11 min' AS expires_ok
  FROM report_link(pg_temp.report('csv'), '10 min', 'bob') \gset
SELECT :'url_ok', :'expires_ok';
SELECT content = (SELECT content FROM report_download(pg_temp.report('csv'))) FROM report_download_by_token(:'token');
SELECT what, regexp_replace(pg_temp.sqlstate(format('SELECT * FROM sentinai.report_download_by_token(%L)', t)), ' until .*', ' until ...') FROM (VALUES
	('none', NULL), ('nonsense', 'nonsense'), ('another report', replace(:'token', pg_temp.report('csv'), pg_temp.report('json'))),
	('a later end', regexp_replace(:'token', '\.(\d+)\.', '.9\1.')), ('another code', left(:'token', -1) || CASE right(:'token', 1) WHEN '0' THEN '1' ELSE '0' END),
	('too late', pg_temp.report('csv') || '.1.' || encode(report_mac(pg_temp.report('csv') || '.1', (report_key_get()).link_secret), 'hex'))) v (what, t);
SELECT pg_temp.sqlstate(format('SELECT sentinai.report_link(%L, interval ''0'')', pg_temp.report('csv')));

-- No longer than there is a time for it; as long as one likes of a report that is held.
SELECT expires_at = s.download_expires_at - (extract(epoch FROM s.download_expires_at) - floor(extract(epoch FROM s.download_expires_at))) * interval '1 s' AS with_the_report
  FROM report_status(pg_temp.report('csv')) s, report_link(s.id, '100000 years');
BEGIN;
SELECT set_config('sentinai.test_clock', (now() + interval '25 h')::text, true) IS NULL;
SELECT regexp_replace(pg_temp.sqlstate(format('SELECT * FROM sentinai.report_download(%L)', pg_temp.report('csv'))), '[0-9a-f-]{36}| since .*', ' ...', 'g');
SELECT regexp_replace(pg_temp.sqlstate(format('SELECT * FROM sentinai.report_download_by_token(%L)', :'token')), ' until .*', ' until ...');
SELECT report_hold(pg_temp.report('csv'), 'case 12');
SELECT expires_at = date_trunc('second', usage_clock() + interval '1 h') AS in_an_hour, length(content) > 0 AS has_it FROM report_link(pg_temp.report('csv'), '1 h') l, report_download_by_token(l.token);
SELECT expires_at = date_trunc('second', usage_clock() + interval '24 h') AS in_a_day FROM report_link(pg_temp.report('csv'));
SELECT report_expire();
SELECT status, count(*) FROM audit_report WHERE tenant_id = 'REPORT_T' AND download_expires_at IS NOT NULL GROUP BY 1 ORDER BY 1;
ROLLBACK;

-- ---- manifests

SELECT count(*) > 5, min(n) = 1, max(n) = count(*) FROM report_manifest WHERE tenant_id = 'REPORT_T';
SELECT m->>'algorithm', m->>'public_key' = report_public_key(), report_signature_ok(m->>'manifest', decode(m->>'signature', 'hex'), decode(m->>'public_key', 'hex')),
	   report_signature_ok((m->>'manifest') || ' ', decode(m->>'signature', 'hex'), decode(m->>'public_key', 'hex')),
	   said->>'sha256' = s.sha256, said->>'rows', said->>'report_type', said->>'reproducible', said->>'query' LIKE 'SELECT id, id%'
  FROM report_status(pg_temp.report('csv')) s, report_manifest_get(s.id) m, CAST(m->>'manifest' AS json) said;
SELECT count(*) FROM report_chain_check('REPORT_T');
BEGIN;
UPDATE report_manifest SET manifest = replace(manifest, '"rows" : 13', '"rows" : 12') WHERE report_id = pg_temp.report('csv');
UPDATE report_manifest SET signature = decode(repeat('00', 64), 'hex') WHERE report_id = pg_temp.report('json');
DELETE FROM report_manifest WHERE report_id = pg_temp.report('but');
SELECT problem, count(*) FROM report_chain_check('REPORT_T') GROUP BY 1 ORDER BY 1;
ROLLBACK;

-- ---- what is charged and counted

SELECT tenant_add('REPORT_R');
SELECT rate_limit_set('REPORT_R', 'report_generations', 1) IS NULL;
CREATE FUNCTION pg_temp.ask_r(to_date text) RETURNS text LANGUAGE sql AS $$
	SELECT pg_temp.sqlstate(format('SELECT * FROM sentinai.report_request(''REPORT_R'', ''sla_compliance'', ''r'', ''csv'', %L)', jsonb_build_object('from_date', '2025-01-01', 'to_date', $1))) $$;
SELECT pg_temp.ask_r('2024-01-01');
SELECT pg_temp.ask_r('2025-01-31');
SELECT pg_temp.ask_r('2025-01-31') LIKE 'SN040 %';
CALL pg_temp.made();
SELECT count(*) FROM audit_report WHERE tenant_id = 'REPORT_R';
SELECT resource, sum(quantity) FROM usage_entry WHERE tenant_id = 'REPORT_R' AND metric_type = 'reports' GROUP BY 1;
SELECT action, count(*) FROM report_history WHERE report_id = pg_temp.report('csv') AND action IN ('download', 'link') GROUP BY 1 ORDER BY 1;

-- ---- lists

-- The fields that others know.
SELECT p.proname, string_agg(a.name, ' ' ORDER BY a.n) FROM pg_proc p, unnest(p.proargnames, p.proargmodes) WITH ORDINALITY a (name, mode, n)
 WHERE p.pronamespace = 'sentinai'::regnamespace AND p.proname IN ('report_request', 'report_list', 'report_stats', 'report_status') AND a.mode = 't' GROUP BY 1 ORDER BY 1;

SELECT count(*), min(total), max(total) FROM report_list('REPORT_T', 'completed', 2, 3);
SELECT p, pg_temp.sqlstate(format('SELECT * FROM sentinai.report_list(%s)', p)) FROM unnest(ARRAY[$$NULL$$, $$'T', 'done'$$, $$'T', NULL, 0$$, $$'T', NULL, 1, 0$$, $$'T', NULL, 1, 1001$$]) p;
SELECT * FROM report_stats('REPORT_T');
SELECT * FROM report_stats('OTHER');

-- ---- the states: what an UPDATE may do

SELECT * FROM report_transitions();
CREATE FUNCTION pg_temp.try(id text, from_status text, to_status text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	BEGIN
		ALTER TABLE sentinai.audit_report DISABLE TRIGGER guard;
		UPDATE sentinai.audit_report r SET status = from_status WHERE r.id = try.id;
		ALTER TABLE sentinai.audit_report ENABLE TRIGGER guard;
		UPDATE sentinai.audit_report r SET status = to_status WHERE r.id = try.id;
		RAISE 'worked';
	EXCEPTION WHEN raise_exception THEN
		RETURN 'yes';
	WHEN SQLSTATE 'SN010' THEN
		RETURN 'no';
	END;
END $$;
BEGIN;
SELECT f AS from_status, string_agg(t || ' ' || pg_temp.try(pg_temp.report('csv'), f, t), ', ' ORDER BY tn)
  FROM unnest(ARRAY['pending', 'generating', 'completed', 'failed', 'expired']) WITH ORDINALITY f (f, fn),
	   unnest(ARRAY['pending', 'generating', 'completed', 'failed', 'expired']) WITH ORDINALITY t (t, tn)
 GROUP BY f, fn ORDER BY fn;
ROLLBACK;
SELECT regexp_replace(pg_temp.sqlstate(format('UPDATE sentinai.audit_report SET status = ''pending'' WHERE id = %L', pg_temp.report('csv'))), '[0-9a-f-]{36}', 'ID');
SELECT regexp_replace(pg_temp.sqlstate(format('UPDATE sentinai.audit_report SET tenant_id = ''OTHER'' WHERE id = %L', pg_temp.report('csv'))), '[0-9a-f-]{36}', 'ID');

-- ---- a type that is gone

BEGIN;
SELECT pg_temp.ask('picky', 'csv', '{"n": 1, "since": "2025-01-01", "yes": true}') IS NULL;
SELECT report_type_remove('picky');
COMMIT;
CALL pg_temp.made();
SELECT status, error_message, parameters FROM report_status(pg_temp.report('picky'));

-- ---- a type that an admin replaced after a superuser had asked for it

CREATE ROLE regress_report_admin IN ROLE sentinai_admin;
SELECT report_type_add('mine', 'SELECT current_user AS who', snapshot => true);
BEGIN;
SELECT pg_temp.ask('mine') IS NULL;
SET SESSION AUTHORIZATION regress_report_admin;
SELECT report_type_add('mine', 'SELECT session_user AS who', snapshot => true);
RESET SESSION AUTHORIZATION;
COMMIT;
CALL pg_temp.made();
SELECT status, regexp_replace(error_message, current_user, 'NAME') FROM report_status(pg_temp.report('mine'));
SELECT regexp_replace(pg_temp.sqlstate($$SELECT pg_temp.ask('mine')$$), current_user, 'NAME');
DROP ROLE regress_report_admin;

DELETE FROM report_type WHERE NOT builtin;
DELETE FROM audit_report WHERE tenant_id IN ('REPORT_T', 'REPORT_R');
SET client_min_messages = warning;
DROP SCHEMA report_test CASCADE;
DROP ROLE regress_report_op, regress_report_other;
DELETE FROM tenant_role WHERE role_name ~ '^regress_report_';
