/*
 * poller.c
 *	  The thread that polls the consumer: the group, what is fetched, errors, and the end. See consume_internal.h.
 *
 * Facts of librdkafka 2.0.2 that shape it: with the eager protocol only rd_kafka_assign() of the whole list is allowed, and
 * it begins fetching again for all of it: partitions that go on are given their read position, and what comes twice is
 * dropped by the processor. A stale record can't come through after a partition was taken out of the list and put back.
 */
#include "consume_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kafka.h"
#include "log.h"

#define POLL_MS 100
/* Partitions that were assigned together are fetched together: one restart of the fetchers, not one for each. */
#define GATHER_MS 300
/* How long a revoked partition's call may go on before the group's need comes first; the fence keeps it safe. */
#define REVOKE_WAIT_MS 10000
#define COMMIT_WAIT_MS 2000
/* How often librdkafka is asked whether it has a connection, and how often in a row it has none when the broker is away. */
#define STATISTICS_MS "1000"
#define UNCONNECTED_TIMES 2

/* ---- what is fetched ---- */

/* Whether a change of the list is due; caller holds lock. */
static bool
fetch_due(Consume *c)
{
	bool leaving = false;
	bool coming = false;
	bool asking = false;
	int64_t first = INT64_MAX;
	int64_t now = now_ms();

	for (int i = 0; i < c->n_parts; i++)
	{
		const Partition *part = c->parts[i];

		leaving |= part->state == PARTITION_DETACHING && !part->held;
		asking |= part->state == PARTITION_ASSIGNING && part->ask_at_ms <= now;
		if (part->state == PARTITION_LOCATED)
		{
			coming = true;
			first = part->located_at_ms < first ? part->located_at_ms : first;
		}
	}
	return leaving || (coming && (!asking || now - first >= GATHER_MS));
}

/* What is to be fetched from now on; caller holds lock. */
static rd_kafka_topic_partition_list_t *
fetch_list(Consume *c)
{
	rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(c->n_parts > 0 ? c->n_parts : 1);

	for (int i = 0; i < c->n_parts; i++)
	{
		const Partition *part = c->parts[i];

		if (part->state == PARTITION_LOCATED)
			rd_kafka_topic_partition_list_add(list, part->topic, part->number)->offset = part->start_offset;
		else if (partition_working(part))
			rd_kafka_topic_partition_list_add(list, part->topic, part->number)->offset =
				atomic_load(&part->read_position);
	}
	return list;
}

/* The list is set: what was in it goes on to its next state; caller holds lock. */
static void
fetch_done(Consume *c, const rd_kafka_topic_partition_list_t *list)
{
	char reason[100];

	for (int i = 0; i < c->n_parts; i++)
	{
		Partition *part = c->parts[i];
		bool listed = rd_kafka_topic_partition_list_find((rd_kafka_topic_partition_list_t *) list, part->topic,
														 part->number) != NULL;

		if (part->state == PARTITION_LOCATED && listed)
		{
			snprintf(reason, sizeof(reason), "fetching begins at %lld, epoch %lld", (long long) part->start_offset,
					 (long long) part->epoch);
			partition_start(part, part->start_offset);
			partition_set_state(part, PARTITION_ACTIVE, reason);
			processor_wake(&c->processors[part->owner]);
		}
		else if (part->state == PARTITION_DETACHING && !listed && !part->held)
			partition_set_state(part, PARTITION_ASSIGNING, "not fetched any more");
	}
	consume_count(c);
	pthread_cond_broadcast(&c->changed);
}

/* Thread: poller. */
static void
fetch_change(Consume *c)
{
	rd_kafka_topic_partition_list_t *list = NULL;
	rd_kafka_resp_err_t error;

	pthread_mutex_lock(&c->lock);
	if (fetch_due(c))
		list = fetch_list(c);
	pthread_mutex_unlock(&c->lock);
	if (list == NULL)
		return;
	error = rd_kafka_assign(c->rk, list);
	if (error != RD_KAFKA_RESP_ERR_NO_ERROR)
		log_warning("could not change what is fetched", F_TEXT("error", rd_kafka_err2str(error)));
	else
	{
		pthread_mutex_lock(&c->lock);
		fetch_done(c, list);
		pthread_mutex_unlock(&c->lock);
	}
	rd_kafka_topic_partition_list_destroy(list);
}

/* ---- commits ---- */

static rd_kafka_topic_partition_list_t *
commit_list(Partition **parts, int n)
{
	rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(n > 0 ? n : 1);

	for (int i = 0; i < n; i++)
	{
		Partition *part = parts[i];

		if (part->next_offset <= part->committed || part->next_offset < 0)
			continue;
		rd_kafka_topic_partition_list_add(list, part->topic, part->number)->offset = part->next_offset;
		part->committed = part->next_offset;
	}
	return list;
}

