"""The in-process sampler: n programs a problem, many problems at a time. `rrk sample` and PPO's rollouts both use it.

    sampler = Sampler(model, tokenizer, temperature=0.8, top_p=0.95, max_tokens=256)
    groups = sampler(prompts, seeds, stops)      # seeds[i][j]: of completion j of prompt i -> groups[i][j]: Completion

What a completion is depends on the model, its prompt and its own seed, not on what it was drawn together with:
- Every completion has a random stream of its own, one uniform number a token.
- Rounding is kept out by shape, not by hope: prompts are padded to a bucket that follows from their length alone, and rows
  of several problems share a batch only if a trial at the start gives the same logits bit for bit as a problem alone does.
  float32 on a CPU passes; a GPU or bf16 may not, and then problems are drawn one at a time (a problem's own shapes depend on
  nothing else). So shards and resumed runs of one machine give the same bytes. `mix=True` leaves the trial out.
- The generation config's top_k, penalties and the like are ignored: the distribution is softmax(logits / temperature), cut
  to the nucleus if top_p < 1, and `logprob` is always that of the plain softmax at temperature 1.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rrk.errors import RrkError, UsageError
from rrk.generation import decoding
from rrk.generation.models import encode_prompt, eos_ids
from rrk.generation.stopping import StopStrings, decode

MEMORY = 1 << 30  # bytes of keys and values at a time; fixed, so that results cannot depend on what else is running
MOST_ROWS = 1024


@dataclass
class Completion:
    """One drawn program. `ids` are all drawn tokens, with the EOS or stop string; `text` ends before it."""

    prompt: list[int]
    ids: list[int]
    text: str
    finish: str  # eos, stop, length
    logprob: float  # nats, the sum over ids, at temperature 1


class Sampler:
    """Draws completions from a causal model; it must be in eval mode if it has dropout."""

    def __init__(
        self,
        model,
        tokenizer,
        *,
        temperature: float = 1.0,
        top_p: float = 1.0,
        max_tokens: int = 256,
        stop: Sequence[str] = (),
        bf16: bool = False,
        rows: int | None = None,
        mix: bool | None = None,
        notice: Callable[[str], None] = lambda text: None,
    ):
        """`bf16`: autocast. `rows`: completions at a time (default: by memory). `mix`: problems together, None: by trial.

        `notice` hears what the user should know, such as less memory than planned for.
        """
        if temperature < 0 or not 0 < top_p <= 1 or max_tokens < 1:
            raise UsageError("temperature must not be negative, top-p within (0, 1], max-tokens at least 1")
        self.model, self.tokenizer = model, tokenizer
        self.temperature, self.top_p, self.max_tokens, self.stop = temperature, top_p, max_tokens, tuple(stop)
        self.bf16, self.mix, self.notice = bf16, mix, notice
        self.device = next(model.parameters()).device
        self.eos = eos_ids(model, tokenizer)
        self.rows = rows or self._rows_by_memory()
        self.longest = getattr(model.config.get_text_config(), "max_position_embeddings", None) or 1 << 60
        self._shared: bool | None = None
        self._fills = decoding.fills(model)
        self._fill = self._fills[0]
        self._stops: dict[tuple[str, ...], StopStrings] = {}

    def __call__(
        self,
        prompts: Sequence[str],
        seeds: Sequence[Sequence[int]],
        stops: Sequence[Sequence[str]] | None = None,
    ) -> list[list[Completion]]:
        """Completions of every prompt, in order. Raises RrkError if a prompt leaves no room or memory does not suffice."""
        heads = [encode_prompt(self.tokenizer, prompt) for prompt in prompts]
        for prompt, head in zip(prompts, heads, strict=True):
            if len(head) >= self.longest:
                raise RrkError(
                    f"a prompt has {len(head)} tokens, the model reads {self.longest}: {prompt[:40]!r}...; leave it out"
                )
        ends = [self._stop_strings(own) for own in stops or [()] * len(prompts)]
        drawn: list[list[Completion | None]] = [[None] * len(own) for own in seeds]
        with torch.no_grad(), self._autocast():
            if self._shared is None:
                self._shared = self._can_share()
            mix = self._shared and self.mixes(max(map(len, seeds), default=1))
            todo = [(i, j) for i, own in enumerate(seeds) for j in range(len(own))]
            while todo:
                batch = self._next_batch(todo, heads, mix)
                try:
                    made = self._draw(
                        [heads[i] for i in dict.fromkeys(i for i, _ in batch)],
                        [i for i, _ in batch],
                        [seeds[i][j] for i, j in batch],
                        [ends[i] for i, _ in batch],
                        self._fill if mix else 1,
                    )
                except (RuntimeError, MemoryError) as error:
                    self._less_memory(error, len(batch))
                    continue
                for (i, j), completion in zip(batch, made, strict=True):
                    drawn[i][j] = completion
                done = set(batch)
                todo = [at for at in todo if at not in done]
        return drawn  # type: ignore[return-value]

    def problems_at_once(self, samples: int) -> int:
        """How many problems of so many samples are worth handing over in one call."""
        with torch.no_grad(), self._autocast():
            if self._shared is None:
                self._shared = self._can_share()
            return 2 * max(1, self.rows // samples) if self._shared and self.mixes(samples) else 1

    # ---- what goes together --------------------------------------------------------------------------------------

    def _rows_by_memory(self) -> int:
        config = self.model.config.get_text_config()
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        token = 2 * config.num_hidden_layers * heads * size * next(self.model.parameters()).element_size()
        # Rows rarely all reach the limit; half of it is a fair guess, and what is too much is halved when it shows.
        memory = (
            MEMORY if self.device.type == "cpu" else torch.cuda.get_device_properties(self.device).total_memory // 4
        )
        return min(max(memory // (token * max(self.max_tokens // 2, 1)), 1), MOST_ROWS)

    def mixes(self, samples: int) -> bool:
        """Whether several problems share a batch: if at least two fit, and it changes no bit of any result."""
        if self.mix is None:
            self.mix = self.rows >= 2 * samples and self._find_fill()
        return self.mix

    def _find_fill(self) -> bool:
        """Settle on the least fill with which mixing changes nothing; False if there is none."""
        for fill in self._fills:
            self._fill = fill
            if self._mixing_changes_nothing():
                return True
        return False

    def _next_batch(self, todo: list[tuple[int, int]], heads: list[list[int]], mix: bool) -> list[tuple[int, int]]:
        first = todo[0][0]
        width = decoding.bucket(heads[first])
        batch: list[tuple[int, int]] = []
        for i, j in todo:
            if len(batch) == self.rows or (i != first and not mix):
                break
            if decoding.bucket(heads[i]) == width:
                batch.append((i, j))
        return batch

    def _less_memory(self, error: Exception, rows: int) -> None:
        out = isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "memory" in str(error).lower()
        if not out:
            raise error
        if rows <= 1:
            raise RrkError("not enough memory for one program; lower --max-tokens or take a smaller model") from error
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.rows = max(1, rows // 2)
        self.notice(f"out of memory with {rows} programs at a time; going on with {self.rows}")

    def _can_share(self) -> bool:
        """Try SharedPrefix against the model's own forward; architectures that it does not fit take the other way."""
        if not decoding.shares_prefix(self.model):
            return False
        prompts = _trial_prompts(self.model, (4, 9))
        forced = _trial_prompts(self.model, (3, 3, 3, 3))
        owners = [0, 0, 1, 1]
        try:
            ours = self._forced(prompts, owners, forced)
        except (decoding.Unsupported, TypeError, ValueError, AttributeError, RuntimeError, IndexError):
            return False
        for row, owner in enumerate(owners):
            ids = torch.tensor([prompts[owner] + forced[row]], device=self.device)
            want = self.model(ids).logits[0, len(prompts[owner]) - 1 : -1].float()
            tolerance = (1e-4 if want.dtype == next(self.model.parameters()).dtype and not self.bf16 else 0.1) * max(
                1.0, float(want.abs().max())
            )
            if not bool(((ours[:, row, :-1] - want).abs() <= tolerance).all()):
                return False
        return True

    def _mixing_changes_nothing(self) -> bool:
        """Logits of one problem's rows, alone and among others, must agree in every bit."""
        prompts = _trial_prompts(self.model, (5, 20, 11, 30, 32))
        forced = _trial_prompts(self.model, [decoding.GROWTH + 3] * 5)
        together = self._forced(prompts, [p for p in range(5) for _ in range(7)], [f for f in forced for _ in range(7)])
        for p in (0, 2, 4):
            for n in (1, 7):
                alone = self._forced([prompts[p]], [0] * n, [forced[p]] * n)
                if not torch.equal(alone, together[:, 7 * p : 7 * p + n]):
                    return False
        return True

    def _forced(self, prompts: list[list[int]], owners: list[int], forced: list[list[int]]) -> Tensor:
        """(steps, rows, vocabulary + 1): logits along given continuations, and the logarithm of their exponentials' sum."""
        decoder = decoding.SharedPrefix(self.model, prompts, owners, self._fill)
        given = [[prompts[owner][-1], *own] for owner, own in zip(owners, forced, strict=True)]
        steps = torch.tensor(given, device=self.device).T[:-1]
        made = [decoder.step(tokens) for tokens in steps]
        return torch.stack([torch.cat([x, x.logsumexp(-1, keepdim=True)], -1)[: len(owners)] for x in made])

    # ---- drawing -------------------------------------------------------------------------------------------------

    def _draw(
        self, prompts: list[list[int]], owners: list[int], seeds: list[int], stops: list[StopStrings], fill: int
    ) -> list[Completion]:
        count = len(owners)
        number = {owner: n for n, owner in enumerate(dict.fromkeys(owners))}
        places = [number[owner] for owner in owners]
        rows = list(range(count))
        room = [min(self.max_tokens, self.longest - len(prompts[place])) for place in places]
        kind = decoding.SharedPrefix if self._shared else decoding.Repeated
        decoder = kind(self.model, prompts, places, fill)
        tokens = torch.tensor([prompts[place][-1] for place in places], device=self.device)
        numbers = self._uniforms(seeds)
        ids: list[list[int]] = [[] for _ in rows]
        sums = [0.0] * len(rows)
        ended: list[str | None] = [None] * count
        for step in range(max(room)):
            logits = decoder.step(tokens)
            # The filling rows take part to the end: rounding again.
            tokens = self._pick(logits, None if numbers is None else _fill(numbers[step], len(logits)))
            chosen = logits.gather(-1, tokens.unsqueeze(-1)).squeeze(-1) - logits.logsumexp(-1)
            tokens, chosen = tokens[: len(rows)], chosen[: len(rows)]
            for row, token, logprob in zip(rows, tokens.tolist(), chosen.tolist(), strict=True):
                if ended[row]:
                    continue
                ids[row].append(token)
                sums[row] += logprob
                if token in self.eos:
                    ended[row] = "eos"
                elif stops[row].stops and stops[row].ended(ids[row]):
                    ended[row] = "stop"
                elif step + 1 == room[row]:
                    ended[row] = "length"
            alive = [at for at, row in enumerate(rows) if not ended[row]]
            if not alive:
                break
            # Dropping copies what the others hold: worth it by the dozen.
            if len(rows) - len(alive) >= max(1, len(rows) // 8):
                index = torch.tensor(alive, device=self.device)
                decoder.keep(index)
                tokens, rows = tokens[index], [rows[at] for at in alive]
                numbers = None if numbers is None else numbers[:, index]
        return [
            self._finish(prompts[places[row]], ids[row], ended[row] or "length", stops[row], sums[row])
            for row in range(count)
        ]

    def _uniforms(self, seeds: list[int]) -> Tensor | None:
        """(tokens, rows) numbers in [0, 1), a stream a row; None for greedy decoding."""
        if self.temperature == 0:
            return None
        made = torch.zeros(len(seeds), self.max_tokens, dtype=torch.float64)
        for row, seed in enumerate(seeds):
            made[row] = torch.rand(self.max_tokens, generator=torch.Generator().manual_seed(seed))
        return made.T.to(self.device)

    def _pick(self, logits: Tensor, uniform: Tensor | None) -> Tensor:
        """By inversion: the first token at which the cumulated probability exceeds the uniform number."""
        if uniform is None:
            return logits.argmax(-1)
        weights = (logits / self.temperature).softmax(-1)
        if self.top_p < 1:
            ordered, order = weights.sort(dim=-1, descending=True, stable=True)
            # The smallest set that reaches top_p: a token goes if those before it already do.
            ordered = ordered.masked_fill(ordered.cumsum(-1, dtype=torch.float64) - ordered >= self.top_p, 0.0)
            weights = torch.zeros_like(weights).scatter_(-1, order, ordered)
        # In float64: over 150,000 tokens a float32 sum is off by more than rare tokens weigh.
        below = weights.cumsum(-1, dtype=torch.float64)
        picked = torch.searchsorted(below, (uniform * below[:, -1]).unsqueeze(-1), right=True).squeeze(-1)
        return picked.clamp(max=logits.shape[-1] - 1)

    def _finish(self, head: list[int], ids: list[int], finish: str, stops: StopStrings, logprob: float) -> Completion:
        text, stopped = stops.cut(decode(self.tokenizer, ids[:-1] if finish == "eos" else ids))
        return Completion(list(head), ids, text, "stop" if stopped else finish, logprob)

    def _stop_strings(self, own: Sequence[str]) -> StopStrings:
        key = (*self.stop, *own)
        if key not in self._stops:
            self._stops[key] = StopStrings(self.tokenizer, key)
        return self._stops[key]

    def _autocast(self):
        if not self.bf16:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)


def _fill(values: Tensor, rows: int) -> Tensor:
    """The last value repeated."""
    return torch.cat([values, values[-1:].expand(rows - len(values))])


def _trial_prompts(model, lengths: Sequence[int]) -> list[list[int]]:
    size = model.get_input_embeddings().num_embeddings
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(size, (length,), generator=generator).tolist() for length in lengths]
