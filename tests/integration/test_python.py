"""Python's frames and objects, on every CPython that is here (tests/harness/pythons.py)."""

import os
import re
import sys

import harness
from pythons import PYTHONS

FOLDER = f"{harness.SOURCE}/tests/targets/python"
MODULE = os.path.join(os.environ.get("MT_BUILD", ""), "python")
OBJECTS, FRAMES = {"MEMTRACE_PYTHON": "objects"}, {"MEMTRACE_PYTHON": "frames"}


def has_no_lock(version):
    return version.endswith("t")


def frames_of(version):
    """Frames with what goes to malloc; without the lock the interpreter asks mimalloc for all of it."""
    return OBJECTS if has_no_lock(version) else FRAMES


def marked_lines(path):
    """Line numbers by the names in their comments."""
    with open(path) as f:
        return {m[1]: n for n, line in enumerate(f, 1) if (m := re.search(r"# ([A-Z_]+)$", line.rstrip()))}


def each_python(test):
    """Runs a test once for each Python, and says in which it failed."""
    def run(self):
        if not PYTHONS:
            self.skipTest("no CPython from 3.11 on; name some in MEMTRACE_TEST_PYTHONS")
        for version, python in PYTHONS:
            with self.subTest(python=version):
                self.db = os.path.join(self.folder, f"{version}.db")
                test(self, python, version)
    run.__name__ = test.__name__
    return run


