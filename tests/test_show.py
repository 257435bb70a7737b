"""`rrk show` as a user runs it: who looks at hostile programs must not be attacked by them."""

from __future__ import annotations

import os
import pty
import subprocess

import pytest

from rrk import jsonl, manifest, terminal
from rrk.evaluation import browse
from tests.conftest import environment, rrk_command
from tests.evaluation.test_report import rows_of

ESCAPES = "\x1b[2J\x1b]0;owned\x07\x9b31m\r\x08\u202e\u2066\ud800"


def encode(rows):
    return b"".join(map(jsonl.dumps, rows))


def scored():
    return [
        {
            "task_id": f"HumanEval/{p}",
            "language": "py",
            "prompt": f"def f{p}(x):\n",
            "completion_id": c,
            "completion": f"    return {p}{c}\n",
            "passed": c == 1,
            "status": "OK" if c == 1 else "Exception",
            "stderr": "" if c == 1 else f"Traceback\nAssertionError: {c}\n",
            "time": 0.25,
            "score": float(c),
            "rank": 3 - c,
        }
        for p in range(2)
        for c in range(3)
    ]


def test_overview_has_a_line_a_problem(rrk):
    done = rrk("show", input=encode(scored()))
    head, *lines = done.stdout.decode().splitlines()
    assert head.split() == ["problem", "language", "passed", "best-scored", "statuses"]
    assert [line.split() for line in lines] == [
        [f"HumanEval/{p}", "py", "1/3", "failed", "Exception:2", "OK:1"] for p in range(2)
    ]


def test_a_task_shows_its_programs_best_first(rrk):
    text = rrk("show", "--task", "HumanEval/1", input=encode(scored())).stdout.decode()
    heads = [line for line in text.splitlines() if line.startswith("---")]
    assert heads == [
        "--- HumanEval/1 #2, rank 1 of 3, score 2, failed (Exception), 0.25 s: AssertionError: 2",
        "--- HumanEval/1 #1, rank 2 of 3, score 1, passed, 0.25 s",
        "--- HumanEval/1 #0, rank 3 of 3, score 0, failed (Exception), 0.25 s: AssertionError: 0",
    ]
    assert text.count("def f1(x):") == 1, "the prompt that all share is shown once"
    assert "return 12" in text
    assert "return 02" not in text


@pytest.mark.parametrize(
    ("args", "ids"),
    [
        (["--top", "1"], ["0#2", "1#2"]),
        (["--failed", "-t", "HumanEval/0"], ["0#2", "0#0"]),
        (["--passed"], ["0#1", "1#1"]),
        (["--id", "0", "--limit", "1"], ["0#0"]),
        (["--status", "ok", "-l", "python"], ["0#1", "1#1"]),
    ],
)
def test_filters(rrk, args, ids):
    done = rrk("show", *args, input=encode(scored()))
    found = [
        line.split(",")[0].removeprefix("--- HumanEval/")
        for line in done.stdout.decode().splitlines()
        if "--- " in line
    ]
    assert [text.replace(" ", "") for text in found] == ids


def test_a_base_problem_finds_its_translations(rrk):
    rows = [{**r, "task_id": "HumanEval_0_f", "language": lang} for lang in ("cpp", "java") for r in scored()[:1]]
    text = rrk("show", "--task", "HumanEval/0", input=encode(rows)).stdout.decode()
    assert "=== HumanEval_0_f (cpp)" in text
    assert "=== HumanEval_0_f (java)" in text


def test_a_whole_program_is_not_continued(rrk):
    rows = [{"task_id": "a", "solution": "def f():\n    return 1\n"}]
    text = rrk("show", "--top", "1", input=encode(rows)).stdout.decode()
    assert text == "\n--- a\ndef f():\n    return 1\n"


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--task", "HumanEval/7"], "did you mean"),
        (["--failed", "--passed"], "do not go together"),
        (["nowhere.jsonl"], "no such file"),
        (["--color", "blue"], "auto, always or never"),
        (["."], "no rrk.json in this folder"),
    ],
)
def test_wrong_use_exits_2_with_one_line(rrk, args, said):
    done = rrk("show", *args, input=encode(scored()))
    assert done.returncode == 2
    [line] = done.stderr.decode().splitlines()
    assert said in line


def test_a_row_that_is_nothing_exits_3(rrk):
    done = rrk("show", input=b'{"task_id":"a"}\n')
    assert done.returncode == 3
    assert b"<stdin>:1: neither a candidate" in done.stderr


def raw(data: bytes) -> set[int]:
    return set(data) & {*range(9), *range(0x0B, 0x20), 0x7F}


