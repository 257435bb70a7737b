"""A lane: jailed processes in which one candidate at a time runs. The supervisor's side.

    with Lane() as lane:
        lane.layers                              # "namespaces+pivot_root+seccomp+cgroup"
        with lane.box() as box:                  # any language, by its recipe
            verdict = recipes.judge(toolchain, job, box)
        verdict = lane.python(job)               # Python: program and tests in processes of their own

A lane is used by one thread at a time; several lanes run in parallel. All waiting is in poll and recv, which release the
GIL. If a lane's process dies, the job in hand gets SandboxError and `dead` is set: replace the lane.

Both kinds of process are jailed alike: the *cell*, where candidates run, and (for Python, started when first needed) the
*tests' process*, which no candidate shares and which is told the tests; the cell never is.
"""

from __future__ import annotations

import itertools
import json
import os
import secrets
import select
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rrk.errors import RrkError
from rrk.sandbox import wire
from rrk.sandbox.box import Limits, Outcome, RunSpec
from rrk.sandbox.probe import Layer, probe
from rrk.sandbox.verdict import (
    EXCEPTION,
    MEMORY_LIMIT,
    OK,
    OUTPUT_LIMIT,
    SANDBOX_ERROR,
    SYNTAX_ERROR,
    TAMPERED,
    TIMEOUT,
    Job,
    Verdict,
    clip,
    verdict,
)

__all__ = ["Lane", "Layer", "probe"]

PYTHON = Limits(cpu_s=3.0, wall_s=14.0, memory_mb=1024, files_mb=64, nproc=64, output_kb=4096)
LEVELS = ("auto", "none")
_FRAME = struct.Struct("<I")
_PATIENCE = 10.0  # seconds that the tests' process may go on after its candidate has ended
_FAREWELL = 0.5  # seconds between a candidate's closed socket and its end
_numbers = itertools.count()
_starting = threading.Lock()


