"""Which pairs should the second reranker learn from? Mixes of `rrk mine` on the tiny loop, over seeds.

    python -m tests.benchmarks.tiny_mixes [--seeds 0 1 2] [--only NAME ...] [--run NAME]

Goes on from `make iterate ROUND=1 RUN=NAME-SEED SEED=SEED` (made unless it is there): each mix takes the same executed samples of the policy, trains a reranker by the same number
of steps, and ranks the same samples of the test problems. Prints ranked pass@1 a seed and its mean, within-problem AUC, and
the paired difference to the loop's own mix (bootstrap over seeds x problems). A mix costs about a minute a seed; what is there
already is kept.
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import dataclass

from rrk import jsonl, rows
from rrk.evaluation.card import auc
from rrk.evaluation.estimators import ranked_pass_at_1
from rrk.evaluation.statistics import compare
from tests.benchmarks.tiny_ppo import Seed


@dataclass(frozen=True)
class Mix:
    """What a second reranker learns from, and what it starts from."""

    flags: tuple[str, ...] | None = ()  # of `rrk mine` on the policy's samples; None: no pairs of these
    replay: bool = True  # round 0's pairs too
    old_positives: bool = False  # the policy's failing programs against the SFT model's passing ones
    base: str = "1/policy"
    train: tuple[str, ...] = ()  # of `rrk train-reranker`


HARD = ("--hard",)
LOOP = "half hard, replay"
MIXES = {
    "old pairs only": Mix(None),
    "random": Mix(replay=False),
    "random, replay": Mix(),
    "half hard": Mix(HARD, replay=False),
    LOOP: Mix(HARD),
    "half hard, replay, from the SFT model": Mix(HARD, base="sft"),
    "half hard, replay, from the last reranker": Mix(HARD, base="0/reranker"),
    "half hard, replay, all the way": Mix(HARD, train=("--wise-ft", "1")),
    "half hard, replay, a new head": Mix(HARD, train=("--wise-ft", "1", "--pooling", "last")),
    "all hard, replay": Mix((*HARD, "--hard-share", "1")),
    "half hard, old positives only": Mix(HARD, old_positives=True),
}


def mixed(seed: Seed, name: str, samples: str) -> list[list[dict]]:
    """The seed's test samples as the mix's reranker ranks them, by problem."""
    mix, folder = MIXES[name], "mixes/" + name
    pairs = [str(seed.at / "0/pairs.jsonl")] if mix.replay else []
    if mix.flags is not None:
        source = old_positives(seed) if mix.old_positives else str(seed.at / "1/scored.jsonl")
        pairs.append(seed.rrk(f"{folder}.pairs.jsonl", "mine", source, *mix.flags, "--round", "1"))
    base = str(seed.at / mix.base)
    reranker = seed.rrk(folder, "train-reranker", *pairs, "-m", base, *mix.train, "--seed", str(seed.seed), "--resume")
    return by_problem(seed.rrk(f"{folder}.test.jsonl", "rerank", samples, "-m", reranker))


def old_positives(seed: Seed) -> str:
    """The policy's failing programs beside the SFT model's passing ones, scored: without new verified positives."""
    target = seed.at / "mixes/old-positives.jsonl"
    if not target.exists():
        old = seed.rrk(
            "mixes/scored.jsonl", "rerank", str(seed.at / "0/verdicts.jsonl"), "-m", str(seed.at / "0/reranker")
        )
        chosen = {p[0]["task_id"]: [r for r in p if r["passed"]] for p in by_problem(old)}
        with open(target, "w") as out:
            for own in by_problem(str(seed.at / "1/scored.jsonl")):
                kept = chosen.get(own[0]["task_id"], []) + [row for row in own if row["passed"] is False]
                out.writelines(json.dumps(row | {"completion_id": i}) + "\n" for i, row in enumerate(kept))
    return str(target)


def by_problem(path: str) -> list[list[dict]]:
    problems: dict[str, list[dict]] = {}
    for row in jsonl.read([path]):
        problems.setdefault(rows.task_id(row), []).append(row)
    return list(problems.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default="ppo", help="folders are runs/RUN-SEED")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=list(MIXES), default=list(MIXES))
    args = parser.parse_args()
    tops: dict[str, list[list[float]]] = {}
    aucs: dict[str, list[float]] = {}
    for number in args.seeds:
        seed = Seed(args.run, number)
        if not (seed.at / "1/report.json").exists():
            seed.iterate(1)
        (seed.at / "mixes").mkdir(exist_ok=True)
        for name in args.only:
            ranked = mixed(seed, name, str(seed.at / "1/test-verdicts.jsonl"))
            scores = [[row["score"] for row in own] for own in ranked]
            labels = [[bool(row["passed"]) for row in own] for own in ranked]
            tops.setdefault(name, []).append([ranked_pass_at_1(s, p) for s, p in zip(scores, labels, strict=True)])
            found = [auc(s, p) for s, p in zip(scores, labels, strict=True)]
            aucs.setdefault(name, []).append(statistics.mean(a for a in found if a is not None))
            print(f"  seed {number} {name}: {statistics.mean(tops[name][-1]):.3f}", flush=True)
    loop = [value for own in tops.get(LOOP, []) for value in own]
    for name, every in tops.items():
        means = [statistics.mean(own) for own in every]
        line = f"{name:40} {' '.join(f'{m:.3f}' for m in means)}  mean {statistics.mean(means):.3f}  AUC {statistics.mean(aucs[name]):.3f}"
        if loop and name != LOOP:
            d = compare(loop, [value for own in every for value in own])
            line += f"  against the loop's {d['difference']:+.3f} [{d['low']:+.3f}, {d['high']:+.3f}] p {d['p']:.3f}"
        print(line)


if __name__ == "__main__":
    main()
