/*
 * key_order.c
 *	  The fourth step of consume(): while an event of a key (tenant, exception) is unfinished, what comes later is parked.
 *
 * A key has a row in key_state from the failure of one of its events until its queue is empty. Whoever handles the key
 * locks the row; rows are locked in the order of the keys, before any handler runs. The queue belongs to the partition of
 * the event that blocked the key. Putting rows into event_pending and taking them out is pending.c's.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "consume.h"
#include "point.h"
#include "sentinai.h"
#include "spi.h"
#include "utils/builtins.h"

typedef struct KeyEntry
{
	struct
	{
		const char *tenant_id;
		const char *exception_id;
	} name;
	SnKey *key;
} KeyEntry;

static SnStatement lock_keys = {
	.sql =
		"SELECT u.i, k.topic, k.partition, k.event_id, k.dlq_id"
		" FROM unnest($1, $2, $3) AS u(i, tenant_id, exception_id)"
		" JOIN sentinai.key_state k ON k.tenant_id = u.tenant_id AND k.exception_id = u.exception_id AND k.worker_type = $4"
		" FOR UPDATE OF k",
	.n_args = 4,
	.args = {INT4ARRAYOID, TEXTARRAYOID, TEXTARRAYOID, TEXTOID}};

static SnStatement insert_key = {
	.sql = "INSERT INTO sentinai.key_state (tenant_id, exception_id, worker_type, topic, partition, event_id)"
		   " VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING",
	.n_args = 6,
	.args = {TEXTOID, TEXTOID, TEXTOID, TEXTOID, INT4OID, TEXTOID}};

static SnStatement update_key = {.sql = "UPDATE sentinai.key_state SET event_id = $4, dlq_id = nullif($5, 0)"
										" WHERE tenant_id = $1 AND exception_id = $2 AND worker_type = $3",
								 .n_args = 5,
								 .args = {TEXTOID, TEXTOID, TEXTOID, TEXTOID, INT8OID}};

static SnStatement park_in_line = {.sql = "UPDATE sentinai.event_pending SET status = 'parked', rate_limit = NULL"
										  " WHERE tenant_id = $1 AND exception_id = $2 AND worker_type = $3"
										  " AND (status = 'released' OR rate_limit IS NOT NULL)",
								   .n_args = 3,
								   .args = {TEXTOID, TEXTOID, TEXTOID}};

static SnStatement release_key = {.sql = "SELECT sentinai.key_release($1, $2, $3)",
								  .n_args = 3,
								  .args = {TEXTOID, TEXTOID, TEXTOID}};

static uint32
key_hash(const void *key, Size keysize)
{
	const KeyEntry *entry = key;

	return hash_combine(string_hash(entry->name.tenant_id, SN_TENANT_ID_MAX + 1),
						string_hash(entry->name.exception_id, SN_EVENT_TEXT_MAX + 1));
}

static int
key_match(const void *a, const void *b, Size keysize)
{
	const KeyEntry *left = a;
	const KeyEntry *right = b;

	return strcmp(left->name.exception_id, right->name.exception_id) != 0 ||
		   strcmp(left->name.tenant_id, right->name.tenant_id) != 0;
}

static int
compare_keys(const void *a, const void *b)
{
	const SnKey *left = *(SnKey *const *) a;
	const SnKey *right = *(SnKey *const *) b;
	int order = strcmp(left->tenant_id, right->tenant_id);

	return order != 0 ? order : strcmp(left->exception_id, right->exception_id);
}

/* Gives every event that is to be handled its key, and sorts the keys. */
static void
collect_keys(SnBatch *batch)
{
	HASHCTL ctl = {.keysize = sizeof(((KeyEntry *) 0)->name),
				   .entrysize = sizeof(KeyEntry),
				   .hash = key_hash,
				   .match = key_match,
				   .hcxt = batch->context};
	HTAB *table = hash_create("sentinai keys", Max(batch->n_work, 16), &ctl,
							  HASH_ELEM | HASH_FUNCTION | HASH_COMPARE | HASH_CONTEXT);

	batch->keys = palloc(Max(batch->n_work, 1) * sizeof(SnKey *));
	for (int i = 0; i < batch->n_work; i++)
	{
		SnWork *work = batch->work[i];
		KeyEntry probe = {.name = {work->event.tenant_id, work->event.exception_id}};
		KeyEntry *entry;
		bool found;

		/* Due work that ended in the screen may be what its key waits for. */
		if ((work->outcome != SN_TODO && work->pending_id == 0 && work->replay == NULL) ||
			work->event.exception_id == NULL || work->event.tenant_id == NULL || work->event.tenant_id[0] == '\0')
			continue;
		entry = hash_search(table, &probe.name, HASH_ENTER, &found);
		if (!found)
		{
			entry->key = palloc0(sizeof(SnKey));
			entry->key->tenant_id = work->event.tenant_id;
			entry->key->exception_id = work->event.exception_id;
			batch->keys[batch->n_keys++] = entry->key;
		}
		work->key = entry->key;
	}
	qsort(batch->keys, batch->n_keys, sizeof(SnKey *), compare_keys);
}

