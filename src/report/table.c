/*
 * Tables: all cells are kept, then the widths are made to fit: the widest of the columns that may shrink gives way first,
 * so that short ones stay whole.
 */
#include "report/report.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { COLUMNS_MAX = 64, GAP = 2, SHRINK_MIN = 8, USEFUL_MIN = 24, NOTE_INDENT = 4 };

struct mt_table {
    struct {
        char *heading;
        enum mt_cell kind;
    } columns[COLUMNS_MAX];
    int column_count;
    char **cells;
    size_t cell_count, cell_capacity;
    struct note {
        size_t row;
        char *text;
    } *notes;
    size_t note_count, note_capacity;
    bool incomplete;
};

struct mt_table *mt_table_create(void)
{
    return calloc(1, sizeof(struct mt_table));
}

void mt_table_destroy(struct mt_table *table)
{
    if (!table)
        return;
    for (int i = 0; i < table->column_count; i++)
        free(table->columns[i].heading);
    for (size_t i = 0; i < table->cell_count; i++)
        free(table->cells[i]);
    for (size_t i = 0; i < table->note_count; i++)
        free(table->notes[i].text);
    free(table->cells);
    free(table->notes);
    free(table);
}

void mt_table_column(struct mt_table *table, const char *heading, enum mt_cell kind)
{
    if (table->column_count == COLUMNS_MAX)
        return;
    table->columns[table->column_count].heading = strdup(heading);
    table->columns[table->column_count++].kind = kind;
}

void mt_table_add(struct mt_table *table, const char *text)
{
    if (table->cell_count == table->cell_capacity) {
        size_t capacity = table->cell_capacity ? table->cell_capacity * 2 : 256;
        char **cells = reallocarray(table->cells, capacity, sizeof(*cells));
        if (!cells) {
            table->incomplete = true;
            return;
        }
        table->cells = cells;
        table->cell_capacity = capacity;
    }
    table->cells[table->cell_count] = strdup(text ? text : "");
    if (table->cells[table->cell_count])
        table->cell_count++;
    else
        table->incomplete = true;
}

void mt_table_note(struct mt_table *table, const char *text)
{
    if (table->note_count == table->note_capacity) {
        size_t capacity = table->note_capacity ? table->note_capacity * 2 : 64;
        struct note *notes = reallocarray(table->notes, capacity, sizeof(*notes));
        if (!notes) {
            table->incomplete = true;
            return;
        }
        table->notes = notes;
        table->note_capacity = capacity;
    }
    table->notes[table->note_count++] = (struct note){mt_table_rows(table), strdup(text)};
}

size_t mt_table_rows(const struct mt_table *table)
{
    return table->column_count ? table->cell_count / (size_t)table->column_count : 0;
}

static bool shrinks(enum mt_cell kind)
{
    return kind == MT_CELL_CUT_END || kind == MT_CELL_CUT_START;
}

/* Width -1: left out. Columns that may shrink count with what they need to be of use. */
static int drop_optional(const struct mt_table *table, int limit, int *widths, int sum)
{
    int least = sum;

    for (int c = 0; c < table->column_count; c++) {
        if (shrinks(table->columns[c].kind) && widths[c] > USEFUL_MIN)
            least -= widths[c] - USEFUL_MIN;
    }
    for (int c = table->column_count - 1; c >= 0 && least > limit; c--) {
        if (table->columns[c].kind != MT_CELL_RIGHT_OPTIONAL)
            continue;
        least -= widths[c] + GAP;
        sum -= widths[c] + GAP;
        widths[c] = -1;
    }
    return sum;
}

