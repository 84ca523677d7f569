/*
 * rate_limit_slot.c
 *	  The table of counts in shared memory.
 *
 * It is cut into partitions, each with its lock, its chains, its slots and a clock hand. A tenant's slots are all in one
 * partition, found by a hash over database and tenant. No lock is ever held over two partitions, and nothing is done
 * to the whole table but by the maintenance worker and by DROP DATABASE, a partition at a time. A partition without a
 * free slot lets its hand pass over a bounded number of slots, and takes the first whose counts can't matter any more.
 *
 * Memory that no slot has used yet is never touched: it costs address space, and pages only once they are needed. That
 * is why an empty chain and an empty list are 0, as fresh shared memory is.
 *
 * Whether a slot's configuration still counts is told by its generation. Generations are counters that stand outside of
 * the partitions, one for each of the hashes of databases and of tenants: whoever has changed a configuration raises one
 * after his commit and need not know which slots that concerns. Whoever reads a configuration notes the generation
 * first, so that a change in between makes what he read old at once.
 */
#include "sentinai.h"

#include "access/xlog.h"
#include "common/hashfn.h"
#include "port/atomics.h"
#include "port/pg_bitutils.h"
#include "storage/lwlock.h"
#include "storage/s_lock.h"
#include "storage/shmem.h"

#include "guc.h"
#include "rate_limit_save.h"
#include "rate_limit_slot.h"

#define PARTITIONS 128
#define TRANCHE "sentinai rate limits"

/* How many slots the hand looks at for one call. */
#define HAND_STEPS 32

/* How often a partition's lock is tried before its holder is waited for asleep. */
#define LOCK_SPINS 20

#define DATABASE_GENERATIONS 64
#define TENANT_GENERATIONS 4096

#define NO_SLOT 0 /* links are indexes plus one */

/* Everything: the partition's lock. */
typedef struct Partition
{
	int32 free;	 /* first of the slots that were freed */
	int32 fresh; /* number of slots that have ever been used */
	int32 hand;
	int32 used;
	uint64 evicted;
	uint64 full;
	TimestampTz full_at;
	char pad[24]; /* a cache line each */
} Partition;

/* More types than this in the active databases share the last one's counter. */
#define COUNTERS 256

/* Processes count in one of so many places, so that they don't take a cache line from each other at every call. */
#define STRIPES 16

/* A limit type of a database: the lock of counters. */
typedef struct Counter
{
	Oid database; /* InvalidOid: free */
	Oid incarnation;
	int32 type_id;
} Counter;

typedef struct Results
{
	pg_atomic_uint64 n[SN_LIMIT_RESULTS];
	char pad[8];
} Results;

typedef struct Table
{
	pg_atomic_uint32 database_generation[DATABASE_GENERATIONS];
	pg_atomic_uint32 tenant_generation[TENANT_GENERATIONS];
	Partition partitions[PARTITIONS];
	Results results[STRIPES][COUNTERS];
	Counter counters[COUNTERS];
} Table;

StaticAssertDecl(sizeof(Partition) == 64, "a partition is a cache line");
StaticAssertDecl(sizeof(Results) * COUNTERS % 64 == 0, "a stripe is whole cache lines");
StaticAssertDecl(sizeof(SnSlot) == 168, "docs/rate-limits.md tells the size of a slot");

static Table *table;
static int32 *chains; /* n_chains of each partition */
static uint64 *dirty; /* n_words of each partition: a bit for each slot that was not written down yet */
static SnSlot *slots; /* n_slots of each partition */
static LWLockPadded *locks;
static int n_slots;
static uint32 n_chains; /* a power of 2 */
static int n_words;

static void
count_table(void)
{
	n_slots = (sn_rate_limit_slots + PARTITIONS - 1) / PARTITIONS;
	n_chains = pg_nextpower2_32(n_slots);
	n_words = (n_slots + 63) / 64;
}

static Size
chains_size(void)
{
	return mul_size(mul_size(PARTITIONS, n_chains), sizeof(int32));
}

static Size
dirty_size(void)
{
	return mul_size(mul_size(PARTITIONS, n_words), sizeof(uint64));
}

Size
sn_slot_shmem_size(void)
{
	Size size = CACHELINEALIGN(sizeof(Table));

	count_table();
	size = add_size(size, CACHELINEALIGN(chains_size()));
	size = add_size(size, CACHELINEALIGN(dirty_size()));
	return add_size(size, mul_size(mul_size(PARTITIONS, n_slots), sizeof(SnSlot)));
}

void
sn_slot_request_locks(void)
{
	RequestNamedLWLockTranche(TRANCHE, PARTITIONS + 1);
}

