"""Judges one program in one box as its language's file says: write, compile, run, and ask for proof.

    verdict = judge(toolchains.load("cpp"), job, box)

A pass is never an exit code. After the last test the program writes a secret (`@ended@`, new for every job) to a private
pipe, and then, in the same process, runs an assertion that must fail (the control). So an honest pass ends in a failure
that comes after the secret, and costs no second run. What else can happen:

    no secret, status 0             the program left before its tests ended             Tampered (early_exit)
    secret, then status 0           the failing assertion, or its status, was disarmed  Tampered (control)
    secret, then another failure    not the one that the language's file expects        Tampered (control)
    secret, then a second secret    the failing assertion did not fail                  Tampered (control)
    other bytes in the pipe         somebody else wrote there                           Tampered (forged)
    no secret, failure              a test failed                                       Exception

Nothing here starts a process: everything goes through the Box.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace

from rrk.sandbox.jail.box import PROOF_FD, Box, Limits, Outcome, RunSpec
from rrk.sandbox.languages import whole
from rrk.sandbox.languages.toolchain import PLACEHOLDER, Mode, Step, Toolchain
from rrk.sandbox.verdict import (
    EXCEPTION,
    MEMORY_LIMIT,
    NO_TOOLCHAIN,
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


@dataclass(frozen=True)
class Plan:
    """A job made ready: the files of its box, the values of the placeholders, and how it is run."""

    mode: Mode
    files: Mapping[str, bytes]
    values: Mapping[str, str]
    ended: bytes
    survived: bytes


class Unfit(Exception):
    """The tests do not have the shape that the language's file expects, so that no proof could be asked for."""


def judge(toolchain: Toolchain, job: Job, box: Box) -> Verdict:
    """The verdict on one job. A machine that cannot judge it gives NoToolchain or SandboxError, never a label."""
    if lacking := toolchain.lacks(job.given):
        return verdict(NO_TOOLCHAIN, stderr=lacking, reason="toolchain")
    try:
        plan = assemble(toolchain, job)
    except Unfit as error:
        return verdict(SANDBOX_ERROR, stderr=str(error), reason="tests")
    for name, data in plan.files.items():
        box.write(name, data)
    if failed := compiled(plan, box):
        return failed
    return executed(plan, job, box)


def assemble(toolchain: Toolchain, job: Job) -> Plan:
    """Choose the mode, join program and tests, and put the end of the tests where the language wants it."""
    program, tests = job.program, job.tests
    mode = _mode(toolchain, program, tests)
    if job.full:
        program, tests = whole.fitted(mode, job)
        mode = _mode(toolchain, program, tests)  # by what it is now: imports may tell modes apart
    ended, survived = secrets.token_hex(16), secrets.token_hex(16)
    values = {
        **toolchain.names_of_tools(),
        **{name: _captured(spec, program, tests) for name, spec in mode.captures.items()},
        "ended": ended,
        "survived": survived,
        "nonce": "a" + secrets.token_hex(7),  # 60 bits: fits where numbers have 63
        "fd": str(PROOF_FD),
        "memory_mb": str(job.memory_mb or mode.run.limits.memory_mb),
    }
    values["control"] = next(
        (fill(text, values) for when, text in mode.controls if when is None or when.search(tests)), ""
    )
    values["file"] = fill(mode.file, values)
    for where, pattern, text in mode.rewrites:
        replacement = fill(text, values)  # may use \1 for a group
        if where == "tests":
            tests = pattern.sub(replacement, tests)
        elif where == "program" or job.full:
            program = pattern.sub(replacement, program)
    for end in mode.ends:
        tests = _placed(toolchain, tests, fill(end.text, values), end.place)
    files = {name: fill(text, values).encode() for name, text in mode.files.items()}
    text = program + mode.separator + tests
    files[values["file"]] = text.encode("utf-8", "surrogatepass")
    return Plan(mode, files, values, ended.encode(), survived.encode())


def bare(toolchain: Toolchain, job: Job) -> Plan:
    """A program that reads and prints: its files and commands, without tests and without anything to prove."""
    program = job.program
    mode = _first(toolchain, toolchain.programs, program, "")
    values = {
        **toolchain.names_of_tools(),
        **{name: _captured(spec, program, "") for name, spec in mode.captures.items()},
        "memory_mb": str(job.memory_mb or mode.run.limits.memory_mb),
    }
    values["file"] = fill(mode.file, values)
    files = {name: fill(text, values).encode() for name, text in mode.files.items()}
    files[values["file"]] = program.encode("utf-8", "surrogatepass")
    return Plan(mode, files, values, b"", b"")


def fill(text: str, values: Mapping[str, str]) -> str:
    """Replace @name@ for known names; anything else between two @ is the language's own."""
    return PLACEHOLDER.sub(lambda found: values.get(found[1], found[0]), text)


def spec(step: Step, values: Mapping[str, str], limits: Limits | None = None, **more: object) -> RunSpec:
    """A step as the box takes it."""
    return RunSpec(
        argv=[fill(word, values) for word in step.argv],
        limits=limits or step.limits,
        env={name: fill(text, values) for name, text in step.env.items()},
        stdin=fill(step.stdin, values).encode(),
        **more,  # type: ignore[arg-type]
    )


def compiled(plan: Plan, box: Box) -> Verdict | None:
    """Run the compile steps; the verdict if one fails, else None."""
    for step in plan.mode.compile:
        outcome = box.run(spec(step, plan.values))
        if outcome.error:
            return _ours(outcome)
        if outcome.exit_code == 0 and not (outcome.timed_out or outcome.out_of_memory):
            continue
        reason = "compile"
        if outcome.out_of_memory:
            reason = "compile_memory"
        elif outcome.timed_out:
            reason = "compile_timeout"
        return rejected(plan, outcome, reason)
    return None


