"""Reranker checkpoints: loading any classifier, giving a base model its one-logit head, and reading the score.

    model, tokenizer = load("runs/reranker", dtype="auto", device="auto")      # a classifier, or a LoRA folder (merged)
    model, tokenizer = load_base("runs/sft", seed=0)                           # causal or encoder, a fresh head if it has none
    logits = read_scores(model, batch, pooling="last")

Pooling "likelihood" has no head of its own: the model is a generator, the score its mean log-probability of the program's
tokens. That is where a reranker that generates starts from (logprob-mean, Chen et al. 2021), and as a reward it is SimPO's
(Meng et al. 2024, arXiv 2405.14734, equation 4).

A judge is a classifier whose head is what its generator's head says of "Yes" against "No": two rows' difference, so that the
score is log p(Yes) - log p(No), and training by pairs starts from what the model knows already, not from a head drawn anew.

The head is kept in float32, whatever the trunk's dtype: bfloat16 has 8 bits, so that raw logits would tie. The last token is
found by lengths, never by comparing ids with the pad token: with pad = eos the usual code reads the token before EOS.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rrk import seeds
from rrk.errors import RrkError
from rrk.generation import checkpoints, dtypes, logprobs, packing
from rrk.generation.logprobs import trunk as trunk
from rrk.generation.models import pick_device, training_attention
from rrk.reranking import record


@dataclass
class Batch:
    """Right-padded rows; `lengths` are their real lengths; `positions` and `cache` where a prefix was read before;
    `first` where the tokens begin whose likelihood is asked for."""

    ids: Tensor
    mask: Tensor
    lengths: Tensor
    types: Tensor | None = None
    positions: Tensor | None = None
    cache: Any = None
    first: Tensor | None = None

    @classmethod
    def of(cls, given: Mapping[str, Tensor]) -> Batch:
        """The batch among a collator's tensors."""
        mask = given["attention_mask"]
        return cls(given["input_ids"], mask, mask.sum(1), given.get("token_type_ids"), first=given.get("first"))

    def rows(self, chosen: Tensor) -> Batch:
        """The batch of some rows, in their order, no wider than they need."""
        chosen = chosen.sort().values
        width = int(self.lengths[chosen].max())
        types = None if self.types is None else self.types[chosen, :width]
        first = None if self.first is None else self.first[chosen]
        return Batch(self.ids[chosen, :width], self.mask[chosen, :width], self.lengths[chosen], types, first=first)


def collate(
    sequences: Sequence[Sequence[int]],
    pad: int,
    device: Any,
    types: Sequence[int] | None = None,
    first: Sequence[int] | None = None,
) -> Batch:
    """Right-padded batch; `types[i]` is the number of leading tokens of row i that are its first segment (encoders)."""
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    width = int(lengths.max())
    ids = torch.full((len(sequences), width), pad, dtype=torch.long)
    for i, sequence in enumerate(sequences):
        ids[i, : len(sequence)] = torch.tensor(sequence, dtype=torch.long)
    at = torch.arange(width)
    mask = (at < lengths[:, None]).long()
    kinds = None
    if types is not None:
        kinds = ((at >= torch.tensor(types)[:, None]).long() * mask).to(device)
    begin = None if first is None else torch.tensor(first, device=device)
    return Batch(ids.to(device), mask.to(device), lengths.to(device), kinds, first=begin)


def is_encoder(config: Any) -> bool:
    """True for BERT's kind, which reads both ways. RrkError for encoder-decoders."""
    from transformers.models.auto import modeling_auto as auto

    if getattr(config, "is_encoder_decoder", False):
        raise RrkError(f"{config.model_type}: encoder-decoder models cannot be rerankers; use a decoder or an encoder")
    return config.model_type in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES


def head(model: Any) -> Any:
    """The linear layer that gives the logit, or None where the architecture hides it."""
    return getattr(model, "score", None) or (getattr(model, "classifier", None) if is_encoder(model.config) else None)


def read_scores(model: Any, batch: Batch, pooling: str) -> Tensor:
    """One score a row, float32 [rows]. `model` is a plain sequence classifier or generator (not wrapped by PEFT or DDP)."""
    given: dict[str, Any] = {"input_ids": batch.ids, "attention_mask": batch.mask}
    if batch.types is not None:
        given["token_type_ids"] = batch.types
    if pooling == "cls":
        return model.forward(**given).logits.float().squeeze(-1)  # not by __call__, which may be where we are (`reads`)
    if not is_encoder(model.config):
        given |= {"use_cache": batch.cache is not None, "position_ids": batch.positions, "past_key_values": batch.cache}
    hidden = trunk(model)(**given).last_hidden_state
    if pooling == "likelihood":
        assert batch.first is not None
        at = torch.arange(hidden.shape[1], device=hidden.device)
        asked = ((at >= batch.first[:, None]) & (at < batch.lengths[:, None]))[:, 1:]
        return _mean_logprob(model, hidden[:, :-1][asked], batch.ids[:, 1:][asked], asked.nonzero()[:, 0], len(hidden))
    if pooling == "mean":
        weight = batch.mask.to(hidden.dtype).unsqueeze(-1)
        pooled = (hidden * weight).sum(1) / weight.sum(1)
    else:
        pooled = hidden[torch.arange(len(hidden), device=hidden.device), batch.lengths - 1]
    with torch.autocast(hidden.device.type, enabled=False):
        return head(model)(pooled.float()).squeeze(-1)


