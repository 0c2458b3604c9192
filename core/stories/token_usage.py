"""Tokens that a story has used so far, counted here until the endpoint reports them. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from core.pricing import tokens
from core.stories.story_facts import StoryFacts


@dataclass(frozen=True, slots=True)
class StoryUsage:
    """Tokens of one request. `counted_locally`: at least one number was counted here, not by the endpoint."""

    prompt_tokens: int
    completion_tokens: int
    counted_locally: bool


def usage(facts: StoryFacts, prompt: str, text: str) -> StoryUsage:
    """The endpoint's numbers if known, otherwise tokens counted from `prompt` and the `text` so far."""
    prompt_tokens = facts.prompt_tokens
    completion_tokens = None if facts.counted_locally else facts.tokens
    return StoryUsage(
        prompt_tokens=tokens.count([prompt], facts.model).tokens if prompt_tokens is None else prompt_tokens,
        completion_tokens=tokens.count([text], facts.model).tokens if completion_tokens is None else completion_tokens,
        counted_locally=prompt_tokens is None or completion_tokens is None,
    )
