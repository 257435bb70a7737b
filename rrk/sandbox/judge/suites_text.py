"""Whether tests of another language than Python would test nothing, as far as that shows in their text.

vain("js", tests)       # None, or why a pass would say nothing: empty tests, or definitions that nobody calls
"""

from __future__ import annotations

import functools
import re

_STRINGS = r'"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\\n])*\''
_COMMENTS = {
    "sh": r"(?<![\w$])#[^\n]*", "rb": r"(?<![\w$])#[^\n]*", "pl": r"(?<![\w$@%])#[^\n]*", "r": r"#[^\n]*",
    "jl": r"#[^\n]*", "ex": r"#[^\n]*", "lua": r"--[^\n]*", "hs": r"--[^\n]*", "adb": r"--[^\n]*", "rkt": r";[^\n]*",
    "clj": r";[^\n]*", "ml": r"\(\*[\s\S]*?\*\)",
}  # fmt: skip
_C_COMMENTS = r"/\*[\s\S]*?\*/|//[^\n]*"
# How a function begins where what stands outside of every function runs.
_FUNCTION = {
    "js": r"(?:async\s+)?function\s*\*?\s*(\w+)\s*\([^)]*\)\s*\{",
    "ts": r"(?:async\s+)?function\s*\*?\s*(\w+)\s*(?:<[^>]*>)?\([^)]*\)[^{;]*\{",
    "php": r"function\s+(\w+)\s*\([^)]*\)[^{;]*\{",
    "sh": r"(?:function\s+)?(\w+)\s*\(\s*\)\s*\{",
    "pl": r"sub\s+(\w+)\s*\{",
    "r": r"(\w+)\s*<-\s*function\s*\([^)]*\)\s*\{",
}


@functools.lru_cache(maxsize=1024)
def vain(language: str, tests: str) -> str | None:
    """Why a pass would say nothing, or None. `language` is a short code."""
    # Strings and comments are found together: each may hold what looks like the other.
    words = rf"{_STRINGS}|(?P<comment>{_COMMENTS.get(language, _C_COMMENTS)})"
    text = re.sub(words, lambda found: "" if found["comment"] is not None else "''", tests)
    if not re.search(r"\w", text.replace("<?php", "").replace("?>", "")):
        return "the tests are empty"
    start = _FUNCTION.get(language)
    if start is None:
        return None
    names = set(re.findall(start, text))
    if not names:
        return None
    outside = _outside(text, start)
    if not re.search(r"\w", re.sub(r"(?m)\buse strict\b|\brequire\b[^;\n]*|\bimport\b[^;\n]*", "", outside)):
        return f"the tests define {', '.join(sorted(names))} and call nothing"
    return None


def _outside(text: str, start: str) -> str:
    """The text without functions, found by their braces."""
    kept, at = [], 0
    for found in re.finditer(start, text):
        if found.start() < at:
            continue
        kept.append(text[at : found.start()])
        depth, at = 1, found.end()
        while at < len(text) and depth:
            depth += {"{": 1, "}": -1}.get(text[at], 0)
            at += 1
    return "".join([*kept, text[at:]])
