/*
 * crash.c
 *	  A function that ends its backend as a bug in a C library would, for test/t/150_suspect.pl and nothing else.
 */
#include "postgres.h"

#include "fmgr.h"

#include <signal.h>
#include <unistd.h>

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(crash);

Datum
crash(PG_FUNCTION_ARGS)
{
	kill(getpid(), SIGKILL);
	PG_RETURN_VOID();
}
