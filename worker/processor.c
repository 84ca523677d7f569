/*
 * processor.c
 *	  One of CONCURRENCY threads that carry records to the database: reads the queues of its partitions, calls consume(),
 *	  does what the answer says. See consume_internal.h; which records go along is filter.c's.
 *
 * A round: take the partitions, fill (read what their queues have, up to the limit), call, answer, release. Without records
 * the call is made when the last answer's next_due_ms has passed: due work is handled then, and positions are stored that
 * moved over skipped records only.
 *
 * After a call that could not be done (stop, an error, a broken connection) each of its partitions is sent by itself, after
 * a back-off of its own, until that went well: one bad record can't hold up the others. Nothing is read again for that: the
 * messages are kept until the database has their position.
 */
#include "consume_internal.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cjson/cJSON.h>

#include "filter.h"
#include "log.h"
#include "sentinai_envelope.h"
#include "suspect.h"

/* A batch ends with the chunk that reaches this; records are at most a few MiB. */
#define BATCH_BYTES (16 * 1024 * 1024)
/* Records from one queue at a time, so that all partitions come to their turn. */
#define CHUNK 50
/* Skipped records looked at in a round, in batches. */
#define SCAN_BATCHES 20
/* A lowered limit grows again after so many good calls. */
#define GOOD_CALLS 8
#define COMMIT_EVERY_MS 500
#define TICK_MS 1000
/* Another session has taken the partition: the group will say so soon, if it is to stay so. */
#define FENCED_RETRY_MS 2000

/* One row for each partition of the batch; the rest repeats. */
static const DbStatement statement_consume = {
	"consume",
	"SELECT r.handled, r.logged, r.duplicate, r.skipped, r.failed, r.parked, r.deferred, r.dead_lettered, r.emitted,"
	" r.due, r.next_due_ms, r.reload, r.stop, r.split, r.stats::text AS stats,"
	" p.topic, p.partition, p.next_offset, p.fenced, p.pause"
	" FROM sentinai.consume($1::text, $2::text, $3::bytea) r LEFT JOIN LATERAL jsonb_to_recordset(r.partitions)"
	" AS p(topic text, partition integer, next_offset bigint, fenced boolean, pause text) ON true",
	3};

/* ---- take and release ---- */

static bool
mine(const Processor *p, const Partition *part)
{
	return part->owner == p->number && partition_working(part);
}

/* Caller holds lock. */
static void
take_one(Processor *p, Partition *part)
{
	part->held = true;
	part->refs++;
	p->taken[p->n_taken++] = (Taken){.part = part, .read = part->state == PARTITION_ACTIVE, .epoch = part->epoch};
}

/* The one that waits for longest among those that are sent by themselves; caller holds lock. */
static Partition *
next_alone(Processor *p, int64_t now)
{
	Consume *c = p->c;
	Partition *best = NULL;

	for (int i = 0; i < c->n_parts; i++)
	{
		Partition *part = c->parts[i];

		if (mine(p, part) && part->alone && part->hold_until_ms <= now &&
			(best == NULL || part->hold_until_ms < best->hold_until_ms))
			best = part;
	}
	return best;
}

static bool
room_for(Processor *p, int n)
{
	Taken *taken;

	if (n <= p->room_taken)
		return true;
	taken = realloc(p->taken, n * sizeof(Taken));
	if (taken == NULL)
		return false;
	p->taken = taken;
	p->room_taken = n;
	return true;
}

/* One that is sent by itself, or all the others: they take turns. */
static void
take(Processor *p)
{
	Consume *c = p->c;
	Partition *alone = NULL;

	p->n_taken = 0;
	pthread_mutex_lock(&c->lock);
	if (room_for(p, c->n_parts))
	{
		p->alone_turn = !p->alone_turn;
		if (p->alone_turn)
			alone = next_alone(p, now_ms());
		if (alone != NULL)
			take_one(p, alone);
		else
			for (int i = 0; i < c->n_parts; i++)
				if (mine(p, c->parts[i]) && !c->parts[i]->alone)
					take_one(p, c->parts[i]);
	}
	pthread_mutex_unlock(&c->lock);
}

