"""Text to speech for a whole story, in parts, with the cost of each part in the spend ledger."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from core.actor import Actor
from core.db.store import Store
from core.errors import FabulaError, Refused
from core.message import msg
from core.pricing.price_book import PriceBook, speech_cost
from core.pricing.reservation import Reservation
from core.providers.speech import Speech, SpeechRequest
from core.stories.sentences import parts


def read_aloud(
    store: Store,
    actor: Actor,
    speech: Speech,
    request: SpeechRequest,
    story_id: str,
    book: PriceBook,
    *,
    skip_parts: int = 0,
    stop: threading.Event | None = None,
) -> Iterator[bytes]:
    """Audio of `request.text` in parts that can be concatenated (MP3, AAC and Opus players accept that).

    Each part is reserved before it is sent. A part that fails but may still be billed stays in the ledger as an unknown
    cost and counts with its worst case. Models with unknown cost (billed per second of audio, which endpoints do not
    report) are refused while a budget applies.

    Args:
        skip_parts: number of parts that an earlier, interrupted call has delivered; they are not requested again.
        stop: stops the call as soon as it is set, at any point of a request.

    Raises:
        OverBudget: it would exceed a budget. Refused: the actor is a viewer. FabulaError: there is no text.
        ProviderError: see `Speech`. Cancelled: it was stopped.
    """
    text_parts = parts(request.text)
    if not text_parts:
        raise FabulaError(msg("There is nothing to read aloud."), msg("Write a story first."))
    if actor.role == "viewer":
        raise Refused(
            msg("Visitors can't use a paid model to read stories aloud."), msg("Use the browser's own voice.")
        )
    for part in text_parts[skip_parts:]:
        cost = speech_cost(book, speech.provider.id, request.model, part)
        reservation = Reservation(
            store, actor, "story", provider=speech.provider.id, model=request.model, reference=story_id, worst_usd=cost
        )
        yield reservation.call(partial(speech.speak, replace(request, text=part), stop))
