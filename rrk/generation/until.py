"""Programs of a problem one after another, until one has passed the examples in its prompt.

    engine = Until(engine, examples, order)          # an engine like any other (tasks.py)
    for task, drawn in engine(tasks): ...            # drawn: 1 to order.samples programs, each with its evidence

`examples` runs programs while others are drawn (rrk/sandbox/live.py); generation knows no sandbox. A problem's first program is
drawn alone, then as many again as there are: 1, 2, 4, 8, ..., until one of them has passed. So which are drawn follows from
their seeds alone. Problems without an example get all at once. Rows are filled from all problems, and a prompt is not read
again (continuous.py). Measured on Qwen2.5-Coder-0.5B's 8 programs of 320 problems: 3.9 are drawn where one by one would draw
3.7, and the last problems take four turns and not eight, each of which costs as much time as the longest program.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from rrk.generation.tasks import Engine, Order, Sample, Task, Tasks, output_rows

AHEAD = 1024  # problems in hand: they leave in order, and an early one may take long


class Examples(Protocol):
    """Runs programs on the examples that their prompts show; results come in any order."""

    def shows(self, row: dict[str, Any]) -> bool:
        """Whether a candidate's problem shows any."""

    def submit(self, key: Any, row: dict[str, Any]) -> None: ...
    def results(self, wait: bool) -> list[tuple[Any, dict[str, Any]]]:
        """(key, evidence) of those that are done; with `wait` at least one."""

    def close(self) -> None: ...


@dataclass(eq=False)
class _Problem:
    task: Task
    shows: bool  # an example
    drawn: list[Sample] = field(default_factory=list)
    looked_at: int = 0  # programs of `drawn` whose evidence is there
    done: bool = False


class Until:
    """An engine around another."""

    def __init__(self, engine: Engine, examples: Examples, order: Order):
        self._engine, self._examples, self._order = engine, examples, order
        self.without = 0  # programs of which no evidence could be had
        self.passed = 0  # problems with a program that passed its examples
        self._ended: Callable[[int], None] = lambda count: None

    @property
    def about(self) -> dict[str, Any]:
        lacking = {"without evidence": self.without} if self.without else {}
        return {**self._engine.about, "problems whose examples passed": self.passed, **lacking}

    @property
    def cost(self) -> dict[str, Any]:
        return self._engine.cost

    @property
    def reread(self) -> int:
        return int(getattr(self._engine, "reread", 0))

    def watch(self, ended: Callable[[int], None]) -> None:
        """`ended` hears how many programs have ended or are not needed any more."""
        self._ended = ended
        if watch := getattr(self._engine, "watch", None):
            watch(ended)

    def __call__(self, tasks: Tasks) -> Iterator[tuple[Task, list[Sample]]]:
        parts = _Parts(tasks, self._examples, self._order, self._ended)
        try:
            while not parts.over:
                for part, drawn in self._engine(parts):  # type: ignore[arg-type]
                    parts.take(part, drawn)
                    yield from parts.finished()
                yield from parts.finished()
            self.without, self.passed = parts.without, parts.passed
        finally:
            self._examples.close()


class _Parts:
    """What the inner engine draws: the next programs of a problem, as a task. `any_order`: whichever is done first."""

    any_order = True

    def __init__(self, tasks: Tasks, examples: Examples, order: Order, spared: Callable[[int], None]):
        self._tasks, self._examples, self._order, self._spared = tasks, examples, order, spared
        self._in_hand: deque[_Problem] = deque()  # in the order in which they came
        self._next: deque[tuple[_Problem, Task]] = deque()  # may be drawn at once
        # By what tells a part, for an engine may hand back another object; a problem may stand in the input twice.
        self._drawing: dict[tuple[Any, ...], list[_Problem]] = {}
        self._running = 0  # programs that are with the examples
        self._ended = False
        self.without = self.passed = 0

    # ---- the engine's side ---------------------------------------------------------------------------------------

    def __iter__(self) -> _Parts:
        return self

    @property
    def over(self) -> bool:
        return self._ended and not self._in_hand

    def __next__(self) -> Task:
        """Waits for what the examples say, if need be. Ends where nothing is drawn or run any more and what is done has to leave
        before the next problem is waited for: whoever sends it may wait for that."""
        self._look(wait=False)
        while not self._next:
            if not self._ended and not self._full() and self._tasks.ready():
                self._begin()
            elif self._running:
                self._look(wait=True)
            elif self._ended or self._in_hand:
                raise StopIteration
            else:
                self._begin()
        problem, part = self._next.popleft()
        self._drawing.setdefault(_key(part), []).append(problem)
        return part

    def ready(self) -> bool:
        """Whether __next__ has a task at once."""
        self._look(wait=False)
        while not self._next and not self._ended and not self._full() and self._tasks.ready():
            self._begin()
        return bool(self._next)

    def _full(self) -> bool:
        return len(self._in_hand) >= AHEAD

    def _begin(self) -> None:
        task = next(self._tasks, None)
        if task is None:
            self._ended = True
            return
        problem = _Problem(task, self._examples.shows(task.row))
        self._in_hand.append(problem)
        self._go_on(problem)

    def _go_on(self, problem: _Problem) -> None:
        """Its next programs may be drawn."""
        task, at = problem.task, len(problem.drawn)
        count = max(1, at) if problem.shows else self._order.samples
        self._next.append((problem, replace(task, first=at, seeds=task.seeds[at : at + count])))

    # ---- the other side ------------------------------------------------------------------------------------------

    def take(self, part: Task, drawn: list[Sample]) -> None:
        """These were drawn."""
        problem = self._drawing[_key(part)].pop()
        rows = output_rows(part, drawn, self._order)
        for number, row in enumerate(rows, part.first):
            self._examples.submit((problem, number), row)
            self._running += 1
        problem.drawn += drawn

    def finished(self) -> Iterator[tuple[Task, list[Sample]]]:
        """Problems that are done, in their order."""
        self._look(wait=False)
        while self._in_hand and self._in_hand[0].done:
            problem = self._in_hand.popleft()
            yield problem.task, problem.drawn

    def _look(self, wait: bool) -> None:
        for (problem, number), evidence in self._examples.results(wait and self._running > 0):
            self._running -= 1
            self.without += "error" in evidence
            problem.drawn[number] = replace(problem.drawn[number], evidence=evidence)
            problem.looked_at += 1
            if problem.looked_at < len(problem.drawn):
                continue
            passed = problem.shows and any(_passes(sample.evidence or {}) for sample in problem.drawn)
            self.passed += passed
            problem.done = passed or len(problem.drawn) >= len(problem.task.seeds)
            if problem.done:
                self._spared(len(problem.task.seeds) - len(problem.drawn))
            else:
                self._go_on(problem)


def _key(part: Task) -> tuple[Any, ...]:
    return (part.task_id, part.language, part.first)


def _passes(evidence: dict[str, Any]) -> bool:
    outcomes = evidence.get("passed") or ""
    return bool(outcomes) and set(outcomes) == {"1"}
