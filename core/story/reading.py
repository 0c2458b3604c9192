"""A whole story read aloud by an endpoint, part by part, and kept in the ledger as what it cost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from core.actor import Actor
from core.cost import budget, spend
from core.db.store import Store
from core.errors import FabulaError, Refused
from core.providers.speech import Speech, SpeechRequest
from core.story.sentences import parts


def read_aloud(store: Store, actor: Actor, speech: Speech, request: SpeechRequest, story_id: str) -> Iterator[bytes]:
    """The sound of `request.text`, in parts that can be put behind one another (MP3, AAC, and Opus players take that).

    What it costs is unknown (no price of speech is in the book), so it is refused while a budget applies.

    Raises:
        OverBudget: there is a budget. Refused: a viewer. FabulaError: nothing to read; ProviderError: see `Speech`.
    """
    found = parts(request.text)
    if not found:
        raise FabulaError("There is nothing to read aloud.", "Write a story first.")
    if actor.role == "viewer":
        raise Refused("Visitors cannot have a story read aloud by a paid model.", "Use the browser's own voice.")
    for part in found:
        with store.session() as session:
            budget.check(session, actor, None, story_id)
        sound = speech.speak(replace(request, text=part))
        with store.session() as session:
            spend.record(
                session, actor, "story", provider=speech.provider.id, model=request.model, reference=story_id,
                prompt_tokens=None, cost_usd=None,
            )  # fmt: skip
        yield sound
