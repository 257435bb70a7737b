"""The number format that `--dtype auto` settles on."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from rrk.errors import UsageError  # noqa: E402
from rrk.generation import dtypes  # noqa: E402
from rrk.generation.models import load  # noqa: E402
from tests.generation.tiny import make_model  # noqa: E402

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def test_auto_is_bfloat16_only_for_large_models_on_processors_that_multiply_it(monkeypatch):
    def picked(native, size):
        monkeypatch.setattr(dtypes, "multiplies_bfloat16", lambda: native)
        return dtypes.pick("auto", CPU, lambda: size)

    assert picked(True, dtypes.LARGE) == torch.bfloat16
    assert picked(True, dtypes.LARGE - 1) == torch.float32
    assert picked(False, dtypes.LARGE) == torch.float32


def test_a_gpu_takes_it_as_saved_and_a_named_format_is_taken_anywhere():
    def never():
        raise AssertionError("the size plays no part")

    assert dtypes.pick("auto", GPU, never) == "auto"
    for device in (CPU, GPU):
        assert dtypes.pick("float16", device, never) == torch.float16
    with pytest.raises(UsageError, match="--dtype int4"):
        dtypes.pick("int4", CPU, never)


def test_training_computes_in_bfloat16_but_not_where_a_cpu_emulates_it(monkeypatch):
    said = []
    for native in (True, False):
        monkeypatch.setattr(dtypes, "multiplies_bfloat16", lambda native=native: native)
        assert dtypes.autocast(True, CPU, said.append) is native
        assert dtypes.autocast(True, GPU, said.append)
        assert not dtypes.autocast(False, CPU, said.append)
    assert len(said) == 1
    assert "float32" in said[0]


def test_a_model_is_counted_before_it_is_loaded_and_loaded_so(tmp_path, monkeypatch):
    """And its rotary frequencies stay float32, which casting a loaded model would round."""
    folder = make_model(tmp_path / "m")
    small, _ = load(folder, "cpu")
    config = transformers.AutoConfig.from_pretrained(folder)
    assert dtypes.parameters(config, transformers.AutoModelForCausalLM) == small.num_parameters()
    monkeypatch.setattr(dtypes, "multiplies_bfloat16", lambda: True)
    monkeypatch.setattr(dtypes, "LARGE", small.num_parameters())
    large, _ = load(folder, "cpu")
    assert (dtypes.name(small), dtypes.name(large)) == ("float32", "bfloat16")
    assert torch.equal(small.model.rotary_emb.inv_freq, large.model.rotary_emb.inv_freq)
