"""The tiny world: its references pass their tests, its bugs mostly do not, and nothing held out leaks."""

from __future__ import annotations

import importlib.util
import json
import random
import subprocess
import sys

import pytest

from tests.conftest import ROOT, environment

SCRIPT = ROOT / "examples" / "tiny" / "world.py"
spec = importlib.util.spec_from_file_location("tiny_world", SCRIPT)
world = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = world  # dataclasses look their module up
spec.loader.exec_module(world)


def passes(problem, completion: str) -> bool:
    scope: dict = {}
    try:
        exec("def f(a):\n" + completion + problem.tests(random.Random(1)), scope)
    except Exception:
        return False
    return True


@pytest.fixture(scope="module")
def drawn():
    return world.problems(seed=3, sizes={"train": 150, "dev": 20, "test": 50})


def test_splits_are_disjoint_and_the_corpus_avoids_what_is_held_out(drawn):
    every = [problem for split in drawn.values() for problem in split]
    assert len(set(every)) == len(every) == 220
    held_out = set(drawn["test"])
    seen = {row["prompt"] for row in world.corpus(3, 3000, held_out)}
    for problem in held_out:
        assert not seen & {problem.prompt(random.Random(i)) for i in range(16)}


def test_every_right_variant_passes(drawn):
    rng = random.Random(0)
    for problem in drawn["train"]:
        assert all(passes(problem, problem.solution(rng)) for _ in range(4))
        assert passes(problem, problem.solution())


def test_the_noisy_corpus_is_right_about_a_third_of_the_time(drawn):
    rng = random.Random(0)
    flags = [passes(problem, problem.solution(rng, noise=True)) for problem in drawn["train"] for _ in range(8)]
    assert 0.28 < sum(flags) / len(flags) < 0.42


@pytest.mark.parametrize(("table", "name"), [(t, n) for t in ("STEPS", "ENDINGS") for n in getattr(world, t)])
def test_a_bug_is_caught_by_the_tests_of_most_problems(table, name):
    """A bug that no input shows would teach a reranker that wrong is right."""
    part = getattr(world, table)[name]
    for wrong in part.wrong:
        caught = 0
        for k in world.CONSTANTS:
            step = ("add", 2) if table == "ENDINGS" else (name, k)
            ending = (name, k) if table == "ENDINGS" else ("list", 0)
            problem = world.Problem((step,), ending)
            right = (world.STEPS[step[0]].right[0] if table == "ENDINGS" else wrong).format(k=step[1])
            last = (wrong if table == "ENDINGS" else "a").format(k=k)
            caught += not passes(problem, f"    a = {right}\n    return {last}\n")
        assert caught >= 6, (wrong, caught)


def test_the_script_writes_the_same_bytes_for_the_same_seed(tmp_path):
    pytest.importorskip("transformers")
    for folder in ("a", "b"):
        command = [
            sys.executable,
            str(SCRIPT),
            "-o",
            folder,
            "--train",
            "5",
            "--dev",
            "2",
            "--test",
            "4",
            "--corpus",
            "50",
        ]
        subprocess.run(command, cwd=tmp_path, env=environment(), check=True, capture_output=True)
    names = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file())
    assert {"train.jsonl", "dev.jsonl", "test.jsonl", "sft.jsonl", "base/model.safetensors"} <= set(map(str, names))
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    first = json.loads((tmp_path / "a" / "train.jsonl").read_text().splitlines()[0])
    assert {"task_id", "language", "prompt", "tests", "entry_point", "canonical_solution"} <= set(first)
