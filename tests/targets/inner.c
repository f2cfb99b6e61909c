/*
 * Functions under Python that make an object of Python's: three of them call one another, each with a frame of another size; of every second one the frame's
 * size is not known before, so that it is found by the frame pointer. For test_python.py.
 */
#include <alloca.h>
#include <stddef.h>

/* The interpreter's. */
void *PyBytes_FromStringAndSize(const char *text, ptrdiff_t bytes);
unsigned long PyLong_AsUnsignedLong(void *number);

static void *go_on(unsigned path, unsigned depth, ptrdiff_t bytes);

static volatile char sink;

#define PLAIN(name, padding)                                                                                                            \
    void *name(unsigned path, unsigned depth, ptrdiff_t bytes)                                                                          \
    {                                                                                                                                   \
        volatile char room[padding];                                                                                                    \
        void *p;                                                                                                                        \
        room[0] = 1;                                                                                                                    \
        p = go_on(path, depth, bytes);                                                                                                  \
        sink = room[0];                                                                                                                 \
        return p;                                                                                                                       \
    }
#define ROOMY(name, padding)                                                                                                            \
    void *name(unsigned path, unsigned depth, ptrdiff_t bytes)                                                                          \
    {                                                                                                                                   \
        volatile char *room = alloca((size_t)(padding) + 16 * (path % 3));                                                              \
        void *p;                                                                                                                        \
        room[0] = 1;                                                                                                                    \
        p = go_on(path, depth, bytes);                                                                                                  \
        sink = room[0];                                                                                                                 \
        return p;                                                                                                                       \
    }

PLAIN(plain_0, 16) ROOMY(roomy_0, 16) PLAIN(plain_1, 16) ROOMY(roomy_1, 64) PLAIN(plain_2, 80) ROOMY(roomy_2, 16) PLAIN(plain_3, 16)
ROOMY(roomy_3, 48) PLAIN(plain_4, 160) ROOMY(roomy_4, 200) PLAIN(plain_5, 32) ROOMY(roomy_5, 16)

static void *(*const functions[12])(unsigned, unsigned, ptrdiff_t) = {
    plain_0, roomy_0, plain_1, roomy_1, plain_2, roomy_2, plain_3, roomy_3, plain_4, roomy_4, plain_5, roomy_5};

/* path: a digit of the base 12 for each function */
static void *go_on(unsigned path, unsigned depth, ptrdiff_t bytes)
{
    void *p = depth ? functions[path % 12](path / 12, depth - 1, bytes) : PyBytes_FromStringAndSize(NULL, bytes);

    sink = 0;
    return p;
}

static void *make(void *self, void *path)
{
    void *p = go_on((unsigned)PyLong_AsUnsignedLong(path), 3, 5000);

    (void)self;
    sink = 1;
    return p;
}

/* A PyMethodDef, of which PyCFunction_NewEx() makes a function of Python's. */
const struct {
    const char *name;
    void *(*function)(void *self, void *argument);
    int flags;
    const char *doc;
} make_method = {"make", make, 8 /* METH_O */, NULL};
