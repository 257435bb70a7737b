"""What stands behind `-m`: a transformers folder, a name on the hub, a PEFT adapter's folder, a GGUF file.

    found = checkpoints.find("runs/lora")                     # the adapter's base is looked for, or asked for in one line
    with checkpoints.reading("runs/lora"):                    # library errors in one line, library chatter off
        model, drawn = found.model(AutoModelForCausalLM, dtype=torch.float32)     # the adapter merged
        tokenizer = found.tokenizer()

No weight is ever left as it was drawn at random without a word: weights that the checkpoint does not hold, or holds in
another shape, are an error that names them, unless the caller says which may be new (`may_be_new`).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import torch
from torch import nn

from rrk.errors import RrkError

ADAPTER = "adapter_config.json"
CAUSAL, CLASSIFIER = "CAUSAL_LM", "SEQ_CLS"  # PEFT's task types
_SHOWN = 3  # weights named in an error
# AceCoder's reward models (Zeng et al. 2025, arXiv 2502.01718): a generator's trunk, its value head as the score.
_VALUE_HEAD = re.compile(r"(ForCausalRM|AceCod(e|er)RM)$")
# Classifiers, encoders, and trunks saved without their head (LlamaModel, but not GPT2LMHeadModel).
_NO_WRITER = re.compile("Classification|MaskedLM|(?<!LMHead)Model$")
_RENAMED = {r"^v_head\.summary\.": "score."}


@dataclass(frozen=True)
class Checkpoint:
    """`weights`: the folder or hub name that config and weights come from; of an adapter, its base's."""

    path: str
    weights: str
    adapter: dict[str, Any] | None = None
    gguf: str | None = None
    base: Checkpoint | None = field(default=None, repr=False)

    @property
    def _given(self) -> dict[str, Any]:
        return {"gguf_file": self.gguf} if self.gguf else {}

    def config(self) -> Any:
        """The transformers config (of an adapter: its base's)."""
        from transformers import AutoConfig

        return AutoConfig.from_pretrained(self.weights, **self._given)

    def architecture(self) -> str:
        """The class that the weights were saved by, for a message; a GGUF file does not say."""
        return ((self.config().architectures or []) + ["this checkpoint"])[0]

    def tokenizer(self) -> Any:
        """Its own; an adapter that was saved without one has its base's."""
        from transformers import AutoTokenizer

        if self.base is None:
            return AutoTokenizer.from_pretrained(self.weights, **self._given)
        own = any((Path(self.path) / name).exists() for name in ("tokenizer.json", "tokenizer_config.json"))
        return AutoTokenizer.from_pretrained(self.path) if own else self.base.tokenizer()

    def model(
        self,
        kind: Any,
        *,
        may_be_new: Callable[[nn.Module, str], bool] = lambda model, name: False,
        remedy: str = "",
        **options: Any,
    ) -> tuple[Any, list[str]]:
        """(model of an AutoModel class, names of weights that were drawn anew), an adapter merged into its base.

        `options` go to from_pretrained; a `dtype` that is a function is asked with config and kind. `may_be_new(model, name)` allows a weight to be missing, or of another shape;
        `remedy` ends the error about one that may not.
        """
        if callable(options.get("dtype")):
            options["dtype"] = options["dtype"](self.config(), kind)
        if self.gguf:
            from transformers.utils.quantization_config import GgufConfig

            options["quantization_config"] = GgufConfig(dequantize=True)
        with _no_bar() if self.gguf else nullcontext():
            made, info = kind.from_pretrained(
                self.weights, output_loading_info=True, ignore_mismatched_sizes=True, **self._given, **options
            )
        if self.gguf:
            # The weights are plain ones now; a folder that is trained from them must not say otherwise.
            made.config.__dict__.pop("quantization_config", None)
        saved = self._saved_by_adapter() if self.adapter else set()
        missing = sorted(name for name in info["missing_keys"] if f".{name}" not in saved)
        other = sorted(name for name, *_ in info["mismatched_keys"] if f".{name}" not in saved)
        lost = [name for name in (*missing, *other) if not may_be_new(made, name)]
        if lost:
            how = "does not hold" if set(lost) & set(missing) else "holds in another shape"
            use = f"so it is no {type(made).__name__}" + (f"; {remedy}" if remedy else "")
            raise RrkError(f"{self.path}: the checkpoint {how} {_named(lost)}, {use}")
        if self.adapter:
            made = self._merged(made)
        return made, [*missing, *other]

    def _saved_by_adapter(self) -> set[str]:
        """Weights that the adapter brings whole (modules_to_save), as `.score.weight`."""
        from peft.utils import load_peft_weights

        return {
            "." + name.removeprefix("base_model.model.").replace(".modules_to_save", "")
            for name in load_peft_weights(self.path, device="cpu")
            if ".lora_" not in name
        }

    def _merged(self, model: Any) -> Any:
        import warnings

        from peft import PeftModel

        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            wrapped = PeftModel.from_pretrained(model, self.path)
        missing = [str(w.message) for w in said if "missing adapter keys" in str(w.message)]
        if missing:
            raise RrkError(f"{self.path}: the adapter's file lacks weights that its {ADAPTER} speaks of: {missing[0]}")
        if not hasattr(wrapped, "merge_and_unload"):
            kind = self.adapter and self.adapter.get("peft_type")
            raise RrkError(f"{self.path}: an adapter of the kind {kind} cannot be merged into its base; LoRA can")
        return wrapped.merge_and_unload()


