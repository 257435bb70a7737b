"""Which token comes next: drawing from logits by inversion, one uniform number a row, over vocabularies of any size.

    pick = Picker(temperature=0.8, top_p=0.95)
    tokens, logprobs = pick(logits, uniform)      # (rows, vocabulary), (rows,) in [0, 1) or None -> (rows,), (rows,)

The distribution: softmax(logits / temperature), of its `top_k` likeliest tokens alone if top_k > 0, of them the smallest set
that is `top_p` likely (Holtzman et al. 2020); temperature 0 is the likeliest token. `logprobs` are always those of the plain
softmax at temperature 1. A row's tokens stand in the order of their ids, and the first is taken at which the cumulated
probability exceeds its uniform number.

A vocabulary of 152,000 in 64 rows takes 600 ms to sort and 60 ms to cumulate in float64, beside a forward pass of 170 to 270.
So of large vocabularies (over SMALL) the nucleus is looked for in the TOP likeliest tokens; a row where these are not `top_p`
likely, and no other, is sorted. Without a nucleus, blocks of tokens are summed and only the block in which the number falls
is cumulated. All that reads a whole row does so a few rows at a time, within the processor's cache.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from rrk.errors import UsageError

SMALL = 16_384  # vocabularies up to here are taken whole
TOP = 256
BLOCK = 512  # tokens
CHUNK = {"cpu": 4, "cuda": 64}  # rows


class Picker:
    """Draws tokens. UsageError for a temperature, top_p or top_k that is no such thing."""

    def __init__(self, temperature: float = 1.0, top_p: float = 1.0, top_k: int = 0):
        if temperature < 0 or not 0 < top_p <= 1 or top_k < 0:
            raise UsageError("temperature must not be negative, top-p within (0, 1], top-k at least 0")
        self.temperature, self.top_p, self.top_k = temperature, top_p, top_k

    def __call__(self, logits: Tensor, uniform: Tensor | None) -> tuple[Tensor, Tensor]:
        """Tokens, and their log-probabilities (float32, nats). `uniform` is float64; not used at temperature 0."""
        if self.temperature == 0:
            uniform = None
        if logits.shape[-1] <= SMALL:
            logits = logits.float()
            tokens = logits.argmax(-1) if uniform is None else self._whole(logits, uniform)
            return tokens, _at(logits, tokens) - logits.logsumexp(-1)
        narrow = uniform is not None and (self.top_p < 1 or self.top_k > 0)
        size = CHUNK.get(logits.device.type, CHUNK["cuda"])
        made = [
            self._chunk(logits[at : at + size], None if uniform is None or narrow else uniform[at : at + size], narrow)
            for at in range(0, len(logits), size)
        ]
        tokens, total, warm = (torch.cat(parts) for parts in zip(*made, strict=True))
        if narrow:
            assert uniform is not None
            tokens = self._narrow(logits, uniform, warm)
        return tokens, (_at(logits, tokens).double() - total).float()

    def _chunk(self, logits: Tensor, uniform: Tensor | None, narrow: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Of a few rows: tokens (greedy ones, where nothing else is asked), and ln sum exp at temperature 1 and at ours."""
        rows, width = logits.shape
        # Rows of whole blocks; -inf weighs nothing.
        values = pad(logits.float(), (0, -width % BLOCK), value=-torch.inf)
        top, tokens = values.max(-1, keepdim=True)
        values -= top
        blocks = values.exp().view(rows, -1, BLOCK)
        sums = blocks.sum(-1).double()
        total = top.squeeze(-1).double() + sums.sum(-1).log()
        warm = total
        if self.temperature not in (0, 1) and not (narrow and self.top_k):
            blocks = values.div_(self.temperature).exp_().view(rows, -1, BLOCK)
            sums = blocks.sum(-1).double()
            warm = top.squeeze(-1).double() / self.temperature + sums.sum(-1).log()
        tokens = tokens.squeeze(-1)
        if uniform is not None:
            below = sums.cumsum(-1)
            aim = (uniform * below[:, -1]).unsqueeze(-1)
            block = _first_above(below, aim)
            rest = aim - pad(below, (1, 0)).gather(-1, block)
            own = blocks[torch.arange(rows, device=logits.device), block.squeeze(-1)].double().cumsum(-1)
            # By rounding the block may hold a little less than its sum said: then its last token that weighs anything.
            within = torch.minimum(_first_above(own, rest), torch.searchsorted(own, own[:, -1:].contiguous()))
            tokens = (block * BLOCK + within).squeeze(-1)
        return tokens, total, warm

    def _narrow(self, logits: Tensor, uniform: Tensor, warm: Tensor) -> Tensor:
        """Tokens from the likeliest ones; `warm`: ln sum exp(logits / temperature), a row."""
        few = min(self.top_k or TOP, logits.shape[-1])
        values, ids = logits.topk(few, -1)
        ids, order = ids.sort(-1)
        scaled = values.gather(-1, order).double() / self.temperature
        weights = scaled.softmax(-1) if self.top_k else (scaled - warm.unsqueeze(-1)).exp()
        kept, short = self._nucleus(weights)
        tokens = ids.gather(-1, _draw(kept, uniform)).squeeze(-1)
        if not self.top_k and bool(short.any()):
            at = short.nonzero().squeeze(-1)
            tokens[at] = self._whole(logits[at].float(), uniform[at])
        return tokens

    def _whole(self, logits: Tensor, uniform: Tensor) -> Tensor:
        """Tokens of float32 logits, by sorting and cumulating all of them."""
        if self.top_k:
            least = logits.topk(min(self.top_k, logits.shape[-1]), -1)
            logits = torch.full_like(logits, -torch.inf).scatter_(-1, least.indices, least.values)
        weights = (logits / self.temperature).softmax(-1)
        if self.top_p < 1:
            weights, _ = self._nucleus(weights)
        return _draw(weights, uniform).squeeze(-1)

    def _nucleus(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Weights with what is outside the nucleus at 0, and which rows are less than top_p likely in all."""
        if self.top_p == 1:
            return weights, torch.zeros(len(weights), dtype=torch.bool, device=weights.device)
        ordered, order = weights.sort(dim=-1, descending=True, stable=True)
        # The smallest set that reaches top_p: a token goes if those before it already do.
        reached = ordered.cumsum(-1, dtype=torch.float64)
        short = reached[:, -1] < self.top_p
        ordered = ordered.masked_fill(reached - ordered >= self.top_p, 0.0)
        return torch.zeros_like(weights).scatter_(-1, order, ordered), short


def _draw(weights: Tensor, uniform: Tensor) -> Tensor:
    """(rows, 1) places by inversion. In float64: over 150,000 tokens a float32 sum is off by more than rare ones weigh."""
    below = weights.cumsum(-1, dtype=torch.float64)
    return _first_above(below, (uniform * below[:, -1]).unsqueeze(-1))


def _first_above(cumulated: Tensor, aim: Tensor) -> Tensor:
    return torch.searchsorted(cumulated, aim.contiguous(), right=True).clamp(max=cumulated.shape[-1] - 1)


def _at(logits: Tensor, tokens: Tensor) -> Tensor:
    return logits.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
