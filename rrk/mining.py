"""Which (passing, failing) pairs of programs are worth learning from: one problem in, its Pair rows out.

    pairs = mine(candidates_of_one_problem, MiningOptions(hard_share=0.5, pairs=16), seed=0)
    left = mining.Figures(); mine(..., figures=left)     # what was left out, and why

*Random* pairs take any failing program. *Hard* pairs take a failing one that the reranker likes: among the problem's
`hard_top` best-scored failing programs (top-k rule), and scored at least as high as the `hard_quantile` of the passing
ones (quantile rule; 0 = above the worst passing program, 0.5 = above their median, 1 = above the best). A problem
without such programs gives random pairs instead (`fill`), so that it is not forgotten.

The paper found that hard negatives alone do not help; what a retrained reranker needs are verified positives of the
current policy with random negatives beside the hard ones. Hence the defaults: half hard, half random, and every
distinct passing program is used as `chosen` before one is used twice.

With `shares` (rows of `execute --all-tests`) programs are compared by the share of tests that held, which also teaches among
programs that fail: AceCoder's rule (Zeng et al. 2025, section 3.2) keeps a pair whose shares differ by `BY` or more, the better
at `BETTER` or above, the worse above 0 (with `zero` also those at 0, which are often half of the failing ones); the difference is
the pair's margin. Otherwise as with passing and failing.

Left out, always: rows without a verdict (`passed: null`), second copies of the same program (whitespace and comments
aside), and problems without both a passing and a failing program. Left out of hard negatives: programs that ran out of
time or of tokens (`Timeout`, `finish_reason: length`: they look right because they are not finished, and teach the
reranker to dislike length) and near-duplicates of a passing program (token 5-grams, Jaccard at least
`near_duplicate`): a verdict that hangs on one token in hundreds is more often noise than a lesson.

Deterministic: the draw depends on the seed, the round and the task_id alone, not on other problems or on batching.
"""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rrk import comments, rows, seeds
from rrk.errors import RowError

# Verdicts that say nothing about whether the program as written is wrong.
UNFINISHED = {"Timeout"}
SHINGLE = 5
BY, BETTER = 0.4, 0.8  # of pairs by share

_TOKEN = re.compile(r"[A-Za-z_]\w*|\d+(?:\.\d+)?|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'|\S")


@dataclass(frozen=True)
class MiningOptions:
    """`pairs` a problem at most; `hard_share` of them hard; `margin` written into every pair if given.

    shares: pairs and margins by pass_share; zero: programs at 0 too.
    """

    pairs: int = 16
    hard_share: float = 0.5
    hard_top: int | None = 8
    hard_quantile: float | None = 0.0
    fill: bool = True
    near_duplicate: float = 0.95
    negatives_per_positive: int | None = None
    margin: float | None = None
    round: int | None = None
    shares: bool = False
    zero: bool = False

    def __post_init__(self) -> None:
        if self.pairs < 1:
            raise ValueError("pairs must be at least 1")
        for name in ("hard_share", "hard_quantile", "near_duplicate"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"{name} must lie between 0 and 1, not {value}")


@dataclass
class Figures:
    """What came of all problems so far; keys are stable, they go into the summary line."""

    counts: Counter[str] = field(default_factory=Counter)

    def __getitem__(self, name: str) -> int:
        return self.counts[name]


@dataclass
class _Candidate:
    row: dict[str, Any]
    identity: int | str
    text: str
    score: float | None
    language: str
    key: Hashable  # what programs that are the same have in common
    share: float  # of tests that held; 1 and 0 for passed and failed where shares are not compared

    def shingles(self) -> frozenset[tuple[str, ...]]:
        return shingles(tokens(self.text, self.language))


def validate(row: dict[str, Any]) -> None:
    """RowError unless the row can be mined: a program with a verdict."""
    rows.completion(row)
    rows.need(row, "passed", (bool, type(None)), "run `rrk execute` first: only verified programs are mined")
    if not rows.is_full(row):
        rows.need(row, "prompt", str)


