-- 90_role: who may do what. Nothing of ours is PUBLIC's; every right that a role has is listed here.
-- A right of a group of functions covers all functions of that name.

DO $$
DECLARE
	role	record;
BEGIN
	FOR role IN
		SELECT v.name, v.comment, r.oid
		  FROM (VALUES
			('sentinai_admin', 'sentinai: the owner of the platform; everything of the schema, all tenants.'),
			('sentinai_operator', 'sentinai: who is on call; what a viewer may, and retry, discard, publish, ask for reports.'),
			('sentinai_viewer', 'sentinai: who looks; states, counts and errors, no payloads.'),
			('sentinai_payload', 'sentinai: beside one of these; sees payloads, masked.'),
			('sentinai_worker', 'sentinai: logins of the process sentinai-worker; calls the functions of its pumps.'),
			('sentinai_handler', 'sentinai: handlers run as it, for all tenants; never grant it to a login.'),
			('sentinai_tenant_handler', 'sentinai: handlers that are bound to one tenant run as it.'),
			('sentinai_platform', 'sentinai: the installed handlers run as it; never grant it to a login.'),
			('sentinai_anon', 'sentinai: HTTP without a token; health and metrics.')) AS v (name, comment)
		  LEFT JOIN pg_catalog.pg_roles r ON r.rolname = v.name
	LOOP
		IF role.oid IS NULL THEN
			EXECUTE pg_catalog.format('CREATE ROLE %I NOLOGIN', role.name);
		END IF;
		IF pg_catalog.shobj_description(role.oid, 'pg_authid') IS NULL THEN
			EXECUTE pg_catalog.format('COMMENT ON ROLE %I IS %L', role.name, role.comment);
		END IF;
	END LOOP;
END
$$;

-- An operator sees what a viewer sees; an admin is all of them.
GRANT sentinai_viewer TO sentinai_operator;
GRANT sentinai_operator, sentinai_payload TO sentinai_admin;

-- What the script has made so far is revoked from PUBLIC, each object by the kind that REVOKE wants.
DO $$
DECLARE
	object	record;
BEGIN
	FOR object IN
		SELECT CASE d.classid
					WHEN 'pg_catalog.pg_proc'::pg_catalog.regclass THEN 'ROUTINE ' || d.objid::pg_catalog.regprocedure
					WHEN 'pg_catalog.pg_type'::pg_catalog.regclass THEN 'TYPE ' || d.objid::pg_catalog.regtype
					WHEN 'pg_catalog.pg_class'::pg_catalog.regclass THEN
						CASE WHEN c.relkind = 'S' THEN 'SEQUENCE ' ELSE 'TABLE ' END || d.objid::pg_catalog.regclass
			   END AS name
		  FROM pg_catalog.pg_depend d
		  JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid
		  LEFT JOIN pg_catalog.pg_class c ON c.oid = d.objid AND d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
		  LEFT JOIN pg_catalog.pg_type t ON t.oid = d.objid AND d.classid = 'pg_catalog.pg_type'::pg_catalog.regclass
		 WHERE d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass
		   AND e.extname = 'sentinai' AND d.deptype = 'e'
		   -- An array's rights are its element's.
		   AND (d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass OR t.typcategory <> 'A'
				OR c.relkind IN ('r', 'p', 'v', 'm', 'S'))
		UNION ALL
		-- Each table has a type of its own, which is PUBLIC's as well.
		SELECT 'TYPE ' || t.oid::pg_catalog.regtype
		  FROM pg_catalog.pg_type t
		 WHERE t.typnamespace = 'sentinai'::pg_catalog.regnamespace AND t.typtype = 'c'
	LOOP
		EXECUTE 'REVOKE ALL ON ' || object.name || ' FROM PUBLIC';
	END LOOP;
END
$$;

-- Tenants' rows. Partitions get theirs when they are made; docs/security.md lists what has no tenant, and why it may be seen.
SELECT sentinai.tenant_security(c.oid::pg_catalog.regclass, c.relname IN ('retry_policy', 'retry_policy_override'))
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id'
 WHERE c.relnamespace = 'sentinai'::pg_catalog.regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition;

