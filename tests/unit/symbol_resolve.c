/*
 * Names from real files: this program itself, built with debug information, and files that must not be believed.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include <elfutils/libdwelf.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>

#include "store/internal.h"
#include "symbol/symbol.h"

struct seen {
    size_t count;
    char function[4][128], file[4][512];
    unsigned line[4];
};

static void see(size_t index, const struct mt_symbol *chain, size_t count, void *argument)
{
    struct seen *seen = (struct seen *)argument + index;

    seen->count = count;
    for (size_t i = 0; i < count && i < 4; i++) {
        snprintf(seen->function[i], sizeof(seen->function[i]), "%s", chain[i].function ? chain[i].function : "");
        snprintf(seen->file[i], sizeof(seen->file[i]), "%s", chain[i].file ? chain[i].file : "");
        seen->line[i] = chain[i].line;
    }
}

static int first_bias(struct dl_phdr_info *info, size_t size, void *bias)
{
    (void)size;
    *(uint64_t *)bias = info->dlpi_addr;
    return 1;
}

static size_t build_id_of(const char *path, uint8_t *id)
{
    int fd = open(path, O_RDONLY);
    const void *found;
    ssize_t n;
    Elf *elf;

    elf_version(EV_CURRENT);
    elf = elf_begin(fd, ELF_C_READ, NULL);
    n = dwelf_elf_gnu_build_id(elf, &found);
    if (n > 0)
        memcpy(id, found, (size_t)n);
    elf_end(elf);
    close(fd);
    return n > 0 ? (size_t)n : 0;
}

static volatile uintptr_t here;

__attribute__((always_inline)) static inline void inner(void)
{
#if defined(__x86_64__)
    __asm__ volatile("lea 0(%%rip), %0" : "=r"(here));
#elif defined(__aarch64__)
    __asm__ volatile("adr %0, ." : "=r"(here));
#endif
}

__attribute__((noinline)) static unsigned outer(void)
{
    inner(); /* LINE */
    return __LINE__ - 1;
}

static void test_inlined(void **state)
{
    char path[4096];
    uint8_t id[64];
    uint64_t bias = 0, offsets[2];
    struct seen seen[2] = {0};
    unsigned line = outer();
    ssize_t n = readlink("/proc/self/exe", path, sizeof(path) - 1);

    (void)state;
    path[n] = '\0';
    dl_iterate_phdr(first_bias, &bias);
    offsets[0] = here - bias;
    offsets[1] = 1; /* means nothing */
    assert_int_equal(mt_symbol_resolve(path, id, build_id_of(path, id), MT_SYMBOL_ALL, offsets, 2, see, seen), 0);
    assert_int_equal(seen[0].count, 2);
    assert_string_equal(seen[0].function[0], "inner");
    assert_string_equal(seen[0].function[1], "outer");
    assert_int_equal(seen[0].line[1], line);
    assert_non_null(strstr(seen[0].file[0], "symbol_resolve.c"));
    assert_null(strstr(seen[0].file[0], "/../"));
    assert_int_equal(seen[1].count, 0);
    /* deleted, but the path now names the same file */
    strcat(path, " (deleted)");
    memset(seen, 0, sizeof(seen));
    assert_int_equal(mt_symbol_resolve(path, id, build_id_of("/proc/self/exe", id), MT_SYMBOL_ALL, offsets, 1, see, seen), 0);
    assert_int_equal(seen[0].count, 2);
    /* from symbol tables: the function that the code is in, whatever was inlined there, and no line */
    path[n] = '\0';
    memset(seen, 0, sizeof(seen));
    assert_int_equal(mt_symbol_resolve(path, id, build_id_of(path, id), MT_SYMBOL_NAMES, offsets, 2, see, seen), 0);
    assert_int_equal(seen[0].count, 1);
    assert_string_equal(seen[0].function[0], "outer");
    assert_string_equal(seen[0].file[0], "");
    assert_int_equal(seen[0].line[0], 0);
    assert_int_equal(seen[1].count, 0);
}

