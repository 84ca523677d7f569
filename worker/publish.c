/*
 * publish.c
 *	  The publish pump: reads the outbox in id order, produces, and advances a watermark per topic.
 *
 * The walk of a row: outbox_read() gives it; publish_row() hands it to the producer with an entry of the Watermark
 * (watermark.h); its delivery report comes in publish_poll(); when all before it in its topic have been delivered too,
 * publish_advance() tells the database, in one transaction with the receipts of dead letters' replays. Until then a crash
 * sends it again, with the same event id.
 *
 * One publisher of a database is active: it holds the advisory lock of outbox_lock() in its session. The others ask again
 * every few seconds. With the session the lock is gone, and with it all that we know of watermarks: what is in flight then
 * is repeated, never skipped.
 *
 * What can go wrong, and what then happens:
 *	the session ends		forget the entries, connect, lock, read from the watermarks
 *	the database refuses	back off, call again; entries are kept
 *	the broker is away		librdkafka keeps the records (no time-out) and the window of WINDOW_ROWS fills up
 *	a topic is refused		(it is missing, we may not write to it) it is blocked for a while, other topics go on
 *	a record is refused		for good, by a batch of it alone: the watermark passes it, it goes to outbox_failed or, as a
 *							dead letter's retry, back to pending; before that it is sent alone, since a batch is refused whole
 *	the producer fails		(a fatal error, or a record lost by no fault of its own) another one, from the watermarks
 * Order holds in all of them: within a producer, a failure that would leave a gap is fatal (enable.gapless.guarantee), and
 * nothing of a topic is sent past a failed record of it.
 *
 * Thread: publisher, all of it but publish_start() and publish_stop().
 */
#include <arpa/inet.h>
#include <endian.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "db.h"
#include "kafka.h"
#include "log.h"
#include "publish.h"
#include "sentinai_wire.h"
#include "watermark.h"
#include "worker.h"

/* How much may be on its way. Kept below librdkafka's own limits, so that its queue is never what is full. */
#define WINDOW_ROWS 50000
#define WINDOW_BYTES (64 * 1024 * 1024)
#define READ_ROWS 2000
#define READ_BYTES (8 * 1024 * 1024)

/* A new watermark is a commit: so often while records are on their way, at once when none is. */
#define ADVANCE_MS 20

#define STANDBY_MS 2000		/* the others try the lock so often */
#define IDLE_WAIT_MS 500	/* a wait for rows, and so the longest delay of a stop */
#define REPORT_WAIT_MS 5	/* a wait for delivery reports while rows may come */
#define SILENT_AFTER_MS 200 /* while no reports come the database is asked less often */
#define SILENT_WAIT_MS 100
#define TICK_MS 1000	   /* health and gauges */
#define SILENCE_MS 5000	   /* without any delivery report while records wait: health is degraded */
#define BACKOFF_MIN_MS 500 /* after an error of the database or the producer */
#define BACKOFF_MAX_MS 30000
#define DRAIN_MS 10000	 /* a failed producer gives back its records within this */
#define METADATA_MS 2000 /* a broker answers within this, or the question is put again later */
#define REST_MS 1000	 /* a stopping publisher reads no longer than this */
/* librdkafka's highest: a dead letter goes back as large as it came, and the topic says what is too large for it */
#define MESSAGE_MAX_BYTES "1000000000"

typedef struct Publish
{
	Worker *w;
	pthread_t thread;
	Db *db;
	rd_kafka_t *rk; /* NULL: none now */
	Watermark *marks;
	const char *state; /* for the log: a line a change; a constant */
	int session;	   /* of db, that marks and lock belong to; 0: none */
	int64_t backoff_ms;
	atomic_bool finish; /* set by publish_stop(): nobody emits for this process any more */
	bool producer_failed;
	char producer_error[256];
	bool reported; /* delivery reports have come since the last advance */
	int64_t advanced_ms;
	int64_t progress_ms; /* of the last delivery report, or of the first record after none was on its way */
	int64_t tick_ms;
} Publish;

static const DbStatement statement_lock = {
	"publish_lock",
	"SELECT a.active, CASE WHEN a.active THEN sentinai.outbox_lock() END AS locked"
	" FROM (SELECT sentinai.is_active() AS active) a",
	0};

static const DbStatement statement_read = {
	"publish_read",
	"SELECT id, topic, partition, key, headers, value, dlq_id, dlq_token::text FROM sentinai.outbox_read($1, $2, $3::text[])",
	3};

