"""A program that writes its prompt's function anew, as the continuation that the prompt asks for.

    continuation('def f(a):\\n    "Add one."\\n', "import re\\ndef f(a):\\n  return a + 1\\n", "py")
    # "    return a + 1\\n\\nimport re\\n"

Chat models answer with the whole function, and a reranker that was trained on continuations reads that as a prompt whose
function was left empty, and a second one: what is repeated there counts as the program's own words. For reading only: what
else the program holds stands behind the body, not where it would run. Python is parsed; elsewhere a prompt must end in the
head of its function, and the program's function ends at the first brace, or `end`, that is indented no further than its head.
"""

from __future__ import annotations

import ast
import io
import re
from functools import lru_cache

from rrk import comments, extract, rows

_Function = ast.FunctionDef | ast.AsyncFunctionDef
# Words that a head may have or not, and still say the same.
_LEFT_OUT = {"std", "const", "final", "public", "private", "static", "inline", "export", "function", "local"}
# What closes a function where no brace does.
_CLOSING = dict.fromkeys(("rb", "lua", "luau", "jl"), "end")


def continuation(prompt: str, program: str, language: str) -> str | None:
    """What stands behind the prompt, if the program defines the prompt's last function with the same parameters; else None.

    Without its documentation, if the prompt has it; indented as the prompt is; helpers and the imports that the prompt lacks follow.
    """
    code = rows.language_code(language)
    return _python(prompt, program) if code == "py" else _elsewhere(prompt, program, code)


def _elsewhere(prompt: str, program: str, language: str) -> str | None:
    head, lines = prompt.rstrip().rpartition("\n")[2], _lines(program)
    closing = _CLOSING.get(language, "}")
    opening = "{" if closing == "}" else ""
    if not head.endswith(opening) or comments.is_line(head, language) or not _words(head):
        return None
    place = _head(head, opening, lines)
    if place is None:
        return None
    first, begin = place
    indent, wanted = _indent(lines[first]), _indent(head)
    outer = (i for i in range(begin, len(lines)) if len(_indent(lines[i])) <= len(indent))
    end = next((i for i in outer if lines[i].strip().startswith(closing)), len(lines))
    body = _moved(lines[begin:end], indent, wanted)
    if not body.strip():
        return None
    known = {"".join(line.split()) for line in prompt.splitlines()}
    before, _ = comments.parted("".join(lines[:first]), language)
    after = "".join(lines[end + 1 :]).rstrip()
    # What was opened around the prompt's function, a class say, is closed behind it.
    for _ in range(prompt.count("{") - prompt.count("}") - 1):
        after = after.removesuffix("}").rstrip()
    fresh = [line for line in before.splitlines() if "".join(line.split()) not in known]
    rest = "\n".join(part for part in ("\n".join(fresh), after.strip("\n")) if part.strip())
    more = f"{wanted}{closing}\n\n{rest}\n" if rest else ""
    return ("" if prompt.endswith("\n") else "\n") + body.strip("\n") + "\n" + more


def _head(head: str, opening: str, lines: list[str]) -> tuple[int, int] | None:
    """(line of the function's head, first line of its body) of the last one that has the words of `head`."""
    for i in reversed(range(len(lines))):
        # The brace may stand on a line of its own.
        for behind in (i + 1, i + 2):
            written = "".join(lines[i:behind]).rstrip()
            if written.endswith(opening) and _words(written) == _words(head):
                return i, behind
    return None


def _words(head: str) -> list[str]:
    return [word for word in re.findall(r"\$?\w+", head) if word not in _LEFT_OUT]


def _python(prompt: str, program: str) -> str | None:
    asked = _asked(prompt)
    if asked is None:
        return None
    written = _parsed(program)
    own = [node for node in written.body if isinstance(node, _Function) and node.name == asked.name] if written else []
    if not own or own[-1].decorator_list or _parameters(own[-1]) != _parameters(asked):
        return None
    function, lines = own[-1], _lines(program)
    statements = function.body
    if ast.get_docstring(function) is not None and ast.get_docstring(asked) is not None:
        begin, statements = int(statements[0].end_lineno or 0), statements[1:]
    else:
        begin = statements[0].lineno - 1
        # Comments above the first statement are the body's.
        while begin > function.lineno and lines[begin - 1].lstrip()[:1] in ("", "#"):
            begin -= 1
    if not statements or statements[0].lineno <= max(begin, function.lineno):
        return None  # there is no more, or it stands on the line of what came before
    indent = _indent(lines[statements[0].lineno - 1])
    wanted = _indent(_lines(prompt)[asked.body[0].lineno - 1]) if asked.body else "    "
    while not lines[begin].strip():
        begin += 1
    body = _moved(lines[begin : function.end_lineno], indent, wanted)
    known = {line.strip() for line in prompt.splitlines()}
    rest = "".join(
        line
        for line in [*lines[: function.lineno - 1], *lines[function.end_lineno :]]
        if not (line.startswith(("import ", "from ")) and line.strip() in known)
    ).strip()
    return ("" if prompt.endswith("\n") else "\n") + body.rstrip() + "\n" + (f"\n{rest}\n" if rest else "")


@lru_cache(maxsize=64)
def _asked(prompt: str) -> _Function | None:
    """The function in which the prompt ends; its body is empty, but for a docstring."""
    for closing in ("", "\n    pass\n"):
        written = _parsed(prompt.rstrip() + closing)
        last = written.body[-1] if written and written.body else None
        if isinstance(last, _Function):
            if closing:
                del last.body[-1]
            return last if len(last.body) == (ast.get_docstring(last) is not None) else None
    return None


def _parsed(text: str) -> ast.Module | None:
    try:
        return extract.tree(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _lines(text: str) -> list[str]:
    """As Python counts them; str.splitlines takes a form feed for an end, too."""
    return list(io.StringIO(text, newline=None))


def _parameters(function: _Function) -> list[str]:
    given = function.args
    return [one.arg for one in [*given.posonlyargs, *given.args, *given.kwonlyargs]]


def _moved(lines: list[str], indent: str, wanted: str) -> str:
    """Lines that stand `indent` deep, `wanted` deep."""
    return "".join(
        wanted + line.removeprefix(indent) if line.strip() and line.startswith(indent) else line for line in lines
    )


def _indent(line: str) -> str:
    return re.match(r"[ \t]*", line)[0]  # type: ignore[index]
