/*
 * knock.c
 *	  One client for two servers: asks PostgreSQL and Redis the same question in the same loop, so that what differs is the server.
 *
 *	  knock pg CONNINFO CLIENTS THREADS SECONDS KEYS [STATEMENT]
 *	  knock call CONNINFO CLIENTS THREADS SECONDS KEYS
 *	  knock redis HOST:PORT|SOCKET CLIENTS THREADS SECONDS KEYS SCRIPT_SHA
 *	  knock pair CONNINFO CLIENTS THREADS SECONDS KEYS STATEMENT STATEMENT
 *
 * Each thread waits by epoll for its share of the connections, each of which asks again once it has its answer: one system call to send
 * and one to receive. Of PostgreSQL a prepared statement with the parameters key and limit type, as drivers do it: Bind, Execute, Sync;
 * what the columns are was asked when it was prepared. "call" sends a message Function Call for rate_limit_allowed(), as libpq's PQfn()
 * does: no statement, as EVALSHA is none. KEYS above 1: the key is one of that many, by chance, else always the
 * same. Prints calls a second, and how many there were.
 *
 * "pair" asks two statements in turns of 10 ms on the same connections, so that one process, one backend and one placement on the
 * processors serve both, and whatever else the machine does meets both alike. Which of the two begins a pair of turns is
 * chance. Prints the calls a second of each, and how many there were.
 */
#include <errno.h>
#include <libpq-fe.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <arpa/inet.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>

#define MAX_CLIENTS 64
#define TURN 0.010 /* seconds */

typedef struct Client
{
	int fd;
	int asked; /* which statement */
	unsigned char in[4096];
	size_t n_in;
} Client;

typedef struct Thread
{
	pthread_t thread;
	int poll;
	int n_clients;
	Client *clients[MAX_CLIENTS];
	unsigned seed;
	long calls[2];
	double start;
	double took;
} Thread;

static bool is_redis;
static const char *sha;
static const char *statements[2] = {
	"SELECT sentinai.rate_limit_allowed($1, 'api_requests')"}; /* the second one: of "pair" */
static unsigned function;									   /* of "call", else 0 */
static long n_keys;
static double length;
static bool has_key[2];

static void
die(const char *what, const char *why)
{
	fprintf(stderr, "knock: %s: %s\n", what, why);
	exit(1);
}

static double
seconds_now(void)
{
	struct timespec at;

	clock_gettime(CLOCK_MONOTONIC, &at);
	return at.tv_sec + at.tv_nsec / 1e9;
}

/* ---- connecting ---- */

/* The name of a statement is its number. */
static void
prepare(PGconn *conn, int which)
{
	const char *name = which == 0 ? "0" : "1";
	PGresult *result = PQprepare(conn, name, statements[which], 0, NULL);

	if (PQresultStatus(result) != PGRES_COMMAND_OK)
		die("prepare", PQerrorMessage(conn));
	PQclear(result);
	result = PQdescribePrepared(conn, name);
	has_key[which] = PQnparams(result) > 0;
	PQclear(result);
}

/* libpq logs in and prepares; from then on its socket is ours. */
static int
connect_pg(const char *conninfo)
{
	PGconn *conn = PQconnectdb(conninfo);
	PGresult *result;

	if (PQstatus(conn) != CONNECTION_OK)
		die("connect", PQerrorMessage(conn));
	for (int i = 0; i < 2 && statements[i]; i++)
		prepare(conn, i);
	if (function)
	{
		result = PQexec(conn, "SELECT 'sentinai.rate_limit_allowed'::regproc::oid");
		function = strtoul(PQgetvalue(result, 0, 0), NULL, 10);
		PQclear(result);
	}
	return PQsocket(conn);
}

