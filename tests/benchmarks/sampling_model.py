"""Sampling on a real code model: the whole job's tokens/s beside the model's bare forward pass, `generate` and `generate_batch`.

python -m tests.benchmarks.sampling_model MODEL [--problems FILE] [--limit 164] [--samples 16] [--rows 64 128]
    [--temperature .8] [--max-tokens 256] [--device auto] [--dtype auto] [--cpu-time] [--without generate generate_batch]

MODEL: a causal checkpoint's folder. PROBLEMS: Problem rows; default: HumanEval beside the repository (../shared), if there.

- bare: a decoding step of the model's own forward pass over a cache of a typical context, at so many rows: what is
  unavoidable, all rows always full. Measured before and after the job, and averaged, for machines are noisy.
- rrk: all programs of all problems: prompts, stop strings and the tail, in which few rows are left, counted.
- generate, generate_batch: one batch of so many rows for --steps tokens, none ending: no tail, no dropped work; that is
  more than they give in a whole job.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import time
from pathlib import Path

import torch
from transformers import DynamicCache, GenerationConfig

from rrk import jsonl, rows
from rrk.benchmarks import PYTHON_STOPS
from rrk.generation import dtypes
from rrk.generation.models import encode_prompt, load
from rrk.generation.problems import Ask
from rrk.generation.sampler import Sampler

CLOCK = time.perf_counter
HUMANEVAL = Path(__file__).parents[3] / "shared/data/problems/humaneval.jsonl.gz"


def read(path: Path, limit: int) -> list[tuple[str, tuple[str, ...]]]:
    """(prompt, stop strings) of problems."""
    found = [rows.problem(row, tests=False) for row in jsonl.read([str(path)])][:limit]
    return [(problem.prompt, problem.stop_tokens or tuple(PYTHON_STOPS)) for problem in found]


def seconds(work, device) -> float:
    """Of one call."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = CLOCK()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return CLOCK() - start


@torch.no_grad()
def bare(model, count: int, context: int, steps: int = 5) -> float:
    """Tokens/s of the model's own cached step."""
    device = model.device
    vocabulary = model.get_input_embeddings().num_embeddings
    cache = DynamicCache(config=model.config)
    model(torch.randint(vocabulary, (1, context), device=device), past_key_values=cache, logits_to_keep=1)
    cache.batch_repeat_interleave(count)
    token = torch.randint(vocabulary, (count, 1), device=device)
    model(token, past_key_values=cache)
    return count / statistics.median(
        [seconds(lambda: model(token, past_key_values=cache), device) for _ in range(steps)]
    )


def sample(model, tokenizer, problems, args, count: int | None) -> dict:
    """The whole job."""
    how = {"temperature": args.temperature, "top_p": args.top_p, "max_tokens": args.max_tokens}
    sampler = Sampler(model, tokenizer, rows=count, exact=False, **how)
    asks = [
        Ask(prompt, [1000 * i + j for j in range(args.samples)], stops) for i, (prompt, stops) in enumerate(problems)
    ]
    assert sampler.is_continuous()
    done: list[list] = []
    spent = seconds(lambda: done.extend(group for _, group in sampler.stream(asks)), model.device)
    drawn = sum(len(c.ids) for group in done for c in group)
    prompts = sum(len(group[0].prompt) for group in done)
    return {
        "tokens": drawn,
        "seconds": spent,
        "tokens/s": drawn / spent,
        "prompt tokens": prompts,
        "mean context": prompts / len(done) + drawn / sum(map(len, done)) / 2,
        "rows": sampler.rows,
    }


def settings(args, tokenizer) -> dict:
    """Of both of transformers' ways; no row ends."""
    drawing = {"do_sample": True, "temperature": args.temperature, "top_p": args.top_p, "top_k": 0}
    return {
        **(drawing if args.temperature else {"do_sample": False}),
        "max_new_tokens": args.steps,
        "pad_token_id": tokenizer.eos_token_id,
    }


