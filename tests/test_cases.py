"""Cases of problem rows: what is read from a row, and how outputs are compared, rule by rule as its benchmark does it."""

from __future__ import annotations

import pytest

from rrk import cases
from rrk.cases import Rule
from rrk.errors import RowError
from rrk.jsonl import Row

# rule, expected output, outputs that are as good, outputs that are not
TEXTS = [
    (Rule("exact"), "a b\n", ["a b", "a b\n\n"], ["a  b\n", " a b\n", "A b\n", ""]),
    # LiveCodeBench: stripped lines, and decimals that are the same number; never a tolerance.
    (
        Rule("lines"),
        "1.0 2\nx\n",
        ["1 2.00\nx", "\n 1.0 2 \nx\n\n"],
        ["1.0 2 x", "1.0000001 2\nx", "1.0 2\n\nx", "1.0 2\nX"],
    ),
    (Rule("lines"), "50000000000000000\n", ["5e16"], ["50000000000000001"]),
    (Rule("tokens"), "1 2\n3\n", ["1 2 3", "1\n2\n3\n"], ["1 2", "1 2 3.0"]),
    (Rule("floats"), "0.5 x\n", ["0.5000005 x", ".5\nx"], ["0.50001 x", "0.5 y", "0.5", "nan x"]),
    (Rule("floats", tolerance=0, relative=1e-3), "1000\n", ["1001", "999.5"], ["1002"]),
    # CodeContests' OutputsMatch: lower case, numbers within 1e-5.
    (Rule("floats", 1e-5, 0, True), "YES 1\n", ["yes 1.000001", "Yes\n1"], ["yes 1.0001", "no 1"]),
    (Rule("unordered"), "1 2\n3 4\n3 4\n", ["3 4\n1 2\n3  4\n"], ["3 4\n1 2\n", "2 1\n3 4\n3 4\n"]),
    # APPS and TACO: their last resorts are generous, and are theirs.
    (Rule("apps"), "1.5\n2\n", ["1.50000001\n2.0", "2\n1.5", "1.5\n\n2\n", "1.5002\n2"], ["1.6\n2", "1.5"]),
    (Rule("apps"), "a b\n", ["b a", "a b a"], ["a", "a c"]),
]


@pytest.mark.parametrize(("rule", "expected", "good", "bad"), TEXTS)
def test_outputs_are_compared_as_their_benchmark_does(rule, expected, good, bad):
    assert rule.holds(expected, expected)
    assert [text for text in good if not rule.holds(text, expected)] == []
    assert [text for text in bad if rule.holds(text, expected)] == []


@pytest.mark.parametrize(
    ("rule", "expected", "good", "bad"),
    [
        (Rule("equal"), [1, [2]], [[1, [2.0]]], [[[2], 1], [1, 2], {"$set": [1]}, None]),
        (
            Rule("floats"),
            {"a": [0.3]},
            [{"a": [0.30000000000000004]}],
            [{"a": [0.31]}, {"b": [0.3]}, [0.3], {"a": ["0.3"]}],
        ),
        (Rule("floats"), 10**400, [10**400], [10**400 + 1]),
        (Rule("unordered"), [[1], 2, 2], [[2, [1], 2]], [[2, [1]], [1, 2, 2]]),
        (Rule("unordered"), [1, 2], [{"$set": [2, 1]}], [{"$set": [1]}]),
        (Rule("apps"), [[1, 2]], [[1, 2]], [[2, 1]]),
    ],
)
def test_values_are_compared_as_data(rule, expected, good, bad):
    assert rule.returns(expected, expected)
    assert [value for value in good if not rule.returns(value, expected)] == []
    assert [value for value in bad if rule.returns(value, expected)] == []


def row(**fields):
    return Row({"task_id": "T/0", "prompt": "", **fields}, ("p.jsonl", 7))


STDIN = [{"input": "1\n", "output": "2\n", "public": True}, {"input": "", "output": "x", "timeout": 2}]


def test_a_row_says_kind_rule_and_limits():
    suite = cases.case_set(row(cases=STDIN))
    assert (suite.kind, suite.rule.name, [c.timeout for c in suite.cases]) == ("stdin", "lines", [None, 2])
    assert [c.input for c in suite.public().cases] == ["1\n"]
    suite = cases.case_set(row(cases=[{"args": [1, "é"], "expected": None}], entry_point="f", compare="unordered"))
    assert (suite.kind, suite.rule.name, suite.public()) == ("call", "unordered", None)
    assert suite.right(suite.cases[0], "null")
    assert not suite.right(suite.cases[0], "[" * 100_000)  # what a program says is data that may be anything
    assert cases.case_set(row(tests="x")) is None


def test_what_a_verdict_depends_on_is_in_the_digest():
    same = row(cases=STDIN)
    others = [
        row(cases=STDIN[:1]),
        row(cases=STDIN, compare="tokens"),
        row(cases=STDIN, compare={"rule": "lines", "ignore_case": True}),
        row(cases=STDIN, checker="def check(input, expected, output):\n    return True"),
        row(cases=STDIN, prelude="import math"),
        row(cases=[STDIN[0], {**STDIN[1], "timeout": 3}]),
    ]
    assert len({cases.case_set(r).digest for r in [same, *others]}) == 7
    assert cases.case_set(same).digest == cases.case_set(row(cases=STDIN)).digest


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"cases": {}}, "field 'cases' must be a list"),
        ({"cases": []}, "'cases' is empty"),
        ({"cases": STDIN, "tests": "x"}, "fields 'cases' and 'tests'"),
        ({"cases": [*STDIN, {"args": [], "expected": 1}], "entry_point": "f"}, "cases of both kinds"),
        ({"cases": [{"args": [], "expected": 1}]}, "need 'entry_point'"),
        ({"cases": [{"input": "x"}]}, "cases[0] must be an object"),
        ({"cases": [{"input": ["x"], "output": "y"}]}, "cases[0].input must be a text"),
        ({"cases": [{"args": "x", "expected": 1}], "entry_point": "f"}, "cases[0].args must be a list"),
        ({"cases": [{**STDIN[0], "timeout": 0}]}, "cases[0].timeout must be"),
        ({"cases": [{**STDIN[0], "public": 1}]}, "cases[0].public must be"),
        ({"cases": STDIN, "compare": "fuzzy"}, "field 'compare' must be one of exact, lines"),
        ({"cases": STDIN, "compare": {"rule": "floats", "tolerence": 1}}, "compare.tolerence"),
        ({"cases": STDIN, "compare": {"rule": "floats", "tolerance": -1}}, "compare.tolerance must be"),
        ({"cases": STDIN, "checker": "def chek(): pass"}, "must define check(input, expected, output)"),
        ({"cases": STDIN, "checker": "def check("}, "field 'checker' is no Python"),
        ({"cases": STDIN, "prelude": 3}, "field 'prelude' must be"),
    ],
)
def test_a_wrong_row_is_told_with_place_and_remedy(fields, said):
    with pytest.raises(RowError) as error:
        cases.case_set(row(**fields))
    assert said in str(error.value)
    assert "p.jsonl:7" in str(error.value) or error.value.where == ("p.jsonl", 7)
