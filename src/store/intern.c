/*
 * Modules, frames and stacks: from a process's tables to rows that exist once per database.
 *
 * intern_want()     marks the frames that the wanted stacks consist of
 * intern_resolve()  finds out which of them the database does not have and asks symbol/ what they are, a module at a time
 * intern_write()    adds modules, frames and what they mean
 * intern_stack()    adds the stacks, from the root down
 *
 * Frames of memtrace itself are left out; frames in no known module all become one frame, since an address means nothing in another run.
 */
#include "store/internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "symbol/symbol.h"
#include "wire/wire.h"

enum { DEPTH_NONE = -1, USER_NONE = 1 /* user_depths: depth + 2, or this */ };

struct line { /* what a frame means: one function, or several where some were inlined */
    char *function, *file; /* NULL: not known */
    unsigned line;
    bool runtime;
};

struct frame_work {
    bool wanted;
    bool resolved; /* lines are known: the frame is new, or was when we looked */
    int64_t frame_id;
    struct line *lines; /* innermost first */
    size_t line_count;
};

struct module_work {
    bool wanted, runtime, self;
    int64_t module_id; /* 0: not in the database when we looked */
    char identity[80];
    uint32_t *frames; /* to be resolved, with room for all */
    size_t frame_count;
};

struct intern {
    struct mt_store *store;
    const struct mt_store_stacks *stacks;
    struct module_work *modules;
    struct frame_work *frames;
    unsigned char *node_wanted;
    int64_t *node_stack; /* 0: not yet; stack ids start at 1 */
    uint32_t *path;      /* of the stack at hand */
    size_t path_capacity;
    int out_of_memory;
};

int intern_create(struct mt_store *store, const struct mt_store_stacks *stacks, struct intern **ret_intern)
{
    struct intern *n = calloc(1, sizeof(*n));

    if (!n)
        return -ENOMEM;
    n->store = store;
    n->stacks = stacks;
    n->modules = calloc(stacks->module_count + 1, sizeof(*n->modules));
    n->frames = calloc(stacks->frame_count + 1, sizeof(*n->frames));
    n->node_wanted = calloc(stacks->node_count + 1, 1);
    n->node_stack = calloc(stacks->node_count + 1, sizeof(*n->node_stack));
    if (!n->modules || !n->frames || !n->node_wanted || !n->node_stack) {
        intern_destroy(n);
        return -ENOMEM;
    }
    *ret_intern = n;
    return 0;
}

void intern_destroy(struct intern *n)
{
    if (!n)
        return;
    for (size_t i = 0; n->frames && i < n->stacks->frame_count; i++) {
        for (size_t k = 0; k < n->frames[i].line_count; k++) {
            free(n->frames[i].lines[k].function);
            free(n->frames[i].lines[k].file);
        }
        free(n->frames[i].lines);
    }
    for (size_t i = 0; n->modules && i < n->stacks->module_count; i++)
        free(n->modules[i].frames);
    free(n->modules);
    free(n->frames);
    free(n->node_wanted);
    free(n->node_stack);
    free(n->path);
    free(n);
}

static void identify(const struct mt_store_module *module, struct module_work *work)
{
    size_t n = module->build_id_bytes < 32 ? module->build_id_bytes : 32;

    work->wanted = true;
    work->runtime = runtime_module(module->path, module->flags);
    work->self = (module->flags & MT_MODULE_SELF) != 0;
    for (size_t i = 0; i < n; i++)
        snprintf(work->identity + 2 * i, sizeof(work->identity) - 2 * i, "%02x", module->build_id[i]);
}

static const char *identity_of(const struct intern *n, uint32_t module)
{
    return n->modules[module].identity[0] ? n->modules[module].identity : n->stacks->modules[module].path;
}

static uint64_t offset_of(const struct intern *n, uint32_t frame)
{
    const struct mt_store_frame *f = &n->stacks->frames[frame];

    /* bit 0 keeps the pseudo frame of a cut stack apart */
    if (n->stacks->modules[f->module].flags & MT_MODULE_UNKNOWN)
        return f->flags & MT_FRAME_CUT ? 1 : 0;
    return f->offset;
}

