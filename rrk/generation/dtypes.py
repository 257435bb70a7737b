"""Which number format a model computes in, where the user leaves that to us.

    dtype = pick(asked, device, lambda: parameters(config, AutoModelForCausalLM))

- On a GPU: as saved.
- On a CPU: bfloat16 where the processor multiplies it (AMX, AVX512-BF16) and the model is LARGE, else float32. Measured with
  AVX512-BF16, 2 cores, decoding 64 rows and prefill: 1.7 to 2.9 times float32 at 25M parameters, 1.3 to 2.7 at 135M, 2.0 to 3.5
  at 0.5B, but 1.2 to 1.9 at 6M; a model so small is done in seconds, and float32 gives it the same bits in any batch.
- Training with --bf16 on a CPU that has no such instructions computes in float32 (`autocast`): emulated, a product took 5 to 7
  times as long as in float32 (AVX2).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from rrk.errors import UsageError
from rrk.generation import int8

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
INT8 = "int8"
LARGE = 20_000_000  # parameters


def pick(asked: str, device: torch.device, size: Callable[[], int]) -> Any:
    """What `dtype=` of from_pretrained takes: a torch.dtype, or "auto" for as saved. UsageError: no such format.

    `size` counts the model's parameters; called only where that decides.
    """
    if asked == INT8:
        int8.check(device)
        return "auto"  # and once it is there, `settle` makes it smaller
    if asked != "auto":
        if asked not in DTYPES:
            raise UsageError(f"--dtype {asked}: one of auto, {', '.join(DTYPES)}, {INT8}")
        return DTYPES[asked]
    if device.type != "cpu":
        return "auto"
    return torch.bfloat16 if multiplies_bfloat16() and size() >= LARGE else torch.float32


def picker(asked: str, device: torch.device) -> Callable[[Any, Any], Any]:
    """pick() for when the model's config and Auto class are known; a name that is none is refused at once."""
    pick(asked, device, lambda: 0)
    return lambda config, kind: pick(asked, device, lambda: parameters(config, kind))


def settle(asked: str, model: Any, part: Any = None) -> None:
    """What is left to do for --dtype once a model is loaded. `part`: the only part of it that may be in 8 bits."""
    if asked == INT8:
        int8.shrink(model if part is None else part)
        model.float()


def multiplies_bfloat16() -> bool:
    """Whether this processor has instructions for it. oneDNN emulates them on others, and is then slower than float32."""
    return any(getattr(torch.cpu, name, bool)() for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"))


def autocast(asked: bool, device: torch.device, note: Callable[[str], None]) -> bool:
    """Whether training computes in bfloat16: where --bf16 asks for it, but on a CPU that only emulates it, which `note` is told."""
    if asked and device.type == "cpu" and not multiplies_bfloat16():
        note("--bf16: this CPU does not multiply bfloat16, and is faster in float32; computing in float32")
        return False
    return asked


def parameters(config: Any, kind: Any) -> int:
    """Parameters of such a model, counted without allocating any; `kind` is transformers' Auto class."""
    with torch.device("meta"):
        return kind.from_config(config).num_parameters()


def name(model: Any) -> str:
    """The format of a loaded model's weights, as --dtype calls it; of most of them, where a head is kept wider."""
    if int8.is_int8(model):
        return INT8
    counts: dict[torch.dtype, int] = {}
    for weight in model.parameters():
        counts[weight.dtype] = counts.get(weight.dtype, 0) + weight.numel()
    return str(max(counts, key=lambda dtype: counts[dtype])).removeprefix("torch.")
