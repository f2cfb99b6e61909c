"""Lines whose blocks tracemalloc counts exactly; those named HOT_ are of instances, whose blocks it counts nearly so. With `tracemalloc` as its argument (under PYTHONTRACEMALLOC=1) it prints what it counted."""

import collections
import dataclasses
import sys

N = 500


class WithDict:
    def __init__(self, a, b):
        self.a = a
        self.b = b


class WithSlots:
    __slots__ = ("a", "b")

    def __init__(self, a, b):
        self.a = a
        self.b = b


@dataclasses.dataclass
class Data:
    a: int
    b: str


@dataclasses.dataclass(slots=True, frozen=True)
class SlottedData:
    a: int
    b: str


class WithList(list):
    pass


Named = collections.namedtuple("Named", "a b")


def closure(a):
    return lambda: a  # HOT_CLOSURE


def generator(a):
    yield a


def raised(a):
    try:
        raise KeyError(a)
    except KeyError as error:
        return error.with_traceback(None)


def make():
    held, one = [], [None]
    sizes, large = [300 + i for i in range(N)], [10 ** 9 + i for i in range(N)]
    # Objects on the interpreter's free lists are not allocated again: tracemalloc moves them to the line that takes them, an allocator does not see that. So
    # the lists are emptied first, and lines make no numbers on their way.
    used_up = [[[] for _ in range(200)], [{} for _ in range(200)], [10 ** 6 + i for i in range(200)], [(i, i) for i in range(2500)],
               [float(i) for i in range(200)], [i.__add__ for i in range(200)]]
    held.append(used_up)
    held.append(sizes)
    held.append(large)
    held.append(one * 1000)  # LIST
    held.append(bytes(12345))  # BYTES
    held.append("x" * 4321)  # STR
    held.append([bytes(size) for size in sizes])  # SMALL_BYTES
    held.append(["%d" % i for i in large])  # STRINGS
    held.append([[] for _ in large])  # LISTS
    held.append([[i] for i in large])  # FILLED
    held.append([{i: None} for i in large])  # DICTS
    held.append({i: None for i in large})  # DICT
    held.append(dict.fromkeys(large))  # FROMKEYS
    grown = []
    for _ in large:
        grown.append(None)  # GROWN
    held.append(grown)
    held.append([WithDict(a, None) for a in large])  # HOT_DICT
    held.append([o.__dict__ for o in held[-1]])  # HOT_MADE_DICT
    held.append([WithSlots(None, None) for _ in large])  # HOT_SLOTS
    held.append([Data(None, "b") for _ in large])  # HOT_DATACLASS
    held.append([SlottedData(None, "b") for _ in large])  # HOT_SLOTTED_DATACLASS
    held.append([Named(None, "b") for _ in large])  # HOT_NAMEDTUPLE
    held.append([(i, None) for i in large])  # HOT_TUPLES
    held.append([ValueError("x") for _ in large])  # HOT_EXCEPTIONS
    held.append([raised("x") for _ in large])  # HOT_RAISED
    held.append([closure(a) for a in large])  # HOT_CLOSURES
    held.append([generator(None) for _ in large])  # HOT_GENERATORS
    held.append([WithList() for _ in large])  # HOT_SUBCLASS
    held.append([set() for _ in large])  # HOT_SETS
    held.append([a / 3 for a in large])  # HOT_FLOATS
    held.append([make.__call__ for _ in large])  # HOT_METHODS
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
