"""The stories of presenter mode, side by side in large type: text as it arrives, speed and cost."""

from __future__ import annotations

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from core.providers.registry import ENGINE
from core.stories.arena import Round
from core.stories.story_record import StoryUsage, count_usage
from core.stories.stream import StoryStream
from pages.ui import cache
from pages.ui.components import cards, story_text, views
from pages.ui.components.money import local_price
from pages.ui.components.story_text import LiveStory
from pages.ui.i18n import _, code, n_, plain, token_speed, usd
from pages.ui.story import arena_vote, presenter_prompts

LONGEST_TITLE = 160  # characters of a prompt that leave room for the stories
_FACTS_EVERY = 4  # updates: twice a second; numbers that change more often cannot be read


def show(round_: Round, title: str) -> None:
    """Draw the stories of a round until they end."""
    with st.container(key="presenter_title"):
        st.markdown(f"## {plain(views.shortened(title, LONGEST_TITLE))}", anchors=False)
    named = not round_.names_hidden or arena_vote.vote_of(round_)[0]
    panes = []
    with st.container(key="presenter_stories"):
        for place, column in enumerate(st.columns(len(round_.displayed), gap="large")):
            with column:
                panes.append(_Pane(round_.displayed[place], place, named=named, several=len(round_.displayed) > 1))
    story_text.read_along(panes, round_)


class _Pane(LiveStory):
    """The pane of one story."""

    def __init__(self, story: StoryStream, at: int, *, named: bool, several: bool) -> None:
        super().__init__(story, facts_every=_FACTS_EVERY)
        self._named = named
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
        lines = [_speed(story, used, named=self._named)]
        if self._named and story.text:
            lines.append(_cost(story, used))
        return "\n\n".join(lines)

    def finish(self) -> None:
        """Draw how the story ended."""
        super().finish()
        with self._trouble.container():
            if self._named:
                views.parameter_notes(self.story.notes)
                if self.story.error is not None:
                    cards.error_card(self.story.error)


def _speed(story: StoryStream, used: StoryUsage, *, named: bool) -> str:
    """Model, speed and tokens so far; at the end the finish reason."""
    facts = story.facts
    tokens = n_("{n} token", "{n} tokens", used.completion_tokens) if story.text else ""
    parts = [
        f"**{code(facts.model)}**" if named else "",
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
        own_price = usd(running if facts.cost_usd is None else facts.cost_usd)
    paid = presenter_prompts.paid_price()
    if paid is None:
        return f"**{own_price}**"
    other = _("{model} would cost {cost} for the same tokens (list price of {day})").format(
        model=code(paid.model),
        cost=f"**{usd(paid.call(*tokens))}**",
        day=f"{paid.checked:%Y-%m-%d}",
    )
    return f"**{own_price}** · {other}"
