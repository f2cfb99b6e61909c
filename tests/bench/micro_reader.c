/*
 * The reader's way of an event, alone: order, decode, stacks, live, fed from a ring that is filled by hand.
 *
 *   micro_reader local|grow|stacks|merge EVENTS
 *
 * local:  blocks freed soon after, from 16 callsites
 * grow:   the same, but two of three blocks stay, up to 2 million live ones, which are then freed in no order
 * stacks: 100,000 distinct stacks, in no order
 * merge:  two rings with stamps, blocks freed by the other thread
 *
 * Prints `ns N events N`: CPU time of order_drain() for each event; of grow also `growing-ns N steady-ns N`, until there are 2 million and from then on. The segment is made here, for valgrind knows no mremap() of length 0.
 */
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "../unit/segment_fixture.h"

enum { RINGS = 2, RING_WORDS = 1 << 16, FRAMES = 4096, LIVE_MAX = 2000000, DEPTH = 16 };

static struct reader reader;
static struct target *target;
static struct fixture_ring rings[RINGS];
static uint64_t random_state = 88172645463325252u, stamp, applied;
static uint64_t grown; /* events until there were LIVE_MAX blocks */
static double drained_ns, grown_ns;

static uint64_t next_random(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    return random_state ^= random_state << 17;
}

static bool make_target(unsigned ring_count)
{
    const uint64_t frames = 4 * MT_PAGE_BYTES, data = frames + FRAMES * sizeof(struct mt_frame);
    const uint64_t ring_bytes = MT_PAGE_BYTES + RING_WORDS * sizeof(uint64_t), bytes = data + RINGS * ring_bytes;
    int fd = memfd_create("memtrace-bench", MFD_ALLOW_SEALING);
    struct mt_segment_header *h;
    char *base;

    if (fd < 0 || ftruncate(fd, (off_t)bytes) < 0 || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) < 0)
        return false;
    base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED)
        return false;
    h = (struct mt_segment_header *)base;
    *h = (struct mt_segment_header){.magic = MT_SEGMENT_MAGIC, .version = MT_WIRE_VERSION, .flags = MT_SEGMENT_STAMP_TSC, .file_bytes = bytes,
        .ring_dir_offset = MT_PAGE_BYTES, .ring_dir_capacity = RINGS, .module_offset = 2 * MT_PAGE_BYTES, .module_capacity = 1,
        .string_offset = 3 * MT_PAGE_BYTES, .string_capacity = 64, .frame_offset = frames, .frame_capacity = FRAMES,
        .code_offset = 2 * MT_PAGE_BYTES, .code_capacity = 1, .text_offset = 3 * MT_PAGE_BYTES, .text_capacity = 64, .data_offset = data,
        .frame_count = FRAMES, .module_count = 1};
    for (unsigned i = 0; i < ring_count; i++) {
        uint64_t at = data + i * ring_bytes;

        rings[i] = (struct fixture_ring){(struct mt_ring *)(base + at), (uint64_t *)(base + at + MT_PAGE_BYTES)};
        *rings[i].shared = (struct mt_ring){.magic = MT_RING_MAGIC, .owner_tid = 1 + (int)i, .capacity_words = RING_WORDS,
            .data_offset = at + MT_PAGE_BYTES};
        ((uint64_t *)(base + MT_PAGE_BYTES))[i] = at;
    }
    h->ring_count = ring_count;
    target = calloc(1, sizeof(*target));
    target->pidfd = target->proc_fd = -1;
    target->live = mt_live_create();
    return attach_segment(target, fd) == 0;
}

static double cpu_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static void drain(void)
{
    double start = cpu_ns();
    size_t n;

    while ((n = order_drain(&reader, target, SIZE_MAX)) > 0)
        applied += n;
    drained_ns += cpu_ns() - start;
}

/* Before a record: the ring has room for it. */
static struct fixture_ring *room(unsigned ring)
{
    if (!fixture_has_room(&rings[ring], 64))
        drain();
    return &rings[ring];
}

static uint64_t address_of(uint64_t block)
{
    return UINT64_C(0x7f0000000000) + block * 96;
}

