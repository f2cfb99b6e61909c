// new and delete in their forms, and exceptions thrown through many frames that allocate while they unwind.
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "target.h"

struct Thing {
    char bytes[48];
};

static void *held[400];

NOINLINE void hold_objects()
{
    for (int i = 0; i < 20; i++)
        held[i] = keep(new Thing);
}

NOINLINE void hold_arrays()
{
    for (int i = 0; i < 5; i++)
        held[20 + i] = keep(new Thing[10]);
}

struct alignas(256) Wide {
    char bytes[256];
};

NOINLINE void hold_aligned()
{
    for (int i = 0; i < 4; i++) {
        held[30 + i] = keep(new Wide);
        CHECK((reinterpret_cast<uintptr_t>(held[30 + i]) & 255) == 0);
    }
}

NOINLINE void churn_objects()
{
    for (int i = 0; i < 300; i++)
        delete static_cast<Thing *>(keep(new (std::nothrow) Thing));
}

// Allocates 32 bytes while the stack unwinds.
struct Guard {
    ~Guard();
};
static int guards;
NOINLINE Guard::~Guard()
{
    held[100 + guards++ % 100] = keep(malloc(32));
}

NOINLINE int throw_deep(int depth)
{
    Guard guard;

    free(keep(malloc(8)));
    if (depth == 0)
        throw std::runtime_error("bottom");
    return throw_deep(depth - 1) + 1;
}

NOINLINE int catch_all(int rounds)
{
    int caught = 0;

    for (int i = 0; i < rounds; i++) {
        try {
            caught += throw_deep(29) * 0;
        } catch (const std::runtime_error &e) {
            caught += std::string(e.what()) == "bottom";
        }
    }
    return caught;
}

NOINLINE void too_large()
{
    size_t huge = static_cast<size_t>(-1) / 4;

    try {
        keep(::operator new(huge));
        CHECK(false);
    } catch (const std::bad_alloc &) {
    }
    CHECK(::operator new(huge, std::nothrow) == nullptr);
}

NOINLINE void grow_vector()
{
    std::vector<int> v;

    for (int i = 0; i < 1024; i++) // capacities 1, 2, 4 ... 1024: 11 blocks, 4 * 2047 bytes
        v.push_back(i);
    keep(v.data());
}

int main()
{
    hold_objects();
    hold_arrays();
    hold_aligned();
    churn_objects();
    CHECK(catch_all(40) == 40);
    too_large();
    grow_vector();
    return 0;
}
