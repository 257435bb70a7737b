"""What each engine costs beside the work itself: execute here and on Ray, sample and rerank here and through a server.

    python -m tests.benchmarks.engines [--jobs-s 1.0] [--programs 48] [--model FOLDER] [--skip sample,rerank]

One run, one table. `execute`: programs that burn so many CPU seconds each, by one and two local workers and by Ray with the same
cores; "rows" is the time from the first row to the last, which a longer run tends to, "all" the whole command, with Ray's start.
`sample`: a tiny model, greedy, in this process and behind `transformers serve` (which takes one program at a time). `rerank`: a
tiny reranker here and behind a server of vLLM's protocol in the benchmark's own process. Overheads of small work are large
shares of little: that is what is looked for.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
import time
from pathlib import Path

from rrk import jsonl
from tests.conftest import environment, rrk_command

BURN = "import time\nend = time.process_time() + {seconds}\nwhile time.process_time() < end:\n    pass\ndef f():\n    return {n}\n"


def timed(folder: Path, *args: str) -> tuple[float, float, int]:
    """(seconds from the first row to the last, seconds of all, rows)."""
    began = time.monotonic()
    child = subprocess.Popen(
        rrk_command(*args, "-q"), cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    first, rows = 0.0, 0
    assert child.stdout is not None
    for _ in child.stdout:
        first = first or time.monotonic()
        rows += 1
    last = time.monotonic()
    errors = child.stderr.read().decode() if child.stderr else ""
    assert child.wait() == 0, errors
    return last - first, time.monotonic() - began, rows


def execute(folder: Path, seconds: float, count: int) -> dict[str, list[str]]:
    problems = [
        {"task_id": f"t/{n}", "prompt": "", "tests": f"assert f() == {n}", "entry_point": "f"} for n in range(count)
    ]
    rows = [{"task_id": f"t/{n}", "completion": BURN.format(seconds=seconds, n=n)} for n in range(count)]
    jsonl.write(folder / "p.jsonl", problems)
    jsonl.write(folder / "c.jsonl", rows)
    command = ["execute", "c.jsonl", "-p", "p.jsonl"]
    return {
        "execute, 1 worker": [*command, "-j", "1"],
        "execute, 2 workers": [*command, "-j", "2"],
        "execute, Ray, 1 core": [*command, "-j", "1", "--engine", "ray"],
        "execute, Ray, 2 cores": [*command, "-j", "2", "--engine", "ray"],
    }


def show(name: str, found: tuple[float, float, int], beside: tuple[float, float, int] | None) -> None:
    steady, whole, rows = found
    ratio = f"{steady / beside[0]:8.2f}{whole / beside[1]:8.2f}" if beside else ""
    print(f"{name:28}{rows:6}{steady:9.2f}{whole:9.2f}{ratio}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs-s", type=float, default=1.0)
    parser.add_argument("--programs", type=int, default=48)
    parser.add_argument("--skip", default="")
    given = parser.parse_args()
    skip = given.skip.split(",")
    print(f"{'':28}{'rows':>6}{'rows s':>9}{'all s':>9}{'beside the local run':>22}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "execute" not in skip:
            found = {}
            for title, command in execute(folder, given.jobs_s, given.programs).items():
                found[title] = timed(folder, *command)
                local = {"1 core": "execute, 1 worker", "2 cores": "execute, 2 workers"}.get(title.split(", ")[-1])
                show(title, found[title], found[local] if local else None)
        if "sample" not in skip:
            sample(folder)
        if "rerank" not in skip:
            rerank(folder)


def sample(folder: Path) -> None:
    import json
    import socket
    import sys
    import urllib.request

    from tests.generation.tiny import make_model

    model = str(make_model(folder / "model"))
    jsonl.write(folder / "s.jsonl", [{"task_id": f"t/{n}", "prompt": f"def f{n}(x):\n"} for n in range(100)])
    command = ["sample", "s.jsonl", "-m", model, "-n", "1", "--temperature", "0", "--max-tokens", "32"]
    here = timed(folder, *command, "--dtype", "float32")
    show("sample, in process", here, None)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    serve = [
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
    server = subprocess.Popen(serve, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://localhost:{port}/v1"
    try:
        body = json.dumps({"model": model, "prompt": "x", "max_tokens": 1}).encode()
        for _ in range(300):
            try:
                request = urllib.request.Request(f"{url}/completions", body, {"Content-Type": "application/json"})
                urllib.request.urlopen(request, timeout=60).read()
                break
            except OSError:
                time.sleep(0.5)
        show("sample, transformers serve", timed(folder, *command, "--engine", "openai", "--base-url", url), here)
    finally:
        server.terminate()
        server.wait()


def rerank(folder: Path) -> None:
    from tests.reranking.test_served import Pooling
    from tests.test_contract import reranker

    made = reranker(folder / "reranker")
    rows = [
        {"task_id": f"t/{n}", "prompt": f"def f{n}(x):\n", "completion_id": c, "completion": f"    return x + {c}\n"}
        for n in range(100)
        for c in range(20)
    ]
    jsonl.write(folder / "r.jsonl", rows)
    here = timed(folder, "rerank", "r.jsonl", "-m", str(made), "--dtype", "float32")
    show("rerank, in process", here, None)
    server = Pooling(made)
    show(
        "rerank, a pooling server", timed(folder, "rerank", "r.jsonl", "-m", str(made), "--base-url", server.url), here
    )
    server.shutdown()


if __name__ == "__main__":
    main()
