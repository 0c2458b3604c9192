"""Text read aloud by an endpoint: OpenAI's `/audio/speech`, and whatever speaks the same API."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Literal

from core.errors import BadRequest
from core.message import msg
from core.providers.background_loop import call_until
from core.providers.connection import Connection
from core.providers.provider_errors import error_object
from core.providers.response_parser import error_in_answer, parsed

AudioFormat = Literal["mp3", "wav", "opus", "flac", "aac"]
MOST_CHARACTERS = 4_096  # OpenAI's API reference, "Create speech": the maximum length of `input`


@dataclass(frozen=True, slots=True)
class SpeechRequest:
    """One text to be read aloud. `speed` is 0.25 to 4; 1 is as people speak."""

    model: str
    voice: str
    text: str
    audio_format: AudioFormat = "mp3"
    speed: float = 1.0


class Speech(Connection):
    """The one call that gives sound."""

    def speak(self, request: SpeechRequest, stop: threading.Event | None = None) -> bytes:
        """The text as sound, in the format that was asked for. Repeats on `RateLimited` and `Unavailable`, unless a try
        may be billed. `stop` ends the request in every state as soon as it is set.

        Raises:
            RateLimited, Unavailable, Refused, BadRequest, ModelNotFound: see `core.errors`.
            Cancelled: it was stopped.
        """
        if not request.text.strip() or len(request.text) > MOST_CHARACTERS:
            raise BadRequest(
                msg("{text} characters are too many to read aloud at once.", text=f"{len(request.text):,}"),
                msg("Send 1 to {value}.", value=f"{MOST_CHARACTERS:,}"),
            )

        return call_until(stop or threading.Event(), lambda: self._abought(lambda: self._speak(request)))

    async def _speak(self, request: SpeechRequest) -> bytes:
        """One try."""
        answer = await self._async_sdk().audio.speech.create(
            model=request.model,
            voice=request.voice,
            input=request.text,
            response_format=request.audio_format,
            speed=request.speed,
        )
        sound = await answer.aread()
        if not sound or "json" in answer.response.headers.get("content-type", ""):
            self._raise_error_in(sound)
            silence = BadRequest(
                msg("{name} answered with no sound.", name=self.provider.name), msg("Check the model and the voice.")
            )
            silence.may_be_billed = True  # it was carried out
            raise silence
        return sound

    def _raise_error_in(self, body: bytes) -> None:
        """An error inside HTTP 200 is that error, by its own code."""
        try:
            error = error_object(parsed(body))
        except ValueError:
            return
        if error is not None:
            raise error_in_answer(error, self.provider)
