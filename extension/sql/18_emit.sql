-- 18_emit: what a handler may call.

CREATE FUNCTION sentinai.emit(parent sentinai.event, event_type text, payload jsonb, exception_id text DEFAULT NULL,
							  topic text DEFAULT 'exceptions') RETURNS text
	LANGUAGE c VOLATILE
	AS 'MODULE_PATHNAME', 'sn_emit';
COMMENT ON FUNCTION sentinai.emit(sentinai.event, text, jsonb, text, text) IS
	'Emits an event that follows from parent, for its tenant; only inside a handler, for an event that the handler was given. It goes to event_log and to the outbox when the batch is written, and leaves with everything else when the handler''s work is rolled back. exception_id: default the parent''s. Returns the event''s id, derived from the parent''s identity, the worker type and the ordinal, so that a repeated run emits the same id. Lock the exception''s row before you emit: that keeps the order of two worker types. Raises SN001 (bad topic), SN005 (unknown event type), SN006 (payload is no object or too large), SN008 (outside of a handler).';

CREATE FUNCTION sentinai.fail(event sentinai.event, error_type text, message text) RETURNS void
	LANGUAGE c VOLATILE
	AS 'MODULE_PATHNAME', 'sn_fail';
COMMENT ON FUNCTION sentinai.fail(sentinai.event, text, text) IS
	'Says that one of the events that a handler was given has failed, while the others go on: nothing that was written or emitted for it stays. error_type: validation_error and its like make a dead letter at once, anything else is retried by the policy. Raises SN001 (bad error_type), SN008 (outside of a handler, or another event).';
