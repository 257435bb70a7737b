"""Training a real code model: tokens/s and peak memory of each stage beside the model's bare forward and backward pass.

python -m tests.benchmarks.real_training MODEL [--stages reranker rerank sft ppo] [--candidates FILE] [--train-steps 3 | --epochs]
    [--updates 2] [--prompts 64] [--samples 4] [--max-tokens 200] [--reranker DIR] [--limit N] [--work DIR]

MODEL: a causal checkpoint's folder. CANDIDATES: executed Candidate rows; default: qwen05_mbpp_train beside the repository.

- bare: the model as --bf16 computes here (bf16, or float32 on a CPU that only emulates it), on rows of --width random tokens:
  forward alone, and with every token's logits (PPO's score and annotate); forward and backward with frozen weights, as LoRA has
  them (gradients of what flows through, none of weights); and with gradients of all weights. The loss needs the last token's
  logits alone (a reranker with a head), or every token's (sft, a likelihood), in pieces as rrk reads them.
- rrk: the command itself, nothing set but --lora-r 16 --bf16 and how many steps, in a process of its own; its own figures.

Everything runs with as many threads as torch takes (OMP_NUM_THREADS); bare is measured before and after each stage.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from rrk import jsonl
from rrk.generation import dtypes, logprobs
from rrk.generation.models import load, pick_device, training_attention

ROOT = Path(__file__).parents[2]
CANDIDATES = ROOT.parent / "shared/data/candidates/qwen05_mbpp_train.jsonl.gz"


def bare(folder: str, width: int, rows: int, repeats: int = 3) -> dict[str, float]:
    """Tokens/s of the passes that nothing can do without."""
    narrow = dtypes.autocast(True, pick_device("auto"), lambda text: None)  # what --bf16 computes in here
    model, _ = load(folder, "auto", "bfloat16" if narrow else "float32", training_attention())
    device, vocabulary = model.device, model.get_input_embeddings().num_embeddings
    ids = torch.randint(vocabulary, (rows, width), device=device)
    head, trunk = model.get_output_embeddings(), logprobs.trunk(model)

    def hidden(grad: bool) -> torch.Tensor:
        inputs = model.get_input_embeddings()(ids)
        if grad and not inputs.requires_grad:
            inputs.requires_grad_()
        return trunk(inputs_embeds=inputs, use_cache=False).last_hidden_state

    def forward() -> None:
        with torch.no_grad():
            hidden(False)

    def score() -> None:
        hidden(True)[:, -1].float().sum().backward()

    def read() -> None:
        with torch.no_grad():
            logprobs.read(hidden(False)[:, :-1].flatten(0, 1), head, ids[:, 1:].flatten())

    def learn() -> None:
        logp, _ = logprobs.read(hidden(True)[:, :-1].flatten(0, 1), head, ids[:, 1:].flatten())
        logp.sum().backward()

    found = {}
    for name, work, trained in (
        ("forward", forward, False),
        ("forward_lm", read, False),
        ("forward_backward", score, False),
        ("forward_backward_lm", learn, False),
        ("forward_backward_all_weights", score, True),
        ("forward_backward_lm_all_weights", learn, True),
    ):
        model.requires_grad_(trained)
        work()
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            work()
            if device.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
        model.zero_grad(set_to_none=True)
        found[name] = rows * width / statistics.median(times)
    return found


def apart(args: argparse.Namespace) -> dict[str, float]:
    """bare() in a process of its own, so that its memory is nobody's peak."""
    call = f"bare({str(args.model)!r}, {args.width}, {args.bare_rows})"
    code = f"import json; from {bare.__module__ if bare.__module__ != '__main__' else __spec__.name} import bare; print(json.dumps({call}))"
    return json.loads(subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True).stdout)


def rrk(*given: object) -> float:
    """Run a command; its seconds."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "rrk", *map(str, given)], check=True, cwd=ROOT)
    return time.perf_counter() - start


def problems(candidates: Path, out: Path) -> Path:
    """The candidates' problems, to roll out on."""
    found = {}
    for row in jsonl.read([str(candidates)]):
        kept = {key: row[key] for key in ("task_id", "language", "prompt", "stop_tokens", "entry_point") if key in row}
        found.setdefault(row["task_id"], {**kept, "tests": ""})
    out.write_bytes(b"".join(jsonl.dumps(row) + b"\n" for row in found.values()))
    return out


