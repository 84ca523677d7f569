/*
 * backpressure.c
 *	  The fifth step of consume(): a tenant's events over its rate (events_ingested) wait in a queue of its own.
 *
 * Charged is what comes from outside, once, by the worker type that owns the topic: not what we emitted, no retry of a dead
 * letter, nothing without a handler. The limiter (rate_limit.c) decides how much; what it does not grant is deferred with
 * an appointment: next_attempt_at is its place behind the last one of the tenant, one window / limit after the other. A
 * row of event_pending is in a queue while its rate_limit is set, to the limit under which the appointment was made.
 *
 * A call takes from the queues of its partitions at most what the limiter has for each tenant, in the order of the
 * appointments, and shares its room out in turns. So a tenant's long queue holds up nobody else, and a row is touched when
 * it comes and when it goes, however long it waits. When the limit has changed the appointments are made anew, once; what
 * then stands before the event that its exception waits for goes to the end.
 *
 * All that counts is in event_pending: the limiter's counts decide how fast a queue moves, never what is in it. Rows are
 * read and written by pending.c, the order within an exception is key_order.c's.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "backpressure.h"
#include "catalog/pg_type.h"
#include "emit.h"
#include "funcapi.h"
#include "point.h"
#include "rate_limit.h"
#include "sentinai.h"
#include "spi.h"
#include "suspect.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/json.h"
#include "utils/jsonb.h"

PG_FUNCTION_INFO_V1(sn_backpressure_limit);

#define LIMIT_TYPE "events_ingested"

/* Turns that come closer than this are made together. */
#define MIN_WAIT_US INT64CONST(20000)

/* A small limit and a long queue make appointments beyond any calendar: 9999-01-01 stands for all of those. */
#define LAST_APPOINTMENT INT64CONST(252424080000000000)

/* A tenant with a queue, or one that gets one in this call. */
typedef struct SnBacklog
{
	const char *tenant_id;
	TimestampTz first;	  /* appointment of its first event in these partitions; 0: it has none there */
	const char *made_for; /* the limit under which that was made */
	bool paid;			  /* that event needs no charge */
	int64 room;			  /* how many may be taken in this call, if there is room in it */
	SnTurn turn;

	/* New appointments */
	SnRateLimit limit;
	char *rate_limit;	   /* the same, as a text */
	TimestampTz next_slot; /* the first of them */
	int64 appointed;
	SnWork *notice; /* the first event of them that BackpressureApplied may be about */
} SnBacklog;

/* Who had the last turn, so that the next call begins behind: nobody is always last. */
static char last_tenant[SN_TENANT_ID_MAX + 1] = "";

/* Of a call that has room for one event only, every other one is for the queues. */
static bool odd_call = false;

/*
 * All tenants with a queue, each found by one step in the index, and their first events in each of our partitions, the
 * earliest first. Where nothing is deferred this looks into an empty index.
 */
static SnStatement read_backlogs = {
	.sql =
		"WITH RECURSIVE t AS ("
		" (SELECT p.tenant_id FROM sentinai.event_pending p WHERE p.rate_limit IS NOT NULL"
		"  ORDER BY p.tenant_id LIMIT 1)"
		" UNION ALL SELECT (SELECT p.tenant_id FROM sentinai.event_pending p WHERE p.rate_limit IS NOT NULL"
		"  AND p.tenant_id > t.tenant_id ORDER BY p.tenant_id LIMIT 1) FROM t WHERE t.tenant_id IS NOT NULL)"
		"SELECT t.tenant_id, h.next_attempt_at, h.rate_limit, h.charged FROM t LEFT JOIN LATERAL ("
		" SELECT q.* FROM unnest($2, $3) AS u(topic, partition), LATERAL ("
		"  SELECT p.next_attempt_at, p.id, p.rate_limit, p.charged FROM sentinai.event_pending p"
		"  WHERE p.rate_limit IS NOT NULL AND p.tenant_id = t.tenant_id AND p.worker_type = $1"
		"  AND p.topic = u.topic AND p.partition = u.partition ORDER BY p.next_attempt_at, p.id LIMIT 1) q) h ON true"
		" WHERE t.tenant_id IS NOT NULL ORDER BY t.tenant_id, h.next_attempt_at, h.id",
	.n_args = 3,
	.args = {TEXTOID, TEXTARRAYOID, INT4ARRAYOID}};