class Lane:
    """See the module's text. `mounts`: folders shown read-only beside the system's. Raises RrkError if no jail is possible.

    level "auto" takes namespaces and nothing less; "none" is rlimits only, for programs that are trusted. memory_mb is the
    default of Python candidates. cgroups=False does without a control group even where one could be made.
    """

    def __init__(
        self, level: str = "auto", mounts: Sequence[str] = (), memory_mb: int = PYTHON.memory_mb, cgroups: bool = True
    ):
        if level not in LEVELS:
            raise RrkError(f"no sandbox level {level!r}; there are {', '.join(LEVELS)}")
        self.level, self.mounts, self.memory_mb = level, list(mounts), memory_mb
        self._cgroups = cgroups
        self._cell = _Process(self, "cell")
        self._tests: _Process | None = None
        self.layers: str = self._cell.layers
        self._seq = 0

    def __enter__(self) -> Lane:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def dead(self) -> bool:
        """Whether the lane can no longer be used."""
        return self._cell.gone

    def close(self) -> None:
        """End the lane's processes and wait for them."""
        self._cell.end()
        if self._tests:
            self._tests.end()

    kill = close  # nothing in a lane is worth waiting for

    # Any language

    @contextmanager
    def box(self) -> Iterator[JailedBox]:
        """A fresh private folder and the means to run commands in it."""
        box = JailedBox(self._cell)
        try:
            yield box
        finally:
            box.closed = True
            self._cell.tell({"op": "end"})

    # Python

    def python(self, job: Job, mode: str = "split") -> Verdict:
        """The verdict on a Python job. mode "split": tests in another process; "in_process": faster, and weaker."""
        limits = self._limits(job)
        try:
            if mode == "in_process":
                return self._in_process(job, limits)
            return self._split(job, limits)
        except wire.Gone:
            return self._lost()

    def python_many(self, jobs: Sequence[Job], mode: str = "split") -> list[Verdict]:
        """The verdicts on several jobs, in order."""
        return [self.python(job, mode) for job in jobs]

    def evidence(self, job: Job, tests: Sequence[str], each_s: float = 0.5) -> Verdict:
        """Outcomes of asserts that a model wrote: Verdict.evidence has `passed` ("01...") and `outputs` (digests or None).

        The asserts run in the candidate's process, each with a limit of its own; job.tests is not even sent. The status is
        that of the program alone: OK if it could be loaded.
        """
        limits = self._limits(job)
        limits = Limits(**{**asdict(limits), "cpu_s": limits.cpu_s + each_s, "wall_s": limits.wall_s + 4 * each_s})
        passed: list[str] = []
        outputs: list[str | None] = []
        spent = 0.0
        crashes = 0
        try:
            while True:
                begun = len(passed)
                dialog = _Dialog(self, limits)
                first = dialog.ask(b"P", _text(job.program))
                if first and first[0] == b"l" and begun < len(tests):
                    wanted = {"tests": list(tests[begun:]), "each_s": each_s, "entry": job.entry_point}
                    answer = dialog.ask(b"V", json.dumps(wanted).encode())
                    while answer and answer[0] == b"v" and len(passed) < len(tests):
                        passed.append("1" if answer[1][:1] == b"1" else "0")
                        digest = answer[1][1:13]
                        outputs.append(digest.decode("ascii", "replace") if len(digest) == 12 else None)
                        answer = dialog.hear()
                seen = dialog.end()
                spent += seen.get("cpu", 0.0)
                out = self._classified(seen, _loaded(first), None)
                if out.passed is None:
                    return out
                if first is None or first[0] != b"l" or len(passed) >= len(tests):
                    break
                # The assert in hand took the process with it: it has failed, and the rest gets a new one.
                passed.append("0")
                outputs.append(None)
                crashes += len(passed) - begun == 1
                if crashes >= 3:
                    break
        except wire.Gone:
            return self._lost()
        rest = len(tests) - len(passed)
        out.evidence = {"passed": "".join(passed) + "0" * rest, "outputs": outputs + [None] * rest}
        if passed:
            out.status, out.passed, out.reason = OK, True, None
        out.time = spent
        return out

    def _limits(self, job: Job) -> Limits:
        cpu = job.timeout or PYTHON.cpu_s
        memory = job.memory_mb or self.memory_mb
        return Limits(**{**asdict(PYTHON), "cpu_s": cpu, "wall_s": 4 * cpu + 2, "memory_mb": memory})

    def _lost(self) -> Verdict:
        self._cell.gone = True
        return verdict(SANDBOX_ERROR, stderr="the lane's process ended", reason="lane", sandbox=self.layers)

    def _begin(self, limits: Limits) -> tuple[int, socket.socket]:
        self._seq += 1
        ours, theirs = socket.socketpair()
        with theirs:
            header = {"op": "python", "seq": self._seq, "limits": asdict(limits)}
            try:
                self._cell.send(header, fds=[theirs.fileno()])
            except BaseException:
                ours.close()
                raise
        return self._seq, ours

    def _split(self, job: Job, limits: Limits) -> Verdict:
        if self._tests is None or self._tests.gone:
            self._tests = _Process(self, "tests")
        tests = self._tests
        seq, talk = self._begin(limits)
        parts = [_text(job.program), _text(job.prompt), _text(job.tests)]
        with talk:
            header = {"program": len(parts[0]), "prompt": len(parts[1]), "entry": job.entry_point}
            try:
                tests.send(header, b"".join(parts), [talk.fileno()])
            except wire.Gone:
                pass  # told below
        found: dict[str, Any] | None = None
        seen: dict[str, Any] | None = None
        until = None
        while found is None or seen is None:
            waiting = {self._cell.sock.fileno(): "cell"} if seen is None else {}
            if found is None:
                waiting[tests.sock.fileno()] = "tests"
            ready = _poll(waiting, None if until is None else until - time.monotonic())
            if not ready and seen is None:
                self._cell.send({"op": "stop", "seq": seq})  # it has closed its socket, and lives
                until = None
                continue
            if not ready:
                # The candidate is dead, and its tests still compute: with what it gave them.
                tests.kill()
                found = {"end": "endless"}
                continue
            for who in ready:
                if who == "cell":
                    seen = self._cell.receive_outcome()
                    until = time.monotonic() + _PATIENCE
                else:
                    try:
                        found, _, _ = wire.receive(tests.sock)
                        if "end" not in found:
                            raise wire.Gone(str(found.get("error")))
                    except wire.Gone as error:
                        tests.kill()
                        found = {"end": "error", "text": f"the tests' process ended: {error}"}
                    if seen is None and found["end"] == "gone":
                        until = time.monotonic() + _FAREWELL  # how it ended is what counts
                    elif seen is None:
                        self._cell.send({"op": "stop", "seq": seq})
        if found["end"] == "fallback" and not (seen["timed_out"] or seen["memory"] or seen["flooded"]):
            return self._in_process(job, limits, strict=True)
        return self._classified(seen, found, "split")

    def _in_process(self, job: Job, limits: Limits, strict: bool = False) -> Verdict:
        secret = secrets.token_hex(16)
        dialog = _Dialog(self, limits)
        answer = dialog.ask(b"P", _text(job.program))
        found = _loaded(answer)
        if found["end"] == "ok":
            wanted = {"tests": job.tests, "secret": secret, "entry": job.entry_point, "strict": strict}
            answer = dialog.ask(b"T", json.dumps(wanted).encode())
            if answer is not None and answer[0] == b"y":
                # Tests that parse only behind the program.
                dialog.end()
                dialog = _Dialog(self, limits)
                whole = job.program + "\n" + job.tests
                found = _loaded(dialog.ask(b"P", _text(whole)))
                answer = (
                    dialog.ask(b"T", json.dumps({**wanted, "tests": "pass"}).encode()) if found["end"] == "ok" else None
                )
            if found["end"] == "ok":
                found = _said(answer, secret)
        return self._classified(dialog.end(), found, "in_process")

    def _classified(self, seen: dict[str, Any], found: dict[str, Any], integrity: str | None) -> Verdict:
        """The verdict that follows from what was seen of the process and what the tests found. The order is fixed."""
        if "error" in seen:
            return verdict(SANDBOX_ERROR, stderr=seen["error"], reason="lane", sandbox=self.layers)
        status = seen["status"]
        code = None
        if status is not None and not seen["stopped"]:
            code = os.waitstatus_to_exitcode(status)
        end, text = found["end"], str(found.get("text") or "")
        name, reason = EXCEPTION, None
        if seen["memory"]:
            name, reason = MEMORY_LIMIT, "memory"
        elif seen["timed_out"]:
            name, reason = TIMEOUT, seen["timed_out"]
        elif seen["flooded"]:
            name, reason = OUTPUT_LIMIT, "output"
        elif end == "ok":
            name, code = OK, 0
        elif end == "tampered":
            name, reason = TAMPERED, text if text in ("forged", "equality") else "control"
        elif end == "syntax":
            name, reason, code = SYNTAX_ERROR, "syntax", 1
        elif end == "endless":
            name, reason = TIMEOUT, "tests"
        elif end == "error":
            name, reason = SANDBOX_ERROR, "tests"
        elif end in ("exit", "load", "fail") and (end == "exit" or found.get("type") == "SystemExit"):
            left = found.get("code")
            if left:
                name, reason, code = EXCEPTION, "exit", left if isinstance(left, int) else 1
            else:
                name, reason, code = TAMPERED, "early_exit", 0
        elif end in ("load", "fail"):
            code = 1
            if found.get("type") == "MemoryError":
                name, reason = MEMORY_LIMIT, "memory"
            else:
                reason = "assertion" if found.get("type") == "AssertionError" else "exception"
        elif status is None or seen["stopped"]:
            name, reason = TAMPERED, "forged"  # it closed the socket that its tests talk to it by, and lives
        elif code == 0:
            name, reason = TAMPERED, "early_exit"
        elif code is not None and code < 0:
            reason = f"signal_{-code}"
        else:
            reason = "exit"
        stdout, stderr = _ends(seen)
        if text and end != "tampered":
            stderr = (stderr + "\n" if stderr and not stderr.endswith("\n") else stderr) + text + "\n"
        elif text:
            stderr = stderr or text
        return verdict(
            name,
            exit_code=code,
            stdout=stdout,
            stderr=clip(stderr.encode("utf-8", "replace")),
            time=seen["cpu"],
            time_wall=seen["wall"],
            max_rss=seen["max_rss"],
            sandbox=self.layers,
            reason=reason,
            integrity=integrity if name == OK else None,
            overloaded=bool(seen["overloaded"]),
        )


