"""How many tokens a training pass may take at once, from the model's shape and the memory that is free.

budget = tokens(model, width=300)          # rows x longest row of one forward and backward pass
if is_shortage(error): budget //= 2
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path
from typing import Any

import torch

SHARE = 0.5  # of the free memory: gradients, optimiser and other programs need some, too


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


def activation_bytes(config: Any, width: int) -> int:
    """What a token leaves behind for the backward pass in rows of `width` tokens, roughly; float32, attention written out."""
    text = config.get_text_config()
    hidden = text.hidden_size
    inner = getattr(text, "intermediate_size", None) or 4 * hidden
    heads = text.num_attention_heads
    return 4 * text.num_hidden_layers * (24 * hidden + 7 * inner + 3 * heads * width)


def tokens(model: Any, width: int) -> int:
    """Tokens a pass of training, at least 1; asked before the first step, whose gradients and Adam's moments are still to come."""
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return max(1, int(SHARE * (free(model.device) - 12 * trained)) // activation_bytes(model.config, width))


def peak(device: torch.device) -> int:
    """The most bytes that this process has held so far: on a GPU what torch allocated, else its resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def is_shortage(error: BaseException) -> bool:
    """Whether torch (or Python) raised this for want of memory."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
