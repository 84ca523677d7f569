/*
 * report_sign.h
 *	  SHA-256 of a report, over any number of transactions.
 */
#ifndef SN_REPORT_SIGN_H
#define SN_REPORT_SIGN_H

#include "postgres.h"

typedef struct SnReportHash SnReportHash;

extern SnReportHash *sn_report_hash_new(void);
extern void sn_report_hash_add(SnReportHash *hash, const void *data, size_t size);
extern Datum sn_report_hash_end(SnReportHash *hash); /* bytea; frees hash */

#endif /* SN_REPORT_SIGN_H */
