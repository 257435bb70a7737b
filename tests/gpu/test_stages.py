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
