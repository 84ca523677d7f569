-- 60_config_change: requests to change a configuration, and what became of each. Asking, approving and applying come with
-- the functions of this subject; the tables are what reports are made of.

CREATE TABLE sentinai.config_change_request (
	tenant_id		text COLLATE "C" NOT NULL,
	id				text COLLATE "C" NOT NULL DEFAULT gen_random_uuid()::text,
	change_type		text COLLATE "C" NOT NULL CHECK (change_type IN ('domain_pack', 'tenant_policy', 'tool', 'playbook')),
	resource_id		text NOT NULL,
	resource_name	text,
	current_config	jsonb,
	proposed_config	jsonb NOT NULL,
	change_reason	text,
	status			text COLLATE "C" NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'approved', 'rejected', 'applied')),
	requested_by	text NOT NULL DEFAULT sentinai.caller_identity(),
	reviewed_by		text,
	reviewed_at		timestamptz,
	review_comment	text,
	applied_by		text,
	applied_at		timestamptz,
	created_at		timestamptz NOT NULL DEFAULT now(),
	updated_at		timestamptz NOT NULL DEFAULT now(),
	recorded_at		timestamptz NOT NULL DEFAULT clock_timestamp(),
	PRIMARY KEY (tenant_id, id)
);
CREATE INDEX config_change_request_created ON sentinai.config_change_request (tenant_id, created_at, id);
SELECT pg_catalog.pg_extension_config_dump('sentinai.config_change_request', '');
COMMENT ON TABLE sentinai.config_change_request IS 'Requests to change a configuration, and what became of each.';
COMMENT ON COLUMN sentinai.config_change_request.tenant_id IS 'Whose configuration it is.';
COMMENT ON COLUMN sentinai.config_change_request.id IS 'The request''s own id.';
COMMENT ON COLUMN sentinai.config_change_request.change_type IS 'domain_pack, tenant_policy, tool or playbook.';
COMMENT ON COLUMN sentinai.config_change_request.resource_id IS 'What is to be changed.';
COMMENT ON COLUMN sentinai.config_change_request.resource_name IS 'What people call it.';
COMMENT ON COLUMN sentinai.config_change_request.current_config IS 'How it is now; NULL: it is new.';
COMMENT ON COLUMN sentinai.config_change_request.proposed_config IS 'How it is to be.';
COMMENT ON COLUMN sentinai.config_change_request.change_reason IS 'Why.';
COMMENT ON COLUMN sentinai.config_change_request.status IS 'pending, approved, rejected or applied.';
COMMENT ON COLUMN sentinai.config_change_request.requested_by IS 'Who asked.';
COMMENT ON COLUMN sentinai.config_change_request.reviewed_by IS 'Who approved or rejected it.';
COMMENT ON COLUMN sentinai.config_change_request.reviewed_at IS 'When that was.';
COMMENT ON COLUMN sentinai.config_change_request.review_comment IS 'What they said.';
COMMENT ON COLUMN sentinai.config_change_request.applied_by IS 'Who applied it.';
COMMENT ON COLUMN sentinai.config_change_request.applied_at IS 'When that was.';
COMMENT ON COLUMN sentinai.config_change_request.created_at IS 'When it was asked for.';
COMMENT ON COLUMN sentinai.config_change_request.updated_at IS 'When the row was last changed.';
COMMENT ON COLUMN sentinai.config_change_request.recorded_at IS 'When the row was written, by the database''s clock: what reports are bounded by.';