static int
connect_redis(const char *where)
{
	const char *colon = strrchr(where, ':');
	struct sockaddr_un local = {.sun_family = AF_UNIX};
	struct sockaddr_in loopback = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = socket(colon ? AF_INET : AF_UNIX, SOCK_STREAM, 0);
	int one = 1;
	int failed;

	snprintf(local.sun_path, sizeof(local.sun_path), "%s", where);
	if (colon)
	{
		loopback.sin_port = htons(atoi(colon + 1));
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
		failed = connect(fd, (struct sockaddr *) &loopback, sizeof(loopback));
	}
	else
		failed = connect(fd, (struct sockaddr *) &local, sizeof(local));
	if (failed)
		die(where, strerror(errno));
	return fd;
}

/* ---- asking ---- */

static char *
put16(char *to, int n)
{
	*to++ = n >> 8;
	*to++ = n;
	return to;
}

static char *
put32(char *to, int n)
{
	return put16(put16(to, n >> 16 & 0xffff), n & 0xffff);
}

static char *
put_text(char *to, const char *text)
{
	return stpcpy(put32(to, strlen(text)), text);
}

static size_t
ask_call(char *to, const char *key)
{
	char *start = to;

	*to = 'F';
	to = put32(to + 5, function);
	to = put16(to, 0); /* arguments are text */
	to = put16(to, 3);
	to = put_text(put_text(put_text(to, key), "api_requests"), "1");
	to = put16(to, 0); /* so is the result */
	put32(start + 1, to - start - 1);
	return to - start;
}

static size_t
ask_pg(char *to, int which, const char *key)
{
	char *start = to;
	char *length = to + 1;

	*to = 'B';
	to += 5;
	*to++ = '\0';		 /* the portal */
	*to++ = '0' + which; /* the statement */
	*to++ = '\0';
	to = put16(to, 0); /* parameters are text */
	to = put16(to, has_key[which]);
	if (has_key[which])
		to = put_text(to, key);
	to = put16(to, 0); /* so are results */
	put32(length, to - length);
	memcpy(to, "E\0\0\0\11\0\0\0\0\0S\0\0\0\4", 15);
	return to + 15 - start;
}

static size_t
ask_redis(char *to, const char *key)
{
	return sprintf(to, "*6\r\n$7\r\nEVALSHA\r\n$40\r\n%s\r\n$1\r\n1\r\n$%zu\r\n%s\r\n$2\r\n60\r\n$4\r\n1000\r\n", sha,
				   strlen(key), key);
}

/* Whose turn it is. The first of a pair of turns is a bit of the pair's number, mixed as by Knuth (TAOCP 3, 6.4). */
static int
turn_now(double since)
{
	unsigned turn = (seconds_now() - since) / TURN;

	return ((turn / 2 * 2654435761u) >> 31) ^ (turn & 1);
}

static void
ask(Thread *thread, Client *client)
{
	char request[512];
	char key[32] = "T1";
	size_t size;

	if (n_keys > 1)
		snprintf(key, sizeof(key), "%ld", 1 + rand_r(&thread->seed) % n_keys);
	client->asked = statements[1] ? turn_now(thread->start) : 0;
	size = is_redis ? ask_redis(request, key) : function ? ask_call(request, key) : ask_pg(request, client->asked, key);
	if (send(client->fd, request, size, MSG_NOSIGNAL) != (ssize_t) size)
		die("send", strerror(errno));
}

/* ---- being answered ---- */

/* Bytes of the message at the front, 0: it isn't whole. *last: it is the last of an answer. */
static size_t
message_pg(const unsigned char *in, size_t n, bool *last)
{
	size_t size = n < 5 ? 0 : 1 + ((size_t) in[1] << 24 | in[2] << 16 | in[3] << 8 | in[4]);

	if (size == 0 || size > n)
		return 0;
	if (in[0] == 'E')
		die("PostgreSQL raised an error", (const char *) in + 5);
	*last = in[0] == 'Z';
	return size;
}