def executed(plan: Plan, job: Job, box: Box) -> Verdict:
    """Run the program and judge what came of it."""
    limits = limited(plan.mode.run.limits, job)
    outcome = box.run(spec(plan.mode.run, plan.values, limits, proof=True))
    if plan.mode.rerun is None:
        return classify(plan, outcome)
    # The end of the tests cannot fail by itself here: the same program runs again with the control switched on.
    first = classify(plan, outcome, control=False)
    if not first.passed:
        return first
    again = spec(plan.mode.run, plan.values, limits, proof=True)
    again = replace(again, env={**again.env, **plan.mode.rerun})
    # A program that now fails or never ends is not one that tampers: its tests draw random numbers, and half pass.
    second = classify(plan, box.run(again))
    return first if second.passed else second


def rejected(plan: Plan, outcome: Outcome, reason: str) -> Verdict:
    """The compiler said no."""
    return _verdict(plan.mode.compile_status, outcome, reason)


def classify(plan: Plan, outcome: Outcome, control: bool = True) -> Verdict:
    """What one run means. With control=False the run is one that must end with status 0."""
    if outcome.error:
        return _ours(outcome)
    if outcome.out_of_memory:
        return _verdict(MEMORY_LIMIT, outcome, "memory")
    if outcome.timed_out:
        return _verdict(TIMEOUT, outcome, outcome.timed_out)
    if outcome.output_limit:
        return _verdict(OUTPUT_LIMIT, outcome, "output")
    proof, failed = outcome.proof.strip(), outcome.exit_code != 0
    if proof == plan.ended:
        code = outcome.exit_code if outcome.exit_code is not None else -(outcome.signal or 0)
        if failed == control and (not control or not plan.mode.dies or code in plan.mode.dies):
            return _passed(plan, outcome, control)
        return _verdict(TAMPERED, outcome, "control") if control else _verdict(EXCEPTION, outcome, "exit")
    if proof:
        return _verdict(TAMPERED, outcome, "control" if plan.ended in proof else "forged")
    text = outcome.stderr + b"\n" + outcome.stdout
    said = text.decode("utf-8", "replace")
    if plan.mode.syntax and plan.mode.syntax.search(said):
        # Whatever its status: bash leaves with 0 after some syntax errors.
        return _verdict(SYNTAX_ERROR, outcome, "syntax")
    if not failed:
        return _verdict(TAMPERED, outcome, "early_exit")
    if plan.mode.memory and plan.mode.memory.search(said):
        return _verdict(MEMORY_LIMIT, outcome, "memory")
    return _verdict(EXCEPTION, outcome, f"signal_{outcome.signal}" if outcome.signal else "exit")


def _mode(toolchain: Toolchain, program: str, tests: str) -> Mode:
    return _first(toolchain, toolchain.modes, program, tests)


def _first(toolchain: Toolchain, modes: tuple[Mode, ...], program: str, tests: str) -> Mode:
    text = {"tests": tests, "program": program, "all": program + "\n" + tests}
    for mode in modes:
        shown = text[mode.where]
        fits = (mode.when is None or mode.when.search(shown)) and not (mode.unless and mode.unless.search(shown))
        if fits and toolchain.usable(mode):
            return mode
    raise Unfit(
        f"{toolchain.source.name}: no mode fits these tests (each [[mode]] has a `when`, and there is no other)"
    )


def _captured(spec: tuple[str, tuple[re.Pattern[str], ...], str], program: str, tests: str) -> str:
    where, patterns, default = spec
    text = {"tests": tests, "program": program, "all": program + "\n" + tests}[where]
    for pattern in patterns:
        if found := pattern.search(text):
            return found[1]
    return default


def _placed(toolchain: Toolchain, tests: str, text: str, places: tuple[str, ...]) -> str:
    for place in places:
        if place == "append":
            return tests + "\n" + text
        if found := [*re.finditer(place, tests, re.MULTILINE)]:
            at = found[-1].start()
            return tests[:at] + text + tests[at:]
    raise Unfit(
        f"the tests have no end where {toolchain.source.name} looks for it ({' or '.join(places)}), so a pass could not be proven"
    )


def limited(limits: Limits, job: Job) -> Limits:
    if job.timeout:
        # Wall time is the backstop only, and keeps its distance from CPU time.
        limits = replace(limits, wall_s=job.timeout * limits.wall_s / limits.cpu_s, cpu_s=job.timeout)
    if job.memory_mb:
        limits = replace(limits, memory_mb=job.memory_mb)
    return limits


def _passed(plan: Plan, outcome: Outcome, control: bool) -> Verdict:
    marker = plan.ended
    out = _verdict(OK, outcome, None)
    # What the control printed is ours, not the program's; a language that can marks where it begins.
    out.stdout = clip(outcome.stdout.partition(marker)[0])
    out.stderr = clip(outcome.stderr.partition(marker)[0]) if marker in outcome.stderr or not control else ""
    out.exit_code = 0
    out.integrity = "proof+control" if plan.values["control"] or not control else "proof"
    return out


def _verdict(status: str, outcome: Outcome, reason: str | None) -> Verdict:
    exit_code = outcome.exit_code
    if exit_code is None and outcome.signal:
        exit_code = -outcome.signal
    return verdict(
        status,
        exit_code=exit_code,
        stdout=clip(outcome.stdout),
        stderr=clip(outcome.stderr),
        time=outcome.cpu,
        time_wall=outcome.wall,
        max_rss=outcome.max_rss,
        reason=reason,
        overloaded=outcome.overloaded,
    )


def _ours(outcome: Outcome) -> Verdict:
    out = _verdict(SANDBOX_ERROR, outcome, "box")
    out.stderr = outcome.error or out.stderr
    return out
