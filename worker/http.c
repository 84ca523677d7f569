/*
 * http.c
 *	  libmicrohttpd with a table of pages; see http.h. Every body but that of /metrics is a JSON object, errors too.
 *
 * Threads: two of libmicrohttpd's, each with its share of the connections, so that one page that waits for the database
 * leaves the others quick.
 */
#include "http.h"

#include <errno.h>
#include <netdb.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cjson/cJSON.h>
#include <microhttpd.h>

#include "health.h"
#include "health_db.h"
#include "log.h"
#include "worker.h"

#define N_THREADS 2
#define MAX_CONNECTIONS 64
#define IDLE_TIMEOUT_S 15
#define PORT_STEP 10
#define PORT_TRIES 10

/* The figure of dead letters is asked for by scrapes, at most so often. */
#define DLQ_REFRESH_MS 5000

struct Http
{
	struct MHD_Daemon *daemon;
	Worker *w;
	HealthDb *db;
	_Atomic int64_t dlq_due_ms;
};

/* Returns the status code; *body is the caller's to free. */
typedef int (*PageFn)(Http *http, char **body);

static char *
json_with(const char *name, const char *text, const char *other_name, const char *other_text)
{
	cJSON *json = cJSON_CreateObject();
	char *body;

	cJSON_AddStringToObject(json, name, text);
	if (other_name != NULL)
		cJSON_AddStringToObject(json, other_name, other_text);
	body = cJSON_PrintUnformatted(json);
	cJSON_Delete(json);
	return body;
}

static void
dlq_refresh(Http *http)
{
	int64_t now = now_ms();
	int64_t due = atomic_load(&http->dlq_due_ms);
	char error[256];
	PGresult *rows;

	if (now < due || !atomic_compare_exchange_strong(&http->dlq_due_ms, &due, now + DLQ_REFRESH_MS))
		return;
	rows = health_db_ask(http->db, "SELECT tenant_id, size FROM sentinai.dlq_size()", false, error, sizeof(error));
	metrics_dlq_begin(http->w->metrics);
	for (int i = 0; i < PQntuples(rows); i++)
		metrics_dlq_size(http->w->metrics, PQgetvalue(rows, i, 0), strtoll(PQgetvalue(rows, i, 1), NULL, 10));
	metrics_dlq_end(http->w->metrics, rows != NULL);
	PQclear(rows);
}

static int
page_metrics(Http *http, char **body)
{
	dlq_refresh(http);
	health_export(http->w);
	*body = metrics_render(http->w->metrics);
	return MHD_HTTP_OK;
}

static int
page_health(Http *http, char **body)
{
	return health_summary(http->w, body);
}

static int
page_healthz(Http *http, char **body)
{
	return health_healthz(http->w, now_ms(), body);
}

static int
page_readyz(Http *http, char **body)
{
	return health_readyz(http->w, body);
}

/* The JSON that a function without parameters answers. */
static int
page_of_database(Http *http, const char *sql, char **body)
{
	char error[256];
	PGresult *rows = health_db_ask(http->db, sql, true, error, sizeof(error));

	if (rows == NULL || PQntuples(rows) != 1 || PQgetisnull(rows, 0, 0))
	{
		*body = json_with("status", "unavailable", "error", rows == NULL ? error : "no answer");
		PQclear(rows);
		return MHD_HTTP_SERVICE_UNAVAILABLE;
	}
	*body = strdup(PQgetvalue(rows, 0, 0));
	PQclear(rows);
	return MHD_HTTP_OK;
}

static int
page_health_db(Http *http, char **body)
{
	return page_of_database(http, "SELECT sentinai.health_db()", body);
}

static int
page_health_workers(Http *http, char **body)
{
	return page_of_database(http, "SELECT sentinai.health_workers()", body);
}

#define JSON_TYPE "application/json"

static const struct
{
	const char *path;
	PageFn page;
	const char *type;
} pages[] = {
	{"/health", page_health, JSON_TYPE},
	{"/health/db", page_health_db, JSON_TYPE},
	{"/health/workers", page_health_workers, JSON_TYPE},
	{"/healthz", page_healthz, JSON_TYPE},
	{"/metrics", page_metrics, "text/plain; version=0.0.4; charset=utf-8"},
	{"/readyz", page_readyz, JSON_TYPE},
};

#define N_PAGES (sizeof(pages) / sizeof(pages[0]))

