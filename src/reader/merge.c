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
 *
 * Many callsites of a target are one in the end: what is merged has tables of its own, which grow with a run as the segment's do.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "reader/map.h"
#include "reader/python.h"

enum { DEEP = 16 };
#define NO_FRAME UINT32_MAX

enum { /* of a frame of the segment */
    FRAME_INTERPRETER = 1,
    FRAME_LOOP = 2,       /* in the interpreter's loop */
    FRAME_CALLS_LOOP = 4, /* a return address that has the loop inside of it */
};

struct merge_step {
    uint64_t key; /* native node, Python node */
    uint32_t frame;
};

struct counts { /* of a node, with all outside of it */
    uint32_t passes : 31, is_pass : 1; /* a native node's */
    uint32_t runs;                     /* a Python node's */
};

struct merger {
    const struct target *target;
    bool keep_internals;
    bool interpreter_known; /* as of the frames seen, as the loop */
    uint64_t loop[MT_PYTHON_LOOP_PARTS][2];
    unsigned char *frame_kinds; /* by frame of the segment */
    uint32_t *frame_of;         /* its merged frame + 1; 0: not yet */
    size_t frames_seen, kinds_capacity, frame_of_capacity, nodes_seen;
    struct counts *counts;      /* by node of the segment */
    struct merge_step *steps;   /* of the stack at hand, innermost first */
    size_t step_count, step_capacity, counts_capacity;
    uint32_t *path;             /* of a Python stack at hand, innermost first */
    size_t path_capacity;
    struct map frames, nodes, files, seen;
    struct mt_store_module *modules;
    size_t native_modules; /* in front; the rest are Python's files */
    struct mt_store_frame *out_frames;
    struct mt_store_python_line *lines;
    struct mt_store_node *out_nodes;
    uint32_t *python_frames; /* by merged node: its innermost Python frame + 1 */
    uint32_t *merged;        /* by node of the segment: its merged node + 1; of a Python stack's node, that of its frames alone. 0: not yet */
    size_t module_count, module_capacity, frame_count, frame_capacity, line_capacity, node_count, node_capacity, python_frame_capacity, merged_capacity;
};

/* ---- frames ------------------------------------------------------------------------------------------------------- */

static int add_frame(struct merger *m, const struct mt_store_frame *frame, const struct mt_store_python_line *line)
{
    if (!reserve((void **)&m->out_frames, &m->frame_capacity, m->frame_count + 1, sizeof(*m->out_frames)) ||
        !reserve((void **)&m->lines, &m->line_capacity, m->frame_count + 1, sizeof(*m->lines)))
        return -ENOMEM;
    m->out_frames[m->frame_count] = *frame;
    m->lines[m->frame_count] = line ? *line : (struct mt_store_python_line){0};
    return (int)m->frame_count++;
}

/* A file is a module to the database. Frames name it by its place behind the native modules. */
static int file_of(struct merger *m, const char *name)
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

