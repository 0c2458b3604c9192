"""The story as it arrives, with a way to stop it and a thin line of facts under it."""

from __future__ import annotations

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from core.actor import LOCAL
from core.story import stream
from core.story.stream import Facts, StoryStream
from pages.ui import cached, cards, state
from pages.ui.composer import Order
from pages.ui.lang import _, code, mark, n_, number, usd

_ENDINGS = {
    "stop": mark("finished by itself"),
    "length": mark("cut at the most tokens allowed"),
    "content_filter": mark("cut by the provider's content filter"),
    "refusal": mark("the model refused"),
}


def button(order: Order | None) -> None:
    """Write; or Stop, while a story is coming. One button under one key, so that nothing jumps or lingers."""
    told = state.studio().story
    writing = told is not None and not told.done
    st.button(
        _("Stop") if writing else _("Write"),
        icon=":material/stop:" if writing else ":material/edit:",
        type="secondary" if writing else "primary",
        width="stretch",
        key="story_button",
        disabled=order is None and not writing,
        on_click=told.stop if told is not None and writing else _write,
        args=() if writing else (order,),
    )


def page() -> None:
    """The sheet on which the story appears. A visitor who comes back reads on where the story is by now."""
    told = state.studio().story
    with st.container(border=True, width=760):
        sheet, line, trouble = st.empty(), st.empty(), st.empty()
    if told is None:
        sheet.markdown(f":gray[:material/auto_stories: {_('The story appears here, word by word.')}]")
        line.caption(_("Values that no training row has are welcome: there a tuned model shows what it has learned."))
        return
    running = not told.done
    with trouble.container(), cards.errors_shown():
        _read_along(told, sheet, line)
    if running:
        st.rerun()  # the Write button comes back


def _read_along(told: StoryStream, sheet: DeltaGenerator, line: DeltaGenerator) -> None:
    text = ""
    if not told.done:
        sheet.markdown(f":shimmer[{_('Waiting for the first word')}]")
        line.caption(code(told.request.model))
    try:
        for piece in told:
            text += piece
            sheet.text(text.strip())
            line.caption(" · ".join(_known(told.facts, writing=not told.done)))
    finally:
        if not text and told.done:
            sheet.markdown(f":gray[{_('No word has come.')}]")
        line.caption(" · ".join(_known(told.facts, writing=not told.done)))


def _known(facts: Facts, *, writing: bool) -> list[str]:
    parts = [
        code(facts.model),
        _("first words after {seconds} s").format(seconds=number(facts.first_text_s, 1)) if facts.first_text_s else "",
        _("{rate} tokens/s").format(rate=number(facts.tokens_per_s, 0)) if facts.tokens_per_s else "",
        n_("{n} token", "{n} tokens", facts.tokens) if facts.tokens else "",
        "" if writing else usd(facts.cost_usd),
        "" if writing else _ending(facts),
    ]
    return [part for part in parts if part]


def _ending(facts: Facts) -> str:
    if facts.stopped:
        return _("stopped; the words so far are kept")
    return ending(facts.finish_reason)


def ending(finish_reason: str | None) -> str:
    """Why a story ended, in words; None: the connection ended before the provider said."""
    if finish_reason is None:
        return _("cut off; the words so far are kept")
    return _(_ENDINGS[finish_reason]) if finish_reason in _ENDINGS else finish_reason


def _write(order: Order) -> None:
    with cards.errors_kept():
        client = cached.client(order.provider)
        state.studio().story = stream.write(cached.store(), LOCAL, client, order.request, cached.prices())
