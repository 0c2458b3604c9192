"""Names of the packaged models: the base model, and the writers that were fine-tuned from it.

The engine serves them (`core.engine.api.models`), and `data.storyteller.make` builds the writers. Nothing here reads a
file.
"""

from __future__ import annotations

from collections.abc import Mapping

from core.languages import CHINESE, ENGLISH

BASE = "gemma-3-270m"
"""The base model; see `core.engine.formats.weights` for its file."""
PARAMETERS = 268_098_176
"""Of the base model; speeds measured with it are scaled to other models by their parameters."""
WIDTH = 640
"""Its hidden size."""
CONTEXT = 32_768
"""Longest text that the base model can read, in tokens."""
WRITERS: Mapping[str, str] = {"storyteller": CHINESE, "storyteller-en": ENGLISH}
"""Writer → language of the presets it was trained on. The first one is the default."""


def scaled_speed(packaged: float | None, parameters: int) -> float | None:
    """The expected speed of a model in tokens per second, from the packaged base's measured speed: it is inversely
    proportional to the number of parameters. None if either is unknown.
    """
    return packaged * PARAMETERS / parameters if packaged and parameters else None


def writer(language: str) -> str:
    """The packaged writer for a language.

    >>> writer("en")
    'storyteller-en'

    Raises:
        KeyError: there is none for this language.
    """
    return {code: name for name, code in WRITERS.items()}[language]
