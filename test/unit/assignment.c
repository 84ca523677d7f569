/*
 * Unit tests of worker/assignment.c: the whole matrix of transitions, positions and the back-off.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "assignment.h"
#include "log.h"

static void
the_matrix(void **state)
{
	/* rows: from, columns: to; in the order of the enum */
	static const char *const expected[PARTITION_STATES] = {
		/*				 u a l A p d g r */
		/* unassigned */ ".x......",
		/* assigning */ "..x...xx",
		/* located */ "...x...x",
		/* active */ "....xx.x",
		/* paused */ "...x.x.x",
		/* detaching */ ".x.....x",
		/* gapped */ ".x.....x",
		/* revoking */ "x.......",
	};

	(void) state;
	for (int from = 0; from < PARTITION_STATES; from++)
		for (int to = 0; to < PARTITION_STATES; to++)
		{
			Partition *part = partition_new("t", 0, 0);
			bool legal = expected[from][to] == 'x';

			part->state = (PartitionState) from;
			assert_int_equal(partition_set_state(part, (PartitionState) to, "test"), legal);
			assert_int_equal(part->state, legal ? to : from);
			assert_true(partition_unref(part));
		}
}

static void
every_state_has_a_name_and_a_way_out(void **state)
{
	(void) state;
	for (int from = 0; from < PARTITION_STATES; from++)
	{
		int ways = 0;

		assert_true(strlen(partition_state_name((PartitionState) from)) > 0);
		for (int to = 0; to < PARTITION_STATES; to++)
			ways += partition_may((PartitionState) from, (PartitionState) to);
		assert_true(ways > 0);
	}
}

static void
positions(void **state)
{
	Partition *part = partition_new("t", 4, 1);
	rd_kafka_message_t first = {.offset = 10};
	rd_kafka_message_t second = {.offset = 15};

	(void) state;
	partition_start(part, 7);
	assert_int_equal(partition_position(part, 0), 7);
	assert_int_equal(part->next_offset, 7);
	assert_true(partition_keep(part, &first));
	assert_true(partition_keep(part, &second));
	atomic_store(&part->read_position, 21);
	/* what lies before the first message that is not sent was skipped */
	assert_int_equal(partition_position(part, 0), 10);
	assert_int_equal(partition_position(part, 1), 15);
	assert_int_equal(partition_position(part, 2), 21);
	part->n_msgs = 0;
	assert_true(partition_unref(part));
}

static void
references(void **state)
{
	Partition *part = partition_new("t", 0, 0);
	int64_t serial = part->serial;

	(void) state;
	part->refs++;
	assert_false(partition_unref(part));
	assert_true(partition_unref(part));
	part = partition_new("t", 0, 0);
	assert_true(part->serial != serial);
	assert_true(partition_unref(part));
}

static void
back_off(void **state)
{
	Partition *part = partition_new("t", 0, 0);

	(void) state;
	assert_true(partition_hold(part, 1000));
	assert_true(part->alone);
	assert_in_range(part->hold_until_ms, 1800, 2200);
	assert_false(partition_hold(part, 1000));
	assert_in_range(part->hold_until_ms, 2600, 3400);
	for (int i = 0; i < 10; i++)
		partition_hold(part, 0);
	assert_in_range(part->hold_until_ms, 24000, 36000);
	assert_true(partition_release_hold(part));
	assert_false(part->alone);
	assert_int_equal(part->hold_until_ms, 0);
	assert_false(partition_release_hold(part));
	assert_true(partition_hold(part, 0));
	assert_in_range(part->hold_until_ms, 800, 1200);
	assert_true(partition_unref(part));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_matrix), cmocka_unit_test(every_state_has_a_name_and_a_way_out),
		cmocka_unit_test(positions),  cmocka_unit_test(references),
		cmocka_unit_test(back_off),
	};

	/* the refusals of the matrix are errors in the log */
	log_open("test", false, (LogLevel) (LEVEL_ERROR + 1));
	return cmocka_run_group_tests(tests, NULL, NULL);
}
