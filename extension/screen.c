/*
 * screen.c
 *	  The second step of consume(): every new record becomes a piece of work, is parsed and checked; so is due work again.
 *
 * What can't be read or is not allowed becomes a dead letter here (outcome SN_DEAD), what isn't this worker type's is
 * skipped. What the bytes alone decide is refused by the topic's owner only; what the database or a setting decides is
 * refused by whoever has a handler for the event type, and by the owner where it has one or nobody has. So each poison
 * record is exactly one dead letter. Identities are claim.c's.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "common/cryptohash.h"
#include "common/hmac.h"
#include "common/sha2.h"
#include "consume.h"
#include "executor/spi.h"
#include "mb/pg_wchar.h"
#include "port/pg_bswap.h"
#include "sentinai.h"
#include "sentinai_wire.h"
#include "spi.h"
#include "utils/builtins.h"

/* A topic whose tenant comes from a header: that header's name where the row names none. */
#define DEFAULT_TENANT_HEADER "tenant_id"

static SnStatement read_topic = {.sql = "SELECT cluster_id, incarnation, partition_count, tenant_source, tenant_value"
										" FROM sentinai.kafka_topic WHERE topic = $1",
								 .n_args = 1,
								 .args = {TEXTOID}};

static SnStatement read_tenants = {
	.sql = "SELECT t.tenant_id, t.status FROM unnest($1) AS u(tenant_id) JOIN sentinai.tenant t USING (tenant_id)",
	.n_args = 1,
	.args = {TEXTARRAYOID}};

/*
 * Who is about to wait for a tenant holds its row: tenant_resume() either comes before, and is seen here, or waits for this
 * batch and finds its events.
 */
static SnStatement read_suspended = {
	.sql = "SELECT t.tenant_id, t.status FROM sentinai.tenant t WHERE t.tenant_id = ANY ($1) AND t.status = 'suspended'"
		   " ORDER BY t.tenant_id FOR SHARE",
	.n_args = 1,
	.args = {TEXTARRAYOID}};

static SnStatement read_secret = {.sql = "SELECT secret FROM sentinai.emit_secret", .n_args = 0};

static void
refuse(SnWork *work, const char *error_type, const char *message, const char *detail)
{
	work->outcome = SN_DEAD;
	work->failure = (SnFailure){.step = "screen",
								.error_type = error_type,
								.message = message,
								.detail = detail,
								.sqlstate = "SN006",
								.error_class = SN_CLASS_PERMANENT};
}

/* The secret under the emitted header, NULL before the first worker_config() made it. */
bytea *
sn_emit_secret(void)
{
	bool isnull;
	Datum secret;

	if (sn_execute(&read_secret, NULL, NULL) == 0)
		return NULL;
	secret = sn_result_datum(0, 1, &isnull);
	return DatumGetByteaPCopy(secret);
}

static void
hmac_bytes32(pg_hmac_ctx *ctx, SnSpan span)
{
	uint32 len = pg_hton32(span.data == NULL ? (uint32) -1 : (uint32) span.len);

	if (pg_hmac_update(ctx, (uint8 *) &len, sizeof(len)) < 0 ||
		(span.data != NULL && pg_hmac_update(ctx, (const uint8 *) span.data, span.len) < 0))
		elog(ERROR, "could not compute an HMAC");
}

/* Whether the record carries the mark of our own publisher. */
static bool
is_emitted(const SnRecord *record, const char *topic, bytea *secret)
{
	const SnHeader *header = sn_record_header(record, SN_HEADER_EMITTED);
	uint8 mac[PG_SHA256_DIGEST_LENGTH];
	char hex[PG_SHA256_DIGEST_LENGTH * 2];
	uint16 topic_len = pg_hton16((uint16) strlen(topic));
	pg_hmac_ctx *ctx;

	if (header == NULL || secret == NULL || header->value.len != sizeof(hex))
		return false;
	ctx = pg_hmac_create(PG_SHA256);
	if (pg_hmac_init(ctx, (uint8 *) VARDATA_ANY(secret), VARSIZE_ANY_EXHDR(secret)) < 0 ||
		pg_hmac_update(ctx, (uint8 *) &topic_len, sizeof(topic_len)) < 0 ||
		pg_hmac_update(ctx, (const uint8 *) topic, strlen(topic)) < 0)
		elog(ERROR, "could not compute an HMAC");
	hmac_bytes32(ctx, record->key);
	hmac_bytes32(ctx, record->value);
	if (pg_hmac_final(ctx, mac, sizeof(mac)) < 0)
		elog(ERROR, "could not compute an HMAC");
	pg_hmac_free(ctx);
	hex_encode((char *) mac, sizeof(mac), hex);
	return memcmp(hex, header->value.data, sizeof(hex)) == 0;
}

