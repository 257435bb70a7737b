"""What `rrk show` says of rows: which fit, in what order, and a line about each (pure).

    problems = gather(rows, language="py", task="HumanEval/3", wanted=Filter(passed=False), top=1)
    group = problems.groups["py", "HumanEval/3"]
    for row in ranked(group.kept): headline("HumanEval/3", row, group.size)

Rows are counted as they come, and only those that will be shown are kept: a file may be larger than memory.
"""

from __future__ import annotations

import difflib
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rrk import jsonl, rows
from rrk.errors import RowError

KINDS = ("hard", "random", "replay")


@dataclass
class Group:
    """One problem's candidates, or its pairs: how many there are of which kind, and those that were to be kept."""

    size: int = 0
    judged: int = 0
    passed: int = 0
    best: float = -math.inf  # score of the best-scored judged candidates
    tied: int = 0  # how many have it
    tied_passed: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)  # of pairs
    kept: list[dict[str, Any]] = field(default_factory=list)

    def count(self, row: Mapping[str, Any]) -> None:
        self.size += 1
        if row.get("status"):
            self.statuses[str(row["status"])] += 1
        if row.get("kind") in KINDS:
            self.kinds[row["kind"]] += 1
        if row.get("passed") is None:
            return
        passed, score = bool(row["passed"]), row.get("score")
        self.judged += 1
        self.passed += passed
        if isinstance(score, (int, float)):
            if not self.tied or score > self.best:
                self.best, self.tied, self.tied_passed = score, 0, 0
            if score == self.best:
                self.tied += 1
                self.tied_passed += passed

    def keep(self, row: dict[str, Any], top: int | None, pair: bool) -> None:
        """Keep a row; of many only the `top` that would be shown: pairs in their order, candidates by their rank."""
        if pair:
            if top is None or len(self.kept) < top:
                self.kept.append(row)
            return
        self.kept.append(row)
        if top is not None and len(self.kept) > 2 * top + 2:
            self.kept = ranked(self.kept)[:top]


@dataclass
class Gathered:
    """Problems by (language, task), in the order of first appearance; `names` are all tasks seen."""

    groups: dict[tuple[str, str], Group] = field(default_factory=dict)
    names: dict[str, None] = field(default_factory=dict)
    pairs: bool = False
    problems: bool = False


@dataclass(frozen=True)
class Filter:
    """Which candidates of a problem to show; None: any."""

    passed: bool | None = None
    status: str | None = None
    id: int | None = None

    def any(self) -> bool:
        return self != Filter()

    def fits(self, row: Mapping[str, Any]) -> bool:
        return (
            (self.passed is None or row.get("passed") is self.passed)
            and (self.status is None or str(row.get("status", "")).lower() == self.status.lower())
            and (self.id is None or number(row) == self.id)
        )


def gather(
    stream: Iterable[dict[str, Any]],
    language: str | None = None,
    task: str | None = None,
    wanted: Filter | None = None,
    top: int | None = None,
) -> Gathered:
    """Rows by problem; RowError for what is neither a candidate nor a pair. `task` matches its own name, or all names of
    the same base problem. Kept are pairs and the candidates that fit `wanted` (None: nothing), `top` a problem at most."""
    found = Gathered()
    for row in stream:
        pair = "chosen" in row and "rejected" in row
        problem = not pair and "completion" not in row and "solution" not in row and "prompt" in row
        if not pair and not problem and "completion" not in row and "solution" not in row:
            raise RowError(
                "neither a candidate ('completion' or 'solution') nor a pair ('chosen', 'rejected') nor a problem ('prompt')",
                rows.where(row),
            )
        name = "(no task_id)" if pair and not {"task_id", "name"} & row.keys() else rows.task_id(row)
        found.names[name] = None
        lang = rows.language_code(str(row.get("language") or "py"))
        if language is not None and lang != language:
            continue
        if task is not None and task != name and rows.base_problem(task) != rows.base_problem(name):
            continue
        found.pairs |= pair
        found.problems |= problem
        if (group := found.groups.get((lang, name))) is None:
            group = found.groups[lang, name] = Group()
        group.count(row)
        if problem:
            group.kept = [row]
            continue
        if wanted is not None and (pair or wanted.fits(row)):
            group.keep(row, top, pair)
    if task is not None and any(name == task for _, name in found.groups):
        found.groups = {key: group for key, group in found.groups.items() if key[1] == task}
    return found


def peek(path: str) -> tuple[str, Any]:
    """What a file holds: ("report", its object), ("log", None) or ("rows", None)."""
    if path.endswith(".json"):
        found = jsonl.loads(Path(path).read_bytes())
        if isinstance(found, dict) and not {"task_id", "completion", "prompt"} & found.keys():
            return "report", found
    elif not path.endswith((".gz", ".zst")):
        first: dict[str, Any] = next(iter(jsonl.read([path])), {})
        if "update" in first and "task_id" not in first:
            return "log", None
    return "rows", None


def about_problem(row: Mapping[str, Any]) -> list[str]:
    """Entry point, what judges it, whether a solution is there."""
    tests = (
        f"{len(row['cases'])} cases" if row.get("cases") else f"{len(str(row.get('tests') or '').splitlines())} lines"
    )
    return [str(row.get("entry_point") or ""), tests, "yes" if row.get("canonical_solution") else "no"]


