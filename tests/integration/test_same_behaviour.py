"""Programs print and end the same with and without memtrace."""

import os
import re
import shutil
import socket
import stat
import subprocess
import tempfile
import time
import unittest

import harness
import work


class SameBehaviour(harness.Case):
    def same(self, *command, env=None, cwd=None, traced_processes=1):
        try:
            work.need(command[0])
        except work.Missing as missing:
            self.skipTest(str(missing))
        plain = harness.plain(list(command), env=env, cwd=cwd)
        result = self.trace(*command, env=env, cwd=cwd)
        self.assertEqual((result.out, result.err, result.status), (plain.out, plain.err, plain.status))
        run = result.run()
        self.assertEqual(run["lost_events"], 0)
        self.assertGreaterEqual(run["processes"], traced_processes)
        self.assertEqual(run["exit_status"], plain.status)
        self.assertConsistent(result)
        return result

    def write(self, name, text):
        path = f"{self.folder}/{name}"
        with open(path, "w") as f:
            f.write(text)
        return path

    def test_bash(self):
        script = self.write("script.sh", """set -o pipefail
for i in $(seq 30); do x=$(echo $i | sed 's/1/one/'); [ -n "$x" ] && echo "$x"; done | sort | uniq -c | head -40
printf '%s\\n' {1..500} | awk '{ s += $1 } END { print s }' &
wait
trap 'echo trapped' EXIT
echo to stderr >&2
(exit 7) || exit 3
""")
        self.same("bash", script, traced_processes=60)

    def test_python(self):
        script = self.write("script.py", """
import json, re, subprocess, sys, threading, collections
data = [{"i": i, "s": str(i) * 3, "l": list(range(i % 10))} for i in range(20000)]
text = json.dumps(data)
print(len(text), len(re.findall("[0-9]+", text)), sum(len(d["l"]) for d in json.loads(text)))
totals = collections.Counter()
def work(n):
    for i in range(20000):
        totals[n] += len(str(i))
threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
[t.start() for t in threads]; [t.join() for t in threads]
print(sorted(totals.items()))
print(subprocess.run(["echo", "child"], capture_output=True, text=True).stdout)
import multiprocessing
if __name__ == "__main__":
    with multiprocessing.Pool(2) as pool:
        print(pool.map(len, ["a", "bb", "ccc"]))
    sys.exit(4)
""")
        self.same(work.SYSTEM_PYTHON, script, traced_processes=3)

    def test_perl(self):
        self.same("perl", "-e", 'my %h; $h{$_ % 1000} .= "x$_" for 1..100000; my $n = 0; $n += length for values %h; '
                                'print "$n\\n"; print `echo from a child`; exit 6;', traced_processes=2)

    def test_git(self):
        repository = f"{self.folder}/repository"
        script = self.write("git.sh", f"""
set -e
export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b
export GIT_AUTHOR_DATE='1700000000 +0000' GIT_COMMITTER_DATE='1700000000 +0000' HOME={self.folder}
rm -rf {repository}
git init -q -b main {repository}
cd {repository}
for i in $(seq 50); do echo "file $i" > file$i; done
git add . && git commit -qm first
sed -i s/file/File/ file1* && git commit -qam second
git log --stat | tail -5
git diff HEAD~1 | wc -l
git gc -q
git fsck --strict
git rev-parse HEAD
""")
        self.same("bash", script, traced_processes=10)

    def test_gcc(self):
        source = f"{self.folder}/work.c"
        work.c_source(source, 30)
        self.same("gcc", "-O1", "-g", "-Wall", "-c", source, "-o", f"{self.folder}/work.o", cwd=self.folder, traced_processes=3)
        with open(f"{self.folder}/work.o", "rb") as f:
            traced = f.read()
        subprocess.run(["gcc", "-O1", "-g", "-Wall", "-c", source, "-o", f"{self.folder}/work.o"], cwd=self.folder, check=True)
        with open(f"{self.folder}/work.o", "rb") as f:
            self.assertEqual(f.read(), traced)
        bad = self.write("bad.c", "int f(void) { return x; }\n")
        self.same("gcc", "-c", bad, "-o", "/dev/null")

    def test_xz(self):
        path = self.write("data", "".join(f"line {i * 7919 % 1000003} of the data\n" for i in range(300000)))
        self.same("xz", "-T2", "--block-size=1MiB", "-6", "-c", path)

    def test_sqlite(self):
        try:
            self.same(*work.sqlite(self.folder, rows=50000))
        except work.Missing as missing:
            self.skipTest(str(missing))

    def test_node(self):
        script = self.write("script.js", """
const { execFileSync } = require('child_process');
let m = new Map();
for (let i = 0; i < 200000; i++) m.set('k' + (i % 5000), (m.get('k' + (i % 5000)) || 0) + i);
let sum = 0; for (const v of m.values()) sum += v;
console.log(sum, execFileSync('echo', ['child']).toString().trim());
console.error('err');
process.exitCode = 5;
""")
        self.same("node", script)

    def test_cxx_program(self):
        source = self.write("program.cc", """
#include <algorithm>
#include <future>
#include <iostream>
#include <map>
#include <regex>
#include <sstream>
#include <string>
int main()
{
    std::map<std::string, std::vector<std::string>> m;
    for (int i = 0; i < 20000; i++) m["key" + std::to_string(i % 300)].push_back(std::string(i % 60, 'x'));
    size_t n = 0;
    for (auto &[k, v] : m) for (auto &s : v) n += s.size();
    auto f = std::async(std::launch::async, [] { std::ostringstream o; for (int i = 0; i < 5000; i++) o << i; return o.str(); });
    std::cout << n << ' ' << f.get().size() << ' ' << std::regex_match("abc123", std::regex("[a-z]+[0-9]+")) << std::endl;
    try { throw std::out_of_range("thrown"); } catch (std::exception &e) { std::cerr << e.what() << std::endl; }
    return 9;
}
""")
        subprocess.run(["g++", "-std=c++17", "-O2", "-pthread", source, "-o", f"{self.folder}/program"], check=True)
        self.same(f"{self.folder}/program")

    def test_programs_in_a_sandbox(self):
        """A system call filter that kills must not meet a call of memtrace's; what is not recorded for it is in the ledger."""
        for which, lost, later_blocks in (("strict", 1, 0), ("few", 1, 0), ("harmless", 0, 1000), ("no-start", 0, 1000)):
            with self.subTest(which):
                self.db = f"{self.folder}/{which}.db"
                plain = harness.plain([harness.target("sandbox"), which])
                self.assertEqual(plain.status, 5)
                result = self.trace(harness.target("sandbox"), which)
                self.assertEqual((result.out, result.err, result.status), (plain.out, plain.err, plain.status))
                self.assertEqual(result.function("before", ("allocated_blocks",))[0], 10)
                self.assertEqual(result.function("after", ("allocated_blocks",))[0], later_blocks)
                self.assertEqual((result.run()["lost_events"], result.run()["status"]),
                                 (lost, "lossy" if lost else "complete"))
                self.assertEqual([tuple(r) for r in result.query("SELECT reason, count FROM loss")],
                                 [("sandbox", 1)] if lost else [])

    def test_program_with_its_own_malloc(self):
        self.same(harness.target("own_malloc"))

    def test_rust_program(self):
        if not shutil.which("rustc"):
            self.skipTest("rustc is not installed")
        source = self.write("program.rs", """
use std::collections::HashMap;
fn main() {
    let handles: Vec<_> = (0..4).map(|t| std::thread::spawn(move || {
        let mut m: HashMap<String, Vec<u64>> = HashMap::new();
        for i in 0..20000u64 { m.entry(format!("k{}", i % (100 + t))).or_default().push(i); }
        m.values().map(|v| v.iter().sum::<u64>()).sum::<u64>()
    })).collect();
    let sums: Vec<u64> = handles.into_iter().map(|h| h.join().unwrap()).collect();
    println!("{:?}", sums);
    std::panic::set_hook(Box::new(|_| eprintln!("panicked")));
    let r = std::panic::catch_unwind(|| panic!("caught"));
    println!("{}", r.is_err());
    std::process::exit(8);
}
""")
        done = subprocess.run(["rustc", "-O", "-g", source, "-o", f"{self.folder}/program"], capture_output=True, text=True,
                              cwd=self.folder)
        if done.returncode:
            self.skipTest("rustc does not work here: " + done.stderr.strip().splitlines()[-1][:100])
        self.same(f"{self.folder}/program")

    def redis(self, port, preload):
        """A server's whole life: its exit status and output, and its clients' answers."""
        folder = tempfile.mkdtemp(dir=self.folder)
        server = subprocess.Popen(["redis-server", "--port", port, "--save", "", "--dir", folder, "--bind", "127.0.0.1"],
                                  env={**harness.clean_environment(), **preload}, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        ask = lambda *a: subprocess.run(["redis-cli", "-p", port, *a], capture_output=True, text=True, timeout=30).stdout
        answers = []
        try:
            deadline = time.monotonic() + 20
            while ask("ping") != "PONG\n" and time.monotonic() < deadline:
                time.sleep(0.05)
            answers.append(ask("ping"))
            done = subprocess.run(["redis-benchmark", "-p", port, "-q", "-n", "20000", "-r", "5000", "-t",
                                   "set,get,lpush,sadd,hset", "--csv"], capture_output=True, text=True, timeout=120)
            answers += [done.returncode, done.stderr, [row.split(",")[0] for row in done.stdout.splitlines()]]
            ask("flushall")
            script = "for i = 1, 3000 do redis.call('rpush', 'list' .. i % 7, i); redis.call('hset', 'hash', i, i * i) end"
            answers += [ask("eval", script, "0"), ask("lrange", "list3", "0", "-1"), ask("hget", "hash", "77"), ask("dbsize"),
                        ask("get", "no such key"), ask("bgsave")]
            while "rdb_bgsave_in_progress:1" in ask("info", "persistence") and time.monotonic() < deadline + 20:
                time.sleep(0.05)
            answers.append(ask("no-such-command"))
            ask("shutdown", "nosave")
            out, err = server.communicate(timeout=30)
        finally:
            if server.poll() is None:
                server.kill()
                server.communicate()
        # Times, pids and memory differ from run to run; the words do not.
        return server.returncode, re.sub(rb"[0-9]+", b"#", out), err, answers

    def test_redis(self):
        for program in ("redis-server", "redis-benchmark", "redis-cli"):
            if not shutil.which(program):
                self.skipTest(f"{program} is not installed")
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = str(s.getsockname()[1])
        plain = self.redis(port, {})
        self.assertEqual(self.redis(port, {"MEMTRACE_DB": self.db, "LD_PRELOAD": harness.LIBRARY}), plain)
        self.assertEqual((plain[0], plain[3][0], plain[3][1]), (0, "PONG\n", 0))
        self.assertIn(b"DB saved on disk", plain[1])
        result = harness.Result(b"", b"", 0, self.db).wait_until_written()
        run = result.run()
        self.assertEqual((run["lost_events"], run["status"]), (0, "complete"))
        self.assertGreater(run["allocated_blocks"], 20000)
        self.assertConsistent(result)

    def test_secure_start_does_nothing(self):
        """A set-user-id program with the library in its secure path must come up untraced."""
        if os.geteuid() != 0:
            self.skipTest("needs root to make a set-user-id program")
        program = f"{self.folder}/secure"
        shutil.copy(harness.target("sleeper"), program)
        shutil.chown(program, "root")
        os.chmod(program, 0o4755)
        os.chmod(self.folder, 0o755)
        # The loader only preloads set-user-id libraries from its own folders, by plain name.
        library = "/usr/lib/x86_64-linux-gnu/libmemtrace-test-secure.so"
        if not os.path.isdir(os.path.dirname(library)):
            self.skipTest("no multiarch library folder")
        shutil.copy(harness.LIBRARY, library)
        os.chmod(library, 0o4755)
        try:
            db = f"{self.folder}/shared/secure.db"
            os.mkdir(os.path.dirname(db), 0o777)
            os.chmod(os.path.dirname(db), 0o777)
            env = {**harness.clean_environment(), "MEMTRACE_DB": db, "MEMTRACE_READER": harness.COMMAND,
                   "LD_PRELOAD": os.path.basename(library)}

            def other_user():
                os.setgid(65534)
                os.setuid(65534)

            done = subprocess.run([program], env=env, preexec_fn=other_user, stdin=subprocess.DEVNULL, capture_output=True)
            self.assertEqual((done.returncode, done.stdout, done.stderr), (0, b"ready\n", b""))
            time.sleep(0.5)
            self.assertFalse(os.path.exists(db))
        finally:
            os.remove(library)


harness.main()
