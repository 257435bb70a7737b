"""Hostile programs in real workers: every verdict is acceptable, and the host is as before. As root and as anybody."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rrk.errors import RrkError
from rrk.sandbox.verdict import TAMPERED, Job
from rrk.sandbox.workers.worker import Worker
from tests.conftest import ROOT
from tests.sandbox import corpus

try:
    Worker().close()
except RrkError as error:
    pytest.skip(str(error), allow_module_level=True)

NOBODY = 12345


@pytest.fixture
def programs(shared, tmp_path) -> Path:
    """The corpus, where any user can read it."""
    copy = tmp_path / "candidates.jsonl.gz"
    copy.write_bytes((shared / "adversarial/candidates.jsonl.gz").read_bytes())
    return copy


def judged(command: list[str], programs: Path, *languages: str) -> list[dict]:
    done = subprocess.run(
        [*command, "-m", "tests.sandbox.corpus", str(programs), *languages],
        capture_output=True, cwd=ROOT, timeout=200, env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    *rows, last = [json.loads(line) for line in done.stdout.splitlines()]
    assert last["host"] == []
    assert len(rows) >= 5
    return rows


def test_every_python_program_gets_an_acceptable_verdict_and_the_host_is_as_before(programs):
    rows = judged([sys.executable], programs)
    assert [row for row in rows if row["wrong"]] == []
    assert max(row["size"] for row in rows) < 8000


def test_the_same_as_an_ordinary_user_without_control_groups(programs):
    python = "/usr/bin/python3"
    if os.geteuid() != 0 or not shutil.which("setpriv") or not os.path.exists(python):
        pytest.skip("needs root, setpriv and a python that anybody can run")
    if subprocess.run([python, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]).returncode:
        pytest.skip(f"{python} is older than 3.11")
    if subprocess.run(["setpriv", "--reuid", str(NOBODY), "ls", str(ROOT / "rrk")], capture_output=True).returncode:
        pytest.skip("this checkout cannot be read by others")
    for folder in [programs.parent, *programs.parent.parents][:4]:
        if str(folder) != "/tmp":
            folder.chmod(folder.stat().st_mode | 0o055)
    user = ["setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups", python]
    rows = judged(user, programs)
    assert [row for row in rows if row["wrong"]] == []
    assert {row["sandbox"] for row in rows} == {"namespaces+pivot_root+seccomp+watchdog"}


def test_other_languages(programs):
    there = [name for name in ("js", "sh", "pl", "lua", "php", "rb") if not corpus.toolchain(name).missing()]
    if not there:
        pytest.skip("none of them is installed")
    assert [row for row in judged([sys.executable], programs, *there) if row["wrong"]] == []


@pytest.mark.slow
def test_compiled_languages(programs):
    there = [name for name in ("cpp", "java", "go", "rs", "r") if not corpus.toolchain(name).missing()]
    assert [row for row in judged([sys.executable], programs, *there) if row["wrong"]] == []


# Attacks on the verdict, each in several places and spellings. `def add` is wrong in all of them.
TESTS = (
    "def check(candidate):\n    assert abs(candidate(1, 2) - 3) < 1\n    assert candidate(2, 2) == 4\n\ncheck(add)\n"
)
EXITS = ["import os\nos._exit(0)", "raise SystemExit", "import sys\nsys.exit()", "import os, signal\nos.kill(os.getpid(), 9)",
         "import os\nos.execv('/bin/true', ['true'])", "exit()", "import os\nos.close(3)", "import os\nos.closerange(0, 64)"]  # fmt: skip
LIARS = [
    "type('L', ({base},), {{'__eq__': lambda s, o: True, '__sub__': lambda s, o: 0, '__ne__': lambda s, o: False}})({value})",
    "type('L', ({base},), {{'__eq__': lambda s, o: True, '__lt__': lambda s, o: True, '__abs__': lambda s: s, "
    "'__sub__': lambda s, o: s}})({value})",
]
PATCHES = [
    "import builtins\nbuiltins.abs = lambda x: 0\nint.__eq__",
    "import sys\nsys.settrace(lambda *a: None)",
    "import builtins\nbuiltins.__build_class__ = builtins.abs = lambda *a: 0",
    "def abs(x):\n    return 0",
    "class AssertionError(Exception):\n    pass",
    "import sys\nsys.modules['__main__'].check = lambda c: None",
    "def check(candidate):\n    pass",
    "import gc\nfor o in gc.get_objects():\n    if type(o) is dict and 'secret' in o:\n        o['secret'] = ''",
    "import os\nfor fd in range(3, 9):\n    try:\n        os.write(fd, b'\\x01\\0\\0\\0d')\n    except OSError:\n        pass",
    "import os\nfor fd in range(3, 9):\n    try:\n        os.write(fd, b'\\xff\\xff\\xff\\x7fr[3]')\n    except OSError:\n        pass",
]


@pytest.fixture(scope="module")
def worker():
    with Worker() as worker:
        yield worker


@pytest.mark.parametrize("attack", EXITS)
@pytest.mark.parametrize("place", ["top", "call", "thread", "atexit"])
def test_leaving_early_never_passes(worker, attack, place):
    body = attack.replace("\n", "\n    ")
    program = {
        "top": f"def add(a, b):\n    return a - b\n{attack}\n",
        "call": f"def add(a, b):\n    {body}\n    return a - b\n",
        "thread": f"import threading\ndef run():\n    {body}\nt = threading.Thread(target=run)\nt.start()\nt.join()\n"
        "def add(a, b):\n    return a - b\n",
        "atexit": f"import atexit\ndef run():\n    {body}\natexit.register(run)\ndef add(a, b):\n    return a - b\n",
    }[place]
    for mode in ("split", "in_process"):
        verdict = worker.python(Job("py", "", program, TESTS, "add", timeout=1.0), mode)
        assert verdict.passed is False
        assert verdict.status in (TAMPERED, "Exception"), verdict
        if "_exit(0)" in attack and place == "top":
            assert (verdict.status, verdict.reason) == (TAMPERED, "early_exit")


@pytest.mark.parametrize("liar", LIARS)
@pytest.mark.parametrize("base", ["int", "float", "object", "str", "list", "complex"])
@pytest.mark.parametrize("way", ["return {}", "yield {}", "return [{}][0]", "global x; x = {}; return x"])
def test_results_that_decide_what_they_are_equal_to_never_pass(worker, liar, base, way):
    value = liar.format(base=base, value="" if base in ("object", "list") else "7")
    program = f"def add(a, b):\n    {way.format(value)}\n"
    verdict = worker.python(Job("py", "", program, TESTS, "add", timeout=1.0))
    assert verdict.passed is False, verdict
    if way.startswith("return") and base in ("int", "float", "list"):
        assert (verdict.status, verdict.reason) == (TAMPERED, "equality")


@pytest.mark.parametrize("patch", PATCHES)
def test_what_a_program_patches_does_not_reach_its_tests(worker, patch):
    verdict = worker.python(Job("py", "", f"def add(a, b):\n    return 0\n{patch}\n", TESTS, "add", timeout=1.0))
    assert verdict.passed is False, verdict


def test_hidden_tests_are_nowhere_in_the_candidates_process(worker):
    """The same problem was judged a moment before, and its tests are being run now."""
    mark = "needle_" + "4711"
    tests = f"def check(candidate):\n    assert candidate(1) == '{mark}'\n\ncheck(find)\n"
    honest = Job("py", "", f"def find(x):\n    return 'needle_' + '{mark[7:]}'\n", tests, "find")
    assert worker.python(honest).passed
    program = """def find(x):
    import re
    found = set()
    for line in open("/proc/self/maps"):
        span, mode = line.split()[:2]
        if "r" not in mode or "[v" in line:
            continue
        a, b = (int(n, 16) for n in span.split("-"))
        try:
            with open("/proc/self/mem", "rb", 0) as memory:
                memory.seek(a)
                found |= set(re.findall(rb"needle_[0-9]{4}", memory.read(b - a)))
        except (OSError, OverflowError, ValueError):
            pass
    import gc
    for thing in gc.get_objects():
        if isinstance(thing, (tuple, list)):
            found |= {x.encode() for x in thing if type(x) is str and re.fullmatch("needle_[0-9]{4}", x)}
    return found.pop().decode() if found else ""
"""
    assert worker.python(Job("py", "", program, tests, "find")).status == "Exception"


def test_a_worker_is_whole_after_all_that(worker):
    assert not worker.dead
    assert worker.python(Job("py", "", "def add(a, b):\n    return a + b\n", TESTS, "add")).integrity == "split"


def test_no_honest_solution_is_called_tampered(worker, shared):
    with gzip.open(shared / "data/problems/humaneval.jsonl.gz", "rt") as lines:
        rows = [json.loads(line) for line in lines]
    for row in rows:
        tests = f"{row['test']}\n\ncheck({row['entry_point']})\n"
        verdict = worker.python(
            Job("py", row["prompt"], row["canonical_solution"], tests, row["entry_point"], timeout=10.0)
        )
        assert (verdict.status, verdict.integrity) == ("OK", "split"), (row["task_id"], verdict)
