/*
 * What the files of this folder share: the reader, its targets and their rings.
 *
 *   main.c     start and end                       control.c  socket and messages
 *   loop.c     drain, sleep, commit, write
 *   attach.c   segment -> validated layout          order.c    rings -> records in true order
 *   horizon.c  up to where order is certain
 *   decode.c   words -> typed events                stacks.c   changes of stacks -> nodes
 *   batch.c    decoded records, many at a time, with their stacks -> live
 *   life.c     processes: forks, execs, ends
 *   proc.c     /proc and pidfds                     sample.c   memory samples, interval snapshots
 *   open.c     the database, opened beside the rest
 *   tables.c   modules, frames, checked             sites.c    their ids, and the totals of all (totals.c)
 *   groups.c   sites -> callsites as the store has them (groups.h)
 *   choose.c   which of them are kept whole         ahead.c    work done before a process's end
 *   aside.c    work beside other work (aside.h)
 *   write.c, write_cohorts.c, commit.c  -> store     alike.c, codes.c, lines.c, merge.c  Python (python.h)
 */
#ifndef MT_READER_STATE_H
#define MT_READER_STATE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "live/live.h"
#include "reader/map.h"
#include "reader/reader.h"
#include "store/store.h"
#include "wire/wire.h"

enum {
    CHUNK_WORDS = 4096,  /* copied out of a ring at a time; the longest record fits */
    BATCH_EVENTS = 256,  /* decoded before they are applied */
    BATCH_CHANGES = 2 * BATCH_EVENTS, /* of stacks, between them */
    BATCH_FRAMES = 4096, /* of those changes */
    SAMPLES_MAX = 400,
    SNAPSHOTS_MAX = 20,
    SITES_WHOLE = 1500, /* callsites of a process kept with their callers, unless MEMTRACE_SITES says otherwise */
};

/* A segment's layout as it was when it was checked: the header in shared memory may change, this does not. */
struct layout {
    uint64_t file_bytes, base_stamp, base_monotonic_ns;
    uint64_t ring_dir_offset, ring_dir_capacity;
    uint64_t module_offset, module_capacity;
    uint64_t string_offset, string_capacity;
    uint64_t frame_offset, frame_capacity;
    uint64_t code_offset, code_capacity, text_offset, text_capacity;
    uint32_t flags;
    int32_t pid, parent_pid; /* as the target sees them */
};

/* A ring's stack by depth; [0] is the empty stack. The two halves are as of different records (stacks.c). */
struct ring_stack {
    uint64_t *hashes; /* [0, depth]: as of the record decoded last */
    uint32_t *nodes;  /* as of the change resolved last */
    uint32_t depth, capacity;
};

enum ring_stack_kind { STACK_NATIVE, STACK_PYTHON, STACK_INNER /* what INNER_STACK tells, from nothing each time */, RING_STACKS };

#define EMPTY_HASH UINT64_C(0x243f6a8885a308d3) /* of the empty stack */

struct inner_stack { /* by its number; as of the change resolved last */
    uint64_t hash;
    uint32_t node;
};


struct stack_change {
    struct ring_stack *stack; /* NULL: no change: the event has the inner stack of this number */
    struct ring *ring;
    uint64_t base_hash, hash;
    uint32_t keep, push;
    uint32_t frames; /* index of the first in drain.frames */
    uint32_t event;  /* whose stack it is; BATCH_EVENTS: none's */
    uint32_t number; /* of an inner stack */
    enum ring_stack_kind kind;
};

