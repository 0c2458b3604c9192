"""Direct preference optimization: learns which of two answers people prefer.

Rafailov et al. 2023, arXiv:2305.18290, equation 7. With log p(answer) the sum over its trained tokens, the reward of an
answer is β · (log p under the model - log p under the reference), and the loss of a pair is
-log σ(reward of the preferred answer - reward of the rejected one). The reference is the model at the start of the job.
The same loss as TRL's `DPOTrainer` with `loss_type="sigmoid"` (docs/benchmarks.md).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from core.engine.formats.tokens import Encoded
from core.engine.training.trainer.model import TunableModel
from core.engine.training.trainer.objective import BatchScore, TrainingStopped, predictions
from core.engine.training.trainer.packing import Row


@dataclass(slots=True)
class PairTally:
    """Sums over pairs."""

    pairs: int = 0
    loss: float = 0.0
    margin: float = 0.0
    preferred: int = 0

    @property
    def weight(self) -> float:
        """The number of pairs."""
        return self.pairs

    def score(self) -> BatchScore:
        """See `objective.Tally`."""
        return BatchScore(
            self.loss / self.pairs, reward_accuracy=self.preferred / self.pairs, reward_margin=self.margin / self.pairs
        )


class DirectPreference:
    """The objective; create it before the saved state of a job is loaded, because it keeps the model's first state.

    The reference's log-probabilities are computed when a pair is first seen and kept for the following epochs. After a
    restart they are computed again.
    """

    texts_per_example = 2

    def __init__(self, model: TunableModel, beta: float) -> None:
        self._model, self._beta = model, beta
        self._first = [parameter.detach().clone() for parameter in model.parameters()]
        self._reference: dict[bytes, float] = {}  # hash of a text → its log-probability

    def tally(self) -> PairTally:
        """See `objective.Objective`."""
        return PairTally()

    def run_pass(self, texts: Sequence[Encoded], tally: PairTally, stop: Callable[[], bool], *, learn: bool) -> None:
        """See `objective.Objective`. `texts` are pairs: a preferred answer, then the rejected one."""
        pairs = list(zip(texts[::2], texts[1::2], strict=True))
        batches = [(rows, [_key(text) for row in rows for text in row]) for rows in self._model.micro_batches(pairs)]
        self._add_references([rows for rows, keys in batches if not self._reference.keys() >= set(keys)], stop)
        for rows, keys in batches:
            if stop():
                raise TrainingStopped
            reference = torch.tensor([self._reference[key] for key in keys], device=self._model.device.place)
            hidden, result, owners = predictions(self._model, rows, learn=learn)
            rewards = self._beta * (_log_probabilities(result.loss, owners, len(reference)) - reference)
            margins = rewards[::2] - rewards[1::2]
            if learn:
                # d loss / d log p of the preferred answer, and minus that of the rejected one; log p = -Σ loss
                slopes = self._beta * torch.sigmoid(-margins) / len(pairs)
                hidden.backward(result.gradient * torch.stack([slopes, -slopes], dim=1).flatten()[owners][:, None])
            tally.loss += float(torch.nn.functional.softplus(-margins).sum())
            tally.margin += float(margins.sum())
            tally.preferred += int((margins > 0).sum())
        tally.pairs += len(pairs)

    def _add_references(self, batches: list[list[Row]], stop: Callable[[], bool]) -> None:
        """Compute the log-probabilities of these texts under the reference."""
        for rows in self._model.aligned(batches):
            if stop():
                raise TrainingStopped
            keys = [_key(text) for row in rows for text in row]
            with self._first_state():
                _, result, owners = predictions(self._model, rows, learn=False)
            found = _log_probabilities(result.loss, owners, len(keys))
            self._reference |= zip(keys, found.tolist(), strict=True)

    @contextmanager
    def _first_state(self) -> Iterator[None]:
        """The model with its parameters as they were at the start of the job."""
        parameters = list(self._model.parameters())
        current = [parameter.data for parameter in parameters]
        try:
            for parameter, first in zip(parameters, self._first, strict=True):
                parameter.data = first
            yield
        finally:
            for parameter, value in zip(parameters, current, strict=True):
                parameter.data = value


def _log_probabilities(loss: Tensor, owners: Tensor, n: int) -> Tensor:
    """log p of each of n answers, [n]."""
    return -torch.zeros(n, device=loss.device).index_add_(0, owners, loss)


def _key(text: Encoded) -> bytes:
    """Identifies a text; 16 bytes, because there may be millions."""
    parts = (np.asarray(text.tokens, np.int32), np.asarray(text.trained, np.bool_))
    return hashlib.blake2b(b"".join(part.tobytes() for part in parts), digest_size=16).digest()
