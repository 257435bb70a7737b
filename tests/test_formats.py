"""Further tools' files in rrk's rows and back: rows of our own in each one's shape."""

from __future__ import annotations

import json

import pytest

from rrk import interop, jsonl, rows
from rrk.errors import RowError, RrkError, UsageError

PROBLEMS = {
    (p.task_id, p.language): p
    for p in (
        rows.Problem("HumanEval/0", "py", "def f(a):\n", "assert f(1) == 2\n", entry_point="f"),
        rows.Problem("Mbpp/11", "py", '"""Write g."""\n', "assert g(1) == 1\n"),
    )
}
BODY = "    return a + 1\n"


@pytest.fixture
def read(tmp_path):
    """Rows of a file in a format, written here."""

    def of(form: str, *given, problems=None):
        jsonl.write(tmp_path / "given.jsonl", given)
        return list(interop.read(form, [str(tmp_path / "given.jsonl")], problems))

    return of


def test_samples_of_lm_eval_are_read_once_whatever_filters_there_are(read):
    """A response a row: the filtered program less its prompt; the metric is a verdict only where it judged one response."""
    doc = {"task_id": "HumanEval/0", "prompt": "def f(a):\n", "test": "...", "entry_point": "f"}
    row = {
        "doc_id": 0,
        "doc": doc,
        "resps": [[BODY, "    pass"]],
        "filtered_resps": [["def f(a):\n" + BODY, "def f(a):\n    pass"]],
    }
    out = read("lm-eval", {**row, "filter": "create_test", "pass@1": 0.5}, {**row, "filter": "another", "pass@1": 0.5})
    assert [(r["task_id"], r["completion_id"], r["completion"]) for r in out] == [
        ("HumanEval/0", 0, BODY),
        ("HumanEval/0", 1, "    pass"),
    ]
    assert not any("passed" in r or "test" in r for r in out)
    mbpp = {
        "doc_id": 0,
        "doc": {"task_id": 11, "text": "Write g."},
        "resps": [["def g(a): return a"]],
        "pass_at_1": 1.0,
    }
    assert read("lm-eval", mbpp, problems=PROBLEMS) == [
        {"task_id": "Mbpp/11", "language": "py", "completion_id": 0, "completion": "def g(a): return a"}
        | {"completion_kind": "full", "passed": True, "status": "OK"}
    ]
    with pytest.raises(RowError, match=r"given.jsonl:1: .*not a code task"):
        read("lm-eval", {"doc_id": 0, "doc": {"question": "?"}, "resps": [["A"]]})


def test_vllm_batches_and_generations_are_numbered_within_their_problem(read):
    def answer(name, *texts):
        choices = [
            {"index": n, "message": {"role": "assistant", "content": t}, "finish_reason": "stop"}
            for n, t in enumerate(texts)
        ]
        body = {"model": "m", "choices": choices}
        return {"id": "vllm-1", "custom_id": name, "response": {"status_code": 200, "body": body}, "error": None}

    out = read("vllm", answer("HumanEval/0#0", "a", "b"), answer("HumanEval/0#1", "c"), problems=PROBLEMS)
    assert [(r["task_id"], r["completion_id"], r["completion"], r["model"]) for r in out] == [
        ("HumanEval/0", number, text, "m") for number, text in enumerate("abc")
    ]
    assert out[0]["prompt"] == "def f(a):\n"
    output = {"index": 0, "text": BODY, "token_ids": [1, 2, 3], "cumulative_logprob": -1.5, "finish_reason": "length"}
    (row,) = read("vllm", {"request_id": "7", "prompt": "def f(a):\n", "outputs": [output]}, problems=PROBLEMS)
    assert (row["task_id"], row["completion"], row["logprob"], row["tokens"]) == ("HumanEval/0", BODY, -1.5, 3)
    with pytest.raises(RowError, match="give the problems with -p"):
        read("vllm", {"request_id": "7", "prompt": "def f(a):\n", "outputs": [output]})
    with pytest.raises(RowError, match="its request failed"):
        read("vllm", {"custom_id": "HumanEval/0", "response": None, "error": {"message": "too long"}})
    with pytest.raises(RowError, match="a choice without text"):
        read("vllm", answer("HumanEval/0", None))