def validate_shares(row: dict[str, Any]) -> None:
    """RowError unless the row can be mined by shares."""
    validate(row)
    if row["passed"] is not None:
        share = rows.need(
            row, "pass_share", (int, float), "run `rrk execute --all-tests`, which counts tests one by one"
        )
        if not 0 <= share <= 1:
            raise RowError(f"field 'pass_share' must lie between 0 and 1, not {share!r}", rows.where(row))


def tokens(text: str, language: str) -> list[str]:
    """The program's tokens without whitespace and line comments; two programs with the same tokens are the same.

    A line comment is only dropped where the line begins with it: `#` and `//` inside code may be an operator or text.
    Indentation is kept for Python, where it is syntax.
    """
    found: list[str] = []
    for line in _lines(text, language):
        if language == "py":
            found.append(f"<{len(line) - len(line.lstrip())}>")
        found += _TOKEN.findall(line)
    return found


def keys(texts: Sequence[str], language: str) -> list[Hashable]:
    """A key a program, equal where `tokens` are: the tokens are only looked at where the texts without blanks agree."""
    bare = ["".join("".join(_lines(text, language)).split()) for text in texts]
    spellings: dict[str, set[str]] = defaultdict(set)
    for short, text in zip(bare, texts, strict=True):
        spellings[short].add(text)
    return [
        short if len(spellings[short]) == 1 else tuple(tokens(text, language))
        for short, text in zip(bare, texts, strict=True)
    ]


def _lines(text: str, language: str) -> list[str]:
    """The lines that are neither blank nor a comment."""
    lines = [line for line in text.splitlines() if line and not line.isspace()]
    marks = comments.marks(language)
    if any(mark in text for mark in marks):
        return [line for line in lines if not line.lstrip().startswith(marks)]
    return lines


def shingles(words: Sequence[str]) -> frozenset[tuple[str, ...]]:
    """Its token n-grams; a program shorter than one n-gram is its own only one."""
    return frozenset(tuple(words[i : i + SHINGLE]) for i in range(max(1, len(words) - SHINGLE + 1)))


def similarity(a: frozenset[tuple[str, ...]], b: frozenset[tuple[str, ...]]) -> float:
    """Jaccard: shared share of all n-grams."""
    return len(a & b) / len(a | b)


def mine(
    candidates: Sequence[dict[str, Any]], options: MiningOptions, *, seed: int = 0, figures: Figures | None = None
) -> list[dict[str, Any]]:
    """Pair rows of one problem, hard ones first; empty if it has nothing to compare."""
    count = (figures or Figures()).counts
    count["problems"] += 1
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in candidates:
        groups.setdefault(rows.language_code(str(row.get("language") or "py")), []).append(row)
    # MultiPL-E names a problem alike in every language; programs are compared within one.
    pairs = [pair for language, group in groups.items() for pair in _mine(group, language, options, seed, count)]
    count["problems_with_pairs"] += bool(pairs)
    return pairs


def _mine(
    candidates: Sequence[dict[str, Any]], language: str, options: MiningOptions, seed: int, count: Counter[str]
) -> list[dict[str, Any]]:
    passing, failing = _distinct(candidates, language, count, options)
    if not passing or not failing:
        count["all_failing" if failing else "all_passing" if passing else "nothing_judged"] += 1
        return []
    task = rows.task_id(candidates[0])
    rng = random.Random(seeds.derive(seed, "mine", task, language, -1 if options.round is None else options.round))
    want_hard = round(options.pairs * options.hard_share)
    reasons = _hard(passing, failing, options, count) if want_hard else {}
    plan = _Plan(passing, options, rng)
    hard = plan.draw([failing[i] for i in reasons], min(want_hard, options.pairs))
    # Random draws leave out a failing program only where its pair is taken already.
    want_random = options.pairs - (len(hard) if options.fill else want_hard)
    easy = plan.draw(failing, want_random)
    if options.fill and len(hard) + len(easy) < options.pairs:
        hard += plan.draw([failing[i] for i in reasons], options.pairs - len(hard) - len(easy))
    reason_of = {id(failing[i]): reason for i, reason in reasons.items()}
    if options.shares:  # what passing and failing alone would not have given
        count["chosen_failed_some"] += sum(good.share < 1 for good, _ in hard + easy)
        count["problems_nothing_passed"] += bool(hard + easy) and not any(good.share == 1 for good in passing)
    count["hard"] += len(hard)
    count["random"] += len(easy)
    count["hard_negatives"] += len({id(bad) for _, bad in hard})
    return [
        *(_pair(good, bad, "hard", reason_of[id(bad)], options) for good, bad in hard),
        *(_pair(good, bad, "random", "drawn at random", options) for good, bad in easy),
    ]


