/*
 * verify.c
 *	  Checks the file of an audit report against its manifest; see verify.h.
 *
 * The manifest's file is what report_manifest_get() returns: {"manifest": text, "signature": hex, "public_key": hex}. The text
 * is what was signed (Ed25519, RFC 8032), byte for byte; it holds the SHA-256 of the report's file, and that of the text of
 * the tenant's manifest before, so that none can be taken out of the row unseen. How reports are made and signed is the
 * extension's (report_sign.c).
 */
#include "verify.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>
#include <openssl/evp.h>

#define SHA256_LEN 32
#define SIGNATURE_LEN 64
#define PUBLIC_KEY_LEN 32

/* A manifest is a page of text. */
#define MANIFEST_MAX (1024 * 1024)

typedef struct Options
{
	const char *file;
	const char *manifest;	/* NULL: FILE.manifest.json */
	const char *previous;	/* NULL: the chain isn't looked at */
	const char *public_key; /* NULL: the manifest's own is taken, which proves less */
} Options;

/* A manifest as it was read; free with manifest_free(). */
typedef struct Manifest
{
	cJSON *file; /* the object that the file holds */
	cJSON *body; /* the parsed text */
	const char *text;
	unsigned char signature[SIGNATURE_LEN];
	unsigned char public_key[PUBLIC_KEY_LEN];
} Manifest;

/* ---- bytes ---- */

static bool
from_hex(const char *hex, unsigned char *bytes, size_t len)
{
	if (hex == NULL || strlen(hex) != 2 * len || strspn(hex, "0123456789abcdefABCDEF") != 2 * len)
		return false;
	for (size_t i = 0; i < len; i++)
		sscanf(hex + 2 * i, "%2hhx", &bytes[i]);
	return true;
}

static void
to_hex(const unsigned char *bytes, size_t len, char *hex)
{
	for (size_t i = 0; i < len; i++)
		sprintf(hex + 2 * i, "%02x", bytes[i]);
}

static bool
hash_text(const char *text, char hex[2 * SHA256_LEN + 1])
{
	unsigned char digest[SHA256_LEN];

	if (!EVP_Digest(text, strlen(text), digest, NULL, EVP_sha256(), NULL))
		return false;
	to_hex(digest, SHA256_LEN, hex);
	return true;
}

/* The file's hash and size. A report may be larger than memory. */
static bool
hash_file(const char *path, char hex[2 * SHA256_LEN + 1], long long *size)
{
	FILE *in = fopen(path, "rb");
	EVP_MD_CTX *context = EVP_MD_CTX_new();
	unsigned char digest[SHA256_LEN];
	unsigned char buffer[65536];
	size_t len;
	bool ok = in != NULL && context != NULL && EVP_DigestInit_ex(context, EVP_sha256(), NULL);

	*size = 0;
	while (ok && (len = fread(buffer, 1, sizeof(buffer), in)) > 0)
	{
		*size += (long long) len;
		ok = EVP_DigestUpdate(context, buffer, len);
	}
	ok = ok && !ferror(in) && EVP_DigestFinal_ex(context, digest, NULL);
	if (ok)
		to_hex(digest, SHA256_LEN, hex);
	EVP_MD_CTX_free(context);
	if (in != NULL)
		fclose(in);
	return ok;
}

/* The text of a small file; NULL: it can't be read, or is no small file. */
static char *
read_file(const char *path)
{
	FILE *in = fopen(path, "rb");
	char *text = malloc(MANIFEST_MAX + 1);
	size_t len = 0;
	bool ok = in != NULL && text != NULL;

	if (ok)
	{
		len = fread(text, 1, MANIFEST_MAX + 1, in);
		ok = !ferror(in) && len <= MANIFEST_MAX;
	}
	if (in != NULL)
		fclose(in);
	if (!ok)
	{
		free(text);
		return NULL;
	}
	text[len] = '\0';
	return text;
}

/* ---- the manifest ---- */

static const char *
member_text(const cJSON *object, const char *name)
{
	return cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(object, name));
}

static const char *
shown(const char *text)
{
	return text == NULL ? "?" : text;
}

