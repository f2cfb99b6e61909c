"""Frames that look like others did at the same place; see tests/integration/test_python.py.

`codes`: code objects that take the place of others of the same shape, with other names and lines. `entries`: one call, by the interpreter's loop and
through C in turn.
"""

import ctypes
import sys


def codes(rounds):
    for i in range(rounds * 1050):
        name = f"made_{i % 50}"
        space = {}
        exec(compile("\n" * (i % 7 * 3) + f"def {name}(n):\n    x = bytearray(n)\n    return [bytearray(n) for _ in range(2)]\n", f"<of {i % 3}>", "exec"), space)
        call(space.pop(name), 10015)


def call(function, n):
    return function(n)


def allocates(n):
    bytearray(n)  # ALLOCATES
    return n


def entries(rounds):
    through_c = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(allocates)
    for i in range(rounds):
        function = through_c if i % 3 == 0 else allocates
        function(10016)  # CALLS


codes(3)
entries(900)
