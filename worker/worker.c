/*
 * worker.c
 *	  The state that all threads share: phase, worker type, health. The rules stand in worker.h.
 */
#include "worker.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "db.h"
#include "log.h"

/* ---- clock ---- */

int64_t
now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t) now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

int64_t
with_jitter(int64_t ms)
{
	static _Thread_local unsigned int seed = 0;

	if (seed == 0)
		seed = (unsigned int) (now_ms() ^ getpid() ^ (intptr_t) &seed) | 1;
	return ms * 4 / 5 + (ms > 0 ? (int64_t) rand_r(&seed) % (ms * 2 / 5 + 1) : 0);
}

/* ---- life ---- */

bool
worker_init(Worker *w)
{
	w->pid = getpid();
	w->started_ms = now_ms();
	atomic_store(&w->poll_turned_ms, w->started_ms);
	if (gethostname(w->host, sizeof(w->host) - 1) != 0)
		strcpy(w->host, "unknown");
	if (w->config.group_instance_id != NULL)
		snprintf(w->instance_id, sizeof(w->instance_id), "%s", w->config.group_instance_id);
	else
		snprintf(w->instance_id, sizeof(w->instance_id), "%s-%d", w->host, w->pid);
	pthread_mutex_init(&w->type_lock, NULL);
	pthread_mutex_init(&w->health_lock, NULL);
	w->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	w->abort_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	w->fail_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	return w->stop_fd >= 0 && w->abort_fd >= 0 && w->fail_fd >= 0;
}

void
worker_destroy(Worker *w)
{
	if (w->type != NULL)
		worker_type_release(w->type);
	close(w->stop_fd);
	close(w->abort_fd);
	close(w->fail_fd);
	pthread_mutex_destroy(&w->type_lock);
	pthread_mutex_destroy(&w->health_lock);
	config_free(&w->config);
}

/* ---- phase ---- */

const char *
worker_phase_name(WorkerPhase phase)
{
	static const char *const names[] = {"running", "stopping", "aborting", "ended"};

	return names[phase];
}

static void
raise_event(int fd)
{
	uint64_t one = 1;

	/* It can only fail where the counter is full, and then it is readable already. */
	if (write(fd, &one, sizeof(one)) < 0)
		return;
}

void
worker_set_phase(Worker *w, WorkerPhase phase)
{
	WorkerPhase now = worker_phase(w);

	while (phase > now)
		if (atomic_compare_exchange_weak(&w->phase, &now, phase))
		{
			log_info("phase", F_TEXT("phase", worker_phase_name(phase)));
			if (phase >= PHASE_STOPPING)
				raise_event(w->stop_fd);
			if (phase >= PHASE_ABORTING)
				raise_event(w->abort_fd);
			return;
		}
}

bool
worker_wait(Worker *w, int fd, int64_t ms)
{
	struct pollfd fds[2] = {{w->stop_fd, POLLIN, 0}, {fd, POLLIN, 0}};

	if (poll(fds, fd < 0 ? 1 : 2, ms < 0 ? 0 : (int) ms) <= 0)
		return false;
	return fd >= 0 && fds[1].revents != 0;
}

void
worker_fail(Worker *w, const char *message, const char *reason, const char *hint)
{
	if (atomic_exchange(&w->failed, true))
		return;
	log_error(message, F_TEXT("reason", reason), F_TEXT("hint", hint));
	raise_event(w->fail_fd);
}

/* ---- worker type ---- */

static int
compare_texts(const void *a, const void *b)
{
	return strcmp(*(char *const *) a, *(char *const *) b);
}

bool
worker_type_handles(const WorkerType *type, const char *event_type, size_t length)
{
	int low = 0;
	int high = type->n_event_types;

	while (low < high)
	{
		int middle = (low + high) / 2;
		const char *candidate = type->event_types[middle];
		size_t candidate_length = strlen(candidate);
		int order = memcmp(event_type, candidate, length < candidate_length ? length : candidate_length);

		if (order == 0 && length == candidate_length)
			return true;
		if (order == 0)
			order = length < candidate_length ? -1 : 1;
		if (order < 0)
			high = middle;
		else
			low = middle + 1;
	}
	return false;
}

