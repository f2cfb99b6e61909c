"""Runs a command with all that it leaves behind, and says what that cost: wall time, CPU time, the program's own CPU time, memory.

The processes of a run are told apart: the target (the program whose cost is asked for), its tools (a reader, a compressor), and
drivers (clients that make a server work), whose CPU time and memory are nobody's cost.
"""

import ctypes
import os
import threading
import time

PR_SET_CHILD_SUBREAPER = 36
CPU_POLL_SECONDS = 0.004
MEMORY_POLL_SECONDS = 0.02
TOOLS = {"memtrace", "heaptrack", "heaptrack_interpret", "heaptrack_env", "bash", "dash", "sh", "zstd", "gzip"}


def executable_of(pid):
    try:
        return os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return ""


def cpu_clock_of(pid):
    """CPU seconds of a whole process so far, exact; None when it is gone."""
    try:
        return time.clock_gettime((~pid << 3) | 2)  # CPUCLOCK_SCHED of another process: see clock_getcpuclockid(3)
    except OSError:
        return None


def descendants():
    parents = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat") as f:
                    parents.setdefault(int(f.read().rsplit(")", 1)[1].split()[1]), []).append(int(entry))
            except OSError:
                pass
    found, queue = [], list(parents.get(os.getpid(), []))
    while queue:
        pid = queue.pop()
        found.append(pid)
        queue += parents.get(pid, [])
    return found


def proportional_set(pid):
    try:
        with open(f"/proc/{pid}/smaps_rollup") as f:
            return next((int(l.split()[1]) * 1024 for l in f if l.startswith("Pss:")), 0)
    except OSError:
        return 0


def clean_environment():
    return {k: v for k, v in os.environ.items() if not k.startswith("MEMTRACE_") and k != "LD_PRELOAD"}


class Watch(threading.Thread):
    """Looks at the running processes: for the CPU clock of a target that is not our child, and for memory."""

    def __init__(self, program, cpu, memory):
        super().__init__()
        self.program, self.want_cpu, self.want_memory = os.path.realpath(program), cpu, memory
        self.over, self.drivers, self.kinds = threading.Event(), set(), {}
        self.cpu, self.peak = 0.0, {"together": 0, "target": 0, "tools": 0}

    def is_target(self, pid):
        """Settled once it is one: until then a process may still be on its way to exec."""
        if not self.kinds.get(pid):
            self.kinds[pid] = executable_of(pid) == self.program
        return self.kinds[pid]

    def run(self):
        target = None
        while not self.over.wait(CPU_POLL_SECONDS if self.want_cpu else MEMORY_POLL_SECONDS):
            if self.want_cpu:
                if target is None:
                    target = next((p for p in descendants() if self.is_target(p)), None)
                if target is not None:
                    self.cpu = cpu_clock_of(target) or self.cpu
            if self.want_memory:
                self.look_at_memory()

    def look_at_memory(self):
        target = tools = 0
        for pid in descendants():
            if self.is_target(pid):
                target += proportional_set(pid)
            elif pid not in self.drivers and os.path.basename(executable_of(pid)) in TOOLS:
                tools += proportional_set(pid)
        self.peak = {"together": max(self.peak["together"], target + tools), "target": max(self.peak["target"], target),
                     "tools": max(self.peak["tools"], tools)}


class Tree:
    def __init__(self):
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    @staticmethod
    def spawn(argv, environment):
        null = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1, 2)]
        return os.posix_spawnp(argv[0], argv, {**clean_environment(), **environment}, file_actions=null)

    def run(self, argv, environment, program, drivers=(), direct=True, memory=False):
        """program: the target's executable file. direct: it is our own child, so its CPU time is known to the end; else it is the last value seen of
        its clock, some milliseconds early. drivers: commands to run beside it, one after the other."""
        watch = Watch(program, cpu=not direct, memory=memory)
        if memory or not direct:
            watch.start()
        start = time.monotonic()
        pid = self.spawn(argv, environment)
        waited = {}
        for command in drivers:
            driver = self.spawn(command, {})
            watch.drivers.add(driver)
            while driver not in waited:
                self.wait(waited)
        while pid not in waited:
            self.wait(waited)
        while self.wait(waited):
            pass
        watch.over.set()
        if memory or not direct:
            watch.join()
        cost = {p: u.ru_utime + u.ru_stime for p, (_, _, u) in waited.items() if p not in watch.drivers}
        return {"wall": waited[pid][0] - start, "settled": max(w[0] for w in waited.values()) - start, "cpu": sum(cost.values()),
                "target_cpu": cost[pid] if direct else watch.cpu, "peak": watch.peak, "status": waited[pid][1]}

    @staticmethod
    def wait(waited):
        try:
            pid, status, usage = os.wait4(-1, 0)
        except ChildProcessError:
            return False
        waited[pid] = (time.monotonic(), status, usage)
        return True
