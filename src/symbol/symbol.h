/*
 * symbol: (module, build-id, offset) -> function, file, line, and what was inlined there. By elfutils, from the module, its
 * separate debug file under /usr/lib/debug, or its symbol table; never from the network.
 *
 * ELF files are untrusted: they are opened read-only if they are regular files, believed only if their build-id is the one that
 * was seen in the process, and names are bounded. Not thread-safe (libdw is not).
 */
#ifndef MT_SYMBOL_SYMBOL_H
#define MT_SYMBOL_SYMBOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct mt_symbol {
    const char *function; /* demangled, without parameters; NULL: not known */
    const char *file;     /* NULL: not known */
    unsigned line;        /* 0: not known */
};

/* chain: innermost (inlined) function first; the texts are valid during the call only. count is at least 1. */
typedef void (*mt_symbol_fn)(size_t index, const struct mt_symbol *chain, size_t count, void *argument);

enum mt_symbol_depth {
    MT_SYMBOL_ALL,
    MT_SYMBOL_NAMES, /* functions alone, from symbol tables: debug data, which may be large and compressed, is not read */
};

/*
 * Calls `fn` for each offset (an ELF virtual address) that means something, with its index; in any order. path may end in
 * " (deleted)" or be "[vdso]". All memory is released before it returns. 0; -ENOENT: neither the
 * file nor debug information for it is there; -ESTALE: the file is not the one that was loaded; -ENOEXEC: no ELF file;
 * -ENOMEM. Then fn has not been called.
 */
int mt_symbol_resolve(const char *path, const uint8_t *build_id, size_t build_id_bytes, enum mt_symbol_depth depth,
    const uint64_t *offsets, size_t count, mt_symbol_fn fn, void *argument);

/*
 * The same in steps, for a module that is asked more than once: finding its file and putting its symbols in order takes longer than many answers.
 * A module is closed by mt_symbol_close(), which accepts NULL.
 */
struct mt_symbol_module;
int mt_symbol_open(const char *path, const uint8_t *build_id, size_t build_id_bytes, enum mt_symbol_depth depth,
    struct mt_symbol_module **ret_module);
int mt_symbol_find(
    struct mt_symbol_module *module, const uint64_t *offsets, size_t count, mt_symbol_fn fn, void *argument);
void mt_symbol_close(struct mt_symbol_module *module);
/* Is its file still as it was when it was opened? It is mapped: one that has been cut must not be asked again. */
bool mt_symbol_is_current(const struct mt_symbol_module *module);
/* Is there so little to read in it that it may be kept open, and that an answer takes milliseconds at most? */
bool mt_symbol_is_light(struct mt_symbol_module *module);

/*
 * Demangles a C++ or Rust name, without parameters, into `buffer`; a name that is not mangled, or whose expansion does not
 * fit, is copied as it is (cut to fit). Returns buffer.
 */
char *mt_symbol_demangle(const char *name, char *buffer, size_t size);

#endif
