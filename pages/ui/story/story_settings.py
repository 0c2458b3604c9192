"""Settings of a story: temperature, length, stop, seed, and the chain switch."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import streamlit as st

from core.providers import ModelInfo
from pages.ui import state
from pages.ui.lang import _
from pages.ui.limited_fields import number_field
from pages.ui.story.story_model import PromptFormat, SamplingValues

_PROPOSED = "story_proposed"  # the default sampling in the form, unless the visitor has changed it
_MOST_STOPS = 4  # OpenAI's API reference, "stop": up to 4 sequences


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
        """A model's stop: the chosen one for the first model; for other models their own."""
        if own is first:
            return self.stop
        added = tuple(stop for stop in self.stop if stop not in first.stop)
        return tuple(dict.fromkeys([*own.stop, *added]))[:_MOST_STOPS]


def form(info: ModelInfo, prompt_format: PromptFormat) -> StorySettings:
    """The controls, with the model's defaults and the stop proposed from its training data."""
    _propose(prompt_format.sampling)
    state.set_default("story_seed", None)
    temperature = st.slider(_("Temperature"), 0.0, 2.0, step=0.05, key="story_temperature", persist_state="session")
    top_p = st.slider(_("Top p"), 0.0, 1.0, step=0.05, key="story_top_p", persist_state="session")
    most = number_field(_("Max tokens per story"), "story_max_tokens", 1, 32_768, persist_state="session")
    stop = _stop(info, prompt_format)
    seed = st.number_input(
        _("Seed (empty: random each time)"), value=None, step=1, key="story_seed", persist_state="session"
    )
    chain = st.toggle(
        _("Outline, then story, then title"),
        key="story_chain",
        help=_("Three requests, each based on the one before. For models that follow instructions."),
        persist_state="session",
    )
    return StorySettings(float(temperature), float(top_p), most, None if seed is None else int(seed), stop, chain)


def _propose(sampling: SamplingValues) -> None:
    """Set the model's defaults in the form; values that the visitor has changed are kept."""
    proposed, before = asdict(sampling), state.get(_PROPOSED) or {}
    for name, value in proposed.items():
        key = f"story_{name}"
        if state.get(key) in (None, before.get(name)):
            state.set_value(key, value)
    state.set_value(_PROPOSED, proposed)


def _stop(info: ModelInfo, prompt_format: PromptFormat) -> tuple[str, ...]:
    key = f"story_stop_{info.provider}_{info.id}"
    state.set_default(key, list(prompt_format.stop))
    chosen = st.multiselect(
        _("Stop at"),
        list(dict.fromkeys([*prompt_format.stop, *(state.get(key) or ())])),
        accept_new_options=True,
        max_selections=_MOST_STOPS,
        key=key,
        help=_("Suggested from the model's own training data."),
        placeholder=_("Leave empty to write until the model stops"),
        persist_state="session",
    )
    return tuple(str(stop) for stop in chosen)
