/*
 * sentinai_json.h
 *		A strict JSON scanner over a range of bytes, shared by worker and extension.
 *
 * What lives here: RFC 8259 as PostgreSQL's jsonb_in understands it (strict
 * UTF-8, no \u0000, no lone surrogates), plus the limits that jsonb_in doesn't
 * have: bytes, depth, digits and exponent of a number.  It accepts and refuses
 * what jsonb_in accepts and refuses; sql/event.sql compares the two.
 *
 * What doesn't: the fields of an event (sentinai_envelope.h), building jsonb
 * (extension/event.c), writing JSON.
 *
 * It is a pull scanner: sn_json_begin(), then sn_json_next() until SN_TOKEN_END
 * or SN_TOKEN_ERROR.  It neither allocates nor recurses nor throws: depth is a
 * counter, and what encloses a value is one bit a level.  Tokens point into
 * the caller's bytes, which must outlive them; escapes are checked here and
 * resolved by sn_json_unescape().
 *
 * C11 and the C library only: no header of PostgreSQL or librdkafka.
 */
#ifndef SENTINAI_JSON_H
#define SENTINAI_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Digits of a number's integer and fraction parts together, leading zeros included. */
#define SN_JSON_MAX_DIGITS 1000
/* Highest absolute value of a number's exponent, as written. */
#define SN_JSON_MAX_EXPONENT 1000
/* No max_depth goes above this, whatever the caller sets. */
#define SN_JSON_DEPTH_CEILING 1024

typedef struct sn_limits
{
	size_t max_bytes;
	int max_depth; /* objects and arrays around a value */
} sn_limits;

/* The defaults of sentinai.max_event_bytes and sentinai.max_event_depth. */
#define SN_LIMITS_DEFAULT ((sn_limits){1024 * 1024, 128})

typedef enum sn_json_code
{
	SN_JSON_OK,
	/* not JSON */
	SN_JSON_EMPTY,
	SN_JSON_TRUNCATED,
	SN_JSON_UNEXPECTED,
	SN_JSON_TRAILING,
	SN_JSON_BAD_NUMBER,
	SN_JSON_BAD_ESCAPE,
	SN_JSON_CONTROL,
	SN_JSON_BAD_UTF8,
	SN_JSON_SURROGATE,
	SN_JSON_NUL,
	SN_JSON_UTF16,
	SN_JSON_BYTE_ORDER_MARK,
	/* JSON, but not an event: given by sn_envelope_scan() only */
	SN_JSON_NOT_OBJECT,
	/* our own limits */
	SN_JSON_TOO_LONG,
	SN_JSON_TOO_DEEP,
	SN_JSON_TOO_MANY_DIGITS,
	SN_JSON_EXPONENT_RANGE
} sn_json_code;

typedef struct sn_json_error
{
	sn_json_code code;
	size_t offset;		/* of the first byte that can't stand there */
	const char *reason; /* static text, a short fact; NULL where code is SN_JSON_OK */
} sn_json_error;

typedef enum sn_json_token
{
	SN_TOKEN_ERROR, /* see json->error; stays so */
	SN_TOKEN_END,	/* one complete value was read, nothing follows; stays so */
	SN_TOKEN_OBJECT,
	SN_TOKEN_OBJECT_END,
	SN_TOKEN_ARRAY,
	SN_TOKEN_ARRAY_END,
	SN_TOKEN_KEY, /* its colon is read too; the next token is its value's */
	SN_TOKEN_STRING,
	SN_TOKEN_NUMBER,
	SN_TOKEN_TRUE,
	SN_TOKEN_FALSE,
	SN_TOKEN_NULL
} sn_json_token;

/* What may come next. */
typedef enum sn_json_state
{
	SN_STATE_VALUE,		  /* a value: at the start, behind a colon or an array's comma */
	SN_STATE_FIRST_VALUE, /* a value or ]: behind [ */
	SN_STATE_KEY,		  /* a key: behind an object's comma */
	SN_STATE_FIRST_KEY,	  /* a key or }: behind { */
	SN_STATE_AFTER_VALUE, /* a comma or the container's end */
	SN_STATE_DONE,		  /* white space only */
	SN_STATE_FAILED		  /* nothing: error is set */
} sn_json_state;