int intern_want(struct intern *n, uint32_t node)
{
    const struct mt_store_stacks *s = n->stacks;

    for (; node != 0 && node < s->node_count && !n->node_wanted[node]; node = s->nodes[node].parent) {
        uint32_t frame = s->nodes[node].frame;
        n->node_wanted[node] = 1;
        if (frame >= s->frame_count || s->frames[frame].module >= s->module_count || s->nodes[node].parent >= node)
            return -EINVAL;
        n->frames[frame].wanted = true;
        if (!n->modules[s->frames[frame].module].wanted)
            identify(&s->modules[s->frames[frame].module], &n->modules[s->frames[frame].module]);
    }
    return 0;
}

/* ---- resolving ---------------------------------------------------------------------------------------------------- */

static int add_line(struct frame_work *f, const char *function, const char *file, unsigned line, bool runtime)
{
    struct line *lines = reallocarray(f->lines, f->line_count + 1, sizeof(*lines));
    struct line *l;

    if (!lines)
        return -ENOMEM;
    f->lines = lines;
    l = &lines[f->line_count++];
    *l = (struct line){.line = line, .runtime = runtime || runtime_function(function, file)};
    if (function && !(l->function = strdup(function)))
        return -ENOMEM;
    if (file && !(l->file = strdup(file)))
        return -ENOMEM;
    return 0;
}

/* A Python frame says itself what it means. */
static int add_python_line(struct intern *n, uint32_t frame)
{
    const struct mt_store_python_line *line = n->stacks->python_lines ? &n->stacks->python_lines[frame] : NULL;
    struct frame_work *to = &n->frames[frame];
    int r = add_line(to, line ? line->function : NULL, n->stacks->modules[n->stacks->frames[frame].module].path,
        line ? line->line : 0, false);

    if (r == 0)
        to->lines[0].runtime = false;
    return r;
}

struct resolving {
    struct intern *intern;
    const struct module_work *module;
};

static void on_symbol(size_t index, const struct mt_symbol *chain, size_t count, void *argument)
{
    struct resolving *at = argument;
    struct frame_work *f = &at->intern->frames[at->module->frames[index]];

    for (size_t i = 0; i < count; i++) {
        if (add_line(f, chain[i].function, chain[i].file, chain[i].line, at->module->runtime) < 0)
            at->intern->out_of_memory = 1;
    }
}

static int resolve_module(struct intern *n, uint32_t module)
{
    const struct mt_store_module *m = &n->stacks->modules[module];
    struct module_work *work = &n->modules[module];
    struct resolving at = {n, work};
    uint64_t *offsets;
    int r;

    if (work->frame_count == 0)
        return 0;
    offsets = calloc(work->frame_count, sizeof(*offsets));
    if (!offsets)
        return -ENOMEM;
    for (size_t i = 0; i < work->frame_count; i++)
        offsets[i] = offset_of(n, work->frames[i]);
    r = mt_symbol_resolve(m->path, m->build_id, m->build_id_bytes, offsets, work->frame_count, on_symbol, &at);
    free(offsets);
    return r == -ENOMEM || n->out_of_memory ? -ENOMEM : 0; /* anything else: no names */
}

/* The frame is not in the database: it is to be resolved with the others of its module. */
static int queue_frame(struct intern *n, uint32_t frame)
{
    const struct mt_store_frame *f = &n->stacks->frames[frame];
    struct module_work *work = &n->modules[f->module];
    struct frame_work *to = &n->frames[frame];
    uint32_t *bigger;

    to->resolved = true;
    if (f->flags & MT_FRAME_PYTHON)
        return add_python_line(n, frame);
    if (f->flags & MT_FRAME_CUT)
        return add_line(to, "[cut]", NULL, 0, true);
    if (n->stacks->modules[f->module].flags & MT_MODULE_UNKNOWN)
        return add_line(to, "[unknown]", NULL, 0, true);
    if ((work->frame_count & (work->frame_count + 1)) == 0) { /* 0, 1, 3, 7 ...: full */
        bigger = reallocarray(work->frames, 2 * work->frame_count + 1, sizeof(*bigger));
        if (!bigger)
            return -ENOMEM;
        work->frames = bigger;
    }
    work->frames[work->frame_count++] = frame;
    return 0;
}

static int find_frame(struct intern *n, uint32_t frame)
{
    const struct module_work *work = &n->modules[n->stacks->frames[frame].module];
    uint64_t offset = offset_of(n, frame);
    int64_t id;
    int r = 0;

    if (!work->module_id)
        return 0;
    id = id_map_get(&n->store->frames, (uint64_t)work->module_id, offset);
    if (!id)
        r = store_find(n->store, &id, S_FRAME_FIND, "iu", work->module_id, offset);
    n->frames[frame].frame_id = id;
    return r;
}

