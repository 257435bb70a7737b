"""What an answer cost: by hand where it is known, marked where it is guessed."""

from __future__ import annotations

import pytest

from rrk import costs
from rrk.errors import UsageError
from rrk.evaluation import cost, report, tables
from rrk.lineage import Lineage


def rows_of(size=1e9, problems=4, n=3, tokens=100, scored=True, right=2):
    return [
        {
            "task_id": f"HumanEval/{p}",
            "completion_id": c,
            "completion": "x" * 34,
            "prompt": "y" * 68,
            "passed": (p + c) % 4 < right,
            "model": "m",
            "tokens": tokens,
            "prompt_tokens": 50,
            "parameters": size,
            **({"score": float(c)} if scored else {}),
        }
        for p in range(problems)
        for c in range(n)
    ]


def build(rows, lineage=None):
    samples = report.Samples()
    for row in rows:
        samples.add(row)
    return report.build(samples, repeats=200, lineage=lineage)


def test_an_answer_costs_all_its_candidates_and_the_prompt_once():
    found = build(rows_of())["cost"]
    assert found["answer_is"] == "best of n"
    assert found["answer"]["tokens"]["mean"] == 50 + 3 * 100
    assert found["answer"]["flops"]["mean"] == 2e9 * 350
    assert found["estimated"] == []
    assert found["unknown"] == ["the ranking"], "nothing says what made the scores"


def test_without_scores_an_answer_is_one_sample():
    found = build(rows_of(scored=False))["cost"]
    assert found["answer_is"] == "one sample"
    assert found["answer"]["flops"]["mean"] == pytest.approx(2e9 * 150)
    assert found["unknown"] == []


def test_what_is_guessed_is_marked():
    rows = [{k: v for k, v in row.items() if k not in ("tokens", "prompt_tokens", "parameters")} for row in rows_of()]
    named = build([{**row, "model": "some/coder-33b-instruct"} for row in rows])
    assert named["cost"]["estimated"] == ["size", "tokens"]
    assert named["cost"]["answer"]["flops"]["mean"] == pytest.approx(2 * 33e9 * (20 + 3 * 10))
    assert "estimated" in cost.remarks(named)[0]
    assert " ~" in tables.quality_and_cost([("a", named)])[2][0][0]
    nameless = build(rows)
    assert "flops" not in nameless["cost"]["answer"], "no size: no FLOPs"
    with pytest.raises(UsageError, match="not known of b"):
        cost.axis([("a", named), ("b", nameless)], "flops")
    assert cost.axis([("a", named), ("b", nameless)]) == "tokens"


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("google/gemma-2-9b-it", 9e9),
        ("codegen-16B", 16e9),
        ("Qwen2.5-Coder-0.5B-Instruct-Q4_K_M", 0.5e9),
        ("Qwen3-Coder-30B-A3B-Instruct", 3e9),
        ("smol-135m", 135e6),
        ("gpt-4", None),
        ("runs/sft", None),
    ],
)
def test_sizes_by_name(name, size):
    assert cost.size_by_name(name) == size


def stage(name, items=4, params=None, **spent):
    return {"stage": name, "params": params or {}, "cost": {"items": items, **spent}, "items": items, "file": name}


def test_records_count_what_the_rows_no_longer_show():
    """--top 1 leaves one candidate of many: all were paid for."""
    made = [
        stage("rerank", parameters=1e6, tokens_read=4_000, cpu_seconds=8.0, wall_seconds=4.0),
        stage("execute", cpu_seconds=1000.0, wall_seconds=1000.0, params={"evidence": []}),
        stage("sample", parameters=1e9, tokens_read=200, tokens_written=40_000, cpu_seconds=80.0, wall_seconds=40.0),
    ]
    kept = [row for row in rows_of() if row["completion_id"] == 2]
    found = build(kept, Lineage(made))["cost"]
    assert found["answer"]["tokens"]["mean"] == pytest.approx(40_200 / 4)
    assert found["answer"]["flops"]["mean"] == pytest.approx((2e9 * 40_200 + 2e6 * 4_000) / 4)
    assert found["answer"]["cpu_seconds"]["mean"] == pytest.approx(88 / 4), "the hidden tests are no part of an answer"
    assert found["unknown"] == []
    for shown in ({"evidence": ["digest"]}, {"evidence": [], "examples": True}, {"public_cases": True}):
        made[1]["params"] = shown
        assert build(kept, Lineage(made))["cost"]["answer"]["cpu_seconds"]["mean"] == pytest.approx(1088 / 4)
    made[0]["cost"]["items"] = 3
    assert "killed" in build(kept, Lineage(made))["cost"]["unknown"][0]


def test_two_systems_are_compared_on_both_axes():
    small, large = build(rows_of(1e9, right=3)), build(rows_of(3e9, right=1))
    found = cost.against(small, large, "flops", repeats=200, seed=0)
    assert found["cost"]["ratio"] == pytest.approx(1 / 3)
    assert found["cost"]["low"] == pytest.approx(1 / 3), "every problem costs a third: no doubt about it"
    assert found["quality"]["difference"] == pytest.approx(
        small["ranked_pass@1"]["mean"] - large["ranked_pass@1"]["mean"]
    )
    said = tables.quality_against_cost("small", "large", found)
    assert said.startswith("small")
    assert "times its FLOPs an answer" in said