typedef struct sn_json
{
	const unsigned char *start;
	const unsigned char *pos; /* behind the last token */
	const unsigned char *end;
	int depth;
	int max_depth;
	sn_json_state state;

	/* The last token: a string's or key's text is what stands between the quotes. */
	const char *text;
	size_t len;
	bool escaped;  /* string or key: has escapes in it */
	bool integral; /* number: neither fraction nor exponent */

	sn_json_error error;

	/* Bit n is set where the container at depth n + 1 is an object. */
	uint64_t objects[SN_JSON_DEPTH_CEILING / 64];
} sn_json;

static inline const char *
sn_json_reason(sn_json_code code)
{
	switch (code)
	{
		case SN_JSON_OK:
			return NULL;
		case SN_JSON_EMPTY:
			return "there is no value";
		case SN_JSON_TRUNCATED:
			return "text ends too early";
		case SN_JSON_UNEXPECTED:
			return "unexpected character";
		case SN_JSON_TRAILING:
			return "text goes on behind the value";
		case SN_JSON_BAD_NUMBER:
			return "malformed number";
		case SN_JSON_BAD_ESCAPE:
			return "malformed escape sequence";
		case SN_JSON_CONTROL:
			return "control character in a string";
		case SN_JSON_BAD_UTF8:
			return "invalid UTF-8";
		case SN_JSON_SURROGATE:
			return "lone surrogate in an escape sequence";
		case SN_JSON_NUL:
			return "\\u0000 in a string";
		case SN_JSON_UTF16:
			return "text is not UTF-8 but looks like UTF-16 or UTF-32";
		case SN_JSON_BYTE_ORDER_MARK:
			return "text begins with a byte order mark";
		case SN_JSON_NOT_OBJECT:
			return "value is not an object";
		case SN_JSON_TOO_LONG:
			return "too many bytes";
		case SN_JSON_TOO_DEEP:
			return "nested too deeply";
		case SN_JSON_TOO_MANY_DIGITS:
			return "number has too many digits";
		case SN_JSON_EXPONENT_RANGE:
			return "exponent of a number is out of range";
	}
	return "unknown";
}

/* Whether the code tells of a limit of ours rather than of broken JSON. */
static inline bool
sn_json_is_limit(sn_json_code code)
{
	return code >= SN_JSON_TOO_LONG;
}

static inline sn_json_token
sn_json_fail(sn_json *json, sn_json_code code, const unsigned char *where)
{
	json->state = SN_STATE_FAILED;
	json->pos = where;
	json->text = NULL;
	json->len = 0;
	json->error.code = code;
	json->error.offset = (size_t) (where - json->start);
	json->error.reason = sn_json_reason(code);
	return SN_TOKEN_ERROR;
}

/* Fails at "where", which is the end of the text or a byte that can't stand there. */
static inline sn_json_token
sn_json_fail_at(sn_json *json, sn_json_code code, const unsigned char *where)
{
	return sn_json_fail(json, where < json->end ? code : SN_JSON_TRUNCATED, where);
}

/*
 * Begins to scan value[0 .. len).  A text above limits->max_bytes fails at its
 * first sn_json_next().
 */
static inline void
sn_json_begin(sn_json *json, const char *value, size_t len, const sn_limits *limits)
{
	json->start = json->pos = (const unsigned char *) value;
	json->end = json->start + len;
	json->depth = 0;
	json->max_depth = limits->max_depth < SN_JSON_DEPTH_CEILING ? limits->max_depth : SN_JSON_DEPTH_CEILING;
	json->state = SN_STATE_VALUE;
	json->text = NULL;
	json->len = 0;
	json->escaped = false;
	json->integral = false;
	json->error = (sn_json_error){SN_JSON_OK, 0, NULL};
	if (len > limits->max_bytes)
		sn_json_fail(json, SN_JSON_TOO_LONG, json->start + limits->max_bytes);
}

static inline bool
sn_json_in_object(const sn_json *json)
{
	int level = json->depth - 1;

	return (json->objects[level / 64] >> (level % 64)) & 1;
}

