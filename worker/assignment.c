/*
 * assignment.c
 *	  The state machine of a partition and what it holds. See assignment.h; consume.c makes the transitions.
 */
#include "assignment.h"

#include <stdlib.h>
#include <string.h>

#include "log.h"
#include "worker.h"

/* [from][to]; who makes the transition */
static const char *const transitions[PARTITION_STATES][PARTITION_STATES] = {
	[PARTITION_UNASSIGNED] = {[PARTITION_ASSIGNING] = "poller"},
	[PARTITION_ASSIGNING] =
		{[PARTITION_LOCATED] = "assigner", [PARTITION_GAPPED] = "assigner", [PARTITION_REVOKING] = "poller"},
	[PARTITION_LOCATED] = {[PARTITION_ACTIVE] = "poller", [PARTITION_REVOKING] = "poller"},
	[PARTITION_ACTIVE] =
		{[PARTITION_PAUSED] = "processor", [PARTITION_DETACHING] = "processor", [PARTITION_REVOKING] = "poller"},
	[PARTITION_PAUSED] =
		{[PARTITION_ACTIVE] = "processor", [PARTITION_DETACHING] = "processor", [PARTITION_REVOKING] = "poller"},
	[PARTITION_DETACHING] = {[PARTITION_ASSIGNING] = "poller", [PARTITION_REVOKING] = "poller"},
	[PARTITION_GAPPED] = {[PARTITION_ASSIGNING] = "assigner", [PARTITION_REVOKING] = "poller"},
	[PARTITION_REVOKING] = {[PARTITION_UNASSIGNED] = "poller"},
};

const char *
partition_state_name(PartitionState state)
{
	static const char *const names[PARTITION_STATES] = {"unassigned", "assigning", "located", "active",
														"paused",	  "detaching", "gapped",  "revoking"};

	return names[state];
}

bool
partition_may(PartitionState from, PartitionState to)
{
	return transitions[from][to] != NULL;
}

bool
partition_set_state(Partition *part, PartitionState to, const char *reason)
{
	PartitionState from = part->state;
	bool legal = partition_may(from, to);

	/* what passes by itself is no news */
	bool passing = to == PARTITION_ASSIGNING || to == PARTITION_LOCATED || to == PARTITION_UNASSIGNED;

	LOG_AT(!legal	 ? LEVEL_ERROR
		   : passing ? LEVEL_DEBUG
					 : LEVEL_INFO,
		   legal ? "partition" : "a partition can't change its state like this", F_TEXT("topic", part->topic),
		   F_INT("partition", part->number), F_TEXT("from", partition_state_name(from)),
		   F_TEXT("to", partition_state_name(to)), F_TEXT("reason", reason));
	if (legal)
		part->state = to;
	return legal;
}

Partition *
partition_new(const char *topic, int32_t number, int owner)
{
	static atomic_llong serials = 0;
	Partition *part = calloc(1, sizeof(Partition));

	if (part == NULL || (part->topic = strdup(topic)) == NULL)
	{
		free(part);
		return NULL;
	}
	part->number = number;
	part->owner = owner;
	part->serial = atomic_fetch_add(&serials, 1) + 1;
	part->state = PARTITION_UNASSIGNED;
	part->refs = 1;
	partition_start(part, -1);
	return part;
}

bool
partition_unref(Partition *part)
{
	if (--part->refs > 0)
		return false;
	partition_drop_all(part);
	free(part->msgs);
	if (part->queue != NULL)
		rd_kafka_queue_destroy(part->queue);
	free(part->topic);
	free(part);
	return true;
}

/* ---- its messages ---- */

bool
partition_keep(Partition *part, rd_kafka_message_t *msg)
{
	if (part->n_msgs == part->room_msgs)
	{
		int room = part->room_msgs == 0 ? 64 : part->room_msgs * 2;
		rd_kafka_message_t **msgs = realloc(part->msgs, room * sizeof(*msgs));

		if (msgs == NULL)
			return false;
		part->msgs = msgs;
		part->room_msgs = room;
	}
	part->msgs[part->n_msgs++] = msg;
	return true;
}

void
partition_drop_below(Partition *part, int64_t offset)
{
	int gone = 0;

	while (gone < part->n_msgs && part->msgs[gone]->offset < offset)
		rd_kafka_message_destroy(part->msgs[gone++]);
	part->n_msgs -= gone;
	if (gone > 0 && part->n_msgs > 0)
		memmove(part->msgs, part->msgs + gone, part->n_msgs * sizeof(*part->msgs));
}

void
partition_drop_all(Partition *part)
{
	for (int i = 0; i < part->n_msgs; i++)
		rd_kafka_message_destroy(part->msgs[i]);
	part->n_msgs = 0;
}

int64_t
partition_position(const Partition *part, int n)
{
	return n < part->n_msgs ? part->msgs[n]->offset : atomic_load(&part->read_position);
}

void
partition_start(Partition *part, int64_t offset)
{
	partition_drop_all(part);
	atomic_store(&part->read_position, offset);
	part->next_offset = offset;
	part->committed = -1;
	part->last_skipped = -1;
}

/* ---- after calls ---- */

bool
partition_hold(Partition *part, int64_t now)
{
	bool first = !part->alone;

	part->alone = true;
	part->backoff_ms = part->backoff_ms == 0 ? PARTITION_BACKOFF_MIN_MS : part->backoff_ms * 2;
	if (part->backoff_ms > PARTITION_BACKOFF_MAX_MS)
		part->backoff_ms = PARTITION_BACKOFF_MAX_MS;
	part->hold_until_ms = now + with_jitter(part->backoff_ms);
	return first;
}

bool
partition_release_hold(Partition *part)
{
	bool was = part->alone;

	part->alone = false;
	part->backoff_ms = 0;
	part->hold_until_ms = 0;
	part->breaks = 0;
	part->broken = false;
	return was;
}

void
partition_note_break(Partition *part, bool broke)
{
	part->breaks += broke;
	part->broken = broke;
}
