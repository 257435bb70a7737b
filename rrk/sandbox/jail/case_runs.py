"""Process 1 running one program on many inputs: a child a case, each outcome told as soon as it is there.

serve(server, header, blob)     # for the request {"op": "cases", ...} of rrk/sandbox/judge/case_judge.py

The program is a command in the box that is open (compiled before), or Python text. Each case has a child of its own, so nothing
of one run is left for the next but files of a compiled program's box. What a case expects is not told here.

Python's children are forked by a process that has compiled the program and run the problem's prelude (a program process, half
the price); where it is not to be had, or was harmed, by this one. Whoever forks, the watch, the limits and the files are the same.
"""

from __future__ import annotations

import os
import resource
import select
import signal
import socket
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any, NoReturn

from rrk.sandbox.inside import program_process, whole_program, wire
from rrk.sandbox.inside.program_process import READY, RESULT_FD
from rrk.sandbox.jail import kernel
from rrk.sandbox.jail.box import Limits
from rrk.sandbox.jail.fork_server import ForkServer, said
from rrk.sandbox.jail.watch import sweep

PATIENCE = 2.0  # seconds that compiling and a prelude may take in a program process; else every case has them to itself
LATE = 3  # cases that may run out of time before the others get a tenth of it
KEPT_STDERR = 4096
MOST_KEPT = 1 << 18  # bytes of outputs that wait to be told


def serve(server: ForkServer, header: dict[str, Any], blob: bytes) -> None:
    """Run the cases in order until all have run or the supervisor has seen enough; what was seen of them is told in parcels."""
    view = memoryview(blob)
    at = header["program"]
    program = bytes(view[:at])
    limits = Limits(**header["limits"])
    waiting = select.poll()
    waiting.register(server.control, select.POLLIN)
    late = header["late"]
    parcel = Parcel(server.control)
    server.meanwhile = parcel.send
    forker = Forker(server, header, limits, program) if server.jailed and len(header["cases"]) > 1 else None
    try:
        for size, cpu_s, output_kb in header["cases"]:
            if waiting.poll(0) and _stopped(server, header["seq"]):
                break
            cpu_s = cpu_s if late < LATE else cpu_s / 10
            own = _limits(limits, cpu_s, output_kb)
            seen, streams = _one(server, header, own, program, view[at : at + size], forker)
            at += size
            late += bool(seen["timed_out"])
            parcel.add(seen, streams)
            if seen["stopped"]:
                break
    finally:
        server.meanwhile = lambda: None
    if forker is not None:
        forker.end()
        server.core.rest()
    parcel.send(end=True)


class Parcel:
    """What has been seen of cases and not been told. The supervisor is woken for 1, 2, 4 ... of them: it may have seen enough."""

    def __init__(self, control: socket.socket) -> None:
        self.control = control
        self.seen: list[dict[str, Any]] = []
        self.blob: list[bytes] = []
        self.told = self.size = 0

    def add(self, seen: dict[str, Any], streams: Sequence[bytes]) -> None:
        del seen["output"]
        self.seen.append({**seen, "sizes": [len(stream) for stream in streams]})
        self.blob += streams
        self.size += sum(self.seen[-1]["sizes"])
        if len(self.seen) > self.told or self.size > MOST_KEPT:
            self.send()

    def send(self, end: bool = False) -> None:
        if self.seen or end:
            wire.send(self.control, {"cases": self.seen, "end": end}, b"".join(self.blob))
            self.told += len(self.seen)
            self.seen, self.blob, self.size = [], [], 0


@cache
def _limits(limits: Limits, cpu_s: float, output_kb: int) -> Limits:
    return replace(limits, cpu_s=cpu_s, wall_s=cpu_s * limits.wall_s / limits.cpu_s, output_kb=output_kb)


def _stopped(server: ForkServer, seq: int) -> bool:
    header, _, _ = wire.receive(server.control)
    return bool(header["op"] == "stop" and header["seq"] == seq)


def _one(
    server: ForkServer,
    header: dict[str, Any],
    limits: Limits,
    program: bytes,
    stdin: memoryview,
    forker: Forker | None = None,
) -> tuple[dict[str, Any], list[bytes]]:
    """One case: what was seen of it; its standard output, the head of its standard error, and what the child said of itself."""
    if header["argv"] is None:
        server.open(limits.files_mb)
    out, err, inp, result = (server.output() for _ in range(4))
    try:
        rest = stdin
        while rest:
            rest = rest[os.write(inp, rest) :]
        os.lseek(inp, 0, os.SEEK_SET)
        if forker is not None and forker.takes(limits):
            seen = forker.case(limits, (inp, out, err, result), header["seq"])
            if seen is None:
                return _one(server, header, limits, program, stdin)
            return seen, _streams(limits, out, err, result)
        pid = server.fork()
        if pid == 0:
            try:
                server.child(limits, inp, out, err)
                server.core.free(0)
                for number in (signal.SIGPIPE, signal.SIGXFSZ):
                    signal.signal(number, signal.SIG_DFL)
                if header["argv"] is None:
                    _python(header, limits, program, result)
                else:
                    _command(server, header, result)
            finally:
                os._exit(127)
        seen = server.watch(pid, limits, (out, err), header["seq"])
        return seen, _streams(limits, out, err, result)
    finally:
        for fd in (out, err, inp, result):
            os.close(fd)


