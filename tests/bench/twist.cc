// Stacks that do not go up and down in order, millions of them: what MEMTRACE_VERIFY=1 is to be tried on.
//
//   twist exceptions|signals|contexts|reload COUNT [PLUGIN_ONE PLUGIN_TWO]
//
// About COUNT allocations: with exceptions thrown through frames that allocate while they unwind; in signal handlers, on an alternate stack
// too, left by siglongjmp now and then; on stacks switched by swapcontext; below libraries that are closed and replaced by others at the
// same address.
#include <alloca.h>
#include <csetjmp>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <string>
#include <sys/mman.h>
#include <sys/time.h>
#include <ucontext.h>

#define NOINLINE __attribute__((noinline))

static void *volatile sink;
static uint64_t state = 88172645463325252u;

static uint64_t any(uint64_t below)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state % below;
}

static NOINLINE void touch()
{
    void *p = malloc(16 + any(64));

    sink = p;
    free(p);
}

static NOINLINE void frames(int depth, void (*at_bottom)());

// A frame of a size that is known only when it is made: found by its frame pointer.
static NOINLINE void wide(int depth, void (*at_bottom)())
{
    char *hole = static_cast<char *>(alloca(16 + any(300)));

    hole[0] = 1;
    sink = hole;
    touch();
    frames(depth - 1, at_bottom);
    hole[1] = hole[0];
}

static NOINLINE void frames(int depth, void (*at_bottom)())
{
    if (depth <= 0)
        at_bottom();
    else if (any(4) == 0)
        wide(depth, at_bottom);
    else
        frames(depth - 1, at_bottom);
    sink = nullptr;
}

// ---- exceptions ----

struct Guard {
    std::string text = std::string(40, 'x');
    ~Guard() { touch(); }
};

static NOINLINE void thrower(int depth)
{
    Guard guard;

    if (depth <= 0)
        throw std::string(100, 'e');
    if (any(3) == 0) {
        try {
            thrower(depth - 1);
        } catch (const std::string &) {
            touch();
            throw;
        }
    } else {
        thrower(depth - 1);
    }
    sink = nullptr;
}

static NOINLINE void exceptions(long count)
{
    for (long i = 0; i < count; i += 40) {
        try {
            thrower(static_cast<int>(any(12)));
        } catch (const std::string &) {
            touch();
        }
        frames(static_cast<int>(any(12)), touch);
    }
}

// ---- signals ----

static sigjmp_buf back;
static volatile sig_atomic_t may_jump;

static NOINLINE void on_signal(int)
{
    frames(static_cast<int>(any(5)), touch);
    if (may_jump && any(4) == 0) {
        may_jump = 0;
        siglongjmp(back, 1);
    }
}

// Runs anywhere, in the middle of malloc too: mmap is legal there.
static NOINLINE void on_timer(int)
{
    void *p = mmap(nullptr, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (p != MAP_FAILED)
        munmap(p, 4096);
}

static NOINLINE void raise_one()
{
    touch();
    raise(any(2) ? SIGUSR1 : SIGUSR2);
    touch();
}

static void signals(long count)
{
    static char alternate[65536];
    stack_t stack = {};
    struct sigaction action = {};
    struct itimerval timer = {{0, 1000}, {0, 1000}};

    stack.ss_sp = alternate;
    stack.ss_size = sizeof alternate;
    sigaltstack(&stack, nullptr);
    action.sa_handler = on_signal;
    action.sa_flags = SA_NODEFER;
    sigaction(SIGUSR1, &action, nullptr);
    action.sa_flags = SA_ONSTACK;
    sigaction(SIGUSR2, &action, nullptr);
    action.sa_handler = on_timer;
    action.sa_flags = SA_RESTART;
    sigaction(SIGALRM, &action, nullptr);
    setitimer(ITIMER_REAL, &timer, nullptr);
    for (volatile long i = 0; i < count; i += 8) {
        if (sigsetjmp(back, 1) == 0) {
            may_jump = 1;
            frames(static_cast<int>(any(10)), raise_one);
        }
        may_jump = 0;
        touch();
    }
    timer = {};
    setitimer(ITIMER_REAL, &timer, nullptr);
}

// ---- contexts ----

enum { CONTEXTS = 8, STACK_BYTES = 65536 };
static ucontext_t scheduler, contexts_of[CONTEXTS];
static int running;

static NOINLINE void step_aside()
{
    touch();
    swapcontext(&contexts_of[running], &scheduler);
    touch();
}

static void coroutine()
{
    for (;;)
        frames(static_cast<int>(any(20)), step_aside);
}

static void contexts(long count)
{
    for (auto &context : contexts_of) {
        getcontext(&context);
        context.uc_stack.ss_sp = mmap(nullptr, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        context.uc_stack.ss_size = STACK_BYTES;
        makecontext(&context, coroutine, 0);
    }
    for (long i = 0; i < count; i += 5) {
        running = static_cast<int>(any(CONTEXTS));
        swapcontext(&scheduler, &contexts_of[running]);
        touch();
    }
}

// ---- libraries ----

static void hold(int count)
{
    for (int i = 0; i < count; i++)
        frames(static_cast<int>(any(4)), touch);
}

static void reload(long count, const char *const paths[2])
{
    static const char *const names[2] = {"enter_one", "enter_two"};

    for (long i = 0; i < count; i += 100) {
        unsigned which = static_cast<unsigned>(any(2));
        void *handle = dlopen(paths[which], RTLD_NOW), *symbol = handle ? dlsym(handle, names[which]) : nullptr;
        void (*enter)(void (*)(int), int);

        if (!symbol)
            exit(1);
        memcpy(&enter, &symbol, sizeof enter);
        enter(hold, 55);
        dlclose(handle);
    }
}

int main(int argc, char **argv)
{
    const std::string kind = argc > 1 ? argv[1] : "";
    const long count = argc > 2 ? atol(argv[2]) : 1000000;

    if (kind == "exceptions")
        exceptions(count);
    else if (kind == "signals")
        signals(count);
    else if (kind == "contexts")
        contexts(count);
    else if (kind == "reload" && argc == 5)
        reload(count, argv + 3);
    else
        return 2;
    return 0;
}
