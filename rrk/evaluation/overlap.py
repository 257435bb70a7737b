"""Does a training corpus hold a benchmark? Shared n-grams of words, as in GPT-3's appendix C (Brown et al. 2020, arXiv
2005.14165): lower case, without punctuation, 13 words; a text of 8 to 12 words counts as one n-gram, a shorter one is not judged.

    index = Index(n=13)
    for row in problems: index.add(row)
    for row in corpus: index.look(row)
    index.lines()                    # a dict a problem, the most overlapping first
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from rrk import rows
from rrk.errors import RowError

N = 13
SHORTEST = 8
_WORD = re.compile(r"\w+")


def words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def grams(text: str, n: int = N) -> list[str]:
    """The text's n-grams in order; of a text shorter than n the whole, [] below SHORTEST words (or below n)."""
    found = words(text)
    if len(found) < min(SHORTEST, n):
        return []
    n = min(n, len(found))
    return [" ".join(found[i : i + n]) for i in range(len(found) - n + 1)]


@dataclass
class _Part:
    """A problem's prompt or solution: its n-grams, and those that the corpus has."""

    grams: frozenset[str]
    shared: set[str] = field(default_factory=set)

    def share(self) -> float | None:
        return len(self.shared) / len(self.grams) if self.grams else None


@dataclass
class _Problem:
    task_id: str
    language: str
    prompt: _Part
    solution: _Part
    rows: int = 0
    first: str = ""


class Index:
    """The n-grams of a benchmark, to which a corpus is held row by row."""

    def __init__(self, n: int = N):
        self.n = n
        self.problems: list[_Problem] = []
        self.rows = 0
        self._of: dict[str, list[tuple[_Problem, _Part]]] = {}
        self._lengths: set[int] = {n}

    def add(self, row: dict[str, Any]) -> None:
        """A problem; RowError for a row without a prompt."""
        prompt = row.get("prompt", row.get("text"))
        if not isinstance(prompt, str):
            raise RowError("no field 'prompt' (or 'text', as MBPP has); give Problem rows", rows.where(row))
        solution = next((row[k] for k in ("canonical_solution", "code") if isinstance(row.get(k), str)), "")
        parts = [_Part(frozenset(grams(text, self.n))) for text in (prompt, solution)]
        task, language = rows.problem_key(row)
        problem = _Problem(task, language, parts[0], parts[1])
        self.problems.append(problem)
        for part in parts:
            for gram in part.grams:
                self._of.setdefault(gram, []).append((problem, part))
                self._lengths.add(gram.count(" ") + 1)

    def look(self, row: Mapping[str, Any]) -> None:
        """A row of the corpus: all texts in it."""
        self.rows += 1
        hit: dict[int, _Problem] = {}
        for text in _texts(row):
            found = words(text)
            for n in self._lengths:
                for i in range(len(found) - n + 1):
                    for problem, part in self._of.get(gram := " ".join(found[i : i + n]), ()):
                        part.shared.add(gram)
                        hit[id(problem)] = problem
        for problem in hit.values():
            problem.rows += 1
            path, line = rows.where(row) or ("", 0)  # type: ignore[arg-type]
            problem.first = problem.first or (f"{path}:{line}" if path else str(self.rows))

    def lines(self) -> list[dict[str, Any]]:
        """A dict a problem. Shares are of its distinct n-grams; null where a text is too short to have one."""
        found = [
            {
                "task_id": p.task_id,
                "language": p.language,
                "prompt": p.prompt.share(),
                "prompt_ngrams": len(p.prompt.grams),
                "solution": p.solution.share(),
                "solution_ngrams": len(p.solution.grams),
                "rows": p.rows,
                "first": p.first or None,
                "example": min(p.solution.shared or p.prompt.shared, default=None),
            }
            for p in self.problems
        ]
        return sorted(found, key=lambda p: -max(p["prompt"] or 0.0, p["solution"] or 0.0))


def _texts(row: Mapping[str, Any]) -> Iterator[str]:
    """All texts of a row; a prompt and what follows it as one."""
    joined = [row.get("prompt"), next((row[k] for k in ("completion", "canonical_solution") if k in row), None)]
    if both := all(isinstance(part, str) for part in joined):
        yield "".join(map(str, joined))
    for name, value in row.items():
        if name not in ("task_id", "language", "model") and not (both and name in ("prompt", "completion")):
            yield from _strings(value)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _strings(part)
    elif isinstance(value, list):
        for part in value:
            yield from _strings(part)
