"""What is a comment, by language: whole lines, blocks, and the docstrings that say what a function does.

    is_line("  # add one", "py")                        # True: nothing but a comment
    marks("cpp")                                        # ("//",): what such a line begins with
    parted("# add one\\nf <- function(x)", "r")         # ("f <- function(x)", "add one"): code, and what is said about it

A sign alone does not tell: `#include` is code in C++, `#x` a private field in JavaScript, `//` a division in Python, `--i;` a
statement in every language of C's family. Only lines that begin with a comment count, for in the middle of code its sign may
stand in a text.
"""

from __future__ import annotations

import functools
import re

_C = "cpp java js ts cs go rs scala swift dart d php"
# What a line of nothing but a comment begins with.
_LINES = {"#": "py sh rb pl r jl ex php", "//": _C, "--": "lua luau hs adb", ";": "rkt clj"}
# Blocks; php's and Julia's quotes, too, hold what is said of a function.
_BLOCKS = {
    ("/*", "*/"): _C,
    ("(*", "*)"): "ml",
    ('"""', '"""'): "py jl ex",
    ("'''", "'''"): "py",
    ("{-", "-}"): "hs",
    ("--[[", "]]"): "lua luau",
    ("#=", "=#"): "jl",
    ("#|", "|#"): "rkt",
}


@functools.cache
def marks(language: str) -> tuple[str, ...]:
    """What lines of nothing but a comment begin with, blanks aside; none of a language that nobody knows."""
    return tuple(mark for mark, languages in _LINES.items() if language in languages.split())


def is_line(line: str, language: str) -> bool:
    """Whether the line is nothing but a comment."""
    return line.lstrip().startswith(marks(language))


def parted(text: str, language: str) -> tuple[str, str]:
    """(code without blank lines, what comments and docstrings say, in their order). Either may be empty.

    `#!/bin/bash` and `#lang racket` are code here: what is said follows a blank.
    """
    said: list[str] = []

    def take(found: re.Match) -> str:
        said.append(next(inner for inner in found.groups() if inner is not None).strip())
        return ""

    blocks, line_comment = _patterns(language)
    code = []
    for line in (blocks.sub(take, text) if blocks else text).splitlines():
        comment = line_comment.match(line) if line_comment else None
        if comment:
            said.append(comment[1].rstrip())
        elif line.strip():
            code.append(line)
    return "\n".join(code), "\n".join(said).strip()


@functools.cache
def _patterns(language: str) -> tuple[re.Pattern | None, re.Pattern | None]:
    """For blocks, a group each, and for a line, whose group is what it says. Signs may be repeated, as in `///` and `/**`."""
    blocks = [pair for pair, languages in _BLOCKS.items() if language in languages.split()]
    starred = {"/*": (r"/\*+", r"\*+/"), "(*": (r"\(\*+", r"\*+\)")}
    ends = [starred.get(opens) or (re.escape(opens), re.escape(closes)) for opens, closes in blocks]
    block = "|".join(f"{opens}(.*?){closes}" for opens, closes in ends)
    spelled = {"#": r"#(?=\s|$)", "//": "//+", ";": ";+"}
    line = "|".join(spelled.get(mark, re.escape(mark)) for mark in marks(language))
    return (
        re.compile(block, re.DOTALL) if block else None,
        re.compile(rf"^[ \t]*(?:{line})[ \t|]*(.*)$") if line else None,
    )
