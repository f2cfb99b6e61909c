/*
 * A program that puts a system call filter on itself (seccomp) has not reckoned with memtrace's own calls: one that the filter answers with a
 * signal would end the program. So the filter is run here, before it is installed, on what memtrace may still call:
 *
 *   at any event    not allowed: recording ends here, for good, in this process and its children (loss reason `sandbox`)
 *   at a start      not allowed: children are not traced
 *   rarely          not allowed: left out
 *
 * Filters are installed by prctl() and syscall(); a program that does so by an instruction of its own is not seen.
 */
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "hook/hook.h"
#include "hook/real.h"

#if defined(__x86_64__)
#include "hook/arch/x86_64/syscall.h"
#define ARCHITECTURE AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define ARCHITECTURE AUDIT_ARCH_AARCH64
#endif

struct call {
    int number;
    uint64_t arguments[6]; /* pointers are 0: a filter cannot look behind them */
};

static const struct call at_any_event[] = {
    {SYS_rt_sigprocmask, {SIG_SETMASK, 0, 0, 8}},
    {SYS_rt_sigprocmask, {(uint64_t)~0L, 0, 0, 8}}, /* mt_sys_readable() */
    {SYS_futex, {0, FUTEX_WAIT}},
    {SYS_futex, {0, FUTEX_WAKE, 1}},
    {SYS_futex, {0, FUTEX_WAIT_PRIVATE, 2}},
    {SYS_futex, {0, FUTEX_WAKE_PRIVATE, 1}},
    {SYS_getpid, {0}},
    {SYS_gettid, {0}},
    {SYS_tgkill, {1, 1, 0}},
    {SYS_sigaltstack, {0}},
    {SYS_clock_gettime, {CLOCK_MONOTONIC}},
    {SYS_mmap, {0, MT_PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, (uint64_t)-1, 0}},
    {SYS_mremap, {0, 0, MT_PAGE_BYTES, MREMAP_MAYMOVE}},
    {SYS_munmap, {0, MT_PAGE_BYTES}},
    {SYS_madvise, {0, MT_PAGE_BYTES, MADV_DONTFORK}},
    {SYS_readlinkat, {(uint64_t)(int64_t)AT_FDCWD}},
    {SYS_getcwd, {0, 4096}},
};

static const struct call at_a_start[] = {
    {SYS_memfd_create, {0, 3}},
    {SYS_ftruncate, {4}},
    {SYS_fcntl, {4, 1033}},
    {SYS_prlimit64, {0}},
    {SYS_membarrier, {0}},
    {SYS_openat, {(uint64_t)(int64_t)AT_FDCWD}},
    {SYS_read, {4}},
    {SYS_close, {4}},
    {SYS_getppid, {0}},
    {SYS_geteuid, {0}},
    {SYS_socket, {1, 02000005}},
    {SYS_setsockopt, {4}},
    {SYS_getsockopt, {4}},
    {SYS_connect, {4}},
    {SYS_sendmsg, {4}},
    {SYS_ppoll, {0, 1}},
    {SYS_recvmsg, {4}},
    {SYS_socketpair, {1, 02000005}},
    {SYS_wait4, {1}},
    {SYS_faccessat, {(uint64_t)(int64_t)AT_FDCWD}},
};

static const struct call to_ask_the_reader[] = {
    {SYS_socket, {1, 02004005}}, {SYS_setsockopt, {4}}, {SYS_connect, {4}}, {SYS_getsockopt, {4}}, {SYS_geteuid, {0}}, {SYS_close, {4}}};

static const struct call to_read_files[] = {{SYS_openat, {(uint64_t)(int64_t)AT_FDCWD}}, {SYS_read, {4}}, {SYS_close, {4}}};

