/*
 * compat.h
 *	  The differences between PostgreSQL 15 and 18. The only file that looks at PG_VERSION_NUM.
 */
#ifndef SENTINAI_COMPAT_H
#define SENTINAI_COMPAT_H

#include "postgres.h"

#if PG_VERSION_NUM < 150000 || PG_VERSION_NUM >= 190000
#error "sentinai is for PostgreSQL 15 to 18"
#endif

/* 16 took it out of postgres.h. */
#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif

/* Number of a backend's PGPROC: below MaxBackends for whoever can have a transaction. */
#if PG_VERSION_NUM >= 170000
#define SN_MY_PROC_NUMBER ((int) MyProcNumber)
#else
#define SN_MY_PROC_NUMBER (MyProc->pgprocno)
#endif

/* A function that doesn't come back, in front of its return type. */
#if PG_VERSION_NUM >= 180000
#define SN_NORETURN pg_noreturn
#else
#define SN_NORETURN pg_attribute_noreturn()
#endif

/* The last argument of LockHeldByMe came with 17. */
#if PG_VERSION_NUM >= 170000
#define SN_LOCK_HELD_BY_ME(tag, mode) LockHeldByMe((tag), (mode), false)
#else
#define SN_LOCK_HELD_BY_ME(tag, mode) LockHeldByMe((tag), (mode))
#endif

/* pg_database_ownercheck() became one of a family in 16. */
#if PG_VERSION_NUM >= 160000
#define SN_DATABASE_OWNERCHECK(oid) object_ownercheck(DatabaseRelationId, (oid), GetUserId())
#else
#define SN_DATABASE_OWNERCHECK(oid) pg_database_ownercheck((oid), GetUserId())
#endif

/* pg_proc_aclcheck() too. */
#if PG_VERSION_NUM >= 160000
#define SN_PROC_ACLCHECK(oid, role) object_aclcheck(ProcedureRelationId, (oid), (role), ACL_EXECUTE)
#else
#define SN_PROC_ACLCHECK(oid, role) pg_proc_aclcheck((oid), (role), ACL_EXECUTE)
#endif

/* 18 hands counters for EXPLAIN to a scan, asks for deferrable keys by name, and sorts by direction, not by strategy. */
#if PG_VERSION_NUM >= 180000
#define SN_INDEX_BEGINSCAN(rel, index, snapshot, n_keys) index_beginscan((rel), (index), (snapshot), NULL, (n_keys), 0)
#define SN_PRIMARY_KEY_INDEX(rel) RelationGetPrimaryKeyIndex((rel), false)
#define SN_SORT_BY_INDEX(index, descending, key) PrepareSortSupportFromIndexRel((index), (descending), (key))
#else
#define SN_INDEX_BEGINSCAN(rel, index, snapshot, n_keys) index_beginscan((rel), (index), (snapshot), (n_keys), 0)
#define SN_PRIMARY_KEY_INDEX(rel) RelationGetPrimaryKeyIndex(rel)
#define SN_SORT_BY_INDEX(index, descending, key) \
	PrepareSortSupportFromIndexRel((index), (descending) ? BTGreaterStrategyNumber : BTLessStrategyNumber, (key))
#endif

/* The memory of a setting is of a kind of its own since 16. */
#if PG_VERSION_NUM >= 160000
#define SN_GUC_MALLOC(size) guc_malloc(LOG, (size))
#else
#define SN_GUC_MALLOC(size) malloc(size)
#endif

/* The last argument of ExecutorRun() went with 18. */
#if PG_VERSION_NUM >= 180000
#define SN_EXECUTE_ONCE_DECLARED
#define SN_EXECUTE_ONCE
#else
#define SN_EXECUTE_ONCE_DECLARED , bool execute_once
#define SN_EXECUTE_ONCE , execute_once
#endif

/* nextval_internal() and the data of a sequence. */
#define SN_NEXTVAL(relid) nextval_internal((relid), false)

#endif /* SENTINAI_COMPAT_H */
