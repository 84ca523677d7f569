/*
 * circuit.c
 *	  The circuit breaker: while most events of a worker type and event type fail alike, they wait instead of using up their
 *	  retries, and single ones are let through to see whether the cause is gone.
 *
 * closed --(20 failures with one fingerprint in 30 s, more than half of what was handled; or class broken)--> open
 * open --(probe_at has come: one event is let through)--> closed if it succeeds, else open with a later probe_at
 *
 * An open circuit is a row of sentinai.circuit; a closed one has none. What was handled and what failed is counted in
 * shared memory, in buckets of 5 s: losing it costs nothing but a later decision. Whoever puts events away for a circuit
 * holds its row (FOR KEY SHARE) until they are there: closing it (a DELETE) waits, and then finds them. Where one tenant has all failures the
 * circuit is that tenant's alone, so that no tenant can stop the others. The pattern is Nygard's ("Release It!", 2007).
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "circuit.h"
#include "common/hashfn.h"
#include "guc.h"
#include "miscadmin.h"
#include "point.h"
#include "sentinai.h"
#include "spi.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#define BUCKETS 6
#define BUCKET_US INT64CONST(5000000)
#define OPEN_FAILURES 20
#define WINDOWS_MAX 1024

/* Seconds until the first probe, and at most until a later one; each failed probe doubles the time. */
#define PROBE_FIRST_S 1
#define PROBE_MAX_S 60

/* What was handled (fingerprint 0), or failed with one fingerprint. Everything: window_lock. */
typedef struct Window
{
	struct
	{
		Oid database;
		uint32 zero;
		uint64 subject; /* worker type and event type */
		uint64 fingerprint;
	} key;
	int64 bucket[BUCKETS]; /* number of the 5 s that count[] is of */
	int count[BUCKETS];
	uint64 tenant; /* of all failures, as long as many_tenants is false */
	bool many_tenants;
} Window;

/* An open circuit, as read at the start of a call. */
typedef struct SnCircuit
{
	char *event_type;
	char *tenant_id;
	char *first_event_id;
	TimestampTz opened_at;
	bool probe_due;
	int probes;
	bool held;	   /* can't be closed before we commit */
	SnWork *probe; /* let through in this call */
	struct SnCircuit *next;
} SnCircuit;

extern Datum sn_dlq_fingerprint(PG_FUNCTION_ARGS);

static HTAB *windows = NULL;
static LWLock *window_lock = NULL;

static SnStatement read_circuits = {
	.sql = "SELECT event_type, tenant_id, first_event_id, opened_at, probes, probe_at <= $2 FROM sentinai.circuit"
		   " WHERE worker_type = $1",
	.n_args = 2,
	.args = {TEXTOID, TIMESTAMPTZOID}};

/* Whoever gets the row's lock makes the probe. */
static SnStatement take_probe = {
	.sql = "SELECT FROM sentinai.circuit WHERE worker_type = $1 AND event_type = $2 AND tenant_id = $3"
		   " AND probe_at <= $4 FOR NO KEY UPDATE SKIP LOCKED",
	.n_args = 4,
	.args = {TEXTOID, TEXTOID, TEXTOID, TIMESTAMPTZOID}};

static SnStatement hold_circuit = {
	.sql = "SELECT FROM sentinai.circuit WHERE worker_type = $1 AND event_type = $2 AND tenant_id = $3 FOR KEY SHARE",
	.n_args = 3,
	.args = {TEXTOID, TEXTOID, TEXTOID}};