def _distinct(
    candidates: Sequence[dict[str, Any]], language: str, count: Counter[str], options: MiningOptions
) -> tuple[list[_Candidate], list[_Candidate]]:
    """Passing and failing programs, each text once; by shares, those that may be the better and the worse of a pair."""
    sides: tuple[list[_Candidate], list[_Candidate]] = ([], [])
    seen: dict[Hashable, bool] = {}
    conflicting: set[Hashable] = set()
    judged = [(position, row) for position, row in enumerate(candidates) if row["passed"] is not None]
    count["unjudged"] += len(candidates) - len(judged)
    texts = [rows.completion(row) for _, row in judged]
    for (position, row), text, key in zip(judged, texts, keys(texts, language), strict=True):
        verdict = row["passed"]
        if key in seen:
            count["duplicates"] += 1
            if seen[key] != verdict:
                conflicting.add(key)
            continue
        seen[key] = bool(verdict)
        identity = row.get("completion_id")
        score = row.get("score")
        share = float(row["pass_share"] if options.shares else verdict)
        if options.shares and share == 0 and not options.zero:
            count["left_out_share_0"] += 1
            continue
        sides[0 if share >= BETTER else 1].append(
            _Candidate(row, position if identity is None else identity, text, score, language, key, share)
        )
    # The same program with both verdicts: flaky tests. Neither is a lesson.
    count["flaky"] += len(conflicting)
    passing, failing = ([c for c in side if c.key not in conflicting] for side in sides)
    return passing, failing


def _hard(
    passing: Sequence[_Candidate], failing: Sequence[_Candidate], options: MiningOptions, count: Counter[str]
) -> dict[int, str]:
    """Index into `failing` -> why it is a hard negative, best score first."""
    scored = {}
    for index, bad in enumerate(failing):
        if _score(bad) is None or bad.row.get("status") in UNFINISHED:
            count["hard_left_out_timeout"] += bad.row.get("status") in UNFINISHED
        elif bad.row.get("finish_reason") == "length":
            count["hard_left_out_truncated"] += 1
        else:
            scored[index] = float(bad.score)  # type: ignore[arg-type]
    order = sorted(scored, key=lambda i: (-scored[i], i))
    good_scores = sorted(float(s) for s in map(_score, passing) if s is not None)
    if options.hard_quantile is not None:
        if not good_scores:
            return {}
        bar = _quantile(good_scores, options.hard_quantile)
        order = [i for i in order if scored[i] >= bar]
    good_shingles = [good.shingles() for good in passing]
    reasons: dict[int, str] = {}
    for index in order:
        if options.hard_top is not None and len(reasons) >= options.hard_top:
            break
        own = failing[index].shingles()
        if any(similarity(own, other) >= options.near_duplicate for other in good_shingles):
            count["hard_left_out_near_duplicate"] += 1
            continue
        reasons[index] = _reason(len(reasons) + 1, scored[index], good_scores)
    return reasons


def _score(candidate: _Candidate) -> float | None:
    if candidate.score is None:
        raise RowError(
            "no field 'score': hard negatives are wrong programs that a reranker likes; "
            "run `rrk rerank` first, or mine --random",
            rows.where(candidate.row),
        )
    if candidate.score != candidate.score:
        raise RowError("field 'score' is not a number (NaN)", rows.where(candidate.row))
    return candidate.score