def _mean_logprob(model: Any, hidden: Tensor, tokens: Tensor, owner: Tensor, count: int) -> Tensor:
    """[count]: over each one's tokens the mean log-probability, from the hidden states that predict them."""
    logp, _ = logprobs.read(hidden, model.get_output_embeddings(), tokens)
    total = torch.zeros(count, device=logp.device, dtype=logp.dtype).index_add(0, owner, logp)
    return (total / torch.bincount(owner, minlength=count)).float()


def read_packed(model: Any, packed: packing.Packed, pooling: str = "last") -> Tensor:
    """One score a text, float32 [texts], of a decoder: what read_scores gives for separate rows."""
    hidden = trunk(model)(
        input_ids=packed.ids,
        attention_mask=packing.mask_for(model, packed.segments),
        position_ids=packed.positions,
        use_cache=False,
    ).last_hidden_state
    if pooling == "likelihood":
        row, column, tokens, text = packing.predictions(packed)
        return _mean_logprob(model, hidden[row, column], tokens, text, len(packed.row))
    with torch.autocast(hidden.device.type, enabled=False):
        return head(model)(hidden[packed.row, packed.column].float()).squeeze(-1)


def reads(model: Any, pooling: str) -> None:
    """From now on model(batch=...) gives the scores of read_scores or, of a packed batch, read_packed.

    What wraps a model acts on its forward pass: PEFT, and DDP and FSDP, which average gradients and gather weights there.
    """
    plain = model.forward

    @wraps(plain)
    def forward(*given, batch=None, **named):
        if batch is None:
            return plain(*given, **named)
        read = read_packed if isinstance(batch, packing.Packed) else read_scores
        return read(model, batch, pooling)

    model.forward = forward


@torch.no_grad()
def can_pack(
    model: Any,
    groups: Sequence[Sequence[Sequence[int]]],
    pad: int,
    pooling: str = "last",
    first: Sequence[int] = (),
    longest: int = 0,
) -> bool:
    """Whether this architecture gives the same scores either way, tried on some groups. The model's mode is kept.

    longest: tokens of the longest text that is to be packed; the mask of a packed row knows no sliding window.
    """
    if is_encoder(model.config) or (pooling == "last" and head(model) is None):
        return False
    window = packing.window(model.config)
    if window is not None and longest > window:
        return False
    training = model.training
    model.eval()
    try:
        rows = collate([text for group in groups for text in group], pad, model.device, first=first or None)
        wanted = read_scores(model, rows, pooling)
        found = read_packed(model, packing.pack(groups, pad, first).to(model.device), pooling)
        return bool(torch.allclose(found, wanted, atol=packing.TOLERANCE, rtol=packing.TOLERANCE))
    except packing.UNPACKABLE:
        return False
    finally:
        model.train(training)


@torch.no_grad()
def towards(model: Any, share: float, fresh: Callable[[], Any]) -> None:
    """Change trained weights, in place, to base + share x (trained - base): WiSE-FT (Wortsman et al. 2022, arXiv 2109.01903).

    Half-way a reranker still knows what its base knew, where training pairs say nothing: on the samples of a policy that was
    trained against it, say. Averaged weights as rewards: WARM (Ramé et al. 2024, arXiv 2401.12187). `fresh` reads the base;
    with LoRA it is not asked, for adapters are the difference.
    """
    from peft import PeftModel
    from peft.utils import ModulesToSaveWrapper

    if not isinstance(model, PeftModel):
        base = dict(fresh().named_parameters())
        for name, weight in model.named_parameters():
            weight.lerp_(base[name].to(weight), 1 - share)
        return
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.mul_(share)
    for module in model.modules():
        if isinstance(module, ModulesToSaveWrapper):
            for weight, was in zip(
                module.modules_to_save["default"].parameters(), module.original_module.parameters(), strict=True
            ):
                weight.lerp_(was.to(weight), 1 - share)


