"""The errors that rrk shows as one line: what is wrong, where, and what to do about it.

Every module raises these; `rrk.cli` alone turns them into exit codes (see EXIT_CODES in rrk/cli.py). Anything else that
escapes is a bug of ours and says so; its traceback shows with RRK_TRACEBACK=1.
"""

from __future__ import annotations


class RrkError(Exception):
    """A failure that the user can act on."""

    exit_code = 1


class UsageError(RrkError):
    """Options that contradict each other or what is there."""

    exit_code = 2


class RowError(RrkError):
    """A row that cannot be used. `where` is (path, line number) of the input line, if known."""

    exit_code = 3

    def __init__(self, message: str, where: tuple[str, int] | None = None):
        super().__init__(message)
        self.where = where

    def __str__(self) -> str:
        message = super().__str__()
        return f"{self.where[0]}:{self.where[1]}: {message}" if self.where else message


class Unjudged(RrkError):
    """All rows are written, but some could not be judged: the machinery failed, not the program."""

    exit_code = 4


class Terminated(BaseException):
    """SIGTERM arrived. Derives from BaseException, as KeyboardInterrupt does, so that `except Exception` lets it pass."""


class ClosedOutput(BaseException):
    """Whoever read our standard output has gone (`| head`): stop quietly."""
