"""Counts the checks in meson's JUnit log, prints those that failed, and ends with `N passed, N failed, N skipped`."""

import sys
import xml.etree.ElementTree as ElementTree

passed = failed = skipped = 0
for suite in ElementTree.parse(sys.argv[1]).getroot().iter("testsuite"):
    for case in suite.iter("testcase"):
        name = f"{suite.get('name')}: {case.get('name')}"
        if case.find("failure") is not None or case.find("error") is not None:
            failed += 1
            print("failed:", name)
        elif case.find("skipped") is not None:
            skipped += 1
            print("skipped:", name, (case.find("skipped").get("message") or case.find("skipped").text or "").strip())
        else:
            passed += 1
    # A test program that died before its report has no cases that failed.
    if int(suite.get("failures") or 0) + int(suite.get("errors") or 0) and not any(
            c.find("failure") is not None or c.find("error") is not None for c in suite.iter("testcase")):
        failed += 1
        print("failed:", suite.get("name"))
print(f"{passed} passed, {failed} failed, {skipped} skipped")
sys.exit(1 if failed or not passed else 0)
