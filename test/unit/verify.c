/*
 * verify.c
 *	  sentinai-worker verify on reports that are genuine, and on each way in which one can be forged. The keys are made here.
 */
#include <stdarg.h>
#include <setjmp.h>
#include <stdint.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include <cjson/cJSON.h>
#include <openssl/evp.h>

#include "verify.h"

static char directory[] = "/tmp/sentinai-verify-XXXXXX";

static const char content[] = "id,status\r\nEXC_1,resolved\r\n";

static char *
hex_of(const unsigned char *bytes, size_t len)
{
	char *hex = malloc(2 * len + 1);

	for (size_t i = 0; i < len; i++)
		sprintf(hex + 2 * i, "%02x", bytes[i]);
	return hex;
}

static char *
sha256_of(const char *text)
{
	unsigned char digest[32];

	assert_true(EVP_Digest(text, strlen(text), digest, NULL, EVP_sha256(), NULL));
	return hex_of(digest, sizeof(digest));
}

static char *
path_of(const char *name)
{
	char *path;

	assert_true(asprintf(&path, "%s/%s", directory, name) > 0);
	return path;
}

static void
put(const char *name, const char *text)
{
	char *path = path_of(name);
	FILE *out = fopen(path, "wb");

	assert_non_null(out);
	fputs(text, out);
	fclose(out);
	free(path);
}

static EVP_PKEY *
make_key(void)
{
	return EVP_PKEY_Q_keygen(NULL, NULL, "ED25519");
}

static char *
public_hex(EVP_PKEY *key)
{
	unsigned char raw[32];
	size_t len = sizeof(raw);

	assert_true(EVP_PKEY_get_raw_public_key(key, raw, &len));
	return hex_of(raw, len);
}

/* The text of a manifest. */
static char *
make_text(int number, const char *tenant, const char *hash, const char *previous)
{
	char *quoted = NULL;
	char *text;

	if (previous != NULL)
		assert_true(asprintf(&quoted, "\"%s\"", previous) > 0);
	assert_true(asprintf(&text,
						 "{\"report_id\": \"R%d\", \"tenant_id\": \"%s\", \"rows\": 1, \"bytes\": %zu, \"sha256\": "
						 "\"%s\", \"number\": %d, \"previous\": %s}",
						 number, tenant, strlen(content), hash, number, quoted == NULL ? "null" : quoted) > 0);
	free(quoted);
	return text;
}

/* Writes the manifest's file: text, and a signature of key over signed_text. */
static void
put_manifest(const char *name, EVP_PKEY *key, const char *text, const char *signed_text)
{
	unsigned char signature[64];
	size_t len = sizeof(signature);
	EVP_MD_CTX *context = EVP_MD_CTX_new();
	cJSON *file = cJSON_CreateObject();
	char *hex;
	char *public_key = public_hex(key);
	char *printed;

	assert_true(EVP_DigestSignInit(context, NULL, NULL, NULL, key));
	assert_true(EVP_DigestSign(context, signature, &len, (const unsigned char *) signed_text, strlen(signed_text)));
	EVP_MD_CTX_free(context);
	hex = hex_of(signature, len);
	cJSON_AddStringToObject(file, "manifest", text);
	cJSON_AddStringToObject(file, "signature", hex);
	cJSON_AddStringToObject(file, "public_key", public_key);
	printed = cJSON_Print(file);
	put(name, printed);
	cJSON_Delete(file);
	free(printed);
	free(public_key);
	free(hex);
}

/* Runs the command on the report, with one option; what it said is in said. */
static VerifyResult
verify(const char *option, const char *value, char *said, size_t size)
{
	char *file = path_of("report.csv");
	char *argv[] = {file, (char *) option, (char *) value};
	FILE *out = fmemopen(said, size, "w");
	VerifyResult result = verify_run(option == NULL ? 1 : 3, argv, out, out);

	fclose(out);
	free(file);
	return result;
}

static void
expect(VerifyResult expected, const char *option, const char *value, const char *message)
{
	char said[4096] = "";
	VerifyResult result = verify(option, value, said, sizeof(said));

	if (result != expected || strstr(said, message) == NULL)
		print_message("said: %s", said);
	assert_int_equal(result, expected);
	assert_non_null(strstr(said, message));
}

typedef struct Keys
{
	EVP_PKEY *own;
	EVP_PKEY *other;
	char *hash; /* of the content */
} Keys;

static int
setup(void **state)
{
	Keys *keys = calloc(1, sizeof(Keys));

	keys->own = make_key();
	keys->other = make_key();
	keys->hash = sha256_of(content);
	put("report.csv", content);
	*state = keys;
	return 0;
}