void
worker_type_release(WorkerType *type)
{
	if (type == NULL || atomic_fetch_sub(&type->references, 1) > 1)
		return;
	for (int i = 0; i < type->n_event_types; i++)
		free(type->event_types[i]);
	free(type->event_types);
	free(type->topic);
	free(type->group_id);
	free(type->display_name);
	emitted_key_free(type->emitted);
	free(type);
}

WorkerType *
worker_type_get(Worker *w)
{
	WorkerType *type;

	pthread_mutex_lock(&w->type_lock);
	type = w->type;
	if (type != NULL)
		atomic_fetch_add(&type->references, 1);
	pthread_mutex_unlock(&w->type_lock);
	return type;
}

static void
worker_type_set(Worker *w, WorkerType *type)
{
	WorkerType *old;

	pthread_mutex_lock(&w->type_lock);
	old = w->type;
	w->type = type;
	pthread_mutex_unlock(&w->type_lock);
	worker_type_release(old);
}

/* Event types come one a row, so that no array has to be parsed. */
static const DbStatement statement_config = {
	"worker_config",
	"SELECT c.topic, c.group_id, c.owns_topic, c.display_name, c.http_port, c.handler_version, t.event_type,"
	" encode(c.emit_secret, 'hex') AS emit_secret"
	" FROM sentinai.worker_config($1, $2) c LEFT JOIN LATERAL unnest(c.event_types) AS t(event_type) ON true",
	2};

static char *
copy_text(const char *text)
{
	return strdup(text == NULL ? "" : text);
}

static EmittedKey *
read_secret(const char *hex)
{
	unsigned char secret[256];
	size_t length = 0;
	EmittedKey *key;

	if (hex == NULL || strlen(hex) > 2 * sizeof(secret))
		return NULL;
	for (; hex[2 * length] != '\0' && hex[2 * length + 1] != '\0'; length++)
	{
		unsigned int byte;

		if (sscanf(hex + 2 * length, "%2x", &byte) != 1)
			return NULL;
		secret[length] = (unsigned char) byte;
	}
	key = emitted_key_new(secret, length);
	explicit_bzero(secret, sizeof(secret));
	return key;
}

static bool
read_event_types(WorkerType *type, const PGresult *res)
{
	int rows = PQntuples(res);

	type->event_types = calloc(rows, sizeof(char *));
	if (type->event_types == NULL)
		return false;
	for (int row = 0; row < rows; row++)
	{
		const char *name = db_text(res, row, "event_type");

		if (name != NULL && (type->event_types[type->n_event_types++] = strdup(name)) == NULL)
			return false;
	}
	qsort(type->event_types, type->n_event_types, sizeof(char *), compare_texts);
	return true;
}

static WorkerType *
read_type(const PGresult *res)
{
	WorkerType *type = calloc(1, sizeof(WorkerType));

	if (type == NULL)
		return NULL;
	atomic_store(&type->references, 1);
	type->topic = copy_text(db_text(res, 0, "topic"));
	type->group_id = copy_text(db_text(res, 0, "group_id"));
	type->owns_topic = db_bool(res, 0, "owns_topic");
	type->display_name = copy_text(db_text(res, 0, "display_name"));
	type->http_port = (int) db_int(res, 0, "http_port", 0);
	type->handler_version = db_int(res, 0, "handler_version", 0);
	type->emitted = read_secret(db_text(res, 0, "emit_secret"));
	if (type->topic == NULL || type->group_id == NULL || type->display_name == NULL || !read_event_types(type, res))
	{
		worker_type_release(type);
		return NULL;
	}
	return type;
}

/* A refusal that only another setting mends; the rest may be mended while we wait. */
static int
type_refused(Worker *w, const DbError *why, char *error, size_t size)
{
	if (strcmp(why->sqlstate, "SN002") == 0 || strcmp(why->sqlstate, "SN003") == 0)
	{
		snprintf(error, size, "%s. %s%s%s", why->message, why->detail, why->detail[0] ? " " : "", why->hint);
		return -1;
	}
	if (!why->lost)
	{
		bool missing = strcmp(why->sqlstate, "3F000") == 0 || strcmp(why->sqlstate, "42883") == 0;

		health_bad(
			w, HEALTH_DATABASE, why->message,
			missing ? "CREATE EXTENSION sentinai, or ALTER EXTENSION sentinai UPDATE, as a superuser of that database"
					: why->hint);
	}
	return 1;
}

