"""Tests that run in the program's own process: for those that patch, seed, capture or look further than plain data allows.

    letter, text = judged(space, wanted, sources, told)     # in the candidate's process, after the program has been loaded

Weaker than tests in another process, for nothing here is out of the program's reach. What stands against tampering: a secret
that is said only after the last test, an assertion that has to fail after it, builtins and trace functions that have to be
as they were, and results that have to differ from a stranger.
"""

from __future__ import annotations

import ast
import builtins
import sys
import types
from collections.abc import Callable
from typing import Any

from rrk.sandbox.inside import codec
from rrk.sandbox.inside.asserts import failure

_exec, _compile, _type = exec, compile, type
_Base, _Assertion = BaseException, AssertionError
_BUILTINS: dict[str, Any] = {}
_CONTROL = compile("assert 1 == 2", "<control>", "exec")
_PLAIN = frozenset(
    (int, str, bool, float, type(None), list, tuple, dict, set, frozenset, bytes, complex, range, bytearray)
)


def remember() -> None:
    """What the builtins are before any program: called once, by the process that candidates are forked from."""
    _BUILTINS.update(vars(builtins))


def judged(
    space: dict[str, Any],
    wanted: dict[str, Any],
    sources: list[tuple[str, str]],
    told: Callable[[BaseException, bool], bytes],
) -> tuple[bytes, bytes]:
    """Run the tests in the program's namespace; a letter and a text for the supervisor.

    wanted: tests, entry, secret, strict (the tests were to run apart) and patched (builtins that the tests replace).
    """
    subject = str(wanted.get("entry"))
    tree: Any = wanted["tests"]
    try:
        if wanted["strict"] or any("__eq__" in text or "__ne__" in text for _, text in sources):
            tree = ast.parse(wanted["tests"], "<tests>")
            if callable(space.get(subject)) and not isinstance(space[subject], type):
                tree = ast.fix_missing_locations(_Wrapped(subject).visit(tree))
                space["__rrk_subject__"] = _checked(space[subject])
        code = _compile(tree, "<tests>", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError) as error:
        # Tests that only parse behind the program: as one text then, as every other tool does it.
        return b"y", str(error).encode("utf-8", "replace")
    try:
        _exec(code, space)
    except codec.Decides as error:
        return b"t", str(error).encode()
    except _Base as error:
        own = _innermost(error) == "<tests>"
        if own:
            try:
                print(failure(error, wanted["tests"].splitlines()), file=sys.stderr)
            except _Base:
                pass  # the program has closed or replaced it
        return b"e", told(error, not own)
    live = ""
    try:
        _exec(_CONTROL, space)
        live = "assert"
    except _Assertion:
        pass
    except _Base:
        live = "assert"
    used = _names(code)
    found = live or disarmed(used - set(wanted.get("patched") or ()), traced="settrace" in used or "setprofile" in used)
    return b"d", f"{wanted['secret']} {found}".encode()


def disarmed(used: Any, traced: bool = False) -> str:
    """What the program has changed to make tests in its own process pass: a builtin that they use, a trace function."""
    for name in used:
        if name in _BUILTINS and vars(builtins).get(name) is not _BUILTINS[name]:
            return f"builtins.{name}"
    return "trace" if not traced and (sys.gettrace() is not None or sys.getprofile() is not None) else ""


def _innermost(error: BaseException) -> str:
    """The file in which an exception was raised."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else trace.tb_frame.f_code.co_filename


def _names(code: types.CodeType) -> set[str]:
    """Every name that this code uses, inner functions included."""
    found = set(code.co_names)
    for constant in code.co_consts:
        if _type(constant) is types.CodeType:
            found |= _names(constant)
    return found


class _Wrapped(ast.NodeTransformer):
    """The function under test, where the tests call it or hand it to a function: its results are looked at first.

    Where they look at the function itself (its attributes, its text, its signature) they get the thing itself.
    """

    def __init__(self, subject: str):
        self.subject = subject

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.func, ast.Name):
            node.func = self._other(node.func)
            node.args = [self._other(argument) for argument in node.args]
        return node

    def _other(self, node: ast.expr) -> ast.expr:
        if isinstance(node, ast.Name) and node.id == self.subject and isinstance(node.ctx, ast.Load):
            return ast.copy_location(ast.Name("__rrk_subject__", ast.Load()), node)
        return node


def _checked(function: Any) -> Any:
    """The function under test, refusing results that decide themselves what they are equal to."""

    def call(*args: Any, **named: Any) -> Any:
        result = function(*args, **named)
        kind = _type(result)
        if kind in _PLAIN:
            return result
        if kind.__module__ == "__main__":
            family = kind.__mro__
            if any(base in family for base in (int, float, str, list, tuple, dict, set)) and any(
                codec.deciding(k) for k in family
            ):
                raise codec.Decides(f"{kind.__name__} overrides how it compares")
        if "__eq__" in dir(kind) and kind.__eq__ is not object.__eq__:
            stranger = object()
            try:
                equal = result == stranger
            except Exception:
                equal = False
            if equal is True:
                raise codec.Decides(f"{kind.__name__} equals everything")
        return result

    call.__name__ = call.__qualname__ = getattr(function, "__name__", "call")
    call.__doc__ = getattr(function, "__doc__", None)
    call.__wrapped__ = function  # type: ignore[attr-defined]
    return call
