/*
 * metrics.c
 *	  The process's own counters, gauges and one histogram.
 *
 * A family is a row of families[]; a series is a family with its labels, written out once when it is first seen, so that
 * the label text is key and output alike. Series live as long as the process, but for lag and dlq_size, whose partitions and
 * tenants come and go.
 */
#include "metrics.h"

#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>

/* Labels come from events. Past this many series of a family further event types and tenants are counted as `other`. */
#define MAX_SERIES 20000
#define OTHER "other"
#define ALL_TENANTS "all"

typedef enum Family
{
	EVENTS_PROCESSED,
	PROCESSING_LATENCY,
	FAILURES,
	RETRIES,
	DLQ_SIZE,
	IN_PROCESSING,
	CONSUMER_LAG,
	OUTBOX_PUBLISHED,
	OUTBOX_FAILURES,
	OUTBOX_IN_FLIGHT,
	OUTBOX_BLOCKED,
	PUBLISHER_ACTIVE,
	CONNECTION_UP,
	BUILD_INFO,
	N_FAMILIES
} Family;

static const struct
{
	const char *name;
	const char *type;
	const char *help;
} families[N_FAMILIES] = {
	[EVENTS_PROCESSED] = {"events_processed_total", "counter", "Events that this worker has brought to an outcome."},
	[PROCESSING_LATENCY] = {"processing_latency_seconds", "histogram", "Time that handlers took for an event."},
	[FAILURES] = {"failures_total", "counter", "Events whose handling failed, by cause."},
	[RETRIES] = {"retries_total", "counter", "Retries that were planned after failures."},
	[DLQ_SIZE] = {"dlq_size", "gauge", "Open dead letters of the database (pending and retrying)."},
	[IN_PROCESSING] = {"events_in_processing", "gauge", "Events that are with the database now."},
	[CONSUMER_LAG] = {"kafka_consumer_lag", "gauge",
					  "Records of this worker's partitions that its group has not handled yet."},
	[OUTBOX_PUBLISHED] = {"sentinai_outbox_published_total", "counter", "Outbox rows that this worker has published."},
	[OUTBOX_FAILURES] = {"sentinai_outbox_failures_total", "counter",
						 "Outbox rows that Kafka refused; each is tried again."},
	[OUTBOX_IN_FLIGHT] = {"sentinai_outbox_in_flight", "gauge", "Outbox rows that wait for a delivery report."},
	[OUTBOX_BLOCKED] = {"sentinai_outbox_blocked_topics", "gauge",
						"Topics whose outbox rows wait because Kafka refused one."},
	[PUBLISHER_ACTIVE] = {"sentinai_publisher_active", "gauge",
						  "1 in the one worker of a database that publishes its outbox."},
	[CONNECTION_UP] = {"sentinai_connection_up", "gauge", "1 while the database, or a broker, can be reached."},
	[BUILD_INFO] = {"sentinai_build_info", "gauge", "Version of this worker; always 1."},
};

static const double bounds[] = {.001, .005, .01, .05, .1, .5, 1, 5, 10, 30, 60};

#define N_BOUNDS ((int) (sizeof(bounds) / sizeof(bounds[0])))

typedef struct Series
{
	struct Series *next; /* in its hash chain */
	char *labels;		 /* as in the output, without braces; "" none */
	uint32_t hash;
	bool shown;
	double value;					/* a histogram's sum */
	uint64_t count;					/* histograms only, as buckets */
	uint64_t buckets[N_BOUNDS + 1]; /* not cumulative; the last one is above all bounds */
} Series;

typedef struct FamilyData
{
	Series **series; /* in order of appearance */
	int n;
	int room;
	Series **chains; /* hash table, n_chains a power of two */
	uint32_t n_chains;
} FamilyData;

typedef struct Lag
{
	char *topic;
	int32_t partition;
	int64_t lag;
} Lag;

