/*
 * sentinai.h
 *	  What every C file of the extension includes first: the server's basics, our SQLSTATEs, lock and schema names.
 *
 * Nothing of a subject belongs here.
 */
#ifndef SENTINAI_H
#define SENTINAI_H

#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "sentinai_errcodes.h"

#define SN_SCHEMA "sentinai"

/* For errcode(): SN_ERRCODE("SN015"). Any SQLSTATE will do, ours are listed in sentinai_errcodes.h. */
#define SN_ERRCODE(code) MAKE_SQLSTATE((code)[0], (code)[1], (code)[2], (code)[3], (code)[4])

/*
 * First keys of our two-key advisory locks. The letters "SNG" and a number: nobody else's by accident. The second key is
 * said at each. (Locks of generations are in generation.h.)
 */
#define SN_LOCK_ACTIVATION 0x534E4702 /* 0: activate(), and making partitions */
#define SN_LOCK_PUBLISHER 0x534E4703  /* 0: session lock of the active publisher */
#define SN_LOCK_SUSPECT 0x534E4704	  /* 0: shared by calls of consume(); exclusive: suspect.c */
#define SN_LOCK_FLUSH 0x534E4705	  /* 0: writing the counts of rate limits down */
#define SN_LOCK_EVENT 0x534E4706	  /* hash of an event's tenant and id, while it is brought over HTTP */

#endif /* SENTINAI_H */
