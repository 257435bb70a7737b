"""How many tokens a training pass may take at once, from the model's shape and the memory that is free.

budget = Budget(note)                              # Budget(note, tokens=8192, most=...) where the user has a say
loss = budget.run(model, lengths, lambda tokens: step(cut(batch, tokens)), undo=model.zero_grad)

A pass that does not fit is done again in smaller ones; one row that does not fit switches gradient checkpointing on. On a
CPU the kernel kills whoever asks for too much, so that the passes get smaller where other programs have left less than this
one has needed before. `note` is told of all. What a step computes does not change beyond rounding.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

T = TypeVar("T")

SHARE = 0.5  # of the free memory: gradients, optimiser and other programs need some, too


def cost(model: Any, **tokens: int) -> dict[str, Any]:
    """Size, device and memory of a model, with tokens that it read or wrote (rrk/costs.py). Shared weights count once."""
    device = next(model.parameters()).device
    out = {"parameters": sum(weight.numel() for weight in model.parameters()), **tokens, "device": device.type}
    if device.type == "cuda":
        out |= {
            "device": torch.cuda.get_device_name(device),
            "peak_device_memory": torch.cuda.max_memory_allocated(device),
        }
    return out


def free(device: torch.device) -> int:
    """Bytes free on the device; on a CPU the least of what the machine and this process's cgroups have left."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    left = []
    for line in _read("/proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            left.append(int(line.split()[1]) * 1024)
    for line in _read("/proc/self/cgroup").splitlines():
        group = Path("/sys/fs/cgroup" + line.rpartition(":")[2])
        for place in (group, *group.parents):
            most, used = _read(place / "memory.max").strip(), _read(place / "memory.current").strip()
            if most.isdigit() and used.isdigit():
                left.append(max(0, int(most) - int(used)))
            if str(place) == "/sys/fs/cgroup":
                break
    return min(left, default=8 << 30)


def activation_bytes(config: Any, width: int, kept: int = 4, checkpointing: bool = False) -> int:
    """What a token leaves behind for the backward pass in rows of `width` tokens, roughly, attention written out.

    `kept`: bytes a number. With gradient checkpointing a layer keeps its input, and one of them at a time all of it.
    """
    text = config.get_text_config()
    hidden = text.hidden_size
    inner = getattr(text, "intermediate_size", None) or 4 * hidden
    layer = 24 * hidden + 7 * inner + 3 * text.num_attention_heads * width
    return kept * (layer + text.num_hidden_layers * hidden if checkpointing else text.num_hidden_layers * layer)


def tokens(model: Any, width: int) -> int:
    """Tokens a pass of training, at least 1; asked before the first step, whose gradients and Adam's moments are still to come."""
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    bits = next(iter(p.dtype for p in model.parameters() if not p.requires_grad), torch.float32).itemsize
    each = activation_bytes(model.config, width, max(3, bits), is_checkpointing(model))
    return max(1, int(SHARE * (free(model.device) - 12 * trained)) // each)


def is_checkpointing(model: Any) -> bool:
    """Whether it keeps its layers' inputs alone; transformers has renamed this."""
    new = "is_activation_checkpointing"
    return getattr(model, new if hasattr(model, new) else "is_gradient_checkpointing", False)


def checkpoint(model: Any) -> None:
    """Switch gradient checkpointing on."""
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})


def groups(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Indices grouped so that rows x longest row <= budget, similar lengths together (a longer row stands alone)."""
    found: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        if found and (len(found[-1]) + 1) * lengths[i] <= budget:
            found[-1].append(i)
        else:
            found.append([i])
    return found


def parts(lengths: Sequence[int], budget: int, each: int) -> list[int]:
    """Where a batch that begins at row i ends, for each i: rows of rising length, as they stand, in the cheapest batches.

    A batch costs its rows x its longest row, and `each` tokens for being one; it holds at most `budget` (a longer row stands alone).
    """
    ends, cost = [0] * len(lengths), [0] * (len(lengths) + 1)
    for i in reversed(range(len(lengths))):
        for end in range(i + 1, len(lengths) + 1):
            size = (end - i) * lengths[end - 1]
            if end > i + 1 and size > budget:
                break
            if not ends[i] or size + each + cost[end] <= cost[i]:
                ends[i], cost[i] = end, size + each + cost[end]
    return ends


@dataclass
class Budget:
    """Tokens a pass (rows x longest row), None until the first pass asks for them; never above `most`."""

    note: Callable[[str], None] = lambda text: None
    tokens: int | None = None
    most: int | None = None
    retry: bool = True  # not where other processes would wait for this one's pass

    def run(self, model: Any, rows: Sequence[int], work: Callable[[int], T], undo: Callable[[], Any]) -> T:
        """work(tokens), again with less where torch wants for memory; `undo` takes back what the failed try left.

        `model` is transformers' own; `rows` are the lengths of the rows at work, which no cutting makes shorter.
        """
        longest = max(rows)
        while True:
            budget = self.fit(model, longest)
            try:
                return work(budget)
            except (RuntimeError, MemoryError) as error:
                if not self.retry or not is_shortage(error):
                    raise
                if budget > longest:
                    self.tokens = max(longest, min(budget, longest * len(rows)) // 2)
                    self.note(f"out of memory: going on with {self.tokens} tokens a pass")
                elif not self._checkpoint(model, "out of memory:"):
                    raise
            # Outside the handler, whose traceback holds what did not fit.
            undo()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def fit(self, model: Any, longest: int) -> int:
        """The budget; by the memory that is free now, if there is none yet or (on a CPU) less than was needed before."""
        if self.tokens is not None and model.device.type == "cpu":
            growth, left = peak(model.device) - resident(), free(model.device)
            if left < growth and self.tokens > longest:
                self.tokens = max(longest, int(self.tokens * left / growth))
                self.note(f"{left / 1e9:.1f} GB of memory are left: going on with {self.tokens} tokens a pass")
        if self.tokens is None:
            found = tokens(model, longest)
            if found < longest and self._checkpoint(model, "the longest row alone needs"):
                found = tokens(model, longest)
            self.tokens = min(found, self.most or found)
        return self.tokens

    def _checkpoint(self, model: Any, why: str) -> bool:
        if is_checkpointing(model) or not model.supports_gradient_checkpointing:
            return False
        checkpoint(model)
        self.note(f"{why} gradient checkpointing, which is on from here: less memory, more time")
        return True


def peak(device: torch.device) -> int:
    """The most bytes that this process has held so far: on a GPU what torch allocated, else its resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def resident() -> int:
    """Bytes that this process holds now; all it ever held, where the system does not tell."""
    pages = _read("/proc/self/statm").split()
    return int(pages[1]) * resource.getpagesize() if len(pages) > 1 else peak(torch.device("cpu"))


def is_shortage(error: BaseException) -> bool:
    """Whether torch (or Python) raised this for want of memory."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
