"""Splits a base model over the processes of a job, so that none has it whole: PyTorch's FSDP2 (`fully_shard`; Zhao et
al. 2023, arXiv:2304.11277).

Each process keeps an equal share of the rows of every adapted matrix. Before a layer computes, in the forward pass and
again in the backward pass, its matrices are gathered from all processes, and freed afterwards. Everything else stays
whole in each process: embedding and head, norms, and the trainable LoRA matrices, whose gradients are added as without
splitting (`ranks`).

Gathering waits for every process, so all must run the same number of passes: `TunableModel.aligned` sees to that.
"""

from __future__ import annotations

import ctypes
from collections.abc import Set

import torch
from torch import nn

from core.engine.training.trainer.ranks import Ranks

_M_MMAP_THRESHOLD = -3  # of mallopt(3)
_MMAP_BYTES = 1 << 20  # below a matrix, above almost everything else


class LayerSplit:
    """Splits the layers of one model, one after another while they are loaded.

    With NCCL on GPUs it has not been tried on hardware.
    """

    def __init__(self, ranks: Ranks, place: torch.device) -> None:
        from torch.distributed import group
        from torch.distributed.device_mesh import DeviceMesh

        self._ranks, self._layers = ranks, list[nn.Module]()
        self._mesh = DeviceMesh.from_group(group.WORLD, place.type)
        if place.type == "cpu":
            _return_freed_memory()

    def add(self, layer: nn.Module, matrices: Set[nn.Parameter]) -> None:
        """Keep only this process's share of a layer's `matrices`."""
        from torch.distributed.fsdp import fully_shard

        others = set(layer.parameters()) - matrices
        fully_shard(layer, mesh=self._mesh, reshard_after_forward=True, ignored_params=others)
        self._layers.append(layer)

    def finish(self, body: nn.Module) -> Ranks:
        """Connect the layers once all are loaded; return the processes."""
        from torch.distributed.fsdp import fully_shard

        fully_shard(body, mesh=self._mesh, ignored_params=set(body.parameters()))
        # In the backward pass the layer before is gathered meanwhile; the first one has none. PyTorch's own order would
        # gather the last layer of an earlier forward pass without gradients (validation, a reference) instead.
        for layer, before in zip(self._layers, [self._layers[0], *self._layers], strict=False):
            layer.set_modules_to_backward_prefetch([before])
        return self._ranks


def _return_freed_memory() -> None:
    """Let the C library return freed matrices to the system. Otherwise those of each layer leave a gap between the
    activations that are kept, into which the next layer's do not fit, and the process becomes as large as the base.
    """
    if (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)) is not None:  # glibc
        mallopt(_M_MMAP_THRESHOLD, _MMAP_BYTES)