static const DbStatement statement_rewind = {"publish_rewind", "SELECT sentinai.outbox_rewind()", 0};

static const DbStatement statement_wait = {"publish_wait", "CALL sentinai.outbox_wait($1)", 1};

static const DbStatement statement_advance = {
	"publish_advance",
	"SELECT sentinai.outbox_advance($1::text[], $2::bigint[], $3::bigint[], $4::uuid[], $5::text[], $6::integer[],"
	" $7::bigint[], $8::bigint[], $9::text[], $10::text[])",
	10};

/* Columns of statement_read. */
enum
{
	COLUMN_ID,
	COLUMN_TOPIC,
	COLUMN_PARTITION,
	COLUMN_KEY,
	COLUMN_HEADERS,
	COLUMN_VALUE,
	COLUMN_DLQ_ID,
	COLUMN_DLQ_TOKEN
};

/* ---- state, backing off ---- */

static void
publish_set_state(Publish *p, const char *state)
{
	if (p->state == state)
		return;
	p->state = state;
	log_info("publisher", F_TEXT("state", state));
}

static void
back_off(Publish *p)
{
	p->backoff_ms = p->backoff_ms == 0 ? BACKOFF_MIN_MS : p->backoff_ms * 2;
	if (p->backoff_ms > BACKOFF_MAX_MS)
		p->backoff_ms = BACKOFF_MAX_MS;
	worker_wait(p->w, -1, with_jitter(p->backoff_ms));
}

/* A call of the database has failed. Its connection, where that is lost, has its own line and backoff. */
static void
database_failed(Publish *p)
{
	const DbError *error = db_error(p->db);

	if (error->lost)
		return;
	health_bad(p->w, HEALTH_PUBLISH, error->message, error->hint);
	back_off(p);
}

/* ---- the producer ---- */

/*
 * Whether the fault is the record's or the topic's. Anything else is the producer's: its records are sent again by
 * another one.
 */
static bool
is_refusal(rd_kafka_resp_err_t error)
{
	switch (error)
	{
		case RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC:
		case RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION:
		case RD_KAFKA_RESP_ERR__INVALID_ARG:
		case RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART:
		case RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION:
		case RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED:
		case RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE:
		case RD_KAFKA_RESP_ERR_INVALID_MSG:
		case RD_KAFKA_RESP_ERR_INVALID_MSG_SIZE:
		case RD_KAFKA_RESP_ERR_INVALID_RECORD:
		case RD_KAFKA_RESP_ERR_RECORD_LIST_TOO_LARGE:
		case RD_KAFKA_RESP_ERR_INVALID_TIMESTAMP:
		case RD_KAFKA_RESP_ERR_POLICY_VIOLATION:
			return true;
		default:
			return false;
	}
}

/*
 * Whether no later try of the same record can go well, as far as the error alone says.
 *
 * Not among them: INVALID_MSG is a batch that was damaged on its way, INVALID_TIMESTAMP a clock that can be set right,
 * and all that says that the topic is missing or not ours is over once it is there or ours.
 */
static bool
is_final(rd_kafka_resp_err_t error)
{
	switch (error)
	{
		case RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE:	  /* larger than the topic's max.message.bytes */
		case RD_KAFKA_RESP_ERR_RECORD_LIST_TOO_LARGE: /* larger than a segment of the topic */
		case RD_KAFKA_RESP_ERR_INVALID_RECORD:	/* the topic's rules forbid it: as no key, where it is compacted */
		case RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION: /* no topic can have that name, or none but brokers may write to it */
		case RD_KAFKA_RESP_ERR__INVALID_ARG:	/* librdkafka can't make a record of it: headers or name are not such */
		case RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION: /* the topic has fewer partitions: see partition_is_missing() */
			return true;
		default:
			return false;
	}
}

/* librdkafka's word may be old, or be about a topic that is just being made: the broker is asked. */
static bool
partition_is_missing(Publish *p, const char *topic, int32_t partition)
{
	rd_kafka_topic_t *handle = partition < 0 ? NULL : rd_kafka_topic_new(p->rk, topic, NULL);
	const struct rd_kafka_metadata *metadata;
	bool missing = false;

	if (handle == NULL)
		return false;
	if (rd_kafka_metadata(p->rk, 0, handle, &metadata, METADATA_MS) == RD_KAFKA_RESP_ERR_NO_ERROR)
	{
		if (metadata->topic_cnt == 1 && metadata->topics[0].err == RD_KAFKA_RESP_ERR_NO_ERROR)
			missing = metadata->topics[0].partition_cnt > 0 && partition >= metadata->topics[0].partition_cnt;
		rd_kafka_metadata_destroy(metadata);
	}
	rd_kafka_topic_destroy(handle);
	return missing;
}