struct ring {
    struct mt_ring *shared;
    const uint64_t *words; /* in shared memory */
    uint64_t capacity;
    uint64_t tail;         /* next word to copy out */
    uint64_t limit;        /* head as of this round */
    uint64_t newest;       /* highest stamp decoded: what orders the ring (wire/ring.h: nested records) */
    uint64_t idle_at;      /* no record that comes later has a stamp below this */
    uint64_t empty_at;     /* every record not yet applied was published after this */
    uint64_t *buffer;      /* CHUNK_WORDS words copied out; [at, used) not yet decoded */
    uint32_t at, used;
    uint32_t record_words; /* of the record at `at`; 0: none */
    uint64_t record_stamp; /* its place in the order */
    struct ring_stack stacks[RING_STACKS];
    uint32_t python_node;  /* as of the change resolved last */
    struct inner_stack *inner; /* MT_RECORD_INNER_STACKS of them; NULL: none was told */
    uint32_t thread;       /* in live/ */
    bool busy;             /* as of this round: a record is in flight */
    bool bad;              /* header cannot be believed: never read */
};

struct samples {
    struct mt_store_sample rows[SAMPLES_MAX];
    size_t count;
    size_t written; /* rows at the front that are in the database */
    uint64_t interval_ns, next_ns; /* monotonic */
    unsigned taken;
};

struct snapshot { /* interval: the larger sites */
    uint64_t at; /* stamp */
    struct mt_live_row *rows;
    size_t count;
    struct mt_live_python python;
    bool written;
};

#define MT_NODE_PAIR UINT32_C(0x80000000)

/* Nodes of native, Python and inner stacks are in one tree. Where a callsite has two stacks its node is a pair: parent = the native (or inner) stack's node,
 * frame = MT_NODE_PAIR | the Python stack's node. Pairs are leaves. */
struct stack_slot {
    uint32_t tag; /* high half of the hash */
    uint32_t node; /* 0: empty */
};

struct line_run {
    uint32_t end, line; /* of the code units up to `end` from the end of the run before; line 0: none */
};

struct code { /* a Python code object */
    struct line_run *runs; /* lines.c */
    size_t run_count;
    char *filename, *qualname;
    uint8_t *lines;
    size_t lines_bytes;
    int64_t first_line;
};

#define FRAME_LEFT_OUT UINT32_MAX /* a frame of a change that is no part of the stack */
#define READER_MODULE_PYTHON (1u << 31) /* in a module's flags: the interpreter is in it */

struct tables {
    struct mt_store_module *modules;
    struct mt_store_frame *frames;
    struct mt_store_node *nodes;
    size_t module_count, frame_count, node_count;
    size_t nodes_checked; /* sites.c */
    size_t module_capacity, frame_capacity, node_capacity;
    struct stack_slot *slots; /* hash of a stack -> its node */
    size_t slot_mask;
    uint64_t nodes_lost; /* stacks cut for want of memory */
    uint32_t *alike; /* by frame: the one that stands for it in Python and inner stacks, or FRAME_LEFT_OUT (alike.c) */
    size_t alike_count, alike_capacity;
    struct map lines;
    struct code *codes;
    size_t code_count, code_capacity;
    uint64_t python_loop[MT_PYTHON_LOOP_PARTS][2]; /* the interpreter's, as frame offsets */
    uint64_t interpreter_bias;
    bool interpreter_known;
    uint32_t python_version, python_flags; /* as the segment's header has them */
    bool has_python; /* there are frames or nodes that only python.h understands */
};

enum source { SOURCE_TARGET = 1, SOURCE_CLIENT }; /* whose descriptor epoll speaks of; the first member of both */

struct target {
    enum source source;
    struct target *next;
    int pid;     /* in the reader's pid namespace */
    int pid_there; /* as the target sees it */
    int parent_there;
    int pidfd;   /* -1: gone already */
    int proc_fd; /* /proc/<pid>, -1: none */
    char *exe, *command, *cwd;
    int64_t process_id, parent_process_id; /* 0: not in the database yet */
    struct target *parent;
    int64_t started_ns;

