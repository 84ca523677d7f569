/*
 * config.c
 *	  The settings of a worker process. options[] is the one place where a setting is written down; see config.h.
 */
#include "config.h"

#include <ctype.h>
#include <libpq-fe.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "log.h"

typedef enum OptionType
{
	OPTION_TEXT,
	OPTION_INTEGER,
	OPTION_BOOLEAN,
	OPTION_CHOICE
} OptionType;

typedef struct Option
{
	const char *variable;
	const char *flag;
	OptionType type;
	const char *fallback; /* as written, NULL: none */
	long min;			  /* integers */
	long max;
	const char *choices; /* choices: separated by |, the place is the value */
	size_t offset;		 /* in Config: char *, int or bool */
	bool required;
	const char *help;
} Option;

#define AT(field) offsetof(Config, field)

static const Option options[] = {
	{"WORKER_TYPE", "worker-type", OPTION_TEXT, NULL, 0, 0, NULL, AT(worker_type), true,
	 "Which worker to be: a row of sentinai.worker_type, for example intake, triage, policy, playbook, tool, feedback, sla_monitor."},
	{"CONCURRENCY", "concurrency", OPTION_INTEGER, "1", 1, 256, NULL, AT(concurrency), false,
	 "Processors: threads with a database connection each, among which the assigned partitions are spread."},
	{"GROUP_ID", "group-id", OPTION_TEXT, NULL, 0, 0, NULL, AT(group_id), false,
	 "Kafka consumer group. Default: the group of the worker type's row. Another one is refused with the line that changes the row."},
	{"DATABASE_URL", "database-url", OPTION_TEXT, NULL, 0, 0, NULL, AT(database_url), true,
	 "Where the extension is: a libpq URI or key=value string. postgresql+asyncpg:// and its like are accepted. Needs a direct connection or a session pool."},
	{"KAFKA_BOOTSTRAP_SERVERS", "kafka-bootstrap-servers", OPTION_TEXT, NULL, 0, 0, NULL, AT(kafka_bootstrap_servers),
	 true, "Brokers to start from: host:port, separated by commas."},
	{"ALLOW_FUTURE_SCHEMA", "allow-future-schema", OPTION_BOOLEAN, "false", 0, 0, NULL, AT(allow_future_schema), false,
	 "Accept events whose version is above 1."},
	{"METRICS_INCLUDE_TENANT_ID", "metrics-include-tenant-id", OPTION_BOOLEAN, "false", 0, 0, NULL,
	 AT(metrics_include_tenant_id), false,
	 "Name the tenant in the label tenant_id of this process's metrics; otherwise the label says all."},
	{"BATCH", "batch", OPTION_INTEGER, "1000", 1, 10000, NULL, AT(batch), false,
	 "Most events of one call of the database, due work included."},
	{"PUBLISH", "publish", OPTION_BOOLEAN, "true", 0, 0, NULL, AT(publish), false,
	 "Take part in publishing the outbox: one process of a database does it, the others stand by."},
	{"LINGER_MS", "linger-ms", OPTION_INTEGER, "20", 0, 900, NULL, AT(linger_ms), false,
	 "Milliseconds that the publisher gathers records before it sends them."},
	{"GROUP_INSTANCE_ID", "group-instance-id", OPTION_TEXT, NULL, 0, 0, NULL, AT(group_instance_id), false,
	 "Static membership: this member keeps its partitions over a restart within session.timeout.ms (and they lie unread meanwhile)."},
	{"HTTP_PORT", "http-port", OPTION_INTEGER, "0", 0, 65535, NULL, AT(http_port), false,
	 "Port of /metrics, /health, /healthz and /readyz. 0: the worker type's port, or the next free one of +10 ... +90."},
	{"HTTP_ADDRESS", "http-address", OPTION_TEXT, "0.0.0.0", 0, 0, NULL, AT(http_address), false,
	 "Address to listen on. All by default: probes and Prometheus come from outside of the container. 127.0.0.1 keeps it to this machine."},
	{"SHUTDOWN_TIMEOUT", "shutdown-timeout", OPTION_INTEGER, "25", 1, 3600, NULL, AT(shutdown_timeout), false,
	 "Seconds after SIGTERM in which the process finishes what is in flight; then it exits with 1."},
	{"LOG_FORMAT", "log-format", OPTION_CHOICE, "logfmt", 0, 0, "logfmt|json", AT(log_format), false,
	 "Form of a line of the log."},
	{"LOG_EVENTS", "log-events", OPTION_BOOLEAN, "true", 0, 0, NULL, AT(log_events), false,
	 "A line for each event that the database has taken, with its ids and place (level info). What became of it says sentinai.event_why()."},
	{"LOG_LEVEL", "log-level", OPTION_CHOICE, "info", 0, 0, "debug|info|warning|error", AT(log_level), false,
	 "Least level that is logged."},
};

