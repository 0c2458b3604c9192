"""The sole owner of session state: what one visitor has typed, picked and opened, and nothing else.

What must outlive a browser tab is in the database. Widget keys are `<page>_<name>`; the values that a page must set or
read outside the widget go through the functions here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import streamlit as st

from core.errors import FabulaError


@dataclass(frozen=True)
class ColumnDraft:
    """One column of the grid while it is being edited; `id` stays the same when the name changes."""

    id: int
    name: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class GridDraft:
    """The columns of the data-set page while they are being edited."""

    columns: tuple[ColumnDraft, ...] = ()
    preset: str = ""
    next_id: int = 0
    draw: int = 0  # which random cell the prompt is shown for

    @classmethod
    def of(cls, columns: Sequence[tuple[str, Sequence[str]]], preset: str, first_id: int) -> GridDraft:
        made = tuple(ColumnDraft(first_id + i, name, tuple(values)) for i, (name, values) in enumerate(columns))
        return cls(columns=made, preset=preset, next_id=first_id + len(made))

    def with_column(self) -> GridDraft:
        return replace(self, columns=(*self.columns, ColumnDraft(self.next_id, "", ())), next_id=self.next_id + 1)

    def with_values(self, column_id: int, values: tuple[str, ...]) -> GridDraft:
        changed = tuple(replace(c, values=values) if c.id == column_id else c for c in self.columns)
        return replace(self, columns=changed)

    def without(self, column_id: int) -> GridDraft:
        return replace(self, columns=tuple(c for c in self.columns if c.id != column_id))


@dataclass
class Studio:
    """Everything one visitor has open, by page."""

    grid: GridDraft = field(default_factory=GridDraft)
    preview: Any = None  # rows of the last preview, with the recipe they were made for
    story: Any = None  # the StoryStream that this visitor started last
    imported: tuple[str, Any] | None = None  # id of the upload that was read last, and what was read
    notice: tuple[str, str] | None = None  # a line to show once on the next run: icon, sentence
    problem: FabulaError | None = None  # an error of the last click, to show once on the next run


def studio() -> Studio:
    """This visitor's state, made on first use."""
    if "studio" not in st.session_state:
        st.session_state["studio"] = Studio()
    held: Studio = st.session_state["studio"]
    return held


def put(key: str, value: Any) -> None:
    """Set a widget's value. Only before the widget is drawn, or in a callback."""
    st.session_state[key] = value


def get(key: str, default: Any = None) -> Any:
    """A widget's value, also before the widget is drawn."""
    return st.session_state.get(key, default)


def first(key: str, value: Any) -> None:
    """Give a widget its starting value, unless the visitor has given it another."""
    if key not in st.session_state:
        st.session_state[key] = value


def notify(icon: str, sentence: str) -> None:
    """Show `sentence` once, at the next run (a toast now would be lost in the rerun that follows)."""
    studio().notice = (icon, sentence)
