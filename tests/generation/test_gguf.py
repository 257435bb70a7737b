"""A GGUF file behind -m is the model that it was written from: same samples, same scores, and a base to train."""

from __future__ import annotations

import json

import pytest

torch = pytest.importorskip("torch")
gguf = pytest.importorskip("gguf", reason="the package gguf is not installed: pip install 'rrk[gguf]'")

from tests.generation.tiny import make_model  # noqa: E402

PROBLEM = {"task_id": "T/0", "language": "py", "prompt": "def f(x):\n", "tests": "assert f(1) == 2\n"}
CANDIDATES = [{**PROBLEM, "completion_id": i, "completion": text} for i, text in enumerate(["    return x\n", "pass"])]


def as_gguf(folder, path):
    """The folder's Qwen2 with its tokenizer as one GGUF file, not quantised."""
    from safetensors.torch import load_file

    config = json.loads((folder / "config.json").read_text())
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    vocabulary = sorted(model["vocab"], key=model["vocab"].get)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(vocabulary)
    writer.add_token_types([3 if i < 2 else 1 for i in range(len(vocabulary))])  # control, normal
    writer.add_token_merges([" ".join(pair) for pair in model["merges"]])
    writer.add_eos_token_id(0)
    writer.add_pad_token_id(1)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN2, config["num_hidden_layers"])
    for name, tensor in load_file(folder / "model.safetensors").items():
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight", ".bias")), tensor.float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    folder = make_model(tmp_path_factory.mktemp("gguf") / "folder", "qwen2")
    return folder, as_gguf(folder, folder.parent / "tiny.gguf")


def lines(rrk, rows, *args):
    done = rrk(*map(str, args), "--dtype", "float32", input="".join(json.dumps(row) + "\n" for row in rows).encode())
    assert done.returncode == 0, done.stderr.decode()
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_samples_are_those_of_the_folder(both, rrk):
    drawn = [
        [
            (row["completion"], row["logprob"])
            for row in lines(rrk, [PROBLEM], "sample", "-n", 3, "--max-tokens", 16, "-m", m)
        ]
        for m in both
    ]
    assert drawn[0] == drawn[1]


def test_scores_are_those_of_the_folder(both, rrk):
    found = [
        [row["score"] for row in lines(rrk, CANDIDATES, "rerank", "--method", "likelihood", "-m", m)] for m in both
    ]
    assert found[0] == pytest.approx(found[1], abs=1e-5)


def test_without_a_score_it_says_so(both, rrk):
    done = rrk("rerank", "-m", str(both[1]), input=json.dumps(CANDIDATES[0]).encode())
    assert done.returncode == 1
    assert "this checkpoint has no trained score; `rrk train-reranker -m" in done.stderr.decode()


def test_a_reranker_is_made_of_it(both, tmp_path):
    from rrk.reranking.scorer import Scorer
    from rrk.reranking.training import TrainingOptions, train
    from tests.reranking import models

    train(models.pairs(), both[1], tmp_path / "out", TrainingOptions(steps=1))
    assert "quantization_config" not in json.loads((tmp_path / "out" / "config.json").read_text())
    Scorer.load(tmp_path / "out")
