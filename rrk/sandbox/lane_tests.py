"""The tests' side of a Python verdict: a process that no candidate shares, in a jail of its own.

serve() is process 1 of that jail. It runs a job's tests with stand-ins for the program's functions; each call goes to the
candidate's process as plain data (rrk/sandbox/codec.py). Assertions, builtins, the prompt's helper functions and imports
are our own here, so a program can change none of them, and nothing that it returns decides what it is equal to.

The tests come from whoever wrote the problem and are trusted not to attack us, only to be careless: those that could leave
traces (imports beside pure modules, assignments to attributes, exec) run in a fork; all others in this process itself.
"""

from __future__ import annotations

import ast
import builtins
import json
import os
import socket
import struct
import symtable
import sys
import types
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from rrk.sandbox import codec, lane_python, wire

_FRAME = struct.Struct("<I")
# Modules without state, which tests may use in this process itself, and which a program may have imported for its tests.
PURE = frozenset(
    "math cmath typing collections itertools functools re string copy fractions datetime operator heapq bisect decimal "
    "statistics json dataclasses abc enum numbers textwrap".split()
)
_LOOSE = frozenset("exec eval open setattr delattr globals vars __import__ compile input breakpoint exit quit".split())


class Fallback(BaseException):
    """These tests need more than plain data: judge the job in the candidate's own process."""


class Tampered(BaseException):
    """The program tries to decide its verdict."""


class Gone(BaseException):
    """The candidate's process has ended, or closed its socket."""


class RemoteExit(SystemExit):
    """The program called sys.exit in the middle of a test."""


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


def prepare(prompt: str, tests: str, entry: str | None) -> Prepared:
    tree = ast.parse(tests, "<tests>")
    table = symtable.symtable(tests, "<tests>", "exec")
    used, defined = _globals(table)
    subjects = _subjects(tree, entry)
    helpers, own = _helpers(prompt, subjects)
    needed = sorted(
        name for name in used - defined if name in subjects or name not in own and not hasattr(builtins, name)
    )
    code = compile(tree, "<tests>", "exec", dont_inherit=True)
    known = sorted(name for name in used - defined if hasattr(builtins, name))
    return Prepared(code, tests.splitlines(), needed, subjects, helpers, own, _tame(tree), known)


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