/* The length of the valid UTF-8 sequence at p, 0 where there is none; p < end. */
static inline int
sn_utf8_length(const unsigned char *p, const unsigned char *end)
{
	unsigned char low = 0x80;
	unsigned char high = 0xBF;
	int len;

	if (*p < 0x80)
		return 1;
	if (*p < 0xC2)
		return 0; /* a continuation byte, or overlong */
	if (*p < 0xE0)
		len = 2;
	else if (*p < 0xF0)
	{
		len = 3;
		if (*p == 0xE0)
			low = 0xA0; /* below: overlong */
		else if (*p == 0xED)
			high = 0x9F; /* above: surrogates */
	}
	else if (*p < 0xF5)
	{
		len = 4;
		if (*p == 0xF0)
			low = 0x90; /* below: overlong */
		else if (*p == 0xF4)
			high = 0x8F; /* above: beyond U+10FFFF */
	}
	else
		return 0;

	if (end - p < len || p[1] < low || p[1] > high)
		return 0;
	for (int i = 2; i < len; i++)
		if ((p[i] & 0xC0) != 0x80)
			return 0;
	return len;
}

/* Whether value[0 .. len) is UTF-8 from end to end. */
static inline bool
sn_utf8_valid(const char *value, size_t len)
{
	const unsigned char *p = (const unsigned char *) value;
	const unsigned char *end = p + len;

	while (p < end)
	{
		int n = sn_utf8_length(p, end);

		if (n == 0)
			return false;
		p += n;
	}
	return true;
}

static inline int
sn_json_hex_digit(unsigned char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 0x20;
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return -1;
}

/* The value of the four hex digits at p, or -1; *bad is the byte that is none. */
static inline int32_t
sn_json_hex4(const unsigned char *p, const unsigned char *end, const unsigned char **bad)
{
	int32_t value = 0;

	for (*bad = p; *bad < p + 4; (*bad)++)
	{
		int digit = *bad < end ? sn_json_hex_digit(**bad) : -1;

		if (digit < 0)
			return -1;
		value = value << 4 | digit;
	}
	return value;
}

/*
 * Checks the escape sequence whose backslash is at p.  Returns what stands
 * behind it, or NULL with the error set.
 */
static inline const unsigned char *
sn_json_escape(sn_json *json, const unsigned char *p)
{
	const unsigned char *bad;
	int32_t code;

	if (p + 1 >= json->end)
	{
		sn_json_fail(json, SN_JSON_TRUNCATED, json->end);
		return NULL;
	}
	switch (p[1])
	{
		case '"':
		case '\\':
		case '/':
		case 'b':
		case 'f':
		case 'n':
		case 'r':
		case 't':
			return p + 2;
		case 'u':
			break;
		default:
			sn_json_fail(json, SN_JSON_BAD_ESCAPE, p);
			return NULL;
	}

	code = sn_json_hex4(p + 2, json->end, &bad);
	if (code < 0)
	{
		sn_json_fail_at(json, SN_JSON_BAD_ESCAPE, bad);
		return NULL;
	}
	if (code == 0)
	{
		sn_json_fail(json, SN_JSON_NUL, p);
		return NULL;
	}
	if (code < 0xD800 || code > 0xDFFF)
		return p + 6;

	/* A surrogate counts only as a high one with a low one right behind it. */
	if (code <= 0xDBFF && json->end - p >= 12 && p[6] == '\\' && p[7] == 'u')
	{
		code = sn_json_hex4(p + 8, json->end, &bad);
		if (code >= 0xDC00 && code <= 0xDFFF)
			return p + 12;
	}
	sn_json_fail(json, SN_JSON_SURROGATE, p);
	return NULL;
}

/*
 * Skips what needs no second look: ASCII from the space on, without quote and
 * backslash.  Eight bytes at a time, then one by one up to the first other.
 */
static inline const unsigned char *
sn_json_skip_plain(const unsigned char *p, const unsigned char *end)
{
	const uint64_t ones = UINT64_C(0x0101010101010101);
	const uint64_t tops = UINT64_C(0x8080808080808080);

	while (end - p >= 8)
	{
		uint64_t word;
		uint64_t quote;
		uint64_t backslash;

		memcpy(&word, p, 8);
		quote = word ^ (ones * '"');
		backslash = word ^ (ones * '\\');
		/* A top bit of (x - 1) & ~x says that a byte of x is 0; of word - 32, that one is below 32. */
		if ((((quote - ones) & ~quote) | ((backslash - ones) & ~backslash) | ((word - ones * ' ') & ~word) | word) &
			tops)
			break;
		p += 8;
	}
	while (p < end && *p >= ' ' && *p < 0x80 && *p != '"' && *p != '\\')
		p++;
	return p;
}

