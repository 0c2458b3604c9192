"""How many tokens a story has used so far, also before its endpoint has counted them. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from core.cost import tokens
from core.story.story_facts import StoryFacts


@dataclass(frozen=True, slots=True)
class StoryUsage:
    """Tokens of one request; `counted`: at least one of the two numbers is our own count, not the endpoint's."""

    prompt_tokens: int
    completion_tokens: int
    counted: bool


def usage(facts: StoryFacts, prompt: str, text: str) -> StoryUsage:
    """The endpoint's numbers where it has sent them; else `prompt` and the `text` so far, counted here."""
    read = facts.prompt_tokens
    written = None if facts.counted else facts.tokens
    return StoryUsage(
        prompt_tokens=tokens.count([prompt], facts.model).tokens if read is None else read,
        completion_tokens=tokens.count([text], facts.model).tokens if written is None else written,
        counted=read is None or written is None,
    )
