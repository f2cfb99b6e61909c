/*
 * The whole reader, as a process of its own, against targets and commands played by this test: what comes over the socket, what
 * ends a process, and what is in the database then.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <errno.h>
#include <linux/futex.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "segment_fixture.h"

static char folder[] = "/tmp/memtrace-test-XXXXXX";
static char database[64];

static pid_t start_reader(int *ret_fd, const char *path)
{
    int pair[2];
    pid_t pid;

    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
    pid = fork();
    if (pid == 0) {
        close(pair[0]);
        _exit(mt_reader_main(&(struct mt_reader_options){.fd = pair[1], .database = path}));
    }
    close(pair[1]);
    *ret_fd = pair[0];
    return pid;
}

static void send_message(int fd, uint32_t type, int pid, int value, const char *text, size_t text_bytes, int attach)
{
    struct mt_message m = {.magic = MT_MESSAGE_MAGIC,
        .version = MT_WIRE_VERSION,
        .type = type,
        .pid = pid,
        .value = value,
        .text_bytes = (uint32_t)text_bytes};
    struct iovec parts[] = {{&m, sizeof(m)}, {(char *)text, text_bytes}};
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control = {0};
    struct msghdr header = {.msg_iov = parts, .msg_iovlen = 2};

    if (attach >= 0) {
        header.msg_control = &control;
        header.msg_controllen = sizeof(control);
        CMSG_FIRSTHDR(&header)->cmsg_level = SOL_SOCKET;
        CMSG_FIRSTHDR(&header)->cmsg_type = SCM_RIGHTS;
        CMSG_FIRSTHDR(&header)->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(CMSG_FIRSTHDR(&header)), &attach, sizeof(int));
    }
    if (sendmsg(fd, &header, MSG_NOSIGNAL) < 0)
        abort();
}

/* Returns the descriptor that came with it, -1 for none. */
static int receive_message(int fd, struct mt_message *ret)
{
    struct iovec part = {ret, sizeof(*ret)};
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control;
    struct msghdr header = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};
    int got = -1;

    if (recvmsg(fd, &header, 0) != (ssize_t)sizeof(*ret) || ret->magic != MT_MESSAGE_MAGIC)
        abort();
    if (CMSG_FIRSTHDR(&header))
        memcpy(&got, CMSG_DATA(CMSG_FIRSTHDR(&header)), sizeof(int));
    return got;
}

static int connect_to(const char *name)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t length = strlen(name);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

    memcpy(address.sun_path + 1, name, length);
    if (connect(fd, (struct sockaddr *)&address, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + length)) < 0)
        abort();
    return fd;
}

/* ---- a played target; runs in a process of its own -------------------------------------------------------------- */

struct played_target {
    struct mt_writer writer;
    struct fixture_ring ring;
    struct mt_doorbell *doorbell;
    uint64_t base;
    char socket[MT_SOCKET_NAME_MAX_BYTES];
    int error, is_root;
};

static void hello(struct played_target *t, int fd)
{
    struct mt_message m;
    int segment, bell;

    if (mt_writer_create(&t->writer, MT_SEGMENT_STAMP_TSC, &segment) < 0 ||
        mt_writer_add_ring(&t->writer, getpid(), 8192, &t->ring.shared, &t->ring.words) < 0)
        abort();
    t->base = t->writer.header->base_stamp;
    send_message(fd, MT_MESSAGE_HELLO, getpid(), 0, NULL, 0, segment);
    bell = receive_message(fd, &m);
    t->error = m.error;
    t->is_root = m.value;
    memcpy(t->socket, m.socket, sizeof(t->socket));
    t->doorbell = bell >= 0 ? mmap(NULL, MT_PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, bell, 0) : NULL;
    close(segment);
    close(bell);
    close(fd);
}

static uint64_t stamp(const struct played_target *t)
{
    return mt_clock_tsc_ordered() - t->base;
}

static void alloc(struct played_target *t, uint64_t address, uint64_t size)
{
    while (!fixture_has_room(&t->ring, 3))
        usleep(100);
    fixture_alloc(&t->ring, stamp(t), address, size);
}

