/*
 * rate_limit_save.c
 *	  The counts of shared memory written down: every moment to the table rate_limit_usage, by a duty of the maintenance
 *	  worker, and at a clean shutdown to a file.
 *
 * The table is what a crash leaves: it lacks what was counted since the last flush. A slot that is made anew takes its
 * counts from there (rate_limit_config.c). The file is written by the postmaster when all others have ended, so it
 * lacks nothing. It names the shutdown's checkpoint, and only a server that starts from that checkpoint takes it: after
 * a crash, in a restored backup or beside another cluster's data it is no more than an old file. It is gone once it was
 * read.
 */
#include "sentinai.h"

#include <unistd.h>

#include "access/xact.h"
#include "catalog/pg_control.h"
#include "catalog/pg_type.h"
#include "common/controldata_utils.h"
#include "pgstat.h"
#include "port/pg_crc32c.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "lock.h"
#include "rate_limit_config.h"
#include "rate_limit_save.h"
#include "rate_limit_slot.h"
#include "spi.h"

PG_FUNCTION_INFO_V1(sn_rate_limit_write);

/* ---- the file ---- */

#define FILE_NAME PGSTAT_STAT_PERMANENT_DIRECTORY "/sentinai_rate_limit"
#define FILE_MAGIC 0x534E4C01 /* "SNL" and a version */

/* Behind it the slots. */
typedef struct FileHeader
{
	uint32 magic;
	uint32 slot_size;
	uint64 system_identifier;
	XLogRecPtr checkpoint; /* of the shutdown */
	int64 n_slots;
	pg_crc32c crc; /* of the slots */
} FileHeader;

/* The place where a shutdown in good order stopped, or a start after one begins. False: there was none. */
static bool
shutdown_place(FileHeader *header)
{
	bool crc_ok;
	ControlFileData *control = get_controlfile(DataDir, &crc_ok);

	memset(header, 0, sizeof(*header));
	header->magic = FILE_MAGIC;
	header->slot_size = sizeof(SnSlot);
	header->system_identifier = control->system_identifier;
	header->checkpoint = control->checkPoint;
	return crc_ok && (control->state == DB_SHUTDOWNED || control->state == DB_SHUTDOWNED_IN_RECOVERY);
}

/* Writes the slots behind the place of the header, then the header. */
static bool
file_write(FILE *file, FileHeader *header)
{
	SnSlot *slots = MemoryContextAllocHuge(TopMemoryContext, sn_slot_partition_slots() * sizeof(SnSlot));
	bool ok = fwrite(header, sizeof(*header), 1, file) == 1;

	INIT_CRC32C(header->crc);
	for (int partition = 0; ok && partition < sn_slot_partitions(); partition++)
	{
		int n = sn_slot_copy(partition, slots);

		COMP_CRC32C(header->crc, slots, n * sizeof(SnSlot));
		header->n_slots += n;
		ok = fwrite(slots, sizeof(SnSlot), n, file) == n;
	}
	FIN_CRC32C(header->crc);
	pfree(slots);
	return ok && fseek(file, 0, SEEK_SET) == 0 && fwrite(header, sizeof(*header), 1, file) == 1;
}

static void
file_save(int code, Datum arg)
{
	FileHeader header;
	FILE *file;
	bool ok;

	if (code != 0 || !shutdown_place(&header))
		return;
	file = AllocateFile(FILE_NAME ".tmp", PG_BINARY_W);
	ok = file != NULL && file_write(file, &header);
	if (file != NULL && FreeFile(file) != 0)
		ok = false;
	if (!ok || durable_rename(FILE_NAME ".tmp", FILE_NAME, LOG) != 0)
	{
		ereport(LOG, (errcode_for_file_access(),
					  errmsg("could not save the counts of rate limits to file \"%s\": %m", FILE_NAME),
					  errdetail("The next start has what was written to rate_limit_usage.")));
		unlink(FILE_NAME ".tmp");
	}
}

