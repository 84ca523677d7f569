/*
 * watermark.c
 *	  The contiguous prefix of delivery reports, in whatever order they come, and what a failure makes of it.
 */
#include <stdarg.h>
#include <setjmp.h>
#include <stdint.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "watermark.h"

#define TOKEN "00000000-0000-0000-0000-000000000001"

static WatermarkEntry *
send(Watermark *w, const char *topic, int64_t id)
{
	assert_int_equal(watermark_verdict(w, topic, id), WATERMARK_SEND);
	return watermark_sent(w, topic, id, 0, NULL, 10);
}

/* What the database would be told now for the topic; 0: nothing. */
static int64_t
collected(Watermark *w, const char *topic)
{
	WatermarkAdvance advance;

	watermark_collect(w, &advance);
	for (int i = 0; i < advance.n_topics; i++)
		if (strcmp(advance.topics[i], topic) == 0)
			return advance.ids[i];
	return 0;
}

static void
test_prefix(void **state)
{
	Watermark *w = watermark_new();
	WatermarkEntry *a = send(w, "t", 3);
	WatermarkEntry *b = send(w, "t", 5);
	WatermarkEntry *c = send(w, "t", 9);

	(void) state;
	assert_int_equal(watermark_in_flight(w), 3);
	assert_int_equal(watermark_bytes(w), 30);
	assert_int_equal(collected(w, "t"), 0);
	watermark_delivered(w, b, 0, 101);
	assert_int_equal(collected(w, "t"), 0);
	watermark_delivered(w, a, 0, 100);
	assert_int_equal(collected(w, "t"), 5);
	/* the database did not get it: it is told again, and more */
	watermark_delivered(w, c, 1, 7);
	assert_int_equal(collected(w, "t"), 9);
	assert_int_equal(watermark_rows(w), 3);
	watermark_advanced(w);
	assert_int_equal(watermark_rows(w), 0);
	assert_int_equal(watermark_bytes(w), 0);
	assert_int_equal(collected(w, "t"), 0);
	/* a second read from the watermarks brings nothing twice */
	assert_int_equal(watermark_verdict(w, "t", 9), WATERMARK_ON_ITS_WAY);
	assert_int_equal(watermark_verdict(w, "t", 10), WATERMARK_SEND);
	watermark_free(w);
}

static void
test_delivered_between_collect_and_advanced(void **state)
{
	Watermark *w = watermark_new();
	WatermarkEntry *a = send(w, "t", 1);
	WatermarkEntry *b = send(w, "t", 2);

	(void) state;
	watermark_delivered(w, a, 0, 0);
	assert_int_equal(collected(w, "t"), 1);
	watermark_delivered(w, b, 0, 1);
	watermark_advanced(w); /* says nothing of 2 */
	assert_int_equal(watermark_rows(w), 1);
	assert_int_equal(collected(w, "t"), 2);
	watermark_advanced(w);
	watermark_free(w);
}

/* Every order of five reports: the prefix is always that of a plain array. */
static void
permute(int *order, int n, int k)
{
	if (k == n)
	{
		Watermark *w = watermark_new();
		WatermarkEntry *entries[5];
		bool done[5] = {false};

		for (int i = 0; i < n; i++)
			entries[i] = send(w, "t", 10 * (i + 1));
		for (int i = 0; i < n; i++)
		{
			int prefix = 0;

			watermark_delivered(w, entries[order[i]], 0, i);
			done[order[i]] = true;
			while (prefix < n && done[prefix])
				prefix++;
			assert_int_equal(collected(w, "t"), 10 * prefix);
		}
		watermark_free(w);
		return;
	}
	for (int i = k; i < n; i++)
	{
		int swap = order[k];

		order[k] = order[i];
		order[i] = swap;
		permute(order, n, k + 1);
		order[i] = order[k];
		order[k] = swap;
	}
}

static void
test_every_order(void **state)
{
	int order[] = {0, 1, 2, 3, 4};

	(void) state;
	permute(order, 5, 0);
}

static void
test_topics_are_apart(void **state)
{
	Watermark *w = watermark_new();
	WatermarkEntry *a = send(w, "m", 1);
	WatermarkEntry *b = send(w, "z", 2);
	WatermarkEntry *c = send(w, "a", 3);
	WatermarkAdvance advance;

	(void) state;
	watermark_delivered(w, b, 0, 0);
	watermark_delivered(w, c, 0, 0);
	assert_int_equal(collected(w, "m"), 0);
	assert_true(watermark_collect(w, &advance));
	assert_int_equal(advance.n_topics, 2);
	assert_int_equal(advance.n_rows, 2);
	assert_string_equal(advance.topics[0], "a");
	assert_string_equal(advance.topics[1], "z");
	watermark_advanced(w);
	watermark_delivered(w, a, 0, 0);
	assert_int_equal(collected(w, "m"), 1);
	watermark_free(w);
}

