/*
 * event.c
 *		One event: its bytes in, its checked fields out.
 *
 * The walk of an event: sn_envelope_scan() checks the whole text and finds the
 * fields; identity_fill() copies those a dead letter can show; fields_check()
 * applies the rules; jsonb_build() makes jsonb of payload and metadata from
 * what the scanner accepted, so that PostgreSQL's own JSON parser, which
 * throws, never sees the bytes.
 *
 * What jsonb_build() leaves behind lies in a context of its own that is reset
 * after every event: one MiB of small numbers takes dozens of MiB there, and a
 * batch has many events.
 *
 * What doesn't live here: anything that needs a table (tenants, event types).
 */
#include "postgres.h"

#include <limits.h>

#include "access/htup_details.h"
#include "access/xact.h"
#include "common/cryptohash.h"
#include "common/sha1.h"
#include "common/sha2.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "port/pg_bswap.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

#include "event.h"
#include "guc.h"
#include "sentinai_envelope.h"

/*
 * What one jsonb may hold at most.  Its format ends at 2^28 - 1 bytes, and
 * arrays of members and elements are doubled, which ends at 1 GiB: at these
 * counts the next doubling would throw.
 */
#define JSONB_MAX_BYTES JENTRY_OFFLENMASK
#define JSONB_MAX_KEYS (8 * 1024 * 1024)
#define JSONB_MAX_VALUES (16 * 1024 * 1024)

/* Numbers of up to this many characters fit an int64. */
#define INT64_SAFE_LEN 18

/* Objects of more members are sorted by qsort(). */
#define INSERTION_SORT_MAX 16

/* An object or array whose end has not come yet. */
typedef struct Container
{
	struct Container *parent;
	JsonbValue value; /* its members or elements so far, in the order of the text */
	JsonbValue key;	  /* of an object's next member */
	int max;
} Container;

typedef struct JsonbBuild
{
	Container *top;
	JsonbValue root;
	bool trim;		/* strip trailing zeros of fractions: 1.50 is 1.5 */
	bool trimmable; /* there are such zeros, perhaps */
	uint64 bytes;	/* upper bound of the jsonb's size */
	uint32 keys;
	uint32 values;
} JsonbBuild;

static MemoryContext scratch = NULL;

PG_FUNCTION_INFO_V1(sn_event_parse_sql);
PG_FUNCTION_INFO_V1(sn_event_id_from_place_sql);
PG_FUNCTION_INFO_V1(sn_event_id_derived_sql);

static bool
refuse(SnEventError *err, char *message, char *detail)
{
	err->error_type = "validation_error";
	err->message = message;
	err->detail = detail;
	err->structural = true;
	return false;
}

/*
 * Numbers
 */

static Numeric
number_from_integer(const char *text, size_t len)
{
	bool negative = *text == '-';
	int64 value = 0;

	for (size_t i = negative ? 1 : 0; i < len; i++)
		value = value * 10 + (text[i] - '0');
	return int64_to_numeric(negative ? -value : value);
}

/* numeric_in() takes every number that the scanner does: its limits are far beyond ours. */
static Numeric
number_from_text(const char *text, size_t len)
{
	char *copy = pnstrdup(text, len);

	return DatumGetNumeric(
		DirectFunctionCall3(numeric_in, CStringGetDatum(copy), ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));
}

/* Whether the numeric may carry zeros at its end: 1.50 and 100e-2 do, 1.5 doesn't. */
static bool
number_trimmable(const char *text, size_t len)
{
	return text[len - 1] == '0' || memchr(text, 'e', len) != NULL || memchr(text, 'E', len) != NULL;
}

static Numeric
number_build(JsonbBuild *build, const sn_json *json)
{
	Numeric number;

	if (json->integral && json->len <= INT64_SAFE_LEN)
		return number_from_integer(json->text, json->len);

	number = number_from_text(json->text, json->len);
	if (!json->integral && number_trimmable(json->text, json->len))
	{
		build->trimmable = true;
		if (build->trim)
			number = DatumGetNumeric(DirectFunctionCall1(numeric_trim_scale, NumericGetDatum(number)));
	}
	return number;
}

/*
 * jsonb
 */

