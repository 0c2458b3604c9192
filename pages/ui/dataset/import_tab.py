"""Import: a sample or your file becomes a data set."""

from __future__ import annotations

import streamlit as st

from core.actor import LOCAL
from core.datasets import datasets, presets
from pages.ui import cached, cached_rows, cards, state
from pages.ui.dataset import upload
from pages.ui.lang import _, in_language, language, n_, plain


def show() -> None:
    """Draw the whole part."""
    left, right = st.columns([2, 3], gap="medium")
    with left, st.container(border=True):
        st.subheader(_("Samples"), anchor=False)
        st.caption(_("Original samples, ready to train on."))
        for preset in presets.load(language()):
            if preset.sample is not None:
                _sample(preset.sample, in_language(preset.names))
    with right, st.container(border=True):
        st.subheader(_("Your file"), anchor=False)
        upload.form("dataset", _opened)


def _sample(name: str, title: str) -> None:
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
        st.markdown(f"**{plain(title)}**", width="stretch")  # a long title wraps next to its button
        st.button(
            n_("Load {n} row", "Load {n} rows", cached_rows.sample_size(name)),
            icon=":material/download:",
            key=f"dataset_sample_{name}",
            on_click=_load,
            args=(name,),
        )


def _load(name: str) -> None:
    with cards.keep_errors():
        _opened(datasets.load_sample(cached.store(), LOCAL, name))


def _opened(dataset_id: str) -> None:
    state.set_value("dataset_open", dataset_id)
    state.set_value("dataset_part", "rows")