static void
release(Processor *p)
{
	Consume *c = p->c;

	pthread_mutex_lock(&c->lock);
	for (int i = 0; i < p->n_taken; i++)
	{
		Partition *part = p->taken[i].part;

		part->held = false;
		if (!partition_working(part))
		{
			partition_drop_all(part);
			consume_unhold(c, part);
		}
		partition_unref(part);
	}
	p->n_taken = 0;
	pthread_cond_broadcast(&c->changed);
	pthread_mutex_unlock(&c->lock);
}

/* Away from reading; located anew from ask_at_ms on. Its messages go: they are read again from where the database says. */
static void
detach(Processor *p, Partition *part, const char *reason, int64_t delay_ms)
{
	Consume *c = p->c;

	pthread_mutex_lock(&c->lock);
	if (partition_working(part))
	{
		part->ask_at_ms = now_ms() + delay_ms;
		partition_set_state(part, PARTITION_DETACHING, reason);
		consume_count(c);
	}
	pthread_mutex_unlock(&c->lock);
	partition_drop_all(part);
}

/* ---- fill ---- */

/* The log doesn't have the position: the assigner tells the database. */
static void
broker_refused(Processor *p, Taken *taken, const rd_kafka_message_t *msg)
{
	log_warning("the broker doesn't have the position", F_TEXT("topic", taken->part->topic),
				F_INT("partition", taken->part->number), F_INT("position", atomic_load(&taken->part->read_position)),
				F_TEXT("reason", rd_kafka_message_errstr(msg)));
	pthread_mutex_lock(&p->c->lock);
	taken->part->report_gap = true;
	taken->part->gap_offset = atomic_load(&taken->part->read_position);
	pthread_mutex_unlock(&p->c->lock);
	taken->gap = true;
}

/* Takes the message over. Returns its size where it goes along, else 0. */
static size_t
read_message(Processor *p, Taken *taken, rd_kafka_message_t *msg)
{
	Partition *part = taken->part;
	int64_t offset = msg->offset;
	size_t size = 0;

	if (msg->err == RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET)
		broker_refused(p, taken, msg);
	else if (msg->err != RD_KAFKA_RESP_ERR_NO_ERROR)
		log_debug("error in a partition's queue", F_INT("partition", part->number),
				  F_TEXT("error", rd_kafka_err2name(msg->err)));
	else if (!taken->gap && offset >= atomic_load(&part->read_position))
	{
		if (!filter_passes(p->type, msg))
			part->last_skipped = offset;
		else if (partition_keep(part, msg))
			size = msg->len + msg->key_len + 1;
		else
		{
			worker_fail(p->c->w, "out of memory", NULL, NULL);
			taken->gap = true;
		}
		if (!taken->gap)
			atomic_store(&part->read_position, offset + 1);
	}
	if (size == 0)
		rd_kafka_message_destroy(msg);
	return size;
}

/* Returns how many records were looked at. */
static int
read_chunk(Processor *p, Taken *taken, int max, int *room, size_t *bytes)
{
	rd_kafka_message_t *msgs[CHUNK];
	ssize_t n = rd_kafka_consume_batch_queue(taken->part->queue, 0, msgs, max < CHUNK ? max : CHUNK);

	for (ssize_t i = 0; i < n; i++)
	{
		size_t size = read_message(p, taken, msgs[i]);

		*bytes += size;
		*room -= size > 0;
	}
	taken->empty = n < (max < CHUNK ? max : CHUNK);
	return n > 0 ? (int) n : 0;
}

/* What earlier calls left over goes first. Returns the room that is left. */
static int
count_kept(Processor *p, size_t *bytes)
{
	int room = p->limit;

	for (int i = 0; i < p->n_taken; i++)
		for (int k = 0; p->taken[i].read && k < p->taken[i].part->n_msgs; k++)
		{
			room--;
			*bytes += p->taken[i].part->msgs[k]->len;
		}
	return room;
}

