"""The examples that a problem's own text shows, as tests.

    asserts(prompt, "f")  ->  ["assert f(1) == 2", ...]                   # Python
    program(prompt, toolchain.examples)  ->  "...\nassert(f(1) == 2);"   # another language, all in one

In Python read are doctests (`>>> f(1)` and what is printed below) and the ways in which HumanEval's docstrings write them: `f(1) == 2`,
`f(1) => 2`, `f(1) -> 2`, `f(1) returns 2`, `f(1) should return 2`, `f(1) = 2`. A call with anything but literals in it is no
example (`is_happy(abcd) => True`), nor is a value that is none. An author's slip is read as it stands.
Prompts in other languages show examples as MultiPL-E translates them: `// >>> f((1l))`, and the value in the next line.
"""

from __future__ import annotations

import ast
import doctest
import re
import warnings

from rrk.sandbox.languages.toolchain import Examples

# Between a call and its value, on the same line; the longest sign first.
_SAYS = re.compile(r"\s*#?\s*(?:==>|-->|=>|->|==|=|➞|→|(?:will |should |must )?(?:return|be|output|give)s?\b:?)\s*")
# Behind the value: the line's end, a sign of prose, or a word; an operator would make another value of it.
_ENDS = re.compile(r"\s*(?:$|[.,;:#)?!]|\"\"\"|'''|\s[A-Za-z(])")
_SPELT = {"true": "True", "false": "False", "null": "None"}
_HARMLESS = frozenset(
    ["abs", "dict", "float", "int", "len", "list", "max", "min", "round", "set", "sorted", "str", "sum", "tuple"]
)
# `// >>> call` and what the next line holds behind the same sign.
_COMMENTED = re.compile(r"^[ \t]*\S{0,3}[ \t]*>>> (\S.*?)[ \t]*\n[ \t]*\S{0,3}[ \t]+(\S.*?)[ \t]*$", re.MULTILINE)
_PARSER = doctest.DocTestParser()


def asserts(prompt: str, entry_point: str) -> list[str]:
    """Distinct asserts in the order of the text; of a prompt with several functions, those of the last one's text."""
    if f"{entry_point}(" not in prompt:
        return []
    at = prompt.rfind(f"def {entry_point}(")
    text = prompt[at + 4 + len(entry_point) :] if at >= 0 else prompt
    found: dict[str, None] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an odd escape in an example is not our warning to give
        for example in _doctests(text):
            if f"{entry_point}(" in example.source:
                found |= _printed(example.source.strip(), example.want, entry_point)
        for start in re.finditer(rf"(?<![\w.]){re.escape(entry_point)}\(", text):
            found |= _on_a_line(text[start.start() :].partition("\n")[0], entry_point)
    return list(found)


def program(prompt: str, examples: Examples) -> str:
    """The tests' text. Of a prompt without an example it tests nothing, so that a program has to compile and to load.

    An example of a function that the prompt does not declare is an author's slip, on which no program would compile.
    """
    declared = re.sub(r"^.*>>>.*$", "", prompt, flags=re.MULTILINE)
    found: dict[str, None] = {}
    for call, value in _COMMENTED.findall(prompt):
        name = re.search(r"[^\W\d]\w*", call)
        if name and f"{name[0]}(" in declared and (examples.value is None or examples.value.match(value)):
            found[examples.each.replace("@call@", call).replace("@value@", value)] = None
    return examples.head + "".join(found) + examples.tail


def _doctests(text: str) -> list[doctest.Example]:
    # A docstring's end, or prose at the margin, is no output.
    try:
        return _PARSER.get_examples(re.sub(r'"""|\'\'\'', "\n\n", text))
    except ValueError:  # inconsistent indentation, or no space behind >>>
        return []


def _printed(call: str, below: str, name: str) -> dict[str, None]:
    """What a doctest prints may take several lines, and prose may follow without a gap: the most lines that are a value."""
    lines = below.splitlines()
    for end in range(len(lines), 0, -1):
        if made := _assert(call, "\n".join(lines[:end]).strip(), name):
            return made
    return {}


def _on_a_line(line: str, name: str) -> dict[str, None]:
    """`f(1) == 2 and so on`: the shortest call that parses, and the longest value."""
    for close in re.finditer(r"\)", line):
        call = line[: close.end()]
        if not _is_call(call, name):
            continue
        if says := _SAYS.match(line[close.end() :]):
            value = line[close.end() + says.end() :]
            for end in range(len(value), 0, -1):
                if (
                    value[end - 1] not in ",."
                    and _ENDS.match(value[end:])
                    and (made := _assert(call, value[:end].strip(), name))
                ):
                    return made
        return {}
    return {}


def _is_call(text: str, name: str) -> bool:
    try:
        node = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name


def _assert(call: str, value: str, name: str) -> dict[str, None]:
    """{"assert call == value": None}; empty where it needs a name that the prompt need not define, or the value is no literal."""
    try:
        node = ast.parse(call, mode="eval").body
        wanted = ast.unparse(ast.Constant(ast.literal_eval(_SPELT.get(value, value))))
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return {}
    names = {child.id for child in ast.walk(node) if isinstance(child, ast.Name)}
    return {f"assert {ast.unparse(node)} == {wanted}": None} if name in names <= _HARMLESS | {name} else {}
