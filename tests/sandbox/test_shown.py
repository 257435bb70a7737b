"""What a prompt shows of a function's values, and what only looks like it."""

from __future__ import annotations

import re

import pytest

from rrk.sandbox.judge.judge import Judge
from rrk.sandbox.languages import toolchains
from rrk.sandbox.shown import asserts, program
from rrk.sandbox.verdict import Job


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (">>> f(1)\n    2\n", ["f(1) == 2"]),
        (">>> f([1.5, 2])\n    [1.5,\n     2]\n    >>> f('a')\n    'b'", ["f([1.5, 2]) == [1.5, 2]", "f('a') == 'b'"]),
        (">>> round(f(2), 1) # about\n    0.5", ["round(f(2), 1) == 0.5"]),
        ("f(1) == 2", ["f(1) == 2"]),
        ("Examples: f(1) ==> 2, f(2)=3; f('x)') -> \"y\"", ["f(1) == 2", "f(2) == 3", "f('x)') == 'y'"]),
        ("f(1) should return (1, 2). f(2) returns true", ["f(1) == (1, 2)", "f(2) == True"]),
        ("f(1) ➞ [2, 3]  # sorted\n    f(1) ➞ [2, 3]", ["f(1) == [2, 3]"]),
        ("f(f(1)) = -1", ["f(f(1)) == -1"]),
        (">>> f(1)\n    2\n    and prose, f(3) is none", ["f(1) == 2"]),
        ("Input: x = [1, 2]\n    Output: 3 # their sum", ["f([1, 2]) == 3"]),
        ("Example 1:\n\n        Input: 4\n        Output: (1, 2)\n", ["f(4) == (1, 2)"]),
        ('For x = 10, the sum of digits will be 1 the output should be "1".', ["f(10) == '1'"]),
        ("for x = 10 the result is 2.5 or so", ["f(10) == 2.5"]),
        ("Input: a list\n    Output: 3; for y = 1 the output is 2", []),
        ("Input: 1, 2\n    Output: 3", []),
        # A call of names, a value that is none, another function, a value that goes on, an operator, prose.
        ("f(abcd) => True", []),
        ("f(1) == abc", []),
        ("g(1) == 2; self.f(1) == 2; of(1) == 2", []),
        ("f(2) = 1 + (2 / 2) = 2", []),
        ('f("a") == ""b"', []),
        ("f(1) is what is asked for", []),
        ("f() takes 2", []),
        (">>>f(1)\n 2", []),
        (">>> import os; f(1)\n    2", []),
    ],
)
def test_examples_of_a_docstring(text, found):
    prompt = f'def f(x):\n    """What it does.\n\n    {text}\n    """\n'
    assert asserts(prompt, "f") == [f"assert {one}" for one in found]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Input: word = 'a, b = 1', k = 2\n    Output: 1", ["f('a, b = 1', 2) == 1"]),
        ("Input: k = 2, word = 'a'\n    Output: 1", ["f('a', 2) == 1"]),
        ("Input:\n        word : 'a'\n        k : 2\n    Output: true", ["f('a', 2) == True"]),
        ("Input: 'a', 2\n    Output: 1", ["f('a', 2) == 1"]),
        ("Input: word = 'a'\n    Output: 1", []),
        ("For word = 'ab', k = 1 the result should be ('b', False)", ["f('ab', 1) == ('b', False)"]),
    ],
)
def test_arguments_by_name_and_in_their_order(text, found):
    prompt = f'def f(word: str,\n      k: int = 0) -> int:  # given\n    """\n    {text}\n    """\n'
    assert asserts(prompt, "f") == [f"assert {one}" for one in found]


def test_of_several_functions_the_last_ones_text_is_read():
    prompt = 'def g(x):\n    """f(1) == 1"""\n    return x\n\n\ndef f(x):\n    """\n    >>> f(1)\n    2\n    """\n'
    assert asserts(prompt, "f") == ["assert f(1) == 2"]
    assert asserts("What is f(1) == 2?", "f") == ["assert f(1) == 2"]
    assert asserts("def g(x):\n", "f") == []
    assert asserts('def f(x):\n    """' + "f(" * 5000, "f") == []


