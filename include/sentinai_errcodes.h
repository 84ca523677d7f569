/*
 * sentinai_errcodes.h
 *	  Every SQLSTATE of class SN, once, for the extension (ereport), the SQL scripts (RAISE ... USING ERRCODE) and the
 *	  worker, which decides by them.
 *
 * A row is X(symbol, code, condition name). Only codes live here; messages live where they are raised.
 */
#ifndef SENTINAI_ERRCODES_H
#define SENTINAI_ERRCODES_H

#define SN_ERRCODES(X) \
	X(SN_INVALID_ARGUMENT, "SN001", "invalid_argument") \
	X(SN_UNKNOWN_WORKER_TYPE, "SN002", "unknown_worker_type") \
	X(SN_GROUP_MISMATCH, "SN003", "group_mismatch") \
	X(SN_UNKNOWN_TENANT, "SN004", "unknown_tenant") \
	X(SN_UNKNOWN_EVENT_TYPE, "SN005", "unknown_event_type") \
	X(SN_INVALID_EVENT, "SN006", "validation_error") \
	X(SN_INVALID_BATCH, "SN007", "invalid_batch") \
	X(SN_NOT_IN_HANDLER, "SN008", "not_in_handler") \
	X(SN_INVALID_HANDLER, "SN009", "invalid_handler") \
	X(SN_INVALID_TRANSITION, "SN010", "invalid_transition") \
	X(SN_NOT_FOUND, "SN011", "not_found") \
	X(SN_ALREADY_EXISTS, "SN012", "already_exists") \
	X(SN_INVALID_TRANSACTION, "SN013", "invalid_transaction") \
	X(SN_NOT_ACTIVE, "SN014", "not_active") \
	X(SN_NOT_PRELOADED, "SN015", "not_preloaded") \
	X(SN_FENCED, "SN018", "fenced") \
	X(SN_IN_USE, "SN019", "in_use") \
	X(SN_SPLIT, "SN030", "split") \
	X(SN_CIRCUIT_OPEN, "SN031", "circuit_open") \
	X(SN_HANDLER_CRASHED, "SN032", "handler_crashed") \
	X(SN_RATE_LIMITED, "SN040", "rate_limited") \
	X(SN_UNKNOWN_LIMIT_TYPE, "SN041", "unknown_limit_type") \
	X(SN_COST_ABOVE_LIMIT, "SN042", "cost_above_limit") \
	X(SN_PERIOD_CLOSED, "SN050", "period_closed") \
	X(SN_SNAPSHOT_TOO_OLD, "SN051", "snapshot_too_old") \
	X(SN_IDEMPOTENCY_IN_FLIGHT, "SN060", "idempotency_in_flight") \
	X(SN_IDEMPOTENCY_MISMATCH, "SN061", "idempotency_mismatch") \
	X(SN_IDEMPOTENCY_LEASE_LOST, "SN062", "idempotency_lease_lost") \
	X(SN_IDEMPOTENCY_INCOMPLETE, "SN063", "idempotency_incomplete") \
	X(SN_IDEMPOTENCY_NOT_KEPT, "SN064", "idempotency_not_kept") \
	X(SN_UNKNOWN_REPORT_TYPE, "SN070", "unknown_report_type") \
	X(SN_REPORT_NOT_COMPLETED, "SN071", "report_not_completed") \
	X(SN_REPORT_EXPIRED, "SN072", "report_expired") \
	X(SN_REPORT_LINK_INVALID, "SN073", "report_link_invalid") \
	X(SN_REPORT_INCOMPLETE, "SN074", "report_incomplete") \
	X(SN_REPORT_TOO_LARGE, "SN075", "report_too_large") \
	X(SN_REPORT_PDF_FAILED, "SN076", "report_pdf_failed") \
	X(SN_LEGAL_HOLD, "SN077", "legal_hold")

#endif /* SENTINAI_ERRCODES_H */
