/*
 * activation.h
 *	  A database is quiet until something of ours is used in it for the first time.
 */
#ifndef SENTINAI_ACTIVATION_H
#define SENTINAI_ACTIVATION_H

/*
 * Makes this database active: its row, the partitions of today and tomorrow, the first generation, in this transaction;
 * the launcher hears of it after the commit. Mends partitions that are missing. Costs a syscache lookup once all that has
 * been seen to in this backend. Raises 25006 on a standby.
 */
extern void sn_activate(void);

extern void sn_activation_install(void);

#endif /* SENTINAI_ACTIVATION_H */
