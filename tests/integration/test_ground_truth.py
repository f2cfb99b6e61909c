"""Equality of what top_allocators says with what small programs are known to do."""

import os

import harness
from harness import target


WAYS = os.environ.get("MT_WAYS", "preload run").split()


class GroundTruth(harness.Case):
    def check(self, result, expected, columns=("allocated_blocks", "allocated_bytes", "live_blocks", "live_bytes"),
              **where):
        found = {name: result.function(name, columns, **where) for name in expected}
        self.assertEqual(found, expected)

    def both_ways(self, *arguments, status=0, **options):
        """Under LD_PRELOAD alone and under `memtrace run`."""
        for how in WAYS:
            with self.subTest(how=how):
                self.db = f"{self.folder}/{how}.db"
                result = self.trace(*arguments, how=how, **options)
                self.assertComplete(result, status)
                self.assertConsistent(result)
                yield result

    def test_basic(self):
        for result in self.both_ways(target("basic"), status=7):
            self.check(result, {
                "hold_ten": (10, 1000, 10, 1000),
                "churn": (1000, 64000, 0, 0),
                "hold_zeroed": (7, 1050, 7, 1050),
                "hold_nothing": (5, 0, 5, 0),
                "lag_by_two": (102, 2448, 2, 48),
                "raise_peak": (3, 3 << 20, 0, 0),
                "after_peak": (2, 2 << 20, 2, 2 << 20),
            })
            self.check(result, {
                "hold_ten": (10, 1000, 0),
                "churn": (0, 0, 1000),
                "hold_nothing": (5, 0, 0),
                "lag_by_two": (2, 48, 0),
                "raise_peak": (3, 3 << 20, 2),
                "after_peak": (0, 0, 0),
            }, ("peak_blocks", "peak_bytes", "temporary_blocks"))
            run = result.run()
            self.assertEqual((run["allocated_blocks"], run["allocated_bytes"], run["freed_blocks"]), (1129, 5311378, 1103))
            self.assertEqual(run["live_bytes"], 1000 + 1050 + 48 + (2 << 20))
            self.assertEqual(run["peak_live_bytes"], 1000 + 1050 + 48 + (3 << 20))
            self.assertEqual(run["processes"], 1)

    def test_lines_and_stacks(self):
        result = self.trace(target("basic"))
        rows = result.query("SELECT file, line, module, stack FROM top_allocators WHERE function = 'hold_ten'")
        self.assertEqual(len(rows), 1)
        self.assertTrue(rows[0]["file"].endswith("basic.c"), rows[0]["file"])
        source = open(f"{harness.SOURCE}/tests/targets/basic.c").read().splitlines()
        self.assertEqual(rows[0]["line"], next(i for i, l in enumerate(source, 1) if "malloc(100)" in l))
        self.assertTrue(rows[0]["module"].endswith("basic"), rows[0]["module"])
        stack = rows[0]["stack"].split(";")
        at = next(i for i, f in enumerate(stack) if "hold_ten" in f)
        self.assertIn("main", stack[at + 1])
        self.assertIn("_start", stack[-1])

    def test_threads(self):
        for result in self.both_ways(target("threads")):
            rounds = 8 * 50000
            self.check(result, {"produce": (160000, 20000 * sum(range(16, 24)), 0, 0), "swap": (rounds, rounds * 40, 0, 0)})
            blocks, _, live, live_bytes = result.function("regrow")
            self.assertEqual((blocks, live, live_bytes), (rounds, 0, 0))

    def test_cxx(self):
        for result in self.both_ways(target("cxx")):
            self.check(result, {
                "hold_objects": (20, 960, 20, 960),
                "hold_arrays": (5, 2400, 5, 2400),
                "hold_aligned": (4, 1024, 4, 1024),
                "churn_objects": (300, 14400, 0, 0),
                "Guard::~Guard": (1200, 38400, 1200, 38400),
            }) if result.query("SELECT 1 FROM top_allocators WHERE function = 'hold_objects'") else self.check(result, {
                "hold_objects()": (20, 960, 20, 960),
                "hold_arrays()": (5, 2400, 5, 2400),
                "hold_aligned()": (4, 1024, 4, 1024),
                "churn_objects()": (300, 14400, 0, 0),
                "Guard::~Guard()": (1200, 38400, 1200, 38400),
            })
            sums = result.query("SELECT SUM(allocated_blocks), SUM(live_blocks) FROM top_allocators "
                                "WHERE function LIKE 'throw_deep%' AND allocated_bytes = 8 * allocated_blocks")[0]
            self.assertEqual(tuple(sums), (1200, 0))
            sums = result.query("SELECT SUM(allocated_blocks), SUM(allocated_bytes), SUM(live_blocks) FROM top_allocators "
                                "WHERE stack LIKE '%grow_vector%'")[0]
            self.assertEqual(tuple(sums), (11, 4 * 2047, 0))

    def test_cxx_over_other_allocators(self):
        """Allocators with C++ operators of their own, which in part call their malloc family by name: one record a block."""
        for name in ("libjemalloc.so.2", "libtcmalloc_minimal.so.4"):
            library = f"/usr/lib/x86_64-linux-gnu/{name}"
            if not os.path.exists(library):
                continue
            with self.subTest(name):
                self.db = f"{self.folder}/{name}.db"
                result = self.trace(target("cxx"), preload=[library])
                self.assertComplete(result)
                self.assertConsistent(result)
                self.check(result, {
                    "hold_objects": (20, 960, 20, 960),
                    "hold_arrays": (5, 2400, 5, 2400),
                    "hold_aligned": (4, 1024, 4, 1024),
                    "churn_objects": (300, 14400, 0, 0),
                })
                self.assertEqual(result.one("SELECT unmatched_frees FROM processes"), 0)

    def test_recursion_500_deep(self):
        result = self.trace(target("deep"))
        self.assertComplete(result)
        self.check(result, {"recurse": (500, 500 * 501 // 2, 500, 500 * 501 // 2)})
        rows = result.query("SELECT stack, live_bytes FROM top_allocators WHERE function = 'recurse' ORDER BY live_bytes")
        self.assertEqual([r["live_bytes"] for r in rows], list(range(1, 501)))
        for r in rows:
            frames = r["stack"].split(";")
            self.assertEqual(sum("recurse" in f for f in frames), r["live_bytes"])
            self.assertTrue(any(f.split()[0].split("+")[0] == "main" for f in frames), frames[-5:])
            self.assertIn("_start", frames[-1])

    def test_library_reloaded_at_the_same_address(self):
        result = self.trace(target("reload"), target("plugin_one.so"), target("plugin_two.so"))
        self.assertComplete(result)
        self.assertEqual(result.out, b"same\n", "the test needs both libraries at one address")
        rows = result.query("SELECT stack, SUM(live_blocks) n FROM top_allocators WHERE function = 'hold' GROUP BY stack")
        self.assertEqual(sum(r["n"] for r in rows), 87)
        for name, blocks in (("enter_one", 37), ("enter_two", 50)):
            mine = [r for r in rows if name in r["stack"]]
            self.assertEqual(sum(r["n"] for r in mine), blocks, [r["stack"] for r in rows])
            for r in mine:
                frames = r["stack"].split(";")
                at = next(i for i, f in enumerate(frames) if name in f)
                self.assertIn("visit", frames[at + 1])
                self.assertIn("main", frames[at + 2])

    def test_signal_in_a_leaf_function(self):
        for verify in ("0", "1"):
            self.db = f"{self.folder}/{verify}.db"
            result = self.trace(target("leaf"), env={"MEMTRACE_VERIFY": verify})
            self.assertComplete(result)
            rows = result.query("SELECT allocated_blocks, stack FROM top_allocators WHERE function = 'on_alarm'")
            self.assertEqual(sum(r["allocated_blocks"] for r in rows), 3)
            for r in rows:
                frames = r["stack"].split(";")
                self.assertEqual(frames[0], "on_alarm")
                self.assertEqual(frames[2:5], ["spin", "wait_for", "main"])  # behind the signal trampoline

    def test_switched_stacks(self):
        """Whole stacks, each to its root, though the thread hops between them."""
        for verify in ("0", "1"):
            with self.subTest(verify=verify):
                self.db = f"{self.folder}/{verify}.db"
                result = self.trace(os.path.join(os.environ["MT_CONFORMANCE"], "coroutines"), env={"MEMTRACE_VERIFY": verify})
                self.assertComplete(result)
                rows = result.query("SELECT stack, allocated_blocks n FROM top_allocators WHERE function = 'step_and_switch'")
                self.assertEqual(sum(r["n"] for r in rows), 400)
                for r in rows:
                    frames = r["stack"].split(";")
                    self.assertEqual(set(frames[:-2]), {"step_and_switch"})
                    self.assertEqual(frames[-2], "coroutine")

    def test_short_threads(self):
        for result in self.both_ways(target("short_threads")):
            self.check(result, {"once": (332 * 3, 332 * 66, 332, 332 * 33)})

    def test_edges_of_life(self):
        for result in self.both_ways(target("lifetimes")):
            found = {}
            for r in result.query("SELECT function f, SUM(live_blocks) n, SUM(live_bytes) b FROM top_allocators "
                                  "WHERE heap = 'malloc' GROUP BY 1"):
                found[(r["f"] or "").split("(")[0]] = (r["n"], r["b"])
            self.assertEqual({k: found.get(k) for k in (
                "before_main", "library_before_main", "library_after_main", "Static::Static", "Static::~Static", "at_exit",
                "key_destroyed", "Local::~Local")}, {
                "before_main": (3, 333), "library_before_main": (4, 280), "library_after_main": (6, 480),
                "Static::Static": (1, 21), "Static::~Static": (1, 31), "at_exit": (5, 300),
                "key_destroyed": (20, 1800), "Local::~Local": (10, 450)})

    def test_signals(self):
        for result in self.both_ways(target("signals")):
            ticks, jumps = map(int, result.out.split())
            self.assertEqual(jumps, 20)
            self.check(result, {"on_raise": (30, 2310, 30, 2310), "jumped_over": (20, 260, 20, 260)})
            self.check(result, {"on_timer": (ticks, ticks * 4096, 0, 0)}, heap="mmap")
            blocks, size, live, _ = result.function("interrupted")
            self.assertEqual((size, live), (blocks * 50, 0))
            self.assertEqual(blocks % 1000, 0)

    def test_realloc_rules(self):
        for result in self.both_ways(target("realloc")):
            self.check(result, {
                "grow": (21, sum(16 * i for i in range(1, 22)), 1, 336),
                "shrink": (2, 4040, 1, 40),
                "move": (3, 300300, 2, 300200),
                "fail": (1, 55, 1, 55),
                "to_zero": (10, 660, 0, 0),
                "from_null": (3, 132, 3, 132),
                "overflow": (0, 0, 0, 0),
                "array": (2, 300, 1, 200),
                "posix": (1, 500, 1, 500),
                "aligned": (4, 664, 4, 664),
                "usable": (1, 25, 1, 25),
                "errno_kept": (1, 99, 0, 0),
            })

    def test_mappings(self):
        page = 4096
        for result in self.both_ways(target("mappings")):
            # Mappings by pages() are told apart by its caller.
            live = {}
            for r in result.query("SELECT stack, live_bytes b FROM top_allocators WHERE heap = 'mmap' AND live_bytes > 0"):
                frames = [f.split()[0].split("+")[0] for f in r["stack"].split(";")]
                name = next((f for f in frames if f not in ("pages", "mmap", "mmap64", "__mmap", "mremap", "sbrk", "brk",
                                                            "__sbrk", "__brk", "__mmap64")), "?")
                live[name] = live.get(name, 0) + r["b"]
            expected = {"partial": 10, "under": 5, "over": 3, "with_mmap64": 7, "grow": 40, "shrink": 5, "before_split": 8,
                        "split": 6, "move_fixed": 2, "fail": 9, "file": 1, "program_break": 20}
            self.assertEqual({k: live.get(k, 0) for k in expected}, {k: v * page for k, v in expected.items()})
            for gone in ("whole", "before_grow", "before_shrink", "before_fixed"):
                self.assertNotIn(gone, live)
            self.check(result, {"large_block": (1, 1000000, 1, 1000000)})
            p = result.one("SELECT * FROM processes")
            self.assertEqual(p["allocated_bytes"], 1000000)
            self.assertEqual(p["live_mapped_bytes"], (sum(expected.values()) - expected["file"]) * page)

    def test_jemalloc(self):
        for result in self.both_ways(target("jemalloc")):
            self.check(result, {
                "hold_mallocx": (5, 500, 5, 500),
                "move_rallocx": (2, 5010, 1, 5000),
                "drop": (40, 8000, 0, 0),
                "plain": (3, 90, 2, 60),
            })
            self.assertEqual(result.function("stay_xallocx", ("live_blocks", "live_bytes")), (1, 100))
            self.assertIn("jemalloc", result.one("SELECT allocator FROM processes"))

    def test_api(self):
        result = self.trace(target("api"))
        self.assertComplete(result)
        self.assertConsistent(result)
        self.assertEqual(result.out, b"traced\n")
        phases = {r["phase"]: r for r in result.query("SELECT * FROM phases")}
        self.assertEqual(set(phases), {"outer", "inner"})
        inner, outer = phases["inner"], phases["outer"]
        self.assertEqual(inner["parent"], "outer")
        self.assertFalse(outer["parent"])
        self.assertEqual((outer["live_bytes_before"], outer["live_bytes_after"], outer["peak_live_bytes"],
                          outer["allocated_bytes"], outer["allocated_blocks"]), (0, 3070, 8070, 8070, 5))
        self.assertEqual((inner["live_bytes_before"], inner["live_bytes_after"], inner["peak_live_bytes"],
                          inner["allocated_bytes"], inner["allocated_blocks"]), (3000, 3070, 8070, 5070, 2))
        self.assertTrue(outer["started_ns"] <= inner["started_ns"] <= inner["ended_ns"] <= outer["ended_ns"])
        for phase in phases.values():
            self.assertTrue(phase["vms_before"] >= phase["rss_before"] > 0)
        iterations = result.query("SELECT * FROM iterations ORDER BY iteration")
        self.assertEqual([r["iteration"] for r in iterations], [1, 2, 3, 4, 5, 6])
        self.assertEqual([r["label"] for r in iterations][2], "third")
        self.assertEqual([r["live_bytes"] for r in iterations][:5], [3070 + 100 * i for i in range(1, 6)])
        self.assertEqual([r["live_blocks"] for r in iterations][:5], [4 + 2 * i for i in range(1, 6)])
        self.assertEqual([r["peak_live_bytes"] for r in iterations][:5], [3070 + 100 * i + 10000 for i in range(1, 6)])
        self.check(result, {"unseen": (0, 0, 0, 0), "main": (2, 5333, 0, 0)})
        self.check(result, {"hold": (3 + 1 + 12 + 1, 3070 + 600 + 44, 17, 3714)})
        self.check(result, {"use_pool": (8, 800, 5, 500)}, heap="pool")
        snapshots = result.query("SELECT kind, label, SUM(live_bytes) b, SUM(live_blocks) n FROM snapshot_sites "
                                 "WHERE label IN ('late', 'halfway') GROUP BY 1, 2 ORDER BY 2")
        self.assertEqual([tuple(r) for r in snapshots], [("mark", "halfway", 3070, 4), ("snapshot", "late", 3714, 17)])

    def test_samples_and_snapshots(self):
        """Of a program that runs for a while and is killed: the four kinds of snapshots, and figures that fit together."""
        counters = f"{self.folder}/counters"
        with open(counters, "wb") as f:
            f.write(bytes(4096))
        result = self.trace("timeout", "-s", "KILL", "3", target("published"), counters)
        process = result.one("SELECT * FROM processes ORDER BY process_id DESC LIMIT 1")
        kinds = {r["kind"]: (r["n"], r["b"]) for r in result.query(
            "SELECT n.kind, COUNT(DISTINCT snapshot_id) n, SUM(live_bytes) b FROM snapshot_sites n JOIN sites USING (site_id) "
            "WHERE process_id = ? AND sites.heap = 'malloc' GROUP BY 1", process["process_id"])}
        self.assertEqual(set(kinds), {"interval", "peak", "exit"})
        self.assertEqual(kinds["peak"], (1, process["peak_live_bytes"]))
        self.assertEqual(kinds["exit"], (1, process["live_bytes"]))
        self.assertLess(kinds["interval"][0], 20)
        samples = result.query("SELECT * FROM memory_samples WHERE process_id = ? ORDER BY at_ns", process["process_id"])
        self.assertTrue(5 <= len(samples) <= 1000, len(samples))
        for s in samples:
            self.assertLessEqual(s["live_bytes"], process["peak_live_bytes"])
            self.assertTrue(0 < s["rss_anon_bytes"] < s["rss_bytes"] < s["vms_bytes"], dict(s))
            self.assertTrue(0 < s["rss_file_bytes"] < s["rss_bytes"], dict(s))
            self.assertTrue(0 < s["overhead_bytes"] < s["rss_bytes"], dict(s))
        self.assertGreaterEqual(process["peak_rss_bytes"], max(s["rss_bytes"] for s in samples))

    def test_api_untraced(self):
        result = harness.plain([target("api")])
        self.assertEqual((result.out, result.status), (b"untraced\n", 0))

    def test_site_identity_across_runs(self):
        """The same callsite has the same row whatever the address space looks like."""
        for _ in range(3):
            self.trace(target("deep"))
        result = self.trace(target("deep"), how="run", options=("--label", "last"))
        rows = result.query("SELECT run_id, GROUP_CONCAT(site_id) sites FROM (SELECT run_id, site_id FROM top_allocators "
                            "WHERE function = 'recurse' ORDER BY run_id, site_id) GROUP BY run_id")
        self.assertEqual(len(rows), 4)
        self.assertEqual(len({r["sites"] for r in rows}), 1)
        self.assertEqual(result.run()["label"], "last")

    def test_stacks_agree_with_libunwind(self):
        """MEMTRACE_VERIFY=1 unwinds twice and counts differences."""
        for arguments in (["deep"], ["cxx"], ["threads"], ["lifetimes"], ["signals"]):
            with self.subTest(arguments[0]):
                self.db = f"{self.folder}/{arguments[0]}.db"
                result = self.trace(target(arguments[0]), env={"MEMTRACE_VERIFY": "1"})
                self.assertEqual([tuple(r) for r in result.query("SELECT reason, count FROM loss WHERE count > 0")], [])
                self.assertGreaterEqual(result.one("SELECT verified_stacks FROM processes"), result.run()["allocated_blocks"])


harness.main()
