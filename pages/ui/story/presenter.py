"""Presenter mode: prepared prompts, one or two models in large type, their speed and cost, all by keyboard.

**Present** on the story page or the URL `/story?stage=1` opens it. The URL also contains what a reload needs: the
models (`&models=engine/storyteller,…`), the prompt (`&prompt=2`), its story, and the link of an audience. Sizes and
positions are in `components/presenter.css`, keys and full screen in `components/presenter.js`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from core.stories import arena
from core.stories.arena import Round
from pages.ui import state
from pages.ui.components import cards, models, story_text, views
from pages.ui.components.story_session import story_session
from pages.ui.i18n import _, code, plain
from pages.ui.story import arena_vote, audience, presenter_prompts, story_view
from pages.ui.story.audience import Audience
from pages.ui.story.presenter_pane import PresenterPane
from pages.ui.story.presenter_prompts import MOST_PANES, PreparedPrompt, PresenterModels

_IN_ADDRESS = "stage"
_PROMPT_IN_ADDRESS = "prompt"
_LISTED = 8  # prompts that fit next to the chosen one at 1024 × 768
_LONGEST_LABEL = 60  # maximum characters of a prompt on a button of the list
_PARTS = Path(__file__).with_name("components")
_presenter: Any = st.components.v2.component(
    "fabula_presenter",
    css=(_PARTS / "presenter.css").read_text(encoding="utf-8"),
    js=(_PARTS / "presenter.js").read_text(encoding="utf-8"),
    isolate_styles=False,  # its font sizes apply to the page while it is mounted
)


@dataclass
class Presentation:
    """One visitor's presentation: the number of the chosen prompt, and the newest stories per prompt text."""

    number: int = 0
    rounds: dict[str, Round] = field(default_factory=dict)
    audience: Audience = field(default_factory=Audience)
    opened: bool = False  # the URL has been read


def on() -> bool:
    """Whether the URL requests presenter mode."""
    return str(st.query_params.get(_IN_ADDRESS, "")) == "1"


def button() -> None:
    """Render the **Present** button of the story page."""
    st.button(_("Present"), icon=":material/slideshow:", key="story_present", on_click=_enter)


def show() -> None:
    """Render the whole screen. Bar and controls are fixed; only text scrolls."""
    with st.container(key="presenter"):
        _listen_to_keys()
        bar = st.container(key="presenter_bar", horizontal=True, vertical_alignment="center")
        middle = st.container(key="presenter_middle")
        controls = st.container(key="presenter_controls", horizontal=True, vertical_alignment="center")
    with bar:
        st.title(_("Fabula"), anchor=False, width="content")
        place = st.empty()
        writers = _settings()
        audience.settings(_presentation().audience, several_models=writers is not None and writers.second is not None)
        _help()
        st.button(_("Full screen"), icon=":material/fullscreen:", key="presenter_full", type="tertiary")
        st.button(_("Leave"), icon=":material/close:", key="presenter_leave", type="tertiary", on_click=_leave)
    with middle, cards.show_errors():
        cards.show_last_action()
        if writers is None:
            models.none_yet()
        else:
            place.caption(_model_names(writers))
            _present(writers, controls)


def _present(writers: PresenterModels, controls: DeltaGenerator) -> None:
    """Render the chosen prompt or its stories, and the matching controls."""
    prompts, presentation = presenter_prompts.prompts(writers), _presentation()
    if not presentation.opened:
        presentation.opened = True
        _open(presentation, writers, prompts)
    presentation.number = min(presentation.number, len(prompts) - 1)
    _keep_in_address(presentation, writers)
    prompt = prompts[presentation.number]
    round_ = story_session().round if story_session().writing else presentation.rounds.get(prompt.text)
    with controls:
        _controls(prompts, writers, again=round_ is not None)
    kind = 0 if round_ is None else len(round_.stories)
    places = [st.container() if place == kind else st.empty() for place in range(1 + arena.MAX_PANES)]
    with places[kind]:  # a separate container for each, so that earlier content is cleared immediately
        if round_ is None:
            _invitation(prompts, presentation.number)
        else:
            is_own = round_ is presentation.rounds.get(prompt.text)  # and not a story started on the story page
            _stories(round_, prompt.title if is_own else round_.stories[0].original_request.prompt)


