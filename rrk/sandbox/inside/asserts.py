"""Asserts: one that a model wrote, in two (the call it is about, whose value is kept, and the assert over that value); and
the line of the tests that failed.

    subject, whole = split_assert("assert f(1) == 2", "f")      # code objects; subject None if no such call is in it
    space["__rrk_value__"] = eval(subject, space)
    exec(whole, space)
    failure(error, tests.splitlines())      # '  File "<tests>", line 3\n    assert f(1) == 2\nAssertionError'

The first runs in the candidate's process, as candidate.py does.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Any

_compile = compile  # before the program can put another in its place


def split_assert(text: str, entry: str | None) -> tuple[Any, Any]:
    """Code of the call that an assert is about, and of the assert with that call's value in its place."""
    tree = ast.parse(text, "<assert>")
    finder = _Subject(entry)
    tree = finder.visit(tree)
    whole = _compile(ast.fix_missing_locations(tree), "<assert>", "exec")
    if finder.found is None:
        return None, whole
    return _compile(ast.Expression(finder.found), "<assert>", "eval"), whole


def failure(error: BaseException, lines: Sequence[str]) -> str:
    """What is told of an exception that the tests ended by. traceback's own way costs more than most candidates."""
    line = ""
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<tests>" and 0 < trace.tb_lineno <= len(lines):
            line = f'  File "<tests>", line {trace.tb_lineno}\n    {lines[trace.tb_lineno - 1].strip()}\n'
        trace = trace.tb_next
    try:
        said = str(error)[:1000]
    except BaseException:  # of a class of the program's, perhaps
        said = ""
    return line + type(error).__name__ + (f": {said}" if said else "")


class _Subject(ast.NodeTransformer):
    """Puts a name in the place of the first call of the function under test (of any, if that is not known)."""

    def __init__(self, entry: str | None):
        self.entry = entry
        self.found: ast.Call | None = None

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if self.found is None and (self.entry is None or getattr(node.func, "id", None) == self.entry):
            self.found = node
            return ast.copy_location(ast.Name("__rrk_value__", ast.Load()), node)
        return self.generic_visit(node)
