"""Choosing by agreement: what the candidates of one problem say about each other, with no model at all.

    scores = SCORERS["codet"](rows)          # rows: all candidates of one problem; higher is better

`majority` and `ngram` compare texts. `mbr-exec`, `codet` and `b4` read the field `evidence` that `rrk execute --evidence TESTS`
adds: which of some model-written tests each candidate passed ("0110", a character a test) and a digest of each tested value.
`examples` reads what --examples or --public-cases adds: how many of the tests, from the first, the prompt itself shows. None of them are the
problem's hidden ones.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rrk import comments
from rrk import rows as fields
from rrk.errors import RowError

Rows = Sequence[dict[str, Any]]
_TOKEN = re.compile(r"\w+|[^\w\s]")
REMEDY = "add it with `rrk execute -p PROBLEMS --evidence TESTS`"
EXAMPLES = "add it with `rrk execute -p PROBLEMS --examples` (or --public-cases)"


def passed_matrix(rows: Rows) -> np.ndarray:
    """Which candidate passed which generated test: bool [candidates, tests]. Not judged counts as not passed."""
    texts = [_evidence(row, "passed", str) for row in rows]
    for row, text in zip(rows, texts, strict=True):
        if len(text) != len(texts[0]):
            raise RowError(
                f"evidence has {len(text)} tests where the problem's first row has {len(texts[0])}", fields.where(row)
            )
    flags = np.frombuffer("".join(texts).encode("ascii", "replace"), dtype=np.uint8) == ord("1")
    return flags.reshape(len(rows), len(texts[0]) if texts else 0)


def examples(rows: Rows) -> list[float]:
    """How many of the examples that the prompt shows a candidate passes: its evidence's first `shown` tests."""
    return [float(_evidence(row, "passed", str)[: shown(row)].count("1")) for row in rows]


def shown(row: dict[str, Any]) -> int:
    """How many of a row's tests the prompt shows; RowError where it was not asked for."""
    return _evidence(row, "shown", int, EXAMPLES)


def majority(rows: Rows) -> list[float]:
    """How many candidates have this very text, blank space and comments apart (self-consistency on text)."""
    texts = [normal_text(row) for row in rows]
    counts = Counter(texts)
    return [float(counts[text]) for text in texts]


def ngram(rows: Rows) -> list[float]:
    """How much a program has in common with the other candidates: its mean cosine similarity to them, between 0 and 1.

    A program is the set of its words and signs and of its pairs of neighbouring ones, blank space and comments apart. After the
    generalised self-consistency of Jain et al. 2023 (arXiv 2307.06857), whose similarity is the number of common n-grams;
    divided by the programs' sizes here, or the longest candidate would win.
    """
    sets = []
    for row in rows:
        words = _TOKEN.findall(normal_text(row))
        sets.append({*words, *itertools.pairwise(words)})
    weights = [1 / math.sqrt(len(found)) if found else 0.0 for found in sets]
    total: dict[Any, float] = defaultdict(float)
    for found, weight in zip(sets, weights, strict=True):
        for item in found:
            total[item] += weight
    others = max(len(rows) - 1, 1)
    # Rounded, so that the order of the candidates does not show in the last bit and part what is equal.
    return [
        round(max(0.0, weight * math.fsum(total[item] - weight for item in found) / others), 12)
        for found, weight in zip(sets, weights, strict=True)
    ]


def mbr_exec(rows: Rows) -> list[float]:
    """How many candidates give the same outputs on all test inputs (MBR-Exec, Shi et al. 2022, arXiv 2204.11454).

    The paper's loss is 1 where any output differs; its expectation is lowest for the largest group. Outputs are compared by
    digest; where a row has none, by which tests held.
    """
    signatures = output_signatures(rows)
    counts = Counter(signatures)
    return [float(counts[signature]) for signature in signatures]


def codet(rows: Rows) -> list[float]:
    """Dual execution agreement (CodeT, Chen et al. 2022, arXiv 2207.10397).

    Candidates that pass the same tests form a consensus set; its score is sqrt(candidates) x tests passed. The square root is
    what the authors' own program uses; the paper's equation has none.
    """
    matrix = passed_matrix(rows)
    keys = [row.tobytes() for row in matrix]
    counts = Counter(keys)
    return [math.sqrt(counts[key]) * float(row.sum()) for key, row in zip(keys, matrix, strict=True)]


def b4(rows: Rows, beta_0: float = 1e5, alpha_xy: float = 1e3) -> list[float]:
    """Log-posterior of each consensus set under Beta priors (B4, Chen et al. 2024, arXiv 2409.08692, equation 9).

    If set x and the tests y it passes are the right ones, then the prior on the share of right candidates and tests is
    Beta(alpha_xy, 1), wrong candidates pass right tests at a rate ~ Beta(1, 1), and wrong tests at a rate ~ Beta(1, beta_0).
    Defaults: the middle of the ranges that the authors searched.
    """
    matrix = passed_matrix(rows)
    n, m = matrix.shape
    keys = [row.tobytes() for row in matrix]
    counts = Counter(keys)
    column = matrix.sum(axis=0)
    scores: dict[bytes, float] = {}
    for key, row in zip(keys, matrix, strict=True):
        if key in scores:
            continue
        size, passes = counts[key], int(row.sum())
        # Passes of the candidates outside the set, on the set's tests and on the others (the set itself has none there).
        on_right = int(column[row].sum()) - size * passes
        on_wrong = int(column[~row].sum())
        scores[key] = (
            _log_beta(size, n, alpha=alpha_xy)
            + _log_beta(passes, m, alpha=alpha_xy)
            + _log_beta(on_right, (n - size) * passes)
            + _log_beta(on_wrong, (n - size) * (m - passes), beta=beta_0)
        )
    return [scores[key] for key in keys]


SCORERS: dict[str, Callable[[Rows], list[float]]] = {
    "majority": majority,
    "ngram": ngram,
    "mbr-exec": mbr_exec,
    "codet": codet,
    "b4": b4,
}


def output_signatures(rows: Rows) -> list[tuple]:
    """What each candidate computed on the test inputs, for comparing candidates."""
    result = []
    for row in rows:
        outputs = (row.get("evidence") or {}).get("outputs")
        result.append(tuple(outputs) if outputs else (_evidence(row, "passed", str),))
    return result


def normal_text(row: dict[str, Any]) -> str:
    """A completion without blank lines, comment lines, indentation depth's spelling and trailing blanks."""
    lines = []
    language = fields.language_code(str(row.get("language") or "py"))
    for line in fields.completion(row).splitlines():
        bare = line.strip()
        if bare and not comments.is_line(bare, language):
            depth = len(line) - len(line.lstrip())
            lines.append(f"{depth} {' '.join(bare.split())}")
    return "\n".join(lines)


def _evidence(row: dict[str, Any], name: str, kind: type, remedy: str = REMEDY) -> Any:
    found = fields.need(row, "evidence", dict, remedy)
    if not isinstance(found.get(name), kind):
        raise RowError(f"field 'evidence' has no '{name}'; {remedy}", fields.where(row))
    return found[name]


def _log_beta(successes: int, trials: int, alpha: float = 1.0, beta: float = 1.0) -> float:
    """log B(successes + alpha, trials - successes + beta): a Bernoulli series integrated over its Beta prior."""
    a, b = successes + alpha, trials - successes + beta
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
