-- 80_tool: tools that playbooks use, and what each use came to. The tables; calling them comes with the tool worker.

CREATE TABLE sentinai.tool_definition (
	tenant_id	text COLLATE "C" NOT NULL DEFAULT '',
	tool_id		text COLLATE "C" NOT NULL,
	name		text NOT NULL,
	type		text,
	config		jsonb NOT NULL DEFAULT '{}',
	created_at	timestamptz NOT NULL DEFAULT now(),
	updated_at	timestamptz NOT NULL DEFAULT now(),
	recorded_at	timestamptz NOT NULL DEFAULT clock_timestamp(),
	PRIMARY KEY (tenant_id, tool_id)
);
SELECT pg_catalog.pg_extension_config_dump('sentinai.tool_definition', '');
COMMENT ON TABLE sentinai.tool_definition IS 'The tools that there are. What a tool was called before stands in tool_definition_event.';
COMMENT ON COLUMN sentinai.tool_definition.tenant_id IS 'Whose tool it is; empty: all tenants''.';
COMMENT ON COLUMN sentinai.tool_definition.tool_id IS 'Its id.';
COMMENT ON COLUMN sentinai.tool_definition.name IS 'What people call it.';
COMMENT ON COLUMN sentinai.tool_definition.type IS 'What kind of tool it is.';
COMMENT ON COLUMN sentinai.tool_definition.config IS 'How it is called.';
COMMENT ON COLUMN sentinai.tool_definition.created_at IS 'When it was added.';
COMMENT ON COLUMN sentinai.tool_definition.updated_at IS 'When it was last changed.';
COMMENT ON COLUMN sentinai.tool_definition.recorded_at IS 'When the row was written, by the database''s clock: what reports are bounded by.';

CREATE TABLE sentinai.tool_definition_event (
	tenant_id		text COLLATE "C" NOT NULL,
	tool_id			text COLLATE "C" NOT NULL,
	event_id		text COLLATE "C" NOT NULL,
	event_type		text COLLATE "C" NOT NULL,
	actor_type		text NOT NULL CHECK (actor_type IN ('agent', 'user', 'system')),
	actor_id		text,
	payload			jsonb NOT NULL DEFAULT '{}',
	created_at		timestamptz NOT NULL DEFAULT now(),
	recorded_at		timestamptz NOT NULL DEFAULT clock_timestamp(),
	PRIMARY KEY (tenant_id, tool_id, event_id)
);
SELECT pg_catalog.pg_extension_config_dump('sentinai.tool_definition_event', '');
COMMENT ON TABLE sentinai.tool_definition_event IS 'Every change of a tool''s name, written by the trigger of tool_definition: reports say what it was called at their bound. Rows are never changed.';
COMMENT ON COLUMN sentinai.tool_definition_event.tenant_id IS 'Whose tool it is; empty: all tenants''.';
COMMENT ON COLUMN sentinai.tool_definition_event.tool_id IS 'The tool.';
COMMENT ON COLUMN sentinai.tool_definition_event.event_id IS 'The change''s own id.';
COMMENT ON COLUMN sentinai.tool_definition_event.event_type IS 'ToolDefinitionChanged.';
COMMENT ON COLUMN sentinai.tool_definition_event.actor_type IS 'agent: a worker; user: a person; system: the system.';
COMMENT ON COLUMN sentinai.tool_definition_event.actor_id IS 'Which one: the role.';
COMMENT ON COLUMN sentinai.tool_definition_event.payload IS '{"changed": {"name": [before, after]}}; after is null where the tool was deleted.';
COMMENT ON COLUMN sentinai.tool_definition_event.created_at IS 'When.';
COMMENT ON COLUMN sentinai.tool_definition_event.recorded_at IS 'When the row was written, by the database''s clock: what reports are bounded by.';
CREATE TRIGGER append_only BEFORE UPDATE ON sentinai.tool_definition_event
	FOR EACH STATEMENT EXECUTE FUNCTION sentinai.report_source_guard();

CREATE FUNCTION sentinai.tool_definition_changed() RETURNS trigger
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, sentinai, pg_temp
	AS $$
BEGIN
	INSERT INTO sentinai.tool_definition_event (tenant_id, tool_id, event_id, event_type, actor_type, actor_id, payload)
	VALUES (OLD.tenant_id, OLD.tool_id, gen_random_uuid()::text, 'ToolDefinitionChanged', 'user', sentinai.caller_role(),
			jsonb_build_object('changed', jsonb_build_object('name', jsonb_build_array(OLD.name, CASE WHEN TG_OP = 'UPDATE' THEN NEW.name END))));
	RETURN NULL;
END
$$;
COMMENT ON FUNCTION sentinai.tool_definition_changed() IS 'Trigger: notes a tool''s name before it changes, or the tool is deleted.';
CREATE TRIGGER renamed AFTER UPDATE ON sentinai.tool_definition
	FOR EACH ROW WHEN (OLD.name IS DISTINCT FROM NEW.name) EXECUTE FUNCTION sentinai.tool_definition_changed();
CREATE TRIGGER deleted AFTER DELETE ON sentinai.tool_definition FOR EACH ROW EXECUTE FUNCTION sentinai.tool_definition_changed();

CREATE FUNCTION sentinai.tool_name(tenant_id text, tool_id text, bound timestamptz) RETURNS text
	LANGUAGE sql STABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT n.name
	  FROM (VALUES (1, $1), (2, '')) AS owner (place, tenant_id)
	 CROSS JOIN LATERAL (
		-- What the first change since says that it was before; where there is none, what it is.
		(SELECT 1 AS place, e.payload #>> '{changed,name,0}' AS name FROM sentinai.tool_definition_event e
		  WHERE e.tenant_id = owner.tenant_id AND e.tool_id = $2 AND e.recorded_at >= $3 ORDER BY e.recorded_at, e.event_id LIMIT 1)
		UNION ALL
		SELECT 2, d.name FROM sentinai.tool_definition d WHERE d.tenant_id = owner.tenant_id AND d.tool_id = $2 AND d.recorded_at < $3) n
	 ORDER BY owner.place, n.place LIMIT 1
$$;
COMMENT ON FUNCTION sentinai.tool_name(text, text, timestamptz) IS
	'What a tool of a tenant (or else the one of all tenants) was called at the bound; NULL: there was none.';

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