/* Up to the limit of records and bytes, in chunks from one partition after the other. True: there may be more to read. */
static bool
fill(Processor *p)
{
	size_t bytes = 0;
	int room = count_kept(p, &bytes);
	int scan = p->c->w->config.batch * SCAN_BATCHES;
	bool more = p->n_taken > 0;

	p->turn++;
	while (more && room > 0 && bytes < BATCH_BYTES && scan > 0)
	{
		more = false;
		for (int i = 0; i < p->n_taken && room > 0 && bytes < BATCH_BYTES; i++)
		{
			Taken *taken = &p->taken[(i + p->turn) % p->n_taken];

			if (!taken->read || taken->empty || taken->gap)
				continue;
			scan -= read_chunk(p, taken, room, &room, &bytes);
			more |= !taken->empty;
		}
	}
	return more;
}

/* Shares the call's limit out; what doesn't get in stays for the next. Returns how many records go along. */
static int
share_out(Processor *p)
{
	int left = p->limit;

	for (int i = 0; i < p->n_taken; i++)
	{
		Taken *taken = &p->taken[(i + p->turn) % p->n_taken];

		taken->send = taken->read ? (taken->part->n_msgs < left ? taken->part->n_msgs : left) : 0;
		left -= taken->send;
	}
	return p->limit - left;
}

/* ---- call ---- */

static void
pack_message(Batch *batch, int32_t entry, const rd_kafka_message_t *msg)
{
	rd_kafka_timestamp_type_t type;
	rd_kafka_headers_t *headers = NULL;
	const char *name;
	const void *value;
	size_t length;

	batch_record(batch, entry, msg->offset, rd_kafka_message_timestamp(msg, &type), msg->key, msg->key_len,
				 msg->payload, msg->len);
	if (rd_kafka_message_headers(msg, &headers) != RD_KAFKA_RESP_ERR_NO_ERROR)
		return;
	for (size_t i = 0; rd_kafka_header_get_all(headers, i, &name, &value, &length) == RD_KAFKA_RESP_ERR_NO_ERROR; i++)
		batch_header(batch, name, value, length);
}

static bool
pack(Processor *p)
{
	Batch *batch = &p->batch;

	batch_begin(batch, p->type->handler_version, p->limit);
	for (int i = 0; i < p->n_taken; i++)
	{
		Taken *taken = &p->taken[i];

		batch_partition(batch, taken->part->topic, taken->part->number, taken->epoch,
						partition_position(taken->part, taken->send));
	}
	for (int i = 0; i < p->n_taken; i++)
		for (int k = 0; k < p->taken[i].send; k++)
			pack_message(batch, i, p->taken[i].part->msgs[k]);
	return batch_end(batch);
}

/* ---- answer ---- */

static char *
field_text(const sn_field *field, char buffer[256])
{
	if (field->kind != SN_FIELD_STRING || field->len > 255)
		return NULL;
	memcpy(buffer, field->text, field->len);
	buffer[field->len] = '\0';
	return buffer;
}

/* No more than the ids of the envelope; what they say is the producer's, and quoted where it must be. */
static void
log_event(const Partition *part, const rd_kafka_message_t *msg)
{
	static const sn_limits limits = {.max_bytes = SIZE_MAX, .max_depth = SN_JSON_DEPTH_CEILING};
	sn_envelope envelope;
	char tenant[256];
	char exception[256];
	char event[256];
	char type[256];
	bool readable = msg->payload != NULL && sn_envelope_scan(msg->payload, msg->len, &limits, &envelope) == SN_JSON_OK;

	if (!readable)
		memset(&envelope, 0, sizeof(envelope));
	log_info(readable ? "event" : "unreadable record", F_TEXT("tenant_id", field_text(&envelope.tenant_id, tenant)),
			 F_TEXT("exception_id", field_text(&envelope.exception_id, exception)),
			 F_TEXT("event_id", field_text(&envelope.event_id, event)),
			 F_TEXT("event_type", field_text(&envelope.event_type, type)), F_TEXT("topic", part->topic),
			 F_INT("partition", part->number), F_INT("offset", msg->offset));
}

