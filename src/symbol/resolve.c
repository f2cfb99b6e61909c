/*
 * One module at a time: its file is found and checked, its offsets are looked up in order of address (so that a unit's functions are
 * collected once), and everything is released.
 */
#include "symbol/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { LIGHT_NAMES = 50000, LIGHT_FILE_BYTES = 4 << 20 };

struct mt_symbol_module {
    Dwfl *dwfl;
    Dwfl_Module *module;
    bool names_only;
    int fd; /* -1: none; to see whether the file is still as it was */
    struct stat file;
    struct name_table names;
    struct function_table functions;
    /* room for what one callback shows */
    char name_text[SYMBOL_CHAIN_MAX][SYMBOL_NAME_MAX_BYTES];
    char file_text[SYMBOL_CHAIN_MAX][SYMBOL_NAME_MAX_BYTES];
};

static int open_regular(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    struct stat st;

    if (fd < 0)
        return -ENOENT;
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
        close(fd);
        return -ENOEXEC;
    }
    return fd;
}

/* 0: this is the file that was loaded. One without a build-id can only be taken at its word. */
static int check_elf(Elf *elf, const uint8_t *build_id, size_t build_id_bytes)
{
    const void *id;
    ssize_t n;

    if (!elf || elf_kind(elf) != ELF_K_ELF)
        return -ENOEXEC;
    n = dwelf_elf_gnu_build_id(elf, &id);
    if (n < 0)
        n = 0;
    return (size_t)n == build_id_bytes && (n == 0 || memcmp(id, build_id, build_id_bytes) == 0) ? 0 : -ESTALE;
}

static int check_file(int fd, const uint8_t *build_id, size_t build_id_bytes)
{
    Elf *elf = elf_begin(fd, ELF_C_READ_MMAP, NULL);
    int r = check_elf(elf, build_id, build_id_bytes);

    elf_end(elf);
    return r;
}

static int open_checked(const char *path, const uint8_t *build_id, size_t build_id_bytes)
{
    int fd = open_regular(path), r;

    if (fd < 0)
        return fd;
    r = check_file(fd, build_id, build_id_bytes);
    if (r < 0) {
        close(fd);
        return r;
    }
    return fd;
}

/* Opens /usr/lib/debug/.build-id/ab/cdef.debug; `used` has room for PATH_MAX bytes. */
static int open_by_build_id(const uint8_t *build_id, size_t build_id_bytes, char *used, size_t used_size)
{
    int at;

    if (build_id_bytes < 2 || build_id_bytes > 32)
        return -ENOENT;
    at = snprintf(used, used_size, "/usr/lib/debug/.build-id/%02x/", build_id[0]);
    for (size_t i = 1; i < build_id_bytes; i++)
        at += snprintf(used + at, used_size - (size_t)at, "%02x", build_id[i]);
    snprintf(used + at, used_size - (size_t)at, ".debug");
    return open_checked(used, build_id, build_id_bytes);
}

/* The file itself, else its separate debug file, which has all that is needed to find names. */
static int open_module(const char *path, const uint8_t *build_id, size_t build_id_bytes, char *used, size_t used_size)
{
    static const char deleted[] = " (deleted)";
    size_t n = strlen(path);
    int fd, r;

    snprintf(used, used_size, "%s", path);
    fd = r = path[0] == '/' ? open_checked(path, build_id, build_id_bytes) : -ENOENT;
    if (fd < 0 && n > sizeof(deleted) && strcmp(path + n - (sizeof(deleted) - 1), deleted) == 0 && n < used_size) {
        used[n - (sizeof(deleted) - 1)] = '\0';
        fd = open_checked(used, build_id, build_id_bytes);
    }
    if (fd < 0)
        fd = open_by_build_id(build_id, build_id_bytes, used, used_size);
    return fd >= 0 ? fd : r;
}

/*
 * Where separate debug files are: by build-id, or under the name that the file gives, beside it or under /usr/lib/debug. elfutils' own
 * search goes on to ask a server, for which it loads a client and all that this needs, even where none is named.
 */
