"""Reads a training job's results CSV (the engine's, Azure's, OpenAI's current and 2023 formats), and computes its
figures.

A single step measures one batch and is noisy. For training, the figure is the end of the smoothed curve (the bold line
in the chart); for validation, the last measurement on held-out rows. All pages, charts and exports use it. Pure.
"""

from __future__ import annotations

import base64
import csv
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from core.message import msg
from core.providers.metric_parser import NOT_MEASURED, PLACEHOLDERS, metric

COLUMNS = (
    "step",
    "elapsed_tokens",
    "elapsed_examples",
    "training_loss",
    "training_sequence_accuracy",
    "training_token_accuracy",
    "validation_loss",
    "validation_sequence_accuracy",
    "validation_token_accuracy",
    "training_reward_accuracy",
    "training_reward_margin",
    "validation_reward_accuracy",
    "validation_reward_margin",
)
"""The columns of `Results.frame`. Columns missing in the file are all NaN."""

_INTEGER_COLUMNS = frozenset({"step", "elapsed_tokens", "elapsed_examples"})
_LOSSES = ["training_loss", "validation_loss"]
_MARGINS = ["training_reward_margin", "validation_reward_margin"]  # may be negative
_FAST_PATH_CHARS = 100_000  # above this, reading line by line is noticeably slow
_MAX_COUNT = 2.0**53  # larger integers are not exact in a float
_NA_VALUES = [spelled for text in sorted(PLACEHOLDERS) for spelled in {text, text.upper(), text.capitalize()}]

# Column names since 2024 (OpenAI guide "Supervised fine-tuning") → names of 2023.
_NAMES = {
    "train_loss": "training_loss",
    "train_accuracy": "training_token_accuracy",
    "train_mean_token_accuracy": "training_token_accuracy",
    "valid_loss": "validation_loss",
    "valid_accuracy": "validation_token_accuracy",
    "valid_mean_token_accuracy": "validation_token_accuracy",
    "validation_mean_token_accuracy": "validation_token_accuracy",  # Azure's
    "full_valid_loss": "validation_loss",
    "full_valid_mean_token_accuracy": "validation_token_accuracy",
}

Definition = Literal["smoothed", "last_step", "held_out"]
"""`smoothed`: end of the smoothed training curve; `last_step`: of a run too short to smooth; `held_out`: last
measurement on validation rows."""

_MIN_STEPS_TO_SMOOTH = 20  # in shorter runs an average would lag behind a steeply falling curve
_LONG_RUN_STEPS = 500  # from here on, a chart has more than two steps per pixel
_WEIGHT, _LONG_WEIGHT = 0.6, 0.9  # averages over about 4 and 19 steps: (1 + w) / (1 - w)


@dataclass(frozen=True, slots=True)
class Results:
    """A training curve.

    Attributes:
        frame: one row per step, in order, with the columns `COLUMNS`.
        skipped: number of lines that could not be read.
        has_steps: whether the file has a step column, as every results file does; empty: whether it is empty.
    """

    frame: pd.DataFrame
    skipped: int
    has_steps: bool = True
    empty: bool = False

    @property
    def note(self) -> str | None:
        """Why the curve is missing or incomplete; None if it is complete."""
        if self.empty:
            return msg("The results file is empty.")
        if not self.has_steps:
            return msg("This is not a results file: its header has no step column.")
        if not self.steps:
            return msg("The results file has a header but no steps yet.")
        if self.skipped:
            return msg(
                "Lines that could not be read: {skipped}. The curve uses the others.", skipped=f"{self.skipped:,}"
            )
        return None

    @property
    def steps(self) -> int:
        """The number of steps with values."""
        return len(self.frame)

    @property
    def has_rewards(self) -> bool:
        """Whether it is the curve of preference training (DPO), which has rewards and no accuracy of tokens."""
        return bool(self.frame["training_reward_margin"].notna().any())

    @property
    def trained_tokens(self) -> int | None:
        """Tokens trained up to the last step; None if not in the file."""
        known = self.frame["elapsed_tokens"].dropna()
        return int(known.iloc[-1]) if len(known) else None

    def first(self, column: str) -> float | None:
        """The first known value of a column, or None."""
        known = self.frame[column].dropna()
        return float(known.iloc[0]) if len(known) else None

    def last(self, column: str) -> float | None:
        """The last known value of a column, or None."""
        known = self.frame[column].dropna()
        return float(known.iloc[-1]) if len(known) else None


