"""The tiny loop over seeds: what PPO against a reranker gains on held-out problems, and what too much of it costs.

    python -m tests.benchmarks.tiny_ppo [--seeds 0 1 2 3 4] [--rounds 2] [--long 60] [--run NAME]

A seed is `make iterate ROUND=2 RUN=NAME-SEED SEED=SEED`, twice as long as the README's: round 1 is PPO against the first
reranker, round 2 PPO from the SFT model against the one retrained on executed samples of round 1's policy. --long N: N updates
against the first reranker, once with the probe, which keeps the best, and once without, which ends with the last weights of the
same run. What is there already is kept, so a stopped run goes on. Prints each figure a seed, its mean, and a 95 % interval
over seeds (Student's t).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Student's t, .975 quantile, by degrees of freedom
T = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36, 8: 2.31, 9: 2.26}


class Seed:
    """One seed's run of the loop, and more commands on its folder."""

    def __init__(self, run: str, seed: int):
        self.run, self.seed = f"{run}-{seed}", seed
        self.at = ROOT / "runs" / self.run

    def iterate(self, rounds: int) -> None:
        """The loop itself."""
        self._call(["make", "iterate", f"ROUND={rounds}", f"RUN={self.run}", f"SEED={self.seed}"], {})

    def rrk(self, target: str, *command: str) -> str:
        """Make a file (`target` has a suffix) or a folder by `rrk COMMAND -o TARGET`, unless it is there; its path."""
        path = self.at / target
        if not (path.exists() if path.suffix else (path / "rrk.json").exists()):
            config = ["--config", "examples/tiny/rrk.toml"]
            self._call([sys.executable, "-m", "rrk", *config, *command, "-o", str(path)], {"OMP_NUM_THREADS": "1"})
        return str(path)

    def _call(self, command: list[str], more: dict[str, str]) -> None:
        self.at.mkdir(parents=True, exist_ok=True)
        with open(self.at / "log.txt", "a") as log:
            done = subprocess.run(command, cwd=ROOT, env={**os.environ, **more}, stdout=log, stderr=subprocess.STDOUT)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}: exit {done.returncode}, see {self.at}/log.txt")

    def rate(self, verdicts: str) -> float:
        """pass@1 of executed samples, as many of each problem."""
        return statistics.mean(bool(json.loads(line)["passed"]) for line in open(self.at / verdicts))

    def long(self, name: str, updates: int, *more: str) -> float:
        """pass@1 on the test problems of a policy that was trained so long against the first reranker."""
        policy = self.rrk(
            name, "train-ppo", str(self.at / "data/train.jsonl"), "-m", str(self.at / "sft"), "--reranker",
            str(self.at / "0/reranker"), "--seed", str(self.seed), "--updates", str(updates), "--resume", *more,
        )  # fmt: skip
        problems = str(self.at / "data/test.jsonl")
        drawn = self.rrk(f"{name}.samples.jsonl", "sample", problems, "-m", policy, "-n", "16")
        return self.rate(self.rrk(f"{name}.jsonl", "execute", drawn, "-p", problems))


def one(seed: Seed, rounds: int, long: int) -> dict[str, float]:
    """Every figure of a seed."""
    seed.iterate(rounds)
    found = {"SFT": seed.rate("0/test-verdicts.jsonl"), "SFT, greedy": seed.rate("0/greedy.jsonl")}
    for number in range(1, rounds + 1):
        log = [json.loads(line) for line in open(seed.at / str(number) / "policy/log.jsonl")]
        name = f"PPO against reranker {number - 1}"
        found[name] = seed.rate(f"{number}/test-verdicts.jsonl")
        found[f"{name}, greedy"] = seed.rate(f"{number}/greedy.jsonl")
        found[f"{name}, KL at the end (nats a program)"] = log[-1]["kl"]
        seconds = [r["seconds"]["total"] - r["seconds"].get("probe", 0) for r in log if r["update"]]
        found[f"{name}, seconds an update"] = statistics.mean(seconds)
        print(f"  seed {seed.seed} {name}: " + curve(log), flush=True)
    if long:
        name = f"{long} updates against reranker 0"
        with ThreadPoolExecutor(2) as pool:  # a core each
            kept = pool.submit(seed.long, "long", long, "--probe", str(seed.at / "data/dev.jsonl"))
            found[f"{name}, last"] = seed.long("long-last", long)
            found[f"{name}, kept"] = kept.result()
        log = [json.loads(line) for line in open(seed.at / "long/log.jsonl")]
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
    parser.add_argument("--run", default="ppo", help="folders are runs/RUN-SEED")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--long", type=int, default=0)
    args = parser.parse_args()
    every = []
    for number in args.seeds:
        found = one(Seed(args.run, number), args.rounds, args.long)
        every.append(found)
        print(f"seed {number}: " + ", ".join(f"{k} {v:.3f}" for k, v in found.items()), flush=True)
    n = len(every)
    for name in every[0]:
        values = [found[name] for found in every]
        half = T[min(n - 1, 9)] * statistics.stdev(values) / math.sqrt(n) if n > 1 else float("nan")
        print(f"{name}: {statistics.mean(values):.3f} +- {half:.3f} ({n} seeds)")


if __name__ == "__main__":
    main()
