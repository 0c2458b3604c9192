"""Choose the current rows or a saved version; split and save a new version."""

from __future__ import annotations

import streamlit as st

from core.actor import LOCAL
from core.datasets import versions
from core.datasets.datasets import DatasetSummary
from core.datasets.versions import Version
from core.db.tables import utcnow
from pages.ui import cached, cached_rows, cards, state, views
from pages.ui.lang import _, ago, n_, number, percent
from pages.ui.limited_fields import number_field, text_field

_NOW = ""
_MADE = "dataset_version_made"
_SHARES = (0, 5, 10, 15, 20, 25, 30, 40, 50)  # percent
_LARGEST_SEED = 2**31 - 1
_LONGEST_NOTE = 200  # characters


def pick(page: str, chosen: DatasetSummary) -> Version | None:
    """The chosen version; None: the current rows. Draws only facts while there is no version."""
    by_id = {version.id: version for version in cached_rows.version_list(chosen.id)}
    key = f"{page}_version_{chosen.id}"
    found = cached_rows.parts(chosen.id)
    now = (found.get(None, 0) + found.get("train", 0), found.get("validation", 0), found.get("held_out", 0))
    if not by_id:
        _facts(*now, _("as they are now"))
        return None
    if state.get(_MADE) in by_id:
        state.set_value(key, state.get(_MADE))
        state.set_value(_MADE, None)
    elif state.get(key) not in by_id:
        state.set_value(key, _NOW)
    picked = st.selectbox(
        _("Rows"),
        [_NOW, *by_id],
        format_func=lambda one: _label(by_id[one]) if one else _as_now(chosen),
        key=key,
        label_visibility="collapsed",
        persist_state="session",
    )
    version = by_id.get(str(picked))
    if version is None:
        _facts(*now)
    else:
        when = _("saved {time}").format(time=ago(version.created_at, utcnow()))
        _facts(version.n_train, version.n_validation, version.n_held_out, when)
    return version


def keep(chosen: DatasetSummary) -> None:
    """Split by cell and save as a version; the same rows and split are the same version."""
    with st.popover(_("Split and save as a version"), icon=":material/call_split:"):
        share = st.select_slider(
            _("Kept for validation"),
            _SHARES,
            10,
            format_func=lambda one: percent(one / 100, 0),
            key="dataset_share",
            help=_("Takes the same share of every cell. These rows are used to measure the model, not to train it."),
        )
        seed = number_field(_("Seed (change it to draw other rows)"), "dataset_split_seed", 0, _LARGEST_SEED)
        note = text_field(_("Note"), "dataset_version_note", _LONGEST_NOTE)
        if st.button(_("Save as a version"), type="primary", icon=":material/bookmark_add:", key="dataset_freeze"):
            with cards.show_errors(), st.spinner(_("Saving the rows"), show_time=True):
                _keep(chosen.id, int(share) / 100, seed, note)
                st.rerun()


def _keep(dataset_id: str, share: float, seed: int, note: str) -> None:
    version_id = versions.freeze(cached.store(), LOCAL, dataset_id, validation_share=share, seed=seed, note=note)
    state.set_value(_MADE, version_id)
    version = versions.get(cached.store(), version_id)
    state.notify(":material/bookmark:", _("Version {n} is saved and does not change.").format(n=version.number))


def _as_now(chosen: DatasetSummary) -> str:
    return n_("Current rows · {n} row", "Current rows · {n} rows", chosen.done)


def _label(version: Version) -> str:
    name = _("Version {n} · {train} to train, {validation} to validate").format(
        n=version.number, train=number(version.n_train), validation=number(version.n_validation)
    )
    return f"{name} · {version.note}" if version.note else name


def _facts(train: int, validation: int, held_out: int, when: str = "") -> None:
    views.facts(
        (
            n_("{n} row to train on", "{n} rows to train on", train),
            n_("{n} row for validation", "{n} rows for validation", validation) if validation else "",
            n_("{n} row held out", "{n} rows held out", held_out) if held_out else "",
            when,
        )
    )
