-- Legal holds: what they keep from retention and from people, and what goes all the same.

SET search_path = sentinai, public;
SET timezone = 'UTC';
SET datestyle = 'ISO';
\set VERBOSITY terse
\pset format unaligned
\pset tuples_only on

CREATE FUNCTION pg_temp.sqlstate(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	detail	text;
BEGIN
	EXECUTE statement;
	RETURN 'no error';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
	RETURN SQLSTATE || ' ' || regexp_replace(SQLERRM || coalesce(nullif(' / ' || detail, ' / '), ''), '[0-9a-f]{8}-[0-9a-f-]{27}', 'ID', 'g');
END $$;
CREATE FUNCTION pg_temp.logged() RETURNS text LANGUAGE sql AS $$
	SELECT string_agg(format('%s %s %s', created_at::date, tenant_id, n), ', ' ORDER BY created_at::date, tenant_id)
	  FROM (SELECT created_at::date AS created_at, tenant_id, count(*) AS n FROM sentinai.event_log WHERE tenant_id LIKE 'HOLD%' GROUP BY 1, 2) x $$;

-- The maintenance worker does the same at its own times, and may be in the way for a moment.
CREATE PROCEDURE pg_temp.retain(left_over integer) LANGUAGE plpgsql AS $$
BEGIN
	FOR n IN 1 .. 1000 LOOP
		IF sentinai.event_log_retain() IS NULL AND left_over = (SELECT count(*) FROM pg_class WHERE relname ~ '^event_log_p2020\d{4}$') THEN
			RETURN;
		END IF;
		COMMIT;
		PERFORM pg_sleep(0.02);
	END LOOP;
	RAISE 'there are still %', (SELECT array_agg(relname) FROM pg_class WHERE relname ~ '^event_log_p2020\d{4}$');
END $$;

SELECT tenant_add(t) FROM unnest(ARRAY['HOLD_A', 'HOLD_B', 'HOLD_C', 'HOLD_D']) t;

-- ---- placed, listed, released; what is refused

SELECT q, pg_temp.sqlstate(q) FROM unnest(ARRAY[
	$$SELECT sentinai.legal_hold_add(NULL, 'why')$$,
	$$SELECT sentinai.legal_hold_add('NOBODY', 'why')$$,
	$$SELECT sentinai.legal_hold_add('HOLD_A', NULL)$$,
	$$SELECT sentinai.legal_hold_add('HOLD_A', ' ')$$,
	$$SELECT sentinai.legal_hold_add('HOLD_A', 'why', 'yesterday')$$,
	$$SELECT sentinai.legal_hold_add('HOLD_A', 'why', NULL, '2020-02-30')$$,
	$$SELECT sentinai.legal_hold_add('HOLD_A', 'why', '2020-01-02', '2020-01-01')$$,
	$$SELECT sentinai.legal_hold_release(-1, 'why')$$,
	$$SELECT sentinai.legal_hold_release(NULL, 'why')$$,
	$$SELECT sentinai.legal_hold_release(1, '')$$]) q;
SELECT legal_hold_add('HOLD_B', 'case 12', '2020-01-02', '2020-01-02', 'counsel') AS b \gset
SELECT legal_hold_add('HOLD_D', 'everything') AS d \gset
SELECT tenant_id, report_id, period_from, period_to, reason, placed_by = session_user OR placed_by = 'counsel' FROM legal_hold_list();
SELECT legal_hold_release(:d, 'a mistake', 'counsel');
SELECT pg_temp.sqlstate(format($$SELECT sentinai.legal_hold_release(%s, 'once more')$$, :d)) LIKE 'SN010 legal hold % is released and can''t be released once more / counsel released it at %: a mistake';
SELECT count(*) FROM legal_hold_list();
SELECT tenant_id, release_reason, released_by, released_at IS NOT NULL FROM legal_hold_list('HOLD_D', released => true);

SELECT pg_temp.sqlstate(format('DELETE FROM sentinai.legal_hold WHERE id = %s', :b)) = format('SN077 legal hold %s stands', :b);
DELETE FROM legal_hold WHERE id = :d;

-- ---- event_log: the held tenant's rows of the held day stay, all others go

BEGIN;
SELECT event_log_partition('2020-01-01'), event_log_partition('2020-01-02'), event_log_partition('2020-01-03');
INSERT INTO event_log (tenant_id, event_id, event_type, "timestamp", payload, version, created_at)
SELECT t, t || d || n, 'X', now(), '{}', 1, '2020-01-01 12:00'::timestamptz + d * interval '1 day'
  FROM unnest(ARRAY['HOLD_A', 'HOLD_B', 'HOLD_C', 'HOLD_D']) t, generate_series(0, 2) d, generate_series(1, 3) n;
SELECT pg_temp.logged();
COMMIT;
CALL pg_temp.retain(1);
SELECT pg_temp.logged();
SELECT relname FROM pg_class WHERE relname ~ '^event_log_p2020\d{4}$' ORDER BY 1;
-- A tenant that has nothing in it holds no day; two tenants with a hold do, each with its own rows.
SELECT legal_hold_add('HOLD_A', 'case 13') AS a \gset
INSERT INTO event_log (tenant_id, event_id, event_type, "timestamp", payload, version, created_at)
SELECT t, t || n, 'X', now(), '{}', 1, '2020-01-02 13:00' FROM unnest(ARRAY['HOLD_A', 'HOLD_AA', 'HOLD_C']) t, generate_series(1, 2) n;
CALL pg_temp.retain(1);
SELECT pg_temp.logged();
SELECT event_log_thin('event_log_p20200102', ARRAY['HOLD_A', 'HOLD_B']);
-- Nor does anybody delete them by hand.
SELECT regexp_replace(pg_temp.sqlstate($$DELETE FROM sentinai.event_log WHERE tenant_id = 'HOLD_B'$$), 'Hold \d+', 'Hold N');
SELECT regexp_replace(pg_temp.sqlstate($$TRUNCATE sentinai.event_log$$), 'Hold \d+', 'Hold N');
SELECT legal_hold_release(:b, 'case closed');
CALL pg_temp.retain(1);
SELECT pg_temp.logged();
SELECT legal_hold_release(:a, 'case closed');
CALL pg_temp.retain(0);
SELECT pg_temp.logged() IS NULL;

-- ---- what reports are made of

INSERT INTO exceptions (tenant_id, exception_id, created_at) VALUES
	('HOLD_A', 'IN', '2020-01-05'), ('HOLD_A', 'OUT', '2020-02-05'), ('HOLD_B', 'IN', '2020-01-05');
INSERT INTO exception_event (tenant_id, exception_id, event_id, event_type, actor_type, created_at, recorded_at) VALUES
	('HOLD_A', 'IN', 'E1', 'X', 'user', '2020-01-05', '2020-01-05'), ('HOLD_A', 'IN', 'E2', 'X', 'user', '2020-03-05', '2020-01-20'), ('HOLD_A', 'IN', 'E3', 'X', 'user', '2020-03-05', '2020-03-05');
INSERT INTO tool_execution (tenant_id, tool_id, requested_by_actor_type, created_at) VALUES ('HOLD_A', 'bank', 'user', '2020-01-06');
UPDATE tool_execution SET status = 'failed' WHERE tenant_id = 'HOLD_A';
INSERT INTO config_change_request (tenant_id, id, change_type, resource_id, requested_by, proposed_config, created_at) VALUES ('HOLD_A', 'CC', 'tool', 'bank', 'ann', '{}', '2020-01-07');
SELECT legal_hold_add('HOLD_A', 'January', '2020-01-01', '2020-01-31') AS a \gset
SELECT q, regexp_replace(pg_temp.sqlstate(q), 'Hold \d+', 'Hold N') FROM unnest(ARRAY[
	$$DELETE FROM sentinai.exceptions WHERE (tenant_id, exception_id) = ('HOLD_A', 'IN')$$,
	$$DELETE FROM sentinai.exceptions WHERE exception_id = 'IN'$$,
	$$DELETE FROM sentinai.exception WHERE (tenant_id, exception_id) = ('HOLD_A', 'IN')$$,
	$$DELETE FROM sentinai.exceptions WHERE (tenant_id, exception_id) = ('HOLD_A', 'OUT')$$,
	$$DELETE FROM sentinai.exceptions WHERE tenant_id = 'HOLD_B'$$,
	$$DELETE FROM sentinai.exceptions WHERE tenant_id = 'HOLD_NOBODY'$$,
	$$DELETE FROM sentinai.exception_event WHERE tenant_id = 'HOLD_A' AND event_id = 'E1'$$,
	$$DELETE FROM sentinai.exception_event WHERE tenant_id = 'HOLD_A' AND event_id = 'E2'$$,
	$$DELETE FROM sentinai.exception_event WHERE tenant_id = 'HOLD_A' AND event_id = 'E3'$$,
	$$DELETE FROM sentinai.tool_execution WHERE tenant_id = 'HOLD_A'$$,
	$$DELETE FROM sentinai.config_change_request WHERE tenant_id = 'HOLD_A'$$,
	$$TRUNCATE sentinai.exceptions, sentinai.exception_event$$,
	$$TRUNCATE sentinai.tool_execution CASCADE$$]) q;
-- A table of one's own.
CREATE TABLE public.legal_hold_own (tenant_id text, at timestamptz);
INSERT INTO public.legal_hold_own VALUES ('HOLD_A', '2020-01-31 23:59:59.999999'), ('HOLD_A', '2020-02-01');
SELECT legal_hold_protect('public.legal_hold_own', 'at');
SELECT regexp_replace(pg_temp.sqlstate('DELETE FROM public.legal_hold_own'), 'Hold \d+', 'Hold N');
SELECT regexp_replace(pg_temp.sqlstate('TRUNCATE public.legal_hold_own'), 'Hold \d+', 'Hold N');
DELETE FROM public.legal_hold_own WHERE at >= '2020-02-01';
SELECT legal_hold_release(:a, 'done');
TRUNCATE public.legal_hold_own;
DROP TABLE public.legal_hold_own;

-- ---- reports

CREATE FUNCTION pg_temp.report(from_date text, to_date text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	r	text := (SELECT id FROM sentinai.report_request('HOLD_A', 'exception_activity', 'Held', 'csv', jsonb_build_object('from_date', from_date, 'to_date', to_date)));
BEGIN
	UPDATE sentinai.audit_report SET status = 'generating' WHERE id = r;
	UPDATE sentinai.audit_report SET status = 'completed', download_expires_at = now() - interval '1 s' WHERE id = r;
	INSERT INTO sentinai.report_chunk VALUES (r, 0, 'bytes');
	RETURN r;
END $$;
BEGIN;
SELECT rate_limit_set('HOLD_A', 'report_generations', 1000) IS NULL;
SELECT pg_temp.report('2020-01-01', '2020-01-31') AS january, pg_temp.report('2020-02-01', '2020-02-28') AS february, pg_temp.report('2020-01-31', '2020-02-01') AS both \gset
SELECT legal_hold_add('HOLD_A', 'January', '2020-01-01', '2020-01-31') AS a \gset
SELECT report_hold(:'february', 'case 14', 'counsel'), report_hold(:'february', 'once more', 'counsel');
SELECT report_id = :'february', period_from, period_to = (SELECT bound_at FROM audit_report WHERE id = :'february') AS until_its_bound, reason FROM legal_hold_list('HOLD_A');
SELECT report_expire();
SELECT id = :'january', id = :'february', status, legal_hold FROM audit_report r, report_status(r.id) s (sid, t, ty, ti, st) WHERE r.tenant_id = 'HOLD_A' ORDER BY seq;
SELECT content FROM report_download(:'february');
SELECT regexp_replace(pg_temp.sqlstate(format('DELETE FROM sentinai.audit_report WHERE id = %L', r)), 'Hold \d+', 'Hold N') FROM unnest(ARRAY[:'january', :'february', :'both']) r;
SELECT pg_temp.sqlstate(format('SELECT sentinai.report_release(%L, ''why'')', :'january'));
SELECT report_release(:'february', 'case closed', 'counsel');
SELECT pg_temp.sqlstate(format('SELECT sentinai.report_release(%L, ''why'')', :'february'));
SELECT report_expire();
SELECT id = :'january', id = :'february', status FROM audit_report WHERE tenant_id = 'HOLD_A' ORDER BY seq;
SELECT legal_hold_release(:a, 'done');
SELECT report_expire();
SELECT status, count(*) FROM audit_report WHERE tenant_id = 'HOLD_A' GROUP BY 1;
SELECT pg_temp.sqlstate(format('SELECT sentinai.report_hold(%L, ''why'')', :'january'));
DELETE FROM audit_report WHERE tenant_id = 'HOLD_A';
SELECT count(*) FROM report_chunk c WHERE c.report_id IN (:'january', :'february', :'both');
ROLLBACK;

-- ---- who may

CREATE ROLE regress_hold_a IN ROLE sentinai_operator;
CREATE ROLE regress_hold_v IN ROLE sentinai_viewer;
SELECT tenant_role_add('regress_hold_a', 'HOLD_A');
SELECT legal_hold_add('HOLD_B', 'another tenant''s') AS b \gset
SET ROLE regress_hold_a;
SELECT legal_hold_add(NULL, 'my own') IS NOT NULL;
SELECT pg_temp.sqlstate($$SELECT sentinai.legal_hold_add('HOLD_B', 'theirs')$$);
SELECT tenant_id, reason FROM legal_hold_list();
SELECT pg_temp.sqlstate($$SELECT * FROM sentinai.legal_hold_list('HOLD_B')$$);
SELECT pg_temp.sqlstate(format($$SELECT sentinai.legal_hold_release(%s, 'mine to take')$$, :b));
SET ROLE regress_hold_v;
SELECT pg_temp.sqlstate($$SELECT sentinai.legal_hold_add('HOLD_A', 'no')$$);
RESET ROLE;
SELECT count(legal_hold_release(id, 'cleaning up')) FROM legal_hold_list();
SELECT tenant_role_remove('regress_hold_a', 'HOLD_A');
DROP ROLE regress_hold_a, regress_hold_v;
DELETE FROM exceptions WHERE tenant_id LIKE 'HOLD%';
DELETE FROM exception_event WHERE tenant_id LIKE 'HOLD%';
DELETE FROM tool_execution WHERE tenant_id LIKE 'HOLD%';
DELETE FROM tool_execution_event WHERE tenant_id LIKE 'HOLD%';
DELETE FROM config_change_request WHERE tenant_id LIKE 'HOLD%';
