/*
 * admin: what the tests and the demo ask a Kafka broker for, without a Java machine per question.
 *
 * Usage: admin BOOTSTRAP COMMAND [ARGUMENT...]; the commands are the rows of commands[]. Each prints its answer on
 * standard output; a refusal goes to standard error and ends the program with status 1, or 75 where the same question may
 * be answered a moment later.
 *
 * produce and consume carry records byte for byte, one a line, fields separated by tabs, bytes in hexadecimal, "-" for
 * what is null:
 *
 *     PARTITION KEY VALUE [NAME=VALUE...]                    into produce; partition -1 lets murmur2 choose
 *     PARTITION OFFSET TIMESTAMP KEY VALUE [NAME=VALUE...]   out of consume
 *
 * What isn't here: starting and stopping brokers, which is test/kafka/kafka's.
 */
#include <errno.h>
#include <librdkafka/rdkafka.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <time.h>

#define TIMEOUT_MS 30000

static rd_kafka_t *client;
static int failed_deliveries;

/* A broker that is starting, a coordinator or a leader that moves, a group that has not yet missed a member that is gone. */
static bool
passes(rd_kafka_resp_err_t error)
{
	switch (error)
	{
		case RD_KAFKA_RESP_ERR__TRANSPORT:
		case RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE:
		case RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION:
		case RD_KAFKA_RESP_ERR_BROKER_NOT_AVAILABLE:
		case RD_KAFKA_RESP_ERR_NOT_CONTROLLER:
		case RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS:
		case RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE:
		case RD_KAFKA_RESP_ERR_NOT_COORDINATOR:
		case RD_KAFKA_RESP_ERR_REBALANCE_IN_PROGRESS:
		case RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID:
		case RD_KAFKA_RESP_ERR_NON_EMPTY_GROUP:
			return true;
		default:
			return false;
	}
}

static void __attribute__((format(printf, 2, 3), noreturn)) refused(rd_kafka_resp_err_t error, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	fputs("kafka-admin: ", stderr);
	vfprintf(stderr, format, args);
	fputc('\n', stderr);
	va_end(args);
	exit(passes(error) ? EX_TEMPFAIL : 1);
}

#define die(...) refused(RD_KAFKA_RESP_ERR_NO_ERROR, __VA_ARGS__)

static long
number(const char *text)
{
	char *end;
	long value;

	errno = 0;
	value = strtol(text, &end, 10);
	if (errno != 0 || *text == '\0' || *end != '\0')
		die("not a number: \"%s\"", text);
	return value;
}

/* ------------------------------------------------------------------ the answer of an admin request */

static rd_kafka_event_t *
answer(rd_kafka_queue_t *queue)
{
	rd_kafka_event_t *event = rd_kafka_queue_poll(queue, TIMEOUT_MS);

	if (event == NULL)
		die("no answer within %d s", TIMEOUT_MS / 1000);
	if (rd_kafka_event_error(event) != RD_KAFKA_RESP_ERR_NO_ERROR)
		refused(rd_kafka_event_error(event), "%s", rd_kafka_event_error_string(event));
	return event;
}

static void
check_topic_results(const rd_kafka_topic_result_t **results, size_t count)
{
	for (size_t i = 0; i < count; i++)
		if (rd_kafka_topic_result_error(results[i]) != RD_KAFKA_RESP_ERR_NO_ERROR)
			refused(rd_kafka_topic_result_error(results[i]), "topic %s: %s", rd_kafka_topic_result_name(results[i]),
					rd_kafka_topic_result_error_string(results[i])
						? rd_kafka_topic_result_error_string(results[i])
						: rd_kafka_err2str(rd_kafka_topic_result_error(results[i])));
}

static void
check_group_results(const rd_kafka_group_result_t **results, size_t count)
{
	for (size_t i = 0; i < count; i++)
	{
		const rd_kafka_error_t *error = rd_kafka_group_result_error(results[i]);
		const rd_kafka_topic_partition_list_t *list = rd_kafka_group_result_partitions(results[i]);

		if (error != NULL)
			refused(rd_kafka_error_code(error), "group %s: %s", rd_kafka_group_result_name(results[i]),
					rd_kafka_error_string(error));
		for (int p = 0; list != NULL && p < list->cnt; p++)
			if (list->elems[p].err != RD_KAFKA_RESP_ERR_NO_ERROR)
				refused(list->elems[p].err, "group %s, %s/%d: %s", rd_kafka_group_result_name(results[i]),
						list->elems[p].topic, list->elems[p].partition, rd_kafka_err2str(list->elems[p].err));
	}
}