static void
producer_fails(Publish *p, const char *reason)
{
	if (!p->producer_failed)
		snprintf(p->producer_error, sizeof(p->producer_error), "%s", reason);
	p->producer_failed = true;
}

/* A record that can't go where it shall, and maybe only one that was in a batch with such: then it gets a batch of its own. */
static void
row_refused(Publish *p, WatermarkEntry *entry, const char *topic, rd_kafka_resp_err_t error)
{
	if (!watermark_alone(entry))
	{
		watermark_suspected(p->marks, entry);
		return;
	}
	log_warning("Kafka refuses a record for good", F_TEXT("topic", topic), F_INT("id", watermark_id(entry)),
				F_TEXT("error", rd_kafka_err2name(error)));
	p->reported = true;
	p->progress_ms = now_ms();
	p->backoff_ms = 0;
	watermark_refused(p->marks, entry, rd_kafka_err2name(error), rd_kafka_err2str(error));
}

/* entry has not arrived, or could not even be handed over. */
static void
row_failed(Publish *p, WatermarkEntry *entry, const char *topic, int32_t partition, rd_kafka_resp_err_t error)
{
	if (!is_refusal(error))
	{
		watermark_failed(p->marks, entry, NULL, 0);
		producer_fails(p, rd_kafka_err2str(error));
		return;
	}
	log_debug("Kafka refused a record", F_TEXT("topic", topic), F_TEXT("error", rd_kafka_err2name(error)));
	metrics_publish_failure(p->w->metrics, topic);
	/* of many that come back together only one that was alone is worth a question to the broker */
	if (is_final(error) && (!watermark_alone(entry) || error != RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION ||
							partition_is_missing(p, topic, partition)))
		row_refused(p, entry, topic, error);
	else
		watermark_failed(p->marks, entry, rd_kafka_err2str(error), now_ms());
}

static void
on_delivery(rd_kafka_t *rk, const rd_kafka_message_t *message, void *opaque)
{
	Publish *p = ((Worker *) opaque)->publish;
	WatermarkEntry *entry = message->_private;

	(void) rk;
	p->reported = true;
	if (message->err != RD_KAFKA_RESP_ERR_NO_ERROR)
	{
		row_failed(p, entry, rd_kafka_topic_name(message->rkt), message->partition, message->err);
		return;
	}
	p->progress_ms = now_ms();
	p->backoff_ms = 0;
	kafka_note_alive(p->w);
	watermark_delivered(p->marks, entry, message->partition, message->offset);
}

/* Brokers close connections that are idle, and a producer without records opens no other: that is no outage. */
static void
on_error(rd_kafka_t *rk, int error, const char *reason, void *opaque)
{
	Worker *w = opaque;

	(void) rk;
	if (error != RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN || watermark_in_flight(w->publish->marks) > 0)
		kafka_note_error(w, (rd_kafka_resp_err_t) error, reason);
}

/* A default, which the user's property overrides. */
static bool
set_default(const Worker *w, rd_kafka_conf_t *conf, const char *property, const char *value)
{
	for (int i = 0; i < w->config.n_kafka; i++)
		if (strcmp(w->config.kafka[i].name, property) == 0)
			return true;
	return kafka_set(conf, property, value);
}

static bool
producer_configure(Publish *p, rd_kafka_conf_t *conf)
{
	Worker *w = p->w;
	char linger[24];

	rd_kafka_conf_set_dr_msg_cb(conf, on_delivery);
	rd_kafka_conf_set_error_cb(conf, on_error);
	return kafka_set(conf, "enable.idempotence", "true") && kafka_set(conf, "enable.gapless.guarantee", "true") &&
		   kafka_set(conf, "acks", "all") && kafka_set(conf, "partitioner", "murmur2_random") &&
		   kafka_set(conf, "linger.ms", db_int_text(linger, w->config.linger_ms)) &&
		   kafka_set(conf, "message.max.bytes", MESSAGE_MAX_BYTES) &&
		   /* the database keeps the rows: giving up on a record would only make a gap */
		   kafka_set(conf, "message.timeout.ms", "0") && set_default(w, conf, "compression.codec", "lz4") &&
		   /* a missing topic is a blocked topic, soon */
		   set_default(w, conf, "topic.metadata.propagation.max.ms", "3000");
}

