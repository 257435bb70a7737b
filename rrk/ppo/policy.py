"""Policy, critic and frozen reference in one module, and the pass over them that wastes no padding.

    network = Policy.load("runs/sft", options)
    seen = network(batch, temperature)       # log-probabilities, values: only at the tokens that were drawn, flat
    with network.as_reference(): ...         # LoRA: the same weights, adapters off

Details: dropout is off throughout (Huang et al. 2024: ratios must be 1 before the first step); the value head starts at
zero, so the critic begins by predicting the mean of normalised scores; it sits on the policy's trunk or on its own copy.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from rrk.errors import RrkError
from rrk.generation import checkpoints, logprobs, memory, packing, runs
from rrk.generation.problems import trial_prompts
from rrk.ppo.batch import Batch, Text, collate


@dataclass
class Read:
    """Of the drawn tokens, flat, at least float32; None: not asked for, or there is no critic."""

    logprobs: Tensor | None
    values: Tensor | None
    entropy: Tensor | None


class Policy(nn.Module):
    """The causal model, its value head (and critic trunk, if separate)."""

    def __init__(self, model, separate: bool, bf16: bool, critic: bool = True, packs: int = 0):
        super().__init__()
        self.model = model
        self.bf16 = bf16
        self.packs = packs  # the longest text that may share a row with others of its prompt
        causal = self.causal
        self.critic = copy.deepcopy(logprobs.trunk(causal)) if critic and separate else None
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
        """(Policy, tokenizer) from a transformers checkpoint; trained weights in float32, bf16 by autocast (AdamW needs them so).

        `attention` is transformers' attn_implementation, None: its choice.
        """
        model, tokenizer = checkpoints.causal(path, dtype=torch.float32, attn_implementation=attention)
        if tokenizer.eos_token_id is None:
            raise RrkError(f"{path}: its tokenizer has no end-of-sequence token; set eos_token and fine-tune with it")
        without_dropout(model)
        packs = packable(model)
        if lora_r:
            from peft import get_peft_model

            runs.hush()
            model = get_peft_model(model, runs.adapters(lora_r, "CAUSAL_LM"))
            if bf16:
                runs.narrow(model)
        if checkpointing:
            memory.checkpoint(model)
            model.enable_input_require_grads()
        return cls(model, separate, bf16, critic, packs), tokenizer

    def forward(self, batch: Batch, temperature: float = 1.0, *, values: bool = True, entropy: bool = False) -> Read:
        """What the policy says of the drawn tokens; no vocabulary-wide row is computed for prompt or padding."""
        with torch.autocast(batch.input_ids.device.type, torch.bfloat16, enabled=self.bf16):
            given = batch.given(self.causal)
            hidden = logprobs.trunk(self.causal)(**given).last_hidden_state[batch.keep]
            head = self.causal.get_output_embeddings()
            logp, spread = logprobs.read(hidden, head, batch.drawn, temperature, entropy)
            value = None
            if values and self.value_head is not None:
                seen = hidden if self.critic is None else self.critic(**given).last_hidden_state[batch.keep]
                value = logprobs.wide(self.value_head(seen).squeeze(-1)).clone()  # FSDP2 warns of views
        return Read(logp, value, spread)

    @contextlib.contextmanager
    def as_reference(self) -> Iterator[None]:
        """Adapters off: the SFT model as it was (only with LoRA)."""
        with self.model.disable_adapter():
            yield

    @torch.no_grad()
    def check_head(self, device) -> None:
        """Refuse models whose logits are not simply head(hidden), such as soft-capped ones: their ratios would be wrong."""
        self(collate([Text([1, 2], [1, 2])], [[0]], device))  # FSDP2 takes what is called first for the whole
        with torch.autocast(device.type, torch.bfloat16, enabled=self.bf16):
            if logprobs.is_plain(self.causal):
                return
        raise RrkError(f"{type(self.causal).__name__} transforms its logits after the head; train-ppo cannot use it")


@torch.no_grad()
def packable(model) -> int:
    """The longest text that a row with others behind one prompt reads as alone; 0 where the architecture does not."""
    network = Policy(model, separate=False, bf16=False, critic=False)
    prompts, more = trial_prompts(model, (9, 4)), trial_prompts(model, (5, 3, 6, 2))
    texts = [Text(prompts[n // 2], own) for n, own in enumerate(more)]
    try:
        together, alone = (
            network(collate(texts, rows, model.device)).logprobs for rows in ([[0, 1], [2, 3]], [[0], [1], [2], [3]])
        )
    except packing.UNPACKABLE:
        return 0
    same = torch.allclose(together, alone, atol=packing.TOLERANCE, rtol=packing.TOLERANCE)
    # The mask of a packed row is whole: a window is not in it.
    return (packing.window(model.config) or 1 << 60) if same else 0


def without_dropout(model: nn.Module) -> None:
    """Set every dropout rate to 0, so that train() mode (which gradient checkpointing needs) changes nothing."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name in ("attention_dropout", "dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
