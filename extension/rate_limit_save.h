/*
 * rate_limit_save.h
 *	  The counts of shared memory written down.
 */
#ifndef SENTINAI_RATE_LIMIT_SAVE_H
#define SENTINAI_RATE_LIMIT_SAVE_H

/* In the postmaster, at start: loads what the last clean shutdown has saved, and sees to the next one. */
extern void sn_limit_save_install(void);

extern void sn_limit_flush_install(void);

#endif /* SENTINAI_RATE_LIMIT_SAVE_H */
