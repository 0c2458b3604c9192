"""Stage: one large, calm page for showing the studio to others. Prompts at the edge, the story in the middle.

`/story?stage=1&embed=true` leaves nothing else on the screen; `&models=engine/storyteller,engine/…` sets who writes.
"""

from __future__ import annotations

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from core.actor import LOCAL
from core.dataset import grid, presets
from core.providers import CompletionRequest, ModelInfo
from core.story import arena, prompts
from core.story.arena import MOST_PANES, Entry, Round
from core.story.stream import StoryStream
from pages.ui import cached, cards, models, parameter_notes, state
from pages.ui.lang import _, code, language, plain
from pages.ui.story import story_facts, story_model, teller
from pages.ui.story.story_desk import Order, desk

_MOST_TOKENS = 1_000
_TEMPERATURE = 0.7
_LONGEST_LABEL = 60  # characters of a prompt that a button can hold


def on() -> bool:
    """Whether the address asks for the stage."""
    return str(st.query_params.get("stage", "")) == "1"


def show() -> None:
    """The whole stage."""
    chosen = _models()
    if not chosen:
        models.none_yet()
        return
    st.space("medium")  # nothing else stands above it
    edge, middle = st.columns([1, 4], gap="large")
    with edge:
        _prompts(chosen)
    with middle:
        _stage(desk().round)


def _models() -> list[ModelInfo]:
    """Who writes: as the address says, else the storyteller or the newest tuned model."""
    found = {f"{info.provider}/{info.id}": info for info in cached.models().found}
    asked = [name.strip() for name in str(st.query_params.get("models", "")).split(",")]
    named = [found[name] for name in dict.fromkeys(asked) if name in found]
    if not named and found:
        usual = models.storyteller()
        named = [min(found.values(), key=lambda i: (i.id != usual, not i.id.startswith("ft:")))]
    return named[:MOST_PANES]


def _prompts(chosen: list[ModelInfo]) -> None:
    held = desk()
    for number, (label, prompt) in enumerate(_prepared()):
        st.button(
            plain(label if len(label) <= _LONGEST_LABEL else label[: _LONGEST_LABEL - 1] + "…"),
            key=f"story_stage_{number}",
            width="stretch",
            disabled=held.writing,
            on_click=teller.write,
            args=(_order(chosen, prompt),),
        )
    if held.stopping:
        st.button(_("Stopping…"), icon=":material/stop:", key="story_stage_stopping", disabled=True)
    elif held.writing:
        st.button(_("Stop"), icon=":material/stop:", key="story_stage_stop", on_click=held.stop)
    with st.popover(_("Prompts"), icon=":material/edit_note:", type="tertiary"):
        st.text_area(
            _("One prompt per line"), "\n".join(prompts.prepared(cached.settings().home)), height=240,
            key="story_stage_prompts",
        )  # fmt: skip
        st.button(_("Save"), key="story_stage_keep", on_click=_keep)
        st.link_button(_("Back to the studio"), "/story", icon=":material/arrow_back:")


def _prepared() -> list[tuple[str, str]]:
    """What stands on the buttons, and the prompts; without prepared ones, each preset's values outside its grid."""
    kept = prompts.prepared(cached.settings().home)
    if kept:
        return [(prompt, prompt) for prompt in kept]
    made = []
    for preset in presets.load():
        if preset.language != language():
            continue
        names = [column.name for column in preset.recipe.columns]
        for values in preset.outside:
            prompt = grid.render(preset.recipe.template, dict(zip(names, values, strict=True)))
            made.append((", ".join(values), prompt))
    return made


def _order(chosen: list[ModelInfo], prompt: str) -> Order:
    """Every model gets the prompt as it stands; a tuned one ends at its own stop."""
    entries = []
    for info in chosen:
        shape = story_model.shape_of(info)
        request = CompletionRequest(
            model=info.id,
            prompt=prompt + shape.separator,
            endpoint="completion" if shape.template is None else cached.endpoint_of(info),
            temperature=_TEMPERATURE,
            max_tokens=_MOST_TOKENS,
            stop=shape.stop,
        )
        entries.append(Entry(info.provider, request))
    return Order(tuple(entries))


def _stage(round_: Round | None) -> None:
    if round_ is None:
        st.markdown(f"## :gray[{_('Choose a prompt.')}]", anchors=False)
        return
    st.caption(plain(round_.stories[0].asked.prompt))
    places = []
    for story, column in zip(round_.stories, st.columns(len(round_.stories), gap="large"), strict=True):
        with column, st.container(border=False):
            places.append((story, st.empty(), st.empty()))
    for story, words, line in places:
        _large(story, words, line, several=len(places) > 1)
    if not round_.done:
        for changed in arena.updates(round_.stories, round_.news):
            for index in changed:
                _large(*places[index], several=len(places) > 1)
            if not changed:
                places[0][2].caption(code(places[0][0].facts.model))
    for story in round_.stories:
        parameter_notes.show(story.notes)
        if story.error is not None:
            cards.error_card(story.error)


def _large(story: StoryStream, words: DeltaGenerator, line: DeltaGenerator, *, several: bool) -> None:
    """The words in large type, each line text only."""
    text = story.text.strip()
    size = "###" if several else "##"
    lines = [f"{size} {plain(one)}" for one in text.splitlines() if one.strip()]
    words.markdown("\n\n".join(lines) or f"{size} :shimmer[{_('Waiting for the first word')}]", anchors=False)
    line.caption(story_facts.line(story.facts, story.provider, writing=not story.done))


def _keep() -> None:
    with cards.errors_kept():
        lines = str(state.get("story_stage_prompts") or "").splitlines()
        prompts.prepare(cached.settings().home, LOCAL, lines)
