/*
 * The allocators of the domains MEM and OBJ (those of objects and of what they hold), wrapped in place: what served them serves them still. RAW is the C
 * library's malloc, and seen there.
 *
 * When: before main, so that every object is seen from its beginning. The interpreter's pre-initialisation overwrites that where it is told which
 * allocator to take (PYTHONMALLOC, development mode); so it is looked at once more as soon as the core is initialised, before anything else
 * (tracemalloc) can have wrapped what is there. Where an interpreter is found when it already runs, nothing is wrapped: five pointers cannot be
 * replaced at once under threads that use them. An interpreter that is finalised and initialised again is a new case.
 *
 * Where no objects are recorded, OBJ's free alone is replaced, when the core is initialised: to hear of the end of code objects, so that captures need not
 * look at each frame's to know that it is still the one it was.
 */
#include "python/internal.h"

uint32_t mt_python_codes_freed;
const void *mt_python_code_type;
/*
 * By number: place / 16 in bits 20-63, size / 512 in 8-19, the number's bits 6-13 in 0-7. Of no place: any.
 * P3: an entry is released by mt_python_code_gone(), after its number was taken, and acquired by mt_python_gone_code(), which sees an earlier number's until then.
 */
static uint64_t gone[MT_PYTHON_GONE];
#define GONE_SIZE_BITS 12
#define GONE_GRAIN 512u

static uint32_t looked_again; /* not wiped at fork: a child's allocators are its parent's */
static struct mt_python_slot slots[64]; /* a new one each time: calls through an old one may be under way */
static unsigned slots_used;
static bool seen_early; /* before it was initialised */
static void (*inner_free)(void *ctx, void *p); /* under watched_free() */

void MT_COLD mt_python_code_gone(const void *code)
{
    const struct mt_python_offsets *o = &mt_python_here.offsets;
    uint32_t number = mt_fetch_add_acq_rel(&mt_python_codes_freed, 1u);
    uintptr_t place = (uintptr_t)code, size_at = place + o->object_type + sizeof(void *);
    uint64_t units = 0, grains = UINT64_MAX;

    /* What only looks like one may be a block of 16 bytes at the end of what is mapped. */
    if (size_at & (MT_PAGE_BYTES - 1)) {
        units = *(const uint64_t *)size_at;
        grains = units < UINT32_MAX ? (o->code_bytecode + 2 * units) / GONE_GRAIN + 1 : UINT64_MAX;
    }
    if (grains >> GONE_SIZE_BITS || place >> 48)
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

static bool wrap(void)
{
    bool done = false;

    for (int domain = MT_PYTHON_DOMAIN_MEM; domain <= MT_PYTHON_DOMAIN_OBJ; domain++) {
        struct mt_python_slot *slot;
        struct mt_python_allocator mine = *mt_python_here.wrapper;

        if (slots_used == MT_ARRAY_LEN(slots))
            return done;
        slot = &slots[slots_used];
        mt_python_here.get_allocator(domain, &slot->inner);
        if (slot->inner.malloc == mine.malloc) {
            done = true;
            continue;
        }
        slots_used++;
        mine.ctx = slot;
        mt_python_here.set_allocator(domain, &mine);
        done = true;
    }
    return done;
}

static void watched_free(void *context, void *p)
{
    if (MT_LIKELY(p))
        mt_python_object_gone(p);
    inner_free(context, p);
}

/* Of one allocator: what inner_free was must stay so, for calls may be under way. */
static void watch_free(void)
{
    struct mt_python_allocator now;

    mt_python_here.get_allocator(MT_PYTHON_DOMAIN_OBJ, &now);
    if (now.free == watched_free || (inner_free && inner_free != now.free))
        return;
    inner_free = now.free;
    now.free = watched_free;
    mt_python_here.set_allocator(MT_PYTHON_DOMAIN_OBJ, &now);
}

/*
 * Code objects are freed through the wrapper, as what they are, if nothing that moves addresses (the interpreter's debug hooks) is in front of it. In free-threaded
 * builds they have a header of their own, and instructions do not lie in them.
 */
static void watch_codes(void)
{
    struct mt_python_allocator now;

    mt_python_here.get_allocator(MT_PYTHON_DOMAIN_OBJ, &now);
    if (mt_python_here.free_threaded || (now.free != watched_free && !(mt_python_here.wrapper && now.free == mt_python_here.wrapper->free)))
        return;
    mt_fetch_add_acq_rel(&mt_python_codes_freed, 1u); /* until now they were not counted */
    mt_python_code_type = mt_python_here.code_type;
    mt_python_here.codes_watched = true;
}

static bool can_wrap(void)
{
    return mt_python_here.known && mt_python_here.get_allocator && mt_python_here.set_allocator;
}

static bool is_initialized(void)
{
    const struct mt_python_offsets *o = &mt_python_here.offsets;

    return *(const volatile int *)(mt_python_here.runtime + o->runtime_core_initialized) != 0;
}

bool mt_python_wrap(const struct mt_python_allocator *wrapper)
{
    mt_python_here.wrapper = wrapper;
    if (mt_python_here.mode != MT_PYTHON_MODE_OBJECTS || !can_wrap() || is_initialized())
        return false;
    return wrap();
}

bool mt_python_wrap_again(void)
{
    if (mt_load_relaxed(&looked_again) || !can_wrap())
        return true;
    if (!is_initialized()) {
        seen_early = true;
        return false;
    }
    mt_store_relaxed(&looked_again, 1u);
    if (slots_used)
        wrap();
    else if (seen_early && !mt_python_here.free_threaded)
        watch_free();
    watch_codes();
    return true;
}

void mt_python_unsettle(struct mt_python *python)
{
    mt_store_relaxed(&looked_again, 0u);
    mt_python_here.codes_watched = false;
    mt_store_relaxed(&python->settled, 0u);
}

bool mt_python_is_wrapped(void)
{
    return slots_used != 0;
}
