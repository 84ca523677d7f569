/*
 * report_page.c
 *	  Lays a report out: title page, summary, charts, and the table with its head on every page.
 *
 * report_draw() runs twice over the same report: once without a surface, which only counts the pages, and once that draws
 * them, so that each page can say how many there are. All text goes through pango, which finds a font for every script,
 * orders what is written from right to left, and breaks lines. The charts are report_chart.c's.
 */
#include "report_pdf.h"

#include <math.h>
#include <string.h>

#include <cairo-pdf.h>

#define FONT_TITLE "Sans Bold 22"
#define FONT_HEADING "Sans Bold 13"
#define FONT_TEXT "Sans 10"
#define FONT_LABEL "Sans Bold 10"
#define FONT_SMALL "Sans 8"
#define FONT_CELL "Sans 7.5"
#define FONT_CELL_HEAD "Sans Bold 7.5"

#define FOOTER_HEIGHT 24.0
#define CELL_PADDING 3.0
#define GAP 14.0

/* A row that needs less than this share of a page isn't broken over two. */
#define KEEP_TOGETHER 0.33

/* Columns are measured by so many rows, and a column wants no more than this. */
#define MEASURED_ROWS 200
#define COLUMN_WANTS_MAX 220.0
#define COLUMN_MIN 28.0

/* A column of the table. */
typedef struct Column
{
	const char *title;
	bool right; /* aligned to the right: figures */
	double x;
	double width; /* with the padding */
} Column;

/* A cell of the row that is being drawn: line by line, since a row may go on over the page. */
typedef struct Cell
{
	PangoLayout *layout;
	int n_lines;
	int next_line;
} Cell;

/* ---- pages ---- */

static double
body_bottom(const Page *page)
{
	return page->height - PAGE_MARGIN - FOOTER_HEIGHT;
}

PangoLayout *
page_layout(Page *page, const char *font, double width, const char *text)
{
	PangoLayout *layout = pango_cairo_create_layout(page->cr);
	PangoFontDescription *description = pango_font_description_from_string(font);
	PangoAttrList *attributes = pango_attr_list_new();

	pango_layout_set_font_description(layout, description);
	pango_font_description_free(description);
	/* A hyphen where a line is broken would be a character that the data doesn't have. */
	pango_attr_list_insert(attributes, pango_attr_insert_hyphens_new(FALSE));
	pango_layout_set_attributes(layout, attributes);
	pango_attr_list_unref(attributes);
	if (width > 0)
		pango_layout_set_width(layout, (int) (width * PANGO_SCALE));
	pango_layout_set_wrap(layout, PANGO_WRAP_WORD_CHAR);
	pango_layout_set_text(layout, text, -1);
	return layout;
}

static double
layout_height(PangoLayout *layout)
{
	int height;

	pango_layout_get_size(layout, NULL, &height);
	return (double) height / PANGO_SCALE;
}

static void
show_layout(Page *page, PangoLayout *layout, double x, double y)
{
	if (page->surface == NULL)
		return;
	cairo_move_to(page->cr, x, y);
	pango_cairo_show_layout(page->cr, layout);
}

static void
draw_footer(Page *page)
{
	double width = page->width - 2 * PAGE_MARGIN;
	double y = page->height - PAGE_MARGIN - FOOTER_HEIGHT + 10;
	char *left =
		g_strdup_printf("%s · %s", report_text(page->report->head, "tenant_id"), report_text(page->report->head, "id"));
	char *right = g_strdup_printf("page %d of %d", page->number, page->n_pages);
	PangoLayout *layout = page_layout(page, FONT_SMALL, width, left);

	cairo_set_source_rgb(page->cr, 0.4, 0.4, 0.4);
	show_layout(page, layout, PAGE_MARGIN, y);
	g_object_unref(layout);
	layout = page_layout(page, FONT_SMALL, width, right);
	pango_layout_set_alignment(layout, PANGO_ALIGN_RIGHT);
	show_layout(page, layout, PAGE_MARGIN, y);
	g_object_unref(layout);
	cairo_set_source_rgb(page->cr, 0, 0, 0);
	g_free(left);
	g_free(right);
}

