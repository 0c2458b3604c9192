"""Training objectives: what a training method (`core.engine.job_rules.METHODS`) computes from its examples, and the
supervised one.

The loop handles steps, learning rate, optimizer, checkpoints and stopping, in the same way for every method.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from core.engine.formats.tokens import Encoded
from core.engine.training.trainer import gpu_head, head
from core.engine.training.trainer.head import HeadResult
from core.engine.training.trainer.model import TunableModel
from core.engine.training.trainer.packing import Row, batch_tensors


class TrainingStopped(Exception):
    """A stop was requested during a pass over examples; the pass is discarded."""


@dataclass(frozen=True, slots=True)
class BatchScore:
    """Means over examples. None if the method has no such figure.

    Attributes:
        loss: in nats; for supervised training per trained token, for DPO per pair of answers.
        token_accuracy: fraction of trained tokens that were the most likely one.
        sequence_accuracy: fraction of examples in which all were.
        reward_accuracy: fraction of pairs whose preferred answer has the higher reward (`trainer.dpo`).
        reward_margin: reward of the preferred answer minus that of the rejected one.
    """

    loss: float
    token_accuracy: float | None = None
    sequence_accuracy: float | None = None
    reward_accuracy: float | None = None
    reward_margin: float | None = None


class Tally(Protocol):
    """Running sums over examples; a dataclass of numbers."""

    @property
    def weight(self) -> float:
        """The number of what the loss is a mean of."""

    def score(self) -> BatchScore:
        """The means."""


TallyT = TypeVar("TallyT", bound=Tally)


class Objective(Protocol[TallyT]):
    """One training method on one model.

    Attributes:
        texts_per_example: texts in the job's files that belong to one example, one after another.
    """

    texts_per_example: int

    def tally(self) -> TallyT:
        """Sums of nothing yet."""

    def run_pass(self, texts: Sequence[Encoded], tally: TallyT, stop: Callable[[], bool], *, learn: bool) -> None:
        """Add the sums over `texts` to `tally` and, with `learn`, the gradient of their mean loss to the parameters.

        Raises:
            TrainingStopped: `stop()` became true; it is checked before every micro-batch.
        """


@dataclass(slots=True)
class TokenTally:
    """Sums over examples and their trained tokens."""

    labels: int = 0
    examples: int = 0
    loss: float = 0.0
    correct_tokens: int = 0
    correct_examples: int = 0

    @property
    def weight(self) -> float:
        """The number of trained tokens."""
        return self.labels

    def score(self) -> BatchScore:
        """See `Tally`."""
        return BatchScore(
            self.loss / self.labels, self.correct_tokens / self.labels, self.correct_examples / self.examples
        )


class Supervised:
    """Next-token prediction: cross-entropy over each example's trained tokens."""

    texts_per_example = 1

    def __init__(self, model: TunableModel) -> None:
        self._model = model

    def tally(self) -> TokenTally:
        """See `Objective`."""
        return TokenTally()

    def run_pass(self, texts: Sequence[Encoded], tally: TokenTally, stop: Callable[[], bool], *, learn: bool) -> None:
        """See `Objective`. The mean is over the trained tokens of all `texts`."""
        n_labels = sum(sum(text.trained[1:]) for text in texts)
        for rows in self._model.micro_batches([(text,) for text in texts]):
            if stop():
                raise TrainingStopped
            hidden, result, owners = predictions(self._model, rows, learn=learn)
            if learn:
                hidden.backward(result.gradient / n_labels)
            tally.loss += float(result.loss.sum())
            tally.correct_tokens += int(result.correct.sum())
            tally.correct_examples += sum(map(len, rows)) - len(set(owners[~result.correct].tolist()))
        tally.labels += n_labels
        tally.examples += len(texts)


def predictions(model: TunableModel, rows: Sequence[Row], *, learn: bool) -> tuple[Tensor, HeadResult, Tensor]:
    """What the model predicts at the trained tokens of a micro-batch.

    Returns:
        hidden: the hidden states, [labels, width]; with `learn`, `hidden.backward` reaches the parameters.
        result: losses, and with `learn` their gradient.
        owners: the index of each label's text, counted over all rows, [labels].
    """
    batch = batch_tensors(rows).to(model.device.place)
    with torch.set_grad_enabled(learn):
        hidden = model.hidden(batch.ids, batch.places).flatten(0, 1)[batch.predicting]
    cross_entropy = head.cross_entropy if model.device.is_cpu else gpu_head.cross_entropy
    result = cross_entropy(
        hidden.detach(), model.head, batch.labels, tile=model.device.head_tile, gradient=learn, cap=model.logit_cap
    )
    return hidden, result, batch.owners
