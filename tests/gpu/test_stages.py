"""The script for a borrowed GPU runs here as it would there: a tiny model on the CPU, all figures in place."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from tests.generation.tiny import make_model
from tests.gpu import stages


def test_the_sampling_stage_measures_all_its_sides(tmp_path, capsys):
    """One job at two numbers of rows; transformers' continuous batching may fail on a CPU, but must say so."""
    problems = tmp_path / "problems.jsonl"
    row = {"language": "py", "prompt": "def f(x):\n", "tests": "assert True", "stop_tokens": ["\n"]}
    problems.write_text("".join(json.dumps({"task_id": f"t/{i}", **row}) + "\n" for i in range(3)))
    given = [str(make_model(tmp_path / "m")), "--problems", str(problems), "--device", "cpu", "--samples", "2"]
    given += ["--rows", "2", "4", "--max-tokens", "8", "--context", "8", "--steps", "3", "--without", "generate_batch"]
    assert stages.main([*given, "--stages", "sample"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert [line["rows"] for line in lines[:2]] == [2, 4]
    assert all(line["tokens"] >= 6 and line["of bare"] > 0 and line["times generate"] > 0 for line in lines[:2])
    assert lines[-1]["stage"] == "sample"


@pytest.mark.slow
def test_the_training_stages_run_one_after_the_other(tmp_path, capsys):
    """Reranker, rerank and PPO by the commands themselves; figures of each and the bare pass beside them."""
    rows = [
        {"task_id": f"t/{i}", "language": "py", "prompt": f"def f{i}(x):\n", "completion_id": j, "passed": j % 2 == 0}
        | {"completion": f"    return x {'+' if j % 2 == 0 else '-'} {i + j}\n"}
        for i in range(3)
        for j in range(4)
    ]
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = [str(make_model(tmp_path / "m")), "--candidates", str(tmp_path / "c.jsonl"), "--device", "cpu"]
    given += ["--train-steps", "1", "--updates", "1", "--prompts", "2", "--samples", "2", "--max-tokens", "4"]
    given += ["--width", "8", "--bare-rows", "2", "--lora-r", "2"]
    assert stages.main([*given, "--stages", "reranker", "rerank", "ppo"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    reranker, _, rerank, _, ppo, _ = lines
    assert reranker["tokens_per_second"] > 0
    assert reranker["bare"]["forward"] > 0
    assert rerank["rows"] == 12
    assert ppo["updates"][0]["seconds"]["optimise"] > 0
