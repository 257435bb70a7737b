"""Verdicts kept on disk: what was judged once under the same rules is not judged again.

    cache = Cache("~/.cache/rrk/verdicts")
    cache.get(key)            # a Verdict, or None
    cache.put(key, verdict)

One SQLite file, which several rrk may use at once. Only verdicts on programs are kept, never failures of the machinery.
A key must hold everything that a verdict depends on; `rules()` is the part of it that is rrk itself.
"""

from __future__ import annotations

import hashlib
import json
import platform
import sqlite3
import time
from functools import cache
from pathlib import Path

from rrk.errors import RrkError
from rrk.sandbox.verdict import Verdict

NAME = "verdicts.sqlite"
_EVERY = 1.0  # seconds between commits: a killed run loses at most that much work


@cache
def rules() -> str:
    """Changes with this sandbox's own source and with the Python that judges."""
    digest = hashlib.blake2b(platform.python_version().encode(), digest_size=8)
    sandbox = Path(__file__).parents[1]
    for path in [*sorted(sandbox.rglob("*.py")), sandbox.parent / "cases.py"]:
        digest.update(path.read_bytes())
    return digest.hexdigest()


class Cache:
    """Verdicts by key in `folder`. Use from one thread."""

    def __init__(self, folder: str | Path) -> None:
        self._path = Path(folder).expanduser() / NAME
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._base = sqlite3.connect(self._path, timeout=60, isolation_level=None)
            # WAL: readers never wait for a writer. A lost last second after a power cut is no loss.
            self._base.execute("PRAGMA journal_mode=WAL")
            self._base.execute("PRAGMA synchronous=NORMAL")
            self._base.execute("CREATE TABLE IF NOT EXISTS verdicts (key TEXT PRIMARY KEY, verdict TEXT) WITHOUT ROWID")
        except (OSError, sqlite3.Error) as error:
            raise self._broken(error) from None
        self._fresh: dict[str, str] = {}
        self._last = time.monotonic()

    def get(self, key: str) -> Verdict | None:
        """The verdict under this key, if there is one that can be read."""
        try:
            text = self._fresh.get(key)
            if text is None:
                found = self._base.execute("SELECT verdict FROM verdicts WHERE key = ?", (key,)).fetchone()
                if found is None:
                    return None
                text = found[0]
            return Verdict(**json.loads(text))
        except sqlite3.Error as error:
            raise self._broken(error) from None
        except (ValueError, TypeError):
            return None

    def put(self, key: str, verdict: Verdict) -> None:
        """Keep a verdict; written in groups."""
        fields = {name: value for name, value in vars(verdict).items() if name != "overloaded"}
        self._fresh[key] = json.dumps(fields)
        if time.monotonic() - self._last >= _EVERY:
            self.flush()

    def flush(self) -> None:
        """Write what is not written yet."""
        self._last = time.monotonic()
        if not self._fresh:
            return
        try:
            self._base.execute("BEGIN IMMEDIATE")
            self._base.executemany("INSERT OR REPLACE INTO verdicts VALUES (?, ?)", self._fresh.items())
            self._base.execute("COMMIT")
        except sqlite3.Error as error:
            raise self._broken(error) from None
        self._fresh.clear()

    def close(self) -> None:
        try:
            self.flush()
        finally:
            self._base.close()

    def _broken(self, error: Exception) -> RrkError:
        return RrkError(f"{self._path}: {error}; remove it, or use --no-cache")
