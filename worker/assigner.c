/*
 * assigner.c
 *	  The thread that asks the database where to read a partition, so that polling never waits for it. It also knows when
 *	  the brokers are back. See consume_internal.h.
 */
#include "consume_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kafka.h"
#include "log.h"

#define BROKER_TIMEOUT_MS 5000
#define GAP_RETRY_MS 10000
#define ASK_BACKOFF_MIN_MS 500
#define ASK_BACKOFF_MAX_MS 10000

/* What a partition was when it was taken; found again by its serial. */
typedef struct Ask
{
	int64_t serial;
	char topic[256];
	int32_t number;
	bool report_gap;
	int64_t gap_offset;
} Ask;

/* What the broker knows of it. */
typedef struct BrokerView
{
	int32_t partition_count;
	char *cluster_id;
	int64_t log_start;
	int64_t log_end;
	int64_t committed;
} BrokerView;

static const DbStatement statement_assign = {
	"assign", "SELECT epoch, next_offset, stop FROM sentinai.assign($1, $2, $3, $4, $5, $6, $7, $8, $9)", 9};

static const DbStatement statement_gap = {"offset_gap_report",
										  "SELECT sentinai.offset_gap_report($1, $2, $3, $4, $5, $6, $7)", 7};

/* ---- the broker ---- */

static bool
ask_partition_count(Consume *c, const char *topic, int32_t *count)
{
	const struct rd_kafka_metadata *metadata;
	rd_kafka_topic_t *rkt = rd_kafka_topic_new(c->rk, topic, NULL);
	rd_kafka_resp_err_t error;

	if (rkt == NULL)
		return false;
	error = rd_kafka_metadata(c->rk, 0, rkt, &metadata, BROKER_TIMEOUT_MS);
	rd_kafka_topic_destroy(rkt);
	if (error != RD_KAFKA_RESP_ERR_NO_ERROR)
		return false;
	*count = metadata->topic_cnt == 1 ? metadata->topics[0].partition_cnt : 0;
	rd_kafka_metadata_destroy(metadata);
	return *count > 0;
}

static bool
ask_committed(Consume *c, const Ask *ask, int64_t *committed)
{
	rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
	bool good;

	rd_kafka_topic_partition_list_add(list, ask->topic, ask->number);
	good = rd_kafka_committed(c->rk, list, BROKER_TIMEOUT_MS) == RD_KAFKA_RESP_ERR_NO_ERROR &&
		   list->elems[0].err == RD_KAFKA_RESP_ERR_NO_ERROR;
	*committed = good ? list->elems[0].offset : -1;
	rd_kafka_topic_partition_list_destroy(list);
	return good;
}

/* All of it or nothing: a first start that doesn't know the broker's commit would begin in the wrong place. */
static bool
ask_broker(Consume *c, const Ask *ask, BrokerView *view)
{
	*view = (BrokerView){0};
	if (!ask_partition_count(c, ask->topic, &view->partition_count) ||
		rd_kafka_query_watermark_offsets(c->rk, ask->topic, ask->number, &view->log_start, &view->log_end,
										 BROKER_TIMEOUT_MS) != RD_KAFKA_RESP_ERR_NO_ERROR ||
		!ask_committed(c, ask, &view->committed))
		return false;
	view->cluster_id = rd_kafka_clusterid(c->rk, BROKER_TIMEOUT_MS);
	kafka_note_alive(c->w);
	return view->cluster_id != NULL;
}

/* No call but this one would notice that an idle consumer's broker is back. */
static void
look_for_broker(Consume *c)
{
	const struct rd_kafka_metadata *metadata;

	if (atomic_load(&c->w->broker_up) || worker_stopping(c->w))
		return;
	if (rd_kafka_metadata(c->rk, 0, NULL, &metadata, 1000) == RD_KAFKA_RESP_ERR_NO_ERROR)
	{
		rd_kafka_metadata_destroy(metadata);
		kafka_note_alive(c->w);
	}
}

/* ---- the database ---- */

static bool
report_gap(Consume *c, Db *db, const Ask *ask, const BrokerView *view)
{
	const char *reason = ask->gap_offset < view->log_start ? "position_too_old"
						 : ask->gap_offset > view->log_end ? "topic_recreated"
														   : "position_invalid";
	DbParam params[] = {DB_TEXT(c->group_id),	 DB_TEXT(ask->topic),	DB_INT(ask->number), DB_INT(ask->gap_offset),
						DB_INT(view->log_start), DB_INT(view->log_end), DB_TEXT(reason)};
	PGresult *res = db_call(db, &statement_gap, params);

	PQclear(res);
	return res != NULL;
}

static PGresult *
call_assign(Consume *c, Db *db, const Ask *ask, const BrokerView *view)
{
	DbParam params[] = {DB_TEXT(c->w->config.worker_type),
						DB_TEXT(c->group_id),
						DB_TEXT(ask->topic),
						DB_INT(ask->number),
						DB_INT(view->partition_count),
						DB_TEXT(view->cluster_id),
						DB_INT(view->log_start),
						DB_INT(view->log_end),
						DB_INT(view->committed)};

	return db_call(db, &statement_assign, params);
}

/* ---- the partitions ---- */

