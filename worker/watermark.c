/*
 * watermark.c
 *	  Delivery reports -> a watermark per topic; see watermark.h for the nouns.
 *
 * A topic's list holds its entries in id order. An entry that is no longer wanted while its report is still to come is
 * orphaned: taken off the list (topic NULL), and freed by the report.
 */
#include "watermark.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

typedef struct Topic Topic;

struct WatermarkEntry
{
	Topic *topic; /* NULL: an orphan */
	WatermarkEntry *next;
	int64_t id;
	int64_t dlq_id;
	int64_t offset;
	size_t bytes;
	int32_t partition;
	bool delivered;	   /* or refused */
	bool alone;		   /* nothing else of its topic was on its way when it was sent, nor is since */
	const char *error; /* its refusal; NULL: it has arrived */
	const char *message;
	char token[WATERMARK_TOKEN_LEN + 1];
};

struct Topic
{
	char *name;
	WatermarkEntry *first;
	WatermarkEntry *last;
	int64_t last_sent; /* rows up to here are on the list, or known to the database; 0: none */
	int64_t advanced;  /* rows up to here are known to the database; 0: we know of none */
	int64_t collected; /* what watermark_collect() has given last */
	bool blocked;
	int64_t blocked_until;
	int failures;  /* in a row; back at 0 with a delivery */
	bool cautious; /* until a delivery */
	char *reason;
};

struct Watermark
{
	Topic **topics; /* sorted by name */
	int n_topics;
	Topic *latest;	/* of the last look-up: rows of a topic come in runs */
	bool recovered; /* rows of a topic were refused here that may be sent now */
	int64_t in_flight;
	int64_t rows;
	int64_t bytes;
	WatermarkAdvance advance;
	int max_topics; /* room in advance's arrays */
	int max_receipts;
	int max_refused;
};

/* This process has no use without memory. */
static void *
must(void *pointer)
{
	if (pointer == NULL)
		abort();
	return pointer;
}

Watermark *
watermark_new(void)
{
	return must(calloc(1, sizeof(Watermark)));
}

static Topic *
topic_get(Watermark *w, const char *name)
{
	int low = 0;
	int high = w->n_topics;
	Topic *topic;

	if (w->latest != NULL && strcmp(w->latest->name, name) == 0)
		return w->latest;
	while (low < high)
	{
		int middle = low + (high - low) / 2;
		int order = strcmp(w->topics[middle]->name, name);

		if (order == 0)
			return w->latest = w->topics[middle];
		if (order < 0)
			low = middle + 1;
		else
			high = middle;
	}
	topic = must(calloc(1, sizeof(Topic)));
	topic->name = must(strdup(name));
	w->topics = must(realloc(w->topics, (size_t) (w->n_topics + 1) * sizeof(Topic *)));
	memmove(w->topics + low + 1, w->topics + low, (size_t) (w->n_topics - low) * sizeof(Topic *));
	w->topics[low] = topic;
	w->n_topics++;
	return w->latest = topic;
}

/* One row shows whether it is over. */
static bool
topic_alone(const Topic *topic)
{
	return topic->failures > 0 || topic->cautious;
}

/* Nothing is sent to it now. */
static bool
topic_held(const Topic *topic)
{
	return topic->blocked || (topic_alone(topic) && topic->last != NULL && !topic->last->delivered);
}

WatermarkVerdict
watermark_verdict(Watermark *w, const char *topic_name, int64_t id)
{
	Topic *topic = topic_get(w, topic_name);

	/* what is on its way is so in a blocked topic, too */
	if (id <= topic->last_sent)
		return WATERMARK_ON_ITS_WAY;
	return topic_held(topic) ? WATERMARK_BLOCKED : WATERMARK_SEND;
}

WatermarkEntry *
watermark_sent(Watermark *w, const char *topic_name, int64_t id, int64_t dlq_id, const char *token, size_t bytes)
{
	Topic *topic = topic_get(w, topic_name);
	WatermarkEntry *entry = must(calloc(1, sizeof(WatermarkEntry)));

	assert(id > topic->last_sent);
	entry->topic = topic;
	entry->id = id;
	entry->dlq_id = dlq_id;
	entry->bytes = bytes;
	entry->alone = topic_alone(topic);
	if (token != NULL)
		strncpy(entry->token, token, WATERMARK_TOKEN_LEN);
	if (topic->last != NULL)
		topic->last->next = entry;
	else
		topic->first = entry;
	topic->last = entry;
	topic->last_sent = id;
	w->in_flight++;
	w->rows++;
	w->bytes += (int64_t) bytes;
	return entry;
}

static void
entry_free(Watermark *w, WatermarkEntry *entry)
{
	w->rows--;
	w->bytes -= (int64_t) entry->bytes;
	free(entry);
}

