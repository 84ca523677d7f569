/*
 * suspect.h
 *	  Suspect mode as the steps of consume() see it: see suspect.c.
 */
#ifndef SN_SUSPECT_H
#define SN_SUSPECT_H

#include "consume.h"

/* At the start of a call: false while another session searches, and nothing may be handled. */
extern bool sn_suspect_admit(void);

/* Whether this session searches: it takes one event a call, whatever its tenant's rate. */
extern bool sn_suspect_is_searching(void);

/* After due work was added: while this session searches, leaves the one event that is marked, or nothing. */
extern void sn_suspect_select(SnBatch *batch);

/* Before handle: an event that has killed the server too often becomes a dead letter. */
extern void sn_suspect_convict(SnBatch *batch);

/* After settle: the call has come this far, so its event's mark goes. */
extern void sn_suspect_settle(SnBatch *batch);

/* The session's advisory locks have been undone: takes its own back. */
extern void sn_suspect_keep(void);

#endif /* SN_SUSPECT_H */
