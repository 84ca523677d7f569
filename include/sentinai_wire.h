/*
 * sentinai_wire.h
 *	  The bytes of a batch, as sentinai-worker packs them and consume() reads them. Only the format lives here.
 *
 * All integers are big-endian. "str16" is a uint16 length and that many bytes; "bytes32" is an int32 length (-1: NULL) and
 * that many bytes.
 *
 *	magic			4 bytes "SNB1"
 *	handler_version	int64	version of the handler list that the worker skipped by; 0: not checked
 *	max_events		int32	how many events the call may handle, due work included
 *	n_partitions	int32	one entry for each partition that the processor holds, with or without records
 *		topic		str16
 *		partition	int32
 *		epoch		int64	as assign() returned it
 *		position	int64	behind the last record read, skipped ones included
 *	n_records		int32	in the order of their offsets within each partition
 *		entry		int32	index of the record's partition entry above
 *		offset		int64
 *		timestamp	int64	milliseconds since 1970-01-01, -1: none
 *		key			bytes32
 *		value		bytes32	NULL: a tombstone
 *		n_headers	int32
 *			name	str16
 *			value	bytes32
 */
#ifndef SENTINAI_WIRE_H
#define SENTINAI_WIRE_H

#define SN_WIRE_MAGIC "SNB1"
#define SN_WIRE_MAGIC_LEN 4
#define SN_WIRE_MAX_PARTITIONS 100000
#define SN_WIRE_MAX_RECORDS 1000000
#define SN_WIRE_MAX_HEADERS 10000

/* Record headers of ours. */
#define SN_HEADER_EVENT_TYPE "sentinai-event-type"
#define SN_HEADER_EMITTED "sentinai-emitted"	 /* lower-case hex HMAC-SHA256, see docs */
#define SN_HEADER_DLQ_ID "sentinai-dlq-id"		 /* decimal text */
#define SN_HEADER_DLQ_TOKEN "sentinai-dlq-token" /* UUID text */

/*
 * The message under the HMAC of SN_HEADER_EMITTED: topic as str16, key as bytes32, value as bytes32, packed as above. The
 * key is what worker_config() returns as emit_secret.
 */

#endif /* SENTINAI_WIRE_H */
