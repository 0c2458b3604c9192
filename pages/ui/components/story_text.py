"""The text of a story on a page, re-rendered while it is written; one line of facts; why it ended, in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from streamlit.delta_generator import DeltaGenerator

from core.stories import arena
from core.stories.arena import Round
from core.stories.story_record import StoryFacts
from core.stories.stream import StoryStream
from pages.ui.components import shutdown_notes
from pages.ui.components.money import cost_fact
from pages.ui.i18n import _, code, mark, n_, number, token_speed

_ENDINGS = {
    "stop": mark("complete"),
    "length": mark("stopped at the token limit"),
    "content_filter": mark("cut by the provider's content filter"),
    "refusal": mark("the model refused"),
    "error": mark("ended by an error at the provider"),
    "unknown": mark("possibly incomplete: the provider gave no finish reason"),
}


def line(facts: StoryFacts, provider: str, *, writing: bool, named: bool = True) -> str:
    """The known facts, separated by dots; `named` False hides the model."""
    if not named:
        return _("Writing…") if writing else (ending_of(facts))
    tokens = n_("{n} token", "{n} tokens", facts.tokens) if facts.tokens else ""
    notice = shutdown_notes.notice_of(provider, facts.requested_model or facts.model)
    parts = [
        code(facts.model),
        "" if notice is None else shutdown_notes.words(notice),
        _("first words after {seconds} s").format(seconds=number(facts.first_text_s, 1)) if facts.first_text_s else "",
        token_speed(facts.tokens_per_s) if facts.tokens_per_s else "",
        _("about {tokens}").format(tokens=tokens) if tokens and facts.counted_locally else tokens,
        "" if writing else cost_fact(provider, facts.cost_usd, _seconds(facts)),
        "" if writing else ending_of(facts),
    ]
    return " · ".join(part for part in parts if part)


def _seconds(facts: StoryFacts) -> float | None:
    """Duration of the request, from sending to the last text; None if unknown."""
    if facts.first_text_s is None or not facts.tokens or not facts.tokens_per_s:
        return facts.first_text_s
    return facts.first_text_s + facts.tokens / facts.tokens_per_s


def ending_of(facts: StoryFacts) -> str:
    """Why the story ended, or who stopped it."""
    has_text = facts.first_text_s is not None
    if facts.abandoned:
        kept = _("stopped because you left the page; the text so far is kept")
        return kept if has_text else _("stopped because you left the page")
    if facts.stopped:
        return _("stopped; the text so far is kept") if has_text else _("stopped before the first word")
    if facts.finish_reason is None and not has_text:
        return ""  # there is no text: the error gives the reason
    return ending(facts.finish_reason)


def ending(finish_reason: str | None) -> str:
    """Why a story ended, in words; None if the connection ended before the provider gave one."""
    if finish_reason is None:
        return _("interrupted; the text so far is kept")
    return _(_ENDINGS[finish_reason]) if finish_reason in _ENDINGS else code(finish_reason)


def partial(facts: StoryFacts) -> bool:
    """True if the model did not finish, so that the story can be continued."""
    return facts.finish_reason in (None, "length")


def other_model_note(facts: StoryFacts) -> str:
    """A note that a different model answered than the one requested."""
    return _("You requested {asked}, but the server reports that {model} wrote this.").format(
        asked=code(facts.requested_model), model=code(facts.model)
    )


class Place(Protocol):
    """Where a story's text is rendered: `st`, or the container that an earlier call of `draw_text` returned."""

    def text(self, body: str) -> DeltaGenerator: ...

    def markdown(self, body: str) -> DeltaGenerator: ...

    def empty(self) -> DeltaGenerator: ...


def draw_text(place: Place, story: StoryStream, *, none: str = "") -> DeltaGenerator:
    """Render the text so far, or why there is none; returns its container.

    Args:
        place: `st` for a new container, or the one that the first call returned. A new container is created with the
            text: an empty one would flicker on each re-render.
        story: the story to draw.
        none: shown if the story ended without text and without an error.
    """
    text = story.text.strip()
    if text:
        return place.text(text)
    if story.error is not None:
        return place.empty()  # its card gives the reason
    if story.done:
        return place.markdown(f":gray[{none or _('No text was written.')}]")
    return place.markdown(f":shimmer[{waiting(story)}]")


def waiting(story: StoryStream) -> str:
    """Why there is no text yet, in words."""
    if story.facts.has_thinking:
        return _("The model is thinking before it writes")
    return _("Waiting for the first word")


class LiveStory:
    """A story's text and its facts, re-rendered in place while it is written.

    A subclass renders both for the first time, and keeps the container of the text in `_words`.
    """

    _words: DeltaGenerator

    def __init__(self, story: StoryStream, *, facts_every: int = 1, none: str = "") -> None:
        """Args:
        story: the story.
        facts_every: updates of the text per update of the facts: numbers that change more often cannot be read.
        none: see `draw_text`.
        """
        self.story = story
        self._facts_every, self._none, self._drawn = facts_every, none, 1

    def draw(self) -> None:
        """Render the text so far, and the facts at every few updates."""
        draw_text(self._words, self.story, none=self._none)
        if self._drawn % self._facts_every == 0 or self.story.done:
            self.beat()
        self._drawn += 1

    def beat(self) -> None:
        """Update the facts, and whether the model is thinking; this also lets the script detect that the visitor has
        left.
        """
        if not self.story.text:
            draw_text(self._words, self.story, none=self._none)
        self._draw_facts()

    def finish(self) -> None:
        """Render how the story ended."""
        draw_text(self._words, self.story, none=self._none)
        self._draw_facts()

    def _draw_facts(self) -> None:
        raise NotImplementedError


def read_along(stories: Sequence[LiveStory], round_: Round) -> None:
    """Render the stories of a round to their end."""
    if not round_.done:
        for changed in arena.updates([one.story for one in stories], round_.subscribers):
            for index in changed:
                stories[index].draw()
            if not changed:
                for one in stories:
                    one.beat()
    for one in stories:
        one.finish()
