/*
 * report_pdf.c
 *	  sentinai-report-pdf: reads a report as JSON Lines from standard input and writes it as a PDF to standard output.
 *
 * The database's report worker starts it and feeds it, so that what draws text of any kind (fonts, shaping, images) never
 * runs inside the server: a crash here is one failed report. It takes away from itself what it doesn't need: memory and
 * processor time are limited, sockets are refused. Errors are one line on standard error, with exit status 1; nothing is
 * written to standard output before the whole report was read, and a report without its last line is none.
 *
 * The lines, in this order:
 *	{"report": {"title", "tenant_id", "report_type", "period_from", "period_to", "requested_by", "requested_at",
 *				"generated_at", "id"}}
 *	{"summary": [{"label", "value"}, ...]}, {"chart": {...}} (report_chart.c), {"columns": [{"title", "align"}]}
 *	{"row": [...]}, as many as there are; texts or null
 *	{"end": {"rows": n}}
 *
 * Pages are report_page.c's, charts are report_chart.c's.
 */
#include "report_pdf.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include <cairo-pdf.h>

/* Limits, unless --memory and --seconds say otherwise. */
#define DEFAULT_MEMORY_MB 1024
#define DEFAULT_SECONDS 120

/* A longer text of a cell is cut, and says so: a page has room for some thousand characters. */
#define CELL_MAX 20000

/* More are no table that anybody could read. */
#define COLUMNS_MAX 60

void
fail(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	fputs("sentinai-report-pdf: ", stderr);
	vfprintf(stderr, format, args);
	fputc('\n', stderr);
	va_end(args);
	exit(1);
}

/* ---- limits ---- */

static void
limit(int resource, rlim_t value, const char *name)
{
	struct rlimit rlimit = {.rlim_cur = value, .rlim_max = value};

	if (setrlimit(resource, &rlimit) != 0)
		fail("could not limit %s: %s", name, strerror(errno));
}

/* Whatever a font library may think of: there is no network. */
static void
refuse_sockets(void)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_socket, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EACCES),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = {.len = sizeof(filter) / sizeof(filter[0]), .filter = filter};

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0)
		fail("could not refuse sockets: %s", strerror(errno));
}

static long
number_option(const char *name, const char *value)
{
	char *end;
	long number = value == NULL ? 0 : strtol(value, &end, 10);

	if (number <= 0 || *end != '\0')
		fail("%s wants a number above 0", name);
	return number;
}

static void
set_limits(int argc, char **argv)
{
	long memory = DEFAULT_MEMORY_MB;
	long seconds = DEFAULT_SECONDS;

	for (int i = 1; i < argc; i += 2)
	{
		if (strcmp(argv[i], "--memory") == 0)
			memory = number_option(argv[i], argv[i + 1]);
		else if (strcmp(argv[i], "--seconds") == 0)
			seconds = number_option(argv[i], argv[i + 1]);
		else
			fail("unknown option \"%s\"; it takes --memory MIB and --seconds N, and a report on standard input",
				 argv[i]);
	}
	limit(RLIMIT_AS, (rlim_t) memory * 1024 * 1024, "memory");
	limit(RLIMIT_CPU, seconds, "processor time");
	limit(RLIMIT_CORE, 0, "core dumps");
	refuse_sockets();
}

/* ---- reading ---- */

/* A member's text, empty where there is none. */
const char *
report_text(const cJSON *object, const char *name)
{
	const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(object, name));

	return text == NULL ? "" : text;
}

static void *
grow(void *array, size_t n, size_t size)
{
	array = reallocarray(array, n, size);
	if (array == NULL)
		fail("out of memory");
	return array;
}

/* The text of a cell; one that is too long ends before a character with what is missing. */
static char *
cell_text(const cJSON *value, size_t line)
{
	const char *text = cJSON_IsNull(value) ? "" : cJSON_GetStringValue(value);
	size_t len;
	char *copy;

	if (text == NULL)
		fail("line %zu: a cell is neither a text nor null", line);
	len = strlen(text);
	if (len > CELL_MAX)
	{
		size_t cut = CELL_MAX;

		while ((text[cut] & 0xc0) == 0x80)
			cut--;
		if (asprintf(&copy, "%.*s … (%zu more bytes)", (int) cut, text, len - cut) < 0)
			fail("out of memory");
		return copy;
	}
	copy = strdup(text);
	if (copy == NULL)
		fail("out of memory");
	return copy;
}

static void
take_row(Report *report, const cJSON *cells, size_t line)
{
	char **row;
	int i = 0;
	const cJSON *cell;

	if (report->columns == NULL || cJSON_GetArraySize(cells) != report->n_columns)
		fail("line %zu: the row has %d cells, the table has %d columns", line, cJSON_GetArraySize(cells),
			 report->n_columns);
	if (report->n_rows == report->max_rows)
	{
		report->max_rows = report->max_rows == 0 ? 1024 : report->max_rows * 2;
		report->rows = grow(report->rows, report->max_rows, sizeof(char **));
	}
	row = grow(NULL, report->n_columns, sizeof(char *));
	cJSON_ArrayForEach (cell, cells)
		row[i++] = cell_text(cell, line);
	report->rows[report->n_rows++] = row;
}

static void
take_chart(Report *report, cJSON *chart)
{
	report->charts = grow(report->charts, report->n_charts + 1, sizeof(cJSON *));
	report->charts[report->n_charts++] = chart;
}