struct Metrics
{
	pthread_mutex_t mutex; /* guards all that follows */
	FamilyData data[N_FAMILIES];
	char *worker_type;
	char *group_id;
	bool include_tenant;
	int64_t in_processing;
	int64_t dlq_total;
	Lag *lags;
	int n_lags;
};

/* This process has no use without memory. */
static void *
must(void *pointer)
{
	if (pointer == NULL)
		abort();
	return pointer;
}

/* A growing text. */
typedef struct Text
{
	char *bytes;
	size_t len;
	size_t room;
} Text;

static void
text_add(Text *text, const char *bytes, size_t len)
{
	if (text->len + len + 1 > text->room)
	{
		text->room = (text->len + len + 1) * 2;
		text->bytes = must(realloc(text->bytes, text->room));
	}
	memcpy(text->bytes + text->len, bytes, len);
	text->len += len;
	text->bytes[text->len] = '\0';
}

static void __attribute__((format(printf, 2, 3))) text_printf(Text *text, const char *format, ...)
{
	char line[512];
	va_list args;
	int len;

	va_start(args, format);
	len = vsnprintf(line, sizeof(line), format, args);
	va_end(args);
	if (len < (int) sizeof(line))
		text_add(text, line, (size_t) len);
	else
	{
		char *longer = must(malloc((size_t) len + 1));

		va_start(args, format);
		vsnprintf(longer, (size_t) len + 1, format, args);
		va_end(args);
		text_add(text, longer, (size_t) len);
		free(longer);
	}
}

static void
text_add_label(Text *text, const char *name, const char *value)
{
	text_printf(text, "%s%s=\"", text->len > 0 ? "," : "", name);
	for (const char *c = value; *c != '\0'; c++)
	{
		if (*c == '\\' || *c == '"')
			text_add(text, "\\", 1);
		if (*c == '\n')
			text_add(text, "\\n", 2);
		else
			text_add(text, c, 1);
	}
	text_add(text, "\"", 1);
}

static uint32_t
hash_text(const char *text)
{
	uint32_t hash = 2166136261u; /* FNV-1a */

	for (; *text != '\0'; text++)
		hash = (hash ^ (unsigned char) *text) * 16777619u;
	return hash;
}

static void
family_grow_chains(FamilyData *data)
{
	data->n_chains = data->n_chains == 0 ? 64 : data->n_chains * 2;
	free(data->chains);
	data->chains = must(calloc(data->n_chains, sizeof(Series *)));
	for (int i = 0; i < data->n; i++)
	{
		Series **chain = &data->chains[data->series[i]->hash & (data->n_chains - 1)];

		data->series[i]->next = *chain;
		*chain = data->series[i];
	}
}

/* The series of these labels, made when it is new. labels is used up. Caller holds the mutex. */
static Series *
series_get(Metrics *m, Family family, Text *labels)
{
	FamilyData *data = &m->data[family];
	const char *text = labels->bytes == NULL ? "" : labels->bytes;
	uint32_t hash = hash_text(text);
	Series *series;

	if (data->n >= (int) data->n_chains)
		family_grow_chains(data);
	for (series = data->chains[hash & (data->n_chains - 1)]; series != NULL; series = series->next)
		if (series->hash == hash && strcmp(series->labels, text) == 0)
			break;
	if (series == NULL)
	{
		series = must(calloc(1, sizeof(Series)));
		series->labels = must(strdup(text));
		series->hash = hash;
		series->next = data->chains[hash & (data->n_chains - 1)];
		data->chains[hash & (data->n_chains - 1)] = series;
		if (data->n == data->room)
		{
			data->room = data->room * 2 + 16;
			data->series = must(realloc(data->series, (size_t) data->room * sizeof(Series *)));
		}
		data->series[data->n++] = series;
	}
	series->shown = true;
	free(labels->bytes);
	memset(labels, 0, sizeof(*labels));
	return series;
}