/* Longer names than any of ours are no misspelt ones. */
#define NAME_MAX_NEARLY 40

#define N_OPTIONS ((int) (sizeof(options) / sizeof(options[0])))

#define KAFKA_PREFIX "KAFKA_CONF_"
#define KAFKA_FLAG "kafka-conf"
#define KAFKA_HELP \
	"A property of librdkafka: KAFKA_CONF_SECURITY_PROTOCOL=sasl_ssl is security.protocol. " \
	"As a flag: --kafka-conf security.protocol=sasl_ssl, once for each property."

/* Flags that have no variable. */
static const struct
{
	const char *flag;
	ConfigAction action;
	const char *help;
} actions[] = {
	{"check", ACTION_CHECK,
	 "Connect to the database and to Kafka, print what is there, exit with 1 and the cause where something is missing."},
	{"help", ACTION_HELP, "Print this and exit."},
	{"help-markdown", ACTION_HELP_MARKDOWN, "Print docs/worker-settings.md and exit."},
	{"version", ACTION_VERSION, "Print the version and exit."},
};

#define N_ACTIONS ((int) (sizeof(actions) / sizeof(actions[0])))

/*
 * Properties of librdkafka that would break a promise of the process, or that have a setting of their own. A name that ends
 * with a point stands for all that begin so.
 */
static const struct
{
	const char *property;
	const char *instead;
} refused[] = {
	{"bootstrap.servers", "set KAFKA_BOOTSTRAP_SERVERS"},
	{"metadata.broker.list", "set KAFKA_BOOTSTRAP_SERVERS"},
	{"group.id", "set GROUP_ID"},
	{"group.instance.id", "set GROUP_INSTANCE_ID"},
	{"linger.ms", "set LINGER_MS"},
	{"queue.buffering.max.ms", "set LINGER_MS"},
	{"client.id", "leave it out: it is sentinai-worker with the worker type"},
	{"enable.auto.commit", "leave it out: positions are stored by the database and committed after it"},
	{"enable.auto.offset.store", "leave it out: positions are stored by the database and committed after it"},
	{"auto.commit.interval.ms", "leave it out: positions are stored by the database and committed after it"},
	{"auto.commit.enable", "leave it out: positions are stored by the database and committed after it"},
	{"auto.offset.reset", "leave it out and move a position with SELECT sentinai.offset_reset(...)"},
	{"partition.assignment.strategy", "leave it out: range,roundrobin is what the assignment is built for"},
	{"isolation.level", "leave it out: read_committed is what the guarantees need"},
	{"enable.idempotence", "leave it out: it is always true"},
	{"enable.gapless.guarantee", "leave it out: the watermark waits for every record"},
	{"acks", "leave it out: it is always all"},
	{"request.required.acks", "leave it out: it is always all"},
	{"partitioner", "leave it out: murmur2_random, which Java's producers use, keeps the order of a key"},
	{"transactional.id", "leave it out: the outbox needs no transaction of Kafka's"},
	{"message.max.bytes", "leave it out: the topic's max.message.bytes decides"},
	{"enable.partition.eof", "leave it out: the end of a partition is not an event"},
	{"go.", "leave it out"},
	{"test.mock.", "leave it out: a mock cluster keeps no promise"},
};

