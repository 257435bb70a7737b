"""What a training step of the reranker costs when programs that stand in several pairs are read once.

python -m tests.benchmarks.reranker_training [--size 1M] [--steps 6]

Side by side on the same mined pairs (6 right and 6 wrong programs a problem, 16 pairs), one thread, forward and backward:
every pair read as two texts (TRL's own collator), programs once a group of 4 pairs, groups of 2 pairs compared crosswise, and
those packed: a problem's programs in one row behind their prompt, which is read once (what `rrk train-reranker` does).
"""

from __future__ import annotations

import argparse
import random
import time

import torch

from rrk import mining
from rrk.generation.packing import Packed
from rrk.reranking import network
from rrk.reranking.pairs import Collator, groups
from rrk.reranking.render import Renderer, Rendering
from tests.benchmarks.scoring import SIZES
from tests.reranking import models


def mined(problems: int) -> list[dict]:
    rng = random.Random(0)
    text = lambda size: "".join(rng.choice("abcdefgh (),=\n") for _ in range(size))  # noqa: E731
    pairs = []
    for p in range(problems):
        prompt = text(80)
        rows = [
            {"task_id": f"t/{p}", "prompt": prompt, "completion_id": i, "completion": text(50), "passed": i < 6}
            for i in range(12)
        ]
        pairs += mining.mine(rows, mining.MiningOptions(pairs=16, hard_share=0.0))
    return pairs


def unshared(group: dict) -> dict:
    """The same comparisons with every program read again for each."""
    made = {"ids": [], "first": [], "chosen": [], "rejected": [], "margin": group["margin"]}
    for good, bad in zip(group["chosen"], group["rejected"], strict=True):
        for side, i in (("chosen", good), ("rejected", bad)):
            made[side].append(len(made["ids"]))
            made["ids"].append(group["ids"][i])
            made["first"].append(group["first"][i])
    return made


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", default="1M", choices=SIZES)
    parser.add_argument("--steps", type=int, default=6)
    given = parser.parse_args()
    torch.set_num_threads(1)
    shape = SIZES[given.size]
    model = models.network("qwen2", **shape, num_key_value_heads=shape["num_attention_heads"], initializer_range=0.05)
    renderer = Renderer(models.tokenizer(), Rendering(), encoder=False)
    pairs = mined(64)
    fours, crossed = groups(pairs, renderer, size=4, cross=False), groups(pairs, renderer, size=2, cross=True)
    for some in (fours, crossed):
        random.Random(1).shuffle(some)
    ways = {
        "two texts a pair": [unshared(group) for group in fours],
        "programs once (4 pairs)": fours,
        "crossed (2 pairs)": crossed,
        "crossed, packed": crossed,
    }
    spent = dict.fromkeys(ways, 0.0)
    compared = dict.fromkeys(ways, 0)
    for step in range(given.steps + 1):
        for way, examples in ways.items():
            packed = way.endswith("packed")
            batch = Collator(0, False, packed)(examples[16 * step : 16 * step + 16])
            started = time.process_time()
            if packed:
                logits = network.read_packed(model, Packed.of(batch))
            else:
                logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.squeeze(-1)
            loss = -torch.nn.functional.logsigmoid(logits[batch["chosen"]] - logits[batch["rejected"]]).mean()
            loss.backward()
            model.zero_grad()
            if step:  # the first warms up
                spent[way] += time.process_time() - started
                compared[way] += len(batch["chosen"])
    for way in ways:
        cost = {name: spent[name] / compared[name] for name in ways}
        ratio = cost["two texts a pair"] / cost[way]
        print(
            f"{way:26} {1000 * spent[way] / given.steps:7.0f} ms a step, {compared[way] // given.steps} comparisons, {ratio:.2f} x"
        )


if __name__ == "__main__":
    main()
