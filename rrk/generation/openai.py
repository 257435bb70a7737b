"""The engine `openai`: programs from a server that speaks OpenAI's completions protocol, such as `vllm serve MODEL`.

What is tried again, and what ends the run: rrk/generation/http.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from rrk import seeds
from rrk.errors import RrkError
from rrk.generation.http import TRIES, Client, Status, side_by_side
from rrk.generation.tasks import Order, Sample, Task, Tasks


class Engine:
    """One server. `first_pause` is the first wait in seconds; it doubles."""

    about: dict[str, str] = {}  # noqa: RUF012 - a server does not tell
    cost: dict[str, Any] = {"device": "server"}  # noqa: RUF012 - nor its model's size

    def __init__(
        self,
        order: Order,
        base_url: str,
        key: str | None,
        jobs: int,
        timeout: float,
        notice: Callable[[str], None],
        tries: int = TRIES,
        first_pause: float = 1.0,
    ):
        self._order, self._jobs = order, jobs
        self._path = "/chat/completions" if order.chat else "/completions"
        self._client = Client(base_url, key, timeout, notice, tries, first_pause)
        self._url = self._client.url + self._path
        self._notice, self._logprobs = notice, True  # asked for, until the server says that it has none

    def __call__(self, tasks: Tasks) -> Iterator[tuple[Task, list[Sample]]]:
        self._client.closed = False
        try:
            yield from side_by_side(tasks, self._sample, self._jobs)
        finally:
            self._client.closed = True

    def _sample(self, task: Task) -> list[Sample]:
        order = self._order
        made: list[Sample] = []
        while len(made) < len(task.seeds):
            # Servers that cap n, or know no n, give fewer than asked for: ask for the rest, with another seed.
            want = len(task.seeds) - len(made)
            body: dict[str, Any] = {
                "model": order.model,
                **({"messages": [*task.messages]} if order.chat else {"prompt": task.prompt}),
                "n": want,
                "temperature": order.temperature,
                "top_p": order.top_p,
                **({"top_k": order.top_k} if order.top_k else {}),
                "max_tokens": order.max_tokens,
                **({"logprobs": True if order.chat else 0} if self._logprobs else {}),
                "seed": seeds.derive(order.seed, task.task_id, task.first + len(made)) % (1 << 31),
            }
            if task.stop:
                body["stop"] = list(task.stop)
            answer = self._post(body, f"problem '{task.task_id}'")
            choices, used = answer.get("choices"), answer.get("usage")
            read = used.get("prompt_tokens") if isinstance(used, dict) else None
            read = read if type(read) is int else None
            if not isinstance(choices, list) or not choices or not all(isinstance(c, dict) for c in choices):
                raise RrkError(
                    f"{self._url}: an answer without choices for '{task.task_id}'; is it a completions server?"
                )
            drawn = [_read(choice, task.stop, self._url, order.chat) for choice in sorted(choices, key=_index)[:want]]
            made += [replace(sample, prompt_tokens=read) for sample in drawn]
        return made

    def _post(self, body: dict[str, Any], what: str) -> dict[str, Any]:
        """The answer; without log-probabilities where the server refuses them (llama.cpp's, unless told --logits_all)."""
        try:
            return self._client.post(self._path, body, what, vain="logprobs")
        except Status as error:
            if "logprobs" not in body or "logprobs" not in str(error):
                raise
            if self._logprobs:
                self._notice(f"{error}; asking without: logprob and tokens will be null")
            self._logprobs = False
            return self._client.post(self._path, {k: v for k, v in body.items() if k != "logprobs"}, what)


def _index(choice: dict[str, Any]) -> int:
    index = choice.get("index")
    return index if isinstance(index, int) else 0


def _read(choice: dict[str, Any], stops: tuple[str, ...], url: str, chat: bool = False) -> Sample:
    message = choice.get("message")
    text = message.get("content") if chat and isinstance(message, dict) else choice.get("text")
    if not isinstance(text, str):
        # An empty program with an EOS would be learnt from.
        hint = "; it answers as a chat server does: --chat asks it so" if message is not None and not chat else ""
        raise RrkError(f"{url}: an answer without text (finish_reason {choice.get('finish_reason')!r}){hint}")
    # Servers cut stop strings off; those that do not are helped.
    at = min((at for stop in stops if (at := text.find(stop)) >= 0), default=-1)
    told = found if isinstance(found := choice.get("logprobs"), dict) else {}
    numbers = told.get("token_logprobs")
    if chat and isinstance(told.get("content"), list):
        numbers = [token.get("logprob") for token in told["content"] if isinstance(token, dict)]
    known = isinstance(numbers, list) and all(isinstance(x, (int, float)) for x in numbers)
    reason = choice.get("finish_reason")
    if at >= 0:
        finish = "stop"  # whatever the server went on to: it knows no stop strings
    elif reason not in (None, "stop", "eos", "eos_token"):
        finish = str(reason)  # length; abort, content_filter and the like: no end of the program's own
    else:
        # Both EOS and a stop string are called "stop"; vLLM tells them apart in stop_reason (the string, or null for EOS).
        finish = "stop" if isinstance(choice.get("stop_reason"), str) else "eos"
    text = text if at < 0 else text[:at]
    return Sample.of(text, numbers, finish) if known and numbers else Sample(text, None, None, finish)