/* Locks the rows of the batch's keys, in order. */
static void
lock_key_rows(SnBatch *batch)
{
	SnColumn index;
	SnColumn tenants;
	SnColumn exceptions;
	Datum values[4];
	uint64 n;

	sn_column_init(&index, INT4OID, batch->n_keys);
	sn_column_init(&tenants, TEXTOID, batch->n_keys);
	sn_column_init(&exceptions, TEXTOID, batch->n_keys);
	for (int i = 0; i < batch->n_keys; i++)
	{
		sn_column_add(&index, Int32GetDatum(i), false);
		sn_column_text(&tenants, batch->keys[i]->tenant_id);
		sn_column_text(&exceptions, batch->keys[i]->exception_id);
	}
	values[0] = sn_column_array(&index);
	values[1] = sn_column_array(&tenants);
	values[2] = sn_column_array(&exceptions);
	values[3] = CStringGetTextDatum(batch->worker_type->name);
	n = sn_execute(&lock_keys, values, NULL);
	for (int row = 0; row < n; row++)
	{
		SnKey *key = batch->keys[sn_result_int32(row, 1)];

		key->held = true;
		key->topic = sn_result_text(row, 2);
		key->partition = sn_result_int32(row, 3);
		key->event_id = sn_result_text(row, 4);
		key->dlq_id = sn_result_int64(row, 5);
	}
}

/* Whether an event of its key that stands before it is unfinished. */
bool
sn_key_is_blocked(const SnWork *work)
{
	return work->key != NULL && work->key->blocker != NULL && work->key->blocker->place < work->place;
}

/* Whether it waits for no more than the events of its key that come in the same order by themselves. */
bool
sn_key_in_line(const SnWork *work)
{
	return work->released || work->queued;
}

/* Whether whom its key waits for comes before it in this call, or is itself. */
bool
sn_key_has_begun(const SnWork *work)
{
	const SnKey *key = work->key;

	return key == NULL || !key->held || (key->first != NULL && key->first->place <= work->place);
}

/* Whether whom its key waits for is not in this call. */
bool
sn_key_is_elsewhere(const SnWork *work)
{
	return work->key != NULL && work->key->held && work->key->first == NULL;
}

/* Whether the event may be handled although its key has a row: it is the one that the others wait for. */
static bool
is_first_of_key(const SnWork *work)
{
	SnKey *key = work->key;

	if (sn_key_is_blocked(work))
		return false;
	if (!key->held)
		return true;
	if ((work->replay != NULL && key->dlq_id == work->replay->dlq_id) ||
		(work->pending_id != 0 && strcmp(key->event_id, work->event.event_id) == 0))
		key->first = work;
	return key->first == work || sn_key_in_line(work);
}

/*
 * Parks what stands behind an unfinished event of its key, and defers what belongs to a suspended tenant.
 */
