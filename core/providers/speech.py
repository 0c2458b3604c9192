"""Text to speech: OpenAI's `/audio/speech` and compatible endpoints."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Literal

import httpx2

from core.errors import BadRequest, NotThere
from core.message import msg
from core.providers.connection import Connection, call_until
from core.providers.provider_errors import error_object
from core.providers.response_parser import error_in_answer, parsed

AudioFormat = Literal["mp3", "wav", "opus", "flac", "aac"]
Offer = Literal["none", "refused", "answered"]
_NO_SUCH_PATH = frozenset({404, 405, 501})
MAX_CHARACTERS = 4_096  # OpenAI's API reference, "Create speech": the maximum length of `input`


@dataclass(frozen=True, slots=True)
class SpeechRequest:
    """One text to read aloud. `speed` is 0.25 to 4; 1 is normal."""

    model: str
    voice: str
    text: str
    audio_format: AudioFormat = "mp3"
    speed: float = 1.0


class Speech(Connection):
    """The text-to-speech call."""

    def speak(self, request: SpeechRequest, stop: threading.Event | None = None) -> bytes:
        """Return audio of the text in the requested format. Retries on `RateLimited` and `Unavailable`, unless an
        attempt may be billed. Setting `stop` cancels the request at any time.

        Raises:
            RateLimited, Unavailable, Refused, BadRequest, ModelNotFound: see `core.errors`.
            Cancelled: it was stopped.
        """
        if not request.text.strip() or len(request.text) > MAX_CHARACTERS:
            raise BadRequest(
                msg("{count} characters are too many to read aloud at once.", count=f"{len(request.text):,}"),
                msg("Send 1 to {maximum}.", maximum=f"{MAX_CHARACTERS:,}"),
            )

        return call_until(
            stop or threading.Event(), lambda: self._with_paid_retries_async(lambda: self._speak(request))
        )

    def offer(self) -> Offer:
        """Check whether the endpoint offers text to speech, with a request that lacks model and text.

        Returns:
            `refused`: it does, and it refused the request as it should; `answered`: it sent a response, which may be
            billed; `none`: it does not.

        Raises:
            ProviderError: cannot be determined now (no connection, a rejected key).
        """
        try:
            self._once(lambda: self._sdk().post("/audio/speech", cast_to=httpx2.Response, body={}))
        except NotThere:
            return "none"
        except BadRequest as exc:
            return "none" if getattr(exc.__cause__, "status_code", 400) in _NO_SUCH_PATH else "refused"
        return "answered"

    async def _speak(self, request: SpeechRequest) -> bytes:
        """Make one attempt."""
        answer = await self._async_sdk().audio.speech.create(
            model=request.model,
            voice=request.voice,
            input=request.text,
            response_format=request.audio_format,
            speed=request.speed,
        )
        audio = await answer.aread()
        if not audio or "json" in answer.response.headers.get("content-type", ""):
            self._raise_error_in(audio)
            error = BadRequest(
                msg("{name} returned no audio.", name=self.provider.name), msg("Check the model and the voice.")
            )
            error.may_be_billed = True  # the request was processed
            raise error
        return audio

    def _raise_error_in(self, body: bytes) -> None:
        """Raise the error in a JSON body with HTTP 200."""
        try:
            error = error_object(parsed(body))
        except ValueError:
            return
        if error is not None:
            raise error_in_answer(error, self.provider)