def _quantile(ordered: Sequence[float], q: float) -> float:
    """Linear interpolation, as numpy's default."""
    at = q * (len(ordered) - 1)
    low = int(at)
    high = min(low + 1, len(ordered) - 1)
    if ordered[low] == ordered[high]:  # also keeps infinities from becoming NaN
        return ordered[low]
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)


def _reason(place: int, score: float, good_scores: Sequence[float]) -> str:
    beaten = sum(score > other for other in good_scores)
    if not good_scores:
        return f"wrong no. {place} by score"
    if beaten == len(good_scores):
        return f"wrong no. {place} by score, outscores every passing program"
    return f"wrong no. {place} by score, outscores {beaten} of {len(good_scores)} passing programs"


class _Plan:
    """Draws distinct pairs so that positives and negatives are each used evenly."""

    def __init__(self, passing: Sequence[_Candidate], options: MiningOptions, rng: random.Random):
        self._passing = list(passing)
        rng.shuffle(self._passing)
        self._rng = rng
        self._taken: set[tuple[int, int]] = set()
        self._used: Counter[int] = Counter()  # positives
        self._limit = options.negatives_per_positive

    def draw(self, failing: Sequence[_Candidate], want: int) -> list[tuple[_Candidate, _Candidate]]:
        """Up to `want` pairs with these negatives, each used once before any is used twice."""
        drawn: list[tuple[_Candidate, _Candidate]] = []
        while len(drawn) < want:
            progress = False
            for bad in self._rng.sample(list(failing), len(failing)):
                if len(drawn) >= want:
                    break
                good = self._partner(bad)
                if good is not None:
                    self._taken.add((id(good), id(bad)))
                    self._used[id(good)] += 1
                    drawn.append((good, bad))
                    progress = True
            if not progress:
                break
        return drawn

    def _partner(self, bad: _Candidate) -> _Candidate | None:
        """The least used passing program that this one is not paired with yet."""
        free = [
            good
            for good in self._passing
            if good.share - bad.share >= BY - 1e-9  # .9 - .5 is .4
            and (id(good), id(bad)) not in self._taken
            and (self._limit is None or self._used[id(good)] < self._limit)
        ]
        return min(free, key=lambda good: self._used[id(good)], default=None)


def _pair(good: _Candidate, bad: _Candidate, kind: str, reason: str, options: MiningOptions) -> dict[str, Any]:
    row = good.row
    pair: dict[str, Any] = {
        "task_id": rows.task_id(row),
        "language": row.get("language") or "py",
        "prompt": row.get("prompt") or "",
        "chosen": good.text,
        "rejected": bad.text,
    }
    if rows.is_full(row):
        pair["completion_kind"] = "full"
    if options.shares:
        pair |= {"margin": round(good.share - bad.share, 6), "chosen_share": good.share, "rejected_share": bad.share}
    elif options.margin is not None:
        pair["margin"] = options.margin
    pair |= {
        "chosen_id": good.identity,
        "rejected_id": bad.identity,
        "chosen_score": good.score,
        "rejected_score": bad.score,
        "kind": kind,
        "reason": reason,
    }
    if options.round is not None:
        pair["round"] = options.round
    return pair


def replay(old: Iterable[dict[str, Any]], limit: int, *, seed: int = 0) -> list[dict[str, Any]]:
    """Up to `limit` of a problem's pairs of earlier rounds, marked `kind: replay`; their own kind moves to `reason`."""
    pairs = list(old)
    if len(pairs) > limit:
        rng = random.Random(seeds.derive(seed, "replay", rows.task_id(pairs[0])))
        pairs = [pairs[i] for i in sorted(rng.sample(range(len(pairs)), limit))]
    return [{**p, "kind": "replay", "reason": f"{p.get('kind', 'pair')} of round {p.get('round', '?')}"} for p in pairs]
