"""Reward models that others published: scored as their authors score them, on models of their architectures made small.

Skywork-Reward-V2 and CodeScaler are sequence classifiers on Qwen3 or Llama, AceCodeRM is a Qwen2 generator with a value head.
"""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from rrk.errors import RrkError
from rrk.generation import checkpoints
from rrk.reranking.scorer import Question, Scorer
from rrk.reranking.training import TrainingOptions, train
from tests.reranking import models

PROMPT = "def f(x):\n    # adds one\n"
PROGRAMS = ["    return x + 1\n", "    return x - 1\n", PROMPT + "    return 1 + x\n"]
FULL = [False, False, True]
ASKED = Question(PROMPT, PROGRAMS, "py", FULL)


class AceCodeRM(nn.Module):
    """The published class in small: a value of the last token's hidden state."""

    def __init__(self) -> None:
        super().__init__()
        self.base = models.network("qwen2", None)
        self.v_head = nn.ModuleDict({"summary": nn.Linear(32, 1)})
        nn.init.constant_(self.v_head["summary"].bias, 0.75)

    def save(self, folder) -> None:
        from safetensors.torch import save_file

        self.base.save_pretrained(folder)
        save_file({**self.base.state_dict(), **self.v_head_weights()}, folder / "model.safetensors", {"format": "pt"})
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "architectures": ["Qwen2ForCausalRM"]}))
        models.tokenizer(chat=True).save_pretrained(folder)

    def v_head_weights(self) -> dict[str, torch.Tensor]:
        return {f"v_head.{name}": weight for name, weight in self.v_head.state_dict().items()}

    def forward(self, ids: torch.Tensor) -> float:
        hidden = self.base(ids, output_hidden_states=True).hidden_states[-1]
        return self.v_head["summary"](hidden)[0, -1].item()


def conversations(tokenizer) -> list[torch.Tensor]:
    """Each question as its authors ask it: the problem, and the whole program as the answer."""
    asked = []
    for program, whole in zip(PROGRAMS, FULL, strict=True):
        answer = program if whole else PROMPT + program
        messages = [{"role": "user", "content": PROMPT}, {"role": "assistant", "content": answer}]
        text = tokenizer.apply_chat_template(messages, tokenize=False)
        asked.append(torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]]))
    return asked


def classifier(kind: str):
    import transformers as t

    torch.manual_seed(0)
    wide = {**models.SIZE, "intermediate_size": 64, "initializer_range": 0.3, "pad_token_id": 0, "num_labels": 1}
    more = {"num_key_value_heads": 1, "head_dim": 16} if kind == "Qwen3" else {}
    config = getattr(t, f"{kind}Config")(**wide, **more)
    return t.AutoModelForSequenceClassification.from_config(config).eval()


@pytest.mark.parametrize("kind", ["Qwen3", "Llama"])
@pytest.mark.parametrize("trims", [False, True])
@torch.no_grad()
def test_a_classifier_gives_the_scores_of_its_own_way_of_asking(tmp_path, kind, trims):
    """The whole program after the chat template, read on the template's last token, which is not EOS everywhere."""
    model, tokenizer = classifier(kind), models.tokenizer(chat=True)
    if trims:
        tokenizer.chat_template = tokenizer.chat_template.replace("m['content']", "m['content'] | trim")
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    wanted = [model(ids).logits.item() for ids in conversations(tokenizer)]
    notes: list[str] = []
    found = Scorer.load(tmp_path, dtype="float32", note=notes.append).score(*ASKED)
    assert found == pytest.approx(wanted, abs=1e-4)
    assert len({round(score, 3) for score in found}) == 3
    assert "answer" in notes[0]


@torch.no_grad()
def test_acecoders_value_head_is_read_with_its_bias(tmp_path):
    theirs = AceCodeRM()
    theirs.save(tmp_path)
    wanted = [theirs(ids) for ids in conversations(models.tokenizer(chat=True))]
    assert Scorer.load(tmp_path, dtype="float32").score(*ASKED) == pytest.approx(wanted, abs=1e-4)
    with pytest.raises(RrkError, match="no generator"):
        checkpoints.causal(tmp_path)


@torch.no_grad()
def test_training_goes_on_from_acecoders_score_and_leaves_an_ordinary_classifier(tmp_path):
    theirs = AceCodeRM()
    (tmp_path / "theirs").mkdir()
    theirs.save(tmp_path / "theirs")
    said: list[str] = []
    options = TrainingOptions(steps=1, batch_size=2, lr=1e-12, template="answer")
    with torch.enable_grad():
        train(models.pairs(), tmp_path / "theirs", tmp_path / "out", options, note=said.append)
    assert not [text for text in said if "drawn anew" in text]
    bias = 0.75
    wanted = [theirs(ids) - bias for ids in conversations(models.tokenizer(chat=True))]
    assert Scorer.load(tmp_path / "out", dtype="float32").score(*ASKED) == pytest.approx(wanted, abs=1e-4)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["architectures"] == ["Qwen2ForSequenceClassification"]


def test_the_command_ranks_by_it(tmp_path, rrk):
    (tmp_path / "theirs").mkdir()
    AceCodeRM().save(tmp_path / "theirs")
    rows = "".join(json.dumps(row) + "\n" for row in models.candidates()).encode()
    done = rrk("rerank", "-m", "theirs", "--dtype", "float32", input=rows)
    assert done.returncode == 0, done.stderr.decode()
    assert b"not trained by rrk" in done.stderr
    assert {"score", "rank"} <= set(json.loads(done.stdout.splitlines()[0]))