void
poller_commit(Consume *c, Partition **parts, int n)
{
	rd_kafka_topic_partition_list_t *list = commit_list(parts, n);

	if (list->cnt > 0)
		rd_kafka_commit(c->rk, list, 1);
	rd_kafka_topic_partition_list_destroy(list);
}

/* Before the group is left: waits for the broker, but not for long. It costs nothing but the lag tools' truth. */
static void
commit_and_wait(Consume *c)
{
	rd_kafka_topic_partition_list_t *list;
	rd_kafka_queue_t *queue;
	rd_kafka_event_t *event;

	pthread_mutex_lock(&c->lock);
	for (int i = 0; i < c->n_parts; i++)
		c->parts[i]->committed = -1;
	list = commit_list(c->parts, c->n_parts);
	pthread_mutex_unlock(&c->lock);
	if (list->cnt > 0 && atomic_load(&c->w->broker_up))
	{
		queue = rd_kafka_queue_new(c->rk);
		rd_kafka_commit_queue(c->rk, list, queue, NULL, NULL);
		event = rd_kafka_queue_poll(queue, COMMIT_WAIT_MS);
		if (event != NULL && rd_kafka_event_error(event) == RD_KAFKA_RESP_ERR_NO_ERROR)
			log_info("offsets are committed", F_INT("partitions", list->cnt));
		else
			log_warning("offsets are not committed to Kafka; the database has them",
						F_TEXT("error", event == NULL ? "time-out" : rd_kafka_event_error_string(event)));
		if (event != NULL)
			rd_kafka_event_destroy(event);
		rd_kafka_queue_destroy(queue);
	}
	rd_kafka_topic_partition_list_destroy(list);
}

static void
on_commit(rd_kafka_t *rk, rd_kafka_resp_err_t error, rd_kafka_topic_partition_list_t *offsets, void *opaque)
{
	(void) rk;
	(void) offsets;
	if (error == RD_KAFKA_RESP_ERR_NO_ERROR)
		kafka_note_alive(opaque);
	else if (error != RD_KAFKA_RESP_ERR__NO_OFFSET)
		log_debug("a commit to Kafka failed; the database has the position", F_TEXT("error", rd_kafka_err2name(error)));
}

/* ---- connections ---- */

/*
 * librdkafka says that all brokers are down only if the last one to go is a real one, not the group's coordinator, which is
 * counted as one: about every other time nothing is said. Thread: poller.
 */
static int
on_statistics(rd_kafka_t *rk, char *json, size_t length, void *opaque)
{
	Worker *w = opaque;

	(void) rk;
	(void) length;
	if (strstr(json, "\"state\":\"UP\"") != NULL || strstr(json, "\"state\":\"UPDATE\"") != NULL)
		w->consume->unconnected = 0;
	else if (++w->consume->unconnected >= UNCONNECTED_TIMES && atomic_load(&w->broker_up))
		kafka_note_error(w, RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN, "no connection to any broker");
	return 0;
}

/* ---- the group ---- */

/* Its queue is taken out of the consumer's before anything is fetched. */
static Partition *
new_partition(Consume *c, const char *topic, int32_t number, int rank)
{
	static const uint64_t one = 1;
	Partition *part = partition_new(topic, number, rank % c->n_processors);

	if (part == NULL)
		return NULL;
	part->queue = rd_kafka_queue_get_partition(c->rk, topic, number);
	if (part->queue == NULL)
	{
		partition_unref(part);
		return NULL;
	}
	rd_kafka_queue_forward(part->queue, NULL);
	rd_kafka_queue_io_event_enable(part->queue, c->processors[part->owner].wake_fd, &one, sizeof(one));
	return part;
}

static void
assigned(Consume *c, const rd_kafka_topic_partition_list_t *list)
{
	Partition **parts = calloc(list->cnt > 0 ? list->cnt : 1, sizeof(Partition *));
	int n = 0;

	for (int i = 0; parts != NULL && i < list->cnt; i++)
		if ((parts[n] = new_partition(c, list->elems[i].topic, list->elems[i].partition, i)) != NULL)
			n++;
	if (n < list->cnt)
		log_error("out of memory: partitions are not read", F_INT("partitions", list->cnt - n));
	pthread_mutex_lock(&c->lock);
	free(c->parts);
	c->parts = parts;
	c->n_parts = n;
	for (int i = 0; i < n; i++)
		partition_set_state(parts[i], PARTITION_ASSIGNING, "the group assigned it");
	consume_count(c);
	pthread_cond_broadcast(&c->changed);
	pthread_mutex_unlock(&c->lock);
	atomic_store(&c->w->assigned, true);
	kafka_note_alive(c->w);
	if (n > 0)
		health_good(c->w, HEALTH_TOPIC);
	if (n == 0)
		log_info("the group has no partition for this member; it stands by");
}

