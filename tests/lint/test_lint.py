"""The shape of the source tree and of the library, as src/README.md describes them."""

import os
import re
import subprocess

import harness

SOURCE = harness.SOURCE
CC = os.environ.get("MT_CC", "cc")

# Calls that the traced side must not make: they allocate, buffer, take locks of the C library, or end the process.
FORBIDDEN = """malloc calloc realloc free strdup strndup asprintf vasprintf printf fprintf vfprintf puts fputs putchar fopen fclose
fread fwrite fgets getline perror exit _exit quick_exit abort assert raise pthread_mutex_lock pthread_create pthread_once sigaction signal
system popen strerror strsignal localtime setenv putenv unsetenv getenv_s err warn syslog sprintf strcpy strcat strtok gets"""

# An operator that the target's C++ library does not define falls back on the library's own malloc wrapper.
EXCEPT = {"src/hook/operators.c": {"malloc", "free"}}


def files(*folders, ends=(".c", ".h")):
    for folder in folders:
        for at, names, found in os.walk(os.path.join(SOURCE, folder)):
            names[:] = [n for n in names if not n.startswith((".", "build"))]
            for name in sorted(found):
                if name.endswith(ends):
                    yield os.path.join(at, name)


def short(path):
    return os.path.relpath(path, SOURCE)


def text_of(path):
    with open(path) as f:
        return f.read()


