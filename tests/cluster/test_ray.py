"""`--engine ray` on a cluster of two nodes on this machine: the bytes of a local run, whatever dies."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from functools import partial
from pathlib import Path

import pytest

from rrk import jsonl
from rrk.cluster import Cluster
from rrk.errors import RowError, RrkError
from tests.benchmarks.execute_stream import rss
from tests.cluster.makes import Doubler
from tests.cluster.test_feed import Items, row
from tests.conftest import environment, rrk_command
from tests.generation.tiny import make_model
from tests.sandbox.test_kill import descendants
from tests.test_contract import reranker

try:
    import ray
except ImportError:
    ray = None

pytestmark = [
    pytest.mark.timeout(240),
    pytest.mark.skipif(ray is None, reason="Ray is not installed (pip install -e '.[ray]')"),
]


@pytest.fixture
def cluster(monkeypatch):
    """Two nodes of two cores each, none of which this process has joined."""
    from ray.cluster_utils import Cluster as Nodes

    for name, value in environment(RAY_USAGE_STATS_ENABLED="0").items():
        monkeypatch.setenv(name, value)
    nodes = Nodes()
    for _ in range(2):
        nodes.add_node(num_cpus=2, object_store_memory=100 << 20)
    yield nodes
    ray.shutdown()
    nodes.shutdown()


def measured(path: Path) -> list[dict]:
    """Rows without what is measured and differs from run to run."""
    return [
        {k: v for k, v in row.items() if k not in ("time", "time_wall", "max_rss")} for row in jsonl.read([str(path)])
    ]


def processes() -> dict[int, str]:
    """Everything below this process: its number, and when it was started."""
    return {number: began(number) for number in descendants(os.getpid())}


def began(number: int) -> str:
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return "gone"


def left(seen: dict[int, str]) -> list[str]:
    """Which of them are still there after a while."""
    for _ in range(100):
        there = [number for number, when in seen.items() if when != "gone" and began(number) == when]
        if not there:
            break
        time.sleep(0.2)
    return [f"{number} {Path(f'/proc/{number}/cmdline').read_bytes()[:200]!r}" for number in there]


@pytest.mark.slow
def test_every_stage_gives_the_local_rows(cluster, rrk, tmp_path):
    """execute, rerank by a method and by a model, and sample; and a run that Ray began goes on without it."""
    address = ["--engine", "ray", "--ray-address", cluster.address]
    problems = [
        {"task_id": f"t/{p}", "prompt": f"def f{p}(x):\n", "tests": f"assert f{p}(1) == {p % 3 + 1}"} for p in range(6)
    ]
    rows = [
        {"task_id": f"t/{p}", "language": "py", "prompt": f"def f{p}(x):\n", "completion_id": c, "odd": {"big": 2**70}}
        | {"completion": f"    return x + {(p * c) % 3}\n"}
        for p in range(6)
        for c in range(5)
    ]
    jsonl.write(tmp_path / "p.jsonl", problems)
    jsonl.write(tmp_path / "c.jsonl", rows)
    make_model(tmp_path / "generator")
    reranker(tmp_path / "reranker")
    stages = {
        "verdicts": ["execute", "c.jsonl", "-p", "p.jsonl"],
        "majority": ["rerank", "c.jsonl", "--method", "majority", "--top", "2"],
        "scored": ["rerank", "c.jsonl", "-m", "reranker"],
        "samples": ["sample", "p.jsonl", "-m", "generator", "-n", "3", "--max-tokens", "12", "--exact"],
    }
    for name, command in stages.items():
        assert rrk(*command, "-o", f"{name}.local").returncode == 0
        done = rrk(*command, *address, "-o", f"{name}.ray")
        assert done.returncode == 0, done.stderr.decode()
        assert b"nodes" in done.stderr, done.stderr.decode()
        assert measured(tmp_path / f"{name}.ray") == measured(tmp_path / f"{name}.local")
        if name != "verdicts":
            assert (tmp_path / f"{name}.ray").read_bytes() == (tmp_path / f"{name}.local").read_bytes()
        # Made in either way, it is the same file.
        assert b"nothing to do" in rrk(*command, "-o", f"{name}.ray", "--resume").stderr
    unjudged = rrk("execute", "-p", "p.jsonl", *address, input=jsonl.dumps({**rows[0], "language": "cobol"}))
    assert unjudged.returncode == 3
    assert b"no problem 't/0' in language" in unjudged.stderr


@pytest.mark.slow  # looks at every process of the machine: tests beside it start some
def test_a_node_that_dies_costs_time_and_no_row(cluster, tmp_path):
    """Its batches are run again on the other; a killed worker's too; nothing of either is left behind."""
    rows = [
        {"task_id": f"t/{n // 4}", "completion_id": n, "completion": f"import time\ntime.sleep(0.2)\nx = {n}\n"}
        for n in range(80)
    ]
    tests = [{"task_id": f"t/{p}", "prompt": "", "tests": f"assert x // 4 == {p}"} for p in range(20)]
    jsonl.write(tmp_path / "c.jsonl", rows)
    jsonl.write(tmp_path / "p.jsonl", tests)
    command = rrk_command("execute", "c.jsonl", "-p", "p.jsonl", "--engine", "ray", "--ray-address", cluster.address)
    child = subprocess.Popen([*command, "-o", "out"], cwd=tmp_path, env=environment(), stderr=subprocess.PIPE)
    part = tmp_path / "out.part"
    seen = {}
    while child.poll() is None and (not part.exists() or part.read_bytes().count(b"\n") < 20):
        seen |= processes()
        time.sleep(0.05)
    cluster.remove_node(cluster.worker_nodes.copy().pop(), allow_graceful=False)
    assert child.wait(200) == 0, child.stderr.read().decode()
    said = child.stderr.read().decode()
    child.stderr.close()
    assert "a worker died" in said, said
    assert [(row["completion_id"], row["passed"]) for row in jsonl.read([str(tmp_path / "out")])] == [
        (n, True) for n in range(80)
    ]
    cluster.shutdown()
    assert left(seen) == []


