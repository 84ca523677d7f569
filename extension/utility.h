/*
 * utility.h
 *	  The hook on utility commands.
 */
#ifndef SENTINAI_UTILITY_H
#define SENTINAI_UTILITY_H

extern void sn_utility_install(void);

#endif /* SENTINAI_UTILITY_H */
