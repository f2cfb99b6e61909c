/*
 * A target played by a test: a segment made with the writer of wire/, rings filled by hand.
 */
#ifndef MT_TESTS_SEGMENT_FIXTURE_H
#define MT_TESTS_SEGMENT_FIXTURE_H

#include <stdlib.h>
#include <string.h>

#include "reader/state.h"
#include "wire/writer.h"

struct fixture_ring {
    struct mt_ring *shared;
    uint64_t *words;
};

static inline void fixture_put(struct fixture_ring *ring, const uint64_t *words, unsigned count)
{
    uint64_t head = ring->shared->head;

    for (unsigned i = 0; i < count; i++)
        ring->words[(head + i) & (ring->shared->capacity_words - 1)] = words[i];
    mt_store_release(&ring->shared->head, head + count);
}

static inline bool fixture_has_room(const struct fixture_ring *ring, unsigned words)
{
    return ring->shared->head + words - mt_load_acquire(&ring->shared->tail) <= ring->shared->capacity_words;
}

/* A stamped record without frames: operand, then further words. */
static inline void fixture_record(struct fixture_ring *ring, uint64_t stamp, uint32_t type, uint64_t operand, const uint64_t *more,
    unsigned count)
{
    uint64_t words[16] = {operand << MT_RECORD_OPERAND_SHIFT | MT_RECORD_STAMPED | type, stamp};

    memcpy(words + 2, more, count * sizeof(*more));
    fixture_put(ring, words, 2 + count);
}

/* With the empty stack. */
static inline void fixture_alloc(struct fixture_ring *ring, uint64_t stamp, uint64_t address, uint64_t size)
{
    fixture_record(ring, stamp, MT_RECORD_ALLOC, address, (uint64_t[]){size << 32}, 1);
}

static inline void fixture_free(struct fixture_ring *ring, uint64_t stamp, uint64_t address)
{
    fixture_record(ring, stamp, MT_RECORD_FREE, address, NULL, 0);
}

/* Without a stamp. */
static inline void fixture_plain_alloc(struct fixture_ring *ring, uint64_t address, uint64_t size)
{
    fixture_put(ring, (uint64_t[]){address << MT_RECORD_OPERAND_SHIFT | MT_RECORD_ALLOC, size << 32}, 2);
}

static inline void fixture_plain_free(struct fixture_ring *ring, uint64_t address)
{
    fixture_put(ring, (uint64_t[]){address << MT_RECORD_OPERAND_SHIFT | MT_RECORD_FREE}, 1);
}

/* A record without stamp: its first word, its change as the shape has it, the frames. */
static inline void fixture_change(struct fixture_ring *ring, uint64_t first, uint64_t change, const uint32_t *frames, uint32_t push)
{
    uint64_t words[2 + 64] = {first, change};

    for (uint32_t i = 0; i < push; i++)
        words[2 + i / 2] |= (uint64_t)frames[i] << (i % 2 * 32);
    fixture_put(ring, words, 2 + (push + 1) / 2);
}

static inline void fixture_python_stack(struct fixture_ring *ring, uint32_t keep, const uint32_t *frames, uint32_t push)
{
    fixture_change(ring, MT_RECORD_PYTHON_STACK, (uint64_t)keep << 32 | push, frames, push);
}

static inline void fixture_python_step(struct fixture_ring *ring, uint32_t keep, uint32_t frame)
{
    fixture_put(ring, (uint64_t[]){mt_record_step(keep, frame) << MT_RECORD_OPERAND_SHIFT | MT_RECORD_PYTHON_STEP}, 1);
}

/* From here on the inner stack of this number. */
static inline void fixture_inner_stack(struct fixture_ring *ring, uint64_t number, const uint32_t *frames, uint32_t push)
{
    fixture_change(ring, number << MT_RECORD_OPERAND_SHIFT | MT_RECORD_INNER_STACK, push, frames, push);
}

/* Of one byte. */
static inline void fixture_object(struct fixture_ring *ring, uint64_t address, uint32_t number)
{
    fixture_put(ring, (uint64_t[]){address << MT_RECORD_OPERAND_SHIFT | MT_RECORD_OBJECT_ALLOC, UINT64_C(1) << 32 | number}, 2);
}

/* An allocation of one byte whose stack keeps `keep` frames and pushes others. */
static inline void fixture_stack_alloc(
    struct fixture_ring *ring, uint64_t address, uint32_t keep, const uint32_t *frames, uint32_t push)
{
    fixture_change(ring, address << MT_RECORD_OPERAND_SHIFT | MT_RECORD_ALLOC, UINT64_C(1) << 32 | keep << 16 | push, frames, push);
}

static inline void fixture_text(struct fixture_ring *ring, uint64_t stamp, uint32_t type, const char *text)
{
    uint64_t words[3 + MT_RECORD_MARK_WORDS + 64] = {MT_RECORD_STAMPED | type, stamp};
    uint64_t bytes = strlen(text), payload = (bytes + 7) / 8;

    words[2] = payload << 32 | bytes;
    memcpy(words + 3 + MT_RECORD_MARK_WORDS, text, bytes);
    fixture_put(ring, words, (unsigned)(3 + MT_RECORD_MARK_WORDS + payload));
}

#endif
