/*
 * consume.c
 *	  The consume pump's start, end and shared state. The threads themselves are poller.c, assigner.c and processor.c; the
 *	  walk of a partition through them stands in consume_internal.h.
 */
#include "consume_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "log.h"

/*
 * Committing and leaving take milliseconds. But while the group waits for another member the broker answers nothing that
 * comes after our request to join, and then leaving would take librdkafka five seconds for nothing.
 */
#define CLOSE_WAIT_MS 3500

static struct timespec
timespec_of(int64_t ms)
{
	return (struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
}

void
consume_wait(Consume *c, int64_t until_ms)
{
	struct timespec until = timespec_of(until_ms);

	pthread_cond_timedwait(&c->changed, &c->lock, &until);
}

void
consume_unhold(Consume *c, Partition *part)
{
	if (partition_release_hold(part) && atomic_fetch_sub(&c->alone, 1) == 1)
		health_good(c->w, HEALTH_CONSUME);
}

void
processor_wake(Processor *p)
{
	uint64_t one = 1;

	/* It can only fail where the counter is full, and then it is readable already. */
	if (write(p->wake_fd, &one, sizeof(one)) < 0)
		return;
}

void
consume_count(Consume *c)
{
	int active = 0;
	int paused = 0;
	int gapped = 0;
	char text[100];

	for (int i = 0; i < c->n_parts; i++)
	{
		active += partition_working(c->parts[i]);
		paused += c->parts[i]->state == PARTITION_PAUSED;
		gapped += c->parts[i]->state == PARTITION_GAPPED;
	}
	atomic_store(&c->w->partitions_assigned, c->n_parts);
	atomic_store(&c->w->partitions_active, active);
	if (gapped == 0)
		health_good(c->w, HEALTH_OFFSETS);
	if (paused == 0)
		health_good(c->w, HEALTH_PAUSED);
	else
	{
		snprintf(text, sizeof(text), "%d of %d partitions are not read, see the log for the reason", paused,
				 c->n_parts);
		health_bad(c->w, HEALTH_PAUSED, text, NULL);
	}
}

/* ---- start ---- */

static bool
init_shared(Consume *c)
{
	pthread_condattr_t attributes;

	pthread_mutex_init(&c->lock, NULL);
	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&c->changed, &attributes);
	pthread_condattr_destroy(&attributes);

	c->n_processors = c->w->config.concurrency;
	c->processors = calloc(c->n_processors, sizeof(Processor));
	if (c->processors == NULL)
		return false;
	for (int i = 0; i < c->n_processors; i++)
	{
		char role[32];

		snprintf(role, sizeof(role), "consume %d", i);
		c->processors[i].c = c;
		c->processors[i].number = i;
		c->processors[i].limit = c->w->config.batch;
		c->processors[i].wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		c->processors[i].type = worker_type_get(c->w);
		c->processors[i].db = db_new(c->w, role);
		if (c->processors[i].wake_fd < 0 || c->processors[i].db == NULL)
			return false;
	}
	return true;
}

static bool
start_threads(Consume *c)
{
	if (pthread_create(&c->poller, NULL, poller_main, c) != 0 ||
		pthread_create(&c->assigner, NULL, assigner_main, c) != 0)
		return false;
	for (int i = 0; i < c->n_processors; i++)
		if (pthread_create(&c->processors[i].thread, NULL, processor_main, &c->processors[i]) != 0)
			return false;
	return true;
}

bool
consume_start(Worker *w, char *error, size_t size)
{
	Consume *c = calloc(1, sizeof(Consume));
	WorkerType *type = worker_type_get(w);

	/* What fails here ends the process: nothing is undone. */
	snprintf(error, size, "out of memory, descriptors or threads");
	if (c == NULL || type == NULL)
		return false;
	w->consume = c;
	c->w = w;
	c->topic = strdup(type->topic);
	c->group_id = strdup(type->group_id);
	worker_type_release(type);
	return c->topic != NULL && c->group_id != NULL && init_shared(c) && poller_open(c, error, size) && start_threads(c);
}

/* ---- end ---- */

bool
consume_stop(Worker *w)
{
	Consume *c = w->consume;
	struct timespec deadline;

	if (c == NULL)
		return true;
	/* The processors wait on stop_fd, the assigner on this. */
	pthread_mutex_lock(&c->lock);
	pthread_cond_broadcast(&c->changed);
	pthread_mutex_unlock(&c->lock);
	for (int i = 0; i < c->n_processors; i++)
		pthread_join(c->processors[i].thread, NULL);
	pthread_join(c->assigner, NULL);
	/* Nothing is in flight any more: the poller commits, leaves the group and closes. */
	atomic_store(&c->close, true);
	deadline = timespec_of(now_ms() + CLOSE_WAIT_MS);
	if (pthread_clockjoin_np(c->poller, NULL, CLOCK_MONOTONIC, &deadline) != 0)
	{
		log_warning("the broker does not answer our leaving the group; it will miss us after session.timeout.ms");
		return false;
	}
	rd_kafka_destroy(c->rk);
	for (int i = 0; i < c->n_processors; i++)
	{
		db_free(c->processors[i].db);
		close(c->processors[i].wake_fd);
		free(c->processors[i].taken);
		batch_free(&c->processors[i].batch);
		worker_type_release(c->processors[i].type);
	}
	pthread_cond_destroy(&c->changed);
	pthread_mutex_destroy(&c->lock);
	free(c->processors);
	free(c->parts);
	free(c->topic);
	free(c->group_id);
	free(c);
	w->consume = NULL;
	return true;
}

/* ---- for the heartbeat ---- */

char *
consume_details(Worker *w)
{
	Consume *c = w->consume;
	char *text = NULL;
	size_t length;
	FILE *out = open_memstream(&text, &length);

	if (out == NULL)
		return NULL;
	fputs("{\"partitions\":[", out);
	if (c != NULL)
	{
		pthread_mutex_lock(&c->lock);
		for (int i = 0; i < c->n_parts; i++)
			fprintf(out, "%s{\"partition\":%d,\"state\":\"%s\",\"read_position\":%lld}", i > 0 ? "," : "",
					c->parts[i]->number, partition_state_name(c->parts[i]->state),
					(long long) atomic_load(&c->parts[i]->read_position));
		pthread_mutex_unlock(&c->lock);
	}
	fputs("]}", out);
	if (fclose(out) != 0)
	{
		free(text);
		return NULL;
	}
	return text;
}