void
sn_key_order(SnBatch *batch)
{
	collect_keys(batch);
	if (batch->n_keys > 0)
		lock_key_rows(batch);
	for (int i = 0; i < batch->n_work; i++)
	{
		SnWork *work = batch->work[i];

		if (work->outcome != SN_TODO)
			continue;
		if (work->key != NULL && !is_first_of_key(work))
			work->outcome = SN_PARKED;
		else if (work->defer)
		{
			work->outcome = SN_DEFERRED;
			work->next_attempt_at = DT_NOEND;
			if (work->key != NULL)
				work->key->blocker = work;
		}
	}
}

static void
key_values(SnBatch *batch, SnKey *key, Datum *values)
{
	values[0] = CStringGetTextDatum(key->tenant_id);
	values[1] = CStringGetTextDatum(key->exception_id);
	values[2] = CStringGetTextDatum(batch->worker_type->name);
}

/* A key that another processor blocked in the meantime (its events come by two partitions): ours queue up there. */
static void
adopt_key(SnBatch *batch, int index)
{
	SnKey *key = batch->keys[index];
	SnBatch one = *batch;

	one.keys = &batch->keys[index];
	one.n_keys = 1;
	lock_key_rows(&one);
	if (!key->held)
		ereport(ERROR, (errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
						errmsg("a key was blocked and released in the same moment"), errhint("Send the batch again.")));
	key->blocker->outcome = SN_PARKED;
	key->blocker = NULL;
	key->adopted = true;
}

/*
 * Gives every key with an unfinished event its row, before anything is put into its queue.
 */
void
sn_key_block(SnBatch *batch)
{
	for (int i = 0; i < batch->n_keys; i++)
	{
		SnKey *key = batch->keys[i];
		Datum values[6];

		if (key->blocker == NULL || key->held)
			continue;
		key_values(batch, key, values);
		values[3] = CStringGetTextDatum(key->blocker->queue->topic);
		values[4] = Int32GetDatum(key->blocker->queue->partition);
		values[5] = CStringGetTextDatum(key->blocker->event.event_id);
		if (sn_execute(&insert_key, values, NULL) == 0)
		{
			adopt_key(batch, i);
			continue;
		}
		SN_POINT("key.blocked");
		key->held = true;
		key->topic = key->blocker->queue->topic;
		key->partition = key->blocker->queue->partition;
		key->event_id = key->blocker->event.event_id;
	}
}

/*
 * Whom the key waits for now. What is in line behind it keeps its place where it waits for its place itself; else it is
 * parked.
 */
static void
point_key(SnBatch *batch, SnKey *key)
{
	Datum values[5];

	key_values(batch, key, values);
	values[3] = CStringGetTextDatum(key->blocker->event.event_id);
	values[4] = Int64GetDatum(key->blocker->outcome == SN_DEAD ? key->blocker->dlq_id : 0);
	sn_execute(&update_key, values, NULL);
	if (!key->blocker->appointed)
		sn_execute(&park_in_line, values, NULL);
}

/*
 * Whether what the key has waited for may have ended with this piece of work: due work that is over, or what was handled.
 * A retry that was refused in the screen, or that turned out to be known, has ended nothing: a dead letter that holds the
 * key still does.
 */
static bool
frees_key(const SnWork *work)
{
	if (work->outcome == SN_PARKED)
		return false;
	return work->pending_id != 0 || work->outcome == SN_SUCCEEDED ||
		   (work->outcome == SN_DEAD && strcmp(work->failure.step, "handle") == 0);
}

static bool
key_was_freed(SnBatch *batch, SnKey *key)
{
	for (int i = 0; i < batch->n_work; i++)
		if (batch->work[i]->key == key && frees_key(batch->work[i]))
			return true;
	return false;
}

/*
 * The end of the batch's keys: those with an unfinished event point to it, the others go on with what is parked behind.
 */
void
sn_key_finish(SnBatch *batch)
{
	for (int i = 0; i < batch->n_keys; i++)
	{
		SnKey *key = batch->keys[i];
		Datum values[3];

		if (!key->held)
			continue;
		if (key->blocker != NULL)
			point_key(batch, key);
		else if (!key->adopted && key_was_freed(batch, key))
		{
			key_values(batch, key, values);
			sn_execute(&release_key, values, NULL);
			SN_POINT("key.released");
		}
	}
}
