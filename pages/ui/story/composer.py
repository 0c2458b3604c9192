"""The composer: one or more models, and a value for each column or a free prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import streamlit as st

from core.model_profile.prompt_similarity import fixed_words
from core.providers import CompletionRequest, ModelInfo
from core.stories.arena import MAX_PANES, RoundEntry
from pages.ui import cached, models, prompt_warning, state
from pages.ui.lang import _, code, column_title, label
from pages.ui.prompt_warning import Remedy
from pages.ui.story import next_prompt, prompt_length, story_model, story_settings
from pages.ui.story.story_model import PromptFormat
from pages.ui.story.story_session import StoryRequest


def form(button: Callable[[StoryRequest | None], None]) -> PromptFormat | None:
    """Draw the composer; `button` draws the send button, and receives None while nothing can be sent.

    Returns the prompt format of the first model; None while there is no model.
    """
    several = bool(state.get("story_compare"))
    with st.container(border=True):
        left, right = st.columns([2, 3], gap="medium") if several else (st.container(), st.container())
        with left:
            info = models.picker(_("Model"), "story_model", prefer=models.storyteller())
            if info is None:
                models.none_yet()
                return None
            story_model.about(info)
        with right:
            others, blind = _others(info)
        prompt_format = story_model.prompt_format_of(info)
        free = _free()
        values = {} if free else _columns(prompt_format, several)
        prompt = _free_prompt() if free else prompt_format.prompt(values)
        warnings = st.container()
        row = st.container(horizontal=True)
        if not free:
            _as_read(prompt, several)
    with row:
        send = st.container()
        with st.popover(_("More"), icon=":material/tune:"):
            settings = story_settings.form(info, prompt_format)
    entries = [_entry(info, prompt_format, prompt_format, values, prompt, settings)]
    for other in others:
        entries.append(_entry(other, story_model.prompt_format_of(other), prompt_format, values, prompt, settings))
    with warnings:
        all_fit = _fits([info, *others], entries)
        if all_fit:
            _far_prompts([info, *others], prompt_format, values, prompt)
    _stop_in_prompt(entries)
    with send:
        story_request = StoryRequest(tuple(entries), blind and len(entries) > 1, settings.chain and len(entries) == 1)
        button(story_request if prompt.strip() and all_fit else None)
    return prompt_format


def _fits(found: Sequence[ModelInfo], entries: Sequence[RoundEntry]) -> bool:
    """True if every model can read its prompt; draws a warning for each that cannot."""
    return not prompt_length.too_long([(info, entry.request) for info, entry in zip(found, entries, strict=True)])


def _entry(
    info: ModelInfo,
    own: PromptFormat,
    first: PromptFormat,
    values: dict[str, str],
    prompt: str,
    settings: story_settings.StorySettings,
) -> RoundEntry:
    """The prompt of one model: in its own format if the values fit, else in the first model's."""
    request = CompletionRequest(
        model=info.id,
        prompt=story_model.prompt_for(own, first, values, prompt),
        system=own.system,
        endpoint=own.endpoint or cached.endpoint_of(info),
        temperature=settings.temperature,
        top_p=settings.top_p,
        max_tokens=settings.max_tokens,
        stop=settings.stops(own, first),
        seed=settings.seed,
    )
    return RoundEntry(info.provider, request, values or None)


def _far_prompts(found: Sequence[ModelInfo], first: PromptFormat, values: dict[str, str], prompt: str) -> None:
    """Warn about models whose training prompts differ from this prompt."""
    if not prompt.strip():
        return
    use_columns = ("story_mode", "columns")
    columns = Remedy(_("From columns"), ":material/view_column:", "story_use_columns", state.set_value, use_columns)
    for number, info in enumerate(found):
        own_format = story_model.prompt_format_of(info)
        has_values = bool(values) and all(name in values for name, _suggested in own_format.columns)
        if has_values and own_format.template is None:
            continue  # it gets the prompt in its training format
        text = first.sentence(values) if values else prompt
        if has_values and own_format.template is not None:
            text = fixed_words(own_format.template)
        prompt_warning.show(info, text or prompt, "story_model" if number == 0 else None, None if values else columns)