/* The file is whole, and of the shutdown that this start comes after. Leaves it where the slots begin. */
static bool
file_checks(FILE *file, FileHeader *header)
{
	FileHeader expected;
	pg_crc32c crc;
	SnSlot slot;

	if (!shutdown_place(&expected) || fread(header, sizeof(*header), 1, file) != 1 || header->magic != expected.magic ||
		header->slot_size != expected.slot_size || header->system_identifier != expected.system_identifier ||
		header->checkpoint != expected.checkpoint)
		return false;
	INIT_CRC32C(crc);
	for (int64 i = 0; i < header->n_slots; i++)
	{
		if (fread(&slot, sizeof(slot), 1, file) != 1)
			return false;
		COMP_CRC32C(crc, &slot, sizeof(slot));
	}
	FIN_CRC32C(crc);
	return EQ_CRC32C(crc, header->crc) && fseek(file, sizeof(*header), SEEK_SET) == 0;
}

static void
file_load(void)
{
	FILE *file = AllocateFile(FILE_NAME, PG_BINARY_R);
	FileHeader header;
	SnSlot slot;
	int64 lost = 0;

	if (file == NULL)
		return;
	if (file_checks(file, &header))
	{
		for (int64 i = 0; i < header.n_slots && fread(&slot, sizeof(slot), 1, file) == 1; i++)
			if (!sn_slot_restore(&slot))
				lost++;
	}
	else
		ereport(LOG,
				(errmsg("the counts of rate limits in file \"%s\" are not of this server's last shutdown", FILE_NAME),
				 errdetail("They are left out; rate_limit_usage has what was written last.")));
	if (lost > 0)
		ereport(LOG, (errmsg("sentinai.rate_limit_slots has no room for " INT64_FORMAT " of the saved counts", lost)));
	FreeFile(file);
	(void) durable_unlink(FILE_NAME, LOG);
}

void
sn_limit_save_install(void)
{
	on_shmem_exit(file_save, (Datum) 0);
	file_load();
}

/* ---- the table ---- */

/* Rows of one statement. */
#define FLUSH_ROWS 10000

/* Counts of one flush: its transaction stays short, and its memory small. */
#define FLUSH_MAX 100000

static SnStatement write_usage = {
	.sql =
		"INSERT INTO sentinai.rate_limit_usage AS u (tenant_id, limit_type, window_start, window_seconds, window_length,"
		" granted, previous_granted, refused, previous_refused, appointment, since)"
		" SELECT * FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)"
		" ON CONFLICT ON CONSTRAINT rate_limit_usage_pkey DO UPDATE SET window_start = excluded.window_start,"
		" window_seconds = excluded.window_seconds, window_length = excluded.window_length, granted = excluded.granted,"
		" previous_granted = excluded.previous_granted, refused = excluded.refused,"
		" previous_refused = excluded.previous_refused, appointment = excluded.appointment, since = excluded.since,"
		" updated_at = excluded.updated_at",
	.n_args = 11,
	.args = {TEXTARRAYOID, TEXTARRAYOID, TIMESTAMPTZARRAYOID, INT4ARRAYOID, INT4ARRAYOID, INT8ARRAYOID, INT8ARRAYOID,
			 INT8ARRAYOID, INT8ARRAYOID, TIMESTAMPTZARRAYOID, TIMESTAMPTZARRAYOID}};

/* What the open transaction has taken as written: marked again if it aborts. */
static SnSlot *flushed = NULL; /* in TopMemoryContext */
static int64 n_flushed = 0;
static int64 max_flushed = 0;

static void
flush_marks_again(void)
{
	for (int64 i = 0; i < n_flushed; i++)
	{
		SnSlotKey key;
		SnSlot *slot;

		sn_slot_key_of(&key, &flushed[i]);
		sn_slot_lock(&key);
		slot = sn_slot_find(&key);
		if (slot)
			sn_slot_changed(&key, slot);
		sn_slot_unlock(&key);
	}
}

static void
flush_forget(void)
{
	if (flushed)
		pfree(flushed);
	flushed = NULL;
	n_flushed = max_flushed = 0;
}

static void
refuse_prepare(void)
{
	if (flushed != NULL)
		ereport(ERROR,
				(errcode(SN_ERRCODE("SN013")),
				 errmsg("a transaction that has written counts of rate limits can't be prepared"),
				 errdetail("If it is rolled back, they are to be written again, and only this session knows which.")));
}

static void
on_xact_end(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_PRE_PREPARE)
		refuse_prepare();
	if (event == XACT_EVENT_ABORT)
		flush_marks_again();
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
		flush_forget();
}

static void
on_subxact_end(SubXactEvent event, SubTransactionId sub, SubTransactionId parent, void *arg)
{
	if (event == SUBXACT_EVENT_ABORT_SUB)
		flush_marks_again();
}

