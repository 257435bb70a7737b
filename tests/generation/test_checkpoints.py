"""What stands behind -m: nothing random is ever used without a word, and adapters and GGUF files are taken wherever models are."""

from __future__ import annotations

import json
import shutil

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from rrk.errors import RrkError  # noqa: E402
from rrk.generation import models  # noqa: E402
from rrk.ppo.policy import Policy  # noqa: E402
from rrk.reranking import network  # noqa: E402
from rrk.reranking.scorer import Scorer  # noqa: E402
from tests.conftest import told  # noqa: E402
from tests.generation.tiny import make_model  # noqa: E402
from tests.reranking import models as rerankers  # noqa: E402

GENERATORS = {
    "sample": lambda path: models.load(path, "cpu"),
    "train-sft": lambda path: models.load(path, "cpu", "float32", "eager"),
    "train-ppo": lambda path: Policy.load(path),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    torch.set_num_threads(1)
    return make_model(tmp_path_factory.mktemp("checkpoints") / "base", "llama")


def without(folder, *names: str):
    """The checkpoint, less some weights."""
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    weights = load_file(path)
    for name in names:
        del weights[name]
    save_file(weights, path, metadata={"format": "pt"})
    return folder


def adapter(model, folder, task: str, base_name: str, **more):
    """A LoRA folder with weights that matter, as PEFT saves it, and the model with it merged."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    wrapped = get_peft_model(
        model, LoraConfig(task_type=task, r=4, target_modules=["q_proj", "v_proj", "down_proj"], **more)
    )
    for name, weight in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    wrapped.save_pretrained(folder)
    path = folder / "adapter_config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps(settings | {"base_model_name_or_path": base_name}))
    return wrapped.merge_and_unload()


def logits(model):
    with torch.no_grad():
        return model(input_ids=torch.tensor([[5, 9, 40, 77, 3, 12]])).logits


@pytest.mark.parametrize("use", GENERATORS)
def test_a_generator_without_some_weights_is_refused_by_their_names(base, tmp_path, use):
    folder = shutil.copytree(base, tmp_path / "m")
    without(folder, "lm_head.weight", "model.layers.1.mlp.up_proj.weight")
    with pytest.raises(RrkError, match=r"does not hold lm_head\.weight, model\.layers\.1\.mlp\.up_proj\.weight, so"):
        GENERATORS[use](folder)


@pytest.mark.parametrize("use", GENERATORS)
@pytest.mark.parametrize("tied", [False, True])
def test_a_classifier_is_no_generator(tmp_path, use, tied):
    rerankers.network("qwen2", tie_word_embeddings=tied).save_pretrained(tmp_path)
    rerankers.tokenizer().save_pretrained(tmp_path)
    with pytest.raises(RrkError, match="ForSequenceClassification is no generator"):
        GENERATORS[use](tmp_path)


def test_tied_weights_are_not_missing(tmp_path):
    model, _ = models.load(make_model(tmp_path / "tied", "qwen2"), "cpu")
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


@pytest.mark.parametrize("name", ["llama", "bert"])
def test_a_reranker_without_its_head_is_refused_instead_of_scoring_at_random(tmp_path, name):
    head = "score.weight" if name == "llama" else "classifier.weight"
    without(rerankers.save(tmp_path / "m", name, labels=1), head)
    with pytest.raises(RrkError, match=f"does not hold {head}, so .*train-reranker -m"):
        Scorer.load(tmp_path / "m")


def test_only_what_lies_outside_the_trunk_may_be_new_in_training_and_it_is_said(base, tmp_path):
    said: list[str] = []
    network.load_base(base, 0, said.append)
    assert said == [f"{base}: has no trained score; score.weight drawn anew (--seed)"]
    said.clear()
    network.load_base(rerankers.save(tmp_path / "bert", "bert"), 0, said.append)
    assert "classifier.weight" in said[0]
    said.clear()
    network.load_base(rerankers.save(tmp_path / "whole", "llama", labels=1), 0, said.append)
    assert said == []
    folder = shutil.copytree(base, tmp_path / "m")
    without(folder, "model.layers.0.self_attn.q_proj.weight")
    with pytest.raises(RrkError, match=r"does not hold model\.layers\.0\.self_attn\.q_proj\.weight"):
        network.load_base(folder)


@pytest.mark.parametrize("use", GENERATORS)
def test_a_lora_of_a_generator_is_taken_wherever_a_generator_is(base, tmp_path, use):
    plain, _ = models.load(base, "cpu")
    before = logits(plain)
    want = logits(adapter(plain, tmp_path / "lora", "CAUSAL_LM", str(base)))
    loaded, tokenizer = GENERATORS[use](tmp_path / "lora")
    found = logits(loaded.causal if use == "train-ppo" else loaded)
    assert torch.allclose(found, want, atol=1e-5)
    assert not torch.allclose(found, before, atol=1e-2)
    assert tokenizer.eos_token == "<eos>", "the base's tokenizer"


def test_a_lora_of_a_generator_gives_a_reranker_its_trunk_and_is_none_itself(base, tmp_path):
    plain, _ = models.load(base, "cpu")
    merged = adapter(plain, tmp_path / "lora", "CAUSAL_LM", str(base))
    with pytest.raises(RrkError, match="a LoRA adapter of a causal model is not a reranker; `rrk train-reranker -m"):
        Scorer.load(tmp_path / "lora")
    said: list[str] = []
    made, _ = network.load_base(tmp_path / "lora", 0, said.append)
    assert "score.weight drawn anew" in said[0]
    weight = "layers.0.self_attn.q_proj.weight"
    assert torch.equal(made.model.get_parameter(weight), merged.model.get_parameter(weight))
    again, _ = network.load_base(tmp_path / "lora", 0)
    assert torch.equal(made.score.weight, again.score.weight)


def test_a_lora_of_a_reranker_brings_its_head_or_is_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    rerankers.save(tmp_path / "base", "llama")
    made, _ = network.load_base(tmp_path / "base")
    want = logits(adapter(made, tmp_path / "lora", "SEQ_CLS", "base"))
    found, _ = network.load(tmp_path / "lora", "cpu")
    assert torch.allclose(logits(found), want, atol=1e-5)
    on, _ = network.load_base(tmp_path / "lora")
    assert torch.allclose(logits(on), want, atol=1e-5), "training goes on from it"
    with pytest.raises(RrkError, match="adapter of a classifier is not a generator"):
        models.load(tmp_path / "lora", "cpu")
    path = tmp_path / "lora" / "adapter_model.safetensors"
    save_file({k: v for k, v in load_file(path).items() if "score" not in k}, path)
    with pytest.raises(RrkError, match=r"does not hold score\.weight"):
        network.load(tmp_path / "lora", "cpu")


def test_an_adapter_that_lacks_its_own_weights_is_refused(base, tmp_path):
    from safetensors.torch import load_file, save_file

    plain, _ = models.load(base, "cpu")
    adapter(plain, tmp_path / "lora", "CAUSAL_LM", str(base))
    path = tmp_path / "lora" / "adapter_model.safetensors"
    save_file({k: v for k, v in load_file(path).items() if "layers.1" not in k}, path)
    with pytest.raises(RrkError, match="the adapter's file lacks"):
        models.load(tmp_path / "lora", "cpu")


def test_the_base_is_found_as_written_beside_the_adapter_or_asked_for_in_one_line(base, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    plain, _ = models.load(base, "cpu")
    folder = tmp_path / "far" / "lora"
    adapter(plain, folder, "CAUSAL_LM", "/nowhere/runs/sft")
    with pytest.raises(RrkError) as error:
        models.load(folder, "cpu")
    assert "/nowhere/runs/sft, which is not here; put its base model" in str(error.value)
    assert "\n" not in str(error.value)
    assert str(folder.parent / "sft") in str(error.value)
    shutil.copytree(base, folder.parent / "sft")
    models.load(folder, "cpu")


def test_the_command_line_says_it_in_one_line_and_exits_1(rrk, tmp_path):
    without(rerankers.save(tmp_path / "m", "llama", labels=1), "score.weight")
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"task_id": "t", "prompt": "p", "completion": "c"}) + "\n")
    done = rrk("rerank", str(rows), "-m", str(tmp_path / "m"))
    assert done.returncode == 1
    (line,) = told(done.stderr)
    assert "score.weight" in line