def _subjects(tree: ast.Module, entry: str | None) -> set[str]:
    """What is under test, and so the program's even where a builtin has the same name."""
    found = {entry} if entry else set()
    called = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)]
    for call in called:
        if call.func.id == "check":  # type: ignore[attr-defined]
            found |= {a.id for a in call.args if isinstance(a, ast.Name)}
    asserts = [node for node in tree.body if isinstance(node, ast.Assert)]
    if asserts and not found:
        common: set[str] | None = None
        for node in asserts:
            names = {n.func.id for n in ast.walk(node) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
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
        kept = [
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
            else:
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                names |= {target.id for target in targets if isinstance(target, ast.Name)}
        return compile(ast.Module(kept, []), "<prompt>", "exec", dont_inherit=True) if kept else None, names - subjects
    return None, set()


def _empty(node: ast.FunctionDef) -> bool:
    return all(
        isinstance(n, ast.Pass | ast.Expr) and not isinstance(getattr(n, "value", None), ast.Call) for n in node.body
    )


def _tame(tree: ast.Module) -> bool:
    for node in ast.walk(tree):
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


class Remote:
    """The candidate, as the tests see it."""

    def __init__(self, sock: socket.socket):
        self.sock = sock
        self.unpacker = codec.Unpacker(self._stand_in)
        self.failed: BaseException | None = None  # the last exception that came from the program

    def ask(self, letter: bytes, text: bytes) -> tuple[bytes, bytes]:
        try:
            self.sock.sendall(_FRAME.pack(len(text) + 1) + letter + text)
            head = self.sock.recv(4)
            if len(head) < 4:
                head += wire.exactly(self.sock, 4 - len(head))
            size = _FRAME.unpack(head)[0]
            if not 0 < size <= codec.MOST:
                raise Tampered("forged")
            data = self.sock.recv(size)
            if len(data) < size:
                data += wire.exactly(self.sock, size - len(data))
        except (OSError, wire.Gone):
            raise Gone from None
        return data[:1], data[1:]

    def value(self, letter: bytes, text: bytes) -> Any:
        """What an answer says: a list, or the program's exception, raised."""
        if letter == b"r":
            try:
                found = self.unpacker.loads(text)
            except codec.Forged:
                raise Tampered("forged") from None
            if type(found) is not list:
                raise Tampered("forged")
            return found
        if letter == b"e":
            raise self._exception(text)
        if letter == b"t":
            raise Tampered("equality")
        if letter == b"u":
            raise Fallback(text.decode("utf-8", "replace"))
        raise Tampered("forged")

    def function(self, number: int, name: str) -> Any:
        """A function here that stands for one there."""
        ask, value, dumps = self.ask, self.value, codec.Packer

        def call(*args: Any, **named: Any) -> Any:
            try:
                text = dumps(_no_functions, unique=True).dumps([number, [*args], named])
            except (codec.Uncrossable, codec.Decides) as error:
                raise Fallback(f"an argument is {error}") from None
            found = value(*ask(b"C", text))
            if len(found) != 2:
                raise Tampered("forged")
            result, changed = found
            if changed:
                try:
                    for old, new in zip(args, changed[0], strict=True):
                        _update(old, new)
                    for key, old in named.items():
                        _update(old, changed[1][key])
                except (TypeError, ValueError, KeyError, IndexError, AttributeError):
                    raise Tampered("forged") from None
            if type(result) is _Argument:
                if not 0 <= result.index < len(args):
                    raise Tampered("forged")
                return args[result.index]
            return result

        call.__name__ = call.__qualname__ = name
        return call

    def _stand_in(self, tag: str, parts: Any) -> Any:
        if tag == "f":
            return self.function(int(parts[0]), str(parts[1])[:80])
        if tag == "g":
            return _Iterator(self, int(parts))
        if tag == "o":
            return _Object(self, str(parts[1]), bool(parts[2]))
        if tag == "a":
            return _Argument(int(parts))
        raise ValueError(f"tag {tag!r}")

    def _exception(self, text: bytes) -> BaseException:
        try:
            told = json.loads(text)
            name, base = str(told["type"])[:80], told.get("base")
            args = codec.Unpacker().unpack(told.get("args", []))
            if name == "SystemExit" or "code" in told:
                return RemoteExit(told.get("code"))
            kind = getattr(builtins, name, None)
            if not (isinstance(kind, type) and issubclass(kind, BaseException)):
                kind = getattr(builtins, str(base), None)
                if not (isinstance(kind, type) and issubclass(kind, Exception)):
                    kind = Exception
                kind = type(name, (kind,), {})
            if not issubclass(kind, Exception) and kind is not KeyboardInterrupt:
                kind = Exception
            error = kind(*args)
        except (codec.Forged, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            error = Exception("an exception that could not be told")
        self.failed = error
        return error


@dataclass
class _Argument:
    index: int


def _no_functions(value: Any) -> dict[str, Any]:
    raise codec.Uncrossable(f"a {type(value).__name__}")


class _Iterator:
    """An iterator of the program's, read one by one as the tests ask."""

    def __init__(self, remote: Remote, number: int):
        self._remote, self._number = remote, number

    def __iter__(self) -> _Iterator:
        return self

    def __next__(self) -> Any:
        found = self._remote.value(*self._remote.ask(b"I", json.dumps(self._number).encode()))
        if not found:
            raise StopIteration
        return found[0]


class _Object:
    """An object of the program's own class. It equals only itself; whoever wants more of it needs it in the same process."""

    def __init__(self, remote: Remote, name: str, decides: bool):
        self._rrk = (remote, name, decides)

    def __eq__(self, other: object) -> bool:
        _, name, decides = self._rrk
        if isinstance(other, _Object):
            raise Fallback(f"a {name} is compared")
        if decides:  # and nothing in the tests is of its class
            raise Tampered("equality")
        return False

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = object.__hash__

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        raise Fallback(f"{self._rrk[1]}.{attribute}")


def _needs(attribute: str) -> Any:
    def method(self: _Object, *_: Any) -> Any:
        _, name, decides = self._rrk
        if attribute in ("__lt__", "__le__", "__gt__", "__ge__", "__bool__", "__contains__", "__sub__", "__rsub__"):
            if decides:
                raise Tampered("equality")
        raise Fallback(f"{name}.{attribute}")

    return method


for _name in (
    "call iter next len getitem contains bool lt le gt ge add radd sub rsub mul rmul truediv abs round int float str repr "
    "index enter"
).split():
    setattr(_Object, f"__{_name}__", _needs(f"__{_name}__"))


def _update(old: Any, new: Any) -> None:
    """Make `old` equal to `new` in place, as the program's change of its argument would have."""
    kind = type(old)
    if kind is list or kind is bytearray:
        if kind is list and type(new) is list and len(new) == len(old):
            for index, (a, b) in enumerate(zip(old, new, strict=True)):
                if type(a) is type(b) and type(a) in (list, dict, set):
                    _update(a, b)
                else:
                    old[index] = b
        else:
            old[:] = new
    elif kind is tuple:
        for a, b in zip(old, new, strict=True):
            _update(a, b)
    elif isinstance(old, dict):
        for key, b in [*new.items()]:
            a = old.get(key)
            if type(a) is type(b) and type(a) in (list, dict, set):
                _update(a, b)
                new[key] = a
        old.clear()
        old.update(new)
    elif isinstance(old, set):
        old.clear()
        old.update(new)
    elif hasattr(old, "extend"):  # deque
        old.clear()
        old.extend(new)


def serve(control: socket.socket) -> None:
    """Process 1: one job after the other, until the supervisor goes."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_DFL)
    kept: OrderedDict[tuple[Any, ...], Prepared | str] = OrderedDict()
    sys.setrecursionlimit(3000)
    sys.argv = ["tests"]  # unittest.main() reads it
    while True:
        header, blob, fds = wire.receive(control)
        program = blob[: header["program"]]
        prompt = blob[header["program"] : header["program"] + header["prompt"]].decode("utf-8", "surrogatepass")
        tests = blob[header["program"] + header["prompt"] :].decode("utf-8", "surrogatepass")
        key = (prompt, tests, header["entry"])
        prepared = kept.get(key)
        if prepared is None:
            try:
                prepared = prepare(*key)
            except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
                prepared = f"tests: {error}"
            kept[key] = prepared
            if len(kept) > 64:
                kept.popitem(last=False)
        else:
            kept.move_to_end(key)
        with socket.socket(fileno=fds[0]) as talk:
            if isinstance(prepared, Prepared) and not prepared.tame:
                pid = os.fork()
                if pid == 0:
                    wire.send(control, judge(Remote(talk), program, prepared))
                    os._exit(0)
                _, status, _ = os.wait4(pid, 0)
                if status:
                    wire.send(control, {"end": "error", "text": f"the tests' process ended with status {status}"})
            else:
                wire.send(control, judge(Remote(talk), program, prepared))


def judge(remote: Remote, program: bytes, prepared: Prepared | str) -> dict[str, Any]:
    """The dialog with one candidate; what came of it, in a word (`end`) and a text."""
    try:
        letter, text = remote.ask(b"P", program)
        if letter == b"s":
            return {"end": "syntax", "text": text[:2000].decode("utf-8", "replace")}
        if letter == b"x":
            told = json.loads(text)
            return {"end": "load", "type": str(told.get("type"))[:80], "code": told.get("code")}
        if letter != b"l":
            return {"end": "tampered", "text": "forged"}
        if isinstance(prepared, str):
            return {"end": "fallback", "text": prepared}
        _run(remote, prepared)
        return {"end": "ok"}
    except Gone:
        return {"end": "gone"}
    except Fallback as error:
        return {"end": "fallback", "text": str(error)}
    except Tampered as error:
        return {"end": "tampered", "text": str(error)}
    except RemoteExit as error:
        return {"end": "exit", "code": error.code}
    except SystemExit as error:
        # unittest.main() leaves this way; it is the tests' own word.
        finished = isinstance(prepared, Prepared) and any("unittest" in line for line in prepared.lines)
        if finished and not error.code:
            return {"end": "ok"}
        return {"end": "fail", "text": f"SystemExit: {error.code}"} if error.code else {"end": "exit", "code": 0}
    except BaseException as error:
        return _failure(remote, prepared, error)


def _run(remote: Remote, prepared: Prepared) -> None:
    space: dict[str, Any] = {"__name__": "__main__", "__builtins__": builtins}
    if prepared.helpers is not None:
        exec(prepared.helpers, space)
    if prepared.needed:
        letter, text = remote.ask(b"N", json.dumps(prepared.needed).encode())
        if letter != b"n":
            raise Tampered("forged")
        try:
            described = json.loads(text)
            for name in prepared.needed:
                _bind(remote, space, name, described.get(name))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise Tampered("forged") from None
    if not prepared.tame:
        main = types.ModuleType("__main__")
        main.__dict__.update(space)
        space = main.__dict__
        sys.modules["__main__"] = main
    exec(prepared.code, space)


def _bind(remote: Remote, space: dict[str, Any], name: str, described: Any) -> None:
    """Give the tests a name that the program defines, as far as it can be given safely."""
    if described is None:
        return  # the tests' NameError is the verdict, as it would be anywhere
    kind = described[0]
    if kind == "m":
        # A module under its own name means itself; anything else is only known over there.
        if described[1] == name and name in PURE:
            space[name] = __import__(name)
        else:
            raise Fallback(f"the tests use the program's {name}")
    elif kind == "i":
        home = described[1]
        if home.lstrip("_") in PURE and hasattr(__import__(home.lstrip("_")), name):
            space[name] = getattr(__import__(home.lstrip("_")), name)
        else:
            raise Fallback(f"the tests use the program's {name}")
    elif kind == "v":
        try:
            value = remote.unpacker.unpack(described[1])
        except (ValueError, TypeError, KeyError, IndexError, RecursionError, ArithmeticError):
            raise Tampered("forged") from None
        if isinstance(value, _Object):
            raise Fallback(f"the tests use the program's {name}")
        if isinstance(value, types.FunctionType):
            value.__name__ = value.__qualname__ = name
        space[name] = value
    else:
        raise Fallback(f"the tests use the program's {name}")


def _failure(remote: Remote, prepared: Prepared | str, error: BaseException) -> dict[str, Any]:
    line = ""
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<tests>" and isinstance(prepared, Prepared):
            number = trace.tb_lineno
            if 0 < number <= len(prepared.lines):
                line = f'  File "<tests>", line {number}\n    {prepared.lines[number - 1].strip()}\n'
        trace = trace.tb_next
    asked = {"show": error is remote.failed, "used": prepared.builtins if isinstance(prepared, Prepared) else []}
    try:
        # A program that disarmed what it took for its tests has not failed by accident.
        if (changed := remote.value(*remote.ask(b"B", json.dumps(asked).encode()))) and changed[0]:
            return {"end": "tampered", "text": f"control: {str(changed[0])[:80]}"}
    except Gone:
        return {"end": "gone"}
    except BaseException:
        return {"end": "tampered", "text": "forged"}
    try:
        said = str(error)[:1000]
    except Exception:
        said = ""
    name = type(error).__name__
    return {"end": "fail", "type": name, "text": line + name + (f": {said}" if said else "")}