/* Takes everything behind `keep` (NULL: all) off the topic's list. */
static void
topic_cut(Watermark *w, Topic *topic, WatermarkEntry *keep)
{
	WatermarkEntry *entry = keep == NULL ? topic->first : keep->next;

	if (keep == NULL)
		topic->first = NULL;
	else
		keep->next = NULL;
	topic->last = keep;
	topic->last_sent = keep == NULL ? topic->advanced : keep->id;
	while (entry != NULL)
	{
		WatermarkEntry *next = entry->next;

		entry->topic = NULL;
		entry->next = NULL;
		if (entry->delivered)
			entry_free(w, entry);
		entry = next;
	}
}

void
watermark_delivered(Watermark *w, WatermarkEntry *entry, int32_t partition, int64_t offset)
{
	w->in_flight--;
	if (entry->topic == NULL)
	{
		entry_free(w, entry);
		return;
	}
	if (topic_alone(entry->topic) && !entry->topic->blocked)
	{
		entry->topic->failures = 0;
		entry->topic->cautious = false;
		w->recovered = true;
	}
	entry->delivered = true;
	entry->partition = partition;
	entry->offset = offset;
}

static void
topic_block(Topic *topic, const char *reason, int64_t now_ms)
{
	int64_t wait = topic->failures > 5 ? WATERMARK_BLOCK_MAX_MS : WATERMARK_BLOCK_MS << topic->failures;

	topic->blocked = true;
	topic->blocked_until = now_ms + (wait < WATERMARK_BLOCK_MAX_MS ? wait : WATERMARK_BLOCK_MAX_MS);
	topic->failures++;
	free(topic->reason);
	topic->reason = must(strdup(reason));
}

/* The entry and all behind it are forgotten. Returns its topic; NULL: it was an orphan. */
static Topic *
entry_drop(Watermark *w, WatermarkEntry *entry)
{
	Topic *topic = entry->topic;
	WatermarkEntry *before = NULL;

	w->in_flight--;
	if (topic != NULL)
	{
		if (topic->first != entry)
			for (before = topic->first; before->next != entry;)
				before = before->next;
		topic_cut(w, topic, before);
	}
	entry_free(w, entry);
	return topic;
}

void
watermark_failed(Watermark *w, WatermarkEntry *entry, const char *reason, int64_t now_ms)
{
	Topic *topic = entry_drop(w, entry);

	if (topic != NULL && reason != NULL)
		topic_block(topic, reason, now_ms);
}

void
watermark_suspected(Watermark *w, WatermarkEntry *entry)
{
	Topic *topic = entry_drop(w, entry);

	if (topic == NULL)
		return;
	topic->cautious = true;
	w->recovered = true;
}

bool
watermark_alone(const WatermarkEntry *entry)
{
	return entry->topic != NULL && entry->alone;
}

int64_t
watermark_id(const WatermarkEntry *entry)
{
	return entry->id;
}

void
watermark_refused(Watermark *w, WatermarkEntry *entry, const char *error, const char *message)
{
	assert(watermark_alone(entry));
	w->in_flight--;
	entry->delivered = true;
	entry->error = error;
	entry->message = message;
	/* the next one may be like it */
	entry->topic->cautious = true;
	entry->topic->failures = 0;
	w->recovered = true;
}

bool
watermark_unblock(Watermark *w, int64_t now_ms)
{
	bool any = w->recovered;

	w->recovered = false;
	for (int i = 0; i < w->n_topics; i++)
	{
		Topic *topic = w->topics[i];

		if (!topic->blocked || topic->blocked_until > now_ms)
			continue;
		topic->blocked = false;
		any = true;
	}
	return any;
}

void
watermark_each_held(Watermark *w, WatermarkHeldFn fn, void *arg)
{
	for (int i = 0; i < w->n_topics; i++)
		if (topic_held(w->topics[i]))
			fn(arg, w->topics[i]->name);
}

/* Also between the end of a block and the delivery that shows that it is over. */
static bool
topic_in_trouble(const Topic *topic)
{
	return topic->blocked || topic->failures > 0;
}

void
watermark_each_blocked(Watermark *w, WatermarkBlockedFn fn, void *arg)
{
	for (int i = 0; i < w->n_topics; i++)
	{
		Topic *topic = w->topics[i];

		if (topic_in_trouble(topic))
			fn(arg, topic->name, topic->reason, topic->failures);
	}
}

int
watermark_blocked(const Watermark *w)
{
	int n = 0;

	for (int i = 0; i < w->n_topics; i++)
		n += topic_in_trouble(w->topics[i]);
	return n;
}

static void
advance_add_topic(Watermark *w, const char *topic, int64_t id)
{
	WatermarkAdvance *a = &w->advance;

	if (a->n_topics == w->max_topics)
	{
		size_t n = w->max_topics = w->max_topics * 2 + 8;

		a->topics = must(realloc(a->topics, n * sizeof(*a->topics)));
		a->ids = must(realloc(a->ids, n * sizeof(*a->ids)));
	}
	a->topics[a->n_topics] = topic;
	a->ids[a->n_topics] = id;
	a->n_topics++;
}