int intern_resolve(struct intern *n)
{
    int r = 0;

    for (size_t i = 0; i < n->stacks->module_count && r == 0; i++) {
        if (n->modules[i].wanted && !n->modules[i].self)
            r = store_find(n->store, &n->modules[i].module_id, S_MODULE_FIND, "t", identity_of(n, (uint32_t)i));
    }
    for (size_t i = 0; i < n->stacks->frame_count && r == 0; i++) {
        if (!n->frames[i].wanted || n->modules[n->stacks->frames[i].module].self)
            continue;
        r = find_frame(n, (uint32_t)i);
        if (r == 0 && !n->frames[i].frame_id)
            r = queue_frame(n, (uint32_t)i);
    }
    for (size_t i = 0; i < n->stacks->module_count && r == 0; i++)
        r = resolve_module(n, (uint32_t)i);
    return r;
}

/* ---- writing ------------------------------------------------------------------------------------------------------ */

static int write_module(struct intern *n, uint32_t module)
{
    const char *path = n->stacks->modules[module].path;
    const char *slash = strrchr(path, '/');
    struct module_work *work = &n->modules[module];
    int r = 0;

    if (!work->module_id)
        r = store_find(n->store, &work->module_id, S_MODULE_FIND, "t", identity_of(n, module));
    if (r < 0 || work->module_id)
        return r;
    r = store_run(n->store, S_MODULE_ADD, "ttt", identity_of(n, module), path, slash && slash[1] ? slash + 1 : path);
    work->module_id = sqlite3_last_insert_rowid(n->store->db);
    return r;
}

static int symbol_id_of(struct mt_store *store, const struct line *l, int64_t *ret_id)
{
    uint64_t h = mt_hash_combine(l->function ? mt_hash_bytes(l->function, strlen(l->function)) : 1,
        l->file ? mt_hash_bytes(l->file, strlen(l->file)) : 2);
    int64_t hash = (int64_t)(h & INT64_MAX);
    int r;

    *ret_id = 0;
    if (!l->function && !l->file)
        return 0;
    r = store_find(store, ret_id, S_SYMBOL_FIND, "itt", hash, l->function, l->file);
    if (r < 0 || *ret_id)
        return r;
    r = store_run(store, S_SYMBOL_ADD, "itt", hash, l->function, l->file);
    *ret_id = sqlite3_last_insert_rowid(store->db);
    return r;
}

static int write_lines(struct intern *n, const struct frame_work *f, bool runtime)
{
    const struct line nothing = {.runtime = runtime};
    int user = DEPTH_NONE, r = 0;

    for (size_t i = 0; i < (f->line_count ? f->line_count : 1) && r == 0; i++) {
        const struct line *l = f->line_count ? &f->lines[i] : &nothing;
        int64_t symbol_id = 0;
        r = symbol_id_of(n->store, l, &symbol_id);
        if (r == 0)
            r = store_run(n->store, S_LINE_ADD, "iniin", f->frame_id, (int)i, symbol_id, (int64_t)l->line, (int)l->runtime);
        if (user == DEPTH_NONE && !l->runtime)
            user = (int)i;
    }
    if (r == 0)
        r = id_map_put(&n->store->user_depths, (uint64_t)f->frame_id, 0, user == DEPTH_NONE ? USER_NONE : user + 2);
    return r;
}

static int write_frame(struct intern *n, uint32_t frame)
{
    struct frame_work *f = &n->frames[frame];
    const struct module_work *work = &n->modules[n->stacks->frames[frame].module];
    int r = 0;

    if (!f->frame_id) {
        r = find_frame(n, frame);
        if (r == 0 && !f->frame_id) {
            r = store_run(n->store, S_FRAME_ADD, "iu", work->module_id, offset_of(n, frame));
            f->frame_id = sqlite3_last_insert_rowid(n->store->db);
            if (r == 0)
                r = write_lines(n, f, work->runtime);
        }
    }
    if (r == 0)
        r = id_map_put(&n->store->frames, (uint64_t)work->module_id, offset_of(n, frame), f->frame_id);
    return r;
}

