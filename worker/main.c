/*
 * main.c
 *	  The boot order of sentinai-worker, the heartbeat, and the order of the end.
 */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "check.h"
#include "config.h"
#include "consume.h"
#include "db.h"
#include "guard.h"
#include "http.h"
#include "log.h"
#include "publish.h"
#include "verify.h"
#include "worker.h"

#define HEARTBEAT_MS 5000
/* Where the worker type's row names no port. */
#define HTTP_PORT_OTHER 9000

extern char **environ;

static Worker worker;

static const DbStatement statement_heartbeat = {
	"worker_heartbeat", "SELECT sentinai.worker_heartbeat($1, $2, $3, $4, $5, $6, $7, $8, $9)", 9};

/* ---- what only prints ---- */

/* True: that was all. */
static bool
print_and_end(const Config *config)
{
	switch (config->action)
	{
		case ACTION_HELP:
			config_help(stdout);
			return true;
		case ACTION_HELP_MARKDOWN:
			config_help_markdown(stdout);
			return true;
		case ACTION_VERSION:
			printf("sentinai-worker %s (librdkafka %s, libpq %d)\n", SENTINAI_VERSION, rd_kafka_version_str(),
				   PQlibVersion());
			return true;
		case ACTION_RUN:
		case ACTION_CHECK:
			break;
	}
	return false;
}

/* ---- boot ---- */

static void
start_http(Worker *w, int port)
{
	if (w->http == NULL && port != 0)
		w->http = http_start(w, port);
}

/* Until the database has told what this process is; it may be down, or the extension not yet there. */
static bool
learn_type(Worker *w, Db *db)
{
	char error[CONFIG_ERROR_MAX];

	while (db_connect(db))
	{
		int result = worker_type_fetch(w, db, error, sizeof(error));

		if (result == 0)
			return true;
		if (result < 0)
		{
			worker_fail(w, error, NULL, NULL);
			return false;
		}
		worker_wait(w, -1, with_jitter(2000));
	}
	return false;
}

/* The runbook's line, word for word: people and scripts look for it. */
static void
log_initialized(Worker *w, const WorkerType *type)
{
	char text[1024];
	char shown[300];

	snprintf(text, sizeof(text), "Initialized %s worker: topics=['%s'], group_id=%s, concurrency=%d",
			 type->display_name, type->topic, type->group_id, w->config.concurrency);
	log_info(text, F_TEXT("instance_id", w->instance_id), F_TEXT("version", SENTINAI_VERSION),
			 F_TEXT("database", config_database_shown(&w->config, shown, sizeof(shown))),
			 F_TEXT("kafka", w->config.kafka_bootstrap_servers), F_INT("http_port", atomic_load(&w->http_port)));
}

/* Nothing is in flight yet, and threads that did start know nothing of each other's absence: no orderly end. */
static void
start_pumps(Worker *w)
{
	char error[CONFIG_ERROR_MAX];

	if (!consume_start(w, error, sizeof(error)))
	{
		log_error("could not start consuming", F_TEXT("reason", error));
		exit(1);
	}
	if (w->config.publish && !publish_start(w))
	{
		log_error("could not start publishing");
		exit(1);
	}
}

/* They may be another program's: they are not refused. */
static void
warn_of_misspelt_variables(void)
{
	for (char **entry = environ; *entry != NULL; entry++)
	{
		const char *nearly = config_nearly(*entry);
		char name[64];

		if (nearly == NULL)
			continue;
		snprintf(name, sizeof(name), "%.*s", (int) strcspn(*entry, "="), *entry);
		log_warning("a variable is not a setting, and nearly one", F_TEXT("variable", name), F_TEXT("setting", nearly));
	}
}

static bool
boot(Worker *w, Db *db)
{
	WorkerType *type;

	start_http(w, w->config.http_port);
	if (!learn_type(w, db))
		return false;
	type = worker_type_get(w);
	metrics_set_group(w->metrics, type->group_id);
	start_http(w, type->http_port != 0 ? type->http_port : HTTP_PORT_OTHER);
	log_initialized(w, type);
	worker_type_release(type);
	start_pumps(w);
	return true;
}

/* ---- heartbeat ---- */

static void
heartbeat(Worker *w, Db *db)
{
	char reason[400];
	const char *status = worker_status(w, reason, sizeof(reason));
	char *details = consume_details(w);
	DbParam params[] = {DB_TEXT(w->config.worker_type),
						DB_TEXT(w->instance_id),
						DB_TEXT(w->host),
						DB_INT(w->pid),
						DB_INT(atomic_load(&w->http_port)),
						DB_TEXT(SENTINAI_VERSION),
						DB_TEXT(status),
						DB_TEXT(reason[0] != '\0' ? reason : NULL),
						DB_TEXT(details)};
	PGresult *res = NULL;

	if (db_try_connect(db))
	{
		res = db_call(db, &statement_heartbeat, params);
		if (res == NULL && !db_error(db)->lost)
			log_warning("heartbeat failed", F_TEXT("sqlstate", db_error(db)->sqlstate),
						F_TEXT("error", db_error(db)->message));
	}
	PQclear(res);
	free(details);
}

/* Until the process is to stop, or can't go on. */
static void
run(Worker *w, Db *db)
{
	struct pollfd fds[2] = {{w->stop_fd, POLLIN, 0}, {w->fail_fd, POLLIN, 0}};

	do
		heartbeat(w, db);
	while (poll(fds, 2, HEARTBEAT_MS) == 0);
	worker_set_phase(w, PHASE_STOPPING);
	heartbeat(w, db);
}

/* ---- end ---- */

/* The consumer first, so that the group goes on without us; what its last calls emitted is still published. */
static int
end(Worker *w, Db *db)
{
	int status = atomic_load(&w->failed) ? 1 : 0;
	bool all;

	worker_set_phase(w, PHASE_STOPPING);
	all = consume_stop(w);
	if (w->publish != NULL)
		publish_stop(w);
	if (w->http != NULL)
		http_stop(w->http);
	db_free(db);
	guard_stop(w);
	log_info("ended", F_INT("status", status));
	if (!all)
		_exit(status);
	metrics_free(w->metrics);
	worker_destroy(w);
	return status;
}

int
main(int argc, char **argv)
{
	Worker *w = &worker;
	char error[CONFIG_ERROR_MAX];
	Db *db;

	if (argc > 1 && strcmp(argv[1], "verify") == 0)
		return verify_run(argc - 2, argv + 2, stdout, stderr);
	if (!config_read(&w->config, argc, argv, environ, error))
	{
		fprintf(stderr, "sentinai-worker: %s\n", error);
		return 1;
	}
	if (print_and_end(&w->config))
		return 0;
	log_open(w->config.worker_type, w->config.log_format == LOG_JSON,
			 w->config.action == ACTION_CHECK ? (LogLevel) (LEVEL_ERROR + 1) : (LogLevel) w->config.log_level);
	warn_of_misspelt_variables();
	guard_block_signals();
	if (!worker_init(w))
	{
		fprintf(stderr, "sentinai-worker: out of memory or descriptors\n");
		return 1;
	}
	if (w->config.action == ACTION_CHECK)
		return check_run(w);
	w->metrics = metrics_new(w->config.worker_type, w->config.group_id != NULL ? w->config.group_id : "",
							 w->config.metrics_include_tenant_id);
	db = db_new(w, "main");
	if (db == NULL || !guard_start(w))
	{
		fprintf(stderr, "sentinai-worker: out of memory, descriptors or threads\n");
		return 1;
	}
	if (boot(w, db))
		run(w, db);
	return end(w, db);
}