static void fit(const struct mt_table *table, int limit, int *widths)
{
    int sum = GAP * (table->column_count - 1);

    for (int c = 0; c < table->column_count; c++) {
        widths[c] = mt_text_width(table->columns[c].heading ? table->columns[c].heading : "");
        for (size_t i = (size_t)c; i < table->cell_count; i += (size_t)table->column_count) {
            int width = mt_text_width(table->cells[i]);
            if (width > widths[c])
                widths[c] = width;
        }
        sum += widths[c];
    }
    if (limit > 0)
        sum = drop_optional(table, limit, widths, sum);
    while (limit > 0 && sum > limit) {
        int widest = -1, second = SHRINK_MIN, cut;
        for (int c = 0; c < table->column_count; c++) {
            if (!shrinks(table->columns[c].kind) || widths[c] <= SHRINK_MIN)
                continue;
            if (widest < 0 || widths[c] > widths[widest]) {
                if (widest >= 0 && widths[widest] > second)
                    second = widths[widest];
                widest = c;
            } else if (widths[c] > second) {
                second = widths[c];
            }
        }
        if (widest < 0)
            break; /* the terminal is too narrow: the line is cut when it is printed */
        cut = widths[widest] - second;
        if (cut < 1)
            cut = 1;
        if (cut > sum - limit)
            cut = sum - limit;
        widths[widest] -= cut;
        sum -= cut;
    }
}

int mt_table_beyond(const struct mt_table *table, FILE *to)
{
    int limit = mt_report_width(to), widths[COLUMNS_MAX], at = 0, beyond = 0;

    fit(table, limit, widths);
    for (int c = 0; limit > 0 && c < table->column_count; c++) {
        beyond += widths[c] >= 0 && at >= limit;
        at += widths[c] >= 0 ? widths[c] + GAP : 0;
    }
    return beyond;
}

static void pad(FILE *to, int columns)
{
    if (columns > 0)
        fprintf(to, "%*s", columns, "");
}

/* One line. limit 0: none; else nothing is printed beyond it. */
static void print_line(const struct mt_table *table, FILE *to, char *const *cells, const int *widths, int limit)
{
    int at = 0;

    for (int c = 0; c < table->column_count; c++) {
        const char *text = cells[c] ? cells[c] : "";
        int room = widths[c], width = mt_text_width(text);
        bool right = table->columns[c].kind == MT_CELL_RIGHT || table->columns[c].kind == MT_CELL_RIGHT_OPTIONAL;
        bool last = c == table->column_count - 1;

        if (room < 0)
            continue;

        if (limit > 0 && at + room > limit)
            room = limit - at;
        if (room <= 0)
            break;
        if (width > room)
            width = room;
        if (right)
            pad(to, room - width);
        mt_text_print(to, text, room, table->columns[c].kind == MT_CELL_CUT_START);
        if (!right && !last)
            pad(to, room - width);
        at += room;
        if (!last && (limit == 0 || at + GAP < limit))
            pad(to, GAP);
        at += GAP;
    }
    fputc('\n', to);
}

static void print_note(FILE *to, const char *text, int limit)
{
    while (text && *text) {
        size_t n = strcspn(text, "\n");
        char *line = strndup(text, n);
        if (line) {
            pad(to, NOTE_INDENT);
            mt_text_print(to, line, limit > NOTE_INDENT ? limit - NOTE_INDENT : 0, false);
            fputc('\n', to);
        }
        free(line);
        text += n + (text[n] == '\n');
    }
}

int mt_table_print(const struct mt_table *table, FILE *to)
{
    int limit = mt_report_width(to), widths[COLUMNS_MAX];
    bool plain = mt_report_is_plain(to);
    char *headings[COLUMNS_MAX];
    size_t rows = mt_table_rows(table), note = 0;

    fit(table, limit, widths);
    for (int c = 0; c < table->column_count; c++)
        headings[c] = table->columns[c].heading;
    if (!plain)
        fputs("\x1b[1m", to);
    print_line(table, to, headings, widths, limit);
    if (!plain)
        fputs("\x1b[0m", to);
    for (size_t r = 0; r < rows; r++) {
        print_line(table, to, table->cells + r * (size_t)table->column_count, widths, limit);
        for (; note < table->note_count && table->notes[note].row == r + 1; note++)
            print_note(to, table->notes[note].text, limit);
    }
    return table->incomplete ? -ENOMEM : 0;
}
