/* mmap and its kin, a function a case; sizes in pages of 4096. What is left at the end is in the comment. */
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>

#include "target.h"

#define PAGE ((size_t)4096)

static NOINLINE char *pages(size_t n)
{
    char *p = mmap(NULL, n * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    CHECK(p != MAP_FAILED);
    return p;
}

static NOINLINE void whole(void) /* 3 * 10 pages mapped, 0 left */
{
    for (int i = 0; i < 3; i++)
        CHECK(munmap(pages(10), 10 * PAGE) == 0);
}

static NOINLINE void partial(void) /* 16 mapped; the middle 4 and the first 2 go: 10 left */
{
    char *p = pages(16);

    CHECK(munmap(p + 6 * PAGE, 4 * PAGE) == 0);
    CHECK(munmap(p, 2 * PAGE) == 0);
}

static NOINLINE char *under(void) /* 8 mapped, 3 of them mapped over: 5 left */
{
    return pages(8);
}

static NOINLINE void over(char *p) /* 3 */
{
    CHECK(mmap(p + 2 * PAGE, 3 * PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == p + 2 * PAGE);
}

static NOINLINE void with_mmap64(void) /* 7 */
{
    CHECK(mmap64(NULL, 7 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED);
}

static NOINLINE char *before_grow(void) /* 4 mapped, all moved to grow(): 0 left */
{
    return pages(4);
}

static NOINLINE char *grow(char *p) /* 40 left; contents kept */
{
    char *q;

    memset(p, 0x5a, 4 * PAGE);
    q = mremap(p, 4 * PAGE, 40 * PAGE, MREMAP_MAYMOVE);
    CHECK(q != MAP_FAILED);
    for (size_t i = 0; i < 4 * PAGE; i++)
        CHECK(q[i] == 0x5a);
    CHECK(q[4 * PAGE] == 0);
    return q;
}

static NOINLINE char *before_shrink(void)
{
    return pages(20);
}

static NOINLINE void shrink(char *p) /* before_shrink 0, shrink 5 */
{
    CHECK(mremap(p, 20 * PAGE, 5 * PAGE, 0) == p);
}

static NOINLINE char *before_split(void) /* 12 mapped, 4 in the middle moved away: 8 left */
{
    return pages(12);
}

static NOINLINE void split(char *p) /* 6 */
{
    char *q = mremap(p + 4 * PAGE, 4 * PAGE, 6 * PAGE, MREMAP_MAYMOVE);

    CHECK(q != MAP_FAILED && q != p + 4 * PAGE);
}

static NOINLINE void move_fixed(char *p) /* before_fixed 0, room 0, move_fixed 2 */
{
    char *room = pages(2);

    CHECK(mremap(p, 2 * PAGE, 2 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, room) == room);
}

static NOINLINE char *before_fixed(void)
{
    return pages(2);
}

static NOINLINE void fail(void) /* 9 left: nothing that failed has changed anything */
{
    char *p = pages(9);

    errno = 0;
    CHECK(mmap(NULL, 0, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED && errno == EINVAL);
    CHECK(munmap(p + 1, PAGE) == -1 && errno == EINVAL);
    CHECK(mremap(p, 9 * PAGE, (size_t)1 << 46, MREMAP_MAYMOVE) == MAP_FAILED && errno == ENOMEM);
    CHECK(mmap(p, 9 * PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == MAP_FAILED);
    CHECK(errno == EEXIST);
    p[0] = p[9 * PAGE - 1] = 1;
}

static NOINLINE void file(void) /* kind `file`: 1 page left, of a file of 10 bytes */
{
    int fd = open("/proc/self/exe", O_RDONLY);
    char *p = mmap(NULL, 10, PROT_READ, MAP_PRIVATE, fd, 0);

    CHECK(p != MAP_FAILED && p[1] == 'E');
    close(fd);
}

static NOINLINE void program_break(void) /* 25 pages up, 5 down: 20 left */
{
    char *start = sbrk(0);

    CHECK(((uintptr_t)start & (PAGE - 1)) == 0);
    CHECK(sbrk((intptr_t)(25 * PAGE)) == start);
    memset(start, 1, 25 * PAGE);
    CHECK(sbrk(-(intptr_t)(5 * PAGE)) != (void *)-1);
    CHECK(sbrk(0) == start + 20 * PAGE);
}

static NOINLINE void large_block(void) /* malloc's own mapping: counted as a block of 1,000,000 bytes, not as a mapping */
{
    keep(malloc(1000000));
}

int main(void)
{
    program_break(); /* before malloc uses the break */
    whole();
    partial();
    over(under());
    with_mmap64();
    grow(before_grow());
    shrink(before_shrink());
    split(before_split());
    move_fixed(before_fixed());
    fail();
    file();
    large_block();
    return 0;
}
