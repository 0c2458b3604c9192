"""Training objectives: what a training method (`core.engine.job_rules.METHODS`) computes from its examples.

The loop handles steps, learning rate, optimizer, checkpoints and stopping, in the same way for every method.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from core.engine.formats.tokens import Encoded
from core.engine.job_rules import TrainingMethod
from core.engine.training.trainer.head import cross_entropy
from core.engine.training.trainer.model import TunableModel


class TrainingStopped(Exception):
    """A stop was requested during a pass over examples; the pass is discarded."""


@dataclass(frozen=True, slots=True)
class BatchScore:
    """Mean loss over trained tokens in nats, token accuracy, and fraction of fully correct examples (both 0 to 1)."""

    loss: float
    token_accuracy: float
    sequence_accuracy: float


@dataclass(slots=True)
class Tally:
    """Running sums over examples; `loss` is summed over trained tokens."""

    labels: int = 0
    examples: int = 0
    loss: float = 0.0
    correct_tokens: int = 0
    correct_examples: int = 0

    def score(self) -> BatchScore:
        """The means."""
        return BatchScore(
            self.loss / self.labels, self.correct_tokens / self.labels, self.correct_examples / self.examples
        )


class Objective(Protocol):
    """One training method on one model.

    A method whose rows are not texts with a loss mask (such as preferences, with a prompt and two answers) also needs a
    row type in `core.engine.finetune_format` and its tokens in `core.engine.formats.tokens`.
    """

    def run_pass(self, examples: Sequence[Encoded], tally: Tally, stop: Callable[[], bool], *, learn: bool) -> None:
        """Add the sums over `examples` to `tally` and, with `learn`, the gradient of their mean loss to the parameters.

        Raises:
            TrainingStopped: `stop()` became true; it is checked before every micro-batch.
        """


class Supervised:
    """Next-token prediction: cross-entropy over each example's trained tokens."""

    def __init__(self, model: TunableModel) -> None:
        self._model = model

    def run_pass(self, examples: Sequence[Encoded], tally: Tally, stop: Callable[[], bool], *, learn: bool) -> None:
        """See `Objective`. The mean is over the trained tokens of all `examples`."""
        model, device = self._model, self._model.device
        n_labels = sum(sum(example.trained[1:]) for example in examples)
        for group in micro_batches(examples, device.batch_tokens):
            if stop():
                raise TrainingStopped
            ids, positions, labels, owners = (tensor.to(device.place) for tensor in batch_tensors(group))
            with torch.set_grad_enabled(learn):
                hidden = model.hidden(ids).flatten(0, 1)[positions]
            result = cross_entropy(
                hidden.detach(), model.head, labels, tile=device.head_tile, gradient=learn, cap=model.logit_cap
            )
            if learn:
                hidden.backward(result.gradient / n_labels)
            tally.loss += float(result.loss.sum())
            tally.correct_tokens += int(result.correct.sum())
            tally.correct_examples += len(group) - len(set(owners[~result.correct].tolist()))
        tally.labels += n_labels
        tally.examples += len(examples)


OBJECTIVES: Mapping[TrainingMethod, Callable[[TunableModel], Objective]] = {"supervised": Supervised}


def micro_batches(examples: Sequence[Encoded], max_tokens: int) -> Iterator[list[Encoded]]:
    """Group examples of similar length, with at most `max_tokens` tokens per group, including padding."""
    group: list[Encoded] = []
    for example in sorted(examples, key=lambda example: len(example.tokens)):
        if group and len(example.tokens) * (len(group) + 1) > max_tokens:
            yield group
            group = []
        group.append(example)
    if group:
        yield group


def batch_tensors(group: Sequence[Encoded]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Tensors for a group of n examples.

    Returns:
        ids: right-padded token ids, [n, longest].
        positions: flat positions that predict a trained token, [labels].
        labels: the predicted tokens, [labels].
        owners: the index of each label's example, [labels].
    """
    longest = max(len(example.tokens) for example in group)
    ids = torch.zeros(len(group), longest, dtype=torch.int64)
    positions, labels, owners = [], [], []
    for row, example in enumerate(group):
        ids[row, : len(example.tokens)] = torch.tensor(example.tokens)
        for index in range(1, len(example.tokens)):
            if example.trained[index]:
                positions.append(row * longest + index - 1)
                labels.append(example.tokens[index])
                owners.append(row)
    return ids, torch.tensor(positions), torch.tensor(labels), torch.tensor(owners)
