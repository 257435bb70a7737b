"""Continuous batching: a row that ends is replaced at once by the next program, of the same problem or of the next.

    for problem in Continuous(sampler, rows=64)(problems, ready): ...     # in order, each with all its completions

A prompt is read once, and its keys and values are copied into the rows of its programs (slots.py). Problems leave in the
order in which they came; one that waits for a long program holds up at most AHEAD batches of programs behind it, so that
memory does not grow with the file. `ready()` is false where the next problem would have to be waited for: meanwhile the rows in
hand go on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch

from rrk.generation.problems import Problem, uniforms
from rrk.generation.slots import Prompt, Slots

AHEAD = 8  # batches of programs that are in hand, or drawn and waiting for an earlier problem
TOGETHER = 8  # prompts are read for so many parts of the rows ahead: several cost less than one at a time


@dataclass(eq=False)
class Row:
    """A program that is being drawn."""

    problem: Problem
    number: int
    stream: list[float]
    ids: list[int] = field(default_factory=list)
    logprob: float = 0.0

    @property
    def before(self) -> int:
        """Tokens before the one that the next step reads."""
        return len(self.problem.head) - 1 + len(self.ids)

    @property
    def token(self) -> int:
        return self.ids[-1] if self.ids else self.problem.head[-1]


class Continuous:
    """One run over many problems. Raises RrkError where there is not memory for one program."""

    def __init__(self, sampler, rows: int):
        self.sampler, self.rows = sampler, rows
        self.slots = Slots(sampler.model)
        self._running: list[Row] = []
        self._free: list[int] = []  # places of rows that ended, ascending
        self._todo: deque[tuple[Problem, int]] = deque()
        self._read: dict[Problem, tuple[Prompt, int]] = {}  # and how many of its programs have still to begin
        self._waiting: deque[Problem] = deque()

    def __call__(self, problems: Iterator[Problem], ready: Callable[[], bool]) -> Iterator[Problem]:
        """Draw all; problems in their order, as soon as they and those before them are done."""
        more = True
        while more or self._waiting:
            more = more and self._take(problems, ready)
            try:
                self._begin()
                if self._running:
                    self._step()
            except (RuntimeError, MemoryError) as error:
                self.rows = self.sampler.less_memory(error, max(len(self._running), 1))
                self._start_over()
            while self._waiting and self._waiting[0].done:
                yield self._waiting.popleft()

    def _take(self, problems: Iterator[Problem], ready: Callable[[], bool]) -> bool:
        """Take problems for the free rows and a few more; False when there are no more."""
        want = self.rows - len(self._running) + len(self._free)
        if len(self._todo) >= want:
            return True
        want += self.rows // TOGETHER
        held = sum(len(problem.drawn) for problem in self._waiting)
        while len(self._todo) < want and held < AHEAD * self.rows:
            if self._waiting and not ready():
                break
            problem = next(problems, None)
            if problem is None:
                return False
            self._waiting.append(problem)
            self._todo += [(problem, number) for number in range(len(problem.drawn))]
            held += len(problem.drawn)
        return True

    @torch.no_grad()
    def _begin(self) -> None:
        """Fill free rows with the next programs; rows that find none are closed up."""
        count = min(len(self._todo), self.rows - len(self._running) + len(self._free))
        if count:
            self._read_prompts(count)
            places = (self._free + list(range(len(self._running), len(self._running) + count)))[:count]
            next_ones = [self._todo[n] for n in range(count)]
            self.slots.put(places, [self._read[problem][0] for problem, _ in next_ones])
            for place, (problem, number) in zip(places, next_ones, strict=True):
                self._todo.popleft()
                row = Row(problem, number, uniforms(problem.asked.seeds[number], self.sampler.max_tokens).tolist())
                self._running[place : place + 1] = [row]  # in place of the one that ended, or behind the last
                prompt, left = self._read.pop(problem)
                if left > 1:
                    self._read[problem] = (prompt, left - 1)
            self._free = self._free[count:]
        if self._free:
            self._close_up()

    def _read_prompts(self, count: int) -> None:
        """Read the prompts of the next programs, with those of a few more, if one is not read yet."""
        if all(self._todo[n][0] in self._read for n in range(count)):
            return
        fresh = [p for p in dict.fromkeys(problem for problem, _ in self._todo) if p not in self._read]
        counts = dict.fromkeys(fresh, 0)
        for problem, _ in self._todo:
            if problem in counts:
                counts[problem] += 1
        for problem, prompt in zip(fresh, self.slots.read([p.head for p in fresh]), strict=True):
            self._read[problem] = (prompt, counts[problem])

    def _close_up(self) -> None:
        """Rows from the end move into the free places."""
        free, moves = self._free, []
        rows = self._running
        while free:
            if free[-1] == len(rows) - 1:
                free.pop()
            else:
                moves.append((len(rows) - 1, free[0]))
                rows[free.pop(0)] = rows[-1]
            rows.pop()
        if moves:
            longest = max(row.before for row in rows)
            self.slots.move([source for source, _ in moves], [target for _, target in moves], longest)
        if rows:
            self.slots.fit(len(rows), max(row.before for row in rows) + 1)

    @torch.no_grad()
    def _step(self) -> None:
        """One token for every row."""
        rows, sampler = self._running, self.sampler
        logits = self.slots.step([row.token for row in rows], [row.before for row in rows])
        uniform = torch.tensor([row.stream[len(row.ids)] for row in rows], dtype=torch.float64, device=sampler.device)
        tokens, logprobs = sampler.pick(logits, uniform)
        for place, (token, logprob) in enumerate(zip(tokens.tolist(), logprobs.tolist(), strict=True)):
            row = rows[place]
            row.ids.append(token)
            row.logprob += logprob
            finish = row.problem.finish(row.ids, sampler.eos)
            if finish:
                row.problem.end(row.number, row.ids, finish, row.logprob, sampler.tokenizer)
                self._free.append(place)

    def _start_over(self) -> None:
        """All rows go back to the front of the line. Their own random streams give the same programs again."""
        ended = set(self._free)
        self._todo.extendleft(
            (row.problem, row.number) for place, row in reversed([*enumerate(self._running)]) if place not in ended
        )
        self._running, self._free, self._read = [], [], {}
        self.slots.forget()
