"""On which side of the border a problem's Python tests run, and verdicts that are the tests' fault, not the program's.

    sides = Sides(figures)
    verdict = sides.judge(worker, job, suite, reference)

Tests run apart ("split") unless reading them says otherwise (rrk/sandbox/judge/suites.py). Reading cannot see everything: the first
time that a problem's program fails apart, and none of its programs has passed so, the problem's own solution is run. If that
fails apart and passes in one process, the problem is judged whole from then on. A pass that was found apart stays one.
"""

from __future__ import annotations

import re
import threading
from collections import Counter, OrderedDict
from dataclasses import replace
from typing import Any

from rrk.sandbox.judge.suites import SKIPPED, Suite
from rrk.sandbox.verdict import (
    COMPILE_ERROR,
    NO_TOOLCHAIN,
    SANDBOX_ERROR,
    SYNTAX_ERROR,
    Job,
    Verdict,
    verdict,
)

KEPT = 4096  # problems whose side is remembered


class Sides:
    """Shared by the workers' threads. `figures`: where verdicts by side are counted."""

    def __init__(self, figures: Counter[str]) -> None:
        self.figures = figures
        self._known: OrderedDict[tuple[str, str | None], str] = OrderedDict()  # "apart": trusted; "whole"
        self._modules: dict[str, bool] = {}
        self._lock = threading.Lock()

    def judge(self, worker: Any, job: Job, suite: Suite, reference: str | None) -> Verdict:
        """The verdict on one job whose `tests` are suite.text; `reference` continues the prompt."""
        key = (job.tests, job.entry_point)
        mode = self.mode(job, suite)
        whole = mode == "whole"
        answer: Verdict = worker.python(job, mode, suite.patched)
        if not whole:
            if answer.integrity == "split":
                self._set(key, "apart")
            elif answer.passed is False and answer.reason in ("assertion", "exception", "exit", "early_exit"):
                if self._get(key) is None and reference is not None:
                    self._try(worker, job, suite, reference, key)
                if self._get(key) == "whole":
                    answer = worker.python(job, "whole", suite.patched)
        if answer.passed is False and (lacking := self._lacking(worker, suite, answer)):
            text = (
                f"the tests import {lacking}, which is not there; show it with --packages DIR (a site-packages folder)"
            )
            return verdict(SANDBOX_ERROR, stderr=text, reason="tests", sandbox=answer.sandbox)
        if answer.passed is False and SKIPPED in answer.stderr:
            bare = worker.python(replace(job, prompt="", completion="", full=True), "whole")
            if SKIPPED in bare.stderr:  # whatever the program is
                return verdict(SANDBOX_ERROR, stderr=f"not judged: {SKIPPED}", reason="tests", sandbox=answer.sandbox)
        if answer.passed is not None:
            with self._lock:
                self.figures[
                    "tests in the program's process" if whole or answer.integrity == "in_process" else "tests apart"
                ] += 1
        return answer

    def mode(self, job: Job, suite: Suite) -> str:
        """Where the tests of this problem run, as far as is known: "split" or "whole"."""
        return "whole" if suite.whole is not None or self._get((job.tests, job.entry_point)) == "whole" else "split"

    def _get(self, key: tuple[str, str | None]) -> str | None:
        with self._lock:
            return self._known.get(key)

    def _set(self, key: tuple[str, str | None], side: str) -> None:
        with self._lock:
            self._known.setdefault(key, side)
            while len(self._known) > KEPT:
                self._known.popitem(last=False)

    def _try(self, worker: Any, job: Job, suite: Suite, reference: str, key: tuple[str, str | None]) -> None:
        """Run the problem's own solution on both sides."""
        own = replace(job, completion=reference, full=False)
        if worker.python(own, "split").passed is False and worker.python(own, "whole", suite.patched).passed:
            self._set(key, "whole")
        else:
            self._set(key, "apart")

    def _lacking(self, worker: Any, suite: Suite, answer: Verdict) -> str | None:
        """The module that only the tests lack, tried without any program: one may pretend that a module is missing."""
        found = re.search(r"ModuleNotFoundError: No module named '([\w.]+)'", answer.stderr)
        name = found[1].partition(".")[0] if found else None
        if name is None or name not in suite.imports:
            return None
        if name not in self._modules:
            tried: Verdict = worker.python(Job("py", "", "", f"import {name}\n"), "in_process")
            self._modules[name] = tried.passed is not False
        return None if self._modules[name] else name


def vain(answer: Verdict, why: str) -> Verdict:
    """The verdict where the tests would test nothing: ours, unless the program is none."""
    if answer.status in (SYNTAX_ERROR, COMPILE_ERROR, NO_TOOLCHAIN, SANDBOX_ERROR):
        return answer
    text = f"not judged: {why}"
    return verdict(SANDBOX_ERROR, stderr=text, reason="tests", sandbox=answer.sandbox, time=answer.time)