static void
advance_add_receipt(Watermark *w, const WatermarkEntry *entry)
{
	WatermarkAdvance *a = &w->advance;
	int i = a->n_receipts;

	if (i == w->max_receipts)
	{
		size_t n = w->max_receipts = w->max_receipts * 2 + 64;

		a->dlq_ids = must(realloc(a->dlq_ids, n * sizeof(*a->dlq_ids)));
		a->tokens = must(realloc(a->tokens, n * sizeof(*a->tokens)));
		a->receipt_topics = must(realloc(a->receipt_topics, n * sizeof(*a->receipt_topics)));
		a->receipt_partitions = must(realloc(a->receipt_partitions, n * sizeof(*a->receipt_partitions)));
		a->receipt_offsets = must(realloc(a->receipt_offsets, n * sizeof(*a->receipt_offsets)));
	}
	a->dlq_ids[i] = entry->dlq_id;
	a->tokens[i] = entry->token;
	a->receipt_topics[i] = entry->topic->name;
	a->receipt_partitions[i] = entry->partition;
	a->receipt_offsets[i] = entry->offset;
	a->n_receipts++;
}

static void
advance_add_refused(Watermark *w, const WatermarkEntry *entry)
{
	WatermarkAdvance *a = &w->advance;

	if (a->n_refused == w->max_refused)
	{
		size_t n = w->max_refused = w->max_refused * 2 + 8;

		a->refused_ids = must(realloc(a->refused_ids, n * sizeof(*a->refused_ids)));
		a->refused_errors = must(realloc(a->refused_errors, n * sizeof(*a->refused_errors)));
		a->refused_messages = must(realloc(a->refused_messages, n * sizeof(*a->refused_messages)));
	}
	a->refused_ids[a->n_refused] = entry->id;
	a->refused_errors[a->n_refused] = entry->error;
	a->refused_messages[a->n_refused] = entry->message;
	a->n_refused++;
}

/* One that is delivered, or refused for good. */
static void
advance_add_row(Watermark *w, const WatermarkEntry *entry)
{
	if (entry->error != NULL)
	{
		advance_add_refused(w, entry);
		return;
	}
	w->advance.n_rows++;
	if (entry->dlq_id != 0)
		advance_add_receipt(w, entry);
}

bool
watermark_collect(Watermark *w, WatermarkAdvance *advance)
{
	w->advance.n_topics = 0;
	w->advance.n_receipts = 0;
	w->advance.n_refused = 0;
	w->advance.n_rows = 0;
	for (int i = 0; i < w->n_topics; i++)
	{
		Topic *topic = w->topics[i];

		topic->collected = 0;
		for (WatermarkEntry *entry = topic->first; entry != NULL && entry->delivered; entry = entry->next)
		{
			topic->collected = entry->id;
			advance_add_row(w, entry);
		}
		if (topic->collected != 0)
			advance_add_topic(w, topic->name, topic->collected);
	}
	*advance = w->advance;
	return advance->n_topics > 0;
}

void
watermark_advanced(Watermark *w)
{
	for (int i = 0; i < w->n_topics; i++)
	{
		Topic *topic = w->topics[i];

		while (topic->first != NULL && topic->first->id <= topic->collected)
		{
			WatermarkEntry *entry = topic->first;

			topic->first = entry->next;
			topic->advanced = entry->id;
			entry_free(w, entry);
		}
		if (topic->first == NULL)
			topic->last = NULL;
		topic->collected = 0;
	}
}

void
watermark_forget_undelivered(Watermark *w)
{
	for (int i = 0; i < w->n_topics; i++)
	{
		Topic *topic = w->topics[i];
		WatermarkEntry *keep = NULL;

		for (WatermarkEntry *entry = topic->first; entry != NULL && entry->delivered; entry = entry->next)
			keep = entry;
		topic_cut(w, topic, keep);
	}
}

void
watermark_forget(Watermark *w)
{
	for (int i = 0; i < w->n_topics; i++)
	{
		w->topics[i]->advanced = 0;
		w->topics[i]->collected = 0;
		topic_cut(w, w->topics[i], NULL);
	}
}

int64_t
watermark_in_flight(const Watermark *w)
{
	return w->in_flight;
}

int64_t
watermark_rows(const Watermark *w)
{
	return w->rows;
}

int64_t
watermark_bytes(const Watermark *w)
{
	return w->bytes;
}

/* Only when every report has come: an entry that is still out would be lost to it. */
void
watermark_free(Watermark *w)
{
	if (w == NULL)
		return;
	assert(w->in_flight == 0);
	watermark_forget(w);
	for (int i = 0; i < w->n_topics; i++)
	{
		free(w->topics[i]->name);
		free(w->topics[i]->reason);
		free(w->topics[i]);
	}
	free(w->topics);
	free(w->advance.topics);
	free(w->advance.ids);
	free(w->advance.dlq_ids);
	free(w->advance.tokens);
	free(w->advance.receipt_topics);
	free(w->advance.receipt_partitions);
	free(w->advance.receipt_offsets);
	free(w->advance.refused_ids);
	free(w->advance.refused_errors);
	free(w->advance.refused_messages);
	free(w);
}
