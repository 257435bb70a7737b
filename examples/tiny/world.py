"""The tiny world: small Python problems, made from a grammar, and a corpus of solutions that are often wrong.

    python examples/tiny/world.py -o runs/tiny/data      # train.jsonl dev.jsonl test.jsonl sft.jsonl base/

A problem says what to do with a list, and how to end: `# add 3 to each, then keep the even ones, return the sum`. Its tests
compare with the reference on 16 inputs. Train, dev and test share no (steps, ending).

The corpus for fine-tuning writes each step rightly or with a plausible bug (`>=` for `>`, `a.sort()` for `sorted(a)`, a slice
off by one); how often, depends on the step. A model of it knows the right answer and often prefers the wrong one: that
leaves room for reranking and PPO, as with real code models. `base/` is a Llama-type model of 1.3M random parameters with a
byte-level BPE of 512 learnt from the corpus. Nothing is downloaded; the same seed gives the same bytes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Part:
    """A step or an ending: two phrasings, right expressions, wrong ones, and how often the corpus is wrong."""

    says: tuple[str, str]
    right: tuple[str, ...]
    wrong: tuple[str, ...]
    error: float
    constant: bool = True


def _each(value: str) -> str:
    return f"[{value} for x in a]"


def _keep(test: str) -> str:
    return f"[x for x in a if {test}]"


STEPS = {
    "add": Part(("add {k} to each", "increase every number by {k}"), (_each("x + {k}"),), (_each("x * {k}"), _each("x - {k}")), 0.12),
    "subtract": Part(("subtract {k} from each", "decrease every number by {k}"), (_each("x - {k}"),), (_each("{k} - x"), _each("x + {k}")), 0.44),
    "multiply": Part(("multiply each by {k}", "scale every number by {k}"), (_each("x * {k}"), _each("{k} * x")), (_each("x ** {k}"), _each("x + {k}")), 0.16),
    "square": Part(("square each", "replace every number by its square"), (_each("x * x"), _each("x ** 2")), (_each("x * 2"), _each("x ^ 2")), 0.56, False),
    "modulo": Part(("take each modulo {k}", "replace every number by its remainder by {k}"), (_each("x % {k}"),), (_each("x // {k}"), _each("x / {k}")), 0.32),
    "negate": Part(("negate each", "change the sign of every number"), (_each("-x"),), (_each("abs(x)"), _each("1 - x")), 0.08, False),
    "greater": Part(("keep those greater than {k}", "drop all that are not above {k}"), (_keep("x > {k}"),), (_keep("x >= {k}"), _keep("x < {k}")), 0.6),
    "at_least": Part(("keep those that are at least {k}", "drop all below {k}"), (_keep("x >= {k}"),), (_keep("x > {k}"), _keep("x <= {k}")), 0.48),
    "less": Part(("keep those less than {k}", "drop all that are not below {k}"), (_keep("x < {k}"),), (_keep("x <= {k}"), _keep("x > {k}")), 0.28),
    "at_most": Part(("keep those that are at most {k}", "drop all above {k}"), (_keep("x <= {k}"),), (_keep("x < {k}"), _keep("x >= {k}")), 0.64),
    "even": Part(("keep the even ones", "drop the odd ones"), (_keep("x % 2 == 0"),), (_keep("x % 2"), _keep("x / 2 == 0")), 0.2, False),
    "odd": Part(("keep the odd ones", "drop the even ones"), (_keep("x % 2 == 1"), _keep("x % 2")), (_keep("x % 2 == 0"), _keep("x & 2")), 0.4, False),
    "multiples": Part(("keep the multiples of {k}", "drop all that {k} does not divide"), (_keep("x % {k} == 0"),), (_keep("x % {k}"), _keep("x // {k} == 0")), 0.52),
    "first": Part(("keep the first {k}", "take {k} from the front"), ("a[:{k}]",), ("a[:{k} - 1]", "a[1:{k}]"), 0.24),
    "last": Part(("keep the last {k}", "take {k} from the end"), ("a[-{k}:]",), ("a[{k}:]", "a[-{k} + 1:]"), 0.68),
    "drop_first": Part(("drop the first {k}", "remove {k} from the front"), ("a[{k}:]",), ("a[{k} - 1:]", "a[{k} + 1:]"), 0.36),
    "drop_last": Part(("drop the last {k}", "remove {k} from the end"), ("a[:-{k}]",), ("a[:{k}]", "a[:-{k} + 1]"), 0.72),
    "ascending": Part(("sort ascending", "put the smallest first"), ("sorted(a)",), ("a.sort()", "sorted(a)[::-1]"), 0.5, False),
    "descending": Part(("sort descending", "put the largest first"), ("sorted(a, reverse=True)", "sorted(a)[::-1]"), ("sorted(a)", "a.sort(reverse=True)"), 0.3, False),
    "reverse": Part(("reverse the list", "turn the order around"), ("a[::-1]",), ("a.reverse()", "a[:-1]"), 0.46, False),
    "distinct": Part(("remove repeated values", "keep each value's first occurrence"), ("list(dict.fromkeys(a))",), ("list(set(a))", "sorted(set(a))"), 0.62, False),
}  # fmt: skip
ENDINGS = {
    "sum": Part(("the sum", "the total"), ("sum(a)",), ("sum(a) / len(a)", "len(a)"), 0.15, False),
    "count": Part(("how many there are", "the count"), ("len(a)",), ("sum(a)", "len(a) - 1"), 0.25, False),
    "max": Part(("the largest or 0", "the maximum, 0 if there is none"), ("max(a, default=0)", "max(a) if a else 0"), ("max(a)", "max(a + [0])"), 0.6, False),
    "min": Part(("the smallest or 0", "the minimum, 0 if there is none"), ("min(a, default=0)", "min(a) if a else 0"), ("min(a)", "min(a or [1])"), 0.5, False),
    "list": Part(("the list", "what is left"), ("a",), ("a[0]", "set(a)"), 0.1, False),
    "occurrences": Part(("how often {k} occurs", "the occurrences of {k}"), ("a.count({k})",), ("len([x for x in a if x != {k}])", "a.index({k})"), 0.35),
}  # fmt: skip
CONSTANTS = range(2, 10)


@dataclass(frozen=True)
class Problem:
    """Steps and ending with their constants (0 where there is none)."""

    steps: tuple[tuple[str, int], ...]
    ending: tuple[str, int]

    def prompt(self, rng: random.Random) -> str:
        """What to do in words, each part in one of its two phrasings, and the function's head."""
        words = [rng.choice(STEPS[name].says).format(k=k) for name, k in self.steps]
        name, k = self.ending
        return f"# {', then '.join(words)}, return {rng.choice(ENDINGS[name].says).format(k=k)}\ndef f(a):\n"

    def solution(self, rng: random.Random | None = None, noise: bool = False) -> str:
        """The reference; with a generator one of its variants, with noise perhaps a wrong one."""
        lines = []
        for table, (name, k) in [*((STEPS, s) for s in self.steps), (ENDINGS, self.ending)]:
            part = table[name]
            choices = part.wrong if noise and rng is not None and rng.random() < part.error else part.right
            text = (rng.choice(choices) if rng else choices[0]).format(k=k)
            lines.append(f"    return {text}\n" if table is ENDINGS else f"    a = {text}\n")
        return "".join(lines)

    def tests(self, rng: random.Random) -> str:
        """A check of 16 inputs: an empty list, a single number, 14 random lists with ties and threshold values."""
        scope: dict = {}
        exec("def f(a):\n" + self.solution(), scope)  # our own text, never a model's
        inputs = [[], [rng.randint(-9, 12)]]
        inputs += [[rng.randint(-9, 20) for _ in range(rng.randint(2, 12))] for _ in range(14)]
        lines = [f"    assert candidate({a}) == {scope['f'](list(a))!r}\n" for a in inputs]
        return "def check(candidate):\n" + "".join(lines) + "\ncheck(f)\n"


