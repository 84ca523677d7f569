/*
 * Unit tests of worker/log.c: the form of a line.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "log.h"

#define FIELDS(...) (LogField[]){__VA_ARGS__}, (int) (sizeof((LogField[]){__VA_ARGS__}) / sizeof(LogField))

/* The line behind its time stamp. */
static void
assert_line(char *line, const char *start, const char *rest)
{
	assert_memory_equal(line, start, strlen(start));
	assert_string_equal(strstr(line, "level") - (*start == '{'), rest);
	free(line);
}

static void
logfmt(void **state)
{
	(void) state;
	log_open("intake", false, LEVEL_DEBUG);
	assert_line(
		log_line(LEVEL_INFO, "done", FIELDS(F_TEXT("tenant_id", "TENANT_001"), F_INT("count", -3), F_TEXT("x", NULL))),
		"ts=", "level=info msg=done worker_type=intake tenant_id=TENANT_001 count=-3\n");
	assert_line(log_line(LEVEL_ERROR, "a \"b\"\n=", FIELDS(F_TEXT("empty", ""), F_TEXT("utf8", "\xc3\xa4"))),
				"ts=", "level=error msg=\"a \\\"b\\\"\\n=\" worker_type=intake empty=\"\" utf8=\xc3\xa4\n");
}

static void
the_start_line_stands_literally(void **state)
{
	char *line;

	(void) state;
	log_open("intake", false, LEVEL_DEBUG);
	line = log_line(LEVEL_INFO,
					"Initialized IntakeWorker worker: topics=['exceptions'], group_id=intake-workers, concurrency=2",
					NULL, 0);
	assert_non_null(
		strstr(line, "Initialized IntakeWorker worker: topics=['exceptions'], group_id=intake-workers, concurrency=2"));
	free(line);
}

static void
json(void **state)
{
	(void) state;
	log_open("intake", true, LEVEL_DEBUG);
	assert_line(log_line(LEVEL_WARNING, "a\tb", FIELDS(F_TEXT("t", "\x01"), F_INT("n", 5))), "{\"ts\":\"",
				"\"level\":\"warning\",\"msg\":\"a\\tb\",\"worker_type\":\"intake\",\"t\":\"\\u0001\",\"n\":5}\n");
}

static void
levels(void **state)
{
	(void) state;
	log_open("intake", false, LEVEL_WARNING);
	assert_false(log_enabled(LEVEL_INFO));
	assert_true(log_enabled(LEVEL_WARNING));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(logfmt),
		cmocka_unit_test(the_start_line_stands_literally),
		cmocka_unit_test(json),
		cmocka_unit_test(levels),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
