"""--qlora: what is trained over 4-bit weights is what is saved, and the base may not be what it was."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from rrk import jsonl, manifest
from rrk.errors import UsageError
from rrk.generation import quantised, runs
from rrk.generation.models import load
from rrk.generation.sft import SftOptions, train
from tests.generation.tiny import make_model

WIDE = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1}  # whole blocks of 64
needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed (pip install -e '.[qlora]')"
)


@needs_bitsandbytes
@pytest.mark.parametrize("bf16", [False, True])
def test_the_merged_model_is_the_one_that_was_trained(tmp_path, bf16):
    from peft import get_peft_model

    base = make_model(tmp_path / "base", **WIDE)
    model, tokenizer = load(base, "cpu", "float32")
    plain = {name: weight.clone() for name, weight in model.state_dict().items()}
    quantised.shrink(model, bf16=bf16)
    trained = get_peft_model(model, runs.adapters(4, "CAUSAL_LM")).eval()
    for name, weight in trained.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    ids = torch.tensor([tokenizer("def f(x):\n    return x\n")["input_ids"]])
    wanted = trained(
        input_ids=ids
    ).logits.detach()  # with gradients, as in training: without, a CPU's kernel has fewer digits
    with torch.no_grad():
        merged = runs.merged(trained, lambda: quantised.rounded(load(base, "cpu", "float32")[0]))
        found = merged(input_ids=ids).logits
    assert all(weight.dtype == torch.float32 for weight in merged.parameters())
    assert (found - wanted).abs().max() < (0.03 if bf16 else 1e-4) * wanted.abs().max()
    assert (merged.lm_head.weight == plain["lm_head.weight"]).all()


@needs_bitsandbytes
def test_both_trainers_take_it(rrk, tmp_path):
    """And leave plain checkpoints: nothing that reads them needs bitsandbytes."""
    model = str(make_model(tmp_path / "base", **WIDE))
    row = {"prompt": "def f(x):\n", "completion": "    return 1\n", "passed": True, "task_id": "t/1"}
    pair = {"prompt": "def f(x):\n", "chosen": "    return 1\n", "rejected": "    pass\n", "task_id": "t/1"}
    jsonl.write(tmp_path / "rows.jsonl", [row] * 4)
    jsonl.write(tmp_path / "pairs.jsonl", [{**pair, "task_id": f"t/{n}"} for n in range(4)])
    small = ["-m", model, "--lora-r", "4", "--qlora", "--bf16", "--steps", "2", "--batch-size", "2"]
    for verb, rows in (("train-sft", "rows.jsonl"), ("train-reranker", "pairs.jsonl")):
        done = rrk(verb, rows, "-o", verb, *small)
        assert done.returncode == 0, done.stderr.decode()
        assert b"does not give" not in done.stderr
        assert manifest.read(tmp_path / verb)["params"]["qlora"] is True
        assert "quantization_config" not in (tmp_path / verb / "config.json").read_text()


def test_it_needs_adapters_and_its_package(monkeypatch):
    with pytest.raises(UsageError, match="--qlora needs --lora-r"):
        SftOptions(qlora=True).check()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="pip install"):
        train([], "base", "out", SftOptions(qlora=True, lora_r=4))
