"""Real programs at work: what they are given, and how they are called. Shared by the tests and the benchmarks."""

import os
import shutil
import subprocess
import sys

SYSTEM_PYTHON = "/usr/bin/python3"  # its modules are the distribution's, whatever python3 is first on PATH


class Missing(Exception):
    """A program that is not installed: the test is skipped, and says so."""


def need(program):
    path = shutil.which(program)
    if not path:
        raise Missing(f"{program} is not installed")
    return path


def sqlite(folder, rows=600000):
    script = f"{folder}/work.sql"
    with open(script, "w") as f:
        f.write(f"""CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT, n INTEGER);
WITH RECURSIVE c (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < {rows})
INSERT INTO t SELECT i, 'name-' || (i * 7919 % 10007), i % 97 FROM c;
CREATE INDEX t_name ON t (name);
SELECT COUNT(*), SUM(c) FROM (SELECT name, COUNT(*) c, GROUP_CONCAT(n) g FROM t GROUP BY name);
SELECT n, AVG(id) FROM t GROUP BY n ORDER BY 2 LIMIT 5;
""")
    return [need("sqlite3"), "-batch", "-init", script, ":memory:", ".quit"]


def jq(folder, objects=200000):
    path = f"{folder}/objects.json"
    with open(path, "w") as f:
        for i in range(objects):
            f.write(f'{{"id": {i}, "name": "object {i % 1013}", "tags": ["a", "b{i % 7}"], "value": {i / 8}}}\n')
    return [need("jq"), "-s", "group_by(.name) | map({name: .[0].name, n: length, sum: map(.value) | add}) | length", path]


def c_source(path, functions):
    with open(path, "w") as f:
        f.write("typedef struct node { struct node *next; long value; char name[24]; } node;\n")
        for i in range(functions):
            f.write(f"""long f{i}(node *list, long a, long b)
{{
    long sum = a * {i + 3};
    for (node *n = list; n; n = n->next) {{
        switch (n->value % 5) {{
        case 0: sum += n->value ^ b; break;
        case 1: sum -= n->name[a & 15]; break;
        case 2: sum = sum / (n->value | 1) + {i}; break;
        default: sum += {f'f{i - 1}(n->next, sum, a)' if i else 'b'}; break;
        }}
        for (long k = 0; k < b; k++)
            sum += n->name[k % 24] * k;
    }}
    return sum;
}}
""")


def cc1(folder, functions=400):
    source = f"{folder}/work.c"
    c_source(source, functions)
    lines = subprocess.run([need("gcc"), "-###", "-O2", "-S", source, "-o", f"{folder}/work.s"], capture_output=True,
                           text=True).stderr.splitlines()
    line = next((l for l in lines if "/cc1 " in l or '/cc1" ' in l), None)
    if not line:
        raise Missing("gcc does not say where its cc1 is")
    import shlex
    return shlex.split(line)


def new_site(folder, module):
    """Source and output folder of a site generator, both new each time."""
    if subprocess.run([SYSTEM_PYTHON, "-c", f"import {module}"], capture_output=True).returncode:
        raise Missing(f"{module} is not installed")
    source, out = f"{folder}/site", f"{folder}/html"
    shutil.rmtree(source, ignore_errors=True)
    shutil.rmtree(out, ignore_errors=True)
    os.makedirs(source)
    return source, out


def sphinx(folder, pages=60, jobs=1):
    """PYTHONHASHSEED=0 goes with it, and with the other site generators."""
    source, out = new_site(folder, "sphinx")
    with open(f"{source}/conf.py", "w") as f:
        f.write('project = "site"\nextensions = []\nhtml_theme = "basic"\n')
    with open(f"{source}/index.rst", "w") as f:
        f.write("Site\n====\n\n.. toctree::\n\n" + "".join(f"   page{i}\n" for i in range(pages)))
    for i in range(pages):
        with open(f"{source}/page{i}.rst", "w") as f:
            f.write(f"Page {i}\n========\n\n.. _label{i}:\n\n")
            for s in range(6):
                f.write(f"Section {s}\n---------\n\nSome *text* with ``code`` and :ref:`a link <label{(i + s) % pages}>`.\n\n"
                        ".. code-block:: python\n\n   def f(x):\n       return x + 1\n\n* one\n* two\n\n")
    return [SYSTEM_PYTHON, "-m", "sphinx", "-q", f"-j{jobs}", "-E", "-b", "html", source, out]


def mkdocs(folder, pages=60):
    source, out = new_site(folder, "mkdocs")
    os.makedirs(f"{source}/docs")
    with open(f"{source}/mkdocs.yml", "w") as f:
        f.write("site_name: site\nsite_url: https://example.org/\nmarkdown_extensions: [tables, toc, fenced_code, footnotes]\n")
    for i in range(pages):
        with open(f"{source}/docs/{f'page{i}' if i else 'index'}.md", "w") as f:
            f.write(f"# Page {i}\n\n")
            for s in range(6):
                f.write(f"## Section {s}\n\nSome *text* with `code` and [a link](page{(i + s) % (pages - 1) + 1}.md).\n\n"
                        "```python\ndef f(x):\n    return x + 1\n```\n\n* one\n* two\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n")
    return [SYSTEM_PYTHON, "-m", "mkdocs", "build", "-q", "-f", f"{source}/mkdocs.yml", "-d", out]


def pelican(folder, pages=60):
    source, out = new_site(folder, "pelican")
    os.makedirs(f"{source}/content")
    with open(f"{source}/conf.py", "w") as f:
        f.write('AUTHOR = "a"\nSITENAME = "site"\nSITEURL = ""\nPATH = "content"\nTIMEZONE = "UTC"\nDEFAULT_LANG = "en"\n'
                'CACHE_CONTENT = False\n')
    for i in range(pages):
        with open(f"{source}/content/page{i}.rst", "w") as f:
            f.write(f"Page {i}\n########\n\n:date: 2024-01-{i % 28 + 1:02}\n:category: c{i % 5}\n:tags: t{i % 7}, t{i % 3}\n\n")
            for s in range(6):
                f.write(f"Section {s}\n=========\n\nSome *text* with ``code``.\n\n.. code-block:: python\n\n   def f(x):\n       return x + 1\n\n"
                        "* one\n* two\n\n")
    return [SYSTEM_PYTHON, "-m", "pelican", f"{source}/content", "-q", "-o", out, "-s", f"{source}/conf.py"]


def bengal(folder, pages=25):
    """BENGAL names it, where it is not on PATH. BENGAL_ALLOW_GIL=1 and PYTHONHASHSEED=0 go with it."""
    program, source = os.environ.get("BENGAL") or need("bengal"), f"{folder}/bengal"
    with open(program) as f:
        python = f.readline().removeprefix("#!").strip()
    shutil.rmtree(source, ignore_errors=True)
    generate = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "examples", "bengal", "generate.py")
    subprocess.run([sys.executable, generate, source, str(pages)], check=True, stdout=subprocess.DEVNULL)
    return [python, program, "build", "--source", source, "--quiet"]
