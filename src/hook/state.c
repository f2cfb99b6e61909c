/*
 * The process's state: start at the first event (or in the constructor, whichever comes first), forked children, the end.
 */
#include "hook/hook.h"

#include <linux/membarrier.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <unistd.h>

#include "base/slow_stack.h"
#include "hook/emit.h"
#include "hook/real.h"

struct mt_state_pages mt_state_pages;
struct mt_settings mt_settings;
__thread struct mt_tls mt_tls = {.gate = MT_GATE_NEW};

/* The loader's record of where the initial stack ends: argc lies there. Good before libc has set up environ. */
extern void *__libc_stack_end;

#define COMMIT_WAIT_NS UINT64_C(60000000000)
#define COMMIT_SLICE_NS UINT64_C(100000000)
#define COMMIT_STALL_NS UINT64_C(10000000000)

/* ---- saying ---------------------------------------------------------------------------------------------------- */

static size_t append(char *line, size_t at, size_t size, const char *text)
{
    while (text && *text && at < size)
        line[at++] = *text++;
    return at;
}

void mt_log(const char *what, const char *which, int error)
{
    char line[512];
    size_t n;

    if (!mt_settings.log)
        return;
    n = append(line, 0, sizeof line - 1, "memtrace: ");
    n = append(line, n, sizeof line - 1, what);
    if (which) {
        n = append(line, n, sizeof line - 1, " (");
        n = append(line, n, sizeof line - 1, which);
        n = append(line, n, sizeof line - 1, ")");
    }
    if (error) {
        const char *words = strerrordesc_np(error);

        n = append(line, n, sizeof line - 1, ": ");
        n = append(line, n, sizeof line - 1, words ? words : "unknown error");
    }
    line[n++] = '\n';
    mt_sys_write(2, line, n);
}

/* ---- settings -------------------------------------------------------------------------------------------------- */

static const char *variable(char **environment, const char *name)
{
    size_t n = strlen(name);

    for (char **e = environment; e && *e; e++)
        if (strncmp(*e, name, n) == 0 && (*e)[n] == '=')
            return *e + n + 1;
    return NULL;
}

static bool is_on(const char *value, bool otherwise)
{
    return value && value[0] ? !(value[0] == '0' && !value[1]) : otherwise;
}

static void read_settings(void)
{
    long argc = *(long *)__libc_stack_end;
    char **environment = (char **)__libc_stack_end + 1 + argc + 1;
    const char *socket;

    mt_settings.environment = environment;
    mt_settings.log = is_on(variable(environment, MT_ENV_LOG), false);
    mt_settings.follow = is_on(variable(environment, MT_ENV_FOLLOW), true);
    mt_settings.verify = is_on(variable(environment, MT_ENV_VERIFY), false);
    mt_settings.reader_path = variable(environment, MT_ENV_READER);
    mt_settings.path = variable(environment, "PATH");
    socket = variable(environment, MT_ENV_SOCKET);
    if (socket && strlen(socket) < sizeof mt_settings.socket)
        memcpy(mt_settings.socket, socket, strlen(socket) + 1);
    /* Not from behind the environment on the stack: in a secure start the loader has taken variables out of it, and their room is left. */
    if (getauxval(AT_SECURE))
        mt_settings.untraced = true;
    mt_settings.read = true;
}

/* ---- start ----------------------------------------------------------------------------------------------------- */

static bool clocksource_is_tsc(void)
{
#if defined(__x86_64__)
    char name[8] = "";
    int fd = mt_sys_open("/sys/devices/system/clocksource/clocksource0/current_clocksource", O_RDONLY);
    long n = fd >= 0 ? mt_sys_read(fd, name, sizeof name - 1) : -1;

    if (fd >= 0)
        mt_sys_close(fd);
    /* The kernel watches the counters of all processors for drift and gives up on them when they part. kvm-clock is the
     * counter too, scaled per virtual machine. */
    return n >= 3 && (memcmp(name, "tsc", 3) == 0 || memcmp(name, "kvm", 3) == 0);
#else
    return mt_clock_tsc_is_fine();
#endif
}