static void
end_page(Page *page)
{
	/* After an error cairo goes on without drawing anything. */
	if (cairo_status(page->cr) != CAIRO_STATUS_SUCCESS)
		fail("page %d could not be drawn: %s", page->number, cairo_status_to_string(cairo_status(page->cr)));
	if (page->surface == NULL || page->number == 0)
		return;
	draw_footer(page);
	cairo_show_page(page->cr);
}

static void
begin_page(Page *page, bool landscape)
{
	end_page(page);
	page->number++;
	page->width = landscape ? PAGE_LONG_SIDE : PAGE_SHORT_SIDE;
	page->height = landscape ? PAGE_SHORT_SIDE : PAGE_LONG_SIDE;
	page->y = PAGE_MARGIN;
	if (page->surface != NULL)
		cairo_pdf_surface_set_size(page->surface, page->width, page->height);
}

/* Begins a page where what comes next would not fit on this one. */
void
page_need(Page *page, double height)
{
	if (page->y + height > body_bottom(page))
		begin_page(page, page->width > page->height);
}

/* A paragraph over the width of the page. */
static void
draw_text(Page *page, const char *font, const char *text, double below)
{
	PangoLayout *layout = page_layout(page, font, page->width - 2 * PAGE_MARGIN, text);
	double height = layout_height(layout);

	page_need(page, height);
	show_layout(page, layout, PAGE_MARGIN, page->y);
	page->y += height + below;
	g_object_unref(layout);
}

static void
outline(Page *page, const char *title)
{
	char *target;

	if (page->surface == NULL)
		return;
	target = g_strdup_printf("page=%d", page->number);
	cairo_pdf_surface_add_outline(page->surface, CAIRO_PDF_OUTLINE_ROOT, title, target, 0);
	g_free(target);
}

/* ---- title and summary ---- */

/* "label   value", the value broken beside its label. */
static void
draw_pair(Page *page, const char *label, const char *value)
{
	double left = 130;
	PangoLayout *name = page_layout(page, FONT_LABEL, left - 8, label);
	PangoLayout *text = page_layout(page, FONT_TEXT, page->width - 2 * PAGE_MARGIN - left, value);
	double height = fmax(layout_height(name), layout_height(text));

	page_need(page, height);
	show_layout(page, name, PAGE_MARGIN, page->y);
	show_layout(page, text, PAGE_MARGIN + left, page->y);
	page->y += height + 4;
	g_object_unref(name);
	g_object_unref(text);
}

static void
draw_title(Page *page)
{
	static const struct
	{
		const char *label;
		const char *name;
	} fields[] = {{"Tenant", "tenant_id"},			{"Report type", "report_type"},
				  {"From", "period_from"},			{"To", "period_to"},
				  {"Requested by", "requested_by"}, {"Requested at", "requested_at"},
				  {"Generated at", "generated_at"}, {"Report", "id"}};

	begin_page(page, false);
	page->y += 60;
	draw_text(page, FONT_TITLE, report_text(page->report->head, "title"), GAP);
	for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++)
		if (report_text(page->report->head, fields[i].name)[0] != '\0')
			draw_pair(page, fields[i].label, report_text(page->report->head, fields[i].name));
	page->y += GAP;
}

static void
draw_heading(Page *page, const char *text)
{
	page_need(page, 60);
	outline(page, text);
	draw_text(page, FONT_HEADING, text, 6);
}

static void
draw_summary(Page *page)
{
	const cJSON *item;

	if (page->report->summary == NULL)
		return;
	draw_heading(page, "Summary");
	cJSON_ArrayForEach (item, page->report->summary)
		draw_pair(page, report_text(item, "label"), report_text(item, "value"));
	page->y += GAP;
}

static void
draw_charts(Page *page)
{
	for (int i = 0; i < page->report->n_charts; i++)
		chart_draw(page, page->report->charts[i]);
}

/* ---- the table ---- */

