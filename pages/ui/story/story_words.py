"""The text of a story on a page, while it arrives and afterwards."""

from __future__ import annotations

from typing import Protocol

from streamlit.delta_generator import DeltaGenerator

from core.stories.stream import StoryStream
from pages.ui.lang import _


class Place(Protocol):
    """Where a story's text is drawn: `st`, or the container that an earlier call of `draw` returned."""

    def text(self, body: str) -> DeltaGenerator: ...

    def markdown(self, body: str) -> DeltaGenerator: ...

    def empty(self) -> DeltaGenerator: ...


def draw(place: Place, story: StoryStream, *, none: str = "") -> DeltaGenerator:
    """Draw the text so far, or why there is none; returns its container.

    Args:
        place: `st` for a new container, or the one that the first call returned. A new container is created with the
            text: an empty one would flicker on each redraw.
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
