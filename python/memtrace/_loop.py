"""What `memtrace loop` starts for Python programs: runs one N times in this process, with an iteration mark in between.

usage: python _loop.py N -m MODULE ARGUMENT...      python _loop.py N SCRIPT ARGUMENT...

Modules stay imported from one run to the next: what they keep is what a leak is made of. The iteration that begins after the last run is
called `exit`: in it the interpreter takes itself down.
"""

import gc
import os
import runpy
import sys


def status_of(code):
    """What the interpreter makes of SystemExit's argument."""
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xff
    sys.stdout.flush()
    print(code, file=sys.stderr)
    return 1


def run_once(arguments):
    try:
        if arguments[0] == "-m":
            sys.argv = ["-m", *arguments[2:]]
            runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = list(arguments)
            runpy.run_path(arguments[0], run_name="__main__")
    except SystemExit as stop:
        return status_of(stop.code), True
    except BaseException as error:
        # Without the frames of this file and of runpy: as the program's own report would be.
        trace = error.__traceback__
        while trace and trace.tb_frame.f_code.co_filename in (__file__, runpy.__file__, "<frozen runpy>"):
            trace = trace.tb_next
        sys.excepthook(type(error), error.with_traceback(trace), trace)
        return 130 if isinstance(error, KeyboardInterrupt) else 1, False
    return 0, True


def main():
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    sys.path.insert(0, here)
    import memtrace

    sys.path.remove(here)
    count, arguments = int(sys.argv[1]), sys.argv[2:]
    module = arguments[0] == "-m"
    path = os.getcwd() if module else os.path.dirname(os.path.realpath(arguments[0]))
    sys.path[0] = path
    status = 0
    for i in range(count):
        gc.collect()
        memtrace.iteration("run {}".format(i + 1))
        one, go_on = run_once(arguments)
        sys.stdout.flush()
        sys.stderr.flush()
        status = one or status
        if not go_on:
            break
    gc.collect()
    memtrace.iteration("exit")
    sys.exit(status)


if __name__ == "__main__":
    main()