static SnTopic *
topic_of(SnBatch *batch, const char *name)
{
	SnTopic *topic;
	Datum value;

	for (topic = batch->topics; topic != NULL; topic = topic->next)
		if (strcmp(topic->topic, name) == 0)
			return topic;
	topic = palloc0(sizeof(SnTopic));
	topic->topic = pstrdup(name);
	topic->cluster_id = "";
	topic->incarnation = 1;
	topic->tenant_source = 'p';
	topic->next = batch->topics;
	batch->topics = topic;
	value = CStringGetTextDatum(name);
	if (sn_execute(&read_topic, &value, NULL) > 0)
	{
		char *cluster_id = sn_result_text(0, 1);

		topic->cluster_id = cluster_id == NULL ? "" : cluster_id;
		topic->incarnation = sn_result_int32(0, 2);
		topic->partition_count = sn_result_int32(0, 3);
		topic->tenant_source = sn_result_text(0, 4)[0];
		topic->tenant_value = sn_result_text(0, 5);
	}
	return topic;
}

/* The tenant that the topic's rule names for a record; NULL where it names none. */
static char *
ruled_tenant(const SnTopic *topic, const SnRecord *record)
{
	SnSpan span = {NULL, 0};
	const char *colon;
	char *tenant;

	switch (topic->tenant_source)
	{
		case 'f':
			return topic->tenant_value;
		case 'h':
		{
			const SnHeader *header =
				sn_record_header(record, topic->tenant_value == NULL ? DEFAULT_TENANT_HEADER : topic->tenant_value);

			if (header != NULL)
				span = header->value;
			break;
		}
		case 'k':
			span = record->key;
			colon = span.data == NULL ? NULL : memchr(span.data, ':', span.len);
			if (colon != NULL)
				span.len = colon - span.data;
			break;
	}
	if (span.data == NULL || span.len > SN_TENANT_ID_MAX)
		return NULL;
	tenant = pnstrdup(span.data, span.len);
	/* pnstrdup() ends at a NUL, which is no part of a tenant's id. */
	return strlen(tenant) == span.len && sn_tenant_id_valid(tenant) ? tenant : NULL;
}

/*
 * Whose tenant the topic's rule doesn't ask for: due work and replays have theirs already, and what this database has
 * published (the mark is a keyed hash over the record) carries the tenant that it was published for.
 */
static bool
rule_applies(const SnTopic *topic, const SnWork *work, const char *kept_tenant)
{
	return topic->tenant_source != 'p' && kept_tenant == NULL && !work->emitted;
}

/* A header that contradicts the envelope: anybody can write one, and workers skip by it. */
static bool
header_contradicts(const SnWork *work)
{
	const SnHeader *header = sn_record_header(work->record, SN_HEADER_EVENT_TYPE);

	return header != NULL && (header->value.len != strlen(work->event.event_type) ||
							  memcmp(header->value.data, work->event.event_type, header->value.len) != 0);
}

static void
refuse_structural(SnBatch *batch, SnWork *work, const char *error_type, const char *message, const char *detail)
{
	if (work->fresh && work->replay == NULL && !batch->worker_type->owns_topic)
		work->outcome = SN_SKIPPED;
	else
		refuse(work, error_type, message, detail);
}

