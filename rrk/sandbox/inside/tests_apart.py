"""The tests' side of a Python verdict: a process that no candidate shares, in a jail of its own.

serve() is process 1 of that jail. It runs a job's tests with stand-ins for the program's functions; each call goes to the
candidate's process as plain data (rrk/sandbox/inside/codec.py). Assertions, builtins, the prompt's helper functions and imports
are our own here, so a program can change none of them, and nothing that it returns decides what it is equal to.

The tests come from whoever wrote the problem and are trusted not to attack us, only to be careless: those that could leave
traces (imports beside pure modules, assignments to attributes, exec) run in a fork; all others in this process itself.
"""

from __future__ import annotations

import builtins
import json
import os
import re
import signal
import socket
import sys
import types
from collections import OrderedDict
from typing import Any

from rrk.sandbox.inside import randomness, wire
from rrk.sandbox.inside.asserts import failure
from rrk.sandbox.inside.cores import Follower
from rrk.sandbox.inside.prepare import COUNTING, PURE, Prepared, prepare
from rrk.sandbox.inside.remote import Fallback, Gone, Object, Remote, RemoteExit, Tampered

KEPT, KEPT_TEXT = 512, 4 << 20  # prepared problems, and characters of their tests
_FOLLOWER = Follower()


def serve(control: socket.socket) -> None:
    """Process 1: one job after the other, until the supervisor goes."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    kept: OrderedDict[tuple[Any, ...], Prepared | str] = OrderedDict()
    size = 0
    sys.setrecursionlimit(3000)
    # A result of 5,000 digits is a result; how long reading it may take is bounded elsewhere.
    sys.set_int_max_str_digits(0)
    sys.argv = ["tests"]  # unittest.main() reads it
    while True:
        header, blob, fds = wire.receive(control)
        program = blob[: header["program"]]
        prompt = blob[header["program"] : header["program"] + header["prompt"]].decode("utf-8", "surrogatepass")
        tests = blob[header["program"] + header["prompt"] :].decode("utf-8", "surrogatepass")
        key = (prompt, tests, header["entry"], header["count"])
        prepared = kept.get(key)
        if prepared is None:
            try:
                prepared = prepare(*key)
            except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
                prepared = f"tests: {error}"
            kept[key] = prepared
            size += len(tests)
            while len(kept) > 1 and (len(kept) > KEPT or size > KEPT_TEXT):
                size -= len(kept.popitem(last=False)[0][1])
        else:
            kept.move_to_end(key)
        with socket.socket(fileno=fds[0]) as talk:
            if isinstance(prepared, Prepared) and not prepared.tame:
                pid = os.fork()
                if pid == 0:
                    randomness.reseed(tests)
                    wire.send(control, judge(Remote(talk), program, prepared, header["main"]))
                    os._exit(0)
                _, status, _ = os.wait4(pid, 0)
                if status:
                    wire.send(control, {"end": "error", "text": f"the tests' process ended with status {status}"})
            else:
                wire.send(control, judge(Remote(talk), program, prepared, header["main"]))


class _Counts:
    """Which asserts held, and what the first that did not says of the program."""

    def __init__(self, remote: Remote, prepared: Prepared) -> None:
        self.remote, self.prepared = remote, prepared
        self.notes: dict[int, bool] = {}
        self.first: dict[str, Any] | None = None

    def names(self) -> dict[str, Any]:
        return {
            f"{COUNTING}_held": lambda number: self.notes.setdefault(number, True),
            f"{COUNTING}_failed": self.failed,
        }

    def failed(self, number: int, error: BaseException) -> None:
        self.notes[number] = False
        if self.first is None:
            self.first = _ended_by(self.remote, self.prepared, error)

    def told(self, found: dict[str, Any]) -> dict[str, Any]:
        """With what was counted; the tests' own word is that of the first failure, whatever came after it."""
        held = "".join("01"[self.notes.get(number, False)] for number in range(self.prepared.asserts))
        return {**(found if self.first is None else {**self.first, "went_on": True}), "held": held}


def judge(remote: Remote, program: bytes, prepared: Prepared | str, main: bool = False) -> dict[str, Any]:
    """The dialog with one candidate; what came of it, in a word (`end`) and a text."""
    if isinstance(prepared, str) or not prepared.asserts:
        return _judged(remote, program, prepared, main, {})
    counts = _Counts(remote, prepared)
    return counts.told(_judged(remote, program, prepared, main, counts.names()))