#define N_REFUSED ((int) (sizeof(refused) / sizeof(refused[0])))

static bool
fail(char error[CONFIG_ERROR_MAX], const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(error, CONFIG_ERROR_MAX, format, arguments);
	va_end(arguments);
	return false;
}

/* Out of memory before the first thread is the one error that nobody can be told about in order. */
static void *
need(void *memory)
{
	if (memory == NULL)
		abort();
	return memory;
}

/* ---- values ---- */

static bool
set_text(char **place, const char *text)
{
	free(*place);
	*place = need(strdup(text));
	return true;
}

static bool
set_integer(const Option *option, int *place, const char *name, const char *text, char error[CONFIG_ERROR_MAX])
{
	char *end;
	long value = strtol(text, &end, 10);

	if (end == text || *end != '\0' || value < option->min || value > option->max)
		return fail(error, "%s is \"%s\": write a number from %ld to %ld", name, text, option->min, option->max);
	*place = (int) value;
	return true;
}

static bool
set_boolean(bool *place, const char *name, const char *text, char error[CONFIG_ERROR_MAX])
{
	static const char *const words[][2] = {{"false", "true"}, {"off", "on"}, {"no", "yes"}, {"0", "1"}};

	for (int i = 0; i < 4; i++)
		for (int value = 0; value < 2; value++)
			if (strcasecmp(text, words[i][value]) == 0)
			{
				*place = value == 1;
				return true;
			}
	return fail(error, "%s is \"%s\": write true or false", name, text);
}

static bool
set_choice(const Option *option, int *place, const char *name, const char *text, char error[CONFIG_ERROR_MAX])
{
	const char *choice = option->choices;

	for (int value = 0; *choice != '\0'; value++)
	{
		size_t length = strcspn(choice, "|");

		if (strlen(text) == length && strncasecmp(text, choice, length) == 0)
		{
			*place = value;
			return true;
		}
		choice += length + (choice[length] == '|');
	}
	return fail(error, "%s is \"%s\": write one of %s", name, text, option->choices);
}

static bool
set_value(Config *config, const Option *option, const char *name, const char *text, char error[CONFIG_ERROR_MAX])
{
	void *place = (char *) config + option->offset;

	switch (option->type)
	{
		case OPTION_INTEGER:
			return set_integer(option, place, name, text, error);
		case OPTION_BOOLEAN:
			return set_boolean(place, name, text, error);
		case OPTION_CHOICE:
			return set_choice(option, place, name, text, error);
		case OPTION_TEXT:
			break;
	}
	return set_text(place, text);
}

/* ---- librdkafka's properties ---- */

static bool
kafka_allowed(const char *property, const char *name, char error[CONFIG_ERROR_MAX])
{
	for (int i = 0; i < N_REFUSED; i++)
	{
		size_t length = strlen(refused[i].property);
		bool prefix = refused[i].property[length - 1] == '.';

		if (prefix ? strncmp(property, refused[i].property, length) == 0 : strcmp(property, refused[i].property) == 0)
			return fail(error, "%s can't be set: %s", name, refused[i].instead);
	}
	return true;
}

/* librdkafka itself says whether it knows the property and the value; nothing of a value gets into the message. */
static bool
kafka_known(const char *property, const char *value, const char *name, char error[CONFIG_ERROR_MAX])
{
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	char why[64];
	rd_kafka_conf_res_t result = rd_kafka_conf_set(conf, property, value, why, sizeof(why));

	rd_kafka_conf_destroy(conf);
	if (result == RD_KAFKA_CONF_UNKNOWN)
		return fail(error, "%s: librdkafka %s has no property \"%s\": see its CONFIGURATION.md for the names", name,
					rd_kafka_version_str(), property);
	if (result == RD_KAFKA_CONF_INVALID)
		return fail(error, "%s: librdkafka %s refuses this value for \"%s\": see its CONFIGURATION.md for the values",
					name, rd_kafka_version_str(), property);
	return true;
}

