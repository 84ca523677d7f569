/*
 * rate_limit_config.c
 *	  What the tables say of a tenant's limit: tenant, rate_limit_config, rate_limit_type and its override,
 *	  rate_limit_since, and the counts of rate_limit_usage.
 *
 * They are read by index with a snapshot of this moment, past the executor, so that it works in a transaction that is
 * READ ONLY or REPEATABLE READ, for callers without rights on the tables, and never waits for a row's lock.
 *
 * Row triggers collect whose configuration a transaction changes; after its commit the generations of those tenants (or
 * of the database, where a type has changed, or many tenants have) are raised, and every slot concerned reads anew. The
 * transaction itself sees its change at once, but must not show it to others: as long as it lasts it is "private".
 * PREPARE would lose the list, and is refused.
 */
#include "sentinai.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/parallel.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "commands/trigger.h"
#include "common/hashfn.h"
#include "executor/spi.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "rate_limit_config.h"

PG_FUNCTION_INFO_V1(sn_rate_limit_changed);

typedef enum LimitTable
{
	TABLE_TENANT,
	TABLE_TYPE,
	TABLE_OVERRIDE,
	TABLE_CONFIG,
	TABLE_SINCE,
	TABLE_USAGE,
	N_TABLES
} LimitTable;

static const char *const table_names[N_TABLES] = {[TABLE_TENANT] = "tenant",
												  [TABLE_TYPE] = "rate_limit_type",
												  [TABLE_OVERRIDE] = "rate_limit_type_override",
												  [TABLE_CONFIG] = "rate_limit_config",
												  [TABLE_SINCE] = "rate_limit_since",
												  [TABLE_USAGE] = "rate_limit_usage"};

/* Columns, as sql/05_tenant.sql and sql/50_rate_limit.sql create them. */
enum
{
	TENANT_STATUS = 3,
	TENANT_CREATED_AT = 7
};
enum /* of rate_limit_type and of its override */
{
	TYPE_NAME = 1,
	TYPE_ID,
	TYPE_LIMIT,
	TYPE_SECONDS,
	TYPE_ENABLED,
	TYPE_WHEN_FULL
};
enum
{
	CONFIG_LIMIT = 3,
	CONFIG_SECONDS,
	CONFIG_ENABLED
};
enum
{
	SINCE_SINCE = 3,
	SINCE_OWN_UNTIL
};
enum
{
	USAGE_START = 3,
	USAGE_SECONDS,
	USAGE_LENGTH,
	USAGE_GRANTED,
	USAGE_PREVIOUS_GRANTED,
	USAGE_REFUSED,
	USAGE_PREVIOUS_REFUSED,
	USAGE_APPOINTMENT,
	USAGE_SINCE
};

/* ---- rows ---- */

/* A row found by its primary key, with its table. */
typedef struct Row
{
	Relation table;
	HeapTuple tuple; /* NULL: there is none */
} Row;

static bool cache_valid = false; /* cleared at any time by an invalidation */
static Oid table_oids[N_TABLES];
static MemoryContext cache_context = NULL; /* lives with the backend, reset when the types are read again */
static SnLimitType *types;				   /* in cache_context */
static int n_types;

static Snapshot
latest_snapshot(void)
{
	return RegisterSnapshot(IsInParallelMode() ? GetActiveSnapshot() : GetLatestSnapshot());
}

/* second NULL: the key has one column. */
static Row
row_open(LimitTable which, Snapshot snapshot, text *first, text *second)
{
	Row row;
	ScanKeyData keys[2];
	SysScanDesc scan;
	HeapTuple tuple;

	row.table = table_open(table_oids[which], AccessShareLock);
	ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_TEXTEQ, PointerGetDatum(first));
	if (second)
		ScanKeyInit(&keys[1], 2, BTEqualStrategyNumber, F_TEXTEQ, PointerGetDatum(second));
	scan = systable_beginscan(row.table, SN_PRIMARY_KEY_INDEX(row.table), true, snapshot, second ? 2 : 1, keys);
	tuple = systable_getnext(scan);
	row.tuple = HeapTupleIsValid(tuple) ? heap_copytuple(tuple) : NULL;
	systable_endscan(scan);
	return row;
}

static void
row_close(Row *row)
{
	if (row->tuple)
		heap_freetuple(row->tuple);
	table_close(row->table, AccessShareLock);
}

