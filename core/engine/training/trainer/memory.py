"""What a job needs of the device's memory, and what is done if that is more than there is.

Weights, in this order: each process has the whole base, the layers are split over the processes of the job
(`sharding`), frozen matrices get 8 bits, then 4. Activations are computed twice instead of being kept (gradient
checkpointing, Chen et al. 2016, arXiv:1604.06174). What does not fit even so is said before the first step. All
processes decide the same, by the one with the least memory.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from core.engine.bases.machine import activation_bytes, checkpointed_bytes, gigabytes
from core.engine.formats.hf_folder import StoredTensor
from core.engine.formats.tokens import Encoded
from core.engine.launcher_settings import Shard
from core.engine.training.trainer import frozen
from core.engine.training.trainer.device import Device
from core.engine.training.trainer.frozen import Bits
from core.engine.training.trainer.model import TunableModel
from core.engine.training.trainer.ranks import ALONE, Ranks
from core.message import msg

_USABLE = 0.9  # of the free memory; the rest is for what the allocator cannot use and for the head's tiles
# Bytes per number of a frozen matrix, and for the scales of blocks of 4096 (8 bits) and 64 numbers (4 bits)
_PACKED: Mapping[Bits, float] = {8: 1, 4: 0.5}
_SCALES: Mapping[Bits, float] = {16: 0, 8: 4 / 4096, 4: 4 / 64}
_TRAINED_BYTES = 4  # a LoRA parameter, float32
_LEARNING_BYTES = 12  # its gradient, and the two moments of AdamW
_SUM_BYTES = 8  # while gradients are added over processes: weighted, and as one tensor
_GATHERED_LAYERS = 2  # of a split base: what has arrived from the other processes, and the matrices made of it
_LAYER_MATRIX = re.compile(r"\.layers\.(\d+)\.")


class DoesNotFit(MemoryError):
    """The job needs more memory than there is.

    Attributes:
        reason: what does not fit, for the user.
        next_step: what would fit.
    """

    def __init__(self, reason: str, next_step: str) -> None:
        super().__init__(reason)
        self.reason, self.next_step = reason, next_step


@dataclass(frozen=True, slots=True)
class WeightPlan:
    """How a base's weights are kept.

    Attributes:
        bits: per number of a layer's matrix.
        split: whether the layers are split over the job's processes.
    """

    bits: Bits
    split: bool


def plan_weights(
    stored: Mapping[str, StoredTensor], device: Device, lora_rank: int, ranks: Ranks = ALONE, shard: Shard = "never"
) -> WeightPlan:
    """How a base's weights fit on the device, with the adapter and what training it takes.

    Raises:
        DoesNotFit: in no way, or only with fewer than 16 bits and bitsandbytes is not installed.
    """
    free = _free(device, ranks)
    split = ranks.size > 1 and shard != "never"
    whole = not split or shard != "always"
    sizes = _Sizes.of(stored, device, lora_rank)
    ways = [WeightPlan(bits, is_split) for bits in (16, 8, 4) for is_split in [False] * whole + [True] * split]
    fits = [way for way in ways if sizes.needed(way, ranks.size) <= free]
    if fits and (fits[0].bits == 16 or frozen.can_quantise()):
        return fits[0]
    best = WeightPlan(16, split)
    needed = sizes.needed(best, ranks.size)
    if split:
        reason = msg(
            "Training needs {needed} GB of memory in each of {count} processes, with the base model's layers split "
            "over them, and {free} GB are free.",
            needed=gigabytes(needed),
            count=ranks.size,
            free=gigabytes(free),
        )
    else:
        reason = msg(
            "The base model's weights and the adapter need {needed} GB of memory, and {free} GB are free.",
            needed=gigabytes(needed),
            free=gigabytes(free),
        )
    count = sizes.processes(free) if shard != "never" else None
    if count is not None:
        next_step = msg(
            "Use at least {count} processes with as much memory each (FABULA_RAY_WORKERS), or choose a smaller base "
            "model.",
            count=count,
        )
    elif fits:
        next_step = msg(
            "Install requirements-gpu.txt to train with {bits}-bit weights ({needed} GB), or choose a smaller base "
            "model.",
            bits=fits[0].bits,
            needed=gigabytes(sizes.needed(fits[0], ranks.size)),
        )
    else:
        size = sizes.weights * free // needed
        next_step = msg("Choose a smaller base model: at most about {size} GB.", size=gigabytes(size))
    raise DoesNotFit(reason, next_step)


@dataclass(frozen=True, slots=True)
class _Sizes:
    """What a base is made of.

    Attributes:
        matrices: numbers in the matrices of its layers.
        largest_layer: those of the layer that has the most.
        others: numbers in its other tensors.
        trained: parameters of the adapter.
        item: bytes per number in the compute dtype.
    """

    matrices: int
    largest_layer: int
    others: int
    trained: int
    item: int

    @classmethod
    def of(cls, stored: Mapping[str, StoredTensor], device: Device, lora_rank: int) -> _Sizes:
        layers, trained, others = Counter[str](), 0, 0
        for name, tensor in stored.items():
            found = _LAYER_MATRIX.search(name)
            if found and len(tensor.shape) == 2:
                layers[found[1]] += tensor.size
                trained += lora_rank * sum(tensor.shape)
            else:
                others += tensor.size
        largest = max(layers.values(), default=0)
        return cls(layers.total(), largest, others, trained, device.dtype.itemsize)

    @property
    def weights(self) -> int:
        """Bytes of the base in the compute dtype."""
        return (self.matrices + self.others) * self.item

    def needed(self, way: WeightPlan, processes: int) -> int:
        """Bytes in each of the processes."""
        number = _PACKED.get(way.bits, self.item)
        numbers = self.matrices / processes + _GATHERED_LAYERS * self.largest_layer if way.split else self.matrices
        return self._fixed(processes) + int(numbers * number + self.matrices * _SCALES[way.bits])

    def processes(self, free: int) -> int | None:
        """The number of processes that is sufficient if the layers are split; None if no number is."""
        left = free - self._fixed(2) - _GATHERED_LAYERS * self.largest_layer * self.item
        return math.ceil(self.matrices * self.item / left) if left > 0 else None

    def _fixed(self, processes: int) -> int:
        """What every process has, in any case."""
        per_parameter = _TRAINED_BYTES + _LEARNING_BYTES + (_SUM_BYTES if processes > 1 else 0)
        return self.others * self.item + self.trained * per_parameter


def plan_activations(
    model: TunableModel, texts: Sequence[Encoded], texts_per_example: int, ranks: Ranks = ALONE
) -> bool:
    """Turn on gradient checkpointing if the model's activations do not fit otherwise; return whether it is on. If a
    whole micro-batch does not fit even so, micro-batches become smaller.

    Raises:
        DoesNotFit: the longest example does not fit even so.
    """
    sizes = [len(text.tokens) for text in texts]
    longest = max(sum(sizes[at : at + texts_per_example]) for at in range(0, len(sizes), texts_per_example))
    free = max(0, _free(model.device, ranks) - _to_come(model, ranks))
    tokens = max(model.device.batch_tokens, longest)
    if activation_bytes(model.n_layers, model.width, tokens) <= free:
        return False
    per_token = checkpointed_bytes(model.n_layers, model.width, 1)
    if per_token * longest > free:
        raise DoesNotFit(
            msg(
                "The longest example has {tokens} tokens and needs about {needed} GB of memory; {free} GB are free.",
                tokens=f"{longest:,}",
                needed=gigabytes(per_token * longest),
                free=gigabytes(free),
            ),
            msg(
                "Use examples of at most about {tokens} tokens, or a smaller base model.",
                tokens=f"{free // per_token:,}",
            ),
        )
    model.checkpoint_activations()
    fitting, device = free // per_token, model.device
    model.device = replace(
        device, batch_tokens=min(device.batch_tokens, fitting), row_tokens=min(device.row_tokens, fitting)
    )
    return True


def _free(device: Device, ranks: Ranks) -> int:
    """Usable bytes that every process has, once all of them have come here."""
    ranks.highest(0)
    return -ranks.highest(-int(device.free_bytes() * _USABLE))


def _to_come(model: TunableModel, ranks: Ranks) -> int:
    """Bytes that a loaded model takes from its first step on, without activations."""
    trained: int = sum(parameter.numel() for parameter in model.parameters())
    needed = trained * (_LEARNING_BYTES + (_SUM_BYTES if ranks.size > 1 else 0))
    if model.split_over.size > 1:
        needed += _GATHERED_LAYERS * model.largest_layer_bytes
    return needed