static bool
set_kafka(Config *config, const char *property, const char *value, const char *name, char error[CONFIG_ERROR_MAX])
{
	KafkaProperty *entry = NULL;

	if (!kafka_allowed(property, name, error) || !kafka_known(property, value, name, error))
		return false;
	for (int i = 0; i < config->n_kafka; i++)
		if (strcmp(config->kafka[i].name, property) == 0)
			entry = &config->kafka[i];
	if (entry == NULL)
	{
		config->kafka = need(realloc(config->kafka, (config->n_kafka + 1) * sizeof(KafkaProperty)));
		entry = &config->kafka[config->n_kafka++];
		*entry = (KafkaProperty){NULL, NULL};
		set_text(&entry->name, property);
	}
	return set_text(&entry->value, value);
}

/* KAFKA_CONF_SASL_USERNAME=me */
static bool
set_kafka_variable(Config *config, const char *variable, char error[CONFIG_ERROR_MAX])
{
	char name[200];
	char property[200];
	size_t length = strcspn(variable, "=");
	char *to = property;

	if (length >= sizeof(name))
		return fail(error, "a variable that begins with " KAFKA_PREFIX " is longer than any property: remove it");
	memcpy(name, variable, length);
	name[length] = '\0';
	for (const char *from = name + strlen(KAFKA_PREFIX); *from != '\0'; from++)
		*to++ = *from == '_' ? '.' : (char) tolower((unsigned char) *from);
	*to = '\0';
	return set_kafka(config, property, variable + length + 1, name, error);
}

/* --kafka-conf sasl.username=me */
static bool
set_kafka_flag(Config *config, const char *text, char error[CONFIG_ERROR_MAX])
{
	char property[200];
	char name[240];
	size_t length = strcspn(text, "=");

	if (text[length] != '=' || length == 0 || length >= sizeof(property))
		return fail(error,
					"--" KAFKA_FLAG " needs PROPERTY=VALUE: write for example --" KAFKA_FLAG " security.protocol=ssl");
	memcpy(property, text, length);
	property[length] = '\0';
	snprintf(name, sizeof(name), "--" KAFKA_FLAG " %s", property);
	return set_kafka(config, property, text + length + 1, name, error);
}

bool
config_kafka(const Config *config, rd_kafka_conf_t *conf, char error[CONFIG_ERROR_MAX])
{
	char client_id[100];

	snprintf(client_id, sizeof(client_id), "sentinai-worker-%s", config->worker_type);
	if (rd_kafka_conf_set(conf, "bootstrap.servers", config->kafka_bootstrap_servers, error, CONFIG_ERROR_MAX) !=
			RD_KAFKA_CONF_OK ||
		rd_kafka_conf_set(conf, "client.id", client_id, error, CONFIG_ERROR_MAX) != RD_KAFKA_CONF_OK)
		return false;
	for (int i = 0; i < config->n_kafka; i++)
		if (rd_kafka_conf_set(conf, config->kafka[i].name, config->kafka[i].value, error, CONFIG_ERROR_MAX) !=
			RD_KAFKA_CONF_OK)
			return false;
	return true;
}

/* ---- DATABASE_URL ---- */

/* "ssl" is asyncpg's name of sslmode: the query part with it renamed. */
static void
append_query(char *url, const char *query)
{
	while (*query != '\0')
	{
		size_t length = strcspn(query, "&");

		if (strncmp(query, "ssl=", 4) == 0 && strncmp(query, "ssl=true", length) != 0)
		{
			strcat(url, "sslmode");
			query += 3;
			length -= 3;
		}
		strncat(url, query, length);
		query += length;
		if (*query == '&')
		{
			strcat(url, "&");
			query++;
		}
	}
}

char *
config_database_url(const char *url)
{
	size_t room = strlen(url) * 3 + 32;
	char *result = need(calloc(1, room));
	const char *plus = strchr(url, '+');
	const char *colon = strstr(url, "://");
	const char *query;

	/* SQLAlchemy's DIALECT+DRIVER://: the driver is of no concern to us. */
	if (colon != NULL && plus != NULL && plus < colon &&
		(strncmp(url, "postgresql+", 11) == 0 || strncmp(url, "postgres+", 9) == 0))
	{
		strcat(result, "postgresql");
		url = colon;
	}
	query = colon == NULL ? NULL : strchr(url, '?');
	if (query == NULL)
	{
		strcat(result, url);
		return result;
	}
	strncat(result, url, query + 1 - url);
	append_query(result, query + 1);
	return result;
}

