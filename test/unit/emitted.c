/*
 * emitted.c
 *	  The mark of our own records against vectors that Python's hmac module made, and what must not pass.
 */
#include <stdarg.h>
#include <setjmp.h>
#include <stdint.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

#include "emitted.h"

static void
check(const void *secret, size_t secret_len, const char *topic, const void *key, size_t key_len, const void *value,
	  size_t value_len, const char *expected)
{
	EmittedKey *emitted_key = emitted_key_new(secret, secret_len);
	char hex[EMITTED_HEX_LEN + 1];

	assert_non_null(emitted_key);
	/* twice: a record leaves nothing behind in the key */
	for (int i = 0; i < 2; i++)
	{
		assert_true(emitted_compute(emitted_key, topic, key, key_len, value, value_len, hex));
		assert_string_equal(hex, expected);
	}
	assert_true(emitted_verify(emitted_key, topic, key, key_len, value, value_len, expected, strlen(expected)));
	emitted_key_free(emitted_key);
}

static void
test_vectors(void **state)
{
	unsigned char secret[100];
	char topic[250];
	char value[3000];

	(void) state;
	check("secret", 6, "exceptions", "T1:E1", 5, "{\"a\":1}", 7,
		  "518c40d64b6c46e8f8878ae8a81d9bba62618ca88d6fde32ab2f5c1d2398ca15");
	check("secret", 6, "exceptions", NULL, 0, "{\"a\":1}", 7,
		  "381618f6459acba5be24e8cb8134895826fc1c14d2225aef18b11cd1ad5b25d2");
	check("secret", 6, "exceptions", "", 0, "{\"a\":1}", 7,
		  "ec1337417c5088b283527c237428c2ef8fd1d66e605042b577d76ffe375f7059");
	check("secret", 6, "exceptions", "T1:E1", 5, NULL, 0,
		  "884fbc579d7798cfab38ac96f2766186eb053b80e5359e59c482acca12cabd24");
	check("", 0, "t", "\0\xff", 2, "", 0, "03e4a39e6be437d2c0d7c6461f65ac082b200f5c44db1c0082f4ad3d9f4502e2");

	/* a secret longer than a block, the longest topic, a value of several blocks */
	for (int i = 0; i < 100; i++)
		secret[i] = (unsigned char) i;
	memset(topic, 'x', 249);
	topic[249] = '\0';
	memset(value, 'v', sizeof(value));
	check(secret, sizeof(secret), topic, "k", 1, value, sizeof(value),
		  "ad43e6f22c627c07b2ed65ae7a2acdef0382387ffd7d2e683252d2463c5b8a8d");
}

static void
test_refused(void **state)
{
	static const char good[] = "518c40d64b6c46e8f8878ae8a81d9bba62618ca88d6fde32ab2f5c1d2398ca15";
	static const char upper[] = "518C40D64B6C46E8F8878AE8A81D9BBA62618CA88D6FDE32AB2F5C1D2398CA15";
	EmittedKey *secret = emitted_key_new("secret", 6);
	EmittedKey *other = emitted_key_new("secrey", 6);
	char bad[] = "518c40d64b6c46e8f8878ae8a81d9bba62618ca88d6fde32ab2f5c1d2398ca16";

	(void) state;
	assert_true(emitted_verify(secret, "exceptions", "T1:E1", 5, "{\"a\":1}", 7, good, 64));
	assert_false(emitted_verify(other, "exceptions", "T1:E1", 5, "{\"a\":1}", 7, good, 64));
	assert_false(emitted_verify(secret, "exception", "T1:E1", 5, "{\"a\":1}", 7, good, 64));
	assert_false(emitted_verify(secret, "exceptions", "T1:E2", 5, "{\"a\":1}", 7, good, 64));
	assert_false(emitted_verify(secret, "exceptions", "T1:E1", 5, "{\"a\":2}", 7, good, 64));
	/* a byte that moves from key to value makes another message */
	assert_false(emitted_verify(secret, "exceptions", "T1:E1{", 6, "\"a\":1}", 6, good, 64));
	assert_false(emitted_verify(secret, "exceptions", "T1:E1", 5, "{\"a\":1}", 7, bad, 64));
	assert_false(emitted_verify(secret, "exceptions", "T1:E1", 5, "{\"a\":1}", 7, good, 63));
	assert_false(emitted_verify(secret, "exceptions", "T1:E1", 5, "{\"a\":1}", 7, upper, 64));
	assert_false(emitted_verify(secret, "exceptions", "T1:E1", 5, "{\"a\":1}", 7, NULL, 0));
	emitted_key_free(secret);
	emitted_key_free(other);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_vectors),
		cmocka_unit_test(test_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
