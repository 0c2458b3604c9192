"""A run's loss or accuracy as one number with its definition. Every page, chart, file and sentence takes it from here.

A single step is the figure of one batch, and jumps about. The figure of training is therefore where the smoothed
curve ends (the bold line of the chart); the figure of validation is the last measurement on held-out rows. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pandas as pd

from core.training.results import Results

Definition = Literal["smoothed", "last_step", "held_out"]
"""`smoothed`: end of the smoothed training curve; `last_step`: of a run too short to smooth; `held_out`: last
measurement on validation rows."""

_FEWEST_TO_SMOOTH = 20  # steps; below, an average lags behind a curve that still falls steeply
_LONG = 500  # steps, from which on there are more than two for a pixel of a chart
_WEIGHT, _LONG_WEIGHT = 0.6, 0.9  # averages over about 4 and 19 steps: (1 + w) / (1 - w)


@dataclass(frozen=True, slots=True)
class Figure:
    """A loss, or an accuracy (0 to 1), and what it is."""

    value: float
    definition: Definition


def smoothing_weight(steps: int) -> float:
    """The weight of the past in `smooth` for a run of this many steps; 0: not smoothed."""
    if steps < _FEWEST_TO_SMOOTH:
        return 0.0
    return _WEIGHT if steps < _LONG else _LONG_WEIGHT


def smooth(values: pd.Series[float], weight: float) -> pd.Series[float]:
    """Exponential moving average without the bias of its start; gaps stay gaps.

    `s_t = Σ wᵗ⁻ⁱ·xᵢ / Σ wᵗ⁻ⁱ` with w = weight (0 gives the values back): what TensorBoard's slider does.

    Raises:
        ValueError: the weight is below 0, or 1 or more.
    """
    if not 0 <= weight < 1:
        raise ValueError(f"smoothing must be from 0 to below 1, not {weight}")
    averaged = values.ewm(alpha=1 - weight, adjust=True, ignore_na=True).mean()
    return averaged.where(values.notna())


def figure(results: Results, column: str) -> Figure | None:
    """The figure of a column of `results.frame`; None where nothing was measured. Of a chain: that of its last part."""
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
    """The one token accuracy for a card: on held-out rows where it was measured, else in training; None: neither."""
    return figure(results, "validation_token_accuracy") or figure(results, "training_token_accuracy")