def _open(presentation: Presentation, writers: PresenterModels, prompts: Sequence[PreparedPrompt]) -> None:
    """After a reload: open the prompt in the URL, with its story."""
    named = str(st.query_params.get(_PROMPT_IN_ADDRESS, ""))
    if not named.isdecimal():
        return
    presentation.number = max(0, min(int(named), len(prompts)) - 1)
    prompt, round_ = prompts[presentation.number], story_session().round
    request = presenter_prompts.order(writers, prompt).entries[0].request
    if round_ is not None and round_.stories[0].original_request.prompt == request.prompt:
        presentation.rounds[prompt.text] = round_


def _keep_in_address(presentation: Presentation, writers: PresenterModels) -> None:
    state.keep_in_address(_PROMPT_IN_ADDRESS, str(presentation.number + 1))
    presenter_prompts.keep_in_address(writers)


def _presentation() -> Presentation:
    return state.get_or_create("presentation", Presentation)


def _settings() -> PresenterModels | None:
    with st.popover(_("Settings"), icon=":material/tune:", type="tertiary", key="presenter_settings"):
        writers = presenter_prompts.writers()
        presenter_prompts.paid_picker()
        presenter_prompts.prompt_editor()
    return writers


def _model_names(writers: PresenterModels) -> str:
    return " · ".join(code(models.label(info)) for info in writers.writing)


# --- without a story --------------------------------------------------------------------------------------------------


