"""`rrk compare`: every method that the rows allow, each with its right figure, and the advice that follows."""

from __future__ import annotations

import json

import pytest

from rrk import jsonl
from rrk.evaluation import compare as comparing
from rrk.reranking import choices


def rows(problems: int = 20, **more) -> list[dict]:
    """Of five programs two are alike and right; `score` finds the right ones, `logprob` the wrong ones."""
    out = []
    for p in range(problems):
        for c in range(5):
            right = c in (3, 4)
            row = {"task_id": f"t/{p}", "prompt": "def f(x):\n", "completion_id": c, "passed": right}
            row["completion"] = "    return x + 1\n" if right else f"    return x * {c}\n"
            row |= {"logprob": -float(c + 1), "tokens": 5, "score": float(c), **more}
            out.append(row)
    return out


def compare(rrk, tmp_path, given: list[dict], *args: str):
    jsonl.write(tmp_path / "rows.jsonl", given)
    done = rrk("compare", "rows.jsonl", *args)
    assert done.returncode == 0, done.stderr.decode()
    return done


def test_every_method_that_the_fields_allow_is_there_with_its_figure(rrk, tmp_path):
    found = json.loads(compare(rrk, tmp_path, rows(), "--json").stdout)["methods"]
    expected = {"random": 0.4, "first": 0.0, "majority": 1.0, "logprob-sum": 0.0, "reward (score)": 1.0, "oracle": 1.0}
    assert {name: found[name]["mean"] for name in expected} == pytest.approx(expected)
    assert {"ngram", "logprob-mean"} <= found.keys()
    assert not {"codet", "b4", "mbr-exec"} & found.keys(), "there is no evidence"
    assert found["random"]["against"]["p"] < 0.05


def test_evidence_brings_the_methods_by_execution_and_ties_their_second_order(rrk, tmp_path):
    given = [row | {"evidence": {"passed": "1" if row["passed"] else "0", "outputs": [1]}} for row in rows()]
    found = json.loads(compare(rrk, tmp_path, given, "--json").stdout)["methods"]
    assert {"codet", "b4", "mbr-exec", "b4 --ties ngram"} <= found.keys()
    assert found["codet"]["mean"] == 1.0


def test_the_table_says_which_to_use_and_what_was_left_out_and_rows_may_be_mixed(rrk, tmp_path):
    done = compare(rrk, tmp_path, rows()[::2] + rows()[1::2])
    assert "20 problems, 100 judged candidates" in done.stdout.decode()
    assert done.stdout.decode().splitlines()[-1].startswith("use ")
    assert "left out: " in done.stderr.decode()
    assert "no field 'evidence'" in done.stderr.decode()


def test_rows_without_verdicts_are_bad_rows_and_unjudged_ones_count_nowhere(rrk, tmp_path):
    jsonl.write(tmp_path / "raw.jsonl", [{k: v for k, v in row.items() if k != "passed"} for row in rows()])
    done = rrk("compare", "raw.jsonl")
    assert done.returncode == 3
    assert "raw.jsonl:1: no field 'passed'" in done.stderr.decode()
    mixed = [row | ({"passed": None} if row["completion_id"] == 0 else {}) for row in rows()]
    assert "80 judged candidates" in compare(rrk, tmp_path, mixed).stdout.decode()


def test_a_plot_is_drawn(rrk, tmp_path):
    pytest.importorskip("matplotlib")
    compare(rrk, tmp_path, rows(), "--plot", "out.svg")
    drawn = (tmp_path / "out.svg").read_text()
    assert "rows.jsonl: 20 problems, 100 candidates" in drawn
    assert "reward (score)" in drawn


def test_where_nothing_beats_chance_the_advice_says_so():
    values = {"random": [0.5] * 10, "ngram": [0.0, 1.0] * 5, "oracle": [1.0] * 10}
    found = comparing.compare(values, ["py"] * 10, [str(i) for i in range(10)], repeats=200, seed=0)
    assert comparing.advice(found).startswith("no method is clearly better than chance here; use ngram")


def test_equal_scores_share_the_choice():
    problems = choices.judged([rows(1)])
    assert choices.values(problems, None, 0)["majority"] == [1.0]
    same = [[row | {"score": 0.0} for row in problems[0]]]
    assert choices.values(same, None, 0)["reward (score)"] == [0.4]


