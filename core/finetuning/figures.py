"""The loss or accuracy of a run as one number with its definition; all pages, charts and exports use it.

A single step measures one batch and is noisy. For training, the figure is the end of the smoothed curve (the bold line
in the chart); for validation, the last measurement on held-out rows. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pandas as pd

from core.finetuning.results import Results

Definition = Literal["smoothed", "last_step", "held_out"]
"""`smoothed`: end of the smoothed training curve; `last_step`: of a run too short to smooth; `held_out`: last
measurement on validation rows."""

_MIN_STEPS_TO_SMOOTH = 20  # in shorter runs an average would lag behind a steeply falling curve
_LONG_RUN_STEPS = 500  # from here on, a chart has more than two steps per pixel
_WEIGHT, _LONG_WEIGHT = 0.6, 0.9  # averages over about 4 and 19 steps: (1 + w) / (1 - w)


@dataclass(frozen=True, slots=True)
class Figure:
    """A loss or an accuracy (0 to 1), and how it was measured."""

    value: float
    definition: Definition


def smoothing_weight(steps: int) -> float:
    """The weight of the past in `smooth` for a run of this many steps; 0: not smoothed."""
    if steps < _MIN_STEPS_TO_SMOOTH:
        return 0.0
    return _WEIGHT if steps < _LONG_RUN_STEPS else _LONG_WEIGHT


def smooth(values: pd.Series[float], weight: float) -> pd.Series[float]:
    """Exponential moving average with bias correction; missing values stay missing.

    `s_t = Σ wᵗ⁻ⁱ·xᵢ / Σ wᵗ⁻ⁱ` with w = weight (0 returns the values unchanged), the same as TensorBoard's slider.

    Raises:
        ValueError: the weight is below 0, or 1 or more.
    """
    if not 0 <= weight < 1:
        raise ValueError(f"smoothing must be from 0 to below 1, not {weight}")
    averaged = values.ewm(alpha=1 - weight, adjust=True, ignore_na=True).mean()
    return averaged.where(values.notna())


def figure(results: Results, column: str) -> Figure | None:
    """The figure of a column of `results.frame`; None: not measured. For a chain, the figure of its last job."""
    frame = results.frame
    if column.startswith("validation"):
        last = results.last(column)
        return None if last is None else Figure(last, "held_out")
    known = frame[column].astype("float64").dropna()
    if not len(known):
        return None
    if "part" in frame:
        parts = frame["part"].loc[known.index]
        known = known[parts == parts.iloc[-1]]
    weight = smoothing_weight(results.steps)
    return Figure(float(smooth(known, weight).iloc[-1]), "smoothed" if weight else "last_step")


def headline_accuracy(results: Results) -> Figure | None:
    """The token accuracy for summaries: on held-out rows if measured, otherwise in training; None: neither."""
    return figure(results, "validation_token_accuracy") or figure(results, "training_token_accuracy")
