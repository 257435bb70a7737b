"""What a terminal shows while a stage works: count, total, rate, time left; and who has the line in a pipe."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
import time
import tomllib

import pytest

from rrk import items, machine, terminal
from rrk.progress import Progress
from tests.conftest import ROOT, environment

SLOWLY = """
import sys, time
from rrk.progress import Progress, waiting
with waiting("rrk toy: loading MODEL"):
    time.sleep(0.2)
with Progress("toy", 8, "rows", opening="starting") as progress:
    for _ in range(8):
        time.sleep(0.15)
        progress.advance()
"""


def on_terminal(code: str, stdout) -> str:
    """What a program writes to a terminal of 80 columns behind its standard error."""
    ours, theirs = pty.openpty()
    given = environment() | {"TERM": "xterm", "COLUMNS": "80", "LINES": "24"}
    child = subprocess.Popen([sys.executable, "-c", code], stdout=stdout, stderr=theirs, cwd=ROOT, env=given)
    os.close(theirs)
    shown, end = b"", time.monotonic() + 60
    while time.monotonic() < end:
        if select.select([ours], [], [], 0.1)[0]:
            try:
                part = os.read(ours, 65536)
            except OSError:
                break
            if not part:
                break
            shown += part
        elif child.poll() is not None:
            break
    os.close(ours)
    assert child.wait(60) == 0
    return shown.decode()


def test_a_terminal_sees_loading_then_a_line_with_total_rate_and_time_left(tmp_path):
    with open(tmp_path / "out", "wb") as out:
        shown = on_terminal(SLOWLY, out)
    assert "rrk toy: loading MODEL" in shown
    assert "rrk toy: starting" in shown
    assert "/8 rows" in shown
    assert "/s, " in shown
    assert "s left" in shown
    assert all(len(line) <= 80 for line in shown.split("\r") if "\x1b" not in line)


def test_of_a_pipe_only_the_last_stage_has_the_terminals_line():
    """However long it takes: a line now and then would stand in the middle of the last stage's."""
    often = "import rrk.progress; rrk.progress.INTERVAL = 0.3\n" + SLOWLY
    assert on_terminal(often, subprocess.PIPE) == ""


@pytest.mark.parametrize(
    ("unit", "limit", "shard", "want"),
    [("row", None, None, 7), ("row", 5, None, 5), ("problem", None, None, 3), ("problem", None, "2/2", 1)],
)
def test_the_total_is_counted_where_the_input_is_a_file(tmp_path, unit, limit, shard, want):
    rows = [{"task_id": f"t/{i // 3}", "language": "py", "completion": ""} for i in range(7)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = items.Items([str(path)], unit, limit, items.parse_shard(shard))
    assert items.expected(found, limit, shard, unit) == want
    assert sum(1 for _ in found) == want
    assert items.expected(items.Items(["-"], unit), limit, shard, unit) is None


def test_what_an_earlier_run_did_counts_as_done_and_not_for_the_rate():
    progress = Progress("toy", 100, "rows", done=90)
    progress.started -= 10
    progress.advance(5)
    assert "95/100 rows, 0.5/s" in progress.line(time.monotonic())
    late = Progress("toy", 100, "rows", quiet=True)
    late.began(90)
    late.advance(5)
    late.advanced += 10
    assert "95/100 rows, 0.5/s" in late.line(late.started + 10)


@pytest.mark.parametrize("columns", [80, 40, 20])
def test_a_narrow_terminal_never_cuts_a_number(columns, monkeypatch, capsys):
    from rich.console import Console

    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(terminal, "_console", lambda _: Console(width=columns, force_terminal=False))
    header = ["file", "problems", "pass@1", "ranked", "against", "p"]
    numbers = [".123 [.111, .222]", ".456 [.444, .555]", ".789 [.777, .888]", "<.001"]
    terminal.table(header, [["rounds/0/test-ranked.jsonl"[: columns // 3], "164", *numbers]] * 2)
    shown = capsys.readouterr().out
    for number in ("164", ".123", ".456", ".789", "<.001"):
        assert shown.count(number) == 2, shown
    assert "…" not in shown


def test_doctor_names_extras_disk_and_one_line_that_installs_what_is_missing(monkeypatch):
    monkeypatch.setattr(machine, "_version", lambda module: None if module in ("matplotlib", "ray") else "1.0")
    found = {name: (level, text, remedy) for level, name, text, remedy in machine.look()}
    assert found["train"][0] == "PASS"
    assert found["plot"][0] == "CAUTION"
    assert "plot,ray" in found["extras"][2]
    assert "GB free" in found["disk"][1]


def test_doctor_knows_every_extra_that_a_command_may_want():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(machine.EXTRAS) == set(declared["optional-dependencies"]) - {"test"}


def test_help_of_a_verb_and_completion(rrk, tmp_path):
    assert rrk("help", "mine").stdout == rrk("mine", "--help").stdout
    script = rrk("--show-completion", "bash").stdout.decode()
    (tmp_path / "c.sh").write_text(script)
    ask = f"source {tmp_path}/c.sh; COMP_WORDS=(rrk exec); COMP_CWORD=1; _rrk; echo ${{COMPREPLY[@]}}"
    assert subprocess.run(["bash", "-c", ask], capture_output=True, check=True).stdout.decode().split() == ["execute"]
    done = rrk("--install-completion", "fish", HOME=str(tmp_path))
    assert done.returncode == 0
    assert "execute" in (tmp_path / ".config/fish/completions/rrk.fish").read_text()
    assert rrk("--show-completion", "tcsh").returncode == 2


def test_work_that_waits_for_its_turn_counts_for_the_time_left():
    progress = Progress("toy", 100, "problems", quiet=True, done=20)
    progress.ahead(39.5)
    progress.advance()
    assert progress.line(progress.started + 10) == "21/100 problems (60 % drawn), 4.0/s, 10 s left"
    progress.advance(39)
    assert progress.line(progress.started + 10) == "60/100 problems, 4.0/s, 10 s left"


def test_slow_work_tells_what_one_takes_and_long_waits_are_told_in_hours():
    progress = Progress("toy", 67, "steps", quiet=True)
    assert progress.line(progress.started + 10) == "0/67 steps"
    progress.ahead(0.3)
    assert progress.line(progress.started + 30) == "0/67 steps"
    progress.advance(2)
    progress.advanced = progress.started + 306
    assert progress.line(progress.started + 306) == "2/67 steps, 153 s each, 2 h 46 min left"
    assert progress.line(progress.started + 406) == "2/67 steps, 153 s each, 2 h 44 min left", "the third is under way"
    assert progress.line(progress.started + 1206) == "2/67 steps, 402 s each, 7 h 9 min left", "and takes longer"
    progress.advance(60)
    progress.advanced = progress.started + 62 * 60
    assert progress.line(progress.started + 62 * 60) == "62/67 steps, 60 s each, 5 min left"
