/*
 * Sites of a Python target: many of live/'s are one in the database, where only the interpreter's own functions tell their stacks apart. Each merged
 * one is asked of the store once.
 */
#include <errno.h>
#include <stdlib.h>

#include "reader/map.h"
#include "reader/python.h"

enum { SITES_AT_A_TIME = 1024 };

struct known {
    uint32_t node;
    uint16_t heap, kind;
    int64_t id; /* 0: not in the database yet */
};

struct python_sites {
    struct map places; /* (merged node, heap, kind) -> known */
    struct known *known;
    size_t count, capacity;
};

void python_sites_free(struct python_sites *s)
{
    if (!s)
        return;
    free(s->places.slots);
    free(s->known);
    free(s);
}

static void forget(struct python_sites *s)
{
    free(s->places.slots);
    s->places = (struct map){0};
    s->count = 0;
}

/* Ids of the known sites from `first` on. */
static int ask_store(struct reader *reader, const struct target *target, const struct merger *m, size_t first)
{
    struct python_sites *s = target->python_sites;
    struct mt_store_site_key keys[SITES_AT_A_TIME];
    int64_t ids[SITES_AT_A_TIME];
    struct mt_store_stacks stacks = python_stacks(m);
    int r = 0;

    while (first < s->count && r == 0) {
        size_t count = s->count - first < SITES_AT_A_TIME ? s->count - first : SITES_AT_A_TIME;

        for (size_t i = 0; i < count; i++)
            keys[i] = (struct mt_store_site_key){.node = s->known[first + i].node,
                .heap = mt_live_heap_name(target->live, s->known[first + i].heap),
                .kind = mt_live_kind_name(s->known[first + i].kind)};
        r = mt_store_sites(reader->store, &stacks, keys, count, ids);
        for (size_t i = 0; i < count && r == 0; i++)
            s->known[first + i].id = ids[i];
        first += count;
    }
    return r;
}

/* The place of a site among the known ones, which may be new; or -errno. */
static int place_of(struct python_sites *s, struct merger *m, const struct mt_live_site *site)
{
    uint32_t node = 0;
    struct slot *slot;
    uint64_t key;
    int r = python_merge(m, site->node, &node);

    if (r < 0)
        return r;
    key = (uint64_t)node << 32 | (uint64_t)site->heap << 16 | site->kind;
    slot = map_slot(&s->places, key);
    if (!slot || !reserve((void **)&s->known, &s->capacity, s->count + 1, sizeof(*s->known)))
        return -ENOMEM;
    if (!slot->value) {
        s->known[s->count] = (struct known){.node = node, .heap = site->heap, .kind = site->kind};
        fill(&s->places, slot, key, s->count++);
    }
    return (int)slot->value - 1;
}

int python_site_ids(struct reader *reader, struct target *target, size_t first, size_t count)
{
    struct merger *m;
    struct python_sites *s = target->python_sites;
    int *places = calloc(count - first + 1, sizeof(*places));
    size_t before;
    int r = places ? python_merger_update(target, &m) : -ENOMEM;

    if (r == 0 && !s)
        s = target->python_sites = calloc(1, sizeof(*s));
    if (r < 0 || !s) {
        free(places);
        return -ENOMEM;
    }
    if (first == 0) /* the first time, or another database */
        forget(s);
    before = s->count;
    for (size_t i = first; i < count && r == 0; i++) {
        places[i - first] = place_of(s, m, mt_live_site(target->live, i));
        r = places[i - first] < 0 ? places[i - first] : 0;
    }
    if (r == 0)
        r = ask_store(reader, target, m, before);
    for (size_t i = first; i < count && r == 0; i++)
        target->site_ids[i] = s->known[places[i - first]].id;
    if (r < 0)
        forget(s); /* asked anew */
    free(places);
    return r;
}