void
sn_limit_flush_install(void)
{
	RegisterXactCallback(on_xact_end, NULL);
	RegisterSubXactCallback(on_subxact_end, NULL);
}

/*
 * Takes what is to be written down of this database, up to FLUSH_MAX and a partition; the next call goes on from there.
 * False: that may not have been all.
 */
static bool
flush_take(Oid incarnation)
{
	static int partition = 0;
	int room = sn_slot_partition_slots();
	int64 enough = n_flushed + FLUSH_MAX;

	for (int n = 0; n < sn_slot_partitions(); n++)
	{
		if (n_flushed >= enough)
			return false;
		partition = (partition + 1) % sn_slot_partitions();
		if (n_flushed + room > max_flushed)
		{
			max_flushed = Max(2 * max_flushed, n_flushed + room);
			flushed = flushed ? repalloc_huge(flushed, max_flushed * sizeof(SnSlot))
							  : MemoryContextAllocHuge(TopMemoryContext, max_flushed * sizeof(SnSlot));
		}
		n_flushed += sn_slot_take_dirty(partition, incarnation, &flushed[n_flushed]);
	}
	return true;
}

static const SnLimitType *
type_by_id(const SnLimitType *types, int n, int32 id)
{
	for (int i = 0; i < n; i++)
		if (types[i].id == id)
			return &types[i];
	return NULL;
}

static void
column_add_slot(SnColumn *columns, const SnLimitType *type, const SnSlot *slot)
{
	const SnWindow *window = &slot->window;

	sn_column_add(&columns[0], PointerGetDatum(cstring_to_text_with_len(slot->tenant_id, slot->tenant_len)), false);
	sn_column_add(&columns[1], PointerGetDatum(cstring_to_text_with_len(type->name, type->len)), false);
	sn_column_add(&columns[2], TimestampTzGetDatum(window->start), false);
	sn_column_add(&columns[3], Int32GetDatum(window->seconds), false);
	sn_column_add(&columns[4], Int32GetDatum(window->length), false);
	sn_column_add(&columns[5], Int64GetDatum(window->granted), false);
	sn_column_add(&columns[6], Int64GetDatum(window->previous_granted), false);
	sn_column_add(&columns[7], Int64GetDatum(window->refused), false);
	sn_column_add(&columns[8], Int64GetDatum(window->previous_refused), false);
	sn_column_add(&columns[9], TimestampTzGetDatum(slot->appointment), false);
	sn_column_add(&columns[10], TimestampTzGetDatum(slot->since), false);
}

/* Writes some of what was taken. SPI is connected. */
static void
flush_write(const SnLimitType *types, int n_types, const SnSlot *slots, int n)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "sentinai flush", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	SnColumn columns[11];
	Datum values[11];

	for (int i = 0; i < 11; i++)
		sn_column_init(&columns[i], get_element_type(write_usage.args[i]), n);
	for (int i = 0; i < n; i++)
	{
		const SnLimitType *type = type_by_id(types, n_types, slots[i].type_id);

		if (type)
			column_add_slot(columns, type, &slots[i]);
	}
	for (int i = 0; i < 11; i++)
		values[i] = sn_column_array(&columns[i]);
	sn_execute(&write_usage, values, NULL);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}

/* rate_limit_write() returns text: NULL, or why not all was written */
Datum
sn_rate_limit_write(PG_FUNCTION_ARGS)
{
	const SnLimitType *types;
	int64 first = n_flushed;
	int n_types;
	bool all;

	/* Two that write at the same time could leave the older counts. */
	if (!sn_lock_try(SN_LOCK_FLUSH, 0, ExclusiveLock))
		PG_RETURN_TEXT_P(cstring_to_text("another session is writing the counts of rate limits"));
	types = sn_limit_types(&n_types);
	if (n_types == 0)
		PG_RETURN_NULL();
	all = flush_take(types[0].incarnation);
	SPI_connect();
	for (int64 i = first; i < n_flushed; i += FLUSH_ROWS)
		flush_write(types, n_types, &flushed[i], Min(n_flushed - i, FLUSH_ROWS));
	SPI_finish();
	if (!all)
		PG_RETURN_TEXT_P(cstring_to_text("more counts of rate limits have changed than one flush writes"));
	PG_RETURN_NULL();
}
