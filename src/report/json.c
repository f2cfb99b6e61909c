/*
 * Rows as JSON, through json-c.
 */
#include "report/report.h"

#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>

void mt_json_begin(struct mt_json *json, FILE *to)
{
    *json = (struct mt_json){.to = to};
    fputs("[", to);
}

void mt_json_row(struct mt_json *json, struct json_object *row)
{
    fprintf(json->to, "%s\n  %s", json->rows++ ? "," : "",
        json_object_to_json_string_ext(row, JSON_C_TO_STRING_SPACED | JSON_C_TO_STRING_NOSLASHESCAPE));
    json_object_put(row);
}

void mt_json_end(struct mt_json *json)
{
    fputs(json->rows ? "\n]\n" : "]\n", json->to);
}

/* Bytes of a well-formed UTF-8 sequence (Unicode 15, table 3-7), 0 if it is none. */
static size_t sequence(const unsigned char *p, size_t left)
{
    size_t n = p[0] < 0x80 ? 1 : p[0] >= 0xc2 && p[0] < 0xe0 ? 2 : (p[0] & 0xf0) == 0xe0 ? 3 : p[0] >= 0xf0 && p[0] < 0xf5 ? 4 : 0;

    if (n == 0 || n > left)
        return 0;
    for (size_t i = 1; i < n; i++) {
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    }
    if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f) || (p[0] == 0xf0 && p[1] < 0x90) ||
        (p[0] == 0xf4 && p[1] > 0x8f))
        return 0;
    return n;
}

struct json_object *mt_json_text(const char *text, size_t bytes)
{
    char *clean = malloc(bytes * 3 + 1);
    struct json_object *object;
    size_t to = 0;

    if (!clean)
        return NULL;
    for (size_t i = 0; i < bytes;) {
        size_t n = sequence((const unsigned char *)text + i, bytes - i);
        memcpy(clean + to, n ? text + i : "\xef\xbf\xbd", n ? n : 3);
        to += n ? n : 3;
        i += n ? n : 1;
    }
    object = json_object_new_string_len(clean, (int)to);
    free(clean);
    return object;
}
