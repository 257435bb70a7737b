"""How many threads a model is worth: a small one is slower on several than on one.

    threads.fit(model)      # before sampling or scoring, where the user has not set a number

Measured by transformers' Llama with float32, two busy cores: reading 1,024 tokens on two threads took 1.1 times as long as
on one at 1.2M parameters, a decoding step of 16 rows 1.8 times, 1.1 times at 7M. A number that followed the load would
suit better and change scores in their last bits from run to run.
"""

from __future__ import annotations

from typing import Any

import torch

SMALL = 10_000_000  # parameters


def fit(model: Any) -> int:
    """One thread for a model of fewer than SMALL parameters on a CPU, torch's own choice for others; returns it."""
    if model.device.type == "cpu" and sum(p.numel() for p in model.parameters()) < SMALL:
        torch.set_num_threads(1)
    return torch.get_num_threads()
