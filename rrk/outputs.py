"""What `-o FILE` means, wherever something is written.

    with outputs.whole("report.json") as stream:      # FILE appears whole or not at all
        stream.write(data)

A regular file is written beside itself (FILE.part) and renamed when whole. A symbolic link stays, and what it points to is
replaced. Everything else that a name can stand for (a FIFO, a device, /dev/stdout, the shell's >(...)) is written into:
renaming over it would put a file in its place.
"""

from __future__ import annotations

import errno
import gzip
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from rrk.errors import ClosedOutput, RrkError, UsageError


def target(path: str | Path) -> Path:
    """The file that writing to `path` replaces: where its symbolic links lead."""
    path = Path(path)
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def straight(path: str | Path, option: str = "-o") -> BinaryIO | None:
    """A stream into what `path` stands for if that is no regular file; None if it is one, or nothing yet.

    Raises UsageError for a folder and for what cannot be opened.
    """
    own = _own_descriptor(str(path))
    try:
        if own is not None:
            # The descriptor itself, whatever it is: opening its file anew would start at its beginning.
            return os.fdopen(os.dup(own), "wb")
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise UsageError(f"{option} {path}: is a folder; give a file name")
        if stat.S_ISREG(mode):
            return None
        return os.fdopen(os.open(path, os.O_WRONLY), "wb")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UsageError(f"{option} {path}: {error.strerror}") from None


def _own_descriptor(path: str) -> int | None:
    """N where the path is a name of this process's descriptor N: /dev/fd/N, /dev/stdout, a link to one of them."""
    descriptors = os.path.realpath("/proc/self/fd")
    for _ in range(40):  # as many links as Linux follows
        folder, name = os.path.split(path)
        if name.isdecimal() and os.path.realpath(folder) == descriptors:
            return int(name)
        if not os.path.islink(path):
            break
        path = os.path.join(folder, os.readlink(path))
    return None


@contextmanager
def whole(path: str | Path, option: str = "-o") -> Iterator[BinaryIO]:
    """A stream whose bytes become `path` when the block ends; after an error there is no such file, or the old one.

    `option` names the path's option in messages. UsageError: it cannot be written; RrkError: the disk is full.
    """
    stream = straight(path, option)
    if stream is not None:
        try:
            with stream:
                yield stream
        except BrokenPipeError:
            raise ClosedOutput from None
        return
    file = target(path)
    part = Path(f"{file}.part")
    try:
        opened = open(part, "wb")
    except OSError as error:
        raise UsageError(f"{option} {path}: {error.strerror}") from None
    try:
        with opened:
            yield opened
        part.replace(file)
    except BaseException as error:
        part.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None and (told := failure(error, f"{option} {path}")):
            raise told from None
        raise


def failure(error: OSError, name: str = "") -> RrkError | None:
    """The error as one line, if the disk and not rrk is to blame for it; `name` is used where the error names no file."""
    text = f"{error.filename or name or 'standard output'}: {error.strerror}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return RrkError(f"{text}; make room")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return UsageError(text)
    return None


@contextmanager
def packed(raw: BinaryIO, name: str) -> Iterator[Any]:
    """`raw`, or a compressor in front of it where `name` ends in .gz or .zst; the same bytes in, the same bytes out."""
    if name.endswith(".gz"):
        # No name and no time in the header.
        with gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0) as sink:
            yield sink
    elif name.endswith(".zst"):
        import zstandard

        with zstandard.ZstdCompressor().stream_writer(raw, closefd=False) as sink:
            yield sink
    else:
        yield raw