static void
string_build(JsonbValue *value, const sn_json *json)
{
	value->type = jbvString;
	if (json->escaped)
	{
		value->val.string.val = palloc(json->len);
		value->val.string.len = sn_json_unescape(json->text, json->len, value->val.string.val);
	}
	else
	{
		/* Only read, and only until the jsonb is made. */
		value->val.string.val = (char *) json->text;
		value->val.string.len = json->len;
	}
}

static void
scalar_build(JsonbBuild *build, const sn_json *json, sn_json_token token, JsonbValue *value)
{
	switch (token)
	{
		case SN_TOKEN_KEY:
		case SN_TOKEN_STRING:
			string_build(value, json);
			build->bytes += value->val.string.len;
			break;
		case SN_TOKEN_NUMBER:
			value->type = jbvNumeric;
			value->val.numeric = number_build(build, json);
			build->bytes += VARSIZE(value->val.numeric) + sizeof(int32); /* it is aligned */
			break;
		case SN_TOKEN_TRUE:
		case SN_TOKEN_FALSE:
			value->type = jbvBool;
			value->val.boolean = token == SN_TOKEN_TRUE;
			break;
		default:
			value->type = jbvNull;
			break;
	}
}

static void
container_begin(JsonbBuild *build, bool object)
{
	Container *container = palloc0(sizeof(Container));

	container->parent = build->top;
	container->max = 8;
	container->value.type = object ? jbvObject : jbvArray;
	if (object)
		container->value.val.object.pairs = palloc(container->max * sizeof(JsonbPair));
	else
		container->value.val.array.elems = palloc(container->max * sizeof(JsonbValue));
	build->top = container;
	build->values++;
	build->bytes += 2 * sizeof(uint32); /* header and alignment */
}

static void
member_add(Container *container, const JsonbValue *value)
{
	int n = container->value.val.object.nPairs++;

	if (n == container->max)
		container->value.val.object.pairs =
			repalloc(container->value.val.object.pairs, (container->max *= 2) * sizeof(JsonbPair));
	container->value.val.object.pairs[n] = (JsonbPair){container->key, *value, n};
}

static void
element_add(Container *container, const JsonbValue *value)
{
	int n = container->value.val.array.nElems++;

	if (n == container->max)
		container->value.val.array.elems =
			repalloc(container->value.val.array.elems, (container->max *= 2) * sizeof(JsonbValue));
	container->value.val.array.elems[n] = *value;
}

/* A value is complete: it goes into what surrounds it. */
static void
value_add(JsonbBuild *build, const JsonbValue *value)
{
	if (build->top == NULL)
		build->root = *value;
	else if (build->top->value.type == jbvObject)
		member_add(build->top, value);
	else
		element_add(build->top, value);
}

/* jsonb's order: by length first. */
static int
key_compare(const JsonbPair *a, const JsonbPair *b)
{
	if (a->key.val.string.len != b->key.val.string.len)
		return a->key.val.string.len < b->key.val.string.len ? -1 : 1;
	return memcmp(a->key.val.string.val, b->key.val.string.val, a->key.val.string.len);
}

static int
pair_compare(const void *a, const void *b)
{
	const JsonbPair *left = a;
	const JsonbPair *right = b;
	int order = key_compare(left, right);

	return order != 0 ? order : left->order < right->order ? -1 : 1;
}

static void
pairs_sort(JsonbPair *pairs, int n)
{
	if (n > INSERTION_SORT_MAX)
	{
		qsort(pairs, n, sizeof(JsonbPair), pair_compare);
		return;
	}
	for (int i = 1; i < n; i++)
	{
		JsonbPair pair = pairs[i];
		int at = i;

		for (; at > 0 && key_compare(&pairs[at - 1], &pair) > 0; at--)
			pairs[at] = pairs[at - 1];
		if (at < i)
			pairs[at] = pair;
	}
}

/* Members in order, of those with one key the last. */
static void
object_end(JsonbValue *object)
{
	JsonbPair *pairs = object->val.object.pairs;
	int n = object->val.object.nPairs;
	int kept = 0;

	pairs_sort(pairs, n);
	for (int i = 0; i < n; i++)
	{
		if (i + 1 < n && key_compare(&pairs[i], &pairs[i + 1]) == 0)
			continue;
		if (kept < i)
			pairs[kept] = pairs[i];
		kept++;
	}
	object->val.object.nPairs = kept;
}

