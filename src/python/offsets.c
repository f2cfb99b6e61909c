/*
 * Where things are in CPython's structures, on 64-bit machines. From 3.13 on the interpreter says much of it itself, in the structure that its
 * runtime begins with (_Py_DebugOffsets), whose own layout differs by minor version; what it does not say is in the tables.
 */
#include <string.h>

#include "python/internal.h"

#define STRINGS_3_11                                                                                                   \
    .string_length = 16, .string_state = 32, .string_ascii = 48, .string_compact = 72, .string_kind_shift = 2,         \
    .string_kind_mask = 0x1c, .string_is_compact = 0x20, .string_is_ascii = 0x40
#define STRINGS                                                                                                        \
    .string_length = 16, .string_state = 32, .string_ascii = 40, .string_compact = 56, .string_kind_shift = 2,         \
    .string_kind_mask = 0x1c, .string_is_compact = 0x20, .string_is_ascii = 0x40
#define STRINGS_3_13T                                                                                                  \
    .string_length = 32, .string_state = 48, .string_ascii = 56, .string_compact = 72, .string_kind_shift = 2,         \
    .string_kind_mask = 0x1c, .string_is_compact = 0x20, .string_is_ascii = 0x40
#define STRINGS_3_14T                                                                                                  \
    .string_length = 32, .string_state = 48, .string_ascii = 56, .string_compact = 72, .string_kind_shift = 8,         \
    .string_kind_mask = 0x700, .string_is_compact = 0x800, .string_is_ascii = 0x1000
#define OBJECTS .object_type = 8, .bytes_size = 16, .bytes_data = 32
#define OBJECTS_T .object_type = 24, .bytes_size = 32, .bytes_data = 48

static const struct known {
    unsigned minor;
    bool free_threaded;
    struct mt_python_offsets offsets;
} known[] = {
    {11, false,
        {.tstate_cframe = 56, .tstate_frame = 8, .frame_code = 32, .frame_previous = 48, .frame_instruction = 56,
            .frame_owner = 69, .frame_is_entry = 68, .code_first_line = 72, .code_filename = 112, .code_qualname = 128,
            .code_lines = 136, .code_bytecode = 184, .code_first_traceable = 168, OBJECTS, STRINGS_3_11,
            .runtime_finalizing = 24, .runtime_core_initialized = 12}},
    {12, false,
        {.tstate_cframe = 56, .tstate_frame = 0, .frame_code = 0, .frame_previous = 8, .frame_instruction = 56,
            .frame_owner = 70, .code_first_line = 68, .code_version = 92, .code_filename = 112, .code_qualname = 128,
            .code_lines = 136, .code_bytecode = 192, .code_first_traceable = 176, OBJECTS, STRINGS,
            .runtime_finalizing = 24, .runtime_core_initialized = 12}},
    {13, false,
        {.tstate_frame = 72, .frame_code = 0, .frame_previous = 8, .frame_instruction = 56, .frame_owner = 70,
            .code_first_line = 68, .code_version = 92, .code_filename = 112, .code_qualname = 128, .code_lines = 136,
            .code_bytecode = 200, .code_first_traceable = 184, OBJECTS, STRINGS, .runtime_finalizing = 608,
            .runtime_core_initialized = 596}},
    {13, true,
        {.tstate_frame = 72, .frame_code = 0, .frame_previous = 8, .frame_instruction = 56, .frame_owner = 70,
            .code_first_line = 84, .code_version = 108, .code_filename = 128, .code_qualname = 144, .code_lines = 152,
            .code_bytecode = 216, .code_first_traceable = 200, OBJECTS_T, STRINGS_3_13T, .runtime_finalizing = 608,
            .runtime_core_initialized = 596}},
    {14, false,
        {.tstate_frame = 72, .frame_code = 0, .frame_previous = 8, .frame_instruction = 56, .frame_owner = 74,
            .code_first_line = 68, .code_version = 92, .code_filename = 112, .code_qualname = 128, .code_lines = 136,
            .code_bytecode = 208, .code_first_traceable = 192, OBJECTS, STRINGS, .runtime_finalizing = 784,
            .runtime_core_initialized = 772}},
    {14, true,
        {.tstate_frame = 72, .frame_code = 0, .frame_previous = 8, .frame_instruction = 56, .frame_owner = 78,
            .frame_tlbc = 72, .code_first_line = 84, .code_version = 108, .code_filename = 128, .code_qualname = 144,
            .code_lines = 152, .code_bytecode = 232, .code_first_traceable = 208, .code_tlbc = 224, OBJECTS_T,
            STRINGS_3_14T, .runtime_finalizing = 784, .runtime_core_initialized = 772}},
};

/* One figure of _Py_DebugOffsets, where it makes sense. */
static void take(const char *runtime, size_t at, uint16_t *to)
{
    uint64_t value;

    memcpy(&value, runtime + at, sizeof value);
    if (value < 2048)
        *to = (uint16_t)value;
}

static void take_from_runtime(const char *runtime, unsigned minor, struct mt_python_offsets *o)
{
    bool later = minor >= 14;

    take(runtime, later ? 208 : 184, &o->tstate_frame);
    take(runtime, later ? 256 : 232, &o->frame_previous);
    take(runtime, later ? 264 : 240, &o->frame_code);
    take(runtime, later ? 272 : 248, &o->frame_instruction);
    take(runtime, later ? 288 : 264, &o->frame_owner);
    take(runtime, later ? 320 : 280, &o->code_filename);
    take(runtime, later ? 336 : 296, &o->code_qualname);
    take(runtime, later ? 344 : 304, &o->code_lines);
    take(runtime, later ? 352 : 312, &o->code_first_line);
    take(runtime, later ? 384 : 344, &o->code_bytecode);
}

bool mt_python_offsets(
    uint32_t version, const char *runtime, struct mt_python_offsets *ret_offsets, bool *ret_free_threaded)
{
    unsigned minor = version >> 16 & 0xff;
    bool describes_itself = memcmp(runtime, "xdebugpy", 8) == 0, free_threaded = false;

    if (version >> 24 != 3 || (minor >= 13) != describes_itself)
        return false;
    if (describes_itself)
        free_threaded = *(const uint64_t *)(runtime + 16) != 0;
    for (size_t i = 0; i < MT_ARRAY_LEN(known); i++) {
        if (known[i].minor != minor || known[i].free_threaded != free_threaded)
            continue;
        *ret_offsets = known[i].offsets;
        *ret_free_threaded = free_threaded;
        if (describes_itself)
            take_from_runtime(runtime, minor, ret_offsets);
        return true;
    }
    return false;
}
