"""The program in a chat answer: what stands between the fences, without the chatter around it.

    found = extract("Sure!\\n```python\\ndef f(a):\\n    return a\\n```\\nIt works.", "py", "f")
    found.program    # "def f(a):\\n    return a\\n"
    found.how        # "fenced, defines f"

Which block: of those in the problem's language (or that name none) the one that defines the entry point; of several, or
where no entry point is known, the longest. An answer without fences is a program from its first line of code on. Thoughts
(`<think>`) are no answer. Where no program is found, the program is empty and `how` is "none": never a guess.
"""

from __future__ import annotations

import ast
import itertools
import re
import textwrap
import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from rrk import rows
from rrk.jsonl import Row

NONE = "none"

# Names of fences that hold something else than a program.
_NO_PROGRAM = re.compile(
    r"text|txt|plain|plaintext|output|stdout|stdin|input|console|terminal|session|pycon|jsonl?|ya?ml|toml|ini|xml|html|css|csv"
    r"|diff|patch|markdown|md|latex|tex|math|mermaid|sql|makefile|dockerfile|http|log|none"
)
_FENCE = re.compile(r"^([ \t]*)(`{3,}|~{3,})[ \t]*([^`\n]*)$")
_THOUGHTS = re.compile(r"<(think|thinking|reasoning)>.*?(?:</\1>|\Z)", re.DOTALL | re.IGNORECASE)

# How a line of a program may begin where nobody says that one begins.
_PYTHON = re.compile(
    r"(?:import [\w.]+(?: as \w+)?(?:\s*,.*)?$|from [\w.]+ import |(?:async )?def \w+|class \w+\s*[:(]|@\w|#!)"
)
_OTHER = re.compile(
    r"(?:#include|#!|//|/\*|<\?php|import\b.*[;\w]$|using\b.*;|package \w+;?$|use \w[\w:]*.*;$|public\b|private\b|static\b"
    r"|(?:class|struct|object|module|namespace|trait|enum) \w+.*[{:]?$|(?:pub )?fn \w+|func \w+|fun \w+|function\b.*\("
    r"|(?:local|let|const|var|val|sub|def|defp|defmodule|proc|procedure|type|data) \w+|\((?:define|defn|ns)\b|#lang "
    r"|[\w:<>\[\],&*]+(?: [\w:<>\[\],&*]+)* ?[&*]?\w+\([^;]*\)\s*(?:const )?\{|\w+ (?:::|<-) )"
)


@dataclass(frozen=True)
class Extraction:
    """`program` is empty where none was found; `whole` says that it stands alone and does not continue a prompt."""

    program: str
    how: str
    whole: bool
    before: int = 0  # characters of the answer that were cut in front of the program, and behind it
    after: int = 0

    def fields(self) -> dict[str, Any]:
        """What a row says of it, under `extracted`."""
        return {"how": self.how, "before": self.before, "after": self.after}


@dataclass(frozen=True)
class _Block:
    text: str
    language: str | None  # rrk's code; None where the fence names none, "" where it names something that is no program
    start: int  # of the program in the answer, and its end
    end: int
    closed: bool


def extract(answer: str, language: str, entry_point: str | None = None) -> Extraction:
    """The program in a chat answer. `language` in any of its names; `entry_point` is the function or class asked for."""
    language = rows.language_code(language)
    # Thoughts become blanks, so that places in the answer stay what they are.
    text = _THOUGHTS.sub(lambda found: "\n" * len(found[0]), answer)
    text = re.sub(
        r"(?is)\A.*</think(?:ing)?>", lambda found: "\n" * len(found[0]), text
    )  # templates open it in the prompt
    fenced = _blocks(text, language)
    blocks = [block for block in fenced if block.language in (language, None) and not _session(block.text)]
    own = [block for block in blocks if block.language == language]
    groups = (
        [block for block in group if entry_point and defines(block.text, entry_point, language)]
        for group in (own, blocks)
    )
    defining = next(filter(None, groups), [])
    if chosen := max(defining or own or blocks, key=lambda block: len(block.text), default=None):
        how = f"defines {entry_point}" if defining else "longest" if len(own or blocks) > 1 else "the only one"
        how = f"fenced, {how}" + ("" if chosen.closed else ", not closed")
        return _extraction(answer, chosen.text, how, language, chosen.start, chosen.end)
    if not fenced and (found := _bare(text, language, entry_point)):
        start, end = found
        return _extraction(answer, text[start:end], "no fences", language, start, end)
    return Extraction("", NONE, True, before=len(answer))