/* Caller holds lock. */
static bool
any_held(Consume *c)
{
	for (int i = 0; i < c->n_parts; i++)
		if (c->parts[i]->held)
			return true;
	return false;
}

static void
revoked(Consume *c, bool lost)
{
	int64_t deadline = now_ms() + REVOKE_WAIT_MS;
	const char *reason = lost ? "the group took it away without asking" : "the group takes it away";

	pthread_mutex_lock(&c->lock);
	for (int i = 0; i < c->n_parts; i++)
		partition_set_state(c->parts[i], PARTITION_REVOKING, reason);
	for (int i = 0; i < c->n_processors; i++)
		processor_wake(&c->processors[i]);
	/* What is lost already is another's: the fence decides whose call counts, nobody has to wait. */
	while (!lost && any_held(c) && now_ms() < deadline)
		consume_wait(c, deadline);
	if (!lost && !any_held(c))
		poller_commit(c, c->parts, c->n_parts);
	for (int i = 0; i < c->n_parts; i++)
	{
		metrics_set_lag(c->w->metrics, c->parts[i]->topic, c->parts[i]->number, -1);
		rd_kafka_queue_io_event_enable(c->parts[i]->queue, -1, NULL, 0);
		partition_set_state(c->parts[i], PARTITION_UNASSIGNED,
							c->parts[i]->held ? "its call is still going on" : "done");
		if (!c->parts[i]->held)
			consume_unhold(c, c->parts[i]);
		partition_unref(c->parts[i]);
	}
	c->n_parts = 0;
	consume_count(c);
	pthread_mutex_unlock(&c->lock);
}

/* In the callback nothing is fetched yet: where to read comes from the database, and polling must not wait for it. */
static void
on_rebalance(rd_kafka_t *rk, rd_kafka_resp_err_t error, rd_kafka_topic_partition_list_t *list, void *opaque)
{
	Consume *c = ((Worker *) opaque)->consume;

	if (error == RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS)
	{
		rd_kafka_topic_partition_list_t *none = rd_kafka_topic_partition_list_new(1);

		assigned(c, list);
		rd_kafka_assign(rk, none);
		rd_kafka_topic_partition_list_destroy(none);
		return;
	}
	if (error != RD_KAFKA_RESP_ERR__REVOKE_PARTITIONS)
		log_warning("rebalance failed", F_TEXT("error", rd_kafka_err2str(error)));
	revoked(c, rd_kafka_assignment_lost(rk));
	rd_kafka_assign(rk, NULL);
}

/* ---- polling ---- */

/* A record here has slipped past its own queue: it is read again in its place. */
static void
stray_record(Consume *c, const rd_kafka_message_t *msg)
{
	const char *topic = rd_kafka_topic_name(msg->rkt);

	log_warning("a record came outside of its partition's queue; the partition is read again", F_TEXT("topic", topic),
				F_INT("partition", msg->partition), F_INT("offset", msg->offset));
	pthread_mutex_lock(&c->lock);
	for (int i = 0; i < c->n_parts; i++)
		if (c->parts[i]->number == msg->partition && partition_working(c->parts[i]) && !c->parts[i]->held)
			partition_set_state(c->parts[i], PARTITION_DETACHING, "a record came outside of its queue");
	pthread_mutex_unlock(&c->lock);
}

static void
consumer_error(Consume *c, const rd_kafka_message_t *msg)
{
	char text[300];

	switch (msg->err)
	{
		case RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART:
		case RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC:
		case RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED:
			snprintf(text, sizeof(text), "topic \"%s\": %s", c->topic, rd_kafka_err2str(msg->err));
			health_bad(c->w, HEALTH_TOPIC, text,
					   "create the topic, or let this client read it; the worker waits for it");
			break;
		case RD_KAFKA_RESP_ERR__MAX_POLL_EXCEEDED:
			log_warning("the poller was late and has lost its partitions",
						F_TEXT("reason", rd_kafka_message_errstr(msg)));
			break;
		default:
			kafka_note_error(c->w, msg->err, rd_kafka_message_errstr(msg));
	}
}