/* -1: there is none. */
static double
member_number(const cJSON *object, const char *name)
{
	const cJSON *value = cJSON_GetObjectItemCaseSensitive(object, name);

	return cJSON_IsNumber(value) ? value->valuedouble : -1;
}

static void
manifest_free(Manifest *manifest)
{
	cJSON_Delete(manifest->file);
	cJSON_Delete(manifest->body);
}

static bool
manifest_read(Manifest *manifest, const char *path, FILE *err)
{
	char *bytes = read_file(path);

	memset(manifest, 0, sizeof(*manifest));
	if (bytes == NULL)
	{
		fprintf(err, "%s: could not be read as a manifest: %s\n", path,
				errno != 0 ? strerror(errno) : "it is too large");
		return false;
	}
	manifest->file = cJSON_Parse(bytes);
	free(bytes);
	manifest->text = member_text(manifest->file, "manifest");
	manifest->body = manifest->text == NULL ? NULL : cJSON_Parse(manifest->text);
	if (cJSON_IsObject(manifest->body) && member_text(manifest->body, "sha256") != NULL &&
		from_hex(member_text(manifest->file, "signature"), manifest->signature, SIGNATURE_LEN) &&
		from_hex(member_text(manifest->file, "public_key"), manifest->public_key, PUBLIC_KEY_LEN))
		return true;
	fprintf(err, "%s: is not a manifest: SELECT sentinai.report_manifest_get('ID') makes it\n", path);
	manifest_free(manifest);
	return false;
}

static bool
signature_valid(const Manifest *manifest)
{
	EVP_PKEY *key = EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, NULL, manifest->public_key, PUBLIC_KEY_LEN);
	EVP_MD_CTX *context = EVP_MD_CTX_new();
	bool valid = key != NULL && context != NULL && EVP_DigestVerifyInit(context, NULL, NULL, NULL, key) == 1 &&
				 EVP_DigestVerify(context, manifest->signature, SIGNATURE_LEN, (const unsigned char *) manifest->text,
								  strlen(manifest->text)) == 1;

	EVP_MD_CTX_free(context);
	EVP_PKEY_free(key);
	return valid;
}

/* ---- the checks: each says what it found, and whether it is as it should be ---- */

static bool
check_signature(const Options *options, const Manifest *manifest, FILE *out, FILE *err)
{
	unsigned char given[PUBLIC_KEY_LEN];
	char hex[2 * PUBLIC_KEY_LEN + 1];

	to_hex(manifest->public_key, PUBLIC_KEY_LEN, hex);
	if (!signature_valid(manifest))
	{
		fprintf(err, "signature: is not one of key %s over this manifest\n", hex);
		return false;
	}
	if (options->public_key == NULL)
	{
		fprintf(out, "signature: valid, by key %s; that this is the database's key is for you to compare\n", hex);
		return true;
	}
	(void) from_hex(options->public_key, given, PUBLIC_KEY_LEN);
	if (memcmp(given, manifest->public_key, PUBLIC_KEY_LEN) != 0)
	{
		fprintf(err, "signature: is by key %s, which is not the one that you gave\n", hex);
		return false;
	}
	fprintf(out, "signature: valid, by the key that you gave\n");
	return true;
}

static bool
check_content(const Options *options, const Manifest *manifest, const char *hex, long long size, FILE *out, FILE *err)
{
	double bytes = member_number(manifest->body, "bytes");

	if (strcmp(hex, member_text(manifest->body, "sha256")) != 0 || (bytes >= 0 && bytes != (double) size))
	{
		fprintf(err, "file: %s has %lld bytes with SHA-256 %s, the manifest says %.0f bytes with %s\n", options->file,
				size, hex, bytes, member_text(manifest->body, "sha256"));
		return false;
	}
	fprintf(out, "file: %s has the %lld bytes that were signed, SHA-256 %s\n", options->file, size, hex);
	return true;
}

