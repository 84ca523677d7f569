/*
 * rate_limit_window.c
 *	  The sliding-window counter, in whole numbers.
 *
 * Time is cut into windows of the limit's length. Counted are the running window and the one before it; of the one
 * before, as much is taken to be inside the last `length` seconds as of its time is, rounded up. So a limit of L admits
 * at most L at once and less than 2 L within any stretch of one length; what was refused is counted apart and decides
 * nothing. A window of 86,400 s is the calendar day, without memory of the day before.
 *
 * Another length carries over what counts at that moment, as granted in the new running window. A clock that steps back
 * within one length stands still at the start of the window; one that steps back further opens a window there which has
 * all that was counted: neither grants more, and neither blocks for longer than two lengths.
 */
#include "sentinai.h"

#include "pgtime.h"
#include "utils/datetime.h"

#include "guc.h"
#include "rate_limit_window.h"

static TimestampTz
length_us(const SnWindow *window)
{
	return window->length * USECS_PER_SEC;
}

TimestampTz
sn_window_end(const SnWindow *window)
{
	return window->start + length_us(window);
}

/* Midnight of the day that has this time, plus that many days. */
static TimestampTz
midnight(TimestampTz now, int days)
{
	struct pg_tm tm;
	fsec_t fsec;
	int offset;
	Timestamp result;

	if (timestamp2tm(now, &offset, &tm, &fsec, NULL, sn_rate_limit_time_zone) != 0)
		return now - now % USECS_PER_DAY + days * USECS_PER_DAY;
	j2date(date2j(tm.tm_year, tm.tm_mon, tm.tm_mday) + days, &tm.tm_year, &tm.tm_mon, &tm.tm_mday);
	tm.tm_hour = tm.tm_min = tm.tm_sec = 0;
	offset = DetermineTimeZoneOffset(&tm, sn_rate_limit_time_zone);
	if (tm2timestamp(&tm, 0, &offset, &result) != 0)
		return now - now % USECS_PER_DAY + days * USECS_PER_DAY;
	return result;
}

/* The window that has this time becomes the running one; counts stay. */
static void
window_open(SnWindow *window, int seconds, TimestampTz now)
{
	TimestampTz length = seconds * USECS_PER_SEC;
	TimestampTz into = now % length;

	window->seconds = seconds;
	window->length = seconds;
	window->start = now - (into < 0 ? into + length : into);
	if (seconds == SN_WINDOW_DAY)
	{
		window->start = midnight(now, 0);
		window->length = (midnight(now, 1) - window->start) / USECS_PER_SEC;
	}
}

/* The running window is over: it becomes the one before, or is forgotten. */
static void
window_advance(SnWindow *window, TimestampTz now)
{
	bool adjacent = window->seconds != SN_WINDOW_DAY && now < sn_window_end(window) + length_us(window);

	window->previous_granted = adjacent ? window->granted : 0;
	window->previous_refused = adjacent ? window->refused : 0;
	window->granted = 0;
	window->refused = 0;
	window_open(window, window->seconds, now);
}

/* Everything that these two windows have counted, as counted in the one that has this time. */
static void
window_carry(SnWindow *window, int seconds, TimestampTz now, int64 granted, int64 refused)
{
	window->granted = granted;
	window->refused = refused;
	window->previous_granted = 0;
	window->previous_refused = 0;
	window_open(window, seconds, now);
}

/* Makes the window that has this time the running one, of that many seconds. */
void
sn_window_roll(SnWindow *window, int seconds, TimestampTz now)
{
	if (window->seconds == 0)
		window_carry(window, seconds, now, 0, 0);
	else if (now >= sn_window_end(window))
		window_advance(window, now);
	else if (now < window->start - length_us(window))
		window_carry(window, window->seconds, now, window->granted + window->previous_granted,
					 window->refused + window->previous_refused);

	if (window->seconds != seconds)
		window_carry(window, seconds, now, sn_window_granted(window, now), sn_window_refused(window, now));
}

/* How much of the window before still counts at this time, rounded up. */
static int64
weighted(const SnWindow *window, int64 previous, TimestampTz now)
{
	TimestampTz length = length_us(window);
	TimestampTz left = length - Max(now - window->start, 0);

	if (previous == 0 || left <= 0)
		return 0;
	if (previous < PG_INT64_MAX / (SN_WINDOW_DAY * USECS_PER_SEC) / 2) /* the usual case, without a wide division */
		return (previous * left + length - 1) / length;
	return (int64) (((int128) previous * left + length - 1) / length);
}

int64
sn_window_granted(const SnWindow *window, TimestampTz now)
{
	return window->granted + weighted(window, window->previous_granted, now);
}

int64
sn_window_refused(const SnWindow *window, TimestampTz now)
{
	return window->refused + weighted(window, window->previous_refused, now);
}

void
sn_window_grant(SnWindow *window, int64 n)
{
	window->granted += n;
}

/* Refusals never end, so their count does. */
void
sn_window_refuse(SnWindow *window, int64 n)
{
	window->refused = Min(window->refused + n, SN_LIMIT_MAX);
}

/* Takes back what was granted, the newest first; never below zero. */
void
sn_window_refund(SnWindow *window, int64 n)
{
	int64 newest = Min(n, window->granted);

	window->granted -= newest;
	window->previous_granted -= Min(n - newest, window->previous_granted);
}

/* Takes back what was granted in the window that began then, as far as that is known apart. */
void
sn_window_undo(SnWindow *window, int64 n, TimestampTz start)
{
	if (window->start == start)
		window->granted -= Min(n, window->granted);
	else if (window->start == start + length_us(window))
		window->previous_granted -= Min(n, window->previous_granted);
}

/* Adds the counts of another record of the same limit. Both have been rolled to this time. */
void
sn_window_add(SnWindow *window, const SnWindow *other, TimestampTz now)
{
	bool same = window->start == other->start;

	window->granted += same ? other->granted : sn_window_granted(other, now);
	window->refused += same ? other->refused : sn_window_refused(other, now);
	window->previous_granted += same ? other->previous_granted : 0;
	window->previous_refused += same ? other->previous_refused : 0;
}

/* When n counts have faded to that many, if they begin to fade at this time. */
static TimestampTz
faded_at(const SnWindow *window, int64 n, int64 to, TimestampTz from)
{
	TimestampTz length = length_us(window);

	if (n <= to)
		return from;
	return from + length - (TimestampTz) ((int128) to * length / n);
}

/* The first moment, now or later, at which n units (no more than the limit) fit if nothing else is granted until then. */
TimestampTz
sn_window_fits_at(const SnWindow *window, int64 limit, int64 n, TimestampTz now)
{
	TimestampTz at;

	if (window->granted + n <= limit)
		at = faded_at(window, window->previous_granted, limit - n - window->granted, window->start);
	else if (window->seconds == SN_WINDOW_DAY)
		at = sn_window_end(window);
	else
		at = faded_at(window, window->granted, limit - n, sn_window_end(window));
	return Max(at, now);
}

/* Nothing that it has counted can matter any more. */
bool
sn_window_idle(const SnWindow *window, TimestampTz now)
{
	return now >= sn_window_end(window) + length_us(window);
}
