"""TRL 1.12's PPOTrainer on the same task: run by ppo_trl.py, in TRL's own environment (it imports nothing of rrk).

python ppo_trl_side.py JSON       {"data", "sft", "reranker", "out", "updates", "every", "batch", "minibatch", ...}

Writes OUT/update-K (the policy) and OUT/times.jsonl: CPU seconds of training so far, saving excluded.
"""

from __future__ import annotations

import json
import sys

import torch
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)
from trl.experimental.ppo import PPOConfig, PPOTrainer
from trl_clock import Keep  # of this folder: run as a script


def main() -> None:
    given = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(given["sft"], padding_side="left")
    load = {"dtype": torch.float32, "attn_implementation": given["attention"]}
    policy, reference = (AutoModelForCausalLM.from_pretrained(given["sft"], **load) for _ in range(2))
    reward, value = (
        AutoModelForSequenceClassification.from_pretrained(given["reranker"], num_labels=1, **load) for _ in range(2)
    )
    prompts = [json.loads(line)["prompt"] for line in open(given["data"])]
    rows = [{"input_ids": tokenizer(p, add_special_tokens=False)["input_ids"]} for p in prompts]
    config = PPOConfig(
        output_dir=given["out"], use_cpu=True, bf16=given["bf16"], report_to="none", disable_tqdm=True, seed=given["seed"],
        per_device_train_batch_size=given["batch"], gradient_accumulation_steps=1,
        num_mini_batches=given["batch"] // given["minibatch"], local_rollout_forward_batch_size=given["forward"],
        total_episodes=given["batch"] * given["updates"], num_ppo_epochs=given["epochs"], response_length=given["max_tokens"],
        stop_token="eos", temperature=1.0, missing_eos_penalty=given["penalty"], learning_rate=given["lr"],
        lr_scheduler_type="constant", adam_epsilon=1e-5, weight_decay=0.0, kl_coef=given["kl"], cliprange=0.2,
        cliprange_value=0.2, vf_coef=0.1, gamma=1.0, lam=given["lam"], num_sample_generations=0, save_strategy="no",
        logging_steps=1, gradient_checkpointing=False,
    )  # fmt: skip
    keep = Keep(given)
    trainer = PPOTrainer(
        args=config, processing_class=tokenizer, model=policy, ref_model=reference, reward_model=reward,
        value_model=value, train_dataset=Dataset.from_list(rows), eval_dataset=Dataset.from_list(rows[:1]),
        callbacks=[keep],
    )  # fmt: skip
    keep.policy, keep.tokenizer = policy, tokenizer
    trainer.train()


if __name__ == "__main__":
    main()