/* Where a tenant's queue ends, over all partitions; a step in the index for each. */
static SnStatement read_end = {
	.sql = "SELECT max(l.next_attempt_at) FROM sentinai.kafka_offset k"
		   " JOIN sentinai.worker_type_effective w ON w.group_id = k.group_id, LATERAL ("
		   "  SELECT p.next_attempt_at FROM sentinai.event_pending p WHERE p.rate_limit IS NOT NULL"
		   "  AND p.tenant_id = $1 AND p.worker_type = w.name AND p.topic = k.topic AND p.partition = k.partition"
		   "  ORDER BY p.next_attempt_at DESC LIMIT 1) l",
	.n_args = 1,
	.args = {TEXTOID}};

static SnStatement move_queue = {.sql = "SELECT sentinai.backpressure_move($1, $2, $3, $4, $5, $6)",
								 .n_args = 6,
								 .args = {TEXTOID, TEXTOID, INT8OID, TIMESTAMPTZOID, TIMESTAMPTZOID, FLOAT8OID}};

/* Whose window has not seen a BackpressureApplied: the first to say so emits it. A late call of the window before does not. */
static SnStatement begin_notices = {
	.sql =
		"INSERT INTO sentinai.backpressure AS b (tenant_id, limit_type, window_started_at, window_seconds)"
		" SELECT u.tenant_id, $4, u.window_started_at, u.window_seconds"
		" FROM unnest($1, $2, $3) AS u(tenant_id, window_started_at, window_seconds)"
		" WHERE NOT EXISTS (SELECT FROM sentinai.backpressure b WHERE b.tenant_id = u.tenant_id AND b.limit_type = $4"
		"  AND (b.window_started_at, b.window_seconds) = (u.window_started_at, u.window_seconds))"
		" ORDER BY u.tenant_id ON CONFLICT (tenant_id, limit_type) DO UPDATE"
		" SET window_started_at = excluded.window_started_at, window_seconds = excluded.window_seconds"
		" WHERE (b.window_started_at, b.window_seconds) <> (excluded.window_started_at, excluded.window_seconds)"
		"  AND (b.window_started_at - b.window_seconds * interval '1 s', b.window_seconds)"
		"   <> (excluded.window_started_at, excluded.window_seconds)"
		" RETURNING b.tenant_id",
	.n_args = 4,
	.args = {TEXTARRAYOID, TIMESTAMPTZARRAYOID, INT4ARRAYOID, TEXTOID}};

static bool
limits(const SnRateLimit *limit)
{
	return limit->known && limit->enabled;
}

/* Microseconds between two appointments. */
static double
spacing(const SnRateLimit *limit)
{
	return limits(limit) ? (double) limit->window_seconds * USECS_PER_SEC / limit->limit : 0;
}

/* A limit as rows of its queue remember it: "1000/60s", and since when it counts if it was reset. */
static char *
limit_text(const SnRateLimit *limit)
{
	int utc = 0;
	char *text;

	if (!limits(limit))
		return "none";
	text = psprintf(INT64_FORMAT "/%ds", limit->limit, limit->window_seconds);
	if (TIMESTAMP_NOT_FINITE(limit->since))
		return text;
	return psprintf(
		"%s since %s", text,
		JsonEncodeDateTime(palloc(MAXDATELEN + 1), TimestampTzGetDatum(limit->since), TIMESTAMPTZOID, &utc));
}

/* Whether an appointment that was made for one limit holds for another. That there was a reset is forgotten in time. */
static bool
still_holds(const char *made_for, const SnRateLimit *limit)
{
	char *text = limit_text(limit);
	size_t len = strlen(text);

	return strncmp(made_for, text, len) == 0 && (made_for[len] == '\0' || strncmp(made_for + len, " since ", 7) == 0);
}

static SnBacklog *
add_backlog(SnBatch *batch, const char *tenant_id)
{
	SnBacklog *backlog = palloc0(sizeof(SnBacklog));

	backlog->tenant_id = tenant_id;
	batch->backlogs = lappend(batch->backlogs, backlog);
	return backlog;
}

