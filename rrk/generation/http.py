"""Asking a server: JSON out and in, several requests side by side, patience with what passes and one line for what does not.

    client = Client("http://localhost:8000/v1", key=None, timeout=600, notice=print)
    answer = client.post("/completions", body, "problem 't/1'")             # a JSON object
    for item, answer in side_by_side(items, ask, jobs=8): ...                # in order; reads ahead only what is ready

Standard library only. No connection, 408, 409, 429, 5xx, an answer that is cut short, late or no JSON: tried again with growing
pauses, or when the server says (Retry-After, seconds or a date). Anything else ends the run with the server's own words.
"""

from __future__ import annotations

import json
import math
import random
import socket
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.client import HTTPException, HTTPResponse
from typing import Any, TypeVar

from rrk.errors import RrkError

AGAIN = {408, 409, 429, 500, 502, 503, 504, 529}
TRIES = 8  # with pauses of 1, 2, 4, ... 60 s: about three minutes, enough for a server that restarts
LONGEST_PAUSE = 60.0
# A server that has never answered and refuses connections is not there: two more tries, not three minutes.
FIRST_TRIES = 3
LARGEST = 256 << 20  # bytes of an answer
Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Status(RrkError):
    """The server refused; `code` is its status."""

    def __init__(self, message: str, code: int):
        super().__init__(message)
        self.code = code


class Client:
    """One server. `timeout`: seconds for a whole answer; `first_pause`: the first wait in seconds, doubled by each."""

    def __init__(
        self,
        base_url: str,
        key: str | None,
        timeout: float,
        notice: Callable[[str], None],
        tries: int = TRIES,
        first_pause: float = 1.0,
    ):
        self.url = base_url.rstrip("/")
        self._timeout, self._notice, self._tries, self._first_pause = timeout, notice, tries, first_pause
        self._headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        self.closed = self._answered = False

    def get(self, path: str) -> dict[str, Any]:
        return self._ask(path, None, "")

    def post(self, path: str, body: dict[str, Any], what: str = "", vain: str = "") -> dict[str, Any]:
        """The answer, a JSON object. Status: it refused `what`; RrkError: no answer could be had.

        vain: a word of refusals that trying again would not change, whatever their status.
        """
        return self._ask(path, json.dumps(body).encode(), what, vain)

    def _ask(self, path: str, data: bytes | None, what: str, vain: str = "") -> dict[str, Any]:
        url = self.url + path
        pause = self._first_pause
        for left in reversed(range(self._tries)):
            try:
                request = urllib.request.Request(url, data, self._headers)
                until = time.monotonic() + self._timeout
                with urllib.request.urlopen(request, timeout=self._timeout) as answer:
                    self._answered = True
                    value = json.loads(_body(answer, until))
                if not isinstance(value, dict):
                    raise ValueError("a JSON object is expected")
                return value
            except urllib.error.HTTPError as error:
                self._answered = True
                said = _message(error)
                if error.code not in AGAIN or not left or (vain and vain in said):
                    about = f" ({what})" if what else ""
                    raise Status(f"{url}: {error.code} {said}{about}", error.code) from None
                wait, why = _retry_after(error.headers.get("Retry-After"), pause), f"{error.code} {said}"
            except ValueError as error:
                if not left:
                    raise RrkError(f"{url}: its answer is not JSON ({error}); is it such a server?") from None
                wait, why = pause, f"its answer is not JSON ({error})"
            except (OSError, HTTPException) as error:
                why = _line(str(getattr(error, "reason", error))) or type(error).__name__
                absent = isinstance(getattr(error, "reason", error), (ConnectionRefusedError, socket.gaierror))
                if not left or (absent and not self._answered and self._tries - left >= FIRST_TRIES):
                    raise RrkError(f"{url}: {why}; is the server running, and --base-url right?") from None
                wait = pause
            if self.closed:
                break
            self._notice(f"{url}: {why}; trying again in {wait:.0f} s")
            # Not all at once: whoever was refused together would come back together.
            time.sleep(wait * random.uniform(0.8, 1.2))
            pause = min(2 * pause, LONGEST_PAUSE)
        raise RrkError(f"{url}: given up")


def side_by_side(items: Iterator[Item], ask: Callable[[Item], Answer], jobs: int) -> Iterator[tuple[Item, Answer]]:
    """Each item with its answer, in order, `jobs` of them asked at a time. `items.ready()`: the next is there already."""
    pool = ThreadPoolExecutor(jobs)
    ready: Callable[[], bool] = getattr(items, "ready", lambda: True)
    waiting: deque[tuple[Item, Future[Answer]]] = deque()
    try:
        ended = False
        while waiting or not ended:
            # Take more while there is room, but never wait for input that a finished answer could be written before.
            while not ended and len(waiting) < 2 * jobs and (not waiting or ready()):
                item = next(items, None)
                if item is None:
                    ended = True
                else:
                    waiting.append((item, pool.submit(ask, item)))
            if waiting:
                item, future = waiting.popleft()
                yield item, future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _body(answer: HTTPResponse, until: float) -> bytes:
    """All of it; TimeoutError where it comes in drops for longer than that."""
    parts, size = [], 0
    while part := answer.read1(1 << 20):
        parts.append(part)
        size += len(part)
        if size > LARGEST:
            raise OSError(f"an answer of more than {LARGEST >> 20} MiB")
        if time.monotonic() > until:
            raise TimeoutError("timed out")
    if answer.length:
        raise OSError(f"cut short, {answer.length} bytes are missing")
    return b"".join(parts)


def _message(error: urllib.error.HTTPError) -> str:
    try:
        text = error.read(1 << 20).decode("utf-8", "replace").strip()
    except (OSError, HTTPException, ValueError):
        return str(error.reason)
    try:
        said = json.loads(text)
        said = said.get("error", said.get("detail", said)) if isinstance(said, dict) else said
        text = str(said.get("message", said) if isinstance(said, dict) else said)
    except ValueError:
        pass
    return _line(text)


def _line(text: str) -> str:
    """One line that is safe to show, whatever a server sent."""
    return "".join(c if c.isprintable() else "\ufffd" for c in " ".join(text.split()))[:300]


def _retry_after(header: str | None, pause: float) -> float:
    """Seconds to wait: what the server says, in seconds or as a date, or else our own pause."""
    try:
        wait = float(header) if header else pause
    except ValueError:
        try:
            when = parsedate_to_datetime(str(header))
            wait = (when.astimezone(UTC) - datetime.now(UTC)).total_seconds()
        except ValueError:
            wait = pause
    return pause if math.isnan(wait) else min(max(wait, 0.0), LONGEST_PAUSE)