/* What a column would like to have, by its title and its first rows. */
static double
natural_width(Page *page, int column, const char *title)
{
	PangoLayout *layout = page_layout(page, FONT_CELL_HEAD, 0, title);
	double widest = 0;
	size_t n = page->report->n_rows < MEASURED_ROWS ? page->report->n_rows : MEASURED_ROWS;
	PangoFontDescription *font = pango_font_description_from_string(FONT_CELL);
	int width;

	pango_layout_get_size(layout, &width, NULL);
	widest = (double) width / PANGO_SCALE;
	pango_layout_set_font_description(layout, font);
	for (size_t i = 0; i < n && widest < COLUMN_WANTS_MAX; i++)
	{
		char *text = page->report->rows[i][column];

		pango_layout_set_text(layout, text, (int) strnlen(text, 200));
		pango_layout_get_size(layout, &width, NULL);
		widest = fmax(widest, (double) width / PANGO_SCALE);
	}
	pango_font_description_free(font);
	g_object_unref(layout);
	return fmin(widest, COLUMN_WANTS_MAX) + 2 * CELL_PADDING;
}

/* Shares the width of the page out: by the weights that were given, else by what the columns want. */
static Column *
make_columns(Page *page, double total)
{
	const Report *report = page->report;
	Column *columns = g_new0(Column, report->n_columns);
	double sum = 0;
	double x = PAGE_MARGIN;

	for (int i = 0; i < report->n_columns; i++)
	{
		const cJSON *column = cJSON_GetArrayItem(report->columns, i);
		const cJSON *weight = cJSON_GetObjectItemCaseSensitive(column, "weight");

		columns[i].title = report_text(column, "title");
		columns[i].right = strcmp(report_text(column, "align"), "right") == 0;
		columns[i].width = cJSON_IsNumber(weight) && weight->valuedouble > 0 ? weight->valuedouble * 100
																			 : natural_width(page, i, columns[i].title);
		sum += columns[i].width;
	}
	for (int i = 0; i < report->n_columns; i++)
		columns[i].width = fmax(columns[i].width * total / sum, COLUMN_MIN);
	sum = 0;
	for (int i = 0; i < report->n_columns; i++)
		sum += columns[i].width;
	for (int i = 0; i < report->n_columns; i++)
	{
		columns[i].width *= total / sum;
		columns[i].x = x;
		x += columns[i].width;
	}
	return columns;
}

static void
rule_line(Page *page, double y, double gray)
{
	if (page->surface == NULL)
		return;
	cairo_set_source_rgb(page->cr, gray, gray, gray);
	cairo_set_line_width(page->cr, 0.5);
	cairo_move_to(page->cr, PAGE_MARGIN, y);
	cairo_line_to(page->cr, page->width - PAGE_MARGIN, y);
	cairo_stroke(page->cr);
	cairo_set_source_rgb(page->cr, 0, 0, 0);
}

static void
set_cell(Cell *cell, const char *text)
{
	pango_layout_set_text(cell->layout, text, -1);
	cell->n_lines = pango_layout_get_line_count(cell->layout);
	cell->next_line = 0;
}

/*
 * Draws the lines of a cell that fit above bottom; at least one where it has to, since a line higher than a page would
 * never fit. Returns where they end.
 */
static double
draw_cell(Page *page, const Column *column, Cell *cell, double bottom, bool at_least_one)
{
	PangoLayoutIter *iter = pango_layout_get_iter(cell->layout);
	double first = -1;
	double end = page->y;
	int line = 0;

	do
	{
		PangoRectangle extents;
		double top;
		double height;

		if (line++ < cell->next_line)
			continue;
		pango_layout_iter_get_line_extents(iter, NULL, &extents);
		top = (double) extents.y / PANGO_SCALE;
		height = (double) extents.height / PANGO_SCALE;
		if (first < 0)
			first = top;
		if (page->y + top - first + height > bottom && !(at_least_one && top == first))
			break;
		if (page->surface != NULL)
		{
			cairo_move_to(page->cr, column->x + CELL_PADDING + (double) extents.x / PANGO_SCALE,
						  page->y - first + (double) pango_layout_iter_get_baseline(iter) / PANGO_SCALE);
			pango_cairo_show_layout_line(page->cr, pango_layout_iter_get_line_readonly(iter));
		}
		end = page->y + top - first + height;
		cell->next_line = line;
	} while (pango_layout_iter_next_line(iter));
	pango_layout_iter_free(iter);
	return end;
}

