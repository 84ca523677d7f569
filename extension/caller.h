/*
 * caller.h
 *	  Who asks, for which tenant, and what may be answered. See caller.c.
 */
#ifndef SENTINAI_CALLER_H
#define SENTINAI_CALLER_H

#include "postgres.h"

#include "utils/guc.h"

/* The longest tenant_id; 05_tenant.sql says which characters it has. */
#define SN_TENANT_MAX 64

/* The role that asks, outside of SECURITY DEFINER functions and handlers. */
extern Oid sn_caller_role(void);

/* Whether the session is the authenticator's: one of PostgREST. */
extern bool sn_caller_is_authenticator(void);

/* Error 42501 where a token's sub is none that a history could have. */
extern void sn_caller_require_subject(void);

/* Who was authenticated, by the server or by the authenticator's token. In the current context. */
extern char *sn_caller_identity(void);

/* The tenant that the caller is bound to, NULL: none. Valid until the next call. */
extern const char *sn_current_tenant(void);

extern bool sn_caller_sees_all(void);

/*
 * Whether who is logged in is held to no tenant, or writes no SQL of its own (PostgREST's clients): nothing in this session was
 * prepared to mislead what runs in it with other rights.
 */
extern bool sn_caller_session_is_trusted(void);

/* Whether figures may be shown by tenant: to one who sees all, or may choose any. */
extern bool sn_caller_names_tenants(void);

/* The tenant itself, the caller's own for NULL (NULL where the caller sees all and has none), or error 42501. */
extern const char *sn_tenant_check(const char *tenant_id);

/* Whether a row of that tenant (NULL, or len bytes) may be shown. A tenant of NULL is nobody's: only who sees all sees it. */
extern bool sn_tenant_visible(const char *tenant_id, int len);

/* Error 42501 unless it may. */
extern void sn_tenant_require(const char *tenant_id, int len);

/* Error SN001 where a reason that the caller gives is too long; NULL: it gives none. */
extern void sn_reason_check(const char *reason);

/*
 * From now on the caller is that tenant and nothing more, whatever its role and settings; NULL: no tenant at all. Calls
 * nest. What isn't released is undone when the (sub)transaction that held it is rolled back, at the latest at the end of
 * the transaction.
 */
extern void sn_hold_tenant(const char *tenant_id);
extern void sn_release_tenant(void);

/* Of settings (guc.c). */
extern bool sn_caller_tenant_id_check(char **newval, void **extra, GucSource source);
extern void sn_caller_setting_changed(const char *newval, void *extra);

extern void sn_caller_init(void);

#endif /* SENTINAI_CALLER_H */
