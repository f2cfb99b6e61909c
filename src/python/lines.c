/*
 * (code object, instruction) -> frame of the segment. Two tables of one make:
 *
 *   lines   by address: the instruction's, with the proof of the code object (internal.h). Read without a lock. Code that is compiled and thrown
 *           away for ever fills it with entries that nobody asks for again, so it is emptied when it is large: nothing is lost by that.
 *   frames  by content: (code of the segment, index of the code unit). Under the lock. Grows with the program's lines.
 *
 * A table that is replaced is emptied in place (its pages become zero), so a reader that still looks there finds nothing and takes the lock.
 *
 * Labels: P1 a table's pointer (release in renew, acquire in mt_python_line); P2 an entry's key is released after the rest.
 */
#include "python/internal.h"

struct entry {
    uint64_t key; /* 0: empty */
    uint64_t proof;
    uint32_t frame; /* + 1 */
    uint32_t pad;
};

struct mt_python_lines {
    uint64_t mask;
    uint64_t used;
    struct entry entries[];
};

#define FIRST_ENTRIES 4096u
#define LINES_MAX (1u << 18)
#define CODE_KEY 4u
#define UNIT_BYTES 2
#define UNITS_MAX (1u << 28)
#define NO_UNIT INT64_C(-2)

static uint64_t bytes_of(uint64_t entries)
{
    return mt_round_up(sizeof(struct mt_python_lines) + entries * sizeof(struct entry), MT_PAGE_BYTES);
}

static struct mt_python_lines *new_table(struct mt_stack *stack, uint64_t entries)
{
    uint64_t bytes = bytes_of(entries);
    struct mt_python_lines *t = mt_sys_pages(bytes);

    if (!t)
        return NULL;
    mt_sys_madvise(t, bytes, MADV_DONTFORK);
    mt_sys_madvise(t, bytes, MADV_DONTDUMP);
    mt_fetch_add_relaxed(&stack->private_bytes, bytes);
    t->mask = entries - 1;
    return t;
}

static MT_ALWAYS_INLINE uint64_t slot_of(uint64_t key)
{
    return (key * UINT64_C(0x9e3779b97f4a7c15)) >> 32;
}

/* frame + 1, or 0. */
static MT_ALWAYS_INLINE uint32_t find(const struct mt_python_lines *t, uint64_t key, uint64_t proof)
{
    for (uint64_t i = slot_of(key);; i++) {
        const struct entry *e = &t->entries[i & t->mask];
        uint64_t k = mt_load_acquire(&e->key); /* P2 */

        if (k == key && mt_load_relaxed(&e->proof) == proof)
            return mt_load_relaxed(&e->frame);
        if (k == 0)
            return 0;
    }
}

static void put(struct mt_python_lines *t, uint64_t key, uint64_t proof, uint32_t frame)
{
    uint64_t i = slot_of(key);
    struct entry *e;

    while (t->entries[i & t->mask].key)
        i++;
    e = &t->entries[i & t->mask];
    mt_store_relaxed(&e->proof, proof);
    mt_store_relaxed(&e->frame, frame);
    mt_store_release(&e->key, key); /* P2 */
    t->used++;
}

/* A table with room for one more, its entries kept unless it is at its limit. */
static int make_room(struct mt_stack *stack, struct mt_python_lines **table, uint64_t limit)
{
    struct mt_python_lines *old = *table, *t;
    uint64_t entries = old ? old->mask + 1 : FIRST_ENTRIES / 2;
    bool keep = entries * 2 <= limit;

    if (old && old->used * 8 < entries * 5)
        return 0;
    t = new_table(stack, keep ? entries * 2 : entries);
    if (!t)
        return -ENOMEM;
    for (uint64_t i = 0; old && keep && i <= old->mask; i++)
        if (old->entries[i].key)
            put(t, old->entries[i].key, old->entries[i].proof, old->entries[i].frame);
    mt_store_release(table, t); /* P1 */
    if (old) {
        mt_sys_madvise((char *)old + MT_PAGE_BYTES, bytes_of(entries) - MT_PAGE_BYTES, MADV_DONTNEED);
        stack->private_bytes -= bytes_of(entries) - MT_PAGE_BYTES;
    }
    return 0;
}

