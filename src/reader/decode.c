/*
 * Words to typed events. The words are a private copy of what a target wrote: they may be anything.
 */
#include "reader/state.h"

#include <string.h>

enum shape { SHAPE_P, SHAPE_S, SHAPE_A, SHAPE_T };

static const struct {
    uint8_t words, shape;
} layouts[MT_RECORD_TYPE_MASK + 1] = {
#define LAYOUT_(symbol, name, words, shape) [MT_RECORD_##symbol] = {words, SHAPE_##shape},
    MT_RECORDS(LAYOUT_)
#undef LAYOUT_
};

static uint32_t text_words(uint64_t word)
{
    uint64_t payload_words = word >> 32, payload_bytes = word & UINT32_MAX;

    if (payload_bytes > MT_RECORD_TEXT_MAX_BYTES || payload_words > MT_RECORD_TEXT_MAX_BYTES / 8 + 1 ||
        payload_bytes > payload_words * 8)
        return UINT32_MAX;
    return (uint32_t)payload_words;
}

uint32_t decode_length(const uint64_t *words, uint64_t available)
{
    uint32_t type, fixed, push;

    if (available == 0)
        return 0;
    type = (uint32_t)(words[0] & MT_RECORD_TYPE_MASK);
    if (type == MT_RECORD_NONE || type >= MT_RECORD_TYPES)
        return 0;
    fixed = 1 + !!(words[0] & MT_RECORD_STAMPED) + layouts[type].words;
    if (fixed > available)
        return 0;
    switch (layouts[type].shape) {
    case SHAPE_A:
        push = words[fixed - 1] & UINT16_MAX;
        break;
    case SHAPE_S:
        push = (uint32_t)words[fixed - 1];
        break;
    case SHAPE_T: {
        uint32_t more = text_words(words[1 + !!(words[0] & MT_RECORD_STAMPED)]);

        return more <= available - fixed ? fixed + more : 0;
    }
    default:
        return fixed;
    }
    if (push > MT_RECORD_PUSH_MAX)
        return 0;
    fixed += (push + 1) / 2;
    return fixed <= available ? fixed : 0;
}

bool decode_record(const uint64_t *words, uint32_t length, struct decoded *d)
{
    struct mt_event *event = &d->event;
    const uint64_t *fixed = words + 1;
    uint32_t n;

    (void)length;
    event->type = (uint32_t)(words[0] & MT_RECORD_TYPE_MASK);
    event->address = words[0] >> MT_RECORD_OPERAND_SHIFT;
    event->stamp = 0;
    event->size = 0;
    event->node = 0;
    event->extra = 0;
    d->stamped = words[0] & MT_RECORD_STAMPED;
    if (d->stamped)
        event->stamp = *fixed++;
    n = layouts[event->type].words;
    d->frames = NULL;
    d->number = 0;
    switch (layouts[event->type].shape) {
    case SHAPE_A:
        event->size = fixed[0] >> 32;
        d->keep = (uint32_t)(fixed[0] >> 16) & UINT16_MAX;
        d->push = (uint32_t)fixed[0] & UINT16_MAX;
        d->frames = fixed + 1;
        return event->address != 0;
    case SHAPE_S:
        d->keep = (uint32_t)(fixed[n - 1] >> 32);
        d->push = (uint32_t)fixed[n - 1];
        d->frames = fixed + n;
        break;
    case SHAPE_T:
        d->text = (const char *)(fixed + n);
        d->text_bytes = (uint32_t)strnlen(d->text, fixed[0] & UINT32_MAX);
        d->resident = n > 1 ? fixed[1] : 0;
        d->virtual_bytes = n > 1 ? fixed[2] : 0;
        return event->type != MT_RECORD_HEAP_CREATE || event->address <= UINT32_MAX;
    default:
        break;
    }
    switch (event->type) {
    case MT_RECORD_ALLOC_LARGE:
        event->size = fixed[0];
        return event->address != 0;
    case MT_RECORD_OBJECT_ALLOC:
        event->size = fixed[0] >> 32;
        d->number = (uint32_t)fixed[0];
        return event->address != 0 && d->number < MT_RECORD_INNER_STACKS;
    case MT_RECORD_REALLOC_END:
        event->size = fixed[0];
        return event->address != 0 || event->size == 0;
    case MT_RECORD_OBJECT_REALLOC_END:
        event->size = fixed[0];
        d->number = (uint32_t)fixed[1];
        return (event->address != 0 || event->size == 0) && fixed[1] < MT_RECORD_INNER_STACKS;
    case MT_RECORD_PYTHON_STEP:
        d->keep = (uint32_t)event->address & UINT16_MAX;
        d->push = 1;
        d->step = event->address >> 16 & UINT32_MAX;
        d->frames = &d->step;
        return true;
    case MT_RECORD_INNER_STACK:
        d->number = (uint32_t)event->address;
        return event->address < MT_RECORD_INNER_STACKS && !d->keep;
    case MT_RECORD_MAP:
    case MT_RECORD_REMAP_END:
    case MT_RECORD_HEAP_ALLOC:
        event->size = fixed[0];
        event->extra = (uint32_t)fixed[1];
        return fixed[1] <= UINT32_MAX && (event->address != 0 || event->type != MT_RECORD_HEAP_ALLOC);
    case MT_RECORD_HEAP_FREE:
        event->extra = (uint32_t)fixed[0];
        return event->address != 0 && fixed[0] <= UINT32_MAX;
    case MT_RECORD_UNMAP_BEGIN:
    case MT_RECORD_REMAP_BEGIN:
    case MT_RECORD_EXIT:
        event->size = fixed[0];
        return true;
    case MT_RECORD_FREE:
    case MT_RECORD_OBJECT_FREE:
        return event->address != 0;
    default:
        return true;
    }
}
