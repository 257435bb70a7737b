"""The candidate's side of a Python verdict: runs the program, then its functions when the tests ask, over one socket.

Nothing here is trusted once the program has begun: it lives in the program's own process. What it says is read by
rrk/sandbox/codec.py on the other side, and a pass is only what the tests find there.

Frames are a length (4 bytes), a letter and a text. In: P program, N names that the tests use, C call, I next of an iterator,
T tests to run here (the weaker mode), V asserts for evidence. Out: l loaded (and on which core), s syntax error, x ended by
an exception, n names, r result, e exception, t decides its own equality, d done, v one assert's outcome.
"""

from __future__ import annotations

import _signal
import ast
import builtins
import hashlib
import importlib
import itertools
import json
import linecache
import os
import signal
import struct
import sys
import traceback
import types
from typing import Any, NoReturn

from rrk.sandbox import codec
from rrk.sandbox.lane_asserts import failure, split_assert

_FRAME = struct.Struct("<I")
_exit, _write, _read, _getpid = os._exit, os.write, os.read, os.getpid
_exec, _compile, _type, _len, _repr = exec, compile, type, len, repr
_Base, _Assertion, _Exit = BaseException, AssertionError, SystemExit
_BUILTINS: dict[str, Any] = {}
_CONTROL = compile("assert 1 == 2", "<control>", "exec")
_SOURCE: list[tuple[str, str]] = []  # the program's path and text, for tracebacks

# Loaded once, so that a candidate need not: what HumanEval and MBPP solutions import.
_PRELOAD = [
    "array", "bisect", "calendar", "cmath", "collections", "collections.abc", "copy", "dataclasses", "datetime",
    "decimal", "enum", "fractions", "functools", "hashlib", "heapq", "itertools", "json", "math", "operator",
    "random", "re", "statistics", "string", "sys", "textwrap", "time", "typing", "unicodedata",
]  # fmt: skip
_ITERATORS = (
    types.GeneratorType, map, filter, zip, enumerate, reversed, type(iter([])), type(iter(())), type(iter("")),
    type(iter({})), type(iter(set())), type(iter(range(0))), type(iter({}.values())), type(iter({}.items())),
    type(iter(lambda: 0, 0)), *(kind for kind in vars(itertools).values() if isinstance(kind, type)),
)  # fmt: skip


def preload(role: str) -> None:
    """Everything that candidates (or tests) share, in process 1 before it forks the first."""
    for name in _PRELOAD:
        importlib.import_module(name)
    import site

    site.setquit()  # exit() and quit(), which -S leaves out
    _BUILTINS.update(vars(builtins))


class _Dialog:
    def __init__(self, talk: int):
        self.talk = talk

    def say(self, letter: bytes, text: bytes = b"") -> None:
        data = _FRAME.pack(_len(text) + 1) + letter + text
        while data:
            data = data[_write(self.talk, data) :]

    def hear(self) -> tuple[bytes, bytes]:
        size = _FRAME.unpack(self._exactly(4))[0]
        data = self._exactly(size)
        return data[:1], data[1:]

    def _exactly(self, size: int) -> bytes:
        data = b""
        parts = []
        while size:
            data = _read(self.talk, min(size, 1 << 20))
            if not data:
                _flush()
                _exit(0)
            parts.append(data)
            size -= _len(data)
        return parts[0] if _len(parts) == 1 else b"".join(parts)


def candidate(talk: int, work: str, core: bytes) -> NoReturn:
    """The whole life of a candidate's process; never returns. core: what it says about where it runs."""
    me = _getpid()
    dialog = _Dialog(talk)
    _signal.signal(_signal.SIGINT, _signal.default_int_handler)
    _, text = dialog.hear()
    program = text.decode("utf-8", "surrogatepass")
    path = work + "/main.py"  # a name only: a file would cost as much as a short program
    _SOURCE.append((path, program))
    sys.path.insert(0, work)
    sys.argv = [path]
    main = types.ModuleType("__main__")
    space = main.__dict__
    space["__file__"] = path
    space["__builtins__"] = builtins
    sys.modules["__main__"] = main
    loaded = _load(program, path, space, core)
    if _getpid() != me:  # a child that the program forked came back out of it
        _flush()
        _exit(0)
    dialog.say(*loaded)
    if loaded[0] != b"l":
        _flush()
        _exit(1)
    server = _Server(dialog, space)
    while True:
        letter, text = dialog.hear()
        answer = server.answer(letter, text)
        if _getpid() != me:
            _flush()
            _exit(0)
        _flush()
        dialog.say(*answer)


