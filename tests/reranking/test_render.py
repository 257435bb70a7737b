"""One rendering: boundaries, EOS, truncation, templates, whole programs, languages."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rrk.errors import UsageError
from rrk.reranking.continuation import continuation
from rrk.reranking.render import Renderer, Rendering
from tests.reranking import models

EOS = 1


def renderer(kind: str = "decoder", chat: bool = False, **settings) -> Renderer:
    encoder = kind == "encoder"
    settings.setdefault("pooling", "cls" if encoder else "last")
    return Renderer(models.tokenizer(kind, chat=chat), Rendering(**settings), encoder=encoder)


def text(made: Renderer, ids) -> str:
    return made.tokenizer.decode(ids, clean_up_tokenization_spaces=False)


def test_a_decoder_reads_prompt_program_and_one_eos_at_the_end():
    made = renderer()
    (found,) = made.render("def f():\n", ["    return 1\n"])
    assert text(made, found.prefix) == "def f():\n"
    assert text(made, found.suffix) == "    return 1\n<eos>"
    assert found.ids[-1] == EOS


def test_the_tokenizers_own_bos_stands_first():
    (found,) = renderer("bos").render("p", ["q"])
    assert found.ids[0] == 4
    assert found.ids.count(4) == 1


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=40), st.lists(st.text(max_size=40), min_size=1, max_size=4))
def test_the_prefix_depends_on_the_prompt_alone_and_text_never_makes_special_tokens(prompt, programs):
    made = renderer()
    found = made.render(prompt, [*programs, "<eos><pad>"])
    assert len({one.prefix for one in found}) == 1
    for one in found:
        assert EOS not in one.ids[:-1]
        assert 0 not in one.ids


def test_a_lone_surrogate_is_rendered_not_refused():
    (found,) = renderer().render("a\ud800", ["b\udfff"])
    assert found.ids[-1] == EOS


@pytest.mark.parametrize("kind", ["decoder", "bos", "encoder"])
@pytest.mark.parametrize("length", [8, 12, 20, 40, 64])
def test_truncation_takes_the_prompt_from_the_left_first_and_keeps_the_programs_end(kind, length):
    made = renderer(kind, max_length=length)
    prompt, program = "0123456789" * 2, "abcdefghijklmnopqrstuvwxyz"
    (found,) = made.render(prompt, [program])
    assert len(found.ids) <= length
    whole = len(renderer(kind).render(prompt, [program])[0].ids)
    assert len(found.ids) == min(whole, length)
    assert found.prompt_cut + found.program_cut == whole - len(found.ids)
    assert found.program_cut == 0 or found.prompt_cut == len(prompt), "the program is cut only when no prompt is left"
    assert text(made, found.suffix).replace("<eos>", "").replace("<sep>", "").endswith("z")
    assert made.cuts["prompt_cut"] == (found.prompt_cut > 0)
    assert made.cuts["program_cut"] == (found.program_cut > 0)


def test_a_whole_program_that_opens_with_its_prompt_is_the_continuation_that_it_is():
    made = renderer()
    prompt, rest = "def f(x):\n", "    return x\n"
    whole, apart, part = made.render(prompt, [prompt + rest, "f = abs\n", rest], full=[True, True, False])
    assert whole == part
    assert text(made, apart.ids) == prompt + "\n\n" + "f = abs\n<eos>"


PROMPT = 'import re\n\n\ndef f(a, b):\n    """Add them.\n\n    >>> f(1, 2)\n    3\n    """\n'
BODY = "    # Both.\n    return a + b\n"


@pytest.mark.parametrize(
    ("program", "read"),
    [
        ("def f(a, b):\n    # Both.\n    return a + b\n", BODY),
        ("def f(a: int, b: int) -> int:\n    'Adds.'\n    # Both.\n    return a + b\n\n\n", BODY),
        ("import re\nimport math\n\ndef f(\n    a,\n    b,\n):\n\n    \n    # Both.\n    return a + b\n", BODY + "\nimport math\n"),
        ("def g(x):\n  return x\n\ndef f(a, b):\n  if a:\n    a\n  return b\n", "    if a:\n      a\n    return b\n\ndef g(x):\n  return x\n"),
        ("def f(a, b): pass\ndef f(a, b):\n    # Both.\n    return a + b\n", BODY + "\ndef f(a, b): pass\n"),
        ("x = '\x0c \u2028'\r\ndef f(a, b):\r\n    # Both.\r\n    return a + b\r\n", BODY + "\nx = '\x0c \u2028'\n"),
        ("async def f(a, b):\n    return a\n", "    return a\n"),
        ("def f(x, y):\n    return x + y\n", None),  # other names: the prompt's head would not fit
        ("@cache\ndef f(a, b):\n    return a\n", None),
        ("def f(a, b): return a + b\n", None),
        ("def f(a, b):\n    'Adds.'\n", None),
        ("def f(a, b):\n    'Adds.'; return a\n", None),
        ("def g(a, b):\n    return a\n", None),
        ("def f(a, b):\n    return (\n", None),
        ("", None),
    ],
)  # fmt: skip
def test_a_whole_program_that_writes_the_prompts_function_anew_is_read_behind_its_prompt(program, read):
    assert continuation(PROMPT, program, "python") == read
    made = renderer()
    (found,) = made.render(PROMPT, [program], "python", full=True)
    expected = program if read is None else read
    assert text(made, found.ids) == PROMPT + ("\n\n" if read is None else "") + expected + "<eos>"
    if read is not None:
        assert made.render(PROMPT, [program], "rb", full=True) != [found], "another language's"
        assert made.render(PROMPT, [program], full=False) != [found], "a continuation stays as it is"


@pytest.mark.parametrize(
    ("prompt", "read"),
    [
        ("def f(a, b):\n", "    # Both.\n    return a + b\n"),
        ("def g(x):\n\t'''Is.'''\n\treturn x\n\ndef f(a, b):\n\t'''Add.'''", "\n\t# Both.\n\treturn a + b\n"),
        ("def f(a, b):\n    return 1\n", None),
        ("Add two numbers.\n", None),
        ("", None),
    ],
)
def test_prompts_that_end_in_a_function_or_do_not(prompt, read):
    assert continuation(prompt, "def f(a, b):\n    # Both.\n    return a + b\n", "py") == read


JAVA = "import java.util.*;\nclass Problem {\n    // Their sum. >>> f(1, 2) 3\n    public static long f(long a, final long b) {\n"
JAVA_BODY = "        // Both.\n        return a + b;\n"
CPP = "#include <vector>\n// Its length.\nlong f(std::vector<long> a) {\n"
SHELL = "#!/bin/bash\n# Its argument.\nf() {\n"


@pytest.mark.parametrize(
    ("language", "prompt", "program", "read"),
    [
        ("java", JAVA, JAVA + JAVA_BODY + "    }\n}\n", JAVA_BODY),
        ("java", JAVA, "class Problem {\npublic static long f(long a, long b)\n{\n    // Both.\n    return a + b;\n}\n}\n", JAVA_BODY),
        ("java", JAVA, "import java.io.*;\n" + JAVA + JAVA_BODY + "    }\n\n    static int g() {\n    }\n}\n",
         JAVA_BODY + "    }\n\nimport java.io.*;\n    static int g() {\n    }\n"),
        ("java", JAVA, JAVA + JAVA_BODY, JAVA_BODY),  # the model did not come to an end
        ("java", JAVA, JAVA.replace("long a", "long x") + JAVA_BODY + "    }\n}\n", None),
        ("java", JAVA, JAVA + "    }\n}\n", None),
        ("java", JAVA, JAVA.rstrip() + " return a + b; }\n}\n", None),
        ("cpp", CPP, "#include<vector>\nusing namespace std;\n\n/* Counts. */\nlong f(const vector<long>& a) {\n  return a.size();\n}\n",
         "  return a.size();\n}\n\nusing namespace std;\n"),
        ("cpp", CPP, "long f(std::vector<long> a);\nlong f(std::vector<long> a) {\n\treturn 1;\n\n}\n", "\treturn 1;\n}\n\nlong f(std::vector<long> a);\n"),
        ("sh", SHELL, "function f {\n  echo $1\n}\nf 1\n", "  echo $1\n}\n\nf 1\n"),
        ("php", "<?php\nfunction f($a) {", "<?php\nfunction f($a)\n{\n    return $a;\n}\n", "\n    return $a;\n"),
        ("php", "<?php\nfunction f($a) {\n", "<?php\nfunction f(a)\n{\n    return $a;\n}\n", None),
        ("rb", "# Its argument.\ndef f(a)\n", "# It.\ndef f(a)\n  [a].each do |x|\n    x\n  end\nend\n\nputs f(1)\n",
         "  [a].each do |x|\n    x\n  end\nend\n\nputs f(1)\n"),
        ("lua", "local function f(a)\n", "function f(a)\n    return a\nend\n", "    return a\n"),
        ("rb", "# Its argument.\n", "# Its argument.\ndef f(a)\n  a\nend\n", None),
        ("cs", "class Problem\n{\n", "class Problem\n{\n    int f()\n    {\n    }\n}\n", None),
        ("js", "", "function f(a) {\n  return a\n}\n", None),
    ],
)  # fmt: skip
def test_other_languages_are_read_from_the_head_to_what_closes_it(language, prompt, program, read):
    assert continuation(prompt, program, language) == read
    made = renderer()
    (found,) = made.render(prompt, [program], language, full=True)
    if read is None:
        apart = "\n\n" if prompt and not program.startswith(prompt) else ""
        read = apart + program.removeprefix(prompt)
    assert text(made, found.ids) == prompt + read + "<eos>"


def test_the_language_tag_is_spelled_one_way():
    made = renderer(language_tag=True)
    assert made.render("p", ["q"], "python") == made.render("p", ["q"], "py")
    assert text(made, made.render("p", ["q"], "C++")[0].ids) == "[cpp]\npq<eos>"
    assert made.render("p", ["q"], None) == renderer().render("p", ["q"])


def test_the_chat_template_ends_on_eos_and_its_special_tokens_are_special():
    made = renderer(chat=True, template="chat")
    (found,) = made.render("ask", ["answer<eos>"])
    assert text(made, found.ids) == "<bos>user\nask<eos>\n<bos>assistant\nanswer<eos><eos>"
    assert found.ids[-1] == EOS
    assert found.ids.count(EOS) == 2, "the user's turn and the end; the program's own text is text"


def test_an_encoder_reads_the_tokenizers_sentence_pair():
    made = renderer("encoder")
    (found,) = made.render("ab", ["cd"])
    assert list(found.ids) == made.tokenizer("ab", "cd")["input_ids"]
    types = [0] * len(found.prefix) + [1] * len(found.suffix)
    assert types == made.tokenizer("ab", "cd")["token_type_ids"]


@pytest.mark.parametrize("wrong", [{"template": "x"}, {"pooling": "x"}, {"max_length": 3}])
def test_settings_that_cannot_work_are_refused(wrong):
    with pytest.raises(UsageError):
        Rendering(**wrong)


def test_a_chat_template_that_is_not_there_is_refused():
    with pytest.raises(UsageError, match="no chat template"):
        renderer(template="chat")
