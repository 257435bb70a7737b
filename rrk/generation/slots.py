"""Decoding of rows of any problems and lengths together, each of which may begin and end at any step.

    slots = Slots(model)
    one, two = slots.read([[5, 6, 7], [5, 9]])    # prompts, once each: keys and values of all but the last token
    slots.put([0, 1, 2], [one, one, two])         # rows 0 to 2 begin
    logits = slots.step([7, 7, 9], [2, 2, 1])     # a token a row, how many stand before it -> (rows, vocabulary)

Each row has its keys and values in a buffer of its own, from the left, however long it is; a mask hides what lies beyond. Its
prompt's are copied there: reading them once for all rows of a problem (decoding.SharedPrefix) saves a tenth of a step at 0.5B,
but ties a batch to few problems of like lengths. Rows always stand together, from 0: the last moves into a hole.

transformers' own continuous batching (`generate_batch`, 5.23) is not used. Measured on two cores with a 0.5B model in bf16, 64
requests of 4 prompts, 24 tokens each: 38 tokens/s (19 with top-p .95), where `generate` gave 50 (40).
It draws from one random stream for all requests, gives log-probabilities of the cut and heated distribution only, and knows
no stop strings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from rrk.generation import decoding
from rrk.generation.decoding import Unsupported

GROWTH = 64  # tokens by which rows' buffers grow
PROMPTS = {"cpu": 1024, "cuda": 16384}  # tokens of prompts, padding counted, that are read together


@dataclass
class Prompt:
    """Keys and values of a prompt without its last token: (layers, heads, length, size)."""

    keys: Tensor
    values: Tensor

    @property
    def length(self) -> int:
        return self.keys.shape[2]


class Slots(Cache):
    """Rows of any problems, decoded together. Rows are addressed by their place; 0 to `rows` - 1 are in use.

    Unsupported (from any method): the architecture's attention is not softmax attention of transformers' interface.
    """

    def __init__(self, model):
        super().__init__(layers=[])
        config = model.config.get_text_config()
        layers = DynamicCache(config=config).layers
        if not getattr(model, "_supports_attention_backend", False) or config is not model.config:
            raise Unsupported("no attention interface")
        if len(layers) != config.num_hidden_layers:
            raise Unsupported("layers without keys and values")
        if any(type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers):
            raise Unsupported("layers with another kind of memory")
        self.model = model
        self.windowed = [type(layer) is DynamicSlidingWindowLayer for layer in layers]
        self.device = next(model.parameters()).device
        self.budget = PROMPTS.get(self.device.type, PROMPTS["cuda"])
        self.keys = self.values = torch.empty(0)  # (layers, rows, heads, length, size)
        self._at = torch.empty(0)  # of the step in progress: rows, their lengths, the masks by window
        self._lengths = torch.empty(0)
        self._masks: dict[int | None, Tensor] = {}
        self._seen = 0

    @property
    def rows(self) -> int:
        """Rows that the buffers hold."""
        return self.keys.shape[1] if self.keys.dim() > 1 else 0

    # ---- prompts -------------------------------------------------------------------------------------------------

    def read(self, prompts: Sequence[Sequence[int]]) -> list[Prompt]:
        """Each prompt's keys and values; several are read together, those of like lengths."""
        made: list[Prompt | None] = [None] * len(prompts)
        batch: list[int] = []
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        for place, i in enumerate(order):
            batch.append(i)
            longer = len(prompts[order[place + 1]]) if place + 1 < len(order) else None
            if longer is None or (len(batch) + 1) * longer > self.budget:
                for n, prompt in zip(batch, self._read([prompts[n] for n in batch]), strict=True):
                    made[n] = prompt
                batch = []
        return made  # type: ignore[return-value]

    def _read(self, prompts: Sequence[Sequence[int]]) -> list[Prompt]:
        # Padded on the right: a causal model's real tokens never see it, and need no mask. At least one token is read, for
        # the shapes' sake.
        lengths = [len(prompt) - 1 for prompt in prompts]
        ids = torch.zeros(len(prompts), max(*lengths, 1), dtype=torch.long)
        for row, prompt in zip(ids, prompts, strict=True):
            row[: len(prompt) - 1] = torch.tensor(list(prompt[:-1]), dtype=torch.long)
        cache = DynamicCache()  # without the config: windowed layers keep all, for a window is a mask here
        self.model(ids.to(self.device), past_key_values=cache, use_cache=True, logits_to_keep=1)
        layers: list[Any] = cache.layers
        if len({x.shape[1:] for layer in layers for x in (layer.keys, layer.values)}) > 1:
            raise Unsupported("layers of several shapes")
        if torch.is_autocast_enabled(self.device.type):
            dtype = torch.get_autocast_dtype(self.device.type)
        else:
            dtype = layers[0].keys.dtype
        keys = torch.stack([layer.keys for layer in layers]).to(dtype)
        values = torch.stack([layer.values for layer in layers]).to(dtype)
        # Clones: a view would keep the whole batch's.
        return [
            Prompt(keys[:, i, :, :length].clone(), values[:, i, :, :length].clone()) for i, length in enumerate(lengths)
        ]

    # ---- rows ----------------------------------------------------------------------------------------------------

    def put(self, rows: Sequence[int], prompts: Sequence[Prompt]) -> None:
        """These rows begin anew, after these prompts."""
        self._reserve(max(rows) + 1, max(prompt.length for prompt in prompts), prompts[0])
        together: dict[int, list[int]] = {}
        for row, prompt in zip(rows, prompts, strict=True):
            together.setdefault(id(prompt), []).append(row)
        known = {id(prompt): prompt for prompt in prompts}
        for name, own in together.items():
            prompt, at = known[name], torch.tensor(own, device=self.device)
            self.keys[:, at, :, : prompt.length] = prompt.keys.unsqueeze(1)
            self.values[:, at, :, : prompt.length] = prompt.values.unsqueeze(1)

    def move(self, sources: Sequence[int], targets: Sequence[int], longest: int) -> None:
        """Rows change places; they are no longer than this."""
        here, there = (torch.tensor(x, device=self.device) for x in (sources, targets))
        for buffer in (self.keys, self.values):
            buffer[:, there, :, :longest] = buffer[:, here, :, :longest]

    def fit(self, rows: int, longest: int) -> None:
        """Give memory back where less than half of it is needed."""
        length = _whole(longest, GROWTH)
        if self.keys.numel() and 2 * rows * length < self.keys.shape[1] * self.keys.shape[3]:
            self.keys = self.keys[:, :rows, :, :length].clone()
            self.values = self.values[:, :rows, :, :length].clone()

    def forget(self) -> None:
        """Give all memory back."""
        self.keys = self.values = torch.empty(0)

    def _reserve(self, rows: int, length: int, like: Prompt) -> None:
        have = (self.rows, self.keys.shape[3]) if self.rows else (0, 0)
        if rows <= have[0] and length <= have[1]:
            return
        more = (max(rows, have[0]), max(_whole(length, GROWTH), have[1]))
        for name, model in (("keys", like.keys), ("values", like.values)):
            # Zeros, for what is masked is still multiplied, by 0.
            fresh = model.new_zeros(model.shape[0], more[0], model.shape[1], more[1], model.shape[3])
            if self.rows and have[0]:
                fresh[:, : have[0], :, : have[1]] = getattr(self, name)
            setattr(self, name, fresh)

    # ---- a step --------------------------------------------------------------------------------------------------

    def step(self, tokens: Sequence[int], lengths: Sequence[int]) -> Tensor:
        """Logits (in the model's own format) after one more token a row; `lengths`: tokens before it."""
        longest = max(lengths) + 1
        if longest > self.keys.shape[3]:
            self._reserve(self.rows, longest, Prompt(self.keys[:, 0], self.values[:, 0]))
        given = torch.tensor([tokens, lengths]).to(self.device)
        self._at = torch.arange(len(tokens), device=self.device)
        self._lengths = given[1]
        self._seen = min(_whole(longest, decoding.TURN), self.keys.shape[3])
        self._masks = {}
        with decoding.attention(self.model):
            out = self.model(
                given[0].unsqueeze(-1),
                position_ids=given[1].unsqueeze(-1),
                past_key_values=self,
                use_cache=True,
                rrk_decoder=self,
            )
        return out.logits[:, -1]

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args, **kwargs):
        """Write one token's keys and values, each row's at its own place; returns the rows so far."""
        for buffer, new in ((self.keys[layer_idx], key_states), (self.values[layer_idx], value_states)):
            buffer[self._at, :, self._lengths] = new[:, :, 0].to(buffer.dtype)
        rows = len(self._at)
        return self.keys[layer_idx][:rows, :, : self._seen], self.values[layer_idx][:rows, :, : self._seen]

    def attend(self, layer: int, query: Tensor, keys: Tensor, values: Tensor, scaling: float, **how) -> Tensor:
        """Attention of one new token a row over its own row. (rows, heads, 1, size) -> (rows, 1, heads, size)."""
        rows, heads, _, size = query.shape
        window, cap = how.get("sliding_window"), how.get("softcap")
        if self.windowed[layer] and window is None:
            raise Unsupported("a window that its attention is not told of")
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
            at = torch.arange(self._seen, device=self.device)
            ends = self._lengths.unsqueeze(-1)
            seen = at <= ends
            if window is not None:
                seen &= at > ends - window
            self._masks[window] = seen.view(len(seen), 1, 1, -1)
        return self._masks[window]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self._seen - 1


def _whole(length: int, step: int) -> int:
    return -(-length // step) * step