/* Reads the string whose quote is at json->pos; false with the error set. */
static inline bool
sn_json_string(sn_json *json)
{
	const unsigned char *first = json->pos + 1;
	const unsigned char *p = first;

	json->escaped = false;
	for (;;)
	{
		int n;

		p = sn_json_skip_plain(p, json->end);
		if (p == json->end)
		{
			sn_json_fail(json, SN_JSON_TRUNCATED, p);
			return false;
		}
		if (*p == '"')
			break;
		if (*p == '\\')
		{
			json->escaped = true;
			p = sn_json_escape(json, p);
			if (p == NULL)
				return false;
		}
		else if (*p < ' ')
		{
			sn_json_fail(json, SN_JSON_CONTROL, p);
			return false;
		}
		else if ((n = sn_utf8_length(p, json->end)) > 0)
			p += n;
		else
		{
			sn_json_fail(json, SN_JSON_BAD_UTF8, p);
			return false;
		}
	}
	json->text = (const char *) first;
	json->len = (size_t) (p - first);
	json->pos = p + 1;
	return true;
}

static inline bool
sn_json_is_digit(const unsigned char *p, const unsigned char *end)
{
	return p < end && *p >= '0' && *p <= '9';
}

/* Reads the number that begins at json->pos. */
static inline sn_json_token
sn_json_number(sn_json *json)
{
	const unsigned char *end = json->end;
	const unsigned char *p = json->pos;
	const unsigned char *digits;
	ptrdiff_t count;

	json->integral = true;
	if (*p == '-')
		p++;
	digits = p;
	if (!sn_json_is_digit(p, end))
		return sn_json_fail_at(json, SN_JSON_BAD_NUMBER, p);
	if (*p++ == '0')
	{
		if (sn_json_is_digit(p, end))
			return sn_json_fail(json, SN_JSON_BAD_NUMBER, p);
	}
	else
	{
		while (sn_json_is_digit(p, end))
			p++;
	}
	count = p - digits;

	if (p < end && *p == '.')
	{
		json->integral = false;
		digits = ++p;
		if (!sn_json_is_digit(p, end))
			return sn_json_fail_at(json, SN_JSON_BAD_NUMBER, p);
		while (sn_json_is_digit(p, end))
			p++;
		count += p - digits;
	}
	if (count > SN_JSON_MAX_DIGITS)
		return sn_json_fail(json, SN_JSON_TOO_MANY_DIGITS, json->pos);

	if (p < end && (*p == 'e' || *p == 'E'))
	{
		int exponent = 0;

		json->integral = false;
		p++;
		if (p < end && (*p == '+' || *p == '-'))
			p++;
		if (!sn_json_is_digit(p, end))
			return sn_json_fail_at(json, SN_JSON_BAD_NUMBER, p);
		for (; sn_json_is_digit(p, end); p++)
		{
			/* Bounded, so that no count of digits overflows it. */
			if (exponent <= SN_JSON_MAX_EXPONENT)
				exponent = exponent * 10 + (*p - '0');
		}
		if (exponent > SN_JSON_MAX_EXPONENT)
			return sn_json_fail(json, SN_JSON_EXPONENT_RANGE, json->pos);
	}

	json->text = (const char *) json->pos;
	json->len = (size_t) (p - json->pos);
	json->pos = p;
	return SN_TOKEN_NUMBER;
}

static inline sn_json_token
sn_json_word(sn_json *json, const char *word, size_t len, sn_json_token token)
{
	size_t i = 1;

	while (i < len && json->pos + i < json->end && json->pos[i] == (unsigned char) word[i])
		i++;
	if (i < len)
		return sn_json_fail_at(json, SN_JSON_UNEXPECTED, json->pos + i);
	json->text = (const char *) json->pos;
	json->len = len;
	json->pos += len;
	return token;
}

static inline sn_json_token
sn_json_open(sn_json *json, bool object)
{
	uint64_t bit;

	if (json->depth >= json->max_depth)
		return sn_json_fail(json, SN_JSON_TOO_DEEP, json->pos);
	bit = UINT64_C(1) << (json->depth % 64);
	if (object)
		json->objects[json->depth / 64] |= bit;
	else
		json->objects[json->depth / 64] &= ~bit;
	json->depth++;
	json->text = (const char *) json->pos++;
	json->len = 1;
	json->state = object ? SN_STATE_FIRST_KEY : SN_STATE_FIRST_VALUE;
	return object ? SN_TOKEN_OBJECT : SN_TOKEN_ARRAY;
}

