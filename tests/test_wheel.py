"""The wheel alone, away from the checkout: what `pip install` gives has its languages and judges programs."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT, environment


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder that holds rrk as unpacked from a wheel of this checkout; its dependencies stay where they are."""
    place = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    # A copy of what git would ship: building in place leaves build/ behind.
    names = ["rrk", "sandboxes", "pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"]
    (place / "source").mkdir()
    subprocess.run(["cp", "-r", *[str(ROOT / name) for name in names], str(place / "source")], check=True)
    build = ["wheel", "--no-deps", "--no-build-isolation", "-w", str(place), str(place / "source")]
    subprocess.run([*pip, *build], check=True, capture_output=True)
    [wheel] = place.glob("rrk-*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", str(place / "site"), str(wheel)], check=True)
    return place


def test_the_wheel_judges_a_program_outside_of_the_checkout(installed):
    """Nothing that a verdict needs (language files, the code that runs in the box) is left behind in the checkout."""
    problem = {"task_id": "a", "language": "py", "prompt": "def f(a):\n", "tests": "assert f(1) == 2\n"}
    rows = [problem | {"completion_id": i, "completion": f"    return a + {i}\n"} for i in range(2)]
    (installed / "problems.jsonl").write_text(json.dumps(problem) + "\n")
    (installed / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    env = environment(PYTHONPATH=str(installed / "site"), PATH=os.environ["PATH"])
    where = subprocess.run(
        [sys.executable, "-c", "import rrk; print(rrk.__file__)"],
        env=env,
        cwd=installed,
        capture_output=True,
        text=True,
    )
    assert str(installed / "site") in where.stdout
    done = subprocess.run(
        [sys.executable, "-m", "rrk", "execute", "rows.jsonl", "-p", "problems.jsonl", "-q"],
        env=env,
        cwd=installed,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["passed"] for line in done.stdout.splitlines()] == [False, True]


def test_the_wheel_knows_every_language(installed):
    """`rrk doctor` reads the language files that the wheel carries."""
    env = environment(PYTHONPATH=str(installed / "site"))
    script = "from rrk.sandbox.languages import toolchains as t; print(t.folder()); print(*sorted(t.all()))"
    done = subprocess.run([sys.executable, "-c", script], env=env, cwd=installed, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    place, codes = done.stdout.splitlines()
    assert "_sandboxes" in place
    assert set(codes.split()) == {path.stem for path in (ROOT / "sandboxes").glob("*.toml")}
