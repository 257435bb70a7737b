"""Step-by-step decoding of many rows whose prompts repeat: n samples a problem, several problems at a time.

    decoder = start(model, prompts, owners)     # prompts: token ids a problem; owners: the problem of each row
    logits = decoder.step(tokens)               # float32 (rows, vocabulary)
    decoder.keep(rows)                          # only these rows (indices, ascending) go on

Two ways, chosen by what the architecture allows:

- SharedPrefix: a prompt's keys and values are computed once and read once a step by all its rows together; a row holds only
  what it wrote itself, in a buffer that is filled in place (cascade attention; Juravsky et al. 2024, "Hydragen"). It takes
  part in the model's own forward as an attention implementation of transformers.
- Repeated: transformers' cache, repeated over the rows. Any architecture that has such a cache; one problem at a time.

The last prompt token is not prefilled: every row's first step is that token, so that no logits are computed for prompts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

NAME = "rrk"
BUCKET = 32  # prompts are padded to multiples of this; problems of one bucket can be drawn together
GROWTH = 32  # tokens by which a row's own buffers grow
LEAST_ROWS = 4  # matrix products of fewer rows take other paths in BLAS, with other rounding
TURN = 32  # elements that torch's vector loops take at a time on a CPU; they round a last, incomplete turn differently


class Unsupported(Exception):
    """This architecture's attention is not the plain one that SharedPrefix computes."""


