/*
 * The database as a file: created, shared, killed, damaged, foreign, newer, read-only.
 */
#include "store_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>

static bool exists(const struct fixture *f, const char *end)
{
    char path[128];

    snprintf(path, sizeof(path), "%s%s", f->path, end);
    return access(path, F_OK) == 0;
}

static void test_one_file_is_left(void **state)
{
    struct fixture *f = *state;
    struct mt_store *a, *b;

    assert_int_equal(mt_store_open(f->path, &a), 0);
    assert_int_equal(mt_store_open(f->path, &b), 0);
    begin_run(a, "a");
    begin_run(b, "b");
    assert_true(exists(f, "-wal"));
    mt_store_close(a);
    mt_store_close(b);
    assert_true(exists(f, ""));
    assert_false(exists(f, "-wal"));
    assert_false(exists(f, "-shm"));
    assert_int_equal(mt_store_open_read(f->path, &a), 0);
    assert_int_equal(number(a, "SELECT count(*) FROM runs"), 2);
    mt_store_close(a);
    assert_false(exists(f, "-wal"));
}

static void write_runs(const char *path, int count)
{
    for (int i = 0; i < count; i++) {
        struct mt_store *store;
        struct mt_store_totals totals = {.allocated_blocks = 1};
        struct mt_store_end end = {.ended_ns = 9, .kind = MT_END_EXIT};
        int64_t run_id = 0, process_id = 0;
        if (mt_store_open(path, &store) < 0 || mt_store_begin(store) < 0)
            _exit(1);
        if (mt_store_run_begin(store, &(struct mt_store_run){.reader_pid = getpid()}, &run_id) < 0 ||
            mt_store_process_begin(store, run_id, &(struct mt_store_process){.pid = 1}, &process_id) < 0 ||
            mt_store_process_update(store, process_id, NULL, &totals, &end) < 0 ||
            mt_store_run_end(store, run_id, &totals, &end) < 0 || mt_store_commit(store) < 0)
            _exit(2);
        mt_store_close(store);
    }
    _exit(0);
}

static void test_several_writers(void **state)
{
    enum { WRITERS = 6, RUNS = 20 };
    struct fixture *f = *state;
    struct mt_store *store;
    int status;

    for (int i = 0; i < WRITERS; i++) {
        if (fork() == 0)
            write_runs(f->path, RUNS);
    }
    for (int i = 0; i < WRITERS; i++) {
        assert_true(wait(&status) > 0);
        assert_int_equal(status, 0);
    }
    assert_int_equal(mt_store_open_read(f->path, &store), 0);
    assert_int_equal(number(store, "SELECT count(*) FROM runs WHERE status = 'complete'"), WRITERS * RUNS);
    assert_int_equal(number(store, "SELECT sum(allocated_blocks) FROM processes"), WRITERS * RUNS);
    assert_text(store, "PRAGMA integrity_check", "ok");
    mt_store_close(store);
    assert_false(exists(f, "-wal"));
}

static void test_killed_writer(void **state)
{
    struct fixture *f = *state;

    for (int round = 0; round < 10; round++) {
        struct mt_store *store;
        int pipes[2], pid;
        char byte;
        assert_int_equal(pipe(pipes), 0);
        pid = fork();
        if (pid == 0) {
            int64_t run_id;
            if (mt_store_open(f->path, &store) < 0)
                _exit(1);
            run_id = begin_run(store, "killed");
            for (int i = 0;; i++) {
                mt_store_begin(store);
                for (int k = 0; k < 100; k++)
                    begin_process(store, run_id);
                mt_store_commit(store);
                if (i == round)
                    (void)!write(pipes[1], "x", 1);
            }
        }
        assert_int_equal(read(pipes[0], &byte, 1), 1);
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
        close(pipes[0]);
        close(pipes[1]);
        assert_int_equal(mt_store_open_read(f->path, &store), 0);
        assert_text(store, "PRAGMA integrity_check", "ok");
        assert_int_equal(number(store, "SELECT count(*) % 100 FROM processes"), 0);
        assert_true(number(store, "SELECT processes >= 100 FROM runs ORDER BY run_id DESC LIMIT 1"));
        assert_text(store, "SELECT status FROM runs ORDER BY run_id DESC LIMIT 1", "lossy");
        assert_int_equal(number(store, "SELECT count(*) FROM loss WHERE reason = 'reader-gone'"), round + 1);
        mt_store_close(store);
    }
    assert_int_equal(access(f->path, F_OK), 0);
}