/* False: not now; health says why. */
static bool
producer_start(Publish *p)
{
	char error[512] = "librdkafka refuses a setting";
	rd_kafka_conf_t *conf = kafka_conf(p->w, error, sizeof(error));

	if (conf != NULL && producer_configure(p, conf))
	{
		p->rk = rd_kafka_new(RD_KAFKA_PRODUCER, conf, error, sizeof(error));
		if (p->rk != NULL)
			conf = NULL; /* its own now */
	}
	if (conf != NULL)
		rd_kafka_conf_destroy(conf);
	if (p->rk == NULL)
		health_bad(p->w, HEALTH_PUBLISH, error, NULL);
	return p->rk != NULL;
}

/* Every record comes back as delivered or failed, then the producer goes. */
static void
producer_end(Publish *p)
{
	int64_t deadline = now_ms() + DRAIN_MS;

	if (p->rk == NULL)
		return;
	rd_kafka_purge(p->rk, RD_KAFKA_PURGE_F_QUEUE | RD_KAFKA_PURGE_F_INFLIGHT);
	while (watermark_in_flight(p->marks) > 0 && now_ms() < deadline)
		rd_kafka_poll(p->rk, 50);
	rd_kafka_destroy(p->rk);
	p->rk = NULL;
	if (watermark_in_flight(p->marks) == 0)
		return;

	/* Its reports will never come: the entries are lost with it, the rows are not. */
	log_warning("a producer kept records", F_INT("records", watermark_in_flight(p->marks)));
	p->marks = watermark_new();
}

/* ---- rows to records ---- */

/* A packed field: -1 as length is NULL. False: it doesn't fit. */
static bool
take_bytes(const char **at, const char *end, const char **bytes, int32_t *length)
{
	uint32_t n;

	if (end - *at < 4)
		return false;
	memcpy(&n, *at, 4);
	*at += 4;
	*length = (int32_t) ntohl(n);
	*bytes = *length < 0 ? NULL : *at;
	if (*length > end - *at)
		return false;
	*at += *length > 0 ? *length : 0;
	return true;
}

static bool
take_name(const char **at, const char *end, const char **name, int *length)
{
	uint16_t n;

	if (end - *at < 2)
		return false;
	memcpy(&n, *at, 2);
	*at += 2;
	*length = ntohs(n);
	*name = *at;
	*at += *length;
	return *length <= end - *name;
}

/* n int32, then name str16 and value bytes32 each. False: that is not what was there. */
static bool
headers_unpack(rd_kafka_headers_t *headers, const char *packed, int length)
{
	const char *end = packed + length;
	uint32_t n = 0;

	if (length == 0)
		return true;
	if (length < 4)
		return false;
	memcpy(&n, packed, 4);
	packed += 4;
	for (n = ntohl(n); n > 0; n--)
	{
		const char *name;
		const char *value;
		int name_length;
		int32_t value_length;

		if (!take_name(&packed, end, &name, &name_length) || !take_bytes(&packed, end, &value, &value_length))
			return false;
		rd_kafka_header_add(headers, name, name_length, value, value == NULL ? 0 : value_length);
	}
	return packed == end;
}

static int64_t
column_int64(const PGresult *rows, int row, int column)
{
	uint64_t value;

	if (PQgetisnull(rows, row, column))
		return 0;
	memcpy(&value, PQgetvalue(rows, row, column), 8);
	return (int64_t) be64toh(value);
}

static int32_t
column_partition(const PGresult *rows, int row)
{
	uint32_t value;

	if (PQgetisnull(rows, row, COLUMN_PARTITION))
		return RD_KAFKA_PARTITION_UA; /* by key */
	memcpy(&value, PQgetvalue(rows, row, COLUMN_PARTITION), 4);
	return (int32_t) ntohl(value);
}

/* NULL is not empty. */
static void *
column_bytes(const PGresult *rows, int row, int column)
{
	return PQgetisnull(rows, row, column) ? NULL : PQgetvalue(rows, row, column);
}

