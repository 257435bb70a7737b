"""Python verdicts: what each way to pass, fail or end is called, and that the border between program and tests does not show."""

from __future__ import annotations

import gzip
import json
import os
from collections import Counter, OrderedDict, deque, namedtuple
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rrk.errors import RrkError
from rrk.sandbox.inside import codec, tests_apart
from rrk.sandbox.jail.box import RunSpec
from rrk.sandbox.verdict import Job
from rrk.sandbox.workers.worker import Worker

try:
    Worker().close()
except RrkError as error:
    pytest.skip(str(error), allow_module_level=True)

CHECK = "def check(candidate):\n    {}\n\ncheck(f)\n"


@pytest.fixture(scope="module")
def worker():
    with Worker() as worker:
        yield worker


def judge(worker, program, tests, prompt="", entry="f", mode="split", **more):
    return worker.python(Job("py", prompt, program, tests, entry, **{"timeout": 1.0, **more}), mode)


@pytest.mark.parametrize("mode", ["split", "in_process"])
@pytest.mark.parametrize(
    ("program", "status", "reason"),
    [
        ("def f():\n    return 1\n", "OK", None),
        ("def f():\n    return 2\n", "Exception", "assertion"),
        ("def f():\n    return 1 / 0\n", "Exception", "exception"),
        ("def g():\n    return 1\n", "Exception", "exception"),
        ("def f(:\n", "SyntaxError", "syntax"),
        ("  def f():\n return 1", "SyntaxError", "syntax"),
        ("def f():\n    return '\0'\n", "SyntaxError", "syntax"),
        ("def f():\n    while True:\n        pass\n", "Timeout", "cpu"),
        ("def f():\n    return bytearray(10**10)\n", "MemoryLimit", "memory"),
        ("x = []\nwhile True:\n    x.append(bytes(10**7))\n", "MemoryLimit", "memory"),
        ("while True:\n    print('x' * 99999)\n", "OutputLimit", "output"),
        ("import os\nos.abort()\n", "Exception", "signal_6"),
        ("import os\nos._exit(0)\n", "Tampered", "early_exit"),
        ("def f():\n    import os\n    os._exit(0)\n", "Tampered", "early_exit"),
        ("def f():\n    import sys\n    sys.exit(0)\n", "Tampered", "early_exit"),
        ("def f():\n    import sys\n    sys.exit(3)\n", "Exception", "exit"),
        ("import sys\nsys.exit('no')\n", "Exception", "exit"),
        ("raise ValueError('at the top')\n", "Exception", "exception"),
        ("f = int.__dict__\n", "Exception", "exception"),
    ],
)
def test_statuses(worker, program, status, reason, mode):
    verdict = judge(worker, program, CHECK.format("assert candidate() == 1"), mode=mode, memory_mb=256)
    assert (verdict.status, verdict.reason) == (status, reason), verdict
    assert verdict.integrity == (mode if status == "OK" else None)
    assert verdict.sandbox == worker.layers
    assert verdict.passed == (status == "OK")


def test_output_time_and_the_tests_line_are_told(worker):
    program = "print('loaded')\ndef f():\n    print('called')\n    return 2\n"
    verdict = judge(worker, program, CHECK.format("assert candidate() == 1, 'one'"))
    assert verdict.stdout == "loaded\ncalled\n"
    assert verdict.stderr.splitlines()[-2:] == ["    assert candidate() == 1, 'one'", "AssertionError: one"]
    assert (verdict.exit_code, verdict.max_rss > 1 << 20, 0 < verdict.time < 1) == (1, True, True)
    verdict = judge(worker, "def f():\n    return {}['k']\n", CHECK.format("assert candidate() == 1"))
    assert "return {}['k']" in verdict.stderr
    assert "KeyError: 'k'" in verdict.stderr


