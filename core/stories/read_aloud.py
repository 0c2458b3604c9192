"""Text to speech for a whole story, in parts of whole sentences, with the cost of each part in the spend ledger."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial

from core.actor import Actor, requires
from core.db.store import Store
from core.errors import FabulaError, StorageFull
from core.message import msg
from core.ownership import reads
from core.pricing.price_book import PriceBook, speech_cost
from core.pricing.spend import Reservation
from core.providers.speech import Speech, SpeechRequest

# Sentence end and closing quotes. A Latin full stop must be followed by white space, so that 3.5 is not split.
_END = re.compile(r"(?:[。！？!?…；]+[”’」』）)\"']*|\.+[”’\"')]*(?=\s)|\n)\s*")
MAX_SPEECH_CHARS = 4_000  # OpenAI's /audio/speech accepts 4,096 per request


def sentences(text: str, *, complete: bool = True) -> list[str]:
    """The sentences, stripped. For a text that is still being written (`complete=False`), only the finished ones."""
    parts_, start = [], 0
    for end in _END.finditer(text):
        parts_.append(text[start : end.end()])
        start = end.end()
    if complete:
        parts_.append(text[start:])
    return [sentence.strip() for sentence in parts_ if any(c.isalnum() for c in sentence)]


def parts(text: str, max_chars: int = MAX_SPEECH_CHARS) -> list[str]:
    """The text in as few parts of whole sentences as possible, each at most `max_chars` characters."""
    result: list[str] = []
    for sentence in sentences(text):
        pieces = [sentence[i : i + max_chars] for i in range(0, len(sentence), max_chars)]
        for piece in pieces:
            if result and len(result[-1]) + 1 + len(piece) <= max_chars:
                result[-1] += f" {piece}"
            else:
                result.append(piece)
    return result


@requires("editor")
@reads(story="story_id")
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
    cost and counts as its worst case. Models with unknown cost (billed per second of audio, which endpoints do not
    report) are refused while a budget applies.

    Args:
        skip_parts: number of parts that an earlier, interrupted call has delivered; they are not requested again.
        stop: stops the call as soon as it is set, at any point of a request.

    Raises:
        OverBudget: it would exceed a budget. NotAllowed: the actor is a viewer. FabulaError: there is no text.
        ProviderError: see `Speech`. Cancelled: it was stopped.
    """
    text_parts = parts(request.text)
    if not text_parts:
        raise FabulaError(msg("There is nothing to read aloud."), msg("Write a story first."))
    for part in text_parts[skip_parts:]:
        cost = speech_cost(book, speech.provider.id, request.model, part)
        reservation = Reservation(
            store, actor, "story", provider=speech.provider.id, model=request.model, reference=story_id, worst_usd=cost
        )
        sound = reservation.call(partial(speech.speak, replace(request, text=part), stop))
        with suppress(StorageFull):  # saved in a rescue file; the audio has been paid for, so it is delivered
            reservation.settle(0, 0, cost)  # billed by character: an entry without tokens would look unfinished
        yield sound
