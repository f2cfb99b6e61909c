/*
 * reader: the companion process. Attaches to segments that targets hand over, drains and orders their
 * records, keeps a model (live/) of each process and writes the run into the database (store/).
 *
 * The segment, the socket and everything read from /proc are untrusted: a target that lies spoils its own figures, not the
 * reader. One reader serves one run: a process and all that it starts.
 */
#ifndef MT_READER_READER_H
#define MT_READER_READER_H

struct mt_reader_options {
    int fd; /* a connected SOCK_SEQPACKET socket: HELLO or RUN comes on it (wire/message.h). Taken over. */
    const char *database; /* NULL: $MEMTRACE_DB, else memtrace.db; relative to the directory it is started in */
    const char *label;    /* NULL: $MEMTRACE_LABEL */
    int keep_stderr;      /* say on stderr what went wrong, a line each; else as $MEMTRACE_LOG says */
    int stay;             /* for tests: do not detach from the session, descriptors and directory */
};

/* Runs until every process of the run is gone and the run is on disk. Returns an exit status: 0, or 1 if the run could
 * not be written. Changes signal dispositions, descriptors, directory and limits of the calling process. */
int mt_reader_main(const struct mt_reader_options *options);

#endif
