"""Scores of programs by a trained reranker, with the work that candidates share done once.

    scorer = Scorer.load("runs/reranker", device="auto", dtype="auto")
    scorer.score(prompt, programs, "py")                    # raw logits, one a program
    scorer.score_many([Question(prompt, programs, "py"), ...])
    scorer.probability(scores)                              # Platt, where the reranker was calibrated

Identical texts are read once. Texts with the same beginning (the prompt) share its keys and values: several prompts are read
in one padded batch, then every program continues its own prompt's cache. What stands alone goes through plain batches sorted by
length. Batches hold a budget of tokens; when memory runs out the budget is halved and `note` is told. On loading, the record's
golden scores are computed again and must agree; where a model's cache does not give the plain scores, it is not used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch

from rrk import rows
from rrk.errors import RrkError, UsageError
from rrk.generation import dtypes, memory, packing
from rrk.reranking import network, record
from rrk.reranking.render import Renderer, Rendering

Ids = tuple[int, ...]
T = TypeVar("T")
Note = Callable[[str], None]

BUDGET = {"cpu": 4096, "cuda": 65536}  # tokens a batch
_EACH = {"cpu": 64, "cuda": 2048}  # tokens of padding that one batch less is worth; unmeasured on GPUs
# Of golden scores, times 1 + the largest.
TOLERANCE = {"float32": 1e-3, "float16": 1e-2, "bfloat16": 6e-2, "int8": 6e-2}
LONGEST = 4096  # tokens of a text under a model that rrk did not train
ZERO_SHOT = {"likelihood": Rendering(pooling="likelihood"), "judge": Rendering("judge")}  # how generators are read
_KEPT = 8  # a cached token takes about this much less memory and time than one that is read


class Question(NamedTuple):
    """One problem's programs. `full`: which of them stand alone (render.py)."""

    prompt: str
    programs: Sequence[str]
    language: str | None = None
    full: bool | Sequence[bool] = False


def question(problem: Sequence[dict[str, Any]]) -> Question:
    """A problem's candidate rows as what the scorer takes."""
    first = problem[0]
    return Question(
        str(first.get("prompt") or ""),
        [rows.completion(row) for row in problem],
        first.get("language"),
        [rows.is_full(row) for row in problem],
    )


