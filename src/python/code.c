/*
 * Code objects -> the segment's table of codes, by content: programs compile the same templates again and again, and the interpreter gives their
 * code objects new addresses or old ones as it likes. Contents are known by a hash of 64 bits.
 *
 * All of it under the stack's lock, with the code object alive: it is that of a frame of the calling thread.
 */
#include <string.h>

#include "python/internal.h"

struct known { /* a code, or a name's or a line table's place among the texts */
    uint64_t hash; /* 0: empty */
    uint64_t value;
};

struct mt_python_codes {
    uint64_t mask;
    uint64_t used;
    struct known entries[];
};

#define FIRST_ENTRIES 4096u

struct text {
    char bytes[MT_CODE_NAME_MAX_BYTES];
    uint32_t count;
};

static uint64_t bytes_of(uint64_t entries)
{
    return mt_round_up(sizeof(struct mt_python_codes) + entries * sizeof(struct known), MT_PAGE_BYTES);
}

static struct known *slot_of(struct mt_python_codes *t, uint64_t hash)
{
    uint64_t i = hash;

    while (t->entries[i & t->mask].hash && t->entries[i & t->mask].hash != hash)
        i++;
    return &t->entries[i & t->mask];
}

static int make_room(struct mt_python *python, struct mt_stack *stack)
{
    struct mt_python_codes *old = python->codes, *t;
    uint64_t entries = old ? (old->mask + 1) * 2 : FIRST_ENTRIES;

    if (old && old->used * 8 < (old->mask + 1) * 5)
        return 0;
    t = mt_sys_pages(bytes_of(entries));
    if (!t)
        return -ENOMEM;
    mt_sys_madvise(t, bytes_of(entries), MADV_DONTFORK);
    mt_sys_madvise(t, bytes_of(entries), MADV_DONTDUMP);
    mt_fetch_add_relaxed(&stack->private_bytes, bytes_of(entries));
    t->mask = entries - 1;
    for (uint64_t i = 0; old && i <= old->mask; i++)
        if (old->entries[i].hash) {
            *slot_of(t, old->entries[i].hash) = old->entries[i];
            t->used++;
        }
    python->codes = t;
    if (old) {
        stack->private_bytes -= bytes_of(old->mask + 1);
        mt_sys_unmap(old, bytes_of(old->mask + 1));
    }
    return 0;
}

/* ---- names ------------------------------------------------------------------------------------------------------ */

static void put_utf8(struct text *t, uint32_t c)
{
    char *to = t->bytes + t->count;

    if (c >= 0xd800 && c < 0xe000) /* half of a pair, from a name that is no text */
        c = 0xfffd;
    if (c < 0x80) {
        to[0] = (char)c;
        t->count += 1;
    } else if (c < 0x800) {
        to[0] = (char)(0xc0 | c >> 6);
        to[1] = (char)(0x80 | (c & 0x3f));
        t->count += 2;
    } else if (c < 0x10000) {
        to[0] = (char)(0xe0 | c >> 12);
        to[1] = (char)(0x80 | (c >> 6 & 0x3f));
        to[2] = (char)(0x80 | (c & 0x3f));
        t->count += 3;
    } else {
        to[0] = (char)(0xf0 | (c >> 18 & 7));
        to[1] = (char)(0x80 | (c >> 12 & 0x3f));
        to[2] = (char)(0x80 | (c >> 6 & 0x3f));
        to[3] = (char)(0x80 | (c & 0x3f));
        t->count += 4;
    }
}

/* A str as UTF-8. What is not a compact string (there are none among names) is left empty. */
static void read_string(const char *string, struct text *ret)
{
    const struct mt_python_offsets *o = &mt_python_here.offsets;
    uint32_t state, kind;
    const char *data;
    int64_t length;

    ret->count = 0;
    if (!string)
        return;
    length = *(const int64_t *)(string + o->string_length);
    state = *(const uint32_t *)(string + o->string_state);
    kind = (state & o->string_kind_mask) >> o->string_kind_shift;
    if (length < 0 || !(state & o->string_is_compact))
        return;
    data = string + (state & o->string_is_ascii ? o->string_ascii : o->string_compact);
    for (int64_t i = 0; i < length && ret->count + 4 <= sizeof ret->bytes; i++) {
        if (kind == 1)
            put_utf8(ret, (unsigned char)data[i]);
        else if (kind == 2)
            put_utf8(ret, ((const uint16_t *)data)[i]);
        else if (kind == 4)
            put_utf8(ret, ((const uint32_t *)data)[i]);
        else
            return;
    }
}

