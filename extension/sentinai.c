/*
 * sentinai.c
 *	  Where the library starts: what _PG_init() sets up, in order, and the version.
 *
 * The library keeps state in shared memory and runs background workers, so it has to be preloaded; loaded any other way
 * it refuses, which makes CREATE EXTENSION fail with the line to add.
 */
#include "sentinai.h"

#include "activation.h"
#include "api_error.h"
#include "caller.h"
#include "emit.h"
#include "guc.h"
#include "launcher.h"
#include "metrics.h"
#include "outbox.h"
#include "rate_limit.h"
#include "retry.h"
#include "shmem.h"
#include "usage_count.h"
#include "utility.h"
#include "worker_type.h"

PG_MODULE_MAGIC;

extern PGDLLEXPORT void _PG_init(void);

PG_FUNCTION_INFO_V1(sn_version);

void
_PG_init(void)
{
	if (!process_shared_preload_libraries_in_progress)
		ereport(
			ERROR,
			(errcode(SN_ERRCODE("SN015")), errmsg("sentinai must be loaded when the server starts"),
			 errhint("Add the line shared_preload_libraries = 'sentinai' to postgresql.conf and restart the server.")));

	sn_guc_define();
	sn_shmem_install();
	sn_utility_install();
	sn_api_error_install();
	sn_activation_install();
	sn_metrics_install();
	sn_outbox_install();
	sn_worker_type_init();
	sn_caller_init();
	sn_emit_init();
	sn_retry_init();
	sn_rate_limit_install();
	sn_usage_install();

	/* pg_upgrade copies rows; nothing of ours may write meanwhile. */
	if (!IsBinaryUpgrade)
		sn_launcher_register();
}

/* version() returns text */
Datum
sn_version(PG_FUNCTION_ARGS)
{
	PG_RETURN_TEXT_P(cstring_to_text(SENTINAI_VERSION));
}
