/*
 * worker_type.h
 *	  A worker type with its handlers, cached in the backend until a configuration table changes.
 */
#ifndef SN_WORKER_TYPE_H
#define SN_WORKER_TYPE_H

#include "postgres.h"
#include "executor/spi.h"
#include "utils/hsearch.h"

typedef struct SnHandler
{
	char *event_type;
	char *function_schema;
	char *function_name;
	bool set_based;
	char *role_name;
	int timeout_ms;
	bool tenant_scope; /* called for one tenant at a time, held to it */
	SPIPlanPtr plan;   /* made at the first call */
	struct SnHandler *next;
} SnHandler;

typedef struct SnWorkerType
{
	char *name;
	char *topic;
	char *group_id;
	bool owns_topic;
	int64 version;	   /* of the handler list, see worker_config() */
	HTAB *event_types; /* SnEventTypeEntry: every known event type */
	SnHandler *handlers;
	bool has_tenant_scope; /* one of the handlers has */
} SnWorkerType;

typedef struct SnEventTypeEntry
{
	char event_type[256];
	SnHandler *handler;		/* NULL: this worker type has none */
	bool handled_elsewhere; /* another worker type of the topic has one */
} SnEventTypeEntry;

extern void sn_worker_type_init(void);
extern SnWorkerType *sn_worker_type_get(const char *name);
extern void sn_worker_type_pin(bool pin);
extern SnEventTypeEntry *sn_event_type_get(SnWorkerType *worker_type, const char *event_type);

#endif /* SN_WORKER_TYPE_H */
