/*
 * maintenance.h
 *	  The background worker of an active database; its argument is the database's oid.
 */
#ifndef SENTINAI_MAINTENANCE_H
#define SENTINAI_MAINTENANCE_H

#include "postgres.h"

extern PGDLLEXPORT void sn_maintenance_main(Datum database);

#endif /* SENTINAI_MAINTENANCE_H */
