/*
 * A native and a Python stack of one callsite, merged.
 *
 * The native stack passes through the interpreter's loop once for each run of Python frames that C code entered; a run ends with a frame marked
 * MT_FRAME_ENTRY. Runs and passes are matched from the root: what does not match is at the inner end (a function that has just been entered has a pass
 * and no frame yet). Python frames without a pass (a native stack that was cut) go to the innermost one.
 *
 * A pass is told by the loop's address range, which the target found in the interpreter's symbols; or, where the compiler put unlikely parts of the loop
 * elsewhere, by its caller: a return address that has the loop inside of it once always has.
 *
 * A Python frame is known by (file, qualified name, line): that is its identity in the database, too.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "reader/python.h"

enum { DEPTH_MAX = 1 << 20 };

struct map { /* a number -> index + 1 */
    struct slot {
        uint64_t key;
        uint32_t value; /* 0: empty */
    } *slots;
    size_t mask, count;
};

struct merging {
    const struct target *target;
    bool keep_internals;
    struct map frames, nodes, files;
    uint32_t *native, *python, *merged; /* frames of the stack at hand, innermost first: of the segment, of it, ours */
    size_t native_count, python_count, merged_count, capacity;
    struct mt_store_module *modules;
    struct mt_store_frame *out_frames;
    struct mt_store_python_line *lines;
    struct mt_store_node *out_nodes;
    size_t module_count, module_capacity, frame_count, frame_capacity, line_capacity, node_count, node_capacity;
    unsigned char *calls_loop; /* by frame of the segment */
};

/* ---- small tables ------------------------------------------------------------------------------------------------- */

static bool reserve(void **items, size_t *capacity, size_t count, size_t item_bytes)
{
    size_t wanted = *capacity ? *capacity : 64;
    void *bigger;

    if (count <= *capacity)
        return true;
    while (wanted < count)
        wanted *= 2;
    bigger = reallocarray(*items, wanted, item_bytes);
    if (!bigger)
        return false;
    *items = bigger;
    *capacity = wanted;
    return true;
}

static struct slot *probe(const struct map *map, uint64_t key)
{
    size_t i = mt_hash_u64(key) & map->mask;

    while (map->slots[i].value && map->slots[i].key != key)
        i = (i + 1) & map->mask;
    return &map->slots[i];
}

/* The slot of the key, with room to fill it; NULL: no memory. */
static struct slot *map_slot(struct map *map, uint64_t key)
{
    if (!map->slots || map->count * 4 >= (map->mask + 1) * 3) {
        struct map bigger = {.mask = map->slots ? map->mask * 2 + 1 : 255, .count = map->count};

        bigger.slots = calloc(bigger.mask + 1, sizeof(*bigger.slots));
        if (!bigger.slots)
            return NULL;
        for (size_t i = 0; map->slots && i <= map->mask; i++)
            if (map->slots[i].value)
                *probe(&bigger, map->slots[i].key) = map->slots[i];
        free(map->slots);
        *map = bigger;
    }
    return probe(map, key);
}

static void fill(struct map *map, struct slot *slot, uint64_t key, size_t index)
{
    slot->key = key;
    slot->value = (uint32_t)index + 1;
    map->count++;
}

/* ---- frames ------------------------------------------------------------------------------------------------------- */

static int add_frame(struct merging *m, const struct mt_store_frame *frame, const struct mt_store_python_line *line)
{
    if (!reserve((void **)&m->out_frames, &m->frame_capacity, m->frame_count + 1, sizeof(*m->out_frames)) ||
        !reserve((void **)&m->lines, &m->line_capacity, m->frame_count + 1, sizeof(*m->lines)))
        return -ENOMEM;
    m->out_frames[m->frame_count] = *frame;
    m->lines[m->frame_count] = line ? *line : (struct mt_store_python_line){0};
    return (int)m->frame_count++;
}

static int native_frame(struct merging *m, uint32_t frame)
{
    uint64_t key = (uint64_t)frame << 1;
    struct slot *slot = map_slot(&m->frames, key);
    int at;

    if (!slot)
        return -ENOMEM;
    if (slot->value)
        return (int)slot->value - 1;
    at = add_frame(m, &m->target->tables.frames[frame], NULL);
    if (at >= 0)
        fill(&m->frames, slot, key, (size_t)at);
    return at;
}

/* A file is a module to the database. */
static int file_of(struct merging *m, const char *name)
{
    uint64_t key = mt_hash_bytes(name, strlen(name));
    struct slot *slot = map_slot(&m->files, key);

    if (!slot)
        return -ENOMEM;
    if (slot->value)
        return (int)slot->value - 1;
    if (!reserve((void **)&m->modules, &m->module_capacity, m->module_count + 1, sizeof(*m->modules)))
        return -ENOMEM;
    m->modules[m->module_count] = (struct mt_store_module){.path = name};
    fill(&m->files, slot, key, m->module_count);
    return (int)m->module_count++;
}