def longest(model: Any, tokenizer: Any) -> int | None:
    """Tokens that the model can read at once, None if nothing limits it.

    RoBERTa, XLM-R and MPNet count positions from behind their padding id: 514 positions hold 512 tokens. The tokenizer's own
    limit counts too, where it has one.
    """
    config = model.config.get_text_config()
    most = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
    found = [int(most)] if most else []
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, torch.nn.Embedding):
            behind = 0 if module.padding_idx is None else module.padding_idx + 1
            found.append(module.num_embeddings - behind)
    if tokenizer.model_max_length and tokenizer.model_max_length < 1 << 30 and is_encoder(model.config):
        found.append(int(tokenizer.model_max_length))
    return min(found, default=None)


def pad_id(tokenizer: Any) -> int:
    """An id for padding that is not EOS: masked everywhere, but classifiers elsewhere find the last token by it."""
    eos = tokenizer.eos_token_id
    candidates = [tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.bos_token_id, *tokenizer.all_special_ids]
    last = len(tokenizer) - 1
    return next((i for i in candidates if i is not None and i != eos), last if last != eos else 0)


def load(
    path: str | Path, device: str = "auto", dtype: str = "auto", pooling: str | None = None, judge: bool = False
) -> tuple[Any, Any]:
    """(classifier in eval mode, tokenizer) from a checkpoint or a LoRA folder; for likelihood a generator.

    judge: from a generator, the classifier that its own "Yes" and "No" make. RrkError if it cannot give one score.
    """
    target = pick_device(device)
    if judge or pooling == "likelihood":
        model, tokenizer = _generator(path, dtype=dtypes.picker(dtype, target))
        model = _judging(model, tokenizer) if judge else model
        dtypes.settle(dtype, model, trunk(model))
        return model.to(target).eval(), tokenizer
    model, tokenizer = checkpoints.classifier(path, dtype=dtypes.picker(dtype, target))
    dtypes.settle(dtype, model, trunk(model))
    model.config.get_text_config().pad_token_id = pad_id(tokenizer)
    if head(model) is not None:
        head(model).float()
    elif not is_encoder(model.config):
        raise RrkError(f"{path}: {type(model).__name__} has no 'score' layer that rrk knows how to read")
    return model.to(target).eval(), tokenizer


def usual_pooling(path: str | Path) -> str:
    """What a base's score is read from unless told: a reranker's as it was, an encoder's cls, a generator's likelihood.

    What has no head that writes text: last.
    """
    kept = record.read(path)
    if kept is not None:
        return kept.rendering.pooling
    with checkpoints.reading(path):
        if is_encoder(checkpoints.find(path).config()):
            return "cls"
    return "likelihood" if checkpoints.generates(path) else "last"


class Unreadable(RrkError):
    """A generator whose logits are not its head's output as it is."""


def _generator(path: str | Path, **options: Any) -> tuple[Any, Any]:
    model, tokenizer = checkpoints.causal(path, **options)
    if not logprobs.is_plain(model):
        raise Unreadable(
            f"{path}: {type(model).__name__} changes its logits after the head; its likelihood cannot be read"
        )
    return model, tokenizer


def _judging(generator: Any, tokenizer: Any) -> Any:
    """The classifier on the generator's trunk; RrkError where Yes and No begin with the same token."""
    yes, no = (tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in ("Yes", "No"))
    if yes == no:
        raise RrkError("the tokenizer begins Yes and No with the same token: this model cannot judge")
    rows = generator.get_output_embeddings().weight.detach()
    generator.config.get_text_config().pad_token_id = pad_id(tokenizer)
    return checkpoints.on_trunk(generator, (rows[yes].float() - rows[no].float()).unsqueeze(0))


def load_base(
    path: str | Path,
    seed: int = 0,
    note: Callable[[str], None] = lambda text: None,
    pooling: str | None = None,
    judge: bool = False,
) -> tuple[Any, Any]:
    """(classifier, tokenizer) to train, float32. A head that is missing, or has several labels, is drawn from `seed`.

    This is the only place where weights may be new, and `note` is told which. judge: of a generator, its own Yes and No instead.
    """
    judge = judge and checkpoints.generates(path)
    if judge or pooling == "likelihood":
        model, tokenizer = _generator(path, dtype=torch.float32, attn_implementation=training_attention())
        if judge:
            return _judging(model, tokenizer), tokenizer
        model.config.num_labels = 1  # TRL's RewardTrainer asks
        return model, tokenizer
    torch.manual_seed(seeds.derive(seed, "reranker", "head"))
    model, tokenizer, new = checkpoints.to_classify(path, dtype=torch.float32, attn_implementation=training_attention())
    is_encoder(model.config)
    if new:
        note(f"{path}: has no trained score; {', '.join(new)} drawn anew (--seed)")
    model.config.get_text_config().pad_token_id = pad_id(tokenizer)
    if head(model) is None and not is_encoder(model.config):
        raise RrkError(f"{path}: {type(model).__name__} has no 'score' layer that rrk knows how to train")
    return model, tokenizer