static inline void
sn_json_value_done(sn_json *json)
{
	json->state = json->depth > 0 ? SN_STATE_AFTER_VALUE : SN_STATE_DONE;
}

static inline sn_json_token
sn_json_close(sn_json *json, sn_json_token token)
{
	json->depth--;
	json->text = (const char *) json->pos++;
	json->len = 1;
	sn_json_value_done(json);
	return token;
}

/* Fails at the first token of the text, with the cause that helps most. */
static inline sn_json_token
sn_json_fail_first(sn_json *json)
{
	const unsigned char *p = json->start;
	size_t len = (size_t) (json->end - p);

	if (len >= 3 && memcmp(p, "\xEF\xBB\xBF", 3) == 0)
		return sn_json_fail(json, SN_JSON_BYTE_ORDER_MARK, p);
	if (len >= 2 && (memcmp(p, "\xFF\xFE", 2) == 0 || memcmp(p, "\xFE\xFF", 2) == 0 || p[0] == 0))
		return sn_json_fail(json, SN_JSON_UTF16, p);
	return sn_json_fail(json, SN_JSON_UNEXPECTED, json->pos);
}

static inline sn_json_token
sn_json_fail_unexpected(sn_json *json)
{
	/* {"a":1} in UTF-16 without a mark: the first NUL follows the first character. */
	if (*json->pos == 0 && json->pos - json->start == 1)
		return sn_json_fail(json, SN_JSON_UTF16, json->start);
	return sn_json_fail(json, SN_JSON_UNEXPECTED, json->pos);
}

static inline sn_json_token
sn_json_value(sn_json *json)
{
	sn_json_token token;

	switch (*json->pos)
	{
		case '{':
			return sn_json_open(json, true);
		case '[':
			return sn_json_open(json, false);
		case '"':
			token = sn_json_string(json) ? SN_TOKEN_STRING : SN_TOKEN_ERROR;
			break;
		case '-':
		case '0':
		case '1':
		case '2':
		case '3':
		case '4':
		case '5':
		case '6':
		case '7':
		case '8':
		case '9':
			token = sn_json_number(json);
			break;
		case 't':
			token = sn_json_word(json, "true", 4, SN_TOKEN_TRUE);
			break;
		case 'f':
			token = sn_json_word(json, "false", 5, SN_TOKEN_FALSE);
			break;
		case 'n':
			token = sn_json_word(json, "null", 4, SN_TOKEN_NULL);
			break;
		default:
			return json->depth == 0 ? sn_json_fail_first(json) : sn_json_fail_unexpected(json);
	}
	if (token != SN_TOKEN_ERROR)
		sn_json_value_done(json);
	return token;
}

static inline void
sn_json_skip_space(sn_json *json)
{
	const unsigned char *p = json->pos;

	while (p < json->end && (*p == ' ' || *p == '\n' || *p == '\r' || *p == '\t'))
		p++;
	json->pos = p;
}

static inline sn_json_token
sn_json_key(sn_json *json)
{
	if (*json->pos != '"')
		return sn_json_fail_unexpected(json);
	if (!sn_json_string(json))
		return SN_TOKEN_ERROR;
	sn_json_skip_space(json);
	if (json->pos == json->end || *json->pos != ':')
		return sn_json_fail_at(json, SN_JSON_UNEXPECTED, json->pos);
	json->pos++;
	json->state = SN_STATE_VALUE;
	return SN_TOKEN_KEY;
}

