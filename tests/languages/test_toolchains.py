"""Language files: found, read, complained about precisely; a user's own language is one file and no code."""

from __future__ import annotations

import shutil
import textwrap

import pytest

from rrk.errors import RrkError
from rrk.rows import LANGUAGES
from rrk.sandbox.languages import recipes, toolchains
from rrk.sandbox.verdict import Job
from tests.languages.plainbox import PlainBox

ALL = toolchains.all()
KINDS = {"OK", "Exception", "Timeout", "Tampered"}

MINE = r"""
id = "echo"
names = ["awk"]

[tools.awk]
find = ["mawk", "gawk", "awk"]

[install]
apt = ["mawk"]

[program]
file = "main.awk"

[end]
text = '''
END { printf "@ended@" > "/proc/self/fd/@fd@"; close("/proc/self/fd/@fd@"); @control@ }
'''
[[control]]
text = "if (add(1, 2) != 4) exit 1"

[run]
argv = ["@awk@", "-f", "main.awk"]
"""


def echo(folder, text):
    """The language of a file `echo.toml` with this text."""
    (folder / "echo.toml").write_text(text)
    return toolchains.load("echo", [folder])


@pytest.mark.parametrize("code", sorted(ALL))
def test_every_file_declares_a_whole_language(code):
    toolchain = ALL[code]
    assert toolchain.source.stem == code
    assert code in LANGUAGES, "rows.py knows every language by the same code"
    if toolchain.untestable:
        return
    statuses = {test.status for test in toolchain.selftests}
    assert statuses >= KINDS, f"self tests must cover {KINDS - statuses}"
    assert statuses & {"SyntaxError", "CompileError"} or code == "sh"
    assert toolchain.install, "what to install is said"
    assert len(toolchain.remedy()) > 5


def test_a_language_is_found_by_each_of_its_names():
    for code, toolchain in ALL.items():
        for name in (code, *toolchain.names, *LANGUAGES[code]):
            assert toolchains.load(name).id == code
            assert toolchains.load(name.upper()).id == code


def test_the_paper_s_eight_languages_are_there():
    assert set(ALL) >= {"py", "cpp", "java", "js", "ts", "php", "cs", "sh"}


def test_an_unknown_language_lists_the_known_ones():
    with pytest.raises(RrkError, match=r"no language 'klingon': there is .*cpp.*--sandboxes"):
        toolchains.load("klingon")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("[run]", "[runn]"), r"echo\.toml: runn: no such key"),
        (('id = "echo"', ""), r"echo\.toml: id: is missing"),
        (('file = "main.awk"', "file = 3"), r"echo\.toml: program\.file: must be str, not 3"),
        (('["@awk@", "-f"', '["@akw@", "-f"'), r"echo\.toml: argv: @akw@ is no placeholder here"),
        (('"-f", "main.awk"]', '"-f", "main.awk"]\nlimits = { cpu = 1 }'), r"run\.limits\.cpu: no such limit"),
        (("[[control]]", '[[control]]\nwhen = "("'), r"control\[0\]\.when: not a regular expression"),
        (('find = ["mawk", "gawk", "awk"]', "find = 1"), r"tools\.awk\.find: must be a list of texts"),
        (("[run]", "[run"), r"echo\.toml: not valid TOML"),
        (("[run]", "[[mode]]\nlike = 'none'\n[run]"), r"mode\[0\]\.like: must name a mode of this file"),
        (("[run]", "[[mode]]\nname = 'a'\nlike = 'a'\n[run]"), r"mode\[0\]\.like: must name a mode of this file"),
    ],
)
def test_a_mistake_is_told_with_file_and_key(tmp_path, change, message):
    assert change[0] in MINE
    with pytest.raises(RrkError, match=message):
        echo(tmp_path, MINE.replace(*change))


def test_a_mode_like_another_has_what_it_lacks_from_it_and_needs_what_it_needs(tmp_path):
    more = """
[[mode]]
name = "plain"
when = 'never'
unless = 'hidden'
needs = ["/nowhere"]
compile = [{ argv = ["@awk@", "1"] }]
[[mode]]
name = "other"
like = "plain"
needs = ["prepared"]
unless = 'BEGIN'
run = { argv = ["@awk@", "2"] }
"""
    plain, other, _ = echo(tmp_path, MINE + more).modes
    assert other.compile == plain.compile
    assert other.run.argv == ("@awk@", "2") != plain.run.argv
    assert other.needs == ("/nowhere", "prepared")
    assert (other.when.pattern, other.unless.pattern) == ("never", "BEGIN")


def test_a_mode_is_passed_over_where_its_unless_matches(tmp_path):
    more = """
[[mode]]
name = "ours"
when = 'BEGIN'
unless = 'exit 7'
"""
    toolchain = echo(tmp_path, MINE + more)
    tests = ["BEGIN { exit 1 }", "BEGIN { exit 7 }", "END { exit 1 }"]
    assert [recipes.assemble(toolchain, Job("awk", "", "", text)).mode.name for text in tests] == ["ours", "", ""]


def test_what_is_prepared_may_be_made_from_the_file_s_own_files(tmp_path):
    more = """
[files]
"end.c" = "write(@fd@)"
[prepare]
files = ["end.c"]
step = [{ argv = ["@awk@", "1"] }]
keep = ["end.o"]
"""
    assert echo(tmp_path, MINE + more).prepare.files == {"end.c": "write(@fd@)"}
    with pytest.raises(RrkError, match=r"prepare\.files: there is no end in \[files\]"):
        echo(tmp_path, MINE + more.replace('files = ["end.c"]', 'files = ["end"]'))


