"""The tiny loop over seeds: what PPO against a reranker gains on held-out problems, and what too much of it costs.

    python -m tests.benchmarks.tiny_ppo [--seeds 0 1 2 3 4] [--rounds 2] [--long 60] [--kl .1 .02] [--run NAME]

A seed is `make iterate ROUND=2 RUN=NAME-SEED SEED=SEED`, twice as long as the README's: round 1 is PPO against the first
reranker, round 2 PPO from the SFT model against the one retrained on executed samples of round 1's policy. --long N: N updates
against the first reranker for each --kl; what the probe kept and the last weights of the same run are measured. What is there
already is kept, so a stopped run goes on. Prints each figure a seed, its mean, and a 95 % interval over seeds (Student's t).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tomllib
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

    def long(self, updates: int, kl: float) -> str:
        """The folder of a policy trained so long against the first reranker, its last weights in last/."""
        out = self.at / f"long-{updates}-{kl}"
        if not (out / "rrk.json").exists():
            shutil.rmtree(out, ignore_errors=True)
            given = json.dumps({"at": str(self.at), "out": str(out), "updates": updates, "kl": kl, "seed": self.seed})
            command = [sys.executable, "-m", "tests.benchmarks.tiny_ppo", "--train", given]
            self._call(command, {"OMP_NUM_THREADS": "1"})
        return out.name

    def test(self, policy: str) -> float:
        """pass@1 of a policy on the test problems."""
        problems, name = str(self.at / "data/test.jsonl"), policy.replace("/", "-")
        drawn = self.rrk(f"{name}.samples.jsonl", "sample", problems, "-m", str(self.at / policy), "-n", "16")
        return self.rate(self.rrk(f"{name}.jsonl", "execute", drawn, "-p", problems))


def train(at: str, out: str, updates: int, kl: float, seed: int) -> None:
    """`rrk train-ppo` with the tiny world's options, but for these; the last weights are saved beside what the probe keeps."""
    import torch

    from rrk.ppo.options import PpoOptions
    from rrk.ppo.probe import Probe
    from rrk.ppo.trainer import Trainer
    from rrk.sandbox import Job, Judge
    from tests.benchmarks.ppo_trl import problems, rewarder

    torch.set_num_threads(1)
    chosen = tomllib.loads((ROOT / "examples/tiny/rrk.toml").read_text())["train-ppo"]
    options = PpoOptions(**{**chosen, "updates": updates, "kl": kl, "seed": seed, "save_every": updates})
    world = Path(at)
    Path(out).mkdir(parents=True)
    with Judge() as judge:

        def passed(programs):
            jobs = (Job(p.language, p.prompt, text, p.tests, p.entry_point) for p, text in programs)
            return [verdict.passed for verdict in judge.judge(jobs)]

        run = Trainer(
            problems(world / "data/train.jsonl"), world / "sft", rewarder(str(world / "0/reranker")), Path(out), options,
            Probe(problems(world / "data/dev.jsonl"), passed), {},
        )  # fmt: skip
        run.loop(lambda: False, lambda row: None)
    run.network.model.save_pretrained(Path(out) / "last")
    run.tokenizer.save_pretrained(Path(out) / "last")
    run.finish([])


def one(seed: Seed, rounds: int, long: int, kls: list[float]) -> dict[str, float]:
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
    with ThreadPoolExecutor(2) as pool:  # a core each
        for kl, folder in zip(kls, pool.map(lambda kl: seed.long(long, kl), kls), strict=True):
            name = f"{long} updates against reranker 0, KL weight {kl:g}"
            found[f"{name}: kept"], found[f"{name}: last"] = seed.test(folder), seed.test(f"{folder}/last")
            log = [json.loads(line) for line in open(seed.at / folder / "log.jsonl")]
            found[f"{name}: KL at the end"] = log[-1]["kl"]
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
    parser.add_argument("--kl", type=float, nargs="+", default=[0.1, 0.02])
    parser.add_argument("--train", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.train:
        return train(**json.loads(args.train))
    every = []
    for number in args.seeds:
        found = one(Seed(args.run, number), args.rounds, args.long, args.kl if args.long else [])
        every.append(found)
        print(f"seed {number}: " + ", ".join(f"{k} {v:.3f}" for k, v in found.items()), flush=True)
    n = len(every)
    for name in every[0]:
        values = [found[name] for found in every]
        half = T[min(n - 1, 9)] * statistics.stdev(values) / math.sqrt(n) if n > 1 else float("nan")
        print(f"{name}: {statistics.mean(values):.3f} +- {half:.3f} ({n} seeds)")


if __name__ == "__main__":
    main()