static SnStatement wake_one = {
	.sql = "UPDATE sentinai.event_pending SET next_attempt_at = $7 WHERE id = ("
		   "SELECT p.id FROM sentinai.event_pending p JOIN unnest($4, $5) AS u(topic, partition)"
		   " ON p.topic = u.topic AND p.partition = u.partition"
		   " WHERE p.worker_type = $1 AND p.event_type = $2 AND ($3 = '' OR p.tenant_id = $3)"
		   " AND p.status = 'deferred' AND p.error_type = 'circuit_open'"
		   " ORDER BY (p.event_id = $6) = $8 DESC, p.id LIMIT 1)",
	.n_args = 8,
	.args = {TEXTOID, TEXTOID, TEXTOID, TEXTARRAYOID, INT4ARRAYOID, TEXTOID, TIMESTAMPTZOID, BOOLOID}};

static SnStatement count_waiting = {
	.sql = "SELECT count(*) FROM (SELECT FROM sentinai.event_pending WHERE worker_type = $1 LIMIT $2) p",
	.n_args = 2,
	.args = {TEXTOID, INT8OID}};

static SnStatement insert_circuit = {
	.sql = "INSERT INTO sentinai.circuit (worker_type, event_type, tenant_id, reason, error_type, error_message,"
		   " first_event_id, probe_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING",
	.n_args = 8,
	.args = {TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TIMESTAMPTZOID}};

static SnStatement close_circuit = {.sql = "SELECT sentinai.circuit_close($1, $2, nullif($3, ''))",
									.n_args = 3,
									.args = {TEXTOID, TEXTOID, TEXTOID}};

static SnStatement postpone_circuit = {
	.sql = "UPDATE sentinai.circuit SET probe_at = $4, probes = probes + 1, error_type = coalesce($5, error_type),"
		   " error_message = coalesce($6, error_message) WHERE worker_type = $1 AND event_type = $2 AND tenant_id = $3",
	.n_args = 6,
	.args = {TEXTOID, TEXTOID, TEXTOID, TIMESTAMPTZOID, TEXTOID, TEXTOID}};

Size
sn_circuit_shmem_size(void)
{
	return hash_estimate_size(WINDOWS_MAX, sizeof(Window));
}

void
sn_circuit_shmem_init(LWLock *lock)
{
	HASHCTL info = {.keysize = sizeof(((Window *) 0)->key), .entrysize = sizeof(Window)};

	window_lock = lock;
	windows = ShmemInitHash("sentinai circuit windows", WINDOWS_MAX, WINDOWS_MAX, &info,
							HASH_ELEM | HASH_BLOBS | HASH_FIXED_SIZE);
}

static uint64
hash_text(const char *text, uint64 seed)
{
	return hash_bytes_extended((const unsigned char *) text, strlen(text) + 1, seed);
}

static int
window_sum(const Window *window, int64 now)
{
	int sum = 0;

	for (int i = 0; i < BUCKETS; i++)
		if (window->bucket[i] > now - BUCKETS)
			sum += window->count[i];
	return sum;
}

/* Room for a new window: those that have seen nothing for 30 s go. */
static void
sweep_windows(int64 now)
{
	HASH_SEQ_STATUS status;
	Window *window;

	hash_seq_init(&status, windows);
	while ((window = hash_seq_search(&status)) != NULL)
		if (window_sum(window, now) == 0)
			hash_search(windows, &window->key, HASH_REMOVE, NULL);
}

static Window *
find_window(uint64 subject, uint64 fingerprint, HASHACTION action, int64 now)
{
	Window probe;
	Window *window;
	bool found;

	memset(&probe, 0, sizeof(probe));
	probe.key.database = MyDatabaseId;
	probe.key.subject = subject;
	probe.key.fingerprint = fingerprint;
	if (action == HASH_FIND)
		return hash_search(windows, &probe.key, HASH_FIND, NULL);
	window = hash_search(windows, &probe.key, HASH_ENTER_NULL, &found);
	if (window == NULL)
	{
		sweep_windows(now);
		window = hash_search(windows, &probe.key, HASH_ENTER_NULL, &found);
	}
	if (window != NULL && !found)
		memset((char *) window + sizeof(window->key), 0, sizeof(Window) - sizeof(window->key));
	return window;
}

