/*
 * report_chart.c
 *	  The charts of a report: bars, stacked bars and lines over the same few points of an axis.
 *
 *	{"kind": "bar" | "stacked" | "line", "title", "x": [labels], "series": [{"name", "values": [numbers or null]}]}
 *
 * A value that is null is a gap. What is no such object fails the report. Pages are report_page.c's.
 */
#include "report_pdf.h"

#include <math.h>
#include <string.h>

#define CHART_HEIGHT 150.0
#define AXIS_LEFT 48.0
#define AXIS_BOTTOM 26.0
#define FONT_CHART "Sans 7.5"
#define FONT_CHART_TITLE "Sans Bold 11"
#define TICKS 5

/* Told apart in print and by those who see colours differently (Okabe and Ito, 2008). */
static const double colors[][3] = {{0.00, 0.45, 0.70}, {0.90, 0.62, 0.00}, {0.00, 0.62, 0.45}, {0.80, 0.47, 0.65},
								   {0.34, 0.71, 0.91}, {0.84, 0.37, 0.00}, {0.94, 0.89, 0.26}, {0.30, 0.30, 0.30}};

#define N_COLORS (int) (sizeof(colors) / sizeof(colors[0]))

typedef enum ChartKind
{
	CHART_BAR,
	CHART_STACKED,
	CHART_LINE
} ChartKind;

typedef struct Chart
{
	ChartKind kind;
	const cJSON *x;
	const cJSON *series;
	int n_points;
	int n_series;
	double top; /* the highest value of the axis */
	/* the plot's rectangle on the page */
	double left;
	double right;
	double upper;
	double lower;
} Chart;

/* NAN where there is none. */
static double
value_at(const Chart *chart, int series, int point)
{
	const cJSON *values = cJSON_GetObjectItemCaseSensitive(cJSON_GetArrayItem(chart->series, series), "values");
	const cJSON *value = cJSON_GetArrayItem(values, point);

	return cJSON_IsNumber(value) ? value->valuedouble : NAN;
}

/* The next number of the form 1, 2, 2.5 or 5 times a power of ten, so that ticks are round. */
static double
round_up(double value)
{
	static const double steps[] = {1, 2, 2.5, 5, 10};
	double power = pow(10, floor(log10(value)));

	for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++)
		if (value <= steps[i] * power * (1 + 1e-9))
			return steps[i] * power;
	return 10 * power;
}

static double
highest(const Chart *chart)
{
	double top = 0;

	for (int p = 0; p < chart->n_points; p++)
	{
		double sum = 0;

		for (int s = 0; s < chart->n_series; s++)
		{
			double value = value_at(chart, s, p);

			if (isnan(value))
				continue;
			sum = chart->kind == CHART_STACKED ? sum + value : fmax(sum, value);
		}
		top = fmax(top, sum);
	}
	return top > 0 ? round_up(top / TICKS) * TICKS : 1;
}

static Chart
read_chart(const cJSON *object)
{
	static const char *const kinds[] = {[CHART_BAR] = "bar", [CHART_STACKED] = "stacked", [CHART_LINE] = "line"};
	Chart chart = {.x = cJSON_GetObjectItemCaseSensitive(object, "x"),
				   .series = cJSON_GetObjectItemCaseSensitive(object, "series")};
	bool known = false;

	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
		if (strcmp(report_text(object, "kind"), kinds[i]) == 0)
		{
			chart.kind = (ChartKind) i;
			known = true;
		}
	if (!known || !cJSON_IsArray(chart.x) || !cJSON_IsArray(chart.series))
		fail("chart \"%s\" needs a kind (bar, stacked, line), x and series", report_text(object, "title"));
	chart.n_points = cJSON_GetArraySize(chart.x);
	chart.n_series = cJSON_GetArraySize(chart.series);
	chart.top = highest(&chart);
	return chart;
}

static double
y_of(const Chart *chart, double value)
{
	return chart->lower - fmax(value, 0) / chart->top * (chart->lower - chart->upper);
}

static void
set_color(Page *page, int series)
{
	const double *color = colors[series % N_COLORS];

	cairo_set_source_rgb(page->cr, color[0], color[1], color[2]);
}

/* A label, its top at y: centred on x, or ending there, or beginning there (align 0, 1, -1). */
static void
label(Page *page, const char *text, double x, double y, double width, int align)
{
	PangoLayout *layout = page_layout(page, FONT_CHART, 0, text);
	int got;

	if (width > 0)
	{
		pango_layout_set_width(layout, (int) (width * PANGO_SCALE));
		pango_layout_set_ellipsize(layout, PANGO_ELLIPSIZE_END);
		pango_layout_set_alignment(layout, align == 0 ? PANGO_ALIGN_CENTER : PANGO_ALIGN_LEFT);
		got = (int) (width * PANGO_SCALE);
	}
	else
		pango_layout_get_size(layout, &got, NULL);
	if (align >= 0)
		x -= (double) got / PANGO_SCALE / (align == 0 ? 2 : 1);
	cairo_move_to(page->cr, x, y);
	pango_cairo_show_layout(page->cr, layout);
	g_object_unref(layout);
}

static const char *
x_text(const Chart *chart, int point)
{
	const char *text = cJSON_GetStringValue(cJSON_GetArrayItem(chart->x, point));

	return text == NULL ? "" : text;
}

