"""Keys and values of rows of like lengths, a place for each: what slots.py is made of.

    shelf = Shelf(256, prompt)                                   # rows of at most 256 tokens, in the shapes of this prompt
    shelf.add([Place("a", 7)], prompt.keys[:, None], prompt.values[:, None])
    shelf.begin(lengths)                                         # a step: how many tokens each row holds
    shelf.write(layer, keys, values); shelf.attend(layer, query, scaling)

Widths are FIRST tokens and its doubles. With one width for all, a single long prompt among 128 rows costs 128 times its
length, in memory and in what every step reads.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from rrk.generation.decoding import TURN

FIRST = 256  # tokens
GROWTH = 2048  # tokens of whole rows by which buffers grow


@dataclass
class Prompt:
    """Keys and values of a prompt without its last token: (layers, heads, length, size)."""

    keys: Tensor
    values: Tensor

    @property
    def length(self) -> int:
        return self.keys.shape[2]


@dataclass(eq=False)
class Place:
    """A row: whose it is, and how many tokens' keys and values it holds."""

    owner: Any
    length: int


def width(length: int) -> int:
    """Of the shelf for a row that holds so many tokens and reads one more."""
    return FIRST << (length // FIRST).bit_length()


class Shelf:
    """Rows stand together, from 0: the last moves into a hole."""

    def __init__(self, width: int, like: Prompt):
        self.width = width
        self.places: list[Place] = []
        # (layers, rows, heads, width, size)
        self.keys, self.values = (
            x.new_empty(x.shape[0], 0, x.shape[1], width, x.shape[3]) for x in (like.keys, like.values)
        )
        self._lengths = self._rows = torch.empty(0)  # of the step in progress, with the masks by window
        self._masks: dict[int | None, Tensor] = {}
        self._seen = 0

    @property
    def bytes(self) -> int:
        return self.keys.nbytes + self.values.nbytes

    def reserve(self, more: int) -> None:
        """Make room for so many rows more."""
        if len(self.places) + more > self.keys.shape[1]:
            self._resize(len(self.places) + more)

    def add(self, places: Sequence[Place], keys: Tensor, values: Tensor) -> None:
        """Rows with what they hold: (layers, rows, heads, length, size), or one row for all of them."""
        self.reserve(len(places))
        at = slice(len(self.places), len(self.places) + len(places))
        self.keys[:, at, :, : keys.shape[3]] = keys
        self.values[:, at, :, : values.shape[3]] = values
        self.places += places

    def remove(self, numbers: Collection[int]) -> None:
        """These rows go."""
        gone = set(numbers)
        left = len(self.places) - len(gone)
        holes = [n for n in range(left) if n in gone]
        movers = [n for n in range(left, len(self.places)) if n not in gone]
        if movers:
            longest = max(self.places[n].length for n in movers)
            for buffer in (self.keys, self.values):
                buffer[:, holes, :, :longest] = buffer[:, movers, :, :longest]
            for hole, mover in zip(holes, movers, strict=True):
                self.places[hole] = self.places[mover]
        del self.places[left:]
        if 2 * left < self.keys.shape[1]:
            self._resize(left)

    def _resize(self, rows: int) -> None:
        """Keys first and values then: both, old and new, would be twice the memory."""
        step = max(1, GROWTH // self.width)
        rows = -(-rows // step) * step
        for name in ("keys", "values"):
            old = getattr(self, name)
            # Zeros, for what is masked is still multiplied, by 0.
            fresh = old.new_zeros(old.shape[0], rows, *old.shape[2:])
            kept = min(rows, len(self.places))
            fresh[:, :kept] = old[:, :kept]
            setattr(self, name, fresh)

    # ---- a step --------------------------------------------------------------------------------------------------

    def begin(self, lengths: Tensor) -> None:
        """Every row reads one token more; `lengths` are the places', on the device."""
        self._lengths = lengths
        self._rows = torch.arange(len(lengths), device=lengths.device)
        longest = max(place.length for place in self.places) + 1
        self._seen = min(-(-longest // TURN) * TURN, self.width)
        self._masks = {}

    def write(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """The new token's keys and values (rows, heads, 1, size), each row's at its own end."""
        for buffer, new in ((self.keys[layer], keys), (self.values[layer], values)):
            buffer[self._rows, :, self._lengths] = new[:, :, 0].to(buffer.dtype)

    def attend(
        self, layer: int, query: Tensor, scaling: float, window: int | None = None, cap: float | None = None
    ) -> Tensor:
        """Attention of the new token over its own row. (rows, heads, 1, size) -> (rows, 1, heads, size)"""
        rows, heads, _, size = query.shape
        keys, values = (buffer[layer][:rows, :, : self._seen] for buffer in (self.keys, self.values))
        mask = self._mask(window)
        # Query heads of a group stand as so many queries of one head: no copies of keys, and a matrix product for each.
        query = query.reshape(rows, keys.shape[1], heads // keys.shape[1], size).to(keys.dtype)
        if cap is None:
            mixed = scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=scaling)
        else:
            weights = (query @ keys.transpose(2, 3)).float() * scaling
            weights = (torch.tanh(weights / cap) * cap).masked_fill(~mask, -torch.inf).softmax(-1)
            mixed = weights.to(values.dtype) @ values
        return mixed.reshape(rows, 1, heads, values.shape[-1])

    def _mask(self, window: int | None) -> Tensor:
        """(rows, 1, 1, seen): what a row's new token sees."""
        if window not in self._masks:
            at = torch.arange(self._seen, device=self._lengths.device)
            ends = self._lengths.unsqueeze(-1)
            seen = at <= ends
            if window is not None:
                seen &= at > ends - window
            self._masks[window] = seen.view(len(seen), 1, 1, -1)
        return self._masks[window]
