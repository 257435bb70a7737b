"""The program as a user meets it: help, wrong words, configuration, what starts slowly."""

from __future__ import annotations

import subprocess
import sys

import pytest

from rrk.cli import COMMANDS
from tests.conftest import ROOT, environment


def test_help_names_every_command_and_every_exit_code(rrk):
    done = rrk("--help")
    text = done.stdout.decode()
    assert done.returncode == 0
    assert all(f"  {verb} " in text for verb in COMMANDS)
    assert all(code in text for code in ("130", "141", "143"))


def test_every_command_has_a_module_and_help_with_an_example(rrk):
    for verb in COMMANDS:
        done = rrk(verb, "--help")
        assert done.returncode == 0, f"{verb}: {done.stderr.decode()}"
        assert f"rrk {verb}" in done.stdout.decode().split("Options:")[0].split("\n", 2)[2], f"{verb}: no example"


def test_help_imports_nothing_heavy():
    script = (
        "import sys; from rrk import cli\n"
        "for verb in cli.COMMANDS:\n"
        "    try: cli.run([verb, '--help'])\n"
        "    except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'numpy', 'orjson', 'rich', 'zstandard', 'datasets'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], env=environment(), cwd=ROOT, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["exceute"], "did you mean 'execute'"),
        (["frobnicate"], "see rrk --help"),
        (["--config", "nowhere.toml", "eval"], "nowhere.toml"),
        (["eval", "--config"], "needs a file"),
    ],
)
def test_wrong_words_exit_2_with_one_line_and_a_remedy(rrk, args, said):
    done = rrk(*args)
    assert done.returncode == 2
    assert said in done.stderr.decode()
    assert len(done.stderr.decode().splitlines()) == 1


def test_no_arguments_print_the_help_and_exit_2(rrk):
    done = rrk()
    assert done.returncode == 2
    assert b"usage: rrk" in done.stdout


def test_a_flag_wins_over_the_environment_over_the_file(tmp_path):
    (tmp_path / "rrk.toml").write_text("[toy]\nadd = 10\n")
    command = [sys.executable, "-m", "tests.toy_stage", "row", "--config", "rrk.toml", "-q"]
    row = b'{"task_id": "a", "completion": "x"}\n'

    def toy(*args: str, **env: str) -> bytes:
        return subprocess.run(
            [*command, *args], input=row, env=environment(**env), cwd=tmp_path, capture_output=True, check=True
        ).stdout

    assert b'"toy":11' in toy()
    assert b'"toy":21' in toy(RRK_TOY_ADD="20")
    assert b'"toy":31' in toy("--add", "30", RRK_TOY_ADD="20")


def test_an_unknown_key_in_the_file_is_refused(tmp_path):
    (tmp_path / "rrk.toml").write_text("[toy]\nadds = 10\n")
    command = [sys.executable, "-m", "tests.toy_stage", "row", "--config", "rrk.toml"]
    done = subprocess.run(command, input=b"", env=environment(), cwd=tmp_path, capture_output=True)
    assert done.returncode == 2
    assert b"'adds'" in done.stderr


def test_a_bug_of_ours_is_one_line_and_a_traceback_on_request(tmp_path):
    script = (
        "import sys, types; from rrk import cli\n"
        "def toy():\n    raise KeyError('oops')\n"
        "sys.modules['rrk.commands.toy'] = types.SimpleNamespace(toy=toy); cli.COMMANDS['toy'] = ''\n"
        "cli.main(['toy'])"
    )
    run = [sys.executable, "-c", script]
    done = subprocess.run(run, env=environment(), cwd=tmp_path, capture_output=True)
    assert done.returncode == 1
    assert done.stderr.decode().splitlines() == [
        "rrk toy: internal error: KeyError: 'oops' (RRK_TRACEBACK=1 shows where; please report it)"
    ]
    traced = subprocess.run(run, env=environment(RRK_TRACEBACK="1"), cwd=tmp_path, capture_output=True)
    assert b"Traceback" in traced.stderr