static void put(struct played_target *t, uint32_t type, uint64_t a, uint64_t b, unsigned words)
{
    fixture_record(&t->ring, stamp(t), type, a, &b, words);
}

static void commit(struct played_target *t)
{
    uint32_t wanted = mt_fetch_add_acq_rel(&t->writer.header->commit_wanted, 1) + 1, done;

    mt_fetch_add_acq_rel(&t->doorbell->bell, 1);
    syscall(SYS_futex, &t->doorbell->bell, FUTEX_WAKE, 1, NULL, NULL, 0);
    while ((done = mt_load_acquire(&t->writer.header->commit_done)) != wanted)
        syscall(SYS_futex, &t->writer.header->commit_done, FUTEX_WAIT, done, NULL, NULL, 0);
}

static pid_t start_target(const char *socket, void (*body)(struct played_target *))
{
    pid_t pid = fork();

    if (pid == 0) {
        struct played_target t = {0};
        alarm(20);
        hello(&t, connect_to(socket));
        body(&t);
        _exit(99);
    }
    return pid;
}

/* As the library does it: the target starts its reader itself. The reader becomes this test's child when the target ends. */
static pid_t start_target_alone(const char *path, void (*body)(struct played_target *), pid_t *ret_reader)
{
    int pipe_fds[2];
    pid_t pid;

    assert_int_equal(pipe(pipe_fds), 0);
    pid = fork();
    if (pid == 0) {
        struct played_target t = {0};
        int fd;
        pid_t reader = start_reader(&fd, path);

        if (write(pipe_fds[1], &reader, sizeof(reader)) != sizeof(reader))
            abort();
        alarm(20);
        hello(&t, fd);
        body(&t);
        _exit(99);
    }
    assert_int_equal(read(pipe_fds[0], ret_reader, sizeof(*ret_reader)), sizeof(*ret_reader));
    close(pipe_fds[0]);
    close(pipe_fds[1]);
    return pid;
}

/* ---- questions to the database ------------------------------------------------------------------------------------ */

static const char *ask(const char *sql)
{
    static char text[4096];
    sqlite3 *db;
    sqlite3_stmt *s;
    size_t used = 0;

    text[0] = '\0';
    assert_int_equal(sqlite3_open_v2(database, &db, SQLITE_OPEN_READWRITE, NULL), SQLITE_OK);
    sqlite3_busy_timeout(db, 5000);
    if (sqlite3_prepare_v2(db, sql, -1, &s, NULL) != SQLITE_OK)
        fail_msg("%s: %s", sql, sqlite3_errmsg(db));
    while (sqlite3_step(s) == SQLITE_ROW) {
        for (int i = 0; i < sqlite3_column_count(s); i++) {
            const unsigned char *value = sqlite3_column_text(s, i);
            used += (size_t)snprintf(text + used, sizeof(text) - used, "%s%s", i ? "|" : (used ? ";" : ""),
                value ? (const char *)value : "-");
        }
    }
    sqlite3_finalize(s);
    sqlite3_close(db);
    return text;
}

static int wait_for(pid_t pid)
{
    int status = -1;

    assert_int_equal(waitpid(pid, &status, 0), pid);
    return status;
}

static int fresh(void **state)
{
    (void)state;
    unlink(database);
    return 0;
}

/* ---- tests ---------------------------------------------------------------------------------------------------------- */

static void body_commit(struct played_target *t)
{
    if (!t->is_root)
        _exit(98);
    for (unsigned i = 0; i < 10000; i++)
        alloc(t, 0x100000 + 16 * i, 10);
    put(t, MT_RECORD_FREE, 0x100000, 0, 0);
    put(t, MT_RECORD_EXIT, MT_EXIT_EXIT, 7, 1);
    commit(t);
    _exit(7);
}

