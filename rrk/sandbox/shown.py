"""The examples that a problem's own text shows, as tests.

    asserts(prompt, "f")  ->  ["assert f(1) == 2", ...]                   # Python
    program(prompt, toolchain.examples)  ->  "...\nassert(f(1) == 2);"   # another language, all in one

In Python read are doctests (`>>> f(1)` and what is printed below) and the ways in which HumanEval's docstrings and LeetCode's
texts write them: `f(1) == 2`, `f(1) => 2`, `f(1) -> 2`, `f(1) returns 2`, `f(1) should return 2`, `f(1) = 2`; `Input: x = 1` and below
`Output: 2`; `For x = 1 the output should be 2`. A call with anything but literals in it is no example (`is_happy(abcd) => True`),
nor is a value that is none. An author's slip is read as it stands. Prompts in other languages show examples as MultiPL-E translates
them: `// >>> f((1l))`, and the value in the next line.
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
LONGEST = 1000  # characters of a line that are looked at
_PAIRS = (
    re.compile(
        r"\binput\s*:\s*(?P<given>[^\n]{1,1000}(?:\n[^\n]{1,1000})??)\n\s*output\s*:[ \t]*(?P<value>[^\n]+)",
        re.IGNORECASE,
    ),
    re.compile(
        r"\bfor (?P<given>[^\n]{1,300}?)[, ]*\b(?:the )?(?:output|result|answer)[^\n=:]{0,40}?(?:should be|is|will be|:|=)[ \t]*(?P<value>[^\n]+)",
        re.IGNORECASE,
    ),
)
_SPELT = {"true": "True", "false": "False", "null": "None"}
_HARMLESS = frozenset(
    ["abs", "dict", "float", "int", "len", "list", "max", "min", "round", "set", "sorted", "str", "sum", "tuple"]
)
# `// >>> call` and what the next line holds behind the same sign, if there is one: D's comments have none at each line.
_COMMENTED = re.compile(r"^([ \t]*(?:\S{1,3}[ \t]+)?)>>> (\S.*?)[ \t]*\n\1[ \t]*(?!>>>)(\S.*?)[ \t]*$", re.MULTILINE)
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
            found |= _on_a_line(text[start.start() :].partition("\n")[0][:LONGEST], entry_point)
        parameters = _parameters(prompt[at:]) if at >= 0 else []
        for pair in (match for form in _PAIRS for match in form.finditer(text)):
            given, value = _arguments(pair["given"][:LONGEST], parameters), _value(pair["value"][:LONGEST])
            if given is not None and value is not None:
                found[f"assert {entry_point}({', '.join(given)}) == {value}"] = None
    return list(found)


def program(prompt: str, examples: Examples) -> str:
    """The tests' text. Of a prompt without an example it tests nothing, so that a program has to compile and to load.

    An example of a function that the prompt does not declare is an author's slip, on which no program would compile.
    """
    declared = re.sub(r"^.*>>>.*$", "", prompt, flags=re.MULTILINE)
    found: dict[str, None] = {}
    for _, source, value in _COMMENTED.findall(prompt):
        name = re.search(r"[^\W\d]\w*", source)
        value = _joined(value, examples.join)
        if examples.drop:
            source = examples.drop.sub("", source)
        if name and _declares(name[0], declared) and (examples.value is None or examples.value.match(value)):
            found[examples.each.replace("@call@", source).replace("@value@", value)] = None
    return examples.head + "".join(found) + examples.tail


def _declares(name: str, text: str) -> bool:
    """`f(x)`, Perl's `f {`, Haskell's `f ::`, R's `f <-`, OCaml's `let f (x`, Racket's `(define (f x)`."""
    return re.search(rf"\b{name}(?:\(|\s*(?:::|<-|\{{))|(?:\blet|\brec|\(define \()\s*{name}\b", text) is not None


def _joined(value: str, join: str | None) -> str:
    """`['"1"', '"2"']` as the one text that is printed, where the language prints lists so; of anything else nothing changes."""
    if join is None or not value.startswith("["):
        return value
    try:
        words = ast.literal_eval(value)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return value
    quoted = all(isinstance(word, str) and re.fullmatch(r'"[^"]*"', word) for word in words)
    return f'"{join.join(word[1:-1] for word in words)}"' if quoted else value


def _doctests(text: str) -> list[doctest.Example]:
    # A docstring's end, or prose at the margin, is no output.
    try:
        return _PARSER.get_examples(re.sub(r'"""|\'\'\'', "\n\n", text))
    except ValueError:  # inconsistent indentation, or no space behind >>>
        return []


def _printed(source: str, below: str, name: str) -> dict[str, None]:
    """What a doctest prints may take several lines, and prose may follow without a gap: the most lines that are a value."""
    lines = below[:LONGEST].splitlines()
    for end in range(len(lines), 0, -1):
        if (value := _literal("\n".join(lines[:end]))) is not None:
            return _assert(source, value, name)
    return {}


def _on_a_line(line: str, name: str) -> dict[str, None]:
    """`f(1) == 2 and so on`: the shortest call that parses, and the longest value."""
    for close in re.finditer(r"\)", line):
        source = line[: close.end()]
        if call(source, name):
            says = _SAYS.match(line[close.end() :])
            value = _value(line[close.end() + says.end() :]) if says else None
            return _assert(source, value, name) if value is not None else {}
    return {}


def _value(text: str) -> str | None:
    """The longest literal that the text begins with, if nothing stands behind it that would make another of it."""
    for end in range(len(text), 0, -1):
        if text[end - 1] not in ",." and _ENDS.match(text[end:]) and (value := _literal(text[:end])) is not None:
            return value
    return None


def _literal(text: str) -> str | None:
    text = text.strip()
    try:
        return ast.unparse(ast.Constant(ast.literal_eval(_SPELT.get(text, text))))
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return None


def _parameters(function: str) -> list[str]:
    """Names of the parameters of the function that the text begins with; [] if its head does not parse."""
    head = re.match(r"def.*?:[ \t]*(?:#[^\n]*)?\n", function, re.DOTALL)
    try:
        arguments = ast.parse((head[0] if head else function) + "    pass").body[0].args  # type: ignore[attr-defined]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    return [argument.arg for argument in [*arguments.posonlyargs, *arguments.args]]


def _arguments(text: str, parameters: list[str]) -> list[str] | None:
    """`x = 1, y = 2` by the parameters' names, else `1` or `1, 2` in their order; None where it is neither."""
    places = [re.search(rf"\b{name}\s*[:=]", text) for name in parameters]
    if parameters and all(places):
        values = [_value(text[place.end() :].strip()) for place in places if place]
        return None if None in values else values  # type: ignore[return-value]
    try:
        many = ast.literal_eval(f"({_SPELT.get(text.strip(), text)},)")
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return None
    return [repr(one) for one in many] if len(many) == len(parameters) > 0 else None


def call(text: str, name: str) -> ast.Call | None:
    """The text as a call of the function, if it is one and nothing more."""
    try:
        node = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return node if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name else None


def _assert(source: str, value: str, name: str) -> dict[str, None]:
    """{"assert source == value": None}; empty where it needs a name that the prompt need not define."""
    try:
        node = ast.parse(source, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    names = {child.id for child in ast.walk(node) if isinstance(child, ast.Name)}
    return {f"assert {ast.unparse(node)} == {value}": None} if name in names <= _HARMLESS | {name} else {}
