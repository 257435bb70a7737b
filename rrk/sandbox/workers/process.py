"""The supervisor's ends of a worker: its processes, a box in them, and the talk with a candidate.

Process starts an interpreter afresh, with an environment of its own, and speaks to what rrk/sandbox/jail/main.py does there.
All waiting is in poll and recv, which release the GIL.
"""

from __future__ import annotations

import itertools
import os
import select
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rrk.errors import RrkError
from rrk.sandbox.inside import wire
from rrk.sandbox.jail.box import Limits, Outcome, RunSpec

FRAME = struct.Struct("<I")
PYTHON = Limits(cpu_s=3.0, wall_s=14.0, memory_mb=1024, files_mb=64, nproc=64, output_kb=4096)
FAREWELL = 0.5  # seconds between a candidate's closed socket and its end
_numbers = itertools.count()
_starting = threading.Lock()


class Process:
    """One jailed process tree of a worker: its keeper and process 1, seen through a socket."""

    def __init__(self, role: str, level: str, mounts: Sequence[str], cgroups: bool, packages: Sequence[str] = ()):
        ours, theirs = socket.socketpair()
        root = str(Path(__file__).resolve().parents[3])
        python = os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)
        self.gone = False
        self.seq = 0
        self.sock = ours
        # The descriptor has to be 3, and a pass_fds copy keeps its number: another thread may be starting a worker too.
        with _starting, theirs:
            self.process = subprocess.Popen(
                [python, "-s", "-S", "-P", "-c", _ON_3, str(theirs.fileno()), root],
                env=_environment(),
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        config = {
            "role": role,
            "root": root,
            "level": level,
            "mounts": list(mounts),
            "packages": list(packages),
            "parent": os.getpid(),
            "group": f"{os.getpid()}-{next(_numbers)}" if role != "tests" and cgroups else "",
        }
        try:
            wire.send(self.sock, config)
            self.sock.settimeout(30)
            answer, _, _ = wire.receive(self.sock)
            self.sock.settimeout(None)
        except wire.Gone as error:
            answer = {"error": f"the worker's process ended at once ({error})"}
        if "ready" not in answer:
            self.end()
            raise RrkError(
                f"no jail can be made here: {answer.get('error')}; `rrk doctor` tells what is missing, and --sandbox none "
                "runs without one (only for programs that you trust)"
            )
        self.layers: str = answer["ready"]

    def send(self, header: dict[str, Any], blob: bytes = b"", fds: Sequence[int] = ()) -> None:
        if self.gone:
            raise wire.Gone("dead")
        wire.send(self.sock, header, blob, fds)

    def begin(self, limits: Limits) -> tuple[int, socket.socket]:
        """Start a Python candidate; its number, and our end of the socket that it talks over."""
        self.seq += 1
        ours, theirs = socket.socketpair()
        with theirs:
            header = {"op": "python", "seq": self.seq, "limits": vars(limits)}
            try:
                self.send(header, fds=[theirs.fileno()])
            except BaseException:
                ours.close()
                raise
        return self.seq, ours

    def tell(self, header: dict[str, Any], blob: bytes = b"") -> None:
        """Send what has no answer; that the worker is gone shows at the next run."""
        try:
            self.send(header, blob)
        except wire.Gone:
            self.gone = True

    def receive_outcome(self) -> dict[str, Any]:
        seen, blob, _ = wire.receive(self.sock)
        at = 0
        for one in (seen, *seen.get("cases", ())):  # of a request for cases, several are told at once
            one["streams"] = streams = []
            for size in one.get("sizes", ()):
                streams.append(blob[at : at + size])
                at += size
        return seen

    def kill(self) -> None:
        self.gone = True
        self.end()

    def end(self) -> None:
        self.gone = True
        self.sock.close()  # process 1 reads the end of the stream, or is in the middle of something:
        if self.process.returncode is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


_ON_3 = (
    "import os,sys;os.dup2(int(sys.argv[1]),3) if sys.argv[1]!='3' else 0;os.closerange(4,256);"
    "sys.path.insert(0,sys.argv[2]);from rrk.sandbox.jail.main import main;main()"
)


# numpy's libraries start a thread a core of the host's otherwise, each with memory that counts.
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def _environment() -> dict[str, str]:
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "PYTHONHASHSEED": "0",
        "HOME": "/w",
        **ONE_THREAD,
    }


