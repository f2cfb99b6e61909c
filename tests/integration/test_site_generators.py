"""Real site generators, sequential and parallel: the site is the same, and who reads `memtrace top` is shown lines of the generator or of its libraries."""

import json
import os

import harness
import work

LIBRARIES = "/dist-packages/"


def tree(folder):
    """Names and sizes; what a generator says of the time of day has always the same size."""
    return {os.path.relpath(f"{where}/{name}", folder): os.path.getsize(f"{where}/{name}") for where, _, names in os.walk(folder) for name in names
            if not name.endswith((".pickle", ".doctree", ".gz"))}  # sphinx's and mkdocs's own files, whose order is chance


class SiteGenerators(harness.Case):
    def check(self, make, own, processes=1):
        """own: a part of the paths of the generator and of those libraries that it is mostly made of."""
        try:
            command = make()
        except work.Missing as missing:
            self.skipTest(str(missing))
        env = {"PYTHONHASHSEED": "0", "PYTHONWARNINGS": "ignore"}
        plain = harness.plain(command, env=env, seconds=200)
        expected = tree(f"{self.folder}/html")
        self.assertGreater(len(expected), 60)
        result = self.trace(*make(), env=env, seconds=200)
        self.assertEqual((result.status, result.err), (plain.status, plain.err))
        self.assertEqual(tree(f"{self.folder}/html"), expected)
        self.assertComplete(result)
        self.assertConsistent(result)
        self.assertGreaterEqual(result.run()["processes"], processes)
        top = harness.memtrace("top", "-d", self.db, "-n", "12", "--json")
        self.assertEqual((top.status, top.err), (0, b""))
        rows = [r for r in json.loads(top.out) if r["heap"] in ("malloc", "python")][:10]
        self.assertEqual(len(rows), 10)
        for r in rows:
            self.assertTrue(r["function"] and r["file"] and r["line"], r)
        libraries = [r for r in rows if LIBRARIES in r["file"]]
        self.assertGreaterEqual(len(libraries), 3, rows)
        self.assertTrue(any(name in r["file"] for r in libraries for name in own), libraries)

    def test_sphinx(self):
        self.check(lambda: work.sphinx(self.folder), ("/sphinx/",))

    def test_sphinx_in_parallel(self):
        self.check(lambda: work.sphinx(self.folder, jobs=2), ("/sphinx/",), processes=3)

    def test_mkdocs(self):
        self.check(lambda: work.mkdocs(self.folder), ("/mkdocs/", "/markdown/", "/jinja2/"))

    def test_pelican(self):
        self.check(lambda: work.pelican(self.folder), ("/pelican/", "/docutils/", "/jinja2/"))


harness.main()
