/*
 * launcher.h
 *	  The list of active databases, seen from outside of the launcher.
 */
#ifndef SENTINAI_LAUNCHER_H
#define SENTINAI_LAUNCHER_H

#include "postgres.h"

#include "shmem.h"

extern void sn_launcher_register(void);

/* Names a database to the launcher. Safe in a commit callback: raises nothing. */
extern void sn_launcher_name(Oid database);

/* Stops the maintenance worker of a database and keeps it away until sn_launcher_release(). */
extern void sn_launcher_hold(Oid database);
extern void sn_launcher_release(Oid database, bool dropped);

/* Caller holds launcher_lock; NULL: not on the list. */
extern SnDatabase *sn_launcher_find(Oid database);

extern PGDLLEXPORT void sn_launcher_main(Datum arg);

#endif /* SENTINAI_LAUNCHER_H */
