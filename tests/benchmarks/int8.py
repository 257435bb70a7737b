"""`--dtype int8` beside float32 on a real code model: speed of sampling and of scoring, and what the rounding costs.

python -m tests.benchmarks.int8 MODEL [--problems FILE] [--candidates FILE] [--limit 8] [--samples 16] [--texts 60] [--cpu-time]

MODEL: a causal checkpoint's folder. PROBLEMS: Problem rows; default: HumanEval. CANDIDATES: executed Candidate rows of any model;
default: CodeT's. Both lie beside the repository (../shared). For each format in one run:

- sample: programs of the first problems, prompts and tail counted.
- likelihood: programs of CodeT's first problems scored (`rerank --method likelihood`).
- over the tokens of so many programs: nats a token, the divergence from float32's odds, and how often the likeliest is the same.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from rrk import jsonl
from rrk.generation.models import encode_prompt, load
from rrk.reranking.scorer import Scorer, question
from tests.benchmarks import sampling_model

CANDIDATES = Path(__file__).parents[3] / "shared/data/candidates/codet_humaneval_codegen16b.jsonl.gz"


def groups(path: Path, limit: int) -> Iterator[list[dict]]:
    """The programs of the first problems."""
    by_problem = itertools.groupby(jsonl.read([str(path)]), key=lambda row: row["task_id"])
    for _, found in itertools.islice(by_problem, limit):
        yield list(found)[:16]


@torch.no_grad()
def odds(model, tokenizer, texts: list[tuple[str, str]]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """(log-probabilities [tokens, vocabulary], the tokens) of each program after its prompt."""
    for prompt, program in texts:
        head = encode_prompt(tokenizer, prompt)
        tail = tokenizer(program, add_special_tokens=False)["input_ids"]
        logits = model(torch.tensor([head + tail])).logits[0, len(head) - 1 : -1]
        yield logits.float().log_softmax(-1), torch.tensor(tail)


def difference(args, texts: list[tuple[str, str]]) -> dict[str, float]:
    (plain, tokenizer), (small, _) = (load(args.model, "cpu", dtype) for dtype in ("float32", "int8"))
    total = dict.fromkeys(("tokens", "nll float32", "nll int8", "kl", "same"), 0.0)
    for (p, tokens), (q, _) in zip(odds(plain, tokenizer, texts), odds(small, tokenizer, texts), strict=True):
        total["tokens"] += len(tokens)
        for name, logp in (("nll float32", p), ("nll int8", q)):
            total[name] -= float(logp.gather(1, tokens[:, None]).sum())
        total["kl"] += float((p.exp() * (p - q)).sum())
        total["same"] += int((p.argmax(-1) == q.argmax(-1)).sum())
    return {name: value if name == "tokens" else value / total["tokens"] for name, value in total.items()}


def measure(args) -> dict:
    sampling_model.CLOCK = clock = time.process_time if args.cpu_time else time.perf_counter
    problems = sampling_model.read(args.problems, args.limit)
    asked = [question(found) for found in groups(args.candidates, args.limit)]
    made: dict = {}
    for dtype in ("float32", "int8", "int8", "float32"):  # there and back: machines are noisy
        model, tokenizer = load(args.model, "cpu", dtype)
        job = sampling_model.sample(model, tokenizer, problems, args, args.rows)
        scorer = Scorer.load(str(args.model), "cpu", dtype, zero_shot="likelihood")
        scorer.score_many(asked[:1])  # its trial
        began, before = clock(), scorer.tokens_read
        scorer.score_many(asked)
        for name, speed in (
            ("sample", job["tokens/s"]),
            ("likelihood", (scorer.tokens_read - before) / (clock() - began)),
        ):
            made.setdefault(name, {}).setdefault(dtype, []).append(round(speed, 1))
        del model, scorer
    for found in made.values():
        found["times"] = round(sum(found["int8"]) / sum(found["float32"]), 2)
    texts = [(row["prompt"], row["completion"]) for found in groups(args.candidates, args.texts) for row in found[:1]]
    return {**made, **{name: round(value, 4) for name, value in difference(args, texts).items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sampling_model.options(parser)
    parser.set_defaults(limit=8)
    parser.add_argument("--candidates", type=Path, default=CANDIDATES)
    parser.add_argument("--texts", type=int, default=60)
    args = parser.parse_args()
    args.rows = args.rows[-1]
    for needed in (args.model, args.problems, args.candidates):
        if not needed.exists():
            sys.exit(f"skipped: {needed} is not there")
    print(json.dumps(measure(args)), flush=True)


if __name__ == "__main__":
    main()
