/*
 * api.h
 *	  What the functions of sentinai_api that are C share. See api.c.
 */
#ifndef SENTINAI_API_H
#define SENTINAI_API_H

#include "postgres.h"

/* Error SN001: an argument is not what it must be. value is JSON; NULL: it is missing. */
SN_NORETURN extern void sn_api_wrong(const char *name, const char *value, const char *must);

#endif /* SENTINAI_API_H */