/* A block from one of 16 callsites, one to four frames from where they part. */
static void alloc(uint64_t block, uint64_t site)
{
    static uint64_t last = UINT64_MAX;
    uint32_t frames[DEPTH + 4], fresh = 1 + (uint32_t)(site & 3);

    for (uint32_t i = 0; i < fresh; i++)
        frames[i] = DEPTH + 1 + (uint32_t)site * 4 + i;
    if (last == UINT64_MAX) {
        for (uint32_t i = 0; i < DEPTH; i++)
            frames[i] = 1 + i;
        for (uint32_t i = 0; i < fresh; i++)
            frames[DEPTH + i] = DEPTH + 1 + (uint32_t)site * 4 + i;
        fixture_stack_alloc(room(0), address_of(block), 0, frames, DEPTH + fresh);
    } else if (last == site)
        fixture_stack_alloc(room(0), address_of(block), DEPTH + fresh, frames, 0);
    else
        fixture_stack_alloc(room(0), address_of(block), DEPTH, frames, fresh);
    last = site;
}

static void local(uint64_t events)
{
    for (uint64_t i = 0; i < events / 2; i++) {
        alloc(i % 64, i / 4 % 16);
        fixture_plain_free(room(0), address_of((i + 1) % 64));
    }
}

static void grow(uint64_t events)
{
    uint32_t *live = malloc(LIVE_MAX * sizeof(*live));
    uint64_t count = 0, next = 0;

    for (uint64_t i = 0; i < events; i++) {
        if (count == LIVE_MAX && !grown) {
            drain();
            grown = applied;
            grown_ns = drained_ns;
        }
        if (count == LIVE_MAX || (count > 1000 && i % 4 == 0)) {
            uint64_t pick = next_random() % count;

            fixture_plain_free(room(0), address_of(live[pick]));
            live[pick] = live[--count];
        } else {
            alloc(next, i % 16);
            live[count++] = (uint32_t)next++;
        }
    }
    free(live);
}

static void stacks(uint64_t events)
{
    uint32_t frames[DEPTH + 3];

    for (uint32_t i = 0; i < DEPTH; i++)
        frames[i] = 1 + i;
    for (uint64_t i = 0; i < events / 2; i++) {
        uint64_t which = next_random() % 100000;
        uint32_t *top = i ? frames : frames + DEPTH;

        top[0] = 100 + (uint32_t)(which % 50);
        top[1] = 200 + (uint32_t)(which / 50 % 50);
        top[2] = 300 + (uint32_t)(which / 2500);
        fixture_stack_alloc(room(0), address_of(i % 64), i ? DEPTH : 0, frames, i ? 3 : DEPTH + 3);
        if (!i)
            memmove(frames, frames + DEPTH, 3 * sizeof(*frames));
        fixture_plain_free(room(0), address_of((i + 1) % 64));
    }
}

static void merge(uint64_t events)
{
    for (uint64_t i = 0; i < events / 2; i++) {
        fixture_alloc(room(i & 1), ++stamp, address_of(i % 64), 16 + i % 100);
        fixture_free(room(~i & 1), ++stamp, address_of((i + 1) % 64));
    }
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*run)(uint64_t);
        unsigned rings;
    } works[] = {{"local", local, 1}, {"grow", grow, 1}, {"stacks", stacks, 1}, {"merge", merge, 2}};
    uint64_t events = argc > 2 ? strtoull(argv[2], NULL, 10) : 1000000;

    for (unsigned i = 0; i < MT_ARRAY_LEN(works); i++) {
        if (argc < 2 || strcmp(argv[1], works[i].name) != 0)
            continue;
        if (!make_target(works[i].rings))
            return 1;
        works[i].run(events);
        drain();
        if (target->lost_decode || mt_live_totals(target->live)->dropped)
            return 1;
        printf("ns %.2f events %llu live %llu sites %zu", drained_ns / (double)applied, (unsigned long long)applied,
            (unsigned long long)mt_live_totals(target->live)->live_blocks, mt_live_site_count(target->live));
        if (grown && applied > grown)
            printf(" growing-ns %.2f steady-ns %.2f", grown_ns / (double)grown, (drained_ns - grown_ns) / (double)(applied - grown));
        putchar('\n');
        life_free(target);
        return 0;
    }
    return 2;
}
