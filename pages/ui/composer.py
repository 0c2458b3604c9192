"""What the story shall be about: a model, and either one value for each of its columns or a free prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import streamlit as st

from core.dataset import grid, presets
from core.providers import CompletionRequest, ModelInfo
from pages.ui import cached, models, state
from pages.ui.lang import _, plain


@dataclass(frozen=True, slots=True)
class Order:
    """What to write, and with whom."""

    provider: str
    request: CompletionRequest


@dataclass(frozen=True, slots=True)
class Shape:
    """How a model wants to be asked: its columns with values to suggest, and how they become a prompt.

    A model that was tuned on rows takes the values joined, then its separator, and ends at its stop; every other
    model takes the sentence of the template.
    """

    columns: tuple[tuple[str, tuple[str, ...]], ...]
    template: str | None
    separator: str = ""
    stop: tuple[str, ...] = ()

    def prompt(self, values: Sequence[str]) -> str:
        if self.template is None:
            return ",".join(values) + self.separator
        return grid.render(self.template, {name: value for (name, _), value in zip(self.columns, values, strict=True)})


def form(button: Callable[[Order | None], None]) -> None:
    """The composer; `button` draws the one that sends, and gets None while there is nothing to send yet."""
    with st.container(border=True):
        info = models.picker(_("Model"), "story_model", prefer="storyteller")
        if info is None:
            models.none_yet()
            return
        shape = shape_of(info)
        free = _free()
        prompt = _free_prompt() if free else _column_prompt(shape)
        row = st.container(horizontal=True)
        if not free:
            st.caption(_("Prompt as the model reads it"))
            st.text(prompt or _("Give every column a value."))
    with row:
        send = st.container()
        with st.popover(_("More"), icon=":material/tune:"):
            temperature, top_p, max_tokens, seed = _more()
    request = CompletionRequest(
        model=info.id,
        prompt=prompt,
        endpoint="completion" if shape.template is None else cached.endpoint_of(info),
        temperature=temperature,
        top_p=top_p,
        max_tokens=max_tokens,
        stop=shape.stop,
        seed=seed,
    )
    with send:
        button(Order(info.provider, request) if prompt.strip() else None)


def shape_of(info: ModelInfo) -> Shape:
    """How `info` wants to be asked: from the job that made it, else from the article's template."""
    job = cached.job_of(info.id)
    if job is not None and job.dataset_id is not None and job.separator is not None:
        return Shape(
            columns=cached.suggestions(job.dataset_id),
            template=None,
            separator=job.separator,
            stop=(job.stop,) if job.stop else (),
        )
    recipe = presets.get().recipe
    return Shape(tuple((column.name, column.values) for column in recipe.columns), recipe.template)


def _free() -> bool:
    state.first("story_mode", "columns")
    chosen = st.segmented_control(
        _("Idea"),
        ["columns", "free"],
        format_func={"columns": _("From columns"), "free": _("Free prompt")}.__getitem__,
        required=True,
        label_visibility="collapsed",
        key="story_mode",
        persist_state="session",
    )
    return chosen == "free"


def _outside(shape: Shape) -> None:
    """Values that no cell of the grid has, one click each; only where the columns are the preset's."""
    names = tuple(name for name, _values in shape.columns)
    offers = [
        values
        for preset in presets.load()
        if tuple(column.name for column in preset.recipe.columns) == names
        for values in preset.outside
    ]
    if offers:
        st.caption(_("Or outside the grid"))
        with st.container(horizontal=True, gap="xsmall"):
            for number, values in enumerate(offers):
                st.button(
                    ", ".join(values),
                    key=f"story_outside_{number}",
                    on_click=_take,
                    args=(names, values),
                )


def _take(names: Sequence[str], values: Sequence[str]) -> None:
    for name, value in zip(names, values, strict=True):
        state.put(f"story_column_{name}", value)


def _column_prompt(shape: Shape) -> str:
    values = []
    for name, suggestions in shape.columns:
        key = f"story_column_{name}"
        value = st.selectbox(
            plain(name),
            list(dict.fromkeys([*suggestions, *([state.get(key)] if state.get(key) else [])])),
            accept_new_options=True,
            key=key,
            placeholder=_("Choose, or type your own"),
            persist_state="session",
        )
        values.append(str(value or ""))
    _outside(shape)
    return shape.prompt(values) if all(values) else ""


def _free_prompt() -> str:
    return str(
        st.text_area(
            _("Prompt"), height=180, key="story_prompt", placeholder=_("Write anything"), persist_state="session"
        )
        or ""
    )


def _more() -> tuple[float, float, int, int | None]:
    for key, value in {"temperature": 0.7, "top_p": 1.0, "max_tokens": 1_000, "seed": None}.items():
        state.first(f"story_{key}", value)
    temperature = st.slider(_("Temperature"), 0.0, 2.0, step=0.05, key="story_temperature", persist_state="session")
    top_p = st.slider(_("Top p"), 0.0, 1.0, step=0.05, key="story_top_p", persist_state="session")
    most = st.number_input(
        _("Most tokens in one story"), 1, 32_768, step=1, key="story_max_tokens", persist_state="session"
    )
    seed = st.number_input(
        _("Seed (empty: a new one each time)"), value=None, step=1, key="story_seed", persist_state="session"
    )
    return float(temperature), float(top_p), int(most), None if seed is None else int(seed)
