"""Programs as the passes of an update read them: cut to a budget of tokens, and a prompt once for all its programs.

    for rows in cut(drawn, budget, packs=network.packs):    # a micro-batch: rows of programs, as indices
        seen = network(collate(drawn, rows, device))        # flat: program after program, in the order of rows

Where the architecture allows it (policy.packable), programs of one prompt stand behind it in one row
(rrk/generation/packing.py). Minibatches are drawn from all programs, so that of a prompt's four one holds 1.5: optimising gains
less than looking does (tests/benchmarks/ppo_packing.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rrk.generation import memory, packing

WIDE = 2  # a row is at most so many times as long as its longest text: attention grows by the square


@dataclass
class Text:
    """A prompt and the tokens drawn after it, with the EOS or stop string."""

    prompt: list[int]
    ids: list[int]


@dataclass
class Batch:
    """Right-padded rows. `keep` picks the positions whose next token was drawn; `drawn` are those tokens, flat.

    Packed rows have segments and positions in place of an attention mask.
    """

    input_ids: Tensor
    keep: Any
    drawn: Tensor
    attention_mask: Tensor | None = None
    segments: Tensor | None = None
    positions: Tensor | None = None

    def given(self, model: Any) -> dict[str, Any]:
        """What the transformer is called with."""
        mask = self.attention_mask if self.segments is None else packing.mask_for(model, self.segments)
        return {
            "input_ids": self.input_ids,
            "attention_mask": mask,
            "position_ids": self.positions,
            "use_cache": False,
        }

    @property
    def tokens(self) -> int:
        """Tokens that are read, padding not counted."""
        real = self.attention_mask if self.segments is None else self.segments >= 0
        assert real is not None
        return int(real.sum())


def cut(drawn: Sequence[Text], budget: int, packs: int) -> list[list[list[int]]]:
    """Micro-batches of rows of programs: rows x longest row within the budget, but for a single program that is longer.

    `packs`: programs of one prompt share a row if none is longer than this, prompt included.
    """
    prompts: dict[Any, list[int]] = {}
    for i, d in enumerate(drawn):
        shares = len(d.prompt) + len(d.ids) <= packs
        prompts.setdefault(tuple(d.prompt) if shares else i, []).append(i)
    rows = [row for own in prompts.values() for row in _rows(drawn, own, budget)]
    widths = [len(drawn[row[0]].prompt) + sum(len(drawn[i].ids) for i in row) for row in rows]
    return [[rows[n] for n in group] for group in memory.groups(widths, budget)]


def _rows(drawn: Sequence[Text], own: Sequence[int], budget: int) -> list[list[int]]:
    """A prompt's programs, as many in a row as may be."""
    prompt = len(drawn[own[0]].prompt)
    most = min(budget, WIDE * (prompt + max(len(drawn[i].ids) for i in own)))
    rows: list[list[int]] = []
    width = most
    for i in own:
        if not rows or width + len(drawn[i].ids) > most:
            rows.append([])
            width = prompt
        rows[-1].append(i)
        width += len(drawn[i].ids)
    return rows


def collate(drawn: Sequence[Text], rows: Sequence[Sequence[int]], device: Any) -> Batch:
    """One micro-batch. Masks come from lengths, never from ids: pad = eos cannot confuse them (TRL 6952)."""
    if any(len(row) > 1 for row in rows):
        return _packed(drawn, rows, device)
    texts = [drawn[i] for row in rows for i in row]
    width = max(len(d.prompt) + len(d.ids) for d in texts)
    ids = torch.zeros(len(texts), width, dtype=torch.long)
    attention, keep = torch.zeros_like(ids), torch.zeros_like(ids, dtype=torch.bool)
    for i, d in enumerate(texts):
        length = len(d.prompt) + len(d.ids)
        ids[i, :length] = torch.tensor([*d.prompt, *d.ids])
        attention[i, :length] = 1
        keep[i, len(d.prompt) - 1 : length - 1] = True  # the position before a token predicts it
    tokens = torch.tensor([token for d in texts for token in d.ids], dtype=torch.long)
    return Batch(ids.to(device), keep.to(device), tokens.to(device), attention.to(device))


def _packed(drawn: Sequence[Text], rows: Sequence[Sequence[int]], device: Any) -> Batch:
    texts = [[[*drawn[i].prompt, *drawn[i].ids] for i in row] for row in rows]
    packed = packing.pack(texts, 0, [len(drawn[i].prompt) for row in rows for i in row])
    row, column, tokens, _ = packing.predictions(packed)
    keep = (row.to(device), column.to(device))
    return Batch(
        packed.ids.to(device),
        keep,
        tokens.to(device),
        segments=packed.segments.to(device),
        positions=packed.positions.to(device),
    )
