/*
 * The functions behind include/memtrace.h. What happens to memory at a mark is read here, by the target at that very point.
 */
#include "hook/capture.h"
#include "hook/emit.h"
#include "hook/hook.h"

#define CURRENT_SLICE_NS 200000
#define CURRENT_WAIT_NS UINT64_C(5000000000)

/* resident, total: the second and first figure of /proc/self/statm, in bytes. */
static void read_statm(uint64_t *ret_resident, uint64_t *ret_total)
{
    char text[128];
    uint64_t figures[2] = {0, 0};
    unsigned at = 0;
    int fd = mt_settings.no_files ? -EPERM : mt_sys_open("/proc/self/statm", O_RDONLY);
    long n = fd >= 0 ? mt_sys_read(fd, text, sizeof text) : 0;

    if (fd >= 0)
        mt_sys_close(fd);
    for (long i = 0; i < n && at < 2; i++) {
        if (text[i] >= '0' && text[i] <= '9')
            figures[at] = figures[at] * 10 + (uint64_t)(text[i] - '0');
        else
            at++;
    }
    *ret_total = figures[0] * MT_PAGE_BYTES;
    *ret_resident = figures[1] * MT_PAGE_BYTES;
}

static void emit_instant_of(enum mt_record_type type, uint64_t operand, const char *name)
{
    uint64_t extra[MT_RECORD_MARK_WORDS] = {0, 0, 0};

    read_statm(&extra[0], &extra[1]);
    mt_emit_text(type, operand, extra, MT_RECORD_MARK_WORDS, name);
}

static void emit_instant(enum mt_record_type type, const char *name)
{
    emit_instant_of(type, 0, name);
}

void memtrace_mark(const char *name);
void memtrace_phase_begin(const char *name);
void memtrace_phase_end(const char *name);
void memtrace_iteration(const char *label);
void memtrace_snapshot(const char *label);
void memtrace_pause(void);
void memtrace_resume(void);
unsigned memtrace_heap_create(const char *name);
void memtrace_heap_alloc(unsigned heap, const void *ptr, size_t size);
void memtrace_heap_free(unsigned heap, const void *ptr);

MT_EXPORT void memtrace_mark(const char *name)
{
    emit_instant(MT_RECORD_MARK, name);
}

MT_EXPORT void memtrace_phase_begin(const char *name)
{
    emit_instant(MT_RECORD_PHASE_BEGIN, name);
}

MT_EXPORT void memtrace_phase_end(const char *name)
{
    emit_instant(MT_RECORD_PHASE_END, name);
}

MT_EXPORT void memtrace_iteration(const char *label)
{
    emit_instant(MT_RECORD_ITERATION, label);
}

MT_EXPORT void memtrace_snapshot(const char *label)
{
    emit_instant(MT_RECORD_SNAPSHOT, label);
}

MT_EXPORT void memtrace_pause(void)
{
    mt_emit_plain(MT_RECORD_PAUSE, 0, 0, 0);
    mt_store_relaxed(&mt_state.paused, 1u);
}

MT_EXPORT void memtrace_resume(void)
{
    mt_store_relaxed(&mt_state.paused, 0u);
    mt_emit_plain(MT_RECORD_RESUME, 0, 0, 0);
}

/*
 * Asks for the reader's figures by the end of a phase that never began: it has no other effect than a sample at this very point, which the reader
 * publishes (reader/sample.c). The question has a number, which the answer has, too: what the reader says on the way there is older. An answer to a later
 * question is as good, since that was asked later.
 */
int memtrace_current(unsigned long long *figures);
MT_EXPORT int memtrace_current(unsigned long long *figures)
{
    struct mt_segment_header *header;
    struct mt_doorbell *bell;
    uint64_t start_ns, wanted;

    if (!mt_is_own_process())
        return 0;
    header = mt_state.writer.header;
    bell = mt_state.doorbell;
    wanted = mt_fetch_add_relaxed(&mt_state.figures_asked, 1u) + 1;
    emit_instant_of(MT_RECORD_PHASE_END, wanted, MT_PHASE_FIGURES);
    start_ns = mt_sys_clock_ns(CLOCK_MONOTONIC);
    while (mt_load_acquire(&header->figures_sequence) < wanted) {
        const struct timespec slice = {0, CURRENT_SLICE_NS};

        if (mt_load_relaxed(&header->reader_gone) || mt_sys_clock_ns(CLOCK_MONOTONIC) - start_ns > CURRENT_WAIT_NS)
            return 0;
        mt_fetch_add_acq_rel(&bell->bell, 1u);
        mt_sys_futex_wake(&bell->bell, 1, true);
        mt_sys2(SYS_nanosleep, &slice, NULL);
    }
    figures[0] = mt_load_relaxed(&header->figures_native);
    figures[1] = mt_load_relaxed(&header->figures_python);
    return 1;
}

MT_EXPORT unsigned memtrace_heap_create(const char *name)
{
    uint64_t id;

    if (!mt_is_own_process())
        return 0;
    id = mt_fetch_add_relaxed(&mt_state.heaps, 1u) + 1;
    mt_emit_text(MT_RECORD_HEAP_CREATE, id, NULL, 0, name);
    return (unsigned)id;
}

MT_EXPORT void memtrace_heap_alloc(unsigned heap, const void *ptr, size_t size)
{
    struct mt_registers caller = MT_CALLER_REGISTERS();

    if (heap && ptr)
        mt_emit_stack(MT_RECORD_HEAP_ALLOC, (uintptr_t)ptr, (const uint64_t[]){size, heap}, 2, &caller);
}

MT_EXPORT void memtrace_heap_free(unsigned heap, const void *ptr)
{
    if (heap && ptr)
        mt_emit_plain(MT_RECORD_HEAP_FREE, (uintptr_t)ptr, 1, heap);
}
