"""Shared work changes no score: fast scoring equals one text at a time, on four architectures, padded either way."""

from __future__ import annotations

import itertools
import json
import math
import random

import orjson
import pytest
import torch

from rrk.errors import RrkError, UsageError
from rrk.generation import memory
from rrk.reranking import network, record
from rrk.reranking.render import Rendering
from rrk.reranking.scorer import Question, Scorer
from tests.reranking import models

QUESTIONS = [
    Question("def f(x):\n    '''long'''\n", ["    return x\n", "    return x + 1\n", "    return x\n", ""], "py"),
    Question("def g(a, b, c):\n", [f"    y = {i}\n" * i + "    return y\n" for i in range(1, 7)], "py"),
    Question("int h() {\n", ["    return 1;\n}\n"], "cpp"),
    Question("", ["print(1)\n", "print(2)\n"], None, [True, True]),
    Question("def f(x):\n    '''long'''\n", ["    return x * 2\n", "def f(x): return 3\n"], "py", [False, True]),
]


def scorer(name: str, pad_is_eos: bool = False, **settings) -> Scorer:
    encoder = name == "bert"
    options = {key: settings.pop(key) for key in ("budget", "share", "note") if key in settings}
    settings.setdefault("pooling", "cls" if encoder else "last")
    tokenizer = models.tokenizer("encoder" if encoder else "decoder", pad_is_eos=pad_is_eos)
    return Scorer(models.network(name), tokenizer, Rendering(**settings), **options)


def naive(made: Scorer, questions=QUESTIONS) -> list[list[float]]:
    """One text at a time through the architecture's own forward pass: no padding, no cache, no batch."""
    out = []
    for q in questions:
        row = []
        for text in made.renderer.render(q.prompt, q.programs, q.language, q.full):
            given = {"input_ids": torch.tensor([text.ids])}
            if made.renderer.type_ids:
                given["token_type_ids"] = torch.tensor([[0] * len(text.prefix) + [1] * len(text.suffix)])
            with torch.no_grad():
                row.append(made.model(**given).logits.item())
        out.append(row)
    return out


def differ(a: list[list[float]], b: list[list[float]]) -> float:
    return max(abs(x - y) for row, other in zip(a, b, strict=True) for x, y in zip(row, other, strict=True))


@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt2", "bert", "mistral"])
@pytest.mark.parametrize("budget", [1, 60, 300, 4096])
def test_fast_scores_equal_one_text_at_a_time(name, budget):
    made = scorer(name, budget=budget)
    expected = naive(made)
    assert max(map(max, expected)) - min(map(min, expected)) > 0.1, "the programs must differ for this to mean anything"
    assert differ(made.score_many(QUESTIONS), expected) < 1e-5
    assert made.score(*QUESTIONS[1]) == pytest.approx(expected[1], abs=1e-5)


@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt2"])
def test_the_cache_is_used_and_not_using_it_changes_nothing(name, monkeypatch):
    fast, plain = scorer(name), scorer(name, share=False)
    read = []
    original = network.read_scores
    monkeypatch.setattr(network, "read_scores", lambda m, b, p: read.append(b.cache is not None) or original(m, b, p))
    assert differ(fast.score_many(QUESTIONS), plain.score_many(QUESTIONS)) < 1e-5
    assert any(read)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize("length", [16, 30, 48])
def test_truncated_texts_score_alike(name, length):
    made = scorer(name, max_length=length)
    assert differ(made.score_many(QUESTIONS), naive(made)) < 1e-5
    assert made.renderer.cuts["prompt_cut"] > 0


def test_pad_equal_to_eos_does_not_move_the_pooled_token():
    made = scorer("qwen2", pad_is_eos=True)
    assert made.tokenizer.pad_token_id == made.tokenizer.eos_token_id
    assert differ(made.score_many(QUESTIONS), naive(made)) < 1e-5


@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt2"])
def test_the_tokenizers_padding_side_does_not_matter_and_left_padding_gives_the_same(name):
    made = scorer(name)
    expected = made.score_many(QUESTIONS)
    made.tokenizer.padding_side = "left"
    assert made.score_many(QUESTIONS) == expected
    texts = [t for q in QUESTIONS for t in made.renderer.render(q.prompt, q.programs, q.language, q.full)]
    width = max(len(t.ids) for t in texts)
    ids = torch.tensor([[made.pad] * (width - len(t.ids)) + list(t.ids) for t in texts])
    mask = torch.tensor([[0] * (width - len(t.ids)) + [1] * len(t.ids) for t in texts])
    with torch.no_grad():
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        hidden = network.trunk(made.model)(input_ids=ids, attention_mask=mask, position_ids=positions).last_hidden_state
        left = made.model.score(hidden[:, -1]).squeeze(-1).tolist()
    assert left == pytest.approx([s for row in expected for s in row], abs=1e-5)


