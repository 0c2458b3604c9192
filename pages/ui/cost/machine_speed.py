"""The measured speed of this machine: the newest measurement, and a button to measure now."""

from __future__ import annotations

import streamlit as st

from core.actor import LOCAL
from core.generation import speed_measurement
from core.pricing import machine_time
from core.pricing.prices import ENGINE
from pages.ui import cached, cards
from pages.ui.cost import cached_cost
from pages.ui.lang import _, number, plain


def show() -> None:
    """One line with the newest measurement, and the button. Call it once on a page."""
    speed, engine = cached_cost.speed(), cached.status().engine
    with st.container(horizontal=True, vertical_alignment="center"):
        if speed is None:
            st.caption(_("Speed of this machine: not measured yet"))
        else:
            st.caption(
                _("Measured on {day}: {rate} tokens/s with {model}").format(
                    day=f"{speed.measured_at:%Y-%m-%d}", rate=number(speed.tokens_per_s, 1), model=plain(speed.model)
                )
            )
        pressed = st.button(
            _("Measure"), icon=":material/speed:", key="cost_measure", disabled=not engine.models,
            help=_("Generates a few hundred tokens on the engine. Takes about 10 seconds."),
        )  # fmt: skip
    if engine.training is not None:
        st.caption(_("A training job is running. A speed measured now would be too low."))
    if pressed:
        _measure(engine.models)


def _measure(models: tuple[str, ...]) -> None:
    """Measure while the page waits; leaving the page cancels the measurement."""
    with cards.show_errors(), st.spinner(_("Measuring, about 10 seconds"), show_time=True):
        found = speed_measurement.measure(cached.client(ENGINE), speed_measurement.base_model(models))
        machine_time.save(cached.store(), LOCAL, found)
        cached_cost.forget()
        st.rerun()