SPELT = {
    "sh": ('$({} "1" "2")', '"3"'), "java": ("{}(1l, 2l)", "(3l)"), "cs": ("{}(1L, 2L)", "(3L)"), "scala": ("{}((1l), (2l))", "(3l)"),
    "d": ("{}(1L, 2L)", "3L"), "rb": ("{}.call(1, 2)", "3"), "rkt": ("({} 1 2)", "3"), "hs": ("{} 1 2", "3"), "ml": ("{} 1 2", "3"),
}  # fmt: skip
JAVA = """class Problem {
    // Counts. g(1l) is none, and neither is what another function gives.
    // >>> countIt((new ArrayList<Long>(Arrays.asList((long)1l))), ("a b"))
    // (2l)
    // >>> countIt((new ArrayList<Long>(Arrays.asList())), (""))
    // (0l)
    // >>> count((1l))
    // (0l)
    public static long countIt(ArrayList<Long> given, String text) {
"""


def test_translated_doctests_become_one_program_of_tests():
    text = program(JAVA, toolchains.load("java").examples)
    assert [line.strip() for line in text.splitlines() if "assert" in line] == [
        'assert(java.util.Objects.equals(countIt((new ArrayList<Long>(Arrays.asList((long)1l))), ("a b")), (2l)));',
        'assert(java.util.Objects.equals(countIt((new ArrayList<Long>(Arrays.asList())), ("")), (0l)));',
    ]
    lists = (
        '# >>> $(f "1")\n# [\'"1"\', \'"a b"\']\n# >>> $(f "2")\n# []\n# >>> $(f "3")\n# [[\'"1"\'], [\'"2"\']]\n'
        '# >>> $(f "4")\n# [\'"1"\', a]\n# >>> $(f "0")\n# "none of them"\nf() {\n'
    )
    text = program(lists, toolchains.load("sh").examples)
    assert [line.strip() for line in text.splitlines() if "[[" in line] == [
        '[[ $(f "1") = "1 a b" ]]',
        '[[ $(f "2") = "" ]]',
        '[[ $(f "0") = "none of them" ]]',
    ]
    assert "assert(" not in program("int f(int x) {\n", toolchains.load("cpp").examples)


@pytest.mark.parametrize(
    ("language", "prompt", "tests"),
    [
        ("d", "/*\n>>> f([1, 2])\n[2, 1]\n>>> f([])\n>>> f([1])\n[]\n*/\nint[] f(int[] x) \n", ["f([1, 2]) == [2, 1]", "f([1]) == []"]),
        ("rb", "# >>> f.call(1)\n# 2\n# >>> g.call(1)\n# 2\ndef f(x)\n", ["(2, f(1))"]),
        ("pl", '# >>> f(1)\n# ""\nsub f {\n    my($x) = @_;\n', ['(f(1), "")']),
        ("rkt", "#lang racket\n\n;; >>> (f (list 1))\n;; #f\n(define (f x)\n", ["(f (list 1)) #f"]),
        ("r", "# >>> f(c(1))\n# TRUE\nf <- function(x) {\n", ["f(c(1)), TRUE"]),
        ("hs", "-- | What it does.\n--  >>> f [1] (-1)\n--  True\nf :: [Int] -> Int -> Bool\nf x y =\n", ["(f [1] (-1)) == (True)"]),
        ("ml", "(**What it does.\n * >>> f [1; 2]\n * true\n*)\nlet f (x : int list) : bool =\n", ["(f [1; 2]) = (true)"]),
        ("go", "// >>> f([]int{1})\n// 2\nfunc f(x []int) int {\n", ['fmt.Sprintf("%v", f([]int{1})), fmt.Sprintf("%v", 2)']),
    ],
)  # fmt: skip
def test_every_language_shows_them_in_its_own_way(language, prompt, tests):
    chain = toolchains.load(language)
    text = program(prompt, chain.examples)
    for test in tests:
        assert test in text
    each = re.split(r"@\w+@", chain.examples.each)[0].strip()
    assert text.count(each) - (chain.examples.head + chain.examples.tail).count(each) == len(tests)


@pytest.mark.parametrize("language", [name for name, one in toolchains.all().items() if one.examples])
def test_the_self_tests_function_is_told_right_from_wrong_by_its_example(language):
    """Of every language that has [examples] and that this machine can judge."""
    chain = toolchains.load(language)
    if chain.missing():
        pytest.skip(chain.missing()[0])
    own = {test.name: test for test in chain.selftests}
    jobs = []
    for name in ("pass", "fail"):
        function = re.findall(r"\b[Aa]dd\b", own[name].prompt)[0]
        call, value = SPELT.get(language, ("{}(1, 2)", "3"))
        shows = own[name].prompt + f"// >>> {call.format(function)}\n// {value}\n"
        tests = program(shows, chain.examples)
        assert value in tests
        jobs.append(Job(language, own[name].prompt, own[name].completion, tests))
    with Judge() as judge:
        assert [verdict.passed for verdict in judge.judge(jobs)] == [True, False]
