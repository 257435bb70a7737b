"""QLoRA (Dettmers et al. 2023): frozen linear layers in 4 bits (NF4, scales quantised too), adapters in float32.

    quantised.check()                                 # UsageError: bitsandbytes is not installed
    quantised.shrink(model, keep=[head], bf16=True)   # before the Trainer wraps the model ...
    quantised.widen(trainer.model)                    # ... and after: TRL makes adapters of 4-bit models bf16
    runs.merged(trained, lambda: quantised.rounded(fresh, keep=[head]))

An adapter has learnt to go with weights that were rounded to 4 bits, so it is added to those, as float32: what is saved scores as
what was trained. On a CPU or a GPU, wherever bitsandbytes works.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from rrk.errors import UsageError

_KIND = "nf4"
_BLOCK = 64  # numbers that share a scale


def check() -> None:
    """UsageError with the remedy where 4-bit layers cannot be made."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UsageError("--qlora: pip install 'bitsandbytes>=0.48' (or rrk's extra qlora)")


def shrink(model: Any, keep: Sequence[nn.Module | None] = (), bf16: bool = False) -> None:
    """Replace linear layers but the output and `keep` (and narrow ones) by 4-bit ones that compute in bfloat16 or float32."""
    import bitsandbytes as bnb

    for parent, name, layer in list(_layers(model, keep)):
        device, bias = layer.weight.device, layer.bias is not None
        compute = torch.bfloat16 if bf16 else torch.float32
        new = bnb.nn.Linear4bit(layer.in_features, layer.out_features, bias, compute_dtype=compute, quant_type=_KIND)
        new.weight = bnb.nn.Params4bit(layer.weight.data, requires_grad=False, quant_type=_KIND)
        new.bias = layer.bias
        new.support_avx512bf16_for_cpu = False  # evaluating would repack the weights, for a kernel of fewer digits
        setattr(parent, name, new.to(device))  # which quantises
    model.is_loaded_in_4bit = True  # PEFT asks


def widen(model: nn.Module) -> None:
    """What is trained, in float32: Adam's steps are smaller than bfloat16 can tell."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def rounded(model: Any, keep: Sequence[nn.Module | None] = ()) -> Any:
    """The model with the values that shrink() leaves of its weights, in their own type."""
    from bitsandbytes import functional

    for _, _, layer in _layers(model, keep):
        packed, state = functional.quantize_4bit(layer.weight.data, quant_type=_KIND, compress_statistics=True)
        layer.weight.data = functional.dequantize_4bit(packed, state).to(layer.weight.dtype)
    return model


def _layers(model: Any, keep: Sequence[nn.Module | None]) -> Iterator[tuple[nn.Module, str, nn.Linear]]:
    """(parent, its name for it, layer) of what is made smaller."""
    kept = {id(layer) for layer in (*keep, model.get_output_embeddings())}
    for parent in model.modules():
        for name, layer in parent.named_children():
            # bitsandbytes' kernel for CPUs reads rows of whole blocks only.
            if type(layer) is nn.Linear and id(layer) not in kept and layer.in_features % _BLOCK == 0:
                yield parent, name, layer