static int find_debug(Dwfl_Module *module, void **user, const char *name, Dwarf_Addr start, const char *file,
    const char *link, GElf_Word checksum, char **ret_file)
{
    static const char *const places[][2] = {{"", "/"}, {"", "/.debug/"}, {"/usr/lib/debug", "/"}};
    const unsigned char *build_id;
    char path[PATH_MAX];
    GElf_Addr where;
    int n = dwfl_module_build_id(module, &build_id, &where), fd;
    const char *slash = file ? strrchr(file, '/') : NULL;

    if (n <= 0) /* then it compares checksums, and asks nobody */
        return dwfl_standard_find_debuginfo(module, user, name, start, file, link, checksum, ret_file);
    fd = open_by_build_id(build_id, (size_t)n, path, sizeof(path));
    for (size_t i = 0; i < 3 && fd < 0 && slash && link && *link; i++) {
        snprintf(path, sizeof(path), "%s%.*s%s%s", places[i][0], (int)(slash - file), file, places[i][1], link);
        if (strcmp(path, file) != 0)
            fd = open_checked(path, build_id, (size_t)n);
    }
    if (fd >= 0)
        *ret_file = strdup(path);
    return fd >= 0 ? fd : -1;
}

static int begin(struct mt_symbol_module *m, const char *path, int fd)
{
    static char debug_path[] = ":.debug:/usr/lib/debug", *debug_paths = debug_path;
    static const Dwfl_Callbacks callbacks = {.find_elf = dwfl_build_id_find_elf,
        .find_debuginfo = find_debug,
        .section_address = dwfl_offline_section_address,
        .debuginfo_path = &debug_paths};

    /* elfutils would ask the servers named here for what is missing. */
    unsetenv("DEBUGINFOD_URLS");
    m->dwfl = dwfl_begin(&callbacks);
    if (!m->dwfl)
        return -ENOMEM;
    dwfl_report_begin(m->dwfl);
    /* base 0 and the file's own addresses: what is looked up is an ELF virtual address. Takes over fd on success. */
    m->module = dwfl_report_elf(m->dwfl, path, path, fd, 0, true);
    dwfl_report_end(m->dwfl, NULL, NULL);
    if (!m->module) {
        close(fd);
        return -ENOEXEC;
    }
    return 0;
}

void mt_symbol_close(struct mt_symbol_module *m)
{
    if (!m)
        return;
    function_finish(&m->functions);
    name_finish(&m->names);
    if (m->dwfl)
        dwfl_end(m->dwfl);
    if (m->fd >= 0)
        close(m->fd);
    free(m);
}

/* The innermost function's file and line, from the line table; DWARF addresses. */
static void source_of(Dwarf_Die *unit, uint64_t address, struct mt_symbol *s)
{
    Dwarf_Line *line = dwarf_getsrc_die(unit, address);
    int number;

    if (!line)
        return;
    s->file = dwarf_linesrc(line, NULL, NULL);
    if (dwarf_lineno(line, &number) == 0 && number > 0)
        s->line = (unsigned)number;
}

static void present(struct mt_symbol_module *m, struct mt_symbol *chain, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (chain[i].function && *chain[i].function)
            chain[i].function = mt_symbol_demangle(chain[i].function, m->name_text[i], sizeof(m->name_text[i]));
        else
            chain[i].function = NULL;
        if (chain[i].file && *chain[i].file && strcmp(chain[i].file, "???") != 0)
            chain[i].file = source_tidy(chain[i].file, m->file_text[i], sizeof(m->file_text[i]));
        else
            chain[i].file = NULL;
        if (!chain[i].file)
            chain[i].line = 0;
    }
}

static size_t look_up(struct mt_symbol_module *m, uint64_t address, struct mt_symbol *chain)
{
    Dwarf_Addr bias = 0;
    Dwarf_Die *unit = m->names_only ? NULL : dwfl_module_addrdie(m->module, address, &bias);
    size_t count = 0;

    chain[0] = (struct mt_symbol){0};
    if (unit) {
        count = function_chain(&m->functions, unit, address - bias, chain);
        if (!chain[0].file)
            source_of(unit, address - bias, &chain[0]);
    }
    if (count == 0)
        chain[0].function = name_find(&m->names, m->module, address);
    if (count == 0 && (chain[0].function || chain[0].file))
        count = 1;
    present(m, chain, count);
    return count;
}

