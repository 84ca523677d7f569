/*
 * lock.h
 *	  Our own heavyweight locks of a database, by a key and a number.
 *
 * They are advisory locks of a kind that no function of SQL takes (pg_locks: locktype advisory, classid the letters "SNG"
 * and the key, objid the number, objsubid 3): with pg_advisory_lock() whoever may log in could stop the publisher, or the handling of all events.
 */
#ifndef SENTINAI_LOCK_H
#define SENTINAI_LOCK_H

#include "postgres.h"

#include "storage/lockdefs.h"

/* Keys. The number is 0 unless something is said. */
#define SN_LOCK_GENERATION 1 /* the state_number that a batch works under; shared, until its transaction ends */
#define SN_LOCK_ACTIVATION 2 /* activate(), and making partitions */
#define SN_LOCK_PUBLISHER 3	 /* of the session that is the active publisher */
#define SN_LOCK_SUSPECT 4	 /* shared by calls of consume(); exclusive: suspect.c */
#define SN_LOCK_FLUSH 5		 /* writing the counts of rate limits down */
#define SN_LOCK_EVENT 6		 /* hash of an event's tenant and id, while it is brought over HTTP */

/* Until the transaction ends. */
extern void sn_lock(uint32 key, uint32 number, LOCKMODE mode);

/* The same without waiting: false, it is not to be had. */
extern bool sn_lock_try(uint32 key, uint32 number, LOCKMODE mode);

/* Until sn_lock_session_end(), pg_advisory_unlock_all() in this session, or its end; an error of the transaction doesn't end it. */
extern void sn_lock_session(uint32 key, LOCKMODE mode);
extern bool sn_lock_session_try(uint32 key, LOCKMODE mode);
extern void sn_lock_session_end(uint32 key, LOCKMODE mode);

extern bool sn_lock_held_by_me(uint32 key, LOCKMODE mode);

#endif /* SENTINAI_LOCK_H */
