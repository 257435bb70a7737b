"""How fast a reranker scores, as ratios in one run on one machine: same model, same texts, same scores.

python -m tests.benchmarks.scoring [--size 25M|1M] [-n 32] [--prompt 400] [--program 150] [--rounds 3] [--bf16]
python -m tests.benchmarks.scoring --real RERANKER CANDIDATES.jsonl [--problems 3] [--rounds 1]

--real: a reranker of yours on rows of yours, in batches of the least padding and in as full ones as the budget allows. Without it
the baselines are padded batches of 8 in input order (what most scripts do), transformers' text-classification pipeline, and
sentence-transformers' CrossEncoder.predict where it is installed. CPU seconds of one thread, best of `--rounds`, alternating.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import tempfile
import time
from pathlib import Path

import torch

from rrk.generation import memory
from rrk.reranking import network, record
from rrk.reranking.render import Rendering
from rrk.reranking.scorer import Question, Scorer, question
from tests.reranking import models

SIZES = {
    "1M": {"hidden_size": 160, "intermediate_size": 448, "num_hidden_layers": 4, "num_attention_heads": 4},
    "25M": {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8, "num_attention_heads": 8},
}


def make(folder: Path, size: str) -> Path:
    """A random decoder; its vocabulary is bytes, so a character is a token."""
    shape = SIZES[size]
    model = models.network("qwen2", **shape, num_key_value_heads=shape["num_attention_heads"], initializer_range=0.05)
    model.save_pretrained(folder)
    models.tokenizer().save_pretrained(folder)
    write = Scorer(model, models.tokenizer(), Rendering(max_length=4096))
    record.write(folder, record.Record(write.renderer.rendering, write.golden()))
    return folder


def questions(problems: int, n: int, prompt: int, program: int) -> list[Question]:
    """Programs of varying length around `program`, one in six a repetition, as samples at temperature 0.8 are."""
    rng = random.Random(0)
    text = lambda size: "".join(rng.choice("abcdefgh (),=\n") for _ in range(size))  # noqa: E731
    made = []
    for _ in range(problems):
        programs = [text(max(8, int(rng.gauss(program, program / 3)))) for _ in range(max(1, n - n // 6))]
        programs += [rng.choice(programs) for _ in range(n - len(programs))]
        made.append(Question(text(prompt), programs))
    return made


def naive(scorer: Scorer, asked: list[Question]) -> list[float]:
    """Padded batches of 8 in input order through the architecture's own forward pass."""
    out: list[float] = []
    texts = [t.ids for q in asked for t in scorer.renderer.render(q.prompt, q.programs)]
    with torch.inference_mode():
        for start in range(0, len(texts), 8):
            batch = network.collate(texts[start : start + 8], scorer.pad, "cpu")
            out += scorer.model(input_ids=batch.ids, attention_mask=batch.mask).logits.float().squeeze(-1).tolist()
    return out


def fullest(lengths: list[int], budget: int, each: int) -> list[int]:
    """memory.parts as it would be if padding cost nothing."""
    ends = []
    for i in range(len(lengths)):
        end = i + 1
        while end < len(lengths) and (end + 1 - i) * lengths[end] <= budget:
            end += 1
        ends.append(end)
    return ends


def real(folder: str, file: str, problems: int, rounds: int) -> None:
    """CPU seconds of both ways, on `problems` problems from all over the file."""
    groups: dict[tuple[str, str], list[dict]] = {}
    for line in open(file):
        row = json.loads(line)
        groups.setdefault((row["task_id"], row.get("language", "py")), []).append(row)
    asked = [question(rows) for rows in list(groups.values())[:: max(1, len(groups) // problems)][:problems]]
    scorer, least = Scorer.load(folder), memory.parts
    best, scores = {}, {}
    for _ in range(rounds):
        for way, parts in (("as full batches as fit", fullest), ("of the least padding", least)):
            memory.parts = parts
            started = time.process_time()
            scores[way] = [score for one in asked for score in scorer.score(*one)]
            best[way] = min(time.process_time() - started, best.get(way, math.inf))
    one, other = scores.values()
    print(f"{file}: {len(asked)} problems, {len(one)} programs, {scorer.dtype}, one thread, CPU seconds")
    for way, took in best.items():
        print(f"  {way:26} {took:8.1f} s  {best['as full batches as fit'] / took:5.2f} x")
    print(f"  largest difference of a score {max(abs(a - b) for a, b in zip(one, other, strict=True)):.1e}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", default="25M", choices=SIZES)
    parser.add_argument("-n", type=int, default=32)
    parser.add_argument("--problems", type=int, default=1)
    parser.add_argument("--prompt", type=int, default=400)
    parser.add_argument("--program", type=int, default=150)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--real", nargs=2, metavar=("RERANKER", "CANDIDATES"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.real:
        real(*given.real, given.problems, given.rounds)
        return
    asked = questions(given.problems, given.n, given.prompt, given.program)
    flat = lambda found: [score for row in found for score in row]  # noqa: E731
    with tempfile.TemporaryDirectory() as name:
        folder = make(Path(name), given.size)
        scorer = Scorer.load(folder)
        plain = Scorer.load(folder)
        plain.share = False
        ways = {
            "padded batches of 8": lambda: naive(scorer, asked),
            "rrk, no cache": lambda: flat(plain.score_many(asked)),
            "rrk": lambda: flat(scorer.score_many(asked)),
        }
        if given.problems > 1:
            ways["rrk, a problem at a time"] = lambda: [s for q in asked for s in scorer.score(*q)]
        texts = [q.prompt + program + "<eos>" for q in asked for program in q.programs]
        from transformers import pipeline

        theirs = pipeline("text-classification", model=str(folder), function_to_apply="none", device="cpu")
        ways["transformers pipeline"] = lambda: [found["score"] for found in theirs(texts, batch_size=8)]
        try:
            from sentence_transformers import CrossEncoder
        except ImportError:
            print("sentence-transformers is not installed: CrossEncoder left out")
        else:
            cross = CrossEncoder(str(folder), device="cpu", activation_fn=torch.nn.Identity(), max_length=4096)
            both = [(q.prompt, program + "<eos>") for q in asked for program in q.programs]
            ways["CrossEncoder.predict"] = lambda: cross.predict(both, batch_size=8).tolist()
        if given.bf16:
            half = Scorer.load(folder, dtype="bfloat16")
            ways["rrk, bfloat16"] = lambda: flat(half.score_many(asked))
        best: dict[str, float] = {}
        scores: dict[str, list[float]] = {}
        for turn in range(given.rounds + 1):  # the first turn warms up
            for way, run in ways.items():
                started = time.process_time()
                scores[way] = run()
                took = time.process_time() - started
                if turn:
                    best[way] = min(took, best.get(way, took))
    expected = scores["padded batches of 8"]
    tokens = given.problems * given.n * (given.prompt + given.program)
    print(f"{given.size}, {given.problems} x {given.n} programs, about {tokens} tokens, one thread, CPU seconds")
    for way, took in best.items():
        gap = max(abs(a - b) for a, b in zip(expected, scores[way], strict=True))
        ratio = best["padded batches of 8"] / took
        print(f"  {way:26} {took:8.3f} s  {ratio:5.2f} x  largest difference of a score {gap:.1e}")


if __name__ == "__main__":
    main()
