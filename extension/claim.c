/*
 * claim.c
 *	  The third step of consume(): an identity (tenant_id, event_id, worker_type) is handled once.
 *
 * Claims are rows of event_processing_log, inserted as "succeeded" into the newest generation, so that the happy path
 * writes once; failures are updated by settle. While a rotation is under way claims go into the previous generation as
 * well (there as shadows), so that two open batches always share a unique index; see generation.c for the rotation.
 * Whoever loses the insert is a duplicate, or an id_conflict where type or payload differ.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "consume.h"
#include "generation.h"
#include "point.h"
#include "sentinai.h"
#include "spi.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

/* Partitions of event_processing_log, by number. */
#define SN_GENERATION_TABLE "event_processing_log_g%d"

typedef struct IdentityEntry
{
	struct
	{
		const char *tenant_id;
		const char *event_id;
	} key;
	SnWork *work;
} IdentityEntry;

/* The rotation's state, and the statements that were made for it. */
typedef struct Generations
{
	int state_number;
	int newest;
	int previous_open; /* 0: none */
	SnStatement insert_newest;
	SnStatement insert_previous;
	SnStatement look_up; /* in generations that are only read; sql NULL: there are none */
	MemoryContext context;
} Generations;

static Generations generations = {.state_number = -1};

static SnStatement read_generations = {
	.sql =
		"SELECT generation FROM sentinai.dedupe_generation WHERE generation NOT IN ($1, $2) ORDER BY generation DESC",
	.n_args = 2,
	.args = {INT4OID, INT4OID}};

static SnStatement look_up_all = {
	.sql = "SELECT u.i, l.hash FROM unnest($1, $2, $3) AS u(i, tenant_id, event_id)"
		   " JOIN sentinai.event_processing_log l ON l.tenant_id = u.tenant_id AND l.event_id = u.event_id"
		   " AND l.worker_type = $4",
	.n_args = 4,
	.args = {INT4ARRAYOID, TEXTARRAYOID, TEXTARRAYOID, TEXTOID}};

static SnStatement waits_already = {
	.sql = "SELECT FROM sentinai.event_pending WHERE tenant_id = $1 AND event_id = $2 AND worker_type = $3",
	.n_args = 3,
	.args = {TEXTOID, TEXTOID, TEXTOID}};

static SnStatement read_claim = {
	.sql = "SELECT l.status FROM sentinai.event_processing_log l"
		   " WHERE l.tenant_id = $1 AND l.event_id = $2 AND l.worker_type = $3 AND NOT l.shadow"
		   " ORDER BY l.status = 'succeeded' DESC LIMIT 1",
	.n_args = 3,
	.args = {TEXTOID, TEXTOID, TEXTOID}};

static SnStatement update_claims = {
	.sql = "UPDATE sentinai.event_processing_log l SET status = u.status, retry_count = u.retry_count,"
		   " processed_at = $8, last_attempt_at = CASE WHEN u.attempted THEN $8 ELSE l.last_attempt_at END,"
		   " error_type = u.error_type, error_message = u.error_message"
		   " FROM unnest($1, $2, $3, $4, $5, $6, $7)"
		   " AS u(tenant_id, event_id, status, retry_count, attempted, error_type, error_message)"
		   " WHERE l.tenant_id = u.tenant_id AND l.event_id = u.event_id AND l.worker_type = $9 AND NOT l.shadow",
	.n_args = 9,
	.args = {TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID, INT4ARRAYOID, BOOLARRAYOID, TEXTARRAYOID, TEXTARRAYOID,
			 TIMESTAMPTZOID, TEXTOID}};

static uint32
identity_hash(const void *key, Size keysize)
{
	const IdentityEntry *entry = key;

	return hash_combine(string_hash(entry->key.tenant_id, SN_TENANT_ID_MAX + 1),
						string_hash(entry->key.event_id, SN_EVENT_TEXT_MAX + 1));
}

static int
identity_match(const void *a, const void *b, Size keysize)
{
	const IdentityEntry *left = a;
	const IdentityEntry *right = b;

	return strcmp(left->key.event_id, right->key.event_id) != 0 ||
		   strcmp(left->key.tenant_id, right->key.tenant_id) != 0;
}

static IdentityEntry *
find_identity(SnBatch *batch, const char *tenant_id, const char *event_id, HASHACTION action, bool *found)
{
	IdentityEntry probe = {.key = {tenant_id, event_id}};

	return hash_search(batch->by_identity, &probe.key, action, found);
}

/* The piece of work of that identity that the batch handles; NULL: none. */
SnWork *
sn_work_by_identity(SnBatch *batch, const char *tenant_id, const char *event_id)
{
	IdentityEntry *entry = find_identity(batch, tenant_id, event_id, HASH_FIND, NULL);

	return entry == NULL ? NULL : entry->work;
}

