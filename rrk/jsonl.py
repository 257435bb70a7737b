"""JSON Lines in and out: the only place where rrk opens row files.

    for row in jsonl.read(["a.jsonl", "b.jsonl.gz", "-"]):
        ...                       # row is a dict; row.where is (path, line) for error messages

orjson does the work. It turns integers beyond 64 bits into floats and refuses lone surrogates and NaN, all of which occur
in rows that other tools wrote; such lines go through the standard library's json, so that a row leaves as it came.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import select
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import orjson
import zstandard

from rrk import outputs
from rrk.errors import RowError, RrkError, UsageError

STDIN = "-"

# From here on a float may be an integer that orjson has no room for.
_BEYOND = 2.0**63


class Row(dict[str, Any]):
    """A row that knows where it was read; behaves as the dict that it is."""

    __slots__ = ("where",)

    def __init__(self, fields: dict[str, Any] | Iterable[tuple[str, Any]] = (), where: tuple[str, int] | None = None):
        super().__init__(fields)
        self.where = where


class NonFinite(float):
    """Infinity or NaN, which JSON has no word for and other tools write all the same: kept, where orjson would write null."""


def loads(line: bytes) -> Any:
    """Parse one line; integers of any size stay integers. Raises ValueError on bad JSON."""
    try:
        value = orjson.loads(line)
        if not _huge(value):
            return value
    except orjson.JSONDecodeError:
        pass
    return json.loads(line.decode("utf-8", "surrogatepass"), parse_constant=NonFinite)


def _huge(value: Any) -> bool:
    """Whether a float in it is as large as what becomes of such integers. Much cheaper than looking for digits in the line."""
    groups = [value if isinstance(value, (dict, list)) else [value]]
    for group in groups:
        for item in group.values() if type(group) is dict else group:
            kind = type(item)
            if kind is float:
                if not -_BEYOND < item < _BEYOND:
                    return True
            elif kind is dict or kind is list:
                groups.append(item)
    return False


def dumps(row: Any) -> bytes:
    """One line with its newline. Keys keep their order; values that JSON lacks raise TypeError."""
    try:
        return orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)
    except (orjson.JSONEncodeError, TypeError):
        # Lone surrogates, integers over 64 bits, infinities: escape everything beyond ASCII, which any JSON reader accepts.
        return json.dumps(row, separators=(",", ":")).encode("ascii") + b"\n"


@contextmanager
def open_binary(path: str) -> Iterator[BinaryIO]:
    """Open for reading; `-` is standard input, `.gz` and `.zst` are decompressed by suffix."""
    if path == STDIN:
        yield sys.stdin.buffer
        return
    try:
        raw = open(path, "rb")
    except IsADirectoryError:
        raise UsageError(f"{path}: is a folder; give a JSONL file") from None
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from None
    with raw:
        if path.endswith(".gz"):
            with gzip.open(raw) as stream:
                yield stream  # type: ignore[misc]
        elif path.endswith(".zst"):
            with zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True) as reader:
                yield io.BufferedReader(reader)  # type: ignore[arg-type]
        else:
            yield raw


class Lines:
    """(path, line number from 1, line) of each line that is not blank, over several files.

    `ready()` says whether the next line can be had without waiting, so that a stage with work in hand never sits on
    finished rows while a slow producer thinks.
    """

    def __init__(self, paths: Iterable[str]):
        self._lines = self._read(list(paths))
        self._pipe: _Pipe | None = None

    def __iter__(self) -> Iterator[tuple[str, int, bytes]]:
        return self._lines

    def __next__(self) -> tuple[str, int, bytes]:
        return next(self._lines)

    def ready(self) -> bool:
        return self._pipe is None or self._pipe.ready()

    def _read(self, paths: list[str]) -> Iterator[tuple[str, int, bytes]]:
        for path in paths:
            with open_binary(path) as stream:
                # A pipe is read by the file descriptor: only so can one ask whether a line is there.
                pipe = self._pipe = _Pipe(stream.fileno()) if path == STDIN and _has_descriptor(stream) else None
                source = pipe.readline if pipe else stream.readline
                try:
                    for number, line in enumerate(iter(source, b""), start=1):
                        if number == 1:
                            line = line.removeprefix(b"\xef\xbb\xbf")  # a byte order mark, as Windows' editors write it
                            if line.lstrip()[:1] == b"[":
                                yield from _array(path, line, source)
                                break
                        if line.strip():
                            yield path, number, line
                except (gzip.BadGzipFile, EOFError, zstandard.ZstdError) as error:
                    raise RrkError(f"{path}: damaged compressed file ({error}); write it again") from None
                finally:
                    self._pipe = None


def _array(path: str, first: bytes, more: Callable[[], bytes]) -> Iterator[tuple[str, int, bytes]]:
    """A file that is one JSON array of rows: its elements, numbered like lines."""
    text = b"".join([first, *iter(more, b"")])
    try:
        value = loads(text)
    except (ValueError, RecursionError) as error:
        reason = str(error).split(": line ")[0]
        where = ("<stdin>" if path == STDIN else path, 1)
        raise RowError(f"not JSON ({reason}); JSONL is expected, or one array of rows", where) from None
    for number, row in enumerate(value, start=1):
        yield path, number, dumps(row)


class _Pipe:
    """Lines from a file descriptor without a thread and without waiting for more than a line."""

    def __init__(self, descriptor: int):
        self._descriptor = descriptor
        self._buffer = b""
        self._chunks: list[bytes] = []
        self._ended = False

    def ready(self) -> bool:
        return self._ended or b"\n" in self._buffer or bool(select.select([self._descriptor], [], [], 0)[0])

    def readline(self) -> bytes:
        while True:
            line, newline, rest = self._buffer.partition(b"\n")
            if newline:
                line = b"".join([*self._chunks, line, newline])
                self._buffer, self._chunks = rest, []
                return line
            # Keep the unfinished part in a list: joining at every read would be quadratic in the line's length.
            if line:
                self._chunks.append(line)
            self._buffer = b"" if self._ended else os.read(self._descriptor, 1 << 16)
            if not self._buffer:
                self._ended = True
                line, self._chunks = b"".join(self._chunks), []
                return line


def _has_descriptor(stream: BinaryIO) -> bool:
    try:
        stream.fileno()
    except (OSError, AttributeError):
        return False
    return True


def parse(line: bytes, path: str, number: int) -> Row:
    """The row on one line; RowError names the place if it is not a JSON object."""
    where = ("<stdin>" if path == STDIN else path, number)
    try:
        value = loads(line)
    except (ValueError, RecursionError) as error:
        reason = str(error).split(": line ")[0]
        raise RowError(f"not JSON ({reason}); one object a line is expected", where) from None
    if not isinstance(value, dict):
        raise RowError(f"a JSON object is expected, this is {_kind(value)}", where)
    return Row(value, where)


def read(paths: Iterable[str]) -> Iterator[Row]:
    """Rows of all files in turn."""
    for path, number, line in Lines(paths):
        yield parse(line, path, number)


def write(path: str | Path, rows: Iterable[dict[str, Any]]) -> int:
    """Write a whole file at once (rrk/outputs.py says how); returns the number of rows."""
    count = 0
    with outputs.whole(path) as raw, outputs.packed(raw, str(path)) as sink:
        for row in rows:
            sink.write(dumps(row))
            count += 1
    return count


def publish(part: Path, path: Path) -> None:
    """Turn the finished plain `part` into `path`, compressing by suffix; `path` appears whole or not at all."""
    if path.suffix in (".gz", ".zst"):
        packing = path.with_name(path.name + ".packing")
        with open(part, "rb") as source, open(packing, "wb") as raw, outputs.packed(raw, path.name) as sink:
            shutil.copyfileobj(source, sink, 1 << 20)
        packing.replace(path)
        part.unlink()
    else:
        part.replace(path)


def _kind(value: Any) -> str:
    return {list: "an array", str: "a string", bool: "true or false", type(None): "null"}.get(type(value), "a number")
