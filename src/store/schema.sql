-- The database of memtrace, version 3.
--
-- Tables hold ids and numbers; everything that people and tests read goes through the views at the end, whose names and meanings
-- are a contract (more columns may come). Sizes in bytes. started_at is in ns since 1970, every other time in ns since the
-- start of the run.
--
-- Identity: a module is its build-id (its path where it has none), a frame is (module, offset), a stack is (parent stack, frame),
-- a site is (stack, heap). Each is kept once however many runs mention it, so that runs join on site_id. Writers find frames,
-- stacks and sites in memory (ids.c), not through an index, and never delete one: hence the tables without UNIQUE.
--
-- Folding: of a process with very many callsites only those that matter are kept whole. The others are added up by their innermost
-- frames, up to and including the responsible one, with the pseudo frame [other callers] as their root. Function, file, line,
-- module and heap of every byte are exact all the same, and so are all sums; only who called the function is not kept.

CREATE TABLE run (
    run_id INTEGER PRIMARY KEY,
    label TEXT,
    command TEXT,
    cwd TEXT,
    started_at INTEGER NOT NULL,
    status TEXT NOT NULL DEFAULT 'running', -- running, complete, killed, lossy
    reader_pid INTEGER NOT NULL,
    reader_start_ticks INTEGER NOT NULL,
    wall_ns INTEGER,
    exit_status INTEGER,
    -- The run's own totals (a peak is not a sum of peaks). NULL until the run has ended: the views then add up its processes.
    allocated_blocks INTEGER, allocated_bytes INTEGER, freed_blocks INTEGER, freed_bytes INTEGER,
    peak_live_bytes INTEGER, peak_live_blocks INTEGER, live_bytes INTEGER, live_blocks INTEGER,
    mapped_blocks INTEGER, mapped_bytes INTEGER, unmapped_bytes INTEGER, peak_mapped_bytes INTEGER, live_mapped_bytes INTEGER,
    unmatched_frees INTEGER, peak_rss_bytes INTEGER, overhead_bytes INTEGER, lost_events INTEGER, python_bytes INTEGER,
    threads INTEGER, verified_stacks INTEGER, thread_waits INTEGER
);

