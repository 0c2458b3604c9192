"""The sole owner of session state: what one visitor has typed, picked and opened, and nothing else. Anything that must
outlive a browser tab is in the database. Widget keys are `<page>_<name>`; pages set and read values outside the widget
with the functions here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import streamlit as st

from core.datasets.recipe import Column, ColumnType
from core.errors import FabulaError

T = TypeVar("T")


@dataclass(frozen=True)
class ColumnDraft:
    """One column of the grid while it is being edited; `id` stays the same when the name changes."""

    id: int
    name: str
    values: tuple[str, ...]
    type: ColumnType = "auto"


@dataclass(frozen=True)
class GridDraft:
    """The columns of the data-set page while they are being edited."""

    columns: tuple[ColumnDraft, ...] = ()
    preset: str = ""
    next_id: int = 0
    draw: int = 0  # the random cell whose prompt is shown
    removed: tuple[int, ColumnDraft] | None = None  # the most recently removed column, and its position
    family: str = ""  # family of the open saved recipe; "" if none
    version: str = ""  # id of the open version

    @classmethod
    def of(cls, columns: Sequence[Column], preset: str, first_id: int) -> GridDraft:
        drafts = tuple(ColumnDraft(first_id + i, c.name, c.values, c.type) for i, c in enumerate(columns))
        return cls(columns=drafts, preset=preset, next_id=first_id + len(drafts))

    def with_column(self, name: str = "", values: tuple[str, ...] = ()) -> GridDraft:
        draft = ColumnDraft(self.next_id, name, values)
        return replace(self, columns=(*self.columns, draft), next_id=self.next_id + 1, removed=None)

    def with_values(self, column_id: int, values: tuple[str, ...]) -> GridDraft:
        changed = tuple(replace(c, values=values) if c.id == column_id else c for c in self.columns)
        return replace(self, columns=changed)

    def with_type(self, column_id: int, column_type: ColumnType) -> GridDraft:
        changed = tuple(replace(c, type=column_type) if c.id == column_id else c for c in self.columns)
        return replace(self, columns=changed)

    def without(self, column_id: int) -> GridDraft:
        index = next((i for i, c in enumerate(self.columns) if c.id == column_id), None)
        if index is None:
            return self
        return replace(
            self, columns=(*self.columns[:index], *self.columns[index + 1 :]), removed=(index, self.columns[index])
        )

    def with_removed(self) -> GridDraft:
        """Restore the most recently removed column at its position."""
        if self.removed is None:
            return self
        index, column = self.removed
        return replace(self, columns=(*self.columns[:index], column, *self.columns[index:]), removed=None)


@dataclass
class StudioState:
    """Everything one visitor has open, by page."""

    grid: GridDraft = field(default_factory=GridDraft)
    preview: Any = None  # rows of the last preview, with the recipe they were made for
    story: Any = None  # the pages.ui.components.story_session.StorySession of this visitor
    presentation: Any = None  # the pages.ui.story.presenter.Presentation of this visitor
    round_links: Any = None  # the pages.ui.story.round_guests.RoundLinks of this visitor
    imported: tuple[str, Any] | None = None  # id of the upload that was read last, and what was read
    prompts: Any = None  # the pages.ui.dataset.prompt_list_form.ReadList of the upload that was read last
    notice: tuple[str, str] | None = None  # a line to show once on the next run: icon, sentence
    problem: FabulaError | None = None  # an error of the last click, to show once on the next run
    columns_read: tuple[str, Any] | None = None  # id of the upload whose columns were read last, and these columns
    recipe_drawn: Any = None  # the Recipe that the form held when it was rendered last
    recipe_before: tuple[Any, GridDraft] | None = None  # the previous form, to restore
    recipe_deleted: tuple[str, str] | None = None  # family and name of the saved recipe that was deleted last
    undo: Any = None  # the pages.ui.components.cards.Undo of the last action on rows
    row_open: int | None = None  # the row whose dialog is open
    rows_of: Any = None  # the filter of the row table: (data set, its name, where)
    table: int = 0  # a new number re-renders the table of rows without unsaved edits


def studio() -> StudioState:
    """This visitor's state, made on first use."""
    if "studio" not in st.session_state:
        st.session_state["studio"] = StudioState()
    visitor: StudioState = st.session_state["studio"]
    return visitor


def get_or_create(name: str, kind: type[T]) -> T:
    """This visitor's object for a page, stored in `StudioState` under `name`; created on first use."""
    stored = getattr(studio(), name)
    if not isinstance(stored, kind):
        stored = kind()
        setattr(studio(), name, stored)
    return stored


def set_value(key: str, value: Any) -> None:
    """Set a widget's value. Call only before the widget is rendered, or from a callback."""
    st.session_state[key] = value


def get(key: str, default: Any = None) -> Any:
    """A widget's value, even before the widget is rendered."""
    return st.session_state.get(key, default)


def set_default(key: str, value: Any) -> None:
    """Set a widget's initial value, unless the visitor has changed it."""
    if key not in st.session_state:
        st.session_state[key] = value


def notify(icon: str, sentence: str) -> None:
    """Show `sentence` once, in the next run (a toast now would be lost in the rerun that follows)."""
    studio().notice = (icon, sentence)


def drop(key: str) -> None:
    """Drop a widget's value, so that it starts from its default.

    Call only before the widget is rendered, or from a callback.
    """
    st.session_state.pop(key, None)


def keep_in_address(name: str, value: str | None) -> None:
    """Set a query parameter; None or "" removes it. An unchanged URL is not written."""
    if not value:
        st.query_params.pop(name, None)
    elif st.query_params.get(name) != value:
        st.query_params[name] = value
