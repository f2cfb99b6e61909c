/*
 * The ids that the database has, in memory: frames, stacks, sites and symbols are found here and not through indexes, which would
 * take as much room in the file as the tables themselves and most of the time of writing it.
 *
 * Learnt when they are first needed, then only what others have added since. That a row is new is certain only inside of a
 * transaction for writing and after ids_learn(); before, something may be missing here that the database has, never the reverse.
 */
#include "store/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"

enum { RESERVE_MAX = 1 << 20, TEXTS = 4096 };

static int on_frame(struct mt_store *store, sqlite3_stmt *s)
{
    struct ids *ids = &store->ids;
    int64_t id = sqlite3_column_int64(s, 0);
    bool has_user = sqlite3_column_type(s, 3) != SQLITE_NULL;
    int r = id_map_put(&ids->frames, (uint64_t)sqlite3_column_int64(s, 1), (uint64_t)sqlite3_column_int64(s, 2), id);

    if (r == 0)
        r = id_map_put(&ids->users, (uint64_t)id, 0, has_user ? sqlite3_column_int(s, 3) + 2 : 1);
    if (id > ids->last_frame)
        ids->last_frame = id;
    return r;
}

static int on_stack(struct mt_store *store, sqlite3_stmt *s)
{
    struct ids *ids = &store->ids;
    int64_t id = sqlite3_column_int64(s, 0);
    uint64_t parent = (uint64_t)id - (uint64_t)sqlite3_column_int64(s, 1);

    if (id > ids->last_stack)
        ids->last_stack = id;
    return id_map_put(&ids->stacks, parent, (uint64_t)sqlite3_column_int64(s, 2), id);
}

static int on_site(struct mt_store *store, sqlite3_stmt *s)
{
    struct ids *ids = &store->ids;
    int64_t id = sqlite3_column_int64(s, 0);

    if (id > ids->last_site)
        ids->last_site = id;
    return id_map_put(
        &ids->sites, (uint64_t)sqlite3_column_int64(s, 1), (uint64_t)sqlite3_column_int64(s, 2), id);
}

/* Ids have no gaps, unless the file is damaged. */
static int reserve(struct mt_store *store, struct id_map *map, enum store_statement last, int64_t known)
{
    int64_t id = 0;
    int r = store_find(store, &id, last, "");

    if (r < 0 || id <= known)
        return r;
    return id_map_reserve(map, id - known < RESERVE_MAX ? (size_t)(id - known) : RESERVE_MAX);
}

int ids_learn(struct mt_store *store)
{
    int r = store_scan(store, S_FRAME_SCAN, store->ids.last_frame, on_frame);

    store->ids.symbols_known = false;
    if (r == 0)
        r = reserve(store, &store->ids.stacks, S_STACK_LAST, store->ids.last_stack);
    if (r == 0)
        r = store_scan(store, S_STACK_SCAN, store->ids.last_stack, on_stack);
    if (r == 0)
        r = reserve(store, &store->ids.sites, S_SITE_LAST, store->ids.last_site);
    if (r == 0)
        r = store_scan(store, S_SITE_SCAN, store->ids.last_site, on_site);
    return r;
}

/* ---- rows to be written ------------------------------------------------------------------------------------------- */

static const struct {
    enum store_statement statement;
    unsigned columns;
} pending_tables[PENDING_TABLES] = {[PENDING_FRAME] = {S_FRAME_ADD, 3},
    [PENDING_LINE] = {S_LINE_ADD, 5},
    [PENDING_STACK] = {S_STACK_ADD, 3},
    [PENDING_SITE] = {S_SITE_ADD, 6}};

static int flush_table(struct mt_store *store, enum pending_table table)
{
    struct pending_rows *p = &store->ids.pending[table];
    struct rows rows = {.values = p->values, .columns = pending_tables[table].columns, .count = p->count};

    p->count = 0;
    return store_insert(store, &rows, pending_tables[table].statement, "");
}

int ids_add_row(struct mt_store *store, enum pending_table table, const int64_t *values)
{
    struct pending_rows *p = &store->ids.pending[table];
    unsigned columns = pending_tables[table].columns;

    memcpy(p->values + p->count * columns, values, columns * sizeof(*values));
    return ++p->count == PENDING_ROWS ? flush_table(store, table) : 0;
}

