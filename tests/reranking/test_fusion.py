"""Fusion learns from whatever evidence there is, never scores a problem by a member that saw it, and loads no code."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from rrk.errors import RrkError
from rrk.reranking import fusion


def world(count: int = 60, n: int = 8, seed: int = 0, with_evidence: bool = True) -> list[list[dict]]:
    """Problems in which right candidates tend to pass the generated tests and to have a higher score."""
    draw = random.Random(seed)
    problems = []
    for p in range(count):
        rows = []
        for c in range(n):
            right = draw.random() < 0.4
            row = {
                "task_id": f"w/{p}",
                "language": "py",
                "prompt": "def f(x):\n",
                "completion": f"    return x + {draw.randrange(5) if not right else 7}\n",
                "completion_id": c,
                "passed": right,
                "score": draw.gauss(1.0 if right else 0.0, 1.0),
            }
            if with_evidence:
                row["evidence"] = {
                    "passed": "".join("1" if draw.random() < (0.9 if right else 0.4) else "0" for _ in range(6))
                }
            rows.append(row)
        problems.append(rows)
    return problems


def auc(model: fusion.Fusion, problems: list[list[dict]]) -> float:
    wins = []
    for rows in problems:
        scores = model.score(rows)
        wins += [
            float(a > b) + 0.5 * (a == b)
            for a, x in zip(scores, rows, strict=True)
            for b, y in zip(scores, rows, strict=True)
            if x["passed"] and not y["passed"]
        ]
    return float(np.mean(wins))


@pytest.fixture(scope="module")
def model() -> fusion.Fusion:
    return fusion.fit(world())


def test_it_ranks_unseen_problems_better_than_any_single_evidence_does(model):
    assert model.tells_apart
    fresh = [[{**row, "task_id": "new" + row["task_id"]} for row in rows] for rows in world(seed=1)]
    single = np.mean(
        [
            float(x["score"] > y["score"])
            for rows in fresh
            for x in rows
            for y in rows
            if x["passed"] and not y["passed"]
        ]
    )
    assert auc(model, fresh) > single + 0.05


def test_examples_of_the_prompt_are_told_from_generated_tests_and_decide():
    """Right candidates pass all of the first two tests, wrong ones all but one; the other tests are noise."""
    problems = world(60, seed=5)
    draw = random.Random(6)
    for rows in problems:
        for row in rows:
            shown = "11" if row["passed"] else draw.choice(["01", "10"])
            row["evidence"] = {"passed": shown + "".join(draw.choice("01") for _ in range(8)), "shown": 2}
    told = auc(fusion.fit(problems), problems)
    for rows in problems:
        for row in rows:
            del row["evidence"]["shown"]
    assert told > 0.97
    assert told > auc(fusion.fit(problems), problems) + 0.02


def test_rows_without_generated_tests_are_scored_by_what_they_have(model):
    fresh = [
        [{**row, "task_id": "new" + row["task_id"]} for row in rows] for rows in world(seed=2, with_evidence=False)
    ]
    assert auc(model, fresh) > 0.6


def test_a_training_problem_is_scored_by_the_member_that_did_not_see_it(monkeypatch):
    """Labels that nothing predicts: a member that had seen them would look better than chance."""
    draw = random.Random(3)
    noise = [
        [{**row, "passed": draw.random() < 0.5, "score": draw.random()} for row in rows] for rows in world(80, seed=4)
    ]
    for rows in noise:
        for row in rows:
            row["evidence"] = {"passed": "".join(draw.choice("01") for _ in range(6))}
            row["completion"] = f"    return {draw.random()}\n"
    monkeypatch.setattr(fusion, "RIDGE", 1e-3)  # so that members remember what they can
    model = fusion.fit(noise)
    assert abs(auc(model, noise) - 0.5) < 0.06
    memorised = fusion.Fusion(model.names, model.members, model.seed, [])  # forgets which problems it knew
    assert auc(memorised, noise) > auc(model, noise) + 0.05, "the test would not notice a leak"


def test_where_no_problem_has_both_all_candidates_of_one_are_alike(tmp_path):
    """A small run of a loop: its eight problems pass whole or fail whole. NaN went into the file, and could not be read."""
    problems = world(count=8)
    for p, own in enumerate(problems):
        for row in own:
            row["passed"] = p % 2 == 0
    fitted = fusion.fit(problems, folds=2)
    assert not fitted.tells_apart
    fitted.save(tmp_path / "fusion.json")
    scores = fusion.Fusion.load(tmp_path / "fusion.json").score(world(count=1, seed=3)[0])
    assert np.isfinite(scores).all()
    assert np.ptp(scores) < 1e-9


def test_a_saved_model_gives_the_same_scores(model, tmp_path):
    model.save(tmp_path / "fusion.json")
    again = fusion.Fusion.load(tmp_path / "fusion.json")
    rows = world(1, seed=5)[0]
    assert again.score(rows) == pytest.approx(model.score(rows), abs=1e-12)
    assert all(0 < value < 1 for value in again.score(rows))


def test_features_do_not_depend_on_the_order_of_candidates_and_do_not_read_the_verdict():
    rows = world(1)[0]
    table = fusion.features(rows)
    blind = fusion.features(
        [{k: v for k, v in row.items() if k not in ("passed", "status", "completion_id")} for row in rows]
    )
    turned = fusion.features(rows[::-1])
    for name, column in table.items():
        assert np.array_equal(column, blind[name], equal_nan=True)
        assert np.allclose(column, turned[name][::-1], equal_nan=True), name
    assert all(len(column) == len(rows) for column in table.values())
    assert math.isnan(table["logprob"][0]), "evidence that is not there is a missing value"


def test_few_problems_do_not_talk_it_out_of_the_best_evidence():
    """Twenty problems, one telling score among all that says nothing: it chooses as that score does."""
    told = fusion.fit(world(20, with_evidence=False))
    fresh = [
        [{**row, "task_id": "new" + row["task_id"]} for row in rows] for rows in world(200, seed=6, with_evidence=False)
    ]
    choice = {
        name: np.mean(
            [
                max(rows, key=lambda row, own=own: own[id(row)])["passed"]
                for rows, own in zip(fresh, scores, strict=True)
            ]
        )
        for name, scores in {
            "fused": [dict(zip(map(id, rows), told.score(rows), strict=True)) for rows in fresh],
            "score": [{id(row): row["score"] for row in rows} for rows in fresh],
        }.items()
    }
    assert choice["fused"] > choice["score"] - 0.03


def test_the_line_is_the_minimum_of_what_it_minimises():
    draw = np.random.default_rng(0)
    x, weight, ridge = draw.normal(size=(200, 4)) * [1, 10, 0.1, 1], draw.random(200), np.array([0.0, 1.0, 5.0, 0.5])
    target = (draw.random(200) < 0.5).astype(float)
    w = fusion._logistic(x, target, weight, ridge)
    scale = np.sqrt((x**2 * weight[:, None]).sum(0) / weight.sum())
    gradient = (x / scale).T @ (weight * (fusion._sigmoid(x @ w) - target)) + ridge * w * scale
    assert np.abs(gradient).max() < 1e-4
    apart = fusion._logistic(np.array([[1.0], [2.0]]), np.ones(2), np.ones(2), np.array([0.1]))
    assert 0 < apart[0] < 10, "what tells all apart has a finite weight"


def test_what_is_no_fusion_model_is_refused(tmp_path):
    (tmp_path / "x.json").write_text('{"a": 1}\n')
    with pytest.raises(RrkError, match="not a fusion model"):
        fusion.Fusion.load(tmp_path / "x.json")
    with pytest.raises(RrkError, match="too few"):
        fusion.fit(world(3))
