"""Texts of different lengths in few rows: nothing is lost, and loss and gradient do not change."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="requirements-engine.txt is not installed")

from core.engine.formats import weights  # noqa: E402
from core.engine.formats.tokens import Encoded  # noqa: E402
from core.engine.training.trainer import model  # noqa: E402
from core.engine.training.trainer.device import cpu  # noqa: E402
from core.engine.training.trainer.dpo import DirectPreference  # noqa: E402
from core.engine.training.trainer.objective import Objective, Supervised  # noqa: E402
from core.engine.training.trainer.packing import batch_tensors, micro_batches  # noqa: E402
from tests.support.tiny_gemma import write_tiny_gemma  # noqa: E402


def _texts(lengths: list[int]) -> list[Encoded]:
    random = np.random.default_rng(0)
    return [
        Encoded((2, *map(int, random.integers(10, 200, length - 1))), (False,) * 2 + (True,) * (length - 2))
        for length in lengths
    ]


@pytest.mark.parametrize(
    ("lengths", "batch_tokens", "row_tokens", "n_tokens"),
    [
        ([10, 100, 20, 30, 40], 640, 100, [200]),  # padded: 500
        ([10, 100, 20, 30, 40], 100, 100, [100, 100]),
        ([50, 50, 50], 640, 256, [150]),  # nothing to gain
        ([50, 50, 50], 100, 256, [100, 50]),
        ([900, 5, 5, 5], 640, 64, [15, 900]),
        ([7], 1, 1, [7]),
    ],
)
@pytest.mark.parametrize("per_example", [1, 2])
def test_every_text_has_its_place(
    lengths: list[int], batch_tokens: int, row_tokens: int, n_tokens: list[int], per_example: int
) -> None:
    texts = _texts([length for length in lengths for _ in range(per_example)])
    examples = [tuple(texts[at : at + per_example]) for at in range(0, len(texts), per_example)]
    batches = micro_batches(
        examples, batch_tokens=batch_tokens * per_example, row_tokens=row_tokens * per_example, packs=True
    )
    found = [[text for row in rows for text in row] for rows in batches]
    together = [tuple(flat[at : at + per_example]) for flat in found for at in range(0, len(flat), per_example)]
    assert Counter(together) == Counter(examples)
    sizes = [batch_tensors(rows).ids.numel() for rows in batches]
    if per_example == 1:
        assert sizes == n_tokens
    assert all(size <= max(batch_tokens, max(lengths)) * per_example for size in sizes)


@pytest.mark.parametrize("method", ["supervised", "dpo"])
def test_packing_changes_neither_loss_nor_gradient(method: str, tmp_path: Path) -> None:
    gguf = write_tiny_gemma(tmp_path / "tiny.gguf")
    weights.convert(gguf, tmp_path / "weights", lambda _: None)
    texts = _texts([6, 90, 8, 30, 12, 7, 25, 9])
    results = []
    for packs in (True, False):
        tunable = replace(model.load(tmp_path / "weights", cpu(), 4, 8.0), packs=packs)
        tunable.initialise(0)
        objective: Objective[Any] = Supervised(tunable) if method == "supervised" else DirectPreference(tunable, 0.1)
        tally = objective.tally()
        objective.run_pass(texts, tally, lambda: False, learn=True)
        rows = tunable.micro_batches([(text,) for text in texts])
        results.append((tally.score(), [p.grad for p in tunable.parameters()], batch_tensors(rows[0]).places))
    (packed, packed_gradients, places), (padded, padded_gradients, no_places) = results
    assert places is not None and no_places is None
    assert packed.loss == pytest.approx(padded.loss, rel=1e-5)
    assert packed.sequence_accuracy == padded.sequence_accuracy
    assert packed.reward_accuracy == padded.reward_accuracy
    assert any(gradient.norm() > 0 for gradient in packed_gradients)
    assert all(
        torch.allclose(a, b, atol=1e-5, rtol=1e-3) for a, b in zip(packed_gradients, padded_gradients, strict=True)
    )