static void
log_taken(Processor *p, const Partition *part, int64_t next_offset)
{
	if (!p->c->w->config.log_events || !log_enabled(LEVEL_INFO))
		return;
	for (int i = 0; i < part->n_msgs && part->msgs[i]->offset < next_offset; i++)
		log_event(part, part->msgs[i]);
}

static void
set_pause(Processor *p, Partition *part, const char *pause)
{
	Consume *c = p->c;
	PartitionState to = pause != NULL ? PARTITION_PAUSED : PARTITION_ACTIVE;

	pthread_mutex_lock(&c->lock);
	if (partition_working(part) && part->state != to)
	{
		partition_set_state(part, to, pause != NULL ? pause : "the database takes records again");
		consume_count(c);
	}
	pthread_mutex_unlock(&c->lock);
}

/* Where the partition stands now. What the database has is dropped here; the rest stays for the next call. */
static void
answer_partition(Processor *p, Taken *taken, const PGresult *res, int row)
{
	Partition *part = taken->part;
	int64_t next_offset = db_int(res, row, "next_offset", -1);

	if (db_bool(res, row, "fenced"))
	{
		detach(p, part, "fenced: another session has taken it", with_jitter(FENCED_RETRY_MS));
		return;
	}
	if (next_offset < part->next_offset || next_offset > atomic_load(&part->read_position))
	{
		detach(p, part, "the database stands elsewhere", 0);
		return;
	}
	log_taken(p, part, next_offset);
	part->next_offset = next_offset;
	partition_drop_below(part, next_offset);
	set_pause(p, part, db_text(res, row, "pause"));
}

static Taken *
taken_of_row(Processor *p, const PGresult *res, int row)
{
	const char *topic = db_text(res, row, "topic");
	int64_t number = db_int(res, row, "partition", -1);

	for (int i = 0; i < p->n_taken; i++)
		if (topic != NULL && p->taken[i].part->number == number && strcmp(p->taken[i].part->topic, topic) == 0)
			return &p->taken[i];
	return NULL;
}

/* A line for what didn't simply succeed; counts, since the ids are in the database (event_why). */
static void
log_stats(const char *stats)
{
	cJSON *rows = stats == NULL ? NULL : cJSON_Parse(stats);
	const cJSON *row;

	cJSON_ArrayForEach (row, rows)
	{
		const char *status = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(row, "status"));
		const cJSON *count = cJSON_GetObjectItemCaseSensitive(row, "count");
		LogLevel level = status == NULL || strcmp(status, "succeeded") == 0 || strcmp(status, "duplicate") == 0
							 ? LEVEL_DEBUG
						 : strcmp(status, "dead_lettered") == 0 || strcmp(status, "failed") == 0 ? LEVEL_WARNING
																								 : LEVEL_INFO;

		LOG_AT(level, "events", F_TEXT("status", status),
			   F_TEXT("tenant_id", cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(row, "tenant_id"))),
			   F_TEXT("event_type", cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(row, "event_type"))),
			   F_TEXT("error_type", cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(row, "error_type"))),
			   F_INT("count", cJSON_IsNumber(count) ? (long long) count->valuedouble : 0));
	}
	cJSON_Delete(rows);
}

/* Each of the call's partitions goes by itself from now on. True: one of them didn't before. */
bool
processor_hold(Processor *p)
{
	int64_t now = now_ms();
	bool first = false;

	for (int i = 0; i < p->n_taken; i++)
		if (partition_hold(p->taken[i].part, now))
		{
			atomic_fetch_add(&p->c->alone, 1);
			first = true;
		}
	return first;
}

static void
note_limit(Processor *p, int64_t split)
{
	int batch = p->c->w->config.batch;

	if (split > 0)
	{
		p->limit = split < batch ? (int) split : batch;
		p->good_calls = 0;
		log_info("smaller batches", F_INT("records", p->limit));
	}
	else if (p->limit < batch && ++p->good_calls >= GOOD_CALLS)
	{
		p->limit = p->limit * 2 < batch ? p->limit * 2 : batch;
		p->good_calls = 0;
	}
}

