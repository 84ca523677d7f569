/*
 * rate_limit_config.h
 *	  What the tables say of a tenant's limit, read when a slot needs it.
 */
#ifndef SENTINAI_RATE_LIMIT_CONFIG_H
#define SENTINAI_RATE_LIMIT_CONFIG_H

#include "postgres.h"

#include "lib/stringinfo.h"

#include "rate_limit_slot.h"

typedef enum SnLimitLookup
{
	SN_LIMIT_FOUND,
	SN_LIMIT_NO_TYPE,
	SN_LIMIT_NO_TENANT,
	SN_LIMIT_ARCHIVED /* the tenant is, and has no limits */
} SnLimitLookup;

/* What was read for a slot. */
typedef struct SnLimitRead
{
	SnSlotConfig config;
	bool closed;			 /* a full table refuses */
	SnWindow window;		 /* as last written down; seconds 0: nothing was */
	TimestampTz appointment; /* of the same */
} SnLimitRead;

/* A limit type as the backend knows it. Ask for it by name each time: it moves when types change. */
typedef struct SnLimitType
{
	const char *name;
	int len;
	int32 id;
	Oid incarnation;
	int counter;
} SnLimitType;

extern const SnLimitType *sn_limit_type(const char *name, int len);
extern const SnLimitType *sn_limit_types(int *n);
extern void sn_limit_types_append(StringInfo out);
extern SnLimitLookup sn_limit_read(const SnLimitType *type, const SnSlotKey *key, SnLimitRead *result);
extern bool sn_limit_private(void);
extern void sn_limit_config_install(void);

#endif /* SENTINAI_RATE_LIMIT_CONFIG_H */
