"""Callsites of Python that leak and callsites that do not: corpus.py MODE SEED ITERATIONS [LIBRARY], with MODE `bounded`, `leaks`, `fragments` or
`pins`. LIBRARY is extension.c, built: what an extension leaks. test_leaks_python.py knows the right answers."""

import collections
import ctypes
import functools
import gc
import mmap
import random
import sys
import weakref

import memtrace

SIZE = 4000  # bytes(SIZE) is SIZE + 33 bytes
numbers = random.Random()
held = collections.defaultdict(list)
now = iterations = 0


class Thing:
    pass


def keep(value, until=1 << 30):
    """Until that iteration, in the list of the caller."""
    held[sys._getframe(1).f_code.co_name].append((until, value))


def let_go():
    for name, values in held.items():
        held[name] = [v for v in values if v[0] > now]


# ---- none of these leaks


def turnover_3():
    for _ in range(10):
        lives = 1
        while numbers.random() > 1 / 3:
            lives += 1
        keep(bytes(SIZE), now + lives)


def pool_25():
    for _ in range(10 if now > 1 else 250):
        lives = 1
        while numbers.random() > 1 / 25:
            lives += 1
        keep(bytes(SIZE), now + lives)


def cache_4(cache={}):
    cache[min(now, 4)] = cache.get(min(now, 4)) or bytes(SIZE)


def cache_8(cache={}):
    cache[min(now, 8)] = cache.get(min(now, 8)) or bytes(SIZE)


@functools.lru_cache(maxsize=30)
def lru_values(key):
    return bytes(SIZE)


def lru():
    for _ in range(12):
        lru_values(numbers.randrange(50))


def interned(words=[]):
    for _ in range(60):
        words.append(sys.intern("a word of which there are forty, %d%s" % (numbers.randrange(40), " and so on" * 50)))
    words[:] = set(words)


def lazy(things={}):
    i = numbers.randrange(12)
    if i < 6 and i not in things:
        things[i] = bytes(SIZE)


def fifo_4(queue=collections.deque(maxlen=4)):
    queue.append(bytes(SIZE))


def grown_then_freed(items=[]):
    items.append(bytes(SIZE))
    if len(items) > 3 and numbers.random() < 0.6:
        items.clear()


def growing_list(items=[]):
    """Its storage is replaced by a larger one now and then; what is in it is there already."""
    items.extend([None] * 700)
    if len(items) > 5000:
        items.clear()


def collected_cycle():
    for _ in range(5):
        thing = Thing()
        thing.itself = thing
        thing.data = bytes(SIZE)
    if now % 3 == 0:
        gc.collect()


def dropped_exception():
    try:
        data = bytes(SIZE)
        raise ValueError(len(data))
    except ValueError as error:
        keep(error, now + 1)


def suspended_generator():
    def produce():
        data = bytes(SIZE)
        while True:
            yield data

    g = produce()
    next(g)
    keep(g, now + 2)


def weak_cache(cache=weakref.WeakValueDictionary()):
    thing = Thing()
    thing.data = bytes(SIZE)
    cache[now] = thing
    keep(thing, now + 3)


def text_buffer(buffer=[""]):
    buffer[0] = (buffer[0] + "x" * 3000)[-20000:]


def warm_up():
    for _ in range(200 >> now):
        keep(bytes(SIZE))


def bounded():
    for case in (turnover_3, pool_25, cache_4, cache_8, lru, interned, lazy, fifo_4, grown_then_freed, growing_list, collected_cycle,
                 dropped_exception, suspended_generator, weak_cache, text_buffer, warm_up):
        case()


# ---- all of these do


def leak_one():
    keep(bytes(SIZE))


def leak_two_in_noise():
    for i in range(60 + numbers.randrange(80)):
        data = bytes(SIZE)
        keep(data, 1 << 30 if i < 2 else now + 1)


def leak_in_turnover():
    for i in range(2000):
        data = bytes(SIZE)
        if i == 1000:
            keep(data)


def leak_larger():
    keep(bytes(SIZE * now))


def leak_cycle():
    """With the collector off."""
    thing = Thing()
    thing.itself = thing
    data = bytes(SIZE)
    thing.data = data


def leak_traceback():
    try:
        data = bytes(SIZE)
        raise ValueError(len(data))
    except ValueError as error:
        keep(error)


def leak_mapping():
    keep(mmap.mmap(-1, 1 << 14))


def leak_extension():
    library.extension_keep(3000)


def leak_half():
    if numbers.random() < 0.5:
        keep(bytes(SIZE))


def leak_fifth():
    if numbers.random() < 0.2:
        keep(bytes(SIZE))


def leaks():
    for case in (leak_one, leak_two_in_noise, leak_in_turnover, leak_larger, leak_cycle, leak_traceback, leak_mapping, leak_extension,
                 leak_half, leak_fifth):
        case()


# ---- resident memory


def fragments(pin=[]):
    """Ever more is borrowed, and what is allocated behind it keeps the heap from shrinking."""
    blocks = [bytearray(10000) for _ in range(100 * now)]
    pin[:] = [bytes(30000)]
    del blocks


def pins(pinned=[None] * 200):
    """One small object in each arena stays for an iteration."""
    crowd = [object() for _ in range(200000)]
    for i in range(200):
        pinned[i] = crowd[i * 1000 + now]


def main():
    global now, iterations, library
    mode, iterations = {"bounded": bounded, "leaks": leaks, "fragments": fragments, "pins": pins}[sys.argv[1]], int(sys.argv[3])
    numbers.seed(int(sys.argv[2]))
    if len(sys.argv) > 4:
        library = ctypes.CDLL(sys.argv[4])
        library.extension_keep(8)
    gc.collect()
    gc.disable()
    for now in range(1, iterations + 1):
        memtrace.iteration("")
        let_go()
        mode()
    memtrace.iteration("exit")


main()