def draw(rng: random.Random) -> Problem:
    """One problem: 1 or 2 steps and an ending."""

    def pick(table: dict[str, Part]) -> tuple[str, int]:
        name = rng.choice(sorted(table))
        return name, rng.choice(CONSTANTS) if table[name].constant else 0

    return Problem(tuple(pick(STEPS) for _ in range(rng.choice((1, 2, 2)))), pick(ENDINGS))


def problems(seed: int, sizes: dict[str, int]) -> dict[str, list[Problem]]:
    """Distinct problems a split: no (steps, ending) stands in two splits, or twice in one."""
    rng = random.Random(f"problems {seed}")
    found: dict[Problem, None] = {}
    while len(found) < sum(sizes.values()):
        found.setdefault(draw(rng))
    every = iter(found)
    return {split: list(itertools.islice(every, size)) for split, size in sizes.items()}


def rows(split: str, chosen: list[Problem], seed: int) -> Iterator[dict]:
    """Problem rows as `rrk` reads them."""
    for number, problem in enumerate(chosen):
        rng = random.Random(f"{split} {seed} {number}")
        yield {
            "task_id": f"tiny-{split}/{number}",
            "language": "py",
            "prompt": problem.prompt(rng),
            "entry_point": "f",
            "tests": problem.tests(rng),
            "canonical_solution": problem.solution(),
        }


