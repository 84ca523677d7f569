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

#define FONT_TITLE "Sans Bold 17"
#define FONT_FIGURE "Sans Bold 15"
#define FONT_TEXT "Sans 8.5"
#define FONT_SMALL "Sans 8"
#define FONT_CELL "Sans"
#define FONT_CELL_HEAD "Sans Bold"

/* Cells are smaller where words would be broken otherwise. */
#define CELL_SIZE 7.5
#define CELL_SIZE_MIN 5.5

#define FOOTER_HEIGHT 24.0
#define CELL_PADDING 3.0
#define GAP 14.0

/* A row that needs less than this share of a page isn't broken over two. */
#define KEEP_TOGETHER 0.33

/* Columns are measured by so many rows, and by no more than so much of a cell. */
#define MEASURED_ROWS 200
#define MEASURED_BYTES 200
#define COLUMN_WANTS_MAX 220.0
#define COLUMN_WORD_MAX 110.0

/* Width of the labels of what a report is. */
#define FACT_LEFT 48.0
#define FACT_RIGHT 98.0

/* Figures of the summary in a row, and the height of the lines for signatures. */
#define FIGURES 5
#define SIGNATURE_HEIGHT 56.0

/* A column of the table. */
typedef struct Column
{
	const char *title;
	bool right;	  /* aligned to the right: figures */
	double word;  /* width of its longest word, which should not be broken */
	double wants; /* width of its longest line */
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

static void
gray(Page *page, double level)
{
	cairo_set_source_rgb(page->cr, level, level, level);
}

static void
rule(Page *page, double x, double y, double width, double level)
{
	if (page->surface == NULL)
		return;
	gray(page, level);
	cairo_set_line_width(page->cr, 0.5);
	cairo_move_to(page->cr, x, y);
	cairo_line_to(page->cr, x + width, y);
	cairo_stroke(page->cr);
	gray(page, 0);
}

/* "label   value" at the page's y, the value from left on. Returns its height. */
static double
draw_pair(Page *page, double x, double width, double left, const char *label, const char *value)
{
	PangoLayout *name = page_layout(page, FONT_TEXT, left - 6, label);
	PangoLayout *text = page_layout(page, FONT_TEXT, width - left, value);
	double height = fmax(layout_height(name), layout_height(text));

	gray(page, 0.4);
	show_layout(page, name, x, page->y);
	gray(page, 0);
	show_layout(page, text, x + left, page->y);
	g_object_unref(name);
	g_object_unref(text);
	return height;
}

/* What the report is, in two columns. */
static void
draw_facts(Page *page)
{
	static const struct
	{
		const char *label;
		const char *name;
	} fields[] = {{"Tenant", "tenant_id"}, {"Requested by", "requested_by"},
				  {"From", "period_from"}, {"Requested at", "requested_at"},
				  {"To", "period_to"},	   {"Complete as of", "generated_at"},
				  {"Type", "report_type"}, {"Report", "id"}};
	double width = page->width - 2 * PAGE_MARGIN;
	double left = width * 0.32;

	for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i += 2)
	{
		double height = draw_pair(page, PAGE_MARGIN, left - GAP, FACT_LEFT, fields[i].label,
								  report_text(page->report->head, fields[i].name));

		page->y += 4 + fmax(height, draw_pair(page, PAGE_MARGIN + left, width - left, FACT_RIGHT, fields[i + 1].label,
											  report_text(page->report->head, fields[i + 1].name)));
	}
}

static void
draw_title(Page *page)
{
	char rows[64];

	begin_page(page, false);
	draw_text(page, FONT_TITLE, report_text(page->report->head, "title"), 6);
	rule(page, PAGE_MARGIN, page->y, page->width - 2 * PAGE_MARGIN, 0);
	page->y += 10;
	draw_facts(page);
	snprintf(rows, sizeof(rows), "%zu", page->report->n_rows);
	page->y += draw_pair(page, PAGE_MARGIN, page->width - 2 * PAGE_MARGIN, FACT_LEFT, "Rows", rows) + GAP;
}

/* A figure above its label. Returns the height of both. */
static double
draw_figure(Page *page, double x, double width, const char *label, const char *value)
{
	PangoLayout *figure = page_layout(page, FONT_FIGURE, width - 8, value);
	PangoLayout *name = page_layout(page, FONT_SMALL, width - 8, label);
	double height = layout_height(figure);

	show_layout(page, figure, x, page->y);
	gray(page, 0.4);
	show_layout(page, name, x, page->y + height);
	gray(page, 0);
	height += layout_height(name);
	g_object_unref(figure);
	g_object_unref(name);
	return height;
}

static void
draw_summary(Page *page)
{
	double width = (page->width - 2 * PAGE_MARGIN) / FIGURES;
	double height = 0;
	int i = 0;
	const cJSON *item;

	if (page->report->summary == NULL)
		return;
	outline(page, "Summary");
	cJSON_ArrayForEach (item, page->report->summary)
	{
		if (i % FIGURES == 0)
		{
			page->y += height;
			page_need(page, 60);
			height = 0;
		}
		height = fmax(height, 8 + draw_figure(page, PAGE_MARGIN + (i % FIGURES) * width, width,
											  report_text(item, "label"), report_text(item, "value")));
		i++;
	}
	page->y += height + 4;
}

