/*
 * report_pdf.h
 *	  What the parts of sentinai-report-pdf share: the report as it was read, and the page that is being drawn.
 *
 * report_pdf.c reads the report, report_page.c lays it out page by page, report_chart.c draws its charts.
 */
#ifndef REPORT_PDF_H
#define REPORT_PDF_H

#include <stdbool.h>
#include <stddef.h>

#include <cjson/cJSON.h>
#include <pango/pangocairo.h>

/* A4, in points, and what stays free around the text. */
#define PAGE_SHORT_SIDE 595.28
#define PAGE_LONG_SIDE 841.89
#define PAGE_MARGIN 48.0

/* Above this many columns the table's pages lie on their long side. */
#define PORTRAIT_COLUMNS 6

/* The report as it was read; everything in it belongs to it. */
typedef struct Report
{
	cJSON *head;	/* object: title, tenant_id, ... */
	cJSON *summary; /* array of {label, value}; NULL: none */
	cJSON **charts;
	int n_charts;
	cJSON *columns; /* array of {title, align}; NULL: no table */
	int n_columns;
	char ***rows; /* n_columns texts each */
	size_t n_rows;
	size_t max_rows;
} Report;

/* Where drawing goes on. With a NULL surface pages are only counted. */
typedef struct Page
{
	cairo_surface_t *surface;
	cairo_t *cr;
	const Report *report;
	int number;	 /* from 1 */
	int n_pages; /* 0: not known yet */
	double width;
	double height;
	double y;		  /* of the next thing */
	double cell_size; /* of the letters of the table */
} Page;

/* report_pdf.c */
extern const char *report_text(const cJSON *object, const char *name);
extern void fail(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

/* report_page.c */
extern int report_draw(const Report *report, cairo_surface_t *surface, int n_pages);
extern PangoLayout *page_layout(Page *page, const char *font, double width, const char *text);
extern void page_need(Page *page, double height);

/* report_chart.c */
extern void chart_draw(Page *page, const cJSON *chart);

#endif /* REPORT_PDF_H */