/* The identity is taken by something with this hash. */
static void
lose(SnWork *work, int64 hash, bool hash_known)
{
	if (work->emitted || !hash_known || hash == work->event.hash)
	{
		work->outcome = SN_DUPLICATE;
		return;
	}
	work->outcome = SN_DEAD;
	work->failure = (SnFailure){
		.step = "screen",
		.error_type = "id_conflict",
		.message = "another event has the same event_id",
		.detail = "An event with this tenant_id and event_id but another type or payload has been seen before.",
		.sqlstate = "SN006",
		.error_class = SN_CLASS_PERMANENT};
}

static void
index_work(SnBatch *batch, SnWork *work)
{
	IdentityEntry *entry;
	bool found;

	entry = find_identity(batch, work->event.tenant_id, work->event.event_id, HASH_ENTER, &found);
	if (found)
		lose(work, entry->work->event.hash, true);
	else
		entry->work = work;
}

/*
 * Within one batch the first of an identity wins; due work comes before new records, and a retry of a dead letter before
 * plain copies of its event, which are duplicates wherever they stand.
 */
void
sn_claim_index(SnBatch *batch)
{
	HASHCTL ctl = {.keysize = sizeof(((IdentityEntry *) 0)->key),
				   .entrysize = sizeof(IdentityEntry),
				   .hash = identity_hash,
				   .match = identity_match,
				   .hcxt = batch->context};

	batch->by_identity = hash_create("sentinai identities", Max(batch->n_work, 16), &ctl,
									 HASH_ELEM | HASH_FUNCTION | HASH_COMPARE | HASH_CONTEXT);
	for (int pass = 0; pass < 2; pass++)
		for (int i = 0; i < batch->n_work; i++)
		{
			SnWork *work = batch->work[i];
			bool plain = work->fresh && work->replay == NULL;

			if (work->outcome == SN_TODO && plain == (pass == 1))
				index_work(batch, work);
		}
}

/* A dead letter of the handle step has its claim already; its second record finds the first one waiting. */
static void
claim_replay(SnBatch *batch, SnWork *work)
{
	Datum values[3] = {CStringGetTextDatum(work->event.tenant_id), CStringGetTextDatum(work->event.event_id),
					   CStringGetTextDatum(batch->worker_type->name)};

	if (sn_execute(&waits_already, values, NULL) > 0)
		work->outcome = SN_DUPLICATE;
	else
		work->claimed = strcmp(work->replay->step, "handle") == 0;
}

/*
 * A dead letter that was reassigned has another identity than the event that came. Its first retry claims that one as a
 * new event does; a claim that is not of a handled event is this dead letter's, by an earlier retry.
 */
static void
claim_reassigned(SnBatch *batch, SnWork *work)
{
	Datum values[3] = {CStringGetTextDatum(work->event.tenant_id), CStringGetTextDatum(work->event.event_id),
					   CStringGetTextDatum(batch->worker_type->name)};

	work->claimed = sn_execute(&read_claim, values, NULL) > 0;
	if (work->claimed && strcmp(sn_result_text(0, 1), "succeeded") == 0)
		work->outcome = SN_DUPLICATE;
}

static int
compare_identity(const void *a, const void *b)
{
	const SnEvent *left = &(*(SnWork *const *) a)->event;
	const SnEvent *right = &(*(SnWork *const *) b)->event;
	int order = strcmp(left->tenant_id, right->tenant_id);

	return order != 0 ? order : strcmp(left->event_id, right->event_id);
}

static void
make_insert(SnStatement *statement, int generation, bool shadow)
{
	static const Oid types[] = {TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID,  TEXTARRAYOID,
								INT8ARRAYOID, TEXTOID,		TIMESTAMPTZOID};

	statement->sql = psprintf(
		"INSERT INTO sentinai." SN_GENERATION_TABLE " (generation, tenant_id, event_id, worker_type,"
		" exception_id, event_type, status, hash, shadow, processed_at, last_attempt_at)"
		" SELECT %d, u.tenant_id, u.event_id, $6, u.exception_id, u.event_type, 'succeeded', u.hash, %s, $7, $7"
		" FROM unnest($1, $2, $3, $4, $5) AS u(tenant_id, event_id, exception_id, event_type, hash)"
		" ON CONFLICT DO NOTHING RETURNING tenant_id, event_id",
		generation, generation, shadow ? "true" : "false");
	statement->n_args = lengthof(types);
	memcpy(statement->args, types, sizeof(types));
}