static bool alu(uint16_t code, uint32_t *a, uint32_t operand)
{
    switch (BPF_OP(code)) {
    case BPF_ADD:
        *a += operand;
        return true;
    case BPF_SUB:
        *a -= operand;
        return true;
    case BPF_MUL:
        *a *= operand;
        return true;
    case BPF_DIV:
        *a = operand ? *a / operand : 0;
        return operand != 0;
    case BPF_OR:
        *a |= operand;
        return true;
    case BPF_AND:
        *a &= operand;
        return true;
    case BPF_XOR:
        *a ^= operand;
        return true;
    case BPF_LSH:
        *a = operand < 32 ? *a << operand : 0;
        return true;
    case BPF_RSH:
        *a = operand < 32 ? *a >> operand : 0;
        return true;
    case BPF_NEG:
        *a = -*a;
        return true;
    default:
        return false;
    }
}

static bool jumps(uint16_t code, uint32_t a, uint32_t operand)
{
    switch (BPF_OP(code)) {
    case BPF_JEQ:
        return a == operand;
    case BPF_JGT:
        return a > operand;
    case BPF_JGE:
        return a >= operand;
    default: /* BPF_JSET */
        return (a & operand) != 0;
    }
}

/* What the filter answers: SECCOMP_RET_... Classic BPF as the kernel's seccomp allows it; anything else counts as a kill. */
static uint32_t run_filter(const struct sock_filter *code, size_t count, const struct seccomp_data *data)
{
    uint32_t a = 0, x = 0, memory[BPF_MEMWORDS] = {0};

    for (size_t pc = 0; pc < count; pc++) {
        const struct sock_filter *f = &code[pc];
        uint32_t operand = BPF_SRC(f->code) == BPF_X ? x : f->k;

        switch (BPF_CLASS(f->code)) {
        case BPF_LD:
        case BPF_LDX: {
            uint32_t value = f->k;

            if (BPF_MODE(f->code) == BPF_ABS) {
                if (f->k > sizeof *data - sizeof value || f->k % sizeof value)
                    return SECCOMP_RET_KILL_PROCESS;
                memcpy(&value, (const char *)data + f->k, sizeof value);
            } else if (BPF_MODE(f->code) == BPF_MEM) {
                value = memory[f->k % BPF_MEMWORDS];
            } else if (BPF_MODE(f->code) == BPF_LEN) {
                value = sizeof *data;
            }
            *(BPF_CLASS(f->code) == BPF_LD ? &a : &x) = value;
            break;
        }
        case BPF_ST:
            memory[f->k % BPF_MEMWORDS] = a;
            break;
        case BPF_STX:
            memory[f->k % BPF_MEMWORDS] = x;
            break;
        case BPF_ALU:
            if (!alu(f->code, &a, operand))
                return SECCOMP_RET_KILL_PROCESS;
            break;
        case BPF_JMP:
            pc += BPF_OP(f->code) == BPF_JA ? f->k : jumps(f->code, a, operand) ? f->jt : f->jf;
            break;
        case BPF_RET:
            return BPF_RVAL(f->code) == BPF_A ? a : f->k;
        default: /* BPF_MISC */
            if (BPF_MISCOP(f->code) == BPF_TAX)
                x = a;
            else
                a = x;
            break;
        }
    }
    return SECCOMP_RET_KILL_PROCESS;
}

/* refusal_will_do: an error instead of the call's work is handled where the call is made. */
static bool allows(const struct sock_fprog *filter, const struct call *calls, size_t count, bool refusal_will_do)
{
    for (size_t i = 0; i < count; i++) {
        struct seccomp_data data = {calls[i].number, ARCHITECTURE, 0, {0}};
        uint32_t action;

        memcpy(data.args, calls[i].arguments, sizeof data.args);
        action = run_filter(filter->filter, filter->len, &data) & SECCOMP_RET_ACTION_FULL;
        if (action != SECCOMP_RET_ALLOW && action != SECCOMP_RET_LOG && !(refusal_will_do && action == SECCOMP_RET_ERRNO))
            return false;
    }
    return true;
}

/* A child that was forked a moment ago starts now or never. False: nothing is recorded here, or by the parent (a vfork child). */
static bool is_recording(void)
{
    if (mt_load_relaxed(&mt_state.mode) == MT_MODE_NEW)
        mt_start();
    return mt_is_own_process();
}

