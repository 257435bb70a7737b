"""Memory of a long sampling run over prompts of very different lengths: the cache at most, and the process at most.

python -m tests.benchmarks.sampling_memory PROBLEMS [--tokenizer FOLDER] [--problems 500] [--samples 8] [--rows 128]
    [--max-tokens 256] [--layers 4] [--vocabulary 8000]

PROBLEMS: Problem rows; `rrk problems mbpp` has prompts of 20 to 1,730 tokens (Qwen's tokenizer: --tokenizer; default: bytes
over four). The model is random, narrow and of so many layers, two key heads of 64: a token's keys and values are 1 kB a
layer. A program ends at each token with a chance of one in a hundred. Printed are bytes beside `one width`: what one buffer
for all rows, as wide as the longest row so far, would hold.
"""

from __future__ import annotations

import argparse
import resource
import time

import torch
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

from rrk import jsonl, rows
from rrk.generation.problems import Ask
from rrk.generation.sampler import Sampler
from rrk.generation.slots import Slots


class Text:
    """Tokens that no text is needed for."""

    eos_token_id = 0

    def decode(self, ids, **_):
        return ""


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("problems_file", metavar="PROBLEMS")
    parser.add_argument("--tokenizer")
    for name, default in (("problems", 500), ("samples", 8), ("rows", 128), ("max-tokens", 256)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--vocabulary", type=int, default=8000)
    how = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = Qwen2Config(vocab_size=how.vocabulary, num_hidden_layers=how.layers, head_dim=64, **shape)
    model = Qwen2ForCausalLM(config).eval()
    model.generation_config.eos_token_id = list(range(0, how.vocabulary, 100))
    tokenizer = AutoTokenizer.from_pretrained(how.tokenizer) if how.tokenizer else None
    asks = []
    for n, row in enumerate(jsonl.read([how.problems_file])):
        if n == how.problems:
            break
        prompt = rows.problem(row, tests=False).prompt
        ids = tokenizer(prompt)["input_ids"] if tokenizer else prompt.encode()[::4]
        asks.append(
            Ask("", [1000 * n + i for i in range(how.samples)], ids=[1 + i % (how.vocabulary - 1) for i in ids])
        )
    most = longest = 0
    step = Slots.step

    def watched(self, tokens):
        nonlocal most, longest
        logits = step(self, tokens)
        most, longest = max(most, self.bytes), max(longest, self.get_seq_length() + 1)
        return logits

    Slots.step = watched  # type: ignore[method-assign]
    sampler = Sampler(model, Text(), max_tokens=how.max_tokens, exact=False, rows=how.rows)
    began, before = time.process_time(), peak()
    drawn = sum(len(c.ids) for _, group in sampler.stream(asks) for c in group)
    spent = time.process_time() - began
    one = how.rows * longest * sampler.token_bytes()
    print(f"{len(asks)} problems x {how.samples}, {how.rows} rows, longest {longest} tokens; {drawn} tokens drawn")
    print(f"cache at most {most / 1e6:.0f} MB; one width: {one / 1e6:.0f} MB, {2 * one / 1e6:.0f} while it grows")
    print(f"process at most {(peak() - before) / 1e6:.0f} MB above the start; {drawn / spent:.0f} tokens/CPU s")


if __name__ == "__main__":
    main()