/* What fits of a row. True: the row is done. */
static bool
draw_fragment(Page *page, const Column *columns, Cell *cells, bool at_least_one)
{
	double bottom = body_bottom(page) - CELL_PADDING;
	double end = page->y;
	bool done = true;

	page->y += CELL_PADDING;
	for (int i = 0; i < page->report->n_columns; i++)
	{
		if (cells[i].next_line < cells[i].n_lines)
			end = fmax(end, draw_cell(page, &columns[i], &cells[i], bottom, at_least_one));
		done &= cells[i].next_line >= cells[i].n_lines;
	}
	page->y = fmax(end, page->y) + CELL_PADDING;
	return done;
}

static Cell *
make_cells(Page *page, const Column *columns, const char *font)
{
	Cell *cells = g_new0(Cell, page->report->n_columns);

	for (int i = 0; i < page->report->n_columns; i++)
	{
		cells[i].layout = page_layout(page, font, columns[i].width - 2 * CELL_PADDING, "");
		if (columns[i].right)
			pango_layout_set_alignment(cells[i].layout, PANGO_ALIGN_RIGHT);
	}
	return cells;
}

static void
free_cells(Page *page, Cell *cells)
{
	for (int i = 0; i < page->report->n_columns; i++)
		g_object_unref(cells[i].layout);
	g_free(cells);
}

static void
draw_table_head(Page *page, const Column *columns)
{
	Cell *cells = make_cells(page, columns, FONT_CELL_HEAD);

	for (int i = 0; i < page->report->n_columns; i++)
		set_cell(&cells[i], columns[i].title);
	draw_fragment(page, columns, cells, true);
	free_cells(page, cells);
	rule_line(page, page->y, 0);
	page->y += 1;
}

static void
next_table_page(Page *page, const Column *columns)
{
	begin_page(page, page->width > page->height);
	draw_table_head(page, columns);
}

static void
draw_row(Page *page, const Column *columns, Cell *cells, char **row)
{
	double height = 0;
	double left = body_bottom(page) - page->y;
	bool fresh = false;

	for (int i = 0; i < page->report->n_columns; i++)
	{
		set_cell(&cells[i], row[i]);
		height = fmax(height, layout_height(cells[i].layout) + 2 * CELL_PADDING);
	}
	if (height > left && (left < 4 * CELL_PADDING || height < (page->height - 2 * PAGE_MARGIN) * KEEP_TOGETHER))
	{
		next_table_page(page, columns);
		fresh = true;
	}
	while (!draw_fragment(page, columns, cells, fresh))
	{
		next_table_page(page, columns);
		fresh = true;
	}
	rule_line(page, page->y, 0.8);
}

static void
draw_table(Page *page)
{
	Column *columns;
	Cell *cells;

	if (page->report->columns == NULL)
		return;
	begin_page(page, page->report->n_columns > PORTRAIT_COLUMNS);
	outline(page, "Rows");
	columns = make_columns(page, page->width - 2 * PAGE_MARGIN);
	draw_table_head(page, columns);
	cells = make_cells(page, columns, FONT_CELL);
	for (size_t i = 0; i < page->report->n_rows; i++)
		draw_row(page, columns, cells, page->report->rows[i]);
	page->y += GAP;
	if (page->report->n_rows == 0)
		draw_text(page, FONT_TEXT, "There are no rows in this period.", 0);
	free_cells(page, cells);
	g_free(columns);
}

/*
 * Draws the report on the surface, or with a NULL one only finds out how many pages it has, which is what it returns.
 */
int
report_draw(const Report *report, cairo_surface_t *surface, int n_pages)
{
	/* A PDF that goes nowhere: other surfaces measure text otherwise. */
	cairo_surface_t *scratch = surface == NULL ? cairo_pdf_surface_create(NULL, PAGE_SHORT_SIDE, PAGE_LONG_SIDE) : NULL;
	Page page = {.surface = surface, .report = report, .n_pages = n_pages};

	page.cr = cairo_create(surface == NULL ? scratch : surface);
	draw_title(&page);
	draw_summary(&page);
	draw_charts(&page);
	draw_table(&page);
	end_page(&page);
	cairo_destroy(page.cr);
	if (scratch != NULL)
		cairo_surface_destroy(scratch);
	if (surface != NULL && page.number != n_pages)
		fail("the report has %d pages, and %d were counted", page.number, n_pages);
	return page.number;
}
