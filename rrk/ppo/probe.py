"""The gold probe: does the pass rate follow the score? Held-out problems are sampled and really executed.

A reranker's score that rises while this falls is over-optimisation; the trainer logs both and keeps the checkpoint where
the probe was best. Executing is the caller's: `judge` takes (problem, completion) pairs and says which passed (None: could
not be judged, and then it counts nowhere). `auc` (scores, passed) also says, problem by problem, whether the reranker still tells
right from wrong on the policy's own samples: where it no longer does, more updates teach nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rrk import seeds
from rrk.errors import RrkError
from rrk.ppo.rollout import Drawn, Reward, score
from rrk.rows import Problem

Auc = Callable[[Sequence[float], Sequence[bool]], float | None]
Judge = Callable[[Sequence[tuple[Problem, str]]], Sequence[bool | None]]


@dataclass
class Probe:
    """Problems held out from training, and who judges them. Its seeds are the same at every call: paired curves."""

    problems: Sequence[Problem]
    judge: Judge
    auc: Auc | None = None

    def measure(self, sampler, reward: Reward, samples: int, seed: int) -> dict[str, Any]:
        """pass@1, mean reranker score and its AUC within a problem, of fresh samples. RrkError where not one could be judged.

        `probe_passed` has every problem's verdicts in the order of its seeds: two updates are compared in pairs (ppo_log.py).
        """
        streams = [[seeds.derive(seed, "probe", p.task_id, j) for j in range(samples)] for p in self.problems]
        drawn = sampler([p.prompt for p in self.problems], streams, [p.stop_tokens for p in self.problems])
        score(drawn, self.problems, reward)
        flat = [(p, s) for p, own in zip(self.problems, drawn, strict=True) for s in own]
        verdicts = self.judge([(p, s.text) for p, s in flat])
        known = [v for v in verdicts if v is not None]
        if not known:
            raise RrkError("the probe's programs could not be judged: `rrk doctor` says what is missing here")
        return {
            "probe_auc": self._auc(drawn, verdicts),
            "probe_pass@1": sum(known) / len(known),
            "probe_score": sum(s.score for _, s in flat) / len(flat),
            "probe_unjudged": len(verdicts) - len(known),
            "probe_passed": [
                {"task_id": p.task_id, "language": p.language, "passed": list(verdicts[at : at + samples])}
                for p, at in zip(self.problems, range(0, len(verdicts), samples), strict=True)
            ],
        }

    def _auc(self, drawn: Sequence[Sequence[Drawn]], verdicts: Sequence[bool | None]) -> float | None:
        """Mean over problems with both right and wrong programs; `verdicts` are the programs', problem after problem."""
        found, at = [], 0
        for own in drawn:
            pairs = zip(own, verdicts[at : at + len(own)], strict=True)
            known = [(s.score, v) for s, v in pairs if v is not None]
            at += len(own)
            if self.auc and (value := self.auc([s for s, _ in known], [v for _, v in known])) is not None:
                found.append(value)
        return sum(found) / len(found) if found else None