static void test_what_is_not_believed(void **state)
{
    char self[4096], folder[] = "/tmp/memtrace-unit-XXXXXX", path[64];
    const uint8_t wrong[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20};
    const uint64_t offset = 0x1234;
    struct seen seen = {0};
    ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
    FILE *file;

    (void)state;
    self[n] = '\0';
    assert_int_equal(mt_symbol_resolve(self, wrong, sizeof(wrong), MT_SYMBOL_ALL, &offset, 1, see, &seen), -ESTALE);
    assert_int_equal(mt_symbol_resolve("/nowhere/x", wrong, sizeof(wrong), MT_SYMBOL_ALL, &offset, 1, see, &seen), -ENOENT);
    assert_int_equal(mt_symbol_resolve("relative", NULL, 0, MT_SYMBOL_ALL, &offset, 1, see, &seen), -ENOENT);
    assert_int_equal(mt_symbol_resolve("", NULL, 0, MT_SYMBOL_ALL, &offset, 1, see, &seen), -ENOENT);
    assert_int_equal(mt_symbol_resolve("/dev/zero", NULL, 0, MT_SYMBOL_ALL, &offset, 1, see, &seen), -ENOEXEC);
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof(path), "%s/x", folder);
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_int_equal(mt_symbol_resolve(path, NULL, 0, MT_SYMBOL_ALL, &offset, 1, see, &seen), -ENOEXEC);
    unlink(path);
    file = fopen(path, "w");
    fputs("\177ELF and then nothing of the kind", file);
    fclose(file);
    assert_true(mt_symbol_resolve(path, NULL, 0, MT_SYMBOL_ALL, &offset, 1, see, &seen) < 0);
    assert_int_equal(seen.count, 0);
    unlink(path);
    rmdir(folder);
}

static void test_demangle(void **state)
{
    char text[64], *long_name = malloc(40000);

    (void)state;
    assert_string_equal(mt_symbol_demangle("malloc", text, sizeof(text)), "malloc");
    assert_string_equal(mt_symbol_demangle("_ZN3foo3barEi", text, sizeof(text)), "foo::bar");
    assert_string_equal(mt_symbol_demangle("_ZN5GuardD2Ev", text, sizeof(text)), "Guard::~Guard");
    assert_string_equal(mt_symbol_demangle("_Z3putIiEvT_", text, sizeof(text)), "put<int>");
    assert_string_equal(
        mt_symbol_demangle("_ZN4core3fmt5Write9write_fmt17h0123456789abcdefE", text, sizeof(text)), "core::fmt::Write::write_fmt");
    assert_string_equal(mt_symbol_demangle("_RNvC6_123foo3bar", text, sizeof(text)), "123foo::bar");
    assert_string_equal(mt_symbol_demangle("_Znonsense", text, sizeof(text)), "_Znonsense");
    /* an expansion that doubles with each step */
    strcpy(long_name, "_Z1fI1X");
    for (int i = 0; i < 60; i++)
        sprintf(long_name + strlen(long_name), "S_IS%d_S%d_E", i, i);
    mt_symbol_demangle(long_name, text, sizeof(text));
    memset(long_name, 'N', 39999);
    long_name[0] = '_';
    long_name[1] = 'Z';
    long_name[39999] = '\0';
    mt_symbol_demangle(long_name, text, sizeof(text));
    assert_int_equal(strlen(text), sizeof(text) - 1);
    free(long_name);
}

static void test_runtime_rules(void **state)
{
    (void)state;
    assert_true(runtime_module("/lib/x86_64-linux-gnu/libc.so.6", 0));
    assert_true(runtime_module("/lib/libc-2.31.so", 0));
    assert_true(runtime_module("/lib64/ld-linux-x86-64.so.2", 0));
    assert_true(runtime_module("/opt/libjemalloc.so.2", 0));
    assert_true(runtime_module("/x/build/libmemtrace.so", 0));
    assert_false(runtime_module("/usr/lib/libmagic.so.1", 0));
    assert_false(runtime_module("/usr/lib/libcurl.so.4", 0));
    assert_false(runtime_module("/usr/bin/ld", 0));
    assert_false(runtime_module("/src/libc/main", 0));
    assert_true(runtime_function("std::vector<int>::push_back", "/usr/include/c++/12/bits/stl_vector.h"));
    assert_true(runtime_function("allocate", "/usr/include/c++/12/bits/new_allocator.h"));
    assert_true(runtime_function("std::vector<int>::push_back", NULL));
    assert_true(runtime_function("<alloc::vec::Vec<T> as core::clone::Clone>::clone", NULL));
    assert_true(runtime_function("alloc", "/rustc/abc/library/alloc/src/alloc.rs"));
    assert_false(runtime_function("stdio_open", NULL));
    assert_false(runtime_function("main", "/src/main.cc"));
    assert_false(runtime_function(NULL, NULL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_inlined),
        cmocka_unit_test(test_what_is_not_believed),
        cmocka_unit_test(test_demangle),
        cmocka_unit_test(test_runtime_rules),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
