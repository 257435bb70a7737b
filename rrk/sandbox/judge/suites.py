"""What a problem's tests are, before any program meets them: what their runner would run, where they can be judged, whether
they test anything at all.

    suite = look(tests, entry_point)      # Python; cached, for a problem comes with many candidates
    suite.text                            # the tests, with the calls that unittest, pytest or the benchmark would have made
    suite.whole                           # None, or why they have to run in the program's own process
    suite.vain                            # None, or why a pass would say nothing

Tests run apart from the program wherever they only call it and look at plain data. Whoever reaches further (patches, streams,
seeds, attributes of results, the program's globals) must share its process to be right: on doubt whole, for a wrong label is
worse than a weaker proof. Standard library only.
"""

from __future__ import annotations

import ast
import builtins
import functools
import importlib
import re
from collections.abc import Iterator
from dataclasses import dataclass

from rrk.sandbox.inside.prepare import PURE

# Modules whose use does not show whether the program shares the process (random: unless it is seeded).
_APART = PURE | {"random", "time", "unittest", "__future__"}
_WORLD = frozenset(("input", "open", "globals", "locals", "vars", "__import__", "setattr", "delattr", "breakpoint"))
_SELF = frozenset(("setUp", "tearDown", "setUpClass", "tearDownClass"))
_CHECKS = re.compile(r"(?i)^_*(assert|fail|raises|check|verify|expect|ensure|exit$|_exit$|abort$)")
_CANDIDATE = ("candidate", "func", "fn", "f", "function", "solution")


@dataclass(frozen=True)
class Suite:
    """Python tests. `imports`: the modules that they name; `patched`: builtins that they replace themselves."""

    text: str
    whole: str | None = None
    vain: str | None = None
    imports: tuple[str, ...] = ()
    patched: tuple[str, ...] = ()


@functools.lru_cache(maxsize=1024)
def look(tests: str, entry: str | None = None) -> Suite:
    """Everything that can be known of Python tests by reading them."""
    try:
        tree = ast.parse(tests)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        # Some only parse behind the program; the judge finds out.
        return Suite(tests, vain=None if tests.strip() else "the tests are empty")
    text, missing = _collected(tests, tree, entry)
    if text != tests:
        tree = ast.parse(text)
    facts = _Facts(tree, entry)
    return Suite(
        text,
        facts.whole(),
        missing or facts.vain(),
        tuple(sorted(facts.imports)),
        tuple(sorted(facts.patched)),
    )


# ---- what a runner would have run ------------------------------------------------------------------------------------

SKIPPED = "every test was skipped"
_UNITTEST = """

def _rrk_run_cases():
    import unittest

    suite = unittest.TestSuite(map(unittest.defaultTestLoader.loadTestsFromTestCase, ({names},)))
    result = unittest.TestResult()
    result.failfast = True
    suite.run(result)
    for _, told in [*result.errors, *result.failures]:
        raise AssertionError(told)
    assert not result.unexpectedSuccesses, "an unexpected success"
    assert result.testsRun > len(result.skipped), "{SKIPPED}"


_rrk_run_cases()
"""


def _collected(tests: str, tree: ast.Module, entry: str | None) -> tuple[str, str | None]:
    """The tests with their runner's calls in place of `unittest.main()`; and what of them cannot be run here."""
    wanted = re.search(r"unittest|\bdef (_*test|check\b)|class \w*Test", tests, re.I)
    if not wanted or "def _rrk_run_cases" in tests:
        return tests, None
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    cases: list[str] = []
    calls: list[str] = []
    missing: str | None = None
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            if any(_last(base).endswith("TestCase") or _last(base) in cases for base in node.bases):
                cases.append(node.name)
            elif re.match(r"_*Test", node.name) and node.name not in used and not _has(node, "__init__"):
                methods = [n for n in node.body if isinstance(n, ast.FunctionDef) and n.name.startswith("test")]
                for method in methods:
                    if len(_required(method)) > 1 or method.decorator_list:
                        missing = f"{node.name}.{method.name} needs pytest"
                    else:
                        prepare = "_rrk_case.setup_method(); " if _has(node, "setup_method") else ""
                        calls.append(f"_rrk_case = {node.name}(); {prepare}_rrk_case.{method.name}()")
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name not in used:
            if not re.match(r"_*(test|check$)", node.name):
                continue
            needs = _required(node)
            if node.decorator_list:
                missing = f"{node.name} is decorated: it needs pytest"
            elif isinstance(node, ast.AsyncFunctionDef):
                calls.append(f"__import__('asyncio').run({node.name}())")
            elif not needs:
                calls.append(f"{node.name}()")
            elif len(needs) == 1 and (node.name.startswith("check") or needs[0] in _CANDIDATE):
                if entry:
                    calls.append(f"{node.name}({entry})")
                else:
                    missing = f"no 'entry_point' says what {node.name}() is to be called with"
            else:
                missing = f"{node.name} asks for {', '.join(needs)}: it needs pytest"
    text = _without_main(tests, tree) if cases or "unittest" in tests else tests
    if cases:
        text += _UNITTEST.format(names=", ".join(cases), SKIPPED=SKIPPED)
    if calls:
        text += "\n\n" + "\n".join(calls) + "\n"
    return text, missing