static const struct rd_kafka_metadata *
metadata(void)
{
	const struct rd_kafka_metadata *answer = NULL;
	rd_kafka_resp_err_t err = rd_kafka_metadata(client, 1, NULL, &answer, TIMEOUT_MS);

	if (err != RD_KAFKA_RESP_ERR_NO_ERROR)
		refused(err, "metadata: %s", rd_kafka_err2str(err));
	return answer;
}

/* Partitions of a topic, 0 where it isn't there. */
static int
partition_count(const char *topic)
{
	const struct rd_kafka_metadata *all = metadata();
	int count = 0;

	for (int i = 0; i < all->topic_cnt; i++)
		if (strcmp(all->topics[i].topic, topic) == 0 && all->topics[i].err == RD_KAFKA_RESP_ERR_NO_ERROR)
		{
			count = all->topics[i].partition_cnt;
			for (int p = 0; p < all->topics[i].partition_cnt; p++)
				if (all->topics[i].partitions[p].leader < 0)
					count = 0; /* created, but can't be written yet */
		}
	rd_kafka_metadata_destroy(all);
	return count;
}

/* The topic's state spreads through the broker after the answer: wait until a client sees it too. */
static void
wait_for_partitions(const char *topic, int wanted)
{
	const struct timespec pause = {.tv_nsec = 20 * 1000 * 1000};

	for (int tries = 0; partition_count(topic) != wanted; tries++)
	{
		if (tries * 20 > TIMEOUT_MS)
			die("topic %s has not come to %d partitions within %d s", topic, wanted, TIMEOUT_MS / 1000);
		nanosleep(&pause, NULL);
	}
}

static void
query_watermarks(const char *topic, int partition, int64_t *low, int64_t *high)
{
	rd_kafka_resp_err_t err = rd_kafka_query_watermark_offsets(client, topic, partition, low, high, TIMEOUT_MS);

	if (err != RD_KAFKA_RESP_ERR_NO_ERROR)
		refused(err, "offsets of %s/%d: %s", topic, partition, rd_kafka_err2str(err));
}

/* ------------------------------------------------------------------ topics */

static void
cmd_ready(char **args)
{
	(void) args;
	rd_kafka_metadata_destroy(metadata());
}

static void
cmd_topics(char **args)
{
	const struct rd_kafka_metadata *all = metadata();

	(void) args;
	for (int i = 0; i < all->topic_cnt; i++)
		printf("%s\t%d\n", all->topics[i].topic, all->topics[i].partition_cnt);
	rd_kafka_metadata_destroy(all);
}

static void
cmd_create(char **args)
{
	char error[512];
	int partitions = (int) number(args[1]);
	rd_kafka_NewTopic_t *topic = rd_kafka_NewTopic_new(args[0], partitions, 1, error, sizeof(error));
	rd_kafka_queue_t *queue = rd_kafka_queue_new(client);
	rd_kafka_event_t *event;
	const rd_kafka_topic_result_t **topics;
	size_t count;

	if (topic == NULL)
		die("%s", error);
	for (char **config = args + 2; *config != NULL; config++)
	{
		char *value = strchr(*config, '=');

		if (value == NULL)
			die("a topic's setting is NAME=VALUE, not \"%s\"", *config);
		*value++ = '\0';
		rd_kafka_NewTopic_set_config(topic, *config, value);
	}
	rd_kafka_CreateTopics(client, &topic, 1, NULL, queue);
	event = answer(queue);
	topics = rd_kafka_CreateTopics_result_topics(rd_kafka_event_CreateTopics_result(event), &count);
	check_topic_results(topics, count);
	rd_kafka_event_destroy(event);
	rd_kafka_NewTopic_destroy(topic);
	rd_kafka_queue_destroy(queue);
	wait_for_partitions(args[0], partitions);
}