class Python(harness.Case):
    def by_line(self, result, file, minimum=0):
        """allocated blocks and bytes by line of a file; what stacks say of each."""
        rows = result.query("SELECT line, function, heap, allocated_blocks AS blocks, allocated_bytes AS bytes, stack "
                            "FROM top_allocators WHERE file = ? AND heap IN ('malloc', 'python')", file)
        lines = {}
        for r in rows:
            line = lines.setdefault(r["line"], dict(blocks=0, bytes=0, functions=set(), stacks=set()))
            line["blocks"] += r["blocks"]
            line["bytes"] += r["bytes"]
            line["functions"].add(r["function"])
            line["stacks"].add(r["stack"])
        return lines

    def check_lines(self, python, version, env):
        script = f"{FOLDER}/lines.py"
        result = self.trace(python, script, env=env)
        self.assertEqual(result.out, harness.plain([python, script]).out)
        self.assertComplete(result)
        self.assertConsistent(result)
        lines, at = self.by_line(result, script), marked_lines(script)
        version = tuple(map(int, version.split(".")[:2]))
        for name, size, count, function in [
                ("PLAIN", 10001, 11, "plain"), ("GENERATOR", 10002, 5, "generator"), ("WRAPPER", 10003, 3, "decorated.<locals>.wrapper"),
                ("DECORATED", 10004, 3, "inner"), ("RECURSION", 10005, 1, "recursive"), ("CALLBACK", 10006, 4, "Compared.__lt__"),
                ("REDUCE", 10007, 8, "reduced"), ("ASYNC", 10008, 6, "coroutine"), ("ASYNCGEN", 10009, 3, "asynchronous_generator"),
                ("THREAD", 10010, 4, "in_thread"), ("FAR", 10015, 1, "with_line_numbers_that_jump"),
                ("COMPREHENSION", 10011, 7, "comprehensions" + (".<locals>.<listcomp>" if version < (3, 12) else "")),
                ("DICTCOMP", 10012, 2, "comprehensions" + (".<locals>.<dictcomp>" if version < (3, 12) else "")),
                ("GENEXP", 10013, 3, "comprehensions.<locals>.<genexpr>")]:
            line = lines[at[name]]
            self.assertIn(function, line["functions"], name)
            # A bytearray has a byte more than it says; the objects and the list's growth are small beside it.
            self.assertGreaterEqual(line["bytes"], count * (size + 1), name)
            self.assertLess(line["bytes"], count * (size + 1) + size, name)
        # Code that is compiled and thrown away 2,000 times: five different ones, each with its lines.
        lines = self.by_line(result, "<template>")
        for padding in range(5):
            self.assertIn("made", lines[2 + padding]["functions"])
            self.assertGreaterEqual(lines[2 + padding]["bytes"], 400 * 10015)
            self.assertLess(lines[2 + padding]["bytes"], 400 * 11015)
        depth = max(s.count("recursive;") for s in self.by_line(result, script)[at["RECURSION"]]["stacks"])
        self.assertEqual(depth, 201)
        self.assertTrue(result.one("SELECT python_version FROM processes").startswith(".".join(map(str, version))))

    @each_python
    def test_lines_with_objects(self, python, version):
        self.check_lines(python, version, OBJECTS)

    @each_python
    def test_lines_with_frames(self, python, version):
        self.check_lines(python, version, frames_of(version))

    @each_python
    def test_calls_of_malloc(self, python, version):
        """What a C library that Python calls asks of malloc, at the line that calls it: in both modes, whatever allocator serves Python."""
        code = ("import ctypes\nmalloc = ctypes.CDLL(None).malloc\nmalloc.restype = ctypes.c_void_p\n"
                "def called(n):\n    return [malloc(40003) for _ in range(n)]\n\n\ndef calls():\n    return called(7)\n\n\ncalls()\n")
        for env in (OBJECTS, FRAMES):
            self.db = os.path.join(self.folder, f"{version}-{env['MEMTRACE_PYTHON']}.db")
            result = self.trace(python, "-c", code, env=env)
            self.assertComplete(result)
            row = result.one("SELECT function, line, SUM(allocated_blocks), SUM(allocated_bytes), MIN(stack) FROM top_allocators WHERE heap = 'malloc' "
                             "AND file = '<string>' AND allocated_bytes / allocated_blocks = 40003")
            name = "called" + (".<locals>.<listcomp>" if version.startswith("3.11.") else "")
            self.assertEqual(tuple(row)[:4], (name, 5, 7, 7 * 40003))
            self.assertRegex(row[4], f"^(.*;)?{name};(called;)?calls;<module>")

    @each_python
    def test_stack_order(self, python, version):
        """Callbacks through C: each Python frame once, in order, and the C library's between only where it is."""
        script = f"{FOLDER}/lines.py"
        result = self.trace(python, script, env=frames_of(version))
        at = marked_lines(script)
        stacks = self.by_line(result, script)[at["REDUCE"]]["stacks"]
        # A C library without symbols has no name for what is between __libc_start_main and main.
        self.assertEqual({re.split(r";(?:__libc_start|libc\.so\.6\+)", s)[0] for s in stacks}, {"reduced;main;<module>"})
        stacks = self.by_line(result, script)[at["ASYNC"]]["stacks"]
        for s in stacks:
            self.assertRegex(s, r"^coroutine;.*Handle\._run;BaseEventLoop\._run_once;.*;(Runner\.)?run;.*main;<module>")

    @each_python
    def test_places_taken_by_others(self, python, version):
        """Code objects and frames at addresses where others of the same looks were: each block is at its own function's line, and native frames are
        between Python's only where a call went through them."""
        script = f"{FOLDER}/reused.py"
        for env in [OBJECTS] if has_no_lock(version) else [OBJECTS, FRAMES]:
            self.db = os.path.join(self.folder, f"{version}-{env['MEMTRACE_PYTHON']}.db")
            result = self.trace(python, script, env=env)
            self.assertComplete(result)
            found = {tuple(r)[:3]: r["bytes"] for r in result.query(
                "SELECT function, file, line, SUM(allocated_bytes) AS bytes FROM top_allocators WHERE file LIKE '<of _>' GROUP BY 1, 2, 3")}
            for i in range(1050):
                name, file, first = f"made_{i % 50}", f"<of {i % 3}>", 1 + i % 7 * 3
                comprehension = name + (".<locals>.<listcomp>" if version.startswith("3.11.") else "")
                for function, line, count in [(name, first + 1, 3), (comprehension, first + 2, 6)]:
                    self.assertIn(found.get((function, file, line)), range(count * 10016, count * 10016 + 10016), (env, function, file, line))
            if env is FRAMES:
                blocks = {True: 0, False: 0}
                for r in result.query("SELECT stack, allocated_bytes / 10017 AS blocks FROM top_allocators WHERE file = ? AND line = ? AND heap = 'malloc'",
                                      script, marked_lines(script)["ALLOCATES"]):
                    between = r["stack"].split("allocates;")[1].split("entries;")[0]
                    blocks[re.search("ffi|ctypes", between) is not None] += r["blocks"]
                self.assertEqual(blocks, {True: 300, False: 600})

    @each_python
    def test_native_part_of_objects(self, python, version):
        """What lies between an object and its Python line is told for each block, whatever was there before: more different stacks than are known at a
        time, frames found by the frame pointer, the same stack at other addresses."""
        script = f"{FOLDER}/inner.py"
        result = self.trace(python, script, env={**OBJECTS, "INNER_LIBRARY": f"{harness.TARGETS}/inner.so", "MEMTRACE_SITES": "1000000"})
        self.assertComplete(result)
        found = {}
        for r in result.query("SELECT stack, allocated_blocks AS blocks FROM top_allocators WHERE file = ? AND line = ? AND heap = 'python' "
                              "AND allocated_bytes >= 5000 * allocated_blocks", script, marked_lines(script)["MAKES"]):
            names = tuple(re.findall(r"(?:plain|roomy)_\d|make", r["stack"].split("at_depth;")[0]))
            found[names] = found.get(names, 0) + r["blocks"]
        functions = [f"{kind}_{n}" for n in range(6) for kind in ("plain", "roomy")]
        expected = {(functions[path // 144], functions[path // 12 % 12], functions[path % 12], "make"):
                    4 + (4 * len(range(path, 12 ** 3, 7)) if path < 7 else 0) for path in range(12 ** 3)}
        self.assertEqual({k: v for k, v in found.items() if expected.get(k) != v}, {})
        self.assertEqual(len(found), len(expected))

    @each_python
    def test_greenlets(self, python, version):
        """Stacks that are swapped under the interpreter: lines are right, no frame of one greenlet is in another's stack, and each native stack is what
        libunwind makes of it."""
        script = f"{FOLDER}/greenlets.py"
        if harness.plain([python, "-c", "import greenlet"]).status:
            return  # not installed for this one
        at = marked_lines(script)
        for env in (OBJECTS, FRAMES, {**OBJECTS, "MEMTRACE_VERIFY": "1"}):
            self.db = os.path.join(self.folder, f"{version}-{len(env)}-{env['MEMTRACE_PYTHON']}.db")
            result = self.trace(python, script, env=env)
            self.assertEqual(result.out, harness.plain([python, script]).out)
            # Of what was verified nothing differs: that would be a loss. What lies under a greenlet's beginning is another's by now, and may be no stack:
            # there libunwind ends, too.
            run = result.run()
            self.assertEqual((run["status"], run["lost_events"]), ("complete", 0))
            self.assertLessEqual({r["reason"] for r in result.query("SELECT reason FROM loss WHERE count > 0")}, {"stack-rule"})
            self.assertConsistent(result)
            lines = self.by_line(result, script)
            for name, size, count, stack in [
                    ("DEEP", 20011, 2 * 21, r"^(deep;){4}((deep;){7,37})?$"), ("AFTER_SWITCH", 20012, 2 * 20, r"^(deep;){11,41}$"),
                    ("IN_CALLBACK", 20003, 2 * 5, r"^reduced;callbacks;$"), ("NESTED", 20005, 2 * 5, r"^nested;$"),
                    ("INNERMOST", 20007, 2, r"^nested;$"), ("RAISES", 20009, 2, r"^raises;$"), ("CAUGHT", 20013, 2, r"^run;(<module>|Thread.run;.*);$")]:
                line = lines[at[name]]
                self.assertIn(line["bytes"], range(count * (size + 1), count * (size + 1) + size), name)
                for s in line["stacks"]:
                    python_frames = "".join(f + ";" for f in s.split(";") if f in ("deep", "reduced", "callbacks", "nested", "raises", "run", "<module>") or
                                            f.startswith("Thread."))
                    self.assertRegex(python_frames, stack, f"{name}: {s}")
            if "MEMTRACE_VERIFY" in env:
                self.assertGreater(result.one("SELECT verified_stacks FROM processes"), 5000)

    @each_python
    def test_internals_on_request(self, python, version):
        script = f"{FOLDER}/oracle.py"
        result = self.trace(python, script, env={**frames_of(version), "MEMTRACE_INTERNALS": "1", "PYTHONPATH": MODULE})
        stacks = self.by_line(result, script)[marked_lines(script)["BYTES"]]["stacks"]
        # Where the interpreter's loop is in parts without a name, its callers have one; of an object's stack only the inner part is told.
        names = "_PyEval_EvalFrameDefault|PyEval_EvalCode" + ("|PyObject_Vectorcall|_PyObject_MakeTpCall" if has_no_lock(version) else "")
        self.assertTrue(all(re.search(names, s) for s in stacks), stacks)

    @each_python
    def test_same_blocks_as_tracemalloc(self, python, version):
        """Per line, bytes and blocks that are held: exactly what tracemalloc counts in a run of its own. On lines of instances within 2 %: the
        interpreter keeps a few freed tuples, frames and the like on free lists and gives them out again, which tracemalloc is told and an allocator
        is not. An instance's header, its inline values, its __dict__ where it has one (one block or two, by version) are in both alike."""
        script = f"{FOLDER}/oracle.py"
        seed = {"PYTHONHASHSEED": "0", "PYTHONPATH": MODULE}
        plain = harness.plain([python, script, "tracemalloc"], env={**seed, "PYTHONTRACEMALLOC": "1"})
        expected = {int(l): (int(size), int(count)) for l, size, count in (line.split() for line in plain.out.splitlines())}
        result = self.trace(python, script, env={**seed, **OBJECTS})
        self.assertComplete(result)
        found = {r["line"]: (r["bytes"], r["blocks"]) for r in result.query(
            "SELECT t.line AS line, SUM(s.live_bytes) AS bytes, SUM(s.live_blocks) AS blocks FROM snapshot_sites AS s "
            "JOIN sites AS t USING (site_id) WHERE s.label = 'held' AND t.file = ? AND t.heap = 'python' GROUP BY 1", script)}
        for name, line in marked_lines(script).items():
            if name.startswith("HOT_"):
                for ours, theirs in zip(found[line], expected[line]):
                    self.assertLessEqual(abs(ours - theirs), theirs * 0.02, f"{name}, line {line}: {found[line]}, {expected[line]}")
            else:
                self.assertEqual(found.get(line), expected.get(line), f"{name}, line {line}")

    @each_python
    def test_nothing_is_counted_twice(self, python, version):
        """A large object is malloc's block: once in the heap python. Arenas are backing, and hold what is small."""
        code = "x = [bytes(1000003) for _ in range(20)]\ny = [bytes(203) for _ in range(20000)]\nimport memtrace; memtrace.snapshot('x')"
        result = self.trace(python, "-c", code, env={**OBJECTS, "PYTHONPATH": MODULE})
        self.assertComplete(result)
        self.assertConsistent(result)
        found = dict(map(tuple, result.query("SELECT heap, SUM(allocated_bytes) FROM top_allocators WHERE file = '<string>' AND line = 1 "
                                             "AND heap IN ('malloc', 'python') GROUP BY 1")))
        self.assertLess(found.get("malloc", 0), 100000)
        self.assertGreaterEqual(found["python"], 20 * 1000036)
        self.assertLess(found["python"], 21 * 1000036)
        held = result.one("SELECT SUM(live_bytes) FROM snapshot_sites JOIN sites USING (site_id) WHERE label = 'x' AND heap = 'python'")
        arenas = result.one("SELECT SUM(n.live_bytes) FROM snapshot_sites AS n JOIN sites AS s USING (site_id) WHERE n.label = 'x' AND s.kind = 'backing'")
        self.assertGreater(held, 20 * 1000003 + 20000 * 203)
        self.assertGreater(arenas, 20000 * 203)
        if not has_no_lock(version):  # mimalloc reserves address space by the gigabyte
            self.assertLess(arenas, held - 20 * 1000003 + (4 << 20))

    @each_python
    def test_arenas_reconcile(self, python, version):
        """The cookbook's books of Python's memory against the interpreter's own: arenas, blocks in use, and those rounded up to 16 bytes, to the byte."""
        script = f"{FOLDER}/arenas.py"
        result = self.trace(python, script, env=OBJECTS, preload=[harness.COUNTER])
        self.assertComplete(result)
        with open(f"{harness.SOURCE}/examples/cookbook.sql") as f:
            query = f.read().split("-- The books of Python's memory")[1].split("\n\n")[0].split("\n", 2)[2]
        books = {r["label"]: r for r in result.query(query)}
        for r in books.values():
            self.assertEqual(r["arena_object_bytes"] + r["in_malloc_bytes"], r["objects_bytes"])
            self.assertEqual(r["arena_object_bytes"] + r["slack_bytes"], r["arena_bytes"])
            self.assertGreater(r["slack_bytes"], 0)
        if has_no_lock(version):  # all of it is mimalloc's, large objects as well, and it tells no figures
            self.assertEqual([r["in_malloc_bytes"] for r in books.values()], [0] * 3)
            return
        for r in books.values():
            self.assertGreater(r["in_malloc_bytes"], 100 * 1013)
        said = re.findall(rb"(\d+) arenas \* (\d+) bytes/arena|# bytes in allocated blocks += +([\d,]+)|^ +\d+ +(\d+) +\d+ +(\d+) +\d+$", result.err, re.M)
        classes = [int(s[4]) for s in said if s[4]]
        arenas = [int(s[0]) * int(s[1]) for s in said if s[0]]
        allocated = [int(s[2].replace(b",", b"")) for s in said if s[2]]
        blocks = [sum(classes[i * len(classes) // 3:(i + 1) * len(classes) // 3]) for i in range(3)]
        for i, label in enumerate(["before", "held", "after"]):
            r = books[label]
            h = result.one("SELECT * FROM python_heap WHERE label = ?", label)
            self.assertEqual((r["arena_bytes"], h["arena_object_blocks"]), (arenas[i], blocks[i]), label)
            self.assertLessEqual(h["arena_object_bytes"], allocated[i])
            self.assertLess(allocated[i], h["arena_object_bytes"] + 16 * blocks[i])
        # In between come 30,000 objects of 48 bytes (33 + 15), which nothing is added to, and at most a few of the interpreter's own.
        grown = books["held"]["arena_object_bytes"] - books["before"]["arena_object_bytes"]
        self.assertIn(grown - 30000 * 48, range(0, 256))
        self.assertIn(allocated[1] - allocated[0] - grown, range(-15, 16))
        self.assertGreater(books["after"]["slack_bytes"], books["before"]["slack_bytes"])

    @each_python
    def test_allocators_of_other_makes(self, python, version):
        """PYTHONMALLOC replaces what was wrapped before main: it is wrapped again. tracemalloc wraps the wrapper."""
        script = f"{FOLDER}/lines.py"
        at = marked_lines(script)
        for env in [{"PYTHONMALLOC": "malloc"}, {"PYTHONMALLOC": "debug"}, {"PYTHONDEVMODE": "1"}, {"PYTHONTRACEMALLOC": "5"}]:
            if has_no_lock(version) and env.get("PYTHONMALLOC") == "malloc":
                continue  # refused there
            self.db = os.path.join(self.folder, f"{version}-{'-'.join(env)}-{'-'.join(env.values())}.db")
            result = self.trace(python, script, env={**OBJECTS, **env})
            self.assertEqual((result.status, result.out), (0, harness.plain([python, script], env=env).out))
            found = result.query("SELECT SUM(allocated_bytes) FROM top_allocators WHERE file = ? AND line = ? AND heap = 'python'",
                                  script, at["PLAIN"])[0][0]
            self.assertGreaterEqual(found or 0, 11 * 10002, env)

    @each_python
    def test_modes(self, python, version):
        for mode, heaps, frames in [("auto", True, True), ("objects", True, True), ("frames", False, True), ("off", False, False)]:
            self.db = os.path.join(self.folder, f"{version}-{mode}.db")
            result = self.trace(python, f"{FOLDER}/lines.py", how="run", options=["--python", mode])
            self.assertComplete(result)
            self.assertEqual(result.one("SELECT COUNT(*) > 0 FROM top_allocators WHERE heap = 'python'"), heaps, mode)
            self.assertEqual(result.one("SELECT COUNT(*) > 0 FROM top_allocators WHERE file LIKE '%lines.py'"), frames, mode)
            self.assertEqual(result.one("SELECT COUNT(python_version) FROM processes"), frames, mode)

    @each_python
    def test_fork_and_threads(self, python, version):
        code = """
import os, threading
def child():
    x = [bytearray(20001) for _ in range(9)]
def daemon():
    while True:
        bytearray(20002)
threading.Thread(target=daemon, daemon=True).start()
for _ in range(3):
    pid = os.fork()
    if pid == 0:
        child()
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
"""
        for env in (OBJECTS, frames_of(version)):
            self.db = os.path.join(self.folder, f"{version}-{env['MEMTRACE_PYTHON']}.db")
            if os.path.exists(self.db):
                continue
            result = self.trace(python, "-W", "ignore", "-c", code, env=env)
            self.assertEqual((result.status, result.err), (0, b""))
            children = result.query("SELECT process_id, SUM(allocated_bytes) AS bytes FROM top_allocators WHERE function LIKE 'child%' AND "
                                    "heap IN ('malloc', 'python') GROUP BY 1")
            self.assertEqual(len(children), 3)
            for c in children:
                self.assertGreaterEqual(c["bytes"], 9 * 20001)
                self.assertLess(c["bytes"], 10 * 20001)

    @each_python
    def test_objects_of_several_threads(self, python, version):
        """Objects that one thread makes and another frees, while threads take turns as often as can be: each is counted once, and none is left."""
        code = """
import collections, sys, threading
sys.setswitchinterval(1e-6)
N, COUNT = 5, 4000
queues = [collections.deque() for _ in range(N)]
def work(i):
    mine, next_one = queues[i], queues[(i + 1) % N]
    for k in range(COUNT):
        block = bytes(40 + i)
        next_one.append(block)
        if k % 3:
            try:
                mine.popleft()
            except IndexError:
                pass
threads = [threading.Thread(target=work, args=(i,)) for i in range(N)]
for t in threads:
    t.start()
for t in threads:
    t.join()
for q in queues:
    q.clear()
"""
        result = self.trace(python, "-c", code, env=OBJECTS)
        self.assertEqual((result.status, result.err), (0, b""))
        rows = result.query("SELECT SUM(allocated_blocks) AS allocated, SUM(live_blocks) AS live FROM top_allocators "
                            "WHERE function = 'work' AND line = 9 AND heap = 'python'")
        self.assertEqual((rows[0]["allocated"], rows[0]["live"]), (5 * 4000, 0))
        self.assertEqual(result.query("SELECT unmatched_frees FROM processes")[0]["unmatched_frees"], 0)

    @each_python
    def test_subinterpreters(self, python, version):
        code = """
try:
    import _xxsubinterpreters as interpreters
except ImportError:
    import _interpreters as interpreters
for _ in range(5):
    i = interpreters.create()
    interpreters.run_string(i, "x = [bytearray(30001) for _ in range(4)]")
    interpreters.destroy(i)
for n in range(20):
    i = interpreters.create()
    interpreters.run_string(i, "\\n" * (n % 3) + f"def made_{n % 10}():\\n    return bytearray(10017)\\nmade_{n % 10}()\\n")
    interpreters.destroy(i)
print("done")
"""
        for env in [OBJECTS] if has_no_lock(version) else [OBJECTS, FRAMES]:
            self.db = os.path.join(self.folder, f"{version}-{env['MEMTRACE_PYTHON']}.db")
            result = self.trace(python, "-c", code, env=env)
            self.assertEqual((result.status, result.out), (0, b"done\n"), result.err)
            self.assertGreaterEqual(result.one("SELECT SUM(allocated_bytes) FROM top_allocators WHERE heap = ?", "python" if env is OBJECTS else "malloc"),
                                    20 * 30001)
            if version.startswith("3.11."):
                continue  # a thread has the state there that it had first: its other interpreters' frames are not seen
            # An interpreter gives its code objects the numbers that another one gave, at the same addresses.
            found = dict(map(tuple, result.query("SELECT function, SUM(allocated_bytes) / 10018 FROM top_allocators WHERE function LIKE 'made\\__' ESCAPE '\\' GROUP BY 1")))
            self.assertEqual(found, {f"made_{n}": 2 for n in range(10)}, env)

    @each_python
    def test_embedded(self, python, version):
        """An interpreter that comes by dlopen, three times over, and goes again."""
        said = harness.plain([python, "-c", "import sysconfig as s; print(s.get_config_var('LIBDIR'), s.get_config_var('INSTSONAME'), s.get_config_var('prefix'))"])
        folder, name, prefix = said.out.decode().split()
        library = f"{folder}/{name}"
        if not name.endswith((".so", ".so.1.0")) or not os.path.exists(library):
            return  # a static one
        for more in ([], ["close"]):
            self.db = os.path.join(self.folder, f"{version}-{len(more)}.db")
            env = {**OBJECTS, "PYTHONHOME": prefix}
            result = self.trace(harness.target("embed"), library, *more, env=env)
            self.assertEqual((result.status, result.out), (0, b"5\n" * 3), result.err)
            found = dict(map(tuple, result.query("SELECT heap, SUM(allocated_bytes) FROM top_allocators WHERE file = '<string>' GROUP BY 1")))
            self.assertLess(found.get("malloc", 0), 40000, found)  # the interpreter's own calls of malloc
            self.assertGreaterEqual(found["python"], 3 * 5 * 40002)

    @each_python
    def test_module(self, python, version):
        code = """
import memtrace
assert memtrace.active()
with memtrace.phase("outer"):
    with memtrace.phase("inner"):
        x = bytearray(1 << 20)
before = memtrace.current()
y = bytearray(1 << 20)
after = memtrace.current()
assert abs(after.python - before.python - (1 << 20)) < 4096, (before, after)
assert after.rss > 0 and after.vms > after.rss
memtrace.mark("here")
with memtrace.delta("gain") as d:
    z = bytearray(2 << 20)
assert abs(d.python - (2 << 20)) < 8192, d
for i in range(3):
    memtrace.iteration("i%d" % i)
"""
        result = self.trace(python, "-c", code, how="run")
        self.assertEqual((result.status, result.err), (0, b""))
        phases = {r["phase"]: r for r in result.query("SELECT * FROM phases")}
        self.assertEqual({p: r["parent"] for p, r in phases.items()}, {"outer": None, "inner": "outer"})
        self.assertGreaterEqual(phases["inner"]["python_bytes_after"] - phases["inner"]["python_bytes_before"], (1 << 20) - 4096)
        self.assertEqual(result.one("SELECT COUNT(*) FROM marks WHERE name = 'here'"), 1)
        self.assertEqual(result.one("SELECT COUNT(*) FROM iterations"), 3)
        sys.path.insert(0, MODULE)
        import memtrace
        import sqlite3
        rows = memtrace.top_between(sqlite3.connect(self.db), "gain begins", "gain ends", 1)
        self.assertEqual(rows[0][:3], ("<module>", "<string>", 14))

    def test_module_without_memtrace(self):
        """Every call is a no-op, on whatever Python runs the tests."""
        done = harness.plain([sys.executable, "-c", "import memtrace\nwith memtrace.phase('x'):\n  memtrace.mark('y')\n"
                              "memtrace.iteration(); memtrace.snapshot('z'); memtrace.pause(); memtrace.resume()\n"
                              "with memtrace.delta('d') as d: pass\n"
                              "assert not memtrace.active() and d.python is None and memtrace.current().rss > 0"], env={"PYTHONPATH": MODULE})
        self.assertEqual((done.status, done.err), (0, b""))

    @each_python
    def test_loop(self, python, version):
        script = os.path.join(self.folder, f"tool-{version}")
        with open(script, "w") as f:
            f.write(f"#!{python} -s\nimport sys\nkept = sys.modules.setdefault('kept', [])\nkept.append(bytearray(50001))\n"
                    "print('run', sys.argv[1:], sys.path[0])\nsys.exit(5)\n")
        os.chmod(script, 0o755)
        done = harness.memtrace("loop", "-n", "4", "-o", self.db, "--", script, "a", "b c")
        plain = harness.plain([script, "a", "b c"])
        self.assertEqual((done.status, done.out), (5, plain.out * 4))
        result = harness.Result(b"", b"", 0, self.db).wait_until_written()
        rows = result.query("SELECT label, live_bytes FROM iterations ORDER BY iteration")
        self.assertEqual([r["label"] for r in rows], ["run 1", "run 2", "run 3", "run 4", "exit"])
        for a, b in zip(rows[1:3], rows[2:4]):
            self.assertLess(abs(b["live_bytes"] - a["live_bytes"] - 50002), 3000)
        self.db += ".module"
        done = harness.memtrace("loop", "-n", "2", "-o", self.db, "--", python, "-W", "ignore", "-m", "json.tool", "--bad")
        self.assertEqual(done.status, 2)
        self.assertEqual(harness.Result(b"", b"", 0, self.db).wait_until_written().one("SELECT COUNT(*) FROM iterations"), 3)

    def test_loop_of_anything_else(self):
        done = harness.memtrace("loop", "-n", "3", "-o", self.db, "--", "sh", "-c", "echo x; exit 3")
        self.assertEqual((done.status, done.out), (3, b"x\n" * 3))
        self.assertEqual(harness.Result(b"", b"", 0, self.db).wait_until_written(3).one("SELECT COUNT(*) FROM runs"), 3)


harness.main()
