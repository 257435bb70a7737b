"""The methods of `rrk rerank`: what each needs, and its score.

    method = METHODS["codet"]
    method.validate(row)                                 # RowError: the field that is missing, and where it comes from
    scores = method.score(problem, seed)                 # ranking.py makes ranks of them

Higher is better for all. Methods that need a model (`reward`, `likelihood`, `reviewer`, `judge`, `fused`) are given its scores by the caller.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rrk import rows as fields
from rrk import seeds
from rrk.reranking import evidence
from rrk.reranking.ranking import identity

Rows = Sequence[dict[str, Any]]


@dataclass(frozen=True)
class Method:
    """`validate` raises RowError for a row that lacks a field; `score` is None where a model gives the scores."""

    about: str
    validate: Callable[[dict[str, Any]], object]
    score: Callable[[Rows, int], list[float]] | None


def _text(row: dict[str, Any]) -> None:
    fields.task_id(row)
    fields.completion(row)


def _pair(row: dict[str, Any]) -> None:
    _text(row)
    fields.need(row, "prompt", str, "the reranker reads prompt and program: -p PROBLEMS brings it")


def _evidence(row: dict[str, Any]) -> None:
    _text(row)
    evidence.passed_matrix([row])


def _examples(row: dict[str, Any]) -> None:
    _evidence(row)
    evidence.shown(row)


def _drawn(row: dict[str, Any], name: str, remedy: str) -> float:
    """A sampler's number. NaN is a broken server's, -Infinity a token without a chance: the last place, but a place."""
    _text(row)
    given = row.get(name)
    if isinstance(given, float) and math.isnan(given):
        return -math.inf
    return float(fields.need(row, name, (int, float), remedy))


def _tokens(row: dict[str, Any]) -> int:
    return max(fields.need(row, "tokens", int, "the mean needs the number of tokens; `rrk sample` writes it"), 1)


def _logprob(row: dict[str, Any]) -> float:
    return _drawn(row, "logprob", "`rrk sample` writes it; other tools' samples have none")


def _logprob_mean(row: dict[str, Any]) -> float:
    tokens = _tokens(row)
    return _logprob(row) / tokens


def _prob_mean(row: dict[str, Any]) -> float:
    tokens = _tokens(row)
    return _drawn(row, "prob", "`rrk sample` writes it; older samples have none") / tokens


def _score(row: dict[str, Any]) -> float:
    _text(row)
    return float(fields.need(row, "score", (int, float), "an earlier `rrk rerank` writes it"))


def _judged(row: dict[str, Any]) -> None:
    _text(row)
    fields.need(row, "passed", (bool, type(None)), "the oracle knows the verdict: run `rrk execute` first")


def _random(rows: Rows, seed: int) -> list[float]:
    return [seeds.derive(seed, "random", fields.task_id(row), identity(row, i)) / 2**63 for i, row in enumerate(rows)]


def _simple(score: Callable[[Rows], list[float]]) -> Callable[[Rows, int], list[float]]:
    return lambda rows, seed: score(rows)


METHODS: dict[str, Method] = {
    "reward": Method("a trained reranker's logit; -m DIR (Bradley-Terry)", _pair, None),
    "likelihood": Method("mean log-probability a token under any code model; -m MODEL (Chen et al. 2021)", _pair, None),
    "reviewer": Method("... and of the problem after the program; -m MODEL (Zhang et al. 2022)", _pair, None),
    "judge": Method("asked whether it is right: log p(Yes) - log p(No); -m MODEL, an instruct model", _pair, None),
    "logprob-sum": Method(
        "log-probability of the program (Chen et al. 2021)", _logprob, _simple(lambda rows: [_logprob(r) for r in rows])
    ),
    "logprob-mean": Method(
        "... a token (Chen et al. 2021)", _logprob_mean, _simple(lambda rows: [_logprob_mean(r) for r in rows])
    ),
    "prob-mean": Method(
        "mean probability of a token (Spiess et al. 2024)",
        _prob_mean,
        _simple(lambda rows: [_prob_mean(r) for r in rows]),
    ),
    "majority": Method("candidates with the same text (Wang et al. 2022)", _text, _simple(evidence.majority)),
    "ngram": Method("... with much the same words (after Jain et al. 2023)", _text, _simple(evidence.ngram)),
    "examples": Method(
        "passes the examples that the prompt shows (Li et al. 2022)", _examples, _simple(evidence.examples)
    ),
    "mbr-exec": Method("... with the same outputs (Shi et al. 2022)", _evidence, _simple(evidence.mbr_exec)),
    "codet": Method("agreement with generated tests (Chen et al. 2022)", _evidence, _simple(evidence.codet)),
    "b4": Method("... by posterior (Chen et al. 2024)", _evidence, _simple(evidence.b4)),
    "fused": Method("all of these in one probability; -m FILE of `rrk train-fusion`", _text, None),
    "score": Method(
        "the field as it stands; with it --ties takes a reranker's",
        _score,
        _simple(lambda rows: [_score(r) for r in rows]),
    ),
    "random": Method("by --seed: the floor", _text, _random),
    "first": Method("in the order given", _text, lambda rows, seed: [-float(i) for i in range(len(rows))]),
    "oracle": Method(
        "the verdict itself: the ceiling", _judged, lambda rows, seed: [float(r["passed"] is True) for r in rows]
    ),
}