class Scorer:
    """A model that is ready to score. `share=False` never uses a cache; `budget` is in tokens."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        rendering: Rendering,
        *,
        calibration: tuple[float, float] | None = None,
        budget: int | None = None,
        share: bool = True,
        note: Note = lambda text: None,
    ):
        self.model, self.tokenizer, self.calibration, self.note = model, tokenizer, calibration, note
        encoder = network.is_encoder(model.config)
        if encoder == (rendering.pooling in ("last", "likelihood")):
            kind = "encoder" if encoder else "decoder"
            raise UsageError(
                f"pooling '{rendering.pooling}' does not fit a {kind}: last or likelihood for decoders, cls or mean for encoders"
            )
        self._likelihood = rendering.pooling == "likelihood"
        self.renderer = Renderer(tokenizer, rendering, encoder=encoder)
        self.pad = network.pad_id(tokenizer)
        self.device = next(model.parameters()).device
        self.dtype = dtypes.name(model)
        self.budget = budget or BUDGET.get(self.device.type, BUDGET["cuda"])
        self.share = share and not encoder and _cache_is_plain(model.config)
        self._checked = not self.share
        self.shift = 0.0  # added to every score
        self.tokens_read = 0  # a shared prompt once
        self._window = packing.window(model.config)

    @classmethod
    def load(
        cls,
        path: str | Path,
        device: str = "auto",
        dtype: str = "auto",
        *,
        budget: int | None = None,
        note: Note = lambda text: None,
        zero_shot: str | None = None,
    ) -> Scorer:
        """Load and check. A classifier that rrk did not train is rendered by its chat template, if it has one.

        zero_shot: a generator that gives the score untrained: its "likelihood" of the program (which may be a reranker trained
        so), or as a "judge" that is asked.

        Raises RrkError where the checkpoint cannot be read, gives no single score, or gives other scores than when it was saved.
        """
        if not Path(path).exists() and str(path).startswith((".", "/")):
            raise UsageError(f"{path}: no such folder")
        found = record.read(path)
        if found is None and record.left_by_training(path):
            raise RrkError(
                f"{path}: `rrk train-reranker` worked here and did not end: {record.NAME}, which says how programs are read, "
                "is missing; give the same command again with --resume"
            )
        if zero_shot and found and found.rendering.pooling != zero_shot:
            raise UsageError(f"{path}: a trained reranker without a generator's head; leave out --method {zero_shot}")
        rendering = ZERO_SHOT[zero_shot] if zero_shot else found.rendering if found else None
        pooling = rendering.pooling if rendering else None
        model, tokenizer = network.load(path, device, dtype, pooling, judge=zero_shot == "judge")
        if found is None:
            if rendering is None:
                pooling = "cls" if network.is_encoder(model.config) else "last"
                template = "answer" if pooling == "last" and getattr(tokenizer, "chat_template", None) else "plain"
                note(f"{path}: not trained by rrk; rendered with the {template} template")
                rendering = Rendering(template, pooling=pooling)
            longest = min(network.longest(model, tokenizer) or 2048, LONGEST)
            return cls(model, tokenizer, replace(rendering, max_length=longest), budget=budget, note=note)
        scorer = cls(model, tokenizer, found.rendering, calibration=found.calibration, budget=budget, note=note)
        scorer.check_golden(found.golden, str(path))
        return scorer

    def score(
        self, prompt: str, programs: Sequence[str], language: str | None = None, full: bool | Sequence[bool] = False
    ) -> list[float]:
        """Raw scores of one problem's programs, in their order."""
        return self.score_many([Question(prompt, programs, language, full)])[0]

    @torch.inference_mode()
    def score_many(self, questions: Sequence[Question]) -> list[list[float]]:
        """Raw scores of several problems' programs; what they share is computed once over all of them."""
        texts = [self.renderer.render(q.prompt, q.programs, q.language, q.full) for q in questions]
        groups: dict[Ids, dict[Ids, float]] = {}
        for rendered in texts:
            for text in rendered:
                groups.setdefault(text.prefix, {})[text.suffix] = math.nan
        shared: list[Ids] = []
        if self._may_share():
            longest = max((len(p) + max(map(len, s)) for p, s in groups.items()), default=0)
            if self._window is None or longest < self._window:
                shared = [prefix for prefix, suffixes in groups.items() if prefix and len(suffixes) > 1]
        alone = [(p, s) for p in groups.keys() - set(shared) for s in groups[p]] if len(shared) < len(groups) else []
        # A set has no order of its own; the batches must not depend on hashing.
        alone.sort()
        self.tokens_read += sum(len(p) + sum(map(len, groups[p])) for p in shared) + sum(
            len(p) + len(s) for p, s in alone
        )
        training = self.model.training
        self.model.eval()
        try:
            self._score_shared(shared, groups)
            for (prefix, suffix), score in self._score_plain(alone):
                groups[prefix][suffix] = score
        finally:
            self.model.train(training)
        return [[groups[text.prefix][text.suffix] + self.shift for text in rendered] for rendered in texts]

    def probability(self, scores: Sequence[float]) -> list[float]:
        """Of passing: record.probability."""
        return record.probability(self.calibration, scores)

    def golden(self) -> list[float]:
        """Scores of record.GOLDEN, in order."""
        cuts, read = self.renderer.cuts.copy(), self.tokens_read
        questions = [Question(*golden) for golden in record.GOLDEN]
        scores = [score for row in self.score_many(questions) for score in row]
        self.renderer.cuts, self.tokens_read = cuts, read
        return scores

    def check_golden(self, expected: Sequence[float], name: str) -> None:
        """RrkError unless the golden scores come out as they did when the model was saved.

        Fewer bits move all scores of a model by much the same (Qwen 0.5B in bf16, a head of two steps: by .94, where the scores'
        own deviation was .33): that is measured here and taken off, for it would spoil the calibration and says nothing of order.
        """
        found = self.golden()
        tolerance = TOLERANCE.get(self.dtype, 6e-2)
        if self.dtype != "float32" and expected:
            self.shift = sum(expected) / len(expected) - sum(found) / len(found)
            found = [score + self.shift for score in found]
        # Rounding goes by the size of what is added up, not of what is left of it: a score near 0 has as much as the others.
        allowed = tolerance * (1 + max(map(abs, expected), default=0.0))
        for was, now in zip(expected, found, strict=True):
            if not abs(was - now) <= allowed:
                raise RrkError(
                    f"{name}: scores a known program {now:.5g}, but {was:.5g} when it was saved: the checkpoint, its tokenizer or "
                    f"a library is not the same; train it again (rrk.json names the versions it was made with)"
                )

    # ---- how -----------------------------------------------------------------------------------------------------

    def _may_share(self) -> bool:
        """Whether the cache gives the plain scores; found out once, on the golden texts."""
        if not self._checked:
            self._checked = True
            with_cache = self.golden()
            self.share = False
            plain = self.golden()
            limit = 10 * TOLERANCE.get(self.dtype, 6e-2)
            self.share = all(abs(a - b) <= limit * (1 + abs(b)) for a, b in zip(with_cache, plain, strict=True))
            if not self.share:
                self.note(
                    f"{type(self.model).__name__}: its cache does not give the plain scores; prompts are read again for every program"
                )
        return self.share

    def _score_plain(self, items: Sequence[tuple[Ids, Ids]]) -> Iterator[tuple[tuple[Ids, Ids], float]]:
        def run(part: Sequence[tuple[Ids, Ids]]) -> list[float]:
            types = [len(p) for p, _ in part] if self.renderer.type_ids else None
            first = [len(p) + 1 for p, _ in part] if self._likelihood else None
            batch = network.collate([p + s for p, s in part], self.pad, self.device, types, first)
            return network.read_scores(self.model, batch, self.renderer.rendering.pooling).tolist()

        length = lambda item: len(item[0]) + len(item[1])  # noqa: E731
        for part, scores in self._batches(items, length, run):
            yield from zip(part, scores, strict=True)

    def _score_shared(self, prefixes: Sequence[Ids], groups: dict[Ids, dict[Ids, float]]) -> None:
        def read(part: Sequence[Ids]) -> None:
            batch = network.collate(part, self.pad, self.device)
            cache = network.trunk(self.model)(
                input_ids=batch.ids, attention_mask=batch.mask, use_cache=True
            ).past_key_values
            kept = [(layer.keys, layer.values) for layer in cache.layers]
            self._continue(part, kept, batch, groups)

        # As many prompts at a time as there is room for: their programs find others of their length.
        for _ in self._batches(prefixes, len, read, each=self.budget):
            pass

    def _continue(self, prefixes: Sequence[Ids], kept: list, read: network.Batch, groups: dict) -> None:
        """Scores of all programs after these prompts, from the prompts' keys and values (one pair a layer)."""
        from transformers import DynamicCache

        width = read.ids.shape[1]
        items = [(row, suffix) for row, prefix in enumerate(prefixes) for suffix in groups[prefix]]

        def run(part: Sequence[tuple[int, Ids]]) -> list[float]:
            first = [1] * len(part) if self._likelihood else None
            batch = network.collate([suffix for _, suffix in part], self.pad, self.device, first=first)
            chosen = torch.tensor([row for row, _ in part], device=self.device)
            cache = DynamicCache([(k.index_select(0, chosen), v.index_select(0, chosen)) for k, v in kept])
            batch.positions = read.lengths[chosen, None] + torch.arange(batch.ids.shape[1], device=self.device)
            batch.mask = torch.cat([read.mask[chosen], batch.mask], dim=1)
            batch.cache = cache
            return network.read_scores(self.model, batch, self.renderer.rendering.pooling).tolist()

        length = lambda item: len(item[1]) + width // _KEPT  # noqa: E731
        for part, scores in self._batches(items, length, run):
            for (row, suffix), score in zip(part, scores, strict=True):
                groups[prefixes[row]][suffix] = score

    def _batches(
        self, items: Sequence[T], length: Callable[[T], int], run: Callable[[Sequence[T]], Any], each: int | None = None
    ) -> Iterator[tuple[Sequence[T], Any]]:
        """Run over parts of like length within the budget (one item always goes); halve the budget when memory runs out."""
        items = sorted(items, key=length)
        lengths, each = [length(item) for item in items], each or _EACH.get(self.device.type, _EACH["cuda"])
        ends = memory.parts(lengths, self.budget, each)
        start = 0
        while start < len(items):
            end = ends[start]
            part, size = items[start:end], (end - start) * lengths[end - 1]
            try:
                result = run(part)
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not _is_memory(error):
                    raise
                if len(part) == 1 and self.budget <= size:
                    raise RrkError(
                        f"out of memory on a single text ({size} tokens); give --dtype bfloat16, or a reranker with a smaller --max-length"
                    ) from error
                self.budget = max(1, min(self.budget, size) // 2)
                ends = memory.parts(lengths, self.budget, each)
                self.note(f"out of memory: going on with {self.budget} tokens a batch")
            else:
                yield part, result
                start = end
                continue
            # Outside the handler: the traceback holds the tensors that did not fit.
            if self.device.type == "cuda":
                torch.cuda.empty_cache()


def _is_memory(error: BaseException) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _cache_is_plain(config: Any) -> bool:
    """False for recurrent and linear layers, whose state is not keys and values a token."""
    kinds = getattr(config.get_text_config(), "layer_types", None) or []
    return all(kind in ("full_attention", "sliding_attention", "attention") for kind in kinds)
