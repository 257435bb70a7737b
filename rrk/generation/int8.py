"""Linear layers in 8 bits, for reading and sampling on a CPU (`--dtype int8`): W8A8, as Dettmers et al. 2022 (arXiv 2208.07339,
section 2.1) quantise by vectors: a scale for each row of the weights, and for each token's activations as they come.

    int8.check(device)          # UsageError where it would be slow or wrong
    int8.shrink(model)          # in place; the rest should be float32

A processor with VNNI multiplies 8-bit integers three to four times as fast as float32 and reads a quarter of the bytes: Qwen 0.5B
samples in half the time, and loses .006 nats a token (tests/benchmarks/README.md). Nothing is trained in it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rrk.errors import UsageError

_MOST = 127


class Int8Linear(nn.Module):
    """A linear layer's stand-in. weight: int8 [out, in]; scale: float32 [out]. `tied`: its weights are an embedding's, too."""

    weight: Tensor
    scale: Tensor

    def __init__(self, layer: nn.Linear, tied: bool = False):
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        weight, scale = quantise(layer.weight.detach().float())
        # A parameter, though nothing trains it: a model's size is read off its parameters. Shared ones count once.
        if tied:
            self.register_buffer("weight", weight)
        else:
            self.weight = nn.Parameter(weight, requires_grad=False)
        self.register_buffer("scale", scale.squeeze(-1))
        self.bias = layer.bias

    def forward(self, given: Tensor) -> Tensor:
        """[..., in] -> [..., out], float32."""
        tokens, scale = quantise(given.reshape(-1, self.in_features))
        out = torch._int_mm(tokens, self.weight.t()).float().mul_(scale).mul_(self.scale)
        if self.bias is not None:
            out += self.bias
        return out.view(*given.shape[:-1], self.out_features)


def quantise(values: Tensor) -> tuple[Tensor, Tensor]:
    """(int8 values, float32 scales [..., 1]): each row by its largest."""
    scale = values.abs().amax(-1, keepdim=True).div_(_MOST).clamp_(min=torch.finfo(torch.float32).tiny)
    return (values / scale).round_().to(torch.int8), scale


def check(device: torch.device) -> None:
    """UsageError where 8-bit products are not what a processor is good at."""
    if device.type != "cpu":
        raise UsageError("--dtype int8 is for CPUs; on a GPU leave --dtype out, or give bfloat16")
    if not torch.cpu._is_vnni_supported():
        raise UsageError("--dtype int8: this CPU has no instructions for it (VNNI); leave --dtype out")


def shrink(part: nn.Module) -> None:
    """Replace the linear layers of a model, or of a part of one."""
    embedded = {id(module.weight) for module in part.modules() if isinstance(module, nn.Embedding)}
    for parent in list(part.modules()):
        for name, layer in list(parent.named_children()):
            if type(layer) is nn.Linear:
                setattr(parent, name, Int8Linear(layer, id(layer.weight) in embedded))


def is_int8(model: nn.Module) -> bool:
    """Whether `shrink` was here."""
    return any(isinstance(module, Int8Linear) for module in model.modules())
