/*
 * report_format.c
 *	  How a report's rows are written: CSV, JSON, JSON Lines, and what the PDF program reads (JSON Lines of its own).
 *
 * CSV is RFC 4180: UTF-8, CRLF, a header, quotes where they are needed. A text that a spreadsheet would take for a formula
 * gets an apostrophe in front; numbers stay as they are. Times are ISO 8601 in both. In JSON numbers, booleans and json
 * stay what they are, all else is text.
 *
 * Rows come from report.c, a slot each; its first key_columns columns are not shown. What a row needs for a moment is in a
 * context that is reset with the next one.
 */
#include "sentinai.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "utils/datetime.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "json_text.h"
#include "report.h"

typedef enum ValueKind
{
	VALUE_TEXT,	  /* varlena text: taken as it is */
	VALUE_NUMBER, /* a JSON number, unless it is NaN or infinite */
	VALUE_BOOL,
	VALUE_TIME, /* date, timestamp, timestamptz */
	VALUE_JSON,
	VALUE_OTHER /* by its output function, then as text */
} ValueKind;

typedef struct Column
{
	char *name;
	Oid type;
	ValueKind kind;
	FmgrInfo output;
} Column;

typedef enum Format
{
	FORMAT_CSV,
	FORMAT_JSON,
	FORMAT_JSONL,
	FORMAT_PDF
} Format;

struct SnReportWriter
{
	const SnReport *report;
	Format format;
	int n_columns;
	Column *columns;
	bool any_row;
	SnJsonDay day;
	MemoryContext row_context;
};

static Format
format_of(const char *name)
{
	if (strcmp(name, "csv") == 0)
		return FORMAT_CSV;
	if (strcmp(name, "json") == 0)
		return FORMAT_JSON;
	if (strcmp(name, "jsonl") == 0)
		return FORMAT_JSONL;
	return FORMAT_PDF;
}

SnReportWriter *
sn_report_writer(const SnReport *report)
{
	SnReportWriter *writer = palloc0(sizeof(SnReportWriter));

	writer->report = report;
	writer->format = format_of(report->format);
	writer->row_context = AllocSetContextCreate(CurrentMemoryContext, "sentinai report row", ALLOCSET_DEFAULT_SIZES);
	return writer;
}

static ValueKind
kind_of(Oid type)
{
	switch (type)
	{
		case TEXTOID:
		case VARCHAROID:
			return VALUE_TEXT;
		case INT2OID:
		case INT4OID:
		case INT8OID:
		case FLOAT4OID:
		case FLOAT8OID:
		case NUMERICOID:
			return VALUE_NUMBER;
		case BOOLOID:
			return VALUE_BOOL;
		case DATEOID:
		case TIMESTAMPOID:
		case TIMESTAMPTZOID:
			return VALUE_TIME;
		case JSONOID:
		case JSONBOID:
			return VALUE_JSON;
		default:
			return VALUE_OTHER;
	}
}

/* ---- texts ---- */

static bool
is_number(const char *data, int len)
{
	int digits = 0;
	int points = 0;

	for (int i = *data == '+' || *data == '-'; i < len; i++)
	{
		if (data[i] >= '0' && data[i] <= '9')
			digits++;
		else if (data[i] != '.' || ++points > 1)
			return false;
	}
	return digits > 0;
}

/* What a spreadsheet would compute, in any of its spellings: also the full-width ones, which some fold. */
static bool
is_formula(const char *data, int len)
{
	static const char *const wide[] = {"\xef\xbc\x9d", "\xef\xbc\x8b", "\xef\xbc\x8d", "\xef\xbc\xa0"};

	if (len == 0)
		return false;
	if (strchr("=+-@\t\r\n|%", *data) != NULL)
		return !is_number(data, len);
	for (int i = 0; len >= 3 && *data == '\xef' && i < lengthof(wide); i++)
		if (memcmp(data, wide[i], 3) == 0)
			return true;
	return false;
}

static bool
needs_quotes(const char *data, int len)
{
	static const bool special[256] = {
		[','] = true, ['"'] = true, ['\n'] = true, ['\r'] = true, ['\t'] = true, [';'] = true};

	if (len > 0 && (data[0] == ' ' || data[len - 1] == ' '))
		return true;
	for (int i = 0; i < len; i++)
		if (special[(unsigned char) data[i]])
			return true;
	return false;
}

/* Appends a cell. An empty text is "", NULL is nothing at all. */
static void
append_csv(StringInfo out, const char *data, int len)
{
	bool formula = is_formula(data, len);
	int done = 0;

	if (len > 0 && !formula && !needs_quotes(data, len))
	{
		appendBinaryStringInfo(out, data, len);
		return;
	}
	appendStringInfoCharMacro(out, '"');
	if (formula)
		appendStringInfoCharMacro(out, '\'');
	for (int i = 0; i < len; i++)
	{
		if (data[i] != '"')
			continue;
		appendBinaryStringInfo(out, data + done, i + 1 - done);
		done = i; /* once more, doubled */
	}
	appendBinaryStringInfo(out, data + done, len - done);
	appendStringInfoCharMacro(out, '"');
}