def test_training_costs_three_times_a_reading():
    assert costs.flops({"parameters": 10, "tokens_trained": 7}) == 6 * 10 * 7
    assert costs.flops({"parameters": 10, "tokens_read": 2, "tokens_written": 5}) == 2 * 10 * 7
    assert costs.flops({"parameters": 10}) is None
    assert costs.flops({"tokens_read": 10}) is None
    record = {"cost": {"parameters": 10, "tokens_trained": 7}}
    assert cost.training({"runs/a": record, "runs/b": record})["flops"] == 840
    assert cost.training({"runs/a": record, "runs/b": {}})["flops"] is None, "a part of it is not all of it"


def test_costs_of_two_runs_add_up():
    one = {"wall_seconds": 1.5, "peak_memory": 10, "parameters": 5, "device": "cpu", "items": 2}
    other = {
        "wall_seconds": 2.0,
        "peak_memory": 7,
        "parameters": 5,
        "device": "NVIDIA H100",
        "items": 3,
        "tokens_read": 1,
    }
    both = costs.add(one, other)
    assert both == {
        "wall_seconds": 3.5,
        "peak_memory": 10,
        "parameters": 5,
        "device": "cpu, NVIDIA H100",
        "items": 5,
        "tokens_read": 1,
    }
    assert costs.add(both, one)["device"] == "cpu, NVIDIA H100"


def test_the_best_of_fewer_costs_the_prompt_and_its_share_of_programs_and_ranking():
    """34 characters a program and 68 of the prompt, n = 4: the ranking of k reads (68 + 34 k) of 204 characters."""
    made = [
        stage("rerank", parameters=1e6, tokens_read=4_080, cpu_seconds=8.0),
        stage("sample", parameters=1e9, tokens_read=200, tokens_written=40_000, cpu_seconds=80.0, wall_seconds=40.0),
    ]
    found = build(rows_of(n=4), Lineage(made))
    curve = {point["k"]: point for point in found["cost"]["best_of_k"]}
    assert sorted(curve) == [1, 2]
    assert [curve[k]["tokens"]["mean"] for k in (1, 2)] == pytest.approx([2_550, 5_050])
    assert curve[1]["flops"]["mean"] == pytest.approx(2e9 * 2_550), "one candidate is not ranked"
    assert curve[2]["flops"]["mean"] == pytest.approx(2e9 * 5_050 + 2e6 * 1_020 * (68 + 34 * 2) / 204)
    assert curve[2]["cpu_seconds"]["mean"] == pytest.approx(80 / 4 / 2 + 2 * (68 + 34 * 2) / 204)
    made[0]["params"] = {"top": 4}
    assert build(rows_of(n=4), Lineage(made))["cost"]["best_of_k"] == [], "the best four of more are no four draws"
    lines = tables.quality_and_cost([("a", found)])[2]
    assert [line[3] for line in lines] == ["one sample", "best of 2", "best of n"]
    assert lines[0][4].startswith(tables.number(found["random"]["mean"]))


def test_the_dearer_of_two_is_compared_at_the_others_cost_too():
    """Four of 1e9 cost 2e9 x 450, two 2e9 x 250; one of 1.4e9 costs 2.8e9 x 150 = 2e9 x 210, one sample of ours 2e9 x 150."""
    small, large = build(rows_of(1e9, n=4)), build(rows_of(1.4e9, n=4, scored=False))
    assert cost.at_its_cost(small, large, "flops") == (1, None)
    assert cost.at_its_cost(large, small, "flops") == (None, 1)
    assert cost.at_its_cost(small, build(rows_of(2e9, n=4, scored=False)), "flops") == (2, None)
    assert cost.at_its_cost(small, build(rows_of(0.1e9, n=4, scored=False)), "flops") is None
    assert cost.at_its_cost(small, small, "flops") is None
    found = cost.against(small, large, "flops", repeats=200, seed=0, ks=(2, None))
    assert found["cost"]["ratio"] == pytest.approx(250 / 210)
    point = next(point for point in small["best_of_k"] if point["k"] == 2)
    assert found["quality"]["ours"] == pytest.approx(point["mean"])
    assert tables.quality_against_cost("small", "large", found).startswith("small's best of 2 ")


def test_a_system_without_scores_is_one_point():
    found = build(rows_of(scored=False))
    assert found["cost"]["best_of_k"] == []
    assert len(tables.quality_and_cost([("a", found)])[2]) == 1


def test_the_picture_names_the_candidates_of_each_point(tmp_path):
    pytest.importorskip("matplotlib")
    from rrk.evaluation import plots

    path = tmp_path / "cost.svg"
    entries = [("small", build(rows_of(n=4))), ("large", build(rows_of(4e9, scored=False)))]
    plots.quality_and_cost(entries, "flops", str(path))
    text = path.read_text()
    assert [text.count(f">{k}</text>") for k in (1, 2, 4)] == [1, 1, 1]
    assert "small" in text
    assert "large" in text
