/*
 * check.c
 *	  sentinai-worker --check. See check.h. Reads only; takes no partition and joins no group.
 */
#include "check.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "db.h"
#include "kafka.h"

#define TIMEOUT_MS 5000

static bool
line(bool good, const char *what, const char *format, ...)
{
	va_list arguments;

	printf("%-7s %-11s ", good ? "ok" : "MISSING", what);
	va_start(arguments, format);
	vprintf(format, arguments);
	va_end(arguments);
	putchar('\n');
	return good;
}

static bool
hint_line(const DbError *error)
{
	if (error->hint[0] != '\0')
		printf("        hint        %s\n", error->hint);
	return false;
}

static bool
error_line(const char *what, const DbError *error)
{
	line(false, what, "%s%s%s", error->message, error->detail[0] != '\0' ? ". " : "", error->detail);
	return hint_line(error);
}

/* ---- the database ---- */

static bool
check_server(Worker *w, Db *db)
{
	char shown[300];

	config_database_shown(&w->config, shown, sizeof(shown));
	if (!db_try_connect(db))
	{
		line(false, "database", "%s: %s", shown, db_error(db)->message);
		return hint_line(db_error(db));
	}
	return line(true, "database", "%s, PostgreSQL %s", shown, PQparameterStatus(db_raw(db), "server_version"));
}

static bool
check_extension(Db *db)
{
	PGresult *res =
		db_query(db, "SELECT e.extversion FROM pg_catalog.pg_extension e WHERE e.extname = 'sentinai'", 0, NULL);
	const char *version;
	bool good = false;

	if (res == NULL)
		return error_line("extension", db_error(db));
	version = PQntuples(res) == 1 ? db_text(res, 0, "extversion") : NULL;
	if (version == NULL)
		line(false, "extension", "sentinai is not in this database: CREATE EXTENSION sentinai");
	else if (strcmp(version, SENTINAI_VERSION) != 0)
	{
		line(false, "extension", "sentinai %s, and this worker is %s", version, SENTINAI_VERSION);
		printf("        hint        ALTER EXTENSION sentinai UPDATE, or the worker of that version.\n");
	}
	else
		good = line(true, "extension", "sentinai %s", version);
	PQclear(res);
	return good;
}

static bool
check_type(Worker *w, Db *db)
{
	char error[CONFIG_ERROR_MAX];
	WorkerType *type;
	int result = worker_type_fetch(w, db, error, sizeof(error));

	if (result < 0)
		return line(false, "worker type", "%s", error);
	if (result > 0)
		return error_line("worker type", db_error(db));
	type = worker_type_get(w);
	line(true, "worker type", "%s (%s): topic %s, group %s, %s, %d event types with a handler", w->config.worker_type,
		 type->display_name, type->topic, type->group_id,
		 type->owns_topic ? "owns the topic" : "does not own the topic", type->n_event_types);
	worker_type_release(type);
	return true;
}

/* ---- the broker ---- */

static const rd_kafka_metadata_topic_t *
topic_of(const struct rd_kafka_metadata *metadata, const char *name)
{
	for (int i = 0; i < metadata->topic_cnt; i++)
		if (strcmp(metadata->topics[i].topic, name) == 0)
			return &metadata->topics[i];
	return NULL;
}

static bool
check_topic(rd_kafka_t *rk, const struct rd_kafka_metadata *metadata, const char *name)
{
	const rd_kafka_metadata_topic_t *topic = topic_of(metadata, name);
	int64_t records = 0;

	if (topic == NULL || topic->err != RD_KAFKA_RESP_ERR_NO_ERROR)
		return line(false, "topic", "%s: %s", name,
					topic == NULL ? "is not there: create it" : rd_kafka_err2str(topic->err));
	for (int i = 0; i < topic->partition_cnt; i++)
	{
		int64_t low = 0;
		int64_t high = 0;

		if (rd_kafka_query_watermark_offsets(rk, name, topic->partitions[i].id, &low, &high, TIMEOUT_MS) !=
			RD_KAFKA_RESP_ERR_NO_ERROR)
			return line(false, "topic", "%s: partition %d has no leader that answers", name, topic->partitions[i].id);
		records += high - low;
	}
	return line(true, "topic", "%s: %d partitions, %lld records", name, topic->partition_cnt, (long long) records);
}

static bool
check_group(rd_kafka_t *rk, const char *name)
{
	const struct rd_kafka_group_list *groups;
	rd_kafka_resp_err_t error = rd_kafka_list_groups(rk, name, &groups, TIMEOUT_MS);

	if (error != RD_KAFKA_RESP_ERR_NO_ERROR)
		return line(false, "group", "%s: %s", name, rd_kafka_err2str(error));
	if (groups->group_cnt == 0)
		line(true, "group", "%s: nobody has joined it yet", name);
	else
		line(true, "group", "%s: %s, %d members", name, groups->groups[0].state, groups->groups[0].member_cnt);
	rd_kafka_group_list_destroy(groups);
	return true;
}

static bool
check_broker(Worker *w, rd_kafka_t *rk, WorkerType *type)
{
	const struct rd_kafka_metadata *metadata;
	rd_kafka_resp_err_t error = rd_kafka_metadata(rk, 1, NULL, &metadata, TIMEOUT_MS);
	bool good;

	if (error != RD_KAFKA_RESP_ERR_NO_ERROR)
		return line(false, "kafka", "%s: %s", w->config.kafka_bootstrap_servers, rd_kafka_err2str(error));
	good = line(true, "kafka", "%s: %d brokers", w->config.kafka_bootstrap_servers, metadata->broker_cnt);
	if (type != NULL)
		good = check_topic(rk, metadata, type->topic) & check_group(rk, type->group_id);
	rd_kafka_metadata_destroy(metadata);
	return good;
}

static bool
check_kafka(Worker *w)
{
	char error[CONFIG_ERROR_MAX];
	rd_kafka_conf_t *conf = kafka_conf(w, error, sizeof(error));
	rd_kafka_t *rk = conf == NULL ? NULL : rd_kafka_new(RD_KAFKA_CONSUMER, conf, error, sizeof(error));
	WorkerType *type = worker_type_get(w);
	bool good;

	if (rk == NULL)
	{
		worker_type_release(type);
		return line(false, "kafka", "%s", error);
	}
	good = check_broker(w, rk, type);
	worker_type_release(type);
	rd_kafka_destroy(rk);
	return good;
}

int
check_run(Worker *w)
{
	Db *db = db_new(w, "check");
	bool good = db != NULL && check_server(w, db) && check_extension(db) && check_type(w, db);

	db_free(db);
	good &= check_kafka(w);
	return good ? 0 : 1;
}
