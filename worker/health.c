/*
 * health.c
 *	  /health, /healthz and /readyz, read from the Worker; see health.h.
 */
#include "health.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cjson/cJSON.h>

/* Without these there is nothing that the process could do. The other subjects only make it degraded. */
static const bool bars_ready[HEALTH_SUBJECTS] = {
	[HEALTH_DATABASE] = true,
	[HEALTH_BROKER] = true,
	[HEALTH_TOPIC] = true,
};

static cJSON *
begin_body(const Worker *w, const char *status)
{
	cJSON *body = cJSON_CreateObject();

	cJSON_AddStringToObject(body, "status", status);
	cJSON_AddStringToObject(body, "worker_type", w->config.worker_type);
	cJSON_AddStringToObject(body, "instance_id", w->instance_id);
	return body;
}

static char *
end_body(cJSON *body)
{
	char *text = cJSON_PrintUnformatted(body);

	cJSON_Delete(body);
	return text;
}

/* since: now_ms() of the past, shown by the wall clock. */
static void
add_since(cJSON *object, int64_t since)
{
	time_t when = time(NULL) - (time_t) ((now_ms() - since) / 1000);
	struct tm broken_down;
	char text[sizeof("2025-01-15T10:00:00Z")];

	gmtime_r(&when, &broken_down);
	strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &broken_down);
	cJSON_AddStringToObject(object, "since", text);
}

static void
add_subject(cJSON *parent, Worker *w, HealthSubject subject)
{
	Health health = health_get(w, subject);
	cJSON *check = cJSON_AddObjectToObject(parent, health_name(subject));

	cJSON_AddStringToObject(check, "status", health.bad ? "failing" : "ok");
	if (health.since_ms != 0)
		add_since(check, health.since_ms);
	if (health.bad)
		cJSON_AddStringToObject(check, "error", health.reason);
}

int
health_summary(Worker *w, char **body)
{
	char reason[400];
	cJSON *json = begin_body(w, worker_status(w, reason, sizeof(reason)));
	cJSON *part;

	if (reason[0] != '\0')
		cJSON_AddStringToObject(json, "error", reason);
	cJSON_AddStringToObject(json, "version", SENTINAI_VERSION);
	cJSON_AddNumberToObject(json, "uptime_seconds", (double) ((now_ms() - w->started_ms) / 1000));
	part = cJSON_AddObjectToObject(json, "partitions");
	cJSON_AddNumberToObject(part, "assigned", atomic_load(&w->partitions_assigned));
	cJSON_AddNumberToObject(part, "active", atomic_load(&w->partitions_active));
	part = cJSON_AddObjectToObject(json, "checks");
	for (int i = 0; i < HEALTH_SUBJECTS; i++)
		add_subject(part, w, i);
	*body = end_body(json);
	return 200;
}

int
health_healthz(Worker *w, int64_t now, char **body)
{
	int64_t still_ms = now - atomic_load(&w->poll_turned_ms);
	bool alive = still_ms <= HEALTH_TURN_MS;
	cJSON *json = begin_body(w, alive ? "ok" : "stuck");

	cJSON_AddNumberToObject(json, "seconds_since_poll", (double) (still_ms > 0 ? still_ms / 1000 : 0));
	*body = end_body(json);
	return alive ? 200 : 503;
}

/* What has to happen once before the process is ready; NULL: it has. */
static const char *
not_yet(Worker *w)
{
	WorkerType *type = worker_type_get(w);

	worker_type_release(type);
	if (type == NULL)
		return "the database has not answered yet";
	if (!atomic_load(&w->broker_up))
		return "no broker has answered yet";
	if (!atomic_load(&w->assigned))
		return "the group has not assigned partitions yet";
	return NULL;
}

int
health_readyz(Worker *w, char **body)
{
	const char *waiting = worker_stopping(w) ? "stopping" : not_yet(w);
	cJSON *missing = cJSON_CreateObject();
	bool ready;
	cJSON *json;

	for (int i = 0; i < HEALTH_SUBJECTS; i++)
		if (bars_ready[i] && health_get(w, i).bad)
			add_subject(missing, w, i);
	ready = waiting == NULL && cJSON_GetArraySize(missing) == 0;
	json = begin_body(w, ready ? "ready" : "not ready");
	if (waiting != NULL)
		cJSON_AddStringToObject(json, "waiting", waiting);
	cJSON_AddItemToObject(json, "missing", missing);
	*body = end_body(json);
	return ready ? 200 : 503;
}

void
health_export(Worker *w)
{
	metrics_set_connection(w->metrics, "database", !health_get(w, HEALTH_DATABASE).bad);
	metrics_set_connection(w->metrics, "broker", atomic_load(&w->broker_up) && !health_get(w, HEALTH_BROKER).bad);
}
