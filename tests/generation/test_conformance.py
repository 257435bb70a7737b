"""One table of cases over every engine of `rrk sample`: the model in this process, and the same one behind a real server.

The server is `transformers serve`, started on a tiny model; vLLM cannot be installed where these tests run.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

pytest.importorskip("torch")

from rrk.generation import local, openai
from rrk.generation.tasks import Order, Tasks, output_rows
from tests.conftest import environment
from tests.generation.tiny import make_model

PROMPTS = ["def f(x):\n", "", "größer 漢字\n", "x" * 150, "def g(y):\n    # comment\n"]
ROWS = [{"task_id": f"t/{n}", "prompt": prompt, "language": "py"} for n, prompt in enumerate(PROMPTS) if prompt]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    folder = make_model(tmp_path_factory.mktemp("conformance") / "model")
    # transformers serve takes temperature from the request, and whether to draw at all from the model.
    path = Path(folder) / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"do_sample": True, "top_k": 0}))
    return str(folder)


@pytest.fixture(scope="module")
def url(model):
    pytest.importorskip("fastapi", reason="no transformers serve (pip install 'transformers[serving]')")
    pytest.importorskip("uvicorn")
    pytest.importorskip("openai")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "transformers.cli.transformers",
        "serve",
        model,
        "--device",
        "cpu",
        "--port",
        str(port),
    ]
    child = subprocess.Popen(
        [*command, "--dtype", "float32"], env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        for _ in range(600):
            assert child.poll() is None, "transformers serve ended"
            try:
                urllib.request.urlopen(f"http://localhost:{port}/health", timeout=5).read()
                break
            except OSError:
                time.sleep(0.2)
        yield f"http://localhost:{port}/v1"
    finally:
        child.terminate()
        child.wait(30)


class Items:
    def __init__(self, rows):
        self._rows = list(rows)

    def ready(self):
        return True

    def __iter__(self):
        return self

    def __next__(self):
        if not self._rows:
            raise StopIteration
        return self._rows.pop(0)


def drawn(engine: str, request, model: str, rows=ROWS, **how):
    """Rows by one of the engines."""
    order = Order(model, **{"samples": 1, "max_tokens": 12, "temperature": 0.0, **how})
    if engine == "in-process":
        made = local.Engine(order, "cpu", "float32", None, True, lambda text: None)
    else:
        made = openai.Engine(order, request.getfixturevalue("url"), None, 3, 120, lambda text: None)
    return [row for task, samples in made(Tasks(Items(rows), order)) for row in output_rows(task, samples, order)]


ENGINES = pytest.mark.parametrize("engine", ["in-process", "transformers serve"])


@ENGINES
def test_greedy_programs_are_the_models_own_and_in_order(engine, request, model):
    """The same text by both, in the order of the problems; unknown log-probabilities are null, known ones negative."""
    rows = drawn(engine, request, model)
    assert [row["task_id"] for row in rows] == [row["task_id"] for row in ROWS]
    assert [row["completion"] for row in rows] == [row["completion"] for row in drawn("in-process", request, model)]
    assert all(row["logprob"] is None or row["logprob"] <= 0 for row in rows)
    assert {row["finish_reason"] for row in rows} <= {"length", "eos", "stop"}


@ENGINES
def test_a_stop_string_ends_a_program_before_it(engine, request, model):
    [whole] = drawn(engine, request, model, ROWS[:1])
    at = len(whole["completion"]) // 2
    stop = whole["completion"][at : at + 2]
    [cut] = drawn(engine, request, model, ROWS[:1], stop=(stop,))
    assert cut["completion"] == whole["completion"][: whole["completion"].find(stop)]
    assert cut["finish_reason"] == "stop"


@ENGINES
def test_as_many_programs_as_asked_for_and_not_all_the_same(engine, request, model):
    """transformers serve knows no `n`: it is asked again, with another seed."""
    rows = drawn(engine, request, model, ROWS[:2], samples=3, temperature=1.0, top_p=0.95)
    assert [(row["task_id"], row["completion_id"]) for row in rows] == [("t/0", n) for n in range(3)] + [
        ("t/2", n) for n in range(3)
    ]
    assert len({row["completion"] for row in rows}) > 2


@ENGINES
def test_the_longest_program_is_as_long_as_told(engine, request, model):
    rows = drawn(engine, request, model, max_tokens=3)
    assert [row["finish_reason"] for row in rows if row["finish_reason"] != "eos"]
    assert all(row["tokens"] in (None, 1, 2, 3) for row in rows)
    assert [row["completion"] for row in rows] == [
        row["completion"] for row in drawn("in-process", request, model, max_tokens=3)
    ]