    /* A child that a FORK record told of, before (or without) a HELLO of its own, has no segment. */
    struct mt_segment_header *header; /* NULL: none */
    int segment_fd;
    struct layout layout;
    struct ring **rings;
    size_t ring_count;
    struct mt_live *live;
    struct tables tables;
    struct merger *merger; /* python.h; NULL: not needed so far */
    unsigned merges;       /* mergers there have been */
    struct groups *groups; /* groups.h; NULL: not needed so far */
    struct mt_store_intern *intern; /* what the store remembers of them; NULL: nothing */
    size_t ahead_frames, ahead_sites; /* groups done ahead of the end (ahead.c) */
    uint64_t ahead_next_ns, ahead_locked_ns;
    bool ahead_off;
    uint64_t site_id_events; /* of live/, as of the ids that the groups have; UINT64_MAX: never */
    bool site_ids_final; /* chosen as at the end of the process */
    struct totals *totals; /* totals.c; as of site_id_events, until they are written. NULL: not made beside other work */

    uint64_t newest; /* highest stamp applied */
    uint64_t written_events; /* of live/, as of the last write of the sites; UINT64_MAX: never */
    uint64_t writing_events; /* the same for the transaction under way */
    uint64_t lost[16]; /* the segment's ledger as last read */
    uint64_t captures, thread_waits;
    uint64_t lost_decode;
    uint64_t live_bytes_seen; /* its part of the run's live bytes */

    struct samples *samples;
    struct snapshot snapshots[SNAPSHOTS_MAX];
    size_t snapshot_count;
    uint64_t snapshot_interval_ns, snapshot_next_ns;
    struct mt_live_note *notes; /* taken from live/, not yet in the database */
    size_t note_count;
    uint64_t peak_rss_bytes, overhead_bytes, rss_bytes, vms_bytes;

    bool fork_seen; /* the parent's FORK record has been matched */
    bool gone;      /* the process or its image is no more: everything published is final */
    bool finished;  /* drained to the end, waits to be written */
    bool replaced;  /* another image of the same pid has said HELLO */
    bool exit_seen, exec_seen;
    uint32_t exit_kind;
    int exit_value;
    uint64_t exec_stamp;
    const struct ring *exec_ring; /* the thread that called exec */
    bool wait_status_known;
    int wait_status;
    struct mt_store_end end;
    bool is_root;
    bool judged; /* its verdicts are in the database, as of written_events */
    bool begun_now; /* process_id comes from the transaction under way */
    uint32_t commit_wanted; /* as of the drain that covers it */
};

struct forgotten {
    struct forgotten *next;
    int64_t process_id;
    int pid_there, parent_there;
    bool fork_seen;
};

struct client {
    enum source source;
    struct client *next;
    int fd;
    int pid;
    bool run; /* `memtrace run`: the run lasts at least until it has its answer */
    bool wants_done;
    uint64_t since_ns; /* connected; wants_done: since then */
};

struct opener {
    pthread_t thread;
    bool under_way, has_thread;
    uint32_t done;
    int error;
    struct mt_store *store;
    int64_t run_id;
};

struct reader {
    const char *database, *label; /* database: absolute */
    size_t sites_whole; /* callsites of a process kept with their callers; SIZE_MAX: all */
    bool log, failed;
    struct opener opener;
    struct mt_store *store; /* NULL: not open (yet) */
    int64_t run_id;
    char *run_command, *run_cwd;
    uint64_t run_start_monotonic_ns;
    uint64_t tsc_base, tsc_base_ns; /* read together at the start */
    bool in_fallback;

    int epoll_fd, listen_fd, doorbell_fd;
    struct mt_doorbell *doorbell;
    char socket_name[MT_SOCKET_NAME_MAX_BYTES];
    struct client *clients;
    uint64_t hello_deadline_ns;
    bool started; /* a HELLO or RUN has come */