static void
table_init(void)
{
	for (int i = 0; i < DATABASE_GENERATIONS; i++)
		pg_atomic_init_u32(&table->database_generation[i], 0);
	for (int i = 0; i < TENANT_GENERATIONS; i++)
		pg_atomic_init_u32(&table->tenant_generation[i], 0);
	for (int stripe = 0; stripe < STRIPES; stripe++)
		for (int i = 0; i < COUNTERS; i++)
			for (int result = 0; result < SN_LIMIT_RESULTS; result++)
				pg_atomic_init_u64(&table->results[stripe][i].n[result], 0);
}

/* Shared memory comes zeroed: an empty table. */
void
sn_slot_shmem_init(void)
{
	bool found;
	char *place;

	place = ShmemInitStruct("sentinai rate limits", sn_slot_shmem_size(), &found);
	table = (Table *) place;
	place += CACHELINEALIGN(sizeof(Table));
	chains = (int32 *) place;
	place += CACHELINEALIGN(chains_size());
	dirty = (uint64 *) place;
	place += CACHELINEALIGN(dirty_size());
	slots = (SnSlot *) place;
	locks = GetNamedLWLockTranche(TRANCHE);
	if (!found)
		table_init();
	if (!found && !IsUnderPostmaster)
		sn_limit_save_install();
}

/* ---- names ---- */

static uint64
hash_tenant(Oid database, const char *tenant_id, int len)
{
	return hash_bytes_extended((const unsigned char *) tenant_id, len, database);
}

void
sn_slot_key(SnSlotKey *key, Oid incarnation, int32 type_id, const char *tenant_id, int tenant_len)
{
	key->incarnation = incarnation;
	key->type_id = type_id;
	key->tenant_id = tenant_id;
	key->tenant_len = tenant_len;
	key->hash = hash_tenant(MyDatabaseId, tenant_id, tenant_len);
}

/* The name of a slot, or of a copy of one, as long as that stays. */
void
sn_slot_key_of(SnSlotKey *key, const SnSlot *slot)
{
	sn_slot_key(key, slot->incarnation, slot->type_id, slot->tenant_id, slot->tenant_len);
	key->hash = hash_tenant(slot->database, slot->tenant_id, slot->tenant_len);
}

static int
partition_of(const SnSlotKey *key)
{
	return key->hash % PARTITIONS;
}

static uint32
slot_hash(const SnSlotKey *key)
{
	return (uint32) (key->hash >> 32) ^ murmurhash32(key->type_id);
}

static int32 *
chain_of(int partition, uint32 hash)
{
	return &chains[(Size) partition * n_chains + (hash & (n_chains - 1))];
}

static SnSlot *
slot_at(int partition, int32 link)
{
	return &slots[(Size) partition * n_slots + link - 1];
}

static int32
link_of(int partition, const SnSlot *slot)
{
	return slot - slot_at(partition, 1) + 1;
}

/* ---- generations ---- */

static pg_atomic_uint32 *
tenant_generation(uint64 hash)
{
	return &table->tenant_generation[(hash / PARTITIONS) % TENANT_GENERATIONS];
}

static pg_atomic_uint32 *
database_generation(void)
{
	return &table->database_generation[murmurhash32(MyDatabaseId) % DATABASE_GENERATIONS];
}

/*
 * What a configuration that is read from now on is stamped with; never 0. Nobody tells a standby of changes: there it is
 * the second, so that each slot reads its configuration again once a second.
 */
uint32
sn_slot_generation(uint64 hash)
{
	if (RecoveryInProgress())
		return PG_UINT32_MAX / 2 + GetCurrentTimestamp() / USECS_PER_SEC;
	return 1 + pg_atomic_read_u32(database_generation()) + pg_atomic_read_u32(tenant_generation(hash));
}

/* The configuration of tenants with this hash has changed. */
void
sn_slot_invalidate(uint64 hash)
{
	pg_atomic_fetch_add_u32(tenant_generation(hash), 1);
}

/* Any configuration of this database may have changed. */
void
sn_slot_invalidate_database(void)
{
	pg_atomic_fetch_add_u32(database_generation(), 1);
}

/* ---- finding, making and freeing a slot ---- */

void
sn_slot_lock(const SnSlotKey *key)
{
	LWLock *lock = &locks[partition_of(key)].lock;

	/* It is held for less than it takes to go to sleep. */
	for (int i = 0; i < LOCK_SPINS; i++)
	{
		if (LWLockConditionalAcquire(lock, LW_EXCLUSIVE))
			return;
		SPIN_DELAY();
	}
	LWLockAcquire(lock, LW_EXCLUSIVE);
}

void
sn_slot_unlock(const SnSlotKey *key)
{
	LWLockRelease(&locks[partition_of(key)].lock);
}

