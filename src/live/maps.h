/*
 * The interval map of a process's own mappings: page ranges, sorted, disjoint. A piece belongs to an
 * origin, the call that mapped it; splitting a mapping makes several pieces of one origin, and an origin is over when
 * its last piece is.
 */
#ifndef MT_LIVE_MAPS_H
#define MT_LIVE_MAPS_H

#include <stddef.h>
#include <stdint.h>

struct mt_map_origin {
    uint32_t site;
    uint32_t flags;  /* enum mt_map_flags */
    uint32_t pieces; /* in the map or in a list of removed ones */
    uint64_t birth;
    uint64_t iteration; /* in which it was mapped; 0: before the first */
};

struct mt_map_piece {
    uint64_t start, end; /* page-rounded; start < end */
    struct mt_map_origin *origin;
};

struct mt_maps { /* also used as a list of removed pieces */
    struct mt_map_piece *pieces;
    size_t count, capacity;
};

void mt_maps_finish(struct mt_maps *maps); /* frees the array, not the origins */

/* Puts a piece at its place; the range must be free. Takes over one reference that the caller counted in pieces. */
int mt_maps_insert(struct mt_maps *maps, struct mt_map_piece piece);

/* Appends to a list that is not kept sorted. */
int mt_maps_append(struct mt_maps *list, struct mt_map_piece piece);

/*
 * Removes what overlaps [start, end), splitting pieces at the borders, and appends what was removed to `removed`. Counts
 * origins' pieces. On -ENOMEM nothing has changed.
 */
int mt_maps_cut(struct mt_maps *maps, uint64_t start, uint64_t end, struct mt_maps *removed);

/* Index of the first piece that ends above the address; count if there is none. */
size_t mt_maps_above(const struct mt_maps *maps, uint64_t address);

#endif
