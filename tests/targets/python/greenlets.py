"""Allocations in greenlets that switch in the middle of calls, at several depths, from C callbacks and in two threads."""

import functools
import sys
import threading

import greenlet

keep = []


def deep(n, size, out):
    if n:
        return deep(n - 1, size, out)
    for _ in range(5):
        keep.append(bytearray(size))  # DEEP
        out.switch()
        keep.append(bytearray(size + 1))  # AFTER_SWITCH


def reduced(a, b):
    greenlet.getcurrent().parent.switch()
    keep.append(bytearray(20003))  # IN_CALLBACK
    return b


def callbacks():
    functools.reduce(reduced, range(6))


def nested(level):
    if level:
        inner = greenlet.greenlet(nested)
        inner.switch(level - 1)
        keep.append(bytearray(20005))  # NESTED
    else:
        keep.append(bytearray(20007))  # INNERMOST


def raises():
    keep.append(bytearray(20009))  # RAISES
    greenlet.getcurrent().parent.switch()
    raise ValueError


def run():
    hub = greenlet.getcurrent()
    workers = [greenlet.greenlet(functools.partial(deep, 10 * (i + 1), 20011, hub)) for i in range(4)]
    other = greenlet.greenlet(callbacks)
    while any(not w.dead for w in [*workers, other]):
        for w in [*workers, other]:
            if not w.dead:
                w.switch()
    greenlet.greenlet(nested).switch(5)
    failing = greenlet.greenlet(raises)
    failing.switch()
    try:
        failing.switch()
    except ValueError:
        keep.append(bytearray(20013))  # CAUGHT
    left = greenlet.greenlet(functools.partial(deep, 3, 20015, hub))
    left.switch()
    del left  # killed where it is: GreenletExit runs through its frames
    for _ in range(3000):
        g = greenlet.greenlet(functools.partial(pow, 2))
        g.switch(3)


run()
other_thread = threading.Thread(target=run)
other_thread.start()
other_thread.join()
print(len(keep))
