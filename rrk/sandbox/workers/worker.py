"""A worker: jailed processes in which one candidate at a time runs. The supervisor's side.

    with Worker() as worker:
        worker.layers                              # "namespaces+pivot_root+seccomp+cgroup"
        with worker.box() as box:                  # any language, by its recipe
            verdict = recipes.judge(toolchain, job, box)
        verdict = worker.python(job)               # Python: program and tests in processes of their own

A worker is used by one thread at a time; several workers run in parallel. All waiting is in poll and recv, which release the
GIL. If a worker's process dies, the job in hand gets SandboxError and `dead` is set: replace the worker.

Both kinds of process are jailed alike: the *fork server*, where candidates run, and (for Python, started when first needed) the
*tests' process*, which no candidate shares and which is told the tests; the fork server never is.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from rrk.errors import RrkError
from rrk.sandbox.inside import wire
from rrk.sandbox.jail.box import Limits
from rrk.sandbox.verdict import (
    OK,
    SANDBOX_ERROR,
    Job,
    Verdict,
    verdict,
)
from rrk.sandbox.verdict_rules import classified, loaded, said_of_tests
from rrk.sandbox.workers.process import FAREWELL, PYTHON, Dialog, JailedBox, Process, poll_for

LEVELS = ("auto", "none")
_PATIENCE = 10.0  # seconds that the tests' process may go on after its candidate has ended


class Worker:
    """See the module's text. `mounts`: folders shown read-only beside the system's. Raises RrkError if no jail is possible.

    level "auto" takes namespaces and nothing less; "none" is rlimits only, for programs that are trusted. memory_mb is the
    default of Python candidates. cgroups=False does without a control group even where one could be made. packages: folders
    that Python programs and tests may import from, read-only.
    """

    def __init__(
        self,
        level: str = "auto",
        mounts: Sequence[str] = (),
        memory_mb: int = PYTHON.memory_mb,
        cgroups: bool = True,
        packages: Sequence[str] = (),
    ):
        if level not in LEVELS:
            raise RrkError(f"no sandbox level {level!r}; there are {', '.join(LEVELS)}")
        self.level, self.mounts, self.memory_mb = level, [*mounts, *packages], memory_mb
        self._packages = list(packages)
        self._cgroups = cgroups
        self._server = self._start("server")
        self._tests: Process | None = None
        self._checks: Process | None = None
        self.layers: str = self._server.layers

    def _start(self, role: str) -> Process:
        return Process(role, self.level, self.mounts, self._cgroups, self._packages)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def dead(self) -> bool:
        """Whether the worker can no longer be used."""
        return self._server.gone

    @property
    def pid(self) -> int:
        """The fork server's topmost process: below it is all that candidates start (the judge looks whether they sleep)."""
        return self._server.process.pid

    @property
    def server(self) -> Process:
        """Where candidates run."""
        return self._server

    @property
    def checks(self) -> Process:
        """A jail like the fork server's where problems' own checkers run, and no candidate ever does."""
        if self._checks is None or self._checks.gone:
            self._checks = self._start("checks")
        return self._checks

    def close(self) -> None:
        """End the worker's processes and wait for them."""
        for process in (self._server, self._tests, self._checks):
            if process:
                process.end()

    kill = close  # nothing in a worker is worth waiting for

    # Any language

    @contextmanager
    def box(self) -> Iterator[JailedBox]:
        """A fresh private folder and the means to run commands in it."""
        box = JailedBox(self._server)
        try:
            yield box
        finally:
            box.closed = True
            self._server.tell({"op": "end"})

    # Python

    def python(self, job: Job, mode: str = "split", patched: Sequence[str] = ()) -> Verdict:
        """The verdict on a Python job.

        mode "split": tests in another process, if plain data will do; "in_process": faster, and weaker; "whole": likewise,
        for tests that cannot be had apart (the results of the function under test are looked at first). `patched`: builtins
        that the tests replace themselves.
        """
        limits = self._limits(job)
        try:
            if mode in ("in_process", "whole"):
                return self._in_process(job, limits, strict=mode == "whole", patched=patched)
            return self._split(job, limits, patched)
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
        crashes = lates = 0
        try:
            while True:
                begun = len(passed)
                dialog = Dialog(self._server, limits)
                first = dialog.ask(_letter(job), _text(job.program))
                if first and first[0] == b"l" and begun < len(tests):
                    wanted = {"tests": list(tests[begun:]), "each_s": each_s, "lates": lates, "entry": job.entry_point}
                    answer = dialog.ask(b"V", json.dumps(wanted).encode())
                    while answer and answer[0] == b"v" and len(passed) < len(tests):
                        passed.append("1" if answer[1][:1] == b"1" else "0")
                        lates += answer[1][:1] == b"2"
                        digest = answer[1][1:13]
                        outputs.append(digest.decode("ascii", "replace") if len(digest) == 12 else None)
                        answer = dialog.hear()
                seen = dialog.end()
                spent += seen.get("cpu", 0.0)
                out = classified(seen, loaded(first), None, self.layers)
                if out.passed is None:
                    return out
                if first is None or first[0] != b"l" or len(passed) >= len(tests):
                    break
                # The assert in hand took the process with it: it has failed, and the rest gets a new one.
                passed.append("0")
                outputs.append(None)
                crashes += len(passed) - begun == 1
                lates += bool(seen.get("timed_out"))
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
        self._server.gone = True
        return verdict(SANDBOX_ERROR, stderr="the worker's process ended", reason="worker", sandbox=self.layers)

    def _split(self, job: Job, limits: Limits, patched: Sequence[str]) -> Verdict:
        if self._tests is None or self._tests.gone:
            self._tests = self._start("tests")
        tests = self._tests
        seq, talk = self._server.begin(limits)
        parts = [_text(job.program), _text(job.prompt), _text(job.tests)]
        with talk:
            header = {
                "program": len(parts[0]),
                "prompt": len(parts[1]),
                "entry": job.entry_point,
                "main": job.main,
                "count": job.count,
            }
            try:
                tests.send(header, b"".join(parts), [talk.fileno()])
            except wire.Gone:
                pass  # told below
        found: dict[str, Any] | None = None
        seen: dict[str, Any] | None = None
        until = None
        while found is None or seen is None:
            waiting = {self._server.sock.fileno(): "server"} if seen is None else {}
            if found is None:
                waiting[tests.sock.fileno()] = "tests"
            ready = poll_for(waiting, None if until is None else until - time.monotonic())
            if not ready and seen is None:
                self._server.send({"op": "stop", "seq": seq})  # it has closed its socket, and lives
                until = None
                continue
            if not ready:
                # The candidate is dead, and its tests still compute: with what it gave them.
                tests.kill()
                found = {"end": "endless"}
                continue
            for who in ready:
                if who == "server":
                    seen = self._server.receive_outcome()
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
                        until = time.monotonic() + FAREWELL  # how it ended is what counts
                    elif seen is None:
                        self._server.send({"op": "stop", "seq": seq})
        if found["end"] == "fallback" and not (seen["timed_out"] or seen["memory"] or seen["flooded"]):
            return self._in_process(job, limits, strict=True, patched=patched)
        if found.get("went_on") and not seen.get("error"):
            # The first failure would have ended the tests: what became of the program after it is no verdict.
            seen = {**seen, "timed_out": None, "memory": False, "flooded": False, "overloaded": False, "stopped": True}
        out = classified(seen, found, "split", self.layers)
        if held := found.get("held"):
            out.tests_passed, out.tests_total = held.count("1"), len(held)
        return out

    def _in_process(self, job: Job, limits: Limits, strict: bool, patched: Sequence[str]) -> Verdict:
        secret = secrets.token_hex(16)
        dialog = Dialog(self._server, limits)
        answer = dialog.ask(_letter(job), _text(job.program))
        found = loaded(answer)
        if found["end"] == "ok":
            wanted: dict[str, Any] = {"tests": job.tests, "secret": secret, "entry": job.entry_point}
            wanted |= {"strict": strict, "patched": list(patched)}
            answer = dialog.ask(b"T", json.dumps(wanted).encode())
            if answer is not None and answer[0] == b"y":
                # Tests that parse only behind the program.
                dialog.end()
                dialog = Dialog(self._server, limits)
                whole = job.program + "\n" + job.tests
                found = loaded(dialog.ask(b"M" if "__main__" in job.tests else _letter(job), _text(whole)))
                answer = (
                    dialog.ask(b"T", json.dumps({**wanted, "tests": "pass"}).encode()) if found["end"] == "ok" else None
                )
            if found["end"] == "ok":
                found = said_of_tests(answer, secret)
        return classified(dialog.end(), found, "in_process", self.layers)


def _letter(job: Job) -> bytes:
    """How the candidate's process is to run the program: as the main one, or as a module."""
    return b"M" if job.main else b"P"


def _text(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