/* A series without labels but worker_type. Caller holds the mutex, or nobody else knows m yet. */
static Series *
series_of_worker(Metrics *m, Family family)
{
	Text labels = {0};

	text_add_label(&labels, "worker_type", m->worker_type);
	return series_get(m, family, &labels);
}

/* Labels worker_type, event_type, tenant_id and, where name is not NULL, one more. Caller holds the mutex. */
static Series *
series_of_event(Metrics *m, Family family, const char *event_type, const char *tenant_id, const char *name,
				const char *value)
{
	Text labels = {0};
	bool full = m->data[family].n >= MAX_SERIES;

	text_add_label(&labels, "worker_type", m->worker_type);
	text_add_label(&labels, "event_type", full ? OTHER : event_type);
	text_add_label(&labels, "tenant_id", !m->include_tenant ? ALL_TENANTS : full ? OTHER : tenant_id);
	if (name != NULL)
		text_add_label(&labels, name, value);
	return series_get(m, family, &labels);
}

static void
series_observe(Series *series, double value, double count)
{
	int i = 0;

	while (i < N_BOUNDS && value > bounds[i])
		i++;
	series->buckets[i] += (uint64_t) count;
	series->count += (uint64_t) count;
	series->value += value * count;
}

Metrics *
metrics_new(const char *worker_type, const char *group_id, bool include_tenant)
{
	Metrics *m = must(calloc(1, sizeof(Metrics)));
	Text labels = {0};

	pthread_mutex_init(&m->mutex, NULL);
	m->worker_type = must(strdup(worker_type));
	m->group_id = must(strdup(group_id));
	m->include_tenant = include_tenant;
	text_add_label(&labels, "version", SENTINAI_VERSION);
	text_add_label(&labels, "worker_type", worker_type);
	series_get(m, BUILD_INFO, &labels)->value = 1;
	/* there from the start, so that rate() sees the first one */
	series_of_worker(m, IN_PROCESSING);
	series_of_worker(m, OUTBOX_PUBLISHED);
	series_of_worker(m, OUTBOX_IN_FLIGHT);
	series_of_worker(m, OUTBOX_BLOCKED);
	series_of_worker(m, PUBLISHER_ACTIVE);
	return m;
}

void
metrics_set_group(Metrics *m, const char *group_id)
{
	char *copy = must(strdup(group_id));

	pthread_mutex_lock(&m->mutex);
	free(m->group_id);
	m->group_id = copy;
	pthread_mutex_unlock(&m->mutex);
}

void
metrics_free(Metrics *m)
{
	if (m == NULL)
		return;
	for (int f = 0; f < N_FAMILIES; f++)
	{
		for (int i = 0; i < m->data[f].n; i++)
		{
			free(m->data[f].series[i]->labels);
			free(m->data[f].series[i]);
		}
		free(m->data[f].series);
		free(m->data[f].chains);
	}
	for (int i = 0; i < m->n_lags; i++)
		free(m->lags[i].topic);
	free(m->lags);
	free(m->worker_type);
	free(m->group_id);
	pthread_mutex_destroy(&m->mutex);
	free(m);
}

static const char *
item_text(const cJSON *row, const char *name)
{
	const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(row, name));

	return text == NULL ? "" : text;
}

/* At least 0: a counter never falls, whatever the row says. */
static double
item_number(const cJSON *row, const char *name)
{
	const cJSON *item = cJSON_GetObjectItemCaseSensitive(row, name);

	return cJSON_IsNumber(item) && item->valuedouble > 0 ? item->valuedouble : 0;
}

/* What waits (parked, deferred) has a reason, too, but has not failed. */
static bool
is_failure(const char *status)
{
	return strcmp(status, "retrying") == 0 || strcmp(status, "failed") == 0 || strcmp(status, "dead_lettered") == 0;
}