static const char *
conninfo_value(const PQconninfoOption *parsed, const char *keyword)
{
	for (; parsed->keyword != NULL; parsed++)
		if (strcmp(parsed->keyword, keyword) == 0)
			return parsed->val != NULL && *parsed->val != '\0' ? parsed->val : NULL;
	return NULL;
}

char *
config_database_shown(const Config *config, char *buffer, size_t size)
{
	PQconninfoOption *parsed = PQconninfoParse(config->database_url, NULL);
	const char *user, *host, *port, *name;

	if (parsed == NULL)
	{
		snprintf(buffer, size, "?");
		return buffer;
	}
	user = conninfo_value(parsed, "user");
	host = conninfo_value(parsed, "host");
	port = conninfo_value(parsed, "port");
	name = conninfo_value(parsed, "dbname");
	snprintf(buffer, size, "%s%s%s%s%s/%s", user ? user : "", user ? "@" : "", host ? host : "local", port ? ":" : "",
			 port ? port : "", name ? name : (user ? user : ""));
	PQconninfoFree(parsed);
	return buffer;
}

/* libpq's own message may quote the URL, and with it a password: it isn't passed on. */
static bool
check_database_url(Config *config, char error[CONFIG_ERROR_MAX])
{
	char *url = config_database_url(config->database_url);
	char *why = NULL;
	PQconninfoOption *parsed = PQconninfoParse(url, &why);

	free(config->database_url);
	config->database_url = url;
	PQfreemem(why);
	if (parsed == NULL)
		return fail(error, "DATABASE_URL is no address that libpq takes: write "
						   "postgresql://USER:PASSWORD@HOST:PORT/DATABASE, with %%40 for an @ in the password");
	PQconninfoFree(parsed);
	return true;
}

/* ---- reading ---- */

static const Option *
option_by_flag(const char *flag, size_t length)
{
	for (int i = 0; i < N_OPTIONS; i++)
		if (strlen(options[i].flag) == length && strncmp(options[i].flag, flag, length) == 0)
			return &options[i];
	return NULL;
}

static bool
read_defaults(Config *config, char error[CONFIG_ERROR_MAX])
{
	memset(config, 0, sizeof(*config));
	for (int i = 0; i < N_OPTIONS; i++)
		if (options[i].fallback != NULL &&
			!set_value(config, &options[i], options[i].variable, options[i].fallback, error))
			return false;
	return true;
}

/* An empty variable counts as not set: that is how compose files leave one out. */
static bool
read_environment(Config *config, char **environment, char error[CONFIG_ERROR_MAX])
{
	for (char **entry = environment; *entry != NULL; entry++)
	{
		const char *equals = strchr(*entry, '=');

		if (equals == NULL || equals[1] == '\0')
			continue;
		if (strncmp(*entry, KAFKA_PREFIX, strlen(KAFKA_PREFIX)) == 0)
		{
			if (!set_kafka_variable(config, *entry, error))
				return false;
			continue;
		}
		for (int i = 0; i < N_OPTIONS; i++)
		{
			size_t length = strlen(options[i].variable);

			if (length == (size_t) (equals - *entry) && strncmp(*entry, options[i].variable, length) == 0 &&
				!set_value(config, &options[i], options[i].variable, equals + 1, error))
				return false;
		}
	}
	return true;
}

static bool
read_action(Config *config, const char *flag, bool *found, char error[CONFIG_ERROR_MAX])
{
	*found = false;
	for (int i = 0; i < N_ACTIONS; i++)
	{
		if (strcmp(flag, actions[i].flag) != 0)
			continue;
		if (config->action != ACTION_RUN && config->action != actions[i].action)
			return fail(error, "--%s goes with no other of --check, --help, --version: write one of them", flag);
		config->action = actions[i].action;
		*found = true;
	}
	return true;
}

