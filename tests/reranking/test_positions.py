"""Encoders whose positions start behind the padding id: 34 positions hold 32 tokens, and a longer text must not read beyond."""

from __future__ import annotations

import pytest
import torch
import transformers as t

from rrk.reranking import network
from rrk.reranking.scorer import Scorer
from tests.reranking.models import tokenizer

WIDE = {"vocab_size": 264, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
KINDS = {"roberta": t.RobertaConfig, "xlm-roberta": t.XLMRobertaConfig, "mpnet": t.MPNetConfig, "bert": t.BertConfig}


@pytest.fixture(params=KINDS)
def folder(request, tmp_path):
    """A classifier that rrk did not train, with its tokenizer; RoBERTa's and its kin's padding id is 1."""
    torch.manual_seed(0)
    pad = 0 if request.param == "bert" else 1
    config = KINDS[request.param](**WIDE, max_position_embeddings=34, num_labels=1, pad_token_id=pad, type_vocab_size=2)
    t.AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    words = tokenizer("encoder")
    words.model_input_names = ["input_ids", "attention_mask"]
    words.save_pretrained(tmp_path)
    return tmp_path


def test_a_long_program_is_cut_to_what_the_positions_hold(folder):
    """Scored without an index error, and told as cut."""
    scorer = Scorer.load(folder, "cpu", "float32")
    kind = scorer.model.config.model_type
    held = network.longest(scorer.model, scorer.tokenizer)
    assert held == (34 if kind == "bert" else 32)
    assert scorer.renderer.rendering.max_length == held
    scores = scorer.score("def f(x):\n", ["    return x\n", "    return 1 + 2 + 3 + 4 + 5 + 6 + 7 + x\n"], "py")
    assert len(scores) == 2
    assert all(map(torch.isfinite, torch.tensor(scores)))
    assert scorer.renderer.cuts["prompt_cut"] >= 1


def test_the_tokenizers_own_limit_counts(folder):
    """A tokenizer that says 20 tokens knows what the model was trained with."""
    scorer = Scorer.load(folder, "cpu", "float32")
    scorer.tokenizer.model_max_length = 20
    assert network.longest(scorer.model, scorer.tokenizer) == 20
