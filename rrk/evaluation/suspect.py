"""Which problems have tests that let wrong programs pass? Those whose passing programs disagree on fresh inputs.

    asked = Asked.of(problem, seed); asked.programs[text] = None    # every passing program
    asked.texts(), asked.questions()                                # run these with those asserts as evidence (rrk/sandbox)
    asked.outputs.append(digests); asked.found()

Fresh inputs are the tests' own arguments, changed a little: elements left out, doubled, exchanged between tests, numbers one off,
never of another type or sign than the tests have, so that they mostly stay what the function is made for. With a reference
solution only inputs on which it returns count, and a program that differs from it is wrong (or the input is not meant).
Without one an input counts if most programs return on it. A value is compared without the last digits of floats, and a set
without its order.
"""

from __future__ import annotations

import ast
import builtins
import copy
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rrk import seeds
from rrk.rows import Problem

INPUTS = 48  # fresh ones a problem
PROGRAMS = 24  # passing programs a problem that are run, at most
NAME = "_rrk_said"
HELPER = f"""

def {NAME}(function, args):
    def plain(value):
        if isinstance(value, float):
            return float("%.6g" % value) + 0.0
        if isinstance(value, (list, tuple)):
            return [plain(one) for one in value]
        if isinstance(value, (set, frozenset)):
            return ["set", sorted(map(repr, map(plain, value)))]
        if isinstance(value, dict):
            return ["dict", sorted((repr(plain(key)), plain(own)) for key, own in value.items())]
        if hasattr(value, "__next__") or isinstance(value, (range, map, filter, zip)):
            return [plain(one) for one in value]
        return int(value) if isinstance(value, bool) else value
    return plain(function(*args))
"""


def arguments(tests: str, entry: str | None) -> list[tuple[Any, ...]]:
    """What the tests call the function with, where it stands there as literals."""
    try:
        tree = ast.parse(tests)
    except (SyntaxError, ValueError):
        return []
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) in (entry, "candidate") and not node.keywords:
            try:
                found.append(tuple(ast.literal_eval(arg) for arg in node.args))
            except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
                continue
    return list({repr(args): args for args in found}.values())


def tested(tests: str) -> str | None:
    """The function that the first assert calls, where the problem does not name it."""
    try:
        nodes = [node for node in ast.walk(ast.parse(tests)) if isinstance(node, ast.Assert)]
    except (SyntaxError, ValueError):
        return None
    for node in (call for one in nodes for call in ast.walk(one.test) if isinstance(call, ast.Call)):
        if isinstance(node.func, ast.Name) and not hasattr(builtins, node.func.id):
            return node.func.id
    return None


def fresh(calls: Sequence[tuple[Any, ...]], seed: int = 0, count: int = INPUTS) -> list[tuple[Any, ...]]:
    """New arguments after those of the tests; the same for the same seed."""
    rng = random.Random(seeds.derive(seed, "suspect", repr(calls)))
    pool: dict[type, list[Any]] = {}
    for args in calls:
        _gather(args, pool)
    seen = {repr(args) for args in calls}
    made = []
    for _ in range(20 * count if calls else 0):
        args = copy.deepcopy(rng.choice(calls))
        changed = list(args)
        for at in rng.sample(range(len(args)), rng.randint(1, len(args))) if args else []:
            # An argument as another test has it, in this one's place; or this one, changed.
            others = [other[at] for other in calls if len(other) == len(args) and type(other[at]) is type(args[at])]
            dice = rng.random()
            other = rng.choice(others) if dice < 0.25 else _edge(args[at], rng) if dice < 0.45 else None
            changed[at] = _changed(args[at], pool, rng) if other is None else other
        if repr(changed := tuple(changed)) not in seen:  # type: ignore[assignment]
            seen.add(repr(changed))
            made.append(changed)
            if len(made) == count:
                break
    return made  # type: ignore[return-value]


def _gather(value: Any, pool: dict[type, list[Any]]) -> None:
    pool.setdefault(type(value), []).append(value)
    for part in value if isinstance(value, (list, tuple, set)) else value.items() if isinstance(value, dict) else ():
        _gather(part, pool)


def _edge(value: Any, rng: random.Random) -> Any:
    """What is easily forgotten: nothing, one, all alike, much; None where there is no such thing."""
    kind = type(value)
    if kind is int:
        return rng.choice([0, 1, 2, 10 * value, value + 100])
    if kind is float:
        return rng.choice([0.0, 1.0, 10 * value])
    if kind is str or kind is list:
        return rng.choice([value[:0], value[:1], value[:1] * 3, value[::-1], value + value])
    return None