def _load(program: str, path: str, space: dict[str, Any], core: bytes) -> tuple[bytes, bytes]:
    try:
        code = _compile(program, path, "exec", dont_inherit=True)
    except MemoryError:
        return b"x", b'{"type":"MemoryError"}'
    except (SyntaxError, ValueError, OverflowError, RecursionError, UnicodeError) as error:
        _show(error)
        return b"s", f"{_type(error).__name__}: {error}".encode("utf-8", "replace")
    try:
        _exec(code, space)
    except _Base as error:
        return b"x", _told(error)
    _flush()
    return b"l", core


def _told(error: BaseException, show: bool = True) -> bytes:
    """An exception in plain data: its name, that of the builtin it derives from, its arguments if they are plain."""
    kind = _type(error)
    base = next((k.__name__ for k in kind.__mro__ if k.__module__ == "builtins"), "Exception")
    told: dict[str, Any] = {"type": kind.__name__, "base": base}
    if isinstance(error, _Exit):
        code = error.code
        told["code"] = code if _type(code) in (int, bool, type(None)) else 1
        if _type(code) is str:
            _show(error)
    elif show:
        _show(error)
    try:
        told["args"] = codec.Packer().pack(list(error.args))
        return json.dumps(told).encode()
    except _Base:
        told.pop("args", None)
        return json.dumps(told).encode()


def _show(error: BaseException) -> None:
    """Print the traceback as python does, without our own frames."""
    try:
        for path, program in _SOURCE:
            linecache.cache[path] = (len(program), None, program.splitlines(True), path)
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
            trace = trace.tb_next
        if sys.stderr is not None:
            traceback.print_exception(_type(error), error, trace, limit=-8, file=sys.stderr)
    except _Base:
        pass


def _innermost(error: BaseException) -> str:
    """The file in which an exception was raised."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else trace.tb_frame.f_code.co_filename


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except _Base:
            pass


class _Server:
    """Answers the tests' questions."""

    def __init__(self, dialog: _Dialog, space: dict[str, Any]):
        self.dialog, self.space = dialog, space
        self.handles: list[Any] = []
        self.error: BaseException | None = None

    def answer(self, letter: bytes, text: bytes) -> tuple[bytes, bytes]:
        if letter == b"C":
            return self.call(text)
        if letter == b"N":
            return b"n", json.dumps({name: self.describe(name) for name in json.loads(text)}).encode()
        if letter == b"I":
            return self.following(json.loads(text))
        if letter == b"T":
            return in_process(self.space, json.loads(text))
        if letter == b"V":
            return self.evidence(json.loads(text))
        if letter == b"B":  # the tests ended; by the exception that came last, if the text says so
            asked = json.loads(text)
            if asked["show"] and self.error is not None:
                _show(self.error)
            return b"r", json.dumps([disarmed(asked["used"])]).encode()
        return b"", b""

    def describe(self, name: str) -> Any:
        """What a name is: plain data ["v", form], a module ["m", name], a class ["c"], a function ["f", number] or nothing."""
        value = self.space.get(name, self)
        if value is self:
            return None
        if isinstance(value, types.ModuleType):
            return ["m", value.__name__]
        home = getattr(value, "__module__", None)
        if (
            isinstance(home, str)
            and home != "__main__"
            and getattr(value, "__name__", getattr(value, "_name", None)) == name
        ):
            return ["i", home]  # from HOME import NAME
        if isinstance(value, type):
            return ["c"]
        try:
            return ["v", codec.Packer(self.other).pack(value)]
        except (codec.Uncrossable, codec.Decides, RecursionError):
            return ["u"]

    def other(self, value: Any) -> dict[str, Any]:
        number = _len(self.handles)
        self.handles.append(value)
        kind = _type(value)
        if kind in _ITERATORS:
            return {"g": number}
        if isinstance(value, type):
            return {"o": [number, value.__name__, True]}
        if callable(value) and kind.__module__ != "__main__":
            return {"f": [number, str(getattr(value, "__name__", "f"))]}
        return {"o": [number, kind.__name__, any(codec.deciding(k) for k in kind.__mro__)]}

    def local(self, tag: str, number: Any) -> Any:
        return self.handles[number]

    def call(self, text: bytes) -> tuple[bytes, bytes]:
        what, args, named = codec.Unpacker(self.local).loads(text)
        function = self.handles[what]
        before = codec.Packer(self.other).dumps([args, named]) if mutable(args) or named else None
        try:
            result = function(*args, **named)
        except _Base as error:
            self.error = error
            return b"e", _told(error, show=False)
        try:
            after = codec.Packer(self.other).dumps([args, named]) if before is not None else None
            changed = after if after is not None and after != before else b"false"
            for index, value in enumerate(args):
                if result is value and _type(value) in (list, dict, set):
                    return b"r", b'[{"a":%d},%s]' % (index, changed)
            return b"r", b"[%s,%s]" % (codec.Packer(self.other).dumps(result), changed)
        except codec.Decides as error:
            return b"t", str(error).encode()
        except codec.Uncrossable as error:
            return b"u", str(error).encode()
        except _Base as error:
            return b"e", _told(error)

    def following(self, number: int) -> tuple[bytes, bytes]:
        try:
            return b"r", codec.Packer(self.other).dumps([next(self.handles[number])])
        except StopIteration:
            return b"r", b"[]"
        except codec.Decides as error:
            return b"t", str(error).encode()
        except codec.Uncrossable as error:
            return b"u", str(error).encode()
        except _Base as error:
            return b"e", _told(error)

    def evidence(self, wanted: dict[str, Any]) -> tuple[bytes, bytes]:
        """Run asserts, each with a limit; every outcome is told at once, so that a crash costs one of them only.

        A program that never ends on one input mostly does so on hundreds: after 3 such asserts the others get a tenth of
        the limit, after 20 a hundredth (CodeT gave every assert a tenth of a second).
        """
        lates = wanted["lates"]

        def late(*_: object) -> None:
            nonlocal lates
            lates += 1
            raise TimeoutError("this assert's time is up")

        signal.signal(signal.SIGVTALRM, late)
        for text in wanted["tests"]:
            passed, digest, before = b"0", b"-", lates
            share = 1.0 if lates < 3 else 0.1 if lates < 20 else 0.01
            signal.setitimer(signal.ITIMER_VIRTUAL, wanted["each_s"] * share)
            try:
                subject, whole = split_assert(text, wanted["entry"])
                if subject is not None:
                    value = eval(subject, self.space)
                    digest = (
                        hashlib.blake2b(_repr(value).encode("utf-8", "replace"), digest_size=6).hexdigest().encode()
                    )
                    self.space["__rrk_value__"] = value
                _exec(whole, self.space)
                passed = b"1"
            except _Base:
                pass
            finally:
                signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            self.dialog.say(b"v", (b"2" if lates > before else passed) + digest)
        return b"d", b""


