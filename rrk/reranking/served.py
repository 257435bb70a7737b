"""Scores by a server that holds the reranker: `vllm serve runs/reranker`, with `--runner pooling` where it is a classifier.

    served = Served.load("runs/reranker", "http://localhost:8000/v1", key=None, jobs=8, timeout=600, note=print)
    for problem, scores in served(problems): ...            # in order, several problems asked at a time
    Served.load("Qwen/Qwen2.5-Coder-32B", url, zero_shot="likelihood")        # what an untrained generator thinks

The rendering stays here: the server is sent token ids, so that a program is read as in training. A classifier's score is asked of
/classify, or of /pooling where it has no such thing; a likelihood of /completions, which echoes the text with its tokens'
log-probabilities. Before anything else the server scores the folder's golden programs: they say whether it holds that model, and
whether it gives raw logits or their sigmoid. Scores then equal the local ones within the rounding of the server's dtype.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rrk.errors import RrkError, UsageError
from rrk.generation import checkpoints
from rrk.generation.http import TRIES, Client, Status, side_by_side
from rrk.reranking import record
from rrk.reranking.render import Renderer, Rendering
from rrk.reranking.scorer import LONGEST, TOLERANCE, ZERO_SHOT, Note, Question, question

AT_ONCE = 64  # texts a request
ENDPOINTS = ("/classify", "/pooling")
Text = tuple[tuple[int, ...], int]  # token ids, and where those begin whose likelihood is asked for


class Served:
    """A reranker behind HTTP. `renderer` and `probability` are those of the folder."""

    dtype = "the server's"

    def __init__(
        self,
        client: Client,
        name: str,
        renderer: Renderer,
        calibration: tuple[float, float] | None,
        jobs: int,
    ):
        self._client, self._name, self._jobs = client, name, jobs
        self.renderer, self.calibration = renderer, calibration
        self._endpoint = ENDPOINTS[0]
        self._raw: Callable[[float], float] = float
        self._shift = 0.0

    @classmethod
    def load(
        cls,
        folder: str | Path,
        base_url: str,
        key: str | None = None,
        jobs: int = 8,
        timeout: float = 600.0,
        note: Note = lambda text: None,
        tries: int = TRIES,
        first_pause: float = 1.0,
        zero_shot: str | None = None,
    ) -> Served:
        """Read how the folder's model reads, find it on the server, and compare the golden scores.

        zero_shot: "likelihood", of a generator that need not have been trained as a reranker: there is nothing to compare with.
        UsageError for a folder that is no reranker of ours; RrkError where the server gives other scores, or none.
        """
        found = record.read(folder)
        if found is None and not zero_shot:
            raise UsageError(
                f"-m {folder}: with --base-url give the folder of `rrk train-reranker` that the server holds"
            )
        rendering = found.rendering if found else replace(ZERO_SHOT[zero_shot or ""], max_length=LONGEST)
        if rendering.pooling == "mean":
            raise UsageError(
                "a reranker with mean pooling cannot be served: its score is not the classifier's own output"
            )
        if zero_shot and rendering.pooling != zero_shot:
            raise UsageError(f"{folder}: a trained reranker without a generator's head; leave out --method {zero_shot}")
        # The endpoints stand beside /v1, not below it.
        root = base_url.rstrip("/").removesuffix("/v1")
        client = Client(root, key, timeout, note, tries, first_pause)
        renderer = _renderer(folder, rendering)
        # One that does not list its models is asked by the folder's name, and not for three minutes.
        name = _model(Client(root, key, timeout, note, min(tries, 2), first_pause), str(folder))
        served = cls(client, name, renderer, found.calibration if found else None, jobs)
        if found is not None:
            served.check_golden(found.golden, str(folder))
        return served

    def __call__(
        self,
        problems: Iterator[Sequence[dict[str, Any]]],
        score: Callable[[Any, Question], list[float]] = lambda served, asked: served.score(*asked),
    ) -> Iterator[tuple[Any, list[float]]]:
        """Each problem with its candidates' scores; `score` as reviewer.score has it."""
        try:
            yield from side_by_side(problems, lambda problem: score(self, question(problem)), self._jobs)
        finally:
            self._client.closed = True

    def score(
        self, prompt: str, programs: Sequence[str], language: str | None = None, full: bool | Sequence[bool] = False
    ) -> list[float]:
        """Raw scores of one problem's programs, in their order."""
        return self.score_many([Question(prompt, programs, language, full)])[0]

    def score_many(self, questions: Sequence[Question]) -> list[list[float]]:
        """Raw scores of several problems' programs; the same text is asked for once."""
        asked: list[list[Text]] = [[(text.ids, text.first) for text in self.renderer.render(*one)] for one in questions]
        distinct = list(dict.fromkeys(text for texts in asked for text in texts))
        ask = self._likelihoods if self.renderer.rendering.pooling == "likelihood" else self._classify
        known: dict[Text, float] = {}
        for start in range(0, len(distinct), AT_ONCE):
            part = distinct[start : start + AT_ONCE]
            known |= zip(part, ask(part), strict=True)
        return [[self._raw(known[text]) + self._shift for text in texts] for texts in asked]

    def probability(self, scores: Sequence[float]) -> list[float]:
        """Of passing: record.probability."""
        return record.probability(self.calibration, scores)

    def check_golden(self, expected: Sequence[float], name: str) -> None:
        """Learn from the golden programs what the server's numbers are. RrkError if they are not this model's."""
        cuts = self.renderer.cuts.copy()
        found = [score for golden in record.GOLDEN for score in self.score(*Question(*golden))]
        self.renderer.cuts = cuts
        # As coarse as a server's dtype may be; what fewer bits move alike is taken off, as in Scorer.check_golden.
        allowed = TOLERANCE["bfloat16"] * (1 + max(map(abs, expected), default=0.0))
        readings: list[Callable[[float], float]] = [float]
        if all(0 < value < 1 for value in found):
            readings.append(_logit)
        for raw in readings:
            scores = [raw(value) for value in found]
            shift = sum(expected) / len(expected) - sum(scores) / len(scores)
            if abs(shift) < TOLERANCE["float32"]:
                shift = 0.0
            if all(abs(was - now - shift) <= allowed for was, now in zip(expected, scores, strict=True)):
                self._raw, self._shift = raw, shift
                return
        same = len({round(value, 6) for value in found}) == 1
        why = "it gives the same number for every program" if same else "its scores of known programs are others"
        raise RrkError(
            f"{self._client.url}: does not hold {name}: {why} ({found[0]:.4g} for {expected[0]:.4g}); serve that folder, as in "
            f"`vllm serve {name}{'' if self.renderer.rendering.pooling == 'likelihood' else ' --runner pooling'}`"
        )

    def _likelihoods(self, texts: Sequence[Text]) -> list[float]:
        """Mean log-probabilities. One token is drawn behind each text and left: not every server takes max_tokens 0."""
        body: dict[str, Any] = {"model": self._name, "prompt": [list(ids) for ids, _ in texts]}
        body |= {"echo": True, "logprobs": 1, "max_tokens": 1, "temperature": 1.0, "top_p": 1.0}
        choices = self._client.post("/v1/completions", body, f"{len(texts)} programs").get("choices")
        return [self._echoed(text, one) for text, one in zip(texts, self._in_order(choices, len(texts)), strict=True)]

    def _echoed(self, text: Text, choice: dict[str, Any]) -> float:
        ids, first = text
        logprobs = (choice.get("logprobs") or {}).get("token_logprobs")
        own = logprobs[first : len(ids)] if isinstance(logprobs, list) and len(logprobs) >= len(ids) else []
        if not own or not all(isinstance(one, (int, float)) for one in own):
            raise RrkError(
                f"{self._client.url}/v1/completions: no log-probabilities of the text that was sent; serve it by `vllm serve`, "
                "which knows echo"
            )
        return self._number(sum(own) / len(own))

    def _classify(self, texts: Sequence[Text]) -> list[float]:
        # use_activation is vLLM's name, activation its older one.
        body: dict[str, Any] = {"model": self._name, "input": [list(ids) for ids, _ in texts]}
        body |= {"use_activation": False, "activation": False, "add_special_tokens": False}
        what = f"{len(texts)} programs"
        try:
            answer = self._client.post(self._endpoint, body, what)
        except Status as error:
            if error.code not in (404, 405) or self._endpoint == ENDPOINTS[-1]:
                raise
            self._endpoint = ENDPOINTS[-1]
            answer = self._client.post(self._endpoint, body, what)
        found = self._in_order(answer.get("data"), len(texts))
        return [self._number(one.get("probs", one.get("data"))) for one in found]

    def _in_order(self, data: Any, count: int) -> list[dict[str, Any]]:
        """A list's objects by their index, where they have one."""
        if not isinstance(data, list) or len(data) != count or not all(isinstance(one, dict) for one in data):
            raise RrkError(f"{self._client.url}: {count} scores are expected; does it serve this model?")
        ordered = sorted(
            enumerate(data), key=lambda one: index if isinstance(index := one[1].get("index"), int) else one[0]
        )
        return [one for _, one in ordered]

    def _number(self, value: Any) -> float:
        """The one number of a text; of one a token, the last token's."""
        while isinstance(value, list) and value:
            value = value[-1]
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise RrkError(f"{self._client.url}{self._endpoint}: a score is no number ({value!r})")
        return float(value)


def _renderer(folder: str | Path, rendering: Rendering) -> Renderer:
    with checkpoints.reading(str(folder)):
        return Renderer(checkpoints.find(str(folder)).tokenizer(), rendering, encoder=rendering.pooling == "cls")


def _model(client: Client, folder: str) -> str:
    """What the server calls the model: the folder, as vLLM does unless told otherwise, or its only one."""
    try:
        listed = client.get("/v1/models").get("data")
    except Status:
        return folder
    names = [one["id"] for one in listed or () if isinstance(one, dict) and isinstance(one.get("id"), str)]
    if folder in names or not names:
        return folder
    if len(names) == 1:
        return names[0]
    raise RrkError(f"{client.url}: has {', '.join(names)}, and none is called {folder}; serve it under that name")


def _logit(probability: float) -> float:
    return math.log(probability) - math.log1p(-probability)
