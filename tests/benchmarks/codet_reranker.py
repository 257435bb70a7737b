"""A learned reranker on other models' programs: mine -> train-reranker -> rerank -> eval over problem-disjoint folds.

    python -m tests.benchmarks.codet_reranker [--keep DIR] [--base FOLDER] [--seeds 3] [--folds 5] ...

CodeT's 16,400 candidates (CodeGen-16B) and MapCoder's 3,367 (GPT-3.5, GPT-4, Gemini) for the 164 HumanEval problems, with their
recorded verdicts. A problem's number decides its fold in both sets, so that no reranker scores a problem that it, or the base
it started from, has seen. Nothing is downloaded: the base is a byte-level BPE and a small decoder made here and trained on MBPP
as a language model (--base FOLDER takes a checkpoint instead). The weights of the last step are kept unless
--dev-share lets train-reranker choose a checkpoint on a share of the training problems. Every step but making the base is the
rrk command line. The base takes 2 CPU minutes, a fold 2 to 3.

Prints ranked pass@1 beside random (pass@1), the shortest program, two methods on texts and the oracle, with intervals, and the
paired difference to random with its p, for the whole set and for the best of few drawn; then the same for `fused`, cross-fitted on the scored rows of both sets: reward, words
in common and form in one model, with nothing run. --keep DIR: codet.jsonl and mapcoder.jsonl, the rows with `score`, `rank` and `fold`;
folds that are there already are not run again.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rrk.evaluation import estimators, statistics
from tests.conftest import SHARED, environment, rrk_command

SETS = {"codet": "codet_humaneval_codegen16b", "mapcoder": "mapcoder_humaneval_py"}
KEPT = ("task_id", "language", "prompt", "completion", "completion_kind", "model", "method", "passed", "status")
Rows = list[dict[str, Any]]


def read(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt") if path.suffix == ".gz" else open(path) as stream:
        for line in stream:
            yield json.loads(line)


def write(path: Path, found: Iterable[dict[str, Any]]) -> Path:
    with open(path, "w") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in found)
    return path


def candidates(name: str, most: int | None) -> Rows:
    """A set's rows, a problem's together; `most` a problem. The temperature is left out: to eval, 0 is a greedy run."""
    problems: dict[str, Rows] = defaultdict(list)
    for row in read(SHARED / f"data/candidates/{SETS[name]}.jsonl.gz"):
        own = problems[row["task_id"]]
        if most is None or len(own) < most:
            own.append({key: row[key] for key in KEPT if key in row} | {"completion_id": len(own), "set": name})
    return [row for own in problems.values() for row in own]


def folds(count: int, seed: int) -> dict[str, int]:
    """Base problem -> fold."""
    names = [f"HumanEval/{number}" for number in range(164)]
    random.Random(f"folds {seed}").shuffle(names)
    return {name: i % count for i, name in enumerate(names)}


def corpus() -> list[str]:
    """What the base reads: MBPP written as HumanEval writes. No HumanEval problem, so that one base serves all folds."""
    return [lesson(row["code"], row["text"], row["test_list"]) for row in read(SHARED / "data/problems/mbpp.jsonl.gz")]


def lesson(code: str, text: str, tests: list[str]) -> str:
    """An MBPP solution with its task and tests as the docstring of its first function, indented by fours."""
    lines = [line.rstrip() for line in code.replace("\r", "").expandtabs(4).split("\n")]
    depths = [len(line) - len(line.lstrip()) for line in lines if line]
    unit = min((depth for depth in depths if depth), default=4)
    lines = [" " * (4 * (len(line) - len(line.lstrip())) // unit) + line.lstrip() for line in lines]
    at = next((i for i, line in enumerate(lines) if line.startswith("def ")), 0)
    said = [f'    """ {text.strip()}']
    for test in tests:
        call, equals, value = test.removeprefix("assert ").partition(" == ")
        said += [f"    >>> {call}", f"    {value}"] if equals else []
    return "\n".join([*lines[: at + 1], *said, '    """', *lines[at + 1 :]]) + "\n"


