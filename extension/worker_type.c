/*
 * worker_type.c
 *	  A worker type with its handlers and all known event types, cached in the backend.
 *
 * Read through SPI at the first use and thrown away as a whole when a configuration table changes: those tables carry a
 * statement trigger (sn_config_changed) that invalidates their relcache entry, which reaches every backend at COMMIT. The
 * version of the list is a hash over what was read, so nothing has to be counted or locked. Who calls the handlers is
 * handle.c's business.
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "common/hashfn.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "sentinai.h"
#include "spi.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "worker_type.h"

PG_FUNCTION_INFO_V1(sn_config_changed);
PG_FUNCTION_INFO_V1(sn_handler_version);

/* The tables that the cache is read from. */
static const char *const config_tables[] = {"worker_type", "worker_type_override", "handler", "event_type"};

typedef struct CachedType
{
	SnWorkerType worker_type;
	MemoryContext context;
	struct CachedType *next;
} CachedType;

static Oid config_relids[lengthof(config_tables)];
static CachedType *cached_types = NULL;
static bool cache_valid = false;
static bool cache_pinned = false;

static SnStatement read_worker_type = {
	.sql = "SELECT name, topic, group_id, owns_topic FROM sentinai.worker_type_effective WHERE name = $1",
	.n_args = 1,
	.args = {TEXTOID}};

static SnStatement read_event_types = {
	.sql =
		"SELECT e.event_type, h.function_schema, h.function_name, h.set_based, h.role_name, h.timeout_ms,"
		" EXISTS (SELECT FROM sentinai.handler o JOIN sentinai.worker_type w ON w.name = o.worker_type"
		" WHERE o.event_type = e.event_type AND o.worker_type <> $1 AND w.topic = $2), h.scope = 'tenant'"
		" FROM sentinai.event_type e LEFT JOIN sentinai.handler h ON h.event_type = e.event_type AND h.worker_type = $1"
		" ORDER BY e.event_type",
	.n_args = 2,
	.args = {TEXTOID, TEXTOID}};

/* Comes in the middle of a batch, too, where no catalogue may be read. A batch goes on with what it has. */
static void
config_invalidated(Datum arg, Oid relid)
{
	for (int i = 0; i < lengthof(config_tables); i++)
		if (!OidIsValid(relid) || relid == config_relids[i])
			cache_valid = false;
}

void
sn_worker_type_init(void)
{
	CacheRegisterRelcacheCallback(config_invalidated, (Datum) 0);
}

/*
 * Statement trigger of every configuration table: makes all backends read it again, from COMMIT on.
 */
Datum
sn_config_changed(PG_FUNCTION_ARGS)
{
	if (!CALLED_AS_TRIGGER(fcinfo))
		elog(ERROR, "sn_config_changed: not called as a trigger");
	CacheInvalidateRelcacheByRelid(RelationGetRelid(((TriggerData *) fcinfo->context)->tg_relation));
	return PointerGetDatum(NULL);
}

static void
forget_cached_types(void)
{
	CachedType *cached = cached_types;

	cached_types = NULL;
	while (cached != NULL)
	{
		CachedType *next = cached->next;

		for (SnHandler *handler = cached->worker_type.handlers; handler != NULL; handler = handler->next)
			if (handler->plan != NULL)
				SPI_freeplan(handler->plan);
		MemoryContextDelete(cached->context);
		cached = next;
	}
}

/* Learns which tables to watch; they have other oids after DROP and CREATE EXTENSION. */
static void
validate_cache(void)
{
	Oid schema = get_namespace_oid("sentinai", false);

	forget_cached_types();
	for (int i = 0; i < lengthof(config_tables); i++)
		config_relids[i] = get_relname_relid(config_tables[i], schema);
	cache_valid = true;
}

static uint64
hash_text(uint64 seed, const char *text)
{
	return hash_combine64(seed, text == NULL
									? UINT64CONST(0x9e3779b97f4a7c15)
									: hash_bytes_extended((const unsigned char *) text, strlen(text) + 1, seed));
}

static void
add_handler(SnWorkerType *worker_type, SnEventTypeEntry *entry, int row)
{
	SnHandler *handler = palloc0(sizeof(SnHandler));

	handler->event_type = entry->event_type;
	handler->function_schema = sn_result_text(row, 2);
	handler->function_name = sn_result_text(row, 3);
	handler->set_based = sn_result_bool(row, 4);
	handler->role_name = sn_result_text(row, 5);
	handler->timeout_ms = sn_result_int32(row, 6);
	handler->tenant_scope = sn_result_bool(row, 8);
	worker_type->has_tenant_scope |= handler->tenant_scope;
	handler->next = worker_type->handlers;
	worker_type->handlers = handler;
	entry->handler = handler;
}

