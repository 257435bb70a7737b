"""What an answer cost: the tokens of its candidates, their ranking, and the evidence it went by; never the hidden tests.

    spent, each = of(problems, scored, stages)         # for a report; `each`: an Amount an axis
    each["flops"].best_of(4)                             # of the first 4 of n candidates, by problem
    axis([("13B", report), ("33B", report)])             # what all of them know
    found = against(ours, theirs, "flops", repeats=10_000, seed=0)

An answer is one program for one problem: the best-ranked of n candidates, which costs all n and the ranking, or one candidate
where there are no scores. Sizes and tokens come from the records that stages leave beside their files (rrk/lineage.py), which
count whatever was dropped on the way, else from the rows; at last they are estimated: the size from the model's name, tokens
from characters. `estimated` says so. What a stage used as a whole is shared out over its problems by their tokens, characters
or seconds, so that it has an interval.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rrk import costs, rows
from rrk.errors import UsageError
from rrk.evaluation import statistics

CHARACTERS = 3.4  # a token: measured on 48,600 tokens of MBPP programs by Qwen2.5-Coder's tokenizer
AXES = {
    "flops": "FLOPs an answer",
    "tokens": "tokens an answer",
    "cpu_seconds": "CPU s an answer",
    "wall_seconds": "s an answer",
}
Ks = tuple[int | None, int | None]  # of ours and of theirs; None: all
_SIZE = re.compile(r"(?i)(?<![a-z0-9.])(\d+(?:\.\d+)?)([bm])(?![a-z0-9])")
_ACTIVE = re.compile(r"(?i)-a(\d+(?:\.\d+)?)b(?![a-z0-9])")


@dataclass
class Drawn:
    """One model's candidates of one problem."""

    rows: int = 0
    tokens: int = 0
    told: int = 0  # rows with `tokens`
    characters: int = 0
    prompt_tokens: int | None = None
    prompt_characters: int = 0
    parameters: float | None = None
    seconds: float = 0.0  # of execution

    def add(self, row: Mapping[str, Any]) -> None:
        self.rows += 1
        text = row.get("completion", row.get("solution"))
        self.characters += len(text) if isinstance(text, str) else 0
        if isinstance(prompt := row.get("prompt"), str):
            self.prompt_characters = len(prompt)
        if type(tokens := row.get("tokens")) is int:
            self.tokens += tokens
            self.told += 1
        if type(read := row.get("prompt_tokens")) is int:
            self.prompt_tokens = read
        if isinstance(size := row.get("parameters"), (int, float)) and size > 0:
            self.parameters = float(size)
        if isinstance(seconds := row.get("time"), (int, float)) and seconds >= 0:
            self.seconds += seconds

    def written(self) -> float:
        return self.tokens if self.told == self.rows else self.characters / CHARACTERS

    def read(self) -> float:
        return self.prompt_tokens if self.prompt_tokens is not None else self.prompt_characters / CHARACTERS


def size_by_name(model: str) -> float | None:
    """Parameters by a model's name: `deepseek-coder-33b` has 33e9, of `Qwen3-Coder-30B-A3B` 3e9 work on a token."""
    found = _ACTIVE.search(model)
    if found:
        return float(found[1]) * 1e9
    sizes = _SIZE.findall(model)
    return float(sizes[-1][0]) * (1e9 if sizes[-1][1].lower() == "b" else 1e6) if sizes else None


@dataclass
class Amount:
    """What the answers used on one axis, a value a problem: `once` whatever the number of candidates, the prompt; `each`, which
    grows with it, the programs; `ranking`, of which a part `prompts` reads the prompt. `n`: candidates."""

    once: np.ndarray
    each: np.ndarray
    ranking: np.ndarray
    prompts: np.ndarray
    n: np.ndarray

    def total(self) -> np.ndarray:
        return self.once + self.each + self.ranking

    def best_of(self, k: int) -> np.ndarray:
        """Where only k of the n are drawn and ranked; one needs no ranking."""
        share = k / self.n
        ranking = self.ranking * (self.prompts + (1.0 - self.prompts) * share) if k > 1 else 0.0
        return self.once + self.each * share + ranking


