"""examples/paper/rrk.toml at toy size: its train stages, with its options, on a model of DeepSeek-Coder's architecture.

What is made smaller is in SMALL; LoRA, bf16, gradient checkpointing and learning rates are the recipe's own.
"""

from __future__ import annotations

import json
import tomllib

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from transformers import AutoModelForCausalLM, LlamaConfig  # noqa: E402

from tests.conftest import ROOT  # noqa: E402
from tests.ppo.world import PROBLEMS, make_model, start_command  # noqa: E402

CONFIG = ROOT / "examples" / "paper" / "rrk.toml"
SMALL = {
    "train-sft": ["--steps", "4", "--batch-size", "4"],
    "train-reranker": ["--steps", "4", "--batch-size", "4"],
    "train-ppo": ["--updates", "2", "--prompts-per-update", "4", "--minibatch", "8", "--max-tokens", "8"],
}


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.slow
def test_the_recipe_trains_sft_reranker_policy_and_reranker_again(tmp_path):
    # DeepSeek-Coder: Llama with linear rope scaling; 1.3B has as many key-value heads as heads, and so has 6.7B.
    config = LlamaConfig(
        vocab_size=9, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=4,
        max_position_embeddings=16384, eos_token_id=0, tie_word_embeddings=False,
        rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 100000.0},
    )  # fmt: skip
    base = make_model(tmp_path / "base", config)
    problems = write(
        tmp_path / "p.jsonl", [{"task_id": p.task_id, "language": "py", "prompt": p.prompt} for p in PROBLEMS]
    )
    solutions = [{"task_id": p.task_id, "language": "py", "prompt": p.prompt, "completion": "aab"} for p in PROBLEMS]
    pairs = [{**row, "chosen": "a" * n + "b", "rejected": "b" * n + "c"} for row in solutions for n in (1, 2, 3)]
    for row in pairs:
        del row["completion"]

    def rrk(verb, inputs, model, out, *more):
        words = ["--config", str(CONFIG), verb, *inputs, "-m", str(model), "-o", str(tmp_path / out), "--quiet"]
        child = start_command([*words, *SMALL[verb], *more], tmp_path / f"{out}.txt")
        child.join(280)
        assert child.exitcode == 0, (tmp_path / f"{out}.txt").read_text()
        record = json.loads((tmp_path / out / "rrk.json").read_text())
        assert record["command"] == verb
        return tmp_path / out, record

    sft, _ = rrk("train-sft", [write(tmp_path / "s.jsonl", solutions)], base, "sft", "--unverified")
    reranker, _ = rrk("train-reranker", [write(tmp_path / "pairs0.jsonl", pairs)], sft, "reranker")
    policy, record = rrk("train-ppo", [problems], sft, "policy", "--reranker", str(reranker))
    again, _ = rrk(
        "train-reranker", [str(tmp_path / "pairs0.jsonl"), write(tmp_path / "pairs1.jsonl", pairs)], sft, "again"
    )
    asked = tomllib.loads(CONFIG.read_text())["train-ppo"]
    assert {record["params"][name] for name in ("bf16", "gradient_checkpointing")} == {True}
    assert record["params"]["lora_r"] == asked["lora_r"] > 0
    assert record["params"]["lr"] == asked["lr"]
    # Every stage leaves a plain checkpoint with its adapters merged, and each has moved.
    before, after = (
        torch.cat([p.flatten() for p in AutoModelForCausalLM.from_pretrained(at).parameters()]) for at in (sft, policy)
    )
    assert before.shape == after.shape
    assert not torch.equal(before, after)
    assert torch.isfinite(after).all()
    assert (again / "config.json").exists()
