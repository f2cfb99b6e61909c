/*
 * One call's work of turning a process's nodes into stacks of the database (intern.c, stack.c, site.c).
 */
#ifndef MT_STORE_INTERN_H
#define MT_STORE_INTERN_H

#include "store/internal.h"

struct line { /* what a frame means: one function, or several where some were inlined */
    char *function, *file; /* NULL: not known */
    unsigned line;
    bool runtime;
};

enum { USER_UNKNOWN = -2, USER_NONE = -1 };

struct frame_work {
    bool wanted; /* is to be in the database */
    bool queued; /* symbol/ was asked, or need not be */
    int user;    /* depth of its innermost function that may be responsible; USER_NONE; USER_UNKNOWN until it is looked up */
    int64_t frame_id; /* 0: not in the database when we looked */
    struct line *lines; /* innermost first */
    size_t line_count;
};

struct module_work {
    bool wanted, runtime, self;
    int64_t module_id; /* 0: not in the database when we looked */
    char identity[80];
    uint32_t *frames; /* to be looked up */
    size_t frame_count;
};

struct intern {
    struct mt_store *store;
    const struct mt_store_stacks *stacks;
    struct module_work *modules;
    struct frame_work *frames;
    unsigned char *node_wanted;
    int64_t *node_stack;  /* whole; 0: not known. Stack ids start at 1 */
    int64_t *node_folded; /* down to the responsible frame and [other callers] */
    uint32_t *path;       /* of the stack at hand */
    size_t path_capacity;
    int64_t other_frame_id; /* of [other callers]; 0: not looked for */
    bool out_of_memory;
};

/* intern.c. -EINVAL: the tables do not hold together. */
int intern_create(struct mt_store *store, const struct mt_store_stacks *stacks, struct intern **ret_intern);
void intern_destroy(struct intern *intern);
/* Finds the ids that are in the database; no more than reads, as the next two. */
int intern_known(struct intern *intern);
void intern_want(struct intern *intern, uint32_t node); /* all of its frames */
int intern_want_frame(struct intern *intern, uint32_t frame);
int intern_resolve(struct intern *intern); /* of those wanted what the database does not have: slow, best without a transaction */
int intern_write(struct intern *intern);
int intern_other_frame(struct intern *intern, int64_t *ret_frame_id);
static inline bool intern_is_self(const struct intern *n, uint32_t node)
{
    return n->modules[n->stacks->frames[n->stacks->nodes[node].frame].module].self;
}

/* stack.c */
/* Fills node_stack of the nodes whose whole stack is in the database. */
int stack_known(struct intern *intern);
/* The responsible node: the innermost Python frame's; without Python the innermost one whose frame may be, else the innermost one; 0: the stack is empty. *ret_unknown is
 * set, and the answer means nothing, where a frame has to be looked up first: it and the next `ahead` are wanted then. */
int stack_responsible(struct intern *intern, uint32_t node, unsigned ahead, uint32_t *ret_node, bool *ret_unknown);
/* Whether there are callers behind the responsible node. */
bool stack_has_callers(const struct intern *intern, uint32_t node);
int stack_write(struct intern *intern, uint32_t node, int64_t *ret_stack_id);
int stack_write_folded(struct intern *intern, uint32_t node, uint32_t responsible, int64_t *ret_stack_id);

#endif