def test_an_encoders_mean_pooling_ignores_padding():
    made = scorer("bert", pooling="mean")
    together = made.score_many(QUESTIONS)
    apart = [
        [
            made.score(q.prompt, [p], q.language, q.full if isinstance(q.full, bool) else [q.full[i]])[0]
            for i, p in enumerate(q.programs)
        ]
        for q in QUESTIONS
    ]
    assert differ(together, apart) < 1e-5
    assert differ(together, scorer("bert").score_many(QUESTIONS)) > 1e-3


def test_identical_programs_are_read_once(monkeypatch):
    made = scorer("llama")
    made.score_many(QUESTIONS[:1])
    rows = []
    original = network.read_scores
    monkeypatch.setattr(network, "read_scores", lambda m, b, p: rows.append(len(b.ids)) or original(m, b, p))
    made.score("p", ["a", "b", "a", "a", "b"])
    assert sum(rows) == 2


def test_a_batch_holds_its_budget_of_tokens(monkeypatch):
    made = scorer("bert", budget=200)
    sizes = []
    original = network.read_scores
    monkeypatch.setattr(network, "read_scores", lambda m, b, p: sizes.append(b.ids.shape) or original(m, b, p))
    made.score_many(QUESTIONS)
    assert all(rows == 1 or rows * width <= 200 for rows, width in sizes)
    assert any(rows > 1 for rows, _ in sizes)


@pytest.mark.parametrize("name", ["llama", "bert"])
def test_out_of_memory_halves_the_budget_says_so_and_changes_no_score(name, monkeypatch):
    notes = []
    made = scorer(name, note=notes.append)
    expected = made.score_many(QUESTIONS)
    original = network.read_scores

    def small_machine(model, batch, pooling):
        if batch.ids.numel() > 150:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(model, batch, pooling)

    monkeypatch.setattr(network, "read_scores", small_machine)
    assert differ(made.score_many(QUESTIONS), expected) < 1e-5
    assert made.budget < 4096
    assert any("out of memory: going on with" in note for note in notes)


def test_a_single_text_that_does_not_fit_is_one_clear_error(monkeypatch):
    def no_memory(*_):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")

    made = scorer("bert")
    monkeypatch.setattr(network, "read_scores", no_memory)
    with pytest.raises(RrkError, match="out of memory on a single text"):
        made.score("p", ["q"])


def test_a_cache_that_gives_other_scores_is_noticed_and_not_used(monkeypatch):
    notes = []
    made = scorer("llama", note=notes.append)
    expected = naive(made)
    original = network.read_scores
    wrong = lambda m, b, p: original(m, b, p) + (5.0 if b.cache is not None else 0.0)  # noqa: E731
    monkeypatch.setattr(network, "read_scores", wrong)
    assert differ(made.score_many(QUESTIONS), expected) < 1e-5
    assert any("cache does not give the plain scores" in note for note in notes)


def test_bfloat16_chooses_alike_and_keeps_fine_logits(tmp_path):
    folder = trained(tmp_path)
    exact, half = Scorer.load(folder), Scorer.load(folder, dtype="bfloat16")
    a, b = exact.score_many(QUESTIONS), half.score_many(QUESTIONS)
    assert 0 < differ(a, b) < 0.5
    assert next(network.trunk(half.model).parameters()).dtype == torch.bfloat16
    scores = half.score("p", [f"return {i}" for i in range(40)])
    assert len(set(scores)) == 40, "a bfloat16 head would tie"


def trained(folder, name: str = "llama", **more):
    """A folder as train-reranker leaves it."""
    made = scorer(name, **more)
    made.model.save_pretrained(folder)
    made.tokenizer.save_pretrained(folder)
    record.write(folder, record.Record(made.renderer.rendering, made.golden(), (0.5, 2.0)))
    return folder


def test_what_is_saved_comes_back_with_its_scores_rendering_and_calibration(tmp_path):
    made = scorer("llama", language_tag=True, max_length=99)
    made.model.save_pretrained(tmp_path)
    made.tokenizer.save_pretrained(tmp_path)
    record.write(tmp_path, record.Record(made.renderer.rendering, made.golden(), (0.5, 2.0)))
    back = Scorer.load(tmp_path)
    assert back.renderer.rendering == made.renderer.rendering
    assert differ(back.score_many(QUESTIONS), made.score_many(QUESTIONS)) < 1e-6
    assert back.probability([-0.25, 1e9]) == [0.5, 1.0]


