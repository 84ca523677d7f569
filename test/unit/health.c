/*
 * health.c
 *	  The state of the process becomes /health, /healthz and /readyz.
 */
#include <stdarg.h>
#include <setjmp.h>
#include <stdint.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include <cjson/cJSON.h>

#include "health.h"
#include "log.h"

static char worker_type[] = "intake";
static WorkerType type;

/* A worker that runs and has all it needs, but for what the test takes away. */
static void
make_well(Worker *w)
{
	memset(w, 0, sizeof(*w));
	w->config.worker_type = worker_type;
	assert_true(worker_init(w));
	atomic_store(&type.references, 1000);
	w->type = &type;
	atomic_store(&w->broker_up, true);
	atomic_store(&w->assigned, true);
}

static void
unmake(Worker *w)
{
	w->type = NULL;
	w->config.worker_type = NULL;
	worker_destroy(w);
}

static cJSON *
parsed(char *body)
{
	cJSON *json = cJSON_Parse(body);

	assert_true(cJSON_IsObject(json));
	assert_string_equal(cJSON_GetStringValue(cJSON_GetObjectItem(json, "worker_type")), "intake");
	free(body);
	return json;
}

static void
check_status(cJSON *json, const char *status)
{
	assert_string_equal(cJSON_GetStringValue(cJSON_GetObjectItem(json, "status")), status);
}

static void
check_summary(Worker *w, const char *status)
{
	char *body;
	cJSON *json;

	assert_int_equal(health_summary(w, &body), 200);
	json = parsed(body);
	check_status(json, status);
	assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItem(json, "checks")), HEALTH_SUBJECTS);
	cJSON_Delete(json);
}

static void
check_ready(Worker *w, const char *waiting, const char *missing)
{
	char *body;
	cJSON *json;
	cJSON *item;
	bool ready = waiting == NULL && missing == NULL;

	assert_int_equal(health_readyz(w, &body), ready ? 200 : 503);
	json = parsed(body);
	check_status(json, ready ? "ready" : "not ready");
	item = cJSON_GetObjectItem(json, "waiting");
	if (waiting == NULL)
		assert_null(item);
	else
		assert_string_equal(cJSON_GetStringValue(item), waiting);
	item = cJSON_GetObjectItem(json, "missing");
	assert_int_equal(cJSON_GetArraySize(item), missing == NULL ? 0 : 1);
	if (missing != NULL)
		assert_string_equal(item->child->string, missing);
	cJSON_Delete(json);
}

static void
test_start(void **state)
{
	Worker w;

	(void) state;
	make_well(&w);
	w.type = NULL;
	atomic_store(&w.broker_up, false);
	atomic_store(&w.assigned, false);
	check_summary(&w, "starting");
	check_ready(&w, "the database has not answered yet", NULL);
	w.type = &type;
	check_ready(&w, "no broker has answered yet", NULL);
	atomic_store(&w.broker_up, true);
	check_ready(&w, "the group has not assigned partitions yet", NULL);
	atomic_store(&w.assigned, true);
	check_ready(&w, NULL, NULL);
	check_summary(&w, "healthy");
	unmake(&w);
}

/* Every subject alone, good -> bad -> good: what it makes of each answer. */
static void
test_each_subject(void **state)
{
	static const bool bars[HEALTH_SUBJECTS] = {[HEALTH_DATABASE] = true, [HEALTH_BROKER] = true, [HEALTH_TOPIC] = true};

	(void) state;
	for (int i = 0; i < HEALTH_SUBJECTS; i++)
	{
		Worker w;

		make_well(&w);
		health_bad(&w, i, "cable \"cut\"", NULL);
		check_summary(&w, "degraded");
		check_ready(&w, NULL, bars[i] ? health_name(i) : NULL);
		health_good(&w, i);
		check_summary(&w, "healthy");
		check_ready(&w, NULL, NULL);
		unmake(&w);
	}
}

static void
test_reason(void **state)
{
	Worker w;
	char *body;
	cJSON *json;
	cJSON *check;

	(void) state;
	make_well(&w);
	health_bad(&w, HEALTH_DATABASE, "cable \"cut\"", NULL);
	health_summary(&w, &body);
	json = parsed(body);
	check = cJSON_GetObjectItem(cJSON_GetObjectItem(json, "checks"), "database");
	check_status(check, "failing");
	assert_string_equal(cJSON_GetStringValue(cJSON_GetObjectItem(check, "error")), "cable \"cut\"");
	assert_non_null(cJSON_GetObjectItem(check, "since"));
	cJSON_Delete(json);
	unmake(&w);
}

static void
check_alive(Worker *w, int64_t now, int code, const char *status)
{
	char *body;
	cJSON *json;

	assert_int_equal(health_healthz(w, now, &body), code);
	json = parsed(body);
	check_status(json, status);
	cJSON_Delete(json);
}

static void
test_alive(void **state)
{
	Worker w;
	int64_t now;

	(void) state;
	make_well(&w);
	now = now_ms();
	atomic_store(&w.poll_turned_ms, now);
	check_alive(&w, now + HEALTH_TURN_MS, 200, "ok");
	check_alive(&w, now + HEALTH_TURN_MS + 1, 503, "stuck");
	/* neither broker nor database is a reason to be restarted */
	health_bad(&w, HEALTH_DATABASE, "away", NULL);
	health_bad(&w, HEALTH_BROKER, "away", NULL);
	check_alive(&w, now, 200, "ok");
	unmake(&w);
}

static void
test_stopping(void **state)
{
	Worker w;

	(void) state;
	make_well(&w);
	worker_set_phase(&w, PHASE_STOPPING);
	check_summary(&w, "stopping");
	check_ready(&w, "stopping", NULL);
	unmake(&w);
}

static void
test_export(void **state)
{
	Worker w;
	char *text;

	(void) state;
	make_well(&w);
	w.metrics = metrics_new("intake", "intake-workers", false);
	health_bad(&w, HEALTH_BROKER, "away", NULL);
	health_export(&w);
	text = metrics_render(w.metrics);
	assert_non_null(strstr(text, "sentinai_connection_up{worker_type=\"intake\",to=\"database\"} 1\n"));
	assert_non_null(strstr(text, "sentinai_connection_up{worker_type=\"intake\",to=\"broker\"} 0\n"));
	free(text);
	metrics_free(w.metrics);
	unmake(&w);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_start), cmocka_unit_test(test_each_subject), cmocka_unit_test(test_reason),
		cmocka_unit_test(test_alive), cmocka_unit_test(test_stopping),	   cmocka_unit_test(test_export),
	};

	log_open("intake", false, LEVEL_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
