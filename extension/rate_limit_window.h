/*
 * rate_limit_window.h
 *	  The counts of one limit and what follows from them: pure arithmetic, nothing shared.
 */
#ifndef SENTINAI_RATE_LIMIT_WINDOW_H
#define SENTINAI_RATE_LIMIT_WINDOW_H

#include "postgres.h"

#include "datatype/timestamp.h"

/* A window of this length is the calendar day in sentinai.rate_limit_time_zone; shorter ones slide. */
#define SN_WINDOW_DAY 86400

/* Largest limit: with it no sum of counts, and no sum of two limits, overflows. */
#define SN_LIMIT_MAX INT64CONST(1000000000000000)

typedef struct SnWindow
{
	TimestampTz start; /* of the running window; sliding ones are aligned to the epoch */
	int32 seconds;	   /* 0: nothing was counted yet */
	int32 length;	   /* of the running window: a day may have 23 or 25 hours */
	int64 granted;
	int64 previous_granted; /* of the window before; 0 for days */
	int64 refused;
	int64 previous_refused;
} SnWindow;

extern void sn_window_roll(SnWindow *window, int seconds, TimestampTz now);
extern int64 sn_window_granted(const SnWindow *window, TimestampTz now);
extern int64 sn_window_refused(const SnWindow *window, TimestampTz now);
extern void sn_window_grant(SnWindow *window, int64 n);
extern void sn_window_refuse(SnWindow *window, int64 n);
extern void sn_window_refund(SnWindow *window, int64 n);
extern void sn_window_undo(SnWindow *window, int64 n, TimestampTz start);
extern void sn_window_add(SnWindow *window, const SnWindow *other, TimestampTz now);
extern TimestampTz sn_window_end(const SnWindow *window);
extern TimestampTz sn_window_fits_at(const SnWindow *window, int64 limit, int64 n, TimestampTz now);
extern bool sn_window_idle(const SnWindow *window, TimestampTz now);

#endif /* SENTINAI_RATE_LIMIT_WINDOW_H */
