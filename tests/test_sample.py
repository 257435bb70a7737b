"""`rrk sample` as a user runs it."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("torch")

from tests.conftest import told
from tests.generation.test_openai import choices, serve  # noqa: F401
from tests.generation.tiny import make_model

PROBLEMS = [
    {
        "task_id": f"t/{i}",
        "prompt": f"def f{i}(x):\n",
        "entry_point": f"f{i}",
        "stop_tokens": ["\n"],
        "tests": "assert secret",
        "canonical_solution": "    secret\n",
        "difficulty": i,
    }
    for i in range(5)
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("model") / "m")


def lines(rows) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def sample(rrk, model, *more, rows=PROBLEMS, cold=False):
    done = rrk("sample", "-m", str(model), *more, input=lines(rows), cold=cold)
    assert done.returncode == 0, done.stderr.decode()
    return [json.loads(line) for line in done.stdout.splitlines()], done.stderr.decode()


def test_rows_have_their_fields_and_no_answers(rrk, model):
    rows, said = sample(rrk, model, "-n", "3", "--max-tokens", "20", "--seed", "7", cold=True)
    assert [(row["task_id"], row["completion_id"]) for row in rows] == [
        (f"t/{i}", j) for i in range(5) for j in range(3)
    ]
    for row in rows:
        assert row["language"] == "py"
        assert row["prompt"] == f"def f{row['difficulty']}(x):\n"
        assert (row["temperature"], row["top_p"], row["max_tokens"], row["seed"]) == (1.0, 1.0, 20, 7)
        assert row["logprob"] < 0 < row["tokens"] <= 20
        assert row["finish_reason"] in ("eos", "stop", "length")
        assert "secret" not in json.dumps(row)
        assert row["entry_point"].startswith("f")
    assert len({row["completion"] for row in rows}) > 10
    assert "tokens" in said
    assert "Loading" not in said
    assert len(told(said)) == 1


def test_shards_limits_and_how_many_at_once_change_no_byte(rrk, model):
    rows, _ = sample(rrk, model, "-n", "3", "--max-tokens", "20", cold=True)
    parts = [
        sample(rrk, model, "-n", "3", "--max-tokens", "20", *more)[0] for more in (["--rows", "3"], ["--shard", "2/2"])
    ]
    assert parts[0] == rows
    assert parts[1] == [row for row in rows if row["task_id"] in ("t/1", "t/3")]


def test_fewer_samples_are_the_first_of_more(rrk, model):
    few, _ = sample(rrk, model, "-n", "2", "--max-tokens", "10")
    many, _ = sample(rrk, model, "-n", "5", "--max-tokens", "10")
    assert few == [row for row in many if row["completion_id"] < 2]


def test_greedy_and_stop(rrk, model):
    rows, _ = sample(
        rrk, model, "-n", "2", "--temperature", "0", "--max-tokens", "30", "--stop", "e", "--stop", "\\n\\n"
    )
    for one, two in zip(rows[::2], rows[1::2], strict=True):
        assert one["completion"] == two["completion"]
        assert "e" not in one["completion"]


def test_top_k_narrows_what_is_drawn_and_one_is_greedy(rrk, model):
    how = ["-n", "40", "--max-tokens", "1", "--temperature", "2"]
    wide, _ = sample(rrk, model, *how)
    narrow, _ = sample(rrk, model, *how, "--top-k", "3")
    for task in {row["task_id"] for row in wide}:
        drawn = [{row["completion"] for row in rows if row["task_id"] == task} for rows in (wide, narrow)]
        assert len(drawn[0]) > 5
        assert 1 < len(drawn[1]) <= 3
    assert {row["top_k"] for row in narrow} == {3}
    assert not any("top_k" in row for row in wide)
    greedy, one = (
        [row["completion"] for row in sample(rrk, model, "-n", "2", "--max-tokens", "20", *more)[0]]
        for more in (["--temperature", "0"], ["--temperature", "1.5", "--top-k", "1"])
    )
    assert one == greedy


def test_what_the_models_own_generation_config_asks_for_and_is_not_done_is_one_line(rrk, tmp_path):
    folder = make_model(tmp_path / "m")
    how = ["-n", "1", "--max-tokens", "20", "--temperature", "0"]
    plain, said = sample(rrk, folder, *how)
    assert "generation_config" not in said
    path = folder / "generation_config.json"
    own = {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "top_k": 20, "temperature": 0.6}
    path.write_text(json.dumps(json.loads(path.read_text()) | own))
    for more, named in (
        ([], "top_k 20, repetition_penalty 1.3, no_repeat_ngram_size 2"),
        (["--top-k", "20"], "repetition_penalty 1.3, no_repeat_ngram_size 2"),
    ):
        rows, said = sample(rrk, folder, *how, *more)
        (line,) = [line for line in told(said) if "generation_config" in line]
        assert f"asks for {named}: not used" in line
        assert [row | {"top_k": 20} for row in rows] == [row | {"top_k": 20} for row in plain], "a penalty would show"
    assert "generation_config" not in sample(rrk, folder, *how, "-q")[1]


def test_asserts_for_evidence(rrk, model):
    rows, _ = sample(rrk, model, "-n", "4", "--for", "tests", "--max-tokens", "10")
    assert len(rows) == 5
    for row in rows:
        assert len(row["samples"]) == 4
        name = row["entry_point"]
        assert row["prompt"].endswith(f"    pass\n\n# check the correctness of {name}\nassert ")
        assert "tests" not in row
        assert "completion" not in row


def test_a_server_is_an_engine_too(rrk, serve):  # noqa: F811
    server = serve(lambda number, body: choices(body))
    rows, _ = sample(rrk, "name", "-n", "2", "--engine", "openai", "--base-url", server.url, "-j", "2")
    assert [row["completion"] for row in rows[:2]] == ["    return 00", "    return 01"]
    assert rows[0]["logprob"] == -1.5


@pytest.mark.parametrize(
    ("more", "code", "text"),
    [
        (["-m", "nowhere/at/all"], 2, "nowhere/at/all: no such folder"),
        ([], 2, "give the model with -m"),
        (["-m", "MODEL", "--top-p", "0"], 2, "--top-p"),
        (["-m", "MODEL", "--for", "songs"], 2, "--for is"),
        (["-m", "MODEL", "--engine", "vllm"], 2, "vllm serve"),
        (["-m", "MODEL", "--engine", "openai"], 2, "--base-url"),
        (["-m", "MODEL", "--device", "warp"], 2, "no such device"),
        (["-m", "MODEL", "--dtype", "int4"], 2, "--dtype int4"),
    ],
)
def test_mistakes_are_one_line(rrk, model, more, code, text):
    done = rrk("sample", *[str(model) if word == "MODEL" else word for word in more], input=lines(PROBLEMS))
    assert done.returncode == code
    assert text in done.stderr.decode()
    assert len(done.stderr.decode().strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("row", "text"),
    [({"task_id": "a"}, "no field 'prompt'"), ({"task_id": "a", "prompt": "\ud800"}, "not valid text")],
)
def test_bad_rows_are_named(rrk, model, row, text):
    done = rrk("sample", "-m", str(model), input=lines([row]))
    assert done.returncode == 3
    assert text in done.stderr.decode()
    assert "<stdin>:1:" in done.stderr.decode()


def test_tests_need_a_python_function(rrk, model):
    done = rrk("sample", "-m", str(model), "--for", "tests", input=lines([{"task_id": "a", "prompt": "x = 1"}]))
    assert done.returncode == 3
    assert "--for tests needs" in done.stderr.decode()


def shown(value: str) -> dict:
    """A problem whose every completion is a comment, behind `return x` or `return x + 1`, with an example that wants x."""
    text = f'def f(x):\n    """\n    >>> f(1)\n    1\n    """\n    return {value}  #'
    return {
        "task_id": f"t/{value}",
        "prompt": text,
        "entry_point": "f",
        "stop_tokens": ["\n"],
        "tests": "assert secret",
    }


@pytest.mark.parametrize("way", ["--fast", "--exact"])
def test_until_examples_draws_no_more_once_one_has_passed(rrk, model, tmp_path, way):
    plain = {"task_id": "t/none", "prompt": "def g(x):\n    return x  #", "stop_tokens": ["\n"]}
    rows = [shown("x + 1"), shown("x"), plain, shown("x - 1"), shown("+x")]
    how = ["-n", "6", "--max-tokens", "8", "--seed", "3", way]
    whole, _ = sample(rrk, model, *how, rows=rows)
    out = tmp_path / "out.jsonl"
    sample(rrk, model, *how, "--until-examples", "-o", str(out), rows=rows)
    made = [json.loads(line) for line in out.read_text().splitlines()]
    counts = {row["task_id"]: 0 for row in rows}
    for row in made:
        counts[row["task_id"]] += 1
    assert counts == {"t/x + 1": 6, "t/x": 1, "t/none": 6, "t/x - 1": 6, "t/+x": 1}
    by_id = {(row["task_id"], row["completion_id"]): row for row in whole}
    for row in made:
        assert row.pop("evidence")["passed"] == {"t/x": "1", "t/+x": "1", "t/none": ""}.get(row["task_id"], "0")
        assert row.pop("until") == "examples"
        same = by_id[row["task_id"], row["completion_id"]]
        assert {**row, "logprob": 0, "prob": 0} == {**same, "logprob": 0, "prob": 0}
    spent = json.loads((tmp_path / ".out.jsonl.rrk").read_text())["cost"]
    assert spent["tokens_written"] == sum(row["tokens"] for row in made)
    prompts = {row["task_id"]: row["prompt_tokens"] for row in made}
    again = 0 if way == "--fast" else 3 * (prompts["t/x + 1"] + prompts["t/x - 1"])  # 1, 1, 2, 2: three more turns
    assert spent["tokens_read"] == sum(prompts.values()) + again
    assert "secret" not in out.read_text()


def test_until_examples_asks_a_server_for_the_next_programs(rrk, serve):  # noqa: F811
    """The third program is right: one is asked for, then one, then two; each time with another seed."""
    bodies = []

    def answer(number, body):
        before = sum(other["n"] for other in bodies)
        bodies.append(body)
        return choices(body, text=" right" if before + body["n"] > 2 else "\nnot Python")

    server = serve(answer)
    problem = {**shown("x"), "stop_tokens": []}
    how = ["-n", "8", "--engine", "openai", "--base-url", server.url, "--until-examples"]
    rows, _ = sample(rrk, "name", *how, rows=[problem])
    assert [body["n"] for body in bodies] == [1, 1, 2]
    assert len({body["seed"] for body in bodies}) == 3
    assert [row["completion_id"] for row in rows] == [0, 1, 2, 3]
    assert [row["evidence"]["passed"] for row in rows] == ["0", "0", "1", "1"]


def test_until_examples_says_what_it_cannot_do(rrk, model):
    for more, said in (
        (["--temperature", "0"], "the same program"),
        (["--for", "tests"], "no tests"),
    ):
        done = rrk("sample", "-m", str(model), "--until-examples", *more, input=lines([shown("x")]))
        assert done.returncode == 2
        assert said in done.stderr.decode()
    row = {**shown("x"), "language": "swift"}
    done = rrk("sample", "-m", str(model), "--until-examples", input=lines([row]))
    assert done.returncode == 3
    assert "[examples]" in done.stderr.decode()
    assert "<stdin>:1:" in done.stderr.decode()


def test_eval_says_that_programs_drawn_until_one_passed_tell_no_pass_at_k(rrk, model, tmp_path):
    out = tmp_path / "out.jsonl"
    sample(
        rrk,
        model,
        "-n",
        "2",
        "--max-tokens",
        "8",
        "--until-examples",
        "-o",
        str(out),
        rows=[shown("x"), shown("x - 1")],
    )
    rows = [json.loads(line) | {"passed": True} for line in out.read_text().splitlines()]
    for verb in ("eval", "compare"):
        done = rrk(verb, input=lines(rows))
        assert done.returncode == 0
        assert "is what a user gets" in done.stdout.decode() + done.stderr.decode()