/* The manifest before this one, where it was given: the same tenant's, one number less, and with the hash that is named. */
static bool
check_chain(const Manifest *manifest, const Manifest *previous, FILE *out, FILE *err)
{
	const char *named = member_text(manifest->body, "previous");
	char hex[2 * SHA256_LEN + 1];

	if (!hash_text(previous->text, hex) || named == NULL || strcmp(named, hex) != 0 || !signature_valid(previous) ||
		memcmp(previous->public_key, manifest->public_key, PUBLIC_KEY_LEN) != 0 ||
		member_number(manifest->body, "number") != member_number(previous->body, "number") + 1 ||
		strcmp(shown(member_text(manifest->body, "tenant_id")), shown(member_text(previous->body, "tenant_id"))) != 0)
	{
		fprintf(err, "chain: the manifest that was given as the one before is not the one that this one follows\n");
		return false;
	}
	fprintf(out, "chain: follows report %s\n", shown(member_text(previous->body, "report_id")));
	return true;
}

static void
say_report(const Manifest *manifest, FILE *out)
{
	const cJSON *body = manifest->body;

	fprintf(out, "report: %s, %s of tenant %s, number %.0f of its tenant, %.0f rows, requested by %s at %s\n",
			shown(member_text(body, "report_id")), shown(member_text(body, "report_type")),
			shown(member_text(body, "tenant_id")), member_number(body, "number"), member_number(body, "rows"),
			shown(member_text(body, "requested_by")), shown(member_text(body, "requested_at")));
}

/* ---- the command ---- */

static bool
read_options(Options *options, int argc, char **argv, FILE *err)
{
	static const char usage[] =
		"usage: sentinai-worker verify FILE [--manifest FILE.manifest.json] [--previous FILE] [--public-key HEX]\n";
	unsigned char key[PUBLIC_KEY_LEN];

	memset(options, 0, sizeof(*options));
	for (int i = 0; i < argc; i++)
	{
		const char **place = strcmp(argv[i], "--manifest") == 0		? &options->manifest
							 : strcmp(argv[i], "--previous") == 0	? &options->previous
							 : strcmp(argv[i], "--public-key") == 0 ? &options->public_key
							 : argv[i][0] != '-'					? &options->file
																	: NULL;

		if (place == NULL || *place != NULL || (place != &options->file && ++i == argc))
		{
			fputs(usage, err);
			return false;
		}
		*place = argv[i];
	}
	if (options->file == NULL)
		fputs(usage, err);
	else if (options->public_key != NULL && !from_hex(options->public_key, key, PUBLIC_KEY_LEN))
		fprintf(err, "--public-key wants the %d hexadecimal digits that SELECT sentinai.report_public_key() returns\n",
				2 * PUBLIC_KEY_LEN);
	else
		return true;
	return false;
}

static VerifyResult
check_all(const Options *options, const Manifest *manifest, FILE *out, FILE *err)
{
	Manifest previous;
	char hex[2 * SHA256_LEN + 1];
	long long size;
	bool ok;

	if (!hash_file(options->file, hex, &size))
	{
		fprintf(err, "%s: could not be read: %s\n", options->file, strerror(errno));
		return VERIFY_UNCHECKED;
	}
	/* The signature first: what the manifest says counts only if it is whole. */
	ok = check_signature(options, manifest, out, err) && check_content(options, manifest, hex, size, out, err);
	if (ok && options->previous != NULL)
	{
		if (!manifest_read(&previous, options->previous, err))
			return VERIFY_UNCHECKED;
		ok = check_chain(manifest, &previous, out, err);
		manifest_free(&previous);
	}
	if (!ok)
		return VERIFY_REFUTED;
	say_report(manifest, out);
	return VERIFY_GENUINE;
}

VerifyResult
verify_run(int argc, char **argv, FILE *out, FILE *err)
{
	Options options;
	Manifest manifest;
	char beside[4096];
	VerifyResult result;

	if (!read_options(&options, argc, argv, err))
		return VERIFY_UNCHECKED;
	if (options.manifest == NULL)
	{
		snprintf(beside, sizeof(beside), "%s.manifest.json", options.file);
		options.manifest = beside;
	}
	errno = 0;
	if (!manifest_read(&manifest, options.manifest, err))
		return VERIFY_UNCHECKED;
	result = check_all(&options, &manifest, out, err);
	manifest_free(&manifest);
	return result;
}
