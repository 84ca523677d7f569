/*
 * metrics.c
 *	  What consume() says of its batches becomes Prometheus text.
 */
#include <stdarg.h>
#include <setjmp.h>
#include <stdint.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "metrics.h"

static const char stats[] =
	"[{\"event_type\":\"ExceptionIngested\",\"tenant_id\":\"T1\",\"status\":\"succeeded\",\"count\":3,\"seconds\":0.02},"
	"{\"event_type\":\"ExceptionIngested\",\"tenant_id\":\"T2\",\"status\":\"succeeded\",\"count\":1,\"seconds\":70},"
	"{\"event_type\":\"ExceptionIngested\",\"tenant_id\":\"T1\",\"status\":\"retrying\",\"error_type\":\"timeout\",\"count\":2,\"retries\":2},"
	"{\"event_type\":\"ExceptionIngested\",\"tenant_id\":\"T1\",\"status\":\"dead_lettered\",\"error_type\":\"timeout\",\"count\":1},"
	"{\"event_type\":\"ExceptionIngested\",\"tenant_id\":\"T1\",\"status\":\"deferred\",\"error_type\":\"rate_limited\",\"count\":4}]";

/* The line is there, whole. */
static void
has(Metrics *m, const char *line)
{
	char *text = metrics_render(m);
	char framed[600];

	snprintf(framed, sizeof(framed), "\n%s\n", line);
	if (strstr(text, framed) == NULL)
		fail_msg("no line '%s' in:\n%s", line, text);
	free(text);
}

static void
has_no(Metrics *m, const char *part)
{
	char *text = metrics_render(m);

	if (strstr(text, part) != NULL)
		fail_msg("'%s' in:\n%s", part, text);
	free(text);
}

static void
test_stats(void **state)
{
	Metrics *m = metrics_new("intake", "intake-workers", false);

	(void) state;
	assert_true(metrics_record_stats(m, stats));
#define L "worker_type=\"intake\",event_type=\"ExceptionIngested\",tenant_id=\"all\""
	has(m, "# TYPE events_processed_total counter");
	has(m, "events_processed_total{" L ",status=\"succeeded\"} 4");
	has(m, "events_processed_total{" L ",status=\"retrying\"} 2");
	has(m, "failures_total{" L ",error_type=\"timeout\"} 3");
	has_no(m, "error_type=\"rate_limited\"");
	has(m, "retries_total{" L "} 2");
	has(m, "# TYPE processing_latency_seconds histogram");
	has(m, "processing_latency_seconds_bucket{" L ",le=\"0.01\"} 0");
	has(m, "processing_latency_seconds_bucket{" L ",le=\"0.05\"} 3");
	has(m, "processing_latency_seconds_bucket{" L ",le=\"60\"} 3");
	has(m, "processing_latency_seconds_bucket{" L ",le=\"+Inf\"} 4");
	has(m, "processing_latency_seconds_sum{" L "} 70.06");
	has(m, "processing_latency_seconds_count{" L "} 4");
#undef L
	assert_true(metrics_record_stats(m, stats));
	has(m, "retries_total{worker_type=\"intake\",event_type=\"ExceptionIngested\",tenant_id=\"all\"} 4");
	metrics_free(m);
}

static void
test_tenants(void **state)
{
	Metrics *m = metrics_new("intake", "intake-workers", true);

	(void) state;
	assert_true(metrics_record_stats(m, stats));
	has(m, "retries_total{worker_type=\"intake\",event_type=\"ExceptionIngested\",tenant_id=\"T1\"} 2");
	has_no(m, "tenant_id=\"all\"");
	metrics_free(m);
}

static void
test_not_stats(void **state)
{
	Metrics *m = metrics_new("intake", "intake-workers", false);

	(void) state;
	assert_false(metrics_record_stats(m, "{\"a\":1}"));
	assert_false(metrics_record_stats(m, "[{\"a\":1}"));
	assert_true(metrics_record_stats(m, NULL));
	assert_true(metrics_record_stats(m, ""));
	assert_true(metrics_record_stats(m, "null"));
	assert_true(metrics_record_stats(m, "[]"));
	/* rows that make no sense count nothing, and no counter ever falls */
	assert_true(metrics_record_stats(
		m, "[1,null,\"x\",{},{\"status\":\"succeeded\",\"count\":-5},{\"status\":5,\"count\":1}]"));
	has_no(m, "events_processed_total{");
	metrics_free(m);
}

static void
test_escaping(void **state)
{
	Metrics *m = metrics_new("intake", "intake-workers", false);

	(void) state;
	assert_true(metrics_record_stats(m, "[{\"event_type\":\"a\\\"b\\\\c\\nd\",\"status\":\"succeeded\",\"count\":1}]"));
	has(m,
		"events_processed_total{worker_type=\"intake\",event_type=\"a\\\"b\\\\c\\nd\",tenant_id=\"all\",status=\"succeeded\"} 1");
	metrics_free(m);
}

