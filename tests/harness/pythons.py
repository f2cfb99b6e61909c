"""The CPythons that tests run: those named by MEMTRACE_TEST_PYTHONS (separated by colons), else python3.11 to python3.14, python3.13t and
python3.14t, python3 on PATH and /usr/bin/python3; from 3.11 on. Says which they are. The version of a build without the lock ends in t."""

import os
import shutil
import subprocess
import sys

import harness


def _find():
    """(version, executable) of each."""
    wanted = os.environ.get("MEMTRACE_TEST_PYTHONS")
    names = wanted.split(":") if wanted else [*(f"python3.{n}" for n in range(11, 15)), "python3.13t", "python3.14t", "python3",
                                                "/usr/bin/python3"]
    found = {}
    for name in names:
        path = shutil.which(name)
        if not path:
            continue
        done = subprocess.run([path, "-c", "import sys, sysconfig\nprint(sys.executable, sys.implementation.name, *sys.version_info[:3], "
                               "'t' if sysconfig.get_config_var('Py_GIL_DISABLED') else '')"],
                              capture_output=True, text=True, env=harness.clean_environment())
        words = done.stdout.split()
        if done.returncode == 0 and words[1] == "cpython" and tuple(map(int, words[2:4])) >= (3, 11):
            found[os.path.realpath(words[0])] = ".".join(words[2:5]) + "".join(words[5:])
    return [(version, path) for path, version in sorted(found.items(), key=lambda item: item[1])]


PYTHONS = _find()
print("Python:", ", ".join(f"{v} ({p})" for v, p in PYTHONS) or "none", file=sys.stderr)
