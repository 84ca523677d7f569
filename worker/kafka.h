/*
 * kafka.h
 *	  What the consumer and the producer have in common: their configuration, and librdkafka's log and errors as ours.
 */
#ifndef WORKER_KAFKA_H
#define WORKER_KAFKA_H

#include "worker.h"

/*
 * A configuration with the user's properties, our log, and the state of the brokers kept in HEALTH_BROKER; the opaque is
 * the Worker. The caller adds what its promises need, then hands it to rd_kafka_new(), which owns it from there on where
 * it succeeds. NULL: error says why.
 */
extern rd_kafka_conf_t *kafka_conf(Worker *w, char *error, size_t size);

/* rd_kafka_conf_set() for a value of our own; logs and returns false where librdkafka refuses. */
extern bool kafka_set(rd_kafka_conf_t *conf, const char *property, const char *value);

/* The same for a value that the user may have set otherwise (KAFKA_CONF_*): then nothing is done. */
extern bool kafka_default(const Config *config, rd_kafka_conf_t *conf, const char *property, const char *value);

/* For an error callback's or a call's error: all brokers down, authentication, TLS, ... Thread: any. */
extern void kafka_note_error(Worker *w, rd_kafka_resp_err_t error, const char *reason);

/* Something came from a broker: it is up. Cheap where that is known. Thread: any. */
extern void kafka_note_alive(Worker *w);

#endif /* WORKER_KAFKA_H */
