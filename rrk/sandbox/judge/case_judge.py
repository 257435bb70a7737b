"""The verdict on a program that is judged by its cases: run on each input in the jail, compared with what is expected here.

    verdict = judge(worker, toolchain, job, every=False)     # job.case_set holds the cases

A program is compiled once. Expected outputs never leave this process, so no program can print one because it read it, and
leaving early after printing the right output is a pass: there is nothing else to prove. Any other end than status 0 is a
failure, whatever was printed, as for TACO's runner and for online judges (LiveCodeBench and APPS forgive sys.exit(n)).
A checker is the problem's own code: it runs in a jail of its own, which no candidate ever enters.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from typing import Any, Protocol

from rrk.cases import CHECK, Case, CaseSet
from rrk.sandbox.inside import wire
from rrk.sandbox.jail.box import Limits
from rrk.sandbox.languages import recipes
from rrk.sandbox.languages.toolchain import Toolchain
from rrk.sandbox.verdict import (
    EXCEPTION,
    MEMORY_LIMIT,
    NO_TOOLCHAIN,
    OK,
    SANDBOX_ERROR,
    SYNTAX_ERROR,
    Job,
    Verdict,
    clip,
    verdict,
)
from rrk.sandbox.verdict_rules import limit_hit
from rrk.sandbox.workers.process import PYTHON, JailedBox, Process

CHUNK, CHUNK_BYTES = 256, 8 << 20  # cases, and bytes of their inputs, in one request
CUT = 300  # characters of the failing case that a row keeps, of each of its three texts
CHECKING = Limits(cpu_s=10.0, wall_s=42.0, memory_mb=1024, output_kb=64)  # of a checker, a case


class Jails(Protocol):
    """What is needed of a worker."""

    layers: str

    @property
    def server(self) -> Process: ...

    @property
    def checks(self) -> Process: ...

    def box(self) -> Any: ...


def judge(worker: Jails, toolchain: Toolchain, job: Job, every: bool = False, outcomes: bool = False) -> Verdict:
    """Run the cases until one fails, or `every` one; the first that fails gives the status. wire.Gone if the worker ends.

    outcomes: with `evidence` of all cases, as asserts have it: which held ("10..."), and digests of what was printed or
    returned (blanks alike), None where a program did not come to a good end.
    """
    suite = job.case_set
    assert suite is not None
    python = toolchain.judge == "python"
    if suite.kind == "call" and not python:
        text = "cases with arguments are run for Python only; give standard input and output for other languages"
        return verdict(NO_TOOLCHAIN, stderr=text, reason="language")
    with nullcontext(None) if python else worker.box() as box:
        out, runner = _runner(worker, toolchain, job, suite, box)
        told: list[tuple[bool, str | None]] | None = [] if outcomes else None
        if out is None:
            out = _cases(worker, runner, suite, every, told)
    out.sandbox = worker.layers
    out.tests_total = len(suite.cases)
    if out.passed is not None and out.tests_passed is None:
        out.tests_passed, out.pass_share = 0, 0.0  # it never ran
    if told is not None and out.passed is not None:
        told += [(False, None)] * (len(suite.cases) - len(told))
        out.evidence = {"passed": "".join("01"[held] for held, _ in told), "outputs": [digest for _, digest in told]}
    return out


def _runner(
    worker: Jails, toolchain: Toolchain, job: Job, suite: CaseSet, box: JailedBox | None
) -> tuple[Verdict | None, Runner]:
    """How the program is run; a verdict where it cannot be compiled."""
    if box is None:
        cpu = job.timeout or PYTHON.cpu_s
        limits = replace(PYTHON, cpu_s=cpu, wall_s=4 * cpu + 2, memory_mb=job.memory_mb or PYTHON.memory_mb)
        entry = job.entry_point if suite.kind == "call" else None
        text = job.program.encode("utf-8", "surrogatepass")
        return None, Runner(worker.server, limits, text, entry=entry, prelude=suite.prelude)
    plan = recipes.bare(toolchain, job)
    for name, data in plan.files.items():
        box.write(name, data)
    step = recipes.spec(plan.mode.run, plan.values, recipes.limited(plan.mode.run.limits, job))
    return recipes.compiled(plan, box), Runner(
        worker.server, step.limits, b"", argv=step.argv, env=step.env, mode=plan.mode
    )


class Runner:
    """One program, to be run on inputs by a fork server."""

    def __init__(
        self,
        server: Process,
        limits: Limits,
        program: bytes,
        *,
        argv: Sequence[str] | None = None,
        env: Any = None,
        entry: str | None = None,
        prelude: str = "",
        mode: Any = None,
    ) -> None:
        self.server, self.limits, self.program, self.mode = server, limits, program, mode
        self._common = {
            "op": "cases",
            "argv": None if argv is None else list(argv),
            "env": dict(env or {}),
            "entry": entry,
            "prelude": prelude,
            "limits": asdict(limits),
            "program": len(program),
        }
        self._late = 0
        self._running = False

    def run(self, cases: Sequence[Case]) -> Iterator[dict[str, Any]]:
        """What was seen of each case in turn, with its `streams`; stop() ends it early."""
        at = 0
        while at < len(cases):
            inputs: list[bytes] = []
            size = 0
            while at + len(inputs) < len(cases) and len(inputs) < CHUNK and size < CHUNK_BYTES:
                inputs.append(cases[at + len(inputs)].input.encode("utf-8", "surrogateescape"))
                size += len(inputs[-1])
            some = cases[at : at + len(inputs)]
            yield from self._chunk(some, inputs)
            if not self._running:
                return
            at += len(inputs)

    def _chunk(self, cases: Sequence[Case], inputs: list[bytes]) -> Iterator[dict[str, Any]]:
        self.server.seq += 1
        wanted = [
            [len(data), case.timeout or self.limits.cpu_s, max(self.limits.output_kb, len(case.expected) // 256 + 64)]
            for case, data in zip(cases, inputs, strict=True)
        ]
        header = {**self._common, "seq": self.server.seq, "cases": wanted, "late": self._late}
        self.server.send(header, b"".join([self.program, *inputs]))
        self._running = True
        ended = False
        while not ended:
            told = self.server.receive_outcome()
            if "error" in told:
                yield told
                self._running = False
                return
            ended = told["end"]
            for seen in told["cases"]:
                self._late += bool(seen["timed_out"])
                if self._running:
                    yield seen

    def stop(self) -> None:
        """No more cases, whatever runs now."""
        if self._running:
            self._running = False
            self.server.send({"op": "stop", "seq": self.server.seq})


def _cases(
    worker: Jails, runner: Runner, suite: CaseSet, every: bool, told: list[tuple[bool, str | None]] | None
) -> Verdict:
    """The verdict; what came of each case that ran is put into `told`, if that is a list."""
    held = 0
    first: Verdict | None = None
    total = Verdict(True, OK, exit_code=0, integrity="outputs")
    out = total
    last: dict[str, Any] = {}
    # To its end: the fork server says when it has stopped.
    for number, (seen, case) in enumerate(zip(runner.run(suite.cases), suite.cases, strict=False)):
        if "error" in seen:
            out = verdict(SANDBOX_ERROR, stderr=str(seen["error"]), reason="box")
        elif out.passed is not None:
            out = total if _passed(worker, suite, case, seen) else _failed(runner, seen)
        if out.passed is None:
            runner.stop()
            continue
        total.time += seen["cpu"]
        total.time_wall += seen["wall"]
        total.longest = max(total.longest, seen["cpu"])
        total.max_rss = max(total.max_rss, seen["max_rss"])
        held += bool(out.passed)
        if told is not None:
            ended_well = out.passed or out.reason == "wrong_answer"
            told.append((bool(out.passed), _digest(_got(suite, seen)) if ended_well else None))
        last = seen
        if first is None and not out.passed:
            first = out
            out.failed_case = _told(number, case, _got(suite, seen))
            if not every:
                runner.stop()
    if out.passed is None:
        return out
    if first is None:
        stdout, stderr, _ = last["streams"]
        total.stdout, total.stderr = clip(stdout), clip(stderr)
        first = total
    first.time, first.time_wall, first.max_rss = total.time, total.time_wall, total.max_rss
    first.longest, first.tests_passed = total.longest, held
    if every or first.passed:
        first.pass_share = held / len(suite.cases)
    return first


def _passed(worker: Jails, suite: CaseSet, case: Case, seen: dict[str, Any]) -> bool:
    """Whether a case holds: no limit was hit, status 0, the right output."""
    fine = seen["status"] == 0 and not limit_hit(seen) and seen["streams"][2][:1] != b"!"
    return fine and _right(worker, suite, case, seen)


def _failed(runner: Runner, seen: dict[str, Any]) -> Verdict:
    """The verdict on a case that does not hold. Limits first, in a fixed order; then how it ended; then what it said."""
    stdout, stderr, said = seen["streams"]
    if said[:1] == b"!":
        return verdict(SANDBOX_ERROR, stderr=said[1:].decode("utf-8", "replace"), reason="box")
    code = None if seen["status"] is None else os.waitstatus_to_exitcode(seen["status"])
    name, reason = EXCEPTION, "wrong_answer"
    text = (stderr + b"\n" + stdout[-4096:]).decode("utf-8", "replace")
    mode = runner.mode
    if hit := limit_hit(seen):
        name, reason = hit
    elif code != 0:
        name, reason = EXCEPTION, "exit" if code is None or code >= 0 else f"signal_{-code}"
        if said[:1] == b"s" or (mode and mode.syntax and mode.syntax.search(text)):
            name, reason = SYNTAX_ERROR, "syntax"
        elif said[:1] == b"m" or (mode and mode.memory and mode.memory.search(text)):
            name, reason = MEMORY_LIMIT, "memory"
    return verdict(
        name,
        exit_code=code,
        stdout=clip(stdout),
        stderr=clip(stderr),
        reason=reason,
        overloaded=seen["overloaded"],
    )


def _got(suite: CaseSet, seen: dict[str, Any]) -> str:
    stdout, _, said = seen["streams"]
    data = stdout if suite.kind == "stdin" else said[1:]
    return str(data.decode("utf-8", "surrogateescape"))


def _digest(got: str) -> str:
    data = " ".join(got.split()).encode("utf-8", "surrogateescape")
    return hashlib.blake2b(data, digest_size=6).hexdigest()


def _right(worker: Jails, suite: CaseSet, case: Case, seen: dict[str, Any]) -> bool:
    if suite.kind == "call" and seen["streams"][2][:1] != b"v":
        return False  # it left, with status 0, before its function had returned
    got = _got(suite, seen)
    if suite.checker is None:
        return suite.right(case, got)
    texts = [case.input, case.expected, got]
    if suite.kind == "call":
        try:
            texts = [json.loads(text) for text in texts]
        except (ValueError, RecursionError):
            return False
    question = Case(json.dumps(texts), "")
    runner = Runner(worker.checks, CHECKING, suite.checker.encode("utf-8", "surrogatepass"), entry=CHECK)
    (answer,) = runner.run([question])
    if "error" in answer:
        raise wire.Gone(f"the checker could not be run: {answer['error']}")
    # A checker that fails on what a program printed has not accepted it.
    return bool(answer["streams"][2] == b"vtrue")


def _told(number: int, case: Case, got: str) -> dict[str, Any]:
    texts = {"input": case.input, "expected": case.expected, "got": got}
    return {"case": number, **{name: _cut(text) for name, text in texts.items()}}


def _cut(text: str) -> str:
    text = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    if len(text) <= CUT:
        return text
    return f"{text[: CUT // 2]}\n... {len(text) - CUT} characters left out ...\n{text[-CUT // 2 :]}"