def batch(tokenizer, problems, args, count: int) -> list[list[int]]:
    """Prompts of so many rows, as they stand in the file."""
    heads = [encode_prompt(tokenizer, prompt) for prompt, _ in problems]
    return [heads[row // args.samples % len(heads)] for row in range(count)]


def generate(model, tokenizer, problems, args, count: int) -> float:
    """Tokens/s of transformers' `generate`."""
    heads = batch(tokenizer, problems, args, count)
    width = max(map(len, heads))
    ids = torch.tensor([[0] * (width - len(head)) + head for head in heads], device=model.device)
    mask = torch.tensor([[0] * (width - len(head)) + [1] * len(head) for head in heads], device=model.device)
    given = {"attention_mask": mask, "eos_token_id": None, **settings(args, tokenizer)}
    return count * args.steps / seconds(lambda: model.generate(ids, **given), model.device)


def generate_batch(model, tokenizer, problems, args, count: int) -> float:
    """Tokens/s of transformers' continuous batching."""
    from transformers import ContinuousBatchingConfig

    heads = batch(tokenizer, problems, args, count)
    given = GenerationConfig(eos_token_id=-1, **settings(args, tokenizer))
    # On a CPU it does not find out how much memory there is.
    sizes = {"num_blocks": 256, "max_batch_tokens": 1024} if model.device.type == "cpu" else {}
    how = ContinuousBatchingConfig(return_logprobs=True, **sizes)
    drawn: list[int] = []

    def work():
        made = model.generate_batch(heads, generation_config=given, continuous_batching_config=how)
        drawn.extend(len(one.generated_tokens) for one in made.values())

    spent = seconds(work, model.device)
    return sum(drawn) / spent


def measure(args, say=print) -> list[dict]:
    """A row for each number of rows."""
    global CLOCK
    CLOCK = time.process_time if args.cpu_time else time.perf_counter
    model, tokenizer = load(args.model, args.device, args.dtype)
    problems = read(args.problems, args.limit)
    say(f"{args.model}: {model.num_parameters() / 1e6:.0f}M parameters, {dtypes.name(model)}, {model.device}")
    found = []
    for count in args.rows:
        first = bare(model, count, args.context)
        job = sample(model, tokenizer, problems, args, count)
        second = bare(model, count, args.context)
        limit = 2 / (1 / first + 1 / second)
        row = {**job, "bare": limit, "bare before and after": [first, second], "of bare": job["tokens/s"] / limit}
        for name, side in (("generate", generate), ("generate_batch", generate_batch)):
            if name in args.without:
                continue
            try:
                row[name] = side(model, tokenizer, problems, args, count)
            except Exception as error:  # transformers' own; the others' figures are not lost for it
                row[name] = f"{type(error).__name__}: {error}"[:200]
                continue
            row[f"times {name}"] = job["tokens/s"] / row[name]
        if model.device.type == "cuda":
            row["peak GB, device"] = torch.cuda.max_memory_allocated(model.device) / 1e9
        row["peak GB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        say(json.dumps({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()}))
        found.append(row)
    return found


def options(parser: argparse.ArgumentParser) -> None:
    """What both this and tests/gpu take."""
    parser.add_argument("model", type=Path)
    parser.add_argument("--problems", type=Path, default=HUMANEVAL)
    parser.add_argument("--limit", type=int, default=164, help="problems")
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--rows", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--top-p", type=float, default=0.95)
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--context", type=int, default=200, help="tokens in the cache of the bare step")
    parser.add_argument("--steps", type=int, default=16, help="tokens a row of generate and generate_batch")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--cpu-time", action="store_true", help="seconds of CPU: on a busy machine, with one thread")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--without", nargs="*", default=[], choices=["generate", "generate_batch"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options(parser)
    args = parser.parse_args()
    for needed in (args.model, args.problems):
        if not needed.exists():
            sys.exit(f"skipped: {needed} is not there")
    measure(args, lambda text: print(text, flush=True))


if __name__ == "__main__":
    main()
