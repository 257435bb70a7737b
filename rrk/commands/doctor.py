"""`rrk doctor`: which sandbox layers, languages, extras and devices work on this machine."""

from __future__ import annotations

from typing import Annotated, Any, Optional

import typer

from rrk.errors import RrkError


def doctor(
    languages: Annotated[
        Optional[list[str]],  # noqa: UP045 - typer reads this at run time
        typer.Argument(metavar="[LANG]...", help="Only these languages; a failure of one of them is exit code 1."),
    ] = None,
    jobs: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option("--jobs", "-j", metavar="N", min=1, envvar="RRK_JOBS", help="Cores to use. [default: all]"),
    ] = None,
    sandboxes: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--sandboxes", metavar="DIR", help="A folder of further languages (LANG.toml)."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Try every layer of the sandbox and the self tests of every language, in the real jail; look for extras, GPU and disk.

    PASS works, CAUTION works with less or is not installed (the packages to install are named), FAIL gives wrong verdicts or
    none. Exit code 0 if the jail and Python work (and every LANG that was named), else 1.

    \b
    Examples:
      rrk doctor
      rrk doctor py cpp ts
      rrk doctor --json | jq '.findings[] | select(.level != "PASS")'
    """
    import os
    import sys

    from rrk import jsonl
    from rrk.progress import waiting
    from rrk.sandbox.self_test import FAIL, self_test

    cores = jobs or len(os.sched_getaffinity(0))
    live = not json and not sys.stdout.isatty()

    def line(finding) -> None:
        typer.echo(f"{finding.level:<7} {finding.kind:<8} {finding.name:<12} {finding.detail}")
        if finding.remedy:
            typer.echo(f"{'':<30}-> {finding.remedy}")

    with waiting("rrk doctor: trying the sandbox's layers and every language ..."):
        report = self_test(languages or [], cores, sandboxes or [], seen=line if live else lambda finding: None)
        around = [] if languages else _around()
    for finding in around:
        report.findings.append(finding)
        if live:
            line(finding)
    if json:
        typer.echo(jsonl.dumps(report.record()).decode().rstrip())
    elif not live:
        _table(report)
    if not report.works:
        first = next(f for f in report.findings if f.level == FAIL)
        raise RrkError(f"{first.kind} {first.name}: {first.detail}" + (f"; {first.remedy}" if first.remedy else ""))


def _around() -> list[Any]:
    """Findings beside the sandbox."""
    from rrk import machine
    from rrk.sandbox.self_test import CAUTION, PASS, Finding

    found = [Finding(level, "machine", name, text, remedy) for level, name, text, remedy in machine.look()]
    if all(finding.level == PASS for finding in found if finding.name == "train"):
        from rrk.generation.models import devices

        gpu, text, remedy = devices()
        found.append(Finding(PASS if gpu else CAUTION, "machine", "gpu", text, remedy))
    return found


def _table(report) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for heading in ("", "what", "name", "detail"):
        table.add_column(heading, overflow="fold")
    colours = {"PASS": "green", "CAUTION": "yellow", "FAIL": "bold red"}
    for finding in report.findings:
        detail = Text(finding.detail)
        if finding.remedy:
            detail.append(f"\n-> {finding.remedy}", style="dim")
        table.add_row(Text(finding.level, style=colours[finding.level]), finding.kind, finding.name, detail)
    Console().print(table)