static void
count(Window *window, int64 now)
{
	int i = now % BUCKETS;

	if (window == NULL)
		return;
	if (window->bucket[i] != now)
		window->count[i] = 0;
	window->bucket[i] = now;
	window->count[i]++;
}

static uint64
subject_of(const SnBatch *batch, const SnWork *work)
{
	return hash_text(work->event.event_type, hash_text(batch->worker_type->name, 0));
}

static uint64
fingerprint_of(const SnBatch *batch, const SnWork *work)
{
	Datum printed =
		DirectFunctionCall5(sn_dlq_fingerprint, CStringGetTextDatum(work->failure.error_type),
							CStringGetTextDatum(work->failure.sqlstate), CStringGetTextDatum(work->failure.message),
							CStringGetTextDatum(work->event.event_type), CStringGetTextDatum(batch->worker_type->name));
	uint64 hash = hash_text(TextDatumGetCString(printed), 1);

	return hash == 0 ? 1 : hash;
}

/* The newest failure decides whether its kind has become the rule. *tenant_id: whose circuit it is to be. */
static bool
count_failure(const SnBatch *batch, const SnWork *work, const char **tenant_id)
{
	int64 now = batch->now / BUCKET_US;
	uint64 tenant = hash_text(work->event.tenant_id, 0);
	uint64 fingerprint = fingerprint_of(batch, work);
	Window *failures;
	Window *handled;
	bool open;

	LWLockAcquire(window_lock, LW_EXCLUSIVE);
	failures = find_window(subject_of(batch, work), fingerprint, HASH_ENTER, now);
	handled = find_window(subject_of(batch, work), 0, HASH_FIND, now);
	if (failures != NULL && window_sum(failures, now) == 0)
	{
		failures->tenant = tenant;
		failures->many_tenants = false;
	}
	count(failures, now);
	if (failures != NULL && failures->tenant != tenant)
		failures->many_tenants = true;
	open = failures != NULL && handled != NULL && window_sum(failures, now) >= OPEN_FAILURES &&
		   2 * window_sum(failures, now) > window_sum(handled, now);
	*tenant_id = failures == NULL || failures->many_tenants ? "" : work->event.tenant_id;
	LWLockRelease(window_lock);
	return open;
}

/* An opened circuit begins to count anew. */
static void
forget_failures(const SnBatch *batch, const SnWork *work)
{
	Window *failures;

	LWLockAcquire(window_lock, LW_EXCLUSIVE);
	failures = find_window(subject_of(batch, work), fingerprint_of(batch, work), HASH_FIND, 0);
	if (failures != NULL)
		hash_search(windows, &failures->key, HASH_REMOVE, NULL);
	LWLockRelease(window_lock);
}

static bool
was_handled(const SnWork *work)
{
	return work->outcome == SN_SUCCEEDED || work->outcome == SN_RETRYING ||
		   (work->outcome == SN_DEAD && work->failure.step != NULL && strcmp(work->failure.step, "handle") == 0);
}

static void
count_handled(const SnBatch *batch)
{
	int64 now = batch->now / BUCKET_US;

	LWLockAcquire(window_lock, LW_EXCLUSIVE);
	for (int i = 0; i < batch->n_work; i++)
		if (batch->work[i]->handler != NULL && was_handled(batch->work[i]))
			count(find_window(subject_of(batch, batch->work[i]), 0, HASH_ENTER, now), now);
	LWLockRelease(window_lock);
}

static void
circuit_values(const SnBatch *batch, const char *event_type, const char *tenant_id, Datum *values)
{
	values[0] = CStringGetTextDatum(batch->worker_type->name);
	values[1] = CStringGetTextDatum(event_type);
	values[2] = CStringGetTextDatum(tenant_id);
}

