"""A generator with random weights over bytes: every architecture in milliseconds, and text that any stop string can end."""

from __future__ import annotations

from pathlib import Path

TEXT = "def f(x):\n    return x + 1\n\n\ndef g(y):\n    # comment\n    if y:\n        print(y)\n"


def make_model(folder: Path, kind: str = "qwen2", spread: float = 0.25, **more) -> Path:
    """A checkpoint. Kinds: qwen2 (grouped heads, tied), llama, gpt2 (learned positions), mistral (window), gemma2 (caps)."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import (
        AutoModelForCausalLM,
        Gemma2Config,
        GPT2Config,
        LlamaConfig,
        MistralConfig,
        PreTrainedTokenizerFast,
        Qwen2Config,
    )

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<eos>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator([TEXT] * 8, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<eos>", pad_token="<pad>")
    size = len(tokenizer)
    torch.manual_seed(0)
    common = {"vocab_size": size, "eos_token_id": 0, "pad_token_id": 1, "initializer_range": spread}
    wide = common | {
        "hidden_size": 32,
        "intermediate_size": 72,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    configs = {
        "qwen2": lambda: Qwen2Config(**wide | {"tie_word_embeddings": True} | more),
        "llama": lambda: LlamaConfig(**wide, **more),
        "mistral": lambda: MistralConfig(**wide, sliding_window=16, **more),
        "gemma2": lambda: Gemma2Config(**wide, head_dim=8, sliding_window=16, query_pre_attn_scalar=8, **more),
        "gpt2": lambda: GPT2Config(**common, n_embd=32, n_layer=2, n_head=4, n_positions=256, **more),
    }
    AutoModelForCausalLM.from_config(configs[kind]()).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
