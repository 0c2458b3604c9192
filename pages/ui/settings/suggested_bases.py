"""Base models that fit the engine's machine, each with a download button."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import streamlit as st

from core.providers.engine_bases import SuggestedBase
from pages.ui.components import views
from pages.ui.i18n import _, code, plain
from pages.ui.settings.base_figures import context, gigabytes, parameters, speed

_FEW = 4  # shown at once; the largest that fit write best


def show(suggested: Sequence[SuggestedBase], on_download: Callable[[str], None]) -> None:
    """The largest suggestions, and the others on request."""
    if not suggested:
        return
    largest_first = sorted(suggested, key=lambda one: -one.parameters)
    st.caption(_("Fit the memory of this machine to write and to train, as of {date}:").format(date=suggested[0].as_of))
    for one in largest_first[:_FEW]:
        _row(one, on_download)
    if rest := largest_first[_FEW:]:
        with st.expander(_("Smaller ones"), type="compact", key="settings_base_smaller"):
            for one in rest:
                _row(one, on_download)


def _row(one: SuggestedBase, on_download: Callable[[str], None]) -> None:
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
        with st.container(gap=None, width="stretch"):
            st.markdown(code(one.repo))
            views.facts(
                (
                    parameters(one.parameters),
                    plain(one.licence),
                    context(one.context, one.model_context),
                    _("download: {size}").format(size=gigabytes(one.download_bytes)),
                    _("memory to train: {size}").format(size=gigabytes(one.training_bytes)),
                    speed(one.tokens_per_s),
                    _("terms to accept first") if one.gated else "",
                )
            )
        st.button(
            _("Download"),
            icon=":material/download:",
            key=f"settings_base_get_{one.repo}",
            on_click=on_download,
            args=(one.repo,),
        )
