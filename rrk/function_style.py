"""MBPP problems as HumanEval writes them: a signature, a docstring, and a body to complete.

    row = function_style(benchmarks.problem(mbpp_row))      # a Problem row, or None where it cannot be told that way

MBPP has a text and asserts; its usual prompt is a docstring alone, and the completion a whole function. A reranker that was
trained on that form alone ranked HumanEval's bodies no better than chance, so the loop can have both. The signature comes from
the canonical solution (names of the parameters, no more: no annotations, no defaults that would need a name), the examples from
the asserts. The solution becomes the body, followed by whatever else the program defines: imports and helpers at module level
are found when the function is called, wherever they stand.
"""

from __future__ import annotations

import ast
import textwrap
from typing import Any

# Chen et al. 2021, section 2.1: a body ends where something outside of it begins.
STOPS = ["\nclass ", "\ndef ", "\n#", "\nif ", "\nprint("]
EXAMPLES = 2  # of the tests' asserts; the others stay hidden


def function_style(row: dict[str, Any], examples: int = EXAMPLES) -> dict[str, Any] | None:
    """The row with prompt, canonical_solution and stop_tokens of a function's body; None without a function to continue.

    `row`: a Problem row of MBPP with `canonical_solution` and `entry_point`. Its prompt holds the text and the first assert.
    """
    solution, name = row.get("canonical_solution"), row.get("entry_point")
    if row.get("language", "py") != "py" or not solution or not name:
        return None
    try:
        tree = ast.parse(solution)
        text = ast.literal_eval(row["prompt"].strip())
    except (SyntaxError, ValueError):
        return None
    found = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name]
    if len(found) != 1 or not isinstance(text, str) or found[0].decorator_list or _needs_more(found[0].args):
        return None
    function = found[0]
    lines = solution.split("\n")
    body = _block(function.body, lines, function.lineno)
    if body is None:
        return None
    others = [node for node in tree.body if node is not function]
    rest = "\n".join(ast.get_source_segment(solution, node, padded=True) or "" for node in others)
    prompt = f"def {name}({ast.unparse(function.args)}):\n{_docstring(text, _calls(row['tests'], name)[:examples])}"
    made = {"prompt": prompt, "canonical_solution": body + (f"\n{rest}\n" if rest else ""), "stop_tokens": STOPS}
    return {**row, **made}


def _needs_more(arguments: ast.arguments) -> bool:
    """Whether the signature names something that would have to stand before it."""
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    defaults = [value for value in [*arguments.defaults, *arguments.kw_defaults] if value is not None]
    plain = all(not any(isinstance(node, ast.Name) for node in ast.walk(value)) for value in defaults)
    return not plain or any(argument is not None and argument.annotation is not None for argument in every)


def _block(body: list[ast.stmt], lines: list[str], header: int) -> str | None:
    """The source of a function's body, four spaces deep; None where it stands on the line of its `def`."""
    first, last = body[0].lineno, body[-1].end_lineno or body[-1].lineno
    if first == header:
        return None
    block = [line.rstrip() for line in lines[first - 1 : last]]
    # Tabs become spaces: the text stands below a docstring that is indented by spaces.
    only_tabs = all(" " not in line[: len(line) - len(line.lstrip())] for line in block)
    text = textwrap.dedent("\n".join(line.expandtabs(4 if only_tabs else 8) for line in block))
    above: list[str] = []
    while first - 1 > header and lines[first - 2].strip().startswith("#"):
        first -= 1
        above.insert(0, lines[first - 1].strip())
    return textwrap.indent("\n".join([*above, text]), "    ") + "\n"


def _calls(tests: str, name: str) -> list[tuple[str, str]]:
    """(call, expected) of the tests' asserts of the form `assert f(...) == value`, as source."""
    try:
        tree = ast.parse(tests)
    except SyntaxError:
        return []
    found = []
    for node in tree.body:
        test = node.test if isinstance(node, ast.Assert) else None
        if isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], ast.Eq):
            call = test.left
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == name:
                found.append((ast.unparse(call), ast.unparse(test.comparators[0])))
    return found


def _docstring(text: str, calls: list[tuple[str, str]]) -> str:
    """The task's text without the assert that follows it, and the examples as a session at the prompt."""
    words = text.strip().split("\n")
    if words[-1].startswith("assert "):
        words = words[:-1]
    lines = [line.rstrip() for line in words] if calls else [line.rstrip() for line in text.strip().split("\n")]
    lines += [part for call, expected in calls for part in (f">>> {call}", expected)]
    body = "\n".join(lines).replace("\\", "\\\\").replace('"""', "'''")
    return textwrap.indent(f'"""{body}\n"""\n', "    ", lambda line: bool(line.strip()))
