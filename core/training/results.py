"""The results CSV of a training job, as our engine, OpenAI today, and OpenAI in 2023 write it."""

from __future__ import annotations

import base64
import csv
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from core.message import msg
from core.metrics import NOT_MEASURED, PLACEHOLDERS, metric

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
)
"""The columns of `Results.frame`, always all of them; a column that the file does not have is all NaN."""

_WHOLE = frozenset({"step", "elapsed_tokens", "elapsed_examples"})
_LOSSES = ["training_loss", "validation_loss"]
_LARGE = 100_000  # characters, from which on reading line by line takes more than a blink
_LARGEST = 2.0**53  # counts beyond this are not exact in a float, and not real
_EMPTY = [spelled for text in sorted(PLACEHOLDERS) for spelled in {text, text.upper(), text.capitalize()}]

# Names of OpenAI's later results files (guide "Supervised fine-tuning", 2024 on) for what 2023 called otherwise.
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


@dataclass(frozen=True, slots=True)
class Results:
    """A curve: one row per step in order of steps, columns `COLUMNS`, and how many lines made no row.

    `has_steps`: whether the file names a column of steps, as every results file does; `empty`: nothing is in it.
    """

    frame: pd.DataFrame
    skipped: int
    has_steps: bool = True
    empty: bool = False

    @property
    def note(self) -> str | None:
        """Why there is no curve, or less of one than one might expect; None: all is well."""
        if self.empty:
            return msg("The results file is empty.")
        if not self.has_steps:
            return msg("This is not a results file: its first line names no column of steps.")
        if not self.steps:
            return msg("The results file has a header, and no step yet.")
        if self.skipped:
            return msg(
                "Lines that could not be read: {skipped}. The others make the curve.", skipped=f"{self.skipped:,}"
            )
        return None

    @property
    def steps(self) -> int:
        """The number of steps there are values for."""
        return len(self.frame)

    @property
    def trained_tokens(self) -> int | None:
        """Tokens trained on up to the last step, or None where the file does not say."""
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
    """Read a results file, also a growing one: lines that cannot be read are skipped and counted, never an error.

    Understands the header of 2023, today's names, any order of columns, missing columns, a BOM, and base64 around
    the whole (as OpenAI's file endpoint has sent it). A step that comes twice counts once, the later line. A cell
    that says "not measured" (`core.metrics`) is empty, and its line keeps its other values. Losses are as the file
    has them: one below 0 is a fault of the program that wrote it, and is shown.
    """
    text = _plain(text)
    if len(text) > _LARGE and (quick := _quickly(text)) is not None:
        return quick
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


def _quickly(text: str) -> Results | None:
    """The same of a large file that is in good form, by pandas' own reader; None: it needs the patient one."""
    header = _cells(text.partition("\n")[0])
    names = [_NAMES.get(name.lower(), name.lower()) for name in header]
    known = [place for place, name in enumerate(names) if name in COLUMNS]
    if "step" not in names or len({names[place] for place in known}) < len(known) or not text.endswith("\n"):
        return None
    try:
        read = pd.read_csv(
            io.StringIO(text), header=0, names=list(range(len(names))), usecols=known, dtype="float64",
            index_col=False, engine="c", quoting=csv.QUOTE_NONE,
            keep_default_na=False, na_values=_EMPTY, skipinitialspace=True, on_bad_lines="error",
        )  # fmt: skip
    except (ValueError, pd.errors.ParserError):
        return None
    if text.count(",") != (len(names) - 1) * (len(read) + 1):  # a line that is cut short
        return None
    frame = read.set_axis([names[place] for place in known], axis=1).reindex(columns=list(COLUMNS)).astype("float64")
    frame = _measured(frame.where(np.isfinite(frame)))
    steps = frame["step"]
    whole = frame[list(_WHOLE)]
    if steps.isna().any() or not (steps.diff().iloc[1:] > 0).all():
        return None
    if not (whole.isna() | ((whole >= 0) & (whole <= _LARGEST) & (whole % 1 == 0))).all(axis=None):
        return None
    return Results(frame.astype({name: "Int64" for name in _WHOLE}), 0)


def _cells(line: str) -> list[str]:
    """The cells of a line: numbers and plain names, so that a stray quote harms one line and no more."""
    return [cell.strip().strip('"') for cell in line.split(",")]


def _row(names: list[str], cells: list[str]) -> dict[str, float] | None:
    """The values of one line, or None when it is cut short, too long, or holds something that is not a number."""
    if len(cells) != len(names):
        return None
    row = {name: math.nan for name in COLUMNS}
    try:
        for name, value in _numbers(names, cells):
            if math.isnan(row[name]):  # two columns for one name (full_valid_loss): the one that has a value
                row[name] = value
    except ValueError:
        return None
    counts = [row[name] for name in _WHOLE if name == "step" or not math.isnan(row[name])]
    return row if all(0 <= value <= _LARGEST and value.is_integer() for value in counts) else None


def _numbers(names: list[str], cells: list[str]) -> Iterator[tuple[str, float]]:
    for name, cell in zip(names, cells, strict=True):
        if name in COLUMNS:
            value = metric(name, cell)
            yield name, math.nan if value is None else value


def _frame(rows: list[dict[str, float]]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=list(COLUMNS), dtype="float64")
    return frame.astype({name: "Int64" for name in _WHOLE})


def _measured(frame: pd.DataFrame) -> pd.DataFrame:
    """The rules of `core.metrics.metric` for whole columns: what stands for "not measured" becomes NaN."""
    losses = frame[_LOSSES]
    counts = frame[[name for name in COLUMNS if name not in _LOSSES and name != "step"]]
    return frame.assign(**losses.where(losses != NOT_MEASURED), **counts.where(counts >= 0))


def _plain(text: str) -> str:
    """`text` without its BOM, and decoded where the whole of it is base64."""
    text = text.removeprefix("\ufeff")
    packed = "".join(text.split())
    if not packed or "," in packed:
        return text
    try:
        return base64.b64decode(packed, validate=True).decode("utf-8-sig")
    except ValueError:  # not base64, or not text: both of their errors are ValueErrors
        return text
