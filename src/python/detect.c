/*
 * Which interpreter is here. All of its symbols that are needed are dynamic ones, in a shared libpython as in a static python.
 */
#include <dlfcn.h>

#include "python/frames.h"

uint32_t mt_python_present;
uint32_t mt_python_epoch = 1;
struct mt_python_interpreter mt_python_here;

static enum mt_python_layout layout_of(const struct mt_python_offsets *o)
{
    if (o->frame_previous == MT_PYTHON_PREVIOUS_3_11 && o->frame_instruction == MT_PYTHON_INSTRUCTION_3_11 && o->frame_is_entry == MT_PYTHON_IS_ENTRY_3_11)
        return MT_PYTHON_LAYOUT_3_11;
    if (o->frame_previous == MT_PYTHON_PREVIOUS_3_12 && o->frame_instruction == MT_PYTHON_INSTRUCTION_3_12 && !o->frame_is_entry)
        return MT_PYTHON_LAYOUT_3_12;
    return MT_PYTHON_LAYOUT_OTHER;
}

void mt_python_detect(mt_python_find *find, const void *context, enum mt_python_mode mode)
{
    struct mt_python_interpreter here = {.mode = mode, .late = context != NULL};
    const uint64_t *version;
    size_t size;
    void *p;

    if (mode == MT_PYTHON_MODE_OFF || mt_load_acquire(&mt_python_present) == MT_PYTHON_HERE)
        return;
    p = find(context, "PyGILState_GetThisThreadState", &size);
    *(void **)&here.this_thread = p;
    if (!p)
        return;
    p = find(context, "PyThreadState_GetUnchecked", &size);
    if (!p)
        p = find(context, "_PyThreadState_UncheckedGet", &size); /* until 3.12 */
    *(void **)&here.running_thread = p;
    here.runtime = find(context, "_PyRuntime", &size);
    here.code_type = find(context, "PyCode_Type", &size);
    version = find(context, "Py_Version", &size); /* 3.11 on */
    if (version)
        here.version = (uint32_t)*(const unsigned long *)version;
    p = find(context, "PyMem_GetAllocator", &size);
    *(void **)&here.get_allocator = p;
    p = find(context, "PyMem_SetAllocator", &size);
    *(void **)&here.set_allocator = p;
    p = find(context, "_PyEval_EvalFrameDefault", &size);
    if (p) {
        here.loop[0].start = (uintptr_t)p;
        here.loop[0].end = here.loop[0].start + size;
    }
    here.known = here.version && here.runtime && here.code_type &&
                 mt_python_offsets(here.version, here.runtime, &here.offsets, &here.free_threaded);
    here.layout = layout_of(&here.offsets);
    here.wide = mt_python_verifies_wide();
    mt_python_here = here;
    mt_store_release(&mt_python_present, MT_PYTHON_HERE);
}

bool mt_python_is_free_threaded(void)
{
    return mt_python_here.free_threaded;
}

bool mt_python_is_known(void)
{
    return mt_python_here.known;
}

void mt_python_before_unload(void)
{
    if (mt_python_here.late) {
        mt_store_release(&mt_python_present, MT_PYTHON_GONE);
        mt_fetch_add_acq_rel(&mt_python_epoch, 1u); /* P5 */
    }
}

void mt_python_after_unload(void)
{
    struct dl_find_object object;

    if (!mt_python_here.late)
        return;
    if (_dl_find_object((void *)mt_python_here.runtime, &object) == 0 && _dl_find_object(*(void **)&mt_python_here.this_thread, &object) == 0) {
        mt_store_release(&mt_python_present, MT_PYTHON_HERE);
    } else {
        mt_python_here = (struct mt_python_interpreter){.mode = mt_python_here.mode};
    }
}
