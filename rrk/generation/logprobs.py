"""Log-probabilities of tokens, over a vocabulary of any size.

    logp, spread = read(hidden, model.get_output_embeddings(), tokens, temperature, with_entropy=True)
    logp = token_logprobs(logits, tokens)            # where the logits are there already

Logits of 64 programs over 152,000 tokens are gigabytes, in float32, several times over. So `read` takes the head's output in
pieces, and since a token's log-probability depends on its own hidden state alone, its gradient is worked out in the same pass:
d log p / d hidden = (W[token] - softmax W) / temperature, a vector a token. Nothing as wide as the vocabulary is kept, and
no product is done twice (but where the head is trained, too).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

PIECE = 1 << 24  # logits at a time (64 MB in float32); so few as this are computed by autograd, at once


def wide(values: Tensor) -> Tensor:
    """At least float32 (float64 stays: gradients are checked in it)."""
    return values if values.dtype == torch.float64 else values.float()


def token_logprobs(logits: Tensor, tokens: Tensor, temperature: float = 1.0) -> Tensor:
    """log p(token) under softmax(logits / temperature), in at least float32: bf16 sums over a vocabulary lose the ratio."""
    logits = wide(logits) / temperature
    return logits.gather(-1, tokens.unsqueeze(-1)).squeeze(-1) - logits.logsumexp(-1)


def entropy(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Entropy (nats) of softmax(logits / temperature)."""
    logp = (wide(logits) / temperature).log_softmax(-1)
    # A token of probability zero adds nothing, though 0 * -inf is not a number.
    return -(logp.exp() * logp.masked_fill(logp == -torch.inf, 0.0)).sum(-1)


def read(
    hidden: Tensor, head: Any, tokens: Tensor, temperature: float = 1.0, with_entropy: bool = False
) -> tuple[Tensor, Tensor | None]:
    """log p of `tokens` [n] from hidden states [n, width] and the head, a linear layer [vocabulary, width].

    The entropy, if it is asked for, has no gradient.
    """
    if len(tokens) * head.weight.shape[0] <= PIECE:
        logits = head(hidden)
        logp = token_logprobs(logits, tokens, temperature)
        return logp, entropy(logits.detach(), temperature) if with_entropy else None
    logp, spread = _Pieces.apply(hidden, head.weight, head.bias, tokens, temperature, with_entropy)
    return logp, spread if with_entropy else None


def trunk(model: Any) -> Any:
    """The transformer without its head."""
    return getattr(model, model.base_model_prefix)


@torch.no_grad()
def is_plain(model: Any) -> bool:
    """Whether logits are the head's output as it is: not so where they are capped or scaled behind it."""
    ids = torch.tensor([[1, 2, 1]], device=model.device)
    hidden = trunk(model)(input_ids=ids, use_cache=False).last_hidden_state
    logits = model(input_ids=ids, use_cache=False).logits
    near = 1e-4 if hidden.dtype == logits.dtype == torch.float32 else 1e-2
    # Weights that diverged give no numbers either way; that is for others to say.
    return torch.allclose(wide(model.get_output_embeddings()(hidden)), wide(logits), near, near, equal_nan=True)


class _Pieces(torch.autograd.Function):
    """`read`, a few tokens at a time."""

    @staticmethod
    def forward(ctx: Any, hidden, weight, bias, tokens, temperature, with_entropy):
        device = hidden.device.type
        kind = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        ctx.set_materialize_grads(False)
        ctx.kind, ctx.temperature = kind, temperature
        out = torch.empty(len(tokens), dtype=wide(hidden[:0]).dtype, device=hidden.device)
        spread = torch.zeros_like(out)
        slopes = torch.empty_like(hidden, dtype=kind) if ctx.needs_input_grad[0] else None
        # Once, not a piece: autocast keeps no copy where nothing is recorded.
        narrow = weight.to(kind)
        with torch.autocast(device, enabled=False):
            for part in _parts(tokens, weight):
                logits, offset = _logits(hidden[part].to(kind), narrow, bias, temperature)
                out[part] = logits.gather(-1, tokens[part, None]).squeeze(-1) - offset
                if with_entropy or slopes is not None:
                    chances = logits.sub(offset[:, None]).exp_()
                if with_entropy:
                    spread[part] = offset - (chances * logits.masked_fill_(chances == 0, 0.0)).sum(-1)
                if slopes is not None:
                    _less_one_at(chances, tokens[part])
                    slopes[part] = chances.to(kind) @ narrow
        ctx.save_for_backward(slopes, hidden, weight, bias, tokens)
        ctx.mark_non_differentiable(spread)
        return out, spread

    @staticmethod
    def backward(ctx: Any, given, _):
        slopes, hidden, weight, bias, tokens = ctx.saved_tensors
        if given is None:
            return (None,) * 6
        scale = -given / ctx.temperature  # slopes are those of -log p
        to_hidden = (slopes * scale[:, None]).to(hidden.dtype) if slopes is not None else None
        to_weight = torch.zeros_like(weight, dtype=scale.dtype) if ctx.needs_input_grad[1] else None
        to_bias = torch.zeros_like(bias, dtype=scale.dtype) if bias is not None and ctx.needs_input_grad[2] else None
        if to_weight is not None or to_bias is not None:
            narrow = weight.to(ctx.kind)
            with torch.autocast(hidden.device.type, enabled=False):
                for part in _parts(tokens, weight):
                    seen = hidden[part].to(ctx.kind)
                    logits, offset = _logits(seen, narrow, bias, ctx.temperature)
                    chances = logits.sub_(offset[:, None]).exp_()
                    _less_one_at(chances, tokens[part])
                    chances *= scale[part, None]
                    if to_weight is not None:
                        to_weight += chances.to(ctx.kind).T @ seen
                    if to_bias is not None:
                        to_bias += chances.sum(0)
        return (
            to_hidden,
            to_weight.to(weight.dtype) if to_weight is not None else None,
            to_bias.to(bias.dtype) if to_bias is not None else None,
            None,
            None,
            None,
        )


def _parts(tokens: Tensor, weight: Tensor) -> list[slice]:
    size = max(1, PIECE // weight.shape[0])
    return [slice(at, at + size) for at in range(0, len(tokens), size)]


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: float) -> tuple[Tensor, Tensor]:
    """Logits over the temperature and their logsumexp, as token_logprobs has them."""
    logits = wide(linear(hidden, weight, None if bias is None else bias.to(weight.dtype)))
    if temperature != 1.0:
        logits = logits / temperature
    return logits, logits.logsumexp(-1)


def _less_one_at(chances: Tensor, tokens: Tensor) -> None:
    chances[torch.arange(len(tokens), device=tokens.device), tokens] -= 1.0