def corpus(seed: int, size: int, held_out: set[Problem]) -> Iterator[dict]:
    """(prompt, completion) rows of noisy solutions to problems that are not held out."""
    rng = random.Random(f"corpus {seed}")
    number = 0
    while number < size:
        problem = draw(rng)
        if problem in held_out:
            continue
        yield {
            "task_id": f"tiny-corpus/{number}",
            "language": "py",
            "prompt": problem.prompt(rng),
            "completion": problem.solution(rng, noise=True),
        }
        number += 1


def make_base(folder: Path, texts: list[str], seed: int) -> None:
    """A random Llama-type model and its tokenizer, as any transformers checkpoint."""
    import torch
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
    from transformers.utils import logging

    logging.disable_progress_bar()

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\n|\d"), "isolated"),
            # Merges go over spaces (`    a = [x `): half the tokens, half the time.
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    raw.decoder = decoders.ByteLevel()
    special = ["<pad>", "<eos>"]
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", eos_token="<eos>")
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=160,
        intermediate_size=432,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        pad_token_id=0,
        eos_token_id=1,
        attn_implementation="eager",
    )
    model = LlamaForCausalLM(config)
    model.generation_config.do_sample = True
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write(path: Path, content: list[dict]) -> None:
    """JSONL, whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_text("".join(json.dumps(row) + "\n" for row in content), encoding="utf-8")
    part.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train", type=int, default=1200, help="problems to sample, mine and run PPO on")
    parser.add_argument("--dev", type=int, default=60, help="problems that PPO's probe executes")
    parser.add_argument("--test", type=int, default=200, help="held-out problems")
    parser.add_argument("--corpus", type=int, default=20_000, help="noisy solutions for fine-tuning")
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    splits = problems(given.seed, {"test": given.test, "dev": given.dev, "train": given.train})
    noisy = list(corpus(given.seed, given.corpus, {*splits["dev"], *splits["test"]}))
    make_base(given.output / "base", [row["prompt"] + row["completion"] for row in noisy[:4000]], given.seed)
    write(given.output / "sft.jsonl", noisy)
    for split, chosen in splits.items():
        write(given.output / f"{split}.jsonl", list(rows(split, chosen, given.seed)))


if __name__ == "__main__":
    main()