static void
container_end(JsonbBuild *build)
{
	Container *container = build->top;

	if (container->value.type == jbvObject)
		object_end(&container->value);
	build->top = container->parent;
	value_add(build, &container->value);
}

static void
token_build(JsonbBuild *build, const sn_json *json, sn_json_token token)
{
	JsonbValue value;

	build->bytes += sizeof(JEntry);
	switch (token)
	{
		case SN_TOKEN_OBJECT:
		case SN_TOKEN_ARRAY:
			container_begin(build, token == SN_TOKEN_OBJECT);
			break;
		case SN_TOKEN_OBJECT_END:
		case SN_TOKEN_ARRAY_END:
			container_end(build);
			break;
		case SN_TOKEN_KEY:
			build->keys++;
			scalar_build(build, json, token, &build->top->key);
			break;
		default:
			build->values++;
			scalar_build(build, json, token, &value);
			value_add(build, &value);
			break;
	}
}

/*
 * The jsonb of an object or array that the scanner has accepted, NULL where
 * jsonb can't hold it.  The caller's context gets the result and nothing else.
 */
static Jsonb *
jsonb_build(const sn_field *field, bool trim, bool *trimmable)
{
	MemoryContext caller = MemoryContextSwitchTo(scratch);
	JsonbBuild build = {.trim = trim, .bytes = sizeof(Jsonb)};
	sn_limits limits = {field->len, SN_JSON_DEPTH_CEILING};
	sn_json json;
	sn_json_token token;
	Jsonb *result = NULL;

	sn_json_begin(&json, field->text, field->len, &limits);
	while ((token = sn_json_next(&json)) > SN_TOKEN_END)
	{
		if (build.bytes > JSONB_MAX_BYTES || build.keys >= JSONB_MAX_KEYS || build.values >= JSONB_MAX_VALUES)
			break;
		token_build(&build, &json, token);
		CHECK_FOR_INTERRUPTS();
	}
	if (token == SN_TOKEN_END)
	{
		Jsonb *made = JsonbValueToJsonb(&build.root);

		MemoryContextSwitchTo(caller);
		result = palloc(VARSIZE(made));
		memcpy(result, made, VARSIZE(made));
		if (trimmable != NULL)
			*trimmable = build.trimmable;
	}
	MemoryContextSwitchTo(caller);
	MemoryContextReset(scratch);
	return result;
}

/*
 * Hashes and ids
 */

static pg_cryptohash_ctx *
hash_begin(pg_cryptohash_type type)
{
	pg_cryptohash_ctx *hash = pg_cryptohash_create(type);

	if (hash == NULL || pg_cryptohash_init(hash) < 0)
		elog(ERROR, "could not begin a hash");
	return hash;
}

static void
hash_add(pg_cryptohash_ctx *hash, const void *data, size_t len)
{
	if (pg_cryptohash_update(hash, data, len) < 0)
		elog(ERROR, "could not add to a hash");
}

/* With its length in front, so that no two lists of parts are the same bytes. */
static void
hash_add_part(pg_cryptohash_ctx *hash, const void *data, uint32 len)
{
	uint32 prefix = pg_hton32(len);

	hash_add(hash, &prefix, sizeof(prefix));
	hash_add(hash, data, len);
}

static void
hash_end(pg_cryptohash_ctx *hash, uint8 *digest, size_t len)
{
	if (pg_cryptohash_final(hash, digest, len) < 0)
		elog(ERROR, "could not end a hash");
	pg_cryptohash_free(hash);
}

/*
 * 64 bits of SHA-256 over the event type and the payload.  jsonb's bytes are
 * canonical (keys sorted, padding zero) but for a fraction's trailing zeros,
 * so a payload that has some is built once more without them.
 */
static int64
payload_hash(const char *event_type, const sn_field *field, const Jsonb *payload, bool trimmable)
{
	pg_cryptohash_ctx *hash;
	uint8 digest[PG_SHA256_DIGEST_LENGTH];
	uint64 result;

	if (trimmable)
		payload = jsonb_build(field, true, NULL);
	hash = hash_begin(PG_SHA256);
	hash_add_part(hash, event_type, strlen(event_type));
	hash_add_part(hash, VARDATA(payload), VARSIZE(payload) - VARHDRSZ);
	hash_end(hash, digest, sizeof(digest));
	memcpy(&result, digest, sizeof(result));
	return (int64) pg_ntoh64(result);
}