static void
cmd_grow(char **args)
{
	char error[512];
	int partitions = (int) number(args[1]);
	rd_kafka_NewPartitions_t *more = rd_kafka_NewPartitions_new(args[0], partitions, error, sizeof(error));
	rd_kafka_queue_t *queue = rd_kafka_queue_new(client);
	rd_kafka_event_t *event;
	const rd_kafka_topic_result_t **topics;
	size_t count;

	if (more == NULL)
		die("%s", error);
	rd_kafka_CreatePartitions(client, &more, 1, NULL, queue);
	event = answer(queue);
	topics = rd_kafka_CreatePartitions_result_topics(rd_kafka_event_CreatePartitions_result(event), &count);
	check_topic_results(topics, count);
	rd_kafka_event_destroy(event);
	rd_kafka_NewPartitions_destroy(more);
	rd_kafka_queue_destroy(queue);
	wait_for_partitions(args[0], partitions);
}

static void
cmd_delete(char **args)
{
	rd_kafka_DeleteTopic_t *topic = rd_kafka_DeleteTopic_new(args[0]);
	rd_kafka_queue_t *queue = rd_kafka_queue_new(client);
	rd_kafka_event_t *event;
	const rd_kafka_topic_result_t **topics;
	size_t count;

	rd_kafka_DeleteTopics(client, &topic, 1, NULL, queue);
	event = answer(queue);
	topics = rd_kafka_DeleteTopics_result_topics(rd_kafka_event_DeleteTopics_result(event), &count);
	check_topic_results(topics, count);
	rd_kafka_event_destroy(event);
	rd_kafka_DeleteTopic_destroy(topic);
	rd_kafka_queue_destroy(queue);
	wait_for_partitions(args[0], 0);
}

static void
cmd_offsets(char **args)
{
	int count = partition_count(args[0]);

	if (count == 0)
		die("there is no topic %s", args[0]);
	for (int p = 0; p < count; p++)
	{
		int64_t low, high;

		query_watermarks(args[0], p, &low, &high);
		printf("%d\t%lld\t%lld\n", p, (long long) low, (long long) high);
	}
}

static void
cmd_delete_records(char **args)
{
	rd_kafka_topic_partition_list_t *before = rd_kafka_topic_partition_list_new(1);
	rd_kafka_DeleteRecords_t *request;
	rd_kafka_queue_t *queue = rd_kafka_queue_new(client);
	rd_kafka_event_t *event;
	const rd_kafka_topic_partition_list_t *result;

	rd_kafka_topic_partition_list_add(before, args[0], (int32_t) number(args[1]))->offset = number(args[2]);
	request = rd_kafka_DeleteRecords_new(before);
	rd_kafka_DeleteRecords(client, &request, 1, NULL, queue);
	event = answer(queue);
	result = rd_kafka_DeleteRecords_result_offsets(rd_kafka_event_DeleteRecords_result(event));
	for (int i = 0; i < result->cnt; i++)
	{
		if (result->elems[i].err != RD_KAFKA_RESP_ERR_NO_ERROR)
			refused(result->elems[i].err, "%s/%d: %s", result->elems[i].topic, result->elems[i].partition,
					rd_kafka_err2str(result->elems[i].err));
		printf("%s/%d now begins at %lld\n", result->elems[i].topic, result->elems[i].partition,
			   (long long) result->elems[i].offset);
	}
	rd_kafka_event_destroy(event);
	rd_kafka_DeleteRecords_destroy(request);
	rd_kafka_topic_partition_list_destroy(before);
	rd_kafka_queue_destroy(queue);
}

/* ------------------------------------------------------------------ groups */

static void
cmd_groups(char **args)
{
	rd_kafka_queue_t *queue = rd_kafka_queue_new(client);
	rd_kafka_event_t *event;
	const rd_kafka_ConsumerGroupListing_t **groups;
	size_t count;

	(void) args;
	rd_kafka_ListConsumerGroups(client, NULL, queue);
	event = answer(queue);
	groups = rd_kafka_ListConsumerGroups_result_valid(rd_kafka_event_ListConsumerGroups_result(event), &count);
	for (size_t i = 0; i < count; i++)
		printf("%s\t%s\n", rd_kafka_ConsumerGroupListing_group_id(groups[i]),
			   rd_kafka_consumer_group_state_name(rd_kafka_ConsumerGroupListing_state(groups[i])));
	rd_kafka_event_destroy(event);
	rd_kafka_queue_destroy(queue);
}

