"""Reports on disk, and several of them in a row: one round of the loop after another.

report = load("scored.jsonl")                       # rows, or a report that `rrk eval -o` wrote
entries = read(["runs/0/report.json", "PPO=runs/1/report.json"])
ledger(entries)                                     # the rounds' figures, each compared with the one before
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rrk import jsonl
from rrk.errors import RrkError, UsageError
from rrk.evaluation import against, contamination, statistics
from rrk.evaluation import report as reports

_SHORT: tuple[str, ...] = (
    *("problems", "samples", "n", "unjudged", "pass@k", "random", "greedy", "ranked_pass@1", "best_of_k", "oracle"),
    *("gap_closed", "auc", "falls"),
)


def is_report(path: str) -> bool:
    """True if the file begins as a report does (its first key tells). A pipe is rows: it cannot be looked at twice."""
    if not Path(path).is_file():
        return False
    with jsonl.open_binary(path) as stream:
        head = stream.read(64)
    return head.lstrip().startswith(b"{") and f'"{reports.KEY}"'.encode() in head


def load(path: str, *, allow_seen: bool = True, models: Sequence[str] = (), **settings: Any) -> dict[str, Any]:
    """The report in a file, or that of the candidate rows in it; `settings` are those of report.build.

    `models`: had a part in it, beside those that records and rows name. RrkError if one was trained on these problems, unless
    `allow_seen`; a report was allowed when it was made.
    """
    if is_report(path):
        with jsonl.open_binary(path) as stream:
            try:
                found = jsonl.loads(stream.read())
            except ValueError as error:
                raise RrkError(f"{path}: damaged report ({error}); write it again with rrk eval -o") from None
        if found.get(reports.KEY) != reports.VERSION:
            raise UsageError(f"{path}: a report of another version of rrk; write it again with rrk eval -o")
        if "tasks" not in found:
            raise UsageError(f"{path}: a ledger or a report of groups; give the report of one set of candidates")
        return found
    samples = reports.Samples()
    for row in jsonl.read([path]):
        samples.add(row)
    return build(samples, [path], allow_seen=allow_seen, models=models, **settings)


def build(
    samples: reports.Samples,
    paths: Sequence[str],
    *,
    allow_seen: bool = True,
    models: Sequence[str] = (),
    whole: bool = True,
    **settings: Any,
) -> dict[str, Any]:
    """The report of rows that came from these files, `whole`: of all of them; see `load`."""
    history = contamination.history(paths, [*samples.models(), *models])
    if not whole:
        history.stages = []
    found = reports.build(samples, lineage=history, **settings)
    contamination.refuse(found["seen"], allow_seen)
    return found


def groups(paths: Sequence[str], by: str, **settings: Any) -> dict[str, dict[str, Any]]:
    """A report for each value of a field. What the files' making cost as a whole is no group's."""
    found: dict[str, reports.Samples] = {}
    for row in jsonl.read(paths):
        found.setdefault(str(row.get(by, "(none)")), reports.Samples()).add(row)
    return {name: build(samples, paths, whole=False, **settings) for name, samples in found.items()}


def named(specs: Sequence[str]) -> list[tuple[str, str]]:
    """(name, path) of each `NAME=FILE` or FILE; a file without a name goes by what tells it from the others."""
    pairs = [split(spec) for spec in specs]
    paths = [Path(path) for name, path in pairs if not name]
    stems = [path.name.split(".")[0] for path in paths]
    by_folder = len(set(stems)) < len(stems)
    return [(name or (Path(p).parent.name if by_folder else Path(p).name.split(".")[0]) or p, p) for name, p in pairs]


def split(spec: str) -> tuple[str, str]:
    """(name, path) of `NAME=FILE`, ("", path) of FILE."""
    name, equals, path = spec.partition("=")
    return (name, path) if equals and name and not Path(spec).exists() else ("", spec)


def read(specs: Sequence[str], **settings: Any) -> list[tuple[str, dict[str, Any]]]:
    """(name, report) of each round; see `load`."""
    return [(name, load(path, **settings)) for name, path in named(specs)]


def steps(
    entries: Sequence[tuple[str, dict[str, Any]]], *, repeats: int = statistics.REPEATS, seed: int = 0
) -> list[dict[str, Any] | None]:
    """Each round compared in pairs with the one before; None for the first, and where they share no problem."""
    out: list[dict[str, Any] | None] = []
    for i, (_, found) in enumerate(entries):
        try:
            out.append(against.compare(found, entries[i - 1][1], repeats=repeats, seed=seed) if i else None)
        except UsageError:
            out.append(None)
    return out


def ledger(entries: Sequence[tuple[str, dict[str, Any]]], changes: Sequence[dict[str, Any] | None]) -> dict[str, Any]:
    """The rounds as one JSON object."""
    return {
        reports.KEY: reports.VERSION,
        "rounds": [
            {"name": name, **{k: found[k] for k in _SHORT if k in found}, "change": change}
            for (name, found), change in zip(entries, changes, strict=True)
        ],
    }