def test_a_named_file_is_one_more_line_by_its_own_scores_or_by_one_sample(rrk, tmp_path):
    right = [row | {"score": -row["score"]} for row in rows()]
    jsonl.write(tmp_path / "wrong-way.jsonl", right)
    large = [{k: v for k, v in row.items() if k != "score"} | {"model": "large", "passed": True} for row in rows()]
    jsonl.write(tmp_path / "large.jsonl", large[:75])  # 15 of the 20 problems
    done = compare(rrk, tmp_path, rows(), "wrong way=wrong-way.jsonl", "1.5B=large.jsonl", "--json")
    found = json.loads(done.stdout)
    assert found["problems"] == 15
    assert "5 of 20 problems are left out" in done.stderr.decode()
    assert {name: found["methods"][name]["mean"] for name in ("wrong way", "1.5B", "reward (score)", "random")} == {
        "wrong way": 0.0, "1.5B": 1.0, "reward (score)": 1.0, "random": pytest.approx(0.4),
    }  # fmt: skip
    assert found["methods"]["wrong way"]["against"]["p"] < 0.05


def test_a_ranking_of_the_undecided_problems_alone_tells_of_all(rrk, tmp_path):
    """What it lacks, any choice decides alike; but not where other programs stand in it."""
    given = [row | {"passed": {"t/0": True, "t/1": False}.get(row["task_id"], row["passed"])} for row in rows()]
    jsonl.write(tmp_path / "rows.jsonl", given)
    done = rrk("rerank", "rows.jsonl", "--method", "logprob-mean", "--undecided", "-o", "undecided.jsonl")
    assert done.returncode == 0, done.stderr.decode()
    found = json.loads(rrk("compare", "rows.jsonl", "mean=undecided.jsonl", "--json").stdout)
    assert found["problems"] == 20
    assert found["methods"]["mean"]["mean"] == found["methods"]["logprob-mean"]["mean"]
    others = [row | {"completion": "pass"} for row in jsonl.read([str(tmp_path / "undecided.jsonl")])]
    jsonl.write(tmp_path / "others.jsonl", others)
    assert json.loads(rrk("compare", "rows.jsonl", "mean=others.jsonl", "--json").stdout)["problems"] == 18
    (tmp_path / "none.jsonl").touch()
    found = json.loads(rrk("compare", "rows.jsonl", "none=none.jsonl", "--limit", "2", "--json").stdout)
    assert found["methods"]["none"]["mean"] == 0.5, "of two problems, one solved by all, there is nothing to rank"


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["a=rows.jsonl"], "without a name"),
        (["rows.jsonl", "a=rows.jsonl", "a=rows.jsonl"], "the same name"),
        (["rows.jsonl", "ngram=rows.jsonl"], "a method is called so"),
        (["rows.jsonl", "a=other.jsonl"], "no problem of rows.jsonl"),
    ],
)
def test_named_files_that_make_no_line_are_refused(rrk, tmp_path, args, said):
    jsonl.write(tmp_path / "rows.jsonl", rows(2))
    jsonl.write(tmp_path / "other.jsonl", [row | {"task_id": "else/1"} for row in rows(1)])
    done = rrk("compare", *args)
    assert (done.returncode, said in done.stderr.decode()) == (2, True), done.stderr.decode()


def test_languages_have_a_column_each_and_the_figure_is_their_mean(rrk, tmp_path):
    other = [row | {"language": "cpp", "passed": row["completion_id"] == 4} for row in rows(10)]
    given = [row | {"language": "py"} for row in rows(20)] + other
    found = json.loads(compare(rrk, tmp_path, given, "--json").stdout)["methods"]["random"]
    assert found["languages"] == {"py": pytest.approx(0.4), "cpp": pytest.approx(0.2)}
    assert found["mean"] == pytest.approx(0.3)
    lines = compare(rrk, tmp_path, given).stdout.decode().splitlines()
    assert lines[1].split()[:3] == ["method", "py", "cpp"]
    assert next(line.split()[1:3] for line in lines if line.startswith("random")) == [".400", ".200"]
    assert "py" not in compare(rrk, tmp_path, rows()).stdout.decode().splitlines()[1].split()
