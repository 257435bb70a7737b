"""The engine `openai`: programs from a server that speaks OpenAI's completions protocol, such as `vllm serve MODEL`.

Standard library only. Requests run side by side and results come in the order of tasks. What is worth another try (no
connection, 408, 409, 429, 5xx) is tried again with growing pauses; what is not ends the run with the server's own words.
"""

from __future__ import annotations

import json
import random
import socket
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from http.client import HTTPException
from typing import Any

from rrk import seeds
from rrk.errors import RrkError
from rrk.generation.tasks import Order, Sample, Task, Tasks

AGAIN = {408, 409, 429, 500, 502, 503, 504, 529}
TRIES = 8  # with pauses of 1, 2, 4, ... 60 s: about three minutes, enough for a server that restarts
LONGEST_PAUSE = 60.0
# A server that has never answered and refuses connections is not there: two more tries, not three minutes.
FIRST_TRIES = 3


class Engine:
    """One server. `first_pause` is the first wait in seconds; it doubles."""

    about: dict[str, str] = {}  # noqa: RUF012 - a server does not tell

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
        self._order, self._jobs, self._timeout, self._notice = order, jobs, timeout, notice
        self._url = base_url.rstrip("/") + ("/chat/completions" if order.chat else "/completions")
        self._headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        self._tries, self._first_pause = tries, first_pause
        self._closed = self._answered = False

    def __call__(self, tasks: Tasks) -> Iterator[tuple[Task, list[Sample]]]:
        pool = ThreadPoolExecutor(self._jobs)
        waiting: deque[tuple[Task, Future[list[Sample]]]] = deque()
        try:
            ended = False
            while waiting or not ended:
                # Take more while there is room, but never wait for input that a finished answer could be written before.
                while not ended and len(waiting) < 2 * self._jobs and (not waiting or tasks.ready()):
                    task = next(tasks, None)
                    if task is None:
                        ended = True
                    else:
                        waiting.append((task, pool.submit(self._sample, task)))
                if waiting:
                    task, future = waiting.popleft()
                    yield task, future.result()
        finally:
            self._closed = True
            pool.shutdown(wait=False, cancel_futures=True)

    def _sample(self, task: Task) -> list[Sample]:
        order = self._order
        made: list[Sample] = []
        while len(made) < order.samples:
            # Servers that cap n, or know no n, give fewer than asked for: ask for the rest, with another seed.
            want = order.samples - len(made)
            body: dict[str, Any] = {
                "model": order.model,
                **({"messages": [*task.messages]} if order.chat else {"prompt": task.prompt}),
                "n": want,
                "temperature": order.temperature,
                "top_p": order.top_p,
                "max_tokens": order.max_tokens,
                "logprobs": True if order.chat else 0,
                "seed": seeds.derive(order.seed, task.task_id, len(made)) % (1 << 31),
            }
            if task.stop:
                body["stop"] = list(task.stop)
            choices = self._post(body, task.task_id).get("choices")
            if not isinstance(choices, list) or not choices:
                raise RrkError(
                    f"{self._url}: an answer without choices for '{task.task_id}'; is it a completions server?"
                )
            made += [
                _read(choice, task.stop, self._url, order.chat)
                for choice in sorted(choices, key=lambda c: c.get("index", 0))[:want]
            ]
        return made

    def _post(self, body: dict[str, Any], task_id: str) -> dict[str, Any]:
        data = json.dumps(body).encode()
        pause = self._first_pause
        for left in reversed(range(self._tries)):
            try:
                request = urllib.request.Request(self._url, data, self._headers, method="POST")
                with urllib.request.urlopen(request, timeout=self._timeout) as answer:
                    self._answered = True
                    return json.loads(answer.read())
            except urllib.error.HTTPError as error:
                self._answered = True
                said = _message(error.read())
                if error.code not in AGAIN or not left:
                    raise RrkError(f"{self._url}: {error.code} {said} (problem '{task_id}')") from None
                wait, why = _retry_after(error.headers.get("Retry-After"), pause), f"{error.code} {said}"
            except (OSError, HTTPException, ValueError) as error:
                why = str(getattr(error, "reason", error)) or type(error).__name__
                absent = isinstance(getattr(error, "reason", error), (ConnectionRefusedError, socket.gaierror))
                if not left or (absent and not self._answered and self._tries - left >= FIRST_TRIES):
                    raise RrkError(f"{self._url}: {why}; is the server running, and --base-url right?") from None
                wait = pause
            if self._closed:
                break
            self._notice(f"{self._url}: {why}; trying again in {wait:.0f} s")
            # Not all at once: whoever was refused together would come back together.
            time.sleep(wait * random.uniform(0.8, 1.2))
            pause = min(2 * pause, LONGEST_PAUSE)
        raise RrkError(f"{self._url}: given up")


def _read(choice: dict[str, Any], stops: tuple[str, ...], url: str, chat: bool = False) -> Sample:
    message = choice.get("message")
    text = message.get("content") if chat and isinstance(message, dict) else choice.get("text")
    if not isinstance(text, str):
        # An empty program with an EOS would be learnt from.
        hint = "; it answers as a chat server does: --chat asks it so" if message is not None and not chat else ""
        raise RrkError(f"{url}: an answer without text (finish_reason {choice.get('finish_reason')!r}){hint}")
    # Servers cut stop strings off; those that do not are helped.
    at = min((at for stop in stops if (at := text.find(stop)) >= 0), default=-1)
    told = choice.get("logprobs") or {}
    numbers = told.get("token_logprobs")
    if chat and isinstance(told.get("content"), list):
        numbers = [token.get("logprob") for token in told["content"] if isinstance(token, dict)]
    known = isinstance(numbers, list) and all(isinstance(x, (int, float)) for x in numbers)
    reason = choice.get("finish_reason")
    if reason not in (None, "stop", "eos", "eos_token"):
        finish = str(reason)  # length; abort, content_filter and the like: no end of the program's own
    else:
        # Both EOS and a stop string are called "stop"; vLLM tells them apart in stop_reason (the string, or null for EOS).
        finish = "stop" if at >= 0 or isinstance(choice.get("stop_reason"), str) else "eos"
    return Sample(
        text if at < 0 else text[:at],
        round(float(sum(numbers)), 6) if known and numbers else None,
        len(numbers) if known and numbers else None,
        finish,
    )


def _message(body: bytes) -> str:
    text = body.decode("utf-8", "replace").strip()
    try:
        said = json.loads(text)
        said = said.get("error", said) if isinstance(said, dict) else said
        text = str(said.get("message", said) if isinstance(said, dict) else said)
    except ValueError:
        pass
    return " ".join(text.split())[:300]


def _retry_after(header: str | None, pause: float) -> float:
    try:
        return min(max(float(header or pause), 0.0), LONGEST_PAUSE)
    except ValueError:
        return pause
