"""Further tools' files, one module a family; rrk/interop.py dispatches to them, `rrk convert` shows them.

| format | in or out | what |
|---|---|---|
| evalplus-results | out | eval_results.json of EvalPlus 0.3 |
| livecodebench | in, out | the file that LiveCodeBench's custom_evaluator takes; with verdicts the *_eval_all.json that it gives |
| evalplus (a folder) | in | TASK_ID/NUMBER.py, a whole program a file |
| lm-eval | in | samples_TASK_*.jsonl that lm-evaluation-harness writes with --log_samples |
| vllm | in | the output of `vllm run-batch`, and RequestOutput objects of LLM.generate written as JSON |
| acecode-pair | in | AceCodePair: pairs for train-reranker |
| reward-bench | in | RewardBench: two candidates a prompt, the chosen one passed |
| trl-messages | out | TRL's conversational rows: messages in place of texts |

Readers take paths and problems and yield rows; an entry of OUT turns one row into one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any

from rrk import rows
from rrk.formats import evalplus, livecodebench, lm_eval, preferences, vllm
from rrk.formats.common import Problems

Reader = Callable[[Sequence[str], Collection[rows.Problem]], Iterator[dict[str, Any]]]

IN: dict[str, Reader] = {
    "livecodebench": livecodebench.read,
    "lm-eval": lm_eval.read,
    "vllm": vllm.read,
    "acecode-pair": preferences.read_acecode_pairs,
    "reward-bench": preferences.read_reward_bench,
}
OUT: dict[str, Callable[[dict[str, Any], str | None], dict[str, Any]]] = {"trl-messages": preferences.to_messages}
# Out, one JSON file: its value, and how many rows are in it.
Whole = Callable[[dict[str, Any]], str]
RESULTS: dict[str, Callable[[Iterable[dict[str, Any]], Whole, Problems | None], tuple[Any, int]]] = {
    "evalplus-results": lambda source, whole, problems: evalplus.results(source, whole),
    "livecodebench": livecodebench.results,
}
