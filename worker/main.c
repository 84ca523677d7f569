/*
 * main.c
 *	  The boot order of sentinai-worker, and the phases of its end.
 */
#include <stdio.h>

#include "config.h"
#include "log.h"
#include "worker.h"

extern char **environ;

int
main(int argc, char **argv)
{
	static Worker worker;
	char error[CONFIG_ERROR_MAX];

	if (!config_read(&worker.config, argc, argv, environ, error))
	{
		fprintf(stderr, "sentinai-worker: %s\n", error);
		return 1;
	}
	switch (worker.config.action)
	{
		case ACTION_HELP:
			config_help(stdout);
			break;
		case ACTION_HELP_MARKDOWN:
			config_help_markdown(stdout);
			break;
		case ACTION_VERSION:
			printf("sentinai-worker %s\n", SENTINAI_VERSION);
			break;
		case ACTION_RUN:
		case ACTION_CHECK:
			break;
	}
	config_free(&worker.config);
	return 0;
}