CREATE TABLE sentinai.config_change_event (
	tenant_id	text COLLATE "C" NOT NULL,
	change_id	text COLLATE "C" NOT NULL,
	event_id	text COLLATE "C" NOT NULL,
	event_type	text COLLATE "C" NOT NULL,
	actor_type	text NOT NULL CHECK (actor_type IN ('agent', 'user', 'system')),
	actor_id	text,
	payload		jsonb NOT NULL DEFAULT '{}',
	created_at	timestamptz NOT NULL DEFAULT now(),
	recorded_at	timestamptz NOT NULL DEFAULT clock_timestamp(),
	PRIMARY KEY (tenant_id, change_id, event_id)
);
SELECT pg_catalog.pg_extension_config_dump('sentinai.config_change_event', '');
COMMENT ON TABLE sentinai.config_change_event IS 'Every change of a row of config_change_request, written by its trigger. Rows are never changed.';
COMMENT ON COLUMN sentinai.config_change_event.tenant_id IS 'Whose request it is.';
COMMENT ON COLUMN sentinai.config_change_event.change_id IS 'The request.';
COMMENT ON COLUMN sentinai.config_change_event.event_id IS 'The change''s own id.';
COMMENT ON COLUMN sentinai.config_change_event.event_type IS 'ConfigChangeChanged.';
COMMENT ON COLUMN sentinai.config_change_event.actor_type IS 'agent: a worker; user: a person; system: the system.';
COMMENT ON COLUMN sentinai.config_change_event.actor_id IS 'Which one: the role.';
COMMENT ON COLUMN sentinai.config_change_event.payload IS '{"changed": {column: [before, after]}}.';
COMMENT ON COLUMN sentinai.config_change_event.created_at IS 'When.';
COMMENT ON COLUMN sentinai.config_change_event.recorded_at IS 'When the row was written, by the database''s clock: what reports are bounded by.';

CREATE TRIGGER append_only BEFORE UPDATE ON sentinai.config_change_event
	FOR EACH STATEMENT EXECUTE FUNCTION sentinai.report_source_guard();
CREATE TRIGGER fixed AFTER UPDATE OF tenant_id, id, created_at, recorded_at ON sentinai.config_change_request
	FOR EACH ROW WHEN ((OLD.tenant_id, OLD.id, OLD.created_at, OLD.recorded_at) IS DISTINCT FROM (NEW.tenant_id, NEW.id, NEW.created_at, NEW.recorded_at))
	EXECUTE FUNCTION sentinai.report_source_fixed();
CREATE TRIGGER changed AFTER UPDATE ON sentinai.config_change_request REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
	FOR EACH STATEMENT EXECUTE FUNCTION sentinai.report_source_changed('config_change_event', 'change_id', 'id', 'ConfigChangeChanged');
SELECT sentinai.legal_hold_protect('sentinai.config_change_request', 'created_at', 'recorded_at');
SELECT sentinai.legal_hold_protect('sentinai.config_change_event', 'created_at', 'recorded_at');

-- What has changed since the bound is undone: the earliest change of a column has what it was.
SELECT sentinai.report_type_install('config_changes', 'Configuration changes', 2,
	'{"status": {"type": "text", "values": ["pending", "approved", "rejected", "applied"]},
	  "change_type": {"type": "text", "values": ["domain_pack", "tenant_policy", "tool", "playbook"]}}',
	$report$
SELECT c.created_at, c.id,
	   c.id AS change_id, c.tenant_id, c.change_type, c.resource_id, c.resource_name, was.status, c.requested_by, c.created_at AS requested_at,
	   was.change_reason, was.reviewed_by, was.reviewed_at, was.review_comment, was.applied_by, was.applied_at,
	   sentinai.report_masked(c.current_config, mask.pattern) AS current_config,
	   sentinai.report_masked(was.proposed_config, mask.pattern) AS proposed_config
  FROM sentinai.config_change_request c
 CROSS JOIN (SELECT sentinai.report_mask_pattern() AS pattern) mask
  LEFT JOIN LATERAL (
	SELECT jsonb_object_agg(f.key, f.value->0 ORDER BY e.recorded_at DESC, e.event_id DESC) AS fields
	  FROM sentinai.config_change_event e, jsonb_each(e.payload->'changed') f
	 WHERE e.tenant_id = c.tenant_id AND e.change_id = c.id AND e.recorded_at >= $5) undo ON true
 CROSS JOIN LATERAL jsonb_populate_record(c, coalesce(undo.fields, '{}')) was
 WHERE c.tenant_id = $1 AND c.created_at >= $2 AND c.created_at < $3 AND c.recorded_at < $5
   AND ($6 IS NULL OR (c.created_at, c.id) > ($6[1]::timestamptz, $6[2]))
   AND ($4->>'change_type' IS NULL OR c.change_type = $4->>'change_type')
   AND ($4->>'status' IS NULL OR was.status = $4->>'status')
 ORDER BY c.created_at, c.id LIMIT $7$report$);
