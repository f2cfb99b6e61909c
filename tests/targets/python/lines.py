"""Allocations on known lines. What a line should show is in its comment: `# NAME kind`, looked for by tests/integration/test_python.py."""

import asyncio
import functools
import sys
import threading

keep = []
DATA = [bytes(100)] * 4


def plain():
    keep.append(bytearray(10001))  # PLAIN


def generator():
    for _ in range(5):
        yield bytearray(10002)  # GENERATOR


def decorated(function):
    @functools.wraps(function)
    def wrapper(*arguments):
        keep.append(bytearray(10003))  # WRAPPER
        return function(*arguments)

    return wrapper


@decorated
def inner():
    keep.append(bytearray(10004))  # DECORATED


def recursive(n):
    if n:
        return recursive(n - 1)
    keep.append(bytearray(10005))  # RECURSION


class Compared:
    def __lt__(self, other):
        keep.append(bytearray(10006))  # CALLBACK
        return True


def reduced(a, b):
    keep.append(bytearray(10007))  # REDUCE
    return b


async def coroutine():
    await asyncio.sleep(0)
    keep.append(bytearray(10008))  # ASYNC


async def aggregate():
    async for item in asynchronous_generator():
        keep.append(item)
    await asyncio.gather(*[coroutine() for _ in range(6)])


async def asynchronous_generator():
    for _ in range(3):
        yield bytearray(10009)  # ASYNCGEN


def in_thread():
    keep.append(bytearray(10010))  # THREAD


def comprehensions():
    keep.append([bytearray(10011) for _ in range(7)])  # COMPREHENSION
    keep.append({i: bytearray(10012) for i in range(2)})  # DICTCOMP
    keep.append(list(bytearray(10013) for _ in range(3)))  # GENEXP


EXEC = """\
def made(keep):
{padding}    keep.append(bytearray(10014))
made(keep)
"""


def thrown_away():
    for i in range(2000):
        exec(compile(EXEC.format(padding="    pass\n" * (i % 5)), "<template>", "exec"), {"keep": []})


def with_line_numbers_that_jump(flag):
    if flag:


























































        keep.append(bytearray(10015))  # FAR


def main():
    for _ in range(11):
        plain()
    keep.extend(generator())
    for _ in range(3):
        inner()
    recursive(200)
    sorted([Compared() for _ in range(5)])
    functools.reduce(reduced, range(9))
    asyncio.run(aggregate())
    threads = [threading.Thread(target=in_thread) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    comprehensions()
    thrown_away()
    with_line_numbers_that_jump(True)


main()
print(len(keep), sum(map(sys.getsizeof, keep)) > 0)
