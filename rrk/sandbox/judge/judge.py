"""The judge: jobs in, verdicts out, in order, whatever the workers below do.

    with Judge(jobs=4) as judge:
        for verdict in judge.judge(jobs):                  # an iterable of Job; reads ahead a bounded window
            ...
        for verdict in judge.evidence(pairs, each_s=1.0):  # of (Job without tests, generated tests): Verdict.evidence
            ...

Where the iterable has `ready()` (rrk.items.Items), nothing finished is held back while a slow producer thinks. What happens
to a job on its way:

* the same job in flight, among the last ones, or in the cache on disk is not run again;
* languages that compile in batches take along what else of their language waits; nothing waits for a batch to fill;
* SandboxError is tried again on fresh workers, three times, then kept (`passed` None: never a label);
* a limit that was hit while the machine was too busy to be fair counts only if it is hit again with nothing else running;
* a Timeout counts only if the problem's own solution (Job.reference) would have had four times its time;
* with repeat=k a program runs k times; where the runs disagree `passed` is None and the reason is "flaky".
"""

from __future__ import annotations

import hashlib
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rrk.errors import RrkError
from rrk.sandbox.judge import assert_counts, case_judge, sides, suites
from rrk.sandbox.judge.cache import Cache, rules
from rrk.sandbox.judge.entry import Entry, agreed, broken, key_of
from rrk.sandbox.judge.fairness import Fairness
from rrk.sandbox.judge.sides import Sides
from rrk.sandbox.languages import batches, recipes
from rrk.sandbox.languages.toolchain import Toolchain
from rrk.sandbox.verdict import (
    MEMORY_LIMIT,
    NO_TOOLCHAIN,
    OURS,
    SANDBOX_ERROR,
    TIMEOUT,
    Job,
    Verdict,
    verdict,
)
from rrk.sandbox.workers.pool import Pool, Slot
from rrk.sandbox.workers.provision import LOST, Provisioner

TRIES = 4  # the first and three more
RECENT = 4096  # verdicts kept in memory for jobs that come again
_CHUNK = 64  # jobs read before workers hear of them
_POLL = 0.02  # seconds between looks at a slow input


