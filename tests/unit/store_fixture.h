/*
 * A database in a folder of its own, and shorthands for what the store's tests do over and over.
 */
#ifndef MT_TEST_STORE_FIXTURE_H
#define MT_TEST_STORE_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "store/store.h"
#include "wire/wire.h"

struct fixture {
    char folder[64], path[96];
};

static inline int fixture_setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    strcpy(f->folder, "/tmp/memtrace-unit-XXXXXX");
    if (!mkdtemp(f->folder))
        return -1;
    snprintf(f->path, sizeof(f->path), "%s/test.db", f->folder);
    *state = f;
    return 0;
}

static inline int fixture_teardown(void **state)
{
    static const char *const ends[] = {"", "-wal", "-shm", "-journal"};
    struct fixture *f = *state;
    char path[128];

    for (size_t i = 0; i < 4; i++) {
        snprintf(path, sizeof(path), "%s%s", f->path, ends[i]);
        unlink(path);
    }
    rmdir(f->folder);
    free(f);
    return 0;
}

static inline int64_t begin_run(struct mt_store *store, const char *label)
{
    struct mt_store_run run = {
        .label = label, .command = "x y", .cwd = "/", .started_at_ns = 1000, .reader_pid = getpid()};
    int64_t id = 0;

    assert_int_equal(mt_store_run_begin(store, &run, &id), 0);
    return id;
}

static inline int64_t begin_process(struct mt_store *store, int64_t run_id)
{
    struct mt_store_process process = {.pid = 7, .exe = "/bin/x", .command = "x y", .started_ns = 5};
    int64_t id = 0;

    assert_int_equal(mt_store_process_begin(store, run_id, &process, &id), 0);
    return id;
}

static inline int64_t number(struct mt_store *store, const char *sql)
{
    struct mt_query *query;
    int64_t value;

    assert_int_equal(mt_query_create(store, sql, &query), 0);
    assert_int_equal(mt_query_step(query), 1);
    value = mt_query_integer(query, 0);
    mt_query_destroy(query);
    return value;
}

/* The caller frees. */
static inline char *text(struct mt_store *store, const char *sql)
{
    struct mt_query *query;
    char *value;

    assert_int_equal(mt_query_create(store, sql, &query), 0);
    assert_int_equal(mt_query_step(query), 1);
    value = strdup(mt_query_text(query, 0, NULL) ? mt_query_text(query, 0, NULL) : "NULL");
    mt_query_destroy(query);
    return value;
}

static inline void assert_text(struct mt_store *store, const char *sql, const char *expected)
{
    char *value = text(store, sql);

    assert_string_equal(value, expected);
    free(value);
}

#endif