static void
load_circuits(SnBatch *batch)
{
	Datum values[2] = {CStringGetTextDatum(batch->worker_type->name), TimestampTzGetDatum(batch->now)};
	uint64 n = sn_execute(&read_circuits, values, NULL);

	for (int row = 0; row < n; row++)
	{
		SnCircuit *circuit = palloc0(sizeof(SnCircuit));

		circuit->event_type = sn_result_text(row, 1);
		circuit->tenant_id = sn_result_text(row, 2);
		circuit->first_event_id = sn_result_text(row, 3);
		circuit->opened_at = sn_result_time(row, 4);
		circuit->probes = sn_result_int32(row, 5);
		circuit->probe_due = sn_result_bool(row, 6);
		circuit->next = batch->circuits;
		batch->circuits = circuit;
	}
}

/* Makes one waiting event due: the first one and another in turn. */
static void
wake(SnBatch *batch, SnCircuit *circuit)
{
	Datum values[8];

	circuit_values(batch, circuit->event_type, circuit->tenant_id, values);
	sn_batch_places(batch, &values[3], &values[4]);
	values[5] = CStringGetTextDatum(circuit->first_event_id == NULL ? "" : circuit->first_event_id);
	values[6] = TimestampTzGetDatum(batch->now);
	values[7] = BoolGetDatum(circuit->probes % 2 == 0);
	sn_execute(&wake_one, values, NULL);
}

/* Whether so much waits for circuits of all tenants that reading has to pause. One tenant's never pauses it. */
static const char *
pause_reason(SnBatch *batch)
{
	Datum values[2] = {CStringGetTextDatum(batch->worker_type->name), Int64GetDatum(sn_pending_max)};

	for (SnCircuit *circuit = batch->circuits; circuit != NULL; circuit = circuit->next)
	{
		if (circuit->tenant_id[0] != '\0')
			continue;
		sn_execute(&count_waiting, values, NULL);
		if (sn_result_int64(0, 1) >= sn_pending_max)
			return psprintf("circuit of %s is open, and %d events wait", circuit->event_type, sn_pending_max);
		return NULL;
	}
	return NULL;
}

/*
 * Reads the open circuits of the batch's worker type. Returns why no new records are to be taken, NULL: take them.
 */
const char *
sn_circuit_begin(SnBatch *batch)
{
	load_circuits(batch);
	for (SnCircuit *circuit = batch->circuits; circuit != NULL; circuit = circuit->next)
	{
		Datum values[4];

		if (!circuit->probe_due)
			continue;
		circuit_values(batch, circuit->event_type, circuit->tenant_id, values);
		values[3] = TimestampTzGetDatum(batch->now);
		circuit->probe_due = sn_execute(&take_probe, values, NULL) > 0;
		if (circuit->probe_due)
		{
			wake(batch, circuit);
			SN_POINT("circuit.probed");
		}
	}
	return pause_reason(batch);
}

static SnCircuit *
circuit_of(SnBatch *batch, const SnWork *work)
{
	for (SnCircuit *circuit = batch->circuits; circuit != NULL; circuit = circuit->next)
		if (strcmp(circuit->event_type, work->event.event_type) == 0 &&
			(circuit->tenant_id[0] == '\0' || strcmp(circuit->tenant_id, work->event.tenant_id) == 0))
			return circuit;
	return NULL;
}

/* Keeps the circuit open until we commit. False: it has been closed since the call began. */
static bool
hold(SnBatch *batch, SnCircuit *circuit)
{
	Datum values[3];

	if (circuit->held)
		return true;
	circuit_values(batch, circuit->event_type, circuit->tenant_id, values);
	circuit->held = sn_execute(&hold_circuit, values, NULL) > 0;
	return circuit->held;
}

static void
forget_circuit(SnBatch *batch, const SnCircuit *circuit)
{
	SnCircuit **place = &batch->circuits;

	while (*place != circuit)
		place = &(*place)->next;
	*place = circuit->next;
}

