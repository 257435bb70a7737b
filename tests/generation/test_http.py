"""A hostile server: hangs, drips, truncates, answers with no JSON, drops the connection, refuses with and without Retry-After."""

from __future__ import annotations

import json
import socket
import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.client import parse_headers

import pytest

from rrk.errors import RrkError
from rrk.generation import http
from rrk.generation.http import Client, Status, side_by_side

GOOD = json.dumps({"choices": [{"text": "ok", "index": 0}]}).encode()


def answer(body: bytes = GOOD, status: str = "200 OK", length: int | None = None, headers: str = "") -> bytes:
    size = len(body) if length is None else length
    return f"HTTP/1.1 {status}\r\nContent-Length: {size}\r\n{headers}Connection: close\r\n\r\n".encode() + body


class Hostile:
    """Sends these bytes for the first request, those for the second, ... (the last again); a number is a pause in seconds."""

    def __init__(self, *replies):
        self.replies, self.seen = replies, 0
        self.times: list[float] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/v1"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                peer, _ = self._socket.accept()
            except OSError:
                return
            reply = self.replies[min(self.seen, len(self.replies) - 1)]
            self.seen += 1
            self.times.append(time.monotonic())
            threading.Thread(target=self._answer, args=(peer, reply), daemon=True).start()

    def _answer(self, peer, reply):
        with peer:
            try:
                with peer.makefile(
                    "rb"
                ) as asked:  # whole: a socket that is closed with a body unread resets the connection
                    asked.readline()
                    asked.read(int(parse_headers(asked).get("Content-Length", 0)))
                for part in reply if isinstance(reply, list) else [reply]:
                    if isinstance(part, bytes):
                        peer.sendall(part)
                    else:
                        time.sleep(part)
            except OSError:
                pass

    def close(self):
        self._socket.close()


@pytest.fixture
def hostile():
    made = []

    def start(*replies):
        made.append(Hostile(*replies))
        return made[-1]

    yield start
    for server in made:
        server.close()


def client(server, timeout=5.0, said=None, tries=3):
    return Client(server.url, None, timeout, (said if said is not None else []).append, tries, 0.01)


DRIPS = [answer(b"", length=400), *[b" ", 0.15] * 40]
PASSING = {
    "hangs": ([30.0], "timed out"),
    "drips": (DRIPS, "timed out"),
    "truncates": (answer(GOOD[:-9], length=len(GOOD)), "cut short|IncompleteRead|bytes"),
    "no JSON": (answer(b"<html>busy</html>"), "not JSON"),
    "no object": (answer(b"[1, 2]"), "a JSON object is expected"),
    "half a JSON": (answer(GOOD[:-4]), "not JSON"),
    "drops": (b"", "without response|reset"),
    "drops within": (b"HTTP/1.1 200 OK\r\nContent-", "without|Content|line|short|bytes|JSON|reset|expecting"),
    "no HTTP": (b"\x00\xff\x00\xff\r\n\r\n", "HTTP|BadStatusLine|status|[^a-z]"),
    "chunks that stop": (
        b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n40\r\n{"choices": [',
        "IncompleteRead|bytes|short|JSON|reset",
    ),
    "503 with a broken body": (answer(b"x", status="503 Busy", length=100), "503"),
}


@pytest.mark.parametrize("name", PASSING)
def test_what_passes_is_tried_again_and_what_stays_ends_in_one_line(hostile, name):
    """Once wrong and then right: the answer. Always wrong: an RrkError that says what, and how the server is called."""
    reply, said = PASSING[name]
    timeout = 1.0 if name in ("hangs", "drips") else 5.0
    heard: list[str] = []
    server = hostile(reply, answer())
    assert client(server, timeout, heard).post("/completions", {}) == json.loads(GOOD)
    assert server.seen == 2
    assert "trying again" in heard[0]
    with pytest.raises(RrkError, match=rf"127\.0\.0\.1.*({said})") as raised:
        client(hostile(reply), timeout, tries=2).post("/completions", {})
    assert "\n" not in str(raised.value)


def test_a_refusal_that_stays_is_told_at_once_with_the_servers_words(hostile):
    for body, said in (
        (b'{"error": {"message": "no such model"}}', "404 no such model (problem 7)"),
        (b'{"detail": "Not Found"}', "404 Not Found (problem 7)"),
        (b'["odd"]', "404 ['odd'] (problem 7)"),
        (b"\xff\xfe plain", "404 \ufffd\ufffd plain (problem 7)"),
    ):
        server = hostile(answer(body, status="404 Not Found"))
        with pytest.raises(Status) as raised:
            client(server).post("/completions", {}, "problem 7")
        assert str(raised.value).endswith(said)
        assert raised.value.code == 404
        assert server.seen == 1


def test_retry_after_in_seconds_as_a_date_and_as_nonsense(hostile):
    """It is waited for as told, a minute at most; without it, as long as we choose."""
    assert http._retry_after("3", 0.5) == 3
    assert http._retry_after("100000", 0.5) == http.LONGEST_PAUSE
    assert http._retry_after(None, 0.5) == 0.5
    for nonsense in ("soon", "nan", "", "-"):
        assert http._retry_after(nonsense, 0.5) == 0.5
    assert http._retry_after("-4", 0.5) == 0
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=20), usegmt=True)
    assert 15 < http._retry_after(soon, 0.5) <= 20
    assert http._retry_after(format_datetime(datetime(2001, 1, 1, tzinfo=UTC), usegmt=True), 0.5) == 0
    server = hostile(answer(b"{}", status="429 Too Many", headers="Retry-After: 1\r\n"), answer())
    assert client(server).post("/completions", {})
    assert server.times[1] - server.times[0] >= 0.7
    assert client(hostile(answer(b"{}", status="429 Too Many"), answer())).post("/completions", {})


def test_answers_come_in_order_and_nothing_waits_for_a_slow_producer():
    """What is finished is handed out while the next item is not there yet."""
    there = threading.Event()

    class Items:
        def __init__(self):
            self.left = [0, 1, 2]

        def ready(self):
            return len(self.left) > 1 or there.is_set()

        def __iter__(self):
            return self

        def __next__(self):
            if not self.left:
                raise StopIteration
            if len(self.left) == 1:
                assert there.wait(10), "the others are handed out first"
            return self.left.pop(0)

    found = []
    for item, double in side_by_side(Items(), lambda n: (time.sleep(0.1 * (1 - n % 2)), 2 * n)[1], jobs=2):
        found.append((item, double))
        if len(found) == 2:
            there.set()
    assert found == [(0, 0), (1, 2), (2, 4)]