static void
test_long_labels(void **state)
{
	Metrics *m = metrics_new("intake", "intake-workers", false);
	char type[256];
	char json[1000];
	char line[1000];

	(void) state;
	memset(type, 'x', 255);
	type[255] = '\0';
	for (int i = 0; i < 3; i++)
	{
		snprintf(json, sizeof(json),
				 "[{\"event_type\":\"%s\",\"status\":\"succeeded\",\"error_type\":\"%s\",\"count\":1,\"seconds\":1}]",
				 type, type);
		assert_true(metrics_record_stats(m, json));
	}
	snprintf(line, sizeof(line),
			 "processing_latency_seconds_count{worker_type=\"intake\",event_type=\"%s\",tenant_id=\"all\"} 3", type);
	has(m, line);
	metrics_free(m);
}

static void
test_lag(void **state)
{
	Metrics *m = metrics_new("intake", "intake-workers", false);

	(void) state;
	has_no(m, "kafka_consumer_lag{");
	metrics_set_lag(m, "exceptions", 0, 5);
	metrics_set_lag(m, "exceptions", 1, 7);
	metrics_set_lag(m, "other", 0, 1);
	has(m, "kafka_consumer_lag{topic=\"exceptions\",group_id=\"intake-workers\"} 12");
	metrics_set_lag(m, "exceptions", 0, 0);
	has(m, "kafka_consumer_lag{topic=\"exceptions\",group_id=\"intake-workers\"} 7");
	metrics_set_lag(m, "exceptions", 1, -1);
	has(m, "kafka_consumer_lag{topic=\"exceptions\",group_id=\"intake-workers\"} 0");
	metrics_set_lag(m, "exceptions", 0, -1);
	metrics_set_lag(m, "exceptions", 0, -1);
	has_no(m, "topic=\"exceptions\"");
	has(m, "kafka_consumer_lag{topic=\"other\",group_id=\"intake-workers\"} 1");
	metrics_free(m);
}

static void
test_gauges(void **state)
{
	Metrics *m = metrics_new("intake", "intake-workers", false);

	(void) state;
	has(m, "events_in_processing{worker_type=\"intake\"} 0");
	metrics_in_processing(m, 500);
	metrics_in_processing(m, 200);
	metrics_in_processing(m, -500);
	has(m, "events_in_processing{worker_type=\"intake\"} 200");
	has(m, "sentinai_outbox_published_total{worker_type=\"intake\"} 0");
	metrics_published(m, 2000000);
	has(m, "sentinai_outbox_published_total{worker_type=\"intake\"} 2000000");
	metrics_set_publisher(m, true, 12, 1);
	has(m, "sentinai_publisher_active{worker_type=\"intake\"} 1");
	has(m, "sentinai_outbox_in_flight{worker_type=\"intake\"} 12");
	has(m, "sentinai_outbox_blocked_topics{worker_type=\"intake\"} 1");
	metrics_publish_failure(m, "bad");
	has(m, "sentinai_outbox_failures_total{worker_type=\"intake\",topic=\"bad\"} 1");
	metrics_set_connection(m, "database", true);
	metrics_set_connection(m, "database", false);
	has(m, "sentinai_connection_up{worker_type=\"intake\",to=\"database\"} 0");
	metrics_free(m);
}

static void
test_dlq_size(void **state)
{
	Metrics *m = metrics_new("intake", "intake-workers", false);

	(void) state;
	has_no(m, "dlq_size{");
	metrics_dlq_begin(m);
	metrics_dlq_end(m, true);
	has(m, "dlq_size{tenant_id=\"all\"} 0");
	metrics_dlq_begin(m);
	metrics_dlq_size(m, "T1", 3);
	metrics_dlq_size(m, "", 4);
	metrics_dlq_end(m, true);
	has(m, "dlq_size{tenant_id=\"all\"} 7");
	metrics_dlq_begin(m);
	metrics_dlq_end(m, false);
	has_no(m, "dlq_size{");
	metrics_free(m);

	m = metrics_new("intake", "intake-workers", true);
	metrics_dlq_begin(m);
	metrics_dlq_size(m, "T1", 3);
	metrics_dlq_end(m, true);
	has(m, "dlq_size{tenant_id=\"T1\"} 3");
	metrics_dlq_begin(m);
	metrics_dlq_size(m, "T2", 1);
	metrics_dlq_end(m, true);
	has(m, "dlq_size{tenant_id=\"T1\"} 0");
	has(m, "dlq_size{tenant_id=\"T2\"} 1");
	metrics_free(m);
}

/* Hostile event types fill no memory and no time series database. */
static void
test_bounded(void **state)
{
	Metrics *m = metrics_new("intake", "intake-workers", false);
	char json[100];
	char *text;

	(void) state;
	for (int i = 0; i < 21000; i++)
	{
		snprintf(json, sizeof(json), "[{\"event_type\":\"e%d\",\"status\":\"succeeded\",\"count\":1}]", i);
		assert_true(metrics_record_stats(m, json));
	}
	text = metrics_render(m);
	assert_non_null(strstr(text, "event_type=\"e19999\""));
	assert_null(strstr(text, "event_type=\"e20000\""));
	assert_non_null(strstr(text, "event_type=\"other\",tenant_id=\"all\",status=\"succeeded\"} 1000\n"));
	free(text);
	metrics_free(m);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_stats),	 cmocka_unit_test(test_tenants),	 cmocka_unit_test(test_not_stats),
		cmocka_unit_test(test_escaping), cmocka_unit_test(test_long_labels), cmocka_unit_test(test_lag),
		cmocka_unit_test(test_gauges),	 cmocka_unit_test(test_dlq_size),	 cmocka_unit_test(test_bounded),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