/* The flag's value: behind its "=", the next argument, or true for a boolean that stands alone. NULL: there is none. */
static const char *
flag_value(char **argv, int argc, int *at, const char *flag, size_t length, bool boolean)
{
	const char *next = *at + 1 < argc ? argv[*at + 1] : NULL;

	if (flag[length] == '=')
		return flag + length + 1;
	if (boolean && (next == NULL || strncmp(next, "--", 2) == 0))
		return "true";
	if (next != NULL)
		(*at)++;
	return next;
}

static bool
read_flag(Config *config, char **argv, int argc, int *at, bool seen[N_OPTIONS], char error[CONFIG_ERROR_MAX])
{
	const char *flag = argv[*at] + 2;
	size_t length = strcspn(flag, "=");
	const Option *option = option_by_flag(flag, length);
	bool kafka = length == strlen(KAFKA_FLAG) && strncmp(flag, KAFKA_FLAG, length) == 0;
	bool found;
	char name[80];
	const char *value;

	if (!read_action(config, flag, &found, error))
		return false;
	if (found)
		return true;
	if (option == NULL && !kafka)
		return fail(error, "there is no flag --%.*s: write sentinai-worker --help for all of them", (int) length, flag);
	value = flag_value(argv, argc, at, flag, length, option != NULL && option->type == OPTION_BOOLEAN);
	if (value == NULL || (option != NULL && *value == '\0'))
		return fail(error, "--%.*s needs a value: write --%.*s=VALUE", (int) length, flag, (int) length, flag);
	if (kafka)
		return set_kafka_flag(config, value, error);
	if (seen[option - options])
		return fail(error, "--%s is there twice: write it once", option->flag);
	seen[option - options] = true;
	snprintf(name, sizeof(name), "--%s", option->flag);
	return set_value(config, option, name, value, error);
}

static bool
read_flags(Config *config, int argc, char **argv, char error[CONFIG_ERROR_MAX])
{
	bool seen[N_OPTIONS] = {false};

	for (int at = 1; at < argc; at++)
	{
		if (strncmp(argv[at], "--", 2) != 0 || argv[at][2] == '\0')
			return fail(error, "\"%s\" is no flag: write --NAME=VALUE, or sentinai-worker --help for all of them",
						argv[at]);
		if (!read_flag(config, argv, argc, &at, seen, error))
			return false;
	}
	return true;
}

static bool
check_required(const Config *config, char error[CONFIG_ERROR_MAX])
{
	for (int i = 0; i < N_OPTIONS; i++)
		if (options[i].required && *(char *const *) ((const char *) config + options[i].offset) == NULL)
			return fail(error, "%s is not set: write %s=... in the environment, or --%s=...", options[i].variable,
						options[i].variable, options[i].flag);
	return true;
}

static const char *
kafka_value(const Config *config, const char *property)
{
	for (int i = 0; i < config->n_kafka; i++)
		if (strcmp(config->kafka[i].name, property) == 0)
			return config->kafka[i].value;
	return NULL;
}

/* Settings that are right alone and wrong together. */
static bool
check_together(const Config *config, char error[CONFIG_ERROR_MAX])
{
	const char *protocol = kafka_value(config, "security.protocol");
	const char *session = kafka_value(config, "session.timeout.ms");
	const char *heartbeat = kafka_value(config, "heartbeat.interval.ms");
	bool sasl = protocol != NULL && strncasecmp(protocol, "sasl", 4) == 0;

	if (kafka_value(config, "sasl.username") != NULL && !sasl)
		return fail(
			error,
			"KAFKA_CONF_SASL_USERNAME counts only with SASL: write KAFKA_CONF_SECURITY_PROTOCOL=sasl_ssl beside it");
	if (kafka_value(config, "ssl.ca.location") != NULL && (protocol == NULL || strstr(protocol, "plaintext") != NULL))
		return fail(
			error,
			"KAFKA_CONF_SSL_CA_LOCATION counts only with TLS: write KAFKA_CONF_SECURITY_PROTOCOL=ssl or sasl_ssl beside it");
	if (heartbeat != NULL && strtol(heartbeat, NULL, 10) * 2 > (session != NULL ? strtol(session, NULL, 10) : 30000))
		return fail(error, "KAFKA_CONF_HEARTBEAT_INTERVAL_MS is more than half of the session: write a third of "
						   "KAFKA_CONF_SESSION_TIMEOUT_MS, or leave it out");
	return true;
}