static void
test_receipts(void **state)
{
	Watermark *w = watermark_new();
	WatermarkEntry *a = watermark_sent(w, "t", 1, 17, TOKEN, 0);
	WatermarkEntry *b = send(w, "t", 2);
	WatermarkEntry *c = watermark_sent(w, "t", 3, 18, TOKEN, 0);
	WatermarkAdvance advance;

	(void) state;
	watermark_delivered(w, a, 4, 44);
	watermark_delivered(w, c, 5, 55);
	assert_true(watermark_collect(w, &advance));
	assert_int_equal(advance.n_receipts, 1); /* 18 goes with its watermark, not before */
	assert_int_equal(advance.dlq_ids[0], 17);
	assert_string_equal(advance.tokens[0], TOKEN);
	assert_string_equal(advance.receipt_topics[0], "t");
	assert_int_equal(advance.receipt_partitions[0], 4);
	assert_int_equal(advance.receipt_offsets[0], 44);
	watermark_delivered(w, b, 0, 0);
	assert_true(watermark_collect(w, &advance));
	assert_int_equal(advance.n_receipts, 2);
	assert_int_equal(advance.dlq_ids[1], 18);
	watermark_free(w);
}

static void
count_blocked(void *arg, const char *topic, const char *reason, int failures)
{
	assert_string_equal(topic, "bad");
	assert_string_equal(reason, "too large");
	*(int *) arg = failures;
}

static void
test_failure_blocks_its_topic_only(void **state)
{
	Watermark *w = watermark_new();
	WatermarkEntry *a = send(w, "bad", 1);
	WatermarkEntry *b = send(w, "bad", 2);
	WatermarkEntry *c = send(w, "bad", 3);
	WatermarkEntry *d = send(w, "good", 4);
	int failures = 0;

	(void) state;
	watermark_delivered(w, a, 0, 0);
	watermark_failed(w, b, "too large", 1000);
	assert_int_equal(watermark_blocked(w), 1);
	assert_int_equal(watermark_verdict(w, "bad", 1), WATERMARK_ON_ITS_WAY);
	assert_int_equal(watermark_verdict(w, "bad", 2), WATERMARK_BLOCKED);
	assert_int_equal(watermark_verdict(w, "bad", 5), WATERMARK_BLOCKED);
	assert_int_equal(watermark_verdict(w, "good", 5), WATERMARK_SEND);
	watermark_delivered(w, c, 0, 1); /* too late: it will be sent again, behind 2 */
	watermark_delivered(w, d, 0, 0);
	assert_int_equal(collected(w, "bad"), 1);
	assert_int_equal(collected(w, "good"), 4);
	watermark_advanced(w);
	assert_int_equal(watermark_rows(w), 0);

	assert_false(watermark_unblock(w, 1000 + WATERMARK_BLOCK_MS - 1));
	assert_true(watermark_unblock(w, 1000 + WATERMARK_BLOCK_MS));
	assert_false(watermark_unblock(w, 1000 + WATERMARK_BLOCK_MS));
	assert_int_equal(watermark_blocked(w), 1); /* until something arrives */
	watermark_failed(w, send(w, "bad", 2), "too large", 3000);
	assert_false(watermark_unblock(w, 3000 + 2 * WATERMARK_BLOCK_MS - 1));
	assert_true(watermark_unblock(w, 3000 + 2 * WATERMARK_BLOCK_MS));
	watermark_each_blocked(w, count_blocked, &failures);
	assert_int_equal(failures, 2);
	a = send(w, "bad", 2);
	assert_int_equal(watermark_verdict(w, "bad", 3), WATERMARK_BLOCKED); /* one row alone */
	assert_false(watermark_unblock(w, 100000));
	watermark_delivered(w, a, 0, 2);
	assert_int_equal(watermark_blocked(w), 0);
	assert_true(watermark_unblock(w, 100000)); /* 3 has to be read again */
	assert_false(watermark_unblock(w, 100000));
	assert_int_equal(watermark_verdict(w, "bad", 3), WATERMARK_SEND);
	assert_int_equal(collected(w, "bad"), 2);
	watermark_free(w);
}

static void
name_held(void *arg, const char *topic)
{
	strcat(arg, topic);
	strcat(arg, " ");
}

static const char *
held(Watermark *w)
{
	static char names[100];

	names[0] = '\0';
	watermark_each_held(w, name_held, names);
	return names;
}

