/*
 * Two small tools of the files that merge stacks: an array that grows, and a table from numbers to indices.
 */
#ifndef MT_READER_MAP_H
#define MT_READER_MAP_H

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

#include "base/hash.h"

struct map { /* a number -> index + 1 */
    struct slot {
        uint64_t key;
        uint32_t value; /* 0: empty */
    } *slots;
    size_t mask, count;
};

static inline bool reserve(void **items, size_t *capacity, size_t count, size_t item_bytes)
{
    size_t wanted = *capacity ? *capacity : 64;
    void *bigger;

    if (count <= *capacity)
        return true;
    while (wanted < count)
        wanted *= 2;
    bigger = reallocarray(*items, wanted, item_bytes);
    if (!bigger)
        return false;
    *items = bigger;
    *capacity = wanted;
    return true;
}

static inline struct slot *probe(const struct map *map, uint64_t key)
{
    size_t i = mt_hash_u64(key) & map->mask;

    while (map->slots[i].value && map->slots[i].key != key)
        i = (i + 1) & map->mask;
    return &map->slots[i];
}

/* The slot of the key, with room to fill it; NULL: no memory. */
static inline struct slot *map_slot(struct map *map, uint64_t key)
{
    if (!map->slots || map->count * 3 >= (map->mask + 1) * 2) {
        struct map bigger = {.mask = map->slots ? map->mask * 2 + 1 : 255, .count = map->count};

        bigger.slots = calloc(bigger.mask + 1, sizeof(*bigger.slots));
        if (!bigger.slots)
            return NULL;
        for (size_t i = 0; map->slots && i <= map->mask; i++)
            if (map->slots[i].value)
                *probe(&bigger, map->slots[i].key) = map->slots[i];
        free(map->slots);
        *map = bigger;
    }
    return probe(map, key);
}

static inline void fill(struct map *map, struct slot *slot, uint64_t key, size_t index)
{
    slot->key = key;
    slot->value = (uint32_t)index + 1;
    map->count++;
}

#endif
