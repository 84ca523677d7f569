/*
 * json_text.h
 *	  Values as JSON: texts and times. See json_text.c.
 */
#ifndef SENTINAI_JSON_TEXT_H
#define SENTINAI_JSON_TEXT_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "lib/stringinfo.h"

#define SN_JSON_DAY 11 /* of 2026-11-30T */

/* The day of the time that was written last: rows that come together are of few days. Zeroed before the first. */
typedef struct SnJsonDay
{
	int64 day;					/* since 2000 */
	char text[SN_JSON_DAY + 1]; /* with its T; "": none yet */
} SnJsonDay;

/* Appends a text as a JSON string. */
extern void sn_json_append(StringInfo out, const char *data, int len);

/*
 * Writes a time in UTC as JsonEncodeDateTime() does, without quotes, many times as fast; to has room for MAXDATELEN + 1 bytes.
 * False: it is of another millennium than this code knows, and nothing was written.
 */
extern bool sn_json_time(SnJsonDay *cached, char *to, Timestamp value, bool with_zone);

#endif /* SENTINAI_JSON_TEXT_H */
