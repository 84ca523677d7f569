/*
 * report_pdf.c
 *	  Feeds the program that draws PDFs (sentinai.report_pdf_program): JSON Lines through a pipe, the PDF back through
 *	  another one once the last line is read. What draws text of any kind has no place in a server; whatever becomes of
 *	  the program, one report fails with its message.
 *
 * The program limits its own memory and processor time and refuses sockets; it gets no file of ours but its three pipes,
 * and dies with us. Nothing waits here without looking at the deadline and at interrupts.
 */
#include "sentinai.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/stringinfo.h"
#include "libpq/pqsignal.h"
#include "pgstat.h"
#include "storage/latch.h"

#include "guc.h"
#include "report_pdf.h"

#define ERRORS_MAX 1000

struct SnReportPdf
{
	pid_t pid;
	int input;	/* its standard input, our end; -1: closed */
	int output; /* its standard output */
	int errors; /* its standard error */
	TimestampTz deadline;
	bool broken; /* it reads no more: finish says why */
};

/* ---- starting ---- */

/*
 * A name without a path is looked for beside the server's own program first, where `make install` puts it: the PATH that
 * Debian starts its servers with has little in it.
 */
static char *
find_program(void)
{
	const char *slash = last_dir_separator(my_exec_path);
	char *beside;

	if (first_dir_separator(sn_report_pdf_program) != NULL || slash == NULL)
		return sn_report_pdf_program;
	beside = psprintf("%.*s/%s", (int) (slash - my_exec_path), my_exec_path, sn_report_pdf_program);
	return access(beside, X_OK) == 0 ? beside : sn_report_pdf_program;
}

/* Between fork and exec: async-signal-safe calls only. */
static void
become_program(char *program, int input, int output, int errors)
{
	static const int signals[] = {SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGALRM, SIGPIPE, SIGCHLD};
	static const char failed[] = "could not be started\n";
	char *argv[] = {program, NULL};
	sigset_t none;

	(void) prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (int i = 0; i < lengthof(signals); i++)
		(void) signal(signals[i], SIG_DFL);
	sigemptyset(&none);
	(void) sigprocmask(SIG_SETMASK, &none, NULL);
	if (dup2(input, 0) == 0 && dup2(output, 1) == 1 && dup2(errors, 2) == 2 && syscall(SYS_close_range, 3, ~0U, 0) == 0)
		(void) execvp(argv[0], argv);
	(void) !write(2, failed, sizeof(failed) - 1);
	_exit(127);
}

static void
make_pipe(int ends[2])
{
	if (pipe2(ends, O_CLOEXEC) != 0)
		ereport(ERROR, (errcode_for_file_access(), errmsg("could not make a pipe: %m")));
}

static int
set_nonblocking(int fd)
{
	if (fcntl(fd, F_SETFL, O_NONBLOCK) != 0)
		ereport(ERROR, (errcode_for_file_access(), errmsg("could not set up a pipe: %m")));
	return fd;
}

SnReportPdf *
sn_report_pdf_start(TimestampTz deadline)
{
	SnReportPdf *pdf = palloc0(sizeof(SnReportPdf));
	char *program = find_program();
	int input[2];
	int output[2];
	int errors[2];
	sigset_t all;
	sigset_t before;

	make_pipe(input);
	make_pipe(output);
	make_pipe(errors);
	sigfillset(&all);
	(void) sigprocmask(SIG_SETMASK, &all, &before);
	pdf->pid = fork();
	if (pdf->pid == 0)
		become_program(program, input[0], output[1], errors[1]);
	(void) sigprocmask(SIG_SETMASK, &before, NULL);
	if (pdf->pid < 0)
		ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_RESOURCES), errmsg("could not start another process: %m")));
	close(input[0]);
	close(output[1]);
	close(errors[1]);
	pdf->input = set_nonblocking(input[1]);
	pdf->output = set_nonblocking(output[0]);
	pdf->errors = set_nonblocking(errors[0]);
	pdf->deadline = deadline;
	return pdf;
}

/* ---- feeding ---- */

/* Until the pipe is ready, the deadline, or an interrupt. */
static void
wait_for_pipe(SnReportPdf *pdf, int fd, uint32 event)
{
	long left_ms = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), pdf->deadline);

	if (left_ms == 0)
		ereport(ERROR, (errcode(ERRCODE_QUERY_CANCELED), errmsg("the PDF took too long")));
	(void) WaitLatchOrSocket(MyLatch, WL_LATCH_SET | event | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, fd, left_ms,
							 PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

/* A program that has ended reads no more; why is said by sn_report_pdf_finish(). */
void
sn_report_pdf_feed(SnReportPdf *pdf, const char *data, size_t size)
{
	while (size > 0 && !pdf->broken)
	{
		ssize_t n = write(pdf->input, data, size);

		if (n >= 0)
		{
			data += n;
			size -= n;
		}
		else if (errno == EAGAIN || errno == EWOULDBLOCK)
			wait_for_pipe(pdf, pdf->input, WL_SOCKET_WRITEABLE);
		else if (errno != EINTR)
			pdf->broken = true;
	}
}

/* ---- its answer ---- */

/* The next bytes of a pipe; 0: its end. */
static size_t
read_some(SnReportPdf *pdf, int fd, char *buffer, size_t size)
{
	for (;;)
	{
		ssize_t n = read(fd, buffer, size);

		if (n >= 0)
			return n;
		if (errno == EAGAIN || errno == EWOULDBLOCK)
			wait_for_pipe(pdf, fd, WL_SOCKET_READABLE);
		else if (errno != EINTR)
			ereport(ERROR, (errcode_for_file_access(), errmsg("could not read from the program that draws PDFs: %m")));
	}
}

/* Its first line on standard error. */
static char *
read_errors(SnReportPdf *pdf)
{
	char *text = palloc0(ERRORS_MAX + 1);
	size_t length = 0;
	size_t n;

	while (length < ERRORS_MAX && (n = read_some(pdf, pdf->errors, text + length, ERRORS_MAX - length)) > 0)
		length += n;
	text[strcspn(text, "\n")] = '\0';
	return text;
}

/* There is no more to draw: what it writes from now on can be read. */
void
sn_report_pdf_end_input(SnReportPdf *pdf)
{
	close(pdf->input);
}

/* Appends up to so many bytes of the PDF; false: that was its end. */
bool
sn_report_pdf_read(SnReportPdf *pdf, StringInfo out, int size)
{
	size_t n;

	enlargeStringInfo(out, size);
	n = read_some(pdf, pdf->output, out->data + out->len, size);
	out->len += n;
	return n > 0;
}

/* Waits for its end. Raises SN076 with what the program said if it failed, or there is no PDF. */
void
sn_report_pdf_finish(SnReportPdf *pdf, bool any_output)
{
	char *said = read_errors(pdf);
	int status = 0;

	close(pdf->output);
	close(pdf->errors);
	while (waitpid(pdf->pid, &status, 0) < 0 && errno == EINTR)
		;
	if (status != 0 || !any_output)
		ereport(ERROR, (errcode(SN_ERRCODE("SN076")),
						errmsg("the PDF could not be drawn: %s",
							   *said != '\0'		 ? said
							   : WIFSIGNALED(status) ? psprintf("the program was ended by signal %d", WTERMSIG(status))
													 : "the program said nothing"),
						errhint("The program is sentinai.report_pdf_program, \"%s\".", sn_report_pdf_program)));
}
