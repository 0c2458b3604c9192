"""Read aloud: by the browser while the story is written, or as audio from a speech endpoint."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import streamlit as st

from core.languages import CHINESE, ENGLISH, base_code
from core.pricing import budget
from core.pricing.price_book import speech_cost
from core.providers.registry import ENGINE
from core.providers.speech import Speech, SpeechRequest
from core.stories import read_aloud
from core.stories.read_aloud import parts
from core.stories.stream import StoryStream
from pages.ui import cache
from pages.ui.background import BackgroundIterator
from pages.ui.components import cards, views
from pages.ui.components.story_session import StorySound, story_session
from pages.ui.i18n import _, number, usd
from pages.ui.sign_in import current_actor

_SCRIPT = Path(__file__).with_name("components") / "speech.js"
_read_aloud: Any = st.components.v2.component("fabula_speech", js=_SCRIPT.read_text(encoding="utf-8"))
_VOICES = ["alloy", "ash", "coral", "echo", "fable", "nova", "onyx", "sage", "shimmer"]  # OpenAI's; others can be typed
_MODELS = ["tts-1", "tts-1-hd", "gpt-4o-mini-tts"]  # OpenAI's, those with a known price first; others can be typed


def follow(story: StoryStream, number: int, *, of_several: bool = False) -> None:
    """Render the switch, and the reader that follows the text of pane `number`, sentence by sentence."""
    with st.container(horizontal=True, vertical_alignment="center"):
        hint = _("If there are several stories, the first is read aloud.") if of_several else None
        on = st.toggle(_("Read aloud"), key="story_aloud", persist_state="session", help=hint)
        if story.done and story.text.strip():
            with st.popover(_("Download audio"), icon=":material/graphic_eq:", type="tertiary"):
                sound_file(story.id, story.text, "story_sound")
    if on:
        reader(story.id, f".st-key-story_words_{number} [data-testid='stText']", over=story.done)


def reader(story_id: str, target: str, *, over: bool) -> None:
    """Let the browser's voice read the element `target` (a CSS selector); `over`: whether the text is complete."""
    _read_aloud(
        key="story_reader",
        data={
            "story": story_id,
            "target": target,
            "over": over,
            "labels": {
                "pause": _("Pause"),
                "go_on": _("Resume"),
                "again": _("From the start"),
                "voice": _("Voice"),
                "rate": _("Speed"),
                "none": _(
                    "This browser has no voice to read with. Install one in your system's speech settings and reload "
                    "the page, open Fabula in another browser, or use Download audio."
                ),
                base_code(CHINESE): _(
                    "This browser has no Chinese voice. Install one in your system's speech settings and reload the "
                    "page, choose another voice, or use Download audio."
                ),
                base_code(ENGLISH): _(
                    "This browser has no English voice. Install one in your system's speech settings and reload the "
                    "page, choose another voice, or use Download audio."
                ),
                "failed": _("The browser stopped reading. Press Resume, choose another voice, or use Download audio."),
            },
        },
    )


def sound_file(story_id: str, text: str, key: str) -> None:
    """Create audio of the text at a speech endpoint, to play and download."""
    providers = [name for name in cache.registry().ids() if name != ENGINE]
    if not providers:
        st.caption(_("To have stories read aloud by a provider, add one under Settings → Providers."))
        return
    provider = str(st.selectbox(_("Provider"), providers, key=f"{key}_provider"))
    model = str(st.selectbox(_("Model"), _MODELS, accept_new_options=True, key=f"{key}_model")).strip()
    _price(provider, model, text)
    voice = st.selectbox(_("Voice"), _VOICES, accept_new_options=True, key=f"{key}_voice")
    speed = st.slider(_("Speed"), 0.25, 4.0, 1.0, 0.05, key=f"{key}_speed")
    request = SpeechRequest(model=model, voice=str(voice), text=text, speed=float(speed))
    sound = story_session().sound
    if sound is not None and sound.subject != _subject(provider, request, story_id):
        sound = None
    reads = sound is not None and not sound.reading.done
    with views.one_of((True, False), reads):
        if sound is not None and reads:
            st.button(_("Stop"), icon=":material/stop:", key=f"{key}_stop", on_click=sound.reading.stop)
        elif sound is None or not sound.whole:
            label = _("Create audio") if sound is None or not sound.parts else _("Resume")
            st.button(
                label, icon=":material/graphic_eq:", key=f"{key}_make", on_click=_read,
                args=(provider, request, story_id),
            )  # fmt: skip
    if sound is not None:
        st.fragment(run_every=cache.POLL_S if reads else None)(_progress)(sound, reads)
        if not reads:
            _sound(sound, f"{story_id}.mp3", key)


def _read(provider: str, request: SpeechRequest, story_id: str) -> None:
    """Start or resume the audio, unless it is already running."""
    session = story_session()
    subject, earlier = _subject(provider, request, story_id), session.sound
    before: list[bytes] = []
    if earlier is not None and earlier.subject == subject:
        if not earlier.reading.done:  # double click
            return
        before = earlier.parts
    with cards.keep_errors():
        endpoint, store, book = Speech(cache.client(provider).provider), cache.store(), cache.prices()
        actor = current_actor()  # `make` runs in a thread

        def make(stop: threading.Event) -> Iterator[bytes]:
            done = len(before)
            return read_aloud.read_aloud(store, actor, endpoint, request, story_id, book, skip_parts=done, stop=stop)

        session.silence()
        total = len(parts(request.text))
        session.sound = StorySound(subject, total, before, BackgroundIterator(make, expected=total - len(before)))


def _subject(provider: str, request: SpeechRequest, story_id: str) -> str:
    return f"{story_id} {provider} {request.model} {request.voice} {request.speed} {hash(request.text)}"


def _progress(sound: StorySound, was_reading: bool) -> None:
    done = len(sound.parts)
    if was_reading and sound.reading.done:
        st.rerun()
    if not sound.reading.done:
        progress = _("{done} of {total}").format(done=number(done), total=number(sound.total))
        st.progress(done / max(1, sound.total), text=f"{_('Reading aloud')} · {progress}")


def _sound(sound: StorySound, file_name: str, key: str) -> None:
    """Render the audio so far, and why it is incomplete."""
    if sound.reading.error is not None:
        cards.error_card(sound.reading.error, f"{key}_ask_budget")
    if not sound.parts:
        return
    if not sound.whole:
        note = _("The audio is incomplete: {done} of {total} parts are ready. Resume creates only the rest.")
        st.caption(note.format(done=number(len(sound.parts)), total=number(sound.total)))
    audio = b"".join(sound.parts)
    st.audio(audio, format="audio/mpeg")
    st.download_button(
        _("Download"), audio, file_name, "audio/mpeg", icon=":material/download:",
        key=f"{key}_download", on_click="ignore",
    )  # fmt: skip


def _price(provider: str, model: str, text: str) -> None:
    """Render the cost, or what an unknown price means."""
    cost = speech_cost(cache.prices(), provider, model, text)
    if cost is not None:
        st.caption(_("Reading this story aloud costs about {cost}.").format(cost=usd(cost)))
    elif budget.remaining(cache.store(), current_actor()) is not None:
        st.caption(
            ":material/warning: "
            + _("This model's price is unknown and a budget applies, so the request would be blocked.")
            + " "
            + _("Set a price for reading aloud on the cost page, or choose another model.")
        )
    else:
        st.caption(_("The price of this model is unknown."))