static void
append_text(SnReportWriter *writer, StringInfo out, const char *data, int len)
{
	if (writer->format == FORMAT_CSV)
		append_csv(out, data, len);
	else
		sn_json_append(out, data, len);
}

/* ---- values ---- */

/* A number or a boolean; the PDF program takes texts only. */
static void
append_word(SnReportWriter *writer, StringInfo out, const char *text)
{
	if (writer->format == FORMAT_PDF)
		sn_json_append(out, text, strlen(text));
	else
		appendStringInfoString(out, text);
}

static void
append_number(SnReportWriter *writer, StringInfo out, const char *text)
{
	const char *first = *text == '-' ? text + 1 : text;

	if (*first >= '0' && *first <= '9')
		append_word(writer, out, text);
	else
		append_text(writer, out, text, strlen(text)); /* NaN, Infinity */
}

/* A line break in json is between its tokens, and would end a line of JSON Lines. */
static void
append_json_value(StringInfo out, char *text)
{
	for (char *c = text; *c != '\0'; c++)
		if (*c == '\n' || *c == '\r')
			*c = ' ';
	appendStringInfoString(out, text);
}

/* For people: a blank instead of the T, and no more than seconds. All times are in UTC. */
static void
shorten_time(char *text)
{
	char *t = strchr(text, 'T');

	if (t == NULL || strlen(t) < 9)
		return;
	*t = ' ';
	t[9] = '\0';
}

static void
append_time(SnReportWriter *writer, Oid type, Datum value, StringInfo out)
{
	char buffer[MAXDATELEN + 1];

	if (type == DATEOID || !sn_json_time(&writer->day, buffer, DatumGetTimestamp(value), type == TIMESTAMPTZOID))
		JsonEncodeDateTime(buffer, value, type, NULL);
	if (writer->format == FORMAT_PDF)
		shorten_time(buffer);
	append_text(writer, out, buffer, strlen(buffer));
}

static void
append_value(SnReportWriter *writer, Column *column, Datum value, StringInfo out)
{
	struct varlena *packed;
	char *text;

	switch (column->kind)
	{
		case VALUE_TEXT:
			packed = PG_DETOAST_DATUM_PACKED(value);
			append_text(writer, out, VARDATA_ANY(packed), VARSIZE_ANY_EXHDR(packed));
			break;
		case VALUE_BOOL:
			append_word(writer, out, DatumGetBool(value) ? "true" : "false");
			break;
		case VALUE_TIME:
			append_time(writer, column->type, value, out);
			break;
		case VALUE_NUMBER:
			append_number(writer, out, OutputFunctionCall(&column->output, value));
			break;
		case VALUE_JSON:
			text = OutputFunctionCall(&column->output, value);
			if (writer->format == FORMAT_CSV || writer->format == FORMAT_PDF)
				append_text(writer, out, text, strlen(text));
			else
				append_json_value(out, text);
			break;
		case VALUE_OTHER:
			text = OutputFunctionCall(&column->output, value);
			append_text(writer, out, text, strlen(text));
			break;
	}
}

static void
append_row_csv(SnReportWriter *writer, TupleTableSlot *slot, StringInfo out)
{
	for (int i = 0; i < writer->n_columns; i++)
	{
		int a = i + writer->report->key_columns;

		if (i > 0)
			appendStringInfoCharMacro(out, ',');
		if (!slot->tts_isnull[a])
			append_value(writer, &writer->columns[i], slot->tts_values[a], out);
	}
	appendBinaryStringInfo(out, "\r\n", 2);
}

static void
append_row_json(SnReportWriter *writer, TupleTableSlot *slot, StringInfo out)
{
	bool names = writer->format != FORMAT_PDF;

	appendStringInfoCharMacro(out, names ? '{' : '[');
	for (int i = 0; i < writer->n_columns; i++)
	{
		Column *column = &writer->columns[i];
		int a = i + writer->report->key_columns;

		if (i > 0)
			appendStringInfoCharMacro(out, ',');
		if (names)
			appendStringInfoString(out, column->name);
		if (slot->tts_isnull[a])
			appendBinaryStringInfo(out, "null", 4);
		else
			append_value(writer, column, slot->tts_values[a], out);
	}
	appendStringInfoCharMacro(out, names ? '}' : ']');
}

/* ---- the parts of a report ---- */

/* JSON objects name each value: the name is escaped once, with its colon. */
static char *
name_for(SnReportWriter *writer, const char *name)
{
	StringInfoData quoted;

	initStringInfo(&quoted);
	if (writer->format == FORMAT_CSV)
		append_csv(&quoted, name, strlen(name));
	else
		sn_json_append(&quoted, name, strlen(name));
	if (writer->format == FORMAT_JSON || writer->format == FORMAT_JSONL)
		appendStringInfoChar(&quoted, ':');
	return quoted.data;
}