/* The text form of a UUID, after its version and variant bits are set. */
static char *
uuid_text(uint8 *uuid, int version)
{
	static const char digits[] = "0123456789abcdef";
	char *text = palloc(37);
	char *to = text;

	uuid[6] = (uuid[6] & 0x0F) | version << 4;
	uuid[8] = (uuid[8] & 0x3F) | 0x80;
	for (int i = 0; i < 16; i++)
	{
		if (i == 4 || i == 6 || i == 8 || i == 10)
			*to++ = '-';
		*to++ = digits[uuid[i] >> 4];
		*to++ = digits[uuid[i] & 0x0F];
	}
	*to = '\0';
	return text;
}

char *
sn_event_id_from_place(const char *cluster_id, const char *topic, int incarnation, int partition, int64 offset)
{
	/* Our own name space: 3a1c6f0e-5c0b-4d0e-9a53-7e1d2f60b8c4. */
	static const uint8 name_space[16] = {0x3a, 0x1c, 0x6f, 0x0e, 0x5c, 0x0b, 0x4d, 0x0e,
										 0x9a, 0x53, 0x7e, 0x1d, 0x2f, 0x60, 0xb8, 0xc4};
	pg_cryptohash_ctx *hash = hash_begin(PG_SHA1);
	uint8 digest[SHA1_DIGEST_LENGTH];
	char numbers[64];

	snprintf(numbers, sizeof(numbers), "%d/%d/" INT64_FORMAT, incarnation, partition, offset);
	hash_add(hash, name_space, sizeof(name_space));
	hash_add_part(hash, cluster_id, strlen(cluster_id));
	hash_add_part(hash, topic, strlen(topic));
	hash_add_part(hash, numbers, strlen(numbers));
	hash_end(hash, digest, sizeof(digest));
	return uuid_text(digest, 5);
}

