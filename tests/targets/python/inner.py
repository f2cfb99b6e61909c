"""Objects that C functions make in every order of calls, from Python's stacks of several depths; see tests/integration/test_python.py."""

import ctypes
import os

library = ctypes.PyDLL(os.environ["INNER_LIBRARY"])
new_function = ctypes.pythonapi.PyCFunction_NewEx
new_function.argtypes = [ctypes.c_void_p] * 3
new_function.restype = ctypes.py_object
make = new_function(ctypes.addressof(ctypes.c_char.in_dll(library, "make_method")), None, None)


def at_depth(depth, path):
    if depth:
        return at_depth(depth - 1, path)
    return make(path)  # MAKES


def within(depth, path):
    """Deeper in the native stack, too: map() is C."""
    return next(map(lambda p: within(depth - 1, p), [path])) if depth else at_depth(0, path)


for turn in range(4):
    for path in range(12 ** 3):
        at_depth(turn, path) if turn < 2 else within(turn, path)
        at_depth(turn, path % 7)
