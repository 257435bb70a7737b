"""Models of a second for the reranking tests: four architectures over bytes, with random weights."""

from __future__ import annotations

import json
from pathlib import Path

import torch

SIZE = {"vocab_size": 264, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def tokenizer(kind: str = "decoder", pad_is_eos: bool = False, chat: bool = False):
    """Byte-level, no merges; a decoder's has EOS (and perhaps no other pad), an encoder's makes [CLS] a [SEP] b [SEP]."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    specials = ["<pad>", "<eos>", "<cls>", "<sep>", "<bos>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate([*specials, *alphabet])}, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    raw.decoder = decoders.ByteLevel()
    if kind == "encoder":
        raw.post_processor = processors.TemplateProcessing(
            single="<cls> $A <sep>", pair="<cls> $A <sep> $B:1 <sep>:1", special_tokens=[("<cls>", 2), ("<sep>", 3)]
        )
        return PreTrainedTokenizerFast(
            tokenizer_object=raw,
            pad_token="<pad>",
            cls_token="<cls>",
            sep_token="<sep>",
            model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        )
    if kind == "bos":
        raw.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 4)])
    made = PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token="<eos>", pad_token="<eos>" if pad_is_eos else "<pad>", bos_token="<bos>"
    )
    if chat:
        made.chat_template = "{% for m in messages %}<bos>{{ m['role'] }}\n{{ m['content'] }}<eos>\n{% endfor %}"
    return made


def network(name: str, labels: int | None = 1, seed: int = 0, **more):
    """`labels` None: with the language model's head. Weights large enough for scores that differ."""
    import transformers as t

    torch.manual_seed(seed)
    wide = {**SIZE, "intermediate_size": 64, "initializer_range": 0.3}
    configs = {
        "llama": lambda: t.LlamaConfig(**{**wide, **more}),
        "qwen2": lambda: t.Qwen2Config(**{**wide, "num_key_value_heads": 1, **more}),
        "gpt2": lambda: t.GPT2Config(
            vocab_size=264, n_embd=32, n_layer=2, n_head=2, initializer_range=0.3, eos_token_id=1, **more
        ),
        "bert": lambda: t.BertConfig(**{**wide, **more}),
        "mistral": lambda: t.MistralConfig(**{**wide, "num_key_value_heads": 1, "sliding_window": 16, **more}),
    }
    config = configs[name]()
    if labels is None:
        kind = t.AutoModelForMaskedLM if name == "bert" else t.AutoModelForCausalLM
    else:
        kind, config.num_labels, config.pad_token_id = t.AutoModelForSequenceClassification, labels, 0
    return kind.from_config(config).eval()


def save(folder: Path, name: str, labels: int | None = None, **more) -> Path:
    """A checkpoint with its tokenizer."""
    network(name, labels).save_pretrained(folder)
    tokenizer("encoder" if name == "bert" else "decoder", **more).save_pretrained(folder)
    return folder


def reranked(rrk, method: str, base: Path) -> list[dict]:
    """What `rrk rerank --method METHOD -m BASE` makes of `candidates`."""
    rows = "".join(json.dumps(row) + "\n" for row in candidates()).encode()
    done = rrk("rerank", "--method", method, "-m", str(base), "--dtype", "float32", input=rows)
    assert done.returncode == 0, done.stderr.decode()
    return [json.loads(line) for line in done.stdout.splitlines()]


def pairs(problems: int = 12, each: int = 4) -> list[dict]:
    """Something to learn in seconds: right programs return `x + N`, wrong ones `x - N`."""
    return [
        {
            "task_id": f"t/{p}",
            "language": "py",
            "prompt": f"def f{p}(x):\n",
            "chosen": f"    return x + {p + i}\n",
            "rejected": f"    return x - {p + i}\n",
            "kind": "hard" if i % 2 else "random",
            "chosen_score": 0.0,
            "rejected_score": 1.0,
        }
        for p in range(problems)
        for i in range(each)
    ]


def candidates(first: int = 100, problems: int = 4, each: int = 3) -> list[dict]:
    """Judged candidates of other problems."""
    return [
        {
            "task_id": f"t/{p}",
            "language": "py",
            "prompt": f"def f{p}(x):\n",
            "completion_id": i,
            "completion": f"    return x {'+' if i % 2 else '-'} {p + i}\n",
            "passed": bool(i % 2),
        }
        for p in range(first, first + problems)
        for i in range(each)
    ]
