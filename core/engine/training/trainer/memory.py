"""What a job needs of the device's memory, and what is done if that is more than there is.

In this order: activations are computed twice instead of being kept (gradient checkpointing, Chen et al. 2016,
arXiv:1604.06174), frozen matrices get 8 bits, then 4. What does not fit even so is said before the first step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from core.engine.bases.machine import activation_bytes, gigabytes
from core.engine.formats.hf_folder import StoredTensor
from core.engine.formats.tokens import Encoded
from core.engine.training.trainer import frozen
from core.engine.training.trainer.device import Device
from core.engine.training.trainer.frozen import Bits
from core.engine.training.trainer.model import TunableModel
from core.message import msg

_USABLE = 0.9  # of the free memory; the rest is for what the allocator cannot use and for the head's tiles
# Bytes per parameter, with the scales of blocks of 4096 (8 bits) and 64 numbers (4 bits)
_BYTES: Mapping[Bits, float] = {8: 1 + 4 / 4096, 4: 0.5 + 4 / 64}
_HIDDEN_BYTES = 4  # float32


class DoesNotFit(MemoryError):
    """The job needs more memory than there is.

    Attributes:
        reason: what does not fit, for the user.
        next_step: what would fit.
    """

    def __init__(self, reason: str, next_step: str) -> None:
        super().__init__(reason)
        self.reason, self.next_step = reason, next_step


def frozen_bits(stored: Mapping[str, StoredTensor], device: Device) -> Bits:
    """The most bits with which a base's matrices fit on the device.

    Raises:
        DoesNotFit: not even with 4, or fewer than 16 would be needed and bitsandbytes is not installed.
    """
    free = int(device.free_bytes() * _USABLE)
    matrices = sum(_count(tensor) for name, tensor in stored.items() if _is_layer_matrix(name, tensor))
    others = sum(map(_count, stored.values())) - matrices
    item = device.dtype.itemsize
    needed = {16: (matrices + others) * item}
    needed |= {bits: int(matrices * size) + others * item for bits, size in _BYTES.items()}
    fits = [bits for bits in (16, 8, 4) if needed[bits] <= free]
    if 16 in fits:
        return 16
    reason = msg(
        "The base model's weights need {needed} GB of memory, and {free} GB are free.",
        needed=gigabytes(needed[16]),
        free=gigabytes(free),
    )
    if not fits:
        raise DoesNotFit(reason, msg("Choose a smaller base model: at most about {size} GB.", size=gigabytes(free)))
    best: Bits = 8 if 8 in fits else 4
    if not frozen.can_quantise():
        raise DoesNotFit(
            reason,
            msg(
                "Install requirements-gpu.txt to train with {bits}-bit weights ({needed} GB), or choose a smaller base "
                "model.",
                bits=best,
                needed=gigabytes(needed[best]),
            ),
        )
    return best


def plan_activations(model: TunableModel, texts: Sequence[Encoded], texts_per_example: int) -> bool:
    """Turn on gradient checkpointing if the model's activations do not fit otherwise; return whether it is on. If a
    whole micro-batch does not fit even so, micro-batches become smaller.

    Raises:
        DoesNotFit: the longest example does not fit even so.
    """
    sizes = [len(text.tokens) for text in texts]
    longest = max(sum(sizes[at : at + texts_per_example]) for at in range(0, len(sizes), texts_per_example))
    free = int(model.device.free_bytes() * _USABLE)
    tokens = max(model.device.batch_tokens, longest)
    if activation_bytes(model.n_layers, model.width, tokens) <= free:
        return False
    per_token = _HIDDEN_BYTES * model.n_layers * model.width + activation_bytes(1, model.width, 1)
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


def _is_layer_matrix(name: str, tensor: StoredTensor) -> bool:
    return ".layers." in name and len(tensor.shape) == 2


def _count(tensor: StoredTensor) -> int:
    count = 1
    for size in tensor.shape:
        count *= size
    return count
