"""Mining: which pairs come out, which never do, and that the draw depends on nothing but seed, round and problem."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from dataclasses import replace as changed

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rrk import jsonl
from rrk.errors import RowError
from rrk.mining import Figures, MiningOptions, keys, mine, replay, shingles, similarity, tokens, validate


def row(i, passed, score=None, text=None, **more):
    made = {
        "task_id": "t/1",
        "language": "py",
        "prompt": "def f(x):\n",
        "completion_id": i,
        "completion": text or f"    return x * {i} + {i * i}\n",
        "passed": passed,
        "status": "OK" if passed else "Exception",
    }
    return made | ({} if score is None else {"score": score}) | more


def problem(good=3, bad=6):
    """Passing programs score 0, 1, 2, ...; failing ones 0.5, 1.5, ... with the last above every passing one."""
    return [row(i, True, float(i)) for i in range(good)] + [row(100 + i, False, i + 0.5) for i in range(bad)]


def test_a_pair_is_a_passing_and_a_failing_program_of_the_same_problem_in_trl_fields():
    source = {r["completion_id"]: r for r in problem()}
    for pair in mine(list(source.values()), MiningOptions(round=2)):
        good, bad = source[pair["chosen_id"]], source[pair["rejected_id"]]
        assert good["passed"]
        assert not bad["passed"]
        assert (pair["prompt"], pair["chosen"], pair["rejected"]) == (
            good["prompt"],
            good["completion"],
            bad["completion"],
        )
        assert (pair["chosen_score"], pair["rejected_score"]) == (good["score"], bad["score"])
        assert pair["kind"] in ("hard", "random")
        assert pair["round"] == 2
        assert "margin" not in pair


def test_no_pair_comes_twice_and_the_cap_holds():
    for cap in (1, 4, 7, 100):
        pairs = mine(problem(), MiningOptions(pairs=cap))
        keys = [(p["chosen_id"], p["rejected_id"]) for p in pairs]
        assert len(set(keys)) == len(keys) == min(cap, 18)


def test_the_hard_share_is_what_was_asked_for_where_there_is_enough():
    kinds = Counter(p["kind"] for p in mine(problem(4, 8), MiningOptions(pairs=8, hard_share=0.25)))
    assert kinds == {"hard": 2, "random": 6}
    assert {p["kind"] for p in mine(problem(), MiningOptions(hard_share=0.0))} == {"random"}


def test_hard_negatives_are_the_wrong_programs_that_the_reranker_likes():
    options = MiningOptions(pairs=3, hard_share=1.0, hard_top=1)
    assert {p["rejected_id"] for p in mine(problem(), options)} == {105}
    above_all = MiningOptions(pairs=50, hard_share=1.0, hard_top=None, hard_quantile=1.0, fill=False)
    assert {p["rejected_id"] for p in mine(problem(3, 6), above_all)} == {102, 103, 104, 105}
    above_median = MiningOptions(pairs=50, hard_share=1.0, hard_top=None, hard_quantile=0.5, fill=False)
    assert {p["rejected_id"] for p in mine(problem(3, 6), above_median)} == {101, 102, 103, 104, 105}


def test_the_reason_says_how_many_passing_programs_were_outscored():
    pairs = mine(problem(3, 2), MiningOptions(hard_share=1.0, pairs=6, fill=False))
    reasons = {p["rejected_id"]: p["reason"] for p in pairs}
    assert reasons == {
        101: "wrong no. 1 by score, outscores 2 of 3 passing programs",
        100: "wrong no. 2 by score, outscores 1 of 3 passing programs",
    }


def test_a_problem_without_hard_negatives_gives_random_pairs_unless_told_not_to():
    easy = [row(1, True, 5.0), row(2, True, 6.0), row(3, False, 1.0), row(4, False, 2.0)]
    assert {p["kind"] for p in mine(easy, MiningOptions(pairs=4))} == {"random"}
    assert len(mine(easy, MiningOptions(pairs=4))) == 4
    assert mine(easy, MiningOptions(pairs=4, hard_share=1.0, fill=False)) == []


def test_unjudged_programs_are_never_used():
    figures = Figures()
    candidates = [row(1, True, 0.0), row(2, False, 1.0), row(3, None, 9.0), row(4, None, 8.0)]
    pairs = mine(candidates, MiningOptions(), figures=figures)
    assert {(p["chosen_id"], p["rejected_id"]) for p in pairs} == {(1, 2)}
    assert figures["unjudged"] == 2


@pytest.mark.parametrize("unfinished", [{"status": "Timeout"}, {"finish_reason": "length"}])
def test_unfinished_programs_are_no_hard_negatives_but_may_be_random_ones(unfinished):
    candidates = [row(1, True, 0.0), row(2, False, 9.0, **unfinished)]
    assert mine(candidates, MiningOptions(hard_share=1.0, fill=False)) == []
    assert [p["kind"] for p in mine(candidates, MiningOptions())] == ["random"]


LONG = "".join(f"    v{i} = g{i}(x, {i})\n" for i in range(60))


def test_near_duplicates_of_a_passing_program_are_no_hard_negatives():
    figures = Figures()
    candidates = [
        row(1, True, 0.0, LONG),
        row(2, False, 9.0, LONG.replace("v59 =", "w59 =")),
        row(3, False, 8.0, "    return x\n"),
    ]
    pairs = mine(candidates, MiningOptions(hard_share=1.0, fill=False), figures=figures)
    assert {p["rejected_id"] for p in pairs} == {3}
    assert figures["hard_left_out_near_duplicate"] == 1


def test_a_one_token_bug_in_a_short_program_stays_a_hard_negative():
    candidates = [
        row(1, True, 0.0, "    return [v for v in x if v > 3]\n"),
        row(2, False, 1.0, "    return [v for v in x if v >= 3]\n"),
    ]
    assert [p["rejected_id"] for p in mine(candidates, MiningOptions(pairs=2, hard_share=1.0, fill=False))] == [2]


def test_the_same_program_counts_once_comments_and_blank_lines_aside():
    figures = Figures()
    candidates = [
        row(1, True, 0.0, "    return x+1\n"),
        row(2, True, 0.0, "    # well\n\n    return x + 1\n"),
        row(3, False, 1.0, "    return x\n"),
        row(4, False, 1.0, "    return x  \n"),
    ]
    assert len(mine(candidates, MiningOptions(), figures=figures)) == 1
    assert figures["duplicates"] == 2


def test_a_program_with_both_verdicts_is_flaky_and_teaches_nothing():
    figures = Figures()
    same = "    return x\n"
    candidates = [row(1, True, 0.0, same), row(2, False, 1.0, same), row(3, True, 0.0), row(4, False, 1.0)]
    pairs = mine(candidates, MiningOptions(), figures=figures)
    assert {(p["chosen_id"], p["rejected_id"]) for p in pairs} == {(3, 4)}
    assert figures["flaky"] == 1


def test_every_verified_positive_is_used_before_one_is_used_twice():
    used = Counter(p["chosen_id"] for p in mine(problem(4, 6), MiningOptions(pairs=8)))
    assert used == dict.fromkeys(range(4), 2)
    few = mine(problem(6, 6), MiningOptions(pairs=6))
    assert {p["chosen_id"] for p in few} == set(range(6))


def test_negatives_per_positive_caps_how_often_a_passing_program_is_used():
    used = Counter(p["chosen_id"] for p in mine(problem(3, 6), MiningOptions(pairs=50, negatives_per_positive=2)))
    assert used == dict.fromkeys(range(3), 2)


def test_the_draw_depends_on_seed_round_and_problem_alone():
    options = MiningOptions(pairs=5)
    assert mine(problem(), options, seed=1) == mine(problem(), options, seed=1)
    draws = {
        json.dumps(
            [(p["chosen_id"], p["rejected_id"]) for p in mine(problem(), MiningOptions(pairs=5, round=r), seed=s)]
        )
        for r in (0, 1)
        for s in range(4)
    }
    assert len(draws) > 4


def test_problems_without_both_kinds_give_nothing_and_are_counted():
    figures = Figures()
    assert mine([row(1, True, 0.0)], MiningOptions(), figures=figures) == []
    assert mine([row(1, False, 0.0)], MiningOptions(), figures=figures) == []
    assert (figures["all_passing"], figures["all_failing"], figures["problems_with_pairs"]) == (1, 1, 0)


def test_hard_mining_needs_scores_and_says_how_to_get_them():
    candidates = [row(1, True), row(2, False)]
    with pytest.raises(RowError, match="rrk rerank"):
        mine(candidates, MiningOptions())
    assert len(mine(candidates, MiningOptions(hard_share=0.0))) == 1


def test_a_row_without_a_verdict_or_program_is_refused():
    with pytest.raises(RowError, match="rrk execute"):
        validate({"task_id": "t", "prompt": "", "completion": "x"})
    with pytest.raises(RowError, match="completion"):
        validate({"task_id": "t", "passed": True})


def test_languages_of_one_name_are_not_paired_with_each_other():
    candidates = [row(1, True, 0.0, language="cpp"), row(2, False, 1.0, language="java")]
    assert mine(candidates, MiningOptions()) == []


def test_whole_programs_stay_whole_programs():
    candidates = [{"task_id": "t", "solution": f"x = {i}", "passed": i == 0, "prompt": "p"} for i in range(2)]
    [pair] = mine(candidates, MiningOptions(hard_share=0.0))
    assert pair["completion_kind"] == "full"
    assert (pair["chosen"], pair["rejected"], pair["chosen_id"], pair["rejected_id"]) == ("x = 0", "x = 1", 0, 1)


def test_a_margin_is_written_where_asked_for():
    assert {p["margin"] for p in mine(problem(), MiningOptions(margin=0.5))} == {0.5}


def test_replayed_pairs_keep_their_round_and_say_what_they_were():
    old = [{"task_id": "t", "chosen": str(i), "rejected": "b", "kind": "hard", "round": 0} for i in range(9)]
    got = replay(old, 4)
    assert len(got) == 4
    assert {(p["kind"], p["reason"], p["round"]) for p in got} == {("replay", "hard of round 0", 0)}
    assert got == replay(old, 4)


def test_options_out_of_range_are_refused():
    for wrong in ({"pairs": 0}, {"hard_share": 1.5}, {"hard_quantile": -0.1}):
        with pytest.raises(ValueError):
            MiningOptions(**wrong)


def test_indentation_is_part_of_a_python_program_and_comment_signs_in_code_are_not_comments():
    assert tokens("if a:\n  b\nc", "py") != tokens("if a:\n  b\n  c", "py")
    assert tokens("x = a // 2", "py") == ["<0>", "x", "=", "a", "/", "/", "2"]
    assert tokens("// hi\nint a;", "cpp") == tokens("int  a ;", "cpp")
    assert similarity(shingles(["a"]), shingles(["a"])) == 1.0


def test_real_candidates_give_pairs_for_every_mixed_problem(shared):
    groups: dict[str, list] = {}
    with gzip.open(shared / "data/candidates/codet_humaneval_codegen16b.jsonl.gz", "rt") as lines:
        for line in lines:
            candidate = json.loads(line)
            candidate["score"] = -len(candidate["completion"])  # any score will do
            groups.setdefault(candidate["task_id"], []).append(candidate)
    figures = Figures()
    mixed = 0
    for group in groups.values():
        pairs = mine(group, MiningOptions(), figures=figures)
        both = {c["passed"] for c in group} == {True, False}
        mixed += both
        # the same program may have both verdicts in recorded data; then a mixed problem may still have nothing
        assert both or not pairs
        verdict = {c["completion"]: c["passed"] for c in group}
        assert all(verdict[p["chosen"]] is True and verdict[p["rejected"]] is False for p in pairs)
    assert len(groups) == 164
    assert figures["problems_with_pairs"] >= mixed - 3
    assert figures["hard"] > 300


def shared(*shares):
    """Candidates of one problem with these shares of tests that held."""
    return [
        {
            "task_id": "T/0",
            "prompt": "",
            "completion": f"return {number} + {number} * {number}\n",
            "completion_id": number,
            "passed": share == 1,
            "pass_share": share,
        }
        for number, share in enumerate(shares)
    ]


def test_shares_also_teach_among_failing_programs():
    """AceCoder's rule: the better at .8 or above, the worse above 0, .4 or more between them; the difference is the margin."""
    options = MiningOptions(pairs=50, hard_share=0, shares=True)
    figures = Figures()
    pairs = mine(shared(1, 0.9, 0.5, 0.55, 0, 0.1), options, figures=figures)
    assert {(p["chosen_id"], p["rejected_id"]): p["margin"] for p in pairs} == {
        (0, 2): 0.5, (0, 3): 0.45, (0, 5): 0.9, (1, 2): 0.4, (1, 5): 0.8,
    }  # fmt: skip
    assert (figures["chosen_failed_some"], figures["left_out_share_0"], figures["problems_nothing_passed"]) == (2, 1, 0)
    figures = Figures()
    assert len(mine(shared(0.9, 0.3), options, figures=figures)) == 1  # all-or-nothing has nothing to say here
    assert figures["problems_nothing_passed"] == 1
    assert mine(shared(0.9, 0.3), MiningOptions(hard_share=0)) == []
    assert mine(shared(0.7, 0.2), options) == []
    zero = mine(shared(1, 0, 0.8), changed(options, zero=True))
    assert {(p["chosen_share"], p["rejected_share"], p["margin"]) for p in zero} == {(1, 0, 1), (0.8, 0, 0.8)}


def test_shares_that_were_not_counted_are_told(rrk):
    row = {"task_id": "T/0", "prompt": "", "completion": "x", "passed": True}
    done = rrk("mine", "--margin", "share", input=jsonl.dumps(row))
    assert done.returncode == 3
    assert b"no field 'pass_share'; run `rrk execute --all-tests`" in done.stderr
    assert rrk("mine", "--margin", "shares", input=jsonl.dumps(row)).returncode == 2
    assert rrk("mine", "--zero", input=jsonl.dumps(row)).returncode == 2


@given(
    st.lists(
        st.lists(
            st.sampled_from(["a", "b", " ", "  ", "\n", "\n ", "#", "//", "'", "+", "1", ".", "\x0c", "\u2028"])
        ).map("".join),
        max_size=6,
    ),
    st.sampled_from(["py", "cpp", "lua", "rkt"]),
)
def test_keys_are_equal_where_tokens_are(texts, language):
    """The short cut that spares most programs their tokens calls the same programs the same."""
    short, words = keys(texts, language), [tokens(text, language) for text in texts]
    for i in range(len(texts)):
        assert [key == short[i] for key in short] == [found == words[i] for found in words]
