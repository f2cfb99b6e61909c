/* Memory by the size of the work: sizes PAGES [EXTRA [NOISE]]. `base` holds 1 MiB, `page` 10,000 bytes for each page, `links` a byte for each pair of
 * pages; `page` holds EXTRA bytes more of each, and `noise` NOISE bytes. */
#include "memtrace.h"

#include "target.h"

static NOINLINE void base(void)
{
    keep(malloc(1 << 20));
}

static NOINLINE void page(size_t extra)
{
    keep(malloc(10000 + extra));
}

static NOINLINE void links(size_t pages)
{
    keep(malloc(pages * pages));
}

static NOINLINE void noise(size_t bytes)
{
    keep(malloc(bytes));
}

int main(int argc, char **argv)
{
    int pages = argc > 1 ? atoi(argv[1]) : 10;

    memtrace_phase_begin("build");
    base();
    for (int i = 0; i < pages; i++)
        page(argc > 2 ? (size_t)atoi(argv[2]) : 0);
    memtrace_mark("pages");
    links((size_t)pages);
    memtrace_phase_end("build");
    if (argc > 3)
        noise((size_t)atoi(argv[3]));
    return 0;
}