/* An error that ends the consumer ends the process: whoever runs it starts a new one. */
static void
check_fatal(Consume *c)
{
	char text[300];
	rd_kafka_resp_err_t error = rd_kafka_fatal_error(c->rk, text, sizeof(text));

	if (error != RD_KAFKA_RESP_ERR_NO_ERROR)
		worker_fail(c->w, "the consumer can't go on", text,
					error == RD_KAFKA_RESP_ERR_FENCED_INSTANCE_ID ? "give each process a GROUP_INSTANCE_ID of its own"
																  : NULL);
}

static void
poll_once(Consume *c)
{
	rd_kafka_message_t *msg = rd_kafka_consumer_poll(c->rk, POLL_MS);

	atomic_store(&c->w->poll_turned_ms, now_ms());
	if (msg == NULL)
		return;
	if (msg->err == RD_KAFKA_RESP_ERR_NO_ERROR)
		stray_record(c, msg);
	else
		consumer_error(c, msg);
	rd_kafka_message_destroy(msg);
	check_fatal(c);
}

void *
poller_main(void *arg)
{
	Consume *c = arg;

	while (!atomic_load(&c->close))
	{
		poll_once(c);
		fetch_change(c);
	}
	commit_and_wait(c);
	/* Calls on_rebalance() for what is still assigned, then leaves the group (a static member stays). */
	rd_kafka_consumer_close(c->rk);
	return NULL;
}

/* ---- open ---- */

static bool
set_own(const Config *config, rd_kafka_conf_t *conf, const char *group_id)
{
	return kafka_set(conf, "group.id", group_id) && kafka_set(conf, "enable.auto.commit", "false") &&
		   kafka_set(conf, "enable.auto.offset.store", "false") && kafka_set(conf, "auto.offset.reset", "error") &&
		   kafka_set(conf, "isolation.level", "read_committed") &&
		   kafka_set(conf, "partition.assignment.strategy", "range,roundrobin") &&
		   (config->group_instance_id == NULL || kafka_set(conf, "group.instance.id", config->group_instance_id));
}

/* A third of the session: with librdkafka's own 3 s a shorter session would end between two heartbeats. */
static bool
set_heartbeat(const Config *config, rd_kafka_conf_t *conf)
{
	char text[24];
	size_t size = sizeof(text);
	long session;

	if (rd_kafka_conf_get(conf, "session.timeout.ms", text, &size) != RD_KAFKA_CONF_OK)
		return false;
	session = strtol(text, NULL, 10);
	snprintf(text, sizeof(text), "%ld", session / 3 < 3000 ? session / 3 : 3000);
	return kafka_default(config, conf, "heartbeat.interval.ms", text);
}

/* Two seconds of data, a missing topic and new partitions noticed soon; the user may choose otherwise. */
static bool
set_defaults(const Config *config, rd_kafka_conf_t *conf)
{
	return kafka_default(config, conf, "queued.max.messages.kbytes", "16384") &&
		   kafka_default(config, conf, "topic.metadata.refresh.interval.ms", "10000") &&
		   kafka_default(config, conf, "session.timeout.ms", "30000") &&
		   kafka_default(config, conf, "fetch.error.backoff.ms", "200") &&
		   kafka_default(config, conf, "statistics.interval.ms", STATISTICS_MS) && set_heartbeat(config, conf);
}

bool
poller_open(Consume *c, char *error, size_t size)
{
	rd_kafka_conf_t *conf = kafka_conf(c->w, error, size);
	rd_kafka_topic_partition_list_t *topics;
	rd_kafka_resp_err_t result;

	if (conf == NULL)
		return false;
	rd_kafka_conf_set_rebalance_cb(conf, on_rebalance);
	rd_kafka_conf_set_offset_commit_cb(conf, on_commit);
	rd_kafka_conf_set_stats_cb(conf, on_statistics);
	if (!set_defaults(&c->w->config, conf) || !set_own(&c->w->config, conf, c->group_id))
	{
		snprintf(error, size, "librdkafka refuses a setting, see the log");
		rd_kafka_conf_destroy(conf);
		return false;
	}
	c->rk = rd_kafka_new(RD_KAFKA_CONSUMER, conf, error, size);
	if (c->rk == NULL)
	{
		rd_kafka_conf_destroy(conf);
		return false;
	}
	rd_kafka_poll_set_consumer(c->rk);
	topics = rd_kafka_topic_partition_list_new(1);
	rd_kafka_topic_partition_list_add(topics, c->topic, RD_KAFKA_PARTITION_UA);
	result = rd_kafka_subscribe(c->rk, topics);
	rd_kafka_topic_partition_list_destroy(topics);
	snprintf(error, size, "could not subscribe: %s", rd_kafka_err2str(result));
	return result == RD_KAFKA_RESP_ERR_NO_ERROR;
}