def _changed(value: Any, pool: Mapping[type, list[Any]], rng: random.Random) -> Any:
    kind = type(value)
    if kind is bool:
        return not value
    if kind in (int, float):
        low = min((x for x in pool[kind]), default=0)
        step = rng.choice([-2, -1, 1, 2]) if kind is int or value == int(value) else rng.choice([-0.5, 0.5, 0.1])
        near = max(low, value + step)
        return kind(rng.choice([near, near, rng.choice(pool[kind])]))
    if kind is str:
        return "".join(_sequence(list(value), [c for text in pool[str] for c in text], rng, lambda c: c))
    if kind in (list, tuple):
        like = [x for x in value for x in pool.get(type(x), ())]
        made = _sequence(list(value), like, rng, lambda x: _changed(x, pool, rng))
        # A tuple of fixed size means something by its places.
        return kind(made) if kind is list or len(made) == len(value) else kind(_changed(x, pool, rng) for x in value)
    if kind is set:
        return set(_sequence(sorted(value, key=repr), sorted(value, key=repr), rng, lambda x: _changed(x, pool, rng)))
    if kind is dict:
        return {key: _changed(own, pool, rng) if rng.random() < 0.5 else own for key, own in value.items()}
    return value


def _sequence(items: list[Any], like: Sequence[Any], rng: random.Random, change: Any) -> list[Any]:
    how = rng.randrange(6) if items else 5
    at = rng.randrange(len(items)) if items else 0
    if how == 0 and len(items) > 1:
        del items[at]
    elif how == 1:
        items.insert(rng.randrange(len(items) + 1), items[at])
    elif how == 2:
        rng.shuffle(items)
    elif how == 3:
        items[at] = change(items[at])
    elif how == 4:
        items = items[: max(1, at)]
    elif like:
        items.insert(rng.randrange(len(items) + 1), rng.choice(like))
    return items


def question(args: tuple[Any, ...], entry: str) -> str:
    return f"assert {NAME}({entry}, {args!r}) == 0"


@dataclass
class Asked:
    """A problem under suspicion. `inputs`: fresh ones; `outputs`: of `texts()`, in order, as they come."""

    name: str
    inputs: list[tuple[Any, ...]]
    reference: str | None
    programs: dict[str, None] = field(default_factory=dict)
    outputs: list[Sequence[str | None]] = field(default_factory=list)

    @classmethod
    def of(cls, problem: Problem, seed: int) -> Asked:
        name = problem.entry_point or tested(problem.tests) or ""
        calls = arguments(problem.tests, name) if problem.language == "py" and name else []
        reference = None
        if problem.canonical_solution:
            whole = f"def {name}(" in problem.canonical_solution
            reference = ("" if whole else problem.prompt) + problem.canonical_solution
        return cls(name, fresh(calls, seed), reference)

    def texts(self) -> list[str]:
        """What is to be run: the passing programs, and the reference last."""
        shown = [*self.programs][:PROGRAMS]
        return [text + HELPER for text in [*shown, *([self.reference] if self.reference else [])]]

    def questions(self) -> list[str]:
        return [question(args, self.name) for args in self.inputs]

    def found(self) -> dict[str, Any]:
        """`verdict`, with the number of programs and an example as a call."""
        outputs = list(self.outputs)
        reference = outputs.pop() if self.reference else None
        # A reference that never returns is another function's.
        told = verdict(outputs, reference if reference and any(reference) else None)
        example = "" if told["example"] is None else f"{self.name}{self.inputs[told['example']]!r}"
        return {"programs": len(outputs), **told, "example": example}


def verdict(outputs: Sequence[Sequence[str | None]], reference: Sequence[str | None] | None) -> dict[str, Any]:
    """What passing programs (and the reference) said: {"inputs": that counted, "differ": inputs on which two disagree,
    "outvoted": share of programs that ever contradict the reference (else the most common answer), "example": an input}.

    An output is a digest, None where the program did not return.
    """
    count = len(outputs[0]) if outputs else 0
    wrong: set[int] = set()
    inputs, differ = 0, []
    for i in range(count):
        said = [own[i] for own in outputs]
        told = [value for value in said if value is not None]
        if reference is not None:
            right = reference[i]
        else:
            right = Counter(told).most_common(1)[0][0] if 2 * len(told) > len(said) else None
        if right is None:
            continue
        inputs += 1
        apart = [n for n, value in enumerate(said) if value is not None and value != right]
        if apart:
            differ.append(i)
            wrong.update(apart)
    share = len(wrong) / len(outputs) if outputs else 0.0
    return {"inputs": inputs, "differ": len(differ), "outvoted": share, "example": differ[0] if differ else None}
