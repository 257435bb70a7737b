"""Loading a code model and reading its tokenizer the same way wherever rrk samples or trains.

model, tokenizer = load("runs/sft", device="auto", dtype="auto")
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from rrk.errors import RrkError, UsageError
from rrk.generation import checkpoints, dtypes


def pick_device(name: str) -> torch.device:
    """`auto` is a GPU where there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"--device {name}: no such device; try cpu, cuda or cuda:1") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"--device {name}: torch sees no GPU here")
    return device


def devices() -> tuple[bool, str, str]:
    """(whether there is a GPU, what models run on here, what would help)."""
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        return True, f"{len(names)}: {', '.join(dict.fromkeys(names))}", ""
    built = torch.version.cuda or torch.version.hip
    why = (
        f"torch {torch.__version__} is built for CUDA {built} and finds none" if built else "torch is built for the CPU"
    )
    remedy = "" if built else "where there is a GPU, install torch from its CUDA wheels"
    return False, f"none: {why}; models run on {torch.get_num_threads()} CPU threads", remedy


def training_attention() -> str | None:
    """Which attention to train with, None: transformers' choice. On a CPU the plain one is faster on short texts (1.4 times in bf16)."""
    return None if torch.cuda.is_available() else "eager"


def load(path: str | Path, device: str = "auto", dtype: str = "auto", attention: str | None = None) -> tuple[Any, Any]:
    """(model in eval mode, tokenizer) of a causal checkpoint: whatever rrk/generation/checkpoints.py takes.

    dtype auto: see dtypes.py. `attention`: transformers' name of an implementation, None: its choice.
    RrkError (one line) if it cannot be loaded, or lacks weights.
    """
    where = pick_device(device)
    model, tokenizer = checkpoints.causal(path, dtype=dtypes.picker(dtype, where), attn_implementation=attention)
    dtypes.settle(dtype, model)
    if not eos_ids(model, tokenizer):
        raise RrkError(f"{path}: neither model nor tokenizer names an end-of-sequence token; set eos_token")
    return model.to(where).eval(), tokenizer


def eos_ids(model, tokenizer) -> set[int]:
    """Every token that ends a text: the tokenizer's EOS and those of the generation config (chat models have several)."""
    found = {tokenizer.eos_token_id}
    for config in (getattr(model, "generation_config", None), model.config):
        named = getattr(config, "eos_token_id", None)
        found |= set(named) if isinstance(named, (list, tuple)) else {named}
    return found - {None}


def encode_prompt(tokenizer, text: str) -> list[int]:
    """Token ids of a prompt, with the tokenizer's own BOS if it adds one; never empty, never ending in an added EOS."""
    ids = list(tokenizer(text)["input_ids"])
    eos = tokenizer.eos_token_id
    if len(ids) > 1 and ids[-1] == eos and not text.endswith(getattr(tokenizer, "eos_token", None) or "\0"):
        ids.pop()
    if not ids:
        ids = [tokenizer.bos_token_id if tokenizer.bos_token_id is not None else eos]
    return ids