static void
print_members(const char *group)
{
	rd_kafka_queue_t *queue = rd_kafka_queue_new(client);
	rd_kafka_event_t *event;
	const rd_kafka_ConsumerGroupDescription_t **groups;
	size_t count;

	rd_kafka_DescribeConsumerGroups(client, &group, 1, NULL, queue);
	event = answer(queue);
	groups = rd_kafka_DescribeConsumerGroups_result_groups(rd_kafka_event_DescribeConsumerGroups_result(event), &count);
	for (size_t i = 0; i < count; i++)
	{
		const rd_kafka_error_t *error = rd_kafka_ConsumerGroupDescription_error(groups[i]);
		size_t members = rd_kafka_ConsumerGroupDescription_member_count(groups[i]);

		if (error != NULL)
			refused(rd_kafka_error_code(error), "group %s: %s", group, rd_kafka_error_string(error));
		printf("group %s: %s, %zu members\n", group,
			   rd_kafka_consumer_group_state_name(rd_kafka_ConsumerGroupDescription_state(groups[i])), members);
		for (size_t m = 0; m < members; m++)
		{
			const rd_kafka_MemberDescription_t *member = rd_kafka_ConsumerGroupDescription_member(groups[i], m);
			const rd_kafka_topic_partition_list_t *list =
				rd_kafka_MemberAssignment_partitions(rd_kafka_MemberDescription_assignment(member));

			printf("member %s on %s:", rd_kafka_MemberDescription_client_id(member),
				   rd_kafka_MemberDescription_host(member));
			for (int p = 0; p < list->cnt; p++)
				printf(" %s/%d", list->elems[p].topic, list->elems[p].partition);
			putchar('\n');
		}
	}
	rd_kafka_event_destroy(event);
	rd_kafka_queue_destroy(queue);
}

/* Every partition there is: the group's commits are asked for by partition. */
static rd_kafka_topic_partition_list_t *
all_partitions(void)
{
	const struct rd_kafka_metadata *all = metadata();
	rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(16);

	for (int i = 0; i < all->topic_cnt; i++)
		for (int p = 0; p < all->topics[i].partition_cnt; p++)
			rd_kafka_topic_partition_list_add(list, all->topics[i].topic, all->topics[i].partitions[p].id);
	rd_kafka_metadata_destroy(all);
	return list;
}

static void
print_commits(const char *group)
{
	rd_kafka_topic_partition_list_t *ask = all_partitions();
	rd_kafka_ListConsumerGroupOffsets_t *request;
	rd_kafka_queue_t *queue;
	rd_kafka_event_t *event;
	const rd_kafka_group_result_t **results;
	const rd_kafka_topic_partition_list_t *list;
	size_t count;

	printf("%-24s %9s %14s %14s %8s\n", "TOPIC", "PARTITION", "CURRENT-OFFSET", "LOG-END-OFFSET", "LAG");
	if (ask->cnt == 0)
	{
		rd_kafka_topic_partition_list_destroy(ask);
		return;
	}
	queue = rd_kafka_queue_new(client);
	request = rd_kafka_ListConsumerGroupOffsets_new(group, ask);
	rd_kafka_ListConsumerGroupOffsets(client, &request, 1, NULL, queue);
	event = answer(queue);
	results =
		rd_kafka_ListConsumerGroupOffsets_result_groups(rd_kafka_event_ListConsumerGroupOffsets_result(event), &count);
	check_group_results(results, count);
	list = rd_kafka_group_result_partitions(results[0]);
	for (int p = 0; p < list->cnt; p++)
	{
		const rd_kafka_topic_partition_t *at = &list->elems[p];
		int64_t low, high;

		if (at->offset < 0)
			continue;
		query_watermarks(at->topic, at->partition, &low, &high);
		printf("%-24s %9d %14lld %14lld %8lld\n", at->topic, at->partition, (long long) at->offset, (long long) high,
			   (long long) (high - at->offset));
	}
	rd_kafka_event_destroy(event);
	rd_kafka_ListConsumerGroupOffsets_destroy(request);
	rd_kafka_topic_partition_list_destroy(ask);
	rd_kafka_queue_destroy(queue);
}

