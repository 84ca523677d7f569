/*
 * lock.c
 *	  Our own locks. See lock.h.
 */
#include "sentinai.h"

#include "miscadmin.h"
#include "storage/lock.h"

#include "lock.h"

PG_FUNCTION_INFO_V1(sn_lock_take);

/* 1 and 2 are those of pg_advisory_lock(), with one key and with two. Other extensions may have this one: "SNG" says whose. */
#define LOCK_KIND 3
#define LOCK_LETTERS 0x534E4700

static void
set_tag(LOCKTAG *tag, uint32 key, uint32 number)
{
	SET_LOCKTAG_ADVISORY(*tag, MyDatabaseId, LOCK_LETTERS | key, number, LOCK_KIND);
}

static bool
acquire(uint32 key, uint32 number, LOCKMODE mode, bool session, bool try)
{
	LOCKTAG tag;

	set_tag(&tag, key, number);
	return LockAcquire(&tag, mode, session, try) != LOCKACQUIRE_NOT_AVAIL;
}

void
sn_lock(uint32 key, uint32 number, LOCKMODE mode)
{
	acquire(key, number, mode, false, false);
}

bool
sn_lock_try(uint32 key, uint32 number, LOCKMODE mode)
{
	return acquire(key, number, mode, false, true);
}

void
sn_lock_session(uint32 key, LOCKMODE mode)
{
	acquire(key, 0, mode, true, false);
}

bool
sn_lock_session_try(uint32 key, LOCKMODE mode)
{
	return acquire(key, 0, mode, true, true);
}

void
sn_lock_session_end(uint32 key, LOCKMODE mode)
{
	LOCKTAG tag;

	set_tag(&tag, key, 0);
	LockRelease(&tag, mode, true);
}

bool
sn_lock_held_by_me(uint32 key, LOCKMODE mode)
{
	LOCKTAG tag;

	set_tag(&tag, key, 0);
	return SN_LOCK_HELD_BY_ME(&tag, mode);
}

/* lock_take(key integer, number integer, shared boolean, session boolean) */
Datum
sn_lock_take(PG_FUNCTION_ARGS)
{
	acquire(PG_GETARG_INT32(0), PG_GETARG_INT32(1), PG_GETARG_BOOL(2) ? ShareLock : ExclusiveLock, PG_GETARG_BOOL(3),
			false);
	PG_RETURN_VOID();
}
