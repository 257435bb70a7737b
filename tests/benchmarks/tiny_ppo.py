"""The tiny loop's PPO figures: what PPO against a reranker gains on held-out problems, and what too much of it costs.

python -m tests.benchmarks.tiny_ppo -o DIR [--seeds 0 1 2 3 4] [--rounds 1|2] [--long 0] [--samples 16] [-- TRAIN-PPO FLAGS]

A seed: the tiny world, `rrk train-sft`, a reranker from executed samples of it, `rrk train-ppo` with the probe, and executed
samples of test problems from the SFT model and the policy. --rounds 2: the reranker retrained on executed samples of the
policy, and PPO from the SFT model against it. --long N: N updates against the first reranker, once with the probe and once
without, which ends with the last weights of the same run. What is there already is kept, so a stopped run goes on.
Prints pass@1 per seed, means, and 95 % intervals over seeds (Student's t). Its files serve `rrk eval` and `rrk show` too.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
T = {
    1: 12.71,
    2: 4.30,
    3: 3.18,
    4: 2.78,
    5: 2.57,
    6: 2.45,
    7: 2.36,
    8: 2.31,
    9: 2.26,
}  # .975 quantile, by degrees of freedom


class Seed:
    """One seed's folder and the commands that fill it."""

    def __init__(self, folder: Path, seed: int, samples: int, ppo: list[str]):
        self.at, self.seed, self.samples, self.ppo = folder, str(seed), str(samples), ppo
        folder.mkdir(parents=True, exist_ok=True)

    def run(self, target: str, *command: str) -> str:
        """Make `target` unless it is there; the command goes to its log."""
        path = self.at / target
        whole = path.exists() if "." in target else (path / "rrk.json").exists() or (path / "config.json").exists()
        if not whole:
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            with open(self.at / "log.txt", "a") as log:
                done = subprocess.run(
                    [sys.executable, *command], cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT
                )
            if done.returncode:
                raise SystemExit(f"{' '.join(command)}: exit {done.returncode}, see {self.at}/log.txt")
        return str(path)

    def rrk(self, target: str, *command: str) -> str:
        return self.run(
            target, "-m", "rrk", "--config", "examples/tiny/rrk.toml", *command, "-o", str(self.at / target)
        )

    def world(self) -> None:
        self.run("data/test.jsonl", "examples/tiny/world.py", "-o", str(self.at / "data"), "--seed", self.seed)

    def data(self, name: str) -> str:
        return str(self.at / "data" / name)

    def executed(self, name: str, problems: str, model: str, *more: str) -> str:
        """Samples of a model, executed."""
        drawn = self.rrk(f"{name}.samples.jsonl", "sample", problems, "-m", model, "--seed", self.seed, *more)
        return self.rrk(f"{name}.jsonl", "execute", drawn, "-p", problems)

    def rate(self, name: str, model: str, *more: str) -> float:
        """pass@1 on the test problems."""
        path = self.executed(f"test-{name}", self.data("test.jsonl"), model, *(more or ("-n", self.samples)))
        return statistics.mean(bool(json.loads(line)["passed"]) for line in open(path))

    def policy(self, name: str, reranker: str, *more: str, probe: bool = True) -> str:
        """PPO from the SFT model."""
        watch = ("--probe", self.data("dev.jsonl")) if probe else ()
        return self.rrk(
            name, "train-ppo", self.data("train.jsonl"), "-m", str(self.at / "sft"), "--reranker", reranker, *watch,
            "--seed", self.seed, "--resume", *self.ppo, *more,
        )  # fmt: skip


def one(seed: Seed, rounds: int, long: int) -> dict[str, float]:
    """Every figure of a seed."""
    seed.world()
    sft = seed.rrk("sft", "train-sft", seed.data("sft.jsonl"), "-m", seed.data("base"), "--seed", seed.seed)
    found = {"SFT": seed.rate("sft", sft), "SFT greedy": seed.rate("sft-greedy", sft, "-n", "1", "--temperature", "0")}
    reranker, pairs, policy = str(seed.at / "reranker-0"), [], sft
    for number in range(rounds):
        drawn = seed.executed(f"train-{number}", seed.data("train.jsonl"), policy, "-n", "8")
        hard: tuple[str, ...] = ()
        if number:
            drawn = seed.rrk(f"scored-{number}.jsonl", "rerank", drawn, "-m", reranker)
            hard = ("--hard",)
        # Whatever is there already: a run that goes on must not lose the first round's pairs.
        pairs.append(seed.rrk(f"pairs-{number}.jsonl", "mine", drawn, "--round", str(number), *hard))
        base = reranker if number else sft
        reranker = seed.rrk(f"reranker-{number}", "train-reranker", *pairs, "-m", base, "--seed", seed.seed, "--resume")
        policy = seed.policy(f"policy-{number}", reranker)
        name = f"PPO against reranker {number}"
        found[name] = seed.rate(f"policy-{number}", policy)
        found[f"{name}, greedy"] = seed.rate(f"policy-{number}-greedy", policy, "-n", "1", "--temperature", "0")
        log = [json.loads(line) for line in open(Path(policy) / "log.jsonl")]
        found[f"{name}, KL at the end (nats a program)"] = log[-1]["kl"]
        found[f"{name}, seconds an update"] = statistics.mean(
            r["seconds"]["total"] - r["seconds"].get("probe", 0) for r in log if r["update"]
        )
        print(f"  seed {seed.seed} {name}: " + curve(log), flush=True)
    if long:
        first, name = str(seed.at / "reranker-0"), f"{long} updates against reranker 0"
        best = seed.policy("policy-long", first, "--updates", str(long))
        last = seed.policy("policy-long-last", first, "--updates", str(long), probe=False)
        found[f"{name}, kept"], found[f"{name}, last"] = seed.rate("long", best), seed.rate("long-last", last)
        log = [json.loads(line) for line in open(Path(best) / "log.jsonl")]
        print(f"  seed {seed.seed} {name}: " + curve(log), flush=True)
    return found


def curve(log: list[dict]) -> str:
    """Probes of a run: update, pass@1, the reranker's score, KL."""
    return "; ".join(
        f"{r['update']}: {r['probe_pass@1']:.3f}, score {r['probe_score']:.2f}, KL {r.get('kl', 0):.1f}"
        for r in log
        if "probe_pass@1" in r
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--long", type=int, default=0)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("ppo", nargs="*", metavar="-- FLAGS", help="more flags of train-ppo")
    args = parser.parse_args()
    every = []
    for seed in args.seeds:
        found = one(Seed(args.output / f"seed-{seed}", seed, args.samples, args.ppo), args.rounds, args.long)
        every.append(found)
        print(f"seed {seed}: " + ", ".join(f"{k} {v:.3f}" for k, v in found.items()), flush=True)
    n = len(every)
    for name in every[0]:
        values = [found[name] for found in every]
        half = T[min(n - 1, 9)] * statistics.stdev(values) / math.sqrt(n) if n > 1 else float("nan")
        print(f"{name}: {statistics.mean(values):.3f} +- {half:.3f} ({n} seeds)")


if __name__ == "__main__":
    main()
