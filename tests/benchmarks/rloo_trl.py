"""TRL's RLOOTrainer on the same task and for the same reward: run by ppo_trl.py --rloo.

python -m tests.benchmarks.rloo_trl JSON       {"data", "sft", "reranker", "out", "updates", "every", "seed", ...}

A program's reward is ours: the reranker's score, normalised by the first rollout, or minus the penalty where no EOS came. 256
programs an update, 4 a problem; 8 steps of 64 on them, as ours. Writes OUT/update-K and OUT/times.jsonl.
"""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import torch
from datasets import Dataset
from transformers import AutoTokenizer
from trl import RLOOConfig, RLOOTrainer

from rrk.ppo.rollout import ScoreNormaliser
from tests.benchmarks import ppo_trl
from tests.benchmarks.trl_clock import Keep

CLAMP = 4.0


def main() -> None:
    given = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(given["sft"], padding_side="left")
    score, normaliser = ppo_trl.rewarder(given["reranker"]), ScoreNormaliser()

    def reward(prompts, completions, completion_ids, **more):
        each = range(0, len(prompts), ppo_trl.SAMPLES)
        groups = score([(prompts[at], completions[at : at + ppo_trl.SAMPLES], "py") for at in each])
        scores = [found for group in groups for found in group]
        normaliser.fit(scores)
        drawn = (
            SimpleNamespace(score=found, finish="stop" if ids[-1] == tokenizer.eos_token_id else "length")
            for found, ids in zip(scores, completion_ids, strict=True)
        )
        return [normaliser(one, CLAMP, ppo_trl.PENALTY) for one in drawn]

    steps = ppo_trl.PROMPTS * ppo_trl.SAMPLES // ppo_trl.MINIBATCH * ppo_trl.EPOCHS
    config = RLOOConfig(
        output_dir=given["out"], use_cpu=True, bf16=True, report_to="none", disable_tqdm=True, seed=given["seed"],
        per_device_train_batch_size=ppo_trl.MINIBATCH, gradient_accumulation_steps=1, num_generations=ppo_trl.SAMPLES,
        generation_batch_size=ppo_trl.PROMPTS * ppo_trl.SAMPLES, num_iterations=ppo_trl.EPOCHS,
        max_steps=given["updates"] * steps, max_completion_length=ppo_trl.TOKENS, temperature=1.0, top_k=0, beta=ppo_trl.KL,
        epsilon=0.2, normalize_advantages=True, learning_rate=given["lr"], lr_scheduler_type="constant", adam_epsilon=1e-5,
        weight_decay=0.0, max_grad_norm=1.0, gradient_checkpointing=False, save_strategy="no", logging_steps=1000,
        model_init_kwargs={"dtype": "float32", "attn_implementation": "eager"},
    )  # fmt: skip
    keep = Keep(given, steps)
    rows = [{"prompt": problem.prompt} for problem in ppo_trl.problems(ppo_trl.Path(given["data"]))]
    trainer = RLOOTrainer(
        model=given["sft"], reward_funcs=reward, args=config, train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer, callbacks=[keep],
    )  # fmt: skip
    keep.policy, keep.tokenizer = trainer.model, tokenizer
    trainer.train()


if __name__ == "__main__":
    main()