@pytest.mark.parametrize("args", [[], ["--top", "9", "--output"], ["--task", "a"]])
def test_escape_sequences_never_reach_the_terminal(rrk, args):
    row = {name: ESCAPES + name for name in ("prompt", "completion", "status", "stdout", "stderr", "reason", "model")}
    row |= {"task_id": "a", "passed": False, "language": "py", "completion_id": ESCAPES, "rank": ESCAPES}
    done = rrk("show", *args, input=encode([row]))
    assert done.returncode == 0, done.stderr.decode()
    assert not raw(done.stdout)
    assert not {"\x9b", "\u202e", "\u2066"} & set(done.stdout.decode())
    assert b"\\x1b[2J" in done.stdout
    assert b"\\u202e" in done.stdout


def on_a_terminal(command, cwd):
    """What a terminal of 150 columns would get."""
    read, write = pty.openpty()
    child = subprocess.Popen(command, cwd=cwd, env=environment(COLUMNS="150", TERM="xterm-256color"), stdout=write)
    os.close(write)
    data = b""
    try:
        while block := os.read(read, 1 << 16):
            data += block
    except OSError:
        pass  # the terminal's end
    os.close(read)
    assert child.wait() == 0
    return data


@pytest.mark.parametrize("args", [["--top", "9", "--output"], []])
def test_colours_on_a_terminal_are_ours_alone(tmp_path, args):
    import re

    row = {
        "task_id": "a" + ESCAPES,
        "prompt": "p\n",
        "completion": f"return 1  # {ESCAPES}",
        "passed": False,
        "status": ESCAPES,
    }
    (tmp_path / "in.jsonl").write_bytes(encode([row]))
    data = on_a_terminal(rrk_command("show", "in.jsonl", *args), tmp_path)
    assert b"\x1b[" in data
    left = re.sub(rb"\x1b\[[\d;]*m", b"", data).replace(b"\r\n", b"\n")
    assert not raw(left), left
    assert b"]0;owned" in left, "spelt out, not lost"


def pairs():
    return [
        {
            "task_id": "t",
            "prompt": "def f():\n",
            "chosen": "    return 1",
            "rejected": "    return 2",
            "chosen_id": 4,
            "rejected_id": 7,
        }
        | {"chosen_score": 0.5, "rejected_score": 1.25, "kind": "hard", "reason": "outscores all", "round": 1}
    ]


def test_pairs_in_turn_down_a_pipe_and_side_by_side_on_a_wide_terminal(rrk, tmp_path):
    done = rrk("show", "--task", "t", input=encode(pairs()))
    lines = [line for line in done.stdout.decode().splitlines() if line]
    assert lines == [
        "=== t, hard, round 1: outscores all",
        "--- chosen #4, score 0.5",
        "    return 1",
        "--- rejected #7, score 1.25",
        "    return 2",
    ]
    (tmp_path / "pairs.jsonl").write_bytes(encode(pairs()))
    wide = on_a_terminal(rrk_command("show", "pairs.jsonl", "--task", "t"), tmp_path).decode()
    assert any("chosen #4" in line and "rejected #7" in line for line in wide.splitlines())
    overview = rrk("show", "pairs.jsonl").stdout.decode().splitlines()
    assert overview[1].split() == ["t", "py", "1", "1", "0", "0"]


def test_conversational_preferences_of_trl(rrk):
    pair = {
        "prompt": [],
        "chosen": [{"role": "assistant", "content": "good"}],
        "rejected": [{"role": "x", "content": "bad"}],
    }
    text = rrk("show", "--top", "1", input=encode([pair])).stdout.decode()
    assert "good" in text
    assert "bad" in text
    assert "(no task_id)" in text


def test_a_trained_folder_tells_what_made_it(rrk, tmp_path):
    (tmp_path / "m").mkdir()
    manifest.write(
        tmp_path / "m",
        command="train-reranker",
        params={"lr": 1e-4},
        seed=7,
        figures={"card": {"auc": 0.75}, "log": [1.0] * 20},
    )
    text = rrk("show", "m").stdout.decode()
    for line in (
        "command: train-reranker",
        "params.lr: 0.0001",
        "seed: 7",
        "figures.card.auc: 0.75",
        "figures.log: 20 values",
    ):
        assert line in text


def test_a_closed_pipe_ends_quietly(tmp_path):
    (tmp_path / "in.jsonl").write_bytes(encode(rows_of(problems=300)))
    command = " ".join(rrk_command("show", "in.jsonl", "--top", "5"))
    script = f"{command} | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=environment(), capture_output=True)
    assert done.stdout.splitlines()[-1] == b"141"
    assert done.stderr == b""


