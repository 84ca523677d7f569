/*
 * spi.h
 *	  Saved SPI plans and array parameters, for the steps of consume().
 */
#ifndef SN_SPI_H
#define SN_SPI_H

#include "postgres.h"
#include "executor/spi.h"
#include "utils/array.h"

/* A statement with its plan, made once a backend. */
typedef struct SnStatement
{
	const char *sql;
	int n_args;
	Oid args[24];
	SPIPlanPtr plan;
} SnStatement;

/* A column of an unnest(): Datums and NULLs that grow together. */
typedef struct SnColumn
{
	Oid element;
	int n;
	int max;
	Datum *values;
	bool *nulls;
} SnColumn;

extern Oid sn_type_oid(const char *name);
extern uint64 sn_execute(SnStatement *statement, Datum *values, const char *nulls);
extern uint64 sn_query(SnStatement *statement, const Datum *values, const char *nulls, DestReceiver *dest);
extern void sn_column_init(SnColumn *column, Oid element, int max);
extern void sn_column_add(SnColumn *column, Datum value, bool isnull);
extern void sn_column_text(SnColumn *column, const char *value);
extern Datum sn_column_array(SnColumn *column);
extern char *sn_result_text(int row, int column);
extern int64 sn_result_int64(int row, int column);
extern int32 sn_result_int32(int row, int column);
extern bool sn_result_bool(int row, int column);
extern Datum sn_result_datum(int row, int column, bool *isnull);
extern TimestampTz sn_result_time(int row, int column);

#endif /* SN_SPI_H */
