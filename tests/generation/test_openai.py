"""The openai engine against a server of our own: what is sent, what is tried again, what ends the run."""

from __future__ import annotations

import json
import math
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from rrk.errors import RrkError
from rrk.generation.openai import Engine
from rrk.generation.tasks import Order, Tasks

ROWS = [{"task_id": f"t/{i}", "prompt": f"def f{i}():\n", "stop_tokens": ["\ndef"]} for i in range(6)]


class Server(ThreadingHTTPServer):
    """Answers by `reply(number of the request, body)` -> (status, headers, answer)."""

    def __init__(self, reply):
        self.seen: list[dict] = []
        self.headers: list[dict] = []
        lock = threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(handler):
                body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
                with lock:
                    number = len(self.seen)
                    self.seen.append(body | {"path": handler.path})
                    self.headers.append(dict(handler.headers))
                status, headers, answer = reply(number, body)
                data = json.dumps(answer).encode()
                handler.send_response(status)
                for item in headers.items():
                    handler.send_header(*item)
                handler.send_header("Content-Length", str(len(data)))
                handler.end_headers()
                handler.wfile.write(data)

            def log_message(self, *_):
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


@pytest.fixture
def serve():
    servers = []

    def start(reply):
        servers.append(Server(reply))
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def choices(body, count=None, **more):
    made = []
    for i in range(body["n"] if count is None else count):
        text = f"    return {body['prompt'][5]}{i}"
        made.append({"index": i, "text": text, "finish_reason": "stop", "logprobs": {"token_logprobs": [-0.5, -1.0]}})
        made[-1] |= more
    return 200, {}, {"choices": made[::-1]}


def ask(server, rows=ROWS, jobs=3, key=None, said=None, tries=4, samples=3):
    order = Order("m", samples=samples, temperature=0.5, top_p=0.9, max_tokens=7, stop=("END",))
    given = iter(rows)

    class Items:
        def __iter__(self):
            return self

        def __next__(self):
            return next(given)

        def ready(self):
            return True

    notice = (said if said is not None else []).append
    return list(Engine(order, server.url, key, jobs, 10, notice, tries, 0.01)(Tasks(Items(), order)))


def test_what_is_sent_and_what_comes_of_it(serve):
    server = serve(lambda number, body: choices(body))
    made = ask(server, key="secret")
    assert [task.task_id for task, _ in made] == [row["task_id"] for row in ROWS]
    assert [s.text for s in made[2][1]] == ["    return 20", "    return 21", "    return 22"]
    assert {(s.logprob, s.tokens, s.finish) for s in made[0][1]} == {(-1.5, 2, "eos")}
    assert {s.prob for s in made[0][1]} == {round(math.exp(-0.5) + math.exp(-1.0), 6)}
    body = next(body for body in server.seen if body["prompt"] == "def f0():\n")
    want = {"model": "m", "n": 3, "temperature": 0.5, "top_p": 0.9, "max_tokens": 7, "path": "/v1/completions"}
    assert want.items() <= body.items()
    assert body["stop"] == ["END", "\ndef"]
    assert server.headers[0]["Authorization"] == "Bearer secret"
    assert len({body["seed"] for body in server.seen}) == len(ROWS)
    again = serve(lambda number, body: choices(body))
    ask(again, jobs=1)
    assert {b["prompt"]: b["seed"] for b in again.seen} == {b["prompt"]: b["seed"] for b in server.seen}


def test_order_is_kept_when_answers_come_in_another(serve):
    def reply(number, body):
        time.sleep(0.2 if body["prompt"] == "def f0():\n" else 0)
        return choices(body)

    assert [task.task_id for task, _ in ask(serve(reply))] == [row["task_id"] for row in ROWS]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_that_is_busy_is_asked_again(serve, status):
    server = serve(
        lambda n, body: (status, {"Retry-After": "0"}, {"error": {"message": "busy"}}) if n < 2 else choices(body)
    )
    said: list[str] = []
    assert len(ask(server, ROWS[:1], said=said)) == 1
    assert len(server.seen) == 3
    assert "busy" in said[0]


def test_what_cannot_be_helped_ends_the_run_with_the_servers_words(serve):
    server = serve(lambda n, body: (404, {}, {"error": {"message": "The model `m` does not exist."}}))
    with pytest.raises(RrkError, match="404 The model `m` does not exist"):
        ask(server)
    assert len(server.seen) <= 6, "not tried again"


def test_it_gives_up_on_a_server_that_is_not_there(serve):
    server = serve(lambda n, body: choices(body))
    server.shutdown()
    server.server_close()
    with pytest.raises(RrkError, match="is the server running"):
        ask(server, ROWS[:1], tries=2)


def test_a_server_that_gives_fewer_is_asked_for_the_rest(serve):
    server = serve(lambda n, body: choices(body, count=min(2, body["n"])))
    ((_, samples),) = ask(server, ROWS[:1], samples=5)
    assert len(samples) == 5
    assert [body["n"] for body in server.seen] == [5, 3, 1]
    assert len({body["seed"] for body in server.seen}) == 3


@pytest.mark.parametrize(
    ("choice", "want"),
    [
        ({"finish_reason": "length"}, "length"),
        ({"stop_reason": "\ndef"}, "stop"),
        ({"stop_reason": None}, "eos"),
        ({"text": "a\ndef b"}, "stop"),
    ],
)
def test_finish_reasons(serve, choice, want):
    ((_, samples),) = ask(serve(lambda n, body: choices(body, **choice)), ROWS[:1])
    assert {s.finish for s in samples} == {want}
    assert "\ndef" not in samples[0].text


def test_without_log_probabilities_there_are_none(serve):
    ((_, samples),) = ask(serve(lambda n, body: choices(body, logprobs=None)), ROWS[:1])
    assert {(s.logprob, s.tokens) for s in samples} == {(None, None)}


def test_a_server_that_refuses_log_probabilities_is_asked_without(serve):
    """llama.cpp's says 500, which would be tried again for three minutes, a row at a time."""
    refused = 500, {}, {"error": {"message": "logprobs is not supported for models created with logits_all=False"}}
    server = serve(lambda n, body: refused if "logprobs" in body else choices(body, logprobs=None))
    said: list[str] = []
    made = ask(server, ROWS[:2], jobs=1, said=said)
    assert {(s.logprob, s.tokens) for _, samples in made for s in samples} == {(None, None)}
    assert ["logprobs" in body for body in server.seen] == [True, False, False]
    assert [("asking without" in text) for text in said] == [True]


def test_an_answer_that_is_none_is_an_error(serve):
    with pytest.raises(RrkError, match="without choices"):
        ask(serve(lambda n, body: (200, {}, {"choices": []})), ROWS[:1])
