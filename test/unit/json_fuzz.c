/*
 * json_fuzz.c
 *		A libFuzzer target: what must hold of the scanner for any bytes at all.
 *
 * What lives here: properties that need no oracle (nothing is read outside the
 * text, the two ways to scan agree, what is accepted is UTF-8 and stays so when
 * its escapes are resolved).  What doesn't: the comparison with jsonb_in, which
 * is sql/event.sql.  `make fuzz` runs it for FUZZ_SECONDS.
 */
#include <stdio.h>
#include <stdlib.h>

#include "sentinai_envelope.h"

#define MUST(condition) \
	do \
	{ \
		if (!(condition)) \
		{ \
			fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
			abort(); \
		} \
	} while (0)

extern int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A string or key that was accepted, its escapes resolved. */
static void
check_text(const char *text, size_t len, bool escaped)
{
	char *plain = malloc(len > 0 ? len : 1);
	size_t plain_len;
	sn_field field = {SN_FIELD_STRING, escaped, false, text, len};

	MUST(plain != NULL);
	plain_len = sn_json_unescape(text, len, plain);
	MUST(plain_len <= len);
	MUST(escaped == (plain_len < len));
	MUST(sn_utf8_valid(plain, plain_len));
	MUST(memchr(plain, 0, plain_len) == NULL);
	MUST(sn_field_equals(&field, plain, plain_len));
	free(plain);
}

/* All tokens of a text, one by one. */
static sn_json_error
scan(const char *text, size_t len, const sn_limits *limits)
{
	sn_json json;
	sn_json_token token;
	int depth = 0;

	sn_json_begin(&json, text, len, limits);
	while ((token = sn_json_next(&json)) > SN_TOKEN_END)
	{
		MUST(json.text >= text && json.text + json.len <= text + len);
		if (token == SN_TOKEN_OBJECT || token == SN_TOKEN_ARRAY)
			depth++;
		if (token == SN_TOKEN_OBJECT_END || token == SN_TOKEN_ARRAY_END)
			depth--;
		if (token == SN_TOKEN_KEY || token == SN_TOKEN_STRING)
			check_text(json.text, json.len, json.escaped);
		MUST(depth == json.depth && depth <= limits->max_depth);
	}
	MUST((token == SN_TOKEN_END) == (json.error.code == SN_JSON_OK));
	MUST(token == SN_TOKEN_ERROR || depth == 0);
	MUST(json.error.offset <= len);
	return json.error;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const sn_limits limits = {4096, 16};
	char *text = malloc(size > 0 ? size : 1);
	sn_envelope envelope;
	sn_json_error error;

	MUST(text != NULL);
	memcpy(text, data, size);
	error = scan(text, size, &limits);
	sn_envelope_scan(text, size, &limits, &envelope);
	if (envelope.error.code == SN_JSON_NOT_OBJECT)
		MUST(error.code == SN_JSON_OK);
	else
		MUST(envelope.error.code == error.code && envelope.error.offset == error.offset);
	if (error.code == SN_JSON_OK)
		MUST(sn_utf8_valid(text, size));
	if (envelope.payload.kind == SN_FIELD_OBJECT)
		MUST(scan(envelope.payload.text, envelope.payload.len, &limits).code == SN_JSON_OK);
	free(text);
	return 0;
}
