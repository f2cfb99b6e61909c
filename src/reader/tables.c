/*
 * Copies of a segment's modules and frames: each entry is copied once, when it first appears below its count
 * (entries never change after that), and checked on the way.
 */
#include "reader/python.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { PATH_MAX_BYTES = 4096 };

static size_t count_of(const uint32_t *shared, uint64_t capacity)
{
    uint64_t count = mt_load_acquire(shared);

    return count < capacity ? count : capacity;
}

/* Where the interpreter's loop is, in the module that it is in. */
static void note_interpreter(struct target *target, const struct mt_module *m, size_t module)
{
    uint64_t start = mt_load_relaxed(&target->header->python_loop[0][0]);

    if (module == 0 || start < m->start || start >= m->end)
        return;
    target->tables.interpreter_bias = m->load_bias;
    ((struct mt_store_module *)target->tables.modules)[module].flags |= READER_MODULE_PYTHON;
    target->tables.interpreter_known = true;
}

/* Modules that came before the interpreter was announced. */
static void find_interpreter(struct target *target, size_t count)
{
    const struct mt_module *shared =
        (const struct mt_module *)((const char *)target->header + target->layout.module_offset);

    if (target->tables.interpreter_known || !mt_load_acquire(&target->header->python_version))
        return;
    for (size_t i = 1; i < count && !target->tables.interpreter_known; i++) {
        struct mt_module m = shared[i];

        note_interpreter(target, &m, i);
    }
}

static int copy_modules(struct target *target, size_t count)
{
    const char *base = (const char *)target->header;
    const struct layout *layout = &target->layout;
    const struct mt_module *shared = (const struct mt_module *)(base + layout->module_offset);
    struct tables *t = &target->tables;

    if (!reserve((void **)&t->modules, &t->module_capacity, count, sizeof(*t->modules)))
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
            .path = copy, .build_id = build_id, .build_id_bytes = id_bytes, .flags = m.flags & ~READER_MODULE_PYTHON};
        note_interpreter(target, &m, t->module_count);
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
    if (copy_modules(target, modules) < 0 || python_codes_update(target) < 0 ||
        !reserve((void **)&t->frames, &t->frame_capacity, frames, sizeof(*t->frames)))
        return -ENOMEM;
    find_interpreter(target, t->module_count);
    for (size_t i = 0; i < MT_PYTHON_LOOP_PARTS; i++) {
        t->python_loop[i][1] = mt_load_acquire(&target->header->python_loop[i][1]) - t->interpreter_bias;
        t->python_loop[i][0] = mt_load_relaxed(&target->header->python_loop[i][0]) - t->interpreter_bias;
    }
    for (; t->frame_count < frames; t->frame_count++) {
        struct mt_frame f = ((const struct mt_frame *)(base + layout->frame_offset))[t->frame_count];

        if (f.flags & MT_FRAME_PYTHON)
            t->has_python = true;
        else if (f.module >= t->module_count)
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
    python_codes_finish(t);
    free(t->modules);
    free(t->frames);
    free(t->nodes);
    free(t->alike);
    free(t->lines.slots);
    *t = (struct tables){0};
}
