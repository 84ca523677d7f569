-- 98_api_role: who may call what over HTTP. As in 90_role.sql: nothing is PUBLIC's, and every right is listed here.

DO $$
DECLARE
	object	record;
BEGIN
	FOR object IN
		SELECT 'ROUTINE ' || p.oid::pg_catalog.regprocedure AS name FROM pg_catalog.pg_proc p
		 WHERE p.pronamespace = 'sentinai_api'::pg_catalog.regnamespace
			OR (p.pronamespace = 'sentinai'::pg_catalog.regnamespace AND p.proname ~ '^api_')
		UNION ALL
		SELECT 'TYPE ' || t.oid::pg_catalog.regtype FROM pg_catalog.pg_type t
		 WHERE t.typnamespace = 'sentinai_api'::pg_catalog.regnamespace AND t.typcategory <> 'A'
	LOOP
		EXECUTE 'REVOKE ALL ON ' || object.name || ' FROM PUBLIC';
	END LOOP;
END
$$;

-- pg_dump dumps no table's row type apart from its table, and would warn of each one whose initial rights are noted. Nothing is
-- lost: where a dump is restored, CREATE EXTENSION revokes again.
DELETE FROM pg_catalog.pg_init_privs i
 USING pg_catalog.pg_type t JOIN pg_catalog.pg_class c ON c.oid = t.typrelid
 WHERE i.classoid = 'pg_catalog.pg_type'::pg_catalog.regclass AND i.objoid = t.oid AND c.relkind <> 'c'
   AND t.typnamespace IN ('sentinai'::pg_catalog.regnamespace, 'sentinai_api'::pg_catalog.regnamespace);

GRANT USAGE ON SCHEMA sentinai_api TO sentinai_admin, sentinai_operator, sentinai_viewer, sentinai_payload, sentinai_anon;
GRANT USAGE ON SCHEMA sentinai TO sentinai_anon;

DO $$
DECLARE
	may		record;
	found	text;
BEGIN
	FOR may IN
		SELECT v.schema_name, v.role_name, f.function_name
		  FROM (VALUES
			-- Without a token: how it is, and nothing about whose; and who has a link needs no more.
			('sentinai', 'sentinai_anon', ARRAY['api_pre_request', 'api_path_list', 'api_word_list', 'api_openapi_words', 'api_openapi_requests',
				'api_openapi_answer', 'api_openapi_operations', 'api_openapi_lists']),
			('sentinai_api', 'sentinai_anon', ARRAY['health', 'health_db', 'health_workers', 'metrics', 'report_download_by_token', 'report_download_head_by_token', 'openapi']),
			('sentinai', 'sentinai_viewer', ARRAY['api_pre_request', 'api_path_list', 'api_word_list', 'api_openapi_words', 'api_openapi_requests',
				'api_openapi_answer', 'api_openapi_operations', 'api_openapi_lists',
				'api_request_header',
				'api_header', 'api_answer', 'api_decode', 'api_encode', 'api_path_id', 'api_args', 'api_wrong', 'api_tenant', 'api_text',
				'api_bigint', 'api_boolean', 'api_page', 'api_list', 'api_slice', 'api_after', 'api_cursor', 'api_dlq_tenant', 'api_outbox_failed_tenant', 'api_report', 'api_hold',
				'api_file', 'api_link_of']),
			('sentinai_api', 'sentinai_viewer', ARRAY['health', 'health_db', 'health_workers', 'workers_health', 'metrics', 'dlq_list', 'dlq_stats', 'dlq_get',
				'dlq_history', 'dlq_groups', 'rate_limits_get', 'rate_limits_usage', 'usage_summary', 'usage_details', 'usage_export',
				'books_check', 'report_list', 'report_stats', 'report_types', 'report_get', 'report_manifest', 'report_chain_check',
				'report_download_by_token', 'report_download_head_by_token', 'outbox_failed_list', 'worker_type_list', 'suspect_list', 'openapi', 'exception_trace', 'exception_events', 'exception_history', 'payload_mask_list', 'event_why', 'tenant_list',
				'dlq_growth', 'rate_limit_forecast', 'circuit_list', 'retry_policy_list']),
			('sentinai', 'sentinai_operator', ARRAY['api_key', 'api_begin', 'api_end', 'api_no_key', 'api_event_known', 'api_mask_path', 'api_report_act', 'event_id_new']),
			('sentinai_api', 'sentinai_operator', ARRAY['dlq_retry', 'dlq_retry_batch', 'dlq_replay', 'dlq_discard', 'report_request',
				'outbox_failed_retry', 'outbox_failed_discard', 'report_download', 'report_download_head', 'report_cancel', 'report_retry', 'report_link', 'exception_create',
				'dlq_rehearse', 'rate_limit_reset', 'report_hold', 'report_release', 'legal_hold_add', 'legal_hold_list', 'circuit_open', 'circuit_close'])
		  ) v (schema_name, role_name, function_names), pg_catalog.unnest(v.function_names) AS f (function_name)
	LOOP
		SELECT pg_catalog.string_agg(pg_catalog.format('GRANT EXECUTE ON ROUTINE %s TO %I', p.oid::pg_catalog.regprocedure, may.role_name), ';')
		  INTO found
		  FROM pg_catalog.pg_proc p
		 WHERE p.pronamespace = may.schema_name::pg_catalog.regnamespace AND p.proname = may.function_name;
		IF found IS NULL THEN
			RAISE EXCEPTION 'there is no function %.% for % to call', may.schema_name, may.function_name, may.role_name;
		END IF;
		EXECUTE found;
	END LOOP;
END
$$;

GRANT EXECUTE ON ALL ROUTINES IN SCHEMA sentinai_api TO sentinai_admin;
