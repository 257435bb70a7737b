"""Programs that stand alone, and tests that were written to follow the prompt: how MultiPL-E's go together with chat models'.

    program, tests = fitted(mode, job)      # as the mode's closer, inside and preamble say

    joined(re.compile(r"class Problem[^{;]{0,200}\\{"), prompt, "class Problem { static int f() { return 1; } }")
    # "class Problem { static int f() { return 1; } ": the tests' methods and its closing brace come next

In Java, C# and Scala tests go on inside the prompt's class, which chat models close, or call by another name; or they write the function
alone. Read as text, for nothing of a program is run here; it ends on whatever text there is.
"""

from __future__ import annotations

import re
from itertools import islice

from rrk.sandbox.languages.toolchain import Mode
from rrk.sandbox.verdict import Job

# What may hold a brace that is none, unfinished ones to their end. C#'s @"..." ends by a quote alone.
_TOKEN = re.compile(
    r'@"[^"]*"?|"""(?:\\.|[^\\])*?(?:"""|\Z)|"(?:\\.|[^"\\\n])*"?|'
    r"'(?:\\.|[^'\\\n])*'?|//[^\n]*|/\*.*?(?:\*/|\Z)|[{}]",
    re.DOTALL,
)
_IMPORT = re.compile(r"^(?:import|using|package)\s[^;\n{(]*;[^\S\n]*\n?", re.MULTILINE)
_PACKAGE = re.compile(r"^[^\S\n]*package[^\S\n]+\w+[^\n]*\n?", re.MULTILINE)
_TYPE = re.compile(
    r"^[^\S\n]*(?:\w+[^\S\n]+){0,5}(?:class|interface|enum|record|struct|object|trait)[^\S\n]+\w", re.MULTILINE
)
_NAMED = re.compile(r"\b(class|object)[^\S\n]+(\w+)")
_CALLED = re.compile(r"(\w+)[^\S\n]*\(")
# Of a file's types one may be public in Java, the one that the file is named after.
_PUBLIC = re.compile(r"^public[^\S\n]+(?=(?:\w+[^\S\n]+){0,3}(?:class|interface|enum|record)\b)", re.MULTILINE)


def fitted(mode: Mode, job: Job) -> tuple[str, str]:
    """(program, tests) of a job whose program stands alone."""
    program, tests = job.program, job.tests
    if mode.closer:
        # MultiPL-E's tests close the brace that the prompt opened; a program that stands alone has closed it itself.
        tests = mode.closer.sub("", tests, count=1)
    if mode.inside:
        program = joined(mode.inside, job.prompt, program)
    if mode.imports:
        program = imported(mode.imports, job.prompt, program, tests)
    if mode.preamble:
        # The tests need it as well.
        program = "".join(found[0] for found in mode.preamble.finditer(job.prompt)) + program
    return program, tests


def joined(inside: re.Pattern[str], prompt: str, program: str) -> str:
    """The program up to where the tests go on: inside its last match of `inside`, whose other neighbours come before it.

    A program that declares no type, a method alone, is set into the prompt's; one that cannot be read so stays as it is.
    """
    opened = inside.search(prompt)
    if opened is not None and not inside.search(program):
        program = _under_its_name(prompt, opened, program)
    *_, found = [None, *inside.finditer(program)]
    if found is not None:
        close = _closing(program, found.end())
        if close is None:
            return program
        neighbours = program[: found.start()] + program[close + 1 :]
        if "public" not in found[0]:
            neighbours = _PUBLIC.sub("", neighbours)
        return neighbours + "\n" + program[found.start() : close]
    if opened is None or _TYPE.search(program):
        return program
    return "".join(_IMPORT.findall(program)) + prompt[: opened.end()] + "\n" + _IMPORT.sub("", program)


def _under_its_name(prompt: str, opened: re.Match[str], program: str) -> str:
    """The program with the class that declares the prompt's function named as in the prompt; without one, as it is."""
    named = _NAMED.search(opened[0])
    called = _CALLED.search(prompt[opened.end() :].strip().rpartition("\n")[2])  # the prompt's last line, its signature
    if named is None or called is None:
        return program
    kind, name = named.groups()
    declared = re.search(rf"\b(?:static|def)\s[^;={{}}()]{{0,200}}\b{called[1]}\s*\(", program)
    if declared is None:
        return program
    before = re.finditer(rf"\b{kind}[^\S\n]+(\w+)[^{{;]{{0,200}}\{{", program[: declared.start()])
    for own in islice(before, 20):  # a few: each is read to its end
        close = _closing(program, own.end())
        if close is None or close > declared.start():
            return re.sub(rf"\b{own[1]}\b", name, program)
    return program


def imported(imports: re.Pattern[str], prompt: str, program: str, tests: str) -> str:
    """The program with those of the prompt's imports that the tests want: an import is its file's own, and Go bears no idle one.

    `imports` has a group, what is imported; its last part is the name in use. A program without a package clause, a function
    alone, gets the prompt's, and what it wants of its imports.
    """
    own, clause = set(imports.findall(program)), _PACKAGE.search(program)
    if clause is None:
        clause, tests = _PACKAGE.search(prompt), program + tests
        head, rest = (clause[0] if clause else ""), program
    else:
        head, rest = program[: clause.end()], program[clause.end() :]
    lacking = [path for path in dict.fromkeys(imports.findall(prompt)) if path not in own]
    wanted = [path for path in lacking if re.search(rf"\b{re.escape(path.rpartition('/')[2])}\.", tests)]
    return head + "".join(f'\nimport "{path}"\n' for path in wanted) + rest


def _closing(text: str, begin: int) -> int | None:
    """Where the block that is open at `begin` is closed."""
    depth = 1
    for token in _TOKEN.finditer(text, begin):
        depth += {"{": 1, "}": -1}.get(token[0], 0)
        if not depth:
            return token.start()
    return None