GRANT USAGE ON SCHEMA sentinai TO sentinai_admin, sentinai_operator, sentinai_viewer, sentinai_payload, sentinai_worker,
	sentinai_handler, sentinai_tenant_handler, sentinai_platform, sentinai_anon;
GRANT USAGE ON TYPE sentinai.event, sentinai.header, sentinai.record TO sentinai_admin, sentinai_operator, sentinai_worker,
	sentinai_handler, sentinai_tenant_handler, sentinai_platform;

-- ALLOW_FUTURE_SCHEMA of a worker is this setting in its sessions.
GRANT SET ON PARAMETER sentinai.allow_future_schema TO sentinai_worker;

-- Functions, by role. The admin has all of them.
-- Policies ask who the caller is, so whoever may read a table may.
GRANT EXECUTE ON FUNCTION sentinai.caller_role(), sentinai.caller_identity(), sentinai.current_tenant(),
	sentinai.caller_sees_all(), sentinai.caller_names_tenants(), sentinai.tenant_check(text), sentinai.tenant_visible(text)
	TO sentinai_viewer, sentinai_payload, sentinai_worker, sentinai_handler, sentinai_tenant_handler, sentinai_platform, sentinai_anon;

DO $$
DECLARE
	may		record;
BEGIN
	FOR may IN
		SELECT v.role_name, f.function_name
		  FROM (VALUES
			-- What sentinai-worker calls, and no more: these run as their owner.
			('sentinai_worker', ARRAY['worker_config', 'assign', 'offset_gap_report', 'consume', 'outbox_wait', 'outbox_lock',
				'outbox_read', 'outbox_unpublished', 'outbox_rewind', 'outbox_advance', 'worker_heartbeat', 'worker_list', 'health', 'health_db',
				'health_workers', 'metrics', 'dlq_size', 'is_active', 'version', 'suspect_begin', 'suspect_next', 'suspect_end']),
			('sentinai_handler', ARRAY['emit', 'fail', 'usage_record', 'usage_record_batch', 'version', 'idempotency_begin', 'idempotency_complete', 'idempotency_renew',
				'idempotency_abandon']),
			('sentinai_tenant_handler', ARRAY['emit', 'fail', 'usage_record', 'usage_record_batch', 'version', 'idempotency_begin', 'idempotency_complete',
				'idempotency_renew', 'idempotency_abandon']),
			('sentinai_platform', ARRAY['emit', 'fail', 'usage_record', 'usage_record_batch', 'version', 'intake_handle', 'intake_deadline', 'idempotency_begin',
				'idempotency_complete', 'idempotency_renew', 'idempotency_abandon']),
			('sentinai_viewer', ARRAY['version', 'is_active', 'tenant_list', 'event_parse', 'exception_events', 'exception_payloads', 'exception_history', 'payload_mask_list', 'event_trace',
				'event_why', 'worker_list', 'health', 'health_db', 'health_workers', 'health_problems',
				'metrics', 'rate_limit_forecast', 'dlq_list', 'dlq_get', 'dlq_entries', 'dlq_payloads', 'dlq_record', 'dlq_history', 'dlq_stats', 'dlq_groups', 'dlq_message_pattern',
				'dlq_growth', 'dlq_size', 'dlq_transitions', 'retry_policy_list', 'circuit_list', 'retry_policy_for', 'retry_delay', 'error_class',
				'error_class_list', 'dedupe_status', 'usage_summary', 'usage_details', 'usage_export', 'usage_closed_until',
				'usage_clock', 'usage_check_type', 'usage_check_tenant', 'usage_check_read', 'usage_check_granularity', 'usage_bucket',
				'usage_csv_field', 'books_check']),
			('sentinai_operator', ARRAY['event_publish', 'dlq_retry', 'dlq_retry_batch', 'dlq_replay', 'dlq_discard',
				'dlq_rehearse', 'outbox_failed_retry', 'outbox_failed_discard', 'circuit_open', 'circuit_close',
				'idempotency_begin', 'idempotency_complete', 'idempotency_renew', 'idempotency_abandon']),
			-- HTTP without a token.
			('sentinai_anon', ARRAY['version', 'health', 'health_db', 'health_workers', 'metrics']),
			-- Rate limits: whoever serves tenants asks; setting them is the admin's.
			('sentinai_handler', ARRAY['rate_limit_check', 'rate_limit_allowed', 'rate_limit_peek', 'rate_limit_check_all',
				'rate_limit_check_batch', 'rate_limit_enforce', 'rate_limit_body', 'rate_limit_refund']),
			('sentinai_tenant_handler', ARRAY['rate_limit_check', 'rate_limit_allowed', 'rate_limit_peek', 'rate_limit_check_all',
				'rate_limit_check_batch', 'rate_limit_enforce', 'rate_limit_body', 'rate_limit_refund']),
			('sentinai_viewer', ARRAY['rate_limit_peek', 'rate_limit_body', 'rate_limit_state', 'rate_limit_tenant', 'rate_limit_list', 'rate_limit_usage',
				'rate_limit_busy', 'rate_limit_slot_stats', 'rate_limit_counts']),
			('sentinai_operator', ARRAY['rate_limit_check', 'rate_limit_allowed', 'rate_limit_check_all', 'rate_limit_check_batch',
				'rate_limit_enforce', 'rate_limit_refund', 'rate_limit_reset']),
			-- Reports: a link works for whoever has it, so whoever serves HTTP may follow one.
			('sentinai_viewer', ARRAY['report_status', 'report_list', 'report_stats', 'report_type_list', 'report_transitions',
				'report_public_key', 'report_signature_ok', 'report_manifest_get', 'report_chain_check', 'report_download_by_token', 'report_download_head_by_token']),
			('sentinai_operator', ARRAY['report_request', 'report_last', 'report_download', 'report_download_head', 'report_download_chunks', 'report_link', 'report_cancel',
				'report_retry', 'report_hold', 'report_release', 'legal_hold_add', 'legal_hold_list']),
			('sentinai_platform', ARRAY['report_iso', 'report_mask_pattern', 'report_masked', 'report_masked_text', 'audit_exceptions', 'audit_sla', 'tool_name'])
		  ) v (role_name, function_names), pg_catalog.unnest(v.function_names) AS f (function_name)
	LOOP
		IF NOT EXISTS (SELECT FROM pg_catalog.pg_proc p
						WHERE p.pronamespace = 'sentinai'::pg_catalog.regnamespace AND p.proname = may.function_name) THEN
			RAISE EXCEPTION 'there is no function % for % to call', may.function_name, may.role_name;
		END IF;
		EXECUTE (SELECT pg_catalog.string_agg(pg_catalog.format('GRANT EXECUTE ON ROUTINE %s TO %I', p.oid::pg_catalog.regprocedure,
																may.role_name), ';')
				   FROM pg_catalog.pg_proc p
				  WHERE p.pronamespace = 'sentinai'::pg_catalog.regnamespace AND p.proname = may.function_name);
	END LOOP;
