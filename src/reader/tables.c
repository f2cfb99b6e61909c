/*
 * Copies of a segment's modules and frames: each entry is copied once, when it first appears below its count
 * (entries never change after that), and checked on the way.
 */
#include "reader/state.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { PATH_MAX_BYTES = 4096 };

static size_t count_of(const uint32_t *shared, uint64_t capacity)
{
    uint64_t count = mt_load_acquire(shared);

    return count < capacity ? count : capacity;
}

static int reserve(void **items, size_t *capacity, size_t count, size_t item_bytes)
{
    size_t wanted = *capacity ? *capacity : 64;
    void *bigger;

    if (count <= *capacity)
        return 0;
    while (wanted < count)
        wanted *= 2;
    bigger = reallocarray(*items, wanted, item_bytes);
    if (!bigger)
        return -ENOMEM;
    *items = bigger;
    *capacity = wanted;
    return 0;
}

static int copy_modules(struct target *target, size_t count)
{
    const char *base = (const char *)target->header;
    const struct layout *layout = &target->layout;
    const struct mt_module *shared = (const struct mt_module *)(base + layout->module_offset);
    struct tables *t = &target->tables;

    if (reserve((void **)&t->modules, &t->module_capacity, count, sizeof(*t->modules)) < 0)
        return -ENOMEM;
    for (; t->module_count < count; t->module_count++) {
        struct mt_module m = shared[t->module_count];
        const char *path = "";
        uint8_t *build_id;
        size_t id_bytes = m.build_id_bytes <= sizeof(m.build_id) ? m.build_id_bytes : 0;
        size_t bytes = m.path_bytes <= PATH_MAX_BYTES ? m.path_bytes : 0;
        char *copy;

        if (bytes <= layout->string_capacity && m.string_offset <= layout->string_capacity - bytes)
            path = base + layout->string_offset + m.string_offset;
        else
            bytes = 0;
        copy = strndup(path, bytes);
        build_id = malloc(id_bytes ? id_bytes : 1);
        if (!copy || !build_id) {
            free(copy);
            free(build_id);
            return -ENOMEM;
        }
        memcpy(build_id, m.build_id, id_bytes);
        t->modules[t->module_count] = (struct mt_store_module){
            .path = copy, .build_id = build_id, .build_id_bytes = id_bytes, .flags = m.flags};
    }
    return 0;
}

int tables_update(struct target *target)
{
    const char *base = (const char *)target->header;
    const struct layout *layout = &target->layout;
    struct tables *t = &target->tables;
    size_t frames, modules;

    if (!target->header)
        return 0;
    /* Frames first: the modules that they mention are older. */
    frames = count_of(&target->header->frame_count, layout->frame_capacity);
    modules = count_of(&target->header->module_count, layout->module_capacity);
    if (copy_modules(target, modules) < 0 ||
        reserve((void **)&t->frames, &t->frame_capacity, frames, sizeof(*t->frames)) < 0)
        return -ENOMEM;
    for (; t->frame_count < frames; t->frame_count++) {
        struct mt_frame f = ((const struct mt_frame *)(base + layout->frame_offset))[t->frame_count];

        if (f.module >= t->module_count)
            f.module = 0;
        t->frames[t->frame_count] =
            (struct mt_store_frame){.offset = f.offset, .module = f.module, .flags = f.flags};
    }
    return 0;
}

void tables_finish(struct tables *t)
{
    for (size_t i = 0; i < t->module_count; i++) {
        free((char *)t->modules[i].path);
        free((uint8_t *)t->modules[i].build_id);
    }
    free(t->modules);
    free(t->frames);
    free(t->nodes);
    *t = (struct tables){0};
}
