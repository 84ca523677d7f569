/*
 * log.c
 *	  The log: one line an event. See log.h for the rules.
 */
#include "log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Written by log_open() before the first thread, read by all. */
static const char *log_worker_type = "";
static bool log_json = false;
static LogLevel log_least = LEVEL_INFO;

void
log_open(const char *worker_type, bool json, LogLevel least)
{
	log_worker_type = worker_type;
	log_json = json;
	log_least = least;
}

bool
log_enabled(LogLevel level)
{
	return level >= log_least;
}

const char *
log_level_name(LogLevel level)
{
	static const char *const names[] = {"debug", "info", "warning", "error"};

	return names[level];
}

/* JSON's escapes, which logfmt's readers know as well. Bytes above 0x7f stay: the texts are UTF-8. */
static void
put_quoted(FILE *out, const char *text)
{
	putc('"', out);
	for (const unsigned char *p = (const unsigned char *) text; *p != '\0'; p++)
	{
		if (*p == '"' || *p == '\\')
			fprintf(out, "\\%c", *p);
		else if (*p == '\n')
			fputs("\\n", out);
		else if (*p == '\t')
			fputs("\\t", out);
		else if (*p < 0x20 || *p == 0x7f)
			fprintf(out, "\\u%04x", *p);
		else
			putc(*p, out);
	}
	putc('"', out);
}

/* A value that a reader of logfmt would split or misread needs quotes. */
static bool
is_bare(const char *text)
{
	if (*text == '\0')
		return false;
	for (const unsigned char *p = (const unsigned char *) text; *p != '\0'; p++)
		if (*p <= ' ' || *p == '"' || *p == '=' || *p == '\\' || *p == 0x7f)
			return false;
	return true;
}

static void
put_text(FILE *out, const char *name, const char *text)
{
	if (log_json)
	{
		fprintf(out, "\"%s\":", name);
		put_quoted(out, text);
	}
	else
	{
		fprintf(out, "%s=", name);
		if (is_bare(text))
			fputs(text, out);
		else
			put_quoted(out, text);
	}
}

static void
put_field(FILE *out, LogField field)
{
	if (field.name == NULL)
		return;
	putc(log_json ? ',' : ' ', out);
	if (field.text != NULL)
		put_text(out, field.name, field.text);
	else if (log_json)
		fprintf(out, "\"%s\":%lld", field.name, field.number);
	else
		fprintf(out, "%s=%lld", field.name, field.number);
}

static void
put_time(FILE *out)
{
	struct timespec now;
	struct tm parts;
	char seconds[32];
	char text[48];

	clock_gettime(CLOCK_REALTIME, &now);
	gmtime_r(&now.tv_sec, &parts);
	strftime(seconds, sizeof(seconds), "%Y-%m-%dT%H:%M:%S", &parts);
	snprintf(text, sizeof(text), "%s.%03ldZ", seconds, now.tv_nsec / 1000000);
	put_text(out, "ts", text);
}

char *
log_line(LogLevel level, const char *message, const LogField *fields, int n)
{
	char *line = NULL;
	size_t length;
	FILE *out = open_memstream(&line, &length);

	if (out == NULL)
		return NULL;
	if (log_json)
		putc('{', out);
	put_time(out);
	put_field(out, F_TEXT("level", log_level_name(level)));
	put_field(out, F_TEXT("msg", message));
	put_field(out, F_TEXT("worker_type", log_worker_type));
	for (int i = 0; i < n; i++)
		put_field(out, fields[i]);
	fputs(log_json ? "}\n" : "\n", out);
	if (fclose(out) != 0)
	{
		free(line);
		return NULL;
	}
	return line;
}

void
log_write(LogLevel level, const char *message, const LogField *fields, int n)
{
	char *line;

	if (!log_enabled(level))
		return;
	line = log_line(level, message, fields, n);
	if (line == NULL)
		return;
	/* A log that can't be written must not stop the worker. */
	if (write(STDOUT_FILENO, line, strlen(line)) < 0)
		(void) 0;
	free(line);
}