class JailedBox:
    """rrk.sandbox.jail.box.Box in a worker's fork server."""

    def __init__(self, server: Process):
        self.server = server
        self.closed = False
        server.tell({"op": "box", "size": 64})

    def write(self, name: str, data: bytes) -> None:
        """Put a file into the box; a failure is told by the next run()."""
        self.server.tell({"op": "write", "name": name}, data)

    def run(self, spec: RunSpec) -> Outcome:
        """Run one command; everything that it started is dead when this returns."""
        if self.closed:
            raise ValueError("this box is closed")
        header = {
            "op": "run",
            "argv": list(spec.argv),
            "env": dict(spec.env),
            "limits": asdict(spec.limits),
            "proof": spec.proof,
        }
        try:
            self.server.send(header, spec.stdin)
            seen = self.server.receive_outcome()
        except wire.Gone:
            self.server.gone = True
            return Outcome(error="the worker's process ended")
        if "error" in seen:
            return Outcome(error=str(seen["error"]))
        out = Outcome(
            cpu=seen["cpu"],
            wall=seen["wall"],
            max_rss=seen["max_rss"],
            timed_out=None if seen["memory"] else seen["timed_out"],
            out_of_memory=seen["memory"],
            output_limit=seen["flooded"],
            overloaded=seen["overloaded"],
        )
        out.stdout, out.stderr, out.proof = seen["streams"]
        code = os.waitstatus_to_exitcode(seen["status"])
        if code < 0:
            out.signal = -code
        else:
            out.exit_code = code
        return out


class Dialog:
    """The supervisor's own talk with a candidate whose tests run in its own process. It may say anything: bytes only."""

    MOST = 1 << 16

    def __init__(self, server: Process, limits: Limits):
        self.server = server
        self.seq, self.talk = server.begin(limits)
        self.seen: dict[str, Any] | None = None
        self.closed = False

    def ask(self, letter: bytes, text: bytes) -> tuple[bytes, bytes] | None:
        try:
            self.talk.settimeout(None)
            data = memoryview(FRAME.pack(len(text) + 1) + letter + text)
            while data:
                poll = select.poll()
                poll.register(self.talk, select.POLLOUT)
                if self.seen is None:
                    poll.register(self.server.sock, select.POLLIN)
                if any(fd == self.server.sock.fileno() for fd, _ in poll.poll()):
                    self.seen = self.server.receive_outcome()
                    continue
                data = data[self.talk.send(data, socket.MSG_DONTWAIT) :]
        except OSError:
            self.closed = True
            return None
        return self.hear()

    def hear(self) -> tuple[bytes, bytes] | None:
        """The next frame, or None when the candidate is dead (or has said more than it may)."""
        head = self._exactly(4)
        if head is None:
            return None
        size = FRAME.unpack(head)[0]
        if not 0 < size <= self.MOST:
            return b"?", b""
        data = self._exactly(size)
        return None if data is None else (data[:1], data[1:])

    def _exactly(self, size: int) -> bytes | None:
        data = b""
        while len(data) < size:
            waiting = {self.talk.fileno(): "talk"}
            if self.seen is None:
                waiting[self.server.sock.fileno()] = "server"
            for who in poll_for(waiting):
                if who == "server":
                    self.seen = self.server.receive_outcome()
                    continue
                try:
                    part = self.talk.recv(size - len(data))
                except OSError:
                    part = b""
                if not part:
                    self.closed = True
                    return None
                data += part
        return data

    def end(self) -> dict[str, Any]:
        if self.seen is None:
            if not (self.closed and poll_for({self.server.sock.fileno(): "server"}, FAREWELL)):
                self.server.send({"op": "stop", "seq": self.seq})
            self.seen = self.server.receive_outcome()
        self.talk.close()
        return self.seen


def poll_for(waiting: dict[int, str], seconds: float | None = None) -> list[str]:
    poll = select.poll()
    for fd in waiting:
        poll.register(fd, select.POLLIN)
    return [waiting[fd] for fd, _ in poll.poll(None if seconds is None else max(0, seconds * 1000))]
