"""The training loop: batches in, metrics and checkpoints out."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from core.engine.formats import gguf_file
from core.engine.formats.tokens import Encoded, EncodedExamples
from core.engine.training.job_folder import MEASURED_STEPS, JobSpec, Journal, read_lines
from core.engine.training.trainer import resume
from core.engine.training.trainer.methods import OBJECTIVES
from core.engine.training.trainer.model import TunableModel
from core.engine.training.trainer.objective import BatchScore, Tally, TrainingStopped
from core.engine.training.trainer.ranks import ALONE, Ranks
from core.engine.training.trainer.resume import Position
from core.engine.training.trainer.schedule import best, learning_rate, stops_early
from core.message import msg, percent

_MAX_GRADIENT_NORM = 1.0  # the usual limit; the default of transformers.TrainingArguments.max_grad_norm
_SCORE_CHUNK = 1024  # held-out examples in memory at a time; they take 45 bytes per token


def _never() -> bool:
    return False


class LossDiverged(ArithmeticError):
    """The loss became infinite or not a number."""


class Loop:
    """Trains one job from its saved position until it is complete or a stop is requested."""

    def __init__(
        self,
        spec: JobSpec,
        journal: Journal,
        model: TunableModel,
        train: EncodedExamples,
        valid: Sequence[Encoded],
        ranks: Ranks = ALONE,
    ) -> None:
        self.spec, self.journal, self.model, self.train, self.valid = spec, journal, model, train, valid
        self.ranks = ranks
        self.objective = OBJECTIVES[spec.method](model, spec)
        self.examples = len(train) // self.objective.texts_per_example
        self.steps_per_epoch = math.ceil(self.examples / spec.batch_size)
        self.total_steps = self.steps_per_epoch * spec.n_epochs
        self.tokens_total = spec.n_epochs * train.n_tokens
        self.parameters = {
            f"{name}.{matrix}": getattr(layer, matrix)
            for name, layer in model.lora.items()
            for matrix in ("lora_a", "lora_b")
        }
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=spec.learning_rate, weight_decay=0.0, fused=not model.device.is_cpu
        )
        self._recent: list[tuple[int, float]] = []  # (tokens, seconds) of the most recent timed steps, for estimates
        self._order: tuple[int, Tensor] | None = None  # (epoch, order of its examples)
        self._saved: int | None = None  # the last step saved to disk

    def run(self, position: Position, stop: Callable[[], bool]) -> Position:
        """Train from `position` until the end or until `stop()`; the returned position has been saved.

        Raises:
            LossDiverged: the loss became infinite or not a number.
            OSError: the disk is full.
        """
        saved_at, first = time.monotonic(), position.step + 1
        interrupt = stop if self.ranks.size == 1 else _never  # several ranks stop together, after a step
        for step in range(first, self.total_steps + 1):
            if self.ranks.from_first(self.stopped_early):
                break
            started = time.monotonic()
            batch = self._batch(step)
            ends_epoch = step % self.steps_per_epoch == 0
            # a long validation pass follows; if it is interrupted, only this step is lost
            if ends_epoch and self.valid:
                self._save(position)
            try:
                score = self._learn(batch, self._learning_rate(step), interrupt)
                if not math.isfinite(score.loss):
                    raise LossDiverged(msg("the loss is {loss} at step {step}", loss=score.loss, step=step))
                held_out = self.score(self.valid, interrupt) if ends_epoch and self.valid else None
            except TrainingStopped:
                self._save(position)  # unchanged since the last step; during validation it is already saved
                break
            tokens = sum(len(example.tokens) for example in batch)
            position = replace(
                position,
                step=step,
                tokens=position.tokens + tokens,
                examples=position.examples + len(batch) // self.objective.texts_per_example,
            )
            self._record_step(position, tokens, time.monotonic() - started, score, held_out, timed=step > first)
            stop_now = self.ranks.from_first(stop)
            if ends_epoch or stop_now or time.monotonic() - saved_at >= self.spec.checkpoint_seconds:
                if ends_epoch:
                    self._checkpoint(position, score, held_out)
                self._save(position)
                saved_at = time.monotonic()
            if stop_now:
                break
        return position

    def stopped_early(self) -> bool:
        """Whether the validation loss has not improved in the last epochs, so that the job ends here."""
        return stops_early([loss for _, loss in self._validated()], self.spec.early_stopping)

    def final_step(self, last: int) -> int:
        """The step of the checkpoint that becomes the model: the best one with early stopping, otherwise the last."""
        validated = self._validated()
        if self.spec.early_stopping is None or not validated:
            return last
        return validated[best([loss for _, loss in validated])][0]

    def _validated(self) -> list[tuple[int, float]]:
        """(step, validation loss) of every checkpoint that has a validation loss."""
        rows = read_lines(self.journal.folder / "checkpoints.jsonl")
        return [(row["step"], row["metrics"]["valid_loss"]) for row in rows if "valid_loss" in row["metrics"]]

    def _learning_rate(self, step: int) -> float:
        spec = self.spec
        return learning_rate(spec.learning_rate, step, self.total_steps, warmup=spec.warmup, schedule=spec.schedule)

    def score(self, examples: Sequence[Encoded], stop: Callable[[], bool] = lambda: False) -> BatchScore:
        """Compute loss and accuracy without training.

        Raises:
            TrainingStopped: `stop()` became true in the meantime.
        """
        tally: Tally = self.objective.tally()
        for start in range(0, len(examples), _SCORE_CHUNK):
            share = self.ranks.share(examples[start : start + _SCORE_CHUNK], self.objective.texts_per_example)
            self.objective.run_pass(share, tally, stop, learn=False)
        return self.ranks.total(tally).score()

    def figures(self, position: Position) -> dict[str, Any]:
        """Progress for `state.json`; speed and estimate are None until enough steps have been timed."""
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
        """The texts of a step's examples."""
        epoch, step_in_epoch = divmod(step - 1, self.steps_per_epoch)
        if self._order is None or self._order[0] != epoch:
            generator = torch.Generator().manual_seed(self.spec.seed * 1_000_003 + epoch)
            self._order = epoch, torch.randperm(self.examples, generator=generator)
        chosen = self._order[1][step_in_epoch * self.spec.batch_size : (step_in_epoch + 1) * self.spec.batch_size]
        n = self.objective.texts_per_example
        return [text for index in chosen.tolist() for text in self.train[index * n : (index + 1) * n]]

    def _learn(self, batch: Sequence[Encoded], learning_rate: float, stop: Callable[[], bool]) -> BatchScore:
        self.optimizer.zero_grad(set_to_none=True)
        tally: Tally = self.objective.tally()
        share = self.ranks.share(batch, self.objective.texts_per_example)
        self.objective.run_pass(share, tally, stop, learn=True)
        total = self.ranks.total(tally)
        self.ranks.sum_gradients(self.parameters.values(), tally.weight / total.weight)
        nn.utils.clip_grad_norm_(self.model.parameters(), _MAX_GRADIENT_NORM)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()
        return total.score()

    def _save(self, position: Position) -> None:
        """Save `position` durably unless it has already been saved."""
        if self._saved != position.step and self.ranks.rank == 0:
            self.journal.sync()
            resume.save(self.journal.folder, position, self.parameters, self.optimizer)
            self._saved = position.step

    def _record_step(
        self,
        position: Position,
        tokens: int,
        seconds: float,
        score: BatchScore,
        held_out: BatchScore | None,
        *,
        timed: bool,
    ) -> None:
        """Record one step. A process's first step is not `timed`, because it reads the weights from disk."""
        if timed:
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
                **_rewards("training", score),
                **_rewards("validation", held_out),
            }
        )
        self.journal.state("running", **self.figures(position))

    def _checkpoint(self, position: Position, score: BatchScore, held_out: BatchScore | None) -> None:
        if self.ranks.rank > 0:
            return
        path = self.journal.folder / "checkpoints" / f"step-{position.step}.gguf"
        gguf_file.write_adapter(path, self.model.adapter(), f"{self.spec.job_id} step {position.step}")
        metrics = {}
        for part, found in (("train", score), ("valid", held_out)):
            if found is not None:
                metrics[f"{part}_loss"] = found.loss
                if found.token_accuracy is not None:
                    metrics[f"{part}_mean_token_accuracy"] = found.token_accuracy
                metrics |= _rewards(part, found)
        epoch = position.step // self.steps_per_epoch
        self.journal.checkpoint({"step": position.step, "epoch": epoch, "path": str(path), "metrics": metrics})
        if score.reward_accuracy is None:
            message = msg(
                "Epoch {epoch}/{n_epochs} finished. Last step: training loss {loss}, token accuracy {token_accuracy}.",
                epoch=epoch,
                n_epochs=self.spec.n_epochs,
                loss=f"{score.loss:.3f}",
                token_accuracy=percent(score.token_accuracy or 0.0),
            )
        else:
            message = msg(
                "Epoch {epoch}/{n_epochs} finished. Last step: training loss {loss}, preferred answers rewarded more: "
                "{share}.",
                epoch=epoch,
                n_epochs=self.spec.n_epochs,
                loss=f"{score.loss:.3f}",
                share=percent(score.reward_accuracy),
            )
        self.journal.event(message)


def _rewards(part: str, score: BatchScore | None) -> dict[str, float]:
    """The figures that only DPO has, for a line of `metrics.jsonl`."""
    if score is None or score.reward_accuracy is None or score.reward_margin is None:
        return {}
    return {f"{part}_reward_accuracy": score.reward_accuracy, f"{part}_reward_margin": score.reward_margin}