def defines(program: str, name: str, language: str) -> bool:
    """True if a program's text defines a function, class or value of that name."""
    if name not in program:
        return False
    word = re.escape(name)  # the patterns repeat nothing across lines: answers may be long
    if language == "py":
        return bool(
            re.search(rf"(?m)^[ \t]*(?:(?:async\s+)?def|class)\s+{word}\b|^{word}\s*(?::[^=\n]+)?=(?!=)", program)
        )
    keyword = r"(?:def|defp|defn|define|func|function|fn|fun|sub|proc|procedure|let|const|var|val|class|struct|object|module|type)"
    return bool(
        re.search(rf"(?m)^[ \t]*\(?(?:[\w()*]+[ \t]+)*{keyword}\b[^\n=;]*?(?<![\w.]){word}(?!\w)", program)
        or re.search(rf"(?m)^[^\n=;(]*[\w>\]&*][\s&*]+{word}\s*\([^;{{}}]*\)[^;(){{}}]*\{{", program)  # C and its kin
        or re.search(
            rf"(?m)^[ \t]*(?:local\s+)?{word}\s*(?:::|<-|=(?!=)|\()[^\n]*(?:::|->|function|\bfn\b|\{{\s*$)", program
        )
        or re.search(rf"(?m)^{word}\s*(?:\(\)\s*\{{|::)", program)  # shells, Haskell
    )


class Programs:
    """Candidate rows with the program in place of the answer, and `extracted` beside it, which says what was cut.

    `entry_point` tells what a row's problem asks for (None where nobody knows). A row whose text changed loses the fields
    `found_out`: they were true of the answer. `without` counts the answers in which no program was found.
    """

    def __init__(self, entry_point: Callable[[dict[str, Any]], str | None], found_out: Collection[str] = ()) -> None:
        self._entry_point, self._found_out = entry_point, found_out
        self.without = 0

    def __call__(self, row: dict[str, Any]) -> Row:
        answer = rows.completion(row)
        found = extract(answer, str(row.get("language") or "py"), self._entry_point(row))
        self.without += found.how == NONE
        dropped = {"solution", "completion_kind", *(self._found_out if found.program != answer else ())}
        out = {key: value for key, value in row.items() if key not in dropped}
        out |= {"completion": found.program, "extracted": found.fields()}
        if found.whole:
            out["completion_kind"] = "full"
        return Row(out, rows.where(row))


def _blocks(text: str, language: str) -> list[_Block]:
    """Fenced blocks in order (CommonMark's, and indented ones as they stand in lists); one that is not closed runs to the end."""
    found: list[_Block] = []
    opening: tuple[str, str, str, int] | None = None  # indent, fence, name, start of the text
    fences: list[tuple[int, int, str, str, str]] = []
    position = 0
    for line in text.splitlines(keepends=True):
        if match := _FENCE.match(line.rstrip("\r\n")):
            fences.append((position, position + len(line), match[1], match[2], match[3].strip()))
        position += len(line)
    if fences and len(fences) % 2 and not fences[0][4] and _begins(text[: fences[0][0]], language):
        # The prompt opened the fence: the answer begins within it.
        opening = ("", fences[0][3], language, 0)
    for start, after, indent, fence, name in fences:
        if opening is None:
            opening = (indent, fence, name, after)
        elif not name and fence.startswith(opening[1]):
            found.append(_block(text, opening, start, True))
            opening = None
    if opening is not None:
        found.append(_block(text, opening, len(text), False))
    return found


