"""`rrk rerank` as a user meets it: every method, what it needs, ties, top, confidence."""

from __future__ import annotations

import itertools
import json
from collections import Counter

import pytest
import torch

from rrk.reranking import record
from rrk.reranking.methods import METHODS
from rrk.reranking.ranking import rank
from rrk.reranking.render import Rendering
from rrk.reranking.scorer import Scorer
from tests.reranking import models


@pytest.fixture(scope="module")
def reranker(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reranker")
    scorer = Scorer(models.network("llama"), models.tokenizer(), Rendering())
    scorer.model.save_pretrained(folder)
    scorer.tokenizer.save_pretrained(folder)
    record.write(folder, record.Record(Rendering(), scorer.golden(), (0.0, 1.0)))
    return folder


def rows(problems: int = 3, each: int = 4) -> list[dict]:
    return [
        {
            "task_id": f"t/{p}",
            "language": "py",
            "prompt": f"def f{p}(x):\n",
            "completion_id": c,
            "completion": f"    return x + {min(c, 2)}\n",
            "logprob": -1.0 - c,
            "prob": (0.1, 2.9, 3.0, 2.0)[c],
            "tokens": 2 * c + 1,
            "evidence": {"passed": "110" if c > 1 else "100", "outputs": ["a", str(min(c, 2))], "shown": 2},
            "passed": c == 1,
            "score": (0.5, 0.1, 0.9, 0.2)[c],
        }
        for p in range(problems)
        for c in range(each)
    ]


def encode(given: list[dict]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in given)


def ranked(done) -> list[dict]:
    assert done.returncode == 0, done.stderr.decode()
    return [json.loads(line) for line in done.stdout.splitlines()]


EXPECTED = {  # the completion_ids that may stand first
    "logprob-sum": {0},
    "logprob-mean": {3},
    "prob-mean": {1},
    "majority": {2, 3},
    "ngram": {2, 3},
    "examples": {2, 3},
    "mbr-exec": {2, 3},
    "codet": {2, 3},
    "b4": {2, 3},
    "score": {2},
    "first": {0},
    "oracle": {1},
    "random": {0, 1, 2, 3},
}


@pytest.mark.parametrize("method", EXPECTED)
def test_each_method_puts_the_right_candidate_first(rrk, method):
    out = ranked(rrk("rerank", "--method", method, input=encode(rows())))
    for p in range(3):
        own = [row for row in out if row["task_id"] == f"t/{p}"]
        assert sorted(row["rank"] for row in own) == [1, 2, 3, 4]
        assert next(row["completion_id"] for row in own if row["rank"] == 1) in EXPECTED[method]
        by_rank = sorted(own, key=lambda row: row["rank"])
        assert all(a["score"] >= b["score"] for a, b in itertools.pairwise(by_rank))


def test_every_method_is_tested_and_in_the_help(rrk):
    assert set(EXPECTED) | {"reward", "likelihood", "reviewer", "judge", "fused"} == set(METHODS)
    text = rrk("rerank", "--help").stdout.decode()
    assert all(f"\n    {name} " in text or f"\n  {name} " in text for name in METHODS)


@pytest.mark.parametrize(
    ("method", "missing", "remedy"),
    [
        ("logprob-sum", "logprob", "rrk sample"),
        ("logprob-mean", "tokens", "rrk sample"),
        ("prob-mean", "prob", "rrk sample"),
        ("mbr-exec", "evidence", "rrk execute"),
        ("examples", "evidence", "rrk execute"),
        ("codet", "evidence", "rrk execute"),
        ("b4", "evidence", "rrk execute"),
        ("oracle", "passed", "rrk execute"),
        ("score", "score", "rrk rerank"),
        ("majority", "completion", "solution"),
        ("reward", "prompt", "reranker reads"),
    ],
)
def test_a_missing_field_is_one_line_with_place_and_remedy(rrk, reranker, method, missing, remedy):
    given = rows()
    del given[5][missing]
    more = ["-m", str(reranker)] if method == "reward" else []
    done = rrk("rerank", "--method", method, *more, input=encode(given))
    assert done.returncode == 3
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith(f"rrk rerank: <stdin>:6: no field '{missing}'")
    assert remedy in line


def test_a_second_method_orders_equal_scores(rrk):
    given = rows()
    for row in given:
        row["completion"] += "# longer\n    x = x\n" if row["completion_id"] == 3 else ""
    out = ranked(rrk("rerank", "--method", "codet", "--ties", "logprob-sum", input=encode(given)))
    assert [r["completion_id"] for r in sorted(out[:4], key=lambda row: row["rank"])] == [2, 3, 0, 1]
    assert {r["completion_id"]: r["score"] for r in out[:4]} == {2: 3.0, 3: 2.0, 0: 1.0, 1: 0.0}
    for wrong in ("reward", "nothing"):
        done = rrk("rerank", "--method", "codet", "--ties", wrong, input=encode(given))
        assert (done.returncode, b"choose one of" in done.stderr) == (2, True)
    del given[2]["logprob"]
    done = rrk("rerank", "--method", "codet", "--ties", "logprob-sum", input=encode(given))
    assert done.returncode == 3
    assert b"<stdin>:3: no field 'logprob'" in done.stderr


def test_two_rerankers_choose_together(rrk, reranker, tmp_path):
    given = rows()
    alone = ranked(rrk("rerank", "-m", str(reranker), "--dtype", "float32", input=encode(given)))
    earlier = [{**row, "score": -10.0 * row["completion_id"]} for row in given]
    both = ranked(rrk("rerank", "-m", str(reranker), "--dtype", "float32", "--add-score", input=encode(earlier)))
    for row, one, before in zip(both, alone, earlier, strict=True):
        assert row["score"] == pytest.approx(one["score"] + before["score"], abs=1e-6)
    best = [max(both[p : p + 4], key=lambda row: row["score"])["completion_id"] for p in range(0, 12, 4)]
    assert [row["completion_id"] for row in both if row["rank"] == 1] == best
    # Behind another method's equal scores, too: the sum comes first.
    tied = ranked(rrk("rerank", "--method", "first", "--add-score", "--ties", "logprob-mean", input=encode(earlier)))
    assert [row["rank"] for row in tied[:4]] == [1, 2, 3, 4]
    del earlier[5]["score"]
    done = rrk("rerank", "-m", str(reranker), "--add-score", input=encode(earlier))
    assert done.returncode == 3
    assert b"<stdin>:6: no field 'score'" in done.stderr


def test_ties_follow_the_seed_and_the_candidates_number_never_their_place():
    given = rows(problems=40)
    firsts = Counter()
    for p in range(40):
        own = given[4 * p : 4 * p + 4]
        order = {row["completion_id"]: row["rank"] for row in rank(own, [0.0] * 4, seed=7)}
        turned = {row["completion_id"]: row["rank"] for row in rank(own[::-1], [0.0] * 4, seed=7)}
        assert order == turned
        firsts[min(order, key=order.get)] += 1
    assert all(firsts[c] >= 3 for c in range(4)), "each of four ties stands first about ten times in forty"
    assert [r["rank"] for r in rank(given[:4], [0.0] * 4, seed=1)] != [
        r["rank"] for r in rank(given[:4], [0.0] * 4, seed=3)
    ]


def test_reward_equals_the_scorer_and_does_not_depend_on_what_else_is_in_the_file(rrk, reranker):
    torch.set_num_threads(1)
    out = ranked(rrk("rerank", "-m", str(reranker), input=encode(rows()), cold=True))
    scorer = Scorer.load(reranker)
    for p in range(3):
        own = rows()[4 * p : 4 * p + 4]
        expected = scorer.score(own[0]["prompt"], [row["completion"] for row in own], "py")
        assert [row["score"] for row in out[4 * p : 4 * p + 4]] == pytest.approx(expected, abs=1e-5)


def test_evalplus_solutions_are_reranked_as_they_are(rrk, reranker, tmp_path):
    given = [{"task_id": "HumanEval/0", "solution": f"def f(): return {i}\n"} for i in range(3)]
    # Without any prompt a reward model would read programs for nothing that was asked.
    refused = rrk("rerank", "-m", str(reranker), input=encode(given))
    assert (refused.returncode, b"-p PROBLEMS" in refused.stderr) == (3, True)
    (tmp_path / "problems.jsonl").write_bytes(encode([{"task_id": "HumanEval/0", "prompt": "def f():\n"}]))
    out = ranked(rrk("rerank", "-m", str(reranker), "-p", "problems.jsonl", input=encode(given)))
    assert {row["rank"] for row in out} == {1, 2, 3}


def test_top_keeps_the_best_and_unsorted_takes_rows_in_any_order(rrk):
    given = rows()
    mixed = given[::2] + given[1::2]
    assert rrk("rerank", "--method", "logprob-sum", input=encode(mixed)).returncode == 3
    out = ranked(rrk("rerank", "--method", "logprob-sum", "--top", "2", "--unsorted", input=encode(mixed)))
    assert [(row["completion_id"], row["rank"]) for row in out if row["task_id"] == "t/1"] == [(0, 1), (1, 2)]
    assert len(out) == 6


def test_undecided_leaves_out_problems_whose_programs_have_one_verdict(rrk, reranker, tmp_path):
    """All pass, all fail, one unjudged beside passes; what is left is scored as in the whole file, in shards too."""
    given = rows(problems=6)
    for row in given:
        row["passed"] = {"t/0": True, "t/2": False, "t/5": None if row["completion_id"] == 1 else True}.get(
            row["task_id"], row["passed"]
        )
    (tmp_path / "v.jsonl").write_bytes(encode(given))
    whole = ranked(rrk("rerank", "v.jsonl", "-m", str(reranker)))
    done = rrk("rerank", "v.jsonl", "-m", str(reranker), "--undecided", "--json")
    assert ranked(done) == [row for row in whole if row["task_id"] in ("t/1", "t/3", "t/4")]
    assert json.loads(done.stderr.splitlines()[-1])["decided"] == 3
    out = []
    for part in ("1/2", "2/2"):
        out += ranked(rrk("rerank", "v.jsonl", "--method", "ngram", "--undecided", "--shard", part))
    assert {row["task_id"] for row in out} == {"t/1", "t/3", "t/4"}
    wrong = rrk("rerank", "--method", "ngram", "--undecided", input=encode([{"task_id": "a", "completion": "x"}]))
    assert wrong.returncode == 3
    assert b"<stdin>:1: no field 'passed'" in wrong.stderr


def test_abstention_adds_confidence_and_drops_unsure_problems_from_the_top(rrk, reranker):
    given = rows(problems=6)
    out = ranked(rrk("rerank", "-m", str(reranker), "--min-confidence", "0.5", input=encode(given)))
    assert len(out) == len(given)
    for row in out:
        assert row["confidence"] == pytest.approx(1 / (1 + 2.718281828459045 ** -row["score"]))
    best = {row["task_id"]: row["confidence"] for row in out if row["rank"] == 1}
    bar = sorted(best.values())[3]
    done = rrk("rerank", "-m", str(reranker), "--top", "1", "--min-confidence", str(bar), "--json", input=encode(given))
    assert {row["task_id"] for row in ranked(done)} == {task for task, sure in best.items() if sure >= bar}
    assert json.loads(done.stderr.splitlines()[-1])["abstained"] == sum(sure < bar for sure in best.values())


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--method", "best"], "choose one of reward, likelihood, reviewer"),
        ([], "needs -m"),
        (["--method", "fused"], "needs -m"),
        (["--method", "likelihood"], "needs -m MODEL"),
        (["--method", "codet", "-m", "x"], "uses no model"),
        (["--method", "codet", "--min-confidence", "0.5"], "calibrated"),
        (["-m", "./nowhere"], "no such folder"),
        (["--method", "score", "--add-score"], "other than score"),
    ],
)
def test_options_that_cannot_work_exit_2_with_one_line(rrk, args, said):
    done = rrk("rerank", *args, input=encode(rows()))
    assert done.returncode == 2, done.stderr.decode()
    (line,) = done.stderr.decode().splitlines()
    assert said in line


def test_an_uncalibrated_reranker_cannot_abstain(rrk, reranker, tmp_path):
    import shutil

    shutil.copytree(reranker, tmp_path / "plain")
    found = record.read(reranker)
    record.write(tmp_path / "plain", record.Record(found.rendering, found.golden))
    done = rrk("rerank", "-m", "plain", "--min-confidence", "0.5", input=encode(rows()))
    assert done.returncode == 2
    assert b"not calibrated" in done.stderr


def test_fused_ranks_by_its_probability_which_is_its_confidence(rrk, tmp_path):
    judged = [{**row, "passed": row["completion_id"] == 0} for row in rows(problems=12)]
    (tmp_path / "judged.jsonl").write_bytes(encode(judged))
    assert rrk("train-fusion", "judged.jsonl", "-o", "fusion.json", "--folds", "2").returncode == 0
    command = ["rerank", "--method", "fused", "-m", "fusion.json", "--min-confidence", "0.1"]
    out = ranked(rrk(*command, input=encode(rows(problems=5))))
    assert all(row["confidence"] == row["score"] and 0 < row["score"] < 1 for row in out)
    assert all(row["completion_id"] == 0 for row in out if row["rank"] == 1)