static int
teardown(void **state)
{
	static const char *const names[] = {"report.csv", "report.csv.manifest.json", "before.json", "other.json"};
	Keys *keys = *state;

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
	{
		char *path = path_of(names[i]);

		unlink(path);
		free(path);
	}
	EVP_PKEY_free(keys->own);
	EVP_PKEY_free(keys->other);
	free(keys->hash);
	free(keys);
	return 0;
}

/* A manifest of the report, as it should be. */
static void
put_genuine(Keys *keys, const char *previous)
{
	char *text = make_text(2, "T1", keys->hash, previous);

	put_manifest("report.csv.manifest.json", keys->own, text, text);
	free(text);
}

static void
test_genuine(void **state)
{
	Keys *keys = *state;
	char *own = public_hex(keys->own);

	put_genuine(keys, NULL);
	expect(VERIFY_GENUINE, NULL, NULL, "for you to compare");
	expect(VERIFY_GENUINE, "--public-key", own, "by the key that you gave");
	expect(VERIFY_GENUINE, "--public-key", own, "number 2 of its tenant");
	free(own);
}

static void
test_forged(void **state)
{
	Keys *keys = *state;
	char *own = public_hex(keys->own);
	char *text = make_text(2, "T1", keys->hash, NULL);
	char *other = make_text(2, "T2", keys->hash, NULL);

	put_genuine(keys, NULL);
	put("report.csv", "id,status\r\nEXC_1,open\r\n");
	expect(VERIFY_REFUTED, NULL, NULL, "the manifest says");
	put("report.csv", content);
	put_manifest("report.csv.manifest.json", keys->own, other, text);
	expect(VERIFY_REFUTED, NULL, NULL, "is not one of key");
	put_manifest("report.csv.manifest.json", keys->other, text, text);
	expect(VERIFY_REFUTED, "--public-key", own, "not the one that you gave");
	free(own);
	free(text);
	free(other);
}

static void
test_chain(void **state)
{
	Keys *keys = *state;
	char *before = make_text(1, "T1", keys->hash, NULL);
	char *foreign = make_text(1, "T2", keys->hash, NULL);
	char *hash = sha256_of(before);
	char *foreign_hash = sha256_of(foreign);
	char *path = path_of("before.json");

	put_manifest("before.json", keys->own, before, before);
	put_genuine(keys, hash);
	expect(VERIFY_GENUINE, "--previous", path, "follows report R1");
	put_manifest("before.json", keys->own, foreign, foreign);
	expect(VERIFY_REFUTED, "--previous", path, "chain:");
	put_genuine(keys, foreign_hash);
	expect(VERIFY_REFUTED, "--previous", path, "chain:");
	put_manifest("before.json", keys->other, before, before);
	put_genuine(keys, hash);
	expect(VERIFY_REFUTED, "--previous", path, "chain:");
	put_genuine(keys, NULL);
	expect(VERIFY_REFUTED, "--previous", path, "chain:");
	free(before);
	free(foreign);
	free(hash);
	free(foreign_hash);
	free(path);
}

static void
test_unreadable(void **state)
{
	static const char *const no_manifests[] = {"", "{", "[]", "{\"manifest\": \"{}\"}", "{\"manifest\": 1}"};
	Keys *keys = *state;

	expect(VERIFY_UNCHECKED, NULL, NULL, "could not be read as a manifest");
	for (size_t i = 0; i < sizeof(no_manifests) / sizeof(no_manifests[0]); i++)
	{
		put("report.csv.manifest.json", no_manifests[i]);
		expect(VERIFY_UNCHECKED, NULL, NULL, "is not a manifest");
	}
	put_genuine(keys, NULL);
	expect(VERIFY_UNCHECKED, "--public-key", "abc", "64 hexadecimal digits");
	expect(VERIFY_UNCHECKED, "--previous", "/nowhere", "could not be read as a manifest");
	expect(VERIFY_UNCHECKED, "--key", "abc", "usage:");
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_genuine, setup, teardown),
		cmocka_unit_test_setup_teardown(test_forged, setup, teardown),
		cmocka_unit_test_setup_teardown(test_chain, setup, teardown),
		cmocka_unit_test_setup_teardown(test_unreadable, setup, teardown),
	};
	int failed;

	if (mkdtemp(directory) == NULL)
		return 1;
	failed = cmocka_run_group_tests(tests, NULL, NULL);
	rmdir(directory);
	return failed;
}
