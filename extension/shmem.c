/*
 * shmem.c
 *	  Asks for the extension's shared memory and makes it ready. What is in it, and who guards it, is in shmem.h.
 */
#include "sentinai.h"

#include "storage/ipc.h"
#include "storage/proc.h"
#include "storage/shmem.h"

#include "circuit.h"
#include "metrics.h"
#include "rate_limit_slot.h"
#include "shmem.h"
#include "usage_count.h"

SnShared *sn_shared;

static shmem_request_hook_type previous_request_hook;
static shmem_startup_hook_type previous_startup_hook;

static Size
shared_size(void)
{
	return add_size(offsetof(SnShared, slots), mul_size(MaxBackends, sizeof(SnBackendSlot)));
}

static void
shmem_request(void)
{
	if (previous_request_hook)
		previous_request_hook();

	RequestAddinShmemSpace(shared_size());
	RequestAddinShmemSpace(sn_metrics_shmem_size());
	RequestAddinShmemSpace(sn_circuit_shmem_size());
	RequestAddinShmemSpace(sn_slot_shmem_size());
	RequestAddinShmemSpace(sn_usage_shmem_size());
	RequestNamedLWLockTranche("sentinai", 4);
	sn_slot_request_locks();
}

static void
shared_init(SnShared *shared)
{
	LWLockPadded *locks = GetNamedLWLockTranche("sentinai");

	memset(shared, 0, shared_size());
	shared->launcher_lock = &locks[0].lock;
	shared->metric_lock = &locks[1].lock;
	ConditionVariableInit(&shared->outbox_cv);
	pg_atomic_init_u64(&shared->metrics_dropped, 0);
	shared->n_slots = MaxBackends;
	for (int i = 0; i < shared->n_slots; i++)
	{
		pg_atomic_init_u64(&shared->slots[i].emit, SN_EMIT_NONE);
		pg_atomic_init_u32(&shared->slots[i].processing, 0);
	}
}

static void
shmem_startup(void)
{
	bool found;

	if (previous_startup_hook)
		previous_startup_hook();

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	sn_shared = ShmemInitStruct("sentinai", shared_size(), &found);
	if (!found)
		shared_init(sn_shared);
	sn_metrics_shmem_init();
	sn_circuit_shmem_init(&GetNamedLWLockTranche("sentinai")[2].lock);
	sn_slot_shmem_init();
	sn_usage_shmem_init(&GetNamedLWLockTranche("sentinai")[3].lock);
	LWLockRelease(AddinShmemInitLock);
}

void
sn_shmem_install(void)
{
	previous_request_hook = shmem_request_hook;
	shmem_request_hook = shmem_request;
	previous_startup_hook = shmem_startup_hook;
	shmem_startup_hook = shmem_startup;
}

/* This backend's slot, with its database and pid in it. */
SnBackendSlot *
sn_my_slot(void)
{
	SnBackendSlot *slot;

	Assert(SN_MY_PROC_NUMBER >= 0 && SN_MY_PROC_NUMBER < sn_shared->n_slots);
	slot = &sn_shared->slots[SN_MY_PROC_NUMBER];
	if (slot->pid != MyProcPid || slot->database != MyDatabaseId)
	{
		slot->pid = MyProcPid;
		slot->database = MyDatabaseId;
		pg_memory_barrier();
	}
	return slot;
}
