/*
 * claim.c
 *	  The third step of consume(): an identity (tenant_id, event_id, worker_type) is handled once.
 *
 * Claims are rows of event_processing_log, inserted as "succeeded" into the newest generation, so that the happy path
 * writes once; failures are updated by settle. While a rotation is under way claims go into the previous generation as
 * well (there as shadows), so that two open batches always share a unique index; see generation.c for the rotation.
 * Whoever loses the insert is a duplicate, or an id_conflict where type or payload differ. How rows get into the table of a
 * generation is claim_table.c's.
 */
#include "postgres.h"

#include "backpressure.h"
#include "catalog/pg_type.h"
#include "claim_table.h"
#include "common/hashfn.h"
#include "consume.h"
#include "generation.h"
#include "point.h"
#include "sentinai.h"
#include "spi.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

typedef struct IdentityEntry
{
	struct
	{
		const char *tenant_id;
		const char *event_id;
	} key;
	SnWork *work;
} IdentityEntry;

/* The rotation's state, and the other live generations, which are only looked up. */
static SnGenerations generations = {.state_number = -1};
static int *closed_generations;
static int n_closed_generations;

/*
 * Whether the last batch had duplicates. Then more may follow (a producer that repeats itself, a topic that is read again),
 * and looking first leaves no dead rows behind, as losing an insert does.
 */
static bool look_first = false;

static SnStatement read_generations = {
	.sql =
		"SELECT generation FROM sentinai.dedupe_generation WHERE generation NOT IN ($1, $2) ORDER BY generation DESC",
	.n_args = 2,
	.args = {INT4OID, INT4OID}};

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

/* As the indexes have it: neighbours meet the same pages. */
static int
compare_identity(const void *a, const void *b)
{
	const SnEvent *left = &(*(SnWork *const *) a)->event;
	const SnEvent *right = &(*(SnWork *const *) b)->event;
	int order = strcmp(left->event_id, right->event_id);

	return order != 0 ? order : strcmp(left->tenant_id, right->tenant_id);
}

static void
read_closed_generations(void)
{
	Datum values[2] = {Int32GetDatum(generations.newest), Int32GetDatum(generations.previous_open)};
	uint64 n = sn_execute(&read_generations, values, NULL);

	if (closed_generations != NULL)
		pfree(closed_generations);
	closed_generations = MemoryContextAlloc(TopMemoryContext, Max(n, 1) * sizeof(int));
	n_closed_generations = n;
	for (int row = 0; row < n; row++)
		closed_generations[row] = sn_result_int32(row, 1);
}

/* The rotation's state, which the transaction holds from now on. */
static void
use_generations(void)
{
	SnGenerations state;

	sn_generation_enter(&state);
	if (state.state_number == generations.state_number)
		return;
	generations = state;
	generations.state_number = -1; /* until all is read */
	read_closed_generations();
	generations.state_number = state.state_number;
}

/* Those that are still to be claimed move to the front; returns how many. */
static int
keep_todo(SnWork **works, int n)
{
	int kept = 0;

	for (int i = 0; i < n; i++)
		if (works[i]->outcome == SN_TODO)
			works[kept++] = works[i];
	return kept;
}

static int
look_up(SnBatch *batch, int generation, SnWork **works, int n)
{
	if (generation == 0 || n == 0)
		return n;
	sn_claims_find(generation, batch->worker_type->name, works, n, lose);
	return keep_todo(works, n);
}

static int
insert(SnBatch *batch, int generation, bool shadow, SnWork **works, int n)
{
	if (n == 0)
		return 0;
	sn_claims_insert(batch, generation, shadow, works, n, lose);
	return keep_todo(works, n);
}

static void
claim_works(SnBatch *batch, SnWork **works, int n)
{
	int n_all = n;

	qsort(works, n, sizeof(SnWork *), compare_identity);
	use_generations();
	SN_POINT("claim.entered");
	for (int i = 0; i < n_closed_generations; i++)
		n = look_up(batch, closed_generations[i], works, n);
	if (look_first)
	{
		n = look_up(batch, generations.previous_open, works, n);
		n = look_up(batch, generations.newest, works, n);
	}
	if (generations.previous_open != 0)
	{
		n = insert(batch, generations.previous_open, true, works, n);
		SN_POINT("claim.previous");
	}
	n = insert(batch, generations.newest, false, works, n);
	SN_POINT("claim.inserted");
	for (int i = 0; i < n; i++)
		works[i]->claimed = true;
	look_first = n < n_all;
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
	if (!work->claimed || work->outcome == SN_DUPLICATE || sn_backpressure_stays(work))
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
