/*
 * guard.c
 *	  Signals and the time of the shutdown. See guard.h.
 */
#include "guard.h"

#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "log.h"

/* Of the shutdown's time, what is left for a cancelled statement, the commit and leaving the group. */
#define ABORT_BEFORE_MS 5000

static pthread_t thread;
static int signal_fd = -1;

static void
fill_set(sigset_t *set)
{
	sigemptyset(set);
	sigaddset(set, SIGTERM);
	sigaddset(set, SIGINT);
}

void
guard_block_signals(void)
{
	sigset_t set;

	fill_set(&set);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	/* A peer that is gone is an error of the call. */
	signal(SIGPIPE, SIG_IGN);
}

/* Nothing that is lost here was acknowledged: the database has what was handled, the rest is read again. */
static void
give_up(const char *why)
{
	log_error("ended before everything was finished; what was in flight is read again", F_TEXT("reason", why));
	_exit(1);
}

/* The name of a signal that has come; NULL: none. */
static const char *
read_signal(void)
{
	struct signalfd_siginfo info;

	if (read(signal_fd, &info, sizeof(info)) != (ssize_t) sizeof(info))
		return NULL;
	return info.ssi_signo == SIGINT ? "SIGINT" : "SIGTERM";
}

static void
on_signal(Worker *w)
{
	const char *name = read_signal();

	if (name == NULL)
		return;
	if (worker_stopping(w))
		give_up("a second signal");
	log_info("stopping: what is in flight is finished", F_TEXT("signal", name),
			 F_INT("timeout_s", w->config.shutdown_timeout));
	worker_set_phase(w, PHASE_STOPPING);
}

/* Returns how long to wait for the next step. */
static int64_t
keep_time(Worker *w, int64_t stopping_since)
{
	int64_t limit = (int64_t) w->config.shutdown_timeout * 1000;
	int64_t before = limit / 2 < ABORT_BEFORE_MS ? limit / 2 : ABORT_BEFORE_MS;
	int64_t passed = now_ms() - stopping_since;

	if (passed >= limit)
		give_up("SHUTDOWN_TIMEOUT is over");
	if (passed >= limit - before)
	{
		worker_set_phase(w, PHASE_ABORTING);
		return limit - passed;
	}
	return limit - before - passed;
}

/* The stop descriptor stays readable: it is waited for only until it has been seen. */
static void *
guard_main(void *arg)
{
	Worker *w = arg;
	int64_t stopping_since = 0;

	while (worker_phase(w) != PHASE_ENDED)
	{
		struct pollfd fds[2] = {{signal_fd, POLLIN, 0}, {w->stop_fd, POLLIN, 0}};
		int64_t wait = 1000;

		if (worker_stopping(w))
		{
			if (stopping_since == 0)
				stopping_since = now_ms();
			wait = keep_time(w, stopping_since);
		}
		/* at the end main sets PHASE_ENDED and waits for us: not for long */
		if (poll(fds, worker_stopping(w) ? 1 : 2, wait < 50 ? (int) wait : 50) > 0 && fds[0].revents != 0)
			on_signal(w);
	}
	return NULL;
}

bool
guard_start(Worker *w)
{
	sigset_t set;

	fill_set(&set);
	signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	return signal_fd >= 0 && pthread_create(&thread, NULL, guard_main, w) == 0;
}

void
guard_stop(Worker *w)
{
	worker_set_phase(w, PHASE_ENDED);
	pthread_join(thread, NULL);
	close(signal_fd);
}
