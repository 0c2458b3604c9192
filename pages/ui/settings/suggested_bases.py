"""Base models that fit the engine's machine, each with its training time here and a download button."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import streamlit as st

from core.finetuning import base_order
from core.providers.engine_bases import SuggestedBase
from pages.ui.components import views
from pages.ui.i18n import _, code, duration, number, plain, sentences
from pages.ui.settings.base_figures import context, gigabytes, parameters, speed
from pages.ui.training import cached_training

_FEW = 4  # shown at once


def show(suggested: Sequence[SuggestedBase], on_download: Callable[[str], None]) -> None:
    """Render the first suggestions, and the others on request."""
    if not suggested:
        return
    packaged_speed = cached_training.packaged_training_speed()
    ordered = base_order.in_order(suggested, packaged_speed)
    fit = _("These fit the memory of this machine, as of {date}.").format(date=suggested[0].as_of)
    st.caption(sentences(fit, _order(packaged_speed)))
    for one in ordered[:_FEW]:
        _row(one, packaged_speed, on_download)
    if rest := ordered[_FEW:]:
        with st.expander(_("Other models"), type="compact", key="settings_base_others"):
            for one in rest:
                _row(one, packaged_speed, on_download)


def _order(packaged_speed: float | None) -> str:
    """An explanation of the order."""
    if packaged_speed is None:
        return ""
    return _("First those that train on {n} examples within {time}, the largest first.").format(
        n=number(base_order.TYPICAL_EXAMPLES), time=duration(base_order.REASONABLE_S)
    )


def _row(one: SuggestedBase, packaged_speed: float | None, on_download: Callable[[str], None]) -> None:
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
        with st.container(gap=None, width="stretch"):
            st.markdown(f"{code(one.repo)} · {_training_time(one, packaged_speed)}")
            views.facts(
                (
                    parameters(one.parameters),
                    "" if one.tokens_per_s is None else speed(one.tokens_per_s),
                    _("memory to train: {size}").format(size=gigabytes(one.training_bytes)),
                    _("download: {size}").format(size=gigabytes(one.download_bytes)),
                    context(one.context, one.model_context),
                    plain(one.licence),
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


def _training_time(one: SuggestedBase, packaged_speed: float | None) -> str:
    seconds = base_order.typical_training_s(one.parameters, packaged_speed)
    if seconds is None:
        return _("training time: known after the first job")
    return _("training on {n} examples: about {time}").format(
        n=number(base_order.TYPICAL_EXAMPLES), time=duration(_rounded(seconds))
    )


def _rounded(seconds: float) -> float:
    """An estimate in steps of 5 minutes; in whole hours from two hours on."""
    step_s = 3600 if seconds >= 2 * 3600 else 300
    return max(1, round(seconds / step_s)) * step_s