def find(path: str | Path) -> Checkpoint:
    """What stands behind a path or hub name. RrkError (one line) where an adapter's base is not found."""
    path = str(path)
    if path.endswith(".gguf"):
        file = Path(path)
        if not file.is_file():
            raise RrkError(f"{path}: no such file")
        _need_gguf(path)
        return Checkpoint(path, str(file.parent), gguf=file.name)
    settings = _adapter_settings(path)
    if settings is None:
        return Checkpoint(path, path)
    base = find(_base_of(Path(path), settings))
    if base.adapter:
        raise RrkError(f"{path}: its base, {base.path}, is an adapter too; merge that one first")
    return Checkpoint(path, base.weights, settings, base.gguf, base)


def generates(path: str | Path) -> bool:
    """Whether it was saved with a head that writes text."""
    with reading(path):
        found = find(path)
        task = found.adapter and found.adapter.get("task_type")
        return task == CAUSAL if task else not _writes_nothing(found.architecture())


def _writes_nothing(architecture: str) -> bool:
    return bool(_NO_WRITER.search(architecture) or _VALUE_HEAD.search(architecture))


def causal(path: str | Path, **options: Any) -> tuple[Any, Any]:
    """(generator, tokenizer); options go to from_pretrained. RrkError for classifiers, encoders and incomplete weights."""
    from transformers import AutoModelForCausalLM

    remedy = "give a folder with a transformers checkpoint, or a name on the hub (HF_HUB_OFFLINE is obeyed)"
    with reading(path, "a causal model", remedy):
        found = find(path)
        _refuse_task(found, CAUSAL, "a generator", "train-reranker made it? Then it goes to `rrk rerank -m`")
        architecture = found.architecture()
        if _writes_nothing(architecture):
            raise RrkError(f"{path}: {architecture} is no generator: it has no head that writes text")
        tokenizer = found.tokenizer()
        model, _ = found.model(AutoModelForCausalLM, **options)
    return model, tokenizer


def classifier(path: str | Path, **options: Any) -> tuple[Any, Any]:
    """(trained sequence classifier of one label, tokenizer). RrkError for what has no trained score."""
    from transformers import AutoModelForSequenceClassification

    with reading(path):
        found = find(path)
        _refuse_task(found, CLASSIFIER, "a reranker", f"`rrk train-reranker -m {path}` gives it a score")
        architecture, labels = found.architecture(), found.config().num_labels
        if _VALUE_HEAD.search(architecture):
            return _value_head(found, **options), found.tokenizer()
        if not found.adapter:
            if not architecture.endswith("ForSequenceClassification"):
                raise RrkError(
                    f"{path}: {architecture} has no trained score; `rrk train-reranker -m {path}` gives it one"
                )
            if labels != 1:
                raise RrkError(f"{path}: gives {labels} labels, a reranker gives one score")
        remedy = f"`rrk train-reranker -m {path}` trains a score"
        model, _ = found.model(AutoModelForSequenceClassification, remedy=remedy, num_labels=1, **options)
        return model, found.tokenizer()


def to_classify(path: str | Path, **options: Any) -> tuple[Any, Any, list[str]]:
    """(sequence classifier of one label, tokenizer, weights drawn anew) from a generator, an encoder or a classifier.

    Only what lies outside the trunk may be new, and an encoder's pooler, which masked language models are saved without.
    """
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    def outside(model: Any, name: str) -> bool:
        return not name.startswith(model.base_model_prefix + ".") or ".pooler." in name

    with reading(path):
        found = find(path)
        if found.adapter and found.adapter.get("task_type") == CAUSAL:
            # Its deltas are for the generator: merge there, then give the trunk a head.
            source, _ = found.model(AutoModelForCausalLM, **options)
            source.config.num_labels = 1
            model = AutoModelForSequenceClassification.from_config(source.config, **options)
            trunk, weights = model.base_model_prefix, getattr(source, source.base_model_prefix).state_dict()
            getattr(model, trunk).load_state_dict(weights)
            kept = {f"{trunk}.{name}" for name in weights}
            return model.eval(), found.tokenizer(), sorted(set(model.state_dict()) - kept)
        if found.adapter:
            _refuse_task(found, CLASSIFIER, "a reranker", "merge it into its base first")
        if _VALUE_HEAD.search(found.architecture()):
            # Not that model itself: it remembers what its weights were called, and would be saved so. The bias, one number for
            # all programs, is left behind.
            source = _value_head(found, **options)
            return on_trunk(source, source.score.weight).eval(), found.tokenizer(), []
        model, new = found.model(
            AutoModelForSequenceClassification,
            may_be_new=(lambda *_: False) if found.adapter else outside,
            num_labels=1,
            **options,
        )
        return model, found.tokenizer(), new