def _streams(limits: Limits, out: int, err: int, result: int) -> list[bytes]:
    most = limits.output_kb << 10
    return [_read(out, most), os.pread(err, KEPT_STDERR, 0), _read(result, most)]


def _read(fd: int, most: int) -> bytes:
    return os.pread(fd, min(os.fstat(fd).st_size, most), 0)  # a buffer of megabytes costs more than a short program


class Forker:
    """Process 1's end of a program process. It is started for the first case that it takes, and again where it was killed."""

    def __init__(self, server: ForkServer, header: dict[str, Any], limits: Limits, program: bytes) -> None:
        self.server, self.header, self.program = server, header, program
        self.limits = replace(limits, nproc=limits.nproc + 1)  # it counts, too
        self.fit = header["argv"] is None
        self.pid = 0
        self.line: socket.socket | None = None
        server.core.settle()  # they talk in turns

    def takes(self, limits: Limits) -> bool:
        """Whether its own limits, which its children have, are this case's, or more than it needs."""
        fits = limits.cpu_s <= self.limits.cpu_s and limits.output_kb << 10 <= self.limits.files_mb << 20
        return self.fit and fits and (self.line is not None or self._start())

    def _start(self) -> bool:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.pid = self.server.fork()
            if self.pid == 0:
                self._become(theirs)
        self.line = ours
        poll = select.poll()
        poll.register(ours, select.POLLIN)
        poll.poll(PATIENCE * 1000)
        self.fit = said(ours) == READY
        if not self.fit:
            self.end()
            self.server.killed()  # while compiling, or by the prelude: nothing that the first case has done
        return self.fit

    def _become(self, line: socket.socket) -> NoReturn:
        try:
            null = os.open("/dev/null", os.O_RDWR)
            self.server.child(self.limits, self.server.output(), null, null)
            _as_interpreter(self.limits)
            os.dup2(line.fileno(), 3)
            os.closerange(4, 1 << 16)
            text, path = self.program.decode("utf-8", "surrogatepass"), kernel.WORK + "/main.py"
            program_process.serve(3, text, self.header["prelude"], path, self.header["entry"])
        finally:
            os._exit(127)

    def case(self, limits: Limits, files: Sequence[int], seq: int) -> dict[str, Any] | None:
        """Run a case on (input, output, errors, result); None if the process was harmed: then it is not asked again."""
        assert self.line is not None
        try:
            socket.send_fds(self.line, [b"c"], files)
        except OSError:
            seen: dict[str, Any] = {"gone": True, "lost": True}
        else:
            seen = self.server.watch(self.pid, limits, (files[1], files[2]), seq, self.line)
        if seen.pop("gone"):
            self.end()
        self.fit = not seen.pop("lost")
        return seen if self.fit else None

    def end(self) -> None:
        """Kill it, and all that may be left of its children."""
        if self.line is not None:
            self.line.close()
            self.line = None
            sweep(self.server.jailed)


def _as_interpreter(limits: Limits) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    kernel.limit([(resource.RLIMIT_DATA, limits.memory_mb << 20)])


def _python(header: dict[str, Any], limits: Limits, program: bytes, result: int) -> None:
    _as_interpreter(limits)
    os.dup2(result, RESULT_FD)
    os.closerange(RESULT_FD + 1, 1 << 16)
    text = program.decode("utf-8", "surrogatepass")
    path = kernel.WORK + "/main.py"
    if header["entry"] is None:
        whole_program.whole(text, header["prelude"], path, RESULT_FD)
    args = os.pread(0, os.fstat(0).st_size, 0)
    whole_program.called(text, header["prelude"], path, header["entry"], RESULT_FD, args)


def _command(server: ForkServer, header: dict[str, Any], result: int) -> None:
    try:
        os.set_inheritable(result, False)
        kernel.close_all_but([result])
        os.execvpe(header["argv"][0], header["argv"], server.environment(header["env"]))
    except BaseException as error:
        os.write(result, b"!" + f"{header['argv'][0]}: {error}".encode()[:4000])