bool
config_read(Config *config, int argc, char **argv, char **environment, char error[CONFIG_ERROR_MAX])
{
	error[0] = '\0';
	if (!read_defaults(config, error) || !read_flags(config, argc, argv, error))
		return false;
	if (config->action != ACTION_RUN && config->action != ACTION_CHECK)
		return true;

	/* The environment first, then the flags once more: they win. */
	config_free(config);
	return read_defaults(config, error) && read_environment(config, environment, error) &&
		   read_flags(config, argc, argv, error) && check_required(config, error) &&
		   check_database_url(config, error) && check_together(config, error);
}

void
config_free(Config *config)
{
	for (int i = 0; i < N_OPTIONS; i++)
		if (options[i].type == OPTION_TEXT)
		{
			char **place = (char **) ((char *) config + options[i].offset);

			free(*place);
			*place = NULL;
		}
	for (int i = 0; i < config->n_kafka; i++)
	{
		free(config->kafka[i].name);
		free(config->kafka[i].value);
	}
	free(config->kafka);
	config->kafka = NULL;
	config->n_kafka = 0;
}

/* ---- misspelt variables ---- */

/* Letters to change, add or leave out so that the one becomes the other, whatever their case. Names only: both are short. */
static int
edit_distance(const char *a, int a_length, const char *b, int b_length)
{
	int row[NAME_MAX_NEARLY + 1];

	for (int j = 0; j <= b_length; j++)
		row[j] = j;
	for (int i = 1; i <= a_length; i++)
	{
		int diagonal = row[0];

		row[0] = i;
		for (int j = 1; j <= b_length; j++)
		{
			int above = row[j];
			int changed = diagonal + (toupper((unsigned char) a[i - 1]) != toupper((unsigned char) b[j - 1]));
			int best = above < row[j - 1] ? above : row[j - 1];

			row[j] = changed < best + 1 ? changed : best + 1;
			diagonal = above;
		}
	}
	return row[b_length];
}

/* One letter in four may be wrong, at most two: BATHC is meant, PATH is not. */
static bool
is_nearly(const char *name, int length, const char *known, int known_length)
{
	int most = known_length / 4 < 2 ? known_length / 4 : 2;

	return length <= NAME_MAX_NEARLY && edit_distance(name, length, known, known_length) <= most;
}

const char *
config_nearly(const char *entry)
{
	int length = (int) strcspn(entry, "=");
	int prefix = (int) strlen(KAFKA_PREFIX);
	const char *nearly = NULL;

	if (strncmp(entry, KAFKA_PREFIX, prefix) == 0)
		return NULL;
	for (int i = 0; i < N_OPTIONS; i++)
	{
		int known = (int) strlen(options[i].variable);

		if (length == known && strncmp(entry, options[i].variable, known) == 0)
			return NULL;
		if (nearly == NULL && is_nearly(entry, length, options[i].variable, known))
			nearly = options[i].variable;
	}
	if (nearly == NULL && length > prefix && edit_distance(entry, prefix, KAFKA_PREFIX, prefix) <= 1)
		nearly = KAFKA_PREFIX "...";
	return nearly;
}

/* ---- help ---- */

static void
values_of(const Option *option, char *buffer, size_t size)
{
	static const char *const types[] = {"text", "integer", "true or false", ""};

	if (option->type == OPTION_INTEGER)
		snprintf(buffer, size, "%ld to %ld", option->min, option->max);
	else if (option->type == OPTION_CHOICE)
	{
		snprintf(buffer, size, "%s", option->choices);
		for (char *p = buffer; *p != '\0'; p++)
			if (*p == '|')
				*p = '/';
	}
	else
		snprintf(buffer, size, "%s", types[option->type]);
}

