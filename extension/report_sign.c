/*
 * report_sign.c
 *	  What makes a report verifiable: its SHA-256, signatures (Ed25519) of manifests, and the codes of download links
 *	  (HMAC-SHA256). All of it is OpenSSL's; the server's own hashes belong to a transaction, and a report has many.
 */
#include "sentinai.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

#include "report_sign.h"

#define HASH_BYTES 32
#define KEY_BYTES 32
#define SIGNATURE_BYTES 64

PG_FUNCTION_INFO_V1(sn_report_public_key);
PG_FUNCTION_INFO_V1(sn_report_sign);
PG_FUNCTION_INFO_V1(sn_report_signature_ok);
PG_FUNCTION_INFO_V1(sn_report_mac);

struct SnReportHash
{
	EVP_MD_CTX *ctx;
};

/* An OpenSSL call that can only fail for want of memory. */
static void
must(bool ok, const char *what)
{
	if (!ok)
		ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("could not %s", what)));
}

static Datum
bytes(const void *data, size_t size)
{
	bytea *value = palloc(VARHDRSZ + size);

	SET_VARSIZE(value, VARHDRSZ + size);
	memcpy(VARDATA(value), data, size);
	return PointerGetDatum(value);
}

/* ---- hashing ---- */

SnReportHash *
sn_report_hash_new(void)
{
	SnReportHash *hash = palloc(sizeof(SnReportHash));

	hash->ctx = EVP_MD_CTX_new();
	must(hash->ctx != NULL && EVP_DigestInit_ex(hash->ctx, EVP_sha256(), NULL) == 1, "begin a hash");
	return hash;
}

void
sn_report_hash_add(SnReportHash *hash, const void *data, size_t size)
{
	must(EVP_DigestUpdate(hash->ctx, data, size) == 1, "go on with a hash");
}

Datum
sn_report_hash_end(SnReportHash *hash)
{
	unsigned char digest[HASH_BYTES];

	must(EVP_DigestFinal_ex(hash->ctx, digest, NULL) == 1, "end a hash");
	EVP_MD_CTX_free(hash->ctx);
	pfree(hash);
	return bytes(digest, sizeof(digest));
}

/* ---- signing ---- */

static const unsigned char *
key_bytes(bytea *key)
{
	if (VARSIZE_ANY_EXHDR(key) != KEY_BYTES)
		ereport(ERROR, (errcode(SN_ERRCODE("SN001")), errmsg("a key has %d bytes", KEY_BYTES)));
	return (const unsigned char *) VARDATA_ANY(key);
}

/* report_public_key_of(secret bytea) returns bytea */
Datum
sn_report_public_key(PG_FUNCTION_ARGS)
{
	EVP_PKEY *key = EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, NULL, key_bytes(PG_GETARG_BYTEA_PP(0)), KEY_BYTES);
	unsigned char public_key[KEY_BYTES];
	size_t size = sizeof(public_key);
	bool ok = key != NULL && EVP_PKEY_get_raw_public_key(key, public_key, &size) == 1;

	EVP_PKEY_free(key);
	must(ok, "make a public key");
	return bytes(public_key, size);
}

/* report_sign(message text, secret bytea) returns bytea */
Datum
sn_report_sign(PG_FUNCTION_ARGS)
{
	text *message = PG_GETARG_TEXT_PP(0);
	EVP_PKEY *key = EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, NULL, key_bytes(PG_GETARG_BYTEA_PP(1)), KEY_BYTES);
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();
	unsigned char signature[SIGNATURE_BYTES];
	size_t size = sizeof(signature);
	bool ok = key != NULL && ctx != NULL && EVP_DigestSignInit(ctx, NULL, NULL, NULL, key) == 1 &&
			  EVP_DigestSign(ctx, signature, &size, (const unsigned char *) VARDATA_ANY(message),
							 VARSIZE_ANY_EXHDR(message)) == 1;

	EVP_MD_CTX_free(ctx);
	EVP_PKEY_free(key);
	must(ok, "sign a manifest");
	return bytes(signature, size);
}

/* report_signature_ok(message text, signature bytea, public_key bytea) returns boolean */
Datum
sn_report_signature_ok(PG_FUNCTION_ARGS)
{
	text *message = PG_GETARG_TEXT_PP(0);
	bytea *signature = PG_GETARG_BYTEA_PP(1);
	EVP_PKEY *key = EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, NULL, key_bytes(PG_GETARG_BYTEA_PP(2)), KEY_BYTES);
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();
	bool ok = key != NULL && ctx != NULL && EVP_DigestVerifyInit(ctx, NULL, NULL, NULL, key) == 1 &&
			  EVP_DigestVerify(ctx, (const unsigned char *) VARDATA_ANY(signature), VARSIZE_ANY_EXHDR(signature),
							   (const unsigned char *) VARDATA_ANY(message), VARSIZE_ANY_EXHDR(message)) == 1;

	EVP_MD_CTX_free(ctx);
	EVP_PKEY_free(key);
	PG_RETURN_BOOL(ok);
}

/* ---- links ---- */

/* report_mac(message text, secret bytea) returns bytea */
Datum
sn_report_mac(PG_FUNCTION_ARGS)
{
	text *message = PG_GETARG_TEXT_PP(0);
	bytea *secret = PG_GETARG_BYTEA_PP(1);
	unsigned char code[HASH_BYTES];

	must(HMAC(EVP_sha256(), VARDATA_ANY(secret), VARSIZE_ANY_EXHDR(secret),
			  (const unsigned char *) VARDATA_ANY(message), VARSIZE_ANY_EXHDR(message), code, NULL) != NULL,
		 "compute a code");
	return bytes(code, sizeof(code));
}