static void
load_backlogs(SnBatch *batch)
{
	Datum values[3] = {CStringGetTextDatum(batch->worker_type->name)};
	SnBacklog *backlog = NULL;
	uint64 n;

	batch->backlogs = NIL;
	sn_batch_places(batch, &values[1], &values[2]);
	n = sn_execute(&read_backlogs, values, NULL);
	for (int row = 0; row < n; row++)
	{
		char *tenant_id = sn_result_text(row, 1);

		if (backlog != NULL && strcmp(backlog->tenant_id, tenant_id) == 0)
			continue;
		backlog = add_backlog(batch, tenant_id);
		backlog->first = sn_result_time(row, 2);
		backlog->made_for = sn_result_text(row, 3);
		backlog->paid = sn_result_bool(row, 4);
	}
}

void
sn_backpressure_begin(SnBatch *batch)
{
	batch->rate_now = sn_now();
	load_backlogs(batch);
}

/* The first appointment that can be kept behind so many events. */
static TimestampTz
first_slot(const SnRateLimit *limit, TimestampTz now)
{
	return now + (limits(limit) ? Max(limit->retry_after_us, (int64) spacing(limit)) : 0);
}

/* Appointments for the limit as it is now. */
static void
move(SnBacklog *backlog, const SnRateLimit *limit, TimestampTz now)
{
	Datum values[6] = {CStringGetTextDatum(backlog->tenant_id),
					   CStringGetTextDatum(limit_text(limit)),
					   Int64GetDatum(backlog->room),
					   TimestampTzGetDatum(now),
					   TimestampTzGetDatum(first_slot(limit, now)),
					   Float8GetDatum(spacing(limit) / USECS_PER_SEC)};

	sn_execute(&move_queue, values, NULL);
	SN_POINT("backpressure.moved");
}

/* How many of a queue's events may be handled now. True: its appointments have changed. */
static bool
find_room(SnBacklog *backlog, TimestampTz now)
{
	SnRateLimit limit;

	backlog->turn = (SnTurn){.tenant_id = backlog->tenant_id, .until = now};
	backlog->room = sn_rate_limit_available(backlog->tenant_id, LIMIT_TYPE, now, &limit);
	if (backlog->paid || !limits(&limit))
	{
		backlog->room = INT_MAX;
		backlog->turn.until = DT_NOEND;
		return false;
	}
	if (still_holds(backlog->made_for, &limit))
		return false;
	move(backlog, &limit, now);
	return true;
}

/* Finds room for the queues that have events in our partitions, those with room first in the result; how many they are. */
static int
find_rooms(SnBatch *batch, SnBacklog **open)
{
	bool moved = false;
	ListCell *cell;
	int n = 0;

	foreach (cell, batch->backlogs)
		moved |= ((SnBacklog *) lfirst(cell))->first != 0 && find_room(lfirst(cell), batch->rate_now);
	if (moved)
	{
		load_backlogs(batch);
		foreach (cell, batch->backlogs)
			if (((SnBacklog *) lfirst(cell))->first != 0)
				find_room(lfirst(cell), batch->rate_now);
	}
	foreach (cell, batch->backlogs)
	{
		SnBacklog *backlog = lfirst(cell);

		if (backlog->first != 0 && backlog->first <= backlog->turn.until && backlog->room > 0)
			open[n++] = backlog;
	}
	return n;
}

/* Where the turns begin: behind whoever had the last one. */
static int
first_turn(SnBacklog **open, int n)
{
	for (int i = 0; i < n; i++)
		if (strcmp(open[i]->tenant_id, last_tenant) > 0)
			return i;
	return 0;
}

/* Shares the room of a call out: the same for each queue, and what one doesn't need goes to the others. */
static void
share_out(SnBacklog **open, int n, int left)
{
	int start = first_turn(open, n);
	bool more = n > 0;

	while (left > 0 && more)
	{
		int each = Max(left / n, 1);

		more = false;
		for (int i = 0; i < n && left > 0; i++)
		{
			SnBacklog *backlog = open[(start + i) % n];
			int given = (int) Min(Min(each, left), backlog->room);

			if (given == 0)
				continue;
			backlog->turn.quota += given;
			backlog->room -= given;
			left -= given;
			more = true;
			strlcpy(last_tenant, backlog->tenant_id, sizeof(last_tenant));
		}
	}
}

