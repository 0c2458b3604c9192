"""`python -m tests.support.split_gradients RANK SIZE STORE FOLDER…`: compares each model's loss and gradients whole and
with its layers split over all processes. Exits with 1 if they differ.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, distributed

from core.engine.formats.tokens import Encoded
from core.engine.training.trainer import model
from core.engine.training.trainer.device import cpu
from core.engine.training.trainer.objective import Supervised
from core.engine.training.trainer.ranks import ProcessGroup
from core.engine.training.trainer.sharding import LayerSplit

_LENGTHS = ((200,), (400, 300, 20))  # one micro-batch in the first process, two in the second


def _learned(tunable: model.TunableModel, rank: int) -> tuple[float, list[Tensor]]:
    """Loss and gradients after a pass without gradients and one with them."""
    tunable.initialise(0)
    random = np.random.default_rng(rank)
    with torch.no_grad():
        for layer in tunable.lora.values():
            layer.lora_b.fill_(0.01)
    words = tunable.head.shape[0]
    texts = [
        Encoded(tuple(random.integers(10, words, length).tolist()), (False, *[True] * (length - 1)))
        for length in _LENGTHS[rank]
    ]
    objective = Supervised(tunable)
    tally = objective.tally()
    objective.run_pass(texts, tally, lambda: False, learn=False)
    objective.run_pass(texts, tally, lambda: False, learn=True)
    return tally.score().loss, [parameter.grad for parameter in tunable.parameters() if parameter.grad is not None]


def _are_same(folder: Path, ranks: ProcessGroup) -> bool:
    whole = model.load(folder, cpu(), 4, 8.0)
    split = model.load(folder, cpu(), 4, 8.0, split=LayerSplit(ranks, cpu().place))
    (loss, gradients), (split_loss, split_gradients) = (_learned(part, ranks.rank) for part in (whole, split))
    shares = (part.weight.to_local().numel() / part.weight.numel() for part in split.lora.values())
    return (
        abs(loss - split_loss) < 1e-4
        and all(share <= 0.6 for share in shares)  # a matrix of few rows is not divided evenly
        and any(gradient.norm() > 0 for gradient in gradients)
        and all(torch.allclose(a, b, atol=1e-5, rtol=1e-3) for a, b in zip(gradients, split_gradients, strict=True))
    )


def main(rank: int, size: int, store: str, folders: list[Path]) -> int:
    """Compare all models; return the exit code."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
    ranks = ProcessGroup()
    different = [folder for folder in folders if not _are_same(folder, ranks)]
    print(*different, file=sys.stderr)
    distributed.destroy_process_group()
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], [Path(name) for name in sys.argv[4:]]))