/* NULL: the row has headers that can't be, or no hash could be had. A replay has exactly the headers that it came with. */
static rd_kafka_headers_t *
row_headers(const WorkerType *type, const PGresult *rows, int row)
{
	rd_kafka_headers_t *headers = rd_kafka_headers_new(8);
	char mark[EMITTED_HEX_LEN + 1];

	if (!headers_unpack(headers, PQgetvalue(rows, row, COLUMN_HEADERS), PQgetlength(rows, row, COLUMN_HEADERS)))
	{
		rd_kafka_headers_destroy(headers);
		return NULL;
	}
	if (!PQgetisnull(rows, row, COLUMN_DLQ_ID) || type->emitted == NULL)
		return headers;
	if (!emitted_compute(type->emitted, PQgetvalue(rows, row, COLUMN_TOPIC), column_bytes(rows, row, COLUMN_KEY),
						 PQgetlength(rows, row, COLUMN_KEY), column_bytes(rows, row, COLUMN_VALUE),
						 PQgetlength(rows, row, COLUMN_VALUE), mark))
	{
		rd_kafka_headers_destroy(headers);
		return NULL;
	}
	rd_kafka_header_add(headers, SN_HEADER_EMITTED, -1, mark, EMITTED_HEX_LEN);
	return headers;
}

/*
 * Hands the row to the producer, which copies it. entry comes back with the delivery report. Of a new topic's handle
 * librdkafka asks the broker at once; of a new topic's name, given to producev(), only with the next tick of its second.
 */
static rd_kafka_resp_err_t
row_produce(Publish *p, const WorkerType *type, const PGresult *rows, int row, WatermarkEntry *entry)
{
	rd_kafka_headers_t *headers = row_headers(type, rows, row);
	rd_kafka_topic_t *topic = rd_kafka_topic_new(p->rk, PQgetvalue(rows, row, COLUMN_TOPIC), NULL);
	rd_kafka_resp_err_t error = RD_KAFKA_RESP_ERR__INVALID_ARG;

	if (headers != NULL && topic != NULL)
		error = rd_kafka_producev(
			p->rk, RD_KAFKA_V_RKT(topic), RD_KAFKA_V_PARTITION(column_partition(rows, row)),
			RD_KAFKA_V_KEY(column_bytes(rows, row, COLUMN_KEY), PQgetlength(rows, row, COLUMN_KEY)),
			RD_KAFKA_V_VALUE(column_bytes(rows, row, COLUMN_VALUE), PQgetlength(rows, row, COLUMN_VALUE)),
			RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY), RD_KAFKA_V_HEADERS(headers), RD_KAFKA_V_OPAQUE(entry),
			RD_KAFKA_V_END);
	if (error != RD_KAFKA_RESP_ERR_NO_ERROR && headers != NULL)
		rd_kafka_headers_destroy(headers);
	if (topic != NULL)
		rd_kafka_topic_destroy(topic);
	return error;
}

static void
publish_row(Publish *p, const WorkerType *type, const PGresult *rows, int row)
{
	const char *topic = PQgetvalue(rows, row, COLUMN_TOPIC);
	int64_t id = column_int64(rows, row, COLUMN_ID);
	size_t bytes = PQgetlength(rows, row, COLUMN_KEY) + PQgetlength(rows, row, COLUMN_VALUE) +
				   PQgetlength(rows, row, COLUMN_HEADERS);

	/* A full queue is another try from the top: reports that make room may also block the topic. */
	while (!p->producer_failed && watermark_verdict(p->marks, topic, id) == WATERMARK_SEND)
	{
		WatermarkEntry *entry = watermark_sent(p->marks, topic, id, column_int64(rows, row, COLUMN_DLQ_ID),
											   column_bytes(rows, row, COLUMN_DLQ_TOKEN), bytes);
		rd_kafka_resp_err_t error = row_produce(p, type, rows, row, entry);

		if (error == RD_KAFKA_RESP_ERR_NO_ERROR)
			return;
		if (error != RD_KAFKA_RESP_ERR__QUEUE_FULL)
		{
			row_failed(p, entry, topic, column_partition(rows, row), error);
			return;
		}
		watermark_failed(p->marks, entry, NULL, 0);
		rd_kafka_poll(p->rk, REPORT_WAIT_MS);
		if (worker_phase(p->w) >= PHASE_ABORTING)
			return;
	}
}

