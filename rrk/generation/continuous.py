"""Continuous batching: a row that ends is replaced at once by the next program, of the same problem or of the next.

    for problem in Continuous(sampler, rows=64)(problems, ready): ...     # in order, each with all its completions

A prompt is read once, and its keys and values are copied into the rows of its programs (slots.py). Problems leave in the
order in which they came; one that waits for a long program holds up at most AHEAD batches of programs behind it, so that
memory does not grow with the file. Nor does it with a long prompt: there is memory for PROMPT tokens before every row, and
while longer ones are in hand fewer are drawn at a time. `ready()` is false where the next problem would have to be waited
for: meanwhile the rows in hand go on. With ordered=False problems leave as they are done, and prompts are kept, for who looks
at a program before asking for the next of the same problem (until.py).
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice

import torch

from rrk.generation.problems import Problem, uniforms
from rrk.generation.shelf import Prompt, width
from rrk.generation.slots import Slots

AHEAD = 8  # batches of programs that are in hand, or drawn and waiting for an earlier problem
PROMPT = 256  # tokens of a prompt for which there is memory in every row
KEPT = 1 << 30  # bytes of prompts that are kept for programs that may still be asked for
TOGETHER = 8  # prompts are read for so many parts of the rows ahead: several cost less than one at a time


@dataclass(eq=False)
class Row:
    """A program that is being drawn."""

    problem: Problem
    number: int
    stream: list[float]
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)

    @property
    def token(self) -> int:
        return self.ids[-1] if self.ids else self.problem.head[-1]


def _width(problem: Problem) -> int:
    """Of the shelf that the longest of its programs ends on."""
    return width(len(problem.head) + problem.room - 2)


class Continuous:
    """One run over many problems. Raises RrkError where there is not memory for one program."""

    def __init__(self, sampler, rows: int, ordered: bool = True):
        self.sampler, self.rows = sampler, rows
        self._ordered = ordered
        self._kept: OrderedDict[tuple[int, ...], Prompt] = OrderedDict()  # by their tokens, the last used at the end
        self.slots = Slots(sampler.model)
        self._running: list[Row] = []  # in the order in which they began
        self._todo: deque[tuple[Problem, int]] = deque()
        self._read: dict[Problem, tuple[Prompt, int]] = {}  # and how many of its programs have still to begin
        self._waiting: deque[Problem] = deque()

    def __call__(self, problems: Iterator[Problem], ready: Callable[[], bool]) -> Iterator[Problem]:
        """Draw all; problems in their order, as soon as they and those before them are done, unless ordered=False."""
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
            for problem in [] if self._ordered else [problem for problem in self._waiting if problem.done]:
                self._waiting.remove(problem)
                yield problem

    def _take(self, problems: Iterator[Problem], ready: Callable[[], bool]) -> bool:
        """Take problems for the free rows and a few more; False when there are no more."""
        want = self.rows - len(self._running)
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
        """Fill free rows with the next programs."""
        count = self._fitting()
        if not count:
            return
        self._read_prompts(count)
        fresh, prompts = [], []
        for problem, number in (self._todo[n] for n in range(count)):
            fresh.append(Row(problem, number, uniforms(problem.asked.seeds[number], self.sampler.max_tokens).tolist()))
            prompt, left = self._read.pop(problem)
            if left > 1:
                self._read[problem] = (prompt, left - 1)
            prompts.append(prompt)
        self.slots.add(fresh, prompts)
        self._running += fresh
        for _ in fresh:
            self._todo.popleft()

    def _fitting(self) -> int:
        """How many of the next programs there are rows and memory for; one where none is in hand."""
        memory = self.rows * width(PROMPT + self.sampler.max_tokens - 1)
        held = sum(_width(row.problem) for row in self._running)
        count = 0
        for problem, _ in self._todo:
            held += _width(problem)
            at_a_time = len(self._running) + count
            if at_a_time == self.rows or (held > memory and at_a_time):
                break
            count += 1
        return count

    def _read_prompts(self, count: int) -> None:
        """Read the prompts of the next programs, with those of a few more, if one is not read yet."""
        if all(self._todo[n][0] in self._read for n in range(count)):
            return
        near = islice(self._todo, count + self.rows // TOGETHER)
        fresh = [p for p in dict.fromkeys(problem for problem, _ in near) if p not in self._read]
        counts = dict.fromkeys(fresh, 0)
        for problem, _ in self._todo:
            if problem in counts:
                counts[problem] += 1
        known = {p: kept for p in fresh if (kept := self._kept.get(tuple(p.head))) is not None}
        unread = [p for p in fresh if p not in known]
        known |= zip(unread, self.slots.read([p.head for p in unread]) if unread else [], strict=True)
        for problem in fresh:
            self._read[problem] = (known[problem], counts[problem])
        if not self._ordered:
            self._keep({tuple(problem.head): known[problem] for problem in fresh})
            self.sampler.count_read(unread)

    def _keep(self, prompts: dict[tuple[int, ...], Prompt]) -> None:
        """These were used last; those that were used longest ago go where they are too many."""
        self._kept |= prompts
        for head in prompts:
            self._kept.move_to_end(head)
        size = sum(prompt.keys.nbytes + prompt.values.nbytes for prompt in self._kept.values())
        while size > KEPT and len(self._kept) > 1:
            _, gone = self._kept.popitem(last=False)
            size -= gone.keys.nbytes + gone.values.nbytes

    @torch.no_grad()
    def _step(self) -> None:
        """One token for every row."""
        sampler = self.sampler
        rows: list[Row] = self.slots.line_up()
        logits = self.slots.step([row.token for row in rows])
        uniform = torch.tensor([row.stream[len(row.ids)] for row in rows], dtype=torch.float64, device=sampler.device)
        tokens, logprobs = sampler.pick(logits, uniform)
        ended = []
        for row, token, logprob in zip(rows, tokens.tolist(), logprobs.tolist(), strict=True):
            row.ids.append(token)
            row.logprobs.append(logprob)
            finish = row.problem.finish(row.ids, sampler.eos)
            if finish:
                row.problem.end(row.number, row.ids, finish, row.logprobs, sampler.tokenizer)
                self._running.remove(row)
                ended.append(row)
        self.slots.drop(ended)
        if ended:
            sampler.ended(len(ended))

    def _start_over(self) -> None:
        """All rows go back to the front of the line. Their own random streams give the same programs again."""
        self._todo.extendleft((row.problem, row.number) for row in reversed(self._running))
        self._running, self._read = [], {}
        self._kept.clear()
        self.slots.forget()