static int python_frame(struct merging *m, uint32_t frame)
{
    static char unknown_file[] = "[unknown]", unknown_name[] = "[python]";
    static const struct code unknown = {.filename = unknown_file, .qualname = unknown_name};
    const struct mt_store_frame *f = &m->target->tables.frames[frame];
    const struct code *code = f->module < m->target->tables.code_count ? &m->target->tables.codes[f->module] : &unknown;
    int64_t line = 0;
    uint64_t hash, key;
    struct slot *slot;
    int at, file;

    if (f->offset != MT_FRAME_NO_INSTRUCTION)
        line = python_line(code->lines, code->lines_bytes, code->first_line, f->offset);
    if (line <= 0)
        line = code->first_line;
    hash = mt_hash_combine(mt_hash_bytes(code->qualname, strlen(code->qualname)), (uint64_t)line);
    key = mt_hash_combine(hash, mt_hash_bytes(code->filename, strlen(code->filename))) | 1;
    slot = map_slot(&m->frames, key);
    if (!slot)
        return -ENOMEM;
    if (slot->value)
        return (int)slot->value - 1;
    file = file_of(m, code->filename);
    if (file < 0)
        return file;
    at = add_frame(m,
        &(struct mt_store_frame){.module = (uint32_t)file, .offset = hash & INT64_MAX, .flags = MT_FRAME_PYTHON},
        &(struct mt_store_python_line){.function = code->qualname, .line = (uint32_t)line});
    if (at >= 0)
        fill(&m->frames, slot, key, (size_t)at);
    return at;
}

/* ---- the loop ----------------------------------------------------------------------------------------------------- */

static bool in_interpreter(const struct merging *m, uint32_t frame)
{
    const struct mt_store_frame *f = &m->target->tables.frames[frame];

    return m->target->tables.modules[f->module].flags & READER_MODULE_PYTHON;
}

static bool in_loop(const struct merging *m, uint32_t frame)
{
    const struct tables *t = &m->target->tables;
    uint64_t offset = t->frames[frame].offset;

    return in_interpreter(m, frame) && offset >= t->python_loop_start && offset < t->python_loop_end;
}

/* Return addresses that have the loop inside of them. */
static int find_callers(struct merging *m)
{
    const struct tables *t = &m->target->tables;

    m->calls_loop = calloc(t->frame_count + 1, 1);
    if (!m->calls_loop)
        return -ENOMEM;
    for (size_t i = 1; i < t->node_count; i++) {
        uint32_t frame = t->nodes[i].frame, parent = t->nodes[i].parent;

        if (parent == 0 || frame >= t->frame_count || t->frames[frame].flags & MT_FRAME_PYTHON || !in_loop(m, frame))
            continue;
        frame = t->nodes[parent].frame;
        if (frame < t->frame_count && !(t->frames[frame].flags & MT_FRAME_PYTHON))
            m->calls_loop[frame] = 1;
    }
    return 0;
}

static bool is_pass(const struct merging *m, size_t at)
{
    if (in_loop(m, m->native[at]))
        return true;
    return in_interpreter(m, m->native[at]) && at + 1 < m->native_count && m->calls_loop[m->native[at + 1]];
}

/* ---- one stack ---------------------------------------------------------------------------------------------------- */

static int collect(struct merging *m, uint32_t node, bool python, uint32_t **frames, size_t *ret_count)
{
    const struct tables *t = &m->target->tables;

    *ret_count = 0;
    for (size_t depth = 0; node != 0 && node < t->node_count && depth < DEPTH_MAX; node = t->nodes[node].parent, depth++) {
        uint32_t frame = t->nodes[node].frame;

        if (frame >= t->frame_count || !(t->frames[frame].flags & MT_FRAME_PYTHON) == python)
            continue; /* what does not belong here comes from a target that lies */
        if (*ret_count == m->capacity) {
            size_t capacity = m->capacity ? m->capacity * 2 : 512;
            uint32_t **lists[] = {&m->native, &m->python};

            for (size_t i = 0; i < MT_ARRAY_LEN(lists); i++) {
                uint32_t *bigger = reallocarray(*lists[i], capacity, sizeof(*bigger));

                if (!bigger)
                    return -ENOMEM;
                *lists[i] = bigger;
            }
            m->capacity = capacity;
        }
        (*frames)[(*ret_count)++] = frame;
    }
    return 0;
}

static int emit(struct merging *m, int frame)
{
    if (frame < 0)
        return frame;
    m->merged[m->merged_count++] = (uint32_t)frame;
    return 0;
}

/* The next run of Python frames, from `at` outwards. Returns where the one after it begins. */
static size_t emit_run(struct merging *m, size_t at, int *ret_error)
{
    while (at < m->python_count && *ret_error == 0) {
        bool entry = m->target->tables.frames[m->python[at]].flags & MT_FRAME_ENTRY;

        *ret_error = emit(m, python_frame(m, m->python[at++]));
        if (entry)
            break;
    }
    return at;
}

