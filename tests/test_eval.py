"""`rrk eval` as a user runs it."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys

import pytest

from rrk import jsonl
from rrk.evaluation import ppo_log, statistics
from tests.conftest import environment, rrk_command
from tests.evaluation.test_report import overoptimised, rows_of

HOSTILE = "</pre><script>alert(1)</script>\x1b[31m\u202e<img src=x onerror=alert(2)>"


def encode(rows):
    return b"".join(map(jsonl.dumps, rows))


def better(rows):
    return [{**row, "score": row["score"] + 5.0 * row["passed"]} for row in rows]


def worse(rows):
    return [{**row, "score": row["score"] - 5.0 * row["passed"]} for row in rows]


def test_tables_are_plain_down_a_pipe(rrk):
    done = rrk("eval", input=encode(rows_of()))
    assert done.returncode == 0, done.stderr.decode()
    text = done.stdout.decode()
    assert text.isascii(), "no box characters where nobody sees boxes"
    assert "\x1b" not in text
    assert all(
        word in text for word in ("ranked pass@1", "oracle", "gap closed", "AUC", "best of k", "Brier", "status")
    )


def test_json_is_one_object_and_the_file_holds_the_same(rrk, tmp_path):
    done = rrk("eval", "--json", "-o", "r.json", input=encode(rows_of()))
    found = json.loads(done.stdout)
    assert done.stdout.count(b"\n") == 1
    assert found == json.loads((tmp_path / "r.json").read_bytes())
    assert found["pass@k"]["1"]["mean"] == found["random"]["mean"]
    assert not list(tmp_path.glob("*.part"))


def test_several_files_are_one_and_a_report_is_read_again(rrk, tmp_path):
    rows = rows_of()
    (tmp_path / "a.jsonl").write_bytes(encode(rows[:7]))
    (tmp_path / "b.jsonl").write_bytes(encode(rows[7:]))
    whole = rrk("eval", "--json", input=encode(rows)).stdout
    assert rrk("eval", "--json", "a.jsonl", "b.jsonl", "-o", "r.json").stdout == whole
    assert rrk("eval", "--json", "r.json").stdout == whole


def test_a_row_without_verdict_exits_3_with_the_remedy(rrk):
    done = rrk("eval", input=b'{"task_id":"a","completion":"x","passed":true}\n{"task_id":"a","completion":"x"}\n')
    assert done.returncode == 3
    assert done.stdout == b""
    [line] = done.stderr.decode().splitlines()
    assert line.startswith("rrk eval: <stdin>:2: no field 'passed'")
    assert "rrk execute" in line


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["nowhere.jsonl"], "no such file"),
        (["--fail-if-worse"], "needs --against"),
        (["--k", "0"], "--k 0"),
        (["--plot", "curve.txt"], "suffix"),
        (["--rounds", "--by", "model"], "do not go together"),
        (["--rounds"], "--rounds needs files"),
        (["--ppo-log", "nowhere.jsonl"], "no such file"),
    ],
)
def test_wrong_options_exit_2_with_one_line(rrk, args, said):
    done = rrk("eval", *args, input=encode(rows_of()))
    assert done.returncode == 2
    [line] = done.stderr.decode().splitlines()
    assert said in line


def test_fail_if_worse_exits_1_only_if_worse(rrk, tmp_path):
    rows = rows_of(problems=30, n=6)
    (tmp_path / "base.jsonl").write_bytes(encode(rows))
    assert rrk("eval", "base.jsonl", "-o", "base.json", "-q").returncode == 0
    for against in ("base.jsonl", "base.json"):
        done = rrk("eval", "--against", against, "--fail-if-worse", input=encode(worse(rows)))
        assert done.returncode == 1
        [line] = done.stderr.decode().splitlines()
        assert "significantly worse" in line
        assert b"ranked pass@1: worse on 30 common problems" in done.stdout
    for same in (rows, better(rows)):
        assert rrk("eval", "--against", "base.json", "--fail-if-worse", input=encode(same)).returncode == 0


def test_by_a_field_gives_a_line_for_each_value(rrk):
    rows = [{**row, "model": "m1"} for row in rows_of(1)] + [{**row, "model": "m2"} for row in rows_of(2)]
    done = rrk("eval", "--by", "model", "--json", input=encode(rows))
    groups = json.loads(done.stdout)["groups"]
    assert list(groups) == ["m1", "m2"]
    alone = json.loads(rrk("eval", "--json", input=encode(rows_of(2))).stdout)
    assert groups["m2"]["ranked_pass@1"] == alone["ranked_pass@1"]


def test_the_ledger_has_a_line_a_round_and_names_over_optimisation(rrk, tmp_path):
    bad = overoptimised()
    good = [{**row, "score": float(row["passed"])} for row in bad]
    for name, rows in (("0", good), ("1", bad)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "scored.jsonl").write_bytes(encode(rows))
        assert rrk("eval", f"{name}/scored.jsonl", "-o", f"{name}/report.json").returncode == 0
    done = rrk("eval", "--rounds", "0/report.json", "after PPO=1/report.json", "-o", "ledger.json", "--plot", "l.svg")
    assert done.returncode == 0, done.stderr.decode()
    text = done.stdout.decode()
    assert "2 of 5" in text
    assert "note: after PPO: best-of-k peaks at k=2 (.500) and falls to .000 at k=5" in text
    rounds = json.loads((tmp_path / "ledger.json").read_bytes())["rounds"]
    assert [r["name"] for r in rounds] == ["report", "after PPO"]
    assert rounds[1]["change"]["ranked_pass@1"]["difference"] == -1
    assert (tmp_path / "l.svg").stat().st_size > 1000
    refused = rrk("eval", "--rounds", "ledger.json")
    assert refused.returncode == 2
    assert b"a ledger" in refused.stderr


@pytest.mark.parametrize(("suffix", "head"), [("svg", b"<?xml"), ("png", b"\x89PNG"), ("pdf", b"%PDF")])
def test_plots_are_drawn_and_the_same_every_time(rrk, tmp_path, suffix, head):
    pytest.importorskip("matplotlib")
    for name in ("a", "b"):
        done = rrk("eval", "--plot", f"{name}.{suffix}", input=encode(rows_of(n=9)))
        assert done.returncode == 0, done.stderr.decode()
    data = (tmp_path / f"a.{suffix}").read_bytes()
    assert data.startswith(head)
    assert data == (tmp_path / f"b.{suffix}").read_bytes()
    if suffix == "svg":
        assert b"best of k by score" in data
        assert b"candidates to choose from" in data


def without_matplotlib(*args):
    script = "import sys; sys.modules['matplotlib'] = None; from rrk.cli import main; main(sys.argv[1:])"
    return [sys.executable, "-c", script, *args]


def test_a_missing_matplotlib_is_one_line_before_any_work(tmp_path):
    run = {"cwd": tmp_path, "env": environment(), "capture_output": True}
    done = subprocess.run(without_matplotlib("eval", "--plot", "a.svg"), input=encode(rows_of()), **run)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.decode().splitlines() == ["rrk eval: plots need matplotlib: pip install 'rrk[plot]'"]
    done = subprocess.run(without_matplotlib("eval", "--html", "a.html"), input=encode(rows_of()), **run)
    assert done.returncode == 0
    assert b"no curve" in done.stderr
    assert "candidates to choose from" not in (tmp_path / "a.html").read_text()


def test_html_shows_what_the_ranking_fell_for_and_escapes_everything(rrk, tmp_path):
    rows = overoptimised(3)
    for row in rows:
        row |= {
            "completion": f"{HOSTILE} {row['completion_id']}",
            "prompt": HOSTILE,
            "stderr": HOSTILE,
            "status": HOSTILE,
        }
        row["task_id"] += HOSTILE
    done = rrk("eval", "--html", "r.html", input=encode(rows))
    assert done.returncode == 0, done.stderr.decode()
    text = (tmp_path / "r.html").read_text()
    assert "What the ranking fell for" in text
    assert "ahead by 6" in text
    assert "<script" not in text
    assert "<img" not in text
    assert "&lt;script&gt;" in text
    assert not {"\x1b", "\u202e"} & set(text)
    assert "default-src 'none'" in text
    assert not any(word in text.split("<svg")[0] for word in ("http://", "https://"))


def ppo_rows():
    for update in range(21):
        row = {"update": update, "score": update / 10, "kl": update / 2}
        if update % 5 == 0:
            rate = 0.3 + 0.02 * min(update, 10) - 0.03 * max(0, update - 10)
            row |= {"probe_pass@1": rate, "probe_score": update / 10, "probe_auc": 0.8 - update / 80}
        yield row


def test_a_ppo_log_tells_over_optimisation(rrk, tmp_path):
    (tmp_path / "log.jsonl").write_bytes(encode(ppo_rows()))
    done = rrk("eval", "--ppo-log", "log.jsonl", "--plot", "over.svg")
    assert done.returncode == 0, done.stderr.decode()
    text = done.stdout.decode()
    assert "best at update 10: .500" in text
    assert "from there to update 20 it falls to .200 while the score rises from 1.000 to 2.000: over-optimised" in text
    assert (
        "at update 20 the reranker tells right from wrong with an AUC of .550 (.500 is chance; at the start .800)"
        in text
    )
    assert len([line for line in text.splitlines() if line[:1].isdigit()]) == 5
    svg = (tmp_path / "over.svg").read_text()
    assert "KL, nats" in svg
    assert "pass@1, probe" in svg


def test_a_probes_verdicts_give_its_rate_an_interval_and_the_best_a_difference_in_pairs(rrk, tmp_path):
    """Forty problems x 2 of which the first twenty are gained; a sample that could not be judged counts in neither."""

    def probe(update, passes):
        told = [
            {"task_id": f"MBPP/{i}", "language": "py", "passed": [passes(i), None if i == 39 else passes(i)]}
            for i in range(40)
        ]
        known = [p for of in told for p in of["passed"] if p is not None]
        return {"update": update, "probe_pass@1": sum(known) / len(known), "probe_score": update, "probe_passed": told}

    log = [probe(0, lambda i: i < 5), probe(2, lambda i: i < 25), probe(4, lambda i: 20 <= i < 25)]
    (tmp_path / "log.jsonl").write_bytes(encode(log))
    done = rrk("eval", "--ppo-log", "log.jsonl", "--plot", "over.svg")
    assert done.returncode == 0, done.stderr.decode()
    text = done.stdout.decode()
    _, low, high = statistics.bootstrap([1.0] * 10 + [0.0] * 69, None, [i // 2 for i in range(79)]).values()
    assert f".127 [{low:.3f}, {high:.3f}]".replace("0.", ".") in text
    assert "best at update 2: .633 (at the start .127; .506 [" in text
    assert "p <.001, not counting that it was chosen as the best of 3)" in text
    assert "from there to update 4 it falls to .127 (-.506 [" in text
    assert "while the score rises from 2.000 to 4.000: over-optimised\n" in text
    (tmp_path / "log.jsonl").write_bytes(encode([log[0], log[1], probe(6, lambda i: i < 24)]))
    text = rrk("eval", "--ppo-log", "log.jsonl").stdout.decode()
    assert "over-optimised, or chance: a larger probe would tell" in text
    few = ppo_log.untold([log[0], log[1], probe(6, lambda i: i < 24)], 2)
    assert few.startswith("the probe does not tell update 2 from 6 (-.025 [")
    assert ppo_log.untold(log, 2) is None, "it does"
    assert ppo_log.untold(log, 4) is None, "the last is kept"
    wrong = log[0] | {"probe_passed": 1}
    (tmp_path / "log.jsonl").write_bytes(encode([wrong]))
    done = rrk("eval", "--ppo-log", "log.jsonl")
    assert done.returncode == 3
    assert b"log.jsonl:1: field 'probe_passed'" in done.stderr


def test_a_ppo_log_that_is_none_is_refused(rrk, tmp_path):
    (tmp_path / "log.jsonl").write_bytes(encode(rows_of()))
    done = rrk("eval", "--ppo-log", "log.jsonl")
    assert done.returncode == 3
    assert b"log.jsonl:1: no field 'update'" in done.stderr


def test_a_closed_pipe_ends_quietly(tmp_path):
    (tmp_path / "in.jsonl").write_bytes(encode(rows_of()))
    command = " ".join(rrk_command("eval", "in.jsonl"))
    done = subprocess.run(
        ["bash", "-c", f"{command} | true; echo ${{PIPESTATUS[0]}}"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
    )
    assert done.stdout.strip() in (b"0", b"141")
    assert done.stderr == b""


def test_nothing_judged_is_said_and_no_error(rrk):
    done = rrk("eval", input=b'{"task_id":"a","completion":"","passed":null,"status":"NoToolchain"}\n')
    assert done.returncode == 0
    assert b"nothing to evaluate" in done.stdout
    assert b"1 samples could not be judged" in done.stdout


def rrk_figures(done):
    return sorted(re.findall(r"\d?\.\d{3}", done.stdout.decode()))


def test_narrow_terminal_keeps_figures_whole(tmp_path):
    """An interval never loses its end to the terminal's edge."""
    (tmp_path / "in.jsonl").write_bytes(encode(rows_of()))
    read, write = pty.openpty()
    child = subprocess.Popen(
        rrk_command("eval", "in.jsonl"), cwd=tmp_path, env=environment(COLUMNS="80", TERM="xterm"), stdout=write
    )
    os.close(write)
    data = b""
    try:
        while block := os.read(read, 1 << 16):
            data += block
    except OSError:
        pass  # the terminal's end
    assert child.wait() == 0
    assert "…" not in data.decode()
    plain = rrk_figures(
        subprocess.run(rrk_command("eval", "in.jsonl"), cwd=tmp_path, env=environment(), capture_output=True)
    )
    assert sorted(re.findall(r"\d?\.\d{3}", re.sub(r"\x1b\[[\d;]*m", "", data.decode()))) == plain


def test_two_rankings_of_the_same_candidates_are_not_mixed(rrk, tmp_path):
    # They would be counted as one ranking of twice as many candidates.
    rows = [
        {"task_id": "t/0", "completion": f"    return {i}\n", "completion_id": i, "passed": i == 0, "score": float(i)}
        for i in range(4)
    ]
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_bytes(b"".join(map(jsonl.dumps, rows)))
    done = rrk("eval", "a.jsonl", "b.jsonl")
    assert done.returncode == 2
    assert b"--rounds" in done.stderr
    assert b"--against a.jsonl" in done.stderr
    assert rrk("eval", "--rounds", "a.jsonl", "b.jsonl").returncode == 0
    assert rrk("eval", "b.jsonl", "--against", "a.jsonl").returncode == 0