def on_trunk(source: Any, row: torch.Tensor) -> Any:
    """The sequence classifier of one label that has this model's trunk, shared with it, and `row` (1, hidden) as its score.

    RrkError where such an architecture has no plain score.
    """
    from transformers import AutoModelForSequenceClassification

    source.config.num_labels = 1
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(source.config)
    if not hasattr(model, "score"):
        raise RrkError(f"{type(model).__name__} has no 'score' layer that rrk knows how to read")
    setattr(model, model.base_model_prefix, getattr(source, source.base_model_prefix))
    model.score = nn.Linear(row.shape[1], 1, bias=False, device=row.device)
    with torch.no_grad():
        model.score.weight.copy_(row)
    return model


def _value_head(found: Checkpoint, **options: Any) -> Any:
    """The architecture's sequence classifier, but for a score with a bias, as value heads have one."""
    from transformers import AutoModelForSequenceClassification

    with torch.device("meta"):
        plain: Any = type(AutoModelForSequenceClassification.from_config(found.config()))

    class Biased(plain):
        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.score = nn.Linear(config.get_text_config().hidden_size, 1)

        @classmethod
        def from_config(cls, config: Any) -> Any:
            """As the Auto classes have it: their sizes are counted by it."""
            return cls(config)

    return found.model(Biased, key_mapping=_RENAMED, num_labels=1, **options)[0]


@contextmanager
def reading(path: str | Path, what: str = "a model", remedy: str = "") -> Iterator[None]:
    """Library chatter off (what matters of it is an error here), library errors in one line."""
    from safetensors import SafetensorError
    from transformers.utils import logging as chatter

    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    chatter.disable_progress_bar()  # rrk's own progress and nothing else on standard error
    try:
        yield
    except RrkError:
        raise
    except torch.OutOfMemoryError:
        raise
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise RrkError(f"cannot load {what} from {path}: {reason}" + (f"; {remedy}" if remedy else "")) from error
    finally:
        logger.setLevel(level)


def _adapter_settings(path: str) -> dict[str, Any] | None:
    from transformers.utils import find_adapter_config_file

    file = find_adapter_config_file(path)
    try:
        return orjson.loads(Path(file).read_bytes()) if file else None
    except orjson.JSONDecodeError as error:
        raise RrkError(f"{file}: damaged ({error})") from None


def _base_of(path: Path, settings: dict[str, Any]) -> str:
    """The base that an adapter names: as written, beside the adapter, on the hub."""
    name = settings.get("base_model_name_or_path")
    if not name:
        raise RrkError(f"{path}: its {ADAPTER} does not name the base model; write base_model_name_or_path into it")
    # A relative base was relative to where it was trained.
    for place in (Path(name), path / name, path.parent / name, path.parent / Path(name).name, path / Path(name).name):
        if place.exists():
            return str(place)
    if Path(name).is_absolute() or name.startswith(".") or name.count("/") > 1:
        beside = path.parent / Path(name).name
        raise RrkError(
            f"{path}: an adapter of {name}, which is not here; put its base model (or a link) at {beside}, "
            f"or write where it is as base_model_name_or_path into {path / ADAPTER}"
        )
    return name


def _refuse_task(found: Checkpoint, wanted: str, use: str, remedy: str) -> None:
    task = found.adapter and found.adapter.get("task_type")
    if task and task != wanted:
        kind = {CAUSAL: "a causal model", CLASSIFIER: "a classifier"}.get(task, task)
        raise RrkError(f"{found.path}: a LoRA adapter of {kind} is not {use}; {remedy}")


@contextmanager
def _no_bar() -> Iterator[None]:
    """The GGUF reader draws a bar of its own, which no setting of transformers switches off."""
    from transformers import modeling_gguf_pytorch_utils as reader

    bar = reader.tqdm
    reader.tqdm = lambda items, **_: items
    try:
        yield
    finally:
        reader.tqdm = bar


def _need_gguf(path: str) -> None:
    from importlib.util import find_spec

    if find_spec("gguf") is None:
        raise RrkError(f"{path}: GGUF files need the package gguf: pip install 'rrk[gguf]'")


def _named(names: list[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return shown + (f" and {len(names) - _SHOWN} more weights" if len(names) > _SHOWN else "")