/* What the database or a setting decides: is it for us to refuse? */
static void
refuse_decided(SnBatch *batch, SnWork *work, const SnEventTypeEntry *type, const char *error_type, const char *message,
			   const char *detail)
{
	bool ours = !work->fresh || work->replay != NULL || (type != NULL && type->handler != NULL) ||
				(batch->worker_type->owns_topic && (type == NULL || !type->handled_elsewhere));

	if (ours)
		refuse(work, error_type, message, detail);
	else
		work->outcome = SN_SKIPPED;
}

/* Takes the identity of a dead letter or of due work: what the bytes say counts no longer. */
static void
override_identity(SnWork *work, const char *tenant_id, const char *event_id, TimestampTz timestamp)
{
	if (tenant_id != NULL && tenant_id[0] != '\0')
		work->event.tenant_id = pstrdup(tenant_id);
	if (event_id != NULL)
		work->event.event_id = pstrdup(event_id);
	if (timestamp != 0)
		work->event.timestamp = timestamp;
}

/* Everything about one record that needs no other table than kafka_topic. */
static void
screen_record(SnBatch *batch, SnWork *work, const char *kept_tenant)
{
	SnTopic *topic = topic_of(batch, work->queue->topic);
	SnRecord *record = work->record;
	SnEventError error;
	bool ruled = rule_applies(topic, work, kept_tenant);
	char *tenant = ruled ? ruled_tenant(topic, record) : NULL;
	const SnEventTypeEntry *type;

	work->parsed = sn_event_parse(record->value.data, record->value.len, record->ts == 0 ? batch->now : record->ts,
								  kept_tenant != NULL ? kept_tenant : tenant, &work->event, &error);
	if (!work->parsed)
	{
		type = work->event.event_type == NULL ? NULL : sn_event_type_get(batch->worker_type, work->event.event_type);
		if (error.structural)
			refuse_structural(batch, work, error.error_type, error.message, error.detail);
		else
			refuse_decided(batch, work, type, error.error_type, error.message, error.detail);
		return;
	}
	if (work->event.event_id == NULL)
		work->event.event_id = sn_event_id_from_place(topic->cluster_id, topic->topic, topic->incarnation,
													  work->origin_partition, work->origin_offset);
	type = sn_event_type_get(batch->worker_type, work->event.event_type);
	if (work->fresh && header_contradicts(work))
		refuse_structural(batch, work, "header_mismatch",
						  "header sentinai-event-type contradicts the event's event_type",
						  psprintf("The event's event_type is \"%s\".", work->event.event_type));
	else if (ruled && (tenant == NULL || strcmp(tenant, work->event.tenant_id) != 0))
		/* Not the owner's alone, as header_mismatch is: the rule may have changed since the owner took the record. */
		refuse_decided(batch, work, type, "tenant_mismatch", "the event's tenant contradicts the topic's rule",
					   psprintf("The event says \"%s\", the topic's rule says \"%s\".", work->event.tenant_id,
								tenant == NULL ? "" : tenant));
	else if (type == NULL)
		refuse_decided(batch, work, type, "unknown_event_type", "event type is not known",
					   psprintf("There is no event type \"%s\"; event_type_add() makes one.", work->event.event_type));
	else
	{
		work->handler = type->handler;
		if (work->handler == NULL && !work->fresh)
			refuse(work, "handler_missing", "event type has no handler any more",
				   psprintf("Worker type \"%s\" had a handler for \"%s\" when the event was put away.",
							batch->worker_type->name, work->event.event_type));
		else if (work->handler == NULL && !(batch->worker_type->owns_topic && work->fresh && work->replay == NULL))
			work->outcome = SN_SKIPPED;
	}
}

/* Dead letters ask, too: one of an unknown tenant is the admin's. */
static bool
asks_for_tenant(const SnWork *work)
{
	return (work->outcome == SN_TODO || work->outcome == SN_DEAD) && work->event.tenant_id != NULL;
}