bool
sn_slot_is(const SnSlot *slot, const SnSlotKey *key)
{
	return slot->type_id == key->type_id && slot->database == MyDatabaseId && slot->incarnation == key->incarnation &&
		   slot->tenant_len == key->tenant_len && memcmp(slot->tenant_id, key->tenant_id, key->tenant_len) == 0;
}

/* Gives a zeroed slot its name. */
void
sn_slot_name(SnSlot *slot, const SnSlotKey *key)
{
	slot->database = MyDatabaseId;
	slot->incarnation = key->incarnation;
	slot->type_id = key->type_id;
	slot->hash = slot_hash(key);
	slot->tenant_len = key->tenant_len;
	memcpy(slot->tenant_id, key->tenant_id, key->tenant_len);
}

SnSlot *
sn_slot_find(const SnSlotKey *key)
{
	int partition = partition_of(key);
	uint32 hash = slot_hash(key);
	int32 link = *chain_of(partition, hash);

	while (link != NO_SLOT)
	{
		SnSlot *slot = slot_at(partition, link);

		if (slot->hash == hash && sn_slot_is(slot, key))
			return slot;
		link = slot->next;
	}
	return NULL;
}

static void
mark(int partition, const SnSlot *slot, bool is_dirty)
{
	int32 i = link_of(partition, slot) - 1;
	uint64 *word = &dirty[(Size) partition * n_words + i / 64];
	uint64 bit = UINT64CONST(1) << (i % 64);

	/* Mostly it is so already, and a cache line that isn't written stays with every core. */
	if (((*word & bit) != 0) != is_dirty)
		*word ^= bit;
}

static void
slot_release(int partition, SnSlot *slot)
{
	int32 *place = chain_of(partition, slot->hash);
	int32 link = link_of(partition, slot);

	while (*place != link)
		place = &slot_at(partition, *place)->next;
	*place = slot->next;
	mark(partition, slot, false);
	slot->database = InvalidOid;
	slot->next = table->partitions[partition].free;
	table->partitions[partition].free = link;
	table->partitions[partition].used--;
}

/* What it has counted can't matter, nor the places that it has handed out. */
static bool
slot_idle(const SnSlot *slot, TimestampTz now)
{
	return !slot->enabled || (sn_window_idle(&slot->window, now) && slot->appointment <= now);
}

/* Lets the hand look for an idle slot; NO_SLOT: it found none. */
static int32
evict(int partition, TimestampTz now)
{
	Partition *p = &table->partitions[partition];

	for (int step = 0; step < Min(HAND_STEPS, n_slots); step++)
	{
		SnSlot *slot = slot_at(partition, p->hand + 1);

		p->hand = (p->hand + 1) % n_slots;
		if (!slot_idle(slot, now))
			continue;
		slot_release(partition, slot);
		p->evicted++;
		return p->free;
	}
	return NO_SLOT;
}

static int32
take_free(int partition, TimestampTz now)
{
	Partition *p = &table->partitions[partition];
	int32 link = p->free;

	if (link == NO_SLOT && p->fresh < n_slots)
		return ++p->fresh;
	if (link == NO_SLOT)
		link = evict(partition, now);
	if (link != NO_SLOT)
		p->free = slot_at(partition, link)->next;
	return link;
}

/* A new slot that has counted nothing; NULL: there is no room. */
SnSlot *
sn_slot_make(const SnSlotKey *key, TimestampTz now)
{
	int partition = partition_of(key);
	int32 *chain = chain_of(partition, slot_hash(key));
	int32 link = take_free(partition, now);
	SnSlot *slot;

	if (link == NO_SLOT)
	{
		table->partitions[partition].full++;
		table->partitions[partition].full_at = GetCurrentTimestamp();
		return NULL;
	}
	slot = slot_at(partition, link);
	memset(slot, 0, sizeof(SnSlot));
	sn_slot_name(slot, key);
	slot->next = *chain;
	*chain = link;
	table->partitions[partition].used++;
	return slot;
}

void
sn_slot_free(const SnSlotKey *key, SnSlot *slot)
{
	slot_release(partition_of(key), slot);
}

/* The slot is to be written down. */
void
sn_slot_changed(const SnSlotKey *key, const SnSlot *slot)
{
	mark(partition_of(key), slot, true);
}

/* ---- counting calls ---- */

/* Where calls of a limit type of this database are counted. */
int
sn_slot_counter(Oid incarnation, int32 type_id)
{
	LWLock *lock = &locks[PARTITIONS].lock;
	int found = COUNTERS - 1;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	for (int i = COUNTERS - 2; i >= 0; i--)
	{
		Counter *c = &table->counters[i];

		if (!OidIsValid(c->database))
			found = i;
		if (c->database != MyDatabaseId || c->incarnation != incarnation || c->type_id != type_id)
			continue;
		LWLockRelease(lock);
		return i;
	}
	table->counters[found].database = MyDatabaseId;
	table->counters[found].incarnation = incarnation;
	table->counters[found].type_id = type_id;
	LWLockRelease(lock);
	return found;
}

