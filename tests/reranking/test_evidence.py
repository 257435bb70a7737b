"""Agreement between candidates, checked against the papers' definitions written out slowly."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rrk.errors import RowError
from rrk.jsonl import Row
from rrk.reranking import evidence


def rows(*passed: str, outputs=None) -> list[dict]:
    return [
        {"completion": f"c{i}", "evidence": {"passed": p} | ({"outputs": outputs[i]} if outputs else {})}
        for i, p in enumerate(passed)
    ]


matrices = st.integers(1, 5).flatmap(
    lambda tests: st.lists(st.text("01", min_size=tests, max_size=tests), min_size=1, max_size=6)
)


@given(matrices)
def test_codet_is_root_of_set_size_times_tests_passed(passed):
    slow = [math.sqrt(sum(other == mine for other in passed)) * mine.count("1") for mine in passed]
    assert evidence.codet(rows(*passed)) == pytest.approx(slow)


@given(matrices)
@settings(max_examples=50)
def test_b4_is_the_product_of_four_integrals(passed):
    """B(a, b) = integral of p^(a-1) (1-p)^(b-1): checked by summing on a fine grid, with mild priors."""
    grid = (np.arange(20_000) + 0.5) / 20_000

    def integral(hits: int, trials: int, alpha: float = 1, beta: float = 1) -> float:
        return math.log(np.mean(grid ** (hits + alpha - 1) * (1 - grid) ** (trials - hits + beta - 1)))

    n, m = len(passed), len(passed[0])
    for mine, found in zip(passed, evidence.b4(rows(*passed), beta_0=3, alpha_xy=2), strict=True):
        inside = [other == mine for other in passed]
        right = [flag == "1" for flag in mine]
        cells = list(itertools.product(range(n), range(m)))
        on_right = [passed[i][j] == "1" for i, j in cells if not inside[i] and right[j]]
        on_wrong = [passed[i][j] == "1" for i, j in cells if not inside[i] and not right[j]]
        slow = integral(sum(inside), n, alpha=2) + integral(sum(right), m, alpha=2)
        slow += integral(sum(on_right), len(on_right)) + integral(sum(on_wrong), len(on_wrong), beta=3)
        assert found == pytest.approx(slow, abs=1e-3)


def test_mbr_exec_counts_equal_outputs_and_falls_back_to_verdicts():
    assert evidence.mbr_exec(rows("11", "11", "01", outputs=[["a", "b"], ["a", "c"], ["a", "b"]])) == [2, 1, 2]
    assert evidence.mbr_exec(rows("11", "11", "01")) == [2, 2, 1]


def test_ngram_is_the_mean_cosine_similarity_of_word_and_pair_sets():
    texts = ["return a + b", "return  a + b  # sum\n# again", "return b", "", "yield x"]
    rows = [{"completion": text} for text in texts]
    # Line depth is a word of its own: 0 return a + b -> 5 words and 4 pairs.
    sets = [{"0", "return", "a", "+", "b", "0 return", "return a", "a +", "+ b"}]
    sets += [
        sets[0] | {"#", "sum", "b #", "# sum"},
        {"0", "return", "b", "0 return", "return b"},
        set(),
        {"0", "yield", "x", "0 yield", "yield x"},
    ]

    def cosine(a, b):
        return len(a & b) / math.sqrt(len(a) * len(b)) if a and b else 0.0

    wanted = [sum(cosine(a, b) for j, b in enumerate(sets) if j != i) / 4 for i, a in enumerate(sets)]
    assert evidence.ngram(rows) == pytest.approx(wanted, abs=1e-12)
    assert evidence.ngram(rows[:1]) == [0.0]
    assert evidence.ngram([rows[0]] * 3) == pytest.approx([1.0] * 3)


def test_majority_ignores_blank_space_and_comments_but_not_indentation():
    texts = ["  return x + 1\n", "  # add\n  return  x + 1\n\n", "    return x + 1\n"]
    assert evidence.majority([{"completion": text} for text in texts]) == [2, 2, 1]


def test_missing_evidence_names_the_row_and_the_remedy():
    with pytest.raises(RowError, match=r"^a.jsonl:3: no field 'evidence'; add it with `rrk execute"):
        evidence.codet([Row({"completion": "x"}, ("a.jsonl", 3))])
    with pytest.raises(RowError, match="has 1 tests where"):
        evidence.codet(rows("11", "1"))
