-- 80_tool: tools that playbooks use, and what each use came to. The tables; calling them comes with the tool worker.

CREATE TABLE sentinai.tool_definition (
	tenant_id	text COLLATE "C" NOT NULL DEFAULT '',
	tool_id		text COLLATE "C" NOT NULL,
	name		text NOT NULL,
	type		text,
	config		jsonb NOT NULL DEFAULT '{}',
	created_at	timestamptz NOT NULL DEFAULT now(),
	updated_at	timestamptz NOT NULL DEFAULT now(),
	PRIMARY KEY (tenant_id, tool_id)
);
SELECT pg_catalog.pg_extension_config_dump('sentinai.tool_definition', '');
COMMENT ON TABLE sentinai.tool_definition IS 'The tools that there are.';
COMMENT ON COLUMN sentinai.tool_definition.tenant_id IS 'Whose tool it is; empty: all tenants''.';
COMMENT ON COLUMN sentinai.tool_definition.tool_id IS 'Its id.';
COMMENT ON COLUMN sentinai.tool_definition.name IS 'What people call it.';
COMMENT ON COLUMN sentinai.tool_definition.type IS 'What kind of tool it is.';
COMMENT ON COLUMN sentinai.tool_definition.config IS 'How it is called.';
COMMENT ON COLUMN sentinai.tool_definition.created_at IS 'When it was added.';
COMMENT ON COLUMN sentinai.tool_definition.updated_at IS 'When it was last changed.';

CREATE TABLE sentinai.tool_execution (
	tenant_id				text COLLATE "C" NOT NULL,
	id						uuid NOT NULL DEFAULT gen_random_uuid(),
	tool_id					text COLLATE "C" NOT NULL,
	exception_id			text COLLATE "C",
	status					text COLLATE "C" NOT NULL DEFAULT 'requested'
							CHECK (status IN ('requested', 'running', 'succeeded', 'failed')),
	requested_by_actor_type	text NOT NULL CHECK (requested_by_actor_type IN ('agent', 'user', 'system')),
	requested_by_actor_id	text,
	input_payload			jsonb NOT NULL DEFAULT '{}',
	output_payload			jsonb,
	error_message			text,
	created_at				timestamptz NOT NULL DEFAULT now(),
	updated_at				timestamptz NOT NULL DEFAULT now(),
	recorded_at				timestamptz NOT NULL DEFAULT clock_timestamp(),
	PRIMARY KEY (tenant_id, id)
);
CREATE INDEX tool_execution_created ON sentinai.tool_execution (tenant_id, created_at, id);
SELECT pg_catalog.pg_extension_config_dump('sentinai.tool_execution', '');
COMMENT ON TABLE sentinai.tool_execution IS 'One row a use of a tool.';
COMMENT ON COLUMN sentinai.tool_execution.tenant_id IS 'For whom.';
COMMENT ON COLUMN sentinai.tool_execution.id IS 'Its id.';
COMMENT ON COLUMN sentinai.tool_execution.tool_id IS 'The tool.';
COMMENT ON COLUMN sentinai.tool_execution.exception_id IS 'The exception that it was used for; NULL: for none.';
COMMENT ON COLUMN sentinai.tool_execution.status IS 'requested, running, succeeded or failed.';
COMMENT ON COLUMN sentinai.tool_execution.requested_by_actor_type IS 'Who asked: agent, user or system.';
COMMENT ON COLUMN sentinai.tool_execution.requested_by_actor_id IS 'Which agent, person or system.';
COMMENT ON COLUMN sentinai.tool_execution.input_payload IS 'What the tool was given.';
COMMENT ON COLUMN sentinai.tool_execution.output_payload IS 'What it answered.';
COMMENT ON COLUMN sentinai.tool_execution.error_message IS 'Why it failed.';
COMMENT ON COLUMN sentinai.tool_execution.created_at IS 'When it was asked for.';
COMMENT ON COLUMN sentinai.tool_execution.updated_at IS 'When the row was last changed.';
COMMENT ON COLUMN sentinai.tool_execution.recorded_at IS 'When the row was written, by the database''s clock: what reports are bounded by.';