char *
sn_event_id_derived(const char *tenant_id, const char *parent_event_id, TimestampTz parent_ts, const char *worker_type,
					int ordinal)
{
	const int64 epoch_ms = (int64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * SECS_PER_DAY * 1000;
	pg_cryptohash_ctx *hash = hash_begin(PG_SHA256);
	uint8 digest[PG_SHA256_DIGEST_LENGTH];
	uint8 uuid[16];
	uint32 number = pg_hton32((uint32) ordinal);
	int64 ms = parent_ts / 1000 + epoch_ms;
	uint64 front;

	hash_add_part(hash, tenant_id, strlen(tenant_id));
	hash_add_part(hash, parent_event_id, strlen(parent_event_id));
	hash_add_part(hash, worker_type, strlen(worker_type));
	hash_add_part(hash, &number, sizeof(number));
	hash_end(hash, digest, sizeof(digest));

	/* Times outside 48 bits go to the nearer end. */
	ms = Max(ms, 0);
	ms = Min(ms, (INT64CONST(1) << 48) - 1);
	front = pg_hton64((uint64) ms << 16);
	memcpy(uuid, &front, 6);
	memcpy(uuid + 6, digest, 10);
	return uuid_text(uuid, 8);
}

/*
 * Fields of the envelope
 */

static const char *
kind_name(sn_field_kind kind)
{
	switch (kind)
	{
		case SN_FIELD_MISSING:
			return "missing";
		case SN_FIELD_NULL:
			return "null";
		case SN_FIELD_STRING:
			return "a string";
		case SN_FIELD_NUMBER:
			return "a number";
		case SN_FIELD_BOOLEAN:
			return "a boolean";
		case SN_FIELD_OBJECT:
			return "an object";
		case SN_FIELD_ARRAY:
			return "an array";
	}
	return "unknown";
}

static bool
field_absent(const sn_field *field)
{
	return field->kind == SN_FIELD_MISSING || field->kind == SN_FIELD_NULL;
}

static bool
refuse_absent(SnEventError *err, const char *name, const sn_field *field)
{
	return refuse(err, psprintf("field \"%s\" is %s", name, kind_name(field->kind)), NULL);
}

static bool
refuse_kind(SnEventError *err, const char *name, const sn_field *field, const char *wanted)
{
	return refuse(err, psprintf("field \"%s\" is not %s", name, wanted), psprintf("It is %s.", kind_name(field->kind)));
}

/* A string's text, its escapes resolved. */
static char *
field_text(const sn_field *field)
{
	char *text;

	if (!field->escaped)
		return pnstrdup(field->text, field->len);
	text = palloc(field->len + 1);
	text[sn_json_unescape(field->text, field->len, text)] = '\0';
	return text;
}

/* A field's text where it follows the rule of the text fields, else NULL. */
static char *
field_usable(const sn_field *field)
{
	char *text;
	size_t len;

	/* The longest escape of a byte has six: most of what is too long need not be copied. */
	if (field->kind != SN_FIELD_STRING || field->len > SN_EVENT_TEXT_MAX * 6)
		return NULL;
	text = field_text(field);
	len = strlen(text);
	return len >= 1 && len <= SN_EVENT_TEXT_MAX ? text : NULL;
}

bool
sn_tenant_id_valid(const char *text)
{
	size_t len = strspn(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-");

	return text[len] == '\0' && len >= 1 && len <= SN_TENANT_ID_MAX;
}

static void
identity_fill(const sn_envelope *envelope, const char *tenant, SnEvent *out)
{
	out->event_id = field_usable(&envelope->event_id);
	out->event_id_given = out->event_id != NULL;
	out->event_type = field_usable(&envelope->event_type);
	out->tenant_id = field_usable(&envelope->tenant_id);
	if (out->tenant_id != NULL && !sn_tenant_id_valid(out->tenant_id))
		out->tenant_id = NULL;
	if (tenant != NULL && field_absent(&envelope->tenant_id))
		out->tenant_id = pstrdup(tenant);
	out->exception_id = field_usable(&envelope->exception_id);
	out->correlation_id = field_usable(&envelope->correlation_id);
	if (out->correlation_id == NULL && field_absent(&envelope->correlation_id))
		out->correlation_id = out->exception_id;
}

/* "usable" is what identity_fill() made of the field. */
static bool
text_check(const char *name, const sn_field *field, const char *usable, bool required, SnEventError *err)
{
	if (field_absent(field))
		return !required || refuse_absent(err, name, field);
	if (field->kind != SN_FIELD_STRING)
		return refuse_kind(err, name, field, "text");
	if (usable != NULL)
		return true;
	if (field->len == 0)
		return refuse(err, psprintf("field \"%s\" is empty", name), NULL);
	return refuse(err, psprintf("field \"%s\" is too long", name),
				  psprintf("It has %zu bytes, the limit is %d.", strlen(field_text(field)), SN_EVENT_TEXT_MAX));
}

static bool
tenant_check(const sn_field *field, const char *usable, SnEventError *err)
{
	if (field->kind == SN_FIELD_STRING && field->len > 0 && usable == NULL)
		return refuse(err, pstrdup("field \"tenant_id\" is not a tenant id"),
					  psprintf("A tenant id has 1 to %d characters, each a letter or digit of ASCII or one of _ . -",
							   SN_TENANT_ID_MAX));
	return text_check("tenant_id", field, usable, usable == NULL, err);
}

/* Exactly "count" digits at *p, which moves behind them; -1 where they aren't there. */
static int
digits_read(const char **p, int count)
{
	int value = 0;

	for (int i = 0; i < count; i++, (*p)++)
	{
		if (**p < '0' || **p > '9')
			return -1;
		value = value * 10 + (**p - '0');
	}
	return value;
}

/* The fraction of a second at *p, rounded to microseconds; false where there is none behind a point. */
static bool
fraction_read(const char **p, int64 *usecs)
{
	int count = 0;

	*usecs = 0;
	if (**p != '.')
		return true;
	for ((*p)++; **p >= '0' && **p <= '9'; (*p)++, count++)
	{
		if (count < 6)
			*usecs = *usecs * 10 + (**p - '0');
		else if (count == 6 && **p >= '5')
			(*usecs)++;
	}
	for (int i = count; i < 6; i++)
		*usecs *= 10;
	return count > 0;
}

/* Z or +hh:mm at *p, in seconds east of UTC. */
static bool
zone_read(const char **p, int *seconds)
{
	int sign = **p == '-' ? -1 : 1;
	int hour;
	int minute;

	*seconds = 0;
	if (**p == 'Z' || **p == 'z')
	{
		(*p)++;
		return true;
	}
	if (**p != '+' && **p != '-')
		return false;
	(*p)++;
	hour = digits_read(p, 2);
	if (hour < 0 || hour > 23 || *(*p)++ != ':')
		return false;
	minute = digits_read(p, 2);
	if (minute < 0 || minute > 59)
		return false;
	*seconds = sign * (hour * SECS_PER_HOUR + minute * SECS_PER_MINUTE);
	return true;
}

/* YYYY-MM-DD at *p, in days since PostgreSQL's epoch. */
static bool
date_read(const char **p, int *days)
{
	int year;
	int month;
	int day;

	if ((year = digits_read(p, 4)) < 0 || *(*p)++ != '-')
		return false;
	month = digits_read(p, 2);
	if (month < 1 || month > MONTHS_PER_YEAR || *(*p)++ != '-')
		return false;
	day = digits_read(p, 2);
	if (day < 1 || day > day_tab[isleap(year)][month - 1])
		return false;
	*days = date2j(year, month, day) - POSTGRES_EPOCH_JDATE;
	return true;
}

/*
 * RFC 3339, to the letter: time zone required, T and Z in either case.  A leap
 * second is the second after it.  All years of four digits are within
 * timestamptz.
 */
static bool
timestamp_read(const char *text, TimestampTz *result)
{
	const char *p = text;
	int days;
	int hour;
	int minute;
	int second;
	int64 usecs;
	int zone;

	if (!date_read(&p, &days) || (*p != 'T' && *p != 't'))
		return false;
	p++;
	hour = digits_read(&p, 2);
	if (hour < 0 || hour > 23 || *p++ != ':')
		return false;
	minute = digits_read(&p, 2);
	if (minute < 0 || minute > 59 || *p++ != ':')
		return false;
	second = digits_read(&p, 2);
	if (second < 0 || second > 60 || !fraction_read(&p, &usecs) || !zone_read(&p, &zone) || *p != '\0')
		return false;

	second += hour * SECS_PER_HOUR + minute * SECS_PER_MINUTE - zone;
	*result = days * USECS_PER_DAY + second * USECS_PER_SEC + usecs;
	return true;
}

static bool
timestamp_check(const sn_field *field, SnEvent *out, SnEventError *err)
{
	if (field_absent(field))
		return true;
	if (field->kind != SN_FIELD_STRING)
		return refuse_kind(err, "timestamp", field, "text");
	if (!timestamp_read(field_text(field), &out->timestamp))
		return refuse(err, pstrdup("field \"timestamp\" is not an RFC 3339 time"),
					  pstrdup("Such a time has a zone, as in 2025-01-31T12:00:00.5Z or 2025-01-31T12:00:00+01:00."));
	return true;
}

static bool
version_check(const sn_field *field, SnEvent *out, SnEventError *err)
{
	int64 version = 0;

	if (field_absent(field))
		return true;
	if (field->kind != SN_FIELD_NUMBER)
		return refuse_kind(err, "version", field, "a number");
	if (field->integral && field->len <= INT64_SAFE_LEN && *field->text != '-')
		for (size_t i = 0; i < field->len; i++)
			version = version * 10 + (field->text[i] - '0');
	if (version < 1 || version > INT_MAX)
		return refuse(err, pstrdup("field \"version\" is not a positive integer"), NULL);
	out->version = (int) version;
	return true;
}

/* Makes jsonb of payload and metadata as far as they are objects, also of an event that is refused. */
static bool
objects_build(const sn_envelope *envelope, SnEvent *out, bool *trimmable)
{
	Jsonb *made;

	if (envelope->payload.kind == SN_FIELD_OBJECT)
	{
		if ((made = jsonb_build(&envelope->payload, false, trimmable)) == NULL)
			return false;
		out->payload = JsonbPGetDatum(made);
	}
	if (envelope->metadata.kind == SN_FIELD_OBJECT)
	{
		if ((made = jsonb_build(&envelope->metadata, false, NULL)) == NULL)
			return false;
		out->metadata = JsonbPGetDatum(made);
	}
	return true;
}

static bool
fields_check(const sn_envelope *envelope, SnEvent *out, SnEventError *err)
{
	if (!tenant_check(&envelope->tenant_id, out->tenant_id, err) ||
		!text_check("event_type", &envelope->event_type, out->event_type, true, err) ||
		!text_check("event_id", &envelope->event_id, out->event_id, false, err) ||
		!text_check("exception_id", &envelope->exception_id, out->exception_id, false, err) ||
		!text_check("correlation_id", &envelope->correlation_id, out->correlation_id, false, err) ||
		!timestamp_check(&envelope->timestamp, out, err) || !version_check(&envelope->version, out, err))
		return false;
	if (field_absent(&envelope->payload))
		return refuse_absent(err, "payload", &envelope->payload);
	if (envelope->payload.kind != SN_FIELD_OBJECT)
		return refuse_kind(err, "payload", &envelope->payload, "an object");
	if (!field_absent(&envelope->metadata) && envelope->metadata.kind != SN_FIELD_OBJECT)
		return refuse_kind(err, "metadata", &envelope->metadata, "an object");
	return true;
}

static bool
refuse_text(SnEventError *err, const sn_json_error *error, int len)
{
	char *where = psprintf("At byte offset %zu: %s.", error->offset, error->reason);

	switch (error->code)
	{
		case SN_JSON_NOT_OBJECT:
			return refuse(err, pstrdup("event is not a JSON object"), NULL);
		case SN_JSON_TOO_LONG:
			return refuse(err, pstrdup("event is too large"),
						  psprintf("It has %d bytes, sentinai.max_event_bytes is %d.", len, sn_max_event_bytes));
		case SN_JSON_TOO_DEEP:
			return refuse(err, pstrdup("event is nested too deeply"),
						  psprintf("%s sentinai.max_event_depth is %d.", where, sn_max_event_depth));
		case SN_JSON_TOO_MANY_DIGITS:
		case SN_JSON_EXPONENT_RANGE:
			return refuse(err, pstrdup("event has a number out of range"),
						  psprintf("%s Numbers have up to %d digits and an exponent of up to +/-%d.", where,
								   SN_JSON_MAX_DIGITS, SN_JSON_MAX_EXPONENT));
		default:
			return refuse(err, pstrdup("event is not valid JSON"), where);
	}
}

/*
 * Scans the envelope.  An event above the size limit is read all the same, for
 * the identity that its dead letter shows; nothing is built of it.
 */
static sn_json_code
envelope_scan(const char *value, int len, sn_envelope *envelope)
{
	sn_limits limits = {Max(len, sn_max_event_bytes), sn_max_event_depth};

	sn_envelope_scan(value, len, &limits, envelope);
	if (len > sn_max_event_bytes)
		envelope->error.code = SN_JSON_TOO_LONG;
	return envelope->error.code;
}

bool
sn_event_parse(const char *value, int len, TimestampTz record_ts, const char *tenant, SnEvent *out, SnEventError *err)
{
	sn_envelope envelope;
	bool trimmable = false;
	bool built;

	memset(out, 0, sizeof(*out));
	memset(err, 0, sizeof(*err));
	out->timestamp = record_ts;
	out->version = SN_EVENT_VERSION;

	if (value == NULL)
		return refuse(err, pstrdup("event is a tombstone"), pstrdup("The record has no value."));
	if (len == 0)
		return refuse(err, pstrdup("event is empty"), pstrdup("The record's value has no bytes."));

	if (scratch == NULL)
		scratch = AllocSetContextCreate(TopMemoryContext, "sentinai event scratch", 0, 64 * 1024, 8 * 1024 * 1024);
	MemoryContextReset(scratch);

	envelope_scan(value, len, &envelope);
	identity_fill(&envelope, tenant, out);
	if (envelope.error.code != SN_JSON_OK)
		return refuse_text(err, &envelope.error, len);

	built = objects_build(&envelope, out, &trimmable);
	if (!fields_check(&envelope, out, err))
		return false;
	if (!built)
		return refuse(err, pstrdup("event has too many values"),
					  psprintf("A jsonb value has up to %d bytes.", JSONB_MAX_BYTES));
	if (out->version > SN_EVENT_VERSION && !sn_allow_future_schema)
	{
		refuse(err, psprintf("event version %d is not supported", out->version),
			   psprintf("The newest known version is %d, and sentinai.allow_future_schema is off.", SN_EVENT_VERSION));
		err->structural = false;
		return false;
	}
	out->hash = payload_hash(out->event_type, &envelope.payload, DatumGetJsonbP(out->payload), trimmable);
	return true;
}

/*
 * SQL: event_parse(value bytea, ts timestamptz) and the ids
 */

/* Makes column i of the texts, NULL where there is none. */
static void
text_column(Datum *values, bool *nulls, int i, const char *text)
{
	nulls[i] = text == NULL;
	if (text != NULL)
		values[i] = CStringGetTextDatum(text);
}

static HeapTuple
event_tuple(TupleDesc desc, bool ok, const SnEvent *event, const SnEventError *err)
{
	Datum values[14] = {0};
	bool nulls[14] = {false};

	values[0] = BoolGetDatum(ok);
	text_column(values, nulls, 1, event->event_id);
	text_column(values, nulls, 2, event->event_type);
	text_column(values, nulls, 3, event->tenant_id);
	text_column(values, nulls, 4, event->exception_id);
	text_column(values, nulls, 5, event->correlation_id);
	values[6] = TimestampTzGetDatum(event->timestamp);
	values[7] = Int32GetDatum(event->version);
	values[8] = event->payload;
	nulls[8] = event->payload == (Datum) 0;
	values[9] = event->metadata;
	nulls[9] = event->metadata == (Datum) 0;
	text_column(values, nulls, 10, err->error_type);
	text_column(values, nulls, 11, err->message);
	text_column(values, nulls, 12, err->detail);
	values[13] = Int64GetDatum(event->hash);
	nulls[13] = !ok;
	return heap_form_tuple(desc, values, nulls);
}

Datum
sn_event_parse_sql(PG_FUNCTION_ARGS)
{
	FuncCallContext *call;
	TupleDesc desc;
	bytea *value;
	TimestampTz ts;
	SnEvent event;
	SnEventError err;
	bool ok;

	if (SRF_IS_FIRSTCALL())
	{
		call = SRF_FIRSTCALL_INIT();
		call->max_calls = 1;
	}
	call = SRF_PERCALL_SETUP();
	if (call->call_cntr >= call->max_calls)
		SRF_RETURN_DONE(call);

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "event_parse was called without a row type");
	value = PG_ARGISNULL(0) ? NULL : PG_GETARG_BYTEA_PP(0);
	ts = PG_ARGISNULL(1) ? GetCurrentTransactionStartTimestamp() : PG_GETARG_TIMESTAMPTZ(1);
	ok = sn_event_parse(value != NULL ? VARDATA_ANY(value) : NULL, value != NULL ? VARSIZE_ANY_EXHDR(value) : 0, ts,
						NULL, &event, &err);
	SRF_RETURN_NEXT(call, HeapTupleGetDatum(event_tuple(BlessTupleDesc(desc), ok, &event, &err)));
}

Datum
sn_event_id_from_place_sql(PG_FUNCTION_ARGS)
{
	char *cluster_id = text_to_cstring(PG_GETARG_TEXT_PP(0));
	char *topic = text_to_cstring(PG_GETARG_TEXT_PP(1));

	PG_RETURN_TEXT_P(cstring_to_text(
		sn_event_id_from_place(cluster_id, topic, PG_GETARG_INT32(2), PG_GETARG_INT32(3), PG_GETARG_INT64(4))));
}

Datum
sn_event_id_derived_sql(PG_FUNCTION_ARGS)
{
	char *tenant_id = text_to_cstring(PG_GETARG_TEXT_PP(0));
	char *parent_event_id = text_to_cstring(PG_GETARG_TEXT_PP(1));
	char *worker_type = text_to_cstring(PG_GETARG_TEXT_PP(3));

	PG_RETURN_TEXT_P(cstring_to_text(
		sn_event_id_derived(tenant_id, parent_event_id, PG_GETARG_TIMESTAMPTZ(2), worker_type, PG_GETARG_INT32(4))));
}
