/*
 * rate_limit.c
 *	  Deciding about limits: check, peek, reserve, refund, and the queue of appointments.
 *
 * A call finds its slot in shared memory, makes sure that the slot's configuration still counts, and decides under the
 * lock of the slot's partition, so that decisions are exact however many sessions there are. Counts stand outside of
 * transactions on purpose: a call that was refused, or rolled back, has been made. Only what sn_rate_limit_reserve() and
 * sn_rate_limit_appoint() took is given back when the (sub)transaction aborts, and what was granted to a handler, whose
 * work is undone then and will be done again; this backend keeps a list of it.
 *
 * A transaction that has itself changed limits decides on slots of its own, which die with it, and counts in the shared
 * ones too: others neither see a change that is not committed, nor are the calls lost.
 *
 * Elsewhere: the arithmetic (rate_limit_window.c), the shared table (rate_limit_slot.c), what the tables say and how
 * slots learn of changes (rate_limit_config.c), the tables themselves (sql/50_rate_limit.sql).
 */
#include "sentinai.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "pgtime.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/datetime.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

#include "caller.h"
#include "emit.h"
#include "guc.h"
#include "handle.h"
#include "rate_limit.h"
#include "rate_limit_config.h"
#include "rate_limit_save.h"
#include "rate_limit_slot.h"

/* One call about one limit. Between call_begin() and call_end() the slot's partition is locked. */
typedef struct Call
{
	const char *limit_type; /* neither of the two is terminated */
	int limit_type_len;
	const char *tenant_id;
	int tenant_len;
	TimestampTz now;

	SnSlotKey key;
	int counter;
	SnSlot *slot;	 /* shared, of this transaction, or the next */
	SnSlot unshared; /* where there is no slot and none is to be made, or no room for one */
	bool no_room;
	bool closed; /* of no_room: the call is refused */
	bool own;	 /* the slot is this transaction's own */
} Call;

TimestampTz
sn_now(void)
{
	return sn_test_clock != 0 ? sn_test_clock : GetCurrentTimestamp();
}

/* usage_clock() returns timestamptz */
PG_FUNCTION_INFO_V1(sn_clock);
Datum
sn_clock(PG_FUNCTION_ARGS)
{
	PG_RETURN_TIMESTAMPTZ(sn_now());
}

/* ---- slots that a transaction with changed limits has for itself ---- */

/* Zeroed before it is filled: it is hashed as bytes. */
typedef struct OwnKey
{
	Oid incarnation;
	int32 type_id;
	char tenant_id[SN_TENANT_LEN];
} OwnKey;

typedef struct OwnSlot
{
	OwnKey key;
	SnSlot slot;
} OwnSlot;

static HTAB *own_slots = NULL; /* in TopTransactionContext */