END
$$;

-- Not TRIGGER and REFERENCES: what the owner, a superuser, writes to these tables would run an admin's code as the owner.
GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON ALL TABLES IN SCHEMA sentinai TO sentinai_admin;
GRANT ALL ON ALL SEQUENCES IN SCHEMA sentinai TO sentinai_admin;
GRANT EXECUTE ON ALL ROUTINES IN SCHEMA sentinai TO sentinai_admin;
-- Nor does an admin hang our triggers on tables of its own: they run as the owner, over columns of types that bring code along,
-- or read rows as those of our tables. legal_hold_guard() looks at the types first.
DO $$
BEGIN
	EXECUTE (SELECT pg_catalog.string_agg(pg_catalog.format('REVOKE EXECUTE ON FUNCTION %s FROM sentinai_admin', p.oid::pg_catalog.regprocedure), ';')
			   FROM pg_catalog.pg_proc p
			  WHERE p.pronamespace = 'sentinai'::pg_catalog.regnamespace AND p.prorettype = 'pg_catalog.trigger'::pg_catalog.regtype
				AND p.proname <> 'legal_hold_guard');
END
$$;

GRANT SELECT, INSERT, UPDATE ON sentinai.exceptions, sentinai.tool_execution TO sentinai_platform;
GRANT SELECT, INSERT ON sentinai.exception_event TO sentinai_platform;
-- What reports read, besides.
GRANT SELECT ON sentinai.tool_definition, sentinai.tool_definition_event, sentinai.tool_execution_event, sentinai.config_change_request, sentinai.config_change_event
	TO sentinai_platform;