/* Reads all event types, with the handler that this worker type has for each. */
static void
load_event_types(SnWorkerType *worker_type)
{
	HASHCTL ctl = {.keysize = sizeof(((SnEventTypeEntry *) 0)->event_type),
				   .entrysize = sizeof(SnEventTypeEntry),
				   .hcxt = CurrentMemoryContext};
	uint64 hash = hash_text(hash_text(worker_type->owns_topic, worker_type->topic), worker_type->group_id);
	Datum values[2] = {CStringGetTextDatum(worker_type->name), CStringGetTextDatum(worker_type->topic)};
	uint64 n = sn_execute(&read_event_types, values, NULL);

	worker_type->event_types =
		hash_create("sentinai event types", Max(n, 16), &ctl, HASH_ELEM | HASH_STRINGS | HASH_CONTEXT);
	for (int row = 0; row < n; row++)
	{
		SnEventTypeEntry *entry = hash_search(worker_type->event_types, sn_result_text(row, 1), HASH_ENTER, NULL);

		entry->handler = NULL;
		entry->handled_elsewhere = sn_result_bool(row, 7);
		if (sn_result_text(row, 2) != NULL)
			add_handler(worker_type, entry, row);
		for (int column = 1; column <= 5; column++)
			if (column != 4)
				hash = hash_text(hash, sn_result_text(row, column));
		hash = hash_combine64(hash, sn_result_bool(row, 4) + 2 * sn_result_bool(row, 8) +
										4 * (int64) sn_result_int32(row, 6));
	}
	/* 0 means "not checked" on the wire. */
	worker_type->version = hash == 0 ? 1 : (int64) hash;
}

static CachedType *
load_worker_type(const char *name)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "sentinai worker type", ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	CachedType *cached = palloc0(sizeof(CachedType));
	SnWorkerType *worker_type = &cached->worker_type;
	Datum value = CStringGetTextDatum(name);

	cached->context = context;
	if (sn_execute(&read_worker_type, &value, NULL) == 0)
	{
		MemoryContextSwitchTo(old);
		MemoryContextDelete(context);
		return NULL;
	}
	worker_type->name = sn_result_text(0, 1);
	worker_type->topic = sn_result_text(0, 2);
	worker_type->group_id = sn_result_text(0, 3);
	worker_type->owns_topic = sn_result_bool(0, 4);
	load_event_types(worker_type);
	MemoryContextSwitchTo(old);
	MemoryContextSetParent(context, TopMemoryContext);
	return cached;
}

/*
 * The worker type of that name, read again where its configuration changed; NULL where there is none. The caller is
 * connected to SPI. What is returned stays valid until the next call, or as long as it is pinned.
 */
SnWorkerType *
sn_worker_type_get(const char *name)
{
	CachedType *cached;

	if (!cache_valid && !cache_pinned)
		validate_cache();
	for (cached = cached_types; cached != NULL; cached = cached->next)
		if (strcmp(cached->worker_type.name, name) == 0)
			return &cached->worker_type;
	cached = load_worker_type(name);
	if (cached == NULL)
		return NULL;
	cached->next = cached_types;
	cached_types = cached;
	return &cached->worker_type;
}

/* A batch pins what it works with: its handlers may ask for the list, or change it. */
void
sn_worker_type_pin(bool pin)
{
	cache_pinned = pin;
}

/* What is known of an event type; NULL: nothing. */
SnEventTypeEntry *
sn_event_type_get(SnWorkerType *worker_type, const char *event_type)
{
	if (strlen(event_type) >= sizeof(((SnEventTypeEntry *) 0)->event_type))
		return NULL;
	return hash_search(worker_type->event_types, event_type, HASH_FIND, NULL);
}

/* handler_version(worker_type): what a worker's batch must carry; NULL for an unknown worker type. */
Datum
sn_handler_version(PG_FUNCTION_ARGS)
{
	SnWorkerType *worker_type;
	int64 version;

	SPI_connect();
	worker_type = sn_worker_type_get(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	version = worker_type == NULL ? 0 : worker_type->version;
	SPI_finish();
	if (version == 0)
		PG_RETURN_NULL();
	PG_RETURN_INT64(version);
}
