"""The open data set, which all parts of the page and the URL share, and its versions."""

from __future__ import annotations

from typing import Any

import streamlit as st

from core.datasets import versions
from core.datasets.datasets import DatasetSummary
from core.datasets.versions import Version
from core.db.tables import utcnow
from core.ownership import Thing
from pages.ui import cache, state, visible
from pages.ui.components import cards, sharing, views
from pages.ui.components.fields import number_field, text_field
from pages.ui.dataset import training_file
from pages.ui.i18n import _, ago, n_, number, percent
from pages.ui.sign_in import current_actor

_PART, _OPEN = "part", "set"  # in the address
_LINKED = "dataset_linked"  # the data set that the URL named at first
_OF_ONE = ("rows", "quality", "use")  # parts that show one data set

_CURRENT = ""
_MADE = "dataset_version_made"
_SHARES = (0, 5, 10, 15, 20, 25, 30, 40, 50)  # percent
_USUAL_SHARE = 10  # percent
_LARGEST_SEED = 2**31 - 1
_LONGEST_NOTE = 200  # characters


def open_part(dataset_id: str, part: str = "rows") -> None:
    """For buttons, also on other pages before they switch to the data-set page: open this part of a data set there."""
    state.set_value("dataset_open", dataset_id)
    state.set_value("dataset_part", part)


def pick() -> DatasetSummary | None:
    """The open data set; None if there is none, with a next step on the page."""
    found = visible.dataset_list()
    if not found:
        with cards.empty(_("No data set yet. Design a grid, or load the sample stories."), icon=":material/grid_view:"):
            st.button(
                _("Load the sample stories"),
                type="primary",
                icon=":material/download:",
                key="dataset_first",
                on_click=state.set_value,
                args=("dataset_part", "bring"),
            )
        return None
    if (linked := state.get(_LINKED)) is not None and linked not in {one.id for one in found}:
        st.info(
            _("The data set of this link was deleted, or it is not shared with you. Another one is shown."),
            icon=":material/link_off:",
        )
    by_id = {one.id: one for one in sharing.filter_by_owner("dataset_owner", found)}
    if state.get("dataset_open") not in by_id:
        state.set_value("dataset_open", next(iter(by_id)))
    with sharing.row():
        chosen = st.selectbox(
            _("Data set"),
            list(by_id),
            format_func={one.id: label(one) for one in by_id.values()}.__getitem__,
            key="dataset_open",
            width=520,
            persist_state="session",
            on_change=state.set_value,
            args=(_LINKED, None),
        )
        opened = by_id[str(chosen)]
        sharing.button(Thing("dataset", opened.id), opened)
    return opened


def label(one: DatasetSummary) -> str:
    """A data set's label in lists: its name, followed by its time if an older one has the same name.

    A selectbox identifies an option by its label, and selects the first option if that label no longer exists. So a
    label never depends on data sets that are added later, even with the same name.
    """
    same = [other for other in visible.dataset_list() if other.name == one.name]
    first = min(same, key=lambda other: (other.created_at, other.id), default=one)
    return one.name if first.id == one.id else f"{one.name} · {one.created_at:%Y-%m-%d %H:%M:%S.%f}"


def follow_address() -> None:
    """Open the view in the URL, unless this visitor has already chosen. Call before anything is rendered."""
    if state.get("dataset_open") is None:
        state.set_default(_LINKED, st.query_params.get(_OPEN))
    for name, key in ((_PART, "dataset_part"), (_OPEN, "dataset_open")):
        if name in st.query_params:
            state.set_default(key, st.query_params[name])


def keep_in_address(part: str) -> None:
    """Write the open view into the URL."""
    state.keep_in_address(_PART, part if part != "design" else None)
    state.keep_in_address(_OPEN, state.get("dataset_open") if part in _OF_ONE else None)


def pick_version(page: str, chosen: DatasetSummary) -> Version | None:
    """The chosen version; None means the current rows. Renders only facts while there is no version."""
    by_id = {version.id: version for version in training_file.version_list(chosen.id)}
    key = f"{page}_version_{chosen.id}"
    found = training_file.parts(chosen.id)
    now = (found.get(None, 0) + found.get("train", 0), found.get("validation", 0), found.get("held_out", 0))
    if not by_id:
        _version_facts(*now, _("as they are now"))
        return None
    if state.get(_MADE) in by_id:
        state.set_value(key, state.get(_MADE))
        state.set_value(_MADE, None)
    elif state.get(key) not in by_id:
        state.set_value(key, _CURRENT)
    picked = st.selectbox(
        _("Rows"),
        [_CURRENT, *by_id],
        format_func=lambda one: _version_label(by_id[one]) if one else _as_now(chosen),
        key=key,
        label_visibility="collapsed",
        persist_state="session",
    )
    version = by_id.get(str(picked))
    if version is None:
        _version_facts(*now)
    else:
        when = _("saved {time}").format(time=ago(version.created_at, utcnow()))
        _version_facts(version.n_train, version.n_validation, version.n_held_out, when)
    return version


def version_form(chosen: DatasetSummary) -> None:
    """Render the form that splits by cell and saves a version; the same rows and split give the same version."""
    with st.popover(_("Split and save as a version"), icon=":material/call_split:"):
        # The slider's own default: a value set in the session is lost when the popover is rendered for another data
        # set.
        share = validation_share("dataset_share", value=_USUAL_SHARE)
        seed = number_field(_("Seed (change it to draw other rows)"), "dataset_split_seed", 0, _LARGEST_SEED)
        note = text_field(_("Note"), "dataset_version_note", _LONGEST_NOTE)
        if st.button(_("Save as a version"), type="primary", icon=":material/bookmark_add:", key="dataset_freeze"):
            with cards.show_errors(), st.spinner(_("Saving the rows"), show_time=True):
                _save_version(chosen.id, share / 100, seed, note)
                st.rerun()


def validation_share(key: str, **look: Any) -> int:
    """The slider for the share of the rows that is kept for validation, in percent.

    Args:
        look: further arguments for `st.select_slider`.
    """
    share = st.select_slider(
        _("Kept for validation"),
        _SHARES,
        format_func=lambda one: percent(one / 100, 0),
        key=key,
        help=_("Takes the same share of every cell. These rows are used to measure the model, not to train it."),
        **look,
    )
    return int(share)


def _save_version(dataset_id: str, share: float, seed: int, note: str) -> None:
    version_id = versions.freeze(
        cache.store(), current_actor(), dataset_id, validation_share=share, seed=seed, note=note
    )
    state.set_value(_MADE, version_id)
    version = versions.get(cache.store(), version_id)
    state.notify(":material/bookmark:", _("Version {n} is saved and does not change.").format(n=version.number))


def _as_now(chosen: DatasetSummary) -> str:
    return n_("Current rows · {n} row", "Current rows · {n} rows", chosen.done)


def _version_label(version: Version) -> str:
    name = _("Version {n} · {train} to train, {validation} to validate").format(
        n=version.number, train=number(version.n_train), validation=number(version.n_validation)
    )
    return f"{name} · {version.note}" if version.note else name


def _version_facts(train: int, validation: int, held_out: int, when: str = "") -> None:
    views.facts(
        (
            n_("{n} row to train on", "{n} rows to train on", train),
            n_("{n} row for validation", "{n} rows for validation", validation) if validation else "",
            n_("{n} row held out", "{n} rows held out", held_out) if held_out else "",
            when,
        )
    )
