"""What of rrk.cluster needs no cluster: batches, and a worker's thread."""

from __future__ import annotations

import threading
from collections import deque
from functools import partial

from rrk import __version__
from rrk.actor import Actor
from rrk.cluster import _Reader
from rrk.errors import RowError, RrkError
from tests.cluster.makes import Doubler


class Items:
    """As rrk.items.Items; `late` of them are not ready yet."""

    def __init__(self, rows, late=0):
        self._rows, self._late = deque(rows), late

    def ready(self):
        return len(self._rows) > self._late or not self._rows

    def __iter__(self):
        return self

    def __next__(self):
        if not self._rows:
            raise StopIteration
        return self._rows.popleft()


def row(n, task=0):
    return {"task_id": f"t/{task}", "n": n}


def test_batches_end_where_a_problem_does_and_wait_for_nobody():
    """Equal programs of a problem stay together; a slow producer's rows are sent as they come."""
    rows = [row(n, n // 6) for n in range(20)]
    reader = _Reader(Items(rows))
    batches = []
    while (batch := reader.read(8)) is not None:
        batches.append([item["n"] for item in batch.items])
    assert [len(batch) for batch in batches] == [6, 6, 6, 2]
    assert [n for batch in batches for n in batch] == list(range(20))
    assert reader.ended
    assert len(_Reader(Items(rows, late=15)).read(8).items) == 5


def test_a_worker_answers_batch_by_batch_and_an_error_after_what_came_before_it():
    actor = Actor(partial(Doubler), 3, ".")
    assert actor.start() == __version__
    answers: dict[int, tuple] = {}

    def ask(number, items):
        answers[number] = actor.run(items)

    first = threading.Thread(target=ask, args=(0, [row(1), row(2)]))
    first.start()
    first.join(10)
    outputs, error, figures, notes, seconds = answers[0]
    assert [[r["doubled"] for r in output] for output in outputs] == [[2], [4]]
    assert (error, figures, notes) == (None, {"done": 2}, ("3 cores",))
    assert seconds >= 0
    outputs, error, *_ = actor.run([row(3), {**row(4), "bad": True}, row(5)])
    assert [output[0]["n"] for output in outputs] == [3]
    assert isinstance(error, RowError)
    assert str(error) == "in.jsonl:4: a bad row"
    assert actor.run([row(6)])[:2] == ([], error)


def test_a_worker_that_cannot_work_here_says_why():
    assert isinstance(Actor(partial(_refusing), 1, ".").start(), RrkError)


def _refusing(cores):
    raise RrkError("no model here")