def _judged(
    remote: Remote, program: bytes, prepared: Prepared | str, main: bool, names: dict[str, Any]
) -> dict[str, Any]:
    try:
        letter, text = remote.ask(b"M" if main else b"P", program)
        if letter == b"s":
            return {"end": "syntax", "text": text[:2000].decode("utf-8", "replace")}
        if letter == b"x":
            told = json.loads(text)
            return {"end": "load", "type": str(told.get("type"))[:80], "code": told.get("code")}
        if letter != b"l":
            return {"end": "tampered", "text": "forged"}
        _FOLLOWER.follow(text)
        if isinstance(prepared, str):
            return {"end": "fallback", "text": prepared}
        _run(remote, prepared, names)
        return _ran(remote, prepared)
    except Gone:
        return {"end": "gone"}
    except Fallback as error:
        return {"end": "fallback", "text": str(error)}
    except Tampered as error:
        return {"end": "tampered", "text": str(error)}
    except BaseException as error:
        # unittest.main() leaves by SystemExit; it is the tests' own word.
        finished = isinstance(prepared, Prepared) and any("unittest" in line for line in prepared.lines)
        if finished and isinstance(error, SystemExit) and not isinstance(error, RemoteExit) and not error.code:
            return _ran(remote, prepared)
        return _ended_by(remote, prepared, error)


def _ended_by(remote: Remote, prepared: Prepared | str, error: BaseException) -> dict[str, Any]:
    """What an exception says that ends the tests, or would."""
    if isinstance(error, RemoteExit):
        return {"end": "exit", "code": error.code}
    if isinstance(error, SystemExit):
        return {"end": "fail", "text": f"SystemExit: {error.code}"} if error.code else {"end": "exit", "code": 0}
    return _failure(remote, prepared, error)


def _ran(remote: Remote, prepared: Prepared | str) -> dict[str, Any]:
    """Tests that came to their end have tested something only if they had something of the program's."""
    if remote.calls or isinstance(prepared, str) or not prepared.needed:
        return {"end": "ok"}
    return {"end": "untested"}


def _run(remote: Remote, prepared: Prepared, names: dict[str, Any]) -> None:
    space: dict[str, Any] = {"__name__": "__main__", "__builtins__": builtins, **names}
    if prepared.helpers is not None:
        exec(prepared.helpers, space)
    if prepared.needed or prepared.both:
        letter, text = remote.ask(b"N", json.dumps(prepared.needed + prepared.both).encode())
        if letter != b"n":
            raise Tampered("forged")
        try:
            described = json.loads(text)
            if both := [name for name in prepared.both if described.get(name) is not None]:
                raise Fallback(f"the program has a {both[0]} too")
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
        if isinstance(value, Object):
            raise Fallback(f"the tests use the program's {name}")
        if not isinstance(value, types.FunctionType):
            # It may change as the program runs, here or there.
            raise Fallback(f"the tests use the program's {name}")
        value.__name__ = value.__qualname__ = name
        space[name] = value
    else:
        raise Fallback(f"the tests use the program's {name}")


def _failure(remote: Remote, prepared: Prepared | str, error: BaseException) -> dict[str, Any]:
    if isinstance(error, NameError) and error is remote.failed and isinstance(prepared, Prepared):
        # The program looked for a name that only the tests define: they meant it to.
        found = re.search(r"name '(\w+)' is not defined", str(error))
        if found and found[1] in prepared.defined:
            return {"end": "fallback", "text": f"the program uses the tests' {found[1]}"}
    lines = prepared.lines if isinstance(prepared, Prepared) else []
    asked = {"show": error is remote.failed, "used": prepared.builtins if isinstance(prepared, Prepared) else []}
    try:
        # A program that disarmed what it took for its tests has not failed by accident.
        if (changed := remote.value(*remote.ask(b"B", json.dumps(asked).encode()))) and changed[0]:
            return {"end": "tampered", "text": f"control: {str(changed[0])[:80]}"}
    except Gone:
        return {"end": "gone", "text": failure(error, lines)}
    except BaseException:
        return {"end": "tampered", "text": "forged"}
    return {"end": "fail", "type": type(error).__name__, "text": failure(error, lines)}
