"""Asserts out of what a model wrote when asked for tests (CodeT, Chen et al. 2022).

    asserts(["f(1) == 2\\nassert f(2) == 3\\n\\ndef", ...], entry_point="f")  ->  ["assert f(1) == 2", "assert f(2) == 3"]

A sample continues a prompt that ends in `assert `, so its first test lacks the word. What follows the tests (another
function, a print) is cut; what does not parse, does not call the function, or says the same again is dropped.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterable

# Where a model has begun something else than tests: CodeT's stop sequences.
_ENDS = re.compile(r"\n(?:def |class |#|if |print\(|import |from )")


def asserts(samples: Iterable[str], entry_point: str, per_sample: int = 5, most: int | None = None) -> list[str]:
    """Distinct asserts that call `entry_point`: at most `per_sample` of each sample, `most` in all, in order found."""
    found: dict[str, None] = {}
    for sample in samples:
        kept = 0
        for text in _split(sample):
            if kept == per_sample or (most is not None and len(found) == most):
                break
            line = _normal(text, entry_point)
            if line is not None:
                kept += 1
                found.setdefault(line)
    return list(found)


def _split(sample: str) -> list[str]:
    if cut := _ENDS.search(sample):
        sample = sample[: cut.start()]
    parts = re.split(r"(?:^|\n)[ \t]*assert\b", "\nassert " + sample if not _opens(sample) else "\n" + sample)
    return [part.strip() for part in parts[1:]]


def _opens(sample: str) -> bool:
    return re.match(r"\s*assert\b", sample) is not None


def _normal(text: str, entry_point: str) -> str | None:
    """The assert as one canonical line without its message, or None if it is no test of the function."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a model's `x is 1` is not our warning to give
            tree = ast.parse(f"assert {text}").body
            if len(tree) != 1 or not isinstance(tree[0], ast.Assert):
                return None
            node = tree[0]
            names = {child.id for child in ast.walk(node.test) if isinstance(child, ast.Name)}
            if entry_point not in names:
                return None
            node.msg = None
            line = ast.unparse(node)
            compile(line, "<assert>", "exec")
            return line
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