def bucket(prompt: Sequence[int]) -> int:
    """The padded length of a prompt without its last token. It depends on the prompt alone: so must every shape."""
    return -(-(len(prompt) - 1) // BUCKET) * BUCKET


def fills(model) -> list[int]:
    """Rows to fill up to multiples of, so that every layer's output is whole turns of the vector loops for each thread.

    TURN elements are 32 float32 with AVX-512, two registers. Which of these rounds every row alike depends on the
    processor as well (with AMX, products of fewer than 16 rows take other paths): the sampler's trial finds it out.
    """
    widths = {module.out_features for module in model.modules() if isinstance(module, torch.nn.Linear)}
    turns = TURN * torch.get_num_threads()
    return [n for n in (4, 8, 16) if all(n * width % turns == 0 for width in widths)] + [TURN]


def shares_prefix(model) -> bool:
    """True if SharedPrefix may be tried: transformers' attention interface, full attention in every layer."""
    config = model.config.get_text_config()
    if not getattr(model, "_supports_attention_backend", False) or config is not model.config:
        return False
    layers = DynamicCache(config=config).layers
    return len(layers) == config.num_hidden_layers and all(type(layer) is DynamicLayer for layer in layers)


class Repeated:
    """The prompt's cache, repeated over the rows of one problem."""

    def __init__(self, model, prompts: Sequence[Sequence[int]], owners: Sequence[int], fill: int = 1):
        if len(prompts) != 1:
            raise ValueError("one problem at a time")
        self.model = model
        self.device = next(model.parameters()).device
        self.cache = DynamicCache(config=model.config)
        if len(prompts[0]) > 1:
            ids = torch.tensor([list(prompts[0][:-1])], device=self.device)
            model(ids, past_key_values=self.cache, use_cache=True, logits_to_keep=1)
            self.cache.batch_repeat_interleave(len(owners))

    def step(self, tokens: Tensor) -> Tensor:
        """Logits after one more token a row."""
        out = self.model(tokens.unsqueeze(-1), past_key_values=self.cache, use_cache=True)
        return out.logits[:, -1].float()

    def keep(self, rows: Tensor) -> None:
        """Drop all other rows."""
        self.cache.batch_select_indices(rows)


class SharedPrefix:
    """Rows of several problems whose prompts have the same bucket(); rows of a problem stand together.

    `fill`: compute with multiples of so many rows (copies of the last one), so that a row's rounding cannot depend on how
    many others there are.
    """

    def __init__(self, model, prompts: Sequence[Sequence[int]], owners: Sequence[int], fill: int = 1):
        self.model, self.fill = model, fill
        self.device = device = next(model.parameters()).device
        self.width = bucket(prompts[0])
        if any(bucket(prompt) != self.width for prompt in prompts):
            raise ValueError("prompts of one bucket only")
        self.start = torch.tensor([len(prompt) - 1 for prompt in prompts], device=device)
        self.prefix: list[tuple[Tensor, Tensor]] = []  # a layer: keys, values (problems, heads, width, size)
        self.padding = torch.zeros(len(prompts), 1, 0, dtype=torch.bool, device=device)
        if self.width:
            self._prefill(prompts)
        self.tail = _Tail()
        self._arrange(torch.tensor(list(owners), device=device))

    def _prefill(self, prompts: Sequence[Sequence[int]]) -> None:
        # Padded on the right: a causal model's real tokens never see it, and need no mask.
        ids = torch.zeros(len(prompts), self.width, dtype=torch.long)
        for i, prompt in enumerate(prompts):
            ids[i, : len(prompt) - 1] = torch.tensor(list(prompt[:-1]))
        cache = DynamicCache(config=self.model.config)
        self.model(ids.to(self.device), past_key_values=cache, use_cache=True, logits_to_keep=1)
        layers: list[Any] = cache.layers
        self.prefix = [(layer.keys, layer.values) for layer in layers]
        ends = torch.tensor([len(prompt) - 1 for prompt in prompts]).view(-1, 1, 1)
        self.padding = (torch.arange(self.width).view(1, 1, -1) >= ends).to(self.device)

    def _arrange(self, owners: Tensor) -> None:
        """Where each row sits in a (problems x rows of the fullest problem) grid."""
        self.rows = len(owners)
        counts = torch.bincount(owners, minlength=len(self.padding))
        self.grid = (len(counts), max(int(counts.max()), LEAST_ROWS))
        first = counts.cumsum(0) - counts
        slot = owners * self.grid[1] + torch.arange(len(owners), device=self.device) - first[owners]
        # Filling rows are equal to the last row in every bit, so they may share its place.
        filled = self._filled(self.rows)
        self.owners, self.slot = owners[filled], slot[filled]
        self.whole = self.grid[0] * self.grid[1] == len(filled) == self.rows

    def _filled(self, rows: int) -> Tensor:
        """Indices of rows, the last one repeated to a multiple of `fill`."""
        return torch.arange(-(-rows // self.fill) * self.fill, device=self.device).clamp(max=rows - 1)

    @torch.no_grad()
    def step(self, tokens: Tensor) -> Tensor:
        """Logits after one more token a row; the filling rows come last."""
        positions = (self.start[self.owners] + self.tail.length).unsqueeze(-1)
        tokens = tokens[self._filled(self.rows)].unsqueeze(-1)
        self.tail.length += 1
        with attention(self.model):
            out = self.model(
                tokens, position_ids=positions, past_key_values=self.tail, use_cache=True, rrk_decoder=self
            )
        return out.logits[:, -1].float()

    def keep(self, rows: Tensor) -> None:
        """Drop all other rows, and the prompts that no row needs any more."""
        self.tail.keep(rows[self._filled(len(rows))])
        left, owners = torch.unique_consecutive(self.owners[rows], return_inverse=True)
        if len(left) < len(self.padding):
            self.prefix = [(keys[left], values[left]) for keys, values in self.prefix]
            self.padding, self.start = self.padding[left], self.start[left]
        self._arrange(owners)

    def attend(self, layer: int, query: Tensor, keys: Tensor, values: Tensor, scaling: float, **how) -> Tensor:
        """Attention of one new token a row over its prompt and its own tail, under one softmax.

        query (rows, heads, 1, size); keys, values (rows, key heads, tail, size) -> (rows, 1, heads, size)
        """
        if how:
            raise Unsupported("caps or windows")
        rows, heads, _, size = query.shape
        groups = keys.shape[1]
        repeat = heads // groups
        q = (query * scaling).reshape(rows, groups, repeat, size)
        own = q @ keys.transpose(2, 3)
        own[..., self.tail.length :] = -torch.inf
        if not self.width:
            return (own.float().softmax(-1).to(q.dtype) @ values).reshape(rows, 1, heads, size)
        prompt_keys, prompt_values = self.prefix[layer]
        seen = self._to_grid(q) @ prompt_keys.transpose(2, 3)
        seen = self._to_rows(seen, groups, repeat).masked_fill(self.padding[self.owners].unsqueeze(1), -torch.inf)
        weights = torch.cat([seen, own], -1).float().softmax(-1).to(q.dtype)
        shared = self._to_grid(weights[..., : self.width]) @ prompt_values
        mixed = self._to_rows(shared, groups, repeat) + weights[..., self.width :] @ values
        return mixed.reshape(rows, 1, heads, size)

    def _to_grid(self, rows: Tensor) -> Tensor:
        """(rows, groups, repeat, x) -> (problems, groups, rows a problem x repeat, x); empty places are zero."""
        problems, most = self.grid
        _, groups, repeat, size = rows.shape
        if not self.whole:
            rows = rows.new_zeros(problems * most, groups, repeat, size).index_copy_(0, self.slot, rows)
        grid = rows.view(problems, most, groups, repeat, size).transpose(1, 2)
        return grid.reshape(problems, groups, most * repeat, size)

    def _to_rows(self, grid: Tensor, groups: int, repeat: int) -> Tensor:
        problems, most = self.grid
        size = grid.shape[-1]
        rows = grid.view(problems, groups, most, repeat, size).transpose(1, 2).reshape(-1, groups, repeat, size)
        return rows if self.whole else rows.index_select(0, self.slot)


class _Tail(Cache):
    """What each row wrote itself: buffers that are filled in place and grow by GROWTH tokens.

    Attention reads them whole and masks what is not written yet: products of contiguous tensors are twice as fast on a CPU.
    """

    def __init__(self):
        super().__init__(layers=[])
        self.length = 0  # tokens a row, the one being computed included
        self.buffers: list[list[Tensor]] = []

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args, **kwargs):
        """Append one token's keys and values; returns the whole buffers."""
        if layer_idx == len(self.buffers):
            self.buffers.append([x[:, :, :0] for x in (key_states, value_states)])
        buffers = self.buffers[layer_idx]
        if buffers[0].shape[2] < self.length:
            # Zeros, for what is masked is still multiplied (by 0).
            buffers[:] = [torch.nn.functional.pad(x, (0, 0, 0, GROWTH)) for x in buffers]
        for buffer, new in zip(buffers, (key_states, value_states), strict=True):
            buffer[:, :, self.length - 1] = new[:, :, 0]
        return tuple(buffers)

    def keep(self, rows: Tensor) -> None:
        for buffers in self.buffers:
            buffers[:] = [buffer.index_select(0, rows) for buffer in buffers]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.length - 1


def _attend(module, query, key, value, attention_mask, scaling=None, rrk_decoder=None, **kwargs):
    """transformers' attention interface. What a decoder does not compute is refused, never ignored."""
    if rrk_decoder is None:
        raise Unsupported("the model does not pass its keyword arguments on to its attention")
    if attention_mask is not None or any(
        kwargs.get(k) is not None for k in ("s_aux", "position_bias", "alibi", "head_mask")
    ):
        raise Unsupported("masks, sinks or position biases")
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    how = {k: kwargs[k] for k in ("softcap", "sliding_window") if kwargs.get(k) is not None}
    return rrk_decoder.attend(module.layer_idx, query, key, value, scaling, **how), None


AttentionInterface.register(NAME, _attend)


@contextmanager
def attention(model) -> Iterator[None]:
    """Our attention for the time of one forward; training and prefill keep the model's own."""
    config = model.config
    before = config._attn_implementation
    config._attn_implementation_internal = NAME
    try:
        yield
    finally:
        config._attn_implementation_internal = before