int ids_flush(struct mt_store *store)
{
    int r = 0;

    for (enum pending_table table = 0; table < PENDING_TABLES && r == 0; table++)
        r = flush_table(store, table);
    return r;
}

/* ---- symbols ------------------------------------------------------------------------------------------------------ */

static void symbol_hash(const char *function, const char *file, uint64_t hash[2])
{
    uint64_t a = function ? mt_hash_bytes(function, strlen(function)) : 1, b = file ? mt_hash_bytes(file, strlen(file)) : 2;

    hash[0] = mt_hash_combine(a, b);
    hash[1] = mt_hash_combine(b, a ^ 0x5bd1e995);
}

static int on_symbol(struct mt_store *store, sqlite3_stmt *s)
{
    int64_t id = sqlite3_column_int64(s, 0);
    uint64_t hash[2];

    symbol_hash((const char *)sqlite3_column_text(s, 1), (const char *)sqlite3_column_text(s, 2), hash);
    if (id > store->ids.last_symbol)
        store->ids.last_symbol = id;
    return id_map_put(&store->ids.symbols, hash[0], hash[1], id);
}

static bool is_same(const char *a, const char *b)
{
    return a && b ? strcmp(a, b) == 0 : a == b;
}

/* Names are a stranger's: hashes can be made equal. So they are compared, with the row or with a copy of it. */
static int check_symbol(struct mt_store *store, int64_t id, const char *function, const char *file, uint64_t hash, int64_t *ret_id)
{
    struct symbol_text *texts = store->ids.texts, *t;
    int r;

    if (!texts)
        texts = store->ids.texts = calloc(TEXTS, sizeof(*texts));
    t = texts ? &texts[hash % TEXTS] : NULL;
    if (t && t->id == id) {
        *ret_id = is_same(t->function, function) && is_same(t->file, file) ? id : 0;
        return 0;
    }
    r = store_find(store, ret_id, S_SYMBOL_IS, "itt", id, function, file);
    if (r < 0 || !*ret_id || !t)
        return r;
    free(t->function);
    free(t->file);
    *t = (struct symbol_text){id, function ? strdup(function) : NULL, file ? strdup(file) : NULL};
    if (!t->function != !function || !t->file != !file)
        t->id = 0;
    return 0;
}

/* Inside of a transaction for writing. */
int ids_symbol(struct mt_store *store, const char *function, const char *file, int64_t *ret_id)
{
    struct ids *ids = &store->ids;
    int64_t id, same = 0;
    uint64_t hash[2];
    int r = 0;

    *ret_id = 0;
    if (!function && !file)
        return 0;
    if (!ids->symbols_known)
        r = store_scan(store, S_SYMBOL_SCAN, ids->last_symbol, on_symbol);
    ids->symbols_known = r == 0;
    symbol_hash(function, file, hash);
    id = id_map_get(&ids->symbols, hash[0], hash[1]);
    if (r == 0 && id)
        r = check_symbol(store, id, function, file, hash[0], &same);
    if (r == 0 && !same) {
        if (ids->last_symbol == INT64_MAX)
            return -EFBIG;
        same = ids->last_symbol + 1;
        r = store_run(store, S_SYMBOL_ADD, "itt", same, function, file);
        if (r == 0)
            r = id_map_put(&ids->symbols, hash[0], hash[1], same);
        if (r == 0)
            ids->last_symbol = same;
    }
    *ret_id = same;
    return r;
}

unsigned mt_store_generation(const struct mt_store *store)
{
    return store->ids.generation;
}

void ids_forget(struct ids *ids)
{
    id_map_clear(&ids->frames);
    id_map_clear(&ids->users);
    id_map_clear(&ids->stacks);
    id_map_clear(&ids->sites);
    id_map_clear(&ids->symbols);
    for (size_t i = 0; ids->texts && i < TEXTS; i++) {
        free(ids->texts[i].function);
        free(ids->texts[i].file);
    }
    free(ids->texts);
    *ids = (struct ids){.generation = ids->generation + 1};
}
