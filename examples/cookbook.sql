-- Questions to a memtrace database. Each query can be given to `memtrace sql "..."`; a test runs them all.
-- Views: runs, processes, top_allocators, leaks, iterations, phases, marks, memory_samples, snapshot_sites, python_heap, loss.
-- The last run is (SELECT MAX(run_id) FROM runs).

-- Who held the memory when the program was at its largest?
SELECT function, file, line, SUM(peak_bytes) AS bytes, SUM(peak_blocks) AS blocks
FROM top_allocators WHERE run_id = (SELECT MAX(run_id) FROM runs) AND heap = 'malloc'
GROUP BY function, file, line ORDER BY bytes DESC LIMIT 10;

-- The same by module: the program itself, or a library?
SELECT module, SUM(peak_bytes) AS peak_bytes, SUM(live_bytes) AS live_bytes, SUM(allocated_blocks) AS allocations
FROM top_allocators WHERE run_id = (SELECT MAX(run_id) FROM runs) AND heap = 'malloc'
GROUP BY module ORDER BY peak_bytes DESC LIMIT 10;

-- Which callers lead to one function? (Put its name in place of main.)
SELECT stack, live_bytes, live_blocks, allocated_blocks
FROM top_allocators WHERE run_id = (SELECT MAX(run_id) FROM runs) AND function = 'main'
ORDER BY live_bytes DESC LIMIT 10;

-- Everything allocated below a function, whoever called malloc in the end.
SELECT SUM(allocated_bytes) AS allocated_bytes, SUM(live_bytes) AS live_bytes
FROM top_allocators WHERE run_id = (SELECT MAX(run_id) FROM runs) AND ';' || stack || ';' LIKE '%;main;%';

-- Churn: blocks that lived for less than one further allocation. Candidates for a buffer that is kept.
SELECT function, file, line, SUM(temporary_blocks) AS temporary, SUM(allocated_blocks) AS blocks,
    ROUND(100.0 * SUM(temporary_blocks) / SUM(allocated_blocks), 1) AS percent
FROM top_allocators WHERE run_id = (SELECT MAX(run_id) FROM runs)
GROUP BY function, file, line HAVING temporary > 0 ORDER BY temporary DESC LIMIT 10;

-- What was never freed, by size.
SELECT function, file, line, live_bytes, live_blocks, stack
FROM leaks WHERE run_id = (SELECT MAX(run_id) FROM runs) ORDER BY live_bytes DESC LIMIT 10;

-- What grows with every iteration, and how sure is that?
SELECT verdict, function, file, line, ROUND(bytes_per_iteration) AS bytes_per_iteration, ROUND(ci_low) AS low, ROUND(ci_high) AS high,
    q_value, since, gate
FROM leaks WHERE run_id = (SELECT MAX(run_id) FROM runs) AND verdict IN ('leak', 'suspect') ORDER BY verdict, bytes_per_iteration DESC;

-- What did each iteration leave behind at the callsites that leak?
SELECT l.function, c.born AS iteration, c.survivor_blocks, c.survivor_bytes
FROM cohorts AS c JOIN leaks AS l USING (run_id, process_id, site_id)
WHERE run_id = (SELECT MAX(run_id) FROM runs) AND l.verdict = 'leak' ORDER BY l.site_id, c.born;

-- How does the heap grow from iteration to iteration, and resident memory with it?
SELECT process_id, iteration, label, live_bytes, live_bytes - LAG(live_bytes) OVER (PARTITION BY process_id ORDER BY iteration) AS grown,
    live_blocks, peak_live_bytes, rss_bytes
FROM iterations WHERE run_id = (SELECT MAX(run_id) FROM runs) ORDER BY process_id, iteration;

-- What did each phase leave behind, and what did it need on the way?
SELECT phase, parent, (ended_ns - started_ns) / 1e6 AS ms, live_bytes_after - live_bytes_before AS kept, peak_live_bytes, allocated_blocks,
    rss_after - rss_before AS rss_grown
FROM phases WHERE run_id = (SELECT MAX(run_id) FROM runs) ORDER BY started_ns;

-- The same callsites in the last two runs: what has become larger at the peak?
SELECT b.function, b.file, b.line, SUM(b.peak_bytes) - SUM(COALESCE(a.peak_bytes, 0)) AS grown
FROM (SELECT site_id, function, file, line, SUM(peak_bytes) AS peak_bytes FROM top_allocators
      WHERE run_id = (SELECT MAX(run_id) FROM runs) GROUP BY site_id) AS b
