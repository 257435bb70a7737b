"""Where a stage's rows go: standard output, a pipe, or a file that a stopped run can go on with.

    with closing(sinks.open_sink("verdicts.jsonl", header, resume=True)) as sink:
        sink.done, sink.checksum             # what an earlier run left
        sink.write([row], checksum)          # one item's rows
        sink.publish()                       # FILE.part becomes FILE

FILE.part is plain JSONL. FILE.part.journal has a header (the parameters) and then a line an item: items done, bytes of
FILE.part, and a checksum of the input read so far. A cut at any byte therefore leaves a prefix that can be continued, and
a changed input is noticed. A complete FILE keeps that much in .FILE.rrk, bound to FILE's size and ends: so a complete file
that was made otherwise is never taken for the wanted one, nor written over by mistake.
"""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO

from rrk import __version__, jsonl, outputs
from rrk.errors import ClosedOutput, UsageError


class Sink:
    """Where rows go. `done` items are already there from an earlier run."""

    done = 0
    checksum = 0
    kept_items = 0  # of an earlier run
    spent: Mapping[str, Any] = {}  # what its items cost, as far as it could tell (rrk/costs.py)

    def kept(self) -> Iterator[dict[str, Any]]:
        return iter(())

    def write(self, output: list[dict[str, Any]], checksum: int) -> None:
        raise NotImplementedError

    def publish(self, cost: Mapping[str, Any], inputs: Sequence[str]) -> None:
        """Everything is written. What it cost, and what it was made from, is kept beside a file."""

    def close(self) -> None: ...


class Stream(Sink):
    """Standard output, or whatever else is no regular file; rows are compressed by the suffix of `name`."""

    def __init__(self, stream: BinaryIO | None = None, name: str = ""):
        self._files = ExitStack()
        self._raw = sys.stdout.buffer if stream is None else self._files.enter_context(stream)
        self._stream = self._files.enter_context(outputs.packed(self._raw, name))

    def write(self, output: list[dict[str, Any]], checksum: int) -> None:
        self.done += 1
        try:
            self._stream.write(b"".join(map(jsonl.dumps, output)))
            self._stream.flush()
            self._raw.flush()
        except BrokenPipeError:
            raise ClosedOutput from None

    def close(self) -> None:
        try:
            self._files.close()
        except BrokenPipeError:
            raise ClosedOutput from None


def open_sink(output: str, header: dict[str, Any], resume: bool, force: bool = False) -> Sink:
    """The sink for `-o output`. `force`: a file that is there, or was begun, is made anew."""
    stream = outputs.straight(output) if output != jsonl.STDIN else None
    if stream is None and output != jsonl.STDIN:
        return File(outputs.target(output), header, resume, force)
    if resume:
        if stream is not None:
            stream.close()
        raise UsageError("--resume needs -o FILE: what went down a pipe cannot be continued")
    return Stream(stream, output)


def _carried(header: dict[str, Any]) -> dict[str, Any]:
    """What JSON can carry of it: tuples become lists on the way."""
    return jsonl.loads(jsonl.dumps(header))


def _changed(before: dict[str, Any], header: dict[str, Any]) -> str:
    """The names of what differs between two headers."""
    old, new = before.get("params", {}), header["params"]
    names = sorted(key for key in {*old, *new} if old.get(key) != new.get(key))
    names += [f"--{key}" for key in ("limit", "shard") if before.get(key) != header.get(key)]
    return ", ".join(names) or "another stage"