static int python_frame(struct merger *m, const struct mt_store_frame *f)
{
    static char unknown_file[] = "[unknown]", unknown_name[] = "[python]";
    static struct code unknown = {.filename = unknown_file, .qualname = unknown_name};
    const struct tables *t = &m->target->tables;
    struct code *code = f->module < t->code_count ? &t->codes[f->module] : &unknown;
    int64_t line = 0;
    uint64_t hash, key;
    struct slot *slot;
    int at, file;

    if (f->offset != MT_FRAME_NO_INSTRUCTION)
        line = python_code_line(code, f->offset);
    if (line <= 0)
        line = code->first_line;
    hash = mt_hash_combine(mt_hash_bytes(code->qualname, strlen(code->qualname)), (uint64_t)line);
    key = mt_hash_combine(hash, mt_hash_bytes(code->filename, strlen(code->filename)));
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

static int merged_frame(struct merger *m, uint32_t frame)
{
    const struct mt_store_frame *f = &m->target->tables.frames[frame];
    int at;

    if (m->frame_of[frame])
        return (int)m->frame_of[frame] - 1;
    at = f->flags & MT_FRAME_PYTHON ? python_frame(m, f) : add_frame(m, f, NULL);
    if (at >= 0)
        m->frame_of[frame] = (uint32_t)at + 1;
    return at;
}

/* ---- the segment's tables, as they grow ---------------------------------------------------------------------------- */

static unsigned char kind_of(const struct tables *t, const struct mt_store_frame *f)
{
    if (f->flags & MT_FRAME_PYTHON || !(t->modules[f->module].flags & READER_MODULE_PYTHON))
        return 0;
    for (size_t i = 0; i < MT_PYTHON_LOOP_PARTS; i++)
        if (f->offset >= t->python_loop[i][0] && f->offset < t->python_loop[i][1])
            return FRAME_INTERPRETER | FRAME_LOOP;
    return FRAME_INTERPRETER;
}

/* The native modules stand in front of Python's files: where there are more of them, the files move back. */
static int take_modules(struct merger *m)
{
    const struct tables *t = &m->target->tables;
    size_t more = t->module_count - m->native_modules;

    if (!more)
        return 0;
    if (!reserve((void **)&m->modules, &m->module_capacity, m->module_count + more, sizeof(*m->modules)))
        return -ENOMEM;
    memmove(m->modules + t->module_count, m->modules + m->native_modules,
        (m->module_count - m->native_modules) * sizeof(*m->modules));
    memcpy(m->modules + m->native_modules, t->modules + m->native_modules, more * sizeof(*m->modules));
    for (size_t i = m->native_modules; i < t->module_count; i++)
        m->modules[i].flags &= ~READER_MODULE_PYTHON;
    for (size_t i = 0; i < m->frame_count; i++)
        if (m->out_frames[i].flags & MT_FRAME_PYTHON)
            m->out_frames[i].module += (uint32_t)more;
    for (size_t i = 0; m->files.slots && i <= m->files.mask; i++)
        if (m->files.slots[i].value)
            m->files.slots[i].value += (uint32_t)more;
    m->module_count += more;
    m->native_modules += more;
    return 0;
}

static int count_nodes(struct merger *m)
{
    const struct tables *t = &m->target->tables;

    if (!reserve((void **)&m->counts, &m->counts_capacity, t->node_count, sizeof(*m->counts)) ||
        !reserve((void **)&m->merged, &m->merged_capacity, t->node_count, sizeof(*m->merged)))
        return -ENOMEM;
    memset(m->merged + m->nodes_seen, 0, (t->node_count - m->nodes_seen) * sizeof(*m->merged));
    for (; m->nodes_seen < t->node_count; m->nodes_seen++) {
        uint32_t frame = t->nodes[m->nodes_seen].frame, parent = t->nodes[m->nodes_seen].parent;
        uint32_t outer = parent ? t->nodes[parent].frame : NO_FRAME;
        struct counts *c = &m->counts[m->nodes_seen];

        *c = m->nodes_seen ? m->counts[parent] : (struct counts){0};
        c->is_pass = false;
        if (m->nodes_seen == 0 || frame >= t->frame_count)
            continue;
        if (t->frames[frame].flags & MT_FRAME_PYTHON)
            c->runs += parent == 0 || t->frames[frame].flags & MT_FRAME_ENTRY;
        else
            c->is_pass = m->frame_kinds[frame] & FRAME_LOOP ||
                (m->frame_kinds[frame] & FRAME_INTERPRETER && outer < t->frame_count &&
                    m->frame_kinds[outer] & FRAME_CALLS_LOOP);
        c->passes += c->is_pass;
    }
    return 0;
}

/*
 * Is there, among the nodes counted, a pass that was not known to be one, because its caller was not yet known to call the loop? What is merged must not depend
 * on when it was.
 */
static bool is_miscounted(const struct merger *m)
{
    const struct tables *t = &m->target->tables;

    for (size_t i = 1; i < m->nodes_seen; i++) {
        uint32_t frame = t->nodes[i].frame, parent = t->nodes[i].parent, outer = parent ? t->nodes[parent].frame : NO_FRAME;

        if (frame < t->frame_count && outer < t->frame_count && !m->counts[i].is_pass && m->frame_kinds[frame] & FRAME_INTERPRETER &&
            m->frame_kinds[outer] & FRAME_CALLS_LOOP)
            return true;
    }
    return false;
}

static bool is_stale(const struct merger *m)
{
    const struct tables *t = &m->target->tables;

    return m->frames_seen && (m->interpreter_known != t->interpreter_known || memcmp(m->loop, t->python_loop, sizeof(m->loop)) != 0);
}

/* -ESTALE: what has been learnt since makes the merger begin anew. */
static int take_frames(struct merger *m)
{
    const struct tables *t = &m->target->tables;
    bool more = false;

    m->interpreter_known = t->interpreter_known;
    memcpy(m->loop, t->python_loop, sizeof(m->loop));

    if (!reserve((void **)&m->frame_kinds, &m->kinds_capacity, t->frame_count, sizeof(*m->frame_kinds)) ||
        !reserve((void **)&m->frame_of, &m->frame_of_capacity, t->frame_count, sizeof(*m->frame_of)))
        return -ENOMEM;
    for (; m->frames_seen < t->frame_count; m->frames_seen++) {
        m->frame_kinds[m->frames_seen] = kind_of(t, &t->frames[m->frames_seen]);
        m->frame_of[m->frames_seen] = 0;
    }
    for (size_t i = m->nodes_seen; i < t->node_count; i++) {
        uint32_t frame = t->nodes[i].frame, parent = t->nodes[i].parent;

        if (parent == 0 || frame >= t->frame_count || !(m->frame_kinds[frame] & FRAME_LOOP))
            continue;
        frame = t->nodes[parent].frame;
        if (frame >= t->frame_count)
            continue;
        more |= !(m->frame_kinds[frame] & FRAME_CALLS_LOOP);
        m->frame_kinds[frame] |= FRAME_CALLS_LOOP;
    }
    return more && is_miscounted(m) ? -ESTALE : count_nodes(m);
}

/* ---- one stack ---------------------------------------------------------------------------------------------------- */

static int add_child(struct merger *m, uint32_t parent, uint32_t frame, uint32_t *ret_node)
{
    uint64_t key = (uint64_t)parent << 32 | frame;
    struct slot *slot = map_slot(&m->nodes, key);

    if (!slot || !reserve((void **)&m->out_nodes, &m->node_capacity, m->node_count + 1, sizeof(*m->out_nodes)) ||
        !reserve((void **)&m->python_frames, &m->python_frame_capacity, m->node_count + 1, sizeof(*m->python_frames)))
        return -ENOMEM;
    if (!slot->value) {
        m->python_frames[m->node_count] =
            m->out_frames[frame].flags & MT_FRAME_PYTHON ? frame + 1 : m->python_frames[parent];
        m->out_nodes[m->node_count] = (struct mt_store_node){.parent = parent, .frame = frame};
        fill(&m->nodes, slot, key, m->node_count++);
    }
    *ret_node = slot->value - 1;
    return 0;
}

/*
 * The innermost frame of the stacks at a native and a Python node, which then are moved outside of it. A pass stands until its run is gone: then there
 * are more passes than runs. What does not belong into a stack comes from a target that lies, and is left out like the interpreter's own: NO_FRAME.
 */
static uint32_t step(const struct merger *m, bool has_python, uint32_t *native, uint32_t *python)
{
    const struct tables *t = &m->target->tables;
    const struct counts *c = &m->counts[*native];
    uint32_t frame;

    if (*native == 0 || (*python && c->is_pass && c->passes <= m->counts[*python].runs)) {
        frame = t->nodes[*python].frame;
        *python = t->nodes[*python].parent;
        return frame < t->frame_count && t->frames[frame].flags & MT_FRAME_PYTHON ? frame : NO_FRAME;
    }
    frame = t->nodes[*native].frame;
    *native = t->nodes[*native].parent;
    if (frame >= t->frame_count || t->frames[frame].flags & MT_FRAME_PYTHON ||
        (has_python && !m->keep_internals && m->frame_kinds[frame] & FRAME_INTERPRETER))
        return NO_FRAME;
    return frame;
}

/* The merged node of a Python stack alone. */
static int merge_python(struct merger *m, uint32_t python, uint32_t *ret_node)
{
    const struct tables *t = &m->target->tables;
    size_t depth = 0;
    uint32_t merged, node;

    for (node = python; node && !m->merged[node]; node = t->nodes[node].parent) {
        if (!reserve((void **)&m->path, &m->path_capacity, depth + 1, sizeof(*m->path)))
            return -ENOMEM;
        m->path[depth++] = node;
    }
    merged = node ? m->merged[node] - 1 : 0;
    while (depth-- > 0) {
        uint32_t frame = t->nodes[m->path[depth]].frame;
        int at, r;

        if (frame < t->frame_count && t->frames[frame].flags & MT_FRAME_PYTHON) {
            at = merged_frame(m, frame);
            r = at < 0 ? at : add_child(m, merged, (uint32_t)at, &merged);
            if (r < 0)
                return r;
        }
        m->merged[m->path[depth]] = merged + 1;
    }
    *ret_node = merged;
    return 0;
}

/* From here outwards there are Python's frames only: the native stack is at its end, or at the outermost pass. */
static bool is_python_only(const struct merger *m, uint32_t native, uint32_t python)
{
    return python && (native == 0 || (!m->keep_internals && m->target->tables.nodes[native].parent == 0 && m->counts[native].is_pass));
}

/*
 * Frame by frame outwards, until what is left is known, and back. What is passed on the way is remembered where it is long: a recursion that allocates at each depth
 * would else be walked once for each.
 */
static int merge_pair(struct merger *m, uint32_t node, uint32_t *ret_node)
{
    const struct tables *t = &m->target->tables;
    uint32_t native = node < t->node_count ? node : 0, python = 0, merged = 0, base = 0;
    struct slot *slot;
    bool has_python;
    int r = 0;

    if (t->node_count && t->nodes[native].frame & MT_NODE_PAIR) {
        python = t->nodes[native].frame & ~MT_NODE_PAIR;
        native = t->nodes[native].parent;
    }
    has_python = python != 0;
    for (m->step_count = 0; native || python; m->step_count++) {
        struct merge_step *s;

        if (!reserve((void **)&m->steps, &m->step_capacity, m->step_count + 1, sizeof(*m->steps)))
            return -ENOMEM;
        if (is_python_only(m, native, python)) {
            base = python;
            break;
        }
        s = &m->steps[m->step_count];
        /* Without Python the interpreter's frames stay, even where Python has ended on the way. */
        s->key = (uint64_t)native << 32 | python | (uint64_t)(has_python && !python) << 31;
        slot = map_slot(&m->seen, s->key);
        if (!slot)
            return -ENOMEM;
        if (slot->value) {
            merged = slot->value - 1;
            break;
        }
        s->frame = step(m, has_python, &native, &python);
    }
    if (base)
        r = merge_python(m, base, &merged);
    for (size_t i = m->step_count; i-- > 0 && r == 0;) {
        const struct merge_step *s = &m->steps[i];
        int frame = s->frame == NO_FRAME ? 0 : merged_frame(m, s->frame);

        if (frame < 0)
            return frame;
        if (s->frame != NO_FRAME)
            r = add_child(m, merged, (uint32_t)frame, &merged);
        if (r < 0 || m->step_count < DEEP)
            continue;
        slot = map_slot(&m->seen, s->key);
        if (!slot)
            return -ENOMEM;
        fill(&m->seen, slot, s->key, merged);
    }
    if (r == 0)
        *ret_node = merged;
    return r;
}

int python_merge(struct merger *m, uint32_t node, uint32_t *ret_node)
{
    uint32_t merged = 0;
    int r;

    if (node < m->nodes_seen && m->merged[node]) {
        *ret_node = m->merged[node] - 1;
        return 0;
    }
    r = merge_pair(m, node, &merged);
    if (r < 0)
        return r;
    if (node < m->nodes_seen)
        m->merged[node] = merged + 1;
    *ret_node = merged;
    return 0;
}

/* ---- all of them -------------------------------------------------------------------------------------------------- */

bool python_keeps_internals(void)
{
    const char *internals = getenv(MT_ENV_INTERNALS);

    return internals && *internals && strcmp(internals, "0") != 0;
}

static int make(struct target *target)
{
    struct merger *m = target->merger = calloc(1, sizeof(*m));

    if (!m)
        return -ENOMEM;
    target->merges++;
    m->target = target;
    m->keep_internals = python_keeps_internals();
    if (!reserve((void **)&m->out_nodes, &m->node_capacity, 1, sizeof(*m->out_nodes)) ||
        !reserve((void **)&m->python_frames, &m->python_frame_capacity, 1, sizeof(*m->python_frames))) {
        python_merger_free(m);
        target->merger = NULL;
        return -ENOMEM;
    }
    m->python_frames[0] = 0;
    m->out_nodes[m->node_count++] = (struct mt_store_node){0};
    return 0;
}

int python_merger_update(struct target *target, struct merger **ret)
{
    int r = 0;

    do {
        if (target->merger && (r == -ESTALE || is_stale(target->merger))) {
            python_merger_free(target->merger);
            target->merger = NULL;
        }
        r = target->merger ? 0 : make(target);
        if (r == 0)
            r = take_modules(target->merger);
        if (r == 0)
            r = take_frames(target->merger);
    } while (r == -ESTALE);
    if (r == 0)
        *ret = target->merger;
    return r;
}

struct mt_store_stacks python_stacks(const struct merger *m)
{
    return (struct mt_store_stacks){.modules = m->modules,
        .module_count = m->module_count,
        .frames = m->out_frames,
        .frame_count = m->frame_count,
        .nodes = m->out_nodes,
        .node_count = m->node_count,
        .python_lines = m->lines,
        .python_frames = m->python_frames};
}

void python_merger_free(struct merger *m)
{
    if (!m)
        return;
    free(m->frames.slots);
    free(m->nodes.slots);
    free(m->files.slots);
    free(m->counts);
    free(m->steps);
    free(m->seen.slots);
    free(m->frame_kinds);
    free(m->frame_of);
    free(m->modules);
    free(m->out_frames);
    free(m->lines);
    free(m->out_nodes);
    free(m->python_frames);
    free(m->merged);
    free(m->path);
    free(m);
}
