"""A rollout of PPO with a real model, its rows filled from all problems, beside one problem at a time. CPU seconds, one thread.

python -m tests.benchmarks.ppo_rollouts MODEL PROBLEMS [--limit 8] [--samples 4] [--max-tokens 160] [--temperature .8]

MODEL: a causal checkpoint's folder; PROBLEMS: Problem rows. The policy is as `train-ppo --lora-r 16 --bf16` has it on a CPU.
One problem at a time is what Qwen2.5-Coder-0.5B fell back to there while the trial of the decoding read random ids.
"""

from __future__ import annotations

import argparse
import json
import time
from itertools import islice

import torch

from rrk import jsonl, rows
from rrk.generation import dtypes
from rrk.ppo.policy import Policy
from rrk.ppo.rollout import CacheSampler


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("problems")
    for name, default in (("limit", 8), ("samples", 4), ("max-tokens", 160)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--temperature", type=float, default=0.8)
    how = parser.parse_args()
    torch.set_num_threads(1)
    bf16 = dtypes.autocast(True, torch.device("cpu"), print)
    network, tokenizer = Policy.load(how.model, lora_r=16, bf16=bf16, attention="eager", critic=False)
    problems = [rows.problem(row, tests=False) for row in islice(jsonl.read([how.problems]), how.limit)]
    seeds = [[how.samples * i + j for j in range(how.samples)] for i in range(len(problems))]
    for way in ("all together", "one at a time"):
        sampler = CacheSampler(network, tokenizer, how.temperature, how.max_tokens)
        if way == "one at a time":
            sampler._sampler._continuous = sampler._sampler.batches.mix = False
        else:
            assert sampler._sampler.is_continuous()
        began = time.process_time()
        drawn = sampler([p.prompt for p in problems], seeds, [p.stop_tokens for p in problems])
        spent = time.process_time() - began
        tokens = sum(len(program.ids) for group in drawn for program in group)
        told = {"way": way, "programs": how.samples * len(problems), "tokens": tokens, "cpu_seconds": round(spent, 1)}
        print(json.dumps({**told, "tokens_per_cpu_second": round(tokens / spent, 1)}), flush=True)


if __name__ == "__main__":
    main()
