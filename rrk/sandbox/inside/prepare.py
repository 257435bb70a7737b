"""What is known of a problem's tests before a candidate comes: their code, whose names they use, and whether they are tame.

prepared = prepare(prompt, tests, entry_point)    # SyntaxError and the like if the tests do not stand alone
"""

from __future__ import annotations

import ast
import builtins
import re
import symtable
import types
from dataclasses import dataclass

from rrk.sandbox.inside import counting

# Modules without state, which tests may use in this process itself, and which a program may have imported for its tests.
PURE = frozenset((
    "math", "cmath", "typing", "collections", "itertools", "functools", "re", "string", "copy", "fractions",
    "datetime", "operator", "heapq", "bisect", "decimal", "statistics", "json", "dataclasses", "abc", "enum",
    "numbers", "textwrap",
))  # fmt: skip
_LOOSE = frozenset((
    "exec", "eval", "open", "setattr", "delattr", "globals", "vars", "__import__", "compile", "input",
    "breakpoint", "exit", "quit",
))  # fmt: skip


COUNTING = "_rrk"  # what the names begin with that counting adds to the tests


@dataclass
class Prepared:
    """A job's tests, compiled, and what is known about their names; kept, for a problem comes with many candidates."""

    code: types.CodeType
    lines: list[str]
    needed: list[str]
    subjects: set[str]
    helpers: types.CodeType | None
    own: set[str]  # names that the prompt defines in full
    tame: bool
    builtins: list[str]  # builtins that the tests use
    defined: set[str]  # names that the tests define at their top
    both: list[str]  # those that a program of the same name would be meant to see
    asserts: int  # that are counted; 0: none, or these tests have to run as they are


def prepare(prompt: str, tests: str, entry: str | None, count: bool = False) -> Prepared:
    tree = ast.parse(tests, "<tests>")
    table = symtable.symtable(tests, "<tests>", "exec")
    used, defined = _globals(table)
    nodes = _nodes(tree)
    subjects = _subjects(tree, nodes, entry)
    helpers, own = _helpers(prompt, subjects)
    needed = sorted(
        name for name in used - defined if name in subjects or (name not in own and not hasattr(builtins, name))
    )
    tame, both, asserts = _tame(nodes), _both(tree), 0
    if count and counting.plain(tree):
        tree, asserts = counting.noting(tree, COUNTING)
    code = compile(tree, "<tests>", "exec", dont_inherit=True)
    known = sorted(name for name in used - defined if hasattr(builtins, name))
    return Prepared(code, tests.splitlines(), needed, subjects, helpers, own, tame, known, defined, both, asserts)


def _globals(table: symtable.SymbolTable) -> tuple[set[str], set[str]]:
    used: set[str] = set()
    defined: set[str] = set()
    todo = [table]
    while todo:
        scope = todo.pop()
        top = scope is table
        for symbol in scope.get_symbols():
            if top and (symbol.is_assigned() or symbol.is_imported() or symbol.is_namespace()):
                defined.add(symbol.get_name())
            elif (top or symbol.is_global()) and symbol.is_referenced():
                used.add(symbol.get_name())
        todo += scope.get_children()
    return used, defined


def _nodes(tree: ast.AST) -> list[ast.AST]:
    """All nodes but operators and contexts; as ast.walk, at a third of its cost, which is half of prepare()'s."""
    found = [tree]
    for node in found:  # grows
        for name in node._fields:
            value = getattr(node, name, None)
            if type(value) is list:
                found += [item for item in value if isinstance(item, ast.AST)]
            elif isinstance(value, ast.AST) and value._fields:
                found.append(value)
    return found


def _subjects(tree: ast.Module, nodes: list[ast.AST], entry: str | None) -> set[str]:
    """What is under test, and so the program's even where a builtin has the same name."""
    found = {entry} if entry else set()
    called = [n for n in nodes if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)]
    for call in called:
        if call.func.id == "check":  # type: ignore[attr-defined]
            found |= {a.id for a in call.args if isinstance(a, ast.Name)}
    asserts = [node for node in tree.body if isinstance(node, ast.Assert)]
    if asserts and not found:
        common: set[str] | None = None
        for node in asserts:
            names = {n.func.id for n in _nodes(node) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
            common = names if common is None else common & names
        common = common or set()
        found |= {name for name in common if not hasattr(builtins, name)} or common
    return found


def _helpers(prompt: str, subjects: set[str]) -> tuple[types.CodeType | None, set[str]]:
    """The prompt's own imports, constants and complete functions: the tests use these, not what a program makes of them."""
    for text in (prompt, prompt.rstrip() + "\n    pass\n"):
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError):
            continue
        body = tree.body
        if body and isinstance(body[-1], ast.FunctionDef | ast.ClassDef):
            body = body[:-1]  # the one that the candidate completes
        kept: list[ast.stmt] = [
            node
            for node in body
            if isinstance(node, ast.Import | ast.ImportFrom | ast.FunctionDef | ast.Assign | ast.AnnAssign)
            and getattr(node, "name", None) not in subjects
            and not (isinstance(node, ast.FunctionDef) and _empty(node))
        ]
        names = set()
        for node in kept:
            if isinstance(node, ast.FunctionDef):
                names.add(node.name)
            elif isinstance(node, ast.Import | ast.ImportFrom):
                names |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
            # Not its variables: the program may have changed them, and what it made of them is what tests want to see.
        return compile(ast.Module(kept, []), "<prompt>", "exec", dont_inherit=True) if kept else None, names - subjects
    return None, set()


def _both(tree: ast.Module) -> list[str]:
    """Functions and values that the tests define under a name that is not just the harness's."""
    found = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    for node in tree.body:
        if isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return sorted(name for name in found if not re.match(r"_*(check|test|rrk|METADATA$)", name))


def _empty(node: ast.FunctionDef) -> bool:
    return all(
        isinstance(n, ast.Pass | ast.Expr) and not isinstance(getattr(n, "value", None), ast.Call) for n in node.body
    )


def _tame(nodes: list[ast.AST]) -> bool:
    for node in nodes:
        if isinstance(node, ast.Import):
            if any(alias.name not in PURE for alias in node.names):
                return False
        elif isinstance(node, ast.ImportFrom):
            if node.module not in PURE:
                return False
        elif isinstance(node, ast.Attribute):
            if not isinstance(node.ctx, ast.Load) or node.attr.startswith("__"):
                return False
        elif isinstance(node, ast.Name) and node.id in _LOOSE:
            return False
    return True
