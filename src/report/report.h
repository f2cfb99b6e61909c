/*
 * report: tables fitted to the terminal, human units, JSON. Knows nothing of the database.
 *
 * On a terminal a table never wraps: columns that may shrink are cut, with an ellipsis, until the line fits. Elsewhere (a pipe,
 * a file) nothing is cut. Control characters in a text are never printed as such.
 */
#ifndef MT_REPORT_REPORT_H
#define MT_REPORT_REPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

struct json_object;

/* ---- units; each returns buffer */
char *mt_format_bytes(int64_t bytes, char *buffer, size_t size); /* 1.5 MiB, 12 B; three digits or so */
char *mt_format_count(int64_t count, char *buffer, size_t size); /* 1,234,567 */
char *mt_format_duration(int64_t ns, char *buffer, size_t size); /* 1.25 s, 3 min 20 s */
char *mt_format_time(int64_t ns_since_1970, char *buffer, size_t size); /* 2026-01-31 23:59:59, local time */
/* A series as bars of eight heights, from 0 to its largest value; at most size / 4 of them. */
char *mt_format_bars(const double *values, size_t count, char *buffer, size_t size);

/* ---- terminal */
void mt_report_set_ascii(bool ascii); /* no characters beyond ASCII of our own making */
/* Columns of the terminal behind `to`; 0: not a terminal, no limit. */
int mt_report_width(FILE *to);
bool mt_report_is_plain(FILE *to); /* no bold: not a terminal, NO_COLOR, or TERM=dumb */
/* Columns that a text takes. */
int mt_text_width(const char *text);
/* Prints a text in at most `width` columns (0: no limit), cut at its end or at its start. Returns the columns used. */
int mt_text_print(FILE *to, const char *text, int width, bool cut_start);

/* ---- tables */
enum mt_cell {
    MT_CELL_LEFT,
    MT_CELL_RIGHT,      /* numbers: never cut */
    MT_CELL_RIGHT_OPTIONAL, /* left out, the last one first, where the terminal is narrow */
    MT_CELL_CUT_END,    /* may shrink, the end goes */
    MT_CELL_CUT_START,  /* may shrink, the start goes: paths */
};
struct mt_table;

struct mt_table *mt_table_create(void); /* NULL: no memory */
void mt_table_destroy(struct mt_table *table); /* accepts NULL */
void mt_table_column(struct mt_table *table, const char *heading, enum mt_cell kind);
/* Adds the next cell, row by row; the text is copied. NULL: empty. */
void mt_table_add(struct mt_table *table, const char *text);
/* Text under the row that has just been completed, a line each, indented; owned by the table. */
void mt_table_note(struct mt_table *table, const char *text);
size_t mt_table_rows(const struct mt_table *table);
/* Returns 0, or -ENOMEM if a cell is missing for want of memory. */
int mt_table_print(const struct mt_table *table, FILE *to);
/* How many columns do not fit the terminal behind `to` at all. */
int mt_table_beyond(const struct mt_table *table, FILE *to);

/* ---- JSON: an array of objects, written as it comes */
struct mt_json {
    FILE *to;
    size_t rows;
};
void mt_json_begin(struct mt_json *json, FILE *to);
void mt_json_row(struct mt_json *json, struct json_object *row); /* frees the row */
void mt_json_end(struct mt_json *json);
/* A string object; bytes that are not UTF-8 become U+FFFD, so that the output always is JSON. */
struct json_object *mt_json_text(const char *text, size_t bytes);

#endif
