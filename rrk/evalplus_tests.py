"""EvalPlus' tests as a text: its inputs, and the reference solution that gives the expected outputs, beside the candidate.

text(row)      # of HumanEval+ or MBPP+; for Problem.tests
"""

from __future__ import annotations

import ast
import json
import math
from typing import Any

from rrk import rows
from rrk.errors import RowError


def text(row: dict[str, Any]) -> str:
    """A test text: the reference solution, renamed and apart, gives the expected outputs for base and plus inputs.

    Equality is EvalPlus': floats (and sequences of them) within `atol`. Inputs are literals in the text, with tuples and sets
    where the base asserts have them (JSON has neither); inputs that the reference itself refuses are passed over.
    """
    name = rows.need(row, "entry_point")
    inputs = [*(row.get("base_input") or ()), *(row.get("plus_input") or ())]
    if not inputs:
        if row.get("assertion"):
            return "\n" + str(row["assertion"]).strip("\n") + "\n"
        raise RowError("neither inputs, 'test' nor 'assertion'", rows.where(row))
    shapes = _shapes(row)
    if shapes is not None:
        inputs = [_shaped(list(own), shapes) if len(own) == len(shapes) else own for own in inputs]
    reference = rows.need(row, "prompt") + rows.need(row, "canonical_solution")
    # As text within text: what it defines must not replace what the candidate defined, nor the other way round.
    return _EVALPLUS.format(
        reference=json.dumps(reference),
        name=name,
        atol=float(row.get("atol") or 0),
        inputs=_literal(inputs),
        # These references return a match object where any true value means the same (EvalPlus' not-None tasks).
        # Where the prompt's own assert compares sets, order and repetition do not matter (EvalPlus' set-equal tasks).
        unordered="assert set(" in row["prompt"],
        only_found=name in ("check_str", "text_match_three", "text_starta_endb"),
    )


_EVALPLUS = """
def _rrk_check(candidate):
    import copy, math

    space = {{"__name__": "reference"}}
    exec({reference}, space)
    reference, atol = space["{name}"], {atol}

    def same(a, b):
        if isinstance(b, float) or (atol and isinstance(b, int) and not isinstance(b, bool)):
            return isinstance(a, (int, float)) and (a == b or math.isclose(a, b, rel_tol=1e-7 if atol == 0 else 0, abs_tol=atol or 1e-6) or (a != a and b != b))
        if isinstance(b, (list, tuple)) and any(isinstance(x, float) for x in b):
            return type(a) is type(b) and len(a) == len(b) and all(same(x, y) for x, y in zip(a, b))
        return a == b

    for arguments in {inputs}:
        try:
            expected = reference(*copy.deepcopy(arguments))
        except Exception:
            continue
        actual = candidate(*copy.deepcopy(arguments))
        if {only_found}:
            actual, expected = bool(actual), expected is not None
        if {unordered}:
            actual, expected = set(actual), set(expected)
        assert same(actual, expected)


_rrk_check({name})
"""


def _literal(value: Any) -> str:
    """A Python literal; infinities and NaN, which JSON files of inputs have, are calls."""
    if isinstance(value, float) and not math.isfinite(value):
        return f"float('{value}')"
    if isinstance(value, (list, tuple, set)) and value:
        inner = ", ".join(map(_literal, value))
        return {list: f"[{inner}]", set: f"{{{inner}}}"}.get(type(value), f"({inner},)")
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_literal(k)}: {_literal(v)}" for k, v in value.items()) + "}"
    return repr(value)


def _shapes(row: dict[str, Any]) -> list[Any] | None:
    """The arguments of the first readable base assert: they show where JSON's lists stand for tuples or sets."""
    try:
        tree = ast.parse(str(row.get("assertion") or "").strip())
    except SyntaxError:
        return None
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == row["entry_point"]:
            try:
                return [ast.literal_eval(argument) for argument in node.args]
            except ValueError:
                continue
    return None


def _shaped(value: Any, like: Any) -> Any:
    """`value` with its lists turned into what `like` has in their places."""
    if not isinstance(value, list) or not isinstance(like, (list, tuple, set)):
        return value
    seen = list(like)
    positional = len(seen) == len(value) and isinstance(like, (list, tuple))
    made = [_shaped(x, seen[i] if positional else seen[0]) if seen else x for i, x in enumerate(value)]
    try:
        return type(like)(made)
    except TypeError:  # unhashable members
        return made