static void
own_slots_make(void)
{
	HASHCTL info = {.keysize = sizeof(OwnKey), .entrysize = sizeof(OwnSlot), .hcxt = TopTransactionContext};

	own_slots = hash_create("sentinai own rate limits", 64, &info, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

static SnSlot *
own_slot(const SnSlotKey *key)
{
	OwnKey name;
	OwnSlot *own;
	SnSlot *shared;
	bool found;

	if (own_slots == NULL)
		own_slots_make();
	memset(&name, 0, sizeof(name));
	name.incarnation = key->incarnation;
	name.type_id = key->type_id;
	memcpy(name.tenant_id, key->tenant_id, key->tenant_len);
	own = hash_search(own_slots, &name, HASH_ENTER, &found);
	if (found)
		return &own->slot;
	memset(&own->slot, 0, sizeof(SnSlot));
	sn_slot_name(&own->slot, key);
	sn_slot_lock(key);
	shared = sn_slot_find(key);
	if (shared)
		own->slot = *shared;
	sn_slot_unlock(key);
	return &own->slot;
}

/* ---- a call ---- */

/* Makes the window of this time the running one. A limit that is disabled has no counts to keep. */
static void
slot_roll(SnSlot *slot, TimestampTz now)
{
	if (!slot->enabled)
		memset(&slot->window, 0, sizeof(SnWindow));
	sn_window_roll(&slot->window, slot->seconds, now);
}

/* Takes over the counts that were written down, beside what it may have counted itself. */
static void
slot_load(SnSlot *slot, const SnLimitRead *read, TimestampTz now)
{
	SnWindow written = read->window;

	if (slot->window.seconds == 0)
		slot->window = written;
	else if (written.seconds != 0)
	{
		sn_window_roll(&slot->window, read->config.seconds, now);
		sn_window_roll(&written, read->config.seconds, now);
		sn_window_add(&slot->window, &written, now);
	}
	slot->appointment = Max(slot->appointment, read->appointment);
	slot->loaded = true;
}

/* The slot goes by what was read from now on. Its window is left as it is: who only looks moves none. */
static void
slot_adopt(SnSlot *slot, const SnLimitRead *read, TimestampTz now)
{
	const SnSlotConfig *config = &read->config;

	if (config->since > slot->since || config->enabled != slot->enabled)
	{
		memset(&slot->window, 0, sizeof(SnWindow));
		slot->appointment = 0;
	}
	if (!slot->loaded && !RecoveryInProgress())
		slot_load(slot, read, now);
	slot->since = config->since;
	slot->limit = config->limit;
	slot->seconds = config->seconds;
	slot->enabled = config->enabled;
	slot->reset = config->reset;
	slot->generation = config->generation;
}

/* The slot may be used as it is: nothing has changed since its configuration was read. */
static bool
slot_current(const SnSlot *slot, const SnSlotKey *key)
{
	return slot->generation == sn_slot_generation(key->hash) && (slot->loaded || RecoveryInProgress());
}

/* The tables know no such limit: if nothing says otherwise by now, its slot goes. */
static void
drop_slot(const SnSlotKey *key)
{
	SnSlot *slot;

	if (sn_limit_private())
		return;
	sn_slot_lock(key);
	slot = sn_slot_find(key);
	if (slot && !slot_current(slot, key))
		sn_slot_free(key, slot);
	sn_slot_unlock(key);
}

/* Who only looks decides on a copy, and leaves the slot as it was. */
static void
call_copy(Call *call)
{
	call->unshared = *call->slot;
	call->slot = &call->unshared;
}

/*
 * Locks the partition, with the slot or something in its stead, which goes by what was read. False, and nothing is locked,
 * if that is out of date by now.
 */
static bool
call_adopt(Call *call, const SnLimitRead *read, bool look)
{
	const SnSlotKey *key = &call->key;

	call->own = sn_limit_private();
	if (call->own)
		call->slot = own_slot(key);
	sn_slot_lock(key);
	if (!call->own && read->config.generation != sn_slot_generation(key->hash))
	{
		sn_slot_unlock(key);
		return false;
	}
	if (!call->own)
		call->slot = sn_slot_find(key);
	if (call->slot == NULL && !look)
	{
		call->slot = sn_slot_make(key, call->now);
		call->no_room = call->slot == NULL;
		call->closed = read->closed;
	}
	if (call->slot == NULL)
	{
		memset(&call->unshared, 0, sizeof(SnSlot));
		sn_slot_name(&call->unshared, key);
		call->slot = &call->unshared;
	}
	else if (look)
		call_copy(call);
	if (call->own || !slot_current(call->slot, key))
		slot_adopt(call->slot, read, call->now);
	return true;
}

/* A slot is found, and current: the way of nearly every call. False: nothing is locked. */
static bool
call_find(Call *call)
{
	if (sn_limit_private())
		return false;
	sn_slot_lock(&call->key);
	call->slot = sn_slot_find(&call->key);
	if (call->slot && slot_current(call->slot, &call->key))
		return true;
	sn_slot_unlock(&call->key);
	return false;
}

/*
 * Makes the limit's slot ready to be decided on at call->now, and locks its partition; call_end() unlocks it. Where the
 * call only looks, a copy of the slot is made ready, and no slot is made where there is none. If the limit is not known
 * nothing is locked.
 */
static SnLimitLookup
call_begin(Call *call, bool look)
{
	bool ready = false;

	call->no_room = false;
	call->own = false;

	/* Again where the configuration was changed meanwhile, or the type was deleted and made anew. */
	while (!ready)
	{
		const SnLimitType *type = sn_limit_type(call->limit_type, call->limit_type_len);
		SnLimitLookup lookup;
		SnLimitRead read;

		if (type == NULL)
			return SN_LIMIT_NO_TYPE;
		CHECK_FOR_INTERRUPTS();
		call->counter = type->counter;
		sn_slot_key(&call->key, type->incarnation, type->id, call->tenant_id, call->tenant_len);
		if (call_find(call))
			break;
		lookup = sn_limit_read(type, &call->key, &read);
		if (lookup == SN_LIMIT_FOUND)
			ready = call_adopt(call, &read, look);
		else
			drop_slot(&call->key);
		if (lookup == SN_LIMIT_NO_TENANT || lookup == SN_LIMIT_ARCHIVED)
			return lookup;
	}
	if (look && call->slot != &call->unshared)
		call_copy(call);
	slot_roll(call->slot, call->now);
	return SN_LIMIT_FOUND;
}

static void
call_end(Call *call)
{
	sn_slot_unlock(&call->key);
}

/* The slot that other sessions see; NULL: there is none. */
static SnSlot *
call_shared(Call *call)
{
	SnSlot *shared = call->slot;

	if (!call->own)
		return shared == &call->unshared ? NULL : shared;
	shared = sn_slot_find(&call->key);
	if (shared)
		slot_roll(shared, call->now);
	return shared;
}

/*
 * Changes the counts, of a slot of one's own those of the shared one too. Not in a rehearsal, whose calls only look, and not
 * where the limit is disabled.
 */
static void
call_count(Call *call, void (*change)(SnWindow *window, int64 n), int64 n)
{
	SnSlot *shared;

	if (sn_rehearsing || !call->slot->enabled || n == 0)
		return;
	shared = call_shared(call);
	change(&call->slot->window, n);
	if (call->own && shared)
		change(&shared->window, n);
	if (shared)
		sn_slot_changed(&call->key, shared);
}

/* Units that would be granted now, where that many were granted in the window that ends now. */
static int64
call_remaining(const Call *call, int64 granted)
{
	const SnSlot *slot = call->slot;

	if (!slot->enabled || (call->no_room && !call->closed))
		return slot->limit;
	if (call->no_room)
		return 0;
	return Max(slot->limit - granted, 0);
}

static int64
call_available(const Call *call)
{
	return call_remaining(call, sn_window_granted(&call->slot->window, call->now));
}

static bool
call_fits(const Call *call, int64 n)
{
	return !call->slot->enabled || n <= call_available(call);
}

/* Where a full table refuses, nobody knows when there will be room: the next second. */
static TimestampTz
call_fits_at(const Call *call, int64 n)
{
	if (call->no_room)
		return call->now + USECS_PER_SEC;
	return sn_window_fits_at(&call->slot->window, call->slot->limit, Min(n, call->slot->limit), call->now);
}

/* How the limit stands; n units were asked for, and granted or not. */
static void
call_state(const Call *call, int64 n, bool allowed, SnRateLimit *state)
{
	const SnSlot *slot = call->slot;

	state->known = true;
	state->enabled = slot->enabled;
	state->allowed = allowed;
	state->limit = slot->limit;
	state->window_seconds = slot->seconds;
	state->since = slot->reset ? slot->since : DT_NOBEGIN;
	state->granted = sn_window_granted(&slot->window, call->now);
	state->refused = sn_window_refused(&slot->window, call->now);
	state->remaining = call_remaining(call, state->granted);
	state->reset_at = allowed ? sn_window_end(&slot->window) : call_fits_at(call, n);
	state->retry_after_us = allowed ? 0 : Max(state->reset_at - call->now, 1);
}

char *
sn_rate_limit_reset_at(const SnRateLimit *state)
{
	struct pg_tm tm;
	fsec_t fsec;
	TimestampTz seconds = (state->reset_at + USECS_PER_SEC - 1) / USECS_PER_SEC;

	if (timestamp2tm(seconds * USECS_PER_SEC, NULL, &tm, &fsec, NULL, NULL) != 0)
		memset(&tm, 0, sizeof(tm));
	return psprintf("%04d-%02d-%02dT%02d:%02d:%02dZ", tm.tm_year, tm.tm_mon, tm.tm_mday, tm.tm_hour, tm.tm_min,
					tm.tm_sec);
}

char *
sn_rate_limit_words(const char *limit_type, const SnRateLimit *state)
{
	return psprintf("Rate limit exceeded: %s (" INT64_FORMAT "/%ds)", limit_type, state->limit, state->window_seconds);
}

/* Names of limit types need no escaping. */
char *
sn_rate_limit_answer(const char *limit_type, const SnRateLimit *state)
{
	return psprintf("{\"detail\": \"%s\", \"limit_type\": \"%s\", \"limit\": " INT64_FORMAT
					", \"current\": " INT64_FORMAT ", \"reset_at\": \"%s\"}",
					sn_rate_limit_words(limit_type, state), limit_type, state->limit, state->granted + state->refused,
					sn_rate_limit_reset_at(state));
}

/* The type's name, ended by a NUL. */
static char *
call_type_name(const Call *call)
{
	return pnstrdup(call->limit_type, call->limit_type_len);
}

/* ---- what is given back at abort ---- */

typedef struct Taken
{
	SnSlotKey key;
	char tenant_id[SN_TENANT_LEN];
	int level;		   /* nesting level of the subtransaction that it belongs to */
	TimestampTz start; /* of the window that granted it */
	int64 granted;
	int64 appointed_us; /* by how much the queue has grown */
} Taken;

static Taken *taken = NULL; /* in TopMemoryContext, grows */
static int n_taken = 0;
static int max_taken = 0;

static bool
taken_is(const Taken *t, const Call *call)
{
	return t->level == GetCurrentTransactionNestLevel() && t->start == call->slot->window.start &&
		   t->key.hash == call->key.hash && t->key.type_id == call->key.type_id &&
		   t->key.tenant_len == call->key.tenant_len &&
		   memcmp(t->tenant_id, call->key.tenant_id, call->key.tenant_len) == 0;
}

/* Room for n more, before anything is locked. */
static void
taken_prepare(int n)
{
	if (n_taken + n <= max_taken)
		return;
	max_taken = Max(64, max_taken * 2);
	if (taken == NULL)
		taken = MemoryContextAlloc(TopMemoryContext, max_taken * sizeof(Taken));
	else
		taken = repalloc(taken, max_taken * sizeof(Taken));
}

static void
taken_add(const Call *call, int64 granted, int64 appointed_us)
{
	Taken *t = n_taken > 0 && taken_is(&taken[n_taken - 1], call) ? &taken[n_taken - 1] : NULL;

	if (t == NULL)
	{
		t = &taken[n_taken++];
		t->key = call->key;
		memcpy(t->tenant_id, call->key.tenant_id, call->key.tenant_len);
		t->level = GetCurrentTransactionNestLevel();
		t->start = call->slot->window.start;
		t->granted = 0;
		t->appointed_us = 0;
	}
	t->granted += granted;
	t->appointed_us += appointed_us;
}

/* Counts what a question of SQL was granted or refused. */
static void
call_charge(Call *call, bool granted, int64 n)
{
	call_count(call, granted ? sn_window_grant : sn_window_refuse, n);
	if (granted && sn_in_handler() && call->slot->enabled && !sn_rehearsing)
		taken_add(call, n, 0);
}

static void
give_back(Taken *t)
{
	SnSlot *slot;

	t->key.tenant_id = t->tenant_id;
	sn_slot_lock(&t->key);
	slot = sn_slot_find(&t->key);
	if (slot)
	{
		sn_window_undo(&slot->window, t->granted, t->start);
		slot->appointment -= Min(t->appointed_us, slot->appointment);
		sn_slot_changed(&t->key, slot);
	}
	sn_slot_unlock(&t->key);
}

static void
refuse_prepare(void)
{
	if (n_taken > 0)
		ereport(ERROR, (errcode(SN_ERRCODE("SN013")),
						errmsg("a transaction whose work was charged to rate limits can't be prepared"),
						errdetail("What it was charged is given back if it is rolled back, by this session only.")));
}

static void
on_xact_end(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_PRE_PREPARE)
		refuse_prepare();
	if (event == XACT_EVENT_ABORT)
		for (int i = 0; i < n_taken; i++)
			give_back(&taken[i]);
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
	{
		n_taken = 0;
		own_slots = NULL;
	}
}

static void
on_subxact_end(SubXactEvent event, SubTransactionId sub, SubTransactionId parent, void *arg)
{
	int level = GetCurrentTransactionNestLevel();

	if (event == SUBXACT_EVENT_COMMIT_SUB)
		for (int i = n_taken - 1; i >= 0 && taken[i].level >= level; i--)
			taken[i].level = level - 1;
	if (event == SUBXACT_EVENT_ABORT_SUB)
		while (n_taken > 0 && taken[n_taken - 1].level >= level)
			give_back(&taken[--n_taken]);
}

/* ---- for C ---- */

static bool
begin_for(Call *call, const char *tenant_id, const char *limit_type, TimestampTz now, SnRateLimit *state)
{
	memset(state, 0, sizeof(*state));
	call->limit_type = limit_type;
	call->limit_type_len = strlen(limit_type);
	call->tenant_id = tenant_id;
	call->tenant_len = strlen(tenant_id);
	call->now = now;
	return call->tenant_len <= SN_TENANT_LEN && call_begin(call, false) == SN_LIMIT_FOUND;
}

int64
sn_rate_limit_reserve(const char *tenant_id, const char *limit_type, int64 n, TimestampTz now, SnRateLimit *state)
{
	Call call;
	int64 granted;

	taken_prepare(1);
	if (!begin_for(&call, tenant_id, limit_type, now, state))
		return 0;
	granted = call.slot->enabled ? Min(n, call_available(&call)) : n;
	call_count(&call, sn_window_grant, granted);
	if (call.slot->enabled)
		taken_add(&call, granted, 0);
	call_state(&call, 1, granted == n, state);
	call_end(&call);
	return granted;
}

int64
sn_rate_limit_available(const char *tenant_id, const char *limit_type, TimestampTz now, SnRateLimit *state)
{
	Call call;

	if (!begin_for(&call, tenant_id, limit_type, now, state))
		return 0;
	call_state(&call, 1, call_fits(&call, 1), state);
	call_end(&call);
	return state->enabled ? state->remaining : PG_INT64_MAX;
}

TimestampTz
sn_rate_limit_appoint(const char *tenant_id, const char *limit_type, TimestampTz now)
{
	Call call;
	SnRateLimit state;
	TimestampTz place = now;

	taken_prepare(1);
	if (!begin_for(&call, tenant_id, limit_type, now, &state))
		return now;
	if (call.slot->enabled)
	{
		TimestampTz length = call.slot->window.length * USECS_PER_SEC;
		TimestampTz step = (length + call.slot->limit - 1) / call.slot->limit;
		TimestampTz last = call.slot->appointment;

		place = Max(last + step, call_fits_at(&call, 1));
		call.slot->appointment = place;
		if (call_shared(&call) == call.slot)
			sn_slot_changed(&call.key, call.slot);
		taken_add(&call, 0, step);
	}
	call_end(&call);
	return place;
}

void
sn_rate_limit_install(void)
{
	sn_limit_config_install();
	sn_limit_flush_install();
	RegisterXactCallback(on_xact_end, NULL);
	RegisterSubXactCallback(on_subxact_end, NULL);
}

/* ---- arguments and errors of the SQL functions ---- */

PG_FUNCTION_INFO_V1(sn_rate_limit_check);
PG_FUNCTION_INFO_V1(sn_rate_limit_allowed);
PG_FUNCTION_INFO_V1(sn_rate_limit_peek);
PG_FUNCTION_INFO_V1(sn_rate_limit_check_all);
PG_FUNCTION_INFO_V1(sn_rate_limit_check_batch);
PG_FUNCTION_INFO_V1(sn_rate_limit_refund);
PG_FUNCTION_INFO_V1(sn_rate_limit_enforce);
PG_FUNCTION_INFO_V1(sn_rate_limit_body);
PG_FUNCTION_INFO_V1(sn_rate_limit_state);
PG_FUNCTION_INFO_V1(sn_rate_limit_busy);
PG_FUNCTION_INFO_V1(sn_rate_limit_slot_stats);
PG_FUNCTION_INFO_V1(sn_rate_limit_counts);

static void
raise_null(const char *name)
{
	ereport(ERROR, (errcode(SN_ERRCODE("SN001")), errmsg("%s must not be NULL", name)));
}

static void
raise_unknown_type(const char *limit_type, int len)
{
	StringInfoData known;

	initStringInfo(&known);
	sn_limit_types_append(&known);
	ereport(ERROR, (errcode(SN_ERRCODE("SN041")),
					errmsg("limit type \"%.*s\" is not known", pg_mbcliplen(limit_type, len, 100), limit_type),
					errhint("There are %s. sentinai.rate_limit_type_set() makes another one.", known.data)));
}

static void
raise_unknown_tenant(const char *tenant_id, int len)
{
	ereport(ERROR, (errcode(SN_ERRCODE("SN004")),
					errmsg("tenant \"%.*s\" is not known", pg_mbcliplen(tenant_id, len, 100), tenant_id),
					errhint("SELECT * FROM sentinai.tenant_list() shows all tenants.")));
}

static void
raise_archived_tenant(const char *tenant_id, int len)
{
	ereport(ERROR, (errcode(SN_ERRCODE("SN004")), errmsg("tenant \"%.*s\" is archived", len, tenant_id),
					errhint("sentinai.tenant_resume() takes it back.")));
}

static void
raise_above_limit(const Call *call, int64 cost, const SnRateLimit *state)
{
	ereport(ERROR, (errcode(SN_ERRCODE("SN042")),
					errmsg("cost " INT64_FORMAT " is above the limit of %.*s (" INT64_FORMAT "/%ds)", cost,
						   call->limit_type_len, call->limit_type, state->limit, state->window_seconds),
					errdetail("It would never be granted, however long the caller waits."),
					errhint("Split the work into smaller parts, or raise the limit.")));
}

static void
raise_limit_exceeded(const Call *call, const SnRateLimit *state)
{
	char *limit_type = call_type_name(call);
	int64 seconds = (state->retry_after_us + USECS_PER_SEC - 1) / USECS_PER_SEC;

	ereport(ERROR, (errcode(SN_ERRCODE("SN040")), errmsg_internal("%s", sn_rate_limit_words(limit_type, state)),
					errdetail_internal("%s", sn_rate_limit_answer(limit_type, state)),
					errhint("Come back in " INT64_FORMAT " s.", seconds)));
}

static text *
text_arg(FunctionCallInfo fcinfo, int n, const char *name)
{
	if (PG_ARGISNULL(n))
		raise_null(name);
	return PG_GETARG_TEXT_PP(n);
}

static void
call_tenant(Call *call, text *tenant_id)
{
	call->tenant_id = VARDATA_ANY(tenant_id);
	call->tenant_len = VARSIZE_ANY_EXHDR(tenant_id);
	sn_tenant_require(call->tenant_id, call->tenant_len);
	if (call->tenant_len > SN_TENANT_LEN)
		raise_unknown_tenant(call->tenant_id, call->tenant_len);
}

static void
call_type(Call *call, text *limit_type)
{
	call->limit_type = VARDATA_ANY(limit_type);
	call->limit_type_len = VARSIZE_ANY_EXHDR(limit_type);
}

/* Every function of one limit begins with its tenant and type. */
static void
call_args(Call *call, FunctionCallInfo fcinfo)
{
	call_tenant(call, text_arg(fcinfo, 0, "tenant_id"));
	call_type(call, text_arg(fcinfo, 1, "limit_type"));
	call->now = sn_now();
}

static int64
check_cost(int64 cost)
{
	if (cost < 1)
		ereport(ERROR, (errcode(SN_ERRCODE("SN001")), errmsg("cost " INT64_FORMAT " is not valid", cost),
						errhint("It is at least 1. sentinai.rate_limit_refund() gives back.")));
	return cost;
}

static int64
cost_arg(FunctionCallInfo fcinfo, int n)
{
	if (PG_ARGISNULL(n))
		raise_null("cost");
	return check_cost(PG_GETARG_INT64(n));
}

/* Raises unless the limit is known. */
static void
call_require(Call *call, SnLimitLookup lookup)
{
	if (lookup == SN_LIMIT_NO_TYPE)
		raise_unknown_type(call->limit_type, call->limit_type_len);
	if (lookup == SN_LIMIT_NO_TENANT)
		raise_unknown_tenant(call->tenant_id, call->tenant_len);
	if (lookup == SN_LIMIT_ARCHIVED)
		raise_archived_tenant(call->tenant_id, call->tenant_len);
}

/* ---- who is not limited ---- */

static bool bypass_valid = false; /* cleared when roles change */
static Oid bypass_outer;
static Oid bypass_user;
static bool bypass;

static void
roles_changed(Datum arg, int cacheid, uint32 hash)
{
	bypass_valid = false;
}

/*
 * An admin's calls are neither limited nor counted: a member of sentinai_admin as whom the session acts, where the code
 * runs with no lesser role. So handlers are limited, whoever runs them, and so is a superuser who is no member.
 */
static bool
may_bypass(void)
{
	static bool registered = false;
	Oid admin;

	if (bypass_valid && bypass_outer == GetOuterUserId() && bypass_user == GetUserId())
		return bypass;
	if (!registered)
	{
		CacheRegisterSyscacheCallback(AUTHOID, roles_changed, (Datum) 0);
		CacheRegisterSyscacheCallback(AUTHMEMROLEMEM, roles_changed, (Datum) 0);
		registered = true;
	}
	/* Of nobody until it is known: an error may come first. A change that comes first makes it invalid. */
	bypass_outer = InvalidOid;
	bypass_valid = true;
	admin = get_role_oid("sentinai_admin", true);
	bypass = OidIsValid(admin) && is_member_of_role_nosuper(GetOuterUserId(), admin) &&
			 is_member_of_role(GetUserId(), admin);
	bypass_user = GetUserId();
	bypass_outer = GetOuterUserId();
	return bypass;
}

/* ---- check and peek ---- */

/* For metrics(): how a call ended. */
static void
count_result(const Call *call, bool free_pass, bool fits)
{
	if (!sn_rehearsing)
		sn_slot_count(call->counter, free_pass ? SN_LIMIT_BYPASSED : fits ? SN_LIMIT_ALLOWED : SN_LIMIT_REFUSED);
}

/*
 * Decides on one limit, whose call has begun, and charges it unless the call only looks. state, which may be NULL: how the
 * limit stands then. Raises where the cost can never be granted.
 */
static bool
decide_begun(Call *call, int64 cost, bool peek, bool free_pass, SnRateLimit *state)
{
	SnRateLimit unasked;
	bool above = !free_pass && call->slot->enabled && cost > call->slot->limit;
	bool fits = free_pass || (!above && call_fits(call, cost));

	if (!peek && !free_pass && !above)
		call_charge(call, fits, cost);
	if (state == NULL && above)
		state = &unasked;
	if (state != NULL)
		call_state(call, cost, fits, state);
	call_end(call);
	if (above)
		raise_above_limit(call, cost, state);
	if (!peek)
		count_result(call, free_pass, fits);
	return fits;
}

static bool
decide(Call *call, int64 cost, bool peek, SnRateLimit *state)
{
	bool free_pass = may_bypass();

	if (sn_in_handler())
		taken_prepare(1);
	call_require(call, call_begin(call, peek || free_pass));
	return decide_begun(call, cost, peek, free_pass, state);
}

bool
sn_rate_limit_charge(const char *tenant_id, const char *limit_type, SnRateLimit *state)
{
	Call call = {.limit_type = limit_type,
				 .limit_type_len = strlen(limit_type),
				 .tenant_id = tenant_id,
				 .tenant_len = strlen(tenant_id),
				 .now = sn_now()};
	bool free_pass = may_bypass();
	SnLimitLookup lookup;

	if (sn_in_handler())
		taken_prepare(1);
	lookup = call_begin(&call, free_pass);
	if (lookup == SN_LIMIT_NO_TENANT || lookup == SN_LIMIT_ARCHIVED)
		return false;
	call_require(&call, lookup);
	decide_begun(&call, 1, false, free_pass, state);
	return true;
}

/* allowed, limit, current, remaining, retry_after, reset_at */
#define N_COLUMNS 6

static void
state_columns(const SnRateLimit *state, Datum *values)
{
	values[0] = BoolGetDatum(state->allowed);
	values[1] = Int64GetDatum(state->limit);
	values[2] = Int64GetDatum(state->granted + state->refused);
	values[3] = Int64GetDatum(state->remaining);
	values[4] = Int32GetDatum((state->retry_after_us + USECS_PER_SEC - 1) / USECS_PER_SEC);
	values[5] = TimestampTzGetDatum(state->reset_at);
}

/* rate_limit_answer, the row type of check and of peek, looked up once a backend for each of the two. */
static TupleDesc
answer_desc(FunctionCallInfo fcinfo, bool peek)
{
	static Oid functions[2];
	static TupleDesc descs[2];
	TupleDesc found;
	MemoryContext old;

	if (functions[peek] == fcinfo->flinfo->fn_oid)
		return descs[peek];
	if (get_call_result_type(fcinfo, NULL, &found) != TYPEFUNC_COMPOSITE || found->natts != N_COLUMNS)
		elog(ERROR, "the result is no rate_limit_answer");
	old = MemoryContextSwitchTo(TopMemoryContext);
	descs[peek] = CreateTupleDescCopy(found);
	MemoryContextSwitchTo(old);
	functions[peek] = fcinfo->flinfo->fn_oid;
	return descs[peek];
}

static Datum
check_or_peek(FunctionCallInfo fcinfo, bool peek)
{
	Call call;
	SnRateLimit state;
	Datum values[N_COLUMNS];
	bool nulls[N_COLUMNS] = {false};
	TupleDesc desc = answer_desc(fcinfo, peek);

	call_args(&call, fcinfo);
	decide(&call, cost_arg(fcinfo, 2), peek, &state);
	state_columns(&state, values);
	return HeapTupleGetDatum(heap_form_tuple(desc, values, nulls));
}

/* rate_limit_check(tenant_id, limit_type, cost) */
Datum
sn_rate_limit_check(PG_FUNCTION_ARGS)
{
	return check_or_peek(fcinfo, false);
}

/*
 * rate_limit_allowed(tenant_id, limit_type, cost) returns boolean: rate_limit_check() for who needs no more than the answer.
 * It makes no row, and doesn't work out how the limit stands.
 */
Datum
sn_rate_limit_allowed(PG_FUNCTION_ARGS)
{
	Call call;

	call_args(&call, fcinfo);
	PG_RETURN_BOOL(decide(&call, cost_arg(fcinfo, 2), false, NULL));
}

/* rate_limit_peek(tenant_id, limit_type, cost) */
Datum
sn_rate_limit_peek(PG_FUNCTION_ARGS)
{
	return check_or_peek(fcinfo, true);
}

/* rate_limit_enforce(tenant_id, limit_type, cost) returns void */
Datum
sn_rate_limit_enforce(PG_FUNCTION_ARGS)
{
	Call call;
	SnRateLimit state;

	call_args(&call, fcinfo);
	decide(&call, cost_arg(fcinfo, 2), false, &state);
	if (!state.allowed)
		raise_limit_exceeded(&call, &state);
	PG_RETURN_VOID();
}

/* rate_limit_refund(tenant_id, limit_type, cost) returns void */
Datum
sn_rate_limit_refund(PG_FUNCTION_ARGS)
{
	Call call;
	int64 n = cost_arg(fcinfo, 2);

	call_args(&call, fcinfo);
	call_require(&call, call_begin(&call, false));
	call_count(&call, sn_window_refund, n);
	call_end(&call);
	PG_RETURN_VOID();
}

/* rate_limit_body(tenant_id, limit_type) returns jsonb: the body of an answer 429 */
Datum
sn_rate_limit_body(PG_FUNCTION_ARGS)
{
	Call call;
	SnRateLimit state;

	call_args(&call, fcinfo);
	call_require(&call, call_begin(&call, true));
	call_state(&call, 1, call_fits(&call, 1), &state);
	call_end(&call);
	return DirectFunctionCall1(jsonb_in, CStringGetDatum(sn_rate_limit_answer(call_type_name(&call), &state)));
}

/*
 * rate_limit_state(tenant_id, limit_type) returns (limit, granted, refused, remaining, window_seconds, reset_at, enabled):
 * how it stands, for lists.
 */
Datum
sn_rate_limit_state(PG_FUNCTION_ARGS)
{
	Call call;
	SnRateLimit state;
	TupleDesc desc;
	Datum values[7];
	bool nulls[7] = {false};

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "rate_limit_state: the result is no row");
	call_args(&call, fcinfo);
	call_require(&call, call_begin(&call, true));
	call_state(&call, 1, true, &state);
	call_end(&call);
	values[0] = Int64GetDatum(state.limit);
	values[1] = Int64GetDatum(state.granted);
	values[2] = Int64GetDatum(state.refused);
	values[3] = Int64GetDatum(state.remaining);
	values[4] = Int32GetDatum(state.window_seconds);
	values[5] = TimestampTzGetDatum(state.reset_at);
	values[6] = BoolGetDatum(state.enabled);
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls));
}

