"""Cases: what a problem has instead of a test text, where programs are judged by what they print or return.

    found = cases.case_set(problem_row)            # None if the row has no `cases`; RowError where they are wrong
    found.rule.holds("3.0\\n", "3\\n")          # does the expected output allow this one?

A problem row has `cases`, a list of one of two kinds:

    {"input": "1 2\\n", "output": "3\\n"}        whole programs: standard input to standard output, in every language
    {"args": [1, 2], "expected": 3}            functions (Python): `entry_point` is called, a method of `class Solution` if there is one

each perhaps with `public: true` (the problem's text shows it) and `timeout` (CPU seconds, for this case alone). `compare` says
how outputs are compared, `checker` (Python: `def check(input, expected, output)`, true if it is right) replaces that, and
`prelude` is Python that is run before the program, in its namespace. The rules, and whose they are:

exact      the same text, newlines at its end aside
lines      LiveCodeBench: line by line, blanks around lines and around the whole aside; a line that differs may still hold the
           same decimal numbers (1.0 and 1)
tokens     what stands between blanks, whatever the blanks
floats     token by token; two numbers may differ by `tolerance` (absolute) or `relative` (default 1e-6 both, the usual of
           Codeforces' checkers). CodeContests' own rule is this with tolerance 1e-5, relative 0 and `ignore_case`
unordered  the same lines in any order (blanks within a line aside)
apps       APPS and TACO: equal lines; or lines that are all numbers, close as numpy.allclose has it; or the same set of lines,
           each as a set of tokens, as they are or rounded to three places
equal      values, for functions: ==, tuples count as lists (LiveCodeBench; `apps` also takes a value wrapped in a list)

For functions `floats` compares numbers within values so, and `unordered` takes a list's members in any order.
"""

from __future__ import annotations

import ast
import hashlib
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from functools import cached_property
from typing import Any

from rrk.errors import RowError

RULES = ("exact", "lines", "tokens", "floats", "unordered", "apps", "equal")
CHECK = "check"  # the function that a checker defines


@dataclass(frozen=True)
class Rule:
    """How an output is compared with the expected one."""

    name: str = "lines"
    tolerance: float = 1e-6
    relative: float = 1e-6
    ignore_case: bool = False

    def holds(self, got: str, expected: str) -> bool:
        """Whether a program that printed `got` has given the expected output."""
        if self.ignore_case:
            got, expected = got.lower(), expected.lower()
        return _TEXTS[self.name](self, got, expected)

    def returns(self, got: Any, expected: Any) -> bool:
        """The same for values: plain data, as JSON has it."""
        if self.name == "floats":
            return self._near(got, expected)
        if self.name == "unordered" and isinstance(expected, list):
            if isinstance(got, dict) and got.keys() == {"$set"}:
                got = got["$set"]
            return isinstance(got, list) and _bag(got) == _bag(expected)
        if got == expected:
            return True
        return self.name == "apps" and isinstance(expected, list) and bool(expected) and got == expected[0]

    def _close(self, a: float, b: float) -> bool:
        return a == b or abs(a - b) <= max(self.tolerance, self.relative * abs(b))

    def _near(self, got: Any, expected: Any) -> bool:
        if isinstance(expected, list):
            return (
                isinstance(got, list)
                and len(got) == len(expected)
                and all(self._near(a, b) for a, b in zip(got, expected, strict=True))
            )
        if isinstance(expected, dict):
            return (
                isinstance(got, dict)
                and got.keys() == expected.keys()
                and all(self._near(got[key], expected[key]) for key in expected)
            )
        numbers = (int, float)
        if isinstance(expected, numbers) and isinstance(got, numbers):
            try:
                return self._close(float(got), float(expected))
            except OverflowError:
                return got == expected
        return bool(got == expected)

    # One way of comparing texts each.

    def _exact(self, got: str, expected: str) -> bool:
        return got.rstrip("\r\n") == expected.rstrip("\r\n")

    def _lines(self, got: str, expected: str) -> bool:
        ours, theirs = ([line.strip() for line in text.strip().split("\n")] for text in (got, expected))
        return len(ours) == len(theirs) and all(
            a == b or _same_decimals(a, b) for a, b in zip(ours, theirs, strict=True)
        )

    def _tokens(self, got: str, expected: str) -> bool:
        return got.split() == expected.split()

    def _floats(self, got: str, expected: str) -> bool:
        ours, theirs = got.split(), expected.split()
        return len(ours) == len(theirs) and all(
            a == b or self._numbers_close(a, b) for a, b in zip(ours, theirs, strict=True)
        )

    def _numbers_close(self, a: str, b: str) -> bool:
        try:
            return self._close(float(a), float(b))
        except ValueError:
            return False

    def _unordered(self, got: str, expected: str) -> bool:
        ours, theirs = (Counter(map(tuple, map(str.split, text.strip().split("\n")))) for text in (got, expected))
        return ours == theirs

    def _apps(self, got: str, expected: str) -> bool:
        if got.strip() == expected.strip():
            return True
        ours, theirs = ([line.strip() for line in text.split("\n") if line.strip()] for text in (got, expected))
        if ours == theirs:
            return True
        try:
            mine, right = [float(line) for line in ours], [float(line) for line in theirs]
            if len(mine) == len(right) and all(
                a == b or abs(a - b) <= 1e-8 + 1e-5 * abs(b) for a, b in zip(mine, right, strict=True)
            ):
                return True
        except ValueError:
            pass
        if {frozenset(line.split()) for line in ours} == {frozenset(line.split()) for line in theirs}:
            return True
        try:
            return _rounded(ours) == _rounded(theirs)
        except (ValueError, OverflowError):
            return False

    def _equal(self, got: str, expected: str) -> bool:
        return self._exact(got, expected)


