"""Plain data across the border between a candidate and its tests: nothing else can cross, and nothing that crosses runs.

    text = Packer(handles).dumps(value)      # Uncrossable if the value has no plain form
    value = Unpacker(remote).loads(text)     # Forged if the text is not what a Packer writes

JSON with one-key objects for what JSON has no word for: {"t": [...]} is a tuple, {"d": [[k, v], ...]} a dict, and so on. Only
exact builtin types and a few of the standard library's values are read back, each built by its own constructor from plain
parts: never pickle or marshal, never a name that the other side chose. What has no plain form but is not data either (a
function, an iterator, an object of the candidate's own class) crosses as a number that stands for it.
"""

from __future__ import annotations

import json
import sys
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date, datetime, timedelta, timezone
from datetime import time as clock
from decimal import Decimal
from fractions import Fraction
from typing import Any

MOST = 64 << 20  # bytes of one message
DEEPEST = 3000  # frames that reading or writing may take, whatever the program allowed itself


class Uncrossable(Exception):
    """The value cannot be told in plain data."""


class Decides(Exception):
    """A builtin's subclass that decides itself what it is equal to."""


class Forged(Exception):
    """The other side does not speak as our harness does."""


_PLAIN = frozenset((int, str, bool, float, type(None)))
_dumps = json.JSONEncoder(check_circular=False, separators=(",", ":")).encode
_loads = json.loads
_mro: Callable[[type], tuple[type, ...]] = type.__dict__["__mro__"].__get__
_digits, _get_digits = sys.set_int_max_str_digits, sys.get_int_max_str_digits
_depth, _get_depth = sys.setrecursionlimit, sys.getrecursionlimit
_DATES: dict[str, type] = {"datetime": datetime, "date": date, "time": clock, "timedelta": timedelta}

# How to see through a subclass to the builtin's own value, whatever the subclass has redefined.
_BASES: dict[type, Callable[[Any], Any]] = {
    bool: bool,
    int: int.__int__,
    float: float.__float__,
    complex: lambda v: complex(complex.__dict__["real"].__get__(v), complex.__dict__["imag"].__get__(v)),
    str: str.__str__,
    bytes: lambda v: bytes.__add__(v, b""),
    bytearray: lambda v: bytearray.__add__(v, b""),
    list: lambda v: [*list.__iter__(v)],
    tuple: lambda v: (*tuple.__iter__(v),),
    dict: lambda v: dict(dict.items(v)),
    set: lambda v: {*set.__iter__(v)},
    frozenset: lambda v: frozenset(frozenset.__iter__(v)),
}
_OWN_EQUALITY = ("__eq__", "__ne__")


@contextmanager
def _shallow() -> Iterator[None]:
    """No deeper than DEEPEST: a program that allowed itself a million frames would take the C stack with it."""
    before = _get_depth()
    if before <= DEEPEST:
        yield
        return
    _depth(DEEPEST)  # RecursionError where we are deeper already
    try:
        yield
    finally:
        _depth(before)


@contextmanager
def _long_numbers() -> Iterator[None]:
    """Integers of any number of digits, which Python otherwise refuses to write or read from 4,300 on."""
    before = _get_digits()
    _digits(0)
    try:
        yield
    finally:
        _digits(before)


