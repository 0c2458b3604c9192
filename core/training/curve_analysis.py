"""What a curve says, in words; and one curve for a whole chain of jobs. Pure.

A single step's loss is that of a few examples and jumps about: medians of parts of the curve are compared, not steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from core.message import msg
from core.training.checkpoints import CheckpointView
from core.training.figures import figure
from core.training.job_views import JobView
from core.training.results import Results

Kind = Literal["overfitting", "divergence", "plateau", "gap", "memorised", "good", "short"]
Level = Literal["good", "look", "bad"]
_ACCURACY = "training_token_accuracy"
_Numbers = npt.NDArray[np.float64]

_FEWEST_STEPS = 20  # below, medians of parts are those of two or three steps
_PARTS = 10  # of the curve that are compared
# L. Prechelt, "Early Stopping - But When?" (1998): the generalisation loss GL = E_va / min E_va - 1, stopped at 5 %.
_GENERALISATION_LOSS = 0.05
_RISEN = 1.25  # times its least, in two parts running: no longer noise. Ours, from runs with rates too high
_NOTICED = 0.02  # of where the loss began: near 0, a quarter more is nothing
_STILL = 0.01  # a change of the loss that nobody would notice
_WIDE = 1.5  # times the training loss: new examples are far harder than known ones
_FEWEST_MEASURED = 3  # steps: one batch may be right by luck
_FEW_STEPS = 100
_FEW_EXAMPLES = 200  # a model with adapters of millions of numbers can hold so few word by word
_GENERALISES = 0.05  # points of accuracy that held-out rows may be behind
_BY_HEART = 0.985  # training token accuracy; stories have several words that would do at every place


@dataclass(frozen=True, slots=True)
class Observation:
    """One thing that a curve says. `step` is where to look."""

    kind: Kind
    level: Level
    sentence: str
    step: int | None = None


def observations(
    results: Results, checkpoints: Sequence[CheckpointView] = (), examples: int | None = None
) -> tuple[Observation, ...]:
    """What a curve says, the gravest first.

    Args:
        results: the curve.
        checkpoints: of the job; they make the advice concrete.
        examples: how many training examples there are; None: not known.
    """
    steps, losses = _known(results, "training_loss")
    memorised = _memorised(results, examples)
    if not len(steps):
        return () if memorised is None else (memorised,)
    found = [_diverged(steps, losses), _overfitted(results, checkpoints), memorised]
    if len(steps) < _FEWEST_STEPS:
        found += [_short(results, len(steps))] if memorised is None else []
    else:
        found += [_plateau(steps, losses)]
    told = [one for one in found if one is not None]
    if not any(one.level == "bad" for one in told):
        told += [one for one in (_gap(results), _good(results)) if one is not None]
    order: dict[Level, int] = {"bad": 0, "look": 1, "good": 2}
    return tuple(sorted(told, key=lambda one: order[one.level]))


def with_axes(results: Results, job: JobView | None = None) -> pd.DataFrame:
    """The curve with `epoch` and `seconds` beside its columns, NaN where they cannot be known.

    Epochs come from the examples seen; where the file does not tell them, from steps and the batch size. Seconds are
    those of training, spread over the steps by tokens (else evenly).
    """
    frame = results.frame.copy()
    seen = frame["elapsed_examples"].astype("float64")
    batch = _batch(job)
    if seen.isna().all() and batch is not None:
        seen = frame["step"].astype("float64") * batch
    frame["epoch"] = seen / job.n_examples if job is not None and job.n_examples else np.nan
    frame["seconds"] = np.nan
    took = None if job is None else job.training_s(job.updated_at)
    if took and len(frame):
        by = frame["elapsed_tokens"].astype("float64")
        by = by if by.notna().any() else frame["step"].astype("float64")
        frame["seconds"] = by / by.max() * took
    return frame


def curve_frame(parts: Sequence[tuple[JobView, Results]]) -> pd.DataFrame:
    """One curve of a chain of jobs, the first ancestor first.

    Beside the columns of `with_axes`: `job` (id), `part` (from 0), and `total_step`, `total_tokens`, `epoch`,
    `seconds` that go on from one job to the next.
    """
    frames, step, tokens, epoch, seconds = [], 0.0, 0.0, 0.0, 0.0
    for number, (job, results) in enumerate(parts):
        frame = with_axes(results, job)
        frame["job"], frame["part"] = job.id, number
        frame["total_step"] = frame["step"].astype("float64") + step
        frame["total_tokens"] = frame["elapsed_tokens"].astype("float64") + tokens
        frame["epoch"] += epoch
        frame["seconds"] += seconds
        step, tokens = _end(frame["total_step"], step), _end(frame["total_tokens"], tokens)
        epoch, seconds = _end(frame["epoch"], epoch), _end(frame["seconds"], seconds)
        frames.append(frame)
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def _end(column: pd.Series, otherwise: float) -> float:
    known = column.dropna()
    return float(known.iloc[-1]) if len(known) else otherwise


def _batch(job: JobView | None) -> int | None:
    size = None if job is None else job.hyperparameters.get("batch_size")
    return size if isinstance(size, int) else None


def _known(results: Results, column: str) -> tuple[_Numbers, _Numbers]:
    """Steps and values of a column where it has any."""
    kept = results.frame[["step", column]].dropna()
    return kept["step"].to_numpy(dtype=np.float64), kept[column].to_numpy(dtype=np.float64)


def _medians(values: _Numbers) -> _Numbers:
    return np.array([np.median(part) for part in np.array_split(values, min(_PARTS, len(values)))])


def _diverged(steps: _Numbers, losses: _Numbers) -> Observation | None:
    if len(steps) < _FEWEST_STEPS:
        return None
    medians = _medians(losses)
    least = int(np.argmin(medians))
    lowest = medians[least]
    risen = np.maximum(lowest * _RISEN, lowest + medians[0] * _NOTICED)
    if least >= len(medians) - 2 or not (medians[-2:] > risen).all():
        return None
    place = round((least + 1) * len(steps) / len(medians)) - 1
    step = int(steps[place])
    sentence = msg(
        "Divergence: the training loss fell to about {lowest} near step {step} and has risen to "
        "{medians} since. A lower learning rate multiplier keeps it down.",
        lowest=f"{lowest:.3f}",
        step=f"{step:,}",
        medians=f"{medians[-1]:.3f}",
    )
    return Observation("divergence", "bad", sentence, step)


def _overfitted(results: Results, checkpoints: Sequence[CheckpointView]) -> Observation | None:
    steps, losses = _known(results, "validation_loss")
    if len(steps) < 2:
        return None
    best = int(np.argmin(losses))
    lowest, last = losses[best], losses[-1]
    if best == len(steps) - 1 or lowest <= 0 or last / lowest - 1 < _GENERALISATION_LOSS:
        return None
    step = int(steps[best])
    nearest = min(checkpoints, key=lambda one: abs(one.step - step), default=None)
    if nearest is not None and nearest.step < steps[-1]:
        sentence = msg(
            "Overfitting: the validation loss was lowest at step {step} ({lowest}) and is {last} now. "
            "The checkpoint of step {checkpoint} is the better model.",
            step=f"{step:,}",
            lowest=f"{lowest:.3f}",
            last=f"{last:.3f}",
            checkpoint=f"{nearest.step:,}",
        )
    else:
        sentence = msg(
            "Overfitting: the validation loss was lowest at step {step} ({lowest}) and is {last} now. "
            "Fewer epochs, or more varied examples, make a better model.",
            step=f"{step:,}",
            lowest=f"{lowest:.3f}",
            last=f"{last:.3f}",
        )
    return Observation("overfitting", "bad", sentence, step)


def _memorised(results: Results, examples: int | None) -> Observation | None:
    """Nearly all training tokens right, and held-out tokens not: known by heart. Without held-out rows, a suspicion."""
    steps, accuracy = _known(results, _ACCURACY)
    if len(steps) < _FEWEST_MEASURED:
        return None
    late, found = float(np.median(accuracy[-max(3, len(accuracy) // _PARTS) :])), figure(results, _ACCURACY)
    if late < _BY_HEART or found is None:
        return None
    last, held_out, step = found.value, results.last("validation_token_accuracy"), int(steps[-1])
    if held_out is not None:
        if held_out > last - _GENERALISES:
            return None
        sentence = msg(
            "{last} of the training tokens are right, and {held_out} of the held-out tokens: probably "
            "memorised. Fewer epochs, or more varied examples, make a better model.",
            last=f"{last:.1%}",
            held_out=f"{held_out:.1%}",
        )
    elif len(_known(results, "validation_loss")[0]):
        return None
    elif examples is not None and examples < _FEW_EXAMPLES:
        sentence = msg(
            "{last} of the training tokens are right after {step} steps on {examples} examples: probably "
            "memorised. Keep a tenth of the rows for validation to find out.",
            last=f"{last:.1%}",
            step=f"{step:,}",
            examples=f"{examples:,}",
        )
    elif step < _FEW_STEPS:
        sentence = msg(
            "{last} of the training tokens are right after {step} steps: probably memorised. "
            "Keep a tenth of the rows for validation to find out.",
            last=f"{last:.1%}",
            step=f"{step:,}",
        )
    else:
        sentence = msg(
            "{last} of the training tokens are right: the examples may be memorised. "
            "Keep a tenth of the rows for validation to find out.",
            last=f"{last:.1%}",
        )
    return Observation("memorised", "look", sentence, step)


def _plateau(steps: _Numbers, losses: _Numbers) -> Observation | None:
    medians = _medians(losses)
    late = medians[-max(2, len(medians) // 2) :]
    if len(medians) < _PARTS or medians[0] <= 0 or (late.max() - late.min()) / medians[0] > _STILL:
        return None
    step = int(steps[len(steps) - len(steps) * len(late) // len(medians)])
    sentence = msg(
        "The model learns nothing more after about step {step}: fewer epochs would do, and cost less.", step=f"{step:,}"
    )
    return Observation("plateau", "look", sentence, step)


def _gap(results: Results) -> Observation | None:
    valid, train = figure(results, "validation_loss"), figure(results, "training_loss")
    if valid is None or train is None or train.value <= 0 or valid.value / train.value < _WIDE:
        return None
    sentence = msg(
        "The loss is {value} on held-out rows and {other} on the training rows: "
        "more, or more varied, examples would narrow the gap.",
        value=f"{valid.value:.3f}",
        other=f"{train.value:.3f}",
    )
    return Observation("gap", "look", sentence)


def _short(results: Results, known: int) -> Observation:
    sentence = msg("Steps so far: {known}. That is too few to judge the curve.", known=f"{known:,}")
    return Observation("short", "look", sentence, int(results.frame["step"].iloc[-1]))


def _good(results: Results) -> Observation | None:
    first, last = results.first("training_loss"), figure(results, "training_loss")
    if first is None or last is None or last.value >= first or results.steps < _FEWEST_STEPS:
        return None
    before, after = results.first(_ACCURACY), figure(results, _ACCURACY)
    if before is None or after is None:
        sentence = msg(
            "The model is learning: the training loss went from {first} to {value} (smoothed).",
            first=f"{first:.3f}",
            value=f"{last.value:.3f}",
        )
    else:
        sentence = msg(
            "The model is learning: the training loss went from {first} to {value} (smoothed), "
            "the token accuracy from {before} to {now} (smoothed).",
            first=f"{first:.3f}",
            value=f"{last.value:.3f}",
            before=f"{before:.1%}",
            now=f"{after.value:.1%}",
        )
    return Observation("good", "good", sentence)