static Datum
row_datum(const Row *row, int column)
{
	bool isnull;

	return heap_getattr(row->tuple, column, RelationGetDescr(row->table), &isnull);
}

static bool
row_text_is(const Row *row, int column, const char *value)
{
	text *t = DatumGetTextPP(row_datum(row, column));

	return VARSIZE_ANY_EXHDR(t) == strlen(value) && memcmp(VARDATA_ANY(t), value, strlen(value)) == 0;
}

/* ---- types ---- */

static void
types_invalidated(Datum arg, Oid relid)
{
	if (!OidIsValid(relid) || relid == table_oids[TABLE_TYPE])
		cache_valid = false;
}

static void
types_add(const char *name, int len, int32 id)
{
	SnLimitType *type;

	for (int i = 0; i < n_types; i++)
		if (types[i].len == len && memcmp(types[i].name, name, len) == 0)
			return;
	types = types ? repalloc(types, (n_types + 1) * sizeof(SnLimitType)) : palloc(sizeof(SnLimitType));
	type = &types[n_types++];
	type->name = pnstrdup(name, len);
	type->len = len;
	type->id = id;
	type->incarnation = table_oids[TABLE_TYPE];
	type->counter = sn_slot_counter(type->incarnation, id);
}

static void
types_scan(LimitTable which, Snapshot snapshot)
{
	Row row = {.table = table_open(table_oids[which], AccessShareLock)};
	SysScanDesc scan = systable_beginscan(row.table, InvalidOid, false, snapshot, 0, NULL);

	while (HeapTupleIsValid(row.tuple = systable_getnext(scan)))
	{
		text *name = DatumGetTextPP(row_datum(&row, TYPE_NAME));

		types_add(VARDATA_ANY(name), VARSIZE_ANY_EXHDR(name), DatumGetInt32(row_datum(&row, TYPE_ID)));
	}
	systable_endscan(scan);
	table_close(row.table, AccessShareLock);
}

/* Reads all types. The installed ones first: an override has an id of its own that doesn't count. */
static void
types_read(void)
{
	Oid schema = get_namespace_oid(SN_SCHEMA, false);
	MemoryContext old;
	Snapshot snapshot;

	if (cache_context == NULL)
		cache_context = AllocSetContextCreate(TopMemoryContext, "sentinai limit types", ALLOCSET_SMALL_SIZES);
	MemoryContextReset(cache_context);
	types = NULL;
	n_types = 0;
	for (int i = 0; i < N_TABLES; i++)
		table_oids[i] = get_relname_relid(table_names[i], schema);

	cache_valid = true;
	snapshot = latest_snapshot();
	old = MemoryContextSwitchTo(cache_context);
	types_scan(TABLE_TYPE, snapshot);
	types_scan(TABLE_OVERRIDE, snapshot);
	MemoryContextSwitchTo(old);
	UnregisterSnapshot(snapshot);
}

static const SnLimitType *
types_find(const char *name, int len)
{
	for (int i = 0; i < n_types; i++)
		if (types[i].len == len && memcmp(types[i].name, name, len) == 0)
			return &types[i];
	return NULL;
}

/* The limit type of that name; NULL: there is none. */
const SnLimitType *
sn_limit_type(const char *name, int len)
{
	const SnLimitType *type = cache_valid ? types_find(name, len) : NULL;

	if (type)
		return type;
	types_read();
	return types_find(name, len);
}

/* All types there are now. */
const SnLimitType *
sn_limit_types(int *n)
{
	types_read();
	*n = n_types;
	return types;
}

/* Their names, for a hint. */
void
sn_limit_types_append(StringInfo out)
{
	types_read();
	for (int i = 0; i < n_types; i++)
		appendStringInfo(out, "%s%s", i > 0 ? ", " : "", types[i].name);
}

/* ---- reading for a slot ---- */

/* The row that decides about a type: the site's own, else the installed one. */
static Row
type_row(const SnLimitType *type, Snapshot snapshot, text *name)
{
	Row own = row_open(TABLE_OVERRIDE, snapshot, name, NULL);
	Row installed = row_open(TABLE_TYPE, snapshot, name, NULL);
	Row *first = installed.tuple ? &installed : &own;

	/* It was deleted, and perhaps made anew: then it has another id. */
	if (first->tuple == NULL || DatumGetInt32(row_datum(first, TYPE_ID)) != type->id)
		cache_valid = false;
	if (own.tuple == NULL)
	{
		row_close(&own);
		return installed;
	}
	row_close(&installed);
	return own;
}

