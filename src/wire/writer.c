/*
 * The writer's side of a segment (see writer.h, segment.h).
 *
 * The whole file is never mapped in the target: an mlockall() there would then populate it, and the target's virtual size would
 * lie. The descriptor is not kept either, for the target may count or close descriptors. So a further window is had
 * by mremap() with an old length of 0, which maps the pages of a shared mapping a second time and may reach beyond its
 * end; the unwanted beginning is unmapped. A page of each table stays mapped for that, so that the stretch is never longer than what is in use,
 * and a program under RLIMIT_AS has its windows as long as it has room for them.
 */
#include "wire/writer.h"

#include <linux/memfd.h>
#include <string.h>
#include <sys/resource.h>

#include "base/sys.h"

#ifndef F_ADD_SEALS
#define F_ADD_SEALS 1033
#endif
#ifndef F_SEAL_SEAL
#define F_SEAL_SEAL 1
#define F_SEAL_SHRINK 2
#define F_SEAL_GROW 4
#endif

#define RING_DIR_CAPACITY 65536u
#define MODULE_CAPACITY 16384u
#define STRING_CAPACITY (16u << 20)
#define FRAME_CAPACITY (4u << 20)
#define CODE_CAPACITY (1u << 20)
#define TEXT_CAPACITY (256u << 20)
#define DATA_BYTES (UINT64_C(12) << 30)
#define SCALE_MAX 256u
#define SCALE_WHOLE 16u
#define DIR_OFFSET MT_PAGE_BYTES
#define HEAD_BYTES (MT_PAGE_BYTES + RING_DIR_CAPACITY * sizeof(uint64_t))

static uint64_t lay_out(struct mt_segment_header *h, uint64_t scale)
{
    uint64_t at = DIR_OFFSET;

    h->ring_dir_offset = at;
    h->ring_dir_capacity = RING_DIR_CAPACITY;
    at += RING_DIR_CAPACITY * sizeof(uint64_t);
    h->module_offset = at;
    h->module_capacity = MODULE_CAPACITY;
    at += MODULE_CAPACITY * sizeof(struct mt_module);
    h->string_offset = at;
    h->string_capacity = STRING_CAPACITY;
    at += STRING_CAPACITY;
    h->frame_offset = at;
    h->frame_capacity = FRAME_CAPACITY;
    at += FRAME_CAPACITY * sizeof(struct mt_frame);
    h->code_offset = at;
    h->code_capacity = CODE_CAPACITY / scale;
    at += mt_round_up(h->code_capacity * sizeof(struct mt_code), MT_PAGE_BYTES);
    h->text_offset = at;
    h->text_capacity = TEXT_CAPACITY / scale;
    at += mt_round_up(h->text_capacity, MT_PAGE_BYTES);
    h->data_offset = at;
    at += mt_round_up(DATA_BYTES / scale, MT_PAGE_BYTES);
    h->file_bytes = at;
    return at;
}

