-- api_error: in the authenticator's sessions an error leaves a query as PostgREST reads it; everywhere else it is the plain one
SET search_path = sentinai, public;
\set SHOW_CONTEXT never

CREATE ROLE authenticator NOINHERIT IN ROLE sentinai_admin, sentinai_operator;

-- Raises what it is told to, having set headers of an answer that nobody will see.
CREATE FUNCTION public.regress_raise(sqlstate text, message text DEFAULT 'it went wrong', detail text DEFAULT '', hint text DEFAULT '') RETURNS text
	LANGUAGE plpgsql AS $$
BEGIN
	PERFORM sentinai.api_header('Content-Type', 'text/csv');
	RAISE EXCEPTION USING ERRCODE = $1, MESSAGE = $2, DETAIL = $3, HINT = $4;
END $$;
CREATE FUNCTION public.regress_caught() RETURNS text
	LANGUAGE plpgsql AS $$
BEGIN
	RETURN public.regress_raise('SN011');
EXCEPTION WHEN OTHERS THEN
	RETURN SQLSTATE || ' ' || SQLERRM;
END $$;
CREATE FUNCTION public.regress_deep(n bigint) RETURNS bigint
	LANGUAGE plpgsql AS $$
BEGIN
	RETURN 1 + public.regress_deep(n + 1);
END $$;
CREATE TABLE public.regress_error (n integer PRIMARY KEY);
CREATE FUNCTION public.regress_trigger() RETURNS trigger
	LANGUAGE plpgsql AS $$
BEGIN
	RAISE NOTICE 'caught in a trigger: %', public.regress_caught();
	RETURN NULL;
END $$;
CREATE TRIGGER caught AFTER INSERT ON public.regress_error FOR EACH ROW EXECUTE FUNCTION public.regress_trigger();
GRANT ALL ON public.regress_error TO PUBLIC;

-- whoever isn't the authenticator has the error itself
SELECT sentinai_api.dlq_get(999999);
\echo :LAST_ERROR_SQLSTATE

-- the authenticator, once it is somebody, has it as an answer
SET SESSION AUTHORIZATION authenticator;
SELECT set_config('role', 'regress_nobody', false);
SET ROLE sentinai_admin;
SELECT sentinai_api.dlq_get(999999);
\echo :LAST_ERROR_SQLSTATE
-- with the headers that were set before the query, and not those of the query
SELECT set_config('response.headers', '[{"RateLimit": "\"api_requests\";r=1;t=5"}, {"RateLimit-Policy": "\"api_requests\";q=2;w=60"}]', false);
SELECT public.regress_raise('SN010', E'a "message" with\na line of its own and \\ in it: Müller', '', 'a hint');
-- a hint for SQL says the path, too
SELECT public.regress_raise('SN011', 'none', '', 'SELECT * FROM sentinai.tenant_list() shows all; dlq_history(6) says more, and sentinai.xdlq_list() or dlq_list nothing.');
-- a class; one of its own counts more than it
SELECT 1 / n FROM generate_series(0, 1) n;
SELECT public.regress_raise('54000');
-- statement_timeout, and a call too deep
SET statement_timeout = '10ms';
SELECT count(*) FROM generate_series(1, 1000000000000);
SET statement_timeout = 0;
SELECT public.regress_deep(1);
-- a limit: its headers instead of those of the one that wasn't reached
SELECT public.regress_raise('SN040', 'Rate limit exceeded: report_generations (1/86400s)',
	'{"detail": "Rate limit exceeded: report_generations (1/86400s)", "limit_type": "report_generations", "limit": 1, "current": 2, "reset_at": "2025-01-01T00:00:00Z"}');
-- of somebody else's, whose detail is no such body, and of one that is no time
SELECT public.regress_raise('SN040', 'slowly', 'Come tomorrow.');
SELECT public.regress_raise('SN040', 'slowly', '{"detail": "x", "limit_type": "x", "limit": 1, "current": 2, "reset_at": "soon"}');
-- headers that PostgREST wouldn't take either
SELECT set_config('response.headers', '[{"X": 1}, {"Y": ["y"]}, "Z", {"W": "w"', false);
SELECT 1 / n FROM generate_series(0, 1) n;
RESET response.headers;

-- what has no status stays as it is
SELECT public.regress_raise('P0001');
SELECT public.regress_raise('PGRST', '{"code": "mine", "message": "mine"}', '{"status": 418, "headers": {}}');
SELECT public.regress_raise('42501');

-- whoever catches an error, catches the error itself
SELECT public.regress_caught();
DO $$ BEGIN RAISE NOTICE 'caught in a DO: %', public.regress_caught(); END $$;
DO $$ BEGIN PERFORM public.regress_raise('SN011'); EXCEPTION WHEN SQLSTATE 'SN011' THEN RAISE NOTICE 'caught by its code'; END $$;
INSERT INTO public.regress_error VALUES (1);
INSERT INTO public.regress_error VALUES (2) RETURNING public.regress_caught();
RESET SESSION AUTHORIZATION;

DROP TABLE public.regress_error;
DROP FUNCTION public.regress_raise, public.regress_caught, public.regress_deep, public.regress_trigger;
DROP ROLE authenticator;