def _invitation(prompts: Sequence[PreparedPrompt], number: int) -> None:
    """Render the chosen prompt in large type, all prompts next to it, and the key to press; beside them the QR code."""
    prompt, guests = prompts[number], _presentation().audience
    left, right, *beside = st.columns([3, 2, 2] if guests.on else [3, 2], gap="large", vertical_alignment="center")
    for place in beside:
        with place, st.container(key="presenter_scan"):
            audience.invitation(guests)
    with left, st.container(key="presenter_prompt"):
        kind = _("Outside the grid") if prompt.outside else _("In the grid") if prompt.values else _("The prompt")
        st.caption(kind)
        title = views.shortened(prompt.title, _LONGEST_TITLE)
        st.markdown(f"# {plain(title)}", anchors=False)
        if prompt.text != title:
            st.text(prompt.text)
        st.caption(_("Press {key}: the model writes, word by word.").format(key=f"`{_('Space')}`"))
    with right, st.container(key="presenter_list", gap="xsmall"):
        first = max(0, min(number - _LISTED // 2, len(prompts) - _LISTED))
        for index, one in list(enumerate(prompts))[first : first + _LISTED]:
            st.button(
                plain(views.shortened(one.title, _LONGEST_LABEL)), key=f"presenter_choose_{index}", width="stretch",
                on_click=_choose, args=(index, one),
                icon=":material/arrow_right:" if index == number else ":material/explore:" if one.outside else None,
                type="secondary" if index == number else "tertiary", disabled=story_session().writing,
            )  # fmt: skip


# --- the controls -----------------------------------------------------------------------------------------------------


def _controls(prompts: Sequence[PreparedPrompt], writers: PresenterModels, *, again: bool) -> None:
    """Render prompts, the write or stop button, and the number of models."""
    session, number, count = story_session(), _presentation().number, len(prompts)
    before, after = (number - 1) % count, (number + 1) % count
    st.button(
        _("Previous"), icon=":material/arrow_back:", key="presenter_previous",
        on_click=_choose, args=(before, prompts[before]), disabled=session.writing,
    )  # fmt: skip
    st.markdown(f"{number + 1} / {count}", width="content")
    st.button(
        _("Next"), icon=":material/arrow_forward:", key="presenter_next",
        on_click=_choose, args=(after, prompts[after]), disabled=session.writing,
    )  # fmt: skip
    st.space("stretch")
    if session.stopping:
        st.button(_("Stopping…"), icon=":material/stop:", key="presenter_stopping", disabled=True)
    elif session.writing:
        st.button(f"{_('Stop')} `{_('Esc')}`", icon=":material/stop:", key="presenter_stop", on_click=session.stop)
    else:
        st.button(
            f"{_('Write again') if again else _('Write')} `{_('Space')}`", icon=":material/edit:", type="primary",
            key="presenter_write", on_click=_write, args=(writers,),
        )  # fmt: skip
    st.space("stretch")
    st.segmented_control(
        _("Models side by side"), list(range(1, MOST_PANES + 1)), required=True, key="presenter_panes",
        label_visibility="collapsed", disabled=session.writing or writers.second is None, persist_state="session",
    )  # fmt: skip


def _help() -> None:
    keys = {
        f"`{_('Space')}` `{_('Enter')}`": _("Write; when the story is done, write another"),
        "`Esc`": _("Stop writing, or leave if nothing is being written"),
        "`←` `→`": _("Previous prompt, next prompt"),
        "`1` `2`": _("One model, or two side by side"),
        "`F`": _("Full screen"),
        "`?`": _("This list"),
    }
    with st.popover(_("Keys"), icon=":material/keyboard:", type="tertiary", key="presenter_help"):
        st.markdown("\n".join(f"- {key}  {action}" for key, action in keys.items()))
        st.caption(_("The page keys of a presenter remote change the prompt. Stories are kept under Earlier stories."))


def _write(writers: PresenterModels) -> None:
    """Write with the current prompt and number of models: keys may be pressed faster than the page is rendered."""
    chosen = replace(writers, panes=presenter_prompts.panes())
    prompts, presentation, before = presenter_prompts.prompts(chosen), _presentation(), story_session().round
    prompt = prompts[min(presentation.number, len(prompts) - 1)]
    with cards.keep_errors():
        story_view.write(presenter_prompts.order(chosen, prompt, blind=presentation.audience.on))
    round_ = story_session().round
    if round_ is not None and round_ is not before:
        presentation.rounds[prompt.text] = round_


def _choose(number: int, prompt: PreparedPrompt) -> None:
    """Go to a prompt, and show the story that was written for it."""
    presentation = _presentation()
    presentation.number = number
    if (round_ := presentation.rounds.get(prompt.text)) is not None:
        story_session().round, story_session().chain = round_, None


def _enter() -> None:
    """Open presenter mode with the story page's models: one, or the first two of a comparison."""
    others = state.get("story_others") if state.get("story_compare") else None
    if others:
        state.set_value("presenter_second", others[0])
    state.set_value("presenter_panes", MOST_PANES if others else 1)
    st.query_params[_IN_ADDRESS] = "1"


def _leave() -> None:
    """Return to the story page, which continues to show a story that is being written."""
    for name in (_IN_ADDRESS, _PROMPT_IN_ADDRESS, presenter_prompts.MODELS_IN_ADDRESS, audience.IN_ADDRESS):
        st.query_params.pop(name, None)


def _listen_to_keys() -> None:
    """Bind keys to the buttons that do the same; enter full screen if a click has just allowed it."""
    _presenter(key="presenter_keys")


# --- stories ----------------------------------------------------------------------------------------------------------

_LONGEST_TITLE = 160  # characters of a prompt that leave room for the stories
_STORY_WIDTH, _VOTES_WIDTH = 4, 2  # shares of the screen


def _stories(round_: Round, title: str) -> None:
    """Render the stories of a round until they end."""
    with st.container(key="presenter_title"):
        st.markdown(f"## {plain(views.shortened(title, _LONGEST_TITLE))}", anchors=False)
    guests, count = _presentation().audience, len(round_.displayed)
    named = not round_.names_hidden or round_.id in guests.named or arena_vote.vote_of(round_)[0]
    votes = guests.on and round_.blind and count > 1
    panes = []
    with st.container(key="presenter_stories"):
        columns = st.columns([_STORY_WIDTH] * count + [_VOTES_WIDTH] * votes, gap="large")
        for place in range(count):
            with columns[place]:
                letter = arena_vote.letter(round_, place) if count > 1 else ""
                panes.append(
                    PresenterPane(round_.displayed[place], place, named=named, letter=letter, several=count > 1)
                )
        if votes:
            with columns[-1], st.container(key="presenter_votes"):
                audience.invitation(guests)
                beside = st.container()
    story_text.read_along(panes, round_)
    if votes:
        with beside:
            audience.votes(guests, round_)