static int start_tracing(void)
{
    uint32_t flags = 0;
    bool fences, tsc;
    int r;

    tsc = clocksource_is_tsc();
    fences = mt_sys3(SYS_membarrier, MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED, 0, 0) == 0;
    flags |= tsc ? MT_SEGMENT_STAMP_TSC : 0;
    flags |= fences ? MT_SEGMENT_ASYMMETRIC_FENCE : 0;
    r = mt_link_open(&mt_state.writer, &mt_state.doorbell, flags, &mt_state.root);
    if (r < 0)
        return r;
    mt_state.full_fence = !fences;
    mt_state.sequence_stamps = !tsc;
    mt_state.base_stamp = mt_state.writer.header->base_stamp;
    if (mt_state.root)
        mt_state.writer.header->flags |= MT_SEGMENT_ROOT;
    return mt_stack_init(&mt_state.stack, &mt_state.writer, &mt_state.lock, mt_settings.verify);
}

static void start(void)
{
    if (!mt_settings.read)
        read_settings();
    if (mt_settings.last_epoch)
        mt_settings.forked = true;
    mt_state.pid = mt_sys_getpid();
    if (mt_settings.forked && !mt_settings.follow)
        mt_settings.untraced = true;
    /* Without the wiping a forked child would write into its parent's rings. */
    if (!mt_settings.untraced && (mt_sys_madvise(&mt_state_pages, sizeof mt_state_pages, MADV_WIPEONFORK) < 0 ||
                                     start_tracing() < 0))
        mt_settings.untraced = true;
    mt_store_release(&mt_state.mode, (uint32_t)(mt_settings.untraced ? MT_MODE_OFF : MT_MODE_ON));
}

static void start_slowly(void *context)
{
    (void)context;
    start();
    mt_settings.last_epoch++;
    mt_store_release(&mt_state.epoch, mt_settings.last_epoch);
}

void MT_COLD mt_start(void)
{
    uint64_t signals;

    mt_sys_signals_block(&signals);
    mt_lock_acquire(&mt_state.lock);
    if (mt_state.mode == MT_MODE_NEW)
        mt_on_slow_stack(start_slowly, NULL);
    mt_lock_release(&mt_state.lock);
    mt_sys_signals_restore(&signals);
}

bool MT_COLD mt_attach(void)
{
    struct mt_tls *tls = &mt_tls;
    uint64_t signals;

    if (mt_load_relaxed(&mt_state.mode) == MT_MODE_OFF)
        return false;
    if (mt_load_acquire(&mt_state.epoch) == 0)
        mt_start();
    if (mt_state.mode != MT_MODE_ON)
        return false;
    mt_sys_signals_block(&signals);
    mt_lock_acquire(&mt_state.lock);
    if (mt_gate_epoch(tls->gate) != mt_state.epoch) {
        /* serving and real_sp stay: the first event may be a mapping made inside an allocator's call. */
        tls->thread = mt_thread_get();
        tls->gate = (tls->gate & ~(MT_GATE_SERVING - 1)) | (tls->thread ? mt_state.epoch : MT_GATE_NEW);
        if (tls->thread) {
            tls->chains = tls->thread->stack.chains;
            tls->chain_shift = tls->thread->stack.chain_shift;
        }
    }
    mt_lock_release(&mt_state.lock);
    mt_sys_signals_restore(&signals);
    if (!tls->thread) {
        mt_writer_lost(&mt_state.writer, MT_LOSS_RING_MEMORY, 1);
        return false;
    }
    mt_emit_plain(MT_RECORD_THREAD, (uint64_t)tls->thread->ring->owner_tid, 0, 0);
    return true;
}

bool mt_is_own_process(void)
{
    return mt_state.mode == MT_MODE_ON && mt_state.pid == mt_sys_getpid();
}

/* ---- the end --------------------------------------------------------------------------------------------------- */