/* A growing array literal. */
typedef struct Literal
{
	char *text;
	size_t length;
	size_t room;
} Literal;

static void
literal_add(Literal *to, const char *text, bool quote)
{
	size_t need = to->length + 2 * strlen(text) + 5;

	if (need > to->room)
	{
		to->room = need * 2;
		to->text = realloc(to->text, to->room);
		if (to->text == NULL)
			abort();
	}
	to->text[to->length] = to->length == 0 ? '{' : ',';
	to->length++;
	if (quote)
		to->text[to->length++] = '"';
	for (; *text != '\0'; text++)
	{
		if (quote && (*text == '"' || *text == '\\'))
			to->text[to->length++] = '\\';
		to->text[to->length++] = *text;
	}
	if (quote)
		to->text[to->length++] = '"';
	to->text[to->length] = '\0';
}

static void
literal_add_int(Literal *to, int64_t number)
{
	char text[24];

	literal_add(to, db_int_text(text, number), false);
}

static const char *
literal_end(Literal *literal)
{
	if (literal->length == 0)
		return "{}";
	literal->text[literal->length++] = '}'; /* literal_add() left room */
	literal->text[literal->length] = '\0';
	return literal->text;
}

static void
literal_add_topic(void *to, const char *topic)
{
	literal_add(to, topic, true);
}

/* Rows read, 0: none now, -1: the database failed. */
static int
publish_read(Publish *p)
{
	Literal held = {0};
	DbParam params[] = {DB_INT(READ_ROWS), DB_INT(READ_BYTES), DB_TEXT(NULL)};
	PGresult *rows;
	WorkerType *type;
	int n;

	watermark_each_held(p->marks, literal_add_topic, &held);
	params[2] = DB_TEXT(literal_end(&held));
	rows = db_call_binary(p->db, &statement_read, params);
	free(held.text);
	if (rows == NULL)
		return -1;
	if (watermark_in_flight(p->marks) == 0)
		p->progress_ms = now_ms();
	type = worker_type_get(p->w);
	n = PQntuples(rows);
	for (int row = 0; row < n && !p->producer_failed; row++)
		publish_row(p, type, rows, row);
	worker_type_release(type);
	PQclear(rows);
	return n;
}

/* ---- delivery reports to watermarks ---- */

static PGresult *
call_advance(Publish *p, const WatermarkAdvance *advance)
{
	enum
	{
		TOPICS,
		IDS,
		DLQ_IDS,
		TOKENS,
		RECEIPT_TOPICS,
		RECEIPT_PARTITIONS,
		RECEIPT_OFFSETS,
		REFUSED_IDS,
		REFUSED_ERRORS,
		REFUSED_MESSAGES,
		N
	};
	Literal arrays[N] = {{0}};
	DbParam params[N];
	PGresult *res;

	for (int i = 0; i < advance->n_topics; i++)
	{
		literal_add(&arrays[TOPICS], advance->topics[i], true);
		literal_add_int(&arrays[IDS], advance->ids[i]);
	}
	for (int i = 0; i < advance->n_receipts; i++)
	{
		literal_add_int(&arrays[DLQ_IDS], advance->dlq_ids[i]);
		literal_add(&arrays[TOKENS], advance->tokens[i], true);
		literal_add(&arrays[RECEIPT_TOPICS], advance->receipt_topics[i], true);
		literal_add_int(&arrays[RECEIPT_PARTITIONS], advance->receipt_partitions[i]);
		literal_add_int(&arrays[RECEIPT_OFFSETS], advance->receipt_offsets[i]);
	}
	for (int i = 0; i < advance->n_refused; i++)
	{
		literal_add_int(&arrays[REFUSED_IDS], advance->refused_ids[i]);
		literal_add(&arrays[REFUSED_ERRORS], advance->refused_errors[i], true);
		literal_add(&arrays[REFUSED_MESSAGES], advance->refused_messages[i], true);
	}
	for (int i = 0; i < N; i++)
		params[i] = DB_TEXT(literal_end(&arrays[i]));
	res = db_call(p->db, &statement_advance, params);
	for (int i = 0; i < N; i++)
		free(arrays[i].text);
	return res;
}

