/*
 * config.h
 *	  The settings of a worker process: what they are, where they come from, what is refused.
 *
 * One table (options[] in config.c) feeds the environment's parser, the flags' parser, --help and, by --help-markdown,
 * docs/worker-settings.md. A flag wins over its variable. What the database decides (topic, group, handlers) is not here:
 * see WorkerType in worker.h.
 *
 * A Config is written by config_read() before any thread exists and never changed afterwards, so everybody may read it.
 */
#ifndef WORKER_CONFIG_H
#define WORKER_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include <librdkafka/rdkafka.h>

typedef enum LogFormat
{
	LOG_LOGFMT,
	LOG_JSON
} LogFormat;

/* What the process is to do. */
typedef enum ConfigAction
{
	ACTION_RUN,
	ACTION_CHECK, /* --check: connect to both sides, print what was found, end */
	ACTION_HELP,
	ACTION_HELP_MARKDOWN,
	ACTION_VERSION
} ConfigAction;

/* A property of librdkafka as the user set it. */
typedef struct KafkaProperty
{
	char *name; /* with dots */
	char *value;
} KafkaProperty;

typedef struct Config
{
	ConfigAction action;

	char *worker_type;
	int concurrency;
	char *group_id;			 /* NULL: the group of the worker type's row */
	char *group_instance_id; /* NULL: no static membership */
	char *database_url;		 /* as libpq takes it; holds the password: never logged */
	char *kafka_bootstrap_servers;
	bool allow_future_schema;
	bool metrics_include_tenant_id;
	int batch;	   /* most events of one call */
	int linger_ms; /* publisher: linger.ms */
	bool publish;  /* take part in publishing the outbox */
	int http_port; /* 0: the port of the worker type's row */
	char *http_address;
	int shutdown_timeout; /* seconds */
	int log_format;		  /* LogFormat */
	bool log_events;
	int log_level; /* LogLevel of log.h */

	KafkaProperty *kafka; /* KAFKA_CONF_* and --kafka-conf */
	int n_kafka;
} Config;

/* Long enough for every message of config.c. */
#define CONFIG_ERROR_MAX 600

/*
 * Fills *config from the environment and the arguments. False: error holds one line that says what to write instead. For
 * the actions that print and end (help, version) nothing but the flags is checked.
 */
extern bool config_read(Config *config, int argc, char **argv, char **environment, char error[CONFIG_ERROR_MAX]);
extern void config_free(Config *config);

extern void config_help(FILE *out);
extern void config_help_markdown(FILE *out);

/*
 * Sets bootstrap.servers, client.id and the user's properties. What the promises of the process need is set by the caller
 * afterwards: the user can't have set it (see refused[]).
 */
extern bool config_kafka(const Config *config, rd_kafka_conf_t *conf, char error[CONFIG_ERROR_MAX]);

/* DATABASE_URL for people: user@host:port/dbname, without password. Returns buffer. */
extern char *config_database_shown(const Config *config, char *buffer, size_t size);

/*
 * The setting that this entry of the environment is most likely meant to be, where its name is nearly but not quite that
 * one's; NULL: it is a setting, or another program's.
 */
extern const char *config_nearly(const char *entry);

/* Exposed for the unit tests: an URL of SQLAlchemy's kind as libpq takes it. The result is the caller's. */
extern char *config_database_url(const char *url);

#endif /* WORKER_CONFIG_H */
