/*
 * Modules and frames: from a process's tables to rows that exist once per database.
 *
 * intern_take()     takes in what is new of the tables (memory.c)
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

#include "wire/wire.h"

enum { PSEUDO_UNKNOWN, PSEUDO_CUT, PSEUDO_OTHER }; /* offsets in the module of no file */
static const char pseudo_module[] = "[unknown]";

static const char *identity_of(const struct mt_store_intern *n, uint32_t module)
{
    return n->modules[module].identity[0] ? n->modules[module].identity : n->stacks->modules[module].path;
}

static uint64_t offset_of(const struct mt_store_intern *n, uint32_t frame)
{
    const struct mt_store_frame *f = &n->stacks->frames[frame];

    if (n->stacks->modules[f->module].flags & MT_MODULE_UNKNOWN)
        return f->flags & MT_FRAME_CUT ? PSEUDO_CUT : PSEUDO_UNKNOWN;
    return f->offset;
}

/* ---- what is there ------------------------------------------------------------------------------------------------ */

static void find_frame(struct mt_store_intern *n, uint32_t frame)
{
    const struct module_work *work = &n->modules[n->stacks->frames[frame].module];

    if (work->module_id)
        n->frames[frame].frame_id = id_map_get(&n->store->ids.frames, (uint64_t)work->module_id, offset_of(n, frame));
}

static int known_user(const struct mt_store_intern *n, int64_t frame_id)
{
    return (int)id_map_get(&n->store->ids.users, (uint64_t)frame_id, 0) - 2; /* 1: none */
}

/* Has anyone else added to what we know? */
static bool is_behind(const struct mt_store_intern *n)
{
    const struct ids *ids = &n->store->ids;

    return n->last_frame != ids->last_frame || n->last_stack != ids->last_stack || n->last_site != ids->last_site;
}

/* What others have written, in a transaction that is left open: one look for all of it. */
static int begin_look(struct mt_store_intern *n, bool *ret_own)
{
    int r = 0;

    *ret_own = sqlite3_get_autocommit(n->store->db) != 0;
    if (*ret_own)
        r = store_exec(n->store, "BEGIN");
    return r == 0 ? ids_learn(n->store) : r;
}

static void end_look(struct mt_store_intern *n, bool own)
{
    if (own && !sqlite3_get_autocommit(n->store->db))
        store_exec(n->store, "COMMIT");
}

int mt_store_intern_is_behind(struct mt_store_intern *n, bool *ret)
{
    bool own;
    int r = begin_look(n, &own);

    if (r == 0)
        *ret = n->generation != n->store->ids.generation || is_behind(n);
    end_look(n, own);
    return r;
}

static int find_modules(struct mt_store_intern *n)
{
    bool own;
    int r = begin_look(n, &own);

    if (r == 0 && !n->ahead && is_behind(n))
        n->frames_known = n->nodes_known = 0;
    for (size_t i = 0; i < n->module_count && r == 0; i++) {
        struct module_work *work = &n->modules[i];
        if (!work->self && !work->module_id && (!work->looked_for || !n->frames_known))
            r = store_find(n->store, &work->module_id, S_MODULE_FIND, "t", identity_of(n, (uint32_t)i));
        work->looked_for = true;
    }
    end_look(n, own);
    return r;
}

