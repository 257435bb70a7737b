"""Tests that go on after an assert has failed, and note which of them held.

    tree, count = noting(ast.parse(tests), "_rrk")     # in its namespace: _rrk_held(number), _rrk_failed(number, error)
    plain(tree)                                        # whether going on can be told from stopping by the notes alone

An assert statement counts once, as held if it was reached and held each time (in a loop, in a helper).
"""

from __future__ import annotations

import ast

_CATCHES = (ast.Try, ast.TryStar, ast.With, ast.AsyncWith, ast.AsyncFunctionDef, ast.ClassDef)
_RUNNERS = frozenset(("unittest", "pytest"))


def noting(tree: ast.Module, prefix: str) -> tuple[ast.Module, int]:
    """The tests with every assert noted (the tree is changed), and how many there are."""
    found = _Noting(prefix)
    tree = found.visit(tree)
    return tree, found.count


def plain(tree: ast.Module) -> bool:
    """Whether an assert that fails would end these tests: nothing in them catches it, and no runner that reports it."""
    for node in ast.walk(tree):
        if isinstance(node, _CATCHES) or (isinstance(node, ast.Name) and node.id in _RUNNERS):
            return False
        if isinstance(node, ast.Import | ast.ImportFrom) and _RUNNERS & {alias.name for alias in node.names}:
            return False
    return True


class _Noting(ast.NodeTransformer):
    """`assert x` -> try: assert x; except: noted as failed; else: noted as held."""

    def __init__(self, prefix: str) -> None:
        self.prefix, self.count = prefix, 0

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        number = self.count
        self.count += 1
        (attempt,) = ast.parse(
            f"try:\n    pass\n"
            f"except (Exception, SystemExit) as {self.prefix}_error:\n"
            f"    {self.prefix}_failed({number}, {self.prefix}_error)\n"
            f"else:\n    {self.prefix}_held({number})\n"
        ).body
        assert isinstance(attempt, ast.Try)
        for part in ast.walk(attempt):
            if "lineno" in part._attributes:
                ast.copy_location(part, node)
        attempt.body = [node]
        return attempt
