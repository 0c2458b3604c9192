"""What a story that failed, or was cut off, needs: buttons next to its error that do the next step."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import streamlit as st

from core import failures
from core.actor import LOCAL
from core.dataset import failed_rows
from core.errors import RateLimited
from core.failures import Failure, Remedy
from core.story import stream
from core.story.stream import Place, StoryStream
from pages.ui import cached, cards, failure_words, models, state
from pages.ui.lang import _, clock, label, number
from pages.ui.story.story_desk import LEAVE_S, desk

_WRITE_NOW = "story_write_now"  # set by a button that changes the model: the form is then written at once
_MOST_TOKENS = 32_768  # as the form's field


def show(story: StoryStream, number: int) -> None:
    """One row of buttons; nothing for a story that is whole, or that a person has stopped."""
    failure = _failure(story)
    if failure is None:
        return
    if isinstance(story.error, RateLimited) and story.error.retry_after_s and story.ended_at is not None:
        until = story.ended_at + timedelta(seconds=story.error.retry_after_s)
        st.caption(f":material/schedule: {_('Wait until {time}, then try again.').format(time=clock(until))}")
    with st.container(horizontal=True):
        for remedy in failures.REMEDIES[failure.cause]:
            _button(remedy, story, f"story_fix_{number}")


def asked_to_write() -> bool:
    """Whether a remedy has chosen another model and wants the form written now; once."""
    asked = bool(state.get(_WRITE_NOW))
    state.drop(_WRITE_NOW)
    return asked


def _failure(story: StoryStream) -> Failure | None:
    facts = story.facts
    if facts.stopped:
        return None
    if story.error is not None:
        return failures.of_error(story.error)
    if facts.finish_reason in ("stop", "unknown", None):
        return None if story.text.strip() else Failure("empty_answer")
    return failures.of_row(None, facts.finish_reason)


def _button(remedy: Remedy, story: StoryStream, key: str) -> None:
    if failure_words.page_button(remedy, key):
        return
    match remedy:
        case "try_again" | "wait":
            st.button(
                _("Try again"), icon=":material/replay:", key=f"{key}_again", on_click=_write_again, args=(story,)
            )
        case "raise_limit" if story.asked.max_tokens < _MOST_TOKENS:
            limit = min(failed_rows.higher_limit(story.asked.max_tokens), _MOST_TOKENS)
            label = _("Raise the limit to {limit} tokens and write again").format(limit=number(limit))
            st.button(
                label, icon=":material/replay:", key=f"{key}_limit", on_click=_write_again,
                args=(story, "max_tokens", limit),
            )  # fmt: skip
        case "lower_temperature" if (lower := failed_rows.lower_temperature(story.asked.temperature)) is not None:
            label = _("Lower the temperature to {value} and write again").format(value=number(lower, 2))
            st.button(
                label, icon=":material/replay:", key=f"{key}_cooler", on_click=_write_again,
                args=(story, "temperature", lower),
            )  # fmt: skip
        case "another_model":
            _another_model(story, key)


def _another_model(story: StoryStream, key: str) -> None:
    """Only where one model writes: the form's first one is what it changes."""
    round_ = desk().round
    others = [one for one in cached.models().found if (one.provider, one.id) != (story.provider, story.asked.model)]
    if not others or round_ is None or len(round_.stories) > 1:
        return
    other = min(others, key=lambda one: (one.provider != story.provider, one.id.startswith("ft:")))
    st.button(
        _("Write with {model}").format(model=label(models.label(other))),
        icon=":material/swap_horiz:",
        key=f"{key}_model",
        on_click=_choose,
        args=(f"{other.provider}/{other.id}",),
    )


def _choose(model: str) -> None:
    """Write with another model, through the form: the prompt that it wants may differ."""
    state.put("story_model", model)
    state.put(_WRITE_NOW, True)


def _write_again(story: StoryStream, field: str = "", value: float | None = None) -> None:
    """The same request once more, in the story's place in the round; with another setting, which the form keeps."""
    request = story.asked
    if field:
        request = replace(request, **{field: value})
        state.put(f"story_{field}", value)
    with cards.errors_kept():
        round_ = desk().round
        if round_ is None or story not in round_.stories:
            return
        place = Place(story.place.round_id, story.place.step, story.place.column_values)
        again = stream.write(
            cached.store(), LOCAL, cached.client(story.provider), request, cached.prices(),
            place=place, leave_s=LEAVE_S, news=round_.news,
        )  # fmt: skip
        round_.stories[round_.stories.index(story)] = again