int
sn_backpressure_take_turns(SnBatch *batch, int left)
{
	SnBacklog **open = palloc(Max(list_length(batch->backlogs), 1) * sizeof(SnBacklog *));
	SnTurn *turns = palloc(Max(list_length(batch->backlogs), 1) * sizeof(SnTurn));
	int n_open = find_rooms(batch, open);
	int before = batch->n_due;
	int n = 0;

	odd_call = !odd_call;
	share_out(open, n_open, (left + odd_call) / 2);
	for (int i = 0; i < n_open; i++)
		if (open[i]->turn.quota > 0)
			turns[n++] = open[i]->turn;
	if (n > 0)
		sn_pending_take_turns(batch, turns, n);
	return batch->n_due - before;
}

/* Whether a new event is one that its tenant pays for: it came from outside, and the topic's owner handles it. */
static bool
costs(const SnBatch *batch, const SnWork *work)
{
	return batch->worker_type->owns_topic && work->handler != NULL && !work->emitted && work->replay == NULL;
}

/* Behind a queue nothing else of the tenant is charged: it queues up, too. Nor is what can't be handled in this call. */
static bool
may_be_granted(const SnWork *work)
{
	return (work->queued || work->tenant->backlog == NULL) && sn_key_has_begun(work);
}

/* What each tenant is to be charged for in this call; false: nothing, and nobody has to wait. */
static bool
count_wanted(SnBatch *batch)
{
	bool any = false;
	ListCell *cell;

	foreach (cell, batch->backlogs)
	{
		SnBacklog *backlog = lfirst(cell);
		SnTenant *tenant = hash_search(batch->tenants, backlog->tenant_id, HASH_FIND, NULL);

		if (tenant != NULL)
			tenant->backlog = backlog;
	}
	for (int i = 0; i < batch->n_work; i++)
	{
		SnWork *work = batch->work[i];

		if (work->fresh)
			work->charged = !costs(batch, work);
		if (work->outcome != SN_TODO || work->charged)
			continue;
		any = true;
		work->tenant->wanted += may_be_granted(work);
	}
	return any;
}

/*
 * Charges each tenant once for the call. Whoever looks for a record that kills the server handles one event a call: it is
 * granted.
 */
static void
reserve(SnBatch *batch)
{
	HASH_SEQ_STATUS status;
	SnTenant *tenant;

	hash_seq_init(&status, batch->tenants);
	while ((tenant = hash_seq_search(&status)) != NULL)
	{
		SnRateLimit limit;

		if (tenant->wanted == 0)
			continue;
		tenant->granted = sn_rate_limit_reserve(tenant->tenant_id, LIMIT_TYPE, tenant->wanted, batch->rate_now, &limit);
		if (!limits(&limit) || batch->suspect)
			tenant->granted = tenant->wanted;
	}
}

static bool
take_grant(SnWork *work)
{
	if (!work->charged && may_be_granted(work) && work->tenant->granted > 0)
	{
		work->tenant->granted--;
		work->charged = true;
	}
	return work->charged;
}

/* Defers an event. If whom its key waits for is not in this call, the key goes on waiting for that one. */
static void
defer(SnWork *work)
{
	work->outcome = SN_DEFERRED;
	work->appointed = true;
	work->displaced = sn_key_is_elsewhere(work);
	if (work->key != NULL && sn_key_has_begun(work) && !sn_key_is_blocked(work))
		work->key->blocker = work;
}

/*
 * Decides about one event, in the order of the batch. What is in line behind an event of its key that waits for its place
 * gets a place as well, or keeps the one it has; everything else is parked behind it.
 */
static void
decide(SnWork *work)
{
	if (work->outcome != SN_TODO && work->outcome != SN_DEFERRED)
		return;
	if (sn_key_is_blocked(work) || !sn_key_has_begun(work))
	{
		memset(&work->failure, 0, sizeof(work->failure));
		if (sn_key_in_line(work))
			defer(work);
		else
			work->outcome = SN_PARKED;
	}
	else if (work->outcome == SN_TODO && !take_grant(work))
		defer(work);
}

/* Whether an event that was taken from the queue goes back into it. */
static bool
is_put_back(const SnWork *work)
{
	return work->appointed && work->queued && work->outcome == SN_DEFERRED;
}

/*
 * Whether it keeps its place there. Not if whom its key waits for has come behind the turn (two processors may have made
 * appointments for a new limit at once): it would be taken again and again, before that one is. It goes to the end.
 */