/* Where the thread's copy of the bytecode begins. */
static const char *bytecode_of(const void *code, const char *frame)
{
    const struct mt_python_offsets *o = &mt_python_here.offsets;
    const char *copies;
    int32_t index;

    if (!o->code_tlbc)
        return (const char *)code + o->code_bytecode;
    index = *(const int32_t *)(frame + o->frame_tlbc);
    copies = mt_python_pointer(code, o->code_tlbc);
    /* A thread without the interpreter's attention can see the list being replaced: out of bounds is the first copy. */
    if (!copies || index < 0 || index >= *(const int64_t *)copies)
        return (const char *)code + o->code_bytecode;
    return mt_python_pointer(copies + sizeof(int64_t), (size_t)index * sizeof(void *));
}

static int64_t unit_of(const void *code, const char *frame, const void *instruction)
{
    const char *first = bytecode_of(code, frame);
    int64_t bytes = first ? (const char *)instruction - first : NO_UNIT * UNIT_BYTES;

    /* One before the first: a frame that has not begun. */
    return bytes >= -UNIT_BYTES && bytes < (int64_t)UNITS_MAX * UNIT_BYTES ? bytes / UNIT_BYTES : NO_UNIT;
}

/*
 * The segment's code of a code object. It is asked for once for each of the code's instructions, so the answer is kept among the lines, by an address
 * that is no instruction's: inside of the code object's head.
 */
static int code_of(
    struct mt_python *python, struct mt_stack *stack, const void *code, uint64_t proof, uint32_t *ret_code)
{
    uint64_t key = (uint64_t)(uintptr_t)code + CODE_KEY;
    uint32_t found = find(python->lines, key, proof);
    int r = 0;

    if (found) {
        *ret_code = found - 1;
        return 0;
    }
    mt_python_code_is_at(code);
    r = mt_python_code_id(python, stack, code, ret_code);
    if (r == 0)
        r = make_room(stack, &python->lines, LINES_MAX);
    if (r == 0)
        put(python->lines, key, proof, *ret_code + 1);
    return r;
}

static int add(struct mt_python *python, struct mt_stack *stack, const void *code, uint64_t proof, int64_t unit, bool entry,
    uint32_t *ret)
{
    struct mt_frame frame = {0, 0, MT_FRAME_PYTHON | (entry ? MT_FRAME_ENTRY : 0)};
    uint32_t found, index = unit == NO_UNIT ? UNITS_MAX : (uint32_t)(unit + 1);
    uint64_t key;
    int r = code_of(python, stack, code, proof, &frame.module);

    if (r == 0)
        r = make_room(stack, &python->frames, UINT64_MAX);
    if (r < 0)
        return r;
    key = (uint64_t)(frame.module + 1) << 32 | (uint64_t)index << 1 | entry;
    found = find(python->frames, key, 0);
    if (!found) {
        frame.offset = unit == NO_UNIT ? MT_FRAME_NO_INSTRUCTION : unit < 0 ? 0 : (uint64_t)unit;
        r = mt_writer_add_frame(stack->writer, &frame, ret);
        if (r < 0)
            return r;
        put(python->frames, key, 0, *ret + 1);
        return 0;
    }
    *ret = found - 1;
    return 0;
}

static MT_COLD bool miss(struct mt_python *python, struct mt_stack *stack, const void *code, uint64_t key, uint64_t proof,
    int64_t unit, uint32_t *ret_frame)
{
    uint64_t signals;
    int r;

    mt_sys_signals_block(&signals);
    mt_lock_acquire(stack->lock);
    r = make_room(stack, &python->lines, LINES_MAX);
    if (r == 0)
        r = add(python, stack, code, proof, unit, key & 1, ret_frame);
    if (r == 0)
        r = make_room(stack, &python->lines, LINES_MAX);
    if (r == 0 && !find(python->lines, key, proof))
        put(python->lines, key, proof, *ret_frame + 1);
    mt_lock_release(stack->lock);
    mt_sys_signals_restore(&signals);
    if (r < 0)
        mt_writer_lost(stack->writer, MT_LOSS_PYTHON_CODE, 1);
    return r == 0;
}

bool mt_python_line(struct mt_python *python, struct mt_stack *stack, const void *code, uint64_t proof,
    const char *frame, const void *instruction, bool entry, uint32_t *ret_frame)
{
    const struct mt_python_lines *t = mt_load_acquire(&python->lines); /* P1 */
    uint64_t key = ((uint64_t)(uintptr_t)instruction & ~UINT64_C(1)) | entry;
    uint32_t found = 0;

    if (MT_UNLIKELY(key < 2))
        key = (uint64_t)(uintptr_t)code | entry;
    if (MT_LIKELY(t))
        found = find(t, key, proof);
    if (MT_UNLIKELY(!found))
        return miss(python, stack, code, key, proof, unit_of(code, frame, instruction), ret_frame);
    *ret_frame = found - 1;
    return true;
}
