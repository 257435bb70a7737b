"""Reranker checkpoints: loading any classifier, giving a base model its one-logit head, and reading the score.

    model, tokenizer = load("runs/reranker", dtype="auto", device="auto")      # a classifier, or a LoRA folder (merged)
    model, tokenizer = load_base("runs/sft", seed=0)                           # causal or encoder, a fresh head if it has none
    logits = read_scores(model, batch, pooling="last")

The head is kept in float32, whatever the trunk's dtype: bfloat16 has 8 bits, so that raw logits would tie. The last token is
found by lengths, never by comparing ids with the pad token: with pad = eos the usual code reads the token before EOS.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rrk import seeds
from rrk.errors import RrkError
from rrk.generation import checkpoints, dtypes, packing
from rrk.generation.models import pick_device, training_attention


@dataclass
class Batch:
    """Right-padded rows; `lengths` are their real lengths; `positions` and `cache` where a prefix was read before."""

    ids: Tensor
    mask: Tensor
    lengths: Tensor
    types: Tensor | None = None
    positions: Tensor | None = None
    cache: Any = None


def collate(sequences: Sequence[Sequence[int]], pad: int, device: Any, types: Sequence[int] | None = None) -> Batch:
    """Right-padded batch; `types[i]` is the number of leading tokens of row i that are its first segment (encoders)."""
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    width = int(lengths.max())
    ids = torch.full((len(sequences), width), pad, dtype=torch.long)
    for i, sequence in enumerate(sequences):
        ids[i, : len(sequence)] = torch.tensor(sequence, dtype=torch.long)
    at = torch.arange(width)
    mask = (at < lengths[:, None]).long()
    kinds = None
    if types is not None:
        kinds = ((at >= torch.tensor(types)[:, None]).long() * mask).to(device)
    return Batch(ids.to(device), mask.to(device), lengths.to(device), kinds)


def is_encoder(config: Any) -> bool:
    """True for BERT's kind, which reads both ways. RrkError for encoder-decoders."""
    from transformers.models.auto import modeling_auto as auto

    if getattr(config, "is_encoder_decoder", False):
        raise RrkError(f"{config.model_type}: encoder-decoder models cannot be rerankers; use a decoder or an encoder")
    return config.model_type in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES


def trunk(model: Any) -> Any:
    """The transformer without its head."""
    return getattr(model, model.base_model_prefix)


def head(model: Any) -> Any:
    """The linear layer that gives the logit, or None where the architecture hides it."""
    return getattr(model, "score", None) or (getattr(model, "classifier", None) if is_encoder(model.config) else None)


def read_scores(model: Any, batch: Batch, pooling: str) -> Tensor:
    """One logit a row, float32 [rows]. `model` is a plain sequence classifier (not wrapped by PEFT or DDP)."""
    given: dict[str, Any] = {"input_ids": batch.ids, "attention_mask": batch.mask}
    if batch.types is not None:
        given["token_type_ids"] = batch.types
    if pooling == "cls":
        return model(**given).logits.float().squeeze(-1)
    if not is_encoder(model.config):
        given |= {"use_cache": batch.cache is not None, "position_ids": batch.positions, "past_key_values": batch.cache}
    hidden = trunk(model)(**given).last_hidden_state
    if pooling == "mean":
        weight = batch.mask.to(hidden.dtype).unsqueeze(-1)
        pooled = (hidden * weight).sum(1) / weight.sum(1)
    else:
        pooled = hidden[torch.arange(len(hidden), device=hidden.device), batch.lengths - 1]
    with torch.autocast(hidden.device.type, enabled=False):
        return head(model)(pooled.float()).squeeze(-1)


def read_packed(model: Any, packed: packing.Packed) -> Tensor:
    """One logit a text, float32 [texts], of a decoder: what read_scores gives for separate rows."""
    hidden = trunk(model)(
        input_ids=packed.ids,
        attention_mask=packing.mask_for(model, packed.segments),
        position_ids=packed.positions,
        use_cache=False,
    ).last_hidden_state
    with torch.autocast(hidden.device.type, enabled=False):
        return head(model)(hidden[packed.row, packed.column].float()).squeeze(-1)


@torch.no_grad()
def can_pack(model: Any, groups: Sequence[Sequence[Sequence[int]]], pad: int) -> bool:
    """Whether this architecture gives the same logits either way, tried on some groups. The model's mode is kept."""
    if is_encoder(model.config) or head(model) is None:
        return False
    training = model.training
    model.eval()
    try:
        wanted = read_scores(model, collate([text for group in groups for text in group], pad, model.device), "last")
        found = read_packed(model, packing.pack(groups, pad).to(model.device))
        return bool(torch.allclose(found, wanted, atol=packing.TOLERANCE, rtol=packing.TOLERANCE))
    except packing.UNPACKABLE:
        return False
    finally:
        model.train(training)


def longest(model: Any, tokenizer: Any) -> int | None:
    """Tokens that the model can read at once, None if nothing limits it.

    RoBERTa, XLM-R and MPNet count positions from behind their padding id: 514 positions hold 512 tokens. The tokenizer's own
    limit counts too, where it has one.
    """
    config = model.config.get_text_config()
    most = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
    found = [int(most)] if most else []
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, torch.nn.Embedding):
            behind = 0 if module.padding_idx is None else module.padding_idx + 1
            found.append(module.num_embeddings - behind)
    if tokenizer.model_max_length and tokenizer.model_max_length < 1 << 30 and is_encoder(model.config):
        found.append(int(tokenizer.model_max_length))
    return min(found, default=None)


def pad_id(tokenizer: Any) -> int:
    """An id for padding that is not EOS: masked everywhere, but classifiers elsewhere find the last token by it."""
    eos = tokenizer.eos_token_id
    candidates = [tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.bos_token_id, *tokenizer.all_special_ids]
    last = len(tokenizer) - 1
    return next((i for i in candidates if i is not None and i != eos), last if last != eos else 0)


def load(path: str | Path, device: str = "auto", dtype: str = "auto") -> tuple[Any, Any]:
    """(classifier in eval mode, tokenizer) from a checkpoint or a LoRA folder. RrkError if it cannot give one score."""
    target = pick_device(device)
    model, tokenizer = checkpoints.classifier(path, dtype=dtypes.picker(dtype, target))
    model.config.get_text_config().pad_token_id = pad_id(tokenizer)
    if head(model) is not None:
        head(model).float()
    elif not is_encoder(model.config):
        raise RrkError(f"{path}: {type(model).__name__} has no 'score' layer that rrk knows how to read")
    return model.to(target).eval(), tokenizer


def load_base(path: str | Path, seed: int = 0, note: Callable[[str], None] = lambda text: None) -> tuple[Any, Any]:
    """(classifier, tokenizer) to train, float32. A head that is missing, or has several labels, is drawn from `seed`.

    This is the only place where weights may be new, and `note` is told which.
    """
    torch.manual_seed(seeds.derive(seed, "reranker", "head"))
    model, tokenizer, new = checkpoints.to_classify(path, dtype=torch.float32, attn_implementation=training_attention())
    is_encoder(model.config)
    if new:
        note(f"{path}: has no trained score; {', '.join(new)} drawn anew (--seed)")
    model.config.get_text_config().pad_token_id = pad_id(tokenizer)
    if head(model) is None and not is_encoder(model.config):
        raise RrkError(f"{path}: {type(model).__name__} has no 'score' layer that rrk knows how to train")
    return model, tokenizer
