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

static inline void fixture_alloc(struct fixture_ring *ring, uint64_t stamp, uint64_t address, uint64_t size, uint32_t node)
{
    fixture_put(ring, (uint64_t[]){stamp << 8 | MT_RECORD_ALLOC, address, size << 32 | node}, 3);
}

static inline void fixture_free(struct fixture_ring *ring, uint64_t stamp, uint64_t address)
{
    fixture_put(ring, (uint64_t[]){stamp << 8 | MT_RECORD_FREE, address}, 2);
}

static inline void fixture_text(struct fixture_ring *ring, uint64_t stamp, uint32_t type, const char *text)
{
    uint64_t words[2 + MT_RECORD_MARK_WORDS + 64] = {stamp << 8 | type};
    uint64_t bytes = strlen(text), payload = (bytes + 7) / 8;

    words[1] = payload << 32 | bytes;
    memcpy(words + 2 + MT_RECORD_MARK_WORDS, text, bytes);
    fixture_put(ring, words, (unsigned)(2 + MT_RECORD_MARK_WORDS + payload));
}

#endif