static void
record_row(Metrics *m, const cJSON *row)
{
	const char *event_type = item_text(row, "event_type");
	const char *tenant_id = item_text(row, "tenant_id");
	const char *status = item_text(row, "status");
	const char *error_type = item_text(row, "error_type");
	double count = item_number(row, "count");
	double retries = item_number(row, "retries");

	if (count > 0 && status[0] != '\0')
		series_of_event(m, EVENTS_PROCESSED, event_type, tenant_id, "status", status)->value += count;
	if (count > 0 && error_type[0] != '\0' && is_failure(status))
		series_of_event(m, FAILURES, event_type, tenant_id, "error_type", error_type)->value += count;
	if (retries > 0)
		series_of_event(m, RETRIES, event_type, tenant_id, NULL, NULL)->value += retries;
	if (count > 0 && cJSON_IsNumber(cJSON_GetObjectItemCaseSensitive(row, "seconds")))
		series_observe(series_of_event(m, PROCESSING_LATENCY, event_type, tenant_id, NULL, NULL),
					   item_number(row, "seconds"), count);
}

bool
metrics_record_stats(Metrics *m, const char *stats_json)
{
	cJSON *stats;
	const cJSON *row;

	if (stats_json == NULL || stats_json[0] == '\0')
		return true;
	stats = cJSON_Parse(stats_json);
	if (!cJSON_IsArray(stats) && !cJSON_IsNull(stats))
	{
		cJSON_Delete(stats);
		return false;
	}
	pthread_mutex_lock(&m->mutex);
	cJSON_ArrayForEach (row, stats)
		record_row(m, row);
	pthread_mutex_unlock(&m->mutex);
	cJSON_Delete(stats);
	return true;
}

void
metrics_in_processing(Metrics *m, int delta)
{
	pthread_mutex_lock(&m->mutex);
	m->in_processing += delta;
	series_of_worker(m, IN_PROCESSING)->value = (double) m->in_processing;
	pthread_mutex_unlock(&m->mutex);
}

/* Sums the topic's partitions into its series. Caller holds the mutex. */
static void
lag_sum(Metrics *m, const char *topic)
{
	Text labels = {0};
	Series *series;
	int64_t sum = 0;
	bool any = false;

	for (int i = 0; i < m->n_lags; i++)
		if (strcmp(m->lags[i].topic, topic) == 0)
		{
			sum += m->lags[i].lag;
			any = true;
		}
	text_add_label(&labels, "topic", topic);
	text_add_label(&labels, "group_id", m->group_id);
	series = series_get(m, CONSUMER_LAG, &labels);
	series->value = (double) sum;
	series->shown = any;
}

static void
lag_remove(Metrics *m, int i)
{
	free(m->lags[i].topic);
	m->lags[i] = m->lags[--m->n_lags];
}

void
metrics_set_lag(Metrics *m, const char *topic, int32_t partition, int64_t lag)
{
	int i;

	pthread_mutex_lock(&m->mutex);
	for (i = 0; i < m->n_lags; i++)
		if (m->lags[i].partition == partition && strcmp(m->lags[i].topic, topic) == 0)
			break;
	if (lag < 0 && i < m->n_lags)
		lag_remove(m, i);
	else if (lag >= 0)
	{
		if (i == m->n_lags)
		{
			m->lags = must(realloc(m->lags, (size_t) (m->n_lags + 1) * sizeof(Lag)));
			m->lags[i] = (Lag){must(strdup(topic)), partition, 0};
			m->n_lags++;
		}
		m->lags[i].lag = lag;
	}
	lag_sum(m, topic);
	pthread_mutex_unlock(&m->mutex);
}

void
metrics_published(Metrics *m, int64_t rows)
{
	pthread_mutex_lock(&m->mutex);
	series_of_worker(m, OUTBOX_PUBLISHED)->value += (double) rows;
	pthread_mutex_unlock(&m->mutex);
}