static void
read_columns(SnReportWriter *writer, TupleDesc desc)
{
	writer->n_columns = desc->natts - writer->report->key_columns;
	writer->columns = palloc0(writer->n_columns * sizeof(Column));
	for (int i = 0; i < writer->n_columns; i++)
	{
		Form_pg_attribute attribute = TupleDescAttr(desc, i + writer->report->key_columns);
		Column *column = &writer->columns[i];
		Oid output;
		bool is_varlena;

		column->name = name_for(writer, NameStr(attribute->attname));
		column->type = getBaseType(attribute->atttypid);
		column->kind = kind_of(column->type);
		getTypeOutputInfo(column->type, &output, &is_varlena);
		fmgr_info(output, &column->output);
	}
}

/* A name in words: capitals where it begins, and for what is known by its letters. */
static char *
title_of(const char *name)
{
	static const char *const letters[] = {"id", "sla"};
	char *title = pstrdup(name);
	bool begin = true;

	for (char *c = title; *c != '\0'; c++)
	{
		size_t n = strcspn(c, "_\"");

		if (*c == '_')
			*c = ' ';
		for (int i = 0; begin && i < lengthof(letters); i++)
			if (n == strlen(letters[i]) && strncmp(c, letters[i], n) == 0)
				for (size_t j = 0; j < n; j++)
					c[j] = pg_toupper((unsigned char) c[j]);
		begin = *c == ' ' || *c == '"';
	}
	title[1] = pg_toupper((unsigned char) title[1]);
	return title;
}

/* {"columns": [{"name", "title", "align"}, ...]} of the PDF program. */
static void
append_pdf_columns(SnReportWriter *writer, StringInfo out)
{
	appendStringInfoString(out, "{\"columns\":[");
	for (int i = 0; i < writer->n_columns; i++)
	{
		Column *column = &writer->columns[i];

		appendStringInfo(out, "%s{\"name\":%s,\"title\":%s,\"align\":\"%s\"}", i > 0 ? "," : "", column->name,
						 title_of(column->name), column->kind == VALUE_NUMBER ? "right" : "left");
	}
	appendStringInfoString(out, "]}\n");
}

/* What comes before all else: the PDF program wants it before summary and columns. */
void
sn_report_write_head(SnReportWriter *writer, StringInfo out)
{
	if (writer->format == FORMAT_PDF)
		appendStringInfo(out, "{\"report\":%s}\n", writer->report->header);
}

/* What comes before the first row. columns outlives the report's rows. */
void
sn_report_write_begin(SnReportWriter *writer, TupleDesc columns, StringInfo out)
{
	read_columns(writer, columns);
	switch (writer->format)
	{
		case FORMAT_CSV:
			for (int i = 0; i < writer->n_columns; i++)
				appendStringInfo(out, "%s%s", i > 0 ? "," : "", writer->columns[i].name);
			appendStringInfoString(out, "\r\n");
			break;
		case FORMAT_JSON:
			appendStringInfo(out, "{\"report\":%s,\n\"rows\":[", writer->report->header);
			break;
		case FORMAT_JSONL:
			appendStringInfo(out, "{\"report\":%s}\n", writer->report->header);
			break;
		case FORMAT_PDF:
			append_pdf_columns(writer, out);
			break;
	}
}

void
sn_report_write_row(SnReportWriter *writer, TupleTableSlot *slot, StringInfo out)
{
	MemoryContext caller = MemoryContextSwitchTo(writer->row_context);

	MemoryContextReset(writer->row_context);
	switch (writer->format)
	{
		case FORMAT_CSV:
			append_row_csv(writer, slot, out);
			break;
		case FORMAT_JSON:
			appendStringInfoString(out, writer->any_row ? ",\n" : "\n");
			append_row_json(writer, slot, out);
			break;
		case FORMAT_JSONL:
			append_row_json(writer, slot, out);
			appendStringInfoCharMacro(out, '\n');
			break;
		case FORMAT_PDF:
			appendStringInfoString(out, "{\"row\":");
			append_row_json(writer, slot, out);
			appendStringInfoString(out, "}\n");
			break;
	}
	writer->any_row = true;
	MemoryContextSwitchTo(caller);
}

void
sn_report_write_end(SnReportWriter *writer, int64 rows, StringInfo out)
{
	switch (writer->format)
	{
		case FORMAT_CSV:
			break;
		case FORMAT_JSON:
			appendStringInfo(out, "%s],\n\"row_count\":" INT64_FORMAT "}\n", rows > 0 ? "\n" : "", rows);
			break;
		case FORMAT_JSONL:
			appendStringInfo(out, "{\"row_count\":" INT64_FORMAT "}\n", rows);
			break;
		case FORMAT_PDF:
			appendStringInfo(out, "{\"end\":{\"rows\":" INT64_FORMAT "}}\n", rows);
			break;
	}
}
