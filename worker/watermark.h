/*
 * watermark.h
 *	  Which rows of the outbox are on their way to Kafka, and how far each topic has come: the contiguous prefix of delivered
 *	  rows, which is what the database may forget.
 *
 * A row is an entry from watermark_sent() until its delivery report has come and, if that was good, the database has the
 * new watermark. Entries of one topic stand in id order. A topic with a failure is blocked: its rows from the first failed
 * one on are forgotten here (the database still has them), and refused until watermark_unblock().
 *
 * A refusal is of a batch of records, and one of them may be the cause. A topic that had one is cautious: it gets one row
 * at a time until one has arrived. A row that is refused alone is the cause itself.
 *
 * No thread, no clock, no I/O: all of it belongs to the publisher's thread.
 */
#ifndef WORKER_WATERMARK_H
#define WORKER_WATERMARK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define WATERMARK_TOKEN_LEN 36
#define WATERMARK_BLOCK_MS 1000
#define WATERMARK_BLOCK_MAX_MS 30000

typedef struct Watermark Watermark;
typedef struct WatermarkEntry WatermarkEntry;

typedef enum WatermarkVerdict
{
	WATERMARK_SEND,		  /* hand it to the producer */
	WATERMARK_ON_ITS_WAY, /* sent already, by this session of the publisher */
	WATERMARK_BLOCKED	  /* not now: the topic has a failure */
} WatermarkVerdict;

/* What outbox_advance() is told. The strings belong to the Watermark and hold until watermark_advanced(). */
typedef struct WatermarkAdvance
{
	int n_topics;
	const char **topics;
	int64_t *ids;
	int n_receipts; /* of replays of dead letters */
	int64_t *dlq_ids;
	const char **tokens;
	const char **receipt_topics;
	int32_t *receipt_partitions;
	int64_t *receipt_offsets;
	int n_refused; /* rows that Kafka will never take */
	int64_t *refused_ids;
	const char **refused_errors;
	const char **refused_messages;
	int64_t n_rows; /* delivered rows below the new watermarks that are not below the old ones */
} WatermarkAdvance;

typedef void (*WatermarkHeldFn)(void *arg, const char *topic);
typedef void (*WatermarkBlockedFn)(void *arg, const char *topic, const char *reason, int failures);

extern Watermark *watermark_new(void);
extern void watermark_free(Watermark *w);

extern WatermarkVerdict watermark_verdict(Watermark *w, const char *topic, int64_t id);

/* After WATERMARK_SEND. token may be NULL. The entry comes back through exactly one of the next four functions. */
extern WatermarkEntry *
watermark_sent(Watermark *w, const char *topic, int64_t id, int64_t dlq_id, const char *token, size_t bytes);
extern void watermark_delivered(Watermark *w, WatermarkEntry *entry, int32_t partition, int64_t offset);

/*
 * The entry will not arrive; what was sent after it to the same topic is forgotten, too. With a reason the fault is the
 * row's or the topic's, which is blocked from now (any clock of milliseconds) for a second, doubling to 30; without one it
 * is the producer's.
 */
extern void watermark_failed(Watermark *w, WatermarkEntry *entry, const char *reason, int64_t now_ms);

/*
 * Kafka won't take the entry, or a record that was in one batch with it: what was sent from it on is forgotten, and its
 * topic is cautious from now.
 */
extern void watermark_suspected(Watermark *w, WatermarkEntry *entry);

/* No other row of its topic was on its way with this one. */
extern bool watermark_alone(const WatermarkEntry *entry);
extern int64_t watermark_id(const WatermarkEntry *entry);

/* Kafka will never take the entry, which was alone: the topic goes on behind it. error and message are constants. */
extern void watermark_refused(Watermark *w, WatermarkEntry *entry, const char *error, const char *message);

/*
 * A topic whose time has come gets one row, and with its delivery all others. True: there are rows to send that were
 * refused before, and the caller reads again from the watermarks.
 */
extern bool watermark_unblock(Watermark *w, int64_t now_ms);

/* Topics whose next row would be refused here now: there is no use in reading theirs. */
extern void watermark_each_held(Watermark *w, WatermarkHeldFn fn, void *arg);
extern void watermark_each_blocked(Watermark *w, WatermarkBlockedFn fn, void *arg);
extern int watermark_blocked(const Watermark *w);

/* False: there is nothing to tell. The arrays hold until the next call of this or watermark_free(). */
extern bool watermark_collect(Watermark *w, WatermarkAdvance *advance);
extern void watermark_advanced(Watermark *w); /* the database has what watermark_collect() gave */

/* The producer has given up: what has not been delivered will be read and sent again. Delivered prefixes are kept. */
extern void watermark_forget_undelivered(Watermark *w);

/* The database session has ended, and with it what we know of its watermarks; blocked topics stay so. */
extern void watermark_forget(Watermark *w);

/* Entries that wait for a delivery report, and all (with those that the database has not heard of); payload bytes of all. */
extern int64_t watermark_in_flight(const Watermark *w);
extern int64_t watermark_rows(const Watermark *w);
extern int64_t watermark_bytes(const Watermark *w);

#endif /* WORKER_WATERMARK_H */