/* How many points share a label, so that labels don't stand on each other. */
static int
label_every(Page *page, const Chart *chart, double step)
{
	double widest = 1;

	for (int p = 0; p < chart->n_points; p++)
	{
		PangoLayout *layout = page_layout(page, FONT_CHART, 0, x_text(chart, p));
		int width;

		pango_layout_get_size(layout, &width, NULL);
		widest = fmax(widest, (double) width / PANGO_SCALE);
		g_object_unref(layout);
	}
	return (int) ceil(fmin(widest + 6, chart->right - chart->left) / step);
}

static void
draw_axes(Page *page, const Chart *chart)
{
	double step = (chart->right - chart->left) / chart->n_points;
	int every = label_every(page, chart, step);

	for (int i = 0; i <= TICKS; i++)
	{
		double value = chart->top * i / TICKS;
		char text[32];

		snprintf(text, sizeof(text), "%.6g", value);
		cairo_set_source_rgb(page->cr, 0.85, 0.85, 0.85);
		cairo_set_line_width(page->cr, 0.5);
		cairo_move_to(page->cr, chart->left, y_of(chart, value));
		cairo_line_to(page->cr, chart->right, y_of(chart, value));
		cairo_stroke(page->cr);
		cairo_set_source_rgb(page->cr, 0, 0, 0);
		label(page, text, chart->left - 4, y_of(chart, value) - 5, 0, 1);
	}
	for (int p = 0; p < chart->n_points; p += every)
		label(page, x_text(chart, p), chart->left + (p + 0.5) * step, chart->lower + 3, step * every, 0);
}

static void
draw_bars(Page *page, const Chart *chart)
{
	double step = (chart->right - chart->left) / chart->n_points;
	double width = chart->kind == CHART_STACKED ? step * 0.7 : step * 0.8 / chart->n_series;

	for (int p = 0; p < chart->n_points; p++)
	{
		double base = 0;

		for (int s = 0; s < chart->n_series; s++)
		{
			double value = value_at(chart, s, p);
			double x =
				chart->left + p * step + (step - width * (chart->kind == CHART_STACKED ? 1 : chart->n_series)) / 2;

			if (isnan(value))
				continue;
			if (chart->kind == CHART_BAR)
				x += s * width;
			set_color(page, s);
			cairo_rectangle(page->cr, x, y_of(chart, base + value), width,
							y_of(chart, base) - y_of(chart, base + value));
			cairo_fill(page->cr);
			if (chart->kind == CHART_STACKED)
				base += fmax(value, 0);
		}
	}
}

static void
draw_lines(Page *page, const Chart *chart)
{
	double step = (chart->right - chart->left) / chart->n_points;

	cairo_set_line_width(page->cr, 1.5);
	for (int s = 0; s < chart->n_series; s++)
	{
		set_color(page, s);
		cairo_new_path(page->cr);
		for (int p = 0; p < chart->n_points; p++)
		{
			double value = value_at(chart, s, p);
			double x = chart->left + (p + 0.5) * step;

			if (isnan(value))
			{
				cairo_stroke(page->cr);
				continue;
			}
			if (cairo_has_current_point(page->cr))
				cairo_line_to(page->cr, x, y_of(chart, value));
			else
				cairo_move_to(page->cr, x, y_of(chart, value));
		}
		cairo_stroke(page->cr);
		for (int p = 0; p < chart->n_points; p++)
		{
			double value = value_at(chart, s, p);

			if (isnan(value))
				continue;
			cairo_arc(page->cr, chart->left + (p + 0.5) * step, y_of(chart, value), 2, 0, 2 * G_PI);
			cairo_fill(page->cr);
		}
	}
}

static void
draw_legend(Page *page, const Chart *chart, double y)
{
	double width = (chart->right - chart->left) / (chart->n_series < 4 ? 4 : chart->n_series);

	for (int s = 0; s < chart->n_series; s++)
	{
		double x = chart->left + s * width;

		set_color(page, s);
		cairo_rectangle(page->cr, x, y + 2, 7, 7);
		cairo_fill(page->cr);
		cairo_set_source_rgb(page->cr, 0, 0, 0);
		label(page, report_text(cJSON_GetArrayItem(chart->series, s), "name"), x + 10, y, width - 14, -1);
	}
}

/*
 * Draws a chart over the width of the page.
 */
void
chart_draw(Page *page, const cJSON *object)
{
	Chart chart = read_chart(object);
	double top;
	PangoLayout *title;

	page_need(page, CHART_HEIGHT + 50);
	top = page->y;
	page->y += CHART_HEIGHT + 50;
	if (page->surface == NULL)
		return;
	chart.left = PAGE_MARGIN + AXIS_LEFT;
	chart.right = page->width - PAGE_MARGIN;
	chart.upper = top + 34;
	chart.lower = chart.upper + CHART_HEIGHT - AXIS_BOTTOM;
	title = page_layout(page, FONT_CHART_TITLE, page->width - 2 * PAGE_MARGIN, report_text(object, "title"));
	cairo_move_to(page->cr, PAGE_MARGIN, top);
	pango_cairo_show_layout(page->cr, title);
	g_object_unref(title);
	if (chart.n_points == 0 || chart.n_series == 0)
	{
		label(page, "no data in this period", chart.left, chart.upper, 0, -1);
		return;
	}
	draw_legend(page, &chart, top + 18);
	draw_axes(page, &chart);
	if (chart.kind == CHART_LINE)
		draw_lines(page, &chart);
	else
		draw_bars(page, &chart);
	cairo_set_source_rgb(page->cr, 0, 0, 0);
}