void
sn_slot_count(int counter, SnLimitResult result)
{
	pg_atomic_fetch_add_u64(&table->results[MyProcPid % STRIPES][counter].n[result], 1);
}

int64
sn_slot_counted(int counter, SnLimitResult result)
{
	int64 n = 0;

	for (int stripe = 0; stripe < STRIPES; stripe++)
		n += pg_atomic_read_u64(&table->results[stripe][counter].n[result]);
	return n;
}

static void
results_forget(int counter)
{
	for (int stripe = 0; stripe < STRIPES; stripe++)
		for (int result = 0; result < SN_LIMIT_RESULTS; result++)
			pg_atomic_write_u64(&table->results[stripe][counter].n[result], 0);
}

static void
counters_forget(Oid database)
{
	LWLock *lock = &locks[PARTITIONS].lock;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	for (int i = 0; i < COUNTERS; i++)
	{
		Counter *c = &table->counters[i];

		if (c->database != database)
			continue;
		c->database = InvalidOid;
		results_forget(i);
	}
	LWLockRelease(lock);
}

/* ---- all of them ---- */

int
sn_slot_partitions(void)
{
	return PARTITIONS;
}

int
sn_slot_partition_slots(void)
{
	return n_slots;
}

/* Copies what is to be written down to out, which has room for all slots of a partition. */
int
sn_slot_take_dirty(int partition, Oid incarnation, SnSlot *out)
{
	uint64 *words = &dirty[(Size) partition * n_words];
	int n = 0;

	LWLockAcquire(&locks[partition].lock, LW_EXCLUSIVE);
	for (int w = 0; w < n_words; w++)
		for (uint64 bits = words[w]; bits != 0; bits &= bits - 1)
		{
			SnSlot *slot = slot_at(partition, w * 64 + pg_rightmost_one_pos64(bits) + 1);

			/* What a standby has counted waits until the counts that the table has are in it: it would take their place. */
			if (slot->database != MyDatabaseId || !slot->loaded)
				continue;
			if (slot->incarnation == incarnation)
				out[n++] = *slot;
			mark(partition, slot, false);
		}
	LWLockRelease(&locks[partition].lock);
	return n;
}

/* Copies all slots that are in use. */
int
sn_slot_copy(int partition, SnSlot *out)
{
	int n = 0;

	LWLockAcquire(&locks[partition].lock, LW_SHARED);
	for (int32 link = 1; link <= table->partitions[partition].fresh; link++)
		if (OidIsValid(slot_at(partition, link)->database))
			out[n++] = *slot_at(partition, link);
	LWLockRelease(&locks[partition].lock);
	return n;
}

/* Puts back a slot that was saved, at start, when nobody else is there. False: there is no room. */
bool
sn_slot_restore(const SnSlot *saved)
{
	SnSlotKey key;
	int partition;
	int32 *chain;
	SnSlot *slot;

	sn_slot_key_of(&key, saved);
	partition = partition_of(&key);
	if (table->partitions[partition].fresh == n_slots)
		return false;
	slot = slot_at(partition, ++table->partitions[partition].fresh);
	*slot = *saved;
	slot->hash = slot_hash(&key);
	slot->generation = 0;
	chain = chain_of(partition, slot->hash);
	slot->next = *chain;
	*chain = link_of(partition, slot);
	table->partitions[partition].used++;
	mark(partition, slot, true);
	return true;
}

/* The database is gone, and with it its slots. */
void
sn_slot_forget_database(Oid database)
{
	for (int partition = 0; partition < PARTITIONS; partition++)
	{
		LWLockAcquire(&locks[partition].lock, LW_EXCLUSIVE);
		for (int32 link = 1; link <= table->partitions[partition].fresh; link++)
			if (slot_at(partition, link)->database == database)
				slot_release(partition, slot_at(partition, link));
		LWLockRelease(&locks[partition].lock);
	}
	counters_forget(database);
}

void
sn_slot_stats(SnSlotStats *stats)
{
	memset(stats, 0, sizeof(*stats));
	stats->slots = (int64) PARTITIONS * n_slots;
	for (int partition = 0; partition < PARTITIONS; partition++)
	{
		Partition *p = &table->partitions[partition];

		LWLockAcquire(&locks[partition].lock, LW_SHARED);
		stats->used += p->used;
		stats->evicted += p->evicted;
		stats->full += p->full;
		stats->full_at = Max(stats->full_at, p->full_at);
		LWLockRelease(&locks[partition].lock);
	}
}
