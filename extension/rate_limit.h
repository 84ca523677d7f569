/*
 * rate_limit.h
 *	  Charging a tenant's limits from C. The SQL functions are in rate_limit.c, the table of counts in rate_limit_slot.c.
 */
#ifndef SENTINAI_RATE_LIMIT_H
#define SENTINAI_RATE_LIMIT_H

#include "postgres.h"

#include "datatype/timestamp.h"

/* How a limit stands after a call. */
typedef struct SnRateLimit
{
	bool known; /* tenant and limit type are known; if not, nothing else is set */
	bool enabled;
	bool allowed; /* what was asked for was granted, all of it; of sn_rate_limit_available(): one unit would be */
	int64 limit;
	int window_seconds; /* 86400: the calendar day */
	TimestampTz since;	/* of a limit that was reset or enabled again: what came before doesn't count; else -infinity */
	int64 granted;		/* of the window that ends now */
	int64 refused;		/* of the same; never decides */
	int64 remaining;
	int64 retry_after_us; /* until what was refused fits, if nobody else comes; 0: it was granted */
	TimestampTz reset_at; /* when it fits; if it was granted: the end of the running window */
} SnRateLimit;

/* The clock of limits and of what is due: sentinai.test_clock where it is set. */
extern TimestampTz sn_now(void);

/*
 * Charges up to n units, as many as there are (0 .. n), and returns how many; they are given back when the current
 * (sub)transaction aborts. What is not granted is not counted as refused: the caller defers it.
 */
extern int64
sn_rate_limit_reserve(const char *tenant_id, const char *limit_type, int64 n, TimestampTz now, SnRateLimit *state);

/*
 * Charges one unit, or counts it as refused, as rate_limit_check() does: state->allowed says which. Nothing is given back at
 * abort. False: there is no such tenant. The caller knows that it may charge this one.
 */
extern bool sn_rate_limit_charge(const char *tenant_id, const char *limit_type, SnRateLimit *state);

/* How many units would be granted now. Charges nothing. */
extern int64
sn_rate_limit_available(const char *tenant_id, const char *limit_type, TimestampTz now, SnRateLimit *state);

/*
 * A place at the end of the slot's queue: when one more unit has its turn at the tenant's rate, behind all places that
 * were handed out before. The place is given back when the current (sub)transaction aborts. now: where nothing limits.
 */
extern TimestampTz sn_rate_limit_appoint(const char *tenant_id, const char *limit_type, TimestampTz now);

/* reset_at in UTC, in whole seconds, rounded up: 2026-11-30T12:00:00Z. */
extern char *sn_rate_limit_reset_at(const SnRateLimit *state);

/* What a refused call is told, in the runbook's words, and the runbook's body of an answer 429, as JSON. */
extern char *sn_rate_limit_words(const char *limit_type, const SnRateLimit *state);
extern char *sn_rate_limit_answer(const char *limit_type, const SnRateLimit *state);

extern void sn_rate_limit_install(void);

#endif /* SENTINAI_RATE_LIMIT_H */