static void
read_type(const Row *row, SnLimitRead *result)
{
	result->config.limit = DatumGetInt64(row_datum(row, TYPE_LIMIT));
	result->config.seconds = DatumGetInt32(row_datum(row, TYPE_SECONDS));
	result->config.enabled = DatumGetBool(row_datum(row, TYPE_ENABLED));
	result->closed = row_text_is(row, TYPE_WHEN_FULL, "closed");
}

/* A tenant that was deleted and added again begins at zero. */
static SnLimitLookup
read_tenant(Snapshot snapshot, text *tenant, SnLimitRead *result)
{
	Row row = row_open(TABLE_TENANT, snapshot, tenant, NULL);
	SnLimitLookup lookup = SN_LIMIT_NO_TENANT;

	if (row.tuple)
	{
		lookup = row_text_is(&row, TENANT_STATUS, "archived") ? SN_LIMIT_ARCHIVED : SN_LIMIT_FOUND;
		result->config.since = DatumGetTimestampTz(row_datum(&row, TENANT_CREATED_AT));
	}
	row_close(&row);
	return lookup;
}

/* False: the tenant has no limit of its own. */
static bool
read_config(Snapshot snapshot, text *tenant, text *name, SnLimitRead *result)
{
	Row row = row_open(TABLE_CONFIG, snapshot, tenant, name);
	bool own = row.tuple != NULL;

	if (own)
	{
		result->config.limit = DatumGetInt64(row_datum(&row, CONFIG_LIMIT));
		result->config.seconds = DatumGetInt32(row_datum(&row, CONFIG_SECONDS));
		result->config.enabled = DatumGetBool(row_datum(&row, CONFIG_ENABLED));
	}
	row_close(&row);
	return own;
}

/* after: what is about everybody and not later isn't about this tenant. Returns until when the tenant had a limit of its own. */
static TimestampTz
read_since(Snapshot snapshot, text *tenant, text *name, TimestampTz after, SnLimitRead *result)
{
	Row row = row_open(TABLE_SINCE, snapshot, tenant, name);
	TimestampTz since = row.tuple ? DatumGetTimestampTz(row_datum(&row, SINCE_SINCE)) : DT_NOBEGIN;
	TimestampTz own_until = row.tuple ? DatumGetTimestampTz(row_datum(&row, SINCE_OWN_UNTIL)) : DT_NOBEGIN;

	if (since > after && since > result->config.since)
	{
		result->config.since = since;
		result->config.reset = true;
	}
	row_close(&row);
	return own_until;
}

static void
read_usage(Snapshot snapshot, text *tenant, text *name, SnLimitRead *result)
{
	Row row = row_open(TABLE_USAGE, snapshot, tenant, name);

	if (row.tuple && DatumGetTimestampTz(row_datum(&row, USAGE_SINCE)) >= result->config.since)
	{
		result->window.start = DatumGetTimestampTz(row_datum(&row, USAGE_START));
		result->window.seconds = DatumGetInt32(row_datum(&row, USAGE_SECONDS));
		result->window.length = DatumGetInt32(row_datum(&row, USAGE_LENGTH));
		result->window.granted = DatumGetInt64(row_datum(&row, USAGE_GRANTED));
		result->window.previous_granted = DatumGetInt64(row_datum(&row, USAGE_PREVIOUS_GRANTED));
		result->window.refused = DatumGetInt64(row_datum(&row, USAGE_REFUSED));
		result->window.previous_refused = DatumGetInt64(row_datum(&row, USAGE_PREVIOUS_REFUSED));
		result->appointment = DatumGetTimestampTz(row_datum(&row, USAGE_APPOINTMENT));
	}
	row_close(&row);
}

/*
 * Reads what the tables say of this limit now. A type that was deleted or made anew since it was looked up is not found:
 * ask for it again.
 */
