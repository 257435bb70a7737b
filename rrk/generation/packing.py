"""Texts with a common beginning in one row of a batch: the beginning once, each text seeing it and itself alone.

    packed = pack([[ids, ids], [ids, ids, ids]], pad=0)                 # a row a group
    model(input_ids=packed.ids, position_ids=packed.positions, attention_mask=mask_for(model, packed.segments))

A row: P + 1 + 2 + ..., P the longest common beginning of its texts' token ids and 1, 2, ... what is left of each,
whose positions go on from P's. The attention mask (4-D, as transformers takes it) lets a token see P and what precedes it in
its own text. Hidden states and gradients are those of separate rows. Not every architecture takes such masks and positions:
whoever packs compares first (rrk.reranking.network.can_pack).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor

Ids = Sequence[int]
TOLERANCE = 2e-3  # between the logits of the two ways, in float32
# What models raise that know no position_ids or no 4-D masks.
UNPACKABLE = (TypeError, ValueError, RuntimeError, AttributeError, IndexError, NotImplementedError)


@dataclass
class Packed:
    """[rows, width]: ids, positions, segments (0 the shared beginning, 1, 2, ... the texts, -1 padding).
    [texts]: row and column of each text's last token, and where what is asked for begins in it (`start`, in its own tokens)."""

    ids: Tensor
    positions: Tensor
    segments: Tensor
    row: Tensor
    column: Tensor
    start: Tensor

    @classmethod
    def of(cls, batch: Mapping[str, Tensor]) -> Packed:
        """The packed batch among a collator's tensors."""
        return cls(**{field.name: batch[field.name] for field in fields(cls)})

    def rows(self, chosen: Tensor) -> Packed:
        """The packed batch of some rows, no wider than they need; texts in their order."""
        width = int((self.segments[chosen] >= 0).sum(1).max())
        among = torch.full((len(self.ids),), -1, device=chosen.device)
        among[chosen] = torch.arange(len(chosen), device=chosen.device)
        kept = among[self.row] >= 0
        ids, positions, segments = (grid[chosen, :width] for grid in (self.ids, self.positions, self.segments))
        return Packed(ids, positions, segments, among[self.row][kept], self.column[kept], self.start[kept])

    def to(self, device: Any) -> Packed:
        return Packed(**{name: tensor.to(device) for name, tensor in vars(self).items()})


def pack(groups: Sequence[Sequence[Ids]], pad: int, starts: Sequence[int] = ()) -> Packed:
    """One row a group, right-padded. Of each text at least the last token is its own. `starts`: one a text, default 0."""
    ids, positions, segments, row, column = [], [], [], [], []
    for number, group in enumerate(groups):
        columns = zip(*(text[: min(map(len, group)) - 1] for text in group), strict=True)
        shared = sum(1 for _ in takewhile(lambda tokens: len(set(tokens)) == 1, columns))
        line = list(group[0][:shared])
        place, segment = list(range(shared)), [0] * shared
        for which, text in enumerate(group, 1):
            line += text[shared:]
            place += range(shared, len(text))
            segment += [which] * (len(text) - shared)
            row.append(number)
            column.append(len(line) - 1)
        ids.append(line)
        positions.append(place)
        segments.append(segment)
    width = max(map(len, ids))
    grid = lambda lines, fill: torch.tensor([line + [fill] * (width - len(line)) for line in lines])  # noqa: E731
    begin = torch.tensor([*starts] or [0] * len(row))
    return Packed(
        grid(ids, pad), grid(positions, 0), grid(segments, -1), torch.tensor(row), torch.tensor(column), begin
    )


def predictions(packed: Packed) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(row, column whose hidden state predicts, token, text) of every token from `start` on, text after text."""
    found: list[tuple[Tensor, ...]] = []
    own = 0
    for text, (row, start) in enumerate(zip(packed.row.tolist(), packed.start.tolist(), strict=True)):
        own = own + 1 if text and row == int(packed.row[text - 1]) else 1
        segments = packed.segments[row]
        columns = ((segments == 0) | (segments == own)).nonzero().squeeze(-1)
        before, at = columns[start - 1 : -1], columns[start:]
        found.append((torch.full_like(at, row), before, packed.ids[row, at], torch.full_like(at, text)))
    rows, columns, tokens, texts = (torch.cat(parts) for parts in zip(*found, strict=True))
    return rows, columns, tokens, texts


def attention_mask(segments: Tensor, additive: bool) -> Tensor:
    """[rows, 1, width, width]: who may see whom, as bool or (additive) float32 with 0 and the lowest number."""
    before = torch.ones(segments.shape[1], segments.shape[1], dtype=torch.bool, device=segments.device).tril()
    seen, seer = segments[:, None, :], segments[:, :, None]
    # Padding sees itself: a softmax over nothing is NaN.
    allowed = (before & ((seen == 0) | (seen == seer)))[:, None]
    if not additive:
        return allowed
    lowest = torch.finfo(torch.float32).min
    return torch.zeros(allowed.shape, device=segments.device).masked_fill(~allowed, lowest)


def mask_for(model: Any, segments: Tensor) -> Tensor:
    """The mask in the kind that the model's attention takes: numbers to add for the plain one, bool for the others."""
    return attention_mask(segments, additive=getattr(model.config, "_attn_implementation", None) == "eager")


def window(config: Any) -> int | None:
    """Length from which a sliding window would look past the beginning of a text."""
    text = config.get_text_config()
    window = getattr(text, "sliding_window", None)
    kinds = getattr(text, "layer_types", None)
    if not window or getattr(text, "use_sliding_window", True) is False or (kinds and "sliding_attention" not in kinds):
        return None
    return int(window)