def of(
    problems: Sequence[Mapping[str, Drawn]], scored: bool, stages: Iterable[Mapping[str, Any]]
) -> tuple[dict[str, Any], dict[str, Amount]]:
    """({"stages", "answer_is", "estimated", "unknown"}, an Amount for those of AXES that are known).

    `problems`: candidates by model. `stages`: a lineage's.
    """
    stages = list(stages)
    counts = np.array([max(1, sum(d.rows for d in p.values())) for p in problems], dtype=float)
    share = np.ones(len(problems)) if scored else 1.0 / counts  # of a problem's candidates that an answer takes
    estimated: set[str] = set()
    unknown: list[str] = []
    sampled = [s for s in stages if s["stage"] == "sample" and not s["params"].get("tests")]
    read, written, flops = _from_rows(problems, share, estimated)
    if sampled:
        totals = [s["cost"] for s in sampled]
        sizes = [
            c.get("parameters") or size_by_name(str(s["params"].get("model")))
            for s, c in zip(sampled, totals, strict=True)
        ]
        told = [sum(c.get(name) or 0 for c in totals) for name in ("tokens_read", "tokens_written")]
        if all(told) and all(c.get("items") == s["items"] for s, c in zip(sampled, totals, strict=True)):
            # All that was drawn, kept or not.
            estimated -= {"tokens"}
            read, written = _shared(told[0], read), _shared(told[1], written / share) * share
            if len({*sizes}) == 1 and sizes[0]:
                estimated = estimated - {"size"} if all(c.get("parameters") for c in totals) else estimated | {"size"}
                flops = (2.0 * float(sizes[0]) * read, 2.0 * float(sizes[0]) * written)
    texts = np.array([sum(d.characters for d in p.values()) for p in problems], dtype=float)
    asked = np.array([max((d.prompt_characters for d in p.values()), default=0) for p in problems], dtype=float)
    nothing = np.zeros(len(problems))
    amounts = {"tokens": (read, written, nothing)}
    ranked = [s for s in stages if s not in sampled and scored and _is_ranking(s)]
    if flops is not None:
        more = sum(costs.flops(s["cost"]) or 0.0 for s in ranked)
        amounts["flops"] = (*flops, _shared(more, texts))
    for name in ("cpu_seconds", "wall_seconds"):
        if sampled:
            drawn, ranking = (
                sum((_seconds(s, name, problems, written / share, share) for s in some), nothing)
                for some in (sampled, ranked)
            )
            amounts[name] = (nothing, drawn, ranking)
    if scored and not any(s["stage"] == "rerank" for s in stages):
        unknown.append("the ranking")
    used = [s for s in stages if s in sampled or s in ranked]
    for s in used:
        if s["cost"].get("items") != s["items"]:
            unknown.append(f"what an earlier run of `rrk {s['stage']}` used, which was killed")
    spent = {
        "stages": [{"stage": s["stage"], **s["cost"], "answer": s in used} for s in stages],
        "answer_is": "best of n" if scored else "one sample",
        "estimated": sorted(estimated),
        "unknown": unknown,
    }
    prompts = np.divide(asked, asked + texts, out=np.zeros_like(asked), where=asked + texts > 0)
    return spent, {name: Amount(*amounts[name], prompts, counts) for name in AXES if name in amounts}


def _is_ranking(stage: Mapping[str, Any]) -> bool:
    params = stage["params"]
    evidence = stage["stage"] == "execute" and any(params.get(k) for k in ("evidence", "examples", "public_cases"))
    return bool(stage["stage"] == "rerank" or evidence or (stage["stage"] == "sample" and params.get("tests")))


def _from_rows(
    problems: Sequence[Mapping[str, Drawn]], share: np.ndarray, estimated: set[str]
) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray] | None]:
    """Tokens read and written for an answer, and the FLOPs of both, by problem."""
    read, written, reading, writing = (np.zeros(len(problems)) for _ in range(4))
    known = True
    for i, drawn in enumerate(problems):
        for model, own in drawn.items():
            if own.told < own.rows or own.prompt_tokens is None:
                estimated.add("tokens")
            size = own.parameters
            if size is None:
                estimated.add("size")
                size = size_by_name(model)
            r, w = own.read(), own.written() * float(share[i])
            read[i] += r
            written[i] += w
            reading[i] += 2.0 * (size or 0.0) * r
            writing[i] += 2.0 * (size or 0.0) * w
            known = known and size is not None
    if not known:
        estimated.discard("size")
    return read, written, (reading, writing) if known else None


def _shared(total: float, weights: np.ndarray) -> np.ndarray:
    """A total over problems, by weight; evenly without any."""
    whole = weights.sum()
    return total * (weights / whole if whole else np.full(len(weights), 1.0 / max(1, len(weights))))


def _seconds(
    stage: Mapping[str, Any], name: str, problems: Sequence[Mapping[str, Drawn]], written: np.ndarray, share: np.ndarray
) -> np.ndarray:
    if stage["stage"] == "sample":
        weights = written
    elif stage["stage"] == "execute":
        weights = np.array([sum(d.seconds for d in p.values()) for p in problems])
    else:
        weights = np.array([sum(d.characters for d in p.values()) for p in problems], dtype=float)
    return _shared(float(stage["cost"].get(name) or 0.0), weights) * share


