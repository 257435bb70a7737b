"""What stages write down of their costs, and how `rrk eval --cost` finds it again."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

from rrk import jsonl, lineage, sinks
from tests.conftest import ROOT, environment
from tests.generation.tiny import make_model

TOY = [sys.executable, "-m", "tests.toy_stage"]


def rows_of(count):
    return b"".join(
        jsonl.dumps({"task_id": f"t/{i}", "completion": "x", "prompt": "", "completion_id": 0}) for i in range(count)
    )


def test_a_run_that_went_on_tells_what_both_runs_used(tmp_path):
    """Costs of the part before a Ctrl-C are not forgotten, and the record says of how many items they are."""
    (tmp_path / "in.jsonl").write_bytes(rows_of(6))
    command = [*TOY, "row", "in.jsonl", "-o", "out.jsonl"]
    run = {"cwd": tmp_path, "env": environment(PYTHONPATH=str(ROOT))}
    first = subprocess.Popen([*command, "--slow", "0.4"], stderr=subprocess.PIPE, **run)
    journal = tmp_path / "out.jsonl.part.journal"
    while not journal.exists() or journal.read_bytes().count(b"\n") < 3:
        assert first.poll() is None
        time.sleep(0.02)
    first.send_signal(signal.SIGINT)
    first.communicate()
    assert first.returncode == 130
    told = [line for line in journal.read_bytes().splitlines() if line.startswith(b"cost ")]
    before = json.loads(told[-1][5:])
    assert before["items"] >= 2
    assert before["wall_seconds"] >= 0.8
    done = subprocess.run([*command, "--resume", "--json"], capture_output=True, **run)
    assert done.returncode == 0, done.stderr.decode()
    spent = json.loads(done.stderr.splitlines()[-1])["cost"]
    assert spent == sinks.made(tmp_path / "out.jsonl")["cost"]
    assert spent["items"] == 6
    assert spent["wall_seconds"] > before["wall_seconds"]
    assert spent["cpu_seconds"] >= before["cpu_seconds"]
    assert spent["peak_memory"] > 1 << 20


def test_a_samples_cost_is_found_through_files_and_through_pipes(rrk, tmp_path):
    """Tokens and size are the model's own; --top 1 hides none of them where the records are, a pipe's rows carry their own."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = make_model(tmp_path / "model")
    problems = [{"task_id": f"HumanEval/{i}", "prompt": "def f(x):\n", "tests": "assert f(1)"} for i in range(3)]
    (tmp_path / "p.jsonl").write_bytes(b"".join(map(jsonl.dumps, problems)))
    done = rrk("sample", "p.jsonl", "-m", "model", "-n", "4", "--max-tokens", "6", "-o", "c.jsonl", "--json")
    assert done.returncode == 0, done.stderr.decode()
    drawn = list(jsonl.read([str(tmp_path / "c.jsonl")]))
    with torch.no_grad():
        size = sum(p.numel() for p in AutoModelForCausalLM.from_pretrained(folder).parameters())
    prompt = len(AutoTokenizer.from_pretrained(folder)("def f(x):\n")["input_ids"])
    written = sum(row["tokens"] for row in drawn)
    spent = json.loads(done.stderr.splitlines()[-1])["cost"]
    assert (spent["parameters"], spent["tokens_read"], spent["tokens_written"]) == (size, 3 * prompt, written)
    assert {(row["parameters"], row["prompt_tokens"]) for row in drawn} == {(size, prompt)}
    verdicts = [{**row, "passed": row["completion_id"] == 0} for row in drawn]
    (tmp_path / "v.jsonl").write_bytes(b"".join(map(jsonl.dumps, verdicts)))
    assert rrk("rerank", "c.jsonl", "--method", "ngram", "--top", "1", "-o", "best.jsonl").returncode == 0
    traced = lineage.trace([str(tmp_path / "best.jsonl")])
    assert [found["stage"] for found in traced.stages] == ["rerank", "sample"]
    assert traced.stages[1]["cost"] == spent
    done = rrk("eval", "--cost", "one=v.jsonl", "same=v.jsonl", "--json", "--resamples", "100", "--axis", "flops")
    assert done.returncode == 0, done.stderr.decode()
    found = json.loads(done.stdout)
    flops = found["systems"][0]["cost"]["answer"]["flops"]["mean"]
    assert abs(flops - 2 * size * (prompt + written / 12)) < 1e-6 * flops
    assert found["against"][0]["cost"]["ratio"] == 1
    text = rrk("eval", "--cost", "one=v.jsonl", "same=v.jsonl").stdout.decode()
    assert "one is level with same" in text
    refused = rrk("eval", "--cost", "v.jsonl", "--axis", "wall_seconds")
    assert refused.returncode == 2
    assert b"records that stages leave" in refused.stderr


def test_a_file_that_was_changed_has_no_history(rrk, tmp_path):
    (tmp_path / "in.jsonl").write_bytes(rows_of(3))
    assert rrk("rerank", "in.jsonl", "--method", "first", "-o", "out.jsonl").returncode == 0
    assert [s["stage"] for s in lineage.trace([str(tmp_path / "out.jsonl")]).stages] == ["rerank"]
    with open(tmp_path / "out.jsonl", "ab") as stream:
        stream.write(b"{}\n")
    assert lineage.trace([str(tmp_path / "out.jsonl")]).cut == [str(tmp_path / "out.jsonl")]
