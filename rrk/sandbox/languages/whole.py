"""Programs that stand alone, where tests go on inside what the prompt has opened: MultiPL-E's Java and C# in a class.

    joined(re.compile(r"class Problem[^{;]{0,200}\\{"), prompt, "class Problem { static int f() { return 1; } }")
    # "class Problem { static int f() { return 1; } ": the tests' methods and its closing brace come next

Chat models close the class, or write the function alone. Read as text, for nothing of a program is run here; it ends on whatever
text there is.
"""

from __future__ import annotations

import re

# What may hold a brace that is none, unfinished ones to their end. C#'s @"..." ends by a quote alone.
_TOKEN = re.compile(
    r'@"[^"]*"?|"""(?:\\.|[^\\])*?(?:"""|\Z)|"(?:\\.|[^"\\\n])*"?|'
    r"'(?:\\.|[^'\\\n])*'?|//[^\n]*|/\*.*?(?:\*/|\Z)|[{}]",
    re.DOTALL,
)
_IMPORT = re.compile(r"^(?:import|using|package)\s[^;\n{(]*;[^\S\n]*\n?", re.MULTILINE)
_TYPE = re.compile(r"^[^\S\n]*(?:\w+[^\S\n]+){0,5}(?:class|interface|enum|record|struct)[^\S\n]+\w", re.MULTILINE)


def joined(inside: re.Pattern[str], prompt: str, program: str) -> str:
    """The program up to where the tests go on: inside its last match of `inside`, whose other neighbours come before it.

    A program that declares no type, a method alone, is set into the prompt's; one that cannot be read so stays as it is.
    """
    *_, found = [None, *inside.finditer(program)]
    if found is not None:
        close = _closing(program, found.end())
        if close is None:
            return program
        return program[: found.start()] + program[close + 1 :] + "\n" + program[found.start() : close]
    opened = inside.search(prompt)
    if opened is None or _TYPE.search(program):
        return program
    return "".join(_IMPORT.findall(program)) + prompt[: opened.end()] + "\n" + _IMPORT.sub("", program)


def _closing(text: str, begin: int) -> int | None:
    """Where the block that is open at `begin` is closed."""
    depth = 1
    for token in _TOKEN.finditer(text, begin):
        depth += {"{": 1, "}": -1}.get(token[0], 0)
        if not depth:
            return token.start()
    return None
