"""A curve to draw: its table, its figures, and charts ready to send. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import pandas as pd
import pyarrow as pa

from core.charts import vega_lite
from core.charts.training_curve import CurveMark
from core.charts.vega_lite import Axis, Spec
from core.finetuning.results import Figure, Results, figure

Sendable: TypeAlias = pa.Table
"""A table in the form that goes to the browser."""


def sendable(frame: pd.DataFrame) -> Sendable:
    """A table in the format sent to the browser.

    Converted in one thread: Streamlit would start several on every rerun.
    """
    return pa.Table.from_pandas(frame, preserve_index=False, nthreads=1)


@dataclass(frozen=True, slots=True)
class RenderedChart:
    """A chart ready to display: its specification and, separately, its rows, as Streamlit sends them."""

    spec: Spec
    rows: Sendable

    @classmethod
    def of(cls, spec: Spec) -> RenderedChart:
        """Extract the rows from a specification once, so that reruns do not have to convert them."""
        rows = sendable(pd.DataFrame(spec["data"]["values"]))
        return cls({name: value for name, value in spec.items() if name != "data"}, rows)

    def whole(self) -> Spec:
        """The specification including its rows, for a file."""
        return {**self.spec, "data": {"values": self.rows.to_pylist()}}


@dataclass(frozen=True, slots=True)
class Figures:
    """A curve in numbers, as `core.finetuning.results` defines them. None: not known."""

    steps: int
    tokens: int | None
    first_loss: float | None
    loss: Figure | None
    first_accuracy: float | None
    accuracy: Figure | None
    held_out_loss: Figure | None
    held_out_accuracy: Figure | None

    @classmethod
    def of(cls, read: Results) -> Figures:
        """The numbers of a curve."""
        return cls(
            steps=read.steps,
            tokens=read.trained_tokens,
            first_loss=read.first("training_loss"),
            loss=figure(read, "training_loss"),
            first_accuracy=read.first("training_token_accuracy"),
            accuracy=figure(read, "training_token_accuracy"),
            held_out_loss=figure(read, "validation_loss"),
            held_out_accuracy=figure(read, "validation_token_accuracy"),
        )


@dataclass(frozen=True, slots=True)
class CurveSource:
    """A curve and a key that changes with it, for charts that are drawn once and shown many times.

    Attributes:
        key: identifies the current state of this curve.
        results: for figures and observations.
        frame: with the columns that `core.charts.vega_lite.AXES` names, if known.
        axes: available x axes.
        figures: first and last known values, so that long columns are not searched on every rerun.
        marks: steps to mark.
        examples: number of training examples; None: not known.
    """

    key: str
    results: Results
    frame: pd.DataFrame
    axes: tuple[Axis, ...]
    figures: Figures
    marks: tuple[CurveMark, ...] = ()
    examples: int | None = None

    @classmethod
    def of(cls, key: str, read: Results, frame: pd.DataFrame, marks: tuple[CurveMark, ...] = ()) -> CurveSource:
        """Build the source of a curve."""
        return cls(key, read, frame, vega_lite.axes(frame), Figures.of(read), marks)

    def marked(self, marks: Sequence[CurveMark]) -> CurveSource:
        """The same curve with these steps marked."""
        return replace(self, marks=tuple(marks))
