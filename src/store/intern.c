/*
 * Modules and frames: from a process's tables to rows that exist once per database.
 *
 * intern_known()    finds those that the database has
 * intern_want()     marks the frames that the wanted stacks consist of
 * intern_resolve()  asks symbol/ what the others are, a module at a time
 * intern_write()    adds modules, frames and what they mean
 *
 * Frames of memtrace itself are left out; frames in no known module all become one frame, since an address means nothing in another run.
 */
#include "store/intern.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "symbol/symbol.h"
#include "wire/wire.h"

enum { PSEUDO_UNKNOWN, PSEUDO_CUT, PSEUDO_OTHER }; /* offsets in the module of no file */
static const char pseudo_module[] = "[unknown]";

/* parent < node: no cycles, and a pass from 0 on meets callers first */
static bool holds_together(const struct mt_store_stacks *s)
{
    for (size_t i = 1; i < s->node_count; i++) {
        if (s->nodes[i].parent >= i || s->nodes[i].frame >= s->frame_count)
            return false;
    }
    for (size_t i = 0; i < s->frame_count; i++) {
        if (s->frames[i].module >= s->module_count)
            return false;
    }
    return true;
}

static void identify(const struct mt_store_module *module, struct module_work *work)
{
    size_t n = module->build_id_bytes < 32 ? module->build_id_bytes : 32;

    work->runtime = runtime_module(module->path, module->flags);
    work->self = (module->flags & MT_MODULE_SELF) != 0;
    for (size_t i = 0; i < n; i++)
        snprintf(work->identity + 2 * i, sizeof(work->identity) - 2 * i, "%02x", module->build_id[i]);
}

int intern_create(struct mt_store *store, const struct mt_store_stacks *stacks, struct intern **ret_intern)
{
    struct intern *n;

    if (!holds_together(stacks))
        return -EINVAL;
    n = calloc(1, sizeof(*n));
    if (!n)
        return -ENOMEM;
    n->store = store;
    n->stacks = stacks;
    n->modules = calloc(stacks->module_count + 1, sizeof(*n->modules));
    n->frames = calloc(stacks->frame_count + 1, sizeof(*n->frames));
    n->node_wanted = calloc(stacks->node_count + 1, 1);
    n->node_stack = calloc(stacks->node_count + 1, sizeof(*n->node_stack));
    n->node_folded = calloc(stacks->node_count + 1, sizeof(*n->node_folded));
    if (!n->modules || !n->frames || !n->node_wanted || !n->node_stack || !n->node_folded) {
        intern_destroy(n);
        return -ENOMEM;
    }
    for (size_t i = 0; i < stacks->module_count; i++)
        identify(&stacks->modules[i], &n->modules[i]);
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
    free(n->node_folded);
    free(n->path);
    free(n);
}

static const char *identity_of(const struct intern *n, uint32_t module)
{
    return n->modules[module].identity[0] ? n->modules[module].identity : n->stacks->modules[module].path;
}

static uint64_t offset_of(const struct intern *n, uint32_t frame)
{
    const struct mt_store_frame *f = &n->stacks->frames[frame];

    if (n->stacks->modules[f->module].flags & MT_MODULE_UNKNOWN)
        return f->flags & MT_FRAME_CUT ? PSEUDO_CUT : PSEUDO_UNKNOWN;
    return f->offset;
}

/* ---- what is there ------------------------------------------------------------------------------------------------ */

static void find_frame(struct intern *n, uint32_t frame)
{
    const struct module_work *work = &n->modules[n->stacks->frames[frame].module];

    if (work->module_id)
        n->frames[frame].frame_id = id_map_get(&n->store->ids.frames, (uint64_t)work->module_id, offset_of(n, frame));
}

static int known_user(const struct intern *n, int64_t frame_id)
{
    return (int)id_map_get(&n->store->ids.users, (uint64_t)frame_id, 0) - 2; /* 1: none */
}

