"""What every row stage shares: items in, rows out, in order, whatever happens.

    stage.run("execute", ["candidates.jsonl"], IoOptions(output="verdicts.jsonl", resume=True),
              params={"timeout": 5}, work=work, unit="row")

`work` takes an iterator of items and yields, in order, one list of output rows for each. An item is a row (`unit="row"`)
or all consecutive rows of one problem (`unit="problem"`). It may read ahead, and need know nothing of files: this module
does standard input, `--limit`, `--shard`, progress and the summary line; where rows go is rrk/sinks.py. A `work` that does much
before anything is out may have a method `watch(ahead)`, and calls that (Progress.ahead).
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from rrk import costs, jsonl, outputs, terminal
from rrk.errors import RrkError, Terminated, Unjudged, UsageError
from rrk.items import Items, Scattered, Unsorted, expected, parse_shard, scattered
from rrk.jsonl import Row
from rrk.progress import Progress
from rrk.sinks import File, Sink, open_sink

Work = Callable[[Any], Iterator[list[dict[str, Any]]]]


@dataclass(frozen=True)
class IoOptions:
    """The options that every row stage has (rrk/options.py)."""

    output: str = "-"
    resume: bool = False
    force: bool = False
    limit: int | None = None
    shard: str | None = None
    quiet: bool = False
    json: bool = False


@dataclass
class Summary:
    """What a stage did; the last line on standard error."""

    stage: str
    items: int = 0
    rows: int = 0
    passed: int = 0
    failed: int = 0
    unjudged: int = 0
    unjudged_for: str = ""  # why the first of them was not: status, and what was said
    seconds: float = 0.0
    figures: dict[str, Any] = field(default_factory=dict)
    cost: dict[str, Any] = field(default_factory=dict)  # rrk/costs.py

    def count(self, row: Mapping[str, Any]) -> None:
        self.rows += 1
        if "passed" in row:
            verdict = row["passed"]
            if verdict is None:
                self.unjudged += 1
                if not self.unjudged_for:
                    said = f"{row.get('status')}: {row.get('stderr') or ''}".strip()
                    self.unjudged_for = terminal.one_line(said, 400)  # it may quote the program
            elif verdict:
                self.passed += 1
            else:
                self.failed += 1


def run(
    stage: str,
    inputs: Sequence[str],
    io: IoOptions,
    *,
    params: Mapping[str, Any],
    work: Work,
    unit: str = "row",
    validate: Callable[[Row], object] | None = None,
    unsorted: bool = False,
    judges: bool = False,
    also: Sequence[str] = (),
    made: Iterable[dict[str, Any]] | None = None,
) -> Summary:
    """Run one row stage to its end.

    `params` is everything that changes the output; a resumed run must have the same. `validate` raises RowError for a row
    that `work` could not use. With judges=True rows with `passed: null` end in exit code 4 (Unjudged), after all is
    written. `also`: other files of rows that went in. `made`: the rows in, where the inputs (perhaps none) hold something that
    they are made from: the same ones each time. Raises what the stage raises; rows done until then are kept.
    """
    inputs = list(inputs) or ([jsonl.STDIN] if made is None else [])
    if jsonl.STDIN in inputs and sys.stdin.isatty():
        raise UsageError(f"no input: give a file, or pipe rows in (see rrk {stage} --help)")
    if io.limit is not None and io.limit < 0:
        raise UsageError("--limit must not be negative")
    shard = parse_shard(io.shard)
    _check_readable(inputs)
    if unit == "problem" and not unsorted and scattered(inputs):
        unsorted = True
        _say(io, f"rrk {stage}: the rows of a problem do not stand together here; all are read first")
    kind = Unsorted if unsorted else Items
    items: Items[Any] = kind(inputs, unit, io.limit, shard, validate, made)
    if io.limit == 0:
        items._ended = True
    summary = Summary(stage)
    started, meter = time.monotonic(), costs.Meter()
    header = {"stage": stage, "params": dict(params), "limit": io.limit, "shard": io.shard}
    if io.resume and io.force:
        raise UsageError("--resume keeps what is there, --force makes it anew; give one of them")
    sink = open_sink(io.output, header, io.resume, io.force)
    file = sink if isinstance(sink, File) else None
    with closing(sink):
        if file is not None and file.complete:
            _check_input(items, inputs, file, io.output)
            _say(io, f"rrk {stage}: {io.output} is complete; nothing to do")
            return summary
        try:
            if sink.done and items.skip(sink.done) != sink.checksum:
                raise UsageError(f"the input is not the one that {io.output}.part was begun with; --force starts again")
            summary.items = sink.done
            for row in sink.kept():
                summary.count(row)
            _drive(stage, items, work, sink, summary, io, unit)
            if items.error is not None:
                raise items.error
            summary.cost = _cost(work, meter, sink)
            sink.publish(summary.cost, [*inputs, *also])
        except (KeyboardInterrupt, Terminated, RrkError, OSError) as error:
            if isinstance(error, OSError):
                name = "" if io.output == jsonl.STDIN else io.output
                if (told := outputs.failure(error, name)) is None:
                    raise
                error_to_show: BaseException = told
            else:
                error_to_show = error
            if file is not None and isinstance(error, Scattered):
                file.discard()
            elif file is not None and sink.done:
                file.spent = _cost(work, meter, sink)
                kept = f"{sink.done} {'items' if unit == 'row' else 'problems'} done are kept in {io.output}.part"
                error_to_show.add_note(f"{kept}; the same command with --resume goes on from there")
            if error_to_show is error:
                raise
            raise error_to_show from None
    summary.seconds = time.monotonic() - started
    summary.figures |= {name: value for name, value in getattr(work, "figures", {}).items() if name != "cost"}
    _say(io, _summary_line(summary, io.json, judges), always=io.json)
    if judges and summary.unjudged:
        raise Unjudged(
            f"{summary.unjudged} of {summary.rows} rows could not be judged (passed: null); the first: {summary.unjudged_for}"
        )
    return summary


def _drive(stage: str, items: Items[Any], work: Work, sink: Sink, summary: Summary, io: IoOptions, unit: str) -> None:
    plural = "rows" if unit == "row" else "problems"
    total = partial(expected, items, io.limit, io.shard, unit)
    with Progress(stage, total, plural, io.quiet, done=summary.items) as progress:
        if (watch := getattr(work, "watch", None)) is not None:
            watch(progress.ahead)
        results = work(items)
        try:
            for output in results:
                if not items.taken:
                    raise AssertionError(f"{stage}: more results than items")
                _, checksum = items.taken.popleft()
                for row in output:
                    summary.count(row)
                sink.write(output, checksum)
                summary.items += 1
                progress.advance()
        finally:
            # A generator's own clean-up (workers, devices) runs now, not whenever it is collected.
            if hasattr(results, "close"):
                results.close()
        if items.taken and items.error is None:
            raise AssertionError(f"{stage}: {len(items.taken)} items without a result")


def _cost(work: Work, meter: costs.Meter, sink: Sink) -> dict[str, Any]:
    """What was used so far, by the runs before this one too; `items` says of how many items it is the cost."""
    own = {**meter.read(), "items": sink.done - sink.kept_items}
    return costs.add({**own, **getattr(work, "figures", {}).get("cost", {})}, sink.spent)


def _check_readable(inputs: Sequence[str]) -> None:
    # Before anything is written: a misspelt second file should not cost the first one's work.
    for path in inputs:
        if path != jsonl.STDIN and not os.path.exists(path):
            raise UsageError(f"{path}: no such file")


def _check_input(items: Items[Any], inputs: Sequence[str], made: File, output: str) -> None:
    """A complete file must have been made from this input; a pipe is not read to the end for it."""
    if not inputs or not all(map(os.path.isfile, inputs)):
        return
    if items.skip(made.done) != (made.checksum if made.done else 0) or next(items, None) is not None:
        raise UsageError(f"{output} was made from another input: --force makes it anew, or choose another -o")
    if items.error is not None:
        raise items.error


def _summary_line(summary: Summary, as_json: bool, judges: bool) -> str:
    judged = {"passed": summary.passed, "failed": summary.failed, "unjudged": summary.unjudged} if judges else {}
    if as_json:
        record = {
            "stage": summary.stage,
            "items": summary.items,
            "rows": summary.rows,
            **judged,
            **summary.figures,
        }
        return jsonl.dumps(record | {"seconds": round(summary.seconds, 3), "cost": summary.cost}).decode().rstrip()
    counts = ", ".join(f"{count} {name}" for name, count in judged.items() if count or name != "unjudged")
    figures = ", ".join(f"{name} {_number(value)}" for name, value in summary.figures.items())
    spent = f"{summary.seconds:.1f} s"
    if summary.cost:
        spent += f" ({summary.cost['cpu_seconds']:.1f} CPU s, {summary.cost['peak_memory'] / 1e9:.2g} GB)"
    parts = [f"{summary.rows} rows", counts, figures, spent]
    return f"rrk {summary.stage}: " + ", ".join(part for part in parts if part)


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _say(io: IoOptions, line: str, always: bool = False) -> None:
    if always or not io.quiet:
        print(line, file=sys.stderr, flush=True)
