"""Sampling speed beside transformers' generate(num_return_sequences=n): tokens per CPU second, order alternating.

python -m tests.benchmarks.sampling [--size 25M|tiny] [--problems 1] [--samples 32] [--prompt 237] [--bf16] [--threads 1]

Random Qwen2-type decoders. EOS gets a bias so that completions end at different lengths, as programs do (about 100 tokens
on average); all sides draw from the same distribution. generate() gets one problem at a time, as its users call it.
`rrk` fills its rows from all problems; `exact` draws batches whose bits depend on no company, `alone` the same one problem
at a time, `repeated` is rrk's way for architectures whose attention it does not compute itself. On a real model:
sampling_model.py.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from rrk.generation.sampler import Sampler

SIZES = {
    "25M": {"vocab_size": 8192, "hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 6, "num_attention_heads": 8},
    "tiny": {"vocab_size": 512, "hidden_size": 160, "intermediate_size": 440, "num_hidden_layers": 4, "num_attention_heads": 5},
}  # fmt: skip


class Ids:
    """A tokenizer of numbers, so that only sampling is measured."""

    eos_token_id = 0
    bos_token_id = None
    eos_token = "0"

    def __call__(self, text):
        return {"input_ids": [int(x) for x in text.split()]}

    def decode(self, ids, **_):
        return " ".join(map(str, ids))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in (
        ("problems", 1),
        ("samples", 32),
        ("prompt", 237),
        ("max-tokens", 256),
        ("repeat", 2),
        ("threads", 1),
    ):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--size", choices=SIZES, default="25M")
    parser.add_argument("--bf16", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    size = SIZES[args.size]
    heads = size["num_attention_heads"]
    config = Qwen2Config(**size, num_key_value_heads=heads, eos_token_id=0, pad_token_id=0, tie_word_embeddings=True)
    model = Qwen2ForCausalLM(config).eval()
    if args.bf16:
        model = model.bfloat16()
    model.generation_config.update(do_sample=True, top_k=0, top_p=1.0, temperature=1.0, eos_token_id=0, pad_token_id=0)
    vocabulary = size["vocab_size"]
    bias = torch.zeros(vocabulary, dtype=model.dtype)
    bias[0] = torch.log(torch.tensor(vocabulary / 100.0))  # odds of about 1 in 100 a token
    head = model.lm_head.forward
    model.lm_head.forward = lambda hidden: head(hidden) + bias
    prompts = torch.randint(1, vocabulary, (args.problems, args.prompt))
    texts = [" ".join(map(str, row)) for row in prompts.tolist()]
    sides = {
        "rrk": Sampler(model, Ids(), max_tokens=args.max_tokens, exact=False),
        "exact": Sampler(model, Ids(), max_tokens=args.max_tokens, exact=True),
        "alone": Sampler(model, Ids(), max_tokens=args.max_tokens, exact=True, mix=False),
        "repeated": Sampler(model, Ids(), max_tokens=args.max_tokens, mix=False),
        "generate": None,
    }
    sides["repeated"].batches.shared = False
    if args.problems == 1:
        del sides["alone"]
    for side in sides.values():
        if side is not None:
            side.is_continuous()  # the trials
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for n in range(args.repeat):
        for name in list(sides)[:: 1 if n % 2 else -1]:
            start = time.process_time()
            sampler = sides[name]
            if sampler is not None:
                seeds = [[1000 * n + args.samples * i + j for j in range(args.samples)] for i in range(args.problems)]
                tokens = sum(len(c.ids) for group in sampler(texts, seeds) for c in group)
            else:
                torch.manual_seed(n)
                tokens = 0
                for row in prompts:
                    out = model.generate(
                        row.unsqueeze(0), attention_mask=torch.ones(1, args.prompt, dtype=torch.long),
                        num_return_sequences=args.samples, max_new_tokens=args.max_tokens,
                    )[:, args.prompt :]  # fmt: skip
                    tokens += sum(int((r != 0).sum()) + int(bool((r == 0).any())) for r in out)
            spent = time.process_time() - start
            rates[name].append(tokens / spent)
            mean = tokens / args.samples / args.problems
            print(f"{name}: {tokens} tokens in {spent:.1f} CPU s, mean length {mean:.0f}", flush=True)
    base = statistics.mean(rates["generate"])
    print(
        f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f}M parameters, exact mixes problems: {sides['exact'].batches.mix}"
    )
    for name, found in rates.items():
        print(
            f"{name}: {statistics.mean(found):.0f} tokens per CPU second, {statistics.mean(found) / base:.2f} times generate"
        )


if __name__ == "__main__":
    main()