static int find_modules(struct intern *n)
{
    bool own = sqlite3_get_autocommit(n->store->db) != 0;
    int r = own ? store_exec(n->store, "BEGIN") : 0; /* one look for all of it */

    if (r == 0)
        r = ids_learn(n->store);
    for (size_t i = 0; i < n->stacks->module_count && r == 0; i++) {
        if (!n->modules[i].self)
            r = store_find(n->store, &n->modules[i].module_id, S_MODULE_FIND, "t", identity_of(n, (uint32_t)i));
    }
    if (own && !sqlite3_get_autocommit(n->store->db))
        store_exec(n->store, "COMMIT");
    return r;
}

int intern_known(struct intern *n)
{
    const struct mt_store_stacks *s = n->stacks;
    int r = find_modules(n);

    for (size_t i = 0; i < s->frame_count && r == 0; i++) {
        struct frame_work *f = &n->frames[i];
        const struct module_work *work = &n->modules[s->frames[i].module];
        f->user = work->runtime || (s->frames[i].flags & MT_FRAME_CUT) ? USER_NONE : USER_UNKNOWN;
        if (work->self)
            continue;
        find_frame(n, (uint32_t)i);
        if (f->frame_id)
            f->user = known_user(n, f->frame_id);
        if (s->frames[i].flags & MT_FRAME_PYTHON)
            f->user = 0;
    }
    return r;
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
            at->intern->out_of_memory = true;
    }
}

