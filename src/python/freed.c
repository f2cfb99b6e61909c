/*
 * Code objects that are freed: what was known of their addresses is not any more, since the next one may be given the same.
 *
 * Every code object ends in its type's tp_dealloc, whatever allocator serves it, in every mode: the slot is replaced in place by a function that counts and calls
 * what was there. It is not to be seen from Python, and code has no subclasses that could inherit it.
 *
 * But an interpreter of several that ends can give arenas back in which there are still some. So it is kept by the megabyte where code objects
 * were met, and all is forgotten when one of these is unmapped.
 *
 * Labels: P3 an entry of gone[] is released by code_gone(), after its number was taken, and acquired by mt_python_gone_code(), which sees an earlier number's until
 * then. P4 a thread marks a megabyte after it has read a code object's proof; an unmapping takes the mark away before it makes every proof another one: whatever
 * is known by the new ones was marked anew.
 */
#include <dlfcn.h>

#include "python/internal.h"

#define GONE_SIZE_BITS 12
#define GONE_GRAIN 512u
#define GRANULE_BITS 20
#define GRANULES 4096u
#define TP_DEALLOC 40 /* in a type, behind the pointer to its own */

uint32_t mt_python_codes_freed;
uint32_t mt_python_codes_freed_at[MT_PYTHON_CODE_PLACES];
/* By number: place / 16 in bits 20-63, size / 512 in 8-19, the number's bits 6-13 in 0-7. Of no place: any. */
static uint64_t gone[MT_PYTHON_GONE];
static uint8_t granules[GRANULES]; /* 1: there may be code objects */
static void (*code_dealloc)(void *code); /* the interpreter's own */

static void code_gone(const void *code)
{
    const struct mt_python_offsets *o = &mt_python_here.offsets;
    uint32_t number = mt_fetch_add_acq_rel(&mt_python_codes_freed, 1u);
    uintptr_t place = (uintptr_t)code;
    uint64_t units = *(const uint64_t *)((const char *)code + o->object_type + sizeof(void *));
    uint64_t grains = units < UINT32_MAX ? (o->code_bytecode + 2 * units) / GONE_GRAIN + 1 : UINT64_MAX;

    mt_fetch_add_relaxed(mt_python_freed_at(code), 1u);
    if (grains >> GONE_SIZE_BITS || place >> 48 || place & 15)
        place = grains = 0;
    mt_store_release(&gone[number % MT_PYTHON_GONE], (uint64_t)place >> 4 << 20 | grains << 8 | (number / MT_PYTHON_GONE & 255)); /* P3 */
}

bool mt_python_gone_code(uint32_t number, uintptr_t *ret_start, uintptr_t *ret_end)
{
    uint64_t entry = mt_load_acquire(&gone[number % MT_PYTHON_GONE]); /* P3 */

    if ((entry & 255) != (number / MT_PYTHON_GONE & 255) || !(entry >> 20))
        return false;
    *ret_start = (uintptr_t)(entry >> 20) << 4;
    *ret_end = *ret_start + ((entry >> 8 & ((1u << GONE_SIZE_BITS) - 1)) * GONE_GRAIN);
    return true;
}

static MT_ALWAYS_INLINE uint8_t *granule_of(uintptr_t address)
{
    return &granules[(address >> GRANULE_BITS) % GRANULES];
}

void mt_python_code_is_at(const void *code)
{
    mt_store_relaxed(granule_of((uintptr_t)code), (uint8_t)1);
}

static void forget_all_codes(void)
{
    uint32_t number = mt_fetch_add_acq_rel(&mt_python_codes_freed, 1u);

    mt_store_release(&gone[number % MT_PYTHON_GONE], number / MT_PYTHON_GONE & 255); /* P3: of no place */
    for (size_t i = 0; i < MT_PYTHON_CODE_PLACES; i++)
        mt_fetch_add_relaxed(&mt_python_codes_freed_at[i], 1u);
}

void mt_python_unmapped(uintptr_t start, uintptr_t end)
{
    bool had_code = false;

    start &= ~(((uintptr_t)1 << GRANULE_BITS) - 1);
    for (unsigned i = 0; start < end && i < GRANULES; i++, start += (uintptr_t)1 << GRANULE_BITS) {
        if (MT_LIKELY(!mt_load_relaxed(granule_of(start))))
            continue;
        mt_store_relaxed(granule_of(start), (uint8_t)0);
        had_code = true;
    }
    if (had_code)
        forget_all_codes(); /* P4 */
}

static void dealloc(void *code)
{
    code_gone(code);
    code_dealloc(code);
}

void MT_COLD mt_python_watch_codes(void)
{
    uintptr_t *slot = (uintptr_t *)((uintptr_t)mt_python_here.code_type + mt_python_here.offsets.object_type + TP_DEALLOC);
    struct dl_find_object object;

    if (*slot != (uintptr_t)dealloc) {
        /* If it is no object's code, this is not a type as it is known here. */
        if (_dl_find_object(*(void **)slot, &object) != 0)
            return;
        *(uintptr_t *)&code_dealloc = *slot;
        mt_store_release(slot, (uintptr_t)dealloc);
    }
    forget_all_codes(); /* until now they were not counted */
    /* In free-threaded builds instructions do not lie in their code objects. */
    mt_python_here.codes_watched = !mt_python_here.free_threaded;
}