def test_preferences_become_pairs_or_candidates(read):
    """AceCodePair gives no verdict (its chosen programs need not pass all tests); RewardBench's chosen answer passed."""
    pair = {
        "id": "x_1",
        "instruction": "Add one.",
        "chosen": "good",
        "rejected": [{"role": "assistant", "content": "bad"}],
    }
    assert read("acecode-pair", pair) == [
        {"task_id": "x_1", "language": "py", "prompt": "Add one.", "chosen": "good", "rejected": "bad", "kind": "given"}
    ]
    bench = {
        "prompt": "Add one.",
        "chosen": "good",
        "rejected": "bad",
        "chosen_model": "human",
        "subset": "hep-rust",
        "id": 3,
    }
    out = read("reward-bench", bench, {**bench, "subset": "donotanswer", "id": 4})
    assert [(r["task_id"], r["language"], r["completion"], r["passed"]) for r in out] == [
        ("hep-rust/3", "rs", "good", True),
        ("hep-rust/3", "rs", "bad", False),
        ("donotanswer/4", "text", "good", True),
        ("donotanswer/4", "text", "bad", False),
    ]


def test_a_folder_of_evalplus_is_read_in_the_order_of_its_numbers(tmp_path):
    for task, number in (("HumanEval_10", 0), ("HumanEval_2", 10), ("HumanEval_2", 9)):
        (tmp_path / task).mkdir(exist_ok=True)
        (tmp_path / task / f"{number}.py").write_text(f"# {task} {number}\n")
    out = list(interop.read("evalplus", [str(tmp_path)]))
    assert [(r["task_id"], r["completion_id"], r["solution"]) for r in out] == [
        ("HumanEval/2", 9, "# HumanEval_2 9\n"),
        ("HumanEval/2", 10, "# HumanEval_2 10\n"),
        ("HumanEval/10", 0, "# HumanEval_10 0\n"),
    ]
    assert all(rows.is_full(row) for row in out)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no folder of EvalPlus"):
        list(interop.read("evalplus", [str(tmp_path / "empty")]))


def test_results_for_evalplus_come_back_as_they_went(tmp_path):
    """eval_results.json holds whole programs and both statuses, and is read back with the same verdicts."""
    given = [
        {"task_id": "HumanEval/0", "completion": BODY, "passed": True, "status": "OK"},
        {"task_id": "HumanEval/0", "completion": "    while 1: pass\n", "passed": False, "status": "Timeout"},
        {"task_id": "Mbpp/11", "solution": "def g(a): return 2\n", "passed": False, "status": "Exception"},
    ]
    path = str(tmp_path / "eval_results.json")
    assert interop.write("evalplus-results", given, path, PROBLEMS) == 3
    value = json.loads((tmp_path / "eval_results.json").read_text())
    assert [one["base_status"] for task in value["eval"].values() for one in task] == ["pass", "timeout", "fail"]
    assert value["eval"]["HumanEval/0"][0]["solution"] == "def f(a):\n" + BODY
    back = list(interop.read("evalplus", [path]))
    assert [(r["task_id"], r["passed"], r["status"]) for r in back] == [
        (r["task_id"], r["passed"], r["status"]) for r in given
    ]
    with pytest.raises(RowError, match="run rrk execute"):
        interop.write("evalplus-results", [{**given[0], "passed": None}], path, PROBLEMS)


