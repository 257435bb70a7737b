"""MultiPL-E's own problems, in the languages for which the shared data has no programs known to pass: right ones pass, wrong ones do not."""

from __future__ import annotations

import pytest

from rrk.rows import language_code
from rrk.sandbox.languages import recipes, toolchains
from rrk.sandbox.verdict import Job
from tests.languages import known
from tests.languages.plainbox import PlainBox

# language (MultiPL-E's file) -> problem -> a right completion, and a word in it with what makes it wrong
RIGHT = {
    "rb": {"23": ("  string.length\nend\n", "length", "size + 1"), "42": ("  l.map { |x| x + 1 }\nend\n", "+ 1", "+ 2")},
    "lua": {
        "23": ("  return #string\nend\n", "#string", "#string + 1"),
        "42": ("  local r = {}\n  for i, x in ipairs(l) do r[i] = x + 1 end\n  return r\nend\n", "x + 1", "x + 2"),
    },
    "pl": {
        "23": ("    return length($string);\n}\n", "length(", "1 + length("),
        "42": ("    return [map { $_ + 1 } @$l];\n}\n", "+ 1", "+ 2"),
    },
    "r": {"23": ("  nchar(string)\n}\n", "nchar(", "1 + nchar("), "42": ("  if (is.null(l)) NULL else l + 1\n}\n", "l + 1", "l + 2")},
    "rkt": {
        "23": ("  (string-length string))\n", "(string-length string)", "(add1 (string-length string))"),
        "42": ("  (map add1 l))\n", "add1", "sub1"),
    },
    "scala": {"23": ("        string.length\n", "length", "length + 1"), "42": ("        l.map(_ + 1)\n", "+ 1", "+ 2")},
    "hs": {"23": (" length string\n", "length", "1 + length"), "42": (" map (+ 1) l\n", "+ 1", "+ 2")},
    "ml": {
        "23": ("  String.length string\n", "String", "1 + String"),
        "42": ("  List.map (fun x -> x + 1) l\n", "+ 1", "+ 2"),
    },
    "d": {
        "23": ("{\n    return string.length;\n}\n", "length", "length + 1"),
        "42": ("{\n    long[] r;\n    foreach (x; l) r ~= x + 1;\n    return r;\n}\n", "+ 1", "+ 2"),
    },
    # 23's docstring holds unescaped quotes: no Clojure program can follow that prompt.
    "clj": {"53": ("(+ x y))\n", "+", "-"), "42": ("(map inc l))\n", "inc", "dec")},
    "elixir": {
        "23": ("String.length(string)\n  end\nend\n", "(string)", '(string <> "x")'),
        "42": ("Enum.map(l, fn x -> x + 1 end)\n  end\nend\n", "+ 1", "+ 2"),
    },
    "ada": {
        "23": ("   is\n   begin\n      return My_String'Length;\n", "Length", "Length + 1"),
        "42": (
            "   is\n      R : Integer_Array := L;\n   begin\n      for I in R'Range loop\n         R (I) := L (I) + 1;\n      end loop;\n      return R;\n",
            "+ 1",
            "+ 2",
        ),
    },
    "go": {
        "23": ("    return len(myString)\n}\n", "len(", "1 + len("),
        "42": ("    r := []int{}\n    for _, x := range l { r = append(r, x + 1) }\n    return r\n}\n", "+ 1", "+ 2"),
    },
}  # fmt: skip


@pytest.mark.parametrize("language", sorted(RIGHT))
def test_right_programs_pass_and_wrong_ones_fail(language, shared):
    toolchain = toolchains.load(language)
    if lacking := toolchain.missing():
        pytest.skip(f"{language}: {'; '.join(lacking)}")
    path = shared / f"data/problems/multipl-e/humaneval-{language}-reworded.jsonl.gz"
    rows = {row["name"].split("_")[1]: row for row in known.rows(path)}
    for number, (right, word, wrong) in RIGHT[language].items():
        row = rows[number]
        assert word in right
        for completion, expected in ((right, "OK"), (right.replace(word, wrong, 1), "Exception")):
            job = Job(language_code(row["language"]), row["prompt"], completion, row["tests"])
            with PlainBox() as box:
                verdict = recipes.judge(toolchain, job, box)
            assert verdict.status == expected, (row["name"], completion, verdict)


def test_every_problem_has_a_place_for_the_proof(shared):
    """All of MultiPL-E's tests have the shape that the language's file expects (else the row would be unjudged)."""
    count = 0
    for path in sorted((shared / "data/problems/multipl-e").glob("humaneval-*-reworded.jsonl.gz")):
        for row in known.rows(path):
            code = language_code(row["language"])
            if code == "luau":  # no file: no package offers it
                continue
            toolchain = toolchains.load(code)
            if toolchain.judge != "recipe" or toolchain.untestable:
                continue
            plan = recipes.assemble(toolchain, Job(code, row["prompt"], "", row["tests"]))
            assert plan.values["control"], f"{row['name']} ({code}) has no control"
            count += 1
    assert count > 3000