@pytest.mark.parametrize("mode", ["split", "in_process"])
@pytest.mark.parametrize(
    "end", ["1 / 0\n", "import sys\nsys.exit(3)\n", "def f(): return 2\n", "import os\nos.fork()\n1 / 0\n"]
)
def test_what_was_printed_is_told_before_the_word_that_gets_it_killed(worker, mode, end):
    """On a busy machine a program that failed to load was killed in 4 of 10 runs before it had flushed; this one is slow."""
    slow = (
        "import os, sys, time\n"
        "class Slow:\n"
        "    text = ''\n"
        "    def write(self, text):\n        self.text += text\n"
        "    def flush(self):\n"
        "        if self.text:\n"
        "            time.sleep(0.1)\n"
        "            os.write(1, self.text.encode())\n"
        "        self.text = ''\n"
        "print('before')\n"
        "sys.stdout = Slow()\n"
        "print('seen')\n"
    )
    verdict = judge(worker, slow + end, CHECK.format("assert candidate() == 1"), mode=mode)
    assert verdict.status == "Exception", verdict
    assert "seen\n" in verdict.stdout
    assert "before\n" in verdict.stdout


# Tests of which all must hold across the border, with the program that they are about.
PROGRAM = """
import math
from collections import Counter, deque, namedtuple
class Mine(Exception):
    pass
Point = namedtuple("Point", "x y")
LIMIT = 7
def f(*a, **k):
    return a[0] if a else k
def double(x):
    x += x
    return None
def nested(d):
    d["k"].append(1)
    d["n"] = {1}
    return d
def boom(kind):
    raise {"v": ValueError("bad", 3), "k": KeyError("x"), "m": Mine("mine"), "s": StopIteration()}[kind]
def numbers(n):
    for i in range(n):
        yield i
def pairs(x):
    return zip(x, map(str, x))
def adder(n):
    return lambda m: n + m
def point():
    return Point(1, 2)
def count(s):
    return Counter(s)
def keys(d):
    return d.keys()
def same(x):
    return x
def swap(a, b):
    a[:], b[:] = b[:], a[:]
state = []
def remember(x):
    state.append(x)
    return len(state)
def nan():
    return float("nan")
def sort_in_place(x):
    x.sort()
    return x
"""
HOLD = """
assert f((1, [2, {3: {4}}])) == (1, [2, {3: {4}}])
assert type(f((1,))) is tuple and type(f([1])) is list and f(True) is True and type(f(1.0)) is float
assert f(a=1, b=[2]) == {"a": 1, "b": [2]}
assert f(10**400) == 10**400 and f(-1) == -1 and f("\\ud800\\n\\0") == "\\ud800\\n\\0" and f(b"\\xff") == b"\\xff"
assert f(float("inf")) == float("inf") and nan() != nan() and f(1j) == 1j and f(frozenset({1})) == frozenset({1})
x = [1, 2]
assert double(x) is None and x == [1, 2, 1, 2]
y = {"k": [0]}
inner = y["k"]
assert nested(y) is y and inner == [0, 1] and y["n"] == {1}
try:
    boom("v")
    assert False
except ValueError as error:
    assert error.args == ("bad", 3) and str(error) == "('bad', 3)"
for kind, expected in (("k", KeyError), ("m", Exception), ("s", StopIteration)):
    try:
        boom(kind)
    except expected as error:
        pass
    else:
        assert False, kind
assert list(numbers(3)) == [0, 1, 2] and sum(numbers(4)) == 6 and next(iter(numbers(1))) == 0
assert numbers(3) != [0, 1, 2]
assert dict(pairs([1, 2])) == {1: "1", 2: "2"}
assert adder(2)(3) == 5
assert point() == (1, 2) and point()[0] == 1
assert count("aab") == {"a": 2, "b": 1} and count("aab")["z"] == 0 and count("aab").most_common(1) == [("a", 2)]
assert keys({1: 2}) == {1} and sorted(keys({2: 1, 1: 1})) == [1, 2]
assert math.isclose(f(0.1) + 0.2, 0.3)
z = [3]
assert same(z) is z
a, b = [1], [2, 3]
swap(a, b)
assert (a, b) == ([2, 3], [1])
assert [remember(i) for i in range(3)] == [1, 2, 3]
w = [3, 1]
assert sort_in_place(w) is w and w == [1, 3]
"""