/* One line, which has one member. True: it was the last. */
static bool
take_line(Report *report, cJSON *object, size_t line)
{
	cJSON *value = object == NULL ? NULL : object->child;
	const char *name = value == NULL || value->string == NULL ? "" : value->string;
	bool first = report->head == NULL;

	if (value == NULL)
		fail("line %zu is empty", line);
	if (first != (strcmp(name, "report") == 0))
		fail("line %zu: the first line, and no other, has the member \"report\"", line);
	cJSON_DetachItemViaPointer(object, value);
	if (first && cJSON_IsObject(value))
		report->head = value;
	else if (strcmp(name, "summary") == 0 && cJSON_IsArray(value))
		report->summary = value;
	else if (strcmp(name, "chart") == 0 && cJSON_IsObject(value))
		take_chart(report, value);
	else if (strcmp(name, "columns") == 0 && cJSON_IsArray(value) && cJSON_GetArraySize(value) > 0 && !report->columns)
	{
		report->columns = value;
		report->n_columns = cJSON_GetArraySize(value);
		if (report->n_columns > COLUMNS_MAX)
			fail("a PDF has room for %d columns, the report has %d: csv, json and jsonl have any number", COLUMNS_MAX,
				 report->n_columns);
	}
	else if (strcmp(name, "row") == 0 && cJSON_IsArray(value))
	{
		take_row(report, value, line);
		cJSON_Delete(value);
	}
	else if (strcmp(name, "end") == 0)
	{
		const cJSON *rows = cJSON_GetObjectItemCaseSensitive(value, "rows");

		if (!cJSON_IsNumber(rows) || rows->valuedouble != (double) report->n_rows)
			fail("line %zu: the end doesn't count %zu rows", line, report->n_rows);
		cJSON_Delete(value);
		return true;
	}
	else
		fail("line %zu: \"%s\" is no part of a report, or not of that type", line, name);
	return false;
}

/*
 * Noncharacters (U+FFFE, U+FFFF and their like) are valid UTF-8, but cairo takes them for an error, after which it draws
 * nothing more: they become U+FFFD. Returns the new length, which is no longer.
 */
static size_t
replace_noncharacters(char *text, size_t len)
{
	const char *from = text;
	const char *end = text + len;
	char *to = text;

	while (from < end)
	{
		gunichar c = g_utf8_get_char(from);
		const char *next = g_utf8_next_char(from);

		if ((c & 0xfffe) == 0xfffe || (c >= 0xfdd0 && c <= 0xfdef))
			to += g_unichar_to_utf8(0xfffd, to);
		else
		{
			memmove(to, from, next - from);
			to += next - from;
		}
		from = next;
	}
	return to - text;
}

static void
read_report(Report *report)
{
	char *buffer = NULL;
	size_t size = 0;
	size_t line = 0;
	ssize_t len;
	bool ended = false;

	while ((len = getline(&buffer, &size, stdin)) >= 0)
	{
		cJSON *object;

		line++;
		if (ended)
			fail("line %zu: there is something behind the end", line);
		if (!g_utf8_validate(buffer, len, NULL))
			fail("line %zu is not valid UTF-8", line);
		len = (ssize_t) replace_noncharacters(buffer, len);
		object = cJSON_ParseWithLength(buffer, len);
		if (!cJSON_IsObject(object))
			fail("line %zu is not a JSON object", line);
		ended = take_line(report, object, line);
		cJSON_Delete(object);
	}
	if (ferror(stdin))
		fail("could not read the report: %s", strerror(errno));
	if (!ended)
		fail("the report has no end: it is not complete");
	free(buffer);
}

/* ---- writing ---- */

static cairo_status_t
write_bytes(void *closure, const unsigned char *data, unsigned int length)
{
	(void) closure;
	return fwrite(data, 1, length, stdout) == length ? CAIRO_STATUS_SUCCESS : CAIRO_STATUS_WRITE_ERROR;
}

static void
set_metadata(cairo_surface_t *surface, const cJSON *head)
{
	char subject[512];

	snprintf(subject, sizeof(subject), "%s of tenant %s, report %s", report_text(head, "report_type"),
			 report_text(head, "tenant_id"), report_text(head, "id"));
	cairo_pdf_surface_set_metadata(surface, CAIRO_PDF_METADATA_TITLE, report_text(head, "title"));
	cairo_pdf_surface_set_metadata(surface, CAIRO_PDF_METADATA_AUTHOR, report_text(head, "requested_by"));
	cairo_pdf_surface_set_metadata(surface, CAIRO_PDF_METADATA_SUBJECT, subject);
	cairo_pdf_surface_set_metadata(surface, CAIRO_PDF_METADATA_CREATOR, "sentinai " SENTINAI_VERSION);
	/* Not the time of the drawing: the same report has the same bytes. */
	cairo_pdf_surface_set_metadata(surface, CAIRO_PDF_METADATA_CREATE_DATE, report_text(head, "generated_at"));
}

int
main(int argc, char **argv)
{
	Report report = {0};
	cairo_surface_t *surface;
	int n_pages;

	set_limits(argc, argv);
	read_report(&report);
	n_pages = report_draw(&report, NULL, 0);
	surface = cairo_pdf_surface_create_for_stream(write_bytes, NULL, PAGE_SHORT_SIDE, PAGE_LONG_SIDE);
	set_metadata(surface, report.head);
	report_draw(&report, surface, n_pages);
	cairo_surface_finish(surface);
	if (cairo_surface_status(surface) != CAIRO_STATUS_SUCCESS)
		fail("could not write the PDF: %s", cairo_status_to_string(cairo_surface_status(surface)));
	cairo_surface_destroy(surface);
	if (fflush(stdout) != 0)
		fail("could not write the PDF: %s", strerror(errno));
	return 0;
}
