"""The idioms themselves: run without rrk, as one script, every right program passes its tests and every wrong twin fails them."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.sandbox.idioms import IDIOMS, Idiom

# Program and tests share one namespace. Where the main guard is not to run, the program is executed under another name.
MODULE = """
import builtins, sys
space = {{"__name__": "solution", "__builtins__": builtins}}
exec(compile({program!r}, "program.py", "exec"), space)
exec(compile({tests!r}, "tests.py", "exec"), space)
"""


def script(idiom: Idiom, completion: str) -> str:
    program, tests = idiom.prompt + completion, f"{idiom.tests}\n{idiom.runner}\n"
    return MODULE.format(program=program, tests=tests) if idiom.module else f"{program}\n{tests}"


def test_there_are_many_and_every_name_is_given_once():
    assert len(IDIOMS) >= 80
    assert len({idiom.name for idiom in IDIOMS}) == len(IDIOMS)
    assert all(idiom.right != idiom.wrong for idiom in IDIOMS)


def test_right_programs_pass_and_wrong_twins_fail_as_one_script(tmp_path):
    """Otherwise a label that rrk gives to them would prove nothing."""
    here = [idiom for idiom in IDIOMS if all(map(importlib.util.find_spec, idiom.needs))]
    if not here:
        pytest.skip("nothing can run")

    def run(idiom: Idiom) -> list[str]:
        told = []
        for word, completion in (("right", idiom.right), ("wrong", idiom.wrong)):
            folder = tmp_path / f"{idiom.name}-{word}"
            folder.mkdir()
            (folder / "main.py").write_text(script(idiom, completion), "utf-8")
            done = subprocess.run(
                [sys.executable, *([] if idiom.needs else ["-I", "-S"]), "main.py"], cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL,
                timeout=60, env={**os.environ, "TMPDIR": str(folder), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            )  # fmt: skip
            # A twin fails by what the tests look at, not by a slip in the corpus.
            slip = any(word in done.stderr for word in ("SyntaxError", "NameError", "ModuleNotFoundError"))
            if slip or (done.returncode == 0) != (word == "right"):
                told.append(f"{idiom.name} ({word}): exit {done.returncode}\n{done.stderr[-600:]}")
        return told

    with ThreadPoolExecutor(4) as pool:
        complaints = [line for lines in pool.map(run, here) for line in lines]
    assert complaints == [], "\n".join(complaints)