static int interleave(struct merging *m)
{
    size_t passes = 0, runs = 0, at = 0, skip;
    bool inner = true;
    int r = 0;

    for (size_t i = 0; i < m->native_count; i++)
        passes += is_pass(m, i);
    for (size_t i = 0; i < m->python_count; i++)
        runs += i + 1 == m->python_count || m->target->tables.frames[m->python[i]].flags & MT_FRAME_ENTRY;
    skip = passes > runs ? passes - runs : 0;
    for (size_t i = 0; i < m->native_count && r == 0; i++) {
        if (is_pass(m, i)) {
            if (skip > 0) {
                skip--;
            } else {
                for (; inner && runs > passes && r == 0; runs--)
                    at = emit_run(m, at, &r);
                at = emit_run(m, at, &r);
                inner = false;
            }
        }
        if (r == 0 && (m->keep_internals || !m->python_count || !in_interpreter(m, m->native[i])))
            r = emit(m, native_frame(m, m->native[i]));
    }
    while (at < m->python_count && r == 0)
        at = emit_run(m, at, &r);
    return r;
}

static int add_stack(struct merging *m, uint32_t *ret_node)
{
    uint32_t node = 0;

    for (size_t i = m->merged_count; i-- > 0;) {
        uint64_t key = (uint64_t)node << 32 | m->merged[i];
        struct slot *slot = map_slot(&m->nodes, key);

        if (!slot || !reserve((void **)&m->out_nodes, &m->node_capacity, m->node_count + 1, sizeof(*m->out_nodes)))
            return -ENOMEM;
        if (!slot->value) {
            m->out_nodes[m->node_count] = (struct mt_store_node){.parent = node, .frame = m->merged[i]};
            fill(&m->nodes, slot, key, m->node_count++);
        }
        node = slot->value - 1;
    }
    *ret_node = node;
    return 0;
}

static int merge_one(struct merging *m, uint32_t node, uint32_t *ret_node)
{
    const struct tables *t = &m->target->tables;
    uint32_t python = 0;
    int r;

    if (node < t->node_count && t->nodes[node].frame & MT_NODE_PAIR) {
        python = t->nodes[node].frame & ~MT_NODE_PAIR;
        node = t->nodes[node].parent;
    }
    r = collect(m, node, false, &m->native, &m->native_count);
    if (r == 0)
        r = collect(m, python, true, &m->python, &m->python_count);
    if (r < 0)
        return r;
    free(m->merged);
    m->merged_count = 0;
    m->merged = calloc(m->native_count + m->python_count + 1, sizeof(*m->merged));
    if (!m->merged)
        return -ENOMEM;
    r = interleave(m);
    return r < 0 ? r : add_stack(m, ret_node);
}

/* ---- all of them -------------------------------------------------------------------------------------------------- */

static void finish(struct merging *m)
{
    free(m->frames.slots);
    free(m->nodes.slots);
    free(m->files.slots);
    free(m->native);
    free(m->python);
    free(m->merged);
    free(m->calls_loop);
}

int python_merge(const struct target *target, const uint32_t *nodes, size_t count, struct python_stacks *ret)
{
    const struct tables *t = &target->tables;
    const char *internals = getenv(MT_ENV_INTERNALS);
    struct merging m = {.target = target, .keep_internals = internals && *internals && strcmp(internals, "0") != 0};
    uint32_t *out = calloc(count + 1, sizeof(*out));
    int r = out ? find_callers(&m) : -ENOMEM;

    if (r == 0 && (!reserve((void **)&m.modules, &m.module_capacity, t->module_count + 1, sizeof(*m.modules)) ||
                      !reserve((void **)&m.out_nodes, &m.node_capacity, 1, sizeof(*m.out_nodes))))
        r = -ENOMEM;
    if (r == 0) {
        if (t->module_count)
            memcpy(m.modules, t->modules, t->module_count * sizeof(*m.modules));
        m.module_count = t->module_count;
        for (size_t i = 0; i < m.module_count; i++)
            m.modules[i].flags &= ~READER_MODULE_PYTHON;
        m.out_nodes[m.node_count++] = (struct mt_store_node){0};
    }
    for (size_t i = 0; i < count && r == 0; i++)
        r = merge_one(&m, nodes[i], &out[i]);
    finish(&m);
    if (r < 0) {
        free(m.modules);
        free(m.out_frames);
        free(m.lines);
        free(m.out_nodes);
        free(out);
        return r;
    }
    *ret = (struct python_stacks){.stacks = {.modules = m.modules,
                                      .module_count = m.module_count,
                                      .frames = m.out_frames,
                                      .frame_count = m.frame_count,
                                      .nodes = m.out_nodes,
                                      .node_count = m.node_count,
                                      .python_lines = m.lines},
        .nodes = out};
    return 0;
}

void python_stacks_finish(struct python_stacks *s)
{
    free((void *)s->stacks.modules);
    free((void *)s->stacks.frames);
    free((void *)s->stacks.nodes);
    free((void *)s->stacks.python_lines);
    free(s->nodes);
}
