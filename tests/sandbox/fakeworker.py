"""A worker without a jail, for tests of the judge alone: verdicts are written in the program.

Job("py", "", "sleep 0.2; OK", "")    # directives, the last one the status; see `_obey`
"""

from __future__ import annotations

import itertools
import subprocess
import threading
import time

from rrk.errors import RrkError
from rrk.sandbox.verdict import Job, Verdict, verdict
from rrk.sandbox.workers.process import PYTHON
from tests.languages.plainbox import PlainBox


class Ended(OSError):
    pass


class FakeWorker:
    """Counts what it did in class attributes of a fresh subclass: use `fresh()`."""

    made: list[FakeWorker]
    ran: list[str]
    busy: int
    most_busy: int
    lock: threading.Lock
    may_start: int
    numbers: itertools.count

    def __init__(self, level: str = "auto", mounts: tuple[str, ...] = (), **more: object) -> None:
        with self.lock:
            if len(self.made) >= self.may_start:
                raise RrkError("no further worker here; do this")
            self.made.append(self)
        self.level, self.mounts = level, mounts
        self.layers = f"fake {level}"
        self.dead = False
        self.killed = threading.Event()
        self.pid: int | None = None
        self.alone_seen = True

    @classmethod
    def fresh(cls, may_start: int = 1000) -> type[FakeWorker]:
        return type(
            "Fresh",
            (cls,),
            {
                "made": [],
                "ran": [],
                "busy": 0,
                "most_busy": 0,
                "lock": threading.Lock(),
                "may_start": may_start,
                "numbers": itertools.count(),
            },
        )

    def box(self) -> PlainBox:
        return PlainBox()

    def python(self, job: Job, mode: str = "split", patched: tuple[str, ...] = ()) -> Verdict:
        kind = type(self)
        with self.lock:
            kind.busy += 1
            kind.most_busy = max(kind.most_busy, kind.busy)
            self.ran.append(job.completion)
        try:
            return self._obey(job)
        finally:
            with self.lock:
                kind.busy -= 1

    def evidence(self, job: Job, tests: tuple[str, ...], each_s: float) -> Verdict:
        answer = self.python(job)
        answer.evidence = {"passed": "".join("01"["1" in test] for test in tests), "outputs": [job.tests] * len(tests)}
        return answer

    def _obey(self, job: Job) -> Verdict:
        began = time.monotonic()
        status, more = "OK", {}
        for word in job.completion.split("; "):
            verb, _, argument = word.strip().partition(" ")
            if verb == "sleep":
                if self.killed.wait(float(argument)):
                    raise Ended("killed")
            elif verb == "child":  # a program that sleeps (as a process, so that its CPU time can be seen) or burns
                code = f"import time; time.sleep({argument})"
                if argument.startswith("burn"):
                    code = f"import time\nend = time.time() + {argument[4:]}\nwhile time.time() < end: pass"
                import sys

                child = subprocess.Popen([sys.executable, "-c", code])
                self.pid = child.pid
                child.wait()
            elif verb == "die":
                self.dead = True
                raise EOFError
            elif verb == "die-first":
                if self.ran.count(job.completion) <= int(argument):
                    self.dead = True
                    raise EOFError
            elif verb == "broken":
                return verdict("SandboxError", reason="box", stderr="no room")
            elif verb == "bug":
                raise AssertionError("a bug of ours")
            elif verb == "overloaded":
                with self.lock:
                    alone = self.busy == 1 and self.ran.count(job.completion) > 1
                if argument == "always":
                    return verdict("Timeout", reason="cpu", overloaded=True)
                if not alone:
                    return verdict("Timeout", reason="cpu", overloaded=True)
            elif verb == "alternate":
                status = ("OK", "Exception")[self.ran.count(job.completion) % 2]
            elif verb == "needs":
                if (job.timeout or PYTHON.cpu_s) < float(argument):
                    return verdict("Timeout", reason="cpu", time=job.timeout or PYTHON.cpu_s)
                more["time"] = float(argument)
            elif verb == "limit":
                return verdict("OK", stdout=f"{job.timeout} {job.memory_mb} {job.reference}")
            elif verb:
                status = verb
        return verdict(status, time_wall=time.monotonic() - began, **more)

    def close(self) -> None:
        self.dead = True
        self.killed.set()

    def __enter__(self) -> FakeWorker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
