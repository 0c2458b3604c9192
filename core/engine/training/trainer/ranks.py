"""The processes that train one job together. Each computes a share of every batch; their gradients are added.

The sum is the gradient of the whole batch's mean loss, so that the curve is that of one process with the same batch,
except for rounding. It is the gradient that PyTorch's DistributedDataParallel computes. The loop adds it once per step
itself, because it accumulates over micro-batches and its objectives call the model's parts directly.

Rank 0 alone writes to the job folder, and decides when to stop.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple
from typing import Any, Protocol, TypeVar, cast

import torch
from torch import Tensor, nn

T = TypeVar("T")


class Ranks(Protocol):
    """This process among those of a job.

    Attributes:
        rank: from 0.
        size: number of processes.
        local_size: number of those on this machine.
    """

    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int: ...

    @property
    def local_size(self) -> int: ...

    def share(self, texts: Sequence[T], per_example: int) -> Sequence[T]:
        """This process's examples of a batch; an example's texts stay together."""

    def from_first(self, compute: Callable[[], T]) -> T:
        """What rank 0 computes; the others wait for it."""

    def highest(self, value: int) -> int:
        """The highest value of all processes."""

    def total(self, tally: T) -> T:
        """The sums of all processes; `tally` is a dataclass of numbers."""

    def sum_gradients(self, parameters: Iterable[nn.Parameter], weight: float) -> None:
        """Replace each gradient by the sum over all processes of gradient times `weight`."""


class Alone:
    """A job with one process."""

    rank, size, local_size = 0, 1, 1

    def share(self, texts: Sequence[T], per_example: int) -> Sequence[T]:
        """See `Ranks`."""
        return texts

    def from_first(self, compute: Callable[[], T]) -> T:
        """See `Ranks`."""
        return compute()

    def highest(self, value: int) -> int:
        """See `Ranks`."""
        return value

    def total(self, tally: T) -> T:
        """See `Ranks`."""
        return tally

    def sum_gradients(self, parameters: Iterable[nn.Parameter], weight: float) -> None:
        """See `Ranks`."""


ALONE = Alone()


class ProcessGroup:
    """The processes of PyTorch's default process group.

    Small values travel through a group of their own on the CPU (gloo), gradients through the default one (NCCL on GPUs,
    which has not been tried on hardware).
    """

    def __init__(self) -> None:
        from torch import distributed

        self._distributed = distributed
        self.rank, self.size = distributed.get_rank(), distributed.get_world_size()
        self._values = distributed.new_group(backend="gloo")
        names: list[Any] = [None] * self.size
        distributed.all_gather_object(names, socket.gethostname(), group=self._values)
        self.local_size = names.count(names[self.rank])

    def share(self, texts: Sequence[T], per_example: int) -> Sequence[T]:
        """See `Ranks`."""
        starts = range(self.rank * per_example, len(texts), self.size * per_example)
        return [text for start in starts for text in texts[start : start + per_example]]

    def from_first(self, compute: Callable[[], T]) -> T:
        """See `Ranks`."""
        box: list[Any] = [compute() if self.rank == 0 else None]
        self._distributed.broadcast_object_list(box, src=0, group=self._values)
        return cast("T", box[0])

    def highest(self, value: int) -> int:
        """See `Ranks`."""
        found = torch.tensor(value)
        self._distributed.all_reduce(found, self._distributed.ReduceOp.MAX, group=self._values)
        return int(found)

    def total(self, tally: T) -> T:
        """See `Ranks`."""
        sums = torch.tensor(astuple(cast("Any", tally)), dtype=torch.float64)
        self._distributed.all_reduce(sums, group=self._values)
        return type(tally)(*sums.tolist())

    def sum_gradients(self, parameters: Iterable[nn.Parameter], weight: float) -> None:
        """See `Ranks`. All gradients travel as one tensor; a process without examples adds zeros."""
        found = list(parameters)
        parts = [torch.zeros_like(part) if part.grad is None else part.grad * weight for part in found]
        flat = torch.cat([part.flatten() for part in parts])
        self._distributed.all_reduce(flat)
        for parameter, gradient in zip(found, _split(flat, found), strict=True):
            parameter.grad = gradient


def _split(flat: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    parts = flat.split([part.numel() for part in like])
    return [part.view_as(one) for part, one in zip(parts, like, strict=True)]