/* The open circuit that covers the event, held. */
static SnCircuit *
hold_circuit_of(SnBatch *batch, const SnWork *work)
{
	SnCircuit *circuit;

	while ((circuit = circuit_of(batch, work)) != NULL && !hold(batch, circuit))
		forget_circuit(batch, circuit);
	return circuit;
}

/* Marks an event that waits for a circuit. */
static void
wait_for_circuit(SnWork *work, const char *message)
{
	work->failure =
		(SnFailure){.step = "handle", .error_type = "circuit_open", .message = message, .sqlstate = "SN031"};
}

/*
 * Marks what the open circuits cover to be deferred; the first event that meets a due probe is let through. A dead letter's
 * retry is an operator's decision, and is let through as well.
 */
void
sn_circuit_screen(SnBatch *batch)
{
	for (int i = 0; batch->circuits != NULL && i < batch->n_work; i++)
	{
		SnWork *work = batch->work[i];
		SnCircuit *circuit;

		if (work->outcome != SN_TODO || work->handler == NULL || work->defer || work->replay != NULL)
			continue;
		circuit = hold_circuit_of(batch, work);
		if (circuit == NULL)
			continue;
		if (circuit->probe_due && circuit->probe == NULL)
		{
			circuit->probe = work;
			continue;
		}
		work->defer = true;
		wait_for_circuit(work, psprintf("circuit is open since %s", timestamptz_to_str(circuit->opened_at)));
	}
}

static void
defer_to_circuit(SnWork *work)
{
	if (work->outcome == SN_RETRYING)
		work->retry_count = Max(work->retry_count - 1, 0);
	work->outcome = SN_DEFERRED;
	work->next_attempt_at = DT_NOEND;
	work->failure.error_type = "circuit_open";
	if (work->key != NULL && !sn_key_is_blocked(work))
		work->key->blocker = work;
}

static void
open_circuit(SnBatch *batch, const SnWork *work, const char *tenant_id, const char *reason)
{
	Datum values[8];

	circuit_values(batch, work->event.event_type, tenant_id, values);
	values[3] = CStringGetTextDatum(reason);
	values[4] = CStringGetTextDatum(work->failure.error_type);
	values[5] = CStringGetTextDatum(work->failure.message);
	values[6] = CStringGetTextDatum(work->event.event_id);
	values[7] = TimestampTzGetDatum(batch->now + PROBE_FIRST_S * INT64CONST(1000000));
	/* One that somebody else has opened is as good, as long as nobody closes it before we have put our events away. */
	while (sn_execute(&insert_circuit, values, NULL) == 0)
		if (sn_execute(&hold_circuit, values, NULL) > 0)
			return;
	SN_POINT("circuit.opened");
	ereport(LOG, (errmsg("circuit of worker type \"%s\" and event type \"%s\" is open", batch->worker_type->name,
						 work->event.event_type),
				  errdetail("%s: %s", work->failure.error_type, work->failure.message)));
}

/* A tenant's circuit doesn't cover the other tenants' events. */
static bool
is_probe_of_all(SnBatch *batch, const SnWork *work)
{
	SnCircuit *circuit = circuit_of(batch, work);

	return circuit != NULL && circuit->probe == work && circuit->tenant_id[0] == '\0';
}

static bool
is_probe(SnBatch *batch, const SnWork *work)
{
	SnCircuit *circuit = circuit_of(batch, work);

	return circuit != NULL && circuit->probe == work;
}

/*
 * An event that failed in class broken for the first time: the handler can't run, or the event is odd. It opens the
 * circuit, and what is left of its type in the batch waits as well. An event that failed so before is retried by its
 * policy: the circuit has closed since, so others of its type do work.
 */