def _block(text: str, opening: tuple[str, str, str, int], end: int, closed: bool) -> _Block:
    indent, _, name, start = opening
    inner = text[start:end]
    if indent:
        inner = re.sub(rf"(?m)^{re.escape(indent)}", "", inner)
    word = re.sub(r"^[{.\s]+", "", name.lower())
    word = re.split(r"[\s,:{}]", word, maxsplit=1)[0] if word else ""
    code: str | None = rows.language_code(word) if word else None
    if code is not None and code not in rows.LANGUAGES:
        code = "" if _NO_PROGRAM.fullmatch(code) else None  # a name that nobody knows says nothing
    return _Block(inner, code, start, end, closed)


def _session(text: str) -> bool:
    """True for an interpreter's session (`>>> f(1)`), and for nothing at all."""
    return not text.strip() or text.lstrip().startswith((">>> ", "In [1]"))


def _begins(text: str, language: str) -> bool:
    """True if the first line that is not blank is a program's."""
    first = next((line for line in text.splitlines() if line.strip()), "")
    return bool(first[:1].isspace() or (_PYTHON if language == "py" else _OTHER).match(first))


def _bare(text: str, language: str, entry_point: str | None) -> tuple[int, int] | None:
    """Start and end of a program that no fence marks, or None."""
    if _session(text):
        return None
    if language == "py" and text[:1] in " \t" and _error("def f():\n" + text) is None:
        return 0, len(text)  # a body that continues the prompt
    lines = text.splitlines(keepends=True)
    at = [0, *itertools.accumulate(map(len, lines))]  # where each line starts
    begins = (_PYTHON if language == "py" else _OTHER).match
    head = next(number for number, line in enumerate(lines) if line.strip())
    first = next((number for number, line in enumerate(lines) if begins(line)), None)
    if language != "py":
        if first is None:
            return None
        closes = [n for n, line in enumerate(lines) if n >= first and re.search(r"(?:[;{})\]]|\bend)\s*$", line)]
        return at[first], at[closes[-1] + 1 if closes else len(lines)]
    if first != head and _is_script(text):
        return at[head], len(text)  # `f = lambda a: a`, and scripts that read and print
    if first is None:
        return None
    last = len(lines)
    while last > first:
        error = _error(text[at[first] : at[last]])
        if error is None:
            if entry_point and not defines(text[at[first] : at[last]], entry_point, language):
                break  # perhaps the function stands behind the error: a broken program is still the answer
            return at[first], at[last]
        last = min(last - 1, first + error - 1)
    # It does not parse as it is: everything up to the last line that can be code.
    code = [n for n, line in enumerate(lines) if n >= first and ((line[:1].isspace() and line.strip()) or begins(line))]
    return at[first], at[code[-1] + 1]


def _error(text: str) -> int | None:
    """The line, from 1, from which on a Python text does not parse; None if it does."""
    try:
        tree(text)
    except SyntaxError as error:
        return error.lineno or 1
    except (ValueError, RecursionError, MemoryError):
        return 1
    return None


def _is_script(text: str) -> bool:
    """True if all of it is Python that does something: a name or a text alone is an answer in words."""
    if _error(text) is not None:
        return False
    idle = (ast.Name, ast.Constant, ast.Tuple, ast.Attribute, ast.Compare, ast.BoolOp, ast.UnaryOp, ast.BinOp)
    return any(not (isinstance(node, ast.Expr) and isinstance(node.value, idle)) for node in tree(text).body)


def tree(text: str) -> ast.Module:
    """Somebody's Python. SyntaxError, ValueError, RecursionError or MemoryError where it does not parse."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "\\d" in somebody's program is no concern of ours
        return ast.parse(text)


def _extraction(answer: str, program: str, how: str, language: str, start: int, end: int) -> Extraction:
    whole = True
    if language == "py":
        # A block of which every line is indented is a body that continues the prompt, or sits in a list.
        first = next((line for line in program.splitlines() if line.strip()), "")
        if first[:1].isspace():
            whole = _error("def f():\n" + program) is not None
            if whole:
                program = textwrap.dedent(program)
    return Extraction(program, how, whole, start, len(answer) - end)
