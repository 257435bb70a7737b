"""Drawing batch by batch, so that no bit of a result depends on what it is drawn together with.

    batches = Batches(sampler)
    batches(problems)               # draws all their completions

Rounding is kept out by shape, not by hope: prompts are padded to a bucket that follows from their length alone, and rows of
several problems share a batch only if a trial at the start gives the same logits bit for bit as a problem alone does. float32
on a CPU passes; a GPU or bf16 may not, and then problems are drawn one at a time (a problem's own shapes depend on nothing
else). Architectures whose attention rrk does not compute itself are drawn here too, one at a time, by transformers' cache.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rrk.generation import decoding
from rrk.generation.problems import Problem, trial_prompts, uniforms

MEMORY = 1 << 30  # bytes of keys and values at a time; fixed, so that results cannot depend on what else is running
MOST_ROWS = 1024


class Batches:
    """One batch after another. `mix`: several problems in one, None: by trial."""

    def __init__(self, sampler, rows: int | None, mix: bool | None):
        self.sampler, self.model, self.device, self.mix = sampler, sampler.model, sampler.device, mix
        self.rows = rows or self._rows_by_memory()
        self.shared: bool | None = None
        self._fills = decoding.fills(self.model)
        self._fill = self._fills[0]

    @torch.no_grad()
    def __call__(self, problems: Sequence[Problem]) -> None:
        """Draw every completion of these problems."""
        mix = self.mixes()
        todo = [(i, j) for i, problem in enumerate(problems) for j in range(len(problem.drawn))]
        while todo:
            batch = self._next_batch(todo, problems, mix)
            try:
                self._draw([problems[i] for i, _ in batch], [j for _, j in batch], self._fill if mix else 1)
            except (RuntimeError, MemoryError) as error:
                self.rows = self.sampler.less_memory(error, len(batch))
                continue
            done = set(batch)
            todo = [at for at in todo if at not in done]

    # ---- what goes together --------------------------------------------------------------------------------------

    def _rows_by_memory(self) -> int:
        memory = (
            MEMORY if self.device.type == "cpu" else torch.cuda.get_device_properties(self.device).total_memory // 4
        )
        # Rows rarely all reach the limit; half of it is a fair guess, and what is too much is halved when it shows.
        longest = max(self.sampler.max_tokens // 2, 1)
        return min(max(memory // (self.sampler.token_bytes() * longest), 1), MOST_ROWS)

    @torch.no_grad()
    def mixes(self) -> bool:
        """Whether several problems share a batch: if it changes no bit of any result."""
        if self.shared is None:
            self.shared = decoding.shares_prefix(self.model) and self.sampler.agrees(self._forced)
        if self.mix is None:
            self.mix = self.shared and self._find_fill()
        return self.shared and self.mix

    def _find_fill(self) -> bool:
        """Settle on the least fill with which mixing changes nothing; False if there is none."""
        for fill in self._fills:
            self._fill = fill
            if self._mixing_changes_nothing():
                return True
        return False

    def _next_batch(self, todo: list[tuple[int, int]], problems: Sequence[Problem], mix: bool) -> list[tuple[int, int]]:
        first = todo[0][0]
        width = decoding.bucket(problems[first].head)
        batch: list[tuple[int, int]] = []
        for i, j in todo:
            if len(batch) == self.rows or (i != first and not mix):
                break
            if decoding.bucket(problems[i].head) == width:
                batch.append((i, j))
        return batch

    def _mixing_changes_nothing(self) -> bool:
        """Logits of one problem's rows, alone and among others, must agree in every bit."""
        prompts = trial_prompts(self.model, (5, 20, 11, 30, 32))
        forced = trial_prompts(self.model, [decoding.GROWTH + 3] * 5)
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

    def _draw(self, problems: list[Problem], numbers: list[int], fill: int) -> None:
        """One batch: a completion of each of these problems, which may be the same ones."""
        place = {problem: n for n, problem in enumerate(dict.fromkeys(problems))}
        rows = list(range(len(problems)))
        kind = decoding.SharedPrefix if self.shared else decoding.Repeated
        decoder = kind(self.model, [problem.head for problem in place], [place[p] for p in problems], fill)
        tokens = torch.tensor([problem.head[-1] for problem in problems], device=self.device)
        streams = self._uniforms([p.asked.seeds[j] for p, j in zip(problems, numbers, strict=True)])
        ids: list[list[int]] = [[] for _ in rows]
        logprobs: list[list[float]] = [[] for _ in rows]
        ended: list[str | None] = [None] * len(rows)
        for step in range(max(problem.room for problem in problems)):
            logits = decoder.step(tokens)
            # The filling rows take part to the end: rounding again.
            tokens, chosen = self.sampler.pick(logits, _fill(streams[step], len(logits)))
            tokens, chosen = tokens[: len(rows)], chosen[: len(rows)]
            for row, token, logprob in zip(rows, tokens.tolist(), chosen.tolist(), strict=True):
                if ended[row]:
                    continue
                ids[row].append(token)
                logprobs[row].append(logprob)
                ended[row] = problems[row].finish(ids[row], self.sampler.eos)
            alive = [at for at, row in enumerate(rows) if not ended[row]]
            if not alive:
                break
            # Dropping copies what the others hold: worth it by the dozen.
            if len(rows) - len(alive) >= max(1, len(rows) // 8):
                index = torch.tensor(alive, device=self.device)
                decoder.keep(index)
                tokens, rows = tokens[index], [rows[at] for at in alive]
                streams = streams[:, index]
        for row, (problem, number) in enumerate(zip(problems, numbers, strict=True)):
            problem.end(number, ids[row], ended[row] or "length", logprobs[row], self.sampler.tokenizer)

    def _uniforms(self, seeds: list[int]) -> Tensor:
        """(tokens, rows)"""
        made = torch.zeros(len(seeds), self.sampler.max_tokens, dtype=torch.float64)
        for row, seed in enumerate(seeds):
            made[row] = uniforms(seed, self.sampler.max_tokens)
        return made.T.to(self.device)


def _fill(values: Tensor, rows: int) -> Tensor:
    """The last value repeated."""
    return torch.cat([values, values[-1:].expand(rows - len(values))])