def _last(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _has(node: ast.ClassDef, name: str) -> bool:
    return any(isinstance(n, ast.FunctionDef) and n.name == name for n in node.body)


def _required(node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    """Parameters that a caller has to give."""
    given = [*node.args.posonlyargs, *node.args.args]
    bare = given[: len(given) - len(node.args.defaults)]
    named = [a for a, d in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True) if d is None]
    return [a.arg for a in (*bare, *named)]


def _without_main(tests: str, tree: ast.Module) -> str:
    """`pass` in place of calls of unittest.main at the top or under a guard: it would end the process with its own word."""
    lines = tests.split("\n")
    bodies = [tree.body, *(node.body for node in tree.body if isinstance(node, ast.If | ast.With | ast.Try))]
    calls = [
        node
        for body in bodies
        for node in body
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Call)
        and ast.unparse(node.value.func) in ("unittest.main", "main")
    ]
    for node in sorted(calls, key=lambda n: -n.lineno):
        last = node.end_lineno or node.lineno
        head = lines[node.lineno - 1].encode()[: node.col_offset].decode()
        tail = lines[last - 1].encode()[node.end_col_offset or 0 :].decode()
        lines[node.lineno - 1 : last] = [f"{head}pass{tail}", *[""] * (last - node.lineno)]
    return "\n".join(lines)


# ---- where they can be judged, and whether they test -----------------------------------------------------------------


