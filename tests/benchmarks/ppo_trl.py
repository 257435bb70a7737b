"""rrk's PPO beside TRL 1.12's PPOTrainer (the last there is): same SFT model, reranker, samples an update, one thread each.

python -m tests.benchmarks.ppo_trl --trl-python VENV/bin/python --world DIR --sft DIR --reranker DIR -o DIR
    [--updates 20] [--every 5] [--seeds 0] [--trl-lr 2e-4] [--ref-temperature .7] [--test-samples 8]
python -m tests.benchmarks.ppo_trl --rloo --ref-temperature 1 ...       # TRL's RLOOTrainer, of this environment (rloo_trl.py)

VENV:  python3 -m venv VENV && VENV/bin/pip install torch 'trl==1.12.*'
DIRs:  the tiny world (examples/tiny/world.py) and `make iterate`'s SFT model and first reranker.

Both trainers run at the same time, so what else the machine does hits both. Each draws 256 programs an update, 2 epochs,
minibatches of 64, clip .2, the same rates. TRL draws one program of each of 256 prompts, ours 4 of each of 64 and
its KL is to the SFT model at temperature .7 (examples/tiny/rrk.toml; --ref-temperature 1: as TRL). TRL's scores
are not normalised: its KL weight and missing-EOS penalty are multiplied by the deviation of the SFT model's scores, so that
both weigh score and KL alike. TRL's critic starts from the reranker, as its examples do. CPU seconds are those of training:
imports, loading and saving excluded. Policies are then measured alike: `--test-samples` programs of each test problem at
temperature 1, executed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve()
PROMPTS, SAMPLES, MINIBATCH, EPOCHS, TOKENS, KL, PENALTY, LR = 64, 4, 64, 2, 64, 0.1, 3.0, 2e-4


def problems(path: Path):
    from rrk import rows

    return [rows.problem(json.loads(line)) for line in path.read_text().splitlines()]


def rewarder(folder: str):
    """The reranker as the trainer takes it."""
    from rrk.reranking.scorer import Question, Scorer

    scorer = Scorer.load(folder, device="cpu", dtype="float32")
    return lambda questions: scorer.score_many([Question(*q) for q in questions])


def ours(given: dict) -> None:
    """One training by rrk, in a process of its own; checkpoints and times as ppo_trl_side.py writes them."""
    import torch

    from rrk.ppo.options import PpoOptions
    from rrk.ppo.trainer import Trainer

    torch.set_num_threads(1)
    out = Path(given["out"])
    chosen = PpoOptions(
        updates=given["updates"], prompts_per_update=PROMPTS, samples=SAMPLES, epochs=EPOCHS, minibatch=MINIBATCH, lr=LR,
        kl=KL, missing_eos_penalty=PENALTY, max_tokens=TOKENS, bf16=True, token_budget=2048, seed=given["seed"],
        ref_temperature=given["ref_temperature"],
    )  # fmt: skip
    run = Trainer(problems(Path(given["data"])), given["sft"], rewarder(given["reranker"]), out, chosen, None, {})
    spent = 0.0
    with open(out / "times.jsonl", "w") as stream:
        for update in range(1, given["updates"] + 1):
            began = time.process_time()
            row = run.step()
            spent += time.process_time() - began
            stream.write(json.dumps({"update": update, "cpu": spent, "score": row["score"], "kl": row["kl"]}) + "\n")
            stream.flush()
            if update % given["every"] == 0:
                run.network.model.save_pretrained(out / f"update-{update}")
                run.tokenizer.save_pretrained(out / f"update-{update}")


def deviation(given: dict) -> float:
    """Of the SFT model's scores: what rrk's first update divides by."""
    from rrk.generation.sampler import Sampler
    from rrk.ppo.policy import Policy

    network, tokenizer = Policy.load(given["sft"])
    chosen = problems(Path(given["data"]))[:64]
    seeds = [[1000 * i + j for j in range(4)] for i in range(len(chosen))]
    groups = Sampler(network.causal.eval(), tokenizer, max_tokens=TOKENS)([p.prompt for p in chosen], seeds)
    scores = rewarder(given["reranker"])(
        [(p.prompt, [c.text for c in g], p.language) for p, g in zip(chosen, groups, strict=True)]
    )
    return statistics.pstdev(x for own in scores for x in own)


def measure(folder: Path, held_out, samples: int, judge) -> float:
    """pass@1 of a saved policy."""
    from rrk.generation.sampler import Sampler
    from rrk.ppo.policy import Policy
    from rrk.sandbox import Job

    network, tokenizer = Policy.load(folder)
    seeds = [[10_000 * i + j for j in range(samples)] for i in range(len(held_out))]
    groups = Sampler(network.causal.eval(), tokenizer, max_tokens=TOKENS)([p.prompt for p in held_out], seeds)
    jobs = [
        Job(p.language, p.prompt, c.text, p.tests, p.entry_point)
        for p, g in zip(held_out, groups, strict=True)
        for c in g
    ]
    verdicts = [v.passed for v in judge.judge(jobs)]
    return statistics.mean(bool(v) for v in verdicts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--trl-python", help="of TRL 1.12's environment: PPOTrainer")
    which.add_argument("--rloo", action="store_true", help="RLOOTrainer of the TRL that is installed here")
    for name in ("world", "sft", "reranker", "output"):
        parser.add_argument(*(["-o"] if name == "output" else []), f"--{name}", required=True)
    parser.add_argument("--updates", type=int, default=20)
    parser.add_argument("--every", type=int, default=5)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--trl-lr", type=float, default=LR)
    parser.add_argument("--ref-temperature", type=float, default=0.7)
    parser.add_argument("--test-samples", type=int, default=8)
    args = parser.parse_args()
    import torch

    from rrk.sandbox import Judge

    torch.set_num_threads(1)  # for sampling with so small a model, two wait for each other
    common = {
        "data": f"{args.world}/train.jsonl", "sft": args.sft, "reranker": args.reranker, "updates": args.updates,
        "every": args.every, "ref_temperature": args.ref_temperature,
    }  # fmt: skip
    if not args.rloo:
        scale = deviation(common)
        print(f"deviation of the SFT model's scores: {scale:.2f}")
    held_out = problems(Path(args.world) / "test.jsonl")
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TRANSFORMERS_VERBOSITY": "error",
    }
    found: dict[str, list[dict]] = {"rrk": [], "trl": []}
    with Judge(jobs=1, level="auto") as judge:
        print(f"update 0: pass@1 {measure(Path(args.sft), held_out, args.test_samples, judge):.3f}", flush=True)
        for seed in args.seeds:
            children = {}
            for side in found:
                out = Path(args.output) / f"{side}-{seed}"
                out.mkdir(parents=True)
                given = {**common, "out": str(out), "seed": seed}
                if side == "rrk":
                    command = [sys.executable, "-m", "tests.benchmarks.ppo_trl", "--side", json.dumps(given)]
                elif args.rloo:
                    given["lr"] = args.trl_lr
                    command = [sys.executable, "-m", "tests.benchmarks.rloo_trl", json.dumps(given)]
                else:
                    given |= {
                        "batch": PROMPTS * SAMPLES, "minibatch": MINIBATCH, "forward": PROMPTS * SAMPLES, "bf16": True,
                        "attention": "eager", "epochs": EPOCHS, "max_tokens": TOKENS, "penalty": PENALTY * scale,
                        "kl": KL * scale, "lr": args.trl_lr, "lam": 0.95,
                    }  # fmt: skip
                    command = [args.trl_python, str(HERE.with_name("ppo_trl_side.py")), json.dumps(given)]
                with open(out / "output.txt", "w") as stream:
                    children[side] = subprocess.Popen(
                        command, stdout=stream, stderr=subprocess.STDOUT, env=environment, cwd=HERE.parents[2]
                    )
            for side, child in children.items():
                out = Path(args.output) / f"{side}-{seed}"
                if child.wait():
                    raise SystemExit(f"{side} failed: see {out}/output.txt")
                for time_row in map(json.loads, (out / "times.jsonl").read_text().splitlines()):
                    folder = out / f"update-{time_row['update']}"
                    if folder.exists():
                        rate = measure(folder, held_out, args.test_samples, judge)
                        found[side].append({**time_row, "seed": seed, "pass@1": rate})
                        print(f"seed {seed} {side} update {time_row['update']}: pass@1 {rate:.3f} after "
                              f"{time_row['cpu']:.0f} CPU s", flush=True)  # fmt: skip
    last = {s: [r for r in rows if r["update"] == args.updates // args.every * args.every] for s, rows in found.items()}
    speed = {s: statistics.mean(r["cpu"] / r["update"] for r in rows) for s, rows in last.items()}
    print(f"CPU s an update: rrk {speed['rrk']:.2f}, TRL {speed['trl']:.2f}; ratio {speed['trl'] / speed['rrk']:.2f}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--side"]:
        ours(json.loads(sys.argv[2]))
    else:
        main()