def test_refused_nodes_killed_workers_and_errors(cluster, tmp_path, capfd):
    """A node that cannot do the work is left out and named; a row that kills every worker is named in the end."""
    ray.init(cluster.address, logging_level="ERROR", log_to_driver=False)
    heard: list[str] = []

    def say(text):
        heard.append(text)
        (tmp_path / "heard").touch()

    def run(items, **how):
        work = Cluster(partial(Doubler, **how), cluster.address, say=say)
        return work, [found["doubled"] for output in work(items) for found in output]

    rows = [row(n, n // 5) for n in range(300)]
    work, found = run(Items(rows))
    assert found == [2 * n for n in range(300)]
    assert work.figures["done"] == 300
    assert work.notes[0].endswith("2 cores")

    refused = ray.nodes()[0]["NodeID"]
    work, found = run(Items(rows), refuse=refused, last=str(tmp_path / "heard"))
    assert found == [2 * n for n in range(300)]
    assert work.figures == {"done": 300, "nodes": 1}
    assert any("cannot jail here; going on without it" in text for text in heard)
    with pytest.raises(RrkError, match="cannot jail here"):
        run(Items(rows), refuse="all")

    with pytest.raises(RowError, match=r"in\.jsonl:7: a bad row"):
        run(Items([row(n) if n != 7 else {**row(7), "bad": True} for n in range(20)]))

    # One of the workers is killed, and another comes in its place.
    killed: list[int] = []

    def stream():
        work = Cluster(partial(Doubler, slow=0.02), cluster.address, say=say)
        for output in work(Items(rows)):
            yield output[0]
            if len(killed) < 1:
                killed.append(output[0]["pid"])
                os.kill(output[0]["pid"], signal.SIGKILL)
        assert work.figures["batches run again"] > 0

    assert [found["doubled"] for found in stream()] == [2 * n for n in range(300)]
    with pytest.raises(RrkError, match=r"4 workers died over 't/\d+'"):
        run(Items(rows), poison=40)
    assert capfd.readouterr().out == "", "what Ray says of deaths is not a row"


@pytest.mark.slow
@pytest.mark.timeout(5400)
def test_twenty_thousand_codet_rows_with_a_node_killed_in_the_middle(cluster, rrk, shared, tmp_path):
    """The verdicts of a local run; memory stays flat; no process of either run is left. RRK_RAY_ROWS: fewer rows."""
    count = int(os.environ.get("RRK_RAY_ROWS", "20000"))
    rows = list(jsonl.read([str(shared / "data/candidates/codet_humaneval_codegen16b.jsonl.gz")]))
    again = [{**row, "completion": row["completion"] + "\n# again\n"} for row in rows[: max(0, count - len(rows))]]
    jsonl.write(tmp_path / "c.jsonl", (rows + again)[:count])
    problems = str(shared / "data/problems/humaneval.jsonl.gz")
    command = ["execute", "c.jsonl", "-p", problems, "-j", "2", "-q"]
    assert rrk(*command, "-o", "local", timeout=2700).returncode == 0
    child = subprocess.Popen(
        rrk_command(*command, "--engine", "ray", "--ray-address", cluster.address, "-o", "ray"),
        cwd=tmp_path,
        env=environment(),
    )
    part, most, seen = tmp_path / "ray.part", 0, {}
    killed = False
    while child.poll() is None:
        most = max(most, rss(child.pid))
        seen |= processes()
        if not killed and part.exists() and part.read_bytes().count(b"\n") > 0.4 * count:
            cluster.remove_node(cluster.worker_nodes.copy().pop(), allow_graceful=False)
            killed = True
        time.sleep(0.5)
    assert killed
    assert child.returncode == 0
    different = [
        (ours["task_id"], name, ours.get(name), theirs.get(name))
        for ours, theirs in zip(measured(tmp_path / "ray"), measured(tmp_path / "local"), strict=True)
        for name in {**ours, **theirs}
        if ours.get(name) != theirs.get(name)
    ]
    for found in different:
        print(*found)
    # Which of two limits an endless loop hits first depends on what else the machine does.
    different = [found for found in different if found[1] != "reason" or {*found[2:]} != {"cpu", "wall"}]
    # What programs print is not always the same: HumanEval/53's tests draw numbers.
    assert [found for found in different if found[1] not in ("stdout", "stderr")] == []
    assert len(different) <= count // 1000
    print(f"{most / 2**20:.0f} MiB")
    assert most < 600 << 20
    cluster.shutdown()
    assert left(seen) == []
