-- 10_event: the event itself, its types, and the log of everything that arrived.

-- What a handler gets: the envelope's fields, parsed and checked.
CREATE TYPE sentinai.event AS (
	event_id		text,
	event_type		text,
	tenant_id		text,
	exception_id	text,
	"timestamp"		timestamptz,
	correlation_id	text,
	version			integer,
	payload			jsonb,
	metadata		jsonb
);

-- One Kafka header; an array of them keeps order and repeats.
CREATE TYPE sentinai.header AS (
	name	text,
	value	bytea
);

-- A Kafka record as consume() takes it.
CREATE TYPE sentinai.record AS (
	topic			text,
	partition		integer,
	kafka_offset	bigint,
	epoch			bigint,
	ts				timestamptz,
	key				bytea,
	headers			sentinai.header[],
	value			bytea
);

CREATE TABLE sentinai.event_type (
	event_type	text COLLATE "C" PRIMARY KEY
				CHECK (octet_length(event_type) BETWEEN 1 AND 255),
	description	text,
	builtin		boolean NOT NULL DEFAULT false
);
SELECT pg_catalog.pg_extension_config_dump('sentinai.event_type', 'WHERE NOT builtin');

INSERT INTO sentinai.event_type (event_type, description, builtin) VALUES
	('ExceptionIngested', 'an exception arrived from a source system', true),
	('ManualExceptionCreated', 'a person entered an exception', true),
	('ExceptionNormalized', 'intake stored the exception in its normal form', true),
	('TriageRequested', 'somebody asked for a triage', true),
	('TriageCompleted', 'triage has classified the exception', true),
	('PolicyEvaluationRequested', 'somebody asked for a policy evaluation', true),
	('PolicyEvaluationCompleted', 'the policies have been evaluated', true),
	('PlaybookMatched', 'a playbook fits the exception', true),
	('StepExecutionRequested', 'a playbook step is to run', true),
	('ToolExecutionRequested', 'a tool is to run', true),
	('ToolExecutionCompleted', 'a tool has run', true),
	('ToolExecutionFailed', 'a tool could not run', true),
	('PlaybookCompleted', 'all steps of a playbook have run', true),
	('ExceptionResolved', 'the exception is resolved', true),
	('FeedbackCaptured', 'feedback about a resolution is stored', true),
	('SLAImminent', 'an exception nears its deadline', true),
	('SLAExpired', 'an exception passed its deadline', true),
	('RetryScheduled', 'an event failed and will be tried again', true),
	('DeadLettered', 'an event went to the dead letter queue', true),
	('BackpressureApplied', 'a tenant is over its rate', true);

-- Everything that arrived from outside or was emitted by us, once. Partitions by day are made at run time, each with
-- its own indexes: an index on the parent would break the restore of a dump.
CREATE TABLE sentinai.event_log (
	tenant_id		text COLLATE "C" NOT NULL,
	event_id		text COLLATE "C" NOT NULL,
	event_type		text COLLATE "C" NOT NULL,
	exception_id	text COLLATE "C",
	"timestamp"		timestamptz NOT NULL,
	correlation_id	text,
	payload			jsonb NOT NULL,
	metadata		jsonb,
	version			integer NOT NULL,
	topic			text COLLATE "C",
	partition		integer,
	kafka_offset	bigint,
	created_at		timestamptz NOT NULL DEFAULT now()
) PARTITION BY RANGE (created_at);
SELECT pg_catalog.pg_extension_config_dump('sentinai.event_log', '');