def code_of(path):
    """Without comments and string literals."""
    return re.sub(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"', lambda m: "\n" * m[0].count("\n"), text_of(path), flags=re.S)


class Tree(harness.Case):
    def test_who_includes_whom(self):
        allowed = {}
        for line in text_of(f"{SOURCE}/src/README.md").splitlines():
            match = re.match(r"\| `(\w+)/` \| \w+ \|.*\| ([\w, ]+) \|$", line)
            if match:
                allowed[match[1]] = {match[1], *match[2].split(", ")}
        folders = {e.name for e in os.scandir(f"{SOURCE}/src") if e.is_dir()}
        # A folder of the design that has nothing in it yet is not in a clone; the table says so of it.
        planned = set(re.findall(r"\| `(\w+)/` .*not there yet", text_of(f"{SOURCE}/src/README.md")))
        self.assertEqual(set(allowed) - planned, folders - planned, "src/README.md's table and the folders of src/")
        wrong = []
        for folder in sorted(folders):
            for path in files(f"src/{folder}"):
                for included in re.findall(r'^\s*#\s*include\s+"([^"]+)"', text_of(path), re.M):
                    head = included.split("/")[0]
                    if head in folders and head not in allowed[folder]:
                        wrong.append(f"{short(path)} includes {included}")
                    elif head in folders and head != folder and folder not in ("hook",) and \
                            head not in ("base", "wire") and included != f"{head}/{head}.h":
                        wrong.append(f"{short(path)} includes {included}, which is not {head}'s public header")
        self.assertEqual(wrong, [])

    def test_only_the_store_knows_sqlite(self):
        self.assertEqual([short(p) for p in files("src", "tools")
                          if "<sqlite3.h>" in text_of(p) and not short(p).startswith("src/store/")], [])

    def test_each_public_header_compiles_alone(self):
        wrong = []
        headers = [f"src/{d}/{d}.h" for d in sorted(os.listdir(f"{SOURCE}/src")) if os.path.exists(f"{SOURCE}/src/{d}/{d}.h")]
        headers += [short(p) for p in files("src/wire", "src/base", ends=(".h",)) if "/arch/" not in p]
        for header in [*dict.fromkeys(headers), "include/memtrace.h"]:
            done = subprocess.run([CC, "-std=gnu11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-Wno-unused-function",
                                   "-fsyntax-only", f"-I{SOURCE}/src", "-x", "c", "-include", f"{SOURCE}/{header}", "/dev/null"],
                                  capture_output=True, text=True)
            if done.returncode:
                wrong.append(f"{header}: {done.stderr.splitlines()[0]}")
        self.assertEqual(wrong, [])

    def test_length_of_files(self):
        limit = 600
        wrong = [f"{short(p)}: {n} lines" for p in files("src", "tools", "tests", "include", ends=(".c", ".h", ".py", ".cc"))
                 if (n := text_of(p).count("\n")) > limit]
        self.assertEqual(wrong, [])

    def test_length_of_functions(self):
        limit = 90
        wrong = []
        for path in files("src", "tools", ends=(".c",)):
            start = None
            for number, line in enumerate(text_of(path).splitlines(), 1):
                if line == "{":
                    start = number
                elif line == "}" and start:
                    if number - start > limit:
                        wrong.append(f"{short(path)}:{start}: {number - start} lines")
                    start = None
        self.assertEqual(wrong, [])

    def test_nothing_of_one_machine(self):
        done = subprocess.run(["git", "-C", SOURCE, "ls-files"], capture_output=True, text=True)
        if done.returncode:
            self.skipTest("not a git checkout")
        pattern = re.compile(r"(^|[^a-z.\w])/(work|farm|root|home/\w+)/[.a-z]")
        wrong = []
        for name in done.stdout.splitlines():
            path = f"{SOURCE}/{name}"
            if not os.path.isfile(path) or name == "tests/lint/test_lint.py":
                continue
            with open(path, errors="replace") as f:
                wrong += [f"{name}:{n}" for n, line in enumerate(f, 1) if pattern.search(line)]
        self.assertEqual(wrong, [])

    def test_scripts_can_be_run(self):
        for path in [f"{SOURCE}/.ci/run", *files("src", "tools", "tests", "examples", "python", ends=("",))]:
            with open(path, "rb") as f:
                if f.read(2) == b"#!":
                    self.assertTrue(os.access(path, os.X_OK), short(path))

    def test_forbidden_calls_on_the_traced_side(self):
        pattern = re.compile(r"(?<![\w.>])(" + "|".join(FORBIDDEN.split()) + r")\s*\(")
        wrong = []
        for path in files("src/hook", "src/stack", "src/python", "src/wire", "src/base"):
            for number, line in enumerate(code_of(path).splitlines(), 1):
                # A wrapper's own definition, and a look-up in the table of real functions, are not calls.
                stripped = line.strip()
                for match in pattern.finditer(line):
                    definition = re.match(r"^(MT_\w+\s+)*[\w\s*]+\**\b" + match[1] + r"\s*\(", stripped) and not \
                        stripped.startswith("return")
                    if not definition and match[1] not in EXCEPT.get(short(path), ()):
                        wrong.append(f"{short(path)}:{number}: {stripped[:80]}")
        self.assertEqual(wrong, [])


class Library(harness.Case):
    def nm(self, *options):
        done = subprocess.run(["nm", "-D", *options, harness.LIBRARY], capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        return [line.split()[-1].split("@")[0] for line in done.stdout.splitlines()]

    def table(self, name):
        text = text_of(f"{SOURCE}/src/hook/functions.h")
        body = re.search(rf"#define {name}\(X\)((?:.*\\\n)*.*\n)", text)[1]
        names = set(re.findall(r"^\s*X\((\w+)", body, re.M))
        for part in re.findall(r"(MT_\w+)\(X\)", body):
            names |= self.table(part)
        return names

    def test_exports_are_the_table(self):
        expected = self.table("MT_HOOKED") | self.table("MT_API")
        self.assertEqual(set(self.nm("--defined-only")), expected)

    def test_the_table_and_the_header_agree(self):
        header = set(re.findall(r"X\([\w ]+, (memtrace_\w+),", text_of(f"{SOURCE}/include/memtrace.h")))
        self.assertEqual(self.table("MT_API"), header)

    def test_imports(self):
        """What the library may ask of the C library: nothing that allocates, prints, buffers or ends the process."""
        allowed = set("""__cxa_finalize __stack_chk_fail __tls_get_addr __errno_location _dl_find_object dl_iterate_phdr dlinfo dlsym dlvsym
            dlopen dlclose dlerror environ __environ program_invocation_name getauxval getcontext getenv secure_getenv
            memcpy memmove memset memcmp memchr memrchr strlen strnlen strcmp strncmp strchr strrchr strstr strcspn strspn
            __memcpy_chk __memset_chk __memmove_chk stpcpy
            __gmon_start__ _ITM_deregisterTMCloneTable _ITM_registerTMCloneTable __register_atfork pthread_atfork
            __libc_stack_end malloc_usable_size on_exit strerrordesc_np pthread_self pthread_sigmask __libc_start_main syscall _r_debug __libc_single_threaded gnu_get_libc_version
            __snprintf_chk __vsnprintf_chk snprintf vsnprintf""".split())
        found = set(self.nm("--undefined-only"))
        self.assertEqual(sorted(found - allowed), [])

    def test_dependencies(self):
        """libunwind is loaded privately: linked in, it would take over the target's C++ unwinding."""
        done = subprocess.run(["readelf", "-d", harness.LIBRARY], capture_output=True, text=True)
        needed = re.findall(r"NEEDED.*\[(.*)\]", done.stdout)
        self.assertEqual([n for n in needed if not re.match(r"(libc|ld-linux.*|libdl|libpthread)\.so", n)], [])
        self.assertNotIn("TEXTREL", done.stdout)

    def test_tls_needs_no_allocation(self):
        """Initial-exec only: the other models call malloc from __tls_get_addr."""
        done = subprocess.run(["readelf", "-rW", harness.LIBRARY], capture_output=True, text=True)
        self.assertNotRegex(done.stdout, "DTPMOD|TLSDESC|DTPOFF")


class Documents(harness.Case):
    def test_environment_is_documented(self):
        names = re.findall(r'X\(\w+, "(MEMTRACE_\w+)", "(\w+)', text_of(f"{SOURCE}/src/wire/names.h"))
        readme = text_of(f"{SOURCE}/README.md")
        self.assertEqual([n for n, meaning in names if meaning != "internal" and n not in readme], [])

    def test_links_lead_somewhere(self):
        wrong = []
        for path in files("", ends=(".md",)):
            for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text_of(path)):
                if not os.path.exists(os.path.join(os.path.dirname(path), link)):
                    wrong.append(f"{short(path)}: {link}")
        self.assertEqual(wrong, [])


harness.main()
