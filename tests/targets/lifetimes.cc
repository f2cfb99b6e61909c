// Allocations at the edges of a program's life: before main, at exit, in destructors of thread-local data.
#include <pthread.h>
#include <thread>

#include "target.h"

extern "C" void early_library_touch(void);

__attribute__((constructor)) static NOINLINE void before_main()
{
    for (int i = 0; i < 3; i++)
        keep(malloc(111));
}

struct Static {
    NOINLINE Static();
    NOINLINE ~Static();
};
Static::Static()
{
    keep(malloc(21));
}
Static::~Static()
{
    keep(malloc(31));
}
static Static global;

static NOINLINE void at_exit()
{
    for (int i = 0; i < 5; i++)
        keep(malloc(60));
}

static pthread_key_t key;
static NOINLINE void key_destroyed(void *)
{
    for (int i = 0; i < 2; i++)
        keep(malloc(90));
}

struct Local {
    int value = 1;
    NOINLINE ~Local();
};
Local::~Local()
{
    keep(malloc(45));
}
static thread_local Local local;

static NOINLINE void in_thread()
{
    keep(&local.value);
    pthread_setspecific(key, &key);
}

int main()
{
    early_library_touch();
    atexit(at_exit);
    pthread_key_create(&key, key_destroyed);
    for (int i = 0; i < 10; i++)
        std::thread(in_thread).join();
    return 0;
}
