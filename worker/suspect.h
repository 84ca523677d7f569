/*
 * suspect.h
 *	  Suspect mode: which of a partition's events breaks the connection. Thread: processor.
 */
#ifndef WORKER_SUSPECT_H
#define WORKER_SUSPECT_H

#include <stdbool.h>

struct Processor;

/* Whether calls with the one partition that was taken have broken the connection twice at the same place. */
extern bool suspect_wanted(const struct Processor *p);

/* Goes through what the partition has, one event a call, as far as the database lets it. */
extern void suspect_search(struct Processor *p);

#endif /* WORKER_SUSPECT_H */
