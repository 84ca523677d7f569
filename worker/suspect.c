/*
 * suspect.c
 *	  Suspect mode: a record whose handler kills its backend is found by handling one event a call.
 *
 * A crash breaks every connection of the server, so a broken call says little. Where two in a row broke with the same
 * partition, and the server has not said why (a shutdown says so, and so does another session's crash), the partition is
 * gone through alone: the database keeps all other sessions out meanwhile, and each event is marked before its call. What
 * convicts an event is the database's decision (extension/suspect.c); here is when to begin, and when it is enough.
 */
#include "suspect.h"

#include "consume_internal.h"
#include "log.h"

/* Calls that broke the connection before it is looked for the reason. */
#define SUSPECT_BREAKS 2

static const DbStatement statement_begin = {"suspect_begin", "SELECT sentinai.suspect_begin($1::text) AS begun", 1};
static const DbStatement statement_next = {
	"suspect_next", "SELECT sentinai.suspect_next($1::text, $2::text, $3::integer, $4::bigint, $5::boolean) AS marks",
	5};
static const DbStatement statement_end = {"suspect_end", "SELECT sentinai.suspect_end()", 0};

typedef enum Step
{
	STEP_DONE,	  /* one event less */
	STEP_NOTHING, /* there is nothing left to look at */
	STEP_FAILED	  /* the connection, or the database: from the beginning, after a back-off */
} Step;

bool
suspect_wanted(const Processor *p)
{
	return p->n_taken == 1 && p->taken[0].part->alone && p->taken[0].part->breaks >= SUSPECT_BREAKS;
}

/* False: not now, somebody else does. */
static bool
begin(Processor *p)
{
	DbParam params[1] = {DB_TEXT(p->c->w->config.worker_type)};
	PGresult *res = db_call(p->db, &statement_begin, params);
	bool begun = res != NULL && db_bool(res, 0, "begun");

	if (res == NULL && !db_error(p->db)->lost)
		log_error("suspect mode can't begin", F_TEXT("sqlstate", db_error(p->db)->sqlstate),
				  F_TEXT("error", db_error(p->db)->message));
	PQclear(res);
	return begun;
}

/* Marks the next event in a transaction of its own, which outlives the crash. */
static Step
mark(Processor *p, const Partition *part, bool record)
{
	DbParam params[5] = {DB_TEXT(p->c->w->config.worker_type), DB_TEXT(part->topic), DB_INT(part->number),
						 DB_INT(record ? part->msgs[0]->offset : 0), DB_BOOL(part->broken)};
	PGresult *res;
	int64_t marks;

	if (!record)
		params[3].value = NULL;
	res = db_call(p->db, &statement_next, params);
	if (res == NULL)
		return STEP_FAILED;
	marks = db_int(res, 0, "marks", 0);
	PQclear(res);
	if (marks > 1)
		log_warning("an event is suspected of killing the server", F_TEXT("topic", part->topic),
					F_INT("partition", part->number), F_INT("next_offset", part->next_offset), F_INT("marks", marks));
	return marks > 0 ? STEP_DONE : STEP_NOTHING;
}

static Step
step(Processor *p, Taken *taken)
{
	Partition *part = taken->part;
	int64_t before = part->next_offset;
	bool record = taken->read && part->n_msgs > 0;
	Step marked = mark(p, part, record);

	if (marked != STEP_DONE)
		return marked;
	part->broken = false;
	taken->send = record ? 1 : 0;
	if (!processor_call(p, taken->send))
		return STEP_FAILED;
	/* Neither a record nor due work: the database doesn't take any now. */
	return part->next_offset > before || p->due > 0 ? STEP_DONE : STEP_FAILED;
}

/* Whether the group still leaves it to us. */
static bool
ours(Processor *p, const Partition *part)
{
	bool result;

	pthread_mutex_lock(&p->c->lock);
	result = partition_working(part);
	pthread_mutex_unlock(&p->c->lock);
	return result && !worker_stopping(p->c->w);
}

static Step
go_through(Processor *p, Taken *taken)
{
	Step last = STEP_DONE;

	while (last == STEP_DONE && ours(p, taken->part))
		last = step(p, taken);
	return last;
}

void
suspect_search(Processor *p)
{
	Taken *taken = &p->taken[0];
	int limit = p->limit;
	Step last;

	if (!begin(p))
	{
		processor_hold(p);
		return;
	}
	log_warning("suspect mode: the connection broke twice at the same place, one event is handled at a time",
				F_TEXT("topic", taken->part->topic), F_INT("partition", taken->part->number),
				F_INT("next_offset", taken->part->next_offset));
	p->searching = true;
	p->limit = 1;
	last = go_through(p, taken);
	p->limit = limit;
	p->searching = false;
	if (last == STEP_NOTHING)
		consume_unhold(p->c, taken->part);
	else if (last == STEP_FAILED && taken->part->hold_until_ms <= now_ms())
		processor_hold(p);
	if (db_connected(p->db))
		PQclear(db_call(p->db, &statement_end, NULL));
	log_warning("suspect mode has ended", F_TEXT("topic", taken->part->topic), F_INT("partition", taken->part->number),
				F_INT("next_offset", taken->part->next_offset));
}
