"""A candidate as its tests see it: stand-ins for its functions, iterators and objects, here; the things themselves, there.

Everything that comes over is plain data by rrk/sandbox/inside/codec.py. What is not as our own harness would say it is Tampered.
"""

from __future__ import annotations

import builtins
import json
import socket
import struct
from dataclasses import dataclass
from typing import Any

from rrk.sandbox.inside import codec, wire

_FRAME = struct.Struct("<I")


class Fallback(BaseException):
    """These tests need more than plain data: judge the job in the candidate's own process."""


class Tampered(BaseException):
    """The program tries to decide its verdict."""


class Gone(BaseException):
    """The candidate's process has ended, or closed its socket."""


class RemoteExit(SystemExit):
    """The program called sys.exit in the middle of a test."""


class Remote:
    """The candidate, as the tests see it."""

    def __init__(self, sock: socket.socket):
        self.sock = sock
        self.unpacker = codec.Unpacker(self._stand_in)
        self.failed: BaseException | None = None  # the last exception that came from the program
        self.calls = 0  # of the program's functions

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
            except codec.Uncrossable as error:
                raise Fallback(f"a result is {error}") from None
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
            self.calls += 1
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
            return Object(self, str(parts[1]), bool(parts[2]))
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
                said = told.get("said")
                own = {} if said is None else {"__str__": lambda self: str(said)}
                kind = type(name, (kind,), own)
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


class Object:
    """An object of the program's own class. It equals only itself; whoever wants more of it needs it in the same process."""

    def __init__(self, remote: Remote, name: str, decides: bool):
        self._rrk: tuple[Remote, str, bool] = (remote, name, decides)

    def __eq__(self, other: object) -> bool:
        _, name, decides = self._rrk
        if isinstance(other, Object):
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


_DECIDE = frozenset(f"__{name}__" for name in ("lt", "le", "gt", "ge", "bool", "contains", "sub", "rsub"))


def _needs(attribute: str) -> Any:
    def method(self: Object, *args: Any) -> Any:
        _, kind, decides = self._rrk
        if decides and attribute in _DECIDE:
            raise Tampered("equality")
        raise Fallback(f"{kind}.{attribute}")

    return method


_NEEDED = (
    "call", "iter", "next", "len", "getitem", "contains", "bool", "lt", "le", "gt", "ge", "add", "radd", "sub", "rsub", "mul",
    "rmul", "truediv", "abs", "round", "int", "float", "str", "repr", "index", "enter",
)  # fmt: skip
for _name in _NEEDED:
    setattr(Object, f"__{_name}__", _needs(f"__{_name}__"))


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