static HTAB *
make_tenant_table(SnBatch *batch, SnColumn *tenants)
{
	HASHCTL ctl = {.keysize = SN_TENANT_ID_MAX + 1, .entrysize = sizeof(SnTenant), .hcxt = batch->context};
	HTAB *table = hash_create("sentinai tenants", 64, &ctl, HASH_ELEM | HASH_STRINGS | HASH_CONTEXT);

	sn_column_init(tenants, TEXTOID, 8);
	for (int i = 0; i < batch->n_work; i++)
	{
		SnWork *work = batch->work[i];
		bool found;

		if (!asks_for_tenant(work))
			continue;
		work->tenant = hash_search(table, work->event.tenant_id, HASH_ENTER, &found);
		if (found)
			continue;
		memset(work->tenant->status, 0, sizeof(SnTenant) - offsetof(SnTenant, status));
		sn_column_text(tenants, work->event.tenant_id);
	}
	return table;
}

/* What a tenant's status means for its event. */
static void
screen_tenant(SnBatch *batch, SnWork *work, const char *status)
{
	const char *message;

	if (status[0] == '\0')
		message = "tenant is not known";
	else if (strcmp(status, "archived") == 0)
		message = "tenant is archived";
	else
	{
		work->defer = strcmp(status, "suspended") == 0 && work->handler != NULL;
		return;
	}
	refuse_decided(batch, work, sn_event_type_get(batch->worker_type, work->event.event_type), "validation_error",
				   message, psprintf("The event's tenant_id is \"%s\".", work->event.tenant_id));
}

/* Statuses from a statement that returns tenant_id and status; how many of them are suspended. */
static int
take_statuses(HTAB *table, SnStatement *statement, Datum array)
{
	uint64 n = sn_execute(statement, &array, NULL);
	int suspended = 0;

	for (int row = 0; row < n; row++)
	{
		SnTenant *tenant = hash_search(table, sn_result_text(row, 1), HASH_FIND, NULL);

		strlcpy(tenant->status, sn_result_text(row, 2), sizeof(tenant->status));
		suspended += strcmp(tenant->status, "suspended") == 0;
	}
	return suspended;
}

/* One look at the tenant table for the whole batch, and more of them only where a tenant is suspended. */
static void
read_statuses(HTAB *table, Datum array)
{
	int suspended = take_statuses(table, &read_tenants, array);

	/* Waiting for a row may have shown it to be active again; then another look, until all that are suspended are held. */
	while (suspended > 0)
	{
		int held = take_statuses(table, &read_suspended, array);

		suspended = take_statuses(table, &read_tenants, array);
		if (suspended == held)
			break;
	}
}

/* What each event's tenant says to it. Due work passes it again. */
static void
screen_tenants(SnBatch *batch)
{
	SnColumn tenants;
	HTAB *table = make_tenant_table(batch, &tenants);

	if (tenants.n == 0)
		return;
	batch->tenants = table;
	read_statuses(table, sn_column_array(&tenants));
	for (int i = 0; i < batch->n_work; i++)
	{
		SnWork *work = batch->work[i];

		if (work->tenant == NULL)
			continue;
		work->tenant_known = work->tenant->status[0] != '\0' &&
							 (work->outcome == SN_TODO || strcmp(work->failure.error_type, "tenant_mismatch") != 0);
		if (work->outcome == SN_TODO)
			screen_tenant(batch, work, work->tenant->status);
	}
}

/* A record that carries a dead letter's id and token, NULL where it doesn't or they can't be read. */
static SnReplay *
replay_of(const SnRecord *record)
{
	const SnHeader *id = sn_record_header(record, SN_HEADER_DLQ_ID);
	const SnHeader *token = sn_record_header(record, SN_HEADER_DLQ_TOKEN);
	SnReplay *replay;
	char *text;
	char *end;

	if (id == NULL || token == NULL || id->value.data == NULL || id->value.len > 19 || token->value.len != 36)
		return NULL;
	replay = palloc0(sizeof(SnReplay));
	text = pnstrdup(id->value.data, id->value.len);
	errno = 0;
	replay->dlq_id = strtoi64(text, &end, 10);
	if (errno != 0 || *end != '\0' || end == text)
		return NULL;
	replay->token = pnstrdup(token->value.data, token->value.len);
	replay->from_topic = true;
	replay->value = record->value.data;
	replay->value_len = record->value.len;
	return strspn(replay->token, "0123456789abcdefABCDEF-") == 36 ? replay : NULL;
}

