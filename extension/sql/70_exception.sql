-- 70_exception: the platform's exceptions and what happened to each. The platform's files use the core by its public
-- functions and types only: scripts/check_layers.

CREATE TABLE sentinai.exceptions (
	tenant_id			text COLLATE "C" NOT NULL,
	exception_id		text COLLATE "C" NOT NULL,
	domain				text,
	type				text,
	severity			text CHECK (severity IN ('low', 'medium', 'high', 'critical')),
	status				text NOT NULL DEFAULT 'open'
						CHECK (status IN ('open', 'analyzing', 'resolved', 'escalated')),
	source_system		text,
	entity				text,
	amount				numeric,
	sla_deadline		timestamptz,
	owner				text,
	current_playbook_id	text,
	current_step		integer,
	created_at			timestamptz NOT NULL DEFAULT now(),
	updated_at			timestamptz NOT NULL DEFAULT now(),
	resolved_at			timestamptz,
	recorded_at			timestamptz NOT NULL DEFAULT clock_timestamp(),
	-- People ask by the exception's id alone, and for what a tenant had in a time.
	PRIMARY KEY (exception_id, tenant_id)
);
CREATE INDEX exceptions_tenant ON sentinai.exceptions (tenant_id, created_at);
SELECT pg_catalog.pg_extension_config_dump('sentinai.exceptions', '');
COMMENT ON TABLE sentinai.exceptions IS
	'One row an exception, written by intake and moved on by the platform''s other workers and by people.';
COMMENT ON COLUMN sentinai.exceptions.tenant_id IS 'Whose exception it is.';
COMMENT ON COLUMN sentinai.exceptions.exception_id IS 'Unique within the tenant; the event''s own id where the event named no exception.';
COMMENT ON COLUMN sentinai.exceptions.domain IS 'The business domain, as the source says.';
COMMENT ON COLUMN sentinai.exceptions.type IS 'The kind of exception within its domain.';
COMMENT ON COLUMN sentinai.exceptions.severity IS 'low, medium, high or critical; NULL: nobody has said yet.';
COMMENT ON COLUMN sentinai.exceptions.status IS 'open, analyzing, resolved or escalated.';
COMMENT ON COLUMN sentinai.exceptions.source_system IS 'Where it comes from.';
COMMENT ON COLUMN sentinai.exceptions.entity IS 'What it is about: an invoice, an account, a trade.';
COMMENT ON COLUMN sentinai.exceptions.amount IS 'The money at stake, in the source''s currency.';
COMMENT ON COLUMN sentinai.exceptions.sla_deadline IS 'Until when it must be resolved.';
COMMENT ON COLUMN sentinai.exceptions.owner IS 'Who works on it.';
COMMENT ON COLUMN sentinai.exceptions.current_playbook_id IS 'The playbook that runs for it.';
COMMENT ON COLUMN sentinai.exceptions.current_step IS 'The step of that playbook, from 1.';
COMMENT ON COLUMN sentinai.exceptions.created_at IS 'When it happened: the timestamp of the event that brought it.';
COMMENT ON COLUMN sentinai.exceptions.updated_at IS 'When the row was last changed.';
COMMENT ON COLUMN sentinai.exceptions.resolved_at IS 'When it was resolved.';
COMMENT ON COLUMN sentinai.exceptions.recorded_at IS 'When the row was written, by the database''s clock: what reports are bounded by.';

CREATE VIEW sentinai.exception WITH (security_invoker = true) AS
	SELECT tenant_id, exception_id, domain, type, severity, status, source_system, entity, amount, sla_deadline, owner,
		   current_playbook_id, current_step, created_at, updated_at, resolved_at,
		   recorded_at
	  FROM sentinai.exceptions;
COMMENT ON VIEW sentinai.exception IS 'The table exceptions under its other name; it can be written too.';
DO $$
DECLARE
	said	record;
