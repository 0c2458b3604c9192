"""One story of presenter mode: its words, and below them its speed and cost while it is written."""

from __future__ import annotations

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from core.providers.registry import ENGINE
from core.stories.story_record import StoryUsage, count_usage
from core.stories.stream import StoryStream
from pages.ui import cache
from pages.ui.components import cards, shutdown_notes, story_text, views
from pages.ui.components.money import cost_fact, local_price
from pages.ui.components.story_text import LiveStory
from pages.ui.i18n import _, code, n_, token_speed, usd
from pages.ui.story import presenter_prompts

_FACTS_EVERY = 4  # updates: twice a second; numbers that change more often cannot be read


class PresenterPane(LiveStory):
    """The pane of one story. `letter`: its name in a blind round; "" in others."""

    def __init__(self, story: StoryStream, at: int, *, named: bool, letter: str, several: bool) -> None:
        super().__init__(story, facts_every=_FACTS_EVERY)
        self._named, self._letter = named, letter
        with st.container(key=f"presenter_pane_{at}_{'half' if several else 'whole'}", gap="small"):
            with st.container(key=f"presenter_words_{at}"):
                self._words = story_text.draw_text(st, story)
                self._trouble: DeltaGenerator = st.empty()
            with st.container(key=f"presenter_facts_{at}"):
                self._facts: DeltaGenerator = st.markdown(self._numbers())

    def _draw_facts(self) -> None:
        self._facts.markdown(self._numbers())

    def _numbers(self) -> str:
        story = self.story
        used = count_usage(story.facts, story.original_request.prompt, story.text)
        notice = shutdown_notes.notice_of(story.provider, story.facts.requested_model or story.facts.model)
        model = [f"**{code(story.facts.model)}**", "" if notice is None else shutdown_notes.words(notice)]
        name = " · ".join(part for part in (self._letter, *(model if self._named else ())) if part)
        lines = [_speed(story, used, name)]
        if self._named and story.text:
            lines.append(_cost(story, used))
        return "\n\n".join(lines)

    def finish(self) -> None:
        """Render how the story ended."""
        super().finish()
        with self._trouble.container():
            if self._named:
                views.parameter_notes(self.story.notes)
                if self.story.error is not None:
                    cards.error_card(self.story.error)


def _speed(story: StoryStream, used: StoryUsage, name: str) -> str:
    """Name, speed and tokens so far; at the end the finish reason."""
    facts = story.facts
    tokens = n_("{n} token", "{n} tokens", used.completion_tokens) if story.text else ""
    parts = [
        name,
        f"**{token_speed(facts.tokens_per_s)}**" if facts.tokens_per_s else "",
        _("about {tokens}").format(tokens=tokens) if tokens and used.counted_locally else tokens,
        story_text.ending_of(facts) if story.done else "",
    ]
    return " · ".join(part for part in parts if part) or _("Writing…")


def _cost(story: StoryStream, used: StoryUsage) -> str:
    """What this story costs so far, and what the same tokens would cost with a paid model."""
    facts, tokens = story.facts, (used.prompt_tokens, used.completion_tokens)
    if story.provider == ENGINE:
        own_price = local_price(facts.duration_s)
    else:
        price = cache.prices().find(story.provider, facts.model)
        running = price.call(*tokens) if price is not None and price.currency == "USD" else None
        own_price = cost_fact(story.provider, running if facts.cost_usd is None else facts.cost_usd, None)
    paid = presenter_prompts.paid_price()
    other_cost = paid.call(*tokens) if paid is not None else None
    if paid is None or other_cost is None:
        return f"**{own_price}**"
    other = _("{model} would cost {cost} for the same tokens (list price of {day})").format(
        model=code(paid.model),
        cost=f"**{usd(other_cost)}**",
        day=f"{paid.checked:%Y-%m-%d}",
    )
    return f"**{own_price}** · {other}"