def training(models: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What the models behind a system were trained with: {"flops", "models": {folder: cost}}; {} where nothing is known."""
    told = {name: record["cost"] for name, record in models.items() if record.get("cost")}
    if not told:
        return {}
    known = [amount for cost in told.values() if (amount := costs.flops(cost)) is not None]
    return {"flops": sum(known) if len(known) == len(models) else None, "models": told}


def fewer(report: Mapping[str, Any]) -> list[tuple[int, Mapping[str, Any], Mapping[str, Any]]]:
    """(k, worth, {axis: cost}) of the best of k < n of a report's candidates, as if only k had been drawn."""
    worth = {point["k"]: point for point in report.get("best_of_k") or []}
    return [(at["k"], worth[at["k"]], at) for at in report["cost"].get("best_of_k") or [] if at["k"] in worth]


def quality(report: Mapping[str, Any]) -> str:
    """The metric that the cost of an answer goes with."""
    return "ranked_pass@1" if "ranked_pass@1" in report else "random"


def axis(entries: Sequence[tuple[str, Mapping[str, Any]]], wanted: str | None = None) -> str:
    """The first of AXES that all systems know; UsageError where they have none in common, or not the wanted one."""
    for name in [wanted] if wanted else ["flops", "cpu_seconds", "wall_seconds", "tokens"]:
        lacking = [system for system, report in entries if name not in report["cost"].get("answer", {})]
        if not lacking:
            return str(name)
    raise UsageError(
        f"{wanted or 'the cost'} is not known of {', '.join(lacking)}: rows need `tokens` and `parameters` (rrk sample "
        "writes them), seconds need the records that stages leave beside -o FILE"
    )


def against(
    ours: Mapping[str, Any], theirs: Mapping[str, Any], by: str, *, repeats: int, seed: int, ks: Ks = (None, None)
) -> dict[str, Any]:
    """Ours and theirs on their common problems: `quality` paired, and `cost`, the ratio of an answer's, ours to theirs.

    A system with scores answers with its best-ranked candidate, one without by one sample: two may differ in that. `ks`: the
    best of so many of ours and of theirs instead, of those that `fewer` tells.
    """
    keys = {(t["language"], t["task_id"]): t for t in theirs["tasks"]}
    pairs = [(t, keys[at]) for t in ours["tasks"] if (at := (t["language"], t["task_id"])) in keys]
    if not pairs:
        raise UsageError("the two have no problem in common: nothing can be compared in pairs")
    languages = [t["language"] for t, _ in pairs]
    clusters = [rows.base_problem(t["task_id"]) for t, _ in pairs]
    values = [[_worth(b, theirs, ks[1]) for _, b in pairs], [_worth(a, ours, ks[0]) for a, _ in pairs]]
    found = statistics.compare(values[0], values[1], languages, clusters, repeats=repeats, seed=seed)
    spent = [[_spent(t, by, k) for t in side] for side, k in zip(zip(*pairs, strict=True), ks, strict=True)]
    drawn = statistics.resample([*spent, *values], languages, clusters, repeats=repeats, seed=seed)
    mean = [float(value) for value in drawn.means]
    ratio: dict[str, float | None] = {"ratio": None, "low": None, "high": None}
    if mean[1]:
        with np.errstate(invalid="ignore", divide="ignore"):
            low, high = statistics.quantiles(drawn.draws[:, 0] / drawn.draws[:, 1]) or (None, None)
        ratio = {"ratio": mean[0] / mean[1], "low": low, "high": high}
    return {
        "quality": {**found, "ours": mean[3], "theirs": mean[2], "metrics": [quality(ours), quality(theirs)]},
        "cost": {"by": by, **ratio},
        **({"best_of": list(ks)} if ks != (None, None) else {}),
    }


def at_its_cost(ours: Mapping[str, Any], theirs: Mapping[str, Any], by: str) -> Ks | None:
    """The dearer system cut down to the largest k at which it costs no more than the other; None where it is no dearer, or has
    no scores, or one sample of it costs more."""
    spent = [report["cost"]["answer"][by]["mean"] for report in (ours, theirs)]
    dearer = int(spent[1] > spent[0])
    within = [k for k, _, at in fewer((ours, theirs)[dearer]) if by in at and at[by]["mean"] <= spent[1 - dearer]]
    if spent[0] == spent[1] or not within:
        return None
    return (None, max(within)) if dearer else (max(within), None)


def _worth(task: Mapping[str, Any], report: Mapping[str, Any], k: int | None) -> float:
    if k is not None:
        return float(task["best_of_k"][str(k)]["passes"])
    return float(task["ranked_pass@1"] if quality(report) == "ranked_pass@1" else task["passed"] / task["n"])


def _spent(task: Mapping[str, Any], by: str, k: int | None) -> float:
    return float((task["cost"] if k is None else task["best_of_k"][str(k)])[by])


def remarks(report: Mapping[str, Any]) -> list[str]:
    """How far the figures can be believed."""
    c = report["cost"]
    how = {"size": "the model's size by its name", "tokens": f"tokens by characters ({CHARACTERS} a token)"}
    said = [f"estimated: {', '.join(how[name] for name in c['estimated'])}"] if c.get("estimated") else []
    if c.get("unknown"):
        said.append(f"not counted, for nothing tells it: {', '.join(c['unknown'])}")
    return said