LEFT JOIN (SELECT site_id, SUM(peak_bytes) AS peak_bytes FROM top_allocators
      WHERE run_id = (SELECT MAX(run_id) - 1 FROM runs) GROUP BY site_id) AS a USING (site_id)
GROUP BY b.function, b.file, b.line ORDER BY grown DESC LIMIT 10;

-- Repeated runs under one label: how much do they differ?
SELECT label, COUNT(*) AS runs, MIN(peak_live_bytes) AS least, median(peak_live_bytes) AS median, MAX(peak_live_bytes) AS most
FROM runs WHERE label IS NOT NULL GROUP BY label;

-- Why is resident memory larger than the heap? Side by side along the time.
SELECT at_ns / 1e9 AS seconds, live_bytes, rss_anon_bytes, rss_file_bytes, overhead_bytes,
    rss_anon_bytes - live_bytes - overhead_bytes AS other_anonymous
FROM memory_samples WHERE run_id = (SELECT MAX(run_id) FROM runs) ORDER BY process_id, at_ns;

-- Address space that the program mapped itself, outside of malloc.
SELECT function, file, line, SUM(live_bytes) AS mapped_bytes, SUM(live_blocks) AS mappings
FROM top_allocators WHERE run_id = (SELECT MAX(run_id) FROM runs) AND heap = 'mmap'
GROUP BY function, file, line ORDER BY mapped_bytes DESC LIMIT 10;

-- Each process of a run: how it ended and what it used.
SELECT process_id, parent_process_id AS parent, pid, exe, end_kind, exit_status, allocated_blocks, peak_live_bytes, live_bytes, peak_rss_bytes
FROM processes WHERE run_id = (SELECT MAX(run_id) FROM runs) ORDER BY process_id;

-- Can the figures be trusted? No row: nothing was lost.
SELECT process_id, reason, count FROM loss WHERE run_id = (SELECT MAX(run_id) FROM runs) AND count > 0;

-- Python's objects and the arenas that hold the small ones (up to 512 bytes; larger ones are malloc's own blocks), at the process's peak.
SELECT process_id, SUM(peak_bytes) FILTER (WHERE heap = 'python') AS objects_bytes,
    SUM(peak_bytes) FILTER (WHERE heap = 'mmap' AND kind = 'backing') AS arena_bytes,
    SUM(peak_bytes) FILTER (WHERE heap = 'malloc') AS native_bytes
FROM top_allocators WHERE run_id = (SELECT MAX(run_id) FROM runs) GROUP BY process_id;

-- The books of Python's memory at each snapshot and mark: live objects that are in arenas + slack = arenas. Slack is what is free there, what
-- sizes are rounded up by, and what the arenas' own order needs: where it is large and stays, memory is fragmented.
SELECT h.process_id, h.kind, h.label, SUM(s.live_bytes) FILTER (WHERE t.heap = 'python') AS objects_bytes, h.object_bytes - h.arena_object_bytes AS in_malloc_bytes,
    h.arena_object_bytes, h.arena_bytes - h.arena_object_bytes AS slack_bytes,
    SUM(s.live_bytes) FILTER (WHERE t.heap = 'mmap' AND t.kind = 'backing') AS arena_bytes
FROM python_heap AS h JOIN snapshot_sites AS s USING (run_id, process_id, snapshot_id) JOIN sites AS t USING (site_id)
WHERE h.run_id = (SELECT MAX(run_id) FROM runs) AND h.kind <> 'interval' GROUP BY h.snapshot_id ORDER BY h.snapshot_id;

-- The same along the time, snapshots at intervals included.
SELECT process_id, at_ns / 1e9 AS seconds, object_bytes, arena_object_bytes, arena_bytes - arena_object_bytes AS slack_bytes, arena_bytes
FROM python_heap WHERE run_id = (SELECT MAX(run_id) FROM runs) ORDER BY process_id, at_ns;

-- Which lines of which Python files: all that was allocated there, natively or as objects.
SELECT file, line, function, SUM(allocated_bytes) AS bytes, SUM(allocated_blocks) AS blocks, SUM(peak_bytes) AS at_peak
FROM top_allocators WHERE run_id = (SELECT MAX(run_id) FROM runs) AND file LIKE '%.py' AND heap <> 'mmap'
GROUP BY file, line, function ORDER BY at_peak DESC LIMIT 20;
