"""Policy, critic and frozen reference in one module, and the pass over them that wastes no padding.

    network = Policy.load("runs/sft", options)
    logits, values = network(batch)          # only at the tokens that were drawn, flat
    with network.as_reference(): ...         # LoRA: the same weights, adapters off

Details: dropout is off throughout (Huang et al. 2024: ratios must be 1 before the first step); the value head starts at
zero, so the critic begins by predicting the mean of normalised scores; it sits on the policy's trunk or on its own copy.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from rrk.errors import RrkError
from rrk.generation import checkpoints, runs
from rrk.ppo.loss import wide


@dataclass
class Batch:
    """Right-padded rows. `keep` marks the positions whose next token was drawn; `drawn` are those tokens, flat."""

    input_ids: Tensor
    attention_mask: Tensor
    keep: Tensor
    drawn: Tensor


def collate(prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], device) -> Batch:
    """One batch from token ids. Masks come from lengths, never from ids: pad = eos cannot confuse them (TRL 6952)."""
    width = max(len(p) + len(c) for p, c in zip(prompts, completions, strict=True))
    ids = torch.zeros(len(prompts), width, dtype=torch.long)
    attention, keep = torch.zeros_like(ids), torch.zeros_like(ids, dtype=torch.bool)
    drawn: list[int] = []
    for i, (p, c) in enumerate(zip(prompts, completions, strict=True)):
        ids[i, : len(p) + len(c)] = torch.tensor([*p, *c])
        attention[i, : len(p) + len(c)] = 1
        keep[i, len(p) - 1 : len(p) + len(c) - 1] = True  # the position before a token predicts it
        drawn += c
    return Batch(*(x.to(device) for x in (ids, attention, keep, torch.tensor(drawn, dtype=torch.long))))


def token_budget(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Indices grouped so that rows x longest row <= budget, similar lengths together (a longer row stands alone)."""
    groups: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        if groups and (len(groups[-1]) + 1) * lengths[i] <= budget:
            groups[-1].append(i)
        else:
            groups.append([i])
    return groups


class Policy(nn.Module):
    """The causal model, its value head (and critic trunk, if separate)."""

    def __init__(self, model, separate: bool, bf16: bool, critic: bool = True):
        super().__init__()
        self.model = model
        self.bf16 = bf16
        causal = self.causal
        self.critic = copy.deepcopy(_trunk(causal)) if critic and separate else None
        self.value_head = nn.Linear(causal.get_input_embeddings().embedding_dim, 1) if critic else None
        if self.value_head is not None:
            nn.init.zeros_(self.value_head.weight)
            nn.init.zeros_(self.value_head.bias)
            self.value_head.to(next(causal.parameters()).device)

    @property
    def causal(self):
        """The transformers model under the LoRA wrapper, if there is one."""
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        separate: bool = False,
        critic: bool = True,
        lora_r: int = 0,
        bf16: bool = False,
        checkpointing: bool = False,
        attention: str | None = None,
    ):
        """(Policy, tokenizer) from a transformers checkpoint; weights in float32, bf16 by autocast (AdamW needs them so).

        `attention` is transformers' attn_implementation, None: its choice.
        """
        model, tokenizer = checkpoints.causal(path, dtype=torch.float32, attn_implementation=attention)
        if tokenizer.eos_token_id is None:
            raise RrkError(f"{path}: its tokenizer has no end-of-sequence token; set eos_token and fine-tune with it")
        without_dropout(model)
        if lora_r:
            from peft import get_peft_model

            model = get_peft_model(model, runs.adapters(lora_r, "CAUSAL_LM"))
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            model.enable_input_require_grads()
        return cls(model, separate, bf16, critic), tokenizer

    def forward(self, batch: Batch, logits: bool = True, values: bool = True) -> tuple[Tensor | None, Tensor | None]:
        """Logits (float32) and values at the drawn tokens: no vocabulary-wide row is computed for prompt or padding."""
        with torch.autocast(batch.input_ids.device.type, torch.bfloat16, enabled=self.bf16):
            given = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "use_cache": False}
            hidden = out = value = None
            if logits or self.critic is None:
                hidden = _trunk(self.causal)(**given).last_hidden_state[batch.keep]
            if logits:
                out = wide(self.causal.get_output_embeddings()(hidden))
            if values and self.value_head is not None:
                seen = hidden if self.critic is None else self.critic(**given).last_hidden_state[batch.keep]
                value = wide(self.value_head(seen).squeeze(-1)).clone()  # FSDP2 warns of views
        return out, value

    @contextlib.contextmanager
    def as_reference(self) -> Iterator[None]:
        """Adapters off: the SFT model as it was (only with LoRA)."""
        with self.model.disable_adapter():
            yield

    @torch.no_grad()
    def check_head(self, device) -> None:
        """Refuse models whose logits are not simply head(hidden), such as soft-capped ones: their ratios would be wrong."""
        batch = collate([[1, 2]], [[1, 2]], device)
        ours, _ = self(batch, values=False)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.bf16):
            theirs = self.causal(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits[batch.keep]
        if not torch.allclose(ours, theirs.float(), atol=1e-2 if self.bf16 else 1e-4):
            raise RrkError(
                f"{type(self.causal).__name__} transforms its logits after the head; train-ppo cannot use it"
            )


def without_dropout(model: nn.Module) -> None:
    """Set every dropout rate to 0, so that train() mode (which gradient checkpointing needs) changes nothing."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name in ("attention_dropout", "dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)


def _trunk(causal):
    return getattr(causal, causal.base_model_prefix)
