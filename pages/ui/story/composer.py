"""The composer: one or more models, a value for each column or a free prompt, and the settings of the story."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import streamlit as st

from core.model_profile.prompt_similarity import fixed_words
from core.providers import CompletionRequest, ModelInfo
from core.stories.arena import MAX_PANES, RoundEntry
from pages.ui import cache, state, visible
from pages.ui.components import models, prompt_formats, prompt_warnings, shutdown_notes
from pages.ui.components.fields import number_field
from pages.ui.components.prompt_formats import PromptFormat, SamplingValues
from pages.ui.components.prompt_warnings import Remedy
from pages.ui.components.story_session import StoryRequest
from pages.ui.i18n import _, code, column_title, label, listed

_PROPOSED = "story_proposed"  # the default sampling in the form, unless the visitor has changed it
_MOST_STOPS = 4  # OpenAI's API reference, "stop": up to 4 sequences


def form(button: Callable[[StoryRequest | None], None]) -> PromptFormat | None:
    """Render the composer; `button` renders the send button, and receives None while nothing can be sent.

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
            prompt_formats.about(info)
        with right:
            others, blind = _others(info)
        prompt_format = prompt_formats.prompt_format_of(info)
        free = _free()
        values = {} if free else _columns(prompt_format, several)
        prompt = _free_prompt() if free else prompt_format.prompt(values)
        warnings = st.container()
        row = st.container(horizontal=True)
        if not free:
            _as_read(prompt, several)
    with row:
        send = st.container()
        settings = _settings(info, prompt_format)
    entries = [_entry(info, prompt_format, prompt_format, values, prompt, settings)]
    for other in others:
        entries.append(_entry(other, prompt_formats.prompt_format_of(other), prompt_format, values, prompt, settings))
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
    """True if every model can read its prompt; renders a warning for each that cannot."""
    return not prompt_warnings.too_long([(info, entry.request) for info, entry in zip(found, entries, strict=True)])


def _entry(
    info: ModelInfo,
    own: PromptFormat,
    first: PromptFormat,
    values: dict[str, str],
    prompt: str,
    settings: StorySettings,
) -> RoundEntry:
    """The prompt of one model: in its own format if the values fit, else in the first model's."""
    request = CompletionRequest(
        model=info.id,
        prompt=prompt_formats.prompt_for(own, first, values, prompt),
        system=own.system,
        endpoint=own.endpoint or cache.endpoint_of(info),
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
        own_format = prompt_formats.prompt_format_of(info)
        has_values = bool(values) and all(name in values for name, _suggested in own_format.columns)
        if has_values and own_format.template is None:
            continue  # it gets the prompt in its training format
        text = first.sentence(values) if values else prompt
        if has_values and own_format.template is not None:
            text = fixed_words(own_format.template)
        prompt_warnings.far_prompt(
            info, text or prompt, "story_model" if number == 0 else None, None if values else columns
        )


def _others(info: ModelInfo) -> tuple[list[ModelInfo], bool]:
    """The other models (at first the base of a tuned model), and the blind switch."""
    found = {f"{one.provider}/{one.id}": one for one in visible.models().found}
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
        format_func=models.options(found).__getitem__,
        max_selections=MAX_PANES - 1,
        key=key,
        persist_state="session",
    )
    for name in chosen:
        if (notice := shutdown_notes.of_info(found[name])) is not None:
            shutdown_notes.line(f"{code(found[name].id)} · {shutdown_notes.sentence(notice, found[name].id)}")
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
    """Render the exact prompt of the first model; in a popover if the panes need the space."""
    title = _("Prompt as the model reads it")
    with st.expander(title, type="compact") if several else st.container():
        if not several:
            st.caption(title)
        st.text(prompt or _("Give every column a value."))


_ABREAST = 4  # number of inputs that fit next to each other


