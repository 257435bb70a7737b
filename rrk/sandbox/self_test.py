"""What works on this machine: the jail's layers, each language's tools, and each language's self tests in the real jail.

report = self_test(["py", "cpp"], jobs=4)       # no names: every language
report.works                                  # the jail and everything asked for by name, else at least Python
report.findings                               # a line each: level PASS, CAUTION or FAIL, what, detail, remedy
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rrk.errors import RrkError
from rrk.sandbox.judge.judge import Judge
from rrk.sandbox.languages import toolchains
from rrk.sandbox.languages.toolchain import Toolchain
from rrk.sandbox.verdict import TIMEOUT, Job
from rrk.sandbox.workers.probe import probe as try_layers
from rrk.sandbox.workers.worker import Worker

PASS, CAUTION, FAIL = "PASS", "CAUTION", "FAIL"
ENDLESS_CPU_S = 2.0  # what the self tests that never end may take: long enough for any start, short enough to wait for


@dataclass
class Finding:
    """One line of the report. `kind` is layer, jail or language; `more` is what only --json shows."""

    level: str
    kind: str
    name: str
    detail: str
    remedy: str = ""
    more: dict[str, Any] = field(default_factory=dict)


@dataclass
class Report:
    """Findings in order; `works` is what the exit code says."""

    findings: list[Finding]
    works: bool

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return {"works": self.works, "findings": [{**vars(f), "more": f.more} for f in self.findings]}


def self_test(
    languages: Sequence[str] = (),
    jobs: int = 1,
    sandboxes: Sequence[str | Path] = (),
    worker: Callable[..., Any] | None = None,
    probe: Callable[[], Iterable[Any]] | None = None,
    seen: Callable[[Finding], None] = lambda finding: None,
) -> Report:
    """Look at everything; `seen` hears of each finding at once. RrkError for a language that nobody declared."""
    chosen = [toolchains.load(name, sandboxes) for name in languages] or [*toolchains.all(sandboxes).values()]
    chosen.sort(key=lambda t: (t.judge != "python", t.id))
    findings: list[Finding] = []

    def found(finding: Finding) -> None:
        findings.append(finding)
        seen(finding)

    for layer in (probe or try_layers)():
        level = PASS if layer.active else CAUTION
        found(Finding(level, "layer", layer.name, layer.detail, "" if layer.active else layer.remedy))
    jail = _jail(worker)
    found(jail)
    if jail.level == FAIL:
        return Report(findings, False)
    lacking = {t.id: lines for t in chosen if (lines := t.missing())}
    for finding in _languages([t for t in chosen if t.id not in lacking], jobs, sandboxes, worker):
        found(finding)
    for toolchain in chosen:
        if toolchain.id in lacking:
            level = FAIL if toolchain.judge == "python" or languages else CAUTION
            text = "; ".join(lacking[toolchain.id])
            remedy = "" if toolchain.untestable else toolchain.remedy()
            found(Finding(level, "language", toolchain.id, f"{toolchain.title}: {text}", remedy))
    return Report(findings, not any(f.level == FAIL and _matters(f, languages) for f in findings))


def _matters(finding: Finding, asked: Sequence[str]) -> bool:
    return finding.kind != "language" or finding.name == "py" or bool(asked)


def _jail(worker: Callable[..., Any] | None) -> Finding:
    """Start a worker as `rrk execute` would."""
    try:
        with (worker or Worker)(level="auto", mounts=[]) as started:
            return Finding(PASS, "jail", "worker", str(started.layers))
    except RrkError as error:
        return Finding(
            FAIL, "jail", "worker", str(error), "or --sandbox podman|docker; --sandbox none is no protection"
        )
    except OSError as error:
        return Finding(FAIL, "jail", "worker", f"does not start: {error}", "--sandbox podman|docker")


def _languages(
    chosen: Sequence[Toolchain], jobs: int, sandboxes: Sequence[str | Path], worker: Callable[..., Any] | None
) -> Iterator[Finding]:
    """Run every self test of these languages, each language's together, and say how it went as soon as it is known."""
    work = [
        Job(
            toolchain.id,
            test.prompt,
            test.completion,
            test.tests,
            test.entry_point,
            timeout=ENDLESS_CPU_S if test.status == TIMEOUT else None,
        )
        for toolchain in chosen
        for test in toolchain.selftests
    ]
    with Judge(jobs=jobs, worker=worker, sandboxes=sandboxes) as judge:
        verdicts = judge.judge(work)
        for toolchain in chosen:
            wrong, record = [], []
            for test in toolchain.selftests:
                answer = next(verdicts)
                record.append(
                    {"name": test.name, "expected": test.status, "status": answer.status, "time": answer.time}
                )
                if answer.status != test.status:
                    said = answer.stderr.strip().splitlines()[-1:]
                    wrong.append(f"'{test.name}' is {answer.status} instead of {test.status} {''.join(said)}".strip())
            count = len(toolchain.selftests)
            optional = [t.name for t in toolchain.tools.values() if t.optional and not t.path]
            detail = f"{toolchain.title} {toolchain.version}".strip()
            detail += f": {count - len(wrong)} of {count} self tests" + "".join(f"; {line}" for line in wrong)
            if optional:
                detail += f"; slower without {', '.join(optional)}"
            if absent := [x.name for x in toolchain.libraries if not x.there]:
                optional += absent
                detail += f"; problems that want {', '.join(absent)} cannot be judged"
            more = {"version": toolchain.version, "selftests": record}
            level = FAIL if wrong else CAUTION if optional else PASS
            remedy = toolchain.remedy() if optional and not wrong else ""
            if wrong:
                remedy = "do not trust verdicts in this language here"
                if toolchain.tools:
                    remedy += "; other versions of its tools may do: " + toolchain.remedy()
            yield Finding(level, "language", toolchain.id, detail, remedy, more)
