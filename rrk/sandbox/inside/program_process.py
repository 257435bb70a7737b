"""A process that has compiled a program, and forks a child a case: nothing of one run is left for the next.

    serve(talk, text, prelude, path, entry)     # in a child of process 1 that is already as unprivileged as a candidate

It runs no statement of the program itself, only (before the first case) the problem's own prelude. A child may harm it: they
are the same user. Then it answers no more, and process 1 runs the case by itself (rrk/sandbox/jail/case_runs.py).
"""

from __future__ import annotations

import array
import gc
import os
import resource
import signal
import socket
import struct
from collections.abc import Iterable
from typing import NoReturn

from rrk.sandbox.inside.whole_program import Compiled

RESULT_FD = 3
READY = b"r"
ANSWER = struct.Struct(
    "<idq?"
)  # the child's wait status, its CPU seconds, the largest size of all so far in bytes, whether others were left


def serve(talk: int, program: str, prelude: str, path: str, entry: str | None) -> NoReturn:
    """Tell READY; then for each message with four descriptors (input, output, errors, result) run a case and ANSWER."""
    compiled = Compiled(program, prelude, path)
    os.chdir("/")  # a box that is emptied must not be held
    work = os.path.dirname(path)
    gc.collect()
    gc.freeze()
    spent = 0.0  # of all children so far
    room = socket.CMSG_SPACE(4 * 4)
    with socket.socket(fileno=talk) as line:
        line.send(READY)
        while True:
            word, rights, _, _ = line.recvmsg(1, room)
            if not word:
                os._exit(0)
            fds = array.array("i", rights[0][2])
            pid = os.fork()
            if pid == 0:
                _case(compiled, entry, work, fds)
            for fd in fds:
                os.close(fd)
            _, status = os.waitpid(pid, 0)
            used = resource.getrusage(resource.RUSAGE_CHILDREN)
            before, spent = spent, used.ru_utime + used.ru_stime
            try:
                os.kill(-1, signal.SIGKILL)  # all but process 1 and ourselves, at once
                left = True
            except ProcessLookupError:
                left = False
            line.send(ANSWER.pack(status, spent - before, used.ru_maxrss << 10, left))


def _case(compiled: Compiled, entry: str | None, work: str, fds: Iterable[int]) -> NoReturn:
    try:
        os.setpgid(0, 0)  # no new session, which would cost as much as half of what follows: there is no terminal
        os.chdir(work)
        for number, fd in enumerate(fds):  # the last one in the place of our own line
            os.dup2(fd, number)
        os.closerange(RESULT_FD + 1, 1 << 16)
        args = b"" if entry is None else os.pread(0, os.fstat(0).st_size, 0)
        compiled.run(entry, RESULT_FD, args)
    finally:
        os._exit(127)