int intern_write(struct intern *n)
{
    int r = 0;

    for (size_t i = 0; i < n->stacks->module_count && r == 0; i++) {
        if (n->modules[i].wanted && !n->modules[i].self)
            r = write_module(n, (uint32_t)i);
    }
    for (size_t i = 0; i < n->stacks->frame_count && r == 0; i++) {
        if (n->frames[i].wanted && !n->modules[n->stacks->frames[i].module].self)
            r = write_frame(n, (uint32_t)i);
    }
    return r;
}

static int child_of(struct mt_store *store, int64_t parent_id, int64_t frame_id, int64_t *ret_id)
{
    int64_t id = id_map_get(&store->stacks, (uint64_t)parent_id, (uint64_t)frame_id);
    int r = 0;

    if (!id) {
        r = store_find(store, &id, S_STACK_FIND, "ii", parent_id, frame_id);
        if (r == 0 && !id) {
            r = store_run(store, S_STACK_ADD, "ii", parent_id, frame_id);
            id = sqlite3_last_insert_rowid(store->db);
        }
        if (r == 0)
            r = id_map_put(&store->stacks, (uint64_t)parent_id, (uint64_t)frame_id, id);
    }
    *ret_id = id;
    return r;
}

static bool is_self(const struct intern *n, uint32_t node)
{
    return n->modules[n->stacks->frames[n->stacks->nodes[node].frame].module].self;
}

int intern_stack(struct intern *n, uint32_t node, int64_t *ret_stack_id)
{
    const struct mt_store_node *nodes = n->stacks->nodes;
    size_t depth = 0;
    int64_t id = 0;

    if (node >= n->stacks->node_count)
        return -EINVAL;
    for (; node != 0 && !n->node_stack[node]; node = nodes[node].parent) {
        if (depth == n->path_capacity) {
            size_t capacity = depth ? depth * 2 : 256;
            uint32_t *path = reallocarray(n->path, capacity, sizeof(*path));
            if (!path)
                return -ENOMEM;
            n->path = path;
            n->path_capacity = capacity;
        }
        n->path[depth++] = node;
    }
    if (node != 0)
        id = n->node_stack[node];
    while (depth > 0) {
        node = n->path[--depth];
        if (!is_self(n, node)) {
            int r = child_of(n->store, id, n->frames[nodes[node].frame].frame_id, &id);
            if (r < 0)
                return r;
        }
        n->node_stack[node] = id;
    }
    *ret_stack_id = id;
    return 0;
}

/* Depth of the innermost function of a frame that may be responsible, or DEPTH_NONE. */
static int user_depth(struct mt_store *store, int64_t frame_id, int *ret_depth)
{
    int64_t known = id_map_get(&store->user_depths, (uint64_t)frame_id, 0);

    if (!known) {
        int64_t depth = 0, any = 0;
        int r = store_find(store, &depth, S_FRAME_USER_DEPTH, "i", frame_id);
        if (r == 0)
            r = store_find(store, &any, S_FRAME_HAS_USER, "i", frame_id);
        if (r < 0)
            return r;
        known = any ? depth + 2 : USER_NONE;
        r = id_map_put(&store->user_depths, (uint64_t)frame_id, 0, known);
        if (r < 0)
            return r;
    }
    *ret_depth = (int)known - 2; /* USER_NONE - 2 = DEPTH_NONE */
    return 0;
}

int intern_responsible(struct intern *n, uint32_t node, int64_t *ret_frame_id, int *ret_depth)
{
    int64_t innermost = 0;

    /* The innermost Python frame, where there is one. */
    if (n->stacks->python_frames && n->stacks->python_frames[node]) {
        *ret_frame_id = n->frames[n->stacks->python_frames[node] - 1].frame_id;
        *ret_depth = 0;
        return 0;
    }
    for (; node != 0; node = n->stacks->nodes[node].parent) {
        int64_t frame_id = n->frames[n->stacks->nodes[node].frame].frame_id;
        int depth, r;

        if (is_self(n, node))
            continue;
        r = user_depth(n->store, frame_id, &depth);
        if (r < 0)
            return r;
        if (depth != DEPTH_NONE) {
            *ret_frame_id = frame_id;
            *ret_depth = depth;
            return 0;
        }
        if (!innermost)
            innermost = frame_id;
    }
    *ret_frame_id = innermost;
    *ret_depth = 0;
    return 0;
}
