#!/usr/bin/env python3
"""Writes a site like the documentation of a library: sections, tags, code blocks, links from page to page.

usage: generate.py FOLDER [PAGES]      PAGES: 100 (default), 1000, 10000 or any other number
"""

import os
import sys

TAGS = ["api", "guide", "performance", "internals", "testing", "deployment", "security", "theming", "plugins", "release"]
TEXT = """Each build reads the content folder, parses what has changed, and renders pages through templates. A page belongs to a
section and has tags; both have lists of their own. **Nothing here is random**, so that two sites of one size are equal."""


def page(number, pages, sections):
    tags = [TAGS[number % len(TAGS)], TAGS[(number // 3) % len(TAGS)]]
    parts = ["---", f"title: Page {number}", f"tags: [{', '.join(dict.fromkeys(tags))}]", f"weight: {number}", "---", "",
             f"# Page {number}", ""]
    for section in range(5):
        other = (number * 7 + section * 13) % pages
        parts += [f"## Topic {section}", "", TEXT, "",
                  f"See [page {other}](/section-{other % sections}/page-{other}/) for more.", "",
                  "```python", f"def topic_{section}(value):", f'    """Part {section} of page {number}."""',
                  f"    return [value * n for n in range({number % 17 + 2})]", "```", "",
                  "| option | default | meaning |", "|---|---|---|",
                  *(f"| `option_{n}` | {n * number % 97} | what option {n} does |" for n in range(4)), "",
                  *(f"- point {n} of topic {section}" for n in range(4)), ""]
    return "\n".join(parts)


def main():
    if not 2 <= len(sys.argv) <= 3:
        sys.exit(__doc__)
    folder, pages = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 100
    sections = max(4, pages // 25)
    os.makedirs(f"{folder}/content", exist_ok=True)
    with open(f"{folder}/bengal.toml", "w") as f:
        f.write('[site]\ntitle = "A library"\nbaseurl = ""\n\n[build]\noutput_dir = "public"\n')
    with open(f"{folder}/content/index.md", "w") as f:
        f.write("---\ntitle: Home\n---\n\n# A library\n\n" + TEXT + "\n")
    for section in range(sections):
        os.makedirs(f"{folder}/content/section-{section}", exist_ok=True)
        with open(f"{folder}/content/section-{section}/_index.md", "w") as f:
            f.write(f"---\ntitle: Section {section}\n---\n\n{TEXT}\n")
    for number in range(pages):
        with open(f"{folder}/content/section-{number % sections}/page-{number}.md", "w") as f:
            f.write(page(number, pages, sections))
    print(f"{pages} pages in {sections} sections: {folder}")


main()
