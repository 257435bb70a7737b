"""Does a reranker learn more from pairs by pass share than from passed and failed? On the tiny world, over seeds.

    python -m tests.benchmarks.tiny_shares [--seeds 0 1 2] [--train 400] [--sft-steps 150] [--steps 120] [--run NAME]

A seed is a world of its own (examples/tiny/world.py), a model fine-tuned on its corpus, and 8 executed samples (`--all-tests`) of
each training problem. From the same samples `rrk mine` makes the pairs of each way, and from the same model a reranker is trained
by as many steps; all rank the same 16 samples of each of 200 held-out problems. Prints ranked pass@1 and within-problem AUC a
seed, and of each way against the first the paired difference (bootstrap over seeds x problems). Models and steps are smaller
than the loop's, so that a seed takes about three minutes of one core; what is there already is kept (runs/NAME-SEED).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from rrk import jsonl
from rrk.evaluation.card import auc
from rrk.evaluation.estimators import ranked_pass_at_1
from rrk.evaluation.statistics import compare
from tests.benchmarks.tiny_mixes import by_problem
from tests.benchmarks.tiny_ppo import ROOT, Seed

PASSED, SHARE, NO_MARGIN = "passed or failed", "by share", "by share, no margin"
ZERO, ZERO_NO_MARGIN = "by share, share 0 too", "by share, share 0 too, no margin"
BOTH = "passed or failed and by share, no margin"


def ways(seed: Seed, verdicts: str) -> dict[str, list[str]]:
    """The files of pairs of each way."""
    passed = seed.rrk("passed.pairs.jsonl", "mine", verdicts, "--seed", str(seed.seed))
    share = seed.rrk("share.pairs.jsonl", "mine", verdicts, "--margin", "share", "--seed", str(seed.seed))
    zero = seed.rrk("zero.pairs.jsonl", "mine", verdicts, "--margin", "share", "--zero", "--seed", str(seed.seed))
    # Without margins all programs of a group are compared, with them only those that stand in one pair.
    plain = rewritten(share, seed.at / "plain.pairs.jsonl", lambda _: {"margin": None})
    plain_zero = rewritten(zero, seed.at / "plain-zero.pairs.jsonl", lambda _: {"margin": None})
    one = {PASSED: passed, SHARE: share, NO_MARGIN: plain, ZERO: zero, ZERO_NO_MARGIN: plain_zero}
    return {**{way: [pairs] for way, pairs in one.items()}, BOTH: [passed, plain]}


def rewritten(source: str, target: Path, changed: Callable[[dict], dict]) -> str:
    """The rows with some fields changed, in a file of their own; its path."""
    if not target.exists():
        target.write_text("".join(json.dumps({**row, **changed(row)}) + "\n" for row in jsonl.read([source])))
    return str(target)


def ranked(number: int, run: str, train: int, sft_steps: int, steps: int) -> dict[str, list[list[dict]]]:
    """A seed's held-out samples, by problem, as the reranker of each way ranks them."""
    seed = Seed(run, number)
    data = seed.at / "data"
    if not (data / "test.jsonl").exists():
        world = [sys.executable, ROOT / "examples/tiny/world.py", "-o", data, "--seed", number, "--train", train]
        subprocess.run(list(map(str, world)), check=True)
    chosen = ["--seed", str(number)]
    told = ["-m", str(data / "base"), "--unverified", "--steps", str(sft_steps)]
    sft = seed.rrk("sft", "train-sft", str(data / "sft.jsonl"), *told, *chosen)
    executed = {}
    for name, samples in (("train", "8"), ("test", "16")):
        problems = str(data / f"{name}.jsonl")
        drawn = seed.rrk(f"{name}.samples.jsonl", "sample", problems, "-m", sft, "-n", samples, *chosen)
        executed[name] = seed.rrk(f"{name}.verdicts.jsonl", "execute", drawn, "-p", problems, "--all-tests")
    found = {}
    for way, pairs in ways(seed, executed["train"]).items():
        name = way.replace(",", "").replace(" ", "-")
        told = ["-m", sft, "--steps", str(steps), *chosen]
        reranker = seed.rrk(name, "train-reranker", *pairs, *told)
        found[way] = by_problem(seed.rrk(f"{name}.test.jsonl", "rerank", executed["test"], "-m", reranker))
        print(f"  seed {number}, {way}: {sum(map(lines, pairs))} pairs", flush=True)
    return found


def lines(path: str) -> int:
    return Path(path).read_bytes().count(b"\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default="shares", help="folders are runs/RUN-SEED")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--train", type=int, default=400, help="training problems")
    parser.add_argument("--sft-steps", type=int, default=150, help="of the model that is sampled")
    parser.add_argument("--steps", type=int, default=120, help="of each reranker")
    args = parser.parse_args()
    tops: dict[str, list[list[float]]] = {}
    aucs: dict[str, list[list[float | None]]] = {}
    for number in args.seeds:
        for way, problems in ranked(number, args.run, args.train, args.sft_steps, args.steps).items():
            both = [([row["score"] for row in own], [bool(row["passed"]) for row in own]) for own in problems]
            tops.setdefault(way, []).append([ranked_pass_at_1(*one) for one in both])
            aucs.setdefault(way, []).append([auc(*one) for one in both])
    for what, figures in (("ranked pass@1", tops), ("AUC", aucs)):
        first = [value for own in figures[PASSED] for value in own]
        for way, every in figures.items():
            means = [statistics.mean(v for v in own if v is not None) for own in every]
            told = f"{what:14} {way:41} {' '.join(f'{m:.3f}' for m in means)}  mean {statistics.mean(means):.3f}"
            if way != PASSED:
                here = [value for own in every for value in own]
                pairs = [(a, b) for a, b in zip(first, here, strict=True) if a is not None and b is not None]
                d = compare(*map(list, zip(*pairs, strict=True)))
                told += f"  {d['difference']:+.3f} [{d['low']:+.3f}, {d['high']:+.3f}] p {d['p']:.3f}"
            print(told)


if __name__ == "__main__":
    main()
