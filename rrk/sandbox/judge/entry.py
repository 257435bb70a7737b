"""One distinct job on its way to a verdict, what it is known by, and what several runs of it say together."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import replace

from rrk.sandbox.judge import suites, suites_text
from rrk.sandbox.verdict import OURS, SANDBOX_ERROR, Job, Verdict, verdict


class Entry:
    """One distinct job on its way to a verdict."""

    __slots__ = ("alone", "job", "key", "reference", "runs", "suite", "tests", "timeout", "tries", "vain", "verdict")

    def __init__(self, job: Job, tests: tuple[str, ...] | None, reference: str | None, key: str) -> None:
        self.job, self.tests, self.reference, self.key = job, tests, reference, key
        # With generated tests there are none to read.
        self.suite = (
            suites.look(job.tests, job.entry_point)
            if job.language == "py" and tests is None and not job.case_set
            else suites.Suite("")
        )
        self.vain = self.suite.vain
        if tests is None and job.language != "py" and not job.case_set:
            self.vain = suites_text.vain(job.language, job.tests)
        self.tries = 0
        self.alone = False
        self.runs: list[Verdict] = []
        self.timeout: float | None = None  # CPU seconds instead of the language's
        self.verdict: Verdict | None = None


def key_of(job: Job, tests: tuple[str, ...] | None) -> str:
    """Equal for what must get the same answer."""
    key = job.key()
    if tests is None:
        return key
    digest = hashlib.blake2b(digest_size=16)
    for test in tests:
        data = test.encode("utf-8", "surrogatepass")
        digest.update(b"%d:" % len(data) + data)
    return f"{key}e{digest.hexdigest()}"


def broken(error: Exception) -> Verdict:
    return verdict(SANDBOX_ERROR, stderr=f"the worker ended: {error or type(error).__name__}", reason="worker")


def agreed(runs: list[Verdict]) -> Verdict:
    """One verdict out of several runs; `passed` None where they disagree."""
    if len(runs) == 1 or runs[-1].status in OURS:
        return runs[-1]
    status, _ = Counter(run.status for run in runs).most_common(1)[0]
    typical = next(run for run in runs if run.status == status)
    if len({run.passed for run in runs}) > 1:
        return replace(typical, passed=None, reason="flaky")
    return typical