void mt_wait_for_commit(void)
{
    struct mt_segment_header *header = mt_state.writer.header;
    struct mt_doorbell *bell = mt_state.doorbell;
    uint64_t start_ns = mt_sys_clock_ns(CLOCK_MONOTONIC), moved_ns = start_ns, progress;
    uint32_t wanted;

    if (mt_state.mode != MT_MODE_ON || mt_load_relaxed(&header->reader_gone))
        return;
    header->private_bytes = mt_state.stack.private_bytes;
    wanted = mt_fetch_add_acq_rel(&header->commit_wanted, 1u) + 1;
    mt_fetch_add_acq_rel(&bell->bell, 1u);
    mt_sys_futex_wake(&bell->bell, 1, true);
    progress = mt_load_relaxed(&bell->progress);
    for (;;) {
        uint32_t done = mt_load_acquire(&header->commit_done);
        uint64_t now_ns = mt_sys_clock_ns(CLOCK_MONOTONIC), p = mt_load_relaxed(&bell->progress);

        if ((int32_t)(done - wanted) >= 0 || now_ns - start_ns > COMMIT_WAIT_NS)
            return;
        if (p != progress) {
            progress = p;
            moved_ns = now_ns;
        }
        if (now_ns - moved_ns > COMMIT_SLICE_NS && !mt_link_reader_alive()) {
            mt_log("the reader died before the end of the run", NULL, 0);
            return;
        }
        if (now_ns - moved_ns > COMMIT_STALL_NS)
            return;
        mt_sys_futex_wait(&header->commit_done, done, COMMIT_SLICE_NS, true);
    }
}

/* Registered before main and before the loader's own exit handler, hence run after everything else. */
static void at_exit(int status, void *context)
{
    (void)context;
    if (!mt_is_own_process())
        return;
    mt_emit_plain(MT_RECORD_EXIT, MT_EXIT_EXIT, 1, (uint64_t)(unsigned)status);
    if (mt_state.root)
        mt_wait_for_commit();
}

/*
 * Lets children that are started behind the hooks' back (system(), popen()) find library and reader (or, with MEMTRACE_FOLLOW=0, not): environ
 * gets one more entry, in memory of our own, so that the target's heap stays as it is. setenv() copes with an environ that it did not allocate.
 */
static void extend_environment(void)
{
    static char entry[sizeof "MEMTRACE_SOCKET=" + MT_SOCKET_NAME_MAX_BYTES] = "MEMTRACE_SOCKET=";
    /* This constructor runs before the C library's own, which sets environ. */
    char **old = environ ? environ : mt_settings.environment, **fresh;
    size_t n = 0, kept = 0;

    while (old && old[n])
        n++;
    fresh = mt_sys_pages(mt_round_up((n + 2) * sizeof *fresh, MT_PAGE_BYTES));
    if (!fresh)
        return;
    memcpy(entry + sizeof "MEMTRACE_SOCKET=" - 1, mt_settings.socket, strlen(mt_settings.socket) + 1);
    for (size_t i = 0; i < n; i++)
        if (strncmp(old[i], "MEMTRACE_SOCKET=", sizeof "MEMTRACE_SOCKET=" - 1) != 0)
            fresh[kept++] = (char *)mt_process_preload(old[i]);
    if (mt_settings.follow)
        fresh[kept++] = entry;
    fresh[kept] = NULL;
    environ = fresh;
}

__attribute__((constructor)) static void construct(void)
{
    int saved_errno = errno;

    mt_real();
    if (mt_state.mode == MT_MODE_NEW)
        mt_start();
    if (mt_state.mode == MT_MODE_ON) {
        uint64_t signals;
        int r;

        mt_sys_signals_block(&signals);
        mt_stack_internal++;
        r = mt_stack_load_unwinder();
        mt_process_watch();
        mt_python_start();
        on_exit(at_exit, NULL);
        mt_stack_internal--;
        mt_sys_signals_restore(&signals);
        if (r < 0) {
            mt_writer_lost(&mt_state.writer, MT_LOSS_UNWINDER, 1);
            mt_log("libunwind cannot be loaded: stacks are one frame deep", NULL, 0);
        }
        extend_environment();
    }
    errno = saved_errno;
}