    struct target *targets; /* in the order of their appearance; until written */
    struct target *last_target;
    struct forgotten *forgotten; /* written; for FORK records that come late */
    struct mt_store_totals done; /* sums over processes already written */
    uint64_t done_live_bytes;
    uint64_t run_live_bytes, run_peak_bytes;
    uint64_t run_peak_rss_bytes;
    uint64_t unattached; /* processes that said hello and could not be taken in */
    int root_pid; /* as the target sees it; 0: not known */
    bool root_ended;
    struct mt_store_end root_end;
    bool expect_end; /* root_end holds although the root is not yet gone */
    bool root_status_known;
    int root_status, root_status_pid;
    uint64_t last_write_ns, next_checkpoint_ns, checkpoint_interval_ns, finished_since_ns;
    uint64_t reported_lost;

    /* The waker: a thread that sleeps in epoll and rings the doorbell, so that the main thread has one place to sleep. */
    pthread_t waker;
    uint32_t events_pending; /* futex */
    uint32_t rounds; /* of the loop */
};

/* main.c */
void reader_log(const struct reader *reader, const char *format, ...) MT_PRINTF(2, 3);

/* loop.c */
int loop_run(struct reader *reader);
int loop_start_waker(struct reader *reader);
void loop_account(struct reader *reader, struct target *target); /* its part of the run's live bytes and peak */

/* control.c. All return 0 or -errno. */
int control_start(struct reader *reader, int fd);
void control_event(struct reader *reader, struct client *client); /* NULL: the listening socket */
/* DONE to a `memtrace run` that waits for it since before_ns or longer. Returns whether there was one. */
bool control_answer_done(struct reader *reader, uint64_t before_ns, int error);
bool control_done_wanted(const struct reader *reader, uint64_t before_ns);
/* Is anybody connected whose message could still come? A `memtrace run` until it has DONE, others for some seconds. */
bool control_busy(const struct reader *reader, uint64_t now_ns);
void control_finish(struct reader *reader);

/* attach.c. The segment is checked in full before anything is believed. Takes over fd on success. */
int attach_segment(struct target *target, int fd);
void detach_segment(struct target *target);
int layout_check(const struct mt_segment_header *header, uint64_t file_bytes, struct layout *ret_layout);
/* Finds rings that are new. Returns how many there are, bad ones included. */
size_t attach_rings(struct target *target);

/* order.c. Applies what is published, in true order; at most about budget events. Returns the number of records applied. */
size_t order_drain(struct reader *reader, struct target *target, size_t budget);
bool order_pending(const struct target *target);

/* horizon.c. Finds new rings and sets every ring's limit; returns the stamp (inclusive) up to which idle rings are certain. */
uint64_t horizon_find(struct target *target);

/* decode.c */
struct decoded {
    struct mt_event event;
    bool stamped; /* else event.stamp is 0 */
    uint32_t keep, push, number; /* number: of an inner stack */
    const uint64_t *frames; /* of a change, two to a word, in the buffer; NULL: no change */
    uint64_t step;          /* the frame of a PYTHON_STEP */
    const char *text;       /* in the buffer */
    uint32_t text_bytes;
    uint64_t resident, virtual_bytes;
};
/* Length of the record that starts at words[0], of `available` words; 0: not a record. */
uint32_t decode_length(const uint64_t *words, uint64_t available);
/* Fills the event, but for its node. Returns false for what cannot be. */
bool decode_record(const uint64_t *words, uint32_t length, struct decoded *ret_decoded);

/* stacks.c */
int stacks_init(struct tables *tables);
/* Applies keep and push to the ring's stack, sets the hashes. -EBADMSG: keeps more than there is; -E2BIG, -ENOMEM. */
int stacks_change(const struct tables *tables, struct ring_stack *stack, struct stack_change *change, const uint32_t *frames);
/* The node of the stack after the change. Changes of a ring are resolved in their order. */
uint32_t stacks_resolve(
    struct tables *tables, struct ring_stack *stack, const struct stack_change *change, const uint32_t *frames);
/* The hash of the pair (native stack, Python node), and the pair's node, made if new. */
uint64_t stacks_pair_hash(uint64_t native_hash, uint32_t python);
uint32_t stacks_pair(struct tables *tables, uint64_t hash, uint32_t native, uint32_t python);
void stacks_finish(struct ring_stack *stack);