def test_output_that_is_not_utf8_gets_escapes(rrk):
    rows = [{"task_id": "a", "completion": "print('é\u4e2d')"}]
    done = rrk("show", "--top", "1", input=encode(rows), PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr.decode()
    assert b"\\xe9\\u4e2d" in done.stdout


def test_visible_keeps_text_and_spells_out_control():
    assert terminal.visible("a\tb\r\nc\n") == "a\tb\nc\n"
    assert terminal.visible("x\x1b\x00\x85\u2028") == "x\\x1b\\x00\\x85\\u2028"
    assert terminal.one_line("a\nb", 0) == "a\\nb"
    assert terminal.one_line("abcdefgh", 6) == "abc..."


def test_of_equal_scores_the_better_rank_comes_first():

    rows = [{"score": 1.0, "rank": 3}, {"score": 2.0, "rank": 2}, {"score": 2.0, "rank": 1}, {"passed": True}]
    assert [row.get("rank") for row in browse.ranked(rows)] == [1, 2, 3, None]


def test_only_what_will_be_shown_is_kept():
    """A file larger than memory can be looked at."""
    rows = [{"task_id": f"a/{n % 3}", "completion": "", "passed": n % 2 == 0, "score": float(n)} for n in range(300)]
    counted = browse.gather(iter(rows))
    assert [(group.size, group.kept) for group in counted.groups.values()] == [(100, [])] * 3
    best = browse.gather(iter(rows), wanted=browse.Filter(passed=False), top=2)
    for number, group in enumerate(best.groups.values()):
        assert len(group.kept) <= 6
        fitting = [row for row in rows if row["task_id"] == f"a/{number}" and not row["passed"]]
        assert browse.ranked(group.kept)[:2] == browse.ranked(fitting)[:2]


def test_problems_reports_and_logs_are_shown_too(rrk, tmp_path):
    problem = {"task_id": "t/0", "language": "py", "prompt": "def f(x):\n", "tests": "assert f(1) == 2\n"}
    problem |= {"entry_point": "f", "canonical_solution": "    return x + 1\n"}
    (tmp_path / "p.jsonl").write_bytes(encode([problem]))
    assert "entry point" in rrk("show", "p.jsonl").stdout.decode()
    whole = rrk("show", "p.jsonl", "--task", "t/0").stdout.decode()
    assert "assert f(1) == 2" in whole
    assert "return x + 1" in whole
    rrk("eval", "-o", "report.json", input=encode(rows_of()))
    assert "pass@1" in rrk("show", "report.json").stdout.decode()
    (tmp_path / "log.jsonl").write_bytes(encode([{"update": 0, "probe_pass@1": 0.25}, {"update": 1, "score": 2.0}]))
    assert "update" in rrk("show", "log.jsonl").stdout.decode()
    (tmp_path / "other.json").write_text('{"figures": {"loss": 0.5}}')
    assert "figures.loss: 0.5" in rrk("show", "other.json").stdout.decode()


def test_totals_stand_below_and_contrast_is_a_diff_to_the_nearest_that_passes(rrk):
    texts = [
        ("    return x - 1\n", False, 2.0),
        ("    y = 3\n    return y\n", True, 0.0),
        ("    return x + 1\n", True, 1.0),
    ]
    rows = [
        {"task_id": f"t/{p}", "language": "py", "prompt": "def f(x):\n", "completion_id": i, "completion": text}
        | {"passed": passed, "score": score if p == 0 else -score}
        for p in range(2)
        for i, (text, passed, score) in enumerate(texts)
    ]
    assert (
        "2 problems, 6 rows, 4 of 6 judged passed (66.7%); the best-scored passes in 50.0%"
        in rrk("show", input=encode(rows)).stderr.decode()
    )
    shown = rrk("show", "--contrast", input=encode(rows)).stdout.decode()
    assert "-    return x - 1" in shown
    assert "+    return x + 1" in shown
    assert "t/1" not in shown


def test_on_a_terminal_a_pager_has_the_last_word(tmp_path):
    (tmp_path / "in.jsonl").write_bytes(encode(scored()))
    ours, theirs = pty.openpty()
    command = [*rrk_command("show", "in.jsonl", "--top", "1")]
    given = environment(TERM="xterm", PAGER="sed s/^/paged:/")
    child = subprocess.Popen(command, cwd=tmp_path, env=given, stdout=theirs, stderr=subprocess.PIPE)
    os.close(theirs)
    data = b""
    try:
        while block := os.read(ours, 1 << 16):
            data += block
    except OSError:
        pass  # the terminal's end
    assert child.wait() == 0, child.stderr.read()
    assert b"paged:" in data
    assert b"\x1b[" in data, "colours stay"
