"""What is asked of a model, and the rows that come of it; the same for every engine.

An engine is called with an iterator of tasks and yields, in order, (task, n drawn programs):

    for task, drawn in engine(tasks): ...        # task: Task; drawn: list of Sample
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from rrk import rows, seeds
from rrk.errors import RowError
from rrk.generation import chat

# What travels with candidates of a problem's own fields. A list of what may not would miss the next benchmark's name for its
# tests or its answer.
PASSED_ON = frozenset(
    [
        "entry_point",
        "stop_tokens",
        "split",
        "difficulty",
        "source",
        "original",
        "doctests",
        "prompt_terminology",
        "starter_code",
        "run_as_main",
        "question_id",
        "contest_id",
        "platform",
        "tags",
        "round",
    ]
)
# Where CodeT (Chen et al. 2022) ends a test: at what cannot belong to an assert any more.
TEST_STOPS = ("\ndef ", "\nclass ", "\nif ", "\nprint", "\n#")


@dataclass(frozen=True)
class Order:
    """What all problems of a run have in common. Everything here changes the output."""

    model: str
    samples: int = 20
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int = 256
    seed: int = 0
    stop: tuple[str, ...] = ()
    tests: bool = False
    chat: bool = False
    system: str = ""
    instruction: str = ""


@dataclass(frozen=True)
class Task:
    """One problem as the model sees it."""

    row: dict[str, Any]
    task_id: str
    language: str
    prompt: str
    stop: tuple[str, ...]
    seeds: tuple[int, ...]
    messages: tuple[dict[str, str], ...] = ()  # instead of the prompt, where a chat model is asked
    ids: tuple[int, ...] | None = None  # the same as tokens, once an engine has made them
    first: int = 0  # the number of its first program; `seeds` are those of the programs from there on


@dataclass(frozen=True)
class Sample:
    """One drawn text; logprob, prob and tokens are None where a server does not tell."""

    text: str
    logprob: float | None  # nats, the sum over its tokens
    tokens: int | None
    finish: str
    prompt_tokens: int | None = None  # of the prompt, which is read once for all programs of a problem
    prob: float | None = None  # the sum over its tokens of each one's probability
    evidence: dict[str, Any] | None = None  # what running it on its prompt's examples has shown (until.py)

    @classmethod
    def of(cls, text: str, logprobs: Sequence[float], finish: str, prompt_tokens: int | None = None) -> Sample:
        """A text whose tokens' log-probabilities are known; a broken server's may be above 0, or no number."""
        prob = sum(math.exp(min(value, 0.0)) for value in logprobs)
        return cls(text, round(float(sum(logprobs)), 6), len(logprobs), finish, prompt_tokens, round(prob, 6))


class Engine(Protocol):
    """Draws programs, one for each of a task's seeds; may read ahead (`tasks.ready()` is true when next() does not wait).

    Tasks leave in their order; where `tasks.any_order` is true they may leave as they are done.
    """

    about: dict[str, str]  # what the summary says of it
    cost: dict[str, Any]  # of its model (rrk/costs.py); tokens are counted here

    def __call__(self, tasks: Tasks) -> Iterator[tuple[Task, list[Sample]]]: ...


def task(row: dict[str, Any], order: Order) -> Task:
    """The task of a Problem row; RowError where it has no prompt, or no function to write tests for."""
    problem = rows.problem(row, tests=False)
    try:
        problem.prompt.encode()
    except UnicodeEncodeError as error:
        raise RowError(f"field 'prompt' is not valid text: {error.reason}", rows.where(row)) from None
    prompt, stop, purpose = problem.prompt, problem.stop_tokens, "sample"
    said: tuple[dict[str, str], ...] = ()
    if order.chat:
        # A problem's stop tokens end a continuation; an answer ends by itself.
        said, stop = tuple(chat.messages(problem, order.system, order.instruction)), ()
    if order.tests:
        prompt, stop, purpose = tests_prompt(problem, row), TEST_STOPS, "tests"
    # Independent of engine, batch, shard and resume: who asks again for the same completion gets the same stream.
    streams = tuple(seeds.derive(order.seed, purpose, problem.task_id, i) for i in range(order.samples))
    return Task(row, problem.task_id, problem.language, prompt, (*order.stop, *stop), streams, said)


def validate(row: dict[str, Any], order: Order) -> None:
    """RowError for a row that no task can be made of."""
    task(row, order)


def tests_prompt(problem: rows.Problem, row: dict[str, Any]) -> str:
    """CodeT's prompt (Chen et al. 2022, section 3): the stub, then `# check the correctness of NAME` and `assert `."""
    name = problem.function
    if problem.language != "py" or not name:
        raise RowError(
            "--for tests needs a Python problem with 'entry_point' or a function in its prompt", rows.where(row)
        )
    return f"{problem.prompt.rstrip()}\n    pass\n\n# check the correctness of {name}\nassert "


