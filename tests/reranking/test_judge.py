"""The judge: its score is log p(Yes) - log p(No) of the generator that is asked, and training goes on from there."""

from __future__ import annotations

import json

import pytest
import torch

from rrk.errors import RrkError, UsageError
from rrk.reranking import network
from rrk.reranking.render import Renderer, Rendering
from rrk.reranking.scorer import Question, Scorer
from rrk.reranking.training import TrainingOptions, train
from tests.reranking import models

PROMPT = "def f(x):\n    # adds one\n"
PROGRAMS = ["    return x + 1\n", "    return x - 1\n", PROMPT + "    return 1 + x\n", "f = lambda x: x\n"]
FULL = [False, False, True, True]
ASKED = Question(PROMPT, PROGRAMS, "py", FULL)


def slowly(model, tokenizer, prompt: str, whole: str) -> float:
    """One text at a time, in the words of the template (rrk/reranking/render.py)."""
    content = (
        f"Problem:\n{prompt}\n\nProgram:\n```\n{whole}\n```\n\n"
        "Does the program solve the problem correctly? Answer Yes or No."
    )
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    logp = model(torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])).logits[0, -1].log_softmax(-1)
    yes, no = (tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in ("Yes", "No"))
    return (logp[yes] - logp[no]).item()


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = models.save(tmp_path_factory.mktemp("judge") / "base", "qwen2", chat=True)
    tokenizer = models.tokenizer(chat=True)
    tokenizer.chat_template += "{% if add_generation_prompt %}<bos>assistant\n{% endif %}"
    tokenizer.save_pretrained(folder)
    return folder


@torch.no_grad()
def wanted(base) -> list[float]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(base).eval(), AutoTokenizer.from_pretrained(base)
    wholes = [text if full else PROMPT + text for text, full in zip(PROGRAMS, FULL, strict=True)]
    return [slowly(model, tokenizer, PROMPT, whole) for whole in wholes]


def test_the_score_is_what_the_generator_says_of_yes_and_no(base):
    scorer = Scorer.load(base, dtype="float32", zero_shot="judge")
    assert scorer.score(*ASKED) == pytest.approx(wanted(base), abs=1e-4)
    assert scorer.share, "what the programs repeat of the prompt is read once"


def test_training_starts_from_that_and_leaves_an_ordinary_classifier(base, tmp_path):
    said: list[str] = []
    still = TrainingOptions(steps=1, batch_size=2, lr=1e-12, template="judge")
    train(models.pairs(), base, tmp_path / "still", still, note=said.append)
    assert not [text for text in said if "drawn anew" in text]
    assert Scorer.load(tmp_path / "still", dtype="float32").score(*ASKED) == pytest.approx(wanted(base), abs=1e-4)
    options = TrainingOptions(steps=40, batch_size=4, lr=3e-3, template="judge", lora_r=4)
    assert train(models.pairs(), base, tmp_path / "out", options).figures["accuracy"] > 0.8
    assert json.loads((tmp_path / "out" / "config.json").read_text())["architectures"] == [
        "Qwen2ForSequenceClassification"
    ]
    with pytest.raises(UsageError, match="leave out --method judge"):
        Scorer.load(tmp_path / "out", zero_shot="judge")
    # A reranker that is trained further keeps its own head.
    train(models.pairs(), tmp_path / "out", tmp_path / "again", still)
    trained, again = (Scorer.load(tmp_path / name, dtype="float32") for name in ("out", "again"))
    assert again.score(*ASKED) == pytest.approx(trained.score(*ASKED), abs=1e-4)


def test_what_cannot_judge_is_refused(base, tmp_path):
    plain = models.save(tmp_path / "plain", "qwen2")
    with pytest.raises(UsageError, match="no chat template"):
        Scorer.load(plain, zero_shot="judge")
    with pytest.raises(UsageError, match="pooling last"):
        Rendering("judge", pooling="likelihood")
    with pytest.raises(RrkError, match="same token"):
        network._judging(models.network("qwen2", None), lambda word, **_: {"input_ids": [7, 8]})


def test_a_long_problem_loses_its_statement_first_and_the_question_stays(base):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    made = Renderer(tokenizer, Rendering("judge", max_length=220), encoder=False)
    (text,) = made.render("x" * 60, ["y" * 10], "py")
    assert len(text.ids) == 220
    read = tokenizer.decode(text.ids)
    assert read.endswith("Answer Yes or No.<eos>\n<bos>assistant\n")
    assert "x" * 60 + "y" * 10 in read, "the program is whole"
    assert text.prompt_cut > 0


def test_the_command_asks_any_instruct_model(base, rrk):
    scorer = Scorer.load(base, dtype="float32", zero_shot="judge")
    for row in models.reranked(rrk, "judge", base):
        own = Question(row["prompt"], [row["completion"]], row.get("language"))
        assert row["score"] == pytest.approx(scorer.score(*own)[0], abs=1e-4)
