"""Weights shared out among processes (ZeRO-3, by PyTorch's FSDP2), for models whose training does not fit one device.

    share_out(network, device)            # its parameters are slices now; before the optimiser is made
    with whole(network): ...              # all of its weights in every process: passes wait for no other process
    weights = gather(network)             # whole tensors on the CPU, whether shared out or not

Each of n processes keeps 1/n of weights, gradients and Adam's states. A training pass fetches a layer's weights and drops
them again, so all processes must make equally many (`passes`). Sampling does not: for a rollout the weights are whole.
Rajbhandari et al. 2020 (ZeRO), Zhao et al. 2023 (FSDP).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer


def share_out(network: nn.Module, device: torch.device, processes: int) -> None:
    """Replace every parameter by this process's slice, layer by layer (transformers' own list of what is a layer)."""
    mesh = init_device_mesh(device.type, (processes,))
    layers: set[str] = set()
    for module in network.modules():
        layers |= set(getattr(module, "_no_split_modules", None) or ())
    for module in list(network.modules()):
        if type(module).__name__ in layers:
            fully_shard(module, mesh=mesh)
    fully_shard(network, mesh=mesh)


@contextlib.contextmanager
def whole(network: nn.Module) -> Iterator[None]:
    """All weights here until the end; every process must come in and go out. Does nothing to a network that is not shared out."""
    parts = [module for module in network.modules() if isinstance(module, FSDPModule)]
    for part in parts:
        part.unshard()
    for layer in parts[1:]:  # what is in no layer stays whole between a pass forward and back, by FSDP's own rule
        layer.set_reshard_after_forward(False, recurse=False)
    try:
        yield
    finally:
        for part in parts:
            part.reshard()
        for layer in parts[1:]:
            layer.set_reshard_after_forward(True, recurse=False)


def passes(own: int) -> int:
    """The most passes that any process has to make."""
    return max(gather_object([own]))


def clip_gradients(parameters: Sequence[Tensor], most: float) -> float:
    """Scale gradients down to this norm over all processes' slices; the norm that they had."""
    norm = torch.nn.utils.clip_grad_norm_(parameters, most)
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)


def gather(network: nn.Module, keep: bool = True) -> dict[str, Tensor]:
    """Trained parameters by name, whole, on the CPU; a process that does not `keep` them takes part and gets none."""
    found = {n: _gathered(p.detach(), keep) for n, p in network.named_parameters() if p.requires_grad}
    return found if keep else {}


@torch.no_grad()
def load(network: nn.Module, weights: dict[str, Tensor]) -> None:
    """The inverse of `gather`; every process has the whole weights."""
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            parameter.copy_(_like(weights[name], parameter))


def gather_optimizer(optimizer: Optimizer, keep: bool = True) -> dict[str, Any]:
    """Its state_dict with whole tensors on the CPU, as `gather` does it."""
    state = optimizer.state_dict()
    moments = {i: {k: _gathered(v, keep) for k, v in own.items()} for i, own in state["state"].items()}
    return {**state, "state": moments} if keep else {}


def load_optimizer(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """The inverse of `gather_optimizer`; every process has the whole state."""
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    moments = {
        i: {k: _like(v, trained[i]) if v.shape == trained[i].shape else v for k, v in own.items()}
        for i, own in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": moments})


def _gathered(value: Tensor, keep: bool) -> Tensor:
    value = value.full_tensor() if isinstance(value, DTensor) else value
    return value.to("cpu", copy=True) if keep else torch.empty(0)


def _like(value: Tensor, parameter: Tensor) -> Tensor:
    # The slice of a whole tensor that this process has of the parameter.
    if not isinstance(parameter, DTensor):
        return value
    return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)
