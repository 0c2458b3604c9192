"""A whole story read aloud by an endpoint, part by part, and kept in the ledger as what it cost."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from core.actor import Actor
from core.cost.price_book import PriceBook, speech_cost
from core.cost.reservation import Reservation
from core.db.store import Store
from core.errors import FabulaError, Refused
from core.message import msg
from core.providers.speech import Speech, SpeechRequest
from core.story.sentences import parts


def read_aloud(
    store: Store,
    actor: Actor,
    speech: Speech,
    request: SpeechRequest,
    story_id: str,
    book: PriceBook,
    *,
    done: int = 0,
    stop: threading.Event | None = None,
) -> Iterator[bytes]:
    """The sound of `request.text`, in parts that can be put behind one another (MP3, AAC, and Opus players take that).

    Args:
        done: how many parts there are already, from a reading that ended early: they are not bought again.
        stop: ends the reading, in every state of its request, as soon as it is set.

    Each part is reserved before it is sent. One that fails and may be billed all the same stays in the ledger as an
    unknown cost, which counts with its worst case. What costs an unknown amount (models that are paid by the second of
    sound, which no endpoint counts out) is refused while a budget applies.

    Raises:
        OverBudget: it would go over a budget. Refused: a viewer. FabulaError: nothing to read; ProviderError: see
            `Speech`. Cancelled: it was stopped.
    """
    found = parts(request.text)
    if not found:
        raise FabulaError(msg("There is nothing to read aloud."), msg("Write a story first."))
    if actor.role == "viewer":
        raise Refused(
            msg("Visitors cannot have a story read aloud by a paid model."), msg("Use the browser's own voice.")
        )
    for part in found[done:]:
        cost = speech_cost(book, speech.provider.id, request.model, part)
        bought = Reservation(
            store, actor, "story", provider=speech.provider.id, model=request.model, reference=story_id, worst_usd=cost
        )
        yield bought.call(partial(speech.speak, replace(request, text=part), stop))