/* A change with this hash is about to be resolved. */
static inline void stacks_prefetch(const struct tables *tables, uint64_t hash)
{
    mt_prefetch(&tables->nodes[tables->slots[hash & tables->slot_mask].node]);
}

/* life.c */
struct target *life_hello(struct reader *reader, int pid, int segment_fd, int *ret_error);
void life_forked(struct reader *reader, struct target *parent, int pid_there);
void life_pid_event(struct reader *reader, struct target *target);
void life_record(struct reader *reader, struct target *target, const struct ring *ring, const struct decoded *record);
void life_finish(struct reader *reader, struct target *target);
/* Sets target->end from its EXIT record, before the kernel has said anything. */
void life_expect_end(struct reader *reader, struct target *target);
void life_free(struct target *target);
struct target *life_find(struct reader *reader, int pid);
bool life_any_alive(const struct reader *reader);

/* proc.c */
struct proc_memory {
    uint64_t rss_bytes, rss_anon_bytes, rss_file_bytes, vms_bytes;
};
int proc_pidfd_open(int pid);
int proc_open(int pid);
char *proc_link(int proc_fd, const char *name);
char *proc_command(int proc_fd); /* words quoted as a shell needs, bounded */
int proc_memory(int proc_fd, struct proc_memory *ret_memory);
uint64_t proc_peak_rss(int proc_fd);
bool proc_wait_status(int pidfd, int proc_fd, int *ret_status);
uint64_t proc_start_ticks(int pid);

/* sample.c */
void sample_take(struct reader *reader, struct target *target, uint64_t at_stamp, const struct decoded *record);
void sample_due(struct reader *reader, struct target *target, uint64_t now_ns);
uint64_t sample_overhead(const struct target *target);
uint64_t stamp_now(const struct target *target);
int64_t stamp_to_run_ns(const struct reader *reader, const struct target *target, uint64_t stamp);
uint64_t ticks_to_ns(const struct reader *reader, const struct target *target, uint64_t ticks);

/* tables.c: copies what is new, checked, out of the segment. What cannot be believed becomes module 0, the empty stack. */
int tables_update(struct target *target);
void tables_finish(struct tables *tables);

/* open.c */
void open_start(struct reader *reader);
/* 0: the database is open and the run begun; -EBUSY: not yet; else why it cannot be. */
int open_wait(struct reader *reader, unsigned patience_ms);
int open_run(struct reader *reader, struct mt_store *store, int64_t *ret_run_id);

/* ahead.c. A slice of what the ends of processes would have to wait for; stops when the bell is no longer at `bell`. Returns whether there was any. */
bool ahead_work(struct reader *reader, uint32_t bell, uint64_t now_ns);

/* sites.c: which callsites are kept whole; their ids, before the transaction, and their totals, inside of it */
int sites_prepare(struct reader *reader, struct target *target);
int sites_write_totals(struct reader *reader, struct target *target);

/* write.c: rows of one process */
const char *loss_name(enum mt_loss_reason reason);
void write_totals(const struct target *target, struct mt_store_totals *ret);
int write_begin(struct reader *reader, struct target *target);
int write_gather(struct target *target); /* notes from live/ to those that wait */
int write_process(struct reader *reader, struct target *target, bool with_sites);

/* write_cohorts.c: verdicts over the iterations of a process that has ended. */
int write_cohorts(struct reader *reader, const struct target *target);
bool write_judges(const struct target *target); /* has the process come to its end? */

/* commit.c */
/* Writes targets (only: that one; NULL: all) and the run; with_sites: what needs symbols too. Frees those finished. */
int write_all(struct reader *reader, struct target *only, bool with_sites, unsigned patience_ms);
/* The last write. What the database will not take goes to another one in $TMPDIR or /tmp. */
int write_end(struct reader *reader);

#endif
