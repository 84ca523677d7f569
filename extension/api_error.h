/*
 * api_error.h
 *	  The hook that makes answers of errors. See api_error.c.
 */
#ifndef SENTINAI_API_ERROR_H
#define SENTINAI_API_ERROR_H

extern void sn_api_error_install(void);

#endif /* SENTINAI_API_ERROR_H */