/* Tells the database what has been delivered. False: it failed; the same is told again next time. */
static bool
publish_advance(Publish *p)
{
	WatermarkAdvance advance;
	PGresult *res;

	p->advanced_ms = now_ms();
	p->reported = false;
	if (!watermark_collect(p->marks, &advance))
		return true;
	res = call_advance(p, &advance);
	if (res == NULL)
	{
		p->reported = true;
		return false;
	}
	PQclear(res);
	watermark_advanced(p->marks);
	metrics_published(p->w->metrics, advance.n_rows);
	return true;
}

static bool
advance_is_due(const Publish *p)
{
	return p->reported && (watermark_in_flight(p->marks) == 0 || now_ms() - p->advanced_ms >= ADVANCE_MS);
}

/* ---- health ---- */

static void
name_blocked(void *arg, const char *topic, const char *reason, int failures)
{
	char *text = arg;

	(void) failures;
	if (text[0] == '\0')
		snprintf(text, 300, "topic %s: %s", topic, reason);
}

static void
publish_tick(Publish *p)
{
	int64_t now = now_ms();
	int64_t in_flight = watermark_in_flight(p->marks);
	char reason[300] = "";

	if (now - p->tick_ms < TICK_MS)
		return;
	p->tick_ms = now;
	watermark_each_blocked(p->marks, name_blocked, reason);
	if (reason[0] != '\0')
		health_bad(p->w, HEALTH_PUBLISH, reason,
				   "the rows wait in sentinai.outbox and are tried again; make the topic take them");
	else if (in_flight > 0 && now - p->progress_ms > SILENCE_MS)
		health_bad(p->w, HEALTH_PUBLISH, "Kafka does not acknowledge records", NULL);
	else
		health_good(p->w, HEALTH_PUBLISH);
	metrics_set_publisher(p->w->metrics, true, in_flight, watermark_blocked(p->marks));
}

/* ---- the loop ---- */

static bool
publish_rewind(Publish *p)
{
	PGresult *res = db_call(p->db, &statement_rewind, NULL);

	PQclear(res);
	return res != NULL;
}

/* Another producer, from the watermarks; maybe none yet. False: the database failed. */
static bool
publish_restart_producer(Publish *p)
{
	if (p->producer_failed)
	{
		log_warning("the producer failed, another one goes on from the watermarks",
					F_TEXT("reason", p->producer_error));
		if (!publish_advance(p))
			return false;
	}
	producer_end(p);
	watermark_forget_undelivered(p->marks);
	if (p->producer_failed)
		back_off(p);
	p->producer_failed = false;
	if (!producer_start(p))
	{
		back_off(p);
		return true;
	}
	return publish_rewind(p);
}

/* Nothing was read. False: the database failed. */
static bool
publish_idle(Publish *p)
{
	DbParam params[] = {DB_INT(IDLE_WAIT_MS)};
	int64_t began = now_ms();
	PGresult *res;

	if (watermark_in_flight(p->marks) > 0)
	{
		bool silent = began - p->progress_ms > SILENT_AFTER_MS;

		rd_kafka_poll(p->rk, silent ? SILENT_WAIT_MS : REPORT_WAIT_MS);
		return true;
	}
	res = db_call(p->db, &statement_wait, params);
	PQclear(res);

	/* woken for what can't be read yet, as while a writer is between its first row and its commit: no spinning */
	if (res != NULL && now_ms() - began < 2)
		worker_wait(p->w, -1, 2);
	return res != NULL;
}

/* One turn. False: the database failed. */
static bool
publish_turn(Publish *p)
{
	int n = 0;

	if (p->rk == NULL || p->producer_failed)
		return publish_restart_producer(p);
	rd_kafka_poll(p->rk, 0);
	if (rd_kafka_fatal_error(p->rk, p->producer_error, sizeof(p->producer_error)) != RD_KAFKA_RESP_ERR_NO_ERROR)
		p->producer_failed = true;
	if (p->producer_failed)
		return true;
	if (advance_is_due(p) && !publish_advance(p))
		return false;
	publish_tick(p);
	if (watermark_unblock(p->marks, now_ms()) && !publish_rewind(p))
		return false;
	if (watermark_rows(p->marks) >= WINDOW_ROWS || watermark_bytes(p->marks) >= WINDOW_BYTES)
	{
		rd_kafka_poll(p->rk, 10 * REPORT_WAIT_MS);
		return true;
	}
	n = publish_read(p);
	return n > 0 || (n == 0 && publish_idle(p));
}

