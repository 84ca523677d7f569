/*
 * emit.h
 *	  What handlers may call, as handle.c sees it: a frame around each run of a slice.
 */
#ifndef SN_EMIT_H
#define SN_EMIT_H

#include "consume.h"

extern void sn_emit_begin(SnBatch *batch, SnWork **works, int n);
extern void sn_emit_give(SnWork **works, int n, bool given);
/* A handler is running. */
extern bool sn_in_handler(void);
extern bool sn_emit_any_failed(SnWork **works, int n);
extern void sn_emit_end(void);
extern void sn_emit_add(SnBatch *batch, SnWork *parent, const char *event_type, Datum payload, const char *exception_id,
						const char *topic, const char *id_scope, int ordinal);
extern void sn_emit_add_as(SnBatch *batch, SnWork *parent, const char *event_id, const char *event_type, Datum payload,
						   const char *exception_id, const char *topic);
extern void sn_emit_init(void);

#endif /* SN_EMIT_H */