int
worker_type_fetch(Worker *w, Db *db, char *error, size_t size)
{
	DbParam params[] = {DB_TEXT(w->config.worker_type), DB_TEXT(w->config.group_id)};
	PGresult *res = db_call(db, &statement_config, params);
	WorkerType *type;

	if (res == NULL)
		return type_refused(w, db_error(db), error, size);
	type = PQntuples(res) > 0 ? read_type(res) : NULL;
	PQclear(res);
	if (type == NULL)
		return 1;
	worker_type_set(w, type);
	if (atomic_load(&w->connections_down) == 0)
		health_good(w, HEALTH_DATABASE);
	return 0;
}

/* ---- health ---- */

#define HEALTH_REPEAT_MS 30000

const char *
health_name(HealthSubject subject)
{
	static const char *const names[HEALTH_SUBJECTS] = {"database", "broker", "topic",  "offsets",
													   "consume",  "paused", "publish"};

	return names[subject];
}

/*
 * One line when the state changes; another reason for the same state is a line too, but not more often than every 30 s: two
 * connections may see an outage differently.
 */
void
health_bad(Worker *w, HealthSubject subject, const char *reason, const char *hint)
{
	Health *health = &w->health[subject];
	int64_t now = now_ms();
	bool changed;
	bool log;

	pthread_mutex_lock(&w->health_lock);
	changed = !health->bad;
	log = changed || (strncmp(health->reason, reason, sizeof(health->reason) - 1) != 0 &&
					  now - health->logged_ms >= HEALTH_REPEAT_MS);
	health->bad = true;
	snprintf(health->reason, sizeof(health->reason), "%s", reason);
	if (changed)
		health->since_ms = now;
	if (log)
		health->logged_ms = now;
	pthread_mutex_unlock(&w->health_lock);
	if (log)
		log_warning(changed ? "degraded" : "still degraded", F_TEXT("subject", health_name(subject)),
					F_TEXT("reason", reason), F_TEXT("hint", hint != NULL && *hint != '\0' ? hint : NULL));
}

void
health_good(Worker *w, HealthSubject subject)
{
	Health *health = &w->health[subject];
	int64_t lasted = 0;
	bool changed;

	pthread_mutex_lock(&w->health_lock);
	changed = health->bad;
	if (changed)
	{
		int64_t now = now_ms();

		lasted = now - health->since_ms;
		health->since_ms = now;
		health->bad = false;
		health->reason[0] = '\0';
	}
	pthread_mutex_unlock(&w->health_lock);
	if (changed)
		log_info("recovered", F_TEXT("subject", health_name(subject)), F_INT("after_ms", lasted));
}

Health
health_get(Worker *w, HealthSubject subject)
{
	Health copy;

	pthread_mutex_lock(&w->health_lock);
	copy = w->health[subject];
	pthread_mutex_unlock(&w->health_lock);
	return copy;
}

bool
health_all_good(Worker *w, HealthSubject *subject, char *reason, size_t size)
{
	bool good = true;

	pthread_mutex_lock(&w->health_lock);
	for (int i = 0; i < HEALTH_SUBJECTS && good; i++)
	{
		if (!w->health[i].bad)
			continue;
		good = false;
		*subject = (HealthSubject) i;
		snprintf(reason, size, "%s", w->health[i].reason);
	}
	pthread_mutex_unlock(&w->health_lock);
	return good;
}

const char *
worker_status(Worker *w, char *reason, size_t size)
{
	HealthSubject subject;
	char text[300];
	bool started;

	reason[0] = '\0';
	if (worker_stopping(w))
		return "stopping";
	if (!health_all_good(w, &subject, text, sizeof(text)))
	{
		snprintf(reason, size, "%s: %s", health_name(subject), text);
		return "degraded";
	}
	pthread_mutex_lock(&w->type_lock);
	started = w->type != NULL;
	pthread_mutex_unlock(&w->type_lock);
	return started && atomic_load(&w->broker_up) ? "healthy" : "starting";
}