class Judge:
    """Judges jobs on `jobs` cores. A context manager: leaving it ends every worker.

    level: "auto" (the jail; RrkError with the remedy where it does not work) or "none" (rlimits only, by explicit wish).
    timeout (CPU seconds) and memory_mb stand in for what a Job leaves open; an explicit timeout is taken as it is, the
    languages' own are multiplied by calibration.factor(). cache: a folder. sandboxes: folders of LANG.toml files. packages:
    folders of Python packages that Python programs and tests may import.
    all_tests: go on after a test has failed, so that Verdict.pass_share is known. outcomes: and keep what came of each case, as
    Verdict.evidence.
    worker: called as Worker(level=, mounts=, packages=) where another than rrk.sandbox.workers.worker.Worker is wanted (tests).
    `figures` counts what was spared and what was run again; `notes` are lines that a user should see.
    """

    def __init__(
        self,
        jobs: int = 1,
        level: str = "auto",
        *,
        repeat: int = 1,
        cache: str | Path | None = None,
        sandboxes: Sequence[str | Path] = (),
        packages: Sequence[str] = (),
        timeout: float | None = None,
        memory_mb: int | None = None,
        window: int | None = None,
        all_tests: bool = False,
        outcomes: bool = False,
        worker: Callable[..., Any] | None = None,
    ) -> None:
        if jobs < 1 or repeat < 1:
            raise ValueError("jobs and repeat must be 1 or more")
        self.figures: Counter[str] = Counter()
        self._provisioner = Provisioner(level, sandboxes, packages, worker)
        self.notes = self._provisioner.notes
        self._level, self._repeat = level, repeat
        self._packages, self._all_tests, self._outcomes = tuple(packages), all_tests or outcomes, outcomes
        self._timeout, self._memory = timeout, memory_mb
        # Far enough that an endless loop at the head of the line leaves the other workers something to do.
        self._window = window or max(1024, 256 * jobs)
        self._cache = Cache(cache) if cache is not None else None
        self._pool = Pool(jobs, self._run)
        self._lock = self._pool.lock
        self._entries: dict[str, Entry] = {}  # in flight, by key
        self._recent: OrderedDict[str, Verdict] = OrderedDict()
        self._unsaved: deque[Entry] = deque()
        self._each_s = 1.0
        self._fair = Fairness()
        self._sides = Sides(self.figures)

    def __enter__(self) -> Judge:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all workers at once, and write the cache."""
        try:
            self._pool.close()
        finally:
            if self._cache is not None:
                self._save()
                self._cache.close()
                self._cache = None

    def judge(self, jobs: Iterable[Job]) -> Iterator[Verdict]:
        """A verdict for each job, in order. RrkError if no worker can be had."""
        return self._stream(jobs, lambda job: (job, None))

    def evidence(self, pairs: Iterable[tuple[Job, Sequence[str] | None]], each_s: float = 1.0) -> Iterator[Verdict]:
        """For each (job, generated tests) a verdict whose `evidence` says which of them the program passed.

        The jobs' own tests are dropped before anything runs. each_s: CPU seconds a test. (job, None): a plain verdict on it.
        """
        self._each_s = each_s
        return self._stream(
            pairs, lambda pair: pair if pair[1] is None else (replace(pair[0], tests=""), tuple(pair[1]))
        )

    # The stream (the caller's thread).

    def _stream(
        self, items: Iterable[Any], split: Callable[[Any], tuple[Job, tuple[str, ...] | None]]
    ) -> Iterator[Verdict]:
        source = iter(items)
        ready: Callable[[], bool] = getattr(items, "ready", lambda: True)
        line: deque[Entry] = deque()
        ended = False
        while True:
            fresh: list[Entry] = []
            while not ended and len(line) < self._window and len(fresh) < _CHUNK and (ready() or not line):
                try:
                    item = next(source)
                except StopIteration:
                    ended = True
                    break
                entry, new = self._admit(*split(item))
                line.append(entry)
                if new:
                    fresh.append(entry)
            if fresh:
                self._pool.submit(fresh)
            if not line:
                if ended:
                    return
                continue
            more = not ended and len(line) < self._window
            if line[0].verdict is None:
                if more and ready():
                    continue
                self._save()
                with self._lock:
                    if line[0].verdict is None and self._pool.failure is None:
                        self._pool.changed.wait(_POLL if more else None)
                    if line[0].verdict is None and self._pool.failure is not None:
                        raise self._pool.failure
                continue
            while line and (done := line[0].verdict) is not None:
                line.popleft()
                yield done
                if not ended and len(line) < self._window // 2:
                    break

    def _admit(self, job: Job, tests: tuple[str, ...] | None) -> tuple[Entry, bool]:
        """The entry for a job, and whether it has to be run."""
        reference = job.reference
        job = replace(
            job,
            reference=None,  # no worker ever sees it
            timeout=self._timeout if job.timeout is None else job.timeout,
            memory_mb=self._memory if job.memory_mb is None else job.memory_mb,
        )
        if tests is None and job.language == "py" and not job.case_set:
            job = replace(job, tests=suites.look(job.tests, job.entry_point).text)
        key = key_of(job, tests)
        with self._lock:
            entry = self._entries.get(key)
            known = self._recent.get(key)
        if entry is None and known is not None:
            entry = Entry(job, tests, None, key)
            entry.verdict = known
        if entry is not None:
            self.figures["same"] += 1
            return entry, False
        entry = Entry(job, tests, reference, key)
        if self._cache is not None and (kept := self._cache.get(self._cache_key(entry))) is not None:
            self.figures["cached"] += 1
            entry.verdict = kept
            return entry, False
        with self._lock:
            self._entries[key] = entry
        return entry, True

    def _cache_key(self, entry: Entry) -> str:
        toolchain = self._provisioner.toolchain(entry.job.language)
        digest = toolchain.digest if isinstance(toolchain, Toolchain) else ""
        parts = [rules(), entry.key, digest, self._level, self._repeat, entry.reference]
        if self._packages:
            parts.append(self._packages)
        if entry.tests is not None:
            parts.append(self._each_s)
        if self._all_tests:
            parts.append("all tests")
        if self._outcomes:
            parts.append("outcomes")
        return hashlib.blake2b(repr(parts).encode("utf-8", "surrogatepass"), digest_size=20).hexdigest()

    # The work (threads of the pool).

    def _run(self, slot: Slot, entry: Entry) -> None:
        job = entry.job
        toolchain = self._provisioner.toolchain(job.language)
        if isinstance(toolchain, RrkError):
            return self._settle(slot, entry, verdict(NO_TOOLCHAIN, stderr=str(toolchain), reason="language"))
        if lacking := toolchain.lacks(job.given):
            return self._settle(slot, entry, verdict(NO_TOOLCHAIN, stderr=lacking, reason="toolchain"))
        if job.case_set is not None:
            return self._settle(slot, entry, self._cases(slot, self._limited(entry, toolchain), toolchain))
        if toolchain.judge != "python":
            if entry.tests is not None:
                text = "evidence is gathered for Python only"
                return self._settle(slot, entry, verdict(NO_TOOLCHAIN, stderr=text, reason="language"))
            self._provisioner.prepare(slot, toolchain)
            together = [entry]
            if toolchain.batch is not None and not entry.alone and not entry.tries and not entry.timeout:
                together += self._pool.alike(
                    lambda e: e.job.language == job.language and not (e.tries or e.timeout or e.job.case_set),
                    toolchain.batch.most - 1,
                )
            return self._recipe(slot, toolchain, together)
        self._provisioner.worker(slot)
        try:
            limited = replace(self._limited(entry, toolchain), count=self._all_tests)
            if entry.tests is not None:
                answer = slot.worker.evidence(limited, entry.tests, self._each_s)
            else:
                answer = self._sides.judge(slot.worker, limited, entry.suite, entry.reference)
                if self._all_tests:
                    answer = self._counted(slot, entry, limited, answer)
        except LOST as error:
            answer = broken(error)
        self._settle(slot, entry, answer)

    def _counted(self, slot: Slot, entry: Entry, job: Job, answer: Verdict) -> Verdict:
        """With the share of asserts that held. Not yet where the job is to run again, with more time or alone."""
        if answer.status in (TIMEOUT, MEMORY_LIMIT) and answer.overloaded and not entry.alone:
            return answer
        mode = self._sides.mode(job, entry.suite)
        return assert_counts.counted(answer, job, lambda again: slot.worker.python(again, mode, entry.suite.patched))

    def _cases(self, slot: Slot, job: Job, toolchain: Toolchain) -> Verdict:
        if toolchain.judge == "python":
            self._provisioner.worker(slot)
        else:
            self._provisioner.prepare(slot, toolchain)
        try:
            return case_judge.judge(slot.worker, toolchain, job, self._all_tests, self._outcomes)
        except LOST as error:
            return broken(error)

    def _recipe(self, slot: Slot, toolchain: Toolchain, entries: list[Entry]) -> None:
        try:
            if len(entries) > 1:
                jobs = [self._limited(entry, toolchain) for entry in entries]
                answers = batches.judge_batch(toolchain, jobs, slot.worker.box)
            else:
                with slot.worker.box() as box:
                    answers = [recipes.judge(toolchain, self._limited(entries[0], toolchain), box)]
        except (*LOST, RrkError) as error:
            answers = [broken(error) for _ in entries]
        for entry, answer in zip(entries, answers, strict=True):
            if self._all_tests:
                answer = assert_counts.counted(answer, entry.job)
            self._settle(slot, entry, answer)

    def _settle(self, slot: Slot, entry: Entry, answer: Verdict) -> None:
        """Take a verdict as final, or send the job on its way again."""
        worker = slot.worker
        if entry.vain is not None:
            answer = sides.vain(answer, entry.vain)
        if worker is not None and answer.status != NO_TOOLCHAIN and not answer.sandbox:
            answer.sandbox = worker.layers
        failed = answer.status == SANDBOX_ERROR and answer.reason != "tests"
        if worker is not None and (failed or worker.dead):
            slot.drop()
        if failed and entry.tries + 1 < TRIES:
            entry.tries += 1
            self._again(entry, "retried")
            return
        if answer.status in (TIMEOUT, MEMORY_LIMIT) and answer.overloaded and not entry.alone:
            with self._lock:
                entry.alone = True
                self.figures["alone"] += 1
                self._pool.alone(entry)
            return
        if answer.status == TIMEOUT and answer.reason != "wall" and self._deserves_more(slot, entry):
            self._again(entry, "longer")
            return
        entry.runs.append(answer)
        if len(entry.runs) < self._repeat and answer.status not in OURS:
            entry.tries = 0
            self._again(entry)
            return
        final = agreed(entry.runs)
        with self._lock:
            entry.verdict = final
            self._entries.pop(entry.key, None)
            if final.passed is not None or (final.evidence is not None and final.status not in OURS):
                self._keep(entry, final)
            self._pool.changed.notify_all()

    def _again(self, entry: Entry, figure: str | None = None) -> None:
        with self._lock:
            if figure:
                self.figures[figure] += 1
            if entry.alone:
                self._pool.alone(entry)
            else:
                self._pool.submit([entry], first=True)

    def _keep(self, entry: Entry, final: Verdict) -> None:
        self._recent[entry.key] = final
        # Evidence is some kB a verdict.
        if len(self._recent) > (RECENT if entry.tests is None else RECENT // 16):
            self._recent.popitem(last=False)
        if self._cache is not None:
            self._unsaved.append(entry)

    def _save(self) -> None:
        """Hand new verdicts to the cache; in the caller's thread, for SQLite wants one."""
        while self._cache is not None and self._unsaved:
            entry = self._unsaved.popleft()
            if entry.verdict is not None:
                self._cache.put(self._cache_key(entry), entry.verdict)

    # Limits.

    def _limited(self, entry: Entry, toolchain: Toolchain) -> Job:
        if entry.timeout is not None:
            return replace(entry.job, timeout=entry.timeout)
        return self._fair.limited(entry.job, toolchain)

    def _deserves_more(self, slot: Slot, entry: Entry) -> bool:
        """True, and entry.timeout set, if the problem's own solution needs so long that the limit was unfair."""
        if entry.reference is None or entry.tests is not None or entry.timeout or entry.job.timeout:
            return False
        toolchain = self._provisioner.toolchain(entry.job.language)
        if not isinstance(toolchain, Toolchain):
            return False

        def run(job: Job) -> Verdict | None:
            try:
                if job.case_set is not None:
                    return self._cases(slot, job, toolchain)
                if toolchain.judge == "python":
                    self._provisioner.worker(slot)
                    return slot.worker.python(job)
                self._provisioner.worker(slot, toolchain)
                with slot.worker.box() as box:
                    return recipes.judge(toolchain, job, box)
            except (*LOST, RrkError):
                slot.drop()
                return None

        entry.timeout = self._fair.longer(entry.job, entry.reference, toolchain, run)
        return entry.timeout is not None