/* ---- codes ------------------------------------------------------------------------------------------------------ */

/* Eight bytes at a time: line tables are long. */
static uint64_t hash_of(const char *bytes, size_t count, uint64_t seed)
{
    uint64_t h = mt_hash_combine(seed, count), word;

    for (; count >= sizeof word; count -= sizeof word, bytes += sizeof word) {
        memcpy(&word, bytes, sizeof word);
        h = (h ^ word) * UINT64_C(0x9e3779b97f4a7c15);
        h ^= h >> 29;
    }
    word = 0;
    memcpy(&word, bytes, count);
    h = mt_hash_combine(h, word);
    return h ? h : 1;
}

/* The offset of a text, which is added if new. */
static int text_offset(
    struct mt_python *python, struct mt_stack *stack, const char *bytes, size_t count, uint64_t hash, uint64_t *ret)
{
    struct known *k;
    int r = make_room(python, stack);

    if (r < 0)
        return r;
    k = slot_of(python->codes, hash);
    if (!k->hash) {
        r = mt_writer_add_text(stack->writer, bytes, count, &k->value);
        if (r < 0)
            return r;
        k->hash = hash;
        python->codes->used++;
    }
    *ret = k->value;
    return 0;
}

int mt_python_code_id(struct mt_python *python, struct mt_stack *stack, const void *code, uint32_t *ret_id)
{
    static struct text filename, qualname; /* under the lock; too large for a small stack */
    const struct mt_python_offsets *o = &mt_python_here.offsets;
    const char *lines = mt_python_pointer(code, o->code_lines);
    int64_t line_bytes = lines ? *(const int64_t *)(lines + o->bytes_size) : 0;
    struct mt_code record = {.first_line = *(const int32_t *)((const char *)code + o->code_first_line)};
    uint64_t file_hash, name_hash, lines_hash, hash;
    struct known *k;
    uint32_t id;
    int r;

    if (line_bytes < 0 || line_bytes > MT_CODE_LINES_MAX_BYTES)
        line_bytes = 0;
    if (lines)
        lines += o->bytes_data;
    read_string(mt_python_pointer(code, o->code_filename), &filename);
    read_string(mt_python_pointer(code, o->code_qualname), &qualname);
    file_hash = hash_of(filename.bytes, filename.count, 1);
    name_hash = hash_of(qualname.bytes, qualname.count, 2);
    lines_hash = hash_of(lines, (size_t)line_bytes, 3);
    hash = mt_hash_combine(mt_hash_combine(mt_hash_combine(file_hash, name_hash), lines_hash), (uint64_t)record.first_line);
    hash += !hash;
    r = make_room(python, stack);
    if (r < 0)
        return r;
    k = slot_of(python->codes, hash);
    if (k->hash) {
        *ret_id = (uint32_t)k->value;
        return 0;
    }
    record.filename_bytes = filename.count;
    record.qualname_bytes = qualname.count;
    record.lines_bytes = (uint32_t)line_bytes;
    r = text_offset(python, stack, filename.bytes, filename.count, file_hash, &record.filename_offset);
    if (r == 0)
        r = text_offset(python, stack, qualname.bytes, qualname.count, name_hash, &record.qualname_offset);
    if (r == 0)
        r = text_offset(python, stack, lines, (size_t)line_bytes, lines_hash, &record.lines_offset);
    if (r == 0)
        r = make_room(python, stack);
    if (r == 0)
        r = mt_writer_add_code(stack->writer, &record, &id);
    if (r < 0)
        return r;
    *slot_of(python->codes, hash) = (struct known){hash, id};
    python->codes->used++;
    *ret_id = id;
    return 0;
}