bool
sn_backpressure_stays(const SnWork *work)
{
	return is_put_back(work) && !work->displaced;
}

/* How the tenant's limit is now, and where the end of its queue is. */
static void
find_end(SnBatch *batch, SnBacklog *backlog)
{
	Datum tenant_id = CStringGetTextDatum(backlog->tenant_id);
	TimestampTz last;

	sn_rate_limit_available(backlog->tenant_id, LIMIT_TYPE, batch->rate_now, &backlog->limit);
	backlog->rate_limit = limit_text(&backlog->limit);
	sn_execute(&read_end, &tenant_id, NULL);
	last = sn_result_time(0, 1);
	backlog->next_slot = first_slot(&backlog->limit, batch->rate_now);
	if (last != 0)
		backlog->next_slot = Max(backlog->next_slot, last + (int64) spacing(&backlog->limit));
}

/* The next place in the tenant's queue. */
static void
appoint(SnBatch *batch, SnWork *work)
{
	SnBacklog *backlog = work->tenant->backlog;
	double offset;

	if (backlog == NULL)
		backlog = work->tenant->backlog = add_backlog(batch, work->tenant->tenant_id);
	if (backlog->rate_limit == NULL)
		find_end(batch, backlog);
	offset = Min(backlog->appointed * spacing(&backlog->limit), (double) LAST_APPOINTMENT);
	work->next_attempt_at = Min(backlog->next_slot + (int64) offset, LAST_APPOINTMENT);
	backlog->appointed++;
	SN_POINT("backpressure.appointed");
	if (backlog->notice == NULL && !work->queued && !sn_is_notice(work->event.event_type))
		backlog->notice = work;
	work->failure = (SnFailure){.step = "handle",
								.error_type = "rate_limited",
								.message = psprintf("Rate limit exceeded: " LIMIT_TYPE " (" INT64_FORMAT "/%ds)",
													backlog->limit.limit, backlog->limit.window_seconds),
								.sqlstate = "SN040"};
}

void
sn_backpressure(SnBatch *batch)
{
	if (batch->tenants == NULL || !count_wanted(batch))
		return;
	reserve(batch);
	SN_POINT("backpressure.charged");
	for (int i = 0; i < batch->n_work; i++)
		decide(batch->work[i]);
	for (int i = 0; i < batch->n_work; i++)
		if (batch->work[i]->appointed && !sn_backpressure_stays(batch->work[i]))
			appoint(batch, batch->work[i]);
}

void
sn_backpressure_put(SnBatch *batch, SnWork *work)
{
	if (!sn_backpressure_stays(work))
		sn_pending_put(batch, work, "deferred", work->next_attempt_at,
					   work->appointed ? work->tenant->backlog->rate_limit : NULL);
}

/* Windows of BackpressureApplied are counted from the epoch, whatever the limiter's are. */
static TimestampTz
window_start(const SnBacklog *backlog, TimestampTz now)
{
	TimestampTz length = backlog->limit.window_seconds * USECS_PER_SEC;

	return now - now % length;
}

static Datum
notice_payload(SnBatch *batch, const SnBacklog *backlog)
{
	StringInfoData buf;

	initStringInfo(&buf);
	appendStringInfoString(&buf, "{\"tenant_id\":");
	escape_json(&buf, backlog->tenant_id);
	appendStringInfoString(&buf, ",\"worker_type\":");
	escape_json(&buf, batch->worker_type->name);
	appendStringInfo(
		&buf,
		",\"limit_type\":\"" LIMIT_TYPE "\",\"limit\":" INT64_FORMAT ",\"window_seconds\":%d"
		",\"deferred\":" INT64_FORMAT ",\"next_attempt_at\":\"%s\"}",
		backlog->limit.limit, backlog->limit.window_seconds, backlog->appointed,
		JsonEncodeDateTime(palloc(MAXDATELEN + 1), TimestampTzGetDatum(backlog->next_slot), TIMESTAMPTZOID, NULL));
	return DirectFunctionCall1(jsonb_in, CStringGetDatum(buf.data));
}

static void
emit_notice(SnBatch *batch, const SnBacklog *backlog)
{
	char *event_id = sn_event_id_derived(backlog->tenant_id, LIMIT_TYPE, window_start(backlog, batch->rate_now),
										 "BackpressureApplied", backlog->limit.window_seconds);

	sn_emit_add_as(batch, backlog->notice, event_id, "BackpressureApplied", notice_payload(batch, backlog), NULL, NULL);
}

