"""Decoding of rows of any problems and lengths together, each of which may begin and end at any step.

    slots = Slots(model)
    one, two = slots.read([[5, 6, 7], [5, 9]])    # prompts, once each: keys and values of all but the last token
    slots.add(["a", "b", "c"], [one, one, two])   # rows begin
    slots.line_up()                               # ["a", "b", "c"]: their order, which changes as rows grow and end
    logits = slots.step([7, 7, 9])                # a token a row, in that order -> (rows, vocabulary)
    slots.drop(["b"])

Each row has its keys and values in a place of its own, from the left; a mask hides what lies beyond. Its prompt's are copied
there: reading them once for all rows of a problem (decoding.SharedPrefix) saves a tenth of a step at 0.5B, but ties a batch
to few problems of like lengths. Rows of like lengths stand on one shelf (shelf.py) and move to a wider one as they grow, so
that memory follows the tokens in hand.

transformers' own continuous batching (`generate_batch`, 5.23) is not used. Measured on two cores with a 0.5B model in bf16, 64
requests of 4 prompts, 24 tokens each: 38 tokens/s (19 with top-p .95), where `generate` gave 50 (40).
It draws from one random stream for all requests, gives log-probabilities of the cut and heated distribution only, and knows
no stop strings.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from rrk.generation import decoding
from rrk.generation.decoding import Unsupported
from rrk.generation.shelf import Place, Prompt, Shelf, width

PROMPTS = {"cpu": 1024, "cuda": 16384}  # tokens of prompts, padding counted, that are read together


class Slots(Cache):
    """Rows of any problems, decoded together. A row is known by its owner, anything that can be told apart.

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
        self._shelves: dict[int, Shelf] = {}  # by width
        self._used: list[tuple[Shelf, slice]] = []  # of the step in progress: which rows are on which
        self._longest = 0

    @property
    def bytes(self) -> int:
        """Memory of all rows."""
        return sum(shelf.bytes for shelf in self._shelves.values())

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

    def add(self, owners: Sequence[Any], prompts: Sequence[Prompt]) -> None:
        """Rows begin, after these prompts."""
        for wide, count in Counter(width(prompt.length) for prompt in prompts).items():
            self._shelf(wide, prompts[0]).reserve(count)
        begun: dict[int, tuple[Prompt, list[Place]]] = {}
        for owner, prompt in zip(owners, prompts, strict=True):
            begun.setdefault(id(prompt), (prompt, []))[1].append(Place(owner, prompt.length))
        for prompt, places in begun.values():
            shelf = self._shelf(width(prompt.length), prompt)
            shelf.add(places, prompt.keys.unsqueeze(1), prompt.values.unsqueeze(1))

    def line_up(self) -> list[Any]:
        """The owners, in the order in which `step` takes their rows. Rows that have filled theirs move to a wider shelf."""
        for shelf in self._in_order():
            full = [n for n, place in enumerate(shelf.places) if place.length == shelf.width]
            if full:
                self._shelf(2 * shelf.width, Prompt(shelf.keys[:, 0], shelf.values[:, 0])).add(
                    [shelf.places[n] for n in full], shelf.keys[:, full], shelf.values[:, full]
                )
                self._remove(shelf, full)
        return [place.owner for shelf in self._in_order() for place in shelf.places]

    def drop(self, owners: Collection[Any]) -> None:
        """These rows are done."""
        for shelf in self._in_order():
            self._remove(shelf, [n for n, place in enumerate(shelf.places) if place.owner in owners])

    def forget(self) -> None:
        """Give all memory back."""
        self._shelves, self._used = {}, []

    def _in_order(self) -> list[Shelf]:
        return [shelf for _, shelf in sorted(self._shelves.items())]

    def _shelf(self, wide: int, like: Prompt) -> Shelf:
        if wide not in self._shelves:
            self._shelves[wide] = Shelf(wide, like)
        return self._shelves[wide]

    def _remove(self, shelf: Shelf, numbers: Collection[int]) -> None:
        if len(numbers) == len(shelf.places):
            del self._shelves[shelf.width]
        elif numbers:
            shelf.remove(numbers)

    # ---- a step --------------------------------------------------------------------------------------------------

    def step(self, tokens: Sequence[int]) -> Tensor:
        """Logits (in the model's own format) after one more token a row, in the order of the last `line_up`."""
        shelves = self._in_order()
        places = [place for shelf in shelves for place in shelf.places]
        lengths = [place.length for place in places]
        self._longest = max(lengths)
        given = torch.tensor([tokens, lengths]).to(self.device)
        self._used = []
        at = 0
        for shelf in shelves:
            rows = slice(at, at := at + len(shelf.places))
            shelf.begin(given[1, rows])
            self._used.append((shelf, rows))
        with decoding.attention(self.model):
            out = self.model(
                given[0].unsqueeze(-1),
                position_ids=given[1].unsqueeze(-1),
                past_key_values=self,
                use_cache=True,
                rrk_decoder=self,
            )
        for place in places:
            place.length += 1
        return out.logits[:, -1]

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args, **kwargs):
        """Write one token's keys and values. What attention reads stands on the shelves."""
        for shelf, rows in self._used:
            shelf.write(layer_idx, key_states[rows], value_states[rows])
        return key_states, value_states

    def attend(self, layer: int, query: Tensor, keys: Tensor, values: Tensor, scaling: float, **how) -> Tensor:
        """Attention of one new token a row over its own row. (rows, heads, 1, size) -> (rows, 1, heads, size)."""
        window, cap = how.get("sliding_window"), how.get("softcap")
        if self.windowed[layer] and window is None:
            raise Unsupported("a window that its attention is not told of")
        read = [shelf.attend(layer, query[rows], scaling, window, cap) for shelf, rows in self._used]
        return read[0] if len(read) == 1 else torch.cat(read)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self._longest