int intern_known(struct mt_store_intern *n)
{
    const struct mt_store_stacks *s = n->stacks;
    int r = find_modules(n);

    for (; n->frames_known < s->frame_count && r == 0; n->frames_known++) {
        struct frame_work *f = &n->frames[n->frames_known];
        const struct mt_store_frame *from = &s->frames[n->frames_known];
        const struct module_work *work = &n->modules[from->module];
        if (f->frame_id)
            continue;
        if (!f->queued || f->asked)
            f->user = work->runtime || (from->flags & MT_FRAME_CUT) ? USER_NONE : USER_UNKNOWN;
        if (work->self)
            continue;
        find_frame(n, (uint32_t)n->frames_known);
        if (f->frame_id)
            f->user = known_user(n, f->frame_id);
        if (from->flags & MT_FRAME_PYTHON)
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
static int add_python_line(struct mt_store_intern *n, uint32_t frame)
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
    struct mt_store_intern *intern;
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
    f->asked = false;
    f->user = f->line_count || runtime ? USER_NONE : 0;
    for (size_t i = f->line_count; i > 0; i--) {
        if (!f->lines[i - 1].runtime)
            f->user = (int)i - 1;
    }
}

/* ---- open modules: putting the symbols of one in order takes longer than many answers ----------------------------------- */

void store_close_symbols(struct mt_store *store)
{
    for (unsigned i = 0; i < KEPT_SYMBOLS; i++) {
        mt_symbol_close(store->kept_symbols[i].module);
        store->kept_symbols[i].module = NULL;
    }
}

static struct kept_symbols *find_kept(struct mt_store *store, const struct module_work *work)
{
    for (unsigned i = 0; i < KEPT_SYMBOLS; i++) {
        struct kept_symbols *k = &store->kept_symbols[i];
        if (!k->module || k->names_only != work->runtime || strcmp(k->identity, work->identity) != 0)
            continue;
        if (mt_symbol_is_current(k->module))
            return k;
        mt_symbol_close(k->module);
        k->module = NULL;
    }
    return NULL;
}

static void keep(struct mt_store *store, const struct module_work *work, struct mt_symbol_module *module)
{
    struct kept_symbols *k = &store->kept_symbols[store->kept_next++ % KEPT_SYMBOLS];

    mt_symbol_close(k->module);
    *k = (struct kept_symbols){.names_only = work->runtime, .module = module};
    memcpy(k->identity, work->identity, sizeof(k->identity));
}

/* One that has much in it, or no identity, is open until the next such one, or to the end of the call. */
static int open_module(struct mt_store_intern *n, struct module_work *work, const struct mt_store_module *m, struct mt_symbol_module **ret)
{
    struct kept_symbols *kept = work->identity[0] ? find_kept(n->store, work) : NULL;
    /* Lines inside of the C library and the like help nobody, and its debug data takes longer to unpack than all the rest. */
    enum mt_symbol_depth depth = work->runtime ? MT_SYMBOL_NAMES : MT_SYMBOL_ALL;
    struct mt_symbol_module *module;
    int r;

    if (kept || n->open_of == work) {
        *ret = kept ? kept->module : n->open;
        return 0;
    }
    r = mt_symbol_open(m->path, m->build_id, m->build_id_bytes, depth, &module);
    if (r < 0)
        return r;
    work->heavy = work->heavy || !mt_symbol_is_light(module);
    if (work->heavy || !work->identity[0]) {
        intern_close_module(n);
        n->open = module;
        n->open_of = work;
    } else {
        keep(n->store, work, module);
    }
    *ret = module;
    return 0;
}

/* That there are very many names is known only when they have been read. */
static void look_again(struct mt_store_intern *n, struct module_work *work, struct mt_symbol_module *module)
{
    if (mt_symbol_is_light(module))
        return;
    work->heavy = true;
    for (unsigned i = 0; i < KEPT_SYMBOLS; i++) {
        if (n->store->kept_symbols[i].module != module)
            continue;
        mt_symbol_close(module);
        n->store->kept_symbols[i].module = NULL;
    }
}

static int resolve_module(struct mt_store_intern *n, uint32_t module)
{
    const struct mt_store_module *m = &n->stacks->modules[module];
    struct module_work *work = &n->modules[module];
    struct mt_symbol_module *symbols = NULL;
    struct resolving at = {n, work};
    uint64_t *offsets;
    int r;

    if (work->frame_count == 0 || (n->ahead && work->heavy))
        return 0;
    r = open_module(n, work, m, &symbols);
    if (r == 0 && n->ahead && work->heavy)
        return 0;
    offsets = calloc(work->frame_count, sizeof(*offsets));
    if (!offsets)
        return -ENOMEM;
    for (size_t i = 0; i < work->frame_count; i++)
        offsets[i] = offset_of(n, work->frames[i]);
    if (r == 0) {
        r = mt_symbol_find(symbols, offsets, work->frame_count, on_symbol, &at);
        look_again(n, work, symbols);
    }
    free(offsets);
    for (size_t i = 0; i < work->frame_count; i++)
        settle(&n->frames[work->frames[i]], work->runtime);
    work->frame_count = 0;
    return r == -ENOMEM || n->out_of_memory ? -ENOMEM : 0; /* anything else: no names */
}

int intern_want_frame(struct mt_store_intern *n, uint32_t frame)
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
    if (work->frame_count == work->frame_capacity) {
        bigger = reallocarray(work->frames, 2 * work->frame_count + 1, sizeof(*bigger));
        if (!bigger) {
            n->out_of_memory = true;
            return -ENOMEM;
        }
        work->frames = bigger;
        work->frame_capacity = 2 * work->frame_count + 1;
    }
    to->asked = true;
    work->frames[work->frame_count++] = frame;
    return 0;
}

