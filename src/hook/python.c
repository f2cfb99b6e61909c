/*
 * Python in the target: finding the interpreter, at the start and in objects that are loaded later (programs that embed one).
 */
#include <link.h>
#include <string.h>

#include "hook/hook.h"
#include "hook/real.h"

static enum mt_python_mode mode;

static enum mt_python_mode read_mode(void)
{
    const char *value = NULL;
    size_t n = strlen(MT_ENV_PYTHON);

    for (char **e = mt_settings.environment; e && *e; e++)
        if (strncmp(*e, MT_ENV_PYTHON, n) == 0 && (*e)[n] == '=')
            value = *e + n + 1;
    if (!value || !*value || strcmp(value, "auto") == 0 || strcmp(value, "objects") == 0)
        return MT_PYTHON_MODE_OBJECTS;
    if (strcmp(value, "frames") == 0)
        return MT_PYTHON_MODE_FRAMES;
    if (strcmp(value, "off") != 0)
        mt_log("MEMTRACE_PYTHON is not one of auto, objects, frames, off", value, 0);
    return MT_PYTHON_MODE_OFF;
}

static void look(const struct link_map *object)
{
    if (mt_load_acquire(&mt_python_present))
        return;
    mt_python_detect(mt_real_find_sized, object, mode);
    if (!mt_load_acquire(&mt_python_present))
        return;
    if (mt_python_is_known() && mode == MT_PYTHON_MODE_OBJECTS && !mt_python_wrap(&mt_object_allocator)) {
        mt_writer_lost(&mt_state.writer, MT_LOSS_PYTHON_OBJECTS, 1);
        mt_log("Python runs already: its objects are not recorded, only its frames", NULL, 0);
    }
    if (!mt_python_is_known())
        mt_log("Python of a version that is not known: native stacks only", NULL, 0);
}

void mt_python_start(void)
{
    mode = read_mode();
    if (mode == MT_PYTHON_MODE_OFF)
        return;
    look(NULL);
    mt_stack_on_object = look;
}