/* Until the database says that we are the publisher. False: it failed, or the process stops. */
static bool
publish_become_active(Publish *p)
{
	while (!worker_stopping(p->w))
	{
		PGresult *res = db_call(p->db, &statement_lock, NULL);
		bool active;
		bool locked;

		if (res == NULL)
			return false;
		active = db_bool(res, 0, "active");
		locked = db_bool(res, 0, "locked");
		PQclear(res);
		if (locked)
		{
			/* before the first row: not with the next tick, which may be a second away */
			metrics_set_publisher(p->w->metrics, true, watermark_in_flight(p->marks), watermark_blocked(p->marks));
			publish_set_state(p, "active");
			return true;
		}
		publish_set_state(p, active ? "standby: another process publishes" : "waiting: the database is not active");
		health_good(p->w, HEALTH_PUBLISH);
		metrics_set_publisher(p->w->metrics, false, watermark_in_flight(p->marks), 0);
		if (p->rk != NULL)
			rd_kafka_poll(p->rk, 0);
		worker_wait(p->w, -1, with_jitter(STANDBY_MS));
	}
	return false;
}

/* As long as session and process last, and the database answers. */
static void
publish_session(Publish *p)
{
	if (!publish_become_active(p))
	{
		if (!worker_stopping(p->w))
			database_failed(p);
		return;
	}
	if (db_session(p->db) != p->session)
		watermark_forget(p->marks);
	p->session = db_session(p->db);
	while (!atomic_load(&p->finish) && worker_phase(p->w) < PHASE_ABORTING)
		if (!publish_turn(p))
		{
			database_failed(p);
			break;
		}
}

/* What the last calls of consume() have emitted. */
static void
publish_rest(Publish *p)
{
	int64_t deadline = now_ms() + REST_MS;

	while (now_ms() < deadline && worker_phase(p->w) < PHASE_ABORTING && !p->producer_failed &&
		   watermark_rows(p->marks) < WINDOW_ROWS && publish_read(p) > 0)
		rd_kafka_poll(p->rk, 0);
}

/* What is in flight is given until PHASE_ABORTING. */
static void
publish_finish(Publish *p)
{
	bool active = p->session == db_session(p->db) && db_connected(p->db);
	int64_t began = now_ms();

	if (p->rk == NULL)
		return;
	if (active)
		publish_rest(p);
	while (!p->producer_failed && watermark_in_flight(p->marks) > 0 && worker_phase(p->w) < PHASE_ABORTING)
	{
		rd_kafka_flush(p->rk, 10);
		if (active && advance_is_due(p))
			active = publish_advance(p);
	}
	if (active)
		publish_advance(p);
	if (watermark_in_flight(p->marks) > 0)
		log_warning("records are left for the next publisher", F_INT("rows", watermark_in_flight(p->marks)),
					F_INT("waited_ms", now_ms() - began));
	producer_end(p);
}

/* The session has ended, or failed: the next publisher is who gets the lock then. */
static void
publish_inactive(Publish *p)
{
	p->state = NULL;
	metrics_set_publisher(p->w->metrics, false, watermark_in_flight(p->marks), watermark_blocked(p->marks));
}

static void *
publish_main(void *arg)
{
	Publish *p = arg;
	WorkerType *type = NULL;

	/* the secret comes with the worker type */
	while (!worker_stopping(p->w) && (type = worker_type_get(p->w)) == NULL)
		worker_wait(p->w, -1, 100);
	worker_type_release(type);
	while (db_connect(p->db))
	{
		publish_session(p);
		publish_inactive(p);
	}
	publish_finish(p);
	metrics_set_publisher(p->w->metrics, false, 0, 0);
	return NULL;
}

/* ---- life (main) ---- */

bool
publish_start(Worker *w)
{
	Publish *p = calloc(1, sizeof(Publish));

	if (p == NULL || (p->db = db_new(w, "publish")) == NULL)
	{
		free(p);
		return false;
	}
	p->w = w;
	p->marks = watermark_new();
	w->publish = p;
	if (pthread_create(&p->thread, NULL, publish_main, p) == 0)
		return true;
	w->publish = NULL;
	watermark_free(p->marks);
	db_free(p->db);
	free(p);
	return false;
}

void
publish_stop(Worker *w)
{
	Publish *p = w->publish;

	if (p == NULL)
		return;
	atomic_store(&p->finish, true);
	pthread_join(p->thread, NULL);
	w->publish = NULL;
	watermark_free(p->marks);
	db_free(p->db);
	free(p);
}