def test_a_folder_that_is_not_there_is_told(tmp_path):
    with pytest.raises(RrkError, match="no such folder"):
        toolchains.all([tmp_path / "none"])


@pytest.mark.skipif(not shutil.which("awk"), reason="no awk")
def test_a_user_adds_a_language_with_one_file_and_no_code(tmp_path):
    (tmp_path / "echo.toml").write_text(MINE)
    toolchain = toolchains.load("awk", [tmp_path])
    assert toolchain.id == "echo"
    assert "echo" in toolchains.all([tmp_path])
    for body, status in (("return a + b", "OK"), ("return a - b", "Exception"), ("exit(0)", "Tampered")):
        job = Job(
            "awk",
            "function add(a, b) {\n",
            body + "\n}\n",
            "BEGIN { if (add(1, 2) != 3) { bad = 1; exit 1 } exit 0 }\nEND { if (bad) exit 1 }\n",
        )
        if body == "exit(0)":
            job = Job("awk", "", "BEGIN { exit 0 } END { exit 0 }\nfunction add(a, b) { }\n", job.tests)
        with PlainBox() as box:
            assert recipes.judge(toolchain, job, box).status == status


def test_a_user_s_file_replaces_ours_of_the_same_name(tmp_path):
    ours = toolchains.load("lua") if "lua" in ALL else toolchains.load("sh")
    text = ours.source.read_text().replace(f'title = "{ours.title}"', 'title = "mine"')
    (tmp_path / ours.source.name).write_text(text)
    assert toolchains.load(ours.id, [tmp_path]).title == "mine"
    assert toolchains.load(ours.id).title == ours.title


def test_a_missing_or_old_tool_is_named_and_gives_no_label(tmp_path):
    text = MINE.replace('find = ["mawk", "gawk", "awk"]', 'find = ["no-such-tool-at-all"]')
    toolchain = echo(tmp_path, text)
    assert "no no-such-tool-at-all on PATH" in toolchain.missing()[0]
    with PlainBox() as box:
        verdict = recipes.judge(toolchain, Job("echo", "", "", ""), box)
    assert (verdict.passed, verdict.status) == (None, "NoToolchain")
    assert "apt-get install mawk" in verdict.stderr

    old = textwrap.dedent("""
        find = ["sh"]
        version = ["-c", "echo version 1.2"]
        minimum = "1.10"
    """)
    found = echo(tmp_path, MINE.replace('find = ["mawk", "gawk", "awk"]', old))
    assert "is version 1.2; 1.10 or newer is needed" in found.missing()[0]


def test_a_problem_that_wants_a_library_which_is_not_here_gets_no_label(tmp_path):
    text = MINE + '\n[[library]]\nname = "sums"\nwhen = "^@include"\nfiles = ["/no/such/sums.awk", "%s"]\n'
    function, tests = (
        "function add(a, b) {\n",
        "BEGIN { if (add(1, 2) != 3) { bad = 1; exit 1 } exit 0 }\nEND { if (bad) exit 1 }\n",
    )
    absent = echo(tmp_path, text % "/nor/this.awk")
    problem = Job("echo", '#\n@include "sums"\n' + function, "return 3 }", tests)
    for wanting in (problem, Job("echo", "", function + "return a + b }", '@include "sums"\n' + tests, full=True)):
        with PlainBox() as box:
            verdict = recipes.judge(absent, wanting, box)
        assert (verdict.passed, verdict.status) == (None, "NoToolchain")
        assert "wants sums: no /no/such/sums.awk or /nor/this.awk; apt-get install mawk" in verdict.stderr
    with PlainBox() as box:  # what a program wants of itself is its own affair
        verdict = recipes.judge(absent, Job("echo", function, 'return a + b }\n@include "sums"\n', tests), box)
    assert verdict.passed is False
    (tmp_path / "sums.awk").write_text("")
    assert absent.missing() == []
    assert echo(tmp_path, text % (tmp_path / "sums.awk")).missing(problem.given) == []


def test_the_digest_follows_the_file(tmp_path):
    path = tmp_path / "echo.toml"
    path.write_text(MINE)
    before = toolchains.parse(path).digest
    path.write_text(MINE + "\n# another word\n")
    assert toolchains.parse(path).digest != before


def test_the_container_holds_every_package_that_a_language_asks_for():
    words = set((toolchains.folder() / "Containerfile").read_text().split())
    for toolchain in ALL.values():
        for package in [*toolchain.install.get("apt", []), *toolchain.install.get("npm", [])]:
            assert package in words, f"{toolchain.id} needs {package}"


def test_the_readme_s_example_is_a_language(tmp_path):
    text = (toolchains.folder() / "README.md").read_text()
    example = text.split("```toml\n")[1].split("```")[0]
    # Tables that are only named there have nothing in them yet.
    for only_named in ("[prepare]", "[batch]", "[rerun]"):
        example = "\n".join(line for line in example.splitlines() if not line.startswith(only_named))
    example = example.split("[[compile]]")[0] + "[run]" + example.split("[run]", 1)[1]
    (tmp_path / "awk.toml").write_text(example)
    toolchain = toolchains.load("mawk", [tmp_path])
    assert [t.status for t in toolchain.selftests] == ["OK"]
    if toolchain.missing():
        pytest.skip("no mawk")
    test = toolchain.selftests[0]
    with PlainBox() as box:
        verdict = recipes.judge(toolchain, Job("awk", test.prompt, test.completion, test.tests), box)
    assert verdict.status == "OK", verdict