/* The next one that is due, oldest first; false: none. Caller holds lock. */
static bool
take_next(Consume *c, Ask *ask)
{
	int64_t now = now_ms();
	Partition *best = NULL;

	for (int i = 0; i < c->n_parts; i++)
	{
		Partition *part = c->parts[i];

		if (part->state == PARTITION_GAPPED && part->ask_at_ms <= now)
			partition_set_state(part, PARTITION_ASSIGNING, "is the gap mended?");
		if (part->state == PARTITION_ASSIGNING && part->ask_at_ms <= now &&
			(best == NULL || part->ask_at_ms < best->ask_at_ms))
			best = part;
	}
	if (best == NULL)
		return false;
	*ask = (Ask){
		.serial = best->serial, .number = best->number, .report_gap = best->report_gap, .gap_offset = best->gap_offset};
	snprintf(ask->topic, sizeof(ask->topic), "%s", best->topic);
	return true;
}

/* NULL: it was taken away meanwhile. Caller holds lock. */
static Partition *
find(Consume *c, const Ask *ask)
{
	for (int i = 0; i < c->n_parts; i++)
		if (c->parts[i]->serial == ask->serial && c->parts[i]->state == PARTITION_ASSIGNING)
			return c->parts[i];
	return NULL;
}

static void
ask_later(Consume *c, const Ask *ask, const char *why, const char *hint)
{
	Partition *part;
	bool first = false;

	pthread_mutex_lock(&c->lock);
	part = find(c, ask);
	if (part != NULL)
	{
		first = part->ask_backoff_ms == 0;
		part->ask_backoff_ms = first ? ASK_BACKOFF_MIN_MS : part->ask_backoff_ms * 2;
		if (part->ask_backoff_ms > ASK_BACKOFF_MAX_MS)
			part->ask_backoff_ms = ASK_BACKOFF_MAX_MS;
		part->ask_at_ms = now_ms() + with_jitter(part->ask_backoff_ms);
	}
	pthread_mutex_unlock(&c->lock);
	if (why != NULL && first)
		log_warning("could not learn where to read a partition; trying again", F_TEXT("topic", ask->topic),
					F_INT("partition", ask->number), F_TEXT("reason", why),
					F_TEXT("hint", hint != NULL && *hint != '\0' ? hint : NULL));
}

static void
answered(Consume *c, const Ask *ask, const PGresult *res)
{
	const char *stop = db_text(res, 0, "stop");
	Partition *part;

	pthread_mutex_lock(&c->lock);
	part = find(c, ask);
	if (part != NULL)
	{
		part->epoch = db_int(res, 0, "epoch", 0);
		part->start_offset = db_int(res, 0, "next_offset", 0);
		part->ask_backoff_ms = 0;
		part->report_gap = false;
		part->located_at_ms = now_ms();
		part->ask_at_ms = stop == NULL ? 0 : now_ms() + GAP_RETRY_MS;
		partition_set_state(part, stop == NULL ? PARTITION_LOCATED : PARTITION_GAPPED,
							stop == NULL ? "the database has answered" : stop);
		if (stop != NULL)
			health_bad(c->w, HEALTH_OFFSETS, stop, NULL);
		consume_count(c);
	}
	pthread_mutex_unlock(&c->lock);
}

/* Somebody may have moved the broker's commit and now wonders. Behind us it may also be what a killed process left. */
static void
note_commit(const Ask *ask, const BrokerView *view, const PGresult *res)
{
	int64_t next_offset = db_int(res, 0, "next_offset", -1);

	if (view->committed >= 0 && view->committed != next_offset)
		log_info("the group's commit at the broker is not the position; the database's position counts",
				 F_TEXT("topic", ask->topic), F_INT("partition", ask->number), F_INT("committed", view->committed),
				 F_INT("position", next_offset),
				 F_TEXT("hint", "SELECT * FROM sentinai.offset_reset(...) moves the position"));
}

static void
locate(Consume *c, Db *db, const Ask *ask)
{
	BrokerView view;
	PGresult *res = NULL;

	if (!ask_broker(c, ask, &view))
		ask_later(c, ask, atomic_load(&c->w->broker_up) ? "the broker did not answer" : NULL, NULL);
	else if (db_connect(db))
	{
		if (!ask->report_gap || report_gap(c, db, ask, &view))
			res = call_assign(c, db, ask, &view);
		if (res != NULL)
		{
			note_commit(ask, &view, res);
			answered(c, ask, res);
		}
		else
			ask_later(c, ask, db_error(db)->lost ? NULL : db_error(db)->message, db_error(db)->hint);
		PQclear(res);
	}
	if (view.cluster_id != NULL)
		rd_kafka_mem_free(c->rk, view.cluster_id);
}

void *
assigner_main(void *arg)
{
	Consume *c = arg;
	Db *db = db_new(c->w, "assign");

	if (db == NULL)
	{
		worker_fail(c->w, "out of memory", NULL, NULL);
		return NULL;
	}
	while (!worker_stopping(c->w))
	{
		Ask ask;
		bool found;

		pthread_mutex_lock(&c->lock);
		found = take_next(c, &ask);
		if (!found)
			consume_wait(c, now_ms() + 500);
		pthread_mutex_unlock(&c->lock);
		if (found)
			locate(c, db, &ask);
		else
			look_for_broker(c);
	}
	db_free(db);
	return NULL;
}
