"""Where `rrk eval` and its kin put what they found: tables and sentences for people, tables alone for a paper, JSON."""

from __future__ import annotations

from typing import Any

from rrk.errors import UsageError


def check_readable(paths: list[str]) -> None:
    import os

    for path in paths:
        if path != "-" and not os.path.exists(path):
            raise UsageError(f"{path}: no such file")


class Out:
    """Where tables and sentences go: people get both; for a paper the tables alone are on standard output."""

    def __init__(self, how: str) -> None:
        from rrk.evaluation import formats

        if how not in formats.FORMATS:
            raise UsageError(f"--format {how}: choose one of {', '.join(formats.FORMATS)}")
        self.how = how

    def report(self, found: dict[str, Any]) -> None:
        from rrk.evaluation import against, tables

        if not found["problems"]:
            self.line("nothing to evaluate: no judged candidates")
        else:
            counts = f"{found['problems']} problems, {found['samples']} judged samples"
            self.line(f"{counts}; mean [{tables.bootstrap(found)}]\n")
            self.show(tables.report(found))
        if cost := tables.cost(found):
            self.line(cost)
        self.say(tables.remarks(found))
        if comparison := found.get("against"):
            self.line()
            self.show([tables.comparison(comparison, "this", comparison["file"])])
            metric, outcome = against.verdict(comparison)
            self.line(f"{metric.replace('_', ' ')}: {outcome} on {comparison['common']} common problems")
            if left := comparison["only_ours"] + comparison["only_theirs"]:
                self.line(f"note: {left} problems are in one of the two only and left out of the comparison")

    def show(self, shown: list[Any]) -> None:
        from rrk import terminal
        from rrk.evaluation import formats

        for number, (title, header, lines) in enumerate(shown):
            if number:
                print(flush=True)
            if self.how == "table":
                terminal.table(header, lines, title)
            else:
                print(formats.written((title, header, lines), self.how), end="", flush=True)

    def line(self, text: str = "", style: str = "") -> None:
        import sys

        from rrk import terminal

        if self.how == "table":
            terminal.line(text, style)
        elif text:
            print(f"rrk eval: {text.strip()}", file=sys.stderr, flush=True)

    def say(self, remarks: Any) -> None:
        for remark in remarks:
            self.line(f"note: {remark}", "yellow")


def write(record: dict[str, Any], output: str | None, json: bool) -> None:
    """The report to FILE, and to standard output with --json (or -o -)."""
    import sys

    import orjson

    from rrk import outputs

    if output and output != "-":
        with outputs.whole(output) as sink:
            sink.write(orjson.dumps(record, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    if json or output == "-":
        sys.stdout.buffer.write(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))
        sys.stdout.buffer.flush()