/* Its handlers are others now, and with them what is skipped: what was read under the old list is read again. */
static void
note_reload(Processor *p)
{
	Consume *c = p->c;

	p->reload = true;
	pthread_mutex_lock(&c->lock);
	for (int i = 0; i < c->n_parts; i++)
	{
		Partition *part = c->parts[i];

		if (!mine(p, part) || (part->n_msgs == 0 && part->last_skipped < part->next_offset))
			continue;
		part->ask_at_ms = 0;
		partition_set_state(part, PARTITION_DETACHING, "the list of handlers has changed");
		partition_drop_all(part);
	}
	consume_count(c);
	pthread_mutex_unlock(&c->lock);
}

/* True: it was done. */
static bool
answer(Processor *p, const PGresult *res)
{
	const char *stop = db_text(res, 0, "stop");
	const char *stats = db_text(res, 0, "stats");
	int64_t split = db_int(res, 0, "split", 0);
	int64_t due = db_int(res, 0, "next_due_ms", TICK_MS);

	/* Not at once, even for what is due: work that the database can't do yet must not make it spin. */
	p->tick_ms = now_ms() + (due < 1 ? 1 : due < TICK_MS ? due : TICK_MS);
	metrics_record_stats(p->c->w->metrics, stats);
	log_stats(stats);
	if (stop != NULL)
	{
		health_bad(p->c->w, HEALTH_CONSUME, stop, NULL);
		processor_hold(p);
		return false;
	}
	p->due = db_int(res, 0, "due", 0);
	if (!p->searching)
		note_limit(p, split);
	if (db_bool(res, 0, "reload"))
	{
		note_reload(p);
		return false;
	}
	for (int row = 0; row < PQntuples(res); row++)
	{
		Taken *taken = taken_of_row(p, res, row);

		if (taken != NULL)
			answer_partition(p, taken, res, row);
	}
	for (int i = 0; i < p->n_taken && split <= 0 && !p->searching; i++)
		consume_unhold(p->c, p->taken[i].part);
	return split <= 0;
}

/* The call raised an error: nothing of it has happened. */
static void
call_failed(Processor *p)
{
	const DbError *error = db_error(p->db);
	bool first;

	p->tick_ms = now_ms() + TICK_MS;
	if (strcmp(error->sqlstate, "SN002") == 0 || strcmp(error->sqlstate, "SN003") == 0)
	{
		worker_fail(p->c->w, error->message, error->detail, error->hint);
		return;
	}
	for (int i = 0; i < p->n_taken; i++)
		partition_note_break(p->taken[i].part, db_error_crash(error) && !worker_stopping(p->c->w));
	first = processor_hold(p);
	if (error->lost || worker_stopping(p->c->w))
		return;
	health_bad(p->c->w, HEALTH_CONSUME, error->message, error->hint);
	LOG_AT(first ? LEVEL_ERROR : LEVEL_DEBUG, "a call of the database failed; its partitions are tried one by one",
		   F_TEXT("sqlstate", error->sqlstate), F_TEXT("error", error->message),
		   F_TEXT("detail", error->detail[0] ? error->detail : NULL), F_INT("partitions", p->n_taken));
}

bool
processor_call(Processor *p, int n_records)
{
	Worker *w = p->c->w;
	bool done = false;
	PGresult *res;
	DbParam params[3] = {DB_TEXT(w->config.worker_type), DB_TEXT(p->c->group_id)};

	if (!pack(p))
	{
		/* Nothing that fits into librdkafka's limits comes here; one by one at least the others go on. */
		log_error("a batch is larger than the format allows", F_INT("records", n_records));
		p->limit = p->limit > 1 ? p->limit / 2 : 1;
		processor_hold(p);
		return false;
	}
	params[2] = DB_BYTES(p->batch.data, (int) p->batch.length);
	metrics_in_processing(w->metrics, n_records);
	res = db_call(p->db, &statement_consume, params);
	metrics_in_processing(w->metrics, -n_records);
	if (res != NULL)
		done = answer(p, res);
	else
		call_failed(p);
	PQclear(res);
	return done;
}

