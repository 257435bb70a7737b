"""Pair rows as training examples: groups that share a problem, dev problems set apart, hard negatives checked.

pairs, dev = split(pairs, candidates, share, seed)       # disjoint by base problem
examples = groups(pairs, renderer, size=2, cross=True)
check_pairs(mined, "runs/reranker")                      # hard negatives that are now below the median positive
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

from rrk import rows, seeds
from rrk.errors import RowError, UsageError
from rrk.generation import packing
from rrk.reranking import network
from rrk.reranking.render import Renderer
from rrk.reranking.scorer import Note, Question, Scorer


def validate_pair(row: dict[str, Any]) -> None:
    """RowError unless the row can be trained on."""
    rows.need(row, "chosen", str, "`rrk mine` writes pairs")
    rows.need(row, "rejected", str, "`rrk mine` writes pairs")
    if row.get("completion_kind") != "full":
        rows.need(row, "prompt", str, "a continuation is read after its prompt")
    if row.get("margin") is not None and not math.isfinite(rows.need(row, "margin", (int, float))):
        raise RowError(f"field 'margin' must be finite, not {row['margin']}", rows.where(row))


def groups(
    pairs: Iterable[dict[str, Any]], renderer: Renderer, *, size: int = 2, cross: bool = True, seed: int = 0
) -> list[dict[str, Any]]:
    """Training examples: {"ids": programs' token ids, "chosen": index, "rejected": index, "margin": a comparison each}.

    With a `margin` in any pair only the given pairs are compared: the others' margins are not known.
    """
    problems: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for pair in pairs:
        name = rows.task_id(pair) if "task_id" in pair or "name" in pair else str(pair.get("prompt"))
        # Programs of one group share a prompt, so its text is part of the key (two rounds may have worded it otherwise).
        problems.setdefault((name, f"{pair.get('language')}\0{pair.get('prompt') or ''}"), []).append(pair)
    found = []
    for (name, _), own in sorted(problems.items()):
        every = cross and all(pair.get("margin") is None for pair in own)
        random.Random(seeds.derive(seed, "groups", name)).shuffle(own)
        found += [_group(chunk, renderer, every) for chunk in _chunks(own, size, apart=every)]
    return found


def _chunks(pairs: list[dict[str, Any]], size: int, apart: bool) -> Iterable[list[dict[str, Any]]]:
    """Split a problem's pairs. `apart`: no program twice in a chunk if possible; otherwise the opposite, to read fewer."""
    left = list(pairs)
    while left:
        chunk = [left.pop(0)]
        while len(chunk) < size and left:
            chosen, rejected = {p["chosen"] for p in chunk}, {p["rejected"] for p in chunk}
            shared = lambda p: (p["chosen"] in chosen) + (p["rejected"] in rejected)  # noqa: B023, E731
            best = min(range(len(left)), key=lambda i: (shared(left[i]) if apart else -shared(left[i]), i))
            chunk.append(left.pop(best))
        yield chunk


def _group(chunk: list[dict[str, Any]], renderer: Renderer, cross: bool) -> dict[str, Any]:
    first = chunk[0]
    programs: dict[tuple[str, bool], int] = {}
    sides: list[tuple[int, int]] = []
    for pair in chunk:
        full = pair.get("completion_kind") == "full"
        sides.append(tuple(programs.setdefault((pair[side], full), len(programs)) for side in ("chosen", "rejected")))  # type: ignore[arg-type]
    comparisons = sides
    if cross:
        good, bad = dict.fromkeys(c for c, _ in sides), dict.fromkeys(r for _, r in sides)
        # A program on both sides (flaky tests, other tools' preferences) is only compared as its pairs say.
        mixed = good.keys() & bad.keys()
        comparisons = list(dict.fromkeys([*sides, *((c, r) for c in good for r in bad if not {c, r} & mixed)]))
    texts, flags = zip(*programs, strict=True)
    rendered = renderer.render(str(first.get("prompt") or ""), texts, first.get("language"), flags)
    margins = [float(pair.get("margin") or 0.0) for pair in chunk] if not cross else [0.0] * len(comparisons)
    return {
        "ids": [list(text.ids) for text in rendered],
        "first": [text.first for text in rendered],
        "chosen": [c for c, _ in comparisons],
        "rejected": [r for _, r in comparisons],
        "margin": margins,
    }


def split(
    pairs: Sequence[dict[str, Any]],
    candidates: Sequence[dict[str, Any]] | None,
    share: float,
    seed: int,
    note: Note = lambda text: None,
) -> tuple[list[dict[str, Any]], list[list[dict[str, Any]]]]:
    """(pairs to train on, dev problems), disjoint by base problem: HumanEval/0 in two languages is one problem.

    `candidates` (executed rows) are the dev set, less the problems that are trained on; otherwise a `share` of the base
    problems is taken out of the pairs, whose programs become candidates with known verdicts.
    """
    base = lambda row: rows.base_problem(rows.task_id(row))  # noqa: E731
    problems: dict[tuple[str, str], list[dict[str, Any]]] = {}
    if candidates is not None:
        trained = {base(pair) for pair in pairs if "task_id" in pair or "name" in pair}
        overlap = set()
        for row in candidates:
            rows.completion(row)
            rows.need(row, "passed", (bool, type(None)), "dev candidates need verdicts: run `rrk execute` first")
            if base(row) in trained:
                overlap.add(base(row))
            elif row["passed"] is not None:
                problems.setdefault((rows.task_id(row), str(row.get("language"))), []).append(row)
        if overlap:
            note(f"{len(overlap)} dev problems are also trained on: left out of dev")
        if not problems:
            raise UsageError("--dev: no judged candidate of a problem that is not trained on")
        return list(pairs), list(problems.values())
    if not share:
        return list(pairs), []
    kept = []
    for pair in pairs:
        if seeds.derive(seed, "dev", base(pair)) / 2**63 >= share:
            kept.append(pair)
            continue
        own = problems.setdefault((rows.task_id(pair), str(pair.get("language"))), [])
        shared: dict[str, Any] = {
            key: pair[key] for key in ("task_id", "name", "language", "prompt", "completion_kind") if key in pair
        }
        for side, passed in (("chosen", True), ("rejected", False)):
            row = {**shared, "completion": pair[side], "passed": passed}
            if row not in own:
                own.append(row)
    if not kept or not problems:
        raise UsageError(f"--dev-share {share} leaves nothing to train on, or nothing to look at; give more problems")
    return kept, list(problems.values())


def check_pairs(pairs: Sequence[dict[str, Any]], reranker: str | Path) -> dict[str, int]:
    """How many hard negatives a reranker puts below the median positive of their problem, and how many were before.

    "Before" is by the scores that stand in the pairs (`chosen_score`, `rejected_score`): those they were mined with.
    """
    problems: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for pair in pairs:
        validate_pair(pair)
        problems.setdefault((rows.task_id(pair), str(pair.get("language"))), []).append(pair)
    scorer = Scorer.load(reranker)
    asked = []
    for own in problems.values():
        texts = list(
            dict.fromkeys(
                (pair[side], pair.get("completion_kind") == "full") for pair in own for side in ("chosen", "rejected")
            )
        )
        asked.append(
            Question(
                str(own[0].get("prompt") or ""), [t for t, _ in texts], own[0].get("language"), [f for _, f in texts]
            )
        )
    count = {"hard_negatives": 0, "below_median_positive": 0, "below_before": 0}
    for own, q, scores in zip(problems.values(), asked, scorer.score_many(asked), strict=True):
        now = dict(zip(q.programs, scores, strict=True))
        before: dict[str, Any] = {
            pair[side]: pair.get(f"{side}_score") for pair in own for side in ("chosen", "rejected")
        }
        good = list(dict.fromkeys(pair["chosen"] for pair in own))
        known = [before[text] for text in good if before[text] is not None]
        for text in dict.fromkeys(pair["rejected"] for pair in own if pair.get("kind") == "hard"):
            count["hard_negatives"] += 1
            count["below_median_positive"] += now[text] < median(now[g] for g in good)
            old = before[text]
            count["below_before"] += bool(known) and old is not None and old < median(known)
    return count


class Collator:
    """Groups of several problems as one right-padded batch, with the comparisons' rows in it.

    packed: a row a group (rrk/generation/packing.py); otherwise a row a program.
    """

    def __init__(self, pad: int, types: bool, packed: bool = False):
        self.pad, self.types, self.packed = pad, types, packed

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        ids: list[Sequence[int]] = []
        first: list[int] = []
        chosen: list[int] = []
        rejected: list[int] = []
        margin: list[float] = []
        for example in examples:
            chosen += [len(ids) + i for i in example["chosen"]]
            rejected += [len(ids) + i for i in example["rejected"]]
            ids += example["ids"]
            first += example["first"]
            margin += example["margin"]
        if self.packed:
            batch = packing.pack([example["ids"] for example in examples], self.pad, first)
            made = vars(batch) | {"attention_mask": (batch.segments >= 0).long()}  # by which TRL counts tokens
        else:
            plain = network.collate(ids, self.pad, "cpu", first if self.types else None)
            made = {"input_ids": plain.ids, "attention_mask": plain.mask, "first": torch.tensor(first)}
            if plain.types is not None:
                made["token_type_ids"] = plain.types
        return made | {
            "chosen": torch.tensor(chosen),
            "rejected": torch.tensor(rejected),
            "margin": torch.tensor(margin),
        }


def cut(batch: dict[str, torch.Tensor], budget: int) -> list[dict[str, torch.Tensor]]:
    """A Collator's batch as several whose rows x longest row stay within the budget; [batch] itself where it does.

    What is compared stays together, so a part may be larger if one group is.
    """
    if batch["attention_mask"].numel() <= budget:
        return [batch]
    packed = "segments" in batch
    rows = len(batch["attention_mask"])
    lengths = batch["attention_mask"].sum(1).tolist()
    sides = torch.stack([batch["chosen"], batch["rejected"]])
    at = batch["row"][sides] if packed else sides
    low, high = at.amin(0).tolist(), at.amax(0).tolist()
    inside = {place for a, b in zip(low, high, strict=True) for place in range(a + 1, b + 1)}
    parts: list[list[int]] = []
    start = 0
    for end in range(1, rows + 1):
        if end < rows and end in inside:
            continue
        unit = list(range(start, end))
        start = end
        together = [*parts[-1], *unit] if parts else unit
        if parts and len(together) * max(lengths[row] for row in together) <= budget:
            parts[-1] = together
        else:
            parts.append(unit)
    return [_rows_of(batch, part, at, packed) for part in parts]


def _rows_of(
    batch: dict[str, torch.Tensor], part: list[int], at: torch.Tensor, packed: bool
) -> dict[str, torch.Tensor]:
    """Consecutive rows with the comparisons among them."""
    first, last = part[0], part[-1]
    compared = (at[0] >= first) & (at[0] <= last)
    width = int(batch["attention_mask"][first : last + 1].sum(1).max())
    made: dict[str, torch.Tensor] = {}
    if packed:
        chosen = torch.arange(first, last + 1, device=batch["row"].device)
        made = vars(packing.Packed.of(batch).rows(chosen))
        offset = int((batch["row"] < first).sum())
    else:
        offset = first
    for name, grid in batch.items():
        if name in ("chosen", "rejected"):
            made[name] = grid[compared] - offset
        elif name == "margin":
            made[name] = grid[compared]
        elif name not in made:
            made[name] = grid[first : last + 1, :width] if grid.ndim > 1 else grid[first : last + 1]
    return made