static void settle(struct frame_work *f, bool runtime)
{
    f->user = f->line_count || runtime ? USER_NONE : 0;
    for (size_t i = f->line_count; i > 0; i--) {
        if (!f->lines[i - 1].runtime)
            f->user = (int)i - 1;
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
    /* Lines inside of the C library and the like help nobody, and its debug data takes longer to unpack than all the rest. */
    r = mt_symbol_resolve(m->path, m->build_id, m->build_id_bytes, work->runtime ? MT_SYMBOL_NAMES : MT_SYMBOL_ALL, offsets,
        work->frame_count, on_symbol, &at);
    free(offsets);
    for (size_t i = 0; i < work->frame_count; i++)
        settle(&n->frames[work->frames[i]], work->runtime);
    work->frame_count = 0;
    return r == -ENOMEM || n->out_of_memory ? -ENOMEM : 0; /* anything else: no names */
}

int intern_want_frame(struct intern *n, uint32_t frame)
{
    const struct mt_store_frame *f = &n->stacks->frames[frame];
    struct module_work *work = &n->modules[f->module];
    struct frame_work *to = &n->frames[frame];
    uint32_t *bigger;

    if (to->queued || to->frame_id || work->self)
        return 0;
    to->queued = true;
    if (f->flags & MT_FRAME_PYTHON)
        return add_python_line(n, frame);
    if (n->stacks->modules[f->module].flags & MT_MODULE_UNKNOWN)
        return add_line(to, f->flags & MT_FRAME_CUT ? "[cut]" : "[unknown]", NULL, 0, true);
    if (f->flags & MT_FRAME_CUT)
        return add_line(to, "[cut]", NULL, 0, true);
    if ((work->frame_count & (work->frame_count + 1)) == 0) { /* 0, 1, 3, 7 ...: full */
        bigger = reallocarray(work->frames, 2 * work->frame_count + 1, sizeof(*bigger));
        if (!bigger)
            return -ENOMEM;
        work->frames = bigger;
    }
    work->frames[work->frame_count++] = frame;
    return 0;
}

void intern_want(struct intern *n, uint32_t node)
{
    for (; node != 0 && !n->node_wanted[node]; node = n->stacks->nodes[node].parent) {
        n->node_wanted[node] = 1;
        n->frames[n->stacks->nodes[node].frame].wanted = true;
    }
}

int intern_resolve(struct intern *n)
{
    int r = 0;

    for (size_t i = 0; i < n->stacks->frame_count && r == 0; i++) {
        if (n->frames[i].wanted)
            r = intern_want_frame(n, (uint32_t)i);
    }
    for (size_t i = 0; i < n->stacks->module_count && r == 0; i++)
        r = resolve_module(n, (uint32_t)i);
    return r;
}

/* ---- writing ------------------------------------------------------------------------------------------------------ */

static int module_id_of(struct mt_store *store, const char *identity, const char *path, int64_t *ret_id)
{
    const char *slash = strrchr(path, '/');
    int r = store_find(store, ret_id, S_MODULE_FIND, "t", identity);

    if (r < 0 || *ret_id)
        return r;
    r = store_run(store, S_MODULE_ADD, "ttt", identity, path, slash && slash[1] ? slash + 1 : path);
    *ret_id = sqlite3_last_insert_rowid(store->db);
    return r;
}

static int write_lines(struct mt_store *store, const struct frame_work *f, bool runtime)
{
    const struct line nothing = {.runtime = runtime};
    int r = 0;

    for (size_t i = 0; i < (f->line_count ? f->line_count : 1) && r == 0; i++) {
        const struct line *l = f->line_count ? &f->lines[i] : &nothing;
        int64_t symbol_id = 0;
        r = ids_symbol(store, l->function, l->file, &symbol_id);
        if (r == 0)
            r = store_run(store, S_LINE_ADD, "iniin", f->frame_id, (int)i, symbol_id, (int64_t)l->line, (int)l->runtime);
    }
    return r;
}

static int add_frame(struct mt_store *store, int64_t module_id, uint64_t offset, struct frame_work *f, bool runtime)
{
    struct ids *ids = &store->ids;
    int r;

    if (ids->last_frame == INT64_MAX)
        return -EFBIG;
    f->frame_id = ++ids->last_frame;
    r = store_run(store, S_FRAME_ADD, "iiu", f->frame_id, module_id, offset);
    if (r == 0)
        r = write_lines(store, f, runtime);
    if (r == 0)
        r = id_map_put(&ids->frames, (uint64_t)module_id, offset, f->frame_id);
    if (r == 0)
        r = id_map_put(&ids->users, (uint64_t)f->frame_id, 0, f->user + 2);
    return r;
}

/* Another writer may have been first with any of them: ids_learn() was called in this transaction. */
int intern_write(struct intern *n)
{
    const struct mt_store_stacks *s = n->stacks;
    int r = 0;

    for (size_t i = 0; i < s->frame_count && r == 0; i++) {
        struct frame_work *f = &n->frames[i];
        struct module_work *work = &n->modules[s->frames[i].module];
        if (!f->wanted || work->self || f->frame_id)
            continue;
        if (!work->wanted)
            r = module_id_of(n->store, identity_of(n, s->frames[i].module), s->modules[s->frames[i].module].path, &work->module_id);
        work->wanted = true;
        if (r == 0)
            find_frame(n, (uint32_t)i);
        if (r == 0 && !f->frame_id)
            r = add_frame(n->store, work->module_id, offset_of(n, (uint32_t)i), f, work->runtime);
    }
    return r;
}

int intern_other_frame(struct intern *n, int64_t *ret_frame_id)
{
    struct line line = {.function = (char *)"[other callers]", .runtime = true};
    struct frame_work f = {.lines = &line, .line_count = 1, .user = USER_NONE};
    int64_t module_id;
    int r = 0;

    if (!n->other_frame_id) {
        r = module_id_of(n->store, pseudo_module, pseudo_module, &module_id);
        if (r == 0)
            f.frame_id = id_map_get(&n->store->ids.frames, (uint64_t)module_id, PSEUDO_OTHER);
        if (r == 0 && !f.frame_id)
            r = add_frame(n->store, module_id, PSEUDO_OTHER, &f, true);
        if (r == 0)
            n->other_frame_id = f.frame_id;
    }
    *ret_frame_id = n->other_frame_id;
    return r;
}
