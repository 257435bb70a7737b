"""Sampling until a program has passed the examples: which programs are drawn, in which order rows leave, what is paid for."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

pytest.importorskip("torch")

from rrk.generation.tasks import Order, Sample, Tasks, Work, task
from rrk.generation.until import Until

ORDER = Order("m", samples=8)


class Items:
    """Items of a stage; `slow`: the next is never there before somebody waits for it."""

    def __init__(self, rows, slow=False):
        self._rows, self._slow = iter(rows), slow

    def __iter__(self):
        return self

    def __next__(self):
        return next(self._rows)

    def ready(self):
        return not self._slow


class Drawing:
    """An engine that holds up to `width` tasks and gives back the last of them first, as any_order lets it."""

    about: dict[str, str] = {}  # noqa: RUF012
    cost: dict[str, int] = {"parameters": 5}  # noqa: RUF012

    def __init__(self, width=3):
        self.width, self.parts, self.most = width, [], 0

    def __call__(self, tasks):
        assert tasks.any_order
        held = []
        while True:
            while len(held) < self.width and (not held or tasks.ready()):
                part = next(tasks, None)
                if part is None:
                    break
                held.append(part)
            if not held:
                return
            self.most = max(self.most, len(held))
            part = held.pop()
            self.parts.append((part.task_id, part.first, len(part.seeds)))
            made = [
                Sample(f"{part.task_id}#{part.first + i}:{seed}", -1.0, 3, "eos", 7)
                for i, seed in enumerate(part.seeds)
            ]
            yield replace(part, ids=(1,)), made


class Examples:
    """Program n of problem t passes from n = needs[t] on; results come `late` looks after they were asked for."""

    def __init__(self, needs, late=0, error=()):
        self.needs, self.late, self.error = needs, late, error
        self.asked, self.closed, self.shown = [], False, Counter()

    def shows(self, row):
        return self.needs[row["task_id"]] is not None

    def submit(self, key, row):
        self.asked.append([self.late, key, row])

    def results(self, wait):
        if wait:
            assert self.asked, "waits for what nobody asked"
        for one in self.asked:
            one[0] = 0 if wait else one[0] - 1
        done = [one for one in self.asked if one[0] <= 0]
        self.asked = [one for one in self.asked if one[0] > 0]
        made = []
        for _, key, row in done:
            needs = self.needs[row["task_id"]]
            passes = needs is not None and row["completion_id"] >= needs
            self.shown[row["task_id"]] += 1
            made.append(
                (
                    key,
                    {"passed": "11" if passes else "10"}
                    if row["task_id"] not in self.error
                    else {"passed": "00", "error": "x"},
                )
            )
        return made

    def close(self):
        self.closed = True


def rows_of(needs):
    return [{"task_id": name, "prompt": f"def f{n}(x):\n", "language": "py"} for n, name in enumerate(needs)]


def draw(needs, width=3, late=0, slow=False, error=()):
    engine, examples = Drawing(width), Examples(needs, late, error)
    work = Work(ORDER, lambda: Until(engine, examples, ORDER))
    out = list(work(Items(rows_of(needs), slow)))
    assert examples.closed
    return out, engine, work


NEEDS = {"at-once": 0, "second": 1, "third": 2, "sixth": 5, "never": 99, "no-example": None, "again": 0}
COUNTS = {"at-once": 1, "second": 2, "third": 4, "sixth": 8, "never": 8, "no-example": 8, "again": 1}


@pytest.mark.parametrize("width", [1, 2, 50])
@pytest.mark.parametrize("late", [0, 1, 5])
@pytest.mark.parametrize("slow", [False, True])
def test_a_problem_gets_as_many_again_until_one_passes(width, late, slow):
    out, engine, work = draw(NEEDS, width, late, slow)
    assert [problem[0]["task_id"] for problem in out] == list(NEEDS), "problems leave in their order"
    assert {problem[0]["task_id"]: len(problem) for problem in out} == COUNTS
    for problem in out:
        assert [row["completion_id"] for row in problem] == list(range(len(problem)))
        assert all(row["until"] == "examples" and row["evidence"]["passed"] for row in problem)
        assert problem[0]["parameters"] == 5
    parts = [(first, count) for name, first, count in engine.parts if name == "never"]
    assert parts == [(0, 1), (1, 1), (2, 2), (4, 4)]
    assert ("no-example", 0, 8) in engine.parts, "there is nothing to wait for"
    assert work.figures["problems whose examples passed"] == 5
    assert work.figures["tokens"] == 3 * sum(COUNTS.values())
    assert work.figures["cost"]["tokens_read"] == 7 * len(NEEDS)


def test_programs_are_those_of_an_ordinary_run():
    """The same seeds: a program that --until-examples draws is byte for byte the ordinary one of its number."""
    out, _, _ = draw(NEEDS)
    for problem, row in zip(out, rows_of(NEEDS), strict=True):
        seeds = task(row, ORDER).seeds
        assert [one["completion"] for one in problem] == [
            f"{row['task_id']}#{i}:{seeds[i]}" for i in range(len(problem))
        ]


@pytest.mark.parametrize("late", [0, 3])
def test_what_is_done_leaves_before_more_input_is_waited_for(late):
    """As from a pipe whose other end waits for the answer to its first problem, or from a cluster's driver."""
    out, rows = [], rows_of(NEEDS)

    class Fed:
        def __init__(self):
            self.given = 0

        def __next__(self):
            assert len(out) == self.given
            if self.given == len(rows):
                raise StopIteration
            self.given += 1
            return rows[self.given - 1]

        def ready(self):
            return False

    until = Until(Drawing(), Examples(NEEDS, late), ORDER)
    for _, drawn in until(Tasks(Fed(), ORDER)):
        out.append(len(drawn))
    assert out == list(COUNTS.values())


def test_many_problems_are_drawn_beside_each_other():
    _, engine, _ = draw({f"t{n}": 3 for n in range(20)}, width=16, late=1)
    assert engine.most == 16


def test_problems_in_hand_are_bounded(monkeypatch):
    monkeypatch.setattr("rrk.generation.until.AHEAD", 4)
    out, engine, _ = draw({"never": 99, **{f"t{n}": 0 for n in range(20)}}, width=16, late=3)
    assert engine.most <= 4
    assert len(out) == 21


def test_the_same_problem_twice_is_two_problems():
    engine, examples = Drawing(4), Examples({"a": 1})
    rows = rows_of({"a": 1}) * 2
    out = list(Until(engine, examples, ORDER)(Tasks(Items(rows), ORDER)))
    assert [len(drawn) for _, drawn in out] == [2, 2]


def test_what_could_not_be_run_is_counted_and_is_no_pass():
    out, _, work = draw({"a": 0, "b": 0}, error=("a",))
    assert [len(problem) for problem in out] == [8, 1]
    assert work.figures["without evidence"] == 8


def test_progress_hears_of_programs_that_are_not_needed():
    engine, heard = Drawing(), []
    engine.watch = lambda ended: None
    until = Until(engine, Examples({"a": 0, "b": 3}), ORDER)
    until.watch(heard.append)
    list(until(Tasks(Items(rows_of({"a": 0, "b": 3})), ORDER)))
    assert sorted(heard) == [4, 7]