static void
cmd_describe(char **args)
{
	print_members(args[0]);
	print_commits(args[0]);
}

static void
cmd_commit(char **args)
{
	rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
	rd_kafka_AlterConsumerGroupOffsets_t *request;
	rd_kafka_queue_t *queue = rd_kafka_queue_new(client);
	rd_kafka_event_t *event;
	const rd_kafka_group_result_t **groups;
	size_t count;

	rd_kafka_topic_partition_list_add(list, args[1], (int32_t) number(args[2]))->offset = number(args[3]);
	request = rd_kafka_AlterConsumerGroupOffsets_new(args[0], list);
	rd_kafka_AlterConsumerGroupOffsets(client, &request, 1, NULL, queue);
	event = answer(queue);
	groups = rd_kafka_AlterConsumerGroupOffsets_result_groups(rd_kafka_event_AlterConsumerGroupOffsets_result(event),
															  &count);
	check_group_results(groups, count);
	rd_kafka_event_destroy(event);
	rd_kafka_AlterConsumerGroupOffsets_destroy(request);
	rd_kafka_topic_partition_list_destroy(list);
	rd_kafka_queue_destroy(queue);
}

static void
cmd_delete_group(char **args)
{
	rd_kafka_DeleteGroup_t *group = rd_kafka_DeleteGroup_new(args[0]);
	rd_kafka_queue_t *queue = rd_kafka_queue_new(client);
	rd_kafka_event_t *event;
	const rd_kafka_group_result_t **groups;
	size_t count;

	rd_kafka_DeleteGroups(client, &group, 1, NULL, queue);
	event = answer(queue);
	groups = rd_kafka_DeleteGroups_result_groups(rd_kafka_event_DeleteGroups_result(event), &count);
	check_group_results(groups, count);
	rd_kafka_event_destroy(event);
	rd_kafka_DeleteGroup_destroy(group);
	rd_kafka_queue_destroy(queue);
}

/* ------------------------------------------------------------------ records, byte for byte */

static int
hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	die("not a hexadecimal digit: '%c'", c);
}

/* In place; the bytes take half the room of their digits. NULL for "-". */
static void *
unhex(char *text, size_t *length)
{
	size_t digits = strlen(text);

	*length = 0;
	if (strcmp(text, "-") == 0)
		return NULL;
	if (digits % 2 != 0)
		die("an odd number of hexadecimal digits: %zu", digits);
	for (; *length < digits / 2; (*length)++)
		text[*length] = (char) (hex_digit(text[*length * 2]) << 4 | hex_digit(text[*length * 2 + 1]));
	return text;
}

static void
print_hex(const void *bytes, size_t length)
{
	if (bytes == NULL)
	{
		putchar('-');
		return;
	}
	for (size_t i = 0; i < length; i++)
		printf("%02x", ((const unsigned char *) bytes)[i]);
}

static void
delivered(rd_kafka_t *rk, const rd_kafka_message_t *message, void *opaque)
{
	(void) rk;
	(void) opaque;
	if (message->err != RD_KAFKA_RESP_ERR_NO_ERROR)
	{
		fprintf(stderr, "kafka-admin: not delivered: %s\n", rd_kafka_err2str(message->err));
		failed_deliveries++;
	}
}

static rd_kafka_headers_t *
parse_headers(char **rest)
{
	rd_kafka_headers_t *headers = rd_kafka_headers_new(4);
	char *field;

	while ((field = strsep(rest, "\t")) != NULL)
	{
		char *value = strchr(field, '=');
		size_t length;
		void *bytes;

		if (value == NULL)
			die("a header is NAME=HEX, not \"%s\"", field);
		*value++ = '\0';
		bytes = unhex(value, &length);
		rd_kafka_header_add(headers, field, -1, bytes, (ssize_t) length);
	}
	return headers;
}

