"""Every choice of a reranker's training, by name, with its default. `rrk train-reranker --help` shows the same."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rrk.errors import UsageError
from rrk.generation import processes, quantised, runs


@dataclass(frozen=True)
class TrainingOptions:
    """`batch_size`: groups (of one problem each) a step of all processes; `group`: pairs a group; `steps` wins over `epochs`.

    `lr` None: by the number of weights (DEFAULT_LR); ten times that with LoRA. `beta`: what likelihoods (pooling; nats a token)
    are multiplied by in the loss (Meng et al. 2024), which then leaves `center` out: it would raise wrong programs' too.
    `wise_ft`: how far the saved weights go from the base's to the trained ones (network.towards); 1: all the way.
    """

    steps: int | None = None
    epochs: float = 1.0
    batch_size: int = 16
    micro_batch: int | None = None
    group: int = 2
    cross: bool = True
    lr: float | None = None
    weight_decay: float = 0.0
    warmup: float = 0.05
    schedule: str = "linear"
    center: float = 0.01
    lora_r: int = 0
    qlora: bool = False
    keep_adapter: bool = False
    bf16: bool = False
    gradient_checkpointing: bool = False
    template: str = "plain"
    language_tag: bool = False
    max_length: int = 2048
    pooling: str | None = None
    beta: float = 10.0
    wise_ft: float = 1.0
    eval_every: int = 50
    patience: int = 0
    save_every: int = 100
    seed: int = 0

    def check(self) -> None:
        processes.split(self.batch_size, self.micro_batch)
        if self.schedule not in ("linear", "constant", "cosine"):
            raise UsageError(f"--schedule {self.schedule}: choose linear, cosine or constant")
        runs.check_adapters(self.lora_r, {"--keep-adapter": self.keep_adapter, "--qlora": self.qlora})
        if self.qlora:
            quantised.check()
        if not 0 < self.wise_ft <= 1:
            raise UsageError("--wise-ft is above 0 (the base) and at most 1 (as trained)")
        if self.qlora and self.keep_adapter:
            raise UsageError(
                "--keep-adapter would lay the adapter over whole weights: with --qlora it has learnt 4-bit ones"
            )


# Largest rate that trained steadily: up to so many weights, this rate (tiny models measured here; the rest is common practice).
DEFAULT_LR = ((10e6, 7e-4), (100e6, 1e-4), (1e9, 2e-5), (math.inf, 1e-5))
