/*
 * Unit tests of worker/batch.c: the very bytes of include/sentinai_wire.h.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "batch.h"
#include "sentinai_wire.h"

#define assert_bytes(batch, expected) \
	do \
	{ \
		assert_int_equal((batch)->length, sizeof(expected) - 1); \
		assert_memory_equal((batch)->data, expected, sizeof(expected) - 1); \
	} while (0)

static void
nothing_but_a_position(void **state)
{
	Batch batch = {0};

	(void) state;
	batch_begin(&batch, -2, 500);
	assert_int_equal(batch_partition(&batch, "exceptions", 3, 7, 0x0102030405060708), 0);
	assert_true(batch_end(&batch));
	assert_bytes(&batch, "SNB1"
						 "\xff\xff\xff\xff\xff\xff\xff\xfe"
						 "\0\0\x01\xf4"
						 "\0\0\0\1"
						 "\0\x0a"
						 "exceptions"
						 "\0\0\0\3"
						 "\0\0\0\0\0\0\0\7"
						 "\1\2\3\4\5\6\7\x08"
						 "\0\0\0\0");
	batch_free(&batch);
}

static void
records_with_and_without(void **state)
{
	Batch batch = {0};

	(void) state;
	batch_begin(&batch, 0, 1);
	assert_int_equal(batch_partition(&batch, "a", 0, 1, 2), 0);
	assert_int_equal(batch_partition(&batch, "b", 1, 1, 2), 1);
	batch_record(&batch, 1, 1, -1, NULL, 0, NULL, 0);
	batch_record(&batch, 0, 1, 5, "", 0, "va\0l", 4);
	batch_header(&batch, "h", NULL, 0);
	batch_header(&batch, "h", "x", 1);
	assert_true(batch_end(&batch));
	assert_bytes(&batch, "SNB1"
						 "\0\0\0\0\0\0\0\0"
						 "\0\0\0\1"
						 "\0\0\0\2"
						 "\0\1a"
						 "\0\0\0\0"
						 "\0\0\0\0\0\0\0\1"
						 "\0\0\0\0\0\0\0\2"
						 "\0\1b"
						 "\0\0\0\1"
						 "\0\0\0\0\0\0\0\1"
						 "\0\0\0\0\0\0\0\2"
						 "\0\0\0\2"
						 /* the tombstone */
						 "\0\0\0\1"
						 "\0\0\0\0\0\0\0\1"
						 "\xff\xff\xff\xff\xff\xff\xff\xff"
						 "\xff\xff\xff\xff"
						 "\xff\xff\xff\xff"
						 "\0\0\0\0"
						 /* an empty key is no NULL */
						 "\0\0\0\0"
						 "\0\0\0\0\0\0\0\1"
						 "\0\0\0\0\0\0\0\5"
						 "\0\0\0\0"
						 "\0\0\0\4va\0l"
						 "\0\0\0\2"
						 "\0\1h\xff\xff\xff\xff"
						 "\0\1h\0\0\0\1x");
	batch_free(&batch);
}

static void
a_batch_is_used_again(void **state)
{
	Batch batch = {0};
	char *big = calloc(1, 300000);

	(void) state;
	batch_begin(&batch, 1, 1);
	batch_partition(&batch, "t", 0, 0, 0);
	batch_record(&batch, 0, 0, 0, big, 300000, big, 300000);
	assert_true(batch_end(&batch));
	assert_true(batch.length > 600000);
	batch_begin(&batch, 1, 1);
	assert_true(batch_end(&batch));
	assert_int_equal(batch.length, 4 + 8 + 4 + 4 + 4);
	batch_free(&batch);
	free(big);
}

static void
what_does_not_fit_is_bad(void **state)
{
	Batch batch = {0};
	char *name = malloc(70001);

	(void) state;
	memset(name, 'x', 70000);
	name[70000] = '\0';
	batch_begin(&batch, 1, 1);
	batch_partition(&batch, "t", 0, 0, 0);
	batch_record(&batch, 0, 0, 0, NULL, 0, NULL, 0);
	batch_header(&batch, name, NULL, 0);
	assert_false(batch_end(&batch));
	batch_begin(&batch, 1, 1);
	batch_partition(&batch, "t", 0, 0, 0);
	batch_record(&batch, 0, 0, 0, NULL, 0, NULL, 0);
	for (int i = 0; i < SN_WIRE_MAX_HEADERS; i++)
		batch_header(&batch, "h", NULL, 0);
	assert_false(batch.bad);
	batch_header(&batch, "h", NULL, 0);
	assert_false(batch_end(&batch));
	batch_free(&batch);
	free(name);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nothing_but_a_position),
		cmocka_unit_test(records_with_and_without),
		cmocka_unit_test(a_batch_is_used_again),
		cmocka_unit_test(what_does_not_fit_is_bad),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
