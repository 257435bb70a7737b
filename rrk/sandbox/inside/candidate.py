"""The candidate's side of a Python verdict: runs the program, then its functions when the tests ask, over one socket.

Nothing here is trusted once the program has begun: it lives in the program's own process. What it says is read by
rrk/sandbox/inside/codec.py on the other side, and a pass is only what the tests find there.

Frames are a length (4 bytes), a letter and a text. In: P program (M: with its `__main__` part), N names that the tests use, C call, I next of an iterator,
T tests to run here (the weaker mode), V asserts for evidence. Out: l loaded (and on which core), s syntax error, x ended by
an exception, n names, r result, e exception, t decides its own equality, d done, v one assert's outcome.
"""

from __future__ import annotations

import _signal
import ast
import builtins
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

try:  # hashlib loads OpenSSL, and every fork would pay for its pages
    from _blake2 import blake2b as _blake2b
except ImportError:
    from hashlib import blake2b as _blake2b

from rrk.sandbox.inside import codec, randomness, tests_within, warmth
from rrk.sandbox.inside.asserts import split_assert

_FRAME = struct.Struct("<I")
_exit, _write, _read, _getpid = os._exit, os.write, os.read, os.getpid
_exec, _compile, _type, _len, _repr = exec, compile, type, len, repr
_Base, _Exit = BaseException, SystemExit
_SOURCE: list[tuple[str, str]] = []  # the program's path and text, for tracebacks

# Loaded once, so that a candidate need not: what HumanEval and MBPP solutions import. (Not hashlib: OpenSSL makes every fork
# dearer, and few programs ask for it.)
_PRELOAD = [
    "array", "bisect", "calendar", "cmath", "collections", "collections.abc", "copy", "dataclasses", "datetime",
    "decimal", "enum", "fractions", "functools", "heapq", "itertools", "json", "math", "operator",
    "random", "re", "statistics", "string", "sys", "textwrap", "time", "typing", "unicodedata",
]  # fmt: skip
# Values of these that have no plain form are compared by their own libraries: in the same process, or wrongly.
_LIBRARY = frozenset((
    "array", "collections", "dataclasses", "datetime", "decimal", "fractions", "ipaddress", "numpy", "pandas", "pathlib", "re",
    "scipy", "sympy", "torch", "uuid", "zoneinfo",
))  # fmt: skip
_ITERATORS = (
    types.GeneratorType, map, filter, zip, enumerate, reversed, type(iter([])), type(iter(())), type(iter("")),
    type(iter({})), type(iter(set())), type(iter(range(0))), type(iter({}.values())), type(iter({}.items())),
    type(iter(lambda: 0, 0)), *(kind for kind in vars(itertools).values() if isinstance(kind, type)),
)  # fmt: skip


def preload() -> None:
    """Everything that candidates (or tests) share, in process 1 before it forks the first."""
    randomness.load()
    for name in _PRELOAD:
        importlib.import_module(name)
    import site

    site.setquit()  # exit() and quit(), which -S leaves out
    warmth.warm_up()
    tests_within.remember()


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
    letter, text = dialog.hear()
    program = text.decode("utf-8", "surrogatepass")
    path = work + "/main.py"  # a name only: a file would cost as much as a short program
    _SOURCE.append((path, program))
    sys.path.insert(0, work)
    sys.argv = [path]
    randomness.reseed(program)
    main = types.ModuleType("__main__")
    space = main.__dict__
    space["__file__"] = path
    space["__builtins__"] = builtins
    sys.modules["__main__"] = main
    loaded = _load(program, path, space, core, letter == b"M")
    if _getpid() != me:  # a child that the program forked came back out of it
        _flush()
        _exit(0)
    _flush()  # before the word that may be its last: who hears that it failed to load has it killed
    dialog.say(*loaded)
    if loaded[0] != b"l":
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


def _load(program: str, path: str, space: dict[str, Any], core: bytes, as_main: bool) -> tuple[bytes, bytes]:
    try:
        code: Any = program
        if not as_main and "__main__" in program:
            code = _without_guard(ast.parse(program, path))
        code = _compile(code, path, "exec", dont_inherit=True)
    except MemoryError:
        return b"x", b'{"type":"MemoryError"}'
    except (SyntaxError, ValueError, OverflowError, RecursionError, UnicodeError) as error:
        _show(error)
        return b"s", f"{_type(error).__name__}: {error}".encode("utf-8", "replace")
    try:
        _exec(code, space)
    except _Base as error:
        return b"x", _told(error)
    return b"l", core


def _without_guard(tree: ast.Module) -> ast.Module:
    """The program as it runs where it is not the main one: without the body of `if __name__ == "__main__"`."""
    body: list[ast.stmt] = []
    for node in tree.body:
        guard = ast.unparse(node.test) if isinstance(node, ast.If) else ""
        if guard in ("__name__ == '__main__'", "'__main__' == __name__"):
            body += node.orelse  # type: ignore[attr-defined]
        else:
            body.append(node)
    tree.body = body
    return tree


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
        if any(k.__module__ == "__main__" and "__str__" in k.__dict__ for k in kind.__mro__):
            told["said"] = str(error)[:10_000]
        told["args"] = json.loads(codec.Packer().dumps(list(error.args)))
        return json.dumps(told).encode()
    except _Base:
        told.pop("said", None)
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


def _flush() -> None:
    # The last holds what was printed before the program put a stream of its own in its place.
    for stream in (sys.stdout, sys.stderr, sys.__stdout__):
        try:
            stream.flush()  # type: ignore[union-attr]
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
            wanted = json.loads(text)
            randomness.reseed(wanted["tests"])
            return tests_within.judged(self.space, wanted, _SOURCE, _told)
        if letter == b"V":
            return self.evidence(json.loads(text))
        if letter == b"B":  # the tests ended; by the exception that came last, if the text says so
            asked = json.loads(text)
            if asked["show"] and self.error is not None:
                _show(self.error)
            return b"r", json.dumps([tests_within.disarmed(asked["used"])]).encode()
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
        kind = _type(value)
        if kind is memoryview or isinstance(value, _Base) or kind.__module__.partition(".")[0] in _LIBRARY:
            raise codec.Uncrossable(f"a {kind.__module__}.{kind.__name__}")
        number = _len(self.handles)
        self.handles.append(value)
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
        try:
            what, args, named = codec.Unpacker(self.local).loads(text)
        except codec.Uncrossable as error:
            return b"u", str(error).encode()
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
                    digest = _blake2b(_repr(value).encode("utf-8", "replace"), digest_size=6).hexdigest().encode()
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