/* ---- several limits of a tenant, all or nothing ---- */

#define MAX_ALL 32

static Datum *
array_values(ArrayType *array, Oid element, int *n)
{
	Datum *values;
	bool *nulls;

	if (element == TEXTOID)
		deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &values, &nulls, n);
	else
		deconstruct_array(array, INT8OID, 8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE, &values, &nulls, n);
	if (ARR_HASNULL(array) && array_contains_nulls(array))
		raise_null("an element of an array");
	return values;
}

static ArrayType *
array_arg(FunctionCallInfo fcinfo, int n, const char *name)
{
	if (PG_ARGISNULL(n))
		raise_null(name);
	return PG_GETARG_ARRAYTYPE_P(n);
}

/* The costs of n calls; where the argument is NULL each is 1. */
static int64 *
costs_arg(FunctionCallInfo fcinfo, int arg, int n)
{
	int64 *costs = palloc(Max(n, 1) * sizeof(int64));
	Datum *values = NULL;
	int n_values = n;

	if (!PG_ARGISNULL(arg))
		values = array_values(PG_GETARG_ARRAYTYPE_P(arg), INT8OID, &n_values);
	if (n_values != n)
		ereport(ERROR, (errcode(SN_ERRCODE("SN001")), errmsg("there are %d costs for %d calls", n_values, n)));
	for (int i = 0; i < n; i++)
		costs[i] = values ? check_cost(DatumGetInt64(values[i])) : 1;
	return costs;
}

