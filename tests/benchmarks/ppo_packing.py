"""What PPO's passes cost when a prompt is read once for all its programs, beside a row a program. CPU seconds, one thread.

python -m tests.benchmarks.ppo_packing MODEL [--prompts 8] [--samples 4] [--prompt-tokens 150] [--program-tokens 60]
    [--share 4] [--budget 8192]

MODEL: a causal checkpoint's folder. Tokens are random, lengths vary by a third (prompts) and a half (programs). annotate: a
look at all programs; it is taken twice an update, by policy and reference. optimise: forward and backward over one minibatch
of so many programs, drawn at random, as --share says (64 of 256: 4); by problem: over one of whole problems (train-ppo
--by-problem). `read`: tokens, padding not counted.
"""

from __future__ import annotations

import argparse
import random
import time

import torch

from rrk.ppo.batch import Text, collate, cut
from rrk.ppo.policy import Policy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    for name, default in (("prompts", 8), ("samples", 4), ("prompt-tokens", 150), ("program-tokens", 60), ("share", 4)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--budget", type=int, default=8192)
    how = parser.parse_args()
    torch.set_num_threads(1)
    network, _ = Policy.load(how.model, attention="eager", critic=False)
    network.train()
    assert network.packs, "this architecture is not packed"
    rng = random.Random(0)
    token = lambda: rng.randrange(3, network.causal.config.vocab_size)  # noqa: E731
    texts = []
    for _ in range(how.prompts):
        prompt = [token() for _ in range(round(how.prompt_tokens * rng.uniform(2 / 3, 4 / 3)))]
        for _ in range(how.samples):
            texts.append(Text(prompt, [token() for _ in range(round(how.program_tokens * rng.uniform(0.5, 1.5)))]))
    part = rng.sample(texts, len(texts) // how.share)

    def annotate(batch) -> None:
        with torch.no_grad():
            network(batch)

    def optimise(batch) -> None:
        network(batch, entropy=True).logprobs.sum().backward()

    whole = texts[: how.samples * max(1, how.prompts // how.share)]
    for name, work, given in (
        ("annotate", annotate, texts),
        ("optimise", optimise, part),
        ("optimise by problem", optimise, whole),
    ):
        spent, read = [], []
        for packs in (0, network.packs):
            began = time.process_time()
            batches = [collate(given, rows, "cpu") for rows in cut(given, how.budget, packs)]
            for batch in batches:
                work(batch)
            spent.append(time.process_time() - began)
            read.append(sum(batch.tokens for batch in batches))
            network.zero_grad()
        print(
            f"{name}: {len(given)} programs, read {read[0]} and packed {read[1]}; {spent[0]:.1f} and {spent[1]:.1f} s:"
            f" {spent[1] / spent[0]:.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