static void
produce_line(const char *topic, char *line)
{
	char *partition = strsep(&line, "\t");
	char *key = strsep(&line, "\t");
	char *value = strsep(&line, "\t");
	rd_kafka_headers_t *headers;
	rd_kafka_error_t *error;
	rd_kafka_vu_t vus[6];
	size_t key_length, value_length;

	if (value == NULL)
		die("a record is PARTITION, KEY, VALUE and headers, separated by tabs");
	headers = parse_headers(&line);
	key = unhex(key, &key_length);
	value = unhex(value, &value_length);

	vus[0] = (rd_kafka_vu_t){.vtype = RD_KAFKA_VTYPE_TOPIC, .u.cstr = topic};
	vus[1] = (rd_kafka_vu_t){.vtype = RD_KAFKA_VTYPE_PARTITION, .u.i32 = (int32_t) number(partition)};
	vus[2] = (rd_kafka_vu_t){.vtype = RD_KAFKA_VTYPE_KEY, .u.mem = {key, key_length}};
	vus[3] = (rd_kafka_vu_t){.vtype = RD_KAFKA_VTYPE_VALUE, .u.mem = {value, value_length}};
	vus[4] = (rd_kafka_vu_t){.vtype = RD_KAFKA_VTYPE_MSGFLAGS, .u.i = RD_KAFKA_MSG_F_COPY | RD_KAFKA_MSG_F_BLOCK};
	vus[5] = (rd_kafka_vu_t){.vtype = RD_KAFKA_VTYPE_HEADERS, .u.headers = headers};
	error = rd_kafka_produceva(client, vus, 6);
	if (error != NULL)
		die("%s", rd_kafka_error_string(error));
	rd_kafka_poll(client, 0);
}

static void
cmd_produce(char **args)
{
	char *line = NULL;
	size_t size = 0;
	ssize_t length;

	while ((length = getline(&line, &size, stdin)) > 0)
	{
		if (line[length - 1] == '\n')
			line[length - 1] = '\0';
		produce_line(args[0], line);
	}
	free(line);
	if (rd_kafka_flush(client, TIMEOUT_MS) != RD_KAFKA_RESP_ERR_NO_ERROR)
		die("not delivered within %d s", TIMEOUT_MS / 1000);
	if (failed_deliveries > 0)
		die("%d records not delivered", failed_deliveries);
}

static void
print_record(const rd_kafka_message_t *message)
{
	rd_kafka_headers_t *headers;
	const char *name;
	const void *value;
	size_t length;

	printf("%d\t%lld\t%lld\t", message->partition, (long long) message->offset,
		   (long long) rd_kafka_message_timestamp(message, NULL));
	print_hex(message->key, message->key_len);
	putchar('\t');
	print_hex(message->payload, message->len);
	if (rd_kafka_message_headers(message, &headers) == RD_KAFKA_RESP_ERR_NO_ERROR)
		for (size_t i = 0; rd_kafka_header_get_all(headers, i, &name, &value, &length) == RD_KAFKA_RESP_ERR_NO_ERROR;
			 i++)
		{
			printf("\t%s=", name);
			print_hex(value, length);
		}
	putchar('\n');
}

/* Prints what the partition holds from its beginning up to its end of now. */
static void
consume_partition(rd_kafka_topic_t *topic, int partition)
{
	bool at_end = false;

	if (rd_kafka_consume_start(topic, partition, RD_KAFKA_OFFSET_BEGINNING) != 0)
		die("partition %d: %s", partition, rd_kafka_err2str(rd_kafka_last_error()));
	while (!at_end)
	{
		rd_kafka_message_t *message = rd_kafka_consume(topic, partition, TIMEOUT_MS);

		if (message == NULL)
			die("partition %d: nothing came within %d s", partition, TIMEOUT_MS / 1000);
		if (message->err == RD_KAFKA_RESP_ERR__PARTITION_EOF)
			at_end = true;
		else if (message->err != RD_KAFKA_RESP_ERR_NO_ERROR)
			die("partition %d: %s", partition, rd_kafka_message_errstr(message));
		else
			print_record(message);
		rd_kafka_message_destroy(message);
	}
	rd_kafka_consume_stop(topic, partition);
}