def test_the_border_between_program_and_tests_does_not_show(worker):
    for statement in (HOLD, *[f"import os\n{HOLD}"]):  # in the tests' process itself, and in a fork of it
        verdict = judge(worker, PROGRAM, statement)
        assert (verdict.status, verdict.integrity) == ("OK", "split"), verdict
    assert judge(worker, PROGRAM, HOLD.replace("is z", "is not z")).status == "Exception"
    # What the program keeps in a global may change under the tests' eyes: they share its process then.
    assert (judge(worker, PROGRAM, "assert LIMIT == 7 and f(1) == 1").integrity) == "in_process"


@pytest.mark.parametrize(
    "tests",
    [
        "assert Box(1).get() == 1\n",
        "assert make(2).get() == 2\n",
        "b = Box(3)\nassert take(b) == 3\n",
        "assert apply(lambda x: x + 1, 2) == 3\n",
        "row = [0]\ngrid = [row, row]\nfill(grid)\nassert row == [1]\n",
        "assert make(2) == make(2)\n",
        "import re\nassert os.path.basename('/a/b') == 'b'\n",
    ],
)
def test_what_cannot_cross_is_judged_in_the_programs_own_process_and_says_so(worker, tests):
    program = """
import os
class Box:
    def __init__(self, x): self.x = x
    def get(self): return self.x
    def __eq__(self, other): return type(other) is Box and self.x == other.x
def make(x): return Box(x)
def take(b): return b.x
def apply(f, x): return f(x)
def fill(grid): grid[0][0] = 1
"""
    verdict = judge(worker, program, tests, entry=None)
    assert (verdict.status, verdict.integrity) == ("OK", "in_process"), verdict
    assert judge(worker, program, tests + "assert make(1).get() == 3\n", entry=None).status == "Exception"


def test_the_prompts_helpers_are_the_tests_own(worker):
    prompt = "import math\n\ndef poly(xs, x):\n    return sum(c * math.pow(x, i) for i, c in enumerate(xs))\n\n\ndef f(xs):\n    '''root'''\n"
    tests = CHECK.format("assert abs(poly([2, 1], candidate([2, 1]))) < 1e-4")
    assert judge(worker, "    return -2\n", tests, prompt).integrity == "split"
    cheat = "    return 5\n\ndef poly(xs, x):\n    return 0\n"
    assert judge(worker, cheat, tests, prompt).status == "Exception"


def test_a_function_under_test_may_have_a_builtins_name_but_others_keep_theirs(worker):
    assert judge(worker, "def sum(a, b):\n    return a * b\n", "assert sum(2, 3) == 6\n", entry=None).passed
    shadowing = "def f(x):\n    return 9\ndef abs(x):\n    return 0\ndef len(x):\n    return 1\n"
    assert judge(worker, shadowing, CHECK.format("assert abs(candidate(1) - 1) < 1")).status == "Exception"
    assert judge(
        worker, "def f(x):\n    return 1\ndef len(x):\n    return 7\n", CHECK.format("assert len([candidate(1)]) == 1")
    ).passed


@pytest.mark.parametrize(
    "tests",
    [
        "def check(candidate):\n    assert candidate(2) == 4\n\ndef test_check():\n    check(f)\n\ntest_check()\n",
        "assert f(2) == 4\nassert f(3) == 6\n",
        "inputs = [[2], [3]]\nresults = [4, 6]\nfor i, (a, b) in enumerate(zip(inputs, results)):\n    assert f(*a) == b\n",
        "import unittest\nclass T(unittest.TestCase):\n    def test(self):\n        self.assertEqual(f(2), 4)\nunittest.main()\n",
    ],
    ids=["multipl-e", "mbpp", "evalplus", "unittest"],
)
def test_shapes_of_tests(worker, tests):
    assert judge(worker, "def f(x):\n    return 2 * x\n", tests, entry=None).status == "OK"
    assert judge(worker, "def f(x):\n    return 2\n", tests, entry=None).status == "Exception"


