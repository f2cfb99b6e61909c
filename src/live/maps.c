/*
 * A sorted array: a process rarely has more than some thousand mappings of its own (the kernel's
 * default limit is 65,530), and moving 24-byte pieces is cheaper than the system call that caused it.
 */
#include "live/maps.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

void mt_maps_finish(struct mt_maps *maps)
{
    free(maps->pieces);
    *maps = (struct mt_maps){0};
}

static int reserve(struct mt_maps *maps, size_t more)
{
    size_t capacity = maps->capacity ? maps->capacity : 8;
    struct mt_map_piece *pieces;

    if (maps->count + more <= maps->capacity)
        return 0;
    while (capacity < maps->count + more)
        capacity *= 2;
    pieces = realloc(maps->pieces, capacity * sizeof(*pieces));
    if (!pieces)
        return -ENOMEM;
    maps->pieces = pieces;
    maps->capacity = capacity;
    return 0;
}

size_t mt_maps_above(const struct mt_maps *maps, uint64_t address)
{
    size_t low = 0, high = maps->count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (maps->pieces[middle].end > address)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

int mt_maps_append(struct mt_maps *list, struct mt_map_piece piece)
{
    int err = reserve(list, 1);

    if (err < 0)
        return err;
    list->pieces[list->count++] = piece;
    return 0;
}

int mt_maps_insert(struct mt_maps *maps, struct mt_map_piece piece)
{
    size_t at;
    int err = reserve(maps, 1);

    if (err < 0)
        return err;
    at = mt_maps_above(maps, piece.start);
    memmove(&maps->pieces[at + 1], &maps->pieces[at], (maps->count - at) * sizeof(piece));
    maps->pieces[at] = piece;
    maps->count++;
    return 0;
}

int mt_maps_cut(struct mt_maps *maps, uint64_t start, uint64_t end, struct mt_maps *removed)
{
    size_t first = mt_maps_above(maps, start), last = first, keep;
    struct mt_map_piece left = {0}, right = {0};

    while (last < maps->count && maps->pieces[last].start < end)
        last++;
    if (first == last || start >= end)
        return 0;
    if (reserve(maps, 1) < 0 || reserve(removed, last - first) < 0)
        return -ENOMEM;
    for (size_t i = first; i < last; i++) {
        struct mt_map_piece piece = maps->pieces[i];
        if (piece.start < start) {
            left = piece;
            left.end = start;
            piece.start = start;
            piece.origin->pieces++;
        }
        if (piece.end > end) {
            right = piece;
            right.start = end;
            piece.end = end;
            piece.origin->pieces++;
        }
        removed->pieces[removed->count++] = piece;
    }
    keep = (left.origin != NULL) + (right.origin != NULL);
    memmove(&maps->pieces[first + keep], &maps->pieces[last], (maps->count - last) * sizeof(*maps->pieces));
    maps->count = maps->count - (last - first) + keep;
    if (left.origin)
        maps->pieces[first++] = left;
    if (right.origin)
        maps->pieces[first] = right;
    return 0;
}
