"""Comments by language: mining, agreement and the reviewer take the same lines for comments, and code for code."""

from __future__ import annotations

import pytest

from rrk import comments, rows
from rrk.mining import keys, tokens
from rrk.reranking import evidence

# A family's comment lines, and lines of code that begin like another family's comment.
FAMILIES = {
    "py": (["# add one", "    #x = 2"], ["    // 2", "--x", "@wraps(f)", "*rest, x = y"]),
    "sh": (["# add one"], ["--flag", "//bin/true", "; then"]),
    "rb": (["# add one"], ["// 2", "--x"]),
    "r": (["# add one"], ["--x"]),
    "php": (["// add one", "# add one"], ["--$i;", "<?php"]),
    "cpp": (["// add one", "    /// add one"], ["    --i;", "#include <vector>", "#define N 3", ";"]),
    "java": (["// add one"], ["--i;", "@Override"]),
    "cs": (["/// add one"], ["--i;", "#region x"]),
    "rs": (["/// add one"], ["#[derive(Clone)]", "--x"]),
    "js": (["// add one"], ["    #count = 0;", "    #bump() {", "--this.#count;"]),
    "swift": (["/// add one"], ["#if DEBUG", "--x"]),
    "lua": (["-- add one"], ["#t > 0 and f()", "// 2"]),
    "hs": (["-- add one"], ["// 2", "# foo"]),
    "rkt": (["; add one", ";; add one"], ["#lang racket", "#t", "-- 2"]),
    "ml": ([], ["# add one", "// x", "-- x", ";;"]),
    "nobody-knows": ([], ["# add one", "// x", "-- x", "; x"]),
}


@pytest.mark.parametrize("language", FAMILIES)
def test_a_line_is_a_comment_by_its_language(language):
    said, code = FAMILIES[language]
    assert all(comments.is_line(line, language) for line in said)
    assert not any(comments.is_line(line, language) for line in code)


@pytest.mark.parametrize("language", FAMILIES)
def test_three_readers_drop_the_same_lines_and_keep_the_same_code(language):
    said, code = FAMILIES[language]
    bare, commented = "\n".join(code), "\n".join([line for one in code for line in (*said, one)])
    assert tokens(commented, language) == tokens(bare, language)
    assert len(set(keys([commented, bare], language))) == 1
    as_row = lambda text: {"completion": text, "language": language}  # noqa: E731
    assert evidence.normal_text(as_row(commented)) == evidence.normal_text(as_row(bare))
    assert len(evidence.normal_text(as_row(bare)).splitlines()) == len(code)
    assert comments.parted(bare, language) == (bare, "")
    spoken = [line for line in said if " add" in line]
    found = comments.parted("\n".join([*spoken, *code]), language)
    assert found == (bare, "\n".join(["add one"] * len(spoken)))


def test_a_decrement_is_code_wherever_a_whole_program_is_read():
    program = "int f(int i) {\n    --i;\n    // less one\n    return i;\n}"
    assert comments.parted(program, "cpp") == ("int f(int i) {\n    --i;\n    return i;\n}", "less one")
    assert comments.parted("-- less one\nf x = x", "hs") == ("f x = x", "less one")


@pytest.mark.parametrize(
    ("language", "block"),
    [
        ("cpp", "/** {} */"),
        ("rs", "/* {} */"),
        ("ml", "(** {} *)"),
        ("py", '    """{}"""'),
        ("py", "'''{}'''"),
        ("jl", '"""{}"""'),
        ("hs", "{{- {} -}}"),
        ("lua", "--[[ {} ]]"),
        ("rkt", "#| {} |#"),
    ],
)
def test_blocks_and_docstrings_are_what_is_said(language, block):
    text = "first\n" + block.format("Adds one.\n>>> f(1)\n2") + "\nlast"
    assert comments.parted(text, language) == ("first\nlast", "Adds one.\n>>> f(1)\n2")


@pytest.mark.parametrize(
    ("language", "text"),
    [("py", "x = '/*'\ny = '*/'"), ("java", 'String s = """\nhi\n""";'), ("js", "f(*x, '(*', '*)')")],
)
def test_another_languages_blocks_are_code(language, text):
    assert comments.parted(text, language) == (text, "")


def test_every_language_of_rrk_but_ocaml_has_comment_lines():
    assert [code for code in rows.LANGUAGES if not comments.marks(code)] == ["ml"]
