"""Small shared views: the switch between parts of a page, untrusted text, facts, notes; phone detection."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import Any

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from core.datasets.recipe import Recipe
from core.db.tables import utcnow
from core.errors import FabulaError
from core.providers import CompletionRequest, parameters
from pages.ui import cache, state
from pages.ui.i18n import _, as_markdown, clock, code, duration


def switch(key: str, label: str, parts: Mapping[str, str]) -> str:
    """Selector for the sections of a page. Returns the selected section, initially the first one."""
    state.set_default(key, next(iter(parts)))
    if state.get(key) not in parts:
        state.set_value(key, next(iter(parts)))
    chosen = st.segmented_control(
        label,
        list(parts),
        format_func=parts.__getitem__,
        required=True,
        label_visibility="collapsed",
        key=key,
        persist_state="session",
    )
    return str(chosen)


def one_of(kinds: Sequence[Any], kind: Any) -> DeltaGenerator:
    """A container for one kind of content; the containers of other kinds are cleared immediately.

    Otherwise their content would stay visible, greyed out, until the script ends, which is as long as a story is being
    written.
    """
    places = {one: st.container() if one == kind else st.empty() for one in kinds}
    return places[kind]


_MOST = 280  # characters: three lines of a column


def shortened(text: str, most: int = _MOST) -> str:
    """The text in one line; a long one ends with an ellipsis."""
    line = " ".join(text.split())
    return line if len(line) <= most else line[:most].rstrip() + " …"


def prompt(text: str, key: str) -> None:
    """Render a prompt as code; a long prompt is shortened, and a click shows the full text."""
    shown = shortened(text)
    st.markdown(f":material/chat_bubble: {code(shown)}")
    if shown.endswith(" …"):
        with st.expander(_("The whole prompt"), type="compact", key=key):
            st.text(text)


def report_downloads(markdown: str, data: Mapping[str, Any], name: str, key: str) -> None:
    """Render the buttons that download a report as Markdown and as JSON; `name` is that of the files."""
    with st.container(horizontal=True):
        st.download_button(
            _("Markdown"), markdown, f"{name}.md", "text/markdown", icon=":material/download:", key=f"{key}_markdown",
            on_click="ignore",
        )  # fmt: skip
        st.download_button(
            _("JSON"), json.dumps(data, ensure_ascii=False, indent=1), f"{name}.json", "application/json",
            icon=":material/download:", key=f"{key}_json", on_click="ignore",
        )  # fmt: skip


def metric(label: str, figure: Any, *args: Any, help: str | None = None, **more: Any) -> None:
    """Render `st.metric` with a label that wraps: Streamlit's own is cut off on a phone."""
    with st.container(gap=None):
        st.caption(label, help=help)
        st.metric(label, figure, *args, label_visibility="collapsed", **more)


def facts(items: Iterable[str]) -> None:
    """Render the known facts on one line, separated by dots."""
    st.caption(" · ".join(item for item in items if item))


def stepper(titles: Sequence[str], current: int) -> None:
    """Render all steps on one line: done, current (1 is the first), upcoming."""
    marks = []
    for place, title in enumerate(titles, start=1):
        if place == current:
            marks.append(f"**{title}**")
        else:
            marks.append(f":green[{title}]" if place < current else f":gray[{title}]")
    st.markdown("  :gray[:material/chevron_right:]  ".join(marks))


def resumption(at: datetime) -> str:
    """When work that waits for a provider will resume, with a countdown."""
    now = utcnow()
    words = _("Resumes automatically at {time}, in {left}. You can close this page.").format(
        time=clock(at, now), left=duration((at - now).total_seconds())
    )
    return f":material/schedule: {words}"


def story_text(text: str) -> None:
    """Render a model's text without links, images or markup, in a column of readable width."""
    with st.container(width=720):
        st.text(text.strip())


def is_phone() -> bool:
    """Whether the browser is a phone's: its user agent contains "Mobi", as MDN recommends."""
    headers = st.context.headers
    return headers.get("Sec-Ch-Ua-Mobile") == "?1" or "Mobi" in headers.get("User-Agent", "")


def parameter_notes(notes: Iterable[str]) -> None:
    """Render one caption per note."""
    for note in notes:
        st.caption(f":material/info: {as_markdown(note)}")


def rejected_parameters(recipe: Recipe) -> tuple[str, ...]:
    """Rejected parameters known for the recipe's model, of those that the recipe sets."""
    chat = CompletionRequest(
        recipe.model, "", temperature=recipe.temperature, top_p=recipe.top_p, seed=recipe.seed, n=recipe.repeats
    )
    with suppress(FabulaError):  # nothing is known about a provider that is not configured
        provider = cache.registry().provider(recipe.provider)
        return parameters.notes(provider, chat) or parameters.notes(provider, replace(chat, endpoint="completion"))
    return ()