/* Reads on to the next token; json->text and json->len are its span. */
static inline sn_json_token
sn_json_next(sn_json *json)
{
	if (json->state == SN_STATE_FAILED)
		return SN_TOKEN_ERROR;

	sn_json_skip_space(json);
	if (json->pos == json->end)
	{
		if (json->state == SN_STATE_DONE)
			return SN_TOKEN_END;
		return sn_json_fail(json, json->depth == 0 ? SN_JSON_EMPTY : SN_JSON_TRUNCATED, json->pos);
	}

	if (json->state == SN_STATE_AFTER_VALUE)
	{
		bool object = sn_json_in_object(json);

		if (*json->pos == (object ? '}' : ']'))
			return sn_json_close(json, object ? SN_TOKEN_OBJECT_END : SN_TOKEN_ARRAY_END);
		if (*json->pos != ',')
			return sn_json_fail_unexpected(json);
		json->pos++;
		json->state = object ? SN_STATE_KEY : SN_STATE_VALUE;
		sn_json_skip_space(json);
		if (json->pos == json->end)
			return sn_json_fail(json, SN_JSON_TRUNCATED, json->pos);
	}

	switch (json->state)
	{
		case SN_STATE_VALUE:
			return sn_json_value(json);
		case SN_STATE_FIRST_VALUE:
			if (*json->pos == ']')
				return sn_json_close(json, SN_TOKEN_ARRAY_END);
			return sn_json_value(json);
		case SN_STATE_KEY:
			return sn_json_key(json);
		case SN_STATE_FIRST_KEY:
			if (*json->pos == '}')
				return sn_json_close(json, SN_TOKEN_OBJECT_END);
			return sn_json_key(json);
		case SN_STATE_DONE:
			return sn_json_fail(json, SN_JSON_TRAILING, json->pos);
		case SN_STATE_AFTER_VALUE:
		case SN_STATE_FAILED:
			break;
	}
	return SN_TOKEN_ERROR;
}

/*
 * Reads to the end of the object or array whose first token was just read.
 * Its whole span is then json->text, json->len.  False with the error set.
 */
static inline bool
sn_json_skip(sn_json *json)
{
	const char *first = json->text;
	int outside = json->depth - 1;

	while (json->depth > outside)
		if (sn_json_next(json) == SN_TOKEN_ERROR)
			return false;
	json->text = first;
	json->len = (size_t) ((const char *) json->pos - first);
	return true;
}

/* Writes the UTF-8 form of a code point, returns what stands behind it. */
static inline char *
sn_utf8_put(char *out, int32_t code)
{
	if (code < 0x80)
		*out++ = (char) code;
	else if (code < 0x800)
	{
		*out++ = (char) (0xC0 | code >> 6);
		*out++ = (char) (0x80 | (code & 0x3F));
	}
	else if (code < 0x10000)
	{
		*out++ = (char) (0xE0 | code >> 12);
		*out++ = (char) (0x80 | (code >> 6 & 0x3F));
		*out++ = (char) (0x80 | (code & 0x3F));
	}
	else
	{
		*out++ = (char) (0xF0 | code >> 18);
		*out++ = (char) (0x80 | (code >> 12 & 0x3F));
		*out++ = (char) (0x80 | (code >> 6 & 0x3F));
		*out++ = (char) (0x80 | (code & 0x3F));
	}
	return out;
}

/*
 * Resolves the escapes of a string or key that sn_json_next() has accepted.
 * "out" takes up to len bytes (an escape is never shorter than what it stands
 * for) and is not ended by a NUL.  Returns the bytes written.
 */
static inline size_t
sn_json_unescape(const char *text, size_t len, char *out)
{
	const unsigned char *p = (const unsigned char *) text;
	const unsigned char *end = p + len;
	const unsigned char *bad;
	char *to = out;

	while (p < end)
	{
		const unsigned char *backslash = (const unsigned char *) memchr(p, '\\', (size_t) (end - p));
		size_t plain = (size_t) ((backslash != NULL ? backslash : end) - p);
		int32_t code;

		memcpy(to, p, plain);
		to += plain;
		p += plain;
		if (backslash == NULL)
			break;
		switch (p[1])
		{
			case 'b':
				*to++ = '\b';
				break;
			case 'f':
				*to++ = '\f';
				break;
			case 'n':
				*to++ = '\n';
				break;
			case 'r':
				*to++ = '\r';
				break;
			case 't':
				*to++ = '\t';
				break;
			case 'u':
				code = sn_json_hex4(p + 2, end, &bad);
				if (code >= 0xD800 && code <= 0xDBFF)
				{
					code = 0x10000 + ((code - 0xD800) << 10) + (sn_json_hex4(p + 8, end, &bad) - 0xDC00);
					p += 6;
				}
				to = sn_utf8_put(to, code);
				p += 4;
				break;
			default:
				*to++ = (char) p[1];
				break;
		}
		p += 2;
	}
	return (size_t) (to - out);
}

#endif /* SENTINAI_JSON_H */
