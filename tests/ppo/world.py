"""A world of one second: a 2-layer model over characters and a reward that counts letters.

Tests that kill a training or run it in several processes call `start`, whose children are forked from one server that has
torch loaded; `accelerate launch` needs a program:  python -m tests.ppo.world OUT JSON-OPTIONS PROCESSES
"""

from __future__ import annotations

import contextlib
import functools
import json
import multiprocessing
import os
import sys
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rrk import cli
from rrk.errors import Terminated
from rrk.generation import processes
from rrk.ppo.options import PpoOptions
from rrk.ppo.probe import Probe
from rrk.ppo.trainer import train_ppo
from rrk.rows import Problem

PROBLEMS = [Problem(f"t/{i}", "py", prompt, "") for i, prompt in enumerate(["ab", "abcab", "c", "bbaacc"])]
SMALL = {
    "updates": 4,
    "prompts_per_update": 4,
    "samples": 4,
    "minibatch": 8,
    "lr": 3e-3,
    "max_tokens": 6,
    "save_every": 1,
}


def make_model(folder: Path, config=None) -> Path:
    """A checkpoint with random weights; pad = eos, as many code models have it."""
    torch.manual_seed(0)
    vocabulary = {"<eos>": 0} | {c: i + 1 for i, c in enumerate("abcdefgh")}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="<eos>"))
    raw.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<eos>", pad_token="<eos>")
    config = config or LlamaConfig(
        vocab_size=9,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        eos_token_id=0,
        initializer_range=0.2,  # logits that vary, so that LoRA beside a frozen head has something to turn
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def reward(questions):
    return [[float(text.count("a")) for text in programs] for _, programs, _ in questions]


def slow_reward(questions):
    time.sleep(0.1)
    return reward(questions)


def options(**more) -> PpoOptions:
    return PpoOptions(**{**SMALL, **more})


def run(out, chosen: dict, resume=False, slow=False, stop=False, probe=False, environment: dict | None = None) -> None:
    """One training of the model beside `out`, in this process; `stop`: asked to after the first update."""
    os.environ.update(environment or {})
    torch.set_num_threads(1)
    given = slow_reward if slow else reward
    sft = Path(out).parent / "sft"
    witness = Probe(PROBLEMS[:2], lambda programs: ["a" in text for _, text in programs]) if probe else None
    with contextlib.suppress(*[Terminated] * stop):
        train_ppo(PROBLEMS, sft, given, out, options(**chosen), witness, resume, should_stop=lambda: stop)


def start(out, chosen: dict, **more) -> multiprocessing.Process:
    """The same in a process of its own."""
    child = _server().Process(target=run, args=(str(out), chosen), kwargs=more)
    child.start()
    return child


def start_command(arguments: list[str], output) -> multiprocessing.Process:
    """`rrk ARGUMENTS` in a process of its own, its streams in a file."""
    child = _server().Process(target=_command, args=(arguments, str(output)))
    child.start()
    return child


def _command(arguments: list[str], output: str) -> None:
    with open(output, "w") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    torch.set_num_threads(1)
    cli.main(arguments)


def finish(*children: multiprocessing.Process) -> None:
    """Wait; every one must end well."""
    for child in children:
        child.join(120)
        assert child.exitcode == 0


@functools.cache
def _server():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.ppo.world", "rrk.reranking.scorer"])
    return context


if __name__ == "__main__":
    run(sys.argv[1], json.loads(sys.argv[2]))
    assert processes.count() == int(sys.argv[3])
