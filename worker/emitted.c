/*
 * emitted.c
 *	  HMAC-SHA256 over topic, key and value of a record; see emitted.h.
 *
 * The key schedule is done once, in the template context of an EmittedKey; each record works on a copy of it.
 */
#include "emitted.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/params.h>

#define DIGEST_LEN 32

struct EmittedKey
{
	EVP_MAC *mac;
	EVP_MAC_CTX *template;
};

EmittedKey *
emitted_key_new(const void *secret, size_t secret_len)
{
	EmittedKey *key = calloc(1, sizeof(EmittedKey));
	char digest[] = "SHA256";
	OSSL_PARAM params[] = {OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, digest, 0),
						   OSSL_PARAM_construct_end()};

	if (key == NULL)
		return NULL;
	key->mac = EVP_MAC_fetch(NULL, "HMAC", NULL);
	if (key->mac != NULL)
		key->template = EVP_MAC_CTX_new(key->mac);
	/* a NULL key would mean "keep the one before" */
	if (key->template == NULL ||
		!EVP_MAC_init(key->template, secret == NULL ? (const unsigned char *) "" : secret, secret_len, params))
	{
		emitted_key_free(key);
		return NULL;
	}
	return key;
}

void
emitted_key_free(EmittedKey *key)
{
	if (key == NULL)
		return;
	EVP_MAC_CTX_free(key->template);
	EVP_MAC_free(key->mac);
	free(key);
}

static bool
add_topic(EVP_MAC_CTX *context, const char *topic)
{
	size_t len = strlen(topic);
	unsigned char head[2] = {(unsigned char) (len >> 8), (unsigned char) len};

	return len <= UINT16_MAX && EVP_MAC_update(context, head, sizeof(head)) &&
		   EVP_MAC_update(context, (const unsigned char *) topic, len);
}

static bool
add_bytes(EVP_MAC_CTX *context, const void *bytes, size_t len)
{
	uint32_t n = bytes == NULL ? UINT32_MAX : (uint32_t) len; /* all ones is -1 */
	unsigned char head[4] = {(unsigned char) (n >> 24), (unsigned char) (n >> 16), (unsigned char) (n >> 8),
							 (unsigned char) n};

	return (bytes == NULL || len <= INT32_MAX) && EVP_MAC_update(context, head, sizeof(head)) &&
		   (bytes == NULL || len == 0 || EVP_MAC_update(context, bytes, len));
}

bool
emitted_compute(const EmittedKey *emitted_key, const char *topic, const void *key, size_t key_len, const void *value,
				size_t value_len, char hex[EMITTED_HEX_LEN + 1])
{
	static const char digits[] = "0123456789abcdef";
	unsigned char digest[DIGEST_LEN];
	size_t len = 0;
	EVP_MAC_CTX *context = EVP_MAC_CTX_dup(emitted_key->template);
	bool ok = context != NULL && add_topic(context, topic) && add_bytes(context, key, key_len) &&
			  add_bytes(context, value, value_len) && EVP_MAC_final(context, digest, &len, sizeof(digest)) &&
			  len == DIGEST_LEN;

	EVP_MAC_CTX_free(context);
	if (!ok)
		return false;
	for (int i = 0; i < DIGEST_LEN; i++)
	{
		hex[2 * i] = digits[digest[i] >> 4];
		hex[2 * i + 1] = digits[digest[i] & 15];
	}
	hex[EMITTED_HEX_LEN] = '\0';
	return true;
}

bool
emitted_verify(const EmittedKey *emitted_key, const char *topic, const void *key, size_t key_len, const void *value,
			   size_t value_len, const void *header, size_t header_len)
{
	char hex[EMITTED_HEX_LEN + 1];

	return header != NULL && header_len == EMITTED_HEX_LEN &&
		   emitted_compute(emitted_key, topic, key, key_len, value, value_len, hex) &&
		   CRYPTO_memcmp(hex, header, EMITTED_HEX_LEN) == 0;
}