/* No event from here on makes a system call, in this process or one forked from it. New images lose the preload. */
static void stop_recording(void)
{
    uint64_t signals;

    mt_settings.follow = false;
    mt_settings.untraced = true;
    mt_log("a system call filter: untraced from here on", NULL, 0);
    mt_writer_lost(&mt_state.writer, MT_LOSS_SANDBOX, 1);
    mt_sys_signals_block(&signals);
    mt_lock_acquire(&mt_state.lock);
    mt_store_release(&mt_state.mode, (uint32_t)MT_MODE_OFF);
    mt_store_release(&mt_state.epoch, ++mt_settings.last_epoch); /* what threads have cached is no longer good */
    mt_lock_release(&mt_state.lock);
    mt_sys_madvise(&mt_state_pages, sizeof mt_state_pages, MADV_KEEPONFORK);
    mt_sys_signals_restore(&signals);
}

#define ALLOWS(filter, calls, refusal_will_do) allows(filter, calls, MT_ARRAY_LEN(calls), refusal_will_do)

/* A filter is about to be installed. Whatever is wrong with it is for the kernel to say. */
static void before_filter(const struct sock_fprog *filter)
{
    const char *code;

    if (!filter || !is_recording() || !mt_sys_readable(filter) || !mt_sys_readable((const char *)(filter + 1) - 8))
        return;
    code = (const char *)filter->filter;
    if (!code || !filter->len || filter->len > BPF_MAXINSNS)
        return;
    for (size_t at = 0; at < filter->len * sizeof(struct sock_filter); at += 8)
        if (!mt_sys_readable(code + at))
            return;
    if (!ALLOWS(filter, at_any_event, false)) {
        stop_recording();
        return;
    }
    if (!ALLOWS(filter, at_a_start, true))
        mt_settings.follow = false;
    if (!ALLOWS(filter, to_ask_the_reader, true))
        mt_settings.no_questions = true;
    if (!ALLOWS(filter, to_read_files, true))
        mt_settings.no_files = true;
}

static void before_prctl(int option, unsigned long mode, const void *filter)
{
    int error = errno;

    if (option == PR_SET_SECCOMP && mode == SECCOMP_MODE_STRICT && is_recording())
        stop_recording();
    else if (option == PR_SET_SECCOMP && mode == SECCOMP_MODE_FILTER)
        before_filter(filter);
    errno = error;
}

int prctl(int option, ...);
MT_EXPORT int prctl(int option, ...)
{
    unsigned long a[4];
    va_list args;
    long r;

    va_start(args, option);
    for (size_t i = 0; i < MT_ARRAY_LEN(a); i++)
        a[i] = va_arg(args, unsigned long);
    va_end(args);
    if (MT_UNLIKELY(option == PR_SET_SECCOMP))
        before_prctl(option, a[0], (const void *)a[1]);
    if (MT_LIKELY(mt_real()->prctl != NULL))
        return mt_real()->prctl(option, a[0], a[1], a[2], a[3]);
    r = mt_sys5(SYS_prctl, option, a[0], a[1], a[2], a[3]);
    if (r < 0)
        errno = (int)-r;
    return r < 0 ? -1 : (int)r;
}

/* seccomp(), and whatever is called before the real syscall() is known. */
long mt_syscall_here(long number, long a, long b, long c, long d, long e, long f) MT_HIDDEN;
long mt_syscall_here(long number, long a, long b, long c, long d, long e, long f)
{
    int error = errno;
    long r;

    mt_real();
    if (number == SYS_seccomp && a == SECCOMP_SET_MODE_STRICT && !b && !c && is_recording())
        stop_recording();
    else if (number == SYS_seccomp && a == SECCOMP_SET_MODE_FILTER)
        before_filter((const void *)c);
    errno = error;
    r = mt_sys6(number, a, b, c, d, e, f);
    if ((unsigned long)r < (unsigned long)-4095)
        return r;
    errno = (int)-r;
    return -1;
}

long syscall(long number, ...);
#ifdef MT_SYSCALL_STUB
MT_SYSCALL_STUB
#else
MT_EXPORT long syscall(long number, ...)
{
    va_list args;
    long a[6];

    va_start(args, number);
    for (size_t i = 0; i < MT_ARRAY_LEN(a); i++)
        a[i] = va_arg(args, long);
    va_end(args);
    return mt_syscall_here(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
#endif
