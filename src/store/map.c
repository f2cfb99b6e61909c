/*
 * Open addressing with linear probing; never more than 3/4 full.
 */
#include "store/internal.h"

#include <errno.h>
#include <stdlib.h>

#include "base/hash.h"

static struct id_entry *slot_of(struct id_entry *entries, size_t capacity, uint64_t a, uint64_t b)
{
    size_t at = mt_hash_combine(a, b) & (capacity - 1);

    while (entries[at].id && (entries[at].a != a || entries[at].b != b))
        at = (at + 1) & (capacity - 1);
    return &entries[at];
}

int64_t id_map_get(const struct id_map *map, uint64_t a, uint64_t b)
{
    return map->capacity ? slot_of(map->entries, map->capacity, a, b)->id : 0;
}

static int grow(struct id_map *map)
{
    size_t capacity = map->capacity ? map->capacity * 2 : 1024;
    struct id_entry *entries = calloc(capacity, sizeof(*entries));

    if (!entries)
        return -ENOMEM;
    for (size_t i = 0; i < map->capacity; i++) {
        if (map->entries[i].id)
            *slot_of(entries, capacity, map->entries[i].a, map->entries[i].b) = map->entries[i];
    }
    free(map->entries);
    map->entries = entries;
    map->capacity = capacity;
    return 0;
}

int id_map_put(struct id_map *map, uint64_t a, uint64_t b, int64_t id)
{
    struct id_entry *slot;

    if ((map->count + 1) * 4 > map->capacity * 3) {
        int r = grow(map);
        if (r < 0)
            return r;
    }
    slot = slot_of(map->entries, map->capacity, a, b);
    map->count += slot->id == 0;
    *slot = (struct id_entry){a, b, id};
    return 0;
}

void id_map_clear(struct id_map *map)
{
    free(map->entries);
    *map = (struct id_map){0};
}
