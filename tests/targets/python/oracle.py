"""Lines whose blocks tracemalloc counts exactly. With `tracemalloc` as its argument (under PYTHONTRACEMALLOC=1) it prints what it counted."""

import sys

N = 500


def make():
    held, one = [], [None]
    # Objects on the interpreter's free lists are not allocated again: tracemalloc moves them to the line that takes them, an allocator does not see that.
    used_up = [[[] for _ in range(200)], [{} for _ in range(200)]]
    held.append(used_up)
    held.append(one * 1000)  # LIST
    held.append(bytes(12345))  # BYTES
    held.append("x" * 4321)  # STR
    held.append([bytes(300 + i) for i in range(N)])  # SMALL_BYTES
    held.append(["%d" % (10 ** 9 + i) for i in range(N)])  # STRINGS
    held.append([[] for _ in range(N)])  # LISTS
    held.append([[i] for i in range(N)])  # FILLED
    held.append([{i: None} for i in range(N)])  # DICTS
    held.append({i: None for i in range(N)})  # DICT
    held.append(dict.fromkeys(range(N)))  # FROMKEYS
    grown = []
    for i in range(N):
        grown.append(None)  # GROWN
    held.append(grown)
    return held


held = make()
if sys.argv[1:] == ["tracemalloc"]:
    import tracemalloc

    snapshot = tracemalloc.take_snapshot()
    for s in snapshot.statistics("lineno"):
        frame = s.traceback[0]
        if frame.filename == __file__:
            print(frame.lineno, s.size, s.count)
else:
    import memtrace

    memtrace.snapshot("held")
