-- tenant: who may own events, and what a status means for them
SET search_path = sentinai, public;
\set SHOW_CONTEXT never

SELECT tenant_add('TEN_A', 'Tenant A', tags => ARRAY['gold']);
SELECT tenant_add('TEN_B');
SELECT tenant_id, name, status, tags, waiting FROM tenant_list() WHERE tenant_id ~ '^TEN_';

-- refused, each with its code
CREATE FUNCTION pg_temp.refused(statement text) RETURNS TABLE (code text, message text, detail text, hint text)
	LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE statement;
	RETURN QUERY SELECT 'none', 'it was not refused', NULL, NULL;
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	detail := regexp_replace(detail, ' at .*, and', ' at ..., and');
	RETURN NEXT;
END $$;
\x
SELECT * FROM pg_temp.refused($$ SELECT tenant_add('TEN_A') $$);
SELECT * FROM pg_temp.refused($$ SELECT tenant_add('a tenant') $$);
SELECT * FROM pg_temp.refused($$ SELECT tenant_add(NULL) $$);
SELECT * FROM pg_temp.refused($$ SELECT tenant_add('') $$);
SELECT * FROM pg_temp.refused($$ SELECT tenant_suspend('TEN_NONE') $$);
SELECT * FROM pg_temp.refused($$ SELECT tenant_list('asleep') $$);
\x

-- a worker type of its own, whose handler says what it got
CREATE SCHEMA ten;
CREATE TABLE ten.got (event_id text);
CREATE FUNCTION ten.take(event sentinai.event) RETURNS void LANGUAGE sql AS 'INSERT INTO ten.got VALUES ($1.event_id)';
GRANT USAGE ON SCHEMA ten TO sentinai_handler;
GRANT INSERT ON ten.got TO sentinai_handler;
SELECT event_type_add('TenThing'), worker_type_add('ten', 'ten'), handler_add('ten', 'TenThing', 'ten.take');
SELECT epoch FROM assign('ten', 'ten', 'ten', 0) \gset
CREATE FUNCTION pg_temp.bring(epoch bigint, kafka_offset bigint, tenant text, event text)
	RETURNS TABLE (handled integer, parked integer, deferred integer, dead_lettered integer, due integer)
	LANGUAGE sql AS $$
	SELECT handled, parked, deferred, dead_lettered, due FROM sentinai.consume('ten', 'ten', ARRAY[
		ROW('ten', 0, kafka_offset, epoch, now(), NULL, NULL, convert_to(json_build_object('event_id', event,
			'event_type', 'TenThing', 'tenant_id', tenant, 'exception_id', 'E', 'payload', '{}'::json)::text, 'UTF8'))]::sentinai.record[])
$$;
-- a call without records, at the position behind the last one
CREATE FUNCTION pg_temp.tick(epoch bigint, kafka_offset bigint)
	RETURNS TABLE (handled integer, parked integer, deferred integer, dead_lettered integer, due integer)
	LANGUAGE sql AS $$
	SELECT handled, parked, deferred, dead_lettered, due FROM sentinai.consume('ten', 'ten', ARRAY[
		ROW('ten', 0, kafka_offset, epoch, NULL, NULL, NULL, NULL)]::sentinai.record[])
$$;

-- suspended: events wait, each once, and the other tenant's don't
SELECT tenant_suspend('TEN_A', 'invoice not paid');
SELECT * FROM pg_temp.bring(:epoch, 0, 'TEN_A', 'a1');
SELECT * FROM pg_temp.bring(:epoch, 1, 'TEN_A', 'a2');
SELECT * FROM pg_temp.bring(:epoch, 2, 'TEN_B', 'b1');
SELECT * FROM pg_temp.tick(:epoch, 3);
SELECT tenant_id, status, waiting, reason FROM tenant_list('suspended');
SELECT event_id FROM ten.got;

-- resumed: they are due now, in their order
SELECT tenant_resume('TEN_A', 'paid') > 0 AS some_were_due;
SELECT handled > 0 AS handled FROM pg_temp.tick(:epoch, 3);
SELECT handled >= 0 AS ok FROM pg_temp.tick(:epoch, 3);
SELECT event_id FROM ten.got;
SELECT count(*) FROM event_pending WHERE worker_type = 'ten';
SELECT event_id, status FROM event_processing_log WHERE worker_type = 'ten' AND NOT shadow ORDER BY event_id;

-- archived: what waited, and what comes, becomes a dead letter
SELECT tenant_suspend('TEN_A');
SELECT * FROM pg_temp.bring(:epoch, 3, 'TEN_A', 'a3');
SELECT tenant_archive('TEN_A', 'has left');
SELECT dead_lettered FROM pg_temp.tick(:epoch, 4);
SELECT * FROM pg_temp.bring(:epoch, 4, 'TEN_A', 'a4');
SELECT event_id, error_type, error_message FROM dead_letter_queue WHERE worker_type = 'ten' ORDER BY event_id;
SELECT code, message FROM pg_temp.refused($$ SELECT tenant_suspend('TEN_A') $$);
SELECT code, message FROM pg_temp.refused(
	$$ SELECT event_publish('ten', '{"event_type": "TenThing", "tenant_id": "TEN_A", "payload": {}}') $$);
SELECT tenant_resume('TEN_A', 'is back');

-- who did what
SELECT tenant_id, from_status, to_status, reason, authenticated = session_user AS by_us FROM tenant_history WHERE tenant_id ~ '^TEN_' ORDER BY id;