static void
cmd_consume(char **args)
{
	int count = partition_count(args[0]);
	rd_kafka_topic_t *topic = rd_kafka_topic_new(client, args[0], NULL);

	if (count == 0)
		die("there is no topic %s", args[0]);
	for (int p = 0; p < count; p++)
		consume_partition(topic, p);
	rd_kafka_topic_destroy(topic);
}

/* ------------------------------------------------------------------ the table of commands */

static const struct command
{
	const char *name;
	int min_args;
	int max_args;
	rd_kafka_type_t type;
	void (*run)(char **args);
	const char *usage;
} commands[] = {
	{"ready", 0, 0, RD_KAFKA_PRODUCER, cmd_ready, ""},
	{"topics", 0, 0, RD_KAFKA_PRODUCER, cmd_topics, ""},
	{"create", 2, 99, RD_KAFKA_PRODUCER, cmd_create, "TOPIC PARTITIONS [NAME=VALUE...]"},
	{"grow", 2, 2, RD_KAFKA_PRODUCER, cmd_grow, "TOPIC PARTITIONS"},
	{"delete", 1, 1, RD_KAFKA_PRODUCER, cmd_delete, "TOPIC"},
	{"offsets", 1, 1, RD_KAFKA_PRODUCER, cmd_offsets, "TOPIC"},
	{"delete-records", 3, 3, RD_KAFKA_PRODUCER, cmd_delete_records, "TOPIC PARTITION OFFSET"},
	{"groups", 0, 0, RD_KAFKA_PRODUCER, cmd_groups, ""},
	{"describe", 1, 1, RD_KAFKA_PRODUCER, cmd_describe, "GROUP"},
	{"commit", 4, 4, RD_KAFKA_PRODUCER, cmd_commit, "GROUP TOPIC PARTITION OFFSET"},
	{"delete-group", 1, 1, RD_KAFKA_PRODUCER, cmd_delete_group, "GROUP"},
	{"produce", 1, 1, RD_KAFKA_PRODUCER, cmd_produce, "TOPIC"},
	{"consume", 1, 1, RD_KAFKA_CONSUMER, cmd_consume, "TOPIC"},
};

static void
set(rd_kafka_conf_t *conf, const char *name, const char *value)
{
	char error[512];

	if (rd_kafka_conf_set(conf, name, value, error, sizeof(error)) != RD_KAFKA_CONF_OK)
		die("%s", error);
}

static void
connect_as(rd_kafka_type_t type, const char *bootstrap)
{
	char error[512];
	rd_kafka_conf_t *conf = rd_kafka_conf_new();

	set(conf, "bootstrap.servers", bootstrap);
	set(conf, "client.id", "kafka-admin");
	set(conf, "log_level", "0");
	if (type == RD_KAFKA_PRODUCER)
	{
		set(conf, "partitioner", "murmur2_random");
		set(conf, "linger.ms", "1");
		set(conf, "message.max.bytes", "16777216");
		rd_kafka_conf_set_dr_msg_cb(conf, delivered);
	}
	else
	{
		set(conf, "enable.partition.eof", "true");
		set(conf, "fetch.wait.max.ms", "10");
	}
	client = rd_kafka_new(type, conf, error, sizeof(error));
	if (client == NULL)
		die("%s", error);
}

static void __attribute__((noreturn)) usage(void)
{
	fputs("usage: kafka-admin BOOTSTRAP COMMAND [ARGUMENT...]\n", stderr);
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
		fprintf(stderr, "  %s %s\n", commands[i].name, commands[i].usage);
	exit(2);
}

int
main(int argc, char **argv)
{
	if (argc < 3)
		usage();
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
		if (strcmp(commands[i].name, argv[2]) == 0)
		{
			if (argc - 3 < commands[i].min_args || argc - 3 > commands[i].max_args)
				usage();
			connect_as(commands[i].type, argv[1]);
			commands[i].run(argv + 3);
			rd_kafka_destroy(client);
			return 0;
		}
	usage();
}