BEGIN
	FOR said IN
		SELECT a.attname, pg_catalog.col_description(a.attrelid, a.attnum) AS text
		  FROM pg_catalog.pg_attribute a WHERE a.attrelid = 'sentinai.exceptions'::pg_catalog.regclass AND a.attnum > 0
	LOOP
		EXECUTE pg_catalog.format('COMMENT ON COLUMN sentinai.exception.%I IS %L', said.attname, said.text);
	END LOOP;
END
$$;

CREATE TABLE sentinai.exception_event (
	tenant_id		text COLLATE "C" NOT NULL,
	exception_id	text COLLATE "C" NOT NULL,
	event_id		text COLLATE "C" NOT NULL,
	event_type		text COLLATE "C" NOT NULL,
	actor_type		text NOT NULL CHECK (actor_type IN ('agent', 'user', 'system')),
	actor_id		text,
	payload			jsonb NOT NULL DEFAULT '{}',
	created_at		timestamptz NOT NULL DEFAULT now(),
	recorded_at		timestamptz NOT NULL DEFAULT clock_timestamp(),
	PRIMARY KEY (exception_id, tenant_id, event_id, event_type)
);
-- Few events are decisions of policies, and a report is about those.
CREATE INDEX exception_event_policy ON sentinai.exception_event (tenant_id, created_at, exception_id, event_id, event_type)
	WHERE event_type IN ('PolicyEvaluationCompleted', 'PlaybookMatched');
SELECT pg_catalog.pg_extension_config_dump('sentinai.exception_event', '');
COMMENT ON TABLE sentinai.exception_event IS
	'What happened to each exception, for as long as the exception is kept; event_log is kept for days only. An UPDATE of exceptions adds a row of type ExceptionChanged: {"changed": {column: [before, after]}}. Rows are never changed.';
COMMENT ON COLUMN sentinai.exception_event.tenant_id IS 'Whose exception it is.';
COMMENT ON COLUMN sentinai.exception_event.exception_id IS 'The exception.';
COMMENT ON COLUMN sentinai.exception_event.event_id IS 'The event that did it.';
COMMENT ON COLUMN sentinai.exception_event.event_type IS 'What happened.';
COMMENT ON COLUMN sentinai.exception_event.actor_type IS 'agent: a worker of the platform; user: a person; system: the source system.';
COMMENT ON COLUMN sentinai.exception_event.actor_id IS 'Which agent, person or system.';
COMMENT ON COLUMN sentinai.exception_event.payload IS 'The event''s payload.';
COMMENT ON COLUMN sentinai.exception_event.created_at IS 'When it happened: the event''s timestamp.';
COMMENT ON COLUMN sentinai.exception_event.recorded_at IS 'When the row was written, by the database''s clock: what reports are bounded by.';

-- What reports are made of is only ever added to; what an exception was like at a moment follows from its changes since.
CREATE TRIGGER append_only BEFORE UPDATE ON sentinai.exception_event
	FOR EACH STATEMENT EXECUTE FUNCTION sentinai.report_source_guard();
CREATE TRIGGER fixed AFTER UPDATE OF tenant_id, exception_id, created_at, recorded_at ON sentinai.exceptions
	FOR EACH ROW WHEN ((OLD.tenant_id, OLD.exception_id, OLD.created_at, OLD.recorded_at) IS DISTINCT FROM (NEW.tenant_id, NEW.exception_id, NEW.created_at, NEW.recorded_at))
	EXECUTE FUNCTION sentinai.report_source_fixed();
CREATE TRIGGER changed AFTER UPDATE ON sentinai.exceptions REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
	FOR EACH STATEMENT EXECUTE FUNCTION sentinai.report_source_changed('exception_event', 'exception_id', 'exception_id', 'ExceptionChanged');
SELECT sentinai.legal_hold_protect('sentinai.exceptions', 'created_at', 'recorded_at');
SELECT sentinai.legal_hold_protect('sentinai.exception_event', 'created_at', 'recorded_at');
