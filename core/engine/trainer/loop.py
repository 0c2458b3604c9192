"""The training loop: batches in, metrics and checkpoints out."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from core.engine import adapters
from core.engine.tokens import Encoded, Examples
from core.engine.trainer import resume
from core.engine.trainer.head import cross_entropy
from core.engine.trainer.job import MEASURED_STEPS, JobSpec, Journal
from core.engine.trainer.model import TunableModel
from core.engine.trainer.resume import Position

_MICRO_BATCH_TOKENS = (
    640  # padded; activations take about 2 MB a token: 1.3 GB, more only for an example that is longer
)
_MAX_GRADIENT_NORM = 1.0  # the usual clip: transformers.TrainingArguments.max_grad_norm


class LossDiverged(ArithmeticError):
    """The loss is no longer a number."""


@dataclass(frozen=True, slots=True)
class BatchScore:
    """Loss (mean over learned tokens, nats), token accuracy and share of wholly right examples (0 to 1)."""

    loss: float
    token_accuracy: float
    sequence_accuracy: float


class Loop:
    """One job, from wherever it was to its end (or to a request to stop)."""

    def __init__(
        self, spec: JobSpec, journal: Journal, model: TunableModel, train: Examples, valid: Sequence[Encoded]
    ) -> None:
        self.spec, self.journal, self.model, self.train, self.valid = spec, journal, model, train, valid
        self.steps_per_epoch = math.ceil(len(train) / spec.batch_size)
        self.total_steps = self.steps_per_epoch * spec.n_epochs
        self.tokens_total = spec.n_epochs * train.n_tokens
        self.named = {
            f"{name}.{matrix}": getattr(layer, matrix)
            for name, layer in model.lora.items()
            for matrix in ("lora_a", "lora_b")
        }
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=spec.learning_rate, weight_decay=0.0)
        self._recent: list[tuple[int, float]] = []  # (tokens, seconds) of the latest steps, for the estimate

    def run(self, position: Position, stop: Callable[[], bool]) -> Position:
        """Train from `position` until the end or until `stop()`; every return is durable.

        Raises:
            LossDiverged: the loss became infinite or not a number.
            OSError: the disk is full.
        """
        saved_at = time.monotonic()
        for step in range(position.step + 1, self.total_steps + 1):
            started = time.monotonic()
            batch = self._batch(step)
            score = self._learn(batch, self.spec.learning_rate * (1 - (step - 1) / self.total_steps))
            if not math.isfinite(score.loss):
                raise LossDiverged(f"the loss is {score.loss} at step {step}")
            ends_epoch = step % self.steps_per_epoch == 0
            held_out = self.score(self.valid) if ends_epoch and self.valid else None
            tokens = sum(len(example.tokens) for example in batch)
            position = replace(
                position, step=step, tokens=position.tokens + tokens, examples=position.examples + len(batch)
            )
            self._note(position, tokens, time.monotonic() - started, score, held_out)
            halt = stop()
            if ends_epoch or halt or time.monotonic() - saved_at >= self.spec.checkpoint_seconds:
                if ends_epoch:
                    self._checkpoint(position, score, held_out)
                self.journal.sync()
                resume.save(self.journal.folder, position, self.named, self.optimizer)
                saved_at = time.monotonic()
            if halt:
                break
        return position

    def score(self, examples: Sequence[Encoded]) -> BatchScore:
        """Loss and accuracy without learning."""
        return self._pass(examples, learn=False)

    def figures(self, position: Position) -> dict[str, Any]:
        """Progress for `state.json`; the estimate is None until it is one."""
        speed = finish = None
        if len(self._recent) >= MEASURED_STEPS:
            speed = sum(tokens for tokens, _ in self._recent) / sum(seconds for _, seconds in self._recent)
            finish = time.time() + max(0, self.tokens_total - position.tokens) / speed
        return {
            "step": position.step,
            "total_steps": self.total_steps,
            "tokens_done": position.tokens,
            "tokens_total": self.tokens_total,
            "tokens_per_s": speed,
            "estimated_finish": finish,
            "error": None,
        }

    def _batch(self, step: int) -> list[Encoded]:
        epoch, place = divmod(step - 1, self.steps_per_epoch)
        generator = torch.Generator().manual_seed(self.spec.seed * 1_000_003 + epoch)
        order = torch.randperm(len(self.train), generator=generator).tolist()
        chosen = order[place * self.spec.batch_size : (place + 1) * self.spec.batch_size]
        return [self.train[index] for index in chosen]

    def _learn(self, batch: Sequence[Encoded], learning_rate: float) -> BatchScore:
        self.optimizer.zero_grad(set_to_none=True)
        score = self._pass(batch, learn=True)
        nn.utils.clip_grad_norm_(self.model.parameters(), _MAX_GRADIENT_NORM)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()
        return score

    def _pass(self, examples: Sequence[Encoded], *, learn: bool) -> BatchScore:
        n_labels = sum(sum(example.trained[1:]) for example in examples)
        loss, right, whole = 0.0, 0, 0
        for group in _micro_batches(examples):
            ids, places, labels, owners = _tensors(group)
            with torch.set_grad_enabled(learn):
                hidden = self.model.hidden(ids).flatten(0, 1)[places]
            result = cross_entropy(hidden.detach(), self.model.head, labels, gradient=learn)
            if learn:
                hidden.backward(result.gradient / n_labels)
            loss += float(result.loss.sum())
            right += int(result.correct.sum())
            wrong_owners = set(owners[~result.correct].tolist())
            whole += len(group) - len(wrong_owners)
        return BatchScore(loss / n_labels, right / n_labels, whole / len(examples))

    def _note(
        self, position: Position, tokens: int, seconds: float, score: BatchScore, held_out: BatchScore | None
    ) -> None:
        self._recent = [*self._recent[-19:], (tokens, seconds)]
        self.journal.metrics(
            {
                "at": time.time(),
                "step": position.step,
                "epoch": position.step / self.steps_per_epoch,
                "elapsed_tokens": position.tokens,
                "elapsed_examples": position.examples,
                "training_loss": score.loss,
                "training_sequence_accuracy": score.sequence_accuracy,
                "training_token_accuracy": score.token_accuracy,
                "validation_loss": held_out and held_out.loss,
                "validation_token_accuracy": held_out and held_out.token_accuracy,
                "seconds": seconds,
            }
        )
        self.journal.state("running", **self.figures(position))

    def _checkpoint(self, position: Position, score: BatchScore, held_out: BatchScore | None) -> None:
        path = self.journal.folder / "checkpoints" / f"step-{position.step}.gguf"
        adapters.write(path, self.model.adapter(), name=f"{self.spec.job_id} step {position.step}")
        metrics = {"train_loss": score.loss, "train_mean_token_accuracy": score.token_accuracy}
        if held_out:
            metrics |= {"valid_loss": held_out.loss, "valid_mean_token_accuracy": held_out.token_accuracy}
        epoch = position.step // self.steps_per_epoch
        self.journal.checkpoint({"step": position.step, "epoch": epoch, "path": str(path), "metrics": metrics})
        self.journal.event(
            f"Epoch {epoch}/{self.spec.n_epochs} finished: training loss {score.loss:.3f}, "
            f"token accuracy {score.token_accuracy:.1%}."
        )


def _micro_batches(examples: Iterable[Encoded]) -> Iterable[list[Encoded]]:
    """Groups of like length whose padded size stays within bounds."""
    group: list[Encoded] = []
    for example in sorted(examples, key=lambda example: len(example.tokens)):
        if group and len(example.tokens) * (len(group) + 1) > _MICRO_BATCH_TOKENS:
            yield group
            group = []
        group.append(example)
    if group:
        yield group


def _tensors(group: Sequence[Encoded]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Right-padded ids [n, longest]; flat places that predict a learned token; those tokens; whose they are."""
    longest = max(len(example.tokens) for example in group)
    ids = torch.zeros(len(group), longest, dtype=torch.int64)
    places, labels, owners = [], [], []
    for row, example in enumerate(group):
        ids[row, : len(example.tokens)] = torch.tensor(example.tokens)
        for at in range(1, len(example.tokens)):
            if example.trained[at]:
                places.append(row * longest + at - 1)
                labels.append(example.tokens[at])
                owners.append(row)
    return ids, torch.tensor(places), torch.tensor(labels), torch.tensor(owners)
