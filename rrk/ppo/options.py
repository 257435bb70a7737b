"""Every choice of the trainer, by name, with its default and where it comes from. `rrk train-ppo --help` shows the same."""

from __future__ import annotations

from dataclasses import dataclass

from rrk.errors import UsageError


@dataclass(frozen=True)
class PpoOptions:
    """Sources: S17 Schulman et al. 2017, Z19 Ziegler et al. 2019, St20 Stiennon et al. 2020, H24 Huang et al. 2024,
    A24 Ahmadian et al. 2024; "ours" is measured on the tiny example or a guess that we own to."""

    updates: int = 20  # ours
    prompts_per_update: int = 64  # ours: more problems beat more samples of each on the tiny example
    samples: int = 4  # programs a prompt; A24
    epochs: int = 2  # passes over a rollout; Z19, H24: 4
    minibatch: int = 64  # programs an optimiser step; ours
    by_problem: bool = False  # shuffle problems, not programs, into minibatches: a prompt is read once; ours
    lr: float = 2e-4  # ours, for tiny models; H24: 3e-6 at 1B
    value_lr_factor: float = 10.0  # the value head starts from zero; ours
    adam_eps: float = 1e-5  # H24
    max_grad_norm: float = 1.0  # S17's code: 0.5
    schedule: str = "constant"  # or linear, to zero (H24)
    clip: float = 0.2  # S17
    value_clip: float = 0.2  # H24
    value_coef: float = 0.1  # Z19
    gamma: float = 1.0  # Z19
    lam: float = 1.0  # ours; Z19: .95
    advantage: str = "rloo"  # A24; "gae": S17
    whiten: bool = True  # advantages, over the whole rollout; H24
    kl: float = 0.1  # beta; Z19 starts at .15, St20 .05
    kl_estimator: str = "k1"  # Z19
    ref_temperature: float | None = None  # of the SFT model in the KL; None: that of the rollouts; ours
    adaptive_kl: float | None = None  # target KL a completion (Z19: 6); None: fixed
    kl_horizon: int = 10_000  # Z19
    target_kl: float | None = None  # stop the update's epochs when old|new KL a token exceeds this; S17's successors
    stop_kl: float | None = None  # stop the run when KL to the SFT model a completion exceeds this; ours
    score_clamp: float = 4.0  # after normalisation by the first batch; ours
    missing_eos_penalty: float = 3.0  # score of a program that never ends; St20: 1
    temperature: float = 1.0  # of rollouts; applied in log-probabilities too; H24: .7
    max_tokens: int = 256
    value_head: str = "trunk"  # or separate, a critic with its own trunk (H24)
    lora_r: int = 0  # 0: all weights
    fsdp: bool = False  # share weights, gradients and Adam's states out among the processes; ours, by FSDP2
    bf16: bool = False
    gradient_checkpointing: bool = False
    token_budget: int = 8192  # tokens a micro-batch, padding counted
    probe_every: int = 5
    probe_samples: int = 4
    stop_auc: float | None = None  # stop the run when the probe's AUC falls below this; ours
    probe_patience: int = 0  # stop after so many probes without a new best; 0: never
    keep: str = "best"  # by the probe; or last
    save_every: int = 5
    seed: int = 0

    def check(self) -> None:
        """UsageError for choices that contradict each other."""
        choices = {
            "advantage": ("gae", "rloo"),
            "kl_estimator": ("k1", "k3"),
            "value_head": ("trunk", "separate"),
            "schedule": ("constant", "linear"),
            "keep": ("best", "last"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise UsageError(f"--{name.replace('_', '-')} is one of {', '.join(allowed)}")
        if self.advantage == "rloo" and self.samples < 2:
            raise UsageError("--advantage rloo compares samples of a prompt: give --samples 2 or more, or use gae")
        if self.fsdp and self.lora_r:
            raise UsageError("--fsdp is for training all weights: with --lora-r every process holds the whole model")
        if self.temperature <= 0:
            raise UsageError("--temperature must be above 0: PPO learns from what varies")
        if self.ref_temperature is not None and self.ref_temperature <= 0:
            raise UsageError("--ref-temperature must be above 0")
        if self.stop_auc is not None and not 0 < self.stop_auc < 1:
            raise UsageError("--stop-auc is between 0 and 1: .5 is chance")
        for name in (
            "updates",
            "prompts_per_update",
            "samples",
            "epochs",
            "minibatch",
            "save_every",
            "probe_every",
            "max_tokens",
        ):
            if getattr(self, name) < 1:
                raise UsageError(f"--{name.replace('_', '-')} must be at least 1")
