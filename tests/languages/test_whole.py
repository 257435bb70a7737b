"""Programs that stand alone, as chat models write them, where MultiPL-E's tests go on inside what the prompt opened."""

from __future__ import annotations

import re
import time

import pytest

from rrk.sandbox.languages import whole
from rrk.sandbox.verdict import Job
from tests.languages.test_recipes import ALL, judged, usable

METHOD = "public static long add(long a, long b) {\n        // }\n        return a + b;\n    }\n"
JAVA_MAIN = '    public static void main(String[] args) {\n        System.out.println("}" + add(1, 2));\n    }\n'
CS_METHOD = METHOD.replace("add", "Add")
CS_MAIN = '    public static void Main(string[] args) {\n        Console.WriteLine(@"\\" + "}" + Add(1, 2));\n    }\n'
SCALA = "def add(a : Long, b : Long) : Long = {\n        // }\n        return a + b\n    }\n"
SCALA_MAIN = '    def main(args: Array[String]): Unit = {\n        println("}" + add(1, 2))\n    }\n'
CPP = "long add(long a, long b) {\n    return a + b;\n}\n"
RUST = "fn add(a: isize, b: isize) -> isize {\n    a + b\n}\n\n"
GO = "func add(x int, y int) int {\n    return x + y\n}\n"
GO_MAIN = "func main() {\n    fmt.Println(add(1, 2))\n}\n"
PHP = "<?php\nfunction add($a, $b) {\n    return $a + $b;\n}\necho add(1, 2);\n"
WHOLE = {
    "java": {
        "a class": "class Problem {\n    " + METHOD + "}\n",
        "a public class, imports": "import java.util.*;\n\npublic class Problem {\n    " + METHOD + "}\n",
        "its own main": "class Problem {\n    " + METHOD + JAVA_MAIN + "}\n",
        "neighbours": "interface Sum {}\nclass Problem implements Sum {\n    " + METHOD + "}\nclass Other { char c = '}'; }\n",
        "another class": "import java.util.*;\n\npublic class Solution {\n    " + METHOD + JAVA_MAIN + "}\n",
        "another class, a caller": "class Adder {\n    static class Pair { }\n    "
        + METHOD
        + "}\npublic class Main {\n"
        + JAVA_MAIN.replace("add(", "Adder.add(")
        + "}\n",
        "a public neighbour": "class Problem {\n    " + METHOD + "}\npublic class Main {\n" + JAVA_MAIN.replace("add(", "Problem.add(") + "}\n",
        "the method alone": "import java.util.List;\n" + METHOD,
        "the end left out": "import java.util.*;\nclass Problem {\n    " + METHOD,
    },
    "cs": {
        "a class": "using System;\nclass Problem {\n    " + CS_METHOD + "}\n",
        "a public class, its own Main": "using System;\npublic class Problem\n{\n    " + CS_METHOD + CS_MAIN + "}\n",
        "neighbours": "class Problem {\n    " + CS_METHOD + "}\nclass Other { char c = '}'; }\n",
        "another class": "using System;\npublic static class Program\n{\n    " + CS_METHOD + CS_MAIN + "}\n",
        "the method alone": "using System.Text;\n" + CS_METHOD,
    },
    "scala": {
        "an object": "object Problem {\n    " + SCALA + "}\n",
        "its own main": "import scala.math._\nobject Problem {\n    " + SCALA + SCALA_MAIN + "}\n",
        "another object": "object Solution {\n    " + SCALA + "}\n",
        "neighbours": "case class Pair(a: Long)\nobject Problem {\n    " + SCALA + "}\nobject Other { val c = '}' }\n",
        "the function alone": "import scala.math._\n\n" + SCALA,
    },
    "cpp": {
        "no includes": CPP,
        "its own main": "#include <iostream>\n" + CPP + "int main() {\n    std::cout << add(1, 2);\n}\n",
    },
    "rs": {"its own main": RUST + "fn main() {\n    println!(\"{}\", add(1, 2));\n}\n"},
    "go": {
        "another package, no imports": "// Sums.\npackage main\n\n" + GO,
        "its own main": 'package main\n\nimport "fmt"\n\n' + GO + GO_MAIN,
        "its own imports": 'package add_test\n\nimport (\n    "testing"\n)\n\n' + GO,
        "the function alone": GO,
    },
    "php": {"a closing tag": PHP + "?>\n\n", "none": PHP, "a text with one": PHP + 'echo "?>";\n'},
}  # fmt: skip


def prompt_and_tests(language: str) -> tuple[str, str]:
    """The language's own example, as MultiPL-E writes it."""
    found = next(one for one in ALL[language].selftests if one.name == "pass")
    return found.prompt, found.tests


@pytest.mark.parametrize(("language", "form"), [(language, form) for language in WHOLE for form in WHOLE[language]])
def test_right_ones_pass_and_wrong_ones_fail(language, form):
    toolchain = usable(language)
    prompt, tests = prompt_and_tests(language)
    program = WHOLE[language][form]
    assert judged(toolchain, Job(language, prompt, program, tests, full=True)).status == "OK"
    wrong = program.replace("a + b", "a - b").replace("a + $b", "a - $b").replace("x + y", "x - y")
    assert judged(toolchain, Job(language, prompt, wrong, tests, full=True)).status == "Exception"


INSIDE = ALL["java"].modes[0].inside


def test_what_cannot_be_read_so_stays_as_it_is():
    for program in ("class Solution {\n}\n", "class Problem {\n    static void f() {\n", ""):
        assert whole.joined(INSIDE, "", program) == program
    prompt = "class Problem {\n    public static long add(long a, long b) {\n"
    for program in ("class Solution {\n}\n", "class Solution {\n    long two() { return add(1, 1); }\n}\n"):
        assert whole.joined(INSIDE, prompt, program) == program
    module = re.compile(r"module Problem \{")  # a language of somebody's own, which has no classes
    program = "class Other {\n static add(a, b) { return 1; }\n}\n"
    assert whole.joined(module, "module Problem {\n  static add(a, b) {\n", program) == program


@pytest.mark.parametrize(
    "text", ["/*", '"""', "class Problem\n", "class Problem {\n", '"\\', "public ", "@", "import ", "{", "'"]
)
def test_no_text_takes_long(text):
    assert isinstance(INSIDE, re.Pattern)
    began = time.process_time()
    whole.joined(INSIDE, "class Problem {", "class Problem {" + text * 50_000)
    whole.joined(INSIDE, "class Problem {", text * 50_000)
    for more in ("class A {", "static long ", "class A "):
        whole.joined(INSIDE, "class Problem {\n static long add(", more * 50_000 + text * 50_000 + "static long add(")
    assert time.process_time() - began < 5