static void test_dead_reader_in_a_file_that_cannot_be_written(void **state)
{
    struct fixture *f = *state;
    struct mt_store *store;
    int pid = fork(), status;

    if (pid == 0) {
        if (mt_store_open(f->path, &store) < 0)
            _exit(1);
        begin_run(store, "dead");
        mt_store_close(store);
        _exit(0);
    }
    waitpid(pid, &status, 0);
    assert_int_equal(status, 0);
    chmod(f->path, 0444);
    chmod(f->folder, 0555);
    if (geteuid() == 0) { /* permissions do not hold root back: look as somebody else */
        pid = fork();
        if (pid == 0) {
            if (setegid(65534) < 0 || seteuid(65534) < 0)
                _exit(10);
        }
    } else {
        pid = 0;
    }
    if (pid == 0) {
        bool good = mt_store_open_read(f->path, &store) == 0 && number(store, "SELECT status = 'lossy' FROM runs") == 1 &&
                    number(store, "SELECT count FROM loss WHERE reason = 'reader-gone' AND run_id = 1") == 1 &&
                    number(store, "SELECT status = 'running' FROM main.runs") == 1;
        if (geteuid() == 65534)
            _exit(good ? 0 : 11);
        assert_true(good);
        mt_store_close(store);
    } else {
        waitpid(pid, &status, 0);
        assert_int_equal(status, 0);
    }
    chmod(f->folder, 0755);
}

static void put(const char *path, const char *bytes, size_t size)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, bytes, size), size);
    close(fd);
}

static void test_what_is_no_database(void **state)
{
    struct fixture *f = *state;
    struct mt_store *store = NULL;
    char noise[8192], path[128];

    assert_int_equal(mt_store_open_read(f->path, &store), -ENOENT);
    assert_false(exists(f, ""));
    assert_int_equal(mt_store_open_read(f->folder, &store), -EISDIR);
    assert_int_equal(mt_store_open(f->folder, &store), -EISDIR);
    assert_int_equal(mt_store_open("/dev/null", &store), -EBADMSG);
    snprintf(path, sizeof(path), "%s/none/x.db", f->folder);
    assert_int_equal(mt_store_open(path, &store), -ENOENT);
    srandom(1);
    for (size_t i = 0; i < sizeof(noise); i++)
        noise[i] = (char)random();
    put(f->path, noise, sizeof(noise));
    assert_int_equal(mt_store_open(f->path, &store), -EBADMSG);
    assert_int_equal(mt_store_open_read(f->path, &store), -EBADMSG);
    put(f->path, "", 0);
    assert_int_equal(mt_store_open_read(f->path, &store), -ENODATA);
    assert_int_equal(mt_store_open(f->path, &store), 0); /* an empty file is a new database */
    mt_store_close(store);
    assert_null(mt_store_open_read(f->path, &store) == 0 ? NULL : f);
    mt_store_close(store);
}

/* Runs SQL that the store's own interface would refuse. */
static void meddle(const char *path, const char *sql)
{
    char command[1024];

    snprintf(command, sizeof(command),
        "python3 -c \"import sqlite3,sys; c = sqlite3.connect(sys.argv[1]); c.executescript(sys.argv[2]); c.close()\" '%s' '%s'",
        path, sql);
    assert_int_equal(system(command), 0);
}

static void test_foreign_and_newer(void **state)
{
    struct fixture *f = *state;
    struct mt_store *store;

    meddle(f->path, "CREATE TABLE precious (x); INSERT INTO precious VALUES (1)");
    assert_int_equal(mt_store_open(f->path, &store), -EBADMSG);
    assert_int_equal(mt_store_open_read(f->path, &store), -EBADMSG);
    meddle(f->path, "SELECT x FROM precious");
    unlink(f->path);
    assert_int_equal(mt_store_open(f->path, &store), 0);
    mt_store_close(store);
    meddle(f->path, "PRAGMA user_version = 99");
    assert_int_equal(mt_store_open(f->path, &store), -EPROTO);
    assert_int_equal(mt_store_open_read(f->path, &store), -EPROTO);
}

