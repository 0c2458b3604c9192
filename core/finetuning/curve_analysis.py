"""Observations about a training curve (overfitting, divergence, …), and one curve for a chain of jobs. Pure.

The loss of a single step is noisy, so medians of curve segments are compared instead of steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from core.finetuning.checkpoints import CheckpointView
from core.finetuning.job_views import JobView
from core.finetuning.results import Results, figure
from core.message import msg, percent

Kind = Literal["overfitting", "divergence", "plateau", "gap", "memorised", "good", "short"]
Level = Literal["good", "look", "bad"]
_ACCURACY = "training_token_accuracy"
_Numbers = npt.NDArray[np.float64]

_MIN_STEPS = 20  # with fewer, a segment would have a single step
_SEGMENTS = 10  # number of segments that are compared
# L. Prechelt, "Early Stopping - But When?" (1998): the generalisation loss GL = E_va / min E_va - 1, stopped at 5 %.
_GENERALISATION_LOSS = 0.05
_DIVERGENCE_RATIO = 1.25  # times the lowest segment, twice in a row; from our runs whose learning rate was too high
_MIN_RISE = 0.02  # share of the initial loss; ignores relative changes near 0
_PLATEAU_CHANGE = 0.01  # a smaller relative change of the loss counts as no change
_GAP_RATIO = 1.5  # validation loss / training loss
_MIN_MEASURED_STEPS = 3  # one batch can be right by chance
_FEW_STEPS = 100
_FEW_EXAMPLES = 200  # adapters with millions of parameters can memorise this many
_MAX_ACCURACY_GAP = 0.05  # accuracy gap to held-out rows that still counts as generalising
_MEMORISED_ACCURACY = 0.985  # training token accuracy; real text always allows several next words


@dataclass(frozen=True, slots=True)
class Observation:
    """One observation about a curve. `step`: where on the curve it appears."""

    kind: Kind
    level: Level
    sentence: str
    step: int | None = None


def observations(
    results: Results, checkpoints: Sequence[CheckpointView] = (), examples: int | None = None
) -> tuple[Observation, ...]:
    """Observations about a curve, most severe first.

    Args:
        results: the curve.
        checkpoints: the job's checkpoints; one of them is recommended.
        examples: number of training examples; None if unknown.
    """
    steps, losses = _series(results, "training_loss")
    memorised = _memorised(results, examples)
    if not len(steps):
        return () if memorised is None else (memorised,)
    candidates = [_diverged(steps, losses), _overfitted(results, checkpoints), memorised]
    if len(steps) < _MIN_STEPS:
        candidates += [_short(results, len(steps))] if memorised is None else []
    else:
        candidates += [_plateau(steps, losses)]
    result = [item for item in candidates if item is not None]
    if not any(item.level == "bad" for item in result):
        result += [item for item in (_gap(results), _good(results)) if item is not None]
    order: dict[Level, int] = {"bad": 0, "look": 1, "good": 2}
    return tuple(sorted(result, key=lambda item: order[item.level]))


def with_axes(results: Results, job: JobView | None = None) -> pd.DataFrame:
    """The curve with the additional columns `epoch` and `seconds`, NaN where unknown.

    Epochs are derived from the examples seen, otherwise from steps and batch size. `seconds` is the training time,
    spread over the steps by tokens, or evenly if tokens are unknown.
    """
    frame = results.frame.copy()
    examples_seen = frame["elapsed_examples"].astype("float64")
    batch = _batch(job)
    if examples_seen.isna().all() and batch is not None:
        examples_seen = frame["step"].astype("float64") * batch
    frame["epoch"] = examples_seen / job.n_examples if job is not None and job.n_examples else np.nan
    frame["seconds"] = np.nan
    duration_s = None if job is None else job.training_s(job.updated_at)
    if duration_s and len(frame):
        progress = frame["elapsed_tokens"].astype("float64")
        progress = progress if progress.notna().any() else frame["step"].astype("float64")
        frame["seconds"] = progress / progress.max() * duration_s
    return frame


def curve_frame(parts: Sequence[tuple[JobView, Results]]) -> pd.DataFrame:
    """One curve for a chain of jobs, first ancestor first.

    Columns: those of `with_axes`, `job` (id), `part` (from 0), `total_step` and `total_tokens`. `epoch`, `seconds` and
    the totals continue from one job to the next.
    """
    frames, step, tokens, epoch, seconds = [], 0.0, 0.0, 0.0, 0.0
    for number, (job, results) in enumerate(parts):
        frame = with_axes(results, job)
        frame["job"], frame["part"] = job.id, number
        frame["total_step"] = frame["step"].astype("float64") + step
        frame["total_tokens"] = frame["elapsed_tokens"].astype("float64") + tokens
        frame["epoch"] += epoch
        frame["seconds"] += seconds
        step, tokens = _last_value(frame["total_step"], step), _last_value(frame["total_tokens"], tokens)
        epoch, seconds = _last_value(frame["epoch"], epoch), _last_value(frame["seconds"], seconds)
        frames.append(frame)
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def _last_value(column: pd.Series, default: float) -> float:
    values = column.dropna()
    return float(values.iloc[-1]) if len(values) else default


def _batch(job: JobView | None) -> int | None:
    size = None if job is None else job.hyperparameters.get("batch_size")
    return size if isinstance(size, int) else None


def _series(results: Results, column: str) -> tuple[_Numbers, _Numbers]:
    """Steps and values of a column, without missing values."""
    rows = results.frame[["step", column]].dropna()
    return rows["step"].to_numpy(dtype=np.float64), rows[column].to_numpy(dtype=np.float64)


def _medians(values: _Numbers) -> _Numbers:
    return np.array([np.median(part) for part in np.array_split(values, min(_SEGMENTS, len(values)))])


def _diverged(steps: _Numbers, losses: _Numbers) -> Observation | None:
    if len(steps) < _MIN_STEPS:
        return None
    medians = _medians(losses)
    lowest_segment = int(np.argmin(medians))
    lowest = medians[lowest_segment]
    threshold = np.maximum(lowest * _DIVERGENCE_RATIO, lowest + medians[0] * _MIN_RISE)
    if lowest_segment >= len(medians) - 2 or not (medians[-2:] > threshold).all():
        return None
    index = round((lowest_segment + 1) * len(steps) / len(medians)) - 1
    step = int(steps[index])
    sentence = msg(
        "Divergence: the training loss fell to about {lowest} near step {step} and has risen to "
        "{risen} since. Use a lower learning rate multiplier.",
        lowest=f"{lowest:.3f}",
        step=f"{step:,}",
        risen=f"{medians[-1]:.3f}",
    )
    return Observation("divergence", "bad", sentence, step)


def _overfitted(results: Results, checkpoints: Sequence[CheckpointView]) -> Observation | None:
    steps, losses = _series(results, "validation_loss")
    if len(steps) < 2:
        return None
    best = int(np.argmin(losses))
    lowest, last = losses[best], losses[-1]
    if best == len(steps) - 1 or lowest <= 0 or last / lowest - 1 < _GENERALISATION_LOSS:
        return None
    step = int(steps[best])
    nearest = min(checkpoints, key=lambda checkpoint: abs(checkpoint.step - step), default=None)
    if nearest is not None and nearest.step < steps[-1]:
        sentence = msg(
            "Overfitting: the validation loss was lowest at step {step} ({lowest}) and is {last} now. "
            "Use the checkpoint of step {checkpoint}.",
            step=f"{step:,}",
            lowest=f"{lowest:.3f}",
            last=f"{last:.3f}",
            checkpoint=f"{nearest.step:,}",
        )
    else:
        sentence = msg(
            "Overfitting: the validation loss was lowest at step {step} ({lowest}) and is {last} "
            "now. Use fewer epochs or more varied examples.",
            step=f"{step:,}",
            lowest=f"{lowest:.3f}",
            last=f"{last:.3f}",
        )
    return Observation("overfitting", "bad", sentence, step)


def _memorised(results: Results, examples: int | None) -> Observation | None:
    """Detect memorisation: high accuracy on training tokens but not on held-out ones; only "likely" without held-out
    rows.
    """
    steps, accuracy = _series(results, _ACCURACY)
    if len(steps) < _MIN_MEASURED_STEPS:
        return None
    late, found = float(np.median(accuracy[-max(3, len(accuracy) // _SEGMENTS) :])), figure(results, _ACCURACY)
    if late < _MEMORISED_ACCURACY or found is None:
        return None
    last, held_out, step = percent(found.value), results.last("validation_token_accuracy"), int(steps[-1])
    if held_out is None:
        if len(_series(results, "validation_loss")[0]):
            return None
        return Observation("memorised", "look", _likely_memorised(last, step, examples), step)
    if held_out > found.value - _MAX_ACCURACY_GAP:
        return None
    sentence = msg(
        "The model predicts {last} of the training tokens correctly but only {held_out} of the "
        "held-out tokens: it has probably memorised the examples. Use fewer epochs or more "
        "varied examples.",
        last=last,
        held_out=percent(held_out),
    )
    return Observation("memorised", "look", sentence, step)


def _likely_memorised(accuracy: str, step: int, examples: int | None) -> str:
    """A sentence about likely memorisation, for jobs without held-out rows to confirm it."""
    if examples is not None and examples < _FEW_EXAMPLES:
        return msg(
            "The model predicts {last} of the training tokens correctly after {step} steps on "
            "{examples} examples: it has probably memorised them. Keep a tenth of the rows for "
            "validation to find out.",
            last=accuracy,
            step=f"{step:,}",
            examples=f"{examples:,}",
        )
    if step < _FEW_STEPS:
        return msg(
            "The model predicts {last} of the training tokens correctly after {step} steps: it has "
            "probably memorised them. Keep a tenth of the rows for validation to find out.",
            last=accuracy,
            step=f"{step:,}",
        )
    return msg(
        "The model predicts {last} of the training tokens correctly: it may have memorised the "
        "examples. Keep a tenth of the rows for validation to find out.",
        last=accuracy,
    )


def _plateau(steps: _Numbers, losses: _Numbers) -> Observation | None:
    medians = _medians(losses)
    late = medians[-max(2, len(medians) // 2) :]
    if len(medians) < _SEGMENTS or medians[0] <= 0 or (late.max() - late.min()) / medians[0] > _PLATEAU_CHANGE:
        return None
    step = int(steps[len(steps) - len(steps) * len(late) // len(medians)])
    sentence = msg(
        "The model stops improving after about step {step}. Fewer epochs would be enough and cost less.",
        step=f"{step:,}",
    )
    return Observation("plateau", "look", sentence, step)


def _gap(results: Results) -> Observation | None:
    valid, train = figure(results, "validation_loss"), figure(results, "training_loss")
    if valid is None or train is None or train.value <= 0 or valid.value / train.value < _GAP_RATIO:
        return None
    sentence = msg(
        "The loss is {validation} on held-out rows and {training} on the training rows. "
        "More, or more varied, examples would narrow the gap.",
        validation=f"{valid.value:.3f}",
        training=f"{train.value:.3f}",
    )
    return Observation("gap", "look", sentence)


def _short(results: Results, steps: int) -> Observation:
    sentence = msg("Steps so far: {steps}. That is too few to judge the curve.", steps=f"{steps:,}")
    return Observation("short", "look", sentence, int(results.frame["step"].iloc[-1]))


def _good(results: Results) -> Observation | None:
    first, last = results.first("training_loss"), figure(results, "training_loss")
    if first is None or last is None or last.value >= first or results.steps < _MIN_STEPS:
        return None
    before, after = results.first(_ACCURACY), figure(results, _ACCURACY)
    if before is None or after is None:
        sentence = msg(
            "The model is learning: the training loss went from {first} to {last} (smoothed).",
            first=f"{first:.3f}",
            last=f"{last.value:.3f}",
        )
    else:
        sentence = msg(
            "The model is learning: the training loss went from {first} to {last} (smoothed), "
            "and the token accuracy from {before} to {after} (smoothed).",
            first=f"{first:.3f}",
            last=f"{last.value:.3f}",
            before=percent(before),
            after=percent(after.value),
        )
    return Observation("good", "good", sentence)