_TEXTS = {name: getattr(Rule, f"_{name}") for name in RULES}


def _same_decimals(a: str, b: str) -> bool:
    ours, theirs = a.split(), b.split()
    if len(ours) != len(theirs):
        return False
    try:
        return all(x == y or Decimal(x) == Decimal(y) for x, y in zip(ours, theirs, strict=True))
    except InvalidOperation:
        return False


def _rounded(lines: Sequence[str]) -> set[frozenset[float]]:
    return {frozenset(round(float(token), 3) for token in line.split()) for line in lines}


def _bag(values: Sequence[Any]) -> Counter[str]:
    return Counter(json.dumps(value, sort_keys=True) for value in values)


@dataclass(frozen=True)
class Case:
    """One input with its expected output: texts, or JSON of a list of arguments and of a value."""

    input: str
    expected: str
    public: bool = False
    timeout: float | None = None


@dataclass(frozen=True)
class CaseSet:
    """A problem's cases. kind: "stdin" or "call"."""

    kind: str
    cases: tuple[Case, ...]
    rule: Rule = field(default_factory=Rule)
    checker: str | None = None
    prelude: str = ""

    @cached_property
    def digest(self) -> str:
        """Equal for sets that must give the same verdicts."""
        parts = [self.kind, str(self.rule), self.checker or "", self.prelude]
        parts += [part for case in self.cases for part in (case.input, case.expected, str(case.timeout))]
        found = hashlib.blake2b(digest_size=16)
        for part in parts:
            data = part.encode("utf-8", "surrogatepass")
            found.update(b"%d:" % len(data) + data)
        return found.hexdigest()

    def public(self) -> CaseSet | None:
        """The cases that the problem's own text shows; None if it shows none."""
        shown = tuple(case for case in self.cases if case.public)
        return CaseSet(self.kind, shown, self.rule, self.checker, self.prelude) if shown else None

    def right(self, case: Case, got: str) -> bool:
        """Whether an output, or the JSON of a value, is the expected one (by the rule; a checker runs elsewhere)."""
        if self.kind == "stdin":
            return self.rule.holds(got, case.expected)
        try:
            return self.rule.returns(json.loads(got), json.loads(case.expected))
        except (ValueError, RecursionError):
            return False