static size_t
message_redis(const unsigned char *in, size_t n, bool *last)
{
	const unsigned char *end = n == 0 ? NULL : memchr(in, '\n', n);

	if (end == NULL)
		return 0;
	if (in[0] == '-')
		die("Redis raised an error", (const char *) in + 1);
	*last = true;
	return end + 1 - in;
}

/* Takes what came. True: that was an answer. */
static bool
answered(Client *client)
{
	ssize_t got = recv(client->fd, client->in + client->n_in, sizeof(client->in) - 1 - client->n_in, 0);
	bool last = false;
	size_t at = 0;
	size_t size;

	if (got <= 0)
		die("receive", got == 0 ? "the server has closed the connection" : strerror(errno));
	client->n_in += got;
	client->in[client->n_in] = '\0';
	while (!last && (size = is_redis ? message_redis(client->in + at, client->n_in - at, &last)
									 : message_pg(client->in + at, client->n_in - at, &last)) > 0)
		at += size;
	memmove(client->in, client->in + at, client->n_in - at);
	client->n_in -= at;
	return last;
}

/* ---- the run ---- */

static void *
run(void *arg)
{
	Thread *thread = arg;
	struct epoll_event ready[MAX_CLIENTS];

	thread->start = seconds_now();
	for (int i = 0; i < thread->n_clients; i++)
		ask(thread, thread->clients[i]);
	while ((thread->took = seconds_now() - thread->start) < length)
	{
		int n = epoll_wait(thread->poll, ready, MAX_CLIENTS, -1);

		for (int i = 0; i < n; i++)
		{
			Client *client = ready[i].data.ptr;

			if (!answered(client))
				continue;
			thread->calls[client->asked]++;
			ask(thread, client);
		}
	}
	return NULL;
}

static void
add_client(Thread *thread, Client *client, const char *where)
{
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = client};

	client->fd = is_redis ? connect_redis(where) : connect_pg(where);
	thread->clients[thread->n_clients++] = client;
	epoll_ctl(thread->poll, EPOLL_CTL_ADD, client->fd, &event);
}

int
main(int argc, char **argv)
{
	static Client clients[MAX_CLIENTS];
	static Thread threads[MAX_CLIENTS];
	int n_clients = argc < 7 ? 0 : atoi(argv[3]);
	int n_threads = argc < 7 ? 0 : atoi(argv[4]);
	long calls[2] = {0};
	double rate[2] = {0};

	if (n_clients < 1 || n_clients > MAX_CLIENTS || n_threads < 1 || n_threads > n_clients)
		die("usage", "knock pg|call|redis|pair WHERE CLIENTS THREADS SECONDS KEYS [STATEMENT|SCRIPT_SHA] [STATEMENT]");
	is_redis = strcmp(argv[1], "redis") == 0;
	function = strcmp(argv[1], "call") == 0;
	length = atof(argv[5]);
	n_keys = atol(argv[6]);
	if (argc > 7)
		*(is_redis ? &sha : &statements[0]) = argv[7];
	if (argc > 8)
		statements[1] = argv[8];
	for (int i = 0; i < n_threads; i++)
	{
		threads[i].poll = epoll_create1(0);
		threads[i].seed = i + 1;
	}
	for (int i = 0; i < n_clients; i++)
		add_client(&threads[i % n_threads], &clients[i], argv[2]);
	for (int i = 0; i < n_threads; i++)
		if (pthread_create(&threads[i].thread, NULL, run, &threads[i]) != 0)
			die("thread", strerror(errno));
	for (int i = 0; i < n_threads; i++)
	{
		pthread_join(threads[i].thread, NULL);
		for (int j = 0; j < 2; j++)
		{
			calls[j] += threads[i].calls[j];
			/* of a pair, each has half of the time */
			rate[j] += threads[i].calls[j] / threads[i].took * (statements[1] ? 2 : 1);
		}
	}
	printf("%.0f %ld\n", rate[0], calls[0]);
	if (statements[1])
		printf("%.0f %ld\n", rate[1], calls[1]);
	return 0;
}