static enum MHD_Result
answer(struct MHD_Connection *connection, int status, const char *type, char *body)
{
	struct MHD_Response *response =
		MHD_create_response_from_buffer(body == NULL ? 0 : strlen(body), body, MHD_RESPMEM_MUST_FREE);
	enum MHD_Result result;

	if (response == NULL)
	{
		free(body);
		return MHD_NO;
	}
	MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, type);
	MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
	if (status == MHD_HTTP_METHOD_NOT_ALLOWED)
		MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW, "GET, HEAD");
	result = MHD_queue_response(connection, (unsigned int) status, response);
	MHD_destroy_response(response);
	return result;
}

/* Thread: one of libmicrohttpd's. */
static enum MHD_Result
handle(void *arg, struct MHD_Connection *connection, const char *url, const char *method, const char *version,
	   const char *upload_data, size_t *upload_data_size, void **request)
{
	Http *http = arg;
	char *body = NULL;
	int status;
	size_t i = 0;

	(void) version;
	(void) upload_data;
	(void) upload_data_size;
	(void) request;
	while (i < N_PAGES && strcmp(pages[i].path, url) != 0)
		i++;
	if (i == N_PAGES)
		return answer(connection, MHD_HTTP_NOT_FOUND, JSON_TYPE,
					  json_with("error", "not found", "hint",
								"paths: /health /health/db /health/workers /healthz /metrics /readyz"));
	if (strcmp(method, MHD_HTTP_METHOD_GET) != 0 && strcmp(method, MHD_HTTP_METHOD_HEAD) != 0)
		return answer(connection, MHD_HTTP_METHOD_NOT_ALLOWED, JSON_TYPE,
					  json_with("error", "method not allowed", "hint", "use GET or HEAD"));
	status = pages[i].page(http, &body);
	return answer(connection, status, pages[i].type, body);
}

/* A listening socket, or -1 and errno. */
static int
listen_on(const char *address, int port)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE};
	struct addrinfo *found;
	char port_text[16];
	int fd = -1;
	int yes = 1;
	int error = EADDRNOTAVAIL;

	snprintf(port_text, sizeof(port_text), "%d", port);
	if (address != NULL && address[0] == '\0')
		address = NULL;
	if (getaddrinfo(address, port_text, &hints, &found) != 0)
	{
		errno = error;
		return -1;
	}
	for (struct addrinfo *a = found; a != NULL && fd < 0; a = a->ai_next)
	{
		fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC, a->ai_protocol);
		if (fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes)) == 0 &&
			bind(fd, a->ai_addr, a->ai_addrlen) == 0 && listen(fd, SOMAXCONN) == 0)
			break;
		if (error != EADDRINUSE)
			error = errno;
		if (fd >= 0)
			close(fd);
		fd = -1;
	}
	freeaddrinfo(found);
	errno = error;
	return fd;
}

static int
listen_near(const char *address, int port, int *got)
{
	for (int i = 0; i < PORT_TRIES && port + i * PORT_STEP <= 65535; i++)
	{
		int fd = listen_on(address, port + i * PORT_STEP);

		if (fd >= 0)
		{
			*got = port + i * PORT_STEP;
			return fd;
		}
		if (errno != EADDRINUSE)
			break;
	}
	return -1;
}

Http *
http_start(Worker *w, int port)
{
	const char *address = w->config.http_address;
	Http *http = calloc(1, sizeof(Http));
	int got = 0;
	int fd = listen_near(address, port, &got);

	if (fd < 0)
	{
		log_error("no port could be had for HTTP", F_INT("first", port), F_TEXT("address", address),
				  F_TEXT("error", strerror(errno)), F_TEXT("hint", "set HTTP_PORT to a free one"));
		free(http);
		return NULL;
	}
	http->w = w;
	http->db = health_db_new(w->config.database_url);
	http->daemon = MHD_start_daemon(MHD_USE_AUTO | MHD_USE_INTERNAL_POLLING_THREAD, 0, NULL, NULL, handle, http,
									MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_THREAD_POOL_SIZE, (unsigned int) N_THREADS,
									MHD_OPTION_CONNECTION_LIMIT, (unsigned int) MAX_CONNECTIONS,
									MHD_OPTION_CONNECTION_TIMEOUT, (unsigned int) IDLE_TIMEOUT_S, MHD_OPTION_END);
	if (http->daemon == NULL)
	{
		log_error("the HTTP server did not start", F_INT("port", got));
		close(fd);
		health_db_free(http->db);
		free(http);
		return NULL;
	}
	atomic_store(&w->http_port, got);
	if (got != port)
		log_warning("the HTTP port is taken, the next free one serves", F_INT("taken", port));
	log_info("listening", F_TEXT("address", address), F_INT("http_port", got));
	return http;
}

void
http_stop(Http *http)
{
	if (http == NULL)
		return;
	MHD_stop_daemon(http->daemon); /* closes the socket, ends the threads */
	health_db_free(http->db);
	free(http);
}