/* Refused with others: each is sent alone. Refused alone: the topic goes on behind it. */
static void
test_refused(void **state)
{
	Watermark *w = watermark_new();
	WatermarkEntry *a = send(w, "t", 1);
	WatermarkEntry *b = send(w, "t", 2);
	WatermarkAdvance advance;

	(void) state;
	assert_false(watermark_alone(a));
	watermark_suspected(w, a);
	assert_false(watermark_alone(b)); /* an orphan */
	watermark_suspected(w, b);
	assert_int_equal(watermark_blocked(w), 0);
	assert_true(watermark_unblock(w, 0));
	assert_string_equal(held(w), "");

	a = send(w, "t", 1);
	assert_true(watermark_alone(a));
	assert_string_equal(held(w), "t ");
	assert_int_equal(watermark_verdict(w, "t", 2), WATERMARK_BLOCKED);
	watermark_refused(w, a, "TOO_LARGE", "too large");
	assert_true(watermark_unblock(w, 0));
	assert_int_equal(watermark_in_flight(w), 0);
	watermark_forget_undelivered(w); /* its producer goes: the refusal stays */
	assert_true(watermark_collect(w, &advance));
	assert_int_equal(advance.ids[0], 1);
	assert_int_equal(advance.n_rows, 0);
	assert_int_equal(advance.n_refused, 1);
	assert_int_equal(advance.refused_ids[0], 1);
	assert_string_equal(advance.refused_errors[0], "TOO_LARGE");
	assert_string_equal(advance.refused_messages[0], "too large");
	watermark_advanced(w);

	b = send(w, "t", 2);
	assert_true(watermark_alone(b));
	watermark_delivered(w, b, 0, 0);
	assert_true(watermark_unblock(w, 0));
	a = send(w, "t", 3);
	assert_false(watermark_alone(a));
	assert_string_equal(held(w), "");
	assert_true(watermark_collect(w, &advance));
	assert_int_equal(advance.n_refused, 0);
	assert_int_equal(advance.n_rows, 1);
	watermark_delivered(w, a, 0, 1);
	watermark_free(w);
}

/* A refused retry of a dead letter has no receipt. */
static void
test_refused_retry(void **state)
{
	Watermark *w = watermark_new();
	WatermarkAdvance advance;

	(void) state;
	watermark_suspected(w, watermark_sent(w, "t", 1, 17, TOKEN, 0));
	watermark_refused(w, watermark_sent(w, "t", 1, 17, TOKEN, 0), "NO", "no");
	assert_true(watermark_collect(w, &advance));
	assert_int_equal(advance.n_receipts, 0);
	assert_int_equal(advance.n_refused, 1);
	watermark_free(w);
}

static void
test_block_is_bounded(void **state)
{
	Watermark *w = watermark_new();

	(void) state;
	for (int i = 0; i < 100; i++)
	{
		watermark_failed(w, send(w, "bad", 1), "no", 0);
		assert_true(watermark_unblock(w, WATERMARK_BLOCK_MAX_MS));
	}
	watermark_free(w);
}

static void
test_all_fail(void **state)
{
	Watermark *w = watermark_new();
	WatermarkEntry *entries[100];

	(void) state;
	for (int i = 0; i < 100; i++)
		entries[i] = send(w, "bad", i + 1);
	for (int i = 0; i < 100; i++)
		watermark_failed(w, entries[i], "no such topic", 0);
	assert_int_equal(watermark_rows(w), 0);
	assert_int_equal(watermark_in_flight(w), 0);
	assert_true(watermark_unblock(w, WATERMARK_BLOCK_MS)); /* a hundred reports are one failure */
	watermark_free(w);
}

static void
test_producer_gave_up(void **state)
{
	Watermark *w = watermark_new();
	WatermarkEntry *a = send(w, "t", 1);
	WatermarkEntry *b = send(w, "t", 2);
	WatermarkEntry *c = send(w, "t", 3);

	(void) state;
	watermark_delivered(w, a, 0, 0);
	watermark_delivered(w, c, 0, 0);
	watermark_failed(w, b, NULL, 0);
	watermark_forget_undelivered(w);
	assert_int_equal(watermark_blocked(w), 0);
	assert_int_equal(watermark_in_flight(w), 0);
	assert_int_equal(watermark_rows(w), 1);
	assert_int_equal(collected(w, "t"), 1);
	assert_int_equal(watermark_verdict(w, "t", 1), WATERMARK_ON_ITS_WAY);
	assert_int_equal(watermark_verdict(w, "t", 2), WATERMARK_SEND);
	watermark_free(w);
}

/* A new session may be one of another server: ids that we have seen say nothing there. */
static void
test_session_ended(void **state)
{
	Watermark *w = watermark_new();
	WatermarkEntry *a = send(w, "t", 1);
	WatermarkEntry *b = send(w, "t", 2);
	WatermarkEntry *again;

	(void) state;
	watermark_delivered(w, a, 0, 0);
	watermark_forget(w);
	assert_int_equal(collected(w, "t"), 0);
	assert_int_equal(watermark_rows(w), 1); /* 2 still bounds the window */
	again = send(w, "t", 1);
	watermark_delivered(w, b, 0, 1);
	assert_int_equal(collected(w, "t"), 0);
	watermark_delivered(w, again, 0, 2);
	assert_int_equal(collected(w, "t"), 1);
	assert_int_equal(watermark_rows(w), 1);
	watermark_free(w);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_prefix),			 cmocka_unit_test(test_delivered_between_collect_and_advanced),
		cmocka_unit_test(test_every_order),		 cmocka_unit_test(test_topics_are_apart),
		cmocka_unit_test(test_receipts),		 cmocka_unit_test(test_failure_blocks_its_topic_only),
		cmocka_unit_test(test_block_is_bounded), cmocka_unit_test(test_all_fail),
		cmocka_unit_test(test_refused),			 cmocka_unit_test(test_refused_retry),
		cmocka_unit_test(test_producer_gave_up), cmocka_unit_test(test_session_ended),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