/* Those of the tenants in the last statement's result. */
static void
emit_notices(SnBatch *batch, uint64 n)
{
	char **tenants = palloc(n * sizeof(char *));
	ListCell *cell;

	for (int row = 0; row < n; row++)
		tenants[row] = sn_result_text(row, 1);
	foreach (cell, batch->backlogs)
		for (int i = 0; i < n; i++)
			if (strcmp(((SnBacklog *) lfirst(cell))->tenant_id, tenants[i]) == 0)
				emit_notice(batch, lfirst(cell));
}

void
sn_backpressure_emit(SnBatch *batch)
{
	SnColumn columns[3];
	Datum values[4];
	ListCell *cell;
	uint64 n;

	sn_column_init(&columns[0], TEXTOID, 8);
	sn_column_init(&columns[1], TIMESTAMPTZOID, 8);
	sn_column_init(&columns[2], INT4OID, 8);
	foreach (cell, batch->backlogs)
	{
		SnBacklog *backlog = lfirst(cell);

		if (backlog->notice == NULL || !limits(&backlog->limit))
			continue;
		sn_column_text(&columns[0], backlog->tenant_id);
		sn_column_add(&columns[1], TimestampTzGetDatum(window_start(backlog, batch->rate_now)), false);
		sn_column_add(&columns[2], Int32GetDatum(backlog->limit.window_seconds), false);
	}
	if (columns[0].n == 0)
		return;
	for (int c = 0; c < 3; c++)
		values[c] = sn_column_array(&columns[c]);
	values[3] = CStringGetTextDatum(LIMIT_TYPE);
	n = sn_execute(&begin_notices, values, NULL);
	SN_POINT("backpressure.noticed");
	if (n > 0)
		emit_notices(batch, n);
}

/* When a queue has its next turn. */
static TimestampTz
next_turn(SnBacklog *backlog, TimestampTz now)
{
	SnRateLimit limit;

	if (backlog->paid)
		return now;
	if (sn_rate_limit_available(backlog->tenant_id, LIMIT_TYPE, now, &limit) > 0 || !limits(&limit))
		return limits(&limit) ? backlog->first : now;
	return Max(backlog->first, now + Max(limit.retry_after_us, MIN_WAIT_US));
}

/* Else what is due is held by somebody, or has to wait for an event of its key: asking at once would find the same. */
static bool
any_turn_was_used(SnBatch *batch)
{
	for (int i = 0; i < batch->n_work; i++)
		if (batch->work[i]->queued && !is_put_back(batch->work[i]))
			return true;
	return false;
}

int
sn_backpressure_next_turn_ms(SnBatch *batch)
{
	TimestampTz next = batch->rate_now + SN_MAX_NEXT_DUE_MS * INT64CONST(1000);
	TimestampTz soonest = batch->rate_now + (any_turn_was_used(batch) ? 0 : MIN_WAIT_US);
	ListCell *cell;

	if (batch->backlogs == NIL)
		return SN_MAX_NEXT_DUE_MS;
	load_backlogs(batch);
	foreach (cell, batch->backlogs)
		if (((SnBacklog *) lfirst(cell))->first != 0)
			next = Min(next, next_turn(lfirst(cell), batch->rate_now));
	return (int) ((Max(next, soonest) - batch->rate_now + 999) / 1000);
}

/*
 * backpressure_limit(tenant_id): see 51_backpressure.sql.
 */
Datum
sn_backpressure_limit(PG_FUNCTION_ARGS)
{
	char *tenant_id = text_to_cstring(PG_GETARG_TEXT_PP(0));
	TimestampTz now = sn_now();
	SnRateLimit limit;
	int64 available = sn_rate_limit_available(tenant_id, LIMIT_TYPE, now, &limit);
	bool limited = limits(&limit);
	bool nulls[5] = {!limited, !limited, !limited};
	Datum values[5] = {Int64GetDatum(limit.limit), Int32GetDatum(limit.window_seconds), Int64GetDatum(available),
					   TimestampTzGetDatum(first_slot(&limit, now)), TimestampTzGetDatum(now)};
	TupleDesc desc;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "backpressure_limit() does not return a row");
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}