/* A lookup in the generations that are only read. */
static void
make_look_up(SnStatement *statement)
{
	static const Oid types[] = {INT4ARRAYOID, TEXTARRAYOID, TEXTARRAYOID, TEXTOID};
	Datum values[2] = {Int32GetDatum(generations.newest), Int32GetDatum(generations.previous_open)};
	uint64 n = sn_execute(&read_generations, values, NULL);
	StringInfoData sql;

	statement->sql = NULL;
	if (n == 0)
		return;
	initStringInfo(&sql);
	for (int row = 0; row < n; row++)
		appendStringInfo(&sql,
						 "%sSELECT u.i, l.hash FROM unnest($1, $2, $3) AS u(i, tenant_id, event_id)"
						 " JOIN sentinai." SN_GENERATION_TABLE
						 " l ON l.tenant_id = u.tenant_id AND l.event_id = u.event_id"
						 " AND l.worker_type = $4",
						 row == 0 ? "" : " UNION ALL ", sn_result_int32(row, 1));
	statement->sql = sql.data;
	statement->n_args = lengthof(types);
	memcpy(statement->args, types, sizeof(types));
}

static void
forget_generations(void)
{
	sn_statement_forget(&generations.insert_newest);
	sn_statement_forget(&generations.insert_previous);
	sn_statement_forget(&generations.look_up);
	if (generations.context != NULL)
		MemoryContextDelete(generations.context);
	generations.context = NULL;
	generations.state_number = -1;
}

static void
make_generations(int state_number, int newest, int previous_open)
{
	MemoryContext old;

	forget_generations();
	generations.context = AllocSetContextCreate(TopMemoryContext, "sentinai generations", ALLOCSET_SMALL_SIZES);
	old = MemoryContextSwitchTo(generations.context);
	generations.newest = newest;
	generations.previous_open = previous_open;
	make_insert(&generations.insert_newest, newest, false);
	if (previous_open != 0)
		make_insert(&generations.insert_previous, previous_open, true);
	make_look_up(&generations.look_up);
	generations.state_number = state_number;
	MemoryContextSwitchTo(old);
}

/* The statements for the rotation's state, which the transaction holds from now on. */
static void
use_generations(void)
{
	SnGenerations state;

	sn_generation_enter(&state);
	if (state.state_number != generations.state_number)
		make_generations(state.state_number, state.newest, state.previous_open);
}

/* Runs one of the lookups for the work that is still unclaimed, and settles what it finds. */
static void
run_look_up(SnBatch *batch, SnStatement *statement, SnWork **works, int n)
{
	SnColumn index;
	SnColumn tenants;
	SnColumn events;
	Datum values[4];
	uint64 found;

	sn_column_init(&index, INT4OID, n);
	sn_column_init(&tenants, TEXTOID, n);
	sn_column_init(&events, TEXTOID, n);
	for (int i = 0; i < n; i++)
	{
		if (works[i]->claimed || works[i]->outcome != SN_TODO)
			continue;
		sn_column_add(&index, Int32GetDatum(i), false);
		sn_column_text(&tenants, works[i]->event.tenant_id);
		sn_column_text(&events, works[i]->event.event_id);
	}
	if (index.n == 0)
		return;
	values[0] = sn_column_array(&index);
	values[1] = sn_column_array(&tenants);
	values[2] = sn_column_array(&events);
	values[3] = CStringGetTextDatum(batch->worker_type->name);
	found = sn_execute(statement, values, NULL);
	for (int row = 0; row < found; row++)
	{
		bool isnull;
		Datum hash = sn_result_datum(row, 2, &isnull);
		SnWork *work = works[sn_result_int32(row, 1)];

		if (work->outcome == SN_TODO)
			lose(work, DatumGetInt64(hash), !isnull);
	}
}

/* Inserts the claims, sorted, and marks those that were ours to make. The result keeps the order of what went in. */
static void
run_insert(SnBatch *batch, SnStatement *statement, SnWork **works, int n)
{
	SnColumn columns[5];
	Datum values[7];
	uint64 inserted;
	int row = 0;

	for (int c = 0; c < 5; c++)
		sn_column_init(&columns[c], c < 4 ? TEXTOID : INT8OID, n);
	for (int i = 0; i < n; i++)
	{
		SnEvent *event = &works[i]->event;

		sn_column_text(&columns[0], event->tenant_id);
		sn_column_text(&columns[1], event->event_id);
		sn_column_text(&columns[2], event->exception_id);
		sn_column_text(&columns[3], event->event_type);
		sn_column_add(&columns[4], Int64GetDatum(event->hash), false);
	}
	for (int c = 0; c < 5; c++)
		values[c] = sn_column_array(&columns[c]);
	values[5] = CStringGetTextDatum(batch->worker_type->name);
	values[6] = TimestampTzGetDatum(batch->now);
	inserted = sn_execute(statement, values, NULL);
	for (int i = 0; i < n; i++)
	{
		works[i]->claimed =
			inserted == n || (row < inserted && strcmp(sn_result_text(row, 2), works[i]->event.event_id) == 0 &&
							  strcmp(sn_result_text(row, 1), works[i]->event.tenant_id) == 0);
		row += works[i]->claimed;
	}
}

