/*
 * report.h
 *	  Reports: what the parts of report.c and its files share.
 */
#ifndef SN_REPORT_H
#define SN_REPORT_H

#include "postgres.h"

#include "executor/tuptable.h"
#include "lib/stringinfo.h"
#include "storage/buffile.h"

/* A report as its worker knows it, from report_take(). In the worker's context of the report. */
typedef struct SnReport
{
	int64 seq;
	int tries;
	char *id;
	char *tenant_id;
	char *format;
	char *query;
	char *count_query;	 /* NULL: the rows of query are counted */
	char *summary_query; /* NULL: none */
	char *role_name;
	char *search_path;
	char *header;		/* JSON: what the report is about */
	Datum arguments[7]; /* of the query: tenant, from, to, parameters, bound, key, rows */
	int key_columns;	/* 0: read at once */
	int64 row_limit;
	bool builtin;
} SnReport;

/* How a format is written. Each appends to out. */
typedef struct SnReportWriter SnReportWriter;

extern SnReportWriter *sn_report_writer(const SnReport *report);
extern void sn_report_write_head(SnReportWriter *writer, StringInfo out);
extern void sn_report_write_begin(SnReportWriter *writer, TupleDesc columns, StringInfo out);
extern void sn_report_write_row(SnReportWriter *writer, TupleTableSlot *slot, StringInfo out);
extern void sn_report_write_end(SnReportWriter *writer, int64 rows, StringInfo out);

extern PGDLLEXPORT void sn_report_main(Datum database);

#endif /* SN_REPORT_H */