def _ends(path: Path) -> str:
    """A digest of a file's size, beginning and end: enough to know it again, cheap for any size."""
    state = blake2b(digest_size=16)
    with open(path, "rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        state.update(b"%d " % size)
        for start in (0, max(0, size - (1 << 16))):
            stream.seek(start)
            state.update(stream.read(1 << 16))
    return state.hexdigest()


def made(path: str | Path) -> dict[str, Any] | None:
    """How a file of rows was made (stage, params, cost, inputs relative to its folder); None where nothing tells, or the file
    was changed since."""
    return Made(outputs.target(path)).read()


class Made:
    """`.FILE.rrk`: how a complete FILE was made."""

    def __init__(self, path: Path):
        self._path, self._record = path, path.with_name(f".{path.name}.rrk")

    def write(self, header: dict[str, Any], items: int, checksum: int, **more: Any) -> None:
        known = {"items": items, "checksum": checksum, "file": _ends(self._path), **more}
        record = {"rrk": __version__, **header, **known}
        fresh = self._record.with_name(f"{self._record.name}.new")
        fresh.write_bytes(jsonl.dumps(record))
        fresh.replace(self._record)

    def read(self) -> dict[str, Any] | None:
        """The record, if it speaks of the file as it is now."""
        try:
            record = jsonl.loads(self._record.read_bytes())
            return record if record["file"] == _ends(self._path) else None
        except (OSError, ValueError, KeyError, TypeError):
            return None


class File(Sink):
    """FILE.part with its journal; one process at a time.

    `complete`: FILE is there already, made with the same parameters; then nothing may be written, and `done` and
    `checksum` are those of the run that made it.
    """

    complete = False

    def __init__(self, path: Path, header: dict[str, Any], resume: bool, force: bool = False):
        self._path, self._header = path, _carried(header)
        self._part, self._journal_path = Path(f"{path}.part"), Path(f"{path}.part.journal")
        self._made = Made(path)
        if not force and self._is_complete(resume):
            self.complete = True
            return
        try:
            descriptor = os.open(self._part, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise UsageError(f"-o {path}: {error.strerror}") from None
        self._stream = os.fdopen(descriptor, "r+b")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._stream.close()
            raise UsageError(f"{self._part} is being written by another rrk") from None
        size = os.fstat(descriptor).st_size
        entries: list[bytes] = []
        if not force and (size or self._journal_path.exists()):
            entries = self._entries(resume, size)
        self._bytes = 0
        if entries:
            done, length, checksum = entries[-1].split()
            self.done, self._bytes, self.checksum = int(done), int(length), int(checksum)
            self.kept_items, self.spent = self.done, self._spent()
        self._stream.truncate(self._bytes)
        self._stream.seek(self._bytes)
        fresh = Path(f"{self._journal_path}.new")
        fresh.write_bytes(
            jsonl.dumps(self._header) + b"".join(entry + b"\n" for entry in entries[-1:]) + self._cost_line()
        )
        fresh.replace(self._journal_path)
        self._journal = open(self._journal_path, "ab", buffering=0)

    def _is_complete(self, resume: bool) -> bool:
        """Whether FILE is whole and the wanted one; UsageError where going on would lose it, or take another for it."""
        if self._part.exists() or not self._path.exists():
            return False
        made, empty = self._made.read(), not self._path.stat().st_size
        if made is None or (empty and not resume):
            if resume and not empty:
                raise UsageError(
                    f"{self._path} is there, and nothing says how it was made: --force makes it anew, or choose another -o"
                )
            return False
        same = made.get("stage") == self._header["stage"]
        changed = "" if same and not self._differs(made) else f"with other parameters ({_changed(made, self._header)})"
        if changed or not resume:
            kept = "" if changed else "--resume keeps it, "
            made_how = f"was made {changed}" if changed else "is complete"
            raise UsageError(f"{self._path} {made_how}: {kept}--force makes it anew, or choose another -o")
        self.done, self.checksum = made["items"], made["checksum"]
        return True

    def _differs(self, before: dict[str, Any]) -> bool:
        return any(before.get(key) != value for key, value in self._header.items())

    def _entries(self, resume: bool, size: int) -> list[bytes]:
        """Journal lines that the part file bears out; refuses what would lose or mix rows."""
        recorded = self._journal_path.read_bytes() if self._journal_path.exists() else b""
        first, _, rest = recorded.partition(b"\n")
        whole = rest[: rest.rfind(b"\n") + 1].splitlines()
        whole = [line for line in whole if not line.startswith(b"cost ")]
        entries = [line for line in whole if len(line.split()) == 3 and int(line.split()[1]) <= size]
        if not resume:
            if not entries:
                return []
            raise UsageError(
                f"{self._part} holds {entries[-1].split()[0].decode()} items of a run that did not end; continue it with"
                f" --resume, or start again with --force"
            )
        try:
            before = jsonl.loads(first)
        except ValueError:
            return []
        if before != self._header:
            raise UsageError(
                f"{self._part} was begun with other parameters ({_changed(before, self._header)}); use the same, or"
                f" --force to start again"
            )
        return entries

    def _cost_line(self) -> bytes:
        """`cost {...}`: of a run that ended before it was done, by Ctrl-C or an error; one that is killed cannot tell."""
        return b"cost " + jsonl.dumps(dict(self.spent)) if self.spent else b""

    def _spent(self) -> dict[str, Any]:
        told = [line[5:] for line in self._journal_path.read_bytes().splitlines() if line.startswith(b"cost ")]
        try:
            return jsonl.loads(told[-1]) if told else {}
        except ValueError:
            return {}

    def kept(self) -> Iterator[dict[str, Any]]:
        if self._bytes:
            yield from jsonl.read([str(self._part)])

    def write(self, output: list[dict[str, Any]], checksum: int) -> None:
        data = b"".join(map(jsonl.dumps, output))
        self._stream.write(data)
        self._stream.flush()
        self._bytes += len(data)
        self.done += 1
        self.checksum = checksum
        # After the rows: a journal that is behind costs one item, one that is ahead would lose rows.
        self._journal.write(b"%d %d %d\n" % (self.done, self._bytes, checksum))

    def publish(self, cost: Mapping[str, Any], inputs: Sequence[str]) -> None:
        os.fsync(self._stream.fileno())
        jsonl.publish(self._part, self._path)
        self._journal_path.unlink()
        try:
            # Relative: a folder may move with all that is in it.
            made_from = [name if name == jsonl.STDIN else os.path.relpath(name, self._path.parent) for name in inputs]
            self._made.write(self._header, self.done, self.checksum, cost=dict(cost), inputs=made_from)
        except OSError:
            # A disk without room for the record: the file is whole all the same.
            pass

    def discard(self) -> None:
        """Nothing of this run is worth going on with: leave no part behind."""
        self.done = 0

    def close(self) -> None:
        if self.complete:
            return
        if self._journal_path.exists():
            self._journal.write(self._cost_line())
        self._journal.close()
        try:
            self._stream.close()
        except OSError:
            # A full disk: the unflushed tail is cut off by the next --resume.
            pass
        if not self.done and self._part.exists():
            # Nothing was done: leave nothing behind that would ask for --resume.
            self._part.unlink()
            self._journal_path.unlink(missing_ok=True)