static int create_file(struct mt_segment_header *h, uint64_t least_scale, int *ret_fd)
{
    uint64_t limit = UINT64_MAX, reader_room = UINT64_MAX;
    struct rlimit rl;
    int fd, r = -EFBIG;

    if (mt_sys4(SYS_prlimit64, 0, RLIMIT_FSIZE, NULL, &rl) == 0)
        limit = rl.rlim_cur;
    /* A reader that this process starts maps the whole file, under the same hard limit. */
    if (mt_sys4(SYS_prlimit64, 0, RLIMIT_AS, NULL, &rl) == 0 && rl.rlim_max != RLIM_INFINITY)
        reader_room = rl.rlim_max / 2;
    fd = (int)mt_sys2(SYS_memfd_create, "memtrace", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return fd;
    for (uint64_t scale = least_scale; scale <= SCALE_MAX; scale *= 4) {
        uint64_t bytes = lay_out(h, scale);

        /* Beyond RLIMIT_FSIZE the call would raise SIGXFSZ: never ask. */
        if (bytes > limit || (bytes > reader_room && scale < SCALE_MAX))
            continue;
        r = (int)mt_sys2(SYS_ftruncate, fd, h->file_bytes);
        if (r == 0)
            break;
    }
    if (r == 0)
        r = (int)mt_sys3(SYS_fcntl, fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
    if (r < 0) {
        mt_sys_close(fd);
        return r;
    }
    *ret_fd = fd;
    return 0;
}

static void shield(void *p, uint64_t size_bytes)
{
    mt_sys_madvise(p, size_bytes, MADV_DONTFORK);
    mt_sys_madvise(p, size_bytes, MADV_DONTDUMP);
}

static void lift_anchors(struct mt_writer *w)
{
    for (size_t i = 1; i < MT_WRITER_ANCHORS; i++)
        if (w->anchors[i].base)
            mt_sys_unmap(w->anchors[i].base, MT_PAGE_BYTES);
}

/* Those that cannot be had are done without. */
static void make_anchors(struct mt_writer *w, int fd)
{
    const struct mt_segment_header *h = w->header;
    const uint64_t offsets[MT_WRITER_ANCHORS] = {
        0, h->module_offset, h->string_offset, h->frame_offset, h->code_offset, h->text_offset, h->data_offset};

    w->anchors[0] = (struct mt_window){(char *)w->header, 0, HEAD_BYTES};
    for (size_t i = 1; i < MT_WRITER_ANCHORS; i++) {
        char *p = (char *)mt_sys6(
            SYS_mmap, 0, MT_PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, (long)offsets[i]);

        if (mt_sys_is_error(p))
            continue;
        shield(p, MT_PAGE_BYTES);
        w->anchors[i] = (struct mt_window){p, offsets[i], MT_PAGE_BYTES};
    }
}

/*
 * Creates the file and maps its head, from which windows are stretched later, without a descriptor. Where that kind of mremap is not to be had
 * (user-mode emulators), a smaller file is mapped as a whole.
 */
static int open_file(struct mt_writer *w, struct mt_segment_header *layout, int *ret_fd)
{
    for (uint64_t scale = 1; scale <= SCALE_WHOLE; scale *= SCALE_WHOLE) {
        uint64_t bytes = HEAD_BYTES;
        char *head, *stretched;
        int fd, r;

        r = create_file(layout, scale, &fd);
        if (r < 0)
            return r;
        if (scale == SCALE_WHOLE)
            bytes = layout->file_bytes;
        head = (char *)mt_sys6(SYS_mmap, 0, (long)bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
        if (mt_sys_is_error(head)) {
            mt_sys_close(fd);
            return (int)(intptr_t)head;
        }
        stretched = scale == 1 ? (char *)mt_sys4(SYS_mremap, head, 0, MT_PAGE_BYTES, MREMAP_MAYMOVE) : NULL;
        if (mt_sys_is_error(stretched)) {
            mt_sys_unmap(head, bytes);
            mt_sys_close(fd);
            continue;
        }
        if (stretched)
            mt_sys_unmap(stretched, MT_PAGE_BYTES);
        shield(head, bytes);
        w->header = (struct mt_segment_header *)head;
        w->mapped_bytes = bytes;
        *ret_fd = fd;
        return 0;
    }
    return -ENOSYS;
}

int mt_writer_create(struct mt_writer *ret_writer, uint32_t flags, int *ret_fd)
{
    struct mt_segment_header layout;
    struct mt_module unknown;
    struct mt_writer w;
    uint32_t id;
    int fd, r;

    memset(&layout, 0, sizeof layout);
    memset(&w, 0, sizeof w);
    r = open_file(&w, &layout, &fd);
    if (r < 0)
        return r;
    w.ring_dir = (uint64_t *)((char *)w.header + DIR_OFFSET);
    *w.header = layout;
    if (w.mapped_bytes == HEAD_BYTES)
        make_anchors(&w, fd);
    w.header->version = MT_WIRE_VERSION;
    w.header->flags = flags;
    w.header->pid = mt_sys_getpid();
    w.header->parent_pid = (int32_t)mt_sys0(SYS_getppid);
    w.header->base_realtime_ns = mt_sys_clock_ns(CLOCK_REALTIME);
    w.header->base_monotonic_ns = mt_sys_clock_ns(CLOCK_MONOTONIC);
    w.header->base_stamp = flags & MT_SEGMENT_STAMP_TSC ? mt_clock_tsc_ordered() : 0;
    w.header->frame_count = 0;
    memset(&unknown, 0, sizeof unknown);
    unknown.end = UINT64_MAX;
    unknown.flags = MT_MODULE_UNKNOWN;
    r = mt_writer_add_module(&w, &unknown, "[unknown]", 9, &id);
    if (r < 0) {
        mt_writer_destroy(&w);
        mt_sys_close(fd);
        return r;
    }
    mt_store_release(&w.header->magic, MT_SEGMENT_MAGIC);
    *ret_writer = w;
    *ret_fd = fd;
    return 0;
}

static void drop_window(const struct mt_writer *writer, struct mt_window *window)
{
    if (window->base && writer->mapped_bytes == HEAD_BYTES)
        mt_sys_unmap(window->base, window->size_bytes);
    memset(window, 0, sizeof *window);
}

void mt_writer_destroy(struct mt_writer *writer)
{
    drop_window(writer, &writer->modules);
    drop_window(writer, &writer->strings);
    drop_window(writer, &writer->frames);
    drop_window(writer, &writer->codes);
    drop_window(writer, &writer->texts);
    lift_anchors(writer);
    if (writer->header)
        mt_sys_unmap(writer->header, writer->mapped_bytes);
    memset(writer, 0, sizeof *writer);
}

void *mt_writer_map(struct mt_writer *writer, uint64_t offset, uint64_t size_bytes)
{
    const struct mt_window *anchor = &writer->anchors[0];
    uint64_t skip;
    char *p;

    if (offset + size_bytes > writer->header->file_bytes)
        return NULL;
    if (offset + size_bytes <= writer->mapped_bytes && writer->mapped_bytes != HEAD_BYTES)
        return (char *)writer->header + offset;
    for (size_t i = 1; i < MT_WRITER_ANCHORS; i++)
        if (writer->anchors[i].base && writer->anchors[i].offset <= offset)
            anchor = &writer->anchors[i];
    skip = offset - anchor->offset;
    p = (char *)mt_sys4(SYS_mremap, anchor->base, 0, skip + size_bytes, MREMAP_MAYMOVE);
    if (mt_sys_is_error(p))
        return NULL;
    if (skip)
        mt_sys_unmap(p, skip);
    shield(p + skip, size_bytes);
    return p + skip;
}

/* The address of [at, at + bytes) of a table through its window, which moves on when left. Windows overlap nothing they need. */
static void *through(struct mt_writer *writer, struct mt_window *window, uint64_t window_bytes, uint64_t at, uint64_t bytes)
{
    if (!window->base || at < window->offset || at + bytes > window->offset + window->size_bytes) {
        struct mt_window next;

        next.offset = at & ~(uint64_t)(MT_PAGE_BYTES - 1);
        next.size_bytes = mt_round_up(at - next.offset + bytes, window_bytes);
        if (next.offset + next.size_bytes > writer->header->file_bytes)
            next.size_bytes = writer->header->file_bytes - next.offset;
        next.base = mt_writer_map(writer, next.offset, next.size_bytes);
        if (!next.base)
            return NULL;
        drop_window(writer, window);
        *window = next;
    }
    return window->base + (at - window->offset);
}

/* Bytes behind those that a table of bytes has; its offset in the file, how much it holds and how much is used. */
static int add_bytes(struct mt_writer *writer, struct mt_window *window, uint64_t table_offset, uint64_t capacity, uint64_t *used,
    const void *from, size_t bytes, uint64_t *ret_offset)
{
    void *p;

    if (*used + bytes > capacity)
        return -ENOSPC;
    p = through(writer, window, MT_TABLE_WINDOW_BYTES, table_offset + *used, bytes);
    if (!p)
        return -ENOMEM;
    memcpy(p, from, bytes);
    *ret_offset = *used;
    mt_store_release(used, *used + bytes);
    return 0;
}

static int add_string(struct mt_writer *writer, const char *text, size_t bytes, uint64_t *ret_offset)
{
    struct mt_segment_header *h = writer->header;

    return add_bytes(writer, &writer->strings, h->string_offset, h->string_capacity, &h->string_used, text, bytes, ret_offset);
}

int mt_writer_add_module(struct mt_writer *writer, const struct mt_module *module, const char *path, size_t path_bytes,
    uint32_t *ret_id)
{
    struct mt_segment_header *h = writer->header;
    uint32_t id = h->module_count;
    struct mt_module *slot;
    uint64_t string_offset;
    int r;

    if (id >= h->module_capacity)
        return -ENOSPC;
    r = add_string(writer, path, path_bytes, &string_offset);
    if (r < 0)
        return r;
    slot = through(
        writer, &writer->modules, MT_TABLE_WINDOW_BYTES, h->module_offset + (uint64_t)id * sizeof *slot, sizeof *slot);
    if (!slot)
        return -ENOMEM;
    *slot = *module;
    slot->string_offset = string_offset;
    slot->path_bytes = (uint32_t)path_bytes;
    mt_store_release(&h->module_count, id + 1);
    *ret_id = id;
    return 0;
}

int mt_writer_add_frame(struct mt_writer *writer, const struct mt_frame *frame, uint32_t *ret_id)
{
    struct mt_segment_header *h = writer->header;
    uint32_t id = h->frame_count;
    struct mt_frame *slot;

    if (id >= h->frame_capacity)
        return -ENOSPC;
    slot = through(
        writer, &writer->frames, MT_TABLE_WINDOW_BYTES, h->frame_offset + (uint64_t)id * sizeof *slot, sizeof *slot);
    if (!slot)
        return -ENOMEM;
    *slot = *frame;
    mt_store_release(&h->frame_count, id + 1);
    *ret_id = id;
    return 0;
}

int mt_writer_add_text(struct mt_writer *writer, const void *text, size_t bytes, uint64_t *ret_offset)
{
    struct mt_segment_header *h = writer->header;

    return add_bytes(writer, &writer->texts, h->text_offset, h->text_capacity, &h->text_used, text, bytes, ret_offset);
}

int mt_writer_add_code(struct mt_writer *writer, const struct mt_code *code, uint32_t *ret_id)
{
    struct mt_segment_header *h = writer->header;
    uint32_t id = h->code_count;
    struct mt_code *slot;

    if (id >= h->code_capacity)
        return -ENOSPC;
    slot = through(writer, &writer->codes, MT_TABLE_WINDOW_BYTES, h->code_offset + (uint64_t)id * sizeof *slot, sizeof *slot);
    if (!slot)
        return -ENOMEM;
    *slot = *code;
    mt_store_release(&h->code_count, id + 1);
    *ret_id = id;
    return 0;
}

int mt_writer_add_ring(
    struct mt_writer *writer, int32_t tid, uint64_t capacity_words, struct mt_ring **ret_ring, uint64_t **ret_words)
{
    struct mt_segment_header *h = writer->header;
    uint64_t capacity = 512, bytes, offset;
    struct mt_ring *ring;

    while (capacity < capacity_words)
        capacity *= 2;
    bytes = MT_PAGE_BYTES + capacity * sizeof(uint64_t);
    offset = h->data_offset + h->data_used;
    if (h->ring_count >= h->ring_dir_capacity || offset + bytes > h->file_bytes)
        return -ENOSPC;
    ring = mt_writer_map(writer, offset, bytes);
    if (!ring)
        return -ENOMEM;
    ring->magic = MT_RING_MAGIC;
    ring->owner_tid = tid;
    ring->capacity_words = capacity;
    ring->data_offset = offset + MT_PAGE_BYTES;
    mt_store_relaxed(&h->data_used, h->data_used + bytes);
    writer->ring_dir[h->ring_count] = offset;
    mt_store_release(&h->ring_count, h->ring_count + 1); /* R5 */
    *ret_ring = ring;
    *ret_words = (uint64_t *)((char *)ring + MT_PAGE_BYTES);
    return 0;
}
