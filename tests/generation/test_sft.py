"""train-sft: what is learnt of each kind of row, that only the completion is, and that a stopped run ends in the same bits."""

from __future__ import annotations

import json

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from rrk.errors import RowError, RrkError, UsageError  # noqa: E402
from rrk.generation import sft  # noqa: E402
from rrk.generation.models import load  # noqa: E402
from tests.conftest import told  # noqa: E402
from tests.generation.tiny import make_model  # noqa: E402

ROWS = [{"task_id": f"t/{i}", "prompt": f"def f{i}(x):\n", "completion": f"    return x + {i}\n"} for i in range(24)]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    torch.set_num_threads(1)
    return make_model(tmp_path_factory.mktemp("sft") / "base")


def options(**more) -> sft.SftOptions:
    return sft.SftOptions(**{"steps": 6, "batch_size": 4, "lr": 1e-3, "save_every": 100, **more})


def weights(folder) -> bytes:
    return (folder / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"prompt": "p", "completion": "c"}, ("p", "c")),
        ({"prompt": "p", "completion": "c", "passed": True}, ("p", "c")),
        ({"prompt": "p", "completion": "c", "passed": False}, None),
        ({"prompt": "p", "completion": "c", "passed": None}, None),
        ({"prompt": "p", "tests": "", "canonical_solution": "s"}, ("p", "s")),
        ({"prompt": "p", "solution": "pq"}, ("p", "q")),
        ({"prompt": "p", "solution": "other"}, ("", "other")),
    ],
)
def test_each_kind_of_row_gives_what_is_to_be_learnt(row, expected):
    assert sft.solution({"task_id": "t", **row}) == expected


def test_a_row_with_nothing_to_learn_from_is_a_bad_row():
    with pytest.raises(RowError, match="canonical_solution"):
        sft.solution({"task_id": "t", "prompt": "p"})


def test_only_the_completion_and_its_eos_carry_loss_and_copies_count_once(base):
    _, tokenizer = load(base)
    passed = {**ROWS[0], "passed": True}
    made, left = sft.examples([passed, passed, {**ROWS[1], "passed": False}], tokenizer, 100)
    assert (len(made), left["duplicates"], left["not passed"]) == (1, 1, 1)
    learnt = [label for label in made[0]["labels"] if label != -100]
    assert learnt[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(learnt[:-1]) == ROWS[0]["completion"]
    assert made[0]["input_ids"][-len(learnt) :] == learnt


def test_a_program_that_a_stop_string_cut_off_is_not_taught_to_end_there(base):
    _, tokenizer = load(base)
    rows = [
        {**ROWS[0], "finish_reason": how, "completion": f"    return {how!r}\n"} for how in ("eos", "stop", "length")
    ]
    made, left = sft.examples([*rows, {**rows[1], "completion": "\n"}], tokenizer, 100)
    assert left["empty"] == 1
    assert [row["labels"][-1] == tokenizer.eos_token_id for row in made] == [True, False, False]
    learnt = tokenizer.decode([label for label in made[1]["labels"] if label != -100])
    assert learnt == rows[1]["completion"].rstrip()  # the line break may be half of a token of two


def test_a_long_prompt_loses_its_beginning_and_a_long_completion_is_left_out(base):
    _, tokenizer = load(base)
    made, left = sft.examples(
        [{"prompt": "ab" * 40, "completion": "c"}, {"prompt": "a", "completion": "c" * 90}], tokenizer, 20
    )
    assert (len(made), left["prompts cut"], left["too long"]) == (1, 1, 1)
    assert len(made[0]["input_ids"]) <= 20


def test_the_loss_falls_and_the_folder_loads(base, tmp_path):
    figures = sft.train(ROWS, base, tmp_path / "out", options(steps=30, lr=1e-2))
    assert figures["loss"] < 0.7 * figures["loss_first"]
    load(tmp_path / "out")
    assert not (tmp_path / "out" / "checkpoints").exists()


@pytest.mark.parametrize("more", [{}, {"lora_r": 2}], ids=["all", "lora"])
def test_stopped_and_resumed_it_ends_in_the_same_bits(base, tmp_path, more):
    chosen = options(**more)
    sft.train(ROWS, base, tmp_path / "whole", chosen)
    seen = []
    stop = lambda: len(seen) >= 3  # noqa: E731
    look = lambda *_: seen.append(torch.are_deterministic_algorithms_enabled())  # noqa: E731
    assert sft.train(ROWS, base, tmp_path / "cut", chosen, should_stop=stop, on_step=look) is None
    assert all(seen)
    with pytest.raises(UsageError, match="--resume"):
        sft.train(ROWS, base, tmp_path / "cut", chosen)
    with pytest.raises(UsageError, match="other parameters"):
        sft.train(ROWS, base, tmp_path / "cut", options(**more, seed=5), resume=True)
    sft.train(ROWS, base, tmp_path / "cut", chosen, resume=True)
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")


def test_nothing_passed_is_one_clear_line(base, tmp_path):
    with pytest.raises(RrkError, match="nothing to learn from"):
        sft.train([{**ROWS[0], "passed": False}], base, tmp_path / "none", options())


def test_the_command_writes_the_manifest_last_and_says_when_there_is_nothing_to_do(rrk, base, tmp_path):
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    command = (
        "train-sft",
        "rows.jsonl",
        "--unverified",
        "-m",
        str(base),
        "-o",
        "out",
        "--steps",
        "2",
        "--batch-size",
        "2",
    )
    done = rrk(*command, cold=True)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout == b""
    assert len(told(done.stderr)) == 1, "no library chatter"
    assert b"nan" not in done.stderr, "two steps have a loss"
    assert json.loads((tmp_path / "out" / "rrk.json").read_text())["figures"]["steps"] == 2
    assert b"nothing to do" in rrk(*command).stderr
    (tmp_path / "bad.jsonl").write_text('{"task_id": "t"}\n')
    bad = rrk("train-sft", "bad.jsonl", "--unverified", "-m", str(base), "-o", "other")
    assert bad.returncode == 3
    assert "bad.jsonl:1:" in bad.stderr.decode()


@pytest.mark.parametrize("native", [True, False])
def test_a_cpu_without_bfloat16_trains_in_float32_and_says_so(base, tmp_path, monkeypatch, native):
    monkeypatch.setattr("rrk.generation.dtypes.multiplies_bfloat16", lambda: native)
    said: list[str] = []
    sft.train(ROWS, base, tmp_path / "asked", options(bf16=True), note=said.append)
    sft.train(ROWS, base, tmp_path / "plain", options())
    same = weights(tmp_path / "asked") == weights(tmp_path / "plain")
    assert (same, len(said)) == ((False, 0) if native else (True, 1))


def test_a_run_that_was_stopped_goes_on_on_a_cpu_of_the_other_kind(base, tmp_path, monkeypatch):
    for native, stop in ((True, True), (False, False)):
        monkeypatch.setattr("rrk.generation.dtypes.multiplies_bfloat16", lambda native=native: native)
        done = sft.train(ROWS, base, tmp_path, options(bf16=True), resume=not stop, should_stop=lambda stop=stop: stop)
    assert done is not None