def make_base(folder: Path, found: list[str], given: argparse.Namespace) -> None:
    """A byte-level BPE and a Qwen2-type decoder, trained on `found` as a language model for --pretrain steps."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.train_from_iterator(
        found,
        trainers.BpeTrainer(
            vocab_size=given.vocabulary,
            special_tokens=["<pad>", "<eos>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", eos_token="<eos>")
    torch.set_num_threads(1)
    torch.manual_seed(given.seed)
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=given.hidden,
            intermediate_size=int(given.hidden * 2.75),
            num_hidden_layers=given.layers,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            pad_token_id=0,
            eos_token_id=1,
        )
    )
    order = random.Random(given.seed)
    stream: list[int] = []
    began = time.process_time()
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    for step in range(given.pretrain):
        for group in optimiser.param_groups:
            group["lr"] = 2e-3 * min(1.0, (step + 1) / 20) * (1 - step / given.pretrain)
        while len(stream) < 16 * 256:
            stream += tokenizer(order.choice(found), split_special_tokens=True)["input_ids"] + [1]
        batch, stream = torch.tensor(stream[: 16 * 256]).view(16, 256), stream[16 * 256 :]
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
    if given.pretrain:
        print(
            f"base: {len(tokenizer)} tokens, {sum(p.numel() for p in model.parameters()) / 1e6:.2f}M weights, language-model loss "
            f"{loss.item():.2f} after {given.pretrain} steps, {time.process_time() - began:.0f} CPU s",
            flush=True,
        )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def rrk(*args: object, say: bool = False) -> str:
    """Standard output of `rrk ARGS`; its last line on standard error is shown."""
    done = subprocess.run(rrk_command(*map(str, args)), env=environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"rrk {' '.join(map(str, args))}: exit {done.returncode}\n{done.stderr}")
    if say and done.stderr.strip():
        print("  " + done.stderr.strip().splitlines()[-1], flush=True)
    return done.stdout


def as_one(row: dict[str, Any], bare: bool) -> dict[str, Any]:
    """The row as the stages see it: its set in the name (HumanEval_7_codet is HumanEval/7 to rrk), so that programs of two
    sets never make a pair; with --bare no comments on lines of their own and no space at the end."""
    text = row["completion"]
    if bare:
        kept = [line.rstrip() for line in text.split("\n") if not line.lstrip().startswith("#")]
        text = re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).rstrip() + "\n"
    return row | {"task_id": f"{row['task_id'].replace('/', '_')}_{row['set']}", "completion": text}


def run_fold(
    number: int, every: Rows, fold_of: dict[str, int], base: Path, work: Path, given: argparse.Namespace
) -> Rows:
    """The held-out fold's rows, scored by rerankers that were trained on the other folds (the mean of --seeds)."""
    held = [row for row in every if fold_of[row["task_id"]] == number]
    train = [row for row in every if fold_of[row["task_id"]] != number and row["set"] in given.train]
    shown = write(work / "train.jsonl", (as_one(row, given.bare) for row in train))
    asked = write(work / "held.jsonl", (as_one(row, given.bare) for row in held))
    rrk("mine", shown, "-n", given.pairs, "--seed", given.seed, "-o", work / "pairs.jsonl", say=True)
    scores: list[list[float]] = []
    for seed in range(given.seed, given.seed + given.seeds):
        reranker = work / f"reranker{seed}"
        rrk("train-reranker", work / "pairs.jsonl", "-m", base, "-o", reranker, "--seed", seed, "--dev-share", given.dev_share,
            "--steps", given.steps, "--batch-size", given.batch_size, "--group", given.group, "--max-length", given.max_length,
            "--eval-every", given.eval_every, *given.options.split(), say=True)  # fmt: skip
        rrk("rerank", asked, "-m", reranker, "-o", work / f"{seed}.jsonl")
        scores.append([row["score"] for row in read(work / f"{seed}.jsonl")])
    return [
        row | {"fold": number, "score": sum(own) / len(own), "scores": list(own)}
        for row, own in zip(held, zip(*scores, strict=True), strict=True)
    ]


def with_ranks(found: Rows) -> Rows:
    """Ranks of the mean score, ties in the file's order (`rrk eval` goes by the score and averages ties)."""
    problems = grouped(found)
    for own in problems.values():
        for place, row in enumerate(sorted(own, key=lambda row: -row["score"]), start=1):
            row["rank"] = place
    return [row for own in problems.values() for row in own]