def totals(groups: Sequence[Group]) -> str:
    """A line about all of them."""
    size, judged, passed = (sum(getattr(g, name) for g in groups) for name in ("size", "judged", "passed"))
    text = f"{len(groups)} problems" + (f", {size} rows" if size > len(groups) else "")
    if judged:
        text += f", {passed} of {judged} judged passed ({passed / judged:.1%})"
    best = [g.tied_passed / g.tied for g in groups if g.tied]
    return text + (f"; the best-scored passes in {sum(best) / len(best):.1%}" if best else "")


def contrast(group: Sequence[dict[str, Any]]) -> tuple[dict[str, Any], dict[str, Any], list[str]] | None:
    """(the best-scored program, which is wrong; the passing one nearest to it; a diff), or None."""
    judged = [row for row in ranked(group) if row.get("passed") is not None]
    right = [row for row in judged if row["passed"]]
    if not right or judged[0]["passed"]:
        return None
    lines = rows.completion(judged[0]).splitlines()
    alike = lambda row: difflib.SequenceMatcher(None, lines, rows.completion(row).splitlines(), autojunk=False).ratio()  # noqa: E731
    nearest = max(right, key=alike)
    shown = difflib.unified_diff(lines, rows.completion(nearest).splitlines(), lineterm="", n=3)
    return judged[0], nearest, [*shown][2:]


def near(task: str, names: Iterable[str]) -> str:
    """`; did you mean ...?`"""
    close = difflib.get_close_matches(task, list(names), n=3, cutoff=0.5)
    return f"; did you mean {', '.join(close)}?" if close else ""


def number(row: Mapping[str, Any]) -> Any:
    return row.get("completion_id", row.get("sample"))


def ranked(group: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The best-scored first, of equals the better rank; the order of the input without scores and ranks."""
    return sorted(group, key=lambda row: (-_value(row, "score", -math.inf), _value(row, "rank", math.inf)))


def _value(row: Mapping[str, Any], field: str, otherwise: float) -> float:
    value = row.get(field)
    return float(value) if isinstance(value, (int, float)) and value == value else otherwise


def common_prompt(group: Sequence[Mapping[str, Any]]) -> str | None:
    """The prompt that all of them continue, if they do."""
    prompts = {row.get("prompt") for row in group}
    prompt = prompts.pop() if len(prompts) == 1 else None
    return (
        prompt if isinstance(prompt, str) and prompt.strip() and not any(rows.is_full(dict(r)) for r in group) else None
    )


def headline(name: str, row: Mapping[str, Any], of: int) -> str:
    """`HumanEval/3 #7, rank 1 of 20, score 3.21, Exception, .03 s: AssertionError`."""
    parts = [name + (f" #{number(row)}" if number(row) is not None else "")]
    if "rank" in row:
        parts.append(f"rank {row['rank']} of {of}")
    if isinstance(row.get("score"), (int, float)):
        parts.append(f"score {row['score']:.4g}")
    if "passed" in row:
        verdict = {True: "passed", False: "failed", None: "unjudged"}.get(row["passed"], "?")
        known = row.get("status")
        parts.append(verdict if not known or known == "OK" else f"{verdict} ({known})")
    if isinstance(row.get("time"), (int, float)):
        parts.append(f"{row['time']:.2f} s")
    if row.get("finish_reason") == "length":
        parts.append("cut off")
    last = last_line(str(row.get("stderr") or "")) if row.get("passed") is not True else ""
    reason = str(row.get("reason") or "") if row.get("passed") is None else ""
    return ", ".join(parts) + (f": {last or reason}" if last or reason else "")


def last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else ""


def overview(group: Group) -> list[str]:
    """[passed of judged, the best-scored one's verdict, statuses by number]."""
    count = f"{group.passed}/{group.judged}" if group.judged else f"-/{group.size}"
    best = "-"
    if group.tied:
        all_or_none = {group.tied: "passed", 0: "failed"}
        best = all_or_none.get(group.tied_passed, f"{group.tied_passed} of {group.tied} tied passed")
    return [count, best, " ".join(f"{name}:{n}" for name, n in group.statuses.most_common())]


def pair_counts(group: Group) -> list[int]:
    return [group.size, *(group.kinds[kind] for kind in KINDS)]


def pair_headline(name: str, pair: Mapping[str, Any]) -> str:
    """`HumanEval/3, hard, round 1: scored above the worst passing program`."""
    parts = [name, *([str(pair["kind"])] if pair.get("kind") else [])]
    if pair.get("round") is not None:
        parts.append(f"round {pair['round']}")
    if pair.get("margin") is not None:
        parts.append(f"margin {pair['margin']}")
    return ", ".join(parts) + (f": {pair['reason']}" if pair.get("reason") else "")


def side(pair: Mapping[str, Any], which: str) -> str:
    """`chosen #3, score 1.2`."""
    text = which
    if pair.get(f"{which}_id") is not None:
        text += f" #{pair[f'{which}_id']}"
    score = pair.get(f"{which}_score")
    return f"{text}, score {score:.4g}" if isinstance(score, (int, float)) else text


def message(value: Any) -> str:
    """A text, or the texts of a conversation."""
    if isinstance(value, list):
        return "\n".join(str(turn.get("content", "")) if isinstance(turn, dict) else str(turn) for turn in value)
    return str(value)


def flat(record: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested values under dotted names, one a line; long lists cut."""
    for key, value in record.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{name}.")
        elif isinstance(value, list) and len(value) > 8:
            yield (
                name,
                f"{len(value)} values, the last {value[-1]}"
                if not isinstance(value[-1], dict)
                else f"{len(value)} rows",
            )
        elif isinstance(value, float):
            yield name, f"{value:.6g}"
        else:
            yield name, "-" if value is None or value == {} else str(value)