class _Facts:
    """One reading of the tests. Messages of asserts are left out: they are looked at only after a failure."""

    def __init__(self, tree: ast.Module, entry: str | None):
        self.tree, self.entry = tree, entry
        self.nodes = list(_walk(tree))
        self.imports: set[str] = set()
        self.patched: set[str] = set()
        self.defined: set[str] = set()
        self.caught = {node.name for node in self.nodes if isinstance(node, ast.ExceptHandler) and node.name}
        self.modules: set[str] = set()  # names that stand for a module of _APART
        self._imported()

    def _imported(self) -> None:
        for node in self.nodes:
            if isinstance(node, ast.Import):
                for alias in node.names:
                    self.imports.add(alias.name.partition(".")[0])
                    self.defined.add((alias.asname or alias.name).partition(".")[0])
                    if alias.name in _APART:
                        self.modules.add(alias.asname or alias.name)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                self.imports.add(node.module.partition(".")[0])
                self.defined |= {alias.asname or alias.name for alias in node.names}
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                self.defined.add(node.name)
            elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
                self.defined.add(node.id)
            elif isinstance(node, ast.arg):
                self.defined.add(node.arg)
            elif (
                isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and _last(node.value) == "builtins"
            ):
                self.patched.add(node.attr)

    def whole(self) -> str | None:
        """Why these tests and the program have to share a process, in a few words."""
        loaded = {n.id for n in self.nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
        for node in self.nodes:
            if isinstance(node, ast.Import | ast.ImportFrom):
                why = self._import(node)
            elif isinstance(node, ast.Attribute):
                why = self._attribute(node)
            elif isinstance(node, ast.Name):
                why = node.id if node.id in _WORLD and node.id not in self.defined and node.id != self.entry else None
            elif isinstance(node, ast.ExceptHandler):
                why = self._handler(node)
            elif isinstance(node, ast.Compare):
                why = self._identity(node)
            elif isinstance(
                node, ast.With | ast.AsyncWith | ast.AsyncFunctionDef | ast.Await | ast.Global | ast.Delete
            ):
                why = self._statement(node)
            else:
                why = None
            if why:
                return why
        for statement in self.tree.body:
            if isinstance(statement, ast.Assign):
                for target in statement.targets:
                    # Set for somebody else to read: a global of the program's.
                    if isinstance(target, ast.Name) and target.id not in loaded and target.id not in ("METADATA", "_"):
                        return f"sets {target.id}"
        return None

    def _import(self, node: ast.Import | ast.ImportFrom) -> str | None:
        names = [alias.name for alias in node.names]
        if isinstance(node, ast.Import):
            return next((f"imports {name}" for name in names if name not in _APART), None)
        if node.level or node.module not in _APART:
            return f"imports {node.module}"
        if node.module == "random" and {"seed", "*"} & set(names):
            return "seeds random"
        return next((f"imports {name}" for name in names if _is_exception(node.module, name)), None)

    def _attribute(self, node: ast.Attribute) -> str | None:
        if not isinstance(node.ctx, ast.Load):
            return f"sets .{node.attr}"
        if isinstance(node.value, ast.Name) and node.value.id in self.modules:
            if node.value.id == "random" and node.attr in ("seed", "setstate", "getstate"):
                return "seeds random"
            return f"uses {node.attr}" if _is_exception(node.value.id, node.attr) or node.attr == "mock" else None
        if node.attr.startswith("__"):
            return f"reads {node.attr}"
        if node.attr == "args" and isinstance(node.value, ast.Name) and node.value.id in self.caught:
            return None
        if node.attr in _BUILTIN_ATTRIBUTES or (node.attr in _case_attributes() and "unittest" in self.imports):
            return None
        return f"reads .{node.attr}"

    def _handler(self, node: ast.ExceptHandler) -> str | None:
        kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type] if node.type else []
        for kind in kinds:
            known = getattr(builtins, kind.id, None) if isinstance(kind, ast.Name) else None
            if not (isinstance(known, type) and issubclass(known, BaseException)):
                return f"catches {ast.unparse(kind)}"
        return None

    def _identity(self, node: ast.Compare) -> str | None:
        for operator, right in zip(node.ops, node.comparators, strict=True):
            # None, a type: the same object everywhere. Of anything else, identity does not cross.
            if isinstance(operator, ast.Is | ast.IsNot) and not isinstance(right, ast.Constant):
                known = isinstance(right, ast.Name) and isinstance(getattr(builtins, right.id, None), type)
                if not known and not (isinstance(right, ast.Call) and _last(right.func) == "type"):
                    return "compares by identity"
        return None

    def _statement(self, node: ast.AST) -> str | None:
        if isinstance(node, ast.With):
            own = all(
                isinstance(item.context_expr, ast.Call)
                and _last(item.context_expr.func) in ("assertRaises", "assertRaisesRegex", "subTest")
                for item in node.items
            )
            return None if own else "enters a context"
        return f"has a {type(node).__name__.lower()} statement"

    def vain(self) -> str | None:
        """Why a pass would say nothing, or None."""
        if not self.tree.body:
            return "the tests are empty"
        reached = self._reached()
        if not any(_is_check(node) for part in reached for node in _walk(part)):
            return "the tests assert nothing that would run"
        names = {
            node.id
            for part in reached
            for node in _walk(part)
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
        }
        known = self.defined | (set(dir(builtins)) if self.entry else {"True", "False", "None"})
        outside = (names - known) | ({self.entry} & names)
        # A program can also be reached by its module, its text or its output.
        if not outside and not self.imports - _APART and not names & _WORLD:
            return "the tests never use the program"
        return None

    def _reached(self) -> list[ast.AST]:
        """Statements that run: those at the top, and functions and classes whose name is used by what runs."""
        parts: dict[str, ast.AST] = {}
        top: list[ast.AST] = []
        for statement in self.tree.body:
            if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                parts[statement.name] = statement
            else:
                top.append(statement)
        for reached in top:  # grows
            for node in _walk(reached):
                if isinstance(node, ast.Name) and (found := parts.pop(node.id, None)) is not None:
                    top.append(found)
        return top


def _walk(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but the messages of asserts."""
    todo: list[ast.AST] = [tree]
    for node in todo:  # grows
        yield node
        if isinstance(node, ast.Assert):
            todo.append(node.test)
        else:
            todo += ast.iter_child_nodes(node)


def _is_check(node: ast.AST) -> bool:
    if isinstance(node, ast.Assert):
        return not (isinstance(node.test, ast.Constant) and node.test.value)
    if isinstance(node, ast.ExceptHandler):
        return node.type is not None and _last(node.type) not in ("Exception", "BaseException")
    if isinstance(node, ast.Raise):
        return True
    return isinstance(node, ast.Call) and bool(_CHECKS.match(_last(node.func)))


def _is_exception(module: str, name: str) -> bool:
    if module not in PURE:
        return False
    found = getattr(importlib.import_module(module), name, None)
    return isinstance(found, type) and issubclass(found, BaseException)


# `.real` of what a program returns is the same here as there; `.x` of its namedtuple or `.name` of its enumeration is not.
_BUILTIN_ATTRIBUTES = frozenset(
    name
    for kind in (
        int, float, complex, str, bytes, bytearray, list, tuple, dict, set, frozenset, range, slice, type(None),
    )
    for name in dir(kind)
    if not name.startswith("__")
)  # fmt: skip


@functools.cache
def _case_attributes() -> frozenset[str]:
    import unittest

    return frozenset((*dir(unittest.TestCase), *dir(unittest.TestResult), *dir(unittest), *dir(unittest.TestSuite)))
