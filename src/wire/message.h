/*
 * Messages between a target (or the command line) and the reader: one SOCK_SEQPACKET packet each way
 * per question. The reader's socket is abstract (the name starts with MT_SOCKET_PREFIX and the uid); both sides check
 * that the peer's uid (SO_PEERCRED) is their own.
 *
 *   target -> reader   HELLO + segment memfd (SCM_RIGHTS)
 *   reader -> target   WELCOME + doorbell memfd (SCM_RIGHTS), error = 0; or error = errno and no descriptor. value = 1: the
 *                      process is the root of the run, and waits for the commit at its exit
 *   The target keeps no descriptor: it closes all of them once both pages are mapped. The reader watches the process
 *   through a pidfd.
 *
 *   run -> reader      RUN (text = label '\0' command '\0'): before the target is started; answered by WELCOME
 *   run -> reader      ROOT_STATUS (value = wait status of pid); answered by DONE once that is in the database
 *   mark -> reader     MARK (pid, text = name); answered by WELCOME, error = ESRCH if the pid is not traced by this reader
 */
#ifndef MT_WIRE_MESSAGE_H
#define MT_WIRE_MESSAGE_H

#include <assert.h>
#include <stdint.h>

#define MT_MESSAGE_MAGIC 0x6d74726du
#define MT_SOCKET_PREFIX "memtrace-" /* behind the leading NUL; then uid '-' reader pid '-' random */
#define MT_SOCKET_NAME_MAX_BYTES 64u
#define MT_MESSAGE_TEXT_MAX_BYTES 8192u

enum mt_message_type {
    MT_MESSAGE_HELLO = 1,
    MT_MESSAGE_WELCOME = 2,
    MT_MESSAGE_RUN = 3,
    MT_MESSAGE_ROOT_STATUS = 4,
    MT_MESSAGE_DONE = 5,
    MT_MESSAGE_MARK = 6,
};

struct mt_message {
    uint32_t magic;
    uint32_t version; /* MT_WIRE_VERSION */
    uint32_t type;    /* enum mt_message_type */
    int32_t error;    /* WELCOME, DONE: 0 or an errno */
    int32_t pid;
    int32_t value;
    int64_t run_id;                        /* WELCOME, DONE */
    char socket[MT_SOCKET_NAME_MAX_BYTES]; /* WELCOME: the reader's socket, without the leading NUL, terminated */
    uint32_t text_bytes;                   /* text behind the struct, in the same packet */
    uint32_t reserved;
};

static_assert(sizeof(struct mt_message) == 104, "message layout");

#endif
