"""Rollout speed: CacheSampler beside `generate(num_return_sequences=n)`, CPU seconds on one thread, order alternating.

python -m tests.benchmarks.ppo_rollout [--samples 32] [--prompt 237] [--max-tokens 256] [--repeat 2]

A random 25M-parameter Qwen2-type decoder. EOS gets a bias so that completions end at different lengths, as programs do
(about 100 tokens on average); both sides draw from the same distribution.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from rrk.ppo.policy import Policy
from rrk.ppo.rollout import CacheSampler


class Ids:
    """A tokenizer of numbers, so that only sampling is measured."""

    eos_token_id = 0
    bos_token_id = None

    def __call__(self, text, add_special_tokens=False):
        return {"input_ids": [int(x) for x in text.split()]}

    def decode(self, ids, **_):
        return " ".join(map(str, ids))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in (("samples", 32), ("prompt", 237), ("max-tokens", 256), ("repeat", 2)):
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=8192, hidden_size=512, intermediate_size=1408, num_hidden_layers=6, num_attention_heads=8,
        num_key_value_heads=8, eos_token_id=0, pad_token_id=0, tie_word_embeddings=True,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config).eval()
    model.generation_config.update(do_sample=True, top_k=0, top_p=1.0, temperature=1.0, eos_token_id=0, pad_token_id=0)
    bias = torch.zeros(8192)
    bias[0] = 4.4  # odds of about 1 in 100 a token
    head = model.lm_head.forward
    model.lm_head.forward = lambda hidden: head(hidden) + bias
    prompt = torch.randint(1, 8192, (1, args.prompt))
    sampler = CacheSampler(Policy(model, False, False, False), Ids(), 1.0, args.max_tokens)
    text = " ".join(map(str, prompt[0].tolist()))
    rates: dict[str, list[float]] = {"rrk": [], "generate": []}
    for n in range(args.repeat):
        for side in ("rrk", "generate") if n % 2 else ("generate", "rrk"):
            start = time.process_time()
            if side == "rrk":
                tokens = sum(len(d.ids) for d in sampler([text], [[100 * n + j for j in range(args.samples)]])[0])
            else:
                torch.manual_seed(n)
                out = model.generate(
                    prompt, attention_mask=torch.ones_like(prompt), num_return_sequences=args.samples,
                    max_new_tokens=args.max_tokens,
                )[:, args.prompt :]  # fmt: skip
                tokens = sum(int((row != 0).sum()) + int(bool((row == 0).any())) for row in out)
            spent = time.process_time() - start
            rates[side].append(tokens / spent)
            print(f"{side}: {tokens} tokens in {spent:.1f} CPU s, mean length {tokens / args.samples:.0f}")
    ratio = statistics.mean(rates["rrk"]) / statistics.mean(rates["generate"])
    print(
        f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f}M parameters; tokens per CPU second: ratio {ratio:.2f}"
    )


if __name__ == "__main__":
    main()