struct wanted {
    uint64_t offset;
    size_t index;
};

static int by_offset(const void *a, const void *b)
{
    const struct wanted *x = a, *y = b;

    return x->offset < y->offset ? -1 : x->offset > y->offset;
}

int mt_symbol_find(struct mt_symbol_module *m, const uint64_t *offsets, size_t count, mt_symbol_fn fn, void *argument)
{
    struct wanted *wanted = calloc(count ? count : 1, sizeof(*wanted));
    struct mt_symbol chain[SYMBOL_CHAIN_MAX];

    if (!wanted)
        return -ENOMEM;
    for (size_t i = 0; i < count; i++)
        wanted[i] = (struct wanted){offsets[i], i};
    qsort(wanted, count, sizeof(*wanted), by_offset);
    for (size_t i = 0; i < count; i++) {
        size_t found = look_up(m, wanted[i].offset, chain);
        if (found)
            fn(wanted[i].index, chain, found, argument);
    }
    free(wanted);
    return 0;
}

/* The vdso is in no file, but ours is the same as the target's if the build-id says so. */
static int open_vdso(const uint8_t *build_id, size_t build_id_bytes)
{
    const char *image = (const char *)getauxval(AT_SYSINFO_EHDR);
    const Elf64_Ehdr *header = (const Elf64_Ehdr *)image;
    size_t bytes;
    int fd;

    if (!image || header->e_ident[EI_CLASS] != ELFCLASS64)
        return -ENOENT;
    bytes = header->e_shoff + (size_t)header->e_shnum * header->e_shentsize; /* the section headers come last */
    fd = memfd_create("vdso", MFD_CLOEXEC);
    if (fd < 0)
        return -errno;
    if (write(fd, image, bytes) != (ssize_t)bytes || check_file(fd, build_id, build_id_bytes) < 0) {
        close(fd);
        return -ESTALE;
    }
    return fd;
}

int mt_symbol_open(const char *path, const uint8_t *build_id, size_t build_id_bytes, enum mt_symbol_depth depth,
    struct mt_symbol_module **ret_module)
{
    char used[PATH_MAX + 64];
    struct mt_symbol_module *m;
    int fd, r;

    elf_version(EV_CURRENT);
    if (strcmp(path, "[vdso]") == 0) {
        snprintf(used, sizeof(used), "[vdso]");
        fd = open_vdso(build_id, build_id_bytes);
    } else {
        fd = open_module(path, build_id, build_id_bytes, used, sizeof(used));
    }
    if (fd < 0)
        return fd;
    m = calloc(1, sizeof(*m));
    if (!m) {
        close(fd);
        return -ENOMEM;
    }
    m->names_only = depth == MT_SYMBOL_NAMES;
    m->fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    if (fstat(fd, &m->file) < 0)
        m->file.st_size = INT64_MAX;
    r = begin(m, used, fd);
    if (r < 0)
        mt_symbol_close(m);
    else
        *ret_module = m;
    return r;
}

bool mt_symbol_is_light(struct mt_symbol_module *m)
{
    Dwarf_Addr bias;

    return m->names.count <= LIGHT_NAMES &&
           (m->names_only || m->file.st_size <= LIGHT_FILE_BYTES || !dwfl_module_getdwarf(m->module, &bias));
}

bool mt_symbol_is_current(const struct mt_symbol_module *m)
{
    struct stat now;

    return m->fd >= 0 && fstat(m->fd, &now) == 0 && now.st_size == m->file.st_size && now.st_mtim.tv_sec == m->file.st_mtim.tv_sec &&
           now.st_mtim.tv_nsec == m->file.st_mtim.tv_nsec;
}

int mt_symbol_resolve(const char *path, const uint8_t *build_id, size_t build_id_bytes, enum mt_symbol_depth depth,
    const uint64_t *offsets, size_t count, mt_symbol_fn fn, void *argument)
{
    struct mt_symbol_module *m;
    int r = mt_symbol_open(path, build_id, build_id_bytes, depth, &m);

    if (r < 0)
        return r;
    r = mt_symbol_find(m, offsets, count, fn, argument);
    mt_symbol_close(m);
    return r;
}
