/*
 * tenant_scope.h
 *	  Handlers with scope = tenant: what holds while one runs, and what must not go from one tenant's call to the next.
 */
#ifndef SN_TENANT_SCOPE_H
#define SN_TENANT_SCOPE_H

#include "postgres.h"

/* Before the first handler of a batch whose worker type has such handlers: cursors that are open now are the session's. */
extern void sn_tenant_scope_begin(void);

/* Around each call of such a handler, and around the triggers that it has deferred. */
extern void sn_tenant_scope_enter(const char *tenant_id);
extern void sn_tenant_scope_leave(void);

/* After an error: whatever of this was on is off. The tenant itself is let go by the subtransaction's rollback. */
extern void sn_tenant_scope_abort(void);

/* Between calls for different tenants, and between such handlers and others. */
extern void sn_tenant_scope_close_cursors(void);

/* Raises where row security would not hold the role back. */
extern void sn_tenant_scope_check_role(Oid role);

#endif /* SN_TENANT_SCOPE_H */
