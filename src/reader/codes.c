/*
 * Copies of a segment's Python codes, checked. Entries never change once they are below the count; their texts are copied, too.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "reader/python.h"

static const char *text_at(const struct target *target, uint64_t offset, uint64_t bytes)
{
    const struct layout *l = &target->layout;

    if (bytes > l->text_capacity || offset > l->text_capacity - bytes)
        return NULL;
    return (const char *)target->header + l->text_offset + offset;
}

/* A name without what would break lines and lists. */
static char *copy_name(const struct target *target, uint64_t offset, uint64_t bytes)
{
    const char *text = bytes <= MT_CODE_NAME_MAX_BYTES ? text_at(target, offset, bytes) : NULL;
    char *copy = text ? strndup(text, bytes) : strdup("");

    for (char *p = copy; p && *p; p++)
        if ((unsigned char)*p < ' ' || *p == 0x7f)
            *p = ' ';
    return copy;
}

static int copy_code(const struct target *target, const struct mt_code *c, struct code *ret)
{
    const char *lines = c->lines_bytes <= MT_CODE_LINES_MAX_BYTES ? text_at(target, c->lines_offset, c->lines_bytes) : NULL;

    *ret = (struct code){.first_line = c->first_line > 0 ? c->first_line : 0};
    ret->filename = copy_name(target, c->filename_offset, c->filename_bytes);
    ret->qualname = copy_name(target, c->qualname_offset, c->qualname_bytes);
    if (lines && c->lines_bytes) {
        ret->lines = malloc(c->lines_bytes);
        ret->lines_bytes = c->lines_bytes;
        if (ret->lines)
            memcpy(ret->lines, lines, c->lines_bytes);
    }
    if (ret->filename && ret->qualname && (ret->lines || !ret->lines_bytes))
        return 0;
    free(ret->filename);
    free(ret->qualname);
    free(ret->lines);
    return -ENOMEM;
}

int python_codes_update(struct target *target)
{
    const struct layout *layout = &target->layout;
    const struct mt_code *shared = (const struct mt_code *)((const char *)target->header + layout->code_offset);
    struct tables *t = &target->tables;
    uint64_t count = layout->code_capacity ? mt_load_acquire(&target->header->code_count) : 0;

    t->python_version = mt_load_acquire(&target->header->python_version);
    t->python_flags = mt_load_relaxed(&target->header->python_flags);
    if (count > layout->code_capacity)
        count = layout->code_capacity;
    if (count > t->code_capacity) {
        size_t capacity = count + count / 2;
        struct code *codes = reallocarray(t->codes, capacity, sizeof(*codes));

        if (!codes)
            return -ENOMEM;
        t->codes = codes;
        t->code_capacity = capacity;
    }
    for (; t->code_count < count; t->code_count++) {
        struct mt_code c = shared[t->code_count];
        int r = copy_code(target, &c, &t->codes[t->code_count]);

        if (r < 0)
            return r;
    }
    return 0;
}

void python_codes_finish(struct tables *t)
{
    for (size_t i = 0; i < t->code_count; i++) {
        free(t->codes[i].filename);
        free(t->codes[i].qualname);
        free(t->codes[i].lines);
        free(t->codes[i].runs);
    }
    free(t->codes);
}

void python_version_text(const struct target *target, char *text, size_t size)
{
    static const char *const levels[16] = {[0xa] = "a", [0xb] = "b", [0xc] = "rc"};
    uint32_t v = target->tables.python_version;
    unsigned level = v >> 4 & 15;
    int n = 0;

    text[0] = '\0';
    if (!v)
        return;
    n = snprintf(text, size, "%u.%u.%u", v >> 24, v >> 16 & 255, v >> 8 & 255);
    if (levels[level] && n > 0 && (size_t)n < size)
        n += snprintf(text + n, size - (size_t)n, "%s%u", levels[level], v & 15);
    if (target->tables.python_flags & MT_PYTHON_FREE_THREADED && n > 0 && (size_t)n < size)
        snprintf(text + n, size - (size_t)n, "t");
}
