"""Settings of presenter mode: models, prepared prompts, and the paid model for the cost comparison."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import streamlit as st

from core.pricing.prices import USD, Price
from core.providers import CompletionRequest, ModelInfo
from core.stories import prompt_suggestions
from core.stories.arena import RoundEntry
from pages.ui import cache, state, visible
from pages.ui.components import cards, models, prompt_formats
from pages.ui.components.prompt_formats import PromptFormat
from pages.ui.components.story_session import StoryRequest
from pages.ui.cost import price_choice
from pages.ui.i18n import _, plain
from pages.ui.sign_in import current_actor

MOST_PANES = 2  # the number that an audience can read at a glance
_CELLS = 4  # cells of the grid: enough to show that stories differ, few enough for a talk
_PAID = ("openai", "gpt-6.1-terra")  # a mid-priced OpenAI model, if the price list has it
MODELS_IN_ADDRESS = "models"


@dataclass(frozen=True, slots=True)
class PresenterModels:
    """The available models: `second` is None if there is no other model. `panes`: how many of them write."""

    first: ModelInfo
    second: ModelInfo | None
    panes: int

    @property
    def writing(self) -> list[ModelInfo]:
        """The models that write, from left to right."""
        return [self.first, *([self.second] if self.second is not None and self.panes > 1 else [])]


@dataclass(frozen=True, slots=True)
class PreparedPrompt:
    """One prepared prompt. `values`: the values of its columns; empty for a free prompt."""

    title: str
    text: str
    values: Mapping[str, str]
    outside: bool = False


def writers() -> PresenterModels | None:
    """Render the model pickers and return the chosen models; None while there is no model."""
    _from_address()
    first = models.picker(_("Model"), "story_model", prefer=models.storyteller())
    if first is None:
        return None
    others = [info for info in visible.models().found if (info.provider, info.id) != (first.provider, first.id)]
    second = None
    if others:
        second = models.picker(_("Second model"), "presenter_second", among=others, prefer=first.base or "")
    state.set_default("presenter_panes", 1)
    return PresenterModels(first, second, panes())


def panes() -> int:
    """The picker for the number of models."""
    return int(state.get("presenter_panes") or 1)


def _from_address() -> None:
    """Apply the models in the URL once; afterwards the pickers decide."""
    address_models = str(st.query_params.get(MODELS_IN_ADDRESS, ""))
    if not address_models or state.get("presenter_asked") == address_models:
        return
    state.set_value("presenter_asked", address_models)
    listed = [f"{info.provider}/{info.id}" for info in visible.models().found]
    named = [name for name in dict.fromkeys(part.strip() for part in address_models.split(",")) if name in listed]
    for key, name in zip(("story_model", "presenter_second"), named, strict=False):
        state.set_value(key, name)
    state.set_value("presenter_panes", min(max(1, len(named)), MOST_PANES))


def keep_in_address(who: PresenterModels) -> None:
    """Store the models in the URL, for a reload."""
    named = ",".join(f"{info.provider}/{info.id}" for info in who.writing)
    state.set_value("presenter_asked", named)
    state.keep_in_address(MODELS_IN_ADDRESS, named)


def prompts(who: PresenterModels) -> list[PreparedPrompt]:
    """The user's prompts, else cells of the first model's grid alternating with values outside it."""
    by_hand = prompt_suggestions.load_presenter_prompts(cache.shared_files())
    if by_hand:
        return [PreparedPrompt(text, text, {}) for text in by_hand]
    return _of_grid(prompt_formats.prompt_format_of(who.first)) or _of_grid(prompt_formats.preset_format())


def _of_grid(prompt_format: PromptFormat) -> list[PreparedPrompt]:
    """Some cells of the grid, alternating with all values outside it."""
    outside, found = prompt_formats.outside_values(prompt_format), []
    for number in range(_CELLS + len(outside)):
        values = prompt_suggestions.nth_prompt(prompt_format.columns, outside, number)
        text = prompt_format.prompt(values)
        if text:
            title = " · ".join(value for value in values.values() if value)
            found.append(PreparedPrompt(title, text, values, tuple(values.values()) in outside))
    return list({prompt.text: prompt for prompt in found}.values())


def order(who: PresenterModels, prompt: PreparedPrompt, *, blind: bool = False) -> StoryRequest:
    """Every model gets the prompt in its own format, with its own stop. `blind`: hide the names of several models."""
    first = prompt_formats.prompt_format_of(who.first)
    entries = []
    for info in who.writing:
        prompt_format = prompt_formats.prompt_format_of(info)
        prompt_text = prompt_formats.prompt_for(prompt_format, first, prompt.values, prompt.text)
        request = CompletionRequest(
            model=info.id,
            prompt=prompt_text if prompt.values else prompt_text + prompt_format.separator,
            system=prompt_format.system,
            endpoint=prompt_format.endpoint or cache.endpoint_of(info),
            temperature=prompt_format.sampling.temperature,
            top_p=prompt_format.sampling.top_p,
            max_tokens=prompt_format.sampling.max_tokens,
            stop=prompt_format.stop,
        )
        entries.append(RoundEntry(info.provider, request, dict(prompt.values) or None))
    return StoryRequest(tuple(entries), blind=blind and len(entries) > 1)


def prompt_editor() -> None:
    """Render the editor for your own prompts, which all presenters of this studio share."""
    saved = prompt_suggestions.load_presenter_prompts(cache.shared_files())
    st.text_area(
        _("One prompt per line"), "\n".join(saved), height=120, key="presenter_prompts",
        help=_("If empty: values in the grid and outside it."),
    )  # fmt: skip
    st.button(_("Save"), key="presenter_keep", on_click=_keep)


def _keep() -> None:
    with cards.keep_errors():
        lines = str(state.get("presenter_prompts") or "").splitlines()
        prompt_suggestions.save_presenter_prompts(cache.shared_files(), current_actor(), lines)


def paid_picker() -> None:
    """Render the picker for the model used in the cost comparison."""
    names = list(_paid_models())
    if names:
        st.selectbox(
            _("Compare the cost with"), names, key="presenter_paid", persist_state="session",
            format_func=lambda name: plain(name.partition("/")[2]),
        )  # fmt: skip


def paid_price() -> Price | None:
    """The price of the chosen paid model; None if the price list has none in dollars."""
    found = _paid_models()
    return found.get(str(state.get("presenter_paid"))) or next(iter(found.values()), None)


def _paid_models() -> dict[str, Price]:
    """Today's well-known models with a price in dollars, by provider and id, the usual one first."""
    rows = price_choice.rows(cache.prices(), [price_choice.TODAY])
    priced = [price for price in rows if price.currency == USD and price.output_per_mtok]
    return {f"{price.provider}/{price.model}": price for price in sorted(priced, key=lambda p: p.key != _PAID)}
