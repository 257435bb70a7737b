"""Programs in chat answers: the right block, all of it, and never a guess."""

from __future__ import annotations

import time

import pytest

from rrk.extract import defines, extract

PY = "def f(a):\n    return a + 1\n"
CPP = "#include <vector>\nint f(int a) {\n  return a + 1;\n}\n"

ANSWERS = {
    # name: (answer, language, entry point, program, how)
    "one block": (f"Sure!\n\n```python\n{PY}```\nIt adds one.", "py", "f", PY, "fenced, defines f"),
    "no entry point": (f"```py\n{PY}```", "py", None, PY, "fenced, the only one"),
    "tildes and capitals": (f"~~~Python3\n{PY}~~~\n", "python", "f", PY, "fenced, defines f"),
    "attributes": (f"```{{.python .numberLines}}\n{PY}```", "py", "f", PY, "fenced, defines f"),
    "a title": (f'```python title="f.py"\n{PY}```', "py", "f", PY, "fenced, defines f"),
    "no name": (f"```\n{PY}```", "py", "f", PY, "fenced, defines f"),
    "windows": (
        "```python\r\ndef f(a):\r\n    return a\r\n```\r\n",
        "py",
        "f",
        "def f(a):\r\n    return a\r\n",
        "fenced, defines f",
    ),
    "usage after it": (
        f"```python\n{PY}```\nUse it:\n```python\n" + "print(f(1))\n" * 9 + "```",
        *("py", "f", PY, "fenced, defines f"),
    ),
    "install before it": (
        f"```bash\npip install numpy\n```\n```python\n{PY}```",
        "py",
        None,
        PY,
        "fenced, the only one",
    ),
    "output after it": (f"```\n{PY}```\n```text\n" + "2\n" * 99 + "```", "py", None, PY, "fenced, the only one"),
    "a session": (
        f"```python\n>>> f(1)\n2\n>>> f(2)\n3\n```\n```python\n{PY}```",
        "py",
        None,
        PY,
        "fenced, the only one",
    ),
    "a draft": (
        f"```python\ndef f(a): ...\n```\nIn full:\n```python\n{PY}```",
        *("py", "f", PY, "fenced, defines f"),
    ),
    "the longest": (f"```python\nimport re\n```\nand\n```python\n{PY}```", "py", None, PY, "fenced, longest"),
    "another language first": (f"```cpp\n{CPP}```\n```python\n{PY}```", "py", "f", PY, "fenced, defines f"),
    "for C++ the other": (f"```cpp\n{CPP}```\n```python\n{PY}```", "cpp", "f", CPP, "fenced, defines f"),
    "the unnamed defines it": (f"```python\nf(1)\n```\n```\n{PY}```", "py", "f", PY, "fenced, defines f"),
    "cut by its limit": (f"Here:\n```python\n{PY}", "py", "f", PY, "fenced, defines f, not closed"),
    "opened by the prompt": (f"{PY}```\nThis adds one.", "py", "f", PY, "fenced, defines f"),
    "in a list": (
        "1. Write\n   ```python\n   def f(a):\n       return a + 1\n   ```\n",
        "py",
        "f",
        PY,
        "fenced, defines f",
    ),
    "a fence within": (
        'A:\n````python\ndef f(a):\n    """```\n    x\n    ```"""\n````\n',
        *("py", "f", 'def f(a):\n    """```\n    x\n    ```"""\n', "fenced, defines f"),
    ),
    "thoughts": (
        f"<think>\n```python\ndef f(a):\n    return 'a long and wrong first thought'\n```\n</think>\n```python\n{PY}```",
        *("py", "f", PY, "fenced, defines f"),
    ),
    "thoughts that the prompt opened": (f"say ```x```\n</think>\n{PY}", "py", "f", PY, "no fences"),
    "no fences": (f"Here is the function:\n\n{PY}\nIt adds one to its argument.", "py", "f", PY + "\n", "no fences"),
    "all of it": (PY, "py", "f", PY, "no fences"),
    "a lambda": ("f = lambda a: a + 1\n", "py", "f", "f = lambda a: a + 1\n", "no fences"),
    "a script": ("n = int(input())\nprint(n + 1)\n", "py", None, "n = int(input())\nprint(n + 1)\n", "no fences"),
    "broken, but a program": ("def f(a):\n    return (a +\n", "py", "f", "def f(a):\n    return (a +\n", "no fences"),
    "C++ without fences": (f"Certainly.\n\n{CPP}\nThis is O(1).", "cpp", "f", CPP, "no fences"),
    "a class": (
        "```java\nclass Problem {\n}\n```",
        "java",
        "Problem",
        "class Problem {\n}\n",
        "fenced, defines Problem",
    ),
    "asked for one that is not there": (f"```python\n{PY}```", "py", "g", PY, "fenced, the only one"),
    # No program:
    "a refusal": ("I'm sorry, I cannot help with that.", "py", "f", "", "none"),
    "one word": ("Sorry", "py", "f", "", "none"),
    "only a shell block": ("Run\n```bash\npip install f\n```", "py", "f", "", "none"),
    "empty": ("", "py", "f", "", "none"),
    "an empty block": ("```python\n```", "py", "f", "", "none"),
    "thoughts without an end": (f"<think>\n```python\n{PY}```\nbut wait", "py", "f", "", "none"),
    "prose, C++": ("This problem can be solved by sorting the input first.", "cpp", "f", "", "none"),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_the_program_of_an_answer(name):
    """The program is exactly the one in the answer, and `how` says by which rule; nothing but its text is cut."""
    answer, language, entry, program, how = ANSWERS[name]
    found = extract(answer, language, entry)
    assert (found.program, found.how) == (program, how)
    if "list" not in name:
        assert answer[found.before : len(answer) - found.after] == program
    assert found.whole


def test_a_body_continues_its_prompt():
    """A block that is a function's body is no whole program: it stands behind its prompt."""
    found = extract("```python\n    return a + 1\n```", "py", "f")
    assert (found.program, found.whole) == ("    return a + 1\n", False)
    assert not extract("    return a + 1\n", "py", "f").whole


DEFINITIONS = {
    "py": ["async def f(a):", "class f:", "f = 3"],
    "js": ["function f(a) {", "const f = (a) => a", "export default function f(a) {"],
    "ts": ["export const f = (a: number): number => a;"],
    "cpp": ["vector<int> f(vector<int> a) {", "static int *f(int a)\n{"],
    "java": ["    public static int f(int a) {"],
    "go": ["func f(a int) int {"],
    "rs": ["pub fn f(a: i32) -> i32 {"],
    "rb": ["def f(a)"],
    "hs": ["f :: Int -> Int"],
    "r": ["f <- function(a) {"],
    "rkt": ["(define (f a)"],
    "sh": ["f() {"],
    "lua": ["local function f(a)"],
    "ex": ["  def f(a) do"],
}


@pytest.mark.parametrize("language", DEFINITIONS)
def test_definitions_are_told_from_calls(language):
    """A block that only calls the function is not the one that was asked for."""
    for text in DEFINITIONS[language]:
        assert defines(text + "\n", "f", language), text
    for text in ["print(f(1))", "g(f)", "x = f(3);", "assert f(1) == 2", "def ff(a):", "of(1)"]:
        assert not defines(text + "\n", "f", language), text


def test_long_answers_cost_no_more_than_their_length():
    """A model that repeats itself up to its limit does not hold up a run."""
    started = time.process_time()
    for text in (
        "word word\n" * 20_000,
        "\n" * 200_000 + "f",
        "```\n" * 50_000,
        "def f(a):\n" + "    x = (a +\n" * 5_000,
    ):
        for language in ("py", "cpp", "hs"):
            extract(text, language, "f")
            defines(text, "f", language)
    assert time.process_time() - started < 10
