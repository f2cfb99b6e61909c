/*
 * A segment as a target hands it over: checked once, in full, against the size of a file that can no longer change its
 * size. From then on only the copy in struct layout is used, and counts are compared with its capacities whenever they are read.
 */
#include "reader/state.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static bool table_fits(uint64_t offset, uint64_t capacity, uint64_t item_bytes, uint64_t file_bytes)
{
    return offset >= MT_PAGE_BYTES && offset % 8 == 0 && offset <= file_bytes &&
        capacity <= (file_bytes - offset) / item_bytes;
}

int layout_check(const struct mt_segment_header *h, uint64_t file_bytes, struct layout *ret)
{
    struct layout l;

    if (mt_load_acquire(&h->magic) != MT_SEGMENT_MAGIC)
        return -EBADMSG;
    if (h->version != MT_WIRE_VERSION)
        return -EPROTO;
    l = (struct layout){.file_bytes = file_bytes,
        .base_stamp = h->base_stamp,
        .base_monotonic_ns = h->base_monotonic_ns,
        .ring_dir_offset = h->ring_dir_offset,
        .ring_dir_capacity = h->ring_dir_capacity,
        .module_offset = h->module_offset,
        .module_capacity = h->module_capacity,
        .string_offset = h->string_offset,
        .string_capacity = h->string_capacity,
        .frame_offset = h->frame_offset,
        .frame_capacity = h->frame_capacity,
        .code_offset = h->code_offset,
        .code_capacity = h->code_capacity,
        .text_offset = h->text_offset,
        .text_capacity = h->text_capacity,
        .flags = h->flags,
        .pid = h->pid,
        .parent_pid = h->parent_pid};
    if (h->file_bytes != file_bytes ||
        !table_fits(l.ring_dir_offset, l.ring_dir_capacity, sizeof(uint64_t), file_bytes) ||
        !table_fits(l.module_offset, l.module_capacity, sizeof(struct mt_module), file_bytes) ||
        !table_fits(l.string_offset, l.string_capacity, 1, file_bytes) ||
        !table_fits(l.frame_offset, l.frame_capacity, sizeof(struct mt_frame), file_bytes) ||
        !table_fits(l.code_offset, l.code_capacity, sizeof(struct mt_code), file_bytes) ||
        !table_fits(l.text_offset, l.text_capacity, 1, file_bytes))
        return -EBADMSG;
    *ret = l;
    return 0;
}

int attach_segment(struct target *target, int fd)
{
    struct stat st;
    void *map;
    int seals = fcntl(fd, F_GET_SEALS), err;

    /* Without these seals the file could shrink under the mapping: SIGBUS. */
    if (seals < 0 || (seals & (F_SEAL_SHRINK | F_SEAL_GROW)) != (F_SEAL_SHRINK | F_SEAL_GROW))
        return -EPERM;
    if (fstat(fd, &st) < 0)
        return -errno;
    if (st.st_size < (off_t)MT_PAGE_BYTES)
        return -EBADMSG;
    map = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
    if (map == MAP_FAILED)
        return -errno;
    err = layout_check(map, (uint64_t)st.st_size, &target->layout);
    if (err < 0) {
        munmap(map, (size_t)st.st_size);
        return err;
    }
    target->header = map;
    target->segment_fd = fd;
    return 0;
}

void detach_segment(struct target *target)
{
    for (size_t i = 0; i < target->ring_count; i++) {
        free(target->rings[i]->buffer);
        for (unsigned k = 0; k < RING_STACKS; k++)
            stacks_finish(&target->rings[i]->stacks[k]);
        free(target->rings[i]->inner);
        free(target->rings[i]);
    }
    free(target->rings);
    target->rings = NULL;
    target->ring_count = 0;
    if (target->header)
        munmap(target->header, target->layout.file_bytes);
    target->header = NULL;
    if (target->segment_fd >= 0)
        close(target->segment_fd);
    target->segment_fd = -1;
}

static struct ring *ring_make(struct target *target, uint64_t offset)
{
    const struct layout *layout = &target->layout;
    struct ring *ring = calloc(1, sizeof(*ring));
    struct mt_ring *shared;
    uint64_t data_offset;

    if (!ring)
        return NULL;
    ring->bad = true;
    if (offset % MT_PAGE_BYTES || offset < MT_PAGE_BYTES || offset > layout->file_bytes - MT_PAGE_BYTES)
        return ring;
    shared = (struct mt_ring *)((char *)target->header + offset);
    ring->capacity = shared->capacity_words;
    data_offset = shared->data_offset;
    if (shared->magic != MT_RING_MAGIC || data_offset != offset + MT_PAGE_BYTES || ring->capacity < 8 ||
        (ring->capacity & (ring->capacity - 1)) || ring->capacity > (layout->file_bytes - data_offset) / sizeof(uint64_t))
        return ring;
    ring->thread = mt_live_thread(target->live);
    ring->shared = shared;
    ring->words = (const uint64_t *)((char *)target->header + data_offset);
    ring->tail = mt_load_relaxed(&shared->tail);
    ring->limit = ring->tail;
    ring->bad = ring->thread == UINT32_MAX;
    return ring;
}

size_t attach_rings(struct target *target)
{
    uint64_t count = mt_load_acquire(&target->header->ring_count); /* R5 */
    const uint64_t *dir = (const uint64_t *)((char *)target->header + target->layout.ring_dir_offset);

    if (count > target->layout.ring_dir_capacity)
        count = target->layout.ring_dir_capacity;
    while (target->ring_count < count) {
        size_t n = target->ring_count;
        struct ring **rings = target->rings;

        if ((n & (n - 1)) == 0) { /* a power of two, or none: time to double */
            rings = reallocarray(rings, n ? n * 2 : 1, sizeof(*rings));
            if (!rings)
                break;
            target->rings = rings;
        }
        rings[n] = ring_make(target, mt_load_relaxed(&dir[n]));
        if (!rings[n])
            break;
        target->lost_decode += rings[n]->bad;
        target->ring_count++;
    }
    return target->ring_count;
}
