"""A curve on a page: its table, its figures, and charts that are ready to be sent. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import pandas as pd
import pyarrow as pa

from core.charts import common as charts
from core.charts.common import Axis, CurveMark, Spec
from core.finetuning.figures import Figure, figure
from core.finetuning.results import Results

Sendable: TypeAlias = pa.Table
"""A table in the form that goes to the browser."""


def sendable(frame: pd.DataFrame) -> Sendable:
    """A table in the form that goes to the browser. Made by one thread: Streamlit would start some at every rerun."""
    return pa.Table.from_pandas(frame, preserve_index=False, nthreads=1)


@dataclass(frozen=True, slots=True)
class RenderedChart:
    """A chart that is ready to be shown: its specification, and its rows apart, as Streamlit sends them."""

    spec: Spec
    rows: Sendable

    @classmethod
    def of(cls, spec: Spec) -> RenderedChart:
        """Take the rows out of a specification, once, so that a rerun has nothing to turn into a table."""
        rows = sendable(pd.DataFrame(spec["data"]["values"]))
        return cls({name: value for name, value in spec.items() if name != "data"}, rows)

    def whole(self) -> Spec:
        """The specification with its rows inside, for a file."""
        return {**self.spec, "data": {"values": self.rows.to_pylist()}}


@dataclass(frozen=True, slots=True)
class Figures:
    """A curve in numbers, as `core.finetuning.figures` defines them. None: not known."""

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
    """A curve and a key that changes when it does, for charts that are drawn once and shown many times.

    Attributes:
        key: tells this curve, as it is now, from every other.
        results: for figures and words.
        frame: with the columns that `core.charts.common.AXES` names, as far as they are known.
        axes: what it can be drawn over.
        figures: first and last known values; a long column is not searched at every rerun.
        marks: steps to point out.
        examples: how many examples the job trains on; None: not known.
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
        """A curve with what is known of it."""
        return cls(key, read, frame, charts.axes(frame), Figures.of(read), marks)

    def marked(self, marks: Sequence[CurveMark]) -> CurveSource:
        """The same curve with these steps pointed out."""
        return replace(self, marks=tuple(marks))