static int
keep_todo(SnWork **works, int n, bool claimed)
{
	int kept = 0;

	for (int i = 0; i < n; i++)
		if (works[i]->outcome == SN_TODO && works[i]->claimed == claimed)
			works[kept++] = works[i];
	return kept;
}

static void
claim_works(SnBatch *batch, SnWork **works, int n)
{
	SnWork **all = works;
	int n_all = n;

	qsort(works, n, sizeof(SnWork *), compare_identity);
	use_generations();
	SN_POINT("claim.entered");
	if (generations.look_up.sql != NULL)
		run_look_up(batch, &generations.look_up, works, n);
	n = n_all = keep_todo(works, n, false);
	if (n > 0 && generations.previous_open != 0)
	{
		all = memcpy(palloc(n * sizeof(SnWork *)), works, n * sizeof(SnWork *));
		run_insert(batch, &generations.insert_previous, works, n);
		SN_POINT("claim.previous");
		n = keep_todo(works, n, true);
	}
	if (n > 0)
		run_insert(batch, &generations.insert_newest, works, n);
	SN_POINT("claim.inserted");
	/* Who lost an insert: to whom? The row is committed by now, and a new statement sees it. */
	run_look_up(batch, &look_up_all, all, n_all);
	for (int i = 0; i < n_all; i++)
		if (!all[i]->claimed && all[i]->outcome == SN_TODO)
			ereport(ERROR,
					(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
					 errmsg("a claim was taken and given back in the same moment"), errhint("Send the batch again.")));
}

/*
 * Claims the identities of the batch's new events. Afterwards outcome SN_TODO means: ours to handle, or to log.
 */
void
sn_claim(SnBatch *batch)
{
	SnWork **works = palloc(Max(batch->n_work, 1) * sizeof(SnWork *));
	int n = 0;

	sn_claim_index(batch);
	for (int i = 0; i < batch->n_work; i++)
	{
		SnWork *work = batch->work[i];

		if (work->outcome == SN_TODO && work->fresh && work->replay != NULL)
			claim_replay(batch, work);
		else if (work->outcome == SN_TODO && !work->claimed && work->replay != NULL && work->replay->reassigned)
			claim_reassigned(batch, work);
		if (work->outcome == SN_TODO && !work->claimed)
			works[n++] = work;
	}
	if (n > 0)
		claim_works(batch, works, n);
	for (int i = 0; i < batch->n_work; i++)
		if (batch->work[i]->outcome == SN_TODO && batch->work[i]->handler == NULL)
			batch->work[i]->outcome = SN_LOGGED;
}

static const char *
claim_status(const SnWork *work)
{
	switch (work->outcome)
	{
		case SN_RETRYING:
			return "retrying";
		case SN_PARKED:
			return "parked";
		case SN_DEFERRED:
			return "deferred";
		case SN_DEAD:
			return "failed";
		default:
			return "succeeded";
	}
}

/* Whether the claim's row says something else than "succeeded at first sight". */
static bool
needs_update(const SnWork *work)
{
	if (!work->claimed)
		return false;
	if (work->pending_id != 0 || work->replay != NULL)
		return true;
	return work->outcome == SN_RETRYING || work->outcome == SN_PARKED || work->outcome == SN_DEFERRED ||
		   work->outcome == SN_DEAD;
}

/*
 * Writes what became of claims that were not simply handled at first sight.
 */
void
sn_claim_settle(SnBatch *batch)
{
	static const Oid types[7] = {TEXTOID, TEXTOID, TEXTOID, INT4OID, BOOLOID, TEXTOID, TEXTOID};
	SnColumn columns[7];
	Datum values[9];

	for (int c = 0; c < 7; c++)
		sn_column_init(&columns[c], types[c], 16);
	for (int i = 0; i < batch->n_work; i++)
	{
		SnWork *work = batch->work[i];

		if (!needs_update(work))
			continue;
		sn_column_text(&columns[0], work->event.tenant_id);
		sn_column_text(&columns[1], work->event.event_id);
		sn_column_text(&columns[2], claim_status(work));
		sn_column_add(&columns[3], Int32GetDatum(work->retry_count), false);
		sn_column_add(&columns[4], BoolGetDatum(work->outcome != SN_PARKED && work->outcome != SN_DEFERRED), false);
		sn_column_text(&columns[5], work->failure.error_type);
		sn_column_text(&columns[6], work->failure.message);
	}
	if (columns[0].n == 0)
		return;
	for (int c = 0; c < 7; c++)
		values[c] = sn_column_array(&columns[c]);
	values[7] = TimestampTzGetDatum(batch->now);
	values[8] = CStringGetTextDatum(batch->worker_type->name);
	sn_execute(&update_claims, values, NULL);
}
