/*
 * sentinai_envelope.h
 *		Finds the fields of an event's envelope in one pass over its bytes.
 *
 * What lives here: which top-level fields an event has, of what kind they are
 * and where they stand.  The whole text is checked on the way, so a scan that
 * succeeds means that jsonb_in would take the text too.
 *
 * What doesn't: the rules of the fields (extension/event.c).  The worker looks
 * at event_type to skip what its worker type doesn't handle, the extension
 * validates; both see the same bytes the same way.
 *
 * C11 and the C library only, as sentinai_json.h.
 */
#ifndef SENTINAI_ENVELOPE_H
#define SENTINAI_ENVELOPE_H

#include "sentinai_json.h"

typedef enum sn_field_kind
{
	SN_FIELD_MISSING,
	SN_FIELD_NULL,
	SN_FIELD_STRING,
	SN_FIELD_NUMBER,
	SN_FIELD_BOOLEAN,
	SN_FIELD_OBJECT,
	SN_FIELD_ARRAY
} sn_field_kind;

typedef struct sn_field
{
	sn_field_kind kind;
	bool escaped;	  /* string: has escapes in it, see sn_json_unescape() */
	bool integral;	  /* number: neither fraction nor exponent */
	const char *text; /* string: what stands between the quotes; NULL where missing */
	size_t len;
} sn_field;

/* Of a field that is there twice the last one counts, as in jsonb. */
typedef struct sn_envelope
{
	sn_field event_id;
	sn_field event_type;
	sn_field tenant_id;
	sn_field exception_id;
	sn_field correlation_id;
	sn_field timestamp;
	sn_field version;
	sn_field payload;
	sn_field metadata;
	sn_json_error error; /* code SN_JSON_OK where all is well */
} sn_envelope;

/* The longest of the names below. */
#define SN_FIELD_NAME_MAX 14

/* The field of that name, NULL for all others. */
static inline sn_field *
sn_envelope_field(sn_envelope *envelope, const char *name, size_t len)
{
	static const struct
	{
		const char *name;
		size_t len;
		size_t offset;
	} fields[] = {
		{"event_id", 8, offsetof(sn_envelope, event_id)},
		{"event_type", 10, offsetof(sn_envelope, event_type)},
		{"tenant_id", 9, offsetof(sn_envelope, tenant_id)},
		{"exception_id", 12, offsetof(sn_envelope, exception_id)},
		{"correlation_id", 14, offsetof(sn_envelope, correlation_id)},
		{"timestamp", 9, offsetof(sn_envelope, timestamp)},
		{"version", 7, offsetof(sn_envelope, version)},
		{"payload", 7, offsetof(sn_envelope, payload)},
		{"metadata", 8, offsetof(sn_envelope, metadata)},
	};

	for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++)
		if (fields[i].len == len && memcmp(fields[i].name, name, len) == 0)
			return (sn_field *) ((char *) envelope + fields[i].offset);
	return NULL;
}

/* The field that the key just read names; keys may be written with escapes. */
static inline sn_field *
sn_envelope_key(sn_envelope *envelope, const sn_json *json)
{
	char name[SN_FIELD_NAME_MAX * 6];

	if (!json->escaped)
		return sn_envelope_field(envelope, json->text, json->len);
	if (json->len > sizeof(name))
		return NULL;
	return sn_envelope_field(envelope, name, sn_json_unescape(json->text, json->len, name));
}

static inline sn_field_kind
sn_field_kind_of(sn_json_token token)
{
	switch (token)
	{
		case SN_TOKEN_NULL:
			return SN_FIELD_NULL;
		case SN_TOKEN_STRING:
			return SN_FIELD_STRING;
		case SN_TOKEN_NUMBER:
			return SN_FIELD_NUMBER;
		case SN_TOKEN_TRUE:
		case SN_TOKEN_FALSE:
			return SN_FIELD_BOOLEAN;
		case SN_TOKEN_OBJECT:
			return SN_FIELD_OBJECT;
		case SN_TOKEN_ARRAY:
			return SN_FIELD_ARRAY;
		default:
			return SN_FIELD_MISSING;
	}
}

/* Reads one value of the top level, into "field" where that isn't NULL. */
static inline bool
sn_envelope_value(sn_json *json, sn_field *field)
{
	sn_json_token token = sn_json_next(json);
	bool escaped = token == SN_TOKEN_STRING && json->escaped;
	bool integral = token == SN_TOKEN_NUMBER && json->integral;

	if (token == SN_TOKEN_ERROR)
		return false;
	if ((token == SN_TOKEN_OBJECT || token == SN_TOKEN_ARRAY) && !sn_json_skip(json))
		return false;
	if (field != NULL)
		*field = (sn_field){sn_field_kind_of(token), escaped, integral, json->text, json->len};
	return true;
}

/*
 * Scans one event.  Returns SN_JSON_OK, or what is wrong with the text
 * (out->error has offset and reason too).  In that case the fields that stood
 * complete before the error are filled as well: good enough to show on a dead
 * letter, not to act on.
 */
static inline sn_json_code
sn_envelope_scan(const char *value, size_t len, const sn_limits *limits, sn_envelope *out)
{
	sn_json json;
	sn_json_token token;
	bool ok;

	memset(out, 0, sizeof(*out));
	sn_json_begin(&json, value, len, limits);
	token = sn_json_next(&json);
	ok = token != SN_TOKEN_ERROR;
	if (token == SN_TOKEN_OBJECT)
	{
		while (ok && (token = sn_json_next(&json)) == SN_TOKEN_KEY)
			ok = sn_envelope_value(&json, sn_envelope_key(out, &json));
		if (ok && token == SN_TOKEN_OBJECT_END)
			sn_json_next(&json); /* must be the end */
	}
	else if (ok)
	{
		/* Not an event; but broken JSON is the better message where it is that too. */
		while (token != SN_TOKEN_ERROR && token != SN_TOKEN_END)
			token = sn_json_next(&json);
		if (token == SN_TOKEN_END)
			sn_json_fail(&json, SN_JSON_NOT_OBJECT, json.start);
	}
	out->error = json.error;
	return out->error.code;
}

/* Whether the field is a string that stands for exactly these bytes. */
static inline bool
sn_field_equals(const sn_field *field, const char *text, size_t len)
{
	char chunk[64];
	const char *p;
	const char *end;

	if (field->kind != SN_FIELD_STRING)
		return false;
	if (!field->escaped)
		return field->len == len && memcmp(field->text, text, len) == 0;

	/* One character or escape at a time: a surrogate pair's halves stay together. */
	p = field->text;
	end = field->text + field->len;
	while (p < end)
	{
		size_t raw = 1;
		size_t n;

		if (*p == '\\')
		{
			raw = p[1] == 'u' ? 6 : 2;
			if (raw == 6 && (p[2] | 0x20) == 'd' && strchr("89abAB", p[3]) != NULL)
				raw = 12;
		}
		n = sn_json_unescape(p, raw, chunk);
		if (n > len || memcmp(chunk, text, n) != 0)
			return false;
		p += raw;
		text += n;
		len -= n;
	}
	return len == 0;
}

#endif /* SENTINAI_ENVELOPE_H */
