/*
 * filter.h
 *	  Which records a worker type passes on to the database, and which it skips (their position still moves).
 *
 * What the worker type handles goes along, by the header SN_HEADER_EVENT_TYPE or else by the envelope. The owner of the
 * topic also takes every record without a valid SN_HEADER_EMITTED, whatever is in it. Nothing is decided here: the
 * database looks at everything again.
 */
#ifndef WORKER_FILTER_H
#define WORKER_FILTER_H

#include <librdkafka/rdkafka.h>

#include "worker.h"

extern bool filter_passes(const WorkerType *type, const rd_kafka_message_t *msg);

#endif /* WORKER_FILTER_H */
