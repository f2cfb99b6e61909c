/*
 * Words to typed events. The words are a private copy of what a target wrote: they may be anything.
 */
#include "reader/state.h"

#include <string.h>

static const uint8_t fixed_words[MT_RECORD_TYPES] = {
#define WORDS_(symbol, name, words) [MT_RECORD_##symbol] = words,
    MT_RECORDS(WORDS_)
#undef WORDS_
};

static uint32_t own_words(uint32_t type)
{
    switch (type) {
    case MT_RECORD_HEAP_CREATE:
        return MT_RECORD_HEAP_CREATE_WORDS;
    case MT_RECORD_EXEC:
        return MT_RECORD_EXEC_WORDS;
    default:
        return MT_RECORD_MARK_WORDS;
    }
}

uint32_t decode_length(const uint64_t *words, uint64_t available)
{
    uint32_t type, length;
    uint64_t payload_words, payload_bytes;

    if (available == 0)
        return 0;
    type = (uint32_t)(words[0] & MT_RECORD_TYPE_MASK);
    if (type == MT_RECORD_NONE || type >= MT_RECORD_TYPES)
        return 0;
    length = fixed_words[type];
    if (MT_UNLIKELY(length == 0)) {
        if (available < 2)
            return 0;
        payload_words = words[1] >> 32;
        payload_bytes = words[1] & UINT32_MAX;
        if (payload_bytes > MT_RECORD_TEXT_MAX_BYTES || payload_words > MT_RECORD_TEXT_MAX_BYTES / 8 + 1 ||
            payload_bytes > payload_words * 8)
            return 0;
        length = (uint32_t)(2 + own_words(type) + payload_words);
    }
    return length <= available ? length : 0;
}

static bool decode_text(const uint64_t *words, uint32_t type, struct decoded *d)
{
    const uint64_t *own = words + 2;

    d->text = (const char *)(own + own_words(type));
    d->text_bytes = (uint32_t)strnlen(d->text, words[1] & UINT32_MAX);
    if (type == MT_RECORD_HEAP_CREATE) {
        d->event.extra = (uint32_t)own[0];
        return own[0] <= UINT32_MAX;
    }
    if (type != MT_RECORD_EXEC) {
        d->resident = own[0];
        d->virtual_bytes = own[1];
    }
    return true;
}

bool decode_record(const uint64_t *words, uint32_t length, uint64_t node_count, struct decoded *d)
{
    struct mt_event *event = &d->event;

    event->type = (uint32_t)(words[0] & MT_RECORD_TYPE_MASK);
    event->stamp = words[0] >> MT_RECORD_STAMP_SHIFT;
    event->address = length > 1 ? words[1] : 0;
    event->size = length > 2 ? words[2] : 0;
    event->node = 0;
    event->extra = 0;
    switch (event->type) {
    case MT_RECORD_ALLOC:
        event->size = words[2] >> 32;
        event->node = (uint32_t)words[2];
        return event->address != 0 && event->node < node_count;
    case MT_RECORD_ALLOC_LARGE:
        event->size = words[3];
        event->node = (uint32_t)words[2];
        return event->address != 0 && words[2] < node_count;
    case MT_RECORD_REALLOC_END:
        event->size = words[3];
        event->node = (uint32_t)words[2];
        return words[2] < node_count && (event->address != 0 || event->size == 0);
    case MT_RECORD_MAP:
    case MT_RECORD_REMAP_END:
    case MT_RECORD_HEAP_ALLOC:
        event->node = (uint32_t)words[3];
        event->extra = (uint32_t)(words[3] >> 32);
        return event->node < node_count && (event->address != 0 || event->type != MT_RECORD_HEAP_ALLOC);
    case MT_RECORD_HEAP_FREE:
        event->extra = (uint32_t)words[2];
        return event->address != 0 && words[2] <= UINT32_MAX;
    case MT_RECORD_FREE:
        return event->address != 0;
    case MT_RECORD_HEAP_CREATE:
    case MT_RECORD_MARK:
    case MT_RECORD_PHASE_BEGIN:
    case MT_RECORD_PHASE_END:
    case MT_RECORD_ITERATION:
    case MT_RECORD_SNAPSHOT:
    case MT_RECORD_EXEC:
        return decode_text(words, event->type, d);
    default:
        return true;
    }
}
