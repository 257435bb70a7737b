"""--dtype int8: what a layer gives, who may use it, and that sampling and scoring do."""

from __future__ import annotations

import pytest
import torch

from rrk import jsonl
from rrk.errors import UsageError
from rrk.generation import dtypes, int8, memory
from rrk.generation.models import load
from rrk.reranking.scorer import Question, Scorer
from tests.generation.tiny import make_model

needs_vnni = pytest.mark.skipif(not torch.cpu._is_vnni_supported(), reason="this CPU has no VNNI")


@needs_vnni
def test_a_layer_of_whole_numbers_is_exact_and_others_are_near():
    torch.manual_seed(0)
    layer = torch.nn.Linear(64, 32)
    layer.weight.data = torch.randint(-127, 128, (32, 64)).float()
    layer.weight.data[:, 0] = 127.0
    given = torch.randint(-127, 128, (2, 5, 64)).float()
    given[..., 1] = -127.0
    assert torch.allclose(int8.Int8Linear(layer)(given), layer(given), atol=1e-2)  # of numbers up to a million

    layer, given = torch.nn.Linear(256, 64, bias=False), torch.randn(1, 7, 256)
    given[0, 3] = 0.0
    found, wanted = int8.Int8Linear(layer)(given), layer(given)
    assert (found[0, 3] == 0).all()
    assert (found - wanted).norm() < 0.015 * wanted.norm()
    # A token's numbers are its own: who stands beside it does not matter.
    assert torch.equal(int8.Int8Linear(layer)(given[:, :1]), found[:, :1])


@needs_vnni
def test_a_model_gives_nearly_the_same_odds_in_a_fraction_of_the_memory(tmp_path):
    path = make_model(tmp_path / "model", hidden_size=64, intermediate_size=256)
    plain, tokenizer = load(path, "cpu", "float32")
    small, _ = load(path, "cpu", "int8")
    ids = torch.tensor([tokenizer("def f(x):\n    return x\n")["input_ids"]])
    with torch.no_grad():
        wanted, found = (model(ids).logits.log_softmax(-1) for model in (plain, small))
    assert 0 < (wanted.exp() * (wanted - found)).sum(-1).mean() < 0.01
    assert dtypes.name(small) == "int8"
    assert memory.cost(small)["parameters"] == memory.cost(plain)["parameters"]  # its head is tied
    linear = [m for m in small.modules() if isinstance(m, int8.Int8Linear)]
    assert all(m.weight.element_size() == 1 for m in linear)
    assert not any(type(m) is torch.nn.Linear for m in small.modules())


@needs_vnni
def test_sampling_and_scoring_take_it(rrk, tmp_path):
    path = str(make_model(tmp_path / "model", hidden_size=64, intermediate_size=256))
    jsonl.write(
        tmp_path / "p.jsonl",
        [{"task_id": f"t/{n}", "prompt": f"def f{n}(x):\n", "language": "py", "tests": ""} for n in range(3)],
    )
    done = rrk("sample", "p.jsonl", "-m", path, "-n", "4", "--max-tokens", "12", "--dtype", "int8", "-o", "c.jsonl")
    assert done.returncode == 0, done.stderr.decode()
    assert b"dtype int8" in done.stderr
    assert (tmp_path / "c.jsonl").read_bytes().count(b"\n") == 12

    question = Question("def f(x):\n", ["    return x\n", "    return x + 1\n", "    pass\n"], "py")
    plain, small = (Scorer.load(path, "cpu", dtype, zero_shot="likelihood") for dtype in ("float32", "int8"))
    wanted, found = (torch.tensor(s.score_many([question])[0]) for s in (plain, small))
    assert (wanted - found).abs().max() < 0.05
    assert small.dtype == "int8"


def test_it_is_refused_where_it_would_be_slow(monkeypatch):
    with pytest.raises(UsageError, match="is for CPUs"):
        dtypes.pick("int8", torch.device("cuda"), lambda: 0)
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    with pytest.raises(UsageError, match="VNNI"):
        dtypes.pick("int8", torch.device("cpu"), lambda: 0)
