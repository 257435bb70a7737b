"""Whether a program's score is the same where it is trained and where it is ranked.

reading.check(trainer, scorer, base)                    # before the first step: RrkError, not an hour later
few = reading.shortest(trainer.train_dataset, FEW)
reading.as_trained(trainer, few), reading.as_scored(model, scorer, few)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from rrk.errors import RrkError
from rrk.reranking import network
from rrk.reranking.scorer import Scorer

FEW = 4  # groups on which training's reading is compared with the scorer's


def plain(trainer: Any) -> Any:
    """The sequence classifier under accelerate's and PEFT's wrappers."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    return model.get_base_model() if hasattr(model, "get_base_model") else model


@torch.no_grad()
def as_trained(trainer: Any, examples: Sequence[dict[str, Any]], exact: bool = False) -> torch.Tensor:
    """Logits of some groups' programs, by the pass that the loss is computed with; the model's mode is kept.

    exact: without --bf16's autocast, whose rounding would hide another reading (and is no fault of a base).
    """
    made = trainer._prepare_inputs(trainer.data_collator(list(examples)))
    given = {name: tensor for name, tensor in made.items() if name not in ("chosen", "rejected", "margin")}
    training = trainer.model.training
    trainer.model.eval()
    try:
        return trainer.logits(trainer.model, given, autocast=not exact).cpu()
    finally:
        trainer.model.train(training)


@torch.no_grad()
def as_scored(model: Any, scorer: Scorer, examples: Sequence[dict[str, Any]]) -> torch.Tensor:
    """The same by the reading of `rrk rerank`: rows of their own."""
    ids = [text for example in examples for text in example["ids"]]
    first = [place for example in examples for place in example["first"]]
    batch = network.collate(ids, scorer.pad, scorer.device, first if scorer.renderer.type_ids else None, first)
    return network.read_scores(model, batch, scorer.renderer.rendering.pooling).cpu()


def shortest(examples: Sequence[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    return sorted(examples, key=lambda example: sum(map(len, example["ids"])))[:count]


def check(trainer: Any, scorer: Scorer, base: str | Path) -> None:
    """RrkError, before the first step, unless what is trained is what will be scored: both in float32 on a few texts."""
    model = plain(trainer)
    training = model.training
    model.eval()
    try:
        few = shortest(trainer.train_dataset, FEW)
        trained, scored = as_trained(trainer, few, exact=True), as_scored(model, scorer, few)
    finally:
        model.train(training)
    apart = float((trained - scored).abs().max())
    if not apart <= 1e-3 * (1 + float(scored.abs().max())):
        raise RrkError(
            f"{base}: {type(model).__name__} scores a program otherwise in a batch for training than alone "
            f"(by {apart:.3g}): it cannot be trained as a reranker; choose another base, or another --pooling for an encoder"
        )