def case_set(row: dict[str, Any]) -> CaseSet | None:
    """The cases of a problem row, or None if it has none. RowError says which case is wrong, and how."""
    if "cases" not in row:
        return None
    from rrk import rows  # here, for the judge needs no rows, and where only it is used there may be no orjson

    at = rows.where(row)
    given = rows.need(row, "cases", list, "each {input, output} or {args, expected}")
    if not given:
        raise RowError("field 'cases' is empty: a problem without a case judges nothing", at)
    for other in ("tests", "test", "test_list"):
        if other in row:
            raise RowError(f"fields 'cases' and '{other}': a problem is judged by one of them; drop the other", at)
    kinds = {_kind(case, number, at) for number, case in enumerate(given)}
    if len(kinds) > 1:
        raise RowError("cases of both kinds: all are {input, output}, or all are {args, expected}", at)
    kind = kinds.pop()
    if kind == "call" and not row.get("entry_point"):
        raise RowError("cases with 'args' need 'entry_point', the name of the function that they call", at)
    return CaseSet(
        kind,
        tuple(_case(case, kind, number, at) for number, case in enumerate(given)),
        _rule(row.get("compare"), kind, at),
        _checker(row.get("checker"), at),
        _code(row.get("prelude"), "prelude", at) or "",
    )


def _kind(case: Any, number: int, at: tuple[str, int] | None) -> str:
    if isinstance(case, dict):
        if "input" in case and "output" in case:
            return "stdin"
        if "args" in case and "expected" in case:
            return "call"
    raise RowError(f"cases[{number}] must be an object with input and output, or with args and expected", at)


def _case(case: dict[str, Any], kind: str, number: int, at: tuple[str, int] | None) -> Case:
    timeout, public = case.get("timeout"), case.get("public", False)
    if timeout is not None and (isinstance(timeout, bool) or not isinstance(timeout, int | float) or timeout <= 0):
        raise RowError(f"cases[{number}].timeout must be a number of CPU seconds above 0, not {timeout!r}", at)
    if not isinstance(public, bool):
        raise RowError(f"cases[{number}].public must be true or false, not {public!r}", at)
    if kind == "stdin":
        for name in ("input", "output"):
            if not isinstance(case[name], str):
                raise RowError(f"cases[{number}].{name} must be a text (whole programs read and print text)", at)
        return Case(case["input"], case["output"], public, timeout)
    if not isinstance(case["args"], list):
        raise RowError(f"cases[{number}].args must be a list, one member an argument", at)
    return Case(json.dumps(case["args"]), json.dumps(case["expected"]), public, timeout)


def _rule(given: Any, kind: str, at: tuple[str, int] | None) -> Rule:
    if given is None:
        return Rule("lines" if kind == "stdin" else "equal")
    options = {"rule": given} if isinstance(given, str) else given
    if not isinstance(options, dict) or options.get("rule") not in RULES:
        raise RowError(f"field 'compare' must be one of {', '.join(RULES)}, or an object with such a 'rule'", at)
    if unknown := set(options) - {"rule", "tolerance", "relative", "ignore_case"}:
        raise RowError(f"compare.{min(unknown)}: there is rule, tolerance, relative and ignore_case", at)
    for name in ("tolerance", "relative"):
        value = options.get(name, 0)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise RowError(f"compare.{name} must be a number of 0 or more, not {value!r}", at)
    return Rule(**{("name" if key == "rule" else key): value for key, value in options.items()})


def _checker(given: Any, at: tuple[str, int] | None) -> str | None:
    text = _code(given, "checker", at)
    if text is not None and not any(
        isinstance(node, ast.FunctionDef) and node.name == CHECK for node in ast.parse(text).body
    ):
        raise RowError(f"field 'checker' must define {CHECK}(input, expected, output)", at)
    return text


def _code(given: Any, name: str, at: tuple[str, int] | None) -> str | None:
    if given is None:
        return None
    if not isinstance(given, str):
        raise RowError(f"field '{name}' must be Python source text", at)
    try:
        ast.parse(given)
    except (SyntaxError, ValueError, RecursionError) as error:
        raise RowError(f"field '{name}' is no Python: {error}", at) from None
    return given
