/*
 * The writer's side of a segment: creation, windows, and the append-only tables. Used by the library and by tests that play a
 * target. Raw system calls only; no libc state, no allocation other than mmap.
 *
 * Thread rules: appends are made by one thread at a time (the caller's lock) unless said otherwise.
 */
#ifndef MT_WIRE_WRITER_H
#define MT_WIRE_WRITER_H

#include <stdbool.h>
#include <stddef.h>

#include "wire/wire.h"

/* One mapped part of a table: entries [first, first + count). Older parts are unmapped: the writer never reads them. */
struct mt_window {
    char *base;
    uint64_t offset; /* in the file */
    uint64_t size_bytes;
};

#define MT_WRITER_ANCHORS 7u

struct mt_writer {
    struct mt_segment_header *header;
    uint64_t *ring_dir; /* first MT_WRITER_DIR_BYTES of the directory, mapped with the header */
    struct mt_window modules, strings, frames, codes, texts;
    uint64_t mapped_bytes; /* at header: the head, or, where windows cannot be stretched, all of the file */
    struct mt_window anchors[MT_WRITER_ANCHORS]; /* where further windows are stretched from, by offset: the head, a page of each table */
};

/*
 * Creates a sealed memfd with the tables laid out and the header filled in (pid, clocks, module 0); maps the header. Shrinks the file
 * to fit RLIMIT_FSIZE and RLIMIT_AS. *ret_fd is the memfd (close-on-exec): pass it to the reader and close it.
 * flags: enum mt_segment_flags. Returns 0 or -errno.
 */
int mt_writer_create(struct mt_writer *ret_writer, uint32_t flags, int *ret_fd);

/* Unmaps what is mapped of the tables (rings stay the caller's). */
void mt_writer_destroy(struct mt_writer *writer);

/* Maps [offset, offset + size) of the file without a descriptor. NULL if the kernel refuses. */
void *mt_writer_map(struct mt_writer *writer, uint64_t offset, uint64_t size_bytes);

/* Appends; the id is in *ret_id, or -errno (-ENOSPC: table full). */
int mt_writer_add_module(struct mt_writer *writer, const struct mt_module *module, const char *path, size_t path_bytes,
    uint32_t *ret_id);
int mt_writer_add_frame(struct mt_writer *writer, const struct mt_frame *frame, uint32_t *ret_id);

/* Bytes for a code's names and line table. */
int mt_writer_add_text(struct mt_writer *writer, const void *text, size_t bytes, uint64_t *ret_offset);
int mt_writer_add_code(struct mt_writer *writer, const struct mt_code *code, uint32_t *ret_id);

/* Creates a ring owned by tid, with capacity rounded up to a power of two words; mapped, in the directory, counted. */
int mt_writer_add_ring(
    struct mt_writer *writer, int32_t tid, uint64_t capacity_words, struct mt_ring **ret_ring, uint64_t **ret_words);

/* Any thread, at any time. */
static inline void mt_writer_lost(struct mt_writer *writer, enum mt_loss_reason reason, uint64_t count)
{
    if (writer->header)
        mt_fetch_add_relaxed(&writer->header->lost[reason], count);
}

#endif