def output_rows(task: Task, drawn: list[Sample], order: Order, parameters: int | None = None) -> list[dict[str, Any]]:
    """Candidate rows; with --for tests one row with all samples. `parameters`: of the model, where that is known."""
    how = {name: getattr(order, name) for name in ("model", "temperature", "top_p", "max_tokens", "seed")}
    how |= {"top_k": order.top_k} if order.top_k else {}
    head = {"task_id": task.task_id, "language": task.language, "prompt": task.prompt}
    extra = {key: value for key, value in task.row.items() if key in PASSED_ON}
    if order.tests:
        return [{**head, **extra, "samples": [sample.text for sample in drawn], **how}]
    made = []
    for i, sample in enumerate(drawn, task.first):
        own = {"completion_id": i, "completion": sample.text, **how}
        if order.chat:
            own |= chat.candidate(sample.text, rows.problem(task.row, tests=False))
        # Of a chat answer they are the whole answer's.
        own |= {"logprob": sample.logprob, "prob": sample.prob, "tokens": sample.tokens, "finish_reason": sample.finish}
        # What an answer cost can be told from rows alone, whatever pipes they went through.
        own |= {"prompt_tokens": sample.prompt_tokens} if sample.prompt_tokens is not None else {}
        own |= {"parameters": parameters} if parameters is not None else {}
        own |= {"evidence": sample.evidence, "until": "examples"} if sample.evidence is not None else {}
        made.append({**head, **own, **{key: value for key, value in extra.items() if key not in own}})
    return made


class Tasks:
    """An iterator of tasks over a stage's items."""

    any_order = False

    def __init__(self, items, order: Order):
        self._items, self._order = items, order

    def __iter__(self) -> Tasks:
        return self

    def __next__(self) -> Task:
        return task(next(self._items), self._order)

    def ready(self) -> bool:
        """True if next() returns, or ends, at once."""
        return self._items.ready()


class Work:
    """What the stage runs: items in, a list of rows a problem out; the engine starts with the first problem."""

    def __init__(self, order: Order, start: Callable[[], Engine]):
        self._order, self._start = order, start
        self._finished: Counter[str] = Counter()
        self._tokens = self._read = 0
        self._engine: Engine | None = None
        self._ahead: Callable[[float], None] | None = None

    def watch(self, ahead: Callable[[float], None]) -> None:
        """`ahead` hears of programs as they end, in problems: these leave in order, and the first may take longest."""
        self._ahead = ahead

    @property
    def figures(self) -> dict[str, Any]:
        return {
            **(self._engine.about if self._engine else {}),
            "tokens": self._tokens,
            **{f"ended by {k}": v for k, v in sorted(self._finished.items())},
            "cost": {
                **(self._engine.cost if self._engine else {}),
                "tokens_read": self._read + getattr(self._engine, "reread", 0),
                "tokens_written": self._tokens,
            },
        }

    def __call__(self, items):
        first = next(items, None)
        if first is None:
            return
        engine = self._engine = self._start()
        size = engine.cost.get("parameters")
        ahead, watch = self._ahead, getattr(engine, "watch", None)
        if ahead is not None and watch is not None:
            watch(lambda count: ahead(count / self._order.samples))
        for done, drawn in engine(Tasks(_Pushed(first, items), self._order)):
            self._finished.update(sample.finish for sample in drawn)
            self._tokens += sum(sample.tokens or 0 for sample in drawn)
            self._read += max((sample.prompt_tokens or 0 for sample in drawn), default=0)
            yield output_rows(done, drawn, self._order, size)


class _Pushed:
    """An item already taken, before the rest."""

    def __init__(self, first, rest):
        self._first, self._rest = [first], rest

    def __iter__(self):
        return self

    def __next__(self):
        return self._first.pop() if self._first else next(self._rest)

    def ready(self) -> bool:
        return bool(self._first) or self._rest.ready()
