/* dlopen, dlclose, dlopen of another library at the same address. argv: the two libraries. */
#include <dlfcn.h>

#include "target.h"

typedef void callback(int count);

static NOINLINE void hold(int count)
{
    for (int i = 0; i < count; i++)
        keep(malloc(10));
}

static NOINLINE void *visit(const char *path, const char *name, int count)
{
    void *handle = dlopen(path, RTLD_NOW);
    void (*enter)(callback *, int);
    void *symbol;

    CHECK(handle);
    symbol = dlsym(handle, name);
    CHECK(symbol);
    memcpy(&enter, &symbol, sizeof enter);
    enter(hold, count);
    CHECK(dlclose(handle) == 0);
    return symbol;
}

int main(int argc, char **argv)
{
    void *first, *second;

    CHECK(argc == 3);
    first = visit(argv[1], "enter_one", 30);
    second = visit(argv[2], "enter_two", 50);
    visit(argv[1], "enter_one", 7);
    say("%s\n", first == second ? "same" : "different");
    return 0;
}
