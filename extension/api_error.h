/*
 * api_error.h
 *	  The hook that makes answers of errors. See api_error.c.
 */
#ifndef SENTINAI_API_ERROR_H
#define SENTINAI_API_ERROR_H

extern void sn_api_error_install(void);

/* An error that this query throws now has the headers that it has set, and not those from before it. */
extern void sn_api_error_own_headers(void);

#endif /* SENTINAI_API_ERROR_H */
