"""What a prompt shows of a function's values, and what only looks like it."""

from __future__ import annotations

import pytest

from rrk.sandbox.shown import shown


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (">>> f(1)\n    2\n", ["f(1) == 2"]),
        (">>> f([1.5, 2])\n    [1.5,\n     2]\n    >>> f('a')\n    'b'", ["f([1.5, 2]) == [1.5, 2]", "f('a') == 'b'"]),
        (">>> round(f(2), 1) # about\n    0.5", ["round(f(2), 1) == 0.5"]),
        ("f(1) == 2", ["f(1) == 2"]),
        ("Examples: f(1) ==> 2, f(2)=3; f('x)') -> \"y\"", ["f(1) == 2", "f(2) == 3", "f('x)') == 'y'"]),
        ("f(1) should return (1, 2). f(2) returns true", ["f(1) == (1, 2)", "f(2) == True"]),
        ("f(1) ➞ [2, 3]  # sorted\n    f(1) ➞ [2, 3]", ["f(1) == [2, 3]"]),
        ("f(f(1)) = -1", ["f(f(1)) == -1"]),
        (">>> f(1)\n    2\n    and prose, f(3) is none", ["f(1) == 2"]),
        # A call of names, a value that is none, another function, a value that goes on, an operator, prose.
        ("f(abcd) => True", []),
        ("f(1) == abc", []),
        ("g(1) == 2; self.f(1) == 2; of(1) == 2", []),
        ("f(2) = 1 + (2 / 2) = 2", []),
        ('f("a") == ""b"', []),
        ("f(1) is what is asked for", []),
        ("f() takes 2", []),
        (">>>f(1)\n 2", []),
        (">>> import os; f(1)\n    2", []),
    ],
)
def test_examples_of_a_docstring(text, found):
    prompt = f'def f(x):\n    """What it does.\n\n    {text}\n    """\n'
    assert shown(prompt, "f") == [f"assert {one}" for one in found]


def test_of_several_functions_the_last_ones_text_is_read():
    prompt = 'def g(x):\n    """f(1) == 1"""\n    return x\n\n\ndef f(x):\n    """\n    >>> f(1)\n    2\n    """\n'
    assert shown(prompt, "f") == ["assert f(1) == 2"]
    assert shown("What is f(1) == 2?", "f") == ["assert f(1) == 2"]
    assert shown("def g(x):\n", "f") == []
    assert shown('def f(x):\n    """' + "f(" * 5000, "f") == []
