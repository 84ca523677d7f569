/*
 * log.h
 *	  The log: one line an event, on standard output (where `docker logs NAME | grep` finds it), logfmt or JSON.
 *
 * A line is a message (a constant, or text without payload) and fields. Every line has ts, level, msg and worker_type;
 * tenant_id, exception_id and event_id are written as such, so that grep "tenant_id=TENANT_001" finds them. No payload and
 * no secret is ever a field.
 *
 * Any thread may log: a line is built in a buffer of its own and written by one write(2).
 *
 *	log_info("partition is active", F_TEXT("topic", topic), F_INT("partition", number));
 */
#ifndef WORKER_LOG_H
#define WORKER_LOG_H

#include <stdbool.h>
#include <stddef.h>

typedef enum LogLevel
{
	LEVEL_DEBUG,
	LEVEL_INFO,
	LEVEL_WARNING,
	LEVEL_ERROR
} LogLevel;

typedef struct LogField
{
	const char *name;
	const char *text; /* NULL: number counts */
	long long number;
} LogField;

/* A NULL text: the field is left out. */
#define F_TEXT(name, value) log_field_text((name), (value))
#define F_INT(name, value) ((LogField){(name), NULL, (long long) (value)})

static inline LogField
log_field_text(const char *name, const char *value)
{
	return (LogField){value == NULL ? NULL : name, value, 0};
}

/* Before the first thread. worker_type must outlive the log; json: one object a line. */
extern void log_open(const char *worker_type, bool json, LogLevel least);
extern bool log_enabled(LogLevel level);
extern const char *log_level_name(LogLevel level);

/* Fields whose name is NULL are left out. */
extern void log_write(LogLevel level, const char *message, const LogField *fields, int n);

/* Exposed for the unit tests: the line without writing it. The result is the caller's. */
extern char *log_line(LogLevel level, const char *message, const LogField *fields, int n);

#define LOG_AT(level, message, ...) \
	log_write((level), (message), (LogField[]){{0}, ##__VA_ARGS__}, \
			  (int) (sizeof((LogField[]){{0}, ##__VA_ARGS__}) / sizeof(LogField)))
#define log_debug(message, ...) LOG_AT(LEVEL_DEBUG, message, ##__VA_ARGS__)
#define log_info(message, ...) LOG_AT(LEVEL_INFO, message, ##__VA_ARGS__)
#define log_warning(message, ...) LOG_AT(LEVEL_WARNING, message, ##__VA_ARGS__)
#define log_error(message, ...) LOG_AT(LEVEL_ERROR, message, ##__VA_ARGS__)

#endif /* WORKER_LOG_H */
