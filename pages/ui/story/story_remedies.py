"""Remedies for a story that failed or was cut off: buttons next to its error.

A story of a round is rewritten in its pane; a different model is used through the form, because it may need a different
prompt. A step of a chain is rewritten in the chain, which then continues from there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal

import streamlit as st

from core import failures
from core.db.tables import utcnow
from core.errors import RateLimited
from core.failures import Failure, Remedy
from core.generation import runs
from core.providers import CompletionRequest, ModelInfo
from core.stories.chain import Chain, StepName
from core.stories.story_record import StoryPlacement
from core.stories.stream import StoryStream, StreamRequest
from pages.ui import cache, state, visible
from pages.ui.components import cards, failure_labels, models
from pages.ui.components.story_session import LEAVE_S, story_session
from pages.ui.i18n import _, clock, duration, label, number
from pages.ui.sign_in import current_actor

_WRITE_NOW = "story_write_now"  # set by a button that changes the model: the form is then submitted immediately
_MOST_TOKENS = 32_768  # the same as in the form
_COUNTDOWN_S = 1.0

_Setting = Literal["temperature", "max_tokens"]
"""A setting of a request that a remedy changes; the form has a field of the same name."""


@dataclass(frozen=True, slots=True)
class _Remedy:
    """How one story is rewritten.

    Attributes:
        key: prefix of its widget keys.
        again: repeats the request, with another value of one setting (None means unchanged).
        with_model: writes it with another model; None if not offered.
    """

    key: str
    again: Callable[[StoryStream, _Setting | None, float | None], None]
    with_model: Callable[[StoryStream, ModelInfo], None] | None


def show(story: StoryStream, number: int) -> None:
    """Render one row of buttons for a story of a round; nothing if it is complete or was stopped by a person."""
    round_ = story_session().round
    alone = round_ is not None and len(round_.stories) == 1
    _show(story, _Remedy(f"story_fix_{number}", _again_in_round, _through_the_form if alone else None))


def show_step(chain: Chain, name: StepName) -> None:
    """Render one row of buttons for a step of a chain, once the chain has ended."""
    if chain.done:

        def again(story: StoryStream, setting: _Setting | None, value: float | None) -> None:
            _again_in_chain(chain, name, _changed(story.original_request, setting, value), story.provider)
            if setting == "temperature" or (setting and name == "story"):  # an outline has its own limit
                state.set_value(f"story_{setting}", value)

        def with_model(story: StoryStream, info: ModelInfo) -> None:
            request = replace(story.original_request, model=info.id, endpoint=cache.endpoint_of(info))
            _again_in_chain(chain, name, request, info.provider)

        _show(chain.steps[name], _Remedy(f"story_fix_{name}", again, with_model))


def asked_to_write() -> bool:
    """Whether a remedy has chosen another model and requests submitting the form; True only once."""
    requested = bool(state.get(_WRITE_NOW))
    state.drop(_WRITE_NOW)
    return requested


def _show(story: StoryStream, rewrite: _Remedy) -> None:
    failure = _failure(story)
    if failure is None:
        return
    if (until := _retry_at(story)) is not None and story.id not in story_session().not_waited_for:
        st.fragment(run_every=_COUNTDOWN_S)(_countdown)(story, rewrite, until)
    with st.container(horizontal=True):
        for remedy in failures.REMEDIES[failure.cause]:
            _button(remedy, story, rewrite)


def _failure(story: StoryStream) -> Failure | None:
    facts = story.facts
    if facts.stopped:
        return None
    if story.error is not None:
        return failures.of_error(story.error)
    if facts.finish_reason in ("stop", "unknown", None):
        return None if story.text.strip() else Failure("empty_answer")
    return failures.of_row(None, facts.finish_reason)


def _retry_at(story: StoryStream) -> datetime | None:
    """The time until which the provider asked for no requests; None if none was given."""
    if not isinstance(story.error, RateLimited) or not story.error.retry_after_s or story.ended_at is None:
        return None
    return story.ended_at + timedelta(seconds=story.error.retry_after_s)


def _countdown(story: StoryStream, remedy: _Remedy, until: datetime) -> None:
    """Count down and retry while the page is open: without a visitor no story is written."""
    session, now = story_session(), utcnow()
    if story not in session.stories or session.writing:
        return
    if now >= until:
        remedy.again(story, None, None)
        st.rerun()
    words = _("Retries automatically at {time}, in {left}, while this page is open.").format(
        time=clock(until, now), left=duration((until - now).total_seconds())
    )
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption(f":material/schedule: {words}", width="content")
        if st.button(_("Don't wait"), icon=":material/timer_off:", type="tertiary", key=f"{remedy.key}_no_wait"):
            session.not_waited_for.add(story.id)
            st.rerun()


def _button(remedy: Remedy, story: StoryStream, rewrite: _Remedy) -> None:
    if failure_labels.page_button(remedy, rewrite.key):
        return
    match remedy:
        case "try_again" | "wait":
            st.button(
                _("Try again"), icon=":material/replay:", key=f"{rewrite.key}_again", on_click=rewrite.again,
                args=(story, None, None),
            )  # fmt: skip
        case "raise_limit" if story.original_request.max_tokens < _MOST_TOKENS:
            limit = min(runs.higher_limit(story.original_request.max_tokens), _MOST_TOKENS)
            label = _("Raise the limit to {limit} tokens and write again").format(limit=number(limit))
            st.button(
                label, icon=":material/replay:", key=f"{rewrite.key}_limit", on_click=rewrite.again,
                args=(story, "max_tokens", limit),
            )  # fmt: skip
        case "lower_temperature" if (lower := runs.lower_temperature(story.original_request.temperature)) is not None:
            label = _("Lower the temperature to {value} and write again").format(value=number(lower, 2))
            st.button(
                label, icon=":material/replay:", key=f"{rewrite.key}_cooler", on_click=rewrite.again,
                args=(story, "temperature", lower),
            )  # fmt: skip
        case "another_model":
            _another_model(story, rewrite)


def _another_model(story: StoryStream, remedy: _Remedy) -> None:
    others = [
        one
        for one in visible.models().found
        if (one.provider, one.id) != (story.provider, story.original_request.model)
    ]
    if not others or remedy.with_model is None:
        return
    other = min(others, key=lambda one: (one.provider != story.provider, one.id.startswith("ft:")))
    st.button(
        _("Write with {model}").format(model=label(models.label(other))),
        icon=":material/swap_horiz:",
        key=f"{remedy.key}_model",
        on_click=remedy.with_model,
        args=(story, other),
    )


def _through_the_form(story: StoryStream, info: ModelInfo) -> None:
    """Write with another model, through the form, because its prompt format may differ."""
    state.set_value("story_model", f"{info.provider}/{info.id}")
    state.set_value(_WRITE_NOW, True)


def _again_in_round(story: StoryStream, setting: _Setting | None, value: float | None) -> None:
    """Repeat the request in the story's place in the round, with a changed setting, which the form keeps."""
    if setting:
        state.set_value(f"story_{setting}", value)
    with cards.keep_errors():
        round_ = story_session().round
        if round_ is None or story not in round_.stories:
            return
        place = StoryPlacement(story.placement.round_id, story.placement.step, story.placement.column_values)
        again = StoryStream(current_actor(), StreamRequest(
            cache.store(), cache.client(story.provider), _changed(story.original_request, setting, value),
            cache.prices(), placement=place, idle_timeout_s=LEAVE_S, subscribers=round_.subscribers,
        ))  # fmt: skip
        round_.stories[round_.stories.index(story)] = again


def _again_in_chain(chain: Chain, name: StepName, request: CompletionRequest, provider: str) -> None:
    with cards.keep_errors():
        chain.retry(name, request, cache.client(provider))


def _changed(request: CompletionRequest, setting: _Setting | None, value: float | None) -> CompletionRequest:
    if setting is None or value is None:
        return request
    return replace(request, temperature=value) if setting == "temperature" else replace(request, max_tokens=int(value))
