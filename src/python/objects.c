/*
 * The allocators of the domains MEM and OBJ (those of objects and of what they hold), wrapped in place: what served them serves them still. RAW is the C
 * library's malloc, and seen there.
 *
 * When: before main, so that every object is seen from its beginning. The interpreter's pre-initialisation overwrites that where it is told which
 * allocator to take (PYTHONMALLOC, development mode); so it is looked at once more as soon as the core is initialised, before anything else
 * (tracemalloc) can have wrapped what is there. Where an interpreter is found when it already runs, nothing is wrapped: five pointers cannot be
 * replaced at once under threads that use them. An interpreter that is finalised and initialised again is a new case.
 */
#include "python/internal.h"

static uint32_t looked_again; /* not wiped at fork: a child's allocators are its parent's */
static struct mt_python_slot slots[64]; /* a new one each time: calls through an old one may be under way */
static unsigned slots_used;

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

static bool can_wrap(void)
{
    return mt_python_here.known && mt_python_here.mode == MT_PYTHON_MODE_OBJECTS && mt_python_here.get_allocator &&
           mt_python_here.set_allocator && mt_python_here.wrapper;
}

static bool is_initialized(void)
{
    const struct mt_python_offsets *o = &mt_python_here.offsets;

    return *(const volatile int *)(mt_python_here.runtime + o->runtime_core_initialized) != 0;
}

bool mt_python_wrap(const struct mt_python_allocator *wrapper)
{
    mt_python_here.wrapper = wrapper;
    if (!can_wrap() || is_initialized())
        return false;
    return wrap();
}

bool mt_python_wrap_again(void)
{
    if (mt_load_relaxed(&looked_again) || !mt_python_here.known)
        return true;
    if (!is_initialized())
        return false;
    mt_store_relaxed(&looked_again, 1u);
    if (slots_used && can_wrap())
        wrap();
    mt_python_watch_codes();
    return true;
}

void mt_python_unsettle(struct mt_python *python)
{
    mt_store_relaxed(&looked_again, 0u);
    mt_python_here.codes_watched = false;
    mt_store_relaxed(&python->settled, 0u);
    mt_fetch_add_acq_rel(&mt_python_epoch, 1u); /* P5 */
}

bool mt_python_is_wrapped(void)
{
    return slots_used != 0;
}