void intern_want_one(struct mt_store_intern *n, uint32_t frame)
{
    if (!n->frames[frame].wanted)
        n->wanted[n->wanted_count++] = frame; /* each once */
    n->frames[frame].wanted = true;
}

void intern_want(struct mt_store_intern *n, uint32_t node)
{
    for (; node != 0 && !n->node_wanted[node]; node = n->stacks->nodes[node].parent) {
        n->node_wanted[node] = 1;
        intern_want_one(n, n->stacks->nodes[node].frame);
    }
}

int intern_resolve(struct mt_store_intern *n)
{
    int r = 0;

    for (; n->wanted_queued < n->wanted_count && r == 0; n->wanted_queued++)
        r = intern_want_frame(n, n->wanted[n->wanted_queued]);
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
            r = ids_add_row(store, PENDING_LINE, (int64_t[]){f->frame_id, (int64_t)i, symbol_id, l->line, l->runtime});
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
    r = ids_add_row(store, PENDING_FRAME, (int64_t[]){f->frame_id, module_id, offset > INT64_MAX ? INT64_MAX : (int64_t)offset});
    if (r == 0)
        r = write_lines(store, f, runtime);
    if (r == 0)
        r = id_map_put(&ids->frames, (uint64_t)module_id, offset, f->frame_id);
    if (r == 0)
        r = id_map_put(&ids->users, (uint64_t)f->frame_id, 0, f->user + 2);
    return r;
}

/* Another writer may have been first with any of them: ids_learn() was called in this transaction. */
static int write_frame(struct mt_store_intern *n, uint32_t frame)
{
    const struct mt_store_stacks *s = n->stacks;
    struct frame_work *f = &n->frames[frame];
    uint32_t module = s->frames[frame].module;
    struct module_work *work = &n->modules[module];
    int r = 0;

    if (work->self || f->frame_id)
        return 0;
    if (!work->wanted)
        r = module_id_of(n->store, identity_of(n, module), s->modules[module].path, &work->module_id);
    work->wanted = true;
    if (r == 0)
        find_frame(n, frame);
    if (r == 0 && !f->frame_id)
        r = add_frame(n->store, work->module_id, offset_of(n, frame), f, work->runtime);
    if (r == 0)
        intern_free_lines(f);
    return r;
}

static int by_number(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    return (x > y) - (x < y);
}

/* In the order in which the process came to them: what belongs together is together in the file. */
int intern_write(struct mt_store_intern *n)
{
    size_t left = 0;
    int r = 0;

    if (n->wanted_count)
        qsort(n->wanted, n->wanted_count, sizeof(*n->wanted), by_number);
    for (size_t i = 0; i < n->wanted_count && r == 0; i++) {
        if (n->frames[n->wanted[i]].asked)
            n->wanted[left++] = n->wanted[i]; /* ahead of the end, of a heavy module */
        else
            r = write_frame(n, n->wanted[i]);
    }
    if (r == 0)
        n->wanted_count = n->wanted_queued = left;
    return r;
}

int intern_other_frame(struct mt_store_intern *n, int64_t *ret_frame_id)
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