SnLimitLookup
sn_limit_read(const SnLimitType *type, const SnSlotKey *key, SnLimitRead *result)
{
	text *tenant = cstring_to_text_with_len(key->tenant_id, key->tenant_len);
	text *name = cstring_to_text_with_len(type->name, type->len);
	text *everybody = cstring_to_text("");
	SnLimitLookup lookup;
	Snapshot snapshot;
	Row row;

	memset(result, 0, sizeof(*result));
	result->config.generation = sn_limit_private() ? 0 : sn_slot_generation(key->hash);
	snapshot = latest_snapshot();
	row = type_row(type, snapshot, name);
	lookup = cache_valid ? read_tenant(snapshot, tenant, result) : SN_LIMIT_NO_TYPE;
	if (lookup == SN_LIMIT_FOUND)
	{
		TimestampTz own_until;
		bool own;

		read_type(&row, result);
		own = read_config(snapshot, tenant, name, result);
		own_until = read_since(snapshot, tenant, name, DT_NOBEGIN, result);

		/* A type that was disabled and enabled again was neither for who had a limit of his own. */
		if (!own)
			read_since(snapshot, everybody, name, own_until, result);
		read_usage(snapshot, tenant, name, result);
	}
	row_close(&row);
	UnregisterSnapshot(snapshot);

	/* A call may ask about a million tenants. */
	pfree(tenant);
	pfree(name);
	pfree(everybody);
	return lookup;
}

/* ---- changes ---- */

/* What this transaction has changed: hashes of tenants, or so many that it is the whole database. */
#define MAX_CHANGES 256

static bool changed_any = false;
static bool changed_database = false;
static int n_changes = 0;
static uint64 changes[MAX_CHANGES];

/* Whether this transaction has changed what limits go by, so that what it reads is not for others. */
bool
sn_limit_private(void)
{
	return changed_any;
}

static void
note_tenant(HeapTuple tuple, TupleDesc desc)
{
	bool isnull;
	text *tenant = DatumGetTextPP(SPI_getbinval(tuple, desc, SPI_fnumber(desc, "tenant_id"), &isnull));
	uint64 hash = hash_bytes_extended((unsigned char *) VARDATA_ANY(tenant), VARSIZE_ANY_EXHDR(tenant), MyDatabaseId);

	if (VARSIZE_ANY_EXHDR(tenant) == 0 || n_changes == MAX_CHANGES)
		changed_database = true;
	else if (n_changes == 0 || changes[n_changes - 1] != hash)
		changes[n_changes++] = hash;
}

/*
 * rate_limit_changed(what) returns trigger. Its argument says whose configuration a row is: "tenant" of the one it names,
 * "database" of all, "new" nobody's yet.
 */
Datum
sn_rate_limit_changed(PG_FUNCTION_ARGS)
{
	TriggerData *data = (TriggerData *) fcinfo->context;
	const char *what;

	if (!CALLED_AS_TRIGGER(fcinfo) || data->tg_trigger->tgnargs != 1)
		elog(ERROR, "sn_rate_limit_changed: not called as a trigger with an argument");
	what = data->tg_trigger->tgargs[0];
	changed_any = true;
	if (strcmp(what, "database") == 0)
		changed_database = true;
	else if (strcmp(what, "tenant") == 0)
	{
		note_tenant(data->tg_trigtuple, RelationGetDescr(data->tg_relation));
		if (TRIGGER_FIRED_BY_UPDATE(data->tg_event))
			note_tenant(data->tg_newtuple, RelationGetDescr(data->tg_relation));
	}
	return PointerGetDatum(NULL);
}

static void
refuse_prepare(void)
{
	if (changed_database || n_changes > 0)
		ereport(ERROR,
				(errcode(SN_ERRCODE("SN013")), errmsg("a transaction that has changed rate limits can't be prepared"),
				 errdetail("Other sessions learn of the change by its COMMIT.")));
}

/* After the commit everybody sees the rows: now they are to be read again. Nothing here raises. */
static void
on_xact_end(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_PRE_PREPARE)
		refuse_prepare();
	if (event == XACT_EVENT_COMMIT && changed_database)
		sn_slot_invalidate_database();
	if (event == XACT_EVENT_COMMIT)
		for (int i = 0; i < n_changes; i++)
			sn_slot_invalidate(changes[i]);
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
	{
		changed_any = changed_database = false;
		n_changes = 0;
	}
}

void
sn_limit_config_install(void)
{
	RegisterXactCallback(on_xact_end, NULL);
	CacheRegisterRelcacheCallback(types_invalidated, (Datum) 0);
}
