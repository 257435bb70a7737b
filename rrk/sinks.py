"""Where a stage's rows go: standard output, or a file that a stopped run can go on with.

    with closing(File(Path("verdicts.jsonl"), header, resume=True)) as sink:
        sink.done, sink.checksum             # what an earlier run left
        sink.write([row], checksum)          # one item's rows
        sink.publish()                       # FILE.part becomes FILE

FILE.part is plain JSONL. FILE.part.journal has a header (the parameters) and then a line an item: items done, bytes of
FILE.part, and a checksum of the input read so far. A cut at any byte therefore leaves a prefix that can be continued, and
a changed input is noticed.
"""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from rrk import jsonl
from rrk.errors import ClosedOutput, UsageError


class Sink:
    """Where rows go. `done` items are already there from an earlier run."""

    done = 0
    checksum = 0

    def kept(self) -> Iterator[dict[str, Any]]:
        return iter(())

    def write(self, output: list[dict[str, Any]], checksum: int) -> None:
        raise NotImplementedError

    def publish(self) -> None: ...

    def close(self) -> None: ...


class Stdout(Sink):
    def __init__(self) -> None:
        self._stream: BinaryIO = sys.stdout.buffer

    def write(self, output: list[dict[str, Any]], checksum: int) -> None:
        self.done += 1
        try:
            self._stream.write(b"".join(map(jsonl.dumps, output)))
            self._stream.flush()
        except BrokenPipeError:
            raise ClosedOutput from None


class File(Sink):
    """FILE.part with its journal; one process at a time."""

    def __init__(self, path: Path, header: dict[str, Any], resume: bool):
        self._path = path
        self._part, self._journal_path = Path(f"{path}.part"), Path(f"{path}.part.journal")
        if path.is_dir():
            raise UsageError(f"-o {path}: is a folder; give a file name")
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
        # Compare what JSON can carry: tuples become lists on the way.
        header = jsonl.loads(jsonl.dumps(header))
        entries: list[bytes] = []
        if size or self._journal_path.exists():
            entries = self._entries(header, resume, size)
        self._bytes = 0
        if entries:
            done, length, checksum = entries[-1].split()
            self.done, self._bytes, self.checksum = int(done), int(length), int(checksum)
        self._stream.truncate(self._bytes)
        self._stream.seek(self._bytes)
        fresh = Path(f"{self._journal_path}.new")
        fresh.write_bytes(jsonl.dumps(header) + b"".join(entry + b"\n" for entry in entries[-1:]))
        fresh.replace(self._journal_path)
        self._journal = open(self._journal_path, "ab", buffering=0)

    def _entries(self, header: dict[str, Any], resume: bool, size: int) -> list[bytes]:
        """Journal lines that the part file bears out; refuses what would lose or mix rows."""
        recorded = self._journal_path.read_bytes() if self._journal_path.exists() else b""
        first, _, rest = recorded.partition(b"\n")
        whole = rest[: rest.rfind(b"\n") + 1].splitlines()
        entries = [line for line in whole if len(line.split()) == 3 and int(line.split()[1]) <= size]
        if not resume:
            if not entries:
                return []
            raise UsageError(
                f"{self._part} holds {entries[-1].split()[0].decode()} items of a run that did not end; continue it with"
                f" --resume, or remove it"
            )
        try:
            before = jsonl.loads(first)
        except ValueError:
            return []
        if before != header:
            old, new = before.get("params", {}), header["params"]
            changed = sorted(key for key in {*old, *new} if old.get(key) != new.get(key))
            changed += [f"--{key}" for key in ("limit", "shard") if before.get(key) != header.get(key)]
            raise UsageError(
                f"{self._part} was begun with other parameters ({', '.join(changed) or 'another stage'}); use the same, or"
                f" remove it"
            )
        return entries

    def kept(self) -> Iterator[dict[str, Any]]:
        if self._bytes:
            yield from jsonl.read([str(self._part)])

    def write(self, output: list[dict[str, Any]], checksum: int) -> None:
        data = b"".join(map(jsonl.dumps, output))
        self._stream.write(data)
        self._stream.flush()
        self._bytes += len(data)
        self.done += 1
        # After the rows: a journal that is behind costs one item, one that is ahead would lose rows.
        self._journal.write(b"%d %d %d\n" % (self.done, self._bytes, checksum))

    def publish(self) -> None:
        os.fsync(self._stream.fileno())
        jsonl.publish(self._part, self._path)
        self._journal_path.unlink()

    def close(self) -> None:
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
