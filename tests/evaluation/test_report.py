"""Reports against brute force: every subset drawn, every tie broken both ways."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest

from rrk.errors import RowError, UsageError
from rrk.evaluation import against, estimators, ledger, report, statistics, tables


def rows_of(seed=0, problems=6, n=5, languages=("py",), scored=True):
    rng = random.Random(seed)
    return [
        {
            "task_id": f"HumanEval_{p}_f" if len(languages) > 1 else f"HumanEval/{p}",
            "language": language,
            "completion_id": c,
            "completion": "x" * rng.randint(1, 30),
            "passed": rng.random() < (p + 1) / (problems + 1),
            **({"score": rng.choice([0.0, 1.0, 2.5])} if scored else {}),
        }
        for language in languages
        for p in range(problems)
        for c in range(n)
    ]


def build(rows, **more):
    samples = report.Samples()
    for row in rows:
        samples.add(row)
    return report.build(samples, repeats=500, **more)


def best_of(rows, k):
    """Mean over k-subsets and over the order of ties."""
    found = []
    for subset in itertools.combinations(rows, k):
        top = max(row["score"] for row in subset)
        tied = [row["passed"] for row in subset if row["score"] == top]
        found.append(sum(tied) / len(tied))
    return sum(found) / len(found)


@pytest.mark.parametrize("seed", range(5))
def test_every_figure_equals_brute_force_over_subsets(seed):
    rows = rows_of(seed)
    built = build(rows, ks=[1, 3, 5, 6])
    groups = [[r for r in rows if r["task_id"] == f"HumanEval/{p}"] for p in range(6)]
    for k in (1, 3, 5):
        anything = [np.mean([any(r["passed"] for r in s) for s in itertools.combinations(g, k)]) for g in groups]
        assert built["pass@k"][str(k)]["mean"] == pytest.approx(np.mean(anything))
        assert built["best_of_k"][k - 1]["mean"] == pytest.approx(np.mean([best_of(g, k) for g in groups]))
    assert built["pass@k"]["6"] is None, "six of five candidates have no estimate"
    assert built["ranked_pass@1"]["mean"] == pytest.approx(np.mean([best_of(g, 5) for g in groups]))
    assert built["oracle"]["mean"] == np.mean([any(r["passed"] for r in g) for g in groups])
    low, high = built["random"]["mean"], built["oracle"]["mean"]
    assert built["gap_closed"]["mean"] == pytest.approx((built["ranked_pass@1"]["mean"] - low) / (high - low))
    assert built["random"]["low"] <= low <= built["random"]["high"]


def test_the_average_is_over_languages_not_over_problems():
    one = [{"task_id": f"HumanEval_{p}_f", "language": "cpp", "completion": "", "passed": True} for p in range(3)]
    other = [{"task_id": "HumanEval_0_f", "language": "java", "completion": "", "passed": False}]
    built = build(one + other)
    assert built["random"]["mean"] == 0.5
    assert {name: s["problems"] for name, s in built["languages"].items()} == {"cpp": 3, "java": 1}
    assert built["problems"] == 4


def test_a_problem_in_two_languages_is_one_observation():
    rows = rows_of(3, problems=8, languages=("cpp", "java"))
    for row in rows:  # the same verdicts in both languages: nothing is gained by the second
        twin = next(r for r in rows if (r["task_id"], r["completion_id"]) == (row["task_id"], row["completion_id"]))
        row["passed"] = twin["passed"]
    both, single = build(rows), build([r for r in rows if r["language"] == "cpp"])
    assert both["random"].pop("bca") == pytest.approx(single["random"].pop("bca"))
    assert both["random"] == pytest.approx(single["random"])


def test_rows_may_stand_anywhere():
    rows = rows_of(1)
    mixed = rows[::2] + rows[1::2]
    straight, shuffled = build(rows), build(mixed)
    for key in ("random", "oracle", "ranked_pass@1", "best_of_k", "pass@k", "gap_closed", "auc"):
        assert straight[key] == shuffled[key]


def test_unjudged_rows_are_counted_and_enter_no_figure():
    rows = rows_of(2)
    more = [{**rows[0], "completion_id": 99, "passed": None, "status": "SandboxError", "score": 100.0}]
    more += [{"task_id": "HumanEval/77", "completion": "", "passed": None, "status": "NoToolchain"}]
    plain, noisy = build(rows), build(more + rows)
    assert noisy["unjudged"] == 2
    assert noisy["unjudged_problems"] == 1
    for key in ("problems", "samples", "random", "ranked_pass@1", "oracle", "pass@k"):
        assert noisy[key] == plain[key]
    assert noisy["statuses"]["SandboxError"] == 1
    assert any("2 samples could not be judged" in said for said in tables.remarks(noisy))


def test_without_scores_only_the_samples_are_measured():
    built = build(rows_of(scored=False))
    assert built["pass@k"]["1"]["mean"] == built["random"]["mean"]
    assert "ranked_pass@1" not in built
    assert built["card"] == {}


def test_greedy_rows_beside_drawn_ones_are_reported_apart():
    rows = [{**row, "temperature": 1.0} for row in rows_of(scored=True)]
    greedy = [{"task_id": f"HumanEval/{p}", "completion": "", "passed": p < 2, "temperature": 0} for p in range(6)]
    with_greedy, without = build(greedy + rows), build(rows)
    assert with_greedy["greedy"]["mean"] == pytest.approx(2 / 6)
    assert with_greedy["random"] == without["random"]
    alone = build(greedy)
    assert alone["random"]["mean"] == pytest.approx(2 / 6)
    assert "greedy" not in alone


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"task_id": "a", "completion": ""}, "rrk execute"),
        ({"task_id": "a", "completion": "", "passed": "yes"}, "true or false"),
        ({"task_id": "a", "completion": "", "passed": True, "score": float("nan")}, "not a number"),
        ({"task_id": "a", "completion": "", "passed": True, "score": None}, "rrk rerank"),
    ],
)
def test_a_row_that_cannot_be_evaluated_says_what_to_do(row, said):
    with pytest.raises(RowError, match=said):
        report.Samples().add(row)


def test_scored_and_unscored_rows_do_not_mix():
    samples = report.Samples()
    samples.add({"task_id": "a", "completion": "", "passed": True, "score": 1})
    with pytest.raises(RowError, match="unlike the rows before"):
        samples.add({"task_id": "a", "completion": "", "passed": True})


def test_a_file_given_twice_is_noticed():
    rows = rows_of()
    assert build(rows + rows)["repeated"] == len(rows)
    assert build(rows)["repeated"] == 0


def overoptimised(problems=30):
    """The more to choose from, the worse: one failing candidate has the highest score, the rest is ranked well."""
    rows = []
    for p in range(problems):
        scores = [9.0, 3.0, 2.0, 1.0, 0.0]
        passed = [False, True, True, False, False]
        rows += [
            {"task_id": f"t{p}", "completion_id": i, "completion": "", "passed": v, "score": s}
            for i, (s, v) in enumerate(zip(scores, passed, strict=True))
        ]
    return rows


def test_a_falling_curve_is_named_and_only_then():
    built = build(overoptimised())
    assert built["falls"]["k"] == 2  # .4, .5, .4, .2, 0
    assert built["falls"]["peak"] == pytest.approx(0.5)
    assert built["falls"]["clear"]
    assert any("peaks at k=2 (.500) and falls to .000 at k=5" in said for said in tables.remarks(built))
    good = [{**row, "score": float(row["passed"])} for row in overoptimised()]
    assert build(good)["falls"] is None


def test_a_problem_with_fewer_candidates_takes_large_k_away():
    rows = rows_of(n=8)
    built = build([r for r in rows if r["task_id"] != "HumanEval/0" or r["completion_id"] < 3])
    assert built["n"] == [3, 8]
    assert list(built["pass@k"]) == ["1", "2", "3"]
    assert len(built["best_of_k"]) == 3
    assert any("3 to 8 judged" in said for said in tables.remarks(built))


def test_nothing_judged_gives_an_empty_report():
    built = build([{"task_id": "a", "completion": "", "passed": None}])
    assert built["problems"] == 0
    assert built["unjudged"] == 1
    assert build([])["samples"] == 0


def test_costs_are_summed_where_rows_say_them():
    rows = [{**row, "time": 0.5, "tokens": 10} for row in rows_of()]
    rows[0].pop("tokens")
    cost = build(rows)["cost"]
    told = {"cpu_seconds": 15.0, "cpu_seconds_rows": 30, "tokens": 290, "tokens_rows": 29}
    assert {name: cost.get(name) for name in (*told, "wall_seconds")} == {**told, "wall_seconds": None}


def test_comparison_is_paired_and_over_common_problems():
    rows = rows_of(5, problems=20)
    better = [{**row, "score": row["score"] + 2.0 * row["passed"]} for row in rows if row["task_id"] != "HumanEval/3"]
    found = against.compare(build(better), build(rows), repeats=2000)
    assert (found["common"], found["only_ours"], found["only_theirs"]) == (19, 0, 1)
    assert found["pass@1"]["difference"] == 0
    common = {f"HumanEval/{p}" for p in range(20)} - {"HumanEval/3"}
    a = np.mean([t["ranked_pass@1"] for t in build(rows)["tasks"] if t["task_id"] in common])
    b = np.mean([t["ranked_pass@1"] for t in build(better)["tasks"]])
    assert found["ranked_pass@1"]["difference"] == pytest.approx(b - a)
    assert against.verdict(found) == ("ranked_pass@1", "better")
    assert against.verdict(against.compare(build(rows), build(better)))[1] == "worse"
    assert against.verdict(against.compare(build(rows), build(rows)))[1] == "no clear difference"


def test_nothing_in_common_cannot_be_compared():
    with pytest.raises(UsageError, match="no problem in common"):
        against.compare(build(rows_of()), build([{**r, "task_id": "z"} for r in rows_of()]))


def test_several_values_are_resampled_as_each_alone():
    rng = np.random.default_rng(0)
    values = rng.random((3, 40))
    strata, clusters = [i % 2 for i in range(40)], [i // 3 for i in range(40)]
    found = statistics.resample(values, strata, clusters, repeats=300, seed=4)
    for i, value in enumerate(values):
        table = statistics.Table.build(value, strata, clusters)
        assert found.means[i] == pytest.approx(table.mean())
        assert found.draws[:, i] == pytest.approx(table.resampled(300, 4))
        assert found.interval(i) == pytest.approx(table.interval(0.95, 300, 4))


def test_a_resample_without_a_rare_stratum_is_averaged_over_the_others():
    values = np.array([1.0, 1.0, 1.0, 0.0])
    found = statistics.resample([values], ["a", "a", "a", "b"], None, repeats=200, seed=0)
    table = statistics.Table.build(values, ["a", "a", "a", "b"])
    assert found.draws[:, 0] == pytest.approx(table.resampled(200, 0))
    assert {0.5, 1.0} <= set(found.draws[:, 0]) <= {0.0, 0.5, 1.0}


def test_many_candidates_give_a_curve_of_points_with_every_k_asked_for():
    built = build(rows_of(problems=3, n=90), ks=[1, 50, 89, 91])
    points = [point["k"] for point in built["best_of_k"]]
    assert {1, 50, 89, 90} <= set(points)
    assert len(points) < 70
    assert max(points) == 90
    assert built["pass@k"]["91"] is None
    rows = rows_of(problems=3, n=90)
    expected = [
        [estimators.best_of_k([r["score"] for r in g], [r["passed"] for r in g], k) for k in points]
        for g in ([r for r in rows if r["task_id"] == f"HumanEval/{p}"] for p in range(3))
    ]
    assert [point["mean"] for point in built["best_of_k"]] == pytest.approx(np.mean(expected, axis=0))


def test_each_round_is_compared_with_the_one_before():
    rows = rows_of(4, problems=12)
    worse = [{**row, "score": row["score"] - 2.0 * row["passed"]} for row in rows]
    entries = [
        ("0", build(rows)),
        ("1", build(worse)),
        ("2", build(rows)),
        ("3", build([{**r, "task_id": "z"} for r in rows])),
    ]
    first, second, third, fourth = ledger.steps(entries, repeats=200)
    assert first is None
    assert second["ranked_pass@1"]["difference"] < 0
    assert third["ranked_pass@1"]["difference"] == -second["ranked_pass@1"]["difference"]
    assert fourth is None, "no problem in common"


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(1)
    hits = 0
    for seed in range(200):
        chance = rng.beta(1, 2, size=60)
        values = rng.binomial(8, chance) / 8
        low, high = statistics.resample([values], repeats=400, seed=seed).interval(0)
        hits += low <= 1 / 3 <= high
    assert 0.89 <= hits / 200 <= 0.985


def test_names_of_rounds_tell_them_apart(tmp_path):
    assert ledger.named(["runs/0/report.json", "runs/1/report.json"]) == [
        ("0", "runs/0/report.json"),
        ("1", "runs/1/report.json"),
    ]
    assert ledger.named(["a.json", "PPO=runs/1/b.json"]) == [("a", "a.json"), ("PPO", "runs/1/b.json")]


@pytest.mark.parametrize("text", ["0", "1,,2", "a", "-1", "1.5"])
def test_bad_k(text):
    with pytest.raises(UsageError, match="--k"):
        report.parse_ks(text)


def test_real_candidates_give_the_known_rates(shared):
    from rrk import jsonl

    samples = report.Samples()
    for row in jsonl.read([str(shared / "data/candidates/codet_humaneval_codegen16b.jsonl.gz")]):
        samples.add(row)
    built = report.build(samples, repeats=500)
    assert built["random"]["mean"] == pytest.approx(0.221, abs=5e-4)
    assert built["oracle"]["mean"] == pytest.approx(0.738, abs=5e-4)
    assert built["pass@k"]["100"]["mean"] == built["oracle"]["mean"]


def test_a_score_that_is_wrong_from_the_start_is_not_called_over_optimised():
    rows = [{**row, "score": -float(row["passed"])} for row in overoptimised()]
    built = build(rows)
    assert built["falls"]["k"] == 1
    said = " ".join(tables.remarks(built))
    assert "prefers wrong programs" in said
    assert "over-optimised" not in said
    assert "worse than a random pick" in said