-- A viewer reads these, without what came in from outside. Events' payloads are shown by functions, masked, to
-- sentinai_payload; their columns are the admin's. What else came in, sentinai_payload reads. Tables that are not named
-- here (secrets, the outbox, the machinery) are the admin's.
DO $$
DECLARE
	seen	record;
BEGIN
	FOR seen IN
		SELECT a.attrelid::pg_catalog.regclass AS relation,
			   CASE WHEN (c.relname IN ('event_log', 'dead_letter_queue', 'event_pending', 'outbox_failed', 'exception_event')
						  AND a.attname IN ('payload', 'payload_raw', 'metadata', 'event_metadata', 'record_key', 'record_headers', 'record_value')) THEN 'admin'
					WHEN a.attname IN ('payload', 'response', 'input_payload', 'output_payload', 'current_config', 'proposed_config', 'config') THEN 'payload'
					ELSE 'all' END AS shown_to,
			   pg_catalog.string_agg(pg_catalog.quote_ident(a.attname), ', ' ORDER BY a.attnum) AS columns
		  FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
		 WHERE c.relnamespace = 'sentinai'::pg_catalog.regnamespace
		   AND c.relname = ANY (ARRAY['tenant', 'tenant_history', 'event_type', 'event_log', 'worker_type',
				'worker_type_override', 'worker_type_effective', 'handler', 'kafka_offset', 'offset_gap',
				'circuit', 'backpressure', 'event_processing_log', 'dedupe_state', 'dedupe_generation', 'key_state', 'event_pending',
				'retry_policy', 'retry_policy_override', 'retry_policy_effective', 'error_class_override', 'dead_letter_queue', 'dlq_history',
				'outbox_failed', 'suspect', 'idempotency_key', 'rate_limit_type', 'rate_limit_type_override',
				'rate_limit_type_effective', 'rate_limit_config', 'rate_limit_usage', 'rate_limit_history',
				'audit_report', 'legal_hold', 'report_history', 'report_manifest', 'report_mask', 'usage_type', 'usage_delta_0', 'usage_delta_1',
				'usage_delta', 'usage_metric', 'usage_correction', 'usage_late', 'usage_closed', 'usage_entry',
				'config_change_request', 'config_change_event', 'tool_definition', 'tool_definition_event', 'tool_execution', 'tool_execution_event', 'exceptions', 'exception',
				'exception_event'])
		   AND a.attnum > 0 AND NOT a.attisdropped
		 GROUP BY 1, 2
	LOOP
		IF seen.shown_to <> 'admin' THEN
			EXECUTE pg_catalog.format('GRANT SELECT (%s) ON %s TO %I', seen.columns, seen.relation,
									  CASE seen.shown_to WHEN 'payload' THEN 'sentinai_payload' ELSE 'sentinai_viewer' END);
		END IF;
	END LOOP;
END
$$;

-- An operator may clear dead letters by hand (DELETE; TRUNCATE is the admin's) and work on exceptions.
GRANT DELETE ON sentinai.dead_letter_queue TO sentinai_operator;
GRANT UPDATE ON sentinai.exceptions, sentinai.exception TO sentinai_operator;
