/*
 * Python in the target: finding the interpreter, at the start and in objects that are loaded later (programs that embed one); its stacks, told.
 */
#include <link.h>
#include <string.h>

#include "hook/capture.h"
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
    if (mt_load_acquire(&mt_python_present) == MT_PYTHON_HERE)
        return;
    mt_python_detect(mt_real_find_sized, object, mode);
    if (mt_load_acquire(&mt_python_present) != MT_PYTHON_HERE)
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

uint32_t mt_emit_inner_stack(struct mt_thread *thread, const struct mt_registers *caller)
{
    bool is_new;
    uint32_t number, count = mt_python_walk_inner(&mt_state.stack, &thread->stack, &thread->python, caller, &number, &is_new);
    const uint32_t *frames = thread->python.rules.frames;
    uint64_t at;

    if (MT_UNLIKELY(!count))
        return MT_PYTHON_INNER_NONE;
    if (MT_LIKELY(!is_new))
        return number;
    if (!mt_reserve(thread, 2 + (count + 1) / 2)) {
        mt_python_forget(&thread->python);
        return number;
    }
    at = thread->position;
    *mt_word_at(thread, at++) = (uint64_t)number << MT_RECORD_OPERAND_SHIFT | MT_RECORD_INNER_STACK;
    *mt_word_at(thread, at++) = count;
    for (; count > 1; count -= 2)
        *mt_word_at(thread, at++) = frames[count - 1] | (uint64_t)frames[count - 2] << 32;
    if (count)
        *mt_word_at(thread, at++) = frames[0];
    thread->position = at;
    return number;
}

static MT_NOINLINE void emit_long_change(struct mt_thread *thread, struct mt_stack_change change)
{
    struct mt_stack_change part;
    uint64_t at;

    do {
        part = (struct mt_stack_change){change.keep, change.push < MT_RECORD_PUSH_MAX ? change.push : MT_RECORD_PUSH_MAX};
        if (!mt_reserve(thread, 2 + mt_change_words(&part))) {
            mt_python_forget(&thread->python);
            return;
        }
        at = thread->position;
        *mt_word_at(thread, at++) = MT_RECORD_PYTHON_STACK;
        *mt_word_at(thread, at++) = (uint64_t)part.keep << 32 | part.push;
        thread->position = mt_put_frames(thread, at, thread->python.frames, &part);
        change.keep += part.push;
        change.push -= part.push;
        if (MT_UNLIKELY(change.push))
            mt_publish(thread, thread->position); /* as much as a ring holds must not wait */
    } while (MT_UNLIKELY(change.push));
}

/*
 * Of no stamp, since it is no event; and not published, but with the event that follows in the same scope, which saves as much as half of
 * the time that this takes.
 */
void mt_emit_python_change(struct mt_thread *thread, struct mt_stack_change change)
{
    if (MT_UNLIKELY(change.push != 1 || change.keep > MT_RECORD_KEEP_MAX) || !mt_reserve(thread, 1)) {
        emit_long_change(thread, change);
        return;
    }
    *mt_word_at(thread, thread->position) =
        mt_record_step(change.keep, thread->python.frames[change.keep]) << MT_RECORD_OPERAND_SHIFT | MT_RECORD_PYTHON_STEP;
    thread->position++;
}
