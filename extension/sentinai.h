/*
 * sentinai.h
 *	  What every C file of the extension includes first: the server's basics, our SQLSTATEs and schema, and how an argument is read.
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

/* A text argument; NULL: it is NULL, or not given. */
static inline char *
sn_text_arg(FunctionCallInfo fcinfo, int n)
{
	return PG_NARGS() <= n || PG_ARGISNULL(n) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(n));
}

#endif /* SENTINAI_H */