/* Text broken at spaces, each line behind a margin. */
static void
print_wrapped(FILE *out, const char *text, int margin, int width)
{
	while (*text != '\0')
	{
		int length = (int) strlen(text);

		if (length > width)
		{
			length = width;
			while (length > 0 && text[length] != ' ')
				length--;
		}
		fprintf(out, "%*s%.*s\n", margin, "", length, text);
		text += length;
		while (*text == ' ')
			text++;
	}
}

void
config_help(FILE *out)
{
	char values[100];

	fputs("sentinai-worker moves records between Kafka and a database with the extension sentinai.\n\n"
		  "Usage: WORKER_TYPE=intake DATABASE_URL=... KAFKA_BOOTSTRAP_SERVERS=... sentinai-worker [FLAG...]\n\n"
		  "       sentinai-worker verify FILE: is this file the audit report that its manifest says?\n\n"
		  "Every setting is a variable of the environment or a flag; a flag wins.\n\n",
		  out);
	for (int i = 0; i < N_OPTIONS; i++)
	{
		values_of(&options[i], values, sizeof(values));
		fprintf(out, "  %s, --%s=VALUE (%s%s%s%s)\n", options[i].variable, options[i].flag, values,
				options[i].required ? ", required" : "", options[i].fallback ? ", default " : "",
				options[i].fallback ? options[i].fallback : "");
		print_wrapped(out, options[i].help, 6, 92);
	}
	fputs("  " KAFKA_PREFIX "<PROPERTY_WITH_UNDERSCORES>, --" KAFKA_FLAG " PROPERTY=VALUE\n", out);
	print_wrapped(out, KAFKA_HELP, 6, 92);
	for (int i = 0; i < N_ACTIONS; i++)
	{
		fprintf(out, "  --%s\n", actions[i].flag);
		print_wrapped(out, actions[i].help, 6, 92);
	}
}

void
config_help_markdown(FILE *out)
{
	char values[100];

	fputs(
		"# Settings of sentinai-worker\n\n"
		"Made by `sentinai-worker --help-markdown`; the source is `options[]` in `worker/config.c`.\n\n"
		"Every setting is a variable of the environment or a flag; a flag wins. An empty variable counts as not set. A value\n"
		"that is out of range or contradicts another, an unknown flag and an unknown property of librdkafka are refused at start,\n"
		"with one line that says what to write. A variable of another name may be another program's, so a misspelt one is ignored;\n"
		"where its name is nearly a setting's the log warns of it. The start line and `--check` say what counts.\n\n"
		"| variable | flag | values | default | what it does |\n| --- | --- | --- | --- | --- |\n",
		out);
	for (int i = 0; i < N_OPTIONS; i++)
	{
		values_of(&options[i], values, sizeof(values));
		fprintf(out, "| `%s` | `--%s` | %s | %s | %s |\n", options[i].variable, options[i].flag, values,
				options[i].fallback	  ? options[i].fallback
				: options[i].required ? "required"
									  : "none",
				options[i].help);
	}
	fputs("| `" KAFKA_PREFIX "<PROPERTY_WITH_UNDERSCORES>` | `--" KAFKA_FLAG "` | text | none | " KAFKA_HELP " |\n\n"
		  "## Flags without a variable\n\n| flag | what it does |\n| --- | --- |\n",
		  out);
	for (int i = 0; i < N_ACTIONS; i++)
		fprintf(out, "| `--%s` | %s |\n", actions[i].flag, actions[i].help);
	fputs("\n## Properties of librdkafka that are refused\n\n| property | instead |\n| --- | --- |\n", out);
	for (int i = 0; i < N_REFUSED; i++)
		fprintf(out, "| `%s%s` | %s |\n", refused[i].property,
				refused[i].property[strlen(refused[i].property) - 1] == '.' ? "*" : "", refused[i].instead);
}