/*
 * Makes every slot ready, one after the other, then locks their partition, which is one. False, and nothing is locked, if
 * a slot was evicted or changed in between.
 */
static bool
calls_begin(Call *calls, int n, bool look)
{
	bool ready = true;

	for (int i = 0; i < n; i++)
	{
		call_require(&calls[i], call_begin(&calls[i], look));
		call_end(&calls[i]);
	}
	sn_slot_lock(&calls[0].key);
	for (int i = 0; i < n; i++)
	{
		if (calls[i].own || calls[i].slot == &calls[i].unshared)
			continue;
		calls[i].slot = sn_slot_find(&calls[i].key);
		ready = ready && calls[i].slot != NULL && slot_current(calls[i].slot, &calls[i].key);
	}
	if (!ready)
		call_end(&calls[0]);
	for (int i = 0; ready && i < n; i++)
		slot_roll(calls[i].slot, calls[i].now);
	return ready;
}

/* Of the limits that refuse the one that does so longest; if none does, the one with the least left. */
static bool
is_tighter(const SnRateLimit *a, const SnRateLimit *b)
{
	if (a->allowed != b->allowed)
		return !a->allowed;
	return a->allowed ? a->remaining < b->remaining : a->retry_after_us > b->retry_after_us;
}

/* Decides on all; the partition is locked. Returns the tightest; *above: a cost that can never be granted, -1: none. */
static int
decide_all(Call *calls, const int64 *costs, SnRateLimit *states, int n, int *above)
{
	bool free_pass = may_bypass();
	bool all_fit = true;
	int tightest = 0;

	*above = -1;
	for (int i = 0; i < n; i++)
	{
		if (!free_pass && calls[i].slot->enabled && costs[i] > calls[i].slot->limit)
			*above = i;
		all_fit = all_fit && (free_pass || call_fits(&calls[i], costs[i]));
	}
	for (int i = 0; i < n; i++)
	{
		bool fits = free_pass || call_fits(&calls[i], costs[i]);

		if (all_fit && !free_pass)
			call_charge(&calls[i], true, costs[i]);
		else if (!fits && *above < 0)
			call_charge(&calls[i], false, costs[i]);
		call_state(&calls[i], costs[i], fits, &states[i]);
		if (*above < 0)
			sn_slot_count(calls[i].counter, free_pass ? SN_LIMIT_BYPASSED
											: all_fit ? SN_LIMIT_ALLOWED
													  : SN_LIMIT_REFUSED);
		if (is_tighter(&states[i], &states[tightest]))
			tightest = i;
	}
	return tightest;
}