/* Where whoever has read it signs, at the end of the pages before the table. */
static void
draw_signature(Page *page)
{
	static const char *const labels[] = {"Reviewed by", "Date", "Signature"};
	double width = (page->width - 2 * PAGE_MARGIN) / 3;
	double y;

	page_need(page, SIGNATURE_HEIGHT);
	y = body_bottom(page) - 14;
	for (int i = 0; i < 3; i++)
	{
		double x = PAGE_MARGIN + i * width;
		PangoLayout *layout = page_layout(page, FONT_SMALL, width, labels[i]);

		rule(page, x, y, width - GAP, 0.4);
		gray(page, 0.4);
		show_layout(page, layout, x, y + 2);
		gray(page, 0);
		g_object_unref(layout);
	}
}

static void
draw_charts(Page *page)
{
	for (int i = 0; i < page->report->n_charts; i++)
		chart_draw(page, page->report->charts[i]);
}

/* ---- the table ---- */

static double
text_width(PangoLayout *layout, const char *text, size_t len)
{
	int width;

	pango_layout_set_text(layout, text, (int) len);
	pango_layout_get_size(layout, &width, NULL);
	return (double) width / PANGO_SCALE;
}

/* What a column needs and wants for a text. */
static void
measure_text(Column *column, PangoLayout *layout, const char *text)
{
	size_t len = strnlen(text, MEASURED_BYTES);
	const char *word = text;

	while (len > 0 && ((unsigned char) text[len] & 0xc0) == 0x80)
		len--;
	column->wants = fmax(column->wants, fmin(text_width(layout, text, len), COLUMN_WANTS_MAX));
	if (column->word >= COLUMN_WORD_MAX)
		return;
	while (word < text + len)
	{
		size_t n = strcspn(word, " \n");

		if (word + n > text + len)
			n = text + len - word;
		if (n > 0)
			column->word = fmax(column->word, fmin(text_width(layout, word, n), COLUMN_WORD_MAX));
		word += n + 1;
	}
}

static PangoLayout *
cell_layout(Page *page, const char *font, double width)
{
	char name[32];

	snprintf(name, sizeof(name), "%s %g", font, page->cell_size);
	return page_layout(page, name, width, "");
}

/* By its title and its first rows. */
static void
measure_column(Page *page, Column *column, int number)
{
	size_t n = page->report->n_rows < MEASURED_ROWS ? page->report->n_rows : MEASURED_ROWS;
	PangoLayout *head = cell_layout(page, FONT_CELL_HEAD, 0);
	PangoLayout *cell = cell_layout(page, FONT_CELL, 0);

	column->word = 0;
	measure_text(column, head, column->title);
	column->wants = column->word; /* a title may stand on several lines */
	for (size_t i = 0; i < n; i++)
		measure_text(column, cell, page->report->rows[i][number]);
	g_object_unref(head);
	g_object_unref(cell);
	column->wants = fmax(column->wants, column->word);
}

/*
 * Shares the width of the page out: each column has its longest word, and of what is left by what it wants. Where there is
 * not enough for the words all have less.
 */
static void
share_width(Column *columns, int n_columns, double total, double words, double wants)
{
	double x = PAGE_MARGIN;

	for (int i = 0; i < n_columns; i++)
	{
		if (words > total)
			columns[i].width = columns[i].word * total / words;
		else if (wants > total)
			columns[i].width =
				columns[i].word + (total - words) * (columns[i].wants - columns[i].word) / (wants - words);
		else
			columns[i].width = columns[i].wants * total / wants;
		columns[i].x = x;
		x += columns[i].width;
	}
}

/* All columns, in that size. Returns the width of the longest word of each, together. */
static double
measure_columns(Page *page, Column *columns, double size)
{
	double words = 0;

	page->cell_size = size;
	for (int i = 0; i < page->report->n_columns; i++)
	{
		const cJSON *column = cJSON_GetArrayItem(page->report->columns, i);

		columns[i].title = report_text(column, "title");
		columns[i].right = strcmp(report_text(column, "align"), "right") == 0;
		measure_column(page, &columns[i], i);
		words += columns[i].word;
	}
	return words;
}

/* The columns of the table, and of the page in what size its cells are written. */
static Column *
make_columns(Page *page, double total)
{
	const Report *report = page->report;
	Column *columns = g_new0(Column, report->n_columns);
	double padding = 2 * CELL_PADDING + 0.5;
	double words = measure_columns(page, columns, CELL_SIZE);
	double room = total - padding * report->n_columns;
	double wants = 0;

	/* Letters don't shrink quite as their size does: measured once more, with a little to spare. */
	if (words > room)
		words = measure_columns(page, columns, fmax(floor(CELL_SIZE * room / words * 9.7) / 10, CELL_SIZE_MIN));
	words += padding * report->n_columns;
	for (int i = 0; i < report->n_columns; i++)
	{
		columns[i].word += padding;
		columns[i].wants += padding;
		wants += columns[i].wants;
	}
	share_width(columns, report->n_columns, total, words, wants);
	return columns;
}

/* Most cells say what the one above says, and laying a text out is nearly all of the work. */
static void
set_cell(Cell *cell, const char *text)
{
	if (strcmp(pango_layout_get_text(cell->layout), text) != 0)
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
		cells[i].layout = cell_layout(page, font, fmax(columns[i].width - 2 * CELL_PADDING, 1));
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
	rule(page, PAGE_MARGIN, page->y, page->width - 2 * PAGE_MARGIN, 0);
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
	rule(page, PAGE_MARGIN, page->y, page->width - 2 * PAGE_MARGIN, 0.8);
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
	draw_signature(&page);
	draw_table(&page);
	end_page(&page);
	cairo_destroy(page.cr);
	if (scratch != NULL)
		cairo_surface_destroy(scratch);
	if (surface != NULL && page.number != n_pages)
		fail("the report has %d pages, and %d were counted", page.number, n_pages);
	return page.number;
}
