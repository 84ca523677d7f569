/*
 * filter.c
 *	  Which records a worker type passes on. See filter.h.
 */
#include "filter.h"

#include <string.h>

#include "sentinai_envelope.h"
#include "sentinai_wire.h"

/* Generous: what is over the database's limits can't be skipped by mistake. */
static const sn_limits filter_limits = {.max_bytes = SIZE_MAX, .max_depth = SN_JSON_DEPTH_CEILING};

static bool
header(const rd_kafka_headers_t *headers, const char *name, const void **value, size_t *length)
{
	return headers != NULL && rd_kafka_header_get_last(headers, name, value, length) == RD_KAFKA_RESP_ERR_NO_ERROR &&
		   *value != NULL;
}

static bool
handles_field(const WorkerType *type, const sn_field *field)
{
	if (field->kind != SN_FIELD_STRING)
		return false;
	if (!field->escaped)
		return worker_type_handles(type, field->text, field->len);
	for (int i = 0; i < type->n_event_types; i++)
		if (sn_field_equals(field, type->event_types[i], strlen(type->event_types[i])))
			return true;
	return false;
}

static bool
handles_envelope(const WorkerType *type, const rd_kafka_message_t *msg)
{
	sn_envelope envelope;

	if (msg->payload == NULL || sn_envelope_scan(msg->payload, msg->len, &filter_limits, &envelope) != SN_JSON_OK)
		return false;
	return handles_field(type, &envelope.event_type);
}

static bool
is_our_own(const WorkerType *type, const rd_kafka_message_t *msg, const rd_kafka_headers_t *headers)
{
	const void *mark;
	size_t length;

	return type->emitted != NULL && header(headers, SN_HEADER_EMITTED, &mark, &length) &&
		   emitted_verify(type->emitted, rd_kafka_topic_name(msg->rkt), msg->key, msg->key_len, msg->payload, msg->len,
						  mark, length);
}

bool
filter_passes(const WorkerType *type, const rd_kafka_message_t *msg)
{
	rd_kafka_headers_t *headers = NULL;
	const void *event_type;
	size_t length;

	rd_kafka_message_headers(msg, &headers);
	if (header(headers, SN_HEADER_EVENT_TYPE, &event_type, &length))
	{
		if (worker_type_handles(type, event_type, length))
			return true;
	}
	else if (handles_envelope(type, msg))
		return true;
	return type->owns_topic && !is_our_own(type, msg, headers);
}