static void
check_distinct(const Call *calls, int n)
{
	for (int i = 0; i < n; i++)
		for (int j = 0; j < i; j++)
			if (calls[i].limit_type_len == calls[j].limit_type_len &&
				memcmp(calls[i].limit_type, calls[j].limit_type, calls[i].limit_type_len) == 0)
				ereport(ERROR,
						(errcode(SN_ERRCODE("SN001")),
						 errmsg("limit type \"%.*s\" is named twice", calls[i].limit_type_len, calls[i].limit_type),
						 errhint("Give the sum of the costs.")));
}

/* rate_limit_check_all(tenant_id, limit_types[], costs[]) */
Datum
sn_rate_limit_check_all(PG_FUNCTION_ARGS)
{
	Call first;
	Call *calls;
	SnRateLimit states[MAX_ALL];
	int64 *costs;
	Datum *types;
	Datum values[N_COLUMNS + 1];
	bool nulls[N_COLUMNS + 1] = {false};
	TupleDesc desc;
	int n;
	int tightest;
	int above;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "rate_limit_check_all: the result is no row");
	call_tenant(&first, text_arg(fcinfo, 0, "tenant_id"));
	types = array_values(array_arg(fcinfo, 1, "limit_types"), TEXTOID, &n);
	if (n < 1 || n > MAX_ALL)
		ereport(ERROR, (errcode(SN_ERRCODE("SN001")), errmsg("%d limit types are not valid", n),
						errhint("Name 1 to %d.", MAX_ALL)));
	costs = costs_arg(fcinfo, 2, n);
	first.now = sn_now();
	calls = palloc(n * sizeof(Call));
	for (int i = 0; i < n; i++)
	{
		calls[i] = first;
		call_type(&calls[i], DatumGetTextPP(types[i]));
	}
	check_distinct(calls, n);
	if (sn_in_handler())
		taken_prepare(n);

	while (!calls_begin(calls, n, may_bypass()))
		CHECK_FOR_INTERRUPTS();
	tightest = decide_all(calls, costs, states, n, &above);
	call_end(&calls[0]);
	if (above >= 0)
		raise_above_limit(&calls[above], costs[above], &states[above]);
	values[0] = types[tightest];
	state_columns(&states[tightest], &values[1]);
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls));
}

