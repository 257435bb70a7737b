"""The clock of a TRL trainer that runs beside ours (ppo_trl_side.py, rloo_trl.py); imports nothing of rrk."""

from __future__ import annotations

import json
import time
from pathlib import Path

from transformers import TrainerCallback


class Keep(TrainerCallback):
    """Saves the policy every few updates, with the clock stopped. An update is `steps` steps of the trainer."""

    def __init__(self, given: dict, steps: int = 1):
        self.given, self.steps, self.spent, self.began = given, steps, 0.0, 0.0

    def on_train_begin(self, args, state, control, **more):
        self.began = time.process_time()

    def on_step_end(self, args, state, control, **more):
        if state.global_step % self.steps:
            return
        self.spent += time.process_time() - self.began
        update, out = state.global_step // self.steps, Path(self.given["out"])
        with open(out / "times.jsonl", "a") as stream:
            stream.write(json.dumps({"update": update, "cpu": self.spent}) + "\n")
        if update % self.given["every"] == 0:
            self.policy.save_pretrained(out / f"update-{update}")
            self.tokenizer.save_pretrained(out / f"update-{update}")
        self.began = time.process_time()