class Packer:
    """Writes values. `other(value)` gives the form of what is no data; `unique` refuses what is reached on two ways."""

    def __init__(self, other: Callable[[Any], dict[str, Any]] | None = None, unique: bool = False):
        self.other = other
        self.seen: dict[int, Any] | None = {} if unique else None

    def dumps(self, value: Any) -> bytes:
        with _shallow():
            try:
                packed = self.pack(value)
                try:
                    text = _dumps(packed)
                except ValueError:
                    with _long_numbers():
                        text = _dumps(packed)
            except RecursionError:
                raise Uncrossable("nested too deeply, or containing itself") from None
        if len(text) >= MOST:
            raise Uncrossable(f"more than {MOST >> 20} MB")
        return text.encode()

    def pack(self, v: Any) -> Any:
        kind = type(v)
        if kind in _PLAIN:
            return v
        if self.seen is not None and kind in (list, dict, set, bytearray, deque):
            if id(v) in self.seen:
                raise Uncrossable("an object that is reached on two ways")
            self.seen[id(v)] = v
        if kind is list:
            return v if _PLAIN.issuperset(map(type, v)) else [self.pack(x) for x in v]
        if kind is tuple:
            return {"t": [self.pack(x) for x in v]}
        if kind is dict:
            return {"d": [[self.pack(k), self.pack(x)] for k, x in v.items()]}
        if kind is set:
            return {"s": [self.pack(x) for x in v]}
        return self._rare(v, kind)

    def _rare(self, v: Any, kind: type) -> Any:
        if kind is frozenset:
            return {"z": [self.pack(x) for x in v]}
        if kind is bytes:
            return {"b": v.decode("latin-1")}
        if kind is bytearray:
            return {"y": v.decode("latin-1")}
        if kind is complex:
            return {"c": [v.real, v.imag]}
        if kind is range:
            return {"r": [v.start, v.stop, v.step]}
        if v is Ellipsis:
            return {"e": 0}
        if v is NotImplemented:
            return {"e": 1}
        if kind is slice:
            return {"l": [self.pack(v.start), self.pack(v.stop), self.pack(v.step)]}
        if kind is Counter:
            return {"C": [[self.pack(k), self.pack(x)] for k, x in v.items()]}
        if kind is OrderedDict:
            return {"O": [[self.pack(k), self.pack(x)] for k, x in v.items()]}
        if kind is defaultdict:
            return {"E": [[self.pack(k), self.pack(x)] for k, x in v.items()]}
        if kind is deque:
            return {"q": [v.maxlen, [self.pack(x) for x in v]]}
        if kind is Decimal:
            return {"D": str(v)}
        if kind is Fraction:
            return {"F": [v.numerator, v.denominator]}
        if kind is datetime and (v.tzinfo is None or type(v.tzinfo) is timezone):
            told = [v.year, v.month, v.day, v.hour, v.minute, v.second, v.microsecond]
            if v.tzinfo is None:
                return {"T": ["datetime", told]}
            away = v.utcoffset()
            return {"Z": [told, [away.days, away.seconds, away.microseconds], v.tzname()]}
        if kind is date:
            return {"T": ["date", [v.year, v.month, v.day]]}
        if kind is clock and v.tzinfo is None:
            return {"T": ["time", [v.hour, v.minute, v.second, v.microsecond]]}
        if kind is timedelta:
            return {"T": ["timedelta", [v.days, v.seconds, v.microseconds]]}
        if kind is type({}.keys()):
            return {"k": [self.pack(x) for x in v]}
        if kind is type({}.values()):
            return {"v": [self.pack(x) for x in v]}
        if kind is type({}.items()):
            return {"m": [[self.pack(k), self.pack(x)] for k, x in v]}
        family = _mro(kind)
        for base, plain in _BASES.items():
            if base in family:
                if own := [k for k in family[: family.index(base)] if deciding(k)]:
                    raise Decides(f"{own[0].__name__}({base.__name__}) overrides how it compares")
                if _looks_different(family[: family.index(base)]):
                    raise Uncrossable(f"a {kind.__name__}, which is more than a {base.__name__}")
                if base is tuple and type(fields := kind.__dict__.get("_fields")) is tuple:
                    return {"n": [kind.__name__, [*fields], [self.pack(x) for x in tuple.__iter__(v)]]}
                return self.pack(plain(v))
        if self.other is None:
            raise Uncrossable(f"a {kind.__name__}")
        return self.other(v)


_LOOKS = frozenset(("__str__", "__repr__", "__format__", "__getitem__", "__missing__"))
_LIES = frozenset(
    f"__{name}__"
    for name in (
        "lt", "le", "gt", "ge", "bool", "len", "contains", "iter", "hash", "add", "sub", "mul", "truediv", "mod", "abs", "round",
        "radd", "rsub", "rmul", "rtruediv", "neg", "int", "float", "index", "getattribute", "getattr", "class",
    )
)  # fmt: skip


