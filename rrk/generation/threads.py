"""How many threads a model is worth, and training that does not depend on which of them is first.

    threads.fit(model)      # before sampling or scoring, where the user has not set a number
    @threads.repeatable()   # a function that trains: the same seed and number of threads, the same weights

Measured by transformers' Llama with float32, two busy cores: reading 1,024 tokens on two threads took 1.1 times as long as
on one at 1.2M parameters, a decoding step of 16 rows 1.8 times, 1.1 times at 7M. A number that followed the load would
suit better and change scores in their last bits from run to run.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.utils.deterministic

SMALL = 10_000_000  # parameters


def fit(model: Any) -> int:
    """One thread for a model of fewer than SMALL parameters on a CPU, torch's own choice for others; returns it."""
    if model.device.type == "cpu" and sum(p.numel() for p in model.parameters()) < SMALL:
        torch.set_num_threads(1)
    return torch.get_num_threads()


@contextlib.contextmanager
def repeatable() -> Iterator[None]:
    """On a CPU gradients are added in one order. torch's choice for several threads adds those of an indexed tensor as they come.

    Of ten runs of one seed beside other programs, three had other weights (in the last bit). It costs nothing: the backward
    pass of `x[rows]`, [4096, 896], took 5.7 ms as they come and 3.3 in order. GPUs are left as they are.
    """
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    settings: Any = torch.utils.deterministic
    filled = settings.fill_uninitialized_memory
    if not torch.cuda.is_available():
        torch.use_deterministic_algorithms(True, warn_only=True)
        settings.fill_uninitialized_memory = False  # or every empty tensor is written twice
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        settings.fill_uninitialized_memory = filled