def test_livecodebench_s_files_come_back_as_they_went(tmp_path):
    """Programs, verdicts and what its scores are made for, in the order of its own evaluator; samples without verdicts too."""
    about = {"platform": "atcoder", "contest_date": "2023-08-21T00:00:00", "difficulty": "easy"}
    raw = [
        {"task_id": f"LiveCodeBench/{name}", "language": "py", "prompt": '"""' + name + '"""\n', **about}
        for name in ("abc301_b", "2727")
    ]
    problems = {(p.task_id, p.language): p for p in (rows.problem(row, tests=False) for row in raw)}
    given = [
        {"task_id": "LiveCodeBench/abc301_b", "completion": "print(1)\n", "passed": True, "status": "OK"},
        {"task_id": "LiveCodeBench/2727", "solution": "print(2)\n", "passed": False, "status": "Timeout"},
        {"task_id": "LiveCodeBench/abc301_b", "completion": "print(3)\n", "passed": False, "status": "Exception"},
    ]
    path = str(tmp_path / "eval_all.json")
    assert interop.write("livecodebench", given, path, problems) == 3
    first, second = json.loads((tmp_path / "eval_all.json").read_text())
    assert (first["question_id"], first["graded_list"], first["pass@1"]) == ("2727", [False], 0.0)
    assert (second["question_id"], second["graded_list"], second["pass@1"]) == ("abc301_b", [True, False], 0.5)
    assert about.items() <= second.items()
    assert second["code_list"][0] == '"""abc301_b"""\nprint(1)\n'
    back = [(r["task_id"], r["solution"], r["passed"]) for r in interop.read("livecodebench", [path])]
    assert back == [
        ("LiveCodeBench/2727", "print(2)\n", False),
        ("LiveCodeBench/abc301_b", '"""abc301_b"""\nprint(1)\n', True),
        ("LiveCodeBench/abc301_b", '"""abc301_b"""\nprint(3)\n', False),
    ]
    with pytest.raises(RowError, match="some rows have no verdict"):
        interop.write("livecodebench", [given[0], {**given[1], "passed": None}], path, problems)
    with pytest.raises(RowError, match="no field 'platform'"):
        interop.write("livecodebench", given, path)
    samples = [{"task_id": row["task_id"], "solution": "print(1)"} for row in given]
    assert interop.write("livecodebench", samples, path) == 3
    assert [sorted(question) for question in json.loads((tmp_path / "eval_all.json").read_text())] == 2 * [
        ["code_list", "output_list", "question_id"]
    ]
    (tmp_path / "samples.json").write_text(json.dumps([{"question_id": "x", "code_list": ["print(1)"]}]))
    assert "passed" not in next(interop.read("livecodebench", [str(tmp_path / "samples.json")]))
    (tmp_path / "bad.json").write_text(json.dumps([{"question_id": "x", "code_list": ["a"], "graded_list": []}]))
    with pytest.raises(RrkError, match="not as many verdicts"):
        list(interop.read("livecodebench", [str(tmp_path / "bad.json")]))


def test_messages_for_trl():
    row = {"task_id": "HumanEval/0", "completion": BODY, "passed": False}
    pair = {"prompt": "P", "chosen": "C", "rejected": "R", "margin": 0.5, "kind": "hard"}
    unasked = {"task_id": "HumanEval/0", "prompt": "P", "completion": "C"}

    def user(text):
        return [{"role": "user", "content": text}]

    def said(text):
        return [{"role": "assistant", "content": text}]

    assert list(interop.lines("trl-messages", [row, pair, unasked], PROBLEMS)) == [
        {"prompt": user("def f(a):\n"), "completion": said(BODY), "label": False},
        {"prompt": user("P"), "chosen": said("C"), "rejected": said("R"), "margin": 0.5},
        {"prompt": user("P"), "completion": said("C")},
    ]


def test_convert_takes_programs_out_of_answers(rrk, tmp_path):
    """--code puts programs in the place of chat answers, tells how many held none, and goes on to any other format."""
    jsonl.write(
        tmp_path / "p.jsonl", [{"task_id": "T/0", "prompt": "def f(a):\n", "entry_point": "f", "tests": "f(1)"}]
    )
    texts = ["Yes:\n```python\nf(1)\n```\n```python\ndef f(a):\n    return a\n```\n", "No."]
    given = [{"task_id": "T/0", "completion": text, "passed": False, "score": 1.0} for text in texts]
    jsonl.write(tmp_path / "rows.jsonl", given)
    done = rrk("convert", "--code", "-p", "p.jsonl", "rows.jsonl")
    assert done.returncode == 0, done.stderr.decode()
    out = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["completion"] for row in out] == ["def f(a):\n    return a\n", ""]
    assert out[0]["extracted"] == {"how": "fenced, defines f", "before": 34, "after": 4}
    assert out[1]["extracted"] == {"how": "none", "before": 3, "after": 0}
    assert not any("passed" in row or "score" in row for row in out), "they were the whole answer's"
    assert b"2 rows, rrk to rrk, 1 answers without a program" in done.stderr
    wrong = rrk("convert", "--from", "trl-messages", "rows.jsonl")
    assert (wrong.returncode, b"give one of" in wrong.stderr) == (2, True)