def _text(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _poll(waiting: dict[int, str], seconds: float | None = None) -> list[str]:
    poll = select.poll()
    for fd in waiting:
        poll.register(fd, select.POLLIN)
    return [waiting[fd] for fd, _ in poll.poll(None if seconds is None else max(0, seconds * 1000))]


def _loaded(answer: tuple[bytes, bytes] | None) -> dict[str, Any]:
    """What a program's first answer means."""
    if answer is None:
        return {"end": "gone"}
    letter, text = answer
    if letter == b"l":
        return {"end": "ok"}
    if letter == b"s":
        return {"end": "syntax", "text": text[:2000].decode("utf-8", "replace")}
    return {"end": "load", **_exception(text)} if letter == b"x" else {"end": "tampered", "text": "forged"}


def _exception(text: bytes) -> dict[str, Any]:
    try:
        told = json.loads(text)
        return {"type": str(told["type"])[:80], "code": told.get("code")}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {"type": "Exception", "code": None}


def _said(answer: tuple[bytes, bytes] | None, secret: str) -> dict[str, Any]:
    """What the answer to tests that ran in the candidate's process means."""
    if answer is None:
        return {"end": "gone"}
    letter, text = answer
    if letter == b"d":
        said, _, live = text.decode("utf-8", "replace").partition(" ")
        if said != secret:
            return {"end": "tampered", "text": "forged"}
        return {"end": "tampered", "text": f"control: {live[:80]}"} if live else {"end": "ok"}
    if letter == b"t":
        return {"end": "tampered", "text": "equality"}
    if letter == b"e":
        return {"end": "fail", **_exception(text)}
    if letter == b"y":
        return {"end": "fail", "type": "SyntaxError", "text": "the tests: " + text[:500].decode("utf-8", "replace")}
    return {"end": "tampered", "text": "forged"}


def _ends(seen: dict[str, Any]) -> tuple[str, str]:
    texts = []
    for data, size in zip(seen["streams"], seen["output"], strict=True):
        if size > 2048:
            tail = data[1024:].lstrip(b"\0")
            data = data[:1024] + b"\n... %d bytes left out ...\n" % (size - 2048) + tail
        texts.append(data.decode("utf-8", "replace"))
    return texts[0], texts[1]


class _Dialog:
    """The supervisor's own talk with a candidate whose tests run in its own process. It may say anything: bytes only."""

    MOST = 1 << 16

    def __init__(self, lane: Lane, limits: Limits):
        self.cell = lane._cell
        self.seq, self.talk = lane._begin(limits)
        self.seen: dict[str, Any] | None = None
        self.closed = False

    def ask(self, letter: bytes, text: bytes) -> tuple[bytes, bytes] | None:
        try:
            self.talk.settimeout(None)
            data = memoryview(_FRAME.pack(len(text) + 1) + letter + text)
            while data:
                poll = select.poll()
                poll.register(self.talk, select.POLLOUT)
                if self.seen is None:
                    poll.register(self.cell.sock, select.POLLIN)
                if any(fd == self.cell.sock.fileno() for fd, _ in poll.poll()):
                    self.seen = self.cell.receive_outcome()
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
        size = _FRAME.unpack(head)[0]
        if not 0 < size <= self.MOST:
            return b"?", b""
        data = self._exactly(size)
        return None if data is None else (data[:1], data[1:])

    def _exactly(self, size: int) -> bytes | None:
        data = b""
        while len(data) < size:
            waiting = {self.talk.fileno(): "talk"}
            if self.seen is None:
                waiting[self.cell.sock.fileno()] = "cell"
            for who in _poll(waiting):
                if who == "cell":
                    self.seen = self.cell.receive_outcome()
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
            if not (self.closed and _poll({self.cell.sock.fileno(): "cell"}, _FAREWELL)):
                self.cell.send({"op": "stop", "seq": self.seq})
            self.seen = self.cell.receive_outcome()
        self.talk.close()
        return self.seen


class JailedBox:
    """rrk.sandbox.box.Box in a lane's cell."""

    def __init__(self, cell: _Process):
        self.cell = cell
        self.closed = False
        cell.tell({"op": "box", "size": 64})

    def write(self, name: str, data: bytes) -> None:
        """Put a file into the box; a failure is told by the next run()."""
        self.cell.tell({"op": "write", "name": name}, data)

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
            self.cell.send(header, spec.stdin)
            seen = self.cell.receive_outcome()
        except wire.Gone:
            self.cell.gone = True
            return Outcome(error="the lane's process ended")
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


class _Process:
    """One jailed process tree of a lane: its keeper and process 1, seen through a socket."""

    def __init__(self, lane: Lane, role: str):
        ours, theirs = socket.socketpair()
        root = str(Path(__file__).resolve().parents[2])
        python = os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)
        self.gone = False
        self.sock = ours
        # The descriptor has to be 3, and a pass_fds copy keeps its number: another thread may be starting a lane too.
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
            "level": lane.level,
            "mounts": lane.mounts,
            "parent": os.getpid(),
            "group": f"{os.getpid()}-{next(_numbers)}" if role == "cell" and lane._cgroups else "",
        }
        try:
            wire.send(self.sock, config)
            self.sock.settimeout(30)
            answer, _, _ = wire.receive(self.sock)
            self.sock.settimeout(None)
        except wire.Gone as error:
            answer = {"error": f"the lane's process ended at once ({error})"}
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

    def tell(self, header: dict[str, Any], blob: bytes = b"") -> None:
        """Send what has no answer; that the lane is gone shows at the next run."""
        try:
            self.send(header, blob)
        except wire.Gone:
            self.gone = True

    def receive_outcome(self) -> dict[str, Any]:
        seen, blob, _ = wire.receive(self.sock)
        streams = []
        for size in seen.get("sizes", ()):
            streams.append(blob[:size])
            blob = blob[size:]
        seen["streams"] = streams
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
    "sys.path.insert(0,sys.argv[2]);from rrk.sandbox.lane_main import main;main()"
)


def _environment() -> dict[str, str]:
    return {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "PYTHONHASHSEED": "0", "HOME": "/w"}