def figure(found: dict[str, Any]) -> str:
    return f"{found['mean']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"


def report(name: str, found: Rows, folder: Path) -> None:
    """Figures of one set, by `rrk eval`; the paired difference is to the expected random pick (all scores equal)."""
    path = write(folder / f"{name}.jsonl", found)
    flat = write(folder / f"{name}.flat.jsonl", (row | {"score": 0.0} for row in found))
    rrk("eval", path, "--against", flat, "-o", folder / f"{name}.report.json")
    flat.unlink()
    ours = json.loads((folder / f"{name}.report.json").read_text())
    others = {method: ranked_by(path, method)["ranked_pass@1"] for method in ("majority", "ngram")}
    short = statistics.bootstrap(list(by_problem(found, lambda row: -len(row["completion"])).values()))
    paired = ours["against"]["ranked_pass@1"]
    print(f"\n{name}: {ours['problems']} problems, {ours['samples']} candidates; mean [95 % interval over problems]")
    for label, value in (
        ("random (pass@1)", ours["random"]),
        ("shortest program", short),
        *others.items(),
        ("reranker: ranked pass@1", ours["ranked_pass@1"]),
        ("oracle", ours["oracle"]),
        ("AUC within problems", ours["auc"]),
    ):
        print(f"  {label:24} {figure(value)}")
    print(
        f"  reranker - random        {paired['difference']:+.3f} [{paired['low']:+.3f}, {paired['high']:+.3f}], "
        f"p {paired['p']:.4f} (bootstrap), {paired['p_sign_flip']:.4f} (sign flip)",
        flush=True,
    )
    rates = list(by_problem(found, lambda row: 0.0).values())
    for k in (2, 4, 8, 16, 32):
        # The best of few, for a reranker that orders most pairs rightly may still be fooled by the oddest of a hundred.
        best = [
            estimators.best_of_k([row["score"] for row in own], [row["passed"] for row in own], min(k, len(own)))
            for own in grouped(found).values()
        ]
        drawn = statistics.compare(rates, best)
        print(f"    the best of {k:2} drawn: {statistics.bootstrap(best)['mean']:.3f}, {drawn['difference']:+.3f} "
              f"[{drawn['low']:+.3f}, {drawn['high']:+.3f}], p {drawn['p']:.4f}")  # fmt: skip
    models = sorted({row["model"] for row in found})
    for model in models if len(models) > 1 else ():
        own = [row for row in found if row["model"] == model]
        # One author: what the score knows beyond whose style is better.
        ranked, drawn = by_problem(own, lambda row: row["score"]), by_problem(own, lambda row: 0.0)
        found_here = statistics.compare(list(drawn.values()), list(ranked.values()))
        print(f"    among {model}'s own: {statistics.bootstrap(list(ranked.values()))['mean']:.3f}, random "
              f"{statistics.bootstrap(list(drawn.values()))['mean']:.3f}, {found_here['difference']:+.3f} "
              f"[{found_here['low']:+.3f}, {found_here['high']:+.3f}], p {found_here['p']:.4f}")  # fmt: skip


def ranked_by(path: Path, *method: object, against: Path | None = None) -> dict[str, Any]:
    """The report of `rrk eval` on a file ranked by another method; beside `against`, paired, if that is given."""
    with tempfile.TemporaryDirectory() as temporary:
        ranked, report = Path(temporary) / "ranked.jsonl", Path(temporary) / "report.json"
        rrk("rerank", path, "--method", *method, "-o", ranked)
        rrk("eval", ranked, *(("--against", against) if against else ()), "-o", report)
        return json.loads(report.read_text())


