"""One table of cases over every engine of `rrk sample`: the model in this process, and the same one behind a real server.

The servers are `transformers serve`, started on a tiny model, and llama.cpp's (pip install 'llama-cpp-python[server]' gguf: it is
compiled, for a quarter of an hour) on the GGUF file that RRK_GGUF names; vLLM cannot be installed where these tests run.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
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
    command = ["transformers.cli.transformers", "serve", model, "--device", "cpu", "--dtype", "float32"]
    with started(command, "/health") as found:
        yield found


@pytest.fixture(scope="module")
def llama_url():
    pytest.importorskip("llama_cpp.server", reason="no llama.cpp (pip install 'llama-cpp-python[server]')")
    pytest.importorskip("gguf")
    if "RRK_GGUF" not in os.environ:
        pytest.skip("RRK_GGUF names no file of a model for llama.cpp")
    command = ["llama_cpp.server", "--model", os.environ["RRK_GGUF"], "--logits_all", "true", "--n_threads", "1"]
    with started(command, "/v1/models") as found:
        yield found


@contextmanager
def started(command: list[str], alive: str):
    """A server that is a module, up; its base URL."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    child = subprocess.Popen(
        [sys.executable, "-m", *command, "--port", str(port)],
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(600):
            assert child.poll() is None, f"{command[0]} ended"
            try:
                urllib.request.urlopen(f"http://localhost:{port}{alive}", timeout=5).read()
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
    if engine == "llama.cpp":
        request.getfixturevalue("llama_url")
    if engine.startswith("llama.cpp"):
        model = os.environ["RRK_GGUF"]
    order = Order(model, **{"samples": 1, "max_tokens": 12, "temperature": 0.0, **how})
    if engine.endswith("in-process"):
        made = local.Engine(order, "cpu", "float32", None, True, lambda text: None)
    else:
        made = openai.Engine(order, request.getfixturevalue(URLS[engine]), None, 3, 120, lambda text: None)
    return [row for task, samples in made(Tasks(Items(rows), order)) for row in output_rows(task, samples, order)]


URLS = {"transformers serve": "url", "llama.cpp": "llama_url"}
ENGINES = pytest.mark.parametrize("engine", ["in-process", *URLS])


def own(engine: str) -> str:
    """The engine that reads the same model in this process."""
    return "llama.cpp's in-process" if engine == "llama.cpp" else "in-process"


@ENGINES
def test_greedy_programs_are_the_models_own_and_in_order(engine, request, model):
    """The same text by both, in the order of the problems; unknown log-probabilities are null, known ones negative."""
    # llama.cpp multiplies in 8 bits: longer texts part sooner or later.
    few = {"max_tokens": 4} if engine == "llama.cpp" else {}
    rows = drawn(engine, request, model, **few)
    assert [row["task_id"] for row in rows] == [row["task_id"] for row in ROWS]
    wanted = drawn(own(engine), request, model, **few)
    assert [row["completion"] for row in rows] == [row["completion"] for row in wanted]
    assert all(row["logprob"] is None or row["logprob"] <= 0 for row in rows)
    assert {row["finish_reason"] for row in rows} <= {"length", "eos", "stop"}


@ENGINES
def test_a_stop_string_ends_a_program_before_it(engine, request, model):
    [whole] = drawn(engine, request, model, ROWS[:1])
    at = len(whole["completion"]) // 2
    stop = whole["completion"][at : at + 2]
    [cut] = drawn(engine, request, model, ROWS[:1], stop=(stop,))
    assert cut["completion"] == whole["completion"][: whole["completion"].find(stop)]
    # Of vLLM's servers one can tell a stop string from EOS; llama.cpp's cuts, and calls both the same.
    assert cut["finish_reason"] in (("stop", "eos") if engine == "llama.cpp" else ("stop",))


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
        row["completion"] for row in drawn(own(engine), request, model, max_tokens=3)
    ]