static void test_a_target_alone(void **state)
{
    pid_t reader, target = start_target_alone(database, body_commit, &reader);

    (void)state;
    assert_int_equal(wait_for(target), 7 << 8);
    /* Committed before the target could end, whether the reader is still there or not. */
    assert_string_equal(ask("SELECT allocated_blocks, allocated_bytes, freed_blocks, live_bytes, exit_status, status FROM runs"),
        "10000|100000|1|99990|7|complete");
    assert_int_equal(wait_for(reader), 0);
    assert_string_equal(ask("SELECT end_kind, exit_status, peak_live_bytes FROM processes"), "exit|7|100000");
    assert_string_equal(ask("SELECT live_blocks, peak_blocks FROM top_allocators"), "9999|10000");
    assert_string_equal(ask("SELECT count(*) FROM loss"), "0");
    assert_string_equal(ask("SELECT count(*) > 1 FROM memory_samples"), "1");
}

static void body_killed(struct played_target *t)
{
    for (unsigned i = 0; i < 5000; i++)
        alloc(t, 0x100000 + 16 * i, 10);
    kill(getpid(), SIGKILL);
}

static void test_a_target_that_is_killed(void **state)
{
    pid_t reader, target = start_target_alone(database, body_killed, &reader);

    (void)state;
    assert_int_equal(wait_for(target), SIGKILL);
    assert_int_equal(wait_for(reader), 0);
    assert_string_equal(ask("SELECT allocated_blocks, live_blocks, exit_status, status FROM runs"), "5000|5000|137|killed");
    assert_string_equal(ask("SELECT end_kind FROM processes"), "signal");
}

static void body_child(struct played_target *t)
{
    alloc(t, 0x5000, 1000);
    put(t, MT_RECORD_EXIT, MT_EXIT_QUICK, 0, 1);
    _exit(0);
}

static void body_parent(struct played_target *t)
{
    pid_t child, silent;

    alloc(t, 0x1000, 50);
    child = start_target(t->socket, body_child);
    put(t, MT_RECORD_FORK, (uint64_t)child, 0, 0);
    silent = fork();
    if (silent == 0) {
        usleep(50000);
        _exit(3);
    }
    put(t, MT_RECORD_FORK, (uint64_t)silent, 0, 0);
    waitpid(child, NULL, 0);
    waitpid(silent, NULL, 0);
    put(t, MT_RECORD_EXIT, MT_EXIT_EXIT, 0, 1);
    commit(t);
    _exit(0);
}

static void test_children_with_and_without_a_word(void **state)
{
    pid_t reader, target = start_target_alone(database, body_parent, &reader);

    (void)state;
    assert_int_equal(wait_for(target), 0);
    assert_int_equal(wait_for(reader), 0);
    assert_string_equal(ask("SELECT processes, allocated_bytes, status FROM runs"), "3|1050|complete");
    assert_string_equal(ask("SELECT end_kind, exit_status, allocated_bytes, parent_process_id IS NULL FROM processes"
                            " ORDER BY parent_process_id IS NULL DESC, allocated_bytes DESC"),
        "exit|0|50|1;_exit|0|1000|0;_exit|3|0|0");
}

static void body_exec(struct played_target *t)
{
    struct played_target next = {0};

    alloc(t, 0x1000, 50);
    fixture_record(&t->ring, stamp(t), MT_RECORD_EXEC, 0, (uint64_t[]){UINT64_C(1) << 32 | 1, 'x'}, 2);
    /* The same pid speaks again, as a new image would. */
    hello(&next, connect_to(t->socket));
    if (!next.is_root)
        _exit(98);
    alloc(&next, 0x1000, 60);
    put(&next, MT_RECORD_EXIT, MT_EXIT_EXIT, 4, 1);
    commit(&next);
    _exit(4);
}

static void test_an_image_replaces_another(void **state)
{
    pid_t reader, target = start_target_alone(database, body_exec, &reader);

    (void)state;
    assert_int_equal(wait_for(target), 4 << 8);
    assert_int_equal(wait_for(reader), 0);
    assert_string_equal(ask("SELECT end_kind, exit_status, live_bytes FROM processes ORDER BY process_id"),
        "exec|-|50;exit|4|60");
    assert_string_equal(ask("SELECT exit_status, status FROM runs"), "4|complete");
}

