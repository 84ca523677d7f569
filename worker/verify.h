/*
 * verify.h
 *	  sentinai-worker verify: is this file the report that the database made? Needs neither database nor network.
 */
#ifndef WORKER_VERIFY_H
#define WORKER_VERIFY_H

#include <stdio.h>

/* What the process exits with. */
typedef enum VerifyResult
{
	VERIFY_GENUINE = 0,
	VERIFY_REFUTED = 1,	 /* the file, the manifest or the chain isn't what was signed */
	VERIFY_UNCHECKED = 2 /* something is missing or can't be read: nothing is known */
} VerifyResult;

/*
 * Checks a report's file against its manifest, and says on out what was found, a line each; what is wrong goes to err.
 * argv is what stands behind "verify".
 */
extern VerifyResult verify_run(int argc, char **argv, FILE *out, FILE *err);

#endif /* WORKER_VERIFY_H */