def _others(info: ModelInfo) -> tuple[list[ModelInfo], bool]:
    """The other models (at first the base of a tuned model), and the blind switch."""
    found = {f"{one.provider}/{one.id}": one for one in cached.models().found}
    found.pop(f"{info.provider}/{info.id}", None)
    if not found:
        return [], False
    with st.container(horizontal=True, gap="medium"):
        compare = st.toggle(_("Compare"), key="story_compare", persist_state="session")
        blind = compare and st.toggle(
            _("Blind"), key="story_blind", help=_("Names stay hidden and the order is random until you vote."),
            persist_state="session",
        )  # fmt: skip
    if not compare:
        return [], False
    key = "story_others"
    names = sorted(found, key=lambda name: (found[name].id != info.base, not found[name].id.startswith("ft:")))
    selected = [name for name in state.get(key) or () if name in found]
    state.set_value(key, selected or names[:1])
    chosen = st.multiselect(
        _("Model"),
        names,
        format_func=lambda name: models.label(found[name]),
        max_selections=MAX_PANES - 1,
        key=key,
        persist_state="session",
    )
    return [found[name] for name in chosen], bool(blind)


def _free() -> bool:
    state.set_default("story_mode", "columns")
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


def _as_read(prompt: str, several: bool) -> None:
    """The exact prompt of the first model; in a popover if the panes need the space."""
    title = _("Prompt as the model reads it")
    with st.expander(title, type="compact") if several else st.container():
        if not several:
            st.caption(title)
        st.text(prompt or _("Give every column a value."))


_ABREAST = 4  # number of inputs that fit next to each other


def _columns(prompt_format: PromptFormat, several: bool) -> dict[str, str]:
    """One value per column; empty while one is missing."""
    values: dict[str, str] = {}
    outside = []
    abreast = several and 1 < len(prompt_format.columns) <= _ABREAST
    places = st.columns(len(prompt_format.columns)) if abreast else [st.container()] * len(prompt_format.columns)
    for place, (name, suggestions) in zip(places, prompt_format.columns, strict=True):
        key = f"story_column_{name}"
        value = place.selectbox(
            label(column_title(name)),
            [*dict.fromkeys(value for value in (*suggestions, state.get(key)) if value)],
            accept_new_options=True,
            key=key,
            placeholder=_("Choose, or type your own"),
            persist_state="session",
        )
        values[name] = str(value or "")
        if value and value not in suggestions:
            outside.append(code(value))
    if outside:
        st.caption(f":material/explore: {_('Outside the grid: {values}').format(values=' '.join(outside))}")
    _outside(prompt_format)
    return values if prompt_format.prompt(values) else {}


def _outside(prompt_format: PromptFormat) -> None:
    """Values outside the grid, one click each; only if the columns are the preset's."""
    names = [name for name, _values in prompt_format.columns]
    offers = next_prompt.outside(prompt_format)
    if offers:
        st.caption(_("Or outside the grid"))
        with st.container(horizontal=True, gap="xsmall"):
            for number, values in enumerate(offers):
                st.button(
                    ", ".join(values),
                    key=f"story_outside_{number}",
                    on_click=next_prompt.fill_in,
                    args=(names, values),
                )


def _free_prompt() -> str:
    return str(
        st.text_area(
            _("Prompt"), height=180, key="story_prompt", placeholder=_("Write anything"), persist_state="session"
        )
        or ""
    )


def _stop_in_prompt(entries: Sequence[RoundEntry]) -> None:
    """A stop that occurs in the prompt ends the text of a model that repeats its prompt, and on some servers
    immediately.
    """
    found = {stop for entry in entries for stop in entry.request.stop if stop in entry.request.prompt}
    for stop in sorted(found):
        words = _("The prompt contains the stop {stop}: a story that repeats it ends there.")
        st.caption(f":material/warning: {words.format(stop=code(stop))}")