def _columns(prompt_format: PromptFormat, several: bool) -> dict[str, str]:
    """One value per column; empty while one is missing."""
    if prompt_format.data_deleted:
        st.caption(_("The data set of this model was deleted, so its columns are unknown. Enter the whole prompt."))
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
    """Render values outside the grid, one click each; only if the columns are the preset's."""
    names = [name for name, _values in prompt_format.columns]
    offers = prompt_formats.outside_values(prompt_format)
    if offers:
        st.caption(_("Or outside the grid"))
        with st.container(horizontal=True, gap="xsmall"):
            for number, values in enumerate(offers):
                st.button(
                    listed(values),
                    key=f"story_outside_{number}",
                    on_click=prompt_formats.fill_in,
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
    """Warn about a stop in the prompt: it ends the text of a model that repeats its prompt, on some servers
    immediately.
    """
    found = {stop for entry in entries for stop in entry.request.stop if stop in entry.request.prompt}
    for stop in sorted(found):
        words = _("The prompt contains the stop {stop}: a story that repeats it ends there.")
        st.caption(f":material/warning: {words.format(stop=code(stop))}")


@dataclass(frozen=True, slots=True)
class StorySettings:
    """The settings under More. `stop` is the choice for the first model."""

    temperature: float
    top_p: float
    max_tokens: int
    seed: int | None
    stop: tuple[str, ...]
    chain: bool

    def stops(self, own: PromptFormat, first: PromptFormat) -> tuple[str, ...]:
        """A model's stop: the chosen one for the first model, their own for other models."""
        if own is first:
            return self.stop
        added = tuple(stop for stop in self.stop if stop not in first.stop)
        return tuple(dict.fromkeys([*own.stop, *added]))[:_MOST_STOPS]


def _settings(info: ModelInfo, prompt_format: PromptFormat) -> StorySettings:
    """The settings under More, with the model's defaults and the stop proposed from its training data.

    The fields are rendered only while the popover is open: for a closed one, the browser would keep the values and send
    them back even after another model has changed them.
    """
    _propose(prompt_format.sampling)
    stop_key = f"story_stop_{info.provider}_{info.id}"
    state.set_default(stop_key, list(prompt_format.stop))
    more = st.popover(_("More"), icon=":material/tune:", key="story_more", on_change="rerun")
    if more.open:
        with more:
            _settings_fields(stop_key, prompt_format)
    seed = state.get("story_seed")
    return StorySettings(
        temperature=float(state.get("story_temperature")),
        top_p=float(state.get("story_top_p")),
        max_tokens=int(state.get("story_max_tokens")),
        seed=None if seed is None else int(seed),
        stop=tuple(str(stop) for stop in state.get(stop_key) or ()),
        chain=bool(state.get("story_chain")),
    )


def _settings_fields(stop_key: str, prompt_format: PromptFormat) -> None:
    state.set_default("story_seed", None)
    st.slider(_("Temperature"), 0.0, 2.0, step=0.05, key="story_temperature", persist_state="session")
    st.slider(_("Top p"), 0.0, 1.0, step=0.05, key="story_top_p", persist_state="session")
    number_field(_("Max tokens per story"), "story_max_tokens", 1, 32_768, persist_state="session")
    _stop_field(stop_key, prompt_format)
    st.number_input(_("Seed (empty: random each time)"), value=None, step=1, key="story_seed", persist_state="session")
    st.toggle(
        _("Outline, then story, then title"),
        key="story_chain",
        help=_("Three requests, each based on the one before. For models that follow instructions."),
        persist_state="session",
    )


def _propose(sampling: SamplingValues) -> None:
    """Set the model's defaults in the form; values that the visitor has changed are kept."""
    proposed, before = asdict(sampling), state.get(_PROPOSED) or {}
    for name, value in proposed.items():
        key = f"story_{name}"
        if state.get(key) in (None, before.get(name)):
            state.set_value(key, value)
    state.set_value(_PROPOSED, proposed)


def _stop_field(key: str, prompt_format: PromptFormat) -> None:
    st.multiselect(
        _("Stop at"),
        list(dict.fromkeys([*prompt_format.stop, *(state.get(key) or ())])),
        accept_new_options=True,
        max_selections=_MOST_STOPS,
        key=key,
        help=_("Suggested from the model's own training data."),
        placeholder=_("Leave empty to write until the model stops"),
        persist_state="session",
    )