CREATE TABLE sentinai.tool_execution_event (
	tenant_id		text COLLATE "C" NOT NULL,
	execution_id	uuid NOT NULL,
	event_id		text COLLATE "C" NOT NULL,
	event_type		text COLLATE "C" NOT NULL,
	actor_type		text NOT NULL CHECK (actor_type IN ('agent', 'user', 'system')),
	actor_id		text,
	payload			jsonb NOT NULL DEFAULT '{}',
	created_at		timestamptz NOT NULL DEFAULT now(),
	recorded_at		timestamptz NOT NULL DEFAULT clock_timestamp(),
	PRIMARY KEY (tenant_id, execution_id, event_id)
);
SELECT pg_catalog.pg_extension_config_dump('sentinai.tool_execution_event', '');
COMMENT ON TABLE sentinai.tool_execution_event IS 'Every change of a row of tool_execution, written by its trigger. Rows are never changed.';
COMMENT ON COLUMN sentinai.tool_execution_event.tenant_id IS 'Whose it is.';
COMMENT ON COLUMN sentinai.tool_execution_event.execution_id IS 'The use of a tool.';
COMMENT ON COLUMN sentinai.tool_execution_event.event_id IS 'The change''s own id.';
COMMENT ON COLUMN sentinai.tool_execution_event.event_type IS 'ToolExecutionChanged.';
COMMENT ON COLUMN sentinai.tool_execution_event.actor_type IS 'agent: a worker; user: a person; system: the system.';
COMMENT ON COLUMN sentinai.tool_execution_event.actor_id IS 'Which one: the role.';
COMMENT ON COLUMN sentinai.tool_execution_event.payload IS '{"changed": {column: [before, after]}}.';
COMMENT ON COLUMN sentinai.tool_execution_event.created_at IS 'When.';
COMMENT ON COLUMN sentinai.tool_execution_event.recorded_at IS 'When the row was written, by the database''s clock: what reports are bounded by.';

CREATE TRIGGER append_only BEFORE UPDATE ON sentinai.tool_execution_event
	FOR EACH STATEMENT EXECUTE FUNCTION sentinai.report_source_guard();
CREATE TRIGGER fixed AFTER UPDATE OF tenant_id, id, created_at, recorded_at ON sentinai.tool_execution
	FOR EACH ROW WHEN ((OLD.tenant_id, OLD.id, OLD.created_at, OLD.recorded_at) IS DISTINCT FROM (NEW.tenant_id, NEW.id, NEW.created_at, NEW.recorded_at))
	EXECUTE FUNCTION sentinai.report_source_fixed();
CREATE TRIGGER changed AFTER UPDATE ON sentinai.tool_execution REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
	FOR EACH STATEMENT EXECUTE FUNCTION sentinai.report_source_changed('tool_execution_event', 'execution_id', 'id', 'ToolExecutionChanged');

CREATE FUNCTION sentinai.tool_execution_count() RETURNS trigger
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
DECLARE
	called	record;
BEGIN
	IF TG_OP = 'INSERT' THEN
		-- Not of a restore, which brings created_at.
		SELECT array_agg(n.tenant_id) AS tenants, array_agg(left(n.tool_id, 63)) AS tools INTO called
		  FROM new_rows n
		 WHERE n.status <> 'requested' AND n.created_at = now();
	ELSE
		SELECT array_agg(n.tenant_id) AS tenants, array_agg(left(n.tool_id, 63)) AS tools INTO called
		  FROM new_rows n JOIN old_rows o USING (tenant_id, id)
		 WHERE n.status <> 'requested' AND o.status = 'requested';
	END IF;
	IF called.tenants IS NOT NULL THEN
		PERFORM sentinai.usage_record_batch(called.tenants, 'tool_executions', called.tools,
			array_fill(1::bigint, ARRAY[cardinality(called.tenants)]));
	END IF;
	RETURN NULL;
END
$$;
COMMENT ON FUNCTION sentinai.tool_execution_count() IS
	'Trigger: a tool that is called, which is when its execution is requested no more, is usage (tool_executions) of its tenant, in the same transaction.';
CREATE TRIGGER usage_inserted AFTER INSERT ON sentinai.tool_execution REFERENCING NEW TABLE AS new_rows
	FOR EACH STATEMENT EXECUTE FUNCTION sentinai.tool_execution_count();
CREATE TRIGGER usage_updated AFTER UPDATE ON sentinai.tool_execution REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
	FOR EACH STATEMENT EXECUTE FUNCTION sentinai.tool_execution_count();

SELECT sentinai.legal_hold_protect('sentinai.tool_execution', 'created_at', 'recorded_at');
SELECT sentinai.legal_hold_protect('sentinai.tool_execution_event', 'created_at', 'recorded_at');
