/*
 * Which frames are never responsible for an allocation while another is there: those of the C library, the C++ and Rust
 * runtimes and of allocators, told by module, and code of their headers that was compiled into the program, told by the file it came from,
 * or by its name where the file is not known.
 */
#include "store/internal.h"

#include <string.h>

#include "wire/wire.h"

static const char *base_of(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash ? slash + 1 : path;
}

static bool starts_with(const char *text, const char *prefix)
{
    return strncmp(text, prefix, strlen(prefix)) == 0;
}

bool runtime_module(const char *path, uint32_t flags)
{
    /* Behind the name: end, '.', '-' or a digit; "libm.so.6" and "libm-2.31.so", but not "libmagic.so". */
    static const char *const names[] = {"libc", "libm", "libpthread", "libdl", "librt", "libutil", "libanl", "ld",
        "ld-linux", "ld-linux-x86-64", "ld-linux-aarch64", "ld-musl-x86_64", "ld-musl-aarch64", "libc_malloc_debug", "libstdc++",
        "libc++", "libc++abi", "libgcc_s", "libunwind", "libjemalloc", "libtcmalloc", "libtcmalloc_minimal", "libmimalloc",
        "libmimalloc-secure", "libmimalloc-debug", "libsnmallocshim", "libhoard", "librpmalloc", "libscudo", "libmemtrace"};
    const char *base = base_of(path);

    if (flags & (MT_MODULE_SELF | MT_MODULE_VDSO | MT_MODULE_UNKNOWN))
        return true;
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        size_t n = strlen(names[i]);
        char next;

        if (strncmp(base, names[i], n) != 0)
            continue;
        next = base[n];
        if ((next == '.' && starts_with(base + n, ".so")) || (next == '-' && base[n + 1] >= '0' && base[n + 1] <= '9'))
            return true;
    }
    return false;
}

bool runtime_function(const char *function, const char *file)
{
    static const char *const folders[] = {"/include/c++/", "/c++/v1/", "/rustc/", "/rust/deps/"};
    static const char *const names[] = {"std::", "__gnu_cxx::", "__cxxabiv1::", "operator new", "alloc::", "core::",
        "hashbrown::", "__rust_", "__rdl_", "__rg_", "__cxa_"};

    if (!function)
        return false;
    if (starts_with(function, "operator new"))
        return true;
    if (file) {
        for (size_t i = 0; i < sizeof(folders) / sizeof(folders[0]); i++) {
            if (strstr(file, folders[i]))
                return true;
        }
        if (file[0] == '/')
            return false;
    }
    function += strspn(function, "<&*");
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (starts_with(function, names[i]))
            return true;
    }
    return false;
}
