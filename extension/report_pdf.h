/*
 * report_pdf.h
 *	  The program that draws PDFs, as report.c sees it.
 */
#ifndef SN_REPORT_PDF_H
#define SN_REPORT_PDF_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "storage/buffile.h"

typedef struct SnReportPdf SnReportPdf;

extern SnReportPdf *sn_report_pdf_start(TimestampTz deadline);
extern void sn_report_pdf_feed(SnReportPdf *pdf, const char *data, size_t size);
extern int64 sn_report_pdf_finish(SnReportPdf *pdf, BufFile *file);

#endif /* SN_REPORT_PDF_H */