/* Version 2 can be read as it is; a writer brings it up to date, and what was in it stays. */
static void test_older(void **state)
{
    struct fixture *f = *state;
    struct mt_store *store;

    assert_int_equal(mt_store_open(f->path, &store), 0);
    begin_process(store, begin_run(store, "old"));
    mt_store_close(store);
    meddle(f->path, "DROP VIEW python_heap; ALTER TABLE snapshot DROP COLUMN object_bytes; ALTER TABLE snapshot DROP COLUMN object_blocks;"
                    "ALTER TABLE snapshot DROP COLUMN arena_object_bytes; ALTER TABLE snapshot DROP COLUMN arena_object_blocks;"
                    "ALTER TABLE snapshot DROP COLUMN arena_bytes; PRAGMA user_version = 2");
    assert_int_equal(mt_store_open_read(f->path, &store), 0);
    assert_int_equal(number(store, "SELECT count(*) FROM runs"), 1);
    mt_store_close(store);
    assert_int_equal(mt_store_open(f->path, &store), 0);
    assert_int_equal(number(store, "PRAGMA user_version"), 3);
    assert_int_equal(number(store, "SELECT count(*) FROM python_heap"), 0);
    assert_int_equal(number(store, "SELECT count(*) FROM runs"), 1);
    mt_store_close(store);
}

/* Pages overwritten at random: an error or an answer, never a crash. */
static void test_damaged(void **state)
{
    struct fixture *f = *state;
    struct mt_store *store;
    struct stat st;
    char *whole;
    int fd;

    assert_int_equal(mt_store_open(f->path, &store), 0);
    for (int i = 0; i < 50; i++)
        begin_process(store, begin_run(store, "x"));
    mt_store_close(store);
    assert_int_equal(stat(f->path, &st), 0);
    whole = malloc((size_t)st.st_size);
    fd = open(f->path, O_RDONLY);
    assert_int_equal(read(fd, whole, (size_t)st.st_size), st.st_size);
    close(fd);
    srandom(7);
    for (int round = 0; round < 300; round++) {
        char *copy = malloc((size_t)st.st_size);
        memcpy(copy, whole, (size_t)st.st_size);
        for (int i = 0; i < 40; i++)
            copy[100 + random() % (st.st_size - 100)] = (char)random();
        put(f->path, copy, (size_t)st.st_size);
        free(copy);
        if (mt_store_open_read(f->path, &store) == 0) {
            struct mt_query *query;
            if (mt_query_create(store, "SELECT * FROM runs JOIN processes USING (run_id)", &query) == 0) {
                while (mt_query_step(query) == 1)
                    (void)mt_query_text(query, 0, NULL);
                mt_query_destroy(query);
            }
            mt_store_close(store);
        }
    }
    free(whole);
}

static void test_queries_only_read(void **state)
{
    static const char *const refused[] = {"DELETE FROM run", "CREATE TABLE x (y)", "ATTACH 'x.db' AS x", "VACUUM INTO 'x.db'",
        "PRAGMA journal_mode = DELETE", "PRAGMA user_version = 4", "BEGIN IMMEDIATE", "DROP VIEW runs",
        "INSERT INTO runs VALUES (1)", "SELECT load_extension('x')", "CREATE TEMP TABLE x (y)", "REINDEX", "ANALYZE"};
    struct fixture *f = *state;
    struct mt_store *store;
    struct mt_query *query = NULL;

    assert_int_equal(mt_store_open(f->path, &store), 0);
    begin_run(store, "x");
    mt_store_close(store);
    assert_int_equal(mt_store_open_read(f->path, &store), 0);
    for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++)
        assert_int_not_equal(mt_query_create(store, refused[i], &query), 0);
    assert_int_equal(mt_query_create(store, "SELEC", &query), -EINVAL);
    assert_int_equal(mt_query_create(store, "", &query), -EINVAL);
    assert_int_equal(mt_query_create(store, "SELECT 1; SELECT 2", &query), -E2BIG);
    assert_int_equal(number(store, "PRAGMA user_version"), 3);
    assert_int_equal(number(store, "SELECT count(*) FROM runs;  "), 1);
    mt_store_close(store);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_one_file_is_left, fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_several_writers, fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_killed_writer, fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_dead_reader_in_a_file_that_cannot_be_written, fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_what_is_no_database, fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_foreign_and_newer, fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_older, fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_damaged, fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_queries_only_read, fixture_setup, fixture_teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