void
metrics_publish_failure(Metrics *m, const char *topic)
{
	Text labels = {0};

	pthread_mutex_lock(&m->mutex);
	text_add_label(&labels, "worker_type", m->worker_type);
	text_add_label(&labels, "topic", topic);
	series_get(m, OUTBOX_FAILURES, &labels)->value += 1;
	pthread_mutex_unlock(&m->mutex);
}

void
metrics_set_publisher(Metrics *m, bool active, int64_t in_flight, int blocked_topics)
{
	pthread_mutex_lock(&m->mutex);
	series_of_worker(m, PUBLISHER_ACTIVE)->value = active;
	series_of_worker(m, OUTBOX_IN_FLIGHT)->value = (double) in_flight;
	series_of_worker(m, OUTBOX_BLOCKED)->value = blocked_topics;
	pthread_mutex_unlock(&m->mutex);
}

/* Holds the mutex until metrics_dlq_end(), so that no scrape sees half of it. */
void
metrics_dlq_begin(Metrics *m)
{
	pthread_mutex_lock(&m->mutex);
	m->dlq_total = 0;
	for (int i = 0; i < m->data[DLQ_SIZE].n; i++)
		m->data[DLQ_SIZE].series[i]->value = 0;
}

void
metrics_dlq_size(Metrics *m, const char *tenant_id, int64_t size)
{
	Text labels = {0};

	m->dlq_total += size;
	if (!m->include_tenant)
		return;
	text_add_label(&labels, "tenant_id", tenant_id);
	series_get(m, DLQ_SIZE, &labels)->value = (double) size;
}

void
metrics_dlq_end(Metrics *m, bool known)
{
	Text labels = {0};

	if (known && !m->include_tenant)
	{
		text_add_label(&labels, "tenant_id", ALL_TENANTS);
		series_get(m, DLQ_SIZE, &labels)->value = (double) m->dlq_total;
	}
	for (int i = 0; i < m->data[DLQ_SIZE].n; i++)
		m->data[DLQ_SIZE].series[i]->shown = known;
	pthread_mutex_unlock(&m->mutex);
}

void
metrics_set_connection(Metrics *m, const char *to, bool up)
{
	Text labels = {0};

	pthread_mutex_lock(&m->mutex);
	text_add_label(&labels, "worker_type", m->worker_type);
	text_add_label(&labels, "to", to);
	series_get(m, CONNECTION_UP, &labels)->value = up;
	pthread_mutex_unlock(&m->mutex);
}

static void
render_histogram(Text *out, const char *name, const Series *series)
{
	uint64_t below = 0;

	for (int i = 0; i < N_BOUNDS; i++)
	{
		below += series->buckets[i];
		text_printf(out, "%s_bucket{%s,le=\"%g\"} %" PRIu64 "\n", name, series->labels, bounds[i], below);
	}
	text_printf(out, "%s_bucket{%s,le=\"+Inf\"} %" PRIu64 "\n", name, series->labels, series->count);
	text_printf(out, "%s_sum{%s} %.9g\n", name, series->labels, series->value);
	text_printf(out, "%s_count{%s} %" PRIu64 "\n", name, series->labels, series->count);
}

char *
metrics_render(Metrics *m)
{
	Text out = {0};

	text_add(&out, "", 0);
	pthread_mutex_lock(&m->mutex);
	for (int f = 0; f < N_FAMILIES; f++)
	{
		const FamilyData *data = &m->data[f];

		text_printf(&out, "# HELP %s %s\n# TYPE %s %s\n", families[f].name, families[f].help, families[f].name,
					families[f].type);
		for (int i = 0; i < data->n; i++)
		{
			const Series *series = data->series[i];

			if (!series->shown)
				continue;
			if (f == PROCESSING_LATENCY)
				render_histogram(&out, families[f].name, series);
			else
				text_printf(&out, "%s{%s} %.15g\n", families[f].name, series->labels, series->value);
		}
	}
	pthread_mutex_unlock(&m->mutex);
	return out.bytes;
}
