/*
 * rate_limit_slot.h
 *	  The table of counts in shared memory: a slot for each tenant and limit type of a database that is in use.
 */
#ifndef SENTINAI_RATE_LIMIT_SLOT_H
#define SENTINAI_RATE_LIMIT_SLOT_H

#include "postgres.h"

#include "storage/lwlock.h"

#include "rate_limit_window.h"

#define SN_TENANT_LEN 64

/* What names a slot. The hash is over database and tenant, so that all limits of a tenant are behind one lock. */
typedef struct SnSlotKey
{
	Oid incarnation; /* of the extension: the oid of its table rate_limit_type, which CREATE EXTENSION makes anew */
	int32 type_id;
	const char *tenant_id; /* not terminated */
	int tenant_len;
	uint64 hash;
} SnSlotKey;

/* The configuration that a slot goes by. */
typedef struct SnSlotConfig
{
	int64 limit;
	int32 seconds;
	bool enabled;
	bool reset;		   /* since is that of a reset, not of the tenant's beginning */
	uint32 generation; /* it counts as long as sn_slot_generation() says this; 0: once */
	TimestampTz since; /* what was counted before it doesn't count */
} SnSlotConfig;

/*
 * Everything: lock of its partition. database InvalidOid: the slot is free. Fields are in the order of their use; what
 * decides fits two cache lines.
 */
typedef struct SnSlot
{
	Oid database;
	Oid incarnation;
	int32 type_id;
	uint32 hash;
	int32 next; /* in its chain, or in the list of free slots; NO_SLOT: the last */
	uint8 tenant_len;
	bool loaded;  /* the counts that the table rate_limit_usage had are in it */
	bool enabled; /* of its configuration, as the next four */
	bool reset;
	uint32 generation;
	int32 seconds;
	int64 limit;
	SnWindow window;
	TimestampTz appointment; /* the last place handed out in its queue */
	TimestampTz since;
	char tenant_id[SN_TENANT_LEN];
} SnSlot;

typedef struct SnSlotStats
{
	int64 slots;		 /* there are */
	int64 used;			 /* hold a tenant's counts */
	int64 evicted;		 /* idle ones that made room */
	int64 full;			 /* calls that found no room */
	TimestampTz full_at; /* the last of them; 0: there was none */
} SnSlotStats;

extern Size sn_slot_shmem_size(void);
extern void sn_slot_shmem_init(void);
extern void sn_slot_request_locks(void);

extern void sn_slot_key_of(SnSlotKey *key, const SnSlot *slot);
extern void sn_slot_key(SnSlotKey *key, Oid incarnation, int32 type_id, const char *tenant_id, int tenant_len);
extern uint32 sn_slot_generation(uint64 hash);
extern void sn_slot_invalidate(uint64 hash);
extern void sn_slot_invalidate_database(void);

extern bool sn_slot_is(const SnSlot *slot, const SnSlotKey *key);
extern void sn_slot_name(SnSlot *slot, const SnSlotKey *key);

/* Between lock and unlock nothing may raise. */
extern void sn_slot_lock(const SnSlotKey *key);
extern void sn_slot_unlock(const SnSlotKey *key);
extern SnSlot *sn_slot_find(const SnSlotKey *key);
extern SnSlot *sn_slot_make(const SnSlotKey *key, TimestampTz now);
extern void sn_slot_free(const SnSlotKey *key, SnSlot *slot);
extern void sn_slot_changed(const SnSlotKey *key, const SnSlot *slot);

/* How calls of a limit type ended, since the server started. */
typedef enum SnLimitResult
{
	SN_LIMIT_ALLOWED,
	SN_LIMIT_REFUSED,
	SN_LIMIT_BYPASSED,
	SN_LIMIT_RESULTS
} SnLimitResult;

extern int sn_slot_counter(Oid incarnation, int32 type_id);
extern void sn_slot_count(int counter, SnLimitResult result);
extern int64 sn_slot_counted(int counter, SnLimitResult result);

/*
 * All slots, a partition at a time: those of this call are copied out. Of the first function, what is to be written down
 * of this database; it is taken as written, and slots of another incarnation are freed.
 */
extern int sn_slot_partitions(void);
extern int sn_slot_partition_slots(void);
extern int sn_slot_take_dirty(int partition, Oid incarnation, SnSlot *out);
extern int sn_slot_copy(int partition, SnSlot *out);
extern bool sn_slot_restore(const SnSlot *saved);

extern void sn_slot_forget_database(Oid database);
extern void sn_slot_stats(SnSlotStats *stats);

#endif /* SENTINAI_RATE_LIMIT_SLOT_H */
