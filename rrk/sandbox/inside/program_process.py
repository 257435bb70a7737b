"""A process that has compiled a program, and forks a child a case: nothing of one run is left for the next.

    serve(talk, text, prelude, path, entry)     # in a child of process 1 that is already as unprivileged as a candidate

It runs no statement of the program itself, only (before the first case) the problem's own prelude. A child may harm it: they
are the same user. Then it answers no more, and process 1 runs the case by itself (rrk/sandbox/jail/case_runs.py).
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import struct
from typing import NoReturn

from rrk.sandbox.inside.whole_program import Compiled

RESULT_FD = 3
READY = b"r"
ANSWER = struct.Struct(
    "<idq?"
)  # the child's wait status, its CPU seconds, its largest size in bytes, whether others were left


def serve(talk: int, program: str, prelude: str, path: str, entry: str | None) -> NoReturn:
    """Tell READY; then for each message with four descriptors (input, output, errors, result) run a case and ANSWER."""
    compiled = Compiled(program, prelude, path)
    os.chdir("/")  # a box that is emptied must not be held
    work = os.path.dirname(path)
    gc.collect()
    gc.freeze()
    with socket.socket(fileno=talk) as line:
        line.send(READY)
        while True:
            word, fds, _, _ = socket.recv_fds(line, 1, 4)
            if not word:
                os._exit(0)
            pid = os.fork()
            if pid == 0:
                _case(compiled, entry, work, fds)
            for fd in fds:
                os.close(fd)
            _, status, used = os.wait4(pid, 0)
            try:
                os.kill(-1, signal.SIGKILL)  # all but process 1 and ourselves, at once
                left = True
            except ProcessLookupError:
                left = False
            line.send(ANSWER.pack(status, used.ru_utime + used.ru_stime, used.ru_maxrss << 10, left))


def _case(compiled: Compiled, entry: str | None, work: str, fds: list[int]) -> NoReturn:
    try:
        os.setsid()
        os.chdir(work)
        for number, fd in enumerate(fds):  # the last one in the place of our own line
            os.dup2(fd, number)
        os.closerange(RESULT_FD + 1, 1 << 16)
        args = b"" if entry is None else os.pread(0, os.fstat(0).st_size, 0)
        compiled.run(entry, RESULT_FD, args)
    finally:
        os._exit(127)
