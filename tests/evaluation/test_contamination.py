"""Nobody measures on what was trained on without knowing it."""

from __future__ import annotations

import json

import pytest

from rrk import jsonl, lineage, manifest
from rrk.errors import RrkError
from rrk.evaluation import contamination, overlap


def trained(folder, problems, params=None, inputs=(), **more):
    folder.mkdir(parents=True, exist_ok=True)
    manifest.write(folder, command="train-sft", params=params or {}, inputs=inputs, problems=problems, **more)
    return folder


def rows_of(tasks, language="py", model="m", scored=False):
    return b"".join(
        jsonl.dumps(
            {
                "task_id": task,
                "language": language,
                "completion": "x",
                "completion_id": 0,
                "passed": True,
                "model": model,
                **({"score": 1.0} if scored else {}),
            }
        )
        for task in tasks
    )


def test_a_manifest_names_the_problems_of_all_rounds_before(tmp_path):
    """Also where the folder of an earlier round is gone."""
    sft = trained(tmp_path / "sft", {"Mbpp/10", "Mbpp/2"})
    reranker = trained(tmp_path / "reranker", {"Mbpp/3"}, inputs=[str(sft), "pairs.jsonl"])
    policy = trained(tmp_path / "policy", {"Mbpp/4"}, inputs=[str(sft), str(reranker)], chosen_by={"Mbpp/9"})
    assert manifest.read(policy)["problems"] == ["Mbpp/2", "Mbpp/3", "Mbpp/4", "Mbpp/10"]
    found = contamination.seen(["Mbpp/4", "Mbpp/5", "Mbpp/9"], lineage.models(policy))
    assert found == {"trained_on": {"Mbpp/4": [str(policy)]}, "chosen_by": {"Mbpp/9": [str(policy)]}}
    with pytest.raises(RrkError, match=r"1 problem was trained on by .*policy: Mbpp/4; .*--allow-seen"):
        contamination.refuse(found)
    contamination.refuse(found, allow=True)


def test_a_translation_of_a_problem_is_the_problem(rrk, tmp_path):
    """A generator that learnt HumanEval/7 in Python is not measured on it in C++, unless one insists; then the report says so."""
    trained(tmp_path / "sft", {"HumanEval/7"})
    tasks = ["HumanEval_7_filter_by_substring", "HumanEval_8_sum_product"]
    for command, given in (("eval", rows_of(tasks, "cpp", "sft")), ("compare", rows_of(tasks, "cpp", "sft"))):
        done = rrk(command, input=given)
        assert done.returncode == 1, done.stderr.decode()
        assert done.stdout == b""
        [line] = done.stderr.decode().splitlines()
        assert "1 problem was trained on by sft: HumanEval/7" in line
    done = rrk("eval", "--allow-seen", "-o", "r.json", input=rows_of(tasks, "cpp", "sft"))
    assert done.returncode == 0, done.stderr.decode()
    assert b"note: --allow-seen: 1 problem was trained on by sft" in done.stdout
    assert json.loads((tmp_path / "r.json").read_bytes())["seen"] == {"trained_on": {"HumanEval/7": ["sft"]}}
    assert rrk("eval", input=rows_of(tasks[1:], "cpp", "sft")).returncode == 0
    assert rrk("eval", input=rows_of(tasks, "cpp", "another")).returncode == 0


def test_a_reranker_is_found_through_records_or_named(rrk, tmp_path):
    """What scored the rows does not stand in them: the record beside the file tells, or -m."""
    fusion = {"members": [{}], "problems": ["HumanEval/7"]}
    (tmp_path / "fusion.json").write_text(json.dumps(fusion))
    (tmp_path / "s.jsonl").write_bytes(rows_of(["HumanEval/7"], scored=True))
    assert rrk("eval", "s.jsonl").returncode == 0
    done = rrk("eval", "s.jsonl", "-m", "fusion.json")
    assert done.returncode == 1
    assert b"trained on by fusion.json" in done.stderr
    fusion["members"].append({})
    (tmp_path / "fusion.json").write_text(json.dumps(fusion))
    assert rrk("eval", "s.jsonl", "-m", "fusion.json").returncode == 0, "scored by a member that has not seen it"
    trained(tmp_path / "reranker", {"HumanEval/7"})
    from rrk.sinks import Made

    header = {"stage": "rerank", "params": {"model": "reranker"}}
    Made(tmp_path / "s.jsonl").write(header, 1, 0, cost={}, inputs=["-"])
    done = rrk("eval", "s.jsonl")
    assert done.returncode == 1
    assert b"trained on by reranker: HumanEval/7" in done.stderr


def test_shared_ngrams_are_found_and_counted():
    text = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
    index = overlap.Index()
    index.add({"task_id": "a", "prompt": text, "canonical_solution": "return short"})
    index.add(
        {"task_id": "b", "prompt": "something else altogether that nobody ever wrote before and nobody will again"}
    )
    assert index.problems[0].prompt.grams == set(overlap.grams(text))
    assert len(overlap.grams(text)) == 2
    index.look({"completion": "ONE, two; three (four) five six seven\neight nine ten eleven twelve thirteen!"})
    index.look({"prompt": " ".join(text.split()[:6]), "completion": " " + " ".join(text.split()[6:13])})
    index.look({"messages": [{"content": " ".join(text.split()[:12])}]})
    first, second = index.lines()
    assert (first["task_id"], first["prompt"], first["rows"]) == ("a", 0.5, 2)
    assert first["solution"] is None, "too short to judge"
    assert (second["prompt"], second["rows"], second["first"]) == (0.0, 0, None)


def test_a_short_text_is_one_ngram_from_eight_words():
    assert overlap.grams("a b c d e f g h") == ["a b c d e f g h"]
    assert overlap.grams("a b c d e f g") == []
    assert overlap.grams("a b c", n=2) == ["a b", "b c"]


def test_the_command_gives_a_line_a_problem(rrk, tmp_path):
    problems = [
        {"task_id": f"t/{i}", "prompt": f"write {i} " + "some words that are many enough " * 3} for i in range(3)
    ]
    (tmp_path / "p.jsonl").write_bytes(b"".join(map(jsonl.dumps, problems)))
    (tmp_path / "c.jsonl").write_bytes(jsonl.dumps({"text": "no"}) + jsonl.dumps({"text": problems[1]["prompt"]}))
    done = rrk("eval", "--overlap", "c.jsonl", "p.jsonl")
    assert done.returncode == 0, done.stderr.decode()
    lines = done.stdout.decode().splitlines()
    assert lines[1].split()[:4] == ["t/1", "py", "8", "1.000"]
    assert "c.jsonl:2" in lines[1]
    assert "3 of 3 problems share an n-gram of 13 words with the 2 rows of c.jsonl" in lines[-1]
    assert rrk("eval", "--overlap", "c.jsonl", "--rounds", "p.jsonl").returncode == 2
