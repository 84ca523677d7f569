/*
 * json_text.c
 *	  Values as JSON: texts and times, many of them, into a buffer. What report_format.c and api_dlq.c share.
 *
 * Other types are short work for PostgreSQL's own functions, and so is a single text (escape_json()).
 */
#include "sentinai.h"

#include "utils/datetime.h"

#include "json_text.h"

/* 2000-01-01 and 10000-01-01: times that sn_json_time() writes. */
#define TIME_FIRST INT64CONST(0)
#define TIME_LAST (INT64CONST(2921940) * USECS_PER_DAY)

/* Appends a character as JSON escapes it. */
static void
append_escaped(StringInfo out, unsigned char c)
{
	static const char digits[] = "0123456789abcdef";
	char escape[6] = {'\\', 'u', '0', '0', digits[c >> 4], digits[c & 15]};

	if (c == '"' || c == '\\')
	{
		appendStringInfoCharMacro(out, '\\');
		appendStringInfoCharMacro(out, c);
	}
	else if (c == '\n')
		appendBinaryStringInfo(out, "\\n", 2);
	else
		appendBinaryStringInfo(out, escape, sizeof(escape));
}

/* Stretches without anything to escape go at once. */
void
sn_json_append(StringInfo out, const char *data, int len)
{
	int done = 0;

	appendStringInfoCharMacro(out, '"');
	for (int i = 0; i < len; i++)
	{
		unsigned char c = data[i];

		if (c >= ' ' && c != '"' && c != '\\')
			continue;
		appendBinaryStringInfo(out, data + done, i - done);
		append_escaped(out, c);
		done = i + 1;
	}
	appendBinaryStringInfo(out, data + done, len - done);
	appendStringInfoCharMacro(out, '"');
}

static char *
put_two(char *to, int value)
{
	*to++ = '0' + value / 10;
	*to++ = '0' + value % 10;
	return to;
}

/* Microseconds without the zeros at their end; nothing where there are none. */
static char *
put_fraction(char *to, int value)
{
	if (value == 0)
		return to;
	*to++ = '.';
	for (int digit = 100000; value > 0; value %= digit, digit /= 10)
		*to++ = '0' + value / digit;
	return to;
}

bool
sn_json_time(SnJsonDay *cached, char *to, Timestamp value, bool with_zone)
{
	int64 day = value / USECS_PER_DAY;
	int64 time = value % USECS_PER_DAY;

	if (value < TIME_FIRST || value >= TIME_LAST)
		return false;
	if (cached->text[0] == '\0' || day != cached->day)
	{
		int year;
		int month;
		int dom;

		j2date(day + POSTGRES_EPOCH_JDATE, &year, &month, &dom);
		snprintf(cached->text, sizeof(cached->text), "%04d-%02d-%02dT", year, month, dom);
		cached->day = day;
	}
	memcpy(to, cached->text, SN_JSON_DAY);
	to = put_two(to + SN_JSON_DAY, time / USECS_PER_HOUR);
	*to++ = ':';
	to = put_two(to, time / USECS_PER_MINUTE % MINS_PER_HOUR);
	*to++ = ':';
	to = put_two(to, time / USECS_PER_SEC % SECS_PER_MINUTE);
	to = put_fraction(to, time % USECS_PER_SEC);
	strcpy(to, with_zone ? "+00:00" : "");
	return true;
}
