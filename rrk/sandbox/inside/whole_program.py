"""A whole Python program in a fork of process 1, and a function of it: the candidate's side of cases.

    whole(text, "", path)                                       # as `python main.py` would: never returns
    called(text, "", path, entry="add", result=3, args=b"[1, 2]")    # writes the JSON of add(1, 2) to descriptor 3
    Compiled(text, "", path).run(None, 3, b"")                  # the same, compiled once for many children

Nothing here is trusted once the program has begun, and nothing need be: the expected outputs are not in this process, nor in
any other of the jail, so whatever a program prints or returns is only compared with them, outside.
"""

from __future__ import annotations

import atexit
import builtins
import io
import json
import linecache
import os
import sys
import traceback
import types
from typing import Any, NoReturn

from rrk.sandbox.inside import randomness

_exit, _write, _compile, _exec = os._exit, os.write, compile, exec
_dumps, _loads = json.dumps, json.loads
_NAMES: set[str] = set()  # those that the program's text has: one program a process
_METHOD = types.BuiltinMethodType  # a stream's write, for one
_STREAM = io.IOBase.__mro__[1]  # what all streams are, without the question to an ABC
DIGITS = 50_000  # of whole numbers as texts: LiveCodeBench's limit


def whole(program: str, prelude: str, path: str, result: int) -> NoReturn:
    """Run a program as the main module until its end; says b"s" on `result` where it is no Python."""
    _prepare(path)
    randomness.reseed(program)
    space = _main(path)
    code = _compiled(program, path, result)
    _end(1 if code is None else _ran(code, program, prelude, path, result, space))


def called(program: str, prelude: str, path: str, entry: str, result: int, args: bytes) -> NoReturn:
    """Load a program, call its function (of `class Solution`, if that has it) and say b"v" and the JSON of its value."""
    _prepare(path)
    randomness.reseed(program)
    space = _main(path)
    arguments = _loads(args)
    code = _compiled(program, path, result)
    status = 1 if code is None else _ran(code, program, prelude, path, result, space)
    _end(status or _told(space, entry, result, arguments))


class Compiled:
    """A program before its first statement, its prelude run: for children of this process, a run each.

    Raises whatever compiling and the prelude raise; whole() and called() then say how that ends.
    """

    def __init__(self, program: str, prelude: str, path: str) -> None:
        _prepare(path)
        self.program, self.path, self.space = program, path, _main(path)
        self.code = _compile(program, path, "exec", dont_inherit=True)
        _remember(self.code)
        self.draws = randomness.drawn_by(program)
        if prelude:
            _exec(_compile(prelude, "<prelude>", "exec", dont_inherit=True), self.space)
        # Where a program may find modules of its own making, nobody has looked yet.
        sys.path_importer_cache.pop(os.path.dirname(path), None)

    def run(self, entry: str | None, result: int, args: bytes) -> NoReturn:
        """In a child: as whole(), or as called() where there is an entry."""
        if self.draws:
            randomness.seed()
        arguments = None if entry is None else _loads(args)
        status = _ran(self.code, self.program, "", self.path, result, self.space)
        _end(status or (0 if entry is None else _told(self.space, entry, result, arguments)))


def _prepare(path: str) -> None:
    sys.argv = [path]
    sys.path.insert(0, os.path.dirname(path))
    sys.set_int_max_str_digits(DIGITS)
    sys.stdin = sys.__stdin__ = open(0, encoding="utf-8", errors="surrogateescape", closefd=False)  # type: ignore[misc]


def _main(path: str) -> dict[str, Any]:
    """The namespace of a new main module."""
    main = types.ModuleType("__main__")
    main.__dict__.update({"__file__": path, "__builtins__": builtins})
    sys.modules["__main__"] = main
    return main.__dict__


def _compiled(program: str, path: str, result: int) -> types.CodeType | None:
    try:
        code: types.CodeType = _compile(program, path, "exec", dont_inherit=True)
        _remember(code)
        return code
    except (SyntaxError, ValueError, OverflowError, RecursionError, MemoryError) as error:
        _show(error)
        _write(result, b"m" if isinstance(error, MemoryError) else b"s")
        return None


def _remember(code: types.CodeType) -> None:
    _NAMES.update(code.co_names)
    for value in code.co_consts:
        if isinstance(value, types.CodeType):
            _remember(value)


def _ran(code: types.CodeType, program: str, prelude: str, path: str, result: int, space: dict[str, Any]) -> int:
    """The exit status of a program that has come to its end."""
    try:
        if prelude:
            _exec(_compile(prelude, "<prelude>", "exec", dont_inherit=True), space)
        _exec(code, space)
    except SystemExit as error:
        return _code(error)
    except BaseException as error:
        linecache.cache[path] = (len(program), None, program.splitlines(True), path)
        _show(error)
        if isinstance(error, MemoryError):
            _write(result, b"m")
        return 1
    return 0


def _told(space: dict[str, Any], entry: str, result: int, arguments: Any) -> int:
    """Call the function and write its value; the exit status."""
    try:
        holder: Any = space.get("Solution")
        function = getattr(holder(), entry) if hasattr(holder, entry) else space.get(entry)
        if function is None:
            raise NameError(f"name '{entry}' is not defined")
        value = function(*arguments)
    except SystemExit as error:
        _end(_code(error))
    except BaseException as error:
        _show(error)
        _end(1)
    sys.set_int_max_str_digits(0)
    try:
        text = _dumps(value, default=_other)
    except (TypeError, ValueError, RecursionError):
        text = _dumps({"$object": type(value).__name__})
    data = b"v" + text.encode("utf-8", "surrogatepass")
    while data:
        data = data[_write(result, data) :]
    return 0


def _code(error: SystemExit) -> int:
    """The exit status that python makes of it."""
    if error.code is None:
        return 0
    if isinstance(error.code, int):
        return error.code & 0xFF
    try:
        print(error.code, file=sys.stderr)
    except BaseException:
        pass
    return 1


def _end(status: int) -> NoReturn:
    """Leave as an interpreter does: wait for threads, call what atexit has, flush."""
    try:
        if (threading := sys.modules.get("threading")) is not None:
            threading._shutdown()
        atexit._run_exitfuncs()
    except BaseException:
        pass
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None and not stream.closed:
                stream.flush()
        except BaseException:
            status = status or 120  # as CPython's own
    # An interpreter takes its objects apart, and files write what they hold; no more is owed to the other objects. Only what the
    # program's text names is looked at: looking at all that a prelude has given would cost a forked child more than its program.
    space = getattr(sys.modules.get("__main__"), "__dict__", {})
    for value in (sys.__stdout__, *map(space.get, _NAMES)):
        try:
            file: Any = value.__self__ if type(value) is _METHOD else value  # write = open(1, "w").write
            if issubclass(type(file), _STREAM) and not file.closed:
                file.flush()
        except BaseException:
            pass
    _exit(status)


def _show(error: BaseException) -> None:
    """The traceback as python prints it, without our own frames."""
    try:
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
            trace = trace.tb_next
        traceback.print_exception(type(error), error, trace, limit=-8, file=sys.stderr)
    except BaseException:
        pass


def _other(value: Any) -> Any:
    if isinstance(value, set | frozenset):
        return {"$set": list(value)}
    if type(value).__module__.partition(".")[0] == "numpy" and hasattr(value, "tolist"):
        return value.tolist()
    return {"$object": type(value).__name__}