@pytest.mark.parametrize("what", ["weights", "tokenizer", "template"])
def test_a_reranker_that_does_not_give_its_golden_scores_is_refused(tmp_path, what):
    trained(tmp_path)
    if what == "weights":
        model = models.network("llama")
        with torch.no_grad():
            model.model.layers[1].mlp.down_proj.weight.mul_(1.5)
        model.save_pretrained(tmp_path)
    elif what == "tokenizer":
        path = tmp_path / "tokenizer.json"
        table = json.loads(path.read_text())
        vocabulary = table["model"]["vocab"]
        vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
        path.write_text(json.dumps(table))
    else:
        path = tmp_path / record.NAME
        table = orjson.loads(path.read_bytes())
        table["rendering"]["language_tag"] = True
        path.write_bytes(orjson.dumps(table))
    with pytest.raises(RrkError, match="scores a known program"):
        Scorer.load(tmp_path)


def test_models_that_are_no_rerankers_are_refused_with_the_remedy(tmp_path):
    models.save(tmp_path / "causal", "llama")
    with pytest.raises(RrkError, match="train-reranker -m"):
        Scorer.load(tmp_path / "causal")
    models.network("llama", labels=3).save_pretrained(tmp_path / "three")
    models.tokenizer().save_pretrained(tmp_path / "three")
    with pytest.raises(RrkError, match="3 labels"):
        Scorer.load(tmp_path / "three")
    with pytest.raises(UsageError, match="no such folder"):
        Scorer.load(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RrkError, match="cannot load"):
        Scorer.load(tmp_path / "empty")


def test_somebody_elses_classifier_is_scored_and_said_to_be_theirs(tmp_path):
    models.network("llama").save_pretrained(tmp_path)
    models.tokenizer().save_pretrained(tmp_path)
    notes = []
    made = Scorer.load(tmp_path, note=notes.append)
    assert differ(made.score_many(QUESTIONS), naive(made)) < 1e-5
    assert "not trained by rrk" in notes[0]


def test_without_calibration_there_is_no_probability():
    with pytest.raises(UsageError, match="--dev"):
        scorer("llama").probability([0.0])


def test_the_transformers_pipeline_gives_the_same_scores_on_our_folder(tmp_path):
    """The folder is an ordinary classifier: others can use it, given the same text."""
    from transformers import pipeline

    made = Scorer.load(trained(tmp_path))
    theirs = pipeline("text-classification", model=str(tmp_path), function_to_apply="none", device="cpu")
    assert theirs("def f():\n    return 1\n<eos>")[0]["score"] == pytest.approx(
        made.score("def f():\n", ["    return 1\n"])[0], abs=1e-5
    )


def test_what_fewer_bits_move_alike_is_taken_off_and_in_float32_refused(tmp_path):
    """bf16 moved every score of a 0.5B model by .94: no other order, but another calibration, and no damaged checkpoint."""
    models.save(tmp_path, "llama", labels=1)
    plain = Scorer(*network.load(tmp_path, "cpu", "float32"), Rendering())
    moved = [score + 0.7 for score in plain.golden()]
    record.write(tmp_path, record.Record(Rendering(), moved))
    with pytest.raises(RrkError, match="when it was saved"):
        Scorer.load(tmp_path, "cpu", "float32")
    scorer = Scorer.load(tmp_path, "cpu", "bfloat16")
    assert scorer.shift == pytest.approx(0.7, abs=0.05)
    assert sum(scorer.golden()) == pytest.approx(sum(moved), abs=1e-3)


@pytest.mark.parametrize(("budget", "each"), [(100, 10), (100, 0), (60, 25), (1, 10), (1000, 1000)])
def test_batches_cost_the_least_padding_that_there_is_within_the_budget(budget, each):
    rng = random.Random(budget + each)
    lengths = sorted(rng.randint(1, 40) for _ in range(9))

    def cost(cuts: tuple[int, ...]) -> float:
        sizes = [((end - begin) * lengths[end - 1], end - begin) for begin, end in itertools.pairwise((0, *cuts, 9))]
        return sum(size + each if size <= budget or rows == 1 else math.inf for size, rows in sizes)

    ends, found = memory.parts(lengths, budget, each), [0]
    while found[-1] < len(lengths):
        found.append(ends[found[-1]])
    every = (cuts for n in range(9) for cuts in itertools.combinations(range(1, 9), n))
    assert cost(tuple(found[1:-1])) == min(map(cost, every))
