"""What a program may take, so that a limit means the same on every machine and for every problem.

    fair = Fairness()
    fair.limited(job, toolchain)                    # the job with the CPU limit that holds on this machine
    fair.longer(job, reference, toolchain, run)     # seconds, if the problem's own solution shows that the limit was unfair

A timeout that somebody gave by hand is taken as it is.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace

from rrk.sandbox.judge import calibration
from rrk.sandbox.languages.toolchain import Toolchain
from rrk.sandbox.verdict import Job, Verdict
from rrk.sandbox.workers.process import PYTHON

FACTOR = 4.0  # times the CPU time of the problem's own solution
MOST_CPU_S = 60.0  # what that solution may take itself
_KEPT = 4096  # solutions whose time is remembered


class Fairness:
    """Remembers how long the problems' own solutions take. Threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seconds: OrderedDict[str, float | None] = OrderedDict()

    def limited(self, job: Job, toolchain: Toolchain) -> Job:
        """The job with its language's own CPU limit as this machine needs it; a faster one gets no less."""
        if job.timeout is None and calibration.factor() > 1.05:
            return replace(job, timeout=own_timeout(toolchain) * calibration.factor())
        return job

    def longer(
        self, job: Job, reference: str, toolchain: Toolchain, run: Callable[[Job], Verdict | None]
    ) -> float | None:
        """CPU seconds that a job which timed out should have had, or None if it had them.

        `run` judges the problem's own solution, once a problem; None from it says that it could not be judged now.
        """
        had = self.limited(job, toolchain).timeout or own_timeout(toolchain)
        seconds = self._time(replace(job, completion=reference, full=False, timeout=MOST_CPU_S), run)
        if seconds is None or seconds * FACTOR <= had:
            return None
        return seconds * FACTOR

    def _time(self, job: Job, run: Callable[[Job], Verdict | None]) -> float | None:
        key = job.key()
        with self._lock:
            if key in self._seconds:
                return self._seconds[key]
        answer = run(job)
        if answer is None:
            return None
        seconds = (answer.longest or answer.time) if answer.passed else None
        with self._lock:
            self._seconds[key] = seconds
            if len(self._seconds) > _KEPT:
                self._seconds.popitem(last=False)
        return seconds


def own_timeout(toolchain: Toolchain) -> float:
    """The language's own limit on CPU seconds."""
    return max((mode.run.limits.cpu_s for mode in toolchain.modes), default=PYTHON.cpu_s)