/*
 * Decides what a retry of a dead letter is. True: goes on to be parsed. A dead letter of the handle step is its own worker
 * type's only, one of the screen everybody's; an old or used token is a duplicate; an unknown one counts for nothing.
 */
static bool
screen_replay(SnBatch *batch, SnWork *work)
{
	SnReplay *replay = work->replay;
	bool own;

	if (replay == NULL)
		return true;
	if (replay->state == SN_REPLAY_UNKNOWN)
	{
		work->replay = NULL;
		return true;
	}
	own = strcmp(replay->worker_type, batch->worker_type->name) == 0;
	if (own && replay->state == SN_REPLAY_USED)
		work->outcome = SN_DUPLICATE;
	else if (!own && strcmp(replay->step, "handle") == 0)
		work->outcome = SN_SKIPPED;
	if (!own)
		work->replay = NULL; /* its end is its own worker type's to tell */
	return work->outcome == SN_TODO;
}

/* Looks the dead letters up behind all retries of the batch; due work that is one comes with its replay already. */
static void
look_up_replays(SnBatch *batch)
{
	SnReplay **found = palloc(Max(batch->n_work, 1) * sizeof(SnReplay *));
	SnReplay *replays = palloc0(Max(batch->n_work, 1) * sizeof(SnReplay));
	int n = 0;

	for (int i = 0; i < batch->n_work; i++)
	{
		SnWork *work = batch->work[i];

		if (work->fresh)
			work->replay = replay_of(work->record);
		if (work->replay != NULL)
		{
			replays[n] = *work->replay;
			found[n++] = work->replay;
		}
	}
	if (n == 0)
		return;
	sn_dead_letter_lookup(replays, n);
	for (int i = 0; i < n; i++)
		*found[i] = replays[i];
}

/* New records become work; those behind our position were done by an earlier call. */
static void
add_records(SnBatch *batch)
{
	for (int i = 0; i < batch->n_records; i++)
	{
		SnRecord *record = &batch->records[i];
		SnPartition *partition = &batch->partitions[record->entry];
		SnWork *work;

		if (partition->fenced)
			continue;
		if (record->offset < partition->next_offset)
		{
			batch->n_skipped++;
			continue;
		}
		work = sn_batch_add_work(batch);
		work->record = record;
		work->queue = partition;
		work->fresh = true;
		work->origin_partition = partition->partition;
		work->origin_offset = record->offset;
	}
}

static void
screen_work(SnBatch *batch, SnWork *work, bytea *secret)
{
	SnReplay *replay = work->replay;
	const char *kept_tenant = work->kept_tenant;

	if (!screen_replay(batch, work))
		return;
	if (replay != NULL && replay->state != SN_REPLAY_UNKNOWN && replay->tenant_id[0] != '\0')
		kept_tenant = replay->tenant_id;
	work->emitted = is_emitted(work->record, work->queue->topic, secret);
	screen_record(batch, work, kept_tenant);
	if (replay != NULL && replay->state != SN_REPLAY_UNKNOWN)
		override_identity(work, kept_tenant, replay->event_id, replay->event_timestamp);
	else
		override_identity(work, kept_tenant, work->kept_event_id, 0);
	/* A dead letter of the handle step was logged when it came first. */
	work->log = work->fresh && batch->worker_type->owns_topic && !work->emitted &&
				(work->replay == NULL || strcmp(work->replay->step, "screen") == 0);
	/* What is ours is in the log already, and there is nothing else to do with it. */
	if (work->outcome == SN_TODO && work->handler == NULL && !work->log)
		work->outcome = SN_SKIPPED;
}

/*
 * Turns the batch's records into work and screens it together with the due work that is there already. Afterwards what
 * has outcome SN_TODO is a good event of an active or suspended tenant.
 */
void
sn_screen(SnBatch *batch)
{
	bytea *secret = sn_emit_secret();

	add_records(batch);
	look_up_replays(batch);
	for (int i = 0; i < batch->n_work; i++)
		screen_work(batch, batch->work[i], secret);
	screen_tenants(batch);
}
