/*
 * kafka.c
 *	  What the consumer and the producer have in common. See kafka.h.
 */
#include "kafka.h"

#include <stdio.h>
#include <string.h>
#include <syslog.h>

#include "log.h"

/*
 * librdkafka repeats a refused connection for each broker and attempt. Those are debug lines here: the state of the brokers
 * is logged once, by kafka_note_error().
 */
static void
on_log(const rd_kafka_t *rk, int level, const char *facility, const char *text)
{
	LogLevel ours = level <= LOG_ERR ? LEVEL_WARNING : level <= LOG_NOTICE ? LEVEL_INFO : LEVEL_DEBUG;

	(void) rk;
	/* A property of the other side's (CONFWARN) is no mistake: the user sets both with one variable. */
	if (strcmp(facility, "FAIL") == 0 || strcmp(facility, "ERROR") == 0 || strcmp(facility, "REQTMOUT") == 0 ||
		strcmp(facility, "CONFWARN") == 0)
		ours = LEVEL_DEBUG;
	LOG_AT(ours, "librdkafka", F_TEXT("facility", facility), F_TEXT("text", text));
}

static void
on_error(rd_kafka_t *rk, int error, const char *reason, void *opaque)
{
	char text[300];
	rd_kafka_resp_err_t code = (rd_kafka_resp_err_t) error;

	if (code == RD_KAFKA_RESP_ERR__FATAL)
		code = rd_kafka_fatal_error(rk, text, sizeof(text));
	kafka_note_error(opaque, code, reason);
}

void
kafka_note_error(Worker *w, rd_kafka_resp_err_t error, const char *reason)
{
	switch (error)
	{
		case RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN:
		case RD_KAFKA_RESP_ERR__AUTHENTICATION:
		case RD_KAFKA_RESP_ERR__SSL:
		case RD_KAFKA_RESP_ERR_SASL_AUTHENTICATION_FAILED:
		case RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED:
		case RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED:
			atomic_store(&w->broker_up, false);
			health_bad(w, HEALTH_BROKER, reason, NULL);
			break;
		default:
			log_debug("kafka", F_TEXT("error", rd_kafka_err2name(error)), F_TEXT("reason", reason));
	}
}

void
kafka_note_alive(Worker *w)
{
	if (atomic_load(&w->broker_up))
		return;
	atomic_store(&w->broker_up, true);
	health_good(w, HEALTH_BROKER);
}

bool
kafka_set(rd_kafka_conf_t *conf, const char *property, const char *value)
{
	char why[300];

	if (rd_kafka_conf_set(conf, property, value, why, sizeof(why)) == RD_KAFKA_CONF_OK)
		return true;
	log_error("librdkafka refuses a setting of ours", F_TEXT("property", property), F_TEXT("reason", why));
	return false;
}

bool
kafka_default(const Config *config, rd_kafka_conf_t *conf, const char *property, const char *value)
{
	for (int i = 0; i < config->n_kafka; i++)
		if (strcmp(config->kafka[i].name, property) == 0)
			return true;
	return kafka_set(conf, property, value);
}

rd_kafka_conf_t *
kafka_conf(Worker *w, char *error, size_t size)
{
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	char why[CONFIG_ERROR_MAX] = "librdkafka refuses a setting";

	rd_kafka_conf_set_opaque(conf, w);
	rd_kafka_conf_set_log_cb(conf, on_log);
	rd_kafka_conf_set_error_cb(conf, on_error);
	/* Back soon after an outage. */
	if (!kafka_set(conf, "reconnect.backoff.max.ms", "2000") || !config_kafka(&w->config, conf, why))
	{
		snprintf(error, size, "%s", why);
		rd_kafka_conf_destroy(conf);
		return NULL;
	}
	return conf;
}