def test_tests_that_leave_traces_do_not_meet_the_next_ones(worker):
    dirty = "import builtins, random\nbuiltins.abs = lambda x: 0\nrandom.seed(1)\nassert f() == 1\n"
    assert judge(worker, "def f():\n    return 1\n", dirty).passed
    assert judge(worker, "def f():\n    return 5\n", "assert abs(f() - 1) < 1\n").status == "Exception"


def test_endless_tests_are_not_endless(worker):
    verdict = judge(worker, "def f():\n    return 1\n", "while True:\n    x = f()\n", timeout=0.5)
    assert verdict.status == "Timeout"
    assert judge(worker, "def f():\n    return 1\n", "assert f() == 1\n").passed


def test_evidence_has_an_outcome_for_every_assert(worker):
    program = """def f(x):
    if x == 3:
        while True: pass
    if x == 4:
        import os; os._exit(0)
    if x == 5:
        raise ValueError
    return x * 2
"""
    tests = [f"assert f({x}) == {x * 2}" for x in range(7)] + [
        "assert f(1) == 3",
        "assert 4 == f(2)",
        "assert undefined",
    ]
    verdict = worker.evidence(Job("py", "", program, "", "f"), tests, 0.2)
    assert verdict.status == "OK"
    assert verdict.evidence["passed"] == "1110001010"
    outputs = verdict.evidence["outputs"]
    assert [o is None for o in outputs] == [False] * 3 + [True] * 3 + [False] * 3 + [True]
    assert outputs[2] == outputs[8] != outputs[1] == outputs[7]  # the value of f(2); of f(1)
    broken = worker.evidence(Job("py", "", "def f(:\n", "", "f"), tests, 0.2)
    assert (broken.status, broken.evidence["passed"]) == ("SyntaxError", "0" * 10)


def test_a_program_that_never_ends_on_many_inputs_costs_little_and_keeps_what_it_passes(worker):
    program = "def f(x):\n    while x:\n        pass\n    return x\n"
    tests = [f"assert f({x}) == {x}" for x in range(1, 80)] + ["assert f(0) == 0"]
    verdict = worker.evidence(Job("py", "", program, "", "f"), tests, 0.2)
    assert verdict.evidence["passed"] == "0" * 79 + "1"
    assert verdict.time < 5, "a limit for each would be 16 s"


def test_codet_candidates_agree_with_their_recorded_labels(worker, shared):
    with gzip.open(shared / "data/problems/humaneval.jsonl.gz", "rt") as lines:
        problems = {row["task_id"]: row for row in map(json.loads, lines)}
    with gzip.open(shared / "data/candidates/codet_humaneval_codegen16b.jsonl.gz", "rt") as lines:
        rows = [json.loads(line) for line in lines][::164]
    assert len(rows) == 100
    for row in rows:
        problem = problems[row["task_id"]]
        tests = f"{problem['test']}\n\ncheck({problem['entry_point']})\n"
        verdict = judge(worker, row["completion"], tests, problem["prompt"], problem["entry_point"], timeout=1.5)
        assert (verdict.passed, verdict.status != "Tampered") == (row["passed"], True), (row["task_id"], verdict)


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.complex_numbers(allow_nan=False)
)
HASHABLE = st.recursive(SCALARS, lambda x: st.tuples(x, x) | st.frozensets(x, max_size=3), max_leaves=5)
VALUES = st.recursive(
    HASHABLE,
    lambda x: st.lists(x, max_size=4) | st.dictionaries(HASHABLE, x, max_size=3) | st.sets(HASHABLE, max_size=3),
    max_leaves=12,
)


@given(VALUES)
@settings(max_examples=60, deadline=None)
def test_what_is_packed_comes_back_equal_and_of_the_same_type(value):
    def typed(v):
        parts = (
            [typed(x) for x in v]
            if isinstance(v, list | tuple)
            else [typed(x) for x in v.values()]
            if isinstance(v, dict)
            else []
        )
        return type(v), parts

    back = codec.Unpacker().loads(codec.Packer().dumps(value))
    assert back == value
    assert typed(back) == typed(value)


