#include "sites.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *base_of(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash && slash[1] ? slash + 1 : path;
}

char *place_text(const char *file, int64_t line, const char *module, char *buffer, size_t size)
{
    if (file && line > 0)
        snprintf(buffer, size, "%s:%lld", file, (long long)line);
    else if (file)
        snprintf(buffer, size, "%s", file);
    else
        snprintf(buffer, size, "[%s]", module ? base_of(module) : "?");
    return buffer;
}

char *heap_text(const char *heap, const char *kind, char *buffer, size_t size)
{
    snprintf(buffer, size, "%s%s%s", heap ? heap : "", kind && *kind ? "/" : "", kind ? kind : "");
    return buffer;
}

bool is_proper_heap(const char *heap)
{
    return heap && (strcmp(heap, "malloc") == 0 || strcmp(heap, "python") == 0);
}

char *percent_text(int64_t part, int64_t whole, char *buffer, size_t size)
{
    if (whole > 0)
        snprintf(buffer, size, "%.1f", 100.0 * (double)part / (double)whole);
    else
        snprintf(buffer, size, "-");
    return buffer;
}

/* Recursion a thousand deep is one line with a number. */
static void flush_line(FILE *to, const char *line, unsigned times)
{
    if (times > 1)
        fprintf(to, "%s  (%u times)\n", line, times);
    else if (times == 1)
        fprintf(to, "%s\n", line);
}

int note_stack(struct mt_store *store, struct mt_table *table, int64_t site_id)
{
    static const char sql[] =
        "WITH RECURSIVE walk (level, frame_id, parent_id) AS ("
        "SELECT 0, stack.frame_id, stack.stack_id - stack.up FROM site JOIN stack USING (stack_id) WHERE site_id = ?1 "
        "UNION ALL SELECT level + 1, stack.frame_id, stack.stack_id - stack.up FROM walk JOIN stack ON stack_id = walk.parent_id "
        "WHERE stack.up > 0) "
        "SELECT coalesce(function, module.name || printf('+0x%x', frame.offset)), file, line, module.path "
        "FROM walk CROSS JOIN frame USING (frame_id) CROSS JOIN module USING (module_id) "
        "CROSS JOIN frame_line USING (frame_id) LEFT JOIN symbol USING (symbol_id) ORDER BY level, depth";
    char *text = NULL, line[8192], place[4200], before[8192] = "";
    size_t size = 0;
    unsigned times = 0;
    struct mt_query *q;
    FILE *to;
    int status, r;

    q = ask(store, sql, &status);
    if (!q)
        return status;
    to = open_memstream(&text, &size);
    if (!to)
        abort();
    mt_query_bind_integer(q, 1, site_id);
    while ((r = mt_query_step(q)) == 1) {
        const char *module = mt_query_text(q, 3, NULL);
        if (module && strcmp(module, "[unknown]") == 0) /* what is no function is in no place */
            snprintf(line, sizeof(line), "%s", mt_query_text(q, 0, NULL));
        else
            snprintf(line, sizeof(line), "%s  %s", mt_query_text(q, 0, NULL),
                place_text(mt_query_text(q, 1, NULL), mt_query_integer(q, 2), module, place, sizeof(place)));
        for (char *p = line; *p; p++) /* one frame, one line */
            *p = *p == '\n' ? '?' : *p;
        if (strcmp(line, before) == 0) {
            times++;
            continue;
        }
        flush_line(to, before, times);
        strcpy(before, line);
        times = 1;
    }
    flush_line(to, before, times);
    fclose(to);
    mt_table_note(table, text);
    free(text);
    mt_query_destroy(q);
    return finish_rows(store, r);
}

int print_folded(struct mt_store *store, int64_t run_id)
{
    struct mt_query *q;
    int64_t folded;
    char text[32];
    int status = 0, r;

    q = ask(store, "SELECT folded_sites FROM runs WHERE run_id = ?1", &status);
    if (!q)
        return status;
    mt_query_bind_integer(q, 1, run_id);
    r = mt_query_step(q);
    folded = r == 1 ? mt_query_integer(q, 0) : 0;
    mt_query_destroy(q);
    if (folded > 0)
        printf("\n%s smaller callsites are added up by function, as [other callers]; memtrace run --all-sites keeps them.\n",
            mt_format_count(folded, text, sizeof(text)));
    return finish_rows(store, r);
}
