-- 88_personal_data: what the platform keeps of an exception, for subject_erase(). What reports count by stays: times, status,
-- severity, kind; who and what it was about goes.

-- The reader of exception_event: its payloads are the admin's otherwise.
CREATE FUNCTION sentinai.exception_history(tenant text, exception text)
	RETURNS TABLE (event_id text, event_type text, actor_type text, actor_id text, payload jsonb, created_at timestamptz, recorded_at timestamptz)
	LANGUAGE plpgsql STABLE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
DECLARE
	shown	boolean := pg_has_role(sentinai.caller_role(), 'sentinai_payload', 'USAGE');
BEGIN
	$1 := sentinai.tenant_check($1);
	RETURN QUERY
		SELECT e.event_id::text, e.event_type::text, e.actor_type, e.actor_id, CASE WHEN shown THEN sentinai.payload_masked(e.event_type, e.payload) END,
			   e.created_at, e.recorded_at
		  FROM sentinai.exception_event e
		 WHERE e.tenant_id = $1 AND e.exception_id = $2
		 ORDER BY e.created_at, e.recorded_at, e.event_id, e.event_type;
END
$$;
COMMENT ON FUNCTION sentinai.exception_history(text, text) IS
	'What happened to an exception, for as long as it is kept: the rows of exception_event, by the time they happened. payload is NULL for who is not a member of sentinai_payload; what payload_mask_list() names is *** for all but an admin. Error: 42501.';

CREATE FUNCTION sentinai.subject_erase_platform(tenant_id text, key text, salt bytea) RETURNS TABLE (relation text, rows bigint)
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
	#variable_conflict use_column
BEGIN
	IF EXISTS (SELECT FROM sentinai.tool_execution t WHERE t.tenant_id = $1 AND t.exception_id = $2 AND t.status IN ('requested', 'running')) THEN
		RAISE EXCEPTION USING
			ERRCODE = 'SN010',
			MESSAGE = format('exception %s is not finished and can''t be erased', $2),
			DETAIL = 'A tool is being used for it.';
	END IF;

	PERFORM sentinai.subject_check_hold($1, $2, min(t.at), max(t.until))
	   FROM (SELECT least(x.created_at, x.recorded_at) AS at, greatest(x.created_at, x.recorded_at) AS until FROM sentinai.exceptions x
			  WHERE x.tenant_id = $1 AND x.exception_id = $2
			 UNION ALL SELECT least(e.created_at, e.recorded_at), greatest(e.created_at, e.recorded_at) FROM sentinai.exception_event e
			  WHERE e.tenant_id = $1 AND e.exception_id = $2
			 UNION ALL SELECT least(t.created_at, t.recorded_at), greatest(t.created_at, t.recorded_at) FROM sentinai.tool_execution t
			  WHERE t.tenant_id = $1 AND t.exception_id = $2) t;

	UPDATE sentinai.exceptions x SET source_system = NULL, entity = NULL, amount = NULL, owner = NULL
	 WHERE x.tenant_id = $1 AND x.exception_id = $2
	   AND (x.source_system, x.entity, x.amount::text, x.owner) IS DISTINCT FROM (NULL::text, NULL::text, NULL::text, NULL::text);
	relation := 'exceptions'; GET DIAGNOSTICS rows = ROW_COUNT; RETURN NEXT;

	UPDATE sentinai.exception_event e
	   SET payload = CASE WHEN e.event_type = 'ExceptionChanged' THEN jsonb_set(e.payload, '{changed}', (e.payload->'changed') - '{source_system,entity,amount,owner}'::text[])
						  ELSE sentinai.subject_tombstone($3, e.payload) END
	 WHERE e.tenant_id = $1 AND e.exception_id = $2
	   AND CASE WHEN e.event_type = 'ExceptionChanged' THEN e.payload->'changed' ?| '{source_system,entity,amount,owner}'::text[]
				ELSE NOT sentinai.subject_is_erased(e.payload) END;
	relation := 'exception_event'; GET DIAGNOSTICS rows = ROW_COUNT; RETURN NEXT;

	UPDATE sentinai.tool_execution t
	   SET input_payload = sentinai.subject_tombstone($3, t.input_payload), output_payload = sentinai.subject_tombstone($3, t.output_payload),
		   error_message = '[erased]'
	 WHERE t.tenant_id = $1 AND t.exception_id = $2
	   AND NOT (sentinai.subject_is_erased(t.input_payload) AND sentinai.subject_is_erased(t.output_payload) AND t.error_message IS NOT DISTINCT FROM '[erased]');
	relation := 'tool_execution'; GET DIAGNOSTICS rows = ROW_COUNT; RETURN NEXT;

	UPDATE sentinai.tool_execution_event e
	   SET payload = jsonb_set(e.payload, '{changed}', (e.payload->'changed') - '{input_payload,output_payload,error_message}'::text[])
	 WHERE e.tenant_id = $1 AND e.execution_id IN (SELECT t.id FROM sentinai.tool_execution t WHERE t.tenant_id = $1 AND t.exception_id = $2)
	   AND e.payload->'changed' ?| '{input_payload,output_payload,error_message}'::text[];
	relation := 'tool_execution_event'; GET DIAGNOSTICS rows = ROW_COUNT; RETURN NEXT;
END
$$;
COMMENT ON FUNCTION sentinai.subject_erase_platform(text, text, bytea) IS 'Internal: what subject_erase() changes in the platform''s tables. Raises SN010 while a tool is being used for the exception, SN077.';
SELECT sentinai.subject_source_install('platform', 'subject_erase_platform');