CREATE TABLE process (
    process_id INTEGER PRIMARY KEY,
    run_id INTEGER NOT NULL REFERENCES run,
    parent_process_id INTEGER,
    pid INTEGER NOT NULL,
    exe TEXT,
    command TEXT,
    started_ns INTEGER NOT NULL,
    ended_ns INTEGER,
    end_kind TEXT NOT NULL DEFAULT 'running', -- running, exit, _exit, abort, signal, exec, lost
    exit_status INTEGER,
    allocator TEXT,
    python_version TEXT,
    allocated_blocks INTEGER NOT NULL DEFAULT 0, allocated_bytes INTEGER NOT NULL DEFAULT 0,
    freed_blocks INTEGER NOT NULL DEFAULT 0, freed_bytes INTEGER NOT NULL DEFAULT 0,
    peak_live_bytes INTEGER NOT NULL DEFAULT 0, peak_live_blocks INTEGER NOT NULL DEFAULT 0,
    live_bytes INTEGER NOT NULL DEFAULT 0, live_blocks INTEGER NOT NULL DEFAULT 0,
    mapped_blocks INTEGER NOT NULL DEFAULT 0, mapped_bytes INTEGER NOT NULL DEFAULT 0,
    unmapped_bytes INTEGER NOT NULL DEFAULT 0, peak_mapped_bytes INTEGER NOT NULL DEFAULT 0,
    live_mapped_bytes INTEGER NOT NULL DEFAULT 0, unmatched_frees INTEGER NOT NULL DEFAULT 0,
    peak_rss_bytes INTEGER NOT NULL DEFAULT 0, overhead_bytes INTEGER NOT NULL DEFAULT 0,
    lost_events INTEGER NOT NULL DEFAULT 0, python_bytes INTEGER NOT NULL DEFAULT 0, threads INTEGER NOT NULL DEFAULT 0,
    verified_stacks INTEGER NOT NULL DEFAULT 0, -- compared with libunwind's (MEMTRACE_VERIFY=1)
    thread_waits INTEGER NOT NULL DEFAULT 0, -- times that a thread waited for the reader to make room
    -- callsites that are not kept whole, and what was allocated there
    folded_sites INTEGER NOT NULL DEFAULT 0, folded_blocks INTEGER NOT NULL DEFAULT 0, folded_bytes INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX process_run ON process (run_id);

-- identity: the build-id in hex, or the path of a module that has none
CREATE TABLE module (
    module_id INTEGER PRIMARY KEY,
    identity TEXT NOT NULL UNIQUE,
    path TEXT NOT NULL, -- where it was first seen
    name TEXT NOT NULL  -- last part of the path
);

CREATE TABLE frame (
    frame_id INTEGER PRIMARY KEY,
    module_id INTEGER NOT NULL REFERENCES module,
    offset INTEGER NOT NULL -- ELF virtual address; in the module [unknown] 0: an address, 1: [cut], 2: [other callers]
);

CREATE TABLE symbol (
    symbol_id INTEGER PRIMARY KEY,
    function TEXT,
    file TEXT
);

-- What a frame means: several functions where the compiler inlined some. depth 0 is the innermost; runtime is 1 for the C library, the
-- C++ runtime, allocators and the like: never the responsible frame while there is another.
CREATE TABLE frame_line (
    frame_id INTEGER NOT NULL REFERENCES frame,
    depth INTEGER NOT NULL,
    symbol_id INTEGER REFERENCES symbol, -- NULL: nothing known
    line INTEGER,
    runtime INTEGER NOT NULL,
    PRIMARY KEY (frame_id, depth)
) WITHOUT ROWID;

-- The stack that called this one is stack_id - up: nearly always the row before, and SQLite keeps a 1 in no room at all. Stack 0 is
-- the empty stack and has no row.
CREATE TABLE stack (
    stack_id INTEGER PRIMARY KEY,
    up INTEGER NOT NULL,
    frame_id INTEGER NOT NULL REFERENCES frame
);

-- kind tells rows of one heap apart: '' or, for mmap, 'file' and 'backing' (an allocator's own mappings)
CREATE TABLE heap (
    heap_id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    kind TEXT NOT NULL,
    UNIQUE (name, kind)
);

-- (frame_id, depth) is the responsible frame; NULL for an empty stack. folded: callsites that differ in their callers alone.
CREATE TABLE site (
    site_id INTEGER PRIMARY KEY,
    stack_id INTEGER NOT NULL,
    heap_id INTEGER NOT NULL REFERENCES heap,
    frame_id INTEGER,
    depth INTEGER,
    folded INTEGER NOT NULL
);

CREATE TABLE site_totals (
    process_id INTEGER NOT NULL REFERENCES process,
    site_id INTEGER NOT NULL REFERENCES site,
    peak_bytes INTEGER NOT NULL, peak_blocks INTEGER NOT NULL,
    live_bytes INTEGER NOT NULL, live_blocks INTEGER NOT NULL,
    allocated_bytes INTEGER NOT NULL, allocated_blocks INTEGER NOT NULL,
    freed_blocks INTEGER NOT NULL, temporary_blocks INTEGER NOT NULL,
    lifetime_ns_sum INTEGER NOT NULL, lifetime_ns_min INTEGER NOT NULL, lifetime_ns_max INTEGER NOT NULL,
    own_peak_bytes INTEGER NOT NULL, -- of a folded site: the largest of its callsites' own
    PRIMARY KEY (process_id, site_id)
) WITHOUT ROWID;

CREATE TABLE sample (
    process_id INTEGER NOT NULL REFERENCES process,
    at_ns INTEGER NOT NULL,
    live_bytes INTEGER NOT NULL, python_bytes INTEGER NOT NULL, mapped_bytes INTEGER NOT NULL,
    rss_bytes INTEGER NOT NULL, rss_anon_bytes INTEGER NOT NULL, rss_file_bytes INTEGER NOT NULL,
    vms_bytes INTEGER NOT NULL, overhead_bytes INTEGER NOT NULL,
    PRIMARY KEY (process_id, at_ns)
) WITHOUT ROWID;

CREATE TABLE phase (
    process_id INTEGER NOT NULL REFERENCES process,
    started_ns INTEGER NOT NULL,
    phase TEXT NOT NULL,
    parent TEXT,
    ended_ns INTEGER,
    live_bytes_before INTEGER NOT NULL, live_bytes_after INTEGER NOT NULL, peak_live_bytes INTEGER NOT NULL,
    allocated_bytes INTEGER NOT NULL, allocated_blocks INTEGER NOT NULL,
    rss_before INTEGER NOT NULL, rss_after INTEGER NOT NULL, vms_before INTEGER NOT NULL, vms_after INTEGER NOT NULL,
    python_bytes_before INTEGER NOT NULL, python_bytes_after INTEGER NOT NULL,
    PRIMARY KEY (process_id, started_ns, phase)
) WITHOUT ROWID;

CREATE TABLE iteration (
    process_id INTEGER NOT NULL REFERENCES process,
    iteration INTEGER NOT NULL,
    label TEXT,
    started_ns INTEGER NOT NULL, ended_ns INTEGER,
    live_bytes INTEGER NOT NULL, live_blocks INTEGER NOT NULL, peak_live_bytes INTEGER NOT NULL,
    rss_bytes INTEGER NOT NULL, vms_bytes INTEGER NOT NULL,
    PRIMARY KEY (process_id, iteration)
) WITHOUT ROWID;

CREATE TABLE mark (
    mark_id INTEGER PRIMARY KEY,
    process_id INTEGER NOT NULL REFERENCES process,
    at_ns INTEGER NOT NULL,
    name TEXT NOT NULL,
    live_bytes INTEGER NOT NULL, rss_bytes INTEGER NOT NULL
);
CREATE INDEX mark_process ON mark (process_id);

-- kind: interval, mark, snapshot, phase (the end of one). object_*: Python's objects at that moment, arena_object_*: those of them in arenas, arena_bytes: the arenas
-- (mappings of kind backing); NULL: no Python.
CREATE TABLE snapshot (
    snapshot_id INTEGER PRIMARY KEY,
    process_id INTEGER NOT NULL REFERENCES process,
    kind TEXT NOT NULL,
    label TEXT,
    at_ns INTEGER NOT NULL,
    object_bytes INTEGER, object_blocks INTEGER, arena_object_bytes INTEGER, arena_object_blocks INTEGER, arena_bytes INTEGER
);
CREATE INDEX snapshot_process ON snapshot (process_id);

CREATE TABLE snapshot_site (
    snapshot_id INTEGER NOT NULL REFERENCES snapshot,
    site_id INTEGER NOT NULL REFERENCES site,
    live_bytes INTEGER NOT NULL, live_blocks INTEGER NOT NULL,
    allocated_bytes INTEGER NOT NULL, allocated_blocks INTEGER NOT NULL,
    PRIMARY KEY (snapshot_id, site_id)
) WITHOUT ROWID;

-- process_id 0: the run as a whole
CREATE TABLE loss_count (
    run_id INTEGER NOT NULL REFERENCES run,
    process_id INTEGER NOT NULL,
    reason TEXT NOT NULL,
    count INTEGER NOT NULL,
    PRIMARY KEY (run_id, process_id, reason)
) WITHOUT ROWID;

-- ---- leaks: written once, when the process has ended ----

-- A process with iterations. period: iterations between two of the ends that were looked at; torn_down: the last iteration ended
-- with the process, which freed most of its memory before, and is not among the ends.
CREATE TABLE judged (
    process_id INTEGER PRIMARY KEY REFERENCES process,
    ends INTEGER NOT NULL,
    period INTEGER NOT NULL,
    torn_down INTEGER NOT NULL,
    tested INTEGER NOT NULL, -- callsites in the family that q_value is corrected for
    floor_bytes REAL NOT NULL -- growth below is not worth a line
);

-- Callsites without a row: noise. gate: the first that failed (stats/stats.h, MT_GATES).
CREATE TABLE verdict (
    process_id INTEGER NOT NULL REFERENCES process,
    site_id INTEGER NOT NULL REFERENCES site,
    verdict TEXT NOT NULL,
    gate TEXT NOT NULL,
    bytes_per_iteration REAL, ci_low REAL, ci_high REAL, blocks_per_iteration REAL,
    p_value REAL, q_value REAL,
    since INTEGER, -- iteration
    PRIMARY KEY (process_id, site_id)
) WITHOUT ROWID;

-- Of callsites that passed the filter blind to order: JSON arrays of numbers. live_*: by iteration end, from 1; the others by iteration of birth,
-- from 0, which is before the first: what is alive at the last end, and what the retention gate counts.
CREATE TABLE cohort (
    process_id INTEGER NOT NULL REFERENCES process,
    site_id INTEGER NOT NULL REFERENCES site,
    live_bytes TEXT NOT NULL, live_blocks TEXT NOT NULL,
    survivor_bytes TEXT NOT NULL, survivor_blocks TEXT NOT NULL,
    at_risk TEXT NOT NULL, deaths TEXT NOT NULL,
    PRIMARY KEY (process_id, site_id)
) WITHOUT ROWID;

-- ---- views: the contract ------------------------------------------------------------------------------------------------------

CREATE VIEW runs AS
SELECT r.run_id, r.label, r.command, r.cwd, r.started_at,
    coalesce(r.wall_ns, max(p.ended_ns)) AS wall_ns,
    r.exit_status,
    count(p.process_id) AS processes,
    coalesce(r.allocated_blocks, sum(p.allocated_blocks), 0) AS allocated_blocks,
    coalesce(r.allocated_bytes, sum(p.allocated_bytes), 0) AS allocated_bytes,
    coalesce(r.freed_blocks, sum(p.freed_blocks), 0) AS freed_blocks,
    coalesce(r.peak_live_bytes, max(p.peak_live_bytes), 0) AS peak_live_bytes,
    coalesce(r.live_bytes, sum(p.live_bytes), 0) AS live_bytes,
    coalesce(r.live_blocks, sum(p.live_blocks), 0) AS live_blocks,
    coalesce(r.peak_rss_bytes, max(p.peak_rss_bytes), 0) AS peak_rss_bytes,
    coalesce(r.overhead_bytes, sum(p.overhead_bytes), 0) AS overhead_bytes,
    coalesce(r.lost_events, sum(p.lost_events), 0) AS lost_events,
    r.status,
    coalesce(r.freed_bytes, sum(p.freed_bytes), 0) AS freed_bytes,
    coalesce(r.peak_live_blocks, max(p.peak_live_blocks), 0) AS peak_live_blocks,
    coalesce(r.mapped_blocks, sum(p.mapped_blocks), 0) AS mapped_blocks,
    coalesce(r.mapped_bytes, sum(p.mapped_bytes), 0) AS mapped_bytes,
    coalesce(r.unmapped_bytes, sum(p.unmapped_bytes), 0) AS unmapped_bytes,
    coalesce(r.peak_mapped_bytes, max(p.peak_mapped_bytes), 0) AS peak_mapped_bytes,
    coalesce(r.live_mapped_bytes, sum(p.live_mapped_bytes), 0) AS live_mapped_bytes,
    coalesce(r.unmatched_frees, sum(p.unmatched_frees), 0) AS unmatched_frees,
    coalesce(r.python_bytes, sum(p.python_bytes), 0) AS python_bytes,
    coalesce(r.threads, sum(p.threads), 0) AS threads,
    coalesce(sum(p.folded_sites), 0) AS folded_sites
FROM run AS r LEFT JOIN process AS p USING (run_id)
GROUP BY r.run_id;

CREATE VIEW processes AS
SELECT p.run_id, p.process_id, p.parent_process_id, p.pid, p.exe, p.command,
    r.started_at + p.started_ns AS started_at,
    r.started_at + p.ended_ns AS ended_at,
    p.end_kind, p.exit_status, p.allocator, p.python_version,
    p.allocated_blocks, p.allocated_bytes, p.freed_blocks, p.peak_live_bytes, p.live_bytes, p.live_blocks, p.peak_rss_bytes,
    p.started_ns, p.ended_ns, p.freed_bytes, p.peak_live_blocks, p.mapped_blocks, p.mapped_bytes, p.unmapped_bytes,
    p.peak_mapped_bytes, p.live_mapped_bytes, p.unmatched_frees, p.overhead_bytes, p.lost_events, p.python_bytes, p.threads,
    p.folded_sites, p.folded_blocks, p.folded_bytes, p.verified_stacks, p.thread_waits
FROM process AS p JOIN run AS r USING (run_id);

-- The responsible frame and the stack in words of each site. The stack is worked out only where a query asks for it, and with
-- ORDER BY and LIMIT only for the rows that come out.
CREATE VIEW sites AS
SELECT s.site_id, heap.name AS heap, heap.kind AS kind,
    coalesce(symbol.function, module.name || printf('+0x%x', frame.offset), '[unknown]') AS function,
    symbol.file AS file, fl.line AS line, module.path AS module,
    coalesce((
        WITH RECURSIVE walk (level, frame_id, parent_id) AS (
            SELECT 0, stack.frame_id, stack.stack_id - stack.up FROM stack WHERE stack.stack_id = s.stack_id
            UNION ALL
            SELECT walk.level + 1, stack.frame_id, stack.stack_id - stack.up FROM walk JOIN stack ON stack.stack_id = walk.parent_id
            WHERE stack.up > 0 -- always, but in a damaged file: without end
        )
        SELECT group_concat(text, ';') FROM (
            SELECT replace(coalesce(y.function, m.name || printf('+0x%x', f.offset)), ';', ',') AS text
            FROM walk CROSS JOIN frame AS f ON f.frame_id = walk.frame_id
                CROSS JOIN module AS m ON m.module_id = f.module_id
                CROSS JOIN frame_line AS l ON l.frame_id = f.frame_id
                LEFT JOIN symbol AS y ON y.symbol_id = l.symbol_id
            ORDER BY walk.level, l.depth)
    ), '') AS stack,
    s.stack_id, s.folded
FROM site AS s JOIN heap USING (heap_id)
    LEFT JOIN frame ON frame.frame_id = s.frame_id
    LEFT JOIN module ON module.module_id = frame.module_id
    LEFT JOIN frame_line AS fl ON fl.frame_id = s.frame_id AND fl.depth = s.depth
    LEFT JOIN symbol ON symbol.symbol_id = fl.symbol_id;

CREATE VIEW top_allocators AS
SELECT p.run_id, t.process_id, t.site_id, s.heap, s.function, s.file, s.line, s.module,
    t.peak_bytes, t.peak_blocks, t.live_bytes, t.live_blocks, t.allocated_bytes, t.allocated_blocks, t.temporary_blocks,
    s.stack, s.kind, t.freed_blocks, t.own_peak_bytes,
    CASE WHEN t.freed_blocks > 0 THEN t.lifetime_ns_sum / t.freed_blocks END AS lifetime_ns_mean,
    CASE WHEN t.freed_blocks > 0 THEN t.lifetime_ns_min END AS lifetime_ns_min,
    CASE WHEN t.freed_blocks > 0 THEN t.lifetime_ns_max END AS lifetime_ns_max,
    s.folded
FROM site_totals AS t JOIN process AS p USING (process_id) JOIN sites AS s USING (site_id);

-- A process without iterations has the one verdict that needs no statistics. Mappings of files and an allocator's own mappings are not
-- leaks. A callsite that grew is listed even if the process freed everything before its end.
CREATE VIEW leaks AS
SELECT p.run_id, t.process_id, t.site_id, s.heap,
    CASE WHEN j.process_id IS NULL THEN 'live-at-exit' ELSE coalesce(v.verdict, 'noise') END AS verdict,
    v.bytes_per_iteration, v.ci_low, v.ci_high, v.blocks_per_iteration, v.p_value, v.q_value,
    t.live_bytes, t.live_blocks, s.function, s.file, s.line, s.module, s.stack, s.kind, t.allocated_blocks,
    v.since, nullif(v.gate, '') AS gate
FROM site_totals AS t JOIN process AS p USING (process_id) JOIN sites AS s USING (site_id)
    LEFT JOIN judged AS j ON j.process_id = t.process_id
    LEFT JOIN verdict AS v ON v.process_id = t.process_id AND v.site_id = t.site_id
WHERE (t.live_blocks > 0 OR v.verdict IS NOT NULL) AND s.kind NOT IN ('file', 'backing');

-- What each callsite that changes over the iterations held at each end. (json_each and not json_extract: a view may use only what
-- SQLite calls innocuous.)
CREATE VIEW site_iterations AS
SELECT p.run_id, c.process_id, c.site_id, (b.key + 1) * j.period AS iteration, b.value AS live_bytes, n.value AS live_blocks
FROM cohort AS c JOIN process AS p USING (process_id) JOIN judged AS j USING (process_id)
    CROSS JOIN json_each(c.live_bytes) AS b CROSS JOIN json_each(c.live_blocks) AS n ON n.key = b.key;

-- What of each iteration's blocks was alive at the last end. born: the iteration, the last one of a period; 0: before the first.
CREATE VIEW cohorts AS
SELECT p.run_id, c.process_id, c.site_id, b.key * j.period AS born, b.value AS survivor_bytes, n.value AS survivor_blocks,
    r.value AS at_risk, d.value AS deaths
FROM cohort AS c JOIN process AS p USING (process_id) JOIN judged AS j USING (process_id)
    CROSS JOIN json_each(c.survivor_bytes) AS b CROSS JOIN json_each(c.survivor_blocks) AS n ON n.key = b.key
    CROSS JOIN json_each(c.at_risk) AS r ON r.key = b.key CROSS JOIN json_each(c.deaths) AS d ON d.key = b.key;

CREATE VIEW iterations AS
SELECT p.run_id, i.process_id, i.iteration, i.label, i.started_ns, i.ended_ns, i.live_bytes, i.live_blocks, i.peak_live_bytes,
    i.rss_bytes, i.vms_bytes
FROM iteration AS i JOIN process AS p USING (process_id);

CREATE VIEW phases AS
SELECT p.run_id, h.process_id, h.phase, h.parent, h.started_ns, h.ended_ns, h.live_bytes_before, h.live_bytes_after,
    h.peak_live_bytes, h.allocated_bytes, h.allocated_blocks, h.rss_before, h.rss_after, h.vms_before, h.vms_after,
    h.python_bytes_before, h.python_bytes_after
FROM phase AS h JOIN process AS p USING (process_id);

CREATE VIEW marks AS
SELECT p.run_id, m.process_id, m.mark_id, m.name, m.at_ns, m.live_bytes, m.rss_bytes
FROM mark AS m JOIN process AS p USING (process_id);

CREATE VIEW memory_samples AS
SELECT p.run_id, s.process_id, s.at_ns, s.live_bytes, s.python_bytes, s.rss_bytes, s.rss_anon_bytes, s.rss_file_bytes, s.vms_bytes,
    s.overhead_bytes, s.mapped_bytes
FROM sample AS s JOIN process AS p USING (process_id);

-- The snapshots at the peak and at the end are the site totals themselves; their ids are negative. What had been allocated in all
-- by the time of the peak is not kept, nor is the time.
CREATE VIEW snapshot_sites AS
SELECT p.run_id, p.process_id, n.snapshot_id, n.kind, n.label, n.at_ns, s.site_id, s.live_bytes, s.live_blocks,
    s.allocated_bytes, s.allocated_blocks
FROM snapshot AS n JOIN process AS p USING (process_id) JOIN snapshot_site AS s USING (snapshot_id)
UNION ALL
SELECT p.run_id, p.process_id, -2 * p.process_id, 'peak', NULL, NULL, t.site_id, t.peak_bytes, t.peak_blocks, NULL, NULL
FROM site_totals AS t JOIN process AS p USING (process_id) WHERE t.peak_blocks > 0
UNION ALL
SELECT p.run_id, p.process_id, -2 * p.process_id - 1, 'exit', NULL, p.ended_ns, t.site_id, t.live_bytes, t.live_blocks,
    t.allocated_bytes, t.allocated_blocks
FROM site_totals AS t JOIN process AS p USING (process_id) WHERE t.live_blocks > 0;

-- Python's objects at each snapshot: what of them is in arenas (what is not are blocks of malloc's), and how large those are.
CREATE VIEW python_heap AS
SELECT p.run_id, n.process_id, n.snapshot_id, n.kind, n.label, n.at_ns, n.object_bytes, n.object_blocks, n.arena_object_bytes,
    n.arena_object_blocks, n.arena_bytes
FROM snapshot AS n JOIN process AS p USING (process_id) WHERE n.object_bytes IS NOT NULL;

CREATE VIEW loss AS
SELECT run_id, nullif(process_id, 0) AS process_id, reason, count FROM loss_count;