bool
sn_circuit_trip(SnBatch *batch, SnWork *work)
{
	if (work->failure.error_class != SN_CLASS_BROKEN || work->retry_count > 0 || work->replay != NULL)
		return false;
	if (!is_probe_of_all(batch, work))
		open_circuit(batch, work, "", "broken");
	work->first_failed_at = work->first_failed_at == 0 ? batch->now : work->first_failed_at;
	for (int i = 0; i < batch->n_work; i++)
	{
		SnWork *other = batch->work[i];

		if (other->outcome != SN_TODO)
			continue;
		if (sn_key_is_blocked(other))
			other->outcome = SN_PARKED;
		else if (other == work || (other->handler == work->handler && other->replay == NULL && !is_probe(batch, other)))
		{
			if (other != work)
				wait_for_circuit(other, "circuit was opened by another event of the batch");
			defer_to_circuit(other);
		}
	}
	return true;
}

/* What this call was about to put away for a circuit that has closed now is due at once, as what waits there already is. */
static void
let_go(SnBatch *batch, const SnCircuit *circuit)
{
	for (int i = 0; i < batch->n_work; i++)
	{
		SnWork *work = batch->work[i];

		if (work->outcome == SN_DEFERRED && work->failure.error_type != NULL &&
			strcmp(work->failure.error_type, "circuit_open") == 0 && circuit_of(batch, work) == circuit)
			work->next_attempt_at = batch->now;
	}
}

/* What came of the event that was let through. */
static void
judge_probe(SnBatch *batch, SnCircuit *circuit)
{
	SnWork *work = circuit->probe;
	bool failed = work->outcome == SN_RETRYING || work->outcome == SN_DEFERRED;
	int seconds = Min(PROBE_FIRST_S << Min(circuit->probes + 1, 10), PROBE_MAX_S);
	Datum values[6];
	char nulls[7] = "      ";

	circuit_values(batch, circuit->event_type, circuit->tenant_id, values);
	if (work->outcome == SN_SUCCEEDED)
	{
		sn_execute(&close_circuit, values, NULL);
		SN_POINT("circuit.closed");
		let_go(batch, circuit);
		ereport(LOG, (errmsg("circuit of worker type \"%s\" and event type \"%s\" is closed", batch->worker_type->name,
							 circuit->event_type)));
		return;
	}
	values[3] = TimestampTzGetDatum(batch->now + seconds * INT64CONST(1000000));
	nulls[4] = nulls[5] = failed && work->outcome == SN_RETRYING ? ' ' : 'n';
	if (nulls[4] == ' ')
	{
		values[4] = CStringGetTextDatum(work->failure.error_type);
		values[5] = CStringGetTextDatum(work->failure.message);
	}
	sn_execute(&postpone_circuit, values, nulls);
	if (work->outcome == SN_RETRYING)
		defer_to_circuit(work);
}

/* Failures that have become the rule: they wait for the circuit that the newest of them opens. */
static void
judge_failures(SnBatch *batch)
{
	for (int i = 0; i < batch->n_work; i++)
	{
		SnWork *work = batch->work[i];
		const char *tenant_id;
		uint64 fingerprint;

		if (work->outcome != SN_RETRYING || work->replay != NULL || !count_failure(batch, work, &tenant_id))
			continue;
		open_circuit(batch, work, tenant_id, "failures");
		forget_failures(batch, work);
		fingerprint = fingerprint_of(batch, work);
		for (int j = 0; j < batch->n_work; j++)
		{
			SnWork *other = batch->work[j];

			if (other->outcome == SN_RETRYING && other->replay == NULL && other->handler == work->handler &&
				(tenant_id[0] == '\0' || strcmp(tenant_id, other->event.tenant_id) == 0) &&
				fingerprint_of(batch, other) == fingerprint)
				defer_to_circuit(other);
		}
	}
}

/*
 * Judges the probes, counts what was handled, and opens circuits.
 */
void
sn_circuit_judge(SnBatch *batch)
{
	count_handled(batch);
	for (SnCircuit *circuit = batch->circuits; circuit != NULL; circuit = circuit->next)
		if (circuit->probe != NULL)
			judge_probe(batch, circuit);
	judge_failures(batch);
}
