/*
 * report_pdf.h
 *	  The program that draws PDFs, as report.c sees it.
 */
#ifndef SN_REPORT_PDF_H
#define SN_REPORT_PDF_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "lib/stringinfo.h"

typedef struct SnReportPdf SnReportPdf;

extern SnReportPdf *sn_report_pdf_start(TimestampTz deadline);
extern void sn_report_pdf_feed(SnReportPdf *pdf, const char *data, size_t size);
extern void sn_report_pdf_end_input(SnReportPdf *pdf);
extern bool sn_report_pdf_read(SnReportPdf *pdf, StringInfo out, int size);
extern void sn_report_pdf_finish(SnReportPdf *pdf, bool any_output);

#endif /* SN_REPORT_PDF_H */
