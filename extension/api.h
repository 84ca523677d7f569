/*
 * api.h
 *	  What the functions of sentinai_api that are C share. See api.c and api_args.c.
 */
#ifndef SENTINAI_API_H
#define SENTINAI_API_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "utils/jsonb.h"

/* Error SN001: an argument is not what it must be. value is JSON; NULL: it is missing. */
SN_NORETURN extern void sn_api_wrong(const char *name, const char *value, const char *must);

/*
 * The answer 429 that a function has to give and do nothing else, where the pre-request has said so; NULL: none. For those that
 * answers_itself() in api.c names.
 */
extern const char *sn_api_limited(void);

/* Whole seconds until that time, rounded up; 0: it is over. */
extern int64 sn_api_seconds_until(TimestampTz at);

/* The Idempotency-Key of this request; NULL: it has none. */
extern char *sn_api_key(void);

/* What nginx found in the path and behind the "?", in this order; of one name the first counts. */
typedef struct SnApiPair
{
	char *name;
	char *value; /* not empty */
} SnApiPair;

typedef struct SnApiPairs
{
	int n;
	SnApiPair *pairs;
} SnApiPairs;

/* False: the request has not come through nginx, and there are none. Error: 22021. */
extern bool sn_api_pairs(SnApiPairs *pairs);

/* What stands behind the "?", percent-encoded as it came; NULL: the request has not come through nginx. */
extern const char *sn_api_query(void);

/* NULL: there is no such. */
extern const char *sn_api_value(const SnApiPairs *pairs, const char *name);

/* The arguments of a POST: the body, and over it those of the path and behind the "?". Errors: 22021, SN079. */
extern Jsonb *sn_api_args(Jsonb *body);

/* An argument as text, whatever its type, and one that must be a text; NULL: it is missing or null. Error: SN001. */
extern char *sn_api_any(Jsonb *args, const char *name);
extern char *sn_api_text(Jsonb *args, const char *name);

/* One that must be an integer; fallback NULL: it is required. Error: SN001. */
extern int64 sn_api_bigint(Jsonb *args, const char *name, const int64 *fallback);

/* A text as JSON, for sn_api_wrong(); NULL for NULL. */
extern char *sn_api_as_json(const char *text);

/*
 * Where a page begins, behind the row of that time and id, as next_after of the page before has it (sn_api_cursor()). Error: SN001, which
 * sn_api_wrong_after() raises, too, where the id is none.
 */
extern void sn_api_after(const char *after, TimestampTz *at, const char **id);
SN_NORETURN extern void sn_api_wrong_after(const char *after);

/* next_after of a page whose last row this is; NULL: of a time that is none, infinity. */
extern char *sn_api_cursor(TimestampTz at, const char *id);

#endif /* SENTINAI_API_H */
