"""The mean log-probability of a program as its score: untrained under any generator, or trained with Bradley-Terry."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from rrk.errors import RrkError, UsageError
from rrk.reranking import network
from rrk.reranking.render import Renderer, Rendering
from rrk.reranking.scorer import Question, Scorer
from rrk.reranking.training import TrainingOptions, train
from tests.reranking import models

LIKELIHOOD = Rendering(pooling="likelihood")
QUESTIONS = [
    Question("def f(x):\n", ["    return x\n", "    return 1\n", "    pass", ""], "py"),
    Question("", ["print(1)\n", "print(2)\n"], "py"),
    Question("Do it.", ["x = 1\n", "Do it.x = 2\n"], "py", [True, False]),
]


def slowly(model, tokenizer, prompt: str, program: str, gap: str = "") -> float:
    """One text at a time, from all logits."""
    ids = tokenizer(prompt + gap, add_special_tokens=False)["input_ids"] or [tokenizer.eos_token_id]
    own = tokenizer(program, add_special_tokens=False)["input_ids"] or [tokenizer.eos_token_id]
    logp = model(torch.tensor([ids + own])).logits[0].log_softmax(-1)
    return sum(float(logp[len(ids) - 1 + i, token]) for i, token in enumerate(own)) / len(own)


@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt2"])
@pytest.mark.parametrize("share", [True, False])
def test_scores_are_the_mean_log_probability_of_the_program(name, share):
    model, tokenizer = models.network(name, None), models.tokenizer()
    scorer = Scorer(model, tokenizer, LIKELIHOOD, share=share)
    found = scorer.score_many(QUESTIONS)
    want = [
        [
            slowly(model, tokenizer, q.prompt, p, "\n\n" if q.full and q.full[i] else "")
            for i, p in enumerate(q.programs)
        ]
        for q in QUESTIONS
    ]
    assert scorer.share == share
    for own, expected in zip(found, want, strict=True):
        assert own == pytest.approx(expected, abs=1e-4)


def test_programs_in_one_row_score_as_in_rows_of_their_own():
    model = models.network("qwen2", None)
    renderer = Renderer(models.tokenizer(), LIKELIHOOD, encoder=False)
    texts = [renderer.render(q.prompt, q.programs, q.language, q.full) for q in QUESTIONS]
    first = [text.first for own in texts for text in own]
    assert network.can_pack(model, [[list(t.ids) for t in own] for own in texts], 0, "likelihood", first)


@pytest.mark.parametrize("more", [{}, {"lora_r": 4}, {"lora_r": 4, "bf16": True}])
def test_training_starts_from_the_generator_and_tells_right_from_wrong(tmp_path, more, monkeypatch):
    monkeypatch.setattr("rrk.generation.dtypes.multiplies_bfloat16", lambda: True)
    base = models.save(tmp_path / "base", "qwen2")
    options = TrainingOptions(steps=40, batch_size=4, lr=3e-3, pooling="likelihood", **more)
    result = train(models.pairs(), base, tmp_path / "out", options)
    assert result.figures["accuracy"] > 0.8
    scorer = Scorer.load(tmp_path / "out", dtype="float32")
    assert scorer.renderer.rendering.pooling == "likelihood"
    for problem in models.candidates():
        assert scorer.score(problem["prompt"], [problem["completion"]])[0] < 0
    right, wrong = scorer.score("def f200(x):\n", ["    return x + 201\n", "    return x - 201\n"])
    assert right > wrong
    start = Scorer.load(base, dtype="float32", zero_shot="likelihood")
    still = train(models.pairs(), base, tmp_path / "still", TrainingOptions(steps=1, lr=1e-12, pooling="likelihood"))
    assert still is not None
    same = Scorer.load(tmp_path / "still", dtype="float32")
    assert same.score_many(QUESTIONS)[0] == pytest.approx(start.score_many(QUESTIONS)[0], abs=1e-5)


@pytest.mark.parametrize(
    "more",
    [{"pooling": "likelihood"}, {"pooling": "likelihood", "lora_r": 4}, {"template": "judge", "lora_r": 4}],
)
def test_wise_ft_saves_the_weights_between_the_bases_and_the_trained_ones(tmp_path, more):
    base = models.save(tmp_path / "base", "qwen2", chat=True)
    kept = {}
    for share in (1.0, 0.25):
        options = TrainingOptions(steps=5, batch_size=4, lr=3e-3, wise_ft=share, **more)
        result = train(models.pairs(), base, tmp_path / str(share), options)
        assert result.figures["as_trained"]["largest_difference"] < 1e-4
        kept[share] = load_file(tmp_path / str(share) / "model.safetensors")
    judge = "template" in more
    start = network.load_base(base, pooling=None if judge else "likelihood", judge=judge)[0].state_dict()
    moved = 0
    for name, weight in kept[1.0].items():
        assert torch.allclose(kept[0.25][name], torch.lerp(start[name], weight, 0.25), atol=1e-6), name
        moved += not torch.allclose(start[name], weight, atol=1e-3)
    assert moved > 5, "a test that cannot fail"


def test_wise_ft_needs_a_base_that_scores(tmp_path):
    base = models.save(tmp_path / "base", "qwen2")
    with pytest.raises(UsageError, match="its score is new: choose --pooling likelihood"):
        train(models.pairs(), base, tmp_path / "out", TrainingOptions(steps=1, wise_ft=0.5, pooling="last"))
    assert not (tmp_path / "out").exists()
    with pytest.raises(UsageError, match="at most 1"):
        TrainingOptions(wise_ft=1.5).check()
    train(models.pairs(), base, tmp_path / "first", TrainingOptions(steps=1, pooling="last"))
    train(models.pairs(), tmp_path / "first", tmp_path / "second", TrainingOptions(steps=1, wise_ft=0.5))


def test_the_command_takes_any_generator_and_no_classifier(tmp_path, rrk):
    base = models.save(tmp_path / "base", "qwen2")
    model, tokenizer = models.network("qwen2", None), models.tokenizer()
    for row in models.reranked(rrk, "likelihood", base):
        assert row["score"] == pytest.approx(slowly(model, tokenizer, row["prompt"], row["completion"]), abs=1e-4)
    train(models.pairs(), base, tmp_path / "rr", TrainingOptions(steps=1, lr=1e-6, pooling="last"))
    with pytest.raises(UsageError, match="leave out --method likelihood"):
        Scorer.load(tmp_path / "rr", zero_shot="likelihood")


def test_what_writes_text_is_trained_by_its_likelihood_unless_told(tmp_path):
    """A reranker goes on as it was; a trunk without a head, and logits that are capped behind the head, get a new one."""
    base = models.save(tmp_path / "base", "qwen2")
    bert = models.save(tmp_path / "bert", "bert")
    classifier = models.save(tmp_path / "classifier", "qwen2", labels=1)
    trunk = tmp_path / "trunk"
    models.network("llama", None).model.save_pretrained(trunk)
    usual = {path.name: network.usual_pooling(path) for path in (base, bert, classifier, trunk)}
    assert usual == {"base": "likelihood", "bert": "cls", "classifier": "last", "trunk": "last"}
    train(models.pairs(), bert, tmp_path / "mean", TrainingOptions(steps=1, pooling="mean"))
    assert network.usual_pooling(tmp_path / "mean") == "mean"

    from transformers import Gemma2Config, Gemma2ForCausalLM

    capped = tmp_path / "capped"
    size = {**models.SIZE, "intermediate_size": 64, "num_key_value_heads": 1, "head_dim": 16}
    Gemma2ForCausalLM(Gemma2Config(**size, initializer_range=0.3, final_logit_softcapping=1.0)).save_pretrained(capped)
    models.tokenizer().save_pretrained(capped)
    notes: list[str] = []
    train(models.pairs(), capped, tmp_path / "rr", TrainingOptions(steps=1), note=notes.append)
    assert Scorer.load(tmp_path / "rr").renderer.rendering.pooling == "last"
    assert any("score.weight drawn anew" in note for note in notes)
    with pytest.raises(RrkError, match="changes its logits after the head"):
        train(models.pairs(), capped, tmp_path / "no", TrainingOptions(steps=1, pooling="likelihood"))
