/*
 * The work of turning a process's nodes into stacks of the database (memory.c, intern.c, stack.c, site.c), and its memory, so that a process that is
 * written more than once, or a little at a time, costs what is new only.
 *
 * What it remembers of the database holds as long as ids.c does: a failure empties both (`generation`). What others add meanwhile is
 * seen at the next call that is not one of those ahead of the end.
 */
#ifndef MT_STORE_INTERN_H
#define MT_STORE_INTERN_H

#include "store/internal.h"
#include "symbol/symbol.h"

struct line { /* what a frame means: one function, or several where some were inlined */
    char *function, *file; /* NULL: not known */
    unsigned line;
    bool runtime;
};

enum { USER_UNKNOWN = -2, USER_NONE = -1 };

struct frame_work {
    bool wanted; /* is to be in the database */
    bool queued; /* symbol/ was asked, or need not be, or is going to be */
    bool asked;  /* is still to be */
    int user;    /* depth of its innermost function that may be responsible; USER_NONE; USER_UNKNOWN until it is looked up */
    int64_t frame_id; /* 0: not in the database when we looked */
    struct line *lines; /* innermost first; until they are written */
    size_t line_count;
};

struct module_work {
    const char *path; /* tells modules apart, as a pointer: they may move when others are put in front */
    bool wanted, runtime, self;
    bool looked_for;
    bool heavy; /* too much to read in it for a call ahead of the end */
    int64_t module_id; /* 0: not in the database when we looked */
    char identity[80];
    uint32_t *frames; /* to be looked up */
    size_t frame_count, frame_capacity;
};

struct mt_store_intern {
    struct mt_store *store;
    const struct mt_store_stacks *stacks; /* of the call at hand */
    unsigned generation; /* of ids */
    int64_t last_frame, last_stack, last_site; /* of ids, as of the end of the last call */
    size_t module_count, frame_count, node_count;
    size_t frame_capacity, node_capacity;
    size_t frames_known, nodes_known; /* up to there the database has been asked */
    struct module_work *modules;
    struct frame_work *frames;
    uint32_t *wanted;    /* frames, in the order in which they were: to be written */
    size_t wanted_count, wanted_queued; /* up to there symbol/ was asked */
    unsigned char *node_wanted;
    int64_t *node_stack;  /* whole; 0: not known. Stack ids start at 1 */
    int64_t *node_folded; /* down to the responsible frame and [other callers] */
    uint32_t *path;       /* of the stack at hand */
    size_t path_capacity;
    int64_t other_frame_id; /* of [other callers]; 0: not looked for */
    struct mt_symbol_module *open; /* of open_of: the last one that is not kept by the store; until the end of the call */
    const struct module_work *open_of;
    bool ahead;     /* of the end: heavy modules are not asked */
    bool postponed; /* a frame is in one of those */
    bool out_of_memory;
};

/* memory.c. Begins a call: takes in what is new of the tables. -EINVAL: they do not hold together. */
int intern_take(struct mt_store_intern *intern, const struct mt_store_stacks *stacks);
void intern_leave(struct mt_store_intern *intern);
void intern_free_lines(struct frame_work *frame);
void intern_close_module(struct mt_store_intern *intern);

/* intern.c */
/* Finds the ids that are in the database; no more than reads, as the next two. */
int intern_known(struct mt_store_intern *intern);
void intern_want(struct mt_store_intern *intern, uint32_t node); /* all of its frames */
void intern_want_one(struct mt_store_intern *intern, uint32_t frame);
int intern_want_frame(struct mt_store_intern *intern, uint32_t frame);
int intern_resolve(struct mt_store_intern *intern); /* of those wanted what the database does not have: slow, best without a transaction */
int intern_write(struct mt_store_intern *intern);
int intern_other_frame(struct mt_store_intern *intern, int64_t *ret_frame_id);
static inline bool intern_is_self(const struct mt_store_intern *n, uint32_t node)
{
    return n->modules[n->stacks->frames[n->stacks->nodes[node].frame].module].self;
}

/* stack.c */
/* Fills node_stack of the nodes whose whole stack is in the database. */
int stack_known(struct mt_store_intern *intern);
/* The responsible node: the innermost Python frame's; without Python the innermost one whose frame may be, else the innermost one; 0: the stack is empty. *ret_unknown is
 * set, and the answer means nothing, where a frame has to be looked up first: it and the next `ahead` are wanted then. */
int stack_responsible(struct mt_store_intern *intern, uint32_t node, unsigned ahead, uint32_t *ret_node, bool *ret_unknown);
/* Whether there are callers behind the responsible node. */
bool stack_has_callers(const struct mt_store_intern *intern, uint32_t node);
int stack_write(struct mt_store_intern *intern, uint32_t node, int64_t *ret_stack_id);
int stack_write_folded(struct mt_store_intern *intern, uint32_t node, uint32_t responsible, int64_t *ret_stack_id);

#endif
