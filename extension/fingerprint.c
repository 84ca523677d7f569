/*
 * fingerprint.c
 *	  What makes two failures one cause: the message without its literals, and a hash over it and what failed.
 *
 * dlq_message_pattern('order 17 of "ACME" is closed') is 'order ? of "?" is closed'. Numbers, quoted texts, UUIDs and long
 * hexadecimal words go; a name in double quotes stays where the word before says that it is one (relation "orders").
 */
#include "sentinai.h"

#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"

PG_FUNCTION_INFO_V1(sn_dlq_message_pattern);
PG_FUNCTION_INFO_V1(sn_dlq_fingerprint);

/* Longest pattern in bytes; what differs behind that doesn't make another cause. */
#define MAX_PATTERN 500

/* PostgreSQL's messages quote names and values alike. Behind these words stands a name. */
static const char *const nouns[] = {"column",	 "constraint", "database", "domain",   "extension",
									"field",	 "function",   "index",	   "operator", "parameter",
									"partition", "procedure",  "relation", "role",	   "schema",
									"sequence",	 "table",	   "trigger",  "type",	   "view"};

static bool
is_word(char c)
{
	return isalnum((unsigned char) c) || c == '_' || IS_HIGHBIT_SET(c);
}

/* Length of a UUID at the beginning of a text, 0: there is none. */
static int
uuid_length(const char *text)
{
	for (int i = 0; i < 36; i++)
	{
		bool dash = i == 8 || i == 13 || i == 18 || i == 23;

		if (dash ? text[i] != '-' : !isxdigit((unsigned char) text[i]))
			return 0;
	}
	return is_word(text[36]) ? 0 : 36;
}

/* Length of a hexadecimal word of at least eight characters and one digit (or 0x...), 0: there is none. */
static int
hex_length(const char *text)
{
	bool prefixed = text[0] == '0' && (text[1] == 'x' || text[1] == 'X');
	int n = prefixed ? 2 : 0;
	bool digit = prefixed;

	for (; isxdigit((unsigned char) text[n]); n++)
		digit = digit || isdigit((unsigned char) text[n]);
	return digit && n >= (prefixed ? 3 : 8) && !is_word(text[n]) ? n : 0;
}

/* Length of a number at the beginning of a text, with what stands between digits in numbers, dates and times. */
static int
number_length(const char *text)
{
	int n = 0;

	while (isdigit((unsigned char) text[n]) ||
		   (n > 0 && strchr(".,:-", text[n]) != NULL && text[n] != '\0' && isdigit((unsigned char) text[n + 1])))
		n++;
	return n;
}

/* Whether the last word of a pattern says that a name follows. */
static bool
noun_before(const StringInfo pattern)
{
	int end = pattern->len;
	int start;

	while (end > 0 && pattern->data[end - 1] == ' ')
		end--;
	start = end;
	while (start > 0 && is_word(pattern->data[start - 1]))
		start--;
	for (int i = 0; i < lengthof(nouns); i++)
		if (strlen(nouns[i]) == end - start && strncmp(nouns[i], pattern->data + start, end - start) == 0)
			return true;
	return false;
}

/* Takes a quoted text, or says 0: this quote opens none (an apostrophe, or nothing closes it). */
static int
quoted_length(const char *message, const char *at)
{
	const char *end;

	if (at > message && is_word(at[-1]))
		return 0;
	end = strchr(at + 1, *at);
	return end == NULL ? 0 : end - at + 1;
}

/* Appends what stands for the text at *at*, and returns how much of it was taken. */
static int
append_token(StringInfo pattern, const char *message, const char *at)
{
	bool word_begins = at == message || !is_word(at[-1]);
	int n;

	if ((*at == '\'' || *at == '"') && (n = quoted_length(message, at)) > 0)
	{
		if (*at == '"' && noun_before(pattern))
			appendBinaryStringInfo(pattern, at, n);
		else
			appendStringInfo(pattern, "%c?%c", *at, *at);
		return n;
	}
	if (word_begins && ((n = uuid_length(at)) > 0 || (n = hex_length(at)) > 0))
	{
		appendStringInfoChar(pattern, '?');
		return n;
	}
	if ((n = number_length(at)) > 0)
	{
		appendStringInfoChar(pattern, '?');
		return n;
	}
	if (isspace((unsigned char) *at))
	{
		if (pattern->len > 0 && pattern->data[pattern->len - 1] != ' ')
			appendStringInfoChar(pattern, ' ');
		return 1;
	}
	appendStringInfoChar(pattern, *at);
	return 1;
}

static char *
message_pattern(const char *message)
{
	StringInfoData pattern;
	const char *at = message;

	initStringInfo(&pattern);
	while (*at != '\0' && pattern.len < MAX_PATTERN)
		at += append_token(&pattern, message, at);
	if (pattern.len > MAX_PATTERN)
		pattern.data[pg_mbcliplen(pattern.data, pattern.len, MAX_PATTERN)] = '\0';
	else if (*at != '\0')
		pattern.data[pg_mbcliplen(pattern.data, pattern.len, pattern.len)] = '\0';
	return pattern.data;
}

/* dlq_message_pattern(message) returns text */
Datum
sn_dlq_message_pattern(PG_FUNCTION_ARGS)
{
	PG_RETURN_TEXT_P(cstring_to_text(message_pattern(text_to_cstring(PG_GETARG_TEXT_PP(0)))));
}

/* FNV-1a, 64 bits: the same on every machine, so that a fingerprint survives a dump. */
static uint64
hash_text(uint64 hash, const char *text)
{
	for (; *text != '\0'; text++)
		hash = (hash ^ (unsigned char) *text) * UINT64CONST(0x100000001b3);
	return (hash ^ 0xff) * UINT64CONST(0x100000001b3); /* the end, which no UTF-8 text has */
}

/* dlq_fingerprint(error_type, sqlstate, error_message, event_type, worker_type) returns text: 16 hexadecimal digits */
Datum
sn_dlq_fingerprint(PG_FUNCTION_ARGS)
{
	uint64 hash = UINT64CONST(0xcbf29ce484222325);

	for (int i = 0; i < 5; i++)
	{
		char *part = PG_ARGISNULL(i) ? pstrdup("") : text_to_cstring(PG_GETARG_TEXT_PP(i));

		hash = hash_text(hash, i == 2 ? message_pattern(part) : part);
	}
	PG_RETURN_TEXT_P(cstring_to_text(psprintf("%016llx", (unsigned long long) hash)));
}
