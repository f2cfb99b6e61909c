"""Small and large objects, and what the interpreter says of its arenas at the moments of three snapshots. memtrace and the interpreter (through
tests/targets/counter.c) are asked in the same way, by calls without arguments or with the same, so that what a call itself needs is there both times."""

import ctypes

program = ctypes.PyDLL(None)  # the interpreter's lock is kept
snapshot, statistics = program.memtrace_snapshot, program.counter_python_statistics
snapshot.restype = statistics.restype = None
snapshot.argtypes = statistics.argtypes = [ctypes.c_void_p]
texts = [ctypes.create_string_buffer(text) for text in (b"before", b"held", b"after")]
addresses = [ctypes.addressof(text) for text in texts]
large = [bytes(1013) for _ in range(100)]
small = [None] * 30000


def ask(address):
    snapshot(address)
    statistics(address)


ask(addresses[0])
for i in range(30000):
    small[i] = bytes(15)
i = None
ask(addresses[1])
for i in range(0, 30000, 2):
    small[i] = None
i = None
ask(addresses[2])