def _looks_different(family: tuple[type, ...]) -> bool:
    """Whether a subclass shows itself in another way than its builtin, and does no more than that.

    One that also computes or compares in its own way crosses as the builtin's own value: it might do so to pass.
    """
    own = {name for kind in family if kind.__module__ == "__main__" for name in kind.__dict__}
    return bool(own & _LOOKS) and not own & _LIES and not any("_fields" in kind.__dict__ for kind in family)


def deciding(kind: type) -> bool:
    """Whether a class of the program's says itself what its objects are equal to."""
    return kind.__module__ == "__main__" and any(name in kind.__dict__ for name in _OWN_EQUALITY)


class Unpacker:
    """Reads values. `remote(tag, parts)` makes the stand-in of a function (f), an iterator (g), an object (o)."""

    def __init__(self, remote: Callable[[str, Any], Any] | None = None):
        self.remote = remote
        self.shapes: dict[tuple[str, tuple[str, ...]], Any] = {}

    def loads(self, text: bytes) -> Any:
        try:
            with _shallow():
                try:
                    parsed = _loads(text)
                except ValueError:
                    with _long_numbers():
                        parsed = _loads(text)
                return self.unpack(parsed)
        except RecursionError:
            # A program may nest deeper than this side reads: no forgery.
            raise Uncrossable("nested too deeply") from None
        except (ValueError, TypeError, KeyError, IndexError, ArithmeticError, AttributeError) as error:
            raise Forged(f"{type(error).__name__}: {error}") from None

    def unpack(self, v: Any) -> Any:
        kind = type(v)
        if kind in _PLAIN:
            return v
        if kind is list:
            return v if _PLAIN.issuperset(map(type, v)) else [self.unpack(x) for x in v]
        ((tag, x),) = v.items()
        if tag == "t":
            return tuple([self.unpack(y) for y in x])
        if tag == "d":
            return self._pairs(x)
        if tag == "s":
            return {self.unpack(y) for y in x}
        if tag == "z":
            return frozenset([self.unpack(y) for y in x])
        if tag == "b":
            return x.encode("latin-1")
        if tag == "y":
            return bytearray(x.encode("latin-1"))
        if tag == "c":
            return complex(x[0], x[1])
        if tag == "r":
            return range(x[0], x[1], x[2])
        if tag == "e":
            return (Ellipsis, NotImplemented)[x]
        if tag == "l":
            return slice(*[self.unpack(y) for y in x[:3]])
        if tag == "C":
            return Counter(self._pairs(x))
        if tag == "O":
            return OrderedDict(self._pairs(x))
        if tag == "E":
            return defaultdict(None, self._pairs(x))
        if tag == "q":
            return deque([self.unpack(y) for y in x[1]], x[0])
        if tag == "D":
            return Decimal(x)
        if tag == "F":
            return Fraction(int(x[0]), int(x[1]))
        if tag == "T":
            return _DATES[x[0]](*map(int, x[1]))
        if tag == "Z":
            zone = timezone(timedelta(*map(int, x[1])), str(x[2]))
            return datetime(*map(int, x[0][:7]), tzinfo=zone)  # type: ignore[misc,arg-type]
        if tag == "n":
            # Names are checked by namedtuple itself; a class a shape, or two of its tuples would not be of one type.
            shape = (str(x[0]), tuple(map(str, x[1])))
            if shape not in self.shapes:
                self.shapes[shape] = namedtuple(*shape)  # type: ignore[misc]
            return self.shapes[shape]._make([self.unpack(y) for y in x[2]])
        if tag == "k":
            return dict.fromkeys([self.unpack(y) for y in x]).keys()
        if tag == "v":
            return dict(enumerate([self.unpack(y) for y in x])).values()
        if tag == "m":
            return self._pairs(x).items()
        if self.remote is None:
            raise ValueError(f"tag {tag!r}")
        return self.remote(tag, x)

    def _pairs(self, pairs: list[Any]) -> dict[Any, Any]:
        return {self.unpack(k): self.unpack(x) for k, x in pairs}