@pytest.mark.parametrize(
    "value",
    [Counter("aab"), OrderedDict(a=1), deque([1, 2], 5), Decimal("1.50"), Fraction(1, 3), range(1, 9, 2), slice(1, None),
     date(2020, 1, 2), datetime(2020, 1, 2, 3), timedelta(1, 2, 3), bytearray(b"x"), ..., {}.keys() | set()],
)  # fmt: skip
def test_values_of_the_standard_library_come_back(value):
    back = codec.Unpacker().loads(codec.Packer().dumps(value))
    assert (back, type(back)) == (value, type(value))


@given(
    st.recursive(
        st.none() | st.integers() | st.text(),
        lambda x: st.lists(x) | st.dictionaries(st.sampled_from("tdszbycrelCOEqDFTkvmfgoa"), x, max_size=2),
    )
)
@settings(max_examples=100, deadline=None)
def test_whatever_a_program_writes_is_data_or_forged(text):
    try:
        value = codec.Unpacker().loads(json.dumps(text).encode())
    except codec.Forged:
        return
    assert type(value).__module__ in ("builtins", "collections", "decimal", "fractions", "datetime")


@given(
    st.integers(3000, 20_000), st.integers(0, 9), st.sampled_from([list, tuple, lambda x: {1: x}, lambda x: {2: [x]}])
)
@settings(max_examples=20, deadline=None)
def test_numbers_of_any_length_cross(digits, least, wrap):
    """An integer of over 4,300 digits is a value, whatever limit either side has set."""
    value = wrap([10**digits + least, -(10**digits)]) if wrap in (list, tuple) else wrap(10**digits + least)
    assert codec.Unpacker().loads(codec.Packer().dumps(value)) == value


@given(st.integers(1, 12_000))
@settings(max_examples=30, deadline=None)
def test_what_is_nested_too_deeply_is_uncrossable_never_forged(depth):
    """However deep a program may nest: either it comes back, or both sides say that it cannot be told."""
    value: list = []
    for _ in range(depth):
        value = [value]
    try:
        back = codec.Unpacker().loads(codec.Packer().dumps(value))
    except codec.Uncrossable:
        assert depth > 300
        return
    while back:
        back, depth = back[0], depth - 1
    assert depth == 0


def test_a_value_that_contains_itself_is_uncrossable():
    """Lists and dicts alike."""
    ring: list = [1]
    ring.append({"k": ring})
    with pytest.raises(codec.Uncrossable):
        codec.Packer().dumps(ring)


def test_named_tuples_and_aware_times_keep_what_they_are():
    """Attributes and text of a namedtuple, the offset of a time."""
    point = codec.Unpacker().loads(codec.Packer().dumps(namedtuple("P", "x y")(1, [2])))
    assert (point, point.x, repr(point)) == ((1, [2]), 1, "P(x=1, y=[2])")
    when = datetime(2020, 1, 2, tzinfo=timezone(timedelta(hours=2), "here"))
    back = codec.Unpacker().loads(codec.Packer().dumps(when))
    assert (back, back.tzname(), back.utcoffset()) == (when, "here", timedelta(hours=2))


def test_preparing_tells_tests_apart():
    prepared = tests_apart.prepare(
        "import math\ndef h(x):\n    return x\ndef f(x):\n",
        "def check(c):\n    assert c(h(1)) == math.pi + K\ncheck(f)\n",
        "f",
    )
    assert (prepared.needed, prepared.own, prepared.tame) == (["K", "f"], {"math", "h"}, True)
    for loose in ("import os\n", "x.y = 1\n", "exec('1')\n", "from sys import exit\n", "().__class__\n"):
        assert not tests_apart.prepare("", loose, None).tame


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core")
def test_only_short_programs_stay_on_one_core(worker):
    cores = "    import os\n    return len(os.sched_getaffinity(0))\n"
    program = "import time\ndef f(s):\n    time.sleep(s)\n" + cores
    many = len(os.sched_getaffinity(0))
    assert judge(worker, program, "assert f(0) == 1").passed
    assert judge(worker, program, f"assert f(0.3) == {many}").passed
    with worker.box() as box:
        done = box.run(RunSpec(["nproc"]))
    assert int(done.stdout) == many, done