def parse(text: str) -> Results:
    """Parse a results file, which may still be growing. Unreadable lines are skipped and counted, never an error.

    Accepts current and 2023 headers, columns in any order, missing columns, a BOM, and base64 encoding (OpenAI's file
    endpoint has sent that). If a step appears twice, the later line is used. Cells that mean "not measured"
    (`core.providers.metric_parser`) are empty; the rest of their line is used. Losses are not corrected: a negative
    loss is a bug in the program that wrote it, and is shown.
    """
    text = plain_text(text)
    if len(text) > _FAST_PATH_CHARS and (fast := _parse_fast(text)) is not None:
        return fast
    lines = [line for line in text.splitlines() if line.strip()]
    names = [_NAMES.get(name, name) for name in (cell.lower() for cell in _cells(lines[0]))] if lines else []
    if "step" not in names:
        return Results(_frame([]), skipped=len(lines), has_steps=False, empty=not lines)
    rows: dict[float, dict[str, float]] = {}
    skipped = 0
    for line in lines[1:]:
        row = _row(names, _cells(line))
        if row is None or row["step"] in rows:
            skipped += 1
        if row is not None:
            rows[row["step"]] = row
    return Results(_frame([rows[step] for step in sorted(rows)]), skipped)


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
    """The figure of a column of `results.frame`; None if not measured. For a chain, the figure of its last job."""
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
    """The token accuracy for summaries: on held-out rows if measured, otherwise in training; None if neither is."""
    return figure(results, "validation_token_accuracy") or figure(results, "training_token_accuracy")


def _parse_fast(text: str) -> Results | None:
    """Parse a large, well-formed file with pandas; None if it must be read line by line."""
    header = _cells(text.partition("\n")[0])
    names = [_NAMES.get(name.lower(), name.lower()) for name in header]
    known_positions = [position for position, name in enumerate(names) if name in COLUMNS]
    if (
        "step" not in names
        or len({names[position] for position in known_positions}) < len(known_positions)
        or not text.endswith("\n")
    ):
        return None
    try:
        table = pd.read_csv(
            io.StringIO(text), header=0, names=list(range(len(names))), usecols=known_positions, dtype="float64",
            index_col=False, engine="c", quoting=csv.QUOTE_NONE,
            keep_default_na=False, na_values=_NA_VALUES, skipinitialspace=True, on_bad_lines="error",
        )  # fmt: skip
    except (ValueError, pd.errors.ParserError):
        return None
    if text.count(",") != (len(names) - 1) * (len(table) + 1):  # an incomplete line
        return None
    frame = (
        table.set_axis([names[position] for position in known_positions], axis=1)
        .reindex(columns=list(COLUMNS))
        .astype("float64")
    )
    frame = _drop_placeholders(frame.where(np.isfinite(frame)))
    steps = frame["step"]
    counts = frame[list(_INTEGER_COLUMNS)]
    if steps.isna().any() or not (steps.diff().iloc[1:] > 0).all():
        return None
    if not (counts.isna() | ((counts >= 0) & (counts <= _MAX_COUNT) & (counts % 1 == 0))).all(axis=None):
        return None
    return Results(frame.astype({name: "Int64" for name in _INTEGER_COLUMNS}), 0)


def _cells(line: str) -> list[str]:
    """Split a line at commas. No CSV quoting, so that a stray quote affects only its own line."""
    return [cell.strip().strip('"') for cell in line.split(",")]


def _row(names: list[str], cells: list[str]) -> dict[str, float] | None:
    """The values of one line; None if there are too few or too many cells, or one is not a number."""
    if len(cells) != len(names):
        return None
    row = {name: math.nan for name in COLUMNS}
    try:
        for name, value in _numbers(names, cells):
            if math.isnan(row[name]):  # two columns can map to one name (full_valid_loss): use the one with a value
                row[name] = value
    except ValueError:
        return None
    counts = [row[name] for name in _INTEGER_COLUMNS if name == "step" or not math.isnan(row[name])]
    return row if all(0 <= value <= _MAX_COUNT and value.is_integer() for value in counts) else None


def _numbers(names: list[str], cells: list[str]) -> Iterator[tuple[str, float]]:
    for name, cell in zip(names, cells, strict=True):
        if name in COLUMNS:
            value = metric(name, cell)
            yield name, math.nan if value is None else value


def _frame(rows: list[dict[str, float]]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=list(COLUMNS), dtype="float64")
    return frame.astype({name: "Int64" for name in _INTEGER_COLUMNS})


def _drop_placeholders(frame: pd.DataFrame) -> pd.DataFrame:
    """Replace placeholders for "not measured" by NaN: `core.providers.metric_parser.metric` for whole columns."""
    losses = frame[_LOSSES]
    counts = frame[[name for name in COLUMNS if name not in (*_LOSSES, *_MARGINS, "step")]]
    return frame.assign(**losses.where(losses != NOT_MEASURED), **counts.where(counts >= 0))


def plain_text(text: str) -> str:
    """A results file as CSV: without its BOM, decoded if all of it is base64."""
    text = text.removeprefix("\ufeff")
    compact = "".join(text.split())
    if not compact or "," in compact:
        return text
    try:
        return base64.b64decode(compact, validate=True).decode("utf-8-sig")
    except ValueError:  # not base64, or not UTF-8
        return text
