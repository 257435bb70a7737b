"""Every stage on a GPU, in under ten minutes: one script that brings what it needs and prints a JSON line a figure.

python -m tests.gpu.stages MODEL [--stages sample reranker rerank sft ppo] [--device cuda|cpu] [--problems FILE]
    [--candidates FILE] [...]

Needs this checkout, a causal checkpoint's folder, Problem rows, executed Candidate rows, and rrk's own dependencies. `--device cpu` with a small model
tries it out where there is no GPU. A stage that fails says why, and the others go on; exit code 1 then.

A stage is a function of the arguments and `say`, in STAGES by its name: what it gives `say` is printed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch

from tests.benchmarks import real_training, sampling_model


def sample(args: argparse.Namespace, say: Callable[[str], None]) -> None:
    """Tokens/s of rrk's sampler at several numbers of rows beside the bare forward pass, generate and generate_batch."""
    sampling_model.measure(args, say)


def training(name: str) -> Callable[[argparse.Namespace, Callable[[str], None]], None]:
    """The command itself beside the bare forward and backward pass; ppo and rerank take what reranker left in --work."""
    return lambda args, say: real_training.measure(args, [name], say)


STAGES: dict[str, Callable[[argparse.Namespace, Callable[[str], None]], None]] = {
    "sample": sample,
    **{name: training(name) for name in ("reranker", "rerank", "sft", "ppo")},
}


def main(given: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sampling_model.options(parser)
    real_training.options(parser)
    parser.set_defaults(rows=[128, 256, 512], limit=64, updates=5)
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    args = parser.parse_args(given)
    if args.device == "auto" and not torch.cuda.is_available():
        sys.exit("torch sees no GPU here; --device cpu tries the script out")
    kept = tempfile.TemporaryDirectory()
    args.work = args.work or Path(kept.name)
    failed = False
    for name in args.stages:
        start = time.monotonic()
        figures = {"stage": name}
        try:
            STAGES[name](args, lambda text: print(text, flush=True))
        except Exception:
            failed = True
            traceback.print_exc()
            figures["failed"] = True
        figures["seconds"] = round(time.monotonic() - start, 1)
        print(json.dumps(figures), flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
