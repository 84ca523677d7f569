/*
 * emitted.h
 *	  The mark on records that this database has published itself: the header SN_HEADER_EMITTED.
 *
 * The publish pump makes it, the consume pump checks it. What is under the hash stands in include/sentinai_wire.h.
 */
#ifndef WORKER_EMITTED_H
#define WORKER_EMITTED_H

#include <stdbool.h>
#include <stddef.h>

#define EMITTED_HEX_LEN 64

/* A secret, ready for use. Immutable, so that any number of threads may share one. */
typedef struct EmittedKey EmittedKey;

/* NULL when OpenSSL can't make one (no memory, or no SHA-256 in this process). */
extern EmittedKey *emitted_key_new(const void *secret, size_t secret_len);
extern void emitted_key_free(EmittedKey *key);

/* key and value may be NULL, which is another message than an empty one. False: OpenSSL failed, hex is not written. */
extern bool emitted_compute(const EmittedKey *emitted_key, const char *topic, const void *key, size_t key_len,
							const void *value, size_t value_len, char hex[EMITTED_HEX_LEN + 1]);

/* True only for the header's very bytes; takes the same time whatever differs. */
extern bool emitted_verify(const EmittedKey *emitted_key, const char *topic, const void *key, size_t key_len,
						   const void *value, size_t value_len, const void *header, size_t header_len);

#endif /* WORKER_EMITTED_H */
