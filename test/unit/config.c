/*
 * Unit tests of worker/config.c: what is read from where, what is refused and with which words.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "config.h"

#define NEEDED "WORKER_TYPE=intake", "DATABASE_URL=postgresql://h/d", "KAFKA_BOOTSTRAP_SERVERS=localhost:9092"

static char error[CONFIG_ERROR_MAX];

static int
count(char **list)
{
	int n = 0;

	while (list[n] != NULL)
		n++;
	return n;
}

#define read_config(config, environment, ...) \
	config_read((config), count((char *[]){"sentinai-worker", ##__VA_ARGS__, NULL}), \
				(char *[]){"sentinai-worker", ##__VA_ARGS__, NULL}, (environment), error)

#define refuses(expected, environment, ...) \
	do \
	{ \
		Config refused; \
		assert_false(read_config(&refused, environment, ##__VA_ARGS__)); \
		assert_string_equal(error, expected); \
		config_free(&refused); \
	} while (0)

#define ENV(...) ((char *[]){__VA_ARGS__, NULL})

static void
the_runbooks_variables(void **state)
{
	Config config;

	(void) state;
	assert_true(read_config(&config, ENV("WORKER_TYPE=intake", "CONCURRENCY=2", "GROUP_ID=intake-workers",
										 "DATABASE_URL=postgresql+asyncpg://user:pass@localhost:5432/sentinai",
										 "KAFKA_BOOTSTRAP_SERVERS=localhost:9092", "HOME=/root", "BATCHES=x")));
	assert_string_equal(config.worker_type, "intake");
	assert_int_equal(config.concurrency, 2);
	assert_string_equal(config.group_id, "intake-workers");
	assert_string_equal(config.database_url, "postgresql://user:pass@localhost:5432/sentinai");
	assert_string_equal(config.kafka_bootstrap_servers, "localhost:9092");
	config_free(&config);
}

static void
misspelt_variables(void **state)
{
	static const char *const meant[][2] = {
		{"CONCURENCY=2", "CONCURRENCY"},
		{"CONCURRENCYS=2", "CONCURRENCY"},
		{"Concurrency=2", "CONCURRENCY"},
		{"GROUPID=x", "GROUP_ID"},
		{"WORKERTYPE=intake", "WORKER_TYPE"},
		{"DATABASE_URI=x", "DATABASE_URL"},
		{"KAFKA_BOOTSTRAP_SERVER=x", "KAFKA_BOOTSTRAP_SERVERS"},
		{"KAFKA_CONFIG_SECURITY_PROTOCOL=ssl", "KAFKA_CONF_..."},
		{"BATHCH=1", "BATCH"},
	};
	static const char *const others[] = {
		"CONCURRENCY=2",
		"BATCH=1",
		"KAFKA_CONF_SASL_USERNAME=me",
		"KAFKA_HEAP_OPTS=x",
		"KAFKA_CONSUMER_GROUP=x",
		"PATH=/bin",
		"HOME=/",
		"HTTP_PROXY=x",
		"LOG_FILE=x",
		"PGDATABASE=x",
		"WORKER_POOL_SIZE=x",
		"A_NAME_THAT_IS_LONGER_THAN_ALL_OF_OUR_NAMES_TOGETHER=x",
		"=",
		"",
	};

	(void) state;
	for (size_t i = 0; i < sizeof(meant) / sizeof(meant[0]); i++)
	{
		assert_non_null(config_nearly(meant[i][0]));
		assert_string_equal(config_nearly(meant[i][0]), meant[i][1]);
	}
	for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++)
		assert_null(config_nearly(others[i]));
}

static void
defaults(void **state)
{
	Config config;

	(void) state;
	assert_true(read_config(&config, ENV(NEEDED, "CONCURRENCY=")));
	assert_int_equal(config.concurrency, 1);
	assert_null(config.group_id);
	assert_null(config.group_instance_id);
	assert_false(config.allow_future_schema);
	assert_false(config.metrics_include_tenant_id);
	assert_int_equal(config.batch, 1000);
	assert_true(config.publish);
	assert_int_equal(config.linger_ms, 20);
	assert_int_equal(config.http_port, 0);
	assert_string_equal(config.http_address, "0.0.0.0");
	assert_int_equal(config.shutdown_timeout, 25);
	assert_int_equal(config.log_format, LOG_LOGFMT);
	assert_int_equal(config.action, ACTION_RUN);
	config_free(&config);
}

static void
a_flag_wins(void **state)
{
	Config config;

	(void) state;
	assert_true(read_config(&config, ENV(NEEDED, "CONCURRENCY=2", "PUBLISH=on", "KAFKA_CONF_SECURITY_PROTOCOL=ssl"),
							"--concurrency=8", "--group-id", "g", "--publish", "off", "--allow-future-schema",
							"--log-format=json", "--kafka-conf", "security.protocol=plaintext", "--check"));
	assert_int_equal(config.concurrency, 8);
	assert_string_equal(config.group_id, "g");
	assert_false(config.publish);
	assert_true(config.allow_future_schema);
	assert_int_equal(config.log_format, LOG_JSON);
	assert_int_equal(config.action, ACTION_CHECK);
	assert_int_equal(config.n_kafka, 1);
	assert_string_equal(config.kafka[0].name, "security.protocol");
	assert_string_equal(config.kafka[0].value, "plaintext");
	config_free(&config);
}

static void
help_needs_no_settings(void **state)
{
	Config config;

	(void) state;
	assert_true(read_config(&config, ENV("CONCURRENCY=none"), "--help"));
	assert_int_equal(config.action, ACTION_HELP);
	config_free(&config);
}

static void
refusals(void **state)
{
	(void) state;
	refuses("WORKER_TYPE is not set: write WORKER_TYPE=... in the environment, or --worker-type=...",
			ENV("DATABASE_URL=postgresql://h/d"));
	refuses("DATABASE_URL is not set: write DATABASE_URL=... in the environment, or --database-url=...",
			ENV("WORKER_TYPE=intake"));
	refuses("CONCURRENCY is \"0\": write a number from 1 to 256", ENV(NEEDED, "CONCURRENCY=0"));
	refuses("CONCURRENCY is \"2x\": write a number from 1 to 256", ENV(NEEDED, "CONCURRENCY=2x"));
	refuses("--batch is \"99999999999999999999\": write a number from 1 to 10000", ENV(NEEDED),
			"--batch=99999999999999999999");
	refuses("PUBLISH is \"maybe\": write true or false", ENV(NEEDED, "PUBLISH=maybe"));
	refuses("LOG_FORMAT is \"xml\": write one of logfmt|json", ENV(NEEDED, "LOG_FORMAT=xml"));
	refuses("there is no flag --concurency: write sentinai-worker --help for all of them", ENV(NEEDED),
			"--concurency=2");
	refuses("\"intake\" is no flag: write --NAME=VALUE, or sentinai-worker --help for all of them", ENV(NEEDED),
			"intake");
	refuses("--batch is there twice: write it once", ENV(NEEDED), "--batch=1", "--batch=2");
	refuses("--batch needs a value: write --batch=VALUE", ENV(NEEDED), "--batch");
	refuses("--help goes with no other of --check, --help, --version: write one of them", ENV(NEEDED), "--check",
			"--help");
}

static void
refused_properties(void **state)
{
	static const char *const all[] = {"GROUP_ID",
									  "ENABLE_AUTO_COMMIT",
									  "ENABLE_AUTO_OFFSET_STORE",
									  "ENABLE_IDEMPOTENCE",
									  "ACKS",
									  "ISOLATION_LEVEL",
									  "AUTO_OFFSET_RESET",
									  "PARTITION_ASSIGNMENT_STRATEGY",
									  "BOOTSTRAP_SERVERS",
									  "GROUP_INSTANCE_ID",
									  "PARTITIONER",
									  "TEST_MOCK_NUM_BROKERS",
									  "LINGER_MS"};

	(void) state;
	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
	{
		char variable[100];
		char expected[100];
		Config config;

		snprintf(variable, sizeof(variable), "KAFKA_CONF_%s=x", all[i]);
		snprintf(expected, sizeof(expected), "KAFKA_CONF_%s can't be set: ", all[i]);
		assert_false(read_config(&config, ENV(NEEDED, variable)));
		assert_memory_equal(error, expected, strlen(expected));
		assert_true(strlen(error) > strlen(expected));
		config_free(&config);
	}
	refuses("--kafka-conf acks can't be set: leave it out: it is always all", ENV(NEEDED), "--kafka-conf", "acks=1");
}

static void
properties(void **state)
{
	Config config;
	char value[100];
	size_t size = sizeof(value);
	rd_kafka_conf_t *conf = rd_kafka_conf_new();

	(void) state;
	assert_true(read_config(&config, ENV(NEEDED, "KAFKA_CONF_SECURITY_PROTOCOL=sasl_ssl", "KAFKA_CONF_SASL_USERNAME=me",
										 "KAFKA_CONF_SESSION_TIMEOUT_MS=7000")));
	assert_true(config_kafka(&config, conf, error));
	assert_int_equal(rd_kafka_conf_get(conf, "session.timeout.ms", value, &size), RD_KAFKA_CONF_OK);
	assert_string_equal(value, "7000");
	rd_kafka_conf_destroy(conf);
	config_free(&config);

	assert_false(read_config(&config, ENV(NEEDED, "KAFKA_CONF_SESION_TIMEOUT=1")));
	assert_non_null(strstr(error, "has no property \"sesion.timeout\""));
	config_free(&config);
	assert_false(read_config(&config, ENV(NEEDED, "KAFKA_CONF_SESSION_TIMEOUT_MS=secret")));
	assert_non_null(strstr(error, "refuses this value"));
	assert_null(strstr(error, "secret"));
	config_free(&config);
	refuses("KAFKA_CONF_SASL_USERNAME counts only with SASL: write KAFKA_CONF_SECURITY_PROTOCOL=sasl_ssl beside it",
			ENV(NEEDED, "KAFKA_CONF_SASL_USERNAME=me"));
	refuses(
		"KAFKA_CONF_HEARTBEAT_INTERVAL_MS is more than half of the session: write a third of KAFKA_CONF_SESSION_TIMEOUT_MS, or "
		"leave it out",
		ENV(NEEDED, "KAFKA_CONF_SESSION_TIMEOUT_MS=3000", "KAFKA_CONF_HEARTBEAT_INTERVAL_MS=3000"));
}

static void
database_urls(void **state)
{
	static const char *const pairs[][2] = {
		{"postgresql+asyncpg://u:p@h:1/d", "postgresql://u:p@h:1/d"},
		{"postgres+psycopg://u@h/d", "postgresql://u@h/d"},
		{"postgresql://u:a+b@h/d", "postgresql://u:a+b@h/d"},
		{"postgres://h/d?ssl=true", "postgres://h/d?ssl=true"},
		{"postgresql+asyncpg://h/d?ssl=require&application_name=x",
		 "postgresql://h/d?sslmode=require&application_name=x"},
		{"postgresql+asyncpg://h/d?a=ssl=x", "postgresql://h/d?a=ssl=x"},
		{"host=/tmp dbname=d", "host=/tmp dbname=d"},
	};

	(void) state;
	for (size_t i = 0; i < sizeof(pairs) / sizeof(pairs[0]); i++)
	{
		char *url = config_database_url(pairs[i][0]);

		assert_string_equal(url, pairs[i][1]);
		free(url);
	}
}

static void
no_password_is_shown(void **state)
{
	Config config;
	char shown[200];

	(void) state;
	assert_true(read_config(
		&config, ENV("WORKER_TYPE=x", "KAFKA_BOOTSTRAP_SERVERS=h", "DATABASE_URL=postgresql://me:hush@db:5433/shop")));
	assert_string_equal(config_database_shown(&config, shown, sizeof(shown)), "me@db:5433/shop");
	config_free(&config);
	assert_false(read_config(
		&config, ENV("WORKER_TYPE=x", "KAFKA_BOOTSTRAP_SERVERS=h", "DATABASE_URL=postgresql://me:hu%sh@db/shop")));
	assert_null(strstr(error, "hu%sh"));
	assert_non_null(strstr(error, "write postgresql://"));
	config_free(&config);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_runbooks_variables), cmocka_unit_test(defaults),	cmocka_unit_test(a_flag_wins),
		cmocka_unit_test(help_needs_no_settings), cmocka_unit_test(refusals),	cmocka_unit_test(misspelt_variables),
		cmocka_unit_test(refused_properties),	  cmocka_unit_test(properties), cmocka_unit_test(database_urls),
		cmocka_unit_test(no_password_is_shown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