/* ---- one limit of many tenants ---- */

/* rate_limit_check_batch(tenant_ids[], limit_type, costs[]) returns setof (n, allowed, ...) */
Datum
sn_rate_limit_check_batch(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Call call;
	Datum *tenants;
	int64 *costs;
	int n;

	tenants = array_values(array_arg(fcinfo, 0, "tenant_ids"), TEXTOID, &n);
	call_type(&call, text_arg(fcinfo, 1, "limit_type"));
	costs = costs_arg(fcinfo, 2, n);
	call.now = sn_now();
	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < n; i++)
	{
		SnRateLimit state;
		Datum values[N_COLUMNS + 1];
		bool nulls[N_COLUMNS + 1] = {false};

		call_tenant(&call, DatumGetTextPP(tenants[i]));
		decide(&call, costs[i], false, &state);
		values[0] = Int64GetDatum(i + 1);
		state_columns(&state, &values[1]);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/* ---- all tenants ---- */

static const SnLimitType *
type_of(const SnLimitType *types, int n, const SnSlot *slot)
{
	for (int i = 0; i < n; i++)
		if (types[i].id == slot->type_id && types[i].incarnation == slot->incarnation)
			return &types[i];
	return NULL;
}

/* Puts a slot of which at least that share of its limit is used up. The slot is a copy. */
static void
put_busy(ReturnSetInfo *rsinfo, const SnLimitType *type, SnSlot *slot, double share, TimestampTz now)
{
	Datum values[7];
	bool nulls[7] = {false};
	int64 granted;

	slot_roll(slot, now);
	granted = sn_window_granted(&slot->window, now);
	if (granted < share * slot->limit)
		return;
	values[0] = PointerGetDatum(cstring_to_text_with_len(slot->tenant_id, slot->tenant_len));
	values[1] = PointerGetDatum(cstring_to_text_with_len(type->name, type->len));
	values[2] = Float8GetDatum((double) granted / slot->limit);
	values[3] = Int64GetDatum(slot->limit);
	values[4] = Int64GetDatum(granted);
	values[5] = Int64GetDatum(sn_window_refused(&slot->window, now));
	values[6] = Int32GetDatum(slot->seconds);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/* rate_limit_busy(share) returns setof (tenant_id, limit_type, used, limit, granted, refused, window_seconds) */
Datum
sn_rate_limit_busy(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	SnSlot *slots = MemoryContextAllocHuge(CurrentMemoryContext, sn_slot_partition_slots() * sizeof(SnSlot));
	TimestampTz now = sn_now();
	const SnLimitType *types;
	int n_types;

	if (PG_ARGISNULL(0) || !(PG_GETARG_FLOAT8(0) > 0)) /* NaN is not either */
		ereport(ERROR, (errcode(SN_ERRCODE("SN001")), errmsg("share is not valid"),
						errhint("It is above 0; 1 is the whole limit.")));
	InitMaterializedSRF(fcinfo, 0);
	types = sn_limit_types(&n_types);
	for (int partition = 0; partition < sn_slot_partitions(); partition++)
	{
		int n = sn_slot_copy(partition, slots);

		CHECK_FOR_INTERRUPTS();
		for (int i = 0; i < n; i++)
		{
			const SnLimitType *type = type_of(types, n_types, &slots[i]);

			if (slots[i].database == MyDatabaseId && slots[i].enabled && type &&
				sn_tenant_visible(slots[i].tenant_id, slots[i].tenant_len))
				put_busy(rsinfo, type, &slots[i], PG_GETARG_FLOAT8(0), now);
		}
	}
	pfree(slots);
	return (Datum) 0;
}

/* rate_limit_slot_stats() returns (slots, used, evicted, full, full_at) */
Datum
sn_rate_limit_slot_stats(PG_FUNCTION_ARGS)
{
	TupleDesc desc;
	SnSlotStats stats;
	Datum values[5];
	bool nulls[5] = {false};

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "rate_limit_slot_stats: the result is no row");
	sn_slot_stats(&stats);
	values[0] = Int64GetDatum(stats.slots);
	values[1] = Int64GetDatum(stats.used);
	values[2] = Int64GetDatum(stats.evicted);
	values[3] = Int64GetDatum(stats.full);
	values[4] = TimestampTzGetDatum(stats.full_at);
	nulls[4] = stats.full_at == 0;
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls));
}

/* rate_limit_counts() returns setof (limit_type, allowed, refused, bypassed) */
Datum
sn_rate_limit_counts(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	const SnLimitType *types;
	int n;

	InitMaterializedSRF(fcinfo, 0);
	types = sn_limit_types(&n);
	for (int i = 0; i < n; i++)
	{
		Datum values[1 + SN_LIMIT_RESULTS];
		bool nulls[1 + SN_LIMIT_RESULTS] = {false};

		values[0] = PointerGetDatum(cstring_to_text_with_len(types[i].name, types[i].len));
		for (int result = 0; result < SN_LIMIT_RESULTS; result++)
			values[1 + result] = Int64GetDatum(sn_slot_counted(types[i].counter, result));
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}
