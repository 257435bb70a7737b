"""The items of a stage's input: rows, or the rows of a problem together, read as they come.

items = Items(["rows.jsonl"], "problem", limit=100, shard=parse_shard("2/8"), validate=check)
for problem in items: ...
expected(items, limit, shard, "problem")       # how many there will be, where the input is a file
"""

from __future__ import annotations

import os
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, TypeVar

from rrk import jsonl, rows
from rrk.errors import RowError, RrkError, UsageError
from rrk.jsonl import Row

Item = TypeVar("Item", Row, list[Row])
SMALL = 64 << 20  # bytes of input that are read twice to see whether the rows of a problem stand together


class Scattered(RowError):
    """A problem's rows do not stand together: nothing that a resumed run could do better."""


def scattered(inputs: Sequence[str]) -> bool:
    """Whether small regular files need to be read as a whole. What cannot be read is told when it is read."""
    if not all(map(os.path.isfile, inputs)) or sum(map(os.path.getsize, inputs)) > SMALL:
        return False
    closed: set[tuple[str, str]] = set()
    last: tuple[str, str] | None = None
    try:
        for row in jsonl.read(inputs):
            key = rows.problem_key(row)
            if key != last:
                if key in closed:
                    return True
                if last is not None:
                    closed.add(last)
                last = key
    except RrkError:
        pass
    return False


class _Given:
    """Rows that are made rather than read, as jsonl.Lines gives lines."""

    def __init__(self, made: Iterable[dict[str, Any]]):
        self._made = iter(made)
        self._number = 0

    def __iter__(self) -> _Given:
        return self

    def __next__(self) -> tuple[str, int, bytes]:
        row = next(self._made)
        self._number += 1
        path, number = rows.where(row) or ("row", self._number)
        return path, number, jsonl.dumps(row)

    def ready(self) -> bool:
        return True


class Items(Generic[Item]):
    """The items of a stage's input. `ready()` is true when next() will not have to wait for a slow producer.

    A bad row ends the iteration instead of raising, so that work already in hand is finished and written first; the
    runner raises `error` afterwards.
    """

    def __init__(
        self,
        inputs: Sequence[str],
        unit: str,
        limit: int | None = None,
        shard: tuple[int, int] = (1, 1),
        validate: Callable[[Row], object] | None = None,
        made: Iterable[dict[str, Any]] | None = None,
    ):
        """made: the rows, where they are not simply those of the inputs."""
        self.error: RrkError | None = None
        self.taken: deque[tuple[int, int]] = deque()  # (position, checksum) of items handed out and not yet done
        self._lines: jsonl.Lines | _Given = jsonl.Lines(inputs) if made is None else _Given(made)
        self.inputs = list(inputs) if made is None else []
        self._by_problem = unit == "problem"
        self._limit, self._shard, self._validate = limit, shard, validate
        self._group: list[Row] = []
        self._key: tuple[str, str] | None = None  # of the group
        self._closed: set[tuple[str, str]] = set()
        self._queue: deque[tuple[Any, int]] = deque()  # items that are whole, with the checksum behind them
        self._checksum = 0
        self._seen = 0  # whole items read, before sharding
        self._position = 0  # items handed out or skipped, after sharding
        self._ended = False

    def __iter__(self) -> Items[Item]:
        return self

    def __next__(self) -> Item:
        item, checksum = self._take()
        self.taken.append((self._position, checksum))
        return item

    def ready(self) -> bool:
        """True if next() returns (or ends) at once."""
        while not self._queue and not self._ended and self._lines.ready():
            self._read_line()
        return bool(self._queue) or self._ended

    def skip(self, count: int) -> int:
        """Pass over items that an earlier run did; returns the checksum of the input up to there."""
        checksum = 0
        for _ in range(count):
            try:
                _, checksum = self._take()
            except StopIteration:
                return -1
        return checksum

    def _take(self) -> tuple[Any, int]:
        while not self._queue:
            if self._ended:
                raise StopIteration
            self._read_line()
        self._position += 1
        return self._queue.popleft()

    def _read_line(self) -> None:
        try:
            path, number, line = next(self._lines)
            row = jsonl.parse(line, path, number)
            if self._validate is not None:
                self._validate(row)
            checksum = zlib.crc32(line.strip(), self._checksum)
            if not self._by_problem:
                self._checksum = checksum
                self._push(row)
                return
            key = rows.problem_key(row)
            if key != self._key:
                if self._group:
                    self._push_group()
                if key in self._closed:
                    hint = (
                        f"sort by task_id, or use --unsorted (holds all rows in memory); '{key[0]}' was complete before"
                    )
                    raise Scattered(f"the rows of a problem must stand together: {hint}", rows.where(row))
                self._key = key
            if not self._ended:
                self._group.append(row)
                self._checksum = checksum
        except StopIteration:
            self._finish()
        except RowError as error:
            self.error = error
            # The unfinished problem is not handed out: half of its candidates would be ranked as if they were all.
            self._group = []
            self._finish()

    def _finish(self) -> None:
        if self._group and not self._ended:
            self._push_group()
        self._ended = True

    def _push_group(self) -> None:
        group, self._group = self._group, []
        self._closed.add(rows.problem_key(group[0]))
        self._push(group)

    def _push(self, item: Any) -> None:
        index, of = self._shard
        if self._seen % of == index - 1:
            self._queue.append((item, self._checksum))
        self._seen += 1
        if self._limit is not None and self._seen >= self._limit:
            self._ended = True


class Unsorted(Items[list[Row]]):
    """Problems whose rows stand anywhere in the input: reads everything first."""

    def _read_line(self) -> None:
        groups: dict[tuple[str, str], list[Row]] = {}
        try:
            for path, number, line in self._lines:
                row = jsonl.parse(line, path, number)
                if self._validate is not None:
                    self._validate(row)
                groups.setdefault(rows.problem_key(row), []).append(row)
                self._checksum = zlib.crc32(line.strip(), self._checksum)
        except RowError as error:
            # Any problem may lack rows now.
            self.error = error
            groups = {}
        for group in groups.values():
            if not self._ended:
                self._push(group)
        self._ended = True


def parse_shard(text: str | None) -> tuple[int, int]:
    """`2/8` -> (2, 8); shards count from 1."""
    if text is None:
        return 1, 1
    index, slash, of = text.partition("/")
    if slash and index.isdecimal() and of.isdecimal() and 1 <= int(index) <= int(of):
        return int(index), int(of)
    raise UsageError(f"--shard {text}: give i/n with 1 <= i <= n, as in 2/8")


MEASURED = 256 << 20  # bytes of input in which the items are counted beforehand


def expected(items: Items[Any], limit: int | None, shard: str | None, unit: str) -> int | None:
    """How many items there will be, where the input is a file that is quickly read; None: not known."""
    paths = items.inputs
    if not paths or not all(map(os.path.isfile, paths)) or sum(map(os.path.getsize, paths)) > MEASURED:
        return None
    lines = jsonl.Lines(paths)
    try:
        if unit == "problem":
            count = len({rows.problem_key(jsonl.parse(line, path, number)) for path, number, line in lines})
        else:
            count = sum(1 for _ in lines)
    except RrkError:
        return None  # told when its row is reached
    count = min(count, limit) if limit is not None else count
    index, of = parse_shard(shard)
    return (count - index) // of + 1 if count >= index else 0