static void test_run_and_mark(void **state)
{
    static const char text[] = "a label\0sleep 'a b'";
    struct mt_message m;
    int fd, mark;
    pid_t reader = start_reader(&fd, database), target;

    (void)state;
    send_message(fd, MT_MESSAGE_RUN, getpid(), 0, text, sizeof(text), -1);
    receive_message(fd, &m);
    assert_int_equal(m.type, MT_MESSAGE_WELCOME);
    assert_int_equal(m.error, 0);
    mark = connect_to(m.socket);
    send_message(mark, MT_MESSAGE_MARK, getpid(), 0, "early", 5, -1);
    receive_message(mark, &m);
    assert_int_equal(m.error, ESRCH);
    target = start_target(m.socket, body_commit);
    assert_int_equal(wait_for(target), 7 << 8);
    send_message(fd, MT_MESSAGE_ROOT_STATUS, target, 7 << 8, NULL, 0, -1);
    close(mark);
    receive_message(fd, &m);
    assert_int_equal(m.type, MT_MESSAGE_DONE);
    assert_int_equal(m.error, 0);
    assert_string_equal(ask("SELECT label, command, exit_status, allocated_blocks, status FROM runs"),
        "a label|sleep 'a b'|7|10000|complete");
    close(fd);
    assert_int_equal(wait_for(reader), 0);
}

static void test_run_of_a_program_that_cannot_be_traced(void **state)
{
    struct mt_message m;
    int fd;
    pid_t reader = start_reader(&fd, database);

    (void)state;
    send_message(fd, MT_MESSAGE_RUN, getpid(), 0, "\0static", 8, -1);
    receive_message(fd, &m);
    send_message(fd, MT_MESSAGE_ROOT_STATUS, 12345, SIGSEGV, NULL, 0, -1);
    receive_message(fd, &m);
    assert_int_equal(m.type, MT_MESSAGE_DONE);
    close(fd);
    assert_int_equal(wait_for(reader), 0);
    assert_string_equal(ask("SELECT exit_status, processes, status FROM runs"), "139|0|killed");
}

static void body_refused(struct played_target *t)
{
    _exit(t->error == ENOENT && !t->doorbell ? 0 : 1);
}

static void test_a_database_that_cannot_be_had(void **state)
{
    pid_t reader, target = start_target_alone("/nonexistent/memtrace.db", body_refused, &reader);

    (void)state;
    assert_int_equal(wait_for(target), 0);
    assert_int_equal(wait_for(reader), 0);
}

static void test_nonsense_on_the_socket(void **state)
{
    struct mt_message m = {.magic = MT_MESSAGE_MAGIC, .version = MT_WIRE_VERSION, .type = MT_MESSAGE_HELLO};
    int fd;
    pid_t reader = start_reader(&fd, database);

    (void)state;
    send_message(fd, 77, 0, 0, NULL, 0, -1);
    send_message(fd, MT_MESSAGE_HELLO, 0, 0, NULL, 0, -1); /* without a segment */
    receive_message(fd, &m);
    assert_int_equal(m.error, EBADF);
    send_message(fd, MT_MESSAGE_HELLO, 0, 0, NULL, 0, fd); /* not a segment */
    receive_message(fd, &m);
    assert_int_not_equal(m.error, 0);
    m.text_bytes = 1 << 30;
    assert_int_equal(send(fd, &m, sizeof(m), MSG_NOSIGNAL), (ssize_t)sizeof(m));
    assert_int_equal(recv(fd, &m, sizeof(m), 0), 0); /* it hangs up */
    close(fd);
    assert_int_equal(wait_for(reader), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_a_target_alone, fresh),
        cmocka_unit_test_setup(test_a_target_that_is_killed, fresh),
        cmocka_unit_test_setup(test_children_with_and_without_a_word, fresh),
        cmocka_unit_test_setup(test_an_image_replaces_another, fresh),
        cmocka_unit_test_setup(test_run_and_mark, fresh),
        cmocka_unit_test_setup(test_run_of_a_program_that_cannot_be_traced, fresh),
        cmocka_unit_test_setup(test_a_database_that_cannot_be_had, fresh),
        cmocka_unit_test_setup(test_nonsense_on_the_socket, fresh),
    };
    int failed;

    signal(SIGPIPE, SIG_IGN);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    alarm(100);
    if (!mkdtemp(folder))
        return 1;
    snprintf(database, sizeof(database), "%s/memtrace.db", folder);
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(database);
    rmdir(folder);
    return failed;
}
