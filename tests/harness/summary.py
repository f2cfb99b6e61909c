"""Counts the checks in meson's logs, prints those that failed, and ends with `N passed, N failed, N skipped`.

usage: summary.py FOLDER    the folder that holds testlog.junit.xml (each check) and testlog.json (how each test program ended)
"""

import json
import sys
import xml.etree.ElementTree as ElementTree

passed = failed = skipped = 0
complained = set()  # programs that named a check that failed
with open(f"{sys.argv[1]}/testlog.json") as log:
    ends = {program["name"]: program["result"] for program in map(json.loads, log)}
for suite in ElementTree.parse(f"{sys.argv[1]}/testlog.junit.xml").getroot().iter("testsuite"):
    for case in suite.iter("testcase"):
        name = f"{suite.get('name')}: {case.get('name')}"
        if case.find("failure") is not None or case.find("error") is not None:
            failed += 1
            complained.add(suite.get("name").split(".", 1)[-1])
            print("failed:", name)
        elif case.find("skipped") is not None:
            skipped += 1
            print("skipped:", name, (case.find("skipped").get("message") or case.find("skipped").text or "").strip())
        else:
            passed += 1
# A test program that was killed, timed out or died has checks that never came to be: its log names none that failed.
for name, result in ends.items():
    if result not in ("OK", "EXPECTEDFAIL", "SKIP") and name not in complained:
        failed += 1
        print(f"failed: {name}: {result}")
print(f"{passed} passed, {failed} failed, {skipped} skipped")
sys.exit(1 if failed or not passed else 0)