def fused(found: Rows, folder: Path, seed: int) -> None:
    """All sets in one `rrk train-fusion`, which holds a base problem out of the member that scores it; no row has evidence."""
    with tempfile.TemporaryDirectory() as temporary:
        work, rows = Path(temporary), [as_one(row, bare=False) for row in found]
        rrk("train-fusion", write(work / "all.jsonl", rows), "--seed", seed, "-o", folder / "fusion.json")
        for name in sorted({row["set"] for row in rows}):
            own = [row for row in rows if row["set"] == name]
            drawn = write(work / "drawn.jsonl", (row | {"score": 0.0} for row in own))
            given = write(work / "own.jsonl", own)
            report = ranked_by(given, "fused", "-m", folder / "fusion.json", against=drawn)
            paired = report["against"]["ranked_pass@1"]
            print(
                f"\n{name}, fused with nothing run: {figure(report['ranked_pass@1'])}; - random {paired['difference']:+.3f} "
                f"[{paired['low']:+.3f}, {paired['high']:+.3f}], p {paired['p']:.4f}",
                flush=True,
            )


def by_problem(found: Rows, score: Any) -> dict[str, float]:
    """Expected pass rate of the best-scored candidate, a problem."""
    return {
        task: estimators.ranked_pass_at_1([score(row) for row in own], [row["passed"] for row in own])
        for task, own in grouped(found).items()
    }


def grouped(found: Rows) -> dict[str, Rows]:
    """A problem's rows together."""
    problems: dict[str, Rows] = defaultdict(list)
    for row in found:
        problems[row["task_id"]].append(row)
    return problems


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--keep", type=Path, metavar="DIR", help="keep the scored rows and reports there; go on with what is there")
    add("--train", type=lambda text: text.split(","), default=list(SETS), help="sets to train on [codet,mapcoder]")
    add("--test", type=lambda text: text.split(","), default=list(SETS), help="sets to rank [codet,mapcoder]")
    add("--most", type=int, help="candidates of a problem, at most")
    add("--folds", type=int, default=5)
    add("--only", type=lambda text: [int(x) for x in text.split(",")], help="run these folds only, as in 0,1")
    add("--base", metavar="FOLDER", help="a checkpoint to start from instead of the local base")
    add("--vocabulary", type=int, default=2048)
    add("--hidden", type=int, default=128)
    add("--layers", type=int, default=3)
    add("--pretrain", type=int, default=250, help="language-model steps of 16 x 256 tokens")
    add("--bare", action="store_true", help="the reranker sees no comments and no space at the end")
    add("--pairs", type=int, default=16, help="pairs a problem and set")
    add("--group", type=int, default=2, help="pairs a group")
    add("--batch-size", type=int, default=8, help="groups a step")
    add("--steps", type=int, default=120)
    add("--max-length", type=int, default=320)
    add("--dev-share", type=float, default=0.0, help="choose the checkpoint on this share of the training problems")
    add("--eval-every", type=int, default=30)
    add("--options", default="--weight-decay=0.05 --pooling=last", help="further options of rrk train-reranker")
    add("--seeds", type=int, default=1, help="rerankers whose scores are averaged")
    add("--seed", type=int, default=0)
    given = parser.parse_args()
    every = [row for name in SETS if name in {*given.train, *given.test} for row in candidates(name, given.most)]
    fold_of = folds(given.folds, given.seed)
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        settings = {key: value for key, value in vars(given).items() if key not in ("keep", "only", "test")}
        before = folder / "settings.json"
        if before.exists() and json.loads(before.read_text()) != settings:
            sys.exit(f"{folder} holds folds of other settings: {before.read_text()}")
        before.write_text(json.dumps(settings))
        base = Path(given.base) if given.base else folder / "base"
        if not base.exists():
            make_base(base, corpus(), given)
        found: Rows = []
        for number in given.only or range(given.folds):
            path = folder / f"fold{number}.jsonl"
            if not path.exists():
                began = time.monotonic()
                print(f"fold {number}", flush=True)
                work = Path(tempfile.mkdtemp(dir=temporary))
                made = write(work / "scored.jsonl", run_fold(number, every, fold_of, base, work, given))
                shutil.move(made, path)
                shutil.rmtree(work)
                print(f"  {time.monotonic() - began:.0f} s", flush=True)
            found += read(path)
        for name in given.test:
            report(name, with_ranks([row for row in found if row["set"] == name]), folder)
        if set(given.test) == set(SETS):
            fused(found, folder, given.seed)


if __name__ == "__main__":
    main()
