/*
 * What is remembered of a process's tables from one call to the next, as they grow (intern.h).
 */
#include "store/intern.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "wire/wire.h"

/* parent < node: no cycles, and a pass from 0 on meets callers first. What was there before has been looked at. */
static bool holds_together(const struct mt_store_intern *n, const struct mt_store_stacks *s)
{
    for (size_t i = n->node_count ? n->node_count : 1; i < s->node_count; i++) {
        if (s->nodes[i].parent >= i || s->nodes[i].frame >= s->frame_count)
            return false;
    }
    for (size_t i = n->frame_count; i < s->frame_count; i++) {
        if (s->frames[i].module >= s->module_count)
            return false;
    }
    return true;
}

static void identify(const struct mt_store_module *module, struct module_work *work)
{
    size_t n = module->build_id_bytes < 32 ? module->build_id_bytes : 32;

    work->path = module->path;
    work->runtime = runtime_module(module->path, module->flags);
    work->self = (module->flags & MT_MODULE_SELF) != 0;
    for (size_t i = 0; i < n; i++)
        snprintf(work->identity + 2 * i, sizeof(work->identity) - 2 * i, "%02x", module->build_id[i]);
}

void intern_free_lines(struct frame_work *f)
{
    for (size_t k = 0; k < f->line_count; k++) {
        free(f->lines[k].function);
        free(f->lines[k].file);
    }
    free(f->lines);
    f->lines = NULL;
    f->line_count = 0;
}

static void free_module(struct module_work *work)
{
    free(work->frames);
}

/* Forgets all but its room. */
static void clear(struct mt_store_intern *n)
{
    for (size_t i = 0; i < n->frame_count; i++)
        intern_free_lines(&n->frames[i]);
    for (size_t i = 0; i < n->module_count; i++)
        free_module(&n->modules[i]);
    n->module_count = n->frame_count = n->node_count = n->frames_known = n->nodes_known = 0;
    n->wanted_count = n->wanted_queued = 0;
    n->other_frame_id = 0;
    n->out_of_memory = false;
}

int mt_store_intern_create(struct mt_store *store, struct mt_store_intern **ret_intern)
{
    struct mt_store_intern *n = calloc(1, sizeof(*n));

    if (!n)
        return -ENOMEM;
    n->store = store;
    n->generation = store->ids.generation;
    *ret_intern = n;
    return 0;
}

void mt_store_intern_destroy(struct mt_store_intern *n)
{
    if (!n)
        return;
    clear(n);
    free(n->modules);
    free(n->frames);
    free(n->wanted);
    free(n->node_wanted);
    free(n->node_stack);
    free(n->node_folded);
    free(n->path);
    free(n);
}

static bool grow(void **items, size_t capacity, size_t item_bytes)
{
    void *bigger = reallocarray(*items, capacity, item_bytes);

    if (!bigger)
        return false;
    *items = bigger;
    return true;
}

static int make_room(struct mt_store_intern *n, size_t frames, size_t nodes)
{
    if (frames > n->frame_capacity) {
        size_t capacity = frames + n->frame_capacity / 2;
        if (!grow((void **)&n->frames, capacity, sizeof(*n->frames)) || !grow((void **)&n->wanted, capacity, sizeof(*n->wanted)))
            return -ENOMEM;
        n->frame_capacity = capacity;
    }
    if (nodes > n->node_capacity) {
        size_t capacity = nodes + n->node_capacity / 2;
        if (!grow((void **)&n->node_wanted, capacity, sizeof(*n->node_wanted)) ||
            !grow((void **)&n->node_stack, capacity, sizeof(*n->node_stack)) ||
            !grow((void **)&n->node_folded, capacity, sizeof(*n->node_folded)))
            return -ENOMEM;
        n->node_capacity = capacity;
    }
    return 0;
}

/* Modules that are new may stand between those that are not, which keep their order. -ESTALE: that is not so. */
static int take_modules(struct mt_store_intern *n, const struct mt_store_stacks *s)
{
    struct module_work *modules;
    size_t old = 0;

    if (s->module_count == n->module_count)
        return 0;
    modules = calloc(s->module_count + 1, sizeof(*modules));
    if (!modules)
        return -ENOMEM;
    for (size_t i = 0; i < s->module_count; i++) {
        if (old < n->module_count && n->modules[old].path == s->modules[i].path) {
            modules[i] = n->modules[old++];
        } else {
            identify(&s->modules[i], &modules[i]);
        }
    }
    if (old < n->module_count) {
        free(modules);
        return -ESTALE;
    }
    free(n->modules);
    n->modules = modules;
    n->module_count = s->module_count;
    return 0;
}

int intern_take(struct mt_store_intern *n, const struct mt_store_stacks *s)
{
    int r;

    if (n->generation != n->store->ids.generation || n->out_of_memory || s->module_count < n->module_count ||
        s->frame_count < n->frame_count || s->node_count < n->node_count)
        clear(n);
    n->generation = n->store->ids.generation;
    if (!holds_together(n, s))
        return -EINVAL;
    r = make_room(n, s->frame_count + 1, s->node_count + 1);
    if (r == 0)
        r = take_modules(n, s);
    if (r == -ESTALE) {
        clear(n);
        return intern_take(n, s);
    }
    if (r < 0)
        return r;
    memset(n->frames + n->frame_count, 0, (s->frame_count - n->frame_count) * sizeof(*n->frames));
    memset(n->node_wanted + n->node_count, 0, s->node_count - n->node_count);
    memset(n->node_stack + n->node_count, 0, (s->node_count - n->node_count) * sizeof(*n->node_stack));
    memset(n->node_folded + n->node_count, 0, (s->node_count - n->node_count) * sizeof(*n->node_folded));
    n->frame_count = s->frame_count;
    n->node_count = s->node_count;
    n->stacks = s;
    n->postponed = false;
    return 0;
}

void intern_close_module(struct mt_store_intern *n)
{
    mt_symbol_close(n->open);
    n->open = NULL;
    n->open_of = NULL;
}

void intern_leave(struct mt_store_intern *n)
{
    const struct ids *ids = &n->store->ids;

    intern_close_module(n);
    n->stacks = NULL;
    n->last_frame = ids->last_frame;
    n->last_stack = ids->last_stack;
    n->last_site = ids->last_site;
}