def mutable(args: Any) -> bool:
    """Whether a function could change its arguments in place."""
    return any(type(a) not in (int, str, float, bool, type(None), bytes, complex, range) for a in args)


def in_process(space: dict[str, Any], wanted: dict[str, Any]) -> tuple[bytes, bytes]:
    """The weaker mode: the tests run here. Proof by a secret after the last one, and checks that asserts are live."""
    subject = str(wanted.get("entry"))
    try:
        if wanted["strict"] or any("__eq__" in text or "__ne__" in text for _, text in _SOURCE):
            tree: Any = ast.parse(wanted["tests"], "<tests>")
            if callable(space.get(subject)) and not isinstance(space[subject], type):
                for node in ast.walk(tree):
                    if isinstance(node, ast.Name) and node.id == subject and isinstance(node.ctx, ast.Load):
                        node.id = "__rrk_subject__"
                space["__rrk_subject__"] = _judged(space[subject])
        else:
            tree = wanted["tests"]
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
        return b"e", _told(error, show=not own)
    live = ""
    try:
        _exec(_CONTROL, space)
        live = "assert"
    except _Assertion:
        pass
    except _Base:
        live = "assert"
    return b"d", f"{wanted['secret']} {live or disarmed(_names(code))}".encode()


def _names(code: types.CodeType) -> set[str]:
    """Every name that this code uses, inner functions included."""
    found = set(code.co_names)
    for constant in code.co_consts:
        if _type(constant) is types.CodeType:
            found |= _names(constant)
    return found


def disarmed(used: Any) -> str:
    """What the program has changed to make tests in its own process pass: a builtin that they use, a trace function."""
    for name in used:
        if name in _BUILTINS and vars(builtins).get(name) is not _BUILTINS[name]:
            return f"builtins.{name}"
    return "trace" if sys.gettrace() is not None or sys.getprofile() is not None else ""


def _judged(function: Any) -> Any:
    """The function under test, refusing results that decide themselves what they are equal to."""

    def call(*args: Any, **named: Any) -> Any:
        result = function(*args, **named)
        kind = _type(result)
        if kind.__module__ == "__main__":
            family = kind.__mro__
            if any(base in family for base in (int, float, str, list, tuple, dict, set)) and any(
                codec.deciding(k) for k in family
            ):
                raise codec.Decides(f"{kind.__name__} overrides how it compares")
        return result

    call.__name__ = call.__qualname__ = getattr(function, "__name__", "call")
    call.__wrapped__ = function  # type: ignore[attr-defined]
    return call
