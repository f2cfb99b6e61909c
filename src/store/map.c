/*
 * Entries lie one after the other as they came; slots, which are searched by linear probing and never more than 3/4 full, hold
 * an entry's number and 32 bits of its hash. So a slot that does not match costs no look at the entry, and what is searched is small.
 */
#include "store/internal.h"

#include <errno.h>
#include <stdlib.h>

#include "base/hash.h"

#define TAG_MASK UINT64_C(0xffffffff00000000)

/* The slot of the key, or the empty one where it would be. */
static uint64_t *slot_of(const struct id_map *map, uint64_t a, uint64_t b, uint64_t hash)
{
    size_t at = hash & map->mask;

    for (;; at = (at + 1) & map->mask) {
        uint64_t slot = map->slots[at];
        const struct id_entry *e;
        if (!slot)
            break;
        if ((slot ^ hash) & TAG_MASK)
            continue;
        e = &map->entries[(uint32_t)slot - 1];
        if (e->a == a && e->b == b)
            break;
    }
    return &map->slots[at];
}

int64_t id_map_get(const struct id_map *map, uint64_t a, uint64_t b)
{
    uint64_t slot = map->slots ? *slot_of(map, a, b, mt_hash_combine(a, b)) : 0;

    return slot ? map->entries[(uint32_t)slot - 1].id : 0;
}

int id_map_reserve(struct id_map *map, size_t more)
{
    size_t wanted = map->count + more, slots = map->slots ? map->mask + 1 : 1024;
    struct id_entry *entries;

    if (wanted >= UINT32_MAX)
        return -ENOMEM;
    if (wanted > map->capacity) {
        size_t capacity = wanted > map->capacity * 2 ? wanted : map->capacity * 2;
        entries = reallocarray(map->entries, capacity, sizeof(*entries));
        if (!entries)
            return -ENOMEM;
        map->entries = entries;
        map->capacity = capacity;
    }
    while (wanted * 4 > slots * 3)
        slots *= 2;
    if (!map->slots || slots > map->mask + 1) {
        uint64_t *bigger = calloc(slots, sizeof(*bigger));
        if (!bigger)
            return -ENOMEM;
        free(map->slots);
        map->slots = bigger;
        map->mask = slots - 1;
        for (size_t i = 0; i < map->count; i++) {
            uint64_t hash = mt_hash_combine(map->entries[i].a, map->entries[i].b);
            *slot_of(map, map->entries[i].a, map->entries[i].b, hash) = (hash & TAG_MASK) | (i + 1);
        }
    }
    return 0;
}

int id_map_put(struct id_map *map, uint64_t a, uint64_t b, int64_t id)
{
    uint64_t hash = mt_hash_combine(a, b), *slot;
    int r = id_map_reserve(map, 1);

    if (r < 0)
        return r;
    slot = slot_of(map, a, b, hash);
    if (!*slot) {
        *slot = (hash & TAG_MASK) | (map->count + 1);
        map->count++;
    }
    map->entries[(uint32_t)*slot - 1] = (struct id_entry){a, b, id};
    return 0;
}

void id_map_clear(struct id_map *map)
{
    free(map->entries);
    free(map->slots);
    *map = (struct id_map){0};
}