def stage(name: str, args: argparse.Namespace, work: Path) -> dict:
    """One stage's own figures."""
    out, lora = work / name, ["--lora-r", args.lora_r, "--bf16"]
    limit = ["--limit", args.limit] if args.limit else []
    if name == "rerank":
        spent = rrk("rerank", args.candidates, "-m", args.reranker or work / "reranker", "-o", out, *limit)
        count = sum(1 for _ in jsonl.read([str(out)]))
        return {"rows": count, "seconds": spent, "rows_per_second": count / spent}
    steps = [] if args.epochs else ["--steps", args.steps]
    if name == "reranker":
        pairs = work / "pairs.jsonl"
        rrk("mine", args.candidates, "-o", pairs, "-q")
        rrk("train-reranker", pairs, "-m", args.model, "-o", out, *lora, *steps, *limit, *args.more)
    elif name == "sft":
        rrk("train-sft", args.candidates, "-m", args.model, "-o", out, *lora, *steps)
    else:
        size = ["--updates", args.updates, "--prompts-per-update", args.prompts, "--samples", args.samples]
        reranker = ["--reranker", args.reranker or work / "reranker"]
        shape = ["--max-tokens", args.max_tokens, "--lr", 2e-5, "--epochs", args.ppo_epochs]
        asked = problems(args.candidates, work / "problems.jsonl")
        rrk("train-ppo", asked, "-m", args.model, *reranker, "-o", out, *lora, *size, *shape)
        return {"updates": [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]}
    figures = json.loads((out / "rrk.json").read_bytes())["figures"]
    return {key: figures.get(key) for key in ("tokens_per_second", "peak_memory", "steps", "loss", "as_trained")}


def options(parser: argparse.ArgumentParser) -> None:
    """Those of this benchmark but for the model."""
    parser.add_argument("--candidates", type=Path, default=CANDIDATES, help="executed Candidate rows")
    parser.add_argument("--train-steps", dest="steps", type=int, default=3)
    parser.add_argument("--epochs", action="store_true", help="all of an epoch, not --train-steps")
    parser.add_argument("--more", nargs="*", default=[], help="options of train-reranker")
    parser.add_argument("--lora-r", type=int, default=16)
    parser.add_argument("--updates", type=int, default=2)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--ppo-epochs", type=int, default=2)
    parser.add_argument("--reranker", type=Path, help="default: the one that stage reranker trains")
    parser.add_argument("--width", type=int, default=256, help="tokens of a bare row")
    parser.add_argument("--bare-rows", type=int, default=4)
    parser.add_argument("--work", type=Path, help="a folder to keep what is made")


def measure(args: argparse.Namespace, stages: Sequence[str], say: Callable[[str], None]) -> None:
    """A JSON line a stage."""
    if not args.candidates.exists():
        raise FileNotFoundError(f"{args.candidates}: not there; give --candidates")
    with tempfile.TemporaryDirectory() as temporary:
        work = args.work or Path(temporary)
        work.mkdir(exist_ok=True)
        before = apart(args)
        print(f"bare: {before}", file=sys.stderr, flush=True)  # known, whatever becomes of the stages
        for name in stages:
            figures = stage(name, args, work)
            after = apart(args)
            beside = {key: round((before[key] + after[key]) / 2, 1) for key in before}
            before = after
            say(json.dumps({"stage": name, "threads": torch.get_num_threads(), **figures, "bare": beside}))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--stages", nargs="+", default=["reranker", "rerank", "sft", "ppo"])
    parser.add_argument("--limit", type=int, help="pairs to train on, problems to rank")
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--max-tokens", type=int, default=200)
    options(parser)
    args = parser.parse_args()
    if not Path(args.model).is_dir():
        sys.exit(f"{args.model}: no such folder; this needs the weights of a real model")
    measure(args, args.stages, lambda line: print(line, flush=True))


if __name__ == "__main__":
    main()