/* ---- a round ---- */

/* How far the group is behind, as far as the last fetch has told. */
static void
note_lag(Processor *p, const Partition *part)
{
	int64_t low;
	int64_t high;

	if (rd_kafka_get_watermark_offsets(p->c->rk, part->topic, part->number, &low, &high) !=
			RD_KAFKA_RESP_ERR_NO_ERROR ||
		high < 0)
		return;
	metrics_set_lag(p->c->w->metrics, part->topic, part->number,
					high > part->next_offset ? high - part->next_offset : 0);
}

/* So that lag tools see the truth. A commit is one message to the broker, not one for each call. */
static void
tell_broker(Processor *p)
{
	Partition *parts[p->n_taken + 1];
	int64_t now = now_ms();

	if (now - p->committed_ms < COMMIT_EVERY_MS)
		return;
	p->committed_ms = now;
	for (int i = 0; i < p->n_taken; i++)
	{
		parts[i] = p->taken[i].part;
		note_lag(p, parts[i]);
	}
	poller_commit(p->c, parts, p->n_taken);
}

/* True: there is more to do at once. */
static bool
round_once(Processor *p)
{
	bool more;
	int n;

	take(p);
	more = fill(p);
	for (int i = 0; i < p->n_taken; i++)
		if (p->taken[i].gap)
			detach(p, p->taken[i].part, "the broker doesn't have the position", 0);
	n = share_out(p);
	if (suspect_wanted(p))
	{
		suspect_search(p);
		tell_broker(p);
	}
	else if (p->n_taken > 0 && (n > 0 || now_ms() >= p->tick_ms))
	{
		processor_call(p, n);
		tell_broker(p);
		more |= n > 0 || p->tick_ms <= now_ms();
	}
	p->idle = p->n_taken == 0;
	release(p);
	return more;
}

/* The list of handlers has changed. True: the new one is here. */
static bool
reload_type(Processor *p)
{
	Worker *w = p->c->w;
	char error[CONFIG_ERROR_MAX];
	int result = worker_type_fetch(w, p->db, error, sizeof(error));

	if (result < 0)
		worker_fail(w, error, NULL, NULL);
	if (result != 0)
		return false;
	worker_type_release(p->type);
	p->type = worker_type_get(w);
	if (strcmp(p->type->topic, p->c->topic) != 0 || strcmp(p->type->group_id, p->c->group_id) != 0)
		worker_fail(w, "topic or group of the worker type has changed", NULL, "start the process again");
	log_info("handlers", F_INT("version", p->type->handler_version), F_INT("event_types", p->type->n_event_types));
	p->reload = false;
	return true;
}

/* Until there are records, a partition's hold ends or a call is due. */
static void
rest(Processor *p)
{
	Consume *c = p->c;
	int64_t now = now_ms();
	int64_t until = p->idle ? now + TICK_MS : p->tick_ms;
	uint64_t count;

	pthread_mutex_lock(&c->lock);
	for (int i = 0; i < c->n_parts; i++)
		if (mine(p, c->parts[i]) && c->parts[i]->alone && c->parts[i]->hold_until_ms < until)
			until = c->parts[i]->hold_until_ms;
	pthread_mutex_unlock(&c->lock);
	now = now_ms();
	if (worker_wait(c->w, p->wake_fd, until > now ? until - now : 0) && read(p->wake_fd, &count, sizeof(count)) < 0)
		return;
}

void *
processor_main(void *arg)
{
	Processor *p = arg;
	Worker *w = p->c->w;

	while (!worker_stopping(w) && db_connect(p->db))
	{
		if (p->reload && !reload_type(p))
			worker_wait(w, -1, with_jitter(TICK_MS));
		else if (!round_once(p))
			rest(p);
	}
	return NULL;
}
